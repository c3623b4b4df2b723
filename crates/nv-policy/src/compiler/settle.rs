//! From what a change touched to tables that agree with the input again.

use std::collections::BTreeSet;

use nv_types::{Direction, Identity, IpPrefix};

use super::claim::Own;
use super::classes::ClassKey;
use super::links::{insert_sorted, remove_sorted};
use super::members::Wx;
use super::rows::Overflow;
use super::{Compiler, Todo};

/// Remembered tables beyond twice the live ones, before the memory is cleared.
const REMEMBERED: usize = 4096;

/// Each once, in order.
fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort_unstable();
    list.dedup();
    list
}

impl Compiler {
    /// Works off what is to do. A rule that a chain has no room for is refused, in the order of the rules, and what it
    /// touched is made again without it.
    pub(super) fn settle(&mut self) {
        loop {
            self.reclass();
            match self.remake() {
                Ok(()) => break,
                Err(overflow) => self.refuse(overflow),
            }
        }
        self.store.sweep();
        if self.made.len() > 2 * self.store.tables() + REMEMBERED {
            self.made.clear();
        }
    }

    fn refuse(&mut self, overflow: Overflow) {
        let Some(slot) = self.rules.get_mut(overflow.rule) else {
            return;
        };
        slot.refused = true;
        let (id, from, to) = (slot.rule.id, slot.from, slot.to);
        self.refused.insert(id, overflow.meeting);
        self.release(overflow.rule, from, to);
    }

    /// Gives refused rules another chance: what was in their way may have gone.
    pub(super) fn admit_refused(&mut self) {
        for id in std::mem::take(&mut self.refused).into_keys() {
            let Some(number) = self.rules.number(id) else {
                continue;
            };
            if let Some(slot) = self.rules.get_mut(number) {
                slot.refused = false;
                let (from, to) = (slot.from, slot.to);
                self.enforce(number, from, to);
            }
        }
    }

    /// Learns which groups rules have begun or ceased to speak of; their members' classes are others now.
    pub(super) fn note_spoken(&mut self) {
        for group in sorted(std::mem::take(&mut self.todo.groups)) {
            let spoken = self.members.links[group as usize].is_spoken();
            let slot = &mut self.members.groups[group as usize];
            if slot.known != spoken {
                slot.known = spoken;
                self.todo.outside |= !matches!(slot.body, crate::group::Body::Workloads(_));
                self.todo.workloads.extend(self.members.of_group(group));
            }
            self.members.forget_unused(group);
        }
    }

    /// Puts everybody whose groups or mode may have changed in the right class.
    fn reclass(&mut self) {
        self.note_spoken();
        self.members.sets.begin_round();
        for number in sorted(std::mem::take(&mut self.todo.workloads)) {
            self.place_workload(number);
        }
        if std::mem::take(&mut self.todo.outside) {
            self.place_outside();
        }
        for address in sorted(std::mem::take(&mut self.todo.addresses)) {
            self.place_address(address);
        }
    }

    fn place_workload(&mut self, number: Wx) {
        let members = &mut self.members;
        let Some(slot) = members.workload(number) else {
            return;
        };
        let service = members.service(slot);
        let (mode, zone) = (service.mode, members.domains.zone(service.domain));
        let (local, before, set) = (slot.local, slot.class, slot.set);
        let class = match members.sets.recent(set, mode, zone) {
            Some(class) => {
                self.classes.enter_again(class, local);
                class
            }
            None => {
                let spoken = |group: &&u32| members.links[**group as usize].is_spoken();
                let groups = members.sets.get(set).groups.iter();
                let key = ClassKey {
                    workload: true,
                    groups: groups.filter(spoken).copied().collect(),
                    mode,
                    zone,
                };
                let class = self.classes.enter(key, local);
                members.sets.remember(set, mode, zone, class);
                class
            }
        };
        if let Some(before) = before {
            self.classes.leave(before, local);
        }
        if before == Some(class) {
            return;
        }
        let Some(slot) = self.members.workload_mut(number) else {
            return;
        };
        slot.class = Some(class);
        if local && self.journal.is_recording() {
            let id = slot.id.clone();
            self.note_local(&id, before);
        }
        self.place_addresses(number, class);
    }

    /// Addresses are their workload's; where several claim one, that is seen to afterwards.
    fn place_addresses(&mut self, number: Wx, class: Identity) {
        let Some(slot) = self.members.workload(number) else {
            return;
        };
        if let Own::One(address) = slot.addresses {
            self.place_own(address, class);
            return;
        }
        for address in slot.addresses.all().to_vec() {
            self.place_own(address, class);
        }
    }

    fn place_own(&mut self, addr: [u8; 16], class: Identity) {
        if self.members.is_contested(&addr) {
            self.todo.addresses.push(addr);
        } else {
            self.set_address(IpPrefix { addr, len: 128 }, Some(class));
        }
    }

