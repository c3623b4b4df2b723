//! Compiled tables: the contract between `nv-policy` and `nv-dp`.
//!
//! ```text
//! addresses : LPM   (address/prefix)                         -> identity
//! pairs     : hash  (local identity, direction, peer or any) -> port table id
//! ports     : LPM   (port table id, protocol, port/prefix)   -> decision id
//! decisions : array  decision id -> chain of (application mask, decision), at most 8, last one any-application
//! ```
//!
//! A lookup that finds no pair for (local, direction, peer) takes the pair for any peer of the peer's kind
//! ([`Identity::any_of_kind`]), and if there is none either, that for any peer at all ([`Identity::ANY`]). Kinds are
//! what makes peers alike that no rule names: the mode, and whether they are workloads. Every local identity has an ANY
//! pair in both directions and every port table has a whole-table default, so that a lookup in a valid image always ends
//! in a chain.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv6Addr};

use crate::{
    AppMask, ChainEntry, Decision, Direction, Identity, IpProto, MAX_CHAIN, Mode, Reason, Revision, Verdict,
    WorkloadId,
};

/// An address as tables hold it: IPv4 as `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2).
#[must_use]
pub const fn v4_mapped(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// A prefix over 128-bit addresses, IPv4 mapped (so `0.0.0.0/0` has length 96).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct IpPrefix {
    /// Address with the bits below the prefix cleared.
    pub addr: [u8; 16],
    /// Length in bits, 0 to 128.
    pub len: u8,
}

impl IpPrefix {
    /// Everything.
    pub const ALL: Self = Self {
        addr: [0; 16],
        len: 0,
    };

    /// The prefix of this address with this length *in its own family*; bits below it are cleared. Longer lengths
    /// than the family has are cut to a host prefix.
    #[must_use]
    pub fn new(addr: IpAddr, len: u8) -> Self {
        let len = match addr {
            IpAddr::V4(_) => 96 + len.min(32),
            IpAddr::V6(_) => len.min(128),
        };
        let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
        Self {
            addr: (u128::from_be_bytes(v4_mapped(addr)) & mask).to_be_bytes(),
            len,
        }
    }

    /// The prefix that holds only this address.
    #[must_use]
    pub fn host(addr: IpAddr) -> Self {
        Self {
            addr: v4_mapped(addr),
            len: 128,
        }
    }

    /// Whether the mapped address is in the prefix.
    #[must_use]
    pub fn contains(&self, addr: [u8; 16]) -> bool {
        let mask = u128::MAX.checked_shl(128 - u32::from(self.len)).unwrap_or(0);
        u128::from_be_bytes(addr) & mask == u128::from_be_bytes(self.addr)
    }
}

impl fmt::Debug for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v6 = Ipv6Addr::from(self.addr);
        match v6.to_ipv4_mapped() {
            Some(v4) if self.len >= 96 => write!(f, "{v4}/{}", self.len - 96),
            _ => write!(f, "{v6}/{}", self.len),
        }
    }
}

/// Number of a port table inside an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(transparent)
)]
pub struct PortTableId(pub u32);

/// Place of a chain in [`PolicyImage::decisions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(transparent)
)]
pub struct DecisionId(pub u32);

/// Address to identity; the longest prefix wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct AddressEntry {
    /// Addresses.
    pub prefix: IpPrefix,
    /// Their class.
    pub identity: Identity,
}

/// A workload of the node the image is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct LocalEntry {
    /// Workload.
    pub workload: WorkloadId,
    /// Its class.
    pub identity: Identity,
    /// Its mode; decides what happens to packets that policy cannot judge (malformed, spoofed, table full).
    pub mode: Mode,
}

/// What a local identity does with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PairEntry {
    /// The endpoint's class.
    pub local: Identity,
    /// Ingress: the endpoint is the server.
    pub direction: Direction,
    /// The other end's class, or the wildcard of a kind of classes, or [`Identity::ANY`].
    pub peer: Identity,
    /// Ports.
    pub ports: PortTableId,
}

/// (table, protocol, port prefix) to chain; the longest prefix wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PortEntry {
    /// Table.
    pub table: PortTableId,
    /// Protocol for policy; 0 when `prefix_len` is 0.
    pub proto: IpProto,
    /// First port of the prefix; 0 when `prefix_len` is at most 8.
    pub port: u16,
    /// Bits of (protocol, port) that count: 0 the whole table, 8 the whole protocol, 9 to 24 a port prefix.
    pub prefix_len: u8,
    /// Chain.
    pub decision: DecisionId,
}

/// A decision chain: 1 to [`MAX_CHAIN`] entries, the last one for any application.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Chain(pub Vec<ChainEntry>);

impl Chain {
    /// Denies everything: what stands at a place that nothing names.
    #[must_use]
    pub fn closed() -> Self {
        Self(alloc::vec![ChainEntry {
            apps: AppMask::ANY,
            decision: Decision::implicit(Verdict::Deny, Reason::Default),
        }])
    }

    /// Whether a datapath may take it.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let Some((last, rest)) = self.0.split_last() else {
            return false;
        };
        self.0.len() <= MAX_CHAIN && last.apps.is_any() && rest.iter().all(|entry| !entry.apps.is_any())
    }
}

