//! What goes into the agent and what comes out of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use nv_types::{
    Application, Decision, DenyResponse, Direction, FlowState, IdleTimes, IpProto, MacAddr, NodeRuntime,
    PolicyImage, PortSpec, Revision, Timestamp, Verdict, Workload, WorkloadId,
};

/// Nanoseconds on a clock that goes forward only, at one pace, and that nobody sets (`CLOCK_MONOTONIC`): every duration is
/// measured on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Steady(pub u64);

impl Steady {
    /// Nanoseconds that have passed since `earlier`; 0 if it is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// So many nanoseconds later.
    #[must_use]
    pub const fn after(self, nanoseconds: u64) -> Self {
        Self(self.0.saturating_add(nanoseconds))
    }
}

/// A moment on both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// What decides when something is due.
    pub steady: Steady,
    /// The time of day, which is only shown: it may jump in either direction.
    pub day: Timestamp,
}

/// What the node is, as its shell found it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Addresses of the node itself.
    pub addresses: Vec<IpAddr>,
    /// Those of them that belong to an overlay's tunnels.
    pub tunnels: Vec<IpAddr>,
    /// Where the agent's gRPC listens.
    pub agent_endpoint: String,
    /// Version of the agent.
    pub version: String,
    /// Kernel release.
    pub kernel: String,
    /// `tcx`, `clsact` or `software`.
    pub hook: String,
    /// Container runtimes that are watched.
    pub runtimes: Vec<NodeRuntime>,
    /// When the agent started.
    pub started: Timestamp,
    /// How DNS answers are heard.
    pub names: NameRules,
}

/// Whose DNS answers are believed, and for how long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameRules {
    /// Whether the datapath shows answers at all.
    pub listens: bool,
    /// Resolvers that are believed whoever asks.
    pub resolvers: BTreeSet<IpAddr>,
    /// Only those, not a workload's own.
    pub only_these: bool,
    /// How long an address counts after its answer is over, in nanoseconds, and how long after the last packet of a flow that the answer let begin.
    pub grace: u64,
}

