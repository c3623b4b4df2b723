//! Rules from flows.
//!
//! A flow whose application is known is learned by application, with any port; one whose application stays unknown by
//! port, and past [`LEARNED_PORTS_MAX`] ports a pair becomes any. So a pair of groups has at most two learned rules: one by
//! application and one by port (one rule cannot say 'HTTP anywhere, or anything on port 9000': its ports and applications must
//! both match).

use std::collections::{BTreeMap, BTreeSet};

use nv_types::{
    Action, Application, GroupName, IpProto, PortRange, PortSet, PortSpec, Rule, RuleId, Tier, Timestamp,
};

use crate::input::PolicyInput;

/// Ports of a pair of groups past which a learned rule becomes `any`.
pub const LEARNED_PORTS_MAX: usize = 20;

/// A flow that passed only because of Discover.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Observation {
    /// Group of the client.
    pub from: GroupName,
    /// Group of the server.
    pub to: GroupName,
    /// Protocol.
    pub proto: IpProto,
    /// Server port.
    pub port: u16,
    /// Application; [`Application::UNKNOWN`] when it could not be identified.
    pub app: Application,
}

/// A change to the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleChange {
    /// A rule that is new or has changed.
    Put(Rule),
    /// A rule that says nothing any more.
    Delete(RuleId),
}

/// What was learned between two groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Pair {
    apps: BTreeSet<Application>,
    ports: BTreeSet<PortSpec>,
}

/// Changes to the learned rules after these flows. The same flows in any order give the same rules; flows that a learned rule
/// covers already change nothing. At most one id for each rule is used, from the learned range; when it is used up,
/// nothing more is learned.
#[must_use]
pub fn learn(input: &PolicyInput, flows: &[Observation], now: Timestamp) -> Vec<RuleChange> {
    let mut pairs: BTreeMap<(&GroupName, &GroupName), Vec<&Observation>> = BTreeMap::new();
    for flow in flows {
        pairs.entry((&flow.from, &flow.to)).or_default().push(flow);
    }
    let mut ids = Ids::new(input);
    let mut changes = Vec::new();
    for ((from, to), flows) in pairs {
        let before = |by_app: bool| {
            input.rules.iter().find(|rule| {
                rule.tier() == Tier::Learned
                    && rule.from == *from
                    && rule.to == *to
                    && rule.applications.is_empty() != by_app
            })
        };
        let (by_app, by_port) = (before(true), before(false));
        let mut pair = Pair::default();
        pair.apps.extend(
            by_app
                .into_iter()
                .flat_map(|rule| rule.applications.iter().copied()),
        );
        pair.ports.extend(
            by_port
                .into_iter()
                .flat_map(|rule| rule.ports.specs().iter().copied()),
        );
        pair.add(&flows);
        let apps = (!pair.apps.is_empty()).then(|| (PortSet::any(), pair.apps.iter().copied().collect()));
        let ports =
            (!pair.ports.is_empty()).then(|| (PortSet::from_specs(pair.ports.iter().copied()), Vec::new()));
        for (before, wanted) in [(by_app, apps), (by_port, ports)] {
            changes.extend(change(before, wanted, from, to, &mut ids, now));
        }
    }
    changes
}

impl Pair {
    fn add(&mut self, flows: &[&Observation]) {
        for flow in flows.iter().filter(|flow| flow.app != Application::UNKNOWN) {
            self.apps.insert(flow.app);
            // The port was learned before the application was known: it is the application that matters.
            self.ports.remove(&spec(flow));
        }
        let identified: BTreeSet<_> = flows
            .iter()
            .filter(|flow| flow.app != Application::UNKNOWN)
            .map(|flow| spec(flow))
            .collect();
        for flow in flows.iter().filter(|flow| flow.app == Application::UNKNOWN) {
            let spec = spec(flow);
            if !self.ports.contains(&PortSpec::Any) && !identified.contains(&spec) {
                self.ports.insert(spec);
            }
        }
        if self.ports.len() > LEARNED_PORTS_MAX {
            self.ports = BTreeSet::from([PortSpec::Any]);
        }
    }
}

