//! Rules that can never match, and rules that contradict one before them.

use std::collections::BTreeMap;

use nv_types::{Action, Application, GroupKind, GroupName, Rule, RuleId, reserved};

use crate::compile::Diagnostic;
use crate::input::PolicyInput;
use crate::space::PortSpace;

/// Most rules that one diagnostic names.
const MAX_NAMED: usize = 8;

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
/// A rule is compared with those of the same groups and with those of `containers`, which holds every workload; that other groups may
/// hold each other by their criteria is not looked at, so a rule that is not named may still be shadowed. Diagnostics are in the order
/// in which rules are tried.
#[must_use]
pub fn review(input: &PolicyInput) -> Vec<Diagnostic> {
    let icmp_policy = input.settings.icmp_policy;
    let mut seen: BTreeMap<(&GroupName, &GroupName), Before<'_>> = BTreeMap::new();
    let mut found = Vec::new();
    let containers = GroupName::try_new(reserved::CONTAINERS).ok();
    let wider = |group: &GroupName| -> Option<GroupName> {
        let kind = input.groups.get(group)?.kind;
        (kind == GroupKind::Container).then(|| containers.clone())?
    };
    for rule in input.ordered_rules().filter(|rule| !rule.disable) {
        let space = PortSpace::of(&rule.ports, icmp_policy);
        let ends = |group: &GroupName| [Some(group.clone()), wider(group)];
        let (from, to) = (ends(&rule.from), ends(&rule.to));
        let pairs = from
            .iter()
            .flatten()
            .flat_map(|from| to.iter().flatten().map(move |to| (from, to)));
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
