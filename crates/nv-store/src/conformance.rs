//! What every backend must do. Run it on yours:
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! nv_store::conformance::run(|| async { std::sync::Arc::new(nv_store::LocalStore::memory().unwrap()) as _ }).await.unwrap();
//! # });
//! ```

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use nv_types::Revision;

use crate::types::{Change, CommitOutcome, Expect, MAX_VALUE, Txn, WatchEvent, WatchStream};
use crate::{KvStore, StoreError, election};

/// A requirement that does not hold.
#[derive(Debug, thiserror::Error)]
#[error("{case}: {problem}")]
pub struct Failure {
    /// Which case.
    pub case: &'static str,
    /// What was seen.
    pub problem: String,
}

type Check = Result<(), String>;
type Store = Arc<dyn KvStore>;

/// Longest wait for something that must come.
const PATIENCE: Duration = Duration::from_secs(10);

macro_rules! ensure {
    ($condition:expr, $($words:tt)+) => {
        if !$condition {
            return Err(format!($($words)+));
        }
    };
}

/// Runs every case, each on a fresh, empty store.
///
/// # Errors
/// The first requirement that does not hold.
pub async fn run<F, S>(make: F) -> Result<(), Failure>
where
    F: Fn() -> S,
    S: Future<Output = Store>,
{
    macro_rules! cases {
        ($($case:ident),+ $(,)?) => {
            $($case(make().await).await.map_err(|problem| Failure { case: stringify!($case), problem })?;)+
        };
    }
    cases!(
        reads_what_was_written,
        lists_a_prefix_sorted_at_one_revision,
        conditions_hold_or_nothing_happens,
        a_transaction_is_one_revision,
        bad_input_is_refused_by_name,
        a_watch_delivers_every_change_in_order,
        a_watch_from_zero_begins_with_a_snapshot,
        a_watch_from_an_old_revision_misses_nothing,
        a_watch_from_a_revision_that_never_was_resyncs,
        a_slow_watcher_is_told_and_ends_up_right,
        a_lease_takes_its_keys_along,
        a_lease_that_is_kept_alive_lives,
        one_leader_at_a_time,
    );
    Ok(())
}

fn words(error: &StoreError) -> String {
    error.to_string()
}

async fn commit(store: &Store, txn: Txn) -> Result<Revision, String> {
    match store.commit(txn).await.map_err(|error| words(&error))? {
        CommitOutcome::Committed(revision) => Ok(revision),
        CommitOutcome::Conflict { key, .. } => Err(format!("unexpected conflict on {key}")),
    }
}

async fn value(store: &Store, key: &str) -> Result<Option<Vec<u8>>, String> {
    Ok(store
        .get(key)
        .await
        .map_err(|error| words(&error))?
        .0
        .map(|entry| entry.value))
}

async fn next(stream: &mut WatchStream) -> Result<WatchEvent, String> {
    tokio::time::timeout(PATIENCE, stream.recv())
        .await
        .map_err(|_elapsed| "no event came".to_owned())?
        .ok_or_else(|| "the watch ended".to_owned())
}

async fn watch(store: &Store, prefix: &str, from: Revision) -> Result<WatchStream, String> {
    store.watch(prefix, from).await.map_err(|error| words(&error))
}

async fn reads_what_was_written(store: Store) -> Check {
    ensure!(
        value(&store, "a").await?.is_none(),
        "a key that was never written is there"
    );
    let first = commit(&store, Txn::new().put("a", b"1".as_slice())).await?;
    let second = commit(&store, Txn::new().put("a", [0, 255, 7].as_slice())).await?;
    ensure!(second > first, "revisions do not grow: {first} then {second}");
    let (entry, revision) = store.get("a").await.map_err(|error| words(&error))?;
    let entry = entry.ok_or("the key is not there")?;
    ensure!(entry.value == [0, 255, 7], "the value is {:?}", entry.value);
    ensure!(
        (entry.create_revision, entry.mod_revision) == (first, second),
        "revisions of the entry: {entry:?}"
    );
    ensure!(revision >= second, "the store's revision is {revision}");
    commit(&store, Txn::new().delete("a")).await?;
    ensure!(value(&store, "a").await?.is_none(), "a deleted key is there");
    commit(&store, Txn::new().delete("a")).await?;
    Ok(())
}

