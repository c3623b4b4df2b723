//! `nv-controller`: reads its configuration, starts the library, waits for a signal.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nv_controller::maintenance::StoreCommand;
use nv_controller::{Cli, Command, Config};
use tokio_util::sync::CancellationToken;

/// Exit code for a configuration that cannot be used (`EX_USAGE`).
const EXIT_CONFIG: u8 = 64;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_unset| "info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let config = match Config::from_cli(&cli) {
        Ok(config) => config,
        Err(error) => return fail(&anyhow::Error::new(error), EXIT_CONFIG),
    };
    if cli.check_config {
        say("the configuration can be used");
        return ExitCode::SUCCESS;
    }
    if let Some(node) = &cli.join_token {
        return match join_token(&config, node) {
            Ok(token) => {
                say(&token);
                ExitCode::SUCCESS
            }
            Err(error) => fail(&error, 1),
        };
    }
    if let Some(Command::Store(command)) = &cli.command {
        return match maintain(&config, command) {
            Ok(said) => {
                say(said.trim_end());
                ExitCode::SUCCESS
            }
            Err(error) => fail(&error, 1),
        };
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into(), 1),
    };
    match runtime.block_on(serve(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, 1),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn join_token(config: &Config, node: &str) -> anyhow::Result<String> {
    nv_controller::create_join_token(config, &node.parse()?).await
}

#[tokio::main(flavor = "current_thread")]
async fn maintain(config: &Config, command: &StoreCommand) -> anyhow::Result<String> {
    nv_controller::maintenance::run(config, command).await
}

/// Each agent and each user is an open file: as many as the system lets this process have.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    raise_file_limit();
    let shutdown = CancellationToken::new();
    let handle = nv_controller::start(config, shutdown.clone()).await?;
    if let Some(password) = handle.admin_password() {
        say(&format!(
            "first start: the password of 'admin' is {password} - it is not shown again"
        ));
    }
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        stopped = tokio::signal::ctrl_c() => stopped?,
    }
    shutdown.cancel();
    handle.wait().await;
    Ok(())
}

fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "error: {error:#}");
    ExitCode::from(code)
}
