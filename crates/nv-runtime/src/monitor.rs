//! One stream over all runtimes that does not end.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use nv_types::{Interface, NodeId, Timestamp, Workload, WorkloadId, WorkloadState};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::clock::now;
use crate::runtime::{ContainerRuntime, EventKind, RuntimeError, RuntimeEvent, RuntimeInfo};

/// How many workloads are inspected at once after a (re)connect.
const INSPECTIONS: usize = 8;

/// How a [`Monitor`] works.
#[derive(Clone, Debug)]
pub struct MonitorOptions {
    /// The node that workloads are said to run on.
    pub node: NodeId,
    /// Events that may wait for the consumer; when it is slower the runtimes wait too, and what they lose meanwhile
    /// is found by comparing.
    pub capacity: usize,
    /// Wait before the first try to connect again; doubled with each failure, half of it random.
    pub backoff_min: Duration,
    /// Longest such wait.
    pub backoff_max: Duration,
}

impl MonitorOptions {
    /// 1024 events, waits from 100 ms to 10 s.
    #[must_use]
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            capacity: 1024,
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
        }
    }
}

/// What a monitor tells. `runtime` is the place in the list that it was started with.
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
        /// Every workload that runs.
        running: BTreeSet<WorkloadId>,
    },
}

/// Watches runtimes.
#[derive(Clone, Copy, Debug)]
pub struct Monitor;

impl Monitor {
    /// Starts a task for each runtime. The channel closes only after `cancel`.
    ///
    /// For each runtime the consumer sees one [`EventKind::Start`] for each life of a workload and one
    /// [`EventKind::Stop`] after it, [`EventKind::Delete`] last, [`EventKind::Change`] only between the first two; a lost
    /// connection as one [`EventKind::SocketError`],
    /// then the difference, then [`MonitorEvent::Synced`]. Must be called in a tokio runtime.
    #[must_use]
    pub fn spawn(
        runtimes: Vec<Arc<dyn ContainerRuntime>>,
        options: MonitorOptions,
        cancel: CancellationToken,
    ) -> mpsc::Receiver<MonitorEvent> {
        let (sender, receiver) = mpsc::channel(options.capacity.max(1));
        for (index, runtime) in runtimes.into_iter().enumerate() {
            let mut watcher = Watcher {
                index,
                runtime,
                options: options.clone(),
                sender: sender.clone(),
                running: BTreeMap::new(),
                ended: BTreeSet::new(),
            };
            let cancel = cancel.clone();
            tokio::spawn(async move {
                let _ = cancel.run_until_cancelled(watcher.run()).await;
            });
        }
        // Where there is no runtime at all the channel stays open too.
        tokio::spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = sender.closed() => {}
            }
        });
        receiver
    }
}

/// What tells two lives of a workload apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Life {
    started: Timestamp,
    pid: u32,
    netns: u64,
}

impl Life {
    const fn of(workload: &Workload) -> Self {
        Self {
            started: workload.started,
            pid: workload.pid,
            netns: workload.netns,
        }
    }
}

/// What is remembered of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    life: Life,
    interfaces: Vec<Interface>,
}

