//! The ways of CRI-O and of Podman, against fakes: neither can be had here from packages that run.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    reason = "helpers of tests"
)]

use std::sync::Arc;
use std::time::Duration;

use nv_runtime::testing::cri::ContainerEventType;
use nv_runtime::testing::{FakeCri, FakeDocker, FakePod};
use nv_runtime::{
    ContainerRuntime, CriRuntime, DockerRuntime, EventKind, Monitor, MonitorEvent, MonitorOptions,
};
use nv_types::Workload;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

fn pod(id: &str, is_ready: bool, containers: &[&str]) -> FakePod {
    let triple = |name: &&str| {
        (
            format!("{id}-{name}"),
            (*name).to_owned(),
            format!("test/{name}:1"),
        )
    };
    FakePod {
        id: id.to_owned(),
        name: format!("{id}-0"),
        is_ready,
        pid: 0,
        info:
            r#"{"pid":0,"runtimeSpec":{"linux":{"namespaces":[{"type":"network","path":"/no/such/netns"}]}}}"#
                .into(),
        containers: containers.iter().map(triple).collect(),
    }
}

fn watch(runtime: Arc<dyn ContainerRuntime>) -> (mpsc::Receiver<MonitorEvent>, CancellationToken) {
    let cancel = CancellationToken::new();
    let options = MonitorOptions {
        backoff_max: Duration::from_millis(200),
        ..MonitorOptions::new("n".parse().unwrap())
    };
    (Monitor::spawn(vec![runtime], options, cancel.clone()), cancel)
}

async fn next(events: &mut mpsc::Receiver<MonitorEvent>) -> MonitorEvent {
    let event = tokio::time::timeout(Duration::from_secs(20), events.recv()).await;
    event.expect("in time").expect("the stream does not end")
}

async fn told(events: &mut mpsc::Receiver<MonitorEvent>) -> (EventKind, String, Option<Box<Workload>>) {
    loop {
        if let MonitorEvent::Runtime { event, workload, .. } = next(events).await {
            return (event.kind, event.subject, workload);
        }
    }
}

async fn expect(
    events: &mut mpsc::Receiver<MonitorEvent>,
    kind: EventKind,
    subject: &str,
) -> Option<Box<Workload>> {
    let (told, of, workload) = told(events).await;
    assert_eq!((told, of.as_str()), (kind, subject));
    workload
}

async fn synced(events: &mut mpsc::Receiver<MonitorEvent>) -> String {
    loop {
        if let MonitorEvent::Synced { info, .. } = next(events).await {
            return info.name;
        }
    }
}

/// CRI-O by default, and containerd 1.6: no events. What is still listed is not lost.
#[tokio::test]
async fn a_runtime_without_events_is_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    for (name, start) in [
        ("cri-o", FakeCri::crio as fn(&std::path::Path) -> FakeCri),
        ("containerd", FakeCri::without_events),
    ] {
        let socket = folder.path().join(name);
        let fake = start(&socket);
        fake.put(pod("old", true, &["app"]));
        let runtime = CriRuntime::connect(&socket).looking_every(Duration::from_millis(20));
        let (mut events, cancel) = watch(Arc::new(runtime));
        let workload = expect(&mut events, EventKind::Start, "old").await.unwrap();
        assert_eq!(
            (workload.service.as_str(), workload.image.as_str()),
            ("old", "test/app:1")
        );
        assert_eq!(workload.runtime, name);
        assert_eq!(synced(&mut events).await, name);
        fake.put(pod("new", true, &[]));
        expect(&mut events, EventKind::Start, "new").await;
        fake.put(pod("new", true, &["app", "side"]));
        let workload = expect(&mut events, EventKind::Change, "new").await.unwrap();
        assert_eq!(workload.containers.len(), 2);
        // It came and ended between two looks.
        fake.put(pod("short", false, &[]));
        expect(&mut events, EventKind::Start, "short").await;
        expect(&mut events, EventKind::Stop, "short").await;
        fake.put(pod("new", false, &[]));
        expect(&mut events, EventKind::Stop, "new").await;
        fake.remove("new");
        expect(&mut events, EventKind::Delete, "new").await;
        cancel.cancel();
    }
}

/// CRI-O with events: none for the sandbox's making and deletion, and the daemon ends without a word.
#[tokio::test]
async fn cri_o_with_events_tells_at_once_and_what_it_leaves_out_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("crio.sock");
    let fake = FakeCri::crio_with_events(&socket);
    let runtime = CriRuntime::connect(&socket);
    let (mut events, cancel) = watch(Arc::new(runtime));
    assert_eq!(synced(&mut events).await, "cri-o");
    // The stream is asked for beside the listing: its first event comes once it is there.
    tokio::time::sleep(Duration::from_millis(500)).await;
    fake.put(pod("p", true, &[]));
    fake.tell("p", "p", ContainerEventType::ContainerStartedEvent, 10);
    expect(&mut events, EventKind::Start, "p").await;
    fake.put(pod("p", true, &["app"]));
    fake.tell("p", "p-app", ContainerEventType::ContainerCreatedEvent, 11);
    fake.tell("p", "p-app", ContainerEventType::ContainerStartedEvent, 12);
    expect(&mut events, EventKind::Change, "p").await;
    fake.put(pod("p", false, &["app"]));
    fake.tell("p", "p", ContainerEventType::ContainerStoppedEvent, 20);
    expect(&mut events, EventKind::Stop, "p").await;
    drop(fake);
    expect_error(&mut events).await;
    std::fs::remove_file(&socket).unwrap();
    let _fake = FakeCri::crio_with_events(&socket);
    // It is gone from the list now, and nobody told.
    expect(&mut events, EventKind::Delete, "p").await;
    assert_eq!(synced(&mut events).await, "cri-o");
    cancel.cancel();
}

