//! Sessions that every controller of a store knows: under `session/<hash of the token>`, on a lease that ends when the session has been idle for too
//! long. A controller keeps those that it has seen; a deletion in the store ends them everywhere.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use nv_policy::{decode, encode};
use nv_store::{Change, LeaseId, StoreError, Txn, WatchEvent};
use nv_types::{Revision, Timestamp};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::auth::{Auth, LONGEST, Role, Session, digest, lock};
use crate::engine::now;

const SESSIONS: &str = "session/";

/// Value of `session/<hash>`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stored {
    user: String,
    role: Role,
    begun: Timestamp,
}

fn key_of(hash: &[u8; 32]) -> String {
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{SESSIONS}{hex}")
}

fn hash_of(key: &str) -> Option<[u8; 32]> {
    let hex = key
        .strip_prefix(SESSIONS)
        .filter(|hex| hex.len() == 64 && hex.is_ascii())?;
    let mut hash = [0; 32];
    for (place, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(place * 2..place * 2 + 2)?, 16).ok()?;
    }
    Some(hash)
}

impl Auth {
    /// Puts a new session into the store, where there are other controllers.
    pub(crate) async fn share(&self, token: &str, session: &Session) -> Result<Option<LeaseId>, StoreError> {
        if !self.shared {
            return Ok(None);
        }
        let key = key_of(&digest(token));
        let stored = Stored {
            user: session.user.clone(),
            role: session.role,
            begun: now(),
        };
        let value = encode(&key, &stored).map_err(|error| StoreError::Unavailable {
            detail: error.to_string(),
        })?;
        let lease = self.store.lease_grant(self.idle()).await?;
        self.store
            .commit(Txn::new().put_leased(key, value, lease.id))
            .await?;
        Ok(Some(lease.id))
    }

    /// Who this token stands for, wherever its session began; using it keeps the session alive.
    pub(crate) async fn find(&self, token: &str) -> Option<Session> {
        let hash = digest(token);
        if let Some(session) = self.session(token) {
            self.keep(&hash);
            return Some(session);
        }
        if !self.shared {
            return None;
        }
        let key = key_of(&hash);
        let (entry, _) = self.store.get(&key).await.ok()?;
        let entry = entry?;
        let stored: Stored = decode(&key, &entry.value).ok()?;
        let age = Duration::from_nanos(now().since(stored.begun));
        if age >= LONGEST {
            return None;
        }
        let session = Session {
            user: stored.user,
            role: stored.role,
            ended: CancellationToken::new(),
        };
        self.remember(hash, &session, entry.lease, age);
        self.keep(&hash);
        Some(session)
    }

    /// Keeps the lease of a session alive, not at every call but often enough.
    fn keep(&self, hash: &[u8; 32]) {
        let mut sessions = lock(&self.sessions);
        let Some(entry) = sessions.get_mut(hash) else {
            return;
        };
        let Some(lease) = entry.lease.filter(|_| entry.kept.elapsed() > self.idle() / 8) else {
            return;
        };
        entry.kept = std::time::Instant::now();
        drop(sessions);
        let store = Arc::clone(&self.store);
        // A lease that is gone takes the session along by the store's watch.
        tokio::spawn(async move { store.lease_keep_alive(lease).await.map(drop) });
    }

    /// Takes a session out of the store.
    pub(crate) async fn unshare(&self, hash: &[u8; 32]) {
        if self.shared
            && let Err(error) = self.store.commit(Txn::new().delete(key_of(hash))).await
        {
            tracing::warn!(%error, "a session was ended here, but not yet at the other controllers");
        }
    }

    /// Takes all sessions of a user out of the store, but one.
    pub(crate) async fn end_shared(&self, user: &str, keep: Option<&[u8; 32]>) {
        if !self.shared {
            return;
        }
        let Ok(listing) = self.store.list(SESSIONS).await else {
            tracing::warn!(
                user,
                "sessions were ended here, but not yet at the other controllers"
            );
            return;
        };
        for entry in listing.entries {
            let of_user = decode::<Stored>(&entry.key, &entry.value).is_ok_and(|stored| stored.user == user);
            if let Some(hash) = hash_of(&entry.key).filter(|hash| of_user && Some(hash) != keep) {
                self.unshare(&hash).await;
            }
        }
    }

    /// Ends sessions here that were ended elsewhere, for as long as the controller runs.
    pub(crate) async fn follow(self: Arc<Self>, shutdown: CancellationToken) {
        if !self.shared {
            return;
        }
        let Ok(mut events) = self.store.watch(SESSIONS, Revision(0)).await else {
            return;
        };
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = shutdown.cancelled() => return,
            };
            match event {
                Some(WatchEvent::Changes { changes, .. }) => {
                    for change in changes {
                        if let Change::Delete { key, .. } = change
                            && let Some(hash) = hash_of(&key)
                        {
                            self.forget(&hash);
                        }
                    }
                }
                Some(WatchEvent::Resync(listing)) => {
                    let there: BTreeSet<_> = listing
                        .entries
                        .iter()
                        .filter_map(|entry| hash_of(&entry.key))
                        .collect();
                    let here: Vec<_> = lock(&self.sessions).keys().copied().collect();
                    // One that began after the snapshot was made is not in it: it is found again by its token.
                    for hash in here.iter().filter(|hash| !there.contains(*hash)) {
                        self.forget(hash);
                    }
                }
                None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nv_store::{KvStore, LocalStore};

    #[tokio::test]
    async fn a_session_is_known_to_all_and_ends_everywhere() {
        let store: Arc<dyn KvStore> = Arc::new(LocalStore::memory().unwrap());
        let idle = Duration::from_secs(1);
        let (one, password) = Auth::open(Arc::clone(&store), idle, true).await.unwrap();
        let (two, none) = Auth::open(Arc::clone(&store), idle, true).await.unwrap();
        assert!(none.is_none());
        let (one, two) = (Arc::new(one), Arc::new(two));
        let stop = CancellationToken::new();
        tokio::spawn(Arc::clone(&one).follow(stop.clone()));
        tokio::spawn(Arc::clone(&two).follow(stop.clone()));
        let from = "127.0.0.1".parse().unwrap();
        let password = password.unwrap();
        let (token, _) = one.login("admin", &password, from).await.unwrap();
        assert_eq!(two.find(&token).await.unwrap().user, "admin");
        assert!(two.find("guess").await.is_none());
        // Used at the other one only, for longer than it may be idle.
        for _ in 0..8 {
            tokio::time::sleep(idle / 4).await;
            assert!(two.find(&token).await.is_some());
        }
        assert!(one.find(&token).await.is_some());
        one.logout(&token).await;
        let end = std::time::Instant::now() + Duration::from_secs(5);
        while two.find(&token).await.is_some() {
            assert!(std::time::Instant::now() < end, "it lives on elsewhere");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Used nowhere.
        let (token, _) = one.login("admin", &password, from).await.unwrap();
        tokio::time::sleep(idle * 2).await;
        assert!(one.find(&token).await.is_none() && two.find(&token).await.is_none());
        stop.cancel();
    }
}
