//! Controller of nv: REST for users, gRPC for agents, policy, store and audit log.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use tokio_util::sync::CancellationToken;
//!
//! let shutdown = CancellationToken::new();
//! let controller = nv_controller::start(nv_controller::Config::default(), shutdown.clone()).await?;
//! if let Some(password) = controller.admin_password() {
//!     println!("first start; the password of 'admin' is {password}");
//! }
//! let identity = controller.agent_identity(&"node-1".parse()?)?; // for an agent in the same process
//! println!("REST on {}, gRPC on {}", controller.rest(), controller.grpc());
//! shutdown.cancel();
//! controller.wait().await;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod audit;
mod auth;
mod backing;
mod ca;
mod config;
mod engine;
mod grpc;
pub mod maintenance;
mod rest;
mod schema;
mod server;
mod sessions;
mod users;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nv_api::grpc::{enroll_server::EnrollServer, report_server::ReportServer, store_server::StoreServer};
use nv_types::NodeId;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Server, ServerTlsConfig};

pub use backing::{ClusterConfig, StoreKind};
pub use ca::Identity;
pub use config::{Cli, Command, Config, ConfigError};

use auth::Auth;
use ca::Ca;
use engine::Engine;

/// A controller that runs.
#[derive(Debug)]
pub struct Handle {
    rest: SocketAddr,
    grpc: SocketAddr,
    password: Option<String>,
    ca: Arc<Ca>,
    tokens: grpc::Tokens,
    engine: Arc<Engine>,
    tasks: TaskTracker,
}

impl Handle {
    /// Where REST listens.
    #[must_use]
    pub const fn rest(&self) -> SocketAddr {
        self.rest
    }

    /// Where gRPC listens.
    #[must_use]
    pub const fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    /// The password of `admin`, on the first start only.
    #[must_use]
    pub fn admin_password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// The CA's certificate, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        self.ca.pem()
    }

    /// A certificate with its key for a node's agent, for one in the same process.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn agent_identity(&self, node: &NodeId) -> anyhow::Result<Identity> {
        self.ca.agent(node)
    }

    /// A token that a node's agent joins with, once. Of a controller on a store that others share, see [`create_join_token`].
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn join_token(&self, node: &NodeId) -> anyhow::Result<String> {
        self.tokens.create(node)
    }

    /// Places where the audit log's chain was found broken at the start.
    #[must_use]
    pub fn audit_breaks(&self) -> usize {
        self.engine.audit_breaks()
    }

    /// Whether this controller does what only one of several may do.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.engine.leads()
    }

    /// Waits until everything has ended after the shutdown.
    pub async fn wait(self) {
        self.tasks.wait().await;
    }
}

/// Makes a join token; works while controllers run.
///
/// # Errors
/// When it cannot be written.
pub async fn create_join_token(config: &Config, node: &NodeId) -> anyhow::Result<String> {
    let data_dir: &Path = &config.data_dir;
    if !data_dir.join("ca.pem").exists() {
        bail!(
            "{} holds no controller's data: start nv-controller once",
            data_dir.display()
        );
    }
    tokens(config, data_dir).await?.make(node).await
}

async fn tokens(config: &Config, data_dir: &Path) -> anyhow::Result<grpc::Tokens> {
    Ok(match config.store {
        StoreKind::Embedded => grpc::Tokens::open(data_dir),
        StoreKind::Consul | StoreKind::Etcd => grpc::Tokens::shared(data_dir, backing::open(config).await?),
    })
}

