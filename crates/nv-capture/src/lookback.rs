//! The newest packets of a workload, always at hand: what led to something can be saved when it has happened.
//!
//! A [`Lookback`] reads a source on a thread of its own and keeps the newest packets in memory. [`Lookback::tail`] gives what it
//! holds and, without a gap, what comes next.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::courtesy::Courtesy;
use crate::session::SessionControl;
use crate::{
    EachPacket, InterfaceInfo, Packet, PacketDirection, PacketSource, SourceError, SourceState, SourceStats,
};

/// What a packet takes beside its bytes.
const OVERHEAD: usize = size_of::<Held>();
/// How long the thread waits for packets before it looks whether it is still wanted.
const TICK: Duration = Duration::from_millis(200);

#[derive(Debug)]
struct Held {
    time: nv_types::Timestamp,
    interface: u32,
    direction: PacketDirection,
    original_len: u32,
    data: Box<[u8]>,
}

#[derive(Debug, Default)]
struct State {
    held: VecDeque<Held>,
    bytes: usize,
    interfaces: Vec<InterfaceInfo>,
    /// Somebody takes the packets: the oldest are kept for it then, and what does not fit is lost and counted.
    followed: bool,
    /// Packets that were lost while somebody followed.
    lost: u64,
    /// The source has ended.
    over: Option<&'static str>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    control: SessionControl,
    limit: usize,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, packet: &Packet<'_>, interface: &InterfaceInfo) {
        let mut state = self.lock();
        let place = usize::try_from(packet.interface).unwrap_or(usize::MAX);
        if place == state.interfaces.len() {
            state.interfaces.push(interface.clone());
        }
        let size = packet.data.len() + OVERHEAD;
        if state.followed && state.bytes + size > self.limit * 2 {
            state.lost += 1;
            return;
        }
        state.bytes += size;
        state.held.push_back(Held {
            time: packet.timestamp,
            interface: packet.interface,
            direction: packet.direction,
            original_len: packet.original_len,
            data: packet.data.into(),
        });
        while !state.followed && state.bytes > self.limit {
            let Some(oldest) = state.held.pop_front() else {
                break;
            };
            state.bytes -= oldest.data.len() + OVERHEAD;
        }
    }
}

/// Keeps the newest packets of a source until it is dropped.
#[derive(Debug)]
pub struct Lookback(Arc<Shared>);

impl Lookback {
    /// Keeps at most so many bytes, a packet's own record counted; twice as many while somebody takes them.
    ///
    /// # Errors
    /// When no thread can be made.
    pub fn start(name: &str, source: Box<dyn PacketSource>, bytes: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            control: SessionControl::default(),
            limit: bytes,
        });
        let kept = Arc::clone(&shared);
        let name = format!("lookback-{name:.6}");
        thread::Builder::new()
            .name(name)
            .spawn(move || run(&kept, source))?;
        Ok(Self(shared))
    }

    /// Packets and bytes that it holds now.
    #[must_use]
    pub fn held(&self) -> (usize, usize) {
        let state = self.0.lock();
        (state.held.len(), state.bytes)
    }

    /// Whether its source has ended, and why.
    #[must_use]
    pub fn is_over(&self) -> Option<&'static str> {
        self.0.lock().over
    }

    /// What is held and what comes next, as a source; `None` while another one takes it.
    #[must_use]
    pub fn tail(&self) -> Option<LookbackSource> {
        let mut state = self.0.lock();
        if std::mem::replace(&mut state.followed, true) {
            return None;
        }
        state.lost = 0;
        Some(LookbackSource {
            shared: Arc::clone(&self.0),
            given: 0,
            taken: VecDeque::new(),
            interfaces: Vec::new(),
        })
    }
}

impl Drop for Lookback {
    fn drop(&mut self) {
        self.0.control.stop();
    }
}

fn run(shared: &Shared, mut source: Box<dyn PacketSource>) {
    let mut courtesy = Courtesy::begin();
    let over = loop {
        if shared.control.is_stopped() {
            break "it is not kept any more";
        }
        let polled = source.poll(TICK, &mut |packet, interface| {
            shared.keep(packet, interface);
            ControlFlow::Continue(())
        });
        match polled {
            Ok(SourceState::Open) => {}
            Ok(SourceState::Ended(why)) => break why,
            Err(error) => {
                tracing::warn!(%error, "the newest packets of a workload are not kept any more");
                break "its source failed";
            }
        }
        if shared.lock().followed {
            shared.changed.notify_all();
        }
        courtesy.rest();
    };
    // The socket keeps the workload's namespace alive.
    drop(source);
    let mut state = shared.lock();
    state.over = Some(over);
    if !state.followed {
        state.held.clear();
        state.bytes = 0;
    }
    drop(state);
    shared.changed.notify_all();
}

/// The packets of a [`Lookback`]: those that it held, then those that come. Dropped, the lookback keeps the newest again.
#[derive(Debug)]
pub struct LookbackSource {
    shared: Arc<Shared>,
    given: u64,
    taken: VecDeque<Held>,
    interfaces: Vec<InterfaceInfo>,
}

impl Drop for LookbackSource {
    fn drop(&mut self) {
        self.shared.lock().followed = false;
    }
}

