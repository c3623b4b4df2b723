//! What a policy is made of.

use std::collections::{BTreeMap, BTreeSet};

use nv_types::{
    Action, BOUNDARY_LABEL, Criterion, CriterionOp, Group, GroupKind, GroupName, InvalidPorts, Mode, Node,
    NodeId, PolicySettings, Rule, RuleId, Tier, Timestamp, Workload, WorkloadId,
};
use serde::{Deserialize, Serialize};

use crate::names::Names;
use crate::party::is_present;

/// Everything that decides what becomes of a flow. Keep it up to date from a store and compile it when it changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyInput {
    /// Switches.
    pub settings: PolicySettings,
    /// Groups by name; the reserved ones need not be in it.
    pub groups: BTreeMap<GroupName, Group>,
    /// Rules in list order; tiers are sorted out by [`PolicyInput::ordered_rules`].
    pub rules: Vec<Rule>,
    /// Modes of services (and of `nodes`). A service that is not in it has `settings.new_service_mode`.
    pub modes: BTreeMap<GroupName, Mode>,
    /// Workloads of every node.
    pub workloads: BTreeMap<WorkloadId, Workload>,
    /// Nodes.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Addresses of DNS names.
    pub names: Names,
    /// Workloads in quarantine. Tables do not speak of it: the datapath cuts their interfaces whatever the policy says. [`crate::explain`]
    /// knows.
    pub quarantines: BTreeMap<WorkloadId, Quarantine>,
}

/// Why a workload is cut off, and since when. Value of [`nv_types::keys::quarantine`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Quarantine {
    /// In the words of whoever asked for it.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
}

impl PolicyInput {
    /// Rules in the order in which they are tried: federal, ground, user, learned, each in list order; disabled ones
    /// included.
    pub fn ordered_rules(&self) -> impl Iterator<Item = &Rule> {
        [Tier::Federal, Tier::Ground, Tier::User, Tier::Learned]
            .into_iter()
            .flat_map(|tier| self.rules.iter().filter(move |rule| rule.tier() == tier))
    }

    /// The mode of the service that a workload belongs to; `None` when the workload is not managed.
    #[must_use]
    pub fn mode_of(&self, workload: &Workload) -> Option<Mode> {
        Some(self.service_mode(&workload.service_group()?))
    }

    /// The mode of a service that counts: the one of all services, if there is one, or its own.
    #[must_use]
    pub fn service_mode(&self, group: &GroupName) -> Mode {
        let own = || self.modes.get(group).copied();
        let mode = self.settings.network_mode.or_else(own);
        mode.unwrap_or(self.settings.new_service_mode)
    }

    /// Domains with a boundary: by the setting, or because the namespace of a running workload is labelled so.
    #[must_use]
    pub fn bounded_domains(&self) -> BTreeSet<&str> {
        let present = self.workloads.values().filter(|workload| is_present(workload));
        let labelled = present.filter(|workload| is_labelled(workload));
        let listed = self.settings.bounded_domains.iter().map(String::as_str);
        listed
            .chain(labelled.map(|workload| workload.domain.as_str()))
            .collect()
    }

    /// Makes the learned group of a workload's service, if it is not there. Gives its name when it was made.
    pub fn add_service_group(&mut self, workload: &Workload) -> Option<GroupName> {
        let group = service_group(workload)?;
        if self.groups.contains_key(&group.name) {
            return None;
        }
        let name = group.name.clone();
        self.groups.insert(name.clone(), group);
        Some(name)
    }
}

/// Whether the workload's namespace is labelled as one with a boundary.
pub(crate) fn is_labelled(workload: &Workload) -> bool {
    let (label, value) = BOUNDARY_LABEL;
    workload
        .namespace_labels
        .get(label)
        .is_some_and(|found| found == value)
}

/// The learned group of a workload's service.
pub(crate) fn service_group(workload: &Workload) -> Option<Group> {
    let equal = |key: &str, value: &str| Criterion {
        key: key.into(),
        value: value.into(),
        op: CriterionOp::Equal,
    };
    Some(Group {
        name: workload.service_group()?,
        kind: GroupKind::Container,
        origin: Some(Tier::Learned),
        comment: String::new(),
        domain: workload.domain.clone(),
        criteria: vec![
            equal("service", &workload.service),
            equal("domain", &workload.domain),
        ],
    })
}

/// Service and domain of a learned group that holds the workloads of that service and no others, as [`service_group`] makes it.
pub(crate) fn service_of_group(group: &Group) -> Option<(&str, &str)> {
    let [service, domain] = group.criteria.as_slice() else {
        return None;
    };
    let exact = |criterion: &Criterion, key: &str| {
        let is_plain = criterion.value != "any" && !criterion.value.contains(['*', '?']);
        criterion.key == key && criterion.op == CriterionOp::Equal && is_plain
    };
    let own = exact(service, "service") && exact(domain, "domain");
    let named = || group.name.as_str() == nv_types::service_group_name(&service.value, &domain.value);
    (own && group.kind == GroupKind::Container && named()).then_some((&service.value, &domain.value))
}

/// A rule from its texts, for tests, examples and tools.
///
/// # Errors
/// [`InvalidPorts`] for the ports; a name that cannot be a group's is reported the same way.
pub fn rule(id: u32, from: &str, to: &str, ports: &str, action: Action) -> Result<Rule, InvalidPorts> {
    let group = |name: &str| {
        GroupName::try_new(name).map_err(|error| InvalidPorts {
            item: name.to_owned(),
            problem: error.problem,
        })
    };
    Ok(Rule {
        id: RuleId(id),
        comment: String::new(),
        from: group(from)?,
        to: group(to)?,
        ports: ports.parse()?,
        applications: Vec::new(),
        action,
        disable: false,
        created: Timestamp(0),
        modified: Timestamp(0),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use nv_types::Interface;

    /// A workload that runs, with one address; the service has the workload's name.
    pub(crate) fn workload(id: &str, node: &str, address: &str) -> Workload {
        Workload {
            name: id.into(),
            runtime: "test".into(),
            image: format!("{id}:1"),
            interfaces: vec![Interface {
                name: "eth0".into(),
                index: 2,
                host_index: Some(7),
                addresses: vec![(address.parse().unwrap(), 24)],
                ..Interface::default()
            }],
            ..Workload::new(id.parse().unwrap(), node.parse().unwrap(), id)
        }
    }

    #[test]
    fn one_mode_for_all_services() {
        let mut input = PolicyInput::default();
        let web = workload("web", "n1", "10.0.0.2");
        let group = web.service_group().unwrap();
        assert_eq!(input.mode_of(&web), Some(Mode::Discover), "of new services");
        input.modes.insert(group.clone(), Mode::Monitor);
        assert_eq!(input.service_mode(&group), Mode::Monitor);
        input.settings.network_mode = Some(Mode::Protect);
        assert_eq!(
            (input.service_mode(&group), input.mode_of(&web)),
            (Mode::Protect, Some(Mode::Protect))
        );
        input.settings.network_mode = None;
        assert_eq!(input.mode_of(&web), Some(Mode::Monitor), "its own comes back");
    }

    #[test]
    fn tiers_come_in_order_and_keep_their_own() {
        let mut input = PolicyInput::default();
        for id in [10_002, 3, 110_001, 1, 100_000, 10_001] {
            input
                .rules
                .push(rule(id, "containers", "containers", "any", Action::Allow).unwrap());
        }
        let order: Vec<_> = input.ordered_rules().map(|rule| rule.id.0).collect();
        assert_eq!(order, [100_000, 110_001, 3, 1, 10_002, 10_001]);
    }
}
