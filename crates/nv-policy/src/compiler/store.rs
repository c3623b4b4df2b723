//! Port tables and chains, each stored once and counted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nv_types::{Chain, DecisionId, IpProto, PortEntry, PortTableId};

use crate::flatten::Flat;
use crate::map::Map;

/// A cell by its chain's number.
type Row = (IpProto, u16, u8, DecisionId);

/// Whether a number means a table, and how many pairs name it: beside the tables, as rows ask for nothing else.
#[derive(Clone, Copy, Debug, Default)]
struct Life {
    /// Which of the tables that had the number has it now: odd while there is one.
    generation: u32,
    refs: u32,
}

/// All port tables and chains. What is not used any more goes at [`Store::sweep`].
#[derive(Debug, Default)]
pub(super) struct Store {
    /// Shared with `by_rows`.
    tables: Vec<Option<Arc<[Row]>>>,
    /// Of every number of a table.
    lives: Vec<Life>,
    by_rows: Map<Arc<[Row]>, PortTableId>,
    free_tables: BTreeSet<u32>,
    chains: Vec<Option<(Arc<Chain>, u32)>>,
    by_chain: Map<Arc<Chain>, DecisionId>,
    free_chains: BTreeSet<u32>,
    /// Tables whose count fell to zero.
    idle: Vec<PortTableId>,
    recording: bool,
    /// What was made or removed since the last [`Store::take_touched`], while it records.
    touched_tables: BTreeSet<PortTableId>,
    touched_chains: BTreeSet<DecisionId>,
}

