//! Three controllers on one etcd, two nodes with workloads, each on a host of its own, on the real kernel: controllers are lost without a word,
//! then all of them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that cannot go on has failed"
)]
#![allow(unused_crate_dependencies, reason = "the package's other targets use them")]

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nv_agent::{Config, Credentials, DatapathKind, HookFail};
use nv_controller::{ClusterConfig, StoreKind};
use nv_lab::{HostSpec, Lab, NETNS_DIR, run_in};
use nv_runtime::testing::is_root;
use nv_runtime::{DiscoverOptions, Location};
use nv_store::testing::{Kind, Place, Servers};
use nv_types::{NodeId, Revision};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);
/// An agent is with another controller, and has what it missed, within this time.
const FAILOVER: Duration = Duration::from_secs(3);
const PORT: u16 = 8000;
/// Rules that are made while an agent finds another controller, one port each.
const RULES: u16 = 20;

fn netns(name: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(name)
}

/// A host: whatever runs on its runtime is in its namespace.
struct Site {
    name: String,
    runtime: Option<Runtime>,
}

impl Site {
    fn at(name: &str) -> Self {
        let build = || {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
        };
        Self {
            name: name.to_owned(),
            runtime: Some(run_in(&netns(name), build).unwrap().unwrap()),
        }
    }

    /// Waits for some work there.
    fn run<T: Send + 'static, F: Future<Output = T>>(&self, work: impl FnOnce() -> F + Send + 'static) -> T {
        let handle = self.runtime.as_ref().unwrap().handle().clone();
        run_in(&netns(&self.name), move || handle.block_on(work())).unwrap()
    }

    fn link(&self, state: &str) {
        let set = ["netns", "exec", &self.name, "ip", "link", "set", "eth0", state];
        assert!(Command::new("ip").args(set).status().unwrap().success());
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct Controller {
    site: Site,
    data: TempDir,
    rest: SocketAddr,
    grpc: SocketAddr,
    etcd: Vec<String>,
    running: Option<(nv_controller::Handle, CancellationToken)>,
}

impl Controller {
    fn start(&mut self) {
        let config = nv_controller::Config {
            data_dir: self.data.path().to_owned(),
            rest: self.rest,
            grpc: self.grpc,
            store: StoreKind::Etcd,
            cluster: ClusterConfig {
                endpoints: self.etcd.clone(),
                ..ClusterConfig::default()
            },
            ..nv_controller::Config::default()
        };
        let stop = CancellationToken::new();
        let token = stop.clone();
        let started = self.site.run(move || nv_controller::start(config, token));
        self.running = Some((started.unwrap(), stop));
    }

    fn stop(&mut self) {
        if let Some((handle, stop)) = self.running.take() {
            stop.cancel();
            self.site.run(move || handle.wait());
        }
    }
}

/// REST of any of them.
struct Rest {
    client: reqwest::Client,
    token: String,
}

impl Rest {
    async fn call(&self, at: SocketAddr, method: &str, path: &str, body: &Value) -> (Value, Revision) {
        let request = self
            .client
            .request(method.parse().unwrap(), format!("https://{at}{path}"))
            .header("X-Auth-Token", &self.token);
        let request = if body.is_null() {
            request
        } else {
            request.json(body)
        };
        let response = request.send().await.unwrap();
        let revision = response.headers().get("x-nv-revision").cloned();
        let status = response.status();
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "{method} {path}: {status} {text}");
        let revision = revision.map_or(0, |text| text.to_str().unwrap().parse().unwrap());
        (
            serde_json::from_str(&text).unwrap_or(Value::Null),
            Revision(revision),
        )
    }

    async fn allow(&self, at: SocketAddr, from: &str, to: &str, port: u16) -> Revision {
        let rule =
            json!({"id": 0, "from": from, "to": to, "ports": format!("tcp/{port}"), "action": "allow"});
        let insert = json!({"insert": {"after": 0, "rules": [rule]}});
        self.call(at, "PATCH", "/v1/policy/rule", &insert).await.1
    }
}

/// A node with two workloads: `web` and `db`.
struct Node {
    site: Site,
    lab: Option<Lab>,
    config: Config,
    web: PathBuf,
    db: SocketAddr,
    _listeners: Vec<TcpListener>,
    running: Option<(nv_agent::Handle, CancellationToken)>,
}

