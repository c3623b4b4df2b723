//! `nvctl store`.

use std::path::PathBuf;

use clap::Subcommand;

/// The controller's store.
#[derive(Debug, Subcommand)]
pub enum Store {
    /// Write everything that the controller has stored into a file, as of one moment, while it runs. For admins.
    ///
    /// Password hashes of users are in it; only its owner can read the file. The CA's private key is not: it leaves a controller's host
    /// by 'nv-controller store export' only.
    #[command(after_help = "Example: nvctl store export nv-backup.json")]
    Export {
        /// File to make; `-` is standard output.
        file: PathBuf,
        /// Also where there is such a file already.
        #[arg(long)]
        force: bool,
    },
    /// Put groups, rules, modes and settings back as they are in such a file: whole or not at all. For admins.
    ///
    /// Users, the audit log and what agents report stay as they are. To fill another store with everything, stop the controllers and use
    /// 'nv-controller store import'.
    #[command(
        after_help = "Examples:\n  nvctl store import nv-backup.json --dry-run\n  nvctl store import nv-backup.json --yes"
    )]
    Import {
        /// File; `-` is standard input.
        file: PathBuf,
        /// Show what would change; change nothing.
        #[arg(long)]
        dry_run: bool,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
}
