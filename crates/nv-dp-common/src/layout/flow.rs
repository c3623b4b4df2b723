//! Flows and events.

use core::cell::Cell;

use nv_types::{Application, Decision, Direction, Reason, RuleId, Verdict};

use super::Addr;

/// A flow as one endpoint sees it: both directions of it have the same key.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowKeyValue {
    /// The workload's address.
    pub local: Addr,
    /// The other end's address.
    pub peer: Addr,
    /// Endpoint.
    pub ifindex: u32,
    /// The workload's port; ICMP queries: the identifier.
    pub local_port: u16,
    /// The other end's port; ICMP: 0.
    pub peer_port: u16,
    /// IP protocol number, ICMPv6 as such.
    pub proto: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// A flow's state, as plain data.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowData {
    /// Packets from the workload.
    pub tx_packets: u64,
    /// Bytes from the workload.
    pub tx_bytes: u64,
    /// Packets to the workload.
    pub rx_packets: u64,
    /// Bytes to the workload.
    pub rx_bytes: u64,
    /// First packet, nanoseconds on the monotonic clock.
    pub first_ns: u64,
    /// Last packet, nanoseconds on the monotonic clock.
    pub last_ns: u64,
    /// Epoch that judged it.
    pub epoch: u32,
    /// [`RuleId`] of the decision.
    pub rule: u32,
    /// TCP: the sequence number that the workload's next segment begins with.
    pub tx_next: u32,
    /// TCP: the sequence number that the next segment to the workload begins with.
    pub rx_next: u32,
    /// [`Verdict`] of the decision.
    pub verdict: u8,
    /// [`Reason`] of the decision.
    pub reason: u8,
    /// [`Direction`]: who opened it.
    pub direction: u8,
    /// Application index, or [`APP_PENDING`](super::APP_PENDING).
    pub app: u8,
    /// Unidentified payload packets from the workload.
    pub tx_payloads: u8,
    /// Unidentified payload packets to the workload.
    pub rx_payloads: u8,
    /// TCP flags seen from the workload.
    pub tx_flags: u8,
    /// TCP flags seen to the workload.
    pub rx_flags: u8,
    /// [`FlowData::HELD`], [`FlowData::OWN`], [`FlowData::ENDED`], [`FlowData::CLOSED`].
    pub flags: u8,
    /// Zero.
    pub pad: [u8; 7],
}

impl FlowData {
    /// Pending, and payload that is not identified may not pass meanwhile.
    pub const HELD: u8 = 1;
    /// The local address is the endpoint's own (or addresses are not checked).
    pub const OWN: u8 = 2;
    /// Has ended: FIN both ways, or RST.
    pub const ENDED: u8 = 4;
    /// TCP: the workload's FIN has been acknowledged (the lower bit), and the other end's.
    pub const CLOSED: u8 = 8 | 16;

    /// The bit of [`FlowData::CLOSED`] for one end.
    #[inline(always)]
    #[must_use]
    pub const fn closed_bit(of_workload: bool) -> u8 {
        if of_workload { 8 } else { 16 }
    }

    /// All zero.
    pub const ZERO: Self = Self {
        tx_packets: 0,
        tx_bytes: 0,
        rx_packets: 0,
        rx_bytes: 0,
        first_ns: 0,
        last_ns: 0,
        epoch: 0,
        rule: 0,
        tx_next: 0,
        rx_next: 0,
        verdict: 0,
        reason: 0,
        direction: 0,
        app: 0,
        tx_payloads: 0,
        rx_payloads: 0,
        tx_flags: 0,
        rx_flags: 0,
        flags: 0,
        pad: [0; 7],
    };

    /// The decision in force; unreadable numbers give `None`.
    #[inline(always)]
    #[must_use]
    pub fn decision(&self) -> Option<Decision> {
        Some(Decision {
            verdict: Verdict::from_u8(self.verdict)?,
            reason: Reason::from_u8(self.reason)?,
            rule: RuleId(self.rule),
        })
    }

    /// Who opened it.
    #[inline(always)]
    #[must_use]
    pub const fn opened(&self) -> Direction {
        direction_of(self.direction)
    }

    /// Application; `None` while not known.
    #[inline(always)]
    #[must_use]
    pub const fn application(&self) -> Option<Application> {
        Application::from_index(self.app)
    }
}

/// The direction with this number; every table writes 0 or 1.
#[inline(always)]
#[must_use]
pub const fn direction_of(value: u8) -> Direction {
    if value == 0 {
        Direction::Ingress
    } else {
        Direction::Egress
    }
}

