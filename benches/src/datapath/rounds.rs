//! Traffic between two namespaces under several policies, interleaved by rounds as `side-by-side` does it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use nv_lab::Host;

use super::against;
use super::forwarder::Forwarder;
use crate::figure::{Figure, median};
use crate::side_by_side::variant::{Bed, Variant};
use crate::side_by_side::{BRIDGE, hosts, lab};
use crate::traffic::{self, Ends};

const USUAL: Variant = Variant::Nv(1000);
const FEW: Variant = Variant::Nv(10);
const MANY: Variant = Variant::Nv(100_000);
const LINEAR: Variant = Variant::Nftables(1000);
const MAPS: Variant = Variant::NftablesMaps(1000);
const FLOWS: usize = 10_000;

/// A number that is taken in each round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Point {
    /// Gigabits a second.
    Throughput,
    /// Processor seconds of this process a gigabit.
    Cpu,
    Connects,
    OneFlow,
    ManyFlows,
    /// Microseconds.
    Median,
    Tail,
}

/// Whose number it is: a policy, or the forwarder.
type Whose = Option<Variant>;

#[derive(Default)]
struct Samples(BTreeMap<(Point, Whose), Vec<f64>>);

impl Samples {
    fn add(&mut self, point: Point, whose: Whose, value: f64) {
        self.0.entry((point, whose)).or_default().push(value);
    }

    fn of(&self, point: Point, whose: Whose) -> f64 {
        median(self.0.get(&(point, whose)).map(Vec::as_slice).unwrap_or_default())
    }
}

pub(super) fn measure(rounds: usize, time: Duration) -> anyhow::Result<Vec<Figure>> {
    let lab = lab()?;
    let (client, server, ends) = hosts(&lab)?;
    let variants = [Variant::None, USUAL, FEW, MANY, LINEAR, MAPS];
    let mut bed = Bed::new(ends, client, server, &variants)?;
    let mut samples = Samples::default();
    let measured = (0..rounds).try_for_each(|round| {
        for turn in 0..=variants.len() {
            // Each round begins with another one, so that none is always measured after the same.
            let place = (turn + round) % (variants.len() + 1);
            match variants.get(place) {
                Some(variant) => policy(&mut bed, *variant, time, &mut samples)
                    .with_context(|| format!("'{variant}', round {}", round + 1))?,
                None => forward(&mut bed, server, time, &mut samples)
                    .with_context(|| format!("userspace forwarder, round {}", round + 1))?,
            }
        }
        crate::say(&format!("round {} of {rounds}", round + 1));
        Ok(())
    });
    bed.close()?;
    measured.map(|()| figures(&samples, rounds))
}

fn policy(bed: &mut Bed, variant: Variant, time: Duration, samples: &mut Samples) -> anyhow::Result<()> {
    bed.enter(variant)?;
    let ends = bed.ends();
    let whose = Some(variant);
    samples.add(Point::Connects, whose, traffic::tcp_byte_rate(ends, time)?.rate);
    if matches!(variant, Variant::Nftables(_) | Variant::NftablesMaps(_)) {
        return Ok(());
    }
    throughput(ends, whose, time, samples)?;
    samples.add(Point::OneFlow, whose, traffic::udp_rate(ends, time)?.rate);
    if matches!(variant, Variant::None | USUAL) {
        let many = traffic::udp_rate_of(ends, time, FLOWS)?;
        samples.add(Point::ManyFlows, whose, many.rate);
        let times = traffic::http_latency(ends, time)?;
        let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
        samples.add(Point::Median, whose, at(50));
        samples.add(Point::Tail, whose, at(99));
    }
    Ok(())
}

fn forward(bed: &mut Bed, server: &Host, time: Duration, samples: &mut Samples) -> anyhow::Result<()> {
    bed.enter(Variant::None)?;
    let forwarder = Forwarder::start(BRIDGE, server)?;
    let done = throughput(bed.ends(), None, time, samples);
    forwarder.stop()?;
    done
}

