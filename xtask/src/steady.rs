//! The compiler as cargo calls it for the kernel programs, without what cargo knows of the folder: crates built from paths get a hash
//! of it in all their names, and functions are laid out in the order of their names.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, anyhow};

/// Set where this program is called in place of the compiler (cargo's `RUSTC_WRAPPER`).
pub(crate) const VARIABLE: &str = "NV_STEADY_NAMES";

/// Whether cargo calls.
pub(crate) fn is_called() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// Becomes the compiler, with the crate's name and version as what tells its names from others.
///
/// # Errors
/// When the compiler cannot be started.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let rustc = args.next().context("cargo names the compiler first")?;
    let of_package = |name: &str| std::env::var(name).unwrap_or_default();
    let steady = format!(
        "metadata={}-{}",
        of_package("CARGO_CRATE_NAME"),
        of_package("CARGO_PKG_VERSION")
    );
    let args = args.map(|arg| {
        if arg.starts_with("metadata=") {
            steady.clone()
        } else {
            arg
        }
    });
    let failed = Command::new(&rustc).args(args).exec();
    Err(anyhow!(failed).context(format!("cannot start {rustc}")))
}
