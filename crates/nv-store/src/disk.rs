//! The file behind an embedded store: redb, one write transaction and one sync a commit.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nv_types::Revision;
use redb::{
    Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, StorageError, TableDefinition,
};

use crate::StoreError;
use crate::engine::Engine;
use crate::types::{Change, KeyValue, LeaseId};

/// Create revision, last revision, lease (0: none), value.
type Row = (u64, u64, u64, &'static [u8]);
const ENTRIES: TableDefinition<'_, &str, Row> = TableDefinition::new("entries");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Lease to its time in milliseconds.
const LEASES: TableDefinition<'_, u64, u64> = TableDefinition::new("leases");

const REVISION: &str = "revision";
/// Highest lease ever granted: a number is never given twice, or a client that still holds it would keep a stranger's lease.
const LAST_LEASE: &str = "last lease";
const FORMAT: &str = "format";
const FORMAT_VERSION: u64 = 1;

#[derive(Debug)]
pub(crate) struct Disk {
    path: PathBuf,
    database: Database,
}

impl Disk {
    /// Opens or makes the file and reads all of it.
    pub(crate) fn open(path: &Path) -> Result<(Self, Engine), StoreError> {
        let database = Database::create(path).map_err(|error| open_error(path, error))?;
        let disk = Self {
            path: path.to_owned(),
            database,
        };
        disk.check_format()?;
        let engine = disk.read().map_err(|error| disk.damaged(&error))?;
        Ok((disk, engine))
    }

    fn check_format(&self) -> Result<(), StoreError> {
        let found = self.make_tables().map_err(|error| self.damaged(&error))?;
        if found == FORMAT_VERSION {
            return Ok(());
        }
        Err(StoreError::Corrupt {
            path: self.path.display().to_string(),
            detail: format!(
                "it has format {found}, this version reads {FORMAT_VERSION}: use the version that wrote it"
            ),
        })
    }

    /// Makes what a new file lacks; gives the format's number.
    fn make_tables(&self) -> Result<u64, redb::Error> {
        let write = self.database.begin_write()?;
        let found = {
            let mut meta = write.open_table(META)?;
            let found = meta.get(FORMAT)?.map(|value| value.value());
            if found.is_none() {
                meta.insert(FORMAT, FORMAT_VERSION)?;
            }
            write.open_table(ENTRIES)?;
            write.open_table(LEASES)?;
            found.unwrap_or(FORMAT_VERSION)
        };
        write.commit()?;
        Ok(found)
    }

    fn read(&self) -> Result<Engine, redb::Error> {
        let read = self.database.begin_read()?;
        let revision = read
            .open_table(META)?
            .get(REVISION)?
            .map_or(0, |value| value.value());
        let mut entries = BTreeMap::new();
        for row in read.open_table(ENTRIES)?.iter()? {
            let (key, value) = row?;
            let (create, last, lease, bytes) = value.value();
            let key = key.value().to_owned();
            let entry = KeyValue {
                key: key.clone(),
                value: bytes.to_vec(),
                create_revision: Revision(create),
                mod_revision: Revision(last),
                lease: (lease != 0).then_some(LeaseId(lease)),
            };
            entries.insert(key, entry);
        }
        let mut leases = BTreeMap::new();
        for row in read.open_table(LEASES)?.iter()? {
            let (id, ttl) = row?;
            leases.insert(id.value(), ttl.value());
        }
        let last_lease = read
            .open_table(META)?
            .get(LAST_LEASE)?
            .map_or(0, |value| value.value());
        Ok(Engine::restore(
            entries,
            Revision(revision),
            &leases,
            last_lease,
            Instant::now(),
        ))
    }

    /// Writes changes and waits until they are safe.
    pub(crate) fn write(&mut self, revision: Revision, changes: &[Change]) -> Result<(), StoreError> {
        let made = || -> Result<(), redb::Error> {
            let write = self.database.begin_write()?;
            {
                let mut entries = write.open_table(ENTRIES)?;
                for change in changes {
                    match change {
                        Change::Put(entry) => {
                            let lease = entry.lease.map_or(0, |id| id.0);
                            let row = (
                                entry.create_revision.0,
                                entry.mod_revision.0,
                                lease,
                                entry.value.as_slice(),
                            );
                            entries.insert(entry.key.as_str(), row)?;
                        }
                        Change::Delete { key, .. } => {
                            entries.remove(key.as_str())?;
                        }
                    }
                }
                write.open_table(META)?.insert(REVISION, revision.0)?;
            }
            write.commit()?;
            Ok(())
        };
        made().map_err(|error| self.write_error(error))
    }

    /// Writes a lease, or removes it.
    pub(crate) fn write_lease(&mut self, id: LeaseId, ttl: Option<Duration>) -> Result<(), StoreError> {
        let made = || -> Result<(), redb::Error> {
            let write = self.database.begin_write()?;
            {
                let mut leases = write.open_table(LEASES)?;
                match ttl {
                    Some(ttl) => leases.insert(id.0, u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))?,
                    None => leases.remove(id.0)?,
                };
                if ttl.is_some() {
                    write.open_table(META)?.insert(LAST_LEASE, id.0)?;
                }
            }
            write.commit()?;
            Ok(())
        };
        made().map_err(|error| self.write_error(error))
    }

    fn damaged(&self, error: &redb::Error) -> StoreError {
        StoreError::Corrupt {
            path: self.path.display().to_string(),
            detail: format!(
                "{error}: move it away and put a backup in its place, or start without it and apply the policy anew"
            ),
        }
    }

    fn write_error(&self, error: redb::Error) -> StoreError {
        match error {
            redb::Error::Io(source) => StoreError::Io {
                action: format!("cannot write {}", self.path.display()),
                source,
            },
            other => self.damaged(&other),
        }
    }
}

fn open_error(path: &Path, error: DatabaseError) -> StoreError {
    let action = format!("cannot open the store {}", path.display());
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::Io {
            action,
            source: io::Error::new(
                io::ErrorKind::ResourceBusy,
                "another process has it open: is a controller running already?",
            ),
        },
        DatabaseError::Storage(StorageError::Io(source)) if source.kind() != io::ErrorKind::InvalidData => {
            StoreError::Io { action, source }
        }
        other => StoreError::Corrupt {
            path: path.display().to_string(),
            detail: format!(
                "{other}: move it away and put a backup in its place, or start without it and apply the policy anew"
            ),
        },
    }
}
