//! The loop around the core: inputs in, effects out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use nv_agent_core::{Agent, Effect, EndpointWant, Facts, Input, saved_workloads};
use nv_capture::CaptureManager;
use nv_runtime::{EventKind, LinkEvent, LinkWatcher, MonitorEvent};
use nv_store::{Change, WatchEvent, WatchStream};
use nv_types::{NodeId, Revision};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::captures::{PacketsAsk, PacketsDone, Workloads};
use crate::datapath::{Ask, DatapathThread, Tell};
use crate::hook::{self, Holds};
use crate::known::Known;
use crate::names::{self, Names};
use crate::node;
use crate::runtimes::Runtimes;
use crate::snapshot::Snapshot;
use crate::uplink::Uplink;

/// How long changes of the policy are gathered before they are saved.
const SAVE: Duration = Duration::from_millis(500);
/// How often the node's addresses and losses are looked at.
const FACTS: Duration = Duration::from_secs(10);
const LOSSES: Duration = Duration::from_secs(5);

/// Everything that the loop holds.
pub(crate) struct Driver {
    pub(crate) node: NodeId,
    pub(crate) core: Agent,
    pub(crate) datapath: DatapathThread,
    pub(crate) names: Names,
    pub(crate) tells: mpsc::Receiver<Tell>,
    pub(crate) runtimes: mpsc::Receiver<MonitorEvent>,
    /// Named namespaces that look other than when they were found.
    pub(crate) refreshed: mpsc::Receiver<Box<nv_types::Workload>>,
    pub(crate) links: LinkWatcher,
    pub(crate) store: WatchStream,
    pub(crate) uplink: Arc<Uplink>,
    pub(crate) workloads: Workloads,
    /// What captures are told; looked after while one runs.
    pub(crate) known: Arc<Known>,
    pub(crate) captures: CaptureManager,
    /// Where packets are kept and saved, and what became of it.
    pub(crate) packets: mpsc::Sender<PacketsAsk>,
    pub(crate) packets_done: mpsc::Receiver<PacketsDone>,
    /// What hooks ask.
    pub(crate) hooks: mpsc::Receiver<hook::Ask>,
    /// Keeps that open when nobody can ask.
    pub(crate) _asks: mpsc::Sender<hook::Ask>,
    pub(crate) holds: Holds,
    /// Where the revision in force is told.
    pub(crate) told: watch::Sender<Option<Revision>>,
    pub(crate) facts: Facts,
    pub(crate) watched: Runtimes,
    /// What the datapath guards already.
    pub(crate) adopted: Vec<EndpointWant>,
    pub(crate) snapshot: Snapshot,
    pub(crate) snapshot_path: PathBuf,
    /// Events lost in the kernel.
    pub(crate) kernel_lost: u64,
    /// Samples of interfaces without a workload.
    pub(crate) nameless: u64,
}

