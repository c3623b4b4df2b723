//! Finding the runtimes of this host.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{ContainerRuntime, ContainerdRuntime, CriRuntime, DockerRuntime, NetnsRuntime};

/// Where dockerd listens if nothing else is said.
const DOCKER: [&str; 1] = ["/var/run/docker.sock"];
const PODMAN: [&str; 1] = ["/run/podman/podman.sock"];
/// containerd itself, and those of k3s and RKE2, k0s and MicroK8s.
const CONTAINERD: [&str; 4] = [
    "/run/containerd/containerd.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/k0s/containerd.sock",
    "/var/snap/microk8s/common/run/containerd.sock",
];
const CRIO: [&str; 1] = ["/var/run/crio/crio.sock"];
/// Where `ip netns` keeps its namespaces.
const NETNS_FOLDER: &str = "/run/netns";
/// dockerd's namespace in containerd.
const MOBY: &str = "moby";

/// Where one kind of runtime is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Location {
    /// Look in the usual places.
    #[default]
    Auto,
    /// Here, whether it answers now or not.
    At(PathBuf),
    /// In each of these places, whether it answers now or not.
    Each(Vec<PathBuf>),
    /// Do not watch this kind of runtime.
    Off,
}

impl Location {
    /// Reads `auto`, `off`, or paths with commas between them.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut paths: Vec<PathBuf> = text
            .split(',')
            .map(str::trim)
            .filter(|path| !path.is_empty())
            .map(|path| PathBuf::from(path.strip_prefix("unix://").unwrap_or(path)))
            .collect();
        match (text.trim(), paths.len()) {
            ("auto" | "", _) => Self::Auto,
            ("off", _) => Self::Off,
            (_, 1) => Self::At(paths.remove(0)),
            _ => Self::Each(paths),
        }
    }
}

/// What to look for. The default looks for everything in the usual places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiscoverOptions {
    /// dockerd's Unix socket. [`Location::Auto`]: `DOCKER_HOST` if it is a `unix://` address, else
    /// `/var/run/docker.sock`; only if the socket exists.
    pub docker: Location,
    /// Podman's Unix socket. [`Location::Auto`]: `/run/podman/podman.sock` if it exists.
    pub podman: Location,
    /// containerd's Unix socket. [`Location::Auto`]: those of containerd, k3s, k0s and MicroK8s that exist.
    pub containerd: Location,
    /// The Unix socket of a runtime that is spoken to over the CRI. [`Location::Auto`]: CRI-O's if it exists. containerd
    /// needs none: its own services tell of pods too.
    pub cri: Location,
    /// The folder of `ip netns`. [`Location::Auto`]: `/run/netns`, which may not exist yet.
    pub netns: Location,
    /// Watch only namespaces whose name starts so, and show them without it; see [`NetnsRuntime::with_prefix`].
    pub netns_prefix: String,
}

impl DiscoverOptions {
    /// Nothing at all, to be filled in.
    #[must_use]
    pub const fn nothing() -> Self {
        Self {
            docker: Location::Off,
            podman: Location::Off,
            containerd: Location::Off,
            cri: Location::Off,
            netns: Location::Off,
            netns_prefix: String::new(),
        }
    }
}

/// A runtime that was found.
pub(crate) struct Found {
    /// What tells it from the others: the file behind its path.
    pub(crate) key: PathBuf,
    pub(crate) runtime: Arc<dyn ContainerRuntime>,
}

/// The runtimes of this host. What is said explicitly wins over what is found.
///
/// Where dockerd is watched its namespace is left out of containerd's. A [`Monitor`](crate::Monitor) tells a container
/// once also where two runtimes see it.
#[must_use]
pub fn discover(options: &DiscoverOptions) -> Vec<Arc<dyn ContainerRuntime>> {
    find(options).into_iter().map(|found| found.runtime).collect()
}

