//! Docker's description of a container in our words.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr};

use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum as Status, ContainerSummary, PortMap,
};
use nv_types::{IpProto, NodeId, PublishedPort, Timestamp, Workload, WorkloadId, WorkloadState};

use crate::names::service_of;

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
pub(super) fn describe(
    runtime: &str,
    answer: ContainerInspectResponse,
    node: &NodeId,
) -> Result<Described, String> {
    let id = answer.id.ok_or("the answer has no id")?;
    let id = WorkloadId::try_new(id).map_err(|error| error.to_string())?;
    let name = answer.name.unwrap_or_default().trim_start_matches('/').to_owned();
    let config = answer.config.unwrap_or_default();
    let host = answer.host_config.unwrap_or_default();
    let state = answer.state.unwrap_or_default();
    let labels: BTreeMap<String, String> = config.labels.unwrap_or_default().into_iter().collect();
    let image = config.image.or(answer.image).unwrap_or_default();
    let (service, domain) = service_of(&labels, &image, &name);
    let mode = host.network_mode.unwrap_or_default();
    let running = state.running.unwrap_or_default();
    let workload = Workload {
        id,
        name,
        node: node.clone(),
        runtime: runtime.to_owned(),
        service,
        domain,
        image,
        containers: Vec::new(),
        labels,
        namespace_labels: BTreeMap::new(),
        interfaces: Vec::new(),
        published: published(answer.network_settings.and_then(|settings| settings.ports)),
        netns: 0,
        pid: state
            .pid
            .and_then(|pid| u32::try_from(pid).ok())
            .unwrap_or_default(),
        cgroup: String::new(),
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
pub(super) fn summary(
    runtime: &str,
    container: ContainerSummary,
    id: &WorkloadId,
    node: &NodeId,
) -> Workload {
    let name = container
        .names
        .unwrap_or_default()
        .into_iter()
        .next()
        .unwrap_or_default();
    let name = name.trim_start_matches('/').to_owned();
    let labels: BTreeMap<String, String> = container.labels.unwrap_or_default().into_iter().collect();
    let image = container.image.unwrap_or_default();
    let (service, domain) = service_of(&labels, &image, &name);
    Workload {
        name,
        domain,
        image,
        labels,
        runtime: runtime.to_owned(),
        ..Workload::new(id.clone(), node.clone(), service)
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
        let described = describe("docker", answer, &"n1".parse().unwrap()).unwrap();
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
