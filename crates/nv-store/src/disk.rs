//! The file behind an embedded store: redb, one write transaction and one sync a commit, and checks of our own over all that is in it.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nv_types::Revision;
use redb::{
    Database, DatabaseError, ReadTransaction, ReadableDatabase as _, ReadableTable as _, StorageError,
    TableDefinition, TableError, WriteTransaction,
};

use crate::StoreError;
use crate::engine::Engine;
use crate::seal::{self, Head};
use crate::types::{Change, KeyValue, LeaseId};

/// Create revision, last revision, lease (0: none), check, value.
pub(crate) type Row = (u64, u64, u64, u64, &'static [u8]);
pub(crate) const ENTRIES: TableDefinition<'_, &str, Row> = TableDefinition::new("entries 2");
/// As format 1 had them, without a check.
type Row1 = (u64, u64, u64, &'static [u8]);
const ENTRIES_1: TableDefinition<'_, &str, Row1> = TableDefinition::new("entries");
pub(crate) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Lease to its time in milliseconds.
const LEASES: TableDefinition<'_, u64, u64> = TableDefinition::new("leases");

pub(crate) const REVISION: &str = "revision";
/// Highest lease ever granted: a number is never given twice, or a client that still holds it would keep a stranger's lease.
const LAST_LEASE: &str = "last lease";
/// Sum of all checks.
const SUM: &str = "sum";
const FORMAT: &str = "format";
/// Format 1 had no checks; a file of it is brought up to this one when it is opened.
const FORMAT_VERSION: u64 = 2;

/// What to do about a file that cannot be used.
const ADVICE: &str = "'nv-controller store repair' says what can be had of it, and what backups there are";

/// Opens the database behind a file, or makes it.
type Opener = Box<dyn Fn() -> Result<Database, DatabaseError> + Send>;

pub(crate) struct Disk {
    path: PathBuf,
    opener: Opener,
    /// `None` after a write that failed: it is opened anew before the next one.
    database: Option<Database>,
    head: Head,
    revision: u64,
    sum: u64,
    last_lease: u64,
    /// Changes of the write that failed, of which nobody knows whether they are in the file.
    in_doubt: Vec<(Revision, Vec<Change>)>,
}

/// What is in a file.
struct Content {
    entries: BTreeMap<String, KeyValue>,
    leases: BTreeMap<u64, u64>,
    revision: u64,
    last_lease: u64,
    sum: u64,
}

/// Why a file's content cannot be used.
enum Bad {
    Redb(redb::Error),
    Said(String),
}

impl<E: Into<redb::Error>> From<E> for Bad {
    fn from(error: E) -> Self {
        Self::Redb(error.into())
    }
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk")
            .field("path", &self.path)
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

impl Disk {
    /// Opens or makes the file and reads all of it.
    pub(crate) fn open(path: &Path) -> Result<(Self, Engine), StoreError> {
        let file = path.to_owned();
        Self::open_with(path, Box::new(move || Database::create(&file)))
    }

    fn open_with(path: &Path, opener: Opener) -> Result<(Self, Engine), StoreError> {
        let (database, content) = load(path, &opener)?;
        let acknowledged = Head::read(path).unwrap_or(0);
        if acknowledged > content.revision {
            return Err(corrupt(
                path,
                &format!(
                    "it ends at revision {}, but {acknowledged} was acknowledged: the last changes were lost, or an older file was put there",
                    content.revision
                ),
            ));
        }
        let head = Head::open(path).and_then(|head| head.write(content.revision).map(|()| head));
        let head = head.map_err(|source| StoreError::Io {
            action: format!("cannot write {}.head", path.display()),
            source,
        })?;
        let disk = Self {
            path: path.to_owned(),
            opener,
            database: Some(database),
            head,
            revision: content.revision,
            sum: content.sum,
            last_lease: content.last_lease,
            in_doubt: Vec::new(),
        };
        let engine = Engine::restore(
            content.entries,
            Revision(content.revision),
            &content.leases,
            content.last_lease,
            Instant::now(),
        );
        Ok((disk, engine))
    }

    /// After a write that failed: opens the file anew. Gives changes that are in it although their write failed.
    pub(crate) fn recover(&mut self) -> Result<Vec<(Revision, Vec<Change>)>, StoreError> {
        if self.database.is_some() {
            return Ok(Vec::new());
        }
        let (database, content) = load(&self.path, &self.opener)?;
        let doubtful = std::mem::take(&mut self.in_doubt);
        let made = if content.revision == self.revision {
            Vec::new()
        } else if doubtful
            .last()
            .is_some_and(|(last, _)| last.0 == content.revision)
        {
            doubtful
        } else {
            return Err(corrupt(
                &self.path,
                &format!(
                    "after a write that failed it is at revision {}, not {}",
                    content.revision, self.revision
                ),
            ));
        };
        self.database = Some(database);
        (self.revision, self.sum, self.last_lease) = (content.revision, content.sum, content.last_lease);
        Ok(made)
    }

    /// Writes the changes of some revisions, all or none, and waits until they are safe.
    pub(crate) fn write(&mut self, made: &[(Revision, Vec<Change>)]) -> Result<(), StoreError> {
        let Some(revision) = made.last().map(|(revision, _)| *revision) else {
            return Ok(());
        };
        let old = seal::number(REVISION, 0, self.revision);
        let new = seal::number(REVISION, 0, revision.0);
        let sum = self.sum.wrapping_sub(old).wrapping_add(new);
        let written = self.transact(sum, |write, sum| {
            let mut entries = write.open_table(ENTRIES)?;
            for change in made.iter().flat_map(|(_, changes)| changes) {
                let before = match change {
                    Change::Put(entry) => {
                        let (create, last) = (entry.create_revision.0, entry.mod_revision.0);
                        let lease = entry.lease.map_or(0, |id| id.0);
                        let check = seal::entry(&entry.key, create, last, lease, &entry.value);
                        *sum = sum.wrapping_add(check);
                        entries.insert(
                            entry.key.as_str(),
                            (create, last, lease, check, entry.value.as_slice()),
                        )?
                    }
                    Change::Delete { key, .. } => entries.remove(key.as_str())?,
                };
                if let Some(before) = before {
                    *sum = sum.wrapping_sub(before.value().3);
                }
            }
            write.open_table(META)?.insert(REVISION, revision.0)?;
            Ok(())
        });
        if let Err(error) = written {
            self.in_doubt = made.to_vec();
            return Err(error);
        }
        self.revision = revision.0;
        if let Err(error) = self.head.write(revision.0) {
            tracing::warn!(path = %self.path.display(), %error, "the revision cannot be noted beside the store");
        }
        Ok(())
    }

    /// Writes a lease, or removes it.
    pub(crate) fn write_lease(&mut self, id: LeaseId, ttl: Option<Duration>) -> Result<(), StoreError> {
        let last = ttl.map_or(self.last_lease, |_| id.0);
        let old = seal::number(LAST_LEASE, 0, self.last_lease);
        let sum = self
            .sum
            .wrapping_sub(old)
            .wrapping_add(seal::number(LAST_LEASE, 0, last));
        self.transact(sum, |write, sum| {
            let mut leases = write.open_table(LEASES)?;
            let before = match ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)) {
                Some(ttl) => {
                    *sum = sum.wrapping_add(seal::number("lease", id.0, ttl));
                    leases.insert(id.0, ttl)?
                }
                None => leases.remove(id.0)?,
            };
            if let Some(before) = before {
                *sum = sum.wrapping_sub(seal::number("lease", id.0, before.value()));
            }
            write.open_table(META)?.insert(LAST_LEASE, last)?;
            Ok(())
        })?;
        self.last_lease = last;
        Ok(())
    }

    /// One transaction with the sum that it comes to. After a failure the file is closed: redb serves nothing more then.
    fn transact(
        &mut self,
        mut sum: u64,
        make: impl FnOnce(&WriteTransaction, &mut u64) -> Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        let Some(database) = &self.database else {
            return Err(corrupt(&self.path, "it was written to before it was opened anew"));
        };
        let made = || -> Result<u64, redb::Error> {
            let write = database.begin_write()?;
            make(&write, &mut sum)?;
            write.open_table(META)?.insert(SUM, sum)?;
            write.commit()?;
            Ok(sum)
        };
        match made() {
            Ok(sum) => {
                self.sum = sum;
                Ok(())
            }
            Err(error) => {
                self.database = None;
                Err(write_error(&self.path, error))
            }
        }
    }
}

/// Opens a file, brings it up to today's format and reads all of it. What redb says of a damaged file by panicking is an error like any
/// other.
fn load(path: &Path, opener: &Opener) -> Result<(Database, Content), StoreError> {
    let opened = quietly(|| -> Result<_, StoreError> {
        let database = opener().map_err(|error| open_error(path, error))?;
        match prepare(&database).and_then(|()| read(&database)) {
            Ok(content) => Ok((database, content)),
            Err(Bad::Redb(error)) => Err(write_error(path, error)),
            Err(Bad::Said(what)) => Err(corrupt(path, &what)),
        }
    });
    opened.unwrap_or_else(|what| Err(corrupt(path, &what)))
}

/// Runs what may panic over damaged data; gives what it said.
pub(crate) fn quietly<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        format!("it cannot be read ({})", text.unwrap_or("no reason given"))
    })
}

