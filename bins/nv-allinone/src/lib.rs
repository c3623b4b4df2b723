//! Controller and agent of nv in one process, on the embedded store: the command that a newcomer starts.
//!
//! [`run`] protects what runs on this host: containers of Docker, containerd, CRI-O and Podman, and named network namespaces. [`demo`] makes a
//! small network of its own and plays a story on it. The process is split in two first (a guardian and a worker), so that even a
//! killed demo leaves nothing behind.
#![deny(unsafe_code)]

mod cli;
pub mod demo;
mod stack;
mod sys;

pub use cli::main;
pub use stack::{Config, Stack, run};
