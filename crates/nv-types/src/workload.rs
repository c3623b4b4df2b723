//! Workloads, their interfaces, and the nodes they run on.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use crate::{GroupName, IpProto, MacAddr, NodeId, Revision, Timestamp, WorkloadId, service_group_name};

/// Life of a workload as the runtime tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "lowercase")
)]
pub enum WorkloadState {
    /// Made, not started.
    Created,
    /// Runs.
    #[default]
    Running,
    /// Has ended.
    Exited,
}

/// One network interface of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Interface {
    /// Name inside the workload's namespace, such as `eth0`.
    pub name: String,
    /// Index inside the workload's namespace.
    pub index: u32,
    /// Its Ethernet address.
    pub mac: Option<MacAddr>,
    /// Index of the host end (a veth's peer), if there is one.
    pub host_index: Option<u32>,
    /// Name of the host end.
    #[cfg_attr(feature = "serde", serde(default))]
    pub host_name: Option<String>,
    /// Addresses with prefix lengths, link-local ones included.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// A port of the host that leads to the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PublishedPort {
    /// Protocol.
    pub proto: IpProto,
    /// Address of the host that it is bound to.
    pub host_ip: IpAddr,
    /// Port on the host.
    pub host_port: u16,
    /// Port in the workload.
    pub port: u16,
}

/// A container inside a workload that is more than one: a pod's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Member {
    /// The runtime's id.
    pub id: String,
    /// Name within the pod.
    pub name: String,
    /// Image name with tag.
    #[cfg_attr(feature = "serde", serde(default))]
    pub image: String,
}

/// A container runtime that an agent watches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct NodeRuntime {
    /// `docker`, `podman`, `containerd`, `cri-o`, `netns`.
    pub name: String,
    /// Version that it reports.
    #[cfg_attr(feature = "serde", serde(default))]
    pub version: String,
    /// Socket or folder that it is reached by.
    #[cfg_attr(feature = "serde", serde(default))]
    pub location: String,
    /// Whether it answers now.
    #[cfg_attr(feature = "serde", serde(default))]
    pub connected: bool,
}

/// A container (or pod sandbox, or named network namespace) under nv's watch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Workload {
    /// The runtime's id.
    pub id: WorkloadId,
    /// Name as users know it, without a leading slash.
    pub name: String,
    /// Node that it runs on.
    pub node: NodeId,
    /// Which runtime told of it: `docker`, `podman`, `containerd`, `cri-o`, `netns`.
    pub runtime: String,
    /// The service that it belongs to.
    pub service: String,
    /// Domain (Kubernetes namespace, Compose project); empty outside of any.
    #[cfg_attr(feature = "serde", serde(default))]
    pub domain: String,
    /// Image name with tag; of a pod that of its first container.
    #[cfg_attr(feature = "serde", serde(default))]
    pub image: String,
    /// A pod's containers in the order that they were made; empty for a single container.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Vec::is_empty"))]
    pub containers: Vec<Member>,
    /// Labels of the workload.
    #[cfg_attr(feature = "serde", serde(default))]
    pub labels: BTreeMap<String, String>,
    /// Labels of its namespace.
    #[cfg_attr(feature = "serde", serde(default))]
    pub namespace_labels: BTreeMap<String, String>,
    /// Interfaces, loopback left out.
    #[cfg_attr(feature = "serde", serde(default))]
    pub interfaces: Vec<Interface>,
    /// Ports of the host that lead here.
    #[cfg_attr(feature = "serde", serde(default))]
    pub published: Vec<PublishedPort>,
    /// Inode of its network namespace: the same number, the same namespace.
    #[cfg_attr(feature = "serde", serde(default))]
    pub netns: u64,
    /// Process that holds the namespace, 0 if none is known.
    #[cfg_attr(feature = "serde", serde(default))]
    pub pid: u32,
    /// Control group of that process, as `/proc` names it; empty if not known.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "String::is_empty"))]
    pub cgroup: String,
    /// Shares the host's network namespace, so that there is no interface to guard.
    #[cfg_attr(feature = "serde", serde(default))]
    pub host_network: bool,
    /// Runs privileged.
    #[cfg_attr(feature = "serde", serde(default))]
    pub privileged: bool,
    /// Life.
    #[cfg_attr(feature = "serde", serde(default))]
    pub state: WorkloadState,
    /// When it was made.
    #[cfg_attr(feature = "serde", serde(default))]
    pub created: Timestamp,
    /// When it was started.
    #[cfg_attr(feature = "serde", serde(default))]
    pub started: Timestamp,
}

