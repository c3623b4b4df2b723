//! The command line's shape. `--help` of each command is meant to teach.

mod capture;
mod contexts;
mod filter;
mod lists;
mod store;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::ArgValueCompleter;

use crate::complete;

pub use capture::{Capture, CaptureWhat};
pub use contexts::{ConfigCommand, Unset};
pub use filter::Filters;
pub use lists::{FlowArgs, GetArgs};
pub use store::Store;

pub use crate::commands::policy::{FailOn, FormArg, PolicyCommand};

/// Command line of nv: container network security.
#[derive(Debug, Parser)]
#[command(
    name = "nvctl",
    version,
    about = "Command line of nv: workloads, rules, flows, verdicts and captures",
    after_help = "Examples:\n  nvctl login\n  nvctl get workloads -o wide\n  nvctl apply -f policy.yaml --dry-run\n  \
                  nvctl explain web app tcp/8080 --expect allow\n  nvctl flows --follow --verdict deny\n\n\
                  Exit codes: 0 done, 1 refused, 2 wrong usage, 3 controller not reachable, 4 ran but the answer is no."
)]
pub struct Cli {
    /// Where and how.
    #[command(flatten)]
    pub global: Global,
    /// What.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Context of the configuration file that counts: a controller with its CA and its session.
    #[arg(long, env = "NV_CONTEXT", global = true, value_name = "NAME", add = ArgValueCompleter::new(complete::contexts))]
    pub context: Option<String>,
    /// Configuration file [default: ~/.config/nv/config.toml]
    #[arg(long = "config-file", env = "NV_CONFIG", global = true, value_name = "FILE")]
    pub config_file: Option<PathBuf>,
    /// Address of the controller.
    #[arg(long, env = "NV_SERVER", global = true, value_name = "URL")]
    pub server: Option<String>,
    /// File with the CA certificate that the controller's certificate is checked against
    /// (the controller writes it to DATA_DIR/ca.pem).
    #[arg(long, env = "NV_CA", global = true, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Do not check the controller's certificate. Whoever sits in between can then read and change everything.
    #[arg(long, global = true)]
    pub insecure: bool,
    /// File that holds the session token.
    #[arg(long, env = "NV_TOKEN_FILE", global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Form of the output.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// Colours; auto means: on a terminal, unless NO_COLOR is set or TERM is dumb.
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    pub color: Color,
    /// Leave the table's header out.
    #[arg(long, global = true)]
    pub no_headers: bool,
    /// Never ask; a question becomes an error that names the option.
    #[arg(long, global = true)]
    pub no_input: bool,
}

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns that fit a terminal.
    Table,
    /// More columns.
    Wide,
    /// The REST object, unchanged.
    Json,
    /// The same as YAML.
    Yaml,
    /// One JSON object a line.
    Jsonl,
    /// Names or ids only.
    Name,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Open a session and keep its token.
    #[command(
        after_help = "The password comes from --password-file, from NV_PASSWORD, or is asked for on the terminal; \
                            never from the command line, which others can see."
    )]
    Login {
        /// User.
        #[arg(short, long, default_value = "admin")]
        username: String,
        /// File with the password; `-` is standard input.
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// End the session.
    Logout,
    /// Controller, nodes with the revision in force, losses; exit 4 when something is wrong.
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "Examples:\n  nvctl status --wait\n  nvctl status endpoint web-1"
    )]
    Status {
        /// Of one thing only.
        #[command(subcommand)]
        of: Option<StatusOf>,
        /// Wait until all is well.
        #[arg(long)]
        wait: bool,
        /// Give up waiting after this many seconds.
        #[arg(long, default_value_t = 60)]
        timeout: u64,
    },
    /// List objects, or show one.
    Get(GetArgs),
    /// Show one object with all that hangs on it, and what to try next.
    #[command(
        after_help = "A workload is named by its name, its id or the start of its id.\n\nExamples:\n  \
                            nvctl describe workload web\n  nvctl describe group nv.web\n  nvctl describe rule 10001 -o json"
    )]
    Describe {
        /// What.
        #[arg(value_enum)]
        kind: Describable,
        /// Name or id.
        #[arg(add = ArgValueCompleter::new(complete::named))]
        name: String,
    },
    /// Apply a policy file, whole or not at all.
    #[command(after_help = "Documents, several in one file with '---' between them:\n  \
                            kind: Group        name, comment, criteria: [{key, op, value}]\n  \
                            kind: Rule         id (optional), from, to, ports, applications, action, comment, disable\n  \
                            kind: ServiceMode  service, mode: Discover|Monitor|Protect\n  \
                            kind: Settings     what 'nvctl settings' lists")]
    Apply {
        /// YAML or JSON; `-` is standard input.
        #[arg(short, long, required = true, value_name = "FILE")]
        file: Vec<PathBuf>,
        /// Check and show what would change; change nothing.
        #[arg(long)]
        dry_run: bool,
        /// Wait until every node enforces it.
        #[arg(long)]
        wait: bool,
    },
    /// Delete a group or a rule.
    Delete {
        /// What.
        #[arg(value_enum)]
        kind: Deletable,
        /// Name or id.
        #[arg(required = true, add = ArgValueCompleter::new(complete::named))]
        names: Vec<String>,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
    /// Set the mode of services.
    SetMode {
        /// Service or its group, such as `nv.web`; `nodes` for the hosts themselves.
        #[arg(required = true, add = ArgValueCompleter::new(complete::services))]
        service: Vec<String>,
        /// Mode.
        #[arg(value_enum)]
        mode: ModeArg,
    },
    /// Cut a workload off whatever the policy says, or let it back; without a workload: list those that are cut off.
    #[command(
        after_help = "Nothing passes then but address resolution, until it is let back: restarts of the workload, the agent or the \
                            controller change nothing.\n\n\
                            Examples:\n  nvctl quarantine web-1 --reason 'odd connections'\n  nvctl quarantine web-1 --off\n  nvctl quarantine"
    )]
    Quarantine {
        /// Name, id, or start of the id.
        #[arg(add = ArgValueCompleter::new(complete::workloads))]
        workload: Option<String>,
        /// Let it back.
        #[arg(long, requires = "workload", conflicts_with = "reason")]
        off: bool,
        /// Why, for whoever finds it so.
        #[arg(long, requires = "workload", value_name = "TEXT")]
        reason: Option<String>,
        /// Wait until every node enforces it.
        #[arg(long, requires = "workload")]
        wait: bool,
    },
    /// Show the settings of policy and datapath, or change some.
    #[command(after_help = "Settings, with what they may be:\n  \
                            deny_response     drop | reset (TCP reset, ICMP administratively prohibited)\n  \
                            idle.udp, idle.tcp_active …   seconds that a flow may be idle\n  \
                            flow_share        percent of the connection table for one workload; 0: no bound\n  \
                            unknown_endpoint  auto | allow | deny\n  \
                            failsafe_ports    tcp/22,tcp/10443; empty: none\n\n\
                            Examples:\n  nvctl settings\n  nvctl settings deny_response=reset idle.udp=60\n  nvctl settings failsafe_ports= --wait")]
    Settings {
        /// Settings to change.
        #[arg(value_name = "NAME=VALUE")]
        change: Vec<String>,
        /// Wait until every node enforces it.
        #[arg(long, requires = "change")]
        wait: bool,
    },
    /// Flows that were seen, newest last.
    #[command(
        after_help = "Without from or to, a word means either end. Addresses may be CIDRs.\n\nExamples:\n  \
                            nvctl flows --follow --verdict deny\n  nvctl flows web --not --to external --since 5m\n  \
                            nvctl flows --from web --port 8080,8443 -o jsonl > flows.jsonl\n  \
                            nvctl flows --input flows.jsonl --to-ip 10.0.0.0/8 -4"
    )]
    Flows(FlowArgs),
    /// Say what becomes of a flow, and why: rule, groups, modes, and the rules that nearly matched.
    #[command(
        after_help = "FROM and TO are a workload's name or id, a service, a group, an address or 'external'.\n\n\
                            Example, for scripts: nvctl explain web app tcp/8080 --expect allow"
    )]
    Explain {
        /// Client.
        #[arg(add = ArgValueCompleter::new(complete::ends))]
        from: String,
        /// Server.
        #[arg(add = ArgValueCompleter::new(complete::ends))]
        to: String,
        /// tcp/80, udp/53, icmp …
        port: String,
        /// Application, such as HTTP.
        #[arg(long)]
        app: Option<String>,
        /// Exit with 4 unless this is the verdict (an alert passes, so it counts as allow).
        #[arg(long, value_enum)]
        expect: Option<Expect>,
    },
    /// Policy files: from and to other forms.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Packet captures.
    #[command(subcommand)]
    Capture(Capture),
    /// The controller's store as one document: a backup, and policy put back from it.
    #[command(subcommand)]
    Store(Store),
    /// Self tests.
    #[command(subcommand)]
    Connectivity(Connectivity),
    /// What somebody who helps must see.
    #[command(subcommand)]
    Diag(Diag),
    /// Print a script that makes a shell complete commands, options and names; names are asked of the controller.
    #[command(
        after_help = "bash: source <(nvctl completion bash)\nzsh:  source <(nvctl completion zsh)\n\
                            fish: nvctl completion fish | source\n\n\
                            Names come from the controller that NV_SERVER, --server or the context says, if it answers within a second."
    )]
    Completion {
        /// For this shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Contexts, and the configuration in force.
    #[command(
        after_help = "A context is a controller with its CA certificate and its session. The file is ~/.config/nv/config.toml \
                            (--config-file, NV_CONFIG).\nFor each setting an option counts first, then the environment, then the \
                            context, then the default; 'view --show-origin' says which it was.\n\nExamples:\n  \
                            nvctl config set-context lab --server https://10.0.0.5:10443 --ca lab.pem --use\n  \
                            nvctl login\n  nvctl config get-contexts\n  nvctl config use-context prod\n  \
                            nvctl --context lab get workloads"
    )]
    Config {
        /// What; without it: view --show-origin.
        #[command(subcommand)]
        command: Option<ConfigCommand>,
    },
}

