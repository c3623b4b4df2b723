//! Puts that are on disk when they are acknowledged.

use std::time::Instant;

use nv_store::{KvStore as _, LocalStore, Txn};

use super::beside_etcd;
use super::etcd::Etcd;
use crate::figure::{self, Figure, median};
use crate::say;

/// Puts of one round, one after the other.
const PUTS: usize = 300;
/// Bytes of a value: a rule's or a workload's.
const VALUE: usize = 512;
/// Writers of the second comparison.
const WRITERS: usize = 64;

pub(super) async fn figures(rounds: usize) -> anyhow::Result<[Figure; 2]> {
    std::fs::create_dir_all(figure::folder())?;
    let folder = tempfile::tempdir_in(figure::folder())?;
    let store = LocalStore::open(&folder.path().join("store.redb"))?;
    let etcd = Etcd::start(&folder.path().join("etcd")).await?;
    let value = vec![b'v'; VALUE];
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let (mut ours_many, mut theirs_many) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        for turn in 0..2 {
            // Each round begins with the other one.
            if (round + turn) % 2 == 0 {
                let put = async |key: String| {
                    store.commit(Txn::new().put(key, value.clone())).await?;
                    Ok(())
                };
                ours.push(rate(1, &put).await?);
                ours_many.push(rate(WRITERS, &put).await?);
            } else {
                theirs.push(rate(1, async |key| etcd.put(&key, &value).await).await?);
                theirs_many.push(rate(WRITERS, async |key| etcd.put(&key, &value).await).await?);
            }
        }
    }
    say(&format!(
        "{WRITERS} writers at once: embedded {:.0} puts/s, etcd {:.0} puts/s",
        median(&ours_many),
        median(&theirs_many)
    ));
    Ok(beside_etcd(
        "embedded_put_fsync",
        "etcd_put",
        "puts/s",
        &ours,
        &theirs,
    ))
}

/// Puts a second of so many writers, each with one put under way.
async fn rate(writers: usize, put: impl AsyncFn(String) -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let each = if writers == 1 { PUTS } else { PUTS / 10 };
    let put = &put;
    let writer = |writer: usize| async move {
        for number in 0..each {
            put(format!("policy/rule/{writer:03}{:03}", number % 100)).await?;
        }
        anyhow::Ok(())
    };
    let begun = Instant::now();
    futures::future::try_join_all((0..writers).map(writer)).await?;
    Ok((writers * each) as f64 / begun.elapsed().as_secs_f64())
}
