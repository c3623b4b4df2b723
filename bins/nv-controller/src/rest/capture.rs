//! Captures: NeuVector's sniffer resources, carried to the workload's node.

use std::time::Duration;

use axum::Json;
use axum::body::Body as HttpBody;
use axum::extract::{Path, State};
use axum::http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use nv_api::grpc::{self, capture_client::CaptureClient};
use nv_api::rest::{
    ErrorBody, Sniffer, SnifferArgsData, SnifferData, SnifferResult, SnifferResultData, SniffersData,
};
use serde::Deserialize;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use utoipa::IntoParams;

use super::body::{Body, Query};
use super::error::ApiError;
use super::{App, User};

/// Size of a file, as NeuVector has it.
const FILE_BYTES: u64 = 2 << 20;
const DEFAULT_FILES: u32 = 5;
const MOST_FILES: u32 = 50;

/// Most captures of one request.
const MOST_TARGETS: usize = 32;

/// Whose captures.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub(super) struct Whose {
    /// Workload id.
    f_workload: Option<String>,
}

/// What to capture: at least one of these.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub(super) struct Targets {
    /// Workload ids, by comma.
    f_workload: Option<String>,
    /// Every member of this group; `nv.<service>.<domain>` for a service.
    f_group: Option<String>,
    /// The network namespace of this node itself.
    f_enforcer: Option<String>,
    /// Bytes that are kept of each packet; 0 or absent: all.
    snap_length: Option<u32>,
}

/// How to fetch.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub(super) struct Fetch {
    /// Go on until the capture ends.
    follow: bool,
    /// `pcapng`, or classic `pcap` for programs that read nothing else: packets alone.
    form: Option<String>,
    /// `gzip` or `zstd`: the file is given packed.
    compress: Option<String>,
}

impl Fetch {
    /// Form and compression as the agent knows them; empty for the file as it is.
    fn shape(&self) -> Result<(String, String), ApiError> {
        let pick = |name: &str, asked: &Option<String>, usual: &str, known: &[&str]| match asked.as_deref() {
            None | Some("") => Ok(String::new()),
            Some(text) if text == usual => Ok(String::new()),
            Some(text) if known.contains(&text) => Ok(text.to_owned()),
            Some(text) => Err(ApiError::invalid(format!(
                "{name}: '{text}' is none of {usual}, {}",
                known.join(", ")
            ))),
        };
        let form = pick("form", &self.form, "pcapng", &["pcap"])?;
        let compression = pick("compress", &self.compress, "none", &["gzip", "zstd"])?;
        if self.follow && !(form.is_empty() && compression.is_empty()) {
            return Err(ApiError::invalid(
                "follow: what still grows is given as it is, without form and compress",
            ));
        }
        Ok((form, compression))
    }
}

/// Node and workload of each capture that was asked for.
fn targets(app: &App, asked: &Targets) -> Result<Vec<(String, String)>, ApiError> {
    let core = app.engine.core();
    let mut found = Vec::new();
    if let Some(ids) = &asked.f_workload {
        for id in ids.split(',').map(str::trim).filter(|id| !id.is_empty()) {
            let workload = core.input().workloads.get(id);
            let workload =
                workload.ok_or_else(|| ApiError::not_found(format!("there is no workload '{id}'")))?;
            found.push((workload.node.to_string(), id.to_owned()));
        }
    }
    if let Some(group) = &asked.f_group {
        let members = core.members();
        let of_group = members.iter().find(|(name, _)| name.as_str() == group);
        let (_, workloads) =
            of_group.ok_or_else(|| ApiError::not_found(format!("group '{group}' has no members")))?;
        for workload in workloads {
            found.push((workload.node.to_string(), workload.id.to_string()));
        }
    }
    if let Some(node) = &asked.f_enforcer {
        if !core.input().nodes.keys().any(|known| known.as_str() == node) {
            return Err(ApiError::not_found(format!("there is no node '{node}'")));
        }
        found.push((node.clone(), format!("node:{node}")));
    }
    found.sort();
    found.dedup();
    if found.is_empty() {
        return Err(ApiError::invalid(
            "f_workload, f_group or f_enforcer: say what to capture",
        ));
    }
    if found.len() > MOST_TARGETS {
        return Err(ApiError::invalid(format!(
            "{} captures at once are too many: {MOST_TARGETS} at most",
            found.len()
        )));
    }
    Ok(found)
}

