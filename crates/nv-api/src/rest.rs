//! REST objects. Fields that NeuVector has and nv does not fill are left out; fields of ours stand beside its own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

macro_rules! wrapper {
    ($(#[$doc:meta])* $name:ident { $field:ident: $type:ty }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            /// The object.
            pub $field: $type,
        }
    };
}

/// What a refused call answers with.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// NeuVector's number of the kind of error.
    pub code: u16,
    /// The kind of error.
    pub error: String,
    /// What is wrong; names the field or the thing.
    pub message: String,
}

wrapper!(
    /// Body of a login.
    AuthRequest { password: Password }
);

/// Who logs in.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Password {
    /// User.
    pub username: String,
    /// Password.
    pub password: String,
    /// New password, to change it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_password: Option<String>,
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Password")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// Answer to a login.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TokenData {
    /// The session.
    pub token: Token,
    /// Always -1: passwords do not expire.
    pub password_days_until_expire: i32,
    /// Always 0.
    pub password_hours_until_expire: i32,
}

/// A session.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// What goes into `X-Auth-Token`.
    pub token: String,
    /// User.
    pub fullname: String,
    /// User.
    pub username: String,
    /// `admin`, `operator` or `reader`.
    pub role: String,
    /// Seconds without a call after which the session ends.
    pub timeout: u32,
    /// Always false: there is no default password.
    pub default_password: bool,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("username", &self.username)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

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
    /// `discover`, `monitor`, `protect`, `unmanaged` or `exit`.
    pub state: String,
    /// Service.
    pub service: String,
    /// Its service's learned group.
    pub service_group: String,
    /// Mode of its service.
    pub policy_mode: String,
    /// Whether captures can be made.
    pub cap_sniff: bool,
    /// Whether it can be quarantined; not yet.
    pub cap_quarantine: bool,
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
wrapper!(
    /// One workload.
    WorkloadData { workload: Workload }
);

/// A condition of a group.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Criterion {
    /// Key.
    pub key: String,
    /// Value.
    pub value: String,
    /// `=`, `!=`, `contains`, `prefix`, `regex`, `!regex`.
    #[serde(default = "equal")]
    pub op: String,
}

fn equal() -> String {
    "=".to_owned()
}

/// A member of a group.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// Workload id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Name for people.
    pub display_name: String,
    /// As a workload's.
    pub state: String,
}

/// A group.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Group {
    /// Name.
    pub name: String,
    /// Free text.
    pub comment: String,
    /// Whether it was learned.
    pub learned: bool,
    /// Whether the system reserves it.
    pub reserved: bool,
    /// Mode, for services and `nodes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_mode: Option<String>,
    /// Domain.
    pub domain: String,
    /// Always empty: groups are everybody's.
    pub creater_domains: Vec<String>,
    /// `container`, `address`, `ip_service`, `external` or `node`.
    pub kind: String,
    /// Always empty.
    pub platform_role: String,
    /// `learned`, `user_created`, `ground`, `federal` or `system_defined`.
    pub cfg_type: String,
    /// Whether a mode can be set.
    pub cap_change_mode: bool,
    /// Conditions.
    pub criteria: Vec<Criterion>,
    /// Members.
    pub members: Vec<Member>,
    /// Ids of rules that name it.
    pub policy_rules: Vec<u32>,
    /// Always empty.
    pub response_rules: Vec<u32>,
}

wrapper!(
    /// All groups.
    GroupsData { groups: Vec<Group> }
);
wrapper!(
    /// One group.
    GroupData { group: Group }
);

/// A group to make or change.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupConfig {
    /// Name.
    pub name: String,
    /// Free text.
    #[serde(default)]
    pub comment: Option<String>,
    /// Conditions.
    #[serde(default)]
    pub criteria: Option<Vec<Criterion>>,
    /// Taken and ignored: groups that users make are `user_created`.
    #[serde(default)]
    pub cfg_type: Option<String>,
}

wrapper!(
    /// Body of a group to make or change.
    GroupConfigData { config: GroupConfig }
);

