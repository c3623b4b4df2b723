//! Captures for the controller, over gRPC.

mod fetch;
mod trigger;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context as _;
use futures::Stream;
use nv_api::grpc::{
    self, CaptureChunk, CaptureFetchRequest, CaptureListReply, CaptureListRequest, CaptureStartRequest,
    CaptureStreamRequest, Empty,
    capture_server::{Capture, CaptureServer},
};
use nv_capture::{
    CaptureError, CaptureId, CaptureInfo, CaptureLimits, CaptureManager, CaptureSpec, CaptureTarget,
    FilterError, NetnsRef, StreamChunk,
};
use nv_types::{NodeId, Workload, WorkloadId};
use std::pin::Pin;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::TcpIncoming};
use tonic::{Request, Response, Status};

use crate::credentials::Pems;
use crate::known::Known;
use fetch::Fetch;

pub(crate) use trigger::{Done as PacketsDone, PacketsAsk, serve as serve_packets};

/// Bytes of a chunk.
const CHUNK: usize = 64 * 1024;
/// What stands before a node's name where a workload's id would: the node's own namespace.
const NODE: &str = "node:";
/// The only name that may ask.
const CALLER: &str = "controller";

/// Workloads that run here, shared with the agent's loop.
pub(crate) type Workloads = Arc<RwLock<BTreeMap<WorkloadId, Workload>>>;

/// Serves [`Capture`].
#[derive(Debug, Clone)]
pub(crate) struct CaptureService {
    pub(crate) manager: CaptureManager,
    pub(crate) known: Arc<Known>,
    pub(crate) workloads: Workloads,
    pub(crate) node: NodeId,
    pub(crate) netns_dir: PathBuf,
}

fn only_controller<T>(request: &Request<T>) -> Result<(), Status> {
    let certificates = request.peer_certs().unwrap_or_default();
    let name = certificates.first().and_then(|certificate| {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let name = parsed
            .subject()
            .iter_common_name()
            .next()?
            .as_str()
            .ok()?
            .to_owned();
        Some(name)
    });
    if name.as_deref() == Some(CALLER) {
        return Ok(());
    }
    Err(Status::permission_denied(
        "only a controller may ask for captures",
    ))
}

fn refused(error: &CaptureError) -> Status {
    let text = error.to_string();
    let source = std::error::Error::source(error)
        .map(|source| format!(": {source}"))
        .unwrap_or_default();
    let text = format!("{text}{source}");
    match error {
        CaptureError::Unknown(_) => Status::not_found(text),
        CaptureError::Limits(_) => Status::invalid_argument(text),
        CaptureError::Source { .. } => Status::failed_precondition(text),
        _ => Status::resource_exhausted(text),
    }
}

fn id(text: &str) -> Result<CaptureId, Status> {
    text.parse()
        .map_err(|_error| Status::not_found(format!("there is no capture '{text}'")))
}

/// Where a workload's interfaces are.
fn target_of(workload: &Workload, netns_dir: &Path) -> Result<CaptureTarget, Status> {
    let namespace = match workload.id.as_str().strip_prefix("netns:") {
        Some(name) => NetnsRef::Path(netns_dir.join(name)),
        None if workload.pid != 0 && !workload.host_network => NetnsRef::Pid(workload.pid),
        None => {
            return Err(Status::failed_precondition(
                "this workload has no network namespace of its own: capture its node",
            ));
        }
    };
    Ok(CaptureTarget::netns(namespace))
}

impl CaptureService {
    fn info(&self, info: CaptureInfo) -> grpc::CaptureInfo {
        grpc::CaptureInfo {
            id: info.id.to_string(),
            workload: info.workload.to_string(),
            node: self.node.to_string(),
            status: info.status.name().to_owned(),
            detail: info.detail,
            packets: info.packets,
            bytes: info.bytes,
            dropped: info.dropped,
            start_time: info.started.as_secs(),
            stop_time: info.stopped.as_secs(),
            files: info.files,
            filter: info.filter,
            cause: info.cause,
        }
    }

    /// Where the workload's interfaces are.
    fn target(&self, id: &str) -> Result<(WorkloadId, String, CaptureTarget), Status> {
        if let Some(node) = id.strip_prefix(NODE) {
            if node != self.node.as_str() {
                return Err(Status::not_found(format!(
                    "this is node {}, not {node}",
                    self.node
                )));
            }
            let own = WorkloadId::try_new(id).map_err(|error| Status::invalid_argument(error.to_string()))?;
            return Ok((own, node.to_owned(), CaptureTarget::netns(NetnsRef::Own)));
        }
        let workloads = self.workloads.read().unwrap_or_else(PoisonError::into_inner);
        let workload = workloads
            .get(id)
            .ok_or_else(|| Status::not_found(format!("no workload '{id}' runs on {}", self.node)))?;
        let target = target_of(workload, &self.netns_dir)?;
        Ok((workload.id.clone(), workload.name.clone(), target))
    }

    /// Runs something that blocks off the async threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&CaptureManager) -> Result<T, CaptureError> + Send + 'static,
    ) -> Result<T, Status> {
        let manager = self.manager.clone();
        tokio::task::spawn_blocking(move || work(&manager))
            .await
            .map_err(|_panicked| Status::internal("the capture's thread died"))?
            .map_err(|error| refused(&error))
    }
}

type Chunks = Pin<Box<dyn Stream<Item = Result<CaptureChunk, Status>> + Send>>;

