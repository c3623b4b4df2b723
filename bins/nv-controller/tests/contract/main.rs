//! What we serve of NeuVector's REST is as its document says: paths, methods, bodies. And what we serve is as our own document says.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "tests")]
#![allow(unused_crate_dependencies, reason = "the package's other targets use them")]

#[path = "../common/mod.rs"]
mod common;
mod lists;
mod scene;
mod schema;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use common::Bed;
use reqwest::{Method, StatusCode};
use schema::{Findings, Schemas};
use serde_json::{Value, json};

/// Routes that NeuVector's document does not have.
const OURS: [&str; 12] = [
    "/v1/conversation",
    "/v1/endpoint",
    "/v1/node",
    "/v1/explain",
    "/v1/apply",
    "/v1/simulate",
    "/v1/flow",
    "/v1/settings",
    "/v1/quarantine",
    "/v1/store",
    "/healthz",
    "/metrics",
];
/// What these answer with is no JSON.
const NO_JSON: [&str; 2] = ["get /metrics", "get /v1/sniffer/{}/pcap"];
const METHODS: [&str; 5] = ["get", "post", "patch", "delete", "put"];

/// NeuVector's document, where it is at hand.
fn reference(test: &str) -> Option<Value> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference/neuvector-openapi.yaml");
    let Ok(text) = std::fs::read_to_string(&file) else {
        eprintln!("SKIPPED {test}: no {}", file.display());
        return None;
    };
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: 64, max_events: 500_000, max_nodes: 500_000 },
    };
    Some(serde_saphyr::from_str_with_options(&text, options).unwrap())
}

/// A path with its parameters' names taken out.
fn shape(path: &str) -> String {
    let parts = path
        .split('/')
        .map(|part| if part.starts_with('{') { "{}" } else { part });
    parts.collect::<Vec<_>>().join("/")
}

/// `method path` to what the document says of it.
fn operations(document: &Value) -> BTreeMap<String, &Value> {
    let mut found = BTreeMap::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let methods = methods.as_object().unwrap();
        for (method, operation) in methods
            .iter()
            .filter(|(method, _)| METHODS.contains(&method.as_str()))
        {
            found.insert(format!("{method} {}", shape(path)), operation);
        }
    }
    found
}

