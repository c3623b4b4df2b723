//! What watches cost in memory: the same for each key, however many there are, and little for one who has stopped reading. A file of its
//! own, so that nothing else runs in the process.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

use nv_store::{CommitOutcome, KvStore as _, LocalStore, Revision, Txn, WatchEvent};

/// Resident bytes of this process (proc(5)).
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// One test, as the two would see each other's memory.
#[tokio::test(flavor = "current_thread")]
async fn a_watched_key_costs_the_same_among_many_and_a_dead_watcher_little() {
    let store = LocalStore::memory().unwrap();
    let key = |number: usize| format!("workload/node-{:03}/{number:08}", number % 500);
    let mut watches = Vec::new();
    let mut costs = Vec::new();
    for part in 0..8 {
        let mut txn = Txn::new();
        for number in part * 2500..(part + 1) * 2500 {
            txn = txn.put(key(number), vec![b'v'; 300]);
        }
        let made = store.commit(txn).await.unwrap();
        assert!(matches!(made, CommitOutcome::Committed(_)));
    }
    for count in [5_000, 10_000, 20_000] {
        let before = resident();
        let first = watches.len();
        for number in first..count {
            watches.push(store.watch(&key(number), Revision(0)).await.unwrap());
        }
        costs.push((resident() - before) / (count - first));
    }
    eprintln!("bytes of one watched key among 5,000, 10,000 and 20,000: {costs:?}");
    assert!(costs.iter().all(|cost| *cost < 6 * 1024), "{costs:?}");
    assert!(
        costs[2] * 10 <= costs[0] * 12,
        "it grows with the number of keys: {costs:?}"
    );
    drop(watches);

    // Watchers that have stopped reading, one that goes on, and changes without end.
    let dead = 50;
    let mut stopped = Vec::new();
    for _ in 0..dead {
        let mut watch = store.watch("policy/", Revision(0)).await.unwrap();
        assert!(matches!(watch.recv().await, Some(WatchEvent::Resync(_))));
        stopped.push(watch);
    }
    let mut reader = store.watch("policy/", Revision(0)).await.unwrap();
    assert!(matches!(reader.recv().await, Some(WatchEvent::Resync(_))));
    let change = async |number: usize| {
        let key = format!("policy/rule/{:06}", number % 100);
        store.commit(Txn::new().put(key, vec![b'v'; 2000])).await.unwrap();
    };
    // What the store itself keeps is full before it is measured.
    for number in 0..10 {
        change(number).await;
    }
    let before = resident();
    let mut seen = 0;
    for number in 0..2000 {
        change(number).await;
        while reader.try_recv().is_ok() {
            seen += 1;
        }
    }
    let cost = (resident() - before) / dead;
    eprintln!("bytes of a watcher that has stopped reading: {cost}");
    assert!(cost < 1 << 20, "{cost} bytes each");
    assert_eq!(seen, 2010, "who reads is not harmed");
    for mut watch in stopped {
        let mut told = None;
        for _ in 0..1024 {
            match tokio::time::timeout(std::time::Duration::from_secs(5), watch.recv())
                .await
                .unwrap()
            {
                Some(WatchEvent::Resync(all)) => {
                    told = Some(all.entries.len());
                    break;
                }
                Some(WatchEvent::Changes { .. }) => {}
                None => break,
            }
        }
        assert_eq!(told, Some(100), "it is told what it missed");
    }
}
