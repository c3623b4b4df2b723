//! Controller and agent of nv in one process, on the embedded store: the command that a newcomer starts.
//!
//! [`run`] protects what runs on this host: containers of Docker, containerd, CRI-O and Podman, and named network namespaces. [`demo`] makes a
//! small network of its own and plays a story on it. The process is split in two first (a guardian and a worker), so that even a
//! killed demo leaves nothing behind.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use nv_allinone::{Config, Stack};
//! use tokio_util::sync::CancellationToken;
//!
//! let config = Config {
//!     controller: nv_controller::Config::default(),
//!     node: "here".parse()?,
//!     agent_listen: ([127, 0, 0, 1], 0).into(),
//!     pin_dir: "/sys/fs/bpf/nv/example".into(),
//!     runtimes: nv_runtime::DiscoverOptions::nothing(),
//! };
//! let stack = Stack::start(config, CancellationToken::new()).await?;
//! println!("REST on {}", stack.server());
//! stack.stop().await?; // what is in force stays
//! # Ok(())
//! # }
//! ```
#![deny(unsafe_code)]

mod cli;
pub mod demo;
mod stack;
mod sys;

pub use cli::main;
pub use stack::{Config, Stack, run};