async fn own_document(bed: &Bed) -> Value {
    bed.call(Method::GET, "/openapi.json", None).await.1
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_are_in_the_reference() {
    let Some(document) = reference("routes_are_in_the_reference") else {
        return;
    };
    let reference = operations(&document);
    assert!(reference.len() > 50, "only {} operations read", reference.len());
    let bed = Bed::start().await;
    let document = own_document(&bed).await;
    let unknown: Vec<_> = operations(&document)
        .into_keys()
        .filter(|name| !OURS.iter().any(|path| name.ends_with(&format!(" {path}"))))
        .filter(|name| !reference.contains_key(name))
        .collect();
    assert!(unknown.is_empty(), "not in NeuVector's document: {unknown:?}");
}

/// A call and the operation that it is one of.
struct Call {
    operation: &'static str,
    path: String,
    body: Option<Value>,
}

/// Every operation but the end of the session, in an order in which each can succeed.
fn calls(password: &str) -> Vec<Call> {
    let call = |operation: &'static str, ids: &[&str], query: &str, body: Option<Value>| {
        let mut path = operation.split_once(' ').unwrap().1.to_owned();
        for id in ids {
            path = path.replacen("{}", id, 1);
        }
        Call {
            operation,
            path: format!("{path}{query}"),
            body,
        }
    };
    let rule = json!({"id": 9, "from": "nv.web", "to": "nv.app", "ports": "tcp/9090", "action": "deny"});
    let user = json!({"fullname": "eve", "username": "eve", "password": "long enough", "role": "reader", "server": "",
        "email": "eve@example.org", "timeout": 300, "locale": "en", "default_password": false, "modify_password": false,
        "last_login_timestamp": 0, "last_login_at": "", "login_count": 0, "blocked_for_failed_login": false,
        "blocked_for_password_expired": false, "password_resettable": true});
    let login = json!({"client_ip": "", "password": {"username": "admin", "password": password}});
    vec![
        call("post /v1/auth", &[], "", Some(login)),
        call("get /v1/workload", &[], "", None),
        call("get /v1/workload/{}", &["id-app"], "", None),
        call(
            "patch /v1/workload/{}",
            &["id-app"],
            "",
            Some(json!({"config": {"wire": "default", "quarantine": true, "quarantine_reason": "odd"}})),
        ),
        call("get /v1/quarantine", &[], "", None),
        call("get /v1/enforcer", &[], "", None),
        call("get /v1/enforcer/{}", &["one"], "", None),
        call("get /v1/controller", &[], "", None),
        call("get /v1/controller/{}", &["CONTROLLER"], "", None),
        call("get /v1/node", &[], "", None),
        call("get /v1/group", &[], "", None),
        call("get /v1/group/{}", &["names"], "", None),
        call("get /v1/group/{}", &["nv.web"], "", None),
        call(
            "post /v1/group",
            &[],
            "",
            Some(json!({"config": {"name": "g", "cfg_type": "user_created",
            "criteria": [{"key": "image", "value": "x", "op": "="}]}})),
        ),
        call(
            "patch /v1/group/{}",
            &["g"],
            "",
            Some(json!({"config": {"name": "g", "comment": "c", "cfg_type": ""}})),
        ),
        call("delete /v1/group/{}", &["g"], "", None),
        call("get /v1/policy/rule", &[], "", None),
        call(
            "patch /v1/policy/rule",
            &[],
            "",
            Some(json!({"insert": {"after": 0, "rules": [rule]}})),
        ),
        call("get /v1/policy/rule/{}", &["7"], "", None),
        call(
            "patch /v1/policy/rule/{}",
            &["9"],
            "",
            Some(json!({"replicate": false,
            "config": {"id": 9, "cfg_type": "user_created", "priority": 0, "comment": "c"}})),
        ),
        call("delete /v1/policy/rule/{}", &["9"], "", None),
        call("get /v1/service", &[], "", None),
        call("get /v1/service/{}", &["nv.web"], "", None),
        call(
            "patch /v1/service/config",
            &[],
            "",
            Some(json!({"config": {"services": ["nv.web"], "policy_mode": "Monitor"}})),
        ),
        call("get /v1/conversation", &[], "", None),
        call("get /v1/log/violation", &[], "", None),
        call("get /v1/flow", &[], "", None),
        call("get /v1/endpoint", &[], "", None),
        call(
            "get /v1/explain",
            &[],
            "?from=nv.web&to=nv.app&port=tcp/8080&app=HTTP",
            None,
        ),
        call(
            "get /v1/explain",
            &[],
            "?from=nv.app&to=nv.web&port=tcp/8080",
            None,
        ),
        call("get /v1/settings", &[], "", None),
        call(
            "patch /v1/settings",
            &[],
            "",
            Some(json!({"settings": {"contention": "basic", "bounded_domains": ["shop"]}})),
        ),
        call("get /v1/domain", &[], "", None),
        call("get /v2/system/config", &[], "", None),
        call(
            "patch /v2/system/config",
            &[],
            "",
            Some(
                json!({"config_v2": {"svc_cfg": {"new_service_policy_mode": "Monitor"}},
                "net_config": {"net_service_status": false, "net_service_policy_mode": "", "strict_group_mode": true},
                "atmo_config": {"mode_auto_d2m": true, "mode_auto_d2m_duration": 3600}}),
            ),
        ),
        call(
            "post /v1/apply",
            &[],
            "",
            Some(
                json!({"dry_run": true, "documents": [{"kind": "ServiceMode", "service": "nv.app", "mode": "Protect"}]}),
            ),
        ),
        call(
            "post /v1/simulate",
            &[],
            "",
            Some(json!({"where": "not from nobody", "since": 3600,
                "documents": [{"kind": "ServiceMode", "service": "nv.app", "mode": "Protect"}]})),
        ),
        call("get /v1/sniffer", &[], "", None),
        call(
            "post /v1/sniffer",
            &[],
            "?f_workload=id-web",
            Some(json!({"sniffer": {"file_number": 1, "duration": 1, "filter": ""}})),
        ),
        call("get /v1/sniffer/{}", &["7:one"], "", None),
        call("patch /v1/sniffer/stop/{}", &["7:one"], "", None),
        call("delete /v1/sniffer/{}", &["7:one"], "", None),
        call("post /v1/user", &[], "", Some(json!({"user": user}))),
        call("get /v1/user", &[], "", None),
        call("get /v1/user/{}", &["eve"], "", None),
        call(
            "patch /v1/user/{}",
            &["eve"],
            "",
            Some(json!({"config": {"fullname": "eve", "pwd_profile": "", "email": "e@example.org"}})),
        ),
        call("delete /v1/user/{}", &["eve"], "", None),
        call("get /v1/store", &[], "", None),
        call("post /v1/store", &[], "?dry_run=true", Some(no_store())),
        call("get /healthz", &[], "", None),
        call("delete /v1/auth", &[], "", None),
    ]
}

