//! Flow reports: what counts twice and what does not, conversations, violations, bounds.

use nv_controller_core::{EndpointKind, FlowView};
use nv_types::{Application, FlowRecord, FlowState, IpProto, Mode, Peer, Timestamp, Verdict};

use crate::lab::{
    APP, DB, Lab, NODE, NOW, OUTSIDE, WEB, as_app, decision, egress, ingress, judged, later, node, workload,
};

fn with_bytes(record: FlowRecord, bytes: u64) -> FlowRecord {
    FlowRecord {
        bytes_to_server: bytes,
        bytes_to_client: 0,
        ..record
    }
}

fn from_port(record: FlowRecord, client_port: u16) -> FlowRecord {
    let mut record = record;
    record.tuple.client_port = client_port;
    record
}

fn in_state(record: FlowRecord, state: FlowState) -> FlowRecord {
    FlowRecord { state, ..record }
}

/// Bytes and flows of all conversations.
fn sums(lab: &Lab) -> (u64, u64) {
    let all = lab.core.conversations();
    (
        all.iter().map(nv_controller_core::Conversation::bytes).sum(),
        all.iter().map(nv_controller_core::Conversation::sessions).sum(),
    )
}

#[test]
fn a_flow_that_both_ends_tell_of_counts_once() {
    for swapped in [false, true] {
        let mut lab = Lab::with_services();
        lab.put_node(&node("n1", 1));
        let mut batch = vec![
            with_bytes(egress(WEB, APP, 80), 1000),
            with_bytes(ingress(WEB, APP, 80), 990),
        ];
        if swapped {
            batch.reverse();
        }
        lab.core.report_flows(&batch, NOW);
        assert_eq!(sums(&lab), (1000, 1), "{swapped}");
        assert_eq!(lab.core.flow_sequence(), 1);
    }
}

#[test]
fn the_servers_word_counts_where_nobody_guards_the_client() {
    let mut lab = Lab::with_services();
    lab.put_node(&node("n1", 1));
    lab.core.report_flows(
        &[
            with_bytes(ingress(OUTSIDE, APP, 80), 10),
            with_bytes(ingress(NODE, APP, 80), 20),
        ],
        NOW,
    );
    assert_eq!(sums(&lab), (30, 2));
    let mut hosted = workload("web", "web", WEB);
    hosted.host_network = true;
    lab.put_workload(&hosted);
    lab.core
        .report_flows(&[with_bytes(ingress(WEB, APP, 80), 40)], NOW);
    assert_eq!(sums(&lab), (70, 3), "a client in the host's own namespace");
    lab.core
        .report_flows(&[with_bytes(ingress(DB, APP, 81), 80)], NOW);
    assert_eq!(sums(&lab), (70, 3), "a client that its own endpoint tells of");
}

#[test]
fn what_the_servers_side_denies_is_told_all_the_same() {
    let mut lab = Lab::with_services();
    lab.put_node(&node("n1", 1));
    lab.core.report_flows(
        &[
            egress(WEB, APP, 80),
            judged(ingress(WEB, APP, 80), decision(Verdict::Deny, 0)),
        ],
        NOW,
    );
    assert_eq!(lab.core.violations().count(), 1);
}

#[test]
fn totals_become_sums() {
    let mut lab = Lab::with_services();
    for (bytes, state) in [
        (100, FlowState::New),
        (400, FlowState::Active),
        (400, FlowState::Active),
        (1000, FlowState::Closed),
    ] {
        lab.core
            .report_flows(&[in_state(with_bytes(egress(WEB, APP, 80), bytes), state)], NOW);
    }
    assert_eq!(sums(&lab), (1000, 1));
    // The same ports again, and once more with totals that fall: flows of their own.
    lab.core
        .report_flows(&[with_bytes(egress(WEB, APP, 80), 700)], NOW);
    assert_eq!(sums(&lab), (1700, 2));
    lab.core
        .report_flows(&[with_bytes(egress(WEB, APP, 80), 50)], NOW);
    assert_eq!(sums(&lab).0, 1750);
    // In the ring: first sight and end, not every count in between.
    assert_eq!(lab.core.flow_sequence(), 3);
}

