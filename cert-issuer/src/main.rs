//! `countersign-issuer`: parses arguments, calls the library, prints one error, returns an exit code.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use countersign_issuer::config::Config;
use countersign_issuer::run::{Service, read_status};
use tokio::signal::unix::{SignalKind, signal};

/// Answers requests for certificates on the ledger.
#[derive(Debug, Parser)]
#[command(name = "countersign-issuer", version)]
struct Arguments {
    /// The configuration
    #[arg(
        long,
        global = true,
        env = "COUNTERSIGN_ISSUER_CONFIG",
        value_name = "FILE",
        default_value = "/etc/countersign/issuer.toml"
    )]
    config: PathBuf,
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
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(error) => return fail(&error.to_string(), 2),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.to_string(), 1),
    };
    let done = match arguments.command {
        Command::Run => runtime.block_on(run(config)),
        Command::CheckConfig => runtime.block_on(Service::open(config)).map(|_| ()).map_err(|error| error.to_string()),
        Command::Status => status(&config),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, 1),
    }
}

async fn run(config: Config) -> Result<(), String> {
    let terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let stop = async move {
        let (mut terminate, mut interrupt) = (terminate, interrupt);
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let service = Service::open(config).await.map_err(|error| error.to_string())?;
    say("event=started");
    service.run(stop, say).await;
    say("event=stopped");
    Ok(())
}

fn status(config: &Config) -> Result<(), String> {
    let status = read_status(config).map_err(|error| error.to_string())?;
    let text = serde_json::to_string_pretty(&status).map_err(|error| error.to_string())?;
    writeln!(std::io::stdout(), "{text}").map_err(|error| error.to_string())
}

/// One line on stderr, which the journal keeps; nothing can be done about a stderr that is gone.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "countersign-issuer: {line}");
}

fn fail(message: &str, code: u8) -> ExitCode {
    say(message);
    ExitCode::from(code)
}
