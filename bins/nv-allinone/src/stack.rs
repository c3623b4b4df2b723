//! Controller and agent in this process.

use std::path::{Path, PathBuf};

use anyhow::bail;
use nv_dp::EbpfDatapath;

use crate::demo::plan::Plan;

/// Where datapaths keep what outlives their process.
const PINS: &str = "/sys/fs/bpf/nv";

/// Running controller and agent.
#[derive(Debug)]
pub(crate) struct Stack {
    server: String,
    ca: Vec<u8>,
    password: String,
}

impl Stack {
    pub(crate) async fn for_demo(_plan: &Plan) -> anyhow::Result<Self> {
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        bail!("not there yet")
    }
    pub(crate) fn server(&self) -> String {
        self.server.clone()
    }
    pub(crate) fn ca(&self) -> &[u8] {
        &self.ca
    }
    pub(crate) fn user(&self) -> &str {
        "admin"
    }
    pub(crate) fn password(&self) -> &str {
        &self.password
    }
    pub(crate) async fn stop(self) {}
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
