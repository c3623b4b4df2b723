//! What one transaction did, as one log entry says it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nv_types::Revision;
use serde::{Deserialize, Serialize};

use crate::StoreError;
use crate::types::{LeaseId, Op};

/// Values up to this size, all of an entry together, stand in the log; larger ones are read from where they are.
const INLINE: usize = 16 * 1024;

/// One change of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Logged {
    /// Key.
    #[serde(rename = "k")]
    pub(super) key: String,
    /// Value in base64; none: too large to stand here.
    #[serde(rename = "v", default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(rename = "l", default, skip_serializing_if = "is_zero")]
    lease: u64,
    #[serde(rename = "d", default, skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What became of a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Word {
    Put(Vec<u8>, Option<LeaseId>),
    /// Written, and the value is where it is.
    Elsewhere,
    Deleted,
}

impl Logged {
    pub(super) fn word(&self) -> Result<Word, StoreError> {
        if self.deleted {
            return Ok(Word::Deleted);
        }
        let Some(value) = &self.value else {
            return Ok(Word::Elsewhere);
        };
        let value = STANDARD.decode(value).map_err(|error| damaged(&error))?;
        Ok(Word::Put(value, (self.lease != 0).then_some(LeaseId(self.lease))))
    }
}

/// The log's entry of these changes.
pub(super) fn encode(ops: &[Op]) -> Vec<u8> {
    let total: usize = ops
        .iter()
        .map(|op| match op {
            Op::Put { value, .. } => value.len(),
            Op::Delete { .. } => 0,
        })
        .sum();
    let logged: Vec<_> = ops
        .iter()
        .map(|op| match op {
            Op::Put { key, value, lease } => Logged {
                key: key.clone(),
                value: (total <= INLINE).then(|| STANDARD.encode(value)),
                lease: lease.map_or(0, |id| id.0),
                deleted: false,
            },
            Op::Delete { key } => Logged {
                key: key.clone(),
                value: None,
                lease: 0,
                deleted: true,
            },
        })
        .collect();
    serde_json::to_vec(&logged).unwrap_or_default()
}

/// The changes of an entry.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<Logged>, StoreError> {
    serde_json::from_slice(bytes).map_err(|error| damaged(&error))
}

/// Up to where the log was cut off.
pub(super) fn floor(bytes: &[u8]) -> Revision {
    Revision(
        std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0),
    )
}

fn damaged(error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Corrupt {
        path: "Consul's log entry".into(),
        detail: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: Vec<u8>, lease: Option<LeaseId>) -> Op {
        Op::Put {
            key: key.into(),
            value,
            lease,
        }
    }

    #[test]
    fn an_entry_reads_as_it_was_written() {
        let delete = Op::Delete { key: "b".into() };
        let lease = Some(LeaseId(u64::MAX));
        let words = |ops: &[Op]| -> Vec<Word> {
            let logged = decode(&encode(ops)).unwrap();
            logged.iter().map(|logged| logged.word().unwrap()).collect()
        };
        let small = [
            put("a", vec![0, 255], lease),
            delete.clone(),
            put("c", Vec::new(), None),
        ];
        assert_eq!(
            words(&small),
            [
                Word::Put(vec![0, 255], lease),
                Word::Deleted,
                Word::Put(Vec::new(), None)
            ]
        );
        let large = [put("a", vec![7; INLINE + 1], None), delete];
        assert_eq!(words(&large), [Word::Elsewhere, Word::Deleted]);
        assert!(decode(b"junk").is_err());
    }
}
