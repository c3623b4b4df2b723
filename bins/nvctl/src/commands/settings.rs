//! Settings of policy and datapath.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{Context, at, status};
use crate::cli::Format;
use crate::error::{CtlError, EXIT_OK};
use crate::output::note;
use crate::table;

pub(super) async fn show(context: &Context) -> Result<u8, CtlError> {
    let answer = context.client()?.get("/v1/settings", &[]).await?;
    if matches!(
        context.output.format(),
        Format::Json | Format::Yaml | Format::Jsonl
    ) {
        context.output.object(&answer, "settings", &table::SETTINGS)?;
        return Ok(EXIT_OK);
    }
    let mut rows = Vec::new();
    for (name, value) in answer
        .get("settings")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        match value.as_object() {
            Some(fields) => rows.extend(
                fields
                    .iter()
                    .map(|(field, value)| row(&format!("{name}.{field}"), value)),
            ),
            None => rows.push(row(name, value)),
        }
    }
    context
        .output
        .list(&json!({ "settings": rows }), "settings", &table::SETTINGS)?;
    Ok(EXIT_OK)
}

fn row(name: &str, value: &Value) -> Value {
    let shown = match value {
        Value::Array(list) if list.is_empty() => "none".into(),
        Value::Null => "none".into(),
        other => other.clone(),
    };
    json!({"setting": name, "value": shown})
}

pub(super) async fn change(context: &Context, pairs: &[String], wait: bool) -> Result<u8, CtlError> {
    let client = context.client()?;
    let now = client.get("/v1/settings", &[]).await?;
    let change = read(pairs, now.get("settings").unwrap_or(&Value::Null))?;
    let body = json!({ "settings": change });
    let answer = client.send(Method::PATCH, "/v1/settings", Some(&body)).await?;
    note(&format!("{}{}", pairs.join(", "), at(answer.revision)));
    if let (true, Some(revision)) = (wait, answer.revision) {
        status::wait_in_force(&client, revision, Duration::from_secs(30)).await?;
        note("in force on every node");
    }
    Ok(EXIT_OK)
}

/// `name=value` and `name.field=value` as REST wants them; what a value looks like is seen from what is set now. The controller judges it.
fn read(pairs: &[String], now: &Value) -> Result<Map<String, Value>, CtlError> {
    let mut change = Map::new();
    for pair in pairs {
        let Some((path, text)) = pair.split_once('=') else {
            return Err(CtlError::Usage(format!("'{pair}' is no NAME=VALUE")));
        };
        let twice = || CtlError::Usage(format!("'{path}' is there twice"));
        let (name, field) = match path.split_once('.') {
            Some((name, field)) => (name, Some(field)),
            None => (path, None),
        };
        let old = now.get(name);
        match field {
            None => {
                if change.insert(name.to_owned(), value(old, text)).is_some() {
                    return Err(twice());
                }
            }
            Some(field) => {
                let fields = change.entry(name).or_insert_with(|| json!({}));
                let fields = fields.as_object_mut().ok_or_else(twice)?;
                let new = value(old.and_then(|old| old.get(field)), text);
                if fields.insert(field.to_owned(), new).is_some() {
                    return Err(twice());
                }
            }
        }
    }
    Ok(change)
}

fn value(old: Option<&Value>, text: &str) -> Value {
    let typed = match old {
        Some(Value::Array(_)) => Some(if text.is_empty() || text == "none" {
            json!([])
        } else {
            text.split(',').map(str::trim).collect()
        }),
        Some(Value::Bool(_)) => text.parse().ok().map(Value::Bool),
        Some(Value::Number(_)) => text.parse::<u64>().ok().map(Value::from),
        Some(Value::Null | Value::String(_)) if text.is_empty() || text == "none" => Some(Value::Null),
        Some(Value::Null | Value::String(_) | Value::Object(_)) | None => None,
    };
    typed.unwrap_or_else(|| text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_what_they_are() {
        let now = json!({
            "deny_response": "drop", "idle": {"udp": 30, "icmp": 5}, "icmp_policy": true, "network_mode": null,
            "failsafe_ports": ["tcp/22"],
        });
        let read = |pairs: &[&str]| {
            let pairs: Vec<_> = pairs.iter().map(|pair| (*pair).to_owned()).collect();
            read(&pairs, &now)
        };
        let change = read(&[
            "deny_response=reset",
            "idle.udp=60",
            "idle.icmp=soon",
            "icmp_policy=false",
            "network_mode=none",
            "failsafe_ports=tcp/22, udp/53",
            "colour=red",
        ]);
        assert_eq!(
            Value::Object(change.unwrap()),
            json!({
                "deny_response": "reset", "idle": {"udp": 60, "icmp": "soon"}, "icmp_policy": false, "network_mode": null,
                "failsafe_ports": ["tcp/22", "udp/53"], "colour": "red",
            })
        );
        assert_eq!(read(&["failsafe_ports="]).unwrap()["failsafe_ports"], json!([]));
        for wrong in [
            &["deny_response"][..],
            &["idle.udp=1", "idle.udp=2"],
            &["idle=1", "idle.udp=2"],
        ] {
            assert!(matches!(read(wrong), Err(CtlError::Usage(_))), "{wrong:?}");
        }
    }
}
