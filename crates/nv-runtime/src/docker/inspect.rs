//! Docker's description of a container in our words.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr};

use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum as Status, ContainerSummary, PortMap,
};
use nv_types::{IpProto, NodeId, PublishedPort, Timestamp, Workload, WorkloadId, WorkloadState};

use super::NAME;

const COMPOSE_PROJECT: &str = "com.docker.compose.project";
const COMPOSE_SERVICE: &str = "com.docker.compose.service";
const POD_NAME: &str = "io.kubernetes.pod.name";
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const POD_KIND: &str = "io.kubernetes.docker.type";

/// What the description of a container tells.
#[derive(Debug)]
pub(super) struct Described {
    /// The workload without what only its namespace knows: inode and interfaces.
    pub(super) workload: Workload,
    /// It uses another container's namespace.
    pub(super) shares_network: bool,
}

/// Whether a container with these labels runs inside a pod's sandbox. The sandbox is the workload then: it has the
/// network namespace, the others only use it.
pub(super) fn is_pod_member<S: BuildHasher>(labels: &HashMap<String, String, S>) -> bool {
    labels.get(POD_KIND).is_some_and(|kind| kind == "container")
}

/// Reads an answer. The error says what is missing.
pub(super) fn describe(answer: ContainerInspectResponse, node: &NodeId) -> Result<Described, String> {
    let id = answer.id.ok_or("the answer has no id")?;
    let id = WorkloadId::try_new(id).map_err(|error| error.to_string())?;
    let name = answer.name.unwrap_or_default().trim_start_matches('/').to_owned();
    let config = answer.config.unwrap_or_default();
    let host = answer.host_config.unwrap_or_default();
    let state = answer.state.unwrap_or_default();
    let labels: BTreeMap<String, String> = config.labels.unwrap_or_default().into_iter().collect();
    let image = config.image.or(answer.image).unwrap_or_default();
    let (service, domain) = service(&labels, &image, &name);
    let mode = host.network_mode.unwrap_or_default();
    let running = state.running.unwrap_or_default();
    let workload = Workload {
        id,
        name,
        node: node.clone(),
        runtime: NAME.to_owned(),
        service,
        domain,
        image,
        labels,
        namespace_labels: BTreeMap::new(),
        interfaces: Vec::new(),
        published: published(answer.network_settings.and_then(|settings| settings.ports)),
        netns: 0,
        pid: state
            .pid
            .and_then(|pid| u32::try_from(pid).ok())
            .unwrap_or_default(),
        host_network: mode == "host",
        privileged: host.privileged.unwrap_or_default(),
        state: match state.status {
            _ if running => WorkloadState::Running,
            Some(Status::CREATED) => WorkloadState::Created,
            _ => WorkloadState::Exited,
        },
        created: timestamp(answer.created.as_deref()),
        started: timestamp(state.started_at.as_deref()),
    };
    Ok(Described {
        workload,
        shares_network: mode.starts_with("container:"),
    })
}

/// What a listing tells of a container.
pub(super) fn summary(container: ContainerSummary, id: &WorkloadId, node: &NodeId) -> Workload {
    let name = container
        .names
        .unwrap_or_default()
        .into_iter()
        .next()
        .unwrap_or_default();
    let name = name.trim_start_matches('/').to_owned();
    let labels: BTreeMap<String, String> = container.labels.unwrap_or_default().into_iter().collect();
    let image = container.image.unwrap_or_default();
    let (service, domain) = service(&labels, &image, &name);
    Workload {
        name,
        domain,
        image,
        labels,
        runtime: NAME.to_owned(),
        ..Workload::new(id.clone(), node.clone(), service)
    }
}

/// Service and domain: what Compose or Kubernetes say, else the image's own name.
pub(super) fn service(labels: &BTreeMap<String, String>, image: &str, name: &str) -> (String, String) {
    let label = |key: &str| labels.get(key).filter(|value| !value.is_empty());
    if let Some(pod) = label(POD_NAME) {
        return (
            pod_service(pod).to_owned(),
            label(POD_NAMESPACE).cloned().unwrap_or_default(),
        );
    }
    if let Some(service) = label(COMPOSE_SERVICE) {
        return (
            service.clone(),
            label(COMPOSE_PROJECT).cloned().unwrap_or_default(),
        );
    }
    let service = image_base(image).unwrap_or(name);
    (service.to_owned(), String::new())
}

/// Last part of an image name, without registry, tag and digest; `None` for a bare image id.
fn image_base(image: &str) -> Option<&str> {
    if image.starts_with("sha256:") {
        return None;
    }
    let name = image.split('@').next()?;
    let base = name.rsplit('/').next()?;
    let base = base.split(':').next()?;
    let is_id = base.len() >= 12 && !name.contains(['/', ':']) && base.bytes().all(|b| b.is_ascii_hexdigit());
    (!base.is_empty() && !is_id).then_some(base)
}

/// What made a pod, as far as its name tells: `web-6d4cf56db6-x7k2p` (Deployment) and `web-x7k2p` (`DaemonSet`) and
/// `web-0` (`StatefulSet`) are of `web`.
fn pod_service(pod: &str) -> &str {
    let Some((rest, last)) = pod.rsplit_once('-') else {
        return pod;
    };
    // Kubernetes makes its random parts of these only (`apimachinery/pkg/util/rand`).
    let random = |text: &str| text.bytes().all(|b| b"bcdfghjklmnpqrstvwxz2456789".contains(&b));
    if !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit()) {
        return rest;
    }
    if last.len() != 5 || !random(last) {
        return pod;
    }
    match rest.rsplit_once('-') {
        Some((owner, hash)) if (8..=10).contains(&hash.len()) && random(hash) => owner,
        _ => rest,
    }
}

