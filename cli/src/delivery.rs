//! `countersign delivery`: what was sealed and sent, and letting go of blocks that are no longer needed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use alloy_primitives::Address;
use clap::Subcommand;
use countersign_issuer::deliver::{self, Parcel};
use countersign_issuer::mailing;
use countersign_issuer::outbox::{Book, Due, Heard, Outbox};
use countersign_registry::realm::EntryRef;
use countersign_registry::{Effective, Id};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::context::Context;
use crate::error::CliError;
use crate::files;
use crate::issue::{PostArgs, duration, ledger_key, recipient};
use crate::mail::name_of;
use crate::output::{Show, fields, now, time};
use crate::page::{Page, PageArgs, Row};
use crate::payload::PayloadKind;
use crate::resolve;
use crate::store::StoreArgs;
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
    /// Show who has a delivery, who has not, and since when
    Show {
        /// Its id
        id: String,
        /// The sender's books, which say whom an envelope is for
        #[command(flatten)]
        books: BooksArgs,
        /// How many days back
        #[arg(long, value_name = "DAYS", default_value_t = 30)]
        days: u64,
        /// Which part of the table
        #[command(flatten)]
        page: PageArgs,
    },
    /// Send an envelope once more to those who have not acknowledged it
    Resend {
        /// Its id
        id: String,
        /// The file, or directory with a file for each recipient, that was sent; needed where it was sealed to prekeys
        file: Option<PathBuf>,
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
    /// The recipient's ledger key; absent for an envelope, which names nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipient: Option<Address>,
    /// How many members acknowledged an envelope; absent for a delivery to one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<usize>,
    /// `waiting`, `acknowledged`, or `acknowledged-finally`; `envelope` for one, of which `delivery show` tells more.
    pub state: &'static str,
    /// The entry.
    #[serde(serialize_with = "crate::output::place")]
    pub at: EntryRef,
}

impl Row for DeliveryRow {
    const HEADING: &'static [&'static str] = &["ID", "PAYLOAD", "KIND", "RECIPIENT", "STATE"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.payload.clone(),
            self.kind.clone(),
            self.recipient.map_or_else(|| "-".to_owned(), |recipient| recipient.to_string()),
            self.acknowledged.map_or_else(|| self.state.to_owned(), |by| format!("{}, {by} have it", self.state)),
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
    /// `unpinned`, `unpinned-after-timeout`, `kept`, `other-digest`, or `failed`: some store still has it.
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
            let view = context.view_back(crate::mail::PREKEY_DAYS).await?;
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
            let parcel =
                Parcel { sender: draft.actor(), sender_key: &post.key, recipient, payload, prekeys: post.prekeys };
            let posted = deliver::post(&view.effective, parcel, &post.stores, &post.outbox, now()).await?;
            posted.failures.iter().for_each(|failure| context.printer.note(&format!("store: {failure}")));
            draft.entry(&format!("delivery of {name} to {recipient}"), Some(posted.id), posted.entry)?;
            draft.commit(context, &view).await
        }
        DeliveryCommand::List { to, days, page } => {
            let view = context.view_back(days).await?;
            let effective = &view.effective;
            let to = to.map(|text| ledger_key(effective, &text)).transpose()?;
            let sealed =
                effective.deliveries.iter().filter(|(_, delivery)| to.is_none_or(|to| delivery.recipient == to)).map(
                    |(id, delivery)| DeliveryRow {
                        id: *id,
                        payload: delivery.payload_name.clone(),
                        kind: PayloadKind::name(delivery.payload_kind),
                        sender: delivery.actor,
                        recipient: Some(delivery.recipient),
                        acknowledged: None,
                        state: match effective.acknowledgements.get(id) {
                            None => "waiting",
                            Some(ack) if ack.at.block <= effective.final_block.number => "acknowledged-finally",
                            Some(_) => "acknowledged",
                        },
                        at: delivery.at,
                    },
                );
            let envelopes = effective.envelopes.iter().filter(|_| to.is_none()).map(|(id, envelope)| DeliveryRow {
                id: *id,
                payload: envelope.payload_name.clone(),
                kind: PayloadKind::name(envelope.payload_kind),
                sender: envelope.actor,
                recipient: None,
                acknowledged: Some(effective.envelope_acknowledgements.get(id).map_or(0, BTreeMap::len)),
                state: "envelope",
                at: envelope.at,
            });
            let mut rows: Vec<DeliveryRow> = sealed.chain(envelopes).collect();
            rows.sort_by_key(|row| (row.at, row.id));
            context.printer.result(&Page::cut(rows, &page)?)
        }
        DeliveryCommand::Sweep { post, timeout, page } => {
            let timeout = duration("--timeout", &timeout)?.get();
            let (stores, outbox) = post.books(context)?;
            let days = timeout.div_ceil(86_400).saturating_add(1);
            let view = context.view_back(days).await?;
            let swept = deliver::sweep(&view.effective, &stores, &outbox, now(), timeout).await?;
            let failed = swept.iter().filter_map(|one| one.failure.as_ref());
            failed.for_each(|failure| context.printer.note(&format!("store: {failure}")));
            let books = mailing::sweep(&view.effective, &stores, &outbox, now(), timeout).await?;
            let failed = books.iter().filter_map(|one| one.failure.as_ref());
            failed.for_each(|failure| context.printer.note(&format!("store: {failure}")));
            let books = books.into_iter().map(|swept| SweptRow {
                delivery: swept.id,
                cid: swept.book.blocks.last().map(ToString::to_string).unwrap_or_default(),
                outcome: outcome(swept.due, swept.failure.is_some()),
            });
            let rows = swept.into_iter().map(|swept| SweptRow {
                delivery: swept.note.delivery,
                cid: swept.note.cid.to_string(),
                outcome: outcome(swept.due, swept.failure.is_some()),
            });
            context.printer.result(&Page::cut(rows.chain(books), &page)?)
        }
        DeliveryCommand::Show { id, books, days, page } => show(context, &id, &books, days, &page).await,
        DeliveryCommand::Resend { id, file, post, write } => resend(context, &id, file, &post, &write).await,
    }
}

