//! Conversations, violations, flows, explanations.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::policy::Rule;

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

/// One end, explained.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ExplainSide {
    /// As it was asked.
    pub name: String,
    /// Its groups.
    pub groups: Vec<String>,
    /// Mode of its service.
    pub mode: Option<String>,
    /// DNS names because of which it is in groups, as `group: name`.
    #[serde(default)]
    pub names: Vec<String>,
    /// Its domain, if that has a boundary.
    #[serde(default)]
    pub bounded_domain: Option<String>,
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
    /// Group of the client's service; empty where it has none, here and below.
    #[serde(default)]
    pub client_service: String,
    /// Client's domain.
    #[serde(default)]
    pub client_domain: String,
    /// Client's labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub client_labels: BTreeMap<String, String>,
    /// Server's id.
    pub server: String,
    /// Server's name.
    pub server_name: String,
    /// Server's address.
    pub server_ip: String,
    /// Group of the server's service.
    #[serde(default)]
    pub server_service: String,
    /// Server's domain.
    #[serde(default)]
    pub server_domain: String,
    /// Server's labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub server_labels: BTreeMap<String, String>,
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

/// A policy file, and the flows that it is tried on.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SimulateRequest {
    /// Objects with a `kind`: Group, Rule, ServiceMode, Settings, as for `/v1/apply`.
    #[schema(value_type = Vec<Object>)]
    pub documents: Vec<serde_json::Value>,
    /// Which flows, as `where` of `/v1/flow`; empty: all that are kept.
    #[serde(default, rename = "where")]
    pub clauses: String,
    /// Only flows seen in the last so many seconds.
    #[serde(default)]
    pub since: Option<u64>,
}

/// What a policy says of a flow.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Judged {
    /// `allow`, `alert` or `deny`.
    pub verdict: String,
    /// Rule, 0 for none.
    pub rule: u32,
    /// Why: `rule`, `default`, …
    pub reason: String,
    /// The mode that counted; empty when neither end is managed.
    pub mode: String,
}

/// Flows that are alike, and whose verdict would be another.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AffectedFlow {
    /// The newest of them.
    pub flow: Flow,
    /// How many.
    pub count: u64,
    /// By the policy in force.
    pub before: Judged,
    /// By the proposed one.
    pub after: Judged,
}

/// What recorded flows would get.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SimulateData {
    /// What the file changes, in words.
    pub changes: Vec<String>,
    /// Flows that were judged.
    pub flows: u64,
    /// Those whose verdict would be another, the most frequent first.
    pub affected: Vec<AffectedFlow>,
}
