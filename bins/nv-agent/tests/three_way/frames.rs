//! Frames byte by byte, by nobody's parser.

use std::net::IpAddr;

use nv_dp::FlowKey;
use nv_types::{Direction, IpProto};

use crate::dice::Dice;

pub const LOCAL_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

pub const SYN: u8 = 2;
pub const ACK: u8 = 16;

/// What is around the packet.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// VLAN tags.
    pub tags: usize,
    /// Multiples of four bytes of IPv4 options; of IPv6, a header of options each.
    pub options: usize,
    /// Bytes behind the end of the packet, as short frames have.
    pub padding: usize,
    /// Multiples of four bytes of TCP options.
    pub tcp_options: usize,
    /// In two fragments.
    pub cut: bool,
}

impl Shape {
    pub fn random(dice: &mut Dice) -> Self {
        let rarely = |dice: &mut Dice, most: usize| if dice.one_in(3) { dice.below(most + 1) } else { 0 };
        Self {
            tags: rarely(dice, 2),
            options: rarely(dice, 4),
            padding: rarely(dice, 18),
            tcp_options: rarely(dice, 10),
            cut: dice.one_in(8),
        }
    }
}

/// What a flow's packet carries.
#[derive(Clone, Copy, Debug)]
pub struct Load<'a> {
    pub tcp_flags: u8,
    pub content: &'a [u8],
    pub from_client: bool,
}

fn transport(from: u16, to: u16, proto: IpProto, load: Load<'_>, tcp_options: usize) -> Vec<u8> {
    let content = load.content;
    let mut out = Vec::new();
    match proto {
        IpProto::TCP => {
            out.extend([from, to].map(u16::to_be_bytes).concat());
            out.extend([0, 0, 4, 0, 0, 0, 4, 0]);
            out.extend([
                u8::try_from((5 + tcp_options) << 4).unwrap(),
                load.tcp_flags,
                0x20,
                0,
                0,
                0,
                0,
                0,
            ]);
            out.extend(vec![1; tcp_options * 4]);
        }
        IpProto::UDP => {
            let length = u16::try_from(8 + content.len()).unwrap();
            out.extend([from, to, length, 0].map(u16::to_be_bytes).concat());
        }
        IpProto::SCTP => {
            out.extend([from, to].map(u16::to_be_bytes).concat());
            out.extend([0; 8]);
        }
        IpProto::ICMP | IpProto::ICMPV6 => {
            let kind = match (proto, load.from_client) {
                (IpProto::ICMP, true) => 8,
                (IpProto::ICMP, false) => 0,
                (_, true) => 128,
                (_, false) => 129,
            };
            out.extend([kind, 0, 0, 0]);
            out.extend([from.max(to), 1].map(u16::to_be_bytes).concat());
        }
        _ => {}
    }
    out.extend(content);
    out
}

/// Where a piece of a datagram stands in it.
#[derive(Clone, Copy)]
struct Piece {
    offset: usize,
    more: bool,
    id: u32,
}

fn ipv4(
    from: [u8; 4],
    to: [u8; 4],
    proto: IpProto,
    options: usize,
    piece: Option<Piece>,
    body: &[u8],
) -> Vec<u8> {
    let header = 20 + options * 4;
    let mut out = vec![0x40 | u8::try_from(header / 4).unwrap(), 0];
    out.extend(u16::try_from(header + body.len()).unwrap().to_be_bytes());
    let (id, field) = piece.map_or((0, 0), |piece| {
        let more = if piece.more { 0x2000 } else { 0 };
        (piece.id & 0xffff, u16::try_from(piece.offset / 8).unwrap() | more)
    });
    out.extend(u16::try_from(id).unwrap().to_be_bytes());
    out.extend(field.to_be_bytes());
    out.extend([64, proto.0, 0, 0]);
    out.extend(from);
    out.extend(to);
    out.extend(vec![1; options * 4]);
    out.extend(body);
    out
}

