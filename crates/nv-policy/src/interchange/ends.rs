//! Ends of flows as Kubernetes and Cilium name them, as groups and back.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::str::FromStr as _;

use ipnetwork::IpNetwork;
use nv_types::{Criterion, CriterionOp, Group, GroupKind, GroupName, Tier, reserved};

use super::select::Sel;
use crate::address::AddressSet;

/// Most criteria of a group.
pub(super) const MAX_CRITERIA: usize = 256;
/// Both address families whole.
pub(super) const WORLD: [&str; 2] = ["0.0.0.0/0", "::/0"];

/// One end of a flow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    /// Workloads.
    Pods(Sel),
    /// Whoever is neither workload nor node.
    External,
    /// Nodes.
    Nodes,
    /// CIDRs and DNS names.
    Addresses(BTreeSet<String>),
}

impl End {
    pub(super) const fn pods(&self) -> Option<&Sel> {
        match self {
            Self::Pods(sel) => Some(sel),
            Self::External | Self::Nodes | Self::Addresses(_) => None,
        }
    }

    pub(super) fn all() -> Self {
        Self::Pods(Sel::default())
    }

    /// The group's name, and the group if it is not reserved. Names are made of the content: equal ends have equal names.
    pub(super) fn group(&self) -> Option<(GroupName, Option<Group>)> {
        let (name, kind, criteria) = match self {
            Self::External => return Some((GroupName::try_new(reserved::EXTERNAL).ok()?, None)),
            Self::Nodes => return Some((GroupName::try_new(reserved::NODES).ok()?, None)),
            Self::Pods(sel) if sel.is_all() => {
                return Some((GroupName::try_new(reserved::CONTAINERS).ok()?, None));
            }
            Self::Pods(sel) => ("pods", GroupKind::Container, sel.criteria()),
            Self::Addresses(values) => {
                let criterion = |value: &String| Criterion {
                    key: "address".to_owned(),
                    value: value.clone(),
                    op: CriterionOp::Equal,
                };
                ("net", GroupKind::Address, values.iter().map(criterion).collect())
            }
        };
        let name = GroupName::try_new(content_name(name, &criteria)).ok()?;
        let group = Group {
            name: name.clone(),
            kind,
            origin: Some(Tier::Ground),
            comment: String::new(),
            domain: String::new(),
            criteria,
        };
        Some((name, Some(group)))
    }
}

