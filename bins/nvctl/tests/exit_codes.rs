//! The program as a script sees it: exit codes, and what goes to which stream. The controller is a stub here, which answers from a
//! fixed list; nv-controller is tested with nvctl elsewhere.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::net::TcpListener;

use common::nvctl;

const WORKLOADS: &str = r#"{"workloads":[{"id":"0123456789abcdef","name":"web\u001b[31m","interfaces":{}}]}"#;
const EXPLAIN: &str =
    r#"{"explain":{"verdict":"deny","reason":"default","text":"denied: no rule allows it"}}"#;
const REFUSAL: &str = r#"{"code":8,"error":"Object not found","message":"there is no group 'nowhere'"}"#;

/// Answers every request from the list above.
fn stub() -> String {
    common::stub(|head| {
        if !head.to_ascii_lowercase().contains("x-auth-token: secret") {
            let refusal = r#"{"code":1,"error":"Authentication failed","message":"bad token"}"#;
            return ("401 Unauthorized", refusal);
        }
        match common::path(head) {
            path if path.starts_with("/v1/workload") => ("200 OK", WORKLOADS),
            path if path.starts_with("/v1/explain") => ("200 OK", EXPLAIN),
            _ => ("404 Not Found", REFUSAL),
        }
    })
}

#[test]
fn every_kind_of_end_has_its_exit_code_and_stream() {
    let server = stub();
    let (code, out, err) = nvctl(&server, "secret", &["get", "workloads"]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(
        out.contains("web\\u{1b}[31m") && !out.contains('\u{1b}'),
        "{out:?}"
    );
    let (code, out, _) = nvctl(&server, "secret", &["get", "workloads", "-o", "json"]);
    let same = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!((code, same(&out)), (0, same(WORKLOADS)));

    let (code, out, err) = nvctl(&server, "secret", &["get", "group", "nowhere"]);
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(err.contains("there is no group 'nowhere'"), "{err}");
    let (code, _, err) = nvctl(&server, "stale", &["get", "workloads"]);
    assert!(code == 1 && err.contains("nvctl login"), "{code} {err}");
    let (code, out, err) = nvctl(&server, "secret", &["get", "nonsense"]);
    assert!(
        code == 2 && out.is_empty() && err.contains("nonsense"),
        "{code} {err}"
    );
    let (code, _, err) = nvctl(&server, "secret", &["delete", "group", "a", "--no-input"]);
    assert!(code == 2 && err.contains("--yes"), "{code} {err}");

    let ask = |expect| {
        nvctl(
            &server,
            "secret",
            &["explain", "web", "db", "tcp/80", "--expect", expect],
        )
    };
    let (code, out, _) = ask("deny");
    assert!(code == 0 && out.contains("no rule allows it"), "{code} {out}");
    let (code, _, err) = ask("allow");
    assert!(code == 4 && err.contains("verdict is deny"), "{code} {err}");

    // A port that was free a moment ago.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, out, err) = nvctl(&format!("http://{gone}"), "secret", &["get", "workloads"]);
    assert!(
        code == 3 && out.is_empty() && err.contains("cannot reach"),
        "{code} {err}"
    );
}
