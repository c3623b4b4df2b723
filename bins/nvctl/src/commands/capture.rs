//! Captures, over NeuVector's sniffer resources.

use std::fs;
use std::io::{IsTerminal as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use futures::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Context, get};
use crate::cli::Capture;
use crate::client::{Client, segment};
use crate::error::{CtlError, EXIT_OK};
use crate::output::{note, stdout_error};
use crate::table;

pub(super) async fn run(context: &Context, command: Capture) -> Result<u8, CtlError> {
    let client = context.client()?;
    match command {
        Capture::Start {
            workload,
            duration,
            files,
        } => {
            let id = get::workload_id(&client, &workload).await?;
            let path = format!("/v1/sniffer?f_workload={}", segment(&id));
            let body = json!({"sniffer": {"file_number": files, "duration": duration}});
            let answer = client.send(Method::POST, &path, Some(&body)).await?;
            let started = answer.body.pointer("/result/id").and_then(Value::as_str);
            let started = started.ok_or_else(|| client.garbled("a capture without an id"))?;
            context.output.line(&crate::output::escape(started, false))?;
            note(&format!(
                "capture started on {workload}; fetch it with: nvctl capture download {started} -w FILE"
            ));
        }
        Capture::Stop { id } => {
            client
                .send(Method::PATCH, &format!("/v1/sniffer/stop/{}", segment(&id)), None)
                .await?;
            note(&format!("capture {id} stopped"));
        }
        Capture::List { workload } => {
            let mut query = Vec::new();
            if let Some(workload) = workload {
                query.push(("f_workload", get::workload_id(&client, &workload).await?));
            }
            let answer = client.get("/v1/sniffer", &query).await?;
            context.output.list(&answer, "sniffers", &table::CAPTURES)?;
        }
        Capture::Download { id, write } => download(&client, &id, &write).await?,
        Capture::Delete { id } => {
            client
                .send(Method::DELETE, &format!("/v1/sniffer/{}", segment(&id)), None)
                .await?;
            note(&format!("capture {id} deleted"));
        }
    }
    Ok(EXIT_OK)
}

/// Fetches the file. Nothing is left under the wanted name unless it is whole.
async fn download(client: &Client, id: &str, write: &Path) -> Result<(), CtlError> {
    let response = client
        .stream(
            &format!("/v1/sniffer/{}/pcap", segment(id)),
            &[],
            "application/octet-stream",
        )
        .await?;
    let bar = progress(response.content_length());
    let mut body = response.bytes_stream();
    if write.as_os_str() == "-" {
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
    let io = |source| CtlError::Io {
        action: format!("cannot write {}", part.display()),
        source,
    };
    let mut out = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&part)
        .map_err(io)?;
    while let Some(chunk) = body.next().await {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(source) => {
                let _ = fs::remove_file(&part);
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
