//! Groups as ends of one-sided policies.

use std::collections::{BTreeMap, BTreeSet};

use nv_types::{Group, GroupKind, GroupName, Rule, reserved};

use crate::input::PolicyInput;
use crate::interchange::Selection;
use crate::interchange::ends::{End, WORLD, addresses};
use crate::interchange::note::{Note, Reason, Severity};
use crate::interchange::select::{Need, Sel};

/// Groups as ends, each looked at once.
pub(super) struct Ends<'a> {
    pub(super) input: &'a PolicyInput,
    pub(super) known: BTreeMap<GroupName, Result<Found, String>>,
}

/// A group as an end.
#[derive(Clone)]
pub(super) struct Found {
    pub(super) end: End,
    /// Addresses that could not be said.
    pub(super) lost: Vec<String>,
    /// Labels that stand for a service.
    by_labels: bool,
}

impl Ends<'_> {
    /// The group as an end, or why the forms cannot say it.
    pub(super) fn find(&mut self, name: &GroupName) -> Result<Found, String> {
        if let Some(found) = self.known.get(name) {
            return found.clone();
        }
        let found = self.look(name);
        self.known.insert(name.clone(), found.clone());
        found
    }

    fn look(&self, name: &GroupName) -> Result<Found, String> {
        let found = |end| {
            Ok(Found {
                end,
                lost: Vec::new(),
                by_labels: false,
            })
        };
        match name.as_str() {
            reserved::CONTAINERS => return found(End::all()),
            reserved::EXTERNAL => return found(End::External),
            reserved::NODES => return found(End::Nodes),
            reserved::INGRESS => return Err(format!("the form has no '{name}'")),
            _ => {}
        }
        let Some(group) = self.input.groups.get(name) else {
            return Err(format!("there is no group '{name}'"));
        };
        match group.kind {
            GroupKind::Address => {
                let (all, lost) = addresses(&group.criteria);
                if all.is_empty() {
                    return Err(format!("the form can say no address of '{name}'"));
                }
                // The forms do not tell all addresses from the outside.
                if WORLD.iter().all(|cidr| all.contains(*cidr)) {
                    return found(End::External);
                }
                Ok(Found {
                    end: End::Addresses(all),
                    lost,
                    by_labels: false,
                })
            }
            GroupKind::Container if group.criteria.is_empty() => {
                Err(format!("'{name}' has no criteria, so it matches nobody"))
            }
            GroupKind::Container => match Sel::from_criteria(&group.criteria) {
                Ok(sel) if sel.is_all() => Err(format!("the form cannot tell '{name}' from all workloads")),
                Ok(sel) => found(End::Pods(sel)),
                Err(problem) => match self.service_labels(group) {
                    Some(sel) => Ok(Found {
                        end: End::Pods(sel),
                        lost: Vec::new(),
                        by_labels: true,
                    }),
                    None => Err(format!("the form cannot say '{name}': {problem}")),
                },
            },
            GroupKind::IpService | GroupKind::External | GroupKind::Node => {
                Err(format!("the form has nothing like '{name}'"))
            }
        }
    }

    /// Labels that all workloads of a service have, and nobody else in its domain.
    fn service_labels(&self, group: &Group) -> Option<Sel> {
        if !group.is_service() || group.domain.is_empty() {
            return None;
        }
        let (members, others): (Vec<_>, Vec<_>) = self
            .input
            .workloads
            .values()
            .filter(|workload| workload.domain == group.domain)
            .partition(|workload| workload.service_group().as_ref() == Some(&group.name));
        let first = members.first()?;
        let common: Vec<(&String, &String)> = first
            .labels
            .iter()
            .filter(|(key, value)| members.iter().all(|w| w.labels.get(*key) == Some(*value)))
            .filter(|(key, _)| !is_generated(key))
            .collect();
        let select = |labels: &[(&String, &String)]| {
            let sel = labels
                .iter()
                .try_fold(Sel::in_domain(&group.domain), |sel, (key, value)| {
                    sel.with(key.as_str(), Need::any_of([value.as_str()]))
                })?;
            // Only what a selector of the form can say.
            let sayable = Sel::from_criteria(&sel.criteria()) == Ok(sel.clone());
            (sayable && !others.iter().any(|other| sel.matches(other))).then_some(sel)
        };
        let one = common
            .iter()
            .find_map(|label| select(std::slice::from_ref(label)));
        one.or_else(|| select(&common).filter(|_| !common.is_empty()))
    }

    /// What is lost of the groups of these rules.
    pub(super) fn note_groups(&self, rules: &[&Rule], what: &Selection, notes: &mut Vec<Note>) {
        let mut add =
            |severity, group: &GroupName, reason| notes.push(Note::of_group(severity, group, reason));
        for (name, found) in &self.known {
            let Ok(found) = found else { continue };
            let Some(group) = self.input.groups.get(name) else {
                continue;
            };
            for address in &found.lost {
                let text = format!("the form cannot say the address '{address}'; it was left out");
                add(Severity::Lost, name, Reason::Value(text));
            }
            if found.by_labels {
                let text = "the service is said by the labels that its workloads have now".to_owned();
                add(Severity::Changed, name, Reason::Differs(text));
            } else if found.end.group().is_none_or(|(own, _)| own != *name) {
                add(
                    Severity::Lost,
                    name,
                    Reason::NotCarried("groups have no names in the form"),
                );
            }
            if !group.comment.is_empty() {
                add(
                    Severity::Lost,
                    name,
                    Reason::NotCarried("groups have no comments in the form"),
                );
            }
        }
        let used: BTreeSet<_> = rules.iter().flat_map(|rule| [&rule.from, &rule.to]).collect();
        for group in self.input.groups.values() {
            if what.has_group(group) && !used.contains(&group.name) {
                let text = "the group was left out: the form knows groups only as ends of rules".to_owned();
                add(Severity::Lost, &group.name, Reason::Value(text));
            }
        }
    }
}

/// Labels that a controller makes up for each generation of its pods.
fn is_generated(key: &str) -> bool {
    matches!(
        key,
        "pod-template-hash"
            | "controller-revision-hash"
            | "pod-template-generation"
            | "controller-uid"
            | "job-name"
    ) || [
        "statefulset.kubernetes.io/",
        "batch.kubernetes.io/",
        "apps.kubernetes.io/",
        "io.kubernetes.",
    ]
    .iter()
    .any(|prefix| key.starts_with(prefix))
}
