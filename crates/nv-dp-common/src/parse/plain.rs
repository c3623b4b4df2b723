//! The short way through the parser.

use nv_types::{Direction, IpProto};

use super::{
    Class, ETH_IPV4, ETH_IPV6, Headers, be16, ipv4_header, ipv6_header, is_extension, tcp, transport, udp,
};
use crate::packet::{Packet, WINDOW};

/// Bytes of an Ethernet header with an IPv6 header, or with IPv4 and TCP headers without options.
const HEAD: u32 = 14 + 40;

/// What [`parse`](super::parse()) makes of the most frequent frames: TCP or UDP in an IPv4 packet without options that is no fragment, in one read,
/// and IPv6 without extension headers, in two; right after an Ethernet header. `None`, and nothing that counts in `headers`, if it
/// is another one.
#[inline(never)] // a frame of its own on the kernel's small stack
pub fn parse_plain<P: Packet>(
    packet: &P,
    direction: Direction,
    memory: &mut [u8; WINDOW],
    headers: &mut Headers,
) -> Option<Class> {
    if !packet.window(0, HEAD, memory) {
        return None;
    }
    let (eth, rest) = memory.split_first_chunk::<14>()?;
    headers.source_mac = [eth[6], eth[7], eth[8], eth[9], eth[10], eth[11]];
    let room = packet.len() - 14; // the window was filled
    match be16(eth[12], eth[13]) {
        ETH_IPV4 => {
            let (ip, l4) = rest.split_first_chunk::<20>()?;
            let is_tcp = ip[9] == IpProto::TCP.0;
            let has_ports = is_tcp || ip[9] == IpProto::UDP.0;
            if ip[0] != 0x45 || be16(ip[6], ip[7]) & 0x3fff != 0 || !has_ports {
                return None;
            }
            let Some((_, total)) = ipv4_header(ip, room, direction, headers) else {
                return Some(Class::Malformed);
            };
            let (at, length) = (34, total - 20);
            headers.begin(at, length);
            Some(if is_tcp {
                tcp(l4.first_chunk()?, direction, at, length, headers)
            } else {
                udp(l4.first_chunk()?, direction, at, length, headers)
            })
        }
        ETH_IPV6 => {
            let ip = rest.first_chunk::<40>()?;
            if is_extension(ip[6]) {
                return None;
            }
            let Some(length) = ipv6_header(ip, room - 40, direction, headers) else {
                return Some(Class::Malformed);
            };
            headers.key.proto = ip[6];
            Some(transport(packet, direction, 54, length, ip[7] == 255, headers))
        }
        _ => None,
    }
}
