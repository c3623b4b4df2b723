//! Groups as they are written, read.

use std::collections::{BTreeMap, BTreeSet};

use nv_types::{Group, GroupKind, IpPrefix, v4_mapped};

use crate::address::AddressSet;
use crate::criteria::Selector;
use crate::input::PolicyInput;
use crate::names::NamePattern;

/// What a group is made of.
#[derive(Debug)]
pub(crate) enum Body {
    /// It is only named.
    Absent,
    /// `containers`, `external`, `nodes`, `Workload:ingress`.
    Reserved,
    /// Cannot be read: matches nobody.
    Broken,
    /// Workloads by criteria.
    Workloads(Selector),
    /// Addresses.
    Addresses(Addresses),
}

/// What an address group stands for now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// As its criteria write them.
    pub(crate) prefixes: Vec<IpPrefix>,
    /// Its names.
    pub(crate) patterns: Vec<NamePattern>,
    /// What the names stand for: addresses, each with its names.
    pub(crate) named: BTreeMap<[u8; 16], BTreeSet<String>>,
}

impl Addresses {
    /// Whether one of its names is this one.
    pub(crate) fn speaks_of(&self, name: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.holds(name))
    }
}

/// Most criteria that a group may have.
pub(crate) const MAX_CRITERIA: usize = 256;
/// Most refused answers of a group that are named.
const MAX_REFUSED: usize = 8;

/// What a group of this input is made of, and what an administrator should know of it.
pub(crate) fn read(group: &Group, input: &PolicyInput) -> (Body, Vec<String>) {
    let count = group.criteria.len();
    if count > MAX_CRITERIA {
        return (
            Body::Broken,
            vec![format!("criteria: {count} are more than {MAX_CRITERIA}")],
        );
    }
    let selector = match Selector::new(&group.criteria) {
        Ok(selector) => selector,
        Err(error) => return (Body::Broken, vec![error.to_string()]),
    };
    let Some(sets) = selector.addresses() else {
        return match group.kind {
            GroupKind::Container => (Body::Workloads(selector), Vec::new()),
            _ => (Body::Broken, Vec::new()),
        };
    };
    let (mut addresses, mut problems) = (Addresses::default(), Vec::new());
    for set in sets {
        match set {
            AddressSet::Prefixes(list) => addresses.prefixes.extend_from_slice(list),
            AddressSet::Name(text) => addresses.patterns.extend(NamePattern::read(text)),
        }
    }
    if addresses.patterns.iter().any(|pattern| pattern.vhost) {
        problems.push(
            "'vh:' holds the addresses of its names: the host that a request names is not looked at"
                .to_owned(),
        );
    }
    let mut refused = BTreeMap::new();
    for pattern in &addresses.patterns {
        for (name, list, internal) in input.names.of(pattern, &input.settings) {
            for address in list {
                let names = addresses.named.entry(v4_mapped(address)).or_default();
                names.insert(name.to_owned());
            }
            refused.extend(internal.map(|address| (name, address)));
        }
    }
    problems.extend(refused.iter().take(MAX_REFUSED).map(|(name, address)| {
        format!("'{name}' was answered with {address}, which is not public and does not count (setting internal_names)")
    }));
    (Body::Addresses(addresses), problems)
}

/// What of a group is not enforced, by criterion and in words: what cannot be read, names whose addresses nobody has told yet, answers
/// that do not count.
#[must_use]
pub fn group_problems(group: &Group, input: &PolicyInput) -> Vec<String> {
    let mut found = Vec::new();
    for (index, criterion) in group.criteria.iter().enumerate() {
        if criterion.key != "address" {
            continue;
        }
        match AddressSet::parse(&criterion.value) {
            Ok(AddressSet::Prefixes(_)) => {}
            Ok(AddressSet::Name(text)) => {
                let pattern = NamePattern::read(&text);
                let known = pattern.is_some_and(|pattern| {
                    let names = &mut input.names.of(&pattern, &input.settings);
                    names.any(|(_, counting, _)| !counting.is_empty())
                });
                if !known {
                    found.push(format!(
                        "criteria[{index}]: holds nobody yet: no address of '{text}' is known"
                    ));
                }
            }
            Err(error) => found.push(format!("criteria[{index}]: not enforced: {error}")),
        }
    }
    if found.iter().all(|text| !text.contains("not enforced")) {
        found.extend(read(group, input).1);
    }
    found
}