fn outcome(due: Due, failed: bool) -> &'static str {
    match due {
        _ if failed => "failed",
        Due::Acknowledged => "unpinned",
        Due::TimedOut => "unpinned-after-timeout",
        Due::Wait => "kept",
        Due::OtherDigest => "other-digest",
    }
}

/// Where the sender's books are.
#[derive(Debug, Clone, clap::Args)]
pub struct BooksArgs {
    /// Where blocks are; the books are beside the first of them that is a directory
    #[command(flatten)]
    stores: StoreArgs,
    /// The sender's books
    #[arg(long, value_name = "DIR", help_heading = "Delivery")]
    outbox: Option<PathBuf>,
}

/// One recipient as printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RecipientRow {
    /// Its host's name or its user's login, or the ledger key.
    pub name: String,
    /// Its ledger key.
    pub recipient: Address,
    /// `waiting`, `acknowledged`, `acknowledged-finally` or `other-digest`.
    pub state: &'static str,
    /// Since when, Unix seconds: of the acknowledgement, or of the sending.
    pub since: u64,
    /// Where it was acknowledged, if in an envelope that repeats this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resent_as: Option<Id>,
}

impl Row for RecipientRow {
    const HEADING: &'static [&'static str] = &["NAME", "RECIPIENT", "STATE", "SINCE", "RESENT AS"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.recipient.to_string(),
            self.state.to_owned(),
            time(self.since),
            self.resent_as.map(|id| id.to_string()).unwrap_or_default(),
        ]
    }
}

/// A delivery with its acknowledgements, as printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ShownDelivery {
    /// Record id.
    pub id: Id,
    /// Payload name.
    pub payload: String,
    /// What it holds.
    pub kind: String,
    /// The sender's ledger key.
    pub sender: Address,
    /// The entry.
    #[serde(serialize_with = "crate::output::place")]
    pub at: EntryRef,
    /// Whether the recipients are known: an envelope's stand in its sender's books alone. Without them, those who acknowledged are
    /// listed.
    pub recipients_known: bool,
    /// How many have it.
    pub acknowledged: usize,
    /// How many have not.
    pub waiting: usize,
    /// Who.
    pub recipients: Page<RecipientRow>,
}

