//! The clock on the wall is set while the agent runs: nothing that is measured changes, only what is shown.

use nv_types::Timestamp;

use crate::world::{SECOND, World, id, workload};

const DAY: u64 = 86_400 * SECOND;

/// An hour and a day in both directions, and 1970.
fn jumps(day: Timestamp) -> [Timestamp; 6] {
    let at = day.0;
    [at + DAY / 24, at - DAY / 24, at + DAY, at - DAY, 0, u64::MAX].map(Timestamp)
}

#[test]
fn a_stranger_is_guarded_for_its_half_minute_whatever_the_clock_says() {
    for jump in jumps(World::new().day) {
        let mut world = World::new();
        world.resync();
        world.settle();
        world.link(7);
        world.settle();
        world.wait(10 * SECOND);
        world.day = jump;
        world.wait(19 * SECOND);
        assert_eq!(world.guarded.get(&7), Some(&None), "let go early after {jump:?}");
        assert_eq!(world.agent.poll_timeout().unwrap().0, world.now + SECOND);
        world.wait(SECOND);
        assert!(world.guarded.is_empty(), "kept for too long after {jump:?}");
    }
}

#[test]
fn what_failed_is_tried_again_in_time_whatever_the_clock_says() {
    for jump in jumps(World::new().day) {
        let mut world = World::new();
        world.link(7);
        world.up(&workload("web", "n1", 7));
        world.resync();
        world.day = jump;
        world.answer_apply(Err("no room".into()));
        assert_eq!(world.agent.poll_timeout().unwrap().0, world.now + SECOND);
        world.wait(SECOND);
        world.answer_apply(Ok(()));
        world.answer_attach(Some("busy".into()));
        assert_eq!(world.agent.poll_timeout().unwrap().0, world.now + SECOND);
        world.wait(SECOND);
        world.settle();
        assert_eq!(world.guarded[&7], Some(id("web")));
    }
}

#[test]
fn the_time_of_day_is_shown_as_it_is_set() {
    let mut world = World::new();
    world.resync();
    world.settle();
    let before = world.node.clone().unwrap().seen;
    assert_eq!(before, world.day);
    world.day = Timestamp(before.0 - DAY);
    world.link(7);
    world.settle();
    assert_eq!(world.node.unwrap().seen, world.day, "set back, and told so");
}
