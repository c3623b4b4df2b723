//! The trait that the agent drives a datapath by.

use std::collections::BTreeMap;
use std::net::IpAddr;

use nv_types::{
    Application, Decision, DenyResponse, Direction, FlowState, IdleTimes, IpProto, MacAddr, Mode,
    PolicyImage, PortSpec, Reason, Revision, Verdict, WorkloadId,
};

/// An interface to guard.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "remote", derive(serde::Serialize, serde::Deserialize))]
pub struct EndpointSpec {
    /// Index of the host end of the veth.
    pub ifindex: u32,
    /// Its name, for messages.
    pub name: String,
    /// The workload, `None` while it is not known: the endpoint then follows [`DatapathConfig::unknown`].
    pub workload: Option<WorkloadId>,
    /// Ethernet address inside the workload, for the anti-spoofing guard.
    pub mac: Option<MacAddr>,
    /// Addresses inside the workload, for the anti-spoofing guard. Empty: source addresses are not checked.
    pub addresses: Vec<IpAddr>,
    /// Nothing passes but ARP and neighbour discovery, whatever the policy and the mode. Pinned with the endpoint: it outlives a restart.
    pub quarantine: bool,
}

/// Switches that are not part of a compiled image. All of them flip together with the image's epoch or at once.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "remote", derive(serde::Serialize, serde::Deserialize))]
pub struct DatapathConfig {
    /// Verdict for endpoints whose workload is not known.
    pub unknown: Verdict,
    /// Server ports that always pass when the peer is one of `failsafe_addresses`.
    #[cfg_attr(feature = "remote", serde(with = "crate::remote::ports"))]
    pub failsafe_ports: Vec<PortSpec>,
    /// The node's own addresses.
    pub failsafe_addresses: Vec<IpAddr>,
    /// What the ends of a denied flow see.
    pub deny_response: DenyResponse,
    /// How long flows may be idle; 0 counts as a second.
    pub idle: IdleTimes,
    /// Most flows that one endpoint's workload may have opened, in percent of the connection table; 0 for no bound. Beyond it new ones follow
    /// the endpoint's mode ([`Reason::TableFull`]). What others open towards it does not count: it must not keep its other clients out. It holds as long as [`Datapath::sweep`] is called at least once a minute: with nobody to count, the table keeps
    /// the flows that were used last, whoever's they are.
    pub flow_share: u8,
    /// Groups speak of DNS names: what workloads ask resolvers is shown to whoever listens, and answers wait for it ([`NameTap`](crate::NameTap)).
    pub names: bool,
}

impl Default for DatapathConfig {
    /// Unknown interfaces pass, nothing is fail-safe, denied packets are dropped in silence, one endpoint may have a quarter of the table.
    fn default() -> Self {
        Self {
            unknown: Verdict::Allow,
            failsafe_ports: Vec::new(),
            failsafe_addresses: Vec::new(),
            deny_response: DenyResponse::Drop,
            idle: IdleTimes::default(),
            flow_share: 25,
            names: false,
        }
    }
}

/// Both orientations of a flow as one endpoint sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "remote", derive(serde::Serialize, serde::Deserialize))]
pub struct FlowKey {
    /// Endpoint.
    pub ifindex: u32,
    /// Egress: the endpoint's workload is the client.
    pub direction: Direction,
    /// Protocol.
    pub proto: IpProto,
    /// The workload's address.
    pub local: IpAddr,
    /// The workload's port (ICMP: identifier).
    pub local_port: u16,
    /// The other end's address.
    pub peer: IpAddr,
    /// The other end's port.
    pub peer_port: u16,
}

/// What the datapath knows of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "remote", derive(serde::Serialize, serde::Deserialize))]
pub struct FlowStats {
    /// Which flow.
    pub key: FlowKey,
    /// Verdict in force.
    pub decision: Decision,
    /// Application; `None` while it is not known.
    pub application: Option<Application>,
    /// Life.
    pub state: FlowState,
    /// Packets sent by the workload.
    pub tx_packets: u64,
    /// Bytes sent by the workload.
    pub tx_bytes: u64,
    /// Packets sent to the workload.
    pub rx_packets: u64,
    /// Bytes sent to the workload.
    pub rx_bytes: u64,
    /// First packet, nanoseconds on the monotonic clock.
    pub first_ns: u64,
    /// Last packet, nanoseconds on the monotonic clock.
    pub last_ns: u64,
}

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "remote", derive(serde::Serialize, serde::Deserialize))]
pub enum DatapathEvent {
    /// A flow began, changed its verdict or application, or ended.
    Flow(FlowStats),
    /// A packet that belongs to no flow was reported: spoofed, malformed, table full.
    Packet {
        /// Endpoint.
        ifindex: u32,
        /// Towards or from the workload.
        direction: Direction,
        /// Why.
        reason: Reason,
        /// What happened to it.
        verdict: Verdict,
        /// When, nanoseconds on the monotonic clock.
        at_ns: u64,
    },
    /// Somebody took the programs off an interface that is under guard: found by [`Datapath::sweep`].
    Tampered {
        /// Endpoint.
        ifindex: u32,
        /// They are back. If not, nothing is judged there, and every sweep tries again.
        restored: bool,
        /// When it was seen, nanoseconds on the monotonic clock.
        at_ns: u64,
    },
}

