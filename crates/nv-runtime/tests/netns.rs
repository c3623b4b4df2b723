//! Named namespaces and host ends, with real `ip netns` and the real kernel.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    reason = "helpers of tests"
)]

use std::sync::Arc;
use std::time::Duration;

use nv_runtime::netns::{NetnsRef, run_in, view_blocking};
use nv_runtime::testing::{is_root, run};
use nv_runtime::{
    ContainerRuntime, EventKind, LinkEvent, LinkWatcher, Monitor, MonitorEvent, MonitorOptions, NetnsRuntime,
};
use nv_types::{NodeId, WorkloadId};
use tokio_util::sync::CancellationToken;

/// Namespaces that are removed with the value.
struct Namespaces {
    prefix: String,
    names: Vec<String>,
}

impl Namespaces {
    fn new(test: &str) -> Self {
        Self {
            prefix: format!("nvt{}{test}-", std::process::id()),
            names: Vec::new(),
        }
    }

    fn add(&mut self, name: &str) -> String {
        let full = format!("{}{name}", self.prefix);
        run("ip", &["netns", "add", &full]);
        self.names.push(full.clone());
        full
    }

    fn delete(&mut self, full: &str) {
        run("ip", &["netns", "delete", full]);
        self.names.retain(|name| name != full);
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = std::process::Command::new("ip")
                .args(["netns", "delete", name])
                .status();
        }
    }
}

fn node() -> NodeId {
    "node-1".parse().unwrap()
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .unwrap_or_else(|_| panic!("{what}: nothing within 20 s"))
}

