//! Files, held against Wireshark's own readers: what we write is valid for them and says what we meant, and what
//! others write has the times that they read (`tshark`, `capinfos`).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::print_stderr,
    reason = "a test fails by panic, and its numbers are small"
)]

mod common;

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use common::{Random, packets};
use nv_capture::{
    CaptureSink, InterfaceInfo, InterfaceTotals, LinkType, Packet, PacketDirection, PacketReader, PcapSink,
    PcapngSink, SectionInfo,
};
use nv_types::{MacAddr, Timestamp, Verdict};

fn has_tshark(test: &str) -> bool {
    if Command::new("tshark").arg("--version").output().is_ok() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "{test} needs tshark");
    eprintln!("SKIPPED {test}: needs tshark");
    false
}

fn run(program: &str, arguments: &[&str], file: &Path) -> String {
    let output = Command::new(program).args(arguments).arg(file).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Fields of each packet, as tshark reads them.
fn fields(file: &Path, names: &[&str]) -> Vec<Vec<String>> {
    let mut command = Command::new("tshark");
    command
        .args(["-n", "-T", "fields", "-E", "separator=|", "-r"])
        .arg(file);
    for name in names {
        command.args(["-e", name]);
    }
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| line.split('|').map(ToOwned::to_owned).collect())
        .collect()
}

#[test]
fn wireshark_reads_everything_that_we_write() {
    if !has_tshark("wireshark_reads_everything_that_we_write") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nv.pcapng");
    let section = SectionInfo {
        filter: "tcp port 80".into(),
        ..SectionInfo::new("web", "capture 1 of workload w1; node n1")
    };
    let mut sink = PcapngSink::new(Vec::new(), &section, 65_535).unwrap();
    sink.begin_interface(&InterfaceInfo {
        mac: Some(MacAddr([2, 0, 0, 0, 0, 1])),
        ..InterfaceInfo::new("eth0", LinkType::ETHERNET)
    })
    .unwrap();
    sink.name("10.0.0.1".parse::<IpAddr>().unwrap(), "web").unwrap();
    sink.name("2001:db8::1".parse::<IpAddr>().unwrap(), "db").unwrap();
    let all = packets(&mut Random(7), 300);
    for (n, data) in (1_u64..).zip(&all) {
        sink.write(&Packet {
            timestamp: Timestamp(1_700_000_000_000_000_000 + n),
            direction: if n % 2 == 0 {
                PacketDirection::Inbound
            } else {
                PacketDirection::Outbound
            },
            original_len: data.len() as u32,
            data,
            id: n,
            verdict: [Some(Verdict::Deny), Some(Verdict::Allow), None][n as usize % 3],
            comment: (n == 1).then_some("web -> db: deny by rule 10002"),
            ..Packet::default()
        })
        .unwrap();
    }
    let totals = InterfaceTotals {
        received: 310,
        dropped: 10,
        kept: 300,
    };
    sink.finish(&[totals], Timestamp(1_700_000_001_000_000_000))
        .unwrap();
    std::fs::write(&path, sink.into_inner()).unwrap();

    let info = run("capinfos", &["-M"], &path);
    for part in [
        "pcapng",
        "Number of packets:   300",
        "web/eth0",
        "tcp port 80",
        "capture 1 of workload w1; node n1",
        "nanoseconds (9)",
        concat!("nv ", env!("CARGO_PKG_VERSION")),
    ] {
        assert!(info.contains(part), "{part} is missing in\n{info}");
    }
    let read = fields(
        &path,
        &[
            "frame.number",
            "frame.time_epoch",
            "frame.interface_name",
            "frame.comment",
            "frame.packet_flags_direction",
        ],
    );
    assert_eq!(read.len(), 300);
    assert_eq!(
        read[0][..4],
        [
            "1",
            "1700000000.000000001",
            "web/eth0",
            "web -> db: deny by rule 10002"
        ]
    );
    assert!(read[0][4].ends_with('2') && read[1][4].ends_with('1'), "{read:?}");
    let text = run("tshark", &["-n", "-V", "-c", "3", "-r"], &path);
    for part in ["Verdict", "TC_ACT_SHOT", "TC_ACT_OK"] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    let names = run("tshark", &["-N", "n", "-q", "-z", "hosts", "-r"], &path);
    assert!(names.contains("web") && names.contains("2001:db8::1"), "{names}");

    // And what we wrote is what we read.
    let mut reader = PacketReader::new(std::fs::File::open(&path).unwrap()).unwrap();
    let first = reader.next().unwrap().unwrap();
    assert_eq!((first.id, first.verdict), (Some(1), Some(Verdict::Allow)));
    assert_eq!(first.comment.as_deref(), Some("web -> db: deny by rule 10002"));
    assert_eq!(reader.name("10.0.0.1".parse().unwrap()), Some("web"));
    assert_eq!(reader.by_ref().count(), 299);
    assert_eq!(reader.dropped(), 10);
}

