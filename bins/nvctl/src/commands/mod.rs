//! The commands.

mod apply;
mod capture;
mod config;
mod connectivity;
mod describe;
mod diag;
mod endpoint;
mod explain;
mod flows;
mod get;
pub(crate) mod policy;
mod quarantine;
mod session;
mod settings;
mod status;
mod store;

use reqwest::Method;
use serde_json::json;

use crate::cli::{Cli, Command, Deletable, Diag, StatusOf};
use crate::client::{Client, segment};
use crate::config::{Config, Given};
use crate::error::{CtlError, EXIT_OK};
use crate::output::{Output, note};

/// What every command works with.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) output: Output,
    pub(crate) no_input: bool,
}

impl Context {
    pub(crate) fn client(&self) -> Result<Client, CtlError> {
        Client::with_session(&self.config)
    }
}

/// Runs a command line and gives the exit code.
pub(crate) async fn run(cli: Cli, given: Given) -> Result<u8, CtlError> {
    let output = Output::new(&cli.global);
    // These work without a configuration that is right: one of them makes it so.
    match cli.command {
        Command::Config { command } => return config::run(&cli.global, given, &output, command),
        Command::Completion { shell } => {
            output.line(&crate::complete::script(shell)?)?;
            return Ok(EXIT_OK);
        }
        _ => {}
    }
    let config = match Config::new(&cli.global, given) {
        Err(error) if is_offline(&cli.command) => {
            note(&format!(
                "the configuration cannot be used; it is not needed here: {error}"
            ));
            Config::none()
        }
        read => read?,
    };
    let context = Context {
        config,
        output,
        no_input: cli.global.no_input,
    };
    match cli.command {
        Command::Login {
            username,
            password_file,
        } => session::login(&context, &username, password_file.as_deref()).await,
        Command::Logout => session::logout(&context).await,
        Command::Status {
            of: Some(StatusOf::Endpoint { name }),
            ..
        } => endpoint::run(&context, &name).await,
        Command::Status {
            of: None,
            wait,
            timeout,
        } => status::run(&context, wait, timeout).await,
        Command::Get(args) => get::run(&context, &args).await,
        Command::Describe { kind, name } => describe::run(&context, kind, &name).await,
        Command::Apply { file, dry_run, wait } => apply::run(&context, &file, dry_run, wait).await,
        Command::Delete { kind, names, yes } => delete(&context, kind, &names, yes).await,
        Command::SetMode { service, mode } => {
            let body = json!({"config": {"services": service, "policy_mode": mode.name()}});
            let answer = context
                .client()?
                .send(Method::PATCH, "/v1/service/config", Some(&body))
                .await?;
            note(&format!(
                "{}: {}{}",
                service.join(", "),
                mode.name(),
                at(answer.revision)
            ));
            Ok(EXIT_OK)
        }
        Command::Quarantine { workload: None, .. } => quarantine::list(&context).await,
        Command::Quarantine {
            workload: Some(workload),
            off,
            reason,
            wait,
        } => quarantine::set(&context, &workload, !off, reason.as_deref(), wait).await,
        Command::Settings { change, .. } if change.is_empty() => settings::show(&context).await,
        Command::Settings { change, wait } => settings::change(&context, &change, wait).await,
        Command::Flows(args) => flows::run(&context, &args).await,
        Command::Explain {
            from,
            to,
            port,
            app,
            expect,
        } => explain::run(&context, &explain::Question { from, to, port, app }, expect).await,
        Command::Policy(command) => policy::run(&context, command).await,
        Command::Capture(command) => capture::run(&context, command).await,
        Command::Store(command) => store::run(&context, command).await,
        Command::Connectivity(command) => connectivity::run(&context, command).await,
        Command::Diag(Diag::Bundle { write }) => diag::bundle(&context, write.as_deref()).await,
        // Done above.
        Command::Completion { .. } | Command::Config { .. } => Ok(EXIT_OK),
    }
}

/// Whether the command asks no controller.
const fn is_offline(command: &Command) -> bool {
    use policy::PolicyCommand::{Check, Diff, Replay, Test};
    match command {
        Command::Flows(args) => args.input.is_some(),
        Command::Policy(Check { .. } | Test { .. }) => true,
        Command::Policy(Diff { against, .. }) => against.is_some(),
        Command::Policy(Replay {
            policy, workloads, ..
        }) => !policy.is_empty() && workloads.is_some(),
        _ => false,
    }
}

/// ` (revision N)`, where the controller said so.
pub(crate) fn at(revision: Option<u64>) -> String {
    revision
        .map(|revision| format!(" (revision {revision})"))
        .unwrap_or_default()
}

async fn delete(context: &Context, kind: Deletable, names: &[String], yes: bool) -> Result<u8, CtlError> {
    let word = match kind {
        Deletable::Group => "group",
        Deletable::Rule => "rule",
    };
    if !yes && !confirm(context, &format!("delete {word} {}?", names.join(", ")))? {
        return Err(CtlError::Usage("not deleted".into()));
    }
    let client = context.client()?;
    for name in names {
        let path = match kind {
            Deletable::Group => format!("/v1/group/{}", segment(name)),
            Deletable::Rule => format!("/v1/policy/rule/{}", segment(name)),
        };
        let answer = client.send(Method::DELETE, &path, None).await?;
        note(&format!("{word} {name} deleted{}", at(answer.revision)));
    }
    Ok(EXIT_OK)
}

/// Asks on the terminal; without one, or with --no-input, it is an error that names the option.
fn confirm(context: &Context, question: &str) -> Result<bool, CtlError> {
    use std::io::{BufRead as _, IsTerminal as _, Write as _};
    if context.no_input || !std::io::stdin().is_terminal() {
        return Err(CtlError::Usage(format!("{question} say so with --yes")));
    }
    let io = |source| CtlError::Io {
        action: "cannot ask on the terminal".into(),
        source,
    };
    let mut err = std::io::stderr();
    write!(err, "{} [y/N] ", crate::output::escape(question, false))
        .and_then(|()| err.flush())
        .map_err(io)?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(io)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
