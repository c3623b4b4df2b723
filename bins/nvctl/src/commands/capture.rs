//! Captures, over NeuVector's sniffer resources, and what is in their files.

mod file;
mod follow;
mod trigger;

use std::fs;
use std::io::{IsTerminal as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use futures::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use nv_capture::{Filter, FilterError};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Context, get};
use crate::cli::{Capture, CaptureWhat};
use crate::client::{Client, segment};
use crate::error::{CtlError, EXIT_OK};
use crate::output::{note, stdout_error};
use crate::table;

pub(super) async fn run(context: &Context, command: Capture) -> Result<u8, CtlError> {
    match command {
        Capture::Start { what } => {
            let client = context.client()?;
            for id in start(&client, &what).await? {
                context.output.line(&crate::output::escape(&id, false))?;
                note(&format!(
                    "capture started; fetch it with: nvctl capture download {id} -w FILE"
                ));
            }
        }
        Capture::Follow { what, write } => follow::run(&context.client()?, &what, &write).await?,
        Capture::Flows { file, filter } => file::flows(context, &file, filter.as_deref())?,
        Capture::Summary { file, filter } => file::summary(context, &file, filter.as_deref())?,
        Capture::Stop { id } => {
            let client = context.client()?;
            client
                .send(Method::PATCH, &format!("/v1/sniffer/stop/{}", segment(&id)), None)
                .await?;
            note(&format!("capture {id} stopped"));
        }
        Capture::List { workload } => {
            let client = context.client()?;
            let mut query = Vec::new();
            if let Some(workload) = workload {
                query.push(("f_workload", get::workload_id(&client, &workload).await?));
            }
            let answer = client.get("/v1/sniffer", &query).await?;
            context.output.list(&answer, "sniffers", &table::CAPTURES)?;
        }
        Capture::Download {
            id,
            write,
            resume,
            pcap,
            compress,
        } => {
            let mut path = format!("/v1/sniffer/{}/pcap", segment(&id));
            let form = pcap.then(|| "form=pcap".to_owned());
            let packed = compress.map(|how| format!("compress={how}"));
            let query: Vec<_> = form.into_iter().chain(packed).collect();
            if !query.is_empty() {
                path = format!("{path}?{}", query.join("&"));
            }
            download(&context.client()?, &path, &write, resume).await?;
        }
        Capture::Trigger {
            ring,
            rules,
            duration,
            interval,
        } => trigger::run(context, ring, rules.as_deref(), duration, interval).await?,
        Capture::Delete { id } => {
            let client = context.client()?;
            client
                .send(Method::DELETE, &format!("/v1/sniffer/{}", segment(&id)), None)
                .await?;
            note(&format!("capture {id} deleted"));
        }
    }
    Ok(EXIT_OK)
}

/// Starts captures; gives their ids.
async fn start(client: &Client, what: &CaptureWhat) -> Result<Vec<String>, CtlError> {
    let mut ids = Vec::new();
    for name in what.workloads.iter().chain(&what.from) {
        ids.push(get::workload_id(client, name).await?);
    }
    let mut query = Vec::new();
    if !ids.is_empty() {
        query.push(format!("f_workload={}", segment(&ids.join(","))));
    }
    if let Some(group) = &what.group {
        query.push(format!("f_group={}", segment(group)));
    }
    if let Some(service) = &what.service {
        let group = if service.starts_with("nv.") {
            service.clone()
        } else {
            format!("nv.{service}")
        };
        query.push(format!("f_group={}", segment(&group)));
    }
    if let Some(node) = &what.node {
        query.push(format!("f_enforcer={}", segment(node)));
    }
    if query.is_empty() {
        return Err(CtlError::Usage(
            "say what to capture: workloads, --group, --service, --node, or --from and --to".into(),
        ));
    }
    if what.snap_length != 0 {
        query.push(format!("snap_length={}", what.snap_length));
    }
    let body =
        json!({"sniffer": {"file_number": what.files, "duration": what.duration, "filter": filter(what)?}});
    let path = format!("/v1/sniffer?{}", query.join("&"));
    let answer = client.send(Method::POST, &path, Some(&body)).await?;
    let started = answer.body.pointer("/result/ids").and_then(Value::as_array);
    let started = started.ok_or_else(|| client.garbled("a capture without an id"))?;
    Ok(started
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect())
}

