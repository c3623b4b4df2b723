//! The controller's store as one document.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use reqwest::Method;
use serde_json::Value;

use super::{Context, at, confirm};
use crate::cli::{Format, Store};
use crate::error::{CtlError, EXIT_OK};
use crate::output::{escape, note, stdout_error};
use crate::table;

pub(super) async fn run(context: &Context, command: Store) -> Result<u8, CtlError> {
    match command {
        Store::Export { file, force } => export(context, &file, force).await,
        Store::Import { file, dry_run, yes } => import(context, &file, dry_run, yes).await,
    }
}

fn failed(action: &str, file: &Path, source: std::io::Error) -> CtlError {
    CtlError::Io {
        action: format!("cannot {action} {}", file.display()),
        source,
    }
}

async fn export(context: &Context, file: &Path, force: bool) -> Result<u8, CtlError> {
    if !force && file.exists() {
        return Err(CtlError::Usage(format!(
            "{} is there already: give another name, or --force",
            file.display()
        )));
    }
    let client = context.client()?;
    let response = client.stream("/v1/store", &[], "application/json").await?;
    let bytes = response
        .bytes()
        .await
        .map_err(|source| client.unreachable(source))?;
    let document: Value =
        serde_json::from_slice(&bytes).map_err(|error| client.garbled(error.to_string()))?;
    let (Some(entries), Some(revision)) = (document["entries"].as_array(), document["revision"].as_u64())
    else {
        return Err(client.garbled("no export of a store"));
    };
    if file == Path::new("-") {
        std::io::stdout().write_all(&bytes).map_err(stdout_error)?;
    } else {
        write(file, &bytes)?;
    }
    note(&format!("{} entries{}", entries.len(), at(Some(revision))));
    Ok(EXIT_OK)
}

/// Makes a file that only its owner may read; whole or not at all.
fn write(file: &Path, bytes: &[u8]) -> Result<(), CtlError> {
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let made = || -> std::io::Result<()> {
        let _ = fs::remove_file(&part);
        let mut out = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&part)?;
        out.write_all(bytes)?;
        out.sync_all()?;
        fs::rename(&part, file)
    };
    made().map_err(|source| {
        let _ = fs::remove_file(&part);
        failed("write", file, source)
    })
}

fn read(file: &Path) -> Result<Value, CtlError> {
    let mut bytes = Vec::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut bytes).map(drop)
    } else {
        fs::read(file).map(|content| bytes = content)
    };
    read.map_err(|source| failed("read", file, source))?;
    serde_json::from_slice(&bytes).map_err(|error| CtlError::File {
        file: file.display().to_string(),
        problem: format!("not an export of a store: {error}"),
    })
}

async fn import(context: &Context, file: &Path, dry_run: bool, yes: bool) -> Result<u8, CtlError> {
    let document = read(file)?;
    let question = "put groups, rules, modes and settings back as they are there?";
    if !dry_run && !yes && !confirm(context, question)? {
        return Err(CtlError::Usage("not imported".into()));
    }
    let path = if dry_run {
        "/v1/store?dry_run=true"
    } else {
        "/v1/store"
    };
    let answer = context
        .client()?
        .send(Method::POST, path, Some(&document))
        .await?;
    let changes = answer.body["changes"].as_array();
    let count = changes.map_or(0, Vec::len);
    let plain = matches!(
        context.output.format(),
        Format::Table | Format::Wide | Format::Name
    );
    if plain {
        for change in changes.into_iter().flatten() {
            context
                .output
                .line(&escape(change.as_str().unwrap_or_default(), false))?;
        }
    } else {
        context.output.object(&answer.body, "", &table::GROUPS)?;
    }
    if dry_run {
        note(&format!("{count} changes, nothing changed (--dry-run)"));
    } else {
        note(&format!("{count} changes{}", at(answer.revision)));
    }
    Ok(EXIT_OK)
}
