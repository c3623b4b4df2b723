//! A controller in a folder of its own, and a client for it.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses a part")]

use nv_controller::{Config, Handle};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

pub(crate) fn config(folder: &TempDir) -> Config {
    Config {
        data_dir: folder.path().to_owned(),
        rest: "127.0.0.1:0".parse().unwrap(),
        grpc: "127.0.0.1:0".parse().unwrap(),
        ..Config::default()
    }
}

pub(crate) struct Bed {
    pub(crate) handle: Handle,
    pub(crate) client: reqwest::Client,
    pub(crate) token: String,
    pub(crate) folder: TempDir,
    pub(crate) stop: CancellationToken,
    /// Of `admin`.
    pub(crate) password: String,
}

impl Bed {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        let handle = nv_controller::start(config(&folder), stop.clone()).await.unwrap();
        let _installed_before = rustls::crypto::ring::default_provider().install_default();
        let ca = reqwest::Certificate::from_pem(handle.ca_pem().as_bytes()).unwrap();
        let client = reqwest::Client::builder().tls_certs_only([ca]).build().unwrap();
        let mut bed = Self {
            handle,
            client,
            token: String::new(),
            folder,
            stop,
            password: String::new(),
        };
        bed.password = bed.handle.admin_password().unwrap().to_owned();
        bed.token = bed.relogin().await;
        bed
    }

    /// A new session's token.
    pub(crate) async fn relogin(&self) -> String {
        let (status, answer) = self.login(&self.password).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["token"]["token"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn login(&self, password: &str) -> (StatusCode, Value) {
        let body = json!({"password": {"username": "admin", "password": password}});
        self.call(Method::POST, "/v1/auth", Some(body)).await
    }

    pub(crate) async fn raw(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<String>,
    ) -> reqwest::Response {
        let mut request = self
            .client
            .request(method, format!("https://{}{path}", self.handle.rest()));
        if let Some(token) = token {
            request = request.header("X-Auth-Token", token);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        request.send().await.unwrap()
    }

    pub(crate) async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let answer = self
            .raw(method, path, Some(&self.token), body.map(|body| body.to_string()))
            .await;
        let status = answer.status();
        (status, answer.json().await.unwrap_or(Value::Null))
    }
}
