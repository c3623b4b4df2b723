//! What a policy file would make of the flows that the controller has recorded.

use std::path::PathBuf;

use nv_api::filter::FlowFilter;
use reqwest::Method;
use serde_json::{Value, json};

use super::{Context, FailOn};
use crate::commands::flows::seconds_since;
use crate::documents;
use crate::error::{CtlError, EXIT_NO, EXIT_OK};
use crate::output::note;
use crate::table;

/// What is to be tried.
#[derive(Debug)]
pub(super) struct Order<'a> {
    pub(super) files: &'a [PathBuf],
    pub(super) filter: &'a FlowFilter,
    pub(super) since: Option<&'a str>,
    pub(super) fail_on: &'a [FailOn],
}

pub(super) async fn run(context: &Context, order: &Order<'_>) -> Result<u8, CtlError> {
    let mut all = Vec::new();
    for file in order.files {
        all.extend(documents::read(file)?);
    }
    let since = order
        .since
        .map(|text| seconds_since("--since", text))
        .transpose()?;
    let body = json!({"documents": all, "where": order.filter.to_string(), "since": since});
    let client = context.client()?;
    let answer = client.send(Method::POST, "/v1/simulate", Some(&body)).await?.body;
    context.output.list(&answer, "affected", &table::SIMULATED)?;
    let affected = answer.get("affected").and_then(Value::as_array);
    let affected = affected.map_or(&[][..], Vec::as_slice);
    let count = |item: &Value| item.get("count").and_then(Value::as_u64).unwrap_or(0);
    let becomes = |verdict: &str| -> u64 {
        let is = |item: &&Value| table::cell(item, "after.verdict") == verdict;
        affected.iter().filter(is).map(count).sum()
    };
    let [allow, alert, deny] = ["allow", "alert", "deny"].map(becomes);
    note(&format!(
        "{} flows judged, nothing changed: {} would get another verdict ({deny} deny, {alert} alert, {allow} allow)",
        answer.get("flows").and_then(Value::as_u64).unwrap_or(0),
        allow + alert + deny,
    ));
    let failed = order.fail_on.iter().any(|what| match what {
        FailOn::Deny => deny > 0,
        FailOn::Alert => deny + alert > 0,
        FailOn::Change => !affected.is_empty(),
    });
    Ok(if failed { EXIT_NO } else { EXIT_OK })
}
