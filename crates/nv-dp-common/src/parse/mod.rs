//! Frame to headers. Whatever contradicts itself, or ends before its own lengths say, is [`Class::Malformed`].
//!
//! Ethernet (IEEE 802.3), VLAN and QinQ (802.1Q, two tags at most), IPv4 (RFC 791), IPv6 with at most
//! [`MAX_EXTENSIONS`] extension headers (RFC 8200), TCP (RFC 9293), UDP (RFC 768), SCTP (RFC 9260), ICMP (RFC 792, 4443).

mod address;
mod plain;
mod quote;

use nv_types::{Direction, IpProto};

use crate::layout::FlowKeyValue;
use crate::packet::Packet;

pub use address::{is_link_local_v6, is_multicast, is_unspecified, is_v4};
pub use plain::parse_plain;
pub use quote::quoted;

use address::mapped;

/// Extension headers of an IPv6 packet that are followed.
pub const MAX_EXTENSIONS: u32 = 6;

/// TCP FIN.
pub const FIN: u8 = 0x01;
/// TCP SYN.
pub const SYN: u8 = 0x02;
/// TCP RST.
pub const RST: u8 = 0x04;
/// TCP ACK.
pub const ACK: u8 = 0x10;

/// What a frame is to the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Contradicts itself, is cut, or is of a kind that policy cannot judge.
    Malformed = 0,
    /// Link control between neighbours (spanning tree, LLDP): never forwarded, not policed.
    LinkControl = 1,
    /// ARP; its body is at `l4`.
    Arp = 2,
    /// Belongs to a flow: `key` is complete.
    Flow = 3,
    /// A later fragment: `key` has no ports, `fragment` says where it belongs.
    LaterFragment = 4,
    /// An ICMP error; the packet that it quotes is at `payload`.
    IcmpError = 5,
    /// IPv6 neighbour discovery (RFC 4861), its body is at `l4`, its type is `icmp_type`.
    Neighbour = 6,
}

impl Class {
    /// The class with this number; one that is none is [`Class::Malformed`].
    #[inline(always)]
    #[must_use]
    pub const fn from_u32(number: u32) -> Self {
        match number {
            1 => Self::LinkControl,
            2 => Self::Arp,
            3 => Self::Flow,
            4 => Self::LaterFragment,
            5 => Self::IcmpError,
            6 => Self::Neighbour,
            _ => Self::Malformed,
        }
    }
}

/// What was read of a frame.
#[derive(Clone, Copy, Debug)]
pub struct Headers {
    /// Flow, as the endpoint sees it.
    pub key: FlowKeyValue,
    /// Source Ethernet address.
    pub source_mac: [u8; 6],
    /// Offset of the header after IP (or of the ARP body).
    pub l4: u32,
    /// Offset of the payload.
    pub payload: u32,
    /// Bytes of payload in this packet.
    pub payload_len: u32,
    /// Identification of the datagram, if it is fragmented.
    pub fragment_id: u32,
    /// Offset of this fragment in the datagram, in bytes.
    pub fragment_offset: u32,
    /// Bytes of the datagram in this fragment.
    pub fragment_len: u32,
    /// Whether more fragments follow.
    pub more_fragments: bool,
    /// TCP sequence number.
    pub tcp_seq: u32,
    /// TCP acknowledgement number.
    pub tcp_ack: u32,
    /// TCP flags; 0 where no TCP header was read (every one that is let through has a flag).
    pub tcp_flags: u8,
    /// ICMP type.
    pub icmp_type: u8,
}

impl Headers {
    /// Nothing read yet.
    #[inline(always)]
    #[must_use]
    pub const fn new(ifindex: u32) -> Self {
        Self {
            key: FlowKeyValue {
                local: [0; 16],
                peer: [0; 16],
                ifindex,
                local_port: 0,
                peer_port: 0,
                proto: 0,
                pad: [0; 3],
            },
            source_mac: [0; 6],
            l4: 0,
            payload: 0,
            payload_len: 0,
            fragment_id: 0,
            fragment_offset: 0,
            fragment_len: 0,
            more_fragments: false,
            tcp_seq: 0,
            tcp_ack: 0,
            tcp_flags: 0,
            icmp_type: 0,
        }
    }

