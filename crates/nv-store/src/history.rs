//! Checks what watchers saw of a run against each other and against what writers were told, by the six properties that etcd asks of a watch:
//!
//! - *ordered*: revisions grow;
//! - *unique*: no change comes twice;
//! - *reliable*: between two events of a watcher no change under its prefix is missing, but for a `Resync`, which has the whole state;
//! - *atomic*: changes of one revision come together;
//! - *resumable*: a watch from a revision begins with the first change from there on;
//! - *bookmarkable*: one that goes on from the revision after its last event sees what an unbroken one sees.
//!
//! The model is a map: the changes that any watcher saw and those that a writer was told are made, by revision, replayed.

use std::collections::{BTreeMap, BTreeSet};

use nv_types::Revision;

use crate::types::{Change, KeyValue, WatchEvent};

/// What one watcher saw. A watcher that broke off and resumed is several of them.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What it asked for.
    pub prefix: String,
    /// Revision that it asked for; 0: a snapshot first.
    pub from: Revision,
    /// What came, in order.
    pub events: Vec<WatchEvent>,
}

/// A write whose writer was told that it is made.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    /// At which revision.
    pub revision: Revision,
    /// Keys with their values; none: deleted.
    pub keys: Vec<(String, Option<Vec<u8>>)>,
}

/// What was checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Revisions that some watcher saw.
    pub revisions: usize,
    /// Events of all watchers.
    pub events: usize,
    /// Of those, snapshots.
    pub resyncs: usize,
    /// Acknowledged writes found.
    pub acknowledged: usize,
}

type State = BTreeMap<String, (Revision, Vec<u8>)>;
type Changes = BTreeMap<String, Option<Vec<u8>>>;

/// Checks a run on a store that was empty under `""` at its beginning, and that was not restored meanwhile.
///
/// # Errors
/// The first violation, with property, watcher and revision.
pub fn check(seen: &[Seen], acknowledged: &[Acknowledged]) -> Result<Report, String> {
    let mut report = Report::default();
    let mut truth = gather(seen, &mut report)?;
    for write in acknowledged {
        for (key, value) in &write.keys {
            let known = truth.entry(write.revision).or_default().entry(key.clone());
            let known = known.or_insert_with(|| value.clone());
            if known != value {
                return Err(format!(
                    "reliable: '{key}' was acknowledged at {} as {value:?}, watchers saw {known:?}",
                    write.revision
                ));
            }
        }
        report.acknowledged += 1;
    }
    without_idle_deletions(&mut truth);
    for (number, watcher) in seen.iter().enumerate() {
        follow(watcher, &truth).map_err(|problem| format!("watcher {number}: {problem}"))?;
    }
    report.revisions = truth.len();
    Ok(report)
}

fn put(entry: &KeyValue) -> (&String, Option<Vec<u8>>, Revision) {
    (&entry.key, Some(entry.value.clone()), entry.mod_revision)
}

/// All changes that anybody saw. Two who saw one revision must have seen the same.
fn gather(seen: &[Seen], report: &mut Report) -> Result<BTreeMap<Revision, Changes>, String> {
    let mut truth: BTreeMap<Revision, Changes> = BTreeMap::new();
    for event in seen.iter().flat_map(|watcher| &watcher.events) {
        report.events += 1;
        let facts: Vec<_> = match event {
            WatchEvent::Resync(listing) => {
                report.resyncs += 1;
                listing.entries.iter().map(put).collect()
            }
            WatchEvent::Changes { changes, .. } => changes
                .iter()
                .map(|change| match change {
                    Change::Put(entry) => put(entry),
                    Change::Delete { key, revision } => (key, None, *revision),
                })
                .collect(),
        };
        for (key, value, at) in facts {
            if let WatchEvent::Changes { revision, .. } = event
                && at != *revision
            {
                return Err(format!("atomic: '{key}' of {at} came with {revision}"));
            }
            let known = truth.entry(at).or_default().entry(key.clone());
            if *known.or_insert_with(|| value.clone()) != value {
                return Err(format!("two watchers saw '{key}' differ at {at}"));
            }
        }
    }
    Ok(truth)
}

/// A deletion of what is not there changes nothing, and nobody is told of it.
fn without_idle_deletions(truth: &mut BTreeMap<Revision, Changes>) {
    let mut there = BTreeSet::new();
    for changes in truth.values_mut() {
        changes.retain(|key, value| match value {
            Some(_) => {
                there.insert(key.clone());
                true
            }
            None => there.remove(key),
        });
    }
    truth.retain(|_, changes| !changes.is_empty());
}

