//! One object with all that hangs on it.

use serde_json::{Map, Value, json};

use super::Context;
use super::get::workload_id;
use crate::cli::{Describable, Format};
use crate::client::{Client, segment};
use crate::error::{CtlError, EXIT_OK};
use crate::output::{Output, escape, note};
use crate::table::{self, Columns, cell};

/// Conversations and violations that the readable forms show; JSON and YAML have all.
const SHOWN: usize = 10;

/// A fact of an object: what it is called, and the path of its cell.
type Fact = (&'static str, &'static str);

/// A list that hangs on an object.
struct Section {
    /// Field in JSON and YAML.
    field: &'static str,
    title: &'static str,
    columns: &'static Columns,
    items: Vec<Value>,
}

/// All there is to say.
struct Story {
    kind: &'static str,
    object: Value,
    facts: &'static [Fact],
    /// Facts that the object does not have itself.
    more: Vec<(&'static str, Value)>,
    sections: Vec<Section>,
    tries: Vec<String>,
}

const WORKLOAD: &[Fact] = &[
    ("Name", "display_name|name"),
    ("ID", "id"),
    ("Service", "service_group|service"),
    ("Mode", "policy_mode"),
    ("State", "state"),
    ("Quarantine", "quarantine_reason"),
    ("Node", "host_name"),
    ("Domain", "domain"),
    ("Image", "image"),
    ("Addresses", "interfaces@ip"),
    ("Labels", "labels"),
    ("Serves", "app_ports"),
    ("Groups", "groups"),
];
const GROUP: &[Fact] = &[
    ("Name", "name"),
    ("Kind", "kind"),
    ("Origin", "cfg_type"),
    ("Mode", "policy_mode"),
    ("Comment", "comment"),
    ("Criteria", "criteria@criterion"),
    ("Not enforced", "diagnostics"),
];
const RULE: &[Fact] = &[
    ("ID", "id"),
    ("From", "from"),
    ("To", "to"),
    ("Ports", "ports"),
    ("Applications", "applications"),
    ("Action", "action"),
    ("Origin", "cfg_type"),
    ("Disabled", "disable"),
    ("Comment", "comment"),
    ("Hits", "match_counter"),
    ("Not enforced", "diagnostics"),
];
const SERVICE: &[Fact] = &[
    ("Name", "name"),
    ("Mode", "policy_mode"),
    ("Domain", "domain"),
    ("Comment", "comment"),
];
const NODE: &[Fact] = &[
    ("Name", "id"),
    ("State", "state"),
    ("Addresses", "addresses"),
    ("Version", "version"),
    ("Kernel", "kernel"),
    ("Hook", "hook"),
    ("Runtimes", "runtimes"),
    ("In force", "revision"),
    ("Wanted", "wanted_revision"),
    ("Endpoints", "endpoints"),
    ("Lost events", "lost_events@sum"),
    ("Degraded", "degraded"),
];

pub(super) async fn run(context: &Context, kind: Describable, name: &str) -> Result<u8, CtlError> {
    let client = context.client()?;
    let story = match kind {
        Describable::Workload => workload(&client, name).await?,
        Describable::Group => group(&client, name).await?,
        Describable::Rule => rule(&client, name).await?,
        Describable::Service => service(&client, name).await?,
        Describable::Node => node(&client, name).await?,
    };
    story.print(&context.output)?;
    Ok(EXIT_OK)
}

/// The list of an answer.
async fn items(client: &Client, path: &str, field: &str) -> Result<Vec<Value>, CtlError> {
    let mut answer = client.get(path, &[]).await?;
    match answer.get_mut(field).map(Value::take) {
        Some(Value::Array(list)) => Ok(list),
        _ => Err(client.garbled(format!("{path} without '{field}'"))),
    }
}

/// The object of an answer.
async fn one(client: &Client, path: &str, field: &str) -> Result<Value, CtlError> {
    let mut answer = client.get(path, &[]).await?;
    let found = answer.get_mut(field).map(Value::take);
    found
        .filter(Value::is_object)
        .ok_or_else(|| client.garbled(format!("{path} without '{field}'")))
}

fn text<'a>(item: &'a Value, field: &str) -> &'a str {
    item.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(item: &'a Value, field: &str) -> &'a [Value] {
    item.get(field)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn is_end(item: &Value, fields: [&str; 2], wanted: impl Fn(&str) -> bool) -> bool {
    fields.iter().any(|field| wanted(text(item, field)))
}

const fn section(
    field: &'static str,
    title: &'static str,
    columns: &'static Columns,
    items: Vec<Value>,
) -> Section {
    Section {
        field,
        title,
        columns,
        items,
    }
}

async fn conversations(client: &Client, wanted: impl Fn(&Value) -> bool) -> Result<Section, CtlError> {
    let mut found = items(client, "/v1/conversation", "conversations").await?;
    found.retain(wanted);
    Ok(section(
        "conversations",
        "Conversations",
        &table::CONVERSATIONS,
        found,
    ))
}

async fn violations(client: &Client, wanted: impl Fn(&Value) -> bool) -> Result<Section, CtlError> {
    let mut found = items(client, "/v1/log/violation", "violations").await?;
    found.retain(wanted);
    Ok(section("violations", "Violations", &table::VIOLATIONS, found))
}

/// The question whose answer says why the newest violation is one.
fn why(violations: &Section) -> Option<String> {
    let newest = violations.items.first()?;
    let port = newest.get("server_port").and_then(Value::as_u64)?;
    let port = match newest.get("ip_proto").and_then(Value::as_u64)? {
        6 => format!("tcp/{port}"),
        17 => format!("udp/{port}"),
        132 => format!("sctp/{port}"),
        _ => "icmp".to_owned(),
    };
    let (client, server) = (text(newest, "client_id"), text(newest, "server_id"));
    Some(format!("nvctl explain {client} {server} {port}"))
}

async fn workload(client: &Client, name: &str) -> Result<Story, CtlError> {
    let id = workload_id(client, name).await?;
    let object = one(client, &format!("/v1/workload/{}", segment(&id)), "workload").await?;
    let groups: Vec<&str> = list(&object, "groups").iter().filter_map(Value::as_str).collect();
    let mut rules = items(client, "/v1/policy/rule", "rules").await?;
    rules.retain(|rule| is_end(rule, ["from", "to"], |end| groups.contains(&end)));
    let conversations = conversations(client, |item| is_end(item, ["from", "to"], |end| end == id)).await?;
    let violations = violations(client, |item| {
        is_end(item, ["client_id", "server_id"], |end| end == id)
    })
    .await?;
    let mut tries: Vec<_> = why(&violations).into_iter().collect();
    tries.push(format!("nvctl flows --from {id}"));
    if object.get("cap_sniff") == Some(&Value::Bool(true)) {
        tries.push(format!("nvctl capture start {id} --duration 30"));
    }
    Ok(Story {
        kind: "workload",
        object,
        facts: WORKLOAD,
        more: Vec::new(),
        sections: vec![
            section("rules", "Rules that speak of it", &table::RULES, rules),
            conversations,
            violations,
        ],
        tries,
    })
}

async fn group(client: &Client, name: &str) -> Result<Story, CtlError> {
    let object = one(client, &format!("/v1/group/{}", segment(name)), "group").await?;
    let (members, rules) = (
        list(&object, "members").to_vec(),
        list(&object, "policy_rules").to_vec(),
    );
    let mut tries = Vec::new();
    if members.is_empty() && text(&object, "kind") == "container" {
        tries.push("nvctl get workloads -o wide  (no workload fits the criteria)".to_owned());
    }
    if rules.is_empty() {
        tries.push(format!(
            "nvctl apply -f FILE  (no rule names {name}: it allows nothing)"
        ));
    }
    Ok(Story {
        kind: "group",
        object,
        facts: GROUP,
        more: Vec::new(),
        sections: vec![
            section("members", "Members", &table::MEMBERS, members),
            section("rules", "Rules", &table::RULES, rules),
        ],
        tries,
    })
}

async fn rule(client: &Client, name: &str) -> Result<Story, CtlError> {
    let object = one(client, &format!("/v1/policy/rule/{}", segment(name)), "rule").await?;
    let id = object.get("id").cloned().unwrap_or_default();
    let all = items(client, "/v1/policy/rule", "rules").await?;
    let place = all.iter().position(|rule| rule.get("id") == Some(&id));
    let mut more = Vec::new();
    if let Some(place) = place {
        more.push(("Place", json!(format!("{} of {}", place + 1, all.len()))));
    }
    if object
        .get("last_match_timestamp")
        .and_then(Value::as_i64)
        .unwrap_or(0)
        > 0
    {
        more.push(("Last hit", json!(cell(&object, "last_match_timestamp@time"))));
    }
    let by_it = |item: &Value| item.get("policy_id") == Some(&id);
    let conversations = conversations(client, |item| list(item, "entries").iter().any(by_it)).await?;
    let violations = violations(client, by_it).await?;
    let mut tries: Vec<_> = why(&violations).into_iter().collect();
    let end = |field| format!("nvctl describe group {}", text(&object, field));
    tries.extend([end("from"), end("to")]);
    tries.dedup();
    Ok(Story {
        kind: "rule",
        object,
        facts: RULE,
        more,
        sections: vec![conversations, violations],
        tries,
    })
}

async fn service(client: &Client, name: &str) -> Result<Story, CtlError> {
    let object = one(client, &format!("/v1/service/{}", segment(name)), "service").await?;
    let (members, rules) = (
        list(&object, "members").to_vec(),
        list(&object, "policy_rules").to_vec(),
    );
    let group = text(&object, "name").to_owned();
    let violations = violations(client, |item| {
        is_end(item, ["client_service", "server_service"], |end| end == group)
    })
    .await?;
    let mut tries: Vec<_> = why(&violations).into_iter().collect();
    tries.push(match text(&object, "policy_mode") {
        "Discover" => format!("nvctl set-mode {group} Monitor  (it learns what it sees until then)"),
        "Monitor" => format!("nvctl set-mode {group} Protect  (what no rule allows passes until then)"),
        _ => format!("nvctl flows --to {group} --verdict deny"),
    });
    Ok(Story {
        kind: "service",
        object,
        facts: SERVICE,
        more: Vec::new(),
        sections: vec![
            section("members", "Members", &table::MEMBERS, members),
            section("rules", "Rules", &table::RULES, rules),
            violations,
        ],
        tries,
    })
}

async fn node(client: &Client, name: &str) -> Result<Story, CtlError> {
    let nodes = items(client, "/v1/node", "nodes").await?;
    let object = nodes.into_iter().find(|node| text(node, "id") == name);
    let object = object.ok_or_else(|| CtlError::Refused {
        status: 404,
        message: format!("no node '{name}'"),
    })?;
    let mut workloads = items(client, "/v1/workload", "workloads").await?;
    workloads.retain(|workload| text(workload, "host_name") == name);
    Ok(Story {
        kind: "node",
        object,
        facts: NODE,
        more: Vec::new(),
        sections: vec![section("workloads", "Workloads", &table::WORKLOADS, workloads)],
        tries: vec!["nvctl status".to_owned()],
    })
}

impl Story {
    fn print(self, output: &Output) -> Result<(), CtlError> {
        if !matches!(output.format(), Format::Table | Format::Wide) {
            let mut whole = Map::new();
            whole.insert(self.kind.to_owned(), self.object);
            for section in self.sections {
                whole.insert(section.field.to_owned(), section.items.into());
            }
            // The name is the object's, whatever hangs on it.
            let columns = Columns {
                name: "display_name|name|id",
                list: &[],
            };
            return output.object(&whole.into(), self.kind, &columns);
        }
        for line in self.facts() {
            output.line(&line)?;
        }
        for section in &self.sections {
            let count = section.items.len();
            let shown = section.items.get(..SHOWN.min(count)).unwrap_or_default();
            let is_cut = section.is_log() && count > SHOWN;
            output.line(&format!(
                "\n{} ({count}{})",
                section.title,
                if is_cut { ", the first 10" } else { "" }
            ))?;
            if count == 0 {
                output.line("  none")?;
                continue;
            }
            let rows = if is_cut { shown } else { &section.items };
            output.line(&indent(&output.table(rows, section.columns)))?;
        }
        for text in &self.tries {
            note(&format!("try: {text}"));
        }
        Ok(())
    }

    fn facts(&self) -> Vec<String> {
        let own = self
            .facts
            .iter()
            .map(|(name, path)| (*name, cell(&self.object, path)));
        let more = self.more.iter().map(|(name, value)| (*name, text_of(value)));
        own.chain(more)
            .filter(|(_, text)| !text.is_empty())
            .map(|(name, text)| format!("{:<14}{}", format!("{name}:"), escape(&text, false)))
            .collect()
    }
}

impl Section {
    /// Whether it may be long, and its newest entries say most.
    fn is_log(&self) -> bool {
        ["conversations", "violations"].contains(&self.field)
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn indent(text: &str) -> String {
    text.lines()
        .map(|line| format!("  {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}
