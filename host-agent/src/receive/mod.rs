//! Receiving what was sealed to this device: find the deliveries of a ledger key, fetch and open each, check it against the
//! realm, write it, acknowledge it. The agent and `countersign fetch` share these functions.
//!
//! Nothing is believed because it was delivered: the sender must hold its role and its published sealing key, the block must
//! be the one that the sealed CID names, the payload the one that the salted digest names, a certificate must be by a live CA
//! of the realm and for a key of this device. Where a payload goes, who owns it and what runs afterwards never comes from it.

mod apply;
mod check;
mod envelope;
mod sources;
mod x509;

pub use apply::{Applied, Held, KeyPairs, OutputRule, apply, apply_public};
pub use check::{Checked, Part, certificate_blob, check, public_key_blob, suffixes};
pub(crate) use envelope::look_noting;
pub use envelope::{Found, Unsealed, envelopes, look};
pub use sources::Sources;
pub use x509::{check_key_pair as check_x509_key_pair, split_pem};

use alloy_primitives::{Address, B256};
use countersign_certificate::{CertificateError, Id};
use countersign_delivery::{Context, DeliveryError, Payload, PayloadKind, PrekeyId, PublicKey, SecretKey};
use countersign_registry::entries::{Entry, Kind, Roles, payload};
use countersign_registry::realm::Delivery;
use countersign_registry::sign::Write;
use countersign_registry::{Effective, shard};

use crate::files::FileError;
use crate::reason::Reason;

