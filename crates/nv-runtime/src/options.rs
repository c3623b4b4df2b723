//! How the monitor works, and what it counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nv_types::NodeId;

/// How a [`Monitor`](crate::Monitor) works.
#[derive(Clone, Debug)]
pub struct MonitorOptions {
    /// The node that workloads are said to run on.
    pub node: NodeId,
    /// Events that may wait for the consumer; when it is slower the runtimes wait too ([`MonitorStats::stalls`] says
    /// so), and what they lose meanwhile is found by comparing.
    pub capacity: usize,
    /// Wait before the first try to connect again; doubled with each failure, half of it random.
    pub backoff_min: Duration,
    /// Longest such wait.
    pub backoff_max: Duration,
    /// How often a runtime is asked for its list while it is connected, so that an event that it never sent is made up
    /// for and a daemon that hangs is noticed.
    pub audit: Duration,
    /// Counts of what the monitor does; keep a clone to read them.
    pub stats: Arc<MonitorStats>,
}

impl MonitorOptions {
    /// 1024 events, waits from 100 ms to 10 s, a list every minute.
    #[must_use]
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            capacity: 1024,
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
            audit: Duration::from_secs(60),
            stats: Arc::default(),
        }
    }
}

/// Counts since the start.
#[derive(Debug, Default)]
pub struct MonitorStats {
    pub(crate) told: AtomicU64,
    pub(crate) stalls: AtomicU64,
    pub(crate) outages: AtomicU64,
}

impl MonitorStats {
    /// Events handed to the consumer.
    #[must_use]
    pub fn told(&self) -> u64 {
        self.told.load(Ordering::Relaxed)
    }

    /// How often an event found the consumer's queue full and had to wait.
    #[must_use]
    pub fn stalls(&self) -> u64 {
        self.stalls.load(Ordering::Relaxed)
    }

    /// How often a connection was lost.
    #[must_use]
    pub fn outages(&self) -> u64 {
        self.outages.load(Ordering::Relaxed)
    }
}
