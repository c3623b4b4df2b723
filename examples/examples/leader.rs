//! Leader election: three candidates, one leads; it is lost, another one goes on, and what the lost one still writes is refused.

#![allow(clippy::print_stdout, reason = "what an example prints is its purpose")]

use std::sync::Arc;
use std::time::Duration;

use nv_store::{CommitOutcome, Condition, KvStore, LocalStore, Revision, Txn, WatchEvent, election};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A leader that is not heard of for this long is none any more.
const TTL: Duration = Duration::from_millis(400);

/// Who began to lead, and the condition that its writes carry.
type Term = (&'static str, Condition);

/// The job that only the leader may do. The fence makes the write fail once somebody else leads, whatever this one believes.
async fn work(store: &dyn KvStore, name: &str, fence: Condition) -> anyhow::Result<bool> {
    let mut txn = Txn::new().put("job/done-by", name);
    txn.conditions.push(fence);
    Ok(matches!(store.commit(txn).await?, CommitOutcome::Committed(_)))
}

/// Campaigns, works while it leads, and campaigns again; ends when it is told to, and then lets the next one lead at once.
async fn candidate(
    store: Arc<dyn KvStore>,
    name: &'static str,
    terms: mpsc::Sender<Term>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let won = tokio::select! {
            won = election::campaign(Arc::clone(&store), "job/leader", name, TTL) => won?,
            () = stop.cancelled() => return Ok(()),
        };
        let mut leadership = won;
        // Nobody may be listening any more when all of it ends: that is no reason to stop.
        let _ = terms.try_send((name, leadership.fence()));
        loop {
            tokio::select! {
                () = tokio::time::sleep(TTL / 8) => {
                    if !work(&*store, name, leadership.fence()).await? {
                        break;
                    }
                }
                () = leadership.lost() => break,
                () = stop.cancelled() => {
                    leadership.resign().await;
                    return Ok(());
                }
            }
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let store: Arc<dyn KvStore> = Arc::new(LocalStore::memory()?);
    let stop = CancellationToken::new();
    let (tell, mut terms) = mpsc::channel(16);
    let mut candidates = JoinSet::new();
    let mut handles = Vec::new();
    for name in ["one", "two", "three"] {
        let run = candidate(Arc::clone(&store), name, tell.clone(), stop.clone());
        handles.push((name, candidates.spawn(run)));
    }
    let mut next = async || {
        let term = tokio::time::timeout(Duration::from_secs(10), terms.recv()).await?;
        term.ok_or_else(|| anyhow::anyhow!("all candidates have ended"))
    };

    let (first, old_fence) = next().await?;
    println!("{first} leads");
    for (_, handle) in handles.iter().filter(|(name, _)| *name == first) {
        // As a crash: it does not resign, so its lease has to run out.
        handle.abort();
    }
    let begun = std::time::Instant::now();
    let (second, _) = next().await?;
    println!("{first} was lost; {second} leads after {:?}", begun.elapsed());
    anyhow::ensure!(first != second, "the lost one leads again");

    // The first one was only paused, and goes on where it stood.
    let accepted = work(&*store, first, old_fence).await?;
    anyhow::ensure!(!accepted, "a deposed leader's write went through");
    println!("what {first} still wrote was refused");

    let mut watch = store.watch("job/done-by", Revision(0)).await?;
    for _ in 0..3 {
        match watch.recv().await {
            Some(WatchEvent::Changes { changes, .. }) => println!("work goes on: {} change", changes.len()),
            Some(WatchEvent::Resync(all)) => println!("work so far: {} entry", all.entries.len()),
            None => anyhow::bail!("the watch ended"),
        }
    }

    stop.cancel();
    while let Some(ended) = candidates.join_next().await {
        match ended {
            Ok(result) => result?,
            Err(error) if error.is_cancelled() => {}
            Err(error) => return Err(error.into()),
        }
    }
    let (left, _) = store.get("job/leader").await?;
    anyhow::ensure!(left.is_none(), "somebody still leads");
    println!("all have ended, nobody leads");
    Ok(())
}
