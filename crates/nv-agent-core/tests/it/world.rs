//! A store, a runtime and a datapath that answer when the test says so, and check what the agent asks for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use nv_agent_core::{Agent, Effect, EndpointWant, Facts, Input, Moment, Steady, Switches};
use nv_policy::{decode, encode};
use nv_types::{
    Interface, Mode, Node, NodeId, PolicySettings, Revision, Timestamp, Workload, WorkloadId, keys,
};

pub(crate) const SECOND: u64 = 1_000_000_000;
pub(crate) const RUNTIME: &str = "test";

pub(crate) fn node() -> NodeId {
    "n1".parse().unwrap()
}

pub(crate) fn id(name: &str) -> WorkloadId {
    name.parse().unwrap()
}

/// A workload of this node (or another one) whose host end has this index.
pub(crate) fn workload(name: &str, on: &str, ifindex: u32) -> Workload {
    Workload {
        name: name.into(),
        runtime: RUNTIME.into(),
        interfaces: vec![Interface {
            name: "eth0".into(),
            index: 2,
            host_index: Some(ifindex),
            host_name: Some(format!("veth{ifindex}")),
            addresses: vec![(
                std::net::Ipv4Addr::new(10, 0, 0, u8::try_from(ifindex % 250).unwrap()).into(),
                24,
            )],
            ..Interface::default()
        }],
        ..Workload::new(id(name), on.parse().unwrap(), name)
    }
}

/// The store's side of a watch.
#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) values: BTreeMap<String, Vec<u8>>,
    pub(crate) revision: u64,
    /// Changes that the agent has not been told.
    pub(crate) untold: VecDeque<(String, Option<Vec<u8>>, Revision)>,
}

impl Store {
    pub(crate) fn write(&mut self, key: &str, value: Option<Vec<u8>>) {
        self.revision += 1;
        match &value {
            Some(value) => self.values.insert(key.to_owned(), value.clone()),
            None => self.values.remove(key),
        };
        self.untold
            .push_back((key.to_owned(), value, Revision(self.revision)));
    }
}

/// Everything around an agent. What it asks for is kept until the test answers.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) agent: Agent,
    /// On the steady clock.
    pub(crate) now: u64,
    /// What the clock on the wall says.
    pub(crate) day: Timestamp,
    pub(crate) store: Store,
    /// Revision and workloads of the image that waits to be applied, with its switches.
    pub(crate) applying: Option<(Revision, BTreeSet<WorkloadId>, Switches)>,
    /// What was applied last.
    pub(crate) applied: Option<(Revision, BTreeSet<WorkloadId>, Switches)>,
    pub(crate) attaching: VecDeque<EndpointWant>,
    /// What it asked about packets.
    pub(crate) packets: Vec<Effect>,
    /// Guarded interfaces.
    pub(crate) guarded: BTreeMap<u32, Option<WorkloadId>>,
    /// Of these: cut off.
    pub(crate) cut: BTreeSet<u32>,
    /// Interfaces that the agent has asked to guard and not to let go.
    asked: BTreeSet<u32>,
    /// Interfaces that an agent before this one may have guarded.
    preexisting: BTreeSet<u32>,
    /// Of those that wait: let go again since.
    undone: BTreeSet<u32>,
    pub(crate) links: BTreeSet<u32>,
    /// The node as it was last reported.
    pub(crate) node: Option<Node>,
    /// DNS answers that went on.
    pub(crate) released: Vec<u64>,
}

impl World {
    pub(crate) fn new() -> Self {
        let mut world = Self {
            agent: Agent::new(node()),
            now: SECOND,
            day: Timestamp(1_700_000_000 * SECOND),
            store: Store::default(),
            applying: None,
            applied: None,
            attaching: VecDeque::new(),
            packets: Vec::new(),
            guarded: BTreeMap::new(),
            cut: BTreeSet::new(),
            asked: BTreeSet::new(),
            preexisting: BTreeSet::new(),
            undone: BTreeSet::new(),
            links: BTreeSet::new(),
            node: None,
            released: Vec::new(),
        };
        world.tell(Input::Facts(Facts {
            addresses: vec!["192.0.2.1".parse().unwrap()],
            ..Facts::default()
        }));
        world
    }

    fn moment(&self) -> Moment {
        Moment {
            steady: Steady(self.now),
            day: self.day,
        }
    }

    /// Gives the agent an input and takes what it asks for.
    pub(crate) fn tell(&mut self, input: Input) {
        if let Input::Preexisting(indexes) = &input {
            self.preexisting.clone_from(indexes);
        }
        self.agent.handle(input, self.moment());
        let mut count = 0;
        while let Some(effect) = self.agent.poll_effect() {
            self.take(effect);
            count += 1;
            assert!(count < 1000, "the agent does not come to rest");
        }
        if let Some(due) = self.agent.poll_timeout() {
            assert!(
                due.0 > self.now,
                "to be woken in the past is to run in circles: {due:?} at {}",
                self.now
            );
        }
    }

