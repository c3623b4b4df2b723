//! What a local class does with every peer class, in one direction.

use std::collections::BTreeSet;

use nv_types::{Direction, Identity, Mode, PortTableId, Rule, RuleId, Tier, effective_mode};

use super::Compiler;
use super::classes::{ClassKey, ZoneKey, kind, of_kind};
use super::members::{Gx, Rx};
use super::rules::Place;
use crate::flatten::{Flat, Judge, flatten};

/// Number of kinds.
const KINDS: usize = 8;

/// A local class and a direction.
pub(super) type RowKey = (Identity, Direction);

/// One row of pairs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// What holds for every peer whose class is not listed, nor the wildcard of its kind.
    pub(super) any: PortTableId,
    /// Wildcards of kinds and single peer classes that it does not hold for, sorted.
    pub(super) entries: Vec<(Identity, PortTableId)>,
}

impl Row {
    /// What holds for a class that is not listed.
    pub(super) fn wildcard(&self, peer: Identity) -> PortTableId {
        let place = self
            .entries
            .binary_search_by_key(&peer.any_of_kind(), |(peer, _)| *peer);
        place
            .ok()
            .and_then(|place| self.entries.get(place))
            .map_or(self.any, |(_, table)| *table)
    }

    /// Every pair of the row, ANY first.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (Identity, PortTableId)> + '_ {
        std::iter::once((Identity::ANY, self.any)).chain(self.entries.iter().copied())
    }
}

/// The tables of one rule alone, by mode and whether a boundary lies between.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Single {
    /// Of the rule as it was.
    stamp: u32,
    /// Numbers and generations of tables; generation 0: none.
    tables: [(u32, u32); 8],
}

/// A chain that would be too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Overflow {
    /// Where the first rule stands that has no room.
    pub(super) place: Place,
    /// That rule.
    pub(super) rule: Rx,
    /// All that meet there.
    pub(super) meeting: Vec<RuleId>,
}

/// A rule that speaks of a peer class, in an order of its own: the class, then where the rule stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Touch(u128);

impl Touch {
    fn new(class: Identity, place: Place, rule: Rx) -> Self {
        Self(u128::from(class.0) << 96 | u128::from(place.bits()) << 32 | u128::from(rule))
    }

    const fn class(self) -> Identity {
        Identity((self.0 >> 96) as u32)
    }

    #[expect(clippy::cast_possible_truncation, reason = "takes the parts out again")]
    const fn rule(self) -> (Place, Rx) {
        (Place::from_bits((self.0 >> 32) as u64), self.0 as Rx)
    }
}

/// Room that every row is made in.
#[derive(Debug, Default)]
pub(super) struct Room {
    touched: Vec<Touch>,
    /// Rules of the peer that is looked at.
    rules: Vec<(Place, Rx)>,
}

/// Rules that speak of a class on its side of a direction.
struct Near {
    /// Those that name all workloads on the other.
    everybody: Vec<(Place, Rx)>,
    /// The others, with the group that they name there.
    far: Vec<(Gx, Place, Rx)>,
}

impl Compiler {
    /// All of a row, from nothing.
    pub(super) fn row(&mut self, (local, direction): RowKey) -> Result<Option<Row>, Overflow> {
        let Some(class) = self.classes.get(local) else {
            return Ok(None);
        };
        let key = class.key.clone();
        let near = self.near(&key, direction);
        let mut any = [PortTableId(0); KINDS];
        for (workload, mode) in kinds() {
            let rules: &[_] = if workload { &near.everybody } else { &[] };
            any[kind(workload, mode) as usize] =
                self.table(rules, self.between(key.mode, mode), key.zone.is_apart_from_most())?;
        }
        let mut room = std::mem::take(&mut self.room);
        room.touched.clear();
        for (group, place, rule) in &near.far {
            let classes = &self.members.links[*group as usize].classes;
            room.touched
                .extend(classes.iter().map(|class| Touch::new(*class, *place, *rule)));
        }
        room.touched.sort_unstable();
        let entries = self.entries(&key, &near.everybody, &any, &mut room);
        self.room = room;
        let mut entries = entries?;
        for (kind, table) in (0..).zip(&any) {
            if *table != any[0] {
                let peer = Identity::of_kind(kind, 0);
                let place = entries.partition_point(|(other, _)| *other < peer);
                entries.insert(place, (peer, *table));
            }
        }
        Ok(Some(Row { any: any[0], entries }))
    }

