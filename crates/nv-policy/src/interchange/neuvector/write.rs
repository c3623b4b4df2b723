//! To NeuVector's custom resources: one object for each target, with the rules that end (or, where that end is no group of
//! workloads, begin) there. Order across objects is kept by priority, which falls where allow and deny alternate.

use std::collections::{BTreeMap, BTreeSet};

use nv_types::{Group, GroupKind, GroupName, Mode, Rule, reserved};
use serde_json::{Map, Value, json};

use super::{differences, is_service_value, only_domain};
use crate::input::PolicyInput;
use crate::interchange::Selection;
use crate::interchange::note::{Note, Reason, Severity};

const API_VERSION: &str = "neuvector.com/v1";
/// Priorities that there are, 0 included.
const LEVELS: usize = 101;

/// One object in the making.
struct Target<'r> {
    group: &'r GroupName,
    ingress: Vec<(&'r Rule, usize)>,
    egress: Vec<(&'r Rule, usize)>,
}

pub(crate) fn write(
    input: &PolicyInput,
    rules: &[&Rule],
    what: &Selection,
    notes: &mut Vec<Note>,
) -> Vec<Value> {
    let rules: Vec<&Rule> = rules
        .iter()
        .copied()
        .filter(|rule| sayable(input, rule, notes))
        .collect();
    let levels = levels(&rules);
    if let Some(level) = levels.last().filter(|level| **level >= LEVELS) {
        let text = format!(
            "allow and deny alternate {level} times, and there are {LEVELS} priorities: the order of the last rules is that of the objects only"
        );
        notes.push(Note::general(Severity::Changed, Reason::Differs(text)));
    }
    let mut targets: Vec<Target<'_>> = Vec::new();
    let mut places: BTreeMap<&GroupName, usize> = BTreeMap::new();
    for (rule, level) in rules.iter().zip(levels) {
        let is_ingress = is_workloads(input, &rule.to);
        let group = if is_ingress { &rule.to } else { &rule.from };
        let place = *places.entry(group).or_insert_with(|| {
            targets.push(Target {
                group,
                ingress: Vec::new(),
                egress: Vec::new(),
            });
            targets.len() - 1
        });
        if let Some(target) = targets.get_mut(place) {
            let list = if is_ingress {
                &mut target.ingress
            } else {
                &mut target.egress
            };
            list.push((rule, level));
        }
    }
    let mut said: BTreeSet<&GroupName> = rules.iter().flat_map(|rule| [&rule.from, &rule.to]).collect();
    let wanted = |name: &GroupName, said: &BTreeSet<&GroupName>| {
        said.contains(name)
            || input.groups.get(name).is_some_and(|group| what.has_group(group))
            || (name.as_str() == reserved::NODES && what.groups.is_none())
    };
    for group in input.modes.keys().filter(|group| wanted(group, &said)) {
        if !places.contains_key(group) {
            targets.push(Target {
                group,
                ingress: Vec::new(),
                egress: Vec::new(),
            });
        }
    }
    said.extend(targets.iter().map(|target| target.group));
    for group in &said {
        group_notes(input, group, notes);
    }
    let mut names = BTreeSet::new();
    let mut documents: Vec<Value> = targets
        .iter()
        .map(|target| object(input, target, &mut names))
        .collect();
    for group in input.groups.values() {
        let alone = !said.contains(&group.name) && what.has_group(group);
        if alone && !reserved::ALL.contains(&group.name.as_str()) && group_sayable(group, notes) {
            group_notes(input, &group.name, notes);
            documents.push(definition(group, &mut names));
        }
    }
    documents
}

/// Which run of equal actions each rule is in.
fn levels(rules: &[&Rule]) -> Vec<usize> {
    let mut level = 0;
    let mut before = None;
    rules
        .iter()
        .map(|rule| {
            if before.is_some_and(|action| action != rule.action) {
                level += 1;
            }
            before = Some(rule.action);
            level
        })
        .collect()
}

fn is_workloads(input: &PolicyInput, name: &GroupName) -> bool {
    match name.as_str() {
        reserved::CONTAINERS => true,
        reserved::EXTERNAL | reserved::NODES | reserved::INGRESS => false,
        _ => input
            .groups
            .get(name)
            .is_none_or(|group| group.kind == GroupKind::Container),
    }
}

/// Whether both ends of the rule can be named.
fn sayable(input: &PolicyInput, rule: &Rule, notes: &mut Vec<Note>) -> bool {
    for end in [&rule.from, &rule.to] {
        let name = end.as_str();
        let made = input.groups.get(end);
        let problem = if reserved::ALL.contains(&name) {
            None
        } else if ["fed.", "Host:", "Workload:", "nv.ip."]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            Some("is of a kind that the form cannot name")
        } else if made.is_some_and(|group| !matches!(group.kind, GroupKind::Container | GroupKind::Address)) {
            Some("is neither a group of workloads nor of addresses")
        } else if made.is_some_and(|group| group.criteria.is_empty()) {
            Some("has no criteria")
        } else {
            None
        };
        if let Some(problem) = problem {
            let reason = Reason::RuleLeftOut(format!("'{end}' {problem}"));
            notes.push(Note::of_rule(Severity::Lost, rule.id, reason));
            return false;
        }
    }
    true
}

