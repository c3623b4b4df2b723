//! What hook and agent say to each other: one line of JSON each way, over a Unix socket.

use std::io;

use nv_types::{Workload, WorkloadId};
use serde::{Deserialize, Serialize};

/// Version of these messages.
pub(super) const VERSION: u32 = 1;
/// Longest line.
pub(super) const LONGEST: u64 = 1 << 20;
/// The name, as that of a runtime, of containers that only hooks tell of.
pub(crate) const OCI: &str = "oci";

/// What a hook says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    /// Version.
    pub(super) v: u32,
    /// What it wants.
    pub(super) ask: Wanted,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Wanted {
    /// This one is about to run; answer when its policy is in force.
    Hold {
        /// Who it is; its interfaces are the agent's to find.
        workload: Box<Workload>,
        /// How long the hook waits, in milliseconds.
        wait_ms: u64,
    },
    /// This one is over.
    Gone {
        /// Which.
        id: WorkloadId,
    },
}

/// What the agent answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reply {
    /// Version.
    pub(super) v: u32,
    /// Why not; `None`: it may run.
    pub(super) error: Option<String>,
    /// Interfaces that are guarded.
    pub(super) interfaces: usize,
}

/// A line as bytes.
pub(super) fn line<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}
