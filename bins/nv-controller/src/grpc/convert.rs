//! Between messages and the store's types.

use std::iter::Peekable;
use std::time::Duration;
use std::vec;

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

/// About as many bytes of keys and values of a snapshot go into one message. The transport takes a message whole, however little of it the
/// other end reads; so this is also what a slow agent's snapshot takes of memory.
const PART: usize = 64 << 10;

/// The messages of an event, in order: several for a snapshot that is not small.
pub(super) fn event(event: WatchEvent) -> Parts {
    match event {
        WatchEvent::Changes { revision, changes } => Parts::Changes(Some(grpc::WatchReply {
            changes: changes.into_iter().map(change).collect(),
            resync: None,
            revision: revision.0,
            more: false,
        })),
        WatchEvent::Resync(state) => Parts::Snapshot {
            revision: state.revision.0,
            left: Some(state.entries.into_iter().peekable()),
        },
    }
}

/// See [`event`].
pub(super) enum Parts {
    Changes(Option<grpc::WatchReply>),
    Snapshot {
        revision: u64,
        left: Option<Peekable<vec::IntoIter<KeyValue>>>,
    },
}

impl Iterator for Parts {
    type Item = grpc::WatchReply;

    fn next(&mut self) -> Option<grpc::WatchReply> {
        let (revision, left) = match self {
            Self::Changes(reply) => return reply.take(),
            Self::Snapshot { revision, left } => (*revision, left),
        };
        let mut all = left.take()?;
        let (mut entries, mut bytes) = (Vec::new(), 0);
        while bytes < PART
            && let Some(next) = all.next()
        {
            bytes += next.key.len() + next.value.len();
            entries.push(entry(next));
        }
        let more = all.peek().is_some();
        *left = more.then_some(all);
        Some(grpc::WatchReply {
            changes: Vec::new(),
            resync: Some(grpc::ListReply { entries, revision }),
            revision,
            more,
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn state(keys: usize) -> Listing {
        let entry = |n: usize| KeyValue {
            key: format!("workload/n/{n}"),
            value: vec![7; 900],
            create_revision: Revision(1),
            mod_revision: Revision(2),
            lease: None,
        };
        Listing {
            entries: (0..keys).map(entry).collect(),
            revision: Revision(9),
        }
    }

    #[test]
    fn a_snapshot_goes_out_in_parts_and_is_whole() {
        for keys in [0, 1, 72, 73, 1000] {
            let parts: Vec<_> = event(WatchEvent::Resync(state(keys))).collect();
            let (last, others) = parts.split_last().unwrap();
            assert!(!last.more && others.iter().all(|part| part.more), "{keys}");
            assert_eq!(others.is_empty(), keys <= 72, "{keys}");
            for part in &parts {
                assert_eq!(part.revision, 9);
                let bytes = |entry: &grpc::KeyValue| entry.key.len() + entry.value.len();
                let size: usize = part.resync.iter().flat_map(|part| &part.entries).map(bytes).sum();
                assert!(size < PART + 1000, "{size}");
            }
            let sent = parts.into_iter().flat_map(|part| part.resync.unwrap().entries);
            let sent: Vec<_> = sent.map(|entry| entry.key).collect();
            let had: Vec<_> = state(keys).entries.into_iter().map(|entry| entry.key).collect();
            assert_eq!(sent, had);
        }
    }
}
