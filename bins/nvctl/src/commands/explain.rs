//! What becomes of a flow, and why.

use serde_json::Value;

use super::Context;
use crate::cli::{Expect, Format};
use crate::error::{CtlError, EXIT_NO, EXIT_OK};
use crate::output::{escape, note};
use crate::table;

/// The flow asked about.
pub(super) struct Question {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) port: String,
    pub(super) app: Option<String>,
}

pub(super) async fn run(
    context: &Context,
    question: &Question,
    expect: Option<Expect>,
) -> Result<u8, CtlError> {
    let client = context.client()?;
    let mut query = vec![
        ("from", question.from.clone()),
        ("to", question.to.clone()),
        ("port", question.port.clone()),
    ];
    if let Some(app) = &question.app {
        query.push(("app", app.clone()));
    }
    let answer = client.get("/v1/explain", &query).await?;
    let explain = answer.get("explain").unwrap_or(&answer);
    let verdict = explain
        .get("verdict")
        .and_then(Value::as_str)
        .ok_or_else(|| client.garbled("an explanation without a verdict"))?;
    match (
        context.output.format(),
        explain.get("text").and_then(Value::as_str),
    ) {
        (Format::Table | Format::Wide, Some(text)) => context.output.line(&escape(text, true))?,
        (Format::Name, _) => context.output.line(&escape(verdict, false))?,
        _ => context.output.object(&answer, "explain", &table::RULES)?,
    }
    Ok(judge(verdict, expect))
}

/// An alert passes, so it counts as allow.
fn judge(verdict: &str, expect: Option<Expect>) -> u8 {
    let denied = verdict == "deny";
    let wanted = match expect {
        None => return EXIT_OK,
        Some(Expect::Allow) => !denied,
        Some(Expect::Deny) => denied,
    };
    if wanted {
        EXIT_OK
    } else {
        note(&format!(
            "the verdict is {verdict}, expected was {}",
            if denied { "allow" } else { "deny" }
        ));
        EXIT_NO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expectation_decides_the_exit_code() {
        assert_eq!(judge("deny", None), EXIT_OK);
        assert_eq!(judge("alert", Some(Expect::Allow)), EXIT_OK);
        assert_eq!(judge("deny", Some(Expect::Allow)), EXIT_NO);
        assert_eq!(judge("allow", Some(Expect::Deny)), EXIT_NO);
        assert_eq!(judge("deny", Some(Expect::Deny)), EXIT_OK);
    }
}
