//! Flows, once or as they come, of the controller or of a file.

mod events;

use std::collections::VecDeque;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use futures::StreamExt as _;
use serde_json::{Value, json};

use super::Context;
use crate::cli::FlowArgs;
use crate::client::Client;
use crate::error::{CtlError, EXIT_OK};
use crate::filter;
use crate::output::note;
use crate::table;
use events::Events;

/// Flows that are shown when nothing says how many.
const LAST: usize = 100;
/// More than a controller keeps.
const ALL: usize = 1_000_000;
/// Most bytes that are read of a file.
const MAX_FILE: u64 = 1 << 30;

pub(super) async fn run(context: &Context, args: &FlowArgs) -> Result<u8, CtlError> {
    let now = jiff::Timestamp::now();
    let span = Span::new(args, now)?;
    if let Some(file) = &args.input {
        return from_file(context, args, &span, file);
    }
    let query = query(args, &span, now);
    let client = context.client()?;
    let mut answer = client.get("/v1/flow", &query).await?;
    if !args.follow {
        if let (Some(first), Some(Value::Array(flows))) = (args.first, answer.get_mut("flows")) {
            flows.truncate(first);
        }
        context.output.list(&answer, "flows", &table::FLOWS)?;
        for (stage, lost) in losses(&answer) {
            note(&format!(
                "{lost} records were lost at '{stage}': flows may be missing here"
            ));
        }
        return Ok(EXIT_OK);
    }
    for flow in answer
        .get("flows")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        context.output.record(flow, &table::FLOWS)?;
    }
    let mut last = answer.get("sequence").and_then(Value::as_u64);
    let mut pause = Duration::from_millis(200);
    loop {
        match follow(context, &client, &query, &mut last).await {
            Err(error @ (CtlError::Refused { .. } | CtlError::Io { .. } | CtlError::Garbled { .. })) => {
                return Err(error);
            }
            Ok(()) => pause = Duration::from_millis(200),
            Err(error) => note(&format!("{error}; trying again")),
        }
        note("-- the stream was interrupted: flows may be missing here --");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(10));
    }
}

/// The time that flows must be of.
#[derive(Debug, Default)]
struct Span {
    since: Option<jiff::Timestamp>,
    until: Option<jiff::Timestamp>,
}

impl Span {
    fn new(args: &FlowArgs, now: jiff::Timestamp) -> Result<Self, CtlError> {
        let read = |option: &str, text: &Option<String>| {
            text.as_deref().map(|text| moment(option, text, now)).transpose()
        };
        let span = Self {
            since: read("--since", &args.since)?,
            until: read("--until", &args.until)?,
        };
        match (span.since, span.until) {
            (Some(since), Some(until)) if since > until => Err(CtlError::Usage(
                "--since and --until: nothing is between them".into(),
            )),
            _ => Ok(span),
        }
    }

    fn holds(&self, flow: &Value) -> bool {
        let Some(at) = flow.get("last_seen").and_then(Value::as_i64) else {
            return self.since.is_none() && self.until.is_none();
        };
        let at = i128::from(at);
        self.since.is_none_or(|since| at >= since.as_nanosecond())
            && self.until.is_none_or(|until| at <= until.as_nanosecond())
    }
}

/// How many of the newest are wanted; `None`: all.
fn newest(args: &FlowArgs) -> Option<usize> {
    let is_bounded = args.since.is_some() || args.until.is_some() || args.input.is_some();
    match (args.last, args.all || args.first.is_some() || is_bounded) {
        (Some(last), _) => Some(last),
        (None, true) => None,
        (None, false) => Some(LAST),
    }
}

/// Flows that were written to a file before, by the same words.
fn from_file(context: &Context, args: &FlowArgs, span: &Span, file: &Path) -> Result<u8, CtlError> {
    let mut kept = VecDeque::new();
    let newest = newest(args).unwrap_or(usize::MAX);
    let words = args.filters.filter();
    read(file, |flow| {
        if filter::flow(words, &flow)
            && span.holds(&flow)
            && args.first.is_none_or(|first| kept.len() < first)
        {
            if kept.len() == newest {
                kept.pop_front();
            }
            if newest > 0 {
                kept.push_back(flow);
            }
        }
    })?;
    let answer = json!({"flows": kept});
    context.output.list(&answer, "flows", &table::FLOWS)?;
    Ok(EXIT_OK)
}

