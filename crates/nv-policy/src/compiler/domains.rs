//! Domains and their services: who is in them, in which mode, and which domains have a boundary.

use std::collections::BTreeSet;

use nv_types::{GroupName, Mode, service_group_name};

use super::classes::ZoneKey;
use super::members::{Dx, Gx, Wx};
use crate::map::Map;
use crate::party::PLATFORM_DOMAIN;

/// Number of a service.
pub(super) type Vx = u32;

#[derive(Debug, Default)]
struct Domain {
    name: String,
    services: Map<String, Vx>,
    /// Workloads that are in it.
    members: usize,
    /// Of these, those whose namespace is labelled as one with a boundary.
    labelled: usize,
    /// What its members' classes know.
    zone: ZoneKey,
}

/// What all workloads of a service have in common.
#[derive(Debug)]
pub(super) struct Service {
    name: String,
    pub(super) domain: Dx,
    /// Name of its learned group; without one its workloads are not managed.
    pub(super) group: Option<GroupName>,
    pub(super) mode: Option<Mode>,
    /// Its learned group, if that holds the service's workloads and nothing else.
    pub(super) own: Option<Gx>,
    /// In no order: each member knows its place.
    pub(super) members: Vec<Wx>,
}

/// All domains and services that somebody is in, or that a learned group speaks of.
#[derive(Debug, Default)]
pub(super) struct Domains {
    by_name: Map<String, Dx>,
    slots: Vec<Domain>,
    free: Vec<Dx>,
    listed: BTreeSet<String>,
    services: Vec<Service>,
    free_services: Vec<Vx>,
    /// Services by their learned groups; two may have one of the same name.
    by_group: Map<GroupName, Vec<Vx>>,
}

impl Domains {
    /// Takes the setting. Gives the workloads whose zone changed.
    pub(super) fn list(&mut self, listed: &BTreeSet<String>) -> Vec<Wx> {
        if self.listed == *listed {
            return Vec::new();
        }
        self.listed.clone_from(listed);
        let mut numbers: Vec<_> = self.by_name.values().copied().collect();
        numbers.sort_unstable();
        numbers.into_iter().flat_map(|number| self.look(number)).collect()
    }

    /// The number of a service; `mode` gives its mode if nobody has been in it.
    pub(super) fn service_number(
        &mut self,
        name: &str,
        domain: &str,
        mode: impl FnOnce(&GroupName) -> Mode,
    ) -> Vx {
        let place = match self.by_name.get(domain) {
            Some(number) => *number,
            None => self.make(domain),
        };
        if let Some(number) = self.slots[place as usize].services.get(name) {
            return *number;
        }
        let group = GroupName::try_new(service_group_name(name, domain)).ok();
        let service = Service {
            name: name.to_owned(),
            domain: place,
            mode: group.as_ref().map(mode),
            group,
            own: None,
            members: Vec::new(),
        };
        let group = service.group.clone();
        let number = match self.free_services.pop() {
            Some(number) => {
                self.services[number as usize] = service;
                number
            }
            None => {
                self.services.push(service);
                u32::try_from(self.services.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.slots[place as usize]
            .services
            .insert(name.to_owned(), number);
        if let Some(group) = group {
            self.by_group.entry(group).or_default().push(number);
        }
        number
    }

    pub(super) fn service(&self, number: Vx) -> &Service {
        &self.services[number as usize]
    }

    pub(super) fn service_mut(&mut self, number: Vx) -> &mut Service {
        &mut self.services[number as usize]
    }

    /// Services whose learned group has this name.
    pub(super) fn services_of(&self, group: &GroupName) -> &[Vx] {
        self.by_group.get(group).map_or(&[], Vec::as_slice)
    }

    /// Forgets a service that nobody is in and that no group speaks of.
    pub(super) fn forget_unused(&mut self, number: Vx) {
        let service = &self.services[number as usize];
        if !service.members.is_empty() || service.own.is_some() {
            return;
        }
        let domain = &mut self.slots[service.domain as usize];
        // A number is freed once.
        if domain.services.get(&service.name) != Some(&number) {
            return;
        }
        domain.services.remove(&service.name);
        if let Some(group) = &service.group
            && let Some(list) = self.by_group.get_mut(group)
        {
            list.retain(|listed| *listed != number);
            if list.is_empty() {
                self.by_group.remove(group);
            }
        }
        self.free_services.push(number);
        let domain = service.domain;
        self.forget_empty(domain);
    }

    /// Forgets a domain that nobody is in and that has no services.
    fn forget_empty(&mut self, number: Dx) {
        let domain = &self.slots[number as usize];
        let is_empty = domain.members == 0 && domain.services.is_empty();
        // A number is freed once.
        if is_empty && self.by_name.get(&domain.name) == Some(&number) {
            self.by_name.remove(&domain.name);
            self.free.push(number);
        }
    }

    fn make(&mut self, name: &str) -> Dx {
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Domain::default());
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        let slot = Domain {
            name: name.to_owned(),
            ..Domain::default()
        };
        let zone = zone(&slot, number, &self.listed);
        self.slots[number as usize] = Domain { zone, ..slot };
        self.by_name.insert(name.to_owned(), number);
        number
    }

    /// One more workload is in the domain.
    pub(super) fn enter(&mut self, number: Dx, labelled: bool) {
        let slot = &mut self.slots[number as usize];
        slot.members += 1;
        slot.labelled += usize::from(labelled);
    }

    /// A workload is in the domain no more.
    pub(super) fn leave(&mut self, number: Dx, labelled: bool) {
        let slot = &mut self.slots[number as usize];
        slot.members -= 1;
        slot.labelled -= usize::from(labelled);
    }

    /// Looks whether the domain has a boundary now. Gives its members if that is new.
    pub(super) fn look(&mut self, number: Dx) -> Vec<Wx> {
        let slot = &mut self.slots[number as usize];
        let now = zone(slot, number, &self.listed);
        if slot.zone == now {
            return Vec::new();
        }
        slot.zone = now;
        let services = slot.services.values().map(|number| *number as usize);
        let members = services.flat_map(|number| self.services[number].members.iter().copied());
        members.collect()
    }

    /// Where the members of a domain are.
    pub(super) fn zone(&self, number: Dx) -> ZoneKey {
        self.slots
            .get(number as usize)
            .map_or(ZoneKey::Open, |slot| slot.zone)
    }

    /// The name of a domain.
    pub(super) fn name(&self, number: Dx) -> &str {
        self.slots
            .get(number as usize)
            .map_or("", |slot| slot.name.as_str())
    }
}

fn zone(slot: &Domain, number: Dx, listed: &BTreeSet<String>) -> ZoneKey {
    if slot.labelled > 0 || listed.contains(&slot.name) {
        ZoneKey::Within(number)
    } else if slot.name == PLATFORM_DOMAIN {
        ZoneKey::Everywhere
    } else {
        ZoneKey::Open
    }
}