#[tokio::test]
async fn a_namespace_is_a_workload_with_its_host_ends() {
    if !is_root("a_namespace_is_a_workload_with_its_host_ends") {
        return;
    }
    let mut namespaces = Namespaces::new("a");
    let web = namespaces.add("web");
    let other = namespaces.add("other");
    let host_end = format!("nva{}", std::process::id());
    run(
        "ip",
        &[
            "link", "add", &host_end, "type", "veth", "peer", "name", "eth0", "netns", &web,
        ],
    );
    run(
        "ip",
        &["-n", &web, "address", "add", "192.0.2.7/24", "dev", "eth0"],
    );
    run(
        "ip",
        &[
            "-n",
            &web,
            "address",
            "add",
            "2001:db8::7/64",
            "dev",
            "eth0",
            "nodad",
        ],
    );
    // Both ends away from us: its peer index must not be read as one of ours.
    run(
        "ip",
        &[
            "-n", &web, "link", "add", "eth1", "type", "veth", "peer", "name", "x", "netns", &other,
        ],
    );
    // Both ends in the same namespace.
    run(
        "ip",
        &[
            "-n", &web, "link", "add", "eth2", "type", "veth", "peer", "name", "eth3",
        ],
    );

    let runtime = NetnsRuntime::new("/run/netns").with_prefix(namespaces.prefix.clone());
    let id: WorkloadId = format!("netns:{web}").parse().unwrap();
    let listed = runtime.list().await.unwrap();
    assert!(listed.contains(&id), "{listed:?}");
    assert_eq!(listed.len(), 2);
    let workload = runtime.inspect(&id, &node()).await.unwrap();
    assert_eq!(
        (workload.name.as_str(), workload.service.as_str()),
        ("web", "web")
    );
    assert_eq!(workload.domain, "");
    assert!(workload.started.0 > 0 && !workload.host_network);
    let find = |name: &str| workload.interfaces.iter().find(|i| i.name == name).unwrap();
    assert!(workload.interfaces.iter().all(|i| i.name != "lo"));
    let eth0 = find("eth0");
    assert_eq!(eth0.host_name.as_deref(), Some(host_end.as_str()));
    let index: u32 = std::fs::read_to_string(format!("/sys/class/net/{host_end}/ifindex"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert_eq!(eth0.host_index, Some(index));
    assert!(eth0.mac.is_some());
    assert!(
        eth0.addresses.contains(&("192.0.2.7".parse().unwrap(), 24)),
        "{eth0:?}"
    );
    assert!(
        eth0.addresses.contains(&("2001:db8::7".parse().unwrap(), 64)),
        "{eth0:?}"
    );
    for name in ["eth1", "eth2", "eth3"] {
        assert_eq!(find(name).host_index, None, "{name}");
    }

    let missing = "netns:no-such-namespace".parse().unwrap();
    let error = runtime.inspect(&missing, &node()).await.unwrap_err();
    assert_eq!(error.to_string(), "netns has no workload netns:no-such-namespace");
}

#[test]
fn our_own_namespace_has_no_interfaces_to_guard_and_threads_do_not_leak_out() {
    if !is_root("our_own_namespace_has_no_interfaces_to_guard_and_threads_do_not_leak_out") {
        return;
    }
    let mut namespaces = Namespaces::new("o");
    let away = NetnsRef::Path(format!("/run/netns/{}", namespaces.add("x")).into());
    let own = view_blocking(&NetnsRef::Pid(std::process::id())).unwrap();
    assert!(own.is_own && own.interfaces.is_empty());
    let inside = run_in(&away, nv_runtime::netns::own_inode).unwrap();
    assert_ne!(inside, Some(own.inode));
    assert_eq!(inside, Some(view_blocking(&away).unwrap().inode));
    assert_eq!(nv_runtime::netns::own_inode(), Some(own.inode));
    let error = view_blocking(&NetnsRef::Path("/run/netns/no-such".into())).unwrap_err();
    assert_eq!(error.to_string(), "no network namespace at /run/netns/no-such");
    let error = view_blocking(&NetnsRef::Path("/dev/null".into())).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot enter network namespace /dev/null"),
        "{error}"
    );
}

#[tokio::test]
async fn the_monitor_tells_of_names_that_come_go_and_are_used_again() {
    if !is_root("the_monitor_tells_of_names_that_come_go_and_are_used_again") {
        return;
    }
    let mut namespaces = Namespaces::new("m");
    let first = namespaces.add("first");
    let runtime = NetnsRuntime::new("/run/netns").with_prefix(namespaces.prefix.clone());
    let cancel = CancellationToken::new();
    let mut events = Monitor::spawn(
        vec![Arc::new(runtime)],
        MonitorOptions::new(node()),
        cancel.clone(),
    );
    let mut next = async || match within("event", events.recv()).await.unwrap() {
        MonitorEvent::Runtime { event, workload, .. } => (
            Some(event.kind),
            event.subject,
            workload.map(|workload| workload.name),
        ),
        MonitorEvent::Synced { running, .. } => (None, format!("{}", running.len()), None),
    };
    let start = |full: &str, name: &str| {
        (
            Some(EventKind::Start),
            format!("netns:{full}"),
            Some(name.to_owned()),
        )
    };
    let stop = |full: &str| (Some(EventKind::Stop), format!("netns:{full}"), None);
    let delete = |full: &str| (Some(EventKind::Delete), format!("netns:{full}"), None);
    assert_eq!(next().await, start(&first, "first"));
    assert_eq!(next().await, (None, "1".to_owned(), None));
    let second = namespaces.add("second");
    assert_eq!(next().await, start(&second, "second"));
    namespaces.delete(&first);
    assert_eq!(next().await, stop(&first));
    assert_eq!(next().await, delete(&first));
    namespaces.delete(&second);
    namespaces.add("second");
    assert_eq!(next().await, stop(&second));
    assert_eq!(next().await, delete(&second));
    assert_eq!(next().await, start(&second, "second"));
    // A file that no namespace is mounted on is none.
    let plain = format!("/run/netns/{}plain", namespaces.prefix);
    std::fs::write(&plain, "").unwrap();
    let third = namespaces.add("third");
    assert_eq!(next().await, start(&third, "third"));
    std::fs::remove_file(&plain).unwrap();
    cancel.cancel();
    assert!(within("end", events.recv()).await.is_none());
}

#[tokio::test]
async fn new_host_ends_are_told_as_the_kernel_makes_them() {
    if !is_root("new_host_ends_are_told_as_the_kernel_makes_them") {
        return;
    }
    let mut namespaces = Namespaces::new("l");
    let inside = namespaces.add("in");
    let pid = std::process::id();
    let (old, new) = (format!("nvo{pid}"), format!("nvn{pid}"));
    run(
        "ip",
        &[
            "link", "add", &old, "type", "veth", "peer", "name", "e0", "netns", &inside,
        ],
    );
    let mut watcher = LinkWatcher::spawn(64).unwrap();
    // Other tests have links too: only ours count.
    let found = within("the one that was there", async {
        loop {
            if let Some(LinkEvent::NewVeth {
                name,
                ifindex,
                peer_elsewhere,
                ..
            }) = watcher.recv().await
                && name == old
            {
                assert!(peer_elsewhere);
                return ifindex;
            }
        }
    })
    .await;
    // Made here, then one end moved away, as container runtimes do.
    run(
        "ip",
        &[
            "link",
            "add",
            &new,
            "type",
            "veth",
            "peer",
            "name",
            &format!("{new}p"),
        ],
    );
    run("ip", &["link", "set", &format!("{new}p"), "netns", &inside]);
    run("ip", &["link", "set", &new, "up"]);
    let index = within("the new one", async {
        let mut ends_here = false;
        loop {
            if let Some(LinkEvent::NewVeth {
                name,
                ifindex,
                peer_elsewhere,
                ..
            }) = watcher.recv().await
                && name == new
            {
                ends_here |= !peer_elsewhere;
                if peer_elsewhere {
                    assert!(ends_here, "told at once when it was made");
                    return ifindex;
                }
            }
        }
    })
    .await;
    // A bridge port that leaves its bridge is not gone.
    let bridge = format!("nvb{pid}");
    run("ip", &["link", "add", &bridge, "type", "bridge"]);
    run("ip", &["link", "set", &new, "master", &bridge]);
    run("ip", &["link", "set", &new, "nomaster"]);
    run("ip", &["link", "delete", &bridge]);
    run("ip", &["link", "delete", &old]);
    let gone = within("the first gone one of ours", async {
        loop {
            match watcher.recv().await {
                Some(LinkEvent::Gone { ifindex }) if ifindex == found || ifindex == index => return ifindex,
                Some(_) => {}
                None => panic!("the watcher ended"),
            }
        }
    })
    .await;
    assert_eq!(gone, found);
    run("ip", &["link", "delete", &new]);
}

#[tokio::test]
async fn a_flood_of_links_ends_in_the_right_state() {
    if !is_root("a_flood_of_links_ends_in_the_right_state") {
        return;
    }
    let pid = std::process::id();
    let mut watcher = LinkWatcher::spawn(1).unwrap();
    let name = |i: u32| format!("nvf{pid}x{i}");
    // Nobody reads while 60 pairs come and half of them go.
    for i in 0..60 {
        run(
            "ip",
            &[
                "link",
                "add",
                &name(i),
                "type",
                "veth",
                "peer",
                "name",
                &format!("{}p", name(i)),
            ],
        );
    }
    for i in (0..60).step_by(2) {
        run("ip", &["link", "delete", &name(i)]);
    }
    let mut ours = std::collections::BTreeMap::new();
    let expected: Vec<String> = (1..60).step_by(2).map(name).collect();
    let done = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            match watcher.recv().await.unwrap() {
                LinkEvent::NewVeth { ifindex, name, .. } => drop(ours.insert(ifindex, name)),
                LinkEvent::Gone { ifindex } => drop(ours.remove(&ifindex)),
            }
            let mut names: Vec<&String> = ours
                .values()
                .filter(|n| n.starts_with(&format!("nvf{pid}x")) && !n.ends_with('p'))
                .collect();
            names.sort();
            let mut wanted: Vec<&String> = expected.iter().collect();
            wanted.sort();
            if names == wanted {
                return;
            }
        }
    })
    .await;
    for i in (1..60).step_by(2) {
        run("ip", &["link", "delete", &name(i)]);
    }
    assert!(done.is_ok(), "left: {ours:?}");
}
