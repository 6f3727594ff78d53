//! `countersign delivery`: what was sealed and sent, and letting go of blocks that are no longer needed.

use std::path::PathBuf;

use alloy_primitives::Address;
use clap::Subcommand;
use countersign_issuer::deliver::{self, Parcel};
use countersign_issuer::outbox::Due;
use countersign_registry::Id;
use countersign_registry::realm::EntryRef;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::context::Context;
use crate::error::CliError;
use crate::files;
use crate::issue::{PostArgs, duration, recipient};
use crate::output::now;
use crate::page::{Page, PageArgs, Row};
use crate::payload::PayloadKind;
use crate::write::{By, Draft, WriteArgs};

/// Verbs.
#[derive(Debug, Subcommand)]
pub enum DeliveryCommand {
    /// Seal an SSH certificate or key pair to a ledger key
    Send {
        /// The payload's name
        name: String,
        /// The recipient: a ledger key, `user:LOGIN` or `host:HOST`
        #[arg(long, value_name = "WHO")]
        to: String,
        /// An OpenSSH private key file
        #[arg(long, value_name = "FILE", required_unless_present = "certificate")]
        private_key: Option<PathBuf>,
        /// A certificate file
        #[arg(long, value_name = "FILE-cert.pub")]
        certificate: Option<PathBuf>,
        /// How it is sealed and stored
        #[command(flatten)]
        post: PostArgs,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
    /// List deliveries and whether they were acknowledged
    List {
        /// Only those to this recipient
        #[arg(long, value_name = "WHO")]
        to: Option<String>,
        /// How many days back
        #[arg(long, value_name = "DAYS", default_value_t = 30)]
        days: u64,
        /// Which part of the list
        #[command(flatten)]
        page: PageArgs,
    },
    /// Unpin the blocks of deliveries whose acknowledgement is final, or that nobody fetched in time
    Sweep {
        /// How it is sealed and stored
        #[command(flatten)]
        post: PostArgs,
        /// When to give up on an acknowledgement
        #[arg(long, value_name = "DURATION", default_value = "7d")]
        timeout: String,
        /// Which part of the list
        #[command(flatten)]
        page: PageArgs,
    },
}

/// A delivery as printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DeliveryRow {
    /// Record id.
    pub id: Id,
    /// Payload name.
    pub payload: String,
    /// What it holds.
    pub kind: String,
    /// The sender's ledger key.
    pub sender: Address,
    /// The recipient's ledger key.
    pub recipient: Address,
    /// `waiting`, `acknowledged`, or `acknowledged-finally`.
    pub state: &'static str,
    /// The entry.
    pub at: EntryRef,
}

impl Row for DeliveryRow {
    const HEADING: &'static [&'static str] = &["ID", "PAYLOAD", "KIND", "RECIPIENT", "STATE"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.payload.clone(),
            self.kind.clone(),
            self.recipient.to_string(),
            self.state.to_owned(),
        ]
    }
}

/// What was done about one block.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SweptRow {
    /// The delivery.
    pub delivery: Id,
    /// Its block.
    pub cid: String,
    /// `unpinned`, `unpinned-after-timeout`, `kept` or `other-digest`.
    pub outcome: &'static str,
}

impl Row for SweptRow {
    const HEADING: &'static [&'static str] = &["DELIVERY", "CID", "OUTCOME"];
    fn cells(&self) -> Vec<String> {
        vec![self.delivery.to_string(), self.cid.clone(), self.outcome.to_owned()]
    }
}

/// Runs the verb.
///
/// # Errors
/// See [`CliError`].
pub async fn run(context: &Context, command: DeliveryCommand) -> Result<(), CliError> {
    match command {
        DeliveryCommand::Send { name, to, private_key, certificate, post, write } => {
            let view = context.view().await?;
            let recipient = recipient(&view.effective, &to)?;
            let certificate = certificate.map(|path| files::read_text(&path)).transpose()?;
            let payload = match (private_key, certificate) {
                (Some(path), certificate) => {
                    let private = Zeroizing::new(files::read_text(&path)?);
                    deliver::key_pair_payload(&name, &private, certificate.as_deref())?
                }
                (None, Some(certificate)) => deliver::certificate_payload(&name, &certificate)?,
                (None, None) => {
                    return Err(CliError::Missing { what: "something to send", flag: "--private-key FILE" });
                }
            };
            let post = post.open(context)?;
            let mut draft = Draft::begin(context, &write, By::Actor)?;
            let parcel = Parcel { sender: draft.actor(), sender_key: &post.key, recipient, payload };
            let posted = deliver::post(&view.effective, parcel, &post.store, &post.outbox, now())?;
            draft.entry(&format!("delivery of {name} to {recipient}"), Some(posted.id), posted.entry)?;
            draft.commit(context, &view).await
        }
        DeliveryCommand::List { to, days, page } => {
            let view = context.view_back(days).await?;
            let effective = &view.effective;
            let to = to.map(|text| recipient(effective, &text)).transpose()?;
            let rows =
                effective.deliveries.iter().filter(|(_, delivery)| to.is_none_or(|to| delivery.recipient == to)).map(
                    |(id, delivery)| DeliveryRow {
                        id: *id,
                        payload: delivery.payload_name.clone(),
                        kind: PayloadKind::name(delivery.payload_kind),
                        sender: delivery.actor,
                        recipient: delivery.recipient,
                        state: match effective.acknowledgements.get(id) {
                            None => "waiting",
                            Some(ack) if ack.at.block <= effective.final_block.number => "acknowledged-finally",
                            Some(_) => "acknowledged",
                        },
                        at: delivery.at,
                    },
                );
            context.printer.result(&Page::cut(rows, &page)?)
        }
        DeliveryCommand::Sweep { post, timeout, page } => {
            let timeout = duration("--timeout", &timeout)?.get();
            let (store, outbox) = post.books(context)?;
            let days = timeout.div_ceil(86_400).saturating_add(1);
            let view = context.view_back(days).await?;
            let swept = deliver::sweep(&view.effective, &store, &outbox, now(), timeout)?;
            let rows = swept.into_iter().map(|swept| SweptRow {
                delivery: swept.note.delivery,
                cid: swept.note.cid.to_string(),
                outcome: match swept.due {
                    Due::Acknowledged => "unpinned",
                    Due::TimedOut => "unpinned-after-timeout",
                    Due::Wait => "kept",
                    Due::OtherDigest => "other-digest",
                },
            });
            context.printer.result(&Page::cut(rows, &page)?)
        }
    }
}
