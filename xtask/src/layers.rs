//! Which crate may know which: arrows point one way, and domain crates never depend on each other.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail};
use serde::Deserialize;

use crate::cmd;

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
    path: Option<String>,
}

/// What a crate may depend on inside the workspace; `None` for those that assemble (bins, examples, benches).
fn allowed(package: &str) -> Option<&'static [&'static str]> {
    Some(match package {
        "nv-types" | "nv-lab" | "xtask" => &[],
        "nv-policy" | "nv-runtime" | "nv-store" | "nv-capture" | "nv-dp-common" | "nv-api" => &["nv-types"],
        "nv-dp" => &["nv-types", "nv-dp-common"],
        "nv-agent-core" | "nv-controller-core" => &["nv-types", "nv-policy"],
        "nvctl" => &[
            "nv-types",
            "nv-policy",
            "nv-api",
            "nv-lab",
            "nv-capture",
            "nv-dp",
            "nv-dp-common",
        ],
        "nv-controller" => &[
            "nv-types",
            "nv-api",
            "nv-policy",
            "nv-store",
            "nv-controller-core",
        ],
        "nv-agent" => &[
            "nv-types",
            "nv-api",
            "nv-policy",
            "nv-store",
            "nv-runtime",
            "nv-dp",
            "nv-capture",
            "nv-agent-core",
        ],
        "nv-allinone" | "nv-examples" | "nv-benches" => return None,
        _ => &[],
    })
}

/// Fails with every arrow that points the wrong way. Dev-dependencies are free: tests may join crates.
pub(crate) fn check() -> anyhow::Result<()> {
    let text =
        cmd::output(cmd::cargo().args(["metadata", "--no-deps", "--format-version", "1", "--locked"]))?;
    let metadata: Metadata = serde_json::from_str(&text).context("cargo metadata")?;
    let wrong = violations(&metadata);
    if !wrong.is_empty() {
        bail!("layering:\n  {}", wrong.join("\n  "));
    }
    cmd::say(&format!(
        "layering: {} packages, arrows point one way",
        metadata.packages.len()
    ));
    Ok(())
}

fn violations(metadata: &Metadata) -> Vec<String> {
    let members: BTreeSet<_> = metadata
        .packages
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        let Some(allowed) = allowed(&package.name) else {
            continue;
        };
        for dependency in &package.dependencies {
            let inside = dependency.path.is_some() && members.contains(dependency.name.as_str());
            let dev = dependency.kind.as_deref() == Some("dev");
            if inside && !dev && !allowed.contains(&dependency.name.as_str()) {
                wrong.push(format!("{} may not depend on {}", package.name, dependency.name));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_crate_that_knows_another_is_named() {
        let package = |name: &str, dependency: &str, kind: Option<&str>| Package {
            name: name.into(),
            dependencies: vec![Dependency {
                name: dependency.into(),
                kind: kind.map(Into::into),
                path: Some("crates/x".into()),
            }],
        };
        let metadata = Metadata {
            packages: vec![
                package("nv-policy", "nv-dp", None),
                package("nv-dp", "nv-policy", Some("dev")),
                package("nv-store", "nv-types", None),
                package("nv-types", "serde", None),
            ],
        };
        assert_eq!(violations(&metadata), ["nv-policy may not depend on nv-dp"]);
    }
}