/// A rule.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Rule {
    /// Id.
    pub id: u32,
    /// Free text.
    pub comment: String,
    /// Group of the client.
    pub from: String,
    /// Group of the server.
    pub to: String,
    /// Ports.
    pub ports: String,
    /// `allow` or `deny`.
    pub action: String,
    /// Applications; `any` for any.
    pub applications: Vec<String>,
    /// Whether it was learned.
    pub learned: bool,
    /// Whether it matches nothing.
    pub disable: bool,
    /// Seconds since the epoch.
    pub created_timestamp: i64,
    /// Seconds since the epoch.
    pub last_modified_timestamp: i64,
    /// Where it came from.
    pub cfg_type: String,
    /// Always 0.
    pub priority: u32,
    /// Always 0: hits are not counted yet.
    pub match_counter: u64,
    /// Always 0.
    pub last_match_timestamp: i64,
}

wrapper!(
    /// All rules, in the order in which they are tried.
    RulesData { rules: Vec<Rule> }
);
wrapper!(
    /// One rule.
    RuleData { rule: Rule }
);

/// A rule to make or change: what is left out stays as it is, or takes its default.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RuleConfig {
    /// Id; 0: the next free one.
    pub id: u32,
    /// Free text.
    pub comment: Option<String>,
    /// Group of the client.
    pub from: Option<String>,
    /// Group of the server.
    pub to: Option<String>,
    /// Ports.
    pub ports: Option<String>,
    /// `allow` or `deny`.
    pub action: Option<String>,
    /// Applications.
    pub applications: Option<Vec<String>>,
    /// Whether it matches nothing.
    pub disable: Option<bool>,
    /// Taken and ignored, as are the fields below: they are in what a list answers with.
    pub learned: Option<bool>,
    /// Ignored.
    pub cfg_type: Option<String>,
    /// Ignored.
    pub priority: Option<u32>,
    /// Ignored.
    pub created_timestamp: Option<i64>,
    /// Ignored.
    pub last_modified_timestamp: Option<i64>,
    /// Ignored.
    pub match_counter: Option<u64>,
    /// Ignored.
    pub last_match_timestamp: Option<i64>,
}

wrapper!(
    /// Body of a rule to change.
    RuleConfigData { config: RuleConfig }
);

/// Changes to the list of rules. They are made in the order delete, replace, insert, move, in one transaction.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RuleAction {
    /// Insert rules.
    pub insert: Option<RuleInsert>,
    /// Move a rule.
    #[serde(rename = "move")]
    pub moved: Option<RuleMove>,
    /// Replace all rules that users made.
    pub rules: Option<Vec<RuleConfig>>,
    /// Delete rules.
    pub delete: Option<Vec<u32>>,
}

/// Rules to insert.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleInsert {
    /// None: at the end; 0: at the start; n: after rule n; -n: before rule n.
    #[serde(default)]
    pub after: Option<i64>,
    /// The rules.
    pub rules: Vec<RuleConfig>,
}

/// A rule to move.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleMove {
    /// As for [`RuleInsert`].
    #[serde(default)]
    pub after: Option<i64>,
    /// Which.
    pub id: u32,
}

/// A service.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// Its learned group.
    pub name: String,
    /// Free text.
    pub comment: String,
    /// Mode.
    pub policy_mode: String,
    /// Domain.
    pub domain: String,
    /// Always empty.
    pub platform_role: String,
    /// Workloads.
    pub members: Vec<Member>,
    /// Rules that name it.
    pub policy_rules: Vec<Rule>,
    /// Always empty.
    pub response_rules: Vec<u32>,
    /// Always true: its mode can be changed.
    pub cap_change_mode: bool,
}

wrapper!(
    /// All services.
    ServicesData { services: Vec<Service> }
);
wrapper!(
    /// One service.
    ServiceData { service: Service }
);

/// Services to change.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceConfig {
    /// Services, by name or by group.
    #[serde(default)]
    pub services: Vec<String>,
    /// One more service.
    #[serde(default)]
    pub name: Option<String>,
    /// Mode.
    pub policy_mode: Option<String>,
}

wrapper!(
    /// Body of services to change.
    ServiceConfigData { config: ServiceConfig }
);

/// An end of conversations.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Endpoint {
    /// Id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Name for people.
    pub display_name: String,
    /// `container`, `external` or `node_ip`.
    pub kind: String,
    /// Service's group.
    pub service: String,
    /// Mode of its service.
    pub policy_mode: String,
    /// Domain.
    pub domain: String,
}

