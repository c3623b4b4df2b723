//! One capture: packets from a source to a sink until somebody stops it, a limit is reached or the source ends.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nv_types::Timestamp;

use crate::notes::{Note, Notes};
use crate::{
    CaptureLimits, CaptureSink, InterfaceInfo, InterfaceTotals, Packet, PacketSource, Selection, SinkError,
    SourceError, SourceState,
};

/// How long a session waits for packets before it looks at its clock and its stop mark.
const TICK: Duration = Duration::from_millis(100);
/// What a stopped session waits for packets that the kernel holds back to fill a block.
const DRAIN: Duration = Duration::from_millis(50);

/// Bytes of the longest block with a name.
const MAX_NAME: u64 = 1100;

/// Stops a session from another thread.
#[derive(Debug, Default)]
pub struct SessionControl(AtomicBool);

impl SessionControl {
    /// Asks the session to end: within a fraction of a second.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Sums of a session so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionProgress {
    /// Packets kept.
    pub packets: u64,
    /// Packets lost: dropped by the kernel or evicted from a ring.
    pub dropped: u64,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// It was asked to.
    Stopped,
    /// The next packet would not have fit.
    ByteLimit,
    /// It has all packets that were wanted.
    PacketLimit,
    /// Its time is over.
    Duration,
    /// There are no more packets.
    SourceEnded(&'static str),
}

impl fmt::Display for SessionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stopped => "stopped",
            Self::ByteLimit => "byte limit reached",
            Self::PacketLimit => "packet limit reached",
            Self::Duration => "time is over",
            Self::SourceEnded(why) => why,
        })
    }
}

/// Why a session broke off.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The source failed.
    #[error("capture source failed")]
    Source(#[from] SourceError),
    /// The sink failed.
    #[error("capture file failed")]
    Sink(#[from] SinkError),
}

/// Carries packets until the end, calls `on_progress` after every batch, and finishes the sink, also when the source
/// failed.
///
/// # Errors
/// [`SessionError`] that says which side failed; what was written until then stays readable.
pub fn run_session(
    source: &mut dyn PacketSource,
    sink: &mut dyn CaptureSink,
    limits: &CaptureLimits,
    control: &SessionControl,
    on_progress: &mut dyn FnMut(SessionProgress),
) -> Result<SessionEnd, SessionError> {
    run_selected(source, sink, limits, &Selection::all(), control, on_progress)
}

/// Does as [`run_session`] with the packets of a selection, which are kept with what is known of them: number, verdict, names.
///
/// # Errors
/// As [`run_session`].
pub fn run_selected(
    source: &mut dyn PacketSource,
    sink: &mut dyn CaptureSink,
    limits: &CaptureLimits,
    selection: &Selection,
    control: &SessionControl,
    on_progress: &mut dyn FnMut(SessionProgress),
) -> Result<SessionEnd, SessionError> {
    let mut session = Session {
        sink,
        limits,
        control,
        selection,
        notes: selection
            .annotator
            .as_ref()
            .map(|annotator| Notes::new(Arc::clone(annotator))),
        totals: Vec::new(),
        places: BTreeMap::new(),
        packets: 0,
        outcome: None,
    };
    let end = session.run(source, on_progress);
    let stats = source.statistics();
    if let (Some(first), Ok(stats)) = (session.totals.first_mut(), &stats) {
        // The kernel counts drops by socket, not by interface.
        first.received += stats.dropped;
        first.dropped = stats.dropped;
    }
    let dropped = stats.as_ref().map_or(0, |stats| stats.dropped);
    let finished = session.sink.finish(&session.totals, now());
    on_progress(SessionProgress {
        packets: session.packets,
        dropped: dropped + session.sink.evicted(),
    });
    let end = end?;
    finished?;
    stats?;
    Ok(end)
}

/// The wall clock.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

struct Session<'a> {
    sink: &'a mut dyn CaptureSink,
    limits: &'a CaptureLimits,
    control: &'a SessionControl,
    selection: &'a Selection,
    notes: Option<Notes>,
    totals: Vec<InterfaceTotals>,
    /// The source's number of an interface to the sink's.
    places: BTreeMap<u32, usize>,
    packets: u64,
    outcome: Option<Result<SessionEnd, SinkError>>,
}