impl Workload {
    /// A running workload of a service of which nothing else is known: named by its id, everything else empty.
    #[must_use]
    pub fn new(id: WorkloadId, node: NodeId, service: impl Into<String>) -> Self {
        Self {
            name: id.to_string(),
            id,
            node,
            runtime: String::new(),
            service: service.into(),
            domain: String::new(),
            image: String::new(),
            containers: Vec::new(),
            labels: BTreeMap::new(),
            namespace_labels: BTreeMap::new(),
            interfaces: Vec::new(),
            published: Vec::new(),
            netns: 0,
            pid: 0,
            cgroup: String::new(),
            host_network: false,
            privileged: false,
            state: WorkloadState::Running,
            created: Timestamp(0),
            started: Timestamp(0),
        }
    }

    /// Name of its service's learned group; `None` if the service's name cannot be a group's.
    #[must_use]
    pub fn service_group(&self) -> Option<GroupName> {
        GroupName::try_new(service_group_name(&self.service, &self.domain)).ok()
    }

    /// Every address of every interface that peers can know it by: link-local ones are left out.
    pub fn peer_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.interfaces
            .iter()
            .flat_map(|i| i.addresses.iter().map(|(addr, _)| *addr))
            .filter(|addr| match addr {
                IpAddr::V4(v4) => !v4.is_link_local() && !v4.is_loopback(),
                IpAddr::V6(v6) => !v6.is_unicast_link_local() && !v6.is_loopback(),
            })
    }
}

/// A node and what its agent says of itself. Stored under `node/<id>`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Node {
    /// Its name.
    pub id: NodeId,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// Those of them that belong to an overlay's tunnels: who comes from there came in through this node (`Workload:ingress`).
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Vec::is_empty"))]
    pub tunnels: Vec<IpAddr>,
    /// Where its agent's gRPC listens, `host:port`.
    pub agent_endpoint: String,
    /// Version of the agent.
    pub version: String,
    /// Kernel release.
    #[cfg_attr(feature = "serde", serde(default))]
    pub kernel: String,
    /// Which hook guards interfaces: `tcx`, `clsact`, `software`.
    #[cfg_attr(feature = "serde", serde(default))]
    pub hook: String,
    /// Container runtimes that it watches.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Vec::is_empty"))]
    pub runtimes: Vec<NodeRuntime>,
    /// Revision that its datapath enforces.
    pub revision: Revision,
    /// Endpoints under guard.
    pub endpoints: u32,
    /// What is wrong, in words; empty when all is well.
    #[cfg_attr(feature = "serde", serde(default))]
    pub degraded: Vec<String>,
    /// Events lost since start, by stage: kernel ring, agent queue, report queue.
    #[cfg_attr(feature = "serde", serde(default))]
    pub lost_events: BTreeMap<String, u64>,
    /// When it last said so.
    pub seen: Timestamp,
    /// When the agent started.
    #[cfg_attr(feature = "serde", serde(default))]
    pub started: Timestamp,
}

impl Node {
    /// A node of which nothing is known but its name.
    #[must_use]
    pub const fn new(id: NodeId) -> Self {
        Self {
            id,
            addresses: Vec::new(),
            tunnels: Vec::new(),
            agent_endpoint: String::new(),
            version: String::new(),
            kernel: String::new(),
            hook: String::new(),
            runtimes: Vec::new(),
            revision: Revision(0),
            endpoints: 0,
            degraded: Vec::new(),
            lost_events: BTreeMap::new(),
            seen: Timestamp(0),
            started: Timestamp(0),
        }
    }
}
