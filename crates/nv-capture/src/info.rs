//! What a capture is asked to do and what became of it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use nv_types::{Timestamp, WorkloadId};
use serde::{Deserialize, Serialize};

use crate::{CaptureTarget, Filter};

/// Number of a capture: 32 hexadecimal digits, random. The only part of a file's name that comes from outside,
/// which is why nothing else can be parsed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CaptureId([u8; 16]);

/// Text that is no capture id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a capture id: 32 lower-case hexadecimal digits are needed")]
pub struct InvalidCaptureId;

impl CaptureId {
    /// A new random one.
    ///
    /// # Errors
    /// When the system has no random numbers to give.
    pub(crate) fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
        Ok(Self(bytes))
    }
}

impl FromStr for CaptureId {
    type Err = InvalidCaptureId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(InvalidCaptureId),
        };
        let text: &[u8; 32] = text.as_bytes().try_into().map_err(|_| InvalidCaptureId)?;
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for CaptureId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CaptureId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for CaptureId {
    type Error = InvalidCaptureId;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<CaptureId> for String {
    fn from(id: CaptureId) -> Self {
        id.to_string()
    }
}

/// Where a capture stops by itself. Zero means the default, which is never "without limit" for bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptureLimits {
    /// Bytes on disk, file headers included; of all files together when there are several. Default 64 MiB.
    pub max_bytes: u64,
    /// Packets; 0 for any number.
    pub max_packets: u64,
    /// How long; zero until it is stopped.
    pub duration: Duration,
    /// Bytes kept of each packet. Default 262,144.
    pub snap_len: u32,
    /// Files of a ring: with more than one, the oldest is dropped when a new one is needed, and the capture goes
    /// on. 0 and 1: one file, and the capture ends when it is full.
    pub files: u32,
}

impl Default for CaptureLimits {
    fn default() -> Self {
        Self {
            max_bytes: Self::DEFAULT_BYTES,
            max_packets: 0,
            duration: Duration::ZERO,
            snap_len: Self::MAX_SNAP_LEN,
            files: 1,
        }
    }
}

/// Limits that cannot be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidLimits {
    /// No packet would fit.
    #[error("max_bytes {given} is too small: {files} file(s) need at least {needed} bytes")]
    TooFewBytes {
        /// As asked.
        given: u64,
        /// Files asked for.
        files: u32,
        /// Least that is useful.
        needed: u64,
    },
    /// More files than a ring may have.
    #[error("{given} files are too many: {max} at most")]
    TooManyFiles {
        /// As asked.
        given: u32,
        /// Most.
        max: u32,
    },
    /// Longer than a packet can be.
    #[error("snap length {given} is too long: {max} bytes at most")]
    SnapLen {
        /// As asked.
        given: u32,
        /// Most.
        max: u32,
    },
}

impl CaptureLimits {
    /// Bytes of a capture that asks for no limit.
    pub const DEFAULT_BYTES: u64 = 64 << 20;
    /// Longest part of a packet that is kept.
    pub const MAX_SNAP_LEN: u32 = 262_144;
    /// Most files of a ring.
    pub const MAX_FILES: u32 = 100;
    /// Least bytes of one file.
    pub const MIN_FILE_BYTES: u64 = 4096;

    /// The limits with defaults in place of zeros.
    ///
    /// # Errors
    /// [`InvalidLimits`] that names the limit.
    pub fn checked(self) -> Result<Self, InvalidLimits> {
        let or = |value, default| if value == 0 { default } else { value };
        let files = self.files.max(1);
        if files > Self::MAX_FILES {
            return Err(InvalidLimits::TooManyFiles {
                given: files,
                max: Self::MAX_FILES,
            });
        }
        let needed = Self::MIN_FILE_BYTES * u64::from(files);
        let max_bytes = or(self.max_bytes, Self::DEFAULT_BYTES);
        if max_bytes < needed {
            return Err(InvalidLimits::TooFewBytes {
                given: max_bytes,
                files,
                needed,
            });
        }
        if self.snap_len > Self::MAX_SNAP_LEN {
            return Err(InvalidLimits::SnapLen {
                given: self.snap_len,
                max: Self::MAX_SNAP_LEN,
            });
        }
        let snap_len = if self.snap_len == 0 {
            Self::MAX_SNAP_LEN
        } else {
            self.snap_len
        };
        Ok(Self {
            max_bytes,
            files,
            snap_len,
            ..self
        })
    }

