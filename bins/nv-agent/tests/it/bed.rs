//! A controller that can stop and come back, agents as program and as library, and a road between them that can be cut.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nv_agent::{Config, Credentials, DatapathKind, HookFail};
use nv_dp::SoftwareConfig;
use nv_runtime::{DiscoverOptions, Location};
use nv_types::{NodeId, Revision};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Longest time that anything is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn node() -> NodeId {
    "n1".parse().unwrap()
}

/// Asks until it holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A controller on a folder and on ports that stay the same over restarts.
pub(crate) struct Controller {
    pub(crate) folder: TempDir,
    rest: SocketAddr,
    pub(crate) grpc: SocketAddr,
    running: Option<(nv_controller::Handle, CancellationToken)>,
    client: reqwest::Client,
    password: String,
    token: String,
}

impl Controller {
    pub(crate) async fn start() -> Self {
        let _installed_before = rustls::crypto::ring::default_provider().install_default();
        let free = "127.0.0.1:0".parse().unwrap();
        let mut controller = Self {
            folder: tempfile::tempdir().unwrap(),
            rest: free,
            grpc: free,
            running: None,
            client: reqwest::Client::new(),
            password: String::new(),
            token: String::new(),
        };
        controller.again().await;
        controller
    }

    fn handle(&self) -> &nv_controller::Handle {
        &self.running.as_ref().expect("it runs").0
    }

