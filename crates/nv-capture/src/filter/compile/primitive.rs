//! Tests of protocols, addresses, ports and tags.

use super::super::ast::{Family, Side, Test, V4In};
use super::super::bpf::op;
use super::super::names::{ARP, IP, IP6, RARP, SCTP, TCP, UDP};
use super::{Label, Layer, Out, TooComplex};

impl Out {
    pub(super) fn link_proto(&mut self, wanted: u32, shift: u32, yes: Label, no: Label) {
        match self.layer {
            Layer::Typed { kind, .. } => {
                self.plain(op::LD_H, kind + shift);
                if wanted > 0x5dc {
                    return self.jump(op::JEQ, wanted, yes, no);
                }
                // 802.3: a length, then the LLC header.
                self.both(no, |out, next, no| out.jump(op::JGT, 0x5dc, no, next));
                self.plain(op::LD_B, self.network(shift));
                self.jump(op::JEQ, wanted, yes, no);
            }
            Layer::Raw => {
                let version = match wanted {
                    IP => 0x40,
                    IP6 => 0x60,
                    _ => return self.goto(no),
                };
                self.plain(op::LD_B, 0);
                self.plain(op::AND, 0xf0);
                self.jump(op::JEQ, version, yes, no);
            }
        }
    }

    pub(super) fn ip_proto(&mut self, family: Family, proto: u8, shift: u32, yes: Label, no: Label) {
        let (network, proto) = (self.network(shift), u32::from(proto));
        if family != Family::V6 {
            let other = if family == Family::Any { self.label() } else { no };
            self.both(other, |out, next, other| out.link_proto(IP, shift, next, other));
            self.plain(op::LD_B, network + 9);
            self.jump(op::JEQ, proto, yes, other);
            if family == Family::V4 {
                return;
            }
            self.place(other);
        }
        self.both(no, |out, next, no| out.link_proto(IP6, shift, next, no));
        self.plain(op::LD_B, network + 6);
        let (fragment, inner) = (self.label(), self.label());
        self.jump(op::JEQ, proto, yes, fragment);
        self.place(fragment);
        self.jump(op::JEQ, 44, inner, no);
        self.place(inner);
        self.plain(op::LD_B, network + 40);
        self.jump(op::JEQ, proto, yes, no);
    }

    /// One test for each end that counts.
    fn sides(
        &mut self,
        side: Side,
        yes: Label,
        no: Label,
        mut one: impl FnMut(&mut Self, bool, Label, Label),
    ) {
        match side {
            Side::Src => one(self, true, yes, no),
            Side::Dst => one(self, false, yes, no),
            Side::Any => {
                let next = self.label();
                one(self, true, yes, next);
                self.place(next);
                one(self, false, yes, no);
            }
            Side::Both => {
                let next = self.label();
                one(self, true, next, no);
                self.place(next);
                one(self, false, yes, no);
            }
        }
    }

    fn masked_word(&mut self, at: u32, value: u32, mask: u32, yes: Label, no: Label) {
        self.plain(op::LD_W, at);
        if mask != u32::MAX {
            self.plain(op::AND, mask);
        }
        self.jump(op::JEQ, value, yes, no);
    }

    fn net4(&mut self, place: V4In, side: Side, (net, mask): (u32, u32), shift: u32, yes: Label, no: Label) {
        let network = self.network(shift);
        let all = [
            (V4In::Ip, IP, 12, 16),
            (V4In::Arp, ARP, 14, 24),
            (V4In::Rarp, RARP, 14, 24),
        ];
        for (this, kind, source, destination) in all {
            if place != V4In::Any && place != this {
                continue;
            }
            let last = place == this || this == V4In::Rarp;
            let other = if last { no } else { self.label() };
            let inside = self.label();
            self.link_proto(kind, shift, inside, other);
            self.place(inside);
            self.sides(side, yes, other, |out, is_source, yes, no| {
                let at = network + if is_source { source } else { destination };
                out.masked_word(at, net, mask, yes, no);
            });
            if !last {
                self.place(other);
            }
        }
    }

    fn net6(&mut self, side: Side, net: u128, prefix: u32, shift: u32, yes: Label, no: Label) {
        let network = self.network(shift);
        self.both(no, |out, next, no| out.link_proto(IP6, shift, next, no));
        self.sides(side, yes, no, |out, is_source, yes, no| {
            let start = network + if is_source { 8 } else { 24 };
            let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
            for word in 0..4_u32 {
                let part = |all: u128| u32::try_from(all >> (96 - 32 * word) & 0xffff_ffff).unwrap_or(0);
                if part(mask) != 0 {
                    let next = out.label();
                    out.masked_word(start + 4 * word, part(net), part(mask), next, no);
                    out.place(next);
                }
            }
            if prefix <= 96 {
                // The address must be there as a whole.
                out.plain(op::LD_W, start + 12);
            }
            out.goto(yes);
        });
    }

