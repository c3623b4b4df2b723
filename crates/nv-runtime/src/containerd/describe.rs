//! containerd's records of a container in our words.

use std::collections::BTreeMap;

use nv_types::{Member, NodeId, Timestamp, Workload, WorkloadId, WorkloadState};

use crate::names::Names;
use crate::oci::{Network, Pod, Spec, published_in};
use crate::place::Hints;
use crate::proto::containers::Container;
use crate::proto::tasks::{Process, Status};

use super::NAME;

/// What the CRI plugin says a container is.
const KIND: &str = "io.cri-containerd.kind";
/// Where it keeps the pod's configuration.
const POD: &str = "io.cri-containerd.sandbox.metadata";
const MEMBER: &str = "io.cri-containerd.container.metadata";
/// nerdctl's names and ports.
const NERDCTL_NAME: &str = "nerdctl/name";
const NERDCTL_PORTS: &str = "nerdctl/ports";
/// containerd's ids are unique within a namespace only. Those that clients make at random need no namespace.
const RANDOM_ID: usize = 64;

/// What a container is to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A workload: a container of its own, or the sandbox of a pod.
    Workload(WorkloadId),
    /// A container of a pod whose sandbox is the workload.
    Member(WorkloadId),
}

/// Our id of a container: its own, behind the namespace unless it is one of 64 random digits.
pub(super) fn id_of(namespace: &str, id: &str) -> Option<WorkloadId> {
    let is_random = id.len() == RANDOM_ID && id.bytes().all(|b| b.is_ascii_hexdigit());
    let text = if is_random {
        id.to_owned()
    } else {
        format!("{NAME}:{namespace}:{id}")
    };
    WorkloadId::try_new(text).ok()
}

/// Namespace, if the id tells it, and containerd's own id.
pub(super) fn parts_of(id: &WorkloadId) -> (Option<&str>, &str) {
    let named = id
        .as_str()
        .strip_prefix(NAME)
        .and_then(|rest| rest.strip_prefix(':')?.split_once(':'));
    match named {
        Some((namespace, id)) => (Some(namespace), id),
        None => (None, id.as_str()),
    }
}

pub(super) fn role(namespace: &str, container: &Container) -> Option<Role> {
    if container.labels.get(KIND).is_some_and(|kind| kind == "container") {
        let sandbox = sandbox_of(container)?;
        return Some(Role::Member(id_of(namespace, &sandbox)?));
    }
    Some(Role::Workload(id_of(namespace, &container.id)?))
}

pub(super) fn is_sandbox(container: &Container) -> bool {
    container.labels.get(KIND).is_some_and(|kind| kind == "sandbox")
}

/// The sandbox that a member of a pod is in.
pub(super) fn sandbox_of(container: &Container) -> Option<String> {
    let metadata: Option<serde_json::Value> = container
        .extensions
        .get(MEMBER)
        .and_then(|any| serde_json::from_slice(&any.value).ok());
    let known =
        metadata.and_then(|value| Some(value.get("Metadata")?.get("SandboxID")?.as_str()?.to_owned()));
    known.or_else(|| {
        let spec = Spec::parse(&container.spec.as_ref()?.value).ok()?;
        spec.annotations.get("io.kubernetes.cri.sandbox-id").cloned()
    })
}

/// A workload without what only its namespace knows, and where that is.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) workload: Workload,
    pub(super) hints: Hints,
    /// It uses another container's namespace.
    pub(super) shares_network: bool,
}

