//! Files: what is written is read back, and broken ones are read up to the break.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test fails by panic, and its numbers are small"
)]

use nv_capture::{
    CaptureSink, CapturedPacket, InterfaceInfo, InterfaceTotals, LinkType, Packet, PacketDirection,
    PacketReader, PcapngSink, ReadError, SectionInfo, SinkError,
};
use nv_types::{MacAddr, Timestamp};
use proptest::prelude::*;

fn packet(n: u64, data: &[u8]) -> Packet<'_> {
    Packet {
        timestamp: Timestamp(1_700_000_000_000_000_000 + n),
        interface: (n % 2) as u32,
        direction: [
            PacketDirection::Inbound,
            PacketDirection::Outbound,
            PacketDirection::Unknown,
        ][n as usize % 3],
        original_len: data.len() as u32 + 7,
        data,
        ..Packet::default()
    }
}

/// A file of two interfaces, and where each of its packets ends.
fn sample(count: u64) -> (Vec<u8>, Vec<usize>) {
    let mut sink = PcapngSink::new(Vec::new(), &SectionInfo::new("web\n1", "sample"), 1000).unwrap();
    let mac = Some(MacAddr([2, 0, 0, 0, 0, 1]));
    sink.begin_interface(&InterfaceInfo {
        mac,
        ..InterfaceInfo::new("eth0", LinkType::ETHERNET)
    })
    .unwrap();
    sink.begin_interface(&InterfaceInfo::new("tun0", LinkType::RAW))
        .unwrap();
    let mut ends = Vec::new();
    for n in 0..count {
        let data = vec![n as u8; 40 + n as usize];
        let expected = sink.size_with(Some(&packet(n, &data)));
        sink.write(&packet(n, &data)).unwrap();
        assert_eq!(sink.size_with(None), expected);
        ends.push(sink.inner().len());
    }
    let expected = sink.size_with(None);
    let totals = InterfaceTotals {
        received: 5,
        dropped: 2,
        kept: 3,
    };
    sink.finish(&[totals, InterfaceTotals::default()], Timestamp(9))
        .unwrap();
    let bytes = sink.into_inner();
    assert_eq!(
        bytes.len() as u64,
        expected,
        "the size that was announced is the size"
    );
    (bytes, ends)
}

fn read(bytes: &[u8]) -> (Vec<CapturedPacket>, Option<ReadError>) {
    let mut packets = Vec::new();
    let reader = match PacketReader::new(bytes) {
        Ok(reader) => reader,
        Err(error) => return (packets, Some(error)),
    };
    for next in reader {
        match next {
            Ok(packet) => packets.push(packet),
            Err(error) => return (packets, Some(error)),
        }
    }
    (packets, None)
}

#[test]
fn what_is_written_is_read_back() {
    let (bytes, _) = sample(6);
    let (packets, error) = read(&bytes);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(packets.len(), 6);
    for (n, got) in (0u64..).zip(&packets) {
        let data = vec![n as u8; 40 + n as usize];
        let want = packet(n, &data);
        assert_eq!(
            (got.timestamp, got.interface_index),
            (want.timestamp, want.interface)
        );
        assert_eq!(
            (got.direction, got.original_len),
            (want.direction, want.original_len)
        );
        assert_eq!(got.data, want.data);
        let interface = got.interface.as_deref().unwrap();
        let (name, link) =
            [("web 1/eth0", LinkType::ETHERNET), ("web 1/tun0", LinkType::RAW)][n as usize % 2];
        assert_eq!((interface.name.as_str(), interface.link), (name, link));
    }
    assert_eq!(
        packets[0].interface.as_ref().unwrap().mac,
        Some(MacAddr([2, 0, 0, 0, 0, 1]))
    );
}

