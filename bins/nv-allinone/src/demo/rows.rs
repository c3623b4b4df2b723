//! Rows of what is shown, made of what REST answers with.

use nv_api::rest;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Workload {
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
    pub(crate) id: u32,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) ports: String,
    pub(crate) applications: Vec<String>,
    pub(crate) action: String,
    pub(crate) learned: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) client: String,
    pub(crate) server: String,
    pub(crate) port: u16,
    pub(crate) verdict: String,
    pub(crate) sessions: u64,
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

impl From<rest::Workload> for Workload {
    fn from(item: rest::Workload) -> Self {
        let all = item.interfaces.into_values().flatten().map(|address| address.ip);
        // Link-local ones say nothing to a reader.
        let addresses = all.filter(|address| !address.starts_with("fe80")).collect();
        Self {
            name: item.display_name,
            service: item.service,
            addresses,
        }
    }
}

impl From<rest::Service> for Service {
    fn from(item: rest::Service) -> Self {
        Self {
            name: short(&item.name),
            mode: item.policy_mode,
        }
    }
}

impl From<rest::Conversation> for Conversation {
    fn from(item: rest::Conversation) -> Self {
        Self {
            from: item.from_name,
            to: item.to_name,
            applications: item.applications,
            ports: item.ports,
            bytes: item.bytes,
            verdict: verdict(item.policy_action),
        }
    }
}

impl From<rest::Rule> for Rule {
    fn from(item: rest::Rule) -> Self {
        Self {
            id: item.id,
            from: short(&item.from),
            to: short(&item.to),
            ports: item.ports,
            applications: item.applications,
            action: item.action,
            learned: item.learned,
        }
    }
}

impl From<rest::Violation> for Violation {
    fn from(item: rest::Violation) -> Self {
        Self {
            client: item.client_name,
            server: item.server_name,
            port: item.server_port,
            verdict: verdict(item.policy_action),
            sessions: item.sessions,
        }
    }
}

/// A service's group without what is the same for all of them.
fn short(group: &str) -> String {
    group.strip_prefix("nv.").unwrap_or(group).to_owned()
}

/// NeuVector's `violate` is the verdict alert.
fn verdict(action: String) -> String {
    if action == "violate" {
        "alert".to_owned()
    } else {
        action
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_says_what_it_lets_pass() {
        let rule = |ports: &str, applications: &[&str]| {
            let rule = Rule {
                id: 10_000,
                from: short("nv.web"),
                to: short("nodes"),
                ports: ports.to_owned(),
                applications: applications.iter().map(|&name| name.to_owned()).collect(),
                action: "allow".to_owned(),
                learned: true,
            };
            assert_eq!((rule.from.as_str(), rule.to.as_str()), ("web", "nodes"));
            rule.what()
        };
        assert_eq!(rule("any", &["HTTP"]), "HTTP");
        assert_eq!(rule("tcp/80", &["any"]), "tcp/80");
        assert_eq!(rule("tcp/80", &["HTTP", "SSL"]), "HTTP,SSL tcp/80");
        assert_eq!(verdict("violate".to_owned()), "alert");
    }
}
