//! Tables: which columns a kind of object has, and how a cell is made of JSON.

use serde_json::Value;

use crate::output::escape;

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

/// The text of a cell: alternatives, then the value's own form.
pub(crate) fn cell(item: &Value, path: &str) -> String {
    let (paths, form) = match path.find(['@', '#']) {
        Some(at) => path.split_at(at),
        None => (path, ""),
    };
    let found = paths.split('|').find_map(|path| {
        let value = path.split('.').try_fold(item, |value, part| value.get(part))?;
        (!value.is_null() && value.as_str() != Some("")).then_some(value)
    });
    found.map_or_else(String::new, |value| shape(value, form))
}

fn shape(value: &Value, form: &str) -> String {
    match form {
        "#12" => plain(value).chars().take(12).collect(),
        "#count" => value
            .as_array()
            .map_or_else(|| plain(value), |list| list.len().to_string()),
        "@size" => value.as_u64().map_or_else(|| plain(value), size),
        "@sum" => value.as_object().map_or_else(
            || plain(value),
            |map| map.values().filter_map(Value::as_u64).sum::<u64>().to_string(),
        ),
        "@time" => value.as_i64().and_then(time).unwrap_or_else(|| plain(value)),
        "@ids" => value.as_array().map_or_else(|| plain(value), |list| ids(list)),
        "@ip" => addresses(value),
        "@criterion" => value
            .as_array()
            .map_or_else(|| plain(value), |list| criteria(list)),
        _ => plain(value),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(plain).collect::<Vec<_>>().join(","),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| format!("{key}={}", plain(value)))
            .collect::<Vec<_>>()
            .join(","),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// Numbers of rules, which a list has as such and a single object as whole rules.
fn ids(list: &[Value]) -> String {
    let ids = list.iter().map(|rule| plain(rule.get("id").unwrap_or(rule)));
    ids.collect::<Vec<_>>().join(",")
}

fn criteria(list: &[Value]) -> String {
    list.iter()
        .map(|entry| {
            let (key, op, value) = (cell(entry, "key"), cell(entry, "op"), cell(entry, "value"));
            if op.starts_with(['=', '!']) && op.len() <= 2 {
                format!("{key}{op}{value}")
            } else {
                format!("{key} {op} {value}")
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// NeuVector's form: `{eth0: [{ip, ip_prefix}]}`.
fn addresses(value: &Value) -> String {
    let Some(map) = value.as_object() else {
        return plain(value);
    };
    map.values()
        .filter_map(Value::as_array)
        .flatten()
        .map(|entry| cell(entry, "ip"))
        .filter(|ip| !ip.is_empty() && !ip.starts_with("fe80"))
        .collect::<Vec<_>>()
        .join(",")
}

/// Seconds since the epoch, or nanoseconds when the number is too large for that.
fn time(number: i64) -> Option<String> {
    let stamp = if number > 100_000_000_000 {
        jiff::Timestamp::from_nanosecond(i128::from(number)).ok()?
    } else {
        jiff::Timestamp::from_second(number).ok()?
    };
    Some(stamp.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut whole = bytes;
    let mut rest = 0;
    let mut unit = "B";
    for next in UNITS {
        if whole < 1024 {
            break;
        }
        rest = whole % 1024;
        whole /= 1024;
        unit = next;
    }
    format!("{whole}.{} {unit}", rest * 10 / 1024)
}

/// A table without borders, in columns as wide as they must be.
pub(crate) fn render(items: &[Value], columns: &Columns, all: bool, headers: bool, color: bool) -> String {
    let shown: Vec<_> = columns.list.iter().filter(|column| all || !column.wide).collect();
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    if headers {
        table.set_header(shown.iter().map(|column| column.title));
    }
    for item in items {
        table.add_row(shown.iter().map(|column| {
            let text = escape(&cell(item, column.path), false);
            let text = if text.is_empty() { "-".to_owned() } else { text };
            paint(comfy_table::Cell::new(&text), &text, color)
        }));
    }
    if !color {
        table.force_no_tty();
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

fn paint(cell: comfy_table::Cell, text: &str, color: bool) -> comfy_table::Cell {
    use comfy_table::Color::{Green, Red, Yellow};
    let tint = match text {
        "deny" | "Deny" => Red,
        "alert" | "violate" | "Monitor" => Yellow,
        "allow" | "Protect" => Green,
        _ => return cell,
    };
    if color { cell.fg(tint) } else { cell }
}

/// One object as one line, for streams: cells with two blanks between them.
pub(crate) fn row_line(item: &Value, columns: &Columns, all: bool, color: bool) -> String {
    columns
        .list
        .iter()
        .filter(|column| all || !column.wide)
        .map(|column| {
            let text = escape(&cell(item, column.path), false);
            let text = if text.is_empty() { "-".to_owned() } else { text };
            match (color, text.as_str()) {
                (true, "deny") => format!("\x1b[31m{text}\x1b[0m"),
                (true, "alert") => format!("\x1b[33m{text}\x1b[0m"),
                (true, "allow") => format!("\x1b[32m{text}\x1b[0m"),
                _ => text,
            }
        })
        .collect::<Vec<_>>()
        .join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells_take_alternatives_and_forms() {
        let item = json!({"name": "", "id": "0123456789abcdef", "bytes": 1536, "members": [1, 2],
            "interfaces": {"eth0": [{"ip": "10.0.0.2", "ip_prefix": 24}, {"ip": "fe80::1"}]},
            "criteria": [{"key": "app", "op": "=", "value": "web"}, {"key": "image", "op": "contains", "value": "x"}],
            "lost": {"ring": 2, "queue": 3}, "t": 0});
        assert_eq!(cell(&item, "name|id#12"), "0123456789ab");
        assert_eq!(cell(&item, "bytes@size"), "1.5 KiB");
        assert_eq!(cell(&item, "members#count"), "2");
        assert_eq!(cell(&item, "interfaces@ip"), "10.0.0.2");
        assert_eq!(cell(&item, "criteria@criterion"), "app=web image contains x");
        assert_eq!(cell(&item, "lost@sum"), "5");
        assert_eq!(cell(&item, "t@time"), "1970-01-01T00:00:00Z");
        assert_eq!(cell(&item, "nothing"), "");
        let rules = json!({"list": [1, 2], "one": [{"id": 1, "from": "web"}, {"id": 2}]});
        assert_eq!(cell(&rules, "list@ids"), "1,2");
        assert_eq!(cell(&rules, "one@ids"), "1,2");
    }

    #[test]
    fn a_table_shows_wide_columns_only_when_asked() {
        let rules = [
            json!({"id": 1, "from": "web", "to": "app", "ports": "tcp/80", "action": "allow", "comment": "c"}),
        ];
        let narrow = render(&rules, &RULES, false, true, false);
        assert!(narrow.contains("FROM") && !narrow.contains("COMMENT"), "{narrow}");
        assert!(render(&rules, &RULES, true, false, false).contains('c'));
        assert!(!render(&rules, &RULES, false, false, false).contains("FROM"));
    }

    #[test]
    fn names_from_outside_cannot_drive_the_terminal() {
        let rules = [json!({"id": 1, "from": "\x1b[2Jweb"})];
        assert!(!render(&rules, &RULES, false, true, false).contains('\x1b'));
    }
}
