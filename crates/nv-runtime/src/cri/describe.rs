//! The CRI's records of a pod in our words.

use std::collections::BTreeMap;

use nv_types::{Member, NodeId, Timestamp, Workload, WorkloadId, WorkloadState};
use serde::Deserialize;

use crate::names::Names;
use crate::oci::{Network, Pod, Spec, published_in};
use crate::place::Hints;
use crate::proto::cri::{
    Container, NamespaceMode, PodSandboxState, PodSandboxStatus, PodSandboxStatusResponse,
};

/// Where CRI-O keeps what containerd tells in the pod's configuration.
const CRIO_PORTS: &str = "io.kubernetes.cri-o.PortMappings";
const CRIO_PRIVILEGED: &str = "io.kubernetes.cri-o.PrivilegedRuntime";

/// The JSON beside a verbose status: all of it in containerd, without the pod's configuration in CRI-O.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Info {
    pid: i64,
    config: Option<Pod>,
    runtime_spec: Option<Spec>,
}

/// A workload without what only its namespace knows, and where that is.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) workload: Workload,
    pub(super) hints: Hints,
}

pub(super) fn describe(
    runtime: &str,
    answer: PodSandboxStatusResponse,
    node: &NodeId,
) -> Result<Described, String> {
    let status = answer.status.ok_or("the answer has no status")?;
    let id = WorkloadId::try_new(status.id.clone()).map_err(|error| error.to_string())?;
    let info = info(&answer.info);
    let spec = info.runtime_spec.unwrap_or_default();
    let pod = info.config.unwrap_or_default();
    let metadata = status.metadata.clone().unwrap_or_default();
    let labels: BTreeMap<String, String> = status.labels.clone().into_iter().collect();
    let (service, domain) = Names {
        labels: &labels,
        image: "",
        name: &metadata.name,
        pod: Some((&metadata.name, &metadata.namespace)),
    }
    .service();
    let annotation = |key: &str| spec.annotations.get(key).map_or("", String::as_str);
    let mut published = pod.published();
    if published.is_empty() {
        published = published_in(annotation(CRIO_PORTS));
    }
    let is_ready = status.state() == PodSandboxState::SandboxReady;
    // A sandbox may have no process of its own (CRI-O): its namespace is kept by a mount.
    let pid = u32::try_from(info.pid).unwrap_or_default();
    let path = match spec.network() {
        Network::At(path) => Some(path.into()),
        Network::Own | Network::Host => None,
    };
    let mark = if spec.cgroup().len() > 1 {
        spec.cgroup().to_owned()
    } else {
        status.id.clone()
    };
    let created = nanos(status.created_at);
    let workload = Workload {
        name: metadata.name,
        runtime: runtime.to_owned(),
        domain,
        published,
        pid: if is_ready { pid } else { 0 },
        host_network: is_host(&status),
        privileged: pod.is_privileged() || annotation(CRIO_PRIVILEGED) == "true" || spec.is_privileged(),
        state: if is_ready {
            WorkloadState::Running
        } else {
            WorkloadState::Exited
        },
        created,
        // A sandbox lives once: made and started are one.
        started: created,
        labels,
        ..Workload::new(id, node.clone(), service)
    };
    Ok(Described {
        hints: Hints {
            pid: workload.pid,
            path: path.filter(|_| is_ready),
            mark,
        },
        workload,
    })
}

fn info(parts: &std::collections::HashMap<String, String>) -> Info {
    let Some(json) = parts.get("info") else {
        return Info::default();
    };
    serde_json::from_str(json).unwrap_or_else(|error| {
        tracing::warn!(%error, "what a runtime tells of a pod is not understood");
        Info::default()
    })
}

fn is_host(status: &PodSandboxStatus) -> bool {
    let options = status
        .linux
        .as_ref()
        .and_then(|linux| linux.namespaces.as_ref()?.options.as_ref());
    options.is_some_and(|options| options.network() == NamespaceMode::Node)
}

