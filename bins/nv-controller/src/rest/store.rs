//! The store as one document, while controllers run: a backup of everything, and policy put back from one.

use std::collections::BTreeMap;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, body::to_bytes};
use nv_api::rest::{ApplyData, ErrorBody};
use nv_controller_core::{CommandError, Plan};
use nv_store::archive::Archive;
use nv_types::{Revision, keys};
use serde::Deserialize;

use super::body::Query;
use super::error::ApiError;
use super::{App, REVISION_HEADER, User};
use crate::auth::Role;
use crate::engine::EngineError;
use crate::schema::problems;

/// Largest document that is taken.
const MAX_DOCUMENT: usize = 64 << 20;
/// What does not leave the controllers' hosts by REST, whoever asks: the CA's private key, and what agents join with.
const SECRET: [&str; 2] = [crate::ca::SHARED, "join/"];
/// What an import puts back while controllers run. The rest is either being written by agents or is about who may ask: for that there is
/// `nv-controller store import`.
const RESTORED: [&str; 3] = [keys::POLICY, keys::STANDINGS, keys::SETTINGS];

fn only_admin(user: &User) -> Result<(), ApiError> {
    if user.role == Role::Admin {
        return Ok(());
    }
    let role = user.role.name();
    Err(ApiError::new(
        StatusCode::FORBIDDEN,
        format!(
            "the role '{role}' may neither export nor import the store: users' password hashes are in it"
        ),
    ))
}

fn restored(key: &str) -> bool {
    RESTORED.iter().any(|prefix| key.starts_with(prefix))
}

/// The document: see `nv_store::archive`.
#[derive(utoipa::ToSchema)]
#[expect(
    dead_code,
    reason = "it is written by nv_store; this is for the document of the interface"
)]
struct Exported {
    /// `nv-store/1`.
    form: String,
    /// The store's revision at the reading.
    revision: u64,
    /// Over the revision, every key and every value.
    sha256: String,
    /// `{"key": …, "text": …}`, or `base64` in place of `text`.
    entries: Vec<serde_json::Value>,
}

/// Everything in the store as one document, as of one revision; the CA's private key apart. For admins.
#[utoipa::path(get, path = "/v1/store", responses((status = 200, body = Exported), (status = 403, body = ErrorBody)))]
pub(super) async fn export(State(app): State<App>, user: User) -> Result<Response, ApiError> {
    only_admin(&user)?;
    let read = Archive::of(app.engine.store()).await;
    let mut archive = read.map_err(|error| ApiError::from(EngineError::Store(error)))?;
    archive
        .entries
        .retain(|key, _| !SECRET.iter().any(|prefix| key.starts_with(prefix)));
    let json = archive
        .to_json()
        .map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    tracing::info!(target: "audit", user = user.user, revision = %archive.revision, "the store was exported");
    Ok(([("content-type", "application/json")], json).into_response())
}

/// How to import.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct How {
    /// Say what would change, and change nothing.
    #[serde(default)]
    dry_run: bool,
}

/// What makes policy what it is in the document.
fn plan(archive: &Archive, now: &BTreeMap<String, (Vec<u8>, Revision)>) -> Plan {
    let mut plan = Plan::default();
    for (key, value) in archive.entries.iter().filter(|(key, _)| restored(key)) {
        let before = now.get(key);
        if before.is_none_or(|(old, _)| old != value) {
            plan.conditions
                .push((key.clone(), before.map(|(_, revision)| *revision)));
            plan.summary.push(format!("{key} put back"));
            plan.puts.push((key.clone(), value.clone()));
        }
    }
    for (key, (_, revision)) in now {
        if !archive.entries.contains_key(key) {
            plan.conditions.push((key.clone(), Some(*revision)));
            plan.summary.push(format!("{key} deleted"));
            plan.deletes.push(key.clone());
        }
    }
    plan
}

/// Put groups, rules, modes and settings back as they are in a document of GET /v1/store: whole or not at all. For admins.
#[utoipa::path(post, path = "/v1/store", params(How), request_body = Exported, responses((status = 200, body = ApplyData), (status = 400, body = ErrorBody), (status = 403, body = ErrorBody), (status = 413, body = ErrorBody)))]
pub(super) async fn import(
    State(app): State<App>,
    user: User,
    Query(how): Query<How>,
    request: Request,
) -> Result<Response, ApiError> {
    only_admin(&user)?;
    let body = to_bytes(request.into_body(), MAX_DOCUMENT)
        .await
        .map_err(|_cut| {
            let limit = format!("the body is larger than the limit of {MAX_DOCUMENT} bytes");
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, limit)
        })?;
    let archive = Archive::from_json(&body).map_err(|error| ApiError::invalid(error.to_string()))?;
    let entries = archive.entries.iter().filter(|(key, _)| restored(key));
    let bad = problems(entries.map(|(key, value)| (key.as_str(), value.as_slice())));
    if let Some((key, problem)) = bad.first() {
        return Err(ApiError::invalid(format!(
            "the document holds what this controller cannot use: '{key}': {problem}"
        )));
    }
    let listing = app.engine.store().list("").await;
    let listing = listing.map_err(|error| ApiError::from(EngineError::Store(error)))?;
    let now = listing.entries.into_iter().filter(|entry| restored(&entry.key));
    let now = now
        .map(|entry| (entry.key, (entry.value, entry.mod_revision)))
        .collect();
    let plan = plan(&archive, &now);
    if how.dry_run {
        return Ok(Json(ApplyData {
            changes: plan.summary,
            dry_run: true,
            revision: 0,
        })
        .into_response());
    }
    let made = app
        .engine
        .commit(user.asker(), |_, _| Ok::<_, CommandError>(plan.clone()));
    let made = made.await?;
    let mut headers = HeaderMap::new();
    headers.insert(REVISION_HEADER, made.revision.0.into());
    let answer = ApplyData {
        changes: made.summary,
        dry_run: false,
        revision: made.revision.0,
    };
    Ok((headers, Json(answer)).into_response())
}
