//! Primitives: qualifiers and ids.

use std::net::Ipv4Addr;

use nv_types::{Application, RuleId, Verdict};

use super::super::FilterError;
use super::super::ast::{Arith, Expr, Relation, Side, Test, V4In};
use super::super::lex::Tok;
use super::super::names::{self, Proto};
use super::super::words::Word;
use super::{Kind, Parser, Quals};
use crate::PacketDirection;

fn kind(word: &str) -> Option<Kind> {
    Some(match word {
        "host" => Kind::Host,
        "net" => Kind::Net,
        "port" => Kind::Port,
        "portrange" => Kind::PortRange,
        "proto" => Kind::Proto,
        "workload" => Kind::Workload,
        "group" => Kind::Group,
        "service" => Kind::Service,
        "namespace" => Kind::Domain,
        _ => return None,
    })
}

const ALONE: [&str; 11] = [
    "broadcast",
    "multicast",
    "less",
    "greater",
    "vlan",
    "inbound",
    "outbound",
    "verdict",
    "app",
    "rule",
    "protochain",
];

fn net4(place: V4In, side: Side, net: Ipv4Addr, bits: u32) -> Test {
    let mask = u32::MAX.checked_shl(32 - bits.min(32)).unwrap_or(0);
    Test::Net4 {
        place,
        side,
        net,
        mask,
    }
}

impl Parser {
    /// Whether the word here is a keyword, and so no id.
    pub(super) fn is_primitive(&self) -> bool {
        let Some(word) = self.keyword() else { return false };
        matches!(word, "src" | "dst")
            || ALONE.contains(&word)
            || names::protocol(word).is_some()
            || kind(word).is_some()
            || self.is_value()
    }

    pub(super) fn test(&self, test: Test) -> Expr {
        Expr::Test {
            test,
            shift: self.shift,
        }
    }

    pub(super) fn primitive(&mut self) -> Result<Expr, FilterError> {
        if self.is_value() {
            return self.comparison();
        }
        let start = self.column();
        let proto = self.keyword().and_then(names::protocol);
        if proto.is_some() {
            self.take();
        }
        let side = self.side()?;
        if let Some(kind) = self.keyword().and_then(kind) {
            self.take();
            let quals = Quals {
                proto,
                side: side.unwrap_or_default(),
                kind,
            };
            self.check(quals, start)?;
            return self.ids(quals);
        }
        if let Some(side) = side {
            // `src 10.0.0.1`: a host.
            let quals = Quals {
                proto,
                side,
                kind: Kind::Host,
            };
            self.check(quals, start)?;
            return self.ids(quals);
        }
        if self.took_word("multicast") {
            self.quals = None;
            return match proto {
                None | Some(Proto::Ether) => Ok(self.test(Test::EtherMulticast)),
                Some(Proto::Link(names::IP)) => Ok(self.test(Test::IpMulticast)),
                Some(Proto::Link(names::IP6)) => Ok(self.test(Test::Ip6Multicast)),
                Some(_) => Err(FilterError::new(start, "multicast is of ether, ip or ip6")),
            };
        }
        if self.took_word("broadcast") {
            self.quals = None;
            return match proto {
                None | Some(Proto::Ether) => Ok(self.test(Test::EtherHost {
                    side: Side::Dst,
                    mac: [0xff; 6],
                })),
                Some(_) => Err(FilterError::new(
                    start,
                    "broadcast is of ether: the network's mask is not known",
                )),
            };
        }
        let Some(proto) = proto else {
            return self.alone(start);
        };
        if self.took_word("protochain") {
            return Err(FilterError::new(
                start,
                "protochain is not supported: the kernel has no loops",
            ));
        }
        self.quals = None;
        match proto {
            Proto::Link(kind) => Ok(self.test(Test::LinkProto(kind))),
            Proto::Ip(family, proto) => Ok(self.test(Test::IpProto { family, proto })),
            Proto::Ether => Err(self.wrong(
                "'host', 'proto', 'src', 'dst', 'broadcast', 'multicast' or '[' should follow 'ether'",
            )),
        }
    }

    /// `src`, `dst`, `src or dst`, `src and dst`.
    fn side(&mut self) -> Result<Option<Side>, FilterError> {
        let Some(first @ ("src" | "dst")) = self.keyword() else {
            return Ok(None);
        };
        let one = if first == "src" { Side::Src } else { Side::Dst };
        let other = if first == "src" { "dst" } else { "src" };
        self.take();
        let joined = match self.peek() {
            Tok::And => Side::Both,
            Tok::Or => Side::Any,
            _ => return Ok(Some(one)),
        };
        let follows =
            matches!(self.peek_at(self.at + 1), Tok::Word { text, escaped: false } if text == other);
        if !follows {
            return Err(self.wrong(format!("'{other}' or an address should follow")));
        }
        self.take();
        self.take();
        Ok(Some(joined))
    }

