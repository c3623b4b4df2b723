//! Controller and agent in one process.
#![deny(unsafe_code)]
pub mod demo;
