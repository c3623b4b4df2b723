//! Requests for groups, modes and settings.

use nv_controller_core::{Asked, CommandError, ErrorKind};
use nv_types::{Contention, IpProto, Mode, Reason, Verdict};
use serde_json::json;

use crate::lab::{Lab, NOW, group, later, rule, workload};

#[test]
fn a_group_is_made_changed_and_deleted() {
    let mut lab = Lab::default();
    let front = group("front", &[("service", "=", "web")]);
    assert_eq!(
        lab.make(|core| core.create_group(&front, NOW)),
        ["group front added"]
    );
    let wider = [group("", &[("image", "prefix", "web")]).criteria.remove(0)];
    lab.make(|core| core.patch_group("front", Some("what faces outside"), Some(&wider), NOW));
    let stored = &lab.core.input().groups["front"];
    assert_eq!(
        (stored.comment.as_str(), stored.criteria[0].key.as_str()),
        ("what faces outside", "image")
    );
    lab.make(|core| core.patch_group("front", Some(""), None, NOW));
    assert_eq!(lab.core.input().groups["front"].criteria.len(), 1);
    lab.make(|core| core.delete_group("front", NOW));
    assert!(lab.core.input().groups.is_empty());
}

#[test]
fn a_wrong_group_is_refused_with_its_field() {
    let mut lab = Lab::with_services();
    lab.make(|core| core.create_group(&group("front", &[("service", "=", "web")]), NOW));
    for (draft, kind, message) in [
        (
            group("", &[("service", "=", "web")]),
            ErrorKind::Invalid,
            "name: ",
        ),
        (
            group("a/b", &[("service", "=", "web")]),
            ErrorKind::Invalid,
            "name: ",
        ),
        (group("x", &[]), ErrorKind::Invalid, "criteria"),
        (
            group("x", &[("service", "~", "web")]),
            ErrorKind::Invalid,
            "criteria[0].op: unknown operator '~'",
        ),
        (
            group("x", &[("service", "=", "web"), ("image", "regex", "(")]),
            ErrorKind::Invalid,
            "criteria[1]",
        ),
        (
            group("x", &[("address", "=", "10.0.0.300")]),
            ErrorKind::Invalid,
            "criteria[0]",
        ),
        (
            group("nv.mine", &[("service", "=", "web")]),
            ErrorKind::Invalid,
            "name: 'nv.mine' begins like",
        ),
        (
            group("external", &[("service", "=", "web")]),
            ErrorKind::Conflict,
            "group 'external' is there already",
        ),
        (
            group("front", &[("service", "=", "web")]),
            ErrorKind::Conflict,
            "group 'front' is there already",
        ),
    ] {
        let error = lab.refused(|core| core.create_group(&draft, NOW));
        assert!(error.to_string().contains(message), "{error}");
        assert_eq!(error.kind(), kind, "{error}");
    }
}

#[test]
fn a_group_that_something_uses_stays() {
    let mut lab = Lab::with_services();
    lab.make(|core| core.create_group(&group("front", &[("service", "=", "web")]), NOW));
    lab.make(|core| {
        core.insert_rules(
            None,
            &[rule("front", "nv.app", "tcp/80"), rule("nv.db", "front", "any")],
            NOW,
        )
    });
    let error = lab.refused(|core| core.delete_group("front", NOW));
    assert_eq!(error.to_string(), "group 'front' is used by rules 1, 2");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let error = lab.refused(|core| core.delete_group("nv.web", NOW));
    assert_eq!(
        error.to_string(),
        "group 'nv.web' is used by 1 workloads of this service"
    );
    for (name, kind) in [("nobody", ErrorKind::NotFound), ("external", ErrorKind::Invalid)] {
        assert_eq!(lab.refused(|core| core.delete_group(name, NOW)).kind(), kind);
    }
    let error = lab.refused(|core| core.patch_group("nv.web", Some("x"), None, NOW));
    assert!(matches!(error, CommandError::Fixed { .. }), "{error}");
    lab.make(|core| core.delete_rules(&[nv_types::RuleId(1), nv_types::RuleId(2)], NOW));
    lab.make(|core| core.delete_group("front", NOW));
}

