//! What entries say: kinds, payloads, and the one canonical way to read and write them.
//!
//! The payload structs are read from `contracts/src/Entries.sol`, where they are declared once. An entry's data is an encoding
//! byte (0: clear) and a payload, which is `abi.encode` of a struct, or packed: items of fixed width, or the fields of a struct
//! without padding. Only the canonical form is accepted: `encode(decode(x)) == x`, so that two readers never read one entry
//! differently. Plain ABI decoding accepts trailing bytes and is forbidden elsewhere by lint.

mod packed;

use std::fmt;

use alloy_primitives::{Address, Bytes};
use alloy_sol_types::SolValue;
use countersign_certificate::{Fingerprint20, Id};
use serde::{Deserialize, Serialize};

use self::packed::Packed;
use crate::{migration, sign};

/// The payload structs of `Entries.sol`.
pub mod payload {
    alloy_sol_types::sol! {
        #![sol(all_derives)]
        "../contracts/src/Entries.sol"
    }
}

/// An entry's kind: class byte and number. Unknown ones are values too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Kind(pub u16);

macro_rules! kinds {
    ($($name:ident = $number:literal,)*) => {
        impl Kind {
            $(
                #[doc = concat!("`Kinds.", stringify!($name), "` of `Entries.sol`.")]
                pub const $name: Self = Self($number);
            )*

            /// Every kind that has a name, with it.
            pub const NAMED: &'static [(&'static str, Self)] = &[$((stringify!($name), Self::$name)),*];
        }
    };
}

kinds! {
    ROOT_SET = 0x0000,
    ROLE_SET = 0x0001,
    CA_ADD = 0x0002,
    CA_LOOSEN = 0x0003,
    UNLOCK = 0x0004,
    RESTORE = 0x0005,
    SETTINGS = 0x0006,
    REVOKE = 0x0007,
    MIGRATE = 0x0080,
    MIGRATED = 0x0081,
    MEMBER_SET = 0x0100,
    USER_ADD = 0x0101,
    GROUP_ADD = 0x0102,
    HOST_ADD = 0x0103,
    LABEL_ADD = 0x0104,
    KEY_ADD = 0x0105,
    GRANT_ADD = 0x0106,
    GROUP_MEMBER_ADD = 0x0107,
    PAYLOAD_NAME_ADD = 0x0108,
    REMOVE = 0x0109,
    CONFIRM = 0x010a,
    KEY_LOCK = 0x0200,
    USER_LOCK = 0x0201,
    HOST_LOCK = 0x0202,
    CA_LOCK = 0x0203,
    ACTOR_LOCK = 0x0204,
    BATCH_LOCK = 0x0205,
    CA_RETIRE = 0x0206,
    CA_TIGHTEN = 0x0207,
    SETTINGS_TIGHTEN = 0x0208,
    CERT_REVOKE = 0x0300,
    BATCH = 0x0400,
    COUNTERSIGN = 0x0500,
    APPROVE = 0x0600,
    DENY = 0x0601,
    REQUEST = 0x0700,
    ACKNOWLEDGE = 0x0701,
    PREKEYS = 0x0702,
    DELIVERY = 0x0800,
    PUBLIC_DATA = 0x0801,
    ENVELOPE = 0x0802,
    ENROL = 0x0900,
}

impl Kind {
    /// The class byte.
    #[must_use]
    pub fn class(self) -> u8 {
        self.0.to_be_bytes()[0]
    }

    /// Class 00, number ≥ 0x80: a reader that does not know it publishes nothing new.
    #[must_use]
    pub fn is_critical(self) -> bool {
        let [class, number] = self.0.to_be_bytes();
        class == 0 && number >= 0x80
    }

    /// The name in `Entries.sol`.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Self::NAMED.iter().find(|(_, kind)| *kind == self).map(|(name, _)| *name)
    }
}

/// Name, or four hexadecimal digits.
impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => out.pad(name),
            None => write!(out, "{:#06x}", self.0),
        }
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Kind({self})")
    }
}

/// Role bits.
#[derive(Debug, Clone, Copy)]
pub struct Roles;

