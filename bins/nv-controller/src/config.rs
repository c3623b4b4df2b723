//! Configuration: option, then environment, then file, then default; checked before anything is opened.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use serde::Deserialize;

use crate::backing::{ClusterConfig, StoreKind};
use crate::maintenance::StoreCommand;

/// Command line of the controller.
#[derive(Debug, Parser)]
#[command(
    name = "nv-controller",
    version,
    about = "Controller of nv: REST, gRPC, policy and store",
    after_help = "Options go before 'store': nv-controller --config FILE store export BACKUP.json"
)]
pub struct Cli {
    /// TOML file with the same names as the options below (`data_dir`, `rest`, …).
    #[arg(long, env = "NV_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder of the store, the CA and the keys [default: /var/lib/nv].
    #[arg(long, env = "NV_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address of REST [default: 127.0.0.1:10443].
    #[arg(long, env = "NV_REST", value_name = "ADDR:PORT")]
    pub rest: Option<SocketAddr>,
    /// Address of gRPC, for agents [default: 127.0.0.1:18400].
    #[arg(long, env = "NV_GRPC", value_name = "ADDR:PORT")]
    pub grpc: Option<SocketAddr>,
    /// Where the controller keeps its state [default: embedded]. Consul and etcd need the file's `[cluster]` or --store-endpoints.
    #[arg(long, env = "NV_STORE", value_name = "STORE")]
    pub store: Option<StoreKind>,
    /// Addresses of Consul or etcd, `http://HOST:PORT` or `https://HOST:PORT`.
    #[arg(long, env = "NV_STORE_ENDPOINTS", value_name = "URL", value_delimiter = ',')]
    pub store_endpoints: Vec<String>,
    /// Seconds without a call after which a session ends [default: 300].
    #[arg(long, env = "NV_SESSION_IDLE", value_name = "SECONDS")]
    pub session_idle: Option<u64>,
    /// Print a join token for a node's agent and end. Works while a controller runs on the same folder.
    #[arg(long, value_name = "NODE")]
    pub join_token: Option<String>,
    /// Check the configuration and end.
    #[arg(long)]
    pub check_config: bool,
    /// Instead of starting.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What else the controller's program does.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Back up, move or repair the store while no controller runs on it.
    #[command(subcommand)]
    Store(StoreCommand),
}

/// A file's content.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    data_dir: Option<PathBuf>,
    rest: Option<SocketAddr>,
    grpc: Option<SocketAddr>,
    session_idle: Option<u64>,
    names: Option<Vec<String>>,
    store: Option<StoreKind>,
    cluster: Option<ClusterConfig>,
}

/// What a controller needs to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Folder of the store, the CA and the keys.
    pub data_dir: PathBuf,
    /// Address of REST; port 0: any free one.
    pub rest: SocketAddr,
    /// Address of gRPC; port 0: any free one.
    pub grpc: SocketAddr,
    /// Seconds without a call after which a session ends.
    pub session_idle: u64,
    /// More names and addresses that the controller's certificate is for.
    pub names: Vec<String>,
    /// Where the state is kept.
    pub store: StoreKind,
    /// Where Consul or etcd is, for those.
    pub cluster: ClusterConfig,
}

impl Default for Config {
    fn default() -> Self {
        let local = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Self {
            data_dir: "/var/lib/nv".into(),
            rest: local(10443),
            grpc: local(18400),
            session_idle: 300,
            names: Vec::new(),
            store: StoreKind::default(),
            cluster: ClusterConfig::default(),
        }
    }
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
        problem: &'static str,
    },
}

impl Config {
    /// Reads file and options.
    ///
    /// # Errors
    /// [`ConfigError`] that names file, line or option.
    pub fn from_cli(cli: &Cli) -> Result<Self, ConfigError> {
        let file = cli.config.as_deref().map(read).transpose()?.unwrap_or_default();
        let default = Self::default();
        let mut cluster = file.cluster.unwrap_or_default();
        if !cli.store_endpoints.is_empty() {
            cluster.endpoints.clone_from(&cli.store_endpoints);
        }
        let config = Self {
            data_dir: cli.data_dir.clone().or(file.data_dir).unwrap_or(default.data_dir),
            rest: cli.rest.or(file.rest).unwrap_or(default.rest),
            grpc: cli.grpc.or(file.grpc).unwrap_or(default.grpc),
            session_idle: cli
                .session_idle
                .or(file.session_idle)
                .unwrap_or(default.session_idle),
            names: file.names.unwrap_or_default(),
            store: cli.store.or(file.store).unwrap_or_default(),
            cluster,
        };
        config.check()?;
        Ok(config)
    }

    /// Checks what types cannot say.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |name, problem| Err(ConfigError::Value { name, problem });
        if self.rest.port() != 0 && self.rest == self.grpc {
            return wrong("grpc", "REST and gRPC cannot share an address");
        }
        if self.session_idle < 10 || self.session_idle > 86_400 {
            return wrong("session_idle", "10 seconds to a day");
        }
        let endpoints = self.cluster.endpoints.len();
        if self.store == StoreKind::Embedded && endpoints > 0 {
            return wrong(
                "store",
                "it is 'embedded', but servers are given: say 'consul' or 'etcd'",
            );
        }
        if self.store != StoreKind::Embedded && endpoints == 0 {
            return wrong("cluster", "endpoints: the addresses of Consul or etcd are needed");
        }
        if !self.data_dir.is_absolute() {
            return wrong("data_dir", "an absolute path is needed");
        }
        Ok(())
    }
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

    #[test]
    fn options_beat_the_file_and_unknown_fields_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.toml");
        std::fs::write(&file, "data_dir = '/a'\nsession_idle = 60\n").unwrap();
        let parse = |args: &[&str]| {
            let file = file.to_str().unwrap();
            let args = ["nv-controller", "--config", file]
                .iter()
                .chain(args)
                .copied()
                .collect::<Vec<_>>();
            Config::from_cli(&Cli::parse_from(args))
        };
        let config = parse(&["--data-dir", "/b"]).unwrap();
        assert_eq!((config.data_dir, config.session_idle), ("/b".into(), 60));
        assert!(
            parse(&["--data-dir", "b"])
                .unwrap_err()
                .to_string()
                .contains("data_dir")
        );
        assert!(parse(&["--rest", "127.0.0.1:1", "--grpc", "127.0.0.1:1"]).is_err());
        assert_eq!(parse(&[]).unwrap().store, StoreKind::Embedded);
        let error = parse(&["--store", "etcd"]).unwrap_err().to_string();
        assert!(error.contains("endpoints"), "{error}");
        let etcd = ["--store", "etcd", "--store-endpoints", "http://a:1,http://b:2"];
        assert_eq!(
            parse(&etcd).unwrap().cluster.endpoints,
            ["http://a:1", "http://b:2"]
        );
        assert!(parse(&etcd[2..]).unwrap_err().to_string().starts_with("store"));
        std::fs::write(&file, "dat_dir = '/a'\n").unwrap();
        assert!(parse(&[]).unwrap_err().to_string().contains("dat_dir"));
    }
}
