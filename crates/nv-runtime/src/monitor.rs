//! One stream over all runtimes that does not end.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use nv_types::{NodeId, Timestamp, Workload, WorkloadId, WorkloadState};
use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::clock::now;
use crate::discover::{DiscoverOptions, find};
use crate::ledger::{Ledger, Life, Tell};
use crate::options::MonitorOptions;
use crate::runtime::{ContainerRuntime, EventKind, RuntimeError, RuntimeEvent, RuntimeInfo};

/// How many workloads are inspected at once.
const INSPECTIONS: usize = 16;
/// A stream of events may begin a moment after it was asked for: what happened in that moment is found by listing again.
const SECOND_LOOK: Duration = Duration::from_millis(300);
/// Every so many audits what runs is looked at too: a restart of which no event came shows in no list.
const THOROUGH: u64 = 5;
/// How often sockets that were not there are looked for.
const PROBE: Duration = Duration::from_secs(5);

/// What a monitor tells. `runtime` is the place in the list that it was started with, or the order of discovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MonitorEvent {
    /// A runtime told of something, or it was found by comparing after a (re)connect.
    Runtime {
        /// Which runtime.
        runtime: usize,
        /// What happened.
        event: RuntimeEvent,
        /// The workload, with an [`EventKind::Start`] or [`EventKind::Change`]: as it was found just after. `None` if it
        /// had ended by then.
        workload: Option<Box<Workload>>,
    },
    /// A runtime was connected to, and everything that happened while it was not has been told.
    Synced {
        /// Which runtime.
        runtime: usize,
        /// What it is.
        info: RuntimeInfo,
        /// Every workload that runs in it.
        running: BTreeSet<WorkloadId>,
    },
}

/// Watches runtimes.
#[derive(Clone, Copy, Debug)]
pub struct Monitor;

impl Monitor {
    /// Starts a task for each runtime. The channel closes only after `cancel`.
    ///
    /// The consumer sees one [`EventKind::Start`] for each life of a workload, however many runtimes tell of it, and one
    /// [`EventKind::Stop`] after it, [`EventKind::Delete`] last, [`EventKind::Change`] only between the first two; a lost
    /// connection as one [`EventKind::SocketError`], then the difference, then [`MonitorEvent::Synced`]. Must be called in a tokio runtime.
    #[must_use]
    pub fn spawn(
        runtimes: Vec<Arc<dyn ContainerRuntime>>,
        options: MonitorOptions,
        cancel: CancellationToken,
    ) -> mpsc::Receiver<MonitorEvent> {
        let (shared, receiver) = Shared::new(options);
        for (index, runtime) in runtimes.into_iter().enumerate() {
            shared.watch(index, runtime, &cancel);
        }
        // Where there is no runtime at all the channel stays open too.
        let sender = shared.sender;
        tokio::spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = sender.closed() => {}
            }
        });
        receiver
    }

    /// As [`Monitor::spawn`] with the runtimes of this host: those that [`discover`](crate::discover) finds now, and
    /// those whose sockets appear later.
    #[must_use]
    pub fn discover(
        places: DiscoverOptions,
        options: MonitorOptions,
        cancel: CancellationToken,
    ) -> mpsc::Receiver<MonitorEvent> {
        let (shared, receiver) = Shared::new(options);
        tokio::spawn(async move {
            let mut known: BTreeSet<PathBuf> = BTreeSet::new();
            loop {
                for found in find(&places) {
                    if known.insert(found.key) {
                        shared.watch(known.len() - 1, found.runtime, &cancel);
                    }
                }
                tokio::select! {
                    () = tokio::time::sleep(PROBE) => {}
                    () = cancel.cancelled() => return,
                }
            }
        });
        receiver
    }
}

/// What the tasks have in common.
#[derive(Clone)]
struct Shared {
    options: MonitorOptions,
    /// Locked while its words are handed over, so that they arrive in its order.
    ledger: Arc<Mutex<Ledger>>,
    sender: mpsc::Sender<MonitorEvent>,
}

