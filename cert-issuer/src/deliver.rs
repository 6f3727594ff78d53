//! The sender's side of a delivery: seals a payload to a member's key, puts the block into the store, says what to log, and lets go of
//! the block once the recipient's acknowledgement is final or nobody asked for it in time.
//!
//! Both sealing keys are those on the ledger: the sender's own key is compared with its actor's record before anything is sealed, since
//! the recipient would refuse it otherwise.

use countersign_certificate::Id;
use countersign_delivery::{Contents, Context, Payload, PublicKey, SecretKey, Stores, seal};
use countersign_registry::entries::{Entry, Kind, payload};
use countersign_registry::realm::State;
use countersign_registry::{Address, B256, Effective, sign};
use ssh_key::{Algorithm, LineEnding, PrivateKey, rand_core::OsRng};
use zeroize::Zeroizing;

use crate::error::IssueError;
use crate::issue::random;
use crate::mailing::{self, Mailing, PrekeyPolicy};
use crate::outbox::{Due, Note, Outbox};

/// What is sent by whom to whom.
#[derive(Debug)]
pub struct Parcel<'a> {
    /// The ledger key that will log the delivery.
    pub sender: Address,
    /// Its sealing key.
    pub sender_key: &'a SecretKey,
    /// The recipient's ledger key.
    pub recipient: Address,
    /// What.
    pub payload: Payload,
    /// What is done about prekeys.
    pub prekeys: PrekeyPolicy,
}

/// A delivery that is ready to be logged; its block is in the store.
#[derive(Debug)]
pub struct Posted {
    /// Its record id, once `sender` logs it.
    pub id: Id,
    /// The entry.
    pub entry: Entry,
    /// What the books say.
    pub note: Note,
    /// What stores said that did not take the block, where the others are enough.
    pub failures: Vec<String>,
}

/// Seals a parcel, stores its block, pinned, and notes it, at Unix time `now`.
///
/// # Errors
/// [`IssueError::Recipient`] where a sealing key is missing or another than on the ledger; [`IssueError::Delivery`];
/// [`IssueError::Outbox`].
pub async fn post(
    effective: &Effective,
    parcel: Parcel<'_>,
    stores: &Stores,
    outbox: &Outbox,
    now: u64,
) -> Result<Posted, IssueError> {
    if mailing::wants_prekey(effective, parcel.recipient, parcel.prekeys) {
        return in_envelope(effective, parcel, stores, outbox, now).await;
    }
    check_sender(effective, parcel.sender, parcel.sender_key)?;
    let recipient = recipient_key(effective, parcel.recipient)?;
    let r: [u8; 16] = random()?;
    let id = sign::record_id(Kind::DELIVERY, parcel.sender, r);
    let kind = parcel.payload.contents().kind();
    let context = Context { realm: effective.realm.0, delivery: id.0, recipient: parcel.recipient.into_array(), kind };
    let sealed = seal(&context, parcel.sender_key, &recipient, &parcel.payload)?;
    let digest = B256::from(sealed.digest);
    let note = Note { delivery: id, cid: sealed.cid, digest, sent: now };
    outbox.add(&note)?;
    let placed = stores.put(&sealed.block).await?;
    let entry = Entry::Delivery(payload::Delivery {
        r: r.into(),
        recipient: parcel.recipient,
        payloadName: parcel.payload.name().to_owned(),
        payloadKind: kind.number(),
        digest,
        sealedCid: sealed.sealed_cid.to_vec().into(),
    });
    let failures = placed.places.iter().filter_map(|place| place.result.as_ref().err());
    let failures = failures.map(ToString::to_string).collect();
    Ok(Posted { id, entry, note, failures })
}

/// Whether something can be sealed to `recipient`: to be asked before anything is logged for it.
///
/// # Errors
/// [`IssueError::Recipient`], [`IssueError::Delivery`].
pub fn check_recipient(effective: &Effective, recipient: Address) -> Result<(), IssueError> {
    recipient_key(effective, recipient).map(|_| ())
}

/// The same in an envelope for one: what is sealed to a prekey travels so. The note is for the caller; the books have the envelope's.
async fn in_envelope(
    effective: &Effective,
    parcel: Parcel<'_>,
    stores: &Stores,
    outbox: &Outbox,
    now: u64,
) -> Result<Posted, IssueError> {
    let mailing = Mailing {
        sender: parcel.sender,
        sender_key: parcel.sender_key,
        payloads: vec![parcel.payload],
        recipients: vec![(parcel.recipient, 0)],
        prekeys: parcel.prekeys,
        resends: None,
    };
    let mailed = mailing::mail(effective, mailing, stores, outbox, now, &mut |_| {}).await?;
    let (index, digest) = match (mailed.book.blocks.last(), mailed.book.payloads.first()) {
        (Some(index), Some(payload)) => (*index, payload.digest),
        _ => return Err(IssueError::Recipient("an envelope without blocks".to_owned())),
    };
    let note = Note { delivery: mailed.id, cid: index, digest, sent: now };
    Ok(Posted { id: mailed.id, entry: mailed.entry, note, failures: mailed.failures })
}

/// Whether the ledger lists the sender with this very key.
pub(crate) fn check_sender(effective: &Effective, sender: Address, key: &SecretKey) -> Result<(), IssueError> {
    if sealing_key(effective, sender, "sender")?.to_bytes() == key.public().to_bytes() {
        return Ok(());
    }
    let text = format!("the ledger has another sealing key for sender {sender} than the one given");
    Err(IssueError::Recipient(text))
}