impl Show for ShownDelivery {
    fn text(&self) -> String {
        let waiting = if self.recipients_known { self.waiting.to_string() } else { "nobody knows here".to_owned() };
        let head = fields(&[
            ("delivery", self.id.to_string()),
            ("payload", format!("{} ({})", self.payload, self.kind)),
            ("sender", self.sender.to_string()),
            ("sent", time(self.at.time)),
            ("acknowledged", self.acknowledged.to_string()),
            ("waiting", waiting),
        ]);
        format!("{head}{}", self.recipients.text())
    }
}

/// An envelope, and those that repeat it, with their books, oldest first.
fn family(outbox: &Outbox, id: Id) -> Result<Vec<(Id, Book)>, CliError> {
    let mut family: Vec<(Id, Book)> = Vec::new();
    for (other, book) in outbox.books().map_err(countersign_issuer::IssueError::from)? {
        if other == id || book.resends.is_some_and(|first| family.iter().any(|(known, _)| *known == first)) {
            family.push((other, book));
        }
    }
    Ok(family)
}

/// What each recipient of an envelope has said about it, or about one that repeats it.
fn heard(effective: &Effective, family: &[(Id, Book)], sent: u64) -> Vec<RecipientRow> {
    let Some((id, first)) = family.first() else { return Vec::new() };
    let mut rows = Vec::with_capacity(first.recipients.len());
    for recipient in &first.recipients {
        let said = family.iter().filter_map(|(id, book)| {
            let recipient = book.recipients.iter().find(|other| other.address == recipient.address)?;
            Some((*id, book.heard(*id, recipient, effective)))
        });
        let mut said: Vec<(Id, Heard)> = said.collect();
        said.sort_by_key(|(_, heard)| match heard {
            Heard::Has { is_final: true, .. } => 0,
            Heard::Has { .. } => 1,
            Heard::OtherDigest => 2,
            Heard::Nothing => 3,
        });
        let (place, best) = said.first().copied().unwrap_or((*id, Heard::Nothing));
        let (state, since) = match best {
            Heard::Has { since, is_final: true } => ("acknowledged-finally", since),
            Heard::Has { since, .. } => ("acknowledged", since),
            Heard::OtherDigest => ("other-digest", sent),
            Heard::Nothing => ("waiting", sent),
        };
        rows.push(RecipientRow {
            name: name_of(effective, recipient.address),
            recipient: recipient.address,
            state,
            since,
            resent_as: (place != *id).then_some(place),
        });
    }
    rows
}

fn delivery_id(text: &str) -> Result<Id, CliError> {
    resolve::parse_id(text).ok_or_else(|| CliError::Argument {
        argument: "ID",
        problem: format!("`{text}`: expected 32 hexadecimal digits"),
    })
}

async fn show(context: &Context, id: &str, books: &BooksArgs, days: u64, page: &PageArgs) -> Result<(), CliError> {
    let id = delivery_id(id)?;
    let view = context.view_back(days).await?;
    let effective = &view.effective;
    let unknown = || CliError::Unknown { kind: "delivery", name: id.to_string() };
    if let Some(delivery) = effective.deliveries.get(&id) {
        let acknowledgement = effective.acknowledgements.get(&id);
        let row = RecipientRow {
            name: name_of(effective, delivery.recipient),
            recipient: delivery.recipient,
            state: match acknowledgement {
                None => "waiting",
                Some(one) if one.digest != delivery.digest => "other-digest",
                Some(one) if one.at.block <= effective.final_block.number => "acknowledged-finally",
                Some(_) => "acknowledged",
            },
            since: acknowledgement.map_or(delivery.at.time, |one| one.at.time),
            resent_as: None,
        };
        let (name, kind) = (&delivery.payload_name, delivery.payload_kind);
        return print(context, id, name, kind, delivery.actor, delivery.at, true, vec![row], page);
    }
    let envelope = effective.envelopes.get(&id).ok_or_else(unknown)?;
    let stores = books.stores.settings(context).unwrap_or_default();
    let family = match crate::issue::outbox(context, books.outbox.clone(), &stores) {
        Some(path) if path.is_dir() => family(&Outbox::open(&path).map_err(countersign_issuer::IssueError::from)?, id)?,
        _ => Vec::new(),
    };
    let known = !family.is_empty();
    let rows = if known {
        heard(effective, &family, envelope.at.time)
    } else {
        let by = effective.envelope_acknowledgements.get(&id).into_iter().flatten();
        by.map(|(address, one)| RecipientRow {
            name: name_of(effective, *address),
            recipient: *address,
            state: if one.at.block <= effective.final_block.number { "acknowledged-finally" } else { "acknowledged" },
            since: one.at.time,
            resent_as: None,
        })
        .collect()
    };
    let (name, kind) = (&envelope.payload_name, envelope.payload_kind);
    print(context, id, name, kind, envelope.actor, envelope.at, known, rows, page)
}

