//! DNS names: what workloads ask, what resolvers answer, and answers that wait until the tables know their addresses.
//!
//! Learned is what answers a question that a workload was seen to ask (the same endpoint, ports, number, name and kind), from a resolver that is trusted, of a name that
//! a group speaks of. All else goes on at once and leaves no trace. An answer that brings a new address is kept back until a policy that has it
//! is in force, but not for longer than [`PATIENCE`]: then it goes on all the same, counted, and the first connection may be denied. DNS
//! itself is never broken by a policy that takes long, and what is not in the tables is not allowed.

mod dns;
mod learned;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

use nv_policy::Wanted;
use nv_types::{IpProto, WorkloadId};

use crate::io::{DnsSeen, NameRules, Steady};
use dns::{Question, answer, question};
use learned::Learned;

const SECOND: u64 = 1_000_000_000;
/// How long an answer waits for the tables.
pub(crate) const PATIENCE: u64 = SECOND;
/// How long a resolver may take.
const ASKED: u64 = 30 * SECOND;
/// Questions that wait for an answer, of one endpoint: past that its further ones are not learned from.
const QUESTIONS: usize = 512;
/// Answers that wait; further ones go on at once.
const HOLDS: usize = 1024;

/// Who asked whom, by which number.
type Asker = (IpProto, SocketAddr, SocketAddr, u16);

/// A question that a workload was seen to ask.
#[derive(Debug)]
struct Asked {
    question: Question,
    until: Steady,
    /// It has been answered, and what the answer brought is in force from this number on.
    answered: Option<u64>,
}

#[derive(Debug)]
struct Hold {
    token: u64,
    generation: u64,
    until: Steady,
}

/// The names that this node hears.
#[derive(Debug, Default)]
pub(crate) struct NameBook {
    pub(crate) rules: NameRules,
    wanted: Wanted,
    /// What is wanted has changed since the last tick.
    rewanted: bool,
    resolvers: BTreeMap<WorkloadId, BTreeSet<IpAddr>>,
    questions: BTreeMap<u32, BTreeMap<Asker, Asked>>,
    learned: Learned,
    /// Counts changes of what was learned; what is in force has one of these numbers.
    generation: u64,
    in_force: u64,
    holds: VecDeque<Hold>,
    /// Names that changed and are not written yet.
    changed: BTreeSet<String>,
    late: u64,
    refused: u64,
}

impl NameBook {
    /// The names that groups speak of now; whether any do.
    pub(crate) fn want(&mut self, wanted: Wanted) -> bool {
        if wanted != self.wanted {
            self.wanted = wanted;
            self.rewanted = true;
            self.questions.clear();
        }
        self.is_wanted()
    }

