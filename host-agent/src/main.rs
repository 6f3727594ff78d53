//! The agent's command line: parse, call the library, print one error, exit. 0: done; 1: it failed, or the snapshot is not fresh;
//! 2: the command line is wrong.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use countersign_agent::agent::AgentError;
use countersign_agent::config::{Config, ConfigError, DEFAULT_PATH};
use countersign_agent::log::{Level, Line, Log, chain};
use countersign_agent::reason::Reason;
use countersign_agent::status::{Status, usable};
use countersign_agent::{run, verify};
use countersign_snapshot::Clock;

/// Keeps this host's snapshot of the ledger up to date and receives what is delivered to it.
#[derive(Debug, Parser)]
#[command(name = "countersign-agent", version)]
struct Arguments {
    /// The configuration file.
    #[arg(long, global = true, env = "COUNTERSIGN_AGENT_CONFIG", default_value = DEFAULT_PATH)]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Poll the ledger until stopped.
    Run,
    /// Sync, publish and receive once.
    Once,
    /// Show what the agent last did, and whether the snapshot is fresh.
    Status {
        /// How to show it.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Check the configuration and everything that it names.
    CheckConfig,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match execute(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            if let Some(hint) = error.hint() {
                eprintln!("hint: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}

fn execute(arguments: &Arguments) -> Result<ExitCode, AgentError> {
    let path = &arguments.config;
    match &arguments.command {
        Command::Run => {
            // What access depends on is refused at the start, as by check-config: later it would show as one failure after the other.
            let (_, wrong) = verify::check_start(path)?;
            let log = Log::for_process("countersign-agent");
            tell(&log, &wrong);
            runtime()?.block_on(run::run(path, log, Box::new(Clock::now)))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Once => {
            let (config, wrong) = verify::check_start(path)?;
            let log = Log::stderr();
            tell(&log, &wrong);
            let outcome = runtime()?.block_on(run::once(config, log, Box::new(Clock::now)))?;
            if let Some(failure) = outcome.failure {
                eprintln!("error: {failure}");
                return Ok(ExitCode::FAILURE);
            }
            if outcome.unfinished > 0 {
                eprintln!("error: {} deliveries wait; see countersign-agent status", outcome.unfinished);
                return Ok(ExitCode::FAILURE);
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Status { format } => status(&Config::load(path)?, *format),
        Command::CheckConfig => {
            verify::check_config(path)?;
            println!("{}: good", path.display());
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What is wrong with single stores and payloads: these do not work, and the host does.
fn tell(log: &Log, wrong: &[ConfigError]) {
    for error in wrong {
        let hint = error.hint().unwrap_or_default();
        let line = Line::reason(Reason::DeliverySetting).field("message", chain(error)).field("hint", hint);
        log.line(Level::Error, &line);
    }
}

fn status(config: &Config, format: Format) -> Result<ExitCode, AgentError> {
    let clock = Clock::now().map_err(AgentError::Clock)?;
    let now = clock.unix_secs;
    let status = match Status::read(config.state_dir.as_path()) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            eprintln!("hint: countersign-agent run, or once, writes it");
            return Ok(ExitCode::FAILURE);
        }
    };
    let usable = usable(&config.snapshot_dir(), &clock);
    match format {
        Format::Text => print!("{}", status.to_text(now, &usable)),
        Format::Json => match status.to_json(now, &usable) {
            Ok(json) => println!("{json}"),
            Err(error) => {
                eprintln!("error: {error}");
                return Ok(ExitCode::FAILURE);
            }
        },
    }
    Ok(if usable.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn runtime() -> Result<tokio::runtime::Runtime, AgentError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AgentError::Runtime)
}
