//! What can be had of an embedded store's file that cannot be used, without touching it.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use nv_types::Revision;
use redb::{Database, ReadableDatabase as _, ReadableTable as _};

use crate::disk::{self, Disk, ENTRIES, REVISION};
use crate::seal::Head;
use crate::types::KeyValue;
use crate::{LocalStore, StoreError};

/// What is in a file.
#[derive(Debug)]
pub struct Examined {
    /// Why it cannot be used; `None` when it is good.
    pub problem: Option<String>,
    /// Its last revision, where that can be read.
    pub revision: Option<Revision>,
    /// The last revision that was acknowledged, where that is known.
    pub acknowledged: Option<Revision>,
    /// Entries that are as they were written, sorted by key.
    pub entries: Vec<KeyValue>,
    /// Keys of entries that are not. Those that cannot even be found are not among them.
    pub damaged: Vec<String>,
}

fn failed(what: &str, path: &Path, source: io::Error) -> StoreError {
    StoreError::Io {
        action: format!("cannot {what} {}", path.display()),
        source,
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Looks into a file. Nothing of it is changed: all is done on a copy beside it, which is removed again.
///
/// # Errors
/// [`StoreError::Io`] when it cannot be read or copied, or when a process has it open.
pub fn examine(path: &Path) -> Result<Examined, StoreError> {
    let file = File::open(path).map_err(|source| failed("read", path, source))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let source = io::Error::new(
                io::ErrorKind::ResourceBusy,
                "a process has it open: stop the controller first",
            );
            return Err(failed("examine", path, source));
        }
        Err(TryLockError::Error(source)) => return Err(failed("lock", path, source)),
    }
    let copy = beside(path, ".examined");
    let examined = fs::copy(path, &copy)
        .map_err(|source| failed("copy", path, source))
        .map(|_| look(path, &copy));
    let _ = fs::remove_file(&copy);
    let _ = Head::remove(&copy);
    examined
}

fn look(path: &Path, copy: &Path) -> Examined {
    let acknowledged = Head::read(path);
    let mut found = Examined {
        problem: None,
        revision: None,
        acknowledged: acknowledged.map(Revision),
        entries: Vec::new(),
        damaged: Vec::new(),
    };
    let name = |error: StoreError| {
        let copy = copy.display().to_string();
        error.to_string().replace(&copy, &path.display().to_string())
    };
    match Disk::open(copy) {
        Ok((_disk, engine)) => {
            let listing = engine.list("");
            found.revision = Some(listing.revision);
            found.entries = listing.entries;
            if acknowledged.is_some_and(|acknowledged| acknowledged > listing.revision.0) {
                found.problem = Some("its last changes are missing".into());
            }
        }
        Err(error) => {
            found.problem = Some(name(error));
            // What redb can still reach is worth having; where it panics, what came before counts.
            let mut entries = BTreeMap::new();
            let _ = disk::quietly(|| salvage(copy, &mut found, &mut entries));
            found.entries = entries.into_values().collect();
            found.damaged.sort();
            found.damaged.dedup();
        }
    }
    found
}

/// Reads rows from the front and then from the back, each until it goes no further.
fn salvage(
    copy: &Path,
    found: &mut Examined,
    entries: &mut BTreeMap<String, KeyValue>,
) -> Result<(), redb::Error> {
    let database = Database::open(copy)?;
    let read = database.begin_read()?;
    found.revision = disk::meta(&read, REVISION).ok().flatten().map(Revision);
    let table = read.open_table(ENTRIES)?;
    for back in [false, true] {
        let damaged = &mut found.damaged;
        let _ = disk::quietly(|| -> Result<(), redb::Error> {
            let mut rows = table.iter()?;
            while let Some(row) = if back { rows.next_back() } else { rows.next() } {
                let (key, value) = row?;
                match disk::entry(key.value(), value.value()) {
                    Ok((entry, _)) => drop(entries.insert(entry.key.clone(), entry)),
                    Err(key) => damaged.push(key),
                }
            }
            Ok(())
        });
    }
    Ok(())
}

/// Puts a file out of the way under a name that says so, for a new one to take its place. Gives that name.
///
/// # Errors
/// [`StoreError::Io`] when it cannot be renamed, or a process has it open.
pub fn set_aside(path: &Path) -> Result<PathBuf, StoreError> {
    let file = File::open(path).map_err(|source| failed("read", path, source))?;
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        let source = io::Error::new(io::ErrorKind::ResourceBusy, "a process has it open");
        return Err(failed("set aside", path, source));
    }
    let free = (1..).map(|number| beside(path, &format!(".damaged-{number}")));
    let aside = free.take(10_000).find(|aside| !aside.exists());
    let aside = aside.ok_or_else(|| failed("set aside", path, io::ErrorKind::AlreadyExists.into()))?;
    fs::rename(path, &aside).map_err(|source| failed("rename", path, source))?;
    Head::remove(path).map_err(|source| failed("remove the head of", path, source))?;
    Ok(aside)
}

impl Examined {
    /// Whether the file can be used as it is.
    #[must_use]
    pub const fn is_good(&self) -> bool {
        self.problem.is_none()
    }
}

/// The store in a file that must be there already: nothing is made where a name was mistyped.
///
/// # Errors
/// As [`LocalStore::open`].
pub fn open_existing(path: &Path) -> Result<LocalStore, StoreError> {
    fs::metadata(path).map_err(|source| failed("read", path, source))?;
    LocalStore::open(path)
}
