//! nv as the agent runs it: compiled images on the host ends of both veths, events taken, the connection table swept.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use nv_dp::{Datapath, DatapathConfig, EbpfConfig, EbpfDatapath, EndpointSpec};
use nv_lab::Host;
use nv_types::{PolicyImage, Verdict, WorkloadId};

use crate::scenario::{CLIENT, SERVER, Scenario};
use crate::traffic::Ends;

/// How often events are taken.
const DRAIN_EVERY: Duration = Duration::from_millis(10);
/// How often the connection table is swept.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Events of one call.
const BATCH: usize = 4096;

type Shared = Arc<Mutex<Box<dyn Datapath>>>;

/// The datapath with its images, ready to be put in force.
pub(crate) struct Nv {
    datapath: Shared,
    images: BTreeMap<usize, PolicyImage>,
    endpoints: [EndpointSpec; 2],
    attached: bool,
    stop: Arc<AtomicBool>,
    events: Arc<AtomicU64>,
    drain: Option<JoinHandle<anyhow::Result<()>>>,
}

fn lock(datapath: &Shared) -> MutexGuard<'_, Box<dyn Datapath>> {
    datapath.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Nv {
    pub(super) fn new(ends: &Ends, client: &Host, server: &Host, rules: &[usize]) -> anyhow::Result<Self> {
        let mut images = BTreeMap::new();
        for rules in rules {
            images.insert(*rules, Scenario::new(ends, *rules)?.compile()?);
        }
        let endpoint = |host: &Host, name: &str| -> anyhow::Result<EndpointSpec> {
            Ok(EndpointSpec {
                ifindex: host.host_index(),
                name: host.host_link().to_owned(),
                workload: Some(WorkloadId::try_new(name)?),
                mac: None,
                addresses: vec![host.spec().v4.into(), host.spec().v6.into()],
                quarantine: false,
            })
        };
        let endpoints = [endpoint(client, CLIENT)?, endpoint(server, SERVER)?];
        let datapath: Shared = Arc::new(Mutex::new(open()?));
        let (stop, events) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let drain = {
            let (datapath, stop, events) = (Arc::clone(&datapath), Arc::clone(&stop), Arc::clone(&events));
            thread::spawn(move || drain(&datapath, &stop, &events))
        };
        Ok(Self {
            datapath,
            images,
            endpoints,
            attached: false,
            stop,
            events,
            drain: Some(drain),
        })
    }

    /// Image first, then the interfaces, if they are not guarded already: no packet passes unjudged.
    pub(super) fn enter(&mut self, rules: usize) -> anyhow::Result<()> {
        let image = self.images.get(&rules).context("no such image")?;
        let config = DatapathConfig {
            unknown: Verdict::Deny,
            failsafe_ports: Vec::new(),
            failsafe_addresses: Vec::new(),
            ..DatapathConfig::default()
        };
        let mut datapath = lock(&self.datapath);
        datapath.apply(image, &config)?;
        if !self.attached {
            for endpoint in &self.endpoints {
                datapath.attach(endpoint)?;
            }
        }
        drop(datapath);
        self.attached = true;
        Ok(())
    }

    /// Takes the programs off both interfaces, if they are on.
    pub(super) fn leave(&mut self) -> anyhow::Result<()> {
        if self.attached {
            let mut datapath = lock(&self.datapath);
            for endpoint in &self.endpoints {
                datapath.detach(endpoint.ifindex)?;
            }
            drop(datapath);
            self.attached = false;
        }
        Ok(())
    }

    /// Removes everything and says what became of the events.
    pub(super) fn close(mut self) -> anyhow::Result<()> {
        let ended = self.end_drain();
        let mut datapath = lock(&self.datapath);
        let lost = datapath.status()?.lost_events;
        datapath.purge()?;
        ended?;
        crate::say(&format!(
            "nv: {} events taken, {lost} lost",
            self.events.load(Ordering::Relaxed)
        ));
        Ok(())
    }

    fn end_drain(&mut self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(drain) = self.drain.take() else {
            return Ok(());
        };
        drain
            .join()
            .map_err(|_| anyhow!("the thread that takes events panicked"))?
    }
}

impl Drop for Nv {
    fn drop(&mut self) {
        if self.drain.is_some() {
            // A measurement failed: leave nothing behind nevertheless.
            let _ = self.end_drain();
            let _ = lock(&self.datapath).purge();
        }
    }
}

/// The kernel datapath, under a name of its own.
fn open() -> anyhow::Result<Box<dyn Datapath>> {
    let pins = format!("/sys/fs/bpf/nv/bench-{}", std::process::id());
    Ok(Box::new(EbpfDatapath::open(EbpfConfig::new(pins))?))
}

fn drain(datapath: &Shared, stop: &AtomicBool, events: &AtomicU64) -> anyhow::Result<()> {
    let mut swept = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        loop {
            let taken = lock(datapath).poll_events(BATCH)?.len();
            events.fetch_add(taken as u64, Ordering::Relaxed);
            if taken < BATCH {
                break;
            }
        }
        if swept.elapsed() >= SWEEP_EVERY {
            lock(datapath).sweep(&mut |_| {})?;
            swept = Instant::now();
        }
        thread::sleep(DRAIN_EVERY);
    }
    Ok(())
}
