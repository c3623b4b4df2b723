//! The Container Runtime Interface, v1: CRI-O, and any other runtime of Kubernetes.

mod describe;
mod events;
mod poll;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use nv_types::{NodeId, Workload, WorkloadId, WorkloadState};
use tokio::sync::mpsc;
use tonic::transport::Channel;

use crate::containerd::plain_version;
use crate::grpc::{LARGEST, Peer};
use crate::place::look;
use crate::proto::cri::runtime_service_client::RuntimeServiceClient;
use crate::proto::cri::{
    ContainerFilter, ContainerStatusRequest, ListContainersRequest, ListPodSandboxRequest, PodSandboxFilter,
    PodSandboxState, PodSandboxStateValue, PodSandboxStatusRequest, PodSandboxStatusResponse, VersionRequest,
};
use crate::runtime::{ContainerRuntime, EventKind, RuntimeError, RuntimeEvent, RuntimeInfo};

use describe::{Described, describe, is_id, members};
use poll::Look;

/// What a runtime is called until it has said who it is.
const NAME: &str = "cri";
/// How often a runtime without events is looked at.
const EVERY: Duration = Duration::from_secs(1);

/// A runtime behind the CRI. Cheap to make: it is connected to with the first call, and anew after a failure.
///
/// Each pod sandbox that is ready is a workload, and its containers are listed in it. Changes come from
/// `GetContainerEvents`; where the runtime has none (CRI-O by default, containerd 1.6) it is looked at every second,
/// and nothing that it still lists is missed.
#[derive(Debug)]
pub struct CriRuntime {
    client: Arc<Client>,
    every: Duration,
}

#[derive(Debug)]
struct Client {
    peer: Peer,
    name: OnceLock<&'static str>,
}

impl CriRuntime {
    /// Speaks to the runtime behind this Unix socket. Nothing is sent yet.
    #[must_use]
    pub fn connect(socket: impl Into<PathBuf>) -> Self {
        Self {
            client: Arc::new(Client {
                peer: Peer::new(NAME, socket.into()),
                name: OnceLock::new(),
            }),
            every: EVERY,
        }
    }

    /// Looks as often as this where there are no events.
    #[must_use]
    pub const fn looking_every(mut self, every: Duration) -> Self {
        self.every = every;
        self
    }
}

impl Client {
    async fn service(&self) -> Result<RuntimeServiceClient<Channel>, RuntimeError> {
        let channel = self.peer.channel().await?;
        Ok(RuntimeServiceClient::new(channel).max_decoding_message_size(LARGEST))
    }

    /// All pods and containers, also those that have ended.
    async fn look(&self) -> Result<Look, RuntimeError> {
        let mut service = self.service().await?;
        let request = ListPodSandboxRequest::default();
        let pods = self
            .peer
            .answer("listing pods", service.list_pod_sandbox(request))
            .await?;
        let request = ListContainersRequest::default();
        let containers = self
            .peer
            .answer("listing containers", service.list_containers(request))
            .await?;
        Ok(Look::new(pods.items, containers.containers))
    }

    async fn status(&self, id: &WorkloadId) -> Result<PodSandboxStatusResponse, RuntimeError> {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: id.to_string(),
            verbose: true,
        };
        let mut service = self.service().await?;
        let action = format!("reading pod {id}");
        let answer = self
            .peer
            .answer(&action, service.pod_sandbox_status(request))
            .await;
        answer.map_err(|error| match error {
            RuntimeError::NotFound { .. } => not_found(id),
            error => error,
        })
    }

    async fn members(&self, id: &WorkloadId) -> Result<Vec<nv_types::Member>, RuntimeError> {
        let filter = ContainerFilter {
            pod_sandbox_id: id.to_string(),
            ..ContainerFilter::default()
        };
        let request = ListContainersRequest { filter: Some(filter) };
        let mut service = self.service().await?;
        let answer = self
            .peer
            .answer("listing containers", service.list_containers(request))
            .await?;
        let mut members = members(answer.containers);
        for member in &mut members {
            if !is_id(&member.image) {
                continue;
            }
            let request = ContainerStatusRequest {
                container_id: member.id.clone(),
                verbose: false,
            };
            let answer = self
                .peer
                .answer("reading a container", service.container_status(request))
                .await;
            let status = answer.ok().and_then(|answer| answer.status?.image);
            if let Some(image) = status.filter(|image| !image.image.is_empty()) {
                member.image = image.image;
            }
        }
        Ok(members)
    }

    fn name(&self) -> &'static str {
        self.name.get().copied().unwrap_or(NAME)
    }
}

#[async_trait]
impl ContainerRuntime for CriRuntime {
    fn name(&self) -> &'static str {
        self.client.name()
    }

    async fn info(&self) -> Result<RuntimeInfo, RuntimeError> {
        let mut service = self.client.service().await?;
        let request = VersionRequest {
            version: "v1".to_owned(),
        };
        let answer = self
            .client
            .peer
            .answer("asking for its version", service.version(request))
            .await?;
        let name = match answer.runtime_name.as_str() {
            "cri-o" => "cri-o",
            "containerd" => crate::containerd::NAME,
            _ => NAME,
        };
        Ok(RuntimeInfo {
            name: (*self.client.name.get_or_init(|| name)).to_owned(),
            version: plain_version(&answer.runtime_version).to_owned(),
            location: self.client.peer.location(),
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
        let ready = PodSandboxStateValue {
            state: PodSandboxState::SandboxReady.into(),
        };
        let filter = PodSandboxFilter {
            state: Some(ready),
            ..PodSandboxFilter::default()
        };
        let request = ListPodSandboxRequest { filter: Some(filter) };
        let mut service = self.client.service().await?;
        let answer = self
            .client
            .peer
            .answer("listing pods", service.list_pod_sandbox(request))
            .await?;
        let mut ids: Vec<WorkloadId> = answer
            .items
            .into_iter()
            .filter(|pod| pod.state() == PodSandboxState::SandboxReady)
            .filter_map(|pod| WorkloadId::try_new(pod.id).ok())
            .collect();
        ids.sort();
        Ok(ids)
    }

    async fn inspect(&self, id: &WorkloadId, node: &NodeId) -> Result<Workload, RuntimeError> {
        let answer = self.client.status(id).await?;
        let Described { mut workload, hints } =
            describe(self.client.name(), answer, node).map_err(|detail| RuntimeError::Failed {
                runtime: NAME,
                action: format!("inspecting {id}"),
                detail,
            })?;
        workload.containers = self.client.members(id).await?;
        if let Some(first) = workload.containers.first() {
            workload.image.clone_from(&first.image);
        }
        if workload.state != WorkloadState::Running {
            return Ok(workload);
        }
        let pid = hints.pid;
        let place = look(hints).await;
        if pid != 0 && !place.is_sure {
            let again = describe(self.client.name(), self.client.status(id).await?, node);
            if again.is_ok_and(|again| again.workload.pid != pid) {
                return Err(not_found(id));
            }
        }
        place.put(&mut workload, false);
        Ok(workload)
    }

    async fn events(&self) -> Result<mpsc::Receiver<RuntimeEvent>, RuntimeError> {
        events::subscribe(Arc::clone(&self.client), self.every).await
    }
}

fn not_found(id: &WorkloadId) -> RuntimeError {
    RuntimeError::NotFound {
        runtime: NAME,
        id: id.to_string(),
    }
}
