//! `countersign inbox`: what was delivered to this device, what was acknowledged, and what waits. Into envelopes it looks as the agent
//! does; nothing is written and nothing is acknowledged.

use std::path::PathBuf;

use alloy_primitives::Address;
use clap::Args;
use countersign_agent::receive::{self, Found, ReceiveError, Recipient, Sources};
use countersign_delivery::SecretKey;
use countersign_registry::realm::{Acknowledgement, EntryRef};
use countersign_registry::{Effective, Id};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::output::{now, time};
use crate::page::{Page, PageArgs, Row};
use crate::payload::PayloadKind;
use crate::store::StoreArgs;

/// Which part of it.
#[derive(Debug, Args)]
pub struct InboxArgs {
    /// This device's delivery key file
    #[arg(long, value_name = "FILE")]
    delivery_key: Option<PathBuf>,
    /// Where blocks come from
    #[command(flatten)]
    stores: StoreArgs,
    /// How many days back
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    days: u64,
    /// Which part of the list
    #[command(flatten)]
    page: PageArgs,
}

/// One thing that came.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct InboxRow {
    /// The delivery or envelope.
    pub id: Id,
    /// Payload name.
    pub payload: String,
    /// What it holds.
    pub kind: String,
    /// The sender's ledger key.
    pub sender: Address,
    /// `waiting`, `acknowledged`, `acknowledged-finally`, or `unknown` for an envelope that cannot be looked into now.
    pub state: &'static str,
    /// Since when, Unix seconds.
    pub since: u64,
    /// Why it cannot be opened as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The entry.
    #[serde(serialize_with = "crate::output::place")]
    pub at: EntryRef,
}

impl Row for InboxRow {
    const HEADING: &'static [&'static str] = &["ID", "PAYLOAD", "KIND", "STATE", "SINCE", "REASON"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.payload.clone(),
            self.kind.clone(),
            self.state.to_owned(),
            time(self.since),
            self.reason.unwrap_or_default().to_owned(),
        ]
    }
}

fn acknowledged(effective: &Effective, acknowledgement: &Acknowledgement) -> (&'static str, u64) {
    let is_final = acknowledgement.at.block <= effective.final_block.number;
    (if is_final { "acknowledged-finally" } else { "acknowledged" }, acknowledgement.at.time)
}

/// Lists what came.
///
/// # Errors
/// See [`CliError`].
pub async fn run(context: &Context, args: InboxArgs) -> Result<(), CliError> {
    let key_file = context
        .configured(args.delivery_key.clone(), |config| config.delivery_key.clone())
        .ok_or(CliError::Missing { what: "this device's delivery key", flag: "--delivery-key FILE" })?;
    let sealing_key = SecretKey::load_file(&key_file)?;
    let sources = Sources::new(args.stores.open(context)?);
    let address = context.actor_key()?.address();
    let view = context.view_back(args.days).await?;
    let effective = &view.effective;
    let recipient = Recipient { address, sealing_key: &sealing_key };
    recipient.check(effective).map_err(|error| CliError::Refused(error.to_string()))?;
    let mut rows = Vec::new();
    for (id, delivery) in effective.deliveries.iter().filter(|(_, delivery)| delivery.recipient == address) {
        let acknowledgement = effective.acknowledgements.get(id);
        let (state, since) = acknowledgement.map_or(("waiting", delivery.at.time), |one| acknowledged(effective, one));
        rows.push(InboxRow {
            id: *id,
            payload: delivery.payload_name.clone(),
            kind: PayloadKind::name(delivery.payload_kind),
            sender: delivery.actor,
            state,
            since,
            reason: None,
            at: delivery.at,
        });
    }
    let progress = context.printer.progress("looking into envelopes");
    for (id, envelope) in &effective.envelopes {
        let own = effective.envelope_acknowledgements.get(id).and_then(|by| by.get(&address));
        let (state, since, reason) = match own {
            Some(own) => {
                let (state, since) = acknowledged(effective, own);
                (state, since, None)
            }
            None => match receive::look(effective, *id, envelope, recipient, None, &sources, now()).await {
                Ok(Found::Nothing) => continue,
                Ok(Found::Payload(_) | Found::Done(_)) => ("waiting", envelope.at.time, None),
                // It is for this device: only its record asks for a prekey, and those are with the agent.
                Err(ReceiveError::PrekeyUnknown { .. } | ReceiveError::PrekeyUsed { .. }) => {
                    ("waiting", envelope.at.time, None)
                }
                Err(error) => ("unknown", envelope.at.time, Some(error.reason().as_str())),
            },
        };
        rows.push(InboxRow {
            id: *id,
            payload: envelope.payload_name.clone(),
            kind: PayloadKind::name(envelope.payload_kind),
            sender: envelope.actor,
            state,
            since,
            reason,
            at: envelope.at,
        });
    }
    drop(progress);
    rows.sort_by_key(|row| (row.at, row.id));
    context.printer.result(&Page::cut(rows, &args.page)?)
}
