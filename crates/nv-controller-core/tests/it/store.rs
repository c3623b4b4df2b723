//! Changes of the store: bad values, late news, new beginnings.

use nv_policy::encode;
use nv_types::{Mode, Revision, RuleId, keys};

use crate::lab::{Lab, NOW, node, numbered, workload};

#[test]
fn a_bad_value_is_named_and_the_last_good_one_stays() {
    let mut lab = Lab::with_services();
    lab.make(|core| core.insert_rules(None, &[numbered(1)], NOW));
    let good = lab.core.input().clone();
    for key in [
        keys::rule(RuleId(1)),
        keys::group(&"nv.web".parse().unwrap()),
        keys::mode(&"nv.web".parse().unwrap()),
        keys::ORDER.to_owned(),
        keys::SETTINGS.to_owned(),
        "workload/n1/web".to_owned(),
    ] {
        for value in [
            &b"\xff\x00"[..],
            b"",
            b"[]",
            br#"{"v":9}"#,
            br#"{"mode":"Protect"}"#,
        ] {
            lab.put(&key, value);
            assert!(lab.core.problems().contains_key(&key), "{key}");
            assert_eq!(*lab.core.input(), good, "{key}");
        }
    }
    assert_eq!(lab.core.problems().len(), 6);
    // The same after everything was read anew.
    let entries: Vec<_> = lab
        .store
        .iter()
        .map(|(key, (value, revision))| (key.clone(), value.clone(), *revision))
        .collect();
    let borrowed = entries
        .iter()
        .map(|(key, value, revision)| (key.as_str(), value.as_slice(), *revision));
    lab.core.store_resync(borrowed, Revision(lab.revision));
    assert_eq!(lab.core.input().rules, good.rules);
    assert_eq!(lab.core.input().groups, good.groups);
    assert_eq!(lab.core.input().modes, good.modes);
    assert_eq!(lab.core.input().workloads, good.workloads);
    // A good one heals it.
    let key = keys::mode(&"nv.web".parse().unwrap());
    let value = encode(&key, &nv_policy::StoredMode { mode: Mode::Protect }).unwrap();
    lab.put(&key, &value);
    assert!(!lab.core.problems().contains_key(&key));
    assert_eq!(lab.core.input().modes["nv.web"], Mode::Protect);
}

#[test]
fn older_news_does_not_undo_newer() {
    let mut lab = Lab::with_services();
    let key = keys::mode(&"nv.web".parse().unwrap());
    let value = |mode| encode(&key, &nv_policy::StoredMode { mode }).unwrap();
    lab.core.store_put(&key, &value(Mode::Protect), Revision(90));
    lab.core.store_put(&key, &value(Mode::Monitor), Revision(80));
    lab.core.store_delete(&key, Revision(85));
    assert_eq!(lab.core.input().modes["nv.web"], Mode::Protect);
    assert_eq!(lab.core.revision(), Revision(90));
}

#[test]
fn the_policys_revision_is_that_of_policy_alone() {
    let mut lab = Lab::with_services();
    let policy = lab.core.policy_revision();
    lab.put_workload(&workload("web-2", "web", "10.0.0.9"));
    lab.put_node(&node("n1", 3));
    lab.put("user/somebody", b"{}");
    assert_eq!(lab.core.policy_revision(), policy);
    assert!(lab.core.revision() > policy);
    lab.make(|core| core.insert_rules(None, &[numbered(1)], NOW));
    assert_eq!(lab.core.policy_revision(), Revision(lab.revision));
    assert_eq!(lab.restarted().policy_revision(), Revision(lab.revision));
}

#[test]
fn what_is_gone_after_a_resync_is_gone() {
    let mut lab = Lab::with_services();
    lab.make(|core| core.insert_rules(None, &[numbered(1)], NOW));
    lab.core.store_resync([], Revision(500));
    let input = lab.core.input();
    assert!(input.rules.is_empty() && input.groups.is_empty() && input.workloads.is_empty());
    assert_eq!(lab.core.revision(), Revision(500));
    assert_eq!(lab.core.poll_plan(NOW), None, "no workload, no service");
}

#[test]
fn a_deletion_that_a_resync_tells_of_first_is_a_change_of_policy() {
    let mut lab = Lab::with_services();
    lab.make(|core| core.create_group(&crate::lab::group("a", &[("image", "=", "x")]), NOW));
    let policy = lab.core.policy_revision();
    // Others change things while the watch lags.
    let resync = |lab: &mut Lab, revision| {
        let entries = lab
            .store
            .iter()
            .map(|(key, (value, revision))| (key.as_str(), value.as_slice(), *revision));
        lab.core.store_resync(entries, Revision(revision));
    };
    resync(&mut lab, 300);
    assert_eq!(lab.core.policy_revision(), policy, "nothing was deleted");
    lab.store.remove("workload/n1/db");
    resync(&mut lab, 400);
    assert_eq!(lab.core.policy_revision(), policy, "a workload is no policy");
    lab.store.remove("policy/group/a");
    resync(&mut lab, 500);
    assert_eq!(lab.core.policy_revision(), Revision(500));
    assert!(!lab.core.input().groups.contains_key("a"));
}

#[test]
fn a_deletion_is_seen_by_a_controller_that_was_not_there() {
    let mut lab = Lab::with_services();
    lab.make(|core| core.create_group(&crate::lab::group("a", &[("image", "=", "x")]), NOW));
    lab.make(|core| core.delete_group("a", NOW));
    assert_eq!(lab.core.policy_revision(), Revision(lab.revision));
    assert_eq!(lab.restarted().policy_revision(), Revision(lab.revision));
}

#[test]
fn what_others_delete_of_the_controllers_is_written_again() {
    let mut lab = Lab::with_services();
    lab.set_mode("web", Mode::Protect);
    lab.delete("policy/group/nv.web");
    assert_eq!(lab.core.poll_timeout().map(|at| at <= NOW), Some(true));
    assert_eq!(lab.settle(NOW), ["service nv.web found: Discover"]);
    assert!(lab.core.input().groups.contains_key("nv.web"));
    assert_eq!(
        lab.core.input().modes["nv.web"],
        Mode::Protect,
        "its mode was there"
    );
    lab.delete("policy/mode/nv.web");
    assert_eq!(lab.settle(NOW), ["service nv.web has no mode: Discover"]);
    assert_eq!(lab.core.input().modes["nv.web"], Mode::Discover);
    lab.delete("policy/mode/nv.web");
    assert_eq!(
        lab.restarted().poll_plan(NOW).unwrap().summary.len(),
        1,
        "also if it was away"
    );
    // Nobody's: not written again.
    lab.delete("workload/n1/web");
    lab.settle(NOW);
    lab.delete("policy/group/nv.web");
    lab.delete("policy/mode/nv.web");
    assert_eq!(lab.core.poll_plan(NOW), None);
    // A value that cannot be read is there all the same: it is not fought over.
    lab.put("policy/group/nv.app", b"{");
    assert_eq!(lab.restarted().poll_plan(NOW), None);
}
