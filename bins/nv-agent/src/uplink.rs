//! What goes to the controller: the node's own keys, and flow records. Both wait while it is away; what does not fit is counted.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nv_api::grpc::{EndpointBatch, FlowBatch, report_client::ReportClient};
use nv_api::rest::GuardedEndpoint;
use nv_store::{KvStore, StoreError, Txn};
use nv_types::{FlowRecord, NodeId};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// Records that wait.
const RECORDS: usize = 20_000;
/// Records of one batch.
const BATCH: usize = 1000;
/// Time to gather records in.
const GATHER: Duration = Duration::from_millis(100);
/// Longest silence: an empty batch says that the agent is there.
const HEARTBEAT: Duration = Duration::from_secs(4);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
struct Waiting {
    /// The last word on each key.
    keys: BTreeMap<String, Option<Vec<u8>>>,
    records: VecDeque<FlowRecord>,
    /// What the datapath has counted, as it was last told.
    endpoints: Option<Vec<GuardedEndpoint>>,
    lost: u64,
}

/// Queues to the controller.
#[derive(Debug, Default)]
pub(crate) struct Uplink {
    waiting: Mutex<Waiting>,
    keys: Notify,
    records: Notify,
}

impl Uplink {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn store(&self, key: String, value: Option<Vec<u8>>) {
        self.lock().keys.insert(key, value);
        self.keys.notify_one();
    }

    pub(crate) fn report(&self, record: FlowRecord) {
        let mut waiting = self.lock();
        if waiting.records.len() == RECORDS {
            waiting.records.pop_front();
            waiting.lost += 1;
        }
        waiting.records.push_back(record);
        drop(waiting);
        self.records.notify_one();
    }

    /// Takes what every endpoint has counted; only the last word goes out.
    pub(crate) fn endpoints(&self, list: Vec<GuardedEndpoint>) {
        self.lock().endpoints = Some(list);
    }

    /// Records that were dropped since the start because the controller did not take them in time.
    pub(crate) fn lost(&self) -> u64 {
        self.lock().lost
    }

