//! The monitor against a model: whatever the runtimes lose, repeat or delay, the consumer ends up with the truth, and
//! every step on the way makes sense.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    reason = "helpers of tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use nv_runtime::{
    ContainerRuntime, EventKind, Monitor, MonitorEvent, MonitorOptions, RuntimeError, RuntimeEvent,
    RuntimeInfo,
};
use nv_types::{NodeId, Timestamp, Workload, WorkloadId, WorkloadState};
use proptest::prelude::*;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// What really runs, ended or was removed. A life is told from the next by the number of the step that began it.
#[derive(Debug, Default)]
struct World {
    step: u64,
    running: BTreeMap<u8, u64>,
    ended: BTreeSet<u8>,
}

/// One runtime's view: the truth at once when it is asked, events when it gets round to it.
#[derive(Debug, Default)]
struct Side {
    stream: Option<mpsc::Sender<RuntimeEvent>>,
    held: Vec<RuntimeEvent>,
    is_holding: bool,
    loses: bool,
    refuses: u8,
    fails_inspections: u8,
}

struct Fake {
    world: Arc<Mutex<World>>,
    side: Arc<Mutex<Side>>,
    name: &'static str,
}

fn id_of(number: u8) -> WorkloadId {
    format!("w{number}").parse().unwrap()
}

fn number_of(id: &str) -> u8 {
    id[1..].parse().unwrap()
}

impl Fake {
    fn unreachable() -> RuntimeError {
        RuntimeError::Unreachable {
            runtime: "fake",
            location: "memory".into(),
            detail: "a fault".into(),
        }
    }

    fn failed() -> RuntimeError {
        RuntimeError::Failed {
            runtime: "fake",
            action: "inspecting".into(),
            detail: "a fault".into(),
        }
    }

    fn refused(&self) -> bool {
        let mut side = self.side.lock().unwrap();
        let refused = side.refuses > 0;
        side.refuses = side.refuses.saturating_sub(1);
        refused
    }
}

#[async_trait]
impl ContainerRuntime for Fake {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn info(&self) -> Result<RuntimeInfo, RuntimeError> {
        if self.refused() {
            return Err(Self::unreachable());
        }
        Ok(RuntimeInfo {
            name: self.name.into(),
            version: "1".into(),
            location: "memory".into(),
            capabilities: BTreeSet::new(),
        })
    }

    async fn list(&self) -> Result<Vec<WorkloadId>, RuntimeError> {
        if self.refused() {
            return Err(Self::unreachable());
        }
        tokio::task::yield_now().await;
        let world = self.world.lock().unwrap();
        Ok(world.running.keys().map(|number| id_of(*number)).collect())
    }

    async fn inspect(&self, id: &WorkloadId, node: &NodeId) -> Result<Workload, RuntimeError> {
        tokio::task::yield_now().await;
        {
            let mut side = self.side.lock().unwrap();
            if side.fails_inspections > 0 {
                side.fails_inspections -= 1;
                return Err(Self::failed());
            }
        }
        let number = number_of(id.as_str());
        let world = self.world.lock().unwrap();
        let (life, state) = match world.running.get(&number) {
            Some(life) => (*life, WorkloadState::Running),
            None if world.ended.contains(&number) => (0, WorkloadState::Exited),
            None => {
                return Err(RuntimeError::NotFound {
                    runtime: "fake",
                    id: id.to_string(),
                });
            }
        };
        Ok(Workload {
            runtime: self.name.into(),
            started: Timestamp(life),
            pid: u32::try_from(life).unwrap(),
            netns: life,
            state,
            ..Workload::new(id.clone(), node.clone(), "s")
        })
    }

    async fn events(&self) -> Result<mpsc::Receiver<RuntimeEvent>, RuntimeError> {
        if self.refused() {
            return Err(Self::unreachable());
        }
        let (sender, receiver) = mpsc::channel(1024);
        let mut side = self.side.lock().unwrap();
        side.held.clear();
        side.is_holding = false;
        side.stream = Some(sender);
        Ok(receiver)
    }
}

