//! Compile and decide: how long a policy takes to become tables, and a lookup in them against the naive walk.

#![allow(clippy::unwrap_used, missing_docs, reason = "a bench may end")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use nv_policy::reference::evaluate;
use nv_policy::{Book, PolicyInput, Tables, compile, rule};
use nv_types::{
    Action, Application, Direction, Interface, IpProto, Mode, NodeId, Revision, Timestamp, Workload,
    WorkloadState,
};

/// Workloads spread over services and 100 nodes; rules between neighbouring services, ports differing.
fn input(workloads: u32, services: u32, rules: u32) -> PolicyInput {
    let mut input = PolicyInput::default();
    for number in 0..workloads {
        let [_, a, b, c] = number.to_be_bytes();
        let workload = Workload {
            id: format!("w{number}").parse().unwrap(),
            name: format!("w{number}"),
            node: format!("n{}", number % 100).parse().unwrap(),
            runtime: "bench".into(),
            service: format!("s{}", number % services),
            domain: "shop".into(),
            image: "shop/any:1".into(),
            labels: BTreeMap::new(),
            namespace_labels: BTreeMap::new(),
            interfaces: vec![Interface {
                name: "eth0".into(),
                index: 2,
                mac: None,
                host_index: Some(1),
                host_name: None,
                addresses: vec![(std::net::Ipv4Addr::new(10, a, b, c).into(), 8)],
            }],
            published: Vec::new(),
            netns: 0,
            pid: 0,
            host_network: false,
            privileged: false,
            state: WorkloadState::Running,
            created: Timestamp(0),
            started: Timestamp(0),
        };
        input.add_service_group(&workload);
        input
            .modes
            .insert(workload.service_group().unwrap(), Mode::Protect);
        input.workloads.insert(workload.id.clone(), workload);
    }
    for number in 0..rules {
        let from = number % services;
        let to = (from + 1 + number / services) % services;
        let port = 1000 + number % 5000;
        let (from, to) = (format!("nv.s{from}.shop"), format!("nv.s{to}.shop"));
        // Both tiers, so that ids stay in their ranges.
        let id = if number < 9_000 {
            number + 1
        } else {
            number + 10_000
        };
        input
            .rules
            .push(rule(id, &from, &to, &format!("tcp/{port}"), Action::Allow).unwrap());
    }
    input
}

fn benches(c: &mut Criterion) {
    let node: NodeId = "n7".parse().unwrap();
    let mut group = c.benchmark_group("compile");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    for (workloads, services, rules) in [(1_000, 100, 1_000), (10_000, 1_000, 10_000)] {
        let input = input(workloads, services, rules);
        group.bench_function(
            BenchmarkId::from_parameter(format!("{workloads}w_{services}s_{rules}r")),
            |b| {
                b.iter(|| compile(black_box(&input), &node, Revision(1)).unwrap());
            },
        );
    }
    group.finish();

    let input = input(10_000, 1_000, 10_000);
    let compiled = compile(&input, &node, Revision(1)).unwrap();
    let tables = Tables::new(&compiled.image);
    let local = compiled.image.locals[0].workload.clone();
    let peer = "10.0.0.8".parse().unwrap();
    let book = Book::new(&input);
    let (server, client) = (book.workload(&input.workloads[&local]), book.address(peer));
    let mut group = c.benchmark_group("decide_10000_rules");
    group.bench_function("tables", |b| {
        b.iter(|| {
            tables.lookup(
                &local,
                Direction::Ingress,
                black_box(peer),
                IpProto::TCP,
                black_box(1007),
                None,
            )
        });
    });
    group.bench_function("reference", |b| {
        b.iter(|| {
            evaluate(
                &input,
                &client,
                &server,
                (IpProto::TCP, black_box(1007)),
                Application::UNKNOWN,
            )
        });
    });
    group.finish();
}

criterion_group!(policy, benches);
criterion_main!(policy);
