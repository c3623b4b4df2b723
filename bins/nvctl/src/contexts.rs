//! The configuration file: several controllers, each with its CA and its session, and which one counts.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::CtlError;

/// Longest name of a context.
const LONGEST_NAME: usize = 64;

/// A controller. Secrets are not in here: the session's token is in a file of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Entry {
    pub(crate) server: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) insecure: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<PathBuf>,
}

/// What the file says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Contexts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current_context: Option<String>,
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Entry>,
}

impl Contexts {
    /// Reads the file; one that is not there is empty.
    pub(crate) fn read(file: &Path) -> Result<Self, CtlError> {
        let problem = |problem: String| CtlError::File {
            file: file.display().to_string(),
            problem,
        };
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(problem(error.to_string())),
        };
        let read: Self = toml::from_str(&text).map_err(|error| {
            // Without the line itself: there may be a secret in it that does not belong there.
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.map_or(1, |before| before.matches('\n').count() + 1);
            problem(format!("line {line}: {}", error.message()))
        })?;
        for (name, entry) in &read.contexts {
            check_name(name)?;
            crate::config::check_server(&entry.server)
                .map_err(|error| problem(format!("context '{name}': {error}")))?;
        }
        Ok(read)
    }

    /// Writes the file whole: a reader sees the old one or the new one.
    pub(crate) fn write(&self, file: &Path) -> Result<(), CtlError> {
        let io = |source| CtlError::Io {
            action: format!("cannot write {}", file.display()),
            source,
        };
        let text = toml::to_string_pretty(self)
            .map_err(|error| CtlError::Usage(format!("cannot write the configuration: {error}")))?;
        if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(io)?;
        }
        let mut name = file.as_os_str().to_owned();
        name.push(format!(".{}", std::process::id()));
        let draft = PathBuf::from(name);
        let written = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)
            .and_then(|mut out| out.write_all(text.as_bytes()).and_then(|()| out.sync_all()))
            .and_then(|()| fs::rename(&draft, file));
        written.map_err(|source| {
            let _ = fs::remove_file(&draft);
            io(source)
        })
    }

    /// The context of this name.
    pub(crate) fn get(&self, name: &str) -> Result<&Entry, CtlError> {
        self.contexts.get(name).ok_or_else(|| {
            let known: Vec<_> = self.contexts.keys().map(String::as_str).collect();
            let known = if known.is_empty() {
                "there are none: make one with 'nvctl config set-context NAME --server URL'".to_owned()
            } else {
                format!("there are {}", known.join(", "))
            };
            CtlError::Usage(format!("there is no context '{name}'; {known}"))
        })
    }
}

/// A name is part of a file's name.
pub(crate) fn check_name(name: &str) -> Result<(), CtlError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > LONGEST_NAME || name.starts_with(['.', '-']) || !name.chars().all(fits)
    {
        return Err(CtlError::Usage(format!(
            "context '{name}': a name has up to {LONGEST_NAME} letters, digits, '.', '_' and '-', and begins with a letter or digit"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_a_bad_file_is_named_without_its_text() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("deep/config.toml");
        assert_eq!(Contexts::read(&file).unwrap(), Contexts::default());
        let mut contexts = Contexts {
            current_context: Some("lab".into()),
            ..Contexts::default()
        };
        let entry = Entry {
            server: "https://nv:10443".into(),
            ca: Some("/etc/nv/ca.pem".into()),
            ..Entry::default()
        };
        contexts.contexts.insert("lab".into(), entry);
        contexts.write(&file).unwrap();
        assert_eq!(Contexts::read(&file).unwrap(), contexts);
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
        for (text, says) in [
            (
                "current-context = \"a\"\n\n[contexts.a]\nserver = \"https://x\"\ntoken = \"hunter2\"\n",
                "line 5",
            ),
            ("[contexts.a]\nserver = \"https://admin:hunter2@x\"\n", "'a'"),
            ("[contexts.\"../x\"]\nserver = \"https://x\"\n", "../x"),
            ("[contexts.a]\n", "server"),
        ] {
            fs::write(&file, text).unwrap();
            let error = Contexts::read(&file).unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn names_cannot_leave_their_folder() {
        for bad in ["", ".", "..", "a/b", "-x", "a b", "\u{202e}x", &"x".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert!(check_name("lab-1.example_x").is_ok());
    }
}