#[test]
fn wireshark_reads_classic_pcap_of_ours() {
    if !has_tshark("wireshark_reads_classic_pcap_of_ours") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nv.pcap");
    let mut sink = PcapSink::new(Vec::new(), 65_535);
    sink.begin_interface(&InterfaceInfo::new("eth0", LinkType::ETHERNET))
        .unwrap();
    sink.begin_interface(&InterfaceInfo::new("eth1", LinkType::ETHERNET))
        .unwrap();
    sink.begin_interface(&InterfaceInfo::new("tun0", LinkType::RAW))
        .unwrap_err();
    for n in 0..3_u64 {
        let packet = Packet {
            timestamp: Timestamp(1_700_000_000_000_000_007 + n),
            original_len: 60,
            data: &[0; 60],
            ..Packet::default()
        };
        sink.write(&packet).unwrap();
    }
    std::fs::write(&path, sink.into_inner()).unwrap();
    assert!(run("capinfos", &["-t", "-c"], &path).contains("nanosecond"));
    assert_eq!(fields(&path, &["frame.time_epoch"])[2], ["1700000000.000000009"]);
}

/// A block of either byte order.
fn block(big: bool, kind: u32, body: &[u8]) -> Vec<u8> {
    let word = |value: u32| {
        if big {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    };
    let length = word(body.len() as u32 + 12);
    [&word(kind), &length[..], body, &length].concat()
}

fn section(big: bool) -> Vec<u8> {
    let half = |value: u16| {
        if big {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    };
    let magic = if big {
        0x1a2b_3c4d_u32.to_be_bytes()
    } else {
        0x1a2b_3c4d_u32.to_le_bytes()
    };
    block(
        big,
        0x0a0d_0d0a,
        &[&magic[..], &half(1), &half(0), &[0xff; 8]].concat(),
    )
}

fn interface(big: bool, tsresol: Option<u8>, tsoffset: i64) -> Vec<u8> {
    let half = |value: u16| {
        if big {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    };
    let mut body = [&half(1)[..], &half(0), &[0; 4]].concat();
    if let Some(tsresol) = tsresol {
        body.extend([&half(9)[..], &half(1), &[tsresol, 0, 0, 0]].concat());
    }
    if tsoffset != 0 {
        let offset = if big {
            tsoffset.to_be_bytes()
        } else {
            tsoffset.to_le_bytes()
        };
        body.extend([&half(14)[..], &half(8), &offset].concat());
    }
    body.extend([0; 4]);
    block(big, 1, &body)
}

fn enhanced(big: bool, interface: u32, stamp: u64) -> Vec<u8> {
    let word = |value: u32| {
        if big {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    };
    let mut body = Vec::new();
    for value in [interface, (stamp >> 32) as u32, stamp as u32, 4, 60] {
        body.extend(word(value));
    }
    body.extend([1, 2, 3, 4]);
    block(big, 6, &body)
}

#[test]
fn every_resolution_and_offset_has_the_time_that_wireshark_reads() {
    if !has_tshark("every_resolution_and_offset_has_the_time_that_wireshark_reads") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for big in [false, true] {
        let mut file = section(big);
        let mut index = 0;
        let mut expected = 0;
        for tsresol in [
            None,
            Some(0),
            Some(3),
            Some(6),
            Some(7),
            Some(9),
            Some(0x80),
            Some(0x8a),
            Some(0x94),
            Some(0x9e),
        ] {
            for tsoffset in [0_i64, 1_000_000, -1000] {
                file.extend(interface(big, tsresol, tsoffset));
                // About 1.5 billion seconds in this unit.
                let unit: u128 = match tsresol {
                    None => 1_000_000,
                    Some(n) if n & 0x80 != 0 => 1 << (n & 0x7f),
                    Some(n) => 10_u128.pow(u32::from(n)),
                };
                let stamp = u64::try_from(1_500_000_000 * unit + unit / 3).unwrap();
                file.extend(enhanced(big, index, stamp));
                // A block that nobody knows, and one that we have no use for.
                file.extend(block(big, 0x0bad_0bad, &[1, 2, 3, 4]));
                index += 1;
                expected += 1;
            }
        }
        // The section changes in the middle, and with it the byte order and all interfaces.
        file.extend(section(!big));
        file.extend(interface(!big, Some(9), 0));
        file.extend(enhanced(!big, 0, 1_234_567_890_123_456_789));
        expected += 1;
        let path = folder.path().join(format!("{big}.pcapng"));
        std::fs::write(&path, &file).unwrap();
        let theirs: Vec<_> = fields(&path, &["frame.time_epoch"])
            .into_iter()
            .flatten()
            .collect();
        let ours: Vec<_> = PacketReader::new(file.as_slice())
            .unwrap()
            .map(|packet| packet.unwrap().timestamp.0)
            .collect();
        assert_eq!((ours.len(), theirs.len()), (expected, expected));
        for (our, their) in ours.iter().zip(&theirs) {
            let (seconds, fraction) = their.split_once('.').unwrap();
            let their = seconds.parse::<u64>().unwrap() * 1_000_000_000 + fraction.parse::<u64>().unwrap();
            // tshark rounds binary fractions by its own way; a nanosecond is the last digit.
            assert!(our.abs_diff(their) <= 1, "{our} {their}");
        }
    }
}

#[test]
fn a_time_that_no_clock_shows_is_an_error_with_its_place() {
    let mut file = section(false);
    file.extend(interface(false, Some(9), -2_000_000_000));
    let at = file.len() as u64;
    file.extend(enhanced(false, 0, 1));
    let error = PacketReader::new(file.as_slice())
        .unwrap()
        .next()
        .unwrap()
        .unwrap_err();
    assert!(
        matches!(error, nv_capture::ReadError::Malformed { offset, .. } if offset == at),
        "{error}"
    );
    for resolution in 0..=255 {
        let file = [
            section(true),
            interface(true, Some(resolution), 0),
            enhanced(true, 0, u64::MAX),
        ]
        .concat();
        // Taken or refused, never a fault.
        let _ = PacketReader::new(file.as_slice()).unwrap().next().unwrap();
    }
}

#[test]
fn many_interfaces_and_big_blocks_are_read_in_bounded_memory() {
    let mut file = section(false);
    for _ in 0..65_536 {
        file.extend(interface(false, None, 0));
    }
    file.extend(enhanced(false, 65_535, 7));
    // 9 MB that nobody knows, between packets.
    file.extend(block(false, 0x0bad_0bad, &vec![0; 9 << 20]));
    file.extend(enhanced(false, 1, 8));
    let mut reader = PacketReader::new(file.as_slice()).unwrap();
    let read: Vec<_> = reader
        .by_ref()
        .map(|packet| packet.unwrap().timestamp.0)
        .collect();
    assert_eq!(read, [7000, 8000]);
    // A million descriptions are not kept.
    let mut file = section(false);
    for _ in 0..300_000 {
        file.extend(interface(false, None, 0));
    }
    let error = PacketReader::new(file.as_slice())
        .unwrap()
        .find_map(Result::err)
        .unwrap();
    assert!(error.to_string().contains("too many interfaces"), "{error}");
}
