//! Nanoseconds per packet of the decision code, over plain maps in memory: what the kernel programs run, without the
//! kernel. Established flows and new ones, at 10, 1,000 and 10,000 rules.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "criterion's macros, and a bench fails by panic"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use etherparse::PacketBuilder;
use nv_benches::figure;
use nv_benches::scenario::{SERVER, Scenario};
use nv_benches::traffic::{BULK_PORT, Ends, UDP_PORT};
use nv_dp::{Datapath, DatapathConfig, EndpointSpec, SoftwareDatapath};
use nv_types::{Direction, Verdict, WorkloadId};

const SERVER_INDEX: u32 = 2;
/// Flows of one measured stretch; the table is emptied in between.
const FLOWS: u16 = 10_000;

fn ends() -> Ends {
    Ends {
        client: "/run/netns/c".into(),
        server: "/run/netns/s".into(),
        client_addr: [10, 221, 7, 2].into(),
        server_addr: [10, 221, 7, 3].into(),
    }
}

/// The server's endpoint under a policy of so many rules.
fn datapath(rules: usize) -> SoftwareDatapath {
    let image = Scenario::new(&ends(), rules).unwrap().compile().unwrap();
    let config = DatapathConfig {
        unknown: Verdict::Deny,
        failsafe_ports: Vec::new(),
        failsafe_addresses: Vec::new(),
        ..DatapathConfig::default()
    };
    let mut datapath = SoftwareDatapath::default();
    datapath.apply(&image, &config).unwrap();
    let endpoint = EndpointSpec {
        ifindex: SERVER_INDEX,
        name: "server".into(),
        workload: Some(WorkloadId::try_new(SERVER).unwrap()),
        mac: None,
        addresses: vec![ends().server_addr.into()],
        quarantine: false,
    };
    datapath.attach(&endpoint).unwrap();
    datapath
}

fn builder() -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    let (client, server) = (ends().client_addr.octets(), ends().server_addr.octets());
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).ipv4(client, server, 64)
}

fn tcp(port: u16, syn: bool, payload: usize) -> Vec<u8> {
    let step = builder().tcp(port, BULK_PORT, 1, 65_000);
    let step = if syn { step.syn() } else { step.ack(1) };
    let mut frame = Vec::new();
    step.write(&mut frame, &vec![0x5a; payload]).unwrap();
    frame
}

fn udp(port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    builder()
        .udp(port, UDP_PORT)
        .write(&mut frame, &[0x5a; 22])
        .unwrap();
    frame
}

fn judge(datapath: &mut SoftwareDatapath, frame: &[u8], now: u64) {
    let verdict = datapath.process(SERVER_INDEX, Direction::Ingress, black_box(frame), now);
    assert_eq!(verdict, Verdict::Allow);
}

/// Judges one new flow a time; tables are emptied outside of the time that counts.
fn new_flows(datapath: &mut SoftwareDatapath, frames: &[Vec<u8>], packets: u64, now: &mut u64) -> Duration {
    let mut spent = Duration::ZERO;
    let mut left = packets;
    while left > 0 {
        let start = Instant::now();
        for frame in frames.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            *now += 1000;
            judge(datapath, frame, *now);
        }
        spent += start.elapsed();
        left = left.saturating_sub(frames.len() as u64);
        // A day later every flow is idle.
        *now += 86_400_000_000_000;
        datapath.advance(*now);
        datapath.sweep(&mut |_| {}).unwrap();
        while !datapath.poll_events(4096).unwrap().is_empty() {}
    }
    spent
}

fn decide(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decide");
    group.throughput(Throughput::Elements(1));
    let new_tcp: Vec<_> = (0..FLOWS).map(|n| tcp(20_000 + n, true, 0)).collect();
    let new_udp: Vec<_> = (0..FLOWS).map(|n| udp(20_000 + n)).collect();
    for rules in [10, 1_000, 10_000] {
        let mut datapath = datapath(rules);
        let mut now = 1_000_000_000;
        group.bench_function(BenchmarkId::new("tcp-established", rules), |bench| {
            judge(&mut datapath, &tcp(1024, true, 0), now);
            let data = tcp(1024, false, 1448);
            bench.iter(|| {
                now += 1000;
                judge(&mut datapath, &data, now);
            });
        });
        group.bench_function(BenchmarkId::new("tcp-new", rules), |bench| {
            bench.iter_custom(|packets| new_flows(&mut datapath, &new_tcp, packets, &mut now));
        });
        group.bench_function(BenchmarkId::new("udp-new", rules), |bench| {
            bench.iter_custom(|packets| new_flows(&mut datapath, &new_udp, packets, &mut now));
        });
    }
    group.finish();
}

fn main() -> anyhow::Result<()> {
    let mut criterion = Criterion::default()
        .output_directory(&figure::criterion_folder())
        .configure_from_args();
    decide(&mut criterion);
    criterion.final_summary();
    // `cargo test` only tries each function once: nothing was measured then.
    if std::env::args().any(|argument| argument == "--bench") {
        figure::write("decide", &figure::from_criterion("decide")?)?;
    }
    Ok(())
}
