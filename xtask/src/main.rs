//! Project tasks: `cargo xtask check | test | bench NAME | ebpf [--check] | setup`.

mod bench;
mod check;
mod cmd;
mod ebpf;
mod layers;
mod size;
mod steady;
mod test;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Project tasks of nv")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Formatting, layering, file sizes, clippy, docs, freshness of generated files.
    Check,
    /// Install system packages (as root on Debian/Ubuntu), then run every test, example and doctest.
    Test {
        /// Do not install system packages.
        #[arg(long)]
        no_setup: bool,
        /// Passed on to the test runner, such as a filter.
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Run a bench and write target/bench/NAME.json.
    Bench {
        /// side-by-side, apply, footprint, policy, decide, runtime
        name: String,
        /// Passed on to the bench.
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Build the kernel programs and write the committed object.
    Ebpf {
        /// Build and compare with the committed object instead of writing it.
        #[arg(long)]
        check: bool,
    },
    /// Install system packages only.
    Setup,
}

fn main() -> anyhow::Result<()> {
    if steady::is_called() {
        return steady::run();
    }
    match Cli::parse().task {
        Task::Check => check::run(),
        Task::Test { no_setup, args } => test::run(no_setup, &args),
        Task::Bench { name, args } => bench::run(&name, &args),
        Task::Ebpf { check } => ebpf::run(check),
        Task::Setup => test::setup(),
    }
}
