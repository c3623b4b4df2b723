//! Questions: flows by filter, explain, members.

use nv_controller_core::{Asked, FlowFilter};
use nv_types::{IpProto, Mode, Timestamp, Verdict};

use crate::lab::{
    APP, DB, Lab, NOW, OUTSIDE, WEB, decision, egress, group, ingress, judged, later, rule, workload,
};

#[test]
fn a_filter_holds_all_of_its_words() {
    let mut lab = Lab::with_services();
    let mut dns = egress(APP, DB, 53);
    dns.tuple.proto = IpProto::UDP;
    dns.last_seen = later(9);
    lab.core.report_flows(
        &[
            egress(WEB, APP, 80),
            judged(egress(WEB, DB, 5432), decision(Verdict::Deny, 0)),
            dns,
            ingress(OUTSIDE, WEB, 443),
        ],
        NOW,
    );
    let ports = |filter: FlowFilter| -> Vec<u16> {
        lab.core
            .flows(&filter, 100)
            .iter()
            .map(|view| view.record.tuple.server_port)
            .collect()
    };
    let text = |text: &str| vec![text.to_owned()];
    let any = FlowFilter::default;
    for name in ["web", "web-name", "nv.web", WEB] {
        assert_eq!(
            ports(FlowFilter {
                from: text(name),
                ..any()
            }),
            [80, 5432],
            "{name}"
        );
        assert_eq!(
            ports(FlowFilter {
                to: text(name),
                ..any()
            }),
            [443],
            "{name}"
        );
    }
    assert_eq!(
        ports(FlowFilter {
            from: text("external"),
            ..any()
        }),
        [443]
    );
    assert_eq!(
        ports(FlowFilter {
            from: text(OUTSIDE),
            ..any()
        }),
        [443]
    );
    assert_eq!(
        ports(FlowFilter {
            verdicts: vec![Verdict::Deny],
            ..any()
        }),
        [5432]
    );
    assert_eq!(
        ports(FlowFilter {
            ports: vec![53],
            ..any()
        }),
        [53]
    );
    for proto in ["udp", "UDP", "17"] {
        assert_eq!(
            ports(FlowFilter {
                protocols: text(proto),
                ..any()
            }),
            [53],
            "{proto}"
        );
    }
    assert_eq!(
        ports(FlowFilter {
            since: Some(later(9)),
            ..any()
        }),
        [53]
    );
    assert_eq!(
        ports(FlowFilter {
            from: text("web"),
            ports: vec![53],
            ..any()
        }),
        [0_u16; 0]
    );
    assert_eq!(
        ports(FlowFilter {
            from: vec!["external".to_owned(), "web".to_owned()],
            ports: vec![53, 80, 443],
            ..any()
        }),
        [80, 443],
        "any of a list, and each list"
    );
    let newest: Vec<_> = lab
        .core
        .flows(&any(), 2)
        .iter()
        .map(|view| view.sequence)
        .collect();
    assert_eq!(newest, [3, 4], "the newest, oldest first");
    let followed = lab.core.flows_after(
        0,
        &FlowFilter {
            ports: vec![53],
            ..any()
        },
    );
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