#[test]
fn a_conversation_knows_its_parts() {
    let mut lab = Lab::with_services();
    lab.core.report_flows(
        &[
            egress(WEB, APP, 80),
            from_port(egress(WEB, APP, 80), 2),
            egress(WEB, APP, 81),
            judged(egress(WEB, DB, 5432), decision(Verdict::Alert, 0)),
        ],
        NOW,
    );
    lab.core
        .report_flows(&[as_app(egress(WEB, APP, 80), Application::HTTP)], later(1));
    let all = lab.core.conversations();
    assert_eq!(all.len(), 2);
    let to_app = &all[0];
    assert_eq!(
        (to_app.from.name.as_str(), to_app.to.name.as_str(), to_app.to.kind),
        ("web-name", "app-name", EndpointKind::Container)
    );
    assert_eq!(
        (to_app.verdict(), all[1].verdict()),
        (Verdict::Allow, Verdict::Alert)
    );
    let parts: Vec<_> = to_app
        .entries
        .iter()
        .map(|entry| (entry.port, entry.application, entry.sessions))
        .collect();
    assert!(parts.contains(&(81, None, 1)), "{parts:?}");
    assert_eq!(to_app.sessions(), 3);
    assert_eq!(to_app.bytes(), 300);
}

#[test]
fn ports_of_icmp_are_no_ports() {
    let mut lab = Lab::with_services();
    for id in 1..50 {
        let mut record = from_port(egress(WEB, APP, 0), id);
        record.tuple.proto = IpProto::ICMP;
        record.tuple.server_port = id;
        lab.core.report_flows(&[record], NOW);
    }
    let all = lab.core.conversations();
    assert_eq!(
        (all.len(), all[0].entries.len(), all[0].entries[0].port),
        (1, 1, 0)
    );
    assert_eq!(all[0].sessions(), 49);
}

#[test]
fn a_workload_that_is_named_late_or_gone_is_one_end() {
    let mut lab = Lab::default();
    lab.core.report_flows(&[egress(WEB, APP, 80)], NOW);
    assert_eq!(
        lab.core.conversations()[0].from.name,
        "web",
        "its id, for want of a name"
    );
    lab.put_workload(&workload("web", "web", WEB));
    lab.core.report_flows(&[from_port(egress(WEB, APP, 80), 2)], NOW);
    lab.delete("workload/n1/web");
    lab.core.report_flows(&[from_port(egress(WEB, APP, 80), 3)], NOW);
    let all = lab.core.conversations();
    assert_eq!((all.len(), all[0].sessions()), (1, 3));
    assert_eq!(all[0].from.name, "web-name", "the last name that was known");
}

#[test]
fn repeats_of_a_violation_are_summed_for_a_minute() {
    let mut lab = Lab::with_services();
    lab.set_mode("app", Mode::Protect);
    let deny = |client_port, port| {
        judged(
            from_port(egress(WEB, APP, port), client_port),
            decision(Verdict::Deny, 0),
        )
    };
    lab.core
        .report_flows(&[deny(1, 80), deny(2, 80), deny(3, 81)], NOW);
    lab.core.report_flows(&[deny(4, 80)], later(30));
    lab.core.report_flows(&[deny(4, 80)], later(31));
    lab.core.report_flows(
        &[judged(egress(WEB, APP, 80), decision(Verdict::Alert, 7))],
        later(32),
    );
    lab.core.report_flows(&[deny(5, 81)], later(90));
    let all: Vec<_> = lab
        .core
        .violations()
        .map(|v| (v.id, v.port, v.decision.verdict, v.sessions))
        .collect();
    assert_eq!(
        all,
        [
            (1, 80, Verdict::Deny, 3),
            (2, 81, Verdict::Deny, 1),
            (3, 80, Verdict::Alert, 1),
            (4, 81, Verdict::Deny, 1),
        ]
    );
    let first = lab.core.violations().next().unwrap();
    assert_eq!((first.reported, first.last_seen), (NOW, later(30)));
    assert_eq!(first.mode, Some(Mode::Protect));
    // An entry that goes on is found behind one that has come to rest.
    lab.core.report_flows(&[deny(6, 80)], later(80));
    let sessions: Vec<_> = lab.core.violations().map(|v| v.sessions).collect();
    assert_eq!(sessions, [4, 1, 1, 1]);
}