/// Makes what a new file lacks, and brings an old one up to date.
fn prepare(database: &Database) -> Result<(), Bad> {
    let write = database.begin_write()?;
    let meta = write.open_table(META)?;
    let number = |name| -> Result<Option<u64>, Bad> { Ok(meta.get(name)?.map(|value| value.value())) };
    let format = number(FORMAT)?;
    let (revision, last_lease) = (number(REVISION)?.unwrap_or(0), number(LAST_LEASE)?.unwrap_or(0));
    drop(meta);
    match format {
        Some(FORMAT_VERSION) => return Ok(write.abort()?),
        None if revision == 0 && write.list_tables()?.count() <= 1 => {}
        Some(1) => {}
        other => {
            let said = other.map_or_else(|| "no number".into(), |format| format.to_string());
            return Err(Bad::Said(format!(
                "its format has {said}, this version reads up to {FORMAT_VERSION}: was a newer nv-controller used?"
            )));
        }
    }
    let mut sum = seal::number(REVISION, 0, revision).wrapping_add(seal::number(LAST_LEASE, 0, last_lease));
    {
        let mut entries = write.open_table(ENTRIES)?;
        for row in write.open_table(ENTRIES_1)?.iter()? {
            let (key, value) = row?;
            let (create, last, lease, bytes) = value.value();
            let check = seal::entry(key.value(), create, last, lease, bytes);
            entries.insert(key.value(), (create, last, lease, check, bytes))?;
            sum = sum.wrapping_add(check);
        }
        for row in write.open_table(LEASES)?.iter()? {
            let (id, ttl) = row?;
            sum = sum.wrapping_add(seal::number("lease", id.value(), ttl.value()));
        }
        let mut meta = write.open_table(META)?;
        for (name, value) in [
            (REVISION, revision),
            (LAST_LEASE, last_lease),
            (SUM, sum),
            (FORMAT, FORMAT_VERSION),
        ] {
            meta.insert(name, value)?;
        }
    }
    write.delete_table(ENTRIES_1)?;
    write.commit()?;
    Ok(())
}