    fn place_outside(&mut self) {
        let keys = self.outside.keys(&self.members);
        let mut now = std::collections::BTreeMap::new();
        for (prefix, key) in keys {
            now.insert(prefix, self.classes.enter(key, false));
        }
        let before = std::mem::take(&mut self.outside.classes);
        for (prefix, class) in &before {
            self.classes.leave(*class, false);
            if !now.contains_key(prefix) {
                self.touch_prefix(*prefix, None);
            }
        }
        for (prefix, class) in &now {
            if before.get(prefix) != Some(class) {
                self.touch_prefix(*prefix, Some(*class));
            }
        }
        self.outside.classes = now;
    }

    fn touch_prefix(&mut self, prefix: IpPrefix, class: Option<Identity>) {
        if prefix.len == 128 {
            self.todo.addresses.push(prefix.addr);
        } else {
            self.set_address(prefix, class);
        }
    }

    /// A single address is its workload's, else its node's or its group's.
    fn place_address(&mut self, addr: [u8; 16]) {
        let prefix = IpPrefix { addr, len: 128 };
        let holder = self.members.holder(&addr).and_then(|workload| workload.class);
        let class = holder.or_else(|| self.outside.classes.get(&prefix).copied());
        self.set_address(prefix, class);
    }

    /// Makes the rows that may have changed.
    fn remake(&mut self) -> Result<(), Overflow> {
        let gone = self.classes.bury();
        let born = self.classes.take_born();
        for (identity, class) in &gone {
            for group in &class.key.groups {
                remove_sorted(&mut self.members.links[*group as usize].classes, *identity);
            }
        }
        for identity in &born {
            let Some(class) = self.classes.get(*identity) else {
                continue;
            };
            for group in &class.key.groups {
                insert_sorted(&mut self.members.links[*group as usize].classes, *identity);
            }
        }
        let Todo { rules, mut rows, .. } = std::mem::take(&mut self.todo);
        for (from, to) in sorted(rules) {
            rows.extend(self.locals_of(from).map(|local| (local, Direction::Egress)));
            rows.extend(self.locals_of(to).map(|local| (local, Direction::Ingress)));
        }
        self.keep_rows_of_locals(&mut rows);
        for (identity, _) in &gone {
            let speaking: Vec<_> = self
                .rows
                .iter()
                .filter(|(_, row)| {
                    row.entries
                        .binary_search_by_key(identity, |(peer, _)| *peer)
                        .is_ok()
                })
                .map(|(key, _)| *key)
                .collect();
            for key in speaking {
                self.set_pair(key, *identity, None);
            }
        }
        self.classes
            .release(gone.into_iter().map(|(identity, _)| identity));
        self.write(rows, &born)
    }

    /// Every class of the node's workloads has its two rows, and no other class has any.
    fn keep_rows_of_locals(&mut self, rows: &mut BTreeSet<(Identity, Direction)>) {
        for identity in self.classes.take_homes() {
            let class = self.classes.get(identity);
            let local = class.is_some_and(|class| class.locals > 0 && class.key.mode.is_some());
            for direction in [Direction::Ingress, Direction::Egress] {
                let key = (identity, direction);
                match (local, self.rows.contains_key(&key)) {
                    (true, false) => {
                        rows.insert(key);
                    }
                    (false, true) => {
                        rows.remove(&key);
                        self.set_row(key, None);
                    }
                    _ => {}
                }
            }
        }
        rows.retain(|(identity, _)| {
            let class = self.classes.get(*identity);
            class.is_some_and(|class| class.locals > 0 && class.key.mode.is_some())
        });
    }

    /// Writes whole rows, then the pairs of new classes in the others. Of several rules that find no room the first in
    /// order is told; all is to do again then.
    fn write(&mut self, rows: BTreeSet<(Identity, Direction)>, born: &[Identity]) -> Result<(), Overflow> {
        let mut first: Option<Overflow> = None;
        let mut again = BTreeSet::new();
        let mut keep = |overflow: Overflow, key| {
            again.insert(key);
            if first.as_ref().is_none_or(|known| overflow.place < known.place) {
                first = Some(overflow);
            }
        };
        for key in &rows {
            match self.row(*key) {
                Ok(row) => self.set_row(*key, row),
                Err(overflow) => keep(overflow, *key),
            }
        }
        // Rows that were made whole know them already: all of them, when everything is compiled.
        let others = self.rows.keys().any(|key| !rows.contains(key));
        for peer in born.iter().filter(|_| others) {
            for key in self.rows_with(*peer) {
                if rows.contains(&key) || !self.rows.contains_key(&key) {
                    continue;
                }
                match self.pair(key, *peer) {
                    Ok(table) => self.set_pair(key, *peer, table),
                    Err(overflow) => keep(overflow, key),
                }
            }
        }
        match first {
            None => Ok(()),
            Some(overflow) => {
                self.todo.rows = again;
                Err(overflow)
            }
        }
    }
}
