//! A policy image as the entries of one slot: what both backends put in force.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use nv_dp_common::layout::{
    Addr, AddressValue, ChainLink, ChainValue, FAILSAFE_TABLE, LocalView, PairKey, PortData, Switches,
    slot_bit,
};
use nv_types::{
    Chain, DenyResponse, Direction, Identity, IpPrefix, IpProto, PolicyImage, PortSpec, WorkloadId, v4_mapped,
};

use crate::{DatapathConfig, DatapathError};

/// Room for one slot in each policy table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Address prefixes.
    pub addresses: usize,
    /// Pairs of classes.
    pub pairs: usize,
    /// Port prefixes.
    pub ports: usize,
    /// Decision chains.
    pub chains: usize,
}

impl Default for Capacity {
    /// Half of the sizes that the kernel programs declare, since two images have room.
    fn default() -> Self {
        Self {
            addresses: 131_072,
            pairs: 131_072,
            ports: 262_144,
            chains: 65_536,
        }
    }
}

/// Entries of one slot, keyed as the kernel's tables are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SlotTables {
    /// (prefix length in the address, prefix).
    pub(crate) addresses: BTreeMap<(u8, Addr), AddressValue>,
    /// Prefix lengths in `addresses`.
    lengths: BTreeSet<u8>,
    pub(crate) pairs: BTreeMap<PairKey, u32>,
    /// (prefix length in protocol and port, prefix).
    pub(crate) ports: BTreeMap<(u8, PortData), u32>,
    pub(crate) chains: BTreeMap<u32, ChainValue>,
    pub(crate) locals: BTreeMap<WorkloadId, LocalView>,
    pub(crate) switches: Switches,
}

impl SlotTables {
    /// Checks an image and turns it into the entries of a slot (0 or 1).
    pub(crate) fn build(
        image: &PolicyImage,
        config: &DatapathConfig,
        slot: u32,
        capacity: &Capacity,
        max_flows: usize,
    ) -> Result<Self, DatapathError> {
        check(image)?;
        let bit = slot_bit(slot);
        let mut tables = Self {
            switches: switches(image, config, max_flows),
            ..Self::default()
        };
        for entry in &image.addresses {
            let value = AddressValue {
                identity: entry.identity.0,
                flags: 0,
            };
            tables
                .addresses
                .insert((entry.prefix.len, entry.prefix.addr), value);
            tables.lengths.insert(entry.prefix.len);
        }
        tables.mark_node(&config.failsafe_addresses);
        for pair in &image.pairs {
            tables.pairs.insert(
                pair_key(pair.local, pair.direction, pair.peer, slot),
                pair.ports.0 | bit,
            );
        }
        for port in &image.ports {
            let data = PortData {
                table: port.table.0 | bit,
                proto: port.proto.0,
                port: port.port.to_be_bytes(),
                pad: 0,
            };
            tables
                .ports
                .insert((port.prefix_len, data), port.decision.0 | bit);
        }
        for (len, proto, port) in config.failsafe_ports.iter().flat_map(|spec| prefixes(*spec)) {
            let data = PortData {
                table: FAILSAFE_TABLE | bit,
                proto,
                port: port.to_be_bytes(),
                pad: 0,
            };
            tables.ports.insert((len, data), bit);
        }
        for (id, chain) in (0_u32..).zip(&image.decisions) {
            tables.chains.insert(id | bit, chain_value(chain));
        }
        for local in &image.locals {
            let view = LocalView {
                identity: local.identity.0,
                state: LocalView::POLICED,
                mode: local.mode as u8,
                pad: [0; 2],
            };
            tables.locals.insert(local.workload.clone(), view);
        }
        tables.fits(capacity)?;
        Ok(tables)
    }

    /// Brings the lengths in line with the addresses.
    #[cfg(feature = "ebpf")]
    pub(crate) fn index_lengths(&mut self) {
        self.lengths = self.addresses.keys().map(|(len, _)| *len).collect();
    }

