//! Modes that go on by themselves.

use nv_controller_core::{Standing, WATCHED};
use nv_policy::decode;
use nv_types::{Mode, Reason, Timestamp, Verdict, keys};
use serde_json::json;

use crate::lab::{APP, DB, Lab, NOW, OUTSIDE, SECOND, decision, ingress, judged, later};

const DAY: u64 = 24 * 3600;

/// A lab in which services go on: from Discover after two days, from Monitor after one quiet day.
fn lab() -> Lab {
    let mut lab = Lab::with_services();
    settings(
        &mut lab,
        &json!({
            "mode_auto_d2m": true, "mode_auto_d2m_duration": 2 * DAY,
            "mode_auto_m2p": true, "mode_auto_m2p_duration": DAY,
        }),
    );
    lab
}

fn settings(lab: &mut Lab, values: &serde_json::Value) {
    let draft = values.as_object().unwrap().clone();
    lab.make(|core| core.patch_settings(&draft, NOW));
}

fn modes(lab: &Lab) -> [Mode; 3] {
    ["nv.app", "nv.db", "nv.web"].map(|name| lab.core.input().modes[name])
}

fn standing(lab: &Lab, group: &str) -> Standing {
    let key = keys::standing(&group.parse().unwrap());
    decode(&key, &lab.store[&key].0).unwrap()
}

/// A flow from outside to a service that nothing allows.
fn violation(lab: &mut Lab, server: &str, at: Timestamp) {
    let alert = decision(Verdict::Alert, 0);
    lab.core
        .report_flows(&[judged(ingress(OUTSIDE, server, 80), alert)], at);
}

#[test]
fn a_service_goes_from_discover_to_monitor_to_protect() {
    let mut lab = lab();
    assert_eq!(lab.settle(NOW), Vec::<String>::new(), "it only begins to count");
    assert_eq!(standing(&lab, "nv.web").since, NOW);
    assert_eq!(lab.core.poll_timeout(), Some(later(2 * DAY)));
    assert_eq!(lab.settle(later(2 * DAY - 1)), Vec::<String>::new());
    let said = lab.settle(later(2 * DAY));
    assert_eq!(said.len(), 3);
    assert_eq!(said[0], "service nv.app: Monitor by itself, after 172800 seconds");
    assert_eq!(modes(&lab), [Mode::Monitor; 3]);
    assert_eq!(lab.core.poll_timeout(), Some(later(3 * DAY)));
    let said = lab.settle(later(3 * DAY));
    assert_eq!(
        said[2],
        "service nv.web: Protect by itself, after 86400 seconds without a violation"
    );
    assert_eq!(modes(&lab), [Mode::Protect; 3]);
    assert_eq!(lab.core.poll_timeout(), None);
}

#[test]
fn a_violation_begins_the_quiet_period_again_for_both_ends() {
    let mut lab = lab();
    lab.settle(NOW);
    lab.settle(later(2 * DAY));
    let alert = decision(Verdict::Alert, 0);
    let at = later(2 * DAY + 1000);
    lab.core
        .report_flows(&[judged(ingress(APP, DB, 5432), alert)], at);
    assert_eq!(
        lab.settle(later(3 * DAY)),
        ["service nv.web: Protect by itself, after 86400 seconds without a violation"]
    );
    assert_eq!(modes(&lab), [Mode::Monitor, Mode::Monitor, Mode::Protect]);
    // What was allowed is no violation, whatever the rule.
    lab.core.report_flows(
        &[judged(ingress(APP, DB, 5432), decision(Verdict::Allow, 3))],
        later(3 * DAY),
    );
    assert_eq!(
        lab.settle(later(3 * DAY + 1000)),
        Vec::<String>::new(),
        "a stored violation counts a minute later"
    );
    assert_eq!(lab.settle(later(3 * DAY + 1060)).len(), 2);
}

#[test]
fn a_restart_changes_nothing_but_is_not_taken_for_quiet() {
    let mut lab = lab();
    lab.settle(NOW);
    lab.core = lab.restarted();
    assert_eq!(lab.settle(later(DAY)), Vec::<String>::new());
    assert_eq!(standing(&lab, "nv.web").since, NOW);
    lab.core = lab.restarted();
    lab.settle(later(2 * DAY));
    assert_eq!(modes(&lab), [Mode::Monitor; 3]);
    violation(&mut lab, APP, later(2 * DAY + 500));
    lab.settle(later(2 * DAY + 500));
    assert_eq!(standing(&lab, "nv.app").violated, later(2 * DAY + 500));
    // It was down for long, and nobody watched.
    lab.core = lab.restarted();
    let back = later(5 * DAY);
    assert_eq!(lab.settle(back), Vec::<String>::new());
    assert_eq!(lab.core.poll_timeout(), Some(Timestamp(back.0 + WATCHED)));
    violation(&mut lab, DB, Timestamp(back.0 + SECOND));
    let said = lab.settle(Timestamp(back.0 + WATCHED));
    assert_eq!(said.len(), 2, "{said:?}");
    assert_eq!(modes(&lab), [Mode::Protect, Mode::Monitor, Mode::Protect]);
}

#[test]
fn a_mode_that_somebody_sets_begins_anew_and_what_is_off_stays() {
    let mut lab = lab();
    lab.settle(NOW);
    lab.set_mode("web", Mode::Monitor);
    lab.settle(later(1000));
    assert_eq!(
        standing(&lab, "nv.web"),
        Standing {
            mode: Mode::Monitor,
            since: later(1000),
            violated: Timestamp(0)
        }
    );
    lab.set_mode("web", Mode::Discover);
    lab.settle(later(2000));
    assert_eq!(standing(&lab, "nv.web").since, later(2000));
    settings(&mut lab, &json!({"network_mode": "Monitor"}));
    assert_eq!(
        lab.settle(later(9 * DAY)),
        Vec::<String>::new(),
        "one mode holds for all"
    );
    settings(&mut lab, &json!({"network_mode": null, "mode_auto_d2m": false}));
    assert_eq!(lab.settle(later(9 * DAY)), Vec::<String>::new());
    assert_eq!(lab.core.poll_timeout(), None);
    settings(&mut lab, &json!({"mode_auto_d2m": true}));
    assert_eq!(lab.settle(later(9 * DAY)).len(), 3);
}

#[test]
fn a_flow_across_a_boundary_is_a_violation_too() {
    let mut lab = lab();
    lab.settle(NOW);
    lab.settle(later(2 * DAY));
    let mut crossing = decision(Verdict::Alert, 0);
    crossing.reason = Reason::Boundary;
    lab.core
        .report_flows(&[judged(ingress(APP, DB, 5432), crossing)], later(3 * DAY - 1));
    lab.settle(later(3 * DAY));
    assert_eq!(modes(&lab), [Mode::Monitor, Mode::Monitor, Mode::Protect]);
}

#[test]
fn a_plan_that_was_not_written_comes_again() {
    let mut lab = lab();
    lab.settle(NOW);
    assert!(lab.core.poll_plan(later(2 * DAY)).is_some());
    lab.core.plan_failed(later(2 * DAY));
    assert_eq!(lab.core.poll_plan(later(2 * DAY)), None, "not at once");
    assert_eq!(lab.settle(later(2 * DAY + 2)).len(), 3);
}