#[expect(clippy::too_many_arguments, reason = "two call sites; a struct would only rename them")]
fn print(
    context: &Context,
    id: Id,
    payload: &str,
    kind: u8,
    sender: Address,
    at: EntryRef,
    recipients_known: bool,
    rows: Vec<RecipientRow>,
    page: &PageArgs,
) -> Result<(), CliError> {
    let acknowledged = rows.iter().filter(|row| row.state.starts_with("acknowledged")).count();
    let shown = ShownDelivery {
        id,
        payload: payload.to_owned(),
        kind: PayloadKind::name(kind),
        sender,
        at,
        recipients_known,
        acknowledged,
        waiting: rows.len().saturating_sub(acknowledged),
        recipients: Page::cut(rows, page)?,
    };
    context.printer.result(&shown)
}

async fn resend(
    context: &Context,
    id: &str,
    file: Option<PathBuf>,
    post: &PostArgs,
    write: &WriteArgs,
) -> Result<(), CliError> {
    let id = delivery_id(id)?;
    let post = post.open(context)?;
    let view = context.view_back(crate::mail::PREKEY_DAYS).await?;
    let family = family(&post.outbox, id)?;
    let Some((_, book)) = family.first() else {
        return Err(CliError::Refused(format!(
            "delivery {id}: not in these books; expected an envelope that was sent from here"
        )));
    };
    let waiting: Vec<Address> = heard(&view.effective, &family, book.sent)
        .into_iter()
        .filter(|row| !row.state.starts_with("acknowledged"))
        .map(|row| row.recipient)
        .collect();
    if waiting.is_empty() {
        return Err(CliError::Refused(format!("delivery {id}: everybody has it")));
    }
    // Who was locked since then does not keep the others from getting it.
    let (waiting, gone): (Vec<Address>, Vec<Address>) =
        waiting.into_iter().partition(|address| deliver::check_recipient(&view.effective, *address).is_ok());
    for address in gone {
        if let Err(error) = deliver::check_recipient(&view.effective, address) {
            context.printer.note(&format!("left out: {error}"));
        }
    }
    if waiting.is_empty() {
        return Err(CliError::Refused(format!("delivery {id}: nobody who has not acknowledged it may be sent to")));
    }
    let place = |address: &Address| {
        book.recipients.iter().find(|recipient| recipient.address == *address).map_or(0, |recipient| recipient.payload)
    };
    let read = |file: &Path| {
        let kind = PayloadKind::of_number(book.payload_kind)
            .ok_or_else(|| CliError::Refused(format!("payload kind {} is not known", book.payload_kind)))?;
        crate::mail::read_payload(kind, &book.payload_name, file, None)
    };
    let (payloads, recipients) = match &file {
        Some(directory) if directory.is_dir() => {
            let own = waiting.iter().map(|address| read(&directory.join(name_of(&view.effective, *address))));
            let payloads = own.collect::<Result<Vec<_>, CliError>>()?;
            (payloads, waiting.iter().enumerate().map(|(place, address)| (*address, place)).collect())
        }
        // One recipient's secret must not go to the others.
        Some(file) if book.payloads.len() > 1 => {
            let problem = "each recipient was sent a file of its own; expected a directory with a file for each, named \
                           after the host or login";
            return Err(CliError::Content { path: file.clone(), problem: problem.to_owned() });
        }
        Some(file) => (vec![read(file)?], waiting.iter().map(|address| (*address, 0)).collect()),
        None => {
            let payloads = mailing::reopen(&view.effective, id, book, &post.stores).await?;
            (payloads, waiting.iter().map(|address| (*address, place(address))).collect())
        }
    };
    let draft = Draft::begin(context, write, By::Actor)?;
    let sent = crate::mail::mail(context, &view, draft, &post, payloads, recipients, Some(id)).await?;
    context.printer.result(&sent)
}
