//! Captures.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What to capture.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SnifferArgs {
    /// Files of 2 MB that are kept; 0: the default of 5.
    pub file_number: u32,
    /// Seconds; 0: until stopped.
    pub duration: u32,
    /// Which packets: the language of pcap-filter(7), with nv's words `workload`, `group`, `service`, `namespace`, `verdict`,
    /// `app`, `rule`, `inbound` and `outbound`; empty for all.
    pub filter: String,
}

wrapper!(
    /// Body of a capture to start.
    SnifferArgsData { sniffer: SnifferArgs }
);

/// Answer to a capture that was started.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SnifferResultData {
    /// The capture.
    pub result: SnifferResult,
}

/// A capture that was started.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SnifferResult {
    /// Its id; of the first one when there are several.
    pub id: String,
    /// All ids, one for each workload.
    pub ids: Vec<String>,
}

/// A capture.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Sniffer {
    /// Id.
    pub id: String,
    /// Node.
    pub enforcer_id: String,
    /// Workload.
    pub container_id: String,
    /// Files.
    pub file_number: u32,
    /// Bytes.
    pub size: u64,
    /// `running`, `stopped` or `failed`.
    pub status: String,
    /// What it ended of, and what it lost.
    pub args: String,
    /// Seconds since the epoch.
    pub start_time: i64,
    /// Seconds since the epoch; 0 while it runs.
    pub stop_time: i64,
    /// Packets.
    pub packets: u64,
    /// Packets that the kernel dropped.
    pub dropped: u64,
}

wrapper!(
    /// All captures.
    SniffersData { sniffers: Vec<Sniffer> }
);
wrapper!(
    /// One capture.
    SnifferData { sniffer: Sniffer }
);
