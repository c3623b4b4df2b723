//! REST through the real HTTPS listener.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(unused_crate_dependencies, reason = "the package's other targets use them")]

mod common;

use common::{Bed, config};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread")]
async fn sessions() {
    let bed = Bed::start().await;
    assert_eq!(bed.login("wrong").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(bed.call(Method::GET, "/v1/group", None).await.0, StatusCode::OK);
    assert_eq!(bed.call(Method::DELETE, "/v1/auth", None).await.0, StatusCode::OK);
    assert_eq!(
        bed.call(Method::GET, "/v1/group", None).await.0,
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_needs_a_token() {
    let bed = Bed::start().await;
    let (_, document) = bed.call(Method::GET, "/openapi.json", None).await;
    let mut tried = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            if !["get", "post", "patch", "delete", "put"].contains(&method.as_str()) {
                continue;
            }
            if path == "/healthz" || (path == "/v1/auth" && method == "post") {
                continue;
            }
            let method: Method = method.to_uppercase().parse().unwrap();
            let path = path.replace(['{', '}'], "");
            for token in [None, Some("bad")] {
                let answer = bed.raw(method.clone(), &path, token, None).await;
                assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{method} {path}");
                assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
                assert_eq!(answer.headers()["cache-control"], "no-store");
                tried += 1;
            }
        }
    }
    assert!(tried > 40, "only {tried} calls");
}

async fn order(bed: &Bed) -> Vec<u64> {
    let (_, list) = bed.call(Method::GET, "/v1/policy/rule", None).await;
    list["rules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| rule["id"].as_u64().unwrap())
        .collect()
}

fn group(name: &str) -> Value {
    json!({"config": {"name": name, "criteria": [{"key": "image", "value": "web", "op": "="}]}})
}

fn rule(id: u32) -> Value {
    json!({"id": id, "from": "a", "to": "external", "ports": "tcp/80", "applications": ["any"], "action": "allow"})
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_and_rules() {
    let bed = Bed::start().await;
    let made = bed
        .raw(
            Method::POST,
            "/v1/group",
            Some(&bed.token),
            Some(group("a").to_string()),
        )
        .await;
    assert_eq!(made.status(), StatusCode::OK);
    assert!(
        made.headers()["x-nv-revision"]
            .to_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
            > 0
    );
    assert_eq!(
        bed.call(Method::POST, "/v1/group", Some(group("a"))).await.0,
        StatusCode::CONFLICT
    );
    let act = async |body: Value| bed.call(Method::PATCH, "/v1/policy/rule", Some(body)).await;
    let (status, answer) = act(json!({"insert": {"rules": [rule(1), rule(2)]}})).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(
        act(json!({"insert": {"after": 0, "rules": [rule(3)]}})).await.0,
        StatusCode::OK
    );
    assert_eq!(
        act(json!({"insert": {"after": 1, "rules": [rule(4)]}})).await.0,
        StatusCode::OK
    );
    assert_eq!(order(&bed).await, [3, 1, 4, 2]);
    assert_eq!(
        act(json!({"move": {"id": 2, "after": -1}})).await.0,
        StatusCode::OK
    );
    assert_eq!(order(&bed).await, [3, 2, 1, 4]);
    let (status, answer) = bed.call(Method::DELETE, "/v1/group/a", None).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(answer["message"].as_str().unwrap().contains("'a'"), "{answer}");
    assert_eq!(act(json!({"delete": [3, 4]})).await.0, StatusCode::OK);
    assert_eq!(act(json!({"rules": [rule(1)]})).await.0, StatusCode::OK);
    assert_eq!(order(&bed).await, [1]);
    assert_eq!(
        bed.call(Method::DELETE, "/v1/policy/rule/1", None).await.0,
        StatusCode::OK
    );
    assert_eq!(
        bed.call(Method::DELETE, "/v1/group/a", None).await.0,
        StatusCode::OK
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_named() {
    let bed = Bed::start().await;
    let insert = |field: &str, value: Value| {
        let mut bad = rule(1);
        bad["from"] = "external".into();
        bad[field] = value;
        json!({"insert": {"rules": [bad]}})
    };
    let rules = "/v1/policy/rule";
    let operator = json!({"config": {"name": "b", "criteria": [{"key": "image", "value": "x", "op": "~~"}]}});
    for (method, path, body, part) in [
        (
            Method::POST,
            "/v1/group",
            json!({"config": {"name": "b"}, "wrong": 1}),
            "wrong",
        ),
        (Method::POST, "/v1/group", operator, "op"),
        (Method::PATCH, rules, insert("ports", "tcp/99999".into()), "ports"),
        (Method::PATCH, rules, insert("to", "nobody".into()), "nobody"),
        (
            Method::PATCH,
            rules,
            json!({"insert": {"after": 77, "rules": [insert("to", "external".into())["insert"]["rules"][0]]}}),
            "77",
        ),
        (
            Method::POST,
            "/v1/apply",
            json!({"documents": [{"kind": "Thing"}]}),
            "Thing",
        ),
    ] {
        let (status, answer) = bed.call(method, path, Some(body.clone())).await;
        assert!(status.is_client_error(), "{body}: {status}");
        assert!(
            answer["message"].as_str().unwrap().contains(part),
            "{body}: {answer}"
        );
    }
    let large = bed
        .raw(
            Method::POST,
            "/v1/group",
            Some(&bed.token),
            Some(" ".repeat((1 << 20) + 1)),
        )
        .await;
    assert_eq!(large.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let cut = bed
        .raw(Method::POST, "/v1/group", Some(&bed.token), Some("{".into()))
        .await;
    assert_eq!(cut.status(), StatusCode::BAD_REQUEST);
    let unknown = bed
        .call(Method::GET, "/v1/explain?from=nobody&to=any&port=tcp/80", None)
        .await;
    assert_eq!(unknown.0, StatusCode::NOT_FOUND, "{}", unknown.1);
    let range = bed
        .call(Method::GET, "/v1/explain?from=nobody&to=any&port=tcp/80-90", None)
        .await;
    assert_eq!(range.0, StatusCode::BAD_REQUEST, "{}", range.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_is_whole_or_nothing() {
    let bed = Bed::start().await;
    let good = json!({"kind": "Group", "name": "a", "criteria": [{"key": "image", "value": "w", "op": "="}]});
    let bad = json!({"kind": "Rule", "from": "nobody", "to": "external", "action": "allow"});
    let (status, _) = bed
        .call(Method::POST, "/v1/apply", Some(json!({"documents": [good, bad]})))
        .await;
    assert!(status.is_client_error());
    assert_eq!(
        bed.call(Method::GET, "/v1/group/a", None).await.0,
        StatusCode::NOT_FOUND
    );
    let dry = json!({"documents": [good], "dry_run": true});
    assert_eq!(
        bed.call(Method::POST, "/v1/apply", Some(dry)).await.0,
        StatusCode::OK
    );
    assert_eq!(
        bed.call(Method::GET, "/v1/group/a", None).await.0,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        bed.call(Method::POST, "/v1/apply", Some(json!({"documents": [good]})))
            .await
            .0,
        StatusCode::OK
    );
    assert_eq!(bed.call(Method::GET, "/v1/group/a", None).await.0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn starts() {
    let bed = Bed::start().await;
    let error = nv_controller::start(config(&bed.folder), CancellationToken::new())
        .await
        .unwrap_err();
    assert!(format!("{error:#}").contains("store.redb"), "{error:#}");
    let other = tempfile::tempdir().unwrap();
    let mut taken = config(&other);
    taken.rest = bed.handle.rest();
    let error = nv_controller::start(taken, CancellationToken::new())
        .await
        .unwrap_err();
    assert!(format!("{error:#}").contains("cannot listen on"), "{error:#}");
    let broken = tempfile::tempdir().unwrap();
    std::fs::write(broken.path().join("store.redb"), b"no store at all").unwrap();
    let error = nv_controller::start(config(&broken), CancellationToken::new())
        .await
        .unwrap_err();
    assert!(format!("{error:#}").contains("store.redb"), "{error:#}");
    bed.stop.cancel();
    bed.handle.wait().await;
    let stop = CancellationToken::new();
    let again = nv_controller::start(config(&bed.folder), stop.clone())
        .await
        .unwrap();
    assert_eq!(again.admin_password(), None);
    stop.cancel();
    again.wait().await;
}
