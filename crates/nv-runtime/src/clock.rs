//! The wall clock, for events that a runtime gives no time.

use std::time::{SystemTime, UNIX_EPOCH};

use nv_types::Timestamp;

/// Now; 0 before 1970.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
