//! What is guarded, when, and as whose.

use nv_agent_core::{EndpointWant, Input};
use nv_types::{DenyResponse, IdleTimes, Interface, Mode, PolicySettings, UnknownEndpoint, Verdict, keys};

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

#[test]
fn a_workload_in_quarantine_is_cut_at_every_interface_until_it_is_let_back() {
    let mut world = World::new();
    world.resync();
    for ifindex in [7, 8, 9] {
        world.link(ifindex);
    }
    let mut web = workload("web", "n1", 7);
    web.interfaces.push(Interface {
        host_index: Some(8),
        ..web.interfaces[0].clone()
    });
    world.up(&web);
    world.up(&workload("app", "n1", 9));
    world.settle();
    assert!(world.cut.is_empty());
    let key = keys::quarantine(&web.id);
    world.write(&key, &nv_policy::Quarantine::default());
    let wanted = world.store.revision;
    world.settle();
    assert_eq!(world.cut, [7, 8].into());
    assert_eq!(
        world.node.clone().unwrap().revision.0,
        wanted,
        "its revision is in force then"
    );
    assert!(world.agent.is_guarded(&web.id));

    // It is started anew, at another interface: cut off before tables know it.
    world.tell(Input::WorkloadDown(web.id.clone()));
    world.unlink(7);
    world.link(11);
    let mut again = workload("web", "n1", 11);
    again.image = "other:2".into();
    world.up(&again);
    world.answer_attach(None);
    world.answer_attach(None);
    assert!(world.cut.contains(&11), "{:?} {:?}", world.cut, world.attaching);
    world.settle();
    assert_eq!(
        (world.guarded[&11].clone(), world.cut.contains(&11)),
        (Some(id("web")), true)
    );

    // An agent after this one, with what the datapath has and the store's word.
    let mut next = World::new();
    next.store.values = world.store.values.clone();
    next.store.revision = world.store.revision;
    next.links = [11].into();
    next.tell(Input::Preexisting([11].into()));
    next.tell(Input::Adopted(vec![EndpointWant {
        ifindex: 11,
        name: "veth11".into(),
        workload: Some(id("web")),
        mac: None,
        addresses: Vec::new(),
        quarantine: true,
    }]));
    next.resync();
    next.settle();
    assert!(next.attaching.is_empty(), "it stays as it is");
    next.up(&again);
    next.settle();
    assert!(next.cut.contains(&11));

    next.store.write(&key, None);
    next.settle();
    assert!(next.cut.is_empty());
    assert_eq!(next.guarded[&11], Some(id("web")));
}

#[test]
fn settings_of_the_datapath_go_with_the_policy() {
    let mut world = World::new();
    world.resync();
    world.settle();
    let settings = PolicySettings {
        deny_response: DenyResponse::Reset,
        idle: IdleTimes {
            udp: 7,
            ..IdleTimes::default()
        },
        flow_share: 3,
        ..PolicySettings::default()
    };
    world.settings(&settings);
    world.settle();
    let switches = &world.applied.as_ref().unwrap().2;
    assert_eq!(
        (switches.deny_response, switches.idle.udp, switches.flow_share),
        (DenyResponse::Reset, 7, 3)
    );
}
