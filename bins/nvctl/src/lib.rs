//! The command line of nv, over the controller's REST interface.
//!
//! Data goes to standard output and nothing else does; progress, hints and errors go to standard error. Exit codes:
//! 0 done, 1 refused, 2 wrong usage, 3 controller not reachable, 4 ran but the answer is no.
//!
//! ```
//! use clap::Parser as _;
//! use nvctl::cli::{Cli, Command};
//!
//! let line = Cli::try_parse_from(["nvctl", "flows", "web", "--not", "--to-ip", "10.0.0.0/8"]).unwrap();
//! let Command::Flows(flows) = line.command else { panic!() };
//! assert_eq!(flows.filters.filter().to_string(), "either web;not to-ip 10.0.0.0/8");
//! ```
#![forbid(unsafe_code)]

pub mod cli;
mod client;
mod commands;
mod complete;
mod config;
mod contexts;
mod documents;
mod error;
mod filter;
mod output;
mod table;

pub use error::{CtlError, EXIT_NO, EXIT_OK, EXIT_REFUSED, EXIT_UNREACHABLE, EXIT_USAGE};

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

/// Entry of the program: parses the command line, runs it, and turns what came of it into an exit code.
#[must_use]
pub fn main() -> ExitCode {
    let _ = rustls::crypto::ring::default_provider().install_default();
    clap_complete::CompleteEnv::with_factory(cli::Cli::command)
        .var(complete::VARIABLE)
        .complete();
    let matches = cli::Cli::command().get_matches();
    let cli = match cli::Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let given = config::Given::new(&matches);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(source) => {
            return fail(&CtlError::Io {
                action: "cannot start the runtime".into(),
                source,
            });
        }
    };
    match runtime.block_on(commands::run(cli, given)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(&error),
    }
}

fn fail(error: &CtlError) -> ExitCode {
    // A reader that went away (`nvctl get rules | head`) is no failure.
    if error.is_broken_pipe() {
        return ExitCode::from(EXIT_OK);
    }
    let mut text = format!("error: {error}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    let _ = writeln!(std::io::stderr(), "{}", output::escape(&text, true));
    if let Some(hint) = error.hint() {
        let _ = writeln!(std::io::stderr(), "hint: {hint}");
    }
    ExitCode::from(error.exit_code())
}