async fn lists_a_prefix_sorted_at_one_revision(store: Store) -> Check {
    commit(
        &store,
        Txn::new()
            .put("p/b", *b"2")
            .put("p/a", *b"1")
            .put("q/a", *b"3")
            .put("p", *b"0"),
    )
    .await?;
    let listing = store.list("p/").await.map_err(|error| words(&error))?;
    let keys: Vec<_> = listing.entries.iter().map(|entry| entry.key.as_str()).collect();
    ensure!(keys == ["p/a", "p/b"], "listed {keys:?}");
    let all = store.list("").await.map_err(|error| words(&error))?;
    ensure!(all.entries.len() == 4, "listed {} of 4", all.entries.len());
    Ok(())
}

async fn conditions_hold_or_nothing_happens(store: Store) -> Check {
    let revision = commit(&store, Txn::new().when("k", Expect::Absent).put("k", *b"1")).await?;
    for (expect, name) in [
        (Expect::Absent, "absent"),
        (Expect::Revision(Revision(revision.0 + 100)), "revision"),
    ] {
        let txn = Txn::new().when("k", expect).put("k", *b"x").put("other", *b"x");
        match store.commit(txn).await.map_err(|error| words(&error))? {
            CommitOutcome::Conflict { key, actual } => {
                ensure!(
                    key == "k" && actual == Some(revision),
                    "{name}: conflict on {key} at {actual:?}"
                );
            }
            CommitOutcome::Committed(_) => return Err(format!("{name}: committed all the same")),
        }
    }
    ensure!(
        value(&store, "other").await?.is_none(),
        "half of a refused transaction was written"
    );
    commit(
        &store,
        Txn::new().when("k", Expect::Revision(revision)).put("k", *b"2"),
    )
    .await?;
    commit(
        &store,
        Txn::new()
            .when("k", Expect::Present)
            .when("none", Expect::Absent)
            .delete("k"),
    )
    .await?;
    ensure!(value(&store, "k").await?.is_none(), "the deletion was not made");
    Ok(())
}

async fn a_transaction_is_one_revision(store: Store) -> Check {
    let mut stream = watch(&store, "t/", Revision(0)).await?;
    next(&mut stream).await?;
    let revision = commit(
        &store,
        Txn::new().put("t/1", *b"a").put("t/2", *b"b").put("u", *b"c"),
    )
    .await?;
    match next(&mut stream).await? {
        WatchEvent::Changes {
            revision: seen,
            changes,
        } => {
            ensure!(
                seen == revision && changes.len() == 2,
                "{} changes at {seen}, written at {revision}",
                changes.len()
            );
            Ok(())
        }
        WatchEvent::Resync(_) => Err("a resync where nothing was lost".into()),
    }
}

async fn bad_input_is_refused_by_name(store: Store) -> Check {
    let refused = |txn| {
        let store = Arc::clone(&store);
        async move { store.commit(txn).await.err().ok_or("accepted") }
    };
    for key in ["", "a\nb", &"x".repeat(600)] {
        let error = refused(Txn::new().put(key, *b"1")).await?;
        ensure!(
            matches!(error, StoreError::InvalidKey { .. }),
            "key {key:?}: {error}"
        );
    }
    let error = refused(Txn::new().put("big", vec![0; MAX_VALUE + 1])).await?;
    ensure!(
        matches!(error, StoreError::TooLarge { .. }),
        "large value: {error}"
    );
    let error = refused(Txn::new().put("twice", *b"1").delete("twice")).await?;
    ensure!(
        matches!(error, StoreError::InvalidKey { .. }),
        "key twice: {error}"
    );
    commit(&store, Txn::new().put("full", vec![7; MAX_VALUE])).await?;
    ensure!(
        value(&store, "full")
            .await?
            .is_some_and(|value| value.len() == MAX_VALUE),
        "the largest value"
    );
    Ok(())
}

