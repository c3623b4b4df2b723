//! Key-value store of nv: one trait, a watch that never silently skips, leases, leader election.
//!
//! Backends: [`LocalStore`] in memory or on one file (redb, synced on each commit), [`RemoteStore`] over any transport, and for several
//! processes on one state the `consul` and `etcd` features. A stranger's backend is one that passes [`conformance`].
//!
//! ```
//! use nv_store::{CommitOutcome, Expect, KvStore, LocalStore, Revision, Txn, WatchEvent};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let store = LocalStore::memory().unwrap();
//! let mut watch = store.watch("policy/", Revision(0)).await.unwrap();
//! assert!(matches!(watch.recv().await, Some(WatchEvent::Resync(_))));
//! let txn = Txn::new().when("policy/a", Expect::Absent).put("policy/a", "1");
//! assert!(matches!(store.commit(txn).await.unwrap(), CommitOutcome::Committed(_)));
//! assert!(matches!(watch.recv().await, Some(WatchEvent::Changes { .. })));
//! # });
//! ```
#![forbid(unsafe_code)]

use std::time::Duration;

use async_trait::async_trait;
pub use nv_types::Revision;

#[cfg(feature = "archive")]
pub mod archive;
mod check;
#[cfg(feature = "cluster")]
mod cluster;
pub mod conformance;
#[cfg(feature = "consul")]
pub mod consul;
mod disk;
pub mod election;
mod engine;
mod error;
#[cfg(feature = "etcd")]
pub mod etcd;
pub mod history;
mod local;
#[cfg(feature = "cluster")]
mod mirror;
pub mod remote;
pub mod repair;
mod seal;
#[cfg(feature = "test-util")]
pub mod testing;
mod types;

pub use check::{MAX_KEY, MAX_OPS, MAX_TXN, check};
#[cfg(feature = "cluster")]
pub use cluster::TlsOptions;
#[cfg(feature = "consul")]
pub use consul::{ConsulOptions, ConsulStore};
pub use error::StoreError;
#[cfg(feature = "etcd")]
pub use etcd::{EtcdOptions, EtcdStore};
pub use local::{EmbeddedStore, LocalStore, MemoryStore};
pub use remote::RemoteStore;
pub use types::{
    Change, CommitOutcome, Condition, Expect, KeyValue, Lease, LeaseId, Listing, MAX_VALUE, Op, Txn,
    WatchEvent, WatchStream,
};

/// A key-value store. Every backend, also a stranger's, must pass `nv_store::conformance`.
#[async_trait]
pub trait KvStore: Send + Sync + 'static {
    /// The entry of a key, and the store's revision at the time of reading.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the store cannot be reached.
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError>;

    /// Every entry whose key starts with `prefix`, sorted by key, as of one revision.
    ///
    /// # Errors
    /// As [`KvStore::get`].
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError>;

    /// Applies all operations at one new revision if every condition holds, else nothing.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::BeyondLimit`], [`StoreError::InvalidKey`], [`StoreError::Unavailable`]. A condition that does not
    /// hold is no error: see [`CommitOutcome::Conflict`].
    async fn commit(&self, txn: Txn) -> Result<CommitOutcome, StoreError>;

    /// Every change under `prefix` from revision `from` on (that one included), in order, at least once, or
    /// [`WatchEvent::Resync`]. `Revision(0)` asks for a snapshot first. Bounded: a slow consumer gets a `Resync`.
    ///
    /// # Errors
    /// As [`KvStore::get`].
    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StoreError>;

    /// A new lease; entries put with it vanish when it expires.
    ///
    /// # Errors
    /// As [`KvStore::get`].
    async fn lease_grant(&self, ttl: Duration) -> Result<Lease, StoreError>;

    /// Starts the lease's time anew.
    ///
    /// # Errors
    /// [`StoreError::LeaseGone`] when it has expired.
    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Lease, StoreError>;

    /// Ends the lease and deletes its entries.
    ///
    /// # Errors
    /// As [`KvStore::lease_keep_alive`].
    async fn lease_revoke(&self, id: LeaseId) -> Result<(), StoreError>;
}
