//! Whose leases they are. Their numbers are easily guessed, so a number alone must not end another node's lease.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nv_store::{KvStore, Lease, LeaseId};
use nv_types::{NodeId, keys};
use tonic::Status;

use super::convert;
use crate::engine::agent_may_write;

/// Leases of one node at once.
const MOST: usize = 32;

/// Leases that were granted here, until they end.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    owners: Mutex<BTreeMap<LeaseId, (NodeId, Instant)>>,
}

impl Leases {
    fn owners(&self) -> MutexGuard<'_, BTreeMap<LeaseId, (NodeId, Instant)>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the node may have one more.
    pub(super) fn room(&self, node: &NodeId) -> Result<(), Status> {
        let mut owners = self.owners();
        let now = Instant::now();
        owners.retain(|_, (_, ends)| *ends > now);
        if owners.values().filter(|(owner, _)| owner == node).count() >= MOST {
            return Err(Status::resource_exhausted(format!(
                "'{node}' has {MOST} leases already"
            )));
        }
        Ok(())
    }

    /// Notes a lease that was granted or kept alive.
    pub(super) fn note(&self, node: &NodeId, lease: Lease) {
        self.owners()
            .insert(lease.id, (node.clone(), Instant::now() + lease.ttl));
    }

    pub(super) fn forget(&self, id: LeaseId) {
        self.owners().remove(&id);
    }

    /// Whether the lease is the node's: granted here, or, by a controller before this one, for keys of the node.
    pub(super) async fn check(&self, node: &NodeId, id: LeaseId, store: &dyn KvStore) -> Result<(), Status> {
        let known = self.owners().get(&id).map(|(owner, _)| owner == node);
        match known {
            Some(true) => return Ok(()),
            Some(false) => {
                tracing::warn!(%node, lease = id.0, "an agent named a lease that is not its own");
                return Err(Status::permission_denied(format!(
                    "lease {} is not of the agent of '{node}'",
                    id.0
                )));
            }
            None => {}
        }
        for prefix in [keys::node(node), keys::workloads_of(node)] {
            let listing = store.list(&prefix).await.map_err(convert::status)?;
            let hangs =
                |entry: &nv_store::KeyValue| entry.lease == Some(id) && agent_may_write(node, &entry.key);
            if listing.entries.iter().any(hangs) {
                return Ok(());
            }
        }
        Err(Status::not_found(format!("lease {} is gone", id.0)))
    }
}