async fn expect_error(events: &mut mpsc::Receiver<MonitorEvent>) {
    let (kind, what, _) = told(events).await;
    assert_eq!(kind, EventKind::SocketError, "{what}");
}

#[tokio::test]
async fn podman_is_known_by_its_version_and_its_words() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("podman.sock");
    let fake = FakeDocker::podman(&socket);
    let runtime = DockerRuntime::connect(&socket);
    let info = runtime.info().await.unwrap();
    assert_eq!((info.name.as_str(), info.version.as_str()), ("podman", "5.4.0"));
    assert!(!info.capabilities.contains(&EventKind::CopyIn));
    assert!(!info.capabilities.contains(&EventKind::NetworkCreate));
    let (mut events, cancel) = watch(Arc::new(runtime));
    assert_eq!(synced(&mut events).await, "podman");
    // This fake tells nothing twice: it needs a listener.
    while fake.listeners() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    fake.put("ab12", std::process::id());
    fake.tell("start", "ab12", 1_800_000_000_000_000_000);
    let workload = expect(&mut events, EventKind::Start, "ab12").await.unwrap();
    assert_eq!(
        (workload.runtime.as_str(), workload.service.as_str()),
        ("podman", "web")
    );
    fake.remove("ab12");
    fake.tell("die", "ab12", 1_800_000_000_000_000_001);
    fake.tell("remove", "ab12", 1_800_000_000_000_000_002);
    expect(&mut events, EventKind::Stop, "ab12").await;
    expect(&mut events, EventKind::Delete, "ab12").await;
    cancel.cancel();
}

/// A container whose process id belongs to somebody else by now is none that runs.
#[tokio::test]
async fn a_process_id_that_was_used_again_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let fake = FakeDocker::docker(&socket);
    let runtime = DockerRuntime::connect(&socket);
    let id = "ab12".parse().unwrap();
    // Our own process: in no control group of that name. The daemon is asked once more and stands by it.
    fake.put("ab12", std::process::id());
    let workload = runtime.inspect(&id, &"n".parse().unwrap()).await.unwrap();
    assert!(workload.netns > 0);
    // One that nobody has: everything but the place is known.
    fake.put("ab12", 0x3f_ffff);
    let workload = runtime.inspect(&id, &"n".parse().unwrap()).await.unwrap();
    assert_eq!((workload.netns, workload.interfaces.len()), (0, 0));
    assert_eq!(workload.service, "web");
}

/// Resident bytes of this process (proc(5)).
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Five hundred containers a second that live for a tenth of one, and a consumer whose queue is short.
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_containers_is_told_whole_and_in_bounded_memory() {
    const PAIRS: u64 = 2000;
    const LIVES: u64 = 50;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let fake = FakeDocker::docker(&socket);
    let cancel = CancellationToken::new();
    let options = MonitorOptions {
        capacity: 16,
        ..MonitorOptions::new("n".parse().unwrap())
    };
    let runtime: Arc<dyn ContainerRuntime> = Arc::new(DockerRuntime::connect(&socket));
    let mut events = Monitor::spawn(vec![runtime], options, cancel.clone());
    assert_eq!(synced(&mut events).await, "docker");
    while fake.listeners() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let before = resident();
    let writer = fake.clone();
    tokio::spawn(async move {
        let now = || {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            u64::try_from(since.unwrap().as_nanos()).unwrap()
        };
        let id = |number: u64| format!("{number:064x}");
        let mut pace = tokio::time::interval(Duration::from_millis(2));
        for number in 0..PAIRS + LIVES {
            pace.tick().await;
            if number < PAIRS {
                writer.put(&id(number), std::process::id());
                writer.tell("start", &id(number), now());
            }
            if let Some(oldest) = number.checked_sub(LIVES) {
                writer.remove(&id(oldest));
                writer.tell("die", &id(oldest), now());
            }
        }
    });
    let mut lives = std::collections::BTreeMap::new();
    let mut ends = 0;
    while ends < PAIRS {
        let (kind, id, _) = told(&mut events).await;
        let life: &mut Vec<EventKind> = lives.entry(id).or_default();
        life.push(kind);
        ends += u64::from(kind == EventKind::Stop);
    }
    let grown = resident().saturating_sub(before);
    assert_eq!(lives.len() as u64, PAIRS);
    for (id, life) in &lives {
        // One that the daemon does not know any more may be told to be gone, too.
        let (life, gone) = life.split_at(2);
        assert_eq!(life, [EventKind::Start, EventKind::Stop], "{id}");
        assert!(gone.is_empty() || gone == [EventKind::Delete], "{id}: {gone:?}");
    }
    assert!(grown < 64 << 20, "{grown} bytes more");
    cancel.cancel();
}
