//! The datapath on a thread of its own: its calls are system calls, and it wants to be polled.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc as std_mpsc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nv_agent_core::{EndpointWant, FlowSample, Switches};
use nv_dp::remote::RemoteDatapath;
use nv_dp::{
    Datapath, DatapathConfig, DatapathError, DatapathEvent, DatapathStatus, DirectionCounters, EbpfConfig,
    EbpfDatapath, EndpointSpec, EndpointStatus, FlowKey, FlowStats, NameGate, NameTap, SoftwareDatapath,
};
use nv_types::{FlowState, PolicyImage, Reason};
use tokio::sync::mpsc;

use crate::config::DatapathKind;

/// How often waiting events are fetched.
const POLL: Duration = Duration::from_millis(25);
/// Shortest time between walks of the connection table; a slow walk makes it longer.
const SWEEP: Duration = Duration::from_secs(1);
const STATUS: Duration = Duration::from_secs(5);
const EVENTS: usize = 4096;
/// How long another process that has the datapath may take to come up.
const STARTING: Duration = Duration::from_secs(5);

/// What the thread is asked.
#[derive(Debug)]
pub(crate) enum Ask {
    Apply(Box<PolicyImage>, Switches),
    Attach(EndpointWant),
    Detach(u32),
}

/// What the thread tells.
#[derive(Debug)]
pub(crate) enum Tell {
    Applied(Result<(), String>),
    Attached {
        ifindex: u32,
        result: Result<(), Option<String>>,
    },
    Flows(Vec<FlowSample>),
    /// Events lost in the kernel since its tables were made.
    Lost(u64),
    /// What was counted at every endpoint.
    Endpoints(Vec<nv_api::rest::GuardedEndpoint>),
}

/// Both ends of what a datapath tells of DNS.
pub(crate) type Tapped = (NameTap, NameGate);

/// The thread's handle. Dropping it ends the thread; what is in force stays.
#[derive(Debug)]
pub(crate) struct DatapathThread {
    asks: Option<std_mpsc::Sender<Ask>>,
    thread: Option<std::thread::JoinHandle<()>>,
    hook: String,
    dropped: Arc<AtomicU64>,
}

/// Opens the datapath. Also gives where DNS messages come from if it shows them.
pub(crate) fn open(kind: &DatapathKind) -> anyhow::Result<(Box<dyn Datapath>, Option<Tapped>)> {
    Ok(match kind {
        DatapathKind::Ebpf(pins) => {
            let unusable = "the kernel datapath cannot be used";
            let datapath = EbpfDatapath::open(EbpfConfig::new(pins)).context(unusable)?;
            let names = datapath.names().context(unusable)?;
            (Box::new(datapath), Some(names))
        }
        DatapathKind::Process(socket) => (Box::new(connect(socket)?), None),
        DatapathKind::Software(config) => (Box::new(SoftwareDatapath::new(*config)), None),
    })
}

impl DatapathThread {
    /// Starts the thread of a datapath. Also gives what it guards already.
    pub(crate) fn start(
        mut datapath: Box<dyn Datapath>,
        tells: mpsc::Sender<Tell>,
    ) -> anyhow::Result<(Self, Vec<EndpointWant>)> {
        let DatapathStatus { hook, endpoints, .. } =
            datapath.status().context("the datapath's state cannot be read")?;
        let adopted = endpoints.into_values().map(|endpoint| EndpointWant {
            ifindex: endpoint.spec.ifindex,
            name: endpoint.spec.name,
            workload: endpoint.spec.workload,
            mac: endpoint.spec.mac,
            addresses: endpoint.spec.addresses,
            quarantine: endpoint.spec.quarantine,
        });
        let adopted = adopted.collect();
        let (asks, receiver) = std_mpsc::channel();
        let dropped = Arc::new(AtomicU64::new(0));
        let mut worker = Worker {
            datapath,
            tells,
            dropped: Arc::clone(&dropped),
            told: BTreeMap::new(),
            lost: 0,
            sweep_pause: SWEEP,
            is_blind: false,
        };
        let thread = std::thread::Builder::new()
            .name("nv-datapath".into())
            .spawn(move || worker.run(&receiver))
            .context("cannot start the datapath's thread")?;
        let thread = Self {
            asks: Some(asks),
            thread: Some(thread),
            hook,
            dropped,
        };
        Ok((thread, adopted))
    }

    pub(crate) fn hook(&self) -> &str {
        &self.hook
    }

    /// Asks; the queue is bounded by the core, which has one image under way and one request an interface.
    pub(crate) fn ask(&self, ask: Ask) {
        if let Some(asks) = &self.asks
            && asks.send(ask).is_err()
        {
            tracing::error!("the datapath's thread has ended");
        }
    }

