//! Groups and who is in them, kept as workloads and groups come, change and go.

use std::collections::{BTreeMap, BTreeSet};

use nv_types::{GroupName, Identity, IpPrefix, NodeId, Timestamp, Workload, WorkloadId, reserved};

use super::claim::{Claims, Own};
use super::domains::{Domains, Service, Vx};
use super::links::{Links, insert_sorted, remove_sorted};
use super::sets::{Sets, Sx};
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
    pub(super) listed: Listed,
    /// How often rules name it, in force or not.
    pub(super) named: u32,
    /// Whether its members' classes know of it.
    pub(super) known: bool,
    /// What an administrator should know of it.
    pub(super) problems: Vec<String>,
}

/// Where a group is found by those that may be in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listed {
    No,
    /// By the service that it holds.
    Service(Vx),
    /// By its selector's anchor, or among those that are asked by everybody.
    Selector,
}

impl GroupSlot {
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
    pub(super) addresses: Own,
    started: Timestamp,
    pub(super) service: Vx,
    /// Its place among the service's members.
    pub(super) service_place: u32,
    /// The groups that it is in.
    pub(super) set: Sx,
    /// Its place among the set's members.
    pub(super) set_place: u32,
    /// On the compiler's node.
    pub(super) local: bool,
    /// Its namespace is labelled as one with a boundary.
    labelled: bool,
    pub(super) class: Option<Identity>,
}

/// Groups and workloads.
#[derive(Debug)]
pub(super) struct Members {
    by_name: Map<GroupName, Gx>,
    pub(super) groups: Vec<GroupSlot>,
    /// Of every group.
    pub(super) links: Vec<Links>,
    free_groups: Vec<Gx>,
    /// Groups that need an exact value of a key, by key and value; all others that select workloads are in `scanned`.
    pub(super) anchored: BTreeMap<String, Map<String, Vec<Gx>>>,
    pub(super) scanned: BTreeSet<Gx>,
    /// Address groups that speak of names.
    naming: BTreeSet<Gx>,
    pub(super) domains: Domains,
    pub(super) sets: Sets,
    by_id: Map<WorkloadId, Wx>,
    workloads: Vec<Option<WorkloadSlot>>,
    free_workloads: Vec<Wx>,
    claims: Claims,
    /// Room for the groups of the workload that is looked at.
    room: Vec<Gx>,
    pub(super) containers: Gx,
    pub(super) external: Gx,
    pub(super) nodes: Gx,
    pub(super) ingress: Gx,
}

impl Members {
    pub(super) fn new() -> Self {
        let mut members = Self {
            by_name: Map::default(),
            groups: Vec::new(),
            links: Vec::new(),
            free_groups: Vec::new(),
            anchored: BTreeMap::new(),
            scanned: BTreeSet::new(),
            naming: BTreeSet::new(),
            domains: Domains::default(),
            sets: Sets::default(),
            by_id: Map::default(),
            workloads: Vec::new(),
            free_workloads: Vec::new(),
            claims: Claims::default(),
            room: Vec::new(),
            containers: 0,
            external: 0,
            nodes: 0,
            ingress: 0,
        };
        for name in reserved::ALL {
            if let Ok(name) = GroupName::try_new(name) {
                let number = members.group(&name);
                members.groups[number as usize].body = Body::Reserved;
            }
        }
        let number = |name: &str| members.by_name.get(name).copied().unwrap_or(0);
        (
            members.containers,
            members.external,
            members.nodes,
            members.ingress,
        ) = (
            number(reserved::CONTAINERS),
            number(reserved::EXTERNAL),
            number(reserved::NODES),
            number(reserved::INGRESS),
        );
        members
    }

