//! What the controller does of its own accord: services, learned rules.

use nv_types::{Application, Decision, FlowRecord, FlowState, Mode, Reason, RuleId, Verdict};

use crate::lab::{
    APP, DB, LEARNABLE, Lab, NODE, NOW, OUTSIDE, WEB, as_app, decision, egress, ingress, judged, later, rule,
    workload,
};

fn learned(lab: &Lab) -> Vec<String> {
    lab.core
        .input()
        .rules
        .iter()
        .map(|rule| {
            let apps: Vec<_> = rule.applications.iter().map(|app| app.name()).collect();
            format!("{} {} {} [{}]", rule.from, rule.to, rule.ports, apps.join(","))
        })
        .collect()
}

fn closed(record: FlowRecord) -> FlowRecord {
    FlowRecord {
        state: FlowState::Closed,
        ..record
    }
}

#[test]
fn the_first_workload_of_a_service_makes_its_group() {
    let mut lab = Lab::default();
    lab.put_workload(&workload("a1", "web", "10.0.0.2"));
    lab.put_workload(&workload("a2", "web", "10.0.0.5"));
    let mut shop = workload("b1", "web", "10.0.0.6");
    shop.domain = "shop".into();
    lab.put_workload(&shop);
    assert_eq!(lab.core.poll_timeout().map(|at| at <= NOW), Some(true));
    assert_eq!(
        lab.settle(NOW),
        [
            "service nv.web found: Discover",
            "service nv.web.shop found: Discover"
        ]
    );
    assert_eq!(lab.core.poll_timeout(), None);
    let members = lab.core.members();
    let ids = |name: &str| -> Vec<_> { members[name].iter().map(|w| w.id.as_str()).collect() };
    assert_eq!(ids("nv.web"), ["a1", "a2"]);
    assert_eq!(ids("nv.web.shop"), ["b1"]);
    assert_eq!(lab.core.input().modes["nv.web.shop"], Mode::Discover);
}

