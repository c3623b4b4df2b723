//! Lists of groups that workloads are in, each stored once: those of one service are in the same, as a rule.

use std::sync::Arc;

use nv_types::{Identity, Mode};

use super::classes::ZoneKey;
use super::members::{Gx, Wx};
use crate::map::Map;

/// Number of a list of groups.
pub(super) type Sx = u32;

/// A list of groups, and who is in all of them and in no others.
#[derive(Debug)]
pub(super) struct Set {
    /// Sorted.
    pub(super) groups: Arc<[Gx]>,
    /// In no order: each member knows its place.
    pub(super) members: Vec<Wx>,
    /// The class that a member was put in last.
    recent: Option<Recent>,
}

#[derive(Clone, Copy, Debug)]
struct Recent {
    round: u64,
    mode: Option<Mode>,
    zone: ZoneKey,
    class: Identity,
}

/// All lists that somebody is in.
#[derive(Debug, Default)]
pub(super) struct Sets {
    index: Map<Arc<[Gx]>, Sx>,
    slots: Vec<Set>,
    free: Vec<Sx>,
    /// See [`Sets::begin_round`].
    round: u64,
}

impl Sets {
    pub(super) fn get(&self, number: Sx) -> &Set {
        &self.slots[number as usize]
    }

    pub(super) fn get_mut(&mut self, number: Sx) -> &mut Set {
        &mut self.slots[number as usize]
    }

    /// The number of this list of groups, which is sorted, and whether it has just been made.
    pub(super) fn number(&mut self, groups: &[Gx]) -> (Sx, bool) {
        if let Some(number) = self.index.get(groups) {
            return (*number, false);
        }
        let groups: Arc<[Gx]> = groups.into();
        let set = Set {
            groups: Arc::clone(&groups),
            members: Vec::new(),
            recent: None,
        };
        let number = match self.free.pop() {
            Some(number) => {
                self.slots[number as usize] = set;
                number
            }
            None => {
                self.slots.push(set);
                u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.index.insert(groups, number);
        (number, true)
    }

    /// Forgets a list that nobody is in.
    pub(super) fn remove(&mut self, number: Sx) {
        let groups = Arc::clone(&self.get(number).groups);
        self.index.remove(&groups);
        self.free.push(number);
    }

    /// What is remembered holds for one round, in which nobody is put in a class twice: the class lives, as its member stays.
    pub(super) const fn begin_round(&mut self) {
        self.round += 1;
    }

    /// The class that a member of this mode and zone was put in, in this round.
    pub(super) fn recent(&self, number: Sx, mode: Option<Mode>, zone: ZoneKey) -> Option<Identity> {
        let recent = self.get(number).recent.as_ref()?;
        let same = (recent.round, recent.mode, recent.zone) == (self.round, mode, zone);
        same.then_some(recent.class)
    }

    /// A member was put in this class.
    pub(super) fn remember(&mut self, number: Sx, mode: Option<Mode>, zone: ZoneKey, class: Identity) {
        let round = self.round;
        self.get_mut(number).recent = Some(Recent {
            round,
            mode,
            zone,
            class,
        });
    }
}
