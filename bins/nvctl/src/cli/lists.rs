//! The command line of lists: objects of a kind, and flows.

use std::path::PathBuf;

use clap::Args;
use clap_complete::ArgValueCompleter;

use super::{Filters, Kind};
use crate::complete;

/// Which flows.
#[derive(Debug, Clone, Args)]
pub struct FlowArgs {
    /// Filter words.
    #[command(flatten)]
    pub filters: Filters<true>,
    /// Only flows seen since then: an age (90s, 5m, 2h, 1d) or a time (2026-01-31T12:00:00Z).
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only flows seen until then.
    #[arg(long, value_name = "TIME", conflicts_with = "follow")]
    pub until: Option<String>,
    /// The oldest so many.
    #[arg(long, value_name = "N", conflicts_with_all = ["last", "all", "follow"])]
    pub first: Option<usize>,
    /// The newest so many [default: 100, or all with --since, --until or --input].
    #[arg(long, value_name = "N", conflicts_with = "all")]
    pub last: Option<usize>,
    /// All that the controller has.
    #[arg(long)]
    pub all: bool,
    /// Go on with what is seen from now on; with --since, --last or --all after what was seen before.
    #[arg(short, long)]
    pub follow: bool,
    /// Read flows from a file that 'nvctl flows -o jsonl' or '-o json' wrote, without a controller; `-` is standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "follow")]
    pub input: Option<PathBuf>,
}

/// Which objects.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Filter words are for conversations and violations.\n\nExamples:\n  nvctl get workloads -l app=web --sort-by name\n  \
                  nvctl get rules 10001 -o yaml\n  nvctl get groups -o name\n  nvctl get conversations --to app --not --from web\n  \
                  nvctl get violations -w"
)]
pub struct GetArgs {
    /// What.
    #[arg(value_enum)]
    pub kind: Kind,
    /// Name or id of one.
    #[arg(add = ArgValueCompleter::new(complete::named))]
    pub name: Option<String>,
    /// Only workloads with these labels: KEY=VALUE, KEY!=VALUE, KEY or !KEY, with commas between for 'and'.
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub selector: Option<String>,
    /// Sort by a column, or by a field of the object (parts with dots between); with '-' before it from high to low.
    #[arg(long, value_name = "COLUMN", allow_hyphen_values = true)]
    pub sort_by: Option<String>,
    /// Go on: show what is new or changed as it comes, a look each second.
    #[arg(short, long, conflicts_with = "sort_by")]
    pub watch: bool,
    /// Filter words.
    #[command(flatten)]
    pub filters: Filters<false>,
}
