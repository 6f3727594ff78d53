//! `countersign member`: binds a ledger key, and the delivery key of the same device, to a user or a host. The device makes both keys
//! itself (`countersign actor new`, `countersign device new`); only their public halves are typed here.

use clap::Subcommand;
use countersign_registry::Address;
use countersign_registry::entries::{Entry, payload};

use crate::context::Context;
use crate::error::CliError;
use crate::page::{Page, PageArgs};
use crate::resolve;
use crate::role::ActorRow;
use crate::values;
use crate::write::{By, Draft, WriteArgs, bytes16};

/// Verbs.
#[derive(Debug, Subcommand)]
pub enum MemberCommand {
    /// Bind a ledger key to a user or host
    Set {
        /// The ledger key's address
        actor: String,
        /// The user it belongs to
        #[arg(long, value_name = "USER", required_unless_present = "host")]
        user: Option<String>,
        /// The host it belongs to
        #[arg(long, value_name = "HOST", conflicts_with = "user")]
        host: Option<String>,
        /// The device's delivery key (64 hexadecimal digits)
        #[arg(long, value_name = "HEX")]
        x25519: Option<String>,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
    /// End that
    Remove {
        /// The ledger key's address
        actor: String,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
    /// List bound ledger keys
    List {
        /// Which part of the list
        #[command(flatten)]
        page: PageArgs,
    },
}

/// Runs the verb.
///
/// # Errors
/// See [`CliError`].
pub async fn run(context: &Context, command: MemberCommand) -> Result<(), CliError> {
    let view = context.view().await?;
    match command {
        MemberCommand::Set { actor, user, host, x25519, write } => {
            let actor = resolve::address("ACTOR", &actor)?;
            let (subject, about) = match (user, host) {
                (Some(user), _) => {
                    let (id, user) = resolve::user(&view.ahead, &user)?;
                    (id, format!("{actor} belongs to user {}", user.login))
                }
                (None, Some(host)) => {
                    let (id, host) = resolve::host(&view.ahead, &host)?;
                    (id, format!("{actor} belongs to host {}", host.name))
                }
                (None, None) => return Err(CliError::Missing { what: "whose key it is", flag: "--user or --host" }),
            };
            let x25519 = x25519.map(|text| values::bytes32("--x25519", &text)).transpose()?;
            if let Some(key) = x25519 {
                countersign_delivery::PublicKey::from_bytes(key.0)?;
            }
            let entry = payload::MemberSet {
                actor,
                member: true,
                subject: bytes16(subject),
                x25519: x25519.unwrap_or_default(),
            };
            let mut draft = Draft::begin(context, &write, By::ActorOrRoots)?;
            draft.entry(&about, Some(subject), Entry::MemberSet(entry))?;
            draft.commit(context, &view).await
        }
        MemberCommand::Remove { actor, write } => {
            let actor: Address = resolve::address("ACTOR", &actor)?;
            let known = view.ahead.actors.get(&actor).filter(|known| known.subject.is_some());
            if known.is_none() {
                return Err(CliError::Unknown { kind: "member", name: actor.to_string() });
            }
            let entry =
                payload::MemberSet { actor, member: false, subject: Default::default(), x25519: Default::default() };
            let mut draft = Draft::begin(context, &write, By::ActorOrRoots)?;
            draft.entry(&format!("{actor} is no member"), None, Entry::MemberSet(entry))?;
            draft.commit(context, &view).await
        }
        MemberCommand::List { page } => {
            let rows = ActorRow::all(&view.effective).filter(|row| row.subject.is_some());
            context.printer.result(&Page::cut(rows, &page)?)
        }
    }
}