impl Node {
    fn new(site: Site, net: u8, controllers: &str, data: &Path) -> Self {
        let prefix = format!("{}-", site.name);
        let (web, db) = (format!("{prefix}web"), format!("{prefix}db"));
        let specs = [HostSpec::new(&web, net, 2), HostSpec::new(&db, net, 3)];
        let (bridge, address) = (site.name.replace('-', ""), specs[1].v4);
        let lab = run_in(&netns(&site.name), move || Lab::create(&bridge, &specs)).unwrap();
        let listen = || {
            let ports = PORT..=PORT + RULES;
            ports
                .map(|port| TcpListener::bind(("0.0.0.0", port)).unwrap())
                .collect()
        };
        let config = Config {
            node: site.name.parse().unwrap(),
            controller: controllers.to_owned(),
            data_dir: data.to_owned(),
            datapath: DatapathKind::Ebpf(format!("/sys/fs/bpf/nv/{}", site.name).into()),
            pin_dir: format!("/sys/fs/bpf/nv/{}", site.name).into(),
            dp_socket: "/nonexistent".into(),
            listen: "127.0.0.1:0".parse().unwrap(),
            runtimes: DiscoverOptions {
                netns: Location::Auto,
                netns_prefix: prefix,
                ..DiscoverOptions::nothing()
            },
            credentials: Credentials::Folder {
                join_token_file: None,
                ca: None,
            },
            hook_socket: None,
            hook_fail: HookFail::default(),
            hook_wait: Duration::from_secs(1),
            names: nv_agent::NameOptions::default(),
        };
        Self {
            lab: Some(lab.unwrap()),
            config,
            _listeners: run_in(&netns(&db), listen).unwrap(),
            web: netns(&web),
            db: SocketAddr::from((address, 0)),
            running: None,
            site,
        }
    }

    fn start(&mut self) {
        let stop = CancellationToken::new();
        let (config, token) = (self.config.clone(), stop.clone());
        let started = self.site.run(move || nv_agent::start(config, token));
        self.running = Some((started.unwrap(), stop));
    }

    fn stop(&mut self) {
        if let Some((handle, stop)) = self.running.take() {
            stop.cancel();
            self.site.run(move || handle.wait()).unwrap();
        }
    }

    fn in_force(&self) -> Option<Revision> {
        self.running.as_ref().unwrap().0.in_force()
    }

    fn reaches(&self, port: u16) -> bool {
        let to = SocketAddr::new(self.db.ip(), port);
        let connect = move || TcpStream::connect_timeout(&to, Duration::from_millis(1100)).is_ok();
        run_in(&self.web, connect).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some((_, stop)) = self.running.take() {
            stop.cancel();
        }
        let (config, lab) = (self.config.clone(), self.lab.take());
        let purged = run_in(&netns(&self.site.name), move || {
            let purged = nv_agent::purge(&config);
            drop(lab);
            purged
        });
        if let Ok(Err(error)) = purged {
            eprintln!("enforcement is left: {error:#}");
        }
    }
}

async fn until(what: &str, patience: Duration, mut holds: impl AsyncFnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < patience, "not within {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    begun.elapsed()
}

async fn all_have(nodes: &[Node], revision: Revision, patience: Duration) -> Duration {
    until(
        &format!("revision {revision} on both nodes"),
        patience,
        async || {
            nodes
                .iter()
                .all(|node| node.in_force().is_some_and(|known| known >= revision))
        },
    )
    .await
}

