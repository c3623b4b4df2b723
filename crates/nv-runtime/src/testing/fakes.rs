//! Fakes of daemons: a CRI server with the ways of CRI-O, and Docker's API with the ways of Podman. No container runs.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures::Stream;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{BroadcastStream, UnixListenerStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status};

use super::cri::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use super::cri::*;

/// Events that a slow reader of a fake may be behind.
const BACKLOG: usize = 65_536;

/// A pod of a fake.
#[derive(Clone, Debug)]
pub struct FakePod {
    /// Its id.
    pub id: String,
    /// Its name; the namespace is `prod`.
    pub name: String,
    /// Whether it runs.
    pub is_ready: bool,
    /// Its process, 0 for none, as in CRI-O.
    pub pid: u32,
    /// The JSON beside its verbose status.
    pub info: String,
    /// Its containers: id, name, image.
    pub containers: Vec<(String, String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Events {
    Stream,
    EndAtOnce,
    Unimplemented,
}

/// A CRI server that holds pods only in memory. Its socket answers until the value is dropped.
#[derive(Clone, Debug)]
pub struct FakeCri {
    state: Arc<State>,
    _stop: Arc<DropGuard>,
}

#[derive(Debug)]
struct State {
    events: Events,
    name: &'static str,
    pods: Mutex<BTreeMap<String, FakePod>>,
    sender: broadcast::Sender<ContainerEventResponse>,
    stop: CancellationToken,
}

impl FakeCri {
    /// CRI-O as it is by default: the call for events ends at once, without an error.
    ///
    /// # Panics
    /// When the socket cannot be made.
    #[must_use]
    pub fn crio(socket: &Path) -> Self {
        Self::start(socket, "cri-o", Events::EndAtOnce)
    }

    /// CRI-O with `enable_pod_events`.
    ///
    /// # Panics
    /// As [`FakeCri::crio`].
    #[must_use]
    pub fn crio_with_events(socket: &Path) -> Self {
        Self::start(socket, "cri-o", Events::Stream)
    }

    /// containerd 1.6, which has no such call.
    ///
    /// # Panics
    /// As [`FakeCri::crio`].
    #[must_use]
    pub fn without_events(socket: &Path) -> Self {
        Self::start(socket, "containerd", Events::Unimplemented)
    }

    fn start(socket: &Path, name: &'static str, events: Events) -> Self {
        let (sender, _) = broadcast::channel(BACKLOG);
        let stop = CancellationToken::new();
        let state = Arc::new(State {
            events,
            name,
            pods: Mutex::default(),
            sender,
            stop: stop.clone(),
        });
        let listener = UnixListener::bind(socket).expect("a socket");
        let served = tonic::transport::Server::builder()
            .add_service(RuntimeServiceServer::from_arc(Arc::clone(&state)))
            .serve_with_incoming(UnixListenerStream::new(listener));
        let token = stop.clone();
        tokio::spawn(async move { token.run_until_cancelled(served).await });
        Self {
            state,
            _stop: Arc::new(stop.drop_guard()),
        }
    }

    /// Puts a pod in without an event, or in the place of what it was.
    ///
    /// # Panics
    /// When a test that holds the lock has panicked.
    pub fn put(&self, pod: FakePod) {
        self.state.pods.lock().unwrap().insert(pod.id.clone(), pod);
    }

    /// Takes a pod out without an event.
    ///
    /// # Panics
    /// As [`FakeCri::put`].
    pub fn remove(&self, id: &str) {
        self.state.pods.lock().unwrap().remove(id);
    }

    /// Sends an event about a container of a pod, or about the pod itself.
    ///
    /// # Panics
    /// As [`FakeCri::put`].
    pub fn tell(&self, pod: &str, container: &str, kind: ContainerEventType, at: i64) {
        let status = self.state.pods.lock().unwrap().get(pod).map(status_of);
        let _ = self.state.sender.send(ContainerEventResponse {
            container_id: container.to_owned(),
            container_event_type: kind.into(),
            created_at: at,
            pod_sandbox_status: status,
        });
    }
}

fn status_of(pod: &FakePod) -> PodSandboxStatus {
    PodSandboxStatus {
        id: pod.id.clone(),
        metadata: Some(metadata_of(pod)),
        state: i32::from(!pod.is_ready),
        created_at: 1,
        ..PodSandboxStatus::default()
    }
}

fn metadata_of(pod: &FakePod) -> PodSandboxMetadata {
    PodSandboxMetadata {
        name: pod.name.clone(),
        namespace: "prod".into(),
        ..PodSandboxMetadata::default()
    }
}

fn unused<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not in this fake"))
}

#[tonic::async_trait]
impl RuntimeService for State {
    type GetContainerEventsStream =
        Pin<Box<dyn Stream<Item = Result<ContainerEventResponse, Status>> + Send>>;

