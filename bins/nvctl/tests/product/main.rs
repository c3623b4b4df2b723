//! nvctl against the real product: controller, agent and kernel datapath in this process, named network namespaces as
//! workloads, the built program as a user calls it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers of tests"
)]

mod words;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use nv_allinone::{Config, Stack};
use nv_lab::{Host, HostSpec, Lab};
use nv_runtime::{DiscoverOptions, Location};
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);
/// How long a connection may take before it counts as refused: the first SYN and one repetition.
const REFUSED: Duration = Duration::from_millis(1500);

fn is_root(test: &str) -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "{test} needs root");
    eprintln!("SKIPPED {test}: needs root");
    false
}

fn wait_for<T>(what: &str, mut holds: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = holds() {
            return value;
        }
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The product, running, and a folder for nvctl's files.
struct Product {
    runtime: tokio::runtime::Runtime,
    stack: Option<Stack>,
    config: Config,
    folder: TempDir,
    pins: PathBuf,
    server: String,
    prefix: String,
}

impl Product {
    fn start(letter: char) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let prefix = format!("nvt{letter}{}-", std::process::id() % 100_000);
        let folder = tempfile::tempdir().unwrap();
        let pins = Path::new("/sys/fs/bpf/nv").join(prefix.trim_end_matches('-'));
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let config = Config {
            controller: nv_controller::Config {
                data_dir: folder.path().join("data"),
                rest: free,
                grpc: free,
                ..nv_controller::Config::default()
            },
            node: "here".parse().unwrap(),
            agent_listen: free,
            pin_dir: pins.clone(),
            runtimes: DiscoverOptions {
                netns: Location::Auto,
                netns_prefix: prefix.clone(),
                ..DiscoverOptions::nothing()
            },
        };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let stack = runtime
            .block_on(Stack::start(config.clone(), CancellationToken::new()))
            .unwrap();
        let product = Self {
            server: stack.server(),
            runtime,
            config,
            folder,
            pins,
            prefix,
            stack: Some(stack),
        };
        std::fs::write(product.file("ca.pem"), product.stack.as_ref().unwrap().ca()).unwrap();
        let password = product.stack.as_ref().unwrap().password().unwrap().to_owned();
        std::fs::write(product.file("password"), password).unwrap();
        product
    }

    /// Ends agent and controller and starts them again on what they left; `between` is done while neither is there.
    fn restart(&mut self, between: impl FnOnce()) {
        let stack = self.stack.take().unwrap();
        self.runtime.block_on(stack.stop()).unwrap();
        between();
        let start = Stack::start(self.config.clone(), CancellationToken::new());
        let stack = self.runtime.block_on(start).unwrap();
        self.server = stack.server();
        self.stack = Some(stack);
        self.login();
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nvctl"));
        command
            .args(args)
            .env("NV_SERVER", &self.server)
            .env("NV_CA", self.file("ca.pem"))
            .env("NV_TOKEN_FILE", self.file("token"))
            .env("NV_CONFIG", self.file("config.toml"))
            .env_remove("NV_CONTEXT")
            .env_remove("NV_PASSWORD")
            .stdin(Stdio::null());
        command
    }

    /// Exit code, standard output, standard error.
    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let output = self.command(args).output().unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    }

    /// Output of a command that must succeed.
    fn ok(&self, args: &[&str]) -> String {
        let (code, out, err) = self.run(args);
        assert_eq!(code, 0, "{args:?}: {out}{err}");
        out
    }

    fn json(&self, args: &[&str]) -> Value {
        let mut args = args.to_vec();
        args.extend(["-o", "json"]);
        serde_json::from_str(&self.ok(&args)).unwrap()
    }

    fn login(&self) {
        self.ok(&[
            "login",
            "--password-file",
            self.file("password").to_str().unwrap(),
        ]);
    }

    fn apply(&self, text: &str) -> (i32, String, String) {
        let file = self.file("policy.yaml");
        std::fs::write(&file, text).unwrap();
        self.run(&["apply", "--wait", "-f", file.to_str().unwrap()])
    }

    /// A lab whose hosts are the workloads `web`, `app` and `db`, all of them found.
    fn lab(&self, net: u8) -> Lab {
        let bridge = self.prefix.trim_end_matches('-').to_owned();
        let names = ["web", "app", "db"].map(|name| format!("{}{name}", self.prefix));
        let specs: Vec<_> = names
            .iter()
            .zip(2..)
            .map(|(name, host)| HostSpec::new(name, net, host))
            .collect();
        let lab = Lab::create(&bridge, &specs).unwrap();
        wait_for("three workloads with their addresses", || {
            let found = self.json(&["get", "workloads"]);
            let workloads = found["workloads"].as_array()?;
            let ready = specs.iter().all(|spec| {
                workloads
                    .iter()
                    .any(|workload| workload.to_string().contains(&spec.v4.to_string()))
            });
            ready.then_some(())
        });
        lab
    }

    fn host<'a>(&self, lab: &'a Lab, name: &str) -> &'a Host {
        lab.host(&format!("{}{name}", self.prefix)).unwrap()
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        if let Some(stack) = self.stack.take()
            && let Err(error) = self.runtime.block_on(stack.stop())
        {
            eprintln!("the product did not stop well: {error}");
        }
        if let Err(error) = nv_dp::EbpfDatapath::purge_pins(&self.pins) {
            eprintln!("enforcement is left at {}: {error}", self.pins.display());
        }
    }
}

