//! Identities: classes of peers that no rule can tell apart.

use std::collections::{BTreeMap, BTreeSet};

use nv_types::{AddressEntry, GroupName, Identity, IpPrefix, Mode, NodeId, WorkloadId};

use crate::party::{Book, Party, is_present};

/// What makes a class: the groups that some enabled rule speaks of, and the mode.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Class {
    pub(crate) groups: BTreeSet<GroupName>,
    pub(crate) mode: Option<Mode>,
}

/// Classes, numbered from 1 in their own order, and which address and which workload is in which.
#[derive(Debug)]
pub(crate) struct Identities {
    pub(crate) classes: BTreeMap<Class, Identity>,
    pub(crate) addresses: Vec<AddressEntry>,
    /// Workloads of the node, with a mode.
    pub(crate) locals: BTreeMap<WorkloadId, (Identity, Mode)>,
}

impl Identities {
    pub(crate) fn new(book: &Book<'_>, node: &NodeId) -> Self {
        let input = book.input();
        let spoken: BTreeSet<&GroupName> = input
            .rules
            .iter()
            .filter(|rule| !rule.disable)
            .flat_map(|rule| [&rule.from, &rule.to])
            .collect();
        let class = |party: Party| Class {
            groups: party
                .groups
                .into_iter()
                .filter(|group| spoken.contains(group))
                .collect(),
            mode: party.mode,
        };
        let mut by_workload: BTreeMap<&WorkloadId, Class> = BTreeMap::new();
        let mut own = BTreeSet::new();
        for workload in input.workloads.values().filter(|workload| is_present(workload)) {
            by_workload.insert(&workload.id, class(book.workload(workload)));
            if workload.node == *node {
                own.insert(&workload.id);
            }
        }
        let mut by_prefix: BTreeMap<IpPrefix, Class> = BTreeMap::new();
        let ranges = book
            .prefixes()
            .iter()
            .map(|(prefix, _)| *prefix)
            .chain([IpPrefix::ALL]);
        for prefix in ranges.collect::<BTreeSet<_>>() {
            by_prefix.insert(prefix, class(covering(book, prefix)));
        }
        for (address, node) in book.node_addresses() {
            by_prefix.insert(
                IpPrefix {
                    addr: *address,
                    len: 128,
                },
                class(book.outsider(*address, Some(node))),
            );
        }
        for (address, workload) in book.workload_addresses() {
            if let Some(class) = by_workload.get(&workload.id) {
                by_prefix.insert(
                    IpPrefix {
                        addr: *address,
                        len: 128,
                    },
                    class.clone(),
                );
            }
        }
        let mut classes: BTreeMap<Class, Identity> = by_prefix
            .values()
            .chain(by_workload.values())
            .map(|class| (class.clone(), Identity::ANY))
            .collect();
        for (identity, number) in classes.values_mut().zip(1..) {
            *identity = Identity(number);
        }
        let number = |class: &Class| classes.get(class).copied().unwrap_or(Identity::ANY);
        let addresses = by_prefix
            .iter()
            .map(|(prefix, class)| AddressEntry {
                prefix: *prefix,
                identity: number(class),
            })
            .collect();
        let locals = by_workload
            .iter()
            .filter(|(id, _)| own.contains(*id))
            .filter_map(|(id, class)| Some(((*id).clone(), (number(class), class.mode?))))
            .collect();
        Self {
            classes,
            addresses: minimal(addresses),
            locals,
        }
    }
}

/// The party of addresses whose longest prefix this is: external, and in every address group that covers it.
fn covering(book: &Book<'_>, prefix: IpPrefix) -> Party {
    let mut party = book.outsider([0; 16], None);
    party
        .groups
        .retain(|group| group.as_str() == nv_types::reserved::EXTERNAL);
    let covers = |wide: &IpPrefix| wide.len <= prefix.len && wide.contains(prefix.addr);
    party.groups.extend(
        book.prefixes()
            .iter()
            .filter(|(wide, _)| covers(wide))
            .map(|(_, name)| (*name).clone()),
    );
    party
}

/// Leaves out prefixes that say what the next shorter one says already.
fn minimal(entries: Vec<AddressEntry>) -> Vec<AddressEntry> {
    // In order of address and length, so that what encloses an entry is on the stack when it comes.
    let mut stack: Vec<AddressEntry> = Vec::new();
    let mut kept = Vec::with_capacity(entries.len());
    for entry in entries {
        while stack.last().is_some_and(|outer| {
            !outer.prefix.contains(entry.prefix.addr) || outer.prefix.len > entry.prefix.len
        }) {
            stack.pop();
        }
        if stack.last().is_some_and(|outer| outer.identity == entry.identity) {
            continue;
        }
        stack.push(entry);
        kept.push(entry);
    }
    kept
}
