//! Controller and agent in this process.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use nv_agent::{Credentials, DatapathKind, HookFail};
use nv_dp::EbpfDatapath;
use nv_runtime::{DiscoverOptions, Location};
use nv_types::NodeId;
use tokio_util::sync::CancellationToken;

use crate::demo::plan::Plan;

/// Where datapaths keep what outlives their process.
const PINS: &str = "/sys/fs/bpf/nv";

/// What both need to start.
#[derive(Debug, Clone)]
pub struct Config {
    /// The controller's part; its data folder is the parent of the agent's.
    pub controller: nv_controller::Config,
    /// Name of this node.
    pub node: NodeId,
    /// Address of the agent's gRPC.
    pub agent_listen: SocketAddr,
    /// Folder on the BPF file system that keeps enforcement.
    pub pin_dir: PathBuf,
    /// Which runtimes to watch.
    pub runtimes: DiscoverOptions,
}

/// Running controller and agent.
#[derive(Debug)]
pub struct Stack {
    controller: nv_controller::Handle,
    agent: nv_agent::Handle,
    shutdown: CancellationToken,
}

impl Stack {
    /// Starts the controller, then an agent with a certificate from it. `shutdown` ends both; enforcement stays.
    ///
    /// # Errors
    /// What is in the way of either; nothing runs then.
    pub async fn start(config: Config, shutdown: CancellationToken) -> anyhow::Result<Self> {
        let folder = config.controller.data_dir.join("agent");
        let controller = nv_controller::start(config.controller, shutdown.clone()).await?;
        let identity = controller.agent_identity(&config.node)?;
        let agent = nv_agent::Config {
            node: config.node,
            controller: controller.grpc().to_string(),
            dp_socket: folder.join("dp.sock"),
            hook_socket: Some(folder.join("hook.sock")),
            hook_fail: HookFail::default(),
            hook_wait: Duration::from_secs(10),
            names: nv_agent::NameOptions::default(),
            data_dir: folder,
            datapath: DatapathKind::Ebpf(config.pin_dir.clone()),
            pin_dir: config.pin_dir,
            listen: config.agent_listen,
            runtimes: config.runtimes,
            credentials: Credentials::Identity {
                certificate_pem: identity.certificate_pem,
                key_pem: identity.key_pem,
                ca_pem: identity.ca_pem,
            },
        };
        match nv_agent::start(agent, shutdown.clone()).await {
            Ok(agent) => Ok(Self {
                controller,
                agent,
                shutdown,
            }),
            Err(error) => {
                shutdown.cancel();
                controller.wait().await;
                Err(error)
            }
        }
    }

    /// Starts both on the demo's own folder, with free ports and only the demo's namespaces to watch.
    pub(crate) async fn for_demo(plan: &Plan) -> anyhow::Result<Self> {
        let folder = plan.folder();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let config = Config {
            controller: nv_controller::Config {
                data_dir: folder.join("controller"),
                rest: free,
                grpc: free,
                ..nv_controller::Config::default()
            },
            node: "demo".parse()?,
            agent_listen: free,
            pin_dir: pin_folder(plan.instance()),
            runtimes: DiscoverOptions {
                netns: Location::Auto,
                netns_prefix: plan.prefix(),
                ..DiscoverOptions::nothing()
            },
        };
        Self::start(config, CancellationToken::new()).await
    }

    /// Address of REST.
    #[must_use]
    pub fn server(&self) -> String {
        format!("https://{}", self.controller.rest())
    }

    /// The CA that REST's certificate is from, PEM.
    #[must_use]
    pub fn ca(&self) -> &[u8] {
        self.controller.ca_pem().as_bytes()
    }

    pub(crate) const fn user(&self) -> &'static str {
        "admin"
    }

    /// The password of `admin`, on the first start only.
    #[must_use]
    pub fn password(&self) -> Option<&str> {
        self.controller.admin_password()
    }

    /// Stops both; enforcement stays.
    ///
    /// # Errors
    /// Why the agent had ended before.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        let ended = self.agent.wait().await;
        self.controller.wait().await;
        ended
    }
}

/// Starts both, prints the password if this is the first start, and runs until `shutdown` is cancelled.
///
/// # Errors
/// As [`Stack::start`].
pub async fn run(config: Config, shutdown: CancellationToken, say: impl Fn(&str)) -> anyhow::Result<()> {
    let ca = config.controller.data_dir.join("ca.pem");
    let stack = Stack::start(config, shutdown.clone()).await?;
    if let Some(password) = stack.password() {
        say(&format!(
            "first start: the password of 'admin' is {password} - it is not shown again"
        ));
    }
    say(&format!("REST on {}, its CA is {}", stack.server(), ca.display()));
    shutdown.cancelled().await;
    stack.stop().await
}

/// Removes the pinned programs, links and tables of a datapath; the folder's name if it was there.
pub(crate) fn purge(instance: &str) -> anyhow::Result<Vec<String>> {
    let folder = pin_folder(instance);
    if !folder.exists() {
        return Ok(Vec::new());
    }
    EbpfDatapath::purge_pins(&folder)?;
    Ok(vec![format!("programs and maps in {}", folder.display())])
}

pub(crate) fn pin_folder(instance: &str) -> PathBuf {
    Path::new(PINS).join(instance)
}

#[cfg(test)]
mod tests {
    use nv_dp::EbpfConfig;

    use super::*;

    #[test]
    fn pinned_maps_of_a_datapath_that_is_gone_are_removed() {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "needs root");
            eprintln!("SKIPPED pinned_maps_of_a_datapath_that_is_gone_are_removed: needs root");
            return;
        }
        let instance = format!("p{}", std::process::id() % 10_000_000);
        drop(EbpfDatapath::open(EbpfConfig::new(pin_folder(&instance))).unwrap());
        assert!(pin_folder(&instance).exists());
        assert_eq!(purge(&instance).unwrap().len(), 1);
        assert!(!pin_folder(&instance).exists());
        assert!(purge(&instance).unwrap().is_empty());
    }
}