/// Starts a controller. It runs until `shutdown` is cancelled.
///
/// # Errors
/// Names what is in the way: a folder that cannot be written, a damaged file, a port in use.
pub async fn start(config: Config, shutdown: CancellationToken) -> anyhow::Result<Handle> {
    config.check()?;
    let folder = &config.data_dir;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(folder)
        .with_context(|| format!("cannot make the data folder {}", folder.display()))?;
    let store = backing::open(&config).await?;
    let shared = config.store != StoreKind::Embedded;
    let ca = Arc::new(if shared {
        Ca::open_shared(folder, &*store).await?
    } else {
        Ca::open(folder)?
    });
    let mut names = config.names.clone();
    names.extend([config.rest.ip().to_string(), config.grpc.ip().to_string()]);
    let identity = Arc::new(ca.controller(&names)?);
    let idle = Duration::from_secs(config.session_idle);
    let (auth, password) = Auth::open(Arc::clone(&store), idle, shared).await?;
    let auth = Arc::new(auth);
    let tokens = if shared {
        grpc::Tokens::shared(folder, Arc::clone(&store))
    } else {
        grpc::Tokens::open(folder)
    };

    let rest_listener = listen("REST", config.rest).await?;
    let grpc_listener = listen("gRPC", config.grpc).await?;
    let (rest, grpc) = (rest_listener.local_addr()?, grpc_listener.local_addr()?);
    let copied = (!shared).then(|| Arc::clone(&store));
    let engine = Engine::open(store, shared.then(|| format!("{rest} {grpc}"))).await?;
    let app = rest::App {
        engine: Arc::clone(&engine),
        auth: Arc::clone(&auth),
        identity: Arc::clone(&identity),
        name: "controller".into(),
    };
    let tasks = TaskTracker::new();
    tasks.spawn(Arc::clone(&engine).run(shutdown.clone()));
    tasks.spawn(Arc::clone(&engine).lead(shutdown.clone()));
    tasks.spawn(auth.follow(shutdown.clone()));
    if let Some(store) = copied {
        tasks.spawn(maintenance::keep_copies(store, folder.clone(), shutdown.clone()));
    }
    tasks.spawn(server::serve(
        rest_listener,
        server::tls(&identity)?,
        rest::router(app),
        shutdown.clone(),
    ));
    let serving = serve_grpc(
        grpc_listener,
        &identity,
        Arc::clone(&engine),
        Arc::clone(&ca),
        tokens.clone(),
        shutdown,
    )?;
    tasks.spawn(serving);
    tasks.close();
    tracing::info!(%rest, %grpc, data = %folder.display(), "controller started");
    Ok(Handle {
        rest,
        grpc,
        password,
        ca,
        tokens,
        engine,
        tasks,
    })
}

async fn listen(what: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address} for {what}: is the port in use? another one can be given")
    })
}

fn serve_grpc(
    listener: TcpListener,
    identity: &Identity,
    engine: Arc<Engine>,
    ca: Arc<Ca>,
    tokens: grpc::Tokens,
    shutdown: CancellationToken,
) -> anyhow::Result<impl Future<Output = ()> + use<>> {
    let tls = ServerTlsConfig::new()
        .identity(tonic::transport::Identity::from_pem(
            &identity.certificate_pem,
            &identity.key_pem,
        ))
        .client_ca_root(Certificate::from_pem(&identity.ca_pem))
        // An agent that joins has no certificate yet; every service but Enroll asks for one.
        .client_auth_optional(true);
    let store = StoreServer::new(grpc::StoreService::new(Arc::clone(&engine), shutdown.clone()))
        .max_decoding_message_size(nv_api::MAX_MESSAGE)
        .max_encoding_message_size(usize::MAX);
    let report =
        ReportServer::new(grpc::ReportService(engine)).max_decoding_message_size(nv_api::MAX_MESSAGE);
    let enroll = EnrollServer::new(grpc::EnrollService { ca, tokens }).max_decoding_message_size(64 * 1024);
    let server = Server::builder()
        .tls_config(tls)
        .context("gRPC's TLS")?
        .concurrency_limit_per_connection(64)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .add_service(store)
        .add_service(report)
        .add_service(enroll);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Ok(async move {
        let stop = shutdown.clone();
        // Calls that do not end in time are cut short.
        let served = server.serve_with_incoming_shutdown(incoming, async move { stop.cancelled().await });
        tokio::select! {
            ended = served => if let Err(error) = ended {
                tracing::error!(%error, "gRPC ended");
            },
            () = async { shutdown.cancelled().await; tokio::time::sleep(Duration::from_millis(500)).await } => {}
        }
    })
}

/// Starts a controller and waits for its end.
///
/// # Errors
/// As [`start`].
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let handle = start(config, shutdown).await?;
    handle.wait().await;
    Ok(())
}
