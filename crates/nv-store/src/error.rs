//! Errors of a store.

/// Why a store call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store cannot be reached or has no leader; the same call may go through later.
    #[error("store unavailable: {detail}")]
    Unavailable {
        /// What was tried and what came back.
        detail: String,
    },
    /// A value or a transaction is larger than the store takes.
    #[error("{what} of {size} bytes is larger than the limit of {limit}")]
    TooLarge {
        /// `value of KEY` or `transaction`.
        what: String,
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// A key that the store cannot hold.
    #[error("invalid key '{key}': {problem}")]
    InvalidKey {
        /// The key.
        key: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The lease has expired or never was.
    #[error("lease {0} is gone")]
    LeaseGone(u64),
    /// The caller may not touch this key.
    #[error("permission denied for '{key}'")]
    Denied {
        /// The key or prefix.
        key: String,
    },
    /// The data on disk is not what was written; names the file and what to do.
    #[error("store file {path} is damaged: {detail}")]
    Corrupt {
        /// File.
        path: String,
        /// What was found, and what to do.
        detail: String,
    },
    /// The operating system refused.
    #[error("{action}")]
    Io {
        /// What was tried, with the path.
        action: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
}