impl Roles {
    /// Writes the directory and deliveries.
    pub const ADMIN: u64 = 1 << 0;
    /// Logs batches and delivers certificates.
    pub const ISSUER: u64 = 1 << 1;
    /// Countersigns batches.
    pub const WATCHDOG: u64 = 1 << 2;
    /// Approves requests.
    pub const APPROVER: u64 = 1 << 3;
    /// Locks and revokes.
    pub const REVOKER: u64 = 1 << 4;
    /// Requests, acknowledges.
    pub const MEMBER: u64 = 1 << 5;

    /// Every role bit that has a name, with it, in lower case.
    pub const NAMED: [(&'static str, u64); 6] = [
        ("admin", Self::ADMIN),
        ("issuer", Self::ISSUER),
        ("watchdog", Self::WATCHDOG),
        ("approver", Self::APPROVER),
        ("revoker", Self::REVOKER),
        ("member", Self::MEMBER),
    ];
}

/// What a lock, unlock or revocation is aimed at; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// Keys by fingerprint.
    Keys(Vec<Fingerprint20>),
    /// Users by record id.
    Users(Vec<Id>),
    /// Hosts by record id.
    Hosts(Vec<Id>),
    /// CAs by record id.
    Cas(Vec<Id>),
    /// Ledger keys.
    Actors(Vec<Address>),
    /// Batches by record id.
    Batches(Vec<Id>),
}

impl Targets {
    /// The kind that locks such targets.
    #[must_use]
    pub fn lock_kind(&self) -> Kind {
        match self {
            Self::Keys(_) => Kind::KEY_LOCK,
            Self::Users(_) => Kind::USER_LOCK,
            Self::Hosts(_) => Kind::HOST_LOCK,
            Self::Cas(_) => Kind::CA_LOCK,
            Self::Actors(_) => Kind::ACTOR_LOCK,
            Self::Batches(_) => Kind::BATCH_LOCK,
        }
    }

    fn parse(lock_kind: Kind, packed: &[u8]) -> Option<Self> {
        Some(match lock_kind {
            Kind::KEY_LOCK => Self::Keys(unpack(packed, Fingerprint20)?),
            Kind::USER_LOCK => Self::Users(unpack(packed, Id)?),
            Kind::HOST_LOCK => Self::Hosts(unpack(packed, Id)?),
            Kind::CA_LOCK => Self::Cas(unpack(packed, Id)?),
            Kind::ACTOR_LOCK => Self::Actors(unpack(packed, |bytes: [u8; 20]| Address::from(bytes))?),
            Kind::BATCH_LOCK => Self::Batches(unpack(packed, Id)?),
            _ => return None,
        })
    }

    /// The items one after the other, as in the data of the lock kind.
    #[must_use]
    pub fn pack(&self) -> Vec<u8> {
        match self {
            Self::Keys(keys) => keys.iter().flat_map(|key| key.0).collect(),
            Self::Users(ids) | Self::Hosts(ids) | Self::Cas(ids) | Self::Batches(ids) => pack_ids(ids),
            Self::Actors(actors) => actors.iter().flat_map(|actor| actor.into_array()).collect(),
        }
    }
}

/// A parsed entry of a kind that this version knows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the payload of the kind of its name, documented in Entries.sol")]
pub enum Entry {
    RootSet(payload::RootSet),
    RoleSet(payload::RoleSet),
    CaAdd(payload::CaAdd),
    CaLoosen(payload::CaLimits),
    Unlock(Targets),
    Restore(payload::Restore),
    Settings(payload::Settings),
    /// Keys, users, hosts or CAs.
    Revoke(Targets),
    Migrate(payload::Migrate),
    Migrated(payload::Migrated),
    MemberSet(payload::MemberSet),
    UserAdd(payload::UserAdd),
    GroupAdd(payload::GroupAdd),
    HostAdd(payload::HostAdd),
    LabelAdd(payload::LabelAdd),
    KeyAdd(payload::KeyAdd),
    GrantAdd(payload::GrantAdd),
    GroupMemberAdd(payload::GroupMemberAdd),
    PayloadNameAdd(payload::PayloadNameAdd),
    Remove(Vec<Id>),
    Confirm(Vec<Id>),
    /// KEY_LOCK to BATCH_LOCK.
    Lock(Targets),
    CaRetire(Vec<Id>),
    CaTighten(payload::CaLimits),
    SettingsTighten(payload::Settings),
    CertRevoke {
        /// CA id.
        ca: Id,
        /// At least one.
        serials: Vec<u64>,
    },
    Batch(payload::Batch),
    Countersign(payload::Countersign),
    Approve(payload::Approve),
    /// The request.
    Deny(Id),
    Request(payload::Request),
    Acknowledge(payload::Acknowledge),
    Prekeys(payload::Prekeys),
    Delivery(payload::Delivery),
    Envelope(payload::Envelope),
    PublicData(payload::PublicData),
    Enrol(payload::Enrol),
}

