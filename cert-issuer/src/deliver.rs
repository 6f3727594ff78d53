//! The sender's side of a delivery: seals a payload to a member's key, puts the block into the store, says what to log, and lets go of
//! the block once the recipient's acknowledgement is final or nobody asked for it in time.
//!
//! Both sealing keys are those on the ledger: the sender's own key is compared with its actor's record before anything is sealed, since
//! the recipient would refuse it otherwise.

use countersign_certificate::Id;
use countersign_delivery::{Contents, Context, DirectoryStore, Payload, PublicKey, SecretKey, seal};
use countersign_registry::entries::{Entry, Kind, payload};
use countersign_registry::{Address, B256, Effective, sign};
use ssh_key::{Algorithm, LineEnding, PrivateKey, rand_core::OsRng};
use zeroize::Zeroizing;

use crate::error::IssueError;
use crate::issue::random;
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
}

/// Seals a parcel, stores its block and notes it, at Unix time `now`.
///
/// # Errors
/// [`IssueError::Recipient`] where a sealing key is missing or another than on the ledger; [`IssueError::Delivery`];
/// [`IssueError::Outbox`].
pub fn post(
    effective: &Effective,
    parcel: Parcel<'_>,
    store: &DirectoryStore,
    outbox: &Outbox,
    now: u64,
) -> Result<Posted, IssueError> {
    let sender = sealing_key(effective, parcel.sender, "sender")?;
    if sender.to_bytes() != parcel.sender_key.public().to_bytes() {
        let text = format!("the ledger has another sealing key for sender {} than the one given", parcel.sender);
        return Err(IssueError::Recipient(text));
    }
    let recipient = sealing_key(effective, parcel.recipient, "recipient")?;
    let r: [u8; 16] = random()?;
    let id = sign::record_id(Kind::DELIVERY, parcel.sender, r);
    let kind = parcel.payload.contents().kind();
    let context = Context { realm: effective.realm.0, delivery: id.0, recipient: parcel.recipient.into_array(), kind };
    let sealed = seal(&context, parcel.sender_key, &recipient, &parcel.payload)?;
    let digest = B256::from(sealed.digest);
    let note = Note { delivery: id, cid: sealed.cid, digest, sent: now };
    outbox.add(&note)?;
    store.put(&sealed.block)?;
    let entry = Entry::Delivery(payload::Delivery {
        r: r.into(),
        recipient: parcel.recipient,
        payloadName: parcel.payload.name().to_owned(),
        payloadKind: kind.number(),
        digest,
        sealedCid: sealed.sealed_cid.to_vec().into(),
    });
    Ok(Posted { id, entry, note })
}

/// Whether something can be sealed to `recipient`: to be asked before anything is logged for it.
///
/// # Errors
/// [`IssueError::Recipient`], [`IssueError::Delivery`].
pub fn check_recipient(effective: &Effective, recipient: Address) -> Result<(), IssueError> {
    sealing_key(effective, recipient, "recipient").map(|_| ())
}

fn sealing_key(effective: &Effective, address: Address, role: &str) -> Result<PublicKey, IssueError> {
    let bytes = effective.actors.get(&address).and_then(|actor| actor.x25519);
    let bytes = bytes.ok_or_else(|| {
        IssueError::Recipient(format!(
            "{role} {address} has no sealing key on the ledger (yet: it counts once it is final)"
        ))
    })?;
    Ok(PublicKey::from_bytes(bytes.0)?)
}

/// The ledger keys with a sealing key that are bound to a user or host: whom a payload for it can be sealed to.
#[must_use]
pub fn recipients(effective: &Effective, subject: Id) -> Vec<Address> {
    let of_subject = effective.actors.iter().filter(|(_, actor)| actor.subject == Some(subject) && !actor.locked);
    of_subject.filter(|(_, actor)| actor.x25519.is_some()).map(|(address, _)| *address).collect()
}

/// One note and what was done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swept {
    /// The note.
    pub note: Note,
    /// What was due. The block is gone after `Acknowledged` and `TimedOut`.
    pub due: Due,
}

/// Goes through the books at Unix time `now`: unpins what was acknowledged finally, or sent longer than `timeout_secs` ago. What the
/// ledger has not lived through has not passed: a clock that runs ahead unpins nothing before its time.
///
/// # Errors
/// [`IssueError::Outbox`], [`IssueError::Delivery`].
pub fn sweep(
    effective: &Effective,
    store: &DirectoryStore,
    outbox: &Outbox,
    now: u64,
    timeout_secs: u64,
) -> Result<Vec<Swept>, IssueError> {
    let now = now.min(effective.latest_block.time);
    let mut swept = Vec::new();
    for note in outbox.notes()? {
        let due = note.due(effective, now, timeout_secs);
        if matches!(due, Due::Acknowledged | Due::TimedOut) {
            store.unpin(&note.cid)?;
            outbox.strike(note.delivery)?;
        }
        swept.push(Swept { note, due });
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
