//! Configuration: option, then environment, then file, then default; checked before anything is opened.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum as _};
use nv_dp::SoftwareConfig;
use nv_runtime::{DiscoverOptions, Location};
use nv_types::NodeId;
use serde::Deserialize;

use crate::controllers::split;

use crate::hook::{self, HookFail, HookOptions, Target};
use crate::names::NameOptions;

/// Command line of the agent.
#[derive(Debug, Parser)]
#[command(
    name = "nv-agent",
    version,
    about = "Agent of nv: finds the workloads of this node and enforces policy"
)]
pub struct Cli {
    /// TOML file with the same names as the options below.
    #[arg(long, env = "NV_CONFIG", global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Name of this node [default: the host's name].
    #[arg(long, env = "NV_NODE", global = true)]
    pub node: Option<String>,
    /// gRPC address of the controller; of several with one store: all, with commas [default: 127.0.0.1:18400].
    #[arg(long, env = "NV_CONTROLLER", global = true, value_name = "HOST:PORT")]
    pub controller: Option<String>,
    /// Folder of the node's certificate and the last policy [default: /var/lib/nv-agent].
    #[arg(long, env = "NV_DATA_DIR", global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Folder on the BPF file system that keeps enforcement [default: /sys/fs/bpf/nv/agent].
    #[arg(long, env = "NV_PIN_DIR", global = true, value_name = "DIR")]
    pub pin_dir: Option<PathBuf>,
    /// What enforces: `kernel`; `process`: the kernel, driven by 'nv-agent dp' in a process of its own; `software`, which judges no packet and
    /// is for trials of everything around it [default: kernel].
    #[arg(long, env = "NV_DATAPATH", global = true, value_name = "KIND")]
    pub datapath: Option<String>,
    /// Socket of 'nv-agent dp' [default: /run/nv/dp.sock].
    #[arg(long, env = "NV_DP_SOCKET", global = true, value_name = "SOCKET")]
    pub dp_socket: Option<PathBuf>,
    /// Address of the agent's own gRPC, for captures [default: 127.0.0.1:18401].
    #[arg(long, env = "NV_LISTEN", global = true, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// dockerd's socket, or several with commas; `off`: do not look for it [default: the usual one, if it is there].
    #[arg(long, env = "NV_DOCKER", global = true, value_name = "SOCKET")]
    pub docker: Option<String>,
    /// Podman's socket, likewise.
    #[arg(long, env = "NV_PODMAN", global = true, value_name = "SOCKET")]
    pub podman: Option<String>,
    /// containerd's socket, likewise; also that of k3s, k0s and MicroK8s is usual.
    #[arg(long, env = "NV_CONTAINERD", global = true, value_name = "SOCKET")]
    pub containerd: Option<String>,
    /// Socket of CRI-O or another runtime that speaks the CRI, likewise.
    #[arg(long, env = "NV_CRI", global = true, value_name = "SOCKET")]
    pub cri: Option<String>,
    /// Folder of named network namespaces; `off`: do not watch it [default: /run/netns].
    #[arg(long, env = "NV_NETNS", global = true, value_name = "DIR")]
    pub netns: Option<String>,
    /// File with a one-time join token (`nv-controller --join-token NODE`); needed until the node has a certificate.
    #[arg(long, env = "NV_JOIN_TOKEN_FILE", global = true, value_name = "FILE")]
    pub join_token_file: Option<PathBuf>,
    /// The controller's ca.pem, for joining.
    #[arg(long, env = "NV_CA", global = true, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Socket where hooks ask; `off`: do not listen [default: /run/nv/agent.sock].
    #[arg(long, env = "NV_HOOK_SOCKET", global = true, value_name = "SOCKET")]
    pub hook_socket: Option<String>,
    /// What a container may do when its policy is not in force in time: `closed` it does not start, `open` it does, `auto` it does
    /// not if its service is in Protect [default: auto].
    #[arg(long, env = "NV_HOOK_FAIL", global = true, value_name = "WHAT")]
    pub hook_fail: Option<HookFail>,
    /// Longest time in milliseconds that a hook holds a container [default: 10000].
    #[arg(long, env = "NV_HOOK_WAIT", global = true, value_name = "MS")]
    pub hook_wait: Option<u64>,
    /// Resolver whose DNS answers say what names in groups stand for; once for each [default: the node's, and those that a workload was given].
    #[arg(
        long = "resolver",
        env = "NV_RESOLVERS",
        value_delimiter = ',',
        global = true,
        value_name = "ADDR"
    )]
    pub resolvers: Vec<IpAddr>,
    /// Time in seconds that an address counts after its DNS answer is over [default: 300].
    #[arg(long, env = "NV_NAME_GRACE", global = true, value_name = "SECONDS")]
    pub name_grace: Option<u64>,
    /// Check the configuration and end.
    #[arg(long)]
    pub check_config: bool,
    /// What to do; without it: run.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Other things than running.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// OCI hook: reads a container's state on standard input, and ends when its policy is in force.
    Hook,
    /// Stands before an OCI runtime: `nv-agent runtime ARGS…` runs it with these arguments, and holds a container at `start`.
    #[command(disable_help_flag = true)]
    Runtime {
        /// The runtime that does the work.
        #[arg(
            long,
            env = "NV_RUNTIME",
            default_value = "/usr/bin/runc",
            value_name = "PROGRAM"
        )]
        program: PathBuf,
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<std::ffi::OsString>,
    },
    /// Prints what a runtime must be told so that it asks nv before a container runs.
    HookInstall {
        /// Which runtime.
        #[arg(long = "for", value_enum)]
        target: Target,
    },
    /// Drive the kernel for an agent with `datapath = process`: this process needs the rights, the agent's side of the socket does not.
    Dp {
        /// One more user that may drive it; the socket is given to it.
        #[arg(long, value_name = "UID")]
        user: Option<u32>,
    },
    /// Remove all enforcement of this agent from the kernel. Stopping the agent does not do that.
    Purge,
}

