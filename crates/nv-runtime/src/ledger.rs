//! What runs, as several runtimes tell it: data in, what the consumer is told out.
//!
//! One container may be seen by more than one runtime: dockerd's are containerd's too, and containerd's pods are seen
//! over its own services and over the CRI. Each says for itself what it holds; a workload runs as long as one of them
//! says so, is described by the one that knows most, and its end is told when nobody who can be asked holds it any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nv_types::{Timestamp, Workload, WorkloadId};

/// What tells two lives of a workload apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) started: Timestamp,
    pid: u32,
    netns: u64,
}

impl Life {
    pub(crate) const fn of(workload: &Workload) -> Self {
        Self {
            started: workload.started,
            pid: workload.pid,
            netns: workload.netns,
        }
    }

    /// Two runtimes speak of one life: they may give it different times.
    const fn is_process_of(self, other: Self) -> bool {
        self.pid == other.pid && self.netns == other.netns
    }
}

/// What the consumer is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tell {
    Start(WorkloadId, Timestamp, Option<Arc<Workload>>),
    Change(WorkloadId, Timestamp, Arc<Workload>),
    Stop(WorkloadId, Timestamp),
    Delete(WorkloadId, Timestamp),
}

/// A workload as one runtime holds it. Without a description it could not be inspected.
#[derive(Clone, Debug)]
struct Held {
    life: Option<Life>,
    workload: Option<Arc<Workload>>,
}

#[derive(Debug, Default)]
struct Entry {
    holders: BTreeMap<usize, Held>,
    /// What the consumer believes; nothing: it was told of the end.
    shown: Option<Held>,
    /// Who described it last.
    by: usize,
    /// Who has told of it and not of its deletion: it is gone when it is gone for all of them.
    known: BTreeSet<usize>,
    /// When its last end was told.
    ended: Timestamp,
}

#[derive(Clone, Copy, Debug, Default)]
struct Side {
    rank: u8,
    is_connected: bool,
}

/// All workloads that the consumer was told of and not yet told the deletion of.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    entries: BTreeMap<WorkloadId, Entry>,
    sides: BTreeMap<usize, Side>,
}

impl Ledger {
    /// A runtime can be asked. The lower its rank the more it knows of its workloads.
    pub(crate) fn connected(&mut self, runtime: usize, rank: u8) {
        self.sides.insert(
            runtime,
            Side {
                rank,
                is_connected: true,
            },
        );
    }

    /// A runtime cannot be asked: what it alone holds goes on until it can.
    pub(crate) fn lost(&mut self, runtime: usize) {
        if let Some(side) = self.sides.get_mut(&runtime) {
            side.is_connected = false;
        }
    }

    /// Workloads that this runtime holds.
    pub(crate) fn held_by(&self, runtime: usize) -> impl Iterator<Item = &WorkloadId> {
        let entries = self.entries.iter();
        entries
            .filter(move |(_, entry)| entry.holders.contains_key(&runtime))
            .map(|(id, _)| id)
    }

    /// Workloads of this runtime whose end was told and whose deletion was not.
    pub(crate) fn ended_in(&self, runtime: usize) -> impl Iterator<Item = &WorkloadId> {
        let entries = self.entries.iter();
        entries
            .filter(move |(_, entry)| entry.shown.is_none() && entry.known.contains(&runtime))
            .map(|(id, _)| id)
    }

    /// The life of a workload as this runtime holds it.
    pub(crate) fn life(&self, runtime: usize, id: &WorkloadId) -> Option<Life> {
        self.entries.get(id)?.holders.get(&runtime)?.life
    }

    /// A runtime says that a workload runs; without a description if it could not be inspected.
    pub(crate) fn started(
        &mut self,
        runtime: usize,
        id: WorkloadId,
        at: Timestamp,
        workload: Option<Workload>,
    ) -> Vec<Tell> {
        let life = workload.as_ref().map(Life::of);
        let entry = self.entries.entry(id.clone()).or_default();
        let known = entry.holders.get(&runtime);
        // Nothing new: or a start told a second time, after the end.
        if workload.is_none() && (known.is_some() || (entry.shown.is_none() && at <= entry.ended)) {
            return Vec::new();
        }
        let mut tells = Vec::new();
        let is_next = match (&entry.shown, known.and_then(|known| known.life), life) {
            // This runtime knew another life. The consumer may know the new one already, from another runtime.
            (Some(shown), Some(known), Some(life)) => {
                let is_shown = shown.life.is_some_and(|shown| shown.is_process_of(life));
                known != life && (entry.by == runtime || !is_shown)
            }
            // Another runtime has not seen the end of the life before.
            (Some(shown), None, Some(life)) => shown
                .life
                .is_some_and(|shown| !shown.is_process_of(life) && shown.started < life.started),
            _ => false,
        };
        if is_next {
            entry.shown = None;
            tells.push(Tell::Stop(id.clone(), at));
        }
        let held = Held {
            life,
            workload: workload.map(Arc::new),
        };
        entry.holders.insert(runtime, held.clone());
        entry.known.insert(runtime);
        if entry.shown.is_none() {
            entry.by = runtime;
            tells.push(Tell::Start(id, at, held.workload.clone()));
            entry.shown = Some(held);
        } else {
            tells.extend(describe(&id, at, entry, &self.sides));
        }
        tells
    }

