//! The trait over the kernel's tables.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;

use aya::maps::IterableMap as _;
use nix::time::{ClockId, clock_gettime};
use nv_dp_common::layout::{EventValue, FlowCell, FlowData, FlowKeyValue, LOST_EVENTS};
use nv_dp_common::timeout::idle_ns;
use nv_types::{Direction, FlowState, IpProto, PolicyImage, Revision};

use super::endpoints::absent_is_fine;
use super::hook::Hold;
use super::setup::{fault, interface_name};
use super::sys::{Place, read_batch};
use super::{EbpfDatapath, Endpoint, MAX_ENDPOINTS, spec};
use crate::slot::SlotTables;
use crate::{
    Datapath, DatapathConfig, DatapathError, DatapathEvent, DatapathStatus, EndpointSpec, EndpointStatus,
    FlowStats, convert,
};

/// Flows that are read at once; far more than a bucket holds.
const READ_BATCH: usize = 1024;

pub(super) fn monotonic_ns() -> Result<u64, DatapathError> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(|error| fault("read the clock", &error))?;
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    Ok(seconds * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap_or(0))
}

impl EbpfDatapath {
    /// Every flow, by whole buckets of the table: one that comes or goes meanwhile may be seen or not, all others are, once.
    fn each_flow(&self, mut each: impl FnMut(FlowKeyValue, FlowData)) -> Result<(), DatapathError> {
        let table = self.maps.flows.map().fd().as_fd();
        let mut keys = vec![[0; size_of::<FlowKeyValue>()]; READ_BATCH];
        let mut values = vec![[0; size_of::<FlowCell>()]; READ_BATCH];
        let mut place = Place::default();
        loop {
            let (read, more) = read_batch(table, &mut place, &mut keys, &mut values)
                .map_err(|error| fault("read the flows", &error))?;
            for (key, flow) in keys.iter().zip(&values).take(read) {
                each(FlowKeyValue::from_bytes(key), FlowCell::from_bytes(flow).data());
            }
            if !more {
                return Ok(());
            }
        }
    }
}

impl Datapath for EbpfDatapath {
    fn apply(&mut self, image: &PolicyImage, config: &DatapathConfig) -> Result<(), DatapathError> {
        let next = self.epoch.wrapping_add(1);
        let slot = next & 1;
        let target = SlotTables::build(image, config, slot, &self.capacity, self.max_flows)?;
        let place = usize::from(slot != 0);
        let writes = self.maps.write_slot(slot, &mut self.slots[place], &target)?;
        self.slots[place].locals = target.locals;
        let mut changed = Vec::new();
        for (ifindex, endpoint) in &mut self.endpoints {
            let view = self.slots[place].view(endpoint.spec.workload.as_ref());
            if endpoint.value.views[place] != view {
                endpoint.value.views[place] = view;
                changed.push((*ifindex, endpoint.value));
            }
        }
        for (ifindex, value) in &changed {
            self.write_endpoint(*ifindex, value)?;
        }
        self.write_epoch(next)?;
        tracing::debug!(
            revision = image.revision.0,
            epoch = next,
            writes,
            endpoints = changed.len(),
            "policy in force"
        );
        Ok(())
    }

    fn attach(&mut self, spec: &EndpointSpec) -> Result<(), DatapathError> {
        let no_interface = || DatapathError::NoInterface {
            ifindex: spec.ifindex,
            name: spec.name.clone(),
        };
        if interface_name(spec.ifindex).is_none() {
            return Err(no_interface());
        }
        let block = spec::encode(spec)?;
        let same = |endpoint: &Endpoint| endpoint.spec == *spec;
        let is_same = self.endpoints.get(&spec.ifindex).map(same);
        // Programs may have been taken off, and the index may be another interface's by now, with another workload's counters and flows.
        let is_guarded = self.is_guarded(spec.ifindex)?;
        if is_guarded && is_same == Some(true) {
            return Ok(());
        }
        if !is_guarded && is_same == Some(false) {
            self.detach(spec.ifindex)?;
        }
        let known = self.endpoints.get(&spec.ifindex);
        let has_programs = is_guarded && known.is_some();
        let again = known.is_some() || self.gone.remove(&spec.ifindex);
        let index = match known.map(|endpoint| endpoint.value.index) {
            Some(index) => index,
            None => self.free_index()?,
        };
        if !has_programs {
            self.write_share(index, 0, monotonic_ns()?)?;
        }
        let views = [0, 1].map(|slot: usize| self.slots[slot].view(spec.workload.as_ref()));
        let value = convert::endpoint_value(spec, views, index);
        self.write_own(spec.ifindex, &convert::own_addresses(spec).collect())?;
        self.maps
            .specs
            .insert(spec.ifindex, block, 0)
            .map_err(|error| fault("write an endpoint", &error))?;
        self.write_endpoint(spec.ifindex, &value)?;
        self.endpoints.insert(
            spec.ifindex,
            Endpoint {
                spec: spec.clone(),
                value,
            },
        );
        if again {
            self.write_epoch(self.epoch.wrapping_add(2))?; // flows are judged again, the slot stays
        }
        match self.hook.attach(&mut self.ebpf, &self.pins, spec.ifindex) {
            Ok(true) => Ok(()),
            Ok(false) => {
                self.endpoints.remove(&spec.ifindex);
                self.forget(spec.ifindex)?;
                Err(no_interface())
            }
            Err(error) => {
                // Known without programs it would pass for guarded when it is asked for again.
                if !has_programs {
                    self.endpoints.remove(&spec.ifindex);
                    if let Err(error) = self.forget(spec.ifindex) {
                        tracing::warn!(ifindex = spec.ifindex, %error, "what a failed attach left cannot be removed");
                    }
                }
                Err(error)
            }
        }
    }

