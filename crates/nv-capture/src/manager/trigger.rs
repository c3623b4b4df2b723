//! Captures that begin before what started them: the newest packets of a workload are kept, and saved when they are wanted.

use nv_types::WorkloadId;

use super::{CaptureError, CaptureManager};
use crate::{AfPacketSource, CaptureInfo, CaptureLimits, CaptureSpec, CaptureStatus, Lookback, PacketSource};

/// Workloads whose newest packets are kept, at most: each has a thread and 1 MiB in the kernel.
pub(super) const MAX_WATCHED: usize = 256;
/// Triggered captures that are kept; the oldest that has ended makes room for a new one.
pub(super) const MAX_TRIGGERED: usize = 16;

/// A workload whose newest packets are kept.
#[derive(Debug)]
pub(super) struct Watched {
    spec: CaptureSpec,
    bytes: usize,
    lookback: Lookback,
}

impl CaptureManager {
    /// Keeps the newest packets of a workload from now on, at most `bytes` of them, for [`Self::trigger`]. What is the same as
    /// before goes on undisturbed; else what was kept is forgotten.
    ///
    /// # Errors
    /// When the workload's namespace cannot be opened, or too many workloads are watched.
    pub fn watch(&self, spec: &CaptureSpec, bytes: usize) -> Result<(), CaptureError> {
        if self.is_watched_as(spec, bytes) {
            return Ok(());
        }
        let source = AfPacketSource::open_small(&spec.target, spec.limits.snap_len).map_err(|source| {
            CaptureError::Source {
                workload: spec.workload.clone(),
                source,
            }
        })?;
        self.watch_from(spec, bytes, Box::new(source))
    }

    /// Does as [`Self::watch`] with any source; the spec's target is not looked at.
    ///
    /// # Errors
    /// As [`Self::watch`].
    pub fn watch_from(
        &self,
        spec: &CaptureSpec,
        bytes: usize,
        source: Box<dyn PacketSource>,
    ) -> Result<(), CaptureError> {
        let mut watched = self.watched();
        if watched.len() >= MAX_WATCHED && !watched.contains_key(&spec.workload) {
            return Err(CaptureError::TooManyWatched { most: MAX_WATCHED });
        }
        let lookback = Lookback::start(&spec.name, source, bytes).map_err(|source| CaptureError::System {
            action: "start a thread",
            source,
        })?;
        let (spec, workload) = (spec.clone(), spec.workload.clone());
        watched.insert(
            workload,
            Watched {
                spec,
                bytes,
                lookback,
            },
        );
        Ok(())
    }

    /// Forgets a workload's newest packets; one that is not watched is no error.
    pub fn unwatch(&self, workload: &WorkloadId) {
        self.watched().remove(workload);
    }

    /// Packets and bytes that are kept of a workload; `None` when it is not watched.
    #[must_use]
    pub fn kept(&self, workload: &WorkloadId) -> Option<(usize, usize)> {
        self.watched()
            .get(workload)
            .map(|watched| watched.lookback.held())
    }

    fn is_watched_as(&self, spec: &CaptureSpec, bytes: usize) -> bool {
        self.watched().get(&spec.workload).is_some_and(|watched| {
            watched.spec == *spec && watched.bytes == bytes && watched.lookback.is_over().is_none()
        })
    }

    /// Saves what is kept of a workload, and what comes next, as a capture within these limits. `cause` is told in its
    /// state and in its file.
    ///
    /// # Errors
    /// [`CaptureError::NotWatched`], or as [`Self::start`].
    pub fn trigger(
        &self,
        workload: &WorkloadId,
        cause: &str,
        limits: CaptureLimits,
    ) -> Result<CaptureInfo, CaptureError> {
        let (spec, tail) = {
            let watched = self.watched();
            let one = watched
                .get(workload)
                .filter(|watched| watched.lookback.is_over().is_none())
                .ok_or_else(|| CaptureError::NotWatched(workload.clone()))?;
            let tail = one.lookback.tail();
            (one.spec.clone(), tail)
        };
        let Some(tail) = tail else {
            return Err(CaptureError::AlreadyTriggered(workload.clone()));
        };
        self.make_room()?;
        let spec = CaptureSpec {
            limits,
            cause: cause.to_owned(),
            ..spec
        };
        self.start_from(&spec, Box::new(tail))
    }

    /// Removes the oldest triggered captures that have ended, so that one more is not too many.
    fn make_room(&self) -> Result<(), CaptureError> {
        let mut triggered = self.list(None);
        triggered.retain(|info| !info.cause.is_empty());
        let mut left = triggered.len();
        for info in triggered {
            if left < MAX_TRIGGERED {
                break;
            }
            if info.status != CaptureStatus::Running {
                self.delete(info.id)?;
                left -= 1;
            }
        }
        Ok(())
    }
}