    /// Whether the qualifiers go together.
    fn check(&self, quals: Quals, start: usize) -> Result<(), FilterError> {
        let good = match (quals.kind, quals.proto) {
            (Kind::Host, None | Some(Proto::Ether)) => true,
            (Kind::Host | Kind::Net, Some(Proto::Link(kind))) => {
                matches!(kind, names::IP | names::IP6 | names::ARP | names::RARP)
            }
            (Kind::Net, None) => true,
            (Kind::Port | Kind::PortRange, None) => true,
            (Kind::Port | Kind::PortRange, Some(Proto::Ip(_, proto))) => {
                matches!(proto, names::TCP | names::UDP | names::SCTP)
            }
            (Kind::Proto, None | Some(Proto::Ether | Proto::Link(names::IP | names::IP6))) => {
                if quals.side != Side::default() {
                    return Err(FilterError::new(
                        start,
                        "a protocol has no source and no destination",
                    ));
                }
                true
            }
            (Kind::Workload | Kind::Group | Kind::Service | Kind::Domain, None) => true,
            _ => false,
        };
        if good {
            return Ok(());
        }
        Err(FilterError::new(start, "these words do not go together"))
    }

    /// One id, or several in parentheses.
    fn ids(&mut self, quals: Quals) -> Result<Expr, FilterError> {
        self.quals = Some(quals);
        if *self.peek() == Tok::Sign("(") {
            // The parentheses of a term do the same, with bare ids allowed.
            return self.term(true);
        }
        if *self.peek() == Tok::Not {
            self.take();
            let inner = self.deeper(|parser| parser.ids(quals))?;
            return Ok(Expr::Not(Box::new(inner)));
        }
        self.id(quals)
    }

    pub(super) fn id(&mut self, quals: Quals) -> Result<Expr, FilterError> {
        self.quals = Some(quals);
        let word = |word: fn(Side, String) -> Word, parser: &mut Self| {
            let name = parser.name()?;
            Ok(Expr::Word(word(quals.side, name)))
        };
        match quals.kind {
            Kind::Host | Kind::Net => self.address(quals),
            Kind::Port => self.port(quals),
            Kind::PortRange => self.port_range(quals),
            Kind::Proto => self.proto_id(quals),
            Kind::Workload => word(Word::Workload, self),
            Kind::Group => word(Word::Group, self),
            Kind::Service => word(Word::Service, self),
            Kind::Domain => word(Word::Domain, self),
        }
    }

    /// A name of nv: words with dots, dashes, slashes and stars, or anything in quotes.
    fn name(&mut self) -> Result<String, FilterError> {
        let mut name = String::new();
        let mut end = None;
        loop {
            let column = self.column();
            // Parts of a name stand close together: `shop/web-*`.
            if end.is_some_and(|end| end != column) {
                break;
            }
            let part = match self.peek() {
                Tok::Word { text, escaped: true } if name.is_empty() => {
                    let text = text.clone();
                    self.take();
                    return Ok(text);
                }
                Tok::Word { text, escaped: false } => text.clone(),
                Tok::Num(number) => number.to_string(),
                Tok::Sign(sign @ ("/" | "*")) => (*sign).to_owned(),
                Tok::Dotted(address, 32) => address.to_string(),
                _ => break,
            };
            end = Some(column + part.chars().count());
            name.push_str(&part);
            self.take();
        }
        if name.is_empty() {
            return Err(self.wrong("a name should stand here; put it in quotes if it is unusual"));
        }
        Ok(name)
    }

    fn address(&mut self, quals: Quals) -> Result<Expr, FilterError> {
        let column = self.column();
        let tok = self.take();
        if quals.proto == Some(Proto::Ether) {
            return match tok {
                Tok::Mac(mac) => Ok(self.test(Test::EtherHost {
                    side: quals.side,
                    mac,
                })),
                _ => Err(FilterError::new(
                    column,
                    "an Ethernet address such as 02:42:ac:11:00:02 should stand here",
                )),
            };
        }
        match tok {
            Tok::Mac(_) => Err(FilterError::new(
                column,
                "an Ethernet address needs 'ether' before 'host'",
            )),
            Tok::V6(net) => {
                if !matches!(quals.proto, None | Some(Proto::Link(names::IP6))) {
                    return Err(FilterError::new(
                        column,
                        "an IPv6 address here can only be of 'ip6'",
                    ));
                }
                let prefix = if self.took("/") { self.prefix(128)? } else { 128 };
                if u128::from(net).checked_shl(prefix).unwrap_or(0) != 0 {
                    return Err(FilterError::new(
                        column,
                        format!("{net}/{prefix} has bits behind its prefix"),
                    ));
                }
                Ok(self.test(Test::Net6 {
                    side: quals.side,
                    net,
                    prefix,
                }))
            }
            Tok::Dotted(address, told) => self.ip4(quals, column, address, told),
            Tok::Num(number) if quals.kind == Kind::Net || *self.peek() == Tok::Sign("/") => {
                // `net 10` is 10.0.0.0/8.
                let told = 8 * (4 - number.leading_zeros() / 8).max(1);
                let address = number.checked_shl(32 - told).unwrap_or(0);
                self.ip4(quals, column, address.into(), told)
            }
            Tok::Num(number) => self.ip4(quals, column, number.into(), 32),
            Tok::Word { text, .. } => Err(FilterError::new(
                column,
                format!("names of hosts are not looked up: use the address, or 'workload {text}'"),
            )),
            _ => Err(FilterError::new(column, "an address should stand here")),
        }
    }