/// Counters of an endpoint in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "remote", derive(serde::Serialize, serde::Deserialize))]
pub struct DirectionCounters {
    /// Packets seen.
    pub packets: u64,
    /// Bytes seen.
    pub bytes: u64,
    /// Flows begun.
    pub flows: u64,
    /// Packets let pass without report.
    pub allowed: u64,
    /// Packets let pass with a report.
    pub alerted: u64,
    /// Packets dropped.
    pub denied: u64,
    /// Of these, by reason of drop or report: index is `Reason as usize`.
    pub by_reason: [u64; Reason::COUNT],
}

/// State of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "remote", derive(serde::Serialize, serde::Deserialize))]
pub struct EndpointStatus {
    /// As it was attached.
    pub spec: EndpointSpec,
    /// Mode in force, `None` when the image in force does not know the workload.
    pub mode: Option<Mode>,
    /// The programs are on the interface. Filters of the clsact hook are taken for there.
    pub guarded: bool,
    /// Towards the workload.
    pub ingress: DirectionCounters,
    /// From the workload.
    pub egress: DirectionCounters,
}

/// State of a datapath.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "remote", derive(serde::Serialize, serde::Deserialize))]
pub struct DatapathStatus {
    /// `tcx`, `clsact` or `software`.
    pub hook: String,
    /// Revision of the image in force.
    pub revision: Option<Revision>,
    /// By interface index.
    pub endpoints: BTreeMap<u32, EndpointStatus>,
    /// Events that found the ring full.
    pub lost_events: u64,
    /// Flows in the connection table.
    pub flows: u64,
    /// Entries and capacity of each table, by name.
    pub tables: BTreeMap<String, (u64, u64)>,
}

/// Enforces compiled images on endpoints. Calls are system calls of microseconds: the trait is synchronous.
///
/// Order of calls that leaves no unprotected moment: `apply` the image that knows the workload, then `attach`.
pub trait Datapath: Send {
    /// Puts an image and switches in force. Every packet sees either the old policy or the new one.
    ///
    /// # Errors
    /// [`DatapathError::TooLarge`] when it does not fit: refused whole, the old one stays in force.
    fn apply(&mut self, image: &PolicyImage, config: &DatapathConfig) -> Result<(), DatapathError>;

    /// Guards an interface, or changes what is known of one that is guarded already.
    ///
    /// # Errors
    /// [`DatapathError::NoInterface`] when it is gone.
    fn attach(&mut self, endpoint: &EndpointSpec) -> Result<(), DatapathError>;

    /// Stops guarding an interface; one that is gone is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn detach(&mut self, ifindex: u32) -> Result<(), DatapathError>;

    /// Takes at most `max` waiting events. Never blocks.
    ///
    /// # Errors
    /// When the ring cannot be read.
    fn poll_events(&mut self, max: usize) -> Result<Vec<DatapathEvent>, DatapathError>;

    /// Walks the connection table: gives every flow to `each` and removes those that have been idle for too long
    /// (they are given with [`FlowState::Closed`]). Puts programs and pins back that somebody else has taken away
    /// ([`DatapathEvent::Tampered`]).
    ///
    /// # Errors
    /// When the table cannot be read.
    fn sweep(&mut self, each: &mut dyn FnMut(FlowStats)) -> Result<(), DatapathError>;

    /// Endpoints, counters, tables.
    ///
    /// # Errors
    /// When the tables cannot be read.
    fn status(&mut self) -> Result<DatapathStatus, DatapathError>;

    /// Removes everything: programs, links, tables, pins. Only an explicit purge does this, never a stop.
    ///
    /// # Errors
    /// Names what could not be removed.
    fn purge(&mut self) -> Result<(), DatapathError>;
}

/// Why a datapath call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatapathError {
    /// The policy does not fit; the old one stays in force.
    #[error("policy does not fit: table '{table}' needs {needed} entries and has room for {capacity}")]
    TooLarge {
        /// Table.
        table: &'static str,
        /// Entries needed.
        needed: usize,
        /// Entries there is room for.
        capacity: usize,
    },
    /// An image that breaks its own rules.
    #[error("invalid policy image: {0}")]
    InvalidImage(String),
    /// The interface does not exist.
    #[error("no interface with index {ifindex} ({name})")]
    NoInterface {
        /// Index.
        ifindex: u32,
        /// Name.
        name: String,
    },
    /// The kernel lacks something, or the caller a right; says what and what would work.
    #[error("{what}: {hint}")]
    Unsupported {
        /// What is missing.
        what: String,
        /// What would work.
        hint: String,
    },
    /// Pinned tables of another layout.
    #[error("pinned tables at {path} have layout version {found}, this build needs {needed}: {hint}")]
    AbiMismatch {
        /// Where.
        path: String,
        /// Their version.
        found: u32,
        /// Ours.
        needed: u32,
        /// What to do.
        hint: String,
    },
    /// A kernel call failed.
    #[error("{action}: {detail}")]
    Kernel {
        /// What was tried.
        action: String,
        /// What the kernel said.
        detail: String,
    },
}
