//! The kernel's tables as byte maps, and bringing one of them to a wanted content.

use std::collections::BTreeMap;
use std::path::Path;

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, IterableMap as _, LpmTrie, Map, MapData, MapError, PerCpuArray, RingBuf};
use aya::{Ebpf, Pod};
use nv_dp_common::layout::{
    AddressData, AddressValue, COUNTER_WORDS, ChainValue, EndpointValue, FlowCell, FlowKeyValue, OwnKey,
    PairKey, PortData, SLOT_BIT, ShareCell, Switches,
};

use super::setup::fault;
use super::spec::SPEC_BYTES;
use crate::DatapathError;
use crate::slot::{Capacity, SlotTables};

/// Every table that userspace reads or writes.
pub(crate) struct Maps {
    pub(crate) state: Array<MapData, u32>,
    pub(crate) switches: Array<MapData, [u8; size_of::<Switches>()]>,
    pub(crate) shares: Array<MapData, [u8; size_of::<ShareCell>()]>,
    pub(crate) endpoints: HashMap<MapData, u32, [u8; size_of::<EndpointValue>()]>,
    pub(crate) own: HashMap<MapData, [u8; size_of::<OwnKey>()], u32>,
    pub(crate) counters: PerCpuArray<MapData, [u64; COUNTER_WORDS]>,
    pub(crate) addresses: LpmTrie<MapData, [u8; size_of::<AddressData>()], [u8; size_of::<AddressValue>()]>,
    pub(crate) pairs: HashMap<MapData, [u8; size_of::<PairKey>()], u32>,
    pub(crate) ports: LpmTrie<MapData, [u8; size_of::<PortData>()], u32>,
    pub(crate) chains: HashMap<MapData, u32, [u8; size_of::<ChainValue>()]>,
    pub(crate) flows: HashMap<MapData, [u8; size_of::<FlowKeyValue>()], [u8; size_of::<FlowCell>()]>,
    pub(crate) events: RingBuf<MapData>,
    pub(crate) lost: PerCpuArray<MapData, u64>,
    pub(crate) specs: HashMap<MapData, u32, [u8; SPEC_BYTES]>,
}

fn take<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<T, DatapathError> {
    let map = ebpf.take_map(name).ok_or_else(|| DatapathError::Kernel {
        action: format!("open table {name}"),
        detail: "the kernel object does not have it".into(),
    })?;
    T::try_from(map).map_err(|error| fault(&format!("open table {name}"), &error))
}

impl Maps {
    /// Takes them out of a loaded object.
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            state: take(ebpf, "NV_STATE")?,
            switches: take(ebpf, "NV_SWITCHES")?,
            shares: take(ebpf, "NV_SHARES")?,
            endpoints: take(ebpf, "NV_ENDPOINTS")?,
            own: take(ebpf, "NV_OWN")?,
            counters: take(ebpf, "NV_COUNTERS")?,
            addresses: take(ebpf, "NV_ADDRESSES")?,
            pairs: take(ebpf, "NV_PAIRS")?,
            ports: take(ebpf, "NV_PORTS")?,
            chains: take(ebpf, "NV_CHAINS")?,
            flows: take(ebpf, "NV_FLOWS")?,
            events: take(ebpf, "NV_EVENTS")?,
            lost: take(ebpf, "NV_LOST")?,
            specs: take(ebpf, "NV_SPECS")?,
        })
    }

    /// Pins again what somebody has unpinned, so that a restarted agent finds it. Gives how many.
    pub(crate) fn pin_again(&self, folder: &Path) -> Result<usize, DatapathError> {
        let tables = [
            ("NV_STATE", self.state.map()),
            ("NV_SWITCHES", self.switches.map()),
            ("NV_SHARES", self.shares.map()),
            ("NV_ENDPOINTS", self.endpoints.map()),
            ("NV_OWN", self.own.map()),
            ("NV_COUNTERS", self.counters.map()),
            ("NV_ADDRESSES", self.addresses.map()),
            ("NV_PAIRS", self.pairs.map()),
            ("NV_PORTS", self.ports.map()),
            ("NV_CHAINS", self.chains.map()),
            ("NV_FLOWS", self.flows.map()),
            ("NV_LOST", self.lost.map()),
            ("NV_SPECS", self.specs.map()),
        ];
        let mut pinned = 0;
        for (name, table) in tables {
            let path = folder.join(name);
            if !path.exists() {
                table
                    .pin(&path)
                    .map_err(|error| fault(&format!("pin table {name}"), &error))?;
                pinned += 1;
            }
        }
        Ok(pinned)
    }

    /// Room for one image in each policy table, and for flows.
    pub(crate) fn sizes(&self) -> Result<(Capacity, usize), DatapathError> {
        let half = |map: &MapData| Ok::<_, DatapathError>(entries(map)? / 2);
        let capacity = Capacity {
            addresses: half(self.addresses.map())?,
            pairs: half(self.pairs.map())?,
            ports: half(self.ports.map())?,
            chains: half(self.chains.map())?,
        };
        Ok((capacity, entries(self.flows.map())?))
    }

    /// What a slot holds in the kernel, workloads left out.
    pub(crate) fn read_slot(&self, slot: u32) -> Result<SlotTables, DatapathError> {
        let mut tables = SlotTables::default();
        let mine = |number: u32| u32::from(number & SLOT_BIT != 0) == slot;
        for item in self.addresses.iter() {
            let (key, value) = item.map_err(|error| fault("read table addresses", &error))?;
            let data = AddressData::from_bytes(&key.data());
            if data.slot == slot {
                let len = short(key.prefix_len().saturating_sub(AddressData::SLOT_BITS));
                tables
                    .addresses
                    .insert((len, data.addr), AddressValue::from_bytes(&value));
            }
        }
        for item in self.pairs.iter() {
            let (key, table) = item.map_err(|error| fault("read table pairs", &error))?;
            let key = PairKey::from_bytes(&key);
            if u32::from(key.slot) == slot {
                tables.pairs.insert(key, table);
            }
        }
        for item in self.ports.iter() {
            let (key, decision) = item.map_err(|error| fault("read table ports", &error))?;
            let data = PortData::from_bytes(&key.data());
            if mine(data.table) {
                let len = short(key.prefix_len().saturating_sub(PortData::TABLE_BITS));
                tables.ports.insert((len, data), decision);
            }
        }
        for item in self.chains.iter() {
            let (id, chain) = item.map_err(|error| fault("read table decisions", &error))?;
            if mine(id) {
                tables.chains.insert(id, ChainValue::from_bytes(&chain));
            }
        }
        let switches = self
            .switches
            .get(&slot, 0)
            .map_err(|error| fault("read switches", &error))?;
        tables.switches = Switches::from_bytes(&switches);
        tables.index_lengths();
        Ok(tables)
    }

    /// Writes the differences between what a slot holds (`mirror`) and what it shall hold. The mirror follows every
    /// single write, so that it stays true when one fails.
    pub(crate) fn write_slot(
        &mut self,
        slot: u32,
        mirror: &mut SlotTables,
        target: &SlotTables,
    ) -> Result<usize, DatapathError> {
        let address = |&(len, addr): &(u8, [u8; 16])| {
            Key::new(
                AddressData::SLOT_BITS + u32::from(len),
                AddressData { slot, addr }.to_bytes(),
            )
        };
        let port =
            |&(len, data): &(u8, PortData)| Key::new(PortData::TABLE_BITS + u32::from(len), data.to_bytes());
        let mut writes = sync(
            &mut self.addresses,
            "addresses",
            &mut mirror.addresses,
            &target.addresses,
            address,
            |v| v.to_bytes(),
        )?;
        writes += sync(
            &mut self.chains,
            "decisions",
            &mut mirror.chains,
            &target.chains,
            |id| *id,
            |v| v.to_bytes(),
        )?;
        writes += sync(
            &mut self.ports,
            "ports",
            &mut mirror.ports,
            &target.ports,
            port,
            |v| *v,
        )?;
        writes += sync(
            &mut self.pairs,
            "pairs",
            &mut mirror.pairs,
            &target.pairs,
            |key| key.to_bytes(),
            |v| *v,
        )?;
        self.switches
            .set(slot, target.switches.to_bytes(), 0)
            .map_err(|error| fault("write switches", &error))?;
        mirror.switches = target.switches;
        mirror.index_lengths();
        Ok(writes + 1)
    }
}

