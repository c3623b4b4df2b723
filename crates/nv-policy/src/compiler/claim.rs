//! Addresses of workloads, and who says to have them: one, as a rule.

use std::collections::BTreeMap;
use std::collections::hash_map::Entry;

use nv_types::{Workload, v4_mapped};

use super::members::Wx;
use crate::map::Map;

/// All addresses of workloads.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// One of those that claim the address.
    one: Map<[u8; 16], Wx>,
    /// All of them, where they are several.
    rivals: BTreeMap<[u8; 16], Vec<Wx>>,
}

impl Claims {
    pub(super) fn reserve(&mut self, addresses: usize) {
        self.one.reserve(addresses);
    }

    /// Who claims the address.
    pub(super) fn of(&self, address: &[u8; 16]) -> &[Wx] {
        match self.rivals.get(address) {
            Some(list) => list,
            None => self.one.get(address).map_or(&[], std::slice::from_ref),
        }
    }

    /// Whether there are several.
    pub(super) fn is_contested(&self, address: &[u8; 16]) -> bool {
        self.rivals.contains_key(address)
    }

    pub(super) fn add(&mut self, address: [u8; 16], member: Wx) {
        match self.one.entry(address) {
            Entry::Vacant(place) => {
                place.insert(member);
            }
            Entry::Occupied(first) => {
                let rivals = self.rivals.entry(address);
                rivals.or_insert_with(|| vec![*first.get()]).push(member);
            }
        }
    }

    pub(super) fn remove(&mut self, address: &[u8; 16], member: Wx) {
        let Some(list) = self.rivals.get_mut(address) else {
            self.one.remove(address);
            return;
        };
        list.retain(|claim| *claim != member);
        if let Some(first) = list.first() {
            self.one.insert(*address, *first);
        }
        if list.len() < 2 {
            self.rivals.remove(address);
        }
    }
}

/// A workload's addresses: one, as a rule.
#[derive(Debug)]
pub(super) enum Own {
    One([u8; 16]),
    Others(Box<[[u8; 16]]>),
}

impl Own {
    pub(super) fn of(workload: &Workload) -> Self {
        let mut list = workload.peer_addresses().map(v4_mapped);
        let (first, second) = (list.next(), list.next());
        if let (Some(one), None) = (first, second) {
            return Self::One(one);
        }
        let mut all: Vec<_> = first.into_iter().chain(second).chain(list).collect();
        all.sort_unstable();
        all.dedup();
        Self::Others(all.into())
    }

    pub(super) fn all(&self) -> &[[u8; 16]] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Others(list) => list,
        }
    }
}
