//! What looks like a secret is not passed on: by the name that it stands under, or by its own form.

use serde_json::Value;

const REDACTED: &str = "[redacted]";

/// Parts of names under which secrets stand, in lower case without `-`, `_`, `.` and `/`.
const NAMES: [&str; 14] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "privatekey",
    "credential",
    "cookie",
    "bearer",
    "authorization",
    "connectionstring",
    "dsn",
];

fn is_secret_name(name: &str) -> bool {
    let plain: String = name
        .chars()
        .filter(|c| c.is_ascii_alphanumeric())
        .map(|c| c.to_ascii_lowercase())
        .collect();
    NAMES.iter().any(|part| plain.contains(part)) || matches!(plain.as_str(), "pwd" | "pass" | "key" | "auth")
}

/// A value without what looks like a secret.
pub(super) fn redact(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .map(|(name, value)| {
                    let value = match value {
                        // The key of a criterion is a word of policy.
                        Value::String(text) if name == "key" => Value::String(redact_text(&text)),
                        Value::String(text) if is_secret_name(&name) && !text.is_empty() => REDACTED.into(),
                        Value::Array(list) if is_secret_name(&name) && list.iter().any(Value::is_string) => {
                            REDACTED.into()
                        }
                        other => redact(other),
                    };
                    (name, value)
                })
                .collect(),
        ),
        Value::Array(list) => Value::Array(list.into_iter().map(redact).collect()),
        Value::String(text) => Value::String(redact_text(&text)),
        other => other,
    }
}

/// Text without what looks like a secret: `name=value` under a secret's name, passwords in addresses, keys, tokens.
pub(super) fn redact_text(text: &str) -> String {
    if text.contains("-----BEGIN") {
        return REDACTED.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut hides_next = false;
    for word in
        text.split_inclusive(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '&' | '?' | '"' | '\''))
    {
        let end = word
            .trim_end_matches(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '&' | '?' | '"' | '\''));
        let rest = word.get(end.len()..).unwrap_or_default();
        if end.is_empty() {
            out.push_str(rest);
            continue;
        }
        let is_scheme = end.eq_ignore_ascii_case("bearer") || end.eq_ignore_ascii_case("basic");
        if hides_next && !is_scheme {
            out.push_str(REDACTED);
            hides_next = false;
        } else if let Some((name, value)) = end.split_once(['=', ':'])
            && is_secret_name(name)
        {
            let between = end.get(name.len()..=name.len()).unwrap_or("=");
            out.push_str(name);
            out.push_str(between);
            // `Password: x` has its value in the next word.
            if value.is_empty() {
                hides_next = true;
            } else {
                out.push_str(REDACTED);
            }
        } else {
            // `--password x`, `Bearer x`
            hides_next = is_scheme || (end.starts_with('-') && is_secret_name(end));
            out.push_str(&by_form(end));
        }
        out.push_str(rest);
    }
    out
}

/// A word whose form says that it is a secret, or has one in it.
fn by_form(word: &str) -> String {
    if let Some((scheme, rest)) = word.split_once("://")
        && let Some((user, host)) = rest.split_once('@')
        && user.contains(':')
    {
        return format!("{scheme}://{REDACTED}@{host}");
    }
    let is_jwt = word.starts_with("eyJ") && word.matches('.').count() == 2;
    let is_cloud_key = word.len() == 20 && (word.starts_with("AKIA") || word.starts_with("ASIA"));
    let is_hash = word.starts_with("$argon2") || word.starts_with("$2b$") || word.starts_with("$6$");
    let is_forge_key = ["ghp_", "gho_", "github_pat_", "glpat-", "xoxb-", "sk_live_"]
        .iter()
        .any(|start| word.starts_with(start));
    if is_jwt || is_cloud_key || is_hash || is_forge_key {
        return REDACTED.to_owned();
    }
    word.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_are_taken_out_and_all_else_stays() {
        let value = redact(json!({
            "name": "web", "sessions": 5, "labels": {"app": "web", "db-password": "hunter2", "com.example/API_KEY": "hunter2"},
            "token": ["hunter2"], "url": "https://u:hunter2@db/x", "criteria": [{"key": "app", "op": "=", "value": "web"}],
            "comment": "start with --password=hunter2 and TOKEN=hunter2, then go"}));
        let text = value.to_string();
        assert!(!text.contains("hunter2"), "{text}");
        assert_eq!(value["name"], "web");
        assert_eq!(value["sessions"], 5);
        assert_eq!(value["labels"]["app"], "web");
        assert_eq!(value["criteria"][0]["key"], "app");
        assert_eq!(value["url"], "https://[redacted]@db/x");
        assert_eq!(
            value["comment"],
            "start with --password=[redacted] and TOKEN=[redacted], then go"
        );
    }

    #[test]
    fn text_is_read_word_by_word() {
        for (text, expected) in [
            ("nothing here, at all", "nothing here, at all"),
            (
                "run --password hunter2 --port 80",
                "run --password [redacted] --port 80",
            ),
            (
                "Authorization: Bearer hunter2",
                "Authorization: Bearer [redacted]",
            ),
            ("curl -H 'Bearer hunter2'", "curl -H 'Bearer [redacted]'"),
            ("x?token=hunter2&y=1", "x?token=[redacted]&y=1"),
            (
                "postgres://u:hunter2@db:5432/x",
                "postgres://[redacted]@db:5432/x",
            ),
            ("eyJhbGciOi.eyJzdWIi.c2ln", "[redacted]"),
            ("$argon2id$v=19$m=1", "[redacted]"),
            ("tcp/8080 10.0.0.1:443", "tcp/8080 10.0.0.1:443"),
            ("-----BEGIN PRIVATE KEY-----", "[redacted]"),
        ] {
            assert_eq!(redact_text(text), expected, "{text}");
        }
    }
}
