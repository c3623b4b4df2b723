//! Images built by hand, frames, and network namespaces for the tests of both backends.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

pub mod bench;
pub mod frames;
pub mod image;
pub mod netns;
pub mod remote;
