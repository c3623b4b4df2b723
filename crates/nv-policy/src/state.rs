//! A [`PolicyInput`] kept up to date from the keys and values of a store.
//!
//! Values are JSON objects with a version field `v`. One that cannot be read is named in [`PolicyState::problems`] and the
//! last good form of its object stays: one bad value neither opens nor closes the rest.

use std::collections::{BTreeMap, BTreeSet};

use nv_types::{Group, GroupName, Mode, Node, PolicySettings, Rule, RuleId, Workload, WorkloadId, keys};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::input::{PolicyInput, Quarantine};
use crate::names::StoredName;

/// Version of stored values that this code writes and reads.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    v: u32,
    #[serde(flatten)]
    value: T,
}

/// Value of [`keys::mode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredMode {
    /// Mode.
    pub mode: Mode,
}

/// Value of [`keys::ORDER`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StoredOrder {
    /// Ids in list order.
    pub rules: Vec<RuleId>,
}

/// A value that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("value of '{key}' cannot be used: {problem}")]
pub struct BadValue {
    /// Key.
    pub key: String,
    /// What is wrong.
    pub problem: String,
}

/// Writes a value as it is stored.
///
/// # Errors
/// [`BadValue`] when the type has no JSON form; none of nv's types do that.
pub fn encode<T: Serialize>(key: &str, value: &T) -> Result<Vec<u8>, BadValue> {
    serde_json::to_vec(&Envelope { v: VERSION, value }).map_err(|error| BadValue {
        key: key.to_owned(),
        problem: error.to_string(),
    })
}

/// Reads a stored value.
///
/// # Errors
/// [`BadValue`] that says what is wrong.
pub fn decode<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, BadValue> {
    let bad = |problem: String| BadValue {
        key: key.to_owned(),
        problem,
    };
    let version: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(value).map_err(|error| bad(error.to_string()))?;
    match version.get("v").and_then(serde_json::Value::as_u64) {
        Some(found) if found == u64::from(VERSION) => {}
        Some(found) => return Err(bad(format!("it has version {found}, this build reads {VERSION}"))),
        None => return Err(bad("it has no version field 'v'".to_owned())),
    }
    let object = version.into_iter().filter(|(field, _)| field != "v").collect();
    serde_json::from_value(serde_json::Value::Object(object)).map_err(|error| bad(error.to_string()))
}

/// What a change of a key means to a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Touched {
    /// Nothing: another key, or nothing that policy depends on.
    Nothing,
    /// Workloads, addresses of nodes or of names.
    Workloads,
    /// Groups, rules, modes, quarantines or settings.
    Policy,
}

/// Policy, workloads and nodes as a store has them.
#[derive(Debug, Clone, Default)]
pub struct PolicyState {
    /// Its rules are sorted by [`PolicyState::rank`], so that one more costs no new list.
    input: PolicyInput,
    /// Places in the stored order.
    order: BTreeMap<RuleId, usize>,
    problems: BTreeMap<String, String>,
}

impl PolicyState {
    /// The input, with rules in list order.
    #[must_use]
    pub const fn input(&self) -> &PolicyInput {
        &self.input
    }

    /// Keys whose value cannot be used, with the reason.
    #[must_use]
    pub const fn problems(&self) -> &BTreeMap<String, String> {
        &self.problems
    }

    /// Ids of rules in list order, as stored or made good: every rule once.
    #[must_use]
    pub fn order(&self) -> Vec<RuleId> {
        self.input.rules.iter().map(|rule| rule.id).collect()
    }

    /// Takes a value.
    ///
    /// # Errors
    /// [`BadValue`]; the object keeps its last good form and the key is in [`PolicyState::problems`].
    pub fn put(&mut self, key: &str, value: &[u8]) -> Result<Touched, BadValue> {
        match self.try_put(key, value) {
            Ok(touched) => {
                self.problems.remove(key);
                Ok(touched)
            }
            Err(bad) => {
                self.problems.insert(key.to_owned(), bad.problem.clone());
                Err(bad)
            }
        }
    }

