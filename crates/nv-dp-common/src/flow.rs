//! Connections: what a packet finds of its flow, what it makes of it, what it leaves.

use nv_types::{Direction, IpProto, Reason, Verdict};

use crate::guard::{is_own, remember_fragment};
use crate::layout::{APP_PENDING, EndpointValue, FlowCell, SideCell, direction_of, is_pending};
use crate::naming::Notes;
use crate::parse::{ACK, FIN, Headers, RST, SYN};
use crate::pipeline::{Scope, Scratch};
use crate::policy::decide;
use crate::recall::recall;
use crate::ruling::Ruling;
use crate::tables::Tables;

/// First port of the range that clients take by default on Linux (`ip_local_port_range`).
const EPHEMERAL: u16 = 32_768;

const FLOW_NEW: u8 = 0;
const FLOW_CHANGED: u8 = 1;
const FLOW_ENDED: u8 = 2;

/// The side that opened the flow that this packet begins, or picks up.
#[inline(always)]
pub(crate) const fn opener(direction: Direction, headers: &Headers) -> Direction {
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
pub(crate) fn is_reopened(flow: &FlowCell, headers: &Headers) -> bool {
    headers.key.proto == IpProto::TCP.0
        && headers.tcp_flags & (SYN | ACK) == SYN
        && (flow.tx.tcp_flags.get() | flow.rx.tcp_flags.get()) & (ACK | FIN | RST) != 0
}

/// Whether the flow alone says what becomes of this packet: it was judged under the policy in force, its application is known
/// or not asked for, and the packet does not begin it anew.
#[inline(always)]
pub(crate) fn is_settled(flow: &FlowCell, headers: &Headers, leaves: bool, epoch: u32) -> bool {
    flow.epoch.get() == epoch
        && flow.flags.get() & FlowCell::OWN != 0
        && flow.reason.get() != Reason::Pending as u8
        && (headers.payload_len == 0 || !is_pending(flow.app.get()))
        && !headers.more_fragments
        && !(leaves
            && flow.guards.get() & EndpointValue::CHECK_MAC != 0
            && headers.source_mac != flow.mac.get())
        && !is_reopened(flow, headers)
}

/// A packet of a flow whose ruling stands: counts it, and notes what it opens and ends.
#[inline(always)]
pub(crate) fn advance<T: Tables>(
    tables: &T,
    headers: &Headers,
    flow: &FlowCell,
    leaves: bool,
    bytes: u32,
    now_ns: u64,
) {
    touch(tables, flow.side(leaves), headers, bytes, now_ns);
    let before = flow.flags.get();
    if headers.tcp_flags & (SYN | FIN | RST) == 0 && before & FlowCell::ENDING == 0 {
        return; // nearly every packet
    }
    let after = before | news(flow, headers, leaves);
    if after != before {
        flow.flags.set(after);
    }
    if after & !before & FlowCell::ENDED != 0 {
        tables.flow_event(FLOW_ENDED, &headers.key, flow, now_ns);
    }
    forget_if_over(tables, headers, flow, leaves);
}

/// What this packet, which was counted already, adds to the flow's flags.
#[inline(always)]
fn news(flow: &FlowCell, headers: &Headers, leaves: bool) -> u8 {
    let over = headers.tcp_flags & RST != 0 || flow.tx.tcp_flags.get() & flow.rx.tcp_flags.get() & FIN != 0;
    let ended = if over { FlowCell::ENDED } else { 0 };
    closes(flow, headers, leaves) | ending(headers.tcp_flags) | ended
}

/// Removes a flow that nothing can follow.
#[inline(always)]
fn forget_if_over<T: Tables>(tables: &T, headers: &Headers, flow: &FlowCell, leaves: bool) {
    if is_taken_reset(flow, headers, leaves) || flow.flags.get() & FlowCell::CLOSED == FlowCell::CLOSED {
        tables.remove_flow(&headers.key);
        if flow.direction.get() == Direction::Egress as u8
            && let Some(share) = tables.share(u32::from(flow.index.get()))
        {
            tables.add(&share.used, u64::MAX); // one less
        }
    }
}

/// Counts a packet.
#[inline(always)]
pub(crate) fn touch<T: Tables>(tables: &T, side: &SideCell, headers: &Headers, bytes: u32, now_ns: u64) {
    tables.add(&side.packets, 1);
    tables.add(&side.bytes, u64::from(bytes));
    side.last_ns.set(now_ns);
    if headers.tcp_flags == 0 {
        return; // not TCP, or a later fragment, which has no numbers
    }
    let before = side.tcp_flags.get();
    if before | headers.tcp_flags != before {
        side.tcp_flags.set(before | headers.tcp_flags);
    }
    // A segment that is sent again does not go back; a reset may stand anywhere.
    if headers.tcp_flags & RST == 0 {
        let end = headers.tcp_next();
        if before == 0 || end.wrapping_sub(side.next.get()) < 1 << 31 {
            side.next.set(end);
        }
    }
}

/// Connection, application, policy; `found` is the flow that the packet's key has.
#[inline(always)]
pub(crate) fn follow<T: Tables>(
    tables: &T,
    scope: &Scope<'_>,
    scratch: &mut Scratch,
    found: Option<&FlowCell>,
    bytes: u32,
) -> Ruling {
    let leaves = matches!(scope.passage.direction, Direction::Egress);
    if scratch.headers.is_first_fragment() {
        remember_fragment(tables, scope, scratch);
    }
    let Scratch {
        headers,
        flow: fresh,
        notes,
        ..
    } = scratch;
    let known = match found {
        Some(flow) if !is_reopened(flow, headers) => Some(flow),
        _ => None,
    };
    let opened = match known {
        Some(flow) => flow.direction.get(),
        None => opener(scope.passage.direction, headers) as u8,
    };
    let opened = direction_of((tables.opaque(u32::from(opened)) & 1) as u8);
    let app = match known {
        _ if notes.asked => notes.app,
        Some(flow) => flow.app.get(),
        None => APP_PENDING,
    };
    let judged = known.filter(|flow| flow.epoch.get() == scope.epoch);
    let current = judged
        .map(stored)
        .filter(|stored| !(notes.learned && stored.is_pending()))
        .or_else(|| recall(tables, scope, &headers.key, opened, app).map(Ruling::recalled));
    // Through memory: what follows is the same whether it is known or not.
    let current = current.unwrap_or(Ruling::NONE).opaque(|word| tables.opaque(word));
    let own = match judged {
        Some(flow) => flow.flags.get() & FlowCell::OWN != 0,
        None => current.is_recalled() || is_own(tables, scope, &headers.key.local, false),
    };
    let own = tables.opaque(u32::from(own)) != 0;
    if leaves && !own {
        return scope.unjudgeable(Reason::Spoofed).reported();
    }
    let mut ruling = if current.is_none() {
        decide(tables, scope, &headers.key, opened, own, app).opaque(|word| tables.opaque(word))
    } else {
        current.plain()
    };
    if ruling.is_pending() {
        // Payload that nobody could name yet must not pass if an unknown application may not.
        let hold = ruling.is_held() && headers.payload_len > 0;
        ruling = ruling.with_verdict(if hold { Verdict::Deny } else { Verdict::Allow });
    }
    let update = Update {
        ruling,
        opened,
        app,
        own,
        notes,
    };
    let Some(flow) = known else {
        // What others open towards a workload is not its doing, and must not keep its other clients out.
        let takes_room = found.is_none() && matches!(opened, Direction::Egress);
        let takes_room = tables.opaque(u32::from(takes_room)) != 0;
        if is_remnant(headers) {
            return if ruling.is_denied() {
                ruling.reported()
            } else {
                ruling
            };
        }
        return begin(tables, scope, headers, fresh, bytes, &update, takes_room);
    };
    if let Some(state) = write_back(tables, scope, headers, bytes, flow, &update) {
        tables.flow_event(state, &headers.key, flow, scope.passage.now_ns);
    }
    forget_if_over(tables, headers, flow, leaves);
    ruling
}

/// A TCP segment that opens nothing and carries nothing, of a flow that is not known: what comes late after a flow has
/// ended. It is judged and leaves no trace; a flow whose beginning was missed is taken up at its next payload.
#[inline(always)]
const fn is_remnant(headers: &Headers) -> bool {
    headers.tcp_flags != 0 && headers.tcp_flags & SYN == 0 && headers.payload_len == 0
}

/// A reset at just the place in the sequence where its receiver takes it (RFC 5961, 3.2: one that was guessed is not there).
#[inline(always)]
fn is_taken_reset(flow: &FlowCell, headers: &Headers, leaves: bool) -> bool {
    if headers.tcp_flags & RST == 0 {
        return false;
    }
    let side = flow.side(leaves);
    side.tcp_flags.get() & !RST != 0 && headers.tcp_seq == side.next.get()
}

/// The bit that says that this segment acknowledges the other end's FIN, and with it all that came before: nothing of that
/// end is sent again.
#[inline(always)]
fn closes(flow: &FlowCell, headers: &Headers, leaves: bool) -> u8 {
    let other = flow.side(!leaves);
    if headers.tcp_flags & ACK != 0 && other.tcp_flags.get() & FIN != 0 && headers.tcp_ack == other.next.get()
    {
        FlowCell::closed_bit(!leaves)
    } else {
        0
    }
}

/// What is to be written of a flow.
struct Update<'a> {
    ruling: Ruling,
    opened: Direction,
    app: u8,
    own: bool,
    notes: &'a Notes,
}

