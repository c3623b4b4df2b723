//! What a compiler is told to look at again.

use nv_types::{GroupName, NodeId, RuleId, WorkloadId};

/// One object of a [`PolicyInput`](crate::PolicyInput) that came, changed or went.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Anything: the settings, or more than is worth listing.
    All,
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
}

impl Change {
    /// The rule, if it is one.
    pub(super) const fn rule(&self) -> Option<RuleId> {
        match self {
            Self::Rule(id) => Some(*id),
            Self::All | Self::Node(_) | Self::Group(_) | Self::Mode(_) | Self::Workload(_) | Self::Order => {
                None
            }
        }
    }
}
