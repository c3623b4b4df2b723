//! The parts of two JSON documents that containerd and CRI-O hand out: the OCI runtime's configuration of a container
//! (`runtime-spec/config.md`) and the CRI's configuration of a pod (`PodSandboxConfig` as the Go types write it).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use nv_types::{IpProto, PublishedPort};
use serde::Deserialize;

/// What is read of a container's configuration. What is absent is empty; what is unknown is left out.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Spec {
    process: Option<SpecProcess>,
    linux: Option<SpecLinux>,
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SpecProcess {
    capabilities: Option<Capabilities>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Capabilities {
    bounding: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct SpecLinux {
    namespaces: Vec<SpecNamespace>,
    cgroups_path: String,
    masked_paths: Vec<String>,
    readonly_paths: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SpecNamespace {
    r#type: String,
    path: String,
}

/// The network namespace that a container's configuration asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    /// The host's.
    Host,
    /// One of its own.
    Own,
    /// The one at this path.
    At(String),
}

impl Spec {
    pub(crate) fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    pub(crate) fn network(&self) -> Network {
        let namespaces = self.linux.as_ref().map(|linux| linux.namespaces.as_slice());
        let network = namespaces
            .unwrap_or_default()
            .iter()
            .find(|namespace| namespace.r#type == "network");
        match network {
            None => Network::Host,
            Some(namespace) if namespace.path.is_empty() => Network::Own,
            Some(namespace) => Network::At(namespace.path.clone()),
        }
    }

    /// The control group that was asked for, without the prefix of systemd's way to write it.
    pub(crate) fn cgroup(&self) -> &str {
        let path = self
            .linux
            .as_ref()
            .map_or("", |linux| linux.cgroups_path.as_str());
        path.rsplit(':').next().unwrap_or_default()
    }

    /// There is no field for it: a privileged container may administer the system and nothing is hidden from it.
    pub(crate) fn is_privileged(&self) -> bool {
        let capabilities = self
            .process
            .as_ref()
            .and_then(|process| process.capabilities.as_ref());
        let administers = capabilities.is_some_and(|sets| sets.bounding.iter().any(|c| c == "CAP_SYS_ADMIN"));
        let is_open = self
            .linux
            .as_ref()
            .is_some_and(|linux| linux.masked_paths.is_empty() && linux.readonly_paths.is_empty());
        administers && is_open
    }
}

/// A pod's configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Pod {
    pub(crate) metadata: PodMetadata,
    pub(crate) labels: BTreeMap<String, String>,
    port_mappings: Vec<PodPort>,
    linux: Option<PodLinux>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PodMetadata {
    pub(crate) name: String,
    pub(crate) namespace: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PodLinux {
    security_context: Option<PodSecurity>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PodSecurity {
    privileged: bool,
}

/// One mapping, as containerd (`container_port`, protocol a number) or CRI-O (`ContainerPort`, protocol a word) write it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PodPort {
    #[serde(alias = "Protocol")]
    protocol: PodProtocol,
    #[serde(alias = "ContainerPort", alias = "containerPort")]
    container_port: i64,
    #[serde(alias = "HostPort", alias = "hostPort")]
    host_port: i64,
    #[serde(alias = "HostIP", alias = "hostIP", alias = "HostIp")]
    host_ip: String,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum PodProtocol {
    Number(i64),
    Word(String),
}

impl Default for PodProtocol {
    fn default() -> Self {
        Self::Number(0)
    }
}

impl Pod {
    #[cfg(test)]
    fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    pub(crate) fn is_privileged(&self) -> bool {
        let security = self
            .linux
            .as_ref()
            .and_then(|linux| linux.security_context.as_ref());
        security.is_some_and(|security| security.privileged)
    }

    pub(crate) fn published(&self) -> Vec<PublishedPort> {
        published(&self.port_mappings)
    }
}

/// Ports in a list of mappings, such as CRI-O's and nerdctl's labels have; nothing if it is not one.
pub(crate) fn published_in(json: &str) -> Vec<PublishedPort> {
    let mappings: Vec<PodPort> = serde_json::from_str(json).unwrap_or_default();
    published(&mappings)
}

fn published(mappings: &[PodPort]) -> Vec<PublishedPort> {
    let ports = mappings.iter().filter_map(|mapping| {
        let proto = match &mapping.protocol {
            PodProtocol::Number(0) => IpProto::TCP,
            PodProtocol::Number(1) => IpProto::UDP,
            PodProtocol::Number(2) => IpProto::SCTP,
            PodProtocol::Number(_) => return None,
            PodProtocol::Word(word) => match word.to_ascii_lowercase().as_str() {
                "" | "tcp" => IpProto::TCP,
                "udp" => IpProto::UDP,
                "sctp" => IpProto::SCTP,
                _ => return None,
            },
        };
        // No host port: a port that the pod only names.
        let host_port = u16::try_from(mapping.host_port).ok().filter(|port| *port != 0)?;
        Some(PublishedPort {
            proto,
            host_ip: mapping
                .host_ip
                .parse()
                .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            host_port,
            port: u16::try_from(mapping.container_port).ok()?,
        })
    });
    let mut ports: Vec<_> = ports.collect();
    ports.sort_by_key(|port| (port.proto, port.port, port.host_ip, port.host_port));
    ports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_and_the_rights_of_a_container() {
        let spec = Spec::parse(
            br#"{"ociVersion":"1.1.0","process":{"capabilities":{"bounding":["CAP_CHOWN","CAP_SYS_ADMIN"]},"args":["x"]},
            "linux":{"cgroupsPath":"/k8s.io/ab","namespaces":[{"type":"pid"},{"type":"network","path":"/run/netns/cni-1"}]},
            "annotations":{"io.kubernetes.cri.sandbox-id":"s1"}}"#,
        )
        .unwrap();
        assert_eq!(spec.network(), Network::At("/run/netns/cni-1".into()));
        assert!(spec.is_privileged());
        assert_eq!(spec.cgroup(), "/k8s.io/ab");
        assert_eq!(
            spec.annotations.get("io.kubernetes.cri.sandbox-id").unwrap(),
            "s1"
        );

        let spec = Spec::parse(
            br#"{"process":{"capabilities":{"bounding":["CAP_SYS_ADMIN"]}},
            "linux":{"cgroupsPath":"system.slice:cri-containerd:ab","maskedPaths":["/proc/kcore"],"namespaces":[{"type":"network"}]}}"#,
        )
        .unwrap();
        assert_eq!((spec.network(), spec.is_privileged()), (Network::Own, false));
        assert_eq!(spec.cgroup(), "ab");
        assert_eq!(Spec::parse(b"{}").unwrap().network(), Network::Host);
        assert!(Spec::parse(b"[1]").is_err());
    }

    #[test]
    fn ports_as_containerd_and_as_cri_o_write_them() {
        let pod = Pod::parse(
            br#"{"metadata":{"name":"web-0","uid":"u","namespace":"prod"},
            "port_mappings":[{"container_port":80,"host_port":8080},{"protocol":1,"container_port":53,"host_port":5353,"host_ip":"127.0.0.1"},
            {"container_port":9000}],"linux":{"security_context":{"privileged":true}}}"#,
        )
        .unwrap();
        let tcp = PublishedPort {
            proto: IpProto::TCP,
            host_ip: "0.0.0.0".parse().unwrap(),
            host_port: 8080,
            port: 80,
        };
        let udp = PublishedPort {
            proto: IpProto::UDP,
            host_ip: "127.0.0.1".parse().unwrap(),
            host_port: 5353,
            port: 53,
        };
        assert_eq!(pod.published(), [tcp, udp]);
        assert!(pod.is_privileged());
        let crio = r#"[{"HostPort":8080,"ContainerPort":80,"Protocol":"TCP","HostIP":""},{"HostPort":5353,"ContainerPort":53,"Protocol":"UDP","HostIP":"127.0.0.1"}]"#;
        assert_eq!(published_in(crio), [tcp, udp]);
        assert!(published_in("nonsense").is_empty());
    }
}
