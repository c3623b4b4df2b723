//! Which columns a kind of object has.

/// One column.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    /// Header.
    pub(crate) title: &'static str,
    /// Path in the object, parts with `.` between them; `|` separates alternatives, the first that is there counts.
    pub(crate) path: &'static str,
    /// Only in wide form.
    pub(crate) wide: bool,
}

/// Columns of a kind of object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Columns {
    /// Path of the name.
    pub(crate) name: &'static str,
    /// In order.
    pub(crate) list: &'static [Column],
}

const fn col(title: &'static str, path: &'static str) -> Column {
    Column {
        title,
        path,
        wide: false,
    }
}

const fn wide(title: &'static str, path: &'static str) -> Column {
    Column {
        title,
        path,
        wide: true,
    }
}

pub(crate) const WORKLOADS: Columns = Columns {
    name: "display_name|name|id",
    list: &[
        col("NAME", "display_name|name"),
        col("ID", "id#12"),
        col("SERVICE", "service_group|service"),
        col("NODE", "host_name"),
        col("STATE", "state"),
        col("MODE", "policy_mode"),
        col("ADDRESSES", "interfaces@ip"),
        wide("IMAGE", "image"),
        wide("DOMAIN", "domain"),
        wide("APPLICATIONS", "applications"),
        wide("LABELS", "labels"),
        wide("QUARANTINE", "quarantine_reason"),
    ],
};

pub(crate) const GROUPS: Columns = Columns {
    name: "name",
    list: &[
        col("NAME", "name"),
        col("KIND", "kind"),
        col("ORIGIN", "cfg_type"),
        col("MODE", "policy_mode"),
        col("MEMBERS", "members#count"),
        col("CRITERIA", "criteria@criterion"),
        wide("RULES", "policy_rules@ids"),
        wide("COMMENT", "comment"),
        wide("NOT ENFORCED", "diagnostics"),
    ],
};

pub(crate) const RULES: Columns = Columns {
    name: "id",
    list: &[
        col("ID", "id"),
        col("FROM", "from"),
        col("TO", "to"),
        col("PORTS", "ports"),
        col("APPLICATIONS", "applications"),
        col("ACTION", "action"),
        col("ORIGIN", "cfg_type"),
        wide("DISABLED", "disable"),
        wide("COMMENT", "comment"),
        wide("MODIFIED", "last_modified_timestamp@time"),
        wide("HITS", "match_counter"),
        wide("NOT ENFORCED", "diagnostics"),
    ],
};

pub(crate) const MEMBERS: Columns = Columns {
    name: "display_name|name|id",
    list: &[
        col("NAME", "display_name|name"),
        col("ID", "id#12"),
        col("STATE", "state"),
        col("MODE", "policy_mode"),
        col("IMAGE", "image"),
    ],
};

pub(crate) const CONTEXTS: Columns = Columns {
    name: "name",
    list: &[
        col("CURRENT", "mark"),
        col("NAME", "name"),
        col("SERVER", "server"),
        col("CA", "ca"),
        col("LOGGED IN", "logged_in"),
        wide("INSECURE", "insecure"),
        wide("TOKEN FILE", "token_file"),
    ],
};

pub(crate) const SETTINGS: Columns = Columns {
    name: "setting",
    list: &[col("SETTING", "setting"), col("VALUE", "value")],
};

pub(crate) const QUARANTINES: Columns = Columns {
    name: "id",
    list: &[
        col("NAME", "name"),
        col("ID", "id#12"),
        col("SINCE", "since"),
        col("REASON", "reason"),
    ],
};

pub(crate) const ORIGINS: Columns = Columns {
    name: "setting",
    list: &[
        col("SETTING", "setting"),
        col("VALUE", "value"),
        col("ORIGIN", "origin"),
    ],
};

pub(crate) const SERVICES: Columns = Columns {
    name: "name",
    list: &[
        col("NAME", "name"),
        col("MODE", "policy_mode"),
        col("DOMAIN", "domain"),
        col("MEMBERS", "members#count"),
        wide("RULES", "policy_rules@ids"),
    ],
};

pub(crate) const CONVERSATIONS: Columns = Columns {
    name: "from",
    list: &[
        col("FROM", "from_name|from"),
        col("TO", "to_name|to"),
        col("APPLICATIONS", "applications"),
        col("PORTS", "ports"),
        col("VERDICT", "policy_action"),
        col("SESSIONS", "sessions"),
        col("BYTES", "bytes@size"),
        wide("LAST SEEN", "last_seen_at"),
    ],
};

pub(crate) const FILE_FLOWS: Columns = Columns {
    name: "client",
    list: &[
        col("CLIENT", "client"),
        col("SERVER", "server"),
        col("PROTO", "proto"),
        col("APPLICATION", "application"),
        col("PACKETS", "packets"),
        col("BYTES", "bytes@size"),
        col("RTT MS", "rtt_ms"),
        col("RESETS", "resets"),
        col("DENIED", "denied"),
        col("STATE", "state"),
        wide("TO SERVER", "bytes_to_server@size"),
        wide("TO CLIENT", "bytes_to_client@size"),
        wide("SECONDS", "seconds"),
    ],
};

pub(crate) const FILE_SUMMARY: Columns = Columns {
    name: "file",
    list: &[
        col("FILE", "file"),
        col("PACKETS", "packets"),
        col("BYTES", "bytes@size"),
        col("SECONDS", "seconds"),
        col("FIRST", "first@time"),
        col("LOST", "dropped"),
        col("CONVERSATIONS", "conversations"),
        col("NOT IP", "not_ip"),
        col("DENIED", "denied"),
        col("RESETS", "resets"),
        col("INTERFACES", "interfaces"),
        col("PROTOCOLS", "protocols"),
        col("APPLICATIONS", "applications"),
    ],
};