/// A part of a conversation.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ConversationEntry {
    /// Bytes of both directions.
    pub bytes: u64,
    /// Flows.
    pub sessions: u64,
    /// `tcp/8080`.
    pub port: String,
    /// Application.
    pub application: String,
    /// `allow`, `violate` or `deny`.
    pub policy_action: String,
    /// Rule, 0 for none.
    pub policy_id: u32,
    /// Client's address.
    pub client_ip: String,
    /// Server's address.
    pub server_ip: String,
    /// Seconds since the epoch.
    pub last_seen_at: u64,
}

/// All flows between two ends, summed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Conversation {
    /// Client's id.
    pub from: String,
    /// Server's id.
    pub to: String,
    /// Client's name.
    pub from_name: String,
    /// Server's name.
    pub to_name: String,
    /// Bytes of both directions.
    pub bytes: u64,
    /// Flows.
    pub sessions: u64,
    /// Always empty.
    pub severity: String,
    /// The strictest of its parts: `allow`, `violate` or `deny`.
    pub policy_action: String,
    /// Protocols.
    pub protocols: Vec<String>,
    /// Applications.
    pub applications: Vec<String>,
    /// Ports.
    pub ports: Vec<String>,
    /// Its parts.
    pub entries: Vec<ConversationEntry>,
}

/// Conversations and their ends.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ConversationsData {
    /// Ends.
    pub endpoints: Vec<Endpoint>,
    /// Conversations.
    pub conversations: Vec<Conversation>,
}

/// A violation.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Violation {
    /// Its number.
    pub id: String,
    /// `Network.Violation`.
    pub name: String,
    /// `Warning` when it passed, `Critical` when it was denied.
    pub level: String,
    /// Seconds since the epoch.
    pub reported_timestamp: u64,
    /// RFC 3339.
    pub reported_at: String,
    /// Always empty.
    pub cluster_name: String,
    /// Node.
    pub host_id: String,
    /// Node.
    pub host_name: String,
    /// Agent of the node.
    pub enforcer_id: String,
    /// Agent of the node.
    pub enforcer_name: String,
    /// Client.
    pub client_id: String,
    /// Client's name.
    pub client_name: String,
    /// Client's domain.
    pub client_domain: String,
    /// Client's image.
    pub client_image: String,
    /// Client's service group.
    pub client_service: String,
    /// Server.
    pub server_id: String,
    /// Server's name.
    pub server_name: String,
    /// Server's domain.
    pub server_domain: String,
    /// Server's image.
    pub server_image: String,
    /// Server's service group.
    pub server_service: String,
    /// Server's port.
    pub server_port: u16,
    /// IP protocol number.
    pub ip_proto: u8,
    /// Applications.
    pub applications: Vec<String>,
    /// Always empty.
    pub servers: Vec<String>,
    /// Flows that it stands for.
    pub sessions: u64,
    /// `violate` or `deny`.
    pub policy_action: String,
    /// Rule, 0 for none.
    pub policy_id: u32,
    /// Why: `rule`, `default`, …
    pub reason: String,
    /// Client's address.
    pub client_ip: String,
    /// Server's address.
    pub server_ip: String,
    /// Always empty.
    pub fqdn: String,
}

wrapper!(
    /// All violations, newest first.
    ViolationsData { violations: Vec<Violation> }
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
}

wrapper!(
    /// All controllers.
    ControllersData { controllers: Vec<Controller> }
);
wrapper!(
    /// One controller.
    ControllerData { controller: Controller }
);

/// What to capture.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SnifferArgs {
    /// Files of 2 MB that are kept; 0: the default of 5.
    pub file_number: u32,
    /// Seconds; 0: until stopped.
    pub duration: u32,
    /// Must be empty: filters are not there yet.
    pub filter: String,
}

wrapper!(
    /// Body of a capture to start.
    SnifferArgsData { sniffer: SnifferArgs }
);

/// Answer to a capture that was started.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SnifferResultData {
    /// The capture.
    pub result: SnifferResult,
}

/// A capture that was started.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SnifferResult {
    /// Its id.
    pub id: String,
}

