//! Random lives of a node: runtimes, links, a store that comes and goes, a datapath that serves late and refuses, agents that
//! start again. [`Shell`] checks at every step what must never be; here is what must be in the end.

use nv_agent_core::Steady;
use nv_policy::{StoredMode, encode};
use nv_types::{Mode, PolicySettings, UnknownEndpoint, keys};
use proptest::prelude::*;

use crate::shell::Shell;
use crate::world::{SECOND, id, node, workload};

const NAMES: [&str; 4] = ["web", "app", "db", "job"];
/// There before the first agent, and nobody's.
const OLD: u32 = 90;

#[derive(Clone, Copy, Debug)]
enum Step {
    Start {
        which: usize,
        link_first: bool,
    },
    Stop {
        which: usize,
        link_first: bool,
    },
    /// An interface of a running workload gets another address.
    Readdress(usize),
    Stranger,
    StrangerGone,
    /// The runtime is connected to anew.
    Synced,
    Mode(usize, Mode),
    Unknown(UnknownEndpoint),
    /// A value that nobody can read comes or goes.
    Corrupt(bool),
    /// A workload of another node.
    Elsewhere(bool),
    Serve(bool),
    Read,
    Change,
    Disconnect,
    Connect,
    Restart,
    Wait(u64),
    /// Somebody sets the clock on the wall.
    ClockSet(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let which = 0..NAMES.len();
    let mode = prop_oneof![Just(Mode::Discover), Just(Mode::Monitor), Just(Mode::Protect)];
    let unknown = prop_oneof![
        Just(UnknownEndpoint::Auto),
        Just(UnknownEndpoint::Allow),
        Just(UnknownEndpoint::Deny)
    ];
    prop_oneof![
        5 => (which.clone(), any::<bool>()).prop_map(|(which, link_first)| Step::Start { which, link_first }),
        4 => (which.clone(), any::<bool>()).prop_map(|(which, link_first)| Step::Stop { which, link_first }),
        2 => which.clone().prop_map(Step::Readdress),
        2 => Just(Step::Stranger),
        2 => Just(Step::StrangerGone),
        1 => Just(Step::Synced),
        2 => (which, mode).prop_map(|(which, mode)| Step::Mode(which, mode)),
        1 => unknown.prop_map(Step::Unknown),
        1 => any::<bool>().prop_map(Step::Corrupt),
        1 => any::<bool>().prop_map(Step::Elsewhere),
        12 => prop::bool::weighted(0.8).prop_map(Step::Serve),
        10 => Just(Step::Read),
        8 => Just(Step::Change),
        1 => Just(Step::Disconnect),
        2 => Just(Step::Connect),
        1 => Just(Step::Restart),
        2 => prop_oneof![0..2 * SECOND, 20 * SECOND..40 * SECOND].prop_map(Step::Wait),
        1 => prop_oneof![Just(0), any::<u64>()].prop_map(Step::ClockSet),
    ]
}

struct Life {
    shell: Shell,
    /// Interface and last part of the address of each workload that runs.
    running: [Option<(u32, u8)>; NAMES.len()],
    strangers: Vec<u32>,
    /// Of these, those that were there when the last agent started, and not guarded.
    old: Vec<u32>,
    /// The highest revision that this agent had in force.
    highest: Option<nv_types::Revision>,
    used: u8,
}

impl Life {
    fn new() -> Self {
        Self {
            shell: Shell::new(&[OLD]),
            running: [None; NAMES.len()],
            strangers: Vec::new(),
            old: vec![OLD],
            highest: None,
            used: 0,
        }
    }

    fn write<T: serde::Serialize>(&mut self, key: &str, value: &T) {
        self.shell.store.write(key, Some(encode(key, value).unwrap()));
    }

    /// The lowest free index: indexes are used again.
    fn free_index(&self) -> u32 {
        let links = &self.shell.kernel.links;
        (1..).find(|index| !links.contains_key(index)).unwrap()
    }

    fn found(&self, which: usize) -> Option<nv_types::Workload> {
        let (ifindex, last) = self.running[which]?;
        let mut workload = workload(NAMES[which], "n1", ifindex);
        workload.interfaces[0].addresses = vec![(std::net::Ipv4Addr::new(10, 0, 0, last).into(), 24)];
        Some(workload)
    }

    fn address(&mut self) -> u8 {
        self.used = self.used % 250 + 1;
        self.used
    }

    fn play(&mut self, step: Step) {
        match step {
            Step::Start { which, link_first } => self.start(which, link_first),
            Step::Stop { which, link_first } => self.stop(which, link_first),
            Step::Readdress(which) => {
                if let Some((ifindex, _)) = self.running[which] {
                    self.running[which] = Some((ifindex, self.address()));
                    let found = self.found(which).unwrap();
                    self.shell.up(&found);
                }
            }
            Step::Stranger => {
                let ifindex = self.free_index();
                self.strangers.push(ifindex);
                self.shell.link(ifindex);
            }
            Step::StrangerGone => {
                if let Some(ifindex) = self.strangers.pop() {
                    self.old.retain(|old| *old != ifindex);
                    self.shell.unlink(ifindex);
                }
            }
            Step::Synced => self.sync(),
            Step::Mode(which, mode) => {
                let key = keys::mode(&format!("nv.{}", NAMES[which]).parse().unwrap());
                self.write(&key, &StoredMode { mode });
            }
            Step::Unknown(unknown_endpoint) => {
                let settings = PolicySettings {
                    unknown_endpoint,
                    ..PolicySettings::default()
                };
                self.write(keys::SETTINGS, &settings);
            }
            Step::Corrupt(there) => {
                let key = keys::rule(nv_types::RuleId(7));
                self.shell.store.write(&key, there.then(|| b"{".to_vec()));
            }
            Step::Elsewhere(there) => {
                let other = workload("else", "n2", 200);
                let key = keys::workload(&other.node, &other.id);
                let value = there.then(|| encode(&key, &other).unwrap());
                self.shell.store.write(&key, value);
            }
            Step::Serve(well) => self.shell.serve((!well).then_some("busy")),
            Step::Read => self.shell.read(),
            Step::Change => self.shell.change(),
            Step::Disconnect => self.shell.disconnect(),
            Step::Connect => self.shell.connect(),
            Step::Restart => self.restart(),
            Step::Wait(time) => self.shell.wait(time),
            Step::ClockSet(day) => self.shell.day = day,
        }
        let revision = self.shell.agent.revision();
        assert!(revision >= self.highest, "{revision:?} after {:?}", self.highest);
        self.highest = revision;
    }

