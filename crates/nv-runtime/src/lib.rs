//! Container runtimes of a node: one trait, the runtimes behind it, and a monitor that never gives up.
//!
//! - [`DockerRuntime`] speaks to dockerd or Podman, [`ContainerdRuntime`] to containerd's own services, [`CriRuntime`] to
//!   CRI-O or any other runtime of Kubernetes, all over their Unix sockets; [`NetnsRuntime`] watches named network
//!   namespaces (`ip netns`). Each is a [`ContainerRuntime`].
//! - [`Monitor`] joins any number of them into one stream that does not end: a lost socket is told as an event,
//!   the connection is made again, and the consumer then sees exactly what changed in between. A container that
//!   several runtimes see is told once.
//! - [`netns`] reads the interfaces of a namespace with their host ends; [`links`] tells of new host ends as the
//!   kernel makes them, which is some 10 ms before a runtime's start event arrives.
//! - [`discover`] finds the runtimes of this host.
//!
//! What this crate must not do: decide anything. It says what runs and where its interfaces are.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use nv_runtime::{DiscoverOptions, Monitor, MonitorEvent, MonitorOptions, discover};
//! use tokio_util::sync::CancellationToken;
//!
//! let runtimes = discover(&DiscoverOptions::default());
//! let options = MonitorOptions::new("node-1".parse()?);
//! let mut events = Monitor::spawn(runtimes, options, CancellationToken::new());
//! while let Some(event) = events.recv().await {
//!     if let MonitorEvent::Runtime { event, workload: Some(workload), .. } = event {
//!         println!("{:?} {} of service {}", event.kind, workload.name, workload.service);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
#![deny(unsafe_code)]

mod clock;
mod containerd;
mod cri;
mod discover;
mod docker;
mod grpc;
mod ledger;
pub mod links;
mod monitor;
mod named;
mod names;
pub mod netns;
mod nl;
mod oci;
mod options;
mod place;
mod process;
mod proto;
mod runtime;
#[cfg(feature = "test-util")]
pub mod testing;

pub use containerd::ContainerdRuntime;
pub use cri::CriRuntime;
pub use discover::{DiscoverOptions, Location, discover};
pub use docker::DockerRuntime;
pub use links::{LinkEvent, LinkWatcher};
pub use monitor::{Monitor, MonitorEvent};
pub use named::NetnsRuntime;
pub use names::service_of;
pub use options::{MonitorOptions, MonitorStats};
pub use runtime::*;