async fn story(tag: String, servers: Vec<String>, hosts: Vec<HostSpec>) {
    let _installed_before = rustls::crypto::ring::default_provider().install_default();
    let mut controllers = Vec::new();
    for host in &hosts[1..4] {
        controllers.push(Controller {
            site: Site::at(&host.name),
            data: tempfile::tempdir().unwrap(),
            rest: SocketAddr::from((host.v4, 10443)),
            grpc: SocketAddr::from((host.v4, 18400)),
            etcd: servers.clone(),
            running: None,
        });
    }
    for controller in &mut controllers {
        controller.start();
    }
    let handle = |at: usize| &controllers[at].running.as_ref().unwrap().0;
    let password = handle(0).admin_password().unwrap().to_owned();
    let ca = reqwest::Certificate::from_pem(handle(0).ca_pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder()
        .tls_certs_only([ca])
        .no_proxy()
        .build()
        .unwrap();
    let mut rest = Rest {
        client,
        token: String::new(),
    };
    let rests: Vec<_> = controllers.iter().map(|controller| controller.rest).collect();
    let login = json!({"password": {"username": "admin", "password": password}});
    let (answer, _) = rest.call(rests[0], "POST", "/v1/auth", &login).await;
    rest.token = answer["token"]["token"].as_str().unwrap().to_owned();

    // Two nodes, each with a certificate, that know all three.
    let all: Vec<_> = controllers
        .iter()
        .map(|controller| controller.grpc.to_string())
        .collect();
    let mut nodes = Vec::new();
    let mut folders = Vec::new();
    for (number, host) in (0u8..).zip(&hosts[4..6]) {
        let folder = tempfile::tempdir().unwrap();
        let id: NodeId = host.name.parse().unwrap();
        let identity = handle(0).agent_identity(&id).unwrap();
        for (name, text) in [
            ("agent.pem", &identity.certificate_pem),
            ("agent.key", &identity.key_pem),
            ("ca.pem", &identity.ca_pem),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let mut node = Node::new(Site::at(&host.name), 234 + number, &all.join(","), folder.path());
        node.start();
        nodes.push(node);
        folders.push(folder);
    }
    until("four interfaces under guard", PATIENCE, async || {
        let (answer, _) = rest.call(rests[1], "GET", "/v1/node", &Value::Null).await;
        let guarded = answer["nodes"].as_array().unwrap().iter();
        guarded
            .map(|node| node["endpoints"].as_u64().unwrap())
            .sum::<u64>()
            == 4
    })
    .await;
    let (answer, _) = rest.call(rests[2], "GET", "/v1/service", &Value::Null).await;
    let service = |end: &str| {
        let mut names = answer["services"].as_array().unwrap().iter();
        let is_it = |service: &&Value| {
            service["name"]
                .as_str()
                .unwrap()
                .trim_start_matches("nv.")
                .starts_with(end)
        };
        names.find(is_it).unwrap()["name"].as_str().unwrap().to_owned()
    };
    let (web, db) = (service("web"), service("db"));
    let mode = json!({"config": {"services": [web, db], "policy_mode": "Protect"}});
    rest.call(rests[1], "PATCH", "/v1/service/config", &mode).await;
    let revision = rest.allow(rests[2], &web, &db, PORT).await;
    all_have(&nodes, revision, PATIENCE).await;
    for node in &nodes {
        assert!(
            node.reaches(PORT) && !node.reaches(PORT + 1),
            "{tag}: one rule, one port"
        );
    }

    // The controllers that agents talk to are lost without a word, one after the other; rules go on being made at the others. Whichever agent
    // was at the lost one is with another within the time, and has missed nothing.
    let mut port = PORT;
    for (lost, writer) in [(0, 1), (1, 2)] {
        controllers[lost].site.link("down");
        let begun = Instant::now();
        let mut last = Revision(0);
        for _ in 0..RULES / 2 {
            port += 1;
            last = rest.allow(rests[writer], &web, &db, port).await;
        }
        all_have(&nodes, last, PATIENCE).await;
        let took = begun.elapsed();
        eprintln!(
            "controller {lost} lost: {} rules in force on both nodes after {took:?}",
            RULES / 2
        );
        assert!(took < FAILOVER, "{took:?} without controller {lost}");
        // The next one to be lost may be the only one that is left: this one comes back.
        controllers[lost].site.link("up");
    }
    for node in &nodes {
        for port in PORT..=PORT + RULES {
            assert!(node.reaches(port), "the rule of port {port} is missing");
        }
    }

    // With every controller down, and nothing in the kernel, as after a boot: the saved policy is enforced.
    for controller in &mut controllers {
        controller.stop();
    }
    for node in &mut nodes {
        node.stop();
        let config = node.config.clone();
        run_in(&netns(&node.site.name), move || nv_agent::purge(&config))
            .unwrap()
            .unwrap();
        node.start();
    }
    all_have(&nodes, Revision(1), PATIENCE).await;
    for node in &nodes {
        until("the saved policy", PATIENCE, async || {
            node.reaches(PORT + RULES) && !node.reaches(9)
        })
        .await;
    }

    // One comes back: what changes from then on is in force on both.
    controllers[2].start();
    let (rules, _) = rest.call(rests[2], "GET", "/v1/policy/rule", &Value::Null).await;
    let id = rules["rules"]
        .as_array()
        .unwrap()
        .iter()
        .find(|rule| rule["ports"] == format!("tcp/{PORT}"))
        .unwrap()["id"]
        .clone();
    let (_, revision) = rest
        .call(rests[2], "DELETE", &format!("/v1/policy/rule/{id}"), &Value::Null)
        .await;
    all_have(&nodes, revision, PATIENCE).await;
    for node in &nodes {
        assert!(!node.reaches(PORT) && node.reaches(PORT + 1));
    }
    for node in &mut nodes {
        node.stop();
    }
    controllers[2].stop();
}

#[test]
fn two_nodes_and_three_controllers_miss_nothing() {
    const NAME: &str = "two_nodes_and_three_controllers_miss_nothing";
    if !is_root(NAME) {
        return;
    }
    let tag = format!("nvx{}", std::process::id() % 10_000);
    let names = ["s", "c0", "c1", "c2", "n0", "n1", "a"];
    let hosts: Vec<_> = (2..)
        .zip(names)
        .map(|(host, name)| HostSpec::new(format!("{tag}{name}"), 233, host))
        .collect();
    let lab = Lab::create(&tag, &hosts).unwrap();
    let place = Place {
        netns: Some(hosts[0].name.clone()),
        address: hosts[0].v4.into(),
    };
    let Some(servers) = Servers::start_at(Kind::Etcd, &[place], None).unwrap() else {
        assert!(std::env::var_os("CI").is_none(), "{NAME} needs etcd");
        eprintln!("SKIPPED {NAME}: etcd is not installed");
        return;
    };
    let (urls, told) = (servers.urls(), hosts.clone());
    let admin = lab.host(&hosts[6].name).unwrap();
    admin
        .run(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(story(tag, urls, told));
        })
        .unwrap();
    drop(servers);
    drop(lab);
}
