//! Policy: from a flow to its ruling, by the tables of the slot in force.

use nv_types::{Application, ChainStep, Direction, Identity, IpProto, Reason, Verdict, walk};

use crate::app::candidates;
use crate::layout::{
    AddressValue, ChainValue, FAILSAFE_TABLE, FlowKeyValue, LocalView, OwnKey, PairKey, direction_of,
    slot_bit,
};
use crate::pipeline::Scope;
use crate::recall::{remember, server_port};
use crate::ruling::Ruling;
use crate::tables::Tables;

/// What is decided for this flow, as far as its application is known. `own`: its local address is the endpoint's, so that the decision
/// may be remembered.
#[inline(always)]
pub(crate) fn decide<T: Tables>(
    tables: &T,
    scope: &Scope<'_>,
    key: &FlowKeyValue,
    opened: Direction,
    own: bool,
    app: u8,
) -> Ruling {
    let how = u32::from(app) << 8 | u32::from(own) << 1 | opened as u32;
    Ruling::unpack(packed(tables, scope, key, how))
}

#[inline(never)] // a frame of its own on the kernel's small stack
fn packed<T: Tables>(tables: &T, scope: &Scope<'_>, key: &FlowKeyValue, how: u32) -> u64 {
    let (opened, own, app) = (
        direction_of((how & 1) as u8),
        how & 2 != 0,
        (how >> 8 & 0xff) as u8,
    );
    let ruling = look_up(tables, scope, key, opened, app).opaque(|word| tables.opaque(word));
    if own {
        remember(tables, scope, key, opened, app, ruling);
    }
    ruling.pack()
}

#[inline(always)]
fn look_up<T: Tables>(
    tables: &T,
    scope: &Scope<'_>,
    key: &FlowKeyValue,
    opened: Direction,
    app: u8,
) -> Ruling {
    let same = key.local == key.peer
        || (scope.checks_addresses()
            && tables.is_own(&OwnKey {
                addr: key.peer,
                ifindex: key.ifindex,
            }));
    if same {
        return Ruling::new(Verdict::Allow, Reason::SameWorkload);
    }
    let proto = IpProto(key.proto).for_policy().0;
    let server_port = server_port(key, opened);
    let peer = tables.address(scope.slot, &key.peer).unwrap_or(AddressValue {
        identity: 0,
        flags: 0,
    });
    let towards_node = peer.flags & AddressValue::NODE != 0 && matches!(opened, Direction::Egress);
    if towards_node
        && tables
            .port(FAILSAFE_TABLE | slot_bit(scope.slot), proto, server_port)
            .is_some()
    {
        return Ruling::new(Verdict::Allow, Reason::Failsafe);
    }
    let view = scope.view();
    if view.state == LocalView::UNKNOWN {
        return Ruling::raw(scope.switches.unknown, Reason::UnknownEndpoint as u8, 0, false);
    }
    if view.state == LocalView::NO_POLICY {
        return Ruling::new(Verdict::Allow, Reason::NoPolicy);
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
        pair.peer = Identity(peer.identity).any_of_kind().0;
        table = tables.pair(&pair);
    }
    if table.is_none() && pair.peer != Identity::ANY.0 {
        pair.peer = Identity::ANY.0;
        table = tables.pair(&pair);
    }
    let found = table
        .and_then(|table| tables.port(table, proto, server_port))
        .and_then(|decision| tables.chain(decision))
        .and_then(|chain| step(tables, chain, app));
    match found {
        Some(ruling) => ruling,
        None => scope.unjudgeable(Reason::Malformed),
    }
}

/// Walks a chain; `None` if it is broken.
#[inline(always)]
fn step<T: Tables>(tables: &T, chain: &ChainValue, app: u8) -> Option<Ruling> {
    match walk(chain.entries(), Application::from_index(app)) {
        ChainStep::Decided(decision) => Some(Ruling::of(decision).opaque(|word| tables.opaque(word))),
        ChainStep::Broken => None,
        ChainStep::Pending => {
            // Held only if whatever it may turn out to be is denied.
            let [one, other] = candidates(app);
            let held = is_denied(chain, one)? && (one == other || is_denied(chain, other)?);
            Some(Ruling::new(Verdict::Allow, Reason::Pending).holding(held))
        }
    }
}

/// Whether the chain denies this application; `None` if it is broken.
#[inline(always)]
fn is_denied(chain: &ChainValue, app: Application) -> Option<bool> {
    match walk(chain.entries(), Some(app)) {
        ChainStep::Decided(decision) => Some(matches!(decision.verdict, Verdict::Deny)),
        ChainStep::Pending | ChainStep::Broken => None,
    }
}