    /// Longest prefix that holds the address.
    pub(crate) fn address(&self, addr: &Addr) -> Option<AddressValue> {
        self.lengths
            .iter()
            .rev()
            .find_map(|&len| self.addresses.get(&(len, masked(addr, len))).copied())
    }

    /// Longest prefix of (protocol, port) in a port table.
    pub(crate) fn port(&self, table: u32, proto: u8, port: u16) -> Option<u32> {
        (0..=24_u8).rev().find_map(|len| {
            let bits = u32::from(proto) << 24 | u32::from(port) << 8;
            let [proto, high, low, _] = (bits & prefix_mask(len)).to_be_bytes();
            self.ports
                .get(&(
                    len,
                    PortData {
                        table,
                        proto,
                        port: [high, low],
                        pad: 0,
                    },
                ))
                .copied()
        })
    }

    /// What this slot knows of a workload.
    pub(crate) fn view(&self, workload: Option<&WorkloadId>) -> LocalView {
        match workload {
            None => LocalView::default(),
            Some(workload) => {
                let absent = LocalView {
                    state: LocalView::NO_POLICY,
                    ..LocalView::default()
                };
                self.locals.get(workload).copied().unwrap_or(absent)
            }
        }
    }

    /// Marks the node's own addresses, which keep the class that the image gives them.
    fn mark_node(&mut self, addresses: &[IpAddr]) {
        for addr in addresses {
            let addr = v4_mapped(*addr);
            let identity = self
                .address(&addr)
                .map_or(Identity::ANY.0, |value| value.identity);
            self.addresses.insert(
                (128, addr),
                AddressValue {
                    identity,
                    flags: AddressValue::NODE,
                },
            );
            self.lengths.insert(128);
        }
    }

    fn fits(&self, capacity: &Capacity) -> Result<(), DatapathError> {
        for (table, needed, capacity) in [
            ("addresses", self.addresses.len(), capacity.addresses),
            ("pairs", self.pairs.len(), capacity.pairs),
            ("ports", self.ports.len(), capacity.ports),
            ("decisions", self.chains.len(), capacity.chains),
        ] {
            if needed > capacity {
                return Err(DatapathError::TooLarge {
                    table,
                    needed,
                    capacity,
                });
            }
        }
        Ok(())
    }
}

/// A pair's key in a slot.
pub(crate) fn pair_key(local: Identity, direction: Direction, peer: Identity, slot: u32) -> PairKey {
    PairKey {
        local: local.0,
        peer: peer.0,
        slot: u8::from(slot != 0),
        direction: direction as u8,
        pad: [0; 2],
    }
}

fn prefix_mask(len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)
}

fn masked(addr: &Addr, len: u8) -> Addr {
    let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
    (u128::from_be_bytes(*addr) & mask).to_be_bytes()
}

fn chain_value(chain: &Chain) -> ChainValue {
    let mut value = ChainValue::default();
    for (link, entry) in value.links.iter_mut().zip(&chain.0) {
        *link = ChainLink {
            apps: entry.apps.0,
            rule: entry.decision.rule.0,
            verdict: entry.decision.verdict as u8,
            reason: entry.decision.reason as u8,
            pad: [0; 2],
        };
        value.len += 1;
    }
    value
}

fn switches(image: &PolicyImage, config: &DatapathConfig, max_flows: usize) -> Switches {
    let share = match config.flow_share {
        0 => 0,
        percent => (max_flows * usize::from(percent.min(100)) / 100).max(1),
    };
    Switches {
        revision: image.revision.0,
        share: u32::try_from(share).unwrap_or(u32::MAX),
        idle: Switches::idle_words(&config.idle).map(|seconds| seconds.max(1)),
        unknown: config.unknown as u8,
        valid: 1,
        answers: u8::from(config.deny_response == DenyResponse::Reset),
        names: u8::from(config.names),
    }
}

