//! `countersign send`: a file for hosts, users or ledger keys, sealed to each of them in one envelope and one transaction, however many
//! they are. What the file is says the payload's name on the ledger; where it goes on a host says that host's configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use alloy_primitives::{Address, Bytes};
use clap::Args;
use countersign_agent::receive::{check_x509_key_pair, split_pem};
use countersign_delivery::{Contents, Payload};
use countersign_issuer::deliver;
use countersign_issuer::mailing::{self, Mailing, MailingStage};
use countersign_registry::entries::{Entry, payload};
use countersign_registry::realm::State;
use countersign_registry::{Effective, Id};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::context::{Context, View};
use crate::data::MAX_BYTES;
use crate::error::CliError;
use crate::files;
use crate::issue::{Post, PostArgs};
use crate::output::{Progress, Show, fields, now};
use crate::payload::PayloadKind;
use crate::resolve;
use crate::write::{By, Draft, WriteArgs, Written};

pub use countersign_issuer::mailing::PREKEY_DAYS;

/// What to send.
#[derive(Debug, Args)]
pub struct SendArgs {
    /// The file; or a directory with a file for each recipient, named after the host or login
    file: PathBuf,
    /// A recipient: a host, `user:LOGIN`, or a ledger key; may be given several times
    #[arg(long, value_name = "WHO")]
    to: Vec<String>,
    /// All hosts that have this label; several labels: that have all of them
    #[arg(long, value_name = "LABEL", conflicts_with = "all")]
    label: Vec<String>,
    /// All hosts
    #[arg(long)]
    all: bool,
    /// The payload's name, under which recipients know it
    #[arg(long = "as", value_name = "NAME")]
    name: String,
    /// What the file is, where the realm has no payload of this name
    #[arg(long, value_enum)]
    kind: Option<PayloadKind>,
    /// The certificate that goes with an SSH private key
    #[arg(long, value_name = "FILE-cert.pub")]
    certificate: Option<PathBuf>,
    /// How it is sealed and stored
    #[command(flatten)]
    post: PostArgs,
    /// Who writes it, and where to
    #[command(flatten)]
    write: WriteArgs,
}

/// An envelope as printed after sending.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Sent {
    /// Record id.
    pub id: Id,
    /// Payload name.
    pub payload: String,
    /// What it holds.
    pub kind: String,
    /// How many recipients.
    pub recipients: usize,
    /// How many of them were sealed to a prekey as well.
    pub with_prekey: usize,
    /// Hosts that were meant and have no ledger key with a delivery key.
    pub without_key: Vec<String>,
    /// Blocks that were stored.
    pub blocks: usize,
    /// Their bytes.
    pub bytes: usize,
    /// How it was written.
    #[serde(flatten)]
    pub written: Written,
}

impl Show for Sent {
    fn text(&self) -> String {
        let mut pairs = vec![
            ("sent", format!("{} ({}) as {}", self.payload, self.kind, self.id)),
            ("recipients", format!("{}, {} of them by prekey", self.recipients, self.with_prekey)),
            ("stored", format!("{} blocks, {} bytes", self.blocks, self.bytes)),
        ];
        if !self.without_key.is_empty() {
            pairs.push(("without a delivery key", self.without_key.join(" ")));
        }
        format!("{}{}", fields(&pairs), self.written.text())
    }
}

/// Whom it is for.
#[derive(Debug, Default)]
struct Targets {
    /// Ledger keys with the name of their host or user.
    addresses: BTreeMap<Address, String>,
    without_key: Vec<String>,
}

