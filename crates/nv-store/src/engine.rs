//! The state that a store of this process serves from: entries, recent history, watchers, leases. Pure: time comes in.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use nv_types::Revision;
use tokio::sync::mpsc;

use crate::types::{
    Change, CommitOutcome, Expect, KeyValue, Lease, LeaseId, Listing, Op, Txn, WatchEvent, WatchStream,
};

/// Revisions that a watch can ask back for.
const HISTORY: usize = 4096;
/// Bytes of their changes: large values must not fill the memory.
const HISTORY_BYTES: usize = 16 << 20;
/// What a change takes beside its key and value.
const CHANGE_BYTES: usize = size_of::<Change>();
/// Events that wait for a watcher before it is told to resync.
const QUEUE: usize = 1024;
/// Bytes of the changes that wait for it: one that has stopped reading must not cost more than this.
const QUEUE_BYTES: usize = 768 << 10;

/// What a transaction would do.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Nothing: a condition does not hold, or there is nothing to change.
    Done(CommitOutcome),
    /// These changes, at this revision.
    Changes(Revision, Vec<Change>),
    /// A lease that it names is gone.
    LeaseGone(LeaseId),
}

/// Changes that were judged and are not yet on disk: what follows them is judged as if they were made.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// The last change of each key; `None`: deleted.
    keys: BTreeMap<String, Option<KeyValue>>,
    revisions: u64,
}

impl Pending {
    pub(crate) fn add(&mut self, changes: &[Change]) {
        self.revisions += 1;
        for change in changes {
            match change {
                Change::Put(entry) => self.keys.insert(entry.key.clone(), Some(entry.clone())),
                Change::Delete { key, .. } => self.keys.insert(key.clone(), None),
            };
        }
    }
}

#[derive(Debug)]
struct Watcher {
    prefix: String,
    sender: mpsc::Sender<WatchEvent>,
    /// Knows everything up to this revision: what is older is not for it.
    after: Revision,
    /// It was full: what it missed is made good by a snapshot as soon as there is room.
    lagging: bool,
    /// Sizes of what was sent last; those at the end are of what still waits.
    sizes: VecDeque<usize>,
    waiting: usize,
}

impl Watcher {
    fn send(&mut self, event: WatchEvent, size: usize) {
        let events = self.sender.max_capacity() - self.sender.capacity();
        while self.sizes.len() > events
            && let Some(taken) = self.sizes.pop_front()
        {
            self.waiting -= taken;
        }
        let is_full = events > 0 && self.waiting + size > QUEUE_BYTES;
        self.lagging = is_full
            || matches!(
                self.sender.try_send(event),
                Err(mpsc::error::TrySendError::Full(_))
            );
        if !self.lagging {
            self.sizes.push_back(size);
            self.waiting += size;
        }
    }
}

#[derive(Debug)]
struct LeaseState {
    ttl: Duration,
    ends: Instant,
    keys: BTreeSet<String>,
}

/// Entries and everything about them.
#[derive(Debug, Default)]
pub(crate) struct Engine {
    entries: BTreeMap<String, KeyValue>,
    revision: Revision,
    history: VecDeque<(Revision, Vec<Change>)>,
    history_bytes: usize,
    /// Every change above this one is in the history.
    floor: Revision,
    /// Revisions up to this one may be of a past that was undone by a restore: nobody resumes from them.
    undone: Revision,
    watchers: Vec<Watcher>,
    leases: BTreeMap<LeaseId, LeaseState>,
    last_lease: u64,
}

impl Engine {
    /// State as it was read from disk. Leases begin anew: nobody could keep them alive meanwhile.
    pub(crate) fn restore(
        entries: BTreeMap<String, KeyValue>,
        revision: Revision,
        leases: &BTreeMap<u64, u64>,
        last_lease: u64,
        now: Instant,
    ) -> Self {
        let mut engine = Self {
            revision,
            floor: revision,
            last_lease,
            ..Self::default()
        };
        for (id, ttl) in leases {
            let ttl = Duration::from_millis(*ttl);
            engine.leases.insert(
                LeaseId(*id),
                LeaseState {
                    ttl,
                    ends: now + ttl,
                    keys: BTreeSet::new(),
                },
            );
            engine.last_lease = engine.last_lease.max(*id);
        }
        for entry in entries.values() {
            if let Some(lease) = entry.lease.and_then(|id| engine.leases.get_mut(&id)) {
                lease.keys.insert(entry.key.clone());
            }
        }
        engine.entries = entries;
        engine
    }