fn read(database: &Database) -> Result<Content, Bad> {
    let read = database.begin_read()?;
    let mut bad = Vec::new();
    let mut entries = BTreeMap::new();
    let mut sum = 0u64;
    for row in read.open_table(ENTRIES)?.iter()? {
        let (key, value) = row?;
        match entry(key.value(), value.value()) {
            Ok((entry, check)) => {
                sum = sum.wrapping_add(check);
                entries.insert(entry.key.clone(), entry);
            }
            Err(key) => bad.push(key),
        }
    }
    if let Some(first) = bad.first() {
        let count = bad.len();
        return Err(Bad::Said(format!(
            "{count} of its entries are not what was written, the first is '{first}'"
        )));
    }
    let mut leases = BTreeMap::new();
    for row in read.open_table(LEASES)?.iter()? {
        let (id, ttl) = row?;
        leases.insert(id.value(), ttl.value());
        sum = sum.wrapping_add(seal::number("lease", id.value(), ttl.value()));
    }
    let number = |name| meta(&read, name).map(Option::unwrap_or_default);
    let (revision, last_lease, written) = (number(REVISION)?, number(LAST_LEASE)?, number(SUM)?);
    sum = sum
        .wrapping_add(seal::number(REVISION, 0, revision))
        .wrapping_add(seal::number(LAST_LEASE, 0, last_lease));
    if sum != written {
        return Err(Bad::Said(
            "the sum over its entries is not the one that was written: some are missing or of another time"
                .into(),
        ));
    }
    Ok(Content {
        entries,
        leases,
        revision,
        last_lease,
        sum,
    })
}

