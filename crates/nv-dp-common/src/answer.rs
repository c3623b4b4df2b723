//! What the ends of a denied flow are told, if they are told anything: a frame made of the packet that was denied.
//!
//! TCP: a reset that its receiver takes (RFC 9293, 3.10.7.1). Everything else: ICMP 'communication administratively
//! prohibited' (RFC 1812, 5.2.7.1; RFC 4443, 3.1), never in answer to an error, to a later fragment or to what was sent to many.

use nv_types::{Direction, IpProto, Reason, Verdict};

use crate::layout::FlowCell;
use crate::packet::{Packet, WINDOW};
use crate::parse::{ACK, RST, SYN, be16, is_multicast, is_unspecified, is_v4};
use crate::pipeline::{Passage, Scratch};
use crate::tables::Tables;

/// Room for the longest answer: Ethernet, IPv6 and ICMPv6 headers, and the start of what was denied.
pub const ANSWER_ROOM: usize = 128;

/// Who is told of a denial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Nobody.
    Nobody,
    /// Who sent the packet.
    Sender,
    /// Who sent it and whom it was for: a connection that had been let through is cut.
    Both,
}

/// ICMP answers a CPU gives in [`ICMP_SPAN_NS`] at most.
const ICMP_BURST: u32 = 16;
const ICMP_SPAN_NS: u64 = 10_000_000;

/// Bytes of a denied packet that ICMP quotes at most: headers, and more of what is behind them than the eight bytes that it must.
const QUOTE: u32 = 64;
const _: () = assert!(QUOTE as usize == WINDOW && 54 + 8 + WINDOW <= ANSWER_ROOM);

const ECHO_V4: u8 = 8;
const ECHO_V6: u8 = 128;

/// Whom the packet that [`run`](crate::run) has just denied is answered to. Only what a policy denies is answered, never what is
/// malformed, spoofed or held.
#[inline(always)]
pub fn told<T: Tables>(tables: &T, scratch: &mut Scratch, passage: Passage) -> Told {
    let epoch = tables.epoch();
    if tables
        .switches(epoch & 1)
        .is_none_or(|switches| switches.answers == 0)
    {
        return Told::Nobody;
    }
    let headers = &scratch.headers;
    let (sender, target) = match passage.direction {
        Direction::Egress => (&headers.key.local, &headers.key.peer),
        Direction::Ingress => (&headers.key.peer, &headers.key.local),
    };
    if headers.fragment_offset != 0 || is_multicast(target) || is_multicast(sender) || is_unspecified(sender)
    {
        return Told::Nobody;
    }
    let Some(flow) = tables.flow(&headers.key) else {
        return Told::Nobody;
    };
    let reason = flow.reason.get();
    if flow.verdict.get() != Verdict::Deny as u8
        || (reason > Reason::Default as u8 && reason != Reason::Boundary as u8)
        || flow.epoch.get() != epoch
    {
        return Told::Nobody;
    }
    match IpProto(headers.key.proto) {
        IpProto::TCP => {
            if headers.tcp_flags & RST != 0 || headers.tcp_flags == 0 {
                return Told::Nobody;
            }
            // Once: further packets of a flow that is over carry nothing to its other end, not even in the numbers of a reset.
            let flags = flow.flags.get();
            if flags & FlowCell::OPENED != 0 && headers.tcp_flags & (SYN | ACK) == ACK {
                flow.flags.set(flags & !FlowCell::OPENED);
                Told::Both
            } else {
                Told::Sender
            }
        }
        IpProto::ICMP if headers.icmp_type != ECHO_V4 => Told::Nobody,
        IpProto::ICMPV6 if headers.icmp_type != ECHO_V6 => Told::Nobody,
        _ => {
            if passage.now_ns.wrapping_sub(scratch.answered_ns) > ICMP_SPAN_NS {
                scratch.answered_ns = passage.now_ns;
                scratch.answered = 0;
            }
            if scratch.answered >= ICMP_BURST {
                return Told::Nobody;
            }
            scratch.answered += 1;
            Told::Sender
        }
    }
}

/// Writes the answer to the start of the scratch memory's room for it, and gives its length; 0 when it cannot be made (a frame with VLAN tags
/// in it). To the sender, or, a reset only, to whom the packet was for.
#[inline(always)]
pub fn write_answer<P: Packet>(
    packet: &P,
    direction: Direction,
    scratch: &mut Scratch,
    to_sender: bool,
) -> u32 {
    let eth = &mut scratch.payload.bytes;
    if !packet.window(0, 14, eth) {
        return 0;
    }
    scratch.answer = [0; ANSWER_ROOM];
    let answer = &mut scratch.answer;
    answer[..14].copy_from_slice(&eth[..14]);
    if to_sender {
        answer[..6].copy_from_slice(&eth[6..12]);
        answer[6..12].copy_from_slice(&eth[..6]);
    }
    match be16(eth[12], eth[13]) {
        0x0800 if is_v4(&scratch.headers.key.local) => fill::<P, 34>(packet, direction, scratch, to_sender),
        0x86dd if !is_v4(&scratch.headers.key.local) => fill::<P, 54>(packet, direction, scratch, to_sender),
        _ => 0,
    }
}

