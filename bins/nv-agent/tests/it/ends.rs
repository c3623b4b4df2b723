//! An agent that has gone blind ends, with words: whoever looks after it starts it again.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nv_dp::{
    Datapath, DatapathConfig, DatapathError, DatapathEvent, DatapathStatus, EndpointSpec, FlowStats,
    SoftwareDatapath,
};
use nv_types::PolicyImage;
use rcgen::{CertificateParams, DnType, Issuer, KeyPair};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use crate::bed::{Agent, Controller, Program, node, policy_file};

/// Something at the controller's address, with a certificate of the controller's CA, that refuses every call.
async fn refuser(data: &Path, stop: CancellationToken) -> SocketAddr {
    let read = |name: &str| std::fs::read_to_string(data.join(name)).unwrap();
    let ca = read("ca.pem");
    let issuer = Issuer::from_ca_cert_pem(&ca, KeyPair::from_pem(&read("ca.key")).unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![nv_api::CONTROLLER_NAME.to_owned()]).unwrap();
    params
        .distinguished_name
        .push(DnType::CommonName, nv_api::CONTROLLER_NAME);
    let certificate = params.signed_by(&key, &issuer).unwrap().pem();
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(certificate, key.serialize_pem()))
        .client_ca_root(Certificate::from_pem(ca));
    let refuse = axum::Router::new().fallback(async || {
        [
            ("content-type", "application/grpc"),
            ("grpc-status", "7"),
            ("grpc-message", "this node may not watch"),
        ]
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder()
        .tls_config(tls)
        .unwrap()
        .add_routes(tonic::service::Routes::from(refuse));
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    tokio::spawn(async move {
        server
            .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
            .await
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_refused_for_good_ends_the_agent_and_keeps_its_policy() {
    let controller = Controller::start().await;
    let folder = controller.joined(&node());
    let mut agent = Program::start(&node(), folder.path(), controller.grpc, &[]);
    let revision = controller.change("fronts").await;
    controller.in_force("n1", revision).await;
    while !policy_file(folder.path()).exists() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    agent.kill();

    let stop = CancellationToken::new();
    let address = refuser(controller.folder.path(), stop.clone()).await;
    let mut agent = Program::start(&node(), folder.path(), address, &[]);
    assert_eq!(agent.ends().await.code(), Some(1), "{}", agent.said());
    let said = agent.said();
    for words in [
        "watch refused",
        "this node may not watch",
        "error: the watch of the store has ended: the agent cannot go on; what is in force stays",
    ] {
        assert!(said.contains(words), "no '{words}':\n{said}");
    }
    stop.cancel();

    // What it had is there for the next one.
    let _again = Program::start(&node(), folder.path(), controller.grpc, &[]);
    let revision = controller.change("backs").await;
    controller.in_force("n1", revision).await;
}

/// A datapath that fails in a way that nobody has thought of.
struct Breaks {
    inner: SoftwareDatapath,
    now: Arc<AtomicBool>,
}

impl Datapath for Breaks {
    fn apply(&mut self, image: &PolicyImage, config: &DatapathConfig) -> Result<(), DatapathError> {
        self.inner.apply(image, config)
    }

    fn attach(&mut self, endpoint: &EndpointSpec) -> Result<(), DatapathError> {
        self.inner.attach(endpoint)
    }

    fn detach(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        self.inner.detach(ifindex)
    }

    fn poll_events(&mut self, max: usize) -> Result<Vec<DatapathEvent>, DatapathError> {
        assert!(!self.now.load(Ordering::Relaxed), "the thread ends here");
        self.inner.poll_events(max)
    }

    fn sweep(&mut self, each: &mut dyn FnMut(FlowStats)) -> Result<(), DatapathError> {
        self.inner.sweep(each)
    }

    fn status(&mut self) -> Result<DatapathStatus, DatapathError> {
        self.inner.status()
    }

    fn purge(&mut self) -> Result<(), DatapathError> {
        self.inner.purge()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_datapath_has_no_thread_any_more_ends() {
    let controller = Controller::start().await;
    let folder = controller.joined(&node());
    let now = Arc::new(AtomicBool::new(false));
    let datapath = Breaks {
        inner: SoftwareDatapath::default(),
        now: Arc::clone(&now),
    };
    let agent = Agent::on(Box::new(datapath), &node(), folder.path(), controller.grpc).await;
    let revision = controller.change("fronts").await;
    controller.in_force("n1", revision).await;
    now.store(true, Ordering::Relaxed);
    let why = agent.ends().await;
    assert!(why.contains("the thread of the datapath has ended"), "{why}");

    // What it had is there for the next one.
    let next = Agent::start(&node(), folder.path(), controller.grpc, None).await;
    let revision = controller.change("backs").await;
    controller.in_force("n1", revision).await;
    next.stop().await;
}
