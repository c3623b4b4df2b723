//! Rules that can never match, and rules that contradict one before them.

use std::collections::{BTreeMap, BTreeSet};

use nv_types::{Action, Application, GroupKind, GroupName, IpPrefix, Rule, RuleId, reserved};

use crate::compile::Diagnostic;
use crate::group::{Body, read};
use crate::input::PolicyInput;
use crate::party::{Book, is_present};
use crate::space::PortSpace;

/// Most rules that one diagnostic names.
const MAX_NAMED: usize = 8;

/// Most groups that others are compared with, to see which hold them.
const MAX_WIDE: usize = 1000;

/// Rules between two groups, in the order in which they are tried.
#[derive(Default)]
struct Before<'a> {
    rules: Vec<(&'a Rule, PortSpace)>,
    /// Ports that rules of every application take.
    all: PortSpace,
    /// Ports that rules of one application take, beside those.
    by_app: BTreeMap<Application, PortSpace>,
    /// Ports of rules that allow, and of those that deny, for whatever application.
    by_action: [PortSpace; 2],
}

/// Looks at every rule that is enabled and whose groups are there. [`Diagnostic::Shadowed`]: whatever workloads come, earlier rules
/// match all that it does. [`Diagnostic::Conflict`]: an earlier rule of the other action takes a part of it.
///
/// A rule is compared with those of the same groups, with those of `containers`, which holds every workload, and with those of groups
/// that hold all of its groups as exact values of their criteria, or their prefixes, show; what globs, expressions and names hold is not
/// compared, so a rule that is not named may still be shadowed. [`Diagnostic::Idle`]: one of its groups holds nobody at present; only
/// told where there are workloads at all. Diagnostics are in the order in which rules are tried.
#[must_use]
pub fn review(input: &PolicyInput) -> Vec<Diagnostic> {
    let icmp_policy = input.settings.icmp_policy;
    let mut seen: BTreeMap<(&GroupName, &GroupName), Before<'_>> = BTreeMap::new();
    let mut found = Vec::new();
    let wider = wider(input);
    let populated = populated(input);
    for rule in input.ordered_rules().filter(|rule| !rule.disable) {
        let space = PortSpace::of(&rule.ports, icmp_policy);
        let ends = |group: &GroupName| -> Vec<GroupName> {
            let others = wider.get(group).into_iter().flatten();
            std::iter::once(group).chain(others).cloned().collect()
        };
        let (from, to) = (ends(&rule.from), ends(&rule.to));
        let pairs = from.iter().flat_map(|from| to.iter().map(move |to| (from, to)));
        if let Some(populated) = &populated {
            let idle = [&rule.from, &rule.to].into_iter();
            let idle = idle.filter(|group| is_known(input, group) && !populated.contains(*group));
            found.extend(idle.take(1).map(|group| Diagnostic::Idle {
                rule: rule.id,
                name: group.clone(),
            }));
        }
        let before: Vec<_> = pairs.filter_map(|pair| seen.get(&pair)).collect();
        if is_shadowed(rule, &space, &before) {
            let by = meeting(rule, &space, &before, None);
            found.push(Diagnostic::Shadowed { rule: rule.id, by });
        } else {
            let other = 1 - action(rule);
            if before
                .iter()
                .any(|before| !space.common(&before.by_action[other]).is_empty())
            {
                let with = meeting(rule, &space, &before, Some(other));
                if !with.is_empty() {
                    found.push(Diagnostic::Conflict { rule: rule.id, with });
                }
            }
        }
        let entry = seen.entry((&rule.from, &rule.to)).or_default();
        if rule.applications.is_empty() {
            entry.all.add_all(&space);
        }
        for app in &rule.applications {
            entry.by_app.entry(*app).or_default().add_all(&space);
        }
        entry.by_action[action(rule)].add_all(&space);
        entry.rules.push((rule, space));
    }
    found
}

fn is_known(input: &PolicyInput, group: &GroupName) -> bool {
    input.groups.contains_key(group) || reserved::ALL.contains(&group.as_str())
}