/// A flow's state in place: the layout of [`FlowData`], shared by all CPUs. Counters are added to by
/// [`Tables::add`](crate::Tables::add); for the rest the last writer wins, and every writer writes what a packet of the flow may.
#[repr(C)]
#[derive(Debug, Default)]
pub struct FlowCell {
    /// See [`FlowData::tx_packets`].
    pub tx_packets: Cell<u64>,
    /// See [`FlowData::tx_bytes`].
    pub tx_bytes: Cell<u64>,
    /// See [`FlowData::rx_packets`].
    pub rx_packets: Cell<u64>,
    /// See [`FlowData::rx_bytes`].
    pub rx_bytes: Cell<u64>,
    /// See [`FlowData::first_ns`].
    pub first_ns: Cell<u64>,
    /// See [`FlowData::last_ns`].
    pub last_ns: Cell<u64>,
    /// See [`FlowData::epoch`].
    pub epoch: Cell<u32>,
    /// See [`FlowData::rule`].
    pub rule: Cell<u32>,
    /// See [`FlowData::tx_next`].
    pub tx_next: Cell<u32>,
    /// See [`FlowData::rx_next`].
    pub rx_next: Cell<u32>,
    /// See [`FlowData::verdict`].
    pub verdict: Cell<u8>,
    /// See [`FlowData::reason`].
    pub reason: Cell<u8>,
    /// See [`FlowData::direction`].
    pub direction: Cell<u8>,
    /// See [`FlowData::app`].
    pub app: Cell<u8>,
    /// See [`FlowData::tx_payloads`].
    pub tx_payloads: Cell<u8>,
    /// See [`FlowData::rx_payloads`].
    pub rx_payloads: Cell<u8>,
    /// See [`FlowData::tx_flags`].
    pub tx_flags: Cell<u8>,
    /// See [`FlowData::rx_flags`].
    pub rx_flags: Cell<u8>,
    /// See [`FlowData::flags`].
    pub flags: Cell<u8>,
    /// Zero.
    pub pad: [u8; 7],
}

impl FlowCell {
    /// The state as plain data.
    #[inline(always)]
    #[must_use]
    pub fn snapshot(&self) -> FlowData {
        FlowData {
            tx_packets: self.tx_packets.get(),
            tx_bytes: self.tx_bytes.get(),
            rx_packets: self.rx_packets.get(),
            rx_bytes: self.rx_bytes.get(),
            first_ns: self.first_ns.get(),
            last_ns: self.last_ns.get(),
            epoch: self.epoch.get(),
            rule: self.rule.get(),
            tx_next: self.tx_next.get(),
            rx_next: self.rx_next.get(),
            verdict: self.verdict.get(),
            reason: self.reason.get(),
            direction: self.direction.get(),
            app: self.app.get(),
            tx_payloads: self.tx_payloads.get(),
            rx_payloads: self.rx_payloads.get(),
            tx_flags: self.tx_flags.get(),
            rx_flags: self.rx_flags.get(),
            flags: self.flags.get(),
            pad: [0; 7],
        }
    }
}

#[cfg(feature = "user")]
impl From<&FlowData> for FlowCell {
    fn from(flow: &FlowData) -> Self {
        Self {
            tx_packets: Cell::new(flow.tx_packets),
            tx_bytes: Cell::new(flow.tx_bytes),
            rx_packets: Cell::new(flow.rx_packets),
            rx_bytes: Cell::new(flow.rx_bytes),
            first_ns: Cell::new(flow.first_ns),
            last_ns: Cell::new(flow.last_ns),
            epoch: Cell::new(flow.epoch),
            rule: Cell::new(flow.rule),
            tx_next: Cell::new(flow.tx_next),
            rx_next: Cell::new(flow.rx_next),
            verdict: Cell::new(flow.verdict),
            reason: Cell::new(flow.reason),
            direction: Cell::new(flow.direction),
            app: Cell::new(flow.app),
            tx_payloads: Cell::new(flow.tx_payloads),
            rx_payloads: Cell::new(flow.rx_payloads),
            tx_flags: Cell::new(flow.tx_flags),
            rx_flags: Cell::new(flow.rx_flags),
            flags: Cell::new(flow.flags),
            pad: flow.pad,
        }
    }
}

/// What an event is about.
pub const EVENT_FLOW: u8 = 1;
/// See [`EVENT_FLOW`].
pub const EVENT_PACKET: u8 = 2;

/// An event in the ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventValue {
    /// When, nanoseconds on the monotonic clock.
    pub at_ns: u64,
    /// State of the flow; of a packet without a flow only the decision is set.
    pub flow: FlowData,
    /// Which flow; of a packet without a flow only the endpoint is set.
    pub key: FlowKeyValue,
    /// [`EVENT_FLOW`] or [`EVENT_PACKET`].
    pub kind: u8,
    /// Flow: its state (0 new, 1 changed, 2 ended).
    pub state: u8,
    /// Direction of the packet.
    pub direction: u8,
    /// Zero.
    pub pad: u8,
}
