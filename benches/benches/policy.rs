//! The policy engine at the size of large clusters: full compile, deltas, lookups, entries, memory. README.md has the method.

#![allow(clippy::unwrap_used, missing_docs, reason = "a bench may end")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::Criterion;
use nv_benches::cluster::{self, Size};
use nv_benches::figure::{self, Figure};
use nv_benches::{growth, say};
use nv_policy::reference::evaluate;
use nv_policy::{Book, Change, Compiler, PolicyInput, Tables};
use nv_types::{Application, Direction, NodeId, PolicyImage, Revision};

const SAMPLES: usize = 10;

fn node() -> NodeId {
    cluster::NODE.parse().unwrap()
}

fn compile(input: &PolicyInput) -> PolicyImage {
    Compiler::new(input, &node(), Revision(1)).image()
}

fn full(criterion: &mut Criterion, name: &str, input: &PolicyInput) {
    let mut group = criterion.benchmark_group("policy");
    group
        .sample_size(SAMPLES)
        .measurement_time(Duration::from_secs(4));
    group.bench_function(name, |bench| bench.iter(|| compile(black_box(input))));
    group.finish();
}

/// One rule between two services, its port changed to and fro.
fn delta_rule(criterion: &mut Criterion, input: &mut PolicyInput) {
    let at = input.rules.len() / 2 + 1;
    let ports = ["tcp/7001".parse().unwrap(), "tcp/7002".parse().unwrap()];
    let mut compiler = Compiler::new(input, &node(), Revision(1));
    let mut group = criterion.benchmark_group("policy");
    let mut turn = 0;
    group.bench_function("delta_rule_100k", |bench| {
        bench.iter(|| {
            turn += 1;
            input.rules[at].ports.clone_from(&ports[turn % 2]);
            let change = [Change::Rule(input.rules[at].id)];
            let delta = compiler.update(input, &change, Revision(2));
            assert!(!delta.is_empty());
            delta
        });
    });
    group.finish();
}

/// One more workload of a service that has some; that it goes again is not measured.
fn delta_workload(criterion: &mut Criterion, input: &mut PolicyInput, size: Size) {
    let mut compiler = Compiler::new(input, &node(), Revision(1));
    let workload = cluster::workload(size.workloads, size.services).unwrap();
    let change = [Change::Workload(workload.id.clone())];
    let mut group = criterion.benchmark_group("policy");
    group.bench_function("delta_workload_100k", |bench| {
        bench.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            for _ in 0..rounds {
                input.workloads.insert(workload.id.clone(), workload.clone());
                let begun = Instant::now();
                let delta = black_box(compiler.update(input, &change, Revision(2)));
                spent += begun.elapsed();
                assert_eq!(delta.put_locals.len(), 1);
                input.workloads.remove(&workload.id);
                compiler.update(input, &change, Revision(3));
            }
            spent
        });
    });
    group.finish();
}

fn lookups(criterion: &mut Criterion, input: &PolicyInput, image: &PolicyImage) {
    let flows = cluster::flows(input, 256).unwrap();
    let tables = Tables::new(image);
    let book = Book::new(input);
    let parties: Vec<_> = flows
        .iter()
        .take(64)
        .map(|flow| (book.workload(&flow.client), book.workload(&flow.server), flow))
        .collect();
    let ask = |flow: &cluster::Flow| {
        tables.lookup(
            &flow.server.id,
            Direction::Ingress,
            flow.address,
            flow.proto,
            flow.port,
            None,
        )
    };
    for (client, server, flow) in &parties {
        if client.workload != server.workload {
            let (expected, _) = evaluate(
                input,
                client,
                server,
                (flow.proto, flow.port),
                Application::UNKNOWN,
            );
            assert_eq!(ask(flow).unwrap().decision(), Some(expected));
        }
    }
    let mut group = criterion.benchmark_group("policy");
    let mut turn = 0;
    group.bench_function("lookup", |bench| {
        bench.iter(|| {
            turn = (turn + 1) % flows.len();
            ask(black_box(&flows[turn]))
        });
    });
    group.bench_function("reference_walk", |bench| {
        bench.iter(|| {
            turn = (turn + 1) % parties.len();
            let (client, server, flow) = black_box(&parties[turn]);
            evaluate(
                input,
                client,
                server,
                (flow.proto, flow.port),
                Application::UNKNOWN,
            )
        });
    });
    group.finish();
}

