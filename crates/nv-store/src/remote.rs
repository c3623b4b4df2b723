//! A store behind a connection: any [`KvStore`] whose watches may break, made into one whose watches do not.

use std::time::Duration;

use async_trait::async_trait;
use nv_types::Revision;
use tokio::sync::mpsc;

use crate::types::{CommitOutcome, KeyValue, Lease, LeaseId, Listing, Txn, WatchEvent, WatchStream};
use crate::{KvStore, StoreError};

const QUEUE: usize = 256;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Where there are several servers, the next one is there already.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A store reached through `T`, a transport that speaks the calls of [`KvStore`] over some connection. A watch of `T` ends when its
/// connection does; a watch of this goes on from the revision after the last one seen, or with a `Resync`. Other
/// calls pass through, so that their caller learns of [`StoreError::Unavailable`] and decides.
#[derive(Clone, Debug)]
pub struct RemoteStore<T> {
    transport: T,
}

impl<T: KvStore + Clone> RemoteStore<T> {
    /// A store over this transport.
    pub const fn new(transport: T) -> Self {
        Self { transport }
    }
}

#[async_trait]
impl<T: KvStore + Clone> KvStore for RemoteStore<T> {
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        self.transport.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.transport.list(prefix).await
    }

    async fn commit(&self, txn: Txn) -> Result<CommitOutcome, StoreError> {
        self.transport.commit(txn).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StoreError> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let transport = self.transport.clone();
        tokio::spawn(follow(transport, prefix.to_owned(), from, sender));
        Ok(receiver)
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.transport.lease_grant(ttl).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Lease, StoreError> {
        self.transport.lease_keep_alive(id).await
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        self.transport.lease_revoke(id).await
    }
}

/// Passes events on until nobody listens any more.
async fn follow<T: KvStore>(transport: T, prefix: String, from: Revision, sender: mpsc::Sender<WatchEvent>) {
    let mut next = from;
    let mut pause = FIRST_PAUSE;
    // One word for one outage.
    let mut is_away = false;
    while !sender.is_closed() {
        match transport.watch(&prefix, next).await {
            Ok(mut stream) => loop {
                let event = tokio::select! {
                    event = stream.recv() => event,
                    () = sender.closed() => return,
                };
                let Some(event) = event else { break };
                let seen = match &event {
                    WatchEvent::Changes { revision, .. } => *revision,
                    WatchEvent::Resync(listing) => listing.revision,
                };
                if sender.send(event).await.is_err() {
                    return;
                }
                next = Revision(seen.0 + 1);
                pause = FIRST_PAUSE;
                is_away = false;
            },
            Err(error @ (StoreError::Denied { .. } | StoreError::InvalidKey { .. })) => {
                tracing::error!(prefix, %error, "watch refused");
                return;
            }
            Err(error) if !std::mem::replace(&mut is_away, true) => {
                tracing::warn!(prefix, %error, "the store cannot be watched, trying again and again");
            }
            Err(error) => tracing::debug!(prefix, %error, "the store cannot be watched yet"),
        }
        tokio::select! {
            () = tokio::time::sleep(jittered(pause)) => {}
            () = sender.closed() => return,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Spreads clients that lost one server: between half and all of the pause.
fn jittered(pause: Duration) -> Duration {
    let noise = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos());
    pause / 2 + pause.mul_f64(f64::from(noise % 1000) / 2000.0)
}
