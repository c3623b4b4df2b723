//! `nv-agent`: reads its configuration, starts the library, waits for a signal.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use nv_agent::{Cli, Command, Config, Target};
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
        let _ = writeln!(std::io::stdout(), "the configuration can be used");
        return ExitCode::SUCCESS;
    }
    let done = match cli.command {
        Some(Command::Dp { user }) => workers().and_then(|workers| workers.block_on(dp(config, user))),
        Some(Command::Purge) => nv_agent::purge(&config),
        Some(Command::Hook) => hook(&config),
        Some(Command::Runtime { program, arguments }) => {
            nv_agent::run_runtime(&program, &arguments, &config.hook_options())
        }
        Some(Command::HookInstall { target }) => install(target, cli.config.as_deref()),
        None => workers().and_then(|workers| workers.block_on(serve(config))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, 1),
    }
}

fn workers() -> anyhow::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    Ok(runtime)
}

async fn dp(config: Config, user: Option<u32>) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        if signalled().await.is_ok() {
            stop.cancel();
        }
    });
    nv_agent::run_dp(&config.pin_dir, &config.dp_socket, user, shutdown).await
}

/// Waits until this process is told to end.
async fn signalled() -> std::io::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        stopped = tokio::signal::ctrl_c() => stopped,
    }
}

fn hook(config: &Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let options = config.hook_options();
    let held = nv_agent::hook(std::io::stdin().lock(), &options);
    Ok(runtime.block_on(held)?)
}

fn install(target: Target, config: Option<&Path>) -> anyhow::Result<()> {
    let program = std::env::current_exe()?;
    let config = config.map(std::fs::canonicalize).transpose()?;
    nv_agent::print_instructions(
        target,
        &program,
        config.as_deref(),
        std::io::stdin().lock(),
        &mut std::io::stdout(),
        &mut std::io::stderr(),
    )?;
    Ok(())
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let handle = nv_agent::start(config, shutdown.clone()).await?;
    tokio::select! {
        told = signalled() => told?,
        () = shutdown.cancelled() => {}
    }
    shutdown.cancel();
    handle.wait().await
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "error: {error:#}");
    ExitCode::from(code)
}
