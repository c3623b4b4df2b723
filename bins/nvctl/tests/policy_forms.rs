//! `nvctl policy import` and `export` as a script sees them. The controller is a stub here, which answers from a fixed list.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

const GROUPS: &str = r#"{"groups":[
 {"name":"external","comment":"","learned":false,"reserved":true,"domain":"","kind":"external","cfg_type":"system_defined","criteria":[]},
 {"name":"nv.web.shop","comment":"","learned":true,"reserved":false,"policy_mode":"Protect","domain":"shop","kind":"container","cfg_type":"learned",
  "criteria":[{"key":"service","value":"web","op":"="},{"key":"domain","value":"shop","op":"="}]}]}"#;
const RULES: &str = r#"{"rules":[
 {"id":1,"comment":"","from":"external","to":"nv.web.shop","ports":"tcp/22","action":"deny","applications":["any"],"learned":false,"disable":false},
 {"id":10000,"comment":"","from":"external","to":"nv.web.shop","ports":"tcp/80","action":"allow","applications":["HTTP"],"learned":true,"disable":false}]}"#;
const WORKLOADS: &str = r#"{"workloads":[{"id":"1","name":"web-1","host_id":"n1","service":"web","domain":"shop","image":"i","labels":{"app":"front"}}]}"#;

/// Answers every request from the lists above.
fn stub() -> String {
    common::stub(|head| match common::path(head) {
        "/v1/group" => ("200 OK", GROUPS),
        "/v1/policy/rule" => ("200 OK", RULES),
        _ => ("200 OK", WORKLOADS),
    })
}

fn nvctl(server: &str, args: &[&str]) -> (i32, String, String) {
    common::nvctl(server, "secret", args)
}

#[test]
fn what_is_refused_is_named_and_the_rest_is_printed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("in.yaml");
    let good = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web, namespace: shop}\nspec: {podSelector: {}, ingress: [{ports: [{port: 80}]}]}\n";
    std::fs::write(
        &file,
        format!("{good}---\nkind: Service\nmetadata: {{name: s}}\n"),
    )
    .unwrap();
    let path = file.to_str().unwrap();
    // No controller is asked.
    let (code, out, err) = nvctl("http://127.0.0.1:9", &["policy", "import", path]);
    assert_eq!(code, 1, "{err}");
    assert!(
        err.contains("refused: document 2, Service s, kind, line 6 column 7"),
        "{err}"
    );
    assert!(
        out.contains("kind: Rule") && out.contains("ports: tcp/80") && !out.contains("refused"),
        "{out}"
    );
    let (code, out, err) = nvctl("http://127.0.0.1:9", &["policy", "import", path, "--strict"]);
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    std::fs::write(&file, good).unwrap();
    let (code, out, _) = nvctl("http://127.0.0.1:9", &["policy", "import", path, "-o", "jsonl"]);
    assert_eq!(code, 0);
    let first: serde_json::Value = serde_json::from_str(out.lines().next().unwrap()).unwrap();
    assert_eq!(first["kind"], "Group");
}

#[test]
fn the_controllers_policy_in_every_form() {
    let server = stub();
    let (code, out, err) = nvctl(
        &server,
        &["policy", "export", "--form", "kubernetes", "--learned"],
    );
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("kind: NetworkPolicy") && out.contains("app: front") && out.contains("port: 80"),
        "{out}"
    );
    assert!(
        err.contains("rule 10000") && err.contains("applications"),
        "{err}"
    );
    let (_, out, _) = nvctl(&server, &["policy", "export", "--form", "neuvector", "--all"]);
    for words in [
        "kind: NvSecurityRule",
        "policymode: Protect",
        "action: deny",
        "- HTTP",
        "value: web.shop",
    ] {
        assert!(out.contains(words), "{words}: {out}");
    }
    let (_, out, _) = nvctl(&server, &["policy", "export", "--form", "cilium"]);
    assert!(out.contains("ingressDeny"), "{out}");
    let (code, _, err) = nvctl(
        &server,
        &["policy", "export", "--form", "cilium", "--group", "nowhere"],
    );
    assert_eq!(code, 2, "{err}");
}
