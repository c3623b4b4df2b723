//! The store behind the controller: its own file, or Consul or etcd, which several controllers share.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nv_store::{
    CommitOutcome, ConsulOptions, ConsulStore, EtcdOptions, EtcdStore, Expect, KvStore, LocalStore,
    StoreError, TlsOptions, Txn,
};
use serde::Deserialize;

use crate::config::Config;

/// How long a start waits for servers that do not answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Key of the version of what is stored.
const SCHEMA: &str = "config/schema";
/// The version that this controller writes. A newer one is refused: what it means is not known here.
const VERSION: u64 = 1;

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

/// Opens the store that is configured, and waits for servers that are not there yet.
pub(crate) async fn open(config: &Config) -> anyhow::Result<Arc<dyn KvStore>> {
    let cluster = &config.cluster;
    let store: Arc<dyn KvStore> = match config.store {
        StoreKind::Embedded => {
            let path = config.data_dir.join("store.redb");
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
    check_schema(&*store).await?;
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

/// Refuses what a newer controller wrote; notes the version where there is none yet.
async fn check_schema(store: &dyn KvStore) -> anyhow::Result<()> {
    let (found, _) = store.get(SCHEMA).await?;
    let Some(found) = found else {
        let value = serde_json::json!({ "version": VERSION }).to_string();
        let txn = Txn::new().when(SCHEMA, Expect::Absent).put(SCHEMA, value);
        return match store.commit(txn).await? {
            CommitOutcome::Committed(_) => Ok(()),
            // Another controller was quicker: look at what it wrote.
            CommitOutcome::Conflict { .. } => Box::pin(check_schema(store)).await,
        };
    };
    let value: serde_json::Value = serde_json::from_slice(&found.value).unwrap_or_default();
    match value["version"].as_u64() {
        Some(VERSION) => Ok(()),
        Some(newer) if newer > VERSION => bail!(
            "the store was written by a newer nv (schema {newer}, this one knows {VERSION}): update this controller"
        ),
        other => bail!("'{SCHEMA}' says {other:?}, which no nv wrote: restore it from a backup"),
    }
}
