//! Recent flows: a bounded ring with sequence numbers, so that a follower knows what it missed.

use std::collections::{BTreeMap, VecDeque};

use nv_policy::PolicyInput;
use nv_types::{
    Application, Decision, Direction, FiveTuple, FlowRecord, FlowState, NodeId, Peer, Verdict, WorkloadId,
};

use crate::conversation::{Endpoint, endpoint};

/// Flows that are kept.
const RING: usize = 20_000;
/// Flows that are under way at once, for telling a change from a repetition.
const OPEN: usize = 100_000;

/// One entry of the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowView {
    /// Its number.
    pub sequence: u64,
    /// The record.
    pub record: FlowRecord,
    /// The client.
    pub client: Endpoint,
    /// The server.
    pub server: Endpoint,
}

/// What a follower gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// Flows that the filter lets through, oldest first.
    pub flows: Vec<FlowView>,
    /// Number to ask from next.
    pub sequence: u64,
    /// Entries that were overwritten before they could be followed.
    pub missed: u64,
}

/// What a record adds to what was known of its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Delta {
    /// First record of the flow.
    pub(crate) is_new: bool,
    /// First word on the flow, or another than before: who decided it counts it.
    pub(crate) is_decided: bool,
    /// Verdict or application are other than before.
    pub(crate) is_changed: bool,
    /// Bytes of both directions since the last record.
    pub(crate) bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Turn in which it was reported last.
    turn: u64,
    bytes: u64,
    decision: Decision,
    application: Option<Application>,
}

type Key = (NodeId, WorkloadId, Direction, FiveTuple);

/// The ring.
#[derive(Debug, Default)]
pub(crate) struct FlowLog {
    ring: VecDeque<FlowView>,
    open: BTreeMap<Key, Seen>,
    /// Flows under way by the turn of their last report: the first has been silent for longest.
    turns: BTreeMap<u64, Key>,
    turn: u64,
    sequence: u64,
    forgotten: u64,
}

impl FlowLog {
    /// Takes a record. `None`: the other end's agent tells of the same flow, and that one counts. `tells`: whether a node's agent is there
    /// to tell of anything.
    pub(crate) fn take(
        &mut self,
        record: &FlowRecord,
        input: &PolicyInput,
        tells: impl Fn(&NodeId) -> bool,
    ) -> Option<Delta> {
        if is_told_by_client(record, input, tells) {
            return None;
        }
        let key = (
            record.node.clone(),
            record.workload.clone(),
            record.direction,
            record.tuple,
        );
        let bytes = record.bytes_to_client.saturating_add(record.bytes_to_server);
        self.turn += 1;
        let now = Seen {
            turn: self.turn,
            bytes,
            decision: record.decision,
            application: record.application,
        };
        let before = if record.state == FlowState::Closed {
            self.open.remove(&key)
        } else {
            self.turns.insert(self.turn, key.clone());
            self.open.insert(key, now)
        };
        let before = before.or_else(|| self.told_by_the_other(record, input));
        if let Some(before) = before {
            self.turns.remove(&before.turn);
        }
        if self.open.len() > OPEN
            && let Some((_, silent)) = self.turns.pop_first()
        {
            self.open.remove(&silent);
            self.forgotten += 1;
        }
        let delta = match before {
            None => Delta {
                is_new: true,
                is_decided: true,
                is_changed: true,
                bytes,
            },
            Some(before) => Delta {
                is_new: false,
                is_decided: before.decision != record.decision,
                is_changed: before.decision != record.decision || before.application != record.application,
                // Totals that fall are those of a new flow on old ports.
                bytes: bytes.checked_sub(before.bytes).unwrap_or(bytes),
            },
        };
        if delta.is_changed || record.state == FlowState::Closed {
            self.push(record, input);
        }
        Some(delta)
    }

    /// What the other end's agent told of the same flow, while it was the one that counted. A denial is an end's own.
    fn told_by_the_other(&mut self, record: &FlowRecord, input: &PolicyInput) -> Option<Seen> {
        let (other, direction) = match record.direction {
            Direction::Egress => (&record.server, Direction::Ingress),
            Direction::Ingress => (&record.client, Direction::Egress),
        };
        let Peer::Workload(other) = other else {
            return None;
        };
        let workload = input.workloads.get(other)?;
        let key = (workload.node.clone(), other.clone(), direction, record.tuple);
        let denied = |decision: Decision| decision.verdict == Verdict::Deny;
        let told = self.open.get(&key)?;
        if denied(record.decision) || denied(told.decision) {
            return None;
        }
        self.open.remove(&key)
    }

    fn push(&mut self, record: &FlowRecord, input: &PolicyInput) {
        self.sequence += 1;
        if self.ring.len() == RING {
            self.ring.pop_front();
        }
        self.ring.push_back(FlowView {
            sequence: self.sequence,
            record: record.clone(),
            client: endpoint(&record.client, input),
            server: endpoint(&record.server, input),
        });
    }

    pub(crate) const fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(crate) const fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// All that are kept, oldest first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &FlowView> {
        self.ring.iter()
    }

    pub(crate) fn newest(&self, keep: impl Fn(&FlowView) -> bool, limit: usize) -> Vec<FlowView> {
        let found = self.ring.iter().rev().filter(|view| keep(view)).take(limit);
        let mut found: Vec<_> = found.cloned().collect();
        found.reverse();
        found
    }

    pub(crate) fn after(&self, sequence: u64, keep: impl Fn(&FlowView) -> bool) -> Followed {
        let first = self.ring.front().map_or(self.sequence + 1, |view| view.sequence);
        let flows = self
            .ring
            .iter()
            .rev()
            .take_while(|view| view.sequence > sequence)
            .filter(|view| keep(view))
            .cloned()
            .collect::<Vec<_>>();
        let missed = first.saturating_sub(sequence.saturating_add(1));
        Followed {
            flows: flows.into_iter().rev().collect(),
            sequence: self.sequence.max(sequence),
            missed,
        }
    }
}

/// A flow between two workloads is seen by both endpoints: the client's side counts. What a server's side denies after the client's
/// let it pass is told all the same, and so is everything where the client's agent is not there.
fn is_told_by_client(record: &FlowRecord, input: &PolicyInput, tells: impl Fn(&NodeId) -> bool) -> bool {
    let Peer::Workload(client) = &record.client else {
        return false;
    };
    record.direction == Direction::Ingress
        && record.decision.verdict != Verdict::Deny
        && input.workloads.get(client).is_some_and(|workload| {
            !workload.host_network
                && tells(&workload.node)
                && workload
                    .interfaces
                    .iter()
                    .any(|interface| interface.host_index.is_some())
        })
}
