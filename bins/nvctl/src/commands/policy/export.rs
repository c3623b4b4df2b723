//! The controller's policy in another form.

use nv_policy::PolicyInput;
use nv_policy::interchange::{Exported, Form, Selection, export};
use nv_types::{Group, Rule, Tier, Timestamp, Workload};
use serde_json::{Value, json};

use super::{Context, list};
use crate::client::Client;
use crate::error::{CtlError, EXIT_OK};
use crate::output::note;

/// Which rules.
#[derive(Debug)]
pub(super) struct Which {
    pub(super) learned: bool,
    pub(super) all: bool,
    pub(super) group: Vec<String>,
}

pub(super) async fn run(context: &Context, form: Form, which: &Which) -> Result<u8, CtlError> {
    let mut what = match which {
        Which { all: true, .. } => Selection::all(),
        Which { learned: true, .. } => Selection::learned(),
        Which { .. } => Selection::made(),
    };
    if !which.group.is_empty() {
        let names = which.group.iter().map(|name| name.parse());
        let names = names.collect::<Result<_, nv_types::InvalidId>>();
        what.groups = Some(names.map_err(|error| CtlError::Usage(format!("--group: {error}")))?);
    }
    let client = context.client()?;
    let input = policy(&client).await?;
    if let Some(stray) = what
        .groups
        .iter()
        .flatten()
        .find(|name| !input.groups.contains_key(*name))
    {
        return Err(CtlError::Usage(format!("there is no group '{stray}'")));
    }
    let Exported { text, notes } = export(&input, form, &what);
    list(&notes);
    if text.is_empty() {
        note("nothing to export: no rule was selected, or the form can say none of them");
        return Ok(EXIT_OK);
    }
    context.output.line(&text)?;
    Ok(EXIT_OK)
}

/// Groups, rules, modes and workloads as the controller has them.
async fn policy(client: &Client) -> Result<PolicyInput, CtlError> {
    let mut input = PolicyInput::default();
    for object in items(client, "/v1/group", "groups").await? {
        let group = group(&object).ok_or_else(|| garbled(client, "group", &object))?;
        if let Some(mode) = object.get("policy_mode").and_then(Value::as_str)
            && let Ok(mode) = mode.parse()
        {
            input.modes.insert(group.name.clone(), mode);
        }
        input.groups.insert(group.name.clone(), group);
    }
    for object in items(client, "/v1/policy/rule", "rules").await? {
        let rule = rule(&object).ok_or_else(|| garbled(client, "rule", &object))?;
        input.rules.push(rule);
    }
    for object in items(client, "/v1/workload", "workloads").await? {
        let workload = workload(&object).ok_or_else(|| garbled(client, "workload", &object))?;
        input.workloads.insert(workload.id.clone(), workload);
    }
    Ok(input)
}

/// As [`policy`], with the settings.
pub(super) async fn policy_and_settings(client: &Client) -> Result<PolicyInput, CtlError> {
    let mut input = policy(client).await?;
    let answer = client.get("/v1/settings", &[]).await?;
    let settings = answer.get("settings").cloned().unwrap_or_default();
    input.settings =
        serde_json::from_value(settings).map_err(|error| client.garbled(format!("settings: {error}")))?;
    Ok(input)
}

pub(super) async fn items(client: &Client, path: &str, list: &str) -> Result<Vec<Value>, CtlError> {
    let mut answer = client.get(path, &[]).await?;
    match answer.get_mut(list).map(Value::take) {
        Some(Value::Array(items)) => Ok(items),
        _ => Err(client.garbled(format!("{path} without a list of {list}"))),
    }
}

fn garbled(client: &Client, what: &str, object: &Value) -> CtlError {
    let text: String = object.to_string().chars().take(200).collect();
    client.garbled(format!("a {what} that cannot be read: {text}"))
}

fn group(object: &Value) -> Option<Group> {
    let field = |name: &str| object.get(name).cloned().unwrap_or_default();
    let tier = [Tier::Federal, Tier::Ground, Tier::User, Tier::Learned];
    let cfg_type = field("cfg_type");
    let origin = tier.into_iter().find(|tier| cfg_type == tier.cfg_type());
    Some(Group {
        name: serde_json::from_value(field("name")).ok()?,
        kind: serde_json::from_value(field("kind")).ok()?,
        origin,
        comment: field("comment").as_str().unwrap_or_default().to_owned(),
        domain: field("domain").as_str().unwrap_or_default().to_owned(),
        criteria: serde_json::from_value(field("criteria")).ok()?,
    })
}

fn rule(object: &Value) -> Option<Rule> {
    let mut plain = json!({"created": Timestamp(0), "modified": Timestamp(0)});
    for name in ["id", "comment", "from", "to", "ports", "action", "disable"] {
        plain[name] = object.get(name)?.clone();
    }
    let applications = object.get("applications").and_then(Value::as_array)?;
    plain["applications"] = applications
        .iter()
        .filter(|name| *name != "any")
        .cloned()
        .collect();
    serde_json::from_value(plain).ok()
}

/// Only what labels and services are found by.
fn workload(object: &Value) -> Option<Workload> {
    let mut plain = json!({"runtime": ""});
    for (name, field) in [
        ("id", "id"),
        ("name", "name"),
        ("node", "host_id"),
        ("service", "service"),
        ("domain", "domain"),
        ("image", "image"),
        ("labels", "labels"),
    ] {
        plain[name] = object.get(field)?.clone();
    }
    serde_json::from_value(plain).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rest_objects_become_a_policy() {
        let found = rule(&json!({
            "id": 10_001, "comment": "", "from": "nv.web", "to": "external", "ports": "tcp/443", "action": "allow",
            "applications": ["any"], "learned": true, "disable": false, "cfg_type": "learned", "priority": 0
        }))
        .unwrap();
        assert_eq!((found.tier(), found.applications.len()), (Tier::Learned, 0));
        assert_eq!(rule(&json!({"id": 1})), None);
        let found = group(&json!({
            "name": "external", "kind": "external", "cfg_type": "system_defined", "comment": "", "domain": "", "criteria": []
        }))
        .unwrap();
        assert_eq!(found.origin, None);
        let found = workload(&json!({
            "id": "1", "name": "web-1", "host_id": "n1", "service": "web", "domain": "shop", "image": "i", "labels": {"a": "b"}
        }))
        .unwrap();
        assert_eq!(found.service_group().unwrap().as_str(), "nv.web.shop");
    }
}