#[derive(Clone, Debug)]
enum Op {
    Start(u8),
    Stop(u8),
    Delete(u8),
    Restart(u8),
    /// The connection breaks; so many calls after it fail.
    Break(usize, u8),
    /// Events wait in the daemon, in order.
    Hold(usize),
    Release(usize),
    /// The daemon does not send its next events at all, until `Release`.
    Lose(usize),
    FailInspections(usize, u8),
    /// The monitor gets so many milliseconds.
    Wait(u16),
}

fn op(sides: usize) -> impl Strategy<Value = Op> {
    let number = 0u8..4;
    let side = 0..sides;
    prop_oneof![
        6 => number.clone().prop_map(Op::Start),
        4 => number.clone().prop_map(Op::Stop),
        2 => number.clone().prop_map(Op::Delete),
        3 => number.prop_map(Op::Restart),
        2 => (side.clone(), 0u8..4).prop_map(|(side, calls)| Op::Break(side, calls)),
        1 => side.clone().prop_map(Op::Hold),
        2 => side.clone().prop_map(Op::Release),
        1 => side.clone().prop_map(Op::Lose),
        1 => (side, 1u8..4).prop_map(|(side, calls)| Op::FailInspections(side, calls)),
        6 => (0u16..400).prop_map(Op::Wait),
    ]
}

/// A world with the runtimes that look at it.
struct Lab {
    world: Arc<Mutex<World>>,
    sides: Vec<Arc<Mutex<Side>>>,
}

impl Lab {
    fn tell(&self, kind: EventKind, number: u8, at: u64) {
        for side in &self.sides {
            let mut side = side.lock().unwrap();
            let event = RuntimeEvent {
                kind,
                subject: id_of(number).into(),
                at: Timestamp(at),
            };
            if side.loses {
                continue;
            }
            if side.is_holding {
                side.held.push(event);
            } else if let Some(stream) = &side.stream {
                // Each comes twice, as some daemons do it.
                let _ = stream.try_send(event.clone());
                let _ = stream.try_send(event);
            }
        }
    }

    fn step(&self) -> u64 {
        let mut world = self.world.lock().unwrap();
        world.step += 1;
        world.step
    }

    fn start(&self, number: u8) {
        if self.world.lock().unwrap().running.contains_key(&number) {
            return;
        }
        let at = self.step();
        let mut world = self.world.lock().unwrap();
        world.ended.remove(&number);
        world.running.insert(number, at);
        drop(world);
        self.tell(EventKind::Start, number, at);
    }

    fn stop(&self, number: u8) {
        if self.world.lock().unwrap().running.remove(&number).is_none() {
            return;
        }
        self.world.lock().unwrap().ended.insert(number);
        let at = self.step();
        self.tell(EventKind::Stop, number, at);
    }

    fn delete(&self, number: u8) {
        if !self.world.lock().unwrap().ended.remove(&number) {
            return;
        }
        let at = self.step();
        self.tell(EventKind::Delete, number, at);
    }

    fn release(&self, side: usize) {
        let mut side = self.sides[side].lock().unwrap();
        side.is_holding = false;
        side.loses = false;
        for event in std::mem::take(&mut side.held) {
            if let Some(stream) = &side.stream {
                let _ = stream.try_send(event);
            }
        }
    }

    async fn apply(&self, op: Op) {
        match op {
            Op::Start(number) => self.start(number),
            Op::Stop(number) => self.stop(number),
            Op::Delete(number) => self.delete(number),
            Op::Restart(number) => {
                self.stop(number);
                self.start(number);
            }
            Op::Break(side, calls) => {
                let mut side = self.sides[side].lock().unwrap();
                side.stream = None;
                side.refuses = calls;
            }
            Op::Hold(side) => self.sides[side].lock().unwrap().is_holding = true,
            Op::Lose(side) => self.sides[side].lock().unwrap().loses = true,
            Op::Release(side) => self.release(side),
            Op::FailInspections(side, calls) => self.sides[side].lock().unwrap().fails_inspections = calls,
            Op::Wait(millis) => tokio::time::sleep(Duration::from_millis(u64::from(millis))).await,
        }
    }
}

/// What the consumer believes.
#[derive(Debug, Default)]
struct Believed {
    running: BTreeMap<u8, Option<u64>>,
    ended: BTreeSet<u8>,
    lives: BTreeSet<(u8, u64)>,
    errors: [usize; 2],
    synced: [usize; 2],
}