fn under(changes: &Changes, prefix: &str) -> Changes {
    changes
        .iter()
        .filter(|(key, _)| key.starts_with(prefix))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn follow(watcher: &Seen, truth: &BTreeMap<Revision, Changes>) -> Result<(), String> {
    // Everything up to here is known.
    let mut known = Revision(watcher.from.0.saturating_sub(1));
    let mut first = watcher.from == Revision(0);
    for event in &watcher.events {
        match event {
            WatchEvent::Resync(listing) => {
                if listing.revision < known {
                    return Err(format!(
                        "ordered: a snapshot of {} after {known}",
                        listing.revision
                    ));
                }
                let expected = replay(truth, &watcher.prefix, listing.revision);
                let found: State = listing
                    .entries
                    .iter()
                    .map(|entry| (entry.key.clone(), (entry.mod_revision, entry.value.clone())))
                    .collect();
                if found != expected {
                    let wrong = expected
                        .keys()
                        .chain(found.keys())
                        .find(|key| expected.get(*key) != found.get(*key));
                    return Err(format!(
                        "reliable: the snapshot of {} is not the state then: {wrong:?} is {:?} instead of {:?}",
                        listing.revision,
                        wrong.and_then(|key| found.get(key)),
                        wrong.and_then(|key| expected.get(key)),
                    ));
                }
                known = listing.revision;
            }
            WatchEvent::Changes { revision, changes } => {
                if first {
                    return Err(format!("a watch from 0 began with changes of {revision}"));
                }
                if *revision <= known {
                    return Err(format!("ordered, unique: {revision} came after {known}"));
                }
                let between = truth.range(Revision(known.0 + 1)..*revision);
                if let Some((missed, _)) = between
                    .into_iter()
                    .find(|(_, changes)| !under(changes, &watcher.prefix).is_empty())
                {
                    return Err(format!(
                        "reliable: {missed} is missing between {known} and {revision}"
                    ));
                }
                let whole = truth
                    .get(revision)
                    .map_or(0, |changes| under(changes, &watcher.prefix).len());
                if whole != changes.len() {
                    return Err(format!(
                        "atomic: {} of {whole} changes of {revision} came",
                        changes.len()
                    ));
                }
                known = *revision;
            }
        }
        first = false;
    }
    Ok(())
}

fn replay(truth: &BTreeMap<Revision, Changes>, prefix: &str, until: Revision) -> State {
    let mut state = State::new();
    for (revision, changes) in truth.range(..=until) {
        for (key, value) in under(changes, prefix) {
            match value {
                Some(value) => state.insert(key, (*revision, value)),
                None => state.remove(&key),
            };
        }
    }
    state
}

#[cfg(test)]
mod tests {
    use super::{Acknowledged, Seen, check};
    use crate::types::{Change, KeyValue, Listing, WatchEvent};
    use nv_types::Revision;

    fn entry(key: &str, revision: u64) -> KeyValue {
        KeyValue {
            key: key.into(),
            value: vec![u8::try_from(revision).unwrap()],
            create_revision: Revision(revision),
            mod_revision: Revision(revision),
            lease: None,
        }
    }

    fn put(revision: u64, keys: &[&str]) -> WatchEvent {
        WatchEvent::Changes {
            revision: Revision(revision),
            changes: keys.iter().map(|key| Change::Put(entry(key, revision))).collect(),
        }
    }

    fn state(revision: u64, entries: Vec<KeyValue>) -> WatchEvent {
        WatchEvent::Resync(Listing {
            entries,
            revision: Revision(revision),
        })
    }

    fn verdict(events: Vec<WatchEvent>) -> String {
        let seen = |from, events| Seen {
            prefix: String::new(),
            from: Revision(from),
            events,
        };
        let whole = vec![
            state(0, vec![]),
            put(1, &["a", "b"]),
            put(2, &["a"]),
            put(3, &["c"]),
        ];
        match check(&[seen(0, whole), seen(1, events)], &[]) {
            Ok(_) => "good".into(),
            Err(problem) => problem,
        }
    }

    /// A checker that finds nothing proves nothing: each property, broken once.
    #[test]
    fn every_violation_is_found() {
        assert_eq!(
            verdict(vec![put(1, &["a", "b"]), put(2, &["a"]), put(3, &["c"])]),
            "good"
        );
        let snapshot = vec![entry("a", 2), entry("b", 1)];
        assert_eq!(verdict(vec![state(2, snapshot.clone()), put(3, &["c"])]), "good");
        for (events, property) in [
            (
                vec![put(1, &["a", "b"]), put(3, &["c"]), put(2, &["a"])],
                "reliable: 2",
            ),
            (vec![put(1, &["a", "b"]), put(1, &["a", "b"])], "ordered, unique"),
            (vec![put(1, &["a", "b"]), put(3, &["c"])], "reliable: 2"),
            (vec![put(2, &["a"])], "reliable: 1"),
            (vec![put(1, &["a"])], "atomic"),
            (vec![state(3, snapshot)], "reliable: the snapshot"),
            (
                vec![put(1, &["a", "b"]), put(2, &["a"]), state(1, vec![])],
                "ordered",
            ),
        ] {
            let found = verdict(events.clone());
            assert!(found.contains(property), "{events:?}: {found}");
        }
        let lost = Acknowledged {
            revision: Revision(4),
            keys: vec![("d".into(), Some(vec![4]))],
        };
        let seen = |events| Seen {
            prefix: String::new(),
            from: Revision(4),
            events,
        };
        let found = check(&[seen(vec![put(5, &["e"])])], std::slice::from_ref(&lost)).unwrap_err();
        assert!(found.contains("reliable: 4 is missing"), "{found}");
        let found = check(
            &[seen(vec![put(4, &["d"])])],
            &[Acknowledged {
                keys: vec![("d".into(), None)],
                ..lost
            }],
        );
        assert!(found.unwrap_err().contains("'d' was acknowledged"));
    }
}
