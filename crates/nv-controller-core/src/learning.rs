//! What Discover learns from: flows that passed because nothing matched, gathered for a moment.

use std::collections::BTreeSet;

use nv_policy::{Observation, PolicyInput};
use nv_types::{Application, FlowRecord, FlowState, GroupName, Peer, Timestamp, reserved};

/// Time to gather in, in nanoseconds.
const GATHER: u64 = 500_000_000;
/// Different observations that are gathered; more are counted and left out.
const MAX: usize = 10_000;

/// Gathers observations.
#[derive(Debug, Default)]
pub(crate) struct Learner {
    waiting: BTreeSet<Observation>,
    due: Option<Timestamp>,
    /// What the last plan was made of, until it is known to be written.
    planned: Vec<Observation>,
    dropped: u64,
}

impl Learner {
    pub(crate) fn take(&mut self, record: &FlowRecord, input: &PolicyInput, now: Timestamp) {
        if !record.decision.is_learnable() {
            return;
        }
        let app = match (record.application, record.state) {
            (Some(app), _) => app,
            // Closed before it could be identified, or without any payload.
            (None, FlowState::Closed) => Application::UNKNOWN,
            (None, FlowState::New | FlowState::Active) => return,
        };
        let (Some(from), Some(to)) = (group(&record.client, input), group(&record.server, input)) else {
            return;
        };
        let tuple = record.tuple;
        let observation = Observation {
            from,
            to,
            proto: tuple.proto,
            port: tuple.server_port,
            app,
        };
        if self.waiting.len() >= MAX && !self.waiting.contains(&observation) {
            self.dropped += 1;
            return;
        }
        self.waiting.insert(observation);
        self.due.get_or_insert(Timestamp(now.0 + GATHER));
    }

    pub(crate) const fn dropped(&self) -> u64 {
        self.dropped
    }

    pub(crate) fn keep(&mut self, planned: Vec<Observation>) {
        self.planned = planned;
    }

    pub(crate) fn forget(&mut self) {
        self.planned.clear();
    }

    /// What was planned last waits again.
    pub(crate) fn again(&mut self, due: Timestamp) {
        self.waiting
            .append(&mut std::mem::take(&mut self.planned).into_iter().collect());
        self.due = Some(due);
    }

    pub(crate) const fn due(&self) -> Option<Timestamp> {
        self.due
    }

    /// What was gathered, once its time has come.
    pub(crate) fn poll(&mut self, now: Timestamp) -> Option<Vec<Observation>> {
        if self.due? > now {
            return None;
        }
        self.due = None;
        Some(std::mem::take(&mut self.waiting).into_iter().collect())
    }
}

/// The group that a peer is learned as; `None` while its service has none.
fn group(peer: &Peer, input: &PolicyInput) -> Option<GroupName> {
    match peer {
        Peer::Workload(id) => input
            .workloads
            .get(id)?
            .service_group()
            .filter(|group| input.groups.contains_key(group)),
        Peer::Node(_) => GroupName::try_new(reserved::NODES).ok(),
        Peer::External => GroupName::try_new(reserved::EXTERNAL).ok(),
    }
}