    /// Whether the packet is the first of several fragments.
    #[inline(always)]
    #[must_use]
    pub const fn is_first_fragment(&self) -> bool {
        self.more_fragments && self.fragment_offset == 0
    }

    /// The sequence number after this segment (RFC 9293, 3.4): SYN and FIN take one each.
    #[inline(always)]
    #[must_use]
    pub const fn tcp_next(&self) -> u32 {
        let control = (self.tcp_flags & SYN != 0) as u32 + (self.tcp_flags & FIN != 0) as u32;
        self.tcp_seq.wrapping_add(self.payload_len).wrapping_add(control)
    }

    /// The header after IP is here, and has so many bytes with what follows it.
    #[inline(always)]
    const fn begin(&mut self, at: u32, length: u32) {
        self.l4 = at;
        self.payload = at;
        self.payload_len = length;
        self.fragment_len = length;
    }

    #[inline(always)]
    const fn set_ports(&mut self, direction: Direction, source: u16, destination: u16) {
        (self.key.local_port, self.key.peer_port) = match direction {
            Direction::Egress => (source, destination),
            Direction::Ingress => (destination, source),
        };
    }
}

const ETH_VLAN: u16 = 0x8100;
const ETH_QINQ: u16 = 0x88a8;
const ETH_IPV4: u16 = 0x0800;
const ETH_IPV6: u16 = 0x86dd;
const ETH_ARP: u16 = 0x0806;

/// Addresses of link control (IEEE 802.1Q, table 8-1): bridges do not forward them.
const LINK_CONTROL: [u8; 5] = [0x01, 0x80, 0xc2, 0x00, 0x00];

#[inline(always)]
pub(crate) const fn be16(high: u8, low: u8) -> u16 {
    u16::from_be_bytes([high, low])
}

#[inline(always)]
const fn is_tag(ethertype: u16) -> bool {
    ethertype == ETH_VLAN || ethertype == ETH_QINQ
}

/// Reads a frame that goes in `direction`, seen from the workload.
#[inline(never)] // a frame of its own on the kernel's small stack
pub fn parse<P: Packet>(packet: &P, direction: Direction, headers: &mut Headers) -> Class {
    let Some(eth) = packet.load::<14>(0) else {
        return Class::Malformed;
    };
    headers.source_mac = [eth[6], eth[7], eth[8], eth[9], eth[10], eth[11]];
    let mut ethertype = be16(eth[12], eth[13]);
    let mut at = 14;
    let mut tags = packet.stripped_tags();
    for _ in 0..2 {
        if is_tag(ethertype) {
            let Some(tag) = packet.load::<4>(at) else {
                return Class::Malformed;
            };
            ethertype = be16(tag[2], tag[3]);
            at += 4;
            tags += 1;
        }
    }
    if tags > 2 {
        return Class::Malformed;
    }
    headers.l4 = at;
    match ethertype {
        ETH_IPV4 => ipv4(packet, direction, at, headers),
        ETH_IPV6 => ipv6(packet, direction, at, headers),
        ETH_ARP => Class::Arp,
        _ if [eth[0], eth[1], eth[2], eth[3], eth[4]] == LINK_CONTROL => Class::LinkControl,
        _ => Class::Malformed,
    }
}

#[inline(always)]
fn set_addresses(headers: &mut Headers, direction: Direction, source: [u8; 16], destination: [u8; 16]) {
    match direction {
        Direction::Egress => {
            headers.key.local = source;
            headers.key.peer = destination;
        }
        Direction::Ingress => {
            headers.key.local = destination;
            headers.key.peer = source;
        }
    }
}

#[inline(always)]
fn ipv4<P: Packet>(packet: &P, direction: Direction, at: u32, headers: &mut Headers) -> Class {
    let (Some(ip), Some(room)) = (packet.load::<20>(at), packet.len().checked_sub(at)) else {
        return Class::Malformed;
    };
    match ipv4_header(&ip, room, direction, headers) {
        Some((header, total)) => transport(packet, direction, at + header, total - header, false, headers),
        None => Class::Malformed,
    }
}

