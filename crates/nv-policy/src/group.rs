//! Groups as they are written, read.

use nv_types::{Group, GroupKind, IpPrefix};

use crate::address::AddressSet;
use crate::criteria::Selector;

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
    Addresses(Vec<IpPrefix>),
}

/// What a group is made of, and what an administrator should know of it.
pub(crate) fn read(group: &Group) -> (Body, Vec<String>) {
    let selector = match Selector::new(&group.criteria) {
        Ok(selector) => selector,
        Err(error) => return (Body::Broken, vec![error.to_string()]),
    };
    let Some(addresses) = selector.addresses() else {
        return match group.kind {
            GroupKind::Container => (Body::Workloads(selector), Vec::new()),
            _ => (Body::Broken, Vec::new()),
        };
    };
    let (mut prefixes, mut problems) = (Vec::new(), Vec::new());
    for set in addresses {
        match set {
            AddressSet::Prefixes(list) => prefixes.extend_from_slice(list),
            AddressSet::Name(dns) => problems.push(format!("the name '{dns}' is not enforced yet")),
        }
    }
    (Body::Addresses(prefixes), problems)
}
