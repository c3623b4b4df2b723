//! What the filter words ask, asked of JSON: flows of a file, conversations and violations of a list.

use std::collections::BTreeMap;
use std::net::IpAddr;

use nv_api::filter::{End, Facts, FlowFilter, Of, Word, protocol, verdict};
use nv_types::IpProto;
use serde_json::Value;

use crate::error::CtlError;

fn text<'a>(item: &'a Value, field: &str) -> &'a str {
    item.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn number(item: &Value, field: &str) -> u16 {
    let number = item.get(field).and_then(Value::as_u64);
    number
        .and_then(|number| number.try_into().ok())
        .unwrap_or_default()
}

fn labels(item: &Value, field: &str) -> BTreeMap<String, String> {
    let map = item.get(field).and_then(Value::as_object);
    let pairs = map.into_iter().flatten();
    pairs
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// One end of a flow or a violation: fields that begin with its side.
fn end<'a>(
    item: &'a Value,
    side: &str,
    id: &'a str,
    labels: Option<&'a BTreeMap<String, String>>,
    port: u16,
) -> End<'a> {
    let field = |name: &str| text(item, &format!("{side}_{name}"));
    End {
        id,
        name: field("name"),
        group: field("service"),
        domain: field("domain"),
        labels,
        address: field("ip").parse().ok(),
        port,
    }
}

/// Whether a flow as `GET /v1/flow` gives it is meant.
pub(crate) fn flow(filter: &FlowFilter, flow: &Value) -> bool {
    let (client, server) = (labels(flow, "client_labels"), labels(flow, "server_labels"));
    filter.lets_through(&Facts {
        client: end(
            flow,
            "client",
            text(flow, "client"),
            Some(&client),
            number(flow, "client_port"),
        ),
        server: end(
            flow,
            "server",
            text(flow, "server"),
            Some(&server),
            number(flow, "server_port"),
        ),
        proto: protocol(text(flow, "protocol")).unwrap_or(IpProto(0)),
        verdict: verdict(text(flow, "verdict")),
        application: text(flow, "application"),
        node: text(flow, "node"),
    })
}

/// Violations that are meant.
pub(crate) fn violations(filter: &FlowFilter, list: Vec<Value>) -> Result<Vec<Value>, CtlError> {
    refuse(filter, "violations", |word| {
        matches!(word, Word::End(_, Of::Label))
    })?;
    let is_meant = |item: &Value| {
        let applications = item.get("applications").and_then(Value::as_array);
        filter.lets_through(&Facts {
            client: end(item, "client", text(item, "client_id"), None, 0),
            server: end(
                item,
                "server",
                text(item, "server_id"),
                None,
                number(item, "server_port"),
            ),
            proto: IpProto(u8::try_from(number(item, "ip_proto")).unwrap_or_default()),
            verdict: verdict(text(item, "policy_action")),
            application: applications
                .and_then(|list| list.first())
                .and_then(Value::as_str)
                .unwrap_or_default(),
            node: text(item, "host_name"),
        })
    };
    Ok(list.into_iter().filter(is_meant).collect())
}

/// Conversations of which a part is meant. `answer` has their ends as well.
pub(crate) fn conversations(
    filter: &FlowFilter,
    answer: &Value,
    list: Vec<Value>,
) -> Result<Vec<Value>, CtlError> {
    refuse(filter, "conversations", |word| {
        matches!(word, Word::End(_, Of::Label) | Word::Node)
    })?;
    let ends = answer.get("endpoints").and_then(Value::as_array);
    let ends: BTreeMap<&str, &Value> = ends
        .into_iter()
        .flatten()
        .map(|end| (text(end, "id"), end))
        .collect();
    let is_meant = |item: &Value| {
        let parts = item.get("entries").and_then(Value::as_array);
        let end = |side: &str, address: Option<IpAddr>, port| {
            let id = text(item, side);
            let known = ends.get(id).copied().unwrap_or(&Value::Null);
            End {
                id,
                name: text(known, "name"),
                group: text(known, "service"),
                domain: text(known, "domain"),
                labels: None,
                address,
                port,
            }
        };
        parts.into_iter().flatten().any(|part| {
            let (proto, port) = text(part, "port")
                .split_once('/')
                .unwrap_or_else(|| (text(part, "port"), "0"));
            filter.lets_through(&Facts {
                client: end("from", text(part, "client_ip").parse().ok(), 0),
                server: end(
                    "to",
                    text(part, "server_ip").parse().ok(),
                    port.parse().unwrap_or_default(),
                ),
                proto: protocol(proto).unwrap_or(IpProto(0)),
                verdict: verdict(text(part, "policy_action")),
                application: text(part, "application"),
                node: "",
            })
        })
    };
    Ok(list.into_iter().filter(is_meant).collect())
}

