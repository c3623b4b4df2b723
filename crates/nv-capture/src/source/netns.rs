//! Which network namespace, and whether it is still the workload's.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::SourceError;

/// How a network namespace is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetnsRef {
    /// The one of this process: the host's, for an agent.
    Own,
    /// By file, as in `/run/netns/web`.
    Path(PathBuf),
    /// The one of this process id.
    Pid(u32),
}

/// What to capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureTarget {
    /// Namespace.
    pub netns: NetnsRef,
    /// Inode that the namespace must have: guards against a process id or a name that was used again.
    pub inode: Option<u64>,
    /// One interface by name; `None` for all of the namespace but loopback.
    pub interface: Option<String>,
}

impl CaptureTarget {
    /// Every interface of a namespace.
    #[must_use]
    pub const fn netns(netns: NetnsRef) -> Self {
        Self {
            netns,
            inode: None,
            interface: None,
        }
    }

    /// One interface of this process's own namespace.
    #[must_use]
    pub fn host_interface(name: impl Into<String>) -> Self {
        Self {
            netns: NetnsRef::Own,
            inode: None,
            interface: Some(name.into()),
        }
    }
}

/// An opened namespace. An open socket keeps a namespace alive after its workload is gone, so somebody has to
/// look whether it is still the workload's.
#[derive(Debug)]
pub(super) struct Netns {
    path: PathBuf,
    /// `None` for this process's own.
    pub(super) file: Option<File>,
    identity: (u64, u64),
}

impl Netns {
    pub(super) fn open(target: &CaptureTarget) -> Result<Self, SourceError> {
        let path = match &target.netns {
            NetnsRef::Own => PathBuf::from("/proc/self/ns/net"),
            NetnsRef::Path(path) => path.clone(),
            NetnsRef::Pid(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
        };
        let failed = |source| SourceError::Netns {
            path: path.clone(),
            source,
        };
        let file = File::open(&path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if let Some(expected) = target.inode.filter(|inode| *inode != metadata.ino()) {
            return Err(SourceError::OtherNetns {
                path,
                expected,
                found: metadata.ino(),
            });
        }
        let identity = (metadata.dev(), metadata.ino());
        let file = (target.netns != NetnsRef::Own).then_some(file);
        Ok(Self { path, file, identity })
    }

    /// Whether the name still leads to the same namespace.
    pub(super) fn is_alive(&self) -> bool {
        self.file.is_none()
            || fs::metadata(&self.path)
                .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity)
    }
}