/// The containers of a pod in the order that they were made; of one that was made again only the last.
pub(super) fn members(mut containers: Vec<Container>) -> Vec<Member> {
    containers.sort_by_key(|container| container.created_at);
    let mut members: Vec<Member> = Vec::new();
    for container in containers {
        let image = container.image.unwrap_or_default();
        let named = !image.user_specified_image.is_empty();
        let member = Member {
            id: container.id,
            name: container.metadata.unwrap_or_default().name,
            image: if named {
                image.user_specified_image
            } else {
                image.image
            },
        };
        match members
            .iter_mut()
            .find(|known| !member.name.is_empty() && known.name == member.name)
        {
            Some(known) => *known = member,
            None => members.push(member),
        }
    }
    members
}

/// Whether an image's "name" is only its id.
pub(super) fn is_id(image: &str) -> bool {
    let digits = image.strip_prefix("sha256:").unwrap_or(image);
    digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

pub(super) fn nanos(time: i64) -> Timestamp {
    Timestamp(u64::try_from(time).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use crate::proto::cri::{ContainerMetadata, ImageSpec, PodSandboxMetadata};

    use super::*;

    fn answer(info: &str) -> PodSandboxStatusResponse {
        PodSandboxStatusResponse {
            status: Some(PodSandboxStatus {
                id: "ab12".into(),
                metadata: Some(PodSandboxMetadata {
                    name: "web-6d4cf56db6-x7k2p".into(),
                    namespace: "prod".into(),
                    ..PodSandboxMetadata::default()
                }),
                created_at: 5,
                ..PodSandboxStatus::default()
            }),
            info: [("info".to_owned(), info.to_owned())].into(),
        }
    }

    fn pod_with(info: &str) -> Described {
        describe("cri-o", answer(info), &"n1".parse().unwrap()).unwrap()
    }

    #[test]
    fn what_containerd_tells_of_a_pod() {
        let described = pod_with(
            r#"{"pid":7,"config":{"metadata":{"name":"x"},"port_mappings":[{"container_port":80,"host_port":8080}],
            "linux":{"security_context":{"privileged":true}}},"runtimeSpec":{"linux":{"cgroupsPath":"/k8s.io/ab12",
            "namespaces":[{"type":"network","path":"/var/run/netns/cni-1"}]}}}"#,
        );
        let workload = described.workload;
        assert_eq!(
            (workload.service.as_str(), workload.domain.as_str()),
            ("web", "prod")
        );
        assert_eq!((workload.pid, workload.published.len()), (7, 1));
        assert!(workload.privileged && !workload.host_network);
        assert_eq!(described.hints.mark, "/k8s.io/ab12");
    }

    #[test]
    fn what_cri_o_tells_of_a_pod_without_a_process() {
        let described = pod_with(
            r#"{"image":"pause","pid":0,"runtimeSpec":{"annotations":{"io.kubernetes.cri-o.PortMappings":
            "[{\"HostPort\":8080,\"ContainerPort\":80,\"Protocol\":\"TCP\",\"HostIP\":\"\"}]",
            "io.kubernetes.cri-o.PrivilegedRuntime":"true"},
            "linux":{"maskedPaths":["/proc/kcore"],"namespaces":[{"type":"network","path":"/var/run/netns/1"}]}}}"#,
        );
        assert_eq!(described.hints.path, Some("/var/run/netns/1".into()));
        assert_eq!(described.hints.mark, "ab12");
        assert!(described.workload.privileged && described.workload.published.len() == 1);
        // Nonsense beside the status leaves the rest as it is.
        let plain = pod_with("{");
        assert_eq!(plain.workload.service, "web");
    }

    #[test]
    fn a_container_made_again_counts_once() {
        let container = |id: &str, name: &str, at, image: &str| Container {
            id: id.into(),
            metadata: Some(ContainerMetadata {
                name: name.into(),
                attempt: 0,
            }),
            image: Some(ImageSpec {
                image: "sha256:00".into(),
                user_specified_image: image.into(),
            }),
            created_at: at,
            ..Container::default()
        };
        let listed = vec![
            container("c", "app", 3, "test/app:2"),
            container("a", "app", 1, "test/app:1"),
            container("b", "side", 2, ""),
        ];
        let members = members(listed);
        let seen: Vec<_> = members
            .iter()
            .map(|member| (member.id.as_str(), member.image.as_str()))
            .collect();
        assert_eq!(seen, [("c", "test/app:2"), ("b", "sha256:00")]);
        assert!(is_id(&"ab".repeat(32)) && is_id(&format!("sha256:{}", "0".repeat(64))) && !is_id("web:1"));
    }
}