/// Words that a list knows nothing of are refused: an answer of nothing would mislead.
fn refuse(filter: &FlowFilter, list: &str, unknown: impl Fn(Word) -> bool) -> Result<(), CtlError> {
    match filter.words().find(|word| unknown(*word)) {
        Some(word) => Err(CtlError::Usage(format!(
            "--{}: {list} do not tell that; 'nvctl flows' does",
            word.name()
        ))),
        None => Ok(()),
    }
}

/// A selector of labels: `key=value`, `key!=value`, `key`, `!key`, with commas between; all must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selector(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    key: String,
    /// Value that meets it; `None`: any.
    value: Option<String>,
    not: bool,
}

impl Selector {
    pub(crate) fn parse(text: &str) -> Result<Self, CtlError> {
        let parts = text.split(',').map(|part| {
            let part = part.trim();
            let one = |value: &str| Some(value.trim().to_owned());
            let (key, value, not) = if let Some((key, value)) = part.split_once("!=") {
                (key, one(value), true)
            } else if let Some((key, value)) = part.split_once('=') {
                (key, one(value.strip_prefix('=').unwrap_or(value)), false)
            } else if let Some(key) = part.strip_prefix('!') {
                (key, None, true)
            } else {
                (part, None, false)
            };
            let key = key.trim().to_owned();
            if key.is_empty() {
                return Err(CtlError::Usage(format!(
                    "--selector '{text}': write KEY=VALUE, KEY!=VALUE, KEY or !KEY, with commas between"
                )));
            }
            Ok(Part { key, value, not })
        });
        parts.collect::<Result<_, _>>().map(Self)
    }

    /// Whether an object with labels is meant.
    pub(crate) fn selects(&self, item: &Value) -> bool {
        let labels = item.get("labels");
        self.0.iter().all(|part| {
            let found = labels
                .and_then(|labels| labels.get(&part.key))
                .and_then(Value::as_str);
            let holds = found.is_some_and(|found| part.value.as_ref().is_none_or(|value| value == found));
            holds != part.not
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn filter(text: &str) -> FlowFilter {
        FlowFilter::parse(text).unwrap()
    }

    #[test]
    fn lists_are_filtered_by_what_they_tell() {
        let found = vec![
            json!({"client_id": "c1", "client_name": "web", "client_service": "nv.web", "client_domain": "",
            "client_ip": "10.0.0.1", "server_name": "app", "server_ip": "10.0.0.2", "server_port": 9090, "ip_proto": 6,
            "policy_action": "violate", "applications": ["HTTP"], "host_name": "here"}),
        ];
        for (text, count) in [
            (
                "from web;to-port 9090;verdict alert;protocol tcp;application http;node here",
                1,
            ),
            ("ip 10.0.0.0/8", 1),
            ("not from web", 0),
            ("verdict deny", 0),
        ] {
            assert_eq!(
                violations(&filter(text), found.clone()).unwrap().len(),
                count,
                "{text}"
            );
        }
        assert!(violations(&filter("label app=web"), found).is_err());

        let answer = json!({"endpoints": [{"id": "c1", "name": "web", "service": "nv.web.shop", "domain": "shop"}],
            "conversations": [{"from": "c1", "to": "external", "entries": [
                {"port": "tcp/80", "policy_action": "allow", "client_ip": "10.0.0.1", "server_ip": "192.0.2.1", "application": ""},
                {"port": "udp/53", "policy_action": "deny", "client_ip": "10.0.0.1", "server_ip": "192.0.2.2", "application": "DNS"}]}]});
        let list = answer["conversations"].as_array().unwrap().clone();
        for (text, count) in [
            ("from web;from-namespace shop;to external", 1),
            ("protocol udp;verdict deny;application dns", 1),
            ("protocol udp;verdict allow", 0),
            ("to-ip 192.0.2.2;to-port 53", 1),
            ("to-ip 192.0.2.2;to-port 80", 0),
        ] {
            let found = conversations(&filter(text), &answer, list.clone()).unwrap();
            assert_eq!(found.len(), count, "{text}");
        }
        assert!(conversations(&filter("node here"), &answer, list).is_err());
    }

    #[test]
    fn selectors_select_by_labels() {
        let item = json!({"labels": {"app": "web", "tier": "front"}});
        for (text, selects) in [
            ("app=web", true),
            ("app==web", true),
            ("app=web,tier=front", true),
            ("app=web,tier=back", false),
            ("app!=db", true),
            ("app!=web", false),
            ("tier", true),
            ("!tier", false),
            ("!stage", true),
            ("stage!=x", true),
            ("stage", false),
        ] {
            assert_eq!(Selector::parse(text).unwrap().selects(&item), selects, "{text}");
        }
        for bad in ["", "=x", "app=web,", "!"] {
            assert!(Selector::parse(bad).is_err(), "{bad}");
        }
    }
}
