//! The process that holds the rights to change the kernel.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use nv_dp::remote::Server;
use nv_dp::{EbpfConfig, EbpfDatapath};
use tokio_util::sync::CancellationToken;

/// Drives the kernel with pins in `pin_dir` for whoever connects to `socket`, until `shutdown` is cancelled. What is in force stays.
///
/// # Errors
/// Names what the kernel lacks, or why the socket cannot be made.
pub async fn run_dp(
    pin_dir: &Path,
    socket: &Path,
    user: Option<u32>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let (config, stopped) = (EbpfConfig::new(pin_dir), Arc::clone(&stop));
    let socket = socket.to_owned();
    let serving = tokio::task::spawn_blocking(move || -> anyhow::Result<()> {
        let mut datapath = EbpfDatapath::open(config).context("the kernel datapath cannot be used")?;
        let server = Server::bind(&socket, user).context("the agent cannot be let in")?;
        tracing::info!(socket = %socket.display(), "datapath served");
        Ok(server.serve(&mut datapath, &stopped)?)
    });
    let watch = tokio::spawn(async move {
        shutdown.cancelled().await;
        stop.store(true, Ordering::Relaxed);
    });
    let ended = serving.await.context("the datapath's thread")?;
    watch.abort();
    ended
}
