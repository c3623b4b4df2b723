//! Policy files: YAML or JSON, several documents, with line and column in every complaint.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::CtlError;

const MAX_FILE: u64 = 8 << 20;

/// All fields of all kinds. Which fields go with which kind is checked after reading, so that a misspelt field is
/// reported with its line.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Document {
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    criteria: Option<Vec<Criterion>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ports: Option<Text>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    applications: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    action: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disable: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    contention: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    icmp_policy: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    new_service_mode: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    network_mode: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unknown_endpoint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deny_response: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failsafe_ports: Option<Vec<Text>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    idle: Option<BTreeMap<String, u32>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    flow_share: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode_auto_d2m: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode_auto_d2m_duration: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode_auto_m2p: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode_auto_m2p_duration: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bounded_domains: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    internal_names: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    capture: Option<Map<String, Value>>,
}

/// One condition of a group.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Criterion {
    key: String,
    value: String,
    #[serde(default = "equal")]
    op: String,
}

fn equal() -> String {
    "=".to_owned()
}

/// Text that may be written as a number: `ports: 80`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(untagged)]
enum Text {
    Number(u32),
    Text(String),
}

const COMMON: &[&str] = &["kind"];
const KINDS: &[(&str, &[&str], &[&str])] = &[
    ("Group", &["name"], &["comment", "criteria"]),
    (
        "Rule",
        &["from", "to", "action"],
        &["id", "ports", "applications", "comment", "disable", "after"],
    ),
    ("ServiceMode", &["service", "mode"], &[]),
    (
        "Settings",
        &[],
        &[
            "contention",
            "icmp_policy",
            "new_service_mode",
            "network_mode",
            "unknown_endpoint",
            "deny_response",
            "failsafe_ports",
            "idle",
            "flow_share",
            "mode_auto_d2m",
            "mode_auto_d2m_duration",
            "mode_auto_m2p",
            "mode_auto_m2p_duration",
            "bounded_domains",
            "internal_names",
            "capture",
        ],
    ),
];

/// Reads a file's documents as the controller wants them.
pub(crate) fn read(path: &Path) -> Result<Vec<Value>, CtlError> {
    parse(&text(path)?).map_err(|problem| CtlError::File {
        file: path.display().to_string(),
        problem,
    })
}

/// A file, or standard input, that is not too large.
pub(crate) fn text(path: &Path) -> Result<String, CtlError> {
    let file = path.display().to_string();
    let problem = |problem: String| CtlError::File {
        file: file.clone(),
        problem,
    };
    let mut text = String::new();
    let read = if file == "-" {
        std::io::stdin()
            .lock()
            .take(MAX_FILE + 1)
            .read_to_string(&mut text)
    } else {
        fs::File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text))
    };
    read.map_err(|error| problem(error.to_string()))?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_FILE {
        return Err(problem("larger than 8 MiB".to_owned()));
    }
    Ok(text)
}

/// How files are read: nothing twice, and nothing without end.
pub(crate) fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_anchors: 64,
            max_aliases: 256,
            max_depth: 32,
            max_documents: 20_000,
            max_events: 2_000_000,
        },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
    }
}

pub(crate) fn parse(text: &str) -> Result<Vec<Value>, String> {
    let documents: Vec<Document> =
        serde_saphyr::from_multiple_with_options(text, options()).map_err(|error| error.to_string())?;
    if documents.is_empty() {
        return Err("holds no document".to_owned());
    }
    documents
        .into_iter()
        .enumerate()
        .map(|(index, document)| check(index + 1, &document))
        .collect()
}

