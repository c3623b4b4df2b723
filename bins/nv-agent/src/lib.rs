//! Agent of nv: one on each node. Finds the workloads of the node, enforces policy at their interfaces, reports flows.
//!
//! ```no_run
//! # async fn example(config: nv_agent::Config) -> anyhow::Result<()> {
//! use tokio_util::sync::CancellationToken;
//!
//! let shutdown = CancellationToken::new();
//! let agent = nv_agent::start(config, shutdown.clone()).await?;
//! println!("captures on {}", agent.listen());
//! shutdown.cancel(); // enforcement stays: it lives in the kernel
//! agent.wait().await?;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod captures;
mod clock;
mod config;
mod controllers;
mod credentials;
mod datapath;
mod dp;
mod driver;
mod hook;
mod known;
mod names;
mod node;
mod runtimes;
mod snapshot;
mod transport;
mod uplink;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use nv_agent_core::{Agent, Facts};
use nv_capture::{CaptureConfig, CaptureManager};
use nv_runtime::{
    ContainerRuntime, DiscoverOptions, LinkWatcher, Location, Monitor, MonitorOptions, discover,
};
use nv_store::{KvStore as _, RemoteStore};
use nv_types::{NodeId, Revision, Workload, WorkloadId};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use config::{Cli, Command, Config, ConfigError, Credentials, DatapathKind};

pub use hook::{HookError, HookFail, HookOptions, Target, hook, print_instructions, run_runtime};

pub use dp::run_dp;

use captures::{CaptureService, Workloads, serve_packets};
use credentials::Pems;
use datapath::DatapathThread;
use driver::Driver;
use known::Known;
pub use names::NameOptions;
use names::Names;
use runtimes::Runtimes;
use snapshot::Snapshot;
use transport::GrpcStore;
use uplink::Uplink;

/// Answers and flow batches that wait for the agent's loop.
const TELLS: usize = 256;
/// How often named namespaces are looked at.
const REFRESH: Duration = Duration::from_millis(500);
/// Link events that wait.
const LINKS: usize = 1024;

/// An agent that runs.
#[derive(Debug)]
pub struct Handle {
    listen: SocketAddr,
    hook: String,
    in_force: watch::Receiver<Option<Revision>>,
    tasks: TaskTracker,
    ended: Arc<OnceLock<&'static str>>,
}

impl Handle {
    /// Where its gRPC listens.
    #[must_use]
    pub const fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// `tcx`, `clsact` or `software`.
    #[must_use]
    pub fn hook(&self) -> &str {
        &self.hook
    }

    /// Revision of the policy that this agent has put in force; `None`: none since it started, what an agent before it left is in
    /// force.
    #[must_use]
    pub fn in_force(&self) -> Option<Revision> {
        *self.in_force.borrow()
    }

    /// Waits until everything has ended, after the shutdown or because the agent cannot go on.
    ///
    /// # Errors
    /// Names what the agent cannot go on without. Enforcement stays; whoever started it should start it again.
    pub async fn wait(self) -> anyhow::Result<()> {
        self.tasks.wait().await;
        match self.ended.get() {
            None => Ok(()),
            Some(what) => Err(anyhow!(
                "{what} has ended: the agent cannot go on; what is in force stays"
            )),
        }
    }
}

/// Starts an agent. It runs until `shutdown` is cancelled; enforcement stays after that.
///
/// # Errors
/// Names what is in the way: no root, a kernel that lacks something, a folder that cannot be written, a port in use, no
/// certificate. A controller that is away is no error.
pub async fn start(config: Config, shutdown: CancellationToken) -> anyhow::Result<Handle> {
    make_folder(&config.data_dir)?;
    // Enforcement first: an agent that cannot enforce must not join, nor say that it is there.
    let kind = config.datapath.clone();
    let (datapath, tapped) = tokio::task::spawn_blocking(move || datapath::open(&kind))
        .await
        .context("opening the datapath")??;
    assemble(config, datapath, tapped, shutdown).await
}

