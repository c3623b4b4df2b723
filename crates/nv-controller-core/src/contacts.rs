//! Which nodes' agents were heard of lately.

use std::collections::BTreeMap;

use nv_types::{NodeId, Timestamp};

/// Time without a word after which a node counts as disconnected, in nanoseconds.
const SILENCE: u64 = 15_000_000_000;

#[derive(Debug, Default)]
pub(crate) struct Contacts {
    last: BTreeMap<NodeId, Timestamp>,
    /// When the first report came: agents get as long as that to come back after the controller was away.
    since: Option<Timestamp>,
}

impl Contacts {
    pub(crate) fn heard(&mut self, node: &NodeId, now: Timestamp) {
        match self.last.get_mut(node) {
            Some(last) => *last = now,
            None => _ = self.last.insert(node.clone(), now),
        }
    }

    pub(crate) fn is_connected(&self, node: &NodeId, now: Timestamp) -> bool {
        self.last.get(node).is_some_and(|last| now.since(*last) < SILENCE)
    }

    /// Notes that somebody reports.
    pub(crate) fn reports(&mut self, now: Timestamp) {
        self.since.get_or_insert(now);
    }

    /// Whether a node's agent will tell of the flows that it sees.
    pub(crate) fn tells(&self, node: &NodeId, now: Timestamp) -> bool {
        let last = self.last.get(node).copied().or(self.since);
        last.is_none_or(|last| now.since(last) < SILENCE)
    }
}
