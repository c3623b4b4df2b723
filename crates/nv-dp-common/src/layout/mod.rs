//! Layouts of the kernel tables: an ABI between programs and userspace that outlives both, because tables are pinned.
//!
//! Every struct is `repr(C)` with explicit padding; sizes are asserted. Addresses and whatever a longest-prefix match
//! compares are big-endian byte arrays, other numbers native. A change here must raise [`ABI_VERSION`].

mod flow;
mod overheard;

use core::cell::Cell;

use nv_types::{AppMask, ChainEntry, Decision, IdleTimes, MAX_CHAIN, Mode, Reason, RuleId, Verdict};

pub use flow::{
    EVENT_FLOW, EVENT_PACKET, EventValue, FlowCell, FlowData, FlowKeyValue, SideCell, direction_of,
};
pub use overheard::{OVERHEARD_ROOM, OverheardValue};

/// Version of everything in this module; stored at [`STATE_ABI`] of the state table and checked at adoption.
pub const ABI_VERSION: u32 = 6;

/// Entry of the state table that holds [`ABI_VERSION`].
pub const STATE_ABI: u32 = 0;
/// Entry of the state table that holds the epoch. The lowest bit is the slot in force, so that a packet that reads
/// this one word knows both, whatever is written meanwhile.
pub const STATE_EPOCH: u32 = 1;
/// Entry of the state table that holds until when somebody reads DNS messages: seconds on the monotonic clock, which whoever reads puts
/// off again and again. Past that nothing is held.
pub const STATE_LISTENER: u32 = 2;
/// Entries of the state table.
pub const STATE_ENTRIES: u32 = 3;

/// Entries of the table of losses: events, and DNS messages that found no room.
pub const LOST_EVENTS: u32 = 0;
/// See [`LOST_EVENTS`].
pub const LOST_MESSAGES: u32 = 1;

/// Mark of a packet that answers a denied one; bits that the usual network plugins leave alone.
pub const ANSWER_MARK: u32 = 0x0000_106e;

/// Mark of a DNS answer that was held and is sent on: it has been judged and counted. Taken off, as the other one is, whatever leaves a
/// network namespace.
pub const RELEASE_MARK: u32 = 0x0000_106f;

/// An address as tables hold it: IPv4 as `::ffff:a.b.c.d`.
pub type Addr = [u8; 16];

/// Bit of a table or decision number that names the slot.
pub const SLOT_BIT: u32 = 1 << 31;

/// The bit that a slot's numbers carry.
#[inline(always)]
#[must_use]
pub const fn slot_bit(slot: u32) -> u32 {
    if slot == 0 { 0 } else { SLOT_BIT }
}

/// Application byte of a flow whose application is not known yet: nothing was recognized.
pub const APP_PENDING: u8 = 0xff;

/// Not known yet either, but HTTP/2: the first request will tell gRPC from other uses.
pub const APP_HTTP2: u8 = 0xfe;

/// Not known yet either, but the server has greeted with `220`, as SMTP and FTP do.
pub const APP_GREETED: u8 = 0xfd;

/// Whether an application byte says that the application is not known yet.
#[inline(always)]
#[must_use]
pub const fn is_pending(app: u8) -> bool {
    app >= APP_GREETED
}

const _: () = assert!(nv_types::Application::COUNT <= APP_GREETED as usize);

/// Payload packets of a side after which an unidentified application is unknown.
pub const PAYLOAD_BUDGET: u8 = 3;

/// What the address table matches: the slot, then the address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressData {
    /// 0 or 1; always part of the prefix.
    pub slot: u32,
    /// Address.
    pub addr: Addr,
}

impl AddressData {
    /// Bits of a prefix that the slot takes.
    pub const SLOT_BITS: u32 = 32;
    /// Prefix length of a lookup.
    pub const FULL: u32 = 160;
}

/// What an address is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressValue {
    /// Class of the peer.
    pub identity: u32,
    /// [`AddressValue::NODE`] or 0.
    pub flags: u32,
}

impl AddressValue {
    /// The address is the node's own: fail-safe ports are open towards it.
    pub const NODE: u32 = 1;
}

/// Local class, peer class or 0 for any, direction.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PairKey {
    /// The endpoint's class.
    pub local: u32,
    /// The other end's class, 0 for any.
    pub peer: u32,
    /// 0 or 1.
    pub slot: u8,
    /// [`nv_types::Direction`] as a number.
    pub direction: u8,
    /// Zero.
    pub pad: [u8; 2],
}

