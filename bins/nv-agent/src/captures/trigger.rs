//! Captures that violations start: what the core asks for is done off the agent's loop.

use std::path::PathBuf;
use std::time::Duration;

use nv_capture::{CaptureLimits, CaptureManager, CaptureSpec};
use nv_types::{Workload, WorkloadId};
use tokio::sync::mpsc;

use super::target_of;

/// Bytes of a capture that a violation starts.
const MOST: u64 = 32 << 20;

/// What the core asks for.
#[derive(Debug)]
pub(crate) enum PacketsAsk {
    /// Keep the newest packets of this workload.
    Keep(Box<Workload>, u64),
    /// Not any more.
    Forget(WorkloadId),
    /// Start a capture with what is kept: cause and seconds.
    Save(WorkloadId, String, u32),
}

/// Answers that wait for the agent's loop.
pub(crate) type Done = (WorkloadId, Result<(), String>);

/// Does what the core asks for, in order, on a thread of its own.
pub(crate) fn serve(
    manager: CaptureManager,
    netns_dir: PathBuf,
    mut asks: mpsc::Receiver<PacketsAsk>,
    done: mpsc::Sender<Done>,
) {
    let work = move || {
        while let Some(ask) = asks.blocking_recv() {
            let answer = carry_out(&manager, &netns_dir, ask);
            if let Err(problem) = &answer.1 {
                tracing::warn!(workload = %answer.0, problem, "packets before a violation");
            }
            if done.blocking_send(answer).is_err() {
                return;
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("lookbacks".into()).spawn(work) {
        tracing::error!(%error, "violations cannot start captures");
    }
}

fn carry_out(manager: &CaptureManager, netns_dir: &std::path::Path, ask: PacketsAsk) -> Done {
    let words = |error: &dyn std::error::Error| match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    };
    match ask {
        PacketsAsk::Forget(id) => {
            manager.unwatch(&id);
            (id, Ok(()))
        }
        PacketsAsk::Keep(workload, bytes) => {
            let kept = target_of(&workload, netns_dir)
                .map_err(|status| status.message().to_owned())
                .and_then(|target| {
                    let spec = CaptureSpec::new(workload.id.clone(), workload.name.clone(), target);
                    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                    manager.watch(&spec, bytes).map_err(|error| words(&error))
                });
            (workload.id, kept)
        }
        PacketsAsk::Save(id, cause, seconds) => {
            let limits = CaptureLimits {
                max_bytes: MOST,
                duration: Duration::from_secs(u64::from(seconds)),
                ..CaptureLimits::default()
            };
            let saved = manager.trigger(&id, &cause, limits);
            (id, saved.map(drop).map_err(|error| words(&error)))
        }
    }
}