    pub(crate) fn is_wanted(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// What a workload's own settings name; its first word counts, since the workload may write there later.
    pub(crate) fn resolvers(&mut self, id: WorkloadId, list: BTreeSet<IpAddr>) {
        self.resolvers.entry(id).or_insert(list);
    }

    pub(crate) fn forget(&mut self, id: &WorkloadId) {
        self.resolvers.remove(id);
    }

    pub(crate) fn gone(&mut self, ifindex: u32) {
        self.questions.remove(&ifindex);
    }

    fn trusts(&self, resolver: IpAddr, workload: &WorkloadId) -> bool {
        self.rules.resolvers.contains(&resolver)
            || (!self.rules.only_these
                && self
                    .resolvers
                    .get(workload)
                    .is_some_and(|own| own.contains(&resolver)))
    }

    /// Takes a message; gives the token if it is to go on at once.
    pub(crate) fn hear(&mut self, seen: &DnsSeen, workload: Option<&WorkloadId>, now: Steady) -> Option<u64> {
        let asker = |id| (seen.proto, seen.local, seen.resolver, id);
        let trusted = workload.is_some_and(|id| self.trusts(seen.resolver.ip(), id));
        let message = seen.message.as_deref().filter(|_| trusted);
        if !seen.is_answer {
            if let Some(asked) = message
                .and_then(question)
                .filter(|asked| self.wanted.contains(&asked.name))
            {
                let in_force = self.in_force;
                let mine = self.questions.entry(seen.ifindex).or_default();
                if mine.len() >= QUESTIONS {
                    mine.retain(|_, asked| {
                        asked.until > now && asked.answered.is_none_or(|number| number > in_force)
                    });
                }
                if mine.len() < QUESTIONS {
                    mine.insert(
                        asker(asked.id),
                        Asked {
                            question: asked,
                            until: now.after(ASKED),
                            answered: None,
                        },
                    );
                } else {
                    self.refused += 1;
                }
            }
            return seen.token;
        }
        if let Some((answered, found)) = message.and_then(answer)
            && let Some(mine) = self.questions.get_mut(&seen.ifindex)
            && let Some(asked) = mine.get_mut(&asker(answered.id))
            && asked.question == answered
            && asked.until > now
        {
            // A second answer is not believed. One that TCP has sent again is the first one, and must not overtake it.
            if asked.answered.is_none() {
                let (name, grace) = (&answered.name, self.rules.grace);
                if self.learned.put(name, &found, grace, now, &mut self.refused) {
                    self.changed.insert(name.clone());
                    self.generation += 1;
                }
                // Another answer may have brought the address, and its policy be on the way.
                asked.answered = Some(if found.is_empty() { 0 } else { self.generation });
            }
            let generation = asked.answered.unwrap_or(0);
            if let Some(token) = seen.token
                && generation > self.in_force
                && self.holds.len() < HOLDS
            {
                self.holds.push_back(Hold {
                    token,
                    generation,
                    until: now.after(PATIENCE),
                });
                return None;
            }
        }
        seen.token
    }

    /// A flow from a workload to this address moves.
    pub(crate) fn flow(&mut self, peer: IpAddr, began: Steady, now: Steady) {
        self.learned.touch(peer, began, self.rules.grace, now);
    }

    /// What an agent before this one has written, and what nobody has said the life of: it is kept for the grace.
    pub(crate) fn adopt(&mut self, name: &str, addresses: &BTreeSet<IpAddr>, now: Steady) {
        if self.learned.knows(name) {
            return;
        }
        let found = addresses.iter().map(|address| (*address, 0)).collect();
        if self
            .learned
            .put(name, &found, self.rules.grace, now, &mut self.refused)
        {
            self.generation += 1;
        }
    }

    /// Lets time pass: forgets what is over, gives the answers that may go on. Whether names have changed.
    pub(crate) fn tick(&mut self, now: Steady, released: &mut Vec<u64>) -> bool {
        let wanted = &self.wanted;
        let over = if std::mem::take(&mut self.rewanted) || self.learned.due().is_some_and(|due| due <= now) {
            self.learned.expire(now, |name| wanted.contains(name))
        } else {
            BTreeSet::new()
        };
        let changed = !over.is_empty();
        if changed {
            self.generation += 1;
            self.changed.extend(over);
        }
        let (in_force, late) = (self.in_force, &mut self.late);
        self.holds.retain(|hold| {
            let ready = hold.generation <= in_force;
            let goes = ready || hold.until <= now;
            if goes {
                *late += u64::from(!ready);
                released.push(hold.token);
            }
            !goes
        });
        changed
    }

    pub(crate) fn due(&self) -> Option<Steady> {
        self.learned
            .due()
            .into_iter()
            .chain(self.holds.iter().map(|hold| hold.until))
            .min()
    }

    /// The number of what was learned until now.
    pub(crate) const fn generation(&self) -> u64 {
        self.generation
    }

    /// A policy of what was learned until this number is in force.
    pub(crate) fn applied(&mut self, generation: u64) {
        self.in_force = self.in_force.max(generation);
    }

    /// Names to write, with their addresses; none means that the name is over.
    pub(crate) fn take_changed(&mut self) -> Vec<(String, BTreeSet<IpAddr>)> {
        let changed = std::mem::take(&mut self.changed);
        let with = changed.into_iter().map(|name| {
            let addresses = self.learned.addresses(&name);
            (name, addresses)
        });
        with.collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, BTreeSet<IpAddr>)> {
        self.learned.iter()
    }

    /// Counts that are not zero, by what they are of.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (String, u64)> {
        [("names_late", self.late), ("names_refused", self.refused)]
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(stage, count)| (stage.to_owned(), count))
    }
}

#[cfg(test)]
mod tests;