/// The ruling that a flow carries.
#[inline(always)]
pub(crate) const fn stored(flow: &FlowCell) -> Ruling {
    let held = flow.flags.get() & FlowCell::HELD != 0;
    Ruling::raw(flow.verdict.get(), flow.reason.get(), flow.rule.get(), held)
}

/// First packet of a flow.
#[inline(always)]
fn begin<T: Tables>(
    tables: &T,
    scope: &Scope<'_>,
    headers: &Headers,
    flow: &FlowCell,
    bytes: u32,
    update: &Update<'_>,
    takes_room: bool,
) -> Ruling {
    let ruling = update.ruling;
    let leaves = matches!(scope.passage.direction, Direction::Egress);
    let now = scope.passage.now_ns;
    flow.first_ns.set(now);
    flow.flags.set(0);
    flow.direction.set(update.opened as u8);
    flow.app.set(update.app);
    let state = ending(headers.tcp_flags)
        | if headers.tcp_flags & RST != 0 {
            FlowCell::ENDED
        } else {
            0
        };
    judged(flow, scope, update, state);
    for (side, its) in [(&flow.tx, leaves), (&flow.rx, !leaves)] {
        side.packets.set(u64::from(its));
        side.bytes.set(if its { u64::from(bytes) } else { 0 });
        side.last_ns.set(if its { now } else { 0 });
        side.next.set(if its { headers.tcp_next() } else { 0 });
        side.tcp_flags.set(if its { headers.tcp_flags } else { 0 });
        side.payloads.set(if its { update.notes.payloads } else { 0 });
        side.digest.set(if its { update.notes.digest } else { 0 });
    }
    if (takes_room && !has_room(tables, scope)) || !tables.insert_flow(&headers.key, flow) {
        let full = if ruling.is_denied() {
            ruling
        } else {
            scope.unjudgeable(Reason::TableFull)
        };
        return full.reported();
    }
    if takes_room && let Some(share) = tables.share(scope.endpoint.index) {
        tables.add(&share.used, 1);
    }
    if ruling.verdict() != Verdict::Allow as u8 || tables.tells_now(now) {
        tables.flow_event(FLOW_NEW, &headers.key, flow, now);
    }
    ruling.began()
}

