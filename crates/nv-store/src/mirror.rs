//! A copy of what a server holds, kept by one follower, from which every watch of this process is served: one connection whatever the
//! number of watchers, one history, one bound.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nv_types::Revision;
use tokio::sync::Notify;

use crate::engine::Engine;
use crate::types::{Change, Listing, WatchStream};
#[cfg(feature = "consul")]
use crate::types::{KeyValue, LeaseId};
use crate::{KvStore, StoreError};

/// How often slow watchers are looked at while there are any.
const CATCH_UP: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
pub(crate) struct Mirror {
    engine: Mutex<Engine>,
    lagging: Notify,
}

impl Mirror {
    fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn revision(&self) -> Revision {
        self.engine().revision()
    }

    #[cfg(feature = "consul")]
    pub(crate) fn get(&self, key: &str) -> Option<KeyValue> {
        self.engine().get(key)
    }

    /// Keys that hang on leases, with their revisions.
    #[cfg(feature = "consul")]
    pub(crate) fn leased(&self) -> Vec<(LeaseId, String, Revision)> {
        self.engine().hanging()
    }

    /// Takes the next revision. Older ones are known already; deletions of what is not there are none.
    pub(crate) fn apply(&self, revision: Revision, changes: Vec<Change>) {
        let mut engine = self.engine();
        if revision <= engine.revision() {
            return;
        }
        let changes: Vec<_> = changes
            .into_iter()
            .filter(|change| match change {
                Change::Put(_) => true,
                Change::Delete { key, .. } => engine.get(key).is_some(),
            })
            .collect();
        if changes.is_empty() {
            engine.advance(revision);
        } else {
            engine.apply(revision, changes);
        }
        drop(engine);
        self.lagging.notify_one();
    }

    /// Takes a whole state: see [`Engine::replace`].
    pub(crate) fn replace(&self, state: Listing, restored: bool) {
        self.engine().replace(state, restored);
        self.lagging.notify_one();
    }

    /// Serves watchers that were too slow, for ever.
    pub(crate) async fn serve_the_slow(&self) {
        loop {
            self.lagging.notified().await;
            while self.engine().catch_up() {
                tokio::time::sleep(CATCH_UP).await;
            }
        }
    }

    /// A watch as [`KvStore::watch`] promises it. The server is asked only for what is not known here.
    pub(crate) async fn watch(
        &self,
        server: &impl KvStore,
        prefix: &str,
        from: Revision,
    ) -> Result<WatchStream, StoreError> {
        if from != Revision(0) {
            let resumed = self.engine().resume(prefix, from);
            if let Some(stream) = resumed {
                return Ok(stream);
            }
            // The server may be ahead of this copy, and whoever asks with it.
            if from.0 > self.revision().0 + 1 {
                let (_, now) = server.get("-").await?;
                if from.0 <= now.0 + 1 {
                    let resumed = self.engine().resume_ahead(prefix, Revision(from.0 - 1));
                    if let Some(stream) = resumed {
                        return Ok(stream);
                    }
                }
            }
        }
        let state = server.list(prefix).await?;
        Ok(self.engine().join(prefix, state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{KeyValue, WatchEvent};

    fn revisions(stream: &mut WatchStream) -> Vec<(u64, bool)> {
        std::iter::from_fn(|| stream.try_recv().ok())
            .map(|event| match event {
                WatchEvent::Changes { revision, .. } => (revision.0, false),
                WatchEvent::Resync(state) => (state.revision.0, true),
            })
            .collect()
    }

    fn put(revision: u64) -> Vec<Change> {
        vec![Change::Put(entry(revision))]
    }

    fn entry(revision: u64) -> KeyValue {
        KeyValue {
            key: "k".into(),
            value: revision.to_be_bytes().to_vec(),
            create_revision: Revision(1),
            mod_revision: Revision(revision),
            lease: None,
        }
    }

    fn state(revision: u64) -> Listing {
        Listing {
            entries: vec![entry(revision)],
            revision: Revision(revision),
        }
    }

    #[test]
    fn a_watcher_that_knows_more_than_the_copy_is_told_nothing_twice() {
        let mirror = Mirror::default();
        mirror.replace(state(5), false);
        let mut ahead = mirror.engine().join("", state(8));
        let mut behind = mirror.engine().join("", state(5));
        for revision in 6..=9 {
            mirror.apply(Revision(revision), put(revision));
        }
        assert_eq!(revisions(&mut ahead), [(8, true), (9, false)]);
        assert_eq!(
            revisions(&mut behind),
            [(5, true), (6, false), (7, false), (8, false), (9, false)]
        );
        // The follower was away and read all anew: who knows as much is not told, who knows more neither.
        let mut ahead = mirror.engine().join("", state(20));
        mirror.replace(state(15), false);
        assert_eq!(revisions(&mut ahead), [(20, true)]);
        assert_eq!(revisions(&mut behind), [(15, true)]);
        mirror.apply(Revision(20), put(20));
        mirror.apply(Revision(21), put(21));
        assert_eq!(revisions(&mut ahead), [(21, false)]);
    }

    #[test]
    fn after_a_restore_everybody_begins_anew() {
        let mirror = Mirror::default();
        mirror.replace(state(5), false);
        let mut watcher = mirror.engine().join("", state(5));
        mirror.apply(Revision(50), put(50));
        mirror.replace(state(10), true);
        // The snapshot follows what already waited, when that has been read.
        assert_eq!(revisions(&mut watcher), [(5, true), (50, false)]);
        assert!(!mirror.engine().catch_up(), "nobody is behind any more");
        for revision in 11..=60 {
            mirror.apply(Revision(revision), put(revision));
        }
        assert_eq!(revisions(&mut watcher)[..2], [(10, true), (11, false)]);
        // One that was away meanwhile and asks with a number of the undone past is not answered from the new one.
        assert!(mirror.engine().resume("", Revision(51)).is_none());
        assert!(mirror.engine().resume_ahead("", Revision(50)).is_none());
        assert!(mirror.engine().resume("", Revision(52)).is_some());
    }
}
