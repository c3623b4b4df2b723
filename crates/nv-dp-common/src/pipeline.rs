//! From packet to verdict. See the crate page for the steps.

use nv_types::{Direction, Mode, Reason, Verdict};

use crate::answer::ANSWER_ROOM;
use crate::app::Payload;
use crate::flow::{advance, follow, is_settled, stored};
use crate::guard::{
    claims_foreign, has_wrong_mac, is_bootstrap, is_own, is_related, join_fragment, speaks_for_network,
};
use crate::layout::{CounterCell, EndpointValue, FlowCell, FlowKeyValue, FragmentKey, LocalView, Switches};
use crate::naming::{Notes, look};
use crate::packet::{Packet, WINDOW};
use crate::parse::{Class, Headers, is_multicast, parse, parse_plain};
use crate::ruling::Ruling;
use crate::tables::Tables;

/// Reports of packets without a flow: at most one in this time per endpoint, direction and CPU. Counters count all.
const REPORT_GAP_NS: u64 = 100_000_000;

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

/// Working memory of one packet: too large for a kernel program's stack. What it holds before does not matter; all zero is fine.
#[derive(Debug)]
pub struct Scratch {
    pub(crate) headers: Headers,
    pub(crate) payload: Payload,
    pub(crate) flow: FlowCell,
    pub(crate) quoted: FlowKeyValue,
    pub(crate) fragment: FragmentKey,
    pub(crate) notes: Notes,
    pub(crate) answer: [u8; ANSWER_ROOM],
    /// When the count of answers began anew, and how many there were: the one thing that outlives a packet.
    pub(crate) answered_ns: u64,
    pub(crate) answered: u32,
}

impl Scratch {
    /// Fresh memory.
    #[must_use]
    pub fn new() -> Self {
        let headers = Headers::new(0);
        Self {
            headers,
            payload: Payload {
                bytes: [0; WINDOW],
                len: 0,
                from_client: false,
            },
            flow: FlowCell::default(),
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
            notes: Notes::default(),
            answer: [0; ANSWER_ROOM],
            answered_ns: 0,
            answered: 0,
        }
    }

    /// The answer that was written last, with room behind it.
    #[must_use]
    pub const fn answer(&self) -> &[u8; ANSWER_ROOM] {
        &self.answer
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// What is in force for this packet.
pub(crate) struct Scope<'a> {
    pub(crate) epoch: u32,
    pub(crate) slot: u32,
    pub(crate) switches: &'a Switches,
    pub(crate) endpoint: &'a EndpointValue,
    pub(crate) passage: Passage,
}

impl Scope<'_> {
    #[inline(always)]
    pub(crate) const fn view(&self) -> &LocalView {
        if self.slot == 0 {
            &self.endpoint.views[0]
        } else {
            &self.endpoint.views[1]
        }
    }

    /// What happens to a packet that policy cannot judge.
    #[inline(always)]
    pub(crate) fn unjudgeable(&self, reason: Reason) -> Ruling {
        let verdict = if self.is_closed() {
            Verdict::Deny
        } else {
            Verdict::Alert
        };
        Ruling::new(verdict, reason)
    }

    /// Whether only what is ruled may pass.
    #[inline(always)]
    pub(crate) fn is_closed(&self) -> bool {
        let view = self.view();
        if view.state == LocalView::UNKNOWN {
            self.switches.unknown == Verdict::Deny as u8
        } else {
            matches!(view.mode(), Some(Mode::Protect))
        }
    }

    #[inline(always)]
    pub(crate) const fn checks_addresses(&self) -> bool {
        self.endpoint.flags & EndpointValue::CHECK_ADDRESSES != 0
    }
}

const ALLOW_NOT_POLICED: Ruling = Ruling::new(Verdict::Allow, Reason::NotPoliced);

