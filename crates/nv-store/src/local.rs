//! A store of this process: one thread writes, everybody reads. In memory, or with a file behind it.

use std::path::Path;
use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use nv_types::Revision;
use tokio::sync::{Semaphore, oneshot};

use crate::check::check;
use crate::disk::Disk;
use crate::engine::{Engine, Pending, Verdict};
use crate::types::{Change, CommitOutcome, KeyValue, Lease, LeaseId, Listing, Op, Txn, WatchStream};
use crate::{KvStore, StoreError};

/// Requests that wait for the writer.
const QUEUE: usize = 1024;
/// Requests that are served between two looks at leases and slow watchers, and so the most that share one sync of the file.
const BATCH: usize = 64;
/// Changes of commits that share a sync: one that is large does not make many wait.
const BATCH_CHANGES: usize = 2048;
/// How often slow watchers are looked at.
const CATCH_UP: Duration = Duration::from_millis(20);
/// Longest sleep of the writer.
const IDLE: Duration = Duration::from_secs(3600);

enum Request {
    Commit(Txn, oneshot::Sender<Result<CommitOutcome, StoreError>>),
    Grant(Duration, oneshot::Sender<Result<Lease, StoreError>>),
    Revoke(LeaseId, oneshot::Sender<Result<(), StoreError>>),
}

/// A store of this process. Clones share it; the file is closed when the last one is gone.
#[derive(Clone, Debug)]
pub struct LocalStore {
    inner: Arc<Inner>,
}

/// In memory only: for tests, and where nothing needs to outlive the process.
pub type MemoryStore = LocalStore;
/// With one file behind it, synced on each commit.
pub type EmbeddedStore = LocalStore;

#[derive(Debug)]
struct Inner {
    engine: Arc<Mutex<Engine>>,
    requests: Option<std_mpsc::Sender<Request>>,
    room: Semaphore,
    writer: Option<JoinHandle<()>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

fn lock(engine: &Mutex<Engine>) -> MutexGuard<'_, Engine> {
    engine.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LocalStore {
    /// A store in memory.
    ///
    /// # Errors
    /// [`StoreError::Io`] when no thread can be started.
    pub fn memory() -> Result<Self, StoreError> {
        Self::start(Engine::default(), None)
    }

    /// The store in this file, which is made when it is not there.
    ///
    /// # Errors
    /// [`StoreError::Io`] when it cannot be opened or another process has it, [`StoreError::Corrupt`] when its content is not
    /// a store's.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let (disk, engine) = Disk::open(path)?;
        Self::start(engine, Some(disk))
    }

    fn start(engine: Engine, disk: Option<Disk>) -> Result<Self, StoreError> {
        let engine = Arc::new(Mutex::new(engine));
        let (sender, receiver) = std_mpsc::channel();
        let mut writer = Writer {
            engine: Arc::clone(&engine),
            disk,
        };
        let writer = std::thread::Builder::new()
            .name("nv-store".into())
            .spawn(move || writer.run(&receiver))
            .map_err(|source| StoreError::Io {
                action: "cannot start the store's thread".into(),
                source,
            })?;
        let inner = Inner {
            engine,
            requests: Some(sender),
            room: Semaphore::new(QUEUE),
            writer: Some(writer),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Request,
    ) -> Result<T, StoreError> {
        let gone = || StoreError::Unavailable {
            detail: "the store has been closed".into(),
        };
        // The queue is bounded here: a sender without a permit waits.
        let _room = self.inner.room.acquire().await.map_err(|_closed| gone())?;
        let (answer, wait) = oneshot::channel();
        let requests = self.inner.requests.as_ref().ok_or_else(gone)?;
        requests.send(request(answer)).map_err(|_closed| gone())?;
        wait.await.map_err(|_closed| gone())?
    }
}

#[async_trait]
impl KvStore for LocalStore {
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        let engine = lock(&self.inner.engine);
        Ok((engine.get(key), engine.revision()))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        Ok(lock(&self.inner.engine).list(prefix))
    }