    /// Bytes of one file of the ring.
    #[must_use]
    pub const fn file_bytes(&self) -> u64 {
        self.max_bytes / if self.files == 0 { 1 } else { self.files as u64 }
    }
}

/// A capture to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureSpec {
    /// Whose packets.
    pub workload: WorkloadId,
    /// Its name as users know it; stands before the interface's name in the file.
    pub name: String,
    /// Where the packets are to be had.
    pub target: CaptureTarget,
    /// Where it stops.
    pub limits: CaptureLimits,
    /// Packets that are kept.
    pub filter: Filter,
    /// What started it, in words; empty when somebody asked for it.
    pub cause: String,
}

impl CaptureSpec {
    /// A capture of every packet, within the default limits.
    #[must_use]
    pub fn new(workload: WorkloadId, name: impl Into<String>, target: CaptureTarget) -> Self {
        Self {
            workload,
            name: name.into(),
            target,
            limits: CaptureLimits::default(),
            filter: Filter::all(),
            cause: String::new(),
        }
    }
}

/// Life of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CaptureStatus {
    /// Packets are being taken.
    Running,
    /// Ended as it should; `detail` says by what.
    Stopped,
    /// Broke off; `detail` says why. What was written until then can be read.
    Failed,
}

impl CaptureStatus {
    /// Lower-case name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for CaptureStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// State of a capture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureInfo {
    /// Its number.
    pub id: CaptureId,
    /// Whose packets.
    pub workload: WorkloadId,
    /// The workload's name.
    pub name: String,
    /// Text of its filter; empty for every packet.
    #[serde(default)]
    pub filter: String,
    /// What started it; empty when somebody asked for it.
    #[serde(default)]
    pub cause: String,
    /// Files that it has now.
    #[serde(default)]
    pub files: u32,
    /// Life.
    pub status: CaptureStatus,
    /// Why it ended, in words; empty while it runs.
    pub detail: String,
    /// Packets kept.
    pub packets: u64,
    /// Bytes of its files now.
    pub bytes: u64,
    /// Packets lost: dropped by the kernel, or in files that the ring has dropped.
    pub dropped: u64,
    /// Most bytes that it may hold.
    pub max_bytes: u64,
    /// When it began.
    pub started: Timestamp,
    /// When it ended; 0 while it runs.
    pub stopped: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_hexadecimal_and_nothing_else() {
        let id = CaptureId::random().unwrap();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_ne!(CaptureId::random().unwrap(), id);
        for bad in [
            "",
            "..",
            "../../../../etc/passwd",
            "0123456789abcdef0123456789abcde",
            "0123456789abcdef0123456789abcdef0",
            "0123456789ABCDEF0123456789abcdef",
            "0123456789abcdef/123456789abcdef",
            "0123456789abcdef0123456789abcde\u{e9}",
        ] {
            assert_eq!(bad.parse::<CaptureId>(), Err(InvalidCaptureId), "{bad:?}");
        }
    }

    #[test]
    fn zeros_become_defaults_and_nonsense_is_refused() {
        let zero = CaptureLimits {
            max_bytes: 0,
            max_packets: 0,
            duration: Duration::ZERO,
            snap_len: 0,
            files: 0,
        };
        assert_eq!(zero.checked(), Ok(CaptureLimits::default()));
        assert!(matches!(
            CaptureLimits {
                max_bytes: 5000,
                files: 2,
                ..zero
            }
            .checked(),
            Err(InvalidLimits::TooFewBytes {
                given: 5000,
                files: 2,
                needed: 8192
            })
        ));
        assert!(matches!(
            CaptureLimits { files: 101, ..zero }.checked(),
            Err(InvalidLimits::TooManyFiles { .. })
        ));
        assert!(matches!(
            CaptureLimits {
                snap_len: 1 << 20,
                ..zero
            }
            .checked(),
            Err(InvalidLimits::SnapLen { .. })
        ));
    }
}
