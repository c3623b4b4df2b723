//! The pipeline over plain maps: simulation, tests, and examples without a kernel.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use nv_dp_common::layout::{
    AddressValue, ChainValue, CounterCell, EVENT_FLOW, EVENT_PACKET, EndpointValue, EventValue, FlowCell,
    FlowData, FlowKeyValue, FragmentKey, FragmentValue, OwnKey, PairKey, ShareCell, Switches,
};
use nv_dp_common::{
    Overheard, Passage, RECALLED, RecallCell, Scratch, SlicePacket, Tables, Told, overheard, run,
    timeout::idle_ns, told, write_answer,
};
use nv_types::{Direction, FlowState, IpProto, PolicyImage, Revision, Verdict};

use crate::slot::{Capacity, SlotTables};
use crate::{
    Datapath, DatapathConfig, DatapathError, DatapathEvent, DatapathStatus, DirectionCounters, EndpointSpec,
    EndpointStatus, FlowStats, convert,
};

/// Sizes of a software datapath.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoftwareConfig {
    /// Policy tables.
    pub capacity: Capacity,
    /// Flows; a new one finds no room when as many are alive.
    pub flows: usize,
    /// Fragmented datagrams whose first fragment is remembered; the oldest is forgotten.
    pub fragments: usize,
    /// Events that wait to be taken; further ones are lost and counted.
    pub events: usize,
}

impl Default for SoftwareConfig {
    fn default() -> Self {
        Self {
            capacity: Capacity::default(),
            flows: 65_536,
            fragments: 4096,
            events: 8192,
        }
    }
}

struct Endpoint {
    spec: EndpointSpec,
    value: EndpointValue,
    counters: [CounterCell; 2],
    share: ShareCell,
}

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether it passes.
    pub verdict: Verdict,
    /// Frames sent in answer to a denied one, and the way that they go at its endpoint.
    pub answers: Vec<(Direction, Vec<u8>)>,
    /// Whether whoever reads DNS messages sees it ([`SoftwareDatapath::listen`]), and has to send it on.
    pub overheard: Overheard,
}

/// Everything that a packet reads, and what it leaves behind.
#[derive(Default)]
struct Memory {
    config: SoftwareConfig,
    listener: u32,
    epoch: u32,
    slots: [SlotTables; 2],
    endpoints: BTreeMap<u32, Endpoint>,
    by_index: BTreeMap<u32, u32>,
    own: BTreeSet<OwnKey>,
    recalled: Box<[RecallCell]>,
    flows: BTreeMap<FlowKeyValue, FlowCell>,
    begun: RefCell<Option<(FlowKeyValue, FlowCell)>>,
    ended: RefCell<Option<FlowKeyValue>>,
    fragments: RefCell<BTreeMap<FragmentKey, FragmentValue>>,
    fragment_order: RefCell<VecDeque<FragmentKey>>,
    events: RefCell<VecDeque<EventValue>>,
    lost: Cell<u64>,
}

impl Memory {
    fn emit(&self, event: EventValue) {
        let mut events = self.events.borrow_mut();
        if events.len() < self.config.events {
            events.push_back(event);
        } else {
            self.lost.set(self.lost.get() + 1);
        }
    }

    fn slot(&self, slot: u32) -> &SlotTables {
        if slot == 0 { &self.slots[0] } else { &self.slots[1] }
    }
}

const fn slot_of(number: u32) -> u32 {
    number >> 31
}

impl Tables for Memory {
    fn epoch(&self) -> u32 {
        self.epoch
    }

    fn listener(&self) -> u32 {
        self.listener
    }

    fn switches(&self, slot: u32) -> Option<&Switches> {
        Some(&self.slot(slot).switches)
    }

    fn endpoint(&self, ifindex: u32) -> Option<&EndpointValue> {
        self.endpoints.get(&ifindex).map(|endpoint| &endpoint.value)
    }

    fn counters(&self, index: u32, direction: Direction) -> Option<&CounterCell> {
        let endpoint = self.endpoints.get(self.by_index.get(&index)?)?;
        endpoint.counters.get(direction as usize)
    }

    fn share(&self, index: u32) -> Option<&ShareCell> {
        let endpoint = self.endpoints.get(self.by_index.get(&index)?)?;
        Some(&endpoint.share)
    }

