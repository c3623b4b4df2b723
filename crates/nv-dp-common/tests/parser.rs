//! The parser against frames of another library, cut, changed and random.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use etherparse::PacketBuilder;
use nv_dp_common::parse::{Class, Headers, parse, parse_plain, quoted};
use nv_dp_common::{SlicePacket, WINDOW};
use nv_types::Direction;
use proptest::prelude::*;

const MAC: [u8; 6] = [2; 6];

fn read(frame: &[u8], direction: Direction) -> (Class, Headers) {
    let mut headers = Headers::new(3);
    let class = parse(&SlicePacket(frame), direction, &mut headers);
    // The short way must see what the long way sees.
    let mut short = Headers::new(headers.key.ifindex);
    let mut memory = [0xa5; WINDOW];
    if let Some(found) = parse_plain(&SlicePacket(frame), direction, &mut memory, &mut short) {
        assert_eq!(found, class);
        if found != Class::Malformed {
            assert_eq!(format!("{short:?}"), format!("{headers:?}"));
        }
    }
    (class, headers)
}

fn v4_tcp() -> Vec<u8> {
    let mut frame = Vec::new();
    let step = PacketBuilder::ethernet2(MAC, MAC).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
    step.tcp(1000, 80, 1, 100)
        .syn()
        .write(&mut frame, b"payload")
        .unwrap();
    frame
}

fn v6_udp() -> Vec<u8> {
    let mut frame = Vec::new();
    let step = PacketBuilder::ethernet2(MAC, MAC).ipv6([1; 16], [2; 16], 64);
    step.udp(1000, 53).write(&mut frame, b"payload").unwrap();
    frame
}

/// Puts extension headers between the IPv6 header and what follows.
fn extended(frame: &[u8], headers: &[u8]) -> Vec<u8> {
    let upper = frame[20];
    let mut out = frame[..54].to_vec();
    let added: Vec<u8> = headers
        .iter()
        .enumerate()
        .flat_map(|(i, _)| {
            let next = headers.get(i + 1).copied().unwrap_or(upper);
            [next, 0, 1, 4, 0, 0, 0, 0]
        })
        .collect();
    if let Some(first) = headers.first() {
        out[20] = *first;
    }
    let length = u16::from_be_bytes([frame[18], frame[19]]) + u16::try_from(added.len()).unwrap();
    out[18..20].copy_from_slice(&length.to_be_bytes());
    out.extend(added);
    out.extend(&frame[54..]);
    out
}

#[test]
fn addresses_ports_and_payload() {
    let frame = v4_tcp();
    let (class, sent) = read(&frame, Direction::Egress);
    assert_eq!(class, Class::Flow);
    assert_eq!(
        (sent.key.local_port, sent.key.peer_port, sent.key.proto),
        (1000, 80, 6)
    );
    assert_eq!(sent.key.local[10..], [0xff, 0xff, 10, 0, 0, 1]);
    assert_eq!(
        &frame[sent.payload as usize..][..sent.payload_len as usize],
        b"payload"
    );
    for frame in [v4_tcp(), v6_udp()] {
        let short = parse_plain(
            &SlicePacket(&frame),
            Direction::Egress,
            &mut [0; WINDOW],
            &mut Headers::new(3),
        );
        assert_eq!(short, Some(Class::Flow), "the short way is taken");
    }
    let (_, received) = read(&frame, Direction::Ingress);
    assert_eq!((received.key.local_port, received.key.peer), (80, sent.key.local));
}

#[test]
fn a_frame_cut_anywhere_is_malformed() {
    for frame in [v4_tcp(), v6_udp(), extended(&v6_udp(), &[0, 60, 43])] {
        assert_eq!(read(&frame, Direction::Egress).0, Class::Flow);
        for end in 0..frame.len() {
            assert_eq!(
                read(&frame[..end], Direction::Egress).0,
                Class::Malformed,
                "{end} of {}",
                frame.len()
            );
        }
        let mut padded = frame.clone();
        padded.extend([0; 12]);
        let (class, headers) = read(&padded, Direction::Egress);
        assert_eq!(class, Class::Flow, "Ethernet pads short frames");
        assert_eq!(headers.payload_len, 7, "and padding is no payload");
    }
}

#[test]
fn options_move_what_follows() {
    let plain = v4_tcp();
    let mut frame = plain[..34].to_vec();
    frame.extend([1; 8]);
    frame.extend(&plain[34..]);
    frame[14] = 0x47;
    let total = u16::try_from(frame.len() - 14).unwrap();
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    let (class, headers) = read(&frame, Direction::Egress);
    assert_eq!(
        (class, headers.key.peer_port, headers.payload_len),
        (Class::Flow, 80, 7)
    );
}

#[test]
fn six_extension_headers_and_no_more() {
    for count in 0..9 {
        let frame = extended(&v6_udp(), &vec![60; count]);
        let (class, headers) = read(&frame, Direction::Egress);
        if count <= 6 {
            assert_eq!((class, headers.key.peer_port), (Class::Flow, 53), "{count}");
        } else {
            assert_eq!(class, Class::Malformed, "{count}");
        }
    }
    let mut routing = extended(&v6_udp(), &[43]);
    routing[56] = 0;
    assert_eq!(
        read(&routing, Direction::Egress).0,
        Class::Malformed,
        "type 0 is forbidden"
    );
}