    /// Flow samples that found the agent's queue full.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for DatapathThread {
    fn drop(&mut self) {
        drop(self.asks.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The process may still be starting.
fn connect(socket: &Path) -> anyhow::Result<RemoteDatapath> {
    let begun = Instant::now();
    loop {
        match RemoteDatapath::connect(socket) {
            Ok(datapath) => return Ok(datapath),
            Err(error) if begun.elapsed() > STARTING => {
                return Err(error).context("the datapath's process cannot be used: does 'nv-agent dp' run?");
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

struct Worker {
    datapath: Box<dyn Datapath>,
    tells: mpsc::Sender<Tell>,
    dropped: Arc<AtomicU64>,
    /// What was last told of each flow: packets both ways. A flow that stands still is not told again.
    told: BTreeMap<FlowKey, (u64, u64)>,
    lost: u64,
    sweep_pause: Duration,
    /// It has been said that events cannot be read; said once until they can.
    is_blind: bool,
}

impl Worker {
    fn run(&mut self, asks: &std_mpsc::Receiver<Ask>) {
        let mut next_sweep = Instant::now() + SWEEP;
        let mut next_status = Instant::now() + STATUS;
        loop {
            match asks.recv_timeout(POLL) {
                Ok(ask) => {
                    self.serve(ask);
                    while let Ok(ask) = asks.try_recv() {
                        self.serve(ask);
                    }
                }
                Err(std_mpsc::RecvTimeoutError::Timeout) => {}
                Err(std_mpsc::RecvTimeoutError::Disconnected) => return,
            }
            self.events();
            if Instant::now() >= next_sweep {
                self.sweep();
                next_sweep = Instant::now() + self.sweep_pause;
            }
            if Instant::now() >= next_status {
                self.status();
                next_status = Instant::now() + STATUS;
            }
        }
    }

    fn serve(&mut self, ask: Ask) {
        let tell = match ask {
            Ask::Apply(image, switches) => {
                let config = DatapathConfig {
                    unknown: switches.unknown,
                    failsafe_ports: switches.failsafe_ports,
                    failsafe_addresses: switches.failsafe_addresses,
                    deny_response: switches.deny_response,
                    idle: switches.idle,
                    flow_share: switches.flow_share,
                    names: switches.names,
                };
                Tell::Applied(
                    self.datapath
                        .apply(&image, &config)
                        .map_err(|error| error.to_string()),
                )
            }
            Ask::Attach(want) => {
                let ifindex = want.ifindex;
                let spec = EndpointSpec {
                    ifindex,
                    name: want.name,
                    workload: want.workload,
                    mac: want.mac,
                    addresses: want.addresses,
                    quarantine: want.quarantine,
                };
                let result = self.datapath.attach(&spec).map_err(|error| match error {
                    DatapathError::NoInterface { .. } => None,
                    other => Some(other.to_string()),
                });
                Tell::Attached { ifindex, result }
            }
            Ask::Detach(ifindex) => {
                if let Err(error) = self.datapath.detach(ifindex) {
                    tracing::warn!(ifindex, %error, "not detached");
                }
                return;
            }
        };
        // Answers must arrive: the agent always reads, so this waits for moments only.
        let _ = self.tells.blocking_send(tell);
    }

    fn events(&mut self) {
        let events = match self.datapath.poll_events(EVENTS) {
            Ok(events) => {
                if std::mem::take(&mut self.is_blind) {
                    tracing::info!("events can be read again");
                }
                events
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_blind, true) {
                    tracing::warn!(%error, "events cannot be read");
                }
                return;
            }
        };
        let flows = events.into_iter().filter_map(|event| match event {
            DatapathEvent::Flow(flow) => Some(flow),
            DatapathEvent::Packet {
                ifindex,
                direction,
                reason,
                verdict,
                ..
            } => {
                tracing::debug!(ifindex, %direction, %reason, %verdict, "packet");
                None
            }
            DatapathEvent::Tampered {
                ifindex, restored, ..
            } => {
                if restored {
                    tracing::warn!(
                        ifindex,
                        "somebody removed the programs of an interface: they are back"
                    );
                } else {
                    tracing::error!(
                        ifindex,
                        "somebody removed the programs of an interface: nothing is judged there"
                    );
                }
                None
            }
        });
        let flows: Vec<_> = flows.collect();
        self.tell(flows);
    }

    fn sweep(&mut self) {
        let begun = Instant::now();
        let mut flows = Vec::new();
        let told = &self.told;
        let changed = |flow: &FlowStats| {
            flow.state == FlowState::Closed
                || told.get(&flow.key) != Some(&(flow.tx_packets, flow.rx_packets))
        };
        let walked = self.datapath.sweep(&mut |flow| {
            if changed(&flow) {
                flows.push(flow);
            }
        });
        if let Err(error) = walked {
            tracing::warn!(%error, "the connection table cannot be read");
        }
        // At most a twentieth of a core goes into this.
        self.sweep_pause = SWEEP.max(begun.elapsed() * 20);
        self.tell(flows);
    }

    fn status(&mut self) {
        match self.datapath.status() {
            Ok(DatapathStatus {
                lost_events,
                endpoints,
                ..
            }) => {
                // One that finds no room is followed by a newer one.
                let _ = self
                    .tells
                    .try_send(Tell::Endpoints(endpoints.values().map(counted).collect()));
                if lost_events != self.lost {
                    self.lost = lost_events;
                    let _ = self.tells.try_send(Tell::Lost(lost_events));
                }
            }
            Err(error) => tracing::warn!(%error, "the datapath's state cannot be read"),
        }
    }

    fn tell(&mut self, flows: Vec<FlowStats>) {
        if flows.is_empty() {
            return;
        }
        for flow in &flows {
            if flow.state == FlowState::Closed {
                self.told.remove(&flow.key);
            } else {
                self.told.insert(flow.key, (flow.tx_packets, flow.rx_packets));
            }
        }
        let count = u64::try_from(flows.len()).unwrap_or(u64::MAX);
        if self
            .tells
            .try_send(Tell::Flows(flows.iter().map(sample).collect()))
            .is_err()
        {
            self.dropped.fetch_add(count, Ordering::Relaxed);
        }
    }
}

/// An endpoint as REST shows it.
fn counted(status: &EndpointStatus) -> nv_api::rest::GuardedEndpoint {
    let direction = |counters: &DirectionCounters| nv_api::rest::EndpointCounters {
        packets: counters.packets,
        bytes: counters.bytes,
        flows: counters.flows,
        allowed: counters.allowed,
        alerted: counters.alerted,
        denied: counters.denied,
        by_reason: Reason::ALL
            .into_iter()
            .zip(counters.by_reason)
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| (reason.name().to_owned(), count))
            .collect(),
    };
    let EndpointStatus {
        spec,
        mode,
        guarded,
        ingress,
        egress,
    } = status;
    nv_api::rest::GuardedEndpoint {
        ifindex: spec.ifindex,
        name: spec.name.clone(),
        workload: spec
            .workload
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        addresses: spec.addresses.iter().map(ToString::to_string).collect(),
        mode: mode.map(|mode| mode.name().to_owned()).unwrap_or_default(),
        unguarded: !guarded,
        ingress: direction(ingress),
        egress: direction(egress),
        ..nv_api::rest::GuardedEndpoint::default()
    }
}

const fn sample(flow: &FlowStats) -> FlowSample {
    FlowSample {
        ifindex: flow.key.ifindex,
        direction: flow.key.direction,
        proto: flow.key.proto,
        local: (flow.key.local, flow.key.local_port),
        peer: (flow.key.peer, flow.key.peer_port),
        decision: flow.decision,
        application: flow.application,
        state: flow.state,
        sent: (flow.tx_packets, flow.tx_bytes),
        received: (flow.rx_packets, flow.rx_bytes),
        first_ns: flow.first_ns,
        last_ns: flow.last_ns,
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use nv_types::{Decision, Direction, IpProto};

    use super::*;

    fn flow(port: u16) -> FlowStats {
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        FlowStats {
            key: FlowKey {
                ifindex: 7,
                direction: Direction::Egress,
                proto: IpProto::TCP,
                local: address,
                local_port: port,
                peer: address,
                peer_port: 80,
            },
            decision: Decision::implicit(nv_types::Verdict::Allow, Reason::Default),
            application: None,
            state: FlowState::New,
            tx_packets: 1,
            tx_bytes: 60,
            rx_packets: 0,
            rx_bytes: 0,
            first_ns: 1,
            last_ns: 1,
        }
    }

    #[test]
    fn flows_that_find_the_agent_busy_are_counted_and_answers_are_not_lost() {
        let (tells, mut told) = mpsc::channel(1);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut worker = Worker {
            datapath: Box::new(SoftwareDatapath::default()),
            tells,
            dropped: Arc::clone(&dropped),
            told: BTreeMap::new(),
            lost: 0,
            sweep_pause: SWEEP,
            is_blind: false,
        };
        worker.tell(vec![flow(1), flow(2)]);
        assert_eq!(dropped.load(Ordering::Relaxed), 0);
        worker.tell(vec![flow(3), flow(4), flow(5)]);
        worker.tell(vec![flow(6)]);
        assert_eq!(dropped.load(Ordering::Relaxed), 4, "each one that did not fit");
        // What was asked is answered all the same: that waits until there is room.
        let asking = std::thread::spawn(move || worker.serve(Ask::Apply(Box::default(), switches())));
        let first = told.blocking_recv().unwrap();
        assert!(matches!(first, Tell::Flows(flows) if flows.len() == 2));
        assert!(matches!(told.blocking_recv().unwrap(), Tell::Applied(Ok(()))));
        asking.join().unwrap();
    }

    fn switches() -> Switches {
        Switches {
            unknown: nv_types::Verdict::Allow,
            failsafe_ports: Vec::new(),
            failsafe_addresses: Vec::new(),
            deny_response: nv_types::DenyResponse::Drop,
            idle: nv_types::IdleTimes::default(),
            flow_share: 25,
            names: false,
        }
    }
}
