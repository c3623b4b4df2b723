//! `cargo xtask bench NAME`: each bench prints a table and writes `target/bench/NAME.json`.

use anyhow::bail;

use crate::cmd;

/// Runs one bench by name.
pub(crate) fn run(name: &str, args: &[String]) -> anyhow::Result<()> {
    match name {
        "datapath" | "side-by-side" | "apply" | "footprint" | "program" => {
            cmd::run(cmd::cargo().args(["build", "--release", "--locked", "--bins"]))?;
            let mut bench = cmd::cargo();
            bench
                .args([
                    "run",
                    "--release",
                    "--locked",
                    "--quiet",
                    "-p",
                    "nv-benches",
                    "--bin",
                    name,
                    "--",
                ])
                .args(args);
            cmd::run(&mut bench)
        }
        "capture" => {
            let mut bench = cmd::cargo();
            bench
                .args([
                    "run",
                    "--release",
                    "--locked",
                    "--quiet",
                    "-p",
                    "nv-benches",
                    "--bin",
                    name,
                    "--",
                ])
                .args(args);
            cmd::run(&mut bench)
        }
        "runtime" => {
            let mut bench = cmd::cargo();
            bench
                .args(["bench", "--locked", "-p", "nv-runtime", "--bench", name, "--"])
                .args(args);
            cmd::run(&mut bench)
        }
        "policy" | "decide" => {
            let mut bench = cmd::cargo();
            bench
                .args(["bench", "--locked", "-p", "nv-benches", "--bench", name, "--"])
                .args(args);
            cmd::run(&mut bench)
        }
        _ => bail!(
            "no bench '{name}': there are datapath, side-by-side, program, apply, footprint, capture, policy, decide and runtime"
        ),
    }
}
