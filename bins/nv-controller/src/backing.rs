//! The store behind the controller: its own file, or Consul or etcd, which several controllers share.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nv_store::{
    ConsulOptions, ConsulStore, EtcdOptions, EtcdStore, KvStore, LocalStore, StoreError, TlsOptions,
};
use serde::Deserialize;

use crate::config::Config;
use crate::schema;

/// How long a start waits for servers that do not answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// One file in the data folder: one controller.
    #[default]
    Embedded,
    /// Consul: several controllers.
    Consul,
    /// etcd: several controllers.
    Etcd,
}

/// Where Consul or etcd is, and how the controller shows who it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterConfig {
    /// `http://HOST:PORT` or `https://HOST:PORT`, of all servers.
    #[serde(default)]
    pub endpoints: Vec<String>,
    /// All keys are under this one; `nv` when it is not given.
    pub prefix: Option<String>,
    /// File with Consul's ACL token.
    pub token_file: Option<PathBuf>,
    /// etcd's user.
    pub user: Option<String>,
    /// File with that user's password.
    pub password_file: Option<PathBuf>,
    /// File with the CA of the servers' certificates, PEM.
    pub ca: Option<PathBuf>,
    /// File with the certificate to show, PEM.
    pub certificate: Option<PathBuf>,
    /// File with its key, PEM.
    pub key: Option<PathBuf>,
}

impl ClusterConfig {
    fn tls(&self) -> anyhow::Result<TlsOptions> {
        let identity_pem = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
            (None, None) => None,
            _ => bail!("[cluster]: certificate and key belong together"),
        };
        Ok(TlsOptions {
            ca_pem: self.ca.as_deref().map(read).transpose()?,
            identity_pem,
        })
    }

    fn prefix(&self) -> String {
        self.prefix.clone().unwrap_or_else(|| "nv".into())
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn secret(path: &Path) -> anyhow::Result<String> {
    Ok(read(path)?.trim().to_owned())
}

/// Opens the store that is configured, waits for servers that are not there yet, and brings what is in it up to date.
pub(crate) async fn open(config: &Config) -> anyhow::Result<Arc<dyn KvStore>> {
    let store = open_as_it_is(config).await?;
    schema::bring_up_to_date(&*store).await?;
    Ok(store)
}

/// File of the embedded store.
pub(crate) fn file(config: &Config) -> PathBuf {
    config.data_dir.join("store.redb")
}

/// Opens the store that is configured, whatever is in it.
pub(crate) async fn open_as_it_is(config: &Config) -> anyhow::Result<Arc<dyn KvStore>> {
    let cluster = &config.cluster;
    let store: Arc<dyn KvStore> = match config.store {
        StoreKind::Embedded => {
            let path = file(config);
            let store = tokio::task::spawn_blocking(move || LocalStore::open(&path)).await;
            Arc::new(store.context("opening the store")??)
        }
        StoreKind::Consul => {
            let options = ConsulOptions {
                endpoints: cluster.endpoints.clone(),
                prefix: cluster.prefix(),
                token: cluster.token_file.as_deref().map(secret).transpose()?,
                tls: cluster.tls()?,
            };
            Arc::new(patiently("Consul", || ConsulStore::connect(options.clone())).await?)
        }
        StoreKind::Etcd => {
            let password = cluster.password_file.as_deref().map(secret).transpose()?;
            let options = EtcdOptions {
                endpoints: cluster.endpoints.clone(),
                prefix: cluster.prefix(),
                user: cluster.user.clone().zip(password),
                tls: cluster.tls()?,
            };
            Arc::new(patiently("etcd", || EtcdStore::connect(options.clone())).await?)
        }
    };
    Ok(store)
}

async fn patiently<T, F>(what: &str, connect: impl Fn() -> F) -> anyhow::Result<T>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let begun = Instant::now();
    loop {
        match connect().await {
            Ok(store) => return Ok(store),
            Err(StoreError::Unavailable { detail }) if begun.elapsed() < PATIENCE => {
                tracing::warn!(detail, "{what} is not there yet, waiting for it");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(error) => return Err(error).with_context(|| format!("{what} cannot be used")),
        }
    }
}
