//! Frames by hand, because most of these no library would make.

use std::net::IpAddr;

pub type Mac = [u8; 6];

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

pub fn eth(to: Mac, from: Mac, kind: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = [to, from].concat();
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(body);
    frame.resize(frame.len().max(60), 0);
    frame
}

/// Kind of Ethernet frame, and the IP packet.
pub fn ip(from: IpAddr, to: IpAddr, proto: u8, body: &[u8]) -> (u16, Vec<u8>) {
    ip_with(from, to, proto, body, 64, None)
}

/// A fragment: identification, offset in bytes, whether more follow.
pub type Piece = Option<(u16, u16, bool)>;

pub fn ip_with(from: IpAddr, to: IpAddr, proto: u8, body: &[u8], hops: u8, piece: Piece) -> (u16, Vec<u8>) {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = u16::try_from(20 + body.len()).unwrap();
            let (id, offset, more) = piece.unwrap_or((0x77, 0, false));
            let field = (offset / 8) | if more { 0x2000 } else { 0 };
            let mut packet = vec![0x45, 0];
            packet.extend_from_slice(&total.to_be_bytes());
            packet.extend_from_slice(&id.to_be_bytes());
            packet.extend_from_slice(&field.to_be_bytes());
            packet.extend_from_slice(&[hops, proto, 0, 0]);
            packet.extend_from_slice(&from.octets());
            packet.extend_from_slice(&to.octets());
            let sum = checksum(&packet);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            packet.extend_from_slice(body);
            (0x0800, packet)
        }
        (from, to) => {
            let mut rest = Vec::new();
            let mut next = proto;
            if let Some((id, offset, more)) = piece {
                next = 44;
                rest.extend_from_slice(&[proto, 0]);
                rest.extend_from_slice(&(offset | u16::from(more)).to_be_bytes());
                rest.extend_from_slice(&u32::from(id).to_be_bytes());
            }
            rest.extend_from_slice(body);
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend_from_slice(&u16::try_from(rest.len()).unwrap().to_be_bytes());
            packet.extend_from_slice(&[next, hops]);
            packet.extend_from_slice(&octets(from));
            packet.extend_from_slice(&octets(to));
            packet.extend_from_slice(&rest);
            (0x86dd, packet)
        }
    }
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}

pub fn udp(from: (IpAddr, u16), to: (IpAddr, u16), payload: &[u8]) -> Vec<u8> {
    let mut body = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    body.extend_from_slice(&u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
    body.extend_from_slice(&[0, 0]);
    body.extend_from_slice(payload);
    let sum = transport_sum(from.0, to.0, UDP, &body);
    body[6..8].copy_from_slice(&sum.to_be_bytes());
    body
}

/// The numbers of sequence and acknowledgement as they stand in the header.
pub fn tcp(from: (IpAddr, u16), to: (IpAddr, u16), flags: u8, numbers: [u8; 8], payload: &[u8]) -> Vec<u8> {
    let mut body = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    body.extend_from_slice(&numbers);
    body.extend_from_slice(&[0x50, flags, 0x04, 0, 0, 0, 0, 0]);
    body.extend_from_slice(payload);
    let sum = transport_sum(from.0, to.0, TCP, &body);
    body[16..18].copy_from_slice(&sum.to_be_bytes());
    body
}

pub fn icmp(from: IpAddr, to: IpAddr, kind: u8, code: u8, rest: [u8; 4], payload: &[u8]) -> (u8, Vec<u8>) {
    let proto = if from.is_ipv4() { 1 } else { 58 };
    let mut body = vec![kind, code, 0, 0];
    body.extend_from_slice(&rest);
    body.extend_from_slice(payload);
    let sum = if from.is_ipv4() {
        checksum(&body)
    } else {
        transport_sum(from, to, 58, &body)
    };
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    (proto, body)
}

fn transport_sum(from: IpAddr, to: IpAddr, proto: u8, body: &[u8]) -> u16 {
    let mut all = octets(from);
    all.extend(octets(to));
    all.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
    all.extend_from_slice(&[0, 0, 0, proto]);
    all.extend_from_slice(body);
    checksum(&all)
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}
