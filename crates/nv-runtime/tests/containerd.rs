//! containerd by its own services and by its CRI, and the monitor over both, against real daemons of two Debian releases.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    reason = "helpers of tests"
)]

use std::sync::Arc;
use std::time::Duration;

use nv_runtime::testing::{DockerNetwork, Pod, Suite, TestContainerd, TestDockerd, is_root, wait_until};
use nv_runtime::{
    ContainerRuntime, ContainerdRuntime, CriRuntime, DockerRuntime, EventKind, Monitor, MonitorEvent,
    MonitorOptions, RuntimeError,
};
use nv_types::{IpProto, NodeId, Workload, WorkloadId, WorkloadState};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const SLEEP: &[&str] = &["sleep", "1000"];

fn node() -> NodeId {
    "node-1".parse().unwrap()
}

async fn next(events: &mut mpsc::Receiver<MonitorEvent>) -> MonitorEvent {
    tokio::time::timeout(Duration::from_secs(40), events.recv())
        .await
        .expect("an event within 40 s")
        .expect("the stream does not end")
}

/// Events up to the next `Synced` of every one of so many runtimes.
async fn synced(events: &mut mpsc::Receiver<MonitorEvent>, runtimes: usize) -> Vec<(EventKind, String)> {
    let (mut told, mut left) = (Vec::new(), runtimes);
    while left > 0 {
        match next(events).await {
            MonitorEvent::Runtime { event, .. } => told.push((event.kind, event.subject)),
            MonitorEvent::Synced { .. } => left -= 1,
        }
    }
    told
}

/// The next event of one of these kinds, with its workload.
async fn until(
    events: &mut mpsc::Receiver<MonitorEvent>,
    kinds: &[EventKind],
) -> (EventKind, String, Option<Box<Workload>>) {
    loop {
        if let MonitorEvent::Runtime { event, workload, .. } = next(events).await
            && kinds.contains(&event.kind)
        {
            return (event.kind, event.subject, workload);
        }
    }
}

fn monitor(
    runtimes: Vec<Arc<dyn ContainerRuntime>>,
    cancel: &CancellationToken,
) -> mpsc::Receiver<MonitorEvent> {
    let mut options = MonitorOptions::new(node());
    options.backoff_max = Duration::from_millis(500);
    options.audit = Duration::from_secs(1);
    Monitor::spawn(runtimes, options, cancel.clone())
}

async fn inspect(runtime: &dyn ContainerRuntime, id: &str) -> Workload {
    runtime.inspect(&id.parse().unwrap(), &node()).await.unwrap()
}

