//! Several live captures as one stream in the order of time.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use nv_types::Timestamp;

use crate::{CaptureSink, CapturedPacket, InterfaceInfo, Packet, SinkError};

/// Puts packets of several sources in order and writes them to one sink.
///
/// A packet is written once every source that is still open has shown a later one, or once it has waited for
/// `patience` while others were silent. A source that comes later than that is written at once and counted.
#[derive(Debug)]
pub struct Merge<S> {
    sink: S,
    sources: Vec<Source>,
    /// Name and link type to the sink's number.
    places: BTreeMap<(String, u32), u32>,
    patience: u64,
    written: Timestamp,
    late: u64,
    packets: u64,
    limit: usize,
}

#[derive(Debug, Default)]
struct Source {
    waiting: VecDeque<(Duration, CapturedPacket)>,
    ended: bool,
}

/// Packets of one source that wait at most; the oldest of all is written when there are more.
const MAX_WAITING: usize = 65_536;

impl<S: CaptureSink> Merge<S> {
    /// Merges so many sources.
    #[must_use]
    pub fn new(sink: S, sources: usize, patience: Duration) -> Self {
        Self {
            sink,
            sources: (0..sources).map(|_| Source::default()).collect(),
            places: BTreeMap::new(),
            patience: u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX),
            written: Timestamp(0),
            late: 0,
            packets: 0,
            limit: MAX_WAITING,
        }
    }

    /// A packet of a source, at this time on any steady clock.
    ///
    /// # Errors
    /// When the sink fails.
    pub fn push(&mut self, source: usize, packet: CapturedPacket, now: Duration) -> Result<(), SinkError> {
        if let Some(source) = self.sources.get_mut(source) {
            source.waiting.push_back((now, packet));
        }
        self.write_due(now)
    }

    /// A source has ended.
    ///
    /// # Errors
    /// When the sink fails.
    pub fn end(&mut self, source: usize, now: Duration) -> Result<(), SinkError> {
        if let Some(source) = self.sources.get_mut(source) {
            source.ended = true;
        }
        self.write_due(now)
    }

    /// Time has passed.
    ///
    /// # Errors
    /// When the sink fails.
    pub fn write_due(&mut self, now: Duration) -> Result<(), SinkError> {
        let mut any = false;
        while let Some(place) = self.next_due(now) {
            if let Some((_, packet)) = self
                .sources
                .get_mut(place)
                .and_then(|source| source.waiting.pop_front())
            {
                self.write(&packet)?;
                any = true;
            }
        }
        if any { self.sink.flush() } else { Ok(()) }
    }

    /// Source of the oldest packet that waits, if that may be written.
    fn next_due(&self, now: Duration) -> Option<usize> {
        let heads = self.sources.iter().enumerate();
        let (place, since, _) = heads
            .filter_map(|(place, source)| {
                source
                    .waiting
                    .front()
                    .map(|(since, packet)| (place, *since, packet.timestamp))
            })
            .min_by_key(|(place, _, time)| (*time, *place))?;
        let all_spoke = self
            .sources
            .iter()
            .all(|source| source.ended || !source.waiting.is_empty());
        let waited = now.saturating_sub(since).as_nanos() >= u128::from(self.patience);
        let full = self
            .sources
            .iter()
            .any(|source| source.waiting.len() > self.limit);
        (all_spoke || waited || full).then_some(place)
    }

    fn write(&mut self, packet: &CapturedPacket) -> Result<(), SinkError> {
        let unnamed = InterfaceInfo::new("", crate::LinkType::ETHERNET);
        let interface = packet.interface.as_deref().unwrap_or(&unnamed);
        let next = u32::try_from(self.places.len()).unwrap_or(u32::MAX);
        let key = (interface.name.clone(), interface.link.0);
        let place = match self.places.get(&key) {
            Some(place) => *place,
            None => {
                self.sink.begin_interface(interface)?;
                self.places.insert(key, next);
                next
            }
        };
        self.late += u64::from(packet.timestamp < self.written);
        self.written = self.written.max(packet.timestamp);
        self.packets += 1;
        self.sink.write(&Packet {
            timestamp: packet.timestamp,
            interface: place,
            direction: packet.direction,
            original_len: packet.original_len,
            data: &packet.data,
            id: packet.id.unwrap_or(0),
            verdict: packet.verdict,
            comment: packet.comment.as_deref(),
        })
    }

    /// Whether every source has ended and every packet is written.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.sources
            .iter()
            .all(|source| source.ended && source.waiting.is_empty())
    }

    /// Packets written, and those of them that came too late to be in order.
    #[must_use]
    pub const fn counts(&self) -> (u64, u64) {
        (self.packets, self.late)
    }

    /// The sink.
    pub fn into_inner(self) -> S {
        self.sink
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{LinkType, PacketDirection, RingSink};

    fn packet(name: &str, time: u64) -> CapturedPacket {
        CapturedPacket {
            timestamp: Timestamp(time),
            interface_index: 0,
            interface: Some(Arc::new(InterfaceInfo::new(name, LinkType::ETHERNET))),
            direction: PacketDirection::Inbound,
            original_len: 1,
            data: vec![1],
            id: None,
            verdict: None,
            comment: None,
        }
    }

    #[test]
    fn packets_come_out_in_the_order_of_time_and_silence_is_not_waited_for_long() {
        let mut merge = Merge::new(RingSink::new(100, 1 << 20), 2, Duration::from_secs(1));
        let at = Duration::from_millis;
        merge.push(0, packet("web/eth0", 10), at(0)).unwrap();
        merge.push(0, packet("web/eth0", 30), at(0)).unwrap();
        assert_eq!(
            merge.counts().0,
            0,
            "the other source may still bring an older one"
        );
        merge.push(1, packet("db/eth0", 20), at(100)).unwrap();
        assert_eq!(merge.counts().0, 2);
        merge.write_due(at(900)).unwrap();
        assert_eq!(merge.counts().0, 2);
        merge.write_due(at(1000)).unwrap();
        assert_eq!(merge.counts().0, 3, "it has waited for a second");
        merge.push(1, packet("db/eth0", 25), at(1100)).unwrap();
        merge.end(0, at(1100)).unwrap();
        assert_eq!(merge.counts(), (4, 1));
        assert!(!merge.is_over());
        merge.end(1, at(1200)).unwrap();
        assert!(merge.is_over());
        let ring = merge.into_inner();
        let order: Vec<_> = ring
            .packets()
            .map(|p| (p.timestamp.0, p.interface_index))
            .collect();
        assert_eq!(order, [(10, 0), (20, 1), (30, 0), (25, 1)]);
    }
}
