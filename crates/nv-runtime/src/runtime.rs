//! The trait over container runtimes.

use std::collections::BTreeSet;

use async_trait::async_trait;
use nv_types::{NodeId, Timestamp, Workload, WorkloadId};
use tokio::sync::mpsc;

/// The kinds of event a runtime can tell of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// A container runs.
    Start,
    /// A container has ended.
    Stop,
    /// A container is gone.
    Delete,
    /// A running container looks other than before: it was connected to a network or disconnected from one, a container
    /// joined its pod, or a runtime that knows more of it was connected to.
    Change,
    /// Files were copied into a container.
    CopyIn,
    /// Files were copied out of a container.
    CopyOut,
    /// A network was made.
    NetworkCreate,
    /// A network was removed.
    NetworkDelete,
    /// The runtime cannot be reached; the monitor goes on trying.
    SocketError,
}

/// Something that a runtime told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeEvent {
    /// What happened.
    pub kind: EventKind,
    /// Container id, network id, or for a socket error what went wrong.
    pub subject: String,
    /// When, as the runtime says; the monitor's clock where it does not.
    pub at: Timestamp,
}

/// What a runtime is and can do.
///
/// A kind that is not among the capabilities never comes from this runtime: containerd and the CRI, for example, do not
/// tell of files copied or of networks. [`EventKind::SocketError`] is there where the connection can be lost; the
/// monitor tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeInfo {
    /// `docker`, `podman`, `containerd`, `cri-o`, `netns`.
    pub name: String,
    /// Version it reports.
    pub version: String,
    /// Socket or folder it is reached by.
    pub location: String,
    /// Kinds of event it can tell of.
    pub capabilities: BTreeSet<EventKind>,
}

/// A container runtime.
#[async_trait]
pub trait ContainerRuntime: Send + Sync + 'static {
    /// Its name, as [`Workload::runtime`] has it.
    fn name(&self) -> &'static str;

    /// What it is and can do.
    ///
    /// # Errors
    /// [`RuntimeError::Unreachable`] when it does not answer.
    async fn info(&self) -> Result<RuntimeInfo, RuntimeError>;

    /// Ids of the workloads that run.
    ///
    /// # Errors
    /// As [`ContainerRuntime::info`].
    async fn list(&self) -> Result<Vec<WorkloadId>, RuntimeError>;

    /// Everything about one workload, interfaces with their host ends included.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`] when it is gone.
    async fn inspect(&self, id: &WorkloadId, node: &NodeId) -> Result<Workload, RuntimeError>;

    /// Events from now on, until the connection ends: the channel then closes. Use a [`Monitor`](crate) for a stream
    /// that never ends.
    ///
    /// # Errors
    /// As [`ContainerRuntime::info`].
    async fn events(&self) -> Result<mpsc::Receiver<RuntimeEvent>, RuntimeError>;
}

/// Why a runtime call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The runtime does not answer.
    #[error("{runtime} at {location} does not answer: {detail}")]
    Unreachable {
        /// Which.
        runtime: &'static str,
        /// Socket or folder.
        location: String,
        /// What came back.
        detail: String,
    },
    /// No such workload.
    #[error("{runtime} has no workload {id}")]
    NotFound {
        /// Which.
        runtime: &'static str,
        /// Workload.
        id: String,
    },
    /// The runtime refused or answered nonsense.
    #[error("{runtime}: {action}: {detail}")]
    Failed {
        /// Which.
        runtime: &'static str,
        /// What was tried.
        action: String,
        /// What came back.
        detail: String,
    },
}
