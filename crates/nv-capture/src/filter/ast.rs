//! A filter as a tree.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::words::Word;

/// A filter expression. `And` and `Or` have at least two parts and are judged from left to right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expr {
    /// Every packet.
    All,
    And(Vec<Self>),
    Or(Vec<Self>),
    Not(Box<Self>),
    /// A test of the packet's bytes. `shift`: bytes of tags that earlier words have stepped over.
    Test {
        test: Test,
        shift: u32,
    },
    /// A word of nv, which bytes alone cannot answer.
    Word(Word),
}

impl Expr {
    /// Both; chains stay flat.
    pub(super) fn and(self, other: Self) -> Self {
        match self {
            Self::And(mut parts) => {
                parts.push(other);
                Self::And(parts)
            }
            first => Self::And(vec![first, other]),
        }
    }

    pub(super) fn or(self, other: Self) -> Self {
        match self {
            Self::Or(mut parts) => {
                parts.push(other);
                Self::Or(parts)
            }
            first => Self::Or(vec![first, other]),
        }
    }

    /// Whether the bytes alone answer it.
    pub(super) fn is_plain(&self) -> bool {
        match self {
            Self::All | Self::Test { .. } => true,
            Self::Word(_) => false,
            Self::And(parts) | Self::Or(parts) => parts.iter().all(Self::is_plain),
            Self::Not(inner) => inner.is_plain(),
        }
    }
}

/// Which end of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Side {
    Src,
    Dst,
    /// Either.
    #[default]
    Any,
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
    Any,
}

/// Where an IPv4 address is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum V4In {
    Ip,
    Arp,
    Rarp,
    Any,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Test {
    /// Ethernet type, or below 0x600 an LLC service access point.
    LinkProto(u32),
    EtherHost {
        side: Side,
        mac: [u8; 6],
    },
    EtherMulticast,
    IpMulticast,
    Ip6Multicast,
    IpProto {
        family: Family,
        proto: u8,
    },
    Net4 {
        place: V4In,
        side: Side,
        net: Ipv4Addr,
        mask: u32,
    },
    Net6 {
        side: Side,
        net: Ipv6Addr,
        prefix: u32,
    },
    /// Of TCP, UDP and SCTP when no protocol is named.
    Ports {
        proto: Option<u8>,
        side: Side,
        low: u16,
        high: u16,
    },
    /// One more tag; the words after it look behind it.
    Vlan(Option<u16>),
    Compare {
        left: Arith,
        op: Relation,
        right: Arith,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// What byte offsets count from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    Link,
    /// Of the header of this Ethernet type.
    Network(u32),
    /// Behind an IPv4 header, of this protocol.
    Transport(u8),
    /// Behind an IPv6 header without extensions.
    Icmp6,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Arith {
    Const(u32),
    Len,
    Load {
        base: Base,
        shift: u32,
        index: Box<Self>,
        size: u8,
    },
    Neg(Box<Self>),
    /// An ALU code of classic BPF.
    Op {
        code: u16,
        left: Box<Self>,
        right: Box<Self>,
    },
}
