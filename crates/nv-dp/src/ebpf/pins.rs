//! The folder of pins: `maps/NAME` and `links/IFINDEX-DIRECTION`, under one folder an instance, on a BPF file system.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nv_types::Direction;

use super::sys;
use crate::DatapathError;

/// Where BPF file systems are mounted by convention.
const BPFFS: &str = "/sys/fs/bpf";

/// An instance's pins, held by this process alone.
#[derive(Debug)]
pub(crate) struct Pins {
    dir: PathBuf,
    _lock: Flock<File>,
}

fn io(action: String, error: &dyn std::fmt::Display) -> DatapathError {
    DatapathError::Kernel {
        action,
        detail: error.to_string(),
    }
}

/// Whether the path, or the nearest folder above it that exists, is on a BPF file system.
fn is_bpffs(path: &Path) -> bool {
    let existing = path.ancestors().find(|path| path.exists());
    existing
        .and_then(|path| statfs(path).ok())
        .is_some_and(|info| info.filesystem_type() == BPF_FS_MAGIC)
}

impl Pins {
    /// Makes the folders, mounting the file system if it is not, and takes the lock.
    pub(crate) fn open(dir: &Path) -> Result<Self, DatapathError> {
        prepare(dir)?;
        let file = File::open(dir).map_err(|error| io(format!("open {}", dir.display()), &error))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| DatapathError::Kernel {
            action: format!("lock {}", dir.display()),
            detail: "another process drives this datapath".into(),
        })?;
        Ok(Self {
            dir: dir.to_path_buf(),
            _lock: lock,
        })
    }

    /// Makes the folders again where somebody has removed them. `true` if anything was missing.
    pub(crate) fn restore(&self) -> Result<bool, DatapathError> {
        let is_whole =
            is_bpffs(&self.dir) && ["maps", "links"].iter().all(|name| self.dir.join(name).is_dir());
        if !is_whole {
            prepare(&self.dir)?;
        }
        Ok(!is_whole)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn maps(&self) -> PathBuf {
        self.dir.join("maps")
    }

    /// Pin of the link of an endpoint in one direction.
    pub(crate) fn link(&self, ifindex: u32, direction: Direction) -> PathBuf {
        self.dir.join("links").join(format!("{ifindex}-{direction}"))
    }

    /// Interfaces that have a link pinned.
    pub(crate) fn linked(&self) -> Result<Vec<u32>, DatapathError> {
        let dir = self.dir.join("links");
        let entries = fs::read_dir(&dir).map_err(|error| io(format!("read {}", dir.display()), &error))?;
        let mut found: Vec<u32> = entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.split_once('-')?.0.parse().ok())
            .collect();
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Removes the links of an interface: the programs are then gone from it.
    pub(crate) fn unlink(&self, ifindex: u32) -> Result<(), DatapathError> {
        for direction in [Direction::Ingress, Direction::Egress] {
            let path = self.link(ifindex, direction);
            match sys::detach_pinned(&path) {
                Ok(()) => {}
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOLINK)) => {}
                Err(error) => return Err(io(format!("detach {}", path.display()), &error)),
            }
            remove(&path)?;
        }
        Ok(())
    }

    /// Removes every pin and the folders. What still holds a map or a link keeps it alive until it ends.
    pub(crate) fn remove_all(&self) -> Result<(), DatapathError> {
        for ifindex in self.linked()? {
            self.unlink(ifindex)?;
        }
        for folder in ["links", "maps"] {
            clear(&self.dir.join(folder))?;
        }
        fs::remove_dir(&self.dir).map_err(|error| io(format!("remove {}", self.dir.display()), &error))?;
        // The folder of all instances goes with the last one.
        if let Some(parent) = self.dir.parent().filter(|parent| *parent != Path::new(BPFFS)) {
            let _ = fs::remove_dir(parent);
        }
        Ok(())
    }

    /// Forgets tables that nothing enforces by.
    pub(crate) fn remove_maps(&self) -> Result<(), DatapathError> {
        clear(&self.maps())?;
        create(&self.maps())
    }
}

/// Makes what is missing of the folders, and mounts the file system if it is not.
fn prepare(dir: &Path) -> Result<(), DatapathError> {
    if !is_bpffs(dir) && dir.starts_with(BPFFS) && Path::new(BPFFS).is_dir() {
        mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>)
            .map_err(|error| io(format!("mount the BPF file system at {BPFFS}"), &error))?;
    }
    if !is_bpffs(dir) {
        return Err(DatapathError::Unsupported {
            what: format!("{} is not on a BPF file system", dir.display()),
            hint: format!(
                "use a folder below {BPFFS}, on a kernel with CONFIG_BPF_SYSCALL and sysfs mounted"
            ),
        });
    }
    for folder in ["maps", "links"].map(|name| dir.join(name)) {
        create(&folder)?;
    }
    Ok(())
}

/// Makes a folder and those above it; another instance may be removing an empty one of those meanwhile.
fn create(folder: &Path) -> Result<(), DatapathError> {
    let mut result = fs::create_dir_all(folder);
    for _ in 0..3 {
        if !matches!(&result, Err(error) if error.kind() == ErrorKind::NotFound) {
            break;
        }
        result = fs::create_dir_all(folder);
    }
    result.map_err(|error| io(format!("create {}", folder.display()), &error))
}

fn clear(dir: &Path) -> Result<(), DatapathError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(format!("read {}", dir.display()), &error)),
    };
    for entry in entries.flatten() {
        remove(&entry.path())?;
    }
    fs::remove_dir(dir).map_err(|error| io(format!("remove {}", dir.display()), &error))
}

fn remove(path: &Path) -> Result<(), DatapathError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io(format!("remove {}", path.display()), &error)),
    }
}