/// Judges a packet: the verdict is final, counters, flows and events are written.
///
/// A program that finds no tables or no entry for its interface lets packets pass: it is then not in anyone's care. A flow that is
/// settled has what it needs of its endpoint with it, until the epoch changes.
#[inline(always)]
pub fn run<P: Packet, T: Tables>(packet: &P, tables: &T, scratch: &mut Scratch, passage: Passage) -> Verdict {
    let epoch = tables.epoch();
    let leaves = matches!(passage.direction, Direction::Egress);
    let bytes = packet.len();
    scratch.headers = Headers::new(passage.ifindex);
    let plain = parse_plain(
        packet,
        passage.direction,
        &mut scratch.payload.bytes,
        &mut scratch.headers,
    );
    let class = match plain {
        Some(class) => class,
        None => parse(packet, passage.direction, &mut scratch.headers),
    };
    // Through memory: what follows is the same whatever way the parser took.
    let class = Class::from_u32(tables.opaque(class as u32));
    let found = match class {
        Class::Flow => tables.flow(&scratch.headers.key),
        _ => None,
    };
    // Nearly every packet: no table is read but that of the flows.
    if let Some(flow) = found
        && is_settled(flow, &scratch.headers, leaves, epoch)
        && let Some(counters) = tables.counters(u32::from(flow.index.get()), passage.direction)
    {
        let ruling = stored(flow);
        advance(tables, &scratch.headers, flow, leaves, bytes, passage.now_ns);
        count(counters, bytes, ruling);
        return ruling.outcome();
    }
    scratch.notes = Notes::default();
    if matches!(class, Class::Flow) && scratch.headers.payload_len > 0 {
        look(packet, tables, scratch, found, passage.direction);
    }
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
    let ruling =
        judge(packet, tables, &scope, scratch, class, found, bytes).opaque(|word| tables.opaque(word));
    count(counters, bytes, ruling);
    if ruling.is_reported() {
        report(tables, &scope, counters, ruling);
    }
    ruling.outcome()
}

#[inline(always)]
fn count(counters: &CounterCell, bytes: u32, ruling: Ruling) {
    counters.packets.set(counters.packets.get() + 1);
    counters.bytes.set(counters.bytes.get() + u64::from(bytes));
    if ruling.has_begun() {
        counters.flows.set(counters.flows.get() + 1);
    }
    if let Some(verdict) = counters.by_verdict.get(ruling.verdict() as usize) {
        verdict.set(verdict.get() + 1);
    }
    let ordinary = ruling.reason() <= Reason::Default as u8;
    if (!ordinary || ruling.verdict() != Verdict::Allow as u8)
        && let Some(reason) = counters.by_reason.get(ruling.reason() as usize)
    {
        reason.set(reason.get() + 1);
    }
}

const _: () = assert!(Reason::Rule as u8 == 0 && Reason::Default as u8 == 1);

/// Reports a packet that belongs to no flow, not more often than [`REPORT_GAP_NS`].
#[inline(always)]
fn report<T: Tables>(tables: &T, scope: &Scope<'_>, counters: &CounterCell, ruling: Ruling) {
    let Passage {
        ifindex,
        direction,
        now_ns,
    } = scope.passage;
    let last = counters.reported_ns.get();
    if last == 0 || now_ns.wrapping_sub(last) >= REPORT_GAP_NS {
        counters.reported_ns.set(now_ns);
        tables.packet_event(ifindex, direction, ruling.verdict(), ruling.reason(), now_ns);
    }
}

#[inline(always)]
fn judge<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    scope: &Scope<'_>,
    scratch: &mut Scratch,
    class: Class,
    found: Option<&FlowCell>,
    bytes: u32,
) -> Ruling {
    let leaves = matches!(scope.passage.direction, Direction::Egress);
    if scope.endpoint.flags & EndpointValue::QUARANTINED != 0
        && !matches!(class, Class::Arp | Class::Neighbour)
    {
        return Ruling::new(Verdict::Deny, Reason::Quarantined).reported();
    }
    let odd = match class {
        Class::Malformed => Some(Reason::Malformed),
        _ if leaves && has_wrong_mac(scope, &scratch.headers) => Some(Reason::Spoofed),
        Class::Arp | Class::Neighbour => claims_foreign(packet, tables, scope, class, &scratch.headers),
        Class::LaterFragment => join_fragment(tables, scope, scratch),
        _ if leaves && speaks_for_network(class, &scratch.headers, found) => Some(Reason::Spoofed),
        // Of the bridge's making, not a workload's: none of it crosses a closed endpoint.
        Class::LinkControl if scope.is_closed() => Some(Reason::NotPoliced),
        Class::Flow | Class::IcmpError | Class::LinkControl => None,
    };
    if let Some(reason) = odd {
        return scope.unjudgeable(reason).reported();
    }
    if matches!(class, Class::Arp | Class::Neighbour | Class::LinkControl) {
        return ALLOW_NOT_POLICED;
    }
    let target = if leaves {
        &scratch.headers.key.peer
    } else {
        &scratch.headers.key.local
    };
    if is_multicast(target) {
        if leaves && !is_own(tables, scope, &scratch.headers.key.local, true) {
            return scope.unjudgeable(Reason::Spoofed).reported();
        }
        if is_bootstrap(&scratch.headers) {
            return ALLOW_NOT_POLICED;
        }
    }
    if matches!(class, Class::IcmpError) && is_related(packet, tables, scope, scratch) {
        return Ruling::new(Verdict::Allow, Reason::Related);
    }
    let found = match class {
        Class::Flow => found,
        _ => tables.flow(&scratch.headers.key), // the key is complete only now
    };
    follow(tables, scope, scratch, found, bytes)
}
