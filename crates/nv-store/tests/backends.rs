//! Conformance of the backends of this crate, and what a file must survive.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nv_store::{
    CommitOutcome, Expect, KvStore, LocalStore, RemoteStore, StoreError, Txn, WatchEvent, WatchStream,
    conformance,
};
use nv_types::Revision;
use proptest::prelude::*;

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

#[test]
fn memory_conforms() {
    block_on(conformance::run(|| async {
        Arc::new(LocalStore::memory().unwrap()) as _
    }))
    .unwrap();
}

#[test]
fn embedded_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let count = std::sync::atomic::AtomicUsize::new(0);
    block_on(conformance::run(|| async {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Arc::new(LocalStore::open(&folder.path().join(number.to_string())).unwrap()) as _
    }))
    .unwrap();
}

/// A transport whose watches break after a few events, as a connection would.
#[derive(Clone)]
struct Flaky(LocalStore);

#[async_trait::async_trait]
impl KvStore for Flaky {
    async fn get(&self, key: &str) -> Result<(Option<nv_store::KeyValue>, Revision), StoreError> {
        self.0.get(key).await
    }
    async fn list(&self, prefix: &str) -> Result<nv_store::Listing, StoreError> {
        self.0.list(prefix).await
    }
    async fn commit(&self, txn: Txn) -> Result<CommitOutcome, StoreError> {
        self.0.commit(txn).await
    }
    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StoreError> {
        let mut stream = self.0.watch(prefix, from).await?;
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        tokio::spawn(async move {
            for _ in 0..7 {
                let Some(event) = stream.recv().await else { return };
                if sender.send(event).await.is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
    }
    async fn lease_grant(&self, ttl: Duration) -> Result<nv_store::Lease, StoreError> {
        self.0.lease_grant(ttl).await
    }
    async fn lease_keep_alive(&self, id: nv_store::LeaseId) -> Result<nv_store::Lease, StoreError> {
        self.0.lease_keep_alive(id).await
    }
    async fn lease_revoke(&self, id: nv_store::LeaseId) -> Result<(), StoreError> {
        self.0.lease_revoke(id).await
    }
}

#[test]
fn remote_conforms_over_a_connection_that_breaks() {
    block_on(conformance::run(|| async {
        Arc::new(RemoteStore::new(Flaky(LocalStore::memory().unwrap()))) as _
    }))
    .unwrap();
}

#[test]
fn a_file_is_read_again_with_revisions_and_leases() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    block_on(async {
        let store = LocalStore::open(&path).unwrap();
        let lease = store.lease_grant(Duration::from_millis(300)).await.unwrap();
        store
            .commit(Txn::new().put("a", *b"1").put_leased("b", *b"2", lease.id))
            .await
            .unwrap();
        store.commit(Txn::new().put("a", *b"3")).await.unwrap();
        let before = store.list("").await.unwrap();
        drop(store);
        let store = LocalStore::open(&path).unwrap();
        assert_eq!(store.list("").await.unwrap(), before);
        // The history is gone: a watch from before the restart is told so.
        let mut stream = store.watch("", Revision(1)).await.unwrap();
        assert!(matches!(stream.recv().await, Some(WatchEvent::Resync(_))));
        // The lease runs on, and out.
        let gone = tokio::time::timeout(Duration::from_secs(5), stream.recv())
            .await
            .unwrap();
        assert!(matches!(gone, Some(WatchEvent::Changes { .. })), "{gone:?}");
        assert!(store.get("b").await.unwrap().0.is_none());
        // Nobody else gets the number of a lease that was there before.
        drop(store);
        let store = LocalStore::open(&path).unwrap();
        let fresh = store.lease_grant(Duration::from_secs(60)).await.unwrap();
        assert!(fresh.id > lease.id, "{:?} after {:?}", fresh.id, lease.id);
    });
}

#[test]
fn a_second_opener_and_a_damaged_file_are_told_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let store = LocalStore::open(&path).unwrap();
    let text = |error: StoreError| {
        format!(
            "{error}: {:?}",
            std::error::Error::source(&error).map(ToString::to_string)
        )
    };
    let second = text(LocalStore::open(&path).unwrap_err());
    assert!(
        second.contains("store.redb") && second.contains("another process"),
        "{second}"
    );
    block_on(store.commit(Txn::new().put("a", vec![1; 100_000]))).unwrap();
    drop(store);
    let good = std::fs::read(&path).unwrap();
    for (what, bytes) in [
        (
            "garbage",
            b"this is no store at all, but some text that somebody put here".repeat(200),
        ),
        ("a flipped header", {
            let mut bytes = good.clone();
            bytes[0] ^= 0xff;
            bytes
        }),
        ("a torn file", good[..good.len() / 3].to_vec()),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = LocalStore::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{what}: {error}");
        let words = error.to_string();
        assert!(
            words.contains("store.redb") && words.contains("store repair"),
            "{what}: {words}"
        );
    }
}

/// The child of the next test: writes until it is killed, and says what was acknowledged.
#[test]
fn writer_child() {
    let Some(path) = std::env::var_os("NV_STORE_CHILD") else {
        return;
    };
    block_on(async {
        let store = LocalStore::open(path.as_ref()).unwrap();
        let (start, _) = store.get("counter").await.unwrap();
        let start = start.map_or(0, |entry| u64::from_be_bytes(entry.value.try_into().unwrap()));
        for number in start + 1.. {
            let txn = Txn::new()
                .put("counter", number.to_be_bytes())
                .put(format!("k/{:03}", number % 500), number.to_be_bytes());
            store.commit(txn).await.unwrap();
            println!("acknowledged {number}");
        }
    });
}

/// Rounds of the next test: `NV_STORE_KILLS=1000` is the long run, this is what CI has time for.
const KILLS: u64 = 200;

#[test]
fn kill_loses_no_acknowledged_write_and_leaves_no_half_transaction() {
    let kills = std::env::var("NV_STORE_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let (begun, mut slowest) = (Instant::now(), Duration::ZERO);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let mut acknowledged = 0u64;
    for round in 0..kills {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer_child", "--nocapture"])
            .env("NV_STORE_CHILD", &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let wanted = 1 + round * 7 % 23;
        let mut count = 0;
        for line in lines.by_ref() {
            if let Some(number) = line
                .unwrap()
                .rsplit_once("acknowledged ")
                .and_then(|(_, number)| number.parse().ok())
            {
                acknowledged = number;
                count += 1;
                if count == wanted {
                    break;
                }
            }
        }
        // Not only at the moment after an acknowledgement: anywhere in the writes that follow it.
        std::thread::sleep(Duration::from_micros(round * 613 % 7000));
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines {
            if let Some(number) = line
                .unwrap_or_default()
                .rsplit_once("acknowledged ")
                .and_then(|(_, number)| number.parse().ok())
            {
                acknowledged = number;
            }
        }
        let opening = Instant::now();
        let store = LocalStore::open(&path).unwrap();
        slowest = slowest.max(opening.elapsed());
        let counter = block_on(store.get("counter")).unwrap().0.unwrap();
        let counter = u64::from_be_bytes(counter.value.try_into().unwrap());
        assert!(
            counter >= acknowledged,
            "round {round}: {acknowledged} was acknowledged, the file has {counter}"
        );
        let (row, _) = block_on(store.get(&format!("k/{:03}", counter % 500))).unwrap();
        assert_eq!(row.unwrap().value, counter.to_be_bytes(), "half of a transaction");
    }
    assert!(
        acknowledged > 3 * kills,
        "the children wrote next to nothing: {acknowledged}"
    );
    assert!(slowest < Duration::from_secs(1), "opening took {slowest:?}");
    eprintln!(
        "{kills} kills in {:?}: {acknowledged} writes, 0 lost; opened within {slowest:?}",
        begun.elapsed()
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn random_transactions_agree_with_a_map(txns in proptest::collection::vec(
        (proptest::collection::vec((0u8..6, any::<bool>()), 0..3), proptest::collection::btree_map(0u8..6, proptest::option::of(any::<u8>()), 1..4)), 1..40)) {
        block_on(async {
            let store = LocalStore::memory().unwrap();
            let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
            let mut watch = store.watch("", Revision(0)).await.unwrap();
            watch.recv().await.unwrap();
            for (conditions, ops) in txns {
                let mut txn = Txn::new();
                let mut holds = true;
                for (key, present) in conditions {
                    let key = format!("k{key}");
                    holds &= model.contains_key(&key) == present;
                    txn = txn.when(key, if present { Expect::Present } else { Expect::Absent });
                }
                for (key, value) in &ops {
                    let key = format!("k{key}");
                    txn = match value {
                        Some(value) => txn.put(key, [*value]),
                        None => txn.delete(key),
                    };
                }
                let outcome = store.commit(txn).await.unwrap();
                assert_eq!(matches!(outcome, CommitOutcome::Committed(_)), holds);
                if holds {
                    for (key, value) in ops {
                        match value {
                            Some(value) => model.insert(format!("k{key}"), vec![value]),
                            None => model.remove(&format!("k{key}")),
                        };
                    }
                }
                let listed: BTreeMap<_, _> = store.list("").await.unwrap().entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
                assert_eq!(listed, model);
            }
            let mut seen: BTreeMap<String, Vec<u8>> = BTreeMap::new();
            while let Ok(WatchEvent::Changes { changes, .. }) = watch.try_recv() {
                for change in changes {
                    match change {
                        nv_store::Change::Put(entry) => { seen.insert(entry.key, entry.value); }
                        nv_store::Change::Delete { key, .. } => { seen.remove(&key); }
                    }
                }
            }
            assert_eq!(seen, model);
        });
    }
}
