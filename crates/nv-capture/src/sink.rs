//! Where packets go.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use nv_types::Timestamp;

use crate::{CapturedPacket, InterfaceInfo, InterfaceTotals, Packet};

/// Why a sink could not take a packet.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// The file could not be written.
    #[error("cannot write {}", path.display())]
    File {
        /// File.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The stream could not be written.
    #[error("cannot write the capture")]
    Stream(#[source] io::Error),
    /// The packet names an interface that was not begun.
    #[error("packet of interface {0}, which was not described before")]
    UnknownInterface(u32),
    /// The format has no room for the value.
    #[error("not representable in pcapng: {0}")]
    Format(String),
}

/// Keeps packets. Calls come in this order: every interface before its first packet, `finish` last.
pub trait CaptureSink {
    /// Tells of the next interface; the first call is interface 0.
    ///
    /// # Errors
    /// When it cannot be written.
    fn begin_interface(&mut self, interface: &InterfaceInfo) -> Result<(), SinkError>;

    /// Keeps a packet.
    ///
    /// # Errors
    /// When it cannot be written; the sink is not usable any more.
    fn write(&mut self, packet: &Packet<'_>) -> Result<(), SinkError>;

    /// Tells of an address's name.
    ///
    /// # Errors
    /// When it cannot be written.
    fn name(&mut self, _address: IpAddr, _name: &str) -> Result<(), SinkError> {
        Ok(())
    }

    /// Bytes that the sink would hold if it took this packet (or none) and were finished right after.
    fn size_with(&self, packet: Option<&Packet<'_>>) -> u64;

    /// Packets that were kept once and are not any more.
    fn evicted(&self) -> u64 {
        0
    }

    /// Makes what was written visible to readers.
    ///
    /// # Errors
    /// When it cannot be written.
    fn flush(&mut self) -> Result<(), SinkError>;

    /// Ends the capture: sums of each interface in their order, and the time of the end.
    ///
    /// # Errors
    /// When it cannot be written.
    fn finish(&mut self, totals: &[InterfaceTotals], at: Timestamp) -> Result<(), SinkError>;
}

/// The newest packets, in memory: for a look back without a file. The oldest are dropped and counted.
#[derive(Debug)]
pub struct RingSink {
    max_packets: usize,
    max_bytes: u64,
    bytes: u64,
    evicted: u64,
    interfaces: Vec<std::sync::Arc<InterfaceInfo>>,
    packets: VecDeque<CapturedPacket>,
    totals: Vec<InterfaceTotals>,
}

impl RingSink {
    /// A ring of at most this many packets and bytes of packets; at least one packet is kept.
    #[must_use]
    pub fn new(max_packets: usize, max_bytes: u64) -> Self {
        Self {
            max_packets: max_packets.max(1),
            max_bytes,
            bytes: 0,
            evicted: 0,
            interfaces: Vec::new(),
            packets: VecDeque::new(),
            totals: Vec::new(),
        }
    }

    /// What it holds, oldest first.
    pub fn packets(&self) -> impl Iterator<Item = &CapturedPacket> {
        self.packets.iter()
    }

    /// Sums that `finish` brought.
    #[must_use]
    pub fn totals(&self) -> &[InterfaceTotals] {
        &self.totals
    }
}

impl CaptureSink for RingSink {
    fn begin_interface(&mut self, interface: &InterfaceInfo) -> Result<(), SinkError> {
        self.interfaces.push(interface.clone().into());
        Ok(())
    }

    fn write(&mut self, packet: &Packet<'_>) -> Result<(), SinkError> {
        let unknown = SinkError::UnknownInterface(packet.interface);
        let place = usize::try_from(packet.interface).unwrap_or(usize::MAX);
        let interface = self.interfaces.get(place).ok_or(unknown)?;
        self.bytes += packet.data.len() as u64;
        self.packets.push_back(CapturedPacket {
            timestamp: packet.timestamp,
            interface_index: packet.interface,
            interface: Some(interface.clone()),
            direction: packet.direction,
            original_len: packet.original_len,
            data: packet.data.to_vec(),
            id: (packet.id != 0).then_some(packet.id),
            verdict: packet.verdict,
            comment: packet.comment.map(ToOwned::to_owned),
        });
        while self.packets.len() > 1 && (self.packets.len() > self.max_packets || self.bytes > self.max_bytes)
        {
            if let Some(oldest) = self.packets.pop_front() {
                self.bytes -= oldest.data.len() as u64;
                self.evicted += 1;
            }
        }
        Ok(())
    }

    fn size_with(&self, packet: Option<&Packet<'_>>) -> u64 {
        // The ring makes room by itself: it never asks for more than it may hold.
        (self.bytes + packet.map_or(0, |packet| packet.data.len() as u64)).min(self.max_bytes)
    }

    fn evicted(&self) -> u64 {
        self.evicted
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    fn finish(&mut self, totals: &[InterfaceTotals], _at: Timestamp) -> Result<(), SinkError> {
        self.totals = totals.to_vec();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LinkType, PacketDirection};

    #[test]
    fn a_ring_keeps_the_newest_and_counts_the_rest() {
        let mut ring = RingSink::new(3, 1000);
        ring.begin_interface(&InterfaceInfo::new("eth0", LinkType::ETHERNET))
            .unwrap();
        let packet = |n: u64, data| Packet {
            timestamp: Timestamp(n),
            interface: 0,
            direction: PacketDirection::Inbound,
            original_len: 100,
            data,
            ..Packet::default()
        };
        for n in 0..5 {
            ring.write(&packet(n, &[0; 100])).unwrap();
        }
        assert_eq!(
            ring.packets().map(|p| p.timestamp.0).collect::<Vec<_>>(),
            [2, 3, 4]
        );
        assert_eq!(ring.evicted(), 2);
        ring.write(&packet(9, &[0; 900])).unwrap();
        assert_eq!(ring.packets().map(|p| p.timestamp.0).collect::<Vec<_>>(), [4, 9]);
        assert_eq!((ring.evicted(), ring.size_with(None)), (4, 1000));
        let stranger = Packet {
            interface: 1,
            ..packet(1, &[])
        };
        assert!(matches!(
            ring.write(&stranger),
            Err(SinkError::UnknownInterface(1))
        ));
    }
}
