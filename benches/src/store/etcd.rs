//! One etcd on this machine's disk, spoken to by its own protocol, without nv's client around it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio_stream::StreamExt as _;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Streaming};
use tonic_prost::ProstCodec;

const CLIENTS: &str = "http://127.0.0.1:31579";
const PEERS: &str = "http://127.0.0.1:31580";

// The parts of etcd's messages that are needed here; what else an answer holds is skipped.

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

#[derive(Clone, PartialEq, prost::Message)]
struct WatchRequest {
    #[prost(message, optional, tag = "1")]
    create: Option<WatchCreateRequest>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WatchCreateRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WatchResponse {
    #[prost(bool, tag = "3")]
    created: bool,
    #[prost(bool, tag = "4")]
    canceled: bool,
    #[prost(message, repeated, tag = "11")]
    events: Vec<Event>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Event {
    #[prost(int32, tag = "1")]
    kind: i32,
}

/// A running etcd, killed when it is dropped.
#[derive(Debug)]
pub(super) struct Etcd {
    child: Child,
    channel: Channel,
}

impl Etcd {
    /// Starts one with its data in this folder, synced as etcd does by default.
    pub(super) async fn start(folder: &Path) -> anyhow::Result<Self> {
        let child = Command::new("etcd")
            .args(["--name=n", "--logger=zap", "--log-level=error"])
            .arg(format!("--data-dir={}", folder.display()))
            .args([
                format!("--listen-client-urls={CLIENTS}"),
                format!("--advertise-client-urls={CLIENTS}"),
                format!("--listen-peer-urls={PEERS}"),
                format!("--initial-advertise-peer-urls={PEERS}"),
                format!("--initial-cluster=n={PEERS}"),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("etcd cannot be started: scripts/setup.sh installs it")?;
        let channel = Endpoint::from_static(CLIENTS).connect_lazy();
        let etcd = Self { child, channel };
        let end = Instant::now() + Duration::from_secs(20);
        while let Err(error) = etcd.put("begin", b"begin").await {
            if Instant::now() > end {
                return Err(error.context("etcd does not answer"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(etcd)
    }

    /// Puts a value.
    pub(super) async fn put(&self, key: &str, value: &[u8]) -> anyhow::Result<()> {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await?;
        let message = PutRequest {
            key: key.as_bytes().to_vec(),
            value: value.to_vec(),
        };
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
        let codec = ProstCodec::<PutRequest, PutResponse>::default();
        grpc.unary(Request::new(message), path, codec).await?;
        Ok(())
    }

    /// So many watches of a key, on one stream, as etcd's own client has them.
    pub(super) async fn watch(&self, key: &str, count: usize) -> anyhow::Result<Watches> {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await?;
        let create = WatchRequest {
            create: Some(WatchCreateRequest {
                key: key.as_bytes().to_vec(),
            }),
        };
        let requests = tokio_stream::iter(std::iter::repeat_n(create, count)).chain(tokio_stream::pending());
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
        let stream = grpc.streaming(Request::new(requests), path, codec).await?;
        let mut watches = Watches {
            stream: stream.into_inner(),
            count,
        };
        watches.all(|message| message.created).await?;
        Ok(watches)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Watches that have begun.
pub(super) struct Watches {
    stream: Streaming<WatchResponse>,
    count: usize,
}

impl Watches {
    /// Waits until each watch has told of a change.
    pub(super) async fn told(&mut self) -> anyhow::Result<()> {
        self.all(|message| !message.events.is_empty()).await
    }

    async fn all(&mut self, wanted: impl Fn(&WatchResponse) -> bool) -> anyhow::Result<()> {
        let mut seen = 0;
        while seen < self.count {
            let message = self.stream.message().await?.context("etcd ended the watch")?;
            if message.canceled {
                bail!("etcd cancelled a watch");
            }
            seen += usize::from(wanted(&message));
        }
        Ok(())
    }
}
