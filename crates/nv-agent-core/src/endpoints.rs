//! Interfaces: which are guarded, as whose, and what is still to be done about them.

use std::collections::{BTreeMap, BTreeSet};

use nv_types::{Workload, WorkloadId};

use crate::io::{Effect, EndpointWant, Steady};

/// How long an interface may stay without a workload before it is let go, where settings leave that open.
const UNCLAIMED: u64 = 30_000_000_000;
/// Pause before what failed is tried again: it doubles each time, up to the longest.
const FIRST_PAUSE: u64 = 1_000_000_000;
const DOUBLINGS: u32 = 6;

/// When to try again what has failed this often in a row.
pub(crate) fn try_again(failures: u32, now: Steady) -> Steady {
    let pause = FIRST_PAUSE << failures.saturating_sub(1).min(DOUBLINGS);
    now.after(pause)
}

/// What is known of an interface.
#[derive(Debug)]
struct Endpoint {
    name: String,
    /// As it was last asked for, unless that was refused.
    asked: Option<EndpointWant>,
    /// As the datapath has it for certain.
    guarded: Option<EndpointWant>,
    /// When it showed up.
    since: Steady,
    /// After failures.
    failed: Option<Failed>,
    /// It stayed without a workload for too long and was let go.
    released: bool,
}

/// An attach that did not go well.
#[derive(Debug)]
struct Failed {
    /// How often in a row.
    count: u32,
    /// When to try again; `None` once that time has come.
    again: Option<Steady>,
    /// What the last one said.
    words: String,
}

/// An answer that has not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    /// It is about the interface as it is known.
    Current,
    /// The interface was let go since: whatever it says does not count.
    Outdated,
}

/// The interfaces of the node that matter.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    preexisting: BTreeSet<u32>,
    known: BTreeMap<u32, Endpoint>,
    /// Interfaces of workloads that run here.
    claims: BTreeMap<u32, EndpointWant>,
    /// At most one request an interface is under way, so that the datapath's queue is bounded.
    awaited: BTreeMap<u32, Awaited>,
    /// Interfaces that the datapath may have: asked for since it was last told to let go, or there before this agent.
    touched: BTreeSet<u32>,
}

impl Endpoints {
    pub(crate) fn preexisting(&mut self, indexes: BTreeSet<u32>) {
        // An agent before this one may have left them guarded.
        self.touched.extend(&indexes);
        self.preexisting = indexes;
    }

    /// Takes what the datapath guards already. An agent before this one asked for it: it is known from the first moment, stays as it is
    /// until something better is known, and is not taken for what was there before nv.
    pub(crate) fn adopted(&mut self, wants: Vec<EndpointWant>, now: Steady) {
        for want in wants {
            let ifindex = want.ifindex;
            if want.workload.is_none() {
                self.preexisting.remove(&ifindex);
            }
            self.touched.insert(ifindex);
            let mut endpoint = Endpoint::new(want.name.clone(), now);
            endpoint.guarded = Some(want);
            self.known.insert(ifindex, endpoint);
        }
    }

    pub(crate) fn link(&mut self, ifindex: u32, name: String, now: Steady) {
        if self.preexisting.contains(&ifindex) && !self.claims.contains_key(&ifindex) {
            return;
        }
        self.known
            .entry(ifindex)
            .and_modify(|endpoint| endpoint.name.clone_from(&name))
            .or_insert_with(|| Endpoint::new(name, now));
    }

    /// Forgets an interface that is gone.
    pub(crate) fn gone(&mut self, ifindex: u32) -> Option<Effect> {
        self.preexisting.remove(&ifindex);
        self.claims.remove(&ifindex);
        self.known.remove(&ifindex);
        self.let_go(ifindex)
    }

    /// Tells the datapath to let go of an interface, if it may have it.
    fn let_go(&mut self, ifindex: u32) -> Option<Effect> {
        if let Some(awaited) = self.awaited.get_mut(&ifindex) {
            *awaited = Awaited::Outdated;
        }
        self.touched.remove(&ifindex).then_some(Effect::Detach(ifindex))
    }