impl Shared {
    fn new(options: MonitorOptions) -> (Self, mpsc::Receiver<MonitorEvent>) {
        let (sender, receiver) = mpsc::channel(options.capacity.max(1));
        let ledger = Arc::default();
        (
            Self {
                options,
                ledger,
                sender,
            },
            receiver,
        )
    }

    fn watch(&self, index: usize, runtime: Arc<dyn ContainerRuntime>, cancel: &CancellationToken) {
        let mut watcher = Watcher {
            index,
            runtime,
            shared: self.clone(),
        };
        let cancel = cancel.clone();
        tokio::spawn(async move {
            let _ = cancel.run_until_cancelled(watcher.run()).await;
        });
    }
}

/// Why a connection ended.
enum Ended {
    Runtime(String),
    Consumer,
}

impl From<RuntimeError> for Ended {
    fn from(error: RuntimeError) -> Self {
        Self::Runtime(error.to_string())
    }
}

/// The task of one runtime.
struct Watcher {
    index: usize,
    runtime: Arc<dyn ContainerRuntime>,
    shared: Shared,
}

impl Watcher {
    async fn run(&mut self) {
        let mut failures: u32 = 0;
        let mut told = false;
        loop {
            let begun = Instant::now();
            let mut synced = false;
            let Err(ended) = self.connection(&mut synced).await;
            let reason = match ended {
                Ended::Consumer => return,
                Ended::Runtime(reason) => reason,
            };
            self.shared.ledger.lock().await.lost(self.index);
            // One error an outage: a connection in between begins a new one.
            told &= !synced;
            if !told {
                self.shared.options.stats.outages.fetch_add(1, Ordering::Relaxed);
                if self.pass(EventKind::SocketError, reason, now()).await.is_err() {
                    return;
                }
            }
            told = true;
            let steady = synced && begun.elapsed() >= self.shared.options.backoff_max;
            failures = if steady { 0 } else { failures.saturating_add(1) };
            tokio::time::sleep(self.wait(failures)).await;
        }
    }

    fn wait(&self, failures: u32) -> Duration {
        let options = &self.shared.options;
        let doubled = options
            .backoff_min
            .saturating_mul(1u32.checked_shl(failures.saturating_sub(1).min(16)).unwrap_or(1));
        let longest = doubled.min(options.backoff_max);
        // The standard hasher's random keys are jitter enough.
        let random = RandomState::new().hash_one(self.index) % 1024;
        longest / 2 + longest / 2 * u32::try_from(random).unwrap_or_default() / 1024
    }