    fn detach(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        self.endpoints.remove(&ifindex);
        self.forget(ifindex)
    }

    fn poll_events(&mut self, max: usize) -> Result<Vec<DatapathEvent>, DatapathError> {
        let first = max.min(self.found.len());
        let mut events: Vec<_> = self.found.drain(..first).collect();
        while events.len() < max {
            let Some(item) = self.maps.events.next() else {
                break;
            };
            let event = <&[u8; size_of::<EventValue>()]>::try_from(&*item)
                .ok()
                .map(EventValue::from_bytes);
            events.extend(event.as_ref().and_then(convert::event));
        }
        Ok(events)
    }

    fn sweep(&mut self, each: &mut dyn FnMut(FlowStats)) -> Result<(), DatapathError> {
        let now = monotonic_ns()?;
        let times = self.slots[usize::from(self.slot() != 0)].switches.idle_times();
        let mut over = Vec::new();
        let mut used: BTreeMap<u32, u64> = self.endpoints.keys().map(|ifindex| (*ifindex, 0)).collect();
        self.each_flow(|key, flow| {
            let idle = now.saturating_sub(flow.last_ns) > idle_ns(&times, IpProto(key.proto), &flow);
            let orphan = !self.endpoints.contains_key(&key.ifindex);
            let state = if idle || orphan {
                over.push(key);
                FlowState::Closed
            } else {
                if flow.opened() == Direction::Egress
                    && let Some(used) = used.get_mut(&key.ifindex)
                {
                    *used += 1;
                }
                convert::state_of(&flow)
            };
            each(convert::flow_stats(&key, &flow, state));
        })?;
        for key in over {
            absent_is_fine(self.maps.flows.remove(&key.to_bytes()), "remove a flow")?;
        }
        self.write_shares(&used, now)?;
        self.repair()
    }

    fn status(&mut self) -> Result<DatapathStatus, DatapathError> {
        let place = usize::from(self.slot() != 0);
        let active = &self.slots[place];
        let mut endpoints = BTreeMap::new();
        for (ifindex, endpoint) in &self.endpoints {
            let status = EndpointStatus {
                spec: endpoint.spec.clone(),
                mode: endpoint.value.views[place].mode(),
                guarded: self.hook.holds(&self.pins, *ifindex) == Hold::On,
                ingress: self.counters(endpoint.value.index, Direction::Ingress)?,
                egress: self.counters(endpoint.value.index, Direction::Egress)?,
            };
            endpoints.insert(*ifindex, status);
        }
        let lost = self
            .maps
            .lost
            .get(&LOST_EVENTS, 0)
            .map_err(|error| fault("read the lost events", &error))?;
        let bound = self.max_flows;
        let mut flows = 0usize;
        self.each_flow(|_, _| flows += 1)?;
        let capacity = &self.capacity;
        let room = |used: usize, capacity: usize| (used as u64, capacity as u64);
        Ok(DatapathStatus {
            hook: self.hook.name().into(),
            revision: (active.switches.valid != 0).then_some(Revision(active.switches.revision)),
            endpoints,
            lost_events: lost.iter().sum(),
            flows: flows as u64,
            tables: [
                ("addresses", room(active.addresses.len(), capacity.addresses)),
                ("pairs", room(active.pairs.len(), capacity.pairs)),
                ("ports", room(active.ports.len(), capacity.ports)),
                ("decisions", room(active.chains.len(), capacity.chains)),
                ("flows", room(flows, bound)),
                ("endpoints", room(self.endpoints.len(), MAX_ENDPOINTS)),
            ]
            .map(|(name, used)| (name.to_owned(), used))
            .into(),
        })
    }

    fn purge(&mut self) -> Result<(), DatapathError> {
        let guarded: Vec<u32> = self.endpoints.keys().copied().collect();
        for ifindex in guarded {
            self.detach(ifindex)?;
        }
        self.purged = true;
        self.pins.remove_all()
    }
}
