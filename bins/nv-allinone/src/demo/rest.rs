//! The controller's REST interface, as any user has it: everything that the demo shows comes through here.

use std::time::Duration;

use nv_api::rest as api;
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::rows::{Conversation, Rule, Service, Violation, Workload};

/// Name of the header that says at which revision a change was written.
const REVISION_HEADER: &str = "x-nv-revision";

/// A session.
#[derive(Debug)]
pub(crate) struct Rest {
    http: reqwest::Client,
    server: String,
    token: String,
}

/// Why a call gave nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestError {
    /// No answer.
    #[error("the controller does not answer: {0}")]
    Unreachable(#[from] reqwest::Error),
    /// It refused.
    #[error("{call}: {status}: {message}")]
    Refused {
        /// What was asked.
        call: String,
        /// HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// An answer of another form.
    #[error("{call}: {source}")]
    Garbled {
        /// What was asked.
        call: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl Rest {
    /// Logs in. `ca` is the certificate (PEM) that the controller's own is checked with.
    pub(crate) async fn login(
        server: &str,
        ca: &[u8],
        user: &str,
        password: &str,
    ) -> Result<Self, RestError> {
        let certificates = reqwest::Certificate::from_pem_bundle(ca)?;
        let http = reqwest::Client::builder()
            .tls_certs_only(certificates)
            .no_proxy()
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(20))
            .build()?;
        let mut rest = Self {
            http,
            server: server.to_owned(),
            token: String::new(),
        };
        let body = json!({"password": {"username": user, "password": password}});
        let (answer, _) = rest
            .call::<api::TokenData>(Method::POST, "/v1/auth", &[], Some(&body))
            .await?;
        rest.token = answer.token.token;
        Ok(rest)
    }

    pub(crate) async fn workloads(&self) -> Result<Vec<Workload>, RestError> {
        let mut rows = rows(self.get::<api::WorkloadsData>("/v1/workload").await?.workloads);
        rows.sort_by(|a: &Workload, b| a.name.cmp(&b.name));
        Ok(rows)
    }

    pub(crate) async fn services(&self) -> Result<Vec<Service>, RestError> {
        Ok(rows(self.get::<api::ServicesData>("/v1/service").await?.services))
    }

    pub(crate) async fn rules(&self) -> Result<Vec<Rule>, RestError> {
        Ok(rows(self.get::<api::RulesData>("/v1/policy/rule").await?.rules))
    }

    pub(crate) async fn conversations(&self) -> Result<Vec<Conversation>, RestError> {
        let mut rows = rows(
            self.get::<api::ConversationsData>("/v1/conversation")
                .await?
                .conversations,
        );
        rows.sort_by(|a: &Conversation, b| (&a.from, &a.to).cmp(&(&b.from, &b.to)));
        Ok(rows)
    }

    pub(crate) async fn violations(&self) -> Result<Vec<Violation>, RestError> {
        Ok(rows(
            self.get::<api::ViolationsData>("/v1/log/violation")
                .await?
                .violations,
        ))
    }

    /// Sets services' mode; the revision of the change.
    pub(crate) async fn set_mode(&self, services: &[&str], mode: &str) -> Result<Option<u64>, RestError> {
        let body = json!({"config": {"services": services, "policy_mode": mode}});
        let (_, revision) = self
            .call::<Value>(Method::PATCH, "/v1/service/config", &[], Some(&body))
            .await?;
        Ok(revision)
    }

    pub(crate) async fn nodes(&self) -> Result<api::NodesData, RestError> {
        self.get("/v1/node").await
    }

    pub(crate) async fn explain(
        &self,
        from: &str,
        to: &str,
        port: &str,
        app: &str,
    ) -> Result<api::Explain, RestError> {
        let query = [("from", from), ("to", to), ("port", port), ("app", app)];
        let (answer, _) = self
            .call::<api::ExplainData>(Method::GET, "/v1/explain", &query, None)
            .await?;
        Ok(answer.explain)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, RestError> {
        Ok(self.call(Method::GET, path, &[], None).await?.0)
    }

    /// The answer, and the revision of the change that was made.
    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<(T, Option<u64>), RestError> {
        let call = format!("{method} {path}");
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.server))
            .query(query);
        if !self.token.is_empty() {
            request = request.header("X-Auth-Token", &self.token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await?;
        let status = response.status();
        let revision = response
            .headers()
            .get(REVISION_HEADER)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let bytes = response.bytes().await?;
        if !status.is_success() {
            let said = serde_json::from_slice::<api::ErrorBody>(&bytes).map(|body| body.message);
            let message = said.unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned());
            return Err(RestError::Refused {
                call,
                status: status.as_u16(),
                message,
            });
        }
        // An empty body is JSON's null: right where nothing is to be said.
        let bytes = if bytes.is_empty() { &b"null"[..] } else { &bytes };
        let answer = serde_json::from_slice(bytes).map_err(|source| RestError::Garbled { call, source })?;
        Ok((answer, revision))
    }
}

fn rows<T, R: From<T>>(list: Vec<T>) -> Vec<R> {
    list.into_iter().map(R::from).collect()
}
