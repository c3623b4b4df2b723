//! Rules in their order. Places are ranks with gaps, so that a rule that is put between two others moves neither.

use std::collections::BTreeSet;

use nv_types::{Rule, RuleId, Tier};

use super::members::{Gx, Rx};
use crate::map::Map;

/// Distance of two ranks after renumbering.
const GAP: u64 = 1 << 24;

/// Where a rule stands: tier, then rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(u64);

impl Place {
    /// Ranks stay far below this bit: there are at most 2^32 rules, [`GAP`] apart.
    const TIER: u32 = 58;

    pub(super) const fn new(tier: Tier, rank: u64) -> Self {
        Self((tier as u64) << Self::TIER | rank)
    }

    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    pub(super) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(super) const fn is_learned(self) -> bool {
        self.0 >> Self::TIER == Tier::Learned as u64
    }
}

/// What rows are made by, of every rule: together, so that walking many rules touches little memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) place: Place,
    pub(super) from: Gx,
    pub(super) to: Gx,
    pub(super) stamp: u32,
}

#[derive(Debug)]
pub(super) struct RuleSlot {
    pub(super) rule: Rule,
    pub(super) from: Gx,
    pub(super) to: Gx,
    pub(super) rank: u64,
    /// Differs whenever anything of a rule differs: names what tables were made of.
    pub(super) stamp: u32,
    /// A chain had no room for it.
    pub(super) refused: bool,
}

impl RuleSlot {
    pub(super) fn place(&self) -> Place {
        Place::new(self.rule.tier(), self.rank)
    }

    pub(super) const fn in_force(&self) -> bool {
        !self.rule.disable && !self.refused
    }
}

/// All rules.
#[derive(Debug, Default)]
pub(super) struct Rules {
    by_id: Map<RuleId, Rx>,
    slots: Vec<Option<RuleSlot>>,
    /// Of every slot; of one that is free whatever was there.
    heads: Vec<Head>,
    free: Vec<Rx>,
    stamps: u32,
}

impl Rules {
    /// Makes room for so many at once.
    pub(super) fn reserve(&mut self, rules: usize) {
        self.by_id.reserve(rules);
        self.slots.reserve(rules);
        self.heads.reserve(rules);
    }

    pub(super) fn get(&self, number: Rx) -> Option<&RuleSlot> {
        self.slots.get(number as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, number: Rx) -> Option<&mut RuleSlot> {
        self.slots.get_mut(number as usize)?.as_mut()
    }

    /// What rows are made by, of a rule that is there.
    pub(super) fn head(&self, number: Rx) -> Option<&Head> {
        self.heads.get(number as usize)
    }

    pub(super) fn number(&self, id: RuleId) -> Option<Rx> {
        self.by_id.get(&id).copied()
    }

    /// Every rule with its number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Rx, &RuleSlot)> {
        (0..)
            .zip(&self.slots)
            .filter_map(|(number, slot)| Some((number, slot.as_ref()?)))
    }

    pub(super) fn remove(&mut self, id: RuleId) -> Option<RuleSlot> {
        let number = self.by_id.remove(&id)?;
        self.free.push(number);
        self.slots.get_mut(number as usize)?.take()
    }

    /// Puts a rule that is not there, at its place in the list. Where there is no rank between its neighbours all are numbered
    /// anew; also gives the rules that moved then, as in [`Rules::reorder`].
    pub(super) fn insert(&mut self, list: &[Rule], at: usize, from: Gx, to: Gx) -> Option<(Rx, Vec<Rx>)> {
        let rule = list.get(at)?.clone();
        let (rank, moved) = match self.between(list, at) {
            Some(rank) => (rank, Vec::new()),
            None => {
                let moved = self.reorder(list);
                self.renumber(list);
                (self.between(list, at)?, moved)
            }
        };
        Some((self.put(rule, from, to, rank), moved))
    }

    fn put(&mut self, rule: Rule, from: Gx, to: Gx, rank: u64) -> Rx {
        self.stamps = self.stamps.wrapping_add(1);
        let id = rule.id;
        let slot = RuleSlot {
            rule,
            from,
            to,
            rank,
            stamp: self.stamps,
            refused: false,
        };
        let number = match self.free.pop() {
            Some(number) => number,
            None => {
                self.slots.push(None);
                u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
            }
        };
        let head = Head {
            place: slot.place(),
            from,
            to,
            stamp: slot.stamp,
        };
        match self.heads.get_mut(number as usize) {
            Some(place) => *place = head,
            None => self.heads.push(head),
        }
        self.slots[number as usize] = Some(slot);
        self.by_id.insert(id, number);
        number
    }