/// (prefix length in protocol and port, protocol, port) of everything that an item of a port list means.
fn prefixes(spec: PortSpec) -> Vec<(u8, u8, u16)> {
    match spec {
        PortSpec::Any => vec![(0, 0, 0)],
        PortSpec::Icmp => vec![(8, IpProto::ICMP.0, 0)],
        PortSpec::Ports(proto, range) => {
            let (mut first, last) = (u32::from(range.first), u32::from(range.last));
            let mut found = Vec::new();
            while first <= last {
                // The largest block that starts here and does not pass the end.
                let aligned = if first == 0 {
                    16
                } else {
                    first.trailing_zeros().min(16)
                };
                let bits = (0..=aligned)
                    .rev()
                    .find(|bits| first + (1 << bits) - 1 <= last)
                    .unwrap_or(0);
                let len = u8::try_from(24 - bits).unwrap_or(24);
                found.push((len, proto.0, u16::try_from(first).unwrap_or(u16::MAX)));
                first += 1 << bits;
            }
            found
        }
    }
}

/// The rules of an image that a lookup relies on.
fn check(image: &PolicyImage) -> Result<(), DatapathError> {
    let invalid = |what: String| Err(DatapathError::InvalidImage(what));
    if let Some(place) = image.decisions.iter().position(|chain| !chain.is_valid()) {
        return invalid(format!(
            "chain {place} has no entry for any application at its end, or is too long"
        ));
    }
    let defaults: BTreeSet<_> = image
        .ports
        .iter()
        .filter(|port| port.prefix_len == 0)
        .map(|port| port.table)
        .collect();
    for port in &image.ports {
        let known = usize::try_from(port.decision.0).is_ok_and(|id| id < image.decisions.len());
        let shaped = matches!(port.prefix_len, 0 | 8..=24) && port.table.0 < FAILSAFE_TABLE;
        if !known || !shaped {
            return invalid(format!(
                "port entry {port:?} has no chain or a prefix length that is none"
            ));
        }
        let bits = u32::from(port.proto.0) << 24 | u32::from(port.port) << 8;
        if bits & !prefix_mask(port.prefix_len) != 0 {
            return invalid(format!("port entry {port:?} has bits below its prefix"));
        }
        if !defaults.contains(&port.table) {
            return invalid(format!("port table {} has no default", port.table.0));
        }
    }
    let mut pairs = BTreeSet::new();
    for pair in &image.pairs {
        if !defaults.contains(&pair.ports) {
            return invalid(format!("pair {pair:?} has a port table that is not there"));
        }
        if !pairs.insert((pair.local, pair.direction, pair.peer)) {
            return invalid(format!("pair {pair:?} is there twice"));
        }
    }
    for local in &image.locals {
        for direction in [Direction::Ingress, Direction::Egress] {
            if !pairs.contains(&(local.identity, direction, Identity::ANY)) {
                return invalid(format!(
                    "workload {} has no pair for any peer, {direction}",
                    local.workload
                ));
            }
        }
    }
    let unmasked = |prefix: &IpPrefix| prefix.len > 128 || masked(&prefix.addr, prefix.len) != prefix.addr;
    if let Some(entry) = image.addresses.iter().find(|entry| unmasked(&entry.prefix)) {
        return invalid(format!("address {} has bits below its prefix", entry.prefix));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_into_the_prefixes_that_hold_it() {
        let tcp = |first, last| prefixes(PortSpec::Ports(IpProto::TCP, nv_types::PortRange { first, last }));
        assert_eq!(tcp(22, 22), [(24, 6, 22)]);
        assert_eq!(tcp(0, u16::MAX), [(8, 6, 0)]);
        assert_eq!(tcp(1, 4), [(24, 6, 1), (23, 6, 2), (24, 6, 4)]);
        for (first, last) in [(7, 1000), (0, 65_534), (65_535, 65_535)] {
            let blocks = tcp(first, last);
            let size: u32 = blocks.iter().map(|(len, _, _)| 1 << (24 - len)).sum();
            assert_eq!(size, u32::from(last) - u32::from(first) + 1);
        }
    }
}