/// A client of a node's agent.
async fn agent(app: &App, node: &str) -> Result<CaptureClient<Channel>, ApiError> {
    let away = |detail: String| {
        ApiError::new(
            StatusCode::BAD_GATEWAY,
            format!("the agent of node '{node}' does not answer: {detail}"),
        )
    };
    let address = {
        let core = app.engine.core();
        let found = core
            .input()
            .nodes
            .values()
            .find(|known| known.id.as_str() == node);
        found
            .map(|node| node.agent_endpoint.clone())
            .ok_or_else(|| away("it is not known".into()))?
    };
    let identity = &app.identity;
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&identity.ca_pem))
        .identity(tonic::transport::Identity::from_pem(
            &identity.certificate_pem,
            &identity.key_pem,
        ))
        .domain_name(nv_api::AGENT_NAME);
    let endpoint = Endpoint::from_shared(format!("https://{address}"))
        .and_then(|endpoint| endpoint.connect_timeout(Duration::from_secs(3)).tls_config(tls))
        .map_err(|error| away(error.to_string()))?;
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| away(error.to_string()))?;
    Ok(CaptureClient::new(channel).max_decoding_message_size(nv_api::MAX_MESSAGE))
}

fn refused(status: &tonic::Status) -> ApiError {
    let code = match status.code() {
        tonic::Code::NotFound => StatusCode::NOT_FOUND,
        tonic::Code::InvalidArgument => StatusCode::BAD_REQUEST,
        tonic::Code::ResourceExhausted | tonic::Code::FailedPrecondition => StatusCode::CONFLICT,
        _ => StatusCode::BAD_GATEWAY,
    };
    ApiError::new(code, status.message())
}

fn sniffer(info: grpc::CaptureInfo) -> Sniffer {
    let time = |at: u64| i64::try_from(at).unwrap_or(i64::MAX);
    Sniffer {
        // The node is in the id, so that a capture is found without asking everybody.
        id: format!("{}:{}", info.id, info.node),
        enforcer_id: info.node,
        container_id: info.workload,
        file_number: info.files,
        size: info.bytes,
        status: info.status,
        args: if info.cause.is_empty() {
            info.detail
        } else {
            format!("{}; started by {}", info.detail, info.cause)
        },
        start_time: time(info.start_time),
        stop_time: time(info.stop_time),
        packets: info.packets,
        dropped: info.dropped,
    }
}

/// An id as the audit log has it: it comes from outside, and a log is read in terminals.
fn named(id: &str) -> String {
    id.chars().filter(|c| c.is_ascii_graphic()).take(128).collect()
}

/// Capture and node of an id.
fn split(id: &str) -> Result<(String, String), ApiError> {
    let (capture, node) = id
        .split_once(':')
        .ok_or_else(|| ApiError::not_found(format!("there is no capture '{id}'")))?;
    Ok((capture.to_owned(), node.to_owned()))
}

async fn all(app: &App, workload: &str) -> Result<Vec<Sniffer>, ApiError> {
    let nodes: Vec<String> = app
        .engine
        .core()
        .input()
        .nodes
        .keys()
        .map(ToString::to_string)
        .collect();
    let mut found = Vec::new();
    for node in nodes {
        // A node that is away has nothing to say; the others do.
        let Ok(mut client) = agent(app, &node).await else {
            continue;
        };
        let request = grpc::CaptureListRequest {
            workload: workload.to_owned(),
        };
        let reply = client.list(request).await.map_err(|status| refused(&status))?;
        found.extend(reply.into_inner().captures.into_iter().map(sniffer));
    }
    Ok(found)
}

/// Captures.
#[utoipa::path(get, path = "/v1/sniffer", params(Whose), responses((status = 200, body = SniffersData)))]
pub(super) async fn list(
    State(app): State<App>,
    Query(whose): Query<Whose>,
) -> Result<Json<SniffersData>, ApiError> {
    Ok(Json(SniffersData {
        sniffers: all(&app, whose.f_workload.as_deref().unwrap_or_default()).await?,
    }))
}

