//! The whole product on real containers: a dockerd of the test's own, the stock binary, rules over REST, the kernel's verdicts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers of tests"
)]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nv_lab::run_in;
use nv_runtime::testing::{DockerNetwork, TestDockerd, is_root};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_nv-allinone");
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a connection may take before it counts as refused: the first SYN and one repetition.
const REFUSED: Duration = Duration::from_millis(1500);

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The running product. Dropping it removes its enforcement too.
struct Product {
    child: Child,
    server: String,
    password: Option<String>,
    folder: PathBuf,
    pins: PathBuf,
    socket: PathBuf,
}

impl Product {
    fn start(folder: &Path, pins: &Path, socket: &Path) -> Self {
        let mut child = Command::new(PROGRAM)
            .args([
                "--rest",
                "127.0.0.1:0",
                "--grpc",
                "127.0.0.1:0",
                "--listen",
                "127.0.0.1:0",
            ])
            .args(["--netns", "off", "--node", "e2e"])
            .arg("--data-dir")
            .arg(folder)
            .arg("--pin-dir")
            .arg(pins)
            .arg("--docker")
            .arg(socket)
            .env(
                "RUST_LOG",
                std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".into()),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut password = None;
        let mut server = None;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some((_, rest)) = line.split_once("password of 'admin' is ") {
                password = rest.split(' ').next().map(str::to_owned);
            }
            if let Some((_, rest)) = line.split_once("REST on ") {
                server = rest.split(',').next().map(str::to_owned);
                break;
            }
        }
        let server = server.expect("the product says where REST is");
        Self {
            child,
            server,
            password,
            folder: folder.into(),
            pins: pins.into(),
            socket: socket.into(),
        }
    }

    /// kill -9, and nothing else.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn restart(&mut self) {
        let next = Self::start(&self.folder, &self.pins, &self.socket);
        // The old one is dead; its drop must not remove what the new one enforces.
        let old = std::mem::replace(self, next);
        std::mem::forget(old);
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let purged = Command::new(PROGRAM)
            .arg("--purge")
            .arg("--pin-dir")
            .arg(&self.pins)
            .stderr(Stdio::null())
            .status();
        if !purged.is_ok_and(|status| status.success()) || self.pins.exists() {
            eprintln!("enforcement is left at {}", self.pins.display());
        }
    }
}

/// REST, as a user has it.
struct Rest {
    runtime: tokio::runtime::Runtime,
    http: reqwest::Client,
    server: String,
    token: String,
}

impl Rest {
    fn login(product: &Product, password: &str) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let pem = std::fs::read(product.folder.join("ca.pem")).unwrap();
        let http = reqwest::Client::builder()
            .tls_certs_only(reqwest::Certificate::from_pem_bundle(&pem).unwrap())
            .no_proxy()
            .build()
            .unwrap();
        let mut rest = Self {
            runtime,
            http,
            server: product.server.clone(),
            token: String::new(),
        };
        let body = json!({"password": {"username": "admin", "password": password}});
        let (answer, _) = rest.call("POST", "/v1/auth", Some(&body));
        rest.token = answer["token"]["token"].as_str().unwrap().to_owned();
        rest
    }

    /// Answer and revision; a refusal is a failed test.
    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> (Value, u64) {
        self.runtime.block_on(async {
            let mut request = self
                .http
                .request(method.parse().unwrap(), format!("{}{path}", self.server));
            request = request.header("X-Auth-Token", &self.token);
            if let Some(body) = body {
                request = request.json(body);
            }
            let response = request.send().await.unwrap();
            let status = response.status();
            let revision = response
                .headers()
                .get("x-nv-revision")
                .and_then(|v| v.to_str().ok()?.parse().ok());
            let text = response.text().await.unwrap();
            assert!(status.is_success(), "{method} {path}: {status} {text}");
            (serde_json::from_str(&text).unwrap(), revision.unwrap_or(0))
        })
    }

    fn get(&self, path: &str) -> Value {
        self.call("GET", path, None).0
    }

    /// Makes a change and waits until the kernel has it.
    fn change(&self, method: &str, path: &str, body: Option<&Value>) {
        let (_, revision) = self.call(method, path, body);
        wait_for(
            &format!("revision {revision} of {method} {path} in force"),
            || {
                let nodes = self.get("/v1/node");
                nodes["nodes"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|node| node["revision"].as_u64().unwrap() >= revision)
            },
        );
    }

    fn set_mode(&self, service: &str, mode: &str) {
        let body = json!({"config": {"services": [service], "policy_mode": mode}});
        self.change("PATCH", "/v1/service/config", Some(&body));
    }

    fn workload(&self, name: &str) -> Option<Value> {
        let all = self.get("/v1/workload");
        all["workloads"]
            .as_array()
            .unwrap()
            .iter()
            .find(|workload| workload["name"] == name)
            .cloned()
    }
}

