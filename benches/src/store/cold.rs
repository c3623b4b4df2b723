//! An agent that starts with a large policy on disk and no controller.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use super::alone;
use super::bed::{self, Bed, GRPC, node};
use crate::figure::{Figure, median};
use crate::product::{binary, wait_for};
use crate::say;

/// Nodes that the workloads are on.
const NODES: u32 = 500;

pub(super) fn figure(workloads: u32, rounds: usize) -> anyhow::Result<Figure> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "an agent drives the kernel: it needs root"
    );
    let mut bed = Bed::start(&bed::policy(workloads)?, NODES)?;
    let folder = bed.folder.path().join("agent");
    let token = bed.folder.path().join("token");
    std::fs::write(&token, bed.token(&node(0))?)?;
    let pins = format!("/sys/fs/bpf/nv/nvbc{}", std::process::id() % 10_000);
    let agent = Agent {
        folder: &folder,
        pins: &pins,
    };
    // The first start joins and gets everything from the controller; what it saved is what the others start with.
    let ca = bed.data().join("ca.pem");
    let mut more = vec!["--join-token-file".as_ref(), token.as_os_str()];
    more.extend(["--ca".as_ref(), ca.as_os_str()]);
    let first = agent.start(&more)?;
    let saved = folder.join("policy.json");
    wait_for("the policy is saved", 60, || {
        Ok(std::fs::metadata(&saved).is_ok_and(|file| file.len() > u64::from(workloads) * 100))
    })?;
    drop(first);
    bed.stop();
    let size = std::fs::metadata(&saved)?.len();
    let mut seconds = Vec::new();
    for _ in 0..rounds {
        // As after a boot: nothing is in the kernel.
        agent.purge()?;
        seconds.push(agent.in_force()?);
    }
    agent.purge()?;
    #[allow(clippy::cast_precision_loss, reason = "a size in MiB")]
    let mib = size as f64 / f64::from(1 << 20);
    say(&format!(
        "a policy of {workloads} workloads is a file of {mib:.1} MiB; in force after {:.3} s at most",
        seconds.iter().copied().fold(0.0, f64::max)
    ));
    Ok(alone("agent_cold_start_s", "s", median(&seconds), rounds))
}

/// How the agent is started.
struct Agent<'a> {
    folder: &'a Path,
    pins: &'a str,
}

impl Agent<'_> {
    fn start(&self, more: &[&std::ffi::OsStr]) -> anyhow::Result<Running> {
        let mut command = Command::new(binary("nv-agent")?);
        command
            .args([
                "--node",
                &node(0),
                "--controller",
                GRPC,
                "--listen",
                "127.0.0.1:0",
            ])
            .args([
                "--docker",
                "off",
                "--podman",
                "off",
                "--containerd",
                "off",
                "--cri",
                "off",
            ])
            .args([
                "--netns",
                "off",
                "--hook-socket",
                "off",
                "--pin-dir",
                self.pins,
                "--data-dir",
            ])
            .arg(self.folder)
            .args(more)
            .env("RUST_LOG", "nv_agent=debug")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        Ok(Running(command.spawn()?))
    }

    /// Seconds from the start of the process until the saved policy is in force.
    fn in_force(&self) -> anyhow::Result<f64> {
        let begun = Instant::now();
        let mut running = self.start(&[])?;
        let stderr = running.0.stderr.take().context("no standard error")?;
        let mut said = String::new();
        for line in BufReader::new(stderr).lines() {
            let line = line?;
            if line.contains("policy in force") {
                return Ok(begun.elapsed().as_secs_f64());
            }
            said.push_str(&line);
            said.push('\n');
            if begun.elapsed() > Duration::from_secs(60) {
                break;
            }
        }
        bail!("the saved policy was not put in force:\n{said}");
    }

    fn purge(&self) -> anyhow::Result<()> {
        let purged = Command::new(binary("nv-agent")?)
            .args(["--pin-dir", self.pins, "purge"])
            .status()?;
        ensure!(purged.success(), "enforcement is left at {}", self.pins);
        Ok(())
    }
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
