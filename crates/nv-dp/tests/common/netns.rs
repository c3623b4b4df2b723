//! Network namespaces held by threads: nothing is left when a test ends, however it ends.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

/// Root, or a named skip; in CI a skip is a failure.
pub fn is_root(test: &str) -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "{test} needs root");
    eprintln!("SKIPPED {test}: needs root");
    false
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own.
pub struct Namespace {
    jobs: Sender<Job>,
    tid: i32,
}

impl Namespace {
    pub fn new() -> Self {
        let (jobs, work) = channel::<Job>();
        let (ready, started) = channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ready.send(nix::unistd::gettid().as_raw()).unwrap();
            for job in work {
                job();
            }
        });
        Self {
            jobs,
            tid: started.recv().unwrap(),
        }
    }

    /// Runs in the namespace and waits for the answer.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, wait) = channel();
        self.jobs
            .send(Box::new(move || {
                let _ = answer.send(job());
            }))
            .unwrap();
        wait.recv().expect("the job failed")
    }

    /// The thread that holds it, by which `ip` finds it.
    pub fn tid(&self) -> i32 {
        self.tid
    }

    /// Runs `ip` with these words.
    pub fn ip(&self, words: &str) {
        let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        let output = self.run(move || Command::new("ip").args(&words).output().unwrap());
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    pub fn ifindex(&self, name: &str) -> u32 {
        let name = name.to_owned();
        self.run(move || nix::net::if_::if_nametoindex(name.as_str()).unwrap())
    }
}

/// A host namespace and a workload namespace with a veth between them: `veth0` at the host, `eth0` in the workload.
pub struct Bed {
    pub host: Namespace,
    pub workload: Namespace,
    pub ifindex: u32,
}

impl Bed {
    pub fn new() -> Self {
        let (host, workload) = (Namespace::new(), Namespace::new());
        host.ip("link set lo up");
        host.ip(&format!(
            "link add veth0 type veth peer name eth0 netns {}",
            workload.tid
        ));
        host.ip("addr add 10.9.0.1/24 dev veth0");
        host.ip("addr add fd09::1/64 dev veth0 nodad");
        host.ip("link set veth0 up");
        workload.ip("link set lo up");
        workload.ip("addr add 10.9.0.2/24 dev eth0");
        workload.ip("addr add fd09::2/64 dev eth0 nodad");
        workload.ip("link set eth0 up");
        let ifindex = host.ifindex("veth0");
        host.run(|| {
            // Addresses and neighbours settle after the links are up: a refusal shows that the workload answers.
            for addr in ["10.9.0.2:1", "[fd09::2]:1"] {
                let addr = addr.parse().unwrap();
                let start = Instant::now();
                while TcpStream::connect_timeout(&addr, Duration::from_millis(50))
                    .unwrap_err()
                    .kind()
                    != ErrorKind::ConnectionRefused
                {
                    assert!(
                        start.elapsed() < Duration::from_secs(10),
                        "{addr} does not answer"
                    );
                }
            }
        });
        Self {
            host,
            workload,
            ifindex,
        }
    }
}

/// A folder for pins that no other test has.
pub fn pin_dir() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    PathBuf::from(format!("/sys/fs/bpf/nv/test-{}-{number}", std::process::id()))
}

/// Removes pins when a test ends, also by a panic.
pub struct Cleanup(pub PathBuf);

impl Drop for Cleanup {
    fn drop(&mut self) {
        let _ = nv_dp::EbpfDatapath::purge_pins(&self.0);
    }
}
