//! The maps, and how the pipeline sees them. Names and sizes are the ABI; `nv-dp` may raise sizes at load.

use core::cell::Cell;

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns};
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::ring_buf::RingBufEntry;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use nv_dp_common::layout::{
    AddressData, AddressValue, COUNTER_WORDS, ChainValue, CounterCell, EVENT_FLOW, EVENT_PACKET,
    EndpointValue, EventValue, FlowCell, FlowKeyValue, FragmentKey, FragmentValue, LOST_EVENTS,
    LOST_MESSAGES, OVERHEARD_ROOM, OverheardValue, OwnKey, PairKey, PortData, STATE_ENTRIES, STATE_EPOCH,
    STATE_LISTENER, ShareCell, Switches,
};
use nv_dp_common::{RECALLED, RecallCell, Scratch, Tables};
use nv_types::Direction;

#[map]
static NV_STATE: Array<u32> = Array::pinned(STATE_ENTRIES, 0);
#[map]
static NV_SWITCHES: Array<Switches> = Array::pinned(2, 0);
#[map]
static NV_ENDPOINTS: HashMap<u32, EndpointValue> = HashMap::pinned(1024, BPF_F_NO_PREALLOC);
/// A [`ShareCell`] for each endpoint.
#[map]
static NV_SHARES: Array<[u64; 2]> = Array::pinned(1024, 0);
#[map]
static NV_OWN: HashMap<OwnKey, u32> = HashMap::pinned(16_384, BPF_F_NO_PREALLOC);
#[map]
static NV_COUNTERS: PerCpuArray<[u64; COUNTER_WORDS]> = PerCpuArray::pinned(2048, 0);
#[map]
static NV_ADDRESSES: LpmTrie<AddressData, AddressValue> = LpmTrie::pinned(262_144, BPF_F_NO_PREALLOC);
#[map]
static NV_PAIRS: HashMap<PairKey, u32> = HashMap::pinned(262_144, BPF_F_NO_PREALLOC);
#[map]
static NV_PORTS: LpmTrie<PortData, u32> = LpmTrie::pinned(524_288, BPF_F_NO_PREALLOC);
#[map]
static NV_CHAINS: HashMap<u32, ChainValue> = HashMap::pinned(131_072, BPF_F_NO_PREALLOC);
#[map]
static NV_FLOWS: LruHashMap<FlowKeyValue, FlowWords> = LruHashMap::pinned(65_536, 0);
#[map]
static NV_FRAGMENTS: LruHashMap<FragmentKey, FragmentValue> = LruHashMap::pinned(4096, 0);
#[map]
static NV_EVENTS: RingBuf = RingBuf::pinned(1 << 20, 0);
#[map]
static NV_LOST: PerCpuArray<u64> = PerCpuArray::pinned(2, 0);
/// DNS messages, each an [`OverheardValue`] and the frame.
#[map]
static NV_NAMES: RingBuf = RingBuf::pinned(1 << 19, 0);
/// Room to put one together.
#[map]
static NV_MESSAGE: PerCpuArray<[u64; (size_of::<OverheardValue>() + OVERHEARD_ROOM) / 8]> =
    PerCpuArray::with_max_entries(1, 0);
/// What userspace needs to adopt an endpoint; no program reads it.
#[map]
static NV_SPECS: HashMap<u32, [u8; 1024]> = HashMap::pinned(1024, BPF_F_NO_PREALLOC);

/// A [`FlowCell`], which is shared in a way that a static cannot promise.
type FlowWords = [u64; size_of::<FlowCell>() / 8];

/// Userspace takes events when it comes round: nobody sleeps on the ring, so nobody is woken.
const NO_WAKEUP: u64 = BPF_RB_NO_WAKEUP as u64;

/// What each CPU has decided, see [`RecallCell`].
#[map]
static NV_RECALL: PerCpuArray<[u64; size_of::<RecallCell>() / 8]> =
    PerCpuArray::with_max_entries(RECALLED, 0);

/// Working memory, one for each CPU: programs of this kind run with bottom halves off and are not nested.
#[map]
static NV_SCRATCH: PerCpuArray<[u64; size_of::<Memory>() / 8]> = PerCpuArray::with_max_entries(1, 0);

/// A CPU's working memory.
#[repr(C, align(8))]
pub(crate) struct Memory {
    scratch: Scratch,
    blind: u64,
    /// The tick that `now_ns` was read in.
    tick: u64,
    now_ns: u64,
    told: Told,
}

/// Starts and changes of flows that pass, told in a tick of the coarse clock.
#[repr(C)]
struct Told {
    tick_ns: u64,
    count: u64,
}

/// How many a CPU tells at once in a tick, some thousands a second: flows that come faster than anyone follows are told of when they are over, at half
/// the cost.
const TOLD_A_TICK: u64 = 32;