/// How long a count of flows is good for. With nobody to count, the table keeps those that were used last, whoever's they are.
const COUNT_LIFE_NS: u64 = 60_000_000_000;

/// Whether the endpoint may have one more flow.
#[inline(always)]
fn has_room<T: Tables>(tables: &T, scope: &Scope<'_>) -> bool {
    let most = scope.switches.share;
    let Some(share) = tables.share(scope.endpoint.index) else {
        return true;
    };
    let is_counted = scope.passage.now_ns.wrapping_sub(share.counted_ns.get()) < COUNT_LIFE_NS;
    most == 0 || !is_counted || share.used.get().cast_signed() < i64::from(most)
}

/// Writes what was decided, and for whom.
#[inline(always)]
fn judged(flow: &FlowCell, scope: &Scope<'_>, update: &Update<'_>, state: u8) {
    let ruling = update.ruling;
    flow.epoch.set(scope.epoch);
    flow.rule.set(ruling.rule());
    flow.verdict.set(ruling.verdict());
    flow.reason.set(ruling.reason());
    let held = if ruling.is_held() { FlowCell::HELD } else { 0 };
    let own = if update.own { FlowCell::OWN } else { 0 };
    let opened = if ruling.is_denied() {
        flow.flags.get() & FlowCell::OPENED
    } else {
        FlowCell::OPENED
    };
    flow.flags.set(held | own | opened | state);
    flow.index.set((scope.endpoint.index & 0xffff) as u16);
    flow.guards.set(scope.endpoint.flags);
    flow.mac.set(scope.endpoint.mac);
}

#[inline(always)]
const fn ending(tcp_flags: u8) -> u8 {
    if tcp_flags & FIN != 0 { FlowCell::ENDING } else { 0 }
}

/// A further packet of a flow; gives the state to report if something changed.
#[inline(always)]
fn write_back<T: Tables>(
    tables: &T,
    scope: &Scope<'_>,
    headers: &Headers,
    bytes: u32,
    flow: &FlowCell,
    update: &Update<'_>,
) -> Option<u8> {
    let ruling = update.ruling;
    let leaves = matches!(scope.passage.direction, Direction::Egress);
    let side = flow.side(leaves);
    touch(tables, side, headers, bytes, scope.passage.now_ns);
    // Through memory: what follows is the same either way.
    let news = (tables.opaque(u32::from(news(flow, headers, leaves))) & 0xff) as u8;
    let before = flow.flags.get();
    if before | news != before {
        flow.flags.set(before | news);
    }
    let changed = flow.verdict.get() != ruling.verdict()
        || flow.reason.get() != ruling.reason()
        || flow.rule.get() != ruling.rule();
    if update.notes.asked {
        side.payloads.set(update.notes.payloads);
        side.digest.set(update.notes.digest);
        flow.app.set(update.app);
    }
    if changed || flow.epoch.get() != scope.epoch || update.notes.learned {
        judged(flow, scope, update, (before | news) & FlowCell::LIFE);
    }
    if news & !before & FlowCell::ENDED != 0 {
        Some(FLOW_ENDED)
    } else if (changed || (update.notes.learned && !is_pending(update.app)))
        && (ruling.verdict() != Verdict::Allow as u8 || tables.tells_now(scope.passage.now_ns))
    {
        Some(FLOW_CHANGED)
    } else {
        None
    }
}