    fn start(&mut self, which: usize, link_first: bool) {
        if self.running[which].is_some() {
            return;
        }
        let ifindex = self.free_index();
        self.running[which] = Some((ifindex, self.address()));
        let found = self.found(which).unwrap();
        if link_first {
            self.shell.link(ifindex);
            self.shell.up(&found);
        } else {
            self.shell.kernel.links.insert(ifindex, format!("veth{ifindex}"));
            self.shell.up(&found);
            self.shell.link(ifindex);
        }
    }

    fn stop(&mut self, which: usize, link_first: bool) {
        let Some((ifindex, _)) = self.running[which].take() else {
            return;
        };
        if link_first {
            self.shell.unlink(ifindex);
            self.shell.down(NAMES[which]);
        } else {
            self.shell.down(NAMES[which]);
            self.shell.unlink(ifindex);
        }
    }

    /// What a monitor does on a new connection: everything that runs, then the mark.
    fn sync(&mut self) {
        for which in 0..NAMES.len() {
            if let Some(found) = self.found(which) {
                self.shell.up(&found);
            }
        }
        let running = (0..NAMES.len()).filter(|which| self.running[*which].is_some());
        let names: Vec<_> = running.map(|which| NAMES[which]).collect();
        self.shell.synced(&names);
    }

    fn restart(&mut self) {
        self.highest = None;
        self.shell.restart();
        // What the agent before guarded, this one guards too.
        self.old = vec![OLD];
        let guarded = &self.shell.kernel.guarded;
        self.old
            .extend(self.strangers.iter().filter(|index| !guarded.contains_key(index)));
        self.sync();
    }

    /// No more trouble. Pauses after failures are a minute long at most.
    fn rest(&mut self) {
        self.shell.connect();
        self.sync();
        // A last refusal, after which nothing changes any more.
        self.shell.serve(Some("busy"));
        for _ in 0..4 {
            self.shell.settle();
            self.shell.wait(65 * SECOND);
        }
        self.shell.settle();
    }

    fn check(&self) {
        let shell = &self.shell;
        let count = self.running.iter().flatten().count();
        for (which, name) in NAMES.iter().enumerate() {
            if let Some((ifindex, last)) = self.running[which] {
                let guarded = shell.kernel.guarded.get(&ifindex);
                let want = guarded.unwrap_or_else(|| panic!("{name} at {ifindex} is not guarded"));
                assert_eq!(want.workload, Some(id(name)));
                assert_eq!(want.addresses, [std::net::IpAddr::from([10, 0, 0, last])]);
            }
        }
        let denies = shell.strangers_are_denied();
        for ifindex in self.strangers.iter().filter(|index| !self.old.contains(index)) {
            let expected = denies.then_some(None);
            assert_eq!(
                shell.owner(*ifindex),
                expected,
                "stranger {ifindex}, deny: {denies}"
            );
        }
        assert_eq!(shell.owner(OLD), None, "it was there before and is nobody's");
        let gone: Vec<_> = shell
            .kept
            .iter()
            .filter(|ifindex| !shell.kernel.links.contains_key(ifindex))
            .collect();
        assert!(gone.is_empty(), "the datapath keeps what is gone: {gone:?}");
        let (revision, locals, _) = shell.kernel.image.as_ref().unwrap();
        assert_eq!(locals.len(), count, "{locals:?}");
        assert_eq!(shell.workloads_in_store().len(), count);
        let told = shell.node.as_ref().unwrap();
        assert_eq!(told.revision, *revision);
        let settled = told.degraded.iter().all(|words| {
            words.contains("no runtime claims") || words.contains("stored value of 'policy/rule/000007'")
        });
        assert!(settled, "{:?}", told.degraded);
        let corrupt = shell.store.values.contains_key("policy/rule/000007");
        assert_eq!(shell.troubles().contains("policy/rule/000007"), corrupt);
        let stored: nv_types::Node =
            nv_policy::decode("", &shell.store.values[&keys::node(&node())]).unwrap();
        assert_eq!(stored, *told, "the store has the last word");
        assert_eq!(
            shell.agent.poll_timeout(),
            None::<Steady>,
            "nothing is left to do"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_time: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_node_is_guarded_at_every_moment_and_all_is_well_in_the_end(
        steps in proptest::collection::vec(step(), 0..150),
    ) {
        let mut life = Life::new();
        for step in steps {
            life.play(step);
        }
        life.rest();
        life.check();
    }
}
