//! Sessions.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use nv_api::rest::{AuthRequest, ErrorBody, Token, TokenData};

use super::body::Body;
use super::error::ApiError;
use super::{App, Source, view};
use crate::auth::LoginError;
use crate::users;

impl From<LoginError> for ApiError {
    fn from(error: LoginError) -> Self {
        match error {
            LoginError::Refused => Self::new(StatusCode::UNAUTHORIZED, "unknown user or wrong password"),
            LoginError::Wait(wait) => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                format!("too many failures: try again in {} s", wait.as_secs() + 1),
            ),
            LoginError::Unavailable => Self::new(StatusCode::SERVICE_UNAVAILABLE, "users cannot be read"),
        }
    }
}

/// Open a session.
#[utoipa::path(post, path = "/v1/auth", request_body = AuthRequest, responses((status = 200, body = TokenData), (status = 401, body = ErrorBody)))]
pub(super) async fn login(
    State(app): State<App>,
    Extension(source): Extension<Source>,
    Body(request): Body<AuthRequest>,
) -> Result<Json<TokenData>, ApiError> {
    let password = request.password;
    if password.new_password.is_some() {
        return Err(ApiError::invalid(
            "new_password: a password is changed by PATCH /v1/user/:fullname",
        ));
    }
    let (count, last) = app.auth.logins(&password.username);
    let (token, session) = app
        .auth
        .login(&password.username, &password.password, source.0)
        .await
        .inspect_err(|error| tracing::warn!(target: "audit", from = %source.0, ?error, "login refused"))?;
    tracing::info!(target: "audit", user = session.user, from = %source.0, "login");
    let users = users::list(&app.engine).await.unwrap_or_default();
    let stored = users.into_iter().find(|user| user.name == session.user);
    let (email, locale) = stored.map(|user| (user.email, user.locale)).unwrap_or_default();
    Ok(Json(TokenData {
        token: Token {
            token,
            fullname: session.user.clone(),
            server: String::new(),
            username: session.user,
            email,
            role: session.role.name().into(),
            timeout: u32::try_from(app.auth.idle().as_secs()).unwrap_or(u32::MAX),
            locale,
            default_password: false,
            modify_password: false,
            last_login_timestamp: view::seconds(last),
            last_login_at: view::time(last),
            login_count: count.saturating_add(1),
        },
        password_days_until_expire: -1,
        password_hours_until_expire: 0,
    }))
}

/// End the session.
#[utoipa::path(delete, path = "/v1/auth", responses((status = 200), (status = 401, body = ErrorBody)))]
pub(super) async fn logout(State(app): State<App>, headers: HeaderMap) -> Json<serde_json::Value> {
    if let Some(token) = headers.get("x-auth-token").and_then(|value| value.to_str().ok()) {
        app.auth.logout(token).await;
    }
    Json(serde_json::json!({}))
}
