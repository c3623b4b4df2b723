//! Figures: what a bench measured, as a table and as `target/bench/NAME.json`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;

/// One figure. Names are stable: they are compared over time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// Stable name.
    pub name: String,
    /// Median of the runs.
    pub value: f64,
    /// Unit of `value` and `baseline`.
    pub unit: &'static str,
    /// Median of the same measurement without nv, in the same run of the bench.
    pub baseline: Option<f64>,
    /// `value / baseline`.
    pub ratio: Option<f64>,
    /// Number of runs behind the medians.
    pub runs: usize,
}

/// Where figures are written: `target/bench` of the workspace, wherever cargo puts its other output.
#[must_use]
pub fn folder() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).join("target/bench")
}

/// Writes `target/bench/NAME.json`; gives its path.
///
/// # Errors
/// When the file cannot be written.
pub fn write(name: &str, figures: &[Figure]) -> anyhow::Result<PathBuf> {
    let folder = folder();
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join(format!("{name}.json"));
    let mut text = serde_json::to_string_pretty(figures)?;
    text.push('\n');
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// The folder that a criterion bench keeps its samples in.
#[must_use]
pub fn criterion_folder() -> PathBuf {
    folder().join("criterion")
}

/// What criterion measured in a group: medians in nanoseconds, by `FUNCTION` or `FUNCTION_PARAMETER`.
///
/// # Errors
/// When its files cannot be read.
pub fn from_criterion(group: &str) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let name = |path: &Path| {
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .replace('-', "_")
    };
    for function in folders(&criterion_folder().join(group))? {
        figures.extend(estimate(&function, name(&function))?);
        for parameter in folders(&function)? {
            figures.extend(estimate(
                &parameter,
                format!("{}_{}", name(&function), name(&parameter)),
            )?);
        }
    }
    Ok(figures)
}

/// The newest samples in a folder, if it has any.
fn estimate(folder: &Path, name: String) -> anyhow::Result<Option<Figure>> {
    let path = folder.join("new/estimates.json");
    if !path.is_file() {
        return Ok(None);
    }
    let estimates: Estimates = serde_json::from_slice(&fs::read(&path)?)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Some(Figure {
        name,
        value: estimates.median.point_estimate,
        unit: "ns",
        baseline: None,
        ratio: None,
        runs: 100,
    }))
}

#[derive(serde::Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(serde::Deserialize)]
struct Estimate {
    point_estimate: f64,
}

fn folders(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut found: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    Ok(found)
}

/// The middle of the values; the mean of the two middle ones when their number is even. 0 of none.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match (sorted.get(half), sorted.len() % 2) {
        (None, _) => 0.0,
        (Some(middle), 1) => *middle,
        (Some(upper), _) => f64::midpoint(*upper, sorted.get(half - 1).copied().unwrap_or(*upper)),
    }
}

/// Smallest and largest value.
#[must_use]
pub fn range(values: &[f64]) -> (f64, f64) {
    values
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
            (low.min(*v), high.max(*v))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(range(&[2.0, 1.0, 3.0]), (1.0, 3.0));
    }
}
