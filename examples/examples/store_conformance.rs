//! How a backend of your own passes: implement `KvStore`, then run `conformance::run` on it. A case that fails is named, with what was
//! seen; here that is shown with a backend that gets one thing wrong.

#![allow(clippy::print_stdout, clippy::expect_used, reason = "an example")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nv_store::{
    CommitOutcome, KeyValue, KvStore, Lease, LeaseId, Listing, LocalStore, Revision, StoreError, Txn,
    WatchStream, conformance,
};

/// A stranger's backend. Behind it is a store in memory, where yours has a server or a file.
struct Mine {
    inner: LocalStore,
    /// A mistake that is easily made: the conditions of a transaction are forgotten.
    careless: bool,
}

#[async_trait]
impl KvStore for Mine {
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        self.inner.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.inner.list(prefix).await
    }

    async fn commit(&self, mut txn: Txn) -> Result<CommitOutcome, StoreError> {
        if self.careless {
            txn.conditions.clear();
        }
        self.inner.commit(txn).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StoreError> {
        self.inner.watch(prefix, from).await
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.inner.lease_grant(ttl).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Lease, StoreError> {
        self.inner.lease_keep_alive(id).await
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        self.inner.lease_revoke(id).await
    }
}

/// Runs every case, each on a fresh, empty store.
async fn check(careless: bool) -> Result<(), conformance::Failure> {
    conformance::run(|| async {
        let inner = LocalStore::memory().expect("a thread can be started");
        Arc::new(Mine { inner, careless }) as _
    })
    .await
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    check(false).await?;
    println!("a backend that does all of it: passed");
    match check(true).await {
        Ok(()) => anyhow::bail!("a backend that forgets conditions passed"),
        Err(failure) => println!("one that forgets conditions: failed in {failure}"),
    }
    Ok(())
}
