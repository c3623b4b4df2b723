//! Private Consul and etcd servers, for tests of this and of other crates. Each set has its own folder and its own ports on loopback, and is
//! gone when it is dropped.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Consul.
    Consul,
    /// etcd.
    Etcd,
}

/// How the servers are spoken to, and by whom: files in PEM form.
#[derive(Clone, Debug)]
pub struct Security {
    /// CA of all certificates.
    pub ca: PathBuf,
    /// Certificate for `localhost`, `127.0.0.1` and `server.dc1.consul`, for servers and clients.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Consul's ACL token that may do everything.
    pub token: String,
}

/// Where a server runs.
#[derive(Clone, Debug)]
pub struct Place {
    /// Name of a network namespace; `None`: that of the caller.
    pub netns: Option<String>,
    /// Its address there.
    pub address: IpAddr,
}

/// One server or several that make a cluster.
#[derive(Debug)]
pub struct Servers {
    kind: Kind,
    nodes: Vec<Node>,
    folder: PathBuf,
    secure: bool,
}

#[derive(Debug)]
struct Node {
    program: PathBuf,
    arguments: Vec<String>,
    place: Place,
    port: u16,
    child: Option<Child>,
}

/// The program of a kind of server, if it is installed.
#[must_use]
pub fn program(kind: Kind) -> Option<PathBuf> {
    let tools =
        std::env::var_os("NV_TOOLS").map_or_else(|| PathBuf::from("/var/cache/nv-tools"), PathBuf::from);
    let places = match kind {
        Kind::Consul => vec![
            tools.join("consul/usr/bin/consul"),
            "/usr/bin/consul".into(),
            "/usr/local/bin/consul".into(),
        ],
        Kind::Etcd => vec!["/usr/bin/etcd".into(), "/usr/local/bin/etcd".into()],
    };
    places.into_iter().find(|path| path.exists())
}

impl Servers {
    /// Starts servers; `None` where the program is not installed.
    ///
    /// # Errors
    /// When a folder, a port or a process cannot be had.
    pub fn start(kind: Kind, count: usize, security: Option<&Security>) -> io::Result<Option<Self>> {
        let loopback = Place {
            netns: None,
            address: Ipv4Addr::LOCALHOST.into(),
        };
        Self::start_at(kind, &vec![loopback; count], security)
    }

    /// Starts one server at each of these places. The caller must be where it reaches them.
    ///
    /// # Errors
    /// As [`Servers::start`].
    pub fn start_at(kind: Kind, places: &[Place], security: Option<&Security>) -> io::Result<Option<Self>> {
        let Some(program) = program(kind) else {
            return Ok(None);
        };
        let folder = fresh_folder()?;
        let mut servers = Self {
            kind,
            nodes: Vec::new(),
            folder,
            secure: security.is_some(),
        };
        let commands = match kind {
            Kind::Consul => servers.consul(places, security)?,
            Kind::Etcd => servers.etcd(places, security)?,
        };
        for ((port, arguments), place) in commands.into_iter().zip(places) {
            servers.nodes.push(Node {
                program: program.clone(),
                arguments,
                place: place.clone(),
                port,
                child: None,
            });
        }
        for node in 0..places.len() {
            servers.start_again(node)?;
        }
        Ok(Some(servers))
    }

