//! `nv-controller store`: what is done to a store while no controller runs on it, and the copies that a controller makes while it does.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use nv_store::KvStore;
use nv_store::archive::Archive;
use nv_store::repair::{self, Examined};
use nv_types::Revision;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::StoreKind;
use crate::backing;
use crate::ca::{self, Ca};
use crate::config::Config;
use crate::engine::LEADER;
use crate::schema::{ORIGIN, origin, problems};

/// Copies that a controller keeps.
const COPIES: usize = 5;
/// How often a controller makes one, when something changed.
const EVERY: Duration = Duration::from_secs(3600);
/// Revisions that a store may have gone on for after it was exported.
const MARGIN: u64 = 1_000_000;

/// What can be done to a store.
#[derive(Debug, Clone, Subcommand)]
pub enum StoreCommand {
    /// Write the whole store as one JSON document, with the CA's private key.
    Export {
        /// File to make; without it: standard output.
        file: Option<PathBuf>,
    },
    /// Fill the store from such a document, from whichever backend that came.
    Import {
        /// File.
        file: PathBuf,
        /// Also where the store holds something already: it is replaced.
        #[arg(long)]
        replace: bool,
    },
    /// Say what is wrong with the embedded store's file, and what can be had of it. Nothing is changed without --take.
    Repair {
        /// Go on with what the file still holds (`file`), or with a copy: its path. The damaged file is kept under another name.
        #[arg(long, value_name = "file|COPY")]
        take: Option<PathBuf>,
    },
}

/// Does it; gives what there is to say on standard output.
///
/// # Errors
/// Names what is in the way.
pub async fn run(config: &Config, command: &StoreCommand) -> anyhow::Result<String> {
    match command {
        StoreCommand::Export { file } => export(config, file.as_deref()).await,
        StoreCommand::Import { file, replace } => import(config, &read(file)?, *replace).await,
        StoreCommand::Repair { take } => repair(config, take.as_deref()).await,
    }
}

fn read(file: &Path) -> anyhow::Result<Archive> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    Archive::from_json(&bytes).with_context(|| file.display().to_string())
}

async fn open(config: &Config) -> anyhow::Result<Arc<dyn KvStore>> {
    let store = backing::open_as_it_is(config).await?;
    if let Some(leader) = store.get(LEADER).await?.0 {
        bail!(
            "the controller '{}' works on this store: stop all of them and wait a few seconds; online there is 'nvctl store'",
            String::from_utf8_lossy(&leader.value)
        );
    }
    Ok(store)
}

async fn export(config: &Config, file: Option<&Path>) -> anyhow::Result<String> {
    let embedded = config.store == StoreKind::Embedded;
    let store: Arc<dyn KvStore> = if embedded {
        Arc::new(repair::open_existing(&backing::file(config))?)
    } else {
        open(config).await?
    };
    let mut archive = Archive::of(&*store).await?;
    if embedded && config.data_dir.join("ca.pem").exists() {
        archive
            .entries
            .insert(ca::SHARED.into(), Ca::entry(&config.data_dir)?);
    }
    let json = archive.to_json()?;
    let Some(file) = file else { return Ok(json) };
    write(file, &json)?;
    Ok(format!(
        "{} entries of revision {} in {}",
        archive.entries.len(),
        archive.revision,
        file.display()
    ))
}

/// Makes a file that only its owner may read; it is there whole or not at all.
fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let made = || -> std::io::Result<()> {
        let _ = fs::remove_file(&part);
        let mut out = fs::File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&part)?;
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        fs::rename(&part, file)
    };
    made().with_context(|| {
        let _ = fs::remove_file(&part);
        format!("cannot write {}", file.display())
    })
}

async fn import(config: &Config, archive: &Archive, replace: bool) -> anyhow::Result<String> {
    let entries = archive.entries.iter();
    let bad = problems(entries.map(|(key, value)| (key.as_str(), value.as_slice())));
    if let Some((key, problem)) = bad.first() {
        bail!("the export holds what this controller cannot use: '{key}': {problem}");
    }
    make_folder(&config.data_dir)?;
    let mut archive = archive.clone();
    if config.store == StoreKind::Embedded
        && let Some(entry) = archive.entries.remove(ca::SHARED)
    {
        Ca::restore(&config.data_dir, &entry)?;
    }
    // Agents know revisions of the store that this came from. None of them is one of this store.
    let before = archive.entries.get(ORIGIN).and_then(|value| origin(value));
    let until = before
        .unwrap_or(Revision(0))
        .max(archive.revision)
        .0
        .saturating_add(MARGIN);
    let origin = json!({ "v": 1, "until": until }).to_string();
    archive.entries.insert(ORIGIN.into(), origin.into_bytes());
    let store = open(config).await?;
    let filled = archive.fill(&*store, replace).await?;
    Ok(format!(
        "{} entries written, {} deleted, in {} transactions",
        filled.written, filled.deleted, filled.transactions
    ))
}

