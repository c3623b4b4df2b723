//! The store for agents: what policy is made of to read, their own keys to write.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use nv_api::grpc::{
    self, CommitReply, CommitRequest, Empty, GetReply, GetRequest, LeaseGrantReply, LeaseGrantRequest,
    ListReply, ListRequest, WatchReply, WatchRequest, store_server::Store,
};
use nv_store::{Change, LeaseId, Listing, Op, Txn, WatchEvent, WatchStream};
use nv_types::{NodeId, Revision};
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::lease::Leases;
use super::{caller, convert};
use crate::engine::{Engine, agent_may_read, agent_may_write};

const SHORTEST_LEASE: Duration = Duration::from_secs(1);
const LONGEST_LEASE: Duration = Duration::from_secs(3600);
/// Snapshots that are on their way at once. Each is a copy of everything, and after a start all agents want one at the same time.
const SNAPSHOTS: usize = 4;
/// Longest time that an agent which is slow to take its snapshot keeps the others waiting for theirs.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(5);

/// Serves [`Store`].
#[derive(Debug, Clone)]
pub(crate) struct StoreService {
    engine: Arc<Engine>,
    leases: Arc<Leases>,
    snapshots: Arc<Semaphore>,
    /// Ends watches, which never end by themselves: an agent's would keep a controller that stops, and its store, open.
    shutdown: CancellationToken,
}

impl StoreService {
    pub(crate) fn new(engine: Arc<Engine>, shutdown: CancellationToken) -> Self {
        Self {
            engine,
            leases: Arc::default(),
            snapshots: Arc::new(Semaphore::new(SNAPSHOTS)),
            shutdown,
        }
    }

    /// Refuses what is not the node's to write.
    async fn check(&self, node: &NodeId, txn: &Txn) -> Result<(), Status> {
        for op in &txn.ops {
            let (Op::Put { key, .. } | Op::Delete { key }) = op;
            if !agent_may_write(node, key) {
                tracing::warn!(%node, key, "an agent tried to write a key that is not its own");
                return Err(Status::permission_denied(format!(
                    "the agent of '{node}' may not write '{key}'"
                )));
            }
            if let Op::Put { lease: Some(id), .. } = op {
                self.leases.check(node, *id, self.engine.store()).await?;
            }
        }
        match txn
            .conditions
            .iter()
            .find(|condition| !agent_may_read(&condition.key))
        {
            Some(condition) => Err(may_not_read(&condition.key)),
            None => Ok(()),
        }
    }
}

fn may_not_read(key: &str) -> Status {
    Status::permission_denied(format!("an agent may not read '{key}'"))
}

fn filtered(listing: Listing) -> Listing {
    let entries = listing
        .entries
        .into_iter()
        .filter(|entry| agent_may_read(&entry.key))
        .collect();
    Listing {
        entries,
        revision: listing.revision,
    }
}

/// What an agent may see of an event; `None` when that is nothing.
fn visible(event: WatchEvent) -> Option<WatchEvent> {
    match event {
        WatchEvent::Resync(listing) => Some(WatchEvent::Resync(filtered(listing))),
        WatchEvent::Changes { revision, changes } => {
            let changes: Vec<_> = changes
                .into_iter()
                .filter(|change| match change {
                    Change::Put(entry) => agent_may_read(&entry.key),
                    Change::Delete { key, .. } => agent_may_read(key),
                })
                .collect();
            (!changes.is_empty()).then_some(WatchEvent::Changes { revision, changes })
        }
    }
}

/// What one watch sends.
struct Sending {
    first: Option<WatchEvent>,
    events: WatchStream,
    /// There while a snapshot is on its way.
    on_its_way: Option<oneshot::Sender<()>>,
}

impl Sending {
    async fn next(&mut self) -> Option<WatchEvent> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        // The transport asks for the next message when there is room for it again: all of the snapshot but its last part is out.
        self.on_its_way = None;
        self.events.recv().await
    }
}