    async fn version(&self, _: Request<VersionRequest>) -> Result<Response<VersionResponse>, Status> {
        Ok(Response::new(VersionResponse {
            version: "0.1.0".into(),
            runtime_name: self.name.into(),
            runtime_version: "1.30.0".into(),
            runtime_api_version: "v1".into(),
        }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> Result<Response<ListPodSandboxResponse>, Status> {
        let wanted = request.into_inner().filter.and_then(|filter| filter.state);
        let pods = self.pods.lock().unwrap();
        let items = pods
            .values()
            .map(|pod| PodSandbox {
                id: pod.id.clone(),
                metadata: Some(metadata_of(pod)),
                state: i32::from(!pod.is_ready),
                created_at: 1,
            })
            .filter(|pod| wanted.is_none_or(|wanted| wanted.state == pod.state))
            .collect();
        Ok(Response::new(ListPodSandboxResponse { items }))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<PodSandboxStatusRequest>,
    ) -> Result<Response<PodSandboxStatusResponse>, Status> {
        let id = request.into_inner().pod_sandbox_id;
        let pods = self.pods.lock().unwrap();
        let pod = pods.get(&id).ok_or_else(|| Status::not_found("no such pod"))?;
        Ok(Response::new(PodSandboxStatusResponse {
            status: Some(status_of(pod)),
            info: HashMap::from([("info".to_owned(), pod.info.clone())]),
        }))
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Result<Response<ListContainersResponse>, Status> {
        let wanted = request.into_inner().filter.map(|filter| filter.pod_sandbox_id);
        let pods = self.pods.lock().unwrap();
        let of_pod = |pod: &FakePod| -> Vec<Container> {
            let one = |(at, (id, name, image)): (i64, &(String, String, String))| Container {
                id: id.clone(),
                pod_sandbox_id: pod.id.clone(),
                metadata: Some(ContainerMetadata {
                    name: name.clone(),
                    attempt: 0,
                }),
                image: Some(ImageSpec {
                    image: image.clone(),
                    ..ImageSpec::default()
                }),
                state: ContainerState::ContainerRunning.into(),
                created_at: at,
                ..Container::default()
            };
            (0..).zip(&pod.containers).map(one).collect()
        };
        let containers = match wanted {
            Some(id) => pods.get(&id).map(of_pod).unwrap_or_default(),
            None => pods.values().flat_map(of_pod).collect(),
        };
        Ok(Response::new(ListContainersResponse { containers }))
    }

    async fn get_container_events(
        &self,
        _: Request<GetEventsRequest>,
    ) -> Result<Response<Self::GetContainerEventsStream>, Status> {
        match self.events {
            Events::Unimplemented => Err(Status::unimplemented("unknown method GetContainerEvents")),
            Events::EndAtOnce => Ok(Response::new(Box::pin(tokio_stream::empty()))),
            Events::Stream => {
                let received = BroadcastStream::new(self.sender.subscribe());
                let stream =
                    received.map(|event| event.map_err(|_| Status::data_loss("the reader is too slow")));
                let ends = self.stop.clone().cancelled_owned();
                Ok(Response::new(Box::pin(futures::StreamExt::take_until(
                    stream, ends,
                ))))
            }
        }
    }

    async fn container_status(
        &self,
        _: Request<ContainerStatusRequest>,
    ) -> Result<Response<ContainerStatusResponse>, Status> {
        unused()
    }

    async fn run_pod_sandbox(
        &self,
        _: Request<RunPodSandboxRequest>,
    ) -> Result<Response<RunPodSandboxResponse>, Status> {
        unused()
    }

    async fn stop_pod_sandbox(&self, _: Request<PodSandboxId>) -> Result<Response<Nothing>, Status> {
        unused()
    }

    async fn remove_pod_sandbox(&self, _: Request<PodSandboxId>) -> Result<Response<Nothing>, Status> {
        unused()
    }

    async fn create_container(
        &self,
        _: Request<CreateContainerRequest>,
    ) -> Result<Response<CreateContainerResponse>, Status> {
        unused()
    }

    async fn start_container(&self, _: Request<ContainerId>) -> Result<Response<Nothing>, Status> {
        unused()
    }

    async fn stop_container(&self, _: Request<ContainerId>) -> Result<Response<Nothing>, Status> {
        unused()
    }

    async fn remove_container(&self, _: Request<ContainerId>) -> Result<Response<Nothing>, Status> {
        unused()
    }

    async fn exec_sync(&self, _: Request<ExecSyncRequest>) -> Result<Response<ExecSyncResponse>, Status> {
        unused()
    }
}

/// Docker's API with containers only in memory: what nv calls of it, over HTTP/1.1.
#[derive(Clone, Debug)]
pub struct FakeDocker {
    state: Arc<DockerState>,
    _stop: Arc<DropGuard>,
}

#[derive(Debug)]
struct DockerState {
    version: String,
    containers: Mutex<BTreeMap<String, u32>>,
    sender: broadcast::Sender<String>,
}

impl FakeDocker {
    /// A dockerd.
    ///
    /// # Panics
    /// When the socket cannot be made.
    #[must_use]
    pub fn docker(socket: &Path) -> Self {
        Self::start(
            socket,
            r#""Version":"28.0.0","Components":[{"Name":"Engine","Version":"28.0.0"}]"#,
        )
    }

    /// A Podman.
    ///
    /// # Panics
    /// As [`FakeDocker::docker`].
    #[must_use]
    pub fn podman(socket: &Path) -> Self {
        Self::start(
            socket,
            r#""Version":"5.4.0","Components":[{"Name":"Podman Engine","Version":"5.4.0"}]"#,
        )
    }

    fn start(socket: &Path, version: &str) -> Self {
        let (sender, _) = broadcast::channel(BACKLOG);
        let state = Arc::new(DockerState {
            version: format!("{{{version},\"ApiVersion\":\"1.41\",\"MinAPIVersion\":\"1.24\"}}"),
            containers: Mutex::default(),
            sender,
        });
        let listener = UnixListener::bind(PathBuf::from(socket)).expect("a socket");
        let stop = CancellationToken::new();
        let (served, token) = (Arc::clone(&state), stop.clone());
        tokio::spawn(token.run_until_cancelled_owned(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(Arc::clone(&served), stream));
            }
        }));
        Self {
            state,
            _stop: Arc::new(stop.drop_guard()),
        }
    }

    /// Puts a running container in, with its process.
    ///
    /// # Panics
    /// When a test that holds the lock has panicked.
    pub fn put(&self, id: &str, pid: u32) {
        self.state.containers.lock().unwrap().insert(id.to_owned(), pid);
    }

    /// Takes a container out.
    ///
    /// # Panics
    /// As [`FakeDocker::put`].
    pub fn remove(&self, id: &str) {
        self.state.containers.lock().unwrap().remove(id);
    }

    /// Sends an event of a container; `nanos` is its time.
    pub fn tell(&self, action: &str, id: &str, nanos: u64) {
        let event = format!(
            "{{\"Type\":\"container\",\"Action\":\"{action}\",\"Actor\":{{\"ID\":\"{id}\",\"Attributes\":{{}}}},\"time\":{},\"timeNano\":{nanos}}}\n",
            nanos / 1_000_000_000
        );
        let _ = self.state.sender.send(event);
    }

    /// How many listen to events.
    #[must_use]
    pub fn listeners(&self) -> usize {
        self.state.sender.receiver_count()
    }
}

async fn serve(state: Arc<DockerState>, stream: UnixStream) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
        let mut rest = String::new();
        while rest != "\r\n" {
            rest.clear();
            stream.read_line(&mut rest).await.ok().filter(|read| *read > 0)?;
        }
        let path = line.split(' ').nth(1)?.split('?').next()?.to_owned();
        if path.ends_with("/events") {
            return stream_events(&state, stream).await;
        }
        let (status, body) = body_of(&state, &path);
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).await.ok()?;
    }
}

