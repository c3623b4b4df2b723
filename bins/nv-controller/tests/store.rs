//! The store as one document: over REST while controllers run, and offline from backend to backend; and a file that is damaged.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests"
)]

mod common;

use std::path::Path;
use std::time::Duration;

use common::Bed;
use nv_api::grpc::WatchRequest;
use nv_controller::maintenance::{self, StoreCommand};
use nv_controller::{ClusterConfig, Config, StoreKind};
use nv_store::archive::Archive;
use nv_store::testing::{Kind, Servers};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

async fn group(bed: &Bed, name: &str) {
    let criteria = json!([{"key": "app", "op": "=", "value": name}]);
    let body = json!({"config": {"name": name, "criteria": criteria}});
    let (status, answer) = bed.call(Method::POST, "/v1/group", Some(body)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}

async fn names(bed: &Bed) -> Vec<String> {
    let (_, answer) = bed.call(Method::GET, "/v1/group", None).await;
    let groups = answer["groups"].as_array().unwrap().iter();
    let names = groups.map(|group| group["name"].as_str().unwrap().to_owned());
    names.filter(|name| name.starts_with("g-")).collect()
}

async fn exported(bed: &Bed) -> String {
    let answer = bed.raw(Method::GET, "/v1/store", Some(&bed.token), None).await;
    assert_eq!(answer.status(), StatusCode::OK);
    answer.text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_comes_back_from_an_export_and_secrets_stay() {
    let bed = Bed::start().await;
    group(&bed, "g-one").await;
    group(&bed, "g-two").await;
    let document = exported(&bed).await;
    let archive = Archive::from_json(document.as_bytes()).unwrap();
    assert!(archive.entries.keys().any(|key| key.starts_with("user/")));
    for secret in ["ca/", "join/", "session/", "node/"] {
        assert!(
            !archive.entries.keys().any(|key| key.starts_with(secret)),
            "{secret}"
        );
    }
    let (status, _) = bed.call(Method::DELETE, "/v1/group/g-one", None).await;
    assert_eq!(status, StatusCode::OK);
    group(&bed, "g-three").await;

    let post = async |path: &str, body: &str| {
        let answer = bed
            .raw(Method::POST, path, Some(&bed.token), Some(body.to_owned()))
            .await;
        (answer.status(), answer.json::<Value>().await.unwrap())
    };
    let damaged = document.replacen("g-two", "g-TWO", 1);
    let (status, answer) = post("/v1/store", &damaged).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(
        answer["message"].as_str().unwrap().contains("checksum"),
        "{answer}"
    );
    let nonsense = Archive {
        entries: [("policy/group/g-bad".to_owned(), b"{}".to_vec())].into(),
        ..archive.clone()
    };
    let (status, answer) = post("/v1/store", &nonsense.to_json().unwrap()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(
        answer["message"].as_str().unwrap().contains("policy/group/g-bad"),
        "{answer}"
    );

    let (status, answer) = post("/v1/store?dry_run=true", &document).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let changes = answer["changes"].as_array().unwrap();
    for change in ["policy/group/g-one put back", "policy/group/g-three deleted"] {
        assert!(changes.contains(&json!(change)), "{changes:?}");
    }
    assert_eq!(names(&bed).await, ["g-three", "g-two"]);
    let (status, answer) = post("/v1/store", &document).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(names(&bed).await, ["g-one", "g-two"]);

    // For admins alone.
    let user = json!({"user": {"fullname": "op", "password": "Long-enough-1", "role": "operator"}});
    let (status, answer) = bed.call(Method::POST, "/v1/user", Some(user)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let login = json!({"password": {"username": "op", "password": "Long-enough-1"}});
    let (_, answer) = bed.call(Method::POST, "/v1/auth", Some(login)).await;
    let token = answer["token"]["token"].as_str().unwrap();
    for (method, body) in [(Method::GET, None), (Method::POST, Some(document))] {
        let answer = bed.raw(method, "/v1/store", Some(token), body).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    }
}

async fn start(config: &Config) -> Bed {
    let stop = CancellationToken::new();
    let handle = nv_controller::start(config.clone(), stop.clone()).await.unwrap();
    let ca = reqwest::Certificate::from_pem(handle.ca_pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([ca]).build().unwrap();
    Bed {
        handle,
        client,
        token: String::new(),
        folder: tempfile::tempdir().unwrap(),
        stop,
        password: String::new(),
    }
}

async fn stop(bed: Bed) -> tempfile::TempDir {
    bed.stop.cancel();
    bed.handle.wait().await;
    bed.folder
}

/// What a watch of an agent that has seen everything up to a revision begins with: a snapshot, or nothing for now.
async fn begins_anew(bed: &Bed, from: u64) -> bool {
    let agent = bed.agent("n1");
    let request = WatchRequest {
        prefix: "policy/".into(),
        from,
    };
    let mut stream = agent.store().watch(request).await.unwrap().into_inner();
    let reply = tokio::time::timeout(Duration::from_millis(500), stream.message()).await;
    reply.is_ok_and(|reply| reply.unwrap().unwrap().resync.is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_moves_from_its_file_to_etcd_and_back_with_its_ca_and_users() {
    let bed = Bed::start().await;
    for number in 0..40 {
        group(&bed, &format!("g-{number:02}")).await;
    }
    let (ca, password) = (bed.handle.ca_pem().to_owned(), bed.password.clone());
    let embedded = common::config(&bed.folder);
    let seen = bed.handle_revision().await;
    let file = bed.folder.path().join("nv.json");
    let export = StoreCommand::Export {
        file: Some(file.clone()),
    };
    let busy = format!("{:#}", maintenance::run(&embedded, &export).await.unwrap_err());
    assert!(busy.contains("controller running"), "{busy}");
    let folder = stop(bed).await;
    let embedded = common::config(&folder);
    eprintln!("{}", maintenance::run(&embedded, &export).await.unwrap());

    let Some(servers) = Servers::start(Kind::Etcd, 1, None).unwrap() else {
        assert!(std::env::var_os("CI").is_none(), "needs etcd");
        eprintln!("SKIPPED moving to etcd: it is not installed");
        return;
    };
    let home = tempfile::tempdir().unwrap();
    let etcd = Config {
        store: StoreKind::Etcd,
        cluster: ClusterConfig {
            endpoints: servers.urls(),
            ..ClusterConfig::default()
        },
        ..common::config(&home)
    };
    let import = StoreCommand::Import {
        file: file.clone(),
        replace: false,
    };
    eprintln!("{}", maintenance::run(&etcd, &import).await.unwrap());
    let again = format!("{:#}", maintenance::run(&etcd, &import).await.unwrap_err());
    assert!(again.contains("not empty"), "{again}");

    let mut bed = start(&etcd).await;
    assert_eq!(bed.handle.ca_pem(), ca, "agents trust the same CA as before");
    assert_eq!(bed.handle.admin_password(), None, "users came along");
    bed.password = password.clone();
    bed.token = bed.relogin().await;
    assert_eq!(names(&bed).await.len(), 40);
    assert_eq!(bed.handle.audit_breaks(), 0);
    // The revisions that agents know are of the other store: none goes on from one, however far this one gets.
    for number in 0..60 {
        group(&bed, &format!("g-more-{number}")).await;
    }
    assert!(
        bed.handle_revision().await > seen,
        "the new store has overtaken the old one"
    );
    assert!(
        begins_anew(&bed, seen + 1).await,
        "an agent of before would miss what is new"
    );
    let running = format!("{:#}", maintenance::run(&etcd, &export).await.unwrap_err());
    assert!(running.contains("stop all of them"), "{running}");
    stop(bed).await;

    // And back, into a folder that has nothing yet.
    eprintln!("{}", maintenance::run(&etcd, &export).await.unwrap());
    let home = tempfile::tempdir().unwrap();
    let back = common::config(&home);
    eprintln!("{}", maintenance::run(&back, &import).await.unwrap());
    let mut bed = start(&back).await;
    assert_eq!(bed.handle.ca_pem(), ca);
    bed.password = password;
    bed.token = bed.relogin().await;
    assert_eq!(names(&bed).await.len(), 100);
    stop(bed).await;
}

fn flip(path: &Path, what: &str) {
    let mut bytes = std::fs::read(path).unwrap();
    let mut flipped = 0;
    while let Some(at) = bytes
        .windows(what.len())
        .position(|window| window == what.as_bytes())
    {
        bytes[at + what.len() - 1] ^= 4;
        flipped += 1;
    }
    assert!(flipped > 0, "'{what}' is not in the file");
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_stops_the_start_and_repair_says_what_can_be_had() {
    let bed = Bed::start().await;
    let password = bed.password.clone();
    group(&bed, "g-one").await;
    group(&bed, "g-two").await;
    let config = common::config(&bed.folder);
    let folder = stop(bed).await;
    let path = folder.path().join("store.redb");
    let repair = |take: Option<&str>| StoreCommand::Repair {
        take: take.map(Into::into),
    };
    let good = maintenance::run(&config, &repair(None)).await.unwrap();
    assert!(good.contains("is good"), "{good}");
    // A start makes a copy; then a bit of one group flips.
    let bed = start(&config).await;
    stop(bed).await;
    flip(&path, "\"g-two");
    let error = nv_controller::start(config.clone(), CancellationToken::new())
        .await
        .unwrap_err();
    let said = format!("{error:#}");
    assert!(
        said.contains("store.redb") && said.contains("policy/group/g-two") && said.contains("store repair"),
        "{said}"
    );
    let said = maintenance::run(&config, &repair(None)).await.unwrap();
    assert!(
        said.contains("damaged: policy/group/g-two") && said.contains("--take file"),
        "{said}"
    );
    let copy = said
        .lines()
        .find_map(|line| {
            line.split_once("--take /")
                .map(|(_, rest)| format!("/{}", rest.split(' ').next().unwrap()))
        })
        .unwrap_or_else(|| panic!("no copy is offered: {said}"));
    eprintln!("{said}");

    let damaged = std::fs::read(&path).unwrap();
    let taken = maintenance::run(&config, &repair(Some("file"))).await.unwrap();
    assert!(taken.contains("store.redb.damaged-1"), "{taken}");
    assert!(
        std::fs::read(folder.path().join("store.redb.damaged-1")).unwrap() == damaged,
        "it is kept as it was"
    );
    let mut bed = start(&config).await;
    bed.password = password.clone();
    bed.token = bed.relogin().await;
    assert_eq!(names(&bed).await, ["g-one"], "all but what was damaged");
    stop(bed).await;

    maintenance::run(&config, &repair(Some(&copy))).await.unwrap();
    let mut bed = start(&config).await;
    bed.password = password;
    bed.token = bed.relogin().await;
    assert_eq!(names(&bed).await, ["g-one", "g-two"], "all");
    stop(bed).await;
}

/// The commands of docs/store.md, as they stand there, against a controller's real program.
#[test]
fn the_commands_of_the_documentation_do_what_it_says() {
    use std::process::{Command, Stdio};
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/store.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    let mut blocks = docs
        .split("```sh ci\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap());
    let (offline, repair) = (blocks.next().unwrap(), blocks.next().unwrap());
    assert_eq!(blocks.next(), None, "a block that is not run");
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let controller = Path::new(env!("CARGO_BIN_EXE_nv-controller"));
    let path = format!(
        "{}:{}",
        controller.parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    let mut running = Command::new(controller)
        .args(["--rest", "127.0.0.1:0", "--grpc", "127.0.0.1:0"])
        .env("NV_DATA_DIR", &data)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(running.stdout.take().unwrap()),
        &mut line,
    )
    .unwrap();
    assert!(line.starts_with("first start"), "{line}");
    running.kill().unwrap();
    running.wait().unwrap();
    let run = |script: &str| {
        let made = Command::new("sh")
            .args(["-euc", script])
            .current_dir(folder.path())
            .env("PATH", &path)
            .env("NV_DATA_DIR", &data)
            .output()
            .unwrap();
        let said =
            String::from_utf8_lossy(&made.stdout).into_owned() + &String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "{script}\n{said}");
        said
    };
    let said = run(offline);
    assert!(
        said.contains("entries of revision") && said.contains("entries written"),
        "{said}"
    );
    assert!(run(repair).contains("is good"));
}
