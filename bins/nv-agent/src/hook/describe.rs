//! Who a container is, before its runtime tells of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use nv_runtime::{DockerRuntime, Location, service_of};
use nv_types::{NodeId, Workload, WorkloadId};
use serde::Deserialize;

use super::wire::OCI;

/// How long dockerd may take to say what it knows.
const PATIENCE: Duration = Duration::from_secs(2);
/// Service and domain of a container that no runtime daemon describes.
const SERVICE: &str = "nv.service";
const DOMAIN: &str = "nv.domain";

/// The state that an OCI runtime gives to a hook (runtime-spec, `runtime.md`).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct State {
    pub(super) id: String,
    pub(super) status: String,
    #[serde(default)]
    pub(super) pid: u32,
    #[serde(default)]
    pub(super) bundle: PathBuf,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
}

/// What a hook has to do with a container.
#[derive(Debug)]
pub(super) enum Who {
    /// It is one of these.
    Workload(Box<Workload>),
    /// It runs inside a pod whose sandbox is guarded already.
    Member,
}

/// The names that Kubernetes' runtimes have for the same things, containerd's first.
const KIND: [&str; 2] = [
    "io.kubernetes.cri.container-type",
    "io.kubernetes.cri-o.ContainerType",
];
const POD: [&str; 2] = ["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"];
const NAMESPACE: [&str; 2] = [
    "io.kubernetes.cri.sandbox-namespace",
    "io.kubernetes.pod.namespace",
];

/// Finds out who it is.
pub(super) async fn describe(state: &State, node: &NodeId, docker: &Location) -> Result<Who, String> {
    let id = WorkloadId::try_new(state.id.clone()).map_err(|error| error.to_string())?;
    let annotation = |keys: &[&str]| {
        let mut found = keys.iter().filter_map(|key| state.annotations.get(*key));
        found.next().cloned()
    };
    match annotation(&KIND).as_deref() {
        Some("container") => return Ok(Who::Member),
        Some(_sandbox) => {
            let pod = annotation(&POD).ok_or("the sandbox has no pod's name in its annotations")?;
            let namespace = annotation(&NAMESPACE).unwrap_or_default();
            let labels = BTreeMap::from([
                ("io.kubernetes.pod.name".to_owned(), pod.clone()),
                ("io.kubernetes.pod.namespace".to_owned(), namespace),
            ]);
            let is_crio = state.annotations.contains_key(KIND[1]);
            let (service, domain) = service_of(&labels, "", &pod);
            let workload = Workload {
                name: pod,
                domain,
                labels,
                runtime: if is_crio { "cri-o" } else { "containerd" }.to_owned(),
                pid: state.pid,
                ..Workload::new(id, node.clone(), service)
            };
            return Ok(Who::Workload(Box::new(workload)));
        }
        None => {}
    }
    if let Some(socket) = docker_of(state, docker) {
        let docker = DockerRuntime::connect(socket);
        let found = tokio::time::timeout(PATIENCE, docker.starting(&id, node)).await;
        match found {
            Ok(Ok(Some(workload))) => {
                let workload = Workload {
                    pid: state.pid,
                    ..workload
                };
                return Ok(Who::Workload(Box::new(workload)));
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_elapsed) => return Err("dockerd does not say who the container is".into()),
        }
    }
    Ok(Who::Workload(Box::new(plain(id, state, node))))
}

/// The dockerd to ask: containers of Docker lie in containerd's namespace `moby`.
fn docker_of(state: &State, docker: &Location) -> Option<PathBuf> {
    match docker {
        Location::At(socket) => Some(socket.clone()),
        _ if state.bundle.iter().any(|part| part == "moby") => Some("/run/docker.sock".into()),
        _ => None,
    }
}

/// One of which only its annotations tell.
fn plain(id: WorkloadId, state: &State, node: &NodeId) -> Workload {
    let text = |key: &str| state.annotations.get(key).cloned().unwrap_or_default();
    Workload {
        domain: text(DOMAIN),
        image: text("org.opencontainers.image.ref.name"),
        labels: state.annotations.clone(),
        runtime: OCI.to_owned(),
        pid: state.pid,
        ..Workload::new(id, node.clone(), text(SERVICE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn who(state: serde_json::Value) -> Who {
        let state: State = serde_json::from_value(state).unwrap();
        describe(&state, &"n1".parse().unwrap(), &Location::Off)
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn annotations_say_who_a_container_is() {
        let containerd = who(serde_json::json!({
            "ociVersion": "1.0.2", "id": "s1", "status": "creating", "pid": 7, "bundle": "/run/x",
            "annotations": {"io.kubernetes.cri.container-type": "sandbox",
                "io.kubernetes.cri.sandbox-name": "cart-6d4cf56db6-x7k2p", "io.kubernetes.cri.sandbox-namespace": "prod"}}))
        .await;
        let Who::Workload(workload) = containerd else {
            panic!("{containerd:?}")
        };
        assert_eq!(
            (workload.service.as_str(), workload.domain.as_str()),
            ("cart", "prod")
        );
        assert_eq!((workload.runtime.as_str(), workload.pid), ("containerd", 7));

        let crio = who(serde_json::json!({
            "ociVersion": "1.0.2", "id": "s2", "status": "creating", "pid": 8,
            "annotations": {"io.kubernetes.cri-o.ContainerType": "sandbox",
                "io.kubernetes.pod.name": "db-0", "io.kubernetes.pod.namespace": "prod"}}))
        .await;
        let Who::Workload(workload) = crio else {
            panic!("{crio:?}")
        };
        assert_eq!(
            (workload.service.as_str(), workload.runtime.as_str()),
            ("db", "cri-o")
        );

        let member = who(serde_json::json!({"id": "m", "status": "creating",
            "annotations": {"io.kubernetes.cri.container-type": "container"}}))
        .await;
        assert!(matches!(member, Who::Member));

        let plain = who(serde_json::json!({"id": "p", "status": "creating", "pid": 9,
            "annotations": {"nv.service": "job", "nv.domain": "batch"}}))
        .await;
        let Who::Workload(workload) = plain else {
            panic!("{plain:?}")
        };
        assert_eq!(
            (
                workload.service.as_str(),
                workload.domain.as_str(),
                workload.runtime.as_str()
            ),
            ("job", "batch", OCI)
        );
    }
}
