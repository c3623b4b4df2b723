//! What can be in the way of a start: one message each that names the thing, and nothing left behind.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers of tests"
)]

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_nv-allinone");

fn is_root(test: &str) -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "{test} needs root");
    eprintln!("SKIPPED {test}: needs root");
    false
}

/// A place for one start.
struct Place {
    folder: TempDir,
    pins: PathBuf,
}

impl Place {
    fn new(letter: char) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            pins: Path::new("/sys/fs/bpf/nv").join(format!("{letter}o{}", std::process::id())),
        }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The arguments of a start that nothing is in the way of.
    fn arguments(&self) -> Vec<String> {
        let free = "127.0.0.1:0";
        let mut arguments: Vec<String> = ["--rest", free, "--grpc", free, "--listen", free, "--node", "here"]
            .map(str::to_owned)
            .into();
        for runtime in ["--docker", "--podman", "--containerd", "--cri", "--netns"] {
            arguments.extend([runtime.to_owned(), "off".to_owned()]);
        }
        for (option, path) in [("--data-dir", self.data()), ("--pin-dir", self.pins.clone())] {
            arguments.extend([option.to_owned(), path.to_str().unwrap().to_owned()]);
        }
        arguments
    }

    /// The start with some options set otherwise.
    fn command(&self, other: &[(&str, &str)]) -> Command {
        let mut arguments = self.arguments();
        for (option, value) in other {
            let at = arguments.iter().position(|known| known == option).unwrap();
            (*value).clone_into(&mut arguments[at + 1]);
        }
        let mut command = Command::new(PROGRAM);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .env_remove("RUST_LOG");
        command
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = nv_dp::EbpfDatapath::purge_pins(&self.pins);
    }
}

/// Runs a start that must fail: what it says last on standard error.
fn refused(command: &mut Command) -> String {
    let begun = Instant::now();
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let last = errors.lines().last().unwrap_or_default().to_owned();
    assert!(last.starts_with("nv-allinone: "), "{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
    last
}

#[test]
fn whatever_is_in_the_way_of_a_start_is_named() {
    if !is_root("whatever_is_in_the_way_of_a_start_is_named") {
        return;
    }
    let place = Place::new('w');
    let says = |error: &str, words: &[&str]| {
        for word in words {
            assert!(error.contains(word), "no '{word}': {error}");
        }
    };

    // A port in use, each of the three.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for option in ["--rest", "--grpc", "--listen"] {
        let error = refused(&mut place.command(&[(option, &address)]));
        says(&error, &[&address, "is the port in use?"]);
    }

    // Not root. The program is named by its descriptor: where it was built nobody else may look.
    let open = std::fs::File::open(PROGRAM).unwrap();
    let program = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&open));
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    std::os::unix::fs::chown(folder.path(), Some(65534), Some(65534)).unwrap();
    let data = folder.path().join("data");
    let theirs = place.command(&[("--data-dir", data.to_str().unwrap())]);
    let mut command = Command::new(program);
    command.args(theirs.get_args()).stdin(Stdio::null());
    let error = refused(command.uid(65534).gid(65534));
    says(&error, &["needs root"]);

    // Root without the right to load programs, and a folder where nothing can be pinned.
    let bare = place.command(&[]);
    let mut command = Command::new("setpriv");
    command
        .args(["--bounding-set", "-bpf,-sys_admin,-perfmon"])
        .arg(PROGRAM)
        .args(bare.get_args());
    let error = refused(&mut command);
    says(&error, &["bpf(2) is not permitted", "CAP_BPF"]);
    let elsewhere = place.folder.path().join("pins");
    let error = refused(&mut place.command(&[("--pin-dir", elsewhere.to_str().unwrap())]));
    says(&error, &[elsewhere.to_str().unwrap(), "BPF file system"]);

    // A data folder that is none, and a store that is damaged.
    let file = place.folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = refused(&mut place.command(&[("--data-dir", file.to_str().unwrap())]));
    says(&error, &[file.to_str().unwrap()]);
    let store = place.data().join("store.redb");
    assert!(store.exists(), "an earlier start made it");
    std::fs::write(&store, "this is no store").unwrap();
    let error = refused(&mut place.command(&[]));
    says(&error, &[store.to_str().unwrap()]);
    assert_eq!(
        std::fs::read(&store).unwrap(),
        b"this is no store",
        "it is not touched"
    );
    let left = std::fs::read_dir(place.pins.join("links"))
        .into_iter()
        .flatten()
        .count();
    assert_eq!(left, 0, "nothing is on an interface");
}

/// A start that goes on, with what it says.
struct Running {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let errors = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in errors.map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { child, lines }
    }

    /// Waits for a line with all of these words.
    fn says(&self, words: &[&str]) -> String {
        let begun = Instant::now();
        let mut seen = Vec::new();
        while begun.elapsed() < Duration::from_secs(20) {
            let Ok(line) = self.lines.recv_timeout(Duration::from_millis(200)) else {
                continue;
            };
            if words.iter().all(|word| line.contains(word)) {
                return line;
            }
            seen.push(line);
        }
        panic!("no line with {words:?} in: {seen:#?}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

#[test]
fn a_dead_runtime_socket_is_named_and_keeps_nobody_from_starting() {
    if !is_root("a_dead_runtime_socket_is_named_and_keeps_nobody_from_starting") {
        return;
    }
    let place = Place::new('d');
    // A socket that nobody listens at any more.
    let socket = place.folder.path().join("docker.sock");
    drop(UnixListener::bind(&socket).unwrap());
    let socket = socket.to_str().unwrap().to_owned();
    let running = Running::start(&mut place.command(&[("--docker", &socket)]));
    running.says(&["docker", &socket]);
}