#[tonic::async_trait]
impl Capture for CaptureService {
    async fn start(
        &self,
        request: Request<CaptureStartRequest>,
    ) -> Result<Response<grpc::CaptureInfo>, Status> {
        only_controller(&request)?;
        let request = request.into_inner();
        let (workload, name, target) = self.target(&request.workload)?;
        let mut limits = CaptureLimits {
            duration: Duration::from_secs(request.duration_s),
            ..CaptureLimits::default()
        };
        if request.max_bytes != 0 {
            limits.max_bytes = request.max_bytes;
        }
        if request.max_packets != 0 {
            limits.max_packets = request.max_packets;
        }
        if request.snap_len != 0 {
            limits.snap_len = request.snap_len;
        }
        if request.files != 0 {
            limits.files = request.files;
        }
        let filter = request
            .filter
            .parse()
            .map_err(|error: FilterError| Status::invalid_argument(format!("filter: {error}")))?;
        let spec = CaptureSpec {
            limits,
            filter,
            ..CaptureSpec::new(workload, name, target)
        };
        self.known.want().await;
        let info = self.blocking(move |manager| manager.start(&spec)).await?;
        Ok(Response::new(self.info(info)))
    }

    async fn stop(&self, request: Request<grpc::CaptureId>) -> Result<Response<grpc::CaptureInfo>, Status> {
        only_controller(&request)?;
        let id = id(&request.into_inner().id)?;
        let info = self.blocking(move |manager| manager.stop(id)).await?;
        Ok(Response::new(self.info(info)))
    }

    async fn list(&self, request: Request<CaptureListRequest>) -> Result<Response<CaptureListReply>, Status> {
        only_controller(&request)?;
        let wanted = request.into_inner().workload;
        let wanted = (!wanted.is_empty())
            .then(|| WorkloadId::try_new(wanted))
            .transpose();
        let wanted = wanted.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let captures = self
            .manager
            .list(wanted.as_ref())
            .into_iter()
            .map(|info| self.info(info))
            .collect();
        Ok(Response::new(CaptureListReply { captures }))
    }

    async fn delete(&self, request: Request<grpc::CaptureId>) -> Result<Response<Empty>, Status> {
        only_controller(&request)?;
        let id = id(&request.into_inner().id)?;
        self.blocking(move |manager| manager.delete(id)).await?;
        Ok(Response::new(Empty {}))
    }

    type FetchStream = Chunks;

    async fn fetch(&self, request: Request<CaptureFetchRequest>) -> Result<Response<Chunks>, Status> {
        only_controller(&request)?;
        let request = request.into_inner();
        let fetch = Fetch::new(&request)?;
        let stream = self
            .manager
            .read(id(&request.id)?, false)
            .map_err(|error| refused(&error))?;
        let (sender, receiver) = mpsc::channel(8);
        tokio::task::spawn_blocking(move || fetch.run(stream, &sender));
        Ok(Response::new(Box::pin(
            tokio_stream::wrappers::ReceiverStream::new(receiver),
        )))
    }

    type StreamStream = Chunks;

    async fn stream(&self, request: Request<CaptureStreamRequest>) -> Result<Response<Chunks>, Status> {
        only_controller(&request)?;
        let request = request.into_inner();
        let mut stream = self
            .manager
            .read(id(&request.id)?, request.follow)
            .map_err(|error| refused(&error))?;
        // Bounded: a reader that is slow makes the reading thread wait, not the capture.
        let (sender, receiver) = mpsc::channel(8);
        let mut skip = request.offset;
        tokio::task::spawn_blocking(move || {
            let mut buffer = vec![0; CHUNK];
            loop {
                let chunk = match stream.read_chunk(&mut buffer, Duration::from_millis(500)) {
                    Ok(StreamChunk::Data(count)) => {
                        let passed = usize::try_from(skip).unwrap_or(usize::MAX).min(count);
                        skip -= passed as u64;
                        if passed == count {
                            continue;
                        }
                        Ok(CaptureChunk {
                            data: buffer.get(passed..count).unwrap_or_default().to_vec(),
                        })
                    }
                    Ok(StreamChunk::Idle) if sender.is_closed() => return,
                    Ok(StreamChunk::Idle) => continue,
                    Ok(StreamChunk::End) => return,
                    Err(error) => Err(Status::internal(format!(
                        "the capture's file cannot be read: {error}"
                    ))),
                };
                let failed = chunk.is_err();
                if sender.blocking_send(chunk).is_err() || failed {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(
            tokio_stream::wrappers::ReceiverStream::new(receiver),
        )))
    }
}

/// Serves captures until the end; gives the address that it listens on.
pub(crate) async fn serve(
    service: CaptureService,
    listen: SocketAddr,
    pems: &Pems,
    shutdown: CancellationToken,
) -> anyhow::Result<(SocketAddr, impl Future<Output = ()> + use<>)> {
    let listener = TcpListener::bind(listen).await.with_context(|| {
        format!("cannot listen on {listen} for captures: is the port in use? another one can be given")
    })?;
    let address = listener.local_addr().context("the listener's address")?;
    let manager = service.manager.clone();
    let server = Server::builder()
        .tls_config(pems.server_tls())
        .context("the agent's TLS")?
        .concurrency_limit_per_connection(16)
        .add_service(CaptureServer::new(service));
    let incoming = TcpIncoming::from(listener);
    Ok((address, async move {
        let stop = shutdown.clone();
        let served = server.serve_with_incoming_shutdown(incoming, async move { stop.cancelled().await });
        tokio::select! {
            ended = served => if let Err(error) = ended {
                tracing::error!(%error, "the capture service ended");
            },
            () = async { shutdown.cancelled().await; tokio::time::sleep(Duration::from_millis(300)).await } => {}
        }
        let _ = tokio::task::spawn_blocking(move || manager.shutdown()).await;
    }))
}
