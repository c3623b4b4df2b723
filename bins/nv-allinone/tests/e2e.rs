//! The demo as a user starts it: the whole program, the real kernel.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "helpers of tests"
)]

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PROGRAM: &str = env!("CARGO_BIN_EXE_nv-allinone");

fn is_root(test: &str) -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "{test} needs root");
    eprintln!("SKIPPED {test}: needs root");
    false
}

/// A name that no other test and no other run of this one has.
fn instance(letter: char) -> String {
    format!("{letter}{}", std::process::id() % 10_000_000)
}

fn demo(instance: &str, more: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args(["--demo", "--instance", instance])
        .args(more)
        .stdin(Stdio::null());
    command
}

/// Every trace that a demo of this name can leave.
fn traces(instance: &str) -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["/sys/class/net", "/run/netns", "/run/nv", "/sys/fs/bpf/nv"] {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.contains(instance) {
                found.push(format!("{folder}/{name}"));
            }
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    found.extend(
        mounts
            .lines()
            .filter(|line| line.contains(instance))
            .map(str::to_owned),
    );
    found
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{what}: not within 60 s"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Starts a demo and waits until its network is there; gives it with the process that works.
fn started(instance: &str) -> (Child, Pid) {
    let child = demo(instance, &[])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let db = format!("/run/netns/nv-{instance}-db");
    // Mounted, not only named: what a killed one left may have the name.
    let lock = format!("/run/nv/{instance}.lock");
    wait_for("the network", || {
        let owner = std::fs::read_to_string(&lock).unwrap_or_default();
        let ours = worker_of(&child).is_some_and(|worker| owner.trim() == worker.to_string());
        ours && std::path::Path::new(&db).exists()
    });
    let worker = worker_of(&child).expect("a worker");
    (child, worker)
}

fn worker_of(guardian: &Child) -> Option<Pid> {
    let children = format!("/proc/{0}/task/{0}/children", guardian.id());
    let children = std::fs::read_to_string(children).ok()?;
    Some(Pid::from_raw(children.split_whitespace().next()?.parse().ok()?))
}

fn ended(child: Child, instance: &str) -> Output {
    let output = child.wait_with_output().unwrap();
    assert_eq!(traces(instance), Vec::<String>::new());
    output
}

#[test]
fn the_story_goes_well_and_leaves_nothing_behind() {
    if !is_root("the_story_goes_well_and_leaves_nothing_behind") {
        return;
    }
    let name = instance('s');
    let begun = Instant::now();
    let output = demo(&name, &["--once"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    for line in [
        "rule",
        "verdict alert",
        "blocked",
        "web -> db: deny",
        "web -> app: allow",
    ] {
        assert!(text.contains(line), "no '{line}' in:\n{text}");
    }
    assert!(!text.contains('\x1b'), "colors off a terminal");
    assert_eq!(traces(&name), Vec::<String>::new());
}

#[test]
fn a_killed_demo_is_cleaned_up_after() {
    if !is_root("a_killed_demo_is_cleaned_up_after") {
        return;
    }
    let name = instance('k');
    let (child, worker) = started(&name);
    kill(worker, Signal::SIGKILL).unwrap();
    let output = ended(child, &name);
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("SIGKILL"), "{errors}");

    // The other half.
    let (mut child, worker) = started(&name);
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL).unwrap();
    child.wait().unwrap();
    wait_for("the worker's end", || kill(worker, None).is_err());
    assert_eq!(traces(&name), Vec::<String>::new());

    // Both at once: the next start removes what is left.
    let (mut child, worker) = started(&name);
    kill(worker, Signal::SIGSTOP).unwrap();
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL).unwrap();
    kill(worker, Signal::SIGKILL).unwrap();
    child.wait().unwrap();
    wait_for("the worker's end", || kill(worker, None).is_err());
    assert_ne!(traces(&name), Vec::<String>::new());
    let (child, _) = started(&name);
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(ended(child, &name).status.code(), Some(0));
}

#[test]
fn a_second_start_is_refused_and_ctrl_c_ends_the_first() {
    if !is_root("a_second_start_is_refused_and_ctrl_c_ends_the_first") {
        return;
    }
    let name = instance('c');
    let (child, worker) = started(&name);
    let second = demo(&name, &["--once"]).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&second.stderr);
    assert!(
        errors.contains(&format!("a demo runs already (process {worker})")),
        "{errors}"
    );
    assert_ne!(
        traces(&name),
        Vec::<String>::new(),
        "the first one lost its network"
    );
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(ended(child, &name).status.code(), Some(0));
}

#[test]
fn without_root_it_says_so() {
    if !is_root("without_root_it_says_so") {
        return;
    }
    // Where it was built nobody else may look.
    let folder = tempfile::Builder::new()
        .prefix("nv-e2e")
        .tempdir_in("/tmp")
        .unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("nv-allinone");
    std::fs::copy(PROGRAM, &program).unwrap();
    let output = Command::new(program)
        .args(["--demo", "--once"])
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("needs root"), "{errors}");
}
