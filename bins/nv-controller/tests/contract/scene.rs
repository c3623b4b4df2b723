//! A controller with something of everything: workloads, groups, rules, flows, a capture.

use std::pin::Pin;

use futures::Stream;
use nv_api::grpc::{
    self, CaptureChunk, CaptureFetchRequest, CaptureListReply, CaptureListRequest, CaptureStartRequest,
    CaptureStreamRequest, Empty,
    capture_server::{Capture, CaptureServer},
};
use nv_types::{Application, Decision, FlowRecord, Node, Reason, RuleId, Timestamp, Verdict, keys};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use crate::common::{Agent, Bed, flow, json_of};

/// An agent that has one capture and always says so.
struct OneCapture;

fn capture() -> grpc::CaptureInfo {
    grpc::CaptureInfo {
        id: "7".into(),
        workload: "id-web".into(),
        node: "one".into(),
        status: "running".into(),
        detail: "size".into(),
        packets: 3,
        bytes: 200,
        dropped: 1,
        start_time: 1_700_000_000,
        stop_time: 0,
        files: 1,
        filter: "tcp port 80".into(),
        cause: String::new(),
    }
}

#[tonic::async_trait]
impl Capture for OneCapture {
    async fn start(&self, _: Request<CaptureStartRequest>) -> Result<Response<grpc::CaptureInfo>, Status> {
        Ok(Response::new(capture()))
    }

    async fn stop(&self, _: Request<grpc::CaptureId>) -> Result<Response<grpc::CaptureInfo>, Status> {
        Ok(Response::new(capture()))
    }

    async fn list(&self, _: Request<CaptureListRequest>) -> Result<Response<CaptureListReply>, Status> {
        Ok(Response::new(CaptureListReply {
            captures: vec![capture()],
        }))
    }

    async fn delete(&self, _: Request<grpc::CaptureId>) -> Result<Response<Empty>, Status> {
        Ok(Response::new(Empty {}))
    }

    type FetchStream = Self::StreamStream;

    async fn fetch(&self, _: Request<CaptureFetchRequest>) -> Result<Response<Self::StreamStream>, Status> {
        Err(Status::unimplemented("no file"))
    }

    type StreamStream = Pin<Box<dyn Stream<Item = Result<CaptureChunk, Status>> + Send>>;

    async fn stream(&self, _: Request<CaptureStreamRequest>) -> Result<Response<Self::StreamStream>, Status> {
        Err(Status::unimplemented("no file"))
    }
}

/// Serves captures with the node's own certificate; gives the address.
async fn serve_captures(bed: &Bed, node: &str) -> String {
    let identity = bed.handle.agent_identity(&node.parse().unwrap()).unwrap();
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(&identity.certificate_pem, &identity.key_pem))
        .client_ca_root(Certificate::from_pem(bed.handle.ca_pem()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = Server::builder()
        .tls_config(tls)
        .unwrap()
        .add_service(CaptureServer::new(OneCapture));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    address
}

async fn put_node(agent: &Agent, endpoint: String) {
    let node = Node {
        addresses: vec!["192.0.2.1".parse().unwrap()],
        agent_endpoint: endpoint,
        version: "1".into(),
        kernel: "6.1".into(),
        hook: "tcx".into(),
        endpoints: 2,
        degraded: vec!["slow".into()],
        lost_events: [("ring".to_owned(), 2)].into(),
        seen: Timestamp(1_700_000_000_000_000_000),
        started: Timestamp(1_700_000_000_000_000_000),
        ..Node::new("one".parse().unwrap())
    };
    let key = keys::node(&node.id);
    agent
        .put(&key, nv_policy::encode(&key, &node).unwrap(), 0)
        .await
        .unwrap();
}

impl Bed {
    pub(crate) async fn done(&self, method: Method, path: &str, body: Value) -> Value {
        let (status, answer) = self.call(method.clone(), path, Some(body)).await;
        assert_eq!(status, StatusCode::OK, "{method} {path}: {answer}");
        answer
    }
}

/// Fills the controller.
pub(crate) async fn fill(bed: &Bed) {
    let agent = bed.agent("one");
    put_node(&agent, serve_captures(bed, "one").await).await;
    let web = agent.put_workload("web", "10.0.0.2").await;
    let app = agent.put_workload("app", "10.0.0.3").await;
    bed.until("/v1/service", |answer| {
        answer["services"].as_array().is_some_and(|list| list.len() == 2)
    })
    .await;
    for (name, key, value) in [
        ("fronts", "image", "web"),
        ("names", "address", "www.example.org"),
    ] {
        let group = json!({"config": {"name": name, "comment": "made here",
            "criteria": [{"key": key, "value": value, "op": if key == "image" { "prefix" } else { "=" }}]}});
        bed.done(Method::POST, "/v1/group", group).await;
    }
    let rule = |id: u32, to: &str| {
        json!({"id": id, "from": "nv.web", "to": to, "ports": "tcp/8080", "action": "allow",
            "applications": ["HTTP"], "comment": "why"})
    };
    let rules = json!({"insert": {"rules": [rule(7, "nv.app"), rule(8, "names")]}});
    bed.done(Method::PATCH, "/v1/policy/rule", rules).await;
    let deny = Decision::implicit(Verdict::Deny, Reason::Default);
    let by_rule = Decision {
        verdict: Verdict::Allow,
        reason: Reason::Rule,
        rule: RuleId(7),
    };
    let outside = FlowRecord {
        server: nv_types::Peer::External,
        application: Some(Application::HTTP),
        ..flow(
            &web,
            &app,
            40_001,
            Decision::implicit(Verdict::Alert, Reason::Default),
        )
    };
    let records = vec![
        json_of(&flow(&web, &app, 40_000, by_rule)),
        json_of(&flow(&app, &web, 40_000, deny)),
        json_of(&outside),
    ];
    agent.report(records, &[("queue", 1)]).await.unwrap();
}
