//! Groups.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use nv_api::rest::{Criterion, ErrorBody, GroupConfigData, GroupData, GroupsData};
use nv_controller_core::{CriterionDraft, GroupDraft};

use super::body::Body;
use super::error::ApiError;
use super::list::Page;
use super::{App, User, done, view};

fn criteria(list: &[Criterion]) -> Vec<CriterionDraft> {
    list.iter()
        .map(|entry| CriterionDraft {
            key: entry.key.clone(),
            value: entry.value.clone(),
            op: entry.op.clone(),
        })
        .collect()
}

/// All groups.
#[utoipa::path(get, path = "/v1/group", params(Page), responses((status = 200, body = GroupsData), (status = 400, body = ErrorBody)))]
pub(super) async fn list(State(app): State<App>, page: Page) -> Result<Json<GroupsData>, ApiError> {
    let groups = view::groups(&app.engine.core());
    Ok(Json(GroupsData {
        groups: page.cut(groups)?,
    }))
}

/// One group.
#[utoipa::path(get, path = "/v1/group/{name}", responses((status = 200, body = GroupData), (status = 404, body = ErrorBody)))]
pub(super) async fn show(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Json<GroupData>, ApiError> {
    view::group_detail(&app.engine.core(), &name)
        .map(|group| Json(GroupData { group }))
        .ok_or_else(|| ApiError::not_found(format!("there is no group '{name}'")))
}

/// Make a group.
#[utoipa::path(post, path = "/v1/group", request_body = GroupConfigData, responses((status = 200), (status = 400, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(super) async fn create(
    State(app): State<App>,
    user: User,
    Body(body): Body<GroupConfigData>,
) -> Result<Response, ApiError> {
    let config = body.config;
    let draft = GroupDraft {
        name: config.name,
        comment: config.comment.unwrap_or_default(),
        criteria: criteria(&config.criteria.unwrap_or_default()),
    };
    let made = app
        .engine
        .commit(user.asker(), |core, now| core.create_group(&draft, now))
        .await?;
    Ok(done(&made))
}

/// Change a group.
#[utoipa::path(patch, path = "/v1/group/{name}", request_body = GroupConfigData, responses((status = 200), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(super) async fn change(
    State(app): State<App>,
    user: User,
    Path(name): Path<String>,
    Body(body): Body<GroupConfigData>,
) -> Result<Response, ApiError> {
    let config = body.config;
    if config.name != name {
        return Err(ApiError::invalid(format!(
            "config.name: '{}' is not the group of the path, '{name}'",
            config.name
        )));
    }
    let criteria = config.criteria.as_deref().map(criteria);
    let made = app
        .engine
        .commit(user.asker(), |core, now| {
            core.patch_group(&name, config.comment.as_deref(), criteria.as_deref(), now)
        })
        .await?;
    Ok(done(&made))
}

/// Delete a group that nothing uses.
#[utoipa::path(delete, path = "/v1/group/{name}", responses((status = 200), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(super) async fn delete(
    State(app): State<App>,
    user: User,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let made = app
        .engine
        .commit(user.asker(), |core, now| core.delete_group(&name, now))
        .await?;
    Ok(done(&made))
}