    /// Peers for whom the wildcard of their kind does not hold, sorted.
    fn entries(
        &mut self,
        key: &ClassKey,
        everybody: &[(Place, Rx)],
        any: &[PortTableId; KINDS],
        room: &mut Room,
    ) -> Result<Vec<(Identity, PortTableId)>, Overflow> {
        let touched = &room.touched;
        // Those for whom the wildcard may not hold because of where they are, whether a rule names them or not.
        let apart: Vec<Identity> = self.classes.standing_out(key.zone).collect();
        let unnamed = |peer: &Identity| touched.binary_search_by_key(peer, |touch| touch.class()).is_err();
        let unnamed: Vec<_> = apart.into_iter().filter(unnamed).collect();
        let are_more = !unnamed.is_empty();
        let unnamed = unnamed.into_iter().map(|peer| (peer, &[][..]));
        let named = touched.chunk_by(|a, b| a.class() == b.class());
        let named = named.filter_map(|run| Some((run.first()?.class(), run)));
        let mut entries = Vec::with_capacity(touched.len());
        for (peer, run) in named.chain(unnamed) {
            let (workload, mode) = of_kind(peer);
            let is_apart = key.zone.is_apart(self.classes.zone(peer));
            room.rules.clear();
            room.rules.extend(run.iter().map(|touch| touch.rule()));
            if workload && !everybody.is_empty() {
                room.rules.extend_from_slice(everybody);
                room.rules.sort_unstable();
            }
            let table = self.table(&room.rules, self.between(key.mode, mode), is_apart)?;
            if table != any[peer.kind()] {
                entries.push((peer, table));
            }
        }
        if are_more {
            entries.sort_unstable();
        }
        Ok(entries)
    }

    /// The table of one pair.
    pub(super) fn pair(
        &mut self,
        (local, direction): RowKey,
        peer: Identity,
    ) -> Result<Option<PortTableId>, Overflow> {
        let (Some(class), Some(other)) = (self.classes.get(local), self.classes.get(peer)) else {
            return Ok(None);
        };
        let mode = self.between(class.key.mode, other.key.mode);
        let is_apart = class.key.zone.is_apart(other.key.zone);
        let near = self.near(&class.key, direction);
        let mut rules = if other.key.workload {
            near.everybody
        } else {
            Vec::new()
        };
        let named = near
            .far
            .iter()
            .filter(|(group, _, _)| other.key.groups.binary_search(group).is_ok());
        rules.extend(named.map(|(_, place, rule)| (*place, *rule)));
        rules.sort_unstable();
        self.table(&rules, mode, is_apart).map(Some)
    }

    /// Rows in which a class that has just been made may stand apart.
    pub(super) fn rows_with(&self, peer: Identity) -> BTreeSet<RowKey> {
        let mut rows = BTreeSet::new();
        let Some(class) = self.classes.get(peer) else {
            return rows;
        };
        if class.key.zone != ZoneKey::Open {
            let zone = |local: Identity| self.classes.get(local).map(|class| class.key.zone);
            let apart =
                |(local, _): &&RowKey| zone(*local).is_some_and(|local| class.key.zone.stands_out(local));
            rows.extend(self.rows.keys().filter(apart).copied());
        }
        for group in class
            .key
            .groups
            .iter()
            .filter(|group| **group != self.members.containers)
        {
            let slot = &self.members.links[*group as usize];
            for (list, direction) in [(&slot.from, Direction::Ingress), (&slot.to, Direction::Egress)] {
                for rule in list.iter().filter_map(|rule| self.rules.get(*rule)) {
                    let near = if direction == Direction::Ingress {
                        rule.to
                    } else {
                        rule.from
                    };
                    rows.extend(self.locals_of(near).map(|local| (local, direction)));
                }
            }
        }
        rows
    }