/// Start a capture on a workload, on several, on the members of a group or on a node: all or none.
#[utoipa::path(post, path = "/v1/sniffer", params(Targets), request_body = SnifferArgsData, responses((status = 200, body = SnifferResultData), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(super) async fn start(
    State(app): State<App>,
    user: User,
    Query(asked): Query<Targets>,
    Body(body): Body<SnifferArgsData>,
) -> Result<Json<SnifferResultData>, ApiError> {
    let args = body.sniffer;
    let files = if args.file_number == 0 {
        DEFAULT_FILES
    } else {
        args.file_number
    };
    if files > MOST_FILES {
        return Err(ApiError::invalid(format!(
            "sniffer.file_number: {files} is more than {MOST_FILES}"
        )));
    }
    let targets = targets(&app, &asked)?;
    let mut started: Vec<(CaptureClient<Channel>, Sniffer)> = Vec::new();
    for (node, workload) in targets {
        let request = grpc::CaptureStartRequest {
            workload: workload.clone(),
            duration_s: u64::from(args.duration),
            max_bytes: FILE_BYTES * u64::from(files),
            max_packets: 0,
            snap_len: asked.snap_length.unwrap_or(0),
            files: 1,
            filter: args.filter.clone(),
        };
        let one = async {
            let mut client = agent(&app, &node).await?;
            let info = client.start(request).await.map_err(|status| refused(&status))?;
            Ok::<_, ApiError>((client, sniffer(info.into_inner())))
        };
        match one.await {
            Ok(one) => {
                tracing::info!(target: "audit", user = user.user, workload, capture = one.1.id, filter = args.filter, "capture started");
                started.push(one);
            }
            Err(error) => {
                for (mut client, capture) in started {
                    if let Ok((id, _)) = split(&capture.id) {
                        let _ = client.delete(grpc::CaptureId { id }).await;
                    }
                }
                return Err(error);
            }
        }
    }
    for (_, capture) in &started {
        let what = format!("capture {}: started on {}", capture.id, capture.container_id);
        app.engine.note(&user.user, what).await?;
    }
    let ids: Vec<_> = started.into_iter().map(|(_, capture)| capture.id).collect();
    Ok(Json(SnifferResultData {
        result: SnifferResult {
            id: ids.first().cloned().unwrap_or_default(),
            ids,
        },
    }))
}

/// One capture.
#[utoipa::path(get, path = "/v1/sniffer/{id}", responses((status = 200, body = SnifferData), (status = 404, body = ErrorBody)))]
pub(super) async fn show(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<SnifferData>, ApiError> {
    let found = all(&app, "").await?.into_iter().find(|sniffer| sniffer.id == id);
    found
        .map(|sniffer| Json(SnifferData { sniffer }))
        .ok_or_else(|| ApiError::not_found(format!("there is no capture '{id}'")))
}

/// Stop a capture; its file stays.
#[utoipa::path(patch, path = "/v1/sniffer/stop/{id}", responses((status = 200), (status = 404, body = ErrorBody)))]
pub(super) async fn stop(
    State(app): State<App>,
    user: User,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let (capture, node) = split(&id)?;
    agent(&app, &node)
        .await?
        .stop(grpc::CaptureId { id: capture })
        .await
        .map_err(|status| refused(&status))?;
    app.engine
        .note(&user.user, format!("capture {}: stopped", named(&id)))
        .await?;
    tracing::info!(target: "audit", user = user.user, capture = id, "capture stopped");
    Ok(Json(serde_json::json!({})).into_response())
}

/// Delete a capture and its file.
#[utoipa::path(delete, path = "/v1/sniffer/{id}", responses((status = 200), (status = 404, body = ErrorBody)))]
pub(super) async fn delete(
    State(app): State<App>,
    user: User,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let (capture, node) = split(&id)?;
    agent(&app, &node)
        .await?
        .delete(grpc::CaptureId { id: capture })
        .await
        .map_err(|status| refused(&status))?;
    app.engine
        .note(&user.user, format!("capture {}: deleted", named(&id)))
        .await?;
    tracing::info!(target: "audit", user = user.user, capture = id, "capture deleted");
    Ok(Json(serde_json::json!({})).into_response())
}

/// Bytes of a file that a `Range` header asks for: the first one, and how many. `None`: the whole file, which is also the
/// answer to several ranges at once (RFC 9110, 14.2 lets a server ignore the header).
fn range(header: Option<&HeaderValue>, size: u64) -> Result<Option<(u64, u64)>, ApiError> {
    let text = header.and_then(|value| value.to_str().ok());
    let Some((first, last)) = text
        .and_then(|text| text.strip_prefix("bytes="))
        .filter(|text| !text.contains(','))
        .and_then(|text| text.split_once('-'))
    else {
        return Ok(None);
    };
    let number = |text: &str| text.parse::<u64>().ok();
    let (first, end) = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => (first, last.saturating_add(1).min(size)),
        (Some(first), None) if last.is_empty() => (first, size),
        (None, Some(count)) if first.is_empty() => (size.saturating_sub(count), size),
        _ => return Ok(None),
    };
    if first >= end {
        return Err(ApiError::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            format!("the capture has {size} bytes"),
        ));
    }
    Ok(Some((first, end - first)))
}

