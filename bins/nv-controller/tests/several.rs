//! Several controllers on one Consul or etcd: one CA, one set of users and sessions, one leader, one audit log, and watches that go on at another
//! controller.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests"
)]

mod common;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use common::{Agent, Bed};
use nv_api::grpc::{ListRequest, WatchRequest};
use nv_controller::{ClusterConfig, Config, StoreKind};
use nv_store::testing::{Kind, Servers};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);

async fn start(store: StoreKind, servers: &Servers) -> Bed {
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        store,
        cluster: ClusterConfig {
            endpoints: servers.urls(),
            ..ClusterConfig::default()
        },
        ..common::config(&folder)
    };
    let stop = CancellationToken::new();
    let handle = nv_controller::start(config, stop.clone()).await.unwrap();
    let _installed_before = rustls::crypto::ring::default_provider().install_default();
    let ca = reqwest::Certificate::from_pem(handle.ca_pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([ca]).build().unwrap();
    let password = handle.admin_password().unwrap_or_default().to_owned();
    Bed {
        handle,
        client,
        token: String::new(),
        folder,
        stop,
        password,
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn group(bed: &Bed, name: &str) -> (StatusCode, Value) {
    let criteria = json!([{"key": "app", "op": "=", "value": name}]);
    let body = json!({"config": {"name": name, "criteria": criteria}});
    bed.call(Method::POST, "/v1/group", Some(body)).await
}

/// Revision of a reply, and the keys that it speaks of.
async fn next(stream: &mut tonic::Streaming<nv_api::grpc::WatchReply>) -> (bool, u64, BTreeSet<String>) {
    let reply = tokio::time::timeout(PATIENCE, stream.message()).await;
    let reply = reply.expect("no event").unwrap().unwrap();
    let keys = reply
        .changes
        .into_iter()
        .filter_map(|change| match change.change? {
            nv_api::grpc::change::Change::Put(entry) => Some(entry.key),
            nv_api::grpc::change::Change::Delete(key) => Some(key),
        });
    (reply.resync.is_some(), reply.revision, keys.collect())
}

async fn watch(agent: &Agent, from: u64) -> tonic::Streaming<nv_api::grpc::WatchReply> {
    let request = WatchRequest {
        prefix: "policy/".into(),
        from,
    };
    agent.store().watch(request).await.unwrap().into_inner()
}

async fn together(kind: Kind, store: StoreKind) {
    let Some(servers) = Servers::start(kind, 1, None).unwrap() else {
        assert!(
            kind == Kind::Consul || std::env::var_os("CI").is_none(),
            "needs {kind:?}"
        );
        eprintln!("SKIPPED three controllers on {kind:?}: it is not installed");
        return;
    };
    // Two of them at the same time: one makes the CA and the admin, the other takes them.
    let (mut one, mut two) = tokio::join!(start(store, &servers), start(store, &servers));
    let mut three = start(store, &servers).await;
    assert_eq!(one.handle.ca_pem(), two.handle.ca_pem());
    assert_eq!(one.handle.ca_pem(), three.handle.ca_pem());
    let passwords: Vec<_> = [&one, &two, &three]
        .into_iter()
        .filter_map(|bed| bed.handle.admin_password().map(str::to_owned))
        .collect();
    let [password] = passwords.as_slice() else {
        panic!("passwords of {} controllers", passwords.len())
    };

    // A session of one is one of all.
    one.password.clone_from(password);
    one.token = one.relogin().await;
    two.token.clone_from(&one.token);
    three.token.clone_from(&one.token);
    for bed in [&two, &three] {
        let (status, answer) = bed.call(Method::GET, "/v1/group", None).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }

    // One leads, and only one.
    until("one leads", async || {
        [&one, &two, &three]
            .iter()
            .filter(|bed| bed.handle.leads())
            .count()
            == 1
    })
    .await;

    // All three write at once: nothing is lost, and the audit log is one chain.
    let write = async |bed: &Bed, prefix: &str| {
        for number in 0..8 {
            let (status, answer) = group(bed, &format!("{prefix}{number}")).await;
            assert_eq!(status, StatusCode::OK, "{prefix}{number}: {answer}");
        }
    };
    tokio::join!(write(&one, "a"), write(&two, "b"), write(&three, "c"));
    for bed in [&one, &two, &three] {
        until("all see all groups", async || {
            let (_, answer) = bed.call(Method::GET, "/v1/group", None).await;
            let names: BTreeSet<_> = answer["groups"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(|group| group["name"].as_str().map(str::to_owned))
                .collect();
            ["a", "b", "c"]
                .iter()
                .all(|prefix| (0..8).all(|number| names.contains(&format!("{prefix}{number}"))))
        })
        .await;
    }

    // An agent's watch goes on at another controller, from the revision after the last one seen, with nothing missed and nothing anew.
    let certificate = one.handle.agent_identity(&"n1".parse().unwrap()).unwrap();
    let at = |bed: &Bed| Agent {
        node: "n1".into(),
        channel: bed.channel(Some((&certificate.certificate_pem, &certificate.key_pem))),
    };
    let (first, second) = (at(&one), at(&two));
    let mut stream = watch(&first, 0).await;
    let (resync, mut seen, _) = next(&mut stream).await;
    assert!(resync);
    group(&three, "before").await;
    let (resync, revision, keys) = next(&mut stream).await;
    assert!(
        !resync && revision > seen && keys.iter().any(|key| key.ends_with("before")),
        "{keys:?}"
    );
    seen = revision;
    let led = one.handle.leads();
    one.stop.cancel();
    one.handle.wait().await;
    let (status, answer) = group(&two, "meanwhile").await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let begun = Instant::now();
    let mut stream = watch(&second, seen + 1).await;
    let (resync, revision, keys) = next(&mut stream).await;
    assert!(
        !resync && revision > seen && keys.iter().any(|key| key.ends_with("meanwhile")),
        "{resync} {keys:?}"
    );
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());

    // Somebody else leads, and makes the groups of new services.
    until("another leads", async || {
        two.handle.leads() != three.handle.leads()
    })
    .await;
    second.put_workload("shop", "10.9.0.7").await;
    until("the group of a new service", async || {
        let (status, _) = three.call(Method::GET, "/v1/group/nv.shop", None).await;
        status == StatusCode::OK
    })
    .await;
    let listed = second
        .store()
        .list(ListRequest {
            prefix: String::new(),
        })
        .await
        .unwrap()
        .into_inner();
    for secret in ["ca/", "session/", "join/", "user/"] {
        assert!(
            !listed.entries.iter().any(|entry| entry.key.starts_with(secret)),
            "an agent may read {secret}"
        );
    }

    // The session ends everywhere, also where it was not begun; the chain of the audit log is whole.
    let (status, _) = three.call(Method::DELETE, "/v1/auth", None).await;
    assert_eq!(status, StatusCode::OK);
    until("the session ends at the other one too", async || {
        two.call(Method::GET, "/v1/group", None).await.0 == StatusCode::UNAUTHORIZED
    })
    .await;
    two.password.clone_from(password);
    two.token = two.relogin().await;
    let late = start(store, &servers).await;
    assert_eq!(late.handle.audit_breaks(), 0, "the first led: {led}");
    for bed in [two, three, late] {
        bed.stop.cancel();
        bed.handle.wait().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_controllers_share_one_etcd() {
    together(Kind::Etcd, StoreKind::Etcd).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_controllers_share_one_consul() {
    together(Kind::Consul, StoreKind::Consul).await;
}