    fn ports(
        &mut self,
        proto: Option<u8>,
        side: Side,
        (low, high): (u16, u16),
        shift: u32,
        yes: Label,
        no: Label,
    ) {
        let network = self.network(shift);
        let protos: &[u8] = match &proto {
            Some(proto) => std::slice::from_ref(proto),
            None => &[SCTP, TCP, UDP],
        };
        let (low, high) = (u32::from(low), u32::from(high));
        let one_of = |out: &mut Self, at: u32, no: Label| {
            out.plain(op::LD_B, at);
            let found = out.label();
            for (place, proto) in protos.iter().enumerate() {
                let next = if place + 1 == protos.len() {
                    no
                } else {
                    out.label()
                };
                out.jump(op::JEQ, u32::from(*proto), found, next);
                if next != no {
                    out.place(next);
                }
            }
            out.place(found);
        };
        let within = |out: &mut Self, yes: Label, no: Label| {
            if low == high {
                return out.jump(op::JEQ, low, yes, no);
            }
            let above = out.label();
            out.jump(op::JGE, low, above, no);
            out.place(above);
            out.jump(op::JGT, high, no, yes);
        };
        let v4 = self.label();
        self.both(v4, |out, next, v4| out.link_proto(IP6, shift, next, v4));
        one_of(self, network + 6, no);
        self.sides(side, yes, no, |out, is_source, yes, no| {
            out.plain(op::LD_H, network + if is_source { 40 } else { 42 });
            within(out, yes, no);
        });
        self.place(v4);
        self.both(no, |out, next, no| out.link_proto(IP, shift, next, no));
        one_of(self, network + 9, no);
        self.first_fragment(network, no);
        self.sides(side, yes, no, |out, is_source, yes, no| {
            out.plain(op::LDX_MSH, network);
            out.plain(op::LD_H_IND, network + if is_source { 0 } else { 2 });
            within(out, yes, no);
        });
    }

    /// Goes on only with packets that hold the header behind IPv4.
    pub(super) fn first_fragment(&mut self, network: u32, no: Label) {
        self.plain(op::LD_H, network + 6);
        self.both(no, |out, next, no| out.jump(op::JSET, 0x1fff, no, next));
    }

    pub(super) fn test(&mut self, test: &Test, shift: u32, yes: Label, no: Label) -> Result<(), TooComplex> {
        match test {
            Test::LinkProto(kind) => self.link_proto(*kind, shift, yes, no),
            Test::EtherHost { .. } | Test::EtherMulticast | Test::Vlan(_) if !self.ethernet => self.goto(no),
            Test::EtherHost { side, mac } => {
                let [a, b, c, d, e, f] = *mac;
                self.sides(*side, yes, no, |out, is_source, yes, no| {
                    let at = if is_source { 6 } else { 0 };
                    let next = out.label();
                    out.masked_word(at + 2, u32::from_be_bytes([c, d, e, f]), u32::MAX, next, no);
                    out.place(next);
                    out.plain(op::LD_H, at);
                    out.jump(op::JEQ, u32::from(u16::from_be_bytes([a, b])), yes, no);
                });
            }
            Test::EtherMulticast => {
                self.plain(op::LD_B, 0);
                self.jump(op::JSET, 1, yes, no);
            }
            Test::IpMulticast => {
                self.both(no, |out, next, no| out.link_proto(IP, shift, next, no));
                self.plain(op::LD_B, self.network(shift) + 16);
                self.jump(op::JGE, 224, yes, no);
            }
            Test::Ip6Multicast => {
                self.both(no, |out, next, no| out.link_proto(IP6, shift, next, no));
                self.plain(op::LD_B, self.network(shift) + 24);
                self.jump(op::JEQ, 255, yes, no);
            }
            Test::IpProto { family, proto } => self.ip_proto(*family, *proto, shift, yes, no),
            Test::Net4 {
                place,
                side,
                net,
                mask,
            } => {
                self.net4(*place, *side, (u32::from(*net), *mask), shift, yes, no);
            }
            Test::Net6 { side, net, prefix } => self.net6(*side, u128::from(*net), *prefix, shift, yes, no),
            Test::Ports {
                proto,
                side,
                low,
                high,
            } => {
                self.ports(*proto, *side, (*low, *high), shift, yes, no);
            }
            Test::Vlan(id) => self.vlan(*id, shift, yes, no),
            Test::Compare { left, op, right } => self.compare(left, *op, right, yes, no)?,
        }
        Ok(())
    }

    fn vlan(&mut self, id: Option<u16>, shift: u32, yes: Label, no: Label) {
        self.plain(op::LD_H, 12 + shift);
        let tagged = self.label();
        for kind in [0x8100, 0x88a8] {
            let next = self.label();
            self.jump(op::JEQ, kind, tagged, next);
            self.place(next);
        }
        self.jump(op::JEQ, 0x9100, tagged, no);
        self.place(tagged);
        match id {
            None => self.goto(yes),
            Some(id) => {
                self.plain(op::LD_H, 14 + shift);
                self.plain(op::AND, 0xfff);
                self.jump(op::JEQ, u32::from(id), yes, no);
            }
        }
    }
}
