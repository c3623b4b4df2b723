//! Where a workload runs: its process, control group, network namespace and interfaces.

use std::fs::File;
use std::path::PathBuf;

use nv_types::{Interface, Workload};

use crate::netns::{NetnsError, NetnsView, view_file};
use crate::process::Process;

/// What a runtime tells of the place.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hints {
    /// Process id, 0 for none.
    pub(crate) pid: u32,
    /// A file that the network namespace is mounted on, for workloads whose process cannot be looked at.
    pub(crate) path: Option<PathBuf>,
    /// A part of the control group's path that only this workload has.
    pub(crate) mark: String,
}

/// What was found there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    /// Inode of the network namespace, 0 if none could be read.
    pub(crate) netns: u64,
    /// It is our own.
    pub(crate) is_own: bool,
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) cgroup: String,
    /// When the process was started, nanoseconds since the host's start.
    pub(crate) started: Option<u64>,
    /// The process is in the workload's control group, so that it is certainly the workload's. If not, its id may have
    /// been used again since the runtime told it: the runtime must be asked once more.
    pub(crate) is_sure: bool,
}

/// Looks. A process that has vanished leaves its part empty: that is no error.
pub(crate) async fn look(hints: Hints) -> Place {
    let looked = tokio::task::spawn_blocking(move || look_blocking(&hints)).await;
    looked.unwrap_or_else(|error| {
        tracing::warn!(%error, "a namespace was not read");
        Place::default()
    })
}

fn look_blocking(hints: &Hints) -> Place {
    let mut place = Place::default();
    let mut found = None;
    if hints.pid != 0 {
        match Process::open(hints.pid) {
            Ok(process) => {
                place.cgroup = process.cgroup().unwrap_or_default();
                place.started = process.started().ok();
                place.is_sure = !hints.mark.is_empty() && place.cgroup.contains(&hints.mark);
                let path = PathBuf::from(format!("/proc/{}/ns/net", hints.pid));
                found = process
                    .netns()
                    .map_err(|source| NetnsError::Read {
                        path: path.clone(),
                        source,
                    })
                    .and_then(|file| view_file(file, path))
                    .map_err(|error| tracing::debug!(%error, "namespace not read: the process has ended"))
                    .ok();
            }
            Err(error) => tracing::debug!(pid = hints.pid, %error, "no such process"),
        }
    }
    let by_path = || {
        let path = hints.path.clone()?;
        let file = File::open(&path).ok()?;
        view_file(file, path).ok()
    };
    if let Some(NetnsView {
        inode,
        is_own,
        interfaces,
    }) = found.or_else(by_path)
    {
        place.netns = inode;
        place.is_own = is_own;
        place.interfaces = interfaces;
    }
    place
}

impl Place {
    /// Writes it into a workload; `shares_network`: the interfaces are another workload's, whose guard guards this one.
    pub(crate) fn put(self, workload: &mut Workload, shares_network: bool) {
        workload.netns = self.netns;
        workload.cgroup = self.cgroup;
        workload.host_network |= self.is_own;
        if !shares_network && !workload.host_network {
            workload.interfaces = self.interfaces;
        }
    }
}