async fn a_watch_delivers_every_change_in_order(store: Store) -> Check {
    let mut stream = watch(&store, "w/", Revision(0)).await?;
    next(&mut stream).await?;
    for number in 0..50u8 {
        commit(&store, Txn::new().put(format!("w/{}", number % 5), [number])).await?;
        commit(&store, Txn::new().put("elsewhere", [number])).await?;
    }
    commit(&store, Txn::new().delete("w/3")).await?;
    let mut last = Revision(0);
    for number in 0..50u8 {
        match next(&mut stream).await? {
            WatchEvent::Changes { revision, changes } => {
                ensure!(revision > last, "revision {revision} after {last}");
                last = revision;
                let [Change::Put(entry)] = changes.as_slice() else {
                    return Err(format!("{changes:?}"));
                };
                ensure!(entry.value == [number], "change {number} is {entry:?}");
            }
            WatchEvent::Resync(_) => return Err("a resync where nothing was lost".into()),
        }
    }
    match next(&mut stream).await? {
        WatchEvent::Changes { changes, .. } if matches!(changes.as_slice(), [Change::Delete { key, .. }] if key == "w/3") => {
            Ok(())
        }
        other => Err(format!("instead of the deletion: {other:?}")),
    }
}

async fn a_watch_from_zero_begins_with_a_snapshot(store: Store) -> Check {
    commit(&store, Txn::new().put("s/a", *b"1").put("z", *b"2")).await?;
    let mut stream = watch(&store, "s/", Revision(0)).await?;
    match next(&mut stream).await? {
        WatchEvent::Resync(listing) => ensure!(listing.entries.len() == 1, "snapshot {listing:?}"),
        other @ WatchEvent::Changes { .. } => return Err(format!("first came {other:?}")),
    }
    Ok(())
}

async fn a_watch_from_an_old_revision_misses_nothing(store: Store) -> Check {
    let first = commit(&store, Txn::new().put("o/1", *b"1")).await?;
    commit(&store, Txn::new().put("o/2", *b"2")).await?;
    commit(&store, Txn::new().delete("o/1")).await?;
    let mut stream = watch(&store, "o/", Revision(first.0 + 1)).await?;
    let mut state = std::collections::BTreeSet::from(["o/1".to_owned()]);
    while state != std::collections::BTreeSet::from(["o/2".to_owned()]) {
        match next(&mut stream).await? {
            WatchEvent::Resync(listing) => {
                state = listing.entries.into_iter().map(|entry| entry.key).collect()
            }
            WatchEvent::Changes { changes, .. } => {
                for change in changes {
                    match change {
                        Change::Put(entry) => state.insert(entry.key),
                        Change::Delete { key, .. } => state.remove(&key),
                    };
                }
            }
        }
    }
    Ok(())
}

async fn a_watch_from_a_revision_that_never_was_resyncs(store: Store) -> Check {
    let revision = commit(&store, Txn::new().put("f/1", *b"1")).await?;
    let mut stream = watch(&store, "f/", Revision(revision.0 + 1000)).await?;
    match next(&mut stream).await? {
        WatchEvent::Resync(listing) => ensure!(listing.entries.len() == 1, "snapshot {listing:?}"),
        other @ WatchEvent::Changes { .. } => return Err(format!("instead of a resync: {other:?}")),
    }
    Ok(())
}

async fn a_slow_watcher_is_told_and_ends_up_right(store: Store) -> Check {
    // Together more than any backend keeps for a watcher that does not read.
    const WRITERS: u32 = 16;
    const EACH: u32 = 125;
    let mut stream = watch(&store, "l/", Revision(0)).await?;
    next(&mut stream).await?;
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for number in 0..EACH {
                    let txn = Txn::new().put(format!("l/{writer}"), number.to_be_bytes());
                    commit(&store, txn).await?;
                }
                Ok::<_, String>(())
            })
        })
        .collect();
    for writer in writers {
        writer.await.map_err(|error| error.to_string())??;
    }
    let done = |state: &BTreeMap<String, Vec<u8>>| {
        state.len() == WRITERS as usize && state.values().all(|value| *value == (EACH - 1).to_be_bytes())
    };
    let mut state: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let (mut seen, mut resyncs) = (0u32, 0);
    while !done(&state) {
        match next(&mut stream).await? {
            WatchEvent::Changes { changes, .. } => {
                for change in changes {
                    if let Change::Put(entry) = change {
                        let before = state.insert(entry.key, entry.value.clone());
                        ensure!(
                            before.is_none_or(|before| entry.value > before),
                            "went back in time"
                        );
                        seen += 1;
                    }
                }
            }
            WatchEvent::Resync(listing) => {
                resyncs += 1;
                state = listing
                    .entries
                    .into_iter()
                    .map(|entry| (entry.key, entry.value))
                    .collect();
            }
        }
    }
    ensure!(
        seen == WRITERS * EACH || resyncs > 0,
        "{} changes were skipped without a word",
        WRITERS * EACH - seen
    );
    Ok(())
}