    fn ip4(&mut self, quals: Quals, column: usize, net: Ipv4Addr, told: u32) -> Result<Expr, FilterError> {
        let place = match quals.proto {
            None => V4In::Any,
            Some(Proto::Link(names::IP)) => V4In::Ip,
            Some(Proto::Link(names::ARP)) => V4In::Arp,
            Some(Proto::Link(names::RARP)) => V4In::Rarp,
            Some(_) => {
                return Err(FilterError::new(
                    column,
                    "an IPv4 address here can only be of 'ip', 'arp' or 'rarp'",
                ));
            }
        };
        let test = if self.took("/") {
            net4(place, quals.side, net, self.prefix(32)?)
        } else if self.took_word("mask") {
            let Tok::Dotted(mask, 32) = self.take() else {
                return Err(self.wrong("a mask such as 255.255.0.0 should stand here"));
            };
            Test::Net4 {
                place,
                side: quals.side,
                net,
                mask: mask.into(),
            }
        } else {
            net4(place, quals.side, net, told)
        };
        if let Test::Net4 { net, mask, .. } = &test
            && u32::from(*net) & !mask != 0
        {
            return Err(FilterError::new(
                column,
                format!("{net} has bits outside its mask"),
            ));
        }
        Ok(self.test(test))
    }

    fn prefix(&mut self, most: u32) -> Result<u32, FilterError> {
        match self.peek() {
            Tok::Num(prefix) if *prefix <= most => {
                let prefix = *prefix;
                self.take();
                Ok(prefix)
            }
            _ => Err(self.wrong(format!("a prefix length of 0 to {most} should stand here"))),
        }
    }

    /// Primitives of one word, with or without a value.
    fn alone(&mut self, start: usize) -> Result<Expr, FilterError> {
        let word = self.keyword().unwrap_or_default().to_owned();
        self.take();
        self.quals = None;
        match word.as_str() {
            "less" | "greater" => {
                let Tok::Num(length) = *self.peek() else {
                    return Err(self.wrong("a length in bytes should stand here"));
                };
                self.take();
                let op = if word == "less" {
                    Relation::Le
                } else {
                    Relation::Ge
                };
                Ok(self.test(Test::Compare {
                    left: Arith::Len,
                    op,
                    right: Arith::Const(length),
                }))
            }
            "vlan" => self.tag(),
            "inbound" => Ok(Expr::Word(Word::Direction(PacketDirection::Inbound))),
            "outbound" => Ok(Expr::Word(Word::Direction(PacketDirection::Outbound))),
            "verdict" => {
                let verdict = match self.keyword() {
                    Some("allow" | "allowed") => Verdict::Allow,
                    Some("alert" | "alerted") => Verdict::Alert,
                    Some("deny" | "denied") => Verdict::Deny,
                    _ => return Err(self.wrong("'allow', 'alert' or 'deny' should stand here")),
                };
                self.take();
                Ok(Expr::Word(Word::Verdict(verdict)))
            }
            "app" => {
                let column = self.column();
                let name = self.name()?;
                let found = Application::all().find(|app| app.name().eq_ignore_ascii_case(&name));
                found.map(|app| Expr::Word(Word::App(app))).ok_or_else(|| {
                    FilterError::new(column, format!("'{name}' is not an application that nv knows"))
                })
            }
            "rule" => match *self.peek() {
                Tok::Num(id) => {
                    self.take();
                    Ok(Expr::Word(Word::Rule(RuleId(id))))
                }
                _ => Err(self.wrong("the number of a rule should stand here")),
            },
            _ => Err(FilterError::new(start, format!("'{word}' is not supported"))),
        }
    }

    fn tag(&mut self) -> Result<Expr, FilterError> {
        let id = match *self.peek() {
            Tok::Num(id) => Some(
                u16::try_from(id)
                    .ok()
                    .filter(|id| *id <= 0xfff)
                    .ok_or_else(|| self.wrong(format!("{id} is not a VLAN: the highest is 4095")))?,
            ),
            _ => None,
        };
        if id.is_some() {
            self.take();
        }
        let tagged = self.test(Test::Vlan(id));
        self.shift += 4;
        Ok(tagged)
    }
}
