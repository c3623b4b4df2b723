//! A whole store as one JSON document: a backup, and the way from one backend to another.
//!
//! ```json
//! {
//!  "form": "nv-store/1",
//!  "revision": 812,
//!  "sha256": "9f2c…",
//!  "entries": [
//!   {"key":"policy/group/web","text":"{\"v\":1,…}"},
//!   {"key":"…","base64":"…"}
//!  ]
//! }
//! ```
//!
//! Entries are sorted by key; a value is `text` where it is UTF-8, else `base64`, so that it comes back byte for byte. `revision` is the
//! store's at the reading: all entries are as of that one moment. `sha256` is over the revision and then each key and each value, every
//! one of these with its length in front as eight bytes, big-endian; the number of entries comes before them. Whatever else is done to
//! the document's white space does not matter, any other change is found.
//!
//! What hangs on a lease (which nodes are there, sessions, who leads) is true of a running system only and is left out.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use nv_types::Revision;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::check::MAX_OPS;
use crate::types::{CommitOutcome, Expect, Op, Txn};
use crate::{KvStore, StoreError};

const FORM: &str = "nv-store/1";
/// In a store while it is filled in several transactions: whoever finds it has half of a store.
pub const UNFINISHED: &str = "config/import";
/// Most bytes of one transaction of several.
const PART: usize = 256 * 1024;

/// All entries of a store at one revision, leased ones apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Archive {
    /// Revision of the reading.
    pub revision: Revision,
    /// Key to value.
    pub entries: BTreeMap<String, Vec<u8>>,
}

/// Why a document is no archive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// It is cut off, or is something else.
    #[error("not an export of a store: {0}")]
    Garbled(#[from] serde_json::Error),
    /// Of a form that this version does not read.
    #[error("the export has the form '{0}', this version reads '{FORM}'")]
    Form(String),
    /// An entry that cannot be.
    #[error("entry '{key}' of the export: {problem}")]
    Entry {
        /// Its key.
        key: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// It is not what was exported.
    #[error("the export was changed or damaged: its checksum is {found}, it should be {wanted}")]
    Checksum {
        /// Of what is there.
        found: String,
        /// As it is written there.
        wanted: String,
    },
}

/// Why a store was not filled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// There is something already.
    #[error("the store is not empty ({0} entries, the first is '{1}'): say that it is to be replaced")]
    NotEmpty(usize, String),
    /// Somebody changed it meanwhile.
    #[error("'{0}' was changed meanwhile: stop every controller of this store first")]
    Conflict(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    form: String,
    revision: u64,
    sha256: String,
    entries: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

impl Archive {
    /// Reads a store, at one revision, while it is in use.
    ///
    /// # Errors
    /// As [`KvStore::list`].
    pub async fn of(store: &dyn KvStore) -> Result<Self, StoreError> {
        let listing = store.list("").await?;
        let entries = listing.entries.into_iter();
        let entries = entries
            .filter(|entry| entry.lease.is_none())
            .map(|entry| (entry.key, entry.value));
        Ok(Self {
            revision: listing.revision,
            entries: entries.collect(),
        })
    }

    /// Checksum, hexadecimal.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(self.revision.0.to_be_bytes());
        hash.update((self.entries.len() as u64).to_be_bytes());
        for (key, value) in &self.entries {
            for part in [key.as_bytes(), value] {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part);
            }
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The document, one entry a line.
    ///
    /// # Errors
    /// None that is known: what the JSON writer says.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        let mut out = format!(
            "{{\n \"form\": \"{FORM}\",\n \"revision\": {},\n \"sha256\": \"{}\",\n \"entries\": [",
            self.revision.0,
            self.digest()
        );
        for (number, (key, value)) in self.entries.iter().enumerate() {
            let text = std::str::from_utf8(value).ok().map(str::to_owned);
            let entry = Entry {
                key: key.clone(),
                base64: text.is_none().then(|| BASE64.encode(value)),
                text,
            };
            out.push_str(if number == 0 { "\n  " } else { ",\n  " });
            out.push_str(&serde_json::to_string(&entry)?);
        }
        out.push_str("\n ]\n}\n");
        Ok(out)
    }

    /// Reads a document.
    ///
    /// # Errors
    /// [`ArchiveError`] when it is not, byte for byte, what was exported.
    pub fn from_json(document: &[u8]) -> Result<Self, ArchiveError> {
        let document: Document = serde_json::from_slice(document)?;
        if document.form != FORM {
            return Err(ArchiveError::Form(document.form));
        }
        let mut entries = BTreeMap::new();
        for Entry { key, text, base64 } in document.entries {
            let wrong = |key, problem| Err(ArchiveError::Entry { key, problem });
            let value = match (text, base64.map(|base64| BASE64.decode(base64))) {
                (Some(text), None) => text.into_bytes(),
                (None, Some(Ok(bytes))) => bytes,
                (None, Some(Err(_))) => return wrong(key, "'base64' is not base64"),
                _ => return wrong(key, "either 'text' or 'base64' is needed"),
            };
            if entries.contains_key(&key) {
                return wrong(key, "it is there twice");
            }
            entries.insert(key, value);
        }
        let archive = Self {
            revision: Revision(document.revision),
            entries,
        };
        let found = archive.digest();
        if found != document.sha256 {
            let wanted = document.sha256;
            return Err(ArchiveError::Checksum { found, wanted });
        }
        Ok(archive)
    }

    /// Makes a store hold these entries and no others, leased ones apart. Nobody else may write meanwhile.
    ///
    /// It is one transaction where the store takes it as one. Where it does not (64 operations on Consul, 128 on an etcd that was not told
    /// otherwise), the first of several puts the key [`UNFINISHED`] and the last one removes it: a store that was not filled to its end
    /// can be told from one that was, and the same call again finishes it.
    ///
    /// # Errors
    /// [`ImportError`]; of a store that was empty, or half filled before, nothing is lost.
    pub async fn fill(&self, store: &dyn KvStore, replace: bool) -> Result<Filled, ImportError> {
        let found = store.list("").await?;
        let unfinished = found.entries.iter().any(|entry| entry.key == UNFINISHED);
        let old = found.entries.iter().filter(|entry| entry.lease.is_none());
        let old: BTreeMap<_, _> = old
            .map(|entry| (entry.key.clone(), entry.value.as_slice()))
            .collect();
        if let Some((first, _)) = old.first_key_value()
            && !replace
            && !unfinished
        {
            return Err(ImportError::NotEmpty(old.len(), first.clone()));
        }
        let gone = old.keys().filter(|key| !self.entries.contains_key(*key));
        let mut ops: Vec<Op> = gone.map(|key| Op::Delete { key: key.clone() }).collect();
        let deleted = ops.len();
        for (key, value) in &self.entries {
            if old.get(key).copied() != Some(value.as_slice()) {
                ops.push(Op::Put {
                    key: key.clone(),
                    value: value.clone(),
                    lease: None,
                });
            }
        }
        let mut filled = Filled {
            written: ops.len() - deleted,
            deleted,
            transactions: 0,
        };
        if ops.is_empty() {
            return Ok(filled);
        }
        if ops.len() <= MAX_OPS {
            let whole = Txn {
                conditions: Vec::new(),
                ops: ops.clone(),
            };
            match store.commit(whole).await {
                Ok(outcome) => {
                    filled.transactions = 1;
                    return committed(outcome).map(|()| filled);
                }
                Err(error @ (StoreError::TooLarge { .. } | StoreError::BeyondLimit { .. })) => {
                    tracing::debug!(%error, "the store is filled in several transactions");
                }
                Err(error) => return Err(error.into()),
            }
        }
        filled.transactions = in_parts(store, ops, &self.digest()).await?;
        Ok(filled)
    }
}

