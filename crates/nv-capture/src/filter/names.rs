//! Names of protocols, ports and offsets. Names of hosts are not looked up: a filter must mean the same on every
//! node and at every time.

use super::ast::{Arith, Base, Family};

pub(super) const IP: u32 = 0x0800;
pub(super) const IP6: u32 = 0x86dd;
pub(super) const ARP: u32 = 0x0806;
pub(super) const RARP: u32 = 0x8035;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const SCTP: u8 = 132;
pub(super) const ICMP6: u8 = 58;

/// A word that can stand before a primitive and say what it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proto {
    Ether,
    /// A protocol with an Ethernet type.
    Link(u32),
    Ip(Family, u8),
}

pub(super) fn protocol(word: &str) -> Option<Proto> {
    Some(match word {
        "ether" | "link" => Proto::Ether,
        "ip" => Proto::Link(IP),
        "ip6" => Proto::Link(IP6),
        "arp" => Proto::Link(ARP),
        "rarp" => Proto::Link(RARP),
        "decnet" => Proto::Link(0x6003),
        "lat" => Proto::Link(0x6004),
        "sca" => Proto::Link(0x6007),
        "moprc" => Proto::Link(0x6002),
        "mopdl" => Proto::Link(0x6001),
        "stp" => Proto::Link(0x42),
        "netbeui" => Proto::Link(0xf0),
        "tcp" => Proto::Ip(Family::Any, TCP),
        "udp" => Proto::Ip(Family::Any, UDP),
        "sctp" => Proto::Ip(Family::Any, SCTP),
        "icmp" => Proto::Ip(Family::V4, 1),
        "igmp" => Proto::Ip(Family::V4, 2),
        "igrp" => Proto::Ip(Family::V4, 9),
        "vrrp" | "carp" => Proto::Ip(Family::V4, 112),
        "pim" => Proto::Ip(Family::Any, 103),
        "ah" => Proto::Ip(Family::Any, 51),
        "esp" => Proto::Ip(Family::Any, 50),
        "icmp6" => Proto::Ip(Family::V6, ICMP6),
        _ => return None,
    })
}

/// What `proto[…]` counts from.
pub(super) fn base(proto: Proto) -> Option<Base> {
    Some(match proto {
        Proto::Ether => Base::Link,
        Proto::Link(kind) if kind > 0x600 => Base::Network(kind),
        Proto::Ip(Family::V6, ICMP6) => Base::Icmp6,
        Proto::Ip(_, number) if !matches!(number, 50 | 51) => Base::Transport(number),
        _ => return None,
    })
}

/// Number after `ether proto`.
pub(super) fn ether_type(name: &str) -> Option<u32> {
    match (protocol(name)?, name) {
        (Proto::Link(kind), _) => Some(kind),
        _ => None,
    }
}

/// Number after `ip proto`, `ip6 proto` and `proto`.
pub(super) fn ip_protocol(name: &str) -> Option<u8> {
    Some(match name {
        "ipv6" => 41,
        "gre" => 47,
        "ipv6-icmp" => ICMP6,
        "ospf" => 89,
        "ipip" | "ipencap" => 4,
        "udplite" => 136,
        "dccp" => 33,
        _ => match protocol(name)? {
            Proto::Ip(_, number) => number,
            Proto::Ether | Proto::Link(_) => return None,
        },
    })
}

/// Numbers by name inside arithmetic.
pub(super) fn constant(name: &str) -> Option<Arith> {
    let value = match name {
        "tcpflags" => 13,
        "tcp-fin" => 0x01,
        "tcp-syn" => 0x02,
        "tcp-rst" => 0x04,
        "tcp-push" => 0x08,
        "tcp-ack" => 0x10,
        "tcp-urg" => 0x20,
        "tcp-ece" => 0x40,
        "tcp-cwr" => 0x80,
        "icmptype" | "icmp6type" => 0,
        "icmpcode" | "icmp6code" => 1,
        "icmp-echoreply" => 0,
        "icmp-unreach" => 3,
        "icmp-sourcequench" => 4,
        "icmp-redirect" => 5,
        "icmp-echo" => 8,
        "icmp-routeradvert" => 9,
        "icmp-routersolicit" => 10,
        "icmp-timxceed" => 11,
        "icmp-paramprob" => 12,
        "icmp-tstamp" => 13,
        "icmp-tstampreply" => 14,
        "icmp-ireq" => 15,
        "icmp-ireqreply" => 16,
        "icmp-maskreq" => 17,
        "icmp-maskreply" => 18,
        "icmp6-destinationrunreach" | "icmp6-destinationunreach" => 1,
        "icmp6-packettoobig" => 2,
        "icmp6-timeexceeded" => 3,
        "icmp6-parameterproblem" => 4,
        "icmp6-echo" => 128,
        "icmp6-echoreply" => 129,
        "icmp6-multicastlistenerquery" => 130,
        "icmp6-multicastlistenerreportv1" => 131,
        "icmp6-multicastlistenerdone" => 132,
        "icmp6-routersolicit" => 133,
        "icmp6-routeradvert" => 134,
        "icmp6-neighborsolicit" => 135,
        "icmp6-neighboradvert" => 136,
        "icmp6-redirect" => 137,
        "icmp6-routerrenum" => 138,
        "icmp6-nodeinformationquery" => 139,
        "icmp6-nodeinformationresponse" => 140,
        _ => return None,
    };
    Some(Arith::Const(value))
}

/// Port of a service and the protocol it is registered for; `None` inside: several (IANA service names).
pub(super) fn port(name: &str) -> Option<(u16, Option<u8>)> {
    let tcp = |port| (port, Some(TCP));
    let udp = |port| (port, Some(UDP));
    let both = |port| (port, None);
    Some(match name {
        "ftp-data" => tcp(20),
        "ftp" => tcp(21),
        "ssh" => tcp(22),
        "telnet" => tcp(23),
        "smtp" => tcp(25),
        "domain" => both(53),
        "bootps" => udp(67),
        "bootpc" => udp(68),
        "tftp" => udp(69),
        "http" | "www" => tcp(80),
        "kerberos" => both(88),
        "pop3" => tcp(110),
        "sunrpc" => both(111),
        "ntp" => udp(123),
        "imap2" | "imap" => tcp(143),
        "snmp" => both(161),
        "snmp-trap" => both(162),
        "bgp" => tcp(179),
        "ldap" => both(389),
        "https" => both(443),
        "microsoft-ds" => both(445),
        "isakmp" => udp(500),
        "syslog" => udp(514),
        "submission" => tcp(587),
        "ldaps" => both(636),
        "imaps" => tcp(993),
        "pop3s" => tcp(995),
        "ms-sql-s" => tcp(1433),
        "mysql" => tcp(3306),
        "postgresql" => tcp(5432),
        "amqp" => both(5672),
        "redis" => tcp(6379),
        "http-alt" => both(8080),
        _ => return None,
    })
}
