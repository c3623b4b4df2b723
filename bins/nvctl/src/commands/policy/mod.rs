//! Policy files: from and to other forms.

mod cases;
mod check;
mod export;
mod file;
mod import;
mod replay;
mod simulate;

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use nv_policy::interchange::{Form, Note};
use nv_types::Verdict;

pub use replay::FailOn;

use super::Context;
use crate::cli::Filters;
use crate::error::CtlError;
use crate::output::note;

/// Policy files.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Check policy files without a controller: what would be refused, what can never match, what contradicts itself.
    ///
    /// A finding is one line, FILE:LINE:COLUMN: LEVEL: words. Errors would be refused; warnings do not do what they say; notes are worth
    /// knowing. Services (groups nv.*) are taken for running.
    #[command(
        after_help = "Exit code 4: there is an error or a warning.\n\nExamples:\n  nvctl policy check policy.yaml\n  \
                            nvctl policy check *.yaml -o json"
    )]
    Check {
        /// Policy files as for 'nvctl apply', all of one policy; `-` is standard input.
        #[arg(value_name = "FILE", required = true)]
        file: Vec<PathBuf>,
    },
    /// Say what a policy file would change: between whom, on which ports, for which applications.
    #[command(
        after_help = "Only flows whose verdict changes are listed.\n\nExamples:\n  nvctl policy diff policy.yaml\n  \
                            nvctl policy diff new.yaml --against old.yaml"
    )]
    Diff {
        /// Policy file; `-` is standard input.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Compare two files, each by itself, without a controller.
        #[arg(long, value_name = "FILE")]
        against: Option<PathBuf>,
    },
    /// Run test cases against a policy, without a controller.
    #[command(
        after_help = "Exit code 4: a case failed.\n\nA file of cases:\n  policy: [policy.yaml]          # relative to this file\n  \
                            workloads:\n    - {name: web-1, service: web, labels: {tier: front}, address: 10.0.0.2}\n    - {name: app-1, service: app}\n  \
                            cases:\n    - {from: web-1, to: app-1, port: tcp/8080, app: HTTP, expect: allow, rule: 1}\n    \
                            - {name: nobody else, from: 192.0.2.1, to: app-1, port: 8080, expect: deny}\n\nExamples:\n  \
                            nvctl policy test tests.yaml --junit report.xml"
    )]
    Test {
        /// File of cases; `-` is standard input.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Write the outcome as JUnit XML, too.
        #[arg(long, value_name = "FILE")]
        junit: Option<PathBuf>,
    },
    /// Judge a packet capture by a policy: a verdict for each flow with rule and reason, and what another policy would change.
    ///
    /// The policy is the file's alone; without --policy it is the controller's. Workloads and their addresses come from the controller, or
    /// from a file with --workloads. Both ends of a flow are judged, each as its own node would; the stricter verdict counts.
    #[command(
        after_help = "Exit code 4: what --fail-on names was found.\n\nA file of workloads (a file of cases for 'policy test' is one, too):\n  \
                            workloads:\n    - {name: web-1, service: web, labels: {tier: front}, address: 10.0.0.2, mac: '02:00:0a:00:00:02'}\n    \
                            - {name: app-1, service: app, addresses: [10.0.0.3, 'fd00::3']}\n\nExamples:\n  \
                            nvctl policy replay web.pcapng --policy policy.yaml --workloads workloads.yaml\n  \
                            nvctl policy replay web.pcapng --policy now.yaml --against next.yaml --fail-on change -o jsonl"
    )]
    Replay {
        /// Capture, pcapng or pcap; `-` is standard input.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Policy files as for 'nvctl apply', all of one policy.
        #[arg(long, value_name = "POLICY")]
        policy: Vec<PathBuf>,
        /// Another policy, whose verdicts are shown beside.
        #[arg(long, value_name = "OTHER")]
        against: Option<PathBuf>,
        /// Workloads, without a controller.
        #[arg(long, value_name = "FILE")]
        workloads: Option<PathBuf>,
        /// Show only flows with this verdict.
        #[arg(long, value_parser = verdict, value_name = "allow|alert|deny")]
        verdict: Option<Verdict>,
        /// What ends it with exit code 4.
        #[arg(long, value_enum, value_delimiter = ',', value_name = "WHAT")]
        fail_on: Vec<FailOn>,
    },
    /// Say which flows that the controller has recorded would get another verdict under a policy file. Changes nothing.
    ///
    /// Each flow is judged twice, by the policy in force and by what it would be with the file applied.
    #[command(
        after_help = "Exit code 4: what --fail-on names was found.\n\nExamples:\n  nvctl policy simulate policy.yaml\n  \
                            nvctl policy simulate policy.yaml --to app --since 1h --fail-on deny"
    )]
    Simulate {
        /// Policy files as for 'nvctl apply', all of one policy; `-` is standard input.
        #[arg(value_name = "FILE", required = true)]
        file: Vec<PathBuf>,
        /// Only flows seen since then: an age (90s, 5m, 2h, 1d) or a time.
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// What ends it with exit code 4: flows that would be denied, denied or reported, or any change.
        #[arg(long, value_enum, value_delimiter = ',', value_name = "WHAT")]
        fail_on: Vec<FailOn>,
        /// Which flows.
        #[command(flatten)]
        filters: Filters<false>,
    },
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
        PolicyCommand::Check { file } => check::check(context, &file),
        PolicyCommand::Diff { file, against } => check::difference(context, &file, against.as_deref()).await,
        PolicyCommand::Test { file, junit } => cases::run(context, &file, junit.as_deref()),
        PolicyCommand::Replay {
            file,
            policy,
            against,
            workloads,
            verdict,
            fail_on,
        } => {
            let order = replay::Order {
                file: &file,
                policy: &policy,
                against: against.as_deref(),
                workloads: workloads.as_deref(),
                verdict,
                fail_on: &fail_on,
            };
            replay::run(context, &order).await
        }
        PolicyCommand::Simulate {
            file,
            since,
            fail_on,
            filters,
        } => {
            let order = simulate::Order {
                files: &file,
                filter: filters.filter(),
                since: since.as_deref(),
                fail_on: &fail_on,
            };
            simulate::run(context, &order).await
        }
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

fn verdict(text: &str) -> Result<Verdict, String> {
    [Verdict::Allow, Verdict::Alert, Verdict::Deny]
        .into_iter()
        .find(|verdict| verdict.name() == text)
        .ok_or_else(|| "use allow, alert or deny".into())
}

/// What was not carried over, for people.
fn list(notes: &[Note]) {
    for one in notes {
        note(&one.to_string());
    }
}
