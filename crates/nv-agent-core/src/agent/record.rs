//! Flows as the controller wants them.

use nv_types::{Direction, FiveTuple, FlowRecord, Timestamp};

use super::Agent;
use crate::io::FlowSample;

impl Agent {
    /// A flow as a record: who its ends are. `None` for an interface whose workload is not known. `offset` is what is added to
    /// the monotonic clock to get the time of day.
    #[must_use]
    pub fn record(&self, sample: &FlowSample, offset: u64) -> Option<FlowRecord> {
        let workload = self.endpoints.workload(sample.ifindex)?;
        let (own, other) = (
            nv_types::Peer::Workload(workload.clone()),
            self.book.peer(sample.peer.0),
        );
        let is_client = sample.direction == Direction::Egress;
        let ((client, server), (from, to)) = if is_client {
            ((own, other), (sample.local, sample.peer))
        } else {
            ((other, own), (sample.peer, sample.local))
        };
        let (to_server, to_client) = if is_client {
            (sample.sent, sample.received)
        } else {
            (sample.received, sample.sent)
        };
        Some(FlowRecord {
            node: self.node.clone(),
            workload: workload.clone(),
            direction: sample.direction,
            tuple: FiveTuple {
                proto: sample.proto,
                client: from.0,
                client_port: from.1,
                server: to.0,
                server_port: to.1,
            },
            client,
            server,
            application: sample.application,
            decision: sample.decision,
            state: sample.state,
            packets_to_server: to_server.0,
            packets_to_client: to_client.0,
            bytes_to_server: to_server.1,
            bytes_to_client: to_client.1,
            first_seen: Timestamp(sample.first_ns.saturating_add(offset)),
            last_seen: Timestamp(sample.last_ns.saturating_add(offset)),
        })
    }
}
