//! What the tables held before a change, so that the difference can be told.

use std::collections::{BTreeMap, BTreeSet};

use nv_types::{
    AddressEntry, Direction, Identity, IpPrefix, LocalEntry, Mode, PairEntry, PolicyImage, PortTableId,
    TablesDelta, WorkloadId,
};

use super::Compiler;
use super::classes::local;
use super::rows::{Row, RowKey};

type PairKey = (Identity, Direction, Identity);

/// First value of everything that was written since the last delta; `None`: it was not there.
#[derive(Debug, Default)]
pub(super) struct Journal {
    recording: bool,
    /// Until it records: what the first compile writes, in the order of writing. Sorting it once costs less than a search for each.
    first_addresses: Vec<(IpPrefix, Option<Identity>)>,
    addresses: BTreeMap<IpPrefix, Option<Identity>>,
    locals: BTreeMap<WorkloadId, Option<(Identity, Mode)>>,
    pairs: BTreeMap<PairKey, Option<PortTableId>>,
}

/// What was written last of each, in order.
fn last_of<K: Ord, V>(mut written: Vec<(K, Option<V>)>) -> BTreeMap<K, V> {
    written.reverse();
    written.sort_by(|(a, _), (b, _)| a.cmp(b));
    written.dedup_by(|later, kept| later.0 == kept.0);
    let kept = written.into_iter();
    kept.filter_map(|(key, value)| Some((key, value?))).collect()
}

impl Journal {
    pub(super) const fn is_recording(&self) -> bool {
        self.recording
    }
}

impl Compiler {
    /// From here on every change is told.
    pub(super) fn begin_recording(&mut self) {
        let first = std::mem::take(&mut self.journal);
        self.addresses = last_of(first.first_addresses);
        self.journal.recording = true;
        self.store.begin_recording();
    }

    pub(super) fn set_address(&mut self, prefix: IpPrefix, identity: Option<Identity>) {
        if !self.journal.recording {
            self.journal.first_addresses.push((prefix, identity));
            return;
        }
        let before = match identity {
            Some(identity) => self.addresses.insert(prefix, identity),
            None => self.addresses.remove(&prefix),
        };
        if before != identity {
            self.journal.addresses.entry(prefix).or_insert(before);
        }
    }

    /// A workload of the node was in this class until now, or in none.
    pub(super) fn note_local(&mut self, workload: &WorkloadId, before: Option<Identity>) {
        if self.journal.recording {
            let locals = self.journal.locals.entry(workload.clone());
            locals.or_insert_with(|| before.and_then(local));
        }
    }

    fn local(&self, workload: &WorkloadId) -> Option<(Identity, Mode)> {
        let slot = self.members.by_id(workload).filter(|slot| slot.local)?;
        local(slot.class?)
    }

    /// Puts a row in place of the one before.
    pub(super) fn set_row(&mut self, key: RowKey, row: Option<Row>) {
        for (_, table) in row.iter().flat_map(Row::pairs) {
            self.store.hold(table);
        }
        let recording = self.journal.recording;
        let now: Vec<_> = row.iter().filter(|_| recording).flat_map(Row::pairs).collect();
        let before = match row {
            Some(row) => self.rows.insert(key, row),
            None => self.rows.remove(&key),
        };
        for (_, table) in before.iter().flat_map(Row::pairs) {
            self.store.drop(table);
        }
        if !recording {
            return;
        }
        let before: Vec<_> = before.iter().flat_map(Row::pairs).collect();
        let changed = |list: &[(Identity, PortTableId)], (peer, table): &(Identity, PortTableId)| {
            let place = list.binary_search_by_key(peer, |(peer, _)| *peer);
            place
                .ok()
                .and_then(|place| list.get(place))
                .map(|(_, table)| *table)
                != Some(*table)
        };
        let note = |pairs: &mut BTreeMap<PairKey, _>, peer, before| {
            pairs.entry((key.0, key.1, peer)).or_insert(before);
        };
        for old in before.iter().filter(|old| changed(&now, old)) {
            note(&mut self.journal.pairs, old.0, Some(old.1));
        }
        for new in &now {
            if before.binary_search_by_key(&new.0, |(peer, _)| *peer).is_err() {
                note(&mut self.journal.pairs, new.0, None);
            }
        }
    }

    /// Puts one pair of a row; the table that holds for any peer of the kind means none.
    pub(super) fn set_pair(&mut self, key: RowKey, peer: Identity, table: Option<PortTableId>) {
        let Some(row) = self.rows.get_mut(&key) else {
            return;
        };
        let any = row.wildcard(peer);
        let table = table.filter(|table| *table != any);
        let place = row.entries.binary_search_by_key(&peer, |(peer, _)| *peer);
        let before = match (place, table) {
            (Ok(place), Some(table)) => Some(std::mem::replace(&mut row.entries[place].1, table)),
            (Ok(place), None) => Some(row.entries.remove(place).1),
            (Err(place), Some(table)) => {
                row.entries.insert(place, (peer, table));
                None
            }
            (Err(_), None) => None,
        };
        if let Some(table) = table {
            self.store.hold(table);
        }
        if let Some(before) = before {
            self.store.drop(before);
        }
        if self.journal.recording && before != table {
            self.journal.pairs.entry((key.0, key.1, peer)).or_insert(before);
        }
    }