/// Gives each flow of a file: JSON objects one after the other, each a flow or an answer with `flows`.
fn read(file: &Path, mut each: impl FnMut(Value)) -> Result<(), CtlError> {
    let name = file.display().to_string();
    let problem = |problem: String| CtlError::File {
        file: name.clone(),
        problem,
    };
    let input: Box<dyn std::io::Read> = if name == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(file).map_err(|error| problem(error.to_string()))?)
    };
    let input = std::io::BufReader::new(input).take(MAX_FILE);
    for value in serde_json::Deserializer::from_reader(input).into_iter::<Value>() {
        match value.map_err(|error| problem(error.to_string()))? {
            Value::Object(mut object) => match object.remove("flows") {
                Some(Value::Array(flows)) => flows.into_iter().for_each(&mut each),
                None if object.contains_key("client_ip") => each(Value::Object(object)),
                _ => {
                    return Err(problem(
                        "an object that is no flow: write the file with 'nvctl flows -o jsonl'".into(),
                    ));
                }
            },
            _ => {
                return Err(problem(
                    "it holds no flows: write it with 'nvctl flows -o jsonl'".into(),
                ));
            }
        }
    }
    Ok(())
}

/// Stages that lost records, and how many.
fn losses(answer: &Value) -> Vec<(&str, u64)> {
    let stages = answer.get("lost_by_stage").and_then(Value::as_object);
    stages
        .into_iter()
        .flatten()
        .filter_map(|(stage, lost)| Some((stage.as_str(), lost.as_u64().filter(|lost| *lost > 0)?)))
        .collect()
}

/// Reads one stream of server-sent events to its end.
async fn follow(
    context: &Context,
    client: &Client,
    query: &[(&'static str, String)],
    last: &mut Option<u64>,
) -> Result<(), CtlError> {
    let mut query = query.to_vec();
    query.push(("follow", "true".to_owned()));
    if let Some(last) = last {
        query.push(("after", last.to_string()));
    }
    let response = client.stream("/v1/flow", &query, "text/event-stream").await?;
    let mut body = response.bytes_stream();
    let mut events = Events::default();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|source| client.unreachable(source))?;
        for event in events.push(&chunk).map_err(|problem| client.garbled(problem))? {
            if let Some(id) = event.id {
                *last = Some(id);
            }
            if event.kind == "gap" {
                note(&format!("-- gap: {} --", event.data));
                continue;
            }
            let flow: Value =
                serde_json::from_str(&event.data).map_err(|error| client.garbled(error.to_string()))?;
            context.output.record(&flow, &table::FLOWS)?;
        }
    }
    Ok(())
}

fn query(args: &FlowArgs, span: &Span, now: jiff::Timestamp) -> Vec<(&'static str, String)> {
    let limit = newest(args).unwrap_or(ALL);
    let mut query = vec![("limit", limit.to_string())];
    let words = args.filters.filter();
    if !words.is_empty() {
        query.push(("where", words.to_string()));
    }
    // The controller's clock counts: it is told how long ago, not when.
    let ago = |at: jiff::Timestamp| now.as_second().saturating_sub(at.as_second()).max(0).to_string();
    query.extend(span.since.map(|at| ("since", ago(at))));
    query.extend(span.until.map(|at| ("until", ago(at))));
    query
}

/// How many seconds ago something was, from an age or a time.
pub(super) fn seconds_since(option: &str, text: &str) -> Result<i64, CtlError> {
    let now = jiff::Timestamp::now();
    let at = moment(option, text, now)?;
    Ok(now.as_second().saturating_sub(at.as_second()).max(0))
}

/// A time, or an age: `90`, `90s`, `5m`, `2h`, `1d`.
fn moment(option: &str, text: &str, now: jiff::Timestamp) -> Result<jiff::Timestamp, CtlError> {
    let wrong = || {
        CtlError::Usage(format!(
            "{option} '{text}': write an age such as 90s, 5m, 2h or 1d, or a time such as 2026-01-31T12:00:00Z"
        ))
    };
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Ok(at);
    }
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let seconds = number
        .parse::<i64>()
        .ok()
        .and_then(|number| number.checked_mul(factor));
    let at = seconds.and_then(|seconds| now.as_second().checked_sub(seconds));
    at.and_then(|at| jiff::Timestamp::from_second(at).ok())
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_stages_that_lost_something_are_named() {
        let answer = serde_json::json!({"flows": [], "lost_by_stage": {"ring": 0, "report": 7}});
        assert_eq!(losses(&answer), [("report", 7)]);
        assert!(losses(&serde_json::json!({})).is_empty());
    }

    #[test]
    fn ages_and_times() {
        let now = jiff::Timestamp::from_second(1_000_000).unwrap();
        let at = |text| moment("--since", text, now).map(|at| at.as_second());
        assert_eq!(at("5m").unwrap(), 1_000_000 - 300);
        assert_eq!(at("90").unwrap(), 1_000_000 - 90);
        assert_eq!(at("1970-01-02T00:00:00Z").unwrap(), 86_400);
        for bad in [
            "",
            "m",
            "5x",
            "99999999999999999999h",
            "9999999999999999h",
            "-1s",
            "yesterday",
        ] {
            assert!(at(bad).is_err(), "{bad}");
        }
    }
}
