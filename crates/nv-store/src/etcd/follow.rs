//! Follows etcd: one watch over everything, from the revision after the last one seen.

use std::sync::Arc;
use std::time::Duration;

use nv_types::Revision;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::client::Client;
use super::convert::{Header, header, range_end, revision, signed};
use super::wire::{self, watch_client::WatchClient, watch_request::RequestUnion};
use crate::StoreError;
use crate::cluster::{FIRST_PAUSE, next_pause};
use crate::mirror::Mirror;
use crate::types::{Change, KeyValue};

/// How often a silent watch is asked whether it is alive, and how long it may stay silent then.
const ASK: Duration = Duration::from_secs(1);
const SILENCE: Duration = Duration::from_secs(4);
/// Longest wait for a watch to begin.
const BEGIN: Duration = Duration::from_secs(5);

/// Where the follower stands.
#[derive(Debug, Default)]
pub(super) struct Place {
    cluster: u64,
    /// The last entry that was seen: as long as etcd has it at its revision, this is the past that was followed.
    last: Option<KeyValue>,
}

/// Reads everything.
pub(super) async fn begin(client: &Client, mirror: &Mirror) -> Result<Place, StoreError> {
    read(client, mirror, false).await
}

async fn read(client: &Client, mirror: &Mirror, restored: bool) -> Result<Place, StoreError> {
    let (listing, Header { cluster, .. }) = client.list("").await?;
    let last = listing
        .entries
        .iter()
        .max_by_key(|entry| entry.mod_revision)
        .cloned();
    mirror.replace(listing, restored);
    Ok(Place { cluster, last })
}

/// Why a watch ended.
enum End {
    /// The connection, the member or its leader is gone.
    Broken(String),
    /// What is missing has been compacted.
    Compacted(Revision),
}

/// Follows for ever.
pub(super) async fn run(client: Client, mirror: Arc<Mirror>, mut place: Place) {
    let mut pause = FIRST_PAUSE;
    // Whether all must be read anew, because what is missing is not to be had.
    let mut anew = false;
    loop {
        let next = if anew {
            read(&client, &mirror, false).await
        } else {
            resume(&client, &mirror, &place).await
        };
        match next {
            Ok(next) => place = next,
            Err(error) => {
                tracing::debug!(%error, "etcd cannot be read, trying again");
                tokio::time::sleep(pause).await;
                pause = next_pause(pause);
                continue;
            }
        }
        anew = false;
        let before = mirror.revision();
        let end = watch(&client, &mirror, &mut place).await;
        if mirror.revision() > before {
            pause = FIRST_PAUSE;
        }
        match end {
            Ok(End::Compacted(at)) => {
                tracing::warn!(
                    seen = mirror.revision().0,
                    compacted = at.0,
                    "etcd has compacted what was missing: reading all anew"
                );
                anew = true;
                continue;
            }
            Ok(End::Broken(problem)) => tracing::debug!(problem, "etcd's watch ended, trying again"),
            Err(status) => tracing::debug!(problem = status.message(), "etcd's watch broke, trying again"),
        }
        client.rotate();
        tokio::time::sleep(pause).await;
        pause = next_pause(pause);
    }
}

/// Whether etcd is still what was followed: then the watch goes on; else everything is read anew.
async fn resume(client: &Client, mirror: &Mirror, place: &Place) -> Result<Place, StoreError> {
    let now = client.header().await?;
    let seen = mirror.revision();
    let mut same = now.cluster == place.cluster && now.revision >= seen;
    if same && let Some(last) = &place.last {
        same = match client.get_at(&last.key, last.mod_revision).await {
            Ok(found) => found.as_ref() == Some(last),
            // Compacted: the watch will tell, if that matters.
            Err(StoreError::Unavailable { detail }) if detail.contains("compacted") => true,
            Err(error) => return Err(error),
        };
    }
    if same {
        return Ok(Place {
            cluster: place.cluster,
            last: place.last.clone(),
        });
    }
    tracing::warn!(
        seen = seen.0,
        now = now.revision.0,
        "this is not the etcd that was followed, or it was restored: reading all anew"
    );
    read(client, mirror, true).await
}

async fn watch(client: &Client, mirror: &Mirror, place: &mut Place) -> Result<End, tonic::Status> {
    let (ask, requests) = mpsc::channel(8);
    let key = client.root().as_bytes().to_vec();
    let create = wire::WatchCreateRequest {
        range_end: range_end(&key),
        key,
        start_revision: signed(Revision(mirror.revision().0 + 1)),
        ..Default::default()
    };
    let create = wire::WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    };
    let broken = |what: &str| Ok(End::Broken(what.to_owned()));
    if ask.send(create).await.is_err() {
        return broken("closed");
    }
    let mut request = client.request(ReceiverStream::new(requests));
    // A member without a leader ends the watch instead of keeping silent.
    request.metadata_mut().insert(
        "hasleader",
        tonic::metadata::AsciiMetadataValue::from_static("true"),
    );
    let mut watching = WatchClient::new(client.channel()).max_decoding_message_size(usize::MAX);
    let Ok(stream) = tokio::time::timeout(BEGIN, watching.watch(request)).await else {
        return broken("the watch does not begin");
    };
    let mut stream = stream?.into_inner();
    let mut heard = tokio::time::Instant::now();
    let mut asking = tokio::time::interval(ASK);
    asking.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            message = stream.message() => message?,
            _ = asking.tick() => {
                if heard.elapsed() > SILENCE {
                    return broken("the watch is silent");
                }
                let alive = RequestUnion::ProgressRequest(wire::WatchProgressRequest {});
                let _ = ask.try_send(wire::WatchRequest { request_union: Some(alive) });
                continue;
            }
        };
        let Some(message) = message else {
            return broken("ended by etcd");
        };
        heard = tokio::time::Instant::now();
        if message.compact_revision != 0 {
            return Ok(End::Compacted(revision(message.compact_revision)));
        }
        if message.canceled {
            return Ok(End::Broken(format!("cancelled: {}", message.cancel_reason)));
        }
        let at = header(message.header);
        if place.cluster != 0 && at.cluster != place.cluster {
            return broken("another etcd answers");
        }
        take(client, mirror, place, message.events);
    }
}

/// Passes events on, those of one revision together.
fn take(client: &Client, mirror: &Mirror, place: &mut Place, events: Vec<wire::Event>) {
    let mut at = Revision(0);
    let mut changes = Vec::new();
    for event in events {
        let deleted = event.r#type() == wire::event::EventType::Delete;
        let Some(kv) = event.kv else { continue };
        let entry = client.entry(kv);
        if entry.mod_revision != at && !changes.is_empty() {
            mirror.apply(at, std::mem::take(&mut changes));
        }
        at = entry.mod_revision;
        if deleted {
            changes.push(Change::Delete {
                key: entry.key,
                revision: at,
            });
        } else {
            place.last = Some(entry.clone());
            changes.push(Change::Put(entry));
        }
    }
    if !changes.is_empty() {
        mirror.apply(at, changes);
    }
}