/// A server inside a host that answers every line with one.
struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(host: &Host, port: u16) -> Self {
        let listener = host
            .run(move || TcpListener::bind(SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), port)))
            .unwrap()
            .unwrap();
        listener.set_nonblocking(true).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((mut stream, _)) => {
                        let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
                        let _ = stream.read(&mut [0; 64]);
                        let _ = stream.write_all(b"hello\n");
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
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

/// A command that goes on; it ends with the test, also where that fails.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether a greeting comes back.
fn reaches(from: &Host, to: &Host, port: u16) -> bool {
    let address = SocketAddr::new(IpAddr::V4(to.spec().v4), port);
    from.run(move || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, REFUSED)?;
        stream.set_read_timeout(Some(REFUSED))?;
        stream.write_all(b"hi\n")?;
        let mut greeting = [0; 6];
        stream.read_exact(&mut greeting)?;
        Ok(&greeting == b"hello\n")
    })
    .unwrap()
    .unwrap_or(false)
}

/// How a connection ends that is not let through, and how soon.
fn refusal(from: &Host, to: &Host, port: u16) -> (std::io::ErrorKind, Duration) {
    let address = SocketAddr::new(IpAddr::V4(to.spec().v4), port);
    from.run(move || {
        let begun = Instant::now();
        let error = TcpStream::connect_timeout(&address, REFUSED).unwrap_err();
        (error.kind(), begun.elapsed())
    })
    .unwrap()
}