/// What the port table matches: table (with [`SLOT_BIT`]), protocol, port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortData {
    /// Port table; always part of the prefix.
    pub table: u32,
    /// Protocol for policy.
    pub proto: u8,
    /// Port, big-endian.
    pub port: [u8; 2],
    /// Zero, never part of the prefix.
    pub pad: u8,
}

impl PortData {
    /// Bits of a prefix that the table takes.
    pub const TABLE_BITS: u32 = 32;
    /// Prefix length of a lookup.
    pub const FULL: u32 = 56;
}

/// One link of a stored chain.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChainLink {
    /// [`AppMask`].
    pub apps: u64,
    /// [`RuleId`].
    pub rule: u32,
    /// [`Verdict`] as a number.
    pub verdict: u8,
    /// [`Reason`] as a number.
    pub reason: u8,
    /// Zero.
    pub pad: [u8; 2],
}

/// A stored chain.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChainValue {
    /// Links in use.
    pub len: u32,
    /// Zero.
    pub pad: u32,
    /// Links.
    pub links: [ChainLink; MAX_CHAIN],
}

impl ChainValue {
    /// The links as the shared walk takes them. Ends at the first one that is not readable, so that a broken chain
    /// ends in [`nv_types::ChainStep::Broken`] and never in a silent Allow.
    #[inline(always)]
    pub fn entries(&self) -> impl Iterator<Item = ChainEntry> + '_ {
        let len = self.len as usize;
        self.links.iter().enumerate().map_while(move |(i, link)| {
            if i >= len {
                return None;
            }
            let decision = Decision {
                verdict: Verdict::from_u8(link.verdict)?,
                reason: Reason::from_u8(link.reason)?,
                rule: RuleId(link.rule),
            };
            Some(ChainEntry {
                apps: AppMask(link.apps),
                decision,
            })
        })
    }
}

/// How much a slot knows of an endpoint.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalView {
    /// Class, when `state` is [`LocalView::POLICED`].
    pub identity: u32,
    /// [`LocalView::UNKNOWN`], [`LocalView::NO_POLICY`] or [`LocalView::POLICED`].
    pub state: u8,
    /// [`Mode`] as a number, when policed.
    pub mode: u8,
    /// Zero.
    pub pad: [u8; 2],
}

impl LocalView {
    /// The endpoint's workload is not known.
    pub const UNKNOWN: u8 = 0;
    /// The workload is known, but not in the image of this slot.
    pub const NO_POLICY: u8 = 1;
    /// The workload is in the image of this slot.
    pub const POLICED: u8 = 2;

    /// Mode in force, if policed.
    #[inline(always)]
    #[must_use]
    pub fn mode(&self) -> Option<Mode> {
        if self.state == Self::POLICED {
            Mode::from_u8(self.mode)
        } else {
            None
        }
    }
}

/// A guarded interface; the key is its index.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointValue {
    /// What each slot knows of it.
    pub views: [LocalView; 2],
    /// Place of its counters.
    pub index: u32,
    /// Ethernet address inside the workload.
    pub mac: [u8; 6],
    /// [`EndpointValue::CHECK_MAC`] and the others.
    pub flags: u8,
    /// Zero.
    pub pad: u8,
}

impl EndpointValue {
    /// `mac` is known and checked.
    pub const CHECK_MAC: u8 = 1;
    /// Its addresses are in the table of own addresses and checked.
    pub const CHECK_ADDRESSES: u8 = 2;
    /// Nothing passes but ARP and neighbour discovery.
    pub const QUARANTINED: u8 = 4;
}

/// An address that belongs to an endpoint.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnKey {
    /// Address.
    pub addr: Addr,
    /// Endpoint.
    pub ifindex: u32,
}

/// Port table (before the slot's bit) whose entries are the node's fail-safe ports; no image may use it.
pub const FAILSAFE_TABLE: u32 = SLOT_BIT - 1;

/// Switches of a slot that are not part of its tables.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switches {
    /// Store revision of the image, for adoption.
    pub revision: u64,
    /// Most flows that one endpoint's workload may have opened; 0 for no bound.
    pub share: u32,
    /// Idle times in seconds, in the order of [`IdleTimes`].
    pub idle: [u32; 8],
    /// [`Verdict`] for endpoints whose workload is not known.
    pub unknown: u8,
    /// 1 once an image has been put in this slot.
    pub valid: u8,
    /// 1 when denied packets are answered ([`nv_types::DenyResponse::Reset`]).
    pub answers: u8,
    /// 1 when groups speak of DNS names: see [`overheard`](crate::overheard).
    pub names: u8,
}