    /// A runtime says that a workload that it holds looks different now. Another life is none of it: its start tells.
    pub(crate) fn changed(
        &mut self,
        runtime: usize,
        id: WorkloadId,
        at: Timestamp,
        workload: Workload,
    ) -> Vec<Tell> {
        match self.life(runtime, &id) {
            Some(life) if life == Life::of(&workload) => self.started(runtime, id, at, Some(workload)),
            _ => Vec::new(),
        }
    }

    /// A runtime says that a workload has ended.
    pub(crate) fn stopped(&mut self, runtime: usize, id: &WorkloadId, at: Timestamp) -> Vec<Tell> {
        let Some(entry) = self.entries.get_mut(id) else {
            return Vec::new();
        };
        if entry.holders.remove(&runtime).is_none() {
            return Vec::new();
        }
        let Some(shown) = &entry.shown else {
            return Vec::new();
        };
        let goes_on = entry.holders.iter().any(|(other, held)| {
            let same = match (held.life, shown.life) {
                (Some(held), Some(shown)) => held.is_process_of(shown),
                _ => true,
            };
            same && self.sides.get(other).is_some_and(|side| side.is_connected)
        });
        if goes_on {
            return describe(id, at, entry, &self.sides).into_iter().collect();
        }
        // Who cannot be asked now and still sees it will say so when it can.
        entry.holders.clear();
        entry.shown = None;
        entry.ended = at;
        vec![Tell::Stop(id.clone(), at)]
    }

    /// A runtime says that a workload is gone.
    pub(crate) fn deleted(&mut self, runtime: usize, id: &WorkloadId, at: Timestamp) -> Vec<Tell> {
        let mut tells = self.stopped(runtime, id, at);
        let Some(entry) = self.entries.get_mut(id) else {
            return tells;
        };
        entry.known.remove(&runtime);
        if entry.shown.is_none() && entry.known.is_empty() {
            self.entries.remove(id);
            tells.push(Tell::Delete(id.clone(), at));
        }
        tells
    }
}

