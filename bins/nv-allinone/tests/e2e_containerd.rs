//! The whole product on pods of a real containerd: CNI's bridge, the CRI, rules over REST, the kernel's verdicts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests"
)]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nv_allinone::{Config, Stack};
use nv_lab::run_in;
use nv_runtime::testing::{DockerNetwork, Pod, Suite, TestContainerd, is_root};
use nv_runtime::{ContainerRuntime as _, ContainerdRuntime, DiscoverOptions, Location};
use nv_types::Workload;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);
/// How long a connection may take before it counts as refused: the first SYN and one repetition.
const REFUSED: Duration = Duration::from_millis(1500);

/// REST, as a user has it.
struct Rest {
    http: reqwest::Client,
    server: String,
    token: String,
}

impl Rest {
    async fn login(stack: &Stack) -> Self {
        let http = reqwest::Client::builder()
            .tls_certs_only(reqwest::Certificate::from_pem_bundle(stack.ca()).unwrap())
            .no_proxy()
            .build()
            .unwrap();
        let mut rest = Self {
            http,
            server: stack.server(),
            token: String::new(),
        };
        let password = stack.password().expect("the first start has a password");
        let body = json!({"password": {"username": "admin", "password": password}});
        let (answer, _) = rest.call("POST", "/v1/auth", Some(&body)).await;
        rest.token = answer["token"]["token"].as_str().unwrap().to_owned();
        rest
    }

    /// Answer and revision; a refusal is a failed test.
    async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> (Value, u64) {
        let url = format!("{}{path}", self.server);
        let mut request = self.http.request(method.parse().unwrap(), url);
        request = request.header("X-Auth-Token", &self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        let revision = response.headers().get("x-nv-revision");
        let revision = revision.and_then(|value| value.to_str().ok()?.parse().ok());
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "{method} {path}: {status} {text}");
        (serde_json::from_str(&text).unwrap(), revision.unwrap_or(0))
    }

    async fn get(&self, path: &str) -> Value {
        self.call("GET", path, None).await.0
    }

    /// Makes a change and waits until the kernel has it.
    async fn change(&self, method: &str, path: &str, body: Option<&Value>) {
        let (_, revision) = self.call(method, path, body).await;
        self.wait_for("the change in force", |nodes| {
            nodes["nodes"][0]["revision"].as_u64().unwrap() >= revision
        })
        .await;
    }

