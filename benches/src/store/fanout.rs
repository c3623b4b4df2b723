//! One change, and everybody who watches.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Context as _;
use nv_store::{KvStore as _, LocalStore, Revision, Txn, WatchEvent};
use tokio::sync::Notify;

use super::beside_etcd;
use super::etcd::Etcd;
use crate::figure::{self, Figure};

/// Watchers of one process.
const WATCHERS: usize = 5000;
const KEY: &str = "policy/rule/000001";

/// Milliseconds from the call that changes a key to the last watcher that was told of it.
pub(super) async fn figures(rounds: usize) -> anyhow::Result<[Figure; 2]> {
    std::fs::create_dir_all(figure::folder())?;
    let folder = tempfile::tempdir_in(figure::folder())?;
    let store = LocalStore::open(&folder.path().join("store.redb"))?;
    let etcd = Etcd::start(&folder.path().join("etcd")).await?;
    let told = Arc::new((AtomicUsize::new(0), Notify::new()));
    let mut watchers = tokio::task::JoinSet::new();
    for _ in 0..WATCHERS {
        let mut watch = store.watch("policy/", Revision(0)).await?;
        let told = Arc::clone(&told);
        watchers.spawn(async move {
            while let Some(event) = watch.recv().await {
                if matches!(event, WatchEvent::Changes { .. })
                    && told.0.fetch_add(1, Ordering::Relaxed) + 1 == WATCHERS
                {
                    told.1.notify_one();
                }
            }
        });
    }
    let mut watches = etcd.watch(KEY, WATCHERS).await?;
    let value = vec![b'v'; 512];
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        for turn in 0..2 {
            if (round + turn) % 2 == 0 {
                told.0.store(0, Ordering::Relaxed);
                let begun = Instant::now();
                store.commit(Txn::new().put(KEY, value.clone())).await?;
                tokio::time::timeout(std::time::Duration::from_secs(10), told.1.notified())
                    .await
                    .context("a watcher was not told")?;
                ours.push(begun.elapsed().as_secs_f64() * 1000.0);
            } else {
                let begun = Instant::now();
                let (put, told) = tokio::join!(etcd.put(KEY, &value), watches.told());
                put.and(told)?;
                theirs.push(begun.elapsed().as_secs_f64() * 1000.0);
            }
        }
    }
    watchers.abort_all();
    Ok(beside_etcd(
        "fanout_5000_ms",
        "etcd_fanout_5000_ms",
        "ms",
        &ours,
        &theirs,
    ))
}
