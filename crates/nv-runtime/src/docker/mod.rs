//! dockerd over its Unix socket, and Podman, which speaks the same API.

mod events;
mod inspect;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{OnceLock, PoisonError, RwLock};

use async_trait::async_trait;
use bollard::query_parameters::{
    EventsOptionsBuilder, InspectContainerOptions, ListContainersOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, Docker, errors::Error as DockerError};
use futures::{Stream, StreamExt};
use nv_types::{NodeId, Workload, WorkloadId};
use tokio::sync::mpsc;

use crate::clock::now;
use crate::grpc::with_causes;
use crate::place::{Hints, look};
use crate::runtime::{ContainerRuntime, EventKind, RuntimeError, RuntimeEvent, RuntimeInfo};

const NAME: &str = "docker";
const PODMAN: &str = "podman";
/// Seconds until an answer must begin.
const TIMEOUT: u64 = 30;
/// Events that may wait. When the consumer falls further behind the channel is closed, which a
/// [`Monitor`](crate::Monitor) answers by comparing anew.
const QUEUE: usize = 8192;
/// Actions that are asked for: dockerd itself leaves out the rest, such as every health probe.
const ACTIONS: [&str; 9] = [
    "start",
    "die",
    "create",
    "destroy",
    // Podman's word for it.
    "remove",
    "extract-to-dir",
    "archive-path",
    "connect",
    "disconnect",
];

/// A dockerd, or a Podman. Cheap to make: it is connected to with the first call, and anew after a failure.
#[derive(Debug)]
pub struct DockerRuntime {
    socket: PathBuf,
    /// A client that has agreed on an API version; forgotten when a call finds nobody there.
    client: RwLock<Option<Docker>>,
    /// Which of the two it is, once it has said so.
    name: OnceLock<&'static str>,
}

impl DockerRuntime {
    /// Speaks to the dockerd behind this Unix socket. Nothing is sent yet.
    #[must_use]
    pub fn connect(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            client: RwLock::new(None),
            name: OnceLock::new(),
        }
    }

    /// A container that is being started, as far as it is known: nothing of its process and its namespace. `None`: there is none of this
    /// id. dockerd answers [`ContainerRuntime::inspect`] only when the start is over; this it answers at once.
    ///
    /// # Errors
    /// As [`ContainerRuntime::list`].
    pub async fn starting(&self, id: &WorkloadId, node: &NodeId) -> Result<Option<Workload>, RuntimeError> {
        let client = self.client().await?;
        let filters = HashMap::from([("id", vec![id.as_str()])]);
        let options = ListContainersOptionsBuilder::new()
            .all(true)
            .filters(&filters)
            .build();
        let found = client
            .list_containers(Some(options))
            .await
            .map_err(|error| self.failed(&format!("looking for {id}"), &error))?;
        // The filter takes the beginning of an id too.
        let found = found
            .into_iter()
            .find(|container| container.id.as_deref() == Some(id.as_str()));
        Ok(found.map(|container| inspect::summary(self.name(), container, id, node)))
    }

    /// Speaks to the Podman behind this Unix socket.
    #[must_use]
    pub fn podman(socket: impl Into<PathBuf>) -> Self {
        let podman = Self::connect(socket);
        podman.name.get_or_init(|| PODMAN);
        podman
    }

    async fn client(&self) -> Result<Docker, RuntimeError> {
        let known = self.client.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(client) = known {
            return Ok(client);
        }
        self.fresh_client().await
    }

    /// Agrees on a version again: dockerd may have been replaced by another one.
    async fn fresh_client(&self) -> Result<Docker, RuntimeError> {
        let path = self.socket.to_string_lossy();
        let client = Docker::connect_with_unix(&path, TIMEOUT, API_DEFAULT_VERSION)
            .map_err(|error| self.failed("connecting", &error))?;
        let client = client
            .negotiate_version()
            .await
            .map_err(|error| self.failed("asking for its version", &error))?;
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
        Ok(client)
    }

    /// Whether the container runs with the process that it was said to run with.
    async fn still_has(&self, workload: &Workload) -> Result<bool, RuntimeError> {
        let client = self.client().await?;
        let answer = client
            .inspect_container(workload.id.as_str(), None::<InspectContainerOptions>)
            .await;
        match answer {
            Ok(answer) => Ok(answer.state.and_then(|state| state.pid) == Some(i64::from(workload.pid))),
            Err(DockerError::DockerResponseServerError { status_code: 404, .. }) => Ok(false),
            Err(error) => Err(self.failed("inspecting again", &error)),
        }
    }

    /// The error in our words. Anything but an answer of dockerd means that it is not there.
    fn failed(&self, action: &str, error: &DockerError) -> RuntimeError {
        match error {
            DockerError::DockerResponseServerError { message, .. } => RuntimeError::Failed {
                runtime: NAME,
                action: action.to_owned(),
                detail: message.clone(),
            },
            DockerError::JsonDataError { .. } | DockerError::JsonSerdeError { .. } => RuntimeError::Failed {
                runtime: NAME,
                action: action.to_owned(),
                detail: error.to_string(),
            },
            error => {
                *self.client.write().unwrap_or_else(PoisonError::into_inner) = None;
                RuntimeError::Unreachable {
                    runtime: NAME,
                    location: self.socket.display().to_string(),
                    detail: with_causes(error),
                }
            }
        }
    }
}

