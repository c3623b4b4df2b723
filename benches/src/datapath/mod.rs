//! The datapath bench: every figure that the datapath is held to, in one run and one file.

mod forwarder;
mod memory;
mod program;
mod rounds;
mod sys;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Parser;
use nix::sched::{CloneFlags, unshare};

use crate::figure::{self, Figure};

/// Traffic, latency, numbers of rules, other ways to do the same, single runs of the kernel programs, and memory.
#[derive(Debug, Parser)]
#[command(name = "datapath")]
struct Options {
    /// Rounds; every policy is measured once in each.
    #[arg(long, env = "NV_BENCH_ROUNDS", default_value_t = 7)]
    rounds: usize,
    /// Seconds of one measurement.
    #[arg(long, env = "NV_BENCH_SECONDS", default_value_t = 1.0)]
    seconds: f64,
    /// Only these parts.
    #[arg(long, value_delimiter = ',', default_values_t = [Part::Traffic, Part::Program, Part::Memory])]
    only: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Between two namespaces.
    Traffic,
    /// Single runs of the kernel programs.
    Program,
    /// Of a full table of flows.
    Memory,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Traffic => "traffic",
            Self::Program => "program",
            Self::Memory => "memory",
        })
    }
}

/// Runs the bench with the arguments of the process.
///
/// # Errors
/// When it is not root, or a measurement fails.
pub fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    ensure!(
        nix::unistd::geteuid().is_root(),
        "datapath makes network namespaces and loads kernel programs: it needs root"
    );
    ensure!(
        options.rounds > 0 && options.seconds > 0.0,
        "rounds and seconds must be above zero"
    );
    unshare(CloneFlags::CLONE_NEWNET).context("cannot make the network namespace of the bench")?;
    let mut figures: Vec<Figure> = Vec::new();
    if options.only.contains(&Part::Program) {
        figures.extend(program::measure(options.rounds)?);
    }
    if options.only.contains(&Part::Memory) {
        figures.extend(memory::measure()?);
    }
    if options.only.contains(&Part::Traffic) {
        figures.extend(rounds::measure(
            options.rounds,
            Duration::from_secs_f64(options.seconds),
        )?);
    }
    for figure in &figures {
        let ratio = figure
            .ratio
            .map_or(String::new(), |ratio| format!("  ratio {ratio:.3}"));
        let baseline = figure
            .baseline
            .map_or(String::new(), |baseline| format!("  baseline {baseline:.2}"));
        crate::say(&format!(
            "{:<24} {:>14.2} {}{baseline}{ratio}",
            figure.name, figure.value, figure.unit
        ));
    }
    let path = figure::write("datapath", &figures)?;
    crate::say(&format!("figures are in {}", path.display()));
    Ok(())
}

/// A figure with what it is compared to.
fn against(name: &str, unit: &'static str, value: f64, baseline: f64, runs: usize) -> Figure {
    Figure {
        name: name.into(),
        value,
        unit,
        baseline: Some(baseline),
        ratio: (baseline > 0.0).then(|| value / baseline),
        runs,
    }
}
