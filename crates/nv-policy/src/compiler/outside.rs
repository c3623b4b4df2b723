//! Everybody who is no workload: nodes by their own addresses, and the prefixes of address groups.

use std::collections::{BTreeMap, BTreeSet};

use nv_types::{Identity, IpPrefix, Mode, NodeId, v4_mapped};

use super::classes::{ClassKey, ZoneKey};
use super::members::{Gx, Members};
use crate::input::PolicyInput;

/// Addresses of a node, and those of them that belong to tunnels.
#[derive(Debug, PartialEq, Eq)]
struct Hosts {
    addresses: Vec<[u8; 16]>,
    tunnels: Vec<[u8; 16]>,
}

/// Addresses of nodes, and which class each prefix is in.
#[derive(Debug, Default)]
pub(super) struct Outside {
    nodes: BTreeMap<NodeId, Hosts>,
    /// Mode of the group `nodes`.
    pub(super) mode: Option<Mode>,
    /// Class of every prefix; a workload's own address comes before it.
    pub(super) classes: BTreeMap<IpPrefix, Identity>,
}

impl Outside {
    /// Takes a node as the input has it now; whether anything changed.
    pub(super) fn put_node(&mut self, input: &PolicyInput, id: &NodeId) -> bool {
        let now = input.nodes.get(id).map(|node| {
            let own = node.addresses.iter().filter(|address| !address.is_loopback());
            Hosts {
                addresses: own.map(|address| v4_mapped(*address)).collect(),
                tunnels: node.tunnels.iter().map(|address| v4_mapped(*address)).collect(),
            }
        });
        if self.nodes.get(id) == now.as_ref() {
            return false;
        }
        match now {
            Some(hosts) => self.nodes.insert(id.clone(), hosts),
            None => self.nodes.remove(id),
        };
        true
    }

    /// What makes the class of every prefix, in order.
    pub(super) fn keys(&self, members: &Members) -> BTreeMap<IpPrefix, ClassKey> {
        let key = |mut groups: Vec<Gx>, mode, is_node| {
            groups.retain(|group| members.links[*group as usize].is_spoken());
            groups.sort_unstable();
            groups.dedup();
            ClassKey {
                workload: false,
                groups: groups.into(),
                mode,
                zone: if is_node {
                    ZoneKey::Everywhere
                } else {
                    ZoneKey::Open
                },
            }
        };
        let mut by_prefix: BTreeMap<IpPrefix, Vec<Gx>> = BTreeMap::from([(IpPrefix::ALL, Vec::new())]);
        for (prefix, group) in members.prefixes() {
            by_prefix.entry(prefix).or_default().push(group);
        }
        let nodes = self.nodes.values();
        let hosts: BTreeSet<_> = nodes
            .clone()
            .flat_map(|hosts| &hosts.addresses)
            .copied()
            .collect();
        let tunnels: BTreeSet<_> = nodes.flat_map(|hosts| &hosts.tunnels).copied().collect();
        // A name's answer does not make a node's address a part of the group.
        for (addr, group) in members.named().filter(|(addr, _)| !hosts.contains(addr)) {
            by_prefix
                .entry(IpPrefix { addr, len: 128 })
                .or_default()
                .push(group);
        }
        for addr in &hosts {
            by_prefix
                .entry(IpPrefix {
                    addr: *addr,
                    len: 128,
                })
                .or_default();
        }
        let mut keys = BTreeMap::new();
        // In order of address and length what encloses a prefix comes before it: it is on the stack, with all its groups.
        let mut enclosing: Vec<(IpPrefix, Vec<Gx>)> = Vec::new();
        for (prefix, own) in by_prefix {
            while enclosing
                .last()
                .is_some_and(|(wide, _)| wide.len > prefix.len || !wide.contains(prefix.addr))
            {
                enclosing.pop();
            }
            let mut groups = enclosing
                .last()
                .map_or_else(Vec::new, |(_, groups)| groups.clone());
            groups.extend(own);
            let is_node = prefix.len == 128 && hosts.contains(&prefix.addr);
            let mut all = groups.clone();
            all.push(if is_node { members.nodes } else { members.external });
            if is_node && tunnels.contains(&prefix.addr) {
                all.push(members.ingress);
            }
            let mode = if is_node { self.mode } else { None };
            keys.insert(prefix, key(all, mode, is_node));
            enclosing.push((prefix, groups));
        }
        keys
    }
}
