//! `cargo xtask check`: everything that is wrong without running the product, fast to slow.

use crate::{cmd, ebpf, layers, size};

/// Runs every check; the first failure ends it.
pub(crate) fn run() -> anyhow::Result<()> {
    cmd::run(cmd::cargo().args(["fmt", "--all", "--", "--check"]))?;
    layers::check()?;
    size::check()?;
    cmd::run(cmd::cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ]))?;
    cmd::run(
        cmd::cargo()
            .args(["doc", "--workspace", "--no-deps", "--locked", "--quiet"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    ebpf::run(true)?;
    cmd::say("check: all good");
    Ok(())
}
