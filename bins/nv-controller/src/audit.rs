//! The audit log: every change, each entry chained by hash to the one before, written in the change's own transaction.

use nv_policy::{decode, encode};
use nv_store::KvStore;
use nv_types::{Timestamp, keys};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Entries that are kept.
const KEPT: u64 = 10_000;

/// Value of `audit/<number>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AuditEntry {
    pub(crate) number: u64,
    pub(crate) at: Timestamp,
    pub(crate) user: String,
    pub(crate) changes: Vec<String>,
    /// SHA-256 of the entry before, hexadecimal; empty for the first.
    pub(crate) before: String,
    /// SHA-256 of number, time, user, changes and `before`.
    pub(crate) hash: String,
}

impl AuditEntry {
    fn digest(&self) -> String {
        let mut hash = Sha256::new();
        // Each part with its length in front, so that no two entries can read the same.
        for part in [
            &self.number.to_string(),
            &self.at.0.to_string(),
            &self.user,
            &self.before,
        ]
        .into_iter()
        .chain(&self.changes)
        {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part.as_bytes());
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Where the chain ends.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    number: u64,
    hash: String,
}

fn audit_key(number: u64) -> String {
    format!("{}{number:012}", keys::AUDIT)
}

impl Audit {
    /// Finds the end of the chain and checks what there is of it. Gives the number of places where it is broken, too: a log that was
    /// tampered with is told, and goes on.
    pub(crate) async fn open(store: &dyn KvStore) -> anyhow::Result<(Self, usize)> {
        let (mut audit, mut breaks) = (Self::default(), 0);
        for entry in store.list(keys::AUDIT).await?.entries {
            let found = decode::<AuditEntry>(&entry.key, &entry.value).ok();
            let whole = found.as_ref().is_some_and(|found| {
                // The oldest entries go when there are too many; the first one of all hangs on nothing.
                let follows = if audit.number == 0 {
                    found.number > 1 || found.before.is_empty()
                } else {
                    found.before == audit.hash
                };
                follows && found.hash == found.digest() && entry.key == audit_key(found.number)
            });
            if !whole {
                breaks += 1;
                tracing::error!(entry = %entry.key, "the audit log was tampered with: the hash chain is broken here");
            }
            let number = entry
                .key
                .strip_prefix(keys::AUDIT)
                .and_then(|text| text.parse().ok());
            audit = Self {
                // New entries come after whatever is there, so that none is written over.
                number: number.unwrap_or(audit.number).max(audit.number),
                hash: found.map_or_else(String::new, |found| found.hash),
            };
        }
        Ok((audit, breaks))
    }

    /// The next entry with its key, and the key of one that is old enough to go. It counts once [`Audit::advance`] is called.
    pub(crate) fn next(&self, user: &str, changes: &[String], at: Timestamp) -> anyhow::Result<Next> {
        let number = self.number + 1;
        let mut entry = AuditEntry {
            number,
            at,
            user: user.to_owned(),
            changes: changes.iter().take(1000).cloned().collect(),
            before: self.hash.clone(),
            hash: String::new(),
        };
        entry.hash = entry.digest();
        let key = audit_key(number);
        let value = encode(&key, &entry)?;
        Ok(Next {
            key,
            value,
            old: number.checked_sub(KEPT).filter(|old| *old > 0).map(audit_key),
            number,
            hash: entry.hash,
        })
    }

    pub(crate) fn advance(&mut self, next: &Next) {
        self.number = next.number;
        self.hash.clone_from(&next.hash);
    }
}

/// An entry that is about to be written.
#[derive(Debug)]
pub(crate) struct Next {
    pub(crate) key: String,
    pub(crate) value: Vec<u8>,
    pub(crate) old: Option<String>,
    number: u64,
    hash: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entry_hangs_on_the_one_before() {
        let mut audit = Audit::default();
        let mut entries: Vec<AuditEntry> = Vec::new();
        for change in ["a", "b", "c"] {
            let next = audit.next("admin", &[change.to_owned()], Timestamp(7)).unwrap();
            entries.push(decode(&next.key, &next.value).unwrap());
            audit.advance(&next);
        }
        assert_eq!(entries[2].before, entries[1].hash);
        assert!(entries.iter().all(|entry| entry.hash == entry.digest()));
        let mut forged = entries[1].clone();
        forged.user = "somebody".into();
        assert_ne!(forged.digest(), forged.hash);
    }
}