fn group_sayable(group: &Group, notes: &mut Vec<Note>) -> bool {
    let sayable = matches!(group.kind, GroupKind::Container | GroupKind::Address)
        && !group.criteria.is_empty()
        && !["fed.", "Host:", "Workload:", "nv.ip."]
            .iter()
            .any(|prefix| group.name.as_str().starts_with(prefix));
    if !sayable {
        let reason = Reason::Value("the group was left out: the form cannot define it".to_owned());
        notes.push(Note::of_group(Severity::Lost, &group.name, reason));
    }
    sayable
}

fn group_notes(input: &PolicyInput, name: &GroupName, notes: &mut Vec<Note>) {
    if reserved::ALL.contains(&name.as_str()) {
        return;
    }
    let texts = match input.groups.get(name) {
        Some(group) => differences(group),
        None => vec!["the group is not there; it is referred to by name".to_owned()],
    };
    for text in texts {
        notes.push(Note::of_group(Severity::Changed, name, Reason::Differs(text)));
    }
}

/// A name that Kubernetes takes, used once.
fn object_name(group: &str, names: &mut BTreeSet<String>) -> String {
    let mut name: String = group
        .chars()
        .map(|c| {
            let c = c.to_ascii_lowercase();
            if c.is_ascii_alphanumeric() || c == '.' || c == '-' {
                c
            } else {
                '-'
            }
        })
        .take(200)
        .collect();
    let inner = name.trim_matches(['.', '-']).to_owned();
    name = if inner.is_empty() {
        "group".to_owned()
    } else {
        inner
    };
    let mut unique = name.clone();
    let mut number = 2;
    while !names.insert(unique.clone()) {
        unique = format!("{name}-{number}");
        number += 1;
    }
    unique
}

fn object(input: &PolicyInput, target: &Target<'_>, names: &mut BTreeSet<String>) -> Value {
    let name = object_name(target.group.as_str(), names);
    let namespace = input
        .groups
        .get(target.group)
        .and_then(|group| only_domain(&group.criteria))
        .filter(|domain| !domain.is_empty());
    let mut metadata = Map::new();
    metadata.insert("name".to_owned(), json!(name));
    let kind = if let Some(namespace) = namespace {
        metadata.insert("namespace".to_owned(), json!(namespace));
        "NvSecurityRule"
    } else {
        "NvClusterSecurityRule"
    };
    let mut selector = json!({ "selector": selector(input, target.group) });
    if let (Value::Object(map), Some(mode)) = (&mut selector, input.modes.get(target.group)) {
        map.insert("policymode".to_owned(), json!(Mode::name(*mode)));
    }
    let rules = |rules: &[(&Rule, usize)], is_ingress: bool| -> Vec<Value> {
        rules
            .iter()
            .enumerate()
            .map(|(index, (rule, level))| {
                let (word, peer) = if is_ingress {
                    ("ingress", &rule.from)
                } else {
                    ("egress", &rule.to)
                };
                let applications: Vec<_> = if rule.applications.is_empty() {
                    vec!["any"]
                } else {
                    rule.applications.iter().map(|app| app.name()).collect()
                };
                json!({
                    "name": format!("{name}-{word}-{index}"),
                    "selector": self::selector(input, peer),
                    "ports": rule.ports.to_string(),
                    "applications": applications,
                    "action": rule.action.to_string(),
                    "priority": (LEVELS - 1).saturating_sub(*level),
                })
            })
            .collect()
    };
    json!({
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": metadata,
        "spec": {
            "target": selector,
            "ingress": rules(&target.ingress, true),
            "egress": rules(&target.egress, false),
        },
    })
}

fn definition(group: &Group, names: &mut BTreeSet<String>) -> Value {
    json!({
        "apiVersion": API_VERSION,
        "kind": "NvGroupDefinition",
        "metadata": {"name": object_name(group.name.as_str(), names)},
        "spec": {"selector": group_selector(group)},
    })
}

fn selector(input: &PolicyInput, name: &GroupName) -> Value {
    match input.groups.get(name) {
        _ if reserved::ALL.contains(&name.as_str()) => json!({"name": name.as_str(), "criteria": []}),
        Some(group) => group_selector(group),
        None => json!({"name": name.as_str(), "name_referral": true, "criteria": []}),
    }
}

fn group_selector(group: &Group) -> Value {
    let end = only_domain(&group.criteria)
        .filter(|domain| !domain.is_empty())
        .map(|domain| format!(".{domain}"));
    let is_service = group.name.as_str().starts_with("nv.");
    let criteria: Vec<Value> = group
        .criteria
        .iter()
        // NeuVector knows no empty domain: a service outside of any domain has only its name.
        .filter(|criterion| !(is_service && criterion.key == "domain" && criterion.value.is_empty()))
        .map(|criterion| {
            let value = match &end {
                Some(end)
                    if is_service_value(criterion) && !matches!(criterion.value.as_str(), "" | "any") =>
                {
                    format!("{}{end}", criterion.value)
                }
                _ => criterion.value.clone(),
            };
            json!({"key": criterion.key, "op": criterion.op.as_str(), "value": value})
        })
        .collect();
    let mut selector = json!({"name": group.name.as_str(), "criteria": criteria});
    if let (Value::Object(map), false) = (&mut selector, group.comment.is_empty()) {
        map.insert("comment".to_owned(), json!(group.comment));
    }
    selector
}
