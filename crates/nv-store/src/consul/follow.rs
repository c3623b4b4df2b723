//! Follows the log: every change in the order of its index, or all read anew where the log does not reach back.

use std::sync::Arc;
use std::time::Duration;

use nv_types::Revision;
use tokio::time::Instant;

use super::Server;
use super::http::{Answer, Op as Kv, Pair};
use super::log::{self, Word};
use crate::StoreError;
use crate::cluster::{FIRST_PAUSE, next_pause};
use crate::mirror::Mirror;
use crate::types::{Change, KeyValue};

/// Longest wait of one query.
const WAIT: Duration = Duration::from_secs(20);
/// Log entries at which the older ones are cut off, and those that stay.
const CUT_AT: usize = 192;
const KEPT: usize = 96;
/// How often it is looked whether somebody wrote under the prefix who is not nv: no log tells of that.
const AUDIT: Duration = Duration::from_secs(10);
const FLOOR: &str = "!floor";

/// Reads everything. Gives the name of the log's last entry.
pub(super) async fn read(server: &Server, mirror: &Mirror, restored: bool) -> Result<String, StoreError> {
    let (listing, last) = server.list("").await?;
    mirror.replace(listing, restored);
    Ok(last)
}

/// Where the follower stands.
struct Place {
    /// Index of the last query; 0: do not wait.
    index: u64,
    /// Name of the last log entry that was seen.
    last: String,
    audited: Instant,
}

/// Follows for ever.
pub(super) async fn run(server: Server, mirror: Arc<Mirror>, last: String) {
    let mut place = Place {
        index: 0,
        last,
        audited: Instant::now(),
    };
    let mut pause = FIRST_PAUSE;
    loop {
        match step(&server, &mirror, &mut place).await {
            Ok(()) => pause = FIRST_PAUSE,
            Err(error) => {
                tracing::debug!(%error, "Consul cannot be followed, trying again");
                place.index = 0;
                tokio::time::sleep(pause).await;
                pause = next_pause(pause);
            }
        }
    }
}

async fn step(server: &Server, mirror: &Mirror, place: &mut Place) -> Result<(), StoreError> {
    let wait = if place.index == 0 {
        Duration::ZERO
    } else {
        WAIT.min(AUDIT.saturating_sub(place.audited.elapsed()))
            .max(Duration::from_millis(10))
    };
    let (pairs, index) = server.http.block(&server.log(""), place.index, wait).await?;
    // An index that goes back is that of a store that was restored; Consul asks to begin at 0 then.
    let back = index < place.index;
    place.index = if back { 0 } else { index.max(1) };
    take(server, mirror, place, pairs, back).await?;
    if place.audited.elapsed() >= AUDIT {
        place.audited = Instant::now();
        audit(server, mirror, place).await?;
    }
    Ok(())
}

async fn take(
    server: &Server,
    mirror: &Mirror,
    place: &mut Place,
    mut pairs: Vec<Pair>,
    back: bool,
) -> Result<(), StoreError> {
    let known = mirror.revision();
    let prefix = server.log("");
    let name = |pair: &Pair| pair.key.strip_prefix(&prefix).unwrap_or(&pair.key).to_owned();
    let mut floor = (Revision(0), 0);
    if let Some(at) = pairs.iter().position(|pair| name(pair) == FLOOR) {
        let pair = pairs.swap_remove(at);
        floor = (log::floor(&pair.bytes()?), pair.modify_index);
    }
    pairs.sort_by_key(|pair| pair.modify_index);
    // The last entry seen must still be there, unless it was cut off: else this is another past than the one that was followed.
    let there = pairs.iter().any(|pair| name(pair) == place.last) || (place.last.is_empty() && !back);
    if floor.0 > known || (!there && floor.0 < known) {
        let restored = floor.0 <= known;
        tracing::warn!(
            revision = known.0,
            floor = floor.0.0,
            restored,
            "reading all of Consul's keys anew"
        );
        place.last = read(server, mirror, restored).await?;
        place.index = 0;
        return Ok(());
    }
    for pair in pairs.iter().filter(|pair| pair.modify_index > known.0) {
        let revision = Revision(pair.modify_index);
        let Some(changes) = changes(server, mirror, revision, &pair.bytes()?).await? else {
            // A large value was written over before it could be read: what it was is not to be had any more.
            place.last = read(server, mirror, false).await?;
            place.index = 0;
            return Ok(());
        };
        mirror.apply(revision, changes);
        place.last = name(pair);
    }
    if pairs.len() > CUT_AT {
        cut(server, &pairs[..pairs.len() - KEPT], floor.1).await?;
    }
    Ok(())
}

/// The changes of a log entry; `None` when a value that it only names has been written over.
async fn changes(
    server: &Server,
    mirror: &Mirror,
    revision: Revision,
    entry: &[u8],
) -> Result<Option<Vec<Change>>, StoreError> {
    let mut changes = Vec::new();
    for logged in log::decode(entry)? {
        let key = logged.key.clone();
        changes.push(match logged.word()? {
            Word::Deleted => Change::Delete { key, revision },
            Word::Put(value, lease) => Change::Put(KeyValue {
                create_revision: mirror.get(&key).map_or(revision, |entry| entry.create_revision),
                key,
                value,
                mod_revision: revision,
                lease,
            }),
            Word::Elsewhere => match server.get(&key).await?.0 {
                Some(entry) if entry.mod_revision == revision => Change::Put(entry),
                _ => return Ok(None),
            },
        });
    }
    Ok(Some(changes))
}

/// Cuts the oldest entries off, as many as one transaction takes. Who else does it at the same time wins or loses, no matter which.
async fn cut(server: &Server, old: &[Pair], floor_index: u64) -> Result<(), StoreError> {
    let floor = server.log(FLOOR);
    let old = &old[..old.len().min(super::MAX_CONSUL_OPS - 2)];
    let Some(last) = old.last() else { return Ok(()) };
    let mut ops = vec![
        if floor_index == 0 {
            Kv::absent(floor.clone())
        } else {
            Kv::unchanged(floor.clone(), floor_index)
        },
        Kv::set(floor, last.modify_index.to_string().as_bytes(), 0),
    ];
    ops.extend(old.iter().map(|pair| Kv::delete(pair.key.clone())));
    if matches!(server.http.txn(&ops).await?, Answer::Failed(_)) {
        tracing::debug!("the log was cut off by somebody else at the same time");
    }
    Ok(())
}

/// Whether somebody wrote under the prefix without a log entry; if so, all is read anew.
async fn audit(server: &Server, mirror: &Mirror, place: &mut Place) -> Result<(), StoreError> {
    let index = server.http.index(&server.data("")).await?;
    if index <= mirror.revision().0 {
        return Ok(());
    }
    // What nv wrote is in the log by now.
    let (pairs, _) = server.http.block(&server.log(""), 0, Duration::ZERO).await?;
    take(server, mirror, place, pairs, false).await?;
    if index > mirror.revision().0 {
        tracing::warn!(
            index,
            "somebody else wrote under nv's prefix in Consul: reading all of it anew"
        );
        let (mut listing, last) = server.list("").await?;
        // The head does not know of the stranger's write; the copy must not go back behind it.
        listing.revision = listing.revision.max(Revision(index));
        mirror.replace(listing, false);
        place.last = last;
    }
    Ok(())
}