#[test]
fn fragments_in_both_families() {
    let mut first = extended(&v6_udp(), &[44]);
    first[56..58].copy_from_slice(&1_u16.to_be_bytes());
    first[72 - 6..72 - 4].copy_from_slice(&900_u16.to_be_bytes()); // UDP length of the whole datagram
    let (class, headers) = read(&first, Direction::Egress);
    assert_eq!(
        (class, headers.is_first_fragment(), headers.key.peer_port),
        (Class::Flow, true, 53)
    );
    let mut later = first.clone();
    later[56..58].copy_from_slice(&(16_u16 << 3).to_be_bytes());
    let (class, headers) = read(&later, Direction::Egress);
    assert_eq!(
        (class, headers.fragment_offset, headers.key.peer_port),
        (Class::LaterFragment, 128, 0)
    );
    let mut v4 = v4_tcp();
    v4[20..22].copy_from_slice(&1_u16.to_be_bytes());
    assert_eq!(
        read(&v4, Direction::Egress).0,
        Class::Malformed,
        "rewrites TCP flags"
    );
    v4[20..22].copy_from_slice(&3_u16.to_be_bytes());
    assert_eq!(read(&v4, Direction::Egress).0, Class::LaterFragment);
}

#[test]
fn a_quote_gives_the_key_of_its_flow() {
    let sent = v4_tcp();
    let flow = read(&sent, Direction::Egress).1.key;
    let mut error = Vec::new();
    let kind =
        etherparse::Icmpv4Type::TimeExceeded(etherparse::icmpv4::TimeExceededCode::TtlExceededInTransit);
    let step = PacketBuilder::ethernet2(MAC, MAC)
        .ipv4([10, 0, 0, 254], [10, 0, 0, 1], 64)
        .icmpv4(kind);
    step.write(&mut error, &sent[14..]).unwrap();
    let (class, headers) = read(&error, Direction::Ingress);
    assert_eq!(class, Class::IcmpError);
    let mut key = headers.key;
    assert!(quoted(
        &SlicePacket(&error),
        Direction::Ingress,
        &headers,
        &mut key
    ));
    assert_eq!(key, flow);
    for end in 0..14 + 20 + 8 + 28 {
        let (class, headers) = read(&error[..end], Direction::Ingress);
        let whole = class == Class::IcmpError
            && quoted(
                &SlicePacket(&error[..end]),
                Direction::Ingress,
                &headers,
                &mut key,
            );
        assert!(!whole, "{end} bytes");
    }
}

proptest! {
    #[test]
    fn any_bytes_give_headers_inside_the_frame(
        frame in proptest::collection::vec(any::<u8>(), 0..200),
        ethertype in prop_oneof![Just(0x0800_u16), Just(0x86dd), Just(0x8100), Just(0x88a8), Just(0x0806), any::<u16>()],
        version in prop_oneof![Just(0x45_u8), Just(0x4f), Just(0x60), any::<u8>()],
        egress in any::<bool>(),
    ) {
        let mut frame = frame;
        if frame.len() > 14 {
            frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
            frame[14] = version;
        }
        let direction = if egress { Direction::Egress } else { Direction::Ingress };
        let (class, headers) = read(&frame, direction);
        if matches!(class, Class::Flow | Class::LaterFragment | Class::IcmpError | Class::Neighbour) {
            let end = headers.payload as usize + headers.payload_len as usize;
            prop_assert!(end <= frame.len(), "{class:?} {headers:?}");
            let mut key = headers.key;
            let _ = quoted(&SlicePacket(&frame), direction, &headers, &mut key);
        }
    }

    #[test]
    fn a_changed_byte_never_reaches_beyond_the_frame(place in 0_usize..80, value in any::<u8>(), which in 0..3) {
        let mut frame = match which {
            0 => v4_tcp(),
            1 => v6_udp(),
            _ => extended(&v6_udp(), &[0, 44, 60]),
        };
        let place = place % frame.len();
        frame[place] = value;
        let (class, headers) = read(&frame, Direction::Egress);
        if class == Class::Flow {
            prop_assert!(headers.payload as usize + headers.payload_len as usize <= frame.len());
        }
    }
}

#[test]
fn ipv4_mapped_addresses_in_an_ipv6_header_are_malformed() {
    let good = v6_udp();
    assert_eq!(read(&good, Direction::Egress).0, Class::Flow);
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1];
    for at in [22, 38] {
        let mut frame = good.clone();
        frame[at..at + 16].copy_from_slice(&mapped);
        for direction in [Direction::Egress, Direction::Ingress] {
            assert_eq!(read(&frame, direction).0, Class::Malformed);
            let behind_an_extension = extended(&frame, &[60]);
            assert_eq!(read(&behind_an_extension, direction).0, Class::Malformed);
        }
    }
}