impl Targets {
    fn of(view: &Effective, args: &SendArgs) -> Result<Self, CliError> {
        let mut targets = Self::default();
        for who in &args.to {
            if let Ok(address) = who.parse::<Address>() {
                targets.addresses.insert(address, name_of(view, address));
                continue;
            }
            let (subject, name) = match who.split_once(':') {
                Some(("user", user)) => resolve::user(view, user).map(|(id, user)| (id, user.login.clone()))?,
                Some(("host", host)) => resolve::host(view, host).map(|(id, host)| (id, host.name.clone()))?,
                _ => resolve::host(view, who).map(|(id, host)| (id, host.name.clone()))?,
            };
            if let Some(problem) = deliver::obstacle(view, subject) {
                return Err(CliError::Refused(format!("{who} is {problem}; nothing is sent to it")));
            }
            if !targets.add(view, subject, &name) {
                let text = format!("{who} has no ledger key with a delivery key (`countersign member set`)");
                return Err(CliError::Refused(text));
            }
        }
        if args.all || !args.label.is_empty() {
            let meant = view.hosts.iter().filter(|(_, host)| {
                host.state == State::Active && args.label.iter().all(|label| host.labels.contains(label))
            });
            let meant: Vec<(Id, String)> = meant.map(|(id, host)| (*id, host.name.clone())).collect();
            for (id, name) in meant {
                if !targets.add(view, id, &name) {
                    targets.without_key.push(name);
                }
            }
        }
        if targets.addresses.is_empty() {
            let what = if targets.without_key.is_empty() { "nobody is meant" } else { "no host has a delivery key" };
            return Err(CliError::Refused(format!("{what}: expected --to WHO, --label LABEL or --all")));
        }
        Ok(targets)
    }

    fn add(&mut self, view: &Effective, subject: Id, name: &str) -> bool {
        let addresses = deliver::recipients(view, subject);
        self.addresses.extend(addresses.iter().map(|address| (*address, name.to_owned())));
        !addresses.is_empty()
    }
}

/// The host or user that a ledger key is bound to, for people.
pub fn name_of(view: &Effective, address: Address) -> String {
    let subject = view.actors.get(&address).and_then(|actor| actor.subject);
    let host = subject.and_then(|id| view.hosts.get(&id)).map(|host| host.name.clone());
    let user = || subject.and_then(|id| view.users.get(&id)).map(|user| user.login.clone());
    host.or_else(user).unwrap_or_else(|| address.to_string())
}

/// What a file is, as a payload.
///
/// # Errors
/// [`CliError`] for a file that is not what its kind asks for.
pub fn read_payload(
    kind: PayloadKind,
    name: &str,
    file: &Path,
    certificate: Option<&Path>,
) -> Result<Payload, CliError> {
    let problem = |problem: String| CliError::Content { path: file.to_owned(), problem };
    let bytes =
        || std::fs::read(file).map(Zeroizing::new).map_err(|source| CliError::File { path: file.to_owned(), source });
    let text = || files::read_text(file);
    let contents = match kind {
        PayloadKind::SshCertificate => Contents::SshCertificate { certificate: text()? },
        PayloadKind::HostCertificate => Contents::HostCertificate { certificate: text()? },
        PayloadKind::SshKeyPair => Contents::SshKeyPair {
            private_key: Zeroizing::new(text()?),
            certificate: certificate.map(files::read_text).transpose()?,
        },
        PayloadKind::X509KeyPair => {
            let (private_key, chain) =
                split_pem(&Zeroizing::new(text()?)).map_err(|error| problem(error.to_string()))?;
            check_x509_key_pair(&private_key, &chain, now()).map_err(|error| problem(error.to_string()))?;
            Contents::X509KeyPair { private_key, chain }
        }
        PayloadKind::OpaqueSecret => Contents::OpaqueSecret { secret: bytes()? },
        PayloadKind::PublicData => return Err(problem("public data is not sealed".to_owned())),
    };
    Ok(Payload::new(name, contents)?)
}

fn kind(view: &View, args: &SendArgs) -> Result<PayloadKind, CliError> {
    let listed = view.ahead.payload_names.get(&args.name).map(|known| known.payload_kind);
    let listed = listed.map(|number| {
        PayloadKind::of_number(number).ok_or_else(|| {
            CliError::Refused(format!("payload {} is of kind {number}, which this version does not know", args.name))
        })
    });
    match (listed.transpose()?, args.kind) {
        (Some(listed), Some(given)) if listed != given => Err(CliError::Refused(format!(
            "payload {} is of kind {} in this realm, not {}",
            args.name,
            PayloadKind::name(listed.number()),
            PayloadKind::name(given.number())
        ))),
        (Some(kind), _) | (None, Some(kind)) => Ok(kind),
        (None, None) => Err(CliError::Missing {
            what: "what the file is (the realm has no payload of this name)",
            flag: "--kind KIND",
        }),
    }
}

