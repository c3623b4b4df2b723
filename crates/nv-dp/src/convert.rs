//! Between the layouts of the tables and the types of the trait.

use std::net::{IpAddr, Ipv6Addr};

use nv_dp_common::layout::{
    Addr, COUNTER_WORDS, EVENT_FLOW, EVENT_PACKET, EndpointValue, EventValue, FlowCell, FlowData,
    FlowKeyValue, LocalView, direction_of,
};
use nv_types::{Decision, FlowState, IpProto, Reason, Verdict, v4_mapped};

use crate::{DatapathEvent, DirectionCounters, EndpointSpec, FlowKey, FlowStats};

pub(crate) fn addr(addr: Addr) -> IpAddr {
    Ipv6Addr::from(addr).to_canonical()
}

pub(crate) fn flow_key(key: &FlowKeyValue, flow: &FlowData) -> FlowKey {
    FlowKey {
        ifindex: key.ifindex,
        direction: flow.opened(),
        proto: IpProto(key.proto),
        local: addr(key.local),
        local_port: key.local_port,
        peer: addr(key.peer),
        peer_port: key.peer_port,
    }
}

/// A number that a table cannot hold is shown as what the pipeline makes of it: malformed and denied.
pub(crate) fn decision(flow: &FlowData) -> Decision {
    flow.decision()
        .unwrap_or(Decision::implicit(Verdict::Deny, Reason::Malformed))
}

pub(crate) fn flow_stats(key: &FlowKeyValue, flow: &FlowData, state: FlowState) -> FlowStats {
    FlowStats {
        key: flow_key(key, flow),
        decision: decision(flow),
        application: flow.application(),
        state,
        tx_packets: flow.tx_packets,
        tx_bytes: flow.tx_bytes,
        rx_packets: flow.rx_packets,
        rx_bytes: flow.rx_bytes,
        first_ns: flow.first_ns,
        last_ns: flow.last_ns,
    }
}

/// The state that a sweep reports of a flow that stays.
pub(crate) const fn state_of(flow: &FlowData) -> FlowState {
    if flow.flags & FlowCell::ENDED != 0 {
        FlowState::Closed
    } else {
        FlowState::Active
    }
}

/// `None` for a kind that this build does not know.
pub(crate) fn event(event: &EventValue) -> Option<DatapathEvent> {
    match event.kind {
        EVENT_FLOW => {
            let state = match event.state {
                0 => FlowState::New,
                1 => FlowState::Active,
                _ => FlowState::Closed,
            };
            Some(DatapathEvent::Flow(flow_stats(&event.key, &event.flow, state)))
        }
        EVENT_PACKET => {
            let decision = decision(&event.flow);
            Some(DatapathEvent::Packet {
                ifindex: event.key.ifindex,
                direction: direction_of(event.direction),
                reason: decision.reason,
                verdict: decision.verdict,
                at_ns: event.at_ns,
            })
        }
        _ => None,
    }
}

/// Adds one CPU's words to the counters.
pub(crate) fn add_counters(sum: &mut DirectionCounters, words: &[u64; COUNTER_WORDS]) {
    sum.packets += words[0];
    sum.bytes += words[1];
    sum.flows += words[2];
    sum.allowed += words[3];
    sum.alerted += words[4];
    sum.denied += words[5];
    for (total, word) in sum.by_reason.iter_mut().zip(&words[6..]) {
        *total += word;
    }
}

/// What the tables hold of an endpoint.
pub(crate) fn endpoint_value(spec: &EndpointSpec, views: [LocalView; 2], index: u32) -> EndpointValue {
    let mac_flag = if spec.mac.is_some() {
        EndpointValue::CHECK_MAC
    } else {
        0
    };
    let address_flag = if spec.addresses.is_empty() {
        0
    } else {
        EndpointValue::CHECK_ADDRESSES
    };
    let quarantine_flag = if spec.quarantine {
        EndpointValue::QUARANTINED
    } else {
        0
    };
    EndpointValue {
        views,
        index,
        mac: spec.mac.map_or([0; 6], |mac| mac.0),
        flags: mac_flag | address_flag | quarantine_flag,
        pad: 0,
    }
}

/// An endpoint's addresses as the table of own addresses holds them.
pub(crate) fn own_addresses(spec: &EndpointSpec) -> impl Iterator<Item = Addr> + '_ {
    spec.addresses.iter().map(|addr| v4_mapped(*addr))
}