/// A name that says roughly what is in it, and a digest (FNV-1a) that says it exactly.
fn content_name(prefix: &str, criteria: &[Criterion]) -> String {
    let mut digest = 0xcbf2_9ce4_8422_2325_u64;
    let mut name = prefix.to_owned();
    for Criterion { key, value, op } in criteria {
        for byte in [key.as_str(), "\0", op.as_str(), "\0", value, "\0"]
            .into_iter()
            .flat_map(str::bytes)
        {
            digest = (digest ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        if name.len() < 60 && matches!(op, CriterionOp::Equal | CriterionOp::Regex) {
            name.push('.');
            name.extend(
                value
                    .chars()
                    .filter(|c| !matches!(c, '*' | '^' | '$'))
                    .map(|c| {
                        if c.is_ascii_alphanumeric() || c == '.' {
                            c
                        } else {
                            '-'
                        }
                    })
                    .take(30),
            );
        }
    }
    format!("{name}.{digest:016x}")
}

/// A CIDR as numbers; IPv4 in the low 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Net {
    v6: bool,
    bits: u128,
    len: u32,
}

impl Net {
    fn parse(text: &str) -> Result<Self, String> {
        let problem = || format!("'{text}' is no CIDR");
        if !text.contains('/') {
            return Err(problem());
        }
        let net = IpNetwork::from_str(text).map_err(|_| problem())?;
        let (v6, bits) = match net.network() {
            IpAddr::V4(addr) => (false, u128::from(addr.to_bits())),
            IpAddr::V6(addr) => (true, addr.to_bits()),
        };
        Ok(Self {
            v6,
            bits,
            len: u32::from(net.prefix()),
        })
    }

    const fn width(self) -> u32 {
        if self.v6 { 128 } else { 32 }
    }

    fn contains(self, other: Self) -> bool {
        let shift = self.width() - self.len;
        let cut = |bits: u128| bits.checked_shr(shift).unwrap_or(0);
        self.v6 == other.v6 && self.len <= other.len && cut(self.bits) == cut(other.bits)
    }

    fn halves(self) -> [Self; 2] {
        let len = self.len + 1;
        let half = Self { len, ..self };
        let high = 1u128.checked_shl(self.width() - len).unwrap_or(0);
        [
            half,
            Self {
                bits: self.bits | high,
                ..half
            },
        ]
    }

    fn text(self) -> String {
        let addr = if self.v6 {
            IpAddr::V6(self.bits.into())
        } else {
            IpAddr::V4(u32::try_from(self.bits).unwrap_or(u32::MAX).into())
        };
        format!("{addr}/{}", self.len)
    }
}

/// The CIDR without the exceptions, as CIDRs.
///
/// # Errors
/// What is wrong with it.
pub(super) fn cidr_except(cidr: &str, except: &[&str]) -> Result<BTreeSet<String>, String> {
    let net = Net::parse(cidr)?;
    let holes: Vec<Net> = except
        .iter()
        .map(|text| Net::parse(text))
        .collect::<Result<_, _>>()?;
    if let Some(stray) = holes.iter().find(|hole| !net.contains(**hole)) {
        return Err(format!(
            "the exception {} is not within {}",
            stray.text(),
            net.text()
        ));
    }
    let mut found = BTreeSet::new();
    let mut todo = vec![net];
    while let Some(net) = todo.pop() {
        if holes.iter().any(|hole| hole.contains(net)) {
            continue;
        }
        if holes.iter().any(|hole| net.contains(*hole)) {
            todo.extend(net.halves());
        } else if found.len() == MAX_CRITERIA {
            return Err(format!(
                "without its exceptions it is more than {MAX_CRITERIA} CIDRs"
            ));
        } else {
            found.insert(net.text());
        }
    }
    Ok(found)
}

/// CIDRs and names of an address group; what is neither comes second.
pub(super) fn addresses(criteria: &[Criterion]) -> (BTreeSet<String>, Vec<String>) {
    let mut found = BTreeSet::new();
    let mut lost = Vec::new();
    for criterion in criteria {
        if let Ok(net) = Net::parse(&criterion.value) {
            found.insert(net.text());
            continue;
        }
        match AddressSet::parse(&criterion.value) {
            Ok(AddressSet::Prefixes(prefixes)) => found.extend(prefixes.iter().map(|prefix| {
                let bits = u128::from_be_bytes(prefix.addr);
                let mapped = bits >> 32 == 0xffff && prefix.len >= 96;
                let (v6, len) = if mapped {
                    (false, u32::from(prefix.len) - 96)
                } else {
                    (true, u32::from(prefix.len))
                };
                let bits = if mapped { bits & 0xffff_ffff } else { bits };
                Net { v6, bits, len }.text()
            })),
            Ok(AddressSet::Name(name)) if !name.starts_with("vh:") => {
                found.insert(name);
            }
            _ => lost.push(criterion.value.clone()),
        }
    }
    (found, lost)
}

/// Whether an address is a DNS name.
pub(super) fn is_name(address: &str) -> bool {
    !address.contains('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_are_cut_out() {
        let texts =
            |cidr, except: &[&str]| cidr_except(cidr, except).unwrap().into_iter().collect::<Vec<_>>();
        assert_eq!(
            texts("10.0.0.0/30", &["10.0.0.1/32"]),
            ["10.0.0.0/32", "10.0.0.2/31"]
        );
        assert_eq!(texts("10.0.0.7/8", &[]), ["10.0.0.0/8"]);
        assert_eq!(texts("fd00::/127", &["fd00::/128"]), ["fd00::1/128"]);
        assert!(texts("10.0.0.0/8", &["10.0.0.0/8"]).is_empty());
        assert_eq!(texts("0.0.0.0/0", &["10.0.0.0/8"]).len(), 8);
        assert_eq!(texts("::/0", &["::1/128"]).len(), 128);
        assert!(cidr_except("10.0.0.0/8", &["11.0.0.0/16"]).is_err());
        assert!(cidr_except("10.0.0.1", &[]).is_err());
    }
}