    /// Starts it (again).
    pub(crate) async fn again(&mut self) {
        let stop = CancellationToken::new();
        let config = nv_controller::Config {
            data_dir: self.folder.path().to_owned(),
            rest: self.rest,
            grpc: self.grpc,
            ..nv_controller::Config::default()
        };
        // In one process the last connections of the one before hold the store for a moment longer.
        let begun = Instant::now();
        let handle = loop {
            match nv_controller::start(config.clone(), stop.clone()).await {
                Ok(handle) => break handle,
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{error:#}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        (self.rest, self.grpc) = (handle.rest(), handle.grpc());
        let ca = reqwest::Certificate::from_pem(handle.ca_pem().as_bytes()).unwrap();
        self.client = reqwest::Client::builder()
            .tls_certs_only([ca])
            .no_proxy()
            .build()
            .unwrap();
        if let Some(password) = handle.admin_password() {
            self.password = password.to_owned();
        }
        self.running = Some((handle, stop));
        let body = json!({"password": {"username": "admin", "password": self.password}});
        let (answer, _) = self.call("POST", "/v1/auth", Some(&body)).await;
        self.token = answer["token"]["token"].as_str().unwrap().to_owned();
    }

    pub(crate) async fn stop(&mut self) {
        let (handle, stop) = self.running.take().unwrap();
        stop.cancel();
        handle.wait().await;
    }

    /// Answer and revision; a refusal is a failed test.
    async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> (Value, Revision) {
        let mut request = self
            .client
            .request(method.parse().unwrap(), format!("https://{}{path}", self.rest))
            .header("X-Auth-Token", &self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        let revision = response.headers().get("x-nv-revision");
        let revision = revision.and_then(|text| text.to_str().ok()?.parse().ok());
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "{method} {path}: {status} {text}");
        let answer = serde_json::from_str(&text).unwrap_or(Value::Null);
        (answer, Revision(revision.unwrap_or(0)))
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.call("GET", path, None).await.0
    }

    /// A change over REST; the revision that it made.
    pub(crate) async fn send(&self, method: &str, path: &str, body: &Value) -> Revision {
        self.call(method, path, Some(body)).await.1
    }

    /// A change of the policy; the revision that it made.
    pub(crate) async fn change(&self, name: &str) -> Revision {
        let group =
            json!({"config": {"name": name, "criteria": [{"key": "tier", "op": "=", "value": "front"}]}});
        self.call("POST", "/v1/group", Some(&group)).await.1
    }

    /// So many changes by another node's agent: its workloads, again and again.
    pub(crate) async fn churn(&self, node: &NodeId, count: usize) {
        use nv_api::grpc::{CommitRequest, Op, Put, op, store_client::StoreClient};
        use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
        let identity = self.handle().agent_identity(node).unwrap();
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&identity.ca_pem))
            .identity(Identity::from_pem(&identity.certificate_pem, &identity.key_pem))
            .domain_name(nv_api::CONTROLLER_NAME);
        let endpoint = Endpoint::from_shared(format!("https://{}", self.grpc)).unwrap();
        let channel = endpoint.tls_config(tls).unwrap().connect().await.unwrap();
        let write = |writer: usize| {
            let mut store = StoreClient::new(channel.clone());
            async move {
                for number in 0..count / 32 {
                    let id = format!("w{writer}-{}", number % 8).parse().unwrap();
                    let mut workload = nv_types::Workload::new(id, node.clone(), "elsewhere");
                    workload.labels.insert("number".into(), number.to_string());
                    let key = nv_types::keys::workload(node, &workload.id);
                    let put = Put {
                        value: nv_policy::encode(&key, &workload).unwrap(),
                        key,
                        lease: 0,
                    };
                    let ops = vec![Op {
                        op: Some(op::Op::Put(put)),
                    }];
                    let conditions = Vec::new();
                    store.commit(CommitRequest { conditions, ops }).await.unwrap();
                }
            }
        };
        futures::future::join_all((0..32).map(write)).await;
    }

    /// The node as REST shows it.
    pub(crate) async fn node(&self, name: &str) -> Option<Value> {
        let nodes = self.get("/v1/node").await;
        let mut nodes = nodes["nodes"].as_array().unwrap().iter();
        nodes
            .find(|node| node["id"] == name || node["name"] == name)
            .cloned()
    }

    /// Waits until the node says that this revision is in force.
    pub(crate) async fn in_force(&self, name: &str, revision: Revision) {
        until(&format!("revision {revision} in force on {name}"), async || {
            let node = self.node(name).await;
            node.is_some_and(|node| node["revision"].as_u64().unwrap() >= revision.0)
        })
        .await;
    }

    pub(crate) async fn workloads(&self) -> Vec<String> {
        let all = self.get("/v1/workload").await;
        let all = all["workloads"].as_array().unwrap().clone();
        let mut names: Vec<_> = all
            .iter()
            .map(|workload| workload["name"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    }

    pub(crate) fn join_token(&self, node: &NodeId) -> String {
        self.handle().join_token(node).unwrap()
    }

    /// A node's folder with a certificate, as if it had joined.
    pub(crate) fn joined(&self, node: &NodeId) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let identity = self.handle().agent_identity(node).unwrap();
        for (name, text) in [
            ("agent.pem", &identity.certificate_pem),
            ("agent.key", &identity.key_pem),
            ("ca.pem", &identity.ca_pem),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }
}

/// An agent in this process.
pub(crate) struct Agent {
    handle: nv_agent::Handle,
    stop: CancellationToken,
}

/// How the tests' agents are set up.
fn config(
    node: &NodeId,
    folder: &Path,
    controller: SocketAddr,
    docker: Option<&Path>,
    datapath: SoftwareConfig,
) -> Config {
    Config {
        node: node.clone(),
        controller: controller.to_string(),
        hook_socket: Some(folder.join("hook.sock")),
        hook_fail: HookFail::default(),
        hook_wait: Duration::from_secs(5),
        names: nv_agent::NameOptions::default(),
        data_dir: folder.to_owned(),
        datapath: DatapathKind::Software(datapath),
        pin_dir: folder.join("pins"),
        dp_socket: folder.join("dp.sock"),
        listen: "127.0.0.1:0".parse().unwrap(),
        runtimes: DiscoverOptions {
            docker: docker.map_or(Location::Off, |socket| Location::At(socket.to_owned())),
            ..DiscoverOptions::nothing()
        },
        credentials: Credentials::Folder {
            join_token_file: None,
            ca: None,
        },
    }
}

/// Waits until an agent that ran in this process has given its folder of captures back: threads that were about to end hold it for moments longer.
async fn free(folder: &Path) {
    let is_free = || {
        let lock = std::fs::File::open(folder.join("captures/lock"));
        lock.map_or(true, |lock| lock.try_lock().is_ok())
    };
    until("the folder of captures is free", async || is_free()).await;
}

impl Agent {
    pub(crate) async fn start(
        node: &NodeId,
        folder: &Path,
        controller: SocketAddr,
        docker: Option<&Path>,
    ) -> Self {
        Self::sized(node, folder, controller, docker, SoftwareConfig::default()).await
    }

    /// One whose tables have these sizes.
    pub(crate) async fn sized(
        node: &NodeId,
        folder: &Path,
        controller: SocketAddr,
        docker: Option<&Path>,
        datapath: SoftwareConfig,
    ) -> Self {
        let stop = CancellationToken::new();
        let config = config(node, folder, controller, docker, datapath);
        free(folder).await;
        let handle = nv_agent::start(config, stop.clone()).await.unwrap();
        Self { handle, stop }
    }

    /// One on a datapath of the test's own.
    pub(crate) async fn on(
        datapath: Box<dyn nv_dp::Datapath>,
        node: &NodeId,
        folder: &Path,
        controller: SocketAddr,
    ) -> Self {
        let stop = CancellationToken::new();
        let config = config(node, folder, controller, None, SoftwareConfig::default());
        free(folder).await;
        let handle = nv_agent::start_on(datapath, config, stop.clone()).await.unwrap();
        Self { handle, stop }
    }

    /// Waits until it ends by itself: why.
    pub(crate) async fn ends(self) -> String {
        let ended = tokio::time::timeout(PATIENCE, self.handle.wait()).await;
        ended.expect("it goes on").unwrap_err().to_string()
    }

    pub(crate) fn in_force(&self) -> Option<Revision> {
        self.handle.in_force()
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.handle.wait().await.unwrap();
    }
}

/// The stock binary.
pub(crate) struct Program {
    child: Child,
    said: Arc<Mutex<String>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Program {
    pub(crate) fn start(node: &NodeId, folder: &Path, controller: SocketAddr, more: &[&str]) -> Self {
        Self::start_with(node, folder, controller, more, &[])
    }

    /// With these variables in its environment.
    pub(crate) fn start_with(
        node: &NodeId,
        folder: &Path,
        controller: SocketAddr,
        more: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_nv-agent"))
            .args(["--datapath", "software", "--docker", "off", "--netns", "off"])
            .args(["--listen", "127.0.0.1:0", "--node", node.as_str()])
            .args(["--controller", &controller.to_string()])
            .arg("--data-dir")
            .arg(folder)
            .arg("--hook-socket")
            .arg(folder.with_extension("sock"))
            .args(more)
            .envs(variables.iter().copied())
            .env_remove("RUST_LOG")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let (words, stderr) = (Arc::clone(&said), child.stderr.take().unwrap());
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut words = words.lock().unwrap();
                words.push_str(&line);
                words.push('\n');
            }
        });
        Self {
            child,
            said,
            reader: Some(reader),
        }
    }

    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Waits until it has said this.
    pub(crate) async fn says(&self, words: &str) {
        let begun = Instant::now();
        while !self.said().contains(words) {
            assert!(
                begun.elapsed() < PATIENCE,
                "it never said '{words}':\n{}",
                self.said()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits for its end.
    pub(crate) async fn ends(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                if let Some(reader) = self.reader.take() {
                    reader.join().unwrap();
                }
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end:\n{}", self.said());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A road to the controller that can be cut: open connections are torn, new ones refused.
pub(crate) struct Road {
    pub(crate) address: SocketAddr,
    whole: Arc<Mutex<CancellationToken>>,
}

impl Road {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let whole = Arc::new(Mutex::new(CancellationToken::new()));
        let state = Arc::clone(&whole);
        tokio::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let cut = state.lock().unwrap().clone();
                tokio::spawn(cut.run_until_cancelled_owned(async move {
                    if let Ok(mut far) = TcpStream::connect(target).await {
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                }));
            }
        });
        Self { address, whole }
    }

    pub(crate) fn cut(&self) {
        self.whole.lock().unwrap().cancel();
    }

    pub(crate) fn mend(&self) {
        *self.whole.lock().unwrap() = CancellationToken::new();
    }
}

/// An address where nobody listens.
pub(crate) async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

pub(crate) fn policy_file(folder: &Path) -> PathBuf {
    folder.join("policy.json")
}
