//! The core with its store: one commit at a time, changes back into the core, and a task for what the core wants of its own
//! accord.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nv_api::rest::GuardedEndpoint;
use nv_controller_core::{CommandError, Controller, Plan};
use nv_store::{Change, CommitOutcome, Condition, Expect, KvStore, StoreError, Txn, WatchEvent, election};
use nv_types::{FlowRecord, NodeId, Revision, Timestamp, keys};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::audit::Audit;
use crate::schema::{ORIGIN, origin};

/// Tries of a commit that meets a change of somebody else's: another controller's, above all at the end of the audit log.
const TRIES: usize = 12;
/// Key of the controller that leads.
pub(crate) const LEADER: &str = "controller/leader";
/// Time after which a leader that is not heard of is none any more.
const LEADER_TTL: Duration = Duration::from_secs(5);

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum EngineError {
    /// The request is refused.
    #[error(transparent)]
    Refused(#[from] CommandError),
    /// Something else changed at the same time.
    #[error("'{0}' was changed by somebody else at the same moment: look at it and try again")]
    Conflict(String),
    /// The request is based on what is no longer so.
    #[error(
        "'{key}' was changed at revision {changed}, after revision {seen} that the request is based on: read it again"
    )]
    Stale {
        key: String,
        changed: Revision,
        seen: Revision,
    },
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The audit entry could not be made.
    #[error("audit log: {0}")]
    Audit(String),
}

/// Who asks for a change.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker<'a> {
    pub(crate) user: &'a str,
    /// Revision that the request is based on: what it changes must not have been changed after it.
    pub(crate) seen: Option<Revision>,
}

impl Asker<'_> {
    /// nv itself.
    const NV: Asker<'static> = Asker {
        user: "nv",
        seen: None,
    };

    fn check(&self, plan: &Plan) -> Result<(), EngineError> {
        let Some(seen) = self.seen else {
            return Ok(());
        };
        for (key, revision) in &plan.conditions {
            if let Some(changed) = revision.filter(|changed| *changed > seen) {
                return Err(EngineError::Stale {
                    key: key.clone(),
                    changed,
                    seen,
                });
            }
        }
        Ok(())
    }
}

/// What a change came to.
#[derive(Debug)]
pub(crate) struct Committed {
    pub(crate) summary: Vec<String>,
    /// Revision at which it is in the store; the current one when nothing changed.
    pub(crate) revision: Revision,
}

/// Core, store and who is connected.
pub(crate) struct Engine {
    core: Mutex<Controller>,
    store: Arc<dyn KvStore>,
    /// Name among the controllers of one store; `None`: it is the only one.
    name: Option<String>,
    /// What a write as leader must be conditioned on; `None` while another controller leads.
    fence: Mutex<Option<Condition>>,
    /// Held over a whole commit: changes are made one after the other.
    audit: tokio::sync::Mutex<Audit>,
    flows: watch::Sender<u64>,
    /// What each node's endpoints have counted, and when it said so.
    endpoints: Mutex<BTreeMap<NodeId, (Timestamp, Vec<GuardedEndpoint>)>>,
    wake: Notify,
    started: Timestamp,
    /// Nobody's watch goes on from this revision or an earlier one: it may be of another store.
    foreign: Revision,
    /// Places where the audit log's chain was found broken at the start.
    audit_breaks: usize,
}

pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// `name`: of this controller, where there may be others on the same store.
    pub(crate) async fn open(store: Arc<dyn KvStore>, name: Option<String>) -> anyhow::Result<Arc<Self>> {
        let (audit, audit_breaks) = Audit::open(&*store).await?;
        let listing = store.list("").await?;
        let mut core = Controller::new();
        let entries = listing
            .entries
            .iter()
            .map(|entry| (entry.key.as_str(), entry.value.as_slice(), entry.mod_revision));
        core.store_resync(entries, listing.revision);
        for (key, problem) in core.problems() {
            tracing::error!(key, problem, "a stored value cannot be used");
        }
        let foreign = listing.entries.iter().find(|entry| entry.key == ORIGIN);
        Ok(Arc::new(Self {
            foreign: foreign.and_then(|entry| origin(&entry.value)).unwrap_or_default(),
            core: Mutex::new(core),
            store,
            name,
            fence: Mutex::new(None),
            audit: tokio::sync::Mutex::new(audit),
            flows: watch::channel(0).0,
            endpoints: Mutex::default(),
            wake: Notify::new(),
            started: now(),
            audit_breaks,
        }))
    }

    /// Where an agent's watch can begin that wants everything from `from` on; 0, for a snapshot, where nobody knows what it has seen.
    pub(crate) fn resumable(&self, from: Revision) -> Revision {
        if from.0 <= self.foreign.0.saturating_add(1) && self.foreign > Revision(0) {
            Revision(0)
        } else {
            from
        }
    }

    pub(crate) fn store(&self) -> &dyn KvStore {
        &*self.store
    }

    fn fence(&self) -> MutexGuard<'_, Option<Condition>> {
        self.fence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this controller does what only one may do.
    pub(crate) fn leads(&self) -> bool {
        self.name.is_none() || self.fence().is_some()
    }

    /// Campaigns for as long as the controller runs, where there may be others.
    pub(crate) async fn lead(self: Arc<Self>, shutdown: CancellationToken) {
        let Some(name) = self.name.clone() else { return };
        loop {
            let campaign = election::campaign(Arc::clone(&self.store), LEADER, &name, LEADER_TTL);
            let won = tokio::select! {
                won = campaign => won,
                () = shutdown.cancelled() => return,
            };
            match won {
                Ok(mut leadership) => {
                    tracing::info!(name, "this controller leads");
                    *self.fence() = Some(leadership.fence());
                    self.wake.notify_one();
                    tokio::select! {
                        () = leadership.lost() => tracing::warn!(name, "this controller leads no more"),
                        () = shutdown.cancelled() => {
                            // The next one need not wait for the time to run out.
                            leadership.resign().await;
                            return;
                        }
                    }
                    *self.fence() = None;
                }
                Err(error) => {
                    tracing::debug!(%error, "no election");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    pub(crate) const fn started(&self) -> Timestamp {
        self.started
    }

    /// Places where the audit log's chain was found broken when the controller started.
    pub(crate) const fn audit_breaks(&self) -> usize {
        self.audit_breaks
    }

    /// Looks at the core. Never held across an await.
    pub(crate) fn core(&self) -> MutexGuard<'_, Controller> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of the last flow, whenever it changes.
    pub(crate) fn follow_flows(&self) -> watch::Receiver<u64> {
        self.flows.subscribe()
    }

    /// Makes a change: plans it, writes it with its audit entry in one transaction, and shows it to the core at once, so that
    /// whoever asked reads what they wrote.
    pub(crate) async fn commit(
        &self,
        asker: Asker<'_>,
        make: impl Fn(&Controller, Timestamp) -> Result<Plan, CommandError>,
    ) -> Result<Committed, EngineError> {
        self.commit_fenced(asker, None, make).await
    }

    async fn commit_fenced(
        &self,
        asker: Asker<'_>,
        fence: Option<Condition>,
        make: impl Fn(&Controller, Timestamp) -> Result<Plan, CommandError>,
    ) -> Result<Committed, EngineError> {
        let mut audit = self.audit.lock().await;
        let mut clash = String::new();
        for _ in 0..TRIES {
            let plan = make(&self.core(), now())?;
            asker.check(&plan)?;
            if plan.is_empty() {
                let revision = self.core().revision();
                return Ok(Committed {
                    summary: plan.summary,
                    revision,
                });
            }
            let next = audit
                .next(asker.user, &plan.summary, now())
                .map_err(|error| EngineError::Audit(format!("{error:#}")))?;
            // No two controllers write one entry: whoever comes second sees the other's and hangs on it.
            let mut txn = transaction(&plan)
                .when(&next.key, Expect::Absent)
                .put(&next.key, next.value.clone());
            txn.conditions.extend(fence.clone());
            if let Some(old) = &next.old {
                txn = txn.delete(old);
            }
            match self.store.commit(txn).await? {
                CommitOutcome::Committed(revision) => {
                    audit.advance(&next);
                    self.feed(&plan, revision);
                    tracing::info!(target: "audit", user = asker.user, %revision, changes = ?plan.summary, "changed");
                    return Ok(Committed {
                        summary: plan.summary,
                        revision,
                    });
                }
                CommitOutcome::Conflict { key, .. } => {
                    if fence.as_ref().is_some_and(|fence| fence.key == key) {
                        return Err(EngineError::Conflict(key));
                    }
                    if key.starts_with(keys::AUDIT) {
                        let end = Audit::open(&*self.store).await;
                        (*audit, _) = end.map_err(|error| EngineError::Audit(format!("{error:#}")))?;
                    } else {
                        self.reload().await?;
                    }
                    clash = key;
                }
            }
        }
        Err(EngineError::Conflict(clash))
    }

    /// Writes down what somebody did that changes nothing but must not go unseen.
    pub(crate) async fn note(&self, user: &str, what: String) -> Result<(), EngineError> {
        let mut audit = self.audit.lock().await;
        let what = [what];
        for _ in 0..TRIES {
            let next = audit
                .next(user, &what, now())
                .map_err(|error| EngineError::Audit(format!("{error:#}")))?;
            let mut txn = Txn::new()
                .when(&next.key, Expect::Absent)
                .put(&next.key, next.value.clone());
            if let Some(old) = &next.old {
                txn = txn.delete(old);
            }
            if let CommitOutcome::Committed(_) = self.store.commit(txn).await? {
                audit.advance(&next);
                return Ok(());
            }
            let end = Audit::open(&*self.store).await;
            (*audit, _) = end.map_err(|error| EngineError::Audit(format!("{error:#}")))?;
        }
        Err(EngineError::Conflict(keys::AUDIT.to_owned()))
    }

    /// Shows a plan that was written to the core.
    fn feed(&self, plan: &Plan, revision: Revision) {
        let mut core = self.core();
        for (key, value) in &plan.puts {
            core.store_put(key, value, revision);
        }
        for key in &plan.deletes {
            core.store_delete(key, revision);
        }
        drop(core);
        self.wake.notify_one();
    }

    async fn reload(&self) -> Result<(), StoreError> {
        let listing = self.store.list("").await?;
        let entries = listing
            .entries
            .iter()
            .map(|entry| (entry.key.as_str(), entry.value.as_slice(), entry.mod_revision));
        self.core().store_resync(entries, listing.revision);
        Ok(())
    }

    /// Takes flow records of a node.
    pub(crate) fn report(&self, records: &[FlowRecord], lost: &BTreeMap<String, u64>) {
        let mut core = self.core();
        core.report_flows(records, now());
        for (stage, count) in lost {
            core.report_lost(stage, *count);
        }
        let sequence = core.flow_sequence();
        drop(core);
        self.flows
            .send_if_modified(|known| std::mem::replace(known, sequence) != sequence);
        self.wake.notify_one();
    }

    /// Notes that a node was heard of.
    pub(crate) fn heard(&self, node: &NodeId) {
        self.core().heard(node, now());
    }

    /// Takes what a node's endpoints have counted.
    pub(crate) fn counted(&self, node: NodeId, list: Vec<GuardedEndpoint>) {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.insert(node, (now(), list));
    }

    /// What endpoints have counted, as far as their nodes are still known; with the names of their workloads.
    pub(crate) fn endpoints(&self) -> Vec<GuardedEndpoint> {
        let core = self.core();
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.retain(|node, _| core.input().nodes.contains_key(node));
        let mut all = Vec::new();
        for (at, list) in endpoints.values() {
            for endpoint in list {
                let workload = core.input().workloads.get(endpoint.workload.as_str());
                all.push(GuardedEndpoint {
                    workload_name: workload.map(|workload| workload.name.clone()).unwrap_or_default(),
                    reported_at: at.0 / 1_000_000_000,
                    ..endpoint.clone()
                });
            }
        }
        all
    }

    /// Follows the store, and does what the core wants of its own accord.
    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let from = Revision(self.core().revision().0 + 1);
        let Ok(mut events) = self.store.watch("", from).await else {
            return;
        };
        loop {
            let due = self.core().poll_timeout();
            let wait = due.map_or(Duration::from_secs(3600), |due| {
                Duration::from_nanos(due.since(now()))
            });
            tokio::select! {
                () = shutdown.cancelled() => return,
                event = events.recv() => match event {
                    Some(event) => self.take(event),
                    None => return,
                },
                () = tokio::time::sleep(wait) => {}
                () = self.wake.notified() => {}
            }
            self.work().await;
        }
    }

    fn take(&self, event: WatchEvent) {
        let mut core = self.core();
        match event {
            WatchEvent::Changes { changes, .. } => {
                for change in changes {
                    match change {
                        Change::Put(entry) => core.store_put(&entry.key, &entry.value, entry.mod_revision),
                        Change::Delete { key, revision } => core.store_delete(&key, revision),
                    }
                }
            }
            WatchEvent::Resync(listing) => {
                let entries = listing
                    .entries
                    .iter()
                    .map(|entry| (entry.key.as_str(), entry.value.as_slice(), entry.mod_revision));
                core.store_resync(entries, listing.revision);
            }
        }
    }

    /// New services and learned rules.
    async fn work(&self) {
        loop {
            let Some(plan) = self.core().poll_plan(now()) else {
                return;
            };
            // Every controller learns from the flows that its own agents report; groups of new services are seen by all and made by one.
            let of_one = !plan.puts.iter().any(|(key, _)| key.starts_with(keys::RULES));
            let fence = self.fence().clone().filter(|_| of_one);
            if of_one && !self.leads() {
                self.core().plan_failed(now());
                return;
            }
            let made = self
                .commit_fenced(Asker::NV, fence, |_, _| Ok(plan.clone()))
                .await;
            if let Err(error) = made {
                tracing::warn!(%error, changes = ?plan.summary, "not made; it comes again");
                self.core().plan_failed(now());
                return;
            }
        }
    }
}

fn transaction(plan: &Plan) -> Txn {
    let mut txn = Txn::new();
    for (key, revision) in &plan.conditions {
        txn = txn.when(key, revision.map_or(Expect::Absent, Expect::Revision));
    }
    for (key, value) in &plan.puts {
        txn = txn.put(key, value.clone());
    }
    for key in &plan.deletes {
        txn = txn.delete(key);
    }
    txn
}

/// Whether a node's agent may read a key.
pub(crate) fn agent_may_read(key: &str) -> bool {
    let prefixes = [
        keys::POLICY,
        keys::WORKLOADS,
        keys::NODES,
        keys::NAMES,
        "identity/",
    ];
    key == keys::SETTINGS || prefixes.iter().any(|prefix| key.starts_with(prefix))
}

/// Whether a node's agent may write a key: its own node, its own workloads, and what it heard of DNS names.
pub(crate) fn agent_may_write(node: &NodeId, key: &str) -> bool {
    key == keys::node(node)
        || key.starts_with(&keys::workloads_of(node))
        || key.starts_with(&keys::names_of(node))
}
