//! What recorded flows would get under a policy file that is not in force.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use nv_policy::{End, Flow, PolicyInput};
use nv_types::{Application, Decision, FiveTuple, Mode, Peer, WorkloadId};

use crate::flows::FlowView;

/// Flows that are alike for a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alike {
    /// The newest of them.
    pub flow: FlowView,
    /// How many.
    pub count: usize,
}

/// Flows whose verdict would be another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affected {
    /// Which.
    pub flows: Alike,
    /// What the policy in force says of them, and the mode that counts.
    pub before: (Decision, Option<Mode>),
    /// What the proposed one says.
    pub after: (Decision, Option<Mode>),
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Flows that were judged.
    pub flows: usize,
    /// Those whose verdict changes, the most frequent first.
    pub affected: Vec<Affected>,
}

/// Everything that is needed to judge, so that it can be done while the controller goes on.
#[derive(Clone, Debug)]
pub struct Simulation {
    before: PolicyInput,
    after: PolicyInput,
    /// What the file changes, in words.
    pub summary: Vec<String>,
    flows: Vec<(Flow, Alike)>,
}

impl Simulation {
    pub(crate) fn new<'a>(
        before: PolicyInput,
        after: PolicyInput,
        summary: Vec<String>,
        flows: impl Iterator<Item = &'a FlowView>,
    ) -> Self {
        // A flow is told of more than once, and many flows are alike.
        let mut alike: BTreeMap<Key, (BTreeSet<FiveTuple>, &FlowView)> = BTreeMap::new();
        for view in flows {
            let (tuples, newest) = alike.entry(key(view)).or_insert_with(|| (BTreeSet::new(), view));
            tuples.insert(view.record.tuple);
            *newest = view;
        }
        let flows = alike.into_values().map(|(tuples, newest)| {
            let count = tuples.len();
            let flow = newest.clone();
            (judged(newest), Alike { flow, count })
        });
        Self {
            before,
            after,
            summary,
            flows: flows.collect(),
        }
    }

    /// Judges every flow by both policies.
    #[must_use]
    pub fn run(self) -> Outcome {
        let (flows, mut alike): (Vec<_>, Vec<_>) = self
            .flows
            .into_iter()
            .map(|(flow, alike)| (flow, Some(alike)))
            .unzip();
        let count = alike.iter().flatten().map(|alike| alike.count).sum();
        let changed = nv_policy::simulate(&self.before, &self.after, &flows);
        let affected = changed.into_iter().filter_map(|changed| {
            Some(Affected {
                flows: alike.get_mut(changed.flow)?.take()?,
                before: changed.before,
                after: changed.after,
            })
        });
        let mut affected: Vec<_> = affected.collect();
        affected.sort_by_key(|affected| std::cmp::Reverse(affected.flows.count));
        Outcome {
            flows: count,
            affected,
        }
    }
}

/// What a policy can tell flows apart by.
type Key = (Who, Who, u8, u16, Option<Application>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Workload(WorkloadId),
    Address(IpAddr),
}

fn who(peer: &Peer, address: IpAddr) -> Who {
    match peer {
        Peer::Workload(id) => Who::Workload(id.clone()),
        Peer::Node(_) | Peer::External => Who::Address(address),
    }
}

fn key(view: &FlowView) -> Key {
    let record = &view.record;
    (
        who(&record.client, record.tuple.client),
        who(&record.server, record.tuple.server),
        record.tuple.proto.0,
        record.tuple.server_port,
        record.application,
    )
}

fn judged(view: &FlowView) -> Flow {
    let record = &view.record;
    let end = |who| match who {
        Who::Workload(id) => End::Workload(id),
        Who::Address(address) => End::Address(address),
    };
    Flow {
        client: end(who(&record.client, record.tuple.client)),
        server: end(who(&record.server, record.tuple.server)),
        proto: record.tuple.proto,
        port: record.tuple.server_port,
        app: record.application.unwrap_or(Application::UNKNOWN),
    }
}