impl Switches {
    /// Idle times, those of the default before any have been given.
    #[must_use]
    pub fn idle_times(&self) -> IdleTimes {
        if self.valid == 0 {
            return IdleTimes::default();
        }
        let [
            tcp_open,
            tcp_active,
            tcp_half_closed,
            tcp_closed,
            udp,
            icmp,
            sctp,
            other,
        ] = self.idle;
        IdleTimes {
            tcp_open,
            tcp_active,
            tcp_half_closed,
            tcp_closed,
            udp,
            icmp,
            sctp,
            other,
        }
    }

    /// [`Switches::idle`] for these.
    #[must_use]
    pub const fn idle_words(times: &IdleTimes) -> [u32; 8] {
        [
            times.tcp_open,
            times.tcp_active,
            times.tcp_half_closed,
            times.tcp_closed,
            times.udp,
            times.icmp,
            times.sctp,
            times.other,
        ]
    }
}

/// How many flows an endpoint's workload has opened; its place is [`EndpointValue::index`].
///
/// The kernel adds what begins and takes away what ends before its packets' eyes; evictions and idle flows it does not see, so that
/// userspace counts anew at every sweep.
#[repr(C)]
#[derive(Clone, Debug, Default)]
pub struct ShareCell {
    /// Flows; as a signed number, since counting and ending may cross.
    pub used: Cell<u64>,
    /// When userspace last counted, nanoseconds on the monotonic clock.
    pub counted_ns: Cell<u64>,
}

/// A first fragment that was seen; later ones carry no ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FragmentKey {
    /// The workload's address.
    pub local: Addr,
    /// The other end's address.
    pub peer: Addr,
    /// Endpoint.
    pub ifindex: u32,
    /// Identification field (IPv4: 16 bits).
    pub id: u32,
    /// Protocol.
    pub proto: u8,
    /// Direction of the packet.
    pub direction: u8,
    /// Zero.
    pub pad: [u8; 2],
}

/// What a first fragment said.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentValue {
    /// When, nanoseconds on the monotonic clock.
    pub seen_ns: u64,
    /// The workload's port.
    pub local_port: u16,
    /// The other end's port.
    pub peer_port: u16,
    /// Bytes of the datagram that it carried: a later one that starts before overlaps it.
    pub end: u32,
}

/// Counters of an endpoint in one direction, one per CPU.
#[repr(C)]
#[derive(Debug, Default)]
pub struct CounterCell {
    /// Packets.
    pub packets: Cell<u64>,
    /// Bytes.
    pub bytes: Cell<u64>,
    /// Flows begun.
    pub flows: Cell<u64>,
    /// Packets by [`Verdict`].
    pub by_verdict: [Cell<u64>; 3],
    /// Packets dropped, reported or let pass outside of policy, by [`Reason`].
    pub by_reason: [Cell<u64>; Reason::COUNT],
    /// When this CPU last reported a packet without a flow here.
    pub reported_ns: Cell<u64>,
}

/// Words in a [`CounterCell`].
pub const COUNTER_WORDS: usize = 6 + Reason::COUNT + 1;

const _: () = {
    assert!(size_of::<AddressData>() == 20);
    assert!(size_of::<AddressValue>() == 8);
    assert!(size_of::<PairKey>() == 12);
    assert!(size_of::<PortData>() == 8);
    assert!(size_of::<ChainLink>() == 16);
    assert!(size_of::<ChainValue>() == 136);
    assert!(size_of::<EndpointValue>() == 28);
    assert!(size_of::<OwnKey>() == 20);
    assert!(size_of::<Switches>() == 48);
    assert!(size_of::<ShareCell>() == 16);
    assert!(size_of::<FlowKeyValue>() == 44);
    assert!(size_of::<FlowData>() == 64);
    // With the key (48) and the kernel's own part of an element (48) a multiple of a cache line, and the parts on lines of their own.
    assert!(size_of::<FlowCell>() == 160);
    assert!(core::mem::offset_of!(FlowCell, tx) == 32 && core::mem::offset_of!(FlowCell, rx) == 96);
    assert!(size_of::<FragmentKey>() == 44);
    assert!(size_of::<FragmentValue>() == 16);
    assert!(size_of::<CounterCell>() == COUNTER_WORDS * 8);
    assert!(size_of::<EventValue>() == 120);
    assert!(size_of::<OverheardValue>() == 24);
};
