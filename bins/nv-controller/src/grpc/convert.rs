//! Between messages and the store's types.

use std::time::Duration;

use nv_api::grpc;
use nv_store::{
    Change, CommitOutcome, Condition, Expect, KeyValue, Lease, LeaseId, Listing, Op, StoreError, Txn,
    WatchEvent,
};
use nv_types::Revision;
use tonic::Status;

pub(super) fn entry(entry: KeyValue) -> grpc::KeyValue {
    grpc::KeyValue {
        key: entry.key,
        value: entry.value,
        create_revision: entry.create_revision.0,
        mod_revision: entry.mod_revision.0,
        lease: entry.lease.map_or(0, |id| id.0),
    }
}

pub(super) fn listing(listing: Listing) -> grpc::ListReply {
    grpc::ListReply {
        entries: listing.entries.into_iter().map(entry).collect(),
        revision: listing.revision.0,
    }
}

pub(super) fn event(event: WatchEvent) -> grpc::WatchReply {
    match event {
        WatchEvent::Changes { revision, changes } => grpc::WatchReply {
            changes: changes.into_iter().map(change).collect(),
            resync: None,
            revision: revision.0,
        },
        WatchEvent::Resync(state) => {
            let revision = state.revision.0;
            grpc::WatchReply {
                changes: Vec::new(),
                resync: Some(listing(state)),
                revision,
            }
        }
    }
}

fn change(change: Change) -> grpc::Change {
    let (revision, change) = match change {
        Change::Put(put) => (put.mod_revision, grpc::change::Change::Put(entry(put))),
        Change::Delete { key, revision } => (revision, grpc::change::Change::Delete(key)),
    };
    grpc::Change {
        revision: revision.0,
        change: Some(change),
    }
}

pub(super) fn txn(request: grpc::CommitRequest) -> Result<Txn, Status> {
    let missing = |what: &'static str| Status::invalid_argument(format!("{what} is missing"));
    let mut txn = Txn::new();
    for condition in request.conditions {
        let expect = match condition.expect.ok_or_else(|| missing("conditions.expect"))? {
            grpc::condition::Expect::Absent(_) => Expect::Absent,
            grpc::condition::Expect::Present(_) => Expect::Present,
            grpc::condition::Expect::ModRevision(revision) => Expect::Revision(Revision(revision)),
        };
        txn.conditions.push(Condition {
            key: condition.key,
            expect,
        });
    }
    for op in request.ops {
        txn.ops.push(match op.op.ok_or_else(|| missing("ops.op"))? {
            grpc::op::Op::Put(put) => Op::Put {
                key: put.key,
                value: put.value,
                lease: (put.lease != 0).then_some(LeaseId(put.lease)),
            },
            grpc::op::Op::Delete(key) => Op::Delete { key },
        });
    }
    Ok(txn)
}

pub(super) fn outcome(outcome: CommitOutcome) -> grpc::CommitReply {
    match outcome {
        CommitOutcome::Committed(revision) => grpc::CommitReply {
            revision: revision.0,
            failed_key: None,
            failed_revision: 0,
        },
        CommitOutcome::Conflict { key, actual } => grpc::CommitReply {
            revision: 0,
            failed_key: Some(key),
            failed_revision: actual.map_or(0, |revision| revision.0),
        },
    }
}

pub(super) fn lease(lease: Lease) -> grpc::LeaseGrantReply {
    grpc::LeaseGrantReply {
        id: lease.id.0,
        ttl_ms: millis(lease.ttl),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn status(error: StoreError) -> Status {
    let text = error.to_string();
    match error {
        StoreError::Unavailable { .. } => Status::unavailable(text),
        StoreError::TooLarge { .. } | StoreError::BeyondLimit { .. } | StoreError::InvalidKey { .. } => {
            Status::invalid_argument(text)
        }
        StoreError::LeaseGone(_) => Status::not_found(text),
        StoreError::Denied { .. } => Status::permission_denied(text),
        _ => Status::internal(text),
    }
}