/// Reads an IPv4 header that has `room` bytes with what follows it; gives its own length and that of the packet.
#[inline(always)]
fn ipv4_header(ip: &[u8; 20], room: u32, direction: Direction, headers: &mut Headers) -> Option<(u32, u32)> {
    let header = u32::from(ip[0] & 0x0f) * 4;
    let mut total = u32::from(be16(ip[2], ip[3]));
    if total == 0 && room > 0xffff {
        total = room; // offloaded packets beyond 64 KiB have no length of their own
    }
    if ip[0] >> 4 != 4 || header < 20 || total < header || total > room {
        return None;
    }
    let fragment = be16(ip[6], ip[7]);
    headers.fragment_id = u32::from(be16(ip[4], ip[5]));
    headers.fragment_offset = u32::from(fragment & 0x1fff) * 8;
    headers.more_fragments = fragment & 0x2000 != 0;
    headers.key.proto = ip[9];
    let source = mapped(ip[12], ip[13], ip[14], ip[15]);
    let destination = mapped(ip[16], ip[17], ip[18], ip[19]);
    set_addresses(headers, direction, source, destination);
    Some((header, total))
}

#[inline(always)]
fn ipv6<P: Packet>(packet: &P, direction: Direction, at: u32, headers: &mut Headers) -> Class {
    let Some(ip) = packet.load::<40>(at) else {
        return Class::Malformed;
    };
    let Some(room) = packet.len().checked_sub(at + 40) else {
        return Class::Malformed;
    };
    let Some(left) = ipv6_header(&ip, room, direction, headers) else {
        return Class::Malformed;
    };
    let Some((proto, start, length)) = extensions(packet, ip[6], at + 40, left, headers) else {
        return Class::Malformed;
    };
    headers.key.proto = proto;
    // Neighbour discovery that was forwarded is none (RFC 4861, 6.1 and 7.1).
    transport(packet, direction, start, length, ip[7] == 255, headers)
}

/// Reads an IPv6 header that has `room` bytes after it; gives the length of what is in it.
#[inline(always)]
fn ipv6_header(ip: &[u8; 40], room: u32, direction: Direction, headers: &mut Headers) -> Option<u32> {
    let mut left = u32::from(be16(ip[4], ip[5]));
    if left == 0 && room > 0xffff {
        left = room; // a jumbogram (RFC 2675), made by offloading
    }
    if ip[0] >> 4 != 6 || left > room {
        return None;
    }
    let mut source = [0; 16];
    let mut destination = [0; 16];
    source.copy_from_slice(&ip[8..24]);
    destination.copy_from_slice(&ip[24..40]);
    // The form in which tables hold IPv4 addresses is on no wire (RFC 4291, 2.5.5.2): it would claim the rules of one.
    if is_v4(&source) || is_v4(&destination) {
        return None;
    }
    set_addresses(headers, direction, source, destination);
    Some(left)
}

/// Follows extension headers; gives the upper protocol, where it starts and how long it is.
#[inline(always)]
fn extensions<P: Packet>(
    packet: &P,
    first: u8,
    start: u32,
    length: u32,
    headers: &mut Headers,
) -> Option<(u8, u32, u32)> {
    let mut next = first;
    let mut at = start;
    let mut left = length;
    let mut later = false;
    for _ in 0..MAX_EXTENSIONS {
        if later || !is_extension(next) {
            break;
        }
        let bytes = packet.load::<8>(at)?;
        let size = match next {
            44 => {
                let field = be16(bytes[2], bytes[3]);
                headers.fragment_offset = u32::from(field & 0xfff8);
                headers.more_fragments = field & 1 != 0;
                headers.fragment_id = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
                later = headers.fragment_offset != 0;
                8
            }
            51 => (u32::from(bytes[1]) + 2) * 4,
            43 if bytes[2] == 0 => return None, // type 0 is forbidden (RFC 5095)
            _ => (u32::from(bytes[1]) + 1) * 8,
        };
        left = left.checked_sub(size)?;
        at += size;
        next = bytes[0];
    }
    if !later && is_extension(next) {
        return None;
    }
    Some((next, at, left))
}

/// Hop-by-hop, routing, fragment, authentication, destination options.
#[inline(always)]
const fn is_extension(next: u8) -> bool {
    matches!(next, 0 | 43 | 44 | 51 | 60)
}

