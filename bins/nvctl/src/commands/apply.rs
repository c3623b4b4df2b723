//! Applying policy files.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::{Context, at, status};
use crate::cli::Format;
use crate::documents;
use crate::error::{CtlError, EXIT_OK};
use crate::output::{escape, note};
use crate::table;

pub(super) async fn run(
    context: &Context,
    files: &[PathBuf],
    dry_run: bool,
    wait: bool,
) -> Result<u8, CtlError> {
    let mut all = Vec::new();
    for file in files {
        all.extend(documents::read(file)?);
    }
    let client = context.client()?;
    let body = json!({"documents": all, "dry_run": dry_run});
    let answer = client.send(Method::POST, "/v1/apply", Some(&body)).await?;
    if matches!(
        context.output.format(),
        Format::Table | Format::Wide | Format::Name
    ) {
        for change in answer
            .body
            .get("changes")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            context
                .output
                .line(&escape(change.as_str().unwrap_or(&change.to_string()), false))?;
        }
    } else {
        context.output.object(&answer.body, "", &table::GROUPS)?;
    }
    let revision = answer
        .revision
        .or_else(|| answer.body.get("revision").and_then(Value::as_u64));
    if dry_run {
        note(&format!(
            "{} documents checked, nothing changed (--dry-run)",
            all.len()
        ));
        return Ok(EXIT_OK);
    }
    note(&format!("{} documents applied{}", all.len(), at(revision)));
    if let (true, Some(revision)) = (wait, revision) {
        status::wait_in_force(&client, revision, Duration::from_secs(30)).await?;
        note("in force on every node");
    }
    Ok(EXIT_OK)
}
