//! Changes over REST: patches, places in the list, settings, what a change is based on, the audit log, starts that cannot be.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(unused_crate_dependencies, reason = "the package's other targets use them")]

mod common;

use common::{Bed, config};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

fn group(name: &str, image: &str) -> Value {
    json!({"config": {"name": name, "criteria": [{"key": "image", "value": image, "op": "="}]}})
}

fn rule(id: u32) -> Value {
    json!({"id": id, "from": "a", "to": "external", "ports": "tcp/80", "applications": ["any"], "action": "allow"})
}

impl Bed {
    async fn done(&self, method: Method, path: &str, body: Value) -> Value {
        let (status, answer) = self.call(method.clone(), path, Some(body)).await;
        assert_eq!(status, StatusCode::OK, "{method} {path}: {answer}");
        answer
    }

    async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.call(Method::GET, path, None).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        answer
    }

    async fn order(&self) -> Vec<u64> {
        let list = self.get("/v1/policy/rule").await;
        let rules = list["rules"].as_array().unwrap();
        rules.iter().map(|rule| rule["id"].as_u64().unwrap()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_changes_what_it_names() {
    let bed = Bed::start().await;
    bed.done(Method::POST, "/v1/group", group("a", "web")).await;
    let patch = json!({"config": {"name": "a", "comment": "front"}});
    bed.done(Method::PATCH, "/v1/group/a", patch).await;
    let answer = bed.get("/v1/group/a").await;
    assert_eq!(answer["group"]["comment"], "front");
    assert_eq!(
        answer["group"]["criteria"][0]["value"], "web",
        "what is not named stays"
    );
    let patch =
        json!({"config": {"name": "a", "criteria": [{"key": "image", "value": "nginx", "op": "prefix"}]}});
    bed.done(Method::PATCH, "/v1/group/a", patch).await;
    let answer = bed.get("/v1/group/a").await;
    assert_eq!(answer["group"]["criteria"][0]["op"], "prefix");
    assert_eq!(answer["group"]["comment"], "front");
    let (status, answer) = bed
        .call(
            Method::PATCH,
            "/v1/group/nosuch",
            Some(json!({"config": {"name": "nosuch"}})),
        )
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(answer["message"].as_str().unwrap().contains("nosuch"), "{answer}");

    bed.done(
        Method::PATCH,
        "/v1/policy/rule",
        json!({"insert": {"rules": [rule(5)]}}),
    )
    .await;
    let patch = json!({"config": {"id": 5, "ports": "tcp/443,udp/53", "action": "deny", "disable": true}});
    bed.done(Method::PATCH, "/v1/policy/rule/5", patch).await;
    let answer = bed.get("/v1/policy/rule/5").await;
    assert_eq!(answer["rule"]["ports"], "tcp/443,udp/53");
    assert_eq!(
        (&answer["rule"]["action"], &answer["rule"]["disable"]),
        (&json!("deny"), &json!(true))
    );
    assert_eq!(answer["rule"]["from"], "a", "what is not named stays");
    for (patch, says) in [
        (json!({"config": {"id": 5, "ports": "tcp/0x50"}}), "ports"),
        (json!({"config": {"id": 5, "to": "nobody"}}), "nobody"),
        (json!({"config": {"id": 5, "applications": ["Gopher"]}}), "Gopher"),
        (json!({"config": {"id": 5, "colour": "red"}}), "colour"),
    ] {
        let (status, answer) = bed.call(Method::PATCH, "/v1/policy/rule/5", Some(patch)).await;
        assert!(status.is_client_error(), "{answer}");
        assert!(answer["message"].as_str().unwrap().contains(says), "{answer}");
    }
    assert_eq!(
        bed.get("/v1/policy/rule/5").await,
        answer,
        "nothing of a bad patch is done"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_put_where_neuvector_puts_them() {
    let bed = Bed::start().await;
    bed.done(Method::POST, "/v1/group", group("a", "web")).await;
    let insert = |after: Option<i64>, id| match after {
        Some(after) => json!({"insert": {"after": after, "rules": [rule(id)]}}),
        None => json!({"insert": {"rules": [rule(id)]}}),
    };
    for (after, id, order) in [
        (None, 10, vec![10]),
        (None, 20, vec![10, 20]),
        (Some(0), 1, vec![1, 10, 20]),
        (Some(10), 15, vec![1, 10, 15, 20]),
        (Some(-20), 19, vec![1, 10, 15, 19, 20]),
        (Some(-1), 2, vec![2, 1, 10, 15, 19, 20]),
    ] {
        bed.done(Method::PATCH, "/v1/policy/rule", insert(after, id))
            .await;
        assert_eq!(bed.order().await, order, "{id} after {after:?}");
    }
    bed.done(
        Method::PATCH,
        "/v1/policy/rule",
        json!({"move": {"id": 20, "after": 0}}),
    )
    .await;
    assert_eq!(bed.order().await, [20, 2, 1, 10, 15, 19]);
    let (status, answer) = bed
        .call(Method::PATCH, "/v1/policy/rule", Some(insert(None, 10)))
        .await;
    assert!(status.is_client_error(), "a number twice");
    assert!(answer["message"].as_str().unwrap().contains("10"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_may_say_what_it_is_based_on() {
    let bed = Bed::start().await;
    let read = bed.raw(Method::GET, "/v1/group", Some(&bed.token), None).await;
    let seen = read.headers()["x-nv-revision"].to_str().unwrap().to_owned();
    bed.done(Method::POST, "/v1/group", group("a", "web")).await;
    let change = async |path: &str, comment: &str, revision: &str| {
        let name = path.rsplit('/').next().unwrap();
        bed.client
            .patch(format!("https://{}{path}", bed.handle.rest()))
            .header("X-Auth-Token", &bed.token)
            .header("X-Nv-Revision", revision)
            .json(&json!({"config": {"name": name, "comment": comment}}))
            .send()
            .await
            .unwrap()
    };
    // Based on what was before the group was made.
    let stale = change("/v1/group/a", "one", &seen).await;
    assert_eq!(stale.status(), StatusCode::CONFLICT);
    let answer: Value = stale.json().await.unwrap();
    let message = answer["message"].as_str().unwrap();
    assert!(
        message.contains("policy/group/a") && message.contains(&seen),
        "{message}"
    );
    let now = bed.raw(Method::GET, "/v1/group/a", Some(&bed.token), None).await;
    let now = now.headers()["x-nv-revision"].to_str().unwrap().to_owned();
    // A change of something else is no matter.
    bed.done(Method::POST, "/v1/group", group("b", "db")).await;
    assert_eq!(change("/v1/group/a", "two", &now).await.status(), StatusCode::OK);
    assert_eq!(
        change("/v1/group/a", "three", &now).await.status(),
        StatusCode::CONFLICT
    );
    assert_eq!(
        change("/v1/group/a", "four", "yesterday").await.status(),
        StatusCode::BAD_REQUEST
    );
    assert_eq!(bed.get("/v1/group/a").await["group"]["comment"], "two");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_changed_by_name() {
    let bed = Bed::start().await;
    let apply = async |document: Value| {
        bed.call(Method::POST, "/v1/apply", Some(json!({"documents": [document]})))
            .await
    };
    let (status, answer) = apply(json!({
        "kind": "Settings", "contention": "basic", "icmp_policy": false, "unknown_endpoint": "deny", "new_service_mode": "Monitor",
        "failsafe_ports": ["tcp/22", "tcp/18400-18401"],
    }))
    .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let settings = bed.get("/v1/settings").await;
    let text = settings.to_string();
    for part in ["basic", "deny", "Monitor", "tcp/18400-18401"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    for (field, value) in [
        ("contention", json!("fair")),
        ("unknown_endpoint", json!("maybe")),
        ("new_service_mode", json!("Off")),
        ("failsafe_ports", json!(["tcp/99999"])),
        ("icmp_policy", json!("yes")),
        ("deny_response", json!("rst")),
        ("flow_share", json!(101)),
        ("idle.udp", json!(0)),
        ("colour", json!("red")),
    ] {
        let mut document = json!({"kind": "Settings"});
        match field.split_once('.') {
            Some((field, inner)) => document[field][inner] = value,
            None => document[field] = value,
        }
        let (status, answer) = apply(document).await;
        assert!(status.is_client_error(), "{field}: {answer}");
        assert!(
            answer["message"].as_str().unwrap().contains(field),
            "{field}: {answer}"
        );
    }
    assert_eq!(bed.get("/v1/settings").await, settings);
    let change = json!({"settings": {"deny_response": "reset", "flow_share": 40, "idle": {"udp": 7}}});
    bed.done(Method::PATCH, "/v1/settings", change).await;
    let now = &bed.get("/v1/settings").await["settings"];
    assert_eq!(
        (&now["deny_response"], &now["flow_share"]),
        (&json!("reset"), &json!(40))
    );
    assert_eq!(
        (&now["idle"]["udp"], &now["idle"]["tcp_active"]),
        (&json!(7), &settings["settings"]["idle"]["tcp_active"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_is_quarantined_and_let_back() {
    let bed = Bed::start().await;
    let agent = bed.agent("one");
    agent.put_workload("web", "10.0.0.2").await;
    bed.until("/v1/workload", |answer| {
        !answer["workloads"].as_array().unwrap().is_empty()
    })
    .await;
    let path = "/v1/workload/id-web";
    let before = bed.get(path).await;
    assert_eq!(
        (
            &before["workload"]["cap_quarantine"],
            &before["workload"]["state"]
        ),
        (&json!(true), &json!("discover"))
    );
    let cut = json!({"config": {"wire": "default", "quarantine": true, "quarantine_reason": "odd"}});
    bed.done(Method::PATCH, path, cut).await;
    let found = &bed.get(path).await["workload"];
    assert_eq!(
        (&found["state"], &found["quarantine_reason"]),
        (&json!("quarantined"), &json!("odd"))
    );
    let list = bed.get("/v1/quarantine").await;
    assert_eq!(list["quarantines"][0]["name"], "web", "{list}");
    let explained = bed.get("/v1/explain?from=web&to=external&port=tcp/80").await;
    assert_eq!(explained["explain"]["reason"], "quarantined", "{explained}");
    for (path, config, words) in [
        ("/v1/workload/nobody", json!({"quarantine": true}), "nobody"),
        (path, json!({"quarantine": "yes"}), "quarantine"),
        (path, json!({"quarantine": true, "colour": "red"}), "colour"),
        (path, json!({"quarantine": true, "wire": "inline"}), "config.wire"),
        (path, json!({}), "quarantine"),
    ] {
        let body = json!({ "config": config });
        let (status, answer) = bed.call(Method::PATCH, path, Some(body)).await;
        assert!(status.is_client_error(), "{answer}");
        assert!(answer["message"].as_str().unwrap().contains(words), "{answer}");
    }
    bed.done(Method::PATCH, path, json!({"config": {"quarantine": false}}))
        .await;
    assert_eq!(bed.get(path).await["workload"]["state"], "discover");
    assert_eq!(bed.get("/v1/quarantine").await["quarantines"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn domains_say_who_is_in_them_and_which_have_a_boundary() {
    let bed = Bed::start().await;
    let agent = bed.agent("one");
    for (name, domain, state, label) in [
        ("web", "shop", "running", "disabled"),
        ("app", "shop", "running", "disabled"),
        ("old", "shop", "exited", "enabled"),
        ("vault", "secret", "running", "enabled"),
        ("free", "", "running", "enabled"),
    ] {
        let mut value = serde_json::to_value(common::workload("one", name, "10.0.0.2")).unwrap();
        value["domain"] = json!(domain);
        value["state"] = json!(state);
        value["namespace_labels"] = json!({"NeuvectorNamespaceBoundary": label});
        let workload: nv_types::Workload = serde_json::from_value(value).unwrap();
        let key = nv_types::keys::workload(&workload.node, &workload.id);
        agent
            .put(&key, nv_policy::encode(&key, &workload).unwrap(), 0)
            .await
            .unwrap();
    }
    let settings = json!({"settings": {"bounded_domains": ["later"]}});
    let (status, answer) = bed.call(Method::PATCH, "/v1/settings", Some(settings)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let answer = bed
        .until("/v1/domain", |answer| {
            answer["domains"].as_array().is_some_and(|list| list.len() == 3)
                && answer["domains"][2]["workloads"] == 3
        })
        .await;
    let short = answer["domains"].as_array().unwrap().iter().map(|domain| {
        json!([
            domain["name"],
            domain["workloads"],
            domain["running_workloads"],
            domain["services"],
            domain["boundary"]
        ])
    });
    assert_eq!(
        json!(short.collect::<Vec<_>>()),
        json!([
            ["later", 0, 0, 0, true],
            ["secret", 1, 1, 1, true],
            ["shop", 3, 2, 3, false]
        ])
    );
    assert_eq!(
        answer["domains"][1]["labels"],
        json!({"NeuvectorNamespaceBoundary": "enabled"})
    );
    let one = bed.get("/v1/domain?f_name=secret").await;
    assert_eq!(one["domains"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_are_explained() {
    let bed = Bed::start().await;
    let address = json!({"config": {"name": "lan", "criteria": [{"key": "address", "value": "192.0.2.0/24", "op": "="}]}});
    bed.done(Method::POST, "/v1/group", address).await;
    let answer = bed
        .get("/v1/explain?from=192.0.2.7&to=198.51.100.1&port=tcp/80")
        .await;
    let explain = &answer["explain"];
    assert_eq!(explain["verdict"], "allow", "{answer}");
    assert_eq!(explain["reason"], "unmanaged", "{answer}");
    assert!(answer.to_string().contains("lan"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_is_a_chain_and_a_broken_one_is_told() {
    let bed = Bed::start().await;
    for name in ["a", "b", "c"] {
        bed.done(Method::POST, "/v1/group", group(name, "web")).await;
    }
    let breaks = async |bed: &Bed| {
        let answer = bed.raw(Method::GET, "/metrics", Some(&bed.token), None).await;
        let text = answer.text().await.unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with("nv_audit_breaks "))
            .unwrap()
            .to_owned();
        line.rsplit(' ').next().unwrap().parse::<u32>().unwrap()
    };
    assert_eq!(breaks(&bed).await, 0);
    bed.stop.cancel();
    bed.handle.wait().await;

    let file = bed.folder.path().join("store.redb");
    {
        use nv_store::{KvStore as _, LocalStore};
        let store = LocalStore::open(&file).unwrap();
        let entries = store.list("audit/").await.unwrap().entries;
        assert!(entries.len() >= 3, "{}", entries.len());
        let mut before = String::new();
        for entry in &entries {
            let value: Value = serde_json::from_slice(&entry.value).unwrap();
            assert_eq!(value["before"], before, "each hangs on the one before it");
            value["hash"].as_str().unwrap().clone_into(&mut before);
        }
        let middle = &entries[entries.len() / 2];
        let mut value: Value = serde_json::from_slice(&middle.value).unwrap();
        value["user"] = "somebody else".into();
        let txn = nv_store::Txn::new().put(&middle.key, serde_json::to_vec(&value).unwrap());
        store.commit(txn).await.unwrap();
    }
    let stop = CancellationToken::new();
    let handle = nv_controller::start(config(&bed.folder), stop.clone())
        .await
        .unwrap();
    let bed = Bed { handle, stop, ..bed };
    // The session of before is over; metrics need one.
    let token = bed.relogin().await;
    let bed = Bed { token, ..bed };
    assert!(breaks(&bed).await >= 1, "a changed entry is told");
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_that_cannot_be_name_what_is_in_the_way() {
    let bed = Bed::start().await;
    let other = tempfile::tempdir().unwrap();
    let mut taken = config(&other);
    taken.grpc = bed.handle.grpc();
    let error = nv_controller::start(taken, CancellationToken::new())
        .await
        .unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains(&bed.handle.grpc().to_string()), "{text}");

    let file = other.path().join("file");
    std::fs::write(&file, "").unwrap();
    let mut inside = config(&other);
    inside.data_dir = file.join("data");
    let error = nv_controller::start(inside, CancellationToken::new())
        .await
        .unwrap_err();
    assert!(format!("{error:#}").contains("file/data"), "{error:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_the_headers_that_browsers_obey() {
    let bed = Bed::start().await;
    for (method, path, token) in [
        (Method::GET, "/healthz", None),
        (Method::GET, "/openapi.json", None),
        (Method::GET, "/v1/group", Some(bed.token.as_str())),
        (Method::GET, "/v1/group/nosuch", Some(bed.token.as_str())),
        (Method::GET, "/no/such/route", Some(bed.token.as_str())),
        (Method::GET, "/metrics", Some(bed.token.as_str())),
        (Method::POST, "/v1/group", Some(bed.token.as_str())),
    ] {
        let answer = bed.raw(method, path, token, None).await;
        let headers = answer.headers();
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(headers["cache-control"], "no-store", "{path}");
        assert_eq!(headers["x-frame-options"], "DENY", "{path}");
        assert!(
            headers["strict-transport-security"]
                .to_str()
                .unwrap()
                .contains("max-age"),
            "{path}"
        );
        assert!(
            headers["content-security-policy"]
                .to_str()
                .unwrap()
                .contains("default-src 'none'"),
            "{path}"
        );
    }
}
