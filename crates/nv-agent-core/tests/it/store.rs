//! What the agent makes of its store, and what it writes there.

use nv_policy::encode;
use nv_types::{Action, Mode, Revision, keys};

use crate::world::{SECOND, World, node, workload};

#[test]
fn a_refused_image_leaves_the_old_one_and_is_told() {
    let mut world = World::new();
    world.resync();
    world.settle();
    let before = world.node.clone().unwrap().revision;
    world.set_mode("nv.web", Mode::Protect);
    world.tell_change();
    world.answer_apply(Err("table pairs is full".into()));
    let node = world.node.clone().unwrap();
    assert_eq!(node.revision, before);
    assert!(
        node.degraded.join("; ").contains("table pairs is full"),
        "{:?}",
        node.degraded
    );
    world.set_mode("nv.web", Mode::Monitor);
    world.settle();
    let node = world.node.clone().unwrap();
    assert!(node.revision > before && node.degraded.is_empty(), "{node:?}");
}

#[test]
fn changes_meanwhile_are_in_the_next_image() {
    let mut world = World::new();
    world.resync();
    let first = world.applying.clone().unwrap().0;
    for mode in [Mode::Monitor, Mode::Protect, Mode::Discover] {
        world.set_mode("nv.web", mode);
        world.tell_change();
        assert_eq!(world.applying.clone().unwrap().0, first, "one image at a time");
    }
    world.answer_apply(Ok(()));
    assert!(world.applying.clone().unwrap().0 > first);
}

#[test]
fn own_heartbeats_compile_nothing() {
    let mut world = World::new();
    world.resync();
    world.link(7);
    world.up(&workload("web", "n1", 7));
    world.settle();
    let revision = world.applied.clone().unwrap().0;
    world.wait(SECOND);
    world.settle();
    assert_eq!(world.applied.clone().unwrap().0, revision);
    assert!(world.applying.is_none());
}

#[test]
fn what_an_agent_before_left_goes_once_its_runtime_has_spoken() {
    let mut world = World::new();
    let left = workload("old", "n1", 5);
    world.write(&keys::workload(&node(), &left.id), &left);
    let other = workload("else", "n2", 6);
    world.write(&keys::workload(&other.node, &other.id), &other);
    world.resync();
    // Until then it counts: the first image must know who is guarded already.
    assert!(world.applying.clone().unwrap().1.contains(&left.id));
    world.settle();
    assert_eq!(world.stored().len(), 1);
    world.synced(&[]);
    world.settle();
    assert!(world.stored().is_empty());
    assert!(
        world
            .store
            .values
            .contains_key(&keys::workload(&other.node, &other.id)),
        "another node's"
    );
    assert!(!world.applied.clone().unwrap().1.contains(&left.id));
}

#[test]
fn a_store_that_was_restored_is_told_what_runs_here() {
    let mut world = World::new();
    world.resync();
    world.link(7);
    world.up(&workload("web", "n1", 7));
    world.synced(&["web"]);
    world.settle();
    world.store.values.clear();
    world.store.revision = 1;
    world.resync();
    world.settle();
    assert_eq!(world.stored().len(), 1);
    assert!(
        world.store.values.contains_key(&keys::node(&node())),
        "the node reports itself again"
    );
    assert!(world.guarded.contains_key(&7));
}

#[test]
fn a_value_that_cannot_be_read_is_named_and_the_last_good_form_stays() {
    let mut world = World::new();
    world.resync();
    world.set_mode("nv.web", Mode::Protect);
    world.settle();
    let key = keys::mode(&"nv.web".parse().unwrap());
    world.store.write(&key, Some(b"{\"v\":9}".to_vec()));
    world.settle();
    let words = world.node.clone().unwrap().degraded.join("; ");
    assert!(words.contains(&key) && words.contains('9'), "{words}");
    assert_eq!(
        world.applied.clone().unwrap().2.unknown,
        nv_types::Verdict::Deny,
        "still in Protect"
    );
    let good = encode(&key, &nv_policy::StoredMode { mode: Mode::Discover }).unwrap();
    world.store.write(&key, Some(good));
    world.settle();
    assert!(world.node.clone().unwrap().degraded.is_empty());
}

#[test]
fn a_rule_that_does_not_fit_is_named_and_the_others_are_in_force() {
    let mut world = World::new();
    world.resync();
    world.up(&workload("web", "n1", 7));
    world.settle();
    for (id, app) in (1..).zip(nv_types::Application::all().take(8)) {
        let action = if id % 2 == 0 { Action::Allow } else { Action::Deny };
        let mut rule = nv_policy::rule(id, "containers", "containers", "any", action).unwrap();
        rule.applications = vec![app];
        world.write(&keys::rule(rule.id), &rule);
    }
    world.settle();
    let node = world.node.clone().unwrap();
    assert_eq!(node.revision, world.applied.clone().unwrap().0);
    let words = node.degraded.join("; ");
    assert!(words.contains("rule 8 is not in force"), "{words}");
    world.store.write(&keys::rule(nv_types::RuleId(1)), None);
    world.settle();
    assert!(world.node.clone().unwrap().degraded.is_empty());
}

#[test]
fn one_mode_for_all_services_closes_unknown_interfaces_too() {
    let mut world = World::new();
    world.resync();
    world.settle();
    let unknown = |world: &World| world.applied.clone().unwrap().2.unknown;
    assert_eq!(unknown(&world), nv_types::Verdict::Allow);
    let mut settings = nv_types::PolicySettings {
        network_mode: Some(Mode::Protect),
        ..nv_types::PolicySettings::default()
    };
    world.settings(&settings);
    world.settle();
    assert_eq!(unknown(&world), nv_types::Verdict::Deny);
    settings.network_mode = None;
    world.settings(&settings);
    world.settle();
    assert_eq!(unknown(&world), nv_types::Verdict::Allow);
}

#[test]
fn the_revision_in_force_is_the_one_that_was_applied() {
    let mut world = World::new();
    world.resync();
    assert_eq!(world.agent.revision(), None);
    world.settle();
    for round in 0..5 {
        world.set_mode(
            "nv.web",
            if round % 2 == 0 {
                Mode::Protect
            } else {
                Mode::Discover
            },
        );
        let wanted = Revision(world.store.revision);
        world.settle();
        assert!(world.agent.revision().unwrap() >= wanted);
        assert!(world.node.clone().unwrap().revision >= wanted);
    }
}
