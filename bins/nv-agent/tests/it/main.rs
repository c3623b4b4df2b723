//! The agent against a real controller, over real gRPC with mutual TLS. The software datapath stands for the kernel, so that none of this
//! needs root; containers come from a dockerd of the test's own that has only its API.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that cannot go on has failed"
)]
#![allow(unused_crate_dependencies, reason = "the package's other targets use them")]

mod away;
mod bed;
mod dockerd;
mod ends;
mod full;
mod join;
mod saved;
