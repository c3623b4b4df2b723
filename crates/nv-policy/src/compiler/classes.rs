//! Classes of peers that no rule can tell apart; a class's number is its identity.

use std::collections::{BTreeMap, BTreeSet};

use nv_types::{Identity, Mode};

use super::members::{Dx, Gx};
use crate::map::Map;

/// What makes a class: a workload or not, the groups that some rule speaks of, the mode.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ClassKey {
    pub(super) workload: bool,
    /// Sorted.
    pub(super) groups: Box<[Gx]>,
    pub(super) mode: Option<Mode>,
    pub(super) zone: ZoneKey,
}

/// A [`Zone`](crate::Zone), by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum ZoneKey {
    #[default]
    Open,
    Within(Dx),
    Everywhere,
}

impl ZoneKey {
    /// Whether a boundary lies between the two.
    pub(super) fn is_apart(self, other: Self) -> bool {
        self != other && self != Self::Everywhere && other != Self::Everywhere
    }

    /// Whether a boundary lies between somebody here and those for whom a wildcard holds, who are in no zone of their own.
    pub(super) fn is_apart_from_most(self) -> bool {
        self.is_apart(Self::Open)
    }

    /// Whether a wildcard of somebody here may not hold for somebody there, only because of where they are.
    pub(super) fn stands_out(self, local: Self) -> bool {
        local.is_apart(self) != local.is_apart_from_most()
    }
}

impl ClassKey {
    /// What its classes have in common that no rule names: see [`kind`].
    pub(super) const fn kind(&self) -> u32 {
        kind(self.workload, self.mode)
    }
}

/// Kinds of classes: the mode, and whether they are workloads. Kind 0 is everybody that nobody manages.
pub(super) const fn kind(workload: bool, mode: Option<Mode>) -> u32 {
    let mode = match mode {
        None => 0,
        Some(Mode::Discover) => 1,
        Some(Mode::Monitor) => 2,
        Some(Mode::Protect) => 3,
    };
    mode + if workload { 4 } else { 0 }
}

/// The mode of an identity's class, and whether it is one of workloads: both are in its kind.
pub(super) const fn of_kind(identity: Identity) -> (bool, Option<Mode>) {
    let kind = identity.kind();
    let mode = match kind & 3 {
        1 => Some(Mode::Discover),
        2 => Some(Mode::Monitor),
        3 => Some(Mode::Protect),
        _ => None,
    };
    (kind & 4 != 0, mode)
}

/// What the workloads of a class are told to be; `None` where nobody manages them.
pub(super) fn local(class: Identity) -> Option<(Identity, Mode)> {
    Some((class, of_kind(class).1?))
}

#[derive(Debug)]
pub(super) struct Class {
    pub(super) key: ClassKey,
    /// Workloads, prefixes and addresses that are in it.
    refs: u32,
    /// Workloads of the compiler's node that are in it.
    pub(super) locals: u32,
}

/// All classes. One that nobody is in keeps its number until [`Classes::bury`].
#[derive(Debug, Default)]
pub(super) struct Classes {
    index: Map<ClassKey, Identity>,
    slots: Vec<Option<Class>>,
    free: BTreeSet<u32>,
    born: Vec<Identity>,
    left: Vec<Identity>,
    /// Classes that the node's own workloads have come to, or have all left.
    homes: Vec<Identity>,
    /// Classes of every zone but the open one.
    zones: BTreeMap<ZoneKey, BTreeSet<Identity>>,
}

fn place(identity: Identity) -> Option<usize> {
    Some(identity.number().checked_sub(1)? as usize)
}

impl Classes {
    pub(super) fn get(&self, identity: Identity) -> Option<&Class> {
        self.slots.get(place(identity)?)?.as_ref()
    }

    fn get_mut(&mut self, identity: Identity) -> Option<&mut Class> {
        self.slots.get_mut(place(identity)?)?.as_mut()
    }