pub(crate) fn sealing_key(effective: &Effective, address: Address, role: &str) -> Result<PublicKey, IssueError> {
    let bytes = effective.actors.get(&address).and_then(|actor| actor.x25519);
    let bytes = bytes.ok_or_else(|| {
        IssueError::Recipient(format!(
            "{role} {address} has no sealing key on the ledger (yet: it counts once it is final)"
        ))
    })?;
    Ok(PublicKey::from_bytes(bytes.0)?)
}

/// The sealing key of somebody to whom something may be sent: a binding outlives a lock, so what it is bound to is looked at too.
pub(crate) fn recipient_key(effective: &Effective, address: Address) -> Result<PublicKey, IssueError> {
    let key = sealing_key(effective, address, "recipient")?;
    let actor = effective.actors.get(&address);
    if actor.is_some_and(|actor| actor.locked) {
        return Err(IssueError::Recipient(format!("recipient {address} is locked; nothing is sent to it")));
    }
    let bound = actor.and_then(|actor| actor.subject);
    match bound.and_then(|subject| obstacle(effective, subject).map(|why| (subject, why))) {
        Some((subject, why)) => Err(IssueError::Recipient(format!(
            "recipient {address} speaks for {subject}, which is {why}; nothing is sent to it"
        ))),
        None => Ok(key),
    }
}

/// Why a user or host gets nothing, if so: `locked`, `revoked` or `not on the ledger`.
#[must_use]
pub fn obstacle(effective: &Effective, subject: Id) -> Option<&'static str> {
    let host = effective.hosts.get(&subject).map(|host| host.state);
    match host.or_else(|| effective.users.get(&subject).map(|user| user.state)) {
        Some(State::Active) => None,
        Some(State::Locked) => Some("locked"),
        Some(State::Revoked) => Some("revoked"),
        None => Some("not on the ledger"),
    }
}

/// The ledger keys with a sealing key that are bound to a user or host: whom a payload for it can be sealed to. None for a user or host
/// that is locked or revoked: its binding stays, and whoever stole it holds its keys.
#[must_use]
pub fn recipients(effective: &Effective, subject: Id) -> Vec<Address> {
    if obstacle(effective, subject).is_some() {
        return Vec::new();
    }
    ledger_keys(effective, subject)
}

/// The ledger keys with a sealing key that are bound to a user or host, whatever became of it: whom something was sealed to.
#[must_use]
pub fn ledger_keys(effective: &Effective, subject: Id) -> Vec<Address> {
    let of_subject = effective.actors.iter().filter(|(_, actor)| actor.subject == Some(subject) && !actor.locked);
    of_subject.filter(|(_, actor)| actor.x25519.is_some()).map(|(address, _)| *address).collect()
}

/// One note and what was done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swept {
    /// The note.
    pub note: Note,
    /// What was due. The block is gone after `Acknowledged` and `TimedOut`, unless there is a failure.
    pub due: Due,
    /// Why the block is still in some store; it is for the next sweep then.
    pub failure: Option<String>,
}

/// Goes through the books at Unix time `now`: unpins and deletes what was acknowledged finally, or sent longer than `timeout_secs` ago.
/// What the ledger has not lived through has not passed: a clock that runs ahead unpins nothing before its time. A store that does not
/// answer keeps no other note waiting.
///
/// # Errors
/// [`IssueError::Outbox`].
pub async fn sweep(
    effective: &Effective,
    stores: &Stores,
    outbox: &Outbox,
    now: u64,
    timeout_secs: u64,
) -> Result<Vec<Swept>, IssueError> {
    let now = now.min(effective.latest_block.time);
    let mut swept = Vec::new();
    for note in outbox.notes()? {
        let due = note.due(effective, now, timeout_secs);
        let mut failure = None;
        if matches!(due, Due::Acknowledged | Due::TimedOut) {
            match stores.unpin(&note.cid).await {
                Ok(_) => outbox.strike(note.delivery)?,
                Err(error) => failure = Some(error.to_string()),
            }
        }
        swept.push(Swept { note, due, failure });
    }
    Ok(swept)
}

/// A key pair made by the sender: the private key file's text and the public key, SSH wire form. It is never written to disk here.
///
/// # Errors
/// [`IssueError::KeyPair`].
pub fn generate_key_pair(comment: &str) -> Result<(Zeroizing<String>, Vec<u8>), IssueError> {
    let mut key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).map_err(IssueError::KeyPair)?;
    key.set_comment(comment);
    let public = key.public_key().to_bytes().map_err(IssueError::KeyPair)?;
    Ok((key.to_openssh(LineEnding::LF).map_err(IssueError::KeyPair)?, public))
}

/// The payload of a certificate.
///
/// # Errors
/// [`IssueError::Delivery`].
pub fn certificate_payload(name: &str, line: &str) -> Result<Payload, IssueError> {
    Ok(Payload::new(name, Contents::SshCertificate { certificate: line.to_owned() })?)
}

/// The payload of a key pair with its certificate.
///
/// # Errors
/// [`IssueError::Delivery`].
pub fn key_pair_payload(name: &str, private: &Zeroizing<String>, line: Option<&str>) -> Result<Payload, IssueError> {
    let contents =
        Contents::SshKeyPair { private_key: Zeroizing::new(private.to_string()), certificate: line.map(str::to_owned) };
    Ok(Payload::new(name, contents)?)
}
