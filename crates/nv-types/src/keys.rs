//! Keys of the store, in one place (DESIGN section 7). Values are JSON objects with a version field `v`.

use alloc::format;
use alloc::string::String;

use crate::{GroupName, NodeId, RuleId, WorkloadId};

/// Everything that a policy is compiled from lies under this prefix, workloads, nodes and settings apart.
pub const POLICY: &str = "policy/";
/// Prefix of groups.
pub const GROUPS: &str = "policy/group/";
/// Prefix of rules.
pub const RULES: &str = "policy/rule/";
/// The order of rules: a list of ids.
pub const ORDER: &str = "policy/order";
/// Prefix of modes.
pub const MODES: &str = "policy/mode/";
/// Prefix of workloads in quarantine.
pub const QUARANTINES: &str = "policy/quarantine/";
/// Prefix of workloads.
pub const WORKLOADS: &str = "workload/";
/// Prefix of nodes.
pub const NODES: &str = "node/";
/// Prefix of what nodes have heard of DNS names.
pub const NAMES: &str = "name/";
/// Prefix of since when services are in their modes; only the controller's business.
pub const STANDINGS: &str = "standing/";
/// Policy settings.
pub const SETTINGS: &str = "config/policy";
/// Prefix of capture sessions.
pub const CAPTURES: &str = "capture/";
/// Prefix of users.
pub const USERS: &str = "user/";
/// Prefix of the audit log.
pub const AUDIT: &str = "audit/";

/// Key of a group.
#[must_use]
pub fn group(name: &GroupName) -> String {
    format!("{GROUPS}{name}")
}

/// Key of a rule; zero-padded, so that keys sort as numbers do.
#[must_use]
pub fn rule(id: RuleId) -> String {
    format!("{RULES}{:06}", id.0)
}

/// Key of a group's mode.
#[must_use]
pub fn mode(group: &GroupName) -> String {
    format!("{MODES}{group}")
}

/// Key of a workload's quarantine: of its id alone, so that it holds wherever and however often the workload is started.
#[must_use]
pub fn quarantine(workload: &WorkloadId) -> String {
    format!("{QUARANTINES}{workload}")
}

/// Key of a workload.
#[must_use]
pub fn workload(node: &NodeId, id: &WorkloadId) -> String {
    format!("{WORKLOADS}{node}/{id}")
}

/// Prefix of a node's workloads.
#[must_use]
pub fn workloads_of(node: &NodeId) -> String {
    format!("{WORKLOADS}{node}/")
}

/// Key of a node.
#[must_use]
pub fn node(id: &NodeId) -> String {
    format!("{NODES}{id}")
}

/// Key of what a node has heard of a DNS name; the name in lower case, without a dot at its end.
#[must_use]
pub fn name(node: &NodeId, name: &str) -> String {
    format!("{NAMES}{node}/{name}")
}

/// Prefix of all that a node has heard of DNS names.
#[must_use]
pub fn names_of(node: &NodeId) -> String {
    format!("{NAMES}{node}/")
}

/// Key of since when a group is in its mode.
#[must_use]
pub fn standing(group: &GroupName) -> String {
    format!("{STANDINGS}{group}")
}