/// Groups that hold somebody now; `None` where there are no workloads to go by.
fn populated(input: &PolicyInput) -> Option<BTreeSet<GroupName>> {
    let book = Book::new(input);
    let present: Vec<_> = input
        .workloads
        .values()
        .filter(|workload| is_present(workload))
        .collect();
    if present.is_empty() {
        return None;
    }
    let mut found: BTreeSet<GroupName> = present
        .into_iter()
        .flat_map(|workload| book.workload(workload).groups)
        .collect();
    // Outside there is always somebody; who comes in through an overlay, only where a node has one.
    let tunnels = input.nodes.values().any(|node| !node.tunnels.is_empty());
    let ingress = tunnels.then_some(reserved::INGRESS);
    let outside = [reserved::EXTERNAL, reserved::NODES].into_iter().chain(ingress);
    found.extend(outside.filter_map(|name| GroupName::try_new(name).ok()));
    for group in input
        .groups
        .values()
        .filter(|group| group.kind == GroupKind::Address)
    {
        if let Body::Addresses(own) = read(group, input).0
            && !(own.prefixes.is_empty() && own.named.is_empty())
        {
            found.insert(group.name.clone());
        }
    }
    Some(found)
}

/// Of every group those that hold all that it does: [`Selector::is_within`](crate::Selector), or all of its prefixes.
fn wider(input: &PolicyInput) -> BTreeMap<GroupName, Vec<GroupName>> {
    let bodies: Vec<_> = input
        .groups
        .values()
        .map(|group| (group, read(group, input).0))
        .collect();
    let containers = GroupName::try_new(reserved::CONTAINERS).ok();
    // The group of a service holds nothing but the service: it can only be held.
    let wide: Vec<_> = bodies
        .iter()
        .filter(|(group, _)| !group.is_service())
        .take(MAX_WIDE)
        .collect();
    let mut found = BTreeMap::new();
    for (group, body) in &bodies {
        let holds = |other: &Body| match (body, other) {
            (Body::Workloads(own), Body::Workloads(other)) => own.is_within(other),
            (Body::Addresses(own), Body::Addresses(other)) => {
                own.patterns.is_empty()
                    && own.prefixes.iter().all(|own| {
                        let within = |wide: &IpPrefix| wide.len <= own.len && wide.contains(own.addr);
                        other.prefixes.iter().any(within)
                    })
            }
            _ => false,
        };
        let others = wide
            .iter()
            .filter(|(other, body)| other.name != group.name && holds(body));
        let mut names: Vec<_> = others.map(|(other, _)| other.name.clone()).collect();
        if matches!(body, Body::Workloads(_)) {
            names.extend(containers.clone());
        }
        found.insert(group.name.clone(), names);
    }
    found
}

const fn action(rule: &Rule) -> usize {
    match rule.action {
        Action::Allow => 0,
        Action::Deny => 1,
    }
}