    fn is_own(&self, key: &OwnKey) -> bool {
        self.own.contains(key)
    }

    fn address(&self, slot: u32, addr: &[u8; 16]) -> Option<AddressValue> {
        self.slot(slot).address(addr)
    }

    fn pair(&self, key: &PairKey) -> Option<u32> {
        self.slot(u32::from(key.slot)).pairs.get(key).copied()
    }

    fn port(&self, table: u32, proto: u8, port: u16) -> Option<u32> {
        self.slot(slot_of(table)).port(table, proto, port)
    }

    fn chain(&self, decision: u32) -> Option<&ChainValue> {
        self.slot(slot_of(decision)).chains.get(&decision)
    }

    fn recall(&self, place: u32) -> Option<&RecallCell> {
        self.recalled.get(place as usize)
    }

    fn flow(&self, key: &FlowKeyValue) -> Option<&FlowCell> {
        self.flows.get(key)
    }

    fn insert_flow(&self, key: &FlowKeyValue, flow: &FlowCell) -> bool {
        if self.flows.len() >= self.config.flows && !self.flows.contains_key(key) {
            return false;
        }
        // The pipeline holds references into the table; the flow is put there when the packet is done.
        *self.begun.borrow_mut() = Some((*key, flow.clone()));
        true
    }

    fn remove_flow(&self, key: &FlowKeyValue) {
        *self.ended.borrow_mut() = Some(*key);
    }

    fn add(&self, counter: &Cell<u64>, amount: u64) {
        counter.set(counter.get().wrapping_add(amount));
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue> {
        self.fragments.borrow().get(key).copied()
    }

    fn insert_fragment(&self, key: &FragmentKey, value: &FragmentValue) {
        let mut fragments = self.fragments.borrow_mut();
        if fragments.insert(*key, *value).is_none() {
            let mut order = self.fragment_order.borrow_mut();
            order.push_back(*key);
            if order.len() > self.config.fragments
                && let Some(oldest) = order.pop_front()
            {
                fragments.remove(&oldest);
            }
        }
    }

    fn flow_event(&self, state: u8, key: &FlowKeyValue, flow: &FlowCell, now_ns: u64) {
        self.emit(EventValue {
            at_ns: now_ns,
            flow: flow.data(),
            key: *key,
            kind: EVENT_FLOW,
            state,
            direction: 0,
            pad: 0,
        });
    }

    fn packet_event(&self, ifindex: u32, direction: Direction, verdict: u8, reason: u8, now_ns: u64) {
        let flow = FlowData {
            verdict,
            reason,
            ..FlowData::ZERO
        };
        let key = FlowKeyValue {
            local: [0; 16],
            peer: [0; 16],
            ifindex,
            local_port: 0,
            peer_port: 0,
            proto: 0,
            pad: [0; 3],
        };
        self.emit(EventValue {
            at_ns: now_ns,
            flow,
            key,
            kind: EVENT_PACKET,
            state: 0,
            direction: direction as u8,
            pad: 0,
        });
    }
}

/// A datapath in memory: frames are given to [`SoftwareDatapath::process`], which runs the kernel's lines on them.
pub struct SoftwareDatapath {
    memory: Memory,
    scratch: Scratch,
    now_ns: u64,
    next_index: u32,
}

impl std::fmt::Debug for SoftwareDatapath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SoftwareDatapath")
            .field("epoch", &self.memory.epoch)
            .field("endpoints", &self.memory.endpoints.len())
            .field("flows", &self.memory.flows.len())
            .finish_non_exhaustive()
    }
}

impl Default for SoftwareDatapath {
    fn default() -> Self {
        Self::new(SoftwareConfig::default())
    }
}

impl SoftwareDatapath {
    /// An empty datapath: no policy, no endpoints.
    #[must_use]
    pub fn new(config: SoftwareConfig) -> Self {
        let memory = Memory {
            config,
            recalled: (0..RECALLED).map(|_| RecallCell::default()).collect(),
            ..Memory::default()
        };
        Self {
            memory,
            scratch: Scratch::new(),
            now_ns: 0,
            next_index: 0,
        }
    }