pub(crate) const VIOLATIONS: Columns = Columns {
    name: "id",
    list: &[
        col("TIME", "reported_at"),
        col("FROM", "client_name|client_id"),
        col("TO", "server_name|server_id"),
        col("PORT", "server_port@port"),
        col("APPLICATIONS", "applications"),
        col("VERDICT", "policy_action"),
        col("RULE", "policy_id"),
        col("SESSIONS", "sessions"),
        wide("CLIENT IP", "client_ip"),
        wide("SERVER IP", "server_ip"),
        wide("NODE", "host_name"),
    ],
};

pub(crate) const NODES: Columns = Columns {
    name: "id|name",
    list: &[
        col("NAME", "id|name"),
        col("IN FORCE", "revision"),
        col("WANTED", "wanted_revision|wanted"),
        col("ENDPOINTS", "endpoints"),
        col("HOOK", "hook"),
        col("LOST EVENTS", "lost_events@sum"),
        col("DEGRADED", "degraded"),
        wide("RUNTIMES", "runtimes"),
        wide("VERSION", "version"),
        wide("KERNEL", "kernel"),
        wide("ADDRESSES", "addresses"),
        wide("LAST CONTACT", "seen@time"),
    ],
};

pub(crate) const ENDPOINTS: Columns = Columns {
    name: "name",
    list: &[
        col("NAME", "name"),
        col("WORKLOAD", "workload_name|workload"),
        col("NODE", "node"),
        col("MODE", "mode"),
    ],
};

pub(crate) const COUNTERS: Columns = Columns {
    name: "direction",
    list: &[
        col("DIRECTION", "direction"),
        col("PACKETS", "packets"),
        col("BYTES", "bytes@size"),
        col("FLOWS", "flows"),
        col("ALLOWED", "allowed"),
        col("ALERTED", "alerted"),
        col("DENIED", "denied"),
    ],
};

pub(crate) const REASONS: Columns = Columns {
    name: "reason",
    list: &[
        col("DIRECTION", "direction"),
        col("REASON", "reason"),
        col("PACKETS", "packets"),
    ],
};

pub(crate) const FLOWS: Columns = Columns {
    name: "tuple",
    list: &[
        col("TIME", "last_seen@time"),
        col("FROM", "client_name|client"),
        col("TO", "server_name|server"),
        col("PORT", "port"),
        col("APPLICATION", "application"),
        col("VERDICT", "verdict"),
        col("RULE", "rule"),
        col("REASON", "reason"),
        col("STATE", "state"),
        col("BYTES", "bytes@size"),
        wide("CLIENT IP", "client_ip"),
        wide("SERVER IP", "server_ip"),
        wide("NODE", "node"),
    ],
};

const REPLAYED: [Column; 12] = [
    col("FROM", "client.name"),
    col("TO", "server.name"),
    col("PORT", "port"),
    col("APPLICATION", "application"),
    col("VERDICT", "verdict"),
    col("RULE", "rule"),
    col("REASON", "reason"),
    col("PACKETS", "packets"),
    col("DENIED", "denied_packets"),
    col("BYTES", "bytes@size"),
    wide("DECIDED BY", "decided_by"),
    wide("FIRST SEEN", "first_seen@time"),
];

pub(crate) const REPLAY: Columns = Columns {
    name: "client.name",
    list: &REPLAYED,
};

/// With the verdict of another policy.
pub(crate) const REPLAY_AGAINST: Columns = Columns {
    name: "client.name",
    list: &[
        REPLAYED[0],
        REPLAYED[1],
        REPLAYED[2],
        REPLAYED[3],
        REPLAYED[4],
        REPLAYED[5],
        REPLAYED[6],
        col("AGAINST", "against.verdict"),
        col("ITS RULE", "against.rule"),
        col("CHANGED", "changed"),
        col("PACKETS", "packets"),
        REPLAYED[10],
        REPLAYED[11],
    ],
};

pub(crate) const SIMULATED: Columns = Columns {
    name: "flow.client_name",
    list: &[
        col("FROM", "flow.client_name|flow.client"),
        col("TO", "flow.server_name|flow.server"),
        col("PORT", "flow.port"),
        col("APPLICATION", "flow.application"),
        col("FLOWS", "count"),
        col("NOW", "before.verdict"),
        col("RULE", "before.rule"),
        col("THEN", "after.verdict"),
        col("ITS RULE", "after.rule"),
        col("REASON", "after.reason"),
        wide("MODE", "after.mode"),
        wide("CLIENT IP", "flow.client_ip"),
        wide("SERVER IP", "flow.server_ip"),
        wide("LAST SEEN", "flow.last_seen@time"),
    ],
};

pub(crate) const TRIGGER: Columns = Columns {
    name: "ring_kib",
    list: &[
        col("RING KIB", "ring_kib"),
        col("RULES", "rules"),
        col("SECONDS", "duration"),
        col("INTERVAL", "interval"),
    ],
};

pub(crate) const CAPTURES: Columns = Columns {
    name: "id",
    list: &[
        col("ID", "id"),
        col("WORKLOAD", "container_id#12"),
        col("STATUS", "status"),
        col("SIZE", "size@size"),
        col("FILES", "file_number"),
        col("STARTED", "start_time@time"),
        wide("NODE", "enforcer_id"),
        wide("DETAIL", "args"),
    ],
};
