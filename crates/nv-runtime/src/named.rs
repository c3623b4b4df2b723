//! Named network namespaces (`ip netns`) as a runtime.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::statfs::{FsType, statfs};
use nv_types::{NodeId, Timestamp, Workload, WorkloadId};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::clock::now;
use crate::netns::{NetnsError, NetnsRef, own_inode, view};
use crate::runtime::{ContainerRuntime, EventKind, RuntimeError, RuntimeEvent, RuntimeInfo};

const NAME: &str = "netns";
/// What workload ids start with.
const ID_PREFIX: &str = "netns:";
/// `NSFS_MAGIC` of `linux/magic.h`: a file that a namespace is mounted on.
const NSFS_MAGIC: libc::__fsword_t = 0x6e73_6673;
/// Names under which container runtimes keep the namespaces of their own containers.
const RUNTIME_OWNED: [&str; 2] = ["cni-", "netns-"];
/// The file appears before the namespace is mounted on it, and mounting gives no event: look again for a while.
const AFTER_EVENT: [u64; 9] = [0, 2, 5, 10, 20, 50, 100, 200, 500];
/// How often the folder is read without an event, so that a folder that was made or replaced is noticed.
const IDLE: Duration = Duration::from_secs(2);
const QUEUE: usize = 256;

/// Named network namespaces under a folder. Each is a workload `netns:<name>` of the service `<name>`.
///
/// Left out: our own namespace, files without a namespace, and namespaces that container runtimes keep there for
/// their containers (`cni-…`, `netns-…`), which those runtimes tell of themselves.
#[derive(Clone, Debug)]
pub struct NetnsRuntime {
    folder: PathBuf,
    prefix: String,
}

/// An inotify descriptor as tokio wants it.
#[derive(Debug)]
struct Watch(Inotify);

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// What tells one namespace from the next of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    inode: u64,
    made: Timestamp,
}

impl NetnsRuntime {
    /// Watches `folder`, usually `/run/netns`. It may not exist yet.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            prefix: String::new(),
        }
    }

    /// Watches only namespaces whose name starts with `prefix`, and shows them without it: with `demo-` the namespace
    /// `demo-web` is the workload `netns:demo-web` with name and service `web`.
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Namespaces that are there now.
    fn scan(&self) -> Result<BTreeMap<String, Seen>, RuntimeError> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            // `ip netns` makes it with the first namespace.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(self.unreachable(error.to_string())),
        };
        let own = own_inode();
        let mut found = BTreeMap::new();
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if !name.starts_with(&self.prefix) || RUNTIME_OWNED.iter().any(|owned| name.starts_with(owned)) {
                continue;
            }
            let seen = seen(&entry.path()).filter(|seen| Some(seen.inode) != own);
            if let Some(seen) = seen {
                found.insert(name, seen);
            }
        }
        Ok(found)
    }

    fn unreachable(&self, detail: String) -> RuntimeError {
        RuntimeError::Unreachable {
            runtime: NAME,
            location: self.folder.display().to_string(),
            detail,
        }
    }

    #[expect(
        deprecated,
        reason = "the descriptor is owned by the value, and the successor is unsafe to call"
    )]
    fn watch(&self) -> Option<AsyncFd<Watch>> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok()?;
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        inotify.add_watch(&self.folder, flags).ok()?;
        AsyncFd::new(Watch(inotify)).ok()
    }
}

#[async_trait]
impl ContainerRuntime for NetnsRuntime {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn info(&self) -> Result<RuntimeInfo, RuntimeError> {
        Ok(RuntimeInfo {
            name: NAME.to_owned(),
            version: kernel_release(),
            location: self.folder.display().to_string(),
            capabilities: BTreeSet::from([EventKind::Start, EventKind::Stop, EventKind::Delete]),
        })
    }

    async fn list(&self) -> Result<Vec<WorkloadId>, RuntimeError> {
        Ok(self.scan()?.keys().filter_map(|name| id_of(name)).collect())
    }

