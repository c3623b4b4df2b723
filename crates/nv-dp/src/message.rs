//! DNS messages out of frames, and frames made ready to be sent on.

use std::net::{IpAddr, SocketAddr};

use nv_dp_common::SlicePacket;
use nv_dp_common::parse::{Class, Headers, is_v4, parse};
use nv_types::{Direction, IpProto};

use crate::convert;

/// A DNS message that a workload has sent to a resolver, or one that a resolver has sent back and that waits to be sent on.
#[derive(Debug)]
pub struct DnsMessage {
    /// Endpoint.
    pub ifindex: u32,
    /// Egress: a question; ingress: an answer.
    pub direction: Direction,
    /// UDP or TCP.
    pub proto: IpProto,
    /// The workload.
    pub local: SocketAddr,
    /// The resolver.
    pub peer: SocketAddr,
    /// The message; `None` for a TCP segment that is not a whole one.
    pub message: Option<Vec<u8>>,
    /// What is to be sent on; `None` for what has passed already.
    pub held: Option<HeldFrame>,
}

/// A frame that was taken out of the way of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldFrame {
    pub(crate) ifindex: u32,
    pub(crate) frame: Vec<u8>,
}

impl DnsMessage {
    /// Reads a frame. `None` for one that is none of UDP and TCP, which the kernel never tells of.
    pub(crate) fn new(ifindex: u32, direction: Direction, frame: &[u8], is_held: bool) -> Option<Self> {
        let mut headers = Headers::new(ifindex);
        if parse(&SlicePacket(frame), direction, &mut headers) != Class::Flow {
            return None;
        }
        let key = &headers.key;
        let start = usize::try_from(headers.payload).ok()?;
        let payload = frame.get(start..start.checked_add(usize::try_from(headers.payload_len).ok()?)?)?;
        let (message, intact) = match IpProto(key.proto) {
            IpProto::UDP => (Some(payload), complete(&headers, frame)),
            // RFC 1035, 4.2.2: two bytes of length go first.
            IpProto::TCP => {
                let whole = payload.split_first_chunk::<2>().and_then(|(length, rest)| {
                    (usize::from(u16::from_be_bytes(*length)) == rest.len()).then_some(rest)
                });
                (whole, complete(&headers, frame))
            }
            _ => return None,
        };
        let (message, frame) = match intact {
            Some(frame) => (message.map(<[u8]>::to_vec), frame),
            // Its receiver drops it: nothing is to be learned of it.
            None => (None, frame.to_vec()),
        };
        Some(Self {
            ifindex,
            direction,
            proto: IpProto(key.proto),
            local: SocketAddr::new(convert::addr(key.local), key.local_port),
            peer: SocketAddr::new(convert::addr(key.peer), key.peer_port),
            message,
            held: is_held.then_some(HeldFrame { ifindex, frame }),
        })
    }
}

/// The frame with its checksum filled in where that was left to a network card (the field then holds the sum of the pseudo header
/// alone); `None` if the checksum is wrong.
fn complete(headers: &Headers, frame: &[u8]) -> Option<Vec<u8>> {
    let place = match IpProto(headers.key.proto) {
        IpProto::UDP => 6,
        _ => 16,
    };
    let start = usize::try_from(headers.l4).ok()?;
    let length = headers.payload - headers.l4 + headers.payload_len;
    let end = start.checked_add(usize::try_from(length).ok()?)?;
    let segment = frame.get(start..end)?;
    let at = start + place;
    let field = u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?);
    let is_udp = headers.key.proto == IpProto::UDP.0;
    if field == 0 && is_udp && is_v4(&headers.key.local) {
        return Some(frame.to_vec()); // RFC 768: not summed
    }
    let mut pseudo = u64::from(length) + u64::from(headers.key.proto);
    for addr in [&headers.key.local, &headers.key.peer] {
        pseudo += match convert::addr(*addr) {
            IpAddr::V4(v4) => words(&v4.octets()),
            IpAddr::V6(v6) => words(&v6.octets()),
        };
    }
    if fold(pseudo + words(segment)) == 0xffff {
        return Some(frame.to_vec());
    }
    if fold(pseudo) != field {
        return None;
    }
    let sum = fold(pseudo + words(segment) - u64::from(field));
    let sum = match !sum {
        0 if is_udp => 0xffff,
        sum => sum,
    };
    let mut frame = frame.to_vec();
    frame.get_mut(at..at + 2)?.copy_from_slice(&sum.to_be_bytes());
    Some(frame)
}