    pub(crate) const fn revision(&self) -> Revision {
        self.revision
    }

    pub(crate) fn get(&self, key: &str) -> Option<KeyValue> {
        self.entries.get(key).cloned()
    }

    pub(crate) fn list(&self, prefix: &str) -> Listing {
        let entries = self
            .entries
            .range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(_, entry)| entry.clone())
            .collect();
        Listing {
            entries,
            revision: self.revision,
        }
    }

    /// What the transaction would do at the next revision, after those that are pending.
    pub(crate) fn judge(&self, txn: &Txn, pending: &Pending) -> Verdict {
        let last = Revision(self.revision.0 + pending.revisions);
        let revision = Revision(last.0 + 1);
        let known = |key: &str| {
            let pending = pending.keys.get(key).map(Option::as_ref);
            pending.unwrap_or_else(|| self.entries.get(key))
        };
        for condition in &txn.conditions {
            let actual = known(&condition.key).map(|entry| entry.mod_revision);
            let holds = match condition.expect {
                Expect::Absent => actual.is_none(),
                Expect::Present => actual.is_some(),
                Expect::Revision(wanted) => actual == Some(wanted),
            };
            if !holds {
                return Verdict::Done(CommitOutcome::Conflict {
                    key: condition.key.clone(),
                    actual,
                });
            }
        }
        let mut changes = Vec::with_capacity(txn.ops.len());
        for op in &txn.ops {
            match op {
                Op::Put { key, value, lease } => {
                    if let Some(id) = lease.filter(|id| !self.leases.contains_key(id)) {
                        return Verdict::LeaseGone(id);
                    }
                    let create_revision = known(key).map_or(revision, |entry| entry.create_revision);
                    changes.push(Change::Put(KeyValue {
                        key: key.clone(),
                        value: value.clone(),
                        create_revision,
                        mod_revision: revision,
                        lease: *lease,
                    }));
                }
                Op::Delete { key } if known(key).is_some() => {
                    changes.push(Change::Delete {
                        key: key.clone(),
                        revision,
                    });
                }
                Op::Delete { .. } => {}
            }
        }
        if changes.is_empty() {
            return Verdict::Done(CommitOutcome::Committed(last));
        }
        Verdict::Changes(revision, changes)
    }

    /// Makes changes that are safe on disk and tells the watchers.
    pub(crate) fn apply(&mut self, revision: Revision, changes: Vec<Change>) {
        for change in &changes {
            let (key, entry) = match change {
                Change::Put(entry) => (&entry.key, Some(entry.clone())),
                Change::Delete { key, .. } => (key, None),
            };
            let before = match &entry {
                Some(entry) => self.entries.insert(key.clone(), entry.clone()),
                None => self.entries.remove(key),
            };
            if let Some(lease) = before
                .and_then(|entry| entry.lease)
                .and_then(|id| self.leases.get_mut(&id))
            {
                lease.keys.remove(key);
            }
            if let Some(lease) = entry
                .and_then(|entry| entry.lease)
                .and_then(|id| self.leases.get_mut(&id))
            {
                lease.keys.insert(key.clone());
            }
        }
        self.revision = revision;
        for watcher in &mut self.watchers {
            if watcher.lagging || revision <= watcher.after {
                continue;
            }
            let seen = under(&changes, &watcher.prefix);
            if !seen.is_empty() {
                let size = bytes(&seen);
                let event = WatchEvent::Changes {
                    revision,
                    changes: seen,
                };
                watcher.send(event, size);
            }
        }
        self.remember(revision, changes);
        self.catch_up();
    }

    /// Keeps changes for watches that ask back, as far as there is room.
    fn remember(&mut self, revision: Revision, changes: Vec<Change>) {
        self.history_bytes += bytes(&changes);
        self.history.push_back((revision, changes));
        while (self.history.len() > HISTORY || self.history_bytes > HISTORY_BYTES)
            && let Some((dropped, changes)) = self.history.pop_front()
        {
            self.history_bytes -= bytes(&changes);
            self.floor = dropped;
        }
    }

    /// Gives watchers that were too slow a snapshot, where there is room again. Gives whether some still wait.
    pub(crate) fn catch_up(&mut self) -> bool {
        let mut watchers = std::mem::take(&mut self.watchers);
        watchers.retain_mut(|watcher| {
            // Only once it has read what waited, or snapshot after snapshot would wait for one that reads nothing.
            let has_read = watcher.sender.capacity() == watcher.sender.max_capacity();
            if watcher.lagging
                && has_read
                && let Ok(permit) = watcher.sender.try_reserve()
            {
                permit.send(WatchEvent::Resync(self.list(&watcher.prefix)));
                watcher.lagging = false;
                // The snapshot counts for nothing, or one that is large would be followed by the next.
                watcher.sizes = VecDeque::from([0]);
                watcher.waiting = 0;
            }
            !watcher.sender.is_closed()
        });
        self.watchers = watchers;
        self.watchers.iter().any(|watcher| watcher.lagging)
    }

    pub(crate) fn watch(&mut self, prefix: &str, from: Revision) -> WatchStream {
        self.resume(prefix, from)
            .unwrap_or_else(|| self.join(prefix, self.list(prefix)))
    }

    /// A watch that goes on from a revision, if every change since is known here.
    pub(crate) fn resume(&mut self, prefix: &str, from: Revision) -> Option<WatchStream> {
        let known = from.0 > self.floor.0 && from.0 > self.undone.0 && from.0 <= self.revision.0 + 1;
        known.then(|| self.follow(prefix, Revision(from.0 - 1), None))
    }

    /// A watch of somebody who knows everything up to `after`, also where that is not known here yet. `None` when changes after it are
    /// forgotten.
    #[cfg(feature = "cluster")]
    pub(crate) fn resume_ahead(&mut self, prefix: &str, after: Revision) -> Option<WatchStream> {
        let known = after >= self.floor && after >= self.undone;
        known.then(|| self.follow(prefix, after, None))
    }

    /// A watch that begins with this state.
    pub(crate) fn join(&mut self, prefix: &str, state: Listing) -> WatchStream {
        // Changes after the state may be forgotten already: then the state here is the newer one.
        let state = if state.revision < self.floor {
            self.list(prefix)
        } else {
            state
        };
        self.follow(prefix, state.revision, Some(state))
    }

    fn follow(&mut self, prefix: &str, after: Revision, state: Option<Listing>) -> WatchStream {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let missed = self.since(prefix, Revision(after.0 + 1));
        let first = state.map(WatchEvent::Resync).into_iter();
        let events: Vec<_> = if missed.len() < QUEUE {
            first.chain(missed).collect()
        } else {
            vec![WatchEvent::Resync(self.list(prefix))]
        };
        for event in events {
            let _ = sender.try_send(event);
        }
        self.watchers.push(Watcher {
            prefix: prefix.to_owned(),
            sender,
            after,
            lagging: false,
            sizes: VecDeque::new(),
            waiting: 0,
        });
        receiver
    }

    /// Takes a whole state as it was read elsewhere. What lies between is not known, so every watcher gets it, but for those who know
    /// more already. `restored`: it is not a later state of the same past, so all that was known counts no more.
    #[cfg(feature = "cluster")]
    pub(crate) fn replace(&mut self, state: Listing, restored: bool) {
        if restored {
            self.undone = self.undone.max(Revision(self.revision.0 + 1));
        }
        self.revision = state.revision;
        self.floor = state.revision;
        self.history.clear();
        self.history_bytes = 0;
        self.entries = state
            .entries
            .into_iter()
            .map(|entry| (entry.key.clone(), entry))
            .collect();
        for watcher in &mut self.watchers {
            if restored || watcher.after < self.revision {
                watcher.after = Revision(0);
                watcher.lagging = true;
            }
        }
        self.catch_up();
    }

    /// Keys that hang on leases, with their revisions.
    #[cfg(feature = "consul")]
    pub(crate) fn hanging(&self) -> Vec<(LeaseId, String, Revision)> {
        self.entries
            .values()
            .filter_map(|entry| Some((entry.lease?, entry.key.clone(), entry.mod_revision)))
            .collect()
    }

    /// Notes that nothing happened up to this revision.
    #[cfg(feature = "cluster")]
    pub(crate) fn advance(&mut self, revision: Revision) {
        self.revision = self.revision.max(revision);
    }

    fn since(&self, prefix: &str, from: Revision) -> Vec<WatchEvent> {
        self.history
            .iter()
            .filter(|(revision, _)| *revision >= from)
            .filter_map(|(revision, changes)| {
                let changes = under(changes, prefix);
                (!changes.is_empty()).then_some(WatchEvent::Changes {
                    revision: *revision,
                    changes,
                })
            })
            .collect()
    }

    pub(crate) const fn next_lease(&mut self) -> LeaseId {
        self.last_lease += 1;
        LeaseId(self.last_lease)
    }

    pub(crate) fn add_lease(&mut self, id: LeaseId, ttl: Duration, now: Instant) -> Lease {
        self.leases.insert(
            id,
            LeaseState {
                ttl,
                ends: now + ttl,
                keys: BTreeSet::new(),
            },
        );
        Lease { id, ttl }
    }

    pub(crate) fn keep_alive(&mut self, id: LeaseId, now: Instant) -> Option<Lease> {
        let lease = self.leases.get_mut(&id).filter(|lease| lease.ends > now)?;
        lease.ends = now + lease.ttl;
        Some(Lease { id, ttl: lease.ttl })
    }

    /// Keys that hang on a lease; `None` when there is no such lease.
    pub(crate) fn leased(&self, id: LeaseId) -> Option<Vec<String>> {
        self.leases
            .get(&id)
            .map(|lease| lease.keys.iter().cloned().collect())
    }

    pub(crate) fn forget_lease(&mut self, id: LeaseId) {
        self.leases.remove(&id);
    }

    pub(crate) fn expired(&self, now: Instant) -> Vec<LeaseId> {
        self.leases
            .iter()
            .filter(|(_, lease)| lease.ends <= now)
            .map(|(id, _)| *id)
            .collect()
    }

    /// When the next lease ends.
    pub(crate) fn next_end(&self) -> Option<Instant> {
        self.leases.values().map(|lease| lease.ends).min()
    }
}