/// Data that is not an entry this version can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// No encoding byte.
    #[error("entry data is empty, expected an encoding byte")]
    Empty,
    /// Encoding 1.
    #[error("entry data is sealed, which this version does not read")]
    Sealed,
    /// Encoding 2 and up.
    #[error("entry data has encoding {0}, expected 0")]
    Encoding(u8),
    /// A kind without meaning in this version.
    #[error("entry kind {0} has no meaning in this version")]
    UnknownKind(Kind),
    /// Not the canonical form of the kind's payload.
    #[error("payload is not a canonical {0}")]
    Malformed(Kind),
}

impl Entry {
    /// The most prekeys that fit into one PREKEYS entry.
    pub const MAX_PREKEYS: usize = packed::MAX_PREKEYS;

    /// Parses the data of an entry of `kind`.
    ///
    /// # Errors
    /// [`EntryError`] unless the data is the canonical form of a payload that this version knows.
    pub fn decode(kind: Kind, data: &[u8]) -> Result<Self, EntryError> {
        let payload = match data.split_first() {
            None => return Err(EntryError::Empty),
            Some((0, payload)) => payload,
            Some((1, _)) => return Err(EntryError::Sealed),
            Some((encoding, _)) => return Err(EntryError::Encoding(*encoding)),
        };
        Self::decode_payload(kind, payload)
    }

