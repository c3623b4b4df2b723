//! Policy files: from and to other forms.

mod export;
mod import;

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use nv_policy::interchange::{Form, Note};

use super::Context;
use crate::error::CtlError;
use crate::output::note;

/// Policy files.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Turn NeuVector's resources, Kubernetes NetworkPolicies or Cilium's policies into documents for 'nvctl apply'.
    ///
    /// What could not be carried over is listed on standard error, with object, path and line.
    #[command(
        after_help = "Exit code 1: an object was refused; the others are printed all the same.\n\nExamples:\n  \
                            nvctl policy import export.yaml > policy.yaml && nvctl apply -f policy.yaml --dry-run\n  \
                            kubectl get networkpolicy -A -o yaml | nvctl policy import -"
    )]
    Import {
        /// YAML or JSON; `-` is standard input.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Read only this form; without it each object says its own.
        #[arg(long, value_enum)]
        form: Option<FormArg>,
        /// Refuse the whole file when one object is refused.
        #[arg(long)]
        strict: bool,
    },
    /// Write the controller's policy in another form. What the form cannot say is listed on standard error.
    #[command(
        after_help = "Examples:\n  nvctl policy export --form kubernetes --learned > policies.yaml\n  \
                            nvctl policy export --form neuvector --all --group nv.web.shop"
    )]
    Export {
        /// Form.
        #[arg(long, value_enum)]
        form: FormArg,
        /// Only learned rules; without it only those that somebody made.
        #[arg(long, conflicts_with = "all")]
        learned: bool,
        /// Every rule.
        #[arg(long)]
        all: bool,
        /// Only rules that have one of these groups as an end.
        #[arg(long, value_name = "NAME")]
        group: Vec<String>,
    },
}

/// A form that policies are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FormArg {
    /// NvSecurityRule, NvClusterSecurityRule, NvGroupDefinition.
    Neuvector,
    /// NetworkPolicy of networking.k8s.io/v1.
    Kubernetes,
    /// CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy.
    Cilium,
}

impl From<FormArg> for Form {
    fn from(form: FormArg) -> Self {
        match form {
            FormArg::Neuvector => Self::NeuVector,
            FormArg::Kubernetes => Self::Kubernetes,
            FormArg::Cilium => Self::Cilium,
        }
    }
}

pub(super) async fn run(context: &Context, command: PolicyCommand) -> Result<u8, CtlError> {
    match command {
        PolicyCommand::Import { file, form, strict } => {
            import::run(context, &file, form.map(Form::from), strict)
        }
        PolicyCommand::Export {
            form,
            learned,
            all,
            group,
        } => export::run(context, form.into(), &export::Which { learned, all, group }).await,
    }
}

/// What was not carried over, for people.
fn list(notes: &[Note]) {
    for one in notes {
        note(&one.to_string());
    }
}