#[test]
fn a_new_service_gets_the_mode_of_the_settings_unless_one_waits_for_it() {
    let mut lab = Lab::default();
    let draft = serde_json::json!({"new_service_mode": "Monitor"});
    lab.make(|core| core.patch_settings(draft.as_object().unwrap(), NOW));
    lab.put("policy/mode/nv.db", br#"{"v":1,"mode":"Protect"}"#);
    lab.put_workload(&workload("web", "web", WEB));
    lab.put_workload(&workload("db", "db", DB));
    lab.settle(NOW);
    assert_eq!(lab.core.input().modes["nv.web"], Mode::Monitor);
    assert_eq!(lab.core.input().modes["nv.db"], Mode::Protect);
}

#[test]
fn a_service_whose_name_cannot_be_a_groups_is_left_alone() {
    let mut lab = Lab::default();
    lab.put_workload(&workload("x", "bad/name", WEB));
    assert_eq!(lab.core.poll_timeout(), None);
    assert_eq!(lab.core.poll_plan(NOW), None);
}

#[test]
fn a_plan_that_was_not_written_comes_again() {
    let mut lab = Lab::default();
    lab.put_workload(&workload("web", "web", WEB));
    lab.put_workload(&workload("app", "app", APP));
    let plan = lab.core.poll_plan(NOW).unwrap();
    lab.core.plan_failed(NOW);
    assert_eq!(lab.core.poll_plan(NOW), None, "not at once");
    let retry = lab.core.poll_timeout().unwrap();
    assert!(retry > NOW && retry <= later(5));
    assert_eq!(lab.core.poll_plan(retry), Some(plan));
    lab.core.plan_failed(retry);
    lab.settle(later(10));

    lab.core
        .report_flows(&[as_app(egress(WEB, APP, 80), Application::HTTP)], later(10));
    let plan = lab.core.poll_plan(later(12)).unwrap();
    lab.core.plan_failed(later(12));
    let retry = lab.core.poll_timeout().unwrap();
    assert!(retry > later(12));
    assert_eq!(lab.core.poll_plan(retry).unwrap().summary, plan.summary);
}

#[test]
fn discover_learns_by_application_or_by_port() {
    let mut lab = Lab::with_services();
    let now = later(1);
    lab.core.report_flows(
        &[
            as_app(egress(WEB, APP, 8080), Application::HTTP),
            as_app(egress(WEB, APP, 8081), Application::HTTP),
            as_app(egress(APP, DB, 5432), Application::UNKNOWN),
            closed(egress(APP, DB, 6000)),
            egress(APP, DB, 7000),
            as_app(ingress(OUTSIDE, WEB, 443), Application::SSL),
            as_app(ingress(NODE, APP, 9100), Application::UNKNOWN),
        ],
        now,
    );
    let due = lab.core.poll_timeout().unwrap();
    assert!(due > now && due <= later(6), "soon, yet together");
    assert_eq!(lab.core.poll_plan(now), None);
    lab.settle(due);
    assert_eq!(
        learned(&lab),
        [
            "external nv.web any [SSL]",
            "nodes nv.app tcp/9100 []",
            "nv.app nv.db tcp/5432,tcp/6000 []",
            "nv.web nv.app any [HTTP]",
        ],
        "a flow that is not identified yet waits"
    );
    assert_eq!(lab.order(), [10_000, 10_001, 10_002, 10_003]);
    // What is known already writes nothing.
    lab.core
        .report_flows(&[as_app(egress(WEB, APP, 8080), Application::HTTP)], later(20));
    assert_eq!(lab.settle(later(30)), Vec::<String>::new());
    // A new port joins the rule that is there.
    lab.core
        .report_flows(&[as_app(egress(APP, DB, 6379), Application::REDIS)], later(40));
    lab.settle(later(50));
    assert!(
        learned(&lab).contains(&"nv.app nv.db any [Redis]".to_owned()),
        "{:?}",
        learned(&lab)
    );
}

#[test]
fn only_what_passed_for_want_of_a_rule_in_discover_is_learned() {
    let mut lab = Lab::with_services();
    lab.make(|core| core.insert_rules(None, &[rule("nv.web", "nv.app", "tcp/1")], NOW));
    let flow = || as_app(egress(WEB, APP, 8080), Application::HTTP);
    for not_learned in [
        decision(Verdict::Allow, 1),
        decision(Verdict::Alert, 0),
        decision(Verdict::Deny, 0),
        decision(Verdict::Deny, 1),
        Decision {
            verdict: Verdict::Allow,
            reason: Reason::SameWorkload,
            rule: RuleId(0),
        },
        Decision {
            verdict: Verdict::Allow,
            reason: Reason::Pending,
            rule: RuleId(0),
        },
    ] {
        lab.core.report_flows(&[judged(flow(), not_learned)], later(1));
        assert_eq!(lab.core.poll_timeout(), None, "{not_learned:?}");
    }
    // Reported late: the server is in Protect by now.
    lab.core.report_flows(&[judged(flow(), LEARNABLE)], later(1));
    lab.set_mode("app", Mode::Protect);
    assert_eq!(lab.settle(later(10)), Vec::<String>::new());
    lab.set_mode("app", Mode::Discover);
    lab.core.report_flows(&[flow()], later(20));
    assert_eq!(lab.settle(later(30)).len(), 1);
}

#[test]
fn what_is_gathered_is_bounded_and_counted() {
    let mut lab = Lab::with_services();
    let mut records = Vec::new();
    for port in 1..=20_000 {
        let mut record = as_app(egress(WEB, APP, port), Application::UNKNOWN);
        record.tuple.client_port = port;
        records.push(record);
    }
    lab.core.report_flows(&records, NOW);
    assert_eq!(lab.core.lost()["controller_learning"], 10_000);
    lab.settle(later(10));
    assert_eq!(learned(&lab), ["nv.web nv.app any []"], "a scan is one rule");
}
