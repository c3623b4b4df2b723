//! The Docker runtime and the monitor against a real dockerd.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    reason = "helpers of tests"
)]

use std::sync::Arc;
use std::time::Duration;

use nv_runtime::testing::{DockerNetwork, Suite, TestDockerd, is_root, wait_until};
use nv_runtime::{
    ContainerRuntime, DockerRuntime, EventKind, Monitor, MonitorEvent, MonitorOptions, RuntimeError,
};
use nv_types::{IpProto, NodeId, Workload, WorkloadId, WorkloadState};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const SLEEP: &[&str] = &["sleep", "1000"];

fn node() -> NodeId {
    "node-1".parse().unwrap()
}

/// Next event; panics after a while.
async fn next(events: &mut mpsc::Receiver<MonitorEvent>) -> MonitorEvent {
    tokio::time::timeout(Duration::from_secs(40), events.recv())
        .await
        .expect("an event within 40 s")
        .expect("the stream does not end")
}

/// Events without `Synced`, as (kind, subject), until there are `count` of them.
async fn told(events: &mut mpsc::Receiver<MonitorEvent>, count: usize) -> Vec<(EventKind, String)> {
    let mut told = Vec::new();
    while told.len() < count {
        if let MonitorEvent::Runtime { event, .. } = next(events).await {
            told.push((event.kind, event.subject));
        }
    }
    told
}

async fn synced(events: &mut mpsc::Receiver<MonitorEvent>) -> (Vec<(EventKind, String)>, Vec<WorkloadId>) {
    let mut told = Vec::new();
    loop {
        match next(events).await {
            MonitorEvent::Runtime { event, .. } => told.push((event.kind, event.subject)),
            MonitorEvent::Synced { running, info, .. } => {
                assert_eq!(info.name, "docker");
                assert!(!info.version.is_empty());
                return (told, running.into_iter().collect());
            }
        }
    }
}

fn monitor(docker: &TestDockerd, cancel: &CancellationToken) -> mpsc::Receiver<MonitorEvent> {
    let runtime: Arc<dyn ContainerRuntime> = Arc::new(DockerRuntime::connect(docker.socket()));
    let mut options = MonitorOptions::new(node());
    options.backoff_max = Duration::from_millis(500);
    Monitor::spawn(vec![runtime], options, cancel.clone())
}

