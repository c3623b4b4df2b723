//! What captures are told beside the bytes: who has an address, and what the datapath decided of a flow. Kept only while
//! somebody captures.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use nv_capture::{Annotator, FlowNote, Headers, Party};
use nv_policy::{PolicyInput, Selector};
use nv_types::{FiveTuple, FlowRecord};
use tokio::sync::{Notify, watch};

/// Flows that are remembered, twice: a full half makes the other one be forgotten.
const FLOWS: usize = 32_768;
/// How long a capture waits to be told of names before it starts without them.
const PATIENCE: Duration = Duration::from_millis(300);

#[derive(Debug, Default)]
struct Flows {
    young: BTreeMap<FiveTuple, FlowNote>,
    old: BTreeMap<FiveTuple, FlowNote>,
}

/// The node's knowledge of names and flows.
#[derive(Debug)]
pub(crate) struct Known {
    parties: RwLock<BTreeMap<IpAddr, Arc<Party>>>,
    flows: RwLock<Flows>,
    wanted: AtomicBool,
    /// Somebody is about to capture.
    pub(crate) asked: Notify,
    told: watch::Sender<u64>,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            parties: RwLock::default(),
            flows: RwLock::default(),
            wanted: AtomicBool::new(false),
            asked: Notify::new(),
            told: watch::Sender::new(0),
        }
    }
}

impl Known {
    /// Whether somebody captures.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    /// Asks for names, and waits until they are there, but not for long.
    pub(crate) async fn want(&self) {
        let mut told = self.told.subscribe();
        self.wanted.store(true, Ordering::Release);
        self.asked.notify_one();
        let _ = tokio::time::timeout(PATIENCE, told.changed()).await;
    }

    /// A capture begins that nobody has asked for.
    pub(crate) fn begin(&self, input: &PolicyInput) {
        if !self.wanted.swap(true, Ordering::AcqRel) {
            self.learn(input);
        }
    }

    /// Nobody captures any more.
    pub(crate) fn forget(&self) {
        self.wanted.store(false, Ordering::Release);
        self.parties
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        *self.flows.write().unwrap_or_else(PoisonError::into_inner) = Flows::default();
    }

    /// Learns who is who.
    pub(crate) fn learn(&self, input: &PolicyInput) {
        let groups: Vec<_> = input
            .groups
            .values()
            .filter_map(|group| Some((group.name.as_str(), Selector::new(&group.criteria).ok()?)))
            .collect();
        let mut parties = BTreeMap::new();
        for workload in input.workloads.values() {
            let own = workload.service_group();
            let mut names: Vec<_> = groups
                .iter()
                .filter(|(name, selector)| {
                    selector.matches(workload) || own.as_ref().is_some_and(|own| own.as_str() == *name)
                })
                .map(|(name, _)| (*name).to_owned())
                .collect();
            if let Some(own) = own.filter(|own| !names.iter().any(|name| name == own.as_str())) {
                names.push(own.to_string());
            }
            let party = Arc::new(Party {
                workload: workload.name.clone(),
                id: workload.id.to_string(),
                service: workload.service.clone(),
                domain: workload.domain.clone(),
                groups: names,
            });
            for (address, _) in workload
                .interfaces
                .iter()
                .flat_map(|interface| &interface.addresses)
            {
                parties.insert(*address, Arc::clone(&party));
            }
        }
        *self.parties.write().unwrap_or_else(PoisonError::into_inner) = parties;
        self.told.send_modify(|count| *count += 1);
    }

    /// Remembers what was decided of a flow.
    pub(crate) fn note(&self, record: &FlowRecord) {
        let note = FlowNote {
            decision: record.decision,
            application: record.application,
        };
        let mut flows = self.flows.write().unwrap_or_else(PoisonError::into_inner);
        if flows.young.len() >= FLOWS {
            flows.old = std::mem::take(&mut flows.young);
        }
        flows.young.insert(record.tuple, note);
    }
}

impl Annotator for Known {
    fn party(&self, address: IpAddr) -> Option<Arc<Party>> {
        self.parties
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&address)
            .cloned()
    }

    fn flow(&self, headers: &Headers) -> Option<FlowNote> {
        let flows = self.flows.read().unwrap_or_else(PoisonError::into_inner);
        [headers.from_sender(), headers.from_receiver()]
            .iter()
            .find_map(|tuple| flows.young.get(tuple).or_else(|| flows.old.get(tuple)))
            .copied()
    }
}
