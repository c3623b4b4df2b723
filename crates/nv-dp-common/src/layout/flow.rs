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

/// A flow's state as events carry it and userspace sees it.
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
    /// [`Verdict`] of the decision.
    pub verdict: u8,
    /// [`Reason`] of the decision.
    pub reason: u8,
    /// [`Direction`]: who opened it.
    pub direction: u8,
    /// Application index, or [`APP_PENDING`](super::APP_PENDING).
    pub app: u8,
    /// TCP flags seen from the workload.
    pub tx_flags: u8,
    /// TCP flags seen to the workload.
    pub rx_flags: u8,
    /// [`FlowCell::HELD`] and the others.
    pub flags: u8,
    /// Zero.
    pub pad: u8,
}

impl FlowData {
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
        verdict: 0,
        reason: 0,
        direction: 0,
        app: 0,
        tx_flags: 0,
        rx_flags: 0,
        flags: 0,
        pad: 0,
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

/// One direction of a flow in place.
#[repr(C)]
#[derive(Clone, Debug, Default)]
pub struct SideCell {
    /// Packets.
    pub packets: Cell<u64>,
    /// Bytes.
    pub bytes: Cell<u64>,
    /// Last packet, nanoseconds on the monotonic clock.
    pub last_ns: Cell<u64>,
    /// TCP: the sequence number that the next segment begins with.
    pub next: Cell<u32>,
    /// TCP flags seen.
    pub tcp_flags: Cell<u8>,
    /// Unidentified payload packets.
    pub payloads: Cell<u8>,
    /// Zero.
    pub pad: [u8; 2],
    /// Digest of the first payload, if that was not identified; else 0.
    pub digest: Cell<u32>,
    /// Zero: the other direction begins on a cache line of its own.
    pub apart: [u32; 7],
}

/// A flow's state in the table, shared by all CPUs. Counters are added to by [`Tables::add`](crate::Tables::add); for the rest
/// the last writer wins, and every writer writes what a packet of the flow may.
///
/// A packet of a flow that is settled reads the first part and writes its own direction, and each of these is on a cache line
/// of its own: data and its acknowledgements, which mostly pass on different CPUs, do not take lines from each other.
#[repr(C)]
#[derive(Clone, Debug, Default)]
pub struct FlowCell {
    /// First packet, nanoseconds on the monotonic clock.
    pub first_ns: Cell<u64>,
    /// Epoch that judged it.
    pub epoch: Cell<u32>,
    /// [`RuleId`] of the decision.
    pub rule: Cell<u32>,
    /// [`Verdict`] of the decision.
    pub verdict: Cell<u8>,
    /// [`Reason`] of the decision.
    pub reason: Cell<u8>,
    /// [`Direction`]: who opened it.
    pub direction: Cell<u8>,
    /// Application index, or [`APP_PENDING`](super::APP_PENDING).
    pub app: Cell<u8>,
    /// Place of its endpoint's counters.
    pub index: Cell<u16>,
    /// [`FlowCell::HELD`] and the others.
    pub flags: Cell<u8>,
    /// Flags of its endpoint: whether `mac` is checked.
    pub guards: Cell<u8>,
    /// Ethernet address of its endpoint.
    pub mac: Cell<[u8; 6]>,
    /// Zero.
    pub pad: [u8; 2],
    /// From the workload.
    pub tx: SideCell,
    /// To the workload.
    pub rx: SideCell,
}

impl FlowCell {
    /// Pending, and payload that is not identified may not pass meanwhile.
    pub const HELD: u8 = 1;
    /// The local address is the endpoint's own (or addresses are not checked).
    pub const OWN: u8 = 2;
    /// Has ended: FIN both ways, or RST.
    pub const ENDED: u8 = 4;
    /// TCP: the workload's FIN has been acknowledged (the lower bit), and the other end's.
    pub const CLOSED: u8 = 8 | 16;
    /// TCP: one end has sent FIN.
    pub const ENDING: u8 = 32;
    /// Some packet of it was let through, and its ends have not been told that this is over.
    pub const OPENED: u8 = 64;
    /// All that the packets of a flow say of its end.
    pub const LIFE: u8 = Self::ENDED | Self::CLOSED | Self::ENDING;

    /// The bit of [`FlowCell::CLOSED`] for one end.
    #[inline(always)]
    #[must_use]
    pub const fn closed_bit(of_workload: bool) -> u8 {
        if of_workload { 8 } else { 16 }
    }

    /// The direction from the workload, or the one to it.
    #[inline(always)]
    #[must_use]
    pub const fn side(&self, leaves: bool) -> &SideCell {
        if leaves { &self.tx } else { &self.rx }
    }

    /// The state as plain data.
    #[inline(always)]
    #[must_use]
    pub fn data(&self) -> FlowData {
        let (tx_last, rx_last) = (self.tx.last_ns.get(), self.rx.last_ns.get());
        FlowData {
            tx_packets: self.tx.packets.get(),
            tx_bytes: self.tx.bytes.get(),
            rx_packets: self.rx.packets.get(),
            rx_bytes: self.rx.bytes.get(),
            first_ns: self.first_ns.get(),
            last_ns: if tx_last > rx_last { tx_last } else { rx_last },
            epoch: self.epoch.get(),
            rule: self.rule.get(),
            verdict: self.verdict.get(),
            reason: self.reason.get(),
            direction: self.direction.get(),
            app: self.app.get(),
            tx_flags: self.tx.tcp_flags.get(),
            rx_flags: self.rx.tcp_flags.get(),
            flags: self.flags.get(),
            pad: 0,
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