    async fn commit(&self, txn: Txn) -> Result<CommitOutcome, StoreError> {
        check(&txn)?;
        self.ask(|answer| Request::Commit(txn, answer)).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StoreError> {
        Ok(lock(&self.inner.engine).watch(prefix, from))
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.ask(|answer| Request::Grant(ttl, answer)).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Lease, StoreError> {
        lock(&self.inner.engine)
            .keep_alive(id, Instant::now())
            .ok_or(StoreError::LeaseGone(id.0))
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        self.ask(|answer| Request::Revoke(id, answer)).await
    }
}

/// The thread that changes things, one after the other.
struct Writer {
    engine: Arc<Mutex<Engine>>,
    disk: Option<Disk>,
}

/// Commits that were judged and wait for one sync of the file.
#[derive(Default)]
struct Batch {
    pending: Pending,
    changes: Vec<(Revision, Vec<Change>)>,
    count: usize,
    /// Also those that changed nothing: what they were told may rest on a change that waits.
    answers: Vec<(Result<CommitOutcome, StoreError>, Answer)>,
}

type Answer = oneshot::Sender<Result<CommitOutcome, StoreError>>;

impl Writer {
    fn run(&mut self, requests: &std_mpsc::Receiver<Request>) {
        loop {
            let lagging = lock(&self.engine).catch_up();
            let wait = if lagging { CATCH_UP } else { self.until_next_end() };
            match requests.recv_timeout(wait) {
                Ok(first) => self.serve(first, requests),
                Err(std_mpsc::RecvTimeoutError::Timeout) => {}
                Err(std_mpsc::RecvTimeoutError::Disconnected) => return,
            }
            self.expire();
        }
    }

    fn until_next_end(&self) -> Duration {
        lock(&self.engine)
            .next_end()
            .map_or(IDLE, |end| end.saturating_duration_since(Instant::now()))
    }

    /// Serves a request and those that wait behind it. Commits share a sync.
    fn serve(&mut self, first: Request, requests: &std_mpsc::Receiver<Request>) {
        let mut next = Some(first);
        let mut batch = Batch::default();
        for _ in 0..BATCH {
            match next.take().or_else(|| requests.try_recv().ok()) {
                Some(Request::Commit(txn, answer)) => self.judge(&mut batch, &txn, answer),
                Some(Request::Grant(ttl, answer)) => {
                    self.make(std::mem::take(&mut batch));
                    let _ = answer.send(self.grant(ttl));
                }
                Some(Request::Revoke(id, answer)) => {
                    self.make(std::mem::take(&mut batch));
                    let _ = answer.send(self.revoke(id));
                }
                None => break,
            }
            if batch.count >= BATCH_CHANGES {
                self.make(std::mem::take(&mut batch));
            }
        }
        self.make(batch);
    }

    /// After a write that failed, the file is opened anew before anything else is asked of it.
    fn recover(&mut self) -> Result<(), StoreError> {
        let Some(disk) = &mut self.disk else { return Ok(()) };
        for (revision, changes) in disk.recover()? {
            lock(&self.engine).apply(revision, changes);
        }
        Ok(())
    }

    fn judge(&mut self, batch: &mut Batch, txn: &Txn, answer: Answer) {
        if batch.answers.is_empty()
            && let Err(error) = self.recover()
        {
            let _ = answer.send(Err(error));
            return;
        }
        let verdict = lock(&self.engine).judge(txn, &batch.pending);
        let outcome = match verdict {
            Verdict::Done(outcome) => Ok(outcome),
            Verdict::LeaseGone(id) => Err(StoreError::LeaseGone(id.0)),
            Verdict::Changes(revision, changes) => {
                batch.pending.add(&changes);
                batch.count += changes.len();
                batch.changes.push((revision, changes));
                Ok(CommitOutcome::Committed(revision))
            }
        };
        batch.answers.push((outcome, answer));
    }

    /// On disk first, then in memory and to the watchers, then to those who asked.
    fn make(&mut self, batch: Batch) {
        let written = match &mut self.disk {
            Some(disk) if !batch.changes.is_empty() => disk.write(&batch.changes),
            _ => Ok(()),
        };
        if let Err(error) = written {
            for (_, answer) in batch.answers {
                let _ = answer.send(Err(error.again()));
            }
            return;
        }
        for (revision, changes) in batch.changes {
            lock(&self.engine).apply(revision, changes);
        }
        for (outcome, answer) in batch.answers {
            let _ = answer.send(outcome);
        }
    }

    fn grant(&mut self, ttl: Duration) -> Result<Lease, StoreError> {
        self.recover()?;
        let id = lock(&self.engine).next_lease();
        if let Some(disk) = &mut self.disk {
            disk.write_lease(id, Some(ttl))?;
        }
        Ok(lock(&self.engine).add_lease(id, ttl, Instant::now()))
    }

    fn revoke(&mut self, id: LeaseId) -> Result<(), StoreError> {
        self.recover()?;
        let keys = lock(&self.engine).leased(id).ok_or(StoreError::LeaseGone(id.0))?;
        let txn = Txn {
            conditions: Vec::new(),
            ops: keys.into_iter().map(|key| Op::Delete { key }).collect(),
        };
        let verdict = lock(&self.engine).judge(&txn, &Pending::default());
        if let Verdict::Changes(revision, changes) = verdict {
            let mut made = [(revision, changes)];
            if let Some(disk) = &mut self.disk {
                disk.write(&made)?;
            }
            let [(_, changes)] = &mut made;
            lock(&self.engine).apply(revision, std::mem::take(changes));
        }
        if let Some(disk) = &mut self.disk {
            disk.write_lease(id, None)?;
        }
        lock(&self.engine).forget_lease(id);
        Ok(())
    }

    fn expire(&mut self) {
        let expired = lock(&self.engine).expired(Instant::now());
        for id in expired {
            // A disk that refuses keeps the lease: the next round tries again.
            if let Err(error) = self.revoke(id) {
                tracing::warn!(lease = id.0, %error, "an expired lease cannot be removed yet");
                std::thread::sleep(CATCH_UP);
            }
        }
    }
}
