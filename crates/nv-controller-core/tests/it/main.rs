//! The controller's brain from outside: requests, store changes and flow reports in; plans and answers out.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod accord;
mod files;
mod flows;
mod groups;
mod lab;
mod positions;
mod promotion;
mod properties;
mod questions;
mod rules;
mod store;
