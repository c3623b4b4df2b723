//! The last policy on disk: what an agent enforces when it starts and no controller answers.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nv_types::{NodeId, Revision};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

const VERSION: u32 = 1;

/// Keys and values of the store that concern a node, at a revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) entries: BTreeMap<String, Vec<u8>>,
    pub(crate) revision: Revision,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    v: u32,
    node: NodeId,
    revision: Revision,
    /// SHA-256 of node, revision and entries.
    sha256: String,
    entries: Vec<(String, String)>,
}

impl Stored {
    fn digest(&self) -> String {
        let mut hash = Sha256::new();
        let (node, revision) = (self.node.to_string(), self.revision.to_string());
        let parts = [&node, &revision]
            .into_iter()
            .chain(self.entries.iter().flat_map(|(key, value)| [key, value]));
        for part in parts {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part.as_bytes());
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A snapshot that is not used.
#[derive(Debug, thiserror::Error)]
#[error("the saved policy {path} is not used: {problem}")]
pub(crate) struct BadSnapshot {
    path: PathBuf,
    problem: String,
}

impl Snapshot {
    /// Keys and values.
    pub(crate) fn values(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.entries
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_slice()))
    }

    /// Reads the file. `None` when there is none.
    pub(crate) fn load(path: &Path, node: &NodeId) -> Result<Option<Self>, BadSnapshot> {
        let bad = |problem: String| BadSnapshot {
            path: path.to_owned(),
            problem,
        };
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(bad(error.to_string())),
        };
        let stored: Stored =
            serde_json::from_slice(&text).map_err(|error| bad(format!("it is damaged: {error}")))?;
        if stored.v != VERSION {
            return Err(bad(format!(
                "it has version {}, this build reads {VERSION}",
                stored.v
            )));
        }
        if stored.sha256 != stored.digest() {
            return Err(bad("it is damaged: its checksum is wrong".into()));
        }
        if stored.node != *node {
            return Err(bad(format!("it is of node '{}'", stored.node)));
        }
        let entries = stored
            .entries
            .into_iter()
            .map(|(key, value)| (key, value.into_bytes()))
            .collect();
        Ok(Some(Self {
            entries,
            revision: stored.revision,
        }))
    }

    /// Writes the file: whole or not at all.
    pub(crate) fn save(&self, path: &Path, node: &NodeId) -> std::io::Result<()> {
        let entries = self.entries.iter().filter_map(|(key, value)| {
            // Values are JSON; one that is no text could not have been read either.
            Some((key.clone(), String::from_utf8(value.clone()).ok()?))
        });
        let mut stored = Stored {
            v: VERSION,
            node: node.clone(),
            revision: self.revision,
            sha256: String::new(),
            entries: entries.collect(),
        };
        stored.sha256 = stored.digest();
        let part = path.with_extension("part");
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&part)?;
        file.write_all(&serde_json::to_vec(&stored)?)?;
        file.sync_all()?;
        fs::rename(&part, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_or_foreign_file_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.json");
        let node: NodeId = "n1".parse().unwrap();
        assert!(Snapshot::load(&path, &node).unwrap().is_none());
        let snapshot = Snapshot {
            entries: BTreeMap::from([("policy/group/web".to_owned(), b"{\"v\":1}".to_vec())]),
            revision: Revision(7),
        };
        snapshot.save(&path, &node).unwrap();
        assert_eq!(Snapshot::load(&path, &node).unwrap().unwrap(), snapshot);
        assert!(
            Snapshot::load(&path, &"n2".parse().unwrap())
                .unwrap_err()
                .to_string()
                .contains("n1")
        );
        let good = fs::read(&path).unwrap();
        for cut in 0..good.len() {
            fs::write(&path, &good[..cut]).unwrap();
            let error = Snapshot::load(&path, &node).unwrap_err().to_string();
            assert!(error.contains("policy.json"), "{error}");
        }
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0x04;
            fs::write(&path, bytes).unwrap();
            let loaded = Snapshot::load(&path, &node);
            assert!(
                loaded.is_err() || loaded.unwrap().unwrap() == snapshot,
                "flip at {at}"
            );
        }
    }
}