/// A number of the file's own.
pub(crate) fn meta(read: &ReadTransaction, name: &str) -> Result<Option<u64>, redb::Error> {
    match read.open_table(META) {
        Ok(meta) => Ok(meta.get(name)?.map(|value| value.value())),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// An entry with its check; the key alone when it is not what was written.
pub(crate) fn entry(
    key: &str,
    (create, last, lease, check, value): (u64, u64, u64, u64, &[u8]),
) -> Result<(KeyValue, u64), String> {
    if seal::entry(key, create, last, lease, value) != check {
        return Err(key.escape_debug().to_string());
    }
    let entry = KeyValue {
        key: key.to_owned(),
        value: value.to_vec(),
        create_revision: Revision(create),
        mod_revision: Revision(last),
        lease: (lease != 0).then_some(LeaseId(lease)),
    };
    Ok((entry, check))
}

fn corrupt(path: &Path, what: &str) -> StoreError {
    StoreError::Corrupt {
        path: path.display().to_string(),
        detail: format!("{what}; {ADVICE}"),
    }
}

fn write_error(path: &Path, error: redb::Error) -> StoreError {
    match error {
        redb::Error::Io(source)
            if source.kind() != io::ErrorKind::InvalidData
                && source.kind() != io::ErrorKind::UnexpectedEof =>
        {
            let full = matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            );
            let what = if full {
                "its disk is full; nothing changes until there is room again"
            } else {
                "nothing changes until it can be written again"
            };
            StoreError::Io {
                action: format!("cannot write {}: {what}", path.display()),
                source,
            }
        }
        other => corrupt(path, &other.to_string()),
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
        DatabaseError::Storage(StorageError::Io(source))
            if source.kind() != io::ErrorKind::InvalidData
                && source.kind() != io::ErrorKind::UnexpectedEof =>
        {
            StoreError::Io { action, source }
        }
        other => corrupt(path, &other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use redb::StorageBackend;

    use super::*;

    /// What was asked of a disk, in order.
    #[derive(Clone, Debug)]
    enum Asked {
        Write(u64, Vec<u8>),
        Length(u64),
        Sync,
        /// Not asked of it: the store acknowledged this revision.
        Acknowledged(u64),
    }

    /// A disk that keeps in mind what was asked of it, to be cut off from power at any point of it later.
    #[derive(Clone, Debug, Default)]
    struct Recorder(Arc<Mutex<(Vec<u8>, Vec<Asked>)>>);

    fn make(image: &mut Vec<u8>, asked: &Asked) {
        match asked {
            Asked::Write(at, data) => {
                let at = usize::try_from(*at).unwrap();
                // Beyond the end where a longer file was asked for and lost: so is this.
                if at + data.len() <= image.len() {
                    image[at..at + data.len()].copy_from_slice(data);
                }
            }
            Asked::Length(length) => image.resize(usize::try_from(*length).unwrap(), 0),
            Asked::Sync | Asked::Acknowledged(_) => {}
        }
    }

    impl Recorder {
        fn ask(&self, asked: Asked) {
            let mut state = self.0.lock().unwrap();
            make(&mut state.0, &asked);
            state.1.push(asked);
        }
    }

    impl StorageBackend for Recorder {
        fn len(&self) -> Result<u64, io::Error> {
            Ok(self.0.lock().unwrap().0.len() as u64)
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
            let at = usize::try_from(offset).unwrap();
            out.copy_from_slice(&self.0.lock().unwrap().0[at..at + out.len()]);
            Ok(())
        }

        fn set_len(&self, len: u64) -> Result<(), io::Error> {
            self.ask(Asked::Length(len));
            Ok(())
        }

        fn sync_data(&self) -> Result<(), io::Error> {
            self.ask(Asked::Sync);
            Ok(())
        }

        fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
            self.ask(Asked::Write(offset, data.to_vec()));
            Ok(())
        }
    }

    fn open(path: &Path, disk: &Recorder) -> Result<(Disk, Engine), StoreError> {
        let disk = disk.clone();
        // After a power cut, what was not synced beside the store may be gone too.
        Head::remove(path).unwrap();
        let opener = move || Database::builder().create_with_backend(disk.clone());
        Disk::open_with(path, Box::new(opener))
    }

    /// PCG, as good as any here: what is lost in a cut follows from the number of the cut.
    struct Random(u64);

    impl Random {
        const fn below(&mut self, limit: u64) -> u64 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % limit
        }
    }

    #[test]
    fn a_power_cut_at_any_write_loses_nothing_that_was_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let disk = Recorder::default();
        let mut states = vec![BTreeMap::new()];
        {
            let (mut store, mut engine) = open(&path, &disk).unwrap();
            let mut random = Random(1);
            for revision in 1..25u64 {
                let changes = (0..1 + random.below(3)).map(|part| {
                    let key = format!("k{}", (revision * 7 + part) % 20);
                    Change::Put(KeyValue {
                        value: vec![
                            u8::try_from(revision).unwrap();
                            usize::try_from(random.below(3000)).unwrap()
                        ],
                        key,
                        create_revision: Revision(revision),
                        mod_revision: Revision(revision),
                        lease: None,
                    })
                });
                let changes: Vec<_> = changes.collect();
                store.write(&[(Revision(revision), changes.clone())]).unwrap();
                disk.0.lock().unwrap().1.push(Asked::Acknowledged(revision));
                engine.apply(Revision(revision), changes);
                let entries = engine.list("").entries.into_iter();
                states.push(entries.map(|entry| (entry.key.clone(), entry)).collect());
            }
        }
        let asked = std::mem::take(&mut disk.0.lock().unwrap().1);
        let begun = asked
            .iter()
            .position(|asked| matches!(asked, Asked::Acknowledged(1)))
            .unwrap();
        // What was safe at the last sync before the cut, and what was asked after it.
        let (mut safe, mut unsafe_since, mut acknowledged, mut cuts) = (Vec::new(), Vec::new(), 0, 0);
        for (at, one) in asked.iter().enumerate() {
            match one {
                Asked::Sync => unsafe_since.drain(..).for_each(|one| make(&mut safe, one)),
                Asked::Acknowledged(revision) => acknowledged = *revision,
                Asked::Write(..) | Asked::Length(_) => unsafe_since.push(one),
            }
            if at < begun {
                continue;
            }
            for keeps in [0, 60] {
                let mut random = Random(at as u64 * 2 + keeps);
                let mut image = safe.clone();
                for one in &unsafe_since {
                    if random.below(100) < keeps {
                        let torn = match one {
                            // A disk writes sectors whole, not pages.
                            Asked::Write(at, data) if data.len() > 512 && random.below(4) == 0 => {
                                Asked::Write(*at, data[..512].to_vec())
                            }
                            whole => (*whole).clone(),
                        };
                        make(&mut image, &torn);
                    }
                }
                let left = Recorder(Arc::new(Mutex::new((image, Vec::new()))));
                let (store, engine) = open(&path, &left)
                    .unwrap_or_else(|error| panic!("cut after {at} of {}: {error}", asked.len()));
                assert!(
                    store.revision == acknowledged || store.revision == acknowledged + 1,
                    "cut after {at}: {acknowledged} was acknowledged, {} is there",
                    store.revision
                );
                let entries = engine.list("").entries.into_iter();
                let entries: BTreeMap<_, _> = entries.map(|entry| (entry.key.clone(), entry)).collect();
                assert!(
                    entries == states[usize::try_from(store.revision).unwrap()],
                    "cut after {at}: half of a change"
                );
                cuts += 1;
            }
        }
        assert!(cuts > 150, "{cuts} cuts");
    }
}