/// A capture.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Sniffer {
    /// Id.
    pub id: String,
    /// Node.
    pub enforcer_id: String,
    /// Workload.
    pub container_id: String,
    /// Files.
    pub file_number: u32,
    /// Bytes.
    pub size: u64,
    /// `running`, `stopped` or `failed`.
    pub status: String,
    /// What it ended of, and what it lost.
    pub args: String,
    /// Seconds since the epoch.
    pub start_time: i64,
    /// Seconds since the epoch; 0 while it runs.
    pub stop_time: i64,
    /// Packets.
    pub packets: u64,
    /// Packets that the kernel dropped.
    pub dropped: u64,
}

wrapper!(
    /// All captures.
    SniffersData { sniffers: Vec<Sniffer> }
);
wrapper!(
    /// One capture.
    SnifferData { sniffer: Sniffer }
);

/// One end, explained.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ExplainSide {
    /// As it was asked.
    pub name: String,
    /// Its groups.
    pub groups: Vec<String>,
    /// Mode of its service.
    pub mode: Option<String>,
}

/// A rule that nearly matched.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NearMiss {
    /// The rule.
    pub rule: Rule,
    /// The field that kept it from matching.
    pub field: String,
}

/// What another application would get.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Alternative {
    /// Applications.
    pub applications: Vec<String>,
    /// Their verdict.
    pub verdict: String,
    /// Rule, 0 for none.
    pub rule: u32,
}

/// Why a flow is decided as it is.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Explain {
    /// `allow`, `alert` or `deny`.
    pub verdict: String,
    /// Why.
    pub reason: String,
    /// Rule, 0 for none.
    pub rule: u32,
    /// The rule, if one decided.
    pub rule_detail: Option<Rule>,
    /// The mode that counted; empty when neither end is managed.
    pub mode: String,
    /// Client.
    pub from: ExplainSide,
    /// Server.
    pub to: ExplainSide,
    /// For which applications it would be another.
    pub alternatives: Vec<Alternative>,
    /// Earlier rules that one field kept from matching.
    pub near_misses: Vec<NearMiss>,
    /// All of it in plain words.
    pub text: String,
}

wrapper!(
    /// An explanation.
    ExplainData { explain: Explain }
);

/// A flow.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Flow {
    /// Its number, for following.
    pub sequence: u64,
    /// Node that saw it.
    pub node: String,
    /// Workload whose endpoint saw it.
    pub workload: String,
    /// `ingress` or `egress`, seen from that workload.
    pub direction: String,
    /// Client's id.
    pub client: String,
    /// Client's name.
    pub client_name: String,
    /// Client's address.
    pub client_ip: String,
    /// Client's port.
    pub client_port: u16,
    /// Server's id.
    pub server: String,
    /// Server's name.
    pub server_name: String,
    /// Server's address.
    pub server_ip: String,
    /// `tcp/8080`, `icmp`.
    pub port: String,
    /// Protocol.
    pub protocol: String,
    /// Server's port.
    pub server_port: u16,
    /// Application; empty while it is not known.
    pub application: String,
    /// `allow`, `alert` or `deny`.
    pub verdict: String,
    /// Rule, 0 for none.
    pub rule: u32,
    /// Why: `rule`, `default`, …
    pub reason: String,
    /// `new`, `active` or `closed`.
    pub state: String,
    /// Bytes of both directions.
    pub bytes: u64,
    /// Packets of both directions.
    pub packets: u64,
    /// First packet, nanoseconds since the epoch.
    pub first_seen: u64,
    /// Last packet, nanoseconds since the epoch.
    pub last_seen: u64,
}

/// Flows.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FlowsData {
    /// Oldest first.
    pub flows: Vec<Flow>,
    /// Number of the last flow that was seen: follow from there with `after`.
    pub sequence: u64,
    /// Records lost on the way, by stage.
    pub lost_by_stage: BTreeMap<String, u64>,
}

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

wrapper!(
    /// Settings: nv's own fields.
    SettingsData { settings: serde_json::Map<String, serde_json::Value> }
);

/// A policy file.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    /// Objects with a `kind`: Group, Rule, ServiceMode, Settings.
    #[schema(value_type = Vec<Object>)]
    pub documents: Vec<serde_json::Value>,
    /// Check and show what would change; change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a policy file changed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ApplyData {
    /// Changes in words.
    pub changes: Vec<String>,
    /// Whether they were only looked at.
    pub dry_run: bool,
    /// Revision at which they were made; 0 when none were.
    pub revision: u64,
}
