//! Services and their modes.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use nv_api::rest::{ErrorBody, Service, ServiceConfigData, ServiceData, ServicesData};
use nv_controller_core::Controller;

use super::body::Body;
use super::error::ApiError;
use super::list::Page;
use super::{App, User, done, view};

fn services(core: &Controller) -> Vec<Service> {
    let members = core.members();
    let groups = core.input().groups.values().filter(|group| group.is_service());
    groups
        .map(|group| {
            view::service(
                core,
                &group.name,
                members.get(&group.name).map_or(&[], Vec::as_slice),
            )
        })
        .collect()
}

/// All services.
#[utoipa::path(get, path = "/v1/service", params(Page), responses((status = 200, body = ServicesData), (status = 400, body = ErrorBody)))]
pub(super) async fn list(State(app): State<App>, page: Page) -> Result<Json<ServicesData>, ApiError> {
    let found = services(&app.engine.core());
    Ok(Json(ServicesData {
        services: page.cut(found)?,
    }))
}

/// One service, by itself or by its group.
#[utoipa::path(get, path = "/v1/service/{name}", responses((status = 200, body = ServiceData), (status = 404, body = ErrorBody)))]
pub(super) async fn show(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Json<ServiceData>, ApiError> {
    let found = services(&app.engine.core())
        .into_iter()
        .find(|service| service.name == name || service.name.strip_prefix("nv.") == Some(&name));
    found
        .map(|service| Json(ServiceData { service }))
        .ok_or_else(|| ApiError::not_found(format!("there is no service '{name}'")))
}

/// Set the mode of services, or of `nodes`.
#[utoipa::path(patch, path = "/v1/service/config", request_body = ServiceConfigData, responses((status = 200), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(super) async fn config(
    State(app): State<App>,
    user: User,
    Body(body): Body<ServiceConfigData>,
) -> Result<Response, ApiError> {
    let config = body.config;
    let mut names = config.services;
    if let Some(name) = config.name
        && !names.contains(&name)
    {
        names.push(name);
    }
    if names.is_empty() {
        return Err(ApiError::invalid("config.services: name at least one service"));
    }
    let mode = config
        .policy_mode
        .ok_or_else(|| ApiError::invalid("config.policy_mode: it is missing"))?;
    let mode = mode.parse().map_err(|error: nv_types::ParseModeError| {
        ApiError::invalid(format!("config.policy_mode: {error}"))
    })?;
    let made = app
        .engine
        .commit(user.asker(), |core, now| core.set_modes(&names, mode, now))
        .await?;
    Ok(done(&made))
}
