//! Refusals in NeuVector's error object.

use std::io;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use nv_api::rest::ErrorBody;
use nv_controller_core::{CommandError, ErrorKind};
use nv_store::StoreError;

use crate::engine::EngineError;

/// A refused call.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// NeuVector's number and name of the kind of error.
    const fn kind(&self) -> (u16, &'static str) {
        match self.status {
            StatusCode::NOT_FOUND => (5, "Object not found"),
            StatusCode::UNAUTHORIZED => (2, "Authentication failed"),
            StatusCode::FORBIDDEN => (4, "Operation not allowed"),
            StatusCode::CONFLICT => (8, "Duplicate name or conflict"),
            StatusCode::PAYLOAD_TOO_LARGE => (16, "Request too large"),
            StatusCode::TOO_MANY_REQUESTS => (3, "Too many attempts"),
            StatusCode::METHOD_NOT_ALLOWED => (1, "Method not allowed"),
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => (11, "Cluster failed"),
            StatusCode::INTERNAL_SERVER_ERROR | StatusCode::INSUFFICIENT_STORAGE => (12, "Internal error"),
            _ => (7, "Request in wrong format"),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (code, error) = self.kind();
        let body = ErrorBody {
            code,
            error: error.into(),
            message: self.message,
        };
        (self.status, Json(body)).into_response()
    }
}

impl From<CommandError> for ApiError {
    fn from(error: CommandError) -> Self {
        let status = match error.kind() {
            ErrorKind::Invalid | ErrorKind::Limit => StatusCode::BAD_REQUEST,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
        };
        Self::new(status, error.to_string())
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Refused(error) => error.into(),
            EngineError::Conflict(_) | EngineError::Stale { .. } => {
                Self::new(StatusCode::CONFLICT, error.to_string())
            }
            EngineError::Store(ref store) => {
                tracing::error!(%error, "the store could not be read or changed");
                let status = match store {
                    StoreError::TooLarge { .. } | StoreError::BeyondLimit { .. } => {
                        StatusCode::PAYLOAD_TOO_LARGE
                    }
                    StoreError::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
                    StoreError::Io { source, .. }
                        if matches!(
                            source.kind(),
                            io::ErrorKind::StorageFull
                                | io::ErrorKind::QuotaExceeded
                                | io::ErrorKind::ReadOnlyFilesystem
                        ) =>
                    {
                        StatusCode::INSUFFICIENT_STORAGE
                    }
                    _ => StatusCode::INTERNAL_SERVER_ERROR,
                };
                Self::new(status, error.to_string())
            }
            EngineError::Audit(_) => {
                tracing::error!(%error, "a change could not be stored");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
            }
        }
    }
}
