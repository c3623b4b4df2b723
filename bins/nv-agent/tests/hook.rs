//! Containers of the real runc that send at their first instruction, on the real kernel: nothing beyond the policy passes while the hook holds
//! them, and the same traffic passes without it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    dead_code,
    reason = "a test that cannot go on has failed; helpers are shared with other tests"
)]
#![allow(unused_crate_dependencies, reason = "the package's other targets use them")]

#[path = "it/bed.rs"]
mod bed;

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bed::{Controller, node, until};
use nv_agent::{Config, Credentials, DatapathKind, HookFail};
use nv_lab::{HostSpec, Lab, run_in};
use nv_runtime::testing::{DockerNetwork, TestDockerd, is_root};
use nv_runtime::{DiscoverOptions, Location};
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Starts under the hook; `NV_HOOK_STARTS` for more.
const STARTS: usize = 40;
/// At once.
const TOGETHER: usize = 3;
const DENIED: u16 = 7777;
const ALLOWED: u16 = 7778;
const LAB: u8 = 213;

/// Counts datagrams inside a namespace.
struct Receiver {
    count: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    fn start(namespace: &Path, port: u16) -> Self {
        let socket = run_in(namespace, move || UdpSocket::bind(("0.0.0.0", port)).unwrap()).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let (count, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, stopped) = (Arc::clone(&count), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if socket.recv(&mut [0; 64]).is_ok() {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self {
            count,
            stop,
            thread: Some(thread),
        }
    }

    /// Datagrams since the last call.
    fn take(&self) -> usize {
        self.count.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Makes and runs bundles.
struct Bundles {
    folder: PathBuf,
    bridge: String,
    server: String,
    /// `nv-agent … hook`; `None`: the hook is off.
    hook: Vec<String>,
}

impl Bundles {
    fn new(folder: &Path, bridge: &str, server: &str, data_dir: &Path) -> Self {
        let rootfs = folder.join("rootfs");
        for name in ["bin", "proc", "dev", "sys"] {
            fs::create_dir_all(rootfs.join(name)).unwrap();
        }
        fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("/bin/busybox (package busybox-static)");
        // What a network plugin does: a veth between the container's namespace and the bridge.
        let network = "pid=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/')\n\
            set -e\n\
            ip link add name $1 type veth peer name eth0 netns $pid\n\
            ip link set $1 master $2 up\n\
            printf 'addr add %s/24 dev eth0\\nlink set eth0 up\\n' $3 | nsenter -t $pid -n ip -batch -\n";
        fs::write(folder.join("network.sh"), network).unwrap();
        let data_dir = data_dir.to_str().unwrap();
        let socket = format!("{data_dir}/hook.sock");
        let hook = [
            env!("CARGO_BIN_EXE_nv-agent"),
            "--node",
            "n1",
            "--data-dir",
            data_dir,
            "--hook-socket",
            &socket,
            "--docker",
            "off",
            "hook",
        ];
        Self {
            folder: folder.to_owned(),
            bridge: bridge.to_owned(),
            server: server.to_owned(),
            hook: hook.map(str::to_owned).into(),
        }
    }

    /// Runs a container to its end. It sends to both ports first of all.
    fn run(&self, number: usize, hook: &[String]) -> Output {
        let id = format!("nvh{}-{number}", std::process::id());
        let bundle = self.folder.join(&id);
        fs::create_dir(&bundle).unwrap();
        // Its first datagram goes out at once, the next after a second.
        let send = |port: u16| format!("tftp -g -l /dev/null -r x {} {port} & ", self.server);
        let script = send(DENIED) + &send(ALLOWED) + "sleep 0.15";
        let path = "PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin";
        let link = format!("nvh{}", number % 10_000);
        let address = format!("10.221.{LAB}.{}", 10 + number % 240);
        let network = json!({"path": "/bin/sh", "env": [path],
            "args": ["sh", self.folder.join("network.sh"), link, self.bridge, address]});
        let ours = |hook: &[String]| json!({"path": hook[0], "args": hook, "env": [path, "RUST_LOG=warn"]});
        let mut create = vec![network];
        let mut stop = Vec::new();
        if !hook.is_empty() {
            create.push(ours(hook));
            stop.push(ours(hook));
        }
        let namespaces = ["pid", "network", "ipc", "uts", "mount"].map(|kind| json!({"type": kind}));
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {"cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0},
                "args": ["/bin/busybox", "sh", "-c", script]},
            "root": {"path": self.folder.join("rootfs"), "readonly": true},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]}],
            "annotations": {"nv.service": "job"},
            "hooks": {"createRuntime": create, "poststop": stop},
            "linux": {"namespaces": namespaces},
        });
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        let output = Command::new("runc")
            .arg("--root")
            .arg(self.folder.join("state"))
            .args(["run", "--bundle"])
            .arg(&bundle)
            .arg(&id)
            .output()
            .expect("runc (package runc)");
        fs::remove_dir_all(&bundle).unwrap();
        output
    }

    /// Runs these, some at once; each must end well.
    fn run_all(&self, numbers: std::ops::Range<usize>, hook: &[String]) {
        let next = AtomicUsize::new(numbers.start);
        std::thread::scope(|scope| {
            for _ in 0..TOGETHER {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= numbers.end {
                            return;
                        }
                        let output = self.run(number, hook);
                        assert!(output.status.success(), "{number}: {output:?}");
                    }
                });
            }
        });
    }
}

