//! The command line of contexts.

use clap::{Subcommand, ValueEnum};
use clap_complete::ArgValueCompleter;

use crate::complete;

/// Contexts.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show the settings in force. Tokens and passwords are never shown.
    View {
        /// Show where each comes from as well: option, environment, context or default.
        #[arg(long)]
        show_origin: bool,
    },
    /// List the contexts; a star marks the one that counts.
    GetContexts,
    /// Let a context count from now on.
    #[command(after_help = "Example: nvctl config use-context lab")]
    UseContext {
        /// Context.
        #[arg(add = ArgValueCompleter::new(complete::contexts))]
        name: String,
    },
    /// Make a context or change one: what is not named stays.
    #[command(
        after_help = "The settings are the options --server, --ca, --token-file and --insecure; the environment is not looked at.\n\
                            --unset takes one away.\n\n\
                            Examples:\n  nvctl config set-context lab --server https://10.0.0.5:10443 --ca lab.pem --use\n  \
                            nvctl config set-context lab --unset ca --unset insecure"
    )]
    SetContext {
        /// Letters, digits, '.', '_' and '-'.
        name: String,
        /// Let it count from now on.
        #[arg(long = "use")]
        switch: bool,
        /// Take a setting away: what holds without it counts again.
        #[arg(long, value_enum, value_name = "SETTING")]
        unset: Vec<Unset>,
    },
    /// Forget a context and its session's token.
    DeleteContext {
        /// Context.
        #[arg(add = ArgValueCompleter::new(complete::contexts))]
        name: String,
    },
}

/// Settings of a context that it can be without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Unset {
    /// The CA's file.
    Ca,
    /// That the controller's certificate is not checked.
    Insecure,
    /// The token's file: the context has one of its own again.
    TokenFile,
}