fn entries(map: &MapData) -> Result<usize, DatapathError> {
    let info = map
        .info()
        .map_err(|error| fault("ask for the size of a table", &error))?;
    Ok(usize::try_from(info.max_entries()).unwrap_or(usize::MAX))
}

/// Prefix lengths are at most 128.
fn short(len: u32) -> u8 {
    u8::try_from(len).unwrap_or(u8::MAX)
}

/// A table that entries can be put in and taken out of.
trait Entries<K, V> {
    fn put(&mut self, key: &K, value: V) -> Result<(), MapError>;
    fn drop_key(&mut self, key: &K) -> Result<(), MapError>;
}

impl<K: Pod, V: Pod> Entries<K, V> for HashMap<MapData, K, V> {
    fn put(&mut self, key: &K, value: V) -> Result<(), MapError> {
        self.insert(key, value, 0)
    }
    fn drop_key(&mut self, key: &K) -> Result<(), MapError> {
        self.remove(key)
    }
}

impl<K: Pod, V: Pod> Entries<Key<K>, V> for LpmTrie<MapData, K, V> {
    fn put(&mut self, key: &Key<K>, value: V) -> Result<(), MapError> {
        self.insert(key, value, 0)
    }
    fn drop_key(&mut self, key: &Key<K>) -> Result<(), MapError> {
        self.remove(key)
    }
}

/// Removes first, so that what is added has room.
fn sync<M, K, V, RawK, RawV>(
    map: &mut M,
    name: &str,
    mirror: &mut BTreeMap<K, V>,
    target: &BTreeMap<K, V>,
    raw_key: impl Fn(&K) -> RawK,
    raw_value: impl Fn(&V) -> RawV,
) -> Result<usize, DatapathError>
where
    M: Entries<RawK, RawV>,
    K: Ord + Clone,
    V: PartialEq + Clone,
{
    let gone: Vec<K> = mirror
        .keys()
        .filter(|key| !target.contains_key(key))
        .cloned()
        .collect();
    let mut writes = gone.len();
    for key in gone {
        match map.drop_key(&raw_key(&key)) {
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(fault(&format!("remove an entry of table {name}"), &error)),
        }
        mirror.remove(&key);
    }
    for (key, value) in target {
        if mirror.get(key) != Some(value) {
            map.put(&raw_key(key), raw_value(value))
                .map_err(|error| fault(&format!("write an entry of table {name}"), &error))?;
            mirror.insert(key.clone(), value.clone());
            writes += 1;
        }
    }
    Ok(writes)
}