/// Removes enforcement however the test ends.
struct Purge(Config, CancellationToken);

impl Drop for Purge {
    fn drop(&mut self) {
        // After a failure the agent still runs, and lets go of the datapath in a moment.
        self.1.cancel();
        let begun = Instant::now();
        while let Err(error) = nv_agent::purge(&self.0) {
            if begun.elapsed() > Duration::from_secs(5) {
                eprintln!("enforcement is left: {error:#}");
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn config(controller: &Controller, data: &Path, instance: &str, docker: Location) -> Config {
    Config {
        node: node(),
        controller: controller.grpc.to_string(),
        data_dir: data.to_owned(),
        datapath: DatapathKind::Ebpf(format!("/sys/fs/bpf/nv/{instance}").into()),
        pin_dir: format!("/sys/fs/bpf/nv/{instance}").into(),
        dp_socket: data.join("dp.sock"),
        listen: "127.0.0.1:0".parse().unwrap(),
        runtimes: DiscoverOptions {
            docker,
            netns: Location::Off,
            ..DiscoverOptions::default()
        },
        credentials: Credentials::Folder {
            join_token_file: None,
            ca: None,
        },
        hook_socket: Some(data.join("hook.sock")),
        hook_fail: HookFail::default(),
        hook_wait: Duration::from_secs(10),
        names: nv_agent::NameOptions::default(),
    }
}

/// Strangers pass, so that a container is held is the only guard; what is new is in Monitor.
async fn strangers_pass(controller: &Controller) {
    let settings = json!({"settings": {"unknown_endpoint": "allow", "new_service_mode": "Monitor"}});
    let revision = controller.send("PATCH", "/v1/settings", &settings).await;
    controller.in_force("n1", revision).await;
}

/// Service `job` may send to one port and to no other.
async fn protect(controller: &Controller, to: &str) {
    until("the service", async || {
        controller.get("/v1/service").await.to_string().contains("nv.job")
    })
    .await;
    let mode = json!({"config": {"services": ["nv.job"], "policy_mode": "Protect"}});
    controller.send("PATCH", "/v1/service/config", &mode).await;
    let rule = json!({"id": 0, "from": "nv.job", "to": to, "ports": format!("udp/{ALLOWED}"),
        "action": "allow", "applications": []});
    let insert = json!({"insert": {"after": 0, "rules": [rule]}});
    let revision = controller.send("PATCH", "/v1/policy/rule", &insert).await;
    controller.in_force("n1", revision).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_sends_at_its_first_instruction_is_under_policy() {
    if !is_root("a_container_that_sends_at_its_first_instruction_is_under_policy") {
        return;
    }
    let starts = std::env::var("NV_HOOK_STARTS").map_or(STARTS, |text| text.parse().unwrap());
    let bridge = format!("nvh{}", std::process::id() % 100_000);
    let server = format!("{bridge}-server");
    let lab = Lab::create(&bridge, &[HostSpec::new(&server, LAB, 2)]).unwrap();
    let host = lab.host(&server).unwrap();
    let (denied, allowed) = (
        Receiver::start(&host.path(), DENIED),
        Receiver::start(&host.path(), ALLOWED),
    );

    let controller = Controller::start().await;
    let data = controller.joined(&node());
    let config = config(&controller, data.path(), &bridge, Location::Off);
    let stop = CancellationToken::new();
    let _purge = Purge(config.clone(), stop.clone());
    let agent = nv_agent::start(config, stop.clone()).await.unwrap();
    let work = tempfile::tempdir().unwrap();
    let bundles = Bundles::new(work.path(), &bridge, &host.spec().v4.to_string(), data.path());

    strangers_pass(&controller).await;
    bundles.run_all(0..1, &bundles.hook);
    assert!(denied.take() > 0 && allowed.take() > 0, "in Monitor both pass");

    protect(&controller, "external").await;

    let begun = Instant::now();
    bundles.run_all(1..1 + starts, &bundles.hook);
    let time = begun.elapsed();
    let (beyond, within) = (denied.take(), allowed.take());
    eprintln!(
        "start_leaks: {beyond} packets beyond policy, {within} within, of {starts} starts in {time:.1?} ({TOGETHER} at once)"
    );
    assert_eq!(beyond, 0, "packets beyond policy");
    assert!(
        within >= starts,
        "what is allowed passes from the first packet on"
    );

    // The same without the hook leaks, or the figure above says nothing.
    bundles.run_all(1 + starts..4 + starts, &[]);
    assert!(denied.take() > 0, "without the hook nothing holds them");

    // Nothing is left of those that are over.
    until("all are gone", async || {
        controller.workloads().await.is_empty()
            && controller.node("n1").await.unwrap()["endpoints"].as_u64() == Some(0)
    })
    .await;

    // Without an agent the saved policy decides: in Protect it does not start.
    until("the policy is saved", async || {
        fs::read_to_string(data.path().join("policy.json")).is_ok_and(|text| text.contains("nv.job"))
    })
    .await;
    stop.cancel();
    agent.wait().await.unwrap();
    let refused = bundles.run(5 + starts, &bundles.hook);
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{words}");
    assert!(
        words.contains("is not started") && words.contains("Protect"),
        "{words}"
    );
    let mut open = bundles.hook.clone();
    open.splice(1..1, ["--hook-fail".to_owned(), "open".to_owned()]);
    let output = bundles.run(6 + starts, &open);
    assert!(output.status.success(), "{output:?}");
    assert!(denied.take() > 0, "open is open");
}

/// Folder of the inner test.
const FOLDER: &str = "NV_HOOK_TEST_FOLDER";
const INNER: &str = "docker_with_nv_before_runc";

/// Docker finds `runc` by the path of its daemons, and this test cannot change its own: it runs the rest as a process of its own, in which
/// `runc` is a script that runs `nv-agent runtime`.
#[test]
fn docker_holds_a_container_that_starts() {
    if !is_root("docker_holds_a_container_that_starts") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let agent = env!("CARGO_BIN_EXE_nv-agent");
    let here = folder.path().display();
    let script = format!(
        "#!/bin/sh\n[ -f {here}/on ] || exec /usr/bin/runc \"$@\"\n\
         exec {agent} --node n1 --data-dir {here}/data --hook-socket {here}/data/hook.sock --docker \"$(cat {here}/on)\" \
         runtime --program /usr/bin/runc \"$@\"\n"
    );
    let runc = folder.path().join("runc");
    fs::write(&runc, script).unwrap();
    fs::set_permissions(&runc, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{here}:{}", std::env::var("PATH").unwrap());
    let inner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", INNER, "--ignored", "--nocapture"])
        .env("PATH", path)
        .env(FOLDER, folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&inner.stdout).into_owned() + &String::from_utf8_lossy(&inner.stderr);
    assert!(inner.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by docker_holds_a_container_that_starts"]
async fn docker_with_nv_before_runc() {
    let folder = PathBuf::from(std::env::var(FOLDER).unwrap());
    let docker = TestDockerd::start(DockerNetwork::CurrentNamespace);
    docker.image("shop/job:1");
    let (server, _) = docker.subnet();
    let here = Path::new("/proc/self/ns/net");
    let (denied, allowed) = (Receiver::start(here, DENIED), Receiver::start(here, ALLOWED));

    let controller = Controller::start().await;
    let data = folder.join("data");
    fs::create_dir(&data).unwrap();
    let joined = controller.joined(&node());
    for name in ["agent.pem", "agent.key", "ca.pem"] {
        fs::copy(joined.path().join(name), data.join(name)).unwrap();
    }
    let instance = format!("nvhd{}", std::process::id());
    let config = config(&controller, &data, &instance, Location::At(docker.socket()));
    let stop = CancellationToken::new();
    let _purge = Purge(config.clone(), stop.clone());
    let agent = nv_agent::start(config, stop.clone()).await.unwrap();
    strangers_pass(&controller).await;

    let script = format!(
        "tftp -g -l /tmp/x -r x {server} {DENIED} & tftp -g -l /tmp/x -r x {server} {ALLOWED} & sleep 0.15"
    );
    let run = |count: usize| {
        for _ in 0..count {
            let output = docker.try_docker(&["run", "--rm", "shop/job:1", "sh", "-c", &script]);
            assert!(output.status.success(), "{output:?}");
        }
    };
    let on = folder.join("on");
    fs::write(&on, docker.socket().to_str().unwrap()).unwrap();
    run(1);
    assert!(denied.take() > 0 && allowed.take() > 0, "in Monitor both pass");
    protect(&controller, "nodes").await;
    run(6);
    assert_eq!(denied.take(), 0, "packets beyond policy");
    assert!(
        allowed.take() >= 6,
        "what is allowed passes from the first packet on"
    );

    fs::remove_file(&on).unwrap();
    run(4);
    assert!(denied.take() > 0, "without the hook nothing holds them");
    allowed.take();

    // The agent is gone: the saved policy has the service in Protect, and Docker's user reads why it does not start.
    fs::write(&on, docker.socket().to_str().unwrap()).unwrap();
    until("the policy is saved", async || {
        fs::read_to_string(data.join("policy.json")).is_ok_and(|text| text.contains("nv.job"))
    })
    .await;
    stop.cancel();
    agent.wait().await.unwrap();
    let refused = docker.try_docker(&["run", "--rm", "shop/job:1", "sh", "-c", &script]);
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{words}");
    assert!(words.contains("is not started"), "{words}");
}
