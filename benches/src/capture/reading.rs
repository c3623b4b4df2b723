//! Reading a capture to conversations, beside tshark.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use etherparse::PacketBuilder;
use nv_capture::{
    CaptureSink as _, FlowTable, InterfaceInfo, InterfaceTotals, LinkType, Packet, PacketDirection,
    PcapngSink, SectionInfo, read_file,
};
use nv_dp_common::app::{Payload, identify};
use nv_dp_common::{SlicePacket, WINDOW};
use nv_types::{Application, IpProto, Timestamp};

use super::{beside, spread};
use crate::figure::Figure;
use crate::say;

/// Conversations in the file.
const FLOWS: u16 = 2_000;
/// Payloads of the usual mix of sizes: seven small, four middling, one full packet.
const MIX: [usize; 12] = [10, 10, 540, 10, 10, 540, 1460, 10, 540, 10, 540, 10];

pub(super) fn figures(rounds: usize, bytes: u64) -> anyhow::Result<Vec<Figure>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("big.pcapng");
    let packets = make(&path, bytes)?;
    #[allow(clippy::cast_precision_loss, reason = "millions, far below 2^52")]
    let count = packets as f64;
    say(&format!("reading {packets} packets in {bytes} bytes"));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let begun = Instant::now();
        let found = read(&path)?;
        ours.push(count / begun.elapsed().as_secs_f64());
        ensure!(
            found == usize::from(FLOWS),
            "{found} conversations instead of {FLOWS}"
        );
        // Its times hardly differ, and one takes as long as all of ours.
        if round < 2 {
            let begun = Instant::now();
            let status = Command::new("tshark")
                .args(["-q", "-n", "-z", "conv,tcp", "-r"])
                .arg(&path)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .context("cannot run tshark: scripts/setup.sh installs it")?;
            theirs.push(count / begun.elapsed().as_secs_f64());
            ensure!(status.success(), "tshark: {status}");
        }
    }
    spread("nv reads, packets/s", &ours);
    spread("tshark reads, packets/s", &theirs);
    Ok(vec![
        beside("read_pps", "packets/s", &ours, &theirs),
        beside("tshark_read_pps", "packets/s", &theirs, &[]),
    ])
}

/// The datapath's own recognizers, as `nvctl capture flows` uses them.
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

fn read(path: &Path) -> anyhow::Result<usize> {
    let mut reader = read_file(path)?;
    let mut table = FlowTable::default();
    while let Some(view) = reader.next_view()? {
        table.add(&view, &mut classify);
    }
    Ok(table.finish().len())
}

/// Frames of one conversation: the handshake, a request, and segments of the mix in both directions.
fn frames(flow: u16) -> anyhow::Result<Vec<Vec<u8>>> {
    let [high, low] = flow.to_be_bytes();
    let (client, server) = ([10, 1, high, low], [10, 2, 0, low]);
    let port = 20_000 + flow;
    let frame = |to_server: bool, flags: &str, payload: &[u8]| -> anyhow::Result<Vec<u8>> {
        let (from, to, sport, dport) = if to_server {
            (client, server, port, 80)
        } else {
            (server, client, 80, port)
        };
        let step = PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4(from, to, 64)
            .tcp(sport, dport, 1, 65_000);
        let step = match flags {
            "syn" => step.syn(),
            "both" => step.syn().ack(1),
            _ => step.ack(1),
        };
        let mut bytes = Vec::new();
        step.write(&mut bytes, payload)?;
        Ok(bytes)
    };
    let mut all = vec![
        frame(true, "syn", b"")?,
        frame(false, "both", b"")?,
        frame(true, "", b"")?,
        frame(true, "", b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")?,
    ];
    for (number, size) in MIX.into_iter().enumerate() {
        all.push(frame(number % 2 == 1, "", &vec![0x61; size])?);
    }
    Ok(all)
}

fn make(path: &Path, bytes: u64) -> anyhow::Result<u64> {
    let flows: Vec<_> = (0..FLOWS).map(frames).collect::<Result<_, _>>()?;
    let file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut sink = PcapngSink::new(file, &SectionInfo::new("web", "a bench"), 262_144)?;
    sink.begin_interface(&InterfaceInfo::new("eth0", LinkType::ETHERNET))?;
    let (mut count, mut step) = (0_u64, 0_usize);
    while sink.size_with(None) < bytes {
        for frames in &flows {
            // The beginning once, the rest again and again.
            let place = if step < 4 {
                step
            } else {
                4 + (step - 4) % MIX.len()
            };
            let Some(data) = frames.get(place) else { continue };
            sink.write(&Packet {
                timestamp: Timestamp(1_700_000_000_000_000_000 + count * 1000),
                direction: PacketDirection::Inbound,
                original_len: u32::try_from(data.len())?,
                data,
                ..Packet::default()
            })?;
            count += 1;
        }
        step += 1;
    }
    sink.finish(&[InterfaceTotals::default()], Timestamp(1))?;
    Ok(count)
}