    /// Puts rules that are not there, many at once: all are numbered anew. Gives them, and the rules that moved.
    pub(super) fn insert_many(
        &mut self,
        list: &[Rule],
        wanted: impl Fn(RuleId) -> bool,
        mut group: impl FnMut(&nv_types::GroupName) -> Gx,
    ) -> (Vec<Rx>, Vec<Rx>) {
        let moved = self.reorder(list);
        let fresh = list.iter().filter(|rule| wanted(rule.id));
        let fresh = fresh.map(|rule| {
            let (from, to) = (group(&rule.from), group(&rule.to));
            self.put(rule.clone(), from, to, 0)
        });
        let fresh = fresh.collect();
        self.renumber(list);
        (fresh, moved)
    }

    /// A rank between the nearest rules before and after this place that are known.
    fn between(&self, list: &[Rule], at: usize) -> Option<u64> {
        let rank = |rule: &Rule| {
            self.number(rule.id)
                .and_then(|number| self.get(number))
                .map(|slot| slot.rank)
        };
        let before = list[..at].iter().rev().find_map(rank).unwrap_or(0);
        match list[at + 1..].iter().find_map(rank) {
            None => before.checked_add(GAP),
            Some(after) if after > before + 1 => Some(before + (after - before) / 2),
            Some(_) => None,
        }
    }

    /// New ranks for all, in the order of the list. Who stands before whom does not change.
    fn renumber(&mut self, list: &[Rule]) {
        let mut rank = 0;
        for rule in list {
            if let Some(number) = self.number(rule.id)
                && let Some(slot) = self.get_mut(number)
            {
                rank += GAP;
                slot.rank = rank;
                let place = slot.place();
                if let Some(head) = self.heads.get_mut(number as usize) {
                    head.place = place;
                }
            }
        }
    }

    /// Takes the order of the list. Gives the fewest rules whose moving explains the difference.
    pub(super) fn reorder(&mut self, list: &[Rule]) -> Vec<Rx> {
        let ranked: Vec<(Rx, u64)> = list
            .iter()
            .filter_map(|rule| {
                let number = self.number(rule.id)?;
                Some((number, self.get(number)?.rank))
            })
            .collect();
        if ranked.is_sorted_by(|a, b| a.1 < b.1) {
            return Vec::new();
        }
        let stay = longest_rising(&ranked);
        self.renumber(list);
        ranked
            .into_iter()
            .map(|(number, _)| number)
            .filter(|number| !stay.contains(number))
            .collect()
    }
}

/// Members of a longest rising subsequence (patience sorting).
fn longest_rising(ranked: &[(Rx, u64)]) -> BTreeSet<Rx> {
    // Of every length the end with the lowest rank, and for each item the one before it.
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(ranked.len());
    for (at, (_, rank)) in ranked.iter().enumerate() {
        let length = ends.partition_point(|end| ranked[*end].1 < *rank);
        before.push(length.checked_sub(1).and_then(|length| ends.get(length).copied()));
        match ends.get_mut(length) {
            Some(end) => *end = at,
            None => ends.push(at),
        }
    }
    let mut stay = BTreeSet::new();
    let mut next = ends.last().copied();
    while let Some(at) = next {
        stay.insert(ranked[at].0);
        next = before[at];
    }
    stay
}

#[cfg(test)]
mod tests {
    use super::*;
    use nv_types::Action;

    fn list(ids: &[u32]) -> Vec<Rule> {
        ids.iter()
            .map(|id| crate::rule(*id, "containers", "external", "any", Action::Allow).unwrap())
            .collect()
    }

    fn order(rules: &Rules) -> Vec<u32> {
        let mut places: Vec<_> = rules
            .iter()
            .map(|(_, slot)| (slot.rank, slot.rule.id.0))
            .collect();
        places.sort_unstable();
        places.into_iter().map(|(_, id)| id).collect()
    }

    #[test]
    fn rules_stand_where_the_list_has_them_however_often_one_is_put_between() {
        let mut rules = Rules::default();
        let mut ids = vec![1, 2];
        for at in 0..2 {
            rules.insert(&list(&ids), at, 0, 0).unwrap();
        }
        for id in 3..200 {
            ids.insert(1, id);
            rules.insert(&list(&ids), 1, 0, 0).unwrap();
            assert_eq!(order(&rules), ids);
        }
    }

    #[test]
    fn one_that_moves_is_the_only_one_that_moves() {
        let mut rules = Rules::default();
        let start = list(&[1, 2, 3, 4, 5, 6]);
        for at in 0..6 {
            rules.insert(&start, at, 0, 0).unwrap();
        }
        assert!(rules.reorder(&start).is_empty());
        let up = [5, 1, 2, 3, 4, 6];
        let moved = rules.reorder(&list(&up));
        assert_eq!(moved, [rules.number(RuleId(5)).unwrap()]);
        assert_eq!(order(&rules), up);
        let down = [1, 2, 3, 4, 6, 5];
        assert_eq!(rules.reorder(&list(&down)), moved);
        assert_eq!(order(&rules), down);
        assert_eq!(
            rules.reorder(&list(&[6, 5, 4, 3, 2, 1])).len(),
            4,
            "6 and 5 stand right already"
        );
    }
}