    /// Every class with its number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Identity, &Class)> {
        (1..)
            .zip(&self.slots)
            .filter_map(|(number, slot)| Some((number, slot.as_ref()?)))
            .map(|(number, class)| (Identity::of_kind(class.key.kind(), number), class))
    }

    /// One more is in the class; it is made if nobody was.
    pub(super) fn enter(&mut self, key: ClassKey, local: bool) -> Identity {
        let identity = match self.index.get(&key) {
            Some(identity) => *identity,
            None => self.make(key),
        };
        self.enter_again(identity, local);
        identity
    }

    /// One more is in a class that somebody is in.
    pub(super) fn enter_again(&mut self, identity: Identity, local: bool) {
        if let Some(class) = self.get_mut(identity) {
            class.refs += 1;
            class.locals += u32::from(local);
            if local && class.locals == 1 {
                self.homes.push(identity);
            }
        }
    }

    fn make(&mut self, key: ClassKey) -> Identity {
        let number = match self.free.pop_first() {
            Some(number) => number,
            None => {
                self.slots.push(None);
                u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
            }
        };
        let identity = Identity::of_kind(key.kind(), number);
        if key.zone != ZoneKey::Open {
            self.zones.entry(key.zone).or_default().insert(identity);
        }
        self.index.insert(key.clone(), identity);
        self.slots[number as usize - 1] = Some(Class {
            key,
            refs: 0,
            locals: 0,
        });
        self.born.push(identity);
        identity
    }

    /// One has left the class.
    pub(super) fn leave(&mut self, identity: Identity, local: bool) {
        if let Some(class) = self.get_mut(identity) {
            class.refs -= 1;
            class.locals -= u32::from(local);
            if local && class.locals == 0 {
                self.homes.push(identity);
            }
            let Some(class) = self.get(identity) else { return };
            if class.refs == 0 {
                self.left.push(identity);
            }
        }
    }

    /// Classes that were made since the last call, sorted.
    pub(super) fn take_born(&mut self) -> Vec<Identity> {
        let mut born = std::mem::take(&mut self.born);
        born.sort_unstable();
        born
    }

    /// Classes that may have come to have rows, or to have none, since the last call.
    pub(super) fn take_homes(&mut self) -> Vec<Identity> {
        std::mem::take(&mut self.homes)
    }

    /// Removes the classes that nobody is in; their numbers are not used again before [`Classes::release`].
    pub(super) fn bury(&mut self) -> Vec<(Identity, Class)> {
        let mut gone = Vec::new();
        for identity in std::mem::take(&mut self.left) {
            if self.get(identity).is_some_and(|class| class.refs == 0)
                && let Some(class) = place(identity).and_then(|place| self.slots[place].take())
            {
                self.index.remove(&class.key);
                self.leave_zone(class.key.zone, identity);
                gone.push((identity, class));
            }
        }
        self.born
            .retain(|born| gone.iter().all(|(identity, _)| identity != born));
        gone
    }

    fn leave_zone(&mut self, zone: ZoneKey, identity: Identity) {
        if let Some(members) = self.zones.get_mut(&zone) {
            members.remove(&identity);
            if members.is_empty() {
                self.zones.remove(&zone);
            }
        }
    }

    /// The zone of a class; without boundaries nothing needs to be looked at.
    pub(super) fn zone(&self, identity: Identity) -> ZoneKey {
        if self.zones.is_empty() {
            return ZoneKey::Open;
        }
        self.get(identity).map_or(ZoneKey::Open, |class| class.key.zone)
    }

    /// Classes that stand out for somebody in a zone: [`ZoneKey::stands_out`].
    pub(super) fn standing_out(&self, local: ZoneKey) -> impl Iterator<Item = Identity> + '_ {
        let zones = self.zones.iter().filter(move |(zone, _)| zone.stands_out(local));
        zones.flat_map(|(_, members)| members.iter().copied())
    }

    /// Numbers that may be used again.
    pub(super) fn release(&mut self, numbers: impl IntoIterator<Item = Identity>) {
        self.free.extend(numbers.into_iter().map(Identity::number));
    }
}