impl Driver {
    /// Runs until it is told to stop. What is in force stays.
    ///
    /// # Errors
    /// Names what has ended that never should: without it the agent would be blind, and go on saying that it is there.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> Result<(), &'static str> {
        self.begin();
        let mut facts = tokio::time::interval(FACTS);
        let mut losses = tokio::time::interval(LOSSES);
        let mut renew = tokio::time::interval(names::RENEW);
        let mut save: Option<Instant> = None;
        let ended = loop {
            self.carry_out();
            self.holds.answer(|id| self.core.is_guarded(id));
            let due = self
                .core
                .poll_timeout()
                .map(|at| Duration::from_nanos(at.since(node::moment().steady)));
            tokio::select! {
                // What the datapath answers comes first: everything else waits for it anyway.
                biased;
                () = shutdown.cancelled() => break Ok(()),
                tell = self.tells.recv() => match tell {
                    Some(tell) => self.datapath_told(tell),
                    None => break Err("the thread of the datapath"),
                },
                event = self.store.recv() => match event {
                    Some(event) => {
                        self.store_told(event);
                        save.get_or_insert_with(|| Instant::now() + SAVE);
                    }
                    None => break Err("the watch of the store"),
                },
                Some(ask) = self.hooks.recv() => self.hook_asks(ask),
                event = self.runtimes.recv() => match event {
                    Some(event) => self.runtime_told(event),
                    None => break Err("the watch of the container runtimes"),
                },
                Some(workload) = self.refreshed.recv() => {
                    // One that has ended meanwhile stays away.
                    if self.core.workloads().contains_key(&workload.id) {
                        self.workload_up(workload);
                    }
                }
                Some((workload, result)) = self.packets_done.recv() => {
                    self.input(Input::Packets { workload, result });
                }
                event = self.links.recv() => match event {
                    Some(event) => self.link_told(event),
                    None => break Err("the watch of the interfaces"),
                },
                _ = renew.tick() => self.names.renew(),
                message = self.names.heard() => {
                    let seen = self.names.keep(message);
                    self.input(Input::Dns(seen));
                }
                _ = facts.tick() => self.look_at_facts(),
                _ = losses.tick() => {
                    self.look_at_losses();
                    self.look_at_captures();
                }
                () = self.known.asked.notified() => self.known.learn(&self.core.policy_input()),
                () = sleep_until(save) => {
                    save = None;
                    self.save();
                }
                () = sleep(due) => self.input(Input::Tick),
            }
        };
        if save.is_some() {
            self.save();
        }
        if shutdown.is_cancelled() { Ok(()) } else { ended }
    }

    fn input(&mut self, input: Input) {
        self.core.handle(input, node::moment());
    }

    /// Its resolvers come first: they are looked up once, before it has written anything there.
    fn workload_up(&mut self, workload: Box<nv_types::Workload>) {
        if self.names.listens() && !self.core.workloads().contains_key(&workload.id) {
            self.input(Input::Resolvers {
                workload: workload.id.clone(),
                addresses: names::resolvers_of(&workload),
            });
        }
        self.input(Input::WorkloadUp(workload));
    }

    /// What was in force before comes first: facts, interfaces, the saved policy.
    fn begin(&mut self) {
        let interfaces = node::interfaces();
        let mut adopted = std::mem::take(&mut self.adopted);
        adopted.retain(|want| interfaces.contains(&want.ifindex));
        self.input(Input::Preexisting(interfaces));
        self.input(Input::Adopted(adopted));
        self.input(Input::Facts(self.facts.clone()));
        if !self.snapshot.entries.is_empty() {
            tracing::info!(revision = %self.snapshot.revision, "the saved policy is put in force until the controller answers");
            let entries = self.snapshot.entries.clone().into_iter().collect();
            self.input(Input::StoreResync {
                entries,
                revision: self.snapshot.revision,
            });
        }
        self.take_up();
    }

    /// Containers that only hooks have told of: those that still run.
    fn take_up(&mut self) {
        let saved = saved_workloads(self.snapshot.values(), &self.node, hook::OCI);
        let alive = saved
            .into_iter()
            .filter(|workload| hook::is_alive(workload.pid, workload.netns));
        let mut running = BTreeSet::new();
        for workload in alive.collect::<Vec<_>>() {
            self.holds.watch(&workload);
            running.insert(workload.id.clone());
            self.workload_up(Box::new(workload));
        }
        self.input(Input::Synced {
            runtime: hook::OCI.into(),
            running,
        });
    }

    fn hook_asks(&mut self, ask: hook::Ask) {
        match ask {
            hook::Ask::Hold(workload, reply) => {
                tracing::info!(id = %workload.id, name = workload.name, service = workload.service, "workload held");
                self.holds.hold(&workload, reply);
                self.workload_up(workload);
            }
            hook::Ask::Gone(id) => {
                self.holds.forget(&id);
                self.input(Input::WorkloadDown(id));
            }
        }
    }

    fn carry_out(&mut self) {
        let mut changed = false;
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::Apply { image, switches } => {
                    self.names.open(switches.names);
                    self.datapath.ask(Ask::Apply(image, switches));
                }
                Effect::Release(token) => self.names.release(token),
                Effect::Attach(want) => self.datapath.ask(Ask::Attach(want)),
                Effect::Detach(ifindex) => self.datapath.ask(Ask::Detach(ifindex)),
                Effect::KeepPackets { workload, bytes } => {
                    let known = self.core.workloads().get(&workload).cloned();
                    self.ask_packets(match (bytes, known) {
                        (Some(bytes), Some(known)) => PacketsAsk::Keep(Box::new(known), bytes),
                        _ => PacketsAsk::Forget(workload),
                    });
                }
                Effect::SavePackets {
                    workload,
                    cause,
                    duration,
                } => {
                    self.known.begin(&self.core.policy_input());
                    tracing::info!(%workload, cause, "a violation starts a capture");
                    self.ask_packets(PacketsAsk::Save(workload, cause, duration));
                }
                Effect::Store { key, value } => {
                    changed = true;
                    self.uplink.store(key, value);
                }
            }
        }
        if changed {
            let mut shared = self.workloads.write().unwrap_or_else(PoisonError::into_inner);
            shared.clone_from(self.core.workloads());
        }
    }

    fn ask_packets(&self, ask: PacketsAsk) {
        if self.packets.try_send(ask).is_err() {
            tracing::warn!("too much is asked of captures that violations start: one is left out");
        }
    }

    fn datapath_told(&mut self, tell: Tell) {
        match tell {
            Tell::Applied(result) => {
                if let Err(error) = &result {
                    tracing::error!(%error, "the policy was not put in force");
                }
                self.input(Input::Applied(result));
                self.told.send_replace(self.core.revision());
                tracing::debug!(revision = ?self.core.revision(), "policy in force");
            }
            Tell::Attached { ifindex, result } => {
                tracing::info!(ifindex, ?result, "interface");
                self.input(Input::Attached { ifindex, result });
            }
            Tell::Flows(samples) => {
                let (offset, now) = (node::clock_offset(), node::moment().steady);
                for sample in &samples {
                    self.core.flow_moves(sample, now);
                    match self.core.record(sample, offset) {
                        Some(record) => {
                            // A violation may start a capture, which is to tell of it.
                            if self.known.is_wanted() || record.decision.verdict != nv_types::Verdict::Allow {
                                self.known.note(&record);
                            }
                            self.core.notice(&record, node::moment());
                            self.uplink.report(record);
                        }
                        None => self.nameless += 1,
                    }
                }
            }
            Tell::Lost(count) => self.kernel_lost = count,
            Tell::Endpoints(list) => self.uplink.endpoints(list),
        }
    }

    fn store_told(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Resync(listing) => {
                let entries: BTreeMap<_, _> = listing
                    .entries
                    .into_iter()
                    .map(|entry| (entry.key, entry.value))
                    .collect();
                self.snapshot = Snapshot {
                    entries: entries.clone(),
                    revision: listing.revision,
                };
                let entries = entries.into_iter().collect();
                self.input(Input::StoreResync {
                    entries,
                    revision: listing.revision,
                });
            }
            WatchEvent::Changes { revision, changes } => {
                self.snapshot.revision = Revision(self.snapshot.revision.0.max(revision.0));
                for change in changes {
                    match change {
                        Change::Put(entry) => {
                            self.snapshot
                                .entries
                                .insert(entry.key.clone(), entry.value.clone());
                            self.input(Input::StorePut {
                                key: entry.key,
                                value: entry.value,
                                revision,
                            });
                        }
                        Change::Delete { key, .. } => {
                            self.snapshot.entries.remove(&key);
                            self.input(Input::StoreDelete { key, revision });
                        }
                    }
                }
            }
        }
    }

    fn runtime_told(&mut self, event: MonitorEvent) {
        let synced = self.watched.hear(&event);
        let watched = self.watched.facts();
        if watched != self.facts.runtimes {
            self.facts.runtimes = watched;
            self.input(Input::Facts(self.facts.clone()));
        }
        if let MonitorEvent::Runtime { event, .. } = &event
            && let Ok(id) = event.subject.parse()
        {
            self.holds.forget(&id);
        }
        match event {
            MonitorEvent::Runtime { event, workload, .. } => match (event.kind, workload) {
                (EventKind::Start, Some(workload)) => {
                    tracing::info!(id = %workload.id, name = workload.name, service = workload.service, "workload");
                    self.workload_up(workload);
                }
                (EventKind::Change, Some(workload)) => {
                    tracing::info!(id = %workload.id, name = workload.name, interfaces = workload.interfaces.len(), "workload changed");
                    self.workload_up(workload);
                }
                (EventKind::Stop | EventKind::Delete, _) => {
                    if let Ok(id) = event.subject.parse() {
                        self.input(Input::WorkloadDown(id));
                    }
                }
                (EventKind::SocketError, _) => {
                    tracing::warn!(problem = event.subject, "a runtime does not answer")
                }
                _ => {}
            },
            MonitorEvent::Synced { info, running, .. } => {
                tracing::info!(
                    runtime = info.name,
                    version = info.version,
                    workloads = running.len(),
                    "runtime"
                );
                if let Some((runtime, running)) = synced {
                    self.input(Input::Synced { runtime, running });
                }
            }
        }
    }

    fn link_told(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::NewVeth {
                ifindex,
                name,
                peer_elsewhere: true,
                ..
            } => self.input(Input::Link { ifindex, name }),
            // Both ends are here: it may be on its way to a container, and is told again then.
            LinkEvent::NewVeth { .. } => {}
            LinkEvent::Gone { ifindex } => self.input(Input::LinkGone(ifindex)),
        }
    }

    fn look_at_facts(&mut self) {
        let addresses = node::addresses();
        if addresses != self.facts.addresses {
            self.facts.addresses = addresses;
            self.input(Input::Facts(self.facts.clone()));
        }
    }

    /// Names change while somebody captures; afterwards nobody asks for them.
    fn look_at_captures(&self) {
        if !self.known.is_wanted() {
            return;
        }
        let running = |info: &nv_capture::CaptureInfo| info.status == nv_capture::CaptureStatus::Running;
        if self.captures.list(None).iter().any(running) {
            self.known.learn(&self.core.policy_input());
        } else {
            self.known.forget();
        }
    }

    fn look_at_losses(&mut self) {
        for id in self.holds.ended() {
            self.input(Input::WorkloadDown(id));
        }
        let lost = [
            ("kernel_ring", self.kernel_lost),
            ("agent_queue", self.datapath.dropped()),
            ("agent_report_queue", self.uplink.lost()),
            ("agent_nameless", self.nameless),
            ("names_lost", self.names.lost()),
        ];
        let lost = lost.into_iter().filter(|(_, count)| *count > 0);
        self.input(Input::Lost(
            lost.map(|(stage, count)| (stage.to_owned(), count)).collect(),
        ));
    }

    fn save(&self) {
        // Its own workloads are kept: they are believed until the runtimes have spoken.
        let mut snapshot = self.snapshot.clone();
        snapshot
            .entries
            .retain(|key, _| *key != nv_types::keys::node(&self.node));
        if let Err(error) = snapshot.save(&self.snapshot_path, &self.node) {
            tracing::error!(path = %self.snapshot_path.display(), %error, "the policy cannot be saved for a start without controller");
        }
    }
}

async fn sleep(due: Option<Duration>) {
    match due {
        Some(due) => tokio::time::sleep(due.max(Duration::from_millis(1))).await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