/// Begins a watch, when it is its turn for a snapshot.
async fn begin(
    engine: Arc<Engine>,
    snapshots: Arc<Semaphore>,
    request: WatchRequest,
) -> Result<Sending, Status> {
    let room = snapshots.acquire_owned().await;
    let room = room.map_err(|_closed| Status::unavailable("the controller stops"))?;
    let from = engine.resumable(Revision(request.from));
    let watch = engine.store().watch(&request.prefix, from);
    let mut events = watch.await.map_err(convert::status)?;
    let first = events.try_recv().ok();
    let on_its_way = matches!(first, Some(WatchEvent::Resync(_))).then(|| {
        let (on_its_way, sent) = oneshot::channel();
        tokio::spawn(async move {
            let _sent_or_gone = tokio::time::timeout(SNAPSHOT_PATIENCE, sent).await;
            drop(room);
        });
        on_its_way
    });
    Ok(Sending {
        first,
        events,
        on_its_way,
    })
}

fn stream(sending: Sending) -> WatchReplies {
    let begun = (sending, None::<convert::Parts>);
    Box::pin(futures::stream::unfold(begun, |(mut sending, mut parts)| async {
        loop {
            if let Some(reply) = parts.as_mut().and_then(Iterator::next) {
                return Some((Ok(reply), (sending, parts)));
            }
            parts = visible(sending.next().await?).map(convert::event);
        }
    }))
}

type WatchReplies = Pin<Box<dyn Stream<Item = Result<WatchReply, Status>> + Send>>;

#[tonic::async_trait]
impl Store for StoreService {
    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetReply>, Status> {
        self.engine.heard(&caller(&request)?);
        let key = request.into_inner().key;
        if !agent_may_read(&key) {
            return Err(may_not_read(&key));
        }
        let (entry, revision) = self.engine.store().get(&key).await.map_err(convert::status)?;
        Ok(Response::new(GetReply {
            entry: entry.map(convert::entry),
            revision: revision.0,
        }))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListReply>, Status> {
        self.engine.heard(&caller(&request)?);
        let listing = self
            .engine
            .store()
            .list(&request.into_inner().prefix)
            .await
            .map_err(convert::status)?;
        Ok(Response::new(convert::listing(filtered(listing))))
    }

    async fn commit(&self, request: Request<CommitRequest>) -> Result<Response<CommitReply>, Status> {
        let node = caller(&request)?;
        self.engine.heard(&node);
        let txn = convert::txn(request.into_inner())?;
        self.check(&node, &txn).await?;
        let outcome = self.engine.store().commit(txn).await.map_err(convert::status)?;
        Ok(Response::new(convert::outcome(outcome)))
    }

    type WatchStream = WatchReplies;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<WatchReplies>, Status> {
        self.engine.heard(&caller(&request)?);
        let request = request.into_inner();
        let begin = begin(Arc::clone(&self.engine), Arc::clone(&self.snapshots), request);
        // The answer's head goes out at once: whoever waits for a snapshot knows that the controller is there.
        let replies = futures::stream::once(begin).map(|begun| match begun {
            Ok(sending) => stream(sending),
            Err(status) => Box::pin(futures::stream::once(std::future::ready(Err(status)))),
        });
        let shutdown = self.shutdown.clone().cancelled_owned();
        Ok(Response::new(Box::pin(replies.flatten().take_until(shutdown))))
    }

    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantReply>, Status> {
        let node = caller(&request)?;
        self.engine.heard(&node);
        self.leases.room(&node)?;
        let ttl = Duration::from_millis(request.into_inner().ttl_ms).clamp(SHORTEST_LEASE, LONGEST_LEASE);
        let lease = self
            .engine
            .store()
            .lease_grant(ttl)
            .await
            .map_err(convert::status)?;
        self.leases.note(&node, lease);
        Ok(Response::new(convert::lease(lease)))
    }

    async fn lease_keep_alive(
        &self,
        request: Request<grpc::LeaseId>,
    ) -> Result<Response<LeaseGrantReply>, Status> {
        let node = caller(&request)?;
        self.engine.heard(&node);
        let id = LeaseId(request.into_inner().id);
        let store = self.engine.store();
        self.leases.check(&node, id, store).await?;
        let lease = store.lease_keep_alive(id).await.map_err(convert::status)?;
        self.leases.note(&node, lease);
        Ok(Response::new(convert::lease(lease)))
    }

    async fn lease_revoke(&self, request: Request<grpc::LeaseId>) -> Result<Response<Empty>, Status> {
        let node = caller(&request)?;
        self.engine.heard(&node);
        let id = LeaseId(request.into_inner().id);
        let store = self.engine.store();
        self.leases.check(&node, id, store).await?;
        store.lease_revoke(id).await.map_err(convert::status)?;
        self.leases.forget(id);
        Ok(Response::new(Empty {}))
    }
}