/// Sum of the 16-bit words of bytes that start at an even place (RFC 1071).
fn words(bytes: &[u8]) -> u64 {
    bytes
        .chunks(2)
        .map(|pair| {
            let low = pair.get(1).copied().unwrap_or(0);
            u64::from(pair.first().copied().unwrap_or(0)) << 8 | u64::from(low)
        })
        .sum()
}

/// With the carries added.
fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    const QUERY: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01";

    fn udp(v6: bool, payload: &[u8]) -> Vec<u8> {
        let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip = if v6 {
            link.ipv6([1; 16], [2; 16], 64)
        } else {
            link.ipv4([10, 0, 0, 53], [10, 0, 0, 2], 64)
        };
        let mut frame = Vec::new();
        ip.udp(53, 4321).write(&mut frame, payload).unwrap();
        frame
    }

    /// As the stack hands it to a veth: the sum of the pseudo header, the rest is left to the card.
    fn unfinished(frame: &[u8], at: usize) -> Vec<u8> {
        let mut headers = Headers::new(1);
        assert_eq!(
            parse(&SlicePacket(frame), Direction::Ingress, &mut headers),
            Class::Flow
        );
        let length = headers.payload - headers.l4 + headers.payload_len;
        let mut pseudo = u64::from(length) + u64::from(headers.key.proto);
        for addr in [&headers.key.local, &headers.key.peer] {
            pseudo += match convert::addr(*addr) {
                IpAddr::V4(v4) => words(&v4.octets()),
                IpAddr::V6(v6) => words(&v6.octets()),
            };
        }
        let mut frame = frame.to_vec();
        frame[at..at + 2].copy_from_slice(&fold(pseudo).to_be_bytes());
        frame
    }

    #[test]
    fn a_frame_goes_on_with_a_checksum_that_its_receiver_takes() {
        for v6 in [false, true] {
            for payload in [QUERY, &QUERY[..18]] {
                let frame = udp(v6, payload);
                let at = if v6 { 14 + 40 + 6 } else { 14 + 20 + 6 };
                let seen = DnsMessage::new(7, Direction::Ingress, &unfinished(&frame, at), true).unwrap();
                assert_eq!(seen.message.as_deref(), Some(payload));
                assert_eq!(seen.held.unwrap().frame, frame, "v6: {v6}");
                assert_eq!((seen.peer.port(), seen.local.port()), (53, 4321));
                // One that is complete stays as it is, one that is damaged too, and nothing is learned of it.
                let seen = DnsMessage::new(7, Direction::Ingress, &frame, true).unwrap();
                assert_eq!(seen.held.unwrap().frame, frame);
                let mut damaged = frame;
                damaged[at + 4] ^= 1;
                let seen = DnsMessage::new(7, Direction::Ingress, &damaged, true).unwrap();
                assert_eq!((seen.message, seen.held.unwrap().frame), (None, damaged));
            }
        }
    }

    #[test]
    fn over_tcp_a_message_is_a_whole_segment_or_none() {
        let segment = |length: u16| {
            let payload = [&length.to_be_bytes()[..], QUERY].concat();
            let mut frame = Vec::new();
            PacketBuilder::ethernet2([2; 6], [4; 6])
                .ipv4([10, 0, 0, 53], [10, 0, 0, 2], 64)
                .tcp(53, 4321, 1, 512)
                .ack(1)
                .write(&mut frame, &payload)
                .unwrap();
            frame
        };
        let whole = DnsMessage::new(7, Direction::Ingress, &segment(19), true).unwrap();
        assert_eq!(whole.message.as_deref(), Some(QUERY));
        let finished = DnsMessage::new(7, Direction::Ingress, &unfinished(&segment(19), 50), true).unwrap();
        assert_eq!(finished.held.unwrap().frame, segment(19));
        for length in [0, 18, 20, 9999] {
            let part = DnsMessage::new(7, Direction::Ingress, &segment(length), true).unwrap();
            assert_eq!(part.message, None);
            assert!(part.held.is_some(), "it goes on all the same");
        }
    }
}
