//! Who is at an address: which groups it is in and in which mode.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use nv_types::{GroupName, IpPrefix, Mode, NodeId, Workload, WorkloadId, WorkloadState, reserved, v4_mapped};

use crate::criteria::Selector;
use crate::group::{Body, read};
use crate::input::PolicyInput;

/// One end of a flow, as policy sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Party {
    /// Groups that it is in.
    pub groups: BTreeSet<GroupName>,
    /// Mode of its service; `None` when it is not managed.
    pub mode: Option<Mode>,
    /// The workload, if it is one.
    pub workload: Option<WorkloadId>,
    /// The node, if it is one of its own addresses.
    pub node: Option<NodeId>,
}

/// Who is where: resolves workloads and addresses to parties.
#[derive(Debug)]
pub struct Book<'a> {
    input: &'a PolicyInput,
    selectors: Vec<(&'a GroupName, Selector)>,
    /// Prefixes of address groups.
    prefixes: Vec<(IpPrefix, &'a GroupName)>,
    workloads: BTreeMap<[u8; 16], &'a Workload>,
    nodes: BTreeMap<[u8; 16], &'a NodeId>,
}

fn name(text: &str) -> Option<GroupName> {
    GroupName::try_new(text).ok()
}

impl<'a> Book<'a> {
    /// Reads the input. A group that cannot be read matches nobody; [`Compiler::diagnostics`](crate::Compiler::diagnostics) names it.
    #[must_use]
    pub fn new(input: &'a PolicyInput) -> Self {
        let mut book = Self {
            input,
            selectors: Vec::new(),
            prefixes: Vec::new(),
            workloads: BTreeMap::new(),
            nodes: BTreeMap::new(),
        };
        for group in input.groups.values() {
            if reserved::ALL.contains(&group.name.as_str()) {
                continue;
            }
            match read(group).0 {
                Body::Workloads(selector) => book.selectors.push((&group.name, selector)),
                Body::Addresses(prefixes) => book
                    .prefixes
                    .extend(prefixes.into_iter().map(|prefix| (prefix, &group.name))),
                Body::Absent | Body::Reserved | Body::Broken => {}
            }
        }
        for node in input.nodes.values() {
            for address in node.addresses.iter().filter(|address| !address.is_loopback()) {
                book.nodes.insert(v4_mapped(*address), &node.id);
            }
        }
        for workload in input.workloads.values().filter(|workload| is_present(workload)) {
            for address in workload.peer_addresses() {
                let place = book.workloads.entry(v4_mapped(address)).or_insert(workload);
                // Two claim one address while one of them goes: the younger has it.
                if (workload.started, &workload.id) > (place.started, &place.id) {
                    *place = workload;
                }
            }
        }
        book
    }

    /// Prefixes of address groups.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = IpPrefix> + '_ {
        self.prefixes.iter().map(|(prefix, _)| *prefix)
    }

    /// The workload as one end of a flow.
    #[must_use]
    pub fn workload(&self, workload: &Workload) -> Party {
        let mut groups: BTreeSet<_> = self
            .selectors
            .iter()
            .filter(|(_, selector)| selector.matches(workload))
            .map(|(name, _)| (*name).clone())
            .collect();
        groups.extend(name(reserved::CONTAINERS));
        Party {
            groups,
            mode: self.input.mode_of(workload),
            workload: Some(workload.id.clone()),
            node: None,
        }
    }

    /// Whoever is at this address.
    #[must_use]
    pub fn address(&self, address: IpAddr) -> Party {
        self.mapped(v4_mapped(address))
    }

    pub(crate) fn mapped(&self, address: [u8; 16]) -> Party {
        match self.workloads.get(&address) {
            Some(workload) => self.workload(workload),
            None => self.outsider(address, self.nodes.get(&address).copied()),
        }
    }

    /// A party that is no workload: a node's own address, or external.
    pub(crate) fn outsider(&self, address: [u8; 16], node: Option<&NodeId>) -> Party {
        let mut groups: BTreeSet<_> = self
            .prefixes
            .iter()
            .filter(|(prefix, _)| prefix.contains(address))
            .map(|(_, name)| (*name).clone())
            .collect();
        groups.extend(name(if node.is_some() {
            reserved::NODES
        } else {
            reserved::EXTERNAL
        }));
        let mode = node.and_then(|_| self.input.modes.get(reserved::NODES).copied());
        Party {
            groups,
            mode,
            workload: None,
            node: node.cloned(),
        }
    }
}

/// Whether the workload can be a peer: it runs and has a namespace of its own.
pub(crate) fn is_present(workload: &Workload) -> bool {
    workload.state == WorkloadState::Running && !workload.host_network
}