#[inline(always)]
fn transport<P: Packet>(
    packet: &P,
    direction: Direction,
    at: u32,
    length: u32,
    from_link: bool,
    headers: &mut Headers,
) -> Class {
    headers.begin(at, length);
    if headers.fragment_offset != 0 {
        // One that would rewrite the flags of a TCP header is an attack (RFC 3128).
        if length == 0 || (headers.key.proto == IpProto::TCP.0 && headers.fragment_offset < 20) {
            return Class::Malformed;
        }
        return Class::LaterFragment;
    }
    match IpProto(headers.key.proto) {
        IpProto::TCP => match packet.load::<14>(at) {
            Some(bytes) => tcp(&bytes, direction, at, length, headers),
            None => Class::Malformed,
        },
        IpProto::UDP => match packet.load::<8>(at) {
            Some(bytes) => udp(&bytes, direction, at, length, headers),
            None => Class::Malformed,
        },
        IpProto::SCTP => {
            let Some(ports) = packet.load::<4>(at) else {
                return Class::Malformed;
            };
            if length < 12 {
                return Class::Malformed;
            }
            headers.set_ports(direction, be16(ports[0], ports[1]), be16(ports[2], ports[3]));
            headers.payload = at + 12;
            headers.payload_len = length - 12;
            Class::Flow
        }
        IpProto::ICMP | IpProto::ICMPV6 => icmp(packet, at, length, from_link, headers),
        _ => Class::Flow,
    }
}

#[inline(always)]
fn tcp(bytes: &[u8; 14], direction: Direction, at: u32, length: u32, headers: &mut Headers) -> Class {
    let header = u32::from(bytes[12] >> 4) * 4;
    let flags = bytes[13];
    let contradicts = flags & (SYN | FIN | RST | ACK) == 0
        || flags & (SYN | FIN) == SYN | FIN
        || flags & (SYN | RST) == SYN | RST;
    if header < 20 || header > length || contradicts {
        return Class::Malformed;
    }
    headers.set_ports(direction, be16(bytes[0], bytes[1]), be16(bytes[2], bytes[3]));
    headers.tcp_flags = flags;
    headers.tcp_seq = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    headers.tcp_ack = u32::from_be_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
    headers.payload = at + header;
    headers.payload_len = length - header;
    Class::Flow
}

#[inline(always)]
fn udp(bytes: &[u8; 8], direction: Direction, at: u32, length: u32, headers: &mut Headers) -> Class {
    if length < 8 {
        return Class::Malformed;
    }
    let stated = u32::from(be16(bytes[4], bytes[5]));
    // The length of a fragmented datagram spans all fragments; 0 is a jumbogram's (RFC 2675).
    let lies = if headers.more_fragments {
        stated < length
    } else {
        stated > length || (stated < 8 && !(stated == 0 && length > 0xffff))
    };
    if lies {
        return Class::Malformed;
    }
    headers.set_ports(direction, be16(bytes[0], bytes[1]), be16(bytes[2], bytes[3]));
    headers.payload = at + 8;
    headers.payload_len = length - 8;
    Class::Flow
}

#[inline(always)]
fn icmp<P: Packet>(packet: &P, at: u32, length: u32, from_link: bool, headers: &mut Headers) -> Class {
    let Some(bytes) = packet.load::<8>(at) else {
        return Class::Malformed;
    };
    if length < 8 {
        return Class::Malformed;
    }
    headers.icmp_type = bytes[0];
    headers.payload = at + 8;
    headers.payload_len = length - 8;
    let v6 = headers.key.proto == IpProto::ICMPV6.0;
    let kind = bytes[0];
    if v6 {
        match kind {
            1..=4 => Class::IcmpError,
            133..=137 if from_link => Class::Neighbour,
            128 | 129 => {
                headers.key.local_port = be16(bytes[4], bytes[5]);
                Class::Flow
            }
            _ => Class::Flow,
        }
    } else {
        match kind {
            3 | 4 | 5 | 11 | 12 => Class::IcmpError,
            0 | 8 | 13..=18 => {
                headers.key.local_port = be16(bytes[4], bytes[5]);
                Class::Flow
            }
            _ => Class::Flow,
        }
    }
}
