//! Guards before policy: own addresses, fragments, ICMP errors.

use nv_types::{Direction, IpProto, Reason, Verdict};

use crate::layout::{EndpointValue, FlowCell, FragmentKey, FragmentValue, OwnKey};
use crate::packet::Packet;
use crate::parse::{Class, Headers, is_link_local_v6, is_unspecified, quoted};
use crate::pipeline::{Scope, Scratch};
use crate::tables::Tables;

/// How long the rest of a datagram may take (RFC 8200, 4.5).
const FRAGMENT_LIFE_NS: u64 = 60_000_000_000;

/// Whether a packet of the workload has another's Ethernet address.
#[inline(always)]
pub(crate) fn has_wrong_mac(scope: &Scope<'_>, headers: &Headers) -> bool {
    scope.endpoint.flags & EndpointValue::CHECK_MAC != 0 && headers.source_mac != scope.endpoint.mac
}

/// Whether the workload may send from this address.
#[inline(always)]
pub(crate) fn is_own<T: Tables>(tables: &T, scope: &Scope<'_>, addr: &[u8; 16], to_multicast: bool) -> bool {
    if !scope.checks_addresses() {
        return true;
    }
    // Before it has an address a host asks by DHCP from 0.0.0.0, and probes by neighbour discovery from `::`.
    if (to_multicast && is_unspecified(addr)) || is_link_local_v6(addr) {
        return true;
    }
    tables.is_own(&OwnKey {
        addr: *addr,
        ifindex: scope.passage.ifindex,
    })
}

const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// ARP (RFC 826) and neighbour discovery (RFC 4861) of a workload speak for its own addresses only; a workload is
/// no router.
#[inline(never)] // a frame of its own on the kernel's small stack
pub(crate) fn claims_foreign<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    scope: &Scope<'_>,
    class: Class,
    headers: &Headers,
) -> Option<Reason> {
    if !matches!(scope.passage.direction, Direction::Egress) {
        return None;
    }
    let claimed = if matches!(class, Class::Arp) {
        let Some(arp) = packet.load::<28>(headers.l4) else {
            return Some(Reason::Malformed);
        };
        // Ethernet and IPv4 addresses of six and four bytes: nothing else is asked for where IP is spoken over Ethernet.
        if arp[..6] != [0, 1, 8, 0, 6, 4] {
            return Some(Reason::Malformed);
        }
        if scope.endpoint.flags & EndpointValue::CHECK_MAC != 0 && arp[8..14] != scope.endpoint.mac {
            return Some(Reason::Spoofed);
        }
        let mut addr = [0; 16];
        addr[10] = 0xff;
        addr[11] = 0xff;
        addr[12..].copy_from_slice(&arp[14..18]);
        addr
    } else {
        match headers.icmp_type {
            ROUTER_ADVERTISEMENT | REDIRECT => return Some(Reason::Spoofed),
            NEIGHBOUR_ADVERTISEMENT => {
                let Some(target) = packet.load::<16>(headers.l4 + 8) else {
                    return Some(Reason::Malformed);
                };
                target
            }
            _ => headers.key.local,
        }
    };
    if is_own(tables, scope, &claimed, true) {
        None
    } else {
        Some(Reason::Spoofed)
    }
}

/// DHCP (RFC 2131, 8415): the ports of the server and the client, by family.
const DHCP: [(u16, u16); 2] = [(67, 68), (547, 546)];

/// Whether a workload's packet configures others: an ICMP redirect (RFC 792), or a DHCP server's answer to one who did not ask it by a
/// flow that was let in. (Router advertisements and redirects of IPv6 are neighbour discovery.)
#[inline(always)]
pub(crate) fn speaks_for_network(class: Class, headers: &Headers, found: Option<&FlowCell>) -> bool {
    let key = &headers.key;
    match class {
        Class::IcmpError => key.proto == IpProto::ICMP.0 && headers.icmp_type == 5,
        Class::Flow => {
            key.proto == IpProto::UDP.0
                && (key.local_port == DHCP[0].0 && key.peer_port == DHCP[0].1
                    || key.local_port == DHCP[1].0 && key.peer_port == DHCP[1].1)
                && found.is_none_or(|flow| flow.verdict.get() == Verdict::Deny as u8)
        }
        _ => false,
    }
}

/// What a host sends to many, and is answered, before it can speak to one: DHCP (the client's part), and multicast listener reports
/// (RFC 2710, 3810), without which a switch that listens (RFC 4541) would keep neighbour discovery from it.
#[inline(always)]
pub(crate) fn is_bootstrap(headers: &Headers) -> bool {
    let key = &headers.key;
    if key.proto == IpProto::UDP.0 {
        key.peer_port == DHCP[0].0 && key.local_port == DHCP[0].1
            || key.peer_port == DHCP[1].0 && key.local_port == DHCP[1].1
    } else {
        key.proto == IpProto::ICMPV6.0 && matches!(headers.icmp_type, 130..=132 | 143)
    }
}

/// Gives a later fragment the ports of its first one.
#[inline(always)]
pub(crate) fn join_fragment<T: Tables>(
    tables: &T,
    scope: &Scope<'_>,
    scratch: &mut Scratch,
) -> Option<Reason> {
    set_fragment_key(scope, scratch);
    let Some(first) = tables.fragment(&scratch.fragment) else {
        return Some(Reason::Fragment);
    };
    if scope.passage.now_ns.wrapping_sub(first.seen_ns) > FRAGMENT_LIFE_NS {
        return Some(Reason::Fragment);
    }
    if scratch.headers.fragment_offset < first.end {
        return Some(Reason::Malformed); // overlaps the headers that were judged
    }
    scratch.headers.key.local_port = first.local_port;
    scratch.headers.key.peer_port = first.peer_port;
    None
}

#[inline(always)]
const fn set_fragment_key(scope: &Scope<'_>, scratch: &mut Scratch) {
    let headers = &scratch.headers;
    scratch.fragment = FragmentKey {
        local: headers.key.local,
        peer: headers.key.peer,
        ifindex: headers.key.ifindex,
        id: headers.fragment_id,
        proto: headers.key.proto,
        direction: scope.passage.direction as u8,
        pad: [0; 2],
    };
}

/// An ICMP error shares the fate of the flow that it quotes; one that quotes none that is alive and allowed is judged by policy.
#[inline(never)] // a frame of its own on the kernel's small stack
pub(crate) fn is_related<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    scope: &Scope<'_>,
    scratch: &mut Scratch,
) -> bool {
    let direction = scope.passage.direction;
    if matches!(direction, Direction::Egress) && !is_own(tables, scope, &scratch.headers.key.local, false) {
        return false;
    }
    if !quoted(packet, direction, &scratch.headers, &mut scratch.quoted) {
        return false;
    }
    match tables.flow(&scratch.quoted) {
        Some(flow) => flow.verdict.get() != Verdict::Deny as u8 && flow.epoch.get() == scope.epoch,
        None => false,
    }
}

/// Remembers the ports of a first fragment for the later ones.
#[inline(always)]
pub(crate) fn remember_fragment<T: Tables>(tables: &T, scope: &Scope<'_>, scratch: &mut Scratch) {
    set_fragment_key(scope, scratch);
    let headers = &scratch.headers;
    let value = FragmentValue {
        seen_ns: scope.passage.now_ns,
        local_port: headers.key.local_port,
        peer_port: headers.key.peer_port,
        end: headers.fragment_len,
    };
    tables.insert_fragment(&scratch.fragment, &value);
}
