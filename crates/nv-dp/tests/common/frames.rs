//! Ethernet frames by `etherparse`, which knows nothing of the parser under test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::PacketBuilder;

pub const LOCAL_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

pub const SYN: u8 = 2;
pub const ACK: u8 = 16;
pub const FIN: u8 = 1;
pub const RST: u8 = 4;

/// From one address and port to another.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    pub from: (IpAddr, u16),
    pub to: (IpAddr, u16),
}

impl Path {
    pub fn new(from: &str, from_port: u16, to: &str, to_port: u16) -> Self {
        Self {
            from: (from.parse().unwrap(), from_port),
            to: (to.parse().unwrap(), to_port),
        }
    }

    pub fn back(self) -> Self {
        Self {
            from: self.to,
            to: self.from,
        }
    }
}

fn v4(from: IpAddr, to: IpAddr) -> Option<(Ipv4Addr, Ipv4Addr)> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Some((from, to)),
        _ => None,
    }
}

fn v6(addr: IpAddr) -> Ipv6Addr {
    match addr {
        IpAddr::V6(addr) => addr,
        IpAddr::V4(addr) => addr.to_ipv6_mapped(),
    }
}

fn ip(path: Path) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    let builder = PacketBuilder::ethernet2(LOCAL_MAC, PEER_MAC);
    match v4(path.from.0, path.to.0) {
        Some((from, to)) => builder.ipv4(from.octets(), to.octets(), 64),
        None => builder.ipv6(v6(path.from.0).octets(), v6(path.to.0).octets(), 64),
    }
}

pub fn tcp(path: Path, flags: u8, payload: &[u8]) -> Vec<u8> {
    tcp_at(path, (1000, 1), flags, payload)
}

/// With sequence and acknowledgement numbers of its own.
pub fn tcp_at(path: Path, (seq, ack): (u32, u32), flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut step = ip(path).tcp(path.from.1, path.to.1, seq, 1024);
    if flags & SYN != 0 {
        step = step.syn();
    }
    if flags & ACK != 0 {
        step = step.ack(ack);
    }
    if flags & FIN != 0 {
        step = step.fin();
    }
    if flags & RST != 0 {
        step = step.rst();
    }
    let mut frame = Vec::new();
    step.write(&mut frame, payload).unwrap();
    frame
}

pub fn udp(path: Path, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    ip(path)
        .udp(path.from.1, path.to.1)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

/// Echo request (or reply) with the path's source port as identifier.
pub fn echo(path: Path, id: u16, reply: bool) -> Vec<u8> {
    let mut frame = Vec::new();
    let payload = b"0123456789";
    match (v4(path.from.0, path.to.0).is_some(), reply) {
        (true, false) => ip(path)
            .icmpv4_echo_request(id, 1)
            .write(&mut frame, payload)
            .unwrap(),
        (true, true) => ip(path)
            .icmpv4_echo_reply(id, 1)
            .write(&mut frame, payload)
            .unwrap(),
        (false, false) => ip(path)
            .icmpv6_echo_request(id, 1)
            .write(&mut frame, payload)
            .unwrap(),
        (false, true) => ip(path)
            .icmpv6_echo_reply(id, 1)
            .write(&mut frame, payload)
            .unwrap(),
    }
    frame
}

/// An ICMP 'port unreachable' that quotes this frame (without its Ethernet header).
pub fn unreachable(path: Path, quoted: &[u8]) -> Vec<u8> {
    let quoted = &quoted[14..];
    let mut frame = Vec::new();
    if v4(path.from.0, path.to.0).is_some() {
        let kind =
            etherparse::Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::Port);
        ip(path).icmpv4(kind).write(&mut frame, quoted).unwrap();
    } else {
        let kind =
            etherparse::Icmpv6Type::DestinationUnreachable(etherparse::icmpv6::DestUnreachableCode::Port);
        ip(path).icmpv6(kind).write(&mut frame, quoted).unwrap();
    }
    frame
}

/// Cuts an IPv4 frame in two fragments at `at` bytes of its IP payload (a multiple of 8).
pub fn fragments(frame: &[u8], at: usize) -> (Vec<u8>, Vec<u8>) {
    let (head, body) = frame.split_at(34);
    assert!(at.is_multiple_of(8) && at < body.len());
    let piece = |bytes: &[u8], offset: usize, more: bool| {
        let mut piece = head.to_vec();
        let total = u16::try_from(20 + bytes.len()).unwrap();
        piece[16..18].copy_from_slice(&total.to_be_bytes());
        let field = u16::try_from(offset / 8).unwrap() | if more { 0x2000 } else { 0 };
        piece[18..20].copy_from_slice(&[0x12, 0x34]);
        piece[20..22].copy_from_slice(&field.to_be_bytes());
        piece.extend_from_slice(bytes);
        piece
    };
    (piece(&body[..at], 0, true), piece(&body[at..], at, false))
}

/// The same frame behind VLAN tags.
pub fn tagged(frame: &[u8], tags: usize) -> Vec<u8> {
    let mut out = frame[..12].to_vec();
    for _ in 0..tags {
        out.extend_from_slice(&[0x81, 0x00, 0, 5]);
    }
    out.extend_from_slice(&frame[12..]);
    out
}

pub fn arp(sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend_from_slice(&LOCAL_MAC);
    frame.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend_from_slice(&LOCAL_MAC);
    frame.extend_from_slice(&sender);
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(&target);
    frame
}
