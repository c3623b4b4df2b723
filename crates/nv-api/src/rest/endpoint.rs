//! Endpoints, as the datapath counts them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What was counted in one direction since the endpoint was attached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EndpointCounters {
    /// Packets seen.
    pub packets: u64,
    /// Bytes seen.
    pub bytes: u64,
    /// Flows begun.
    pub flows: u64,
    /// Packets let pass without a report.
    pub allowed: u64,
    /// Packets let pass with a report.
    pub alerted: u64,
    /// Packets dropped.
    pub denied: u64,
    /// Packets that were dropped or reported, or that policy does not speak of, by reason.
    pub by_reason: BTreeMap<String, u64>,
}

/// An interface under guard.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GuardedEndpoint {
    /// Node that it is on.
    #[serde(default)]
    pub node: String,
    /// Index of the interface on the host.
    pub ifindex: u32,
    /// Its name there.
    pub name: String,
    /// Id of its workload; empty while it is not known.
    pub workload: String,
    /// The workload's name.
    #[serde(default)]
    pub workload_name: String,
    /// Addresses that it may send from; empty where they are not checked.
    pub addresses: Vec<String>,
    /// Mode in force; empty when the policy in force does not know the workload.
    pub mode: String,
    /// Its programs were taken off and cannot be put back: nothing is judged here.
    #[serde(default)]
    pub unguarded: bool,
    /// Towards the workload.
    pub ingress: EndpointCounters,
    /// From the workload.
    pub egress: EndpointCounters,
    /// When the node told of it, seconds since 1970.
    #[serde(default)]
    pub reported_at: u64,
}

/// Endpoints of all nodes.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EndpointsData {
    /// By node, in the order of their interfaces.
    pub endpoints: Vec<GuardedEndpoint>,
}