    /// Takes over which interfaces belong to the workloads that run here, and which of them are in quarantine.
    pub(crate) fn claim(
        &mut self,
        workloads: &BTreeMap<WorkloadId, Workload>,
        is_quarantined: impl Fn(&WorkloadId) -> bool,
        now: Steady,
    ) -> Vec<Effect> {
        let mut claims = BTreeMap::new();
        for workload in workloads.values() {
            for interface in &workload.interfaces {
                let Some(ifindex) = interface.host_index else {
                    continue;
                };
                let name = interface.host_name.clone().unwrap_or_default();
                claims.insert(
                    ifindex,
                    EndpointWant {
                        ifindex,
                        name: name.clone(),
                        workload: Some(workload.id.clone()),
                        mac: interface.mac,
                        addresses: interface.addresses.iter().map(|(address, _)| *address).collect(),
                        quarantine: is_quarantined(&workload.id),
                    },
                );
                self.known
                    .entry(ifindex)
                    .or_insert_with(|| Endpoint::new(name, now))
                    .released = false;
            }
        }
        // Its workload has ended: nothing is sent there any more.
        let left: Vec<u32> = self
            .claims
            .keys()
            .filter(|ifindex| !claims.contains_key(*ifindex))
            .copied()
            .collect();
        self.claims = claims;
        left.into_iter()
            .filter_map(|ifindex| {
                self.known.remove(&ifindex);
                self.let_go(ifindex)
            })
            .collect()
    }

