//! The agent's side: who may ask, what is asked, and when the answer comes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nv_runtime::netns::{NetnsRef, view};
use nv_types::{Workload, WorkloadId};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::wire::{LONGEST, Reply, Request, VERSION, Wanted, line};
use crate::captures::Workloads;

/// Hooks at once; further ones wait to be let in.
const HOOKS: usize = 256;
/// How long a hook may take to say what it wants.
const SAYING: Duration = Duration::from_secs(2);
/// How long anything is held at most, whatever the hook says.
const LONGEST_HOLD: Duration = Duration::from_secs(120);

/// What the agent's loop is asked.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Take it up, and answer when every interface of it is guarded: with how many there are.
    Hold(Box<Workload>, oneshot::Sender<usize>),
    /// It is over.
    Gone(WorkloadId),
}

/// Listens.
///
/// # Errors
/// When another agent listens there, or the socket cannot be made.
pub(crate) fn serve(
    socket: &Path,
    asks: mpsc::Sender<Ask>,
    workloads: Workloads,
    shutdown: CancellationToken,
) -> anyhow::Result<impl Future<Output = ()> + use<>> {
    let listener = listen(socket).with_context(|| format!("hooks cannot ask at {}", socket.display()))?;
    let socket = socket.to_owned();
    Ok(async move {
        let room = Arc::new(Semaphore::new(HOOKS));
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
                return;
            };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (asks, workloads) = (asks.clone(), Arc::clone(&workloads));
                    let shutdown = shutdown.clone();
                    tokio::spawn(async move {
                        if let Err(error) = connection(stream, &asks, &workloads, &shutdown).await {
                            tracing::warn!(%error, "hook");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a hook cannot be let in");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        let _ = fs::remove_file(&socket);
    })
}

fn listen(socket: &Path) -> anyhow::Result<UnixListener> {
    if let Some(folder) = socket.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    if std::os::unix::net::UnixStream::connect(socket).is_ok() {
        bail!("another agent listens there");
    }
    match fs::remove_file(socket) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let listener = UnixListener::bind(socket)?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn connection(
    stream: UnixStream,
    asks: &mpsc::Sender<Ask>,
    workloads: &Workloads,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let caller = stream.peer_cred()?.uid();
    let own = nix::unistd::geteuid().as_raw();
    if caller != own && caller != 0 {
        bail!("user {caller} may not ask");
    }
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader.take(LONGEST));
    let mut text = String::new();
    tokio::time::timeout(SAYING, reader.read_line(&mut text))
        .await
        .context("it said nothing")??;
    let answer = match serde_json::from_str::<Request>(&text) {
        Err(error) => Err(format!("what the hook asks is not understood: {error}")),
        Ok(Request { v, .. }) if v != VERSION => {
            Err(format!("the hook speaks version {v}, the agent {VERSION}"))
        }
        Ok(Request { ask, .. }) => {
            let mut rest = String::new();
            tokio::select! {
                answer = answer(ask, asks, workloads) => answer,
                () = shutdown.cancelled() => Err("the agent stops".into()),
                // The hook is gone: nobody waits for the answer.
                _ = reader.read_line(&mut rest) => return Ok(()),
            }
        }
    };
    let (error, interfaces) = match answer {
        Ok(interfaces) => (None, interfaces),
        Err(words) => (Some(words), 0),
    };
    let reply = Reply {
        v: VERSION,
        error,
        interfaces,
    };
    writer.write_all(&line(&reply)?).await?;
    Ok(())
}

async fn answer(ask: Wanted, asks: &mpsc::Sender<Ask>, workloads: &Workloads) -> Result<usize, String> {
    let stops = |_| "the agent stops".to_owned();
    match ask {
        Wanted::Gone { id } => {
            asks.send(Ask::Gone(id))
                .await
                .map_err(|_| "the agent stops".to_owned())?;
            Ok(0)
        }
        Wanted::Hold {
            mut workload,
            wait_ms,
        } => {
            let found = view(NetnsRef::Pid(workload.pid)).await;
            let found = found.map_err(|error| format!("its network namespace cannot be read: {error}"))?;
            // The node's own, or that of a container that is guarded already: there is nothing of its own to guard.
            if found.is_own || is_shared(workloads, &workload.id, found.inode) {
                return Ok(0);
            }
            workload.netns = found.inode;
            workload.interfaces = found.interfaces;
            let (reply, done) = oneshot::channel();
            asks.send(Ask::Hold(workload, reply))
                .await
                .map_err(|_| "the agent stops".to_owned())?;
            let wait = Duration::from_millis(wait_ms).min(LONGEST_HOLD);
            tokio::time::timeout(wait, done)
                .await
                .map_err(|_elapsed| format!("its policy is not in force after {wait:?}"))?
                .map_err(stops)
        }
    }
}

fn is_shared(workloads: &Workloads, id: &WorkloadId, inode: u64) -> bool {
    let workloads = workloads.read().unwrap_or_else(PoisonError::into_inner);
    workloads
        .values()
        .any(|other| other.id != *id && other.netns == inode && !other.interfaces.is_empty())
}

/// What is held, and whom only hooks have told of.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    waiting: Vec<(WorkloadId, usize, oneshot::Sender<usize>)>,
    /// Until a runtime tells of them, these are watched here.
    hooked: BTreeMap<WorkloadId, (u32, u64)>,
}

impl Holds {
    /// Notes a workload that a hook has told of.
    pub(crate) fn watch(&mut self, workload: &Workload) {
        self.hooked
            .insert(workload.id.clone(), (workload.pid, workload.netns));
    }

    pub(crate) fn hold(&mut self, workload: &Workload, reply: oneshot::Sender<usize>) {
        self.watch(workload);
        let count = workload
            .interfaces
            .iter()
            .filter(|interface| interface.host_index.is_some())
            .count();
        self.waiting.push((workload.id.clone(), count, reply));
    }

    /// A runtime, or a hook, has the last word on it.
    pub(crate) fn forget(&mut self, id: &WorkloadId) {
        self.hooked.remove(id);
    }

    /// Answers those that are guarded now, and forgets those that nobody waits for any more.
    pub(crate) fn answer(&mut self, is_guarded: impl Fn(&WorkloadId) -> bool) {
        for (id, count, reply) in std::mem::take(&mut self.waiting) {
            if reply.is_closed() {
                continue;
            }
            if count == 0 || is_guarded(&id) {
                let _ = reply.send(count);
            } else {
                self.waiting.push((id, count, reply));
            }
        }
    }

    /// Those whose process is over.
    pub(crate) fn ended(&mut self) -> Vec<WorkloadId> {
        let over = |(pid, inode): &(u32, u64)| !is_alive(*pid, *inode);
        let ended: Vec<_> = self.hooked.iter().filter(|(_, process)| over(process)).collect();
        let ended: Vec<_> = ended.into_iter().map(|(id, _)| id.clone()).collect();
        for id in &ended {
            self.hooked.remove(id);
        }
        ended
    }
}

/// Whether this process is still in this network namespace.
pub(crate) fn is_alive(pid: u32, inode: u64) -> bool {
    fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|found| found.ino() == inode)
}
