//! Where we differ from NeuVector's document, each with its reason. A line that is no longer needed fails the test as well.

/// Fields of ours that NeuVector's objects do not have.
pub(crate) const ADDED: &[(&str, &str)] = &[
    (
        "RESTDomain.boundary",
        "whether it has one, by its label or by our setting",
    ),
    (
        "RESTGroup.cfg_type",
        "only the single group has it there; a list needs it as much",
    ),
    ("RESTGroup.comment", "a group's free text"),
    (
        "RESTGroup.diagnostics",
        "what of a group is not enforced must be seen",
    ),
    ("RESTGroupDetail.comment", "a group's free text"),
    (
        "RESTGroupDetail.diagnostics",
        "what of a group is not enforced must be seen",
    ),
    (
        "RESTPolicyRule.diagnostics",
        "what of a rule is not enforced must be seen",
    ),
    (
        "RESTSnifferInfo.dropped",
        "packets that a capture has lost must be seen",
    ),
    ("RESTSnifferInfo.packets", "packets of a capture"),
    ("RESTWorkload.runtime", "which runtime told of it"),
    ("RESTWorkloadDetail.cap_change_mode", "as in the list"),
    ("RESTWorkloadDetail.cap_sniff", "as in the list"),
    ("RESTWorkloadDetail.enforcer_name", "as in the list"),
    ("RESTWorkloadDetail.quarantine_reason", "as in the list"),
    ("RESTWorkloadDetail.runtime", "which runtime told of it"),
    ("Violation.reason", "why the verdict is what it is"),
];

const ONLY_POLICY: &str = "only the settings of policy are served";
const NO_SUCH_SWITCH: &str = "policy is always on, and who is not known follows unknown_endpoint";
const SENT_BACK: &str = "what a list answers with may be sent back; it is ignored";
const ONE_ROLE: &str = "a user has one role, for everything";
const NOT_READ: &str = "the runtimes are not asked for it";
const NO_SCANS: &str = "nothing is scanned";
const NO_CHILDREN: &str = "a pod is one workload";
const NO_PROFILES: &str = "there are no process profiles";
const NO_MESH: &str = "sidecars are not told apart";
const NO_ROLE: &str = "nothing is known to be of the platform";
const NO_METERS: &str = "sessions and bandwidth of groups are not metered";
const NO_ORCHESTRATOR: &str = "no orchestrator is connected";
const NO_SCORES: &str = "services are not scored";
const NO_SECURED: &str = "when a workload came under guard is not kept";

/// Fields that NeuVector's document requires and our answers do not have.
pub(crate) const LEFT_OUT: &[(&str, &str)] = &[
    ("RESTSystemConfigNetSvcV2.detect_unmanaged_wl", NO_SUCH_SWITCH),
    ("RESTSystemConfigNetSvcV2.disable_net_policy", NO_SUCH_SWITCH),
    (
        "RESTSystemConfigNetSvcV2.new_service_profile_baseline",
        NO_PROFILES,
    ),
    (
        "RESTSystemConfigNewSvcV2.new_service_profile_baseline",
        NO_PROFILES,
    ),
    ("RESTSystemConfigV2.auth", ONLY_POLICY),
    ("RESTSystemConfigV2.ibmsa", ONLY_POLICY),
    ("RESTSystemConfigV2.misc", ONLY_POLICY),
    ("RESTSystemConfigV2.proxy", ONLY_POLICY),
    ("RESTSystemConfigV2.scanner_autoscale", ONLY_POLICY),
    ("RESTSystemConfigV2.syslog", ONLY_POLICY),
    ("RESTSystemConfigV2.webhooks", ONLY_POLICY),
    ("RESTAgent.cpus", NOT_READ),
    ("RESTAgent.created_at", NOT_READ),
    ("RESTAgent.domain", NOT_READ),
    ("RESTAgent.labels", NOT_READ),
    ("RESTAgent.memory_limit", NOT_READ),
    ("RESTAgent.network_mode", NOT_READ),
    ("RESTAgent.pid_mode", NOT_READ),
    ("RESTController.cpus", NOT_READ),
    ("RESTController.created_at", NOT_READ),
    ("RESTController.domain", NOT_READ),
    ("RESTController.labels", NOT_READ),
    ("RESTController.memory_limit", NOT_READ),
    ("RESTController.orch_conn_last_error", NO_ORCHESTRATOR),
    ("RESTController.orch_conn_status", NO_ORCHESTRATOR),
    ("RESTGroupDetail.group_band_width", NO_METERS),
    ("RESTGroupDetail.group_sess_cur", NO_METERS),
    ("RESTGroupDetail.group_sess_rate", NO_METERS),
    ("RESTGroupDetail.monitor_metric", NO_METERS),
    ("RESTService.baseline_profile", NO_PROFILES),
    ("RESTService.egress_exposure", NO_SCORES),
    ("RESTService.ingress_exposure", NO_SCORES),
    ("RESTService.not_scored", NO_SCORES),
    ("RESTService.profile_mode", NO_PROFILES),
    ("RESTToken.password", "a password is never shown"),
    ("RESTWorkload.author", NOT_READ),
    ("RESTWorkload.children", NO_CHILDREN),
    ("RESTWorkload.cpus", NOT_READ),
    ("RESTWorkload.exit_code", NOT_READ),
    ("RESTWorkload.finished_at", NOT_READ),
    ("RESTWorkload.image_id", NOT_READ),
    ("RESTWorkload.memory_limit", NOT_READ),
    ("RESTWorkload.platform_role", NO_ROLE),
    ("RESTWorkload.pod_name", NO_CHILDREN),
    ("RESTWorkload.run_as_root", NOT_READ),
    ("RESTWorkload.scan_summary", NO_SCANS),
    ("RESTWorkload.secured_at", NO_SECURED),
    ("RESTWorkload.service_account", NOT_READ),
    ("RESTWorkload.service_mesh", NO_MESH),
    ("RESTWorkload.service_mesh_sidecar", NO_MESH),
    ("RESTWorkloadBrief.author", NOT_READ),
    ("RESTWorkloadBrief.baseline_profile", NO_PROFILES),
    ("RESTWorkloadBrief.children", NO_CHILDREN),
    ("RESTWorkloadBrief.image_created_at", NOT_READ),
    ("RESTWorkloadBrief.image_id", NOT_READ),
    ("RESTWorkloadBrief.platform_role", NO_ROLE),
    ("RESTWorkloadBrief.pod_name", NO_CHILDREN),
    ("RESTWorkloadBrief.profile_mode", NO_PROFILES),
    ("RESTWorkloadBrief.run_as_root", NOT_READ),
    ("RESTWorkloadBrief.scan_summary", NO_SCANS),
    ("RESTWorkloadBrief.service_mesh", NO_MESH),
    ("RESTWorkloadBrief.service_mesh_sidecar", NO_MESH),
    ("RESTWorkloadDetail.children", NO_CHILDREN),
    ("RESTWorkloadDetail.cpus", NOT_READ),
    ("RESTWorkloadDetail.exit_code", NOT_READ),
    ("RESTWorkloadDetail.finished_at", NOT_READ),
    ("RESTWorkloadDetail.memory_limit", NOT_READ),
    ("RESTWorkloadDetail.platform_role", NO_ROLE),
    ("RESTWorkloadDetail.secured_at", NO_SECURED),
];

