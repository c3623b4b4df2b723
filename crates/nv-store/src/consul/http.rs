//! Consul's HTTP interface, as far as a store needs it: transactions and blocking queries.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::StatusCode;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

use super::ConsulOptions;
use crate::StoreError;
use crate::cluster::TlsOptions;

/// Longest wait for an answer that is not a blocking query's.
const PATIENCE: Duration = Duration::from_secs(3);
/// What Consul may add to the wait of a blocking query, and some more.
const OVERTIME: Duration = Duration::from_secs(10);

/// A key as Consul gives it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Pair {
    pub(super) key: String,
    #[serde(default)]
    pub(super) value: Option<String>,
    #[serde(default)]
    pub(super) flags: u64,
    pub(super) create_index: u64,
    pub(super) modify_index: u64,
}

impl Pair {
    pub(super) fn bytes(&self) -> Result<Vec<u8>, StoreError> {
        let text = self.value.as_deref().unwrap_or_default();
        STANDARD.decode(text).map_err(|error| StoreError::Unavailable {
            detail: format!(
                "Consul sent a value of '{}' that is not base64: {error}",
                self.key
            ),
        })
    }
}

/// One operation of a transaction.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Op {
    verb: &'static str,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
}

impl Op {
    const fn new(verb: &'static str, key: String) -> Self {
        Self {
            verb,
            key,
            value: None,
            flags: None,
            index: None,
        }
    }

    pub(super) fn set(key: String, value: &[u8], flags: u64) -> Self {
        Self {
            value: Some(STANDARD.encode(value)),
            flags: Some(flags),
            ..Self::new("set", key)
        }
    }

    pub(super) const fn get(key: String) -> Self {
        Self::new("get", key)
    }

    pub(super) const fn tree(prefix: String) -> Self {
        Self::new("get-tree", prefix)
    }

    pub(super) const fn delete(key: String) -> Self {
        Self::new("delete", key)
    }

    pub(super) const fn absent(key: String) -> Self {
        Self::new("check-not-exists", key)
    }

    pub(super) const fn unchanged(key: String, index: u64) -> Self {
        let mut op = Self::new("check-index", key);
        op.index = Some(index);
        op
    }
}

#[derive(Serialize)]
#[serde(rename_all = "UPPERCASE")]
struct Envelope<'a> {
    kv: &'a Op,
}

#[derive(Deserialize)]
struct Reply {
    #[serde(rename = "Results", default)]
    results: Option<Vec<Row>>,
    #[serde(rename = "Errors", default)]
    errors: Option<Vec<OpError>>,
}

#[derive(Deserialize)]
struct Row {
    #[serde(rename = "KV")]
    kv: Pair,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OpError {
    op_index: usize,
    #[serde(default)]
    what: String,
}

/// What became of a transaction.
#[derive(Debug)]
pub(super) enum Answer {
    /// Made; what it read and wrote.
    Done(Vec<Pair>),
    /// This operation did not hold, nothing was made.
    Failed(usize),
}

/// A connection to a cluster of Consul agents or servers.
#[derive(Debug)]
pub(super) struct Http {
    client: reqwest::Client,
    bases: Vec<String>,
    current: AtomicUsize,
    token: Option<String>,
}

impl Http {
    pub(super) fn new(options: &ConsulOptions) -> Result<Self, StoreError> {
        let client = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(2))
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .tls_backend_preconfigured(tls(&options.tls)?)
            .build()
            .map_err(|error| unavailable("Consul's client", &error))?;
        Ok(Self {
            client,
            bases: options
                .endpoints
                .iter()
                .map(|url| url.trim_end_matches('/').to_owned())
                .collect(),
            current: AtomicUsize::new(0),
            token: options.token.clone(),
        })
    }

    /// Asks another server from now on.
    pub(super) fn rotate(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
    }

    async fn send(
        &self,
        make: impl Fn(&str) -> reqwest::RequestBuilder,
    ) -> Result<reqwest::Response, StoreError> {
        let mut last = None;
        for _ in 0..self.bases.len() {
            let at = self.current.load(Ordering::Relaxed);
            let base = &self.bases[at % self.bases.len()];
            let mut request = make(base);
            if let Some(token) = &self.token {
                request = request.header("X-Consul-Token", token);
            }
            match request.send().await {
                Ok(response) => return Ok(response),
                Err(error) => {
                    self.rotate();
                    // Only what was surely not sent may be sent again.
                    let again = error.is_connect();
                    last = Some(unavailable(base, &error));
                    if !again {
                        break;
                    }
                }
            }
        }
        Err(last.unwrap_or_else(|| StoreError::Unavailable {
            detail: "no address of Consul is configured".into(),
        }))
    }

