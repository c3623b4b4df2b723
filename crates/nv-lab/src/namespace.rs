//! Named namespaces: made, entered, removed.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::LabError;

/// Where named namespaces live, as `ip netns` has it.
pub const NETNS_DIR: &str = "/run/netns";

/// Makes a named namespace with its loopback up.
pub(crate) fn create(name: &str) -> Result<(), LabError> {
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Err(LabError::Name(name.to_owned()));
    }
    let path = Path::new(NETNS_DIR).join(name);
    let make = |source| LabError::Make {
        what: format!("network namespace {name}"),
        source,
    };
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(make)?;
    // The thread's namespace lives on in the mount when the thread is gone.
    let target = path.clone();
    let made = thread::spawn(move || -> io::Result<()> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        mount(
            Some("/proc/thread-self/ns/net"),
            &target,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )?;
        Ok(())
    })
    .join()
    .map_err(|_| LabError::Panicked(name.to_owned()))?;
    made.map_err(|source| {
        let _ = fs::remove_file(&path);
        make(source)
    })
}

/// Removes a named namespace; one that is not there is no error.
pub(crate) fn remove(name: &str) -> Result<(), LabError> {
    let path = Path::new(NETNS_DIR).join(name);
    let failed = |source: io::Error| LabError::Make {
        what: format!("network namespace {name}"),
        source,
    };
    match umount2(&path, MntFlags::MNT_DETACH) {
        // Not a mount (any more): the file is all that is left.
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
        Err(error) => return Err(failed(error.into())),
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(()),
    }
}

/// Runs something on a thread of its own inside the namespace of this file and waits for it.
///
/// # Errors
/// [`LabError::Enter`] when it cannot be entered, [`LabError::Panicked`] when the work panics.
pub fn run_in<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, LabError> {
    let enter = |source| LabError::Enter {
        path: path.display().to_string(),
        source,
    };
    let file = File::open(path).map_err(enter)?;
    thread::spawn(move || -> io::Result<T> {
        setns(&file, CloneFlags::CLONE_NEWNET)?;
        Ok(work())
    })
    .join()
    .map_err(|_| LabError::Panicked(path.display().to_string()))?
    .map_err(enter)
}