/// Fetch a capture's file: pcapng, or in another form. The file of a capture that has ended can be fetched in parts, by `Range`.
#[utoipa::path(get, path = "/v1/sniffer/{id}/pcap", params(Fetch), responses((status = 200, content_type = "application/octet-stream"), (status = 206, content_type = "application/octet-stream"), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody), (status = 416, body = ErrorBody)))]
pub(super) async fn download(
    State(app): State<App>,
    user: User,
    Path(id): Path<String>,
    Query(fetch): Query<Fetch>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (capture, node) = split(&id)?;
    let (form, compression) = fetch.shape()?;
    let as_it_is = form.is_empty() && compression.is_empty();
    let mut client = agent(&app, &node).await?;
    let listed = client.list(grpc::CaptureListRequest::default()).await;
    let listed = listed.map_err(|status| refused(&status))?.into_inner().captures;
    // A file that still grows has no size to be a part of.
    let ended = listed
        .iter()
        .find(|info| info.id == capture && info.status != "running");
    let size = ended.map(|info| info.bytes).filter(|_| as_it_is);
    let part = match size {
        Some(size) if !fetch.follow => range(headers.get(RANGE), size)?,
        _ => None,
    };
    // Nobody gets packets without a trace.
    let how = match (fetch.follow, part) {
        (true, _) => "followed".to_owned(),
        (false, Some((first, count))) => format!("downloaded, {count} bytes from {first}"),
        (false, None) => "downloaded".to_owned(),
    };
    app.engine
        .note(&user.user, format!("capture {}: {how}", named(&id)))
        .await?;
    tracing::info!(target: "audit", user = user.user, capture = id, how, "capture downloaded");
    let chunks = if fetch.follow {
        let request = grpc::CaptureStreamRequest {
            id: capture,
            follow: true,
            offset: 0,
        };
        client.stream(request).await
    } else {
        let (offset, length) = part.unwrap_or((0, 0));
        let request = grpc::CaptureFetchRequest {
            id: capture,
            offset,
            length,
            form,
            compression: compression.clone(),
        };
        client.fetch(request).await
    };
    let chunks = chunks.map_err(|status| refused(&status))?.into_inner();
    let mut left = part.map_or(u64::MAX, |(_, count)| count);
    let body = chunks
        .map(move |chunk| {
            let mut data = chunk.map_err(std::io::Error::other)?.data;
            data.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            left -= data.len() as u64;
            Ok::<_, std::io::Error>(bytes::Bytes::from(data))
        })
        .take_while(|chunk| std::future::ready(!matches!(chunk, Ok(data) if data.is_empty())));
    let mut response = HttpBody::from_stream(body).into_response();
    let answer = response.headers_mut();
    let kind = match compression.as_str() {
        "gzip" => "application/gzip",
        "zstd" => "application/zstd",
        _ => "application/octet-stream",
    };
    answer.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Some(size) = size.filter(|_| !fetch.follow) {
        answer.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        answer.insert(CONTENT_LENGTH, part.map_or(size, |(_, count)| count).into());
        if let Some((first, count)) = part {
            let told = format!("bytes {first}-{}/{size}", first + count - 1);
            if let Ok(told) = HeaderValue::from_str(&told) {
                answer.insert(CONTENT_RANGE, told);
            }
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_kept_and_many_are_the_whole() {
        let ask = |text: &str| range(Some(&HeaderValue::from_str(text).unwrap()), 100);
        assert_eq!(ask("bytes=0-9").unwrap(), Some((0, 10)));
        assert_eq!(ask("bytes=90-").unwrap(), Some((90, 10)));
        assert_eq!(ask("bytes=-5").unwrap(), Some((95, 5)));
        assert_eq!(ask("bytes=90-1000").unwrap(), Some((90, 10)));
        assert_eq!(ask("bytes=0-18446744073709551615").unwrap(), Some((0, 100)));
        let many: Vec<_> = (0..1000).map(|n| format!("{n}-{n}")).collect();
        for whole in [
            &format!("bytes={}", many.join(",")),
            "bytes=9-3",
            "bytes=x-",
            "lines=1-2",
            "bytes=-",
        ] {
            assert_eq!(ask(whole).unwrap(), None, "{whole}");
        }
        for beyond in ["bytes=100-", "bytes=200-300", "bytes=-0"] {
            assert!(ask(beyond).is_err(), "{beyond}");
        }
        assert_eq!(range(None, 100).unwrap(), None);
    }
}
