//! The controller's store over gRPC, as a [`KvStore`] whose watches end with the connection.

use std::mem;
use std::time::Duration;

use async_trait::async_trait;
use nv_api::grpc::{self, store_client::StoreClient};
use nv_store::{
    Change, CommitOutcome, Expect, KeyValue, KvStore, Lease, LeaseId, Listing, Op, StoreError, Txn,
    WatchEvent, WatchStream,
};
use nv_types::Revision;
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic::{Code, Status};

const QUEUE: usize = 256;
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A store behind a controller.
#[derive(Clone, Debug)]
pub(crate) struct GrpcStore {
    client: StoreClient<Channel>,
}

impl GrpcStore {
    pub(crate) fn new(channel: Channel) -> Self {
        let client = StoreClient::new(channel)
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(nv_api::MAX_MESSAGE);
        Self { client }
    }
}

fn error(status: &Status, key: &str) -> StoreError {
    match status.code() {
        Code::PermissionDenied => StoreError::Denied {
            key: format!("{key} ({})", status.message()),
        },
        Code::NotFound => StoreError::LeaseGone(0),
        Code::InvalidArgument => StoreError::InvalidKey {
            key: format!("{key} ({})", status.message()),
            problem: "the controller refused it",
        },
        _ => StoreError::Unavailable {
            detail: format!("{}{}", status.message(), crate::clock::hint(status)),
        },
    }
}

fn entry(entry: grpc::KeyValue) -> KeyValue {
    KeyValue {
        key: entry.key,
        value: entry.value,
        create_revision: Revision(entry.create_revision),
        mod_revision: Revision(entry.mod_revision),
        lease: (entry.lease != 0).then_some(LeaseId(entry.lease)),
    }
}

fn listing(reply: grpc::ListReply) -> Listing {
    Listing {
        entries: reply.entries.into_iter().map(entry).collect(),
        revision: Revision(reply.revision),
    }
}

fn event(reply: grpc::WatchReply) -> WatchEvent {
    if let Some(state) = reply.resync {
        return WatchEvent::Resync(listing(state));
    }
    let changes = reply
        .changes
        .into_iter()
        .filter_map(|change| {
            let revision = Revision(change.revision);
            Some(match change.change? {
                grpc::change::Change::Put(put) => Change::Put(entry(put)),
                grpc::change::Change::Delete(key) => Change::Delete { key, revision },
            })
        })
        .collect();
    WatchEvent::Changes {
        revision: Revision(reply.revision),
        changes,
    }
}

fn request<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(PATIENCE);
    request
}

fn commit_request(txn: Txn) -> grpc::CommitRequest {
    let conditions = txn.conditions.into_iter().map(|condition| grpc::Condition {
        key: condition.key,
        expect: Some(match condition.expect {
            Expect::Absent => grpc::condition::Expect::Absent(grpc::Empty {}),
            Expect::Present => grpc::condition::Expect::Present(grpc::Empty {}),
            Expect::Revision(revision) => grpc::condition::Expect::ModRevision(revision.0),
        }),
    });
    let ops = txn.ops.into_iter().map(|op| grpc::Op {
        op: Some(match op {
            Op::Put { key, value, lease } => grpc::op::Op::Put(grpc::Put {
                key,
                value,
                lease: lease.map_or(0, |id| id.0),
            }),
            Op::Delete { key } => grpc::op::Op::Delete(key),
        }),
    });
    grpc::CommitRequest {
        conditions: conditions.collect(),
        ops: ops.collect(),
    }
}

#[async_trait]
impl KvStore for GrpcStore {
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        let mut client = self.client.clone();
        let reply = client
            .get(request(grpc::GetRequest { key: key.to_owned() }))
            .await;
        let reply = reply.map_err(|status| error(&status, key))?.into_inner();
        Ok((reply.entry.map(entry), Revision(reply.revision)))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let mut client = self.client.clone();
        let reply = client
            .list(request(grpc::ListRequest {
                prefix: prefix.to_owned(),
            }))
            .await;
        Ok(listing(
            reply.map_err(|status| error(&status, prefix))?.into_inner(),
        ))
    }

    async fn commit(&self, txn: Txn) -> Result<CommitOutcome, StoreError> {
        let mut client = self.client.clone();
        let reply = client.commit(request(commit_request(txn))).await;
        let reply = reply
            .map_err(|status| error(&status, "transaction"))?
            .into_inner();
        Ok(match reply.failed_key {
            None => CommitOutcome::Committed(Revision(reply.revision)),
            Some(key) => {
                let actual = (reply.failed_revision != 0).then_some(Revision(reply.failed_revision));
                CommitOutcome::Conflict { key, actual }
            }
        })
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StoreError> {
        let mut client = self.client.clone();
        let asked = grpc::WatchRequest {
            prefix: prefix.to_owned(),
            from: from.0,
        };
        let reply = tokio::time::timeout(PATIENCE, client.watch(asked))
            .await
            .map_err(|_elapsed| StoreError::Unavailable {
                detail: "the controller does not answer".into(),
            })?;
        let mut stream = reply.map_err(|status| error(&status, prefix))?.into_inner();
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            let mut parts = Vec::new();
            loop {
                let message = tokio::select! {
                    message = stream.message() => message,
                    () = sender.closed() => return,
                };
                match message {
                    Ok(Some(mut reply)) => {
                        if let Some(state) = &mut reply.resync {
                            parts.append(&mut state.entries);
                            if reply.more {
                                continue;
                            }
                            state.entries = mem::take(&mut parts);
                        }
                        if sender.send(event(reply)).await.is_err() {
                            return;
                        }
                    }
                    Ok(None) => return,
                    Err(status) => {
                        tracing::debug!(status = status.message(), "watch ended");
                        return;
                    }
                }
            }
        });
        Ok(receiver)
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        let mut client = self.client.clone();
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let reply = client
            .lease_grant(request(grpc::LeaseGrantRequest { ttl_ms }))
            .await;
        Ok(lease(
            &reply.map_err(|status| error(&status, "lease"))?.into_inner(),
        ))
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Lease, StoreError> {
        let mut client = self.client.clone();
        let reply = client.lease_keep_alive(request(grpc::LeaseId { id: id.0 })).await;
        Ok(lease(
            &reply.map_err(|status| lease_error(&status, id))?.into_inner(),
        ))
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        let mut client = self.client.clone();
        let reply = client.lease_revoke(request(grpc::LeaseId { id: id.0 })).await;
        reply.map(drop).map_err(|status| lease_error(&status, id))
    }
}

fn lease(reply: &grpc::LeaseGrantReply) -> Lease {
    Lease {
        id: LeaseId(reply.id),
        ttl: Duration::from_millis(reply.ttl_ms),
    }
}

fn lease_error(status: &Status, id: LeaseId) -> StoreError {
    if status.code() == Code::NotFound {
        StoreError::LeaseGone(id.0)
    } else {
        error(status, "lease")
    }
}
