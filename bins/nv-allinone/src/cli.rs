//! The command line.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use nv_dp::{Datapath as _, EbpfConfig, EbpfDatapath};
use nv_runtime::{DiscoverOptions, Location};
use tokio_util::sync::CancellationToken;

use crate::demo::{self, DemoOptions};
use crate::stack::{self, Config};
use crate::sys::{Ended, Half, split};

/// Refused or failed.
const FAILED: u8 = 1;

/// Controller and agent of nv in one process.
#[derive(Debug, Parser)]
#[command(name = "nv-allinone", version, about, long_about = None)]
struct Cli {
    /// Play a story on a small network of its own, and remove everything afterwards.
    ///
    /// Makes three network namespaces (web, app, db) on a bridge, lets nv learn who talks to whom, and shows what
    /// becomes of a connection that was never seen before.
    #[arg(long)]
    demo: bool,

    /// With --demo: play the story once, check each step, and end; the exit status is 0 if every step went well.
    #[arg(long, requires = "demo")]
    once: bool,

    /// With --demo: another name for it, so that several can run beside each other.
    #[arg(long, requires = "demo", default_value = "demo", value_name = "NAME")]
    instance: String,

    /// Folder of the store, the CA, the keys and captures.
    #[arg(long, env = "NV_DATA_DIR", default_value = "/var/lib/nv", value_name = "DIR")]
    data_dir: PathBuf,

    /// Address of REST.
    #[arg(
        long,
        env = "NV_REST",
        default_value = "127.0.0.1:10443",
        value_name = "ADDR:PORT"
    )]
    rest: SocketAddr,

    /// Address of the controller's gRPC.
    #[arg(
        long,
        env = "NV_GRPC",
        default_value = "127.0.0.1:18400",
        value_name = "ADDR:PORT"
    )]
    grpc: SocketAddr,

    /// Address of the agent's gRPC.
    #[arg(
        long,
        env = "NV_LISTEN",
        default_value = "127.0.0.1:18401",
        value_name = "ADDR:PORT"
    )]
    listen: SocketAddr,

    /// Name of this node [default: the host's name].
    #[arg(long, env = "NV_NODE")]
    node: Option<String>,

    /// Folder on the BPF file system that keeps enforcement.
    #[arg(
        long,
        env = "NV_PIN_DIR",
        default_value = "/sys/fs/bpf/nv/allinone",
        value_name = "DIR"
    )]
    pin_dir: PathBuf,

    /// dockerd's socket, or several with commas; `off`: do not look for it [default: the usual one, if it is there].
    #[arg(long, env = "NV_DOCKER", value_name = "SOCKET")]
    docker: Option<String>,

    /// Podman's socket, likewise.
    #[arg(long, env = "NV_PODMAN", value_name = "SOCKET")]
    podman: Option<String>,

    /// containerd's socket, likewise; also that of k3s, k0s and MicroK8s is usual.
    #[arg(long, env = "NV_CONTAINERD", value_name = "SOCKET")]
    containerd: Option<String>,

    /// Socket of CRI-O or another runtime that speaks the CRI, likewise.
    #[arg(long, env = "NV_CRI", value_name = "SOCKET")]
    cri: Option<String>,

    /// Folder of named network namespaces; `off`: do not watch it [default: /run/netns].
    #[arg(long, env = "NV_NETNS", value_name = "DIR")]
    netns: Option<String>,

    /// Remove all enforcement from the kernel and end. Stopping does not do that.
    #[arg(long, conflicts_with = "demo")]
    purge: bool,
}

/// The program: parses the command line, runs, and gives the exit status.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.demo {
        ExitCode::from(demo_main(cli))
    } else {
        ExitCode::from(stock_main(&cli))
    }
}

fn demo_main(cli: Cli) -> u8 {
    let options = DemoOptions {
        once: cli.once,
        instance: cli.instance,
    };
    // Before anything starts a thread.
    match split() {
        Ok(Half::Worker) => block_on("off", |shutdown| async move {
            demo::run(&options, shutdown).await.map_err(anyhow::Error::from)
        }),
        Ok(Half::Guardian(Ended::Code(code))) => code,
        Ok(Half::Guardian(Ended::Killed(signal))) => {
            say(&format!("the demo was ended by {signal}: removing what it left"));
            let cleaned = block_on("off", |_| async move {
                for what in demo::clean(&options.instance).await? {
                    say(&format!("removed {what}"));
                }
                Ok(())
            });
            if cleaned == 0 { FAILED } else { cleaned }
        }
        Err(error) => {
            say(&format!("cannot start a process: {error}"));
            FAILED
        }
    }
}

fn stock_main(cli: &Cli) -> u8 {
    if cli.purge {
        return block_on("info", |_| async { purge(&cli.pin_dir) });
    }
    block_on("info", |shutdown| async move {
        let location = |text: &Option<String>| Location::parse(text.as_deref().unwrap_or("auto"));
        let node = match &cli.node {
            Some(node) => node.clone(),
            None => nix::sys::utsname::uname()?
                .nodename()
                .to_string_lossy()
                .into_owned(),
        };
        let config = Config {
            controller: nv_controller::Config {
                data_dir: cli.data_dir.clone(),
                rest: cli.rest,
                grpc: cli.grpc,
                ..nv_controller::Config::default()
            },
            node: node.parse()?,
            agent_listen: cli.listen,
            pin_dir: cli.pin_dir.clone(),
            runtimes: DiscoverOptions {
                docker: location(&cli.docker),
                podman: location(&cli.podman),
                containerd: location(&cli.containerd),
                cri: location(&cli.cri),
                netns: location(&cli.netns),
                netns_prefix: String::new(),
            },
        };
        stack::run(config, shutdown, |line| {
            let _ = writeln!(std::io::stdout(), "{line}");
        })
        .await
    })
}

fn purge(pins: &Path) -> anyhow::Result<()> {
    if !pins.exists() {
        say(&format!("nothing is in force at {}", pins.display()));
        return Ok(());
    }
    EbpfDatapath::open(EbpfConfig::new(pins))?.purge()?;
    say("all enforcement is removed");
    Ok(())
}

/// Runs `work` in a runtime until it ends; Ctrl-C and SIGTERM ask it to.
fn block_on<F>(log: &str, work: impl FnOnce(CancellationToken) -> F) -> u8
where
    F: Future<Output = anyhow::Result<()>>,
{
    start_log(log);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&format!("cannot start: {error}"));
            return FAILED;
        }
    };
    let shutdown = CancellationToken::new();
    let ended = runtime.block_on(async {
        let asked = shutdown.clone();
        tokio::spawn(async move {
            asked_to_stop().await;
            asked.cancel();
        });
        work(shutdown).await
    });
    match ended {
        Ok(()) => 0,
        Err(error) => {
            say(&format!("{error:#}"));
            FAILED
        }
    }
}

async fn asked_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
        signal(SignalKind::hangup()),
    ) else {
        say("signals cannot be caught: this process ends only by a kill");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}

/// Logs go to standard error; `RUST_LOG` says otherwise what is worth it.
fn start_log(default: &str) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
}

/// To standard error: standard output is for what was asked for.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "nv-allinone: {text}");
}
