//! The datapath in a process of its own, on the real kernel: either process dies and comes back.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    dead_code,
    reason = "a test that cannot go on has failed; helpers are shared with other tests"
)]
#![allow(unused_crate_dependencies, reason = "the package's other targets use them")]

#[path = "it/bed.rs"]
mod bed;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bed::{Controller, node, until};
use nv_agent::{Config, Credentials, DatapathKind, Handle, HookFail};
use nv_lab::{Host, HostSpec, Lab};
use nv_runtime::testing::is_root;
use nv_runtime::{DiscoverOptions, Location};
use serde_json::json;
use tokio_util::sync::CancellationToken;

const PORT: u16 = 8080;

/// `nv-agent dp`, ended with -9.
struct Dp(Child);

impl Dp {
    fn start(config: &Config) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_nv-agent"))
            .args(["--node", "n1", "--datapath", "process"])
            .arg("--pin-dir")
            .arg(&config.pin_dir)
            .arg("--dp-socket")
            .arg(&config.dp_socket)
            .arg("dp")
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Dp {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Removes enforcement however the test ends.
struct Purge(Config, CancellationToken);

impl Drop for Purge {
    fn drop(&mut self) {
        self.1.cancel();
        if self.0.pin_dir.exists() {
            let config = Config {
                dp_socket: "/nonexistent".into(),
                datapath: DatapathKind::Ebpf(self.0.pin_dir.clone()),
                ..self.0.clone()
            };
            if let Err(error) = nv_agent::purge(&config) {
                eprintln!("enforcement is left: {error:#}");
            }
        }
    }
}

#[allow(
    clippy::needless_update,
    reason = "there may be more runtimes than this test knows"
)]
fn config(controller: &Controller, data: &Path, instance: &str) -> Config {
    let socket = data.join("dp.sock");
    Config {
        node: node(),
        controller: controller.grpc.to_string(),
        data_dir: data.to_owned(),
        datapath: DatapathKind::Process(socket.clone()),
        pin_dir: format!("/sys/fs/bpf/nv/{instance}").into(),
        dp_socket: socket,
        listen: "127.0.0.1:0".parse().unwrap(),
        runtimes: DiscoverOptions {
            docker: Location::Off,
            netns: Location::Auto,
            netns_prefix: instance.to_owned(),
            ..DiscoverOptions::default()
        },
        credentials: Credentials::Folder {
            join_token_file: None,
            ca: None,
        },
        hook_socket: None,
        hook_fail: HookFail::default(),
        hook_wait: Duration::from_secs(1),
        names: nv_agent::NameOptions::default(),
    }
}

fn reaches(from: &Host, to: SocketAddr) -> bool {
    from.run(move || TcpStream::connect_timeout(&to, Duration::from_millis(1200)).is_ok())
        .unwrap()
}

async fn stop(agent: Handle, stop: &CancellationToken) {
    stop.cancel();
    agent.wait().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn either_process_dies_and_comes_back() {
    if !is_root("either_process_dies_and_comes_back") {
        return;
    }
    let instance = format!("nvp{}-", std::process::id() % 1_000_000);
    let (web, db) = (format!("{instance}web"), format!("{instance}db"));
    let bridge = instance.trim_end_matches('-');
    let lab = Lab::create(bridge, &[HostSpec::new(&web, 214, 2), HostSpec::new(&db, 214, 3)]).unwrap();
    let (web, db) = (lab.host(&web).unwrap(), lab.host(&db).unwrap());
    let _listeners = db
        .run(|| {
            [
                TcpListener::bind(("0.0.0.0", PORT)).unwrap(),
                TcpListener::bind(("::", 9)).unwrap(),
            ]
        })
        .unwrap();
    let to = SocketAddr::from((db.spec().v4, PORT));

    let controller = Controller::start().await;
    let data = controller.joined(&node());
    let config = config(&controller, data.path(), &instance);
    let token = CancellationToken::new();
    let _purge = Purge(config.clone(), token.clone());
    let dp = Dp::start(&config);
    let agent = nv_agent::start(config.clone(), token.clone()).await.unwrap();
    assert!(["tcx", "clsact"].contains(&agent.hook()), "{}", agent.hook());
    let guarded = async || {
        until("both interfaces under guard", async || {
            controller
                .node("n1")
                .await
                .is_some_and(|node| node["endpoints"].as_u64() == Some(2))
        })
        .await;
    };
    guarded().await;
    assert!(reaches(web, to), "in Discover everything passes");

    let services = controller.get("/v1/service").await;
    let services = services["services"].as_array().unwrap();
    let name = |end: &str| {
        let mut names = services
            .iter()
            .map(|service| service["name"].as_str().unwrap().to_owned());
        names
            .find(|name| name.starts_with("nv.") && name.ends_with(end))
            .unwrap()
    };
    let (from, server) = (name("web"), name("db"));
    for mode in ["Monitor", "Protect"] {
        let mode = json!({"config": {"services": [from, server], "policy_mode": mode}});
        controller.send("PATCH", "/v1/service/config", &mode).await;
    }
    let rules = controller.get("/v1/policy/rule").await;
    let mut revision = controller.change("anything").await;
    for rule in rules["rules"].as_array().unwrap() {
        revision = controller
            .send("DELETE", &format!("/v1/policy/rule/{}", rule["id"]), &json!(null))
            .await;
    }
    controller.in_force("n1", revision).await;
    assert!(!reaches(web, to), "no rule allows it");

    // The datapath's process dies: the kernel goes on. It comes back: the agent goes on.
    drop(dp);
    assert!(!reaches(web, to), "the last policy stays");
    let rule = json!({"id": 0, "from": from, "to": server, "ports": format!("tcp/{PORT}"),
        "action": "allow", "applications": []});
    let insert = json!({"insert": {"after": 0, "rules": [rule]}});
    let revision = controller.send("PATCH", "/v1/policy/rule", &insert).await;
    until("the node says that its datapath is away", async || {
        let node = controller.node("n1").await.unwrap();
        node["degraded"].to_string().contains("dp.sock")
    })
    .await;
    assert!(!reaches(web, to), "what could not be put in force is not");
    let dp = Dp::start(&config);
    controller.in_force("n1", revision).await;
    assert!(reaches(web, to), "the rule is in force");
    guarded().await;

    // The agent dies and comes back; the datapath's process stays.
    stop(agent, &token).await;
    assert!(reaches(web, to), "the last policy stays");
    let token = CancellationToken::new();
    let agent = nv_agent::start(config.clone(), token.clone()).await.unwrap();
    let rules = controller.get("/v1/policy/rule").await;
    let mut revision = revision;
    for rule in rules["rules"].as_array().unwrap() {
        revision = controller
            .send("DELETE", &format!("/v1/policy/rule/{}", rule["id"]), &json!(null))
            .await;
    }
    controller.in_force("n1", revision).await;
    guarded().await;
    assert!(!reaches(web, to), "the rule is gone");

    // A purge goes through the process that has the rights.
    stop(agent, &token).await;
    nv_agent::purge(&config).unwrap();
    assert!(reaches(web, to), "nothing is enforced any more");
    drop(dp);
    assert!(!config.pin_dir.exists());
}
