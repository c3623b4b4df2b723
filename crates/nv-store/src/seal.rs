//! How a file is known to hold what was written to it.
//!
//! Every row carries a check of its own, so that a damaged one is known among good ones. The sum of all checks, with those of the
//! revision and of the highest lease, is written in each transaction: a row that is missing, or one that is of another transaction, makes
//! another sum. And beside the file, [`Head`] has the last revision that was acknowledged: a file that ends before it has lost something,
//! however whole it looks.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// FNV-1a, 64 bits: any change within one byte changes the check for certain.
#[derive(Clone, Copy)]
struct Fnv(u64);

impl Fnv {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self
    }

    fn number(self, number: u64) -> Self {
        self.bytes(&number.to_le_bytes())
    }
}

/// Check of an entry.
pub(crate) fn entry(key: &str, create: u64, last: u64, lease: u64, value: &[u8]) -> u64 {
    let key = Fnv::new()
        .bytes(b"entry")
        .number(key.len() as u64)
        .bytes(key.as_bytes());
    key.number(create).number(last).number(lease).bytes(value).0
}

/// Check of a named number: the revision, the highest lease, a lease's time.
pub(crate) fn number(what: &str, id: u64, value: u64) -> u64 {
    Fnv::new().bytes(what.as_bytes()).number(id).number(value).0
}

const MAGIC: &[u8; 8] = b"nv-head1";

/// The file beside a store's with the last revision that was acknowledged. It is written after the commit and is not synced: it outlives
/// the process, and after a power cut it may be behind, never ahead.
#[derive(Debug)]
pub(crate) struct Head {
    file: File,
}

impl Head {
    fn path(store: &Path) -> PathBuf {
        let mut name = store.as_os_str().to_owned();
        name.push(".head");
        name.into()
    }

    pub(crate) fn open(store: &Path) -> io::Result<Self> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(Self::path(store))?;
        Ok(Self { file })
    }

    /// The revision that a store's head has; `None` where there is none, or not a whole one.
    pub(crate) fn read(store: &Path) -> Option<u64> {
        let bytes = std::fs::read(Self::path(store)).ok()?;
        let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let revision = number(8)?;
        (bytes.starts_with(MAGIC) && number(16)? == !revision).then_some(revision)
    }

    pub(crate) fn write(&self, revision: u64) -> io::Result<()> {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&revision.to_le_bytes());
        bytes[16..].copy_from_slice(&(!revision).to_le_bytes());
        self.file.write_all_at(&bytes, 0)
    }

    pub(crate) fn remove(store: &Path) -> io::Result<()> {
        match std::fs::remove_file(Self::path(store)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