    /// Classes of the node's own workloads in a group.
    pub(super) fn locals_of(&self, group: Gx) -> impl Iterator<Item = Identity> + '_ {
        let classes = self.members.links[group as usize].classes.iter();
        classes
            .copied()
            .filter(|class| self.classes.get(*class).is_some_and(|class| class.locals > 0))
    }

    fn between(&self, local: Option<Mode>, peer: Option<Mode>) -> Option<Mode> {
        effective_mode(local, peer, self.switches.contention)
    }

    fn near(&self, class: &ClassKey, direction: Direction) -> Near {
        let mut near = Near {
            everybody: Vec::new(),
            far: Vec::new(),
        };
        for group in &class.groups {
            let slot = &self.members.links[*group as usize];
            let list = match direction {
                Direction::Egress => &slot.from,
                Direction::Ingress => &slot.to,
            };
            for number in list {
                let Some(rule) = self.rules.head(*number) else {
                    continue;
                };
                let far = match direction {
                    Direction::Egress => rule.to,
                    Direction::Ingress => rule.from,
                };
                if far == self.members.containers {
                    near.everybody.push((rule.place, *number));
                } else {
                    near.far.push((far, rule.place, *number));
                }
            }
        }
        near.everybody.sort_unstable();
        near
    }

    /// The table that these rules make in a mode; `None`: not policed. Across a boundary what was learned does not count.
    fn table(
        &mut self,
        rules: &[(Place, Rx)],
        mode: Option<Mode>,
        is_apart: bool,
    ) -> Result<PortTableId, Overflow> {
        let counting = |(place, _): &&(Place, Rx)| !is_apart || !place.is_learned();
        let mode_bits = mode.map_or(0, |mode| mode as u32) << 1 | u32::from(is_apart);
        // Most tables are of one rule: they need no hashing.
        let mut few = rules.iter().filter(counting);
        if let (Some(_), Some((_, rule)), None) = (mode, few.next(), few.next())
            && let Some(stamp) = self.rules.head(*rule).map(|head| head.stamp)
        {
            if let Some(single) = self
                .singles
                .get(*rule as usize)
                .filter(|single| single.stamp == stamp)
                && let Some((table, generation)) = single.tables.get(mode_bits as usize)
                && self.store.is_live(PortTableId(*table), *generation)
            {
                return Ok(PortTableId(*table));
            }
            let made = self.make_table(rules, mode, is_apart)?;
            let place = *rule as usize;
            if self.singles.len() <= place {
                self.singles.resize(place + 1, Single::default());
            }
            let single = &mut self.singles[place];
            if single.stamp != stamp {
                *single = Single {
                    stamp,
                    ..Single::default()
                };
            }
            single.tables[mode_bits as usize] = (made.0.0, made.1);
            return Ok(made.0);
        }
        let mut recipe = std::mem::take(&mut self.recipe);
        recipe.clear();
        recipe.push(mode_bits);
        if mode.is_some() {
            let heads = rules
                .iter()
                .filter(counting)
                .filter_map(|(_, rule)| self.rules.head(*rule));
            recipe.extend(heads.map(|head| head.stamp));
        }
        let known = self.made.get(recipe.as_slice());
        let table = match known.filter(|(table, generation)| self.store.is_live(*table, *generation)) {
            Some((table, _)) => Ok(*table),
            None => self.make_table(rules, mode, is_apart).map(|made| {
                self.made.insert(recipe.as_slice().into(), made);
                made.0
            }),
        };
        self.recipe = recipe;
        table
    }

    /// A table that is not remembered.
    fn make_table(
        &mut self,
        rules: &[(Place, Rx)],
        mode: Option<Mode>,
        is_apart: bool,
    ) -> Result<(PortTableId, u32), Overflow> {
        let flat = match mode {
            None => Flat::open(),
            Some(mode) => {
                let counting = rules.iter().filter(|(place, _)| !is_apart || !place.is_learned());
                let list: Vec<&Rule> = counting
                    .filter_map(|(_, rule)| Some(&self.rules.get(*rule)?.rule))
                    .collect();
                let judge = Judge {
                    mode,
                    icmp_policy: self.switches.icmp_policy,
                    is_apart,
                };
                flatten(&list, judge).map_err(|error| self.overflow(error.rules))?
            }
        };
        Ok(self.store.table(flat))
    }

    fn overflow(&self, meeting: Vec<RuleId>) -> Overflow {
        let first = meeting
            .get(nv_types::MAX_CHAIN - 1)
            .and_then(|id| self.rules.number(*id))
            .unwrap_or_default();
        let place = self
            .rules
            .get(first)
            .map_or(Place::new(Tier::Learned, 0), super::rules::RuleSlot::place);
        Overflow {
            place,
            rule: first,
            meeting,
        }
    }
}

fn kinds() -> impl Iterator<Item = (bool, Option<Mode>)> {
    [false, true].into_iter().flat_map(|workload| {
        [
            None,
            Some(Mode::Discover),
            Some(Mode::Monitor),
            Some(Mode::Protect),
        ]
        .into_iter()
        .map(move |mode| (workload, mode))
    })
}