/// Fields that callers may send to NeuVector and we refuse, by name.
pub(crate) const REFUSED: &[(&str, &str)] = &[
    ("RESTSysNetConfigConfig.detect_unmanaged_wl", NO_SUCH_SWITCH),
    ("RESTSysNetConfigConfig.disable_net_policy", NO_SUCH_SWITCH),
    ("RESTSystemConfigConfigDataV2.fed_config", ONLY_POLICY),
    ("RESTSystemConfigConfigV2.auth_cfg", ONLY_POLICY),
    ("RESTSystemConfigConfigV2.ibmsa_cfg", ONLY_POLICY),
    ("RESTSystemConfigConfigV2.misc_cfg", ONLY_POLICY),
    ("RESTSystemConfigConfigV2.proxy_cfg", ONLY_POLICY),
    ("RESTSystemConfigConfigV2.remote_repositories", ONLY_POLICY),
    ("RESTSystemConfigConfigV2.scanner_autoscale_cfg", ONLY_POLICY),
    ("RESTSystemConfigConfigV2.syslog_cfg", ONLY_POLICY),
    ("RESTSystemConfigConfigV2.tls_cfg", ONLY_POLICY),
    ("RESTSystemConfigConfigV2.webhooks", ONLY_POLICY),
    (
        "RESTSystemConfigSvcCfgV2.new_service_profile_baseline",
        NO_PROFILES,
    ),
    ("RESTAuthData.Token", "there is no single sign-on"),
    ("RESTServiceBatchConfig.baseline_profile", NO_PROFILES),
    ("RESTServiceBatchConfig.not_scored", NO_SCORES),
    ("RESTUser.extra_permissions", ONE_ROLE),
    ("RESTUser.extra_permissions_domains", ONE_ROLE),
    ("RESTUser.remote_role_permissions", ONE_ROLE),
    ("RESTUser.role_domains", ONE_ROLE),
    ("RESTUserConfig.role_domains", ONE_ROLE),
    (
        "RESTUserConfig.timeout",
        "sessions of all users last equally long",
    ),
];

/// Fields that callers may send to us only.
pub(crate) const TAKEN: &[(&str, &str)] = &[
    ("RESTGroupConfig.comment", "a group's free text"),
    ("RESTPolicyRule.diagnostics", SENT_BACK),
    ("RESTPolicyRuleConfig.created_timestamp", SENT_BACK),
    ("RESTPolicyRuleConfig.diagnostics", SENT_BACK),
    ("RESTPolicyRuleConfig.last_match_timestamp", SENT_BACK),
    ("RESTPolicyRuleConfig.last_modified_timestamp", SENT_BACK),
    ("RESTPolicyRuleConfig.learned", SENT_BACK),
    ("RESTPolicyRuleConfig.match_counter", SENT_BACK),
    (
        "RESTServiceBatchConfig.name",
        "as NeuVector's configuration of one service has it",
    ),
];
