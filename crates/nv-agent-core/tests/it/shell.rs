//! An agent with a datapath that works as the real one does: requests are served one after the other on a thread of its own,
//! and each answer waits for the agent to read it. What the datapath must never be asked for is checked when it is served.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use nv_agent_core::{Agent, Effect, EndpointWant, Facts, Input, Moment, Steady};
use nv_policy::decode;
use nv_types::{
    Node, PolicySettings, Revision, Timestamp, UnknownEndpoint, Verdict, Workload, WorkloadId, keys,
};

use crate::world::{RUNTIME, SECOND, Store, id, node};

/// Keys and values, and their revision.
type Saved = (Vec<(String, Vec<u8>)>, Revision);

#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Apply(Revision, BTreeSet<WorkloadId>, Verdict),
    Attach(EndpointWant),
    Detach(u32),
}

/// What the kernel has.
#[derive(Debug, Default)]
pub(crate) struct Kernel {
    pub(crate) links: BTreeMap<u32, String>,
    pub(crate) guarded: BTreeMap<u32, EndpointWant>,
    pub(crate) image: Option<(Revision, BTreeSet<WorkloadId>, Verdict)>,
}

#[derive(Debug)]
pub(crate) struct Shell {
    pub(crate) agent: Agent,
    /// On the steady clock.
    pub(crate) now: u64,
    /// What the clock on the wall says: it jumps.
    pub(crate) day: u64,
    pub(crate) store: Store,
    /// Requests that the datapath has not begun.
    pub(crate) asks: VecDeque<Ask>,
    /// Answers that the agent has not read.
    pub(crate) tells: VecDeque<Input>,
    pub(crate) kernel: Kernel,
    /// What the datapath keeps of an interface, whether or not that is still there.
    pub(crate) kept: BTreeSet<u32>,
    /// Interfaces that were there when the agent started: it cannot know what the datapath has of them.
    found: BTreeSet<u32>,
    /// The revision that was answered well last.
    confirmed: Revision,
    pub(crate) node: Option<Node>,
    /// Whether the controller can be reached; what is written meanwhile waits.
    pub(crate) is_connected: bool,
    waiting: BTreeMap<String, Option<Vec<u8>>>,
    /// Values of the store as of the last change; for the agent that starts anew.
    snapshot: Option<Saved>,
}

impl Shell {
    /// An agent on a node where these interfaces are already.
    pub(crate) fn new(preexisting: &[u32]) -> Self {
        let mut shell = Self {
            agent: Agent::new(node()),
            now: SECOND,
            day: 1_700_000_000 * SECOND,
            store: Store::default(),
            asks: VecDeque::new(),
            tells: VecDeque::new(),
            kernel: Kernel::default(),
            kept: BTreeSet::new(),
            found: BTreeSet::new(),
            confirmed: Revision(0),
            node: None,
            is_connected: true,
            waiting: BTreeMap::new(),
            snapshot: None,
        };
        for ifindex in preexisting {
            shell.kernel.links.insert(*ifindex, format!("veth{ifindex}"));
        }
        shell.begin();
        shell
    }

    fn begin(&mut self) {
        self.found = self.kernel.links.keys().copied().collect();
        self.tell(Input::Preexisting(self.found.clone()));
        let adopted = self.kernel.guarded.values().cloned().collect();
        self.tell(Input::Adopted(adopted));
        self.tell(Input::Facts(Facts {
            addresses: vec!["192.0.2.1".parse().unwrap()],
            ..Facts::default()
        }));
        // The watcher tells of every link that is there.
        for (ifindex, name) in self.kernel.links.clone() {
            self.tell(Input::Link { ifindex, name });
        }
    }

    /// The agent ends and another one starts. The kernel keeps what it has.
    pub(crate) fn restart(&mut self) {
        // The datapath's thread does what it was asked for before it ends; nobody reads the answers.
        while !self.asks.is_empty() {
            self.serve(None);
        }
        self.agent = Agent::new(node());
        self.tells.clear();
        self.waiting.clear();
        self.confirmed = Revision(0);
        self.begin();
        if let Some((entries, revision)) = self.snapshot.clone() {
            self.tell(Input::StoreResync { entries, revision });
        }
    }

    fn moment(&self) -> Moment {
        Moment {
            steady: Steady(self.now),
            day: Timestamp(self.day),
        }
    }

