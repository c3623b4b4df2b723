//! The self test: two hosts of its own, one rule, and a look at what passes.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nv_lab::{Host, HostSpec, Lab, LabError, NETNS_DIR};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Context;
use crate::cli::Connectivity;
use crate::client::{Client, segment};
use crate::error::{CtlError, EXIT_OK};
use crate::output::{Output, note};

const OPEN: u16 = 8080;
const SHUT: u16 = 9090;
/// How long a connection may take before it counts as refused.
const PATIENCE: Duration = Duration::from_millis(1500);

pub(super) async fn run(context: &Context, command: Connectivity) -> Result<u8, CtlError> {
    let Connectivity::Test {
        netns_dir,
        prefix,
        timeout,
    } = command;
    if netns_dir.as_os_str() != NETNS_DIR {
        return Err(CtlError::Usage(format!(
            "--netns-dir: namespaces can only be made under {NETNS_DIR} yet"
        )));
    }
    let client = context.client()?;
    let tag = format!("nvct{}", std::process::id() % 10_000);
    let names = Names {
        client: format!("{tag}-client"),
        server: format!("{tag}-server"),
        tag,
    };
    let test = Test {
        client: &client,
        out: &context.output,
        names,
        prefix,
        timeout: Duration::from_secs(timeout),
    };
    let mut signals = Signals::listen()?;
    // Dropped when a signal comes first: the namespaces go with it.
    let result = tokio::select! {
        result = test.play() => Ok(result),
        code = signals.next() => Err(code),
    };
    test.clean().await;
    match result {
        Ok(result) => result?,
        Err(code) => {
            note("interrupted; what the test made is removed");
            return Ok(code);
        }
    }
    context.output.line("connectivity test: passed")?;
    Ok(EXIT_OK)
}

/// Signals that end the test early.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> Result<Self, CtlError> {
        let on = |kind| {
            signal(kind).map_err(|source| CtlError::Io {
                action: "cannot listen for signals".into(),
                source,
            })
        };
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
        })
    }

    /// Waits for one; gives the exit code that goes with it: 128 and its number.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => 130,
            _ = self.terminate.recv() => 143,
        }
    }
}

/// What the test makes; all of it carries the tag.
struct Names {
    tag: String,
    client: String,
    server: String,
}

struct Test<'a> {
    client: &'a Client,
    out: &'a Output,
    names: Names,
    prefix: String,
    timeout: Duration,
}

