//! Flows, once or as they come.

use std::time::Duration;

use futures::StreamExt as _;
use serde_json::Value;

use super::Context;
use crate::cli::FlowArgs;
use crate::client::Client;
use crate::error::{CtlError, EXIT_OK};
use crate::output::note;
use crate::table;

const MAX_EVENT: usize = 1 << 20;

pub(super) async fn run(context: &Context, args: &FlowArgs) -> Result<u8, CtlError> {
    let query = query(args)?;
    let client = context.client()?;
    let answer = client.get("/v1/flow", &query).await?;
    if !args.follow {
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

fn query(args: &FlowArgs) -> Result<Vec<(&'static str, String)>, CtlError> {
    let mut query = vec![("limit", args.last.to_string())];
    let ports: Vec<_> = args.port.iter().map(u16::to_string).collect();
    for (name, list) in [
        ("from", &args.from),
        ("to", &args.to),
        ("verdict", &args.verdict),
        ("protocol", &args.protocol),
        ("port", &ports),
    ] {
        if !list.is_empty() {
            query.push((name, list.join(",")));
        }
    }
    let since = args.since.as_deref().map(age).transpose()?;
    query.extend(since.map(|age| ("since", age.as_secs().to_string())));
    Ok(query)
}

/// `90`, `90s`, `5m`, `2h`, `1d`.
fn age(text: &str) -> Result<Duration, CtlError> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => {
            return Err(CtlError::Usage(format!(
                "--since '{text}': write 90s, 5m, 2h or 1d"
            )));
        }
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .map(Duration::from_secs)
        .ok_or_else(|| CtlError::Usage(format!("--since '{text}': write 90s, 5m, 2h or 1d")))
}

/// One server-sent event.
#[derive(Debug, Default, PartialEq, Eq)]
struct Event {
    id: Option<u64>,
    kind: String,
    data: String,
}

/// Reader of server-sent events (WHATWG HTML, 9.2.6) from chunks of any size.
#[derive(Debug, Default)]
struct Events {
    rest: Vec<u8>,
    event: Event,
}

impl Events {
    fn push(&mut self, chunk: &[u8]) -> Result<Vec<Event>, &'static str> {
        self.rest.extend_from_slice(chunk);
        if self.rest.len() > MAX_EVENT {
            return Err("an event of more than 1 MiB");
        }
        let mut ready = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\n', '\r']);
            if line.is_empty() {
                if !self.event.data.is_empty() {
                    ready.push(std::mem::take(&mut self.event));
                }
                self.event = Event::default();
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "id" => self.event.id = value.parse().ok(),
                "event" => self.event.kind = value.to_owned(),
                "data" => {
                    if !self.event.data.is_empty() {
                        self.event.data.push('\n');
                    }
                    self.event.data.push_str(value);
                }
                _ => {}
            }
        }
        Ok(ready)
    }
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
    fn events_come_whole_whatever_the_chunks() {
        let text = b": hello\n\nid: 7\ndata: {\"a\":\ndata: 1}\n\nevent: gap\ndata: 3 lost\n\n";
        for size in 1..text.len() {
            let mut events = Events::default();
            let mut all = Vec::new();
            for chunk in text.chunks(size) {
                all.extend(events.push(chunk).unwrap());
            }
            assert_eq!(all.len(), 2, "chunks of {size}");
            assert_eq!(
                all[0],
                Event {
                    id: Some(7),
                    kind: String::new(),
                    data: "{\"a\":\n1}".into()
                }
            );
            assert_eq!(all[1].kind, "gap");
        }
    }

    #[test]
    fn ages() {
        assert_eq!(age("5m").unwrap(), Duration::from_secs(300));
        assert_eq!(age("90").unwrap(), Duration::from_secs(90));
        for bad in ["", "m", "5x", "99999999999999999999h", "-1s"] {
            assert!(age(bad).is_err(), "{bad}");
        }
    }
}
