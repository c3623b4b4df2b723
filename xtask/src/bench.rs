//! `cargo xtask bench NAME`: each bench prints a table and writes `target/bench/NAME.json`.

use std::process::Command;

use anyhow::bail;

use crate::cmd;

/// Runs one bench by name.
pub(crate) fn run(name: &str, args: &[String]) -> anyhow::Result<()> {
    match name {
        "datapath" | "side-by-side" | "apply" | "footprint" | "program" | "capture" | "store" => {
            cmd::run(cmd::cargo().args(["build", "--release", "--locked", "--bins"]))?;
            // As built with the workspace: `cargo run -p` would choose other features and build half of it anew.
            let program = cmd::target().join("release").join(name);
            cmd::run(Command::new(program).args(args).current_dir(cmd::root()))
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
            "no bench '{name}': there are datapath, side-by-side, program, apply, footprint, capture, store, policy, decide and runtime"
        ),
    }
}