    fn decode_payload(kind: Kind, payload: &[u8]) -> Result<Self, EntryError> {
        let malformed = EntryError::Malformed(kind);
        Ok(match kind {
            Kind::ROOT_SET => Self::RootSet(canonical(kind, payload)?),
            Kind::ROLE_SET => Self::RoleSet(packed::decode(kind, payload)?),
            Kind::CA_ADD => Self::CaAdd(canonical(kind, payload)?),
            Kind::CA_LOOSEN => Self::CaLoosen(canonical(kind, payload)?),
            Kind::UNLOCK => {
                let unlock: payload::Unlock = canonical(kind, payload)?;
                Self::Unlock(Targets::parse(Kind(unlock.kind), &unlock.targets).ok_or(malformed)?)
            }
            Kind::RESTORE => Self::Restore(canonical(kind, payload)?),
            Kind::SETTINGS => Self::Settings(canonical(kind, payload)?),
            Kind::REVOKE => {
                let revoke: payload::Revoke = canonical(kind, payload)?;
                match Targets::parse(Kind(revoke.kind), &revoke.targets) {
                    None | Some(Targets::Actors(_) | Targets::Batches(_)) => return Err(malformed),
                    Some(targets) => Self::Revoke(targets),
                }
            }
            Kind::MIGRATE => Self::Migrate(migration::well_formed(canonical(kind, payload)?, kind)?),
            Kind::MIGRATED => Self::Migrated(migration::well_formed(canonical(kind, payload)?, kind)?),
            Kind::MEMBER_SET => Self::MemberSet(packed::decode(kind, payload)?),
            Kind::USER_ADD => Self::UserAdd(canonical(kind, payload)?),
            Kind::GROUP_ADD => Self::GroupAdd(canonical(kind, payload)?),
            Kind::HOST_ADD => Self::HostAdd(canonical(kind, payload)?),
            Kind::LABEL_ADD => Self::LabelAdd(canonical(kind, payload)?),
            Kind::KEY_ADD => Self::KeyAdd(canonical(kind, payload)?),
            Kind::GRANT_ADD => Self::GrantAdd(canonical(kind, payload)?),
            Kind::GROUP_MEMBER_ADD => Self::GroupMemberAdd(canonical(kind, payload)?),
            Kind::PAYLOAD_NAME_ADD => Self::PayloadNameAdd(canonical(kind, payload)?),
            Kind::REMOVE => Self::Remove(unpack(payload, Id).ok_or(malformed)?),
            Kind::CONFIRM => Self::Confirm(unpack(payload, Id).ok_or(malformed)?),
            Kind::CA_RETIRE => Self::CaRetire(unpack(payload, Id).ok_or(malformed)?),
            Kind::CA_TIGHTEN => Self::CaTighten(canonical(kind, payload)?),
            Kind::SETTINGS_TIGHTEN => Self::SettingsTighten(canonical(kind, payload)?),
            Kind::CERT_REVOKE => {
                let (ca, serials) = payload.split_first_chunk::<16>().ok_or(malformed)?;
                let serials = unpack(serials, u64::from_be_bytes).ok_or(malformed)?;
                Self::CertRevoke { ca: Id(*ca), serials }
            }
            Kind::BATCH => Self::Batch(packed::decode(kind, payload)?),
            Kind::COUNTERSIGN => Self::Countersign(packed::decode(kind, payload)?),
            Kind::APPROVE => Self::Approve(packed::decode(kind, payload)?),
            Kind::DENY => Self::Deny(Id(payload.try_into().map_err(|_| malformed)?)),
            Kind::REQUEST => Self::Request(canonical(kind, payload)?),
            Kind::ACKNOWLEDGE => Self::Acknowledge(packed::decode(kind, payload)?),
            Kind::PREKEYS => Self::Prekeys(packed::decode(kind, payload)?),
            Kind::DELIVERY => Self::Delivery(packed::decode(kind, payload)?),
            Kind::ENVELOPE => Self::Envelope(packed::decode(kind, payload)?),
            Kind::PUBLIC_DATA => Self::PublicData(canonical(kind, payload)?),
            Kind::ENROL => Self::Enrol(canonical(kind, payload)?),
            _ => match Targets::parse(kind, payload) {
                Some(targets) => Self::Lock(targets),
                None if (Kind::KEY_LOCK..=Kind::BATCH_LOCK).contains(&kind) => return Err(malformed),
                None => return Err(EntryError::UnknownKind(kind)),
            },
        })
    }