impl Test<'_> {
    async fn play(&self) -> Result<(), CtlError> {
        let net = u8::try_from(std::process::id() % 200).unwrap_or(0);
        let host = |name: &str, number| HostSpec::new(format!("{}{name}", self.prefix), net, number);
        let lab = Lab::create(
            &self.names.tag,
            &[host(&self.names.client, 2), host(&self.names.server, 3)],
        )
        .map_err(|error| step("make two network namespaces", &error))?;
        let [from, to] = lab.hosts() else {
            return Err(step("make two network namespaces", &"there are not two"));
        };
        let _open = Server::start(to, OPEN)?;
        let _shut = Server::start(to, SHUT)?;
        self.done("made two network namespaces with servers")?;
        self.wait_for_workloads().await?;
        for address in [IpAddr::V4(to.spec().v4), IpAddr::V6(to.spec().v6)] {
            check(from, address, OPEN, true, "before any rule, everything passes")?;
        }
        self.done("before any rule, everything passes (IPv4, IPv6)")?;
        let revision = self.protect().await?;
        super::status::wait_in_force(self.client, revision, self.timeout).await?;
        self.done(&format!("rule tcp/{OPEN} and mode Protect are in force"))?;
        for address in [IpAddr::V4(to.spec().v4), IpAddr::V6(to.spec().v6)] {
            check(from, address, OPEN, true, "what the rule allows passes")?;
            check(from, address, SHUT, false, "what no rule allows does not pass")?;
        }
        self.done("what the rule allows passes, what none allows does not (IPv4, IPv6)")?;
        self.explained().await
    }

    fn done(&self, what: &str) -> Result<(), CtlError> {
        self.out.line(&format!("ok  {what}"))
    }

    async fn wait_for_workloads(&self) -> Result<(), CtlError> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let answer = self.client.get("/v1/service", &[]).await?;
            let empty = Vec::new();
            let list = answer.get("services").and_then(Value::as_array).unwrap_or(&empty);
            let known = |name: &str| {
                list.iter().any(|service| {
                    service
                        .get("name")
                        .and_then(Value::as_str)
                        .is_some_and(|known| known.ends_with(name))
                })
            };
            if known(&self.names.client) && known(&self.names.server) {
                return self.done("the agent has found both, the controller has made their services");
            }
            if Instant::now() >= deadline {
                return Err(step(
                    "the agent finds the namespaces",
                    &format!(
                        "not in {} s: does an agent on this host watch {NETNS_DIR}?",
                        self.timeout.as_secs()
                    ),
                ));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// One transaction: the rule and the mode. Gives its revision.
    async fn protect(&self) -> Result<u64, CtlError> {
        let (from, to) = (
            format!("nv.{}", self.names.client),
            format!("nv.{}", self.names.server),
        );
        let documents = json!([
            {"kind": "Rule", "from": from, "to": to, "ports": format!("tcp/{OPEN}"), "action": "allow",
             "comment": "nvctl connectivity test"},
            {"kind": "ServiceMode", "service": to, "mode": "Protect"},
        ]);
        let body = json!({"documents": documents, "dry_run": false});
        let answer = self.client.send(Method::POST, "/v1/apply", Some(&body)).await?;
        answer
            .revision
            .ok_or_else(|| self.client.garbled("a change without a revision"))
    }

    async fn explained(&self) -> Result<(), CtlError> {
        let ask = async |port: u16| -> Result<String, CtlError> {
            let query = [
                ("from", self.names.client.clone()),
                ("to", self.names.server.clone()),
                ("port", format!("tcp/{port}")),
            ];
            let answer = self.client.get("/v1/explain", &query).await?;
            let explain = answer.get("explain").unwrap_or(&answer);
            Ok(explain
                .get("verdict")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned())
        };
        let (open, shut) = (ask(OPEN).await?, ask(SHUT).await?);
        if open != "allow" || shut != "deny" {
            return Err(step(
                "the controller explains both",
                &format!("it says {open} and {shut}"),
            ));
        }
        self.done("the controller explains both the same way")
    }

    /// The agent may be telling of the namespaces still, and a service that is told of makes its group: waits until both have
    /// been out of the list for a moment.
    async fn wait_until_forgotten(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut absent = 0;
        while absent < 3 && Instant::now() < deadline {
            let answer = self.client.get("/v1/workload", &[]).await.unwrap_or(Value::Null);
            let listed = answer.to_string().contains(&self.names.tag);
            absent = if listed { 0 } else { absent + 1 };
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Removes the rules and groups that the test caused. The namespaces are gone already.
    async fn clean(&self) {
        self.wait_until_forgotten().await;
        let rules = self
            .client
            .get("/v1/policy/rule", &[])
            .await
            .unwrap_or(Value::Null);
        for rule in rules.get("rules").and_then(Value::as_array).into_iter().flatten() {
            let ours = ["from", "to"].iter().any(|end| {
                rule.get(end)
                    .and_then(Value::as_str)
                    .is_some_and(|group| group.contains(&self.names.tag))
            });
            if let (true, Some(id)) = (ours, rule.get("id").and_then(Value::as_u64)) {
                self.delete(&format!("/v1/policy/rule/{id}")).await;
            }
        }
        for name in [&self.names.client, &self.names.server] {
            self.delete(&format!("/v1/group/{}", segment(&format!("nv.{name}"))))
                .await;
        }
    }

    async fn delete(&self, path: &str) {
        match self.client.send(Method::DELETE, path, None).await {
            Ok(_) | Err(CtlError::Refused { status: 404, .. }) => {}
            Err(error) => note(&format!("could not clean up {path}: {error}")),
        }
    }
}

fn step(step: &str, detail: &dyn std::fmt::Display) -> CtlError {
    CtlError::Step {
        step: step.to_owned(),
        detail: detail.to_string(),
    }
}

/// A server inside a host that greets whoever comes, on both families.
struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(host: &Host, port: u16) -> Result<Self, CtlError> {
        let failed = |error: &dyn std::fmt::Display| step(&format!("listen on port {port}"), error);
        let listener = host
            .run(move || TcpListener::bind(SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), port)))
            .map_err(|error| failed(&error))?
            .map_err(|error| failed(&error))?;
        listener.set_nonblocking(true).map_err(|error| failed(&error))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((mut stream, _)) => {
                        let _ = stream.write_all(b"nv\n");
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Connects from a host and reads the greeting; `passes` is what should come of it.
fn check(from: &Host, address: IpAddr, port: u16, passes: bool, what: &str) -> Result<(), CtlError> {
    let seen = from
        .run(move || -> std::io::Result<Vec<u8>> {
            let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, port), PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut greeting = Vec::new();
            stream.read_to_end(&mut greeting)?;
            Ok(greeting)
        })
        .map_err(|error: LabError| step(what, &error))?;
    let passed = seen.as_ref().is_ok_and(|greeting| greeting == b"nv\n");
    if passed == passes {
        return Ok(());
    }
    let came = match seen {
        Ok(_) => "the connection was made".to_owned(),
        Err(error) => format!("the connection failed: {error}"),
    };
    Err(step(what, &format!("to {address} port {port}: {came}")))
}
