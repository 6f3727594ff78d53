//! `countersign data`: bytes on the ledger for everybody, such as a public key or a notice. They need no IPFS and no recipient.

use std::path::PathBuf;

use alloy_primitives::{Address, Bytes};
use clap::Subcommand;
use countersign_registry::Id;
use countersign_registry::entries::{Entry, payload};
use countersign_registry::realm::EntryRef;
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::page::{Page, PageArgs, Row};
use crate::resolve;
use crate::write::{By, Draft, WriteArgs};

/// What one entry of its class may hold, less the rest of its payload.
pub const MAX_BYTES: usize = 24 * 1024 - 512;

/// Verbs.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Put a file's bytes on the ledger, for everybody and for ever
    Add {
        /// [a-z0-9._-]{1,63}
        name: String,
        /// The file
        file: PathBuf,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
    /// List public data
    List {
        /// Which part of the list
        #[command(flatten)]
        page: PageArgs,
    },
    /// Write public data to stdout as it is
    Cat {
        /// Id, or a name that only one has
        data: String,
    },
}

/// Public data as printed.
#[derive(Debug, Serialize)]
pub struct DataRow {
    /// Record id.
    pub id: Id,
    /// Its name.
    pub name: String,
    /// Who wrote it.
    pub actor: Address,
    /// How many bytes.
    pub bytes: usize,
    /// The entry.
    #[serde(serialize_with = "crate::output::place")]
    pub at: EntryRef,
}

impl Row for DataRow {
    const HEADING: &'static [&'static str] = &["ID", "NAME", "BYTES", "ACTOR"];
    fn cells(&self) -> Vec<String> {
        vec![self.id.to_string(), self.name.clone(), self.bytes.to_string(), self.actor.to_string()]
    }
}

/// Runs the verb.
///
/// # Errors
/// See [`CliError`].
pub async fn run(context: &Context, command: DataCommand) -> Result<(), CliError> {
    let view = context.view().await?;
    match command {
        DataCommand::Add { name, file, write } => {
            let bytes = std::fs::read(&file).map_err(|source| CliError::File { path: file.clone(), source })?;
            if bytes.len() > MAX_BYTES {
                let problem = format!("has {} bytes; expected at most {MAX_BYTES}", bytes.len());
                return Err(CliError::Content { path: file, problem });
            }
            let mut draft = Draft::begin(context, &write, By::Actor)?;
            draft.record(&format!("public data {name}"), |r| {
                Entry::PublicData(payload::PublicData { r, name, data: Bytes::from(bytes) })
            })?;
            draft.commit(context, &view).await
        }
        DataCommand::List { page } => {
            let rows = view.effective.public_data.iter().map(|(id, data)| DataRow {
                id: *id,
                name: data.name.clone(),
                actor: data.actor,
                bytes: data.data.len(),
                at: data.at,
            });
            context.printer.result(&Page::cut(rows, &page)?)
        }
        DataCommand::Cat { data: text } => {
            let known = &view.effective.public_data;
            let by_id = resolve::parse_id(&text).and_then(|id| known.get(&id));
            let by_name: Vec<_> = known.values().filter(|data| data.name == text).collect();
            match (by_id, by_name.as_slice()) {
                (Some(data), _) => context.printer.raw(&data.data),
                (None, [data]) => context.printer.raw(&data.data),
                (None, []) => Err(CliError::Unknown { kind: "public data", name: text }),
                (None, several) => Err(CliError::Ambiguous { kind: "public data", name: text, count: several.len() }),
            }
        }
    }
}
