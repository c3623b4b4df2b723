//! What REST says of a store that cannot take a change, and what is left of a change in whose middle the controller dies.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests"
)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::Bed;
use nv_controller::{ClusterConfig, Config, StoreKind};
use nv_store::testing::{Kind, Servers};
use nv_store::{KvStore as _, LocalStore};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

async fn start(config: Config) -> Bed {
    let folder = tempfile::tempdir().unwrap();
    let stop = CancellationToken::new();
    let handle = nv_controller::start(config, stop.clone()).await.unwrap();
    let _installed_before = rustls::crypto::ring::default_provider().install_default();
    let ca = reqwest::Certificate::from_pem(handle.ca_pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([ca]).build().unwrap();
    let password = handle.admin_password().unwrap().to_owned();
    let mut bed = Bed {
        handle,
        client,
        token: String::new(),
        folder,
        stop,
        password,
    };
    bed.token = bed.relogin().await;
    bed
}

async fn on_servers(store: StoreKind, servers: &Servers, folder: &tempfile::TempDir) -> Bed {
    start(Config {
        store,
        cluster: ClusterConfig {
            endpoints: servers.urls(),
            ..ClusterConfig::default()
        },
        ..common::config(folder)
    })
    .await
}

fn servers(test: &str, kind: Kind) -> Option<Servers> {
    let servers = Servers::start(kind, 1, None).unwrap();
    if servers.is_none() {
        assert!(
            kind == Kind::Consul || std::env::var_os("CI").is_none(),
            "{test} needs {kind:?}"
        );
        eprintln!("SKIPPED {test}: {kind:?} is not installed");
    }
    servers
}

fn group(name: &str) -> Value {
    json!({"name": name, "criteria": [{"key": "app", "op": "=", "value": name}]})
}

async fn post(bed: &Bed, name: &str) -> (StatusCode, Value) {
    let mut config = group(name);
    config["comment"] = "x".repeat(200).into();
    bed.call(Method::POST, "/v1/group", Some(json!({"config": config})))
        .await
}

async fn is_there(bed: &Bed, name: &str) -> bool {
    bed.call(Method::GET, &format!("/v1/group/{name}"), None).await.0 == StatusCode::OK
}

fn says(answer: &Value, words: &[&str]) {
    let message = answer["message"].as_str().unwrap_or_default();
    for word in words {
        assert!(message.contains(word), "'{word}' is not in: {message}");
    }
}

fn mount(arguments: &[&str], at: &Path) -> bool {
    let done = Command::new("mount").args(arguments).arg(at).status();
    done.is_ok_and(|done| done.success())
}

/// Unmounts at the end.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_507_and_forgotten_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    if !mount(&["-t", "tmpfs", "-o", "size=8m", "nv-full"], folder.path()) {
        assert!(std::env::var_os("CI").is_none(), "a tmpfs cannot be mounted");
        eprintln!("SKIPPED a_full_disk_is_507: needs root");
        return;
    }
    let mounted = Mounted(folder.path().to_owned());
    let bed = start(common::config(&folder)).await;
    assert_eq!(post(&bed, "before").await.0, StatusCode::OK);
    let filler = folder.path().join("filler");
    let _as_much_as_fits = std::fs::write(&filler, vec![1; 8 << 20]);
    let mut taken = 0;
    let answer = loop {
        let (status, answer) = post(&bed, &format!("g{taken}")).await;
        if status != StatusCode::OK {
            assert_eq!(status, StatusCode::INSUFFICIENT_STORAGE, "{answer}");
            break answer;
        }
        taken += 1;
        assert!(taken < 2000, "the disk is never full");
    };
    says(&answer, &["store.redb", "disk is full"]);
    // What was refused is nowhere; reading goes on.
    assert!(is_there(&bed, "before").await && !is_there(&bed, &format!("g{taken}")).await);
    std::fs::remove_file(&filler).unwrap();
    assert_eq!(post(&bed, "after").await.0, StatusCode::OK, "without a restart");
    for number in 0..taken {
        assert!(
            is_there(&bed, &format!("g{number}")).await,
            "an acknowledged group is lost"
        );
    }
    bed.stop.cancel();
    bed.handle.wait().await;
    drop(mounted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_answer_is_503_and_reading_goes_on() {
    let Some(mut servers) = servers("a_store_that_does_not_answer_is_503", Kind::Etcd) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let bed = on_servers(StoreKind::Etcd, &servers, &folder).await;
    assert_eq!(post(&bed, "before").await.0, StatusCode::OK);
    servers.kill(0).unwrap();
    let (status, answer) = post(&bed, "meanwhile").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    says(&answer, &["store unavailable", "etcd"]);
    assert!(is_there(&bed, "before").await && !is_there(&bed, "meanwhile").await);
    servers.start_again(0).unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while post(&bed, "after").await.0 != StatusCode::OK {
        assert!(Instant::now() < end, "it never takes a change again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bed.stop.cancel();
    bed.handle.wait().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_consul_takes_at_once_is_413_says_so_and_changes_nothing() {
    let Some(servers) = servers("more_than_consul_takes_at_once_is_413", Kind::Consul) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let bed = on_servers(StoreKind::Consul, &servers, &folder).await;
    let apply = async |count: usize| {
        let documents = (0..count).map(|number| {
            let mut document = group(&format!("g{number}"));
            document["kind"] = "Group".into();
            document
        });
        let body = json!({"documents": documents.collect::<Vec<_>>()});
        bed.call(Method::POST, "/v1/apply", Some(body)).await
    };
    let (status, answer) = apply(60).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{answer}");
    says(
        &answer,
        &["Consul takes 64 operations", "smaller", "store import"],
    );
    assert!(!is_there(&bed, "g0").await);
    let (status, answer) = apply(20).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert!(is_there(&bed, "g19").await);
    bed.stop.cancel();
    bed.handle.wait().await;
}

/// The stock program, killed as a crash would when it is dropped.
struct Program(Child);

impl Program {
    /// What it prints at its first start has the password.
    fn start(data: &Path, rest: u16) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_nv-controller"))
            .args(["--rest", &format!("127.0.0.1:{rest}"), "--grpc", "127.0.0.1:0"])
            .arg("--data-dir")
            .arg(data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const RULES: usize = 1000;

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_killed_while_it_applies_a_file_leaves_all_of_it_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let template = folder.path().join("template");
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut program = Program::start(&template, port);
    let mut line = String::new();
    let mut said = std::io::BufReader::new(program.0.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    let password = line
        .split("is ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .to_owned();
    drop(program);
    let _installed_before = rustls::crypto::ring::default_provider().install_default();
    let ca = std::fs::read(template.join("ca.pem")).unwrap();
    let ca = reqwest::Certificate::from_pem(&ca).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([ca]).build().unwrap();
    let call = async |token: &str, path: &str, body: &Value| {
        let request = client.post(format!("https://127.0.0.1:{port}{path}"));
        let request = request.header("X-Auth-Token", token).json(body);
        request.send().await?.json::<Value>().await
    };
    let mut documents = vec![group("g")];
    documents[0]["kind"] = "Group".into();
    documents.extend((0..RULES).map(|number| {
        json!({"kind": "Rule", "from": "g", "to": "external", "ports": format!("tcp/{}", 1 + number), "action": "allow"})
    }));
    let file = json!({ "documents": documents });
    let (mut whole, mut none, mut pause) = (0, 0, Duration::from_millis(30));
    // Ever later, until it was too late once.
    while whole == 0 {
        let data = folder.path().join(format!("round{none}"));
        let copied = Command::new("cp")
            .arg("-a")
            .args([&template, &data])
            .status()
            .unwrap();
        assert!(copied.success());
        let program = Program::start(&data, port);
        let login = json!({"password": {"username": "admin", "password": password}});
        let end = Instant::now() + Duration::from_secs(20);
        let token = loop {
            if let Ok(answer) = call("", "/v1/auth", &login).await {
                break answer["token"]["token"].as_str().unwrap().to_owned();
            }
            assert!(Instant::now() < end, "no login");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let applied = tokio::time::timeout(pause, call(&token, "/v1/apply", &file)).await;
        drop(program);
        let store = LocalStore::open(&data.join("store.redb")).unwrap();
        let rules = store.list("policy/rule/").await.unwrap().entries.len();
        let groups = store.list("policy/group/g").await.unwrap().entries.len();
        assert!(
            (rules, groups) == (0, 0) || (rules, groups) == (RULES, 1),
            "{rules} rules, {groups} groups"
        );
        match (applied, rules) {
            (Ok(Ok(answer)), 0) => panic!("it was acknowledged and is lost: {answer}"),
            (_, 0) => none += 1,
            (_, _) => whole += 1,
        }
        pause *= 2;
        assert!(pause < Duration::from_secs(60), "it is never applied");
    }
    assert!(none > 0, "it was always too late");
    eprintln!(
        "killed {} times: {none} with nothing, {whole} with all of it",
        none + whole
    );
}
