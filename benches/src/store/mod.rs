//! The bench of the store: the embedded one beside etcd on the same disk, a controller with many agents, an agent's cold start.

mod agents;
mod bed;
mod cold;
mod etcd;
mod fanout;
mod put;

use anyhow::ensure;
use clap::Parser;

use crate::figure::{self, Figure, median};
use crate::say;

/// The store of nv beside etcd, and what agents feel of it.
#[derive(Debug, Parser)]
#[command(name = "store")]
struct Options {
    /// Rounds; both stores are measured once in each.
    #[arg(long, env = "NV_BENCH_ROUNDS", default_value_t = 7)]
    rounds: usize,
    /// Agents of the controller.
    #[arg(long, default_value_t = 1000)]
    agents: usize,
    /// Workloads of the snapshot that an agent starts with.
    #[arg(long, default_value_t = 50_000)]
    workloads: u32,
    /// Parts: put, fanout, agents, cold.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// Runs the bench with the arguments of the process.
///
/// # Errors
/// When etcd is missing, a binary has not been built, or a measurement fails.
pub fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    ensure!(options.rounds > 0, "rounds must be above zero");
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let wanted = |part: &str| options.only.is_empty() || options.only.iter().any(|only| only == part);
    let mut figures = Vec::new();
    if wanted("put") {
        figures.extend(runtime.block_on(put::figures(options.rounds))?);
    }
    if wanted("fanout") {
        figures.extend(runtime.block_on(fanout::figures(options.rounds * 3))?);
    }
    if wanted("agents") {
        figures.extend(agents::figures(&runtime, options.agents, options.rounds * 3)?);
    }
    if wanted("cold") {
        figures.push(cold::figure(options.workloads, options.rounds)?);
    }
    for figure in &figures {
        let beside = figure.baseline.map_or_else(String::new, |baseline| {
            format!(" beside {baseline:.3}, ratio {:.3}", figure.ratio.unwrap_or(0.0))
        });
        say(&format!(
            "{:<22} {:>12.3} {}{beside}",
            figure.name, figure.value, figure.unit
        ));
    }
    say(&format!(
        "figures are in {}",
        figure::write("store", &figures)?.display()
    ));
    Ok(())
}

/// A figure by itself.
fn alone(name: &str, unit: &'static str, value: f64, runs: usize) -> Figure {
    Figure {
        name: name.into(),
        value,
        unit,
        baseline: None,
        ratio: None,
        runs,
    }
}

/// A figure of medians beside etcd's, and etcd's as a figure of its own.
fn beside_etcd(name: &str, etcd: &str, unit: &'static str, ours: &[f64], theirs: &[f64]) -> [Figure; 2] {
    let (value, baseline) = (median(ours), median(theirs));
    let ours = Figure {
        baseline: Some(baseline),
        ratio: Some(value / baseline),
        ..alone(name, unit, value, ours.len())
    };
    [ours, alone(etcd, unit, baseline, theirs.len())]
}