#[test]
fn a_file_cut_anywhere_is_read_up_to_the_cut_and_the_error_names_the_byte() {
    let (bytes, ends) = sample(4);
    for cut in 0..bytes.len() {
        let (packets, error) = read(&bytes[..cut]);
        assert_eq!(
            packets.len(),
            ends.iter().filter(|end| **end <= cut).count(),
            "cut at {cut}"
        );
        match error {
            None => assert!(cut % 4 == 0 && cut >= 28, "cut at {cut} is between two blocks"),
            Some(ReadError::Truncated { offset, available }) => {
                assert_eq!(offset + available as u64, cut as u64);
                let last = ends.iter().rfind(|end| **end <= cut).copied().unwrap_or(0) as u64;
                assert!(offset >= last && offset <= cut as u64);
            }
            Some(ReadError::NotACapture { start }) => assert!(cut < 4 && start.len() == cut),
            Some(other) => panic!("cut at {cut}: {other}"),
        }
    }
}

#[test]
fn both_byte_orders_and_resolutions_of_pcap_are_read() {
    for (magic, unit) in [(0xa1b2_c3d4_u32, 1000), (0xa1b2_3c4d, 1)] {
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
            let mut bytes = Vec::new();
            bytes.extend(word(magic));
            bytes.extend([half(2), half(4)].concat());
            bytes.extend([word(0), word(0), word(65_535), word(1)].concat());
            bytes.extend([word(7), word(123_456), word(4), word(60)].concat());
            bytes.extend([1, 2, 3, 4]);
            let (packets, error) = read(&bytes);
            assert!(error.is_none(), "{error:?}");
            assert_eq!(packets[0].timestamp, Timestamp(7_000_000_000 + 123_456 * unit));
            assert_eq!(
                (packets[0].original_len, packets[0].data.as_slice()),
                (60, &[1, 2, 3, 4][..])
            );
        }
    }
}

#[test]
fn sections_may_follow_each_other() {
    let (one, _) = sample(2);
    let (packets, error) = read(&[one.clone(), one].concat());
    assert!(error.is_none(), "{error:?}");
    assert_eq!(packets.len(), 4);
}

#[test]
fn nonsense_is_named() {
    assert!(matches!(read(b"").1, Some(ReadError::NotACapture { .. })));
    assert!(matches!(
        read(b"GIF89a, not packets").1,
        Some(ReadError::NotACapture { .. })
    ));
    let (good, _) = sample(1);
    // A block that says it is 4 GiB long is not waited for with 4 GiB of memory.
    let mut huge = good.clone();
    huge.extend([6, 0, 0, 0, 0xfc, 0xff, 0xff, 0xff]);
    huge.resize(20 << 20, 0);
    match read(&huge).1 {
        Some(ReadError::TooLarge { offset, .. }) => assert_eq!(offset, good.len() as u64),
        other => panic!("{other:?}"),
    }
    // A length that is no multiple of four.
    let mut odd = good.clone();
    odd.extend([6, 0, 0, 0, 33, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    match read(&odd).1 {
        Some(ReadError::Malformed { offset, .. }) => assert_eq!(offset, good.len() as u64),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_packet_of_an_unknown_interface_is_refused() {
    let mut sink = PcapngSink::new(Vec::new(), &SectionInfo::new("w", ""), 0).unwrap();
    assert!(matches!(
        sink.write(&packet(0, &[1])),
        Err(SinkError::UnknownInterface(0))
    ));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_packet_round_trips(
        time in any::<u64>(), data in proptest::collection::vec(any::<u8>(), 0..300), more in 0u32..9000,
    ) {
        let mut sink = PcapngSink::new(Vec::new(), &SectionInfo::new("w", ""), 0).unwrap();
        sink.begin_interface(&InterfaceInfo::new("eth0", LinkType::ETHERNET)).unwrap();
        let packet = Packet {
            timestamp: Timestamp(time),
            interface: 0,
            direction: PacketDirection::Outbound,
            original_len: data.len() as u32 + more,
            data: &data,
            ..Packet::default()
        };
        sink.write(&packet).unwrap();
        let (packets, error) = read(&sink.into_inner());
        prop_assert!(error.is_none());
        prop_assert_eq!(packets[0].timestamp, packet.timestamp);
        prop_assert_eq!(&packets[0].data, &data);
        prop_assert_eq!(packets[0].original_len, packet.original_len);
    }

    #[test]
    fn broken_bytes_never_break_the_reader(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let (mut bytes, _) = sample(3);
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        let (packets, _) = read(&bytes);
        prop_assert!(packets.len() <= 3);
    }
}
