//! The packet that an ICMP error quotes.

use nv_types::{Direction, IpProto};

use super::{Headers, address::mapped, be16};
use crate::layout::FlowKeyValue;
use crate::packet::Packet;

/// The flow that an ICMP error quotes: its body at `headers.payload` holds the start of a packet that went the other
/// way. `false` when it cannot be read; what `key` holds then means nothing.
#[inline(always)]
pub fn quoted<P: Packet>(
    packet: &P,
    direction: Direction,
    headers: &Headers,
    key: &mut FlowKeyValue,
) -> bool {
    read_quoted(packet, direction, headers, key).is_some()
}

#[inline(always)]
fn read_quoted<P: Packet>(
    packet: &P,
    direction: Direction,
    headers: &Headers,
    key: &mut FlowKeyValue,
) -> Option<()> {
    let at = headers.payload;
    *key = headers.key;
    let (source, destination) = match direction {
        // The quoted packet went against the error: from the workload if the error comes to it.
        Direction::Ingress => (&mut key.local, &mut key.peer),
        Direction::Egress => (&mut key.peer, &mut key.local),
    };
    let (proto, size) = if headers.key.proto == IpProto::ICMPV6.0 {
        let start = packet.load::<8>(at)?;
        if start[0] >> 4 != 6 {
            return None;
        }
        *source = packet.load::<16>(at + 8)?;
        *destination = packet.load::<16>(at + 24)?;
        (start[6], 40)
    } else {
        let ip = packet.load::<20>(at)?;
        let size = u32::from(ip[0] & 0x0f) * 4;
        if ip[0] >> 4 != 4 || size < 20 || be16(ip[6], ip[7]) & 0x1fff != 0 {
            return None;
        }
        *source = mapped(ip[12], ip[13], ip[14], ip[15]);
        *destination = mapped(ip[16], ip[17], ip[18], ip[19]);
        (ip[9], size)
    };
    key.proto = proto;
    let start = at + size;
    let room = headers.payload_len.checked_sub(size)?;
    if room < 8 {
        return None;
    }
    let bytes = packet.load::<8>(start)?;
    let (from, to) = (be16(bytes[0], bytes[1]), be16(bytes[2], bytes[3]));
    (key.local_port, key.peer_port) = (0, 0);
    match IpProto(key.proto) {
        IpProto::TCP | IpProto::UDP | IpProto::SCTP => {
            (key.local_port, key.peer_port) = match direction {
                Direction::Ingress => (from, to),
                Direction::Egress => (to, from),
            };
        }
        IpProto::ICMP | IpProto::ICMPV6 => key.local_port = be16(bytes[4], bytes[5]),
        _ => {}
    }
    Some(())
}