/// A file's content.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    node: Option<String>,
    controller: Option<String>,
    data_dir: Option<PathBuf>,
    pin_dir: Option<PathBuf>,
    datapath: Option<String>,
    dp_socket: Option<PathBuf>,
    listen: Option<SocketAddr>,
    docker: Option<String>,
    podman: Option<String>,
    containerd: Option<String>,
    cri: Option<String>,
    netns: Option<String>,
    netns_prefix: Option<String>,
    join_token_file: Option<PathBuf>,
    ca: Option<PathBuf>,
    hook_socket: Option<String>,
    hook_fail: Option<String>,
    hook_wait: Option<u64>,
    #[serde(default)]
    resolvers: Vec<IpAddr>,
    name_grace: Option<u64>,
}

/// Which datapath enforces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatapathKind {
    /// The kernel, with pins in this folder.
    Ebpf(PathBuf),
    /// The software datapath: it judges nothing by itself, as no packet reaches it. For tests.
    Software(SoftwareConfig),
    /// The process that listens at this socket (`nv-agent dp`).
    Process(PathBuf),
}

/// How the agent shows who it is.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Certificate, key and CA in PEM form.
    Identity {
        /// Certificate.
        certificate_pem: String,
        /// Private key.
        key_pem: String,
        /// CA certificate.
        ca_pem: String,
    },
    /// Those of the data folder; where there are none, they are got by a join token.
    Folder {
        /// File with the token.
        join_token_file: Option<PathBuf>,
        /// The controller's CA certificate.
        ca: Option<PathBuf>,
    },
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Identity { .. } => "Identity",
            Self::Folder { .. } => "Folder",
        })
    }
}

/// What an agent needs to start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the node.
    pub node: NodeId,
    /// gRPC address of the controller, `host:port`; several with commas.
    pub controller: String,
    /// Folder of the node's certificate, the last policy and captures.
    pub data_dir: PathBuf,
    /// What enforces.
    pub datapath: DatapathKind,
    /// Folder of the kernel's pins, for the process that drives it, and for a purge.
    pub pin_dir: PathBuf,
    /// Where that process listens.
    pub dp_socket: PathBuf,
    /// Address of the agent's own gRPC; port 0: any free one.
    pub listen: SocketAddr,
    /// Which runtimes to watch.
    pub runtimes: DiscoverOptions,
    /// Who the agent is.
    pub credentials: Credentials,
    /// Where hooks ask; `None`: nowhere.
    pub hook_socket: Option<PathBuf>,
    /// What a container may do when its policy is not in force in time.
    pub hook_fail: HookFail,
    /// How long a hook waits.
    pub hook_wait: Duration,
    /// Whose DNS answers are believed.
    pub names: NameOptions,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// File.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is wrong.
    #[error("{path}: {problem}")]
    Parse {
        /// File.
        path: PathBuf,
        /// What is wrong, with its place.
        problem: String,
    },
    /// A value is wrong.
    #[error("{name}: {problem}")]
    Value {
        /// Option.
        name: &'static str,
        /// What is wrong.
        problem: String,
    },
}

impl Config {
    /// What a hook of this configuration does.
    #[must_use]
    pub fn hook_options(&self) -> HookOptions {
        HookOptions {
            socket: self.hook_socket.clone().unwrap_or_else(hook::default_socket),
            node: self.node.clone(),
            data_dir: self.data_dir.clone(),
            docker: self.runtimes.docker.clone(),
            wait: self.hook_wait,
            fail: self.hook_fail,
        }
    }

