//! `describe`: one object with what hangs on it. The controller is a stub; product.rs has the real one.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use serde_json::Value;

fn answer(path: &str) -> (&'static str, &'static str) {
    let body = match path {
        "/v1/workload" => {
            r#"{"workloads":[{"id":"aaaa1","name":"web","host_name":"n1"},{"id":"bbbb2","name":"app","host_name":"n2"}]}"#
        }
        "/v1/workload/aaaa1" => {
            r#"{"workload":{"id":"aaaa1","name":"web\u001b[2J","service_group":"nv.web","policy_mode":"Monitor","cap_sniff":true,
            "groups":["containers","nv.web"],"app_ports":{"tcp/80":"HTTP"},"interfaces":{}}}"#
        }
        "/v1/policy/rule" => {
            r#"{"rules":[{"id":9,"from":"nv.db","to":"nv.app","ports":"any","action":"deny"},
            {"id":7,"from":"nv.web","to":"nv.app","ports":"tcp/8080","action":"allow","match_counter":3}]}"#
        }
        "/v1/policy/rule/7" => {
            r#"{"rule":{"id":7,"from":"nv.web","to":"nv.app","ports":"tcp/8080","action":"allow","match_counter":3,
            "last_match_timestamp":1700000001,"diagnostics":["to: group 'nv.app': criteria[0]: not enforced"]}}"#
        }
        "/v1/group/nv.web" => {
            r#"{"group":{"name":"nv.web","kind":"container","criteria":[{"key":"service","op":"=","value":"web"}],
            "members":[{"id":"aaaa1","name":"web"}],"policy_rules":[{"id":7,"from":"nv.web","to":"nv.app","ports":"tcp/8080"}]}}"#
        }
        "/v1/service/web" => {
            r#"{"service":{"name":"nv.web","policy_mode":"Monitor","members":[{"id":"aaaa1","name":"web"}],"policy_rules":[]}}"#
        }
        "/v1/node" => r#"{"nodes":[{"id":"n1","state":"connected","revision":5}]}"#,
        "/v1/conversation" => {
            r#"{"conversations":[
            {"from":"aaaa1","to":"bbbb2","from_name":"web","to_name":"app","sessions":41,"entries":[{"policy_id":7}]},
            {"from":"bbbb2","to":"external","from_name":"app","to_name":"external","sessions":42,"entries":[{"policy_id":0}]}]}"#
        }
        "/v1/log/violation" => {
            r#"{"violations":[
            {"id":"1","client_id":"aaaa1","client_name":"web","client_service":"nv.web","server_id":"cccc3","server_name":"db",
             "server_port":5432,"ip_proto":6,"policy_id":0},
            {"id":"2","client_id":"x","client_name":"stranger","server_id":"y","server_port":1,"ip_proto":17,"policy_id":9}]}"#
        }
        _ => {
            return (
                "404 Not Found",
                r#"{"code":5,"error":"Object not found","message":"there is none"}"#,
            );
        }
    };
    ("200 OK", body)
}

fn nvctl(server: &str, args: &[&str]) -> (i32, String, String) {
    common::nvctl(server, "secret", args)
}

#[test]
fn an_object_is_told_with_what_hangs_on_it() {
    let server = common::stub(|head| answer(common::path(head)));
    for (args, has, lacks, hint) in [
        (
            ["workload", "web"],
            &[
                "containers,nv.web",
                "Monitor",
                "tcp/80=HTTP",
                "tcp/8080",
                "41",
                "5432",
                "Violations (1)",
            ][..],
            &["nv.db", "stranger", "42", "\u{1b}"][..],
            "nvctl explain aaaa1 cccc3 tcp/5432",
        ),
        (
            ["workload", "aaaa"],
            &["nv.web"],
            &["nv.db"],
            "nvctl capture start aaaa1",
        ),
        (
            ["group", "nv.web"],
            &["service=web", "Members (1)", "aaaa1", "tcp/8080"],
            &["nv.db"],
            "",
        ),
        (
            ["rule", "7"],
            &[
                "Hits:         3",
                "2023-11-14T22:13:21Z",
                "2 of 2",
                "not enforced",
                "41",
                "Violations (0)",
                "none",
            ],
            &["stranger", "42"],
            "nvctl describe group nv.web",
        ),
        (
            ["service", "web"],
            &["Monitor", "aaaa1", "5432"],
            &["stranger"],
            "nvctl set-mode nv.web Protect",
        ),
        (["node", "n1"], &["connected", "web"], &["bbbb2"], "nvctl status"),
    ] {
        let (code, out, err) = nvctl(&server, &[&["describe"], &args[..]].concat());
        assert_eq!(code, 0, "{args:?}: {err}");
        for part in has {
            assert!(out.contains(part), "{args:?} has no '{part}':\n{out}");
        }
        for part in lacks {
            assert!(!out.contains(part), "{args:?} has '{part}':\n{out}");
        }
        assert!(err.contains(hint), "{args:?}: {err}");
    }
}

