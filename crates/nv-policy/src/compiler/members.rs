//! Groups and who is in them, kept as workloads and groups come, change and go.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use nv_types::{GroupName, IpPrefix, Mode, NodeId, Timestamp, Workload, WorkloadId, v4_mapped};
use nv_types::{Identity, reserved};

use super::claim::Claim;
use super::domains::Domains;
use crate::criteria::{Selector, value};
use crate::group::{Addresses, Body, read};
use crate::input::{PolicyInput, is_labelled};
use crate::map::Map;
use crate::party::is_present;

/// Number of a group.
pub(super) type Gx = u32;
/// Number of a workload.
pub(super) type Wx = u32;
/// Number of a rule.
pub(super) type Rx = u32;
/// Number of a domain.
pub(super) type Dx = u32;

#[derive(Debug)]
pub(super) struct GroupSlot {
    pub(super) name: GroupName,
    pub(super) body: Body,
    /// Workloads that are in it.
    pub(super) members: BTreeSet<Wx>,
    /// How often rules name it, in force or not.
    pub(super) named: u32,
    /// Rules in force that name it as client and as server.
    pub(super) from: Vec<Rx>,
    pub(super) to: Vec<Rx>,
    /// Classes that are in it; only while it is spoken of.
    pub(super) classes: BTreeSet<Identity>,
    /// Whether its members' classes know of it.
    pub(super) known: bool,
    /// What an administrator should know of it.
    pub(super) problems: Vec<String>,
}

impl GroupSlot {
    pub(super) const fn is_spoken(&self) -> bool {
        !self.from.is_empty() || !self.to.is_empty()
    }

