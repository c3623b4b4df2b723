//! From packet to verdict. See the crate page for the steps.

use nv_types::{Application, ChainStep, Decision, Direction, IpProto, Mode, Reason, Verdict, decide::walk};

use crate::app::{Payload, identify};
use crate::layout::{
    APP_PENDING, AddressValue, CounterCell, EndpointValue, FlowCell, FlowData, FlowKeyValue, FragmentKey,
    FragmentValue, LocalView, OwnKey, PAYLOAD_BUDGET, PairKey, Switches,
};
use crate::packet::{Packet, WINDOW};
use crate::parse::{
    ACK, Class, FIN, Headers, RST, SYN, is_link_local_v6, is_multicast, is_unspecified, parse, quoted,
};
use crate::tables::Tables;

/// First port of the range that clients take by default on Linux (`ip_local_port_range`).
const EPHEMERAL: u16 = 32_768;
/// Reports of packets without a flow: at most one in this time per endpoint, direction and CPU. Counters count all.
const REPORT_GAP_NS: u64 = 100_000_000;
/// How long the rest of a datagram may take (RFC 8200, 4.5).
const FRAGMENT_LIFE_NS: u64 = 60_000_000_000;

const FLOW_NEW: u8 = 0;
const FLOW_CHANGED: u8 = 1;
const FLOW_ENDED: u8 = 2;

/// Where and when a packet passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passage {
    /// Endpoint.
    pub ifindex: u32,
    /// Ingress: towards the workload.
    pub direction: Direction,
    /// Nanoseconds on the monotonic clock.
    pub now_ns: u64,
}

/// Working memory of one packet: too large for a kernel program's stack. What it holds before does not matter.
#[derive(Debug)]
pub struct Scratch {
    headers: Headers,
    payload: Payload,
    flow: FlowData,
    quoted: FlowKeyValue,
    fragment: FragmentKey,
}

impl Scratch {
    /// Fresh memory.
    #[must_use]
    pub const fn new() -> Self {
        let headers = Headers::new(0);
        Self {
            headers,
            payload: Payload {
                bytes: [0; WINDOW],
                len: 0,
                from_client: false,
            },
            flow: FlowData::ZERO,
            quoted: headers.key,
            fragment: FragmentKey {
                local: [0; 16],
                peer: [0; 16],
                ifindex: 0,
                id: 0,
                proto: 0,
                direction: 0,
                pad: [0; 2],
            },
        }
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// Outcome of one packet.
#[derive(Clone, Copy)]
struct Outcome {
    decision: Decision,
    /// It belongs to no flow and is to be reported.
    report: bool,
    /// It began a flow.
    began: bool,
}

impl Outcome {
    #[inline(always)]
    const fn plain(decision: Decision) -> Self {
        Self {
            decision,
            report: false,
            began: false,
        }
    }

    #[inline(always)]
    const fn odd(decision: Decision) -> Self {
        Self {
            decision,
            report: true,
            began: false,
        }
    }
}

/// What is in force for this packet.
struct Scope<'a> {
    epoch: u32,
    slot: u32,
    switches: &'a Switches,
    endpoint: &'a EndpointValue,
    passage: Passage,
}

impl Scope<'_> {
    #[inline(always)]
    const fn view(&self) -> &LocalView {
        if self.slot == 0 {
            &self.endpoint.views[0]
        } else {
            &self.endpoint.views[1]
        }
    }

    /// What happens to a packet that policy cannot judge.
    #[inline(always)]
    fn unjudgeable(&self, reason: Reason) -> Decision {
        let view = self.view();
        let closed = if view.state == LocalView::UNKNOWN {
            self.switches.unknown == Verdict::Deny as u8
        } else {
            matches!(view.mode(), Some(Mode::Protect))
        };
        Decision::implicit(if closed { Verdict::Deny } else { Verdict::Alert }, reason)
    }

    #[inline(always)]
    const fn checks_addresses(&self) -> bool {
        self.endpoint.flags & EndpointValue::CHECK_ADDRESSES != 0
    }
}

const ALLOW_NOT_POLICED: Decision = Decision::implicit(Verdict::Allow, Reason::NotPoliced);

