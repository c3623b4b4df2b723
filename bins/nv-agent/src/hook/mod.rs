//! Holding a container until its policy is in force.
//!
//! A runtime tells of a container some milliseconds after its first instruction. An OCI runtime calls hooks before it: with the container's
//! namespaces made and its network there, and its process waiting. The hook tells the agent who starts, the agent puts tables and interface in
//! force, and only then the hook ends and the process runs.
//!
//! Three ways lead here: `createRuntime` hooks of containerd and CRI-O run `nv-agent hook`, Docker runs `nv-agent runtime`, which stands before
//! the real runtime and holds at `start`, and `poststop` hooks tell the end of containers that no runtime daemon tells of.

mod client;
mod describe;
mod install;
mod server;
mod wire;
mod wrapper;

use std::path::PathBuf;
use std::time::Duration;

pub use client::{HookError, HookFail, HookOptions, hook};
pub use install::{Target, print_instructions};
pub use wrapper::run as run_runtime;

pub(crate) use server::{Ask, Holds, is_alive, serve};
pub(crate) use wire::OCI;

/// Where the agent listens for hooks.
const SOCKET: &str = "/run/nv/agent.sock";
/// How long a container waits at most.
pub(crate) const WAIT: Duration = Duration::from_secs(10);

pub(crate) fn default_socket() -> PathBuf {
    SOCKET.into()
}