impl Memory {
    /// The coarse clock, which moves once a tick, and is read once a tick: the kernel puts the number of ticks into the program
    /// in place of a call.
    #[inline(always)]
    fn now_ns(&mut self) -> u64 {
        // SAFETY: a helper without arguments.
        let tick = unsafe { bpf_jiffies64() };
        if tick != self.tick {
            self.tick = tick;
            // SAFETY: a helper without arguments.
            self.now_ns = unsafe { bpf_ktime_get_coarse_ns() };
        }
        self.now_ns
    }
}

/// This CPU's working memory, the tables, and the time in nanoseconds on the monotonic clock.
#[inline(always)]
pub(crate) fn open() -> Option<(&'static mut Scratch, KernelTables, u64)> {
    let memory = NV_SCRATCH.get_ptr_mut(0)?.cast::<Memory>();
    // SAFETY: called once by a program; nothing else on this CPU uses it meanwhile. The pipeline writes before it
    // reads, so that it does not matter what is in it.
    unsafe {
        let now_ns = (*memory).now_ns();
        let blind = (&raw mut (*memory).blind).cast();
        let told = &raw mut (*memory).told;
        Some((&mut (*memory).scratch, KernelTables { blind, told }, now_ns))
    }
}

/// The kernel's tables.
pub(crate) struct KernelTables {
    /// A word that numbers are sent through, see [`Tables::opaque`].
    blind: *mut u32,
    told: *mut Told,
}

impl KernelTables {
    /// Room in the ring for an event; `None`, counted, when it is full. Events are written in place: one on the
    /// stack would take a quarter of it.
    #[inline(always)]
    fn room() -> Option<RingBufEntry<EventValue>> {
        let room = NV_EVENTS.reserve::<EventValue>(0);
        if room.is_none()
            && let Some(lost) = NV_LOST.get_ptr_mut(LOST_EVENTS)
        {
            // SAFETY: the pointer is this CPU's own element.
            unsafe { *lost += 1 };
        }
        room
    }
}

impl Tables for KernelTables {
    #[inline(always)]
    fn opaque(&self, number: u32) -> u32 {
        // SAFETY: the pointer is this CPU's own working memory.
        unsafe {
            self.blind.write_volatile(number);
            self.blind.read_volatile()
        }
    }

    #[inline(always)]
    fn epoch(&self) -> u32 {
        match NV_STATE.get_ptr(STATE_EPOCH) {
            // SAFETY: a map element lives as long as the program; a volatile read reads the word once.
            Some(epoch) => unsafe { epoch.read_volatile() },
            None => 0,
        }
    }

    #[inline(always)]
    fn listener(&self) -> u32 {
        match NV_STATE.get_ptr(STATE_LISTENER) {
            // SAFETY: as the epoch.
            Some(until) => unsafe { until.read_volatile() },
            None => 0,
        }
    }

    #[inline(always)]
    fn switches(&self, slot: u32) -> Option<&Switches> {
        NV_SWITCHES.get(slot)
    }

    #[inline(always)]
    fn endpoint(&self, ifindex: u32) -> Option<&EndpointValue> {
        // SAFETY: not preallocated, so that a removed element is not reused before this program ends.
        unsafe { NV_ENDPOINTS.get(&ifindex) }
    }

    #[inline(always)]
    fn counters(&self, index: u32, direction: Direction) -> Option<&CounterCell> {
        let counters = NV_COUNTERS.get_ptr_mut(index * 2 + direction as u32)?;
        // SAFETY: `CounterCell` is as many words (asserted); the element is this CPU's own.
        Some(unsafe { &*counters.cast::<CounterCell>() })
    }

    #[inline(always)]
    fn share(&self, index: u32) -> Option<&ShareCell> {
        let share = NV_SHARES.get_ptr(index)?;
        // SAFETY: a `ShareCell` is as many words (asserted), and all of it are cells that are added to atomically.
        Some(unsafe { &*share.cast::<ShareCell>() })
    }

    #[inline(always)]
    fn is_own(&self, key: &OwnKey) -> bool {
        NV_OWN.get_ptr(key).is_some()
    }

    #[inline(always)]
    fn address(&self, slot: u32, addr: &[u8; 16]) -> Option<AddressValue> {
        let key = Key::new(AddressData::FULL, AddressData { slot, addr: *addr });
        NV_ADDRESSES.get(&key).copied()
    }

    #[inline(always)]
    fn pair(&self, key: &PairKey) -> Option<u32> {
        // SAFETY: not preallocated, see `endpoint`.
        unsafe { NV_PAIRS.get(key) }.copied()
    }

    #[inline(always)]
    fn port(&self, table: u32, proto: u8, port: u16) -> Option<u32> {
        let data = PortData {
            table,
            proto,
            port: port.to_be_bytes(),
            pad: 0,
        };
        NV_PORTS.get(&Key::new(PortData::FULL, data)).copied()
    }

    #[inline(always)]
    fn chain(&self, decision: u32) -> Option<&ChainValue> {
        // SAFETY: not preallocated, see `endpoint`.
        unsafe { NV_CHAINS.get(&decision) }
    }

