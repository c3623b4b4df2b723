//! Where the controller is and how it is trusted: option, then environment, then default.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::cli::Global;
use crate::error::CtlError;

const DEFAULT_SERVER: &str = "https://127.0.0.1:10443";
const DEFAULT_CA: &str = "/var/lib/nv/ca.pem";

/// Settings in force, each with where it came from.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) server: (String, &'static str),
    pub(crate) ca: Option<(PathBuf, &'static str)>,
    pub(crate) insecure: bool,
    pub(crate) token_file: (PathBuf, &'static str),
}

impl Config {
    pub(crate) fn new(global: &Global) -> Result<Self, CtlError> {
        let origin = |env: &str| {
            if std::env::var_os(env).is_some() {
                "environment or option"
            } else {
                "option"
            }
        };
        let server = match &global.server {
            Some(server) => (check_server(server)?, origin("NV_SERVER")),
            None => (DEFAULT_SERVER.to_owned(), "default"),
        };
        let ca = match &global.ca {
            Some(file) => Some((file.clone(), origin("NV_CA"))),
            None => Path::new(DEFAULT_CA)
                .exists()
                .then(|| (PathBuf::from(DEFAULT_CA), "default")),
        };
        let token_file = match &global.token_file {
            Some(file) => (file.clone(), origin("NV_TOKEN_FILE")),
            None => (default_token_file()?, "default"),
        };
        Ok(Self {
            server,
            ca,
            insecure: global.insecure,
            token_file,
        })
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

    /// One line a setting.
    pub(crate) fn describe(&self) -> Vec<String> {
        let ca = self.ca.as_ref().map_or_else(
            || "ca          none: only certificates of a known CA are taken (default)".to_owned(),
            |(file, origin)| format!("ca          {} ({origin})", file.display()),
        );
        vec![
            format!("server      {} ({})", self.server.0, self.server.1),
            ca,
            format!("insecure    {}", self.insecure),
            format!(
                "token-file  {} ({})",
                self.token_file.0.display(),
                self.token_file.1
            ),
        ]
    }
}

fn check_server(server: &str) -> Result<String, CtlError> {
    let server = server.trim_end_matches('/');
    if server.starts_with("https://")
        || server.starts_with("http://127.0.0.1")
        || server.starts_with("http://[::1]")
    {
        return Ok(server.to_owned());
    }
    Err(CtlError::Usage(format!(
        "--server '{server}': an address starts with https://, such as {DEFAULT_SERVER}"
    )))
}

fn default_token_file() -> Result<PathBuf, CtlError> {
    let folder = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")));
    folder.map(|folder| folder.join("nv/token")).ok_or_else(|| {
        CtlError::Usage("neither HOME nor XDG_CONFIG_HOME is set: name a file with --token-file".into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_https_or_this_machine() {
        assert_eq!(check_server("https://nv:10443/").unwrap(), "https://nv:10443");
        assert!(check_server("http://127.0.0.1:1").is_ok());
        for bad in ["nv:10443", "http://nv", "ftp://x"] {
            assert!(check_server(bad).is_err(), "{bad}");
        }
    }
}