fn entries(image: &PolicyImage) -> u64 {
    let chains: usize = image.decisions.iter().map(|chain| chain.0.len()).sum();
    (image.addresses.len() + image.locals.len() + image.pairs.len() + image.ports.len() + chains) as u64
}

/// Peak resident memory of this process, MiB.
fn peak_rss() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024.0
}

fn figures(entries: u64, lines: u64, peaks: [f64; 2]) -> Vec<Figure> {
    let mut figures: Vec<Figure> = figure::from_criterion("policy").unwrap();
    // What earlier versions of this bench left there.
    figures.retain(|figure| !figure.name.starts_with("growth"));
    let plain = |name: &str, value: f64, unit, baseline: Option<f64>, ratio| Figure {
        name: name.to_owned(),
        value,
        unit,
        baseline,
        ratio,
        runs: 1,
    };
    for figure in &mut figures {
        let (unit, scale) = match figure.name.as_str() {
            name if name.starts_with("full_compile") => ("ms", 1e6),
            name if name.starts_with("delta") => ("us", 1e3),
            _ => ("ns", 1.0),
        };
        (figure.unit, figure.value) = (unit, figure.value / scale);
        if unit == "ms" {
            figure.runs = SAMPLES;
        }
    }
    let ratio = lines as f64 / entries as f64;
    figures.push(plain(
        "entries_ratio_100k",
        entries as f64,
        "entries",
        Some(lines as f64),
        Some(ratio),
    ));
    figures.push(plain("peak_rss_10k", peaks[0], "MiB", None, None));
    figures.push(plain("peak_rss_100k", peaks[1], "MiB", None, None));
    figures
}

fn main() -> anyhow::Result<()> {
    // One compile of one size, for tools that count instructions.
    if let Ok(part) = std::env::var("NV_BENCH_PART") {
        compile(&cluster::policy(Size::part(part.parse()?))?);
        return Ok(());
    }
    let measured = std::env::args().any(|argument| argument == "--bench");
    let mut criterion = Criterion::default()
        .output_directory(&figure::criterion_folder())
        .configure_from_args();
    if !measured {
        // `cargo test` only tries that everything runs.
        let mut input = cluster::policy(Size::part(100))?;
        full(&mut criterion, "try", &input);
        lookups(&mut criterion, &input, &compile(&input));
        delta_rule(&mut criterion, &mut input);
        delta_workload(&mut criterion, &mut input, Size::part(100));
        return Ok(());
    }
    let small = cluster::policy(Size::TEN_THOUSAND)?;
    compile(&small);
    let peak_small = peak_rss();
    full(&mut criterion, "full_compile_10k", &small);
    drop(small);
    let input = cluster::policy(Size::HUNDRED_THOUSAND)?;
    let image = compile(&input);
    let peak_large = peak_rss();
    full(&mut criterion, "full_compile_100k", &input);
    let part = |part: u32| cluster::policy(Size::part(part));
    let [one, two, three, _] = growth::PARTS;
    let inputs = [part(one)?, part(two)?, part(three)?, input];
    let grown = growth::rounds(&inputs, |input| {
        black_box(compile(black_box(input)));
    });
    let [_, _, _, mut input] = inputs;
    delta_rule(&mut criterion, &mut input);
    delta_workload(&mut criterion, &mut input, Size::HUNDRED_THOUSAND);
    let image = Compiler::new(&input, &node(), image.revision).image();
    lookups(&mut criterion, &input, &image);
    criterion.final_summary();
    let (own, lines) = (entries(&image), cluster::lines_by_address(&input));
    say(&format!(
        "{own} entries ({} addresses, {} pairs, {} ports, {} chains) where one line for each pair of addresses would be {lines}",
        image.addresses.len(),
        image.pairs.len(),
        image.ports.len(),
        image.decisions.len()
    ));
    let mut figures = figures(own, lines, [peak_small, peak_large]);
    figures.extend(grown);
    for figure in &figures {
        let ratio = figure
            .ratio
            .map_or_else(String::new, |ratio| format!("  x{ratio:.2}"));
        say(&format!(
            "{:24} {:>14.2} {}{ratio}",
            figure.name, figure.value, figure.unit
        ));
    }
    let path = figure::write("policy", &figures)?;
    say(&format!("figures are in {}", path.display()));
    let picture = growth::picture(&figures);
    let path = growth::write(&picture)?;
    say(&format!("the growth curve is in {}", path.display()));
    Ok(())
}
