//! What the pipeline asks of its surroundings.

use core::cell::Cell;

use nv_types::Direction;

use crate::layout::{
    AddressValue, ChainValue, CounterCell, EndpointValue, FlowCell, FlowKeyValue, FragmentKey, FragmentValue,
    OwnKey, PairKey, ShareCell, Switches,
};
#[cfg(doc)]
use crate::recall::RECALLED;
use crate::recall::RecallCell;

/// The tables of a datapath: eBPF maps in the kernel, plain maps in the software datapath.
///
/// Lookups of policy take the slot that the packet found in force when it came.
pub trait Tables {
    /// The number itself. The kernel's tables send it through memory, so that neither compiler nor verifier knows where it
    /// came from: paths that led here are then one.
    #[inline(always)]
    #[must_use]
    fn opaque(&self, number: u32) -> u32 {
        number
    }

    /// Epoch in force; its lowest bit is the slot.
    fn epoch(&self) -> u32;
    /// Until when somebody reads DNS messages, see [`STATE_LISTENER`](crate::layout::STATE_LISTENER).
    fn listener(&self) -> u32;
    /// Switches of a slot.
    fn switches(&self, slot: u32) -> Option<&Switches>;
    /// A guarded interface.
    fn endpoint(&self, ifindex: u32) -> Option<&EndpointValue>;
    /// Counters of an endpoint by its [`EndpointValue::index`].
    fn counters(&self, index: u32, direction: Direction) -> Option<&CounterCell>;
    /// How many flows an endpoint's workload has opened, by its [`EndpointValue::index`].
    fn share(&self, index: u32) -> Option<&ShareCell>;
    /// Whether the address is the endpoint's own.
    fn is_own(&self, key: &OwnKey) -> bool;
    /// Longest prefix that holds the address.
    fn address(&self, slot: u32, addr: &[u8; 16]) -> Option<AddressValue>;
    /// Port table (with the slot's bit) of a pair.
    fn pair(&self, key: &PairKey) -> Option<u32>;
    /// Decision (with the slot's bit) of a port in a port table (with the slot's bit).
    fn port(&self, table: u32, proto: u8, port: u16) -> Option<u32>;
    /// A chain by its decision (with the slot's bit).
    fn chain(&self, decision: u32) -> Option<&ChainValue>;
    /// A place among [`RECALLED`] in this CPU's memory of decisions.
    fn recall(&self, place: u32) -> Option<&RecallCell>;
    /// A flow.
    fn flow(&self, key: &FlowKeyValue) -> Option<&FlowCell>;
    /// Puts a flow, in place of one with the same key; `false` when there is no room.
    fn insert_flow(&self, key: &FlowKeyValue, flow: &FlowCell) -> bool;
    /// Forgets a flow; no reference to it is used afterwards.
    fn remove_flow(&self, key: &FlowKeyValue);
    /// Adds to a counter of a flow, which other CPUs may be adding to.
    fn add(&self, counter: &Cell<u64>, amount: u64);
    /// What the first fragment said.
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue>;
    /// Remembers a first fragment; may forget others.
    fn insert_fragment(&self, key: &FragmentKey, value: &FragmentValue);
    /// Whether the start, or a change, of a flow that passes is told at once. If not, it is told of when it ends, or when the table is swept; what is
    /// alerted, denied or over is always told.
    #[inline(always)]
    #[must_use]
    fn tells_now(&self, now_ns: u64) -> bool {
        let _ = now_ns;
        true
    }
    /// A flow began (0), changed (1) or ended (2).
    fn flow_event(&self, state: u8, key: &FlowKeyValue, flow: &FlowCell, now_ns: u64);
    /// A packet that belongs to no flow is reported; verdict and reason as numbers.
    fn packet_event(&self, ifindex: u32, direction: Direction, verdict: u8, reason: u8, now_ns: u64);
}