    fn try_put(&mut self, key: &str, value: &[u8]) -> Result<Touched, BadValue> {
        if let Some(name) = key.strip_prefix(keys::GROUPS) {
            let group: Group = decode(key, value)?;
            same(key, name, group.name.as_str())?;
            self.input.groups.insert(group.name.clone(), group);
        } else if key.starts_with(keys::RULES) {
            let rule: Rule = decode(key, value)?;
            same(key, key, &keys::rule(rule.id))?;
            self.put_rule(rule);
        } else if key == keys::ORDER {
            self.set_order(places(&decode::<StoredOrder>(key, value)?));
        } else if let Some(name) = key.strip_prefix(keys::MODES) {
            let mode: StoredMode = decode(key, value)?;
            self.input.modes.insert(group_name(key, name)?, mode.mode);
        } else if let Some(id) = key.strip_prefix(keys::QUARANTINES) {
            let quarantine: Quarantine = decode(key, value)?;
            let id = WorkloadId::try_new(id).map_err(|error| BadValue {
                key: key.to_owned(),
                problem: error.to_string(),
            })?;
            self.input.quarantines.insert(id, quarantine);
        } else if key == keys::SETTINGS {
            self.input.settings = decode::<PolicySettings>(key, value)?;
        } else if key.starts_with(keys::WORKLOADS) {
            let workload: Workload = decode(key, value)?;
            same(key, key, &keys::workload(&workload.node, &workload.id))?;
            let before = self.input.workloads.insert(workload.id.clone(), workload.clone());
            let changed = before.is_none_or(|before| before != workload);
            return Ok(if changed {
                Touched::Workloads
            } else {
                Touched::Nothing
            });
        } else if let Some((node, name)) = source_of(key) {
            let stored: StoredName = decode(key, value)?;
            let put = self.input.names.put(node, name, &stored.addresses);
            let changed = put.map_err(|error| BadValue {
                key: key.to_owned(),
                problem: error.to_string(),
            })?;
            return Ok(if changed {
                Touched::Workloads
            } else {
                Touched::Nothing
            });
        } else if key.starts_with(keys::NODES) {
            let node: Node = decode(key, value)?;
            same(key, key, &keys::node(&node.id))?;
            let addresses = node.addresses.clone();
            let before = self.input.nodes.insert(node.id.clone(), node);
            let changed = before.is_none_or(|before| before.addresses != addresses);
            return Ok(if changed {
                Touched::Workloads
            } else {
                Touched::Nothing
            });
        } else {
            return Ok(Touched::Nothing);
        }
        Ok(Touched::Policy)
    }

    /// Takes a deletion.
    pub fn delete(&mut self, key: &str) -> Touched {
        self.problems.remove(key);
        if let Some(name) = key.strip_prefix(keys::GROUPS) {
            self.input.groups.remove(name);
        } else if let Some(id) = key.strip_prefix(keys::RULES) {
            if let Some(at) = id.parse().ok().and_then(|id| self.find_rule(RuleId(id)).ok()) {
                self.input.rules.remove(at);
            }
        } else if key == keys::ORDER {
            self.set_order(BTreeMap::new());
        } else if let Some(name) = key.strip_prefix(keys::MODES) {
            self.input.modes.remove(name);
        } else if let Some(id) = key.strip_prefix(keys::QUARANTINES) {
            self.input.quarantines.remove(id);
        } else if key == keys::SETTINGS {
            self.input.settings = PolicySettings::default();
        } else if let Some((_, id)) = key
            .strip_prefix(keys::WORKLOADS)
            .and_then(|rest| rest.split_once('/'))
        {
            self.input.workloads.remove(id);
            return Touched::Workloads;
        } else if let Some((node, name)) = source_of(key) {
            // A key whose name is none was never taken.
            let was = self.input.names.put(node, name, &BTreeSet::new());
            return if was.unwrap_or_default() {
                Touched::Workloads
            } else {
                Touched::Nothing
            };
        } else if let Some(id) = key.strip_prefix(keys::NODES) {
            if let Ok(id) = nv_types::NodeId::try_new(id) {
                self.input.nodes.remove(&id);
            }
            return Touched::Workloads;
        } else {
            return Touched::Nothing;
        }
        Touched::Policy
    }

