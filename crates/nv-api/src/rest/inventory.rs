//! Workloads, nodes, agents, controllers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An address of an interface.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct WorkloadAddress {
    /// Address.
    pub ip: String,
    /// Length of its prefix.
    pub ip_prefix: u8,
    /// Always empty: gateways are not read.
    pub gateway: String,
}

/// A port of the host that leads to a workload.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct WorkloadPort {
    /// IP protocol number.
    pub ip_proto: u8,
    /// Port in the workload.
    pub port: u16,
    /// Address of the host.
    pub host_ip: String,
    /// Port on the host.
    pub host_port: u16,
}

/// A workload.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Workload {
    /// Id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Name for people.
    pub display_name: String,
    /// Image.
    pub image: String,
    /// Domain.
    pub domain: String,
    /// `discover`, `monitor`, `protect`, `quarantined`, `unmanaged` or `exit`.
    pub state: String,
    /// Service.
    pub service: String,
    /// Its service's learned group.
    pub service_group: String,
    /// Mode of its service.
    pub policy_mode: String,
    /// Whether captures can be made.
    pub cap_sniff: bool,
    /// Whether it can be quarantined: it has a network of its own.
    pub cap_quarantine: bool,
    /// Why it is in quarantine, in the words of whoever asked for it.
    #[serde(default)]
    pub quarantine_reason: String,
    /// Whether its mode can be changed.
    pub cap_change_mode: bool,
    /// Runs privileged.
    pub privileged: bool,
    /// Node.
    pub host_name: String,
    /// Node.
    pub host_id: String,
    /// Agent of the node.
    pub enforcer_id: String,
    /// Agent of the node.
    pub enforcer_name: String,
    /// `host` when it has no namespace of its own, else `default`.
    pub network_mode: String,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// When it was started, RFC 3339.
    pub started_at: String,
    /// Whether it runs.
    pub running: bool,
    /// Addresses by interface.
    pub interfaces: BTreeMap<String, Vec<WorkloadAddress>>,
    /// Published ports.
    pub ports: Vec<WorkloadPort>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Applications that it was seen to serve.
    pub applications: Vec<String>,
    /// Which runtime told of it.
    pub runtime: String,
}

wrapper!(
    /// All workloads.
    WorkloadsData { workloads: Vec<Workload> }
);
/// A workload with what the list does not say.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct WorkloadDetail {
    /// As in the list.
    #[serde(flatten)]
    pub workload: Workload,
    /// Groups that it is in.
    pub groups: Vec<String>,
    /// Applications that it was seen to serve, by port, such as `tcp/8080`; several with commas between them.
    pub app_ports: BTreeMap<String, String>,
}

wrapper!(
    /// One workload.
    WorkloadData { workload: WorkloadDetail }
);

/// What is to change of a workload.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkloadConfig {
    /// How it is wired: nv has one way only, NeuVector's `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wire: Option<String>,
    /// Whether it is cut off whatever the policy says.
    pub quarantine: bool,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine_reason: Option<String>,
}

wrapper!(
    /// A change of a workload.
    WorkloadConfigData { config: WorkloadConfig }
);

/// A workload in quarantine.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Quarantine {
    /// Id.
    pub id: String,
    /// Name; empty when the workload is not there now.
    pub name: String,
    /// Why, in the words of whoever asked for it.
    pub reason: String,
    /// Since when, RFC 3339.
    pub since: String,
}

wrapper!(
    /// All workloads in quarantine.
    QuarantinesData { quarantines: Vec<Quarantine> }
);

/// An agent, NeuVector's way.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Enforcer {
    /// Node id.
    pub id: String,
    /// Node id.
    pub name: String,
    /// Node id.
    pub display_name: String,
    /// Node id.
    pub host_name: String,
    /// Node id.
    pub host_id: String,
    /// Version.
    pub version: String,
    /// When it started, RFC 3339.
    pub started_at: String,
    /// When it joined, RFC 3339.
    pub joined_at: String,
    /// Its gRPC address.
    pub cluster_ip: String,
    /// `connected` or `disconnected`.
    pub connection_state: String,
    /// When it was last heard of, RFC 3339; empty while it is connected.
    pub disconnected_at: String,
}

wrapper!(
    /// All agents.
    EnforcersData { enforcers: Vec<Enforcer> }
);
wrapper!(
    /// One agent.
    EnforcerData { enforcer: Enforcer }
);

/// A controller.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Controller {
    /// Id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Name for people.
    pub display_name: String,
    /// Host.
    pub host_name: String,
    /// Host.
    pub host_id: String,
    /// Version.
    pub version: String,
    /// When it started, RFC 3339.
    pub started_at: String,
    /// When it joined, RFC 3339.
    pub joined_at: String,
    /// Address.
    pub cluster_ip: String,
    /// Always true: there is one.
    pub leader: bool,
    /// `connected`.
    pub connection_state: String,
    /// Always empty: the one that answers is connected.
    pub disconnected_at: String,
}

wrapper!(
    /// All controllers.
    ControllersData { controllers: Vec<Controller> }
);
wrapper!(
    /// One controller.
    ControllerData { controller: Controller }
);

/// A node.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Node {
    /// Id.
    pub id: String,
    /// `connected` or `disconnected`.
    pub state: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Its agent's gRPC address.
    pub agent_endpoint: String,
    /// Version.
    pub version: String,
    /// Kernel.
    pub kernel: String,
    /// `tcx`, `clsact` or `software`.
    pub hook: String,
    /// Container runtimes that its agent watches, such as `docker 26.1.5`; one that is away says so.
    #[serde(default)]
    pub runtimes: Vec<String>,
    /// Revision in force.
    pub revision: u64,
    /// Revision that should be in force at least.
    pub wanted_revision: u64,
    /// Interfaces under guard.
    pub endpoints: u32,
    /// What is wrong, in words.
    pub degraded: Vec<String>,
    /// Events lost, by stage.
    pub lost_events: BTreeMap<String, u64>,
    /// When it was last heard of, nanoseconds since the epoch.
    pub seen: u64,
}

/// Nodes, and how many of them enforce the policy.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NodesData {
    /// Nodes.
    pub nodes: Vec<Node>,
    /// Revision of the last change of policy.
    pub policy_revision: u64,
    /// Nodes that enforce it.
    pub in_force: usize,
}

/// A namespace of workloads.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Domain {
    /// Name.
    pub name: String,
    /// Workloads in it.
    pub workloads: usize,
    /// Those that run.
    pub running_workloads: usize,
    /// Those that run and are pods.
    pub running_pods: usize,
    /// Services of its workloads.
    pub services: usize,
    /// Always empty: domains are not tagged.
    pub tags: Vec<String>,
    /// The namespace's labels, as its running workloads have them.
    pub labels: BTreeMap<String, String>,
    /// Whether it has a boundary: by the setting `bounded_domains`, or by its label.
    pub boundary: bool,
}

/// All domains.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DomainsData {
    /// Domains.
    pub domains: Vec<Domain>,
    /// Always false: domains are not tagged.
    pub tag_per_domain: bool,
}
