//! DNS messages from the datapath to the core, and answers back to their workloads.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use nv_agent_core::{DnsSeen, NameRules};
use nv_dp::{DnsMessage, HeldFrame, NameGate};
use nv_types::{Direction, Workload};
use tokio::sync::mpsc;

use crate::datapath::Tapped;

/// Messages that wait for the agent's loop; further answers go on at once, unlearned and counted.
const WAITING: usize = 1024;
/// Messages taken at once.
const BATCH: usize = 64;
/// Longest sleep of the thread, after which it looks whether to end.
const LOOK: Duration = Duration::from_millis(500);
/// How long the kernel holds answers for an agent that says nothing more.
const OPEN: Duration = Duration::from_secs(2);
/// How often the agent says that it listens.
pub(crate) const RENEW: Duration = Duration::from_millis(500);
/// Bytes of a resolver file that are read.
const FILE: u64 = 16_384;

/// Whose answers are believed, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameOptions {
    /// Only these resolvers; empty: the node's, and those that a workload was given.
    pub resolvers: Vec<IpAddr>,
    /// How long an address counts after its answer is over.
    pub grace: Duration,
}

impl Default for NameOptions {
    /// The node's and the workloads' own resolvers, five minutes.
    fn default() -> Self {
        Self {
            resolvers: Vec::new(),
            grace: Duration::from_secs(300),
        }
    }
}

impl NameOptions {
    pub(crate) fn rules(&self, listens: bool) -> NameRules {
        let only_these = !self.resolvers.is_empty();
        NameRules {
            listens,
            resolvers: if only_these {
                self.resolvers.iter().map(IpAddr::to_canonical).collect()
            } else {
                fs::read_to_string("/etc/resolv.conf")
                    .map_or_else(|_| BTreeSet::new(), |text| nameservers(&text))
            },
            only_these,
            grace: u64::try_from(self.grace.as_nanos()).unwrap_or(u64::MAX),
        }
    }
}

/// What of DNS the loop holds. Without a datapath that shows messages there is nothing in it.
#[derive(Debug, Default)]
pub(crate) struct Names {
    gate: Option<Arc<NameGate>>,
    messages: Option<mpsc::Receiver<DnsMessage>>,
    held: BTreeMap<u64, HeldFrame>,
    last_token: u64,
    is_open: bool,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
    /// Messages that the kernel, or the thread, could not tell of.
    lost: Arc<AtomicU64>,
}

impl Names {
    /// Starts the thread that reads.
    pub(crate) fn start((mut tap, gate): Tapped) -> anyhow::Result<Self> {
        let gate = Arc::new(gate);
        let (sender, messages) = mpsc::channel(WAITING);
        let stop = Arc::new(AtomicBool::new(false));
        let lost = Arc::new(AtomicU64::new(0));
        let (on, stopped, counted) = (Arc::clone(&gate), Arc::clone(&stop), Arc::clone(&lost));
        let thread = std::thread::Builder::new()
            .name("nv-names".into())
            .spawn(move || {
                let mut dropped = 0;
                while !stopped.load(Ordering::Relaxed) {
                    let taken = tap.take(BATCH, LOOK).unwrap_or_else(|error| {
                        tracing::warn!(%error, "DNS messages cannot be read");
                        std::thread::sleep(LOOK);
                        Vec::new()
                    });
                    for message in taken {
                        if let Err(full) = sender.try_send(message) {
                            dropped += 1;
                            if let Some(held) = full.into_inner().held {
                                send_on(&on, &held);
                            }
                        }
                    }
                    counted.store(tap.lost().unwrap_or(0) + dropped, Ordering::Relaxed);
                }
                // The gate is shut: what was held until then goes on.
                let left = tap.take(usize::MAX, Duration::ZERO).unwrap_or_default();
                left.iter()
                    .filter_map(|message| message.held.as_ref())
                    .for_each(|held| send_on(&on, held));
            })
            .context("cannot start the thread that reads DNS messages")?;
        let mut names = Self::default();
        names.gate = Some(gate);
        names.messages = Some(messages);
        names.stop = stop;
        names.thread = Some(thread);
        names.lost = lost;
        Ok(names)
    }

    pub(crate) const fn listens(&self) -> bool {
        self.gate.is_some()
    }

    /// The next message; never ends where there are none.
    pub(crate) async fn heard(&mut self) -> DnsMessage {
        if let Some(messages) = &mut self.messages
            && let Some(message) = messages.recv().await
        {
            return message;
        }
        std::future::pending().await
    }

