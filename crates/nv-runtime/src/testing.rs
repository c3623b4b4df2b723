//! A dockerd of a test's own: own containerd, data, socket and network, gone with the value.
//!
//! Only for tests: it starts programs (`containerd`, `dockerd`, `docker`, `ip`, `tar`) and panics with words when one
//! fails. Needs root and `/bin/busybox` (statically linked).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers for tests: a failed step is a failed test"
)]

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longest wait for a daemon to come up or go down.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a [`TestDockerd`] has its networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DockerNetwork {
    /// In a network namespace of its own: for tests that only look at what dockerd tells.
    OwnNamespace,
    /// In the test's namespace, on a bridge of its own and without touching the firewall: for tests whose agent must
    /// see the host ends.
    CurrentNamespace,
}

/// A running dockerd. Dropping it removes everything that it made.
#[derive(Debug)]
pub struct TestDockerd {
    tag: String,
    root: PathBuf,
    network: DockerNetwork,
    subnet: (Ipv4Addr, Ipv6Addr),
    containerd: Child,
    dockerd: Option<Child>,
}

impl TestDockerd {
    /// Starts one and imports the image `test/base:1`: a static busybox with every applet.
    ///
    /// # Panics
    /// When it does not come up, with the end of its log.
    #[must_use]
    pub fn start(network: DockerNetwork) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let pid = std::process::id();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        remove_leftovers();
        let tag = format!("nvd{pid:x}-{count:x}");
        // Short: a Unix socket's path has 108 bytes at most.
        let root = PathBuf::from(format!("/tmp/{tag}"));
        fs::create_dir_all(&root).unwrap();
        fs::write(root.join("owner"), pid.to_string()).unwrap();
        // A pid has up to 22 bits: 14 of them and the count make clashes of running tests unlikely.
        let number = pid.wrapping_mul(4).wrapping_add(count) & 0x3fff;
        let subnet = (
            Ipv4Addr::new(
                10,
                64 + u8::try_from(number >> 8).unwrap(),
                u8::try_from(number & 0xff).unwrap(),
                1,
            ),
            Ipv6Addr::new(0xfd64, 0x6e76, u16::try_from(number).unwrap(), 0, 0, 0, 0, 1),
        );
        match network {
            DockerNetwork::OwnNamespace => {
                run("ip", &["netns", "add", &tag]);
                run("ip", &["-n", &tag, "link", "set", "lo", "up"]);
            }
            DockerNetwork::CurrentNamespace => add_bridge(&tag, subnet),
        }
        let containerd = start_containerd(&root);
        let mut dockerd = Self {
            tag,
            root,
            network,
            subnet,
            containerd,
            dockerd: None,
        };
        dockerd.start_dockerd();
        dockerd.import_base();
        dockerd
    }

    /// dockerd's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.root.join("docker.sock")
    }

    /// Name of the network namespace that dockerd runs in; `None`: the test's.
    #[must_use]
    pub fn netns(&self) -> Option<&str> {
        (self.network == DockerNetwork::OwnNamespace).then_some(&self.tag)
    }

    /// Addresses of the bridge: containers of [`DockerNetwork::CurrentNamespace`] are in its /24 and /64.
    #[must_use]
    pub fn subnet(&self) -> (Ipv4Addr, Ipv6Addr) {
        self.subnet
    }

    /// Runs `docker` against this dockerd and gives what it printed, without the last line end.
    ///
    /// # Panics
    /// When it fails.
    pub fn docker(&self, arguments: &[&str]) -> String {
        let output = self.try_docker(arguments);
        assert!(
            output.status.success(),
            "docker {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Runs `docker` against this dockerd.
    pub fn try_docker(&self, arguments: &[&str]) -> Output {
        Command::new("docker")
            .env("DOCKER_HOST", format!("unix://{}", self.socket().display()))
            .env("DOCKER_CONFIG", self.root.join("client"))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("docker starts")
    }

    /// Gives the base image another name.
    pub fn image(&self, name: &str) {
        self.docker(&["tag", "test/base:1", name]);
    }

    /// Starts a container in the background and gives its full id. `options` go before the image.
    pub fn run_container(&self, name: &str, image: &str, options: &[&str], command: &[&str]) -> String {
        let mut arguments = vec!["run", "--detach", "--stop-timeout", "1", "--name", name];
        arguments.extend(options);
        arguments.push(image);
        arguments.extend(command);
        self.docker(&arguments)
    }

    /// Runs a command in a container.
    pub fn exec(&self, container: &str, command: &[&str]) -> Output {
        let mut arguments = vec!["exec", container];
        arguments.extend(command);
        self.try_docker(&arguments)
    }

    /// An address of a container, as its namespace has it.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn address(&self, container: &str, v6: bool) -> String {
        let field = if v6 { "GlobalIPv6Address" } else { "IPAddress" };
        let format = format!("{{{{range .NetworkSettings.Networks}}}}{{{{.{field}}}}}{{{{end}}}}");
        let address = self.docker(&["inspect", "--format", &format, container]);
        assert!(!address.is_empty(), "{container} has no address");
        address
    }

    /// Ends dockerd as a crash does. Containers go on (live-restore).
    pub fn kill(&mut self) {
        if let Some(mut child) = self.dockerd.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts dockerd again.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn restart(&mut self) {
        self.kill();
        // It would wait for the process with the id in it, which may be somebody else's by now.
        let _ = fs::remove_file(self.root.join("pid"));
        self.start_dockerd();
    }

    fn start_dockerd(&mut self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.root.join("dockerd.log"))
            .unwrap();
        let mut command = match self.network {
            DockerNetwork::OwnNamespace => {
                // Not `ip netns exec`: it remounts /sys and so hides the cgroups.
                let mut command = Command::new("nsenter");
                command
                    .arg(format!("--net=/run/netns/{}", self.tag))
                    .arg("dockerd");
                command
            }
            DockerNetwork::CurrentNamespace => Command::new("dockerd"),
        };
        let path = |name: &str| self.root.join(name);
        command
            .arg("--data-root")
            .arg(path("data"))
            .arg("--exec-root")
            .arg(path("exec"))
            .arg("--pidfile")
            .arg(path("pid"))
            .arg("--containerd")
            .arg(path("c.sock"))
            .arg("--host")
            .arg(format!("unix://{}", self.socket().display()))
            .args([
                "--live-restore",
                "--ipv6",
                "--exec-opt",
                "native.cgroupdriver=cgroupfs",
            ]);
        let (v4, v6) = self.subnet;
        let v6_net = format!("{}/64", Ipv6Addr::from(u128::from(v6) & !0xffff));
        command.args(["--fixed-cidr-v6", &v6_net]);
        if self.network == DockerNetwork::CurrentNamespace {
            command.args([
                "--iptables=false",
                "--ip-masq=false",
                "--ip-forward=false",
                "--userland-proxy=false",
            ]);
            command.arg(format!("--bridge={}", bridge(&self.tag)));
            command.arg(format!(
                "--fixed-cidr={}/24",
                Ipv4Addr::from(u32::from(v4) & !0xff)
            ));
        }
        let child = command
            .env_remove("DOCKER_HOST")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("dockerd starts");
        self.dockerd = Some(child);
        let up = wait_until(|| self.try_docker(&["version"]).status.success());
        assert!(
            up,
            "dockerd does not come up: {}",
            tail(&self.root.join("dockerd.log"))
        );
    }

    fn import_base(&self) {
        let rootfs = self.root.join("rootfs");
        let bin = rootfs.join("bin");
        for folder in ["bin", "etc", "tmp", "proc"] {
            fs::create_dir_all(rootfs.join(folder)).unwrap();
        }
        fs::copy("/bin/busybox", bin.join("busybox")).expect("/bin/busybox (package busybox-static)");
        for applet in run("/bin/busybox", &["--list"])
            .lines()
            .filter(|name| *name != "busybox")
        {
            let _ = std::os::unix::fs::symlink("busybox", bin.join(applet));
        }
        let tar = self.root.join("base.tar");
        run(
            "tar",
            &["-C", rootfs.to_str().unwrap(), "-cf", tar.to_str().unwrap(), "."],
        );
        self.docker(&[
            "import",
            "--change",
            "CMD [\"/bin/sh\"]",
            "--change",
            "ENV PATH=/bin",
            tar.to_str().unwrap(),
            "test/base:1",
        ]);
    }
}