    #[inline(always)]
    fn recall(&self, place: u32) -> Option<&RecallCell> {
        let cell = NV_RECALL.get_ptr(place)?;
        // SAFETY: a `RecallCell` is as many words (asserted); the element is this CPU's own.
        Some(unsafe { &*cell.cast::<RecallCell>() })
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKeyValue) -> Option<&FlowCell> {
        let flow = NV_FLOWS.get_ptr(key)?;
        // SAFETY: the words are those of a `FlowCell`, and all that is shared in it is a cell or an atomic. An element that is evicted meanwhile may be reused for another flow: that flow's counters are then
        // off by one packet, its verdict is written anew by its own first packet.
        Some(unsafe { &*flow.cast::<FlowCell>() })
    }

    #[inline(always)]
    fn insert_flow(&self, key: &FlowKeyValue, flow: &FlowCell) -> bool {
        // SAFETY: a cell of as many words, without padding, that this CPU alone knows of.
        let words = unsafe { &*core::ptr::from_ref(flow).cast::<FlowWords>() };
        NV_FLOWS.insert(key, words, 0).is_ok()
    }

    #[inline(always)]
    fn remove_flow(&self, key: &FlowKeyValue) {
        // Gone already if another CPU, or userspace, was first.
        let _ = NV_FLOWS.remove(key);
    }

    #[inline(always)]
    fn add(&self, counter: &Cell<u64>, amount: u64) {
        // SAFETY: one atomic addition to a word that the reference proves to be valid.
        unsafe {
            core::arch::asm!(
                "lock *(u64 *)({counter} + 0) += {amount}",
                counter = in(reg) counter.as_ptr(),
                amount = in(reg) amount,
                options(nostack)
            );
        }
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue> {
        // SAFETY: copied at once; an element reused meanwhile gives the ports of another datagram, and the packet is
        // then judged by that flow.
        unsafe { NV_FRAGMENTS.get(key) }.copied()
    }

    #[inline(always)]
    fn insert_fragment(&self, key: &FragmentKey, value: &FragmentValue) {
        // A full table forgets the oldest; what is not remembered is judged as a fragment without a first one.
        let _ = NV_FRAGMENTS.insert(key, value, 0);
    }

    #[inline(always)]
    fn tells_now(&self, now_ns: u64) -> bool {
        // SAFETY: the pointer is this CPU's own working memory.
        let told = unsafe { &mut *self.told };
        if told.tick_ns != now_ns {
            told.tick_ns = now_ns;
            told.count = 0;
        }
        told.count += 1;
        told.count <= TOLD_A_TICK
    }

    #[inline(always)]
    fn flow_event(&self, state: u8, key: &FlowKeyValue, flow: &FlowCell, now_ns: u64) {
        let Some(mut room) = Self::room() else { return };
        let event = room.as_mut_ptr();
        // SAFETY: the room is as large as an event; every field is written before it is submitted.
        unsafe {
            (*event).at_ns = now_ns;
            (*event).flow = flow.data();
            (*event).key = *key;
            (*event).kind = EVENT_FLOW;
            (*event).state = state;
            (*event).direction = 0;
            (*event).pad = 0;
        }
        room.submit(NO_WAKEUP);
    }

    #[inline(always)]
    fn packet_event(&self, ifindex: u32, direction: Direction, verdict: u8, reason: u8, now_ns: u64) {
        let Some(mut room) = Self::room() else { return };
        let event = room.as_mut_ptr();
        // SAFETY: the room is as large as an event; what is not zero is written after all of it was.
        unsafe {
            event
                .cast::<[u64; size_of::<EventValue>() / 8]>()
                .write([0; size_of::<EventValue>() / 8]);
            (*event).at_ns = now_ns;
            (*event).key.ifindex = ifindex;
            (*event).flow.verdict = verdict;
            (*event).flow.reason = reason;
            (*event).kind = EVENT_PACKET;
            (*event).direction = direction as u8;
        }
        room.submit(NO_WAKEUP);
    }
}

/// Room for a message in this CPU's memory; the kernel's ring takes no more than it is told at once.
#[inline(always)]
pub(crate) fn message() -> Option<*mut u8> {
    Some(NV_MESSAGE.get_ptr_mut(0)?.cast())
}

/// Gives a message to whoever listens; `false`, counted, when there is no room.
///
/// # Safety
/// `message` is [`message`]'s, and `len` bytes of it are written.
#[inline(always)]
pub(crate) unsafe fn tell(message: *const u8, len: usize) -> bool {
    // SAFETY: the caller's word.
    let bytes = unsafe { core::slice::from_raw_parts(message, len) };
    if NV_NAMES.output::<[u8]>(bytes, 0).is_ok() {
        return true;
    }
    message_lost();
    false
}

/// Counts a message that could not be told.
#[inline(always)]
pub(crate) fn message_lost() {
    if let Some(lost) = NV_LOST.get_ptr_mut(LOST_MESSAGES) {
        // SAFETY: the pointer is this CPU's own element.
        unsafe { *lost += 1 };
    }
}