    /// Takes everything anew. An object whose value is bad now keeps its last good form.
    pub fn resync<'a>(&mut self, entries: impl IntoIterator<Item = (&'a str, &'a [u8])>) {
        let before = std::mem::take(self);
        let mut bad = Vec::new();
        for (key, value) in entries {
            if self.put(key, value).is_err() {
                bad.push(key);
            }
        }
        for key in bad {
            self.keep(key, &before);
        }
    }

    /// Takes an object's last good form over from another state.
    fn keep(&mut self, key: &str, before: &Self) {
        let problem = self.problems.get(key).cloned();
        if let Some(group) = key
            .strip_prefix(keys::GROUPS)
            .and_then(|name| before.input.groups.get(name))
        {
            self.input.groups.insert(group.name.clone(), group.clone());
        } else if let Some(rule) = key
            .strip_prefix(keys::RULES)
            .and_then(|id| id.parse().ok())
            .and_then(|id| before.find_rule(RuleId(id)).ok())
            .and_then(|at| before.input.rules.get(at))
        {
            self.put_rule(rule.clone());
        } else if let Some((name, mode)) = key
            .strip_prefix(keys::MODES)
            .and_then(|name| before.input.modes.get_key_value(name))
        {
            self.input.modes.insert(name.clone(), *mode);
        } else if let Some((id, quarantine)) = key
            .strip_prefix(keys::QUARANTINES)
            .and_then(|id| before.input.quarantines.get_key_value(id))
        {
            self.input.quarantines.insert(id.clone(), quarantine.clone());
        } else if key == keys::ORDER {
            self.set_order(before.order.clone());
        } else if key == keys::SETTINGS {
            self.input.settings = before.input.settings.clone();
        } else if let Some(workload) = key
            .strip_prefix(keys::WORKLOADS)
            .and_then(|rest| rest.split_once('/'))
            .and_then(|(_, id)| before.input.workloads.get(id))
            .filter(|workload| keys::workload(&workload.node, &workload.id) == key)
        {
            // One that another node tells of now, in good form, is there.
            let workloads = &mut self.input.workloads;
            workloads
                .entry(workload.id.clone())
                .or_insert_with(|| workload.clone());
        } else if let Some((node, name)) = source_of(key) {
            self.input.names.keep(node, name, &before.input.names);
        } else if let Some(node) = key
            .strip_prefix(keys::NODES)
            .and_then(|id| nv_types::NodeId::try_new(id).ok())
            .and_then(|id| before.input.nodes.get(&id))
        {
            self.input.nodes.insert(node.id.clone(), node.clone());
        }
        if let Some(problem) = problem {
            self.problems.insert(key.to_owned(), problem);
        }
    }

    /// Rules in stored order; those that it does not name come last, by id.
    fn rank(&self, id: RuleId) -> (usize, RuleId) {
        (self.order.get(&id).copied().unwrap_or(usize::MAX), id)
    }

    /// Where the rule is, or else where it belongs.
    fn find_rule(&self, id: RuleId) -> Result<usize, usize> {
        let rank = self.rank(id);
        self.input
            .rules
            .binary_search_by_key(&rank, |rule| self.rank(rule.id))
    }

    fn put_rule(&mut self, rule: Rule) {
        match self.find_rule(rule.id) {
            Ok(at) => self.input.rules[at] = rule,
            Err(at) => self.input.rules.insert(at, rule),
        }
    }

    fn set_order(&mut self, order: BTreeMap<RuleId, usize>) {
        self.order = order;
        let mut rules = std::mem::take(&mut self.input.rules);
        rules.sort_by_cached_key(|rule| self.rank(rule.id));
        self.input.rules = rules;
    }
}

/// The place of each rule; one that is named twice has the first.
fn places(order: &StoredOrder) -> BTreeMap<RuleId, usize> {
    let places = order.rules.iter().enumerate().rev();
    places.map(|(place, id)| (*id, place)).collect()
}

/// The node and the name of a key of [`keys::NAMES`].
fn source_of(key: &str) -> Option<(&str, &str)> {
    key.strip_prefix(keys::NAMES)?.split_once('/')
}

fn group_name(key: &str, name: &str) -> Result<GroupName, BadValue> {
    GroupName::try_new(name).map_err(|error| BadValue {
        key: key.to_owned(),
        problem: error.to_string(),
    })
}

