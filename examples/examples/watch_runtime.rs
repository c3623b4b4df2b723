//! Finds the container runtimes of this host and tells what starts and stops.
//!
//! ```text
//! cargo run --example watch_runtime              # two seconds, then a summary
//! cargo run --example watch_runtime -- 60        # a minute; run containers or `ip netns add` meanwhile
//! cargo run --example watch_runtime -- 60 /path/to/docker.sock /path/to/containerd.sock   # `off` for none
//! ```
//!
//! Root is needed to see the interfaces of containers, not for the events.
#![allow(clippy::print_stdout, reason = "an example's output")]

use std::time::Duration;

use nv_runtime::{DiscoverOptions, LinkEvent, LinkWatcher, Location, Monitor, MonitorEvent, MonitorOptions};
use nv_types::Workload;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments.next().map_or(Ok(2), |text| text.parse())?;
    let mut place = || Location::parse(&arguments.next().unwrap_or_default());
    let places = DiscoverOptions {
        docker: place(),
        containerd: place(),
        ..DiscoverOptions::default()
    };
    let cancel = CancellationToken::new();
    // Also those runtimes whose sockets appear later.
    let mut events = Monitor::discover(places, MonitorOptions::new("this-node".parse()?), cancel.clone());
    // The kernel tells of a container's interface before its runtime tells of the container.
    let mut links = LinkWatcher::spawn(256)?;

    let end = tokio::time::sleep(Duration::from_secs(seconds));
    tokio::pin!(end);
    let mut lines = 0u32;
    loop {
        tokio::select! {
            () = &mut end => break,
            Some(event) = events.recv() => print(&event),
            Some(event) = links.recv() => match event {
                LinkEvent::NewVeth { ifindex, name, peer_elsewhere: true, .. } => {
                    println!("link     {name} (index {ifindex}) is a host end");
                }
                LinkEvent::NewVeth { .. } => {}
                LinkEvent::Gone { ifindex } => println!("link     index {ifindex} is gone"),
            },
        }
        lines += 1;
    }
    cancel.cancel();
    println!("{lines} events in {seconds} s");
    Ok(())
}

fn print(event: &MonitorEvent) {
    match event {
        MonitorEvent::Synced { info, running, .. } => println!(
            "synced   {} {} at {}: {} workloads run",
            info.name,
            info.version,
            info.location,
            running.len()
        ),
        MonitorEvent::Runtime { event, workload, .. } => {
            println!("{:<8} {}", format!("{:?}", event.kind), event.subject);
            if let Some(workload) = workload {
                describe(workload);
            }
        }
    }
}

fn describe(workload: &Workload) {
    println!(
        "         {} of service {}, image {:?}",
        workload.name, workload.service, workload.image
    );
    for container in &workload.containers {
        println!("         with {} of {:?}", container.name, container.image);
    }
    for interface in &workload.interfaces {
        let addresses: Vec<String> = interface
            .addresses
            .iter()
            .map(|(ip, len)| format!("{ip}/{len}"))
            .collect();
        let host_end = interface.host_name.as_deref().unwrap_or("no host end");
        println!(
            "         {} -> {host_end}: {}",
            interface.name,
            addresses.join(" ")
        );
    }
}
