//! A controller in a folder of its own, and a client for it.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses a part")]

use std::time::{Duration, Instant};

use nv_api::grpc::{self, report_client::ReportClient, store_client::StoreClient};
use nv_controller::{Config, Handle};
use nv_types::{
    Application, Decision, Direction, FiveTuple, FlowRecord, FlowState, IpProto, Peer, Timestamp, Workload,
    keys,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

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

    /// The store's revision, as REST says it.
    pub(crate) async fn handle_revision(&self) -> u64 {
        let answer = self.raw(Method::GET, "/v1/group", Some(&self.token), None).await;
        answer.headers()["x-nv-revision"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap()
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

/// Longest time that a condition is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

impl Bed {
    /// Asks until the answer is as wanted.
    pub(crate) async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let (status, answer) = self.call(Method::GET, path, None).await;
            if status == StatusCode::OK && wanted(&answer) {
                return answer;
            }
            assert!(Instant::now() < end, "{path} never became so: {status} {answer}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What an agent of this node would connect with.
    pub(crate) fn agent(&self, node: &str) -> Agent {
        let identity = self.handle.agent_identity(&node.parse().unwrap()).unwrap();
        Agent {
            node: node.to_owned(),
            channel: self.channel(Some((&identity.certificate_pem, &identity.key_pem))),
        }
    }

    /// A connection that is made when it is used.
    pub(crate) fn channel(&self, identity: Option<(&str, &str)>) -> Channel {
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(self.handle.ca_pem()))
            .domain_name(nv_api::CONTROLLER_NAME);
        if let Some((certificate, key)) = identity {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        Endpoint::from_shared(format!("https://{}", self.handle.grpc()))
            .unwrap()
            .connect_timeout(Duration::from_secs(5))
            .timeout(PATIENCE)
            .tls_config(tls)
            .unwrap()
            .connect_lazy()
    }
}

/// An agent's side of gRPC, with a certificate of the controller's CA.
pub(crate) struct Agent {
    pub(crate) node: String,
    pub(crate) channel: Channel,
}

impl Agent {
    pub(crate) fn store(&self) -> StoreClient<Channel> {
        StoreClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    pub(crate) async fn put(&self, key: &str, value: Vec<u8>, lease: u64) -> Result<u64, Status> {
        let put = grpc::Put {
            key: key.to_owned(),
            value,
            lease,
        };
        self.commit(grpc::op::Op::Put(put)).await
    }

    pub(crate) async fn commit(&self, op: grpc::op::Op) -> Result<u64, Status> {
        let request = grpc::CommitRequest {
            conditions: Vec::new(),
            ops: vec![grpc::Op { op: Some(op) }],
        };
        Ok(self.store().commit(request).await?.into_inner().revision)
    }

    /// Writes a workload with one service of the same name.
    pub(crate) async fn put_workload(&self, name: &str, address: &str) -> Workload {
        let workload = workload(&self.node, name, address);
        let key = keys::workload(&workload.node, &workload.id);
        self.put(&key, nv_policy::encode(&key, &workload).unwrap(), 0)
            .await
            .unwrap();
        workload
    }

    pub(crate) async fn report(&self, records: Vec<String>, lost: &[(&str, u64)]) -> Result<u64, Status> {
        let batch = grpc::FlowBatch {
            node: self.node.clone(),
            sequence: 1,
            records_json: records,
            lost: lost
                .iter()
                .map(|(stage, count)| ((*stage).to_owned(), *count))
                .collect(),
        };
        let mut client = ReportClient::new(self.channel.clone());
        Ok(client.flows(batch).await?.into_inner().taken)
    }
}

pub(crate) fn workload(node: &str, name: &str, address: &str) -> Workload {
    serde_json::from_value(json!({
        "id": format!("id-{name}"), "name": name, "node": node, "runtime": "docker", "service": name,
        "image": format!("{name}:1"), "labels": {"tier": name}, "created": 1_700_000_000_000_000_000_u64,
        "interfaces": [{"name": "eth0", "index": 2, "mac": null, "host_index": 7, "addresses": [[address, 24]]}],
        "published": [{"proto": 6, "host_ip": "0.0.0.0", "host_port": 18080, "port": 8080}],
    }))
    .unwrap()
}

/// A flow over TCP that its client's endpoint has seen.
pub(crate) fn flow(client: &Workload, server: &Workload, client_port: u16, decision: Decision) -> FlowRecord {
    let address = |workload: &Workload| workload.interfaces[0].addresses[0].0;
    FlowRecord {
        node: client.node.clone(),
        workload: client.id.clone(),
        direction: Direction::Egress,
        tuple: FiveTuple {
            proto: IpProto::TCP,
            client: address(client),
            client_port,
            server: address(server),
            server_port: 8080,
        },
        client: Peer::Workload(client.id.clone()),
        server: Peer::Workload(server.id.clone()),
        application: Some(Application::HTTP),
        decision,
        state: FlowState::New,
        packets_to_server: 3,
        packets_to_client: 2,
        bytes_to_server: 300,
        bytes_to_client: 200,
        first_seen: Timestamp(1_700_000_000_000_000_000),
        last_seen: Timestamp(1_700_000_001_000_000_000),
    }
}

pub(crate) fn json_of(record: &FlowRecord) -> String {
    serde_json::to_string(record).unwrap()
}
