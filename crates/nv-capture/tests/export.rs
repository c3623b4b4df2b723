//! Captures in other forms: written by us, read by gzip, zstd and ourselves; and bombs.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]
#![allow(unused_crate_dependencies, reason = "the package's other targets use them")]

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nv_capture::{
    CaptureSink as _, Compression, FileForm, InterfaceInfo, LinkType, Packet, PacketReader, PcapngSink,
    ReadError, SectionInfo, decompressed, export,
};
use nv_types::Timestamp;

fn sample(packets: u64, links: &[LinkType]) -> Vec<u8> {
    let mut sink = PcapngSink::new(Vec::new(), &SectionInfo::new("web", ""), 65_535).unwrap();
    for link in links {
        sink.begin_interface(&InterfaceInfo::new("eth0", *link)).unwrap();
    }
    for n in 0..packets {
        sink.write(&Packet {
            timestamp: Timestamp(1_000_000_000 + n),
            interface: u32::try_from(n).unwrap() % u32::try_from(links.len()).unwrap(),
            original_len: 60,
            data: &[u8::try_from(n % 251).unwrap(); 60],
            ..Packet::default()
        })
        .unwrap();
    }
    sink.finish(&[], Timestamp(2_000_000_000)).unwrap();
    sink.into_inner()
}

fn packed(input: &[u8], form: FileForm, compression: Compression) -> Vec<u8> {
    let mut out = Vec::new();
    export(input, form, compression, &mut out).unwrap();
    out
}

fn count(file: &[u8]) -> usize {
    let reader = PacketReader::new(decompressed(file).unwrap()).unwrap();
    reader.fold(0, |count, packet| count + usize::from(packet.is_ok()))
}

#[test]
fn other_programs_unpack_what_we_pack() {
    let plain = sample(500, &[LinkType::ETHERNET]);
    for (compression, program) in [(Compression::Gzip, "gzip"), (Compression::Zstd, "zstd")] {
        let file = packed(&plain, FileForm::Pcapng, compression);
        assert!(file.len() < plain.len() / 2);
        assert_eq!(count(&file), 500);
        let child = Command::new(program)
            .args(["-d", "-c"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            assert!(std::env::var_os("CI").is_none(), "{program} is needed");
            continue;
        };
        child.stdin.take().unwrap().write_all(&file).unwrap();
        assert_eq!(child.wait_with_output().unwrap().stdout, plain, "{program}");
    }
}

#[test]
fn classic_pcap_has_every_packet_and_its_time() {
    let plain = sample(40, &[LinkType::ETHERNET, LinkType::ETHERNET]);
    let two = [plain.as_slice(), &plain].concat();
    let file = packed(&two, FileForm::Pcap, Compression::None);
    assert_eq!(file[..4], 0xa1b2_3c4d_u32.to_ne_bytes());
    let times: Vec<_> = PacketReader::new(file.as_slice())
        .unwrap()
        .map(|packet| packet.unwrap().timestamp.0)
        .collect();
    assert_eq!(times.len(), 80);
    assert_eq!(
        (times[0], times[39], times[40]),
        (1_000_000_000, 1_000_000_039, 1_000_000_000)
    );
    assert_eq!(
        count(&packed(
            &sample(0, &[LinkType::ETHERNET]),
            FileForm::Pcap,
            Compression::Gzip
        )),
        0
    );
    // Two link types have no room in it.
    let mixed = sample(2, &[LinkType::ETHERNET, LinkType::RAW]);
    let error = export(
        mixed.as_slice(),
        FileForm::Pcap,
        Compression::None,
        &mut Vec::new(),
    )
    .unwrap_err();
    assert!(error.to_string().contains("use pcapng"), "{error}");
    assert_eq!(
        "7z".parse::<Compression>().unwrap_err().to_string(),
        "'7z' is none of gzip, zstd, none"
    );
}

/// Highest resident memory of this process so far, in KiB (proc(5)).
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// B5 of the table of bad input: what is left of it, with `format.rs` (every cut) and `wireshark.rs` (resolutions, offsets, sections,
/// 65,536 interfaces, a block of 9 MB).
#[test]
fn b5_bombs_and_lying_lengths_end_with_an_offset_in_bounded_memory() {
    let start = sample(1, &[LinkType::ETHERNET]);
    // 16 MB of nothing behind a good packet, in a few kilobytes.
    for compression in [Compression::Gzip, Compression::Zstd] {
        let zeros = std::io::repeat(0).take(16 << 20);
        let bomb = packed_from(start.as_slice().chain(zeros), compression);
        assert!(bomb.len() < 100_000, "{}", bomb.len());
        let begun = Instant::now();
        let mut reader = PacketReader::new(decompressed(bomb.as_slice()).unwrap()).unwrap();
        assert!(reader.next_view().unwrap().is_some());
        let Err(ReadError::Malformed { offset, .. }) = reader.next_view() else {
            panic!("taken for blocks");
        };
        assert_eq!(offset, start.len() as u64);
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
    // Packed ten times over: the outer layer is no capture.
    let mut nested = start;
    for _ in 0..10 {
        nested = packed_from(nested.as_slice(), Compression::Gzip);
    }
    let error = PacketReader::new(decompressed(nested.as_slice()).unwrap()).unwrap_err();
    assert!(error.to_string().contains("not a capture file"), "{error}");
    // A window of 1 GiB is not allocated (RFC 8878, 3.1.1.1.2: exponent 20).
    let wide = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 20 << 3, 0x01, 0x00, 0x00];
    assert!(PacketReader::new(decompressed(wide.as_slice()).unwrap()).is_err());
    // Lengths of 0, 4 GB and odd ones, in both byte orders, as the block after a good section.
    for big in [false, true] {
        let word = |value: u32| {
            if big {
                value.to_be_bytes()
            } else {
                value.to_le_bytes()
            }
        };
        let half = |value: u16| {
            if big {
                value.to_be_bytes()
            } else {
                value.to_le_bytes()
            }
        };
        let mut section = Vec::from(word(0x0a0d_0d0a));
        section.extend([word(28), word(0x1a2b_3c4d)].concat());
        section.extend([half(1), half(0)].concat());
        section.extend([word(u32::MAX), word(u32::MAX), word(28)].concat());
        for length in [0, 4, 8, 11, 13, 30, 0x7fff_fffc, u32::MAX - 3, u32::MAX] {
            let mut file = section.clone();
            file.extend([word(6), word(length)].concat());
            file.extend([0; 64]);
            let error = PacketReader::new(file.as_slice())
                .unwrap()
                .find_map(Result::err)
                .unwrap();
            assert!(error.to_string().contains("byte 28"), "{length} {big}: {error}");
        }
    }
    assert!(peak() < 64 << 10, "{} KiB", peak());
}

fn packed_from(input: impl std::io::Read, compression: Compression) -> Vec<u8> {
    let mut out = Vec::new();
    export(input, FileForm::Pcapng, compression, &mut out).unwrap();
    out
}
