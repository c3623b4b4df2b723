//! `cargo xtask test`: set-up, then everything that runs. The test runner's summary is the last thing printed.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::cmd;

/// Installs system packages, if this is a place where that can be done.
pub(crate) fn setup() -> anyhow::Result<()> {
    let root = cmd::root();
    if !is_root() {
        cmd::say(
            "setup: not root, so no system packages are installed; tests that need root are skipped by name",
        );
        return Ok(());
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        cmd::say("setup: no apt-get here; install the packages named in scripts/setup.sh by hand");
        return Ok(());
    }
    cmd::run(
        Command::new("bash")
            .arg(root.join("scripts/setup.sh"))
            .current_dir(&root),
    )
}

/// Everything: doctests and examples first, the test runner last.
pub(crate) fn run(no_setup: bool, args: &[String]) -> anyhow::Result<()> {
    if !no_setup {
        setup()?;
    }
    cmd::run(cmd::cargo().args(["build", "--workspace", "--all-targets", "--locked"]))?;
    if args.is_empty() {
        cmd::run(cmd::cargo().args(["test", "--workspace", "--doc", "--locked", "--quiet"]))?;
        examples()?;
    }
    if has_nextest() {
        let profile = if std::env::var_os("CI").is_some() {
            "ci"
        } else {
            "default"
        };
        let mut nextest = cmd::cargo();
        nextest
            .args(["nextest", "run", "--workspace", "--locked", "--profile", profile])
            .args(args);
        return cmd::run(&mut nextest);
    }
    cmd::say(
        "cargo-nextest is not installed: the same tests run with cargo test, one binary after the other",
    );
    let mut test = cmd::cargo();
    test.args([
        "test",
        "--workspace",
        "--locked",
        "--lib",
        "--bins",
        "--tests",
        "--",
        "--test-threads=2",
    ])
    .args(args);
    cmd::run(&mut test)
}

/// Runs every example to its end; those that need root are skipped without it, by name.
fn examples() -> anyhow::Result<()> {
    let folder = cmd::root().join("examples/examples");
    let mut names: Vec<String> = std::fs::read_dir(&folder)?
        .filter_map(|entry| entry.ok()?.path().file_stem()?.to_str().map(str::to_owned))
        .collect();
    names.sort();
    for name in &names {
        let source = std::fs::read_to_string(folder.join(format!("{name}.rs")))?;
        if source.to_lowercase().contains("needs root") && !is_root() {
            cmd::say(&format!("SKIPPED example {name}: needs root"));
            continue;
        }
        // As built with the workspace: `cargo run -p` would choose other features and build half of it anew.
        let program = cmd::target().join("debug/examples").join(name);
        cmd::run(Command::new(program).current_dir(cmd::root()))?;
    }
    cmd::say(&format!("examples: {} run", names.len()));
    Ok(())
}

fn has_nextest() -> bool {
    cmd::cargo()
        .args(["nextest", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|text| {
        text.lines()
            .any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"))
    })
}