pub(crate) fn find(options: &DiscoverOptions) -> Vec<Found> {
    let docker_host = std::env::var("DOCKER_HOST").ok();
    let usual_docker = match docker_host.as_deref() {
        // Elsewhere than here: not this node's.
        Some(host) => host.strip_prefix("unix://").into_iter().collect(),
        None => DOCKER.to_vec(),
    };
    let mut seen = BTreeSet::new();
    let mut sockets = |location: &Location, usual: &[&str]| {
        let mut new = places(location, usual);
        new.retain(|path| seen.insert(real(path)));
        new
    };
    let docker = sockets(&options.docker, &usual_docker);
    let has_docker = !docker.is_empty();
    let mut found: Vec<Found> = Vec::new();
    let mut add = |path: PathBuf, runtime: Arc<dyn ContainerRuntime>| {
        let key = real(&path);
        found.push(Found { key, runtime });
    };
    for path in docker {
        add(path.clone(), Arc::new(DockerRuntime::connect(path)));
    }
    for path in sockets(&options.podman, &PODMAN) {
        add(path.clone(), Arc::new(DockerRuntime::podman(path)));
    }
    for path in sockets(&options.cri, &CRIO) {
        add(path.clone(), Arc::new(CriRuntime::connect(path)));
    }
    for path in sockets(&options.containerd, &CONTAINERD) {
        let runtime = ContainerdRuntime::connect(path.clone());
        let runtime = if has_docker {
            runtime.without(MOBY)
        } else {
            runtime
        };
        add(path, Arc::new(runtime));
    }
    let folders = match &options.netns {
        Location::Auto => vec![PathBuf::from(NETNS_FOLDER)],
        explicit => places(explicit, &[]),
    };
    for folder in folders {
        let runtime = NetnsRuntime::new(folder.clone()).with_prefix(options.netns_prefix.clone());
        add(folder, Arc::new(runtime));
    }
    found
}

fn places(location: &Location, usual: &[&str]) -> Vec<PathBuf> {
    match location {
        Location::Off => Vec::new(),
        Location::At(path) => vec![path.clone()],
        Location::Each(paths) => paths.clone(),
        Location::Auto => {
            let usual = usual.iter().map(PathBuf::from);
            usual.filter(|path| is_socket(path)).collect()
        }
    }
}

/// `/var/run` is often a link to `/run`: one socket, one runtime.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(options: &DiscoverOptions) -> Vec<&'static str> {
        discover(options).iter().map(|runtime| runtime.name()).collect()
    }

    #[test]
    fn explicit_places_win_and_only_what_exists_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let there = path.to_str().unwrap();
        assert_eq!(places(&Location::Auto, &[there, "/no/such"]), vec![path.clone()]);
        assert!(places(&Location::Off, &[there]).is_empty());
        let explicit = PathBuf::from("/explicit");
        assert_eq!(
            places(&Location::At(explicit.clone()), &[there]),
            vec![explicit.clone()]
        );
        let both = vec![explicit, path];
        assert_eq!(places(&Location::Each(both.clone()), &[]), both);
        assert!(names(&DiscoverOptions::nothing()).is_empty());
    }

    #[test]
    fn several_runtimes_side_by_side_and_one_socket_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let link = folder.path().join("link.sock");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let options = DiscoverOptions {
            docker: Location::Each(vec!["/a/docker.sock".into(), "/b/docker.sock".into()]),
            podman: Location::At("/c/podman.sock".into()),
            containerd: Location::Each(vec![path, link]),
            cri: Location::At("/d/crio.sock".into()),
            netns: Location::Auto,
            ..DiscoverOptions::nothing()
        };
        assert_eq!(
            names(&options),
            ["docker", "docker", "podman", "cri", "containerd", "netns"]
        );
    }

    #[test]
    fn places_are_read_from_words() {
        assert_eq!(Location::parse("auto"), Location::Auto);
        assert_eq!(Location::parse("off"), Location::Off);
        assert_eq!(Location::parse("unix:///a.sock"), Location::At("/a.sock".into()));
        assert_eq!(
            Location::parse("/a.sock, /b.sock"),
            Location::Each(vec!["/a.sock".into(), "/b.sock".into()])
        );
    }
}