    /// Judges a frame that passes an endpoint. `direction` is seen from the workload; `now_ns` is nanoseconds on a
    /// clock that never goes back, and also the time that the next [`Datapath::sweep`] goes by. A frame of an interface that
    /// is not attached passes.
    pub fn process(&mut self, ifindex: u32, direction: Direction, frame: &[u8], now_ns: u64) -> Verdict {
        self.exchange(ifindex, direction, frame, now_ns).verdict
    }

    /// As [`SoftwareDatapath::process`], with what the ends of a denied flow are told ([`DatapathConfig::deny_response`]).
    pub fn exchange(&mut self, ifindex: u32, direction: Direction, frame: &[u8], now_ns: u64) -> Outcome {
        self.now_ns = self.now_ns.max(now_ns);
        let passage = Passage {
            ifindex,
            direction,
            now_ns,
        };
        let verdict = run(&SlicePacket(frame), &self.memory, &mut self.scratch, passage);
        if let Some(key) = self.memory.ended.take() {
            self.memory.flows.remove(&key);
        }
        if let Some((key, flow)) = self.memory.begun.take() {
            self.memory.flows.insert(key, flow);
        }
        let mut answers = Vec::new();
        let overheard = if verdict == Verdict::Deny {
            Overheard::Nothing
        } else {
            overheard(&self.memory, &self.scratch, passage)
        };
        if verdict == Verdict::Deny {
            let told = told(&self.memory, &mut self.scratch, passage);
            let back = match direction {
                Direction::Egress => Direction::Ingress,
                Direction::Ingress => Direction::Egress,
            };
            if told == Told::Both {
                answers.extend(
                    self.answer(direction, frame, false)
                        .map(|frame| (direction, frame)),
                );
            }
            if told != Told::Nobody {
                answers.extend(self.answer(direction, frame, true).map(|frame| (back, frame)));
            }
        }
        Outcome {
            verdict,
            answers,
            overheard,
        }
    }

    fn answer(&mut self, direction: Direction, frame: &[u8], to_sender: bool) -> Option<Vec<u8>> {
        let len = write_answer(&SlicePacket(frame), direction, &mut self.scratch, to_sender);
        let len = usize::try_from(len).ok().filter(|len| *len > 0)?;
        self.scratch.answer().get(..len).map(<[u8]>::to_vec)
    }

    /// Somebody reads DNS messages until this second of the clock that frames come with.
    pub fn listen(&mut self, until: u32) {
        self.memory.listener = until;
    }

    /// Lets time pass without a packet.
    pub fn advance(&mut self, now_ns: u64) {
        self.now_ns = self.now_ns.max(now_ns);
    }

    fn refresh(&mut self) {
        for endpoint in self.memory.endpoints.values_mut() {
            let workload = endpoint.spec.workload.as_ref();
            endpoint.value.views = [0, 1].map(|slot: usize| self.memory.slots[slot].view(workload));
        }
    }
}

impl Datapath for SoftwareDatapath {
    fn apply(&mut self, image: &PolicyImage, config: &DatapathConfig) -> Result<(), DatapathError> {
        let next = self.memory.epoch.wrapping_add(1);
        let slot = next & 1;
        let own = self.memory.config;
        let tables = SlotTables::build(image, config, slot, &own.capacity, own.flows)?;
        self.memory.slots[usize::from(slot != 0)] = tables;
        self.refresh();
        self.memory.epoch = next;
        Ok(())
    }

    fn attach(&mut self, spec: &EndpointSpec) -> Result<(), DatapathError> {
        let views = [0, 1].map(|slot: usize| self.memory.slots[slot].view(spec.workload.as_ref()));
        let memory = &mut self.memory;
        memory.own.retain(|key| key.ifindex != spec.ifindex);
        for addr in convert::own_addresses(spec) {
            memory.own.insert(OwnKey {
                addr,
                ifindex: spec.ifindex,
            });
        }
        if let Some(endpoint) = memory.endpoints.get_mut(&spec.ifindex) {
            if endpoint.spec != *spec {
                endpoint.value = convert::endpoint_value(spec, views, endpoint.value.index);
                endpoint.spec = spec.clone();
                memory.epoch = memory.epoch.wrapping_add(2); // flows are judged again, the slot stays
            }
            return Ok(());
        }
        let index = self.next_index;
        self.next_index += 1;
        memory.by_index.insert(index, spec.ifindex);
        memory.endpoints.insert(
            spec.ifindex,
            Endpoint {
                spec: spec.clone(),
                value: convert::endpoint_value(spec, views, index),
                counters: [CounterCell::default(), CounterCell::default()],
                share: ShareCell::default(),
            },
        );
        Ok(())
    }