    const fn addresses(&self) -> Option<&Addresses> {
        match &self.body {
            Body::Addresses(own) => Some(own),
            Body::Absent | Body::Reserved | Body::Broken | Body::Workloads(_) => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct WorkloadSlot {
    pub(super) id: WorkloadId,
    pub(super) addresses: Vec<[u8; 16]>,
    pub(super) started: Timestamp,
    /// On the compiler's node.
    pub(super) local: bool,
    pub(super) service: Option<GroupName>,
    pub(super) mode: Option<Mode>,
    /// Sorted.
    pub(super) groups: Vec<Gx>,
    pub(super) domain: Dx,
    /// Its namespace is labelled as one with a boundary.
    labelled: bool,
    pub(super) class: Option<Identity>,
}

/// Groups and workloads.
#[derive(Debug)]
pub(super) struct Members {
    by_name: Map<GroupName, Gx>,
    pub(super) groups: Vec<GroupSlot>,
    free_groups: Vec<Gx>,
    /// Groups that need an exact value of a key, by key and value; all others that select workloads are in `scanned`.
    anchored: BTreeMap<String, Map<String, Vec<Gx>>>,
    scanned: BTreeSet<Gx>,
    /// Address groups that speak of names.
    naming: BTreeSet<Gx>,
    pub(super) domains: Domains,
    by_id: Map<WorkloadId, Wx>,
    pub(super) workloads: Vec<Option<WorkloadSlot>>,
    free_workloads: Vec<Wx>,
    by_service: Map<GroupName, BTreeSet<Wx>>,
    /// Who says to have an address: one, as a rule.
    claims: Map<[u8; 16], Claim>,
    pub(super) containers: Gx,
    pub(super) external: Gx,
    pub(super) nodes: Gx,
}

impl Members {
    pub(super) fn new() -> Self {
        let mut members = Self {
            by_name: Map::default(),
            groups: Vec::new(),
            free_groups: Vec::new(),
            anchored: BTreeMap::new(),
            scanned: BTreeSet::new(),
            naming: BTreeSet::new(),
            domains: Domains::default(),
            by_id: Map::default(),
            workloads: Vec::new(),
            free_workloads: Vec::new(),
            by_service: Map::default(),
            claims: Map::default(),
            containers: 0,
            external: 0,
            nodes: 0,
        };
        for name in reserved::ALL {
            if let Ok(name) = GroupName::try_new(name) {
                let number = members.group(&name);
                members.groups[number as usize].body = Body::Reserved;
            }
        }
        let number = |name: &str| members.by_name.get(name).copied().unwrap_or(0);
        (members.containers, members.external, members.nodes) = (
            number(reserved::CONTAINERS),
            number(reserved::EXTERNAL),
            number(reserved::NODES),
        );
        members
    }

    /// Makes room for so many at once.
    pub(super) fn reserve(&mut self, workloads: usize, groups: usize) {
        self.by_id.reserve(workloads);
        self.claims.reserve(workloads);
        self.workloads.reserve(workloads);
        self.groups.reserve(groups);
        self.by_name.reserve(groups);
    }

    /// The number of a group's name.
    pub(super) fn group(&mut self, name: &GroupName) -> Gx {
        if let Some(number) = self.by_name.get(name) {
            return *number;
        }
        let slot = GroupSlot {
            name: name.clone(),
            body: Body::Absent,
            members: BTreeSet::new(),
            named: 0,
            from: Vec::new(),
            to: Vec::new(),
            classes: BTreeSet::new(),
            known: false,
            problems: Vec::new(),
        };
        let number = match self.free_groups.pop() {
            Some(number) => {
                self.groups[number as usize] = slot;
                number
            }
            None => {
                self.groups.push(slot);
                u32::try_from(self.groups.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.by_name.insert(name.clone(), number);
        number
    }

    /// Forgets a name that is not defined and that no rule names.
    pub(super) fn forget_unused(&mut self, number: Gx) {
        let slot = &self.groups[number as usize];
        let unused = matches!(slot.body, Body::Absent) && slot.named == 0 && !slot.known;
        // A number is freed once: it may have been forgotten already, or have another name since.
        if unused && self.by_name.get(&slot.name) == Some(&number) {
            self.by_name.remove(&slot.name);
            self.free_groups.push(number);
        }
    }

    pub(super) fn workload(&self, number: Wx) -> Option<&WorkloadSlot> {
        self.workloads.get(number as usize)?.as_ref()
    }

    pub(super) fn workload_mut(&mut self, number: Wx) -> Option<&mut WorkloadSlot> {
        self.workloads.get_mut(number as usize)?.as_mut()
    }

    /// Workloads of a service.
    pub(super) fn of_service(&self, name: &GroupName) -> impl Iterator<Item = Wx> + '_ {
        self.by_service.get(name).into_iter().flatten().copied()
    }

    /// Who has the address: of several that claim it the youngest.
    pub(super) fn holder(&self, address: &[u8; 16]) -> Option<&WorkloadSlot> {
        self.claims
            .get(address)?
            .all()
            .iter()
            .filter_map(|number| self.workload(*number))
            .max_by_key(|workload| (workload.started, &workload.id))
    }

    /// Address groups that speak of a name.
    pub(super) fn naming(&self, name: &str) -> Vec<GroupName> {
        let slots = self.naming.iter().map(|number| &self.groups[*number as usize]);
        let speaking = slots.filter(|slot| matches!(&slot.body, Body::Addresses(own) if own.speaks_of(name)));
        speaking.map(|slot| slot.name.clone()).collect()
    }

    /// Takes a group as the input has it now. Gives the workloads whose groups changed; that its addresses did is told by `true`.
    pub(super) fn put_group(&mut self, input: &PolicyInput, name: &GroupName) -> (BTreeSet<Wx>, bool) {
        if reserved::ALL.contains(&name.as_str()) {
            return (BTreeSet::new(), false);
        }
        let number = self.group(name);
        self.unlist(number);
        let group = input.groups.get(name);
        let (body, problems) = group.map_or((Body::Absent, Vec::new()), |group| read(group, input));
        let is_other = match (&self.groups[number as usize].body, &body) {
            (Body::Addresses(was), Body::Addresses(is)) => was != is,
            (Body::Addresses(_), _) | (_, Body::Addresses(_)) => true,
            _ => false,
        };
        if matches!(&body, Body::Addresses(own) if !own.patterns.is_empty()) {
            self.naming.insert(number);
        } else {
            self.naming.remove(&number);
        }
        let members = match &body {
            Body::Workloads(selector) => self.selected(input, name, selector),
            Body::Absent | Body::Reserved | Body::Broken | Body::Addresses(_) => BTreeSet::new(),
        };
        let slot = &mut self.groups[number as usize];
        slot.body = body;
        slot.problems = problems;
        let changed: BTreeSet<Wx> = slot.members.symmetric_difference(&members).copied().collect();
        slot.members = members;
        for workload in &changed {
            let is_member = self.groups[number as usize].members.contains(workload);
            if let Some(workload) = self.workload_mut(*workload) {
                match (workload.groups.binary_search(&number), is_member) {
                    (Err(place), true) => workload.groups.insert(place, number),
                    (Ok(place), false) => {
                        workload.groups.remove(place);
                    }
                    _ => {}
                }
            }
        }
        self.list(number);
        self.forget_unused(number);
        (changed, is_other)
    }

    /// Workloads that a selector picks. The learned group of a service needs to look only at that service's.
    fn selected(&self, input: &PolicyInput, name: &GroupName, selector: &Selector) -> BTreeSet<Wx> {
        let picks = |number: &Wx| {
            let slot = self.workload(*number);
            slot.and_then(|slot| input.workloads.get(&slot.id))
                .is_some_and(|workload| selector.matches(workload))
        };
        if let Some(own) = self.by_service.get(name)
            && let Some(("service", _)) = selector.anchor()
            && let Some(service) = own.first().and_then(|number| self.workload(*number))
            && let Some(workload) = input.workloads.get(&service.id)
            && input
                .groups
                .get(name)
                .is_some_and(|group| crate::input::is_service_group(group, workload))
        {
            return own.iter().copied().filter(picks).collect();
        }
        (0..)
            .zip(&self.workloads)
            .filter(|(_, slot)| slot.is_some())
            .map(|(number, _)| number)
            .filter(picks)
            .collect()
    }

    /// Where a group's selector is looked for.
    fn list(&mut self, number: Gx) {
        let Body::Workloads(selector) = &self.groups[number as usize].body else {
            return;
        };
        match selector.anchor() {
            Some((key, values)) => {
                let places = self.anchored.entry(key.to_owned()).or_default();
                for value in values {
                    places.entry(value.to_owned()).or_default().push(number);
                }
            }
            None => {
                self.scanned.insert(number);
            }
        }
    }

    fn unlist(&mut self, number: Gx) {
        let Body::Workloads(selector) = &self.groups[number as usize].body else {
            return;
        };
        let Some((key, values)) = selector.anchor() else {
            self.scanned.remove(&number);
            return;
        };
        let Some(places) = self.anchored.get_mut(key) else {
            return;
        };
        for value in values {
            if let Some(list) = places.get_mut(value) {
                list.retain(|listed| *listed != number);
                if list.is_empty() {
                    places.remove(value);
                }
            }
        }
        if places.is_empty() {
            self.anchored.remove(key);
        }
    }

    /// Groups that a workload is in, sorted.
    fn groups_of(&self, workload: &Workload) -> Vec<Gx> {
        let mut groups = vec![self.containers];
        let holds = |number: &Gx| match &self.groups[*number as usize].body {
            Body::Workloads(selector) => selector.matches(workload),
            Body::Absent | Body::Reserved | Body::Broken | Body::Addresses(_) => false,
        };
        for (key, places) in &self.anchored {
            if let Some(value) = value(workload, key)
                && let Some(list) = places.get(value.as_ref())
            {
                groups.extend(list.iter().copied().filter(holds));
            }
        }
        groups.extend(self.scanned.iter().copied().filter(holds));
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    /// Takes a workload as the input has it now. Gives what it was, and its number if it is there.
    pub(super) fn put_workload(
        &mut self,
        input: &PolicyInput,
        node: &NodeId,
        id: &WorkloadId,
        now: Option<&Workload>,
    ) -> (Option<WorkloadSlot>, Option<Wx>) {
        let before = self
            .by_id
            .get(id)
            .copied()
            .and_then(|number| self.remove_workload(number));
        let Some(workload) = now.filter(|workload| is_present(workload)) else {
            return (before, None);
        };
        let mut addresses: Vec<_> = workload.peer_addresses().map(v4_mapped).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let service = workload.service_group();
        let mut slot = WorkloadSlot {
            id: id.clone(),
            addresses,
            started: workload.started,
            local: workload.node == *node,
            mode: service.as_ref().map(|service| input.service_mode(service)),
            groups: self.groups_of(workload),
            service,
            domain: 0,
            labelled: is_labelled(workload),
            class: None,
        };
        let number = match self.free_workloads.pop() {
            Some(number) => number,
            None => {
                self.workloads.push(None);
                u32::try_from(self.workloads.len() - 1).unwrap_or(u32::MAX)
            }
        };
        slot.domain = self.domains.enter(&workload.domain, number, slot.labelled);
        for group in &slot.groups {
            self.groups[*group as usize].members.insert(number);
        }
        for address in &slot.addresses {
            match self.claims.entry(*address) {
                Entry::Occupied(mut claim) => claim.get_mut().add(number),
                Entry::Vacant(place) => {
                    place.insert(Claim::One(number));
                }
            }
        }
        if let Some(service) = &slot.service {
            match self.by_service.get_mut(service) {
                Some(own) => own.insert(number),
                None => self.by_service.entry(service.clone()).or_default().insert(number),
            };
        }
        self.by_id.insert(id.clone(), number);
        self.workloads[number as usize] = Some(slot);
        (before, Some(number))
    }

    fn remove_workload(&mut self, number: Wx) -> Option<WorkloadSlot> {
        let slot = self.workloads.get_mut(number as usize)?.take()?;
        for group in &slot.groups {
            self.groups[*group as usize].members.remove(&number);
        }
        for address in &slot.addresses {
            if self
                .claims
                .get_mut(address)
                .is_some_and(|claim| claim.remove(number))
            {
                self.claims.remove(address);
            }
        }
        if let Some(service) = &slot.service
            && let Some(own) = self.by_service.get_mut(service)
        {
            own.remove(&number);
            if own.is_empty() {
                self.by_service.remove(service);
            }
        }
        self.domains.leave(slot.domain, number, slot.labelled);
        self.by_id.remove(&slot.id);
        self.free_workloads.push(number);
        Some(slot)
    }

    /// Groups with something that an administrator should know, by name.
    pub(super) fn problems<'a>(&'a self) -> impl Iterator<Item = (&'a GroupName, &'a String)> {
        let mut slots: Vec<_> = self
            .groups
            .iter()
            .filter(|slot| !slot.problems.is_empty())
            .collect();
        slots.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let told = |slot: &'a GroupSlot| slot.problems.iter().map(|problem| (&slot.name, problem));
        slots.into_iter().flat_map(told)
    }

    /// Prefixes of all address groups.
    pub(super) fn prefixes(&self) -> impl Iterator<Item = (IpPrefix, Gx)> + '_ {
        (0..).zip(&self.groups).flat_map(|(number, slot)| {
            let prefixes = slot.addresses().map_or(&[][..], |own| own.prefixes.as_slice());
            prefixes.iter().map(move |prefix| (*prefix, number))
        })
    }

    /// Addresses that address groups hold by names.
    pub(super) fn named(&self) -> impl Iterator<Item = ([u8; 16], Gx)> + '_ {
        self.naming.iter().flat_map(|number| {
            let own = self.groups[*number as usize].addresses();
            let named = own.into_iter().flat_map(|own| own.named.keys());
            named.map(|addr| (*addr, *number))
        })
    }

    /// Whether there is a group of this name.
    pub(super) fn is_defined(&self, number: Gx) -> bool {
        !matches!(self.groups[number as usize].body, Body::Absent)
    }
}