/// A node's compiled policy at a revision: complete, canonical (every list sorted, equal input gives equal bytes).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PolicyImage {
    /// Store revision that it was compiled from.
    pub revision: Revision,
    /// Addresses of every known peer, a default prefix included.
    pub addresses: Vec<AddressEntry>,
    /// Workloads of this node that are policed.
    pub locals: Vec<LocalEntry>,
    /// Pairs.
    pub pairs: Vec<PairEntry>,
    /// Ports.
    pub ports: Vec<PortEntry>,
    /// Chains.
    pub decisions: Vec<Chain>,
}

/// What turns one image into another. Numbers that are put are put in place of what they stood for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct TablesDelta {
    /// Revision of the image that comes of it.
    pub revision: Revision,
    /// Addresses that are new, or of another class.
    pub put_addresses: Vec<AddressEntry>,
    /// Prefixes that are not in the table any more.
    pub del_addresses: Vec<IpPrefix>,
    /// Workloads that are new, or of another class or mode.
    pub put_locals: Vec<LocalEntry>,
    /// Workloads that are gone.
    pub del_locals: Vec<WorkloadId>,
    /// Pairs that are new, or have another port table.
    pub put_pairs: Vec<PairEntry>,
    /// Pairs that are gone: local class, direction, peer class.
    pub del_pairs: Vec<(Identity, Direction, Identity)>,
    /// Port tables, each with all its entries.
    pub put_tables: Vec<(PortTableId, Vec<PortEntry>)>,
    /// Port tables that no pair names any more.
    pub del_tables: Vec<PortTableId>,
    /// Chains.
    pub put_decisions: Vec<(DecisionId, Chain)>,
    /// Chains that no port table names any more.
    pub del_decisions: Vec<DecisionId>,
}

impl TablesDelta {
    /// Whether it changes nothing but the revision.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries that it puts and removes; a port table counts with its entries.
    #[must_use]
    pub fn len(&self) -> usize {
        let tables: usize = self.put_tables.iter().map(|(_, entries)| entries.len()).sum();
        self.put_addresses.len()
            + self.del_addresses.len()
            + self.put_locals.len()
            + self.del_locals.len()
            + self.put_pairs.len()
            + self.del_pairs.len()
            + tables
            + self.del_tables.len()
            + self.put_decisions.len()
            + self.del_decisions.len()
    }
}

impl PolicyImage {
    /// Applies a delta. Places of removed chains are closed: nothing names them.
    pub fn apply(&mut self, delta: &TablesDelta) {
        self.revision = delta.revision;
        let put = delta.put_addresses.iter().map(|entry| entry.prefix);
        let gone: BTreeSet<_> = delta.del_addresses.iter().copied().chain(put).collect();
        self.addresses.retain(|entry| !gone.contains(&entry.prefix));
        self.addresses.extend_from_slice(&delta.put_addresses);
        self.addresses.sort_unstable();
        let put = delta.put_locals.iter().map(|entry| &entry.workload);
        let gone: BTreeSet<_> = delta.del_locals.iter().chain(put).collect();
        self.locals.retain(|entry| !gone.contains(&entry.workload));
        self.locals.extend_from_slice(&delta.put_locals);
        self.locals.sort_unstable();
        let key = |pair: &PairEntry| (pair.local, pair.direction, pair.peer);
        let put = delta.put_pairs.iter().map(key);
        let gone: BTreeSet<_> = delta.del_pairs.iter().copied().chain(put).collect();
        self.pairs.retain(|pair| !gone.contains(&key(pair)));
        self.pairs.extend_from_slice(&delta.put_pairs);
        self.pairs.sort_unstable();
        let put = delta.put_tables.iter().map(|(table, _)| *table);
        let gone: BTreeSet<_> = delta.del_tables.iter().copied().chain(put).collect();
        self.ports.retain(|entry| !gone.contains(&entry.table));
        self.ports.extend(
            delta
                .put_tables
                .iter()
                .flat_map(|(_, entries)| entries.iter().copied()),
        );
        self.ports.sort_unstable();
        for id in &delta.del_decisions {
            while self.decisions.len() <= id.0 as usize {
                self.decisions.push(Chain::closed());
            }
            if let Some(place) = self.decisions.get_mut(id.0 as usize) {
                *place = Chain::closed();
            }
        }
        for (id, chain) in &delta.put_decisions {
            while self.decisions.len() <= id.0 as usize {
                self.decisions.push(Chain::closed());
            }
            if let Some(place) = self.decisions.get_mut(id.0 as usize) {
                place.clone_from(chain);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn prefixes_of_both_families() {
        let p = IpPrefix::new("10.1.2.3".parse().unwrap(), 8);
        assert_eq!(p.to_string(), "10.0.0.0/8");
        assert!(p.contains(v4_mapped("10.9.9.9".parse().unwrap())));
        assert!(!p.contains(v4_mapped("11.0.0.0".parse().unwrap())));
        assert_eq!(
            IpPrefix::new("0.0.0.0".parse().unwrap(), 0).to_string(),
            "0.0.0.0/0"
        );
        let six = IpPrefix::new("fd00:1::7".parse().unwrap(), 64);
        assert_eq!(six.to_string(), "fd00:1::/64");
        assert!(IpPrefix::ALL.contains([9; 16]));
        assert_eq!(IpPrefix::ALL.to_string(), "::/0");
    }
}