fn spec(flow: &Observation) -> PortSpec {
    let proto = flow.proto.for_policy();
    if proto == IpProto::ICMP {
        PortSpec::Icmp
    } else if proto.has_ports() {
        PortSpec::Ports(
            proto,
            PortRange {
                first: flow.port,
                last: flow.port,
            },
        )
    } else {
        PortSpec::Any
    }
}

fn change(
    before: Option<&Rule>,
    wanted: Option<(PortSet, Vec<Application>)>,
    from: &GroupName,
    to: &GroupName,
    ids: &mut Ids,
    now: Timestamp,
) -> Option<RuleChange> {
    match (before, wanted) {
        (None, None) => None,
        (Some(rule), None) => Some(RuleChange::Delete(rule.id)),
        (Some(rule), Some((ports, applications))) => {
            if rule.ports == ports && rule.applications == applications {
                return None;
            }
            Some(RuleChange::Put(Rule {
                ports,
                applications,
                modified: now,
                ..rule.clone()
            }))
        }
        (None, Some((ports, applications))) => Some(RuleChange::Put(Rule {
            id: ids.next()?,
            comment: String::new(),
            from: from.clone(),
            to: to.clone(),
            ports,
            applications,
            action: Action::Allow,
            disable: false,
            created: now,
            modified: now,
        })),
    }
}

/// Free ids of learned rules: one above the highest, else the smallest that is free.
struct Ids {
    used: BTreeSet<u32>,
}

impl Ids {
    fn new(input: &PolicyInput) -> Self {
        Self {
            used: input.rules.iter().map(|rule| rule.id.0).collect(),
        }
    }

