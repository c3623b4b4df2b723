//! How the time of a full compile grows with the input, as a picture.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;

use crate::cluster::Size;
use crate::figure::{Figure, median};

/// Parts of the large size that are measured, each four times the one before.
pub const PARTS: [u32; 4] = [64, 16, 4, 1];

/// Rounds of [`rounds`].
const ROUNDS: usize = 11;

/// Milliseconds of `work` on each part's input. Every round measures every part, each for about as long, so that what else the machine
/// does meets them all; the value is the median of the rounds, its ratio the median of the ratios to the part before in the same round.
pub fn rounds<T>(inputs: &[T; 4], work: impl Fn(&T)) -> Vec<Figure> {
    let mut times: [Vec<f64>; 4] = Default::default();
    for _ in 0..ROUNDS {
        for ((part, input), times) in PARTS.iter().zip(inputs).zip(&mut times) {
            let begun = Instant::now();
            for _ in 0..*part {
                work(input);
            }
            times.push(begun.elapsed().as_secs_f64() * 1e3 / f64::from(*part));
        }
    }
    let mut figures: Vec<Figure> = Vec::new();
    for (place, part) in PARTS.iter().enumerate() {
        let before = place.checked_sub(1).and_then(|place| times.get(place));
        let now = times.get(place).map_or(&[][..], Vec::as_slice);
        let ratios = before.map(|before| {
            now.iter()
                .zip(before)
                .map(|(now, before)| now / before)
                .collect::<Vec<_>>()
        });
        figures.push(Figure {
            name: format!("growth_{part}"),
            value: median(now),
            unit: "ms",
            baseline: before.map(|before| median(before)),
            ratio: ratios.map(|ratios| median(&ratios)),
            runs: ROUNDS,
        });
    }
    figures
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
const MARGIN: f64 = 60.0;

/// (workloads, milliseconds, times the one before) of every size that was measured, smallest first.
#[must_use]
pub fn points(figures: &[Figure]) -> Vec<(u32, f64, Option<f64>)> {
    let named = |name: &str| figures.iter().find(|figure| figure.name == name);
    let point = |part: &u32| {
        let figure = named(&format!("growth_{part}"))?;
        Some((Size::part(*part).workloads, figure.value, figure.ratio))
    };
    PARTS.iter().filter_map(point).collect()
}

/// Both axes logarithmic: a straight line of slope one is time in proportion to size.
#[must_use]
pub fn picture(figures: &[Figure]) -> String {
    let points = points(figures);
    let log = |value: f64| value.max(1e-3).log10();
    let xs: Vec<f64> = points.iter().map(|(size, ..)| log(f64::from(*size))).collect();
    let ys: Vec<f64> = points.iter().map(|(_, time, _)| log(*time)).collect();
    let low = |values: &[f64]| values.iter().copied().fold(f64::INFINITY, f64::min).floor();
    let high = |values: &[f64]| values.iter().copied().fold(f64::NEG_INFINITY, f64::max).ceil();
    let (x0, x1, y0, y1) = (low(&xs), high(&xs), low(&ys), high(&ys));
    let x = |value: f64| MARGIN + (value - x0) / (x1 - x0) * (WIDTH - 2.0 * MARGIN);
    let y = |value: f64| HEIGHT - MARGIN - (value - y0) / (y1 - y0) * (HEIGHT - 2.0 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{}\" y=\"24\" text-anchor=\"middle\" font-size=\"14\">Full compile: time by size of the cluster</text>\n\
         <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">workloads (20 a service, rules half as many)</text>\n\
         <text x=\"16\" y=\"{}\" text-anchor=\"middle\" transform=\"rotate(-90 16 {})\">milliseconds</text>\n",
        WIDTH / 2.0,
        WIDTH / 2.0,
        HEIGHT - 16.0,
        HEIGHT / 2.0,
        HEIGHT / 2.0,
    );
    // Writing to a string cannot fail.
    let mut decade = x0;
    while decade <= x1 {
        let at = x(decade);
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" y1=\"{MARGIN}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"#ddd\"/><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - MARGIN,
            HEIGHT - MARGIN + 16.0,
            10f64.powf(decade)
        );
        decade += 1.0;
    }
    let mut decade = y0;
    while decade <= y1 {
        let at = y(decade);
        let _ = writeln!(
            svg,
            "<line x1=\"{MARGIN}\" y1=\"{at:.1}\" x2=\"{:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - MARGIN,
            MARGIN - 6.0,
            at + 4.0,
            10f64.powf(decade)
        );
        decade += 1.0;
    }
    let line: Vec<_> = xs
        .iter()
        .zip(&ys)
        .map(|(a, b)| format!("{:.1},{:.1}", x(*a), y(*b)))
        .collect();
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#0a6\" stroke-width=\"2\"/>",
        line.join(" ")
    );
    for ((size, time, ratio), (a, b)) in points.iter().zip(xs.iter().zip(&ys)) {
        let steps = ratio.map_or_else(String::new, |ratio| format!(" (x{ratio:.2})"));
        let _ = writeln!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"#0a6\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{size}: {time:.1} ms{steps}</text>",
            x(*a),
            y(*b),
            x(*a) - 8.0,
            y(*b) - 6.0
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// Writes the picture to `docs/policy-growth.svg`.
///
/// # Errors
/// When the file cannot be written.
pub fn write(picture: &str) -> anyhow::Result<PathBuf> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = package.parent().unwrap_or(package).join("docs/policy-growth.svg");
    fs::write(&path, picture).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