impl Believed {
    fn hear(&mut self, event: MonitorEvent, lives_once: bool) -> Result<(), TestCaseError> {
        match event {
            MonitorEvent::Synced { runtime, .. } => self.synced[runtime] += 1,
            MonitorEvent::Runtime {
                runtime,
                event,
                workload,
            } => {
                if event.kind == EventKind::SocketError {
                    self.errors[runtime] += 1;
                    return Ok(());
                }
                let number = number_of(&event.subject);
                match event.kind {
                    EventKind::Start => {
                        prop_assert!(!self.running.contains_key(&number), "{} starts twice", number);
                        let life = workload.map(|workload| workload.started.0);
                        if let Some(life) = life {
                            let is_new = self.lives.insert((number, life));
                            prop_assert!(is_new || !lives_once, "{} is told twice of life {}", number, life);
                        }
                        self.ended.remove(&number);
                        self.running.insert(number, life);
                    }
                    EventKind::Change => {
                        let life = self.running.get_mut(&number);
                        let life = life.ok_or_else(|| {
                            TestCaseError::fail(format!("{number} changes and does not run"))
                        })?;
                        if lives_once {
                            prop_assert_eq!(*life, None, "only what could not be looked at changes here");
                        }
                        *life = workload.map(|workload| workload.started.0);
                    }
                    EventKind::Stop => {
                        prop_assert!(self.running.remove(&number).is_some(), "{} ends twice", number);
                        self.ended.insert(number);
                    }
                    EventKind::Delete => {
                        prop_assert!(self.ended.remove(&number), "{} goes and has not ended", number);
                    }
                    kind => return Err(TestCaseError::fail(format!("{kind:?} was never told"))),
                }
            }
        }
        Ok(())
    }
}

fn run(names: &[&'static str], ops: Vec<Op>) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let world: Arc<Mutex<World>> = Arc::default();
        let sides: Vec<Arc<Mutex<Side>>> = names.iter().map(|_| Arc::default()).collect();
        let fakes = names.iter().zip(&sides).map(|(name, side)| {
            let fake = Fake {
                world: Arc::clone(&world),
                side: Arc::clone(side),
                name,
            };
            Arc::new(fake) as Arc<dyn ContainerRuntime>
        });
        let options = MonitorOptions {
            capacity: 4096,
            ..MonitorOptions::new("n".parse().unwrap())
        };
        let cancel = CancellationToken::new();
        let mut events = Monitor::spawn(fakes.collect(), options, cancel.clone());
        let lab = Lab { world, sides };
        for op in ops {
            lab.apply(op).await;
        }
        for side in 0..lab.sides.len() {
            lab.release(side);
            let mut side = lab.sides[side].lock().unwrap();
            side.refuses = 0;
            side.fails_inspections = 0;
        }
        // The clock is the test's: waits cost nothing. Audits make up for what no event told.
        tokio::time::sleep(Duration::from_secs(700)).await;
        let mut believed = Believed::default();
        while let Ok(event) = events.try_recv() {
            believed.hear(event, names.len() == 1)?;
        }
        let world = lab.world.lock().unwrap();
        let truth: BTreeMap<u8, Option<u64>> = world
            .running
            .iter()
            .map(|(number, life)| (*number, Some(*life)))
            .collect();
        prop_assert_eq!(&believed.running, &truth, "what runs");
        prop_assert!(
            believed.ended.is_subset(&world.ended),
            "{:?} is believed to be there still, of {:?}",
            believed.ended,
            world.ended
        );
        for side in 0..names.len() {
            prop_assert!(believed.synced[side] > 0, "it is connected in the end");
            prop_assert!(
                believed.errors[side] <= believed.synced[side],
                "one error for one outage"
            );
        }
        cancel.cancel();
        Ok(())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_consumer_ends_up_with_the_truth(ops in prop::collection::vec(op(1), 1..60)) {
        run(&["docker"], ops)?;
    }

    #[test]
    fn two_runtimes_of_the_same_containers_are_told_as_one(ops in prop::collection::vec(op(2), 1..60)) {
        run(&["docker", "containerd"], ops)?;
    }
}
