//! Where the controller is and how it is trusted: option, then environment, then the context of the configuration file, then default.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use clap::parser::ValueSource;

use crate::cli::Global;
use crate::contexts::{Contexts, Entry, check_name};
use crate::error::CtlError;

const DEFAULT_SERVER: &str = "https://127.0.0.1:10443";
const DEFAULT_CA: &str = "/var/lib/nv/ca.pem";

/// Which settings the command line itself names; others that are there are from the environment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Given {
    pub(crate) server: bool,
    pub(crate) ca: bool,
    pub(crate) token_file: bool,
    pub(crate) insecure: bool,
    context: bool,
    config_file: bool,
}

impl Given {
    pub(crate) fn new(matches: &ArgMatches) -> Self {
        let given = |name| matches.value_source(name) == Some(ValueSource::CommandLine);
        Self {
            server: given("server"),
            ca: given("ca"),
            token_file: given("token_file"),
            insecure: given("insecure"),
            context: given("context"),
            config_file: given("config_file"),
        }
    }
}

/// Settings in force, each with where it came from.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// `None` where there is no home for one.
    pub(crate) file: Option<(PathBuf, String)>,
    pub(crate) context: Option<(String, String)>,
    pub(crate) server: (String, String),
    pub(crate) ca: Option<(PathBuf, String)>,
    pub(crate) insecure: (bool, String),
    pub(crate) token_file: (PathBuf, String),
}

fn origin(given: bool, option: &str, env: &str) -> String {
    if given {
        format!("option {option}")
    } else {
        format!("environment {env}")
    }
}

fn by_default() -> String {
    "default".to_owned()
}

/// The configuration file that counts.
pub(crate) fn file(global: &Global, given: Given) -> Result<(PathBuf, String), CtlError> {
    match &global.config_file {
        Some(file) => Ok((
            file.clone(),
            origin(given.config_file, "--config-file", "NV_CONFIG"),
        )),
        None => Ok((folder("--config-file")?.join("config.toml"), by_default())),
    }
}

/// The context that counts, if there is one.
fn context(
    global: &Global,
    given: Given,
    file: &str,
    known: &Contexts,
) -> Result<Option<(String, String, Entry)>, CtlError> {
    let named = global.context.as_ref().filter(|name| !name.is_empty());
    let (name, origin) = match (named, &known.current_context) {
        (Some(name), _) => (name, origin(given.context, "--context", "NV_CONTEXT")),
        (None, Some(name)) => (name, format!("current-context of {file}")),
        (None, None) => return Ok(None),
    };
    let entry = known.get(name)?.clone();
    Ok(Some((name.clone(), origin, entry)))
}

impl Config {
    pub(crate) fn new(global: &Global, given: Given) -> Result<Self, CtlError> {
        // Whoever has no home can still say it all by options.
        let file = file(global, given).ok();
        let path = file.as_ref().map(|(path, _)| path.as_path());
        let known = path.map(Contexts::read).transpose()?.unwrap_or_default();
        let shown = path.map(|path| path.display().to_string()).unwrap_or_default();
        let context = context(global, given, &shown, &known)?;
        let of_context = context
            .as_ref()
            .map(|(name, ..)| format!("context '{name}' of {shown}"))
            .unwrap_or_default();
        let entry = context.as_ref().map(|(.., entry)| entry);
        let server = match (&global.server, entry) {
            (Some(server), _) => (
                check_server(server)?,
                origin(given.server, "--server", "NV_SERVER"),
            ),
            (None, Some(entry)) => (check_server(&entry.server)?, of_context.clone()),
            (None, None) => (DEFAULT_SERVER.to_owned(), by_default()),
        };
        // A context's session and trust are its server's: another server must not get the token.
        let entry = entry.filter(|entry| check_server(&entry.server).is_ok_and(|own| own == server.0));
        let ca = match (&global.ca, entry) {
            (Some(file), _) => Some((file.clone(), origin(given.ca, "--ca", "NV_CA"))),
            (None, Some(Entry { ca: Some(file), .. })) => Some((file.clone(), of_context.clone())),
            (None, _) => Path::new(DEFAULT_CA)
                .exists()
                .then(|| (PathBuf::from(DEFAULT_CA), by_default())),
        };
        let insecure = match entry {
            _ if global.insecure => (true, "option --insecure".to_owned()),
            Some(entry) if entry.insecure => (true, of_context.clone()),
            _ => (false, by_default()),
        };
        let token_file = match (&global.token_file, &context, entry) {
            (Some(file), ..) => (
                file.clone(),
                origin(given.token_file, "--token-file", "NV_TOKEN_FILE"),
            ),
            (None, Some((name, ..)), Some(entry)) => (token_file(name, entry)?, of_context),
            (None, ..) => (folder("--token-file")?.join("token"), by_default()),
        };
        Ok(Self {
            file,
            context: context.map(|(name, origin, _)| (name, origin)),
            server,
            ca,
            insecure,
            token_file,
        })
    }

