//! The reducer.

mod lookback;
mod names;
mod node;
mod record;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use nv_policy::{PolicyInput, PolicyState, Touched, Wanted, encode};
use nv_types::{Node, NodeId, Revision, UnknownEndpoint, Workload, WorkloadId, keys};

use crate::book::AddressBook;
use crate::compiled::Compiled;
use crate::endpoints::{Endpoints, try_again};
use crate::io::{Effect, Facts, Input, Moment, Steady};
use crate::names::NameBook;
use crate::naming;

/// The agent's state.
#[derive(Debug)]
pub struct Agent {
    node: NodeId,
    facts: Facts,
    state: PolicyState,
    /// Something to compile has been heard of; before that nothing is put in force.
    ready: bool,
    seen: Revision,
    /// Workloads that run here: the runtime's word counts, not the store's.
    local: BTreeMap<WorkloadId, Workload>,
    /// Runtimes that have said everything they have.
    synced: BTreeSet<String>,
    /// Keys of this node's workloads that are in the store.
    stored: BTreeSet<String>,
    endpoints: Endpoints,
    book: AddressBook,
    names: NameBook,
    /// What was compiled last, and of what.
    policy: Option<Compiled>,
    dirty: bool,
    /// Revision and workloads of the image that is being put in force.
    applying: Option<(Revision, BTreeSet<WorkloadId>)>,
    /// What was known of names when it was compiled.
    applying_names: u64,
    /// How often in a row an image was refused, and when to try again.
    refusals: u32,
    retry: Option<Steady>,
    in_force: Option<Revision>,
    workloads_in_force: BTreeSet<WorkloadId>,
    /// What is wrong, by what it is about.
    degraded: BTreeMap<String, String>,
    lookbacks: lookback::Lookbacks,
    lost: BTreeMap<String, u64>,
    reported: Option<Node>,
    effects: VecDeque<Effect>,
    now: Moment,
}