    async fn connection(&mut self, synced: &mut bool) -> Result<std::convert::Infallible, Ended> {
        // Events first: what happens during the listing is then told twice, and the second time changes nothing.
        let events = self.runtime.events().await?;
        let info = self.runtime.info().await?;
        {
            let mut ledger = self.shared.ledger.lock().await;
            ledger.connected(self.index, rank(self.runtime.name()));
        }
        self.compare(true).await?;
        let running = {
            let ledger = self.shared.ledger.lock().await;
            ledger.held_by(self.index).cloned().collect()
        };
        let runtime = self.index;
        self.send(MonitorEvent::Synced {
            runtime,
            info,
            running,
        })
        .await?;
        *synced = true;
        let (runtime, node) = (Arc::clone(&self.runtime), self.shared.options.node.clone());
        let mut events = ReceiverStream::new(events)
            .map(|event| looked_up(Arc::clone(&runtime), node.clone(), event))
            .buffered(INSPECTIONS);
        let mut audits: u64 = 0;
        let mut audit = tokio::time::Instant::now() + SECOND_LOOK.min(self.shared.options.audit);
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some((event, workload)) => self.streamed(event, workload).await?,
                    None => return Err(Ended::Runtime("the stream of events ended".to_owned())),
                },
                () = tokio::time::sleep_until(audit) => {
                    audits += 1;
                    self.compare(audits.is_multiple_of(THOROUGH)).await?;
                    audit = tokio::time::Instant::now() + self.shared.options.audit;
                }
            }
        }
    }

    /// Lists, and tells what differs from what was told. `thorough`: what runs is looked at too, as it may run anew or look
    /// different; else only what nobody has looked at.
    async fn compare(&self, thorough: bool) -> Result<(), Ended> {
        let mut listed: BTreeSet<WorkloadId> = self.runtime.list().await?.into_iter().collect();
        let (gone, ended, known) = {
            let ledger = self.shared.ledger.lock().await;
            let held: Vec<WorkloadId> = ledger.held_by(self.index).cloned().collect();
            let ended: Vec<WorkloadId> = ledger.ended_in(self.index).cloned().collect();
            let (known, gone): (Vec<_>, Vec<_>) = held.into_iter().partition(|id| listed.contains(id));
            let known: Vec<_> = known
                .into_iter()
                .filter(|id| ledger.life(self.index, id).is_some())
                .collect();
            (gone, ended, known)
        };
        for id in gone {
            self.told(|ledger, runtime| ledger.stopped(runtime, &id, now()))
                .await?;
            self.deleted_if_gone(&id).await?;
        }
        for id in ended.iter().filter(|id| !listed.contains(*id)) {
            self.deleted_if_gone(id).await?;
        }
        if !thorough {
            for id in &known {
                listed.remove(id);
            }
        }
        let found = stream::iter(listed).map(|id| {
            let (runtime, node) = (Arc::clone(&self.runtime), self.shared.options.node.clone());
            async move {
                let workload = runtime.inspect(&id, &node).await;
                (id, workload)
            }
        });
        let mut found = std::pin::pin!(found.buffered(INSPECTIONS));
        while let Some((id, workload)) = found.next().await {
            match workload {
                Ok(workload) if workload.state == WorkloadState::Running => {
                    let at = workload.started;
                    self.started(id, at, Some(workload)).await?;
                }
                // It ended since the listing: its end is in the stream if its start was told.
                Ok(_) | Err(RuntimeError::NotFound { .. }) => {}
                Err(error @ RuntimeError::Unreachable { .. }) => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(%id, %error, "workload not inspected");
                    self.started(id, now(), None).await?;
                }
            }
        }
        Ok(())
    }

    /// Tells that a workload that has ended is gone, if it is.
    async fn deleted_if_gone(&self, id: &WorkloadId) -> Result<(), Ended> {
        let found = self.runtime.inspect(id, &self.shared.options.node).await;
        if !matches!(found, Err(RuntimeError::NotFound { .. })) {
            return Ok(());
        }
        self.told(|ledger, runtime| ledger.deleted(runtime, id, now()))
            .await
    }

    async fn streamed(&self, event: RuntimeEvent, workload: Option<Workload>) -> Result<(), Ended> {
        let id = || WorkloadId::try_new(event.subject.clone()).ok();
        match event.kind {
            EventKind::Start => match id() {
                Some(id) => self.started(id, event.at, workload).await,
                None => Ok(()),
            },
            EventKind::Stop => match id() {
                Some(id) if !self.is_older(&id, event.at).await => {
                    self.told(|ledger, runtime| ledger.stopped(runtime, &id, event.at))
                        .await
                }
                _ => Ok(()),
            },
            EventKind::Delete => match id() {
                Some(id) if !self.is_older(&id, event.at).await => {
                    self.told(|ledger, runtime| ledger.deleted(runtime, &id, event.at))
                        .await
                }
                _ => Ok(()),
            },
            EventKind::Change => match (id(), workload) {
                (Some(id), Some(workload)) => {
                    self.told(|ledger, runtime| ledger.changed(runtime, id, event.at, workload))
                        .await
                }
                _ => Ok(()),
            },
            EventKind::CopyIn
            | EventKind::CopyOut
            | EventKind::NetworkCreate
            | EventKind::NetworkDelete
            | EventKind::SocketError => self.pass(event.kind, event.subject, event.at).await,
        }
    }

    /// Whether the end told is that of a life before the one that runs. Its time says so, but clocks may be set: what says
    /// so is that the known life goes on.
    async fn is_older(&self, id: &WorkloadId, ended: Timestamp) -> bool {
        let life = self.shared.ledger.lock().await.life(self.index, id);
        let Some(life) = life.filter(|life| life.started > ended) else {
            return false;
        };
        let found = self.runtime.inspect(id, &self.shared.options.node).await;
        found.is_ok_and(|workload| workload.state == WorkloadState::Running && Life::of(&workload) == life)
    }

    async fn started(&self, id: WorkloadId, at: Timestamp, workload: Option<Workload>) -> Result<(), Ended> {
        self.told(|ledger, runtime| ledger.started(runtime, id, at, workload))
            .await
    }

    /// Enters something into the ledger and hands over what it says to that.
    async fn told(&self, enter: impl FnOnce(&mut Ledger, usize) -> Vec<Tell>) -> Result<(), Ended> {
        let mut ledger = self.shared.ledger.lock().await;
        for tell in enter(&mut ledger, self.index) {
            let unshared = |workload: Arc<Workload>| Box::new(Arc::unwrap_or_clone(workload));
            let (kind, id, at, workload) = match tell {
                Tell::Start(id, at, workload) => (EventKind::Start, id, at, workload),
                Tell::Change(id, at, workload) => (EventKind::Change, id, at, Some(workload)),
                Tell::Stop(id, at) => (EventKind::Stop, id, at, None),
                Tell::Delete(id, at) => (EventKind::Delete, id, at, None),
            };
            self.send(MonitorEvent::Runtime {
                runtime: self.index,
                event: RuntimeEvent {
                    kind,
                    subject: id.into(),
                    at,
                },
                workload: workload.map(unshared),
            })
            .await?;
        }
        drop(ledger);
        Ok(())
    }

    /// Hands over what is not about a workload's life.
    async fn pass(&self, kind: EventKind, subject: String, at: Timestamp) -> Result<(), Ended> {
        self.send(MonitorEvent::Runtime {
            runtime: self.index,
            event: RuntimeEvent { kind, subject, at },
            workload: None,
        })
        .await
    }

    async fn send(&self, event: MonitorEvent) -> Result<(), Ended> {
        let stats = &self.shared.options.stats;
        let permit = match self.shared.sender.try_reserve() {
            Ok(permit) => permit,
            Err(mpsc::error::TrySendError::Closed(())) => return Err(Ended::Consumer),
            Err(mpsc::error::TrySendError::Full(())) => {
                if stats.stalls.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::warn!("the consumer of runtime events is slower than they come: they wait");
                }
                self.shared.sender.reserve().await.map_err(|_| Ended::Consumer)?
            }
        };
        permit.send(event);
        stats.told.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// An event with the workload that it says has started or changed; none if it has ended since.
