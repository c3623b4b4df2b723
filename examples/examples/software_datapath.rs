//! The decision code without a kernel: a policy is compiled, frames go in, verdicts and events come out. These are the
//! lines that the kernel programs run.
//!
//! `cargo run -p nv-examples --example software_datapath`

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, ensure};
use etherparse::PacketBuilder;
use nv_dp::{Datapath, DatapathConfig, DatapathEvent, EndpointSpec, SoftwareDatapath};
use nv_policy::{PolicyInput, compile, rule};
use nv_types::{Action, Direction, Interface, Mode, NodeId, Revision, Verdict, Workload};

const WEB: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const APP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
/// Index of the veth's host end of `app`.
const APP_LINK: u32 = 7;

fn workload(name: &str, address: Ipv4Addr) -> anyhow::Result<Workload> {
    Ok(Workload {
        name: name.into(),
        runtime: "example".into(),
        interfaces: vec![Interface {
            name: "eth0".into(),
            index: 2,
            host_index: Some(APP_LINK),
            addresses: vec![(IpAddr::V4(address), 24)],
            ..Interface::default()
        }],
        ..Workload::new(name.parse()?, "node-1".parse()?, name)
    })
}

/// The first segment of a connection from `web` to this port of `app`.
fn syn(port: u16) -> anyhow::Result<Vec<u8>> {
    let packet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4(WEB.octets(), APP.octets(), 64)
        .tcp(40_000 + port, port, 1, 65_000)
        .syn();
    let mut frame = Vec::new();
    packet.write(&mut frame, &[])?;
    Ok(frame)
}

#[allow(clippy::print_stdout, reason = "an example shows what it does")]
fn main() -> anyhow::Result<()> {
    // web may reach app on port 8080, and app is in Protect: nothing else may.
    let mut input = PolicyInput::default();
    for (name, address) in [("web", WEB), ("app", APP)] {
        let workload = workload(name, address)?;
        input.add_service_group(&workload);
        input.workloads.insert(workload.id.clone(), workload);
    }
    input.modes.insert("nv.app".parse()?, Mode::Protect);
    input
        .rules
        .push(rule(1, "nv.web", "nv.app", "tcp/8080", Action::Allow)?);
    let node: NodeId = "node-1".parse()?;
    let image = compile(&input, &node, Revision(1))?.image;

    let mut datapath = SoftwareDatapath::default();
    let config = DatapathConfig {
        unknown: Verdict::Deny,
        failsafe_ports: Vec::new(),
        failsafe_addresses: Vec::new(),
        ..DatapathConfig::default()
    };
    datapath.apply(&image, &config)?;
    datapath.attach(&EndpointSpec {
        ifindex: APP_LINK,
        name: "veth-app".into(),
        workload: Some("app".parse()?),
        mac: None,
        addresses: vec![IpAddr::V4(APP)],
        quarantine: false,
    })?;

    for (port, expected) in [(8080, Verdict::Allow), (9090, Verdict::Deny)] {
        let verdict = datapath.process(APP_LINK, Direction::Ingress, &syn(port)?, 1_000_000_000);
        println!("web -> app tcp/{port}: {verdict}");
        ensure!(verdict == expected, "expected {expected}");
    }
    for event in datapath.poll_events(16)? {
        if let DatapathEvent::Flow(flow) = event {
            let decision = flow.decision;
            println!(
                "flow from {}: {} because of {} {}",
                flow.key.peer, decision.verdict, decision.reason, decision.rule
            );
        }
    }
    let status = datapath.status()?;
    let endpoint = status.endpoints.get(&APP_LINK).context("app is guarded")?;
    println!(
        "counters: {} allowed, {} denied",
        endpoint.ingress.allowed, endpoint.ingress.denied
    );
    Ok(())
}
