//! `countersign role`: what ledger keys may do. A threshold of roots gives and takes roles; an entry replaces all roles of its actor,
//! so `grant` and `revoke` start from those in force.

use alloy_primitives::{Address, B256};
use clap::Subcommand;
use countersign_registry::Effective;
use countersign_registry::entries::{Entry, payload};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::page::{Page, PageArgs, Row};
use crate::resolve;
use crate::values;
use crate::write::{By, Draft, WriteArgs};

/// Verbs.
#[derive(Debug, Subcommand)]
pub enum RoleCommand {
    /// Give roles to a ledger key
    Grant {
        /// The ledger key's address
        actor: String,
        /// admin, issuer, watchdog, approver, revoker
        #[arg(required = true, value_delimiter = ',')]
        roles: Vec<String>,
        /// The actor's sealing key (64 hexadecimal digits), which senders of deliveries need
        #[arg(long, value_name = "HEX")]
        x25519: Option<String>,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Take roles from a ledger key
    Revoke {
        /// The ledger key's address
        actor: String,
        /// The roles to take; none: all
        #[arg(value_delimiter = ',')]
        roles: Vec<String>,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
    /// List ledger keys and their roles
    List {
        /// Only those with this role
        #[arg(long, value_name = "ROLE")]
        role: Option<String>,
        /// Which part of the list
        #[command(flatten)]
        page: PageArgs,
    },
}

/// A ledger key as printed.
#[derive(Debug, Serialize)]
pub struct ActorRow {
    /// The address.
    pub actor: Address,
    /// Role names.
    pub roles: Vec<String>,
    /// Login or host name it is bound to.
    pub subject: Option<String>,
    /// Its sealing key.
    pub x25519: Option<B256>,
    /// Whether it is locked.
    pub locked: bool,
}

impl ActorRow {
    /// The row of every ledger key on the ledger.
    pub fn all(view: &Effective) -> impl Iterator<Item = Self> {
        view.actors.iter().map(|(address, actor)| Self {
            actor: *address,
            roles: values::role_names(actor.roles),
            subject: actor.subject.map(|id| {
                let user = view.users.get(&id).map(|user| format!("user {}", user.login));
                let host = || view.hosts.get(&id).map(|host| format!("host {}", host.name));
                user.or_else(host).unwrap_or_else(|| id.to_string())
            }),
            x25519: actor.x25519,
            locked: actor.locked,
        })
    }
}

impl Row for ActorRow {
    const HEADING: &'static [&'static str] = &["ACTOR", "ROLES", "BOUND TO", "LOCKED"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.actor.to_string(),
            self.roles.join(","),
            self.subject.clone().unwrap_or_default(),
            if self.locked { "locked".to_owned() } else { String::new() },
        ]
    }
}

/// Runs the verb.
///
/// # Errors
/// See [`CliError`].
pub async fn run(context: &Context, command: RoleCommand) -> Result<(), CliError> {
    let view = context.view().await?;
    match command {
        RoleCommand::Grant { actor, roles, x25519, write } => {
            let actor = resolve::address("ACTOR", &actor)?;
            let known = view.ahead.actors.get(&actor).cloned().unwrap_or_default();
            let bits = known.roles | values::roles(&roles)?;
            let x25519 = x25519.map(|text| values::bytes32("--x25519", &text)).transpose()?.or(known.x25519);
            let about = format!("roles of {actor}: {}", values::role_names(bits).join(","));
            let mut draft = Draft::begin(context, &write, By::Roots)?;
            let entry = payload::RoleSet { actor, roles: bits, x25519: x25519.unwrap_or_default() };
            draft.entry(&about, None, Entry::RoleSet(entry))?;
            draft.commit(context, &view).await
        }
        RoleCommand::Revoke { actor, roles, write } => {
            let actor = resolve::address("ACTOR", &actor)?;
            let known = view
                .ahead
                .actors
                .get(&actor)
                .cloned()
                .ok_or_else(|| CliError::Unknown { kind: "actor", name: actor.to_string() })?;
            let bits = if roles.is_empty() { 0 } else { known.roles & !values::roles(&roles)? };
            let about = format!("roles of {actor}: {}", values::role_names(bits).join(","));
            let mut draft = Draft::begin(context, &write, By::Roots)?;
            let entry = payload::RoleSet { actor, roles: bits, x25519: known.x25519.unwrap_or_default() };
            draft.entry(&about, None, Entry::RoleSet(entry))?;
            draft.commit(context, &view).await
        }
        RoleCommand::List { role, page } => {
            let role = role.map(|role| values::roles(std::slice::from_ref(&role)).map(|_| role)).transpose()?;
            let rows =
                ActorRow::all(&view.effective).filter(|row| role.as_ref().is_none_or(|role| row.roles.contains(role)));
            context.printer.result(&Page::cut(rows, &page)?)
        }
    }
}
