//! How a row is played: twice, with the guard on and with it off, and its figures held to what is expected.

use std::fmt;

use crate::sys::Wire;
use crate::town::{Law, NODE_MAC, PEER_MAC, Town, WEB_MAC, Who, address};
use crate::wire::{self, Mac, Piece, TCP, UDP};
use std::net::IpAddr;

/// Family and direction. Egress: the workload under guard sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    pub v6: bool,
    pub egress: bool,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.v6 { "IPv6" } else { "IPv4" };
        write!(f, "{family} {}", if self.egress { "egress " } else { "ingress" })
    }
}

pub const WAYS: [Way; 4] = [
    Way {
        v6: false,
        egress: true,
    },
    Way {
        v6: false,
        egress: false,
    },
    Way {
        v6: true,
        egress: true,
    },
    Way {
        v6: true,
        egress: false,
    },
];

/// What must be delivered under guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Nothing,
    /// Everything: a limit that the documentation states.
    Stated,
    /// A gap that is known: this many packets get through that should not. A row whose gap has closed fails until it is moved.
    Gap(usize),
}

/// One row of the matrix.
pub struct Row {
    pub number: u8,
    pub trick: &'static str,
    /// The other end is a workload under guard, too.
    pub both: bool,
    pub play: fn(&mut Act<'_>),
    pub expect: fn(Way) -> Expect,
}

impl Row {
    pub const fn new(number: u8, trick: &'static str, play: fn(&mut Act<'_>)) -> Self {
        Self {
            number,
            trick,
            both: false,
            play,
            expect: |_| Expect::Nothing,
        }
    }

    pub const fn both(self) -> Self {
        Self { both: true, ..self }
    }

    pub const fn expect(self, expect: fn(Way) -> Expect) -> Self {
        Self { expect, ..self }
    }
}

/// One performance.
pub struct Act<'t> {
    pub town: &'t mut Town,
    pub way: Way,
    /// Whether the datapath is on.
    pub guarded: bool,
    /// What the packets that count are known by.
    pub mark: Mac,
    pub sent: usize,
    pub delivered: usize,
}

pub const SYN: u8 = 2;
pub const ACK: u8 = 16;

