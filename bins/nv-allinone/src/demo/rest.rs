//! The controller's REST interface, as any user has it: everything that the demo shows comes through here.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::rows::{Conversation, Explanation, Rule, Service, Violation, Workload, number, text};

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
    /// An answer that lacks what it must have.
    #[error("{call}: the answer has no '{field}'")]
    Garbled {
        /// What was asked.
        call: String,
        /// What is missing.
        field: &'static str,
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
        let (answer, _) = rest.call(Method::POST, "/v1/auth", &[], Some(&body)).await?;
        let token = answer.pointer("/token/token").and_then(Value::as_str);
        rest.token = token
            .ok_or(RestError::Garbled {
                call: "/v1/auth".into(),
                field: "token",
            })?
            .to_owned();
        Ok(rest)
    }

    pub(crate) async fn workloads(&self) -> Result<Vec<Workload>, RestError> {
        Ok(self
            .list("/v1/workload", "workloads")
            .await?
            .iter()
            .map(Workload::of)
            .collect())
    }

    pub(crate) async fn services(&self) -> Result<Vec<Service>, RestError> {
        Ok(self
            .list("/v1/service", "services")
            .await?
            .iter()
            .map(Service::of)
            .collect())
    }

    pub(crate) async fn rules(&self) -> Result<Vec<Rule>, RestError> {
        Ok(self
            .list("/v1/policy/rule", "rules")
            .await?
            .iter()
            .map(Rule::of)
            .collect())
    }

    /// Ends are workload ids in the answer; `names` says what they are called.
    pub(crate) async fn conversations(&self, names: &[Workload]) -> Result<Vec<Conversation>, RestError> {
        let list = self.list("/v1/conversation", "conversations").await?;
        let mut found: Vec<Conversation> = list.iter().map(|item| Conversation::of(item, names)).collect();
        found.sort_by(|a, b| (&a.from, &a.to).cmp(&(&b.from, &b.to)));
        Ok(found)
    }

    pub(crate) async fn violations(&self, names: &[Workload]) -> Result<Vec<Violation>, RestError> {
        let list = self.list("/v1/log/violation", "violations").await?;
        Ok(list.iter().map(|item| Violation::of(item, names)).collect())
    }

    /// Sets a service's mode; the revision of the change.
    pub(crate) async fn set_mode(&self, service: &str, mode: &str) -> Result<Option<u64>, RestError> {
        let body = json!({"config": {"name": service, "services": [service], "policy_mode": mode}});
        let (_, revision) = self
            .call(Method::PATCH, "/v1/service/config", &[], Some(&body))
            .await?;
        Ok(revision)
    }

    /// Lowest revision in force on a node; `None` while there is no node.
    pub(crate) async fn in_force(&self) -> Result<Option<u64>, RestError> {
        let nodes = self.list("/v1/node", "nodes").await?;
        Ok(nodes.iter().map(|node| number(node, "revision")).min())
    }

    pub(crate) async fn explain(
        &self,
        from: &str,
        to: &str,
        port: &str,
        app: &str,
    ) -> Result<Explanation, RestError> {
        let query = [("from", from), ("to", to), ("port", port), ("app", app)];
        let (answer, _) = self.call(Method::GET, "/v1/explain", &query, None).await?;
        Explanation::of(answer.get("explain").unwrap_or(&answer)).ok_or(RestError::Garbled {
            call: "/v1/explain".into(),
            field: "verdict",
        })
    }

    async fn list(&self, path: &str, field: &'static str) -> Result<Vec<Value>, RestError> {
        let (mut answer, _) = self.call(Method::GET, path, &[], None).await?;
        match answer.get_mut(field).map(Value::take) {
            Some(Value::Array(list)) => Ok(list),
            Some(Value::Null) => Ok(Vec::new()),
            _ => Err(RestError::Garbled {
                call: path.to_owned(),
                field,
            }),
        }
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<(Value, Option<u64>), RestError> {
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
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.parse().ok());
        let bytes = response.bytes().await?;
        let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if !status.is_success() {
            let message = text(&answer, &["message", "error"]);
            return Err(RestError::Refused {
                call,
                status: status.as_u16(),
                message,
            });
        }
        Ok((answer, revision))
    }
}