#[test]
fn quarantine_and_answers_to_denied_flows() {
    use std::io::ErrorKind;
    if !is_root("quarantine_and_answers_to_denied_flows") {
        return;
    }
    let mut product = Product::start('q');
    product.login();
    let lab = product.lab(206);
    let (web, app, db) = (
        product.host(&lab, "web"),
        product.host(&lab, "app"),
        product.host(&lab, "db"),
    );
    let _servers = [Server::start(app, 8080), Server::start(web, 80)];
    assert!(reaches(web, app, 8080) && reaches(db, web, 80));
    let name = "web";
    let state = |product: &Product| {
        let found = product.json(&["get", "workloads", name]);
        found["workloads"][0]["state"].as_str().unwrap().to_owned()
    };

    product.ok(&["quarantine", name, "--reason", "odd connections", "--wait"]);
    assert_eq!(state(&product), "quarantined");
    assert!(!reaches(web, app, 8080) && !reaches(db, web, 80), "both ways");
    assert!(reaches(db, app, 8080), "nobody else");
    let listed = product.ok(&["quarantine"]);
    assert!(
        listed.contains(name) && listed.contains("odd connections"),
        "{listed}"
    );
    let (code, out, _) = product.run(&["explain", name, "app", "tcp/8080", "--expect", "allow"]);
    assert!(code == 4 && out.contains("in quarantine"), "{out}");
    wait_for("the reason at the endpoint", || {
        // Until the interface is under guard, the answer is that none is.
        let (_, out, _) = product.run(&["status", "endpoint", name]);
        out.contains("quarantined").then_some(())
    });

    product.restart(|| assert!(!reaches(web, app, 8080), "with neither agent nor controller"));
    assert!(!reaches(web, app, 8080) && !reaches(db, web, 80));
    assert_eq!(state(&product), "quarantined");
    product.ok(&["quarantine", name, "--off", "--wait"]);
    assert_ne!(state(&product), "quarantined");
    wait_for("all as before", || {
        (reaches(web, app, 8080) && reaches(db, web, 80)).then_some(())
    });
    let (code, _, err) = product.run(&["quarantine", "nobody"]);
    assert!(code == 1 && err.contains("nobody"), "{err}");

    // What the client of a denied flow sees.
    let (code, out, err) = product.apply(
        "kind: Rule\nid: 7\nfrom: nv.web\nto: nv.app\nports: tcp/9090\naction: deny\n---\n\
         kind: ServiceMode\nservice: nv.app\nmode: Protect\n---\nkind: ServiceMode\nservice: nv.web\nmode: Protect\n",
    );
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(
        refusal(web, app, 9090).0,
        ErrorKind::TimedOut,
        "dropped in silence"
    );
    product.ok(&[
        "settings",
        "deny_response=reset",
        "idle.udp=7",
        "flow_share=40",
        "--wait",
    ]);
    let (kind, after) = refusal(web, app, 9090);
    assert_eq!(kind, ErrorKind::ConnectionRefused);
    assert!(after < Duration::from_millis(500), "{after:?}");
    let shown = product.ok(&["settings"]);
    let line = |name: &str| {
        let line = shown
            .lines()
            .find(|line| line.split_whitespace().next() == Some(name));
        line.unwrap_or_default()
            .split_whitespace()
            .last()
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(
        ["deny_response", "idle.udp", "flow_share"].map(line),
        ["reset", "7", "40"],
        "{shown}"
    );
    assert_eq!(product.json(&["settings"])["settings"]["idle"]["udp"], 7);
    for (change, words) in [
        ("deny_response=rst", "deny_response"),
        ("flow_share=101", "flow_share"),
        ("idle.udp=0", "idle.udp"),
        ("idle.gre=5", "idle.gre"),
    ] {
        let (code, _, err) = product.run(&["settings", change]);
        assert!(code == 1 && err.contains(words), "{change}: {err}");
    }
    product.ok(&["settings", "deny_response=drop", "--wait"]);
    assert_eq!(refusal(web, app, 9090).0, ErrorKind::TimedOut);
}

#[test]
fn sessions_lists_and_exit_codes() {
    if !is_root("sessions_lists_and_exit_codes") {
        return;
    }
    let product = Product::start('s');
    let (code, out, err) = product.run(&["get", "workloads"]);
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(err.contains("nvctl login"), "{err}");

    std::fs::write(product.file("wrong"), "not this one").unwrap();
    let (code, _, err) = product.run(&[
        "login",
        "--password-file",
        product.file("wrong").to_str().unwrap(),
    ]);
    assert_eq!(code, 1, "{err}");
    assert!(!product.file("token").exists());
    product.login();
    let mode = std::fs::metadata(product.file("token"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    let _lab = product.lab(201);
    let table = product.ok(&["get", "workloads"]);
    assert!(table.trim_start().starts_with("NAME"), "{table}");
    for name in ["web", "app", "db"] {
        assert!(table.contains(name), "{table}");
    }
    assert!(!table.contains('\x1b'), "colours off a terminal");
    assert!(product.ok(&["get", "workloads", "-o", "wide"]).contains("LABELS"));
    assert!(!product.ok(&["get", "workloads", "--no-headers"]).contains("NAME"));
    let json = product.json(&["get", "workloads"]);
    assert_eq!(json["workloads"].as_array().unwrap().len(), 3);
    let lines = product.ok(&["get", "workloads", "-o", "jsonl"]);
    let each: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(each, *json["workloads"].as_array().unwrap());
    let yaml = product.ok(&["get", "workloads", "-o", "yaml"]);
    assert!(yaml.starts_with("workloads:"), "{yaml}");
    let names = product.ok(&["get", "workloads", "-o", "name"]);
    assert_eq!(names.lines().count(), 3, "{names}");
    for kind in [
        "groups",
        "rules",
        "services",
        "conversations",
        "violations",
        "nodes",
    ] {
        let (code, _, err) = product.run(&["get", kind, "-o", "json"]);
        assert_eq!((code, err.as_str()), (0, ""), "{kind}");
    }
    assert!(
        product
            .ok(&["get", "groups", "containers"])
            .contains("containers")
    );
    assert!(product.ok(&["get", "services", "nv.web"]).contains("nv.web"));
    assert!(product.ok(&["get", "nodes", "here"]).contains("here"));
    for missing in [
        ["get", "groups", "nosuch"],
        ["get", "workloads", "nosuch"],
        ["get", "rules", "4711"],
    ] {
        let (code, out, err) = product.run(&missing);
        assert_eq!((code, out.as_str()), (1, ""), "{missing:?}");
        assert!(err.contains(missing[2]), "{err}");
    }
    assert!(product.ok(&["status", "--wait"]).contains("here"));

    assert_eq!(product.run(&["get", "houses"]).0, 2);
    assert_eq!(product.run(&["set-mode", "nv.web", "Enforce"]).0, 2);
    let (code, _, err) = product.run(&["get", "rules", "--server", "https://127.0.0.1:9"]);
    assert_eq!(code, 3, "{err}");
    assert!(err.contains("127.0.0.1:9"), "{err}");
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            product.ok(&["completion", shell]).contains("NV_COMPLETE"),
            "{shell}"
        );
    }
    assert!(product.ok(&["--help"]).contains("Exit codes"));
    assert!(product.ok(&["config"]).contains(&product.server));
    by_context(&product);
    product.ok(&["logout"]);
    assert!(!product.file("token").exists());
    assert_eq!(product.run(&["status"]).0, 1);
}

/// Everything that the environment said is in a context.
fn by_context(product: &Product) {
    let file = |name: &str| product.file(name).to_str().unwrap().to_owned();
    let (ca, token, password) = (file("ca.pem"), file("token-lab"), file("password"));
    let set = [
        "config",
        "set-context",
        "lab",
        "--use",
        "--server",
        &product.server,
        "--ca",
        &ca,
        "--token-file",
        &token,
    ];
    product.ok(&set);
    for args in [
        &["login", "--password-file", &password][..],
        &["status"],
        &["get", "nodes", "here"],
        &["logout"],
    ] {
        let mut command = product.command(args);
        for name in ["NV_SERVER", "NV_CA", "NV_TOKEN_FILE"] {
            command.env_remove(name);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
    }
    product.ok(&["config", "delete-context", "lab"]);
}

#[test]
fn a_policy_by_file_is_enforced_seen_and_explained() {
    if !is_root("a_policy_by_file_is_enforced_seen_and_explained") {
        return;
    }
    let product = Product::start('p');
    product.login();
    let lab = product.lab(202);
    let (web, app, db) = (
        product.host(&lab, "web"),
        product.host(&lab, "app"),
        product.host(&lab, "db"),
    );
    let _servers = [
        Server::start(app, 8080),
        Server::start(app, 9090),
        Server::start(db, 5432),
    ];
    assert!(reaches(web, app, 8080) && reaches(db, app, 8080) && reaches(web, app, 9090));
    let learned = wait_for("a learned rule", || {
        let rules = product.json(&["get", "rules"]);
        rules["rules"]
            .as_array()?
            .iter()
            .find(|rule| rule["cfg_type"] == "learned")
            .cloned()
    });
    assert!(learned["from"].as_str().unwrap().starts_with("nv."), "{learned}");

    // A file is taken whole or not at all.
    let (code, out, err) = product.apply(
        "kind: Group\nname: front\ncriteria: [{key: service, value: web}]\n---\nkind: Rule\nfrom: front\nto: nowhere\nports: tcp/80\naction: allow\n",
    );
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(err.contains("nowhere"), "{err}");
    assert_eq!(product.run(&["get", "groups", "front"]).0, 1);
    for (bad, says) in [
        (
            "kind: Rule\nfrom: containers\nto: external\nports: tcp/99999\naction: allow\n",
            "99999",
        ),
        (
            "kind: Rule\nfrom: containers\nto: external\nport: 80\naction: allow\n",
            "port",
        ),
        (
            "kind: Group\nname: x\ncriteria: [{key: image, op: like, value: y}]\n",
            "like",
        ),
        ("kind: Cat\nname: x\n", "Cat"),
        ("kind: [\n", "line"),
    ] {
        let (code, _, err) = product.apply(bad);
        assert_eq!(code, 1, "{bad}: {err}");
        assert!(err.contains(says), "{bad}: {err}");
    }

    // Learned rules go, so that only the file speaks.
    let rules = product.json(&["get", "rules"]);
    for rule in rules["rules"].as_array().unwrap() {
        product.ok(&["delete", "rule", &rule["id"].to_string(), "--yes"]);
    }
    let text = "kind: Group\nname: front\ncriteria: [{key: service, value: web}]\n---\n\
                kind: Rule\nid: 7\nfrom: front\nto: nv.app\nports: tcp/8080\naction: allow\n---\n\
                kind: ServiceMode\nservice: nv.app\nmode: Protect\n";
    let before = product.file("dry.yaml");
    std::fs::write(&before, text).unwrap();
    let dry = product.ok(&["apply", "--dry-run", "-f", before.to_str().unwrap()]);
    assert!(dry.contains("front"), "{dry}");
    assert_eq!(
        product.run(&["get", "groups", "front"]).0,
        1,
        "a dry run changes nothing"
    );
    let (code, out, err) = product.apply(text);
    assert_eq!(code, 0, "{out}{err}");
    assert!(reaches(web, app, 8080));
    assert!(!reaches(db, app, 8080) && !reaches(web, app, 9090));

    let explained = product.ok(&["explain", "web", "app", "tcp/8080", "--expect", "allow"]);
    assert!(explained.contains("rule 7"), "{explained}");
    let (code, out, _) = product.run(&["explain", "db", "app", "tcp/8080", "--expect", "allow"]);
    assert_eq!(code, 4, "{out}");
    assert!(out.contains("near miss") && out.contains("rule 7"), "{out}");
    product.ok(&["explain", "db", "app", "tcp/8080", "--expect", "deny"]);
    let (code, _, err) = product.run(&["explain", "nobody", "app", "tcp/80"]);
    assert_eq!(code, 1);
    assert!(err.contains("nobody"), "{err}");

    let denied = wait_for("the denied flow", || {
        let flows = product.json(&[
            "flows",
            "--from",
            "db",
            "--to",
            "app",
            "--verdict",
            "alert",
            "--verdict",
            "deny",
            "--port",
            "1,8080",
        ]);
        flows["flows"].as_array()?.first().cloned()
    });
    assert!(denied.to_string().contains("8080"), "{denied}");
    let none = product.json(&["flows", "--from", "db", "--verdict", "deny", "--port", "1"]);
    assert_eq!(none["flows"], Value::Array(Vec::new()));
    wait_for("violations of both", || {
        let violations = product.json(&["get", "violations"]);
        let list = violations["violations"].as_array()?;
        let of = |port: u16| {
            list.iter()
                .any(|violation| violation["server_port"] == port && violation["policy_action"] == "deny")
        };
        (of(8080) && of(9090)).then_some(())
    });
    wait_for("the conversation", || {
        let table = product.ok(&["get", "conversations"]);
        (table.contains("web") && table.contains("app")).then_some(())
    });

    // One object with what hangs on it.
    wait_for("the rule's hit", || {
        let rule = product.json(&["describe", "rule", "7"]);
        let hits = rule["rule"]["match_counter"].as_u64()?;
        (hits > 0 && !rule["conversations"].as_array()?.is_empty()).then_some(())
    });
    let workloads = product.json(&["get", "workloads"]);
    let mut list = workloads["workloads"].as_array().unwrap().iter();
    let found = list
        .find(|workload| workload["service_group"] == "nv.app")
        .unwrap();
    let described = product.ok(&["describe", "workload", found["id"].as_str().unwrap()]);
    for part in [
        "Protect",
        "containers,nv.app",
        "front",
        "tcp/8080",
        "Conversations",
        "9090",
    ] {
        assert!(described.contains(part), "no '{part}': {described}");
    }
    let described = product.ok(&["describe", "group", "front"]);
    assert!(
        described.contains("service=web") && described.contains("Members (1)"),
        "{described}"
    );

    // What is seen from now on, as it comes.
    let follow = ["flows", "--follow", "--last", "1", "--to", "db", "-o", "jsonl"];
    let mut follower = Running::start(product.command(&follow).stdout(Stdio::piped()));
    let lines = BufReader::new(follower.0.stdout.take().unwrap()).lines();
    let (sender, seen) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    let begun = Instant::now();
    let line = loop {
        assert!(begun.elapsed() < PATIENCE, "the follower says nothing");
        assert!(reaches(web, db, 5432));
        // The bridge's own multicast may come first.
        if let Ok(line) = seen.recv_timeout(Duration::from_millis(300))
            && line.contains("5432")
        {
            break line;
        }
    };
    let flow: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(flow["server_name"], "db", "{line}");
    assert_eq!(flow["port"], "tcp/5432", "{line}");
    kill(Pid::from_raw(follower.0.id().cast_signed()), Signal::SIGINT).unwrap();
    follower.0.wait().unwrap();
    reader.join().unwrap();

    let (code, _, err) = product.run(&["delete", "group", "front", "--yes"]);
    assert_eq!(code, 1, "a rule speaks of it: {err}");
    assert!(err.contains('7') && err.contains("front"), "{err}");
    product.ok(&["delete", "rule", "7", "--yes"]);
    product.ok(&["delete", "group", "front", "--yes"]);
    let (code, _, err) = product.run(&["delete", "rule", "7", "--yes"]);
    assert_eq!(code, 1, "{err}");
    wait_for("the rule's end", || (!reaches(web, app, 8080)).then_some(()));
    product.ok(&["set-mode", "nv.app", "Discover"]);
    wait_for("Discover", || {
        (reaches(web, app, 8080) && reaches(web, app, 9090)).then_some(())
    });
}

#[test]
fn a_capture_is_started_listed_stopped_and_fetched() {
    if !is_root("a_capture_is_started_listed_stopped_and_fetched") {
        return;
    }
    let product = Product::start('c');
    product.login();
    let lab = product.lab(203);
    let (web, app) = (product.host(&lab, "web"), product.host(&lab, "app"));
    let _server = Server::start(app, 8080);
    let id = product.ok(&["capture", "start", "app"]).trim().to_owned();
    assert!(product.ok(&["capture", "list"]).contains(&id));
    wait_for("packets in the capture", || {
        assert!(reaches(web, app, 8080));
        let list = product.json(&["capture", "list", "app"]);
        let size = list["sniffers"].as_array()?.first()?["size"].as_u64()?;
        (size > 500).then_some(())
    });
    product.ok(&["capture", "stop", &id]);
    let file = product.file("app.pcapng");
    product.ok(&["capture", "download", &id, "-w", file.to_str().unwrap()]);
    let bytes = std::fs::read(&file).unwrap();
    assert_eq!(bytes[..4], [0x0a, 0x0d, 0x0d, 0x0a], "a pcapng section header");
    assert!(
        bytes.windows(6).any(|window| window == b"hello\n"),
        "the server's answer is in it"
    );
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(!product.file("app.pcapng.part").exists());
    let piped = product
        .command(&["capture", "download", &id, "-w", "-"])
        .output()
        .unwrap();
    assert_eq!(piped.stdout, bytes);
    product.ok(&["capture", "delete", &id]);
    let (code, _, err) = product.run(&["capture", "download", &id, "-w", "-"]);
    assert_eq!(code, 1, "{err}");
    let (code, _, err) = product.run(&["capture", "start", "nobody"]);
    assert_eq!(code, 1);
    assert!(err.contains("nobody"), "{err}");
}

#[test]
fn captures_are_filtered_followed_and_told_of() {
    if !is_root("captures_are_filtered_followed_and_told_of") {
        return;
    }
    let product = Product::start('f');
    product.login();
    let lab = product.lab(205);
    let (web, app) = (product.host(&lab, "web"), product.host(&lab, "app"));
    let _servers = (Server::start(app, 8080), Server::start(app, 9090));
    let (code, _, err) = product.run(&["capture", "start", "app", "--filter", "tcp prot 80"]);
    assert!(code != 0 && err.contains("column 5"), "{err}");
    let (code, _, err) = product.run(&["capture", "start", "--group", "nobody"]);
    assert!(code == 1 && err.contains("nobody"), "{err}");

    // Words of nv are judged at the node, and one workload's captures do not disturb each other.
    let by_port = product
        .ok(&["capture", "start", "app", "--filter", "tcp port 8080"])
        .trim()
        .to_owned();
    let by_name = product
        .ok(&[
            "capture",
            "start",
            "--service",
            "app",
            "--filter",
            "src workload web and tcp",
        ])
        .trim()
        .to_owned();
    let none = product
        .ok(&[
            "capture",
            "start",
            "--from",
            "web",
            "--to",
            "app",
            "--verdict",
            "deny",
        ])
        .trim()
        .to_owned();
    // Both ends of the same conversation, live, as one file.
    let live = product.file("live.pcapng");
    let mut follower = Running::start(&mut product.command(&[
        "capture",
        "follow",
        "web",
        "app",
        "--filter",
        "tcp port 8080",
        "--duration",
        "4",
        "-w",
        live.to_str().unwrap(),
    ]));
    wait_for("packets of both ends", || {
        assert!(reaches(web, app, 8080) && reaches(web, app, 9090));
        let bytes = std::fs::read(&live).ok()?;
        let names: std::collections::BTreeSet<_> = nv_capture::PacketReader::new(bytes.as_slice())
            .ok()?
            .map_while(Result::ok)
            .filter_map(|packet| Some(packet.interface?.name.split('/').next()?.to_owned()))
            .collect();
        (names.len() == 2).then_some(())
    });
    assert!(follower.0.wait().unwrap().success());
    let merged: Vec<_> = nv_capture::PacketReader::new(std::fs::File::open(&live).unwrap())
        .unwrap()
        .map(|packet| packet.unwrap().timestamp)
        .collect();
    assert!(merged.is_sorted(), "one stream in the order of time");
    assert!(
        !product.ok(&["capture", "list", "web"]).contains("web"),
        "what was followed is not kept"
    );

    let fetch = |id: &str, name: &str| {
        product.ok(&["capture", "stop", id]);
        let file = product.file(name);
        product.ok(&["capture", "download", id, "-w", file.to_str().unwrap()]);
        file
    };
    let file = fetch(&by_port, "port.pcapng");
    let flows = product.json(&["capture", "flows", file.to_str().unwrap()]);
    let flows = flows["flows"].as_array().unwrap();
    assert!(!flows.is_empty());
    for flow in flows {
        assert!(flow["server"].as_str().unwrap().ends_with(":8080"), "{flow}");
        assert!(
            flow["rtt_ms"].as_f64().unwrap() < 1000.0 && flow["denied"] == 0,
            "{flow}"
        );
    }
    let summary = product.json(&["capture", "summary", file.to_str().unwrap(), "--filter", "tcp"]);
    assert_eq!(summary["conversations"], flows.len());
    // The flows are told of with their verdict and the workloads' names.
    let told: Vec<_> = nv_capture::PacketReader::new(std::fs::File::open(&file).unwrap())
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert!(
        told.iter()
            .any(|packet| packet.verdict == Some(nv_types::Verdict::Allow))
    );
    assert!(
        told.iter()
            .filter_map(|packet| packet.comment.as_deref())
            .any(|text| text.contains("allow by"))
    );
    let ports = product.json(&[
        "capture",
        "flows",
        fetch(&by_name, "name.pcapng").to_str().unwrap(),
    ]);
    let text = ports.to_string();
    assert!(text.contains(":8080") && text.contains(":9090"), "{text}");
    assert_eq!(
        product.json(&[
            "capture",
            "summary",
            fetch(&none, "none.pcapng").to_str().unwrap()
        ])["packets"],
        0
    );

    // A download that broke off goes on.
    let whole = std::fs::read(&file).unwrap();
    let again = product.file("again.pcapng");
    std::fs::write(product.file("again.pcapng.part"), &whole[..whole.len() / 2]).unwrap();
    product.ok(&[
        "capture",
        "download",
        &by_port,
        "-w",
        again.to_str().unwrap(),
        "--resume",
    ]);
    assert_eq!(std::fs::read(&again).unwrap(), whole);
    for id in [by_port, by_name, none] {
        product.ok(&["capture", "delete", &id]);
    }
}

/// What a self test leaves in the system.
fn traces(child: &Child) -> Vec<String> {
    let tag = format!("nvct{}", child.id() % 10_000);
    let folders = ["/sys/class/net", "/run/netns"];
    let entries = folders
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten());
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains(&tag))
        .collect()
}

