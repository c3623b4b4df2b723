//! An inline forwarder in userspace, as NeuVector's enforcer stands in a workload's way: every frame is read from one packet socket
//! and written to another. What the workload leaves to the card is turned off, as there, since frames must be complete to be read. It
//! judges nothing, so that what is measured is the way alone.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, anyhow, ensure};
use nv_lab::Host;

use super::sys::{Port, set_offloads};

const OUTER: &str = "nvfwd0";
const INNER: &str = "nvfwd1";

/// Takes a host's link off its bridge and carries its frames to the bridge and back.
#[derive(Debug)]
pub(super) struct Forwarder<'h> {
    bridge: &'h str,
    host: &'h Host,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl<'h> Forwarder<'h> {
    pub(super) fn start(bridge: &'h str, host: &'h Host) -> anyhow::Result<Self> {
        let link = host.host_link();
        ip(&format!("link add {OUTER} type veth peer name {INNER}"))?;
        let mut forwarder = Self {
            bridge,
            host,
            stop: Arc::new(AtomicBool::new(false)),
            threads: Vec::new(),
        };
        ip(&format!("link set {OUTER} master {bridge} up"))?;
        ip(&format!("link set {INNER} up"))?;
        ip(&format!("link set {link} nomaster"))?;
        set_offloads(OUTER, false).context("cannot turn offloads off")?;
        inside(host, false)?;
        for (from, to) in [(INNER, link), (link, INNER)] {
            let open = |name: &str| {
                Port::open(name).with_context(|| format!("cannot open a packet socket on {name}"))
            };
            let (from, to) = (open(from)?, open(to)?);
            let stop = Arc::clone(&forwarder.stop);
            forwarder
                .threads
                .push(thread::spawn(move || carry(&from, &to, &stop)));
        }
        Ok(forwarder)
    }

    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        self.end()
    }

    fn end(&mut self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let mut result = Ok(());
        for thread in self.threads.drain(..) {
            let ended = thread
                .join()
                .unwrap_or_else(|_| Err(anyhow!("a forwarding thread panicked")));
            result = result.and(ended);
        }
        let back = ip(&format!(
            "link set {} master {}",
            self.host.host_link(),
            self.bridge
        ));
        let gone = ip(&format!("link del {OUTER}"));
        let offloads = inside(self.host, true);
        result.and(back).and(gone).and(offloads)
    }
}

impl Drop for Forwarder<'_> {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            let _ = self.end();
        }
    }
}

/// The offloads of the host's own interface.
fn inside(host: &Host, on: bool) -> anyhow::Result<()> {
    host.run(move || set_offloads("eth0", on))?
        .context("cannot change the offloads of the workload's interface")
}

fn carry(from: &Port, to: &Port, stop: &AtomicBool) -> anyhow::Result<()> {
    let mut buffer = vec![0; 80 << 10];
    while !stop.load(Ordering::Relaxed) {
        if let Some(frame) = from.recv(&mut buffer).context("cannot read a frame")? {
            to.send(frame).context("cannot write a frame")?;
        }
    }
    Ok(())
}

fn ip(words: &str) -> anyhow::Result<()> {
    let output = Command::new("ip")
        .args(words.split_whitespace())
        .output()
        .context("cannot start ip")?;
    ensure!(
        output.status.success(),
        "ip {words}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