/// A DNS message at an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSeen {
    /// Interface.
    pub ifindex: u32,
    /// From the resolver; else from the workload.
    pub is_answer: bool,
    /// UDP or TCP.
    pub proto: IpProto,
    /// The workload's end.
    pub local: SocketAddr,
    /// The resolver's end.
    pub resolver: SocketAddr,
    /// The message; `None` when what was seen is no whole one.
    pub message: Option<Vec<u8>>,
    /// What waits for [`Effect::Release`], if anything does.
    pub token: Option<u64>,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// What the node is.
    Facts(Facts),
    /// Interfaces that were there before the agent: those that no workload claims are left alone.
    Preexisting(BTreeSet<u32>),
    /// Interfaces that the datapath guards already, and as whose, for an agent before this one. After
    /// [`Input::Preexisting`], which names all that are there; what is not in that list is not to be in this one.
    Adopted(Vec<EndpointWant>),
    /// A workload runs, as it was found.
    WorkloadUp(Box<Workload>),
    /// A workload has ended.
    WorkloadDown(WorkloadId),
    /// A runtime was (re)connected to, and these are all that run in it.
    Synced {
        /// Name of the runtime, as in [`Workload::runtime`].
        runtime: String,
        /// Ids.
        running: BTreeSet<WorkloadId>,
    },
    /// The host end of a veth showed up.
    Link {
        /// Index.
        ifindex: u32,
        /// Name.
        name: String,
    },
    /// An interface is gone.
    LinkGone(u32),
    /// A value in the store.
    StorePut {
        /// Key.
        key: String,
        /// Value.
        value: Vec<u8>,
        /// Revision.
        revision: Revision,
    },
    /// A deletion in the store.
    StoreDelete {
        /// Key.
        key: String,
        /// Revision.
        revision: Revision,
    },
    /// The whole store.
    StoreResync {
        /// Keys and values.
        entries: Vec<(String, Vec<u8>)>,
        /// Revision.
        revision: Revision,
    },
    /// [`Effect::Apply`] was carried out; the error in words.
    Applied(Result<(), String>),
    /// [`Effect::Attach`] was carried out.
    Attached {
        /// Interface.
        ifindex: u32,
        /// `Err(None)`: the interface is gone; else the error in words.
        result: Result<(), Option<String>>,
    },
    /// [`Effect::KeepPackets`] or [`Effect::SavePackets`] was carried out; the error in words.
    Packets {
        /// Whose.
        workload: WorkloadId,
        /// What became of it.
        result: Result<(), String>,
    },
    /// The resolvers that a workload was given.
    Resolvers {
        /// Workload.
        workload: WorkloadId,
        /// Addresses.
        addresses: BTreeSet<IpAddr>,
    },
    /// A DNS message was seen.
    Dns(DnsSeen),
    /// Events lost since start, by stage.
    Lost(BTreeMap<String, u64>),
    /// Time has passed.
    Tick,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Put an image in force; answer with [`Input::Applied`].
    Apply {
        /// The image.
        image: Box<PolicyImage>,
        /// Switches that go with it.
        switches: Switches,
    },
    /// Guard an interface, or change what is known of it; answer with [`Input::Attached`].
    Attach(EndpointWant),
    /// Stop guarding an interface.
    Detach(u32),
    /// Keep a workload's newest packets in memory, at most so many bytes; `None`: not any more. Answer with [`Input::Packets`].
    KeepPackets {
        /// Whose.
        workload: WorkloadId,
        /// How much.
        bytes: Option<u64>,
    },
    /// Start a capture of a workload that begins with the packets that were kept. Answer with [`Input::Packets`].
    SavePackets {
        /// Whose.
        workload: WorkloadId,
        /// What started it, in words.
        cause: String,
        /// Seconds that it goes on.
        duration: u32,
    },
    /// Let the DNS answer with this token go on.
    Release(u64),
    /// Write a value under a key of this node's own, or delete it.
    Store {
        /// Key.
        key: String,
        /// Value; `None` deletes.
        value: Option<Vec<u8>>,
    },
}

/// An interface as it should be guarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointWant {
    /// Index of the host end.
    pub ifindex: u32,
    /// Name of the host end.
    pub name: String,
    /// The workload, `None` while it is not known.
    pub workload: Option<WorkloadId>,
    /// Ethernet address inside.
    pub mac: Option<MacAddr>,
    /// Addresses inside.
    pub addresses: Vec<IpAddr>,
    /// Its workload is in quarantine: nothing passes.
    pub quarantine: bool,
}

/// Switches of the datapath that settings decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switches {
    /// Verdict for interfaces whose workload is not known.
    pub unknown: Verdict,
    /// Ports of the node that stay open.
    pub failsafe_ports: Vec<PortSpec>,
    /// Addresses of the node.
    pub failsafe_addresses: Vec<IpAddr>,
    /// What the ends of a denied flow see.
    pub deny_response: DenyResponse,
    /// How long flows may be idle.
    pub idle: IdleTimes,
    /// Most of the connection table that one workload may fill, in percent; 0 for no bound.
    pub flow_share: u8,
    /// Groups speak of DNS names: answers are to be seen.
    pub names: bool,
}

/// A flow as the datapath tells of it. Times are nanoseconds on the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowSample {
    /// Interface.
    pub ifindex: u32,
    /// Egress: the workload is the client.
    pub direction: Direction,
    /// Protocol.
    pub proto: IpProto,
    /// Workload's address and port.
    pub local: (IpAddr, u16),
    /// The other end's.
    pub peer: (IpAddr, u16),
    /// Verdict and why.
    pub decision: Decision,
    /// Application.
    pub application: Option<Application>,
    /// Life.
    pub state: FlowState,
    /// Packets and bytes sent by the workload.
    pub sent: (u64, u64),
    /// Packets and bytes sent to the workload.
    pub received: (u64, u64),
    /// First packet.
    pub first_ns: u64,
    /// Last packet.
    pub last_ns: u64,
}
