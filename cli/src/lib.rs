//! What a person types: `countersign`. One module per noun or verb; each prints one result on stdout, as text or JSON, and says all
//! else on stderr. Nothing that is printed rests on the bare word of a node.

pub mod actor;
pub mod args;
pub mod batch;
pub mod batch_file;
pub mod ca;
pub mod completions;
pub mod config;
pub mod context;
pub mod data;
pub mod decode;
pub mod delivery;
pub mod deploy;
pub mod device;
pub mod doctor;
pub mod error;
pub mod explain;
pub mod fetch;
pub mod files;
pub mod grant;
pub mod group;
pub mod host;
pub mod inbox;
pub mod inspect;
pub mod issue;
pub mod key;
pub mod label;
pub mod log;
pub mod mail;
pub mod member;
pub mod migrate;
pub mod output;
pub mod page;
pub mod payload;
pub mod proposal;
pub mod realm;
pub mod realm_sign;
pub mod request;
pub mod resolve;
pub mod revoke;
pub mod role;
pub mod roots;
pub mod send;
pub mod sessions;
pub mod signed;
pub mod status;
pub mod store;
pub mod submit;
pub mod user;
pub mod values;
pub mod verify;
pub mod waiting;
pub mod write;

use std::ffi::OsString;
use std::process::ExitCode;

use args::{Cli, Command};
use clap::FromArgMatches;
use config::Format;
use context::Context;
use error::CliError;

/// Parses the arguments, runs the command, prints one error if there is one.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = args::command().try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // clap's own exit codes: 0 for help and version, 2 for wrong usage. Nothing can be done about a closed stream.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let mut format = cli.global.format.unwrap_or_default();
    match execute(cli, &mut format) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&error, format);
            ExitCode::from(error.exit_code())
        }
    }
}

fn tell(error: &CliError, format: Format) {
    let (message, hint) = (error.to_string(), error.hint());
    if format == Format::Json {
        let reason = match error {
            CliError::Issue(error) => error.reason().map(|reason| reason.to_string()),
            _ => None,
        };
        let exit = error.exit_code();
        let error = serde_json::json!({ "message": message, "hint": hint, "reason": reason, "exit": exit });
        output::message(&serde_json::json!({ "error": error }).to_string());
        return;
    }
    output::message(&format!("countersign: {}", output::escape(&message)));
    if let Some(hint) = hint {
        output::message(&format!("hint: {hint}"));
    }
}

/// Leaves in `format` what the configuration says, once it is known.
fn execute(cli: Cli, format: &mut Format) -> Result<(), CliError> {
    let context = Context::new(&cli.global)?;
    *format = context.printer.format();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Refused(format!("no asynchronous runtime: {error}")))?;
    runtime.block_on(dispatch(&context, cli.command))
}

async fn dispatch(context: &Context, command: Command) -> Result<(), CliError> {
    match command {
        Command::Realm(command) => realm::run(context, command).await,
        Command::Role(command) => role::run(context, command).await,
        Command::Ca(command) => ca::run(context, command).await,
        Command::User(command) => user::run(context, command).await,
        Command::Group(command) => group::run(context, command).await,
        Command::Host(command) => host::run(context, command).await,
        Command::Label(command) => label::run(context, command).await,
        Command::Key(command) => key::run(context, command).await,
        Command::Grant(command) => grant::run(context, command).await,
        Command::Member(command) => member::run(context, command).await,
        Command::Payload(command) => payload::run(context, command).await,
        Command::Data(command) => data::run(context, command).await,
        Command::Actor(command) => actor::run(context, command).await,
        Command::Device(command) => device::run(context, command).await,
        Command::Batch(command) => batch::run(context, command).await,
        Command::Issue(args) => issue::run(context, args).await,
        Command::Request(args) => request::run(context, args).await,
        Command::Approve(args) => request::approve(context, args).await,
        Command::Deny(args) => request::deny(context, args).await,
        Command::Requests(args) => request::list(context, args).await,
        Command::Revoke(command) => revoke::run(context, command).await,
        Command::Unlock(args) => revoke::unlock(context, args).await,
        Command::Restore(args) => waiting::restore(context, args).await,
        Command::Waiting(args) => waiting::list(context, args).await,
        Command::Confirm(args) => waiting::confirm(context, args).await,
        Command::Send(args) => mail::run(context, args).await,
        Command::Inbox(args) => inbox::run(context, args).await,
        Command::Delivery(command) => delivery::run(context, command).await,
        Command::Store(command) => store::run(context, command).await,
        Command::Fetch(args) => fetch::run(context, args).await,
        Command::Log(args) => log::run(context, args).await,
        Command::Verify(args) => verify::run(context, args).await,
        Command::Status(args) => status::run(context, args).await,
        Command::Inspect(args) => inspect::run(context, &args),
        Command::Explain(args) => explain::run(context, &args),
        Command::Sessions(command) => sessions::run(context, command),
        Command::Doctor(args) => doctor::run(context, args),
        Command::Submit(args) => submit::run(context, args).await,
        Command::Completions(args) => completions::run(context, &args),
    }
}