#[test]
fn a_flow_that_turns_into_a_violation_is_one() {
    let mut lab = Lab::with_services();
    lab.core.report_flows(&[egress(WEB, APP, 80)], NOW);
    assert_eq!(lab.core.violations().count(), 0);
    let denied = judged(egress(WEB, APP, 80), decision(Verdict::Deny, 0));
    lab.core
        .report_flows(&[in_state(denied.clone(), FlowState::Active)], NOW);
    lab.core.report_flows(&[in_state(denied, FlowState::Closed)], NOW);
    let sessions: Vec<_> = lab.core.violations().map(|v| v.sessions).collect();
    assert_eq!(sessions, [1]);
}

#[test]
fn the_log_of_violations_is_bounded_and_counts() {
    let mut lab = Lab::with_services();
    let denied: Vec<_> = (1..=5_000)
        .map(|port| judged(egress(WEB, APP, port), decision(Verdict::Deny, 0)))
        .collect();
    lab.core.report_flows(&denied, NOW);
    assert_eq!(lab.core.violations().count(), 4_096);
    assert_eq!(lab.core.lost()["controller_violations"], 904);
    assert_eq!(lab.core.violations().next().unwrap().id, 905);
    // One that was pushed out starts anew.
    lab.core.report_flows(
        &[judged(
            from_port(egress(WEB, APP, 1), 2),
            decision(Verdict::Deny, 0),
        )],
        NOW,
    );
    assert_eq!(lab.core.violations().next_back().unwrap().id, 5_001);
}

#[test]
fn the_ring_is_bounded_and_a_follower_knows_what_it_missed() {
    let mut lab = Lab::with_services();
    for client_port in 0..25_000 {
        lab.core
            .report_flows(&[from_port(egress(WEB, APP, 80), client_port)], NOW);
    }
    let all = |_: &FlowView| true;
    assert_eq!(lab.core.flows(all, usize::MAX).len(), 20_000);
    let followed = lab.core.flows_after(0, all);
    assert_eq!(
        (followed.missed, followed.flows.len(), followed.sequence),
        (5_000, 20_000, 25_000)
    );
    assert_eq!(followed.flows[0].sequence, 5_001);
    let followed = lab.core.flows_after(24_998, all);
    assert_eq!((followed.missed, followed.flows.len()), (0, 2));
    let nothing = lab.core.flows_after(25_000, all);
    assert_eq!(
        (nothing.missed, nothing.flows.len(), nothing.sequence),
        (0, 0, 25_000)
    );
    let ahead = lab.core.flows_after(u64::MAX, all);
    assert_eq!((ahead.missed, ahead.flows.len()), (0, 0));
}

#[test]
fn flows_under_way_are_bounded_and_the_longest_silent_is_forgotten() {
    let mut lab = Lab::with_services();
    let at = |index: u32| {
        let mut record = from_port(
            egress(WEB, APP, u16::try_from(index / 50_000).unwrap() + 1),
            u16::try_from(index % 50_000).unwrap(),
        );
        record.bytes_to_server = 100;
        record.bytes_to_client = 0;
        record
    };
    for index in 0..100_000 {
        lab.core.report_flows(&[at(index)], NOW);
    }
    assert_eq!(lab.core.lost()["controller_flows"], 0);
    // The first one speaks again, so the second is the one to go.
    lab.core.report_flows(&[at(0)], NOW);
    lab.core.report_flows(&[at(100_000)], NOW);
    assert_eq!(lab.core.lost()["controller_flows"], 1);
    let before = sums(&lab);
    lab.core.report_flows(&[at(0)], NOW);
    assert_eq!(sums(&lab), before, "still known");
    lab.core.report_flows(&[at(1)], NOW);
    assert_eq!(
        sums(&lab),
        (before.0 + 100, before.1 + 1),
        "forgotten, so counted anew"
    );
}