impl Act<'_> {
    pub fn addr(&self, who: Who) -> IpAddr {
        address(who, self.way.v6)
    }

    /// A port that no flow has had.
    pub fn port(&mut self) -> u16 {
        40_000 + self.town.fresh()
    }

    /// The workload's address and the other end's, in the order of the way.
    pub fn ends(&self, other: Who) -> (IpAddr, IpAddr) {
        let (web, other) = (self.addr(Who::Web), self.addr(other));
        if self.way.egress {
            (web, other)
        } else {
            (other, web)
        }
    }

    /// An Ethernet frame in the direction of the way.
    pub fn frame(&self, (kind, packet): (u16, Vec<u8>)) -> Vec<u8> {
        self.frame_from(if self.way.egress { WEB_MAC } else { PEER_MAC }, (kind, packet))
    }

    pub fn frame_from(&self, source: Mac, (kind, packet): (u16, Vec<u8>)) -> Vec<u8> {
        let target = if self.way.egress { PEER_MAC } else { WEB_MAC };
        wire::eth(target, source, kind, &packet)
    }

    /// To the node, which routes it on.
    pub fn routed(&self, (kind, packet): (u16, Vec<u8>)) -> Vec<u8> {
        let source = if self.way.egress { WEB_MAC } else { PEER_MAC };
        wire::eth(NODE_MAC, source, kind, &packet)
    }

    /// `bytes`, and the mark behind them.
    pub fn marked(&self, bytes: &[u8]) -> Vec<u8> {
        [bytes, &self.mark].concat()
    }

    pub fn udp(&self, from: (IpAddr, u16), to: (IpAddr, u16), payload: &[u8]) -> (u16, Vec<u8>) {
        wire::ip(from.0, to.0, UDP, &wire::udp(from, to, &self.marked(payload)))
    }

    /// A segment that carries the mark in its numbers.
    pub fn tcp(&self, from: (IpAddr, u16), to: (IpAddr, u16), flags: u8, payload: &[u8]) -> (u16, Vec<u8>) {
        let mut numbers = [0; 8];
        numbers[..6].copy_from_slice(&self.mark);
        wire::ip(from.0, to.0, TCP, &wire::tcp(from, to, flags, numbers, payload))
    }

    pub fn icmp(
        &self,
        from: IpAddr,
        to: IpAddr,
        kind: (u8, u8),
        rest: [u8; 4],
        payload: &[u8],
    ) -> (u16, Vec<u8>) {
        let (proto, body) = wire::icmp(from, to, kind.0, kind.1, rest, payload);
        wire::ip(from, to, proto, &body)
    }

    pub fn piece(&self, ends: (IpAddr, IpAddr), proto: u8, piece: Piece, body: &[u8]) -> (u16, Vec<u8>) {
        wire::ip_with(ends.0, ends.1, proto, body, 64, piece)
    }

    /// A frame that does not count, against the direction of the way if `back`.
    pub fn lay(&mut self, back: bool, (kind, packet): (u16, Vec<u8>)) {
        let egress = self.way.egress != back;
        let macs = if egress {
            [PEER_MAC, WEB_MAC]
        } else {
            [WEB_MAC, PEER_MAC]
        };
        let frame = wire::eth(macs[0], macs[1], kind, &packet);
        let none = [0xfd; 6];
        self.town
            .deliver(egress, none, &[frame], |wire, frame| wire.send(frame));
    }

    /// SYN, SYN with ACK, ACK: the client is the sender of the way.
    pub fn handshake(&mut self, client: (IpAddr, u16), server: (IpAddr, u16)) {
        let segment = |from: (IpAddr, u16), to: (IpAddr, u16), flags| {
            wire::ip(from.0, to.0, TCP, &wire::tcp(from, to, flags, [0; 8], b""))
        };
        self.lay(false, segment(client, server, SYN));
        self.lay(true, segment(server, client, SYN | ACK));
        self.lay(false, segment(client, server, ACK));
    }

    /// The frames that count.
    pub fn fire(&mut self, frames: &[Vec<u8>]) {
        self.fire_by(frames, |wire, frame| wire.send(frame));
    }

    pub fn fire_by(&mut self, frames: &[Vec<u8>], send: impl Fn(&Wire, &[u8])) {
        self.sent += frames.len();
        self.delivered += self.town.deliver(self.way.egress, self.mark, frames, send);
    }

    /// Frames that policy allows: they must arrive, or the row shows nothing.
    pub fn allowed(&mut self, frames: &[Vec<u8>]) {
        let mark = self.mark;
        let arrived = self
            .town
            .deliver(self.way.egress, mark, frames, |wire, frame| wire.send(frame));
        assert_eq!(arrived, frames.len(), "{}: allowed packets", self.way);
        // A new mark, so that these are not taken for the others.
        self.mark[0] ^= 0x10;
    }
}

/// Plays rows on one town; prints every figure, and fails with all rows that are not as expected.
#[allow(clippy::print_stdout, reason = "the figures are what the matrix is for")]
pub fn play(rows: &[Row]) {
    let mut town = Town::new();
    let mut wrong = Vec::new();
    for row in rows {
        let start = std::time::Instant::now();
        for way in WAYS {
            let (sent, delivered) = perform(&mut town, row, way, true);
            let (loose, all) = perform(&mut town, row, way, false);
            let expected = match (row.expect)(way) {
                Expect::Nothing => 0,
                Expect::Stated => sent,
                Expect::Gap(count) => count,
            };
            let note = match (row.expect)(way) {
                Expect::Nothing => "",
                Expect::Stated => " (stated)",
                Expect::Gap(_) => " (known gap)",
            };
            let line = format!(
                "{:>2} {way} packets delivered: {delivered} of {sent}{note}; guard off: {all} of {loose}  {}",
                row.number, row.trick
            );
            println!("{line}");
            if delivered != expected || all != loose || loose == 0 || sent != loose {
                wrong.push(line);
            }
        }
        println!("{:>2} took {:.1?}", row.number, start.elapsed());
    }
    assert!(wrong.is_empty(), "not as expected:\n{}", wrong.join("\n"));
}

fn perform(town: &mut Town, row: &Row, way: Way, guarded: bool) -> (usize, usize) {
    let serial = town.fresh();
    let mut mark = [0xe5, row.number, 0xc1, 0x9d, 0, 0];
    mark[4..].copy_from_slice(&serial.to_be_bytes());
    let (web, peer) = (town.web_spec(), town.peer_spec());
    if guarded {
        town.attach(web);
        if row.both {
            town.attach(peer);
        }
    }
    let mut act = Act {
        town,
        way,
        guarded,
        mark,
        sent: 0,
        delivered: 0,
    };
    (row.play)(&mut act);
    let tally = (act.sent, act.delivered);
    town.detach_all();
    town.apply(Law::Usual);
    tally
}