impl Session<'_> {
    fn run(
        &mut self,
        source: &mut dyn PacketSource,
        on_progress: &mut dyn FnMut(SessionProgress),
    ) -> Result<SessionEnd, SessionError> {
        let begun = Instant::now();
        loop {
            let left = match self.limits.duration {
                Duration::ZERO => TICK,
                all => all.saturating_sub(begun.elapsed()).min(TICK),
            };
            let stopping = self.control.is_stopped();
            let timeout = if stopping { DRAIN } else { left };
            let before = self.packets;
            let state = source.poll(timeout, &mut |packet, interface| self.take(packet, interface))?;
            if self.packets != before {
                self.sink.flush()?;
                let dropped = source.statistics()?.dropped + self.sink.evicted();
                on_progress(SessionProgress {
                    packets: self.packets,
                    dropped,
                });
            }
            if let Some(outcome) = self.outcome.take() {
                return Ok(outcome?);
            }
            if let SourceState::Ended(why) = state {
                return Ok(SessionEnd::SourceEnded(why));
            }
            if stopping {
                return Ok(SessionEnd::Stopped);
            }
            if !self.limits.duration.is_zero() && begun.elapsed() >= self.limits.duration {
                return Ok(SessionEnd::Duration);
            }
        }
    }

    fn take(&mut self, packet: &Packet<'_>, interface: &InterfaceInfo) -> ControlFlow<()> {
        let outcome = match self.try_take(packet, interface) {
            Ok(None) => return ControlFlow::Continue(()),
            Ok(Some(end)) => Ok(end),
            Err(error) => Err(error),
        };
        self.outcome = Some(outcome);
        ControlFlow::Break(())
    }

    fn try_take(
        &mut self,
        packet: &Packet<'_>,
        interface: &InterfaceInfo,
    ) -> Result<Option<SessionEnd>, SinkError> {
        let Selection { filter, annotator } = self.selection;
        if !filter.is_all() && !filter.judge(packet, interface.link, annotator.as_deref()) {
            return Ok(None);
        }
        // The sink numbers interfaces by their first packet that is kept.
        let place = match self.places.get(&packet.interface) {
            Some(place) => *place,
            None => {
                self.sink.begin_interface(interface)?;
                self.totals.push(InterfaceTotals::default());
                self.places.insert(packet.interface, self.totals.len() - 1);
                self.totals.len() - 1
            }
        };
        let Some(totals) = self.totals.get_mut(place) else {
            return Err(SinkError::UnknownInterface(packet.interface));
        };
        totals.received += 1;
        let snap_len = usize::try_from(self.limits.snap_len).unwrap_or(usize::MAX);
        let packet = Packet {
            interface: u32::try_from(place).unwrap_or(u32::MAX),
            data: packet.data.get(..snap_len).unwrap_or(packet.data),
            ..*packet
        };
        let note = match &mut self.notes {
            Some(notes) => notes.of(&packet, interface.link),
            None => Note::default(),
        };
        let packet = Packet {
            id: note.id,
            verdict: note.verdict,
            comment: note.comment.as_deref(),
            ..packet
        };
        if self.sink.size_with(Some(&packet)) > self.limits.max_bytes {
            return Ok(Some(SessionEnd::ByteLimit));
        }
        for (address, name) in &note.names {
            // Names are a courtesy: packets come first.
            if self.sink.size_with(Some(&packet)) + MAX_NAME < self.limits.max_bytes {
                self.sink.name(*address, name)?;
            }
        }
        self.sink.write(&packet)?;
        totals.kept += 1;
        self.packets += 1;
        Ok((self.packets == self.limits.max_packets).then_some(SessionEnd::PacketLimit))
    }
}