fn host_end_is_right(workload: &Workload) {
    let [eth0] = workload.interfaces.as_slice() else {
        panic!("one interface: {:?}", workload.interfaces);
    };
    let host_end = eth0.host_name.clone().expect("a host end");
    let index = std::fs::read_to_string(format!("/sys/class/net/{host_end}/ifindex")).unwrap();
    assert_eq!(index.trim().parse::<u32>().ok(), eth0.host_index);
    assert!(workload.peer_addresses().next().is_some(), "{workload:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_and_its_containers_are_one_workload_however_it_is_seen() {
    const NAME: &str = "a_pod_and_its_containers_are_one_workload_however_it_is_seen";
    if !is_root(NAME) {
        return;
    }
    for suite in Suite::ALL {
        if !suite.has("containerd", NAME) {
            continue;
        }
        let containerd = TestContainerd::start_of(suite, DockerNetwork::CurrentNamespace);
        let native = ContainerdRuntime::connect(containerd.socket());
        let cri = CriRuntime::connect(containerd.socket());
        let version = native.info().await.unwrap().version;
        let seen = cri.info().await.unwrap();
        assert_eq!(
            (seen.name.as_str(), seen.version),
            ("containerd", version.clone())
        );
        let newer = version.starts_with("1.7");
        assert!(newer || version.starts_with("1.6"), "{version}");

        let web = Pod {
            labels: vec![
                ("tier".into(), "front".into()),
                ("pod-template-hash".into(), "6d4cf56db6".into()),
            ],
            ports: vec![(38080, 80)],
            privileged: true,
            ..Pod::new("web-6d4cf56db6-x7k2p")
        };
        let sandbox = containerd.run_pod(&web).await;
        let app = containerd.run_in_pod(&web, &sandbox, "app", SLEEP).await;
        let side = containerd.run_in_pod(&web, &sandbox, "side", SLEEP).await;
        let host = Pod {
            host_network: true,
            ..Pod::new("proxy-x7k2p")
        };
        let host_sandbox = containerd.run_pod(&host).await;

        let mut expected: Vec<WorkloadId> = [&sandbox, &host_sandbox].map(|id| id.parse().unwrap()).into();
        expected.sort();
        let described: Vec<Workload> = {
            let runtimes: [&dyn ContainerRuntime; 2] = [&native, &cri];
            let mut described = Vec::new();
            for runtime in runtimes {
                assert_eq!(runtime.list().await.unwrap(), expected);
                described.push(inspect(runtime, &sandbox).await);
                let host = inspect(runtime, &host_sandbox).await;
                assert!(host.host_network && host.interfaces.is_empty(), "{host:?}");
                assert_eq!(host.service, "proxy");
            }
            described
        };
        for workload in &described {
            assert_eq!(
                (
                    workload.name.as_str(),
                    workload.service.as_str(),
                    workload.domain.as_str()
                ),
                ("web-6d4cf56db6-x7k2p", "web", "prod")
            );
            assert_eq!(workload.labels.get("tier").map(String::as_str), Some("front"));
            let members: Vec<_> = workload
                .containers
                .iter()
                .map(|member| (member.id.as_str(), member.name.as_str(), member.image.as_str()))
                .collect();
            assert_eq!(
                members,
                [
                    (app.as_str(), "app", "localhost/base:1"),
                    (side.as_str(), "side", "localhost/base:1")
                ]
            );
            assert_eq!(workload.image, "localhost/base:1", "not the sandbox's own image");
            let published = workload.published.first().expect("a published port");
            assert_eq!(
                (published.proto, published.host_port, published.port),
                (IpProto::TCP, 38080, 80)
            );
            assert!(workload.privileged && !workload.host_network && workload.pid > 0 && workload.netns > 0);
            assert!(workload.cgroup.contains(&sandbox), "{}", workload.cgroup);
            assert_eq!(workload.state, WorkloadState::Running);
            assert!(workload.created.0 > 0 && workload.started.0 > 0);
            host_end_is_right(workload);
        }
        assert_eq!(described[0].netns, described[1].netns);
        assert_eq!(described[0].interfaces, described[1].interfaces);
        // A member is no workload of its own.
        let error = native.inspect(&app.parse().unwrap(), &node()).await.unwrap_err();
        assert!(matches!(error, RuntimeError::NotFound { .. }), "{error}");
        containerd.remove_pod(&sandbox).await;
        let runtimes: [&dyn ContainerRuntime; 2] = [&native, &cri];
        for runtime in runtimes {
            let error = runtime
                .inspect(&sandbox.parse().unwrap(), &node())
                .await
                .unwrap_err();
            assert!(matches!(error, RuntimeError::NotFound { .. }), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_of_any_client_are_described() {
    const NAME: &str = "tasks_of_any_client_are_described";
    if !is_root(NAME) {
        return;
    }
    let containerd = TestContainerd::start_of(Suite::System, DockerNetwork::OwnNamespace);
    let runtime = ContainerdRuntime::connect(containerd.socket());
    containerd.run_task("own", &["--label", "tier=back"], SLEEP);
    containerd.run_task("host", &["--net-host"], SLEEP);
    let mut ids: Vec<String> = runtime
        .list()
        .await
        .unwrap()
        .into_iter()
        .map(String::from)
        .collect();
    ids.sort();
    assert_eq!(ids, ["containerd:default:host", "containerd:default:own"]);
    let own = inspect(&runtime, "containerd:default:own").await;
    assert_eq!((own.name.as_str(), own.service.as_str()), ("own", "base"));
    assert_eq!(own.image, "localhost/base:1");
    assert_eq!(own.labels.get("tier").map(String::as_str), Some("back"));
    assert!(own.netns > 0 && own.interfaces.is_empty() && !own.host_network && !own.privileged);
    assert!(own.cgroup.contains("own"), "{}", own.cgroup);
    // Its host is the namespace that containerd runs in, which is not ours.
    assert!(inspect(&runtime, "containerd:default:host").await.host_network);
    // Left out: not even by its id.
    let other = ContainerdRuntime::connect(containerd.socket()).without("default");
    assert!(other.list().await.unwrap().is_empty());
    let id = "containerd:default:own".parse().unwrap();
    let error = other.inspect(&id, &node()).await.unwrap_err();
    assert!(matches!(error, RuntimeError::NotFound { .. }), "{error}");

    containerd.ctr("default", &["tasks", "kill", "--signal", "SIGKILL", "own"]);
    assert!(wait_until(|| containerd
        .ctr("default", &["tasks", "list"])
        .contains("STOPPED")));
    let ended = inspect(&runtime, "containerd:default:own").await;
    assert_eq!((ended.state, ended.pid), (WorkloadState::Exited, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_seen_twice_is_told_once() {
    const NAME: &str = "a_pod_seen_twice_is_told_once";
    if !is_root(NAME) {
        return;
    }
    for suite in Suite::ALL {
        if !suite.has("containerd", NAME) {
            continue;
        }
        let containerd = TestContainerd::start_of(suite, DockerNetwork::OwnNamespace);
        let cri = CriRuntime::connect(containerd.socket()).looking_every(Duration::from_millis(200));
        let cancel = CancellationToken::new();
        let native = ContainerdRuntime::connect(containerd.socket());
        let mut events = monitor(vec![Arc::new(cri), Arc::new(native)], &cancel);
        assert!(synced(&mut events, 2).await.is_empty());

        let pod = Pod::new("db-0");
        let sandbox = containerd.run_pod(&pod).await;
        let app = containerd.run_in_pod(&pod, &sandbox, "app", SLEEP).await;
        // Its end must not be taken for the container's.
        assert_eq!(containerd.exec(&app, &["true"]).await.0, 0);
        let life = [
            EventKind::Start,
            EventKind::Change,
            EventKind::Stop,
            EventKind::Delete,
        ];
        let mut told = Vec::new();
        let mut members = 0;
        while members == 0 {
            let (kind, subject, workload) = until(&mut events, &life).await;
            assert_eq!(subject, sandbox);
            assert!(matches!(kind, EventKind::Start | EventKind::Change), "{kind:?}");
            members = workload.map_or(0, |workload| workload.containers.len());
            told.push(kind);
        }
        assert_eq!(told.iter().filter(|kind| **kind == EventKind::Start).count(), 1);
        // Nothing more comes of it while nothing happens, over two audits of both.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        while let Ok(event) = events.try_recv() {
            let MonitorEvent::Runtime { event, .. } = event else {
                panic!("{event:?}");
            };
            assert_eq!(event.kind, EventKind::Change, "{event:?}");
        }
        containerd.remove_pod(&sandbox).await;
        let mut ends = Vec::new();
        while ends.last() != Some(&EventKind::Delete) {
            let (kind, subject, _) = until(&mut events, &life).await;
            assert_eq!(subject, sandbox);
            if kind != EventKind::Change {
                ends.push(kind);
            }
        }
        assert_eq!(ends, [EventKind::Stop, EventKind::Delete]);
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert!(events.try_recv().is_err(), "nobody tells of it a second time");
        cancel.cancel();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_of_containerd_exactly_the_difference() {
    const NAME: &str = "after_a_crash_of_containerd_exactly_the_difference";
    if !is_root(NAME) {
        return;
    }
    for suite in Suite::ALL {
        if !suite.has("containerd", NAME) {
            continue;
        }
        let mut containerd = TestContainerd::start_of(suite, DockerNetwork::OwnNamespace);
        for id in ["stays", "dies"] {
            containerd.run_task(id, &[], SLEEP);
        }
        let id = |name: &str| format!("containerd:default:{name}");
        let cancel = CancellationToken::new();
        let native = ContainerdRuntime::connect(containerd.socket());
        let dies = inspect(&native, &id("dies")).await;
        let mut events = monitor(vec![Arc::new(native)], &cancel);
        let mut told = synced(&mut events, 1).await;
        told.sort();
        assert_eq!(
            told,
            [(EventKind::Start, id("dies")), (EventKind::Start, id("stays"))]
        );
        containerd.kill();
        let (kind, what, _) = until(&mut events, &[EventKind::SocketError, EventKind::Stop]).await;
        assert_eq!(kind, EventKind::SocketError, "{what}");
        // No daemon sees it end.
        let pid = nix::unistd::Pid::from_raw(i32::try_from(dies.pid).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        containerd.restart();
        let told = synced(&mut events, 1).await;
        // The shim may tell of the end late: once all the same.
        let mut told = if told.is_empty() {
            let (kind, subject, _) = until(&mut events, &[EventKind::Stop]).await;
            vec![(kind, subject)]
        } else {
            told
        };
        assert_eq!(
            told.pop(),
            Some((EventKind::Stop, id("dies"))),
            "one error for one outage"
        );
        assert!(told.is_empty(), "{told:?}");
        containerd.run_task("late", &[], SLEEP);
        let (kind, subject, workload) = until(&mut events, &[EventKind::Start, EventKind::Stop]).await;
        assert_eq!((kind, subject), (EventKind::Start, id("late")));
        assert_eq!(workload.unwrap().name, "late");
        // One that ends before anybody can look at it is told with both ends.
        containerd.run_task("short", &[], &["true"]);
        let life = [EventKind::Start, EventKind::Stop, EventKind::Delete];
        for expected in [EventKind::Start, EventKind::Stop] {
            let (kind, subject, _) = until(&mut events, &life).await;
            assert_eq!((kind, subject), (expected, id("short")));
        }
        cancel.cancel();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_of_dockerd_is_not_told_again_by_its_containerd() {
    const NAME: &str = "a_container_of_dockerd_is_not_told_again_by_its_containerd";
    if !is_root(NAME) {
        return;
    }
    let docker = TestDockerd::start(DockerNetwork::OwnNamespace);
    let cancel = CancellationToken::new();
    let runtimes: Vec<Arc<dyn ContainerRuntime>> = vec![
        Arc::new(ContainerdRuntime::connect(docker.containerd_socket())),
        Arc::new(DockerRuntime::connect(docker.socket())),
    ];
    let mut events = monitor(runtimes, &cancel);
    assert!(synced(&mut events, 2).await.is_empty());
    let web = docker.run_container("front", "test/base:1", &[], SLEEP);
    let life = [
        EventKind::Start,
        EventKind::Change,
        EventKind::Stop,
        EventKind::Delete,
    ];
    let mut starts = 0;
    loop {
        let (kind, subject, workload) = until(&mut events, &life).await;
        assert_eq!(subject, web);
        starts += usize::from(kind == EventKind::Start);
        // dockerd knows its name, whoever spoke first.
        if workload.is_some_and(|workload| workload.runtime == "docker" && workload.name == "front") {
            break;
        }
    }
    assert_eq!(starts, 1);
    docker.docker(&["restart", "--time", "0", "front"]);
    docker.docker(&["rm", "--force", "front"]);
    let mut told = Vec::new();
    while told.last() != Some(&EventKind::Delete) {
        let (kind, subject, _) = until(&mut events, &life).await;
        assert_eq!(subject, web);
        if kind != EventKind::Change {
            told.push(kind);
        }
    }
    assert_eq!(
        told,
        [
            EventKind::Stop,
            EventKind::Start,
            EventKind::Stop,
            EventKind::Delete
        ]
    );
    cancel.cancel();
}

/// What each cannot tell is not among its capabilities, and never comes.
#[tokio::test(flavor = "multi_thread")]
async fn what_containerd_cannot_tell_is_declared() {
    const NAME: &str = "what_containerd_cannot_tell_is_declared";
    if !is_root(NAME) {
        return;
    }
    let containerd = TestContainerd::start_of(Suite::System, DockerNetwork::OwnNamespace);
    let native = ContainerdRuntime::connect(containerd.socket());
    let cri = CriRuntime::connect(containerd.socket());
    let runtimes: [&dyn ContainerRuntime; 2] = [&native, &cri];
    for runtime in runtimes {
        let capabilities = runtime.info().await.unwrap().capabilities;
        for kind in [
            EventKind::CopyIn,
            EventKind::CopyOut,
            EventKind::NetworkCreate,
            EventKind::NetworkDelete,
        ] {
            assert!(!capabilities.contains(&kind), "{kind:?}");
        }
        for kind in [
            EventKind::Start,
            EventKind::Stop,
            EventKind::Delete,
            EventKind::SocketError,
        ] {
            assert!(capabilities.contains(&kind), "{kind:?}");
        }
    }
}
