//! `countersign fetch`: receives what was delivered to this device, as the agent does on hosts: finds deliveries to the actor's ledger
//! key, fetches, opens, checks digest, CA signature and own key, writes, acknowledges.
//!
//! The sender chooses name and kind, and the name is a file's. So without being asked for, only SSH certificates for keys of this
//! device are taken, and key pairs where none is; anything else by name and kind. No name begins with a dot.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use countersign_agent::config::{PayloadName, RuleKind};
use countersign_agent::files::Ownership;
use countersign_agent::reason::Reason;
use countersign_agent::receive::{self, Found, KeyPairs, OutputRule, ReceiveError, Recipient, Sources};
use countersign_delivery::{PayloadKind, SecretKey};
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
    /// What to take under that name
    #[arg(long, value_enum, requires = "name", default_value = "ssh-certificate")]
    kind: Kind,
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

/// What is taken; named as in the agent's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// An SSH certificate for a key that is in DIR; a key pair where none is
    SshCertificate,
    /// A certificate for a host key that is in DIR
    HostCertificate,
    /// An X.509 private key and its chain
    #[value(name = "x509-key-pair")]
    X509KeyPair,
    /// A secret of any form
    OpaqueSecret,
}

impl Kind {
    fn rule(self) -> RuleKind {
        match self {
            Self::SshCertificate => RuleKind::SshCertificate,
            Self::HostCertificate => RuleKind::HostCertificate,
            Self::X509KeyPair => RuleKind::X509KeyPair,
            Self::OpaqueSecret => RuleKind::OpaqueSecret,
        }
    }
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
    let mut own_doing: BTreeSet<(String, u8)> = BTreeSet::new();
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
        // A secret that came a moment ago, a newer one of the same name and kind may replace; a key that was here never.
        let doing = (payload_name.to_owned(), letter.payload_kind());
        let may_replace = args.replace_keys || own_doing.contains(&doing);
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
        match apply(effective, id, &letter, recipient, &sources, args.kind, &rule).await {
            Ok(None) => continue,
            Ok(Some(taken)) => {
                if taken.sender_knows {
                    own_doing.insert(doing);
                }
                row.outcome = "applied";
                row.files = taken.files;
                let write = receive::acknowledgement(id, taken.digest);
                row.receipt = Some(sender.append(&actor, vec![write]).await?);
            }
            Err(error) => {
                row.reason = Some(error.reason.as_str());
                row.message = Some(error.message);
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

    fn payload_kind(&self) -> u8 {
        match self {
            Self::Delivery(delivery) => delivery.payload_kind,
            Self::Envelope(envelope) => envelope.payload_kind,
        }
    }
}

/// Something that was written.
struct Taken {
    files: Vec<PathBuf>,
    digest: B256,
    /// Whether the sender knows a secret in it.
    sender_knows: bool,
}

/// Why something was not written.
struct Refused {
    reason: Reason,
    message: String,
}

impl From<ReceiveError> for Refused {
    fn from(error: ReceiveError) -> Self {
        Self { reason: error.reason(), message: error.to_string() }
    }
}

/// Refuses what nobody here asked for.
fn check_wanted(name: &str, found: PayloadKind, wanted: Kind) -> Result<(), Refused> {
    let refuse = |reason, message| Err(Refused { reason, message });
    if let Err(error) = PayloadName::try_from(name.to_owned()) {
        return refuse(Reason::DeliveryName, error);
    }
    if !wanted.rule().takes(found, false) {
        let expected = wanted.rule().as_str();
        let message = format!(
            "payload kind {found}: expected {expected}; if it is wanted, fetch it with `--name {name} --kind {found}`"
        );
        return refuse(Reason::DeliveryOtherKind, message.replace("--kind ssh-key-pair", "--kind ssh-certificate"));
    }
    Ok(())
}

/// Writes what came and gives what is to be acknowledged; none where an envelope holds nothing for this device.
async fn apply(
    effective: &Effective,
    id: Id,
    letter: &Letter<'_>,
    recipient: Recipient<'_>,
    sources: &Sources,
    wanted: Kind,
    rule: &OutputRule,
) -> Result<Option<Taken>, Refused> {
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
    check_wanted(letter.payload_name(), payload.contents().kind(), wanted)?;
    let own_key = rule.own_key()?;
    let checked = receive::check(effective, &payload, own_key.as_deref(), now().max(effective.latest_block.time))?;
    let files = receive::apply(&checked, rule)?.settle()?;
    Ok(Some(Taken { files, digest, sender_knows: checked.sender_knows }))
}

/// Files belong to whoever runs this, and to nobody else.
fn own() -> Result<Ownership, CliError> {
    // `/proc/self` belongs to the process's effective user and group.
    let path = PathBuf::from("/proc/self");
    let metadata = std::fs::metadata(&path).map_err(|source| CliError::File { path, source })?;
    Ok(Ownership { uid: metadata.uid(), gid: metadata.gid(), mode: 0o600 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ssh_certificates_and_key_pairs_are_taken_unasked_and_each_other_kind_by_its_own_name() {
        use PayloadKind::{HostCertificate, OpaqueSecret, SshCertificate, SshKeyPair, X509KeyPair};
        for (wanted, taken) in [
            (Kind::SshCertificate, &[SshCertificate, SshKeyPair][..]),
            (Kind::HostCertificate, &[HostCertificate]),
            (Kind::X509KeyPair, &[X509KeyPair]),
            (Kind::OpaqueSecret, &[OpaqueSecret]),
        ] {
            for kind in PayloadKind::ALL {
                let refused = check_wanted("x", kind, wanted).err();
                assert_eq!(refused.is_none(), taken.contains(&kind), "{kind} where {wanted:?} is wanted");
                assert!(refused.is_none_or(|refused| refused.reason == Reason::DeliveryOtherKind));
            }
            let written = wanted.to_possible_value().unwrap();
            assert_eq!(written.get_name(), wanted.rule().as_str());
        }
    }

    #[test]
    fn no_file_is_named_with_a_dot_in_front_or_in_another_directory() {
        for name in ["", ".", "..", ".rc", "../x", "a/b", "A"] {
            let refused = check_wanted(name, PayloadKind::SshCertificate, Kind::SshCertificate).unwrap_err();
            assert_eq!(refused.reason, Reason::DeliveryName, "{name}");
        }
        assert!(check_wanted("id.ed25519", PayloadKind::SshCertificate, Kind::SshCertificate).is_ok());
    }
}