pub(super) fn describe(
    namespace: &str,
    container: &Container,
    task: Option<&Process>,
    node: &NodeId,
) -> Result<Described, String> {
    let id = id_of(namespace, &container.id).ok_or("its id cannot be used")?;
    let spec = match &container.spec {
        Some(any) => Spec::parse(&any.value).map_err(|error| format!("its configuration: {error}"))?,
        None => Spec::default(),
    };
    let pod = container.extensions.get(POD).and_then(|any| pod_in(&any.value));
    let mut labels: BTreeMap<String, String> = container.labels.clone().into_iter().collect();
    let label = |key: &str| labels.get(key).filter(|value| !value.is_empty()).cloned();
    let names = pod
        .as_ref()
        .map(|pod| (pod.metadata.name.clone(), pod.metadata.namespace.clone()));
    let name = names.as_ref().map(|(name, _)| name.clone());
    let name = name
        .or_else(|| label(NERDCTL_NAME))
        .unwrap_or_else(|| container.id.clone());
    let published = match &pod {
        Some(pod) => pod.published(),
        None => published_in(&label(NERDCTL_PORTS).unwrap_or_default()),
    };
    if let Some(pod) = &pod {
        labels.extend(pod.labels.clone());
    }
    let (service, domain) = Names {
        labels: &labels,
        image: &container.image,
        name: &name,
        pod: names
            .as_ref()
            .map(|(name, namespace)| (name.as_str(), namespace.as_str())),
    }
    .service();
    let state = match task.map(Process::status) {
        Some(Status::Running | Status::Paused | Status::Pausing) => WorkloadState::Running,
        Some(Status::Created) => WorkloadState::Created,
        Some(Status::Stopped | Status::Unknown) | None => WorkloadState::Exited,
    };
    let pid = task.map_or(0, |task| task.pid);
    let network = spec.network();
    let own_path = format!("/proc/{pid}/");
    let (path, shares_network) = match &network {
        Network::At(path) => (
            Some(path.into()),
            path.starts_with("/proc/") && !path.starts_with(&own_path),
        ),
        Network::Own | Network::Host => (None, false),
    };
    let is_running = state == WorkloadState::Running;
    let workload = Workload {
        name,
        runtime: NAME.to_owned(),
        domain,
        image: container.image.clone(),
        published,
        pid: if is_running { pid } else { 0 },
        host_network: network == Network::Host,
        privileged: spec.is_privileged() || pod.is_some_and(|pod| pod.is_privileged()),
        state,
        created: timestamp(container.created_at.as_ref()),
        labels,
        ..Workload::new(id, node.clone(), service)
    };
    Ok(Described {
        hints: Hints {
            pid: workload.pid,
            path: path.filter(|_| is_running && !shares_network),
            mark: if spec.cgroup().len() > 1 {
                spec.cgroup().to_owned()
            } else {
                String::new()
            },
        },
        workload,
        shares_network,
    })
}

