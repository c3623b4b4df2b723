//! What a user and a workload feel of a capture: how soon it begins, and what it takes away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, ensure};
use nv_capture::{
    CaptureConfig, CaptureLimits, CaptureManager, CaptureSpec, CaptureTarget, NetnsRef, PacketReader,
};
use nv_types::WorkloadId;

use super::{beside, flood, spread};
use crate::figure::Figure;
use crate::say;
use crate::traffic::{self, Ends};

fn spec(ends: &Ends, limits: CaptureLimits) -> anyhow::Result<CaptureSpec> {
    Ok(CaptureSpec {
        limits,
        ..CaptureSpec::new(
            WorkloadId::try_new("server")?,
            "server",
            CaptureTarget::netns(NetnsRef::Path(ends.server.clone())),
        )
    })
}

/// Milliseconds from the call that starts a capture to its first packet in a follower's hands, while 1,000 packets a
/// second pass.
pub(super) fn start_ms(ends: &Ends, runs: usize) -> anyhow::Result<Figure> {
    let folder = tempfile::tempdir()?;
    let manager = CaptureManager::open(CaptureConfig::new(folder.path()))?;
    let stop = Arc::new(AtomicBool::new(false));
    let traffic = {
        let (ends, stop) = (ends.clone(), Arc::clone(&stop));
        thread::spawn(move || -> anyhow::Result<()> {
            while !stop.load(Ordering::Relaxed) {
                flood::send(&ends, 1_000.0, Duration::from_millis(500))?;
            }
            Ok(())
        })
    };
    let mut times = Vec::new();
    for _ in 0..runs {
        thread::sleep(Duration::from_millis(37));
        let begun = Instant::now();
        let info = manager.start(&spec(ends, CaptureLimits::default())?)?;
        let mut reader = PacketReader::new(manager.read(info.id, true)?)?;
        let first = reader.next_view()?.is_some();
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        ensure!(first, "no packet came");
        drop(reader);
        manager.delete(info.id)?;
    }
    stop.store(true, Ordering::Relaxed);
    traffic.join().map_err(|_| anyhow!("the traffic panicked"))??;
    spread("start, ms", &times);
    Ok(beside("start_ms", "ms", &times, &[]))
}

/// TCP throughput of a workload that is captured in full, to files, against the same without: by round, in turns.
pub(super) fn throughput_ratio(ends: &Ends, rounds: usize, time: Duration) -> anyhow::Result<Figure> {
    let folder = tempfile::tempdir()?;
    let manager = CaptureManager::open(CaptureConfig {
        max_disk_bytes: 2 << 30,
        ..CaptureConfig::new(folder.path())
    })?;
    let limits = CaptureLimits {
        max_bytes: 1 << 30,
        files: 4,
        ..CaptureLimits::default()
    };
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        for turn in 0..2 {
            if (round + turn) % 2 == 0 {
                without.push(traffic::tcp_throughput(ends, time)?.rate / 1e9);
                continue;
            }
            let info = manager.start(&spec(ends, limits)?)?;
            with.push(traffic::tcp_throughput(ends, time)?.rate / 1e9);
            let info = manager.stop(info.id)?;
            ensure!(info.packets > 0, "nothing was captured");
            say(&format!(
                "  captured {} packets, {} lost or dropped with older files",
                info.packets, info.dropped
            ));
            manager.delete(info.id)?;
        }
    }
    spread("captured, Gbit/s", &with);
    spread("not captured, Gbit/s", &without);
    let ratios: Vec<_> = with
        .iter()
        .zip(&without)
        .map(|(with, without)| with / without)
        .collect();
    let figure = beside("workload_throughput_ratio", "ratio", &ratios, &[]);
    ensure!(figure.value > 0.0, "no throughput");
    Some(figure).context("no rounds")
}