fn make_folder(folder: &Path) -> anyhow::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o755)
        .create(folder)
        .with_context(|| format!("cannot make the data folder {}", folder.display()))
}

async fn repair(config: &Config, take: Option<&Path>) -> anyhow::Result<String> {
    if config.store != StoreKind::Embedded {
        bail!("this is for the embedded store: Consul and etcd have tools of their own");
    }
    let path = backing::file(config);
    let found = repair::examine(&path)?;
    let Some(take) = take else {
        return Ok(choices(config, &path, &found));
    };
    let archive = if take == Path::new("file") {
        if found.entries.is_empty() {
            bail!("nothing can be had of {}: take a copy", path.display());
        }
        let entries = found.entries.iter().filter(|entry| entry.lease.is_none());
        Archive {
            revision: found.revision.max(found.acknowledged).unwrap_or_default(),
            entries: entries
                .map(|entry| (entry.key.clone(), entry.value.clone()))
                .collect(),
        }
    } else {
        read(take)?
    };
    let bad = problems(
        archive
            .entries
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_slice())),
    );
    if let Some((key, problem)) = bad.first() {
        bail!("it holds what this controller cannot use: '{key}': {problem}");
    }
    let aside = repair::set_aside(&path)?;
    let said = import(config, &archive, false).await?;
    Ok(format!(
        "{said}; the file that was there is now {}",
        aside.display()
    ))
}

fn choices(config: &Config, path: &Path, found: &Examined) -> String {
    let path = path.display();
    let Some(problem) = &found.problem else {
        let entries = found.entries.len();
        let revision = found.revision.unwrap_or_default();
        return format!("{path} is good: {entries} entries, revision {revision}");
    };
    let mut lines = vec![problem.clone()];
    if let Some(acknowledged) = found.acknowledged {
        lines.push(format!(
            "the last change that was acknowledged has revision {acknowledged}"
        ));
    }
    if !found.damaged.is_empty() {
        lines.push(format!("damaged: {}", found.damaged.join(", ")));
    }
    lines.push("what can be had:".into());
    if !found.entries.is_empty() {
        let revision = found
            .revision
            .map_or_else(|| "unknown".to_owned(), |revision| revision.to_string());
        lines.push(format!(
            "  nv-controller store repair --take file    # {} entries that are as they were written, revision {revision}",
            found.entries.len()
        ));
    }
    for copy in copies(&config.data_dir).into_iter().rev() {
        let what = match read(&copy) {
            Ok(archive) => format!(
                "{} entries, all of revision {}",
                archive.entries.len(),
                archive.revision
            ),
            Err(error) => format!("damaged too: {error:#}"),
        };
        lines.push(format!(
            "  nv-controller store repair --take {}    # {what}",
            copy.display()
        ));
    }
    if lines.last().is_some_and(|line| line == "what can be had:") {
        lines.push("  nothing: of this file nothing can be read, and there is no copy".into());
    }
    lines.join("\n")
}

/// Copies in a data folder, the oldest first.
fn copies(folder: &Path) -> Vec<PathBuf> {
    let found = fs::read_dir(folder.join("backup")).into_iter().flatten();
    let mut found: Vec<PathBuf> = found
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|ending| ending == "json"))
        .collect();
    found.sort();
    found
}

/// Makes copies of an embedded store, for as long as the controller runs: one at the start, then hourly where something changed.
pub(crate) async fn keep_copies(store: Arc<dyn KvStore>, folder: PathBuf, shutdown: CancellationToken) {
    loop {
        if let Err(error) = copy(&*store, &folder).await {
            tracing::error!(error = format!("{error:#}"), "no copy of the store could be made");
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn copy(store: &dyn KvStore, folder: &Path) -> anyhow::Result<()> {
    let archive = Archive::of(store).await?;
    let file = folder
        .join("backup")
        .join(format!("store-{:012}.json", archive.revision.0));
    if file.exists() {
        return Ok(());
    }
    let json = archive.to_json()?;
    let folder = folder.to_owned();
    let write = move || {
        let mut builder = fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(folder.join("backup"))?;
        write(&file, &json)?;
        let all = copies(&folder);
        for old in &all[..all.len().saturating_sub(COPIES)] {
            fs::remove_file(old)?;
        }
        anyhow::Ok(())
    };
    tokio::task::spawn_blocking(write).await?
}
