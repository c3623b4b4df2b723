//! `nvctl policy check`, `diff` and `test` as a script sees them. No controller is asked but where a test says so.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::{Path, PathBuf};

fn nvctl(server: &str, args: &[&str]) -> (i32, String, String) {
    common::nvctl(server, "secret", args)
}

const NOBODY: &str = "http://127.0.0.1:9";

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples/policy")
        .join(name)
}

#[test]
fn a_broken_configuration_does_not_stop_what_needs_none() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    std::fs::write(&config, "not a configuration").unwrap();
    let config = config.to_str().unwrap();
    let shop = sample("shop.yaml");
    let args = ["--config-file", config, "policy", "check", shop.to_str().unwrap()];
    let (code, out, err) = nvctl(NOBODY, &args);
    assert_eq!(code, 0, "{out}{err}");
    assert!(err.contains("not needed here") && err.contains("line 1"), "{err}");
    let (code, _, err) = nvctl(NOBODY, &["--config-file", config, "get", "rules"]);
    assert!(code != 0 && err.contains("line 1"), "{code} {err}");
}

#[test]
fn findings_have_a_line_a_column_and_a_level() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.yaml");
    std::fs::write(
        &file,
        "kind: Rule\nfrom: web\nto: nv.app\nports: 80\naction: allow\n---\n\
         kind: Group\nname: web\ncriteria: [{key: app, value: web}]\n---\n\
         kind: Rule\nid: 7\nfrom: web\nto: nv.app\nports: tcp/80\naction: deny\n---\n\
         kind: Rule\nid: 8\nfrom: absent\nto: nv.app\nports: tcp/1-\naction: deny\n---\n\
         kind: Rule\nid: 9\nfrom: absent\nto: nv.app\naction: deny\n---\n\
         kind: Group\nname: bad\ncriteria:\n  - {key: app, op: regex, value: '('}\n---\n\
         kind: Rule\nid: 10\nfrom: web\nto: nv.app\nports: tcp/70-90\naction: deny\n",
    )
    .unwrap();
    let path = file.to_str().unwrap();
    let (code, out, err) = nvctl(NOBODY, &["policy", "check", path]);
    assert_eq!(code, 4, "{err}");
    let found: Vec<_> = out.lines().map(|line| line.strip_prefix(path).unwrap()).collect();
    let begins = [
        ":3:5: note: service 'nv.app' is not in the file",
        ":11:1: warning: rule 7 can never match: rule 1 comes first",
        ":22:8: error: ports:",
        ":27:7: error: from: there is no group 'absent'",
        ":34:3: error: criteria:",
        ":36:1: note: rule 10 holds in part only: rule 1 comes first",
    ];
    assert_eq!(found.len(), begins.len(), "{out}");
    for (line, begin) in found.iter().zip(begins) {
        assert!(line.starts_with(begin), "{line} / {begin}");
    }
    let (code, out, _) = nvctl(NOBODY, &["policy", "check", path, "-o", "json"]);
    assert_eq!(code, 4);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["findings"][1]["line"], 11);
    assert_eq!(json["findings"][1]["level"], "warning");

    let (code, out, err) = nvctl(
        NOBODY,
        &["policy", "check", sample("shop.yaml").to_str().unwrap()],
    );
    assert_eq!(code, 0, "{out}{err}");
    let (code, _, err) = nvctl(NOBODY, &["policy", "check", "no-such-file.yaml"]);
    assert_eq!(code, 1);
    assert!(err.contains("no-such-file.yaml"), "{err}");
}

#[test]
fn what_differs_between_two_files() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("new.yaml");
    let old = std::fs::read_to_string(sample("shop.yaml")).unwrap();
    std::fs::write(&file, old.replace("tcp/5432", "tcp/5432-5433")).unwrap();
    let (old, new) = (sample("shop.yaml"), file.to_str().unwrap());
    let args = ["policy", "diff", new, "--against", old.to_str().unwrap()];
    let (code, out, err) = nvctl(NOBODY, &args);
    assert_eq!(code, 0, "{err}");
    assert_eq!(
        out,
        "nv.shop -> nv.db tcp/5433: deny (no rule matches) -> allow by rule 2\n"
    );
    let (code, out, err) = nvctl(NOBODY, &["policy", "diff", new, "--against", new]);
    assert_eq!((code, out.as_str()), (0, ""), "{err}");
    assert!(err.contains("no verdict changes"), "{err}");
    std::fs::write(&file, "kind: Rule\nfrom: a\nto: b\naction: allow\n").unwrap();
    let (code, _, err) = nvctl(NOBODY, &args);
    assert_eq!(code, 1);
    assert!(
        err.contains("line 2 column 7: from: there is no group 'a'"),
        "{err}"
    );
}

