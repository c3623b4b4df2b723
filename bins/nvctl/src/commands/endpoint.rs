//! `nvctl status endpoint`: what was counted at a workload's interfaces.

use serde_json::{Value, json};

use super::Context;
use crate::cli::Format;
use crate::error::{CtlError, EXIT_OK};
use crate::output::escape;
use crate::table;

pub(super) async fn run(context: &Context, name: &str) -> Result<u8, CtlError> {
    let answer = context.client()?.get("/v1/endpoint", &[]).await?;
    let all = answer.get("endpoints").and_then(Value::as_array);
    let is_meant = |endpoint: &&Value| {
        let text = |field: &str| endpoint.get(field).and_then(Value::as_str).unwrap_or_default();
        let id = text("workload");
        // As elsewhere, the start of an id is enough, if it is not too short.
        ["workload_name", "name"].iter().any(|field| text(field) == name)
            || id == name
            || (name.len() >= 8 && id.starts_with(name))
    };
    let found: Vec<Value> = all.into_iter().flatten().filter(is_meant).cloned().collect();
    if found.is_empty() {
        return Err(CtlError::Refused {
            status: 404,
            message: format!("no interface of '{name}' is under guard"),
        });
    }
    match context.output.format() {
        Format::Table | Format::Wide => {
            for endpoint in &found {
                print(context, endpoint)?;
            }
        }
        _ => context
            .output
            .list(&json!({"endpoints": found}), "endpoints", &table::ENDPOINTS)?,
    }
    Ok(EXIT_OK)
}

fn print(context: &Context, endpoint: &Value) -> Result<(), CtlError> {
    let cell = |path: &str| table::cell(endpoint, path);
    let is_open = endpoint.get("unguarded") == Some(&json!(true));
    let warning = if is_open {
        ", NOT GUARDED: its programs were taken off"
    } else {
        ""
    };
    let heading = format!(
        "{} on {} of {}: {}, addresses {}{warning}",
        cell("name"),
        cell("node"),
        cell("workload_name|workload"),
        cell("mode"),
        cell("addresses")
    );
    context.output.line(&escape(&heading, false))?;
    let mut rows = Vec::new();
    let mut reasons = Vec::new();
    for direction in ["ingress", "egress"] {
        let mut row = endpoint.get(direction).cloned().unwrap_or_default();
        row["direction"] = json!(direction);
        let by_reason = row.get("by_reason").and_then(Value::as_object).cloned();
        for (reason, packets) in by_reason.into_iter().flatten() {
            reasons.push(json!({"direction": direction, "reason": reason, "packets": packets}));
        }
        rows.push(row);
    }
    context
        .output
        .line(&context.output.table(&rows, &table::COUNTERS))?;
    if !reasons.is_empty() {
        context
            .output
            .line(&context.output.table(&reasons, &table::REASONS))?;
    }
    Ok(())
}