/// What `describe` knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Describable {
    /// Its groups, mode, rules, conversations and violations.
    #[value(alias = "workloads", alias = "wl")]
    Workload,
    /// Its criteria, members and rules.
    #[value(alias = "groups")]
    Group,
    /// Its place, groups, hits, and what it decided.
    #[value(alias = "rules")]
    Rule,
    /// Its mode, members, rules and violations.
    #[value(alias = "services", alias = "svc")]
    Service,
    /// Its state and workloads.
    #[value(alias = "nodes")]
    Node,
}

/// What `get` knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Containers and network namespaces.
    #[value(alias = "workload", alias = "wl")]
    Workloads,
    /// Named sets of workloads or addresses.
    #[value(alias = "group")]
    Groups,
    /// Ordered rules.
    #[value(alias = "rule")]
    Rules,
    /// Services with their modes.
    #[value(alias = "service", alias = "svc")]
    Services,
    /// Who talks to whom.
    #[value(alias = "conversation", alias = "conv")]
    Conversations,
    /// What no rule allows.
    #[value(alias = "violation")]
    Violations,
    /// Hosts with an agent.
    #[value(alias = "node")]
    Nodes,
}

/// What `delete` knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Deletable {
    /// A group.
    #[value(alias = "groups")]
    Group,
    /// A rule.
    #[value(alias = "rules")]
    Rule,
}

