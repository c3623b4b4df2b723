//! The side-by-side bench: the same traffic under several policies, interleaved.

mod nv;
mod report;
pub(crate) mod variant;

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Parser;
use nix::sched::{CloneFlags, unshare};
use nv_lab::{Host, HostSpec, Lab};

use crate::figure;
use crate::traffic::{self, Ends, Sample};
use report::Results;
use variant::{Bed, Variant};

/// TCP throughput, TCP connection rate and UDP packets per second between two namespaces: without policy, with nv, with
/// nftables.
#[derive(Debug, Parser)]
#[command(name = "side-by-side")]
struct Options {
    /// Rounds; every variant is measured once in each.
    #[arg(long, env = "NV_BENCH_ROUNDS", default_value_t = 7)]
    rounds: usize,
    /// Seconds of one measurement.
    #[arg(long, env = "NV_BENCH_SECONDS", default_value_t = 1.0)]
    seconds: f64,
    /// Only policies whose name contains this, as in `nv` or `nftables, 10 rules`; may be given again.
    #[arg(long)]
    only: Vec<String>,
    /// Only measurements whose name contains this, as in `udp`; may be given again.
    #[arg(long)]
    measure: Vec<String>,
    /// Numbers of rules.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 1_000, 10_000])]
    rules: Vec<usize>,
}

/// A measurement.
struct Measure {
    name: &'static str,
    unit: &'static str,
    /// What the rate is divided by to give `unit`.
    scale: f64,
    run: fn(&Ends, Duration) -> anyhow::Result<Sample>,
}

const MEASURES: [Measure; 3] = [
    Measure {
        name: "tcp_throughput",
        unit: "Gbit/s",
        scale: 1e9,
        run: traffic::tcp_throughput,
    },
    Measure {
        name: "tcp_connect_rate",
        unit: "connections/s",
        scale: 1.0,
        run: traffic::tcp_connect_rate,
    },
    Measure {
        name: "udp64_pps",
        unit: "packets/s",
        scale: 1.0,
        run: traffic::udp_rate,
    },
];

/// Runs the bench with the arguments of the process.
///
/// # Errors
/// When it is not root, or a measurement fails.
pub fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    ensure!(
        nix::unistd::geteuid().is_root(),
        "side-by-side makes network namespaces: it needs root"
    );
    ensure!(
        options.rounds > 0 && options.seconds > 0.0,
        "rounds and seconds must be above zero"
    );
    // The bridge stands in a namespace of our own, the "host" of this bench: firewall rules of the real host, such as
    // Docker's, are not measured along.
    unshare(CloneFlags::CLONE_NEWNET).context("cannot make the network namespace of the bench")?;
    let lab = lab()?;
    let (client, server, ends) = hosts(&lab)?;
    let variants: Vec<_> = Variant::all(&options.rules)
        .into_iter()
        .filter(|variant| *variant == Variant::None || wanted(&options.only, &variant.to_string()))
        .collect();
    let mut bed = Bed::new(ends, client, server, &variants)?;
    let results = run(&options, &variants, &mut bed);
    bed.close()?;
    let results = results?;
    results.print();
    let path = figure::write("side-by-side", &results.figures())?;
    crate::say(&format!("figures are in {}", path.display()));
    Ok(())
}

/// Name of the bridge that the hosts are on.
pub(crate) const BRIDGE: &str = "nvbench";

/// Two hosts on a bridge in the caller's namespace.
pub(crate) fn lab() -> anyhow::Result<Lab> {
    set("net/bridge/bridge-nf-call-iptables", "0");
    let prefix = format!("nvb{}", std::process::id());
    let names = [format!("{prefix}-c"), format!("{prefix}-s")];
    let lab = Lab::create(
        BRIDGE,
        &[HostSpec::new(&names[0], 7, 2), HostSpec::new(&names[1], 7, 3)],
    )?;
    for host in lab.hosts() {
        host.run(quiet)?;
    }
    Ok(lab)
}

/// Client, server, and both as ends of traffic.
pub(crate) fn hosts(lab: &Lab) -> anyhow::Result<(&Host, &Host, Ends)> {
    let [client, server] = lab.hosts() else {
        anyhow::bail!("the lab has two hosts");
    };
    let ends = Ends {
        client: client.path(),
        server: server.path(),
        client_addr: client.spec().v4,
        server_addr: server.spec().v4,
    };
    Ok((client, server, ends))
}

fn run(options: &Options, variants: &[Variant], bed: &mut Bed) -> anyhow::Result<Results> {
    let time = Duration::from_secs_f64(options.seconds);
    let measures: Vec<_> = MEASURES
        .iter()
        .filter(|measure| wanted(&options.measure, measure.name))
        .collect();
    let mut results = Results::default();
    for round in 0..options.rounds {
        for turn in 0..variants.len() {
            // Each round begins with another variant, so that none is always measured after the same one.
            let Some(variant) = variants.get((turn + round) % variants.len()) else {
                continue;
            };
            bed.enter(*variant)
                .with_context(|| format!("cannot set up '{variant}'"))?;
            for measure in &measures {
                let sample = (measure.run)(bed.ends(), time)
                    .with_context(|| format!("{} with '{variant}', round {}", measure.name, round + 1))?;
                results.add(measure, *variant, sample);
            }
        }
        crate::say(&format!("round {} of {}", round + 1, options.rounds));
    }
    Ok(results)
}

fn wanted(words: &[String], name: &str) -> bool {
    words.is_empty() || words.iter().any(|word| name.contains(word.as_str()))
}

/// Settings of both ends: a refused connection is told soon, and there are ports enough.
fn quiet() {
    set("net/ipv4/tcp_syn_retries", "1");
    set("net/ipv4/ip_local_port_range", "33000 65000");
}

/// Sets a kernel parameter of this thread's network namespace, if the kernel has it.
fn set(name: &str, value: &str) {
    let path = format!("/proc/sys/{name}");
    if fs::exists(&path).unwrap_or(false)
        && let Err(error) = fs::write(&path, value)
    {
        crate::say(&format!("cannot set {name}: {error}"));
    }
}