    async fn wait_for(&self, what: &str, mut holds: impl FnMut(&Value) -> bool) {
        let begun = Instant::now();
        loop {
            let nodes = self.get("/v1/node").await;
            if nodes["nodes"][0].is_object() && holds(&nodes) {
                return;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "not within {PATIENCE:?}: {what}: {nodes}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A pod that runs, and how to act inside its network namespace.
struct Inside {
    workload: Workload,
}

impl Inside {
    async fn start(containerd: &TestContainerd, name: &str) -> Self {
        let pod = Pod::new(name);
        let sandbox = containerd.run_pod(&pod).await;
        containerd
            .run_in_pod(&pod, &sandbox, "app", &["sleep", "600"])
            .await;
        let runtime = ContainerdRuntime::connect(containerd.socket());
        let workload = runtime
            .inspect(&sandbox.parse().unwrap(), &"e2e".parse().unwrap())
            .await;
        Self {
            workload: workload.unwrap(),
        }
    }

    fn netns(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.workload.pid).into()
    }

    fn address(&self) -> IpAddr {
        let mut addresses = self.workload.peer_addresses();
        addresses.find(IpAddr::is_ipv4).expect("an address of CNI's")
    }

    fn try_echo(&self, to: &Self, port: u16) -> std::io::Result<()> {
        let to = SocketAddr::new(to.address(), port);
        run_in(&self.netns(), move || {
            let mut stream = TcpStream::connect_timeout(&to, REFUSED)?;
            stream.set_read_timeout(Some(REFUSED))?;
            stream.write_all(b"hello\n")?;
            let mut line = [0; 6];
            stream.read_exact(&mut line)
        })
        .unwrap()
    }

    fn reaches(&self, to: &Self, port: u16) {
        let begun = Instant::now();
        while let Err(error) = self.try_echo(to, port) {
            assert!(begun.elapsed() < PATIENCE, "port {port} is not reached: {error}");
        }
    }

    fn does_not_reach(&self, to: &Self, port: u16) {
        assert!(self.try_echo(to, port).is_err(), "port {port} is reached");
    }
}

/// An echo server in a pod.
struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(inside: &Inside, port: u16) -> Self {
        let bind = move || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
        let listener = run_in(&inside.netns(), bind).unwrap();
        listener.set_nonblocking(true).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let Ok((mut stream, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(2));
                    continue;
                };
                let _ = stream.set_nonblocking(false);
                let _ = stream.set_read_timeout(Some(REFUSED));
                let mut line = [0; 6];
                if stream.read_exact(&mut line).is_ok() {
                    let _ = stream.write_all(&line);
                }
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_containerd_are_protected() {
    if !is_root("pods_of_containerd_are_protected") {
        return;
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let containerd = TestContainerd::start_of(Suite::System, DockerNetwork::CurrentNamespace);
    let web = Inside::start(&containerd, "web-0").await;
    let app = Inside::start(&containerd, "app-0").await;
    let servers = [Server::start(&app, 8080), Server::start(&app, 9090)];

    let folder = tempfile::tempdir().unwrap();
    let pins = PathBuf::from(format!("/sys/fs/bpf/nv/e2ec-{}", std::process::id()));
    let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let config = Config {
        controller: nv_controller::Config {
            data_dir: folder.path().join("data"),
            rest: free,
            grpc: free,
            ..nv_controller::Config::default()
        },
        node: "e2e".parse().unwrap(),
        agent_listen: free,
        pin_dir: pins.clone(),
        runtimes: DiscoverOptions {
            containerd: Location::At(containerd.socket()),
            ..DiscoverOptions::nothing()
        },
    };
    let stack = Stack::start(config, CancellationToken::new()).await.unwrap();
    let rest = Rest::login(&stack).await;
    rest.wait_for("two interfaces under guard, and their runtime", |nodes| {
        let node = &nodes["nodes"][0];
        let runtime = node["runtimes"][0].as_str().unwrap_or_default();
        node["endpoints"].as_u64() == Some(2) && runtime.starts_with("containerd 1.")
    })
    .await;

    // A pod that starts while nv runs: its policy is there with it.
    let late = Inside::start(&containerd, "late-0").await;
    rest.wait_for("the third interface under guard", |nodes| {
        nodes["nodes"][0]["endpoints"].as_u64() == Some(3)
    })
    .await;
    for from in [&web, &late] {
        from.reaches(&app, 8080);
        from.reaches(&app, 9090);
    }
    let mode = async |services: &[&str], mode: &str| {
        let body = json!({"config": {"services": services, "policy_mode": mode}});
        rest.change("PATCH", "/v1/service/config", Some(&body)).await;
    };
    mode(&["nv.web.prod", "nv.app.prod", "nv.late.prod"], "Monitor").await;
    // What was learned would let everything of before pass.
    let learned = rest.get("/v1/policy/rule").await;
    for rule in learned["rules"].as_array().unwrap() {
        rest.change("DELETE", &format!("/v1/policy/rule/{}", rule["id"]), None)
            .await;
    }
    let rule = json!({"id": 0, "from": "nv.web.prod", "to": "nv.app.prod", "ports": "tcp/8080", "action": "allow", "applications": []});
    let insert = json!({"insert": {"after": 0, "rules": [rule]}});
    rest.change("PATCH", "/v1/policy/rule", Some(&insert)).await;
    mode(&["nv.app.prod"], "Protect").await;
    web.reaches(&app, 8080);
    web.does_not_reach(&app, 9090);
    late.does_not_reach(&app, 8080);

    drop(servers);
    stack.stop().await.unwrap();
    nv_dp::EbpfDatapath::purge_pins(&pins).unwrap();
    assert!(!pins.exists(), "enforcement is left");
}