impl Agent {
    /// An agent of this node that knows nothing yet.
    #[must_use]
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            facts: Facts::default(),
            state: PolicyState::default(),
            ready: false,
            seen: Revision(0),
            local: BTreeMap::new(),
            synced: BTreeSet::new(),
            stored: BTreeSet::new(),
            endpoints: Endpoints::default(),
            book: AddressBook::default(),
            names: NameBook::default(),
            policy: None,
            dirty: false,
            applying: None,
            applying_names: 0,
            refusals: 0,
            retry: None,
            in_force: None,
            workloads_in_force: BTreeSet::new(),
            degraded: BTreeMap::new(),
            lookbacks: lookback::Lookbacks::default(),
            lost: BTreeMap::new(),
            reported: None,
            effects: VecDeque::new(),
            now: Moment::default(),
        }
    }

    /// Takes something that happened.
    pub fn handle(&mut self, input: Input, now: Moment) {
        self.now = Moment {
            steady: self.now.steady.max(now.steady),
            day: now.day,
        };
        match input {
            Input::Facts(facts) => {
                self.dirty |= facts.addresses != self.facts.addresses
                    || facts.tunnels != self.facts.tunnels
                    || facts.names != self.facts.names;
                self.names.rules = facts.names.clone();
                self.facts = facts;
            }
            Input::Preexisting(indexes) => self.endpoints.preexisting(indexes),
            Input::Adopted(wants) => self.endpoints.adopted(wants, self.now.steady),
            Input::WorkloadUp(workload) => self.workload_up(*workload),
            Input::WorkloadDown(id) => self.workload_down(&id),
            Input::Synced { runtime, running } => self.synced(runtime, &running),
            Input::Link { ifindex, name } => {
                self.endpoints.link(ifindex, name, self.now.steady);
                self.plan_endpoints();
            }
            Input::LinkGone(ifindex) => {
                self.names.gone(ifindex);
                self.effects.extend(self.endpoints.gone(ifindex));
            }
            Input::Resolvers { workload, addresses } => self.names.resolvers(workload, addresses),
            Input::Dns(seen) => self.hear(&seen),
            Input::StorePut { key, value, revision } => self.store_put(&key, &value, revision),
            Input::StoreDelete { key, revision } => self.store_delete(&key, revision),
            Input::StoreResync { entries, revision } => self.store_resync(&entries, revision),
            Input::Applied(result) => self.applied(result),
            Input::Attached { ifindex, result } => {
                let effect = self.endpoints.attached(ifindex, result, self.now.steady);
                self.effects.extend(effect);
            }
            Input::Packets { workload, result } => self.packets(&workload, result),
            Input::Lost(lost) => self.lost = lost,
            Input::Tick => {}
        }
        self.tick();
    }

    fn tick(&mut self) {
        if self.releases() {
            let in_force = &self.workloads_in_force;
            let released = self
                .endpoints
                .release(|id| in_force.contains(id), self.now.steady);
            self.effects.extend(released);
        } else {
            self.endpoints.take_back();
        }
        if self.retry.is_some_and(|at| at <= self.now.steady) {
            self.retry = None;
            self.dirty = true;
        }
        self.plan_endpoints();
        self.plan_lookbacks();
        self.tick_names();
        let names: Vec<_> = self.endpoints.released().collect();
        let words = format!(
            "interfaces that no runtime claims are not guarded: {}",
            names.join(", ")
        );
        if names.is_empty() {
            self.degraded.remove("unclaimed");
        } else {
            self.degraded.insert("unclaimed".into(), words);
        }
        self.report_node();
    }

    /// The policy and the workloads that it speaks of, as this node sees them now.
    #[must_use]
    pub fn policy_input(&self) -> PolicyInput {
        self.input()
    }

    /// Whether interfaces without a workload are let go after a while: not where settings say deny.
    fn releases(&self) -> bool {
        self.state.input().settings.unknown_endpoint != UnknownEndpoint::Deny
    }

    // Workloads.

    fn workload_up(&mut self, mut workload: Workload) {
        naming::settle(&mut workload);
        if self.local.get(&workload.id) == Some(&workload) {
            return;
        }
        let key = keys::workload(&self.node, &workload.id);
        match encode(&key, &workload) {
            Ok(value) => {
                self.stored.insert(key.clone());
                self.effects.push_back(Effect::Store {
                    key,
                    value: Some(value),
                });
            }
            Err(error) => {
                self.degraded.insert(key, error.to_string());
            }
        }
        // No image that is in force or on its way knows it as it is now.
        self.workloads_in_force.remove(&workload.id);
        if let Some((_, workloads)) = &mut self.applying {
            workloads.remove(&workload.id);
        }
        self.local.insert(workload.id.clone(), workload);
        self.locals_changed();
    }

    fn workload_down(&mut self, id: &WorkloadId) {
        if self.local.remove(id).is_none() {
            return;
        }
        self.names.forget(id);
        let key = keys::workload(&self.node, id);
        self.stored.remove(&key);
        self.effects.push_back(Effect::Store { key, value: None });
        self.locals_changed();
    }

    fn locals_changed(&mut self) {
        self.claim();
        self.dirty = true;
        self.lookbacks.stale = true;
    }

    fn claim(&mut self) {
        let quarantines = &self.state.input().quarantines;
        let is_quarantined = |id: &WorkloadId| quarantines.contains_key(id);
        let effects = self.endpoints.claim(&self.local, is_quarantined, self.now.steady);
        self.effects.extend(effects);
    }

    fn synced(&mut self, runtime: String, running: &BTreeSet<WorkloadId>) {
        let gone: Vec<_> = self
            .local
            .values()
            .filter(|workload| workload.runtime == runtime && !running.contains(&workload.id))
            .map(|workload| workload.id.clone())
            .collect();
        for id in gone {
            self.workload_down(&id);
        }
        self.dirty |= self.synced.insert(runtime);
        self.forget_strangers();
    }

    /// Workloads of this node that the store has and no runtime: what an agent before this one left.
    fn forget_strangers(&mut self) {
        let input = self.state.input();
        let gone: Vec<_> = input
            .workloads
            .values()
            .filter(|workload| {
                workload.node == self.node
                    && self.synced.contains(&workload.runtime)
                    && !self.local.contains_key(&workload.id)
            })
            .map(|workload| keys::workload(&self.node, &workload.id))
            .filter(|key| self.stored.contains(key))
            .collect();
        for key in gone {
            self.stored.remove(&key);
            self.effects.push_back(Effect::Store { key, value: None });
        }
    }

    // Store.

    fn is_own(&self, key: &str) -> bool {
        key == keys::node(&self.node)
            || key.starts_with(&keys::workloads_of(&self.node))
            || key.starts_with(&keys::names_of(&self.node))
    }

    fn store_put(&mut self, key: &str, value: &[u8], revision: Revision) {
        self.seen = self.seen.max(revision);
        match self.state.put(key, value) {
            Ok(touched) => {
                self.dirty |= touched != Touched::Nothing && !self.is_own(key);
                self.lookbacks.stale |= touched == Touched::Policy;
            }
            // Its object keeps its last good form; the node says so.
            Err(_) => self.dirty = true,
        }
        if key.starts_with(&keys::workloads_of(&self.node)) {
            self.stored.insert(key.to_owned());
            self.forget_strangers();
        } else if key.starts_with(keys::QUARANTINES) {
            self.claim();
        }
    }

    fn store_delete(&mut self, key: &str, revision: Revision) {
        self.seen = self.seen.max(revision);
        let touched = self.state.delete(key);
        self.lookbacks.stale |= touched == Touched::Policy;
        self.dirty |= touched != Touched::Nothing && !self.is_own(key);
        self.stored.remove(key);
        if key.starts_with(keys::QUARANTINES) {
            self.claim();
        }
    }

    fn store_resync(&mut self, entries: &[(String, Vec<u8>)], revision: Revision) {
        self.state.resync(
            entries
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_slice())),
        );
        self.seen = revision;
        self.ready = true;
        self.dirty = true;
        self.lookbacks.stale = true;
        let own = keys::workloads_of(&self.node);
        self.stored = entries
            .iter()
            .map(|(key, _)| key)
            .filter(|key| key.starts_with(&own))
            .cloned()
            .collect();
        // What runs here and is not in the store, or stands there otherwise.
        for workload in self.local.values() {
            let key = keys::workload(&self.node, &workload.id);
            if self.state.input().workloads.get(&workload.id) != Some(workload)
                && let Ok(value) = encode(&key, workload)
            {
                self.stored.insert(key.clone());
                self.effects.push_back(Effect::Store {
                    key,
                    value: Some(value),
                });
            }
        }
        self.reported = None;
        self.names_resynced(entries);
        self.forget_strangers();
        self.claim();
    }

    // Policy.

    /// The store's policy with this node's own word on what runs here. Until a runtime has said what runs in it, the store's last
    /// word counts: after a restart the first image must know the workloads that are guarded already.
    fn input(&self) -> PolicyInput {
        let mut input = self.state.input().clone();
        input
            .workloads
            .retain(|_, workload| workload.node != self.node || !self.synced.contains(&workload.runtime));
        input.workloads.extend(
            self.local
                .iter()
                .map(|(id, workload)| (id.clone(), workload.clone())),
        );
        let node = self.describe();
        input.nodes.insert(node.id.clone(), node);
        input.names.replace(self.node.as_str(), self.names.iter());
        input
    }

    fn compile(&mut self) {
        self.dirty = false;
        self.retry = None;
        let input = self.input();
        self.listen(&Wanted::new(input.groups.values()));
        let compiled = match self.policy.take() {
            Some(before) => before.update(input, self.seen),
            None => Compiled::new(input, &self.node, self.seen),
        };
        match compiled.refused() {
            Some(words) => self.degraded.insert("policy".into(), words),
            None => self.degraded.remove("policy"),
        };
        let image = compiled.image();
        self.book = AddressBook::new(compiled.input());
        let workloads = image.locals.iter().map(|local| local.workload.clone()).collect();
        self.applying = Some((self.seen, workloads));
        self.applying_names = self.names.generation();
        self.effects.push_back(Effect::Apply {
            image: Box::new(image),
            switches: compiled.switches(&self.facts, self.listens()),
        });
        self.policy = Some(compiled);
        self.report_node();
    }

    fn applied(&mut self, result: Result<(), String>) {
        let Some((revision, workloads)) = self.applying.take() else {
            return;
        };
        match result {
            Ok(()) => {
                self.in_force = Some(revision);
                self.workloads_in_force = workloads;
                self.names.applied(self.applying_names);
                self.refusals = 0;
                self.degraded.remove("apply");
            }
            Err(words) => {
                let what = format!("the policy of revision {revision} is not in force: {words}");
                self.degraded.insert("apply".into(), what);
                // It may have been want of memory; meanwhile the old one stays.
                self.refusals = self.refusals.saturating_add(1);
                self.retry = Some(try_again(self.refusals, self.now.steady));
            }
        }
    }

    fn plan_endpoints(&mut self) {
        if self.in_force.is_none() {
            return;
        }
        // An image on its way is in force before what is asked for now: a workload that it lacks would be open.
        let (in_force, next) = (&self.workloads_in_force, self.applying.as_ref());
        let is_known = |id: &WorkloadId| {
            in_force.contains(id) && next.is_none_or(|(_, workloads)| workloads.contains(id))
        };
        let effects = self.endpoints.plan(is_known, self.now.steady);
        self.effects.extend(effects);
    }

    // What the node says of itself.

    // Out.

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        if let Some(effect) = self.effects.pop_front() {
            return Some(effect);
        }
        // One image at a time: what changes meanwhile is in the next one.
        if self.ready && self.dirty && self.applying.is_none() {
            self.compile();
        }
        self.effects.pop_front()
    }

    /// When to call with [`Input::Tick`] if nothing else happens.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Steady> {
        let in_force = &self.workloads_in_force;
        self.endpoints
            .due(self.releases(), |id| in_force.contains(id))
            .into_iter()
            .chain(self.retry)
            .chain(self.names.due())
            .min()
    }

    /// Revision in force.
    #[must_use]
    pub const fn revision(&self) -> Option<Revision> {
        self.in_force
    }

    /// Whether a policy that knows this workload, as it was found last, is in force at every interface of it.
    #[must_use]
    pub fn is_guarded(&self, id: &WorkloadId) -> bool {
        self.workloads_in_force.contains(id) && self.endpoints.is_guarded_as(id)
    }

    /// Workloads that run here.
    #[must_use]
    pub const fn workloads(&self) -> &BTreeMap<WorkloadId, Workload> {
        &self.local
    }
}