    /// For commands that ask no controller: without a file, a context or a token.
    pub(crate) fn none() -> Self {
        Self {
            file: None,
            context: None,
            server: (DEFAULT_SERVER.to_owned(), by_default()),
            ca: None,
            insecure: (false, by_default()),
            token_file: (PathBuf::new(), by_default()),
        }
    }

    /// The session token, if there is one.
    pub(crate) fn token(&self) -> Result<String, CtlError> {
        let file = &self.token_file.0;
        match fs::read_to_string(file) {
            Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
            Ok(_) => Err(CtlError::NoToken {
                server: self.server.0.clone(),
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(CtlError::NoToken {
                server: self.server.0.clone(),
            }),
            Err(source) => Err(CtlError::Io {
                action: format!("cannot read {}", file.display()),
                source,
            }),
        }
    }

    /// Keeps the token where only its owner can read it.
    pub(crate) fn save_token(&self, token: &str) -> Result<(), CtlError> {
        let file = &self.token_file.0;
        let io = |source| CtlError::Io {
            action: format!("cannot write {}", file.display()),
            source,
        };
        if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(io)?;
        }
        let mut out = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(file)
            .map_err(io)?;
        out.set_permissions(fs::Permissions::from_mode(0o600))
            .map_err(io)?;
        out.write_all(token.as_bytes()).map_err(io)
    }

    pub(crate) fn forget_token(&self) -> Result<(), CtlError> {
        match fs::remove_file(&self.token_file.0) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(CtlError::Io {
                action: format!("cannot remove {}", self.token_file.0.display()),
                source,
            }),
            _ => Ok(()),
        }
    }

    /// Setting, value, origin. Never a secret: of the token only whether it is there.
    pub(crate) fn settings(&self) -> Vec<(&'static str, String, String)> {
        let none = || (String::new(), by_default());
        let (context, context_origin) = self.context.clone().unwrap_or_else(none);
        let ca = self.ca.as_ref();
        let (ca, ca_origin) = ca.map_or_else(none, |(file, origin)| {
            (file.display().to_string(), origin.clone())
        });
        let file = self.file.as_ref();
        let (file, file_origin) = file.map_or_else(none, |(file, origin)| {
            (file.display().to_string(), origin.clone())
        });
        vec![
            ("config-file", file, file_origin),
            ("context", context, context_origin),
            ("server", self.server.0.clone(), self.server.1.clone()),
            ("ca", ca, ca_origin),
            ("insecure", self.insecure.0.to_string(), self.insecure.1.clone()),
            (
                "token-file",
                self.token_file.0.display().to_string(),
                self.token_file.1.clone(),
            ),
            (
                "logged-in",
                self.token().is_ok().to_string(),
                "the token file".to_owned(),
            ),
        ]
    }
}

/// Where a context's token is kept.
pub(crate) fn token_file(name: &str, entry: &Entry) -> Result<PathBuf, CtlError> {
    check_name(name)?;
    match &entry.token_file {
        Some(file) => Ok(file.clone()),
        None => Ok(folder("--token-file")?.join("tokens").join(name)),
    }
}

/// An address that tokens may be sent to; without a password in it, which would be shown and kept.
pub(crate) fn check_server(server: &str) -> Result<String, CtlError> {
    let server = server.trim_end_matches('/');
    if server.contains('@') {
        return Err(CtlError::Usage(
            "--server: an address has no user or password in it; use 'nvctl login'".into(),
        ));
    }
    let is_here = ["http://127.0.0.1", "http://[::1]"].iter().any(|here| {
        let rest = server.strip_prefix(here);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/']))
    });
    if server.starts_with("https://") || is_here {
        return Ok(server.to_owned());
    }
    Err(CtlError::Usage(format!(
        "--server '{server}': an address starts with https://, such as {DEFAULT_SERVER}"
    )))
}

/// Where the user's files of nv are.
fn folder(option: &str) -> Result<PathBuf, CtlError> {
    let folder = std::env::var_os("XDG_CONFIG_HOME")
        .filter(|folder| !folder.is_empty())
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")));
    folder.map(|folder| folder.join("nv")).ok_or_else(|| {
        CtlError::Usage(format!(
            "neither HOME nor XDG_CONFIG_HOME is set: name a file with {option}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_https_or_this_machine() {
        assert_eq!(check_server("https://nv:10443/").unwrap(), "https://nv:10443");
        assert!(check_server("http://127.0.0.1:1").is_ok());
        for bad in [
            "nv:10443",
            "http://nv",
            "ftp://x",
            "https://admin:secret@nv",
            "http://127.0.0.1.example.org",
        ] {
            assert!(check_server(bad).is_err(), "{bad}");
        }
    }
}
