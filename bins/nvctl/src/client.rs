//! The controller's REST interface, as far as nvctl uses it.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;

use crate::config::Config;
use crate::error::CtlError;
use crate::output::note;

/// Name of the header that says at which revision a change was written.
const REVISION_HEADER: &str = "x-nv-revision";

/// A connection to a controller.
#[derive(Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    server: String,
    token: Option<String>,
}

/// What a call answered.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Body; null when it was empty.
    pub(crate) body: Value,
    /// Revision of the change that the call made.
    pub(crate) revision: Option<u64>,
}

impl Client {
    /// A client without a session.
    pub(crate) fn anonymous(config: &Config) -> Result<Self, CtlError> {
        if config.insecure.0 {
            note(&format!(
                "warning: the controller's certificate is not checked ({})",
                config.insecure.1
            ));
        }
        Self::new(config)
    }

    /// A client with the saved session that says nothing.
    pub(crate) fn silent(config: &Config) -> Result<Self, CtlError> {
        let token = config.token()?;
        Ok(Self {
            token: Some(token),
            ..Self::new(config)?
        })
    }

    fn new(config: &Config) -> Result<Self, CtlError> {
        let mut builder = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .redirect(reqwest::redirect::Policy::none());
        if config.insecure.0 {
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        if let Some((file, _)) = &config.ca {
            let problem = |problem: String| CtlError::File {
                file: file.display().to_string(),
                problem,
            };
            let pem = std::fs::read(file)
                .map_err(|error| problem(format!("cannot read the CA certificate: {error}")))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem)
                .map_err(|error| problem(format!("not a certificate in PEM form: {error}")))?;
            builder = builder.tls_certs_only(certificates);
        }
        let http = builder.build().map_err(|source| unreachable(config, source))?;
        Ok(Self {
            http,
            server: config.server.0.clone(),
            token: None,
        })
    }

    /// A client with the saved session.
    pub(crate) fn with_session(config: &Config) -> Result<Self, CtlError> {
        let token = config.token()?;
        Ok(Self {
            token: Some(token),
            ..Self::anonymous(config)?
        })
    }

    pub(crate) async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Value, CtlError> {
        let request = self
            .request(Method::GET, path)
            .query(query)
            .timeout(Duration::from_secs(30));
        Ok(self.answer(request).await?.body)
    }

    /// The body as it is.
    pub(crate) async fn text(&self, path: &str, query: &[(&str, String)]) -> Result<String, CtlError> {
        let request = self
            .request(Method::GET, path)
            .query(query)
            .timeout(Duration::from_secs(30));
        let response = request.send().await.map_err(|source| self.unreachable(source))?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        response.text().await.map_err(|source| self.unreachable(source))
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, CtlError> {
        let mut request = self.request(method, path).timeout(Duration::from_secs(60));
        if let Some(body) = body {
            request = request.json(body);
        }
        self.answer(request).await
    }

    /// The same from this byte on, if the server can: the status says so.
    pub(crate) async fn stream_from(&self, path: &str, offset: u64) -> Result<Response, CtlError> {
        let request = self
            .request(Method::GET, path)
            .header("accept", "application/octet-stream")
            .header("range", format!("bytes={offset}-"));
        let response = request.send().await.map_err(|source| self.unreachable(source))?;
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(refusal(response).await)
        }
    }

    /// A body to read as it comes.
    pub(crate) async fn stream(
        &self,
        path: &str,
        query: &[(&str, String)],
        accept: &str,
    ) -> Result<Response, CtlError> {
        let response = self
            .request(Method::GET, path)
            .query(query)
            .header("accept", accept)
            .send()
            .await
            .map_err(|source| self.unreachable(source))?;
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(refusal(response).await)
        }
    }

    pub(crate) fn unreachable(&self, source: reqwest::Error) -> CtlError {
        CtlError::Unreachable {
            server: self.server.clone(),
            source,
        }
    }

    pub(crate) fn garbled(&self, detail: impl Into<String>) -> CtlError {
        CtlError::Garbled {
            server: self.server.clone(),
            detail: detail.into(),
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.server));
        match &self.token {
            Some(token) => request.header("X-Auth-Token", token),
            None => request,
        }
    }

    async fn answer(&self, request: RequestBuilder) -> Result<Answer, CtlError> {
        let response = request.send().await.map_err(|source| self.unreachable(source))?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        let revision = response
            .headers()
            .get(REVISION_HEADER)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.parse().ok());
        let bytes = response
            .bytes()
            .await
            .map_err(|source| self.unreachable(source))?;
        let body = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes).map_err(|error| self.garbled(error.to_string()))?
        };
        Ok(Answer { body, revision })
    }
}

fn unreachable(config: &Config, source: reqwest::Error) -> CtlError {
    CtlError::Unreachable {
        server: config.server.0.clone(),
        source,
    }
}

/// The controller's error object as an error of ours.
async fn refusal(response: Response) -> CtlError {
    let status = response.status().as_u16();
    let text = response.text().await.unwrap_or_default();
    let object: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    let said = |field| {
        object
            .get(field)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
    };
    let message = match (said("error"), said("message")) {
        (Some(error), Some(message)) if error != message => format!("{error}: {message}"),
        (_, Some(text)) | (Some(text), None) => text.to_owned(),
        (None, None) if text.is_empty() => "refused without a reason".to_owned(),
        (None, None) => text.chars().take(200).collect(),
    };
    CtlError::Refused { status, message }
}

/// Percent-encodes a name for use as one part of a path.
pub(crate) fn segment(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b':') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_place_in_a_path() {
        assert_eq!(segment("nv.web"), "nv.web");
        assert_eq!(segment("../user?x#y"), "..%2Fuser%3Fx%23y");
        assert_eq!(segment("ü"), "%C3%BC");
    }
}
