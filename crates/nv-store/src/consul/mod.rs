//! A store on Consul, 1.8 to current.
//!
//! Consul tells by a blocking query *that* something under a prefix has changed, not what: two quick changes of a key look like one. So each
//! transaction also writes what it does as one entry of a short log, in the same Raft entry. Followers block on the log, see every
//! change in the order of Consul's index, which is the store's revision, and read all anew only where the log no longer reaches back.
//!
//! ```text
//! <prefix>/data/<key>    the entries; Consul's flags hold the lease
//! <prefix>/log/<random>  what one transaction did
//! <prefix>/log/!floor    everything up to this revision has been cut off
//! <prefix>/lease/<id>    time of a lease and how often it was renewed
//! <prefix>/head          written by each transaction: its index is the store's revision
//! ```
//!
//! Leases are not Consul's sessions: those last ten seconds at least and end up to twice as late. A lease ends when some process of
//! this store has seen it unchanged for its time, by its own steady clock; the transaction that ends it fails if it was renewed meanwhile.

mod follow;
mod http;
mod lease;
mod log;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nv_types::Revision;
use tokio::task::JoinHandle;

use crate::check::check;
use crate::cluster::{self, TlsOptions};
use crate::mirror::Mirror;
use crate::types::{CommitOutcome, Expect, KeyValue, Lease, LeaseId, Listing, Op, Txn, WatchStream};
use crate::{KvStore, StoreError};
use http::{Answer, Http, Op as Kv, Pair};

/// Operations that Consul takes in a transaction.
const MAX_CONSUL_OPS: usize = 64;
/// Bytes of a transaction's body that Consul takes.
const MAX_BODY: usize = 512 * 1024;

/// Where Consul is and how it is spoken to.
#[derive(Clone, Debug)]
pub struct ConsulOptions {
    /// Agents or servers, `http://HOST:PORT` or `https://HOST:PORT`; the next one is asked when one does not answer.
    pub endpoints: Vec<String>,
    /// All keys are under this one.
    pub prefix: String,
    /// ACL token. It needs `key_prefix "<prefix>/" { policy = "write" }`.
    pub token: Option<String>,
    /// For `https`.
    pub tls: TlsOptions,
}

impl ConsulOptions {
    /// These addresses, with keys under `nv/`.
    #[must_use]
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            prefix: "nv".into(),
            token: None,
            tls: TlsOptions::default(),
        }
    }
}

/// A store on Consul. Clones share it; it is closed when the last one is gone.
#[derive(Clone, Debug)]
pub struct ConsulStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    server: Server,
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

impl ConsulStore {
    /// Connects, and reads everything once.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when no server answers, [`StoreError::Denied`] when the token may not write.
    pub async fn connect(options: ConsulOptions) -> Result<Self, StoreError> {
        cluster::check(&options.endpoints, &options.prefix, &options.tls)?;
        let server = Server {
            http: Arc::new(Http::new(&options)?),
            root: options.prefix.clone().into(),
        };
        server.begin().await?;
        let mirror = Arc::new(Mirror::default());
        let last = follow::read(&server, &mirror, false).await?;
        // The follower's own queries wait for long: they have connections of their own.
        let follower = Server {
            http: Arc::new(Http::new(&options)?),
            ..server.clone()
        };
        let slow = Arc::clone(&mirror);
        let tasks = vec![
            tokio::spawn(follow::run(follower.clone(), Arc::clone(&mirror), last)),
            tokio::spawn(lease::expire(follower, Arc::clone(&mirror))),
            tokio::spawn(async move { slow.serve_the_slow().await }),
        ];
        Ok(Self {
            inner: Arc::new(Inner {
                server,
                mirror,
                tasks,
            }),
        })
    }
}

