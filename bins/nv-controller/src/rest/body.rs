//! Reading bodies and queries, with complaints that name the field.

use axum::body::to_bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::MAX_BODY;
use super::error::ApiError;

/// A JSON body of at most [`MAX_BODY`] bytes.
#[derive(Debug)]
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let too_large = || {
            ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is larger than the limit of {MAX_BODY} bytes"),
            )
        };
        let declared = request
            .headers()
            .get("content-length")
            .and_then(|value| value.to_str().ok());
        if declared
            .and_then(|text| text.parse::<usize>().ok())
            .is_some_and(|length| length > MAX_BODY)
        {
            return Err(too_large());
        }
        let bytes = to_bytes(request.into_body(), MAX_BODY)
            .await
            .map_err(|_cut| too_large())?;
        read(&bytes)
            .map(Self)
            .map_err(|(field, error)| ApiError::invalid(format!("{field}: {error}")))
    }
}

/// Reads JSON; an error comes with the path of the field that it is about, `body` for the whole.
fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, (String, serde_json::Error)> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let read = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        // Where text that is no JSON went wrong, its line and column say.
        if path == "." || !error.is_data() {
            ("body".to_owned(), error)
        } else {
            (path, error)
        }
    });
    let value = read?;
    reader.end().map_err(|error| ("body".to_owned(), error))?;
    Ok(value)
}

/// A query string.
#[derive(Debug)]
pub(crate) struct Query<T>(pub(crate) T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        axum::extract::Query::try_from_uri(&parts.uri)
            .map(|axum::extract::Query(query)| Self(query))
            .map_err(|error| ApiError::invalid(format!("query: {}", error.body_text())))
    }
}

#[cfg(test)]
mod tests {
    use nv_api::rest::{GroupConfigData, WorkloadConfigData};

    use super::*;

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        fn words<T: DeserializeOwned>(text: &str) -> String {
            let (field, error) = read::<T>(text.as_bytes()).map(|_| ()).unwrap_err();
            format!("{field}: {error}")
        }
        for (said, wanted) in [
            (
                words::<WorkloadConfigData>(r#"{"config": {"quarantine": "yes"}}"#),
                "config.quarantine: invalid type: string \"yes\", expected a boolean",
            ),
            (
                words::<WorkloadConfigData>(r#"{"config": {}}"#),
                "config: missing field `quarantine`",
            ),
            (
                words::<GroupConfigData>(r#"{"config": {"name": "a", "criteria": [{"key": 1}]}}"#),
                "config.criteria[0].key: invalid type: integer `1`",
            ),
            (words::<WorkloadConfigData>("{"), "body: EOF"),
            (
                words::<WorkloadConfigData>(r#"{"config": {"quarantine": true}} {}"#),
                "body: trailing characters",
            ),
        ] {
            assert!(said.starts_with(wanted), "{said}");
        }
    }
}
