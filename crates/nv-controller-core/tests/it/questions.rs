//! Questions: flows by filter, explain, members.

use nv_controller_core::{Asked, Document, FlowView};
use nv_types::{FlowState, IpProto, Mode, Timestamp, Verdict};

use crate::lab::{APP, DB, Lab, NOW, OUTSIDE, WEB, decision, egress, group, ingress, judged, rule, workload};

#[test]
fn flows_are_given_newest_first_to_go_and_followed_by_number() {
    let mut lab = Lab::with_services();
    let mut dns = egress(APP, DB, 53);
    dns.tuple.proto = IpProto::UDP;
    lab.core.report_flows(
        &[
            egress(WEB, APP, 80),
            judged(egress(WEB, DB, 5432), decision(Verdict::Deny, 0)),
            dns,
            ingress(OUTSIDE, WEB, 443),
        ],
        NOW,
    );
    let sequences = |limit| -> Vec<u64> {
        let flows = lab.core.flows(|_| true, limit);
        flows.iter().map(|view| view.sequence).collect()
    };
    assert_eq!(sequences(2), [3, 4], "the newest, oldest first");
    assert_eq!(sequences(100), [1, 2, 3, 4]);
    let is_dns = |view: &FlowView| view.record.tuple.server_port == 53;
    assert_eq!(lab.core.flows(is_dns, 1)[0].client.name, "app-name");
    let followed = lab.core.flows_after(0, is_dns);
    assert_eq!(
        (followed.flows.len(), followed.sequence, followed.missed),
        (1, 4, 0)
    );
}

fn asked(from: &str, to: &str) -> Asked {
    Asked {
        from: from.into(),
        to: to.into(),
        proto: IpProto::TCP,
        port: 80,
        app: None,
    }
}

#[test]
fn ends_are_found_by_whatever_they_are_called() {
    let mut lab = Lab::with_services();
    lab.put_workload(&workload("4f3c2b1a0000", "shop", "10.0.0.20"));
    lab.settle(NOW);
    lab.make(|core| core.create_group(&group("front", &[("service", "=", "web")]), NOW));
    lab.make(|core| core.insert_rules(None, &[rule("front", "nv.app", "tcp/80")], NOW));
    for name in ["web", "app", "shop"] {
        lab.set_mode(name, Mode::Protect);
    }
    let verdict = |from: &str, to: &str| {
        let explanation = lab.core.explain(&asked(from, to)).unwrap();
        (explanation.decision.verdict, explanation.decision.rule.0)
    };
    for from in ["web", "web-name", "nv.web", WEB, "front"] {
        for to in ["app", "app-name", "nv.app", APP] {
            assert_eq!(verdict(from, to), (Verdict::Allow, 1), "{from} {to}");
        }
    }
    for from in [
        "4f3c2b1a0000",
        "4f3c",
        "shop",
        "10.0.0.20",
        "external",
        "nodes",
        OUTSIDE,
    ] {
        assert_eq!(verdict(from, "app"), (Verdict::Deny, 0), "{from}");
    }
    for (from, to, message) in [
        (
            "nobody",
            "app",
            "from: 'nobody' is no workload, service, group or address",
        ),
        (
            "web",
            "4f3",
            "to: '4f3' is no workload, service, group or address",
        ),
        ("", "app", "from: '' is no workload"),
    ] {
        let error = lab.core.explain(&asked(from, to)).unwrap_err();
        assert!(error.to_string().starts_with(message), "{error}");
    }
}

#[test]
fn the_start_of_an_id_must_be_of_one_workload_and_hides_no_name() {
    let mut lab = Lab::with_services();
    lab.put_workload(&workload("netns:a", "a", "10.0.0.21"));
    lab.put_workload(&workload("netns:b", "b", "10.0.0.22"));
    lab.settle(NOW);
    assert!(
        lab.core.explain(&asked("netns", "app")).is_err(),
        "two begin like that"
    );
    lab.put_workload(&workload("cafe0123", "x", "10.0.0.23"));
    lab.put_workload(&workload("other", "cafe", "10.0.0.24"));
    lab.settle(NOW);
    lab.make(|core| core.insert_rules(None, &[rule("nv.cafe", "nv.app", "tcp/80")], NOW));
    let explanation = lab.core.explain(&asked("cafe", "app")).unwrap();
    assert_eq!(
        explanation.decision.rule.0, 1,
        "the service, not the id that begins like it"
    );
}

#[test]
fn groups_of_a_workload_and_members_of_a_group_agree() {
    let mut lab = Lab::with_services();
    lab.make(|core| core.create_group(&group("front", &[("service", "=", "w*")]), NOW));
    let input = lab.core.input().clone();
    let members = lab.core.members();
    for workload in input.workloads.values() {
        let groups = lab.core.groups_of(workload);
        for (name, list) in &members {
            assert_eq!(
                list.iter().any(|w| w.id == workload.id),
                groups.contains(name),
                "{name}"
            );
        }
    }
    assert_eq!(members["front"].len(), 1);
    assert_eq!(lab.core.poll_timeout(), None::<Timestamp>);
}

#[test]
fn a_proposed_file_is_tried_on_what_was_seen_and_changes_nothing() {
    let mut lab = Lab::with_services();
    let mut twice = egress(WEB, APP, 80);
    lab.core.report_flows(&[twice.clone()], NOW);
    twice.state = FlowState::Closed;
    let mut other = egress(WEB, APP, 80);
    other.tuple.client_port += 1;
    lab.core
        .report_flows(&[twice, other, egress(DB, APP, 80), egress(WEB, APP, 81)], NOW);
    let file = [
        Document::Rule(rule("nv.web", "nv.app", "tcp/80")),
        Document::ServiceMode {
            service: "app".into(),
            mode: "Protect".into(),
        },
    ];
    let before = lab.core.input().clone();
    let simulation = lab.core.simulation(&file, |_| true, NOW).unwrap();
    assert_eq!(simulation.summary.len(), 2, "{:?}", simulation.summary);
    let outcome = simulation.run();
    assert_eq!(outcome.flows, 4, "a flow that is told of twice is one");
    let affected: Vec<_> = outcome
        .affected
        .iter()
        .map(|found| {
            let view = &found.flows.flow;
            let verdicts = (found.before.0.verdict, found.after.0.verdict);
            (view.client.name.as_str(), view.record.tuple.server_port, verdicts)
        })
        .collect();
    let denied = (Verdict::Allow, Verdict::Deny);
    assert_eq!(affected.len(), 2, "{affected:?}");
    assert!(affected.contains(&("db-name", 80, denied)) && affected.contains(&("web-name", 81, denied)));
    assert_eq!(*lab.core.input(), before);
    let bad = [Document::Rule(rule("nowhere", "nv.app", "tcp/80"))];
    assert!(lab.core.simulation(&bad, |_| true, NOW).is_err());
}