async fn a_lease_takes_its_keys_along(store: Store) -> Check {
    let lease = store
        .lease_grant(Duration::from_millis(300))
        .await
        .map_err(|error| words(&error))?;
    commit(
        &store,
        Txn::new()
            .put_leased("lease/a", *b"1", lease.id)
            .put("lease/b", *b"2"),
    )
    .await?;
    let mut stream = watch(&store, "lease/", Revision(0)).await?;
    next(&mut stream).await?;
    match next(&mut stream).await? {
        WatchEvent::Changes { changes, .. } => {
            ensure!(
                matches!(changes.as_slice(), [Change::Delete { key, .. }] if key == "lease/a"),
                "{changes:?}"
            );
        }
        WatchEvent::Resync(_) => return Err("a resync where nothing was lost".into()),
    }
    ensure!(
        value(&store, "lease/b").await?.is_some(),
        "a key without a lease is gone"
    );
    let gone = store.lease_keep_alive(lease.id).await;
    ensure!(
        matches!(gone, Err(StoreError::LeaseGone(_))),
        "an expired lease was kept alive: {gone:?}"
    );
    let late = store
        .commit(Txn::new().put_leased("lease/c", *b"3", lease.id))
        .await;
    ensure!(
        matches!(late, Err(StoreError::LeaseGone(_))),
        "an expired lease took a key: {late:?}"
    );
    Ok(())
}

async fn a_lease_that_is_kept_alive_lives(store: Store) -> Check {
    let lease = store
        .lease_grant(Duration::from_millis(600))
        .await
        .map_err(|error| words(&error))?;
    commit(&store, Txn::new().put_leased("alive", *b"1", lease.id)).await?;
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        store
            .lease_keep_alive(lease.id)
            .await
            .map_err(|error| words(&error))?;
    }
    ensure!(value(&store, "alive").await?.is_some(), "its key is gone");
    store
        .lease_revoke(lease.id)
        .await
        .map_err(|error| words(&error))?;
    ensure!(
        value(&store, "alive").await?.is_none(),
        "its key is there after it was revoked"
    );
    Ok(())
}

async fn one_leader_at_a_time(store: Store) -> Check {
    let ttl = Duration::from_millis(600);
    let first = election::campaign(Arc::clone(&store), "leader", "one", ttl)
        .await
        .map_err(|error| words(&error))?;
    let fence = first.fence();
    let second = tokio::spawn(election::campaign(Arc::clone(&store), "leader", "two", ttl));
    tokio::time::sleep(ttl * 2).await;
    ensure!(
        !second.is_finished(),
        "a second leader while the first keeps its lease"
    );
    drop(first);
    let second = tokio::time::timeout(PATIENCE, second)
        .await
        .map_err(|_elapsed| "no second leader came")?;
    let second = second
        .map_err(|error| error.to_string())?
        .map_err(|error| words(&error))?;
    let txn = Txn {
        conditions: vec![fence],
        ..Txn::new().put("as-leader", *b"old")
    };
    let late = store.commit(txn).await.map_err(|error| words(&error))?;
    ensure!(
        matches!(late, CommitOutcome::Conflict { .. }),
        "a deposed leader wrote"
    );
    let txn = Txn {
        conditions: vec![second.fence()],
        ..Txn::new().put("as-leader", *b"new")
    };
    commit(&store, txn).await?;
    Ok(())
}
