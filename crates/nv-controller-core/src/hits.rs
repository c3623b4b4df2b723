//! What each rule has decided since the start. Bounded by the rules that there are: what is told of others is not kept.
//!
//! Counts are not stored: they are facts about traffic, as flows and violations are, and every controller of a cluster counts what its own agents tell it.
//! Each would write beside the policy every few seconds, and a count that is half a minute old would be read as exact.

use std::collections::BTreeMap;

use nv_types::{FlowRecord, Revision, RuleId, Timestamp, keys};

/// Flows that a rule decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hits {
    /// How many.
    pub count: u64,
    /// Last packet of the last one; 0 for none.
    pub last: Timestamp,
}

#[derive(Debug, Default)]
pub(crate) struct RuleHits {
    rules: BTreeMap<RuleId, Hits>,
}

impl RuleHits {
    /// Counts a flow for the rule that decided it, if it is one of the stored ones.
    pub(crate) fn take(&mut self, record: &FlowRecord, stored: &BTreeMap<String, Revision>) {
        let id = record.decision.rule;
        if id.0 == 0 {
            return;
        }
        let hits = match self.rules.get_mut(&id) {
            Some(hits) => hits,
            // A node may still tell of a rule that is deleted.
            None if !stored.contains_key(&keys::rule(id)) => return,
            None => self.rules.entry(id).or_default(),
        };
        hits.count = hits.count.saturating_add(1);
        hits.last = hits.last.max(record.last_seen);
    }

    pub(crate) fn of(&self, id: RuleId) -> Hits {
        self.rules.get(&id).copied().unwrap_or_default()
    }

    /// Forgets the rule of a deleted key: another one may get its number.
    pub(crate) fn forget(&mut self, key: &str) {
        let id = key.strip_prefix(keys::RULES).and_then(|id| id.parse().ok());
        if let Some(id) = id {
            self.rules.remove(&RuleId(id));
        }
    }

    /// Forgets rules that are not stored.
    pub(crate) fn retain(&mut self, stored: &BTreeMap<String, Revision>) {
        self.rules.retain(|id, _| stored.contains_key(&keys::rule(*id)));
    }
}
