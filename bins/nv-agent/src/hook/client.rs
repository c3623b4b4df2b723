//! The hook's side: says who starts, waits, and decides what happens when nobody answers.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use nv_runtime::Location;
use nv_types::{Mode, NodeId, Workload};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::describe::{State, Who, describe};
use super::wire::{LONGEST, Reply, Request, VERSION, Wanted, line};
use crate::snapshot::Snapshot;

/// Longest state that a runtime gives.
const LONGEST_STATE: u64 = 4 << 20;

/// What a container may do when its policy cannot be put in force in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum HookFail {
    /// It does not start.
    Closed,
    /// It starts.
    Open,
    /// It does not start if its service is in Protect, by the policy that the agent saved last; else it does.
    #[default]
    Auto,
}

/// How a hook works.
#[derive(Clone, Debug)]
pub struct HookOptions {
    /// The agent's socket.
    pub socket: PathBuf,
    /// Name of this node.
    pub node: NodeId,
    /// The agent's data folder, with the last policy.
    pub data_dir: PathBuf,
    /// Where dockerd is.
    pub docker: Location,
    /// How long a container waits at most.
    pub wait: Duration,
    /// When that was too short.
    pub fail: HookFail,
}

/// A container that must not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HookError {
    /// The runtime's word makes no sense.
    #[error("the runtime's state of the container cannot be read: {0}")]
    State(String),
    /// It would run without its policy.
    #[error("container {id} is not started: {problem} (hook.fail = {fail})")]
    Refused {
        /// Container.
        id: String,
        /// Why its policy is not in force.
        problem: String,
        /// What decided.
        fail: &'static str,
    },
}

/// Does what a hook of this state has to: holds a container that is being made, tells the end of one that has stopped. `Ok`: it may
/// go on.
///
/// # Errors
/// When the container must not start.
pub async fn hook(input: impl Read, options: &HookOptions) -> Result<(), HookError> {
    let mut text = String::new();
    input
        .take(LONGEST_STATE)
        .read_to_string(&mut text)
        .map_err(|error| HookError::State(error.to_string()))?;
    let state: State = serde_json::from_str(&text).map_err(|error| HookError::State(error.to_string()))?;
    if state.status == "stopped" {
        if let Ok(id) = state.id.parse() {
            // One that is over waits for nobody.
            let _ = ask(&options.socket, Wanted::Gone { id }, Duration::from_secs(1)).await;
        }
        return Ok(());
    }
    match describe(&state, &options.node, &options.docker).await {
        Ok(Who::Member) => Ok(()),
        Ok(Who::Workload(workload)) => {
            let wait_ms = u64::try_from(options.wait.as_millis()).unwrap_or(u64::MAX);
            let hold = Wanted::Hold {
                workload: workload.clone(),
                wait_ms,
            };
            match ask(&options.socket, hold, options.wait).await {
                Ok(()) => Ok(()),
                Err(problem) => decide(&state.id, Some(&workload), problem, options),
            }
        }
        Err(problem) => decide(&state.id, None, problem, options),
    }
}

/// What happens without the agent's word.
fn decide(
    id: &str,
    workload: Option<&Workload>,
    problem: String,
    options: &HookOptions,
) -> Result<(), HookError> {
    let (closed, fail) = match options.fail {
        HookFail::Closed => (true, "closed"),
        HookFail::Open => (false, "open"),
        HookFail::Auto => (is_protected(workload, options), "auto: its service is in Protect"),
    };
    if closed {
        return Err(HookError::Refused {
            id: id.to_owned(),
            problem,
            fail,
        });
    }
    tracing::warn!(id, problem, "the container starts before its policy is in force");
    Ok(())
}

/// Whether the saved policy has the workload's service in Protect. Of one of which nothing is known: whether it has any.
fn is_protected(workload: Option<&Workload>, options: &HookOptions) -> bool {
    let path = options.data_dir.join("policy.json");
    let snapshot = match Snapshot::load(&path, &options.node) {
        Ok(Some(snapshot)) => snapshot,
        // Nothing was ever in force here.
        Ok(None) => return false,
        Err(error) => {
            tracing::warn!(%error, "taken for one that protects");
            return true;
        }
    };
    nv_agent_core::saved_mode(snapshot.values(), workload) == Some(Mode::Protect)
}

/// Asks the agent; the error in words.
async fn ask(socket: &Path, wanted: Wanted, wait: Duration) -> Result<(), String> {
    let asking = async {
        let stream = UnixStream::connect(socket).await?;
        let (reader, mut writer) = stream.into_split();
        writer
            .write_all(&line(&Request {
                v: VERSION,
                ask: wanted,
            })?)
            .await?;
        let mut answer = String::new();
        BufReader::new(reader.take(LONGEST))
            .read_line(&mut answer)
            .await?;
        serde_json::from_str::<Reply>(&answer).map_err(io::Error::from)
    };
    match tokio::time::timeout(wait, asking).await {
        Ok(Ok(Reply {
            v: VERSION, error, ..
        })) => error.map_or(Ok(()), Err),
        Ok(Ok(Reply { v, .. })) => Err(format!("the agent speaks version {v}, this hook {VERSION}")),
        Ok(Err(error)) => Err(format!(
            "the agent at {} does not answer: {error}",
            socket.display()
        )),
        Err(_elapsed) => Err(format!("its policy is not in force after {wait:?}")),
    }
}
