//! Where packets come from.

mod afpacket;
mod file;
mod netns;

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

pub use afpacket::AfPacketSource;
pub use file::FileSource;
pub use netns::{CaptureTarget, NetnsRef};

use crate::{InterfaceInfo, Packet, ReadError};

/// Why a source failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The namespace could not be opened.
    #[error("cannot open network namespace {}", path.display())]
    Netns {
        /// Its file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The namespace is another one than was meant: a process id or a name that was used again.
    #[error("{} is network namespace {found}, not {expected}: the workload is gone", path.display())]
    OtherNetns {
        /// Its file.
        path: PathBuf,
        /// Inode wanted.
        expected: u64,
        /// Inode found.
        found: u64,
    },
    /// The interface does not exist there.
    #[error("no interface '{name}' in the network namespace")]
    NoInterface {
        /// Its name.
        name: String,
    },
    /// A system call failed.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A file that was read as a source is broken.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Whether there can be more packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceState {
    /// Yes.
    Open,
    /// No: the file is read, or the namespace or interface is gone. The words say which.
    Ended(&'static str),
}

/// Sums since the source was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceStats {
    /// Packets that came to the source, dropped ones included.
    pub received: u64,
    /// Packets that the kernel had to drop because the buffer was full.
    pub dropped: u64,
}

/// Takes one packet with its interface; says whether more are wanted.
pub type EachPacket<'a> = dyn FnMut(&Packet<'_>, &InterfaceInfo) -> ControlFlow<()> + 'a;

/// Gives packets.
pub trait PacketSource: Send {
    /// Waits at most `timeout` for packets and gives those that are there to `each`, which may break off; what was
    /// not given then comes with the next call. Interfaces are numbered from 0 in the order of their first packet.
    ///
    /// # Errors
    /// When the source is broken for good.
    fn poll(&mut self, timeout: Duration, each: &mut EachPacket<'_>) -> Result<SourceState, SourceError>;

    /// Sums.
    ///
    /// # Errors
    /// When the kernel does not tell.
    fn statistics(&mut self) -> Result<SourceStats, SourceError>;
}
