//! Leader election on any store: whoever puts the key first, on a lease that is kept alive.
//!
//! A leader may be deposed without knowing it yet: a paused process, a lost connection. What is written *as leader* must
//! therefore carry the condition [`Leadership::fence`], which a deposed leader's transaction fails.

use std::sync::Arc;
use std::time::Duration;

use nv_types::Revision;
use tokio::sync::watch;

use crate::types::{CommitOutcome, Condition, Expect, LeaseId, Txn};
use crate::{KvStore, StoreError};

/// Being leader, until the lease is lost or this is dropped.
pub struct Leadership {
    store: Arc<dyn KvStore>,
    lease: LeaseId,
    key: String,
    revision: Revision,
    lost: watch::Receiver<bool>,
    keeper: tokio::task::JoinHandle<()>,
}

impl std::fmt::Debug for Leadership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leadership")
            .field("key", &self.key)
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

impl Leadership {
    /// Lets the next one lead at once. Where the store does not answer, it leads when the lease has run out.
    pub async fn resign(self) {
        self.keeper.abort();
        if let Err(error) = self.store.lease_revoke(self.lease).await {
            tracing::debug!(key = self.key, %error, "the lease of a leader runs out by itself");
        }
    }

    /// The condition that every write of this leader must carry.
    #[must_use]
    pub fn fence(&self) -> Condition {
        Condition {
            key: self.key.clone(),
            expect: Expect::Revision(self.revision),
        }
    }

    /// Ends when leadership is lost.
    pub async fn lost(&mut self) {
        let _ = self.lost.wait_for(|lost| *lost).await;
    }
}

impl Drop for Leadership {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// Waits until `id` is leader of `key`.
///
/// # Errors
/// [`StoreError`] of the store; the caller decides whether to try again.
pub async fn campaign(
    store: Arc<dyn KvStore>,
    key: &str,
    id: &str,
    ttl: Duration,
) -> Result<Leadership, StoreError> {
    loop {
        // Watching begins before the try, so that a leader's end in between is not missed.
        let (_, seen) = store.get(key).await?;
        let mut watch = store.watch(key, Revision(seen.0 + 1)).await?;
        let lease = store.lease_grant(ttl).await?;
        let txn = Txn::new()
            .when(key, Expect::Absent)
            .put_leased(key, id.as_bytes(), lease.id);
        if let CommitOutcome::Committed(revision) = store.commit(txn).await? {
            let (tell, lost) = watch::channel(false);
            let keeper = tokio::spawn(keep(Arc::clone(&store), lease.id, ttl, tell));
            return Ok(Leadership {
                store,
                lease: lease.id,
                key: key.to_owned(),
                revision,
                lost,
                keeper,
            });
        }
        store.lease_revoke(lease.id).await?;
        // Any change of the key, or the lease's time in case the watch was of no use.
        let _ = tokio::time::timeout(ttl, watch.recv()).await;
    }
}

async fn keep(store: Arc<dyn KvStore>, lease: LeaseId, ttl: Duration, lost: watch::Sender<bool>) {
    loop {
        tokio::time::sleep(ttl / 3).await;
        // One that does not answer in time is as good as one that says no: the lease runs out meanwhile.
        let kept = tokio::time::timeout(ttl / 3, store.lease_keep_alive(lease)).await;
        if !matches!(kept, Ok(Ok(_))) {
            let _ = lost.send(true);
            return;
        }
    }
}
