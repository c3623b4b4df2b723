//! DNS names: from what was heard to the policy, to the store, and back to the workload.

use std::collections::BTreeMap;

use nv_policy::{StoredName, Wanted, encode};
use nv_types::{Direction, FlowState, Verdict, keys};

use super::Agent;
use crate::io::{DnsSeen, Effect, FlowSample, Steady};

impl Agent {
    pub(super) fn hear(&mut self, seen: &DnsSeen) {
        let workload = self.endpoints.workload(seen.ifindex);
        let token = self.names.hear(seen, workload, self.now.steady);
        self.effects.extend(token.map(Effect::Release));
        self.write_names();
    }

    /// Puts what changed in the store, and in the next policy.
    fn write_names(&mut self) {
        for (name, addresses) in self.names.take_changed() {
            let key = keys::name(&self.node, &name);
            let value = match addresses.is_empty() {
                true => Ok(None),
                false => encode(&key, &StoredName { addresses }).map(Some),
            };
            if let Ok(value) = value {
                self.effects.push_back(Effect::Store { key, value });
            }
            self.dirty = true;
        }
    }

    pub(super) fn tick_names(&mut self) {
        let mut released = Vec::new();
        self.names.tick(self.now.steady, &mut released);
        self.effects.extend(released.into_iter().map(Effect::Release));
        self.write_names();
    }

    /// Whether answers are to be seen: groups speak of names, and the datapath can show them.
    pub(super) fn listens(&self) -> bool {
        self.names.is_wanted() && self.facts.names.listens
    }

    pub(super) fn listen(&mut self, wanted: &Wanted) {
        let is_deaf = self.names.want(wanted.clone()) && !self.facts.names.listens;
        if is_deaf {
            let words = "groups speak of DNS names, and this datapath does not show DNS answers: only addresses that other nodes have heard count here";
            self.degraded.insert("names".into(), words.into());
        } else {
            self.degraded.remove("names");
        }
    }

    /// After a restart nobody knows for how long what was written before counts: it is kept for the grace. What the store lacks is written.
    pub(super) fn names_resynced(&mut self, entries: &[(String, Vec<u8>)]) {
        let prefix = keys::names_of(&self.node);
        let stored: BTreeMap<_, _> = entries
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix(&prefix)?, (key, value))))
            .collect();
        for (name, (key, value)) in &stored {
            if let Ok(before) = nv_policy::decode::<StoredName>(key, value) {
                self.names.adopt(name, &before.addresses, self.now.steady);
            }
        }
        let missing: Vec<_> = self
            .names
            .iter()
            .map(|(name, addresses)| (keys::name(&self.node, name), StoredName { addresses }))
            .filter_map(|(key, value)| Some((encode(&key, &value).ok()?, key)))
            .filter(|(value, key)| {
                let name = key.strip_prefix(&prefix).unwrap_or_default();
                stored.get(name).is_none_or(|(_, there)| *there != value)
            })
            .collect();
        for (value, key) in missing {
            self.effects.push_back(Effect::Store {
                key,
                value: Some(value),
            });
        }
    }

    /// A flow moves: an answer that let it begin is not forgotten under it.
    pub fn flow_moves(&mut self, sample: &FlowSample, now: Steady) {
        if sample.direction == Direction::Egress
            && sample.state != FlowState::Closed
            && sample.decision.verdict != Verdict::Deny
        {
            self.names.flow(sample.peer.0, Steady(sample.first_ns), now);
        }
    }
}