    fn take(&mut self, effect: Effect) {
        match effect {
            Effect::Apply { image, switches } => {
                assert!(self.applying.is_none(), "one image at a time");
                let workloads = image.locals.iter().map(|local| local.workload.clone()).collect();
                self.applying = Some((image.revision, workloads, switches));
            }
            Effect::Attach(want) => {
                let (_, known, _) = self
                    .applied
                    .as_ref()
                    .expect("nothing is guarded before a policy is in force");
                if let Some(workload) = &want.workload {
                    assert!(
                        known.contains(workload),
                        "{workload} is guarded before the policy knows it"
                    );
                }
                self.asked.insert(want.ifindex);
                self.attaching.push_back(want);
            }
            Effect::Detach(ifindex) => {
                assert!(
                    self.asked.remove(&ifindex) || self.preexisting.remove(&ifindex),
                    "{ifindex} was never guarded"
                );
                if self.attaching.iter().any(|want| want.ifindex == ifindex) {
                    self.undone.insert(ifindex);
                }
                self.guarded.remove(&ifindex);
            }
            packets @ (Effect::KeepPackets { .. } | Effect::SavePackets { .. }) => self.packets.push(packets),
            Effect::Release(token) => self.released.push(token),
            Effect::Store { key, value } => {
                let own = key == keys::node(&node())
                    || key.starts_with(&keys::workloads_of(&node()))
                    || key.starts_with(&keys::names_of(&node()));
                assert!(own, "{key} is not the node's to write");
                if key == keys::node(&node())
                    && let Some(value) = &value
                {
                    let node: Node = decode(&key, value).unwrap();
                    let in_force = self
                        .applied
                        .as_ref()
                        .map_or(Revision(0), |(revision, ..)| *revision);
                    assert_eq!(node.revision, in_force, "what is reported is what is in force");
                    self.node = Some(node);
                }
                self.store.write(&key, value);
            }
        }
    }

    /// Answers the image that waits, if there is one.
    pub(crate) fn answer_apply(&mut self, result: Result<(), String>) {
        let Some(image) = self.applying.take() else { return };
        if result.is_ok() {
            self.applied = Some(image);
        }
        self.tell(Input::Applied(result));
    }

    /// Answers the oldest wish to guard an interface; one that is gone cannot be guarded.
    pub(crate) fn answer_attach(&mut self, error: Option<String>) {
        let Some(want) = self.attaching.pop_front() else {
            return;
        };
        let ifindex = want.ifindex;
        let result = match error {
            _ if !self.links.contains(&ifindex) => Err(None),
            Some(words) => Err(Some(words)),
            None => Ok(()),
        };
        if !self.undone.remove(&ifindex) && result.is_ok() {
            self.guarded.insert(ifindex, want.workload);
            if want.quarantine {
                self.cut.insert(ifindex);
            } else {
                self.cut.remove(&ifindex);
            }
        }
        self.tell(Input::Attached { ifindex, result });
    }

    /// Tells the agent the oldest change of the store that it does not know.
    pub(crate) fn tell_change(&mut self) {
        match self.store.untold.pop_front() {
            Some((key, Some(value), revision)) => self.tell(Input::StorePut { key, value, revision }),
            Some((key, None, revision)) => self.tell(Input::StoreDelete { key, revision }),
            None => {}
        }
    }

    pub(crate) fn resync(&mut self) {
        self.store.untold.clear();
        let entries = self.store.values.clone().into_iter().collect();
        self.tell(Input::StoreResync {
            entries,
            revision: Revision(self.store.revision),
        });
    }

    pub(crate) fn link(&mut self, ifindex: u32) {
        self.links.insert(ifindex);
        self.tell(Input::Link {
            ifindex,
            name: format!("veth{ifindex}"),
        });
    }

    pub(crate) fn unlink(&mut self, ifindex: u32) {
        self.links.remove(&ifindex);
        // The kernel takes the program with the interface.
        self.guarded.remove(&ifindex);
        self.tell(Input::LinkGone(ifindex));
    }

    pub(crate) fn up(&mut self, workload: &Workload) {
        self.tell(Input::WorkloadUp(Box::new(workload.clone())));
    }

    pub(crate) fn synced(&mut self, running: &[&str]) {
        self.tell(Input::Synced {
            runtime: RUNTIME.into(),
            running: running.iter().map(|name| id(name)).collect(),
        });
    }

    pub(crate) fn wait(&mut self, nanoseconds: u64) {
        self.now += nanoseconds;
        self.tell(Input::Tick);
    }

    pub(crate) fn write<T: serde::Serialize>(&mut self, key: &str, value: &T) {
        self.store.write(key, Some(encode(key, value).unwrap()));
    }

    pub(crate) fn set_mode(&mut self, group: &str, mode: Mode) {
        self.write(
            &keys::mode(&group.parse().unwrap()),
            &nv_policy::StoredMode { mode },
        );
    }

    pub(crate) fn settings(&mut self, settings: &PolicySettings) {
        self.write(keys::SETTINGS, settings);
    }

    /// Answers and tells everything, well, until nothing is left.
    pub(crate) fn settle(&mut self) {
        for _ in 0..200 {
            if self.store.untold.is_empty() && self.applying.is_none() && self.attaching.is_empty() {
                return;
            }
            self.tell_change();
            self.answer_apply(Ok(()));
            self.answer_attach(None);
        }
        panic!("it does not settle: {:?}", self.store.untold);
    }

    /// Keys of this node's workloads in the store.
    pub(crate) fn stored(&self) -> BTreeSet<String> {
        let own = keys::workloads_of(&node());
        self.store
            .values
            .keys()
            .filter(|key| key.starts_with(&own))
            .cloned()
            .collect()
    }
}
