//! A controller of the same build, on a store that holds a cluster's policy.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nv_policy::{PolicyInput, StoredMode, StoredOrder, encode};
use nv_store::{CommitOutcome, KvStore as _, LocalStore, Txn};
use nv_types::{NodeId, keys};
use tempfile::TempDir;

use crate::cluster;
use crate::figure;
use crate::product::{Process, binary, word_after};

pub(super) const REST: &str = "127.0.0.1:31543";
pub(super) const GRPC: &str = "127.0.0.1:31500";

/// A controller and its folder.
pub(super) struct Bed {
    pub(super) folder: TempDir,
    pub(super) password: String,
    running: Option<Process>,
}

impl Bed {
    /// Fills a controller's store with this policy, its workloads on so many nodes in turn, and starts the controller on it.
    pub(super) fn start(input: &PolicyInput, nodes: u32) -> anyhow::Result<Self> {
        std::fs::create_dir_all(figure::folder())?;
        let mut bed = Self {
            folder: tempfile::tempdir_in(figure::folder())?,
            password: String::new(),
            running: None,
        };
        // The first start makes the file, the CA and the password.
        bed.run(Some("password of 'admin' is "))?;
        let lines = bed.running.as_ref().map_or(&[][..], |running| &running.lines);
        bed.password = word_after(lines, "password of 'admin' is ").context("no password")?;
        bed.stop();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(fill(&bed.data().join("store.redb"), input, nodes))?;
        bed.again()?;
        Ok(bed)
    }

    pub(super) fn data(&self) -> PathBuf {
        self.folder.path().join("controller")
    }

    fn run(&mut self, ready: Option<&str>) -> anyhow::Result<()> {
        let mut command = Command::new(binary("nv-controller")?);
        command
            .args(["--rest", REST, "--grpc", GRPC, "--data-dir"])
            .arg(self.data());
        self.running = Some(Process::start(&mut command, ready)?);
        Ok(())
    }

    /// Starts the controller again and waits until it answers.
    pub(super) fn again(&mut self) -> anyhow::Result<()> {
        self.run(None)?;
        let end = Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect(GRPC).is_err() {
            ensure!(Instant::now() < end, "the controller does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    pub(super) fn stop(&mut self) {
        self.running = None;
    }

    /// Process id of the controller.
    pub(super) fn pid(&self) -> anyhow::Result<u32> {
        Ok(self.running.as_ref().context("the controller is stopped")?.pid())
    }

    /// A join token for a node.
    pub(super) fn token(&self, node: &str) -> anyhow::Result<String> {
        let made = Command::new(binary("nv-controller")?)
            .args(["--join-token", node, "--data-dir"])
            .arg(self.data())
            .output()?;
        if !made.status.success() {
            bail!("no join token: {}", String::from_utf8_lossy(&made.stderr));
        }
        Ok(String::from_utf8(made.stdout)?.trim().to_owned())
    }
}

/// Name of a node.
pub(super) fn node(number: u32) -> String {
    format!("node-{number}")
}

async fn fill(path: &Path, input: &PolicyInput, nodes: u32) -> anyhow::Result<()> {
    let store = LocalStore::open(path)?;
    let mut entries: Vec<(String, Vec<u8>)> = Vec::new();
    let mut add = |key: String, value: Result<Vec<u8>, nv_policy::BadValue>| {
        entries.push((key, value?));
        anyhow::Ok(())
    };
    for (number, workload) in (0..).zip(input.workloads.values()) {
        let workload = nv_types::Workload {
            node: NodeId::try_new(node(number % nodes))?,
            ..workload.clone()
        };
        let key = keys::workload(&workload.node, &workload.id);
        add(key.clone(), encode(&key, &workload))?;
    }
    for (name, group) in &input.groups {
        let key = keys::group(name);
        add(key.clone(), encode(&key, group))?;
    }
    for (name, mode) in &input.modes {
        let key = keys::mode(name);
        add(key.clone(), encode(&key, &StoredMode { mode: *mode }))?;
    }
    for rule in &input.rules {
        let key = keys::rule(rule.id);
        add(key.clone(), encode(&key, rule))?;
    }
    let order = StoredOrder {
        rules: input.rules.iter().map(|rule| rule.id).collect(),
    };
    add(keys::ORDER.to_owned(), encode(keys::ORDER, &order))?;
    for part in entries.chunks(5000) {
        let mut txn = Txn::new();
        for (key, value) in part {
            txn = txn.put(key, value.clone());
        }
        let made = store.commit(txn).await?;
        ensure!(matches!(made, CommitOutcome::Committed(_)), "{made:?}");
    }
    Ok(())
}

/// A cluster of this size, with rules and services as many as there usually are.
pub(super) fn policy(workloads: u32) -> anyhow::Result<PolicyInput> {
    let size = cluster::Size {
        workloads,
        services: (workloads / 20).max(1),
        rules: (workloads / 2).min(5000),
    };
    Ok(cluster::policy(size)?)
}