async fn inspect(runtime: &DockerRuntime, id: &str) -> Workload {
    runtime.inspect(&id.parse().unwrap(), &node()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_are_described_with_their_host_ends() {
    const NAME: &str = "containers_are_described_with_their_host_ends";
    if !is_root(NAME) {
        return;
    }
    for suite in Suite::ALL {
        if suite.has("dockerd", NAME) {
            containers_are_described_with_their_host_ends_in(TestDockerd::start_of(
                suite,
                DockerNetwork::CurrentNamespace,
            ))
            .await;
        }
    }
}

async fn containers_are_described_with_their_host_ends_in(docker: TestDockerd) {
    docker.image("registry.test:5000/team/web:1");
    let runtime = DockerRuntime::connect(docker.socket());
    assert!(!runtime.info().await.unwrap().version.is_empty());
    assert!(runtime.list().await.unwrap().is_empty());

    let web = docker.run_container(
        "front",
        "registry.test:5000/team/web:1",
        &["--label", "tier=front", "--publish", "127.0.0.1:0:8080/tcp"],
        SLEEP,
    );
    let compose = docker.run_container(
        "shop-cart-1",
        "test/base:1",
        &[
            "--label",
            "com.docker.compose.project=shop",
            "--label",
            "com.docker.compose.service=cart",
        ],
        SLEEP,
    );
    let host = docker.run_container("hh", "test/base:1", &["--network", "host"], SLEEP);
    let sharing = docker.run_container("ss", "test/base:1", &["--network", "container:front"], SLEEP);
    let none = docker.run_container("nn", "test/base:1", &["--network", "none"], SLEEP);
    let member = docker.run_container(
        "k8s_member",
        "test/base:1",
        &["--label", "io.kubernetes.docker.type=container"],
        SLEEP,
    );

    let mut listed: Vec<String> = runtime
        .list()
        .await
        .unwrap()
        .into_iter()
        .map(String::from)
        .collect();
    let mut expected = vec![
        web.clone(),
        compose.clone(),
        host.clone(),
        sharing.clone(),
        none.clone(),
    ];
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected, "all but the member of a pod sandbox ({member})");

    let workload = inspect(&runtime, &web).await;
    assert_eq!(workload.id.as_str().len(), 64);
    assert_eq!(
        (workload.name.as_str(), workload.service.as_str()),
        ("front", "web")
    );
    assert_eq!(workload.image, "registry.test:5000/team/web:1");
    assert_eq!(workload.labels.get("tier").map(String::as_str), Some("front"));
    assert!(!workload.privileged && !workload.host_network && workload.pid > 0 && workload.netns > 0);
    assert!(workload.created.0 > 0 && workload.started >= workload.created);
    assert_eq!(workload.state, WorkloadState::Running);
    let published = workload.published.first().expect("a published port");
    assert_eq!((published.proto, published.port), (IpProto::TCP, 8080));
    let [eth0] = workload.interfaces.as_slice() else {
        panic!("one interface: {:?}", workload.interfaces);
    };
    let v4: std::net::IpAddr = docker.address("front", false).parse().unwrap();
    let v6: std::net::IpAddr = docker.address("front", true).parse().unwrap();
    assert!(
        workload.peer_addresses().any(|address| address == v4),
        "{workload:?}"
    );
    assert!(
        workload.peer_addresses().any(|address| address == v6),
        "{workload:?}"
    );
    for address in [v4, v6] {
        let pinged = docker.exec(
            "shop-cart-1",
            &["ping", "-c", "1", "-W", "5", &address.to_string()],
        );
        assert!(pinged.status.success(), "{address}: {pinged:?}");
    }
    let host_end = eth0.host_name.clone().expect("a host end");
    let index = std::fs::read_to_string(format!("/sys/class/net/{host_end}/ifindex")).unwrap();
    assert_eq!(index.trim().parse::<u32>().ok(), eth0.host_index);

    let workload = inspect(&runtime, &compose).await;
    assert_eq!(
        (workload.service.as_str(), workload.domain.as_str()),
        ("cart", "shop")
    );
    let workload = inspect(&runtime, &host).await;
    assert!(workload.host_network && workload.interfaces.is_empty());
    let front = inspect(&runtime, &web).await;
    let workload = inspect(&runtime, &sharing).await;
    assert_eq!(workload.netns, front.netns);
    assert!(workload.interfaces.is_empty() && !workload.host_network);
    let workload = inspect(&runtime, &none).await;
    assert!(workload.interfaces.is_empty() && !workload.host_network);

    // Only made: starting it needs rights that a test may lack.
    let made = docker.docker(&["create", "--privileged", "test/base:1"]);
    let workload = inspect(&runtime, &made).await;
    assert!(workload.privileged);
    assert_eq!((workload.state, workload.started.0), (WorkloadState::Created, 0));

    docker.docker(&["kill", "front"]);
    let workload = inspect(&runtime, &web).await;
    assert_eq!((workload.state, workload.pid), (WorkloadState::Exited, 0));
    docker.docker(&["rm", "front"]);
    let error = runtime.inspect(&web.parse().unwrap(), &node()).await.unwrap_err();
    assert!(matches!(error, RuntimeError::NotFound { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_event_once() {
    const NAME: &str = "every_kind_of_event_once";
    if !is_root(NAME) {
        return;
    }
    for suite in Suite::ALL {
        if suite.has("dockerd", NAME) {
            every_kind_of_event_once_in(TestDockerd::start_of(suite, DockerNetwork::OwnNamespace)).await;
        }
    }
}

async fn every_kind_of_event_once_in(docker: TestDockerd) {
    let cancel = CancellationToken::new();
    let mut events = monitor(&docker, &cancel);
    assert_eq!(synced(&mut events).await, (vec![], vec![]));

    let network = docker.docker(&["network", "create", "n1"]);
    let id = docker.run_container("cc", "test/base:1", &["--network", "n1"], SLEEP);
    // Its end must not be taken for the container's.
    assert!(docker.exec("cc", &["true"]).status.success());
    let file = tempfile::NamedTempFile::new().unwrap();
    docker.docker(&["cp", file.path().to_str().unwrap(), "cc:/tmp/in"]);
    let out = tempfile::tempdir().unwrap();
    docker.docker(&["cp", "cc:/tmp/in", out.path().to_str().unwrap()]);
    docker.docker(&["restart", "--time", "0", "cc"]);
    docker.docker(&["stop", "--time", "0", "cc"]);
    docker.docker(&["start", "cc"]);
    docker.docker(&["kill", "cc"]);
    docker.docker(&["rm", "cc"]);
    docker.docker(&["network", "rm", "n1"]);

    use EventKind::{CopyIn, CopyOut, Delete, NetworkCreate, NetworkDelete, Start, Stop};
    let expected: Vec<(EventKind, String)> = [
        (NetworkCreate, &network),
        (Start, &id),
        (CopyIn, &id),
        (CopyOut, &id),
        (Stop, &id),
        (Start, &id),
        (Stop, &id),
        (Start, &id),
        (Stop, &id),
        (Delete, &id),
        (NetworkDelete, &network),
    ]
    .map(|(kind, subject)| (kind, subject.clone()))
    .into();
    assert_eq!(told(&mut events, expected.len()).await, expected);

    // A crash of the container's own process, and one that ends by itself.
    let short = docker.docker(&["run", "--detach", "--rm", "test/base:1", "true"]);
    assert_eq!(
        told(&mut events, 3).await,
        [(Start, short.clone()), (Stop, short.clone()), (Delete, short)]
    );
    cancel.cancel();
    let rest = tokio::time::timeout(Duration::from_secs(10), events.recv())
        .await
        .unwrap();
    assert_eq!(rest, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_is_connected_later_is_an_interface_with_its_addresses() {
    if !is_root("a_network_that_is_connected_later_is_an_interface_with_its_addresses") {
        return;
    }
    let docker = TestDockerd::start(DockerNetwork::CurrentNamespace);
    let cancel = CancellationToken::new();
    let mut events = monitor(&docker, &cancel);
    synced(&mut events).await;
    docker.docker(&["network", "create", "--subnet", "10.213.7.0/24", "n2"]);
    let id = docker.run_container("cc", "test/base:1", &[], SLEEP);
    let mut change = async |kind: EventKind| loop {
        if let MonitorEvent::Runtime { event, workload, .. } = next(&mut events).await
            && event.kind != EventKind::NetworkCreate
        {
            assert_eq!((event.kind, event.subject.as_str()), (kind, id.as_str()));
            return workload.unwrap().interfaces;
        }
    };
    let before = change(EventKind::Start).await;
    docker.docker(&["network", "connect", "--ip", "10.213.7.9", "n2", "cc"]);
    let with = change(EventKind::Change).await;
    assert_eq!(with.len(), before.len() + 1, "{with:?}");
    let new = with.iter().find(|interface| !before.contains(interface)).unwrap();
    assert!(new.host_index.is_some(), "{new:?}");
    assert!(
        new.addresses.contains(&("10.213.7.9".parse().unwrap(), 24)),
        "{new:?}"
    );
    docker.docker(&["network", "disconnect", "n2", "cc"]);
    assert_eq!(change(EventKind::Change).await, before);
    cancel.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_of_dockerd_exactly_the_difference() {
    const NAME: &str = "after_a_crash_of_dockerd_exactly_the_difference";
    if !is_root(NAME) {
        return;
    }
    for suite in Suite::ALL {
        if suite.has("dockerd", NAME) {
            after_a_crash_of_dockerd_exactly_the_difference_in(TestDockerd::start_of(
                suite,
                DockerNetwork::OwnNamespace,
            ))
            .await;
        }
    }
}

async fn after_a_crash_of_dockerd_exactly_the_difference_in(mut docker: TestDockerd) {
    let stays = docker.run_container("stays", "test/base:1", &[], SLEEP);
    let dies = docker.run_container("dies", "test/base:1", &[], SLEEP);
    let cancel = CancellationToken::new();
    let mut events = monitor(&docker, &cancel);
    let (mut starts, running) = synced(&mut events).await;
    starts.sort();
    let mut expected = vec![
        (EventKind::Start, stays.clone()),
        (EventKind::Start, dies.clone()),
    ];
    expected.sort();
    assert_eq!(starts, expected);
    assert_eq!(running.len(), 2);
    let pid = docker.docker(&["inspect", "--format", "{{.State.Pid}}", "dies"]);

    docker.kill();
    let [(kind, what)] = told(&mut events, 1).await.try_into().unwrap();
    assert_eq!(kind, EventKind::SocketError);
    assert!(!what.is_empty());
    // No daemon sees it end.
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid.parse().unwrap()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    assert!(wait_until(|| !std::path::Path::new(&format!(
        "/proc/{pid}/ns/net"
    ))
    .exists()));
    docker.restart();
    let (told_meanwhile, running) = synced(&mut events).await;
    assert_eq!(
        told_meanwhile,
        [(EventKind::Stop, dies.clone())],
        "one error for one outage"
    );
    assert_eq!(running, [stays.parse().unwrap()]);

    // The stream goes on, and what was removed while nobody looked is told as such.
    let late = docker.run_container("late", "test/base:1", &[], SLEEP);
    assert_eq!(told(&mut events, 1).await, [(EventKind::Start, late.clone())]);
    docker.docker(&["rm", "dies"]);
    assert_eq!(told(&mut events, 1).await, [(EventKind::Delete, dies)]);
}

/// A daemon that hangs for a while, and a socket behind which there is suddenly another daemon.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_dockerd_and_a_replaced_socket_are_exactly_their_difference() {
    use nix::sys::signal::{Signal, kill};
    const NAME: &str = "a_stopped_dockerd_and_a_replaced_socket_are_exactly_their_difference";
    if !is_root(NAME) {
        return;
    }
    let mut one = TestDockerd::start(DockerNetwork::OwnNamespace);
    let other = TestDockerd::start(DockerNetwork::OwnNamespace);
    let stays = one.run_container("stays", "test/base:1", &[], SLEEP);
    let dies = one.run_container("dies", "test/base:1", &[], SLEEP);
    let elsewhere = other.run_container("elsewhere", "test/base:1", &[], SLEEP);
    let cancel = CancellationToken::new();
    let mut events = monitor(&one, &cancel);
    assert_eq!(synced(&mut events).await.1.len(), 2);

    let pid = one.docker(&["inspect", "--format", "{{.State.Pid}}", "dies"]);
    one.signal(Signal::SIGSTOP);
    kill(nix::unistd::Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL).unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(events.try_recv().is_err(), "who hangs tells nothing");
    one.signal(Signal::SIGCONT);
    assert_eq!(told(&mut events, 1).await, [(EventKind::Stop, dies.clone())]);

    // The old connection goes on until its daemon ends; who asks then asks the other one.
    let fresh = one.socket().with_extension("fresh");
    std::fs::hard_link(other.socket(), &fresh).unwrap();
    std::fs::rename(&fresh, one.socket()).unwrap();
    let changed = async |events: &mut mpsc::Receiver<MonitorEvent>| {
        let [(kind, _)] = told(events, 1).await.try_into().unwrap();
        assert_eq!(kind, EventKind::SocketError);
        let (mut told, running) = synced(events).await;
        told.sort();
        (told, running)
    };
    let sorted = |mut expected: Vec<(EventKind, String)>| {
        expected.sort();
        expected
    };
    one.kill();
    let (told_meanwhile, running) = changed(&mut events).await;
    // The other daemon knows none of the first one's: they are gone, also the one that had ended before.
    let expected = vec![
        (EventKind::Stop, stays.clone()),
        (EventKind::Delete, stays),
        (EventKind::Delete, dies),
        (EventKind::Start, elsewhere.clone()),
    ];
    assert_eq!(told_meanwhile, sorted(expected));
    assert_eq!(running, [elsewhere.parse().unwrap()]);
    let late = other.run_container("late", "test/base:1", &[], SLEEP);
    assert_eq!(told(&mut events, 1).await, [(EventKind::Start, late)]);
    cancel.cancel();
    // It takes away what runs in it.
    std::fs::remove_file(one.socket()).unwrap();
    one.restart();
}

#[tokio::test]
async fn a_dead_socket_is_one_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let error = DockerRuntime::connect(&socket).list().await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, RuntimeError::Unreachable { .. }), "{error:?}");
    assert!(
        text.contains("docker.sock") && text.contains("does not answer"),
        "{text}"
    );
    // Nobody behind it.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let error = DockerRuntime::connect(&socket).info().await.unwrap_err();
    assert!(matches!(error, RuntimeError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("refused"), "{error}");
}