/// Judges a packet: the verdict is final, counters, flows and events are written.
///
/// A program that finds no tables or no entry for its interface lets packets pass: it is then not in anyone's care.
#[inline(always)]
pub fn run<P: Packet, T: Tables>(packet: &P, tables: &T, scratch: &mut Scratch, passage: Passage) -> Verdict {
    let epoch = tables.epoch();
    let slot = epoch & 1;
    let (Some(switches), Some(endpoint)) = (tables.switches(slot), tables.endpoint(passage.ifindex)) else {
        return Verdict::Allow;
    };
    let scope = Scope {
        epoch,
        slot,
        switches,
        endpoint,
        passage,
    };
    let Some(counters) = tables.counters(endpoint.index, passage.direction) else {
        return Verdict::Allow;
    };
    let bytes = packet.len();
    let outcome = judge(packet, tables, &scope, scratch, bytes);
    count(counters, bytes, &outcome);
    if outcome.report {
        report(tables, &scope, counters, outcome.decision);
    }
    outcome.decision.verdict
}

#[inline(always)]
fn count(counters: &CounterCell, bytes: u32, outcome: &Outcome) {
    let decision = outcome.decision;
    counters.packets.set(counters.packets.get() + 1);
    counters.bytes.set(counters.bytes.get() + u64::from(bytes));
    if outcome.began {
        counters.flows.set(counters.flows.get() + 1);
    }
    let verdict = match decision.verdict {
        Verdict::Allow => &counters.by_verdict[0],
        Verdict::Alert => &counters.by_verdict[1],
        Verdict::Deny => &counters.by_verdict[2],
    };
    verdict.set(verdict.get() + 1);
    let ordinary = matches!(decision.reason, Reason::Rule | Reason::Default);
    if (!ordinary || decision.verdict as u8 != Verdict::Allow as u8)
        && let Some(reason) = counters.by_reason.get(decision.reason as usize)
    {
        reason.set(reason.get() + 1);
    }
}

/// Reports a packet that belongs to no flow, not more often than [`REPORT_GAP_NS`].
#[inline(always)]
fn report<T: Tables>(tables: &T, scope: &Scope<'_>, counters: &CounterCell, decision: Decision) {
    let now = scope.passage.now_ns;
    let last = counters.reported_ns.get();
    if last == 0 || now.wrapping_sub(last) >= REPORT_GAP_NS {
        counters.reported_ns.set(now);
        tables.packet_event(scope.passage.ifindex, scope.passage.direction, decision, now);
    }
}

#[inline(always)]
fn judge<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    scope: &Scope<'_>,
    scratch: &mut Scratch,
    bytes: u32,
) -> Outcome {
    let direction = scope.passage.direction;
    let leaves = matches!(direction, Direction::Egress);
    scratch.headers = Headers::new(scope.passage.ifindex);
    let class = parse(packet, direction, &mut scratch.headers);
    let odd = match class {
        Class::Malformed => Some(Reason::Malformed),
        _ if leaves && has_wrong_mac(scope, &scratch.headers) => Some(Reason::Spoofed),
        Class::Arp | Class::Neighbour => claims_foreign(packet, tables, scope, class, &scratch.headers),
        Class::LaterFragment => join_fragment(tables, scope, scratch),
        Class::Flow | Class::IcmpError | Class::LinkControl => None,
    };
    if let Some(reason) = odd {
        return Outcome::odd(scope.unjudgeable(reason));
    }
    if matches!(class, Class::Arp | Class::Neighbour | Class::LinkControl) {
        return Outcome::plain(ALLOW_NOT_POLICED);
    }
    let target = if leaves {
        &scratch.headers.key.peer
    } else {
        &scratch.headers.key.local
    };
    if is_multicast(target) {
        return if leaves && !is_own(tables, scope, &scratch.headers.key.local, true) {
            Outcome::odd(scope.unjudgeable(Reason::Spoofed))
        } else {
            Outcome::plain(ALLOW_NOT_POLICED)
        };
    }
    if matches!(class, Class::IcmpError)
        && (!leaves || is_own(tables, scope, &scratch.headers.key.local, false))
        && let Some(decision) = related(packet, tables, scope, scratch)
    {
        return Outcome::plain(decision);
    }
    follow(packet, tables, scope, scratch, bytes)
}

#[inline(always)]
fn has_wrong_mac(scope: &Scope<'_>, headers: &Headers) -> bool {
    scope.endpoint.flags & EndpointValue::CHECK_MAC != 0 && headers.source_mac != scope.endpoint.mac
}

