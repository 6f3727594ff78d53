//! The commands and the flags that all of them take. Each flag can also be given as `COUNTERSIGN_…` (see [`command`]), and most
//! global ones in a configuration file.

use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::Format;

/// SSH access that a public ledger countersigns.
#[derive(Debug, Parser)]
#[command(
    name = "countersign",
    version,
    propagate_version = true,
    max_term_width = 110,
    after_help = "Each flag can also be given in the environment: --some-flag as COUNTERSIGN_SOME_FLAG.\n\
                  Exit codes: 0 done, 1 refused or failed, 2 wrong usage or configuration."
)]
pub struct Cli {
    /// Flags of all commands.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of all commands.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Read this configuration file instead of the standard ones
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub config: Option<PathBuf>,
    /// The realm file: pins the realm, the contract and the chain
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub realm: Option<PathBuf>,
    /// How to print results
    #[arg(long, global = true, value_enum, help_heading = "Global options")]
    pub format: Option<Format>,
    /// Write as this actor; its password comes from --password-file, COUNTERSIGN_KEYSTORE_PASSWORD or a prompt
    #[arg(long, global = true, value_name = "KEYSTORE", help_heading = "Global options")]
    pub as_actor: Option<PathBuf>,
    /// Take the keystores' password from the first line of this file
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub password_file: Option<PathBuf>,
    /// No remarks and no progress on stderr
    #[arg(long, short, global = true, help_heading = "Global options")]
    pub quiet: bool,
}

/// The commands, by noun.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make, show and govern a realm
    #[command(subcommand)]
    Realm(crate::realm::RealmCommand),
    /// Give and take roles (by the roots)
    #[command(subcommand)]
    Role(crate::role::RoleCommand),
    /// SSH certificate authorities
    #[command(subcommand)]
    Ca(crate::ca::CaCommand),
    /// People
    #[command(subcommand)]
    User(crate::user::UserCommand),
    /// Groups of people
    #[command(subcommand)]
    Group(crate::group::GroupCommand),
    /// Machines
    #[command(subcommand)]
    Host(crate::host::HostCommand),
    /// Labels of hosts and users
    #[command(subcommand)]
    Label(crate::label::LabelCommand),
    /// Users' SSH keys
    #[command(subcommand)]
    Key(crate::key::KeyCommand),
    /// Who may log in where, as what
    #[command(subcommand)]
    Grant(crate::grant::GrantCommand),
    /// Bind ledger keys to users and hosts
    #[command(subcommand)]
    Member(crate::member::MemberCommand),
    /// Names of payloads that are delivered
    #[command(subcommand)]
    Payload(crate::payload::PayloadCommand),
    /// Bytes on the ledger for everybody
    #[command(subcommand)]
    Data(crate::data::DataCommand),
    /// Make a ledger key
    #[command(subcommand)]
    Actor(crate::actor::ActorCommand),
    /// Make a device's keys, enrol it, end it
    #[command(subcommand)]
    Device(crate::device::DeviceCommand),
    /// Certificates where the issuer's ledger key and the CA's key are in different hands
    #[command(subcommand)]
    Batch(crate::batch::BatchCommand),
    /// Issue a certificate, directly, as a CA holder
    Issue(crate::issue::IssueArgs),
    /// Ask for a certificate through the ledger
    Request(crate::request::RequestArgs),
    /// Approve a request
    Approve(crate::request::ApproveArgs),
    /// Deny a request
    Deny(crate::request::DenyArgs),
    /// List requests
    Requests(crate::request::RequestsArgs),
    /// Lock at once; by the roots also for good
    #[command(subcommand)]
    Revoke(crate::revoke::RevokeCommand),
    /// End locks (by the roots)
    Unlock(crate::revoke::UnlockArgs),
    /// Bring a removed user or host back as what it was (by the roots)
    Restore(crate::waiting::RestoreArgs),
    /// List directory additions that do not count yet
    Waiting(crate::waiting::WaitingArgs),
    /// Confirm another admin's additions
    Confirm(crate::waiting::ConfirmArgs),
    /// Seal a file to hosts, users or ledger keys
    Send(crate::mail::SendArgs),
    /// List what was delivered to this device
    Inbox(crate::inbox::InboxArgs),
    /// What was sealed and sent
    #[command(subcommand)]
    Delivery(crate::delivery::DeliveryCommand),
    /// The places that keep sealed blocks
    #[command(subcommand)]
    Store(crate::store::StoreCommand),
    /// Receive what was delivered to this device
    Fetch(crate::fetch::FetchArgs),
    /// Print the ledger's entries
    Log(crate::log::LogArgs),
    /// Prove every shard's head and fold its entries again
    Verify(crate::verify::VerifyArgs),
    /// What holds now, in short
    Status(crate::status::StatusArgs),
    /// Read a certificate, key or signed file
    Inspect(crate::inspect::InspectArgs),
    /// Replay a host's decision about a certificate, offline
    Explain(crate::explain::ExplainArgs),
    /// Sessions on this host: who is in, until when
    #[command(subcommand)]
    Sessions(crate::sessions::SessionsCommand),
    /// What is wrong with this host: sshd, helper, snapshot, lists, names
    Doctor(crate::doctor::DoctorArgs),
    /// Send an actor's signed writes
    Submit(crate::submit::SubmitArgs),
    /// Print a completion script
    Completions(crate::completions::CompletionsArgs),
}

/// The command with the environment variables that mirror its flags: `--some-flag` is `COUNTERSIGN_SOME_FLAG`, whatever the
/// subcommand. What makes a denial final is typed each time.
pub fn command() -> clap::Command {
    mirror(Cli::command())
}

fn mirror(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| match arg.get_long() {
        Some("help" | "version" | "permanently") | None => arg,
        Some(long) => {
            let name = format!("COUNTERSIGN_{}", long.replace('-', "_").to_uppercase());
            let is_switch = matches!(arg.get_action(), clap::ArgAction::SetTrue);
            let arg = arg.env(name).hide_env(true);
            // `COUNTERSIGN_QUIET=1` is meant as it looks.
            if is_switch { arg.value_parser(clap::builder::BoolishValueParser::new()) } else { arg }
        }
    });
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, mirror))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_are_consistent() {
        command().debug_assert();
    }
}