    /// A message as the core takes it; what it holds waits here.
    pub(crate) fn keep(&mut self, message: DnsMessage) -> DnsSeen {
        let token = message.held.map(|held| {
            self.last_token += 1;
            self.held.insert(self.last_token, held);
            self.last_token
        });
        DnsSeen {
            ifindex: message.ifindex,
            is_answer: message.direction == Direction::Ingress,
            proto: message.proto,
            local: message.local,
            resolver: message.peer,
            message: message.message,
            token,
        }
    }

    pub(crate) fn release(&mut self, token: u64) {
        if let (Some(held), Some(gate)) = (self.held.remove(&token), &self.gate) {
            send_on(gate, &held);
        }
    }

    /// Somebody listens, or nobody needs to.
    pub(crate) fn open(&mut self, is_open: bool) {
        self.is_open = is_open;
        self.renew();
    }

    /// Says again that somebody listens, if anybody needs to.
    pub(crate) fn renew(&self) {
        if let Some(gate) = &self.gate
            && self.is_open
            && let Err(error) = gate.keep_open(OPEN)
        {
            tracing::warn!(%error, "DNS answers are not seen");
        }
    }

    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Names {
    /// Answers pass from now on; those that wait go on.
    fn drop(&mut self) {
        let Some(gate) = self.gate.take() else { return };
        if let Err(error) = gate.keep_open(Duration::ZERO) {
            tracing::warn!(%error, "DNS answers wait for a moment longer");
        }
        self.stop.store(true, Ordering::Relaxed);
        for held in std::mem::take(&mut self.held).values() {
            send_on(&gate, held);
        }
        if let Some(messages) = &mut self.messages {
            messages.close();
            while let Ok(message) = messages.try_recv() {
                if let Some(held) = message.held {
                    send_on(&gate, &held);
                }
            }
        }
        // What the thread reads from now on finds the channel closed, and goes on from there.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn send_on(gate: &NameGate, held: &HeldFrame) {
    if let Err(error) = gate.release(held) {
        tracing::debug!(%error, "a DNS answer is lost");
    }
}

/// The resolvers that a workload was given: its own `/etc/resolv.conf`, or what stands in for it in a named namespace.
pub(crate) fn resolvers_of(workload: &Workload) -> BTreeSet<IpAddr> {
    let text = if workload.runtime == "netns" {
        let own = Path::new("/etc/netns").join(&workload.name).join("resolv.conf");
        fs::read_to_string(own)
            .or_else(|_| fs::read_to_string("/etc/resolv.conf"))
            .ok()
    } else if workload.pid != 0 {
        inside(workload.pid)
    } else {
        None
    };
    text.map_or_else(BTreeSet::new, |text| nameservers(&text))
}

/// Reads the file as the workload would: whatever its links say, nothing outside of its root is opened.
fn inside(pid: u32) -> Option<String> {
    let root = format!("/proc/{pid}/root");
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root: OwnedFd = open(root.as_str(), flags, Mode::empty()).ok()?;
    let how = OpenHow::new()
        // A pipe in its place is not waited for.
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = openat2(&root, "etc/resolv.conf", how).ok()?;
    let file = fs::File::from(file);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    file.take(FILE).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Resolvers of a `resolv.conf(5)`, and those that Docker's own resolver inside a workload asks, which it notes there.
fn nameservers(text: &str) -> BTreeSet<IpAddr> {
    let mut found = BTreeSet::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() == Some("nameserver") {
            let address: Option<IpAddr> = words.next().and_then(|word| word.split('%').next()?.parse().ok());
            found.extend(address);
        } else if let Some((_, list)) = line.split_once("ExtServers: [") {
            let list = list.split(']').next().unwrap_or_default();
            let words = list.split([' ', '(', ')']);
            found.extend(words.filter_map(|word| word.parse::<IpAddr>().ok()));
        }
    }
    found.iter().map(IpAddr::to_canonical).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<String> {
        nameservers(text).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn resolvers_are_read_as_the_resolver_reads_them() {
        let text = "# nameserver 192.0.2.9\nsearch a.test\nnameserver 10.96.0.10\n nameserver\tfe80::1%eth0 \nnameserver x\n";
        assert_eq!(list(text), ["10.96.0.10", "fe80::1"]);
        let docker = "nameserver 127.0.0.11\noptions ndots:0\n# Based on host file: '/etc/resolv.conf' (internal resolver)\n# ExtServers: [host(127.0.0.53) 192.0.2.53 2001:db8::53]\n";
        assert_eq!(
            list(docker),
            ["127.0.0.11", "127.0.0.53", "192.0.2.53", "2001:db8::53"]
        );
    }

    #[test]
    fn a_process_is_read_within_its_own_root() {
        if Path::new("/etc/resolv.conf").is_file() {
            assert_eq!(
                inside(std::process::id()),
                fs::read_to_string("/etc/resolv.conf").ok()
            );
        }
        assert_eq!(inside(u32::MAX), None);
    }
}
