//! What goes into a store and what comes out of it.

use std::time::Duration;

use nv_types::Revision;
use tokio::sync::mpsc;

/// A stored entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// Key.
    pub key: String,
    /// Value, below [`crate::types::MAX_VALUE`].
    pub value: Vec<u8>,
    /// Revision that made it.
    pub create_revision: Revision,
    /// Revision that last changed it.
    pub mod_revision: Revision,
    /// Lease that it hangs on.
    pub lease: Option<LeaseId>,
}

/// Largest value, well below Consul's 512 KiB.
pub const MAX_VALUE: usize = 256 * 1024;

/// Entries of a prefix at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Sorted by key.
    pub entries: Vec<KeyValue>,
    /// Store revision of the reading.
    pub revision: Revision,
}

/// What a key must be for a transaction to go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Not there.
    Absent,
    /// There, whatever its revision.
    Present,
    /// There with this `mod_revision`.
    Revision(Revision),
}

/// A condition on a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Key.
    pub key: String,
    /// What it must be.
    pub expect: Expect,
}

/// A change to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes a value.
    Put {
        /// Key.
        key: String,
        /// Value.
        value: Vec<u8>,
        /// Lease that it shall hang on.
        lease: Option<LeaseId>,
    },
    /// Deletes a key; one that is not there is no error.
    Delete {
        /// Key.
        key: String,
    },
}

/// Conditions and changes, all or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold.
    pub conditions: Vec<Condition>,
    /// All are made, at one revision. One key may be named once.
    pub ops: Vec<Op>,
}

impl Txn {
    /// An empty transaction.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more condition.
    #[must_use]
    pub fn when(mut self, key: impl Into<String>, expect: Expect) -> Self {
        self.conditions.push(Condition {
            key: key.into(),
            expect,
        });
        self
    }

    /// With one more value.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.ops.push(Op::Put {
            key: key.into(),
            value: value.into(),
            lease: None,
        });
        self
    }

    /// With one more value that hangs on a lease.
    #[must_use]
    pub fn put_leased(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>, lease: LeaseId) -> Self {
        self.ops.push(Op::Put {
            key: key.into(),
            value: value.into(),
            lease: Some(lease),
        });
        self
    }

    /// With one more deletion.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.ops.push(Op::Delete { key: key.into() });
        self
    }
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitOutcome {
    /// Made, at this revision.
    Committed(Revision),
    /// A condition did not hold; nothing was written.
    Conflict {
        /// Key of the first condition that failed.
        key: String,
        /// Its revision, `None` when it is absent.
        actual: Option<Revision>,
    },
}

/// One change under a watched prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Written.
    Put(KeyValue),
    /// Deleted, also by an expired lease.
    Delete {
        /// Key.
        key: String,
        /// Revision of the deletion.
        revision: Revision,
    },
}

/// What a watch delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// All changes of one revision under the prefix.
    Changes {
        /// The revision.
        revision: Revision,
        /// The changes, never empty.
        changes: Vec<Change>,
    },
    /// The changes asked for are not to be had: here is the whole state. Changes after it follow.
    Resync(Listing),
}

/// Receiving end of a watch. It ends only when the store is closed for good.
pub type WatchStream = mpsc::Receiver<WatchEvent>;

/// Number of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// A lease as it was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Number.
    pub id: LeaseId,
    /// Time after which it expires unless kept alive.
    pub ttl: Duration,
}
