//! Users: an admin sees and changes all of them, everybody else only themselves, and nobody their own role but an admin.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::{Extension, Json};
use nv_api::rest::{ErrorBody, User as Shown, UserConfigData, UserCreateData, UserData, UsersData};

use super::body::Body;
use super::error::ApiError;
use super::list::Page;
use super::{App, Source, User, done, view};
use crate::auth::{LoginError, Role, StoredUser};
use crate::users::{self, Change, UserError};

impl From<UserError> for ApiError {
    fn from(error: UserError) -> Self {
        let status = match error {
            UserError::Field { .. } | UserError::TooMany => StatusCode::BAD_REQUEST,
            UserError::NotFound(_) => StatusCode::NOT_FOUND,
            UserError::Exists(_) | UserError::LastAdmin(_) => StatusCode::CONFLICT,
            UserError::Engine(error) => return error.into(),
            UserError::Hash(_) | UserError::Store(_) => {
                tracing::error!(%error, "users cannot be read or changed");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        Self::new(status, error.to_string())
    }
}

fn shown(app: &App, caller: &User, user: StoredUser) -> Shown {
    let (count, last) = app.auth.logins(&user.name);
    Shown {
        password_resettable: caller.role == Role::Admin && caller.user != user.name,
        fullname: user.name.clone(),
        server: String::new(),
        username: user.name,
        email: user.email,
        role: user.role.name().into(),
        timeout: u32::try_from(app.auth.idle().as_secs()).unwrap_or(u32::MAX),
        locale: user.locale,
        default_password: false,
        modify_password: false,
        last_login_timestamp: view::seconds(last),
        last_login_at: view::time(last),
        login_count: count,
        blocked_for_failed_login: false,
        blocked_for_password_expired: false,
    }
}

fn may(caller: &User, who: &str) -> Result<(), ApiError> {
    if caller.role == Role::Admin || caller.user == who {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::FORBIDDEN,
        format!(
            "the role '{}' may not look at or change other users",
            caller.role.name()
        ),
    ))
}

fn only_admin(caller: &User) -> Result<(), ApiError> {
    if caller.role == Role::Admin {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::FORBIDDEN,
        format!("the role '{}' may not make or delete users", caller.role.name()),
    ))
}

async fn visible(app: &App, caller: &User) -> Result<Vec<Shown>, ApiError> {
    let users = users::list(&app.engine).await.map_err(UserError::from)?;
    let users = users.into_iter().filter(|user| may(caller, &user.name).is_ok());
    Ok(users.map(|user| shown(app, caller, user)).collect())
}

/// Users.
#[utoipa::path(get, path = "/v1/user", params(Page), responses((status = 200, body = UsersData), (status = 400, body = ErrorBody)))]
pub(super) async fn list(
    State(app): State<App>,
    caller: User,
    page: Page,
) -> Result<Json<UsersData>, ApiError> {
    Ok(Json(UsersData {
        users: page.cut(visible(&app, &caller).await?)?,
        global_roles: Role::ALL.map(|role| role.name().to_owned()).to_vec(),
        domain_roles: Vec::new(),
    }))
}

/// One user.
#[utoipa::path(get, path = "/v1/user/{fullname}", responses((status = 200, body = UserData), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(super) async fn show(
    State(app): State<App>,
    caller: User,
    Path(name): Path<String>,
) -> Result<Json<UserData>, ApiError> {
    may(&caller, &name)?;
    let found = visible(&app, &caller)
        .await?
        .into_iter()
        .find(|user| user.fullname == name);
    let user = found.ok_or(UserError::NotFound(name))?;
    Ok(Json(UserData { user }))
}

/// Make a user.
#[utoipa::path(post, path = "/v1/user", request_body = UserCreateData, responses((status = 200), (status = 400, body = ErrorBody), (status = 403, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(super) async fn create(
    State(app): State<App>,
    caller: User,
    Body(body): Body<UserCreateData>,
) -> Result<Response, ApiError> {
    only_admin(&caller)?;
    let user = body.user;
    if user.username.is_some_and(|name| name != user.fullname) {
        return Err(ApiError::invalid(
            "user.username: it is not the same as user.fullname",
        ));
    }
    if user.server.is_some_and(|server| !server.is_empty()) {
        return Err(ApiError::invalid(
            "user.server: users are the controller's own; leave it empty",
        ));
    }
    let change = Change {
        password: Some(user.password),
        role: Some(user.role),
        email: user.email,
        locale: user.locale,
    };
    let made = users::create(&app.engine, &app.auth, caller.asker(), &user.fullname, change).await?;
    Ok(done(&made))
}

/// Change a user.
#[utoipa::path(patch, path = "/v1/user/{fullname}", request_body = UserConfigData, responses((status = 200), (status = 400, body = ErrorBody), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(super) async fn change(
    State(app): State<App>,
    Extension(source): Extension<Source>,
    headers: HeaderMap,
    caller: User,
    Path(name): Path<String>,
    Body(body): Body<UserConfigData>,
) -> Result<Response, ApiError> {
    may(&caller, &name)?;
    let config = body.config;
    if config.fullname != name {
        return Err(ApiError::invalid(format!(
            "config.fullname: '{}' is not the user of the path, '{name}'",
            config.fullname
        )));
    }
    if config.pwd_profile.is_some_and(|profile| !profile.is_empty()) {
        return Err(ApiError::invalid(
            "config.pwd_profile: there are no profiles of passwords",
        ));
    }
    if config.role.is_some() && caller.role != Role::Admin {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "only an admin may change a role",
        ));
    }
    let own = caller.user == name;
    match (&config.new_password, &config.password) {
        // Whoever finds an open session must not be able to keep its owner out.
        (Some(_), Some(old)) if own => {
            app.auth
                .prove(&name, old, source.0)
                .await
                .map_err(|error| match error {
                    LoginError::Refused => {
                        ApiError::new(StatusCode::FORBIDDEN, "config.password: it is wrong")
                    }
                    other => other.into(),
                })?;
        }
        (Some(_), None) if own => {
            return Err(ApiError::invalid(
                "config.password: the old password is needed for a new one",
            ));
        }
        (None, Some(_)) => {
            return Err(ApiError::invalid(
                "config.new_password: it is missing beside config.password",
            ));
        }
        _ => {}
    }
    let change = Change {
        password: config.new_password,
        role: config.role,
        email: config.email,
        locale: config.locale,
    };
    let token = headers
        .get("x-auth-token")
        .and_then(|value| value.to_str().ok())
        .filter(|_| own);
    let made = users::change(&app.engine, &app.auth, caller.asker(), &name, change, token).await?;
    Ok(done(&made))
}

/// Delete a user; never the last admin.
#[utoipa::path(delete, path = "/v1/user/{fullname}", responses((status = 200), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(super) async fn delete(
    State(app): State<App>,
    caller: User,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    only_admin(&caller)?;
    let made = users::delete(&app.engine, &app.auth, caller.asker(), &name).await?;
    Ok(done(&made))
}