#[test]
fn the_self_test_passes_and_cleans_up_when_it_is_interrupted() {
    if !is_root("the_self_test_passes_and_cleans_up_when_it_is_interrupted") {
        return;
    }
    let product = Product::start('t');
    product.login();
    let prefix = product.prefix.clone();
    let args = ["connectivity", "test", "--prefix", &prefix];
    let out = product.ok(&args);
    assert!(out.contains("connectivity test: passed"), "{out}");
    let left = |what: &str| {
        let objects = product.json(&["get", what]);
        objects[what]
            .as_array()
            .unwrap()
            .iter()
            .any(|object| object.to_string().contains("nvct"))
    };
    assert!(!left("rules"));
    wait_for("its groups' end", || (!left("groups")).then_some(()));

    let mut child = Running(
        product
            .command(&args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(first.starts_with("ok"), "{first}");
    assert_ne!(traces(&child.0), Vec::<String>::new());
    kill(Pid::from_raw(child.0.id().cast_signed()), Signal::SIGINT).unwrap();
    let status = child.0.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert_eq!(traces(&child.0), Vec::<String>::new());
    assert!(!left("rules"));
    wait_for("its groups' end", || (!left("groups")).then_some(()));
}

#[test]
fn a_violation_starts_a_capture_with_what_led_to_it() {
    if !is_root("a_violation_starts_a_capture_with_what_led_to_it") {
        return;
    }
    let product = Product::start('v');
    product.login();
    let lab = product.lab(206);
    let (web, app) = (product.host(&lab, "web"), product.host(&lab, "app"));
    let _server = Server::start(app, 8080);
    assert!(
        product.ok(&["capture", "trigger"]).contains("RING"),
        "off, but shown"
    );
    let (code, _, err) = product.run(&["capture", "trigger", "--ring", "3"]);
    assert!(code == 1 && err.contains("ring_kib"), "{err}");
    // A denied packet is dropped at its sender's end, so it is the sender whose packets are kept.
    product.ok(&["set-mode", "nv.app", "Protect"]);
    product.ok(&["set-mode", "nv.web", "Protect"]);
    // Named, so that the bridge's multicast starts nothing.
    let text = "kind: Rule\nid: 7\nfrom: nv.web\nto: nv.app\nports: tcp/8080\naction: deny\n";
    let (code, _, err) = product.apply(text);
    assert_eq!(code, 0, "{err}");
    product.ok(&[
        "capture",
        "trigger",
        "--ring",
        "256",
        "--rules",
        "7",
        "--duration",
        "1",
    ]);
    let shown = product.json(&["capture", "trigger"]);
    assert_eq!(shown["capture"]["ring_kib"], 256, "{shown}");
    // The first packet of a denied flow is long over when the violation is told: it is in the capture nevertheless.
    let capture = wait_for("a capture that a violation started", || {
        reaches(web, app, 8080);
        let list = product.json(&["capture", "list", "web"]);
        let found = list["sniffers"].as_array()?.first()?.clone();
        (found["status"] == "stopped").then_some(found)
    });
    let told = capture["args"].as_str().unwrap();
    assert!(
        told.contains("started by deny by rule 7") && told.contains(":8080"),
        "{told}"
    );
    let id = capture["id"].as_str().unwrap();
    let file = product.file("why.pcap.gz");
    let path = file.to_str().unwrap();
    product.ok(&[
        "capture",
        "download",
        id,
        "--pcap",
        "--compress",
        "gzip",
        "-w",
        path,
    ]);
    assert_eq!(std::fs::read(&file).unwrap()[..2], [0x1f, 0x8b]);
    let flows = product.json(&["capture", "flows", path]);
    assert!(flows.to_string().contains("8080"), "{flows}");
    let plain = product.file("why.pcapng");
    product.ok(&["capture", "download", id, "-w", plain.to_str().unwrap()]);
    let mut reader = nv_capture::PacketReader::new(std::fs::File::open(&plain).unwrap()).unwrap();
    let first = reader.next_view().unwrap().unwrap().timestamp.as_secs();
    assert!(
        i64::try_from(first).unwrap() <= capture["start_time"].as_i64().unwrap(),
        "it begins before what started it"
    );
    product.ok(&["capture", "trigger", "--ring", "0"]);
    product.ok(&["capture", "delete", id]);

    // What was done with it is in the audit log, which is in a copy of the store; the copy puts the policy back.
    let copy = product.file("copy.json");
    let copy = copy.to_str().unwrap();
    product.ok(&["store", "export", copy]);
    let stored = std::fs::read_to_string(copy).unwrap();
    for how in ["downloaded", "deleted"] {
        let entry = format!("capture {id}: {how}");
        assert!(stored.contains(&entry), "no '{entry}'");
    }
    product.ok(&["delete", "rule", "7", "--yes"]);
    let shown = product.ok(&["store", "import", copy, "--dry-run"]);
    assert!(product.run(&["get", "rule", "7"]).0 != 0, "a dry run: {shown}");
    product.ok(&["store", "import", copy, "--yes"]);
    assert_eq!(product.json(&["get", "rule", "7"])["rule"]["ports"], "tcp/8080");
}