impl PacketSource for LookbackSource {
    fn poll(&mut self, timeout: Duration, each: &mut EachPacket<'_>) -> Result<SourceState, SourceError> {
        if self.taken.is_empty() {
            let deadline = Instant::now() + timeout;
            let mut state = self.shared.lock();
            while state.held.is_empty() {
                if let Some(why) = state.over {
                    return Ok(SourceState::Ended(why));
                }
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Ok(SourceState::Open);
                }
                let waited = self.shared.changed.wait_timeout(state, left);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            self.taken = std::mem::take(&mut state.held);
            state.bytes = 0;
            self.interfaces.clone_from(&state.interfaces);
        }
        while let Some(held) = self.taken.pop_front() {
            let place = usize::try_from(held.interface).unwrap_or(usize::MAX);
            let Some(interface) = self.interfaces.get(place) else {
                continue;
            };
            self.given += 1;
            let packet = Packet {
                timestamp: held.time,
                interface: held.interface,
                direction: held.direction,
                original_len: held.original_len,
                data: &held.data,
                ..Packet::default()
            };
            if each(&packet, interface).is_break() {
                break;
            }
        }
        Ok(SourceState::Open)
    }

    fn statistics(&mut self) -> Result<SourceStats, SourceError> {
        let lost = self.shared.lock().lost;
        Ok(SourceStats {
            received: self.given + lost,
            dropped: lost,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};

    use nv_types::Timestamp;

    use super::*;
    use crate::LinkType;

    /// Gives what a test sends.
    struct Fed(Receiver<u64>);

    impl PacketSource for Fed {
        fn poll(&mut self, timeout: Duration, each: &mut EachPacket<'_>) -> Result<SourceState, SourceError> {
            match self.0.recv_timeout(timeout) {
                Ok(time) => {
                    let packet = Packet {
                        timestamp: Timestamp(time),
                        original_len: 1000,
                        data: &[7; 1000],
                        ..Packet::default()
                    };
                    let _ = each(&packet, &InterfaceInfo::new("eth0", LinkType::ETHERNET));
                    Ok(SourceState::Open)
                }
                Err(RecvTimeoutError::Timeout) => Ok(SourceState::Open),
                Err(RecvTimeoutError::Disconnected) => Ok(SourceState::Ended("fed")),
            }
        }

        fn statistics(&mut self) -> Result<SourceStats, SourceError> {
            Ok(SourceStats::default())
        }
    }

    fn lookback(packets: usize) -> (Sender<u64>, Lookback) {
        let (sender, receiver) = channel();
        let lookback = Lookback::start("web", Box::new(Fed(receiver)), packets * (1000 + OVERHEAD)).unwrap();
        (sender, lookback)
    }

    fn wait(what: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while !what() {
            assert!(Instant::now() < deadline);
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn take(source: &mut LookbackSource) -> Vec<u64> {
        let mut times = Vec::new();
        let state = source.poll(Duration::from_millis(500), &mut |packet, interface| {
            assert_eq!((interface.name.as_str(), packet.data.len()), ("eth0", 1000));
            times.push(packet.timestamp.0);
            ControlFlow::Continue(())
        });
        state.unwrap();
        times
    }

    #[test]
    fn the_newest_are_held_and_what_comes_next_follows_without_a_gap() {
        let (feed, lookback) = lookback(3);
        (1..=10).for_each(|time| feed.send(time).unwrap());
        let newest = |time: u64| {
            let state = lookback.0.lock();
            state.held.back().is_some_and(|held| held.time == Timestamp(time))
        };
        wait(|| newest(10));
        assert_eq!(lookback.held().0, 3);
        let mut tail = lookback.tail().unwrap();
        assert!(lookback.tail().is_none(), "one at a time");
        feed.send(11).unwrap();
        wait(|| newest(11));
        assert_eq!(take(&mut tail), [8, 9, 10, 11]);
        feed.send(12).unwrap();
        assert_eq!(take(&mut tail), [12]);
        drop(tail);
        (13..=20).for_each(|time| feed.send(time).unwrap());
        wait(|| newest(20));
        assert_eq!(lookback.held().0, 3);
        assert_eq!(take(&mut lookback.tail().unwrap()), [18, 19, 20]);
    }

    #[test]
    fn a_slow_taker_loses_the_newest_and_hears_how_many() {
        let (feed, lookback) = lookback(2);
        let mut tail = lookback.tail().unwrap();
        (1..=10).for_each(|time| feed.send(time).unwrap());
        wait(|| lookback.0.lock().lost == 6);
        assert_eq!(take(&mut tail), [1, 2, 3, 4]);
        let stats = tail.statistics().unwrap();
        assert_eq!((stats.received, stats.dropped), (10, 6));
    }

    #[test]
    fn it_ends_with_its_source_after_the_last_packet() {
        let (feed, lookback) = lookback(2);
        let mut tail = lookback.tail().unwrap();
        feed.send(1).unwrap();
        drop(feed);
        wait(|| lookback.is_over() == Some("fed"));
        assert_eq!(take(&mut tail), [1]);
        let state = tail.poll(Duration::from_secs(1), &mut |_, _| ControlFlow::Continue(()));
        assert_eq!(state.unwrap(), SourceState::Ended("fed"));
    }
}
