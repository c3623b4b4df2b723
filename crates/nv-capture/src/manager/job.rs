//! A capture at work.

use std::sync::Arc;

use super::{Capture, Shared};
use crate::courtesy::Courtesy;
use crate::session::now;
use crate::{CaptureLimits, CaptureStatus, FileRing, PacketSource, Selection, run_selected};

/// A session on its thread.
pub(super) struct Job {
    pub(super) shared: Arc<Shared>,
    pub(super) capture: Arc<Capture>,
    pub(super) limits: CaptureLimits,
    pub(super) selection: Selection,
    pub(super) source: Box<dyn PacketSource>,
    pub(super) ring: FileRing,
}

impl Job {
    pub(super) fn run(mut self) {
        let ending = Ending {
            shared: self.shared,
            capture: Arc::clone(&self.capture),
        };
        let capture = &self.capture;
        let mut courtesy = Courtesy::begin();
        let outcome = run_selected(
            self.source.as_mut(),
            &mut self.ring,
            &self.limits,
            &self.selection,
            &capture.control,
            &mut |sums| {
                let mut info = capture.lock();
                (info.packets, info.dropped) = (sums.packets, sums.dropped);
                drop(info);
                courtesy.rest();
            },
        );
        // The socket keeps the workload's namespace alive: close it before anybody hears that the capture is over.
        drop(self.source);
        let mut info = capture.lock();
        (info.status, info.detail) = match outcome {
            Ok(end) => (CaptureStatus::Stopped, end.to_string()),
            Err(error) => (CaptureStatus::Failed, describe(&error)),
        };
        tracing::info!(capture = %info.id, packets = info.packets, status = %info.status, detail = %info.detail,
            "capture ended");
        drop(info);
        drop(ending);
    }
}

/// Marks the capture as ended, also when its thread broke off, so that nobody waits for it in vain.
struct Ending {
    shared: Arc<Shared>,
    capture: Arc<Capture>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let mut info = self.capture.lock();
        if info.status == CaptureStatus::Running {
            (info.status, info.detail) = (CaptureStatus::Failed, "the capture's thread broke off".into());
        }
        info.stopped = now();
        info.bytes = self.capture.list.bytes();
        let info = info.clone();
        if let Err(error) = self.shared.folder.save(&info) {
            tracing::warn!(capture = %info.id, error = describe(&error), "the capture's end could not be noted");
        }
        self.capture.list.update(|state| state.ended = true);
    }
}

/// The error with its causes, in one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