    /// Makes a transaction. With nothing but reads in it, it is answered by the leader as of now.
    pub(super) async fn txn(&self, ops: &[Op]) -> Result<Answer, StoreError> {
        let body: Vec<_> = ops.iter().map(|kv| Envelope { kv }).collect();
        let response = self
            .send(|base| {
                self.client
                    .put(format!("{base}/v1/txn?consistent"))
                    .timeout(PATIENCE)
                    .json(&body)
            })
            .await?;
        let status = response.status();
        let bytes = response
            .bytes()
            .await
            .map_err(|error| unavailable("Consul", &error))?;
        if !status.is_success() && status != StatusCode::CONFLICT {
            return Err(self.refused(status, &bytes, ops.first().map_or("", |op| &op.key)));
        }
        let reply: Reply = serde_json::from_slice(&bytes).map_err(|error| unavailable("Consul", &error))?;
        let errors = reply.errors.unwrap_or_default();
        match errors.iter().min_by_key(|error| error.op_index) {
            Some(first) if first.what.contains("ermission denied") => Err(StoreError::Denied {
                key: ops
                    .get(first.op_index)
                    .map_or_else(String::new, |op| op.key.clone()),
            }),
            Some(first) => Ok(Answer::Failed(first.op_index)),
            None => Ok(Answer::Done(
                reply
                    .results
                    .unwrap_or_default()
                    .into_iter()
                    .map(|row| row.kv)
                    .collect(),
            )),
        }
    }

    /// All keys under a prefix and Consul's index of it, once that is beyond `index` or `wait` is over.
    pub(super) async fn block(
        &self,
        prefix: &str,
        index: u64,
        wait: Duration,
    ) -> Result<(Vec<Pair>, u64), StoreError> {
        let query = format!("recurse&index={index}&wait={}ms", wait.as_millis());
        let (status, bytes, index) = self.query(prefix, &query, wait + OVERTIME).await?;
        match status {
            StatusCode::OK => serde_json::from_slice(&bytes)
                .map(|pairs| (pairs, index))
                .map_err(|error| unavailable("Consul", &error)),
            StatusCode::NOT_FOUND => Ok((Vec::new(), index)),
            other => Err(self.refused(other, &bytes, prefix)),
        }
    }

    /// Consul's index of a prefix, without its content.
    pub(super) async fn index(&self, prefix: &str) -> Result<u64, StoreError> {
        let (status, bytes, index) = self
            .query(prefix, "keys&separator=/&consistent", PATIENCE)
            .await?;
        match status {
            StatusCode::OK => Ok(index),
            // Then it is the index of all keys there are.
            StatusCode::NOT_FOUND => Ok(0),
            other => Err(self.refused(other, &bytes, prefix)),
        }
    }

    async fn query(
        &self,
        prefix: &str,
        query: &str,
        patience: Duration,
    ) -> Result<(StatusCode, Vec<u8>, u64), StoreError> {
        let response = self
            .send(|base| {
                self.client
                    .get(format!("{base}/v1/kv/{prefix}?{query}"))
                    .timeout(patience)
            })
            .await?;
        let status = response.status();
        let index = response
            .headers()
            .get("X-Consul-Index")
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .unwrap_or(0);
        let bytes = response
            .bytes()
            .await
            .map_err(|error| unavailable("Consul", &error))?;
        Ok((status, bytes.to_vec(), index))
    }

    fn refused(&self, status: StatusCode, body: &[u8], key: &str) -> StoreError {
        let text: String = String::from_utf8_lossy(body).trim().chars().take(300).collect();
        match status {
            StatusCode::FORBIDDEN => StoreError::Denied { key: key.to_owned() },
            StatusCode::PAYLOAD_TOO_LARGE => StoreError::BeyondLimit {
                detail: format!(
                    "Consul takes some {} KiB in one transaction, and this change is larger ({text}): make it in smaller ones",
                    super::MAX_BODY / 1024
                ),
            },
            _ => {
                self.rotate();
                StoreError::Unavailable {
                    detail: format!("Consul: {status}: {text}"),
                }
            }
        }
    }
}

fn unavailable(what: &str, error: &dyn std::error::Error) -> StoreError {
    let mut detail = format!("{what}: {error}");
    let mut source = error.source();
    while let Some(inner) = source {
        detail = format!("{detail}: {inner}");
        source = inner.source();
    }
    StoreError::Unavailable { detail }
}

fn tls(options: &TlsOptions) -> Result<rustls::ClientConfig, StoreError> {
    let wrong = |what: &str, error: &dyn std::fmt::Display| StoreError::Unavailable {
        detail: format!("Consul's TLS, {what}: {error}"),
    };
    let mut roots = rustls::RootCertStore::empty();
    if let Some(ca) = &options.ca_pem {
        for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
            let certificate = certificate.map_err(|error| wrong("CA", &error))?;
            roots.add(certificate).map_err(|error| wrong("CA", &error))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong("versions", &error))?
        .with_root_certificates(roots);
    let Some((certificate, key)) = &options.identity_pem else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong("certificate", &error))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| wrong("key", &error))?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|error| wrong("certificate and key", &error))
}