    fn next(&mut self) -> Option<RuleId> {
        let (first, last) = RuleId::LEARNED;
        let above = self
            .used
            .range(first..=last)
            .next_back()
            .map_or(first, |highest| highest + 1);
        let id = if above <= last {
            above
        } else {
            (first..=last).find(|id| !self.used.contains(id))?
        };
        self.used.insert(id);
        Some(RuleId(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::rule;
    use proptest::prelude::*;

    fn flow(port: u16, app: Application) -> Observation {
        Observation {
            from: "nv.web".parse().unwrap(),
            to: "nv.app".parse().unwrap(),
            proto: IpProto::TCP,
            port,
            app,
        }
    }

    fn apply(input: &mut PolicyInput, changes: Vec<RuleChange>) {
        for change in changes {
            match change {
                RuleChange::Put(rule) => match input.rules.iter_mut().find(|known| known.id == rule.id) {
                    Some(known) => *known = rule,
                    None => input.rules.push(rule),
                },
                RuleChange::Delete(id) => input.rules.retain(|rule| rule.id != id),
            }
        }
    }

    fn texts(input: &PolicyInput) -> Vec<String> {
        input
            .rules
            .iter()
            .map(|rule| format!("{} {:?}", rule.ports, rule.applications))
            .collect()
    }

    #[test]
    fn by_application_when_known_by_port_when_not() {
        let mut input = PolicyInput::default();
        let flows = [
            flow(8080, Application::HTTP),
            flow(9000, Application::UNKNOWN),
            flow(80, Application::HTTP),
        ];
        let changes = learn(&input, &flows, Timestamp(1));
        apply(&mut input, changes);
        assert_eq!(texts(&input), ["any [HTTP]", "tcp/9000 []"]);
        assert_eq!(input.rules[0].id, RuleId(10_000));
        assert!(learn(&input, &flows, Timestamp(2)).is_empty(), "nothing new");
        let changes = learn(&input, &[flow(9000, Application::REDIS)], Timestamp(3));
        apply(&mut input, changes);
        assert_eq!(texts(&input), ["any [HTTP, Redis]"]);
    }

    #[test]
    fn a_scan_does_not_explode_into_rules() {
        let input = PolicyInput::default();
        let flows: Vec<_> = (1..=1000).map(|port| flow(port, Application::UNKNOWN)).collect();
        let changes = learn(&input, &flows, Timestamp(1));
        assert!(matches!(changes.as_slice(), [RuleChange::Put(rule)] if rule.ports.is_any()));
    }

    #[test]
    fn user_rules_are_left_alone() {
        let mut input = PolicyInput::default();
        input
            .rules
            .push(rule(1, "nv.web", "nv.app", "tcp/80", Action::Deny).unwrap());
        let changes = learn(&input, &[flow(80, Application::UNKNOWN)], Timestamp(1));
        assert!(matches!(changes.as_slice(), [RuleChange::Put(rule)] if rule.id == RuleId(10_000)));
    }

    proptest! {
        #[test]
        fn order_of_arrival_does_not_matter(flows in proptest::collection::vec((1u16..30, 0usize..4), 0..60), seed: u64) {
            let apps = [Application::UNKNOWN, Application::HTTP, Application::REDIS, Application::SSH];
            let flows: Vec<_> = flows.into_iter().map(|(port, app)| flow(port, apps[app])).collect();
            let mut shuffled = flows.clone();
            shuffled.sort_by_key(|flow| (u64::from(flow.port) ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(flow.app.index()));
            let input = PolicyInput::default();
            prop_assert_eq!(learn(&input, &flows, Timestamp(1)), learn(&input, &shuffled, Timestamp(1)));
        }

        /// However flows arrive, in whatever order and in however many parts, the same is learned, and little: scans of many ports, and
        /// ports that are another one each time, become one rule. What a port carries is known or not known, always the same here: one
        /// that is known by now takes the place of what was learned by port before.
        #[test]
        fn what_is_learned_is_bounded_and_does_not_depend_on_how_flows_arrive(
            flows in proptest::collection::vec((0usize..4, 0usize..4, 1u16..60, 0usize..3), 0..400),
            seed: u64,
            part in 1usize..50,
        ) {
            let protocols = [IpProto::TCP, IpProto::UDP, IpProto::ICMP];
            let apps = [Application::UNKNOWN, Application::UNKNOWN, Application::HTTP, Application::REDIS];
            let flows: Vec<_> = flows
                .into_iter()
                .map(|(from, to, port, proto)| Observation {
                    from: format!("nv.s{from}").parse().unwrap(),
                    to: format!("nv.s{to}").parse().unwrap(),
                    proto: protocols[proto],
                    port,
                    app: apps[usize::from(port) % 4 * usize::from(proto < 2)],
                })
                .collect();
            let mut shuffled: Vec<_> = flows.iter().zip(0u64..).collect();
            shuffled.sort_by_key(|(_, place)| (place ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let shuffled: Vec<_> = shuffled.into_iter().map(|(flow, _)| flow.clone()).collect();
            let (mut at_once, mut in_parts) = (PolicyInput::default(), PolicyInput::default());
            apply(&mut at_once, learn(&PolicyInput::default(), &flows, Timestamp(1)));
            for part in shuffled.chunks(part) {
                let changes = learn(&in_parts, part, Timestamp(1));
                apply(&mut in_parts, changes);
            }
            let said = |input: &PolicyInput| -> BTreeSet<_> {
                let rules = input.rules.iter();
                rules.map(|rule| (rule.from.clone(), rule.to.clone(), rule.ports.to_string(), rule.applications.clone())).collect()
            };
            prop_assert_eq!(said(&at_once), said(&in_parts));
            prop_assert!(learn(&in_parts, &flows, Timestamp(2)).is_empty(), "nothing new");
            let pairs: BTreeSet<_> = flows.iter().map(|flow| (&flow.from, &flow.to)).collect();
            prop_assert!(at_once.rules.len() <= 2 * pairs.len());
            for rule in &at_once.rules {
                prop_assert!(rule.ports.specs().len() <= LEARNED_PORTS_MAX);
            }
        }
    }
}
