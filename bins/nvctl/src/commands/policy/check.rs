//! `nvctl policy check` and `diff`.

use std::path::{Path, PathBuf};

use nv_policy::diff;
use serde_json::{Value, json};

use super::file::{Level, Loaded};
use super::{Context, export};
use crate::cli::Format;
use crate::error::{CtlError, EXIT_NO, EXIT_OK};
use crate::output::{escape, note};

/// Most differences that are shown.
const MAX_SHOWN: usize = 1000;

pub(super) fn check(context: &Context, files: &[PathBuf]) -> Result<u8, CtlError> {
    let mut loaded = Loaded::default();
    for file in files {
        loaded.add(file)?;
    }
    loaded.check();
    let is_bad = loaded.findings.iter().any(|finding| finding.level != Level::Note);
    match context.output.format() {
        Format::Table | Format::Wide | Format::Name => {
            for finding in &loaded.findings {
                context.output.line(&escape(&finding.line(), false))?;
            }
        }
        _ => {
            let list: Vec<Value> = loaded
                .findings
                .iter()
                .map(|finding| {
                    json!({"file": finding.file, "line": finding.place.line, "column": finding.place.column,
                        "level": finding.level.name(), "message": finding.text})
                })
                .collect();
            context
                .output
                .object(&json!({"findings": list}), "", &crate::table::RULES)?;
        }
    }
    let rules = loaded.input.rules.len();
    note(&format!(
        "{rules} rules checked, {} findings",
        loaded.findings.len()
    ));
    Ok(if is_bad { EXIT_NO } else { EXIT_OK })
}

pub(super) async fn difference(
    context: &Context,
    file: &Path,
    against: Option<&Path>,
) -> Result<u8, CtlError> {
    let (old, mut new) = match against {
        Some(before) => (load(Loaded::default(), before)?, load(Loaded::default(), file)?),
        None => {
            let now = export::policy_and_settings(&context.client()?).await?;
            (now.clone(), load(Loaded::on(now), file)?)
        }
    };
    let mut old = old;
    if against.is_some() {
        // Without workloads there would be nobody to differ for: one for each service that either file names.
        super::cases::stand_ins(&mut old, &mut new);
    }
    let found = diff(&old, &new, MAX_SHOWN);
    match context.output.format() {
        Format::Table | Format::Wide | Format::Name => {
            for one in &found.list {
                context.output.line(&escape(&one.to_string(), false))?;
            }
        }
        _ => {
            let list: Vec<Value> = found
                .list
                .iter()
                .map(|one| {
                    json!({"from": one.from.label, "to": one.to.label, "ports": one.ports.to_string(), "text": one.to_string(),
                        "before": one.before.verdict.to_string(), "after": one.after.verdict.to_string()})
                })
                .collect();
            context
                .output
                .object(&json!({"differences": list}), "", &crate::table::RULES)?;
        }
    }
    match (found.list.len(), found.omitted, found.not_compared) {
        (0, ..) => note("no verdict changes"),
        (shown, 0, 0) => note(&format!("{shown} differences")),
        (shown, omitted, pairs) => {
            note(&format!(
                "{shown} differences shown, {omitted} more, {pairs} pairs of peers not compared"
            ));
        }
    }
    Ok(EXIT_OK)
}

fn load(mut loaded: Loaded, file: &Path) -> Result<nv_policy::PolicyInput, CtlError> {
    loaded.add(file)?;
    loaded.check();
    match loaded.refused() {
        Some(error) => Err(error),
        None => Ok(loaded.input),
    }
}