#[async_trait]
impl ContainerRuntime for DockerRuntime {
    fn name(&self) -> &'static str {
        self.name.get().copied().unwrap_or(NAME)
    }

    async fn info(&self) -> Result<RuntimeInfo, RuntimeError> {
        let client = self.client().await?;
        let version = client
            .version()
            .await
            .map_err(|error| self.failed("asking for its version", &error))?;
        let parts = version.components.unwrap_or_default();
        let is_podman = parts.iter().any(|part| part.name.contains("Podman"));
        self.name.get_or_init(|| if is_podman { PODMAN } else { NAME });
        let mut capabilities = BTreeSet::from([
            EventKind::Start,
            EventKind::Stop,
            EventKind::Delete,
            EventKind::SocketError,
        ]);
        // Podman copies without a word, and tells of networks in its newest versions only.
        if self.name() == NAME {
            capabilities.extend([
                EventKind::Change,
                EventKind::CopyIn,
                EventKind::CopyOut,
                EventKind::NetworkCreate,
                EventKind::NetworkDelete,
            ]);
        }
        let version = version.version.unwrap_or_default();
        Ok(RuntimeInfo {
            name: self.name().to_owned(),
            version: crate::containerd::plain_version(&version).to_owned(),
            location: self.socket.display().to_string(),
            capabilities,
        })
    }

    async fn list(&self) -> Result<Vec<WorkloadId>, RuntimeError> {
        let client = self.client().await?;
        let options = ListContainersOptionsBuilder::new().all(false).build();
        let containers = client
            .list_containers(Some(options))
            .await
            .map_err(|error| self.failed("listing containers", &error))?;
        let mut ids: Vec<WorkloadId> = containers
            .into_iter()
            .filter(|container| !container.labels.as_ref().is_some_and(inspect::is_pod_member))
            .filter_map(|container| WorkloadId::try_new(container.id?).ok())
            .collect();
        ids.sort();
        Ok(ids)
    }

    async fn inspect(&self, id: &WorkloadId, node: &NodeId) -> Result<Workload, RuntimeError> {
        let client = self.client().await?;
        let answer = client
            .inspect_container(id.as_str(), None::<InspectContainerOptions>)
            .await
            .map_err(|error| match &error {
                DockerError::DockerResponseServerError { status_code: 404, .. } => RuntimeError::NotFound {
                    runtime: NAME,
                    id: id.to_string(),
                },
                error => self.failed(&format!("inspecting {id}"), error),
            })?;
        let inspect::Described {
            mut workload,
            shares_network,
        } = inspect::describe(self.name(), answer, node).map_err(|detail| RuntimeError::Failed {
            runtime: NAME,
            action: format!("inspecting {id}"),
            detail,
        })?;
        if workload.pid == 0 {
            return Ok(workload);
        }
        let place = look(Hints {
            pid: workload.pid,
            path: None,
            mark: workload.id.to_string(),
        })
        .await;
        if !place.is_sure && !self.still_has(&workload).await? {
            return Err(RuntimeError::NotFound {
                runtime: NAME,
                id: id.to_string(),
            });
        }
        // Who shares another container's namespace has no interface of its own: the owner's guard is its guard.
        place.put(&mut workload, shares_network);
        Ok(workload)
    }

    async fn events(&self) -> Result<mpsc::Receiver<RuntimeEvent>, RuntimeError> {
        // The client sends the request only when the stream is first polled. Asking for everything since now makes
        // dockerd replay what happens until then.
        let since = now();
        let client = self.fresh_client().await?;
        let filters = HashMap::from([
            ("type", vec!["container", "network"]),
            ("event", ACTIONS.to_vec()),
        ]);
        let options = EventsOptionsBuilder::new()
            .since(&format!("{}.{:09}", since.as_secs(), since.0 % 1_000_000_000))
            .filters(&filters)
            .build();
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            let stream = client.events(Some(options));
            tokio::select! {
                () = forward(stream, &sender) => {}
                () = sender.closed() => {}
            }
        });
        Ok(receiver)
    }
}

async fn forward(
    stream: impl Stream<Item = Result<bollard::models::EventMessage, DockerError>>,
    sender: &mpsc::Sender<RuntimeEvent>,
) {
    let mut stream = std::pin::pin!(stream);
    let mut filter = events::Filter::default();
    while let Some(message) = stream.next().await {
        let message = match message {
            Ok(message) => message,
            Err(error @ (DockerError::JsonDataError { .. } | DockerError::JsonSerdeError { .. })) => {
                tracing::warn!(%error, "docker event left out");
                continue;
            }
            Err(error) => {
                tracing::debug!(%error, "docker events ended");
                return;
            }
        };
        let Some(event) = filter.event(message) else {
            continue;
        };
        if let Err(error) = sender.try_send(event) {
            tracing::warn!(%error, "docker events come faster than they are taken: comparing anew");
            return;
        }
    }
}
