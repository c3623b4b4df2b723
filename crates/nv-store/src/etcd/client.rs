//! Calls to etcd. One channel a member; the next member is asked when one does not answer.

use std::str::FromStr as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nv_types::Revision;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::EtcdOptions;
use super::convert::{
    Header, channel, error, header, holds, lease_id, not_sent, range_end, revision, signed,
};
use super::wire::{self, auth_client::AuthClient, kv_client::KvClient, lease_client::LeaseClient};
use crate::StoreError;
use crate::types::{CommitOutcome, Expect, KeyValue, Lease, LeaseId, Listing, Op, Txn};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Keys of one answer of a list.
const PAGE: i64 = 4000;

#[derive(Clone, Debug)]
pub(super) struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    channels: Vec<Channel>,
    current: AtomicUsize,
    root: String,
    user: Option<(String, String)>,
    token: Mutex<Option<AsciiMetadataValue>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

impl Client {
    pub(super) fn new(options: EtcdOptions) -> Result<Self, StoreError> {
        let mut channels = Vec::new();
        for url in &options.endpoints {
            channels.push(channel(url, &options)?);
        }
        Ok(Self {
            shared: Arc::new(Shared {
                channels,
                current: AtomicUsize::new(0),
                root: format!("{}/", options.prefix),
                user: options.user,
                token: Mutex::new(None),
            }),
        })
    }

    pub(super) fn root(&self) -> &str {
        &self.shared.root
    }

    pub(super) fn channel(&self) -> Channel {
        let at = self.shared.current.load(Ordering::Relaxed);
        self.shared.channels[at % self.shared.channels.len()].clone()
    }

    /// Asks another member from now on.
    pub(super) fn rotate(&self) {
        self.shared.current.fetch_add(1, Ordering::Relaxed);
    }

    fn token(&self) -> Option<AsciiMetadataValue> {
        self.shared
            .token
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// A request with what etcd wants to know of who asks.
    pub(super) fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Some(token) = self.token() {
            request.metadata_mut().insert("token", token);
        }
        request
    }

