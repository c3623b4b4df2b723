//! `program`: nanoseconds of one run of the kernel programs, in the kernel, without traffic around them (`BPF_PROG_TEST_RUN`).
//!
//! One endpoint is guarded under a policy of 1,000 rules; each frame is run many times in a row. What this cannot show is what other
//! work does to the caches; what it does show holds still on a busy machine.

use std::net::{IpAddr, Ipv6Addr};

use anyhow::{Context as _, ensure};
use etherparse::PacketBuilder;
use nix::sched::{CloneFlags, unshare};
use nv_benches::figure::{Figure, median, range, write};
use nv_benches::say;
use nv_benches::scenario::{SERVER, Scenario};
use nv_benches::traffic::{BULK_PORT, Ends, UDP_PORT};
use nv_dp::{Datapath, DatapathConfig, EbpfConfig, EbpfDatapath, EndpointSpec};
use nv_types::{Direction, Verdict, WorkloadId};

/// The loopback interface of a fresh network namespace: nothing passes it but what this bench runs.
const IFINDEX: u32 = 1;
const RULES: usize = 1_000;
const TIMES: u32 = 200_000;
const ROUNDS: usize = 11;

const CLIENT_PORT: u16 = 40_000;
const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3);

fn main() -> anyhow::Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "program loads kernel programs: it needs root"
    );
    unshare(CloneFlags::CLONE_NEWNET).context("cannot make the network namespace of the bench")?;
    let ends = Ends {
        client: "/proc/self/ns/net".into(),
        server: "/proc/self/ns/net".into(),
        client_addr: [10, 221, 7, 2].into(),
        server_addr: [10, 221, 7, 3].into(),
    };
    let pins = format!("/sys/fs/bpf/nv/bench-{}", std::process::id());
    let mut datapath = EbpfDatapath::open(EbpfConfig::new(pins))?;
    let measured = measure(&mut datapath, &ends);
    datapath.purge()?;
    let figures = measured?;
    let path = write("program", &figures)?;
    say(&format!("figures are in {}", path.display()));
    Ok(())
}

fn measure(datapath: &mut EbpfDatapath, ends: &Ends) -> anyhow::Result<Vec<Figure>> {
    let config = DatapathConfig {
        unknown: Verdict::Deny,
        failsafe_ports: Vec::new(),
        failsafe_addresses: Vec::new(),
        ..DatapathConfig::default()
    };
    datapath.apply(&Scenario::new(ends, RULES)?.compile()?, &config)?;
    datapath.attach(&EndpointSpec {
        ifindex: IFINDEX,
        name: "lo".into(),
        workload: Some(WorkloadId::try_new(SERVER)?),
        mac: None,
        addresses: vec![IpAddr::from(ends.server_addr), IpAddr::from(SERVER_V6)],
        quarantine: false,
    })?;
    let frames = [
        (
            "tcp_data",
            Direction::Ingress,
            tcp(ends, false, CLIENT_PORT, 1448)?,
        ),
        ("tcp_ack", Direction::Egress, tcp(ends, true, CLIENT_PORT, 0)?),
        (
            "tcp_syn_ack",
            Direction::Egress,
            as_syn(tcp(ends, true, CLIENT_PORT, 0)?),
        ),
        // An acknowledgement of no known flow: judged, and leaves no trace.
        (
            "tcp_judged",
            Direction::Ingress,
            tcp(ends, false, CLIENT_PORT + 1, 0)?,
        ),
        ("tcp_data_ipv6", Direction::Egress, tcp_v6(1448)?),
        ("udp", Direction::Ingress, udp(ends, UDP_PORT)?),
        ("udp_denied", Direction::Ingress, udp(ends, 5999)?),
    ];
    // The flows are known, and so is what their applications are not: three payloads of each side.
    for _ in 0..4 {
        for (name, direction, frame) in &frames {
            let passes = datapath.run_frame(IFINDEX, *direction, frame)?;
            let denied = name.ends_with("denied") || name.ends_with("ipv6");
            ensure!(passes != denied, "{name}: wrong verdict");
        }
    }
    let mut figures = Vec::new();
    for (name, direction, frame) in &frames {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let (_, time) = datapath.repeat_frame(IFINDEX, *direction, frame, TIMES)?;
            times.push(f64::from(u32::try_from(time.as_nanos())?));
        }
        let (least, most) = range(&times);
        let value = median(&times);
        say(&format!(
            "{name:<12} {value:>5.0} ns (lowest {least:.0}, highest {most:.0})"
        ));
        figures.push(Figure {
            name: format!("{name}_ns"),
            value,
            unit: "ns",
            baseline: None,
            ratio: None,
            runs: times.len(),
        });
    }
    Ok(figures)
}

fn tcp(ends: &Ends, from_server: bool, client_port: u16, payload: usize) -> anyhow::Result<Vec<u8>> {
    let (client, server) = (ends.client_addr.octets(), ends.server_addr.octets());
    let macs = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let step = if from_server {
        macs.ipv4(server, client, 64)
            .tcp(BULK_PORT, client_port, 1, 65_000)
    } else {
        macs.ipv4(client, server, 64)
            .tcp(client_port, BULK_PORT, 1, 65_000)
    };
    let mut frame = Vec::new();
    step.ack(1).write(&mut frame, &vec![0x5a; payload])?;
    Ok(frame)
}

/// The same segment with SYN: the answer to a connection's first one.
fn as_syn(mut segment: Vec<u8>) -> Vec<u8> {
    segment[14 + 20 + 13] |= 0x02;
    segment
}

/// From the server to an address outside, so that no rule is needed: denied, in the same steps as what is allowed.
fn tcp_v6(payload: usize) -> anyhow::Result<Vec<u8>> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv6(SERVER_V6.octets(), [0x20; 16], 64)
        .tcp(BULK_PORT, CLIENT_PORT, 1, 65_000)
        .ack(1)
        .write(&mut frame, &vec![0x5a; payload])?;
    Ok(frame)
}

fn udp(ends: &Ends, port: u16) -> anyhow::Result<Vec<u8>> {
    let (client, server) = (ends.client_addr.octets(), ends.server_addr.octets());
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4(client, server, 64)
        .udp(CLIENT_PORT, port)
        .write(&mut frame, &[0x5a; 22])?;
    Ok(frame)
}
