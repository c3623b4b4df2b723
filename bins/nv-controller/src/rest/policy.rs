//! Settings, and policy files.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use nv_api::rest::{ApplyData, ApplyRequest, ErrorBody, SettingsData};
use nv_controller_core::{Document, GroupDraft, RuleDraft};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::body::Body;
use super::error::ApiError;
use super::{App, REVISION_HEADER, User, done};
use crate::engine::now;

/// The settings.
#[utoipa::path(get, path = "/v1/settings", responses((status = 200, body = SettingsData)))]
pub(super) async fn settings(State(app): State<App>) -> Json<SettingsData> {
    let value = serde_json::to_value(&app.engine.core().input().settings).unwrap_or_default();
    Json(SettingsData {
        settings: value.as_object().cloned().unwrap_or_default(),
    })
}

/// Change settings; what is left out stays.
#[utoipa::path(patch, path = "/v1/settings", request_body = SettingsData, responses((status = 200), (status = 400, body = ErrorBody)))]
pub(super) async fn change_settings(
    State(app): State<App>,
    user: User,
    Body(body): Body<SettingsData>,
) -> Result<Response, ApiError> {
    let made = app
        .engine
        .commit(user.asker(), |core, now| core.patch_settings(&body.settings, now))
        .await?;
    Ok(done(&made))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceMode {
    service: String,
    mode: String,
}

fn document(number: usize, value: Value) -> Result<Document, ApiError> {
    let wrong = |problem: String| ApiError::invalid(format!("document {number}: {problem}"));
    let Value::Object(mut object) = value else {
        return Err(wrong("not an object".into()));
    };
    let kind = match object.remove("kind") {
        Some(Value::String(kind)) => kind,
        Some(_) => return Err(wrong("'kind' is no text".into())),
        None => return Err(wrong("the field 'kind' is missing".into())),
    };
    fn read<T: DeserializeOwned>(object: Map<String, Value>) -> Result<T, String> {
        serde_json::from_value(Value::Object(object)).map_err(|error| error.to_string())
    }
    match kind.as_str() {
        "Group" => read::<GroupDraft>(object).map(Document::Group),
        "Rule" => read::<RuleDraft>(object).map(Document::Rule),
        "ServiceMode" => read::<ServiceMode>(object).map(|set| Document::ServiceMode {
            service: set.service,
            mode: set.mode,
        }),
        "Settings" => Ok(Document::Settings(object)),
        _ => Err(format!(
            "unknown kind '{kind}': use Group, Rule, ServiceMode, Settings"
        )),
    }
    .map_err(wrong)
}

/// The documents of a policy file.
pub(super) fn documents(values: Vec<Value>) -> Result<Vec<Document>, ApiError> {
    let values = values.into_iter().enumerate();
    values.map(|(at, value)| document(at + 1, value)).collect()
}

/// Apply a policy file: whole or not at all.
#[utoipa::path(post, path = "/v1/apply", request_body = ApplyRequest, responses((status = 200, body = ApplyData), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(super) async fn apply(
    State(app): State<App>,
    user: User,
    Body(request): Body<ApplyRequest>,
) -> Result<Response, ApiError> {
    let documents = documents(request.documents)?;
    if request.dry_run {
        let plan = app.engine.core().apply(&documents, now())?;
        return Ok(Json(ApplyData {
            changes: plan.summary,
            dry_run: true,
            revision: 0,
        })
        .into_response());
    }
    let made = app
        .engine
        .commit(user.asker(), |core, now| core.apply(&documents, now))
        .await?;
    let mut headers = HeaderMap::new();
    headers.insert(REVISION_HEADER, made.revision.0.into());
    let answer = ApplyData {
        changes: made.summary,
        dry_run: false,
        revision: made.revision.0,
    };
    Ok((headers, Json(answer)).into_response())
}
