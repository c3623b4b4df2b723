//! The wall clock, for events that a runtime gives no time, and for the age of processes.

use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use nv_types::Timestamp;

/// Now; 0 before 1970.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// When this host was started, as today's clock sees it. It moves when the clock is set.
pub(crate) fn boot() -> Timestamp {
    let up = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| {
        let part = |number: i64| u64::try_from(number).unwrap_or_default();
        part(time.tv_sec()) * 1_000_000_000 + part(time.tv_nsec())
    });
    Timestamp(now().0.saturating_sub(up))
}
