//! Rules and the settings that policy depends on.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;

use crate::{
    Action, Application, Contention, GroupName, IdleTimes, Mode, PortSet, PortSpec, RuleId, Tier, Timestamp,
};

/// One ordered rule.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Rule {
    /// Number; its range says where the rule came from.
    pub id: RuleId,
    /// Free text.
    #[cfg_attr(feature = "serde", serde(default))]
    pub comment: String,
    /// Group of the client.
    pub from: GroupName,
    /// Group of the server.
    pub to: GroupName,
    /// Server ports.
    pub ports: PortSet,
    /// Applications; empty means any.
    #[cfg_attr(feature = "serde", serde(default))]
    pub applications: Vec<Application>,
    /// Allow or deny.
    pub action: Action,
    /// A disabled rule matches nothing.
    #[cfg_attr(feature = "serde", serde(default))]
    pub disable: bool,
    /// When it was made.
    #[cfg_attr(feature = "serde", serde(default))]
    pub created: Timestamp,
    /// When it was last changed.
    #[cfg_attr(feature = "serde", serde(default))]
    pub modified: Timestamp,
}

impl Rule {
    /// Where it came from; ids outside every range count as user rules.
    #[must_use]
    pub fn tier(&self) -> Tier {
        self.id.tier().unwrap_or(Tier::User)
    }
}

/// What an interface may do while its workload is not known yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "lowercase")
)]
pub enum UnknownEndpoint {
    /// Deny while any service is in Protect, allow otherwise.
    #[default]
    Auto,
    /// Everything passes.
    Allow,
    /// Nothing passes but ARP and neighbour discovery.
    Deny,
}

/// What a client sees when a flow is denied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "lowercase")
)]
pub enum DenyResponse {
    /// Nothing: the packet is dropped.
    #[default]
    Drop,
    /// The end of it: a TCP reset (to both ends, if the flow had been let through before), or ICMP 'administratively
    /// prohibited' (RFC 1812, 5.2.7.1; RFC 4443, 3.1) to whoever sent the packet.
    Reset,
}

/// Label of a namespace, and its value, that give its domain a boundary: NeuVector's.
pub const BOUNDARY_LABEL: (&str, &str) = ("NeuvectorNamespaceBoundary", "enabled");

/// A week, in seconds.
const WEEK: u64 = 7 * 24 * 3600;

/// Settings that the meaning of a policy depends on. Stored under `config/policy`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct PolicySettings {
    /// Which mode counts between two managed workloads.
    pub contention: Contention,
    /// Whether `any` holds ICMP and unmatched ICMP is judged. Off: ICMP passes unless a rule speaks of it.
    pub icmp_policy: bool,
    /// Mode of a service that shows up for the first time.
    pub new_service_mode: Mode,
    /// One mode for all services instead of their own (NeuVector's `net_service_policy_mode`); `nodes` keeps its own.
    pub network_mode: Option<Mode>,
    /// Whether a service in Discover goes on to Monitor by itself (NeuVector's name).
    pub mode_auto_d2m: bool,
    /// Seconds that it stays in Discover then.
    pub mode_auto_d2m_duration: u64,
    /// Whether a service in Monitor goes on to Protect by itself (NeuVector's name).
    pub mode_auto_m2p: bool,
    /// Seconds that it must have been in Monitor then, without a violation.
    pub mode_auto_m2p_duration: u64,
    /// Domains with a boundary: between them and everybody else learned rules do not count and what no rule allows is reported, also
    /// in Discover. A domain whose namespace is labelled [`BOUNDARY_LABEL`] has one too.
    pub bounded_domains: BTreeSet<String>,
    /// DNS names (`a.example`, `*.example`, or `*` for all) whose internal addresses count: for all others an answer with an address that
    /// is not public is not believed.
    pub internal_names: BTreeSet<String>,
    /// What an interface may do before its workload is known.
    pub unknown_endpoint: UnknownEndpoint,
    /// What the client of a denied flow sees.
    pub deny_response: DenyResponse,
    /// How long flows may be idle.
    pub idle: IdleTimes,
    /// Most flows that a workload may have opened at one interface, in percent of the node's connection table (0: no bound): beyond it new
    /// ones follow the mode, so that one workload cannot take the room of the others.
    pub flow_share: u8,
    /// Captures that violations start.
    pub capture: crate::CaptureTriggers,
    /// Ports of the nodes themselves that stay open whatever the rules say (nv's gRPC, SSH). Empty to remove.
    pub failsafe_ports: Vec<PortSpecText>,
}

/// A port item in its text form, for settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "String", into = "String")
)]
pub struct PortSpecText(pub PortSpec);

impl TryFrom<String> for PortSpecText {
    type Error = crate::InvalidPorts;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}

impl From<PortSpecText> for String {
    fn from(spec: PortSpecText) -> Self {
        alloc::format!("{}", spec.0)
    }
}

impl Default for PolicySettings {
    fn default() -> Self {
        let tcp = |port| {
            PortSpecText(PortSpec::Ports(
                crate::IpProto::TCP,
                crate::PortRange {
                    first: port,
                    last: port,
                },
            ))
        };
        Self {
            contention: Contention::Restrictive,
            icmp_policy: true,
            new_service_mode: Mode::Discover,
            network_mode: None,
            mode_auto_d2m: false,
            mode_auto_d2m_duration: WEEK,
            mode_auto_m2p: false,
            mode_auto_m2p_duration: WEEK,
            bounded_domains: BTreeSet::new(),
            internal_names: BTreeSet::new(),
            unknown_endpoint: UnknownEndpoint::Auto,
            deny_response: DenyResponse::Drop,
            idle: IdleTimes::default(),
            flow_share: 25,
            capture: crate::CaptureTriggers::default(),
            failsafe_ports: alloc::vec![tcp(22), tcp(10443), tcp(18400), tcp(18401)],
        }
    }
}