    /// What is to be attached now that the image in force knows the workloads for which `is_known` holds.
    pub(crate) fn plan(&mut self, is_known: impl Fn(&WorkloadId) -> bool, now: Steady) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (ifindex, endpoint) in &mut self.known {
            if endpoint.released || self.awaited.contains_key(ifindex) || endpoint.is_paused(now) {
                continue;
            }
            let claimed = self.claims.get(ifindex);
            let known = claimed.filter(|want| want.workload.as_ref().is_some_and(&is_known));
            let want = known.cloned().unwrap_or_else(|| EndpointWant {
                ifindex: *ifindex,
                name: endpoint.name.clone(),
                workload: None,
                mac: None,
                addresses: Vec::new(),
                // That it is cut off need not wait for tables that know it.
                quarantine: claimed.is_some_and(|want| want.quarantine),
            });
            // What has a workload keeps it until the next image: it never falls back to unknown.
            let is_step_back = want.workload.is_none()
                && (endpoint.workload().is_some()
                    || (claimed.is_some() && self.preexisting.contains(ifindex)));
            if !is_step_back && endpoint.asked.as_ref() != Some(&want) {
                endpoint.asked = Some(want.clone());
                self.awaited.insert(*ifindex, Awaited::Current);
                self.touched.insert(*ifindex);
                effects.push(Effect::Attach(want));
            }
        }
        effects
    }

    /// Takes the answer to a request.
    pub(crate) fn attached(
        &mut self,
        ifindex: u32,
        result: Result<(), Option<String>>,
        now: Steady,
    ) -> Option<Effect> {
        if self.awaited.remove(&ifindex)? == Awaited::Outdated {
            return None;
        }
        let endpoint = self.known.get_mut(&ifindex)?;
        match result {
            Ok(()) => {
                endpoint.failed = None;
                endpoint.guarded.clone_from(&endpoint.asked);
                None
            }
            Err(None) => {
                self.known.remove(&ifindex);
                self.let_go(ifindex)
            }
            Err(Some(words)) => {
                let count = endpoint
                    .failed
                    .as_ref()
                    .map_or(0, |failed| failed.count)
                    .saturating_add(1);
                let again = Some(try_again(count, now));
                endpoint.failed = Some(Failed { count, again, words });
                endpoint.asked = None;
                None
            }
        }
    }

    /// What is wrong, in words.
    pub(crate) fn problems(&self) -> impl Iterator<Item = String> + '_ {
        self.known.iter().filter_map(|(ifindex, endpoint)| {
            let words = &endpoint.failed.as_ref()?.words;
            let state = if endpoint.guarded.is_some() {
                "guarded as it was before"
            } else {
                "not guarded"
            };
            Some(format!(
                "interface {} ({ifindex}) is {state}: {words}",
                endpoint.name
            ))
        })
    }

    /// Lets interfaces go that nobody has claimed for too long. One that is guarded as a workload's for which `is_alive` holds is
    /// claimed: its runtime has not spoken yet.
    pub(crate) fn release(&mut self, is_alive: impl Fn(&WorkloadId) -> bool, now: Steady) -> Vec<Effect> {
        let mut left = Vec::new();
        for (ifindex, endpoint) in &mut self.known {
            let unclaimed = !self.claims.contains_key(ifindex) && !endpoint.workload().is_some_and(&is_alive);
            if unclaimed && !endpoint.released && now.since(endpoint.since) >= UNCLAIMED {
                endpoint.released = true;
                endpoint.asked = None;
                endpoint.guarded = None;
                endpoint.failed = None;
                left.push(*ifindex);
            }
        }
        left.into_iter()
            .filter_map(|ifindex| self.let_go(ifindex))
            .collect()
    }

    /// Takes back what was let go: strangers are guarded from now on, however long they have been there.
    pub(crate) fn take_back(&mut self) {
        for endpoint in self.known.values_mut() {
            endpoint.released = false;
        }
    }

    /// Interfaces that were let go.
    pub(crate) fn released(&self) -> impl Iterator<Item = &str> {
        self.known
            .values()
            .filter(|endpoint| endpoint.released)
            .map(|endpoint| endpoint.name.as_str())
    }

    /// Whether every interface of a workload is guarded as it was found.
    pub(crate) fn is_guarded_as(&self, id: &WorkloadId) -> bool {
        let own = |want: &&EndpointWant| want.workload.as_ref() == Some(id);
        self.claims.values().filter(own).all(|want| {
            let known = self.known.get(&want.ifindex);
            known.is_some_and(|endpoint| endpoint.guarded.as_ref() == Some(want))
        })
    }

    pub(crate) fn guarded(&self) -> usize {
        self.known
            .values()
            .filter(|endpoint| endpoint.guarded.is_some())
            .count()
    }

    /// The workload whose interface this is.
    pub(crate) fn workload(&self, ifindex: u32) -> Option<&WorkloadId> {
        self.known.get(&ifindex)?.workload()
    }

    /// When something here is due.
    pub(crate) fn due(&self, releases: bool, is_alive: impl Fn(&WorkloadId) -> bool) -> Option<Steady> {
        let retries = self
            .known
            .values()
            .filter_map(|endpoint| endpoint.failed.as_ref()?.again);
        let unclaimed = self
            .known
            .iter()
            .filter(|(ifindex, endpoint)| {
                releases
                    && !endpoint.released
                    && !self.claims.contains_key(*ifindex)
                    && !endpoint.workload().is_some_and(&is_alive)
            })
            .map(|(_, endpoint)| endpoint.since.after(UNCLAIMED));
        retries.chain(unclaimed).min()
    }
}

impl Endpoint {
    const fn new(name: String, since: Steady) -> Self {
        Self {
            name,
            asked: None,
            guarded: None,
            since,
            failed: None,
            released: false,
        }
    }

    /// As whose it is guarded, or was last asked to be.
    fn workload(&self) -> Option<&WorkloadId> {
        let want = self.asked.as_ref().or(self.guarded.as_ref())?;
        want.workload.as_ref()
    }

    /// Whether it has failed and its time has not come.
    fn is_paused(&mut self, now: Steady) -> bool {
        let Some(again) = self.failed.as_mut().map(|failed| &mut failed.again) else {
            return false;
        };
        if again.is_some_and(|at| at > now) {
            return true;
        }
        *again = None;
        false
    }
}
