//! nftables in a namespace, by its own command: what nv is compared to.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// Whether the command is there and the kernel takes it.
#[must_use]
pub fn is_available() -> bool {
    Command::new("nft")
        .args(["list", "tables"])
        .output()
        .is_ok_and(|output| output.status.success())
}

/// Puts a ruleset in force in this namespace, in place of what is there.
///
/// # Errors
/// What `nft` says.
pub fn load(netns: &Path, ruleset: &str) -> anyhow::Result<()> {
    let text = format!("flush ruleset\n{ruleset}");
    // A child is born in the namespace of the thread that makes it.
    nv_lab::run_in(netns, move || {
        let mut child = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start nft")?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(text.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("nft: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    })?
}

/// Removes every rule of this namespace.
///
/// # Errors
/// What `nft` says.
pub fn clear(netns: &Path) -> anyhow::Result<()> {
    load(netns, "")
}
