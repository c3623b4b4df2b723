//! Faults on purpose, on the real kernel with real traffic: programs taken away, an index that comes back as something else, floods.
//! `docs/faults.md` has the list, and what is seen with the guard switched off.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that cannot go on has failed"
)]
#![allow(
    unreachable_pub,
    dead_code,
    reason = "the modules of one test, some shared with others"
)]

#[path = "../common/mod.rs"]
mod common;
mod floods;
mod ground;
mod reuse;
#[path = "../evasion/sys.rs"]
mod sys;
mod tamper;
mod trace;
#[path = "../evasion/wire.rs"]
mod wire;
