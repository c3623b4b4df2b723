//! One demo of a name at a time.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::DemoError;
use super::plan::Plan;

/// Held while a demo runs; the kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: Flock<File>,
    path: PathBuf,
}

impl Lock {
    pub(crate) fn take(plan: &Plan) -> Result<Self, DemoError> {
        let path = plan.lock_file();
        let failed = |source| DemoError::Io {
            what: format!("opening the lock file {}", path.display()),
            source,
        };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        loop {
            if let Some(lock) = Self::try_path(&path)? {
                return Ok(lock);
            }
        }
    }

    /// `None`: the file was removed by its owner while we opened it.
    fn try_path(path: &Path) -> Result<Option<Self>, DemoError> {
        let failed = |source| DemoError::Io {
            what: format!("opening the lock file {}", path.display()),
            source,
        };
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((mut file, _)) => {
                let mut owner = String::new();
                let _ = file.read_to_string(&mut owner);
                return Err(DemoError::Running {
                    owner: owner.trim().to_owned(),
                });
            }
        };
        let ours = file.metadata().map_err(failed)?.ino();
        if fs::metadata(path).map(|meta| meta.ino()).ok() != Some(ours) {
            return Ok(None);
        }
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Some(Self {
            _file: file,
            path: path.to_owned(),
        }))
    }

    /// Lets go and removes the file.
    pub(crate) fn release(self) {
        // Removed while held: a demo that starts now opens a new file or waits for none.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_one_is_refused_with_the_first_ones_process() {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "needs root");
            eprintln!("SKIPPED a_second_one_is_refused_with_the_first_ones_process: needs root");
            return;
        }
        let plan = Plan::new(&format!("l{}", std::process::id() % 1_000_000)).unwrap();
        let first = Lock::take(&plan).unwrap();
        let error = Lock::take(&plan).unwrap_err();
        let expected = format!("a demo runs already (process {})", std::process::id());
        assert!(error.to_string().starts_with(&expected), "{error}");
        first.release();
        Lock::take(&plan).unwrap().release();
        assert!(!plan.lock_file().exists());
    }
}
