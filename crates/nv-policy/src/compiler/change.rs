//! What a compiler is told to look at again.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use nv_types::{GroupName, NodeId, Rule, RuleId, WorkloadId};

use crate::input::PolicyInput;

/// One object of a [`PolicyInput`](crate::PolicyInput) that came, changed or went.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Anything: more than is worth listing.
    All,
    /// Settings; what an update needs of them it also looks for by itself.
    Settings,
    /// A node.
    Node(NodeId),
    /// A group.
    Group(GroupName),
    /// The mode of a service's group, or of `nodes`.
    Mode(GroupName),
    /// A workload.
    Workload(WorkloadId),
    /// A rule.
    Rule(RuleId),
    /// The order of the rules.
    Order,
    /// The addresses of a DNS name, in its normal form: lower case, no dot at the end.
    Name(String),
}

impl Change {
    /// What differs between two inputs, in a fixed order; nothing if they are equal.
    #[must_use]
    pub fn between(old: &PolicyInput, new: &PolicyInput) -> Vec<Self> {
        let mut changes = Vec::new();
        if old.settings != new.settings {
            changes.push(Self::Settings);
        }
        old.names
            .differing(&new.names, |name| changes.push(Self::Name(name.to_owned())));
        differing(&old.nodes, &new.nodes, |id| changes.push(Self::Node(id.clone())));
        differing(&old.groups, &new.groups, |name| {
            changes.push(Self::Group(name.clone()))
        });
        differing(&old.modes, &new.modes, |name| {
            changes.push(Self::Mode(name.clone()))
        });
        differing(&old.workloads, &new.workloads, |id| {
            changes.push(Self::Workload(id.clone()));
        });
        if old.rules != new.rules {
            let by_id = |rules: &[Rule]| -> BTreeMap<RuleId, Rule> {
                rules.iter().map(|rule| (rule.id, rule.clone())).collect()
            };
            differing(&by_id(&old.rules), &by_id(&new.rules), |id| {
                changes.push(Self::Rule(*id))
            });
            changes.push(Self::Order);
        }
        changes
    }

    /// The rule, if it is one.
    pub(super) const fn rule(&self) -> Option<RuleId> {
        match self {
            Self::Rule(id) => Some(*id),
            Self::All
            | Self::Settings
            | Self::Node(_)
            | Self::Group(_)
            | Self::Mode(_)
            | Self::Workload(_)
            | Self::Name(_)
            | Self::Order => None,
        }
    }
}

/// Walks two sorted maps side by side; calls with every key whose value is not the same in both.
fn differing<K: Ord, V: PartialEq>(old: &BTreeMap<K, V>, new: &BTreeMap<K, V>, mut each: impl FnMut(&K)) {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (Some((a, _)), Some((b, _))) => a.cmp(b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return,
        };
        let before = if order.is_le() { old.next() } else { None };
        let after = if order.is_ge() { new.next() } else { None };
        match (before, after) {
            (Some((_, a)), Some((_, b))) if a == b => {}
            (Some((key, _)), _) | (None, Some((key, _))) => each(key),
            (None, None) => return,
        }
    }
}
