//! What every backend refuses.

use std::collections::BTreeSet;

use crate::StoreError;
use crate::types::{MAX_VALUE, Op, Txn};

/// Longest key, in bytes.
pub const MAX_KEY: usize = 512;
/// Most operations of a transaction; Consul takes 64, so larger backends split what is larger only where they must not.
pub const MAX_OPS: usize = 20_000;
/// Largest transaction, keys and values together.
pub const MAX_TXN: usize = 64 * 1024 * 1024;

/// Checks keys and sizes.
///
/// # Errors
/// [`StoreError::InvalidKey`], [`StoreError::TooLarge`] or [`StoreError::BeyondLimit`].
pub fn check(txn: &Txn) -> Result<(), StoreError> {
    let mut seen = BTreeSet::new();
    let mut total = 0;
    for op in &txn.ops {
        let (key, size) = match op {
            Op::Put { key, value, .. } => (key, value.len()),
            Op::Delete { key } => (key, 0),
        };
        check_key(key)?;
        if !seen.insert(key) {
            return Err(StoreError::InvalidKey {
                key: key.clone(),
                problem: "it is named twice in one transaction",
            });
        }
        if size > MAX_VALUE {
            return Err(StoreError::TooLarge {
                what: format!("value of '{key}'"),
                size,
                limit: MAX_VALUE,
            });
        }
        total += key.len() + size;
    }
    txn.conditions
        .iter()
        .try_for_each(|condition| check_key(&condition.key))?;
    if txn.ops.len() > MAX_OPS {
        let count = txn.ops.len();
        return Err(StoreError::BeyondLimit {
            detail: format!(
                "a change of {count} objects is more than the {MAX_OPS} that are made at once: make it in smaller ones"
            ),
        });
    }
    if total > MAX_TXN {
        return Err(StoreError::TooLarge {
            what: "transaction".into(),
            size: total,
            limit: MAX_TXN,
        });
    }
    Ok(())
}

fn check_key(key: &str) -> Result<(), StoreError> {
    let problem = if key.is_empty() {
        "it is empty"
    } else if key.len() > MAX_KEY {
        "it is longer than 512 bytes"
    } else if key.chars().any(char::is_control) {
        "it contains a control character"
    } else {
        return Ok(());
    };
    Err(StoreError::InvalidKey {
        key: key.to_owned(),
        problem,
    })
}