/// As [`start`], with a datapath of the caller's own in place of the one that the configuration names.
///
/// # Errors
/// As [`start`].
pub async fn start_on(
    datapath: Box<dyn nv_dp::Datapath>,
    config: Config,
    shutdown: CancellationToken,
) -> anyhow::Result<Handle> {
    make_folder(&config.data_dir)?;
    assemble(config, datapath, None, shutdown).await
}

fn make_folder(folder: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot make the data folder {}", folder.display()))
}

async fn assemble(
    config: Config,
    datapath: Box<dyn nv_dp::Datapath>,
    tapped: Option<datapath::Tapped>,
    shutdown: CancellationToken,
) -> anyhow::Result<Handle> {
    let folder = &config.data_dir;
    let (tells, from_datapath) = mpsc::channel(TELLS);
    let (datapath, adopted) = tokio::task::spawn_blocking(move || DatapathThread::start(datapath, tells))
        .await
        .context("starting the datapath")??;
    let names = tapped.map_or_else(|| Ok(Names::default()), Names::start)?;
    let pems = Pems::load(&config.credentials, folder, &config.node, &config.controller).await?;
    let snapshot_path = folder.join("policy.json");
    let snapshot = Snapshot::load(&snapshot_path, &config.node).unwrap_or_else(|error| {
        tracing::error!(%error, "starting without it");
        None
    });

    let tasks = TaskTracker::new();
    let workloads = Workloads::default();
    let known = Arc::new(Known::default());
    let capture_config = CaptureConfig {
        node: config.node.to_string(),
        ..CaptureConfig::new(folder.join("captures"))
    };
    let annotator: Arc<dyn nv_capture::Annotator> = Arc::clone(&known) as Arc<_>;
    let manager = CaptureManager::open_with(capture_config, Some(annotator)).context("captures")?;
    let netns_dir: std::path::PathBuf = match &config.runtimes.netns {
        Location::At(path) => path.clone(),
        Location::Auto | Location::Each(_) | Location::Off => "/run/netns".into(),
    };
    let (packets, packets_asked) = mpsc::channel(TELLS);
    let (packets_tell, packets_done) = mpsc::channel(TELLS);
    serve_packets(manager.clone(), netns_dir.clone(), packets_asked, packets_tell);
    let service = CaptureService {
        manager: manager.clone(),
        known: Arc::clone(&known),
        workloads: Arc::clone(&workloads),
        node: config.node.clone(),
        netns_dir,
    };
    let (listen, serving) = captures::serve(service, config.listen, &pems, shutdown.clone()).await?;
    tasks.spawn(serving);

    let channel = pems.channel(&config.controller)?;
    let store = GrpcStore::new(channel.clone());
    let events = RemoteStore::new(store.clone()).watch("", Revision(0)).await?;
    let uplink = Arc::new(Uplink::default());
    tasks.spawn(Arc::clone(&uplink).write_keys(store, shutdown.clone()));
    tasks.spawn(Arc::clone(&uplink).send_records(channel, config.node.clone(), shutdown.clone()));

    let hook = datapath.hook().to_owned();
    let facts = Facts {
        addresses: node::addresses(),
        tunnels: node::tunnels(Path::new("/sys/class/net")),
        agent_endpoint: listen.to_string(),
        version: env!("CARGO_PKG_VERSION").into(),
        kernel: node::kernel(),
        hook: hook.clone(),
        runtimes: Vec::new(),
        started: node::now(),
        names: config.names.rules(names.listens()),
    };
    let (asks, hooks) = mpsc::channel(TELLS);
    if let Some(socket) = &config.hook_socket {
        let workloads = Arc::clone(&workloads);
        tasks.spawn(hook::serve(socket, asks.clone(), workloads, shutdown.clone())?);
    }
    let (told, in_force) = watch::channel(None);
    let named = DiscoverOptions {
        netns: config.runtimes.netns.clone(),
        netns_prefix: config.runtimes.netns_prefix.clone(),
        ..DiscoverOptions::nothing()
    };
    let (refresh, refreshed) = mpsc::channel(TELLS);
    tasks.spawn(refresh_named(
        discover(&named),
        config.node.clone(),
        refresh,
        shutdown.clone(),
    ));
    let driver = Driver {
        refreshed,
        node: config.node.clone(),
        core: Agent::new(config.node.clone()),
        datapath,
        names,
        tells: from_datapath,
        watched: Runtimes::expecting(&discover(&config.runtimes)),
        runtimes: Monitor::discover(
            config.runtimes,
            MonitorOptions::new(config.node.clone()),
            shutdown.clone(),
        ),
        links: LinkWatcher::spawn(LINKS).context("interfaces cannot be watched")?,
        store: events,
        uplink,
        workloads,
        known,
        captures: manager,
        packets,
        packets_done,
        told,
        hooks,
        _asks: asks,
        holds: hook::Holds::default(),
        facts,
        adopted,
        snapshot: snapshot.unwrap_or_default(),
        snapshot_path,
        kernel_lost: 0,
        nameless: 0,
    };
    let ended = Arc::new(OnceLock::new());
    let why = Arc::clone(&ended);
    tasks.spawn(async move {
        if let Err(what) = driver.run(shutdown.clone()).await {
            let _ = why.set(what);
            shutdown.cancel();
        }
    });
    tasks.close();
    tracing::info!(node = %config.node, %listen, hook, "agent started");
    Ok(Handle {
        listen,
        hook,
        in_force,
        tasks,
        ended,
    })
}