impl Drop for TestDockerd {
    fn drop(&mut self) {
        let containers = self.try_docker(&["ps", "--all", "--quiet"]);
        let containers = String::from_utf8_lossy(&containers.stdout).into_owned();
        let mut remove = vec!["rm", "--force", "--volumes"];
        remove.extend(containers.split_whitespace());
        if remove.len() > 3 {
            self.try_docker(&remove);
        }
        // dockerd leaves the bridges of its networks where it ran.
        self.try_docker(&["network", "prune", "--force"]);
        if let Some(mut child) = self.dockerd.take() {
            terminate(&mut child);
        }
        terminate(&mut self.containerd);
        remove_traces(&self.root, &self.tag);
    }
}

fn terminate(child: &mut Child) {
    let pid = Pid::from_raw(child.id().cast_signed());
    let _ = kill(pid, Signal::SIGTERM);
    if !wait_until(|| matches!(child.try_wait(), Ok(Some(_)))) {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// What a dockerd of a test that was killed has left.
fn remove_leftovers() {
    for entry in fs::read_dir("/tmp").into_iter().flatten().flatten() {
        let root = entry.path();
        let tag = entry.file_name().to_string_lossy().into_owned();
        let owner = fs::read_to_string(root.join("owner"))
            .ok()
            .and_then(|text| text.parse::<u32>().ok());
        if !tag.starts_with("nvd") || owner.is_none_or(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
            continue;
        }
        eprintln!("removing what a killed test left in {}", root.display());
        remove_traces(&root, &tag);
    }
}

/// Ends processes that belong to this root and removes its mounts, namespace, bridge and files.
fn remove_traces(root: &Path, tag: &str) {
    let root_text = format!("{}/", root.display());
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let program = command.split(|byte| *byte == 0).next().unwrap_or_default();
        let ours = [&b"containerd-shim"[..], b"containerd", b"dockerd"]
            .iter()
            .any(|name| program.windows(name.len()).any(|part| part == *name));
        if ours && String::from_utf8_lossy(&command).contains(&root_text) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut ours: Vec<&str> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|target| target.starts_with(&root_text))
        .collect();
    ours.reverse();
    for target in ours {
        let _ = nix::mount::umount2(target, nix::mount::MntFlags::MNT_DETACH);
    }
    let quiet = |arguments: &[&str]| {
        let _ = Command::new("ip").args(arguments).stderr(Stdio::null()).status();
    };
    quiet(&["netns", "delete", tag]);
    quiet(&["link", "delete", &bridge(tag)]);
    let _ = fs::remove_dir_all(root);
}

fn bridge(tag: &str) -> String {
    let mut name = format!("b{tag}");
    name.truncate(15);
    name
}

fn add_bridge(tag: &str, (v4, v6): (Ipv4Addr, Ipv6Addr)) {
    let name = bridge(tag);
    run("ip", &["link", "add", &name, "type", "bridge"]);
    run("ip", &["address", "add", &format!("{v4}/24"), "dev", &name]);
    run(
        "ip",
        &["-6", "address", "add", &format!("{v6}/64"), "dev", &name, "nodad"],
    );
    run("ip", &["link", "set", &name, "up"]);
}

/// One that outlives dockerd: a killed dockerd would take the one that it starts itself with it, and hang on its next
/// start.
fn start_containerd(root: &Path) -> Child {
    let path = |name: &str| root.join(name).display().to_string();
    let config = format!(
        "version = 2\nroot = \"{}\"\nstate = \"{}\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         [grpc]\n  address = \"{}\"\n[ttrpc]\n  address = \"{}\"\n",
        path("c-root"),
        path("c-state"),
        path("c.sock"),
        path("c.sock.ttrpc"),
    );
    fs::write(root.join("c.toml"), config).unwrap();
    let log = fs::File::create(root.join("containerd.log")).unwrap();
    let child = Command::new("containerd")
        .arg("--config")
        .arg(root.join("c.toml"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("containerd starts");
    let up = wait_until(|| std::os::unix::net::UnixStream::connect(root.join("c.sock")).is_ok());
    assert!(
        up,
        "containerd does not come up: {}",
        tail(&root.join("containerd.log"))
    );
    child
}

/// Waits for a condition, at most a minute; whether it came true.
pub fn wait_until(mut condition: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// Runs a program and gives its standard output.
///
/// # Panics
/// When it fails, with its standard error.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether a test that needs root may run; says so when not.
///
/// # Panics
/// Without root when the variable `CI` is set: there nothing may be skipped.
#[must_use]
pub fn is_root(test: &str) -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "{test} needs root");
    eprintln!("SKIPPED {test}: needs root");
    false
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(10).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
