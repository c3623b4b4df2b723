//! Users, roles, and what ends sessions.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(unused_crate_dependencies, reason = "the package's other targets use them")]

mod common;

use common::{Bed, config};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const GOOD: &str = "a long enough one";

async fn as_user(bed: &Bed, token: &str, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
    let body = (!body.is_null()).then(|| body.to_string());
    let answer = bed.raw(method, path, Some(token), body).await;
    (answer.status(), answer.json().await.unwrap_or(Value::Null))
}

async fn add(bed: &Bed, name: &str, role: &str) {
    let body = json!({"user": {"fullname": name, "password": GOOD, "role": role}});
    let (status, answer) = bed.call(Method::POST, "/v1/user", Some(body)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}

async fn try_login(bed: &Bed, name: &str, password: &str) -> (StatusCode, Value) {
    let body = json!({"password": {"username": name, "password": password}});
    as_user(bed, "", Method::POST, "/v1/auth", body).await
}

async fn login(bed: &Bed, name: &str, password: &str) -> String {
    let (status, answer) = try_login(bed, name, password).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["token"]["token"].as_str().unwrap().to_owned()
}

async fn is_open(bed: &Bed, token: &str) -> bool {
    as_user(bed, token, Method::GET, "/v1/group", Value::Null).await.0 == StatusCode::OK
}

fn group() -> Value {
    json!({"config": {"name": "g", "criteria": [{"key": "image", "value": "x", "op": "="}]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_may_do_what_it_says() {
    let bed = Bed::start().await;
    add(&bed, "olga", "operator").await;
    add(&bed, "rita", "reader").await;
    let (olga, rita) = (login(&bed, "olga", GOOD).await, login(&bed, "rita", GOOD).await);
    let delete = Value::Null;
    let user = json!({"user": {"fullname": "eve", "password": GOOD, "role": "admin"}});
    let raise = |who: &str| json!({"config": {"fullname": who, "role": "admin"}});
    let seize = json!({"config": {"fullname": "admin", "new_password": GOOD}});
    let rules = json!({"delete": [1]});
    for (method, path, body, operator, reader) in [
        (Method::GET, "/v1/group", Value::Null, 200, 200),
        (Method::GET, "/v1/settings", Value::Null, 200, 200),
        (Method::POST, "/v1/group", group(), 200, 403),
        (Method::PATCH, "/v1/policy/rule", rules, 404, 403),
        (Method::PATCH, "/v1/settings", json!({"settings": {}}), 200, 403),
        (Method::POST, "/v1/apply", json!({"documents": []}), 200, 403),
        (
            Method::POST,
            "/v1/sniffer?f_workload=x",
            json!({"sniffer": {}}),
            404,
            403,
        ),
        (Method::GET, "/v1/sniffer/1:none/pcap", Value::Null, 502, 403),
        (Method::POST, "/v1/user", user, 403, 403),
        (Method::GET, "/v1/user/admin", Value::Null, 403, 403),
        (Method::PATCH, "/v1/user/admin", seize, 403, 403),
        (Method::PATCH, "/v1/user/olga", raise("olga"), 403, 403),
        (Method::PATCH, "/v1/user/rita", raise("rita"), 403, 403),
        (Method::DELETE, "/v1/user/admin", delete, 403, 403),
    ] {
        for (token, expected) in [(&olga, operator), (&rita, reader)] {
            let (status, answer) = as_user(&bed, token, method.clone(), path, body.clone()).await;
            assert_eq!(status.as_u16(), expected, "{method} {path}: {answer}");
            assert!(status.is_success() || answer["message"].is_string(), "{answer}");
        }
    }
    // Everybody sees themselves; an admin sees all.
    let (_, own) = as_user(&bed, &rita, Method::GET, "/v1/user", Value::Null).await;
    assert_eq!(own["users"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&own["users"][0]["fullname"], &own["users"][0]["login_count"]),
        (&"rita".into(), &1.into())
    );
    let (_, all) = bed
        .call(Method::GET, "/v1/user?s_fullname=desc&f_role=neq,reader", None)
        .await;
    let names: Vec<_> = all["users"]
        .as_array()
        .unwrap()
        .iter()
        .map(|user| &user["fullname"])
        .collect();
    assert_eq!(names, ["olga", "admin"]);
    assert_eq!(all["global_roles"], json!(["admin", "operator", "reader"]));
    assert!(
        !all.to_string().contains("argon2"),
        "no hash leaves the controller"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_password_ends_the_other_sessions() {
    let bed = Bed::start().await;
    add(&bed, "rita", "reader").await;
    let (here, there) = (login(&bed, "rita", GOOD).await, login(&bed, "rita", GOOD).await);
    let mut follower = bed
        .raw(Method::GET, "/v1/flow?follow=true", Some(&there), None)
        .await;
    assert_eq!(follower.status(), StatusCode::OK);
    let change = async |config: Value| {
        as_user(
            &bed,
            &here,
            Method::PATCH,
            "/v1/user/rita",
            json!({"config": config}),
        )
        .await
    };
    let new = "another long one";
    for (config, status, part) in [
        (
            json!({"fullname": "rita", "new_password": new}),
            400,
            "config.password",
        ),
        (
            json!({"fullname": "rita", "password": "wrong", "new_password": new}),
            403,
            "config.password",
        ),
        (
            json!({"fullname": "rita", "password": GOOD}),
            400,
            "config.new_password",
        ),
        (
            json!({"fullname": "rita", "password": GOOD, "new_password": "short"}),
            400,
            "password: 8",
        ),
        (json!({"fullname": "olga", "email": "x"}), 400, "config.fullname"),
        (json!({"fullname": "rita", "colour": "red"}), 400, "colour"),
        (json!({"fullname": "rita", "email": "x".repeat(65)}), 400, "email"),
    ] {
        let (found, answer) = change(config.clone()).await;
        assert_eq!(found.as_u16(), status, "{config}: {answer}");
        assert!(
            answer["message"].as_str().unwrap().contains(part),
            "{config}: {answer}"
        );
    }
    assert!(is_open(&bed, &there).await, "a refused change ends nothing");
    let good = json!({"fullname": "rita", "password": GOOD, "new_password": new, "email": "r@example.org"});
    let (status, answer) = change(good).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert!(is_open(&bed, &here).await && !is_open(&bed, &there).await);
    // Also what the ended session was following.
    let end = tokio::time::timeout(std::time::Duration::from_secs(10), async {
        while let Ok(Some(_)) = follower.chunk().await {}
    });
    end.await.unwrap();
    assert!(is_open(&bed, &bed.token).await, "nobody else's session");
    assert_eq!(try_login(&bed, "rita", GOOD).await.0, StatusCode::UNAUTHORIZED);
    login(&bed, "rita", new).await;
    // An admin sets one without the old one; that ends them all, and so does another role.
    let config = json!({"config": {"fullname": "rita", "new_password": GOOD}});
    assert_eq!(
        bed.call(Method::PATCH, "/v1/user/rita", Some(config)).await.0,
        StatusCode::OK
    );
    assert!(!is_open(&bed, &here).await);
    let token = login(&bed, "rita", GOOD).await;
    let config = json!({"config": {"fullname": "rita", "role": "operator"}});
    assert_eq!(
        bed.call(Method::PATCH, "/v1/user/rita", Some(config)).await.0,
        StatusCode::OK
    );
    assert!(!is_open(&bed, &token).await);
    // Deleted is gone, with the sessions.
    let token = login(&bed, "rita", GOOD).await;
    assert_eq!(
        bed.call(Method::DELETE, "/v1/user/rita", None).await.0,
        StatusCode::OK
    );
    assert!(!is_open(&bed, &token).await);
    assert_eq!(
        bed.call(Method::DELETE, "/v1/user/rita", None).await.0,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_admin_stays() {
    let bed = Bed::start().await;
    add(&bed, "olga", "operator").await;
    let demote = |who: &str| Some(json!({"config": {"fullname": who, "role": "reader"}}));
    for (method, body) in [(Method::DELETE, None), (Method::PATCH, demote("admin"))] {
        let (status, answer) = bed.call(method, "/v1/user/admin", body).await;
        assert_eq!(status, StatusCode::CONFLICT, "{answer}");
        assert!(
            answer["message"].as_str().unwrap().contains("last admin"),
            "{answer}"
        );
    }
    add(&bed, "anna", "admin").await;
    let anna = login(&bed, "anna", GOOD).await;
    // Two admins who delete each other at the same moment: one of them stays.
    let (one, two) = tokio::join!(
        bed.call(Method::DELETE, "/v1/user/anna", None),
        as_user(&bed, &anna, Method::DELETE, "/v1/user/admin", Value::Null),
    );
    assert!(
        one.0 == StatusCode::OK || two.0 == StatusCode::OK,
        "{one:?} {two:?}"
    );
    assert!(
        one.0 != StatusCode::OK || two.0 != StatusCode::OK,
        "{one:?} {two:?}"
    );
    let (stays, password) = if one.0 == StatusCode::OK {
        ("admin", bed.password.clone())
    } else {
        ("anna", GOOD.to_owned())
    };
    let token = login(&bed, stays, &password).await;
    let (_, users) = as_user(&bed, &token, Method::GET, "/v1/user?f_role=admin", Value::Null).await;
    assert_eq!(users["users"].as_array().unwrap().len(), 1);
    assert_eq!(users["users"][0]["fullname"], stays);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_admin_does_not_come_back_with_a_restart() {
    let bed = Bed::start().await;
    add(&bed, "anna", "admin").await;
    let anna = login(&bed, "anna", GOOD).await;
    let (status, answer) = as_user(&bed, &anna, Method::DELETE, "/v1/user/admin", Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
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

#[tokio::test(flavor = "multi_thread")]
async fn bad_users_are_named() {
    let bed = Bed::start().await;
    let user = |name: &str, password: &str, role: &str| json!({"user": {"fullname": name, "password": password, "role": role}});
    let mut other = user("x", GOOD, "reader");
    other["user"]["username"] = "y".into();
    let mut unknown = user("x", GOOD, "reader");
    unknown["user"]["colour"] = "red".into();
    for (body, status, part) in [
        (user("", GOOD, "reader"), 400, "fullname"),
        (user("a/b", GOOD, "reader"), 400, "fullname"),
        (user(&"a".repeat(65), GOOD, "reader"), 400, "fullname"),
        (user("x", "short", "reader"), 400, "password"),
        (user("x", &"a".repeat(257), "reader"), 400, "password"),
        (user("x", GOOD, "fedAdmin"), 400, "'fedAdmin'"),
        (user("x", GOOD, ""), 400, "role"),
        (other, 400, "user.username"),
        (unknown, 400, "colour"),
        (
            json!({"user": {"fullname": "x", "role": "reader"}}),
            400,
            "password",
        ),
        (user("admin", GOOD, "reader"), 409, "'admin'"),
    ] {
        let (found, answer) = bed.call(Method::POST, "/v1/user", Some(body.clone())).await;
        assert_eq!(found.as_u16(), status, "{body}: {answer}");
        let message = answer["message"].as_str().unwrap();
        assert!(message.contains(part), "{body}: {answer}");
        assert!(!message.contains(GOOD), "a password in an answer: {message}");
    }
    // A stale revision, and a good one.
    let read = bed
        .raw(Method::GET, "/v1/user/admin", Some(&bed.token), None)
        .await;
    let revision = read.headers()["x-nv-revision"].to_str().unwrap().to_owned();
    let patch = async |email: &str| {
        let body = json!({"config": {"fullname": "admin", "email": email}}).to_string();
        let url = format!("https://{}/v1/user/admin", bed.handle.rest());
        let request = bed
            .client
            .patch(url)
            .header("X-Auth-Token", &bed.token)
            .body(body);
        request
            .header("X-Nv-Revision", &revision)
            .send()
            .await
            .unwrap()
            .status()
    };
    assert_eq!(patch("one@example.org").await, StatusCode::OK);
    assert_eq!(patch("two@example.org").await, StatusCode::CONFLICT);
    let (_, user) = bed.call(Method::GET, "/v1/user/admin", None).await;
    assert_eq!(user["user"]["email"], "one@example.org");
}
