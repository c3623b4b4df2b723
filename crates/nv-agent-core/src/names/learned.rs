//! Addresses of names, and for how long.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use nv_policy::{NAME_ADDRESSES_MAX, NAMES_MAX};

use super::dns::Found;
use crate::io::Steady;

/// An answer counts for a day at most, whatever it says of itself.
const LONGEST: u32 = 86_400;
const SECOND: u64 = 1_000_000_000;

/// How long an address counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Life {
    /// Flows that begin until then keep it: the answer, and the grace after it.
    fresh: Steady,
    /// It is a name's until then.
    kept: Steady,
}

/// What was learned, by name and by address.
#[derive(Debug, Default)]
pub(super) struct Learned {
    names: BTreeMap<String, BTreeMap<IpAddr, Life>>,
    by_address: BTreeMap<IpAddr, BTreeSet<String>>,
    /// Nothing is over before.
    next: Option<Steady>,
}

impl Learned {
    /// Takes an answer; whether the name has another address now. `refused` counts what found no room.
    pub(super) fn put(
        &mut self,
        name: &str,
        found: &Found,
        grace: u64,
        now: Steady,
        refused: &mut u64,
    ) -> bool {
        if !self.names.contains_key(name) && self.names.len() >= NAMES_MAX {
            *refused += 1;
            return false;
        }
        let mut changed = false;
        for (address, seconds) in found {
            let lives = self.names.entry(name.to_owned()).or_default();
            let until = now
                .after(u64::from((*seconds).min(LONGEST)) * SECOND)
                .after(grace);
            self.next = Some(self.next.map_or(until, |next| next.min(until)));
            if let Some(life) = lives.get_mut(address) {
                life.fresh = life.fresh.max(until);
                life.kept = life.kept.max(until);
            } else if lives.len() < NAME_ADDRESSES_MAX {
                let life = Life {
                    fresh: until,
                    kept: until,
                };
                lives.insert(*address, life);
                self.by_address
                    .entry(*address)
                    .or_default()
                    .insert(name.to_owned());
                changed = true;
            } else {
                *refused += 1;
            }
        }
        changed
    }

    /// A flow to the address moves. It keeps the address while it does, if it began when the address was fresh.
    pub(super) fn touch(&mut self, address: IpAddr, began: Steady, grace: u64, now: Steady) {
        for name in self.by_address.get(&address).into_iter().flatten() {
            if let Some(life) = self.names.get_mut(name).and_then(|lives| lives.get_mut(&address))
                && began <= life.fresh
            {
                life.kept = life.kept.max(now.after(grace));
            }
        }
    }

    /// Forgets what is over and what nobody asks about; gives the names that changed.
    pub(super) fn expire(&mut self, now: Steady, is_wanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
        let mut changed = BTreeSet::new();
        let mut next: Option<Steady> = None;
        let by_address = &mut self.by_address;
        self.names.retain(|name, lives| {
            let wanted = is_wanted(name);
            lives.retain(|address, life| {
                let stays = wanted && life.kept > now;
                if stays {
                    next = Some(next.map_or(life.kept, |next| next.min(life.kept)));
                } else {
                    changed.insert(name.clone());
                    if let Some(names) = by_address.get_mut(address) {
                        names.remove(name);
                        if names.is_empty() {
                            by_address.remove(address);
                        }
                    }
                }
                stays
            });
            !lives.is_empty()
        });
        self.next = next;
        changed
    }

    /// When to look whether something is over.
    pub(super) const fn due(&self) -> Option<Steady> {
        self.next
    }

    pub(super) fn knows(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// Addresses of a name.
    pub(super) fn addresses(&self, name: &str) -> BTreeSet<IpAddr> {
        self.names
            .get(name)
            .into_iter()
            .flat_map(BTreeMap::keys)
            .copied()
            .collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, BTreeSet<IpAddr>)> {
        self.names
            .iter()
            .map(|(name, lives)| (name.as_str(), lives.keys().copied().collect()))
    }
}
