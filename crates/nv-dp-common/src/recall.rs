//! Decisions that a CPU has just made: a client that opens one connection after another to the same server asks the tables once.
//!
//! What is remembered is the answer of [`decide`](crate::policy::decide) to one question, whole, and under the epoch that it was made in: with
//! a new policy, or another endpoint in the interface's place, the epoch is another one and the question is asked anew.

use core::cell::Cell;

use nv_types::{Direction, IpProto};

use crate::layout::FlowKeyValue;
use crate::pipeline::Scope;
use crate::ruling::Ruling;
use crate::tables::Tables;

/// Places for decisions of a CPU.
pub const RECALLED: u32 = 256;

/// A question and its answer, in one CPU's memory. All zero: no question, as no interface has the number 0.
#[repr(C)]
#[derive(Clone, Debug, Default)]
pub struct RecallCell {
    local: Cell<[u32; 4]>,
    peer: Cell<[u32; 4]>,
    ifindex: Cell<u32>,
    epoch: Cell<u32>,
    what: Cell<u64>,
    ruling: Cell<u64>,
}

const _: () = assert!(size_of::<RecallCell>() == 56);

/// What is asked of the tables for a flow whose workload may send from its address.
#[derive(Clone, Copy, Debug)]
struct Question {
    local: [u32; 4],
    peer: [u32; 4],
    ifindex: u32,
    what: u64,
}

impl RecallCell {
    #[inline(always)]
    fn holds(&self, question: &Question, epoch: u32) -> bool {
        self.what.get() == question.what
            && self.peer.get() == question.peer
            && self.local.get() == question.local
            && self.ifindex.get() == question.ifindex
            && self.epoch.get() == epoch
    }

    #[inline(always)]
    fn set(&self, question: &Question, epoch: u32, ruling: Ruling) {
        self.local.set(question.local);
        self.peer.set(question.peer);
        self.ifindex.set(question.ifindex);
        self.epoch.set(epoch);
        self.what.set(question.what);
        self.ruling.set(ruling.pack());
    }
}

impl Question {
    #[inline(always)]
    fn new(key: &FlowKeyValue, opened: Direction, app: u8) -> Self {
        Self {
            local: words(&key.local),
            peer: words(&key.peer),
            ifindex: key.ifindex,
            what: u64::from(server_port(key, opened))
                | u64::from(key.proto) << 16
                | u64::from(app) << 24
                | (opened as u64) << 32,
        }
    }

    /// Its place among [`RECALLED`].
    #[inline(always)]
    const fn place(&self) -> u32 {
        let what = (self.what ^ self.what >> 32) & 0xffff_ffff;
        let mixed = self.peer[3] ^ self.peer[2].rotate_left(7) ^ self.local[3].rotate_left(15);
        let mixed = (mixed ^ (what as u32).wrapping_mul(0x85eb_ca6b)).wrapping_add(self.ifindex);
        mixed.wrapping_mul(0x9e37_79b1) >> 24
    }
}

const _: () = assert!(RECALLED == 1 << 8);

#[inline(always)]
fn words(addr: &[u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *addr;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
}

/// The server's port, 0 where there is none.
#[inline(always)]
pub(crate) const fn server_port(key: &FlowKeyValue, opened: Direction) -> u16 {
    match (IpProto(key.proto).has_ports(), opened) {
        (false, _) => 0,
        (true, Direction::Egress) => key.peer_port,
        (true, Direction::Ingress) => key.local_port,
    }
}

/// What this CPU has decided for such a flow in this epoch, if it remembers. The flow's local address is then the endpoint's own.
#[inline(always)]
pub(crate) fn recall<T: Tables>(
    tables: &T,
    scope: &Scope<'_>,
    key: &FlowKeyValue,
    opened: Direction,
    app: u8,
) -> Option<Ruling> {
    let question = Question::new(key, opened, app);
    let cell = tables.recall(question.place())?;
    cell.holds(&question, scope.epoch)
        .then(|| Ruling::unpack(cell.ruling.get()))
}

/// Remembers a decision for a flow whose local address is the endpoint's own, in the place of another one.
#[inline(always)]
pub(crate) fn remember<T: Tables>(
    tables: &T,
    scope: &Scope<'_>,
    key: &FlowKeyValue,
    opened: Direction,
    app: u8,
    ruling: Ruling,
) {
    let question = Question::new(key, opened, app);
    if let Some(cell) = tables.recall(question.place()) {
        cell.set(&question, scope.epoch, ruling);
    }
}

#[cfg(test)]
mod tests {
    use nv_types::{Reason, Verdict};

    use super::*;

    #[test]
    fn a_place_answers_its_own_question_only() {
        let key = FlowKeyValue {
            local: [1; 16],
            peer: [2; 16],
            ifindex: 3,
            local_port: 40_000,
            peer_port: 80,
            proto: 6,
            pad: [0; 3],
        };
        let cell = RecallCell::default();
        let asked =
            |key: &FlowKeyValue, opened, app, epoch| cell.holds(&Question::new(key, opened, app), epoch);
        assert!(!asked(&key, Direction::Egress, 0, 0), "nothing is known at first");
        let ruling = Ruling::new(Verdict::Deny, Reason::Rule);
        cell.set(&Question::new(&key, Direction::Egress, 0), 4, ruling);
        assert_eq!(Ruling::unpack(cell.ruling.get()), ruling);
        let other_client = FlowKeyValue {
            local_port: 40_001,
            ..key
        };
        assert!(asked(&key, Direction::Egress, 0, 4) && asked(&other_client, Direction::Egress, 0, 4));
        let mut far = key;
        far.peer[0] = 9;
        let mut elsewhere = key;
        elsewhere.local[15] = 9;
        let others = [
            far,
            elsewhere,
            FlowKeyValue { ifindex: 4, ..key },
            FlowKeyValue { peer_port: 81, ..key },
            FlowKeyValue { proto: 17, ..key },
        ];
        for other in others {
            assert!(!asked(&other, Direction::Egress, 0, 4), "{other:?}");
        }
        assert!(!asked(&key, Direction::Ingress, 0, 4));
        assert!(!asked(&key, Direction::Egress, 1, 4));
        assert!(!asked(&key, Direction::Egress, 0, 6));
    }

    #[test]
    fn places_are_used_evenly() {
        let mut used = [0u32; RECALLED as usize];
        for n in 0..RECALLED * 4 {
            let [a, b, ..] = n.to_le_bytes();
            let mut key = FlowKeyValue {
                local: [0; 16],
                peer: [0; 16],
                ifindex: 7,
                local_port: 0,
                peer_port: 443,
                proto: 6,
                pad: [0; 3],
            };
            key.peer[15] = a;
            key.peer[14] = b;
            let place = Question::new(&key, Direction::Egress, 0).place();
            if let Some(used) = used.get_mut(place as usize) {
                *used += 1;
            }
        }
        let most = used.iter().max();
        assert!(most.is_some_and(|most| *most <= 12), "{most:?}");
        assert_eq!(used.iter().sum::<u32>(), RECALLED * 4, "all are places");
    }
}