fn throughput(ends: &Ends, whose: Whose, time: Duration, samples: &mut Samples) -> anyhow::Result<()> {
    let before = processor()?;
    let rate = traffic::tcp_throughput(ends, time)?.rate / 1e9;
    let used = processor()? - before;
    samples.add(Point::Throughput, whose, rate);
    // The warm-up is a fifth of the time and has traffic, too.
    samples.add(Point::Cpu, whose, used / (rate * time.as_secs_f64() * 1.2));
    Ok(())
}

/// Processor seconds of all threads of this process, traffic, enforcement and forwarding alike.
fn processor() -> anyhow::Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    #[allow(
        clippy::cast_precision_loss,
        reason = "microseconds of minutes stay far below 2^52"
    )]
    Ok(micros as f64 / 1e6)
}

fn figures(samples: &Samples, rounds: usize) -> Vec<Figure> {
    let plain = |name, unit, point| {
        let (value, baseline) = (
            samples.of(point, Some(USUAL)),
            samples.of(point, Some(Variant::None)),
        );
        against(name, unit, value, baseline, rounds)
    };
    let mut figures = vec![
        plain("tcp_throughput", "Gbit/s", Point::Throughput),
        plain("tcp_connect_rate", "connections/s", Point::Connects),
        plain("udp64_pps_1_flow", "packets/s", Point::OneFlow),
        plain("udp64_pps_10k_flows", "packets/s", Point::ManyFlows),
        plain("http_p50", "us", Point::Median),
        plain("http_p99", "us", Point::Tail),
    ];
    // The measurement that suffers most from ten thousand times the rules.
    let worst = [Point::Throughput, Point::Connects, Point::OneFlow]
        .into_iter()
        .map(|point| samples.of(point, Some(MANY)) / samples.of(point, Some(FEW)))
        .fold(f64::INFINITY, f64::min);
    figures.push(against("rules_10_vs_100k", "of 10 rules", worst, 1.0, rounds));
    let connects = samples.of(Point::Connects, Some(USUAL));
    for (name, whose) in [("nftables_linear", LINEAR), ("nftables_maps", MAPS)] {
        let baseline = samples.of(Point::Connects, Some(whose));
        figures.push(against(name, "connections/s", connects, baseline, rounds));
    }
    let (ours, theirs) = (
        samples.of(Point::Throughput, Some(USUAL)),
        samples.of(Point::Throughput, None),
    );
    figures.push(against("userspace_forwarder", "Gbit/s", ours, theirs, rounds));
    // What each adds to the bare way.
    let bare = samples.of(Point::Cpu, Some(Variant::None));
    let added = |whose| ((samples.of(Point::Cpu, whose) - bare) * 1e3).max(0.0);
    figures.push(against(
        "userspace_forwarder_cpu",
        "ms of processor a gigabit",
        added(Some(USUAL)),
        added(None),
        rounds,
    ));
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_is_there_and_compares_medians() {
        let mut samples = Samples::default();
        for value in [1.0, 3.0, 2.0] {
            for point in [
                Point::Throughput,
                Point::Cpu,
                Point::Connects,
                Point::OneFlow,
                Point::ManyFlows,
                Point::Median,
                Point::Tail,
            ] {
                for (whose, factor) in [
                    (Some(Variant::None), 10.0),
                    (Some(USUAL), 9.0),
                    (Some(FEW), 9.0),
                    (Some(MANY), 8.1),
                    (Some(LINEAR), 4.5),
                    (Some(MAPS), 9.0),
                    (None, 1.0),
                ] {
                    samples.add(point, whose, value * factor);
                }
            }
        }
        let figures = figures(&samples, 3);
        let ratio = |name: &str| {
            let figure = figures.iter().find(|figure| figure.name == name).unwrap();
            (figure.ratio.unwrap_or_default() * 100.0).round()
        };
        for (name, expected) in [
            ("tcp_throughput", 90.0),
            ("udp64_pps_10k_flows", 90.0),
            ("http_p99", 90.0),
            ("rules_10_vs_100k", 90.0),
            ("nftables_linear", 200.0),
            ("nftables_maps", 100.0),
            ("userspace_forwarder", 900.0),
        ] {
            assert_eq!(ratio(name), expected, "{name}");
        }
    }
}
