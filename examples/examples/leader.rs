//! Three that want to lead, of which one does; and one that was stopped for longer than its lease, whose late write changes nothing.

#![allow(clippy::print_stdout, reason = "what an example prints is its purpose")]

use std::sync::Arc;
use std::time::Duration;

use nv_store::election::{Leadership, campaign};
use nv_store::{CommitOutcome, KvStore, LocalStore, StoreError, Txn};

const KEY: &str = "jobs/leader";
const TTL: Duration = Duration::from_millis(300);

/// A write that only a leader may make: it carries the condition that its writer still leads.
async fn write(
    store: &dyn KvStore,
    leadership: &Leadership,
    value: &str,
) -> Result<CommitOutcome, StoreError> {
    let mut txn = Txn::new().put("jobs/result", value);
    txn.conditions.push(leadership.fence());
    store.commit(txn).await
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    // Consul or etcd in earnest; the code is the same.
    let store: Arc<dyn KvStore> = Arc::new(LocalStore::memory()?);

    let first = campaign(Arc::clone(&store), KEY, "first", TTL).await?;
    println!("'first' leads");
    let others = ["second", "third"].map(|name| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { (name, campaign(store, KEY, name, TTL).await) })
    });
    anyhow::ensure!(matches!(
        write(&*store, &first, "by the first").await?,
        CommitOutcome::Committed(_)
    ));
    println!("'first' writes as leader");

    // As SIGSTOP, a long swap or a lost network would have it: nothing runs, so the lease is not kept alive.
    std::thread::sleep(TTL * 3);
    tokio::time::sleep(TTL).await;

    // It goes on and does not know yet that another one leads. The store does.
    match write(&*store, &first, "by one that leads no more").await? {
        CommitOutcome::Conflict { key, .. } => {
            println!("a late write of 'first' is refused: {key} is another's")
        }
        CommitOutcome::Committed(_) => anyhow::bail!("a deposed leader has written"),
    }
    for other in others {
        let (name, leadership) = other.await?;
        let leadership = leadership?;
        let outcome = write(&*store, &leadership, name).await?;
        anyhow::ensure!(
            matches!(outcome, CommitOutcome::Committed(_)),
            "'{name}' leads and cannot write"
        );
        println!("'{name}' leads, writes and resigns");
        leadership.resign().await;
    }
    Ok(())
}