/// A running container, and how to act inside its network namespace.
struct Container {
    netns: PathBuf,
    v4: IpAddr,
    v6: IpAddr,
}

impl Container {
    fn start(docker: &TestDockerd, name: &str, image: &str, options: &[&str], command: &[&str]) -> Self {
        docker.run_container(name, image, options, command);
        let pid = docker.docker(&["inspect", "--format", "{{.State.Pid}}", name]);
        Self {
            netns: format!("/proc/{pid}/ns/net").into(),
            v4: docker.address(name, false).parse().unwrap(),
            v6: docker.address(name, true).parse().unwrap(),
        }
    }

    fn addresses(&self) -> [IpAddr; 2] {
        [self.v4, self.v6]
    }

    /// Connects, sends a line and reads it back.
    fn try_echo(&self, to: IpAddr, port: u16) -> std::io::Result<()> {
        run_in(&self.netns, move || {
            let mut stream = TcpStream::connect_timeout(&SocketAddr::new(to, port), REFUSED)?;
            echo(&mut stream)
        })
        .unwrap()
    }

    fn reaches(&self, to: &Self, port: u16) {
        for address in to.addresses() {
            // A loaded machine may lose a moment; what is allowed gets through soon all the same.
            let begun = Instant::now();
            while let Err(error) = self.try_echo(address, port) {
                assert!(
                    begun.elapsed() < PATIENCE,
                    "{address} port {port} is not reached: {error}"
                );
            }
        }
    }

    fn does_not_reach(&self, to: &Self, port: u16) {
        for address in to.addresses() {
            let tried = self.try_echo(address, port);
            assert!(tried.is_err(), "{address} port {port} is reached");
        }
    }
}

fn echo(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(REFUSED))?;
    stream.write_all(b"hello\n")?;
    let mut line = [0; 6];
    stream.read_exact(&mut line)?;
    assert_eq!(&line, b"hello\n");
    Ok(())
}