    pub(crate) fn tell(&mut self, input: Input) {
        self.agent.handle(input, self.moment());
        for count in 0.. {
            assert!(count < 1000, "the agent does not come to rest");
            let Some(effect) = self.agent.poll_effect() else {
                break;
            };
            self.take(effect);
        }
        if let Some(due) = self.agent.poll_timeout() {
            assert!(
                due.0 > self.now,
                "woken at {due:?}, it is {}: that runs in circles",
                self.now
            );
        }
        self.bounds();
    }

    fn take(&mut self, effect: Effect) {
        match effect {
            Effect::Apply { image, switches } => {
                let locals = image.locals.iter().map(|local| local.workload.clone()).collect();
                self.asks
                    .push_back(Ask::Apply(image.revision, locals, switches.unknown));
            }
            Effect::Attach(want) => {
                assert!(
                    self.agent.revision().is_some(),
                    "nothing is guarded before a policy is in force"
                );
                self.asks.push_back(Ask::Attach(want));
            }
            Effect::Detach(ifindex) => self.asks.push_back(Ask::Detach(ifindex)),
            Effect::KeepPackets { .. } | Effect::SavePackets { .. } => {}
            Effect::Release(token) => panic!("{token} was never told"),
            Effect::Store { key, value } => {
                let own = key == keys::node(&node()) || key.starts_with(&keys::workloads_of(&node()));
                assert!(own, "{key} is not the node's to write");
                if key == keys::node(&node())
                    && let Some(value) = &value
                {
                    let node: Node = decode(&key, value).unwrap();
                    assert_eq!(
                        node.revision, self.confirmed,
                        "what is reported is what was answered"
                    );
                    self.node = Some(node);
                }
                self.waiting.insert(key, value);
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        if self.is_connected {
            for (key, value) in std::mem::take(&mut self.waiting) {
                self.store.write(&key, value);
            }
        }
    }

    /// One image under way, one request an interface: the datapath's queue cannot grow.
    fn bounds(&self) {
        let images = self.asks.iter().filter(|ask| matches!(ask, Ask::Apply(..)));
        let answers = self.tells.iter().filter(|tell| matches!(tell, Input::Applied(_)));
        assert!(images.count() + answers.count() <= 1, "one image at a time");
        let mut requests: BTreeMap<u32, usize> = BTreeMap::new();
        for ask in &self.asks {
            if let Ask::Attach(want) = ask {
                *requests.entry(want.ifindex).or_default() += 1;
            }
        }
        for tell in &self.tells {
            if let Input::Attached { ifindex, .. } = tell {
                *requests.entry(*ifindex).or_default() += 1;
            }
        }
        for (ifindex, count) in requests {
            assert!(
                count <= 1,
                "{count} requests for interface {ifindex} are under way"
            );
        }
    }

    /// The datapath does the oldest request, or refuses it.
    pub(crate) fn serve(&mut self, refusal: Option<&str>) {
        match self.asks.pop_front() {
            Some(Ask::Apply(revision, locals, unknown)) => {
                let result = refusal.map_or(Ok(()), |words| Err(words.to_owned()));
                if result.is_ok() {
                    self.kernel.image = Some((revision, locals, unknown));
                }
                self.tells.push_back(Input::Applied(result));
            }
            Some(Ask::Attach(want)) => self.attach(want, refusal),
            Some(Ask::Detach(ifindex)) => {
                self.kernel.guarded.remove(&ifindex);
                assert!(
                    self.kept.remove(&ifindex) || self.found.remove(&ifindex),
                    "interface {ifindex} was never asked for"
                );
            }
            None => {}
        }
    }

    fn attach(&mut self, want: EndpointWant, refusal: Option<&str>) {
        let ifindex = want.ifindex;
        let (_, locals, _) = self.kernel.image.as_ref().expect("a policy is in force");
        if let Some(workload) = &want.workload {
            assert!(
                locals.contains(workload),
                "interface {ifindex} is given to {workload}, which the tables do not know: everything would pass"
            );
        }
        let before = self.kernel.guarded.get(&ifindex);
        assert!(
            want.workload.is_some() || before.is_none_or(|before| before.workload.is_none()),
            "interface {ifindex} had an owner and falls back to nobody"
        );
        self.kept.insert(ifindex);
        let result = if !self.kernel.links.contains_key(&ifindex) {
            Err(None)
        } else if let Some(words) = refusal {
            Err(Some(words.to_owned()))
        } else {
            self.kernel.guarded.insert(ifindex, want);
            Ok(())
        };
        self.tells.push_back(Input::Attached { ifindex, result });
    }

    /// The agent reads the oldest answer.
    pub(crate) fn read(&mut self) {
        if let Some(answer) = self.tells.pop_front() {
            if matches!(answer, Input::Applied(Ok(()))) {
                self.confirmed = self
                    .kernel
                    .image
                    .as_ref()
                    .map_or(Revision(0), |(revision, ..)| *revision);
            }
            self.tell(answer);
        }
    }

    /// The agent reads the oldest change of the store.
    pub(crate) fn change(&mut self) {
        if !self.is_connected {
            return;
        }
        match self.store.untold.pop_front() {
            Some((key, Some(value), revision)) => self.tell(Input::StorePut { key, value, revision }),
            Some((key, None, revision)) => self.tell(Input::StoreDelete { key, revision }),
            None => {}
        }
        self.save();
    }

    fn save(&mut self) {
        if self.store.untold.is_empty() {
            let mut entries: Vec<_> = self.store.values.clone().into_iter().collect();
            entries.retain(|(key, _)| *key != keys::node(&node()));
            self.snapshot = Some((entries, Revision(self.store.revision)));
        }
    }

    pub(crate) fn disconnect(&mut self) {
        self.is_connected = false;
    }

    /// The watch begins anew, with everything.
    pub(crate) fn connect(&mut self) {
        self.is_connected = true;
        self.store.untold.clear();
        self.save();
        let entries = self.store.values.clone().into_iter().collect();
        let revision = Revision(self.store.revision);
        self.tell(Input::StoreResync { entries, revision });
        self.flush();
    }

    pub(crate) fn link(&mut self, ifindex: u32) {
        let name = format!("veth{ifindex}");
        self.kernel.links.insert(ifindex, name.clone());
        self.tell(Input::Link { ifindex, name });
    }

    pub(crate) fn unlink(&mut self, ifindex: u32) {
        self.kernel.links.remove(&ifindex);
        // The program goes with the interface.
        self.kernel.guarded.remove(&ifindex);
        self.tell(Input::LinkGone(ifindex));
    }

    pub(crate) fn up(&mut self, workload: &Workload) {
        self.tell(Input::WorkloadUp(Box::new(workload.clone())));
    }

    pub(crate) fn down(&mut self, name: &str) {
        self.tell(Input::WorkloadDown(id(name)));
    }

    pub(crate) fn synced(&mut self, running: &[&str]) {
        self.tell(Input::Synced {
            runtime: RUNTIME.into(),
            running: running.iter().map(|name| id(name)).collect(),
        });
    }

    /// Time passes; the agent is woken when it wants to be.
    pub(crate) fn wait(&mut self, nanoseconds: u64) {
        let until = self.now + nanoseconds;
        for count in 0.. {
            assert!(count < 1000, "it wakes too often");
            match self.agent.poll_timeout() {
                Some(due) if due.0 <= until => {
                    self.now = self.now.max(due.0);
                    self.tell(Input::Tick);
                }
                _ => break,
            }
        }
        self.now = until;
    }

    /// Everything is served, answered and told until nothing is left.
    pub(crate) fn settle(&mut self) {
        for _ in 0..1000 {
            let is_told = self.store.untold.is_empty() || !self.is_connected;
            if is_told && self.asks.is_empty() && self.tells.is_empty() {
                return;
            }
            self.change();
            self.serve(None);
            self.read();
        }
        panic!("it does not settle: {:?} {:?}", self.asks, self.store.untold);
    }

    pub(crate) fn owner(&self, ifindex: u32) -> Option<Option<WorkloadId>> {
        self.kernel
            .guarded
            .get(&ifindex)
            .map(|want| want.workload.clone())
    }

    /// Whether settings say that strangers may do nothing.
    pub(crate) fn strangers_are_denied(&self) -> bool {
        let settings = self.store.values.get(keys::SETTINGS);
        settings.is_some_and(|value| {
            let settings: PolicySettings = decode(keys::SETTINGS, value).unwrap();
            settings.unknown_endpoint == UnknownEndpoint::Deny
        })
    }

    pub(crate) fn troubles(&self) -> String {
        self.node
            .as_ref()
            .map_or_else(String::new, |node| node.degraded.join("; "))
    }

    pub(crate) fn workloads_in_store(&self) -> BTreeSet<String> {
        let own = keys::workloads_of(&node());
        let names = self.store.values.keys().filter_map(|key| key.strip_prefix(&own));
        names.map(str::to_owned).collect()
    }
}
