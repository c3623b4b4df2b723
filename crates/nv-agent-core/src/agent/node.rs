//! What the node tells of itself.

use nv_policy::encode;
use nv_types::{Node, Timestamp, keys};

use super::Agent;
use crate::io::Effect;

impl Agent {
    pub(super) fn describe(&self) -> Node {
        let bad = self.state.problems().iter();
        let bad = bad.map(|(key, problem)| format!("stored value of '{key}' cannot be used: {problem}"));
        Node {
            id: self.node.clone(),
            addresses: self.facts.addresses.clone(),
            tunnels: self.facts.tunnels.clone(),
            agent_endpoint: self.facts.agent_endpoint.clone(),
            version: self.facts.version.clone(),
            kernel: self.facts.kernel.clone(),
            hook: self.facts.hook.clone(),
            runtimes: self.facts.runtimes.clone(),
            revision: self.in_force.unwrap_or_default(),
            endpoints: u32::try_from(self.endpoints.guarded()).unwrap_or(u32::MAX),
            degraded: self
                .degraded
                .values()
                .cloned()
                .chain(self.endpoints.problems())
                .chain(bad)
                .collect(),
            lost_events: self.lost.clone().into_iter().chain(self.names.counts()).collect(),
            seen: Timestamp(0),
            started: self.facts.started,
        }
    }

    pub(super) fn report_node(&mut self) {
        if !self.ready {
            return;
        }
        let node = self.describe();
        if self.reported.as_ref() == Some(&node) {
            return;
        }
        let key = keys::node(&self.node);
        if let Ok(value) = encode(
            &key,
            &Node {
                seen: self.now.day,
                ..node.clone()
            },
        ) {
            self.effects.push_back(Effect::Store {
                key,
                value: Some(value),
            });
        }
        self.reported = Some(node);
    }
}