/// Looks at named network namespaces again and again: unlike a container, one is there before it has interfaces and addresses, and no
/// runtime tells when they come.
async fn refresh_named(
    runtimes: Vec<Arc<dyn ContainerRuntime>>,
    node: NodeId,
    changed: mpsc::Sender<Box<Workload>>,
    shutdown: CancellationToken,
) {
    let mut seen: BTreeMap<WorkloadId, Workload> = BTreeMap::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(REFRESH) => {}
            () = shutdown.cancelled() => return,
        }
        for runtime in &runtimes {
            let running = runtime.list().await.unwrap_or_default();
            seen.retain(|id, _| running.contains(id));
            for id in running {
                let Ok(workload) = runtime.inspect(&id, &node).await else {
                    continue;
                };
                if seen.get(&id) != Some(&workload) {
                    seen.insert(id, workload.clone());
                    if changed.send(Box::new(workload)).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// Starts an agent and waits for its end.
///
/// # Errors
/// As [`start`] and [`Handle::wait`].
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let handle = start(config, shutdown).await?;
    handle.wait().await
}

/// Removes all enforcement of an agent from the kernel.
///
/// # Errors
/// Names what could not be removed.
pub fn purge(config: &Config) -> anyhow::Result<()> {
    use nv_dp::{Datapath as _, EbpfConfig, EbpfDatapath};
    match &config.datapath {
        DatapathKind::Process(socket) if socket.exists() => {
            let mut datapath =
                nv_dp::remote::RemoteDatapath::connect(socket).context("the datapath cannot be opened")?;
            datapath.purge().context("not everything could be removed")
        }
        DatapathKind::Process(_) if config.pin_dir.exists() => {
            let mut datapath = EbpfDatapath::open(EbpfConfig::new(&config.pin_dir))
                .context("the datapath cannot be opened")?;
            datapath.purge().context("not everything could be removed")
        }
        DatapathKind::Ebpf(pins) if pins.exists() => {
            let mut datapath =
                EbpfDatapath::open(EbpfConfig::new(pins)).context("the datapath cannot be opened")?;
            datapath.purge().context("not everything could be removed")
        }
        DatapathKind::Ebpf(_) | DatapathKind::Process(_) | DatapathKind::Software(_) => Ok(()),
    }
}