fn is_shadowed(rule: &Rule, space: &PortSpace, before: &[&Before<'_>]) -> bool {
    let left = before
        .iter()
        .fold(space.clone(), |left, before| left.without(&before.all));
    if left.is_empty() {
        return true;
    }
    !rule.applications.is_empty()
        && rule.applications.iter().all(|app| {
            let taken = before.iter().filter_map(|before| before.by_app.get(app));
            taken
                .fold(left.clone(), |left, taken| left.without(taken))
                .is_empty()
        })
}

/// Earlier rules that share a port and an application with this one, of one action or of both.
fn meeting(rule: &Rule, space: &PortSpace, before: &[&Before<'_>], only: Option<usize>) -> Vec<RuleId> {
    let mut found = Vec::new();
    for (other, others) in before.iter().flat_map(|before| &before.rules) {
        let apps = rule.applications.is_empty()
            || other.applications.is_empty()
            || rule
                .applications
                .iter()
                .any(|app| other.applications.contains(app));
        if apps && only.is_none_or(|only| action(other) == only) && !space.common(others).is_empty() {
            found.push(other.id);
            if found.len() == MAX_NAMED {
                break;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::rule;
    use nv_types::Action::{Allow, Deny};

    type Line<'a> = (u32, &'a str, &'a str, &'a str, Action, &'a [Application]);

    fn input(rules: &[Line<'_>]) -> PolicyInput {
        let mut input = PolicyInput::default();
        for name in ["a", "b"] {
            let workload = crate::input::tests::workload(name, "n1", "10.0.0.2");
            input.add_service_group(&workload);
        }
        for (id, from, to, ports, action, apps) in rules {
            let mut rule = rule(*id, from, to, ports, *action).unwrap();
            rule.applications = apps.to_vec();
            input.rules.push(rule);
        }
        input
    }

    fn words(input: &PolicyInput) -> Vec<String> {
        review(input).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_rule_behind_wider_ones_is_named_with_them() {
        let found = words(&input(&[
            (1, "containers", "nv.b", "tcp/1-100", Allow, &[]),
            (2, "nv.a", "nv.b", "tcp/101-200", Allow, &[]),
            (3, "nv.a", "nv.b", "tcp/50-150", Allow, &[Application::HTTP]),
            (4, "nv.a", "nv.b", "tcp/150-201", Allow, &[]),
            (5, "nv.b", "nv.a", "tcp/1", Allow, &[]),
        ]));
        assert_eq!(
            found,
            ["rule 3 can never match: rules 2, 1 come first and match all that it does"]
        );
    }

    #[test]
    fn applications_shadow_only_themselves() {
        let found = words(&input(&[
            (1, "nv.a", "nv.b", "any", Allow, &[Application::HTTP]),
            (2, "nv.a", "nv.b", "tcp/80", Allow, &[]),
            (3, "nv.a", "nv.b", "tcp/81", Allow, &[Application::HTTP]),
            (
                4,
                "nv.a",
                "nv.b",
                "tcp/81",
                Allow,
                &[Application::HTTP, Application::SSH],
            ),
        ]));
        assert_eq!(
            found,
            ["rule 3 can never match: rule 1 comes first and matches all that it does"]
        );
    }

    #[test]
    fn contradictions_in_part_are_named() {
        let found = words(&input(&[
            (1, "nv.a", "nv.b", "tcp/80-90", Deny, &[]),
            (2, "nv.a", "nv.b", "tcp/85-95", Allow, &[]),
            (3, "nv.a", "nv.b", "udp/53", Allow, &[]),
        ]));
        assert_eq!(
            found,
            ["rule 2 holds in part only: rule 1 comes first and decides otherwise where they meet"]
        );
    }

    fn user_group(name: &str, kind: GroupKind, criteria: &[(&str, &str)]) -> nv_types::Group {
        let criterion = |(key, value): &(&str, &str)| crate::criteria::tests::criterion(key, "=", value);
        nv_types::Group {
            name: name.parse().unwrap(),
            kind,
            origin: Some(nv_types::Tier::User),
            comment: String::new(),
            domain: String::new(),
            criteria: criteria.iter().map(criterion).collect(),
        }
    }

    #[test]
    fn groups_that_hold_a_rules_groups_shadow_it() {
        let mut input = input(&[
            (1, "shop", "net", "tcp/80", Allow, &[]),
            (2, "web", "host", "tcp/80", Allow, &[]),
            (3, "app-or-web", "host", "tcp/80", Allow, &[]),
            (4, "net", "web", "tcp/80", Deny, &[]),
            (5, "host", "shop", "tcp/80", Allow, &[]),
        ]);
        for group in [
            user_group("shop", GroupKind::Container, &[("team", "s*")]),
            user_group("web", GroupKind::Container, &[("app", "web"), ("team", "shop")]),
            user_group(
                "app-or-web",
                GroupKind::Container,
                &[("app", "web"), ("app", "app")],
            ),
            user_group("net", GroupKind::Address, &[("address", "192.0.2.0/24")]),
            user_group("host", GroupKind::Address, &[("address", "192.0.2.7")]),
        ] {
            input.groups.insert(group.name.clone(), group);
        }
        assert_eq!(
            words(&input),
            ["rule 2 can never match: rule 1 comes first and matches all that it does"]
        );
    }

    #[test]
    fn a_rule_that_matches_nobody_at_present_is_told_where_there_is_somebody() {
        let mut input = input(&[
            (1, "nv.a", "nv.b", "tcp/80", Allow, &[]),
            (2, "nv.a", "names", "tcp/443", Allow, &[]),
            (3, "nv.a", "external", "tcp/443", Allow, &[]),
        ]);
        let names = user_group("names", GroupKind::Address, &[("address", "*.example.com")]);
        input.groups.insert(names.name.clone(), names);
        assert_eq!(words(&input), [""; 0], "without workloads nothing can be said");
        let workload = crate::input::tests::workload("a", "n1", "10.0.0.2");
        input.workloads.insert(workload.id.clone(), workload);
        assert_eq!(
            words(&input),
            [
                "rule 1 matches nobody at present: group 'nv.b' is empty",
                "rule 2 matches nobody at present: group 'names' is empty"
            ]
        );
        assert!(review(&input).iter().all(|found| !found.is_fault()));
        input
            .names
            .put("n1", "a.example.com", &["198.51.100.1".parse().unwrap()].into())
            .unwrap();
        assert_eq!(words(&input).len(), 1);
    }

    #[test]
    fn what_is_disabled_neither_shadows_nor_is_shadowed() {
        let mut input = input(&[
            (1, "nv.a", "nv.b", "any", Allow, &[]),
            (2, "nv.a", "nv.b", "any", Allow, &[]),
        ]);
        assert_eq!(review(&input).len(), 1);
        for at in 0..2 {
            input.rules[at].disable = true;
            assert_eq!(review(&input), []);
            input.rules[at].disable = false;
        }
    }
}
