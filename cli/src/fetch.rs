//! `countersign fetch`: receives what was delivered to this device, as the agent does on hosts: finds deliveries to the actor's ledger
//! key, fetches, opens, checks digest, CA signature and own key, writes, acknowledges.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use clap::Args;
use countersign_agent::files::Ownership;
use countersign_agent::receive::{self, Found, KeyPairs, OutputRule, Recipient, Sources};
use countersign_delivery::SecretKey;
use countersign_registry::realm::{Delivery, Envelope};
use countersign_registry::{B256, Effective, EntryRef, Id};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::output::{Show, escape, now};
use crate::send::{Receipt, Sender};
use crate::store::StoreArgs;

/// What to receive.
#[derive(Debug, Args)]
pub struct FetchArgs {
    /// Only payloads of this name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Where to write: a payload goes to DIR/NAME, DIR/NAME.pub, DIR/NAME-cert.pub
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// This device's delivery key file
    #[arg(long, value_name = "FILE")]
    delivery_key: Option<PathBuf>,
    /// Where blocks come from
    #[command(flatten)]
    stores: StoreArgs,
    /// Let key pairs that were made elsewhere replace keys that are in DIR; without it they are taken only where there is none
    #[arg(long)]
    replace_keys: bool,
    /// How many days back
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    days: u64,
}

/// One received delivery.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FetchedRow {
    /// The delivery.
    pub delivery: Id,
    /// Payload name.
    pub payload: String,
    /// `applied` or `failed`.
    pub outcome: &'static str,
    /// The reason code of a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// More about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What was written.
    pub files: Vec<PathBuf>,
    /// Where the acknowledgement was logged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Receipt>,
}

/// All of them.
#[derive(Debug, Serialize)]
pub struct Fetched {
    /// In the order of the ledger.
    pub deliveries: Vec<FetchedRow>,
}

impl Show for Fetched {
    fn text(&self) -> String {
        if self.deliveries.is_empty() {
            return "nothing waits\n".to_owned();
        }
        let mut text = String::new();
        for row in &self.deliveries {
            let more = match (&row.reason, &row.message) {
                (Some(reason), Some(message)) => format!(": {reason}: {message}"),
                _ => String::new(),
            };
            text.push_str(&escape(&format!("{} {} ({}){more}", row.outcome, row.payload, row.delivery)));
            text.push('\n');
            for file in &row.files {
                text.push_str(&format!("  {}\n", escape(&file.display().to_string())));
            }
        }
        text
    }
}

/// Receives.
///
/// # Errors
/// [`CliError::Refused`] when a delivery failed, after printing all of them.
pub async fn run(context: &Context, args: FetchArgs) -> Result<(), CliError> {
    let key_file = context
        .configured(args.delivery_key.clone(), |config| config.delivery_key.clone())
        .ok_or(CliError::Missing { what: "this device's delivery key", flag: "--delivery-key FILE" })?;
    let sources = Sources::new(args.stores.open(context)?);
    let sealing_key = SecretKey::load_file(&key_file)?;
    let out = std::fs::canonicalize(&args.out).map_err(|source| CliError::File { path: args.out.clone(), source })?;
    let actor = context.actor_key()?;
    let view = context.view_back(args.days).await?;
    let recipient = Recipient { address: actor.address(), sealing_key: &sealing_key };
    recipient.check(&view.effective).map_err(|error| CliError::Refused(error.to_string()))?;
    let ownership = own()?;
    let sender = Sender::new(context, &view.realm)?;
    let mut deliveries = Vec::new();
    let mut own_doing = BTreeSet::new();
    let effective = &view.effective;
    let sealed = receive::waiting(effective, actor.address()).into_iter();
    let mut waiting: Vec<(EntryRef, Id, Letter<'_>)> =
        sealed.map(|(id, delivery)| (delivery.at, id, Letter::Delivery(delivery))).collect();
    let envelopes = receive::envelopes(effective, actor.address()).into_iter();
    waiting.extend(envelopes.map(|(id, envelope)| (envelope.at, id, Letter::Envelope(envelope))));
    waiting.sort_by_key(|(at, id, _)| (*at, *id));
    for (_, id, letter) in waiting {
        let payload_name = letter.payload_name();
        if args.name.as_ref().is_some_and(|name| name != payload_name) {
            continue;
        }
        // What came a moment ago, a newer one of the same name may replace.
        let may_replace = args.replace_keys || own_doing.contains(payload_name);
        let key_pairs = if may_replace { KeyPairs::Replace } else { KeyPairs::WhereNoneIs };
        let rule = OutputRule { path: out.join(payload_name), ownership, key_pairs };
        let mut row = FetchedRow {
            delivery: id,
            payload: payload_name.to_owned(),
            outcome: "failed",
            reason: None,
            message: None,
            files: Vec::new(),
            receipt: None,
        };
        match apply(effective, id, &letter, recipient, &sources, &rule).await {
            Ok(None) => continue,
            Ok(Some((files, digest))) => {
                own_doing.insert(payload_name.to_owned());
                row.outcome = "applied";
                row.files = files;
                let write = receive::acknowledgement(id, digest);
                row.receipt = Some(sender.append(&actor, vec![write]).await?);
            }
            Err(error) => {
                row.reason = Some(error.reason().as_str());
                row.message = Some(error.to_string());
            }
        }
        deliveries.push(row);
    }
    let failed = deliveries.iter().filter(|row| row.outcome == "failed").count();
    context.printer.result(&Fetched { deliveries })?;
    if failed > 0 {
        return Err(CliError::Refused(format!("{failed} deliveries could not be applied")));
    }
    Ok(())
}

/// What came.
enum Letter<'a> {
    Delivery(&'a Delivery),
    Envelope(&'a Envelope),
}

impl Letter<'_> {
    fn payload_name(&self) -> &str {
        match self {
            Self::Delivery(delivery) => &delivery.payload_name,
            Self::Envelope(envelope) => &envelope.payload_name,
        }
    }
}

/// Writes what came and gives what is to be acknowledged; none where an envelope holds nothing for this device.
async fn apply(
    effective: &Effective,
    id: Id,
    letter: &Letter<'_>,
    recipient: Recipient<'_>,
    sources: &Sources,
    rule: &OutputRule,
) -> Result<Option<(Vec<PathBuf>, B256)>, receive::ReceiveError> {
    let (payload, digest) = match letter {
        Letter::Delivery(delivery) => {
            (receive::open(effective, id, delivery, recipient, sources).await?, delivery.digest)
        }
        Letter::Envelope(envelope) => {
            // Prekeys are the agent's: a device that receives by hand publishes none.
            match receive::look(effective, id, envelope, recipient, None, sources, now()).await? {
                Found::Nothing | Found::Done(_) => return Ok(None),
                Found::Payload(unsealed) => (unsealed.payload, unsealed.digest),
            }
        }
    };
    let own_key = rule.own_key()?;
    let checked = receive::check(effective, &payload, own_key.as_deref(), now().max(effective.latest_block.time))?;
    Ok(Some((receive::apply(&checked, rule)?.settle()?, digest)))
}

/// Files belong to whoever runs this, and to nobody else.
fn own() -> Result<Ownership, CliError> {
    // `/proc/self` belongs to the process's effective user and group.
    let path = PathBuf::from("/proc/self");
    let metadata = std::fs::metadata(&path).map_err(|source| CliError::File { path, source })?;
    Ok(Ownership { uid: metadata.uid(), gid: metadata.gid(), mode: 0o600 })
}
