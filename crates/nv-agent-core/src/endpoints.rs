//! Interfaces: which are guarded, as whose, and what is still to be done about them.

use std::collections::{BTreeMap, BTreeSet};

use nv_types::{Timestamp, Workload, WorkloadId};

use crate::io::{Effect, EndpointWant};

/// How long an interface may stay without a workload before it is let go, where settings leave that open.
const UNCLAIMED: u64 = 30_000_000_000;
/// Pause before an attach that failed is tried again, and how often.
const RETRY: u64 = 1_000_000_000;
const TRIES: u8 = 5;

/// What is known of an interface.
#[derive(Debug)]
struct Endpoint {
    name: String,
    /// As it was last asked for.
    asked: Option<EndpointWant>,
    /// When it showed up.
    since: Timestamp,
    /// After failures.
    failed: Option<Failed>,
    /// It stayed without a workload for too long and was let go.
    released: bool,
}

/// An attach that did not go well.
#[derive(Debug)]
struct Failed {
    /// How often in a row.
    count: u8,
    /// When to try again.
    again: Timestamp,
    /// What the last one said.
    words: String,
}

/// The interfaces of the node that matter.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    preexisting: BTreeSet<u32>,
    known: BTreeMap<u32, Endpoint>,
    /// Interfaces of workloads that run here.
    claims: BTreeMap<u32, EndpointWant>,
}

impl Endpoints {
    pub(crate) fn preexisting(&mut self, indexes: BTreeSet<u32>) {
        self.preexisting = indexes;
    }

    pub(crate) fn link(&mut self, ifindex: u32, name: String, now: Timestamp) {
        if self.preexisting.contains(&ifindex) && !self.claims.contains_key(&ifindex) {
            return;
        }
        self.known
            .entry(ifindex)
            .or_insert_with(|| Endpoint::new(name, now));
    }

    /// Forgets an interface; whether it was guarded.
    pub(crate) fn gone(&mut self, ifindex: u32) -> Option<Effect> {
        self.preexisting.remove(&ifindex);
        self.claims.remove(&ifindex);
        let endpoint = self.known.remove(&ifindex)?;
        endpoint.asked.map(|_| Effect::Detach(ifindex))
    }

    /// Takes over which interfaces belong to the workloads that run here.
    pub(crate) fn claim(
        &mut self,
        workloads: &BTreeMap<WorkloadId, Workload>,
        now: Timestamp,
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
                self.known
                    .remove(&ifindex)?
                    .asked
                    .map(|_| Effect::Detach(ifindex))
            })
            .collect()
    }

    /// What is to be attached now that the image in force knows these workloads.
    pub(crate) fn plan(&mut self, in_force: &BTreeSet<WorkloadId>, now: Timestamp) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (ifindex, endpoint) in &mut self.known {
            if endpoint.released || endpoint.failed.as_ref().is_some_and(|failed| failed.again > now) {
                continue;
            }
            let claimed = self.claims.get(ifindex);
            let known = claimed.filter(|want| want.workload.as_ref().is_some_and(|id| in_force.contains(id)));
            let want = known.cloned().unwrap_or_else(|| EndpointWant {
                ifindex: *ifindex,
                name: endpoint.name.clone(),
                workload: None,
                mac: None,
                addresses: Vec::new(),
            });
            // What has a workload keeps it until the next image: it never falls back to unknown.
            let is_step_back = want.workload.is_none()
                && (endpoint
                    .asked
                    .as_ref()
                    .is_some_and(|asked| asked.workload.is_some())
                    || (claimed.is_some() && self.preexisting.contains(ifindex)));
            if !is_step_back && endpoint.asked.as_ref() != Some(&want) {
                endpoint.asked = Some(want.clone());
                effects.push(Effect::Attach(want));
            }
        }
        effects
    }

    pub(crate) fn attached(&mut self, ifindex: u32, result: Result<(), Option<String>>, now: Timestamp) {
        let Some(endpoint) = self.known.get_mut(&ifindex) else {
            return;
        };
        match result {
            Ok(()) => endpoint.failed = None,
            Err(None) => {
                self.known.remove(&ifindex);
            }
            Err(Some(words)) => {
                let count = endpoint.failed.as_ref().map_or(0, |failed| failed.count) + 1;
                let again = if count < TRIES {
                    Timestamp(now.0 + RETRY)
                } else {
                    Timestamp(u64::MAX)
                };
                endpoint.failed = Some(Failed { count, again, words });
                endpoint.asked = None;
            }
        }
    }

    /// What is wrong, in words.
    pub(crate) fn problems(&self) -> impl Iterator<Item = String> + '_ {
        self.known.iter().filter_map(|(ifindex, endpoint)| {
            let words = &endpoint.failed.as_ref()?.words;
            Some(format!(
                "interface {} ({ifindex}) is not guarded: {words}",
                endpoint.name
            ))
        })
    }

    /// Lets interfaces go that nobody has claimed for too long.
    pub(crate) fn release(&mut self, now: Timestamp) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (ifindex, endpoint) in &mut self.known {
            let unclaimed = !self.claims.contains_key(ifindex);
            if unclaimed && !endpoint.released && now.since(endpoint.since) >= UNCLAIMED {
                endpoint.released = true;
                if endpoint.asked.take().is_some() {
                    effects.push(Effect::Detach(*ifindex));
                }
            }
        }
        effects
    }

    /// Interfaces that were let go.
    pub(crate) fn released(&self) -> impl Iterator<Item = &str> {
        self.known
            .values()
            .filter(|endpoint| endpoint.released)
            .map(|endpoint| endpoint.name.as_str())
    }

    pub(crate) fn guarded(&self) -> usize {
        self.known
            .values()
            .filter(|endpoint| endpoint.asked.is_some())
            .count()
    }

    /// The workload whose interface this is.
    pub(crate) fn workload(&self, ifindex: u32) -> Option<&WorkloadId> {
        self.known.get(&ifindex)?.asked.as_ref()?.workload.as_ref()
    }

    /// When something here is due.
    pub(crate) fn due(&self, releases: bool) -> Option<Timestamp> {
        let retries = self
            .known
            .values()
            .filter(|endpoint| endpoint.asked.is_none())
            .filter_map(|endpoint| Some(endpoint.failed.as_ref()?.again));
        let unclaimed = self
            .known
            .iter()
            .filter(|(ifindex, endpoint)| {
                releases && !endpoint.released && !self.claims.contains_key(*ifindex)
            })
            .map(|(_, endpoint)| Timestamp(endpoint.since.0.saturating_add(UNCLAIMED)));
        retries.chain(unclaimed).filter(|at| at.0 != u64::MAX).min()
    }
}

impl Endpoint {
    const fn new(name: String, since: Timestamp) -> Self {
        Self {
            name,
            asked: None,
            since,
            failed: None,
            released: false,
        }
    }
}