/// An export of a store that is empty.
fn no_store() -> Value {
    let json = nv_store::archive::Archive::default().to_json().unwrap();
    serde_json::from_str(&json).unwrap()
}

/// Every operation's answers, from a controller that has something of everything.
async fn answers(bed: &Bed) -> Vec<(&'static str, Value)> {
    scene::fill(bed).await;
    let (_, answer) = bed.call(Method::GET, "/v1/controller", None).await;
    let controller = answer["controllers"][0]["id"].as_str().unwrap().to_owned();
    let mut answers = Vec::new();
    for call in calls(&bed.password) {
        let method: Method = call
            .operation
            .split_once(' ')
            .unwrap()
            .0
            .to_uppercase()
            .parse()
            .unwrap();
        let path = call.path.replace("CONTROLLER", &controller);
        let (status, answer) = bed.call(method, &path, call.body).await;
        assert_eq!(status, StatusCode::OK, "{} {path}: {answer}", call.operation);
        answers.push((call.operation, answer));
    }
    answers
}

/// The findings are those of the list, no more and no fewer.
#[track_caller]
fn are_listed(what: &str, found: &BTreeSet<String>, list: &[(&str, &str)]) {
    let listed: BTreeSet<String> = list.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert!(list.iter().all(|(_, reason)| !reason.is_empty()));
    let new: Vec<_> = found.difference(&listed).collect();
    let old: Vec<_> = listed.difference(found).collect();
    assert!(
        new.is_empty() && old.is_empty(),
        "{what}: not listed: {new:#?}, listed and not so: {old:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_as_in_the_reference() {
    let Some(document) = reference("answers_are_as_in_the_reference") else {
        return;
    };
    let (schemas, reference) = (
        Schemas {
            named: &document["definitions"],
        },
        operations(&document),
    );
    let bed = Bed::start().await;
    // The document says one object here; NeuVector's servers answer with the list of them.
    let controllers = json!({"required": ["controllers"], "properties": {"controllers":
        {"type": "array", "items": {"$ref": "#/definitions/RESTController"}}}});
    let mut found = Findings::default();
    for (operation, answer) in answers(&bed).await {
        if operation == "get /v1/controller" {
            schemas.compare(&answer, &controllers, operation, &mut found);
            continue;
        }
        let schema = reference
            .get(operation)
            .map(|found| &found["responses"]["200"]["schema"]);
        if let Some(schema) = schema.filter(|schema| schema.is_object()) {
            schemas.compare(&answer, schema, operation, &mut found);
        }
    }
    let (status, refused) = bed.login("wrong").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    schemas.compare(&refused, &json!({"$ref": "RESTError"}), "", &mut found);
    assert!(found.wrong.is_empty(), "{:#?}", found.wrong);
    are_listed("fields of ours", &found.extra, lists::ADDED);
    are_listed("fields left out", &found.missing, lists::LEFT_OUT);
    for name in [
        "RESTAgent",
        "RESTController",
        "RESTCriteriaEntry",
        "RESTGroup",
        "RESTGroupDetail",
        "RESTIPAddr",
        "RESTPolicyRule",
        "RESTService",
        "RESTSnifferInfo",
        "RESTToken",
        "RESTUser",
        "RESTWorkload",
        "RESTWorkloadBrief",
        "RESTWorkloadDetail",
        "RESTWorkloadPorts",
        "Violation",
        "RESTError",
    ] {
        assert!(found.reached.contains(name), "no answer had a {name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_as_our_own_document_says() {
    let bed = Bed::start().await;
    let document = own_document(&bed).await;
    let (schemas, own) = (
        Schemas {
            named: &document["components"]["schemas"],
        },
        operations(&document),
    );
    let mut found = Findings::default();
    let mut left: BTreeSet<_> = own.keys().map(String::as_str).collect();
    for (operation, answer) in answers(&bed).await {
        let schema = &own[operation]["responses"]["200"]["content"]["application/json"]["schema"];
        left.remove(operation);
        if schema.is_object() {
            schemas.compare(&answer, schema, operation, &mut found);
        } else {
            assert_eq!(
                answer,
                json!({}),
                "{operation}: the document says nothing of this answer"
            );
        }
    }
    assert!(found.wrong.is_empty(), "{:#?}", found.wrong);
    are_listed("not in the document", &found.extra, &[]);
    are_listed("not in the answers", &found.missing, &[]);
    assert_eq!(
        left.into_iter().collect::<Vec<_>>(),
        NO_JSON,
        "operations that were not tried"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_as_in_the_reference() {
    let Some(reference) = reference("requests_are_as_in_the_reference") else {
        return;
    };
    let bed = Bed::start().await;
    let document = own_document(&bed).await;
    let (own, theirs) = (
        Schemas {
            named: &document["components"]["schemas"],
        },
        Schemas {
            named: &reference["definitions"],
        },
    );
    let known = operations(&reference);
    let mut found = Findings::default();
    for (name, operation) in operations(&document) {
        let parameters = known.get(&name).and_then(|known| known["parameters"].as_array());
        let body = parameters
            .into_iter()
            .flatten()
            .find(|parameter| parameter["in"] == "body");
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        match body {
            Some(body) => own.compare_requests(schema, &theirs, &body["schema"], &name, &mut found),
            None => assert!(
                !known.contains_key(&name) || schema.is_null(),
                "{name}: we want a body"
            ),
        }
    }
    assert!(found.wrong.is_empty(), "{:#?}", found.wrong);
    are_listed("refused", &found.missing, lists::REFUSED);
    are_listed("ours", &found.extra, lists::TAKEN);
    assert!(found.reached.contains("RESTPolicyRuleConfig"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_says_what_hangs_on_it_and_what_is_not_enforced() {
    let bed = Bed::start().await;
    scene::fill(&bed).await;
    let get = async |path: &str| bed.call(Method::GET, path, None).await.1;
    let web = &get("/v1/workload/id-web").await["workload"];
    assert_eq!(web["groups"], json!(["containers", "fronts", "nv.web"]));
    let app = &get("/v1/workload/id-app").await["workload"];
    assert_eq!(app["app_ports"], json!({"tcp/8080": "HTTP"}));
    let group = &get("/v1/group/nv.web").await["group"];
    let rules: Vec<_> = group["policy_rules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| &rule["id"])
        .collect();
    assert_eq!(rules, [7, 8]);
    let rule = &get("/v1/policy/rule/7").await["rule"];
    assert_eq!(
        (&rule["match_counter"], &rule["last_match_timestamp"]),
        (&json!(1), &json!(1_700_000_001))
    );
    assert_eq!(rule["diagnostics"], json!([]));

    // Nobody has told an address of the group's DNS name: the list says so, and so does every rule that names it.
    let says = |object: &Value, parts: &[&str]| {
        let told = object["diagnostics"].as_array().unwrap();
        assert_eq!(told.len(), 1, "{object}");
        let text = told[0].as_str().unwrap();
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    };
    let parts = ["criteria[0]", "nobody yet", "'www.example.org'"];
    says(&get("/v1/group/names").await["group"], &parts);
    let groups = get("/v1/group?f_name=names").await;
    says(&groups["groups"][0], &parts);
    says(
        &get("/v1/policy/rule/8").await["rule"],
        &["to: group 'names'", "nobody yet"],
    );
    let (status, answer) = bed
        .call(
            Method::PATCH,
            "/v1/policy/rule/7",
            Some(json!({"replicate": true, "config": {"id": 7}})),
        )
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(
        answer["message"].as_str().unwrap().contains("replicate"),
        "{answer}"
    );
}