#[test]
fn parts_and_pairs_of_conversations_are_bounded_and_counted() {
    let mut lab = Lab::with_services();
    for port in 1..=1_500 {
        let mut record = egress(WEB, APP, port);
        record.last_seen = Timestamp(NOW.0 + u64::from(port));
        lab.core.report_flows(&[record], NOW);
    }
    let all = lab.core.conversations();
    assert_eq!(all[0].entries.len(), 1_000);
    assert_eq!(all[0].entries[0].port, 501, "the oldest went");
    assert_eq!(lab.core.lost()["controller_conversations"], 500);
    for index in 0..20_001 {
        let mut record = egress(WEB, APP, 80);
        record.client = Peer::Workload(format!("w{index}").parse().unwrap());
        record.workload = format!("w{index}").parse().unwrap();
        lab.core.report_flows(&[record], NOW);
    }
    assert_eq!(lab.core.conversations().len(), 20_000);
    assert_eq!(lab.core.lost()["controller_conversations"], 502);
}

#[test]
fn losses_on_the_way_add_up_by_stage() {
    let mut lab = Lab::default();
    lab.core.report_lost("kernel_ring", 3);
    lab.core.report_lost("kernel_ring", 4);
    assert_eq!(lab.core.lost()["kernel_ring"], 7);
}

#[test]
fn a_rule_counts_the_flows_that_it_decided() {
    let mut lab = Lab::with_services();
    lab.make(|core| core.insert_rules(None, &[crate::lab::numbered(1), crate::lab::numbered(2)], NOW));
    let by = |rule, port| {
        judged(
            from_port(egress(WEB, OUTSIDE, 443), port),
            decision(Verdict::Allow, rule),
        )
    };
    // A repetition is the same flow; a flow that another rule decides from now on is a hit of that one.
    lab.core.report_flows(
        &[by(1, 1), by(1, 1), by(1, 2), by(2, 2), by(77, 3), by(0, 4)],
        NOW,
    );
    let count = |lab: &Lab, id| lab.core.hits(nv_types::RuleId(id)).count;
    assert_eq!([1, 2, 77, 0].map(|id| count(&lab, id)), [2, 1, 0, 0]);
    assert_eq!(lab.core.hits(nv_types::RuleId(1)).last, NOW);
    lab.make(|core| core.delete_rules(&[nv_types::RuleId(1)], NOW));
    assert_eq!(
        [1, 2].map(|id| count(&lab, id)),
        [0, 1],
        "another rule may get the number"
    );
    lab.core.store_resync([], nv_types::Revision(500));
    assert_eq!(count(&lab, 2), 0);
}

#[test]
fn the_servers_word_counts_where_the_clients_agent_is_dead() {
    let mut lab = Lab::with_services();
    let n2 = "n2".parse().unwrap();
    lab.delete("workload/n1/app");
    let moved = nv_types::Workload {
        node: nv_types::NodeId::clone(&n2),
        ..workload("app", "app", APP)
    };
    lab.put_workload(&moved);
    let by_server = |bytes, at| FlowRecord {
        node: n2.clone(),
        last_seen: at,
        ..with_bytes(ingress(WEB, APP, 80), bytes)
    };
    lab.core.report_flows(&[by_server(10, NOW)], NOW);
    assert_eq!(sums(&lab), (0, 0), "the client's agent may only just come back");
    lab.core.heard(&"n1".parse().unwrap(), later(5));
    assert!(lab.core.is_connected(&"n1".parse().unwrap(), later(10)));
    lab.core.report_flows(&[by_server(20, later(19))], later(19));
    assert_eq!(sums(&lab), (0, 0), "it is there, and will tell");

    assert!(!lab.core.is_connected(&"n1".parse().unwrap(), later(20)));
    lab.core.report_flows(&[by_server(30, later(20))], later(20));
    assert_eq!(sums(&lab), (30, 1));
    assert_eq!(lab.core.conversations()[0].from.id, "web");
    // It is back and tells of the same flow: still one flow, and no byte twice.
    let back = FlowRecord {
        last_seen: later(30),
        ..with_bytes(egress(WEB, APP, 80), 50)
    };
    lab.core
        .report_flows(&[back, by_server(50, later(30))], later(30));
    assert_eq!(sums(&lab), (50, 1));
    // And dies again.
    lab.core.report_flows(&[by_server(70, later(50))], later(50));
    assert_eq!(sums(&lab), (70, 1));
    lab.core.report_flows(
        &[in_state(by_server(71, later(51)), FlowState::Closed)],
        later(51),
    );
    assert_eq!(sums(&lab), (71, 1));
}