impl Found {
    fn of(workload: &Workload) -> Self {
        Self {
            life: Life::of(workload),
            interfaces: workload.interfaces.clone(),
        }
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
    options: MonitorOptions,
    sender: mpsc::Sender<MonitorEvent>,
    /// Workloads told as started, as they were found last. Nothing: it could not be inspected.
    running: BTreeMap<WorkloadId, Option<Found>>,
    /// Workloads told as stopped, not yet as deleted.
    ended: BTreeSet<WorkloadId>,
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
            // One error an outage: a connection in between begins a new one.
            told &= !synced;
            if !told
                && self
                    .tell(EventKind::SocketError, reason, now(), None)
                    .await
                    .is_err()
            {
                return;
            }
            told = true;
            let steady = synced && begun.elapsed() >= self.options.backoff_max;
            failures = if steady { 0 } else { failures.saturating_add(1) };
            tokio::time::sleep(self.wait(failures)).await;
        }
    }

    fn wait(&self, failures: u32) -> Duration {
        let doubled = self
            .options
            .backoff_min
            .saturating_mul(1u32.checked_shl(failures.saturating_sub(1).min(16)).unwrap_or(1));
        let longest = doubled.min(self.options.backoff_max);
        // The standard hasher's random keys are jitter enough.
        let random = RandomState::new().hash_one(self.index) % 1024;
        longest / 2 + longest / 2 * u32::try_from(random).unwrap_or_default() / 1024
    }

    async fn connection(&mut self, synced: &mut bool) -> Result<std::convert::Infallible, Ended> {
        // Events first: what happens during the listing is then told twice, and the second time changes nothing.
        let mut events = self.runtime.events().await?;
        let info = self.runtime.info().await?;
        self.compare().await?;
        let running = self.running.keys().cloned().collect();
        let runtime = self.index;
        self.send(MonitorEvent::Synced {
            runtime,
            info,
            running,
        })
        .await?;
        *synced = true;
        while let Some(event) = events.recv().await {
            self.streamed(event).await?;
        }
        Err(Ended::Runtime("the stream of events ended".to_owned()))
    }

    /// Lists, and tells what differs from what was told.
    async fn compare(&mut self) -> Result<(), Ended> {
        let listed: BTreeSet<WorkloadId> = self.runtime.list().await?.into_iter().collect();
        let gone: Vec<WorkloadId> = self
            .running
            .keys()
            .filter(|id| !listed.contains(*id))
            .cloned()
            .collect();
        for id in gone {
            self.stopped(&id, now()).await?;
        }
        for id in self.ended.difference(&listed).cloned().collect::<Vec<_>>() {
            let found = self.runtime.inspect(&id, &self.options.node).await;
            if matches!(found, Err(RuntimeError::NotFound { .. })) {
                self.deleted(&id, now()).await?;
            }
        }
        let runtime = Arc::clone(&self.runtime);
        let node = self.options.node.clone();
        let found = stream::iter(listed)
            .map(|id| {
                let (runtime, node) = (Arc::clone(&runtime), node.clone());
                async move {
                    let workload = runtime.inspect(&id, &node).await;
                    (id, workload)
                }
            })
            .buffered(INSPECTIONS);
        let mut found = std::pin::pin!(found);
        while let Some((id, workload)) = found.next().await {
            match workload {
                Ok(workload) => {
                    let at = workload.started;
                    self.started(id, at, Some(workload)).await?;
                }
                // It ended since the listing: its end is in the stream if its start was told.
                Err(RuntimeError::NotFound { .. }) => {}
                Err(error @ RuntimeError::Unreachable { .. }) => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(%id, %error, "workload not inspected");
                    self.started(id, now(), None).await?;
                }
            }
        }
        Ok(())
    }

    async fn streamed(&mut self, event: RuntimeEvent) -> Result<(), Ended> {
        let id = || WorkloadId::try_new(event.subject.clone()).ok();
        match event.kind {
            EventKind::Start => {
                let Some(id) = id() else { return Ok(()) };
                let found = self.runtime.inspect(&id, &self.options.node).await;
                if let Err(error) = &found {
                    tracing::debug!(%id, %error, "started workload not inspected");
                }
                self.started(id, event.at, found.ok()).await
            }
            EventKind::Stop => match id() {
                // A life that began after this event is not the one that it ended.
                Some(id) if self.life(&id).is_none_or(|life| life.started <= event.at) => {
                    self.stopped(&id, event.at).await
                }
                Some(id) if self.has_ended(&id).await => self.stopped(&id, event.at).await,
                _ => Ok(()),
            },
            EventKind::Delete => match id() {
                Some(id) => self.deleted(&id, event.at).await,
                None => Ok(()),
            },
            EventKind::Change => match id() {
                Some(id) if self.running.contains_key(&id) => {
                    let found = self.runtime.inspect(&id, &self.options.node).await;
                    if let Err(error) = &found {
                        tracing::debug!(%id, %error, "changed workload not inspected");
                    }
                    self.changed(id, event.at, found.ok()).await
                }
                _ => Ok(()),
            },
            EventKind::CopyIn
            | EventKind::CopyOut
            | EventKind::NetworkCreate
            | EventKind::NetworkDelete
            | EventKind::SocketError => self.tell(event.kind, event.subject, event.at, None).await,
        }
    }

    /// Whether a workload is over although its end is said to be before its start: so it is after the clock was set back.
    async fn has_ended(&self, id: &WorkloadId) -> bool {
        match self.runtime.inspect(id, &self.options.node).await {
            Ok(workload) => workload.state != WorkloadState::Running,
            Err(error) => matches!(error, RuntimeError::NotFound { .. }),
        }
    }

    fn life(&self, id: &WorkloadId) -> Option<Life> {
        self.running.get(id)?.as_ref().map(|found| found.life)
    }

    async fn started(
        &mut self,
        id: WorkloadId,
        at: Timestamp,
        workload: Option<Workload>,
    ) -> Result<(), Ended> {
        if self.running.contains_key(&id) {
            match &workload {
                None => return Ok(()),
                // The same life; it may have been connected to a network while nobody told.
                Some(found) if self.life(&id) == Some(Life::of(found)) => {
                    return self.changed(id, at, workload).await;
                }
                Some(_) => self.stopped(&id, at).await?,
            }
        }
        self.ended.remove(&id);
        self.running.insert(id.clone(), workload.as_ref().map(Found::of));
        self.tell(EventKind::Start, id.into(), at, workload.map(Box::new))
            .await
    }

    /// Tells of a workload that runs and has other interfaces than before. Networks also come and go while one starts or
    /// ends: the events of that tell it all.
    async fn changed(
        &mut self,
        id: WorkloadId,
        at: Timestamp,
        workload: Option<Workload>,
    ) -> Result<(), Ended> {
        let (Some(Some(known)), Some(workload)) = (self.running.get_mut(&id), workload) else {
            return Ok(());
        };
        let found = Found::of(&workload);
        if known.life != found.life || *known == found {
            return Ok(());
        }
        *known = found;
        self.tell(EventKind::Change, id.into(), at, Some(Box::new(workload)))
            .await
    }

    async fn stopped(&mut self, id: &WorkloadId, at: Timestamp) -> Result<(), Ended> {
        if self.running.remove(id).is_none() {
            return Ok(());
        }
        self.ended.insert(id.clone());
        self.tell(EventKind::Stop, id.to_string(), at, None).await
    }

    async fn deleted(&mut self, id: &WorkloadId, at: Timestamp) -> Result<(), Ended> {
        self.stopped(id, at).await?;
        if !self.ended.remove(id) {
            return Ok(());
        }
        self.tell(EventKind::Delete, id.to_string(), at, None).await
    }

    async fn tell(
        &self,
        kind: EventKind,
        subject: String,
        at: Timestamp,
        workload: Option<Box<Workload>>,
    ) -> Result<(), Ended> {
        self.send(MonitorEvent::Runtime {
            runtime: self.index,
            event: RuntimeEvent { kind, subject, at },
            workload,
        })
        .await
    }

    async fn send(&self, event: MonitorEvent) -> Result<(), Ended> {
        self.sender.send(event).await.map_err(|_| Ended::Consumer)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;

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
