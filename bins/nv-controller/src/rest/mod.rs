//! REST: NeuVector's resources, and a few of our own. Each route is documented where it is written, so that none can be without.

#![allow(unused_qualifications, reason = "the code that documents routes is generated")]

mod auth;
mod body;
mod capture;
mod domain;
mod error;
mod explain;
mod flow;
mod group;
mod inventory;
mod list;
mod meta;
mod policy;
mod rule;
mod service;
mod simulate;
mod store;
mod system;
mod user;
mod view;

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::{HeaderName, HeaderValue};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use nv_types::Revision;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::{Auth, Role, Session};
use crate::ca::Identity;
use crate::engine::{Asker, Committed, Engine};
use error::ApiError;

/// Largest body.
pub(crate) const MAX_BODY: usize = 1 << 20;
/// In an answer: the revision at which a change was written, or of what was read. In a request: the revision that it is based on; what it
/// changes must not have been changed after it.
const REVISION_HEADER: HeaderName = HeaderName::from_static("x-nv-revision");
/// Routes that need no session.
const OPEN: [&str; 3] = ["/v1/auth", "/healthz", "/openapi.json"];

/// Address that a call comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source(pub(crate) IpAddr);

/// What handlers work with.
#[derive(Debug, Clone)]
pub(crate) struct App {
    pub(crate) engine: Arc<Engine>,
    pub(crate) auth: Arc<Auth>,
    /// Who the controller is, for calls to agents.
    pub(crate) identity: Arc<Identity>,
    pub(crate) name: Arc<str>,
}

#[derive(Debug, OpenApi)]
#[openapi(info(
    title = "nv",
    description = "Container network security. Send the token of POST /v1/auth in X-Auth-Token."
))]
struct Document;

/// Every route, behind the session check.
pub(crate) fn router(app: App) -> axum::Router {
    let (router, document) = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(auth::login, auth::logout))
        .routes(routes!(inventory::workloads))
        .routes(routes!(inventory::workload, inventory::change))
        .routes(routes!(inventory::quarantines))
        .routes(routes!(inventory::enforcers))
        .routes(routes!(inventory::enforcer))
        .routes(routes!(inventory::controllers))
        .routes(routes!(inventory::controller))
        .routes(routes!(inventory::nodes))
        .routes(routes!(inventory::endpoints))
        .routes(routes!(domain::list))
        .routes(routes!(group::list, group::create))
        .routes(routes!(group::show, group::change, group::delete))
        .routes(routes!(rule::list, rule::act))
        .routes(routes!(rule::show, rule::change, rule::delete))
        .routes(routes!(service::list))
        .routes(routes!(service::show))
        .routes(routes!(service::config))
        .routes(routes!(flow::conversations))
        .routes(routes!(flow::violations))
        .routes(routes!(flow::flows))
        .routes(routes!(explain::explain))
        .routes(routes!(policy::settings, policy::change_settings))
        .routes(routes!(system::show, system::change))
        .routes(routes!(policy::apply))
        .routes(routes!(simulate::simulate))
        .routes(routes!(capture::list, capture::start))
        .routes(routes!(capture::show, capture::delete))
        .routes(routes!(capture::stop))
        .routes(routes!(capture::download))
        .routes(routes!(user::list, user::create))
        .routes(routes!(user::show, user::change, user::delete))
        .routes(routes!(store::export, store::import))
        .routes(routes!(meta::health))
        .routes(routes!(meta::metrics))
        .split_for_parts();
    let text = document.to_json().unwrap_or_default();
    router
        .route(
            "/openapi.json",
            get(move || async move { ([("content-type", "application/json")], text) }),
        )
        .fallback(async || ApiError::not_found("there is no such resource"))
        .method_not_allowed_fallback(async || {
            ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this resource does not know that method",
            )
        })
        .layer(middleware::from_fn_with_state(app.clone(), check_session))
        .layer(middleware::from_fn(headers))
        .with_state(app)
}

/// Nothing without a session, and nothing beyond the session's role.
async fn check_session(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let open = OPEN.contains(&path) && !(path == "/v1/auth" && request.method() != Method::POST);
    if !open {
        let token = request
            .headers()
            .get("x-auth-token")
            .and_then(|value| value.to_str().ok());
        let session = match token {
            Some(token) => app.auth.find(token).await,
            None => None,
        };
        let Some(session) = session else {
            return ApiError::new(
                StatusCode::UNAUTHORIZED,
                "a valid token is needed in X-Auth-Token",
            )
            .into_response();
        };
        let looks = matches!(*request.method(), Method::GET | Method::HEAD) || path == "/v1/simulate";
        // The session's own, and users: there the handlers say who may do what.
        let own = path == "/v1/auth" || path.starts_with("/v1/user/");
        if !looks && !own && session.role < Role::Operator {
            return ApiError::new(StatusCode::FORBIDDEN, "the role 'reader' may only look").into_response();
        }
        // What packets carry is more than looking.
        if path.ends_with("/pcap") && session.role < Role::Operator {
            return ApiError::new(
                StatusCode::FORBIDDEN,
                "the role 'reader' may not download captures",
            )
            .into_response();
        }
        request.extensions_mut().insert(session);
        if looks {
            // Taken before the answer is made: at worst a later change is taken for one that was not seen.
            let revision = app.engine.core().revision();
            let mut response = next.run(request).await;
            if response.status().is_success() {
                response.headers_mut().insert(REVISION_HEADER, revision.0.into());
            }
            return response;
        }
    }
    next.run(request).await
}

async fn headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
        (
            "content-security-policy",
            "default-src 'none'; frame-ancestors 'none'",
        ),
        ("strict-transport-security", "max-age=31536000"),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

/// Whose call it is.
#[derive(Debug, Clone)]
pub(crate) struct User {
    user: String,
    role: Role,
    /// Revision that the call is based on.
    seen: Option<Revision>,
}

impl User {
    fn asker(&self) -> Asker<'_> {
        Asker {
            user: &self.user,
            seen: self.seen,
        }
    }
}

impl<S: Sync> FromRequestParts<S> for User {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let session = parts.extensions.get::<Session>();
        let session = session.ok_or_else(|| {
            ApiError::new(
                StatusCode::UNAUTHORIZED,
                "a valid token is needed in X-Auth-Token",
            )
        })?;
        let seen = parts.headers.get(&REVISION_HEADER).map(|value| {
            let number = value.to_str().ok().and_then(|text| text.parse().ok());
            number
                .map(Revision)
                .ok_or_else(|| ApiError::invalid("X-Nv-Revision: it is not a revision's number"))
        });
        Ok(Self {
            user: session.user.clone(),
            role: session.role,
            seen: seen.transpose()?,
        })
    }
}

/// An empty answer with the revision of a change.
fn done(made: &Committed) -> Response {
    (
        [(REVISION_HEADER, made.revision.to_string())],
        axum::Json(serde_json::json!({})),
    )
        .into_response()
}