/// What [`Archive::fill`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filled {
    /// Entries written.
    pub written: usize,
    /// Entries deleted.
    pub deleted: usize,
    /// Transactions that it took.
    pub transactions: usize,
}

fn committed(outcome: CommitOutcome) -> Result<(), ImportError> {
    match outcome {
        CommitOutcome::Committed(_) => Ok(()),
        CommitOutcome::Conflict { key, .. } => Err(ImportError::Conflict(key)),
    }
}

async fn in_parts(store: &dyn KvStore, ops: Vec<Op>, digest: &str) -> Result<usize, ImportError> {
    committed(store.commit(Txn::new().put(UNFINISHED, digest)).await?)?;
    let mut transactions = 1;
    let mut most = MAX_OPS;
    // The marker of a try that was cut short is among what has to go: it goes with the last part.
    let marker = |op: &Op| matches!(op, Op::Delete { key } if key == UNFINISHED);
    let ops: Vec<Op> = ops.into_iter().filter(|op| !marker(op)).collect();
    let mut rest = ops.as_slice();
    loop {
        let mut bytes = 0;
        let fits = rest.iter().take(most).take_while(|op| {
            bytes += match op {
                Op::Put { key, value, .. } => key.len() + value.len(),
                Op::Delete { key } => key.len(),
            };
            bytes <= PART
        });
        let count = fits.count().max(1).min(rest.len());
        let (part, after) = rest.split_at(count);
        let mut txn = Txn::new().when(UNFINISHED, Expect::Present);
        txn.ops = part.to_vec();
        if after.is_empty() {
            txn = txn.delete(UNFINISHED);
        }
        match store.commit(txn).await {
            Ok(outcome) => {
                committed(outcome)?;
                transactions += 1;
                if after.is_empty() {
                    return Ok(transactions);
                }
                rest = after;
            }
            Err(StoreError::TooLarge { .. } | StoreError::BeyondLimit { .. }) if count > 1 => {
                most = count / 2
            }
            Err(error) => return Err(error.into()),
        }
    }
}
