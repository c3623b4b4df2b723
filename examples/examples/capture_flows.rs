//! Reads a capture and prints its conversations: `cargo run -p nv-examples --example capture_flows [FILE]`
//!
//! Any pcap or pcapng file is taken, in memory that does not grow with it. Without a file it writes a small one first.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use etherparse::PacketBuilder;
use nv_capture::{
    CaptureSink, FlowTable, InterfaceInfo, LinkType, Packet, PacketDirection, PcapngSink, SectionInfo,
    read_file,
};
use nv_dp_common::app::{Payload, identify};
use nv_dp_common::{SlicePacket, WINDOW};
use nv_types::{Application, IpProto, Timestamp, Verdict};

const SYN: u8 = 1;
const ACK: u8 = 2;

/// A TCP segment between the client (port 40000 and up) and the server's port 80.
fn segment(client: u16, to_server: bool, flags: u8, payload: &[u8]) -> anyhow::Result<Vec<u8>> {
    let (web, app) = ([10, 0, 0, 2], [10, 0, 0, 3]);
    let (from, to) = if to_server { (web, app) } else { (app, web) };
    let (source, target) = if to_server { (client, 80) } else { (80, client) };
    let mut step = PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4(from, to, 64)
        .tcp(source, target, 1, 1024);
    if flags & SYN != 0 {
        step = step.syn();
    }
    if flags & ACK != 0 {
        step = step.ack(1);
    }
    let mut frame = Vec::new();
    step.write(&mut frame, payload)?;
    Ok(frame)
}

fn write_sample(path: &Path) -> anyhow::Result<()> {
    let file = std::fs::File::create(path)?;
    let mut sink = PcapngSink::new(file, &SectionInfo::new("web", "an example"), 65_535)?;
    sink.begin_interface(&InterfaceInfo::new("eth0", LinkType::ETHERNET))?;
    let story = [
        (40_000, true, SYN, &b""[..], Verdict::Allow),
        (40_000, false, SYN | ACK, b"", Verdict::Allow),
        (40_000, true, ACK, b"", Verdict::Allow),
        (
            40_000,
            true,
            ACK,
            b"GET / HTTP/1.1\r\nHost: app\r\n\r\n",
            Verdict::Allow,
        ),
        (40_000, false, ACK, b"HTTP/1.1 200 OK\r\n\r\n", Verdict::Allow),
        (40_001, true, SYN, b"", Verdict::Deny),
    ];
    for (at, (client, to_server, flags, payload, verdict)) in (1u64..).zip(story) {
        let data = segment(client, to_server, flags, payload)?;
        sink.write(&Packet {
            timestamp: Timestamp(at * 1_000_000),
            direction: if to_server {
                PacketDirection::Outbound
            } else {
                PacketDirection::Inbound
            },
            original_len: u32::try_from(data.len())?,
            data: &data,
            verdict: Some(verdict),
            ..Packet::default()
        })?;
    }
    sink.finish(&[], Timestamp(7_000_000))?;
    Ok(())
}

/// The recognizers of the datapath.
fn classify(proto: IpProto, bytes: &[u8], from_client: bool) -> Option<Application> {
    let mut window = [0; WINDOW];
    let length = bytes.len().min(WINDOW);
    window.get_mut(..length)?.copy_from_slice(bytes.get(..length)?);
    let mut payload = Payload {
        bytes: window,
        len: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
        from_client,
    };
    identify(proto, &mut payload, &SlicePacket(bytes), 0)
}

#[allow(clippy::print_stdout, reason = "an example shows what it does")]
fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let path = match std::env::args_os().nth(1) {
        Some(path) => PathBuf::from(path),
        None => {
            let path = folder.path().join("sample.pcapng");
            write_sample(&path)?;
            path
        }
    };
    let mut reader = read_file(&path)?;
    let mut flows = FlowTable::default();
    while let Some(packet) = reader.next_view().with_context(|| path.display().to_string())? {
        flows.add(&packet, &mut classify);
    }
    let totals = *flows.totals();
    for flow in flows.finish() {
        let application = flow.application.map_or("?", |application| application.name());
        let rtt = flow
            .rtt
            .map_or_else(String::new, |ns| format!(", round trip {} us", ns / 1000));
        let denied = if flow.denied > 0 { ", denied" } else { "" };
        println!(
            "{} {application}: {} + {} packets{rtt}{denied}",
            flow.tuple, flow.packets_to_server, flow.packets_to_client
        );
    }
    println!("{} packets, {} bytes", totals.packets, totals.bytes);
    Ok(())
}