    /// Makes room for so many at once.
    pub(super) fn reserve(&mut self, workloads: usize, groups: usize) {
        self.by_id.reserve(workloads);
        self.claims.reserve(workloads);
        self.workloads.reserve(workloads);
        self.groups.reserve(groups);
        self.links.reserve(groups);
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
            listed: Listed::No,
            named: 0,
            known: false,
            problems: Vec::new(),
        };
        let number = match self.free_groups.pop() {
            Some(number) => {
                self.groups[number as usize] = slot;
                self.links[number as usize] = Links::default();
                number
            }
            None => {
                self.groups.push(slot);
                self.links.push(Links::default());
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

    /// The workload of this id.
    pub(super) fn by_id(&self, id: &WorkloadId) -> Option<&WorkloadSlot> {
        self.workload(*self.by_id.get(id)?)
    }

    /// The compiler's node's own workloads.
    pub(super) fn locals(&self) -> impl Iterator<Item = &WorkloadSlot> {
        self.workloads.iter().flatten().filter(|slot| slot.local)
    }

    /// A workload's service.
    pub(super) fn service(&self, workload: &WorkloadSlot) -> &Service {
        self.domains.service(workload.service)
    }

    /// Workloads that are in a group.
    pub(super) fn of_group(&self, number: Gx) -> impl Iterator<Item = Wx> + '_ {
        let sets = self.links[number as usize].sets.iter();
        sets.flat_map(|set| self.sets.get(*set).members.iter().copied())
    }

    /// Who has the address: of several that claim it the youngest.
    pub(super) fn holder(&self, address: &[u8; 16]) -> Option<&WorkloadSlot> {
        self.claims
            .of(address)
            .iter()
            .filter_map(|number| self.workload(*number))
            .max_by_key(|workload| (workload.started, &workload.id))
    }

    /// Whether several claim the address.
    pub(super) fn is_contested(&self, address: &[u8; 16]) -> bool {
        self.claims.is_contested(address)
    }

    /// Address groups that speak of a name.
    pub(super) fn naming(&self, name: &str) -> Vec<GroupName> {
        let slots = self.naming.iter().map(|number| &self.groups[*number as usize]);
        let speaking = slots.filter(|slot| matches!(&slot.body, Body::Addresses(own) if own.speaks_of(name)));
        speaking.map(|slot| slot.name.clone()).collect()
    }

    /// Takes a group as the input has it now. Gives the workloads whose groups changed; that its addresses did is told by `true`.
    pub(super) fn put_group(&mut self, input: &PolicyInput, name: &GroupName) -> (Vec<Wx>, bool) {
        if reserved::ALL.contains(&name.as_str()) {
            return (Vec::new(), false);
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
        let slot = &mut self.groups[number as usize];
        slot.body = body;
        slot.problems = problems;
        self.list(input, number);
        let changed = self.take_members(input, number);
        self.forget_unused(number);
        (changed, is_other)
    }

    /// Brings the members of a group that has changed up to date. Gives those that came and those that went.
    fn take_members(&mut self, input: &PolicyInput, number: Gx) -> Vec<Wx> {
        let now = self.selected(input, number);
        let before: BTreeSet<Wx> = self.of_group(number).collect();
        let changed: Vec<Wx> = before.symmetric_difference(&now).copied().collect();
        for workload in &changed {
            let Some(slot) = self.workload(*workload) else {
                continue;
            };
            let mut groups = self.sets.get(slot.set).groups.to_vec();
            if now.contains(workload) {
                insert_sorted(&mut groups, number);
            } else {
                remove_sorted(&mut groups, number);
            }
            self.leave_set(*workload);
            self.enter_set(*workload, &groups);
        }
        changed
    }

    /// Workloads that a group's selector picks. A service's own group needs no asking.
    fn selected(&self, input: &PolicyInput, number: Gx) -> BTreeSet<Wx> {
        let slot = &self.groups[number as usize];
        if let Listed::Service(service) = slot.listed {
            return self.domains.service(service).members.iter().copied().collect();
        }
        let Body::Workloads(selector) = &slot.body else {
            return BTreeSet::new();
        };
        let slots = (0..).zip(&self.workloads);
        let there = slots.filter_map(|(number, slot)| Some((number, slot.as_ref()?)));
        let picked = there.filter(|(_, slot)| {
            let workload = input.workloads.get(&slot.id);
            workload.is_some_and(|workload| selector.matches(workload))
        });
        picked.map(|(number, _)| number).collect()
    }

    /// Takes a workload as the input has it now. Gives what it was, and its number if it is there.
    pub(super) fn put_workload(
        &mut self,
        input: &PolicyInput,
        node: &NodeId,
        id: &WorkloadId,
        now: Option<&Workload>,
    ) -> (Option<(WorkloadSlot, Dx)>, Option<Wx>) {
        let before = self
            .by_id
            .get(id)
            .copied()
            .and_then(|number| self.remove_workload(number));
        let Some(workload) = now.filter(|workload| is_present(workload)) else {
            return (before, None);
        };
        let mode = |name: &GroupName| input.service_mode(name);
        let (name, domain) = (&workload.service, &workload.domain);
        let service = self.domains.service_number(name, domain, mode);
        let slot = WorkloadSlot {
            id: id.clone(),
            addresses: Own::of(workload),
            started: workload.started,
            service,
            service_place: 0,
            set: 0,
            set_place: 0,
            local: workload.node == *node,
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
        for address in slot.addresses.all() {
            self.claims.add(*address, number);
        }
        let domain = self.domains.service(service).domain;
        self.domains.enter(domain, slot.labelled);
        self.by_id.insert(id.clone(), number);
        self.workloads[number as usize] = Some(slot);
        self.enter_service(number, service);
        let mut groups = std::mem::take(&mut self.room);
        self.groups_of(workload, service, &mut groups);
        self.enter_set(number, &groups);
        self.room = groups;
        (before, Some(number))
    }

    /// Gives what the workload was, and its domain.
    fn remove_workload(&mut self, number: Wx) -> Option<(WorkloadSlot, Dx)> {
        self.workload(number)?;
        self.leave_set(number);
        self.leave_service(number);
        let slot = self.workloads.get_mut(number as usize)?.take()?;
        for address in slot.addresses.all() {
            self.claims.remove(address, number);
        }
        let domain = self.domains.service(slot.service).domain;
        self.domains.leave(domain, slot.labelled);
        self.domains.forget_unused(slot.service);
        self.by_id.remove(&slot.id);
        self.free_workloads.push(number);
        Some((slot, domain))
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
