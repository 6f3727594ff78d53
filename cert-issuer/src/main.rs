//! `countersign-issuer`: parses arguments, calls the library, prints one error, returns an exit code.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use countersign_issuer::config::Config;
use countersign_issuer::run::{Service, StartError, read_status};
use countersign_issuer::watch::{self, Watch, WatchConfig};
use tokio::signal::unix::{SignalKind, signal};

/// Answers requests for certificates on the ledger, or watches those who do.
#[derive(Debug, Parser)]
#[command(name = "countersign-issuer", version)]
struct Arguments {
    /// The configuration [default: /etc/countersign/issuer.toml or COUNTERSIGN_ISSUER_CONFIG; of `watch`
    /// /etc/countersign/watchdog.toml or COUNTERSIGN_WATCHDOG_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Work until stopped
    Run,
    /// Read the configuration, open the keys, read the ledger once
    CheckConfig,
    /// Print what a running service last wrote, as JSON
    Status,
    /// Look at the batches that issuers log, and countersign them
    #[command(subcommand)]
    Watch(WatchCommand),
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum WatchCommand {
    /// Work until stopped
    Run,
    /// Read the configuration, open the keys, read the ledger once
    CheckConfig,
    /// Print what a running watchdog last wrote, as JSON
    Status,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.to_string(), 1),
    };
    let done = match arguments.command {
        Command::Watch(command) => {
            let file = config_file(arguments.config, "COUNTERSIGN_WATCHDOG_CONFIG", "/etc/countersign/watchdog.toml");
            let config = match WatchConfig::load(&file) {
                Ok(config) => config,
                Err(error) => return fail(&hinted(&error, error.hint()), 2),
            };
            match command {
                WatchCommand::Run => runtime.block_on(watch(config)),
                WatchCommand::CheckConfig => runtime.block_on(Watch::open(config)).map(|_| ()).map_err(start),
                WatchCommand::Status => watch::read_status(&config).map_err(text).and_then(|status| print(&status)),
            }
        }
        command => {
            let file = config_file(arguments.config, "COUNTERSIGN_ISSUER_CONFIG", "/etc/countersign/issuer.toml");
            let config = match Config::load(&file) {
                Ok(config) => config,
                Err(error) => return fail(&hinted(&error, error.hint()), 2),
            };
            match command {
                Command::CheckConfig => runtime.block_on(Service::open(config)).map(|_| ()).map_err(start),
                Command::Status => read_status(&config).map_err(text).and_then(|status| print(&status)),
                _ => runtime.block_on(run(config)),
            }
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, 1),
    }
}

fn config_file(flag: Option<PathBuf>, variable: &str, default: &str) -> PathBuf {
    flag.or_else(|| std::env::var_os(variable).map(PathBuf::from)).unwrap_or_else(|| PathBuf::from(default))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// A message, and on a line of its own what the reader can do about it.
fn hinted(error: impl std::fmt::Display, hint: Option<String>) -> String {
    hint.map_or_else(|| error.to_string(), |hint| format!("{error}\nhint: {hint}"))
}

fn start(error: StartError) -> String {
    hinted(&error, error.hint())
}

fn stopped() -> Result<impl Future<Output = ()>, String> {
    let mut terminate = signal(SignalKind::terminate()).map_err(text)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(text)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

async fn run(config: Config) -> Result<(), String> {
    let stop = stopped()?;
    let service = Service::open(config).await.map_err(start)?;
    say("event=started");
    service.run(stop, say).await;
    say("event=stopped");
    Ok(())
}

async fn watch(config: WatchConfig) -> Result<(), String> {
    let stop = stopped()?;
    let watch = Watch::open(config).await.map_err(start)?;
    say("event=started");
    watch.run(stop, say).await;
    say("event=stopped");
    Ok(())
}

fn print(status: &impl serde::Serialize) -> Result<(), String> {
    let status = serde_json::to_string_pretty(status).map_err(text)?;
    writeln!(std::io::stdout(), "{status}").map_err(text)
}

/// One line on stderr, which the journal keeps; nothing can be done about a stderr that is gone.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "countersign-issuer: {line}");
}

fn fail(message: &str, code: u8) -> ExitCode {
    say(message);
    ExitCode::from(code)
}