    /// The kind to log it under.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::RootSet(_) => Kind::ROOT_SET,
            Self::RoleSet(_) => Kind::ROLE_SET,
            Self::CaAdd(_) => Kind::CA_ADD,
            Self::CaLoosen(_) => Kind::CA_LOOSEN,
            Self::Unlock(_) => Kind::UNLOCK,
            Self::Restore(_) => Kind::RESTORE,
            Self::Settings(_) => Kind::SETTINGS,
            Self::Revoke(_) => Kind::REVOKE,
            Self::Migrate(_) => Kind::MIGRATE,
            Self::Migrated(_) => Kind::MIGRATED,
            Self::MemberSet(_) => Kind::MEMBER_SET,
            Self::UserAdd(_) => Kind::USER_ADD,
            Self::GroupAdd(_) => Kind::GROUP_ADD,
            Self::HostAdd(_) => Kind::HOST_ADD,
            Self::LabelAdd(_) => Kind::LABEL_ADD,
            Self::KeyAdd(_) => Kind::KEY_ADD,
            Self::GrantAdd(_) => Kind::GRANT_ADD,
            Self::GroupMemberAdd(_) => Kind::GROUP_MEMBER_ADD,
            Self::PayloadNameAdd(_) => Kind::PAYLOAD_NAME_ADD,
            Self::Remove(_) => Kind::REMOVE,
            Self::Confirm(_) => Kind::CONFIRM,
            Self::Lock(targets) => targets.lock_kind(),
            Self::CaRetire(_) => Kind::CA_RETIRE,
            Self::CaTighten(_) => Kind::CA_TIGHTEN,
            Self::SettingsTighten(_) => Kind::SETTINGS_TIGHTEN,
            Self::CertRevoke { .. } => Kind::CERT_REVOKE,
            Self::Batch(_) => Kind::BATCH,
            Self::Countersign(_) => Kind::COUNTERSIGN,
            Self::Approve(_) => Kind::APPROVE,
            Self::Deny(_) => Kind::DENY,
            Self::Request(_) => Kind::REQUEST,
            Self::Acknowledge(_) => Kind::ACKNOWLEDGE,
            Self::Prekeys(_) => Kind::PREKEYS,
            Self::Delivery(_) => Kind::DELIVERY,
            Self::Envelope(_) => Kind::ENVELOPE,
            Self::PublicData(_) => Kind::PUBLIC_DATA,
            Self::Enrol(_) => Kind::ENROL,
        }
    }

    /// The data to log: encoding byte 0 and the payload.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        sign::clear(&self.encode_payload())
    }

    fn encode_payload(&self) -> Vec<u8> {
        match self {
            Self::RootSet(payload) => payload.abi_encode(),
            Self::RoleSet(payload) => payload.pack(),
            Self::CaAdd(payload) => payload.abi_encode(),
            Self::CaLoosen(payload) | Self::CaTighten(payload) => payload.abi_encode(),
            Self::Unlock(targets) => {
                payload::Unlock { kind: targets.lock_kind().0, targets: targets.pack().into() }.abi_encode()
            }
            Self::Restore(payload) => payload.abi_encode(),
            Self::Settings(payload) | Self::SettingsTighten(payload) => payload.abi_encode(),
            Self::Revoke(targets) => {
                payload::Revoke { kind: targets.lock_kind().0, targets: targets.pack().into() }.abi_encode()
            }
            Self::Migrate(payload) => payload.abi_encode(),
            Self::Migrated(payload) => payload.abi_encode(),
            Self::MemberSet(payload) => payload.pack(),
            Self::UserAdd(payload) => payload.abi_encode(),
            Self::GroupAdd(payload) => payload.abi_encode(),
            Self::HostAdd(payload) => payload.abi_encode(),
            Self::LabelAdd(payload) => payload.abi_encode(),
            Self::KeyAdd(payload) => payload.abi_encode(),
            Self::GrantAdd(payload) => payload.abi_encode(),
            Self::GroupMemberAdd(payload) => payload.abi_encode(),
            Self::PayloadNameAdd(payload) => payload.abi_encode(),
            Self::Remove(ids) | Self::Confirm(ids) | Self::CaRetire(ids) => pack_ids(ids),
            Self::Lock(targets) => targets.pack(),
            Self::CertRevoke { ca, serials } => {
                ca.0.into_iter().chain(serials.iter().flat_map(|serial| serial.to_be_bytes())).collect()
            }
            Self::Batch(payload) => payload.pack(),
            Self::Countersign(payload) => payload.pack(),
            Self::Approve(payload) => payload.pack(),
            Self::Deny(request) => request.0.to_vec(),
            Self::Request(payload) => payload.abi_encode(),
            Self::Acknowledge(payload) => payload.pack(),
            Self::Prekeys(payload) => payload.pack(),
            Self::Delivery(payload) => payload.pack(),
            Self::Envelope(payload) => payload.pack(),
            Self::PublicData(payload) => payload.abi_encode(),
            Self::Enrol(payload) => payload.abi_encode(),
        }
    }
}

/// Decodes a payload struct from its canonical ABI form.
///
/// # Errors
/// [`EntryError::Malformed`] if the bytes do not decode, or are not what encoding the result gives.
pub fn canonical<T>(kind: Kind, payload: &[u8]) -> Result<T, EntryError>
where
    T: SolValue + From<<T::SolType as alloy_sol_types::SolType>::RustType>,
{
    #[expect(clippy::disallowed_methods, reason = "the one place where the result is encoded again and compared")]
    let decoded = T::abi_decode(payload).map_err(|_| EntryError::Malformed(kind))?;
    if decoded.abi_encode() != payload {
        return Err(EntryError::Malformed(kind));
    }
    Ok(decoded)
}

fn unpack<const N: usize, T>(packed: &[u8], item: impl Fn([u8; N]) -> T) -> Option<Vec<T>> {
    let (items, rest) = packed.as_chunks::<N>();
    (!items.is_empty() && rest.is_empty()).then(|| items.iter().map(|bytes| item(*bytes)).collect())
}

fn pack_ids(ids: &[Id]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.0).collect()
}