    /// Reads file and options.
    ///
    /// # Errors
    /// [`ConfigError`] that names file, line or option.
    pub fn from_cli(cli: &Cli) -> Result<Self, ConfigError> {
        let file = cli.config.as_deref().map(read).transpose()?.unwrap_or_default();
        let wrong = |name, problem: String| ConfigError::Value { name, problem };
        let node = cli.node.clone().or(file.node).map_or_else(host_name, Ok);
        let node = node.map_err(|problem| wrong("node", problem))?;
        let node = NodeId::try_new(node).map_err(|error| wrong("node", error.to_string()))?;
        let controller = cli
            .controller
            .clone()
            .or(file.controller)
            .unwrap_or_else(|| "127.0.0.1:18400".into());
        let good = |one: &str| {
            one.rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        if split(&controller).count() == 0 || !split(&controller).all(good) {
            return Err(wrong(
                "controller",
                format!("'{controller}' is not HOST:PORT, nor several of them with commas"),
            ));
        }
        let data_dir = cli
            .data_dir
            .clone()
            .or(file.data_dir)
            .unwrap_or_else(|| "/var/lib/nv-agent".into());
        if !data_dir.is_absolute() {
            return Err(wrong("data_dir", "an absolute path is needed".into()));
        }
        let pin_dir = cli.pin_dir.clone().or(file.pin_dir);
        let pin_dir = pin_dir.unwrap_or_else(|| "/sys/fs/bpf/nv/agent".into());
        let dp_socket = cli.dp_socket.clone().or(file.dp_socket);
        let dp_socket = dp_socket.unwrap_or_else(|| "/run/nv/dp.sock".into());
        let datapath = match cli.datapath.clone().or(file.datapath).as_deref() {
            None | Some("kernel") => DatapathKind::Ebpf(pin_dir.clone()),
            Some("process") => DatapathKind::Process(dp_socket.clone()),
            Some("software") => DatapathKind::Software(SoftwareConfig::default()),
            Some(other) => {
                return Err(wrong(
                    "datapath",
                    format!("'{other}' is not kernel, process or software"),
                ));
            }
        };
        let listen = cli
            .listen
            .or(file.listen)
            .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 18401)));
        let hook_socket = match cli.hook_socket.clone().or(file.hook_socket).as_deref() {
            Some("off") => None,
            Some(path) => Some(path.into()),
            None => Some(hook::default_socket()),
        };
        let hook_fail = match (cli.hook_fail, file.hook_fail) {
            (Some(fail), _) => fail,
            (None, Some(text)) => HookFail::from_str(&text, false)
                .map_err(|_| wrong("hook_fail", format!("'{text}' is not closed, open or auto")))?,
            (None, None) => HookFail::default(),
        };
        let hook_wait = cli
            .hook_wait
            .or(file.hook_wait)
            .map_or(hook::WAIT, Duration::from_millis);
        let names = NameOptions {
            resolvers: if cli.resolvers.is_empty() {
                file.resolvers
            } else {
                cli.resolvers.clone()
            },
            grace: cli
                .name_grace
                .or(file.name_grace)
                .map_or_else(|| NameOptions::default().grace, Duration::from_secs),
        };
        Ok(Self {
            names,
            pin_dir,
            dp_socket,
            hook_socket,
            hook_fail,
            hook_wait,
            node,
            controller,
            data_dir,
            datapath,
            listen,
            runtimes: DiscoverOptions {
                docker: location(&cli.docker, file.docker),
                podman: location(&cli.podman, file.podman),
                containerd: location(&cli.containerd, file.containerd),
                cri: location(&cli.cri, file.cri),
                netns: location(&cli.netns, file.netns),
                netns_prefix: file.netns_prefix.unwrap_or_default(),
            },
            credentials: Credentials::Folder {
                join_token_file: cli.join_token_file.clone().or(file.join_token_file),
                ca: cli.ca.clone().or(file.ca),
            },
        })
    }
}

fn location(option: &Option<String>, file: Option<String>) -> Location {
    let text = option.clone().or(file);
    text.map_or(Location::Auto, |text| Location::parse(&text))
}

fn host_name() -> Result<String, String> {
    let name =
        nix::sys::utsname::uname().map_err(|error| format!("the host's name cannot be read: {error}"))?;
    name.nodename()
        .to_str()
        .map(str::to_owned)
        .ok_or_else(|| "the host's name is no text: name the node".to_owned())
}

fn read(path: &Path) -> Result<File, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    toml::from_str(&text).map_err(|error| ConfigError::Parse {
        path: path.to_owned(),
        problem: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Config, ConfigError> {
        Config::from_cli(&Cli::parse_from(["nv-agent"].iter().chain(args)))
    }

    #[test]
    fn options_are_read_and_checked() {
        let config = parse(&["--node", "n1", "--docker", "unix:///x.sock", "--netns", "off"]).unwrap();
        assert_eq!(config.runtimes.docker, Location::At("/x.sock".into()));
        assert_eq!(config.runtimes.netns, Location::Off);
        assert_eq!(config.runtimes.containerd, Location::Auto);
        let config = parse(&["--node", "n1", "--containerd", "/a.sock,/b.sock"]).unwrap();
        let both = vec!["/a.sock".into(), "/b.sock".into()];
        assert_eq!(config.runtimes.containerd, Location::Each(both));
        for (args, name) in [
            (["--node", "a/b"], "node"),
            (["--controller", "nowhere"], "controller"),
            (["--data-dir", "relative"], "data_dir"),
            (["--datapath", "hardware"], "datapath"),
        ] {
            assert!(parse(&args).unwrap_err().to_string().starts_with(name));
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent.toml");
        std::fs::write(&file, "nod = 'x'\n").unwrap();
        assert!(
            parse(&["--config", file.to_str().unwrap()])
                .unwrap_err()
                .to_string()
                .contains("nod")
        );
    }
}
