//! Medians, ratios, the table and the figures.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets};

use super::{MEASURES, Measure, Variant};
use crate::figure::{Figure, median, range};
use crate::traffic::Sample;

/// Every sample, by measurement and variant, in the order of the rounds.
#[derive(Debug, Default)]
pub(super) struct Results {
    samples: BTreeMap<(&'static str, Variant), Vec<Sample>>,
}

/// One line of the table.
struct Line {
    variant: Variant,
    runs: usize,
    value: f64,
    low: f64,
    high: f64,
    /// Median over median of no policy.
    ratio: f64,
    /// Median of the ratios to no policy in the same round.
    paired: f64,
    /// As `ratio`, per second of processor time.
    cpu: f64,
}

impl Results {
    pub(super) fn add(&mut self, measure: &Measure, variant: Variant, sample: Sample) {
        let scaled = Sample {
            rate: sample.rate / measure.scale,
            per_cpu: sample.per_cpu / measure.scale,
        };
        self.samples
            .entry((measure.name, variant))
            .or_default()
            .push(scaled);
    }

    fn lines(&self, measure: &Measure) -> Vec<Line> {
        let none = self
            .samples
            .get(&(measure.name, Variant::None))
            .map(Vec::as_slice)
            .unwrap_or_default();
        let rates = |samples: &[Sample]| samples.iter().map(|sample| sample.rate).collect::<Vec<_>>();
        let cpus = |samples: &[Sample]| samples.iter().map(|sample| sample.per_cpu).collect::<Vec<_>>();
        let of = self.samples.iter().filter(|((name, _), _)| *name == measure.name);
        of.map(|((_, variant), samples)| {
            let pairs: Vec<_> = samples
                .iter()
                .zip(none)
                .map(|(with, without)| with.rate / without.rate)
                .collect();
            let (low, high) = range(&rates(samples));
            let value = median(&rates(samples));
            Line {
                variant: *variant,
                runs: samples.len(),
                value,
                low,
                high,
                ratio: value / median(&rates(none)),
                paired: median(&pairs),
                cpu: median(&cpus(samples)) / median(&cpus(none)),
            }
        })
        .collect()
    }

    pub(super) fn print(&self) {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header([
            "measurement",
            "policy",
            "median",
            "lowest",
            "highest",
            "ratio",
            "by round",
            "per cpu",
        ]);
        for measure in &MEASURES {
            for line in self.lines(measure) {
                let number = |value: f64| {
                    if value < 1000.0 {
                        format!("{value:.2}")
                    } else {
                        format!("{value:.0}")
                    }
                };
                table.add_row([
                    format!("{} {}", measure.name, measure.unit),
                    line.variant.to_string(),
                    number(line.value),
                    number(line.low),
                    number(line.high),
                    format!("{:.3}", line.ratio),
                    format!("{:.3}", line.paired),
                    format!("{:.3}", line.cpu),
                ]);
            }
        }
        for column in 2..8 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        crate::say(&table.to_string());
    }

    pub(super) fn figures(&self) -> Vec<Figure> {
        let mut figures = Vec::new();
        for measure in &MEASURES {
            let none = self
                .samples
                .get(&(measure.name, Variant::None))
                .map(Vec::as_slice)
                .unwrap_or_default();
            let baseline = median(&none.iter().map(|sample| sample.rate).collect::<Vec<_>>());
            for line in self.lines(measure) {
                let (baseline, ratio) = match line.variant {
                    Variant::None => (None, None),
                    Variant::Nv(_) | Variant::Nftables(_) | Variant::NftablesMaps(_) => {
                        (Some(baseline), Some(line.ratio))
                    }
                };
                figures.push(Figure {
                    name: format!("{}_{}", measure.name, line.variant.suffix()),
                    value: line.value,
                    unit: measure.unit,
                    baseline,
                    ratio,
                    runs: line.runs,
                });
            }
        }
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_stable_names_and_ratios_of_medians() {
        let mut results = Results::default();
        for (none, nv) in [(10e9, 9e9), (20e9, 10e9), (30e9, 40e9)] {
            let sample = |rate| Sample { rate, per_cpu: 1.0 };
            results.add(&MEASURES[0], Variant::None, sample(none));
            results.add(&MEASURES[0], Variant::Nv(1000), sample(nv));
            results.add(&MEASURES[0], Variant::Nftables(10), sample(nv));
        }
        let figures = results.figures();
        let names: Vec<_> = figures.iter().map(|figure| figure.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "tcp_throughput_no_policy",
                "tcp_throughput_1000_rules",
                "tcp_throughput_10_rules_nftables"
            ]
        );
        let nv = &figures[1];
        assert_eq!(
            (nv.value, nv.baseline, nv.ratio, nv.runs),
            (10.0, Some(20.0), Some(0.5), 3)
        );
        assert_eq!(figures[0].ratio, None);
    }
}