fn body_of(state: &DockerState, path: &str) -> (&'static str, String) {
    if path.ends_with("/version") {
        return ("200 OK", state.version.clone());
    }
    let containers = state.containers.lock().unwrap();
    if path.ends_with("/containers/json") {
        let items = containers
            .keys()
            .map(|id| format!("{{\"Id\":\"{id}\",\"Labels\":{{}}}}"));
        return ("200 OK", format!("[{}]", items.collect::<Vec<_>>().join(",")));
    }
    let id = path
        .strip_suffix("/json")
        .and_then(|path| path.rsplit('/').next())
        .unwrap_or_default();
    match containers.get(id) {
        Some(pid) => (
            "200 OK",
            format!(
                "{{\"Id\":\"{id}\",\"Name\":\"/c{id}\",\"Created\":\"2024-05-01T10:00:00Z\",\"Config\":{{\"Image\":\"test/web:1\",\"Labels\":{{\"tier\":\"front\"}}}},\
                 \"HostConfig\":{{\"NetworkMode\":\"bridge\"}},\"State\":{{\"Running\":true,\"Pid\":{pid},\"StartedAt\":\"2024-05-01T10:00:00Z\"}}}}"
            ),
        ),
        None => ("404 Not Found", "{\"message\":\"no such container\"}".to_owned()),
    }
}

async fn stream_events(state: &DockerState, mut stream: BufReader<UnixStream>) -> Option<()> {
    let mut events = state.sender.subscribe();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.ok()?;
    stream.flush().await.ok()?;
    loop {
        let event = events.recv().await.ok()?;
        let chunk = format!("{:x}\r\n{event}\r\n", event.len());
        stream.write_all(chunk.as_bytes()).await.ok()?;
    }
}