    fn table_of(&self, (local, direction, peer): PairKey) -> Option<PortTableId> {
        let row = self.rows.get(&(local, direction))?;
        if peer == Identity::ANY {
            return Some(row.any);
        }
        let place = row.entries.binary_search_by_key(&peer, |(peer, _)| *peer).ok()?;
        Some(row.entries.get(place)?.1)
    }

    /// The difference since the last one.
    pub(super) fn delta(&mut self) -> TablesDelta {
        let recording = Journal {
            recording: true,
            ..Journal::default()
        };
        let journal = std::mem::replace(&mut self.journal, recording);
        let mut delta = TablesDelta {
            revision: self.revision,
            ..TablesDelta::default()
        };
        for (prefix, before) in journal.addresses {
            match self.addresses.get(&prefix).copied() {
                now if now == before => {}
                Some(identity) => delta.put_addresses.push(AddressEntry { prefix, identity }),
                None => delta.del_addresses.push(prefix),
            }
        }
        for (workload, before) in journal.locals {
            match self.local(&workload) {
                now if now == before => {}
                Some((identity, mode)) => delta.put_locals.push(LocalEntry {
                    workload,
                    identity,
                    mode,
                }),
                None => delta.del_locals.push(workload),
            }
        }
        for (key, before) in journal.pairs {
            match self.table_of(key) {
                now if now == before => {}
                Some(ports) => delta.put_pairs.push(PairEntry {
                    local: key.0,
                    direction: key.1,
                    peer: key.2,
                    ports,
                }),
                None => delta.del_pairs.push(key),
            }
        }
        let touched = self.store.take_touched();
        for (id, entries) in touched.tables {
            match entries {
                Some(entries) => delta.put_tables.push((id, entries)),
                None => delta.del_tables.push(id),
            }
        }
        for (id, chain) in touched.chains {
            match chain {
                Some(chain) => delta.put_decisions.push((id, chain)),
                None => delta.del_decisions.push(id),
            }
        }
        delta
    }
}

/// The difference of two whole images.
pub(super) fn difference(before: &PolicyImage, after: &PolicyImage) -> TablesDelta {
    let mut delta = TablesDelta {
        revision: after.revision,
        ..TablesDelta::default()
    };
    let prefixes: BTreeSet<_> = after.addresses.iter().map(|entry| entry.prefix).collect();
    let old: BTreeSet<_> = before.addresses.iter().collect();
    delta.put_addresses = after
        .addresses
        .iter()
        .filter(|entry| !old.contains(entry))
        .copied()
        .collect();
    delta.del_addresses = before
        .addresses
        .iter()
        .map(|entry| entry.prefix)
        .filter(|prefix| !prefixes.contains(prefix))
        .collect();
    let workloads: BTreeSet<_> = after.locals.iter().map(|entry| &entry.workload).collect();
    let old: BTreeSet<_> = before.locals.iter().collect();
    delta.put_locals = after
        .locals
        .iter()
        .filter(|entry| !old.contains(entry))
        .cloned()
        .collect();
    let gone = before.locals.iter().map(|entry| &entry.workload);
    delta.del_locals = gone.filter(|id| !workloads.contains(id)).cloned().collect();
    let key = |pair: &PairEntry| (pair.local, pair.direction, pair.peer);
    let keys: BTreeSet<_> = after.pairs.iter().map(key).collect();
    let old: BTreeSet<_> = before.pairs.iter().collect();
    delta.put_pairs = after
        .pairs
        .iter()
        .filter(|pair| !old.contains(pair))
        .copied()
        .collect();
    delta.del_pairs = before
        .pairs
        .iter()
        .map(key)
        .filter(|pair| !keys.contains(pair))
        .collect();
    let by_table = |image: &PolicyImage| {
        let mut tables: BTreeMap<PortTableId, Vec<_>> = BTreeMap::new();
        for entry in &image.ports {
            tables.entry(entry.table).or_default().push(*entry);
        }
        tables
    };
    let (old, new) = (by_table(before), by_table(after));
    delta.del_tables = old.keys().filter(|id| !new.contains_key(id)).copied().collect();
    delta.put_tables = new
        .into_iter()
        .filter(|(id, entries)| old.get(id) != Some(entries))
        .collect();
    let number = |place: usize| nv_types::DecisionId(u32::try_from(place).unwrap_or(u32::MAX));
    for (place, chain) in after.decisions.iter().enumerate() {
        if before.decisions.get(place) != Some(chain) {
            delta.put_decisions.push((number(place), chain.clone()));
        }
    }
    for place in after.decisions.len()..before.decisions.len() {
        delta.del_decisions.push(number(place));
    }
    delta
}
