//! Captures: NeuVector's sniffer resources, carried to the workload's node.

use std::time::Duration;

use axum::Json;
use axum::body::Body as HttpBody;
use axum::extract::{Path, State};
use axum::http::StatusCode;
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

/// Whose captures.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub(super) struct Whose {
    /// Workload id.
    f_workload: Option<String>,
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
        args: info.detail,
        start_time: time(info.start_time),
        stop_time: time(info.stop_time),
        packets: info.packets,
        dropped: info.dropped,
    }
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

/// Start a capture on a workload.
#[utoipa::path(post, path = "/v1/sniffer", params(Whose), request_body = SnifferArgsData, responses((status = 200, body = SnifferResultData), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(super) async fn start(
    State(app): State<App>,
    user: User,
    Query(whose): Query<Whose>,
    Body(body): Body<SnifferArgsData>,
) -> Result<Json<SnifferResultData>, ApiError> {
    let id = whose
        .f_workload
        .ok_or_else(|| ApiError::invalid("f_workload: name the workload in the query"))?;
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
    let node = {
        let core = app.engine.core();
        let found = core
            .input()
            .workloads
            .get(id.as_str())
            .map(|workload| workload.node.to_string());
        found.ok_or_else(|| ApiError::not_found(format!("there is no workload '{id}'")))?
    };
    let request = grpc::CaptureStartRequest {
        workload: id.clone(),
        duration_s: u64::from(args.duration),
        max_bytes: FILE_BYTES * u64::from(files),
        max_packets: 0,
        snap_len: 0,
        files: 1,
        filter: args.filter,
    };
    let info = agent(&app, &node)
        .await?
        .start(request)
        .await
        .map_err(|status| refused(&status))?
        .into_inner();
    tracing::info!(target: "audit", user = user.user, workload = id, capture = info.id, "capture started");
    Ok(Json(SnifferResultData {
        result: SnifferResult { id: sniffer(info).id },
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
    tracing::info!(target: "audit", user = user.user, capture = id, "capture deleted");
    Ok(Json(serde_json::json!({})).into_response())
}

/// Fetch a capture's file: pcapng.
#[utoipa::path(get, path = "/v1/sniffer/{id}/pcap", responses((status = 200, content_type = "application/octet-stream"), (status = 404, body = ErrorBody)))]
pub(super) async fn download(
    State(app): State<App>,
    user: User,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let (capture, node) = split(&id)?;
    let request = grpc::CaptureStreamRequest {
        id: capture,
        follow: false,
    };
    let chunks = agent(&app, &node)
        .await?
        .stream(request)
        .await
        .map_err(|status| refused(&status))?
        .into_inner();
    tracing::info!(target: "audit", user = user.user, capture = id, "capture downloaded");
    let body = chunks.map(|chunk| {
        chunk
            .map(|chunk| bytes::Bytes::from(chunk.data))
            .map_err(std::io::Error::other)
    });
    Ok((
        [("content-type", "application/octet-stream")],
        HttpBody::from_stream(body),
    )
        .into_response())
}
