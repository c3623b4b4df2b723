//! Endpoints in the tables: taking up, writing, forgetting.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use aya::maps::MapError;
use nv_dp_common::layout::{COUNTER_WORDS, EndpointValue, LocalView, OwnKey, STATE_EPOCH, ShareCell};
use nv_types::Direction;

use super::setup::fault;
use super::{EbpfDatapath, Endpoint, MAX_ENDPOINTS, spec};
use crate::{DatapathError, DirectionCounters, convert};

impl EbpfDatapath {
    /// Takes up every endpoint that is pinned.
    pub(super) fn adopt(&mut self) -> Result<(), DatapathError> {
        let specs: Vec<_> = self.maps.specs.iter().collect();
        for item in specs {
            let (ifindex, bytes) = item.map_err(|error| fault("read the pinned endpoints", &error))?;
            let value = self.maps.endpoints.get(&ifindex, 0);
            let (Some(spec), Ok(value)) = (spec::decode(ifindex, &bytes), value) else {
                self.forget(ifindex)?;
                continue;
            };
            let value = EndpointValue::from_bytes(&value);
            if self.hook.attach(&mut self.ebpf, &self.pins, ifindex)? {
                if let Some(workload) = &spec.workload {
                    for (slot, view) in self.slots.iter_mut().zip(value.views) {
                        if view.state == LocalView::POLICED {
                            slot.locals.insert(workload.clone(), view);
                        }
                    }
                }
                self.endpoints.insert(ifindex, Endpoint { spec, value });
            } else {
                self.forget(ifindex)?;
            }
        }
        for ifindex in self.pins.linked()? {
            if !self.endpoints.contains_key(&ifindex) {
                self.forget(ifindex)?;
            }
        }
        Ok(())
    }

    /// Removes an interface from links and tables; the links first, so that nothing is judged by half an entry.
    pub(super) fn forget(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        self.hook.detach(&self.pins, ifindex)?;
        absent_is_fine(self.maps.endpoints.remove(&ifindex), "remove an endpoint")?;
        absent_is_fine(self.maps.specs.remove(&ifindex), "remove an endpoint")?;
        self.write_own(ifindex, &BTreeSet::new())?;
        self.gone.insert(ifindex);
        Ok(())
    }

    /// Makes these the addresses of an endpoint: new ones first.
    pub(super) fn write_own(
        &mut self,
        ifindex: u32,
        wanted: &BTreeSet<[u8; 16]>,
    ) -> Result<(), DatapathError> {
        for addr in wanted {
            let key = OwnKey { addr: *addr, ifindex }.to_bytes();
            self.maps
                .own
                .insert(key, 1, 0)
                .map_err(|error| fault("write an endpoint's address", &error))?;
        }
        let stale: Vec<_> = self
            .maps
            .own
            .keys()
            .filter_map(Result::ok)
            .filter(|key| {
                let key = OwnKey::from_bytes(key);
                key.ifindex == ifindex && !wanted.contains(&key.addr)
            })
            .collect();
        for key in stale {
            absent_is_fine(self.maps.own.remove(&key), "remove an endpoint's address")?;
        }
        Ok(())
    }

    pub(super) fn write_endpoint(
        &mut self,
        ifindex: u32,
        value: &EndpointValue,
    ) -> Result<(), DatapathError> {
        self.maps
            .endpoints
            .insert(ifindex, value.to_bytes(), 0)
            .map_err(|error| fault("write an endpoint", &error))
    }

    pub(super) fn write_epoch(&mut self, epoch: u32) -> Result<(), DatapathError> {
        self.maps
            .state
            .set(STATE_EPOCH, epoch, 0)
            .map_err(|error| fault("switch the epoch", &error))?;
        self.epoch = epoch;
        self.gone.clear(); // nothing that was decided of them is in force
        Ok(())
    }

    /// How many flows each endpoint has. What begins or ends while they are counted is counted the next time.
    pub(super) fn write_shares(
        &mut self,
        used: &BTreeMap<u32, u64>,
        now_ns: u64,
    ) -> Result<(), DatapathError> {
        for (ifindex, used) in used {
            if let Some(endpoint) = self.endpoints.get(ifindex) {
                let index = endpoint.value.index;
                self.write_share(index, *used, now_ns)?;
            }
        }
        Ok(())
    }

    pub(super) fn write_share(&mut self, index: u32, used: u64, now_ns: u64) -> Result<(), DatapathError> {
        let share = ShareCell {
            used: Cell::new(used),
            counted_ns: Cell::new(now_ns),
        };
        self.maps
            .shares
            .set(index, share.to_bytes(), 0)
            .map_err(|error| fault("write the share of an endpoint", &error))
    }

    /// A place in the counters that no endpoint has; its counts start at zero.
    pub(super) fn free_index(&mut self) -> Result<u32, DatapathError> {
        let used: BTreeSet<u32> = self
            .endpoints
            .values()
            .map(|endpoint| endpoint.value.index)
            .collect();
        let room = u32::try_from(MAX_ENDPOINTS).unwrap_or(u32::MAX);
        let index = (0..room)
            .find(|index| !used.contains(index))
            .ok_or(DatapathError::TooLarge {
                table: "endpoints",
                needed: used.len() + 1,
                capacity: MAX_ENDPOINTS,
            })?;
        for place in [index * 2, index * 2 + 1] {
            let zero = vec![[0; COUNTER_WORDS]; cpus()?];
            let zero = zero
                .try_into()
                .map_err(|error: std::io::Error| fault("clear counters", &error))?;
            self.maps
                .counters
                .set(place, zero, 0)
                .map_err(|error| fault("clear counters", &error))?;
        }
        Ok(index)
    }

    pub(super) fn counters(
        &self,
        index: u32,
        direction: Direction,
    ) -> Result<DirectionCounters, DatapathError> {
        let place = index * 2 + direction as u32;
        let values = self
            .maps
            .counters
            .get(&place, 0)
            .map_err(|error| fault("read counters", &error))?;
        let mut sum = DirectionCounters::default();
        for words in values.iter() {
            convert::add_counters(&mut sum, words);
        }
        Ok(sum)
    }
}

fn cpus() -> Result<usize, DatapathError> {
    aya::util::nr_cpus().map_err(|(what, error)| fault(&format!("read {what}"), &error))
}

pub(super) fn absent_is_fine(result: Result<(), MapError>, action: &str) -> Result<(), DatapathError> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(error) => Err(fault(action, &error)),
    }
}
