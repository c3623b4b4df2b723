//! Rows of what is shown, made of the JSON that REST answers with.

use serde_json::Value;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Workload {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) service: String,
    pub(crate) addresses: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    /// Without `nv.`.
    pub(crate) name: String,
    pub(crate) mode: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Conversation {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) applications: Vec<String>,
    pub(crate) ports: Vec<String>,
    pub(crate) bytes: u64,
    pub(crate) verdict: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) id: u64,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) ports: String,
    pub(crate) applications: Vec<String>,
    pub(crate) action: String,
    pub(crate) learned: bool,
}

impl Rule {
    /// Applications and ports in short.
    pub(crate) fn what(&self) -> String {
        let applications = self.applications.join(",");
        match (applications.as_str(), self.ports.as_str()) {
            ("" | "any", ports) => ports.to_owned(),
            (applications, "" | "any") => applications.to_owned(),
            (applications, ports) => format!("{applications} {ports}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) client: String,
    pub(crate) server: String,
    pub(crate) port: String,
    pub(crate) verdict: String,
    pub(crate) sessions: u64,
}

/// Why a verdict is what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Explanation {
    pub(crate) verdict: String,
    pub(crate) rule: u64,
    pub(crate) mode: String,
    pub(crate) text: String,
}

impl Workload {
    pub(super) fn of(item: &Value) -> Self {
        Self {
            id: text(item, &["id"]),
            name: text(item, &["display_name", "name"]),
            service: short(&text(item, &["service", "service_group"])),
            addresses: addresses(item.get("interfaces")),
        }
    }
}

impl Service {
    pub(super) fn of(item: &Value) -> Self {
        Self {
            name: short(&text(item, &["name"])),
            mode: text(item, &["policy_mode"]),
        }
    }
}

impl Conversation {
    /// Ends are workload ids in NeuVector's answer; `names` says what they are called.
    pub(super) fn of(item: &Value, names: &[Workload]) -> Self {
        Self {
            from: named(names, &text(item, &["from_name", "from"])),
            to: named(names, &text(item, &["to_name", "to"])),
            applications: texts(item.get("applications")),
            ports: texts(item.get("ports")),
            bytes: number(item, "bytes"),
            verdict: text(item, &["policy_action"]),
        }
    }
}

impl Rule {
    pub(super) fn of(item: &Value) -> Self {
        Self {
            id: number(item, "id"),
            from: short(&text(item, &["from"])),
            to: short(&text(item, &["to"])),
            ports: text(item, &["ports"]),
            applications: texts(item.get("applications")),
            action: text(item, &["action"]),
            learned: item.get("learned").and_then(Value::as_bool).unwrap_or_default()
                || text(item, &["cfg_type"]) == "learned",
        }
    }
}

impl Violation {
    pub(super) fn of(item: &Value, names: &[Workload]) -> Self {
        Self {
            client: named(names, &text(item, &["client_name", "client_id"])),
            server: named(names, &text(item, &["server_name", "server_id"])),
            port: number(item, "server_port").to_string(),
            verdict: text(item, &["policy_action"]),
            sessions: number(item, "sessions").max(1),
        }
    }
}

impl Explanation {
    /// `None`: there is no verdict in it.
    pub(super) fn of(item: &Value) -> Option<Self> {
        let verdict = text(item, &["verdict"]);
        (!verdict.is_empty()).then(|| Self {
            verdict,
            rule: number(item, "rule"),
            mode: text(item, &["mode"]),
            text: text(item, &["text"]),
        })
    }
}

/// The first of these fields that is there and not empty.
pub(super) fn text(item: &Value, fields: &[&str]) -> String {
    let found = fields.iter().find_map(|field| match item.get(field)? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    });
    found.unwrap_or_default()
}

pub(super) fn number(item: &Value, field: &str) -> u64 {
    item.get(field).and_then(Value::as_u64).unwrap_or_default()
}

fn texts(list: Option<&Value>) -> Vec<String> {
    let list = list.and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// Addresses of interfaces, an object of lists as NeuVector has it; link-local ones say nothing to a reader.
fn addresses(interfaces: Option<&Value>) -> Vec<String> {
    let lists = interfaces
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(|map| map.values());
    let all = lists
        .filter_map(Value::as_array)
        .flatten()
        .map(|item| text(item, &["ip"]));
    all.filter(|address| !address.is_empty() && !address.starts_with("fe80"))
        .collect()
}

/// A service's group without what is the same for all of them.
fn short(group: &str) -> String {
    group.strip_prefix("nv.").unwrap_or(group).to_owned()
}

fn named(names: &[Workload], id: &str) -> String {
    let found = names.iter().find(|workload| workload.id == id);
    found.map_or_else(|| short(id), |workload| workload.name.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_become_rows_with_names() {
        let workload = Workload::of(&json!({
            "id": "netns:nv-demo-web", "name": "web", "display_name": "web", "service": "web",
            "service_group": "nv.web",
            "interfaces": {"eth0": [
                {"ip": "198.18.77.11", "ip_prefix": 24}, {"ip": "fe80::1", "ip_prefix": 64}, {"ip": "fd00::b", "ip_prefix": 64}
            ]}
        }));
        assert_eq!(
            (workload.name.as_str(), workload.service.as_str()),
            ("web", "web")
        );
        assert_eq!(workload.addresses, ["198.18.77.11", "fd00::b"]);
        let names = [workload];
        let conversation = Conversation::of(
            &json!({"from": "netns:nv-demo-web", "to": "nv.app", "applications": ["HTTP"], "ports": ["tcp/8080"],
                "bytes": 7, "policy_action": "allow"}),
            &names,
        );
        assert_eq!(
            (
                conversation.from.as_str(),
                conversation.to.as_str(),
                conversation.bytes
            ),
            ("web", "app", 7)
        );
        let violation = Violation::of(
            &json!({"client_id": "netns:nv-demo-web", "server_name": "db", "server_port": 6379,
                "policy_action": "violate"}),
            &names,
        );
        assert_eq!(
            (
                violation.client.as_str(),
                violation.port.as_str(),
                violation.sessions
            ),
            ("web", "6379", 1)
        );
        assert_eq!(Explanation::of(&json!({"rule": 1})), None);
    }

    #[test]
    fn a_rule_says_what_it_lets_pass() {
        let rule = |ports: &str, applications: &[&str]| {
            Rule::of(
                &json!({"id": 10_000, "from": "nv.web", "to": "nv.app", "ports": ports,
                "applications": applications, "action": "allow", "learned": true}),
            )
            .what()
        };
        assert_eq!(rule("any", &["HTTP"]), "HTTP");
        assert_eq!(rule("tcp/80", &["any"]), "tcp/80");
        assert_eq!(rule("tcp/80", &["HTTP", "SSL"]), "HTTP,SSL tcp/80");
    }
}