fn published(ports: Option<PortMap>) -> Vec<PublishedPort> {
    let mut published = Vec::new();
    for (port, bindings) in ports.unwrap_or_default() {
        let (number, proto) = port.split_once('/').unwrap_or((&port, "tcp"));
        let proto = match proto {
            "tcp" => IpProto::TCP,
            "udp" => IpProto::UDP,
            "sctp" => IpProto::SCTP,
            _ => continue,
        };
        let Ok(port) = number.parse() else { continue };
        for binding in bindings.unwrap_or_default() {
            let Some(host_port) = binding.host_port.and_then(|text| text.parse().ok()) else {
                continue;
            };
            let host_ip = binding.host_ip.and_then(|text| text.parse().ok());
            published.push(PublishedPort {
                proto,
                host_ip: host_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
                host_port,
                port,
            });
        }
    }
    published.sort_by_key(|port| (port.proto, port.port, port.host_ip, port.host_port));
    published
}

/// Docker writes `0001-01-01T00:00:00Z` for never: 0, as is everything before 1970.
fn timestamp(text: Option<&str>) -> Timestamp {
    let parsed = text.and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let nanos = parsed.and_then(|time| u64::try_from(time.as_nanosecond()).ok());
    Timestamp(nanos.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use bollard::models::{ContainerConfig, ContainerState, HostConfig, NetworkSettings, PortBinding};

    use super::*;

    #[test]
    fn image_names_give_services() {
        for (image, base) in [
            ("web", Some("web")),
            ("test/web:1", Some("web")),
            ("registry.local:5000/team/web:1.2@sha256:00", Some("web")),
            ("registry.local:5000/web", Some("web")),
            ("sha256:0123456789abcdef", None),
            ("0123456789ab", None),
            ("", None),
        ] {
            assert_eq!(image_base(image), base, "{image}");
        }
    }

    #[test]
    fn pod_names_give_services() {
        for (pod, service) in [
            ("web-6d4cf56db6-x7k2p", "web"),
            ("node-exporter-x7k2p", "node-exporter"),
            ("db-0", "db"),
            ("db-12", "db"),
            ("web", "web"),
            ("my-app", "my-app"),
            ("front-admin", "front-admin"),
        ] {
            assert_eq!(pod_service(pod), service, "{pod}");
        }
    }

    #[test]
    fn compose_and_kubernetes_labels_come_before_the_image() {
        let labels = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect::<BTreeMap<_, _>>()
        };
        let compose = labels(&[(COMPOSE_PROJECT, "shop"), (COMPOSE_SERVICE, "front")]);
        assert_eq!(service(&compose, "web:1", "c"), ("front".into(), "shop".into()));
        let pod = labels(&[(POD_NAME, "cart-6d4cf56db6-x7k2p"), (POD_NAMESPACE, "prod")]);
        assert_eq!(service(&pod, "web:1", "c"), ("cart".into(), "prod".into()));
        assert_eq!(
            service(&labels(&[]), "test/web:1", "c"),
            ("web".into(), String::new())
        );
        assert_eq!(
            service(&labels(&[]), "sha256:00", "c"),
            ("c".into(), String::new())
        );
    }

    #[test]
    fn a_whole_answer() {
        let answer = ContainerInspectResponse {
            id: Some("ab12".into()),
            name: Some("/front".into()),
            created: Some("2024-05-01T10:00:00.000000001Z".into()),
            config: Some(ContainerConfig {
                image: Some("test/web:1".into()),
                ..ContainerConfig::default()
            }),
            host_config: Some(HostConfig {
                network_mode: Some("host".into()),
                privileged: Some(true),
                ..HostConfig::default()
            }),
            state: Some(ContainerState {
                running: Some(true),
                pid: Some(7),
                started_at: Some("0001-01-01T00:00:00Z".into()),
                ..ContainerState::default()
            }),
            network_settings: Some(NetworkSettings {
                ports: Some(HashMap::from([
                    ("9/udp".to_owned(), None),
                    (
                        "80/tcp".to_owned(),
                        Some(vec![PortBinding {
                            host_ip: Some("::".into()),
                            host_port: Some("8080".into()),
                        }]),
                    ),
                ])),
                ..NetworkSettings::default()
            }),
            ..ContainerInspectResponse::default()
        };
        let described = describe(answer, &"n1".parse().unwrap()).unwrap();
        assert!(!described.shares_network);
        let workload = described.workload;
        assert_eq!(
            (workload.name.as_str(), workload.service.as_str()),
            ("front", "web")
        );
        assert_eq!(
            (workload.pid, workload.host_network, workload.privileged),
            (7, true, true)
        );
        assert_eq!(workload.created.0, 1_714_557_600_000_000_001);
        assert_eq!(workload.started.0, 0);
        assert_eq!(
            workload.published,
            [PublishedPort {
                proto: IpProto::TCP,
                host_ip: "::".parse().unwrap(),
                host_port: 8080,
                port: 80
            }]
        );
    }
}
