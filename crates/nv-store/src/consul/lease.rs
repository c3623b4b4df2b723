//! Leases: a key each, renewed by writing it, ended by whoever has seen it unchanged for its time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Server;
use super::http::{Answer, Op as Kv, Pair};
use crate::StoreError;
use crate::cluster::{self, FIRST_PAUSE, next_pause};
use crate::mirror::Mirror;
use crate::types::{Expect, Lease, LeaseId, Op, Txn};

/// Longest wait of one query.
const WAIT: Duration = Duration::from_secs(20);
/// Keys of one lease that are deleted in one transaction: each is a condition, a deletion and a look at the lease's absence.
const BATCH: usize = 16;

pub(super) fn name(id: LeaseId) -> String {
    format!("{:016x}", id.0)
}

impl Server {
    pub(super) async fn lease_grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        let id = LeaseId(cluster::random().max(1));
        let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1);
        let key = self.lease(&name(id));
        let ops = [
            Kv::absent(key.clone()),
            Kv::set(key, millis.to_string().as_bytes(), 0),
        ];
        match self.http.txn(&ops).await? {
            Answer::Done(_) => Ok(Lease {
                id,
                ttl: Duration::from_millis(millis),
            }),
            Answer::Failed(_) => Err(super::nonsense("that a new lease was there already")),
        }
    }

    pub(super) async fn lease_keep_alive(&self, id: LeaseId) -> Result<Lease, StoreError> {
        let key = self.lease(&name(id));
        loop {
            let Answer::Done(pairs) = self.http.txn(&[Kv::get(key.clone())]).await? else {
                return Err(StoreError::LeaseGone(id.0));
            };
            let Some((pair, ttl)) = pairs.first().and_then(|pair| Some((pair, time(pair)?))) else {
                return Err(super::nonsense("a lease without a time"));
            };
            let value = ttl.as_millis().to_string();
            let ops = [
                Kv::unchanged(key.clone(), pair.modify_index),
                Kv::set(key.clone(), value.as_bytes(), pair.flags.wrapping_add(1)),
            ];
            if let Answer::Done(_) = self.http.txn(&ops).await? {
                return Ok(Lease { id, ttl });
            }
        }
    }

    pub(super) async fn lease_revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        let key = self.lease(&name(id));
        // The lease first: nothing can be hung on it any more.
        let ops = [Kv::get(key.clone()), Kv::delete(key)];
        if let Answer::Failed(_) = self.http.txn(&ops).await? {
            return Err(StoreError::LeaseGone(id.0));
        }
        self.sweep(&name(id)).await
    }

    /// Deletes what hangs on a lease that has ended.
    async fn sweep(&self, lease: &str) -> Result<(), StoreError> {
        let (listing, _) = self.list("").await?;
        let hanging = listing
            .entries
            .into_iter()
            .filter(|entry| entry.lease.is_some_and(|id| name(id) == lease));
        self.drop_keys(hanging.map(|entry| (entry.key, entry.mod_revision)).collect())
            .await
    }

    /// Deletes keys as they are; those that were changed meanwhile stay.
    async fn drop_keys(&self, keys: Vec<(String, nv_types::Revision)>) -> Result<(), StoreError> {
        for batch in keys.chunks(BATCH) {
            let mut txn = Txn::new();
            for (key, revision) in batch {
                txn = txn.when(key, Expect::Revision(*revision));
                txn.ops.push(Op::Delete { key: key.clone() });
            }
            if let crate::CommitOutcome::Conflict { .. } = self.commit(&txn).await? {
                // One by one: only what was changed may stay.
                for (key, revision) in batch {
                    self.commit(&Txn::new().when(key, Expect::Revision(*revision)).delete(key))
                        .await?;
                }
            }
        }
        Ok(())
    }
}

fn time(pair: &Pair) -> Option<Duration> {
    let bytes = pair.bytes().ok()?;
    std::str::from_utf8(&bytes)
        .ok()?
        .parse()
        .ok()
        .map(Duration::from_millis)
}

/// A lease as it was last seen.
struct Seen {
    index: u64,
    ends: Instant,
}

/// Ends leases that nobody renews, for ever. Any number of processes may do it.
pub(super) async fn expire(server: Server, mirror: Arc<Mirror>) {
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    let mut index = 0;
    let mut pause = FIRST_PAUSE;
    loop {
        match look(&server, &mirror, &mut seen, &mut index).await {
            Ok(()) => pause = FIRST_PAUSE,
            Err(error) => {
                tracing::debug!(%error, "leases cannot be looked at, trying again");
                // What was not seen may have been renewed: every lease's time begins anew.
                seen.clear();
                index = 0;
                tokio::time::sleep(pause).await;
                pause = next_pause(pause);
            }
        }
    }
}

async fn look(
    server: &Server,
    mirror: &Mirror,
    seen: &mut BTreeMap<String, Seen>,
    index: &mut u64,
) -> Result<(), StoreError> {
    let next_end = seen.values().map(|seen| seen.ends).min();
    let wait = next_end.map_or(WAIT, |end| {
        end.saturating_duration_since(Instant::now()).min(WAIT)
    });
    let wait = if *index == 0 {
        Duration::ZERO
    } else {
        wait.max(Duration::from_millis(10))
    };
    let begun = Instant::now();
    let (pairs, now) = server.http.block(&server.lease(""), *index, wait).await?;
    // An answer that is long overdue comes from a process that was stopped meanwhile: it has not seen what it must have seen.
    if begun.elapsed() > wait + WAIT {
        seen.clear();
    }
    *index = if now < *index { 0 } else { now.max(1) };
    let here: BTreeSet<&str> = pairs.iter().map(|pair| pair.key.as_str()).collect();
    seen.retain(|key, _| here.contains(key.as_str()));
    let at = Instant::now();
    for pair in &pairs {
        let ttl = time(pair).unwrap_or(WAIT);
        match seen.get(&pair.key) {
            Some(known) if known.index == pair.modify_index => {
                if known.ends <= at {
                    // Fails when it was renewed meanwhile.
                    let ops = [
                        Kv::unchanged(pair.key.clone(), pair.modify_index),
                        Kv::delete(pair.key.clone()),
                    ];
                    if let Answer::Done(_) = server.http.txn(&ops).await? {
                        server.sweep(pair.key.rsplit('/').next().unwrap_or("")).await?;
                    }
                    *index = 0;
                }
            }
            _ => {
                let known = Seen {
                    index: pair.modify_index,
                    ends: at + ttl,
                };
                seen.insert(pair.key.clone(), known);
            }
        }
    }
    orphans(server, mirror, &here).await
}

/// Deletes keys whose lease was ended by a process that died before it could delete them.
async fn orphans(server: &Server, mirror: &Mirror, leases: &BTreeSet<&str>) -> Result<(), StoreError> {
    let mut gone: BTreeMap<LeaseId, bool> = BTreeMap::new();
    let mut orphans = Vec::new();
    for (id, entry, revision) in mirror.leased() {
        let key = server.lease(&name(id));
        if leases.contains(key.as_str()) {
            continue;
        }
        // The list of leases may be older than the entry.
        let ended = match gone.get(&id) {
            Some(ended) => *ended,
            None => matches!(server.http.txn(&[Kv::absent(key)]).await?, Answer::Done(_)),
        };
        gone.insert(id, ended);
        if ended {
            orphans.push((entry, revision));
        }
    }
    server.drop_keys(orphans).await
}
