//! Finding the runtimes of this host.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{ContainerRuntime, DockerRuntime, NetnsRuntime};

/// Where dockerd listens if nothing else is said.
const DOCKER_SOCKET: &str = "/var/run/docker.sock";
/// Where `ip netns` keeps its namespaces.
const NETNS_FOLDER: &str = "/run/netns";

/// Where one runtime is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Location {
    /// Look in the usual places.
    #[default]
    Auto,
    /// Here, whether it answers now or not.
    At(PathBuf),
    /// Do not watch this runtime.
    Off,
}

/// What to look for. The default looks for everything in the usual places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiscoverOptions {
    /// dockerd's Unix socket. [`Location::Auto`]: `DOCKER_HOST` if it is a `unix://` address, else
    /// `/var/run/docker.sock`; only if the socket exists.
    pub docker: Location,
    /// The folder of `ip netns`. [`Location::Auto`]: `/run/netns`, which may not exist yet.
    pub netns: Location,
    /// Watch only namespaces whose name starts so, and show them without it; see [`NetnsRuntime::with_prefix`].
    pub netns_prefix: String,
}

/// The runtimes of this host. What is said explicitly wins over what is found.
#[must_use]
pub fn discover(options: &DiscoverOptions) -> Vec<Arc<dyn ContainerRuntime>> {
    let host = std::env::var("DOCKER_HOST").ok();
    let mut runtimes: Vec<Arc<dyn ContainerRuntime>> = Vec::new();
    if let Some(socket) = docker_socket(&options.docker, host.as_deref()) {
        runtimes.push(Arc::new(DockerRuntime::connect(socket)));
    }
    let folder = match &options.netns {
        Location::Auto => Some(PathBuf::from(NETNS_FOLDER)),
        Location::At(path) => Some(path.clone()),
        Location::Off => None,
    };
    if let Some(folder) = folder {
        runtimes.push(Arc::new(
            NetnsRuntime::new(folder).with_prefix(options.netns_prefix.clone()),
        ));
    }
    runtimes
}

fn docker_socket(location: &Location, docker_host: Option<&str>) -> Option<PathBuf> {
    match location {
        Location::Off => None,
        Location::At(path) => Some(path.clone()),
        Location::Auto => {
            let path = match docker_host {
                Some(host) => PathBuf::from(host.strip_prefix("unix://")?),
                None => PathBuf::from(DOCKER_SOCKET),
            };
            is_socket(&path).then_some(path)
        }
    }
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn explicit_wins_and_docker_host_comes_before_the_usual_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let host = format!("unix://{}", path.display());
        assert_eq!(docker_socket(&Location::Auto, Some(&host)), Some(path));
        assert_eq!(docker_socket(&Location::Auto, Some("unix:///no/such")), None);
        assert_eq!(docker_socket(&Location::Auto, Some("tcp://127.0.0.1:2375")), None);
        assert_eq!(docker_socket(&Location::Off, Some(&host)), None);
        let explicit = PathBuf::from("/explicit");
        assert_eq!(
            docker_socket(&Location::At(explicit.clone()), Some(&host)),
            Some(explicit)
        );
    }
}