/// The filter with what the options add. It is checked here already, where its column can still be shown.
fn filter(what: &CaptureWhat) -> Result<String, CtlError> {
    let mut parts = Vec::new();
    if !what.filter.trim().is_empty() {
        parse_filter(&what.filter)?;
        parts.push(format!("({})", what.filter));
    }
    if let (Some(from), Some(to)) = (&what.from, &what.to) {
        for name in [from, to] {
            if name.contains('"') {
                return Err(CtlError::Usage(format!("'{name}' cannot be a workload's name")));
            }
        }
        parts.push(format!(
            "((src workload \"{from}\" and dst workload \"{to}\") or (src workload \"{to}\" and dst workload \"{from}\"))"
        ));
    }
    if let Some(verdict) = &what.verdict {
        parts.push(format!("verdict {verdict}"));
    }
    if let [only] = parts.as_slice()
        && !what.filter.trim().is_empty()
        && only.len() == what.filter.len() + 2
    {
        return Ok(what.filter.clone());
    }
    Ok(parts.join(" and "))
}

fn parse_filter(text: &str) -> Result<Filter, CtlError> {
    text.parse().map_err(|error: FilterError| {
        let mark = " ".repeat(error.column.saturating_sub(1));
        CtlError::Usage(format!("filter: {error}\n  {text}\n  {mark}^"))
    })
}

/// Fetches the file. Nothing is left under the wanted name unless it is whole.
async fn download(client: &Client, path: &str, write: &Path, resume: bool) -> Result<(), CtlError> {
    if write.as_os_str() == "-" {
        let response = client.stream(path, &[], "application/octet-stream").await?;
        let bar = progress(response.content_length());
        let mut body = response.bytes_stream();
        let mut out = std::io::stdout().lock();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|source| client.unreachable(source))?;
            out.write_all(&chunk).map_err(stdout_error)?;
            bar.inc(u64::try_from(chunk.len()).unwrap_or(0));
        }
        out.flush().map_err(stdout_error)?;
        bar.finish_and_clear();
        return Ok(());
    }
    let mut part = write.as_os_str().to_owned();
    part.push(".part");
    let part = std::path::PathBuf::from(part);
    let held = fs::metadata(&part).map_or(0, |metadata| metadata.len());
    let from = if resume { held } else { 0 };
    let response = if from > 0 {
        client.stream_from(path, from).await?
    } else {
        client.stream(path, &[], "application/octet-stream").await?
    };
    // Without a part for an answer the file begins anew.
    let goes_on = response.status() == reqwest::StatusCode::PARTIAL_CONTENT;
    let from = if goes_on { from } else { 0 };
    let bar = progress(response.content_length().map(|length| length + from));
    bar.inc(from);
    let mut body = response.bytes_stream();
    let io = |source| CtlError::Io {
        action: format!("cannot write {}", part.display()),
        source,
    };
    let mut out = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .append(goes_on)
        .truncate(!goes_on)
        .mode(0o600)
        .open(&part)
        .map_err(io)?;
    while let Some(chunk) = body.next().await {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(source) => {
                if resume {
                    note(&format!(
                        "what came so far is in {}: the same command goes on",
                        part.display()
                    ));
                } else {
                    let _ = fs::remove_file(&part);
                }
                return Err(client.unreachable(source));
            }
        };
        out.write_all(&chunk).map_err(io)?;
        bar.inc(u64::try_from(chunk.len()).unwrap_or(0));
    }
    out.sync_all().map_err(io)?;
    fs::rename(&part, write).map_err(|source| CtlError::Io {
        action: format!("cannot write {}", write.display()),
        source,
    })?;
    bar.finish_and_clear();
    note(&format!("{}: {} bytes", write.display(), bar.position()));
    Ok(())
}

fn progress(length: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = length.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    if let Ok(style) = ProgressStyle::with_template("{bytes} {bar:40} {bytes_per_sec}") {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        what: CaptureWhat,
    }

    fn of(line: &[&str]) -> Result<String, CtlError> {
        filter(&Line::try_parse_from([&["capture"], line].concat()).unwrap().what)
    }

    #[test]
    fn options_become_words_of_the_filter() {
        assert_eq!(of(&["web"]).unwrap(), "");
        assert_eq!(of(&["web", "--filter", "tcp"]).unwrap(), "tcp");
        let both = of(&[
            "--from",
            "web",
            "--to",
            "db",
            "--verdict",
            "deny",
            "--filter",
            "tcp or udp",
        ])
        .unwrap();
        assert!(
            both.starts_with("(tcp or udp) and ((src workload \"web\" and dst workload \"db\") or"),
            "{both}"
        );
        assert!(both.ends_with("and verdict deny"), "{both}");
        both.parse::<Filter>().unwrap();
        let wrong = of(&["web", "--filter", "tcp prot 80"]).unwrap_err().to_string();
        assert!(
            wrong.contains("column 5") && wrong.ends_with("\n      ^"),
            "{wrong}"
        );
    }
}
