//! A store on one file: a transaction with a condition, a watch, and a lease that takes its key along.

#![allow(clippy::print_stdout, reason = "what an example prints is its purpose")]

use std::time::Duration;

use nv_store::{CommitOutcome, Expect, KvStore as _, LocalStore, Revision, Txn, WatchEvent};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let store = LocalStore::open(&folder.path().join("store.redb"))?;

    // Revision 0 asks for what is there first; every change under the prefix follows, in order.
    let mut watch = store.watch("policy/", Revision(0)).await?;
    let CommitOutcome::Committed(first) = store
        .commit(Txn::new().when("policy/a", Expect::Absent).put("policy/a", "1"))
        .await?
    else {
        anyhow::bail!("an empty store has the key already");
    };
    println!("made at revision {first}");

    // A stale writer changes nothing, and learns why.
    let stale = Txn::new()
        .when("policy/a", Expect::Revision(Revision(first.0 + 7)))
        .put("policy/a", "2");
    match store.commit(stale).await? {
        CommitOutcome::Conflict { key, actual } => println!("refused: {key} is at revision {actual:?}"),
        CommitOutcome::Committed(_) => anyhow::bail!("a stale write went through"),
    }

    let lease = store.lease_grant(Duration::from_millis(200)).await?;
    store
        .commit(Txn::new().put_leased("policy/session", "alive", lease.id))
        .await?;
    println!("a leased key is there; its lease is not kept alive");

    for _ in 0..4 {
        match watch.recv().await {
            Some(WatchEvent::Resync(all)) => println!("watch: {} keys to begin with", all.entries.len()),
            Some(WatchEvent::Changes { revision, changes }) => {
                println!("watch: revision {revision}: {changes:?}")
            }
            None => anyhow::bail!("the watch ended"),
        }
    }
    Ok(())
}
