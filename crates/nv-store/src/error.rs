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
    /// A transaction is beyond a limit of the server's own.
    #[error("{detail}")]
    BeyondLimit {
        /// The limit, what was asked for, and what to do.
        detail: String,
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

impl StoreError {
    /// The same error for another one who was refused with it.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::Unavailable { detail } => Self::Unavailable {
                detail: detail.clone(),
            },
            Self::TooLarge { what, size, limit } => Self::TooLarge {
                what: what.clone(),
                size: *size,
                limit: *limit,
            },
            Self::BeyondLimit { detail } => Self::BeyondLimit {
                detail: detail.clone(),
            },
            Self::InvalidKey { key, problem } => Self::InvalidKey {
                key: key.clone(),
                problem,
            },
            Self::LeaseGone(id) => Self::LeaseGone(*id),
            Self::Denied { key } => Self::Denied { key: key.clone() },
            Self::Corrupt { path, detail } => Self::Corrupt {
                path: path.clone(),
                detail: detail.clone(),
            },
            Self::Io { action, source } => Self::Io {
                action: action.clone(),
                source: source.raw_os_error().map_or_else(
                    || std::io::Error::new(source.kind(), source.to_string()),
                    std::io::Error::from_raw_os_error,
                ),
            },
        }
    }
}
