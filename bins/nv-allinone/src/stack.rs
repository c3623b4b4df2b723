//! Controller and agent in this process.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use nv_dp::EbpfDatapath;
use tokio_util::sync::CancellationToken;

use crate::demo::plan::Plan;

/// Where datapaths keep what outlives their process.
const PINS: &str = "/sys/fs/bpf/nv";

/// Running controller and agent.
#[derive(Debug)]
pub(crate) struct Stack {
    controller: nv_controller::Handle,
    shutdown: CancellationToken,
    password: String,
}

impl Stack {
    /// Starts both on the demo's own folder, with free ports and only the demo's namespaces to watch.
    pub(crate) async fn for_demo(plan: &Plan) -> anyhow::Result<Self> {
        let folder = plan.folder();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let config = nv_controller::Config {
            data_dir: folder.join("controller"),
            rest: free,
            grpc: free,
            ..nv_controller::Config::default()
        };
        let shutdown = CancellationToken::new();
        let controller = nv_controller::start(config, shutdown.clone()).await?;
        let password = controller
            .admin_password()
            .context("the demo's controller was started before")?
            .to_owned();
        Ok(Self {
            controller,
            shutdown,
            password,
        })
    }

    pub(crate) fn server(&self) -> String {
        format!("https://{}", self.controller.rest())
    }

    pub(crate) fn ca(&self) -> &[u8] {
        self.controller.ca_pem().as_bytes()
    }

    pub(crate) const fn user(&self) -> &'static str {
        "admin"
    }

    pub(crate) fn password(&self) -> &str {
        &self.password
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.controller.wait().await;
    }
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

fn pin_folder(instance: &str) -> PathBuf {
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
