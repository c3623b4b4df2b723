//! A sink of your own: packets go where you want them, the session keeps its limits and counts.
//! `cargo run -p nv-examples --example capture_sink`
//!
//! This one keeps no packet at all, only how many bytes each protocol had; it stops after a hundred packets.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use etherparse::{NetHeaders, PacketBuilder, PacketHeaders};
use nv_capture::{
    CaptureLimits, CaptureSink, EachPacket, InterfaceInfo, InterfaceTotals, LinkType, Packet,
    PacketDirection, PacketSource, SessionControl, SessionEnd, SinkError, SourceError, SourceState,
    SourceStats, run_session,
};
use nv_types::{IpProto, Timestamp};

/// Bytes by protocol.
#[derive(Default)]
struct Protocols {
    bytes: BTreeMap<IpProto, u64>,
    interfaces: u32,
}

impl CaptureSink for Protocols {
    fn begin_interface(&mut self, _interface: &InterfaceInfo) -> Result<(), SinkError> {
        self.interfaces += 1;
        Ok(())
    }

    fn write(&mut self, packet: &Packet<'_>) -> Result<(), SinkError> {
        if packet.interface >= self.interfaces {
            return Err(SinkError::UnknownInterface(packet.interface));
        }
        let headers = PacketHeaders::from_ethernet_slice(packet.data).ok();
        let proto = match headers.and_then(|headers| headers.net) {
            Some(NetHeaders::Ipv4(ip, _)) => ip.protocol.0,
            Some(NetHeaders::Ipv6(ip, _)) => ip.next_header.0,
            _ => return Ok(()), // not IP
        };
        *self.bytes.entry(IpProto(proto)).or_default() += u64::from(packet.original_len);
        Ok(())
    }

    // A limit of bytes asks this before each packet; here nothing is stored.
    fn size_with(&self, _packet: Option<&Packet<'_>>) -> u64 {
        0
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    fn finish(&mut self, _totals: &[InterfaceTotals], _at: Timestamp) -> Result<(), SinkError> {
        Ok(())
    }
}

/// A source of your own: frames that are made here.
struct Made(u64);

impl PacketSource for Made {
    fn poll(&mut self, _timeout: Duration, each: &mut EachPacket<'_>) -> Result<SourceState, SourceError> {
        self.0 += 1;
        let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 2], [10, 0, 0, 3], 64);
        let mut data = Vec::new();
        let written = if self.0.is_multiple_of(4) {
            step.udp(40_000, 53).write(&mut data, &[0; 20])
        } else {
            step.tcp(40_000, 80, 1, 1024).write(&mut data, &[0; 100])
        };
        if written.is_err() {
            return Ok(SourceState::Ended("a frame could not be made"));
        }
        let packet = Packet {
            timestamp: Timestamp(self.0),
            direction: PacketDirection::Outbound,
            original_len: u32::try_from(data.len()).unwrap_or(u32::MAX),
            data: &data,
            ..Packet::default()
        };
        let _ = each(&packet, &InterfaceInfo::new("made0", LinkType::ETHERNET));
        Ok(SourceState::Open)
    }

    fn statistics(&mut self) -> Result<SourceStats, SourceError> {
        Ok(SourceStats {
            received: self.0,
            dropped: 0,
        })
    }
}

#[allow(clippy::print_stdout, reason = "an example shows what it does")]
fn main() -> anyhow::Result<()> {
    let mut sink = Protocols::default();
    let limits = CaptureLimits {
        max_packets: 100,
        ..CaptureLimits::default()
    };
    let end = run_session(
        &mut Made(0),
        &mut sink,
        &limits,
        &SessionControl::default(),
        &mut |_| {},
    )?;
    println!("{end}: {:?}", sink.bytes);
    ensure!(end == SessionEnd::PacketLimit, "it ended otherwise: {end}");
    ensure!(
        sink.bytes.get(&IpProto::UDP) == Some(&(25 * 62)),
        "UDP was not counted"
    );
    ensure!(
        sink.bytes.get(&IpProto::TCP) == Some(&(75 * 154)),
        "TCP was not counted"
    );
    Ok(())
}
