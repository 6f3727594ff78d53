//! `countersign payload`: the names under which hosts know what is delivered to them. Where a payload goes on a host, and who owns it
//! there, says the host's own configuration.

use clap::{Subcommand, ValueEnum};
use countersign_registry::Id;
use countersign_registry::entries::{Entry, payload};
use countersign_registry::realm::EntryRef;
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::page::{Page, PageArgs, Row};
use crate::write::{By, Draft, WriteArgs};

/// What a payload holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PayloadKind {
    /// An SSH certificate
    SshCertificate,
    /// An SSH key pair
    SshKeyPair,
    /// A certificate for an SSH host key
    HostCertificate,
    /// An X.509 private key and its certificate chain
    #[value(name = "x509-key-pair")]
    X509KeyPair,
    /// A secret of any form
    OpaqueSecret,
    /// Bytes for everybody, on the ledger itself
    PublicData,
}

impl PayloadKind {
    /// The number on the ledger.
    pub fn number(self) -> u8 {
        match self {
            Self::SshCertificate => 1,
            Self::SshKeyPair => 2,
            Self::HostCertificate => 3,
            Self::X509KeyPair => 4,
            Self::OpaqueSecret => 5,
            Self::PublicData => 6,
        }
    }

    /// The kind of a number.
    pub fn of_number(number: u8) -> Option<Self> {
        Self::value_variants().iter().copied().find(|kind| kind.number() == number)
    }

    /// The name of a number.
    pub fn name(number: u8) -> String {
        let known = Self::of_number(number).and_then(|kind| kind.to_possible_value());
        known.map_or_else(|| format!("kind {number}"), |value| value.get_name().to_owned())
    }
}

/// Verbs.
#[derive(Debug, Subcommand)]
pub enum PayloadCommand {
    /// Add a payload name
    Add {
        /// [a-z0-9._-]{1,63}
        name: String,
        /// What it holds
        #[arg(long, value_enum)]
        kind: PayloadKind,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Remove a payload name
    Remove {
        /// The name
        name: String,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
    /// List payload names
    List {
        /// Which part of the list
        #[command(flatten)]
        page: PageArgs,
    },
}

/// A payload name as printed.
#[derive(Debug, Serialize)]
pub struct PayloadRow {
    /// The name.
    pub name: String,
    /// What it holds.
    pub kind: String,
    /// Record id.
    pub id: Id,
    /// The entry that added it.
    #[serde(serialize_with = "crate::output::place")]
    pub at: EntryRef,
}

impl Row for PayloadRow {
    const HEADING: &'static [&'static str] = &["NAME", "KIND", "ID"];
    fn cells(&self) -> Vec<String> {
        vec![self.name.clone(), self.kind.clone(), self.id.to_string()]
    }
}

/// Runs the verb.
///
/// # Errors
/// See [`CliError`].
pub async fn run(context: &Context, command: PayloadCommand) -> Result<(), CliError> {
    let view = context.view().await?;
    match command {
        PayloadCommand::Add { name, kind, write } => {
            let mut draft = Draft::begin(context, &write, By::ActorOrRoots)?;
            draft.record(&format!("payload name {name}"), |r| {
                Entry::PayloadNameAdd(payload::PayloadNameAdd { r, name, payloadKind: kind.number() })
            })?;
            draft.commit(context, &view).await
        }
        PayloadCommand::Remove { name, write } => {
            let known = view.ahead.payload_names.get(&name);
            let id = known.ok_or_else(|| CliError::Unknown { kind: "payload name", name: name.clone() })?.id;
            let mut draft = Draft::begin(context, &write, By::ActorOrRoots)?;
            draft.entry(&format!("payload name {name}"), Some(id), Entry::Remove(vec![id]))?;
            draft.commit(context, &view).await
        }
        PayloadCommand::List { page } => {
            let rows = view.effective.payload_names.iter().map(|(name, payload)| PayloadRow {
                name: name.clone(),
                kind: PayloadKind::name(payload.payload_kind),
                id: payload.id,
                at: payload.at,
            });
            context.printer.result(&Page::cut(rows, &page)?)
        }
    }
}