/// The containers of a pod in the order that they were made; of one that was made again only the last.
pub(super) fn members(mut containers: Vec<Container>) -> Vec<Member> {
    containers.sort_by_key(|container| timestamp(container.created_at.as_ref()));
    let mut members: Vec<Member> = Vec::new();
    for container in containers {
        let name = container.labels.get("io.kubernetes.container.name").cloned();
        let name = name.or_else(|| member_name(&container)).unwrap_or_default();
        let member = Member {
            id: container.id,
            image: container.image,
            name,
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

fn member_name(container: &Container) -> Option<String> {
    let metadata: serde_json::Value =
        serde_json::from_slice(&container.extensions.get(MEMBER)?.value).ok()?;
    let config = metadata.get("Metadata")?.get("Config")?;
    Some(config.get("metadata")?.get("name")?.as_str()?.to_owned())
}

/// The CRI plugin wraps the configuration: `{"Version":"v1","Metadata":{"Config":{…}}}`.
fn pod_in(json: &[u8]) -> Option<Pod> {
    let mut value: serde_json::Value = serde_json::from_slice(json).ok()?;
    let config = value.get_mut("Metadata")?.get_mut("Config")?.take();
    serde_json::from_value(config).ok()
}

pub(super) fn timestamp(time: Option<&prost_types::Timestamp>) -> Timestamp {
    let nanos = time.and_then(|time| {
        let seconds = u64::try_from(time.seconds).ok()?.checked_mul(1_000_000_000)?;
        seconds.checked_add(u64::try_from(time.nanos).ok()?)
    });
    Timestamp(nanos.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use prost_types::Any;

    use super::*;

    fn any(json: &str) -> Any {
        Any {
            type_url: String::new(),
            value: json.as_bytes().to_vec(),
        }
    }

    fn node() -> NodeId {
        "n1".parse().unwrap()
    }

    #[test]
    fn ids_are_unique_over_namespaces() {
        let random = "ab".repeat(32);
        assert_eq!(id_of("k8s.io", &random).unwrap().as_str(), random);
        let named = id_of("default", "web").unwrap();
        assert_eq!(named.as_str(), "containerd:default:web");
        assert_ne!(Some(named.clone()), id_of("test", "web"));
        assert_eq!(parts_of(&named), (Some("default"), "web"));
        assert_eq!(parts_of(&id_of("k8s.io", &random).unwrap()), (None, &*random));
    }

    #[test]
    fn a_sandbox_is_its_pod() {
        let container = Container {
            id: "ab".repeat(32),
            image: "localhost/pause:1".into(),
            labels: [(KIND.to_owned(), "sandbox".to_owned())].into(),
            spec: Some(any(
                r#"{"linux":{"cgroupsPath":"/kubepods/pod1/x","maskedPaths":["/proc/kcore"],
                "namespaces":[{"type":"network","path":"/var/run/netns/cni-1"}]}}"#,
            )),
            created_at: Some(prost_types::Timestamp {
                seconds: 1,
                nanos: 2,
            }),
            extensions: [(
                POD.to_owned(),
                any(
                    r#"{"Version":"v1","Metadata":{"ID":"x","Config":{"metadata":{"name":"web-6d4cf56db6-x7k2p","namespace":"prod"},
                    "labels":{"tier":"front"},"port_mappings":[{"container_port":80,"host_port":8080}]}}}"#,
                ),
            )]
            .into(),
        };
        let task = Process {
            container_id: String::new(),
            id: container.id.clone(),
            pid: 7,
            status: Status::Running.into(),
        };
        let described = describe("k8s.io", &container, Some(&task), &node()).unwrap();
        let workload = &described.workload;
        assert_eq!(
            (
                workload.name.as_str(),
                workload.service.as_str(),
                workload.domain.as_str()
            ),
            ("web-6d4cf56db6-x7k2p", "web", "prod")
        );
        assert_eq!(workload.labels.get("tier").map(String::as_str), Some("front"));
        assert_eq!((workload.pid, workload.published.len()), (7, 1));
        assert_eq!(workload.created, Timestamp(1_000_000_002));
        assert!(!workload.host_network && !workload.privileged && !described.shares_network);
        assert_eq!(described.hints.mark, "/kubepods/pod1/x");
        assert_eq!(described.hints.path, Some("/var/run/netns/cni-1".into()));
        // Without a task it has ended, and there is nowhere to look.
        let ended = describe("k8s.io", &container, None, &node()).unwrap();
        assert_eq!(
            (ended.workload.state, ended.workload.pid),
            (WorkloadState::Exited, 0)
        );
        assert_eq!(ended.hints.path, None);
    }

    #[test]
    fn a_container_made_again_counts_once_and_its_pod_is_known() {
        let member = |id: &str, name: &str, at| Container {
            id: id.into(),
            image: format!("test/{name}:1"),
            labels: [
                (KIND.to_owned(), "container".to_owned()),
                ("io.kubernetes.container.name".to_owned(), name.to_owned()),
            ]
            .into(),
            created_at: Some(prost_types::Timestamp {
                seconds: at,
                nanos: 0,
            }),
            extensions: [(
                MEMBER.to_owned(),
                any(r#"{"Version":"v1","Metadata":{"SandboxID":"s1"}}"#),
            )]
            .into(),
            ..Container::default()
        };
        let made = vec![
            member("c", "app", 3),
            member("a", "app", 1),
            member("b", "side", 2),
        ];
        assert_eq!(
            role("k8s.io", &made[0]),
            Some(Role::Member(id_of("k8s.io", "s1").unwrap()))
        );
        let ids: Vec<_> = members(made).into_iter().map(|member| member.id).collect();
        assert_eq!(ids, ["c", "b"]);
    }

    #[test]
    fn the_hosts_and_anothers_network() {
        let with = |json: &str| {
            let container = Container {
                id: "web".into(),
                image: "registry.test/team/web:1".into(),
                spec: Some(any(json)),
                ..Container::default()
            };
            describe("default", &container, None, &node()).unwrap()
        };
        let host = with(r#"{"linux":{"namespaces":[{"type":"pid"}]}}"#);
        assert!(host.workload.host_network);
        assert_eq!(
            (host.workload.service.as_str(), host.workload.name.as_str()),
            ("web", "web")
        );
        let sharing = with(r#"{"linux":{"namespaces":[{"type":"network","path":"/proc/7/ns/net"}]}}"#);
        assert!(sharing.shares_network && !sharing.workload.host_network);
        let broken = Container {
            id: "web".into(),
            spec: Some(any("{")),
            ..Container::default()
        };
        assert!(describe("default", &broken, None, &node()).is_err());
    }
}