#[test]
fn the_same_for_machines_and_what_is_not_there() {
    let server = common::stub(|head| answer(common::path(head)));
    let (code, out, err) = nvctl(&server, &["describe", "workload", "web", "-o", "json"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let whole: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(whole["workload"]["id"], "aaaa1");
    let ids = |field: &str| {
        let list = whole[field].as_array().unwrap().iter();
        list.map(|item| item["id"].to_string()).collect::<Vec<_>>()
    };
    assert_eq!(
        (ids("rules"), ids("violations")),
        (vec!["7".to_owned()], vec!["\"1\"".to_owned()])
    );
    assert_eq!(whole["conversations"].as_array().unwrap().len(), 1);
    assert_eq!(nvctl(&server, &["describe", "rule", "7", "-o", "name"]).1, "7\n");
    for (args, says) in [
        (["workload", "nobody"], "no workload 'nobody'"),
        (["group", "nobody"], "there is none"),
        (["node", "nobody"], "no node 'nobody'"),
    ] {
        let (code, out, err) = nvctl(&server, &[&["describe"], &args[..]].concat());
        assert!(
            code == 1 && out.is_empty() && err.contains(says),
            "{args:?} {code} {out} {err}"
        );
    }
    let (code, _, err) = nvctl(&server, &["describe", "nonsense", "x"]);
    assert!(code == 2 && err.contains("workload"), "{err}");
    let (_, help, _) = nvctl(&server, &["describe", "--help"]);
    assert!(help.contains("Examples") && help.contains("nv.web"), "{help}");
}

#[test]
fn the_status_of_an_endpoint_has_a_reason_for_every_drop() {
    let server = common::stub(|head| match common::path(head) {
        "/v1/endpoint" => (
            "200 OK",
            r#"{"endpoints": [
                {"node": "n1", "ifindex": 7, "name": "veth7", "workload": "0123456789abcdef", "workload_name": "web-1", "addresses": ["10.0.0.2"],
                 "mode": "Protect", "reported_at": 1,
                 "ingress": {"packets": 12, "bytes": 2048, "flows": 3, "allowed": 8, "alerted": 0, "denied": 4, "by_reason": {"default": 3, "spoofed": 1}},
                 "egress": {"packets": 1, "bytes": 60, "flows": 1, "allowed": 1, "alerted": 0, "denied": 0, "by_reason": {}}},
                {"node": "n2", "ifindex": 9, "name": "veth9", "workload": "fedcba9876543210", "workload_name": "db-1", "addresses": [],
                 "mode": "", "reported_at": 1,
                 "ingress": {"packets": 0, "bytes": 0, "flows": 0, "allowed": 0, "alerted": 0, "denied": 0, "by_reason": {}},
                 "egress": {"packets": 0, "bytes": 0, "flows": 0, "allowed": 0, "alerted": 0, "denied": 0, "by_reason": {}}}]}"#,
        ),
        _ => ("404 Not Found", r#"{"error": "x", "message": "not here"}"#),
    });
    for name in ["web-1", "veth7", "0123456789abcdef", "01234567"] {
        let (code, out, err) = nvctl(&server, &["status", "endpoint", name]);
        assert_eq!(code, 0, "{name}: {err}");
        assert!(
            out.contains("veth7 on n1 of web-1: Protect") && !out.contains("veth9"),
            "{out}"
        );
        let row = |words: &[&str]| {
            out.lines()
                .any(|line| line.split_whitespace().collect::<Vec<_>>() == words)
        };
        assert!(row(&["ingress", "12", "2.0", "KiB", "3", "8", "0", "4"]), "{out}");
        assert!(
            row(&["ingress", "default", "3"]) && row(&["ingress", "spoofed", "1"]),
            "{out}"
        );
    }
    let (code, out, _) = nvctl(&server, &["status", "endpoint", "web-1", "-o", "json"]);
    let answer: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &answer["endpoints"][0]["ingress"]["denied"]),
        (0, &4.into())
    );
    let (code, _, err) = nvctl(&server, &["status", "endpoint", "0123"]);
    assert!(
        code == 1 && err.contains("no interface of '0123' is under guard"),
        "{err}"
    );
}