/// A value must be of the object that its key names.
fn same(key: &str, named: &str, found: &str) -> Result<(), BadValue> {
    if named == found {
        return Ok(());
    }
    Err(BadValue {
        key: key.to_owned(),
        problem: format!("it is of '{found}'"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::rule;
    use crate::input::tests::workload;
    use nv_types::Action;
    use proptest::prelude::*;

    #[test]
    fn follows_a_store_and_keeps_the_last_good_form() {
        let mut state = PolicyState::default();
        let put = |state: &mut PolicyState, rule: &Rule| {
            let key = keys::rule(rule.id);
            state.put(&key, &encode(&key, rule).unwrap()).unwrap()
        };
        let first = rule(1, "containers", "containers", "any", Action::Allow).unwrap();
        let second = rule(2, "containers", "external", "80", Action::Deny).unwrap();
        assert_eq!(put(&mut state, &first), Touched::Policy);
        put(&mut state, &second);
        let order = encode(
            keys::ORDER,
            &StoredOrder {
                rules: vec![RuleId(2), RuleId(1)],
            },
        )
        .unwrap();
        state.put(keys::ORDER, &order).unwrap();
        assert_eq!(state.order(), [RuleId(2), RuleId(1)]);

        let bad = state
            .put(&keys::rule(RuleId(1)), br#"{"v":1,"id":1}"#)
            .unwrap_err();
        assert!(bad.to_string().contains("policy/rule/000001"), "{bad}");
        assert_eq!(state.input().rules[1], first);
        assert_eq!(state.problems().len(), 1);
        for value in [&b"{"[..], br#"{"v":2}"#, br#"{}"#, b"[]"] {
            assert!(state.put(keys::SETTINGS, value).is_err());
        }
        let other = encode("x", &second).unwrap();
        assert!(
            state.put(&keys::rule(RuleId(1)), &other).is_err(),
            "a value of another rule"
        );

        let good = encode("x", &second).unwrap();
        let entries: [(&str, &[u8]); 2] = [("policy/rule/000001", b"{"), ("policy/rule/000002", &good)];
        state.resync(entries);
        assert_eq!(
            state.input().rules.len(),
            2,
            "the bad one keeps its last good form"
        );
        state.delete(&keys::rule(RuleId(1)));
        assert_eq!(state.order(), [RuleId(2)]);
        assert!(state.problems().is_empty());
    }

    #[test]
    fn workloads_and_nodes_keep_their_last_good_form_over_a_resync() {
        let mut state = PolicyState::default();
        let workload = workload("w", "n", "10.0.0.1");
        let node = Node::new(workload.node.clone());
        let (at, at_node) = (keys::workload(&workload.node, &workload.id), keys::node(&node.id));
        state.put(&at, &encode(&at, &workload).unwrap()).unwrap();
        state.put(&at_node, &encode(&at_node, &node).unwrap()).unwrap();
        let before = state.input().clone();
        for _ in 0..2 {
            state.resync([(at.as_str(), &b"{"[..]), (at_node.as_str(), b"[]")]);
            assert_eq!(*state.input(), before);
            assert_eq!(state.problems().keys().collect::<Vec<_>>(), [&at_node, &at]);
        }
        // The same workload on another node is the good form now.
        let moved = Workload {
            node: "other".parse().unwrap(),
            ..workload
        };
        let key = keys::workload(&moved.node, &moved.id);
        let good = encode(&key, &moved).unwrap();
        state.resync([(key.as_str(), good.as_slice()), (at.as_str(), b"{")]);
        assert_eq!(state.input().workloads["w"], moved);
        // What is gone is gone.
        state.resync([]);
        assert!(state.input().workloads.is_empty() && state.input().nodes.is_empty());
    }

    #[test]
    fn a_heartbeat_touches_nothing() {
        let mut state = PolicyState::default();
        let workload = workload("w", "n", "10.0.0.1");
        let key = keys::workload(&workload.node, &workload.id);
        let value = encode(&key, &workload).unwrap();
        assert_eq!(state.put(&key, &value).unwrap(), Touched::Workloads);
        assert_eq!(state.put(&key, &value).unwrap(), Touched::Nothing);
        assert_eq!(state.delete(&key), Touched::Workloads);
        assert!(state.input().workloads.is_empty());
    }

    proptest! {
        #[test]
        fn rules_stand_as_the_order_says_whatever_came_first(
            changes in proptest::collection::vec((0u8..3, 1u32..8, proptest::collection::vec(1u32..9, 0..8)), 0..30)
        ) {
            let mut state = PolicyState::default();
            let (mut known, mut order) = (BTreeSet::new(), Vec::new());
            for (what, id, list) in changes {
                match what {
                    0 => {
                        let rule = rule(id, "containers", "external", "80", Action::Allow).unwrap();
                        let key = keys::rule(rule.id);
                        state.put(&key, &encode(&key, &rule).unwrap()).unwrap();
                        known.insert(id);
                    }
                    1 => {
                        state.delete(&keys::rule(RuleId(id)));
                        known.remove(&id);
                    }
                    _ => {
                        let stored = StoredOrder { rules: list.iter().copied().map(RuleId).collect() };
                        state.put(keys::ORDER, &encode(keys::ORDER, &stored).unwrap()).unwrap();
                        order = list;
                    }
                }
                let mut left = known.clone();
                let mut expected: Vec<u32> = order.iter().copied().filter(|id| left.remove(id)).collect();
                expected.extend(left);
                let found: Vec<u32> = state.order().iter().map(|id| id.0).collect();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