/// Whether the workload may send from this address.
#[inline(always)]
fn is_own<T: Tables>(tables: &T, scope: &Scope<'_>, addr: &[u8; 16], to_multicast: bool) -> bool {
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
#[inline(always)]
fn claims_foreign<P: Packet, T: Tables>(
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

/// Gives a later fragment the ports of its first one.
#[inline(always)]
fn join_fragment<T: Tables>(tables: &T, scope: &Scope<'_>, scratch: &mut Scratch) -> Option<Reason> {
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

/// An ICMP error shares the fate of the flow that it quotes; `None` if it quotes none that is alive.
#[inline(always)]
fn related<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    scope: &Scope<'_>,
    scratch: &mut Scratch,
) -> Option<Decision> {
    if !quoted(
        packet,
        scope.passage.direction,
        &scratch.headers,
        &mut scratch.quoted,
    ) {
        return None;
    }
    let flow = tables.flow(&scratch.quoted)?;
    let denied = flow.verdict.get() == Verdict::Deny as u8 || flow.epoch.get() != scope.epoch;
    if denied {
        None
    } else {
        Some(Decision::implicit(Verdict::Allow, Reason::Related))
    }
}

/// The side that opened the flow that this packet begins, or picks up.
#[inline(always)]
const fn opener(direction: Direction, headers: &Headers) -> Direction {
    let sender_is_server = if headers.key.proto != IpProto::TCP.0 {
        false
    } else if headers.tcp_flags & SYN != 0 {
        headers.tcp_flags & ACK != 0
    } else {
        let (sender, receiver) = match direction {
            Direction::Egress => (headers.key.local_port, headers.key.peer_port),
            Direction::Ingress => (headers.key.peer_port, headers.key.local_port),
        };
        sender < EPHEMERAL && receiver >= EPHEMERAL
    };
    match (direction, sender_is_server) {
        (Direction::Egress, false) | (Direction::Ingress, true) => Direction::Egress,
        (Direction::Egress, true) | (Direction::Ingress, false) => Direction::Ingress,
    }
}

/// A bare SYN on a flow that has already been answered begins a new connection on old ports: it must not inherit
/// the verdict, nor the application, of the one before.
#[inline(always)]
fn is_reopened(flow: &FlowCell, headers: &Headers) -> bool {
    headers.key.proto == IpProto::TCP.0
        && headers.tcp_flags & (SYN | ACK) == SYN
        && (flow.tx_flags.get() | flow.rx_flags.get()) & (ACK | FIN | RST) != 0
}

/// What the pipeline makes of a flow with this packet.
#[derive(Clone, Copy)]
struct Judgement {
    decision: Decision,
    held: bool,
}

/// Connection, application, policy.
#[inline(always)]
fn follow<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    scope: &Scope<'_>,
    scratch: &mut Scratch,
    bytes: u32,
) -> Outcome {
    let leaves = matches!(scope.passage.direction, Direction::Egress);
    if scratch.headers.is_first_fragment() {
        remember_fragment(tables, scope, scratch);
    }
    let Scratch {
        headers,
        payload,
        flow: data,
        ..
    } = scratch;
    let known = match tables.flow(&headers.key) {
        Some(flow) if !is_reopened(flow, headers) => Some(flow),
        _ => None,
    };
    let own = match known {
        Some(flow) if flow.epoch.get() == scope.epoch => flow.flags.get() & FlowData::OWN != 0,
        _ => is_own(tables, scope, &headers.key.local, false),
    };
    if leaves && !own {
        return Outcome::odd(scope.unjudgeable(Reason::Spoofed));
    }
    let opened = match known {
        Some(flow) => crate::layout::direction_of(flow.direction.get()),
        None => opener(scope.passage.direction, headers),
    };
    let mut app = known.map_or(APP_PENDING, |flow| flow.app.get());
    let mut tries = match known {
        Some(flow) if leaves => flow.tx_payloads.get(),
        Some(flow) => flow.rx_payloads.get(),
        None => 0,
    };
    let asked = app == APP_PENDING && headers.payload_len > 0;
    if asked {
        let from_client = matches!(
            (opened, leaves),
            (Direction::Egress, true) | (Direction::Ingress, false)
        );
        (app, tries) = classify(packet, headers, payload, from_client, tries);
    }
    let learned = asked && app != APP_PENDING;
    let current = match known {
        Some(flow) if flow.epoch.get() == scope.epoch => {
            let pending = flow.reason.get() == Reason::Pending as u8;
            if learned && pending { None } else { stored(flow) }
        }
        _ => None,
    };
    let mut judgement = match current {
        Some(judgement) => judgement,
        None => decide(tables, scope, &headers.key, opened, app),
    };
    if matches!(judgement.decision.reason, Reason::Pending) {
        // Payload that nobody could name yet must not pass if an unknown application may not.
        let hold = judgement.held && headers.payload_len > 0;
        judgement.decision.verdict = if hold { Verdict::Deny } else { Verdict::Allow };
    }
    let update = Update {
        judgement,
        opened,
        app,
        tries,
        own,
        asked,
        learned,
    };
    match known {
        Some(flow) => {
            if let Some(state) = write_back(tables, scope, headers, bytes, flow, &update) {
                *data = flow.snapshot();
                tables.flow_event(state, &headers.key, data, scope.passage.now_ns);
            }
            Outcome::plain(judgement.decision)
        }
        None => begin(tables, scope, headers, data, bytes, &update),
    }
}

/// What is to be written of a flow.
struct Update {
    judgement: Judgement,
    opened: Direction,
    app: u8,
    tries: u8,
    own: bool,
    asked: bool,
    learned: bool,
}

#[inline(always)]
fn remember_fragment<T: Tables>(tables: &T, scope: &Scope<'_>, scratch: &mut Scratch) {
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

/// Application after this payload, and how many payloads of its side remain unidentified.
#[inline(always)]
fn classify<P: Packet>(
    packet: &P,
    headers: &Headers,
    payload: &mut Payload,
    from_client: bool,
    tries: u8,
) -> (u8, u8) {
    *payload = Payload {
        bytes: [0; WINDOW],
        len: headers.payload_len,
        from_client,
    };
    // A later fragment starts in the middle of a message: nothing to recognize.
    if headers.fragment_offset == 0
        && packet.window(headers.payload, headers.payload_len, &mut payload.bytes)
        && let Some(app) = identify(IpProto(headers.key.proto), payload, packet, headers.payload)
    {
        return (app.index(), tries);
    }
    let tries = tries + 1;
    if tries >= PAYLOAD_BUDGET {
        (Application::UNKNOWN.index(), tries)
    } else {
        (APP_PENDING, tries)
    }
}

/// The judgement that a flow carries.
#[inline(always)]
fn stored(flow: &FlowCell) -> Option<Judgement> {
    let decision = Decision {
        verdict: Verdict::from_u8(flow.verdict.get())?,
        reason: Reason::from_u8(flow.reason.get())?,
        rule: nv_types::RuleId(flow.rule.get()),
    };
    Some(Judgement {
        decision,
        held: flow.flags.get() & FlowData::HELD != 0,
    })
}

#[inline(always)]
const fn final_(verdict: Verdict, reason: Reason) -> Judgement {
    Judgement {
        decision: Decision::implicit(verdict, reason),
        held: false,
    }
}

/// Policy: what is decided for this flow, as far as its application is known.
#[inline(always)]
fn decide<T: Tables>(
    tables: &T,
    scope: &Scope<'_>,
    key: &FlowKeyValue,
    opened: Direction,
    app: u8,
) -> Judgement {
    let same = key.local == key.peer
        || (scope.checks_addresses()
            && tables.is_own(&OwnKey {
                addr: key.peer,
                ifindex: key.ifindex,
            }));
    if same {
        return final_(Verdict::Allow, Reason::SameWorkload);
    }
    let proto = IpProto(key.proto).for_policy().0;
    let server_port = match (IpProto(key.proto).has_ports(), opened) {
        (false, _) => 0,
        (true, Direction::Egress) => key.peer_port,
        (true, Direction::Ingress) => key.local_port,
    };
    let peer = tables.address(scope.slot, &key.peer).unwrap_or(AddressValue {
        identity: 0,
        flags: 0,
    });
    let towards_node = peer.flags & AddressValue::NODE != 0 && matches!(opened, Direction::Egress);
    if towards_node && scope.switches.is_failsafe(proto, server_port) {
        return final_(Verdict::Allow, Reason::Failsafe);
    }
    let view = scope.view();
    if view.state == LocalView::UNKNOWN {
        let verdict = Verdict::from_u8(scope.switches.unknown).unwrap_or(Verdict::Deny);
        return final_(verdict, Reason::UnknownEndpoint);
    }
    if view.state == LocalView::NO_POLICY {
        return final_(Verdict::Allow, Reason::NoPolicy);
    }
    let mut pair = PairKey {
        local: view.identity,
        peer: peer.identity,
        slot: u8::from(scope.slot != 0),
        direction: opened as u8,
        pad: [0; 2],
    };
    let mut table = tables.pair(&pair);
    if table.is_none() {
        pair.peer = 0;
        table = tables.pair(&pair);
    }
    let judgement = table
        .and_then(|table| tables.port(table, proto, server_port))
        .and_then(|decision| tables.chain(decision))
        .and_then(|chain| step(chain, app));
    match judgement {
        Some(judgement) => judgement,
        None => Judgement {
            decision: scope.unjudgeable(Reason::Malformed),
            held: false,
        },
    }
}

/// Walks a chain; `None` if it is broken.
#[inline(always)]
fn step(chain: &crate::layout::ChainValue, app: u8) -> Option<Judgement> {
    match walk(chain.entries(), Application::from_index(app)) {
        ChainStep::Decided(decision) => Some(Judgement {
            decision,
            held: false,
        }),
        ChainStep::Broken => None,
        ChainStep::Pending => match walk(chain.entries(), Some(Application::UNKNOWN)) {
            ChainStep::Decided(unknown) => Some(Judgement {
                decision: Decision::implicit(Verdict::Allow, Reason::Pending),
                held: matches!(unknown.verdict, Verdict::Deny),
            }),
            ChainStep::Pending | ChainStep::Broken => None,
        },
    }
}

/// First packet of a flow.
#[inline(always)]
fn begin<T: Tables>(
    tables: &T,
    scope: &Scope<'_>,
    headers: &Headers,
    flow: &mut FlowData,
    bytes: u32,
    update: &Update,
) -> Outcome {
    let Update {
        judgement,
        opened,
        app,
        tries,
        own,
        ..
    } = *update;
    let leaves = matches!(scope.passage.direction, Direction::Egress);
    let decision = judgement.decision;
    let now = scope.passage.now_ns;
    let ended = headers.tcp_flags & RST != 0;
    *flow = FlowData {
        tx_packets: u64::from(leaves),
        tx_bytes: if leaves { u64::from(bytes) } else { 0 },
        rx_packets: u64::from(!leaves),
        rx_bytes: if leaves { 0 } else { u64::from(bytes) },
        first_ns: now,
        last_ns: now,
        epoch: scope.epoch,
        rule: decision.rule.0,
        verdict: decision.verdict as u8,
        reason: decision.reason as u8,
        direction: opened as u8,
        app,
        tx_payloads: if leaves { tries } else { 0 },
        rx_payloads: if leaves { 0 } else { tries },
        tx_flags: if leaves { headers.tcp_flags } else { 0 },
        rx_flags: if leaves { 0 } else { headers.tcp_flags },
        flags: flags(judgement.held, own, ended),
        pad: [0; 7],
    };
    if !tables.insert_flow(&headers.key, flow) {
        let closed = matches!(decision.verdict, Verdict::Deny);
        return Outcome::odd(if closed {
            decision
        } else {
            scope.unjudgeable(Reason::TableFull)
        });
    }
    tables.flow_event(FLOW_NEW, &headers.key, flow, now);
    Outcome {
        decision,
        report: false,
        began: true,
    }
}

#[inline(always)]
const fn flags(held: bool, own: bool, ended: bool) -> u8 {
    (if held { FlowData::HELD } else { 0 })
        | (if own { FlowData::OWN } else { 0 })
        | (if ended { FlowData::ENDED } else { 0 })
}

/// A further packet of a flow; gives the state to report if something changed.
#[inline(always)]
fn write_back<T: Tables>(
    tables: &T,
    scope: &Scope<'_>,
    headers: &Headers,
    bytes: u32,
    flow: &FlowCell,
    update: &Update,
) -> Option<u8> {
    let decision = update.judgement.decision;
    let (packets, octets, seen, payloads) = match scope.passage.direction {
        Direction::Egress => (
            &flow.tx_packets,
            &flow.tx_bytes,
            &flow.tx_flags,
            &flow.tx_payloads,
        ),
        Direction::Ingress => (
            &flow.rx_packets,
            &flow.rx_bytes,
            &flow.rx_flags,
            &flow.rx_payloads,
        ),
    };
    tables.add(packets, 1);
    tables.add(octets, u64::from(bytes));
    flow.last_ns.set(scope.passage.now_ns);
    if seen.get() | headers.tcp_flags != seen.get() {
        seen.set(seen.get() | headers.tcp_flags);
    }
    let was_ended = flow.flags.get() & FlowData::ENDED != 0;
    let ended =
        was_ended || headers.tcp_flags & RST != 0 || flow.tx_flags.get() & flow.rx_flags.get() & FIN != 0;
    let judged = flow.verdict.get() != decision.verdict as u8
        || flow.reason.get() != decision.reason as u8
        || flow.rule.get() != decision.rule.0;
    if update.asked {
        payloads.set(update.tries);
        flow.app.set(update.app);
    }
    if judged || ended != was_ended || flow.epoch.get() != scope.epoch || update.learned {
        flow.verdict.set(decision.verdict as u8);
        flow.reason.set(decision.reason as u8);
        flow.rule.set(decision.rule.0);
        flow.flags.set(flags(update.judgement.held, update.own, ended));
        flow.epoch.set(scope.epoch);
    }
    if ended && !was_ended {
        Some(FLOW_ENDED)
    } else if judged || update.learned {
        Some(FLOW_CHANGED)
    } else {
        None
    }
}