fn bytes(changes: &[Change]) -> usize {
    let bytes = |change: &Change| match change {
        Change::Put(entry) => entry.key.len() + entry.value.len(),
        Change::Delete { key, .. } => key.len(),
    };
    changes.iter().map(|change| CHANGE_BYTES + bytes(change)).sum()
}

fn under(changes: &[Change], prefix: &str) -> Vec<Change> {
    changes
        .iter()
        .filter(|change| match change {
            Change::Put(entry) => entry.key.starts_with(prefix),
            Change::Delete { key, .. } => key.starts_with(prefix),
        })
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(engine: &mut Engine, size: usize) {
        let revision = Revision(engine.revision.0 + 1);
        let entry = KeyValue {
            key: format!("k/{}", revision.0 % 3),
            value: vec![0; size],
            create_revision: revision,
            mod_revision: revision,
            lease: None,
        };
        engine.apply(revision, vec![Change::Put(entry)]);
    }

    /// What a watch from `from` begins with: the first revision that it is told of, or a snapshot.
    fn first(engine: &mut Engine, from: u64) -> Option<u64> {
        match engine.watch("k/", Revision(from)).try_recv() {
            Ok(WatchEvent::Changes { revision, .. }) => Some(revision.0),
            Ok(WatchEvent::Resync(_)) => None,
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn history_is_bounded_in_bytes() {
        let mut engine = Engine::default();
        let size = HISTORY_BYTES / 8;
        for _ in 0..100 {
            put(&mut engine, size);
            assert!(engine.history_bytes <= HISTORY_BYTES);
        }
        let held: usize = engine.history.iter().map(|(_, changes)| bytes(changes)).sum();
        assert_eq!(engine.history_bytes, held);
        assert_eq!(
            engine.history.len(),
            7,
            "what fits, with what a change takes beside its value"
        );
        // What is kept can be asked back for; all before it is a snapshot.
        assert_eq!(engine.floor, Revision(93));
        assert_eq!((first(&mut engine, 94), first(&mut engine, 93)), (Some(94), None));
        // Small ones have room again, and one that is too large for all of it leaves nothing behind.
        for _ in 0..1000 {
            put(&mut engine, 10);
        }
        assert!(engine.history.len() > 1000);
        put(&mut engine, HISTORY_BYTES + 1);
        assert_eq!((engine.history.len(), engine.history_bytes), (0, 0));
        assert_eq!(first(&mut engine, 1101), None);
        put(&mut engine, 1);
        assert_eq!(first(&mut engine, 1102), Some(1102));
    }

    #[test]
    fn history_is_bounded_in_revisions() {
        let mut engine = Engine::default();
        for _ in 0..=HISTORY {
            put(&mut engine, 1);
        }
        assert_eq!((engine.history.len(), engine.floor), (HISTORY, Revision(1)));
    }
}
