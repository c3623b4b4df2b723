//! Flow reports of agents.

use std::collections::BTreeMap;
use std::sync::Arc;

use nv_api::grpc::{Empty, EndpointBatch, FlowBatch, FlowBatchReply, report_server::Report};
use nv_api::rest::{EndpointCounters, GuardedEndpoint};
use nv_types::{FlowRecord, Reason};
use tonic::{Request, Response, Status};

use super::caller;
use crate::engine::Engine;

/// Records of one batch.
const MAX_BATCH: usize = 10_000;
/// What an agent may say was lost; all else is counted as `agent_other`, so that no agent can make up counters without end.
const STAGES: [&str; 2] = ["agent_report_queue", "kernel_ring"];

/// Endpoints of a node that are kept, and the longest text of one.
const MAX_ENDPOINTS: usize = 4096;
const MAX_TEXT: usize = 128;

/// Serves [`Report`].
#[derive(Debug, Clone)]
pub(crate) struct ReportService(pub(crate) Arc<Engine>);

#[tonic::async_trait]
impl Report for ReportService {
    async fn flows(&self, request: Request<FlowBatch>) -> Result<Response<FlowBatchReply>, Status> {
        let node = caller(&request)?;
        self.0.heard(&node);
        let batch = request.into_inner();
        let total = batch.records_json.len();
        let mut lost: BTreeMap<String, u64> = BTreeMap::new();
        for (stage, count) in batch.lost {
            let known = STAGES.into_iter().find(|known| *known == stage);
            let sum = lost.entry(known.unwrap_or("agent_other").to_owned()).or_default();
            *sum = sum.saturating_add(count);
        }
        let records: Vec<FlowRecord> = batch
            .records_json
            .iter()
            .take(MAX_BATCH)
            .filter_map(|text| serde_json::from_str::<FlowRecord>(text).ok())
            // A node speaks for itself only.
            .filter(|record| record.node == node)
            .collect();
        let refused = u64::try_from(total - records.len()).unwrap_or(u64::MAX);
        if refused > 0 {
            *lost.entry("controller_refused".into()).or_default() += refused;
        }
        let taken = u64::try_from(records.len()).unwrap_or(u64::MAX);
        self.0.report(&records, &lost);
        Ok(Response::new(FlowBatchReply { taken }))
    }

    async fn endpoints(&self, request: Request<EndpointBatch>) -> Result<Response<Empty>, Status> {
        let node = caller(&request)?;
        self.0.heard(&node);
        let list = request
            .into_inner()
            .endpoints_json
            .iter()
            .take(MAX_ENDPOINTS)
            .filter_map(|text| serde_json::from_str(text).ok())
            .map(|endpoint| bounded(endpoint, node.as_str()))
            .collect();
        self.0.counted(node, list);
        Ok(Response::new(Empty {}))
    }
}

/// What of a node's word on an endpoint is kept: nothing without bound, and its own name.
fn bounded(endpoint: GuardedEndpoint, node: &str) -> GuardedEndpoint {
    let short = |text: String| text.chars().take(MAX_TEXT).collect::<String>();
    let known = |mut counters: EndpointCounters| {
        let reasons = Reason::ALL.map(Reason::name);
        counters
            .by_reason
            .retain(|reason, _| reasons.contains(&reason.as_str()));
        counters
    };
    GuardedEndpoint {
        node: node.to_owned(),
        ifindex: endpoint.ifindex,
        name: short(endpoint.name),
        workload: short(endpoint.workload),
        workload_name: String::new(),
        addresses: endpoint.addresses.into_iter().take(64).map(short).collect(),
        mode: short(endpoint.mode),
        unguarded: endpoint.unguarded,
        ingress: known(endpoint.ingress),
        egress: known(endpoint.egress),
        reported_at: 0,
    }
}
