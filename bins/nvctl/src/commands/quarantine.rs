//! Workloads that are cut off.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use super::get::workload_id;
use super::{Context, at, status};
use crate::client::segment;
use crate::error::{CtlError, EXIT_OK};
use crate::output::note;
use crate::table;

pub(super) async fn list(context: &Context) -> Result<u8, CtlError> {
    let answer = context.client()?.get("/v1/quarantine", &[]).await?;
    context.output.list(&answer, "quarantines", &table::QUARANTINES)?;
    Ok(EXIT_OK)
}

pub(super) async fn set(
    context: &Context,
    name: &str,
    quarantine: bool,
    reason: Option<&str>,
    wait: bool,
) -> Result<u8, CtlError> {
    let client = context.client()?;
    let id = match workload_id(&client, name).await {
        // One that has ended can still be let back, by its id.
        Err(CtlError::Refused { status: 404, .. }) if !quarantine => name.to_owned(),
        found => found?,
    };
    let mut config = json!({"quarantine": quarantine});
    if let Some(reason) = reason {
        config["quarantine_reason"] = reason.into();
    }
    let path = format!("/v1/workload/{}", segment(&id));
    let answer = client
        .send(Method::PATCH, &path, Some(&json!({ "config": config })))
        .await?;
    let state = if quarantine {
        "in quarantine"
    } else {
        "out of quarantine"
    };
    note(&format!("{name}: {state}{}", at(answer.revision)));
    if let (true, Some(revision)) = (wait, answer.revision) {
        status::wait_in_force(&client, revision, Duration::from_secs(30)).await?;
        note("in force on every node");
    }
    Ok(EXIT_OK)
}