/// An echo server inside a container, on both families; counts who came.
struct Server {
    stop: Arc<AtomicBool>,
    came: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(inside: &Container, port: u16) -> Self {
        let listener = run_in(&inside.netns, move || TcpListener::bind(("::", port)).unwrap()).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (stop, came) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&came));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let Ok((mut stream, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(2));
                    continue;
                };
                counted.fetch_add(1, Ordering::Relaxed);
                let stopped = Arc::clone(&stopped);
                std::thread::spawn(move || {
                    stream.set_nonblocking(false).unwrap();
                    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
                    let mut buffer = [0; 512];
                    while !stopped.load(Ordering::Relaxed) {
                        match stream.read(&mut buffer) {
                            Ok(0) => return,
                            Ok(count) => drop(stream.write_all(&buffer[..count])),
                            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                            Err(_) => return,
                        }
                    }
                });
            }
        });
        Self {
            stop,
            came,
            thread: Some(thread),
        }
    }

    fn came(&self) -> usize {
        self.came.load(Ordering::Relaxed)
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

#[test]
fn real_containers_are_protected() {
    if !is_root("real_containers_are_protected") {
        return;
    }
    let docker = TestDockerd::start(DockerNetwork::CurrentNamespace);
    for image in ["shop/web:1", "shop/app:1", "shop/db:1"] {
        docker.image(image);
    }
    let sleep = ["sleep", "600"];
    let web = Container::start(&docker, "web", "shop/web:1", &["--label", "tier=front"], &sleep);
    let app = Container::start(&docker, "app", "shop/app:1", &[], &sleep);
    let db = Container::start(&docker, "db", "shop/db:1", &[], &sleep);
    let servers = [Server::start(&app, 8080), Server::start(&app, 9090)];

    let folder = tempfile::tempdir().unwrap();
    let pins = PathBuf::from(format!("/sys/fs/bpf/nv/e2e-{}", std::process::id()));
    let mut product = Product::start(folder.path(), &pins, &docker.socket());
    let password = product
        .password
        .clone()
        .expect("the first start prints a password");
    let rest = Rest::login(&product, &password);

    wait_for("all three workloads, each with its service", || {
        let services: BTreeMap<String, String> = rest.get("/v1/service")["services"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| {
                (
                    s["name"].as_str().unwrap().to_owned(),
                    s["policy_mode"].as_str().unwrap().to_owned(),
                )
            })
            .collect();
        ["web", "app", "db"].iter().all(|name| {
            services.get(&format!("nv.{name}")).map(String::as_str) == Some("Discover")
                && rest.workload(name).is_some()
        })
    });
    // Containers that run already are under guard too, and in Discover everything passes.
    wait_for("three interfaces under guard", || {
        rest.get("/v1/node")["nodes"][0]["endpoints"].as_u64() == Some(3)
    });
    web.reaches(&app, 8080);
    web.reaches(&app, 9090);
    db.reaches(&app, 8080);

    policy(&rest, &web, &app, &db);
    open_connection_is_cut(&rest, &web, &app);
    later_container(&rest, &docker, &db);
    second_network(&rest, &docker, &app);
    failsafe(&rest, &docker, &app);
    kill_and_adopt(&mut product, &password, &web, &app, &db);
    drop(servers);
}

fn allow_rule(rest: &Rest) {
    let rule = json!({"id": 0, "from": "fronts", "to": "apps", "ports": "tcp/8080", "action": "allow", "applications": []});
    rest.change(
        "PATCH",
        "/v1/policy/rule",
        Some(&json!({"insert": {"after": 0, "rules": [rule]}})),
    );
}

fn delete_rules(rest: &Rest) {
    let rules = rest.get("/v1/policy/rule");
    for rule in rules["rules"].as_array().unwrap() {
        rest.change("DELETE", &format!("/v1/policy/rule/{}", rule["id"]), None);
    }
}

/// Groups by label, image and service; one rule; Protect. What it allows passes, nothing else does, and it is all shown.
fn policy(rest: &Rest, web: &Container, app: &Container, db: &Container) {
    for (name, key, value) in [
        ("fronts", "tier", "front"),
        ("apps", "image", "shop/app*"),
        ("stores", "service", "db"),
    ] {
        let group = json!({"config": {"name": name, "criteria": [{"key": key, "op": "=", "value": value}]}});
        rest.change("POST", "/v1/group", Some(&group));
        let members = rest.get(&format!("/v1/group/{name}"))["group"]["members"]
            .as_array()
            .unwrap()
            .len();
        assert_eq!(members, 1, "{name}");
    }
    for service in ["nv.web", "nv.app", "nv.db"] {
        rest.set_mode(service, "Monitor");
    }
    delete_rules(rest); // what Discover has learned of the tries above
    allow_rule(rest);
    let deny = json!({"id": 0, "from": "stores", "to": "apps", "ports": "any", "action": "deny", "applications": []});
    rest.change(
        "PATCH",
        "/v1/policy/rule",
        Some(&json!({"insert": {"after": null, "rules": [deny]}})),
    );
    rest.set_mode("app", "Protect");
    web.reaches(app, 8080);
    db.does_not_reach(app, 8080);
    web.does_not_reach(app, 9090);

    wait_for("the denied flow with its rule", || {
        let flows = rest.get("/v1/flow?verdict=deny&from=db&to=app");
        flows["flows"].as_array().unwrap().iter().any(|flow| {
            flow["port"] == "tcp/8080"
                && flow["reason"] == "rule"
                && flow["rule"].as_u64().is_some_and(|rule| rule > 0)
        })
    });
    wait_for("a violation that no rule speaks of", || {
        let violations = rest.get("/v1/log/violation");
        violations["violations"]
            .as_array()
            .unwrap()
            .iter()
            .any(|violation| {
                violation["client_name"] == "web"
                    && violation["server_port"] == 9090
                    && violation["policy_action"] == "deny"
                    && violation["policy_id"] == 0
            })
    });
    let explained = rest.get("/v1/explain?from=web&to=app&port=tcp/8080");
    assert_eq!(
        (
            explained["explain"]["verdict"].as_str(),
            explained["explain"]["mode"].as_str()
        ),
        (Some("allow"), Some("Protect"))
    );
    let explained = rest.get("/v1/explain?from=db&to=app&port=tcp/8080");
    assert_eq!(explained["explain"]["rule_detail"]["from"], "stores");
}

/// The rule is deleted: the connection that it allowed is cut too. Discover lets everything pass again.
fn open_connection_is_cut(rest: &Rest, web: &Container, app: &Container) {
    let mut open: Vec<TcpStream> = app
        .addresses()
        .into_iter()
        .map(|to| {
            run_in(&web.netns, move || {
                TcpStream::connect_timeout(&SocketAddr::new(to, 8080), PATIENCE)
            })
            .unwrap()
            .unwrap()
        })
        .collect();
    for stream in &mut open {
        echo(stream).unwrap();
    }
    delete_rules(rest);
    for stream in &mut open {
        assert!(
            echo(stream).is_err(),
            "an open connection goes on after its rule is gone"
        );
    }
    web.does_not_reach(app, 8080);
    rest.set_mode("nv.app", "Discover");
    web.reaches(app, 8080);
    web.reaches(app, 9090);
    for service in ["nv.web", "nv.db"] {
        rest.set_mode(service, "Discover");
    }
}

/// A container of a protected service that starts later sends from its first instruction: nothing arrives. The same in Discover does.
fn later_container(rest: &Rest, docker: &TestDockerd, db: &Container) {
    let server = Server::start(db, 7777);
    rest.change(
        "PATCH",
        "/v1/settings",
        Some(&json!({"settings": {"unknown_endpoint": "deny"}})),
    );
    rest.set_mode("nv.app", "Protect");
    delete_rules(rest);
    let sender = format!(
        "while true; do echo x | nc -w 1 {} 7777; echo x | nc -w 1 {} 7777; done",
        db.v4, db.v6
    );
    let later = |name: &str| docker.run_container(name, "shop/app:1", &[], &["sh", "-c", &sender]);
    later("later");
    wait_for("the later container is known", || {
        rest.workload("later").is_some()
    });
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(
        server.came(),
        0,
        "a container of a protected service reached what no rule allows"
    );
    rest.set_mode("nv.app", "Discover");
    wait_for("the same traffic in Discover", || server.came() > 0);
    docker.docker(&["rm", "--force", "later"]);
    wait_for("the container is forgotten", || rest.workload("later").is_none());
    for service in ["nv.app", "nv.web", "nv.db"] {
        rest.set_mode(service, "Monitor");
    }
    delete_rules(rest);
}

/// A running container is connected to one more network: that interface is under the same policy, from both ends, until it is disconnected.
fn second_network(rest: &Rest, docker: &TestDockerd, app: &Container) {
    let endpoints = |count: u64| {
        wait_for(&format!("{count} interfaces under guard"), || {
            rest.get("/v1/node")["nodes"][0]["endpoints"].as_u64() == Some(count)
        });
    };
    docker.docker(&[
        "network",
        "create",
        "--ipv6",
        "--subnet",
        "10.213.8.0/24",
        "--subnet",
        "fd00:213:8::/64",
        "second",
    ]);
    docker.run_container("peer", "shop/db:1", &["--network", "second"], &["sleep", "600"]);
    let on_second = |name: &str| {
        let ask = |what: &str| {
            let format = format!("{{{{(index .NetworkSettings.Networks \"second\").{what}}}}}");
            docker
                .docker(&["inspect", "--format", &format, name])
                .parse()
                .unwrap()
        };
        let pid = docker.docker(&["inspect", "--format", "{{.State.Pid}}", name]);
        Container {
            netns: format!("/proc/{pid}/ns/net").into(),
            v4: ask("IPAddress"),
            v6: ask("GlobalIPv6Address"),
        }
    };
    endpoints(4);
    rest.set_mode("nv.app", "Protect");
    docker.docker(&["network", "connect", "second", "app"]);
    endpoints(5);
    let (peer, app_there) = (on_second("peer"), on_second("app"));
    assert_ne!(app_there.v4, app.v4);
    wait_for("its addresses are known", || {
        let workload = rest.workload("app").unwrap().to_string();
        app_there
            .addresses()
            .iter()
            .all(|address| workload.contains(&address.to_string()))
    });
    peer.does_not_reach(&app_there, 8080);
    let rule = json!({"id": 0, "from": "stores", "to": "apps", "ports": "tcp/8080", "action": "allow", "applications": []});
    let insert = json!({"insert": {"after": 0, "rules": [rule]}});
    rest.change("PATCH", "/v1/policy/rule", Some(&insert));
    peer.reaches(&app_there, 8080);
    peer.does_not_reach(&app_there, 9090);

    docker.docker(&["network", "disconnect", "second", "app"]);
    endpoints(4);
    docker.docker(&["rm", "--force", "peer"]);
    endpoints(3);
    delete_rules(rest);
    rest.set_mode("nv.app", "Monitor");
}

/// A port of the node itself stays open while it is on the list, whatever the rules say, and no longer.
fn failsafe(rest: &Rest, docker: &TestDockerd, app: &Container) {
    let (v4, v6) = docker.subnet();
    let host = Container {
        netns: "/proc/self/ns/net".into(),
        v4: v4.into(),
        v6: v6.into(),
    };
    let _server = Server::start(&host, 2222);
    let list = |ports: &[&str]| {
        let body = json!({"settings": {"failsafe_ports": ports}});
        rest.change("PATCH", "/v1/settings", Some(&body));
    };
    rest.set_mode("nv.app", "Protect");
    app.does_not_reach(&host, 2222);
    list(&["tcp/22", "tcp/2222"]);
    app.reaches(&host, 2222);
    list(&["tcp/22"]);
    app.does_not_reach(&host, 2222);
    rest.set_mode("nv.app", "Monitor");
}

/// kill -9: enforcement goes on. A restart adopts it: nothing that is denied passes meanwhile, and nothing that is allowed breaks.
fn kill_and_adopt(product: &mut Product, password: &str, web: &Container, app: &Container, db: &Container) {
    let rest = Rest::login(product, password);
    allow_rule(&rest);
    rest.set_mode("nv.app", "Protect");
    web.reaches(app, 8080);
    db.does_not_reach(app, 8080);
    let mut open = {
        let to = SocketAddr::new(app.v4, 8080);
        run_in(&web.netns, move || TcpStream::connect_timeout(&to, PATIENCE))
            .unwrap()
            .unwrap()
    };
    echo(&mut open).unwrap();

    product.kill();
    web.reaches(app, 8080);
    db.does_not_reach(app, 8080);
    echo(&mut open).unwrap();

    // Denied tries without a pause, over the whole restart.
    let stop = Arc::new(AtomicBool::new(false));
    let tries = {
        let (stop, netns, to) = (Arc::clone(&stop), db.netns.clone(), SocketAddr::new(app.v4, 8080));
        std::thread::spawn(move || {
            run_in(&netns, move || {
                let (mut tried, mut passed) = (0, 0);
                while !stop.load(Ordering::Relaxed) {
                    tried += 1;
                    passed += usize::from(TcpStream::connect_timeout(&to, Duration::from_millis(20)).is_ok());
                }
                (tried, passed)
            })
            .unwrap()
        })
    };
    product.restart();
    let rest = Rest::login(product, password);
    wait_for("the restarted product knows and guards all three", || {
        echo(&mut open).unwrap();
        rest.get("/v1/node")["nodes"][0]["endpoints"].as_u64() == Some(3) && rest.workload("web").is_some()
    });
    for _ in 0..20 {
        echo(&mut open).unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    stop.store(true, Ordering::Relaxed);
    let (tried, passed) = tries.join().unwrap();
    assert!(tried > 20, "only {tried} tries");
    assert_eq!(
        passed, 0,
        "of {tried} denied tries, {passed} passed over the restart"
    );
    web.reaches(app, 8080);
    db.does_not_reach(app, 8080);
    echo(&mut open).unwrap();
}
