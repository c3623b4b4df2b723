//! Policy files: whole or not at all.

use nv_controller_core::{CommandError, Document, ErrorKind, RuleDraft};
use nv_types::Mode;
use serde_json::json;

use crate::lab::{Lab, NOW, group, later, numbered, rule};

fn mode(service: &str, mode: &str) -> Document {
    Document::ServiceMode {
        service: service.into(),
        mode: mode.into(),
    }
}

fn placed(id: u32, after: i64) -> Document {
    Document::Rule(RuleDraft {
        after: Some(after),
        ..numbered(id)
    })
}

fn settings(value: serde_json::Value) -> Document {
    Document::Settings(value.as_object().cloned().unwrap())
}

#[test]
fn a_file_may_name_a_group_before_it_makes_it() {
    let mut lab = Lab::with_services();
    let file = [
        Document::Rule(rule("front", "nv.app", "tcp/8080")),
        mode("app", "Protect"),
        settings(json!({"contention": "basic"})),
        Document::Group(group("front", &[("service", "=", "web")])),
    ];
    let said = lab.make(|core| core.apply(&file, NOW));
    assert_eq!(
        said,
        [
            "group front added",
            "rule 1 added: allow front -> nv.app tcp/8080",
            "service nv.app: Protect",
            "settings: contention"
        ]
    );
    assert_eq!(lab.core.input().modes["nv.app"], Mode::Protect);
}

#[test]
fn a_file_that_is_so_already_changes_nothing() {
    let mut lab = Lab::with_services();
    let file = [
        Document::Group(group("front", &[("service", "=", "web")])),
        Document::Rule(numbered(7)),
        Document::Rule(rule("front", "nv.app", "tcp/8080")),
        mode("app", "Protect"),
        settings(json!({"contention": "basic"})),
    ];
    lab.make(|core| core.apply(&file, NOW));
    let again = lab.core.apply(&file, later(60)).unwrap();
    assert!(again.is_empty(), "{again:?}");
    assert!(again.summary.is_empty(), "{again:?}");
}

#[test]
fn one_wrong_document_and_nothing_happens() {
    let lab = Lab::with_services();
    let good = Document::Rule(rule("nv.web", "nv.app", "tcp/80"));
    for (wrong, message) in [
        (
            Document::Rule(rule("nobody", "nv.app", "tcp/80")),
            "from: there is no group 'nobody'",
        ),
        (
            Document::Rule(rule("nv.web", "nv.app", "tcp/x")),
            "document 2: ports: ",
        ),
        (mode("app", "Strict"), "document 2: mode: unknown mode"),
        (
            mode("nobody", "Protect"),
            "document 2: there is no service 'nobody'",
        ),
        (
            Document::Group(group("nv.x", &[("service", "=", "x")])),
            "document 2: group 'nv.x': name: ",
        ),
        (
            Document::Group(group("external", &[("service", "=", "x")])),
            "document 2: group 'external': name: 'external' is reserved",
        ),
        (
            settings(json!({"colour": 1})),
            "document 2: colour: there is no such setting",
        ),
        (placed(3, 99), "document 2: after: there is no rule '99'"),
    ] {
        let error = lab.refused(|core| core.apply(&[good.clone(), wrong.clone()], NOW));
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[test]
fn what_is_in_a_file_twice_is_named() {
    let lab = Lab::with_services();
    let front = Document::Group(group("front", &[("service", "=", "web")]));
    for (documents, name) in [
        ([front.clone(), front], "front"),
        ([Document::Rule(numbered(3)), Document::Rule(numbered(3))], "3"),
        ([mode("web", "Monitor"), mode("nv.web", "Protect")], "web"),
        (
            [
                settings(json!({"contention": "basic"})),
                settings(json!({"icmp_policy": true})),
            ],
            "",
        ),
        (
            [Document::Rule(numbered(0)), Document::Rule(numbered(0))],
            "containers -> external tcp/443",
        ),
    ] {
        let error = lab.refused(|core| core.apply(&documents, NOW));
        let CommandError::Duplicate {
            document: 2,
            name: found,
            ..
        } = &error
        else {
            panic!("{error}");
        };
        assert!(found.contains(name), "{error}");
    }
}

#[test]
fn rules_of_a_file_may_stand_after_each_other_in_any_order() {
    let mut lab = Lab::default();
    lab.make(|core| core.apply(&[placed(3, 2), placed(2, 1), Document::Rule(numbered(1))], NOW));
    assert_eq!(lab.order(), [1, 2, 3]);
}

#[test]
fn rules_of_a_file_that_wait_for_each_other_are_a_cycle() {
    let mut lab = Lab::default();
    let file = [placed(1, 3), placed(2, 1), placed(3, 2), placed(4, 1)];
    let expect = |error: CommandError| {
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let text = error.to_string();
        assert!(
            text.contains("1") && text.contains("2") && text.contains("3"),
            "{text}"
        );
        assert!(text.contains("cycle"), "{text}");
    };
    expect(lab.refused(|core| core.apply(&file, NOW)));
    // The same when the rules are there already.
    let rules: Vec<_> = (1..=4).map(|id| Document::Rule(numbered(id))).collect();
    lab.make(|core| core.apply(&rules, NOW));
    expect(lab.refused(|core| core.apply(&file, NOW)));
    let error = lab.refused(|core| core.apply(&[placed(5, 5)], NOW));
    assert!(
        error.to_string().contains("cannot stand before or after itself"),
        "{error}"
    );
}

#[test]
fn a_file_does_not_take_over_what_a_user_may_not_change() {
    let mut lab = Lab::with_services();
    let ground = br#"{"v":1,"name":"crd","kind":"container","origin":"ground","criteria":[{"key":"service","value":"x","op":"="}]}"#;
    lab.put("policy/group/crd", ground);
    assert_eq!(lab.core.problems().get("policy/group/crd"), None);
    let error =
        lab.refused(|core| core.apply(&[Document::Group(group("crd", &[("service", "=", "y")]))], NOW));
    assert!(error.to_string().contains("crd"), "{error}");
    assert!(
        error.to_string().contains("only groups that a user made"),
        "{error}"
    );
}
