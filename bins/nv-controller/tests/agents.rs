//! What becomes of what agents say, through real mutual TLS: edges of what they may touch, garbage, floods, followers that do not read.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(unused_crate_dependencies, reason = "the package's other targets use them")]

mod common;

use std::fs;
use std::time::{Duration, Instant, SystemTime};

use common::{Bed, flow, json_of};
use nv_api::grpc::{
    self, GetRequest, JoinRequest, ListRequest, WatchReply, WatchRequest, enroll_client::EnrollClient,
    store_client::StoreClient,
};
use nv_types::{Decision, Reason, RuleId, Verdict};
use rcgen::{CertificateParams, DnType, KeyPair};
use reqwest::{Method, StatusCode};
use serde_json::json;
use tonic::transport::Channel;
use tonic::{Code, Status};

const LEARN: Decision = Decision::implicit(Verdict::Allow, Reason::Default);

async fn list(channel: Channel, prefix: &str) -> Result<Vec<String>, Status> {
    let request = ListRequest {
        prefix: prefix.to_owned(),
    };
    let reply = StoreClient::new(channel).list(request).await?.into_inner();
    Ok(reply.entries.into_iter().map(|entry| entry.key).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_writes_its_own_keys_only() {
    let bed = Bed::start().await;
    let (one, two) = (bed.agent("one"), bed.agent("two"));
    one.put_workload("web", "10.0.0.2").await;
    let theirs = two.put_workload("app", "10.0.0.3").await;
    for key in [
        "workload/two/id-app",
        "workload/onerous/x",
        "node/two",
        "node/one/more",
        "policy/order",
        "policy/mode/nodes",
        "config/policy",
        "user/admin",
        "audit/000000000001",
        "identity/x",
        "capture/x",
        "workload/",
    ] {
        let delete = grpc::op::Op::Delete(key.to_owned());
        for refused in [one.put(key, b"{}".to_vec(), 0).await, one.commit(delete).await] {
            let refused = refused.unwrap_err();
            assert_eq!(refused.code(), Code::PermissionDenied, "{key}: {refused}");
            assert!(refused.message().contains(&format!("'{key}'")), "{refused}");
            assert!(refused.message().contains("'one'"), "{refused}");
        }
    }
    // One bad key takes the good ones of its transaction with it.
    let put = |key: &str| grpc::Op {
        op: Some(grpc::op::Op::Put(grpc::Put {
            key: key.to_owned(),
            value: b"{}".to_vec(),
            lease: 0,
        })),
    };
    let both = grpc::CommitRequest {
        conditions: Vec::new(),
        ops: vec![put("workload/one/new"), put("workload/two/new")],
    };
    assert_eq!(
        one.store().commit(both).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    assert_eq!(
        list(one.channel.clone(), "workload/").await.unwrap(),
        ["workload/one/id-web", "workload/two/id-app"]
    );
    let (_, answer) = bed
        .call(Method::GET, &format!("/v1/workload/{}", theirs.id), None)
        .await;
    assert_eq!(answer["workload"]["host_id"], "two");
}

/// Keys of a watch's message.
fn keys_of(reply: &WatchReply) -> Vec<String> {
    let snapshot = reply.resync.iter().flat_map(|state| &state.entries);
    let changes = reply.changes.iter().filter_map(|change| change.change.as_ref());
    snapshot
        .map(|entry| entry.key.clone())
        .chain(changes.map(|change| match change {
            grpc::change::Change::Put(entry) => entry.key.clone(),
            grpc::change::Change::Delete(key) => key.clone(),
        }))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_unreadable() {
    let bed = Bed::start().await;
    let agent = bed.agent("one");
    let group =
        json!({"config": {"name": "before", "criteria": [{"key": "image", "value": "x", "op": "="}]}});
    bed.call(Method::POST, "/v1/group", Some(group)).await;
    for key in [
        "user/admin",
        "audit/000000000001",
        "capture/1",
        "config/other",
        "ca.key",
        "config/policy.key",
    ] {
        let request = GetRequest { key: key.to_owned() };
        let refused = agent.store().get(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{key}");
        assert!(refused.message().contains(key), "{refused}");
    }
    for prefix in ["", "u", "user/", "user/admin", "audit/", "a", "c"] {
        let seen = list(agent.channel.clone(), prefix).await.unwrap();
        let secret = seen.iter().find(|key| !key.starts_with("policy/"));
        assert_eq!(secret, None, "list of '{prefix}'");
    }
    // A condition would tell whether a key is there.
    let probe = grpc::CommitRequest {
        conditions: vec![grpc::Condition {
            key: "user/admin".into(),
            expect: Some(grpc::condition::Expect::Absent(grpc::Empty {})),
        }],
        ops: Vec::new(),
    };
    assert_eq!(
        agent.store().commit(probe).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    // Watches: the snapshot, and changes after it (each change over REST writes an audit entry in the same revision).
    let watch = async |prefix: &str| {
        let request = WatchRequest {
            prefix: prefix.to_owned(),
            from: 0,
        };
        agent.store().watch(request).await.unwrap().into_inner()
    };
    let (mut all, mut users, mut audit) = (watch("").await, watch("user/").await, watch("audit/").await);
    let first = all.message().await.unwrap().unwrap();
    assert_eq!(keys_of(&first), ["policy/group/before"]);
    assert!(keys_of(&users.message().await.unwrap().unwrap()).is_empty());
    assert!(keys_of(&audit.message().await.unwrap().unwrap()).is_empty());
    for name in ["n1", "n2"] {
        let group =
            json!({"config": {"name": name, "criteria": [{"key": "image", "value": "x", "op": "="}]}});
        bed.call(Method::POST, "/v1/group", Some(group)).await;
    }
    let mut seen = Vec::new();
    while !seen.contains(&"policy/group/n2".to_owned()) {
        seen.extend(keys_of(&all.message().await.unwrap().unwrap()));
    }
    assert_eq!(seen, ["policy/group/n1", "policy/group/n2"]);
    for (name, watch) in [("user/", &mut users), ("audit/", &mut audit)] {
        let told = tokio::time::timeout(Duration::from_millis(200), watch.message()).await;
        assert!(told.is_err(), "{name} told {told:?}");
    }
}

fn request(key: &KeyPair, named: &str) -> String {
    let mut params = CertificateParams::new(vec![nv_api::CONTROLLER_NAME.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, named);
    params.serialize_request(key).unwrap().pem().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_token_and_the_controllers_name_do_not_join() {
    let bed = Bed::start().await;
    let token = bed.handle.join_token(&"late".parse().unwrap()).unwrap();
    let two_days_ago = SystemTime::now() - Duration::from_secs(2 * 86_400);
    for file in fs::read_dir(bed.folder.path().join("join")).unwrap() {
        let file = fs::File::options()
            .write(true)
            .open(file.unwrap().path())
            .unwrap();
        file.set_modified(two_days_ago).unwrap();
    }
    let key = KeyPair::generate().unwrap();
    let request = JoinRequest {
        token,
        node: "late".into(),
        csr_pem: request(&key, "late"),
    };
    let refused = EnrollClient::new(bed.channel(None))
        .join(request)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let error = bed.handle.join_token(&"controller".parse().unwrap()).unwrap_err();
    assert!(error.to_string().contains("'controller'"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_makes_its_service() {
    let bed = Bed::start().await;
    let agent = bed.agent("one");
    agent.put_workload("web", "10.0.0.2").await;
    let answer = bed
        .until("/v1/service", |answer| answer["services"][0]["name"] == "nv.web")
        .await;
    let service = &answer["services"][0];
    assert_eq!(service["policy_mode"], "Discover");
    assert_eq!(service["members"][0]["id"], "id-web");
    let (_, group) = bed.call(Method::GET, "/v1/group/nv.web", None).await;
    assert_eq!(
        (&group["group"]["learned"], &group["group"]["cfg_type"]),
        (&true.into(), &"learned".into())
    );
    // A value that cannot be used is told, and the rest goes on.
    agent
        .put("workload/one/bad", b"no json".to_vec(), 0)
        .await
        .unwrap();
    let key = "workload/one/other".to_owned();
    let lie = nv_policy::encode(&key, &common::workload("two", "other", "10.0.0.9")).unwrap();
    agent.put(&key, lie, 0).await.unwrap();
    let text = async || {
        let answer = bed.raw(Method::GET, "/metrics", Some(&bed.token), None).await;
        answer.text().await.unwrap()
    };
    while !text().await.contains("nv_bad_values 2") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (_, answer) = bed.call(Method::GET, "/v1/workload", None).await;
    assert_eq!(answer["workloads"].as_array().unwrap().len(), 1);
    // Gone is gone; the service's group stays, with its mode and rules.
    let delete = grpc::op::Op::Delete("workload/one/id-web".into());
    agent.commit(delete).await.unwrap();
    bed.until("/v1/workload", |answer| answer["workloads"] == json!([]))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_rule_allows_is_a_violation() {
    let bed = Bed::start().await;
    let agent = bed.agent("one");
    let web = agent.put_workload("web", "10.0.0.2").await;
    let db = agent.put_workload("db", "10.0.0.4").await;
    bed.until("/v1/service", |answer| {
        answer["services"].as_array().unwrap().len() == 2
    })
    .await;
    let ends = [
        ("Monitor", Verdict::Alert, "violate", "Warning"),
        ("Protect", Verdict::Deny, "deny", "Critical"),
    ];
    for (at, (mode, verdict, action, level)) in ends.into_iter().enumerate() {
        let body = json!({"config": {"services": ["nv.db"], "policy_mode": mode}});
        assert_eq!(
            bed.call(Method::PATCH, "/v1/service/config", Some(body)).await.0,
            StatusCode::OK
        );
        let (_, explained) = bed
            .call(Method::GET, "/v1/explain?from=web&to=db&port=tcp/8080", None)
            .await;
        assert_eq!(explained["explain"]["verdict"], verdict.name(), "{explained}");
        assert_eq!(explained["explain"]["mode"], mode);
        let port = 41_000 + u16::try_from(at).unwrap();
        let record = flow(&web, &db, port, Decision::implicit(verdict, Reason::Default));
        agent.report(vec![json_of(&record)], &[]).await.unwrap();
        let (_, log) = bed.call(Method::GET, "/v1/log/violation", None).await;
        let newest = &log["violations"][0];
        assert_eq!(
            (
                &newest["policy_action"],
                &newest["level"],
                &newest["policy_id"],
                &newest["server_port"]
            ),
            (&action.into(), &level.into(), &0.into(), &8080.into()),
            "{log}"
        );
        assert_eq!(
            (&newest["client_id"], &newest["server_service"]),
            (&"id-web".into(), &"nv.db".into())
        );
        assert_eq!(log["violations"].as_array().unwrap().len(), at + 1);
    }
    // Nothing that was reported is learned.
    tokio::time::sleep(Duration::from_millis(700)).await;
    let (_, rules) = bed.call(Method::GET, "/v1/policy/rule", None).await;
    assert_eq!(rules["rules"], json!([]));
    // By a rule of the user's, it says so.
    let deny = json!({"insert": {"rules": [{"id": 9, "from": "nv.web", "to": "nv.db", "ports": "any", "action": "deny"}]}});
    assert_eq!(
        bed.call(Method::PATCH, "/v1/policy/rule", Some(deny)).await.0,
        StatusCode::OK
    );
    let ruled = Decision {
        verdict: Verdict::Deny,
        reason: Reason::Rule,
        rule: RuleId(9),
    };
    agent
        .report(vec![json_of(&flow(&web, &db, 42_000, ruled))], &[])
        .await
        .unwrap();
    let (_, log) = bed.call(Method::GET, "/v1/log/violation", None).await;
    assert_eq!(
        (
            &log["violations"][0]["policy_id"],
            &log["violations"][0]["reason"]
        ),
        (&9.into(), &"rule".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_counted_and_too_much_is_refused() {
    let bed = Bed::start().await;
    let agent = bed.agent("one");
    let web = agent.put_workload("web", "10.0.0.2").await;
    let good = flow(&web, &web, 40_000, LEARN);
    let mut foreign = good.clone();
    foreign.node = "two".parse().unwrap();
    let mut huge = good.clone();
    huge.tuple.client_port = 40_001;
    huge.bytes_to_client = u64::MAX;
    huge.bytes_to_server = u64::MAX;
    let batch = vec![
        "no json".into(),
        "{}".into(),
        json_of(&foreign),
        json_of(&good),
        json_of(&huge),
        "\u{0}".repeat(1000),
    ];
    let lost = [
        ("agent_report_queue", 3),
        ("made up", u64::MAX),
        ("and another", u64::MAX),
    ];
    assert_eq!(agent.report(batch, &lost).await.unwrap(), 2);
    let (_, flows) = bed.call(Method::GET, "/v1/flow", None).await;
    assert_eq!(flows["flows"].as_array().unwrap().len(), 2);
    let lost = &flows["lost_by_stage"];
    assert_eq!(
        (&lost["controller_refused"], &lost["agent_report_queue"]),
        (&4.into(), &3.into())
    );
    assert_eq!(lost["agent_other"], u64::MAX);
    assert!(lost.get("made up").is_none(), "an agent cannot make up counters");
    // Sums stay at the largest number.
    agent
        .report(vec![json_of(&huge)], &[("made up", u64::MAX)])
        .await
        .unwrap();
    let (status, _) = bed.call(Method::GET, "/v1/conversation", None).await;
    assert_eq!(status, StatusCode::OK);
    // More records than a batch may have: the rest is counted.
    let many = (0..10_050).map(|_| json_of(&good)).collect();
    assert_eq!(agent.report(many, &[]).await.unwrap(), 10_000);
    let (_, flows) = bed.call(Method::GET, "/v1/flow?limit=1", None).await;
    assert_eq!(flows["lost_by_stage"]["controller_refused"], 54);
    // More bytes than a message may have: refused before it is in memory.
    let large = vec!["x".repeat(nv_api::MAX_MESSAGE + 1)];
    let refused = agent.report(large, &[]).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    let large = agent
        .put("workload/one/x", vec![b' '; nv_store::MAX_VALUE + 1], 0)
        .await
        .unwrap_err();
    assert_eq!(large.code(), Code::InvalidArgument);
    assert!(large.message().contains("workload/one/x"), "{large}");
    let empty = grpc::CommitRequest {
        conditions: Vec::new(),
        ops: vec![grpc::Op { op: None }],
    };
    let refused = agent.store().commit(empty).await.unwrap_err();
    assert!(refused.message().contains("ops.op"), "{refused}");
    // And it still serves.
    assert_eq!(agent.report(vec![json_of(&good)], &[]).await.unwrap(), 1);
}

/// Reads server-sent events.
struct Events {
    answer: reqwest::Response,
    text: String,
}

impl Events {
    async fn open(bed: &Bed, query: &str) -> Self {
        let path = format!("/v1/flow?follow=true{query}");
        let answer = bed.raw(Method::GET, &path, Some(&bed.token), None).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self {
            answer,
            text: String::new(),
        }
    }

    /// Name and data of the next event; `None` at the end.
    async fn next(&mut self) -> Option<(String, String)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
                let found = field("data: ")
                    .map(|data| (field("event: ").unwrap_or("message").to_owned(), data.to_owned()));
                self.text = rest.to_owned();
                if found.is_some() {
                    return found;
                }
                continue;
            }
            let chunk = tokio::time::timeout(Duration::from_secs(30), self.answer.chunk())
                .await
                .unwrap();
            self.text.push_str(std::str::from_utf8(&chunk.ok()??).unwrap());
        }
    }
}

fn missed(data: &str) -> u64 {
    data.split(' ').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_get_each_flow_or_are_told_of_a_gap() {
    let bed = Bed::start().await;
    let agent = bed.agent("one");
    let web = agent.put_workload("web", "10.0.0.2").await;
    let app = agent.put_workload("app", "10.0.0.3").await;
    bed.until("/v1/workload", |answer| {
        answer["workloads"].as_array().unwrap().len() == 2
    })
    .await;
    let mut live = Events::open(&bed, "").await;
    let mut denied = Events::open(&bed, "&verdict=deny").await;
    agent
        .report(vec![json_of(&flow(&web, &app, 1, LEARN))], &[])
        .await
        .unwrap();
    let (name, data) = live.next().await.unwrap();
    let seen: serde_json::Value = serde_json::from_str(&data).unwrap();
    assert_eq!(
        (name.as_str(), &seen["client_port"], &seen["sequence"]),
        ("message", &1.into(), &1.into())
    );
    let deny = Decision::implicit(Verdict::Deny, Reason::Default);
    agent
        .report(vec![json_of(&flow(&web, &app, 2, deny))], &[])
        .await
        .unwrap();
    let seen: serde_json::Value = serde_json::from_str(&denied.next().await.unwrap().1).unwrap();
    assert_eq!(seen["client_port"], 2, "only what the filter lets through");
    drop((live, denied));
    // A follower that does not read, while more flows come than are kept.
    let mut slow = Events::open(&bed, "&after=2").await;
    let total: u64 = 30_000;
    for batch in 0..3_u16 {
        let records = (0..10_000).map(|at| json_of(&flow(&web, &app, 1000 + batch * 10_000 + at, LEARN)));
        agent.report(records.collect(), &[]).await.unwrap();
        assert_eq!(bed.call(Method::GET, "/healthz", None).await.0, StatusCode::OK);
    }
    let (mut flows, mut gaps, mut last) = (0, 0, 2);
    while last < total + 2 {
        let (name, data) = slow.next().await.unwrap();
        if name == "gap" {
            gaps += missed(&data);
            continue;
        }
        let seen: serde_json::Value = serde_json::from_str(&data).unwrap();
        let sequence = seen["sequence"].as_u64().unwrap();
        assert!(sequence > last, "in order, each once");
        (flows, last) = (flows + 1, sequence);
    }
    assert_eq!(flows + gaps, total, "every flow came or was counted");
    // Who asks for what has been overwritten is told at once.
    let mut late = Events::open(&bed, "&after=0").await;
    let (name, data) = late.next().await.unwrap();
    assert_eq!((name.as_str(), missed(&data)), ("gap", total + 2 - 20_000));
    // The end of the controller ends the stream, and nothing holds the store any more.
    bed.stop.cancel();
    bed.handle.wait().await;
    while late.next().await.is_some() {}
    let path = bed.folder.path().join("store.redb");
    let end = Instant::now() + Duration::from_secs(10);
    while let Err(error) = nv_store::LocalStore::open(&path) {
        assert!(Instant::now() < end, "{error:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Makes a node's own entry, alive for a while.
async fn introduce(agent: &common::Agent) {
    let ttl = grpc::LeaseGrantRequest { ttl_ms: 30_000 };
    let lease = agent.store().lease_grant(ttl).await.unwrap().into_inner().id;
    let node = nv_types::Node::new(agent.node.parse().unwrap());
    let key = nv_types::keys::node(&node.id);
    agent
        .put(&key, nv_policy::encode(&key, &node).unwrap(), lease)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_of_endpoints_are_seen_over_rest_and_in_metrics() {
    let bed = Bed::start().await;
    let agents = [bed.agent("one"), bed.agent("two")];
    for agent in &agents {
        introduce(agent).await;
    }
    agents[0].put_workload("web", "10.0.0.2").await;
    bed.until("/v1/node", |answer| {
        answer["nodes"].as_array().unwrap().len() == 2
    })
    .await;
    bed.until("/v1/workload", |answer| answer["workloads"][0]["name"] == "web")
        .await;
    let told = |node: &str, denied: u64| {
        json!({"node": node, "ifindex": 7, "name": "veth7", "workload": "id-web", "addresses": ["10.0.0.2"], "mode": "Protect",
            "ingress": {"packets": denied + 5, "bytes": 900, "flows": 2, "allowed": 4, "alerted": 1, "denied": denied,
                "by_reason": {"default": denied, "made_up": 9}},
            "egress": {"packets": 0, "bytes": 0, "flows": 0, "allowed": 0, "alerted": 0, "denied": 0, "by_reason": {}}})
        .to_string()
    };
    for (agent, denied) in [(&agents[0], 1), (&agents[0], 3), (&agents[1], 10)] {
        let mut client = grpc::report_client::ReportClient::new(agent.channel.clone());
        // Whoever is named, it is the caller's; what is no endpoint is left out.
        let endpoints_json = vec![told("one", denied), "{}".into(), "[".into()];
        client
            .endpoints(grpc::EndpointBatch { endpoints_json })
            .await
            .unwrap();
    }
    let (status, answer) = bed.call(Method::GET, "/v1/endpoint", None).await;
    assert_eq!(status, StatusCode::OK);
    let seen: Vec<_> = answer["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            (
                one["node"].as_str().unwrap(),
                one["ingress"]["denied"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(seen, [("one", 3), ("two", 10)], "the last word of each node");
    let first = &answer["endpoints"][0];
    assert_eq!(first["workload_name"], "web");
    assert_eq!(
        first["ingress"]["by_reason"],
        json!({"default": 3}),
        "only reasons that there are"
    );
    assert!(first["reported_at"].as_u64().unwrap() > 1_700_000_000);
    let metrics = bed.raw(Method::GET, "/metrics", Some(&bed.token), None).await;
    let metrics = metrics.text().await.unwrap();
    for line in [
        "nv_dp_packets{node=\"one\",direction=\"ingress\",verdict=\"deny\"} 3",
        "nv_dp_packets{node=\"two\",direction=\"ingress\",verdict=\"alert\"} 1",
        "nv_dp_reasons{node=\"two\",direction=\"ingress\",reason=\"default\"} 10",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    // Not without a session.
    let refused = bed.raw(Method::GET, "/v1/endpoint", None, None).await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
}
