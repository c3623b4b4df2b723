//! Requests for rules.

use nv_controller_core::{ErrorKind, RuleDraft, RulePatch};
use nv_types::{Action, Application, RuleId, Timestamp};

use crate::lab::{APP, WEB, as_app};
use crate::lab::{Lab, NOW, egress, group, later, numbered, rule};

fn with_rules(ids: &[u32]) -> Lab {
    let mut lab = Lab::with_services();
    let drafts: Vec<_> = ids.iter().map(|id| numbered(*id)).collect();
    lab.make(|core| core.insert_rules(None, &drafts, NOW));
    lab
}

#[test]
fn rules_go_where_after_says() {
    for (after, order) in [
        (None, [1, 2, 3, 7, 8]),
        (Some(0), [7, 8, 1, 2, 3]),
        (Some(1), [1, 7, 8, 2, 3]),
        (Some(3), [1, 2, 3, 7, 8]),
        (Some(-1), [7, 8, 1, 2, 3]),
        (Some(-3), [1, 2, 7, 8, 3]),
    ] {
        let mut lab = with_rules(&[1, 2, 3]);
        lab.make(|core| core.insert_rules(after, &[numbered(7), numbered(8)], NOW));
        assert_eq!(lab.order(), order, "{after:?}");
    }
}

