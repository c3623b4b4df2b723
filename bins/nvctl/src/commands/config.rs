//! Contexts, and the configuration in force.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::cli::{ConfigCommand, Format, Global, Unset};
use crate::config::{self, Config, Given, check_server, token_file};
use crate::contexts::{Contexts, Entry, check_name};
use crate::error::{CtlError, EXIT_OK};
use crate::output::{Output, note};
use crate::table;

pub(super) fn run(
    global: &Global,
    given: Given,
    output: &Output,
    command: Option<ConfigCommand>,
) -> Result<u8, CtlError> {
    match command.unwrap_or(ConfigCommand::View { show_origin: true }) {
        ConfigCommand::View { show_origin } => view(&Config::new(global, given)?, output, show_origin)?,
        ConfigCommand::GetContexts => list(global, given, output)?,
        ConfigCommand::UseContext { name } => {
            let (file, mut contexts) = read(global, given)?;
            let server = contexts.get(&name)?.server.clone();
            contexts.current_context = Some(name.clone());
            contexts.write(&file)?;
            note(&format!("context {name}: {server}"));
            if global.context.as_ref().is_some_and(|other| *other != name) {
                note("--context or NV_CONTEXT is set, and still counts first");
            }
        }
        ConfigCommand::SetContext { name, switch, unset } => set(global, given, &name, switch, &unset)?,
        ConfigCommand::DeleteContext { name } => delete(global, given, &name)?,
    }
    Ok(EXIT_OK)
}

fn read(global: &Global, given: Given) -> Result<(PathBuf, Contexts), CtlError> {
    let (file, _) = config::file(global, given)?;
    let contexts = Contexts::read(&file)?;
    Ok((file, contexts))
}

fn view(config: &Config, output: &Output, show_origin: bool) -> Result<(), CtlError> {
    let settings = config.settings().into_iter().map(|(setting, value, origin)| {
        if show_origin {
            json!({"setting": setting, "value": value, "origin": origin})
        } else {
            json!({"setting": setting, "value": value})
        }
    });
    let settings = json!({ "settings": settings.collect::<Vec<_>>() });
    let columns = if show_origin {
        &table::ORIGINS
    } else {
        &table::SETTINGS
    };
    output.list(&settings, "settings", columns)
}

fn list(global: &Global, given: Given, output: &Output) -> Result<(), CtlError> {
    let (_, contexts) = read(global, given)?;
    let current = global.context.as_ref().or(contexts.current_context.as_ref());
    let mut rows = Vec::new();
    for (name, entry) in &contexts.contexts {
        let token = token_file(name, entry)?;
        rows.push(json!({
            "name": name,
            "current": current == Some(name),
            "mark": if current == Some(name) { "*" } else { "" },
            "server": entry.server,
            "ca": entry.ca.as_ref().map(|file| file.display().to_string()),
            "insecure": entry.insecure,
            "logged_in": fs::metadata(&token).is_ok_and(|found| found.len() > 0),
            "token_file": token.display().to_string(),
        }));
    }
    if rows.is_empty() && matches!(output.format(), Format::Table | Format::Wide) {
        note("no contexts: make one with 'nvctl config set-context NAME --server URL'");
    }
    output.list(&json!({ "contexts": rows }), "contexts", &table::CONTEXTS)
}

fn set(global: &Global, given: Given, name: &str, switch: bool, unset: &[Unset]) -> Result<(), CtlError> {
    check_name(name)?;
    let (file, mut contexts) = read(global, given)?;
    let is_new = !contexts.contexts.contains_key(name);
    let mut entry = contexts.contexts.get(name).cloned().unwrap_or_default();
    // Only what this command line says: what happens to be in the environment is of another moment.
    let (server, ca) = (
        global.server.as_ref().filter(|_| given.server),
        global.ca.as_ref().filter(|_| given.ca),
    );
    let token_file = global.token_file.as_ref().filter(|_| given.token_file);
    match server {
        Some(server) => entry.server = check_server(server)?,
        None if is_new => {
            return Err(CtlError::Usage(format!(
                "context '{name}' is new: say where its controller is with --server"
            )));
        }
        None => {}
    }
    for setting in unset {
        let (named, word) = match setting {
            Unset::Ca => (ca.is_some(), "ca"),
            Unset::Insecure => (given.insecure && global.insecure, "insecure"),
            Unset::TokenFile => (token_file.is_some(), "token-file"),
        };
        if named {
            return Err(CtlError::Usage(format!(
                "--{word} and --unset {word} contradict each other"
            )));
        }
        match setting {
            Unset::Ca => entry.ca = None,
            Unset::Insecure => entry.insecure = false,
            Unset::TokenFile => entry.token_file = None,
        }
    }
    if let Some(ca) = ca {
        entry.ca = Some(absolute(ca)?);
    }
    if let Some(token_file) = token_file {
        entry.token_file = Some(absolute(token_file)?);
    }
    entry.insecure |= given.insecure && global.insecure;
    let moved = contexts
        .contexts
        .get(name)
        .is_some_and(|before| before.server != entry.server);
    if moved && own_token(name, &entry)? {
        note("its server is another one now: the session with the old one is forgotten");
    }
    note(&format!(
        "context {name} {}: {}",
        if is_new { "made" } else { "changed" },
        entry.server
    ));
    contexts.contexts.insert(name.to_owned(), entry);
    if switch {
        contexts.current_context = Some(name.to_owned());
    }
    contexts.write(&file)
}

fn delete(global: &Global, given: Given, name: &str) -> Result<(), CtlError> {
    let (file, mut contexts) = read(global, given)?;
    let entry = contexts.get(name)?.clone();
    contexts.contexts.remove(name);
    let was_current = contexts.current_context.as_deref() == Some(name);
    if was_current {
        contexts.current_context = None;
    }
    contexts.write(&file)?;
    own_token(name, &entry)?;
    note(&format!("context {name} deleted"));
    if was_current {
        note("no context counts now: choose one with 'nvctl config use-context NAME'");
    }
    Ok(())
}

/// Removes a context's token, unless the user named a file for it. Gives whether there was one.
fn own_token(name: &str, entry: &Entry) -> Result<bool, CtlError> {
    if entry.token_file.is_some() {
        return Ok(false);
    }
    let file = token_file(name, entry)?;
    match fs::remove_file(&file) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(CtlError::Io {
            action: format!("cannot remove {}", file.display()),
            source,
        }),
    }
}

/// Files are named for every folder that nvctl is called in.
fn absolute(file: &Path) -> Result<PathBuf, CtlError> {
    std::path::absolute(file).map_err(|source| CtlError::Io {
        action: format!("cannot tell where {} is", file.display()),
        source,
    })
}
