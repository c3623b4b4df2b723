//! From what a change touched to tables that agree with the input again.

use std::collections::BTreeSet;

use nv_types::{Direction, Identity, IpPrefix};

use super::classes::ClassKey;
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

    /// Puts everybody whose groups or mode may have changed in the right class.
    fn reclass(&mut self) {
        for group in std::mem::take(&mut self.todo.groups) {
            let slot = &mut self.members.groups[group as usize];
            let spoken = slot.is_spoken();
            if slot.known != spoken {
                slot.known = spoken;
                self.todo.outside |= !matches!(slot.body, crate::group::Body::Workloads(_));
                self.todo.workloads.extend(&slot.members);
            }
            self.members.forget_unused(group);
        }
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
        let Some(slot) = self.members.workload(number) else {
            return;
        };
        let spoken = |group: &&u32| self.members.groups[**group as usize].is_spoken();
        let key = ClassKey {
            workload: true,
            groups: slot.groups.iter().filter(spoken).copied().collect(),
            mode: slot.mode,
            zone: self.members.domains.zone(slot.domain),
        };
        let (local, before, mode) = (slot.local, slot.class, slot.mode);
        let class = self.classes.enter(key, local);
        if let Some(before) = before {
            self.classes.leave(before, local);
        }
        let Some(slot) = self.members.workload_mut(number) else {
            return;
        };
        slot.class = Some(class);
        self.todo.addresses.extend(&slot.addresses);
        if let (true, Some(mode)) = (local, mode) {
            let id = slot.id.clone();
            self.set_local(id, Some((class, mode)));
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
                self.members.groups[*group as usize].classes.remove(identity);
            }
        }
        for identity in &born {
            let Some(class) = self.classes.get(*identity) else {
                continue;
            };
            for group in &class.key.groups {
                self.members.groups[*group as usize].classes.insert(*identity);
            }
        }
        let Todo { rules, mut rows, .. } = std::mem::take(&mut self.todo);
        for (from, to) in rules {
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
        for peer in born {
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
