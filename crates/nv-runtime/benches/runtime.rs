//! Pace of the runtimes and the monitor against fakes: no daemon, so that only nv's own time counts.
//!
//! `cargo xtask bench runtime`; needs root for the namespace of its one process. Prints a table and writes
//! `target/bench/runtime.json`. The fakes run in the same process: their time is in the numbers too.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a bench"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::StreamExt as _;
use nv_runtime::testing::cri::ContainerEventType;
use nv_runtime::testing::{FakeCri, FakeDocker, FakePod};
use nv_runtime::{
    ContainerRuntime, CriRuntime, DockerRuntime, EventKind, Monitor, MonitorEvent, MonitorOptions,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const CONTAINERS: usize = 1000;
/// Pairs of start and stop, so twice as many events, in one second.
const PAIRS: u64 = 2500;
/// How many of them run at once.
const LIVES: u64 = 250;
const LATENCIES: usize = 500;

/// A process in a network namespace of its own: every fake container's.
struct Place(Child);

impl Place {
    fn new() -> Self {
        let child = Command::new("unshare").args(["--net", "sleep", "600"]).spawn();
        let place = Self(child.expect("unshare (root is needed)"));
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let path = format!("/proc/{}/ns/net", place.0.id());
        while std::fs::read_link(&path).is_ok_and(|link| link == own) {
            std::thread::sleep(Duration::from_millis(1));
        }
        place
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pod(number: usize, pid: u32) -> FakePod {
    let id = format!("{number:064x}");
    FakePod {
        name: format!("web-{number}"),
        is_ready: true,
        pid,
        info: format!(
            r#"{{"pid":{pid},"runtimeSpec":{{"linux":{{"cgroupsPath":"/k8s.io/{id}","namespaces":[{{"type":"network","path":""}}]}}}}}}"#
        ),
        containers: vec![(
            format!("{:064x}", CONTAINERS + number),
            "app".into(),
            "test/app:1".into(),
        )],
        id,
    }
}

/// Seconds to list and inspect everything, as the monitor does it.
async fn list_and_inspect(runtime: Arc<dyn ContainerRuntime>) -> f64 {
    let node = "n".parse().unwrap();
    let begun = Instant::now();
    let listed = runtime.list().await.unwrap();
    assert_eq!(listed.len(), CONTAINERS);
    let inspected = futures::stream::iter(listed)
        .map(|id| {
            let (runtime, node) = (Arc::clone(&runtime), &node);
            async move { runtime.inspect(&id, node).await.unwrap().netns }
        })
        .buffered(16)
        .filter(|netns| std::future::ready(*netns > 0))
        .count()
        .await;
    assert_eq!(inspected, CONTAINERS);
    begun.elapsed().as_secs_f64()
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_nanos()).unwrap()
}

async fn until(events: &mut mpsc::Receiver<MonitorEvent>, kind: EventKind, id: &str) {
    loop {
        match events.recv().await.unwrap() {
            MonitorEvent::Runtime { event, .. } if event.kind == kind && event.subject == id => return,
            _ => {}
        }
    }
}

/// Milliseconds from the daemon's write to the consumer's hands, inspection included: median and 99th percentile.
async fn latency(fake: &FakeDocker, events: &mut mpsc::Receiver<MonitorEvent>, pid: u32) -> (f64, f64) {
    let mut taken = Vec::new();
    for number in 0..LATENCIES {
        let id = format!("{:064x}", 9000 + number);
        fake.put(&id, pid);
        let begun = Instant::now();
        fake.tell("start", &id, now());
        until(events, EventKind::Start, &id).await;
        taken.push(begun.elapsed().as_secs_f64() * 1e3);
        fake.remove(&id);
        fake.tell("die", &id, now());
        until(events, EventKind::Stop, &id).await;
    }
    taken.sort_by(f64::total_cmp);
    (taken[LATENCIES / 2], taken[LATENCIES * 99 / 100])
}

/// Events of one second that were lost, and how long the last one took to arrive after it, in milliseconds.
async fn burst(fake: &FakeDocker, events: &mut mpsc::Receiver<MonitorEvent>, pid: u32) -> (u64, f64) {
    let writer = fake.clone();
    let written = tokio::spawn(async move {
        let begun = Instant::now();
        let id = |number: u64| format!("{:064x}", 100_000 + number);
        for number in 0..PAIRS + LIVES {
            if number < PAIRS {
                writer.put(&id(number), pid);
                writer.tell("start", &id(number), now());
            }
            if let Some(oldest) = number.checked_sub(LIVES) {
                writer.remove(&id(oldest));
                writer.tell("die", &id(oldest), now());
            }
            let due = Duration::from_micros(number * 1_000_000 / PAIRS);
            if let Some(early) = due.checked_sub(begun.elapsed()) {
                tokio::time::sleep(early).await;
            }
        }
        Instant::now()
    });
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut heard = 0;
    while heard < PAIRS * 2 {
        match tokio::time::timeout(Duration::from_secs(5), events.recv()).await {
            Ok(Some(MonitorEvent::Runtime { event, .. }))
                if matches!(event.kind, EventKind::Start | EventKind::Stop) =>
            {
                *counts.entry(event.subject).or_default() += 1;
                heard += 1;
            }
            Ok(Some(_)) => {}
            _ => break,
        }
    }
    let late = written.await.unwrap().elapsed().as_secs_f64() * 1e3;
    assert!(counts.values().all(|count| *count <= 2), "nothing is told twice");
    (PAIRS * 2 - heard, late)
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let place = Place::new();
        let pid = place.0.id();
        let folder = tempfile::tempdir().unwrap();

        let socket = folder.path().join("docker.sock");
        let fake = FakeDocker::docker(&socket);
        for number in 0..CONTAINERS {
            fake.put(&format!("{number:064x}"), pid);
        }
        let docker = list_and_inspect(Arc::new(DockerRuntime::connect(&socket))).await;
        for number in 0..CONTAINERS {
            fake.remove(&format!("{number:064x}"));
        }

        let socket = folder.path().join("cri.sock");
        let pods = FakeCri::crio_with_events(&socket);
        for number in 0..CONTAINERS {
            pods.put(pod(number, pid));
        }
        let cri = list_and_inspect(Arc::new(CriRuntime::connect(&socket))).await;
        pods.tell("none", "none", ContainerEventType::ContainerCreatedEvent, 0);

        let cancel = CancellationToken::new();
        let watched: Arc<dyn ContainerRuntime> =
            Arc::new(DockerRuntime::connect(folder.path().join("docker.sock")));
        let options = MonitorOptions::new("n".parse().unwrap());
        let stats = Arc::clone(&options.stats);
        let mut events = Monitor::spawn(vec![watched], options, cancel.clone());
        while !matches!(events.recv().await, Some(MonitorEvent::Synced { .. })) {}
        while fake.listeners() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (median, slowest) = latency(&fake, &mut events, pid).await;
        let (lost, late) = burst(&fake, &mut events, pid).await;
        cancel.cancel();

        let figures = [
            ("docker_list_inspect_1000_s", docker, "s", 1),
            ("cri_list_inspect_1000_s", cri, "s", 1),
            ("event_to_consumer_p50_ms", median, "ms", LATENCIES),
            ("event_to_consumer_p99_ms", slowest, "ms", LATENCIES),
            (
                "events_5000_per_s_lost",
                f64::from(u32::try_from(lost).unwrap()),
                "events",
                1,
            ),
            ("events_5000_per_s_last_after_ms", late, "ms", 1),
            (
                "outages",
                f64::from(u32::try_from(stats.outages()).unwrap()),
                "outages",
                1,
            ),
        ];
        let mut json = Vec::new();
        for (name, value, unit, runs) in figures {
            println!("{name:<36} {value:>10.3} {unit}");
            json.push(serde_json::json!({
                "name": name, "value": value, "unit": unit, "baseline": null, "ratio": null, "runs": runs
            }));
        }
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/bench");
        std::fs::create_dir_all(&target).unwrap();
        let text = serde_json::to_string_pretty(&json).unwrap();
        std::fs::write(target.join("runtime.json"), text).unwrap();
    });
}