/// Shows the description of the runtime that knows most, if it differs from what is shown.
fn describe(
    id: &WorkloadId,
    at: Timestamp,
    entry: &mut Entry,
    sides: &BTreeMap<usize, Side>,
) -> Option<Tell> {
    let shown = entry.shown.as_ref()?;
    let rank = |runtime: &usize| sides.get(runtime).map_or(u8::MAX, |side| side.rank);
    let (runtime, best) = entry
        .holders
        .iter()
        .filter(|(_, held)| held.workload.is_some())
        .filter(|(_, held)| match (held.life, shown.life) {
            (Some(held), Some(shown)) => held.is_process_of(shown),
            _ => true,
        })
        .min_by_key(|(runtime, _)| (rank(runtime), **runtime))?;
    let (runtime, best) = (*runtime, best.clone());
    entry.by = runtime;
    let workload = best
        .workload
        .clone()
        .filter(|_| best.workload != shown.workload)?;
    entry.shown = Some(best);
    Some(Tell::Change(id.clone(), at, workload))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCKER: usize = 0;
    const CONTAINERD: usize = 1;

    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        ledger.connected(DOCKER, 0);
        ledger.connected(CONTAINERD, 2);
        ledger
    }

    fn id() -> WorkloadId {
        "a".parse().unwrap()
    }

    fn workload(by: &str, started: u64, pid: u32) -> Option<Workload> {
        Some(Workload {
            runtime: by.into(),
            started: Timestamp(started),
            pid,
            netns: u64::from(pid),
            ..Workload::new(id(), "n".parse().unwrap(), "s")
        })
    }

    /// What was told, without times and descriptions but for who describes.
    fn words(tells: Vec<Tell>) -> Vec<String> {
        let word = |tell: &Tell| match tell {
            Tell::Start(_, _, workload) => {
                format!(
                    "start {}",
                    workload.as_ref().map_or("-", |workload| &workload.runtime)
                )
            }
            Tell::Change(_, _, workload) => format!("change {}", workload.runtime),
            Tell::Stop(..) => "stop".to_owned(),
            Tell::Delete(..) => "delete".to_owned(),
        };
        tells.iter().map(word).collect()
    }

    #[test]
    fn one_container_seen_by_two_runtimes_is_told_once() {
        let mut ledger = ledger();
        let at = Timestamp(1);
        assert_eq!(
            words(ledger.started(CONTAINERD, id(), at, workload("containerd", 5, 7))),
            ["start containerd"]
        );
        // dockerd knows its name and its labels.
        assert_eq!(
            words(ledger.started(DOCKER, id(), at, workload("docker", 6, 7))),
            ["change docker"]
        );
        assert!(
            ledger
                .started(CONTAINERD, id(), at, workload("containerd", 5, 7))
                .is_empty()
        );
        assert!(
            ledger
                .stopped(DOCKER, &id(), at)
                .iter()
                .all(|tell| matches!(tell, Tell::Change(..)))
        );
        assert_eq!(words(ledger.deleted(DOCKER, &id(), at)), [""; 0]);
        assert_eq!(words(ledger.stopped(CONTAINERD, &id(), at)), ["stop"]);
        assert_eq!(words(ledger.deleted(CONTAINERD, &id(), at)), ["delete"]);
        assert!(ledger.deleted(DOCKER, &id(), at).is_empty());
        // dockerd has containerd forget a container that only stops: it is not gone.
        ledger.started(DOCKER, id(), at, workload("docker", 6, 7));
        ledger.started(CONTAINERD, id(), at, workload("containerd", 5, 7));
        ledger.stopped(DOCKER, &id(), at);
        assert_eq!(words(ledger.deleted(CONTAINERD, &id(), at)), ["stop"]);
        assert_eq!(ledger.ended_in(DOCKER).count(), 1);
        assert_eq!(words(ledger.deleted(DOCKER, &id(), at)), ["delete"]);
        assert!(ledger.entries.is_empty());
    }

    #[test]
    fn a_restart_seen_by_two_runtimes_is_told_once() {
        let mut ledger = ledger();
        let at = Timestamp(1);
        ledger.started(DOCKER, id(), at, workload("docker", 6, 7));
        ledger.started(CONTAINERD, id(), at, workload("containerd", 5, 7));
        // containerd is quicker with the next life than dockerd with the end of this one.
        assert!(words(ledger.stopped(CONTAINERD, &id(), at)).is_empty());
        assert_eq!(
            words(ledger.started(CONTAINERD, id(), at, workload("containerd", 9, 8))),
            ["stop", "start containerd"]
        );
        assert!(ledger.stopped(DOCKER, &id(), at).is_empty());
        assert_eq!(
            words(ledger.started(DOCKER, id(), at, workload("docker", 10, 8))),
            ["change docker"]
        );
    }

    #[test]
    fn who_cannot_be_asked_holds_nothing_back_and_says_so_later() {
        let mut ledger = ledger();
        let at = Timestamp(1);
        ledger.started(DOCKER, id(), at, workload("docker", 6, 7));
        ledger.started(CONTAINERD, id(), at, workload("containerd", 5, 7));
        ledger.lost(DOCKER);
        assert_eq!(words(ledger.stopped(CONTAINERD, &id(), at)), ["stop"]);
        // It was wrong to believe that: dockerd is back and still has it.
        ledger.connected(DOCKER, 0);
        assert_eq!(
            words(ledger.started(DOCKER, id(), at, workload("docker", 6, 7))),
            ["start docker"]
        );
    }

    #[test]
    fn a_description_that_comes_late_is_a_change_and_no_second_start() {
        let mut ledger = ledger();
        let at = Timestamp(1);
        assert_eq!(words(ledger.started(DOCKER, id(), at, None)), ["start -"]);
        assert!(ledger.started(DOCKER, id(), at, None).is_empty());
        assert_eq!(
            words(ledger.started(DOCKER, id(), at, workload("docker", 6, 7))),
            ["change docker"]
        );
        assert!(
            ledger
                .started(DOCKER, id(), at, workload("docker", 6, 7))
                .is_empty()
        );
        assert_eq!(
            words(ledger.started(DOCKER, id(), at, workload("docker", 8, 9))),
            ["stop", "start docker"]
        );
    }
}