/// Mode of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModeArg {
    /// Let everything pass and learn.
    #[value(name = "Discover", alias = "discover")]
    Discover,
    /// Let everything pass and report.
    #[value(name = "Monitor", alias = "monitor")]
    Monitor,
    /// Let only what rules allow pass.
    #[value(name = "Protect", alias = "protect")]
    Protect,
}

impl ModeArg {
    /// Name as REST has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Discover => "Discover",
            Self::Monitor => "Monitor",
            Self::Protect => "Protect",
        }
    }
}

/// What `explain --expect` asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Expect {
    /// Passes.
    Allow,
    /// Does not pass.
    Deny,
}

/// Self tests.
#[derive(Debug, Subcommand)]
pub enum Connectivity {
    /// Make two network namespaces, and see that what a rule allows passes and what none allows does not.
    ///
    /// Needs root on a host whose agent watches network namespaces. Everything it makes is removed at the end.
    Test {
        /// Folder of named network namespaces that the agent watches.
        #[arg(long, default_value = "/run/netns")]
        netns_dir: PathBuf,
        /// Prefix that the agent asks of a namespace's name.
        #[arg(long, default_value = "")]
        prefix: String,
        /// Seconds to wait for each step.
        #[arg(long, default_value_t = 20)]
        timeout: u64,
    },
}

/// For those who help.
#[derive(Debug, Subcommand)]
pub enum Diag {
    /// Write a support bundle (tar.gz): nodes, workloads, policy, recent flows, metrics, and what this host's kernel has. No secrets.
    ///
    /// What cannot be had is left out and said; without a controller the bundle has this host alone. Run it on the node that has trouble.
    #[command(after_help = "Example: nvctl diag bundle -w case-17.tar.gz")]
    Bundle {
        /// File to make [default: nv-bundle-TIME.tar.gz]
        #[arg(short = 'w', long, value_name = "FILE")]
        write: Option<PathBuf>,
    },
}

/// What a status can be asked of.
#[derive(Debug, Subcommand)]
pub enum StatusOf {
    /// What was counted at a workload's interfaces: packets, flows and verdicts in both directions, with a reason for every drop.
    Endpoint {
        /// Name or id of a workload, or name of an interface on its host.
        #[arg(add = ArgValueCompleter::new(complete::workloads))]
        name: String,
    },
}
