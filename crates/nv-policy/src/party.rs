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
    /// Groups that it is in because of a DNS name, with the names.
    pub names: BTreeMap<GroupName, BTreeSet<String>>,
    /// Which side of domains' boundaries it is on.
    pub zone: Zone,
}

/// Which side of the boundaries between domains one is on.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Zone {
    /// In no domain with a boundary: workloads of other domains, and all addresses outside.
    #[default]
    Open,
    /// In this domain, which has one.
    Within(String),
    /// On every side: nodes, and the workloads that the platform itself runs in `kube-system`.
    Everywhere,
}

impl Zone {
    /// Whether a boundary lies between the two.
    #[must_use]
    pub fn is_apart(&self, other: &Self) -> bool {
        *self != *other && *self != Self::Everywhere && *other != Self::Everywhere
    }
}

/// Domain of the platform's own workloads: it is on every side of a boundary, unless it has one itself.
pub(crate) const PLATFORM_DOMAIN: &str = "kube-system";

/// Who is where: resolves workloads and addresses to parties.
#[derive(Debug)]
pub struct Book<'a> {
    input: &'a PolicyInput,
    selectors: Vec<(&'a GroupName, Selector)>,
    /// Prefixes of address groups.
    prefixes: Vec<(IpPrefix, &'a GroupName)>,
    /// Addresses that are in groups by a name.
    named: BTreeMap<[u8; 16], Vec<(&'a GroupName, BTreeSet<String>)>>,
    /// Domains with a boundary.
    bounded: BTreeSet<&'a str>,
    workloads: BTreeMap<[u8; 16], &'a Workload>,
    nodes: BTreeMap<[u8; 16], &'a NodeId>,
    /// Those of them that belong to tunnels.
    tunnels: BTreeSet<[u8; 16]>,
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
            named: BTreeMap::new(),
            bounded: input.bounded_domains(),
            workloads: BTreeMap::new(),
            nodes: BTreeMap::new(),
            tunnels: BTreeSet::new(),
        };
        for group in input.groups.values() {
            if reserved::ALL.contains(&group.name.as_str()) {
                continue;
            }
            match read(group, input).0 {
                Body::Workloads(selector) => book.selectors.push((&group.name, selector)),
                Body::Addresses(own) => {
                    let prefixes = own.prefixes.into_iter();
                    book.prefixes.extend(prefixes.map(|prefix| (prefix, &group.name)));
                    for (address, names) in own.named {
                        book.named.entry(address).or_default().push((&group.name, names));
                    }
                }
                Body::Absent | Body::Reserved | Body::Broken => {}
            }
        }
        for node in input.nodes.values() {
            for address in node.addresses.iter().filter(|address| !address.is_loopback()) {
                book.nodes.insert(v4_mapped(*address), &node.id);
            }
            book.tunnels.extend(node.tunnels.iter().copied().map(v4_mapped));
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

    /// Prefixes of address groups, and the addresses of their names.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = IpPrefix> + '_ {
        let named = self.named.keys().map(|addr| IpPrefix {
            addr: *addr,
            len: 128,
        });
        self.prefixes.iter().map(|(prefix, _)| *prefix).chain(named)
    }

    fn zone(&self, domain: &str) -> Zone {
        if self.bounded.contains(domain) {
            Zone::Within(domain.to_owned())
        } else if domain == PLATFORM_DOMAIN {
            Zone::Everywhere
        } else {
            Zone::Open
        }
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
            names: BTreeMap::new(),
            zone: self.zone(&workload.domain),
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
        if node.is_some() && self.tunnels.contains(&address) {
            groups.extend(name(reserved::INGRESS));
        }
        // A name's answer does not make a node's address a part of the group.
        let named = self.named.get(&address).filter(|_| node.is_none());
        let names: BTreeMap<_, _> = named
            .into_iter()
            .flatten()
            .map(|(name, names)| ((*name).clone(), names.clone()))
            .collect();
        groups.extend(names.keys().cloned());
        let mode = node.and_then(|_| self.input.modes.get(reserved::NODES).copied());
        Party {
            groups,
            mode,
            workload: None,
            node: node.cloned(),
            names,
            zone: if node.is_some() {
                Zone::Everywhere
            } else {
                Zone::Open
            },
        }
    }
}

/// Whether the workload can be a peer: it runs and has a namespace of its own.
pub(crate) fn is_present(workload: &Workload) -> bool {
    workload.state == WorkloadState::Running && !workload.host_network
}