    /// Writes keys until the end.
    pub(crate) async fn write_keys<S: KvStore>(self: Arc<Self>, store: S, shutdown: CancellationToken) {
        let mut pause = FIRST_PAUSE;
        loop {
            let batch = std::mem::take(&mut self.lock().keys);
            if batch.is_empty() {
                tokio::select! {
                    () = self.keys.notified() => continue,
                    () = shutdown.cancelled() => return,
                }
            }
            let mut txn = Txn::new();
            for (key, value) in &batch {
                txn = match value {
                    Some(value) => txn.put(key, value.clone()),
                    None => txn.delete(key),
                };
            }
            match store.commit(txn).await {
                Ok(_) => pause = FIRST_PAUSE,
                Err(
                    error @ (StoreError::Denied { .. }
                    | StoreError::InvalidKey { .. }
                    | StoreError::TooLarge { .. }
                    | StoreError::BeyondLimit { .. }),
                ) => {
                    tracing::error!(%error, keys = ?batch.keys().collect::<Vec<_>>(), "the controller refused this node's keys");
                }
                Err(error) => {
                    tracing::debug!(%error, "the controller does not take this node's keys, trying again");
                    self.keep_keys(batch);
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = shutdown.cancelled() => return,
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Sends records until the end.
    pub(crate) async fn send_records(
        self: Arc<Self>,
        channel: Channel,
        node: NodeId,
        shutdown: CancellationToken,
    ) {
        let mut client = ReportClient::new(channel);
        let mut sequence = 0;
        let mut told_lost = 0;
        loop {
            if self.lock().records.is_empty() {
                tokio::select! {
                    () = self.records.notified() => tokio::time::sleep(GATHER).await,
                    () = tokio::time::sleep(HEARTBEAT) => {}
                    () = shutdown.cancelled() => return,
                }
            }
            self.send_endpoints(&mut client).await;
            let (batch, lost) = {
                let mut waiting = self.lock();
                let count = waiting.records.len().min(BATCH);
                (waiting.records.drain(..count).collect::<Vec<_>>(), waiting.lost)
            };
            sequence += 1;
            let message = FlowBatch {
                node: node.to_string(),
                sequence,
                records_json: batch
                    .iter()
                    .filter_map(|record| serde_json::to_string(record).ok())
                    .collect(),
                lost: std::iter::once(("agent_report_queue".to_owned(), lost - told_lost))
                    .filter(|(_, lost)| *lost > 0)
                    .collect(),
            };
            let mut request = tonic::Request::new(message);
            request.set_timeout(Duration::from_secs(5));
            if let Err(status) = client.flows(request).await {
                tracing::debug!(
                    status = status.message(),
                    "flow records were not taken, trying again"
                );
                self.put_back(batch);
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                    () = shutdown.cancelled() => return,
                }
            } else {
                told_lost = lost;
            }
        }
    }

    /// One that is not taken is followed by a newer one.
    async fn send_endpoints(&self, client: &mut ReportClient<Channel>) {
        let Some(list) = self.lock().endpoints.take() else {
            return;
        };
        let mut request = tonic::Request::new(EndpointBatch {
            endpoints_json: list
                .iter()
                .filter_map(|endpoint| serde_json::to_string(endpoint).ok())
                .collect(),
        });
        request.set_timeout(Duration::from_secs(5));
        if let Err(status) = client.endpoints(request).await {
            tracing::debug!(status = status.message(), "counters of endpoints were not taken");
        }
    }

    /// Keeps keys that were not written; a newer word on a key wins.
    fn keep_keys(&self, batch: BTreeMap<String, Option<Vec<u8>>>) {
        let mut waiting = self.lock();
        for (key, value) in batch {
            waiting.keys.entry(key).or_insert(value);
        }
    }

    /// Keeps records that were not taken, as far as there is room: the oldest go first.
    fn put_back(&self, batch: Vec<FlowRecord>) {
        let mut waiting = self.lock();
        for record in batch.into_iter().rev() {
            if waiting.records.len() < RECORDS {
                waiting.records.push_front(record);
            } else {
                waiting.lost += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use nv_types::{Decision, Direction, FiveTuple, FlowState, IpProto, Peer, Timestamp};

    use super::*;

    fn record(port: u16) -> FlowRecord {
        let address = "10.0.0.1".parse().unwrap();
        FlowRecord {
            node: "n1".parse().unwrap(),
            workload: "web".parse().unwrap(),
            direction: Direction::Egress,
            tuple: FiveTuple {
                proto: IpProto::TCP,
                client: address,
                client_port: port,
                server: address,
                server_port: 80,
            },
            client: Peer::External,
            server: Peer::External,
            application: None,
            decision: Decision::implicit(nv_types::Verdict::Allow, nv_types::Reason::Default),
            state: FlowState::New,
            packets_to_server: 1,
            packets_to_client: 0,
            bytes_to_server: 60,
            bytes_to_client: 0,
            first_seen: Timestamp(1),
            last_seen: Timestamp(1),
        }
    }

    #[test]
    fn the_oldest_records_go_when_the_queue_is_full_and_each_is_counted() {
        let uplink = Uplink::default();
        for _ in 0..RECORDS {
            uplink.report(record(1));
        }
        assert_eq!(uplink.lost(), 0);
        for _ in 0..10 {
            uplink.report(record(2));
        }
        assert_eq!(uplink.lost(), 10);
        // A batch that was not taken finds less room than it had.
        let batch: Vec<_> = uplink.lock().records.drain(..100).collect();
        for _ in 0..30 {
            uplink.report(record(3));
        }
        uplink.put_back(batch);
        assert_eq!(uplink.lost(), 40, "30 of the batch had no place any more");
        let waiting = uplink.lock();
        assert_eq!(waiting.records.len(), RECORDS);
        assert_eq!(
            waiting.records.back().unwrap().tuple.client_port,
            3,
            "the newest stay"
        );
    }

    #[test]
    fn the_last_word_on_a_key_wins_over_one_that_was_not_taken() {
        let uplink = Uplink::default();
        uplink.store("node/n1".into(), Some(b"old".to_vec()));
        uplink.store("workload/n1/a".into(), Some(b"a".to_vec()));
        let batch = std::mem::take(&mut uplink.lock().keys);
        uplink.store("node/n1".into(), Some(b"new".to_vec()));
        uplink.store("workload/n1/a".into(), None);
        uplink.store("workload/n1/b".into(), None);
        uplink.keep_keys(batch);
        let expected: BTreeMap<_, _> = [
            ("node/n1".to_owned(), Some(b"new".to_vec())),
            ("workload/n1/a".to_owned(), None),
            ("workload/n1/b".to_owned(), None),
        ]
        .into();
        assert_eq!(uplink.lock().keys, expected);
    }
}