/// Which fields a kind must have, and which it may have.
fn check(number: usize, document: &Document) -> Result<Value, String> {
    let Some((kind, needed, optional)) = KINDS.iter().find(|(kind, ..)| *kind == document.kind) else {
        let known: Vec<_> = KINDS.iter().map(|(kind, ..)| *kind).collect();
        return Err(format!(
            "document {number}: unknown kind '{}': use {}",
            document.kind,
            known.join(", ")
        ));
    };
    let mut value = serde_json::to_value(document).map_err(|error| format!("document {number}: {error}"))?;
    let empty = Map::new();
    let fields = value.as_object().unwrap_or(&empty);
    if let Some(missing) = needed.iter().find(|field| !fields.contains_key(**field)) {
        return Err(format!("document {number}: a {kind} needs the field '{missing}'"));
    }
    let known = |field: &str| {
        [COMMON, needed, optional]
            .iter()
            .any(|list| list.contains(&field))
    };
    if let Some(stray) = fields.keys().find(|field| !known(field)) {
        return Err(format!("document {number}: a {kind} has no field '{stray}'"));
    }
    texts(&mut value);
    Ok(value)
}

/// Ports are text on the wire, however they were written.
fn texts(value: &mut Value) {
    let text = |item: &mut Value| {
        if item.is_number() {
            *item = Value::String(item.to_string());
        }
    };
    if let Some(ports) = value.get_mut("ports") {
        text(ports);
    }
    if let Some(Value::Array(list)) = value.get_mut("failsafe_ports") {
        list.iter_mut().for_each(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn several_documents_of_both_languages() {
        let documents = parse(
            "kind: Group\nname: web\ncriteria: [{key: app, value: web}]\n---\nkind: Rule\nfrom: web\nto: app\nports: 80\naction: allow\n---\n{\"kind\": \"ServiceMode\", \"service\": \"nv.app\", \"mode\": \"Protect\"}\n",
        )
        .unwrap();
        assert_eq!(
            documents[0],
            json!({"kind": "Group", "name": "web", "criteria": [{"key": "app", "value": "web", "op": "="}]})
        );
        assert_eq!(documents[1]["ports"], "80");
        assert_eq!(documents[2]["mode"], "Protect");
    }

    #[test]
    fn complaints_name_the_thing_and_its_place() {
        for (text, words) in [
            ("kind: Group\nnam: web\n", vec!["nam", "line 2"]),
            ("kind: Group\nname: a\nname: b\n", vec!["name", "line 3"]),
            ("kind: Grupp\nname: a\n", vec!["Grupp", "Rule"]),
            ("kind: Group\nname: a\nfrom: b\n", vec!["Group", "from"]),
            ("kind: Rule\nfrom: a\nto: b\n", vec!["action"]),
            ("kind: Group\nname: [1\n", vec!["line"]),
            ("", vec!["no document"]),
        ] {
            let error = parse(text).unwrap_err();
            for word in words {
                assert!(error.contains(word), "{text:?}: {error}");
            }
        }
    }

    #[test]
    fn every_setting_can_stand_in_a_file() {
        let settings = serde_json::to_value(nv_types::PolicySettings::default()).unwrap();
        let (.., known) = KINDS.iter().find(|(kind, ..)| *kind == "Settings").unwrap();
        let mut known: Vec<_> = known.iter().map(|name| (*name).to_owned()).collect();
        known.sort();
        let mut there: Vec<_> = settings.as_object().unwrap().keys().cloned().collect();
        there.sort();
        assert_eq!(known, there);
        let documents =
            parse("kind: Settings\ndeny_response: reset\nidle: {udp: 9}\nflow_share: 10\ncapture: {ring_kib: 64, rules: [7, 0]}\n").unwrap();
        assert_eq!(documents[0]["idle"], json!({"udp": 9}));
        assert_eq!(documents[0]["capture"], json!({"ring_kib": 64, "rules": [7, 0]}));
    }

    #[test]
    fn bombs_are_refused_quickly() {
        let mut aliases = String::from("kind: Group\nname: a\ncomment: &a x\ncriteria:\n");
        for _ in 0..2000 {
            aliases.push_str("  - {key: *a, value: *a}\n");
        }
        assert!(parse(&aliases).is_err());
        let deep = format!(
            "kind: Group\nname: a\ncriteria: {}{}\n",
            "[".repeat(10_000),
            "]".repeat(10_000)
        );
        assert!(parse(&deep).is_err());
    }
}