    async fn authenticate(&self) -> Result<(), Status> {
        let Some((name, password)) = &self.shared.user else {
            return Ok(());
        };
        let message = wire::AuthenticateRequest {
            name: name.clone(),
            password: password.clone(),
        };
        let mut request = tonic::Request::new(message);
        request.set_timeout(PATIENCE);
        let reply = AuthClient::new(self.channel()).authenticate(request).await?;
        let token = AsciiMetadataValue::from_str(&reply.into_inner().token)
            .map_err(|_| Status::internal("etcd gave a token that cannot be sent"))?;
        *self.shared.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token);
        Ok(())
    }

    /// Calls the member that answered last; then the next one, if that cannot have changed anything: when `again` says that the call
    /// may be made twice, or when it surely was not sent.
    pub(super) async fn call<T, F>(
        &self,
        what: &str,
        again: bool,
        call: impl Fn(Channel) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        if self.shared.user.is_some() && self.token().is_none() {
            self.authenticate().await.map_err(|status| error(&status, what))?;
        }
        let mut tries = self.shared.channels.len();
        let mut authenticated = false;
        loop {
            let made = tokio::time::timeout(PATIENCE, call(self.channel())).await;
            let status = match made {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("no answer in time"),
            };
            if status.message().contains("invalid auth token") && !authenticated {
                authenticated = true;
                self.authenticate().await.map_err(|status| error(&status, what))?;
                continue;
            }
            let away = matches!(
                status.code(),
                Code::Unavailable | Code::DeadlineExceeded | Code::Unknown
            );
            if away {
                self.rotate();
            }
            tries -= 1;
            if !away || tries == 0 || !(again || not_sent(&status)) {
                return Err(error(&status, what));
            }
        }
    }

    fn key(&self, key: &str) -> Vec<u8> {
        format!("{}{key}", self.shared.root).into_bytes()
    }

    pub(super) fn entry(&self, kv: wire::KeyValue) -> KeyValue {
        let key = String::from_utf8_lossy(&kv.key).into_owned();
        KeyValue {
            key: key.strip_prefix(&self.shared.root).unwrap_or(&key).to_owned(),
            value: kv.value,
            create_revision: revision(kv.create_revision),
            mod_revision: revision(kv.mod_revision),
            lease: u64::try_from(kv.lease).ok().filter(|id| *id != 0).map(LeaseId),
        }
    }

    async fn range(&self, message: wire::RangeRequest) -> Result<wire::RangeResponse, StoreError> {
        let what = String::from_utf8_lossy(&message.key).into_owned();
        self.call(&what, true, |channel| {
            let request = self.request(message.clone());
            async move {
                let mut client = KvClient::new(channel).max_decoding_message_size(usize::MAX);
                client.range(request).await.map(tonic::Response::into_inner)
            }
        })
        .await
    }

    pub(super) async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        let reply = self
            .range(wire::RangeRequest {
                key: self.key(key),
                ..Default::default()
            })
            .await?;
        let at = header(reply.header).revision;
        Ok((reply.kvs.into_iter().next().map(|kv| self.entry(kv)), at))
    }

    /// Which etcd answers, and at which revision it is.
    pub(super) async fn header(&self) -> Result<Header, StoreError> {
        let reply = self
            .range(wire::RangeRequest {
                key: self.key("-"),
                keys_only: true,
                ..Default::default()
            })
            .await?;
        Ok(header(reply.header))
    }

    /// A key as it was at a revision.
    pub(super) async fn get_at(&self, key: &str, at: Revision) -> Result<Option<KeyValue>, StoreError> {
        let reply = self
            .range(wire::RangeRequest {
                key: self.key(key),
                revision: signed(at),
                ..Default::default()
            })
            .await?;
        Ok(reply.kvs.into_iter().next().map(|kv| self.entry(kv)))
    }

    /// Everything under a prefix at one revision, page by page.
    pub(super) async fn list(&self, prefix: &str) -> Result<(Listing, Header), StoreError> {
        let mut from = self.key(prefix);
        let end = range_end(&from);
        let mut entries = Vec::new();
        let mut at = Header::default();
        loop {
            let reply = self
                .range(wire::RangeRequest {
                    key: from.clone(),
                    range_end: end.clone(),
                    limit: PAGE,
                    revision: signed(at.revision),
                    ..Default::default()
                })
                .await?;
            if at == Header::default() {
                at = header(reply.header);
            }
            if let Some(last) = reply.kvs.last() {
                from.clone_from(&last.key);
                from.push(0);
            }
            let more = reply.more && !reply.kvs.is_empty();
            entries.extend(reply.kvs.into_iter().map(|kv| self.entry(kv)));
            if !more {
                let revision = at.revision;
                return Ok((Listing { entries, revision }, at));
            }
        }
    }

    pub(super) async fn commit(&self, txn: Txn) -> Result<CommitOutcome, StoreError> {
        let conditions: Vec<_> = txn
            .conditions
            .iter()
            .map(|condition| condition.key.clone())
            .collect();
        let message = self.message(txn);
        let reply = self
            .call("transaction", false, |channel| {
                let request = self.request(message.clone());
                async move {
                    let mut client = KvClient::new(channel).max_decoding_message_size(usize::MAX);
                    client.txn(request).await.map(tonic::Response::into_inner)
                }
            })
            .await?;
        let at = header(reply.header).revision;
        if reply.succeeded {
            return Ok(CommitOutcome::Committed(at));
        }
        // What each condition's key was, in the same look.
        let found: Vec<Option<Revision>> = reply
            .responses
            .into_iter()
            .map(|response| match response.response {
                Some(wire::response_op::Response::ResponseRange(range)) => {
                    range.kvs.first().map(|kv| revision(kv.mod_revision))
                }
                _ => None,
            })
            .collect();
        let failed = message
            .compare
            .iter()
            .zip(&found)
            .position(|(compare, actual)| !holds(compare, *actual));
        let failed = failed.unwrap_or(0);
        Ok(CommitOutcome::Conflict {
            key: conditions.get(failed).cloned().unwrap_or_default(),
            actual: found.get(failed).copied().flatten(),
        })
    }

    fn message(&self, txn: Txn) -> wire::TxnRequest {
        use wire::compare::{CompareResult, CompareTarget, TargetUnion};
        use wire::request_op::Request;
        let mut message = wire::TxnRequest::default();
        for condition in txn.conditions {
            let key = self.key(&condition.key);
            // Version 0 is a key that is not there.
            let (target, result, union) = match condition.expect {
                Expect::Absent => (
                    CompareTarget::Version,
                    CompareResult::Equal,
                    TargetUnion::Version(0),
                ),
                Expect::Present => (
                    CompareTarget::Version,
                    CompareResult::Greater,
                    TargetUnion::Version(0),
                ),
                Expect::Revision(wanted) => (
                    CompareTarget::Mod,
                    CompareResult::Equal,
                    TargetUnion::ModRevision(signed(wanted)),
                ),
            };
            message.compare.push(wire::Compare {
                result: result.into(),
                target: target.into(),
                key: key.clone(),
                target_union: Some(union),
            });
            message.failure.push(wire::RequestOp {
                request: Some(Request::RequestRange(wire::RangeRequest {
                    key,
                    keys_only: true,
                    ..Default::default()
                })),
            });
        }
        for op in txn.ops {
            let request = match op {
                Op::Put { key, value, lease } => Request::RequestPut(wire::PutRequest {
                    key: self.key(&key),
                    value,
                    lease: lease.map_or(0, lease_id),
                }),
                Op::Delete { key } => Request::RequestDeleteRange(wire::DeleteRangeRequest {
                    key: self.key(&key),
                    ..Default::default()
                }),
            };
            message.success.push(wire::RequestOp {
                request: Some(request),
            });
        }
        message
    }

    pub(super) async fn compact(&self, at: Revision) -> Result<(), StoreError> {
        self.call("compaction", true, |channel| {
            let request = self.request(wire::CompactionRequest {
                revision: signed(at),
                physical: false,
            });
            async move { KvClient::new(channel).compact(request).await.map(drop) }
        })
        .await
    }

    pub(super) async fn lease_grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        // etcd counts in seconds, and has a shortest time of its own.
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1000))
            .unwrap_or(i64::MAX)
            .max(1);
        let reply = self
            .call("lease", true, |channel| {
                let request = self.request(wire::LeaseGrantRequest { ttl: seconds, id: 0 });
                async move {
                    let mut client = LeaseClient::new(channel);
                    client.lease_grant(request).await.map(tonic::Response::into_inner)
                }
            })
            .await?;
        Ok(Lease {
            id: LeaseId(u64::try_from(reply.id).unwrap_or(0)),
            ttl: Duration::from_secs(u64::try_from(reply.ttl).unwrap_or(1)),
        })
    }

    pub(super) async fn lease_keep_alive(&self, id: LeaseId) -> Result<Lease, StoreError> {
        let reply = self
            .call("lease", true, |channel| {
                let message = wire::LeaseKeepAliveRequest { id: lease_id(id) };
                let request = self.request(tokio_stream::once(message));
                async move {
                    let mut stream = LeaseClient::new(channel)
                        .lease_keep_alive(request)
                        .await?
                        .into_inner();
                    stream
                        .message()
                        .await?
                        .ok_or_else(|| Status::unavailable("etcd ended a keep-alive without an answer"))
                }
            })
            .await?;
        let ttl = u64::try_from(reply.ttl).unwrap_or(0);
        if ttl == 0 {
            return Err(StoreError::LeaseGone(id.0));
        }
        Ok(Lease {
            id,
            ttl: Duration::from_secs(ttl),
        })
    }

    pub(super) async fn lease_revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        self.call("lease", true, |channel| {
            let request = self.request(wire::LeaseRevokeRequest { id: lease_id(id) });
            async move { LeaseClient::new(channel).lease_revoke(request).await.map(drop) }
        })
        .await
        .map_err(|error| match error {
            StoreError::LeaseGone(_) => StoreError::LeaseGone(id.0),
            other => other,
        })
    }
}