fn ipv6(
    from: [u8; 16],
    to: [u8; 16],
    proto: IpProto,
    options: usize,
    piece: Option<Piece>,
    body: &[u8],
) -> Vec<u8> {
    const HOP_BY_HOP: u8 = 0;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;
    // Hop-by-hop comes first and once.
    let mut kinds: Vec<u8> = (0..options)
        .map(|at| if at == 0 { HOP_BY_HOP } else { DESTINATION })
        .collect();
    kinds.extend(piece.map(|_| FRAGMENT));
    let mut extensions = Vec::new();
    for (at, kind) in kinds.iter().enumerate() {
        extensions.push(kinds.get(at + 1).copied().unwrap_or(proto.0));
        match piece {
            Some(piece) if *kind == FRAGMENT => {
                let field = u16::try_from(piece.offset).unwrap() | u16::from(piece.more);
                extensions.push(0);
                extensions.extend(field.to_be_bytes());
                extensions.extend(piece.id.to_be_bytes());
            }
            _ => extensions.extend([0, 1, 4, 0, 0, 0, 0]), // PadN
        }
    }
    let mut out = vec![0x60, 0, 0, 0];
    out.extend(
        u16::try_from(extensions.len() + body.len())
            .unwrap()
            .to_be_bytes(),
    );
    out.extend([kinds.first().copied().unwrap_or(proto.0), 64]);
    out.extend(from);
    out.extend(to);
    out.extend(extensions);
    out.extend(body);
    out
}

/// One frame of this flow in this direction at its endpoint, or two where it is cut; `id` is the datagram's.
pub fn frames(key: &FlowKey, direction: Direction, load: Load<'_>, shape: Shape, id: u32) -> Vec<Vec<u8>> {
    let (own, other) = ((key.local, key.local_port), (key.peer, key.peer_port));
    let (macs, from, to) = match direction {
        Direction::Egress => ([PEER_MAC, LOCAL_MAC], own, other),
        Direction::Ingress => ([LOCAL_MAC, PEER_MAC], other, own),
    };
    let body = transport(from.1, to.1, key.proto, load, shape.tcp_options);
    let pieces = if shape.cut {
        let at = (body.len() - 1) / 8 * 8;
        let piece = |offset, more| Some(Piece { offset, more, id });
        vec![(piece(0, true), &body[..at]), (piece(at, false), &body[at..])]
    } else {
        vec![(None, body.as_slice())]
    };
    let whole = |(piece, body): (Option<Piece>, &[u8])| {
        let (kind, packet) = match (from.0, to.0) {
            (IpAddr::V4(from), IpAddr::V4(to)) => (
                0x0800_u16,
                ipv4(from.octets(), to.octets(), key.proto, shape.options, piece, body),
            ),
            (IpAddr::V6(from), IpAddr::V6(to)) => (
                0x86dd,
                ipv6(from.octets(), to.octets(), key.proto, shape.options, piece, body),
            ),
            _ => panic!("two families"),
        };
        let mut frame = macs.concat();
        for _ in 0..shape.tags {
            frame.extend([0x81, 0x00, 0, 5]);
        }
        frame.extend(kind.to_be_bytes());
        frame.extend(packet);
        frame.extend(vec![0xee; shape.padding]);
        frame
    };
    pieces.into_iter().map(whole).collect()
}

/// Ethernet and IPv6.
const SHORTEST: usize = 54;

/// A frame with something wrong in it, or made shorter or longer.
pub fn spoiled(dice: &mut Dice, frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    for _ in 0..=dice.below(3) {
        // The headers, mostly.
        let end = if dice.one_in(4) {
            frame.len()
        } else {
            frame.len().min(70)
        };
        let at = dice.below(end);
        frame[at] = match dice.below(3) {
            0 => dice.byte(),
            1 => frame[at] ^ 1 << dice.below(8),
            _ => dice.pick(&[0, 1, 0x7f, 0x80, 0xff]),
        };
    }
    match dice.below(4) {
        0 => frame.truncate(dice.below(frame.len())),
        1 => frame.extend((0..dice.below(40)).map(|_| dice.byte()).collect::<Vec<_>>()),
        _ => {}
    }
    // The kernel runs nothing on less than the header of the protocol that the frame names.
    frame.resize(frame.len().max(SHORTEST), 0);
    frame
}
