//! What agents may and may not, through the real gRPC listener with mutual TLS.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
#![allow(unused_crate_dependencies, reason = "the package's other targets use them")]

mod common;

use std::time::{Duration, Instant};

use common::Bed;
use futures::StreamExt as _;
use nv_api::grpc::enroll_client::EnrollClient;
use nv_api::grpc::report_client::ReportClient;
use nv_api::grpc::store_client::StoreClient;
use nv_api::grpc::{
    CommitRequest, FlowBatch, GetRequest, JoinRequest, LeaseGrantRequest, LeaseId, ListRequest, Op, Put,
    WatchRequest, op,
};
use nv_policy::encode;
use nv_types::{
    Decision, Direction, FiveTuple, FlowRecord, FlowState, Interface, IpProto, NodeId, Peer, Reason, RuleId,
    Timestamp, Verdict, Workload, keys,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

/// TLS as an agent has it, with this identity or none.
async fn channel(bed: &Bed, identity: Option<(&str, &str)>) -> Result<Channel, tonic::transport::Error> {
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(bed.handle.ca_pem()))
        .domain_name(nv_api::CONTROLLER_NAME);
    if let Some((certificate, key)) = identity {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    Endpoint::from_shared(format!("https://{}", bed.handle.grpc()))?
        .tls_config(tls)?
        .connect()
        .await
}

async fn as_node(bed: &Bed, name: &str) -> Channel {
    let identity = bed.handle.agent_identity(&node(name)).unwrap();
    channel(bed, Some((&identity.certificate_pem, &identity.key_pem)))
        .await
        .unwrap()
}

fn put(key: &str, value: &[u8], lease: u64) -> CommitRequest {
    CommitRequest {
        conditions: Vec::new(),
        ops: vec![Op {
            op: Some(op::Op::Put(Put {
                key: key.to_owned(),
                value: value.to_vec(),
                lease,
            })),
        }],
    }
}

fn delete(key: &str) -> CommitRequest {
    CommitRequest {
        conditions: Vec::new(),
        ops: vec![Op {
            op: Some(op::Op::Delete(key.to_owned())),
        }],
    }
}

fn workload(name: &str, on: &str, last: u8) -> Workload {
    Workload {
        name: name.into(),
        runtime: "test".into(),
        interfaces: vec![Interface {
            name: "eth0".into(),
            index: 2,
            host_index: Some(7),
            addresses: vec![(std::net::Ipv4Addr::new(10, 0, 0, last).into(), 24)],
            ..Interface::default()
        }],
        ..Workload::new(name.parse().unwrap(), node(on), name)
    }
}

async fn put_workload(store: &mut StoreClient<Channel>, workload: &Workload) {
    let key = keys::workload(&workload.node, &workload.id);
    store
        .commit(put(&key, &encode(&key, workload).unwrap(), 0))
        .await
        .unwrap();
}

async fn wait_for(bed: &Bed, path: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let (status, answer) = bed.call(Method::GET, path, None).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        if holds(&answer) {
            return answer;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}: {answer}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_not_let_in() {
    let bed = Bed::start().await;
    // Without a certificate: the connection stands, for those who join, and every other service refuses.
    let mut store = StoreClient::new(channel(&bed, None).await.unwrap());
    let refused = store
        .get(GetRequest {
            key: "policy/order".into(),
        })
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    let refused = store.commit(put("node/n1", b"{}", 0)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    let mut report = ReportClient::new(channel(&bed, None).await.unwrap());
    let refused = report.flows(FlowBatch::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");

    // With a certificate of a CA of one's own, for a name that exists.
    let _ = bed.handle.agent_identity(&node("n1")).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![nv_api::AGENT_NAME.to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "n1");
    let own = params.self_signed(&key).unwrap();
    let refused = match channel(&bed, Some((&own.pem(), &key.serialize_pem()))).await {
        // TLS 1.3 lets a client finish before the server has looked at its certificate.
        Ok(channel) => StoreClient::new(channel)
            .get(GetRequest {
                key: "policy/order".into(),
            })
            .await
            .is_err(),
        Err(_) => true,
    };
    assert!(refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_writes_only_what_is_its_own() {
    let bed = Bed::start().await;
    let mut store = StoreClient::new(as_node(&bed, "n1").await);
    store.commit(put("node/n1", b"{}", 0)).await.unwrap();
    store.commit(put("workload/n1/w", b"{}", 0)).await.unwrap();
    for key in [
        "node/n2",
        "node/n11",
        "workload/n2/w",
        "workload/n1",
        "workload/n10/w",
        "policy/rule/000001",
        "policy/order",
        "policy/mode/nv.web",
        "config/policy",
        "user/admin",
        "audit/0000000001",
    ] {
        for request in [put(key, b"{}", 0), delete(key)] {
            let refused = store.commit(request).await.unwrap_err();
            let no = matches!(refused.code(), Code::PermissionDenied | Code::InvalidArgument);
            assert!(no, "{key}: {refused}");
            assert!(refused.message().contains(key), "{key}: {refused}");
        }
    }
    // One bad op and nothing of the whole is done.
    let mut both = put("node/n1", b"{\"changed\":1}", 0);
    both.ops.extend(put("node/n2", b"{}", 0).ops);
    store.commit(both).await.unwrap_err();
    let reply = store
        .get(GetRequest {
            key: "node/n1".into(),
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(reply.entry.unwrap().value, b"{}");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_read_by_nobody() {
    let bed = Bed::start().await;
    let mut store = StoreClient::new(as_node(&bed, "n1").await);
    for key in ["user/admin", "audit/0000000001", "config/secret", "user/"] {
        let refused = store.get(GetRequest { key: key.into() }).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{key}: {refused}");
    }
    let secret = |key: &str| key.starts_with("user/") || key.starts_with("audit/");
    for prefix in ["", "u", "user/", "audit/", "a"] {
        let list = store
            .list(ListRequest {
                prefix: prefix.into(),
            })
            .await
            .unwrap()
            .into_inner();
        assert!(list.entries.iter().all(|entry| !secret(&entry.key)), "{prefix}");
        let mut watch = store
            .watch(WatchRequest {
                prefix: prefix.into(),
                from: 0,
            })
            .await
            .unwrap()
            .into_inner();
        let first = watch.next().await.unwrap().unwrap();
        let entries = first.resync.unwrap().entries;
        assert!(entries.iter().all(|entry| !secret(&entry.key)), "{prefix}");
        // A change of the audit log and of a group: only the group comes through.
        let name = format!("g{}x", prefix.len() + usize::from(prefix.starts_with('a')) * 10);
        let body =
            json!({"config": {"name": name, "criteria": [{"key": "image", "value": "web", "op": "="}]}});
        assert_eq!(
            bed.call(Method::POST, "/v1/group", Some(body)).await.0,
            StatusCode::OK
        );
        if prefix.is_empty() {
            let wanted = format!("policy/group/{name}");
            let changed = async {
                loop {
                    for change in watch.next().await.unwrap().unwrap().changes {
                        let key = match change.change.unwrap() {
                            nv_api::grpc::change::Change::Put(entry) => entry.key,
                            nv_api::grpc::change::Change::Delete(key) => key,
                        };
                        assert!(!secret(&key), "{key}");
                        if key == wanted {
                            return;
                        }
                    }
                }
            };
            tokio::time::timeout(Duration::from_secs(10), changed)
                .await
                .unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_its_owners() {
    let bed = Bed::start().await;
    let mut one = StoreClient::new(as_node(&bed, "n1").await);
    let mut two = StoreClient::new(as_node(&bed, "n2").await);
    let lease = one
        .lease_grant(LeaseGrantRequest { ttl_ms: 60_000 })
        .await
        .unwrap()
        .into_inner()
        .id;
    one.commit(put("node/n1", b"{}", lease)).await.unwrap();
    for refused in [
        two.lease_revoke(LeaseId { id: lease }).await.unwrap_err(),
        two.lease_keep_alive(LeaseId { id: lease }).await.unwrap_err(),
        two.commit(put("node/n2", b"{}", lease)).await.unwrap_err(),
    ] {
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    }
    one.lease_keep_alive(LeaseId { id: lease }).await.unwrap();
    one.lease_revoke(LeaseId { id: lease }).await.unwrap();
    let gone = one
        .get(GetRequest {
            key: "node/n1".into(),
        })
        .await
        .unwrap()
        .into_inner();
    assert!(gone.entry.is_none());
    // Bounded.
    let refused = loop {
        match two.lease_grant(LeaseGrantRequest { ttl_ms: 60_000 }).await {
            Ok(_) => {}
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    one.lease_grant(LeaseGrantRequest { ttl_ms: 60_000 })
        .await
        .unwrap();
}

fn request(token: &str, node: &str) -> (JoinRequest, rcgen::KeyPair) {
    let key = rcgen::KeyPair::generate().unwrap();
    // Names of the request's own must not get into the certificate.
    let params = rcgen::CertificateParams::new(vec![nv_api::CONTROLLER_NAME.to_owned()]).unwrap();
    let csr_pem = params.serialize_request(&key).unwrap().pem().unwrap();
    let request = JoinRequest {
        token: token.to_owned(),
        node: node.to_owned(),
        csr_pem,
    };
    (request, key)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_token_is_good_once_and_for_one_node() {
    let bed = Bed::start().await;
    let mut enroll = EnrollClient::new(channel(&bed, None).await.unwrap());
    let token = bed.handle.join_token(&node("n9")).unwrap();
    for (token, name) in [
        ("guess", "n9"),
        ("", "n9"),
        (token.as_str(), "n8"),
        ("../../ca.key", "n9"),
    ] {
        let refused = enroll.join(request(token, name).0).await.unwrap_err();
        assert_eq!(
            refused.code(),
            Code::PermissionDenied,
            "{token} {name}: {refused}"
        );
    }
    let refused = enroll.join(request(&token, "no/such name").0).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(
        bed.handle.join_token(&node("controller")).is_err(),
        "the controller's own name"
    );

    let (good, key) = request(&token, "n9");
    let reply = enroll.join(good).await.unwrap().into_inner();
    assert_eq!(reply.ca_pem, bed.handle.ca_pem());
    let mut store = StoreClient::new(
        channel(&bed, Some((&reply.certificate_pem, &key.serialize_pem())))
            .await
            .unwrap(),
    );
    store.commit(put("node/n9", b"{}", 0)).await.unwrap();
    assert_eq!(
        store.commit(put("node/n1", b"{}", 0)).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    let refused = enroll.join(request(&token, "n9").0).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "a second time: {refused}");
    // An agent is no server of the controller's name.
    let (_, der) = x509_parser::pem::parse_x509_pem(reply.certificate_pem.as_bytes()).unwrap();
    let certificate = der.parse_x509().unwrap();
    let names = certificate
        .subject_alternative_name()
        .unwrap()
        .unwrap()
        .value
        .general_names
        .clone();
    assert!(
        !format!("{names:?}").contains(nv_api::CONTROLLER_NAME),
        "{names:?}"
    );
}

/// A flow from `web` to `app`, seen by the client's side.
fn flow(port: u16, client_port: u16, verdict: Verdict, reason: Reason) -> FlowRecord {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let now = Timestamp(u64::try_from(now.as_nanos()).unwrap());
    FlowRecord {
        node: node("n1"),
        workload: "web".parse().unwrap(),
        direction: Direction::Egress,
        tuple: FiveTuple {
            proto: IpProto::TCP,
            client: "10.0.0.2".parse().unwrap(),
            client_port,
            server: "10.0.0.3".parse().unwrap(),
            server_port: port,
        },
        client: Peer::Workload("web".parse().unwrap()),
        server: Peer::Workload("app".parse().unwrap()),
        application: None,
        decision: Decision {
            verdict,
            reason,
            rule: RuleId::IMPLICIT,
        },
        state: FlowState::Closed,
        packets_to_server: 5,
        packets_to_client: 4,
        bytes_to_server: 500,
        bytes_to_client: 400,
        first_seen: now,
        last_seen: now,
    }
}

fn batch(records: &[FlowRecord]) -> FlowBatch {
    FlowBatch {
        node: "n1".into(),
        sequence: 1,
        records_json: records
            .iter()
            .map(|record| serde_json::to_string(record).unwrap())
            .collect(),
        lost: std::collections::HashMap::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_agents_report_is_seen_over_rest() {
    let bed = Bed::start().await;
    let agent = as_node(&bed, "n1").await;
    let mut store = StoreClient::new(agent.clone());
    put_workload(&mut store, &workload("web", "n1", 2)).await;
    put_workload(&mut store, &workload("app", "n1", 3)).await;
    wait_for(&bed, "/v1/service", "the services", |answer| {
        ["nv.web", "nv.app"]
            .iter()
            .all(|name| answer.to_string().contains(name))
    })
    .await;

    // Followed from now on.
    let answer = bed
        .raw(
            Method::GET,
            "/v1/flow?follow=true&port=8080",
            Some(&bed.token),
            None,
        )
        .await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut events = answer.bytes_stream();

    let mut report = ReportClient::new(agent.clone());
    let learned = flow(8080, 40_000, Verdict::Allow, Reason::Default);
    let denied = flow(9090, 40_001, Verdict::Deny, Reason::Default);
    let taken = report
        .flows(batch(&[learned, denied]))
        .await
        .unwrap()
        .into_inner()
        .taken;
    assert_eq!(taken, 2);
    let followed = async {
        let mut text = String::new();
        while !text.contains("\n\n") || !text.contains("8080") {
            text.push_str(std::str::from_utf8(&events.next().await.unwrap().unwrap()).unwrap());
        }
        text
    };
    let text = tokio::time::timeout(Duration::from_secs(10), followed)
        .await
        .unwrap();
    assert!(text.contains("id:") && !text.contains("9090"), "{text}");

    let flows = wait_for(&bed, "/v1/flow?verdict=deny", "the denied flow", |answer| {
        answer["flows"].as_array().unwrap().len() == 1
    })
    .await;
    assert!(flows["flows"][0].to_string().contains("9090"), "{flows}");
    let talk = wait_for(&bed, "/v1/conversation", "the conversation", |answer| {
        !answer["conversations"].as_array().unwrap().is_empty()
    })
    .await;
    assert_eq!(talk["conversations"][0]["from"], "web");
    assert_eq!(talk["conversations"][0]["to"], "app");
    let logged = wait_for(&bed, "/v1/log/violation", "the violation", |answer| {
        answer["violations"].as_array().unwrap().len() == 1
    })
    .await;
    assert_eq!(logged["violations"][0]["server_port"], 9090);
    let rules = wait_for(&bed, "/v1/policy/rule", "the learned rule", |answer| {
        answer["rules"].as_array().unwrap().len() == 1
    })
    .await;
    assert_eq!(rules["rules"][0]["cfg_type"], "learned");
    assert_eq!(rules["rules"][0]["from"], "nv.web");
    assert!(
        rules.to_string().contains("8080") && !rules.to_string().contains("9090"),
        "{rules}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_is_counted() {
    let bed = Bed::start().await;
    let mut report = ReportClient::new(as_node(&bed, "n1").await);
    let mut strange = flow(80, 1, Verdict::Allow, Reason::Default);
    strange.node = node("n2");
    let mut mixed = batch(&[flow(80, 2, Verdict::Allow, Reason::Default), strange]);
    mixed
        .records_json
        .extend(["{".to_owned(), "null".to_owned(), "x".repeat(100_000)]);
    mixed.lost.insert("kernel_ring".into(), 7);
    mixed.lost.insert("made up".into(), 3);
    mixed.lost.insert("and another".into(), u64::MAX);
    assert_eq!(report.flows(mixed).await.unwrap().into_inner().taken, 1);
    let (_, answer) = bed.call(Method::GET, "/v1/flow", None).await;
    let lost = &answer["lost_by_stage"];
    assert_eq!(lost["controller_refused"], 4, "{lost}");
    assert_eq!(lost["kernel_ring"], 7, "{lost}");
    assert_eq!(lost["agent_other"], u64::MAX, "{lost}");
    let agents = lost
        .as_object()
        .unwrap()
        .keys()
        .filter(|stage| !stage.starts_with("controller_"));
    assert_eq!(agents.count(), 2, "no stage that an agent made up: {lost}");
    // More than a batch holds.
    let one = serde_json::to_string(&flow(80, 3, Verdict::Allow, Reason::Default)).unwrap();
    let many = FlowBatch {
        records_json: vec![one; 10_100],
        ..batch(&[])
    };
    assert_eq!(report.flows(many).await.unwrap().into_inner().taken, 10_000);
    let (_, answer) = bed.call(Method::GET, "/v1/flow", None).await;
    assert_eq!(answer["lost_by_stage"]["controller_refused"], 104);
    // A message beyond the limit is refused, and the connection goes on.
    let huge = FlowBatch {
        records_json: vec!["x".repeat(nv_api::MAX_MESSAGE + 1)],
        ..batch(&[])
    };
    assert!(report.flows(huge).await.is_err());
    assert_eq!(report.flows(batch(&[])).await.unwrap().into_inner().taken, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_does_not_read_is_told_of_the_gap() {
    let bed = Bed::start().await;
    let agent = as_node(&bed, "n1").await;
    let mut report = ReportClient::new(agent);
    let mut port = 0;
    // More than the ring of recent flows holds, between two looks of a reader at an old place.
    for _ in 0..8 {
        let records: Vec<_> = (0..5000)
            .map(|_| {
                port += 1;
                flow(
                    u16::try_from(port % 60_000 + 1).unwrap(),
                    u16::try_from(port / 60_000 + 1).unwrap(),
                    Verdict::Deny,
                    Reason::Default,
                )
            })
            .collect();
        report.flows(batch(&records)).await.unwrap();
    }
    let answer = bed
        .raw(
            Method::GET,
            "/v1/flow?follow=true&after=1",
            Some(&bed.token),
            None,
        )
        .await;
    let mut events = answer.bytes_stream();
    let first = tokio::time::timeout(Duration::from_secs(10), events.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let text = String::from_utf8_lossy(&first);
    assert!(text.contains("event: gap") && text.contains("missed"), "{text}");
}
