//! The bench of captures: packets without loss, processor time, reading, start, and what the workload feels of it.

mod flood;
mod reading;
mod tool;
mod workload;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::{Parser, Subcommand};
use nix::sched::{CloneFlags, unshare};

use crate::figure::{self, Figure, median, range};
use crate::say;
use crate::side_by_side;
use crate::traffic::Ends;
use tool::{Run, Tool};

/// The filter of the filtered runs: every packet of the flood passes it.
const FILTER: &str = "udp dst port 5204 and (src net 10.221.7.0/24 or port 443)";
/// What `cpu_100kpps` offers.
const CALM: f64 = 100_000.0;

/// Captures of nv beside dumpcap and tshark.
#[derive(Debug, Parser)]
#[command(name = "capture")]
struct Options {
    /// Rounds; every tool is measured once in each.
    #[arg(long, env = "NV_BENCH_ROUNDS", default_value_t = 5)]
    rounds: usize,
    /// Seconds of one measurement.
    #[arg(long, env = "NV_BENCH_SECONDS", default_value_t = 1.5)]
    seconds: f64,
    /// Megabytes of the capture that is read.
    #[arg(long, default_value_t = 1024)]
    megabytes: u64,
    /// Parts: loss, cpu, read, start, workload.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// The capture that is measured, in a process of its own; ends with its standard input.
    #[command(hide = true)]
    Capture {
        folder: PathBuf,
        #[arg(default_value = "")]
        filter: String,
    },
}

/// Runs the bench with the arguments of the process.
///
/// # Errors
/// When it is not root, a tool is missing, or a measurement fails.
pub fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if let Some(Part::Capture { folder, filter }) = &options.part {
        return tool::capture(folder, filter);
    }
    ensure!(
        nix::unistd::geteuid().is_root(),
        "capture makes network namespaces: it needs root"
    );
    ensure!(
        options.rounds > 0 && options.seconds > 0.0,
        "rounds and seconds must be above zero"
    );
    unshare(CloneFlags::CLONE_NEWNET).context("cannot make the network namespace of the bench")?;
    let lab = side_by_side::lab()?;
    let (_, _, ends) = side_by_side::hosts(&lab)?;
    let time = Duration::from_secs_f64(options.seconds);
    let wanted = |part: &str| options.only.is_empty() || options.only.iter().any(|only| only == part);
    let mut figures = Vec::new();
    if wanted("loss") {
        figures.extend(loss(&ends, options.rounds, time)?);
    }
    if wanted("cpu") {
        figures.push(cpu(&ends, options.rounds, time)?);
    }
    if wanted("start") {
        figures.push(workload::start_ms(&ends, options.rounds * 4)?);
    }
    if wanted("workload") {
        figures.push(workload::throughput_ratio(&ends, options.rounds, time)?);
    }
    if wanted("read") {
        figures.extend(reading::figures(options.rounds, options.megabytes << 20)?);
    }
    for figure in &figures {
        let beside = figure.baseline.map_or_else(String::new, |baseline| {
            format!(" beside {baseline:.3}, ratio {:.3}", figure.ratio.unwrap_or(0.0))
        });
        say(&format!(
            "{:<28} {:>14.3} {}{beside}",
            figure.name, figure.value, figure.unit
        ));
    }
    let path = figure::write("capture", &figures)?;
    say(&format!("figures are in {}", path.display()));
    Ok(())
}

/// A figure of medians, with the other tool's beside it.
fn beside(name: &str, unit: &'static str, ours: &[f64], theirs: &[f64]) -> Figure {
    let (value, baseline) = (median(ours), median(theirs));
    Figure {
        name: name.into(),
        value,
        unit,
        baseline: (!theirs.is_empty()).then_some(baseline),
        ratio: (baseline > 0.0).then(|| value / baseline),
        runs: ours.len(),
    }
}

fn spread(name: &str, values: &[f64]) {
    let (least, most) = range(values);
    say(&format!(
        "  {name}: median {:.4}, lowest {least:.4}, highest {most:.4}",
        median(values)
    ));
}

/// Packets a second and core that are captured without loss, of every packet and with a filter.
fn loss(ends: &Ends, rounds: usize, time: Duration) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (suffix, filter) in [("", ""), ("_filter", FILTER)] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let (mut our_rate, mut their_rate) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            for turn in 0..2 {
                let tool = if (round + turn) % 2 == 0 {
                    Tool::Nv
                } else {
                    Tool::Dumpcap
                };
                let run = without_loss(ends, tool, filter, time)?;
                say(&format!(
                    "{tool:?}{suffix}: {:.0} packets/s without loss at {:.1} % of a core",
                    run.rate(),
                    run.cores() * 100.0
                ));
                let (per_core, rates) = match tool {
                    Tool::Nv => (&mut ours, &mut our_rate),
                    Tool::Dumpcap => (&mut theirs, &mut their_rate),
                };
                per_core.push(run.rate() / run.cores());
                rates.push(run.rate());
            }
        }
        figures.push(beside(
            &format!("pps_no_loss{suffix}"),
            "packets/s of a core",
            &ours,
            &theirs,
        ));
        figures.push(beside(
            &format!("pps_no_loss{suffix}_dumpcap"),
            "packets/s of a core",
            &theirs,
            &[],
        ));
        figures.push(beside(
            &format!("offered_no_loss{suffix}"),
            "packets/s",
            &our_rate,
            &their_rate,
        ));
    }
    Ok(figures)
}

/// The highest rate that the tool keeps up with: the flood's own limit, or found by halving below it.
fn without_loss(ends: &Ends, tool: Tool, filter: &str, time: Duration) -> anyhow::Result<Run> {
    let run = tool::run(ends, tool, filter, f64::INFINITY, time)?;
    if run.lost() == 0 {
        return Ok(run);
    }
    let (mut low, mut high) = (0.0, run.rate());
    let mut best = None;
    for _ in 0..6 {
        let rate = f64::midpoint(low, high);
        let run = tool::run(ends, tool, filter, rate, time)?;
        if run.lost() == 0 {
            low = rate;
            best = Some(run);
        } else {
            high = rate;
        }
    }
    best.with_context(|| format!("{tool:?} loses packets at every rate"))
}

/// Processor time at a rate that both bear.
fn cpu(ends: &Ends, rounds: usize, time: Duration) -> anyhow::Result<Figure> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        for turn in 0..2 {
            if (round + turn) % 2 == 0 {
                ours.push(tool::run(ends, Tool::Nv, "", CALM, time)?.cores() * 100.0);
            } else {
                theirs.push(tool::run(ends, Tool::Dumpcap, "", CALM, time)?.cores() * 100.0);
            }
        }
    }
    spread("nv at 100,000 packets/s", &ours);
    spread("dumpcap at 100,000 packets/s", &theirs);
    Ok(beside("cpu_100kpps", "% of a core", &ours, &theirs))
}