#[async_trait]
impl KvStore for ConsulStore {
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        self.inner.server.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.inner.server.list(prefix).await.map(|(listing, _)| listing)
    }

    async fn commit(&self, txn: Txn) -> Result<CommitOutcome, StoreError> {
        check(&txn)?;
        self.inner.server.commit(&txn).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StoreError> {
        self.inner.mirror.watch(self, prefix, from).await
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.inner.server.lease_grant(ttl).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Lease, StoreError> {
        self.inner.server.lease_keep_alive(id).await
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        self.inner.server.lease_revoke(id).await
    }
}

/// Keys and transactions of one store on Consul.
#[derive(Clone, Debug)]
struct Server {
    http: Arc<Http>,
    root: Arc<str>,
}

impl Server {
    fn data(&self, key: &str) -> String {
        format!("{}/data/{key}", self.root)
    }

    fn log(&self, id: &str) -> String {
        format!("{}/log/{id}", self.root)
    }

    fn lease(&self, id: &str) -> String {
        format!("{}/lease/{id}", self.root)
    }

    fn head(&self) -> String {
        format!("{}/head", self.root)
    }

    /// Makes the head, where there is none yet.
    async fn begin(&self) -> Result<(), StoreError> {
        let ops = [Kv::absent(self.head()), Kv::set(self.head(), b"", 0)];
        self.http.txn(&ops).await.map(drop)
    }

    fn entry(&self, pair: &Pair) -> Result<KeyValue, StoreError> {
        let key = pair.key.strip_prefix(&*self.data("")).unwrap_or(&pair.key);
        Ok(KeyValue {
            key: key.to_owned(),
            value: pair.bytes()?,
            create_revision: Revision(pair.create_index),
            mod_revision: Revision(pair.modify_index),
            lease: (pair.flags != 0).then_some(LeaseId(pair.flags)),
        })
    }

    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        loop {
            let there = [Kv::get(self.head()), Kv::get(self.data(key))];
            match self.http.txn(&there).await? {
                Answer::Done(pairs) if pairs.len() == 2 => {
                    return Ok((Some(self.entry(&pairs[1])?), Revision(pairs[0].modify_index)));
                }
                Answer::Done(_) => return Err(nonsense("half of what was asked for")),
                Answer::Failed(0) => self.begin().await?,
                Answer::Failed(_) => {
                    let gone = [Kv::get(self.head()), Kv::absent(self.data(key))];
                    if let Answer::Done(pairs) = self.http.txn(&gone).await? {
                        let head = pairs.first().ok_or_else(|| nonsense("nothing"))?;
                        return Ok((None, Revision(head.modify_index)));
                    }
                    // It was made in between: look again.
                }
            }
        }
    }

    /// Entries, and the name of the log's last entry.
    async fn list(&self, prefix: &str) -> Result<(Listing, String), StoreError> {
        loop {
            let ops = [Kv::get(self.head()), Kv::tree(self.data(prefix))];
            let Answer::Done(pairs) = self.http.txn(&ops).await? else {
                self.begin().await?;
                continue;
            };
            let (head, pairs) = pairs.split_first().ok_or_else(|| nonsense("nothing"))?;
            let mut entries = pairs
                .iter()
                .map(|pair| self.entry(pair))
                .collect::<Result<Vec<_>, _>>()?;
            entries.sort_by(|a, b| a.key.cmp(&b.key));
            let listing = Listing {
                entries,
                revision: Revision(head.modify_index),
            };
            let last = String::from_utf8_lossy(&head.bytes()?).into_owned();
            return Ok((listing, last));
        }
    }

    async fn commit(&self, txn: &Txn) -> Result<CommitOutcome, StoreError> {
        let mut ops = Vec::with_capacity(txn.ops.len() + txn.conditions.len() + 2);
        for condition in &txn.conditions {
            let key = self.data(&condition.key);
            ops.push(match condition.expect {
                Expect::Absent => Kv::absent(key),
                Expect::Present => Kv::get(key),
                Expect::Revision(revision) => Kv::unchanged(key, revision.0),
            });
        }
        let leases: Vec<LeaseId> = txn
            .ops
            .iter()
            .filter_map(|op| match op {
                Op::Put { lease, .. } => *lease,
                Op::Delete { .. } => None,
            })
            .collect();
        ops.extend(leases.iter().map(|id| Kv::get(self.lease(&lease::name(*id)))));
        let checks = ops.len();
        let id = format!("{:016x}", cluster::random());
        ops.push(Kv::set(self.head(), id.as_bytes(), 0));
        ops.push(Kv::set(self.log(&id), &log::encode(&txn.ops), 0));
        ops.extend(txn.ops.iter().map(|op| match op {
            Op::Put { key, value, lease } => Kv::set(self.data(key), value, lease.map_or(0, |id| id.0)),
            Op::Delete { key } => Kv::delete(self.data(key)),
        }));
        if ops.len() > MAX_CONSUL_OPS {
            let (all, own) = (ops.len(), ops.len() - txn.ops.len() - txn.conditions.len());
            return Err(StoreError::BeyondLimit {
                detail: format!(
                    "Consul takes {MAX_CONSUL_OPS} operations and conditions in one transaction, and this change needs {all}, {own} of them nv's own: \
                     make it in smaller ones, or fill the store with 'nv-controller store import'"
                ),
            });
        }
        match self.http.txn(&ops).await? {
            Answer::Done(pairs) => {
                let head = self.head();
                let made = pairs.iter().find(|pair| pair.key == head);
                let made = made.ok_or_else(|| nonsense("no index of a transaction"))?;
                Ok(CommitOutcome::Committed(Revision(made.modify_index)))
            }
            Answer::Failed(index) if index < txn.conditions.len() => {
                let key = txn.conditions[index].key.clone();
                let (entry, _) = self.get(&key).await?;
                Ok(CommitOutcome::Conflict {
                    key,
                    actual: entry.map(|entry| entry.mod_revision),
                })
            }
            Answer::Failed(index) if index < checks => {
                Err(StoreError::LeaseGone(leases[index - txn.conditions.len()].0))
            }
            Answer::Failed(index) => Err(nonsense(&format!("operation {index} of a transaction failed"))),
        }
    }
}

fn nonsense(what: &str) -> StoreError {
    StoreError::Unavailable {
        detail: format!("Consul answered {what}"),
    }
}
