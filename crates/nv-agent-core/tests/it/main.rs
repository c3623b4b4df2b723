//! The agent's brain in a world of the tests' own: single stories, and random ones with delays and failures.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod clock;
mod endpoints;
mod lookback;
mod races;
mod shell;
mod simulation;
mod store;
mod world;
