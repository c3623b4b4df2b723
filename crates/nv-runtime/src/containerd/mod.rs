//! containerd by its own services: every client's containers, not only those of Kubernetes.

mod describe;
mod events;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{PoisonError, RwLock};

use async_trait::async_trait;
use nv_types::{NodeId, Timestamp, Workload, WorkloadId, WorkloadState};
use tokio::sync::mpsc;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

use crate::clock::boot;
use crate::grpc::{LARGEST, Peer};
use crate::place::look;
use crate::process::wall;
use crate::proto::containers::containers_client::ContainersClient;
use crate::proto::containers::{Container, GetContainerRequest, ListContainersRequest};
use crate::proto::namespaces::{ListNamespacesRequest, namespaces_client::NamespacesClient};
use crate::proto::tasks::tasks_client::TasksClient;
use crate::proto::tasks::{GetRequest, ListTasksRequest, Process, Status};
use crate::proto::version::version_client::VersionClient;
use crate::runtime::{ContainerRuntime, EventKind, RuntimeError, RuntimeEvent, RuntimeInfo};

use describe::{Described, Role, describe, is_sandbox, members, parts_of, role, sandbox_of};

pub(crate) const NAME: &str = "containerd";
/// Header that says which namespace a call is about.
const NAMESPACE: &str = "containerd-namespace";

/// A containerd. Cheap to make: it is connected to with the first call, and anew after a failure.
///
/// Each container with a running task is a workload; of a Kubernetes pod the sandbox is, and its containers are listed
/// in it. Ids are containerd's own, behind `containerd:<namespace>:` where they are not 64 random digits.
#[derive(Debug)]
pub struct ContainerdRuntime {
    peer: Peer,
    left_out: BTreeSet<String>,
    /// In which namespace the container of a random id is.
    known: RwLock<BTreeMap<WorkloadId, String>>,
    /// The host's start, fixed so that a process's start time stays the same when the clock is set.
    boot: Timestamp,
}

impl ContainerdRuntime {
    /// Speaks to the containerd behind this Unix socket. Nothing is sent yet.
    #[must_use]
    pub fn connect(socket: impl Into<PathBuf>) -> Self {
        Self {
            peer: Peer::new(NAME, socket.into()),
            left_out: BTreeSet::new(),
            known: RwLock::default(),
            boot: boot(),
        }
    }

    /// Leaves out a namespace that another runtime tells of: `moby` where dockerd is watched.
    #[must_use]
    pub fn without(mut self, namespace: impl Into<String>) -> Self {
        self.left_out.insert(namespace.into());
        self
    }

    async fn namespaces(&self, channel: &Channel) -> Result<Vec<String>, RuntimeError> {
        let mut client = NamespacesClient::new(channel.clone());
        let request = ListNamespacesRequest::default();
        let answer = self
            .peer
            .answer("listing namespaces", client.list(request))
            .await?;
        let names = answer.namespaces.into_iter().map(|namespace| namespace.name);
        Ok(names.filter(|name| !self.left_out.contains(name)).collect())
    }

    async fn containers(
        &self,
        channel: &Channel,
        namespace: &str,
        filters: Vec<String>,
    ) -> Result<Vec<Container>, RuntimeError> {
        let mut client = ContainersClient::new(channel.clone()).max_decoding_message_size(LARGEST);
        let Some(request) = within(namespace, ListContainersRequest { filters }) else {
            return Ok(Vec::new());
        };
        let answer = self
            .peer
            .answer("listing containers", client.list(request))
            .await?;
        Ok(answer.containers)
    }

    async fn tasks(&self, channel: &Channel, namespace: &str) -> Result<Vec<Process>, RuntimeError> {
        let mut client = TasksClient::new(channel.clone()).max_decoding_message_size(LARGEST);
        let Some(request) = within(namespace, ListTasksRequest::default()) else {
            return Ok(Vec::new());
        };
        let answer = self.peer.answer("listing tasks", client.list(request)).await?;
        Ok(answer.tasks)
    }

    /// One container; `None` when there is none.
    async fn container(
        &self,
        channel: &Channel,
        namespace: &str,
        id: &str,
    ) -> Result<Option<Container>, RuntimeError> {
        let mut client = ContainersClient::new(channel.clone()).max_decoding_message_size(LARGEST);
        let Some(request) = within(namespace, GetContainerRequest { id: id.to_owned() }) else {
            return Ok(None);
        };
        let answer = self.peer.answer("reading a container", client.get(request)).await;
        Ok(absent(answer)?.and_then(|answer| answer.container))
    }

    async fn task(
        &self,
        channel: &Channel,
        namespace: &str,
        id: &str,
    ) -> Result<Option<Process>, RuntimeError> {
        let mut client = TasksClient::new(channel.clone());
        let request = GetRequest {
            container_id: id.to_owned(),
        };
        let Some(request) = within(namespace, request) else {
            return Ok(None);
        };
        let answer = self.peer.answer("reading a task", client.get(request)).await;
        Ok(absent(answer)?.and_then(|answer| answer.process))
    }

    /// The container of a workload, with its namespace.
    async fn find(&self, channel: &Channel, id: &WorkloadId) -> Result<(String, Container), RuntimeError> {
        let (named, own) = parts_of(id);
        let known = {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            named.map(str::to_owned).or_else(|| known.get(id).cloned())
        };
        let tried = match known {
            Some(namespace) => vec![namespace],
            None => self.namespaces(channel).await?,
        };
        for namespace in tried {
            if self.left_out.contains(&namespace) {
                continue;
            }
            if let Some(container) = self.container(channel, &namespace, own).await? {
                return Ok((namespace, container));
            }
        }
        Err(not_found(id))
    }