    fn detach(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        if let Some(endpoint) = self.memory.endpoints.remove(&ifindex) {
            self.memory.by_index.remove(&endpoint.value.index);
        }
        self.memory.own.retain(|key| key.ifindex != ifindex);
        self.memory.flows.retain(|key, _| key.ifindex != ifindex);
        // Another interface may have its number next.
        self.memory.recalled.fill(RecallCell::default());
        Ok(())
    }

    fn poll_events(&mut self, max: usize) -> Result<Vec<DatapathEvent>, DatapathError> {
        let events = self.memory.events.get_mut();
        let count = max.min(events.len());
        Ok(events
            .drain(..count)
            .filter_map(|event| convert::event(&event))
            .collect())
    }

    fn sweep(&mut self, each: &mut dyn FnMut(FlowStats)) -> Result<(), DatapathError> {
        let now = self.now_ns;
        let memory = &mut self.memory;
        let times = memory.slots[usize::from(memory.epoch & 1 != 0)]
            .switches
            .idle_times();
        for endpoint in memory.endpoints.values() {
            endpoint.share.used.set(0);
            endpoint.share.counted_ns.set(now);
        }
        let endpoints = &memory.endpoints;
        memory.flows.retain(|key, cell| {
            let flow = cell.data();
            let idle = now.saturating_sub(flow.last_ns) > idle_ns(&times, IpProto(key.proto), &flow);
            if !idle
                && flow.opened() == Direction::Egress
                && let Some(endpoint) = endpoints.get(&key.ifindex)
            {
                endpoint.share.used.set(endpoint.share.used.get() + 1);
            }
            let state = if idle {
                FlowState::Closed
            } else {
                convert::state_of(&flow)
            };
            each(convert::flow_stats(key, &flow, state));
            !idle
        });
        Ok(())
    }

    fn status(&mut self) -> Result<DatapathStatus, DatapathError> {
        let memory = &self.memory;
        let active = memory.slot(memory.epoch & 1);
        let capacity = memory.config.capacity;
        let endpoints = memory.endpoints.iter().map(|(ifindex, endpoint)| {
            let [ingress, egress] = endpoint.counters.each_ref().map(counters_of);
            let status = EndpointStatus {
                spec: endpoint.spec.clone(),
                mode: active.view(endpoint.spec.workload.as_ref()).mode(),
                guarded: true,
                ingress,
                egress,
            };
            (*ifindex, status)
        });
        let room = |used: usize, capacity: usize| (used as u64, capacity as u64);
        Ok(DatapathStatus {
            hook: "software".into(),
            revision: (active.switches.valid != 0).then_some(Revision(active.switches.revision)),
            endpoints: endpoints.collect(),
            lost_events: memory.lost.get(),
            flows: memory.flows.len() as u64,
            tables: [
                ("addresses", room(active.addresses.len(), capacity.addresses)),
                ("pairs", room(active.pairs.len(), capacity.pairs)),
                ("ports", room(active.ports.len(), capacity.ports)),
                ("decisions", room(active.chains.len(), capacity.chains)),
                ("flows", room(memory.flows.len(), memory.config.flows)),
            ]
            .map(|(name, used)| (name.to_owned(), used))
            .into(),
        })
    }

    fn purge(&mut self) -> Result<(), DatapathError> {
        let config = self.memory.config;
        *self = Self::new(config);
        Ok(())
    }
}

fn counters_of(cell: &CounterCell) -> DirectionCounters {
    let mut words = [0; nv_dp_common::layout::COUNTER_WORDS];
    words[0] = cell.packets.get();
    words[1] = cell.bytes.get();
    words[2] = cell.flows.get();
    for (word, count) in words[3..]
        .iter_mut()
        .zip(cell.by_verdict.iter().chain(&cell.by_reason))
    {
        *word = count.get();
    }
    let mut sum = DirectionCounters::default();
    convert::add_counters(&mut sum, &words);
    sum
}
