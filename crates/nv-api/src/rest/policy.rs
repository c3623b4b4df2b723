//! Groups, rules, services, settings, policy files.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

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

/// A member of a group: a workload, in short.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// Workload id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Name for people.
    pub display_name: String,
    /// Image.
    pub image: String,
    /// Domain.
    pub domain: String,
    /// As a workload's.
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
    /// Whether its mode can be changed.
    pub cap_change_mode: bool,
    /// Runs privileged.
    pub privileged: bool,
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
    /// What of it is not enforced, and why.
    pub diagnostics: Vec<String>,
}

/// A group with the rules that name it: as in the list, but for the rules, which are whole.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct GroupDetail {
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
    /// Rules that name it, in the order in which they are tried.
    pub policy_rules: Vec<Rule>,
    /// Always empty.
    pub response_rules: Vec<u32>,
    /// What of it is not enforced, and why.
    pub diagnostics: Vec<String>,
}

wrapper!(
    /// All groups.
    GroupsData { groups: Vec<Group> }
);
wrapper!(
    /// One group.
    GroupData { group: GroupDetail }
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
    /// Flows that it decided since the controller started.
    pub match_counter: u64,
    /// When it decided one last, seconds since the epoch; 0: it has not.
    pub last_match_timestamp: i64,
    /// What of it is not enforced, and why.
    pub diagnostics: Vec<String>,
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
    /// Ignored.
    pub diagnostics: Option<Vec<String>>,
}

/// Body of a rule to change.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleConfigData {
    /// The rule.
    pub config: RuleConfig,
    /// Must be false, if it is there: a rule is one rule.
    #[serde(default)]
    pub replicate: bool,
}

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

wrapper!(
    /// Settings: nv's own fields.
    SettingsData { settings: serde_json::Map<String, serde_json::Value> }
);

/// How new services begin.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewServiceConfig {
    /// Discover, Monitor or Protect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_service_policy_mode: Option<String>,
}

/// What holds for all services.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetServiceConfig {
    /// Whether one mode holds for all services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net_service_status: Option<bool>,
    /// That mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net_service_policy_mode: Option<String>,
    /// Whether the stricter mode of two services counts (setting `contention`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict_group_mode: Option<bool>,
}

/// Modes that go on by themselves. Durations are in seconds.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ModeAutoConfig {
    /// From Discover to Monitor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode_auto_d2m: Option<bool>,
    /// After so long in Discover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode_auto_d2m_duration: Option<u64>,
    /// From Monitor to Protect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode_auto_m2p: Option<bool>,
    /// After so long in Monitor without a violation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode_auto_m2p_duration: Option<u64>,
}

/// The settings of policy, in NeuVector's words.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct SystemConfig {
    /// New services.
    pub new_svc: NewServiceConfig,
    /// All services.
    pub net_svc: NetServiceConfig,
    /// Modes that go on by themselves.
    pub mode_auto: ModeAutoConfig,
}

wrapper!(
    /// Settings.
    SystemConfigData { config: SystemConfig }
);

/// What is to change of a system's configuration; what is left out stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SystemConfigSvc {
    /// New services.
    #[serde(default)]
    pub svc_cfg: NewServiceConfig,
}

/// A change of settings.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SystemConfigChange {
    /// New services.
    #[serde(default)]
    pub config_v2: SystemConfigSvc,
    /// All services.
    #[serde(default)]
    pub net_config: NetServiceConfig,
    /// Modes that go on by themselves.
    #[serde(default)]
    pub atmo_config: ModeAutoConfig,
}

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