fn number(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

impl Store {
    /// The table with these cells, and its generation. Whoever keeps the number calls [`Store::hold`].
    pub(super) fn table(&mut self, flat: Flat) -> (PortTableId, u32) {
        let chains: Vec<DecisionId> = flat.chains.into_iter().map(|chain| self.chain(chain)).collect();
        let cells = flat.cells.into_iter();
        let rows: Vec<Row> = cells
            .filter_map(|cell| Some((cell.proto, cell.port, cell.prefix_len, *chains.get(cell.chain)?)))
            .collect();
        if let Some(id) = self.by_rows.get(rows.as_slice()) {
            return (*id, self.generation(*id));
        }
        for (_, _, _, chain) in &rows {
            if let Some(Some((_, refs))) = self.chains.get_mut(chain.0 as usize) {
                *refs += 1;
            }
        }
        let id = match self.free_tables.pop_first() {
            Some(id) => id,
            None => {
                self.tables.push(None);
                self.lives.push(Life::default());
                number(self.tables.len() - 1)
            }
        };
        let life = &mut self.lives[id as usize];
        life.generation = life.generation.wrapping_add(1);
        life.refs = 0;
        let generation = life.generation;
        let id = PortTableId(id);
        let rows: Arc<[Row]> = rows.into();
        self.by_rows.insert(Arc::clone(&rows), id);
        self.tables[id.0 as usize] = Some(rows);
        self.touch_table(id);
        self.idle.push(id);
        (id, generation)
    }

    /// From here on what is made or removed is told.
    pub(super) const fn begin_recording(&mut self) {
        self.recording = true;
    }

    fn touch_table(&mut self, id: PortTableId) {
        if self.recording {
            self.touched_tables.insert(id);
        }
    }

    fn touch_chain(&mut self, id: DecisionId) {
        if self.recording {
            self.touched_chains.insert(id);
        }
    }

    /// Makes room for the tables and chains of so many rules at once.
    pub(super) fn reserve(&mut self, rules: usize) {
        self.tables.reserve(rules);
        self.lives.reserve(rules);
        self.by_rows.reserve(rules);
        self.chains.reserve(2 * rules);
        self.by_chain.reserve(2 * rules);
    }

    fn chain(&mut self, chain: Chain) -> DecisionId {
        if let Some(id) = self.by_chain.get(&chain) {
            return *id;
        }
        let id = match self.free_chains.pop_first() {
            Some(id) => id,
            None => {
                self.chains.push(None);
                number(self.chains.len() - 1)
            }
        };
        let id = DecisionId(id);
        let chain = Arc::new(chain);
        self.by_chain.insert(Arc::clone(&chain), id);
        self.chains[id.0 as usize] = Some((chain, 0));
        self.touch_chain(id);
        id
    }

    fn generation(&self, id: PortTableId) -> u32 {
        self.lives.get(id.0 as usize).map_or(0, |life| life.generation)
    }

    /// Whether the number still means the table of that generation.
    pub(super) fn is_live(&self, id: PortTableId, generation: u32) -> bool {
        generation % 2 == 1 && self.generation(id) == generation
    }

    /// One more pair names the table.
    pub(super) fn hold(&mut self, id: PortTableId) {
        if let Some(life) = self.lives.get_mut(id.0 as usize) {
            life.refs += 1;
        }
    }

    /// One pair less names the table.
    pub(super) fn drop(&mut self, id: PortTableId) {
        if let Some(life) = self.lives.get_mut(id.0 as usize) {
            life.refs -= 1;
            if life.refs == 0 {
                self.idle.push(id);
            }
        }
    }

    /// Removes the tables that no pair names, and chains that no table names.
    pub(super) fn sweep(&mut self) {
        for id in std::mem::take(&mut self.idle) {
            let place = id.0 as usize;
            let Some(life) = self.lives.get_mut(place).filter(|life| life.refs == 0) else {
                continue;
            };
            let Some(rows) = self.tables.get_mut(place).and_then(Option::take) else {
                continue;
            };
            life.generation = life.generation.wrapping_add(1);
            self.by_rows.remove(&rows);
            self.free_tables.insert(id.0);
            self.touch_table(id);
            for (_, _, _, chain) in rows.iter() {
                self.drop_chain(*chain);
            }
        }
    }

    fn drop_chain(&mut self, id: DecisionId) {
        let place = id.0 as usize;
        let Some(Some((_, refs))) = self.chains.get_mut(place) else {
            return;
        };
        *refs -= 1;
        if *refs == 0
            && let Some((chain, _)) = self.chains[place].take()
        {
            self.by_chain.remove(&chain);
            self.free_chains.insert(id.0);
            self.touch_chain(id);
        }
    }

    /// Live tables.
    pub(super) fn tables(&self) -> usize {
        self.by_rows.len()
    }

    fn entries(id: PortTableId, rows: &[Row]) -> impl Iterator<Item = PortEntry> + '_ {
        rows.iter()
            .map(move |(proto, port, prefix_len, decision)| PortEntry {
                table: id,
                proto: *proto,
                port: *port,
                prefix_len: *prefix_len,
                decision: *decision,
            })
    }

    /// All entries of all tables, sorted.
    pub(super) fn ports(&self) -> Vec<PortEntry> {
        let mut ports: Vec<_> = (0..)
            .zip(&self.tables)
            .filter_map(|(id, table)| Some((PortTableId(id), table.as_ref()?)))
            .flat_map(|(id, table)| Self::entries(id, table))
            .collect();
        ports.sort_unstable();
        ports
    }

    /// All chains by number; free numbers are closed.
    pub(super) fn decisions(&self) -> Vec<Chain> {
        self.chains
            .iter()
            .map(|slot| {
                slot.as_ref()
                    .map_or_else(Chain::closed, |(chain, _)| Chain::clone(chain))
            })
            .collect()
    }

    /// Tables and chains that were made or removed: with what they are now, `None` for nothing.
    pub(super) fn take_touched(&mut self) -> Touched {
        let tables = std::mem::take(&mut self.touched_tables)
            .into_iter()
            .map(|id| {
                let table = self.tables.get(id.0 as usize).and_then(Option::as_ref);
                let entries = table.map(|table| {
                    let mut entries: Vec<_> = Self::entries(id, table).collect();
                    entries.sort_unstable();
                    entries
                });
                (id, entries)
            })
            .collect();
        let chains = std::mem::take(&mut self.touched_chains)
            .into_iter()
            .map(|id| {
                let chain = self.chains.get(id.0 as usize).and_then(Option::as_ref);
                (id, chain.map(|(chain, _)| Chain::clone(chain)))
            })
            .collect();
        Touched { tables, chains }
    }
}

/// See [`Store::take_touched`].
#[derive(Debug)]
pub(super) struct Touched {
    pub(super) tables: BTreeMap<PortTableId, Option<Vec<PortEntry>>>,
    pub(super) chains: BTreeMap<DecisionId, Option<Chain>>,
}
