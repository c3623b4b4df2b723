//! A store on etcd, v3.
//!
//! etcd's own revisions, transactions, leases and watches are this store's. One follower watches everything under the prefix from the
//! revision after the last one seen and keeps a copy, from which the watches of this process are served; where etcd has compacted what
//! is missing, or is not the etcd that was followed any more, everything is read anew.

mod client;
mod convert;
mod follow;
#[allow(
    missing_docs,
    missing_debug_implementations,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    unreachable_pub,
    unused_qualifications,
    dead_code,
    reason = "generated code"
)]
mod wire {
    tonic::include_proto!("etcdserverpb");
}

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nv_types::Revision;
use tokio::task::JoinHandle;

use crate::check::check;
use crate::cluster::{self, TlsOptions};
use crate::mirror::Mirror;
use crate::types::{CommitOutcome, KeyValue, Lease, LeaseId, Listing, Txn, WatchStream};
use crate::{KvStore, StoreError};
use client::Client;

/// Where etcd is and how it is spoken to.
#[derive(Clone)]
pub struct EtcdOptions {
    /// Members, `http://HOST:PORT` or `https://HOST:PORT`; the next one is asked when one does not answer.
    pub endpoints: Vec<String>,
    /// All keys are under this one.
    pub prefix: String,
    /// User and password, where etcd asks for one.
    pub user: Option<(String, String)>,
    /// For `https`.
    pub tls: TlsOptions,
}

impl std::fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdOptions")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl EtcdOptions {
    /// These addresses, with keys under `nv/`.
    #[must_use]
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            prefix: "nv".into(),
            user: None,
            tls: TlsOptions::default(),
        }
    }
}

/// A store on etcd. Clones share it; it is closed when the last one is gone.
#[derive(Clone, Debug)]
pub struct EtcdStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: Client,
    mirror: Arc<Mirror>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl EtcdStore {
    /// Connects, and reads everything once.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when no member answers, [`StoreError::Denied`] when the user may not read.
    pub async fn connect(options: EtcdOptions) -> Result<Self, StoreError> {
        cluster::check(&options.endpoints, &options.prefix, &options.tls)?;
        let client = Client::new(options)?;
        let mirror = Arc::new(Mirror::default());
        let place = follow::begin(&client, &mirror).await?;
        let slow = Arc::clone(&mirror);
        let tasks = vec![
            tokio::spawn(follow::run(client.clone(), Arc::clone(&mirror), place)),
            tokio::spawn(async move { slow.serve_the_slow().await }),
        ];
        Ok(Self {
            inner: Arc::new(Inner {
                client,
                mirror,
                tasks,
            }),
        })
    }

    /// Forgets what was before a revision, on all of etcd: watches from before it are told to begin anew.
    ///
    /// # Errors
    /// As [`KvStore::get`].
    pub async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.client.compact(revision).await
    }
}

#[async_trait]
impl KvStore for EtcdStore {
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        self.inner.client.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.inner.client.list(prefix).await.map(|(listing, _)| listing)
    }

    async fn commit(&self, txn: Txn) -> Result<CommitOutcome, StoreError> {
        check(&txn)?;
        self.inner.client.commit(txn).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StoreError> {
        self.inner.mirror.watch(self, prefix, from).await
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.inner.client.lease_grant(ttl).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Lease, StoreError> {
        self.inner.client.lease_keep_alive(id).await
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        self.inner.client.lease_revoke(id).await
    }
}