#[test]
fn modes_are_of_services_and_nodes() {
    let mut lab = Lab::with_services();
    let all = ["web".to_owned(), "nv.app".to_owned(), "nodes".to_owned()];
    assert_eq!(
        lab.make(|core| core.set_modes(&all, Mode::Protect, NOW)),
        [
            "service nv.web: Protect",
            "service nv.app: Protect",
            "service nodes: Protect"
        ]
    );
    let modes = &lab.core.input().modes;
    assert_eq!(
        ["nv.web", "nv.app", "nodes", "nv.db"].map(|name| modes[name]),
        [Mode::Protect, Mode::Protect, Mode::Protect, Mode::Discover]
    );
    let again = lab.core.set_modes(&all, Mode::Protect, NOW).unwrap();
    assert!(again.is_empty() && again.summary.is_empty());
    let error = lab.refused(|core| core.set_modes(&["web".into(), "nobody".into()], Mode::Monitor, NOW));
    assert_eq!(error.to_string(), "there is no service 'nobody'");
    let error = lab.refused(|core| core.set_modes(&["containers".into()], Mode::Monitor, NOW));
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn a_users_group_does_not_hide_the_service_of_its_name() {
    let mut lab = Lab::with_services();
    lab.make(|core| core.create_group(&group("web", &[("image", "prefix", "web")]), NOW));
    lab.set_mode("web", Mode::Monitor);
    assert_eq!(lab.core.input().modes["nv.web"], Mode::Monitor);
    lab.make(|core| core.create_group(&group("edge", &[("image", "prefix", "web")]), NOW));
    let error = lab.refused(|core| core.set_modes(&["edge".into()], Mode::Monitor, NOW));
    assert!(
        error
            .to_string()
            .contains("only services (groups nv.*) and 'nodes' have a mode"),
        "{error}"
    );
}

#[test]
fn settings_change_by_field_and_are_refused_by_name() {
    let mut lab = Lab::default();
    let map = |value: serde_json::Value| value.as_object().cloned().unwrap();
    let draft = map(json!({"contention": "basic", "new_service_mode": "Monitor"}));
    lab.make(|core| core.patch_settings(&draft, NOW));
    let settings = &lab.core.input().settings;
    assert_eq!(
        (
            settings.contention,
            settings.new_service_mode,
            settings.icmp_policy
        ),
        (Contention::Basic, Mode::Monitor, true)
    );
    assert!(lab.core.patch_settings(&draft, NOW).unwrap().is_empty());
    for (draft, field) in [
        (json!({"contention": "lax"}), "contention: "),
        (
            json!({"contention": "basic", "colour": "red"}),
            "colour: there is no such setting",
        ),
        (json!({"icmp_policy": "yes"}), "icmp_policy: "),
        (json!({"failsafe_ports": ["tcp/99999"]}), "failsafe_ports: "),
    ] {
        let error = lab.refused(|core| core.patch_settings(&map(draft), NOW));
        assert!(error.to_string().starts_with(field), "{error}");
    }
}

#[test]
fn a_quarantine_holds_until_it_is_lifted_and_is_explained() {
    let mut lab = Lab::with_services();
    let words = lab.make(|core| core.set_quarantine("web", true, Some("odd"), NOW));
    assert_eq!(words, ["workload web-name: in quarantine (odd)"]);
    let policy = lab.core.policy_revision();
    assert_eq!(policy.0, lab.revision, "nodes are to enforce it");
    let since = lab.core.input().quarantines["web"].since;
    assert!(
        lab.core
            .set_quarantine("web", true, Some("odd"), later(9))
            .unwrap()
            .is_empty()
    );
    lab.make(|core| core.set_quarantine("web", true, Some("very odd"), later(9)));
    assert_eq!(lab.core.input().quarantines["web"].since, since);
    let ask = |from: &str, to: &str| Asked {
        from: from.into(),
        to: to.into(),
        proto: IpProto::TCP,
        port: 80,
        app: None,
    };
    for (from, to) in [("web", "app"), ("db", "web")] {
        let found = lab.core.explain(&ask(from, to)).unwrap();
        assert_eq!(found.decision.reason, Reason::Quarantined);
        assert!(
            found.text.contains("DENY") && found.text.contains("web (very odd)"),
            "{}",
            found.text
        );
    }
    let found = lab.core.explain(&ask("db", "app")).unwrap();
    assert_eq!(found.decision.verdict, Verdict::Allow);
    assert!(
        !lab.core
            .explain(&ask("web", "web"))
            .unwrap()
            .text
            .contains("quarantine")
    );

    for (id, quarantine) in [("nobody", true), ("nobody", false)] {
        let error = lab.refused(|core| core.set_quarantine(id, quarantine, None, NOW));
        assert_eq!(error.to_string(), "there is no workload 'nobody'");
    }
    let long = "x".repeat(257);
    let error = lab.refused(|core| core.set_quarantine("app", true, Some(&long), NOW));
    assert!(error.to_string().starts_with("quarantine_reason: "), "{error}");
    let mut host = workload("agent", "agent", "10.0.0.9");
    host.host_network = true;
    lab.put_workload(&host);
    let error = lab.refused(|core| core.set_quarantine("agent", true, None, NOW));
    assert!(
        error.to_string().starts_with("quarantine: 'agent-name' shares"),
        "{error}"
    );

    // Its workload may end meanwhile.
    lab.delete("workload/n1/web");
    assert!(
        !lab.core.input().workloads.contains_key("web") && lab.core.input().quarantines.contains_key("web")
    );
    let before = lab.core.policy_revision();
    assert_eq!(
        lab.make(|core| core.set_quarantine("web", false, None, NOW)),
        ["workload web: out of quarantine"]
    );
    assert!(lab.core.input().quarantines.is_empty() && lab.core.policy_revision() > before);
}
