//! Settings that are changed field by field.

use nv_types::PolicySettings;
use serde_json::{Map, Value};

use crate::names::is_name_pattern;

/// A setting that cannot be so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct BadSetting {
    /// The setting, such as `idle.udp`.
    pub field: String,
    /// What is wrong.
    pub problem: String,
}

/// Settings with some fields changed: the JSON form of [`PolicySettings`] with only what changes. Of a setting that has fields itself
/// (`idle`) the same holds: those that are not named stay.
///
/// # Errors
/// [`BadSetting`] with the first that is wrong; nothing is changed then.
pub fn change_settings(
    before: &PolicySettings,
    change: &Map<String, Value>,
) -> Result<PolicySettings, BadSetting> {
    let mut settings = before.clone();
    // One at a time, so that a wrong value is named with its field.
    for (key, new) in change {
        match new {
            Value::Object(fields) => {
                for (inner, new) in fields {
                    settings = changed(&settings, &[key, inner], new)?;
                }
            }
            _ => settings = changed(&settings, &[key], new)?,
        }
    }
    Ok(settings)
}

fn changed(before: &PolicySettings, path: &[&str], new: &Value) -> Result<PolicySettings, BadSetting> {
    let bad = |problem: String| BadSetting {
        field: path.join("."),
        problem,
    };
    let mut value = serde_json::to_value(before).map_err(|error| bad(error.to_string()))?;
    let place = path
        .iter()
        .try_fold(&mut value, |value, key| value.as_object_mut()?.get_mut(*key));
    match place {
        Some(Value::Object(fields)) => {
            let fields: Vec<_> = fields.keys().map(String::as_str).collect();
            return Err(bad(format!("name what changes: {}", fields.join(", "))));
        }
        Some(old) => old.clone_from(new),
        None => return Err(bad("there is no such setting".to_owned())),
    }
    let settings: PolicySettings = serde_json::from_value(value).map_err(|error| bad(error.to_string()))?;
    if let Some(wrong) = settings.internal_names.iter().find(|name| !is_name_pattern(name)) {
        return Err(bad(format!(
            "'{wrong}' is neither a DNS name, nor '*.' and one, nor '*'"
        )));
    }
    if let Err(problem) = settings.capture.check() {
        let (_, problem) = problem.split_once(": ").unwrap_or(("", problem));
        return Err(bad(problem.to_owned()));
    }
    if settings.flow_share > 100 {
        return Err(bad(format!(
            "{} is more than the whole table: use 1 to 100 percent, or 0 for no bound",
            settings.flow_share
        )));
    }
    if path.first() == Some(&"idle") && new.as_u64() == Some(0) {
        return Err(bad("use a second or more".to_owned()));
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use nv_types::DenyResponse;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_named_stays_and_what_is_wrong_is_named() {
        let map = |value: Value| value.as_object().unwrap().clone();
        let before = PolicySettings::default();
        let change = map(json!({"deny_response": "reset", "flow_share": 50, "idle": {"udp": 7}}));
        let after = change_settings(&before, &change).unwrap();
        assert_eq!(
            (after.deny_response, after.flow_share, after.idle.udp),
            (DenyResponse::Reset, 50, 7)
        );
        let again = change_settings(&after, &map(json!({"idle": {"icmp": 9}}))).unwrap();
        assert_eq!((again.idle.udp, again.idle.icmp), (7, 9));
        assert_eq!(again.idle.tcp_active, before.idle.tcp_active);
        for (change, words) in [
            (
                json!({"deny_response": "rst"}),
                "deny_response: unknown variant `rst`",
            ),
            (json!({"flow_share": 101}), "flow_share: 101 is more"),
            (json!({"flow_share": -1}), "flow_share: "),
            (json!({"idle": {"udp": 0}}), "idle.udp: use a second"),
            (json!({"idle": {"udp": "soon"}}), "idle.udp: invalid type"),
            (json!({"idle": {"gre": 5}}), "idle.gre: there is no such setting"),
            (json!({"idle": 5}), "idle: name what changes: "),
            (json!({"contention": {"a": 1}}), "contention.a: there is no such"),
            (json!({"colour": 1}), "colour: there is no such setting"),
        ] {
            let error = change_settings(&before, &map(change)).unwrap_err().to_string();
            assert!(error.starts_with(words), "{error}");
        }
    }
}
