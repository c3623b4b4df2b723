//! Domains, who is in them, and which have a boundary.

use std::collections::{BTreeMap, BTreeSet};

use super::classes::ZoneKey;
use super::members::{Dx, Wx};
use crate::party::PLATFORM_DOMAIN;

#[derive(Debug, Default)]
struct Domain {
    name: String,
    members: BTreeSet<Wx>,
    /// Members whose namespace is labelled as one with a boundary.
    labelled: usize,
    /// What its members' classes know.
    zone: ZoneKey,
}

/// All domains that somebody is in.
#[derive(Debug, Default)]
pub(super) struct Domains {
    by_name: BTreeMap<String, Dx>,
    slots: Vec<Domain>,
    free: Vec<Dx>,
    listed: BTreeSet<String>,
}

impl Domains {
    /// Takes the setting. Gives the workloads whose zone changed.
    pub(super) fn list(&mut self, listed: &BTreeSet<String>) -> BTreeSet<Wx> {
        if self.listed == *listed {
            return BTreeSet::new();
        }
        self.listed.clone_from(listed);
        let numbers: Vec<_> = self.by_name.values().copied().collect();
        numbers.into_iter().flat_map(|number| self.look(number)).collect()
    }

    /// A workload is in the domain now. Gives its number.
    pub(super) fn enter(&mut self, name: &str, member: Wx, labelled: bool) -> Dx {
        let number = match self.by_name.get(name) {
            Some(number) => *number,
            None => self.make(name),
        };
        let slot = &mut self.slots[number as usize];
        slot.members.insert(member);
        slot.labelled += usize::from(labelled);
        number
    }

    fn make(&mut self, name: &str) -> Dx {
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Domain::default());
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        self.slots[number as usize].name = name.to_owned();
        self.by_name.insert(name.to_owned(), number);
        let slot = &mut self.slots[number as usize];
        slot.zone = zone(slot, number, &self.listed);
        number
    }

    /// A workload is in the domain no more.
    pub(super) fn leave(&mut self, number: Dx, member: Wx, labelled: bool) {
        let slot = &mut self.slots[number as usize];
        slot.members.remove(&member);
        slot.labelled -= usize::from(labelled);
    }

    /// Looks whether the domain has a boundary now. Gives its members if that is new, and forgets it when it has none.
    pub(super) fn look(&mut self, number: Dx) -> BTreeSet<Wx> {
        let slot = &mut self.slots[number as usize];
        if slot.members.is_empty() {
            // A domain that was left twice is freed once.
            if self.by_name.get(&slot.name) == Some(&number) {
                self.by_name.remove(&slot.name);
                self.free.push(number);
            }
            return BTreeSet::new();
        }
        let now = zone(slot, number, &self.listed);
        if slot.zone == now {
            return BTreeSet::new();
        }
        slot.zone = now;
        slot.members.clone()
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
