//! Daemons of a test's own: own data, socket and network, gone with the value. And fakes, named so.
//!
//! Only for tests: it starts programs (`containerd`, `dockerd`, `docker`, `ctr`, `ip`, `tar`) and panics with words when
//! one fails. Needs root and `/bin/busybox` (statically linked); `scripts/setup.sh` installs what is needed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers for tests: a failed step is a failed test"
)]

mod containerd;
mod dockerd;
mod fakes;

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub use crate::proto::cri;
pub use containerd::{Pod, TestContainerd};
pub use dockerd::TestDockerd;
pub use fakes::{FakeCri, FakeDocker, FakePod};

/// Longest wait for a daemon to come up or go down.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a daemon's containers have their networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DockerNetwork {
    /// In a network namespace of its own: for tests that only look at what the daemon tells.
    OwnNamespace,
    /// In the test's namespace, on a bridge of its own and without touching the firewall: for tests whose agent must
    /// see the host ends.
    CurrentNamespace,
}

/// Whose daemons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// The system's own packages.
    System,
    /// The next Debian release's, unpacked by `scripts/setup.sh`.
    Newer,
}

impl Suite {
    /// Both.
    pub const ALL: [Self; 2] = [Self::System, Self::Newer];

    fn root() -> PathBuf {
        let tools = std::env::var_os("NV_TOOLS").map_or_else(|| "/var/cache/nv-tools".into(), PathBuf::from);
        tools.join("runtimes/trixie")
    }

    /// Whether a daemon of this suite can be started; says so when a test has to be skipped.
    ///
    /// # Panics
    /// When the packages were unpacked but the program is not there.
    #[must_use]
    pub fn has(self, program: &str, test: &str) -> bool {
        if self == Self::System {
            return true;
        }
        let root = Self::root();
        let found = ["usr/bin", "usr/sbin"]
            .iter()
            .any(|folder| root.join(folder).join(program).exists());
        let package = if program == "dockerd" {
            ".done-docker.io"
        } else {
            ".done-containerd"
        };
        assert!(
            found || !root.join(package).exists(),
            "{} was unpacked without {program}",
            root.display()
        );
        if !found {
            eprintln!("SKIPPED {test} with the newer {program}: run scripts/setup.sh");
        }
        found
    }

    /// A command of this suite: its programs come first, the system's `runc` is used by both.
    fn command(self, program: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let root = Self::root().display().to_string();
        let mut command = Command::new(program);
        if self == Self::Newer {
            command.env("PATH", format!("{root}/usr/bin:{root}/usr/sbin:{path}"));
            for folder in ["usr/bin", "usr/sbin"] {
                let own = Path::new(&root).join(folder).join(program);
                if own.exists() {
                    command = Command::new(own);
                    command.env("PATH", format!("{root}/usr/bin:{root}/usr/sbin:{path}"));
                }
            }
        }
        command
    }

    /// A command that runs in a network namespace of this name.
    fn command_in(self, program: &str, netns: Option<&str>) -> Command {
        let inner = self.command(program);
        let Some(netns) = netns else { return inner };
        // Not `ip netns exec`: it remounts /sys and so hides the cgroups.
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{netns}"))
            .arg(inner.get_program());
        for (name, value) in inner.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        command
    }
}

/// A place for one daemon: a tag, a folder and two networks that no other test has.
fn place() -> (String, PathBuf, (Ipv4Addr, Ipv6Addr)) {
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
    (tag, root, subnet)
}

fn add_netns(tag: &str) {
    run("ip", &["netns", "add", tag]);
    run("ip", &["-n", tag, "link", "set", "lo", "up"]);
}

/// A root folder of a static busybox with every applet.
fn rootfs(root: &Path) -> PathBuf {
    let rootfs = root.join("rootfs");
    let bin = rootfs.join("bin");
    for folder in ["bin", "etc", "tmp", "proc", "sys", "dev"] {
        fs::create_dir_all(rootfs.join(folder)).unwrap();
    }
    fs::copy("/bin/busybox", bin.join("busybox")).expect("/bin/busybox (package busybox-static)");
    for applet in run("/bin/busybox", &["--list"])
        .lines()
        .filter(|name| *name != "busybox")
    {
        let _ = std::os::unix::fs::symlink("busybox", bin.join(applet));
    }
    rootfs
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