#[test]
fn what_a_file_would_change_at_the_controller() {
    const GROUPS: &str = r#"{"groups":[
     {"name":"nv.web","comment":"","domain":"","kind":"container","cfg_type":"learned","policy_mode":"Protect",
      "criteria":[{"key":"service","value":"web","op":"="},{"key":"domain","value":"","op":"="}]}]}"#;
    const RULES: &str = r#"{"rules":[{"id":1,"comment":"","from":"external","to":"nv.web","ports":"tcp/80","action":"allow",
     "applications":["any"],"disable":false}]}"#;
    const WORKLOADS: &str = r#"{"workloads":[{"id":"1","name":"web-1","host_id":"n1","service":"web","domain":"","image":"i","labels":{}}]}"#;
    let server = common::stub(|head| match common::path(head) {
        "/v1/group" => ("200 OK", GROUPS),
        "/v1/policy/rule" => ("200 OK", RULES),
        "/v1/workload" => ("200 OK", WORKLOADS),
        "/v1/settings" => ("200 OK", r#"{"settings":{"icmp_policy":false}}"#),
        _ => ("404 Not Found", "{}"),
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.yaml");
    std::fs::write(
        &file,
        "kind: Rule\nid: 1\nfrom: external\nto: nv.web\nports: any\naction: allow\n",
    )
    .unwrap();
    let (code, out, err) = nvctl(&server, &["policy", "diff", file.to_str().unwrap(), "-o", "json"]);
    assert_eq!(code, 0, "{err}");
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    let all = json["differences"].as_array().unwrap();
    assert_eq!(all.len(), 1, "{out}");
    assert_eq!(
        (
            &all[0]["from"],
            &all[0]["to"],
            &all[0]["before"],
            &all[0]["after"]
        ),
        (
            &"external".into(),
            &"nv.web".into(),
            &"deny".into(),
            &"allow".into()
        )
    );
    assert_eq!(
        all[0]["ports"],
        "tcp/0-79,tcp/81-65535,udp/any,sctp/any,other protocols"
    );
}

#[test]
fn cases_pass_or_say_why_not() {
    let (code, out, err) = nvctl(
        NOBODY,
        &["policy", "test", sample("shop-tests.yaml").to_str().unwrap()],
    );
    assert_eq!(code, 0, "{out}{err}");
    assert!(err.contains("6 cases, 0 failed"), "{err}");

    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(sample("shop.yaml"), folder.path().join("shop.yaml")).unwrap();
    let text = std::fs::read_to_string(sample("shop-tests.yaml")).unwrap();
    let (file, junit) = (folder.path().join("t.yaml"), folder.path().join("junit.xml"));
    std::fs::write(
        &file,
        text.replace("expect: allow, rule: 2", "expect: deny")
            .replace("rule: 1}", "rule: 2}"),
    )
    .unwrap();
    let args = [
        "policy",
        "test",
        file.to_str().unwrap(),
        "--junit",
        junit.to_str().unwrap(),
    ];
    let (code, out, err) = nvctl(NOBODY, &args);
    assert_eq!(code, 4, "{out}{err}");
    assert!(
        out.contains("FAILED  the shop keeps its books: expected deny, it is allow"),
        "{out}"
    );
    assert!(
        out.contains("FAILED  the front asks the shop: expected rule 2, it is 1"),
        "{out}"
    );
    assert!(out.contains("because rule 2"), "{out}");
    let xml = std::fs::read_to_string(&junit).unwrap();
    assert!(xml.contains("tests=\"6\" failures=\"2\""), "{xml}");
    assert_eq!(xml.matches("<testcase ").count(), 6);
    assert!(xml.contains("-&gt;") && xml.ends_with("</testsuite>\n"), "{xml}");

    for (bad, words) in [
        (
            "to: shop-1",
            "case 1 (the front asks the shop): to: 'shop-2' is neither a workload nor an address",
        ),
        ("expect: allow", "expect: use allow, alert or deny"),
        ("port: tcp/8080", "port: one port is needed"),
    ] {
        let instead = match bad {
            "to: shop-1" => "to: shop-2",
            "expect: allow" => "expect: yes please",
            _ => "port: any",
        };
        std::fs::write(&file, text.replacen(bad, instead, 1)).unwrap();
        let (code, _, err) = nvctl(NOBODY, &args);
        assert_eq!(code, 1, "{err}");
        assert!(err.contains(words), "{err}");
    }
    std::fs::write(&file, text.replace("cases:", "casses:")).unwrap();
    let (code, _, err) = nvctl(NOBODY, &args);
    assert_eq!(code, 1);
    assert!(err.contains("casses") && err.contains("line 7"), "{err}");
}