    async fn inspect(&self, id: &WorkloadId, node: &NodeId) -> Result<Workload, RuntimeError> {
        let not_found = || RuntimeError::NotFound {
            runtime: NAME,
            id: id.to_string(),
        };
        let file = id.as_str().strip_prefix(ID_PREFIX).ok_or_else(not_found)?;
        let shown = file.strip_prefix(self.prefix.as_str()).ok_or_else(not_found)?;
        let path = self.folder.join(file);
        let seen = seen(&path).ok_or_else(not_found)?;
        let view = view(NetnsRef::Path(path)).await.map_err(|error| match error {
            NetnsError::NotFound { .. } => not_found(),
            error => RuntimeError::Failed {
                runtime: NAME,
                action: format!("reading {id}"),
                detail: error.to_string(),
            },
        })?;
        let shown = if shown.is_empty() { file } else { shown };
        Ok(Workload {
            name: shown.to_owned(),
            runtime: NAME.to_owned(),
            interfaces: view.interfaces,
            netns: view.inode,
            host_network: view.is_own,
            created: seen.made,
            started: seen.made,
            ..Workload::new(id.clone(), node.clone(), shown.to_owned())
        })
    }

    async fn events(&self) -> Result<mpsc::Receiver<RuntimeEvent>, RuntimeError> {
        let watch = self.watch();
        let known = self.scan()?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let runtime = self.clone();
        tokio::spawn(async move {
            let mut watcher = Watcher {
                runtime,
                watch,
                known,
                sender,
            };
            watcher.run().await;
        });
        Ok(receiver)
    }
}

/// The task behind an event channel.
struct Watcher {
    runtime: NetnsRuntime,
    watch: Option<AsyncFd<Watch>>,
    known: BTreeMap<String, Seen>,
    sender: mpsc::Sender<RuntimeEvent>,
}

impl Watcher {
    async fn run(&mut self) {
        while !self.sender.is_closed() {
            let told = self.wait().await;
            let delays: &[u64] = if told { &AFTER_EVENT } else { &[0] };
            for delay in delays {
                tokio::time::sleep(Duration::from_millis(*delay)).await;
                if self.compare().await.is_err() {
                    return;
                }
            }
        }
    }

    /// Waits for the folder to change; `false`: it was only looked at because time has passed.
    async fn wait(&mut self) -> bool {
        let Some(watch) = &self.watch else {
            tokio::time::sleep(IDLE).await;
            self.watch = self.runtime.watch();
            return self.watch.is_some();
        };
        tokio::select! {
            ready = watch.readable() => {
                let Ok(mut ready) = ready else {
                    self.watch = None;
                    return false;
                };
                let read = watch.get_ref().0.read_events();
                ready.clear_ready();
                let replaced = read.map_or(true, |events| {
                    events.iter().any(|event| event.mask.intersects(
                        AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_IGNORED,
                    ))
                });
                if replaced {
                    self.watch = self.runtime.watch();
                }
                true
            }
            () = tokio::time::sleep(IDLE) => false,
            () = self.sender.closed() => false,
        }
    }

    async fn compare(&mut self) -> Result<(), mpsc::error::SendError<RuntimeEvent>> {
        let found = match self.runtime.scan() {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "namespaces not read");
                return Ok(());
            }
        };
        let at = now();
        let mut events = Vec::new();
        for (name, seen) in &self.known {
            if found.get(name) != Some(seen) {
                events.push((EventKind::Stop, name.clone(), at));
                events.push((EventKind::Delete, name.clone(), at));
            }
        }
        for (name, seen) in &found {
            if self.known.get(name) != Some(seen) {
                events.push((EventKind::Start, name.clone(), seen.made));
            }
        }
        self.known = found;
        for (kind, name, at) in events {
            let subject = format!("{ID_PREFIX}{name}");
            self.sender.send(RuntimeEvent { kind, subject, at }).await?;
        }
        Ok(())
    }
}

fn id_of(name: &str) -> Option<WorkloadId> {
    WorkloadId::try_new(format!("{ID_PREFIX}{name}")).ok()
}

/// The namespace mounted on this file; `None` when nothing is.
fn seen(path: &Path) -> Option<Seen> {
    if statfs(path).ok()?.filesystem_type() != FsType(NSFS_MAGIC) {
        return None;
    }
    let meta = std::fs::metadata(path).ok()?;
    // The kernel uses inode numbers again; the time tells two namespaces apart.
    let made = meta
        .ctime()
        .checked_mul(1_000_000_000)?
        .checked_add(meta.ctime_nsec())?;
    Some(Seen {
        inode: meta.ino(),
        made: Timestamp(u64::try_from(made).ok()?),
    })
}

fn kernel_release() -> String {
    nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default()
}
