//! What is guarded, when, and as whose.

use nv_agent_core::Input;
use nv_types::{Mode, PolicySettings, UnknownEndpoint, Verdict};

use crate::world::{SECOND, World, id, workload};

#[test]
fn nothing_is_guarded_before_a_policy_is_in_force() {
    let mut world = World::new();
    world.link(7);
    world.up(&workload("web", "n1", 7));
    assert!(world.applying.is_none(), "nothing has been heard of a policy");
    world.resync();
    assert!(world.attaching.is_empty());
    world.answer_apply(Ok(()));
    assert_eq!(world.attaching[0].workload, Some(id("web")));
    world.settle();
    assert_eq!(world.guarded[&7], Some(id("web")));
}

#[test]
fn an_interface_is_guarded_at_once_and_named_when_its_workload_is() {
    let mut world = World::new();
    world.resync();
    world.settle();
    world.link(7);
    world.settle();
    assert_eq!(world.guarded[&7], None);
    world.up(&workload("web", "n1", 7));
    world.answer_attach(None);
    assert_eq!(
        world.guarded[&7], None,
        "the policy in force does not know the workload"
    );
    world.settle();
    assert_eq!(world.guarded[&7], Some(id("web")));
}

#[test]
fn what_was_there_before_is_left_alone_until_a_workload_claims_it() {
    let mut world = World::new();
    world.tell(Input::Preexisting([7, 8].into()));
    world.resync();
    world.settle();
    world.link(7);
    world.link(8);
    world.settle();
    assert!(world.guarded.is_empty());
    world.up(&workload("web", "n1", 7));
    world.settle();
    assert_eq!(world.guarded.keys().copied().collect::<Vec<_>>(), [7]);
    // An index that is used again is another interface.
    world.unlink(8);
    world.link(8);
    world.settle();
    assert_eq!(world.guarded[&8], None);
}

#[test]
fn a_stranger_is_let_go_after_half_a_minute_unless_settings_deny() {
    let mut world = World::new();
    world.resync();
    world.settle();
    world.link(7);
    world.settle();
    world.wait(29 * SECOND);
    assert!(world.guarded.contains_key(&7));
    assert_eq!(world.agent.poll_timeout().unwrap().0, world.now + SECOND);
    world.wait(SECOND);
    assert!(world.guarded.is_empty());
    let words = world.node.clone().unwrap().degraded.join("; ");
    assert!(words.contains("veth7"), "{words}");
    // Claimed at last.
    world.up(&workload("web", "n1", 7));
    world.settle();
    assert_eq!(world.guarded[&7], Some(id("web")));
    assert!(world.node.clone().unwrap().degraded.is_empty());

    world.settings(&PolicySettings {
        unknown_endpoint: UnknownEndpoint::Deny,
        ..PolicySettings::default()
    });
    world.link(8);
    world.settle();
    world.wait(3600 * SECOND);
    assert_eq!(world.guarded[&8], None);
    assert_eq!(world.applied.as_ref().unwrap().2.unknown, Verdict::Deny);
}

#[test]
fn a_workload_whose_service_no_group_can_be_named_by_is_under_policy_all_the_same() {
    let mut world = World::new();
    world.resync();
    world.link(7);
    let mut found = workload("web", "n1", 7);
    found.service = "team/w\u{e9}b shop\n".into();
    world.up(&found);
    world.settle();
    assert_eq!(world.guarded[&7], Some(id("web")), "it is in the image");
    let stored = world.store.values.get("workload/n1/web").unwrap();
    let stored: nv_types::Workload = nv_policy::decode("", stored).unwrap();
    assert_eq!(stored.service, "team:wb:shop", "everyone sees the same name");
    // Named by nothing but its container.
    found.service = String::new();
    found.name = "/".into();
    world.up(&found);
    world.settle();
    assert_eq!(world.guarded[&7], Some(id("web")));
}

#[test]
fn unknown_interfaces_are_closed_once_something_is_protected() {
    let mut world = World::new();
    world.resync();
    world.settle();
    assert_eq!(world.applied.as_ref().unwrap().2.unknown, Verdict::Allow);
    world.set_mode("nv.web", Mode::Protect);
    world.settle();
    assert_eq!(world.applied.as_ref().unwrap().2.unknown, Verdict::Deny);
    world.set_mode("nv.web", Mode::Monitor);
    world.settle();
    assert_eq!(world.applied.as_ref().unwrap().2.unknown, Verdict::Allow);
}

#[test]
fn a_workload_that_ends_is_not_guarded_any_more() {
    let mut world = World::new();
    world.resync();
    world.link(7);
    world.up(&workload("web", "n1", 7));
    world.settle();
    assert_eq!(world.stored().len(), 1);
    world.tell(Input::WorkloadDown(id("web")));
    assert!(world.guarded.is_empty());
    world.settle();
    assert!(world.stored().is_empty());
    world.unlink(7);
    world.settle();
    assert!(world.guarded.is_empty());
}

#[test]
fn a_failed_attach_is_tried_again_and_named() {
    let mut world = World::new();
    world.link(7);
    world.up(&workload("web", "n1", 7));
    world.resync();
    world.answer_apply(Ok(()));
    while !world.store.untold.is_empty() {
        world.tell_change();
    }
    for pause in [1, 2, 4, 8, 16, 32, 64, 64] {
        assert_eq!(world.attaching.len(), 1, "before a pause of {pause} s");
        world.answer_attach(Some("no room".into()));
        let words = world.node.clone().unwrap().degraded.join("; ");
        assert!(words.contains("veth7") && words.contains("no room"), "{words}");
        assert!(world.attaching.is_empty(), "not at once");
        assert_eq!(world.agent.poll_timeout().unwrap().0, world.now + pause * SECOND);
        world.wait(pause * SECOND);
        world.answer_apply(Ok(()));
    }
    world.settle();
    assert_eq!(world.guarded[&7], Some(id("web")), "it is never given up");
    assert!(world.node.clone().unwrap().degraded.is_empty());
    // Once it is another interface, it is tried anew.
    world.unlink(7);
    world.link(9);
    world.up(&workload("web", "n1", 9));
    world.settle();
    assert_eq!(world.guarded[&9], Some(id("web")));
    assert!(
        world.node.clone().unwrap().degraded.is_empty(),
        "{:?}",
        world.node
    );
}