/// Everything after the Ethernet header; `L4` is where the IP header ends.
#[inline(always)]
fn fill<P: Packet, const L4: usize>(
    packet: &P,
    direction: Direction,
    scratch: &mut Scratch,
    to_sender: bool,
) -> u32 {
    let is_v6 = L4 == 54;
    let Scratch { headers, answer, .. } = scratch;
    let key = &headers.key;
    let from_local = matches!(direction, Direction::Egress) != to_sender;
    let (source, source_port, target, target_port) = if from_local {
        (&key.local, key.local_port, &key.peer, key.peer_port)
    } else {
        (&key.peer, key.peer_port, &key.local, key.local_port)
    };
    let is_tcp = key.proto == IpProto::TCP.0;
    let proto = match (is_tcp, is_v6) {
        (true, _) => IpProto::TCP.0,
        (false, false) => IpProto::ICMP.0,
        (false, true) => IpProto::ICMPV6.0,
    };
    let body = if is_tcp {
        let (seq, ack, flags) = if !to_sender {
            (headers.tcp_seq, headers.tcp_ack, RST | ACK)
        } else if headers.tcp_flags & ACK != 0 {
            (headers.tcp_ack, 0, RST)
        } else {
            (0, headers.tcp_next(), RST | ACK)
        };
        put16(answer, L4, source_port);
        put16(answer, L4 + 2, target_port);
        put32(answer, L4 + 4, seq);
        put32(answer, L4 + 8, ack);
        answer[L4 + 12] = 5 << 4;
        answer[L4 + 13] = flags;
        20
    } else {
        let room = packet.len().saturating_sub(14);
        let quote = if room < QUOTE { room } else { QUOTE };
        let Some(place) = answer[L4 + 8..].first_chunk_mut() else {
            return 0;
        };
        if !packet.window(14, quote, place) {
            return 0;
        }
        (answer[L4], answer[L4 + 1]) = if is_v6 { (1, 1) } else { (3, 13) };
        8 + quote
    };
    let mut sum = 0_u32;
    if is_v6 {
        answer[14] = 0x60;
        put16(answer, 18, (body & 0xffff) as u16);
        answer[20] = proto;
        answer[21] = 64;
        answer[22..38].copy_from_slice(source);
        answer[38..54].copy_from_slice(target);
    } else {
        answer[14] = 0x45;
        put16(answer, 16, ((20 + body) & 0xffff) as u16);
        answer[20] = 0x40; // not to be cut
        answer[22] = 64;
        answer[23] = proto;
        answer[26..30].copy_from_slice(&source[12..]);
        answer[30..34].copy_from_slice(&target[12..]);
        let header = folded(words(answer, 14, 34));
        put16(answer, 24, !header);
    }
    // The pseudo-header (RFC 9293, 3.1; RFC 8200, 8.1), which ICMP for IPv4 does without.
    if is_tcp || is_v6 {
        sum += u32::from(proto) + body;
        sum += if is_v6 {
            words(answer, 22, 54)
        } else {
            words(answer, 26, 34)
        };
    }
    sum += words(answer, L4, ANSWER_ROOM);
    put16(answer, if is_tcp { L4 + 16 } else { L4 + 2 }, !folded(sum));
    (if is_v6 { 54 } else { 34 }) + body
}

#[inline(always)]
const fn put16(out: &mut [u8; ANSWER_ROOM], at: usize, value: u16) {
    let bytes = value.to_be_bytes();
    out[at] = bytes[0];
    out[at + 1] = bytes[1];
}

#[inline(always)]
const fn put32(out: &mut [u8; ANSWER_ROOM], at: usize, value: u32) {
    put16(out, at, (value >> 16) as u16);
    put16(out, at + 2, (value & 0xffff) as u16);
}

/// Sum of the 16-bit words from one even place to another (RFC 1071).
#[inline(never)] // unrolled it would be spilled to the kernel's small stack
const fn words(bytes: &[u8; ANSWER_ROOM], from: usize, to: usize) -> u32 {
    let mut sum = 0;
    let mut i = from;
    while i < to && i < ANSWER_ROOM - 1 {
        sum += be16(bytes[i], bytes[i + 1]) as u32;
        i += 2;
    }
    sum
}

#[inline(always)]
const fn folded(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    (((sum & 0xffff) + (sum >> 16)) & 0xffff) as u16
}
