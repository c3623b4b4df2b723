//! Random stories: things happen in any order, answers come late or say no. What must never be is checked in the world at
//! every step; at the end everything settles and must be as it should.

use nv_types::Mode;
use proptest::prelude::*;

use crate::world::{SECOND, World, id, workload};

const NAMES: [&str; 4] = ["web", "app", "db", "job"];

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A workload starts: its interface is seen before or after the runtime tells of it.
    Start {
        which: usize,
        link_first: bool,
    },
    /// It ends: the runtime tells of it before or after its interface goes.
    Stop {
        which: usize,
        link_first: bool,
    },
    Stranger,
    StrangerGone,
    Synced,
    Mode(usize, Mode),
    TellChange,
    Resync,
    Applied(bool),
    Attached(bool),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let mode = prop_oneof![Just(Mode::Discover), Just(Mode::Monitor), Just(Mode::Protect)];
    prop_oneof![
        4 => (0..NAMES.len(), any::<bool>()).prop_map(|(which, link_first)| Step::Start { which, link_first }),
        3 => (0..NAMES.len(), any::<bool>()).prop_map(|(which, link_first)| Step::Stop { which, link_first }),
        1 => Just(Step::Stranger),
        1 => Just(Step::StrangerGone),
        1 => Just(Step::Synced),
        2 => (0..NAMES.len(), mode).prop_map(|(which, mode)| Step::Mode(which, mode)),
        8 => Just(Step::TellChange),
        1 => Just(Step::Resync),
        6 => prop::bool::weighted(0.8).prop_map(Step::Applied),
        6 => prop::bool::weighted(0.9).prop_map(Step::Attached),
        2 => (0u64..4 * SECOND).prop_map(Step::Wait),
    ]
}

#[derive(Default)]
struct Story {
    /// Interface of each workload that runs.
    running: [Option<u32>; 4],
    strangers: Vec<u32>,
    last_index: u32,
    /// How often an attach was refused: the pauses grow, and the end of the story waits for a few only.
    refused: u32,
}

impl Story {
    fn play(&mut self, world: &mut World, step: Step) {
        match step {
            Step::Start { which, link_first } if self.running[which].is_none() => {
                self.last_index += 1;
                let ifindex = self.last_index;
                self.running[which] = Some(ifindex);
                let workload = workload(NAMES[which], "n1", ifindex);
                if link_first {
                    world.link(ifindex);
                    world.up(&workload);
                } else {
                    world.links.insert(ifindex);
                    world.up(&workload);
                    world.link(ifindex);
                }
            }
            Step::Stop { which, link_first } => {
                let Some(ifindex) = self.running[which].take() else {
                    return;
                };
                let down = nv_agent_core::Input::WorkloadDown(id(NAMES[which]));
                if link_first {
                    world.unlink(ifindex);
                    world.tell(down);
                } else {
                    world.tell(down);
                    world.unlink(ifindex);
                }
            }
            Step::Start { .. } => {}
            Step::Stranger => {
                self.last_index += 1;
                self.strangers.push(self.last_index);
                world.link(self.last_index);
            }
            Step::StrangerGone => {
                if let Some(ifindex) = self.strangers.pop() {
                    world.unlink(ifindex);
                }
            }
            Step::Synced => self.synced(world),
            Step::Mode(which, mode) => world.set_mode(&format!("nv.{}", NAMES[which]), mode),
            Step::TellChange => world.tell_change(),
            Step::Resync => world.resync(),
            Step::Applied(well) => world.answer_apply(if well { Ok(()) } else { Err("no room".into()) }),
            Step::Attached(well) => {
                let refuse = !well && self.refused < 3;
                self.refused += u32::from(refuse);
                world.answer_attach(refuse.then(|| "busy".into()));
            }
            Step::Wait(time) => world.wait(time),
        }
    }

    fn synced(&self, world: &mut World) {
        let names = NAMES
            .iter()
            .zip(self.running)
            .filter(|(_, ifindex)| ifindex.is_some());
        let names: Vec<_> = names.map(|(name, _)| *name).collect();
        world.synced(&names);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_time: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_no_moment_is_unprotected_and_all_is_well_in_the_end(
        before in proptest::collection::vec(step(), 0..10),
        after in proptest::collection::vec(step(), 0..120),
    ) {
        let mut world = World::new();
        let mut story = Story::default();
        for step in before {
            story.play(&mut world, step);
            prop_assert!(world.guarded.is_empty() || world.applied.is_some());
        }
        world.resync();
        for step in after {
            story.play(&mut world, step);
        }
        // No more trouble: retries are due within seconds, strangers are let go only after thirty.
        world.resync();
        story.synced(&mut world);
        for _ in 0..5 {
            world.settle();
            world.wait(SECOND + 1);
        }
        // What was refused as the last image is in the next one.
        world.set_mode("nv.web", Mode::Discover);
        world.settle();
        if world.now >= 30 * SECOND {
            story.strangers.retain(|ifindex| world.guarded.contains_key(ifindex)); // some were let go by now
        }
        story.check(&world);
    }
}

impl Story {
    fn check(&self, world: &World) {
        let node = world.node.as_ref().unwrap();
        let fine = node
            .degraded
            .iter()
            .all(|words| words.contains("no runtime claims"));
        assert!(fine, "{:?}", node.degraded);
        for (name, ifindex) in NAMES.iter().zip(self.running) {
            if let Some(ifindex) = ifindex {
                assert_eq!(
                    world.guarded.get(&ifindex),
                    Some(&Some(id(name))),
                    "{name} at {ifindex}"
                );
            }
        }
        for ifindex in &self.strangers {
            assert_eq!(world.guarded.get(ifindex), Some(&None), "stranger {ifindex}");
        }
        let running = self.running.iter().flatten().count();
        assert_eq!(
            world.guarded.len(),
            running + self.strangers.len(),
            "{:?}",
            world.guarded
        );
        assert_eq!(world.stored().len(), running, "{:?}", world.stored());
        let (_, known, _) = world.applied.as_ref().unwrap();
        assert_eq!(known.len(), running, "{known:?}");
    }
}
