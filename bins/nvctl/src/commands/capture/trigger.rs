//! `nvctl capture trigger`: which violations start a capture by themselves.

use reqwest::Method;
use serde_json::{Value, json};

use super::super::Context;
use crate::error::CtlError;
use crate::output::note;

pub(super) async fn run(
    context: &Context,
    ring: Option<u32>,
    rules: Option<&str>,
    duration: Option<u32>,
    interval: Option<u32>,
) -> Result<(), CtlError> {
    let client = context.client()?;
    let answer = client.get("/v1/settings", &[]).await?;
    let found = answer
        .pointer("/settings/capture")
        .filter(|found| found.is_object());
    let mut settings = found
        .cloned()
        .ok_or_else(|| client.garbled("settings without captures that violations start"))?;
    let numbers = [("ring_kib", ring), ("duration", duration), ("interval", interval)];
    let mut changed = false;
    for (name, value) in numbers {
        if let Some(value) = value {
            settings[name] = json!(value);
            changed = true;
        }
    }
    if let Some(text) = rules {
        settings["rules"] = numbers_of(text)?;
        changed = true;
    }
    if !changed {
        let shown = json!({ "capture": settings });
        return context.output.object(&shown, "capture", &crate::table::TRIGGER);
    }
    let body = json!({ "settings": { "capture": settings } });
    client.send(Method::PATCH, "/v1/settings", Some(&body)).await?;
    note(if settings["ring_kib"] == json!(0) {
        "violations start no captures"
    } else {
        "violations start captures from now on; nvctl capture list shows them"
    });
    Ok(())
}

/// Numbers of rules; none for all.
fn numbers_of(text: &str) -> Result<Value, CtlError> {
    if text == "all" {
        return Ok(json!([]));
    }
    let number = |part: &str| {
        part.trim()
            .parse::<u32>()
            .map_err(|_| CtlError::Usage(format!("--rules: '{part}' is not a rule's number, and not 'all'")))
    };
    let numbers = text.split(',').map(number).collect::<Result<Vec<_>, _>>()?;
    Ok(json!(numbers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_numbers_or_all() {
        assert_eq!(numbers_of("all").unwrap(), json!([]));
        assert_eq!(numbers_of("10002, 0").unwrap(), json!([10002, 0]));
        for wrong in ["", "web", "1,,2", "-1"] {
            let error = numbers_of(wrong).unwrap_err().to_string();
            assert!(error.contains("--rules"), "{wrong}: {error}");
        }
    }
}