async fn looked_up(
    runtime: Arc<dyn ContainerRuntime>,
    node: NodeId,
    event: RuntimeEvent,
) -> (RuntimeEvent, Option<Workload>) {
    if !matches!(event.kind, EventKind::Start | EventKind::Change) {
        return (event, None);
    }
    let Ok(id) = WorkloadId::try_new(event.subject.clone()) else {
        return (event, None);
    };
    let found = runtime.inspect(&id, &node).await;
    if let Err(error) = &found {
        tracing::debug!(%id, %error, "workload not inspected");
    }
    let running = found
        .ok()
        .filter(|workload| workload.state == WorkloadState::Running);
    (event, running)
}

/// How much a runtime knows of its workloads: Docker and Podman know names and labels that containerd does not have.
fn rank(name: &str) -> u8 {
    match name {
        "docker" | "podman" => 0,
        "cri" | "cri-o" => 1,
        "containerd" => 2,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use nv_types::Interface;

    use super::*;

    /// What a connection to the fake finds: workloads with the time that they started at, and what streams.
    #[derive(Default)]
    struct Connection {
        running: Vec<(&'static str, u64)>,
        events: Vec<(EventKind, &'static str, u64)>,
    }

    /// Connections, one after the other; the last one stays.
    /// Each look at a workload whose name begins with `grows` finds one more interface; the second one at `ends` finds that it is
    /// over.
    struct Fake(Mutex<(Connection, VecDeque<Connection>)>, AtomicUsize);

    #[async_trait]
    impl ContainerRuntime for Fake {
        fn name(&self) -> &'static str {
            "fake"
        }

        async fn info(&self) -> Result<RuntimeInfo, RuntimeError> {
            Ok(RuntimeInfo {
                name: "fake".into(),
                version: "1".into(),
                location: "memory".into(),
                capabilities: BTreeSet::new(),
            })
        }

        async fn list(&self) -> Result<Vec<WorkloadId>, RuntimeError> {
            let state = self.0.lock().unwrap();
            Ok(state
                .0
                .running
                .iter()
                .map(|(id, _)| id.parse().unwrap())
                .collect())
        }

        async fn inspect(&self, id: &WorkloadId, node: &NodeId) -> Result<Workload, RuntimeError> {
            let state = self.0.lock().unwrap();
            let found = state.0.running.iter().find(|(known, _)| *known == id.as_str());
            let (_, started) = found.ok_or_else(|| RuntimeError::NotFound {
                runtime: "fake",
                id: id.to_string(),
            })?;
            let mut workload = workload(id, node, Timestamp(*started));
            if id.as_str().starts_with("grows") {
                let count = self.1.fetch_add(1, Ordering::Relaxed);
                workload.interfaces.resize(count, Interface::default());
            }
            if id.as_str() == "ends" && self.1.fetch_add(1, Ordering::Relaxed) > 1 {
                workload.state = WorkloadState::Exited;
            }
            Ok(workload)
        }

        async fn events(&self) -> Result<mpsc::Receiver<RuntimeEvent>, RuntimeError> {
            let mut state = self.0.lock().unwrap();
            state.0 = state.1.pop_front().ok_or_else(|| RuntimeError::Unreachable {
                runtime: "fake",
                location: "memory".into(),
                detail: "no more".into(),
            })?;
            let (sender, receiver) = mpsc::channel(64);
            for (kind, subject, at) in &state.0.events {
                let event = RuntimeEvent {
                    kind: *kind,
                    subject: (*subject).to_owned(),
                    at: Timestamp(*at),
                };
                sender.try_send(event).unwrap();
            }
            Ok(receiver)
        }
    }

    fn workload(id: &WorkloadId, node: &NodeId, started: Timestamp) -> Workload {
        Workload {
            runtime: "fake".into(),
            netns: 1,
            pid: 1,
            created: started,
            started,
            ..Workload::new(id.clone(), node.clone(), "s")
        }
    }

    /// What the consumer sees up to the last connection's end, as (kind, subject); `None` is `Synced`.
    async fn seen(connections: Vec<Connection>) -> Vec<Option<(EventKind, String)>> {
        let ends = connections.len();
        let fake = Fake(
            Mutex::new((Connection::default(), connections.into())),
            AtomicUsize::new(1),
        );
        let mut options = MonitorOptions::new("n".parse().unwrap());
        options.backoff_min = Duration::from_millis(1);
        options.backoff_max = Duration::from_millis(2);
        let cancel = CancellationToken::new();
        let mut events = Monitor::spawn(vec![Arc::new(fake)], options, cancel.clone());
        let mut seen = Vec::new();
        let mut errors = 0;
        while errors < ends {
            let event = tokio::time::timeout(Duration::from_secs(20), events.recv()).await;
            match event.expect("in time").expect("does not end") {
                MonitorEvent::Runtime { event, .. } if event.kind == EventKind::SocketError => errors += 1,
                MonitorEvent::Runtime { event, .. } => seen.push(Some((event.kind, event.subject))),
                MonitorEvent::Synced { .. } => seen.push(None),
            }
        }
        // The fake is out of connections now, which belongs to the same outage.
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(events.try_recv().is_err(), "one error for one outage");
        cancel.cancel();
        seen
    }

    fn told(kind: EventKind, id: &str) -> Option<(EventKind, String)> {
        Some((kind, id.to_owned()))
    }

    #[tokio::test]
    async fn what_streams_during_the_listing_is_told_once() {
        use EventKind::{Delete, Start, Stop};
        let connection = Connection {
            running: vec![("a", 10), ("b", 5)],
            events: vec![
                // `a` was restarted while the listing was made, which already shows its new life.
                (Stop, "a", 8),
                (Start, "a", 11),
                (Start, "b", 5),
                (Stop, "b", 12),
                (Delete, "b", 13),
                (Delete, "b", 13),
            ],
        };
        assert_eq!(
            seen(vec![connection]).await,
            [
                told(Start, "a"),
                told(Start, "b"),
                None,
                told(Stop, "b"),
                told(Delete, "b")
            ]
        );
    }

    #[tokio::test]
    async fn other_interfaces_are_told_of_a_workload_that_runs_and_of_no_other() {
        use EventKind::{Change, Delete, Stop};
        let first = Connection {
            running: vec![("grows", 10), ("grows-not-any-more", 5), ("same", 5)],
            events: vec![
                (Change, "never", 11),
                (Change, "same", 11),
                (Change, "grows", 12),
                (Stop, "grows-not-any-more", 13),
                (Change, "grows-not-any-more", 14),
            ],
        };
        // What changed while nobody told is found by comparing.
        let second = Connection {
            running: vec![("grows", 10), ("same", 5)],
            events: vec![],
        };
        assert_eq!(
            seen(vec![first, second]).await[3..],
            [
                None,
                told(Change, "grows"),
                told(Stop, "grows-not-any-more"),
                told(Delete, "grows-not-any-more"),
                told(Change, "grows"),
                None,
            ]
        );
    }

    #[tokio::test]
    async fn an_end_counts_also_when_the_clock_was_set_back() {
        use EventKind::{Start, Stop};
        let connection = Connection {
            running: vec![("ends", 1000), ("goes-on", 1000)],
            events: vec![(Stop, "goes-on", 7), (Stop, "ends", 8)],
        };
        assert_eq!(
            seen(vec![connection]).await,
            [
                told(Start, "ends"),
                told(Start, "goes-on"),
                None,
                told(Stop, "ends")
            ]
        );
    }

    #[tokio::test]
    async fn without_runtimes_nothing_is_told_and_nothing_ends() {
        let cancel = CancellationToken::new();
        let options = MonitorOptions::new("n".parse().unwrap());
        let mut events = Monitor::spawn(Vec::new(), options, cancel.clone());
        let silence = tokio::time::timeout(Duration::from_millis(50), events.recv()).await;
        assert!(silence.is_err(), "{silence:?}");
        cancel.cancel();
        assert_eq!(events.recv().await, None);
    }

    #[tokio::test]
    async fn after_an_outage_ended_deleted_restarted_and_new_ones_and_nothing_else() {
        use EventKind::{Delete, Start, Stop};
        let before = Connection {
            running: vec![("ends", 1), ("restarts", 1), ("stays", 1)],
            events: vec![],
        };
        let after = Connection {
            running: vec![("new", 9), ("restarts", 8), ("stays", 1)],
            events: vec![],
        };
        let seen = seen(vec![before, after]).await;
        assert_eq!(
            seen[4..],
            [
                told(Stop, "ends"),
                told(Delete, "ends"),
                told(Start, "new"),
                told(Stop, "restarts"),
                told(Start, "restarts"),
                None
            ]
        );
    }
}