#[test]
fn rules_move() {
    for (id, after, order) in [
        (1, None, [2, 3, 1]),
        (3, Some(0), [3, 1, 2]),
        (1, Some(2), [2, 1, 3]),
        (3, Some(-2), [1, 3, 2]),
        (2, Some(1), [1, 2, 3]),
    ] {
        let mut lab = with_rules(&[1, 2, 3]);
        lab.make(|core| core.move_rule(RuleId(id), after, NOW));
        assert_eq!(lab.order(), order, "{id} {after:?}");
    }
    let lab = with_rules(&[1, 2, 3]);
    let error = lab.refused(|core| core.move_rule(RuleId(9), None, NOW));
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (ErrorKind::NotFound, "there is no rule '9'")
    );
    for (after, message) in [
        (9, "after: there is no rule '9'"),
        (i64::MIN, "after: there is no rule"),
        (2, "cannot stand before or after itself"),
    ] {
        let error = lab.refused(|core| core.move_rule(RuleId(2), Some(after), NOW));
        assert!(error.to_string().contains(message), "{error}");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

#[test]
fn numbers_are_one_above_the_highest_then_the_smallest_free() {
    let mut lab = with_rules(&[3]);
    let unnumbered = rule("nv.web", "nv.app", "80");
    lab.make(|core| core.insert_rules(None, &[unnumbered.clone(), unnumbered.clone()], NOW));
    assert_eq!(lab.order(), [3, 4, 5]);
    lab.make(|core| core.insert_rules(None, &[numbered(9_999)], NOW));
    lab.make(|core| core.insert_rules(None, &[unnumbered.clone(), unnumbered], NOW));
    assert_eq!(lab.order(), [3, 4, 5, 9_999, 1, 2]);
}

#[test]
fn a_full_range_of_numbers_says_so() {
    let mut lab = Lab::default();
    let all: Vec<_> = (1..=9_999).map(numbered).collect();
    lab.make(|core| core.insert_rules(None, &all, NOW));
    let error = lab.refused(|core| core.insert_rules(None, &[numbered(0)], NOW));
    assert_eq!(error.kind(), ErrorKind::Limit);
    assert!(error.to_string().contains("9999"), "{error}");
}

#[test]
fn many_rules_without_a_number_are_quick() {
    let mut lab = Lab::default();
    let all: Vec<_> = (1..=9_000).map(|_| numbered(0)).collect();
    let start = std::time::Instant::now();
    lab.make(|core| core.insert_rules(None, &all, NOW));
    lab.make(|core| {
        core.patch_rule(
            RuleId(1),
            &RulePatch {
                disable: Some(true),
                ..RulePatch::default()
            },
            NOW,
        )
    });
    // Steps that grow with the square of the rules take two minutes in a debug build.
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
    assert_eq!(lab.order().len(), 9_000);
}

#[test]
fn a_wrong_rule_is_refused_with_its_field() {
    let mut lab = with_rules(&[1]);
    lab.make(|core| core.create_group(&group("lan", &[("address", "=", "10.1.0.0/16")]), NOW));
    let wrong = |change: fn(&mut RuleDraft)| {
        let mut draft = rule("nv.web", "nv.app", "tcp/80");
        change(&mut draft);
        draft
    };
    for (draft, message) in [
        (
            wrong(|r| r.from = "nobody".into()),
            "from: there is no group 'nobody'",
        ),
        (
            wrong(|r| r.to = "nobody".into()),
            "to: there is no group 'nobody'",
        ),
        (wrong(|r| r.to = String::new()), "to: "),
        (wrong(|r| r.ports = "tcp/70000".into()), "ports: "),
        (wrong(|r| r.ports = "tcp/90-80".into()), "ports: "),
        (wrong(|r| r.action = "maybe".into()), "action: 'maybe'"),
        (
            wrong(|r| r.applications = vec!["Telepathy".into()]),
            "applications: unknown application 'Telepathy'",
        ),
        (
            wrong(|r| r.applications = vec!["HTTP".into(), "http".into()]),
            "applications: 'HTTP' is there twice",
        ),
        (wrong(|r| r.id = 10_000), "id: 10000 is not from 1 to 9999"),
        (
            wrong(|r| r.comment = "x".repeat(1025)),
            "comment: longer than 1024",
        ),
        (
            wrong(|r| (r.from, r.to) = ("lan".into(), "external".into())),
            "at least one side must be a group of workloads",
        ),
        (
            wrong(|r| r.to = "Workload:ingress".into()),
            "can only stand in from",
        ),
    ] {
        let error = lab.refused(|core| core.insert_rules(None, std::slice::from_ref(&draft), NOW));
        assert!(error.to_string().contains(message), "{error}");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
    let error = lab.refused(|core| core.insert_rules(None, &[numbered(2), numbered(1)], NOW));
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (ErrorKind::Conflict, "rule '1' is there already")
    );
    let error = lab.refused(|core| core.insert_rules(Some(77), &[numbered(2)], NOW));
    assert_eq!(error.to_string(), "after: there is no rule '77'");
}

#[test]
fn a_rule_changes_by_field() {
    let mut lab = with_rules(&[1, 2]);
    let patch = RulePatch {
        ports: Some("udp/53".into()),
        action: Some("deny".into()),
        applications: Some(vec!["DNS".into()]),
        disable: Some(true),
        ..RulePatch::default()
    };
    lab.make(|core| core.patch_rule(RuleId(2), &patch, later(5)));
    let changed = &lab.core.input().rules[1];
    assert_eq!(changed.ports.to_string(), "udp/53");
    assert_eq!(
        (changed.action, changed.disable, changed.applications.as_slice()),
        (Action::Deny, true, [Application::DNS].as_slice())
    );
    assert_eq!((changed.created, changed.modified), (NOW, later(5)));
    assert_eq!(changed.from.as_str(), "containers");
    let error = lab.refused(|core| {
        let patch = RulePatch {
            to: Some("nobody".into()),
            ..RulePatch::default()
        };
        core.patch_rule(RuleId(2), &patch, NOW)
    });
    assert_eq!(error.to_string(), "rule 2: to: there is no group 'nobody'");
    let error = lab.refused(|core| core.patch_rule(RuleId(9), &patch, NOW));
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn the_whole_list_is_replaced() {
    let mut lab = with_rules(&[1, 2, 3]);
    let mut kept = numbered(2);
    kept.ports = "tcp/80".into();
    lab.make(|core| core.replace_rules(&[numbered(5), kept, rule("nv.web", "nv.db", "any")], later(1)));
    assert_eq!(lab.order(), [5, 2, 6]);
    assert_eq!(lab.core.input().rules[1].created, NOW);
    assert_eq!(lab.core.input().rules[1].ports.to_string(), "tcp/80");
    let error = lab.refused(|core| core.replace_rules(&[numbered(5), numbered(2), numbered(5)], NOW));
    assert_eq!(error.to_string(), "rules[2].id: rule 5 is in the list twice");
    lab.make(|core| core.replace_rules(&[], NOW));
    assert!(lab.order().is_empty());
}

#[test]
fn learned_rules_can_only_be_deleted() {
    let mut lab = with_rules(&[1]);
    lab.core
        .report_flows(&[as_app(egress(WEB, APP, 80), Application::HTTP)], NOW);
    lab.settle(later(10));
    assert_eq!(lab.order(), [1, 10_000]);
    let learned = RuleId(10_000);
    let patch = RulePatch {
        disable: Some(true),
        ..RulePatch::default()
    };
    let error = lab.refused(|core| core.patch_rule(learned, &patch, NOW));
    assert_eq!(
        error.to_string(),
        "rule 10000: only rules that a user made can be changed; delete it or make one above it"
    );
    lab.make(|core| core.replace_rules(&[numbered(4)], NOW));
    assert_eq!(lab.order(), [4, 10_000], "learned rules stay");
    lab.make(|core| core.delete_rules(&[learned], NOW));
    assert_eq!(lab.order(), [4]);
    let error = lab.refused(|core| core.delete_rules(&[RuleId(4), RuleId(4)], NOW));
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn nothing_is_written_for_what_is_so_already() {
    let mut lab = with_rules(&[1, 2]);
    for plan in [
        lab.core.patch_rule(
            RuleId(1),
            &RulePatch {
                ports: Some("tcp/443".into()),
                ..RulePatch::default()
            },
            later(1),
        ),
        lab.core.replace_rules(&[numbered(1), numbered(2)], later(1)),
        lab.core.move_rule(RuleId(2), None, later(1)),
    ] {
        let plan = plan.unwrap();
        assert!(plan.is_empty(), "{plan:?}");
        assert!(plan.summary.is_empty(), "{plan:?}");
    }
    let plan = lab.core.delete_rules(&[RuleId(1)], Timestamp(1)).unwrap();
    let keys: Vec<_> = plan.conditions.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["policy/order", "policy/rule/000001"]);
    lab.commit(&plan).unwrap();
    assert_eq!(
        lab.commit(&plan),
        Err("policy/order".to_owned()),
        "a plan that is out of date"
    );
}