/// Why a delivery was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The ledger does not list the recipient, or lists another sealing key.
    #[error("ledger key {recipient}: {problem}")]
    Recipient {
        /// The device's ledger key.
        recipient: Address,
        /// What is wrong.
        problem: &'static str,
    },
    /// A payload kind of a later version.
    #[error("payload kind {0} is not known to this version")]
    Kind(u8),
    /// The sender may not send, or has no usable sealing key.
    #[error("sender {sender} has no role to send with, or no usable sealing key, on the ledger")]
    Sender {
        /// The sender's ledger key.
        sender: Address,
    },
    /// The sealed CID does not open.
    #[error("sealed cid: {0}")]
    SealedCid(#[source] DeliveryError),
    /// No block store has the block; what they said.
    #[error("{problem}")]
    Block {
        /// The block's name.
        cid: String,
        /// What the stores said.
        problem: String,
    },
    /// The envelope's index, page or record is not what it should be.
    #[error(transparent)]
    Envelope(DeliveryError),
    /// The prekey was used before, for another delivery.
    #[error("prekey {prekey}: was used for delivery {first}, and counts once")]
    PrekeyUsed {
        /// The prekey.
        prekey: PrekeyId,
        /// What it was used for.
        first: Id,
    },
    /// The prekey is dead, dropped or not of this device.
    #[error("prekey {prekey}: not here (any more)")]
    PrekeyUnknown {
        /// The prekey.
        prekey: PrekeyId,
    },
    /// The directory of prekeys.
    #[error("prekeys: {0}")]
    Prekeys(#[source] DeliveryError),
    /// The payload is of another kind than the configuration takes under its name.
    #[error("payload kind {found}: expected {expected} under this name")]
    OtherKind {
        /// What came.
        found: PayloadKind,
        /// What the configuration says.
        expected: &'static str,
    },
    /// An X.509 key that does not belong to its certificate, or a chain that is none.
    #[error("x.509 key pair: {0}")]
    X509(&'static str),
    /// The block does not open.
    #[error("sealed payload: {0}")]
    Sealed(#[source] DeliveryError),
    /// The payload is not the one that the ledger names.
    #[error("payload: {0}")]
    Digest(#[source] DeliveryError),
    /// A part of the payload does not parse.
    #[error("{part}: {problem}")]
    Malformed {
        /// `certificate`, `private key` or `public key`.
        part: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The certificate breaks its format.
    #[error("certificate: {0}")]
    Certificate(#[from] CertificateError),
    /// The CA is not a live CA of the realm.
    #[error("certificate: its CA {fingerprint} is {problem}")]
    Ca {
        /// SHA-256 fingerprint of the CA's key, as OpenSSH prints it.
        fingerprint: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The CA's signature does not verify, or the certificate is beyond the CA's limits.
    #[error("certificate: {0}")]
    CaSignature(&'static str),
    /// A key pair that its sender knows, where only this device's own key may be.
    #[error("key pair for {}: {problem}", path.display())]
    KeyPair {
        /// The private key's path.
        path: std::path::PathBuf,
        /// What was expected.
        problem: &'static str,
    },
    /// For somebody else's key.
    #[error("{0}")]
    NotOwnKey(&'static str),
    /// Already over.
    #[error("certificate: expired at {valid_before}, now is {now}")]
    Expired {
        /// First second after validity, Unix time.
        valid_before: u64,
        /// Unix time.
        now: u64,
    },
    /// The configured owner or group does not exist here.
    #[error("{what} {name:?}: not found on this host")]
    Owner {
        /// `user` or `group`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The files could not be written.
    #[error(transparent)]
    Write(#[from] FileError),
}

impl ReceiveError {
    /// The stable code.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Recipient { .. } => Reason::DeviceUnknown,
            Self::Kind(_) => Reason::DeliveryKind,
            Self::Sender { .. } => Reason::DeliverySender,
            Self::SealedCid(_) => Reason::DeliveryCid,
            Self::Block { .. } => Reason::DeliveryBlockMissing,
            Self::Envelope(_) => Reason::DeliveryEnvelope,
            Self::PrekeyUsed { .. } => Reason::DeliveryPrekeyUsed,
            Self::PrekeyUnknown { .. } => Reason::DeliveryPrekeyUnknown,
            Self::Prekeys(_) => Reason::DeliveryPrekeys,
            Self::OtherKind { .. } => Reason::DeliveryOtherKind,
            Self::X509(_) => Reason::DeliveryX509,
            Self::Sealed(_) => Reason::DeliverySealed,
            Self::Digest(_) => Reason::DeliveryDigest,
            Self::Malformed { .. } | Self::Certificate(_) => Reason::DeliveryMalformed,
            Self::Ca { .. } => Reason::DeliveryCaUnknown,
            Self::CaSignature(_) => Reason::DeliveryCaSignature,
            Self::KeyPair { .. } => Reason::DeliveryKeyPair,
            Self::NotOwnKey(_) => Reason::DeliveryNotOwnKey,
            Self::Expired { .. } => Reason::DeliveryExpired,
            Self::Owner { .. } | Self::Write(_) => Reason::DeliveryWrite,
        }
    }

    /// Whether the same delivery can never succeed later, whatever changes on the ledger, in the stores or on this host.
    pub fn is_final(&self) -> bool {
        match self {
            Self::SealedCid(_)
            | Self::Envelope(_)
            | Self::PrekeyUsed { .. }
            | Self::PrekeyUnknown { .. }
            | Self::X509(_)
            | Self::Sealed(_)
            | Self::Digest(_)
            | Self::Malformed { .. }
            | Self::Certificate(_)
            | Self::Expired { .. } => true,
            Self::Recipient { .. }
            | Self::Kind(_)
            | Self::Sender { .. }
            | Self::Block { .. }
            | Self::Ca { .. }
            | Self::CaSignature(_)
            | Self::KeyPair { .. }
            | Self::OtherKind { .. }
            | Self::Prekeys(_)
            | Self::NotOwnKey(_)
            | Self::Owner { .. }
            | Self::Write(_) => false,
        }
    }
}

/// Who receives: a ledger key and the sealing key that belongs to it.
#[derive(Debug, Clone, Copy)]
pub struct Recipient<'a> {
    /// The device's ledger key.
    pub address: Address,
    /// The device's sealing key.
    pub sealing_key: &'a SecretKey,
}

impl Recipient<'_> {
    /// Checks that the ledger knows this device by these two keys, so that a mix-up is told as such and not as a failed
    /// decryption.
    ///
    /// # Errors
    /// [`ReceiveError::Recipient`].
    pub fn check(&self, effective: &Effective) -> Result<(), ReceiveError> {
        let fail = |problem| Err(ReceiveError::Recipient { recipient: self.address, problem });
        match effective.actors.get(&self.address) {
            None => fail("not listed in the realm"),
            Some(actor) if actor.locked => fail("locked in the realm"),
            Some(actor) if actor.x25519.is_none_or(|key| key.0 != self.sealing_key.public().to_bytes()) => {
                fail("listed with another sealing key than this device's")
            }
            Some(_) => Ok(()),
        }
    }
}

/// The deliveries to `recipient` that it has not acknowledged, oldest first.
pub fn waiting(effective: &Effective, recipient: Address) -> Vec<(Id, &Delivery)> {
    let mut found: Vec<(Id, &Delivery)> = effective
        .deliveries
        .iter()
        .filter(|(id, delivery)| delivery.recipient == recipient && !effective.acknowledgements.contains_key(*id))
        .map(|(id, delivery)| (*id, delivery))
        .collect();
    found.sort_by_key(|(id, delivery)| (delivery.at, *id));
    found
}

/// The entry that acknowledges a delivery: it names the digest that the recipient saw.
pub fn acknowledgement(id: Id, digest: B256) -> Write {
    let entry = Entry::Acknowledge(payload::Acknowledge { delivery: id.0.into(), digest });
    Write { shard: shard::shard(shard::CLASS_MEMBERS, 0), kind: Kind::ACKNOWLEDGE.0, data: entry.encode() }
}

/// The sealing key of somebody who may send.
fn sending_key(effective: &Effective, sender: Address) -> Result<PublicKey, ReceiveError> {
    let actor = effective.actors.get(&sender);
    actor
        .filter(|actor| !actor.locked && actor.roles & (Roles::ADMIN | Roles::ISSUER) != 0)
        .and_then(|actor| PublicKey::from_bytes(actor.x25519?.0).ok())
        .ok_or(ReceiveError::Sender { sender })
}

fn opening_error(error: DeliveryError) -> ReceiveError {
    match error {
        DeliveryError::Digest { .. } | DeliveryError::Mismatch { .. } => ReceiveError::Digest(error),
        error => ReceiveError::Sealed(error),
    }
}

/// Opens a delivery's sealed CID, fetches the block from the first store that has it, and opens that. The payload's digest,
/// name and kind are the ledger's when this returns.
///
/// # Errors
/// Everything up to [`ReceiveError::Digest`].
pub async fn open(
    effective: &Effective,
    id: Id,
    delivery: &Delivery,
    recipient: Recipient<'_>,
    sources: &Sources,
) -> Result<Payload, ReceiveError> {
    let kind = PayloadKind::try_from(delivery.payload_kind).map_err(|_| ReceiveError::Kind(delivery.payload_kind))?;
    let sender = sending_key(effective, delivery.actor)?;
    let realm = effective.realm_of(delivery.at.block).0;
    let context = Context { realm, delivery: id.0, recipient: recipient.address.into_array(), kind };
    let digest = &delivery.digest.0;
    let cid = countersign_delivery::open_cid(&context, recipient.sealing_key, &sender, digest, &delivery.sealed_cid)
        .map_err(ReceiveError::SealedCid)?;
    let block = sources.fetch(&cid).await?;
    countersign_delivery::open(&context, recipient.sealing_key, &sender, digest, &delivery.payload_name, &block)
        .map_err(opening_error)
}