    fn consul(&self, places: &[Place], security: Option<&Security>) -> io::Result<Vec<(u16, Vec<String>)>> {
        let count = places.len();
        let ports = free_ports(count * 3)?;
        let join: Vec<String> = places
            .iter()
            .enumerate()
            .map(|(n, place)| format!("\"{}:{}\"", place.address, ports[n * 3 + 1]))
            .collect();
        let mut commands = Vec::new();
        for (n, place) in places.iter().enumerate() {
            let address = place.address;
            let [api, serf, rpc] = [ports[n * 3], ports[n * 3 + 1], ports[n * 3 + 2]];
            let data = self.data(n);
            let (http, https) = if security.is_some() {
                ("-1".to_owned(), api.to_string())
            } else {
                (api.to_string(), "-1".into())
            };
            let secure = security.map_or_else(String::new, |security| {
                format!(
                    r#""ca_file":"{}","cert_file":"{}","key_file":"{}","verify_incoming":true,"verify_outgoing":true,
                    "acl":{{"enabled":true,"default_policy":"deny","tokens":{{"master":"{token}","agent":"{token}"}}}},"#,
                    security.ca.display(),
                    security.certificate.display(),
                    security.key.display(),
                    token = security.token,
                )
            });
            let config = format!(
                r#"{{"server":true,"bootstrap_expect":{count},"node_name":"n{n}","data_dir":"{}","bind_addr":"{address}","client_addr":"{address}",
                "retry_join":[{}],"retry_interval":"1s","disable_update_check":true,"log_level":"warn",{secure}
                "ports":{{"http":{http},"https":{https},"dns":-1,"grpc":-1,"serf_wan":-1,"serf_lan":{serf},"server":{rpc}}},
                "performance":{{"raft_multiplier":1}},"skip_leave_on_interrupt":true,"leave_on_terminate":false}}"#,
                data.display(),
                join.join(",")
            );
            let file = self.folder.join(format!("n{n}.json"));
            std::fs::write(&file, config)?;
            commands.push((
                api,
                vec!["agent".into(), format!("-config-file={}", file.display())],
            ));
        }
        Ok(commands)
    }

    fn etcd(&self, places: &[Place], security: Option<&Security>) -> io::Result<Vec<(u16, Vec<String>)>> {
        let ports = free_ports(places.len() * 2)?;
        let scheme = if security.is_some() { "https" } else { "http" };
        let url = |n: usize, port: u16| format!("{scheme}://{}:{port}", places[n].address);
        let all: Vec<String> = (0..places.len())
            .map(|n| format!("n{n}={}", url(n, ports[n * 2 + 1])))
            .collect();
        let mut commands = Vec::new();
        for n in 0..places.len() {
            let (client, peer) = (url(n, ports[n * 2]), url(n, ports[n * 2 + 1]));
            let mut arguments = vec![
                format!("--name=n{n}"),
                format!("--data-dir={}", self.data(n).display()),
                format!("--listen-client-urls={client}"),
                format!("--advertise-client-urls={client}"),
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
                format!("--initial-cluster={}", all.join(",")),
                "--logger=zap".into(),
                "--log-level=error".into(),
                "--max-txn-ops=20000".into(),
                "--max-request-bytes=33554432".into(),
                "--unsafe-no-fsync".into(),
            ];
            if let Some(security) = security {
                for side in ["", "peer-"] {
                    arguments.push(format!("--{side}trusted-ca-file={}", security.ca.display()));
                    arguments.push(format!("--{side}cert-file={}", security.certificate.display()));
                    arguments.push(format!("--{side}key-file={}", security.key.display()));
                    arguments.push(format!("--{side}client-cert-auth"));
                }
            }
            commands.push((ports[n * 2], arguments));
        }
        Ok(commands)
    }

    /// Data folder of a server.
    #[must_use]
    pub fn data(&self, node: usize) -> PathBuf {
        self.folder.join(format!("data{node}"))
    }

    /// Where clients go, in order.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        let scheme = if self.secure { "https" } else { "http" };
        self.nodes
            .iter()
            .map(|node| format!("{scheme}://{}:{}", node.place.address, node.port))
            .collect()
    }

    /// Starts a server that does not run.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_again(&mut self, node: usize) -> io::Result<()> {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join(format!("log{node}")))?;
        let node = &mut self.nodes[node];
        let mut command = match &node.place.netns {
            // It becomes the server itself, so that signals reach it.
            Some(netns) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", netns]).arg(&node.program);
                command
            }
            None => Command::new(&node.program),
        };
        let child = command
            .args(&node.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        node.child = Some(child);
        Ok(())
    }

    /// Kills a server as a power cut would.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self, node: usize) -> io::Result<()> {
        if let Some(mut child) = self.nodes[node].child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Sends a signal by name to a server: `STOP` and `CONT`.
    ///
    /// # Errors
    /// When it does not run, or the system refuses.
    pub fn signal(&self, node: usize, name: &str) -> io::Result<()> {
        let child = self.nodes[node].child.as_ref();
        let id = child.ok_or(io::ErrorKind::NotFound)?.id().to_string();
        let status = Command::new("kill").args([&format!("-{name}"), &id]).status()?;
        if status.success() {
            Ok(())
        } else {
            Err(io::ErrorKind::Other.into())
        }
    }

    /// The server that leads, if one answers and says so. Without TLS only.
    #[must_use]
    pub fn leader(&self) -> Option<usize> {
        match self.kind {
            Kind::Consul => {
                let answer = (0..self.nodes.len())
                    .find_map(|node| self.http(node, "GET", "/v1/status/leader", b"").ok())?;
                let text = String::from_utf8_lossy(&answer).into_owned();
                (0..self.nodes.len()).find(|node| {
                    let config = std::fs::read_to_string(self.folder.join(format!("n{node}.json")))
                        .unwrap_or_default();
                    let rpc = config
                        .split("\"server\":")
                        .last()
                        .and_then(|rest| rest.split('}').next());
                    rpc.is_some_and(|rpc| text.trim().trim_matches('"').ends_with(&format!(":{rpc}")))
                })
            }
            Kind::Etcd => (0..self.nodes.len()).find(|node| {
                let Ok(answer) = self.http(*node, "POST", "/v3/maintenance/status", b"{}") else {
                    return false;
                };
                let text = String::from_utf8_lossy(&answer).into_owned();
                let field = |name: &str| {
                    let rest = text.split(&format!("\"{name}\":\"")).nth(1)?;
                    rest.split('"').next().map(str::to_owned)
                };
                field("leader").is_some() && field("leader") == field("member_id")
            }),
        }
    }

    /// A plain HTTP call to a server. Without TLS only.
    ///
    /// # Errors
    /// When it does not answer, or answers otherwise than with 200.
    pub fn http(&self, node: usize, method: &str, path: &str, body: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect((self.nodes[node].place.address, self.nodes[node].port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
        let Some(end) = end.filter(|_| answer.get(9..12) == Some(b"200")) else {
            let text: String = String::from_utf8_lossy(&answer).chars().take(300).collect();
            return Err(io::Error::other(text));
        };
        Ok(answer.split_off(end + 4))
    }

    /// What the servers said, for a test that failed.
    #[must_use]
    pub fn logs(&self) -> String {
        (0..self.nodes.len())
            .map(|node| std::fs::read_to_string(self.folder.join(format!("log{node}"))).unwrap_or_default())
            .collect()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for node in 0..self.nodes.len() {
            let _ = self.kill(node);
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A folder of its own; in memory where that is to be had, so that a slow disk does not make tests slow.
fn fresh_folder() -> io::Result<PathBuf> {
    let base = Path::new("/dev/shm");
    let base = if base.is_dir() {
        base.to_owned()
    } else {
        std::env::temp_dir()
    };
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let number = since.map_or(0, |since| since.as_nanos());
    let folder = base.join(format!("nv-store-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Ports of loopback that are free now. All are held until all are known.
fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let held = (0..count)
        .map(|_| TcpListener::bind(("127.0.0.1", 0)))
        .collect::<io::Result<Vec<_>>>()?;
    held.iter()
        .map(|listener| Ok(listener.local_addr()?.port()))
        .collect()
}

/// Tries until something works or the time is over; then gives the last error.
///
/// # Errors
/// That of the last try.
pub async fn until<T, E, F>(patience: Duration, mut attempt: impl FnMut() -> F) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let end = Instant::now() + patience;
    loop {
        match attempt().await {
            Err(_) if Instant::now() < end => tokio::time::sleep(Duration::from_millis(50)).await,
            other => return other,
        }
    }
}