    /// The pod's containers.
    async fn members(
        &self,
        channel: &Channel,
        namespace: &str,
        sandbox: &Container,
    ) -> Result<Vec<nv_types::Member>, RuntimeError> {
        const KIND: &str = "labels.\"io.cri-containerd.kind\"==container";
        // The daemon leaves out the other pods' where kubelet has said whose a container is.
        let uid = sandbox
            .labels
            .get("io.kubernetes.pod.uid")
            .filter(|uid| !uid.contains('"'));
        let filter = uid.map_or_else(
            || KIND.to_owned(),
            |uid| format!("{KIND},labels.\"io.kubernetes.pod.uid\"==\"{uid}\""),
        );
        let mut found = self.containers(channel, namespace, vec![filter]).await?;
        found.retain(|container| sandbox_of(container).as_deref() == Some(sandbox.id.as_str()));
        Ok(members(found))
    }

    fn failed(id: &WorkloadId, detail: String) -> RuntimeError {
        RuntimeError::Failed {
            runtime: NAME,
            action: format!("inspecting {id}"),
            detail,
        }
    }
}

#[async_trait]
impl ContainerRuntime for ContainerdRuntime {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn info(&self) -> Result<RuntimeInfo, RuntimeError> {
        let mut client = VersionClient::new(self.peer.channel().await?);
        let answer = self
            .peer
            .answer("asking for its version", client.version(()))
            .await?;
        Ok(RuntimeInfo {
            name: NAME.to_owned(),
            version: plain_version(&answer.version).to_owned(),
            location: self.peer.location(),
            capabilities: BTreeSet::from([
                EventKind::Start,
                EventKind::Stop,
                EventKind::Delete,
                EventKind::Change,
                EventKind::SocketError,
            ]),
        })
    }

    async fn list(&self) -> Result<Vec<WorkloadId>, RuntimeError> {
        let channel = self.peer.channel().await?;
        let mut running = Vec::new();
        let mut known = BTreeMap::new();
        for namespace in self.namespaces(&channel).await? {
            let tasks = self.tasks(&channel, &namespace).await?;
            let live: BTreeSet<String> = tasks
                .into_iter()
                .filter(|task| is_live(task.status()))
                .map(|task| task.id)
                .collect();
            for container in self.containers(&channel, &namespace, Vec::new()).await? {
                let Some(Role::Workload(id)) = role(&namespace, &container) else {
                    continue;
                };
                known.insert(id.clone(), namespace.clone());
                if live.contains(&container.id) {
                    running.push(id);
                }
            }
        }
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
        running.sort();
        Ok(running)
    }

    async fn inspect(&self, id: &WorkloadId, node: &NodeId) -> Result<Workload, RuntimeError> {
        let channel = self.peer.channel().await?;
        let (namespace, container) = self.find(&channel, id).await?;
        if !matches!(role(&namespace, &container), Some(Role::Workload(_))) {
            return Err(not_found(id));
        }
        let task = self.task(&channel, &namespace, &container.id).await?;
        let Described {
            mut workload,
            hints,
            shares_network,
        } = describe(&namespace, &container, task.as_ref(), node)
            .map_err(|detail| Self::failed(id, detail))?;
        if is_sandbox(&container) {
            workload.containers = self.members(&channel, &namespace, &container).await?;
            if let Some(first) = workload.containers.first() {
                workload.image.clone_from(&first.image);
            }
        }
        if workload.state != WorkloadState::Running {
            return Ok(workload);
        }
        let place = look(hints).await;
        if !place.is_sure {
            let again = self.task(&channel, &namespace, &container.id).await?;
            if again.is_none_or(|task| task.pid != workload.pid || !is_live(task.status())) {
                return Err(not_found(id));
            }
        }
        workload.started = place
            .started
            .map_or(workload.created, |after| wall(self.boot, after));
        place.put(&mut workload, shares_network);
        Ok(workload)
    }

    async fn events(&self) -> Result<mpsc::Receiver<RuntimeEvent>, RuntimeError> {
        let channel = self.peer.fresh_channel().await?;
        events::subscribe(self, channel).await
    }
}

const fn is_live(status: Status) -> bool {
    matches!(status, Status::Running | Status::Paused | Status::Pausing)
}

fn not_found(id: &WorkloadId) -> RuntimeError {
    RuntimeError::NotFound {
        runtime: NAME,
        id: id.to_string(),
    }
}

/// A call about a namespace; `None` for a name that no header can carry, which containerd would not have let pass.
fn within<T>(namespace: &str, message: T) -> Option<Request<T>> {
    let value: MetadataValue<Ascii> = namespace.parse().ok()?;
    let mut request = Request::new(message);
    request.metadata_mut().insert(NAMESPACE, value);
    Some(request)
}

/// `None` where the daemon says that there is no such thing.
fn absent<T>(answer: Result<T, RuntimeError>) -> Result<Option<T>, RuntimeError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(RuntimeError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Debian writes `1.6.20~ds1`, upstream `v2.1.0`.
pub(crate) fn plain_version(version: &str) -> &str {
    let version = version.strip_prefix('v').unwrap_or(version);
    version.split(['~', '+']).next().unwrap_or(version)
}
