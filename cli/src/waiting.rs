//! `countersign waiting`, `confirm` and `restore`: directory additions that do not count yet, the second admin's yes to them, and
//! bringing a removed user or host back as what it was.

use alloy_primitives::Address;
use clap::Args;
use countersign_registry::Id;
use countersign_registry::entries::{Entry, Kind, payload};
use countersign_registry::realm::EntryRef;
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::output::time;
use crate::page::{Page, PageArgs, Row};
use crate::resolve;
use crate::write::{By, Draft, WriteArgs, bytes16};

/// Which part of the list.
#[derive(Debug, Args)]
pub struct WaitingArgs {
    /// Which part of the list
    #[command(flatten)]
    page: PageArgs,
}

/// What is confirmed.
#[derive(Debug, Args)]
pub struct ConfirmArgs {
    /// Ids of waiting additions
    #[arg(required = true)]
    addition: Vec<String>,
    /// Who writes it, and where to
    #[command(flatten)]
    write: WriteArgs,
}

/// What is restored.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The record's id, or the login or name that it had
    record: String,
    /// Who writes it, and where to
    #[command(flatten)]
    write: WriteArgs,
}

/// A waiting addition as printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct WaitingRow {
    /// Record id; what `confirm` names.
    pub id: Id,
    /// The kind's name.
    pub kind: String,
    /// Who wrote it.
    pub writer: Address,
    /// Unix seconds before which it does not count.
    pub not_before: u64,
    /// Distinct admins so far, the writer included.
    pub confirmations: u64,
    /// Distinct admins needed.
    pub quorum: u64,
    /// The entry.
    #[serde(serialize_with = "crate::output::place")]
    pub at: EntryRef,
}

impl Row for WaitingRow {
    const HEADING: &'static [&'static str] = &["ID", "KIND", "ADMINS", "NOT BEFORE", "WRITER"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.kind.clone(),
            format!("{} of {}", self.confirmations, self.quorum),
            time(self.not_before),
            self.writer.to_string(),
        ]
    }
}

/// Lists.
///
/// # Errors
/// See [`CliError`].
pub async fn list(context: &Context, args: WaitingArgs) -> Result<(), CliError> {
    let view = context.view().await?;
    let rows = view.effective.waiting.iter().map(|waiting| WaitingRow {
        id: waiting.id,
        kind: Kind(waiting.kind).to_string(),
        writer: waiting.writer,
        not_before: waiting.not_before,
        confirmations: waiting.confirmations,
        quorum: waiting.quorum,
        at: waiting.at,
    });
    context.printer.result(&Page::cut(rows, &args.page)?)
}

/// Confirms.
///
/// # Errors
/// See [`CliError`].
pub async fn confirm(context: &Context, args: ConfirmArgs) -> Result<(), CliError> {
    let view = context.view().await?;
    let ids = args
        .addition
        .iter()
        .map(|text| {
            resolve::parse_id(text)
                .filter(|id| view.effective.waiting.iter().any(|waiting| waiting.id == *id))
                .ok_or_else(|| CliError::Unknown { kind: "waiting addition", name: text.clone() })
        })
        .collect::<Result<Vec<Id>, _>>()?;
    let mut draft = Draft::begin(context, &args.write, By::Actor)?;
    draft.entry(&format!("confirm {}", args.addition.join(" ")), ids.first().copied(), Entry::Confirm(ids))?;
    draft.commit(context, &view).await
}

/// Restores.
///
/// # Errors
/// See [`CliError`].
pub async fn restore(context: &Context, args: RestoreArgs) -> Result<(), CliError> {
    let view = context.view().await?;
    let wanted = resolve::parse_id(&args.record);
    let found: Vec<_> =
        view.ahead.removed.iter().filter(|(id, removed)| Some(**id) == wanted || removed.name == args.record).collect();
    let (id, removed) = match found.as_slice() {
        [one] => *one,
        [] => return Err(CliError::Unknown { kind: "removed user or host", name: args.record }),
        several => {
            let count = several.len();
            return Err(CliError::Ambiguous { kind: "removed user or host", name: args.record, count });
        }
    };
    let entry = payload::Restore { kind: removed.kind, id: bytes16(*id), name: removed.name.clone(), uid: removed.uid };
    let mut draft = Draft::begin(context, &args.write, By::Roots)?;
    draft.entry(&format!("restore {}", removed.name), Some(*id), Entry::Restore(entry))?;
    draft.commit(context, &view).await
}