/// Sends.
///
/// # Errors
/// See [`CliError`].
pub async fn run(context: &Context, args: SendArgs) -> Result<(), CliError> {
    let view = context.view_back(PREKEY_DAYS).await?;
    let kind = kind(&view, &args)?;
    if kind == PayloadKind::PublicData {
        return publish(context, &view, args).await;
    }
    let targets = Targets::of(&view.effective, &args)?;
    let (payloads, recipients) = if args.file.is_dir() {
        let mut payloads = Vec::new();
        let mut recipients = Vec::new();
        for (address, name) in &targets.addresses {
            recipients.push((*address, payloads.len()));
            payloads.push(read_payload(kind, &args.name, &args.file.join(name), None)?);
        }
        (payloads, recipients)
    } else {
        let payload = read_payload(kind, &args.name, &args.file, args.certificate.as_deref())?;
        (vec![payload], targets.addresses.keys().map(|address| (*address, 0)).collect())
    };
    let post = args.post.open(context)?;
    let draft = Draft::begin(context, &args.write, By::Actor)?;
    let mut sent = mail(context, &view, draft, &post, payloads, recipients, None).await?;
    sent.without_key = targets.without_key;
    context.printer.result(&sent)
}

/// Seals, stores and logs one envelope.
///
/// # Errors
/// See [`CliError`].
pub async fn mail(
    context: &Context,
    view: &View,
    mut draft: Draft,
    post: &Post,
    payloads: Vec<Payload>,
    recipients: Vec<(Address, usize)>,
    resends: Option<Id>,
) -> Result<Sent, CliError> {
    let progress = context.printer.progress("sealing");
    let mailing =
        Mailing { sender: draft.actor(), sender_key: &post.key, payloads, recipients, prekeys: post.prekeys, resends };
    let mut report = |stage| show(&progress, stage);
    let mailed = mailing::mail(&view.effective, mailing, &post.stores, &post.outbox, now(), &mut report).await?;
    drop(progress);
    mailed.failures.iter().for_each(|failure| context.printer.note(&format!("store: {failure}")));
    let book = &mailed.book;
    let about = format!("envelope of {} to {} recipients", book.payload_name, book.recipients.len());
    draft.entry(&about, Some(mailed.id), mailed.entry)?;
    let written = draft.write(context, view).await?;
    Ok(Sent {
        id: mailed.id,
        payload: book.payload_name.clone(),
        kind: PayloadKind::name(book.payload_kind),
        recipients: book.recipients.len(),
        with_prekey: book.recipients.iter().filter(|recipient| recipient.prekey.is_some()).count(),
        without_key: Vec::new(),
        blocks: book.blocks.len(),
        bytes: mailed.bytes,
        written,
    })
}

fn show(progress: &Progress, stage: MailingStage) {
    progress.step(&match stage {
        MailingStage::Sealing(recipients) => format!("sealing to {recipients} recipients"),
        MailingStage::Storing(block, blocks) => format!("storing block {block} of {blocks}"),
    });
}

/// Bytes for everybody, on the ledger itself.
async fn publish(context: &Context, view: &View, args: SendArgs) -> Result<(), CliError> {
    if !args.to.is_empty() || !args.label.is_empty() {
        let problem = "public data is for everybody: expected --all or nothing".to_owned();
        return Err(CliError::Argument { argument: "--to, --label", problem });
    }
    let bytes = std::fs::read(&args.file).map_err(|source| CliError::File { path: args.file.clone(), source })?;
    if bytes.len() > MAX_BYTES {
        let problem = format!("has {} bytes; expected at most {MAX_BYTES}", bytes.len());
        return Err(CliError::Content { path: args.file, problem });
    }
    let mut draft = Draft::begin(context, &args.write, By::Actor)?;
    let name = args.name;
    draft.record(&format!("public data {name}"), |r| {
        Entry::PublicData(payload::PublicData { r, name, data: Bytes::from(bytes) })
    })?;
    draft.commit(context, view).await
}
