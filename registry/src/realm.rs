//! The records of a realm, as a reader finds them in [`Effective`](crate::Effective).
//!
//! Plain data with public fields: what replay has concluded, nothing that still has to be checked against another record,
//! except where a field says so. Records are immutable on the ledger; `state` is what locks and revocations made of them.

use std::collections::BTreeSet;

use alloy_primitives::{Address, B256, Bytes};
use countersign_certificate::{Fingerprint20, Id};
use serde::{Deserialize, Serialize};

use crate::records::SharedSet;

/// A block by number and Unix time in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockRef {
    /// Block number.
    pub number: u64,
    /// Block time, Unix seconds.
    pub time: u64,
}

/// Where an entry stands. Orders by block, then shard, then index: replay's order within one shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct EntryRef {
    /// Number of the block that carries the entry.
    pub block: u64,
    /// The shard (shard class << 32 | epoch).
    pub shard: u64,
    /// How many entries of the shard come before it.
    pub index: u64,
    /// Time of the block, Unix seconds.
    pub time: u64,
}

/// Whether a user, host or key may be relied on. Removed records are not shown at all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// In force.
    #[default]
    Active,
    /// Locked, until a threshold of roots unlocks it.
    Locked,
    /// Revoked by the roots (a user or host can be restored, a key cannot).
    Revoked,
}

/// Why a CA's certificates count or not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CaState {
    /// In force.
    #[default]
    Active,
    /// Locked, until a threshold of roots unlocks it.
    Locked,
    /// Certificates made before this time (Unix seconds) run out; newer ones are refused.
    Retired {
        /// Block time of the earliest retirement.
        at: u64,
    },
    /// Revoked for good.
    Revoked,
}

/// A person.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct User {
    /// The USER_ADD entry.
    pub at: EntryRef,
    /// Whether the user may do anything at all.
    pub state: State,
    /// Account name, `[a-z_][a-z0-9_-]{0,31}`, unique for ever among users and groups.
    pub login: String,
    /// For people; may be anything that was logged (escape it before printing).
    pub display_name: String,
    /// Uid, and gid of the user's own group.
    pub uid: u32,
    /// Labels in force.
    pub labels: BTreeSet<String>,
}

/// A group of users.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Group {
    /// The GROUP_ADD entry.
    pub at: EntryRef,
    /// Group name, as a login; unique for ever among users and groups.
    pub name: String,
    /// Gid, from the same ordinals as the users' uids.
    pub gid: u32,
}

/// A machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Host {
    /// The HOST_ADD entry.
    pub at: EntryRef,
    /// Whether anybody may log in there.
    pub state: State,
    /// For people; never decides access, may occur twice.
    pub name: String,
    /// The user who owns it.
    pub owner: Option<Id>,
    /// SSH host key blob; may be empty.
    pub host_key: Bytes,
    /// Labels in force.
    pub labels: BTreeSet<String>,
}

/// A user's SSH key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Key {
    /// Record id.
    pub id: Id,
    /// The KEY_ADD entry.
    pub at: EntryRef,
    /// Whether the key itself is locked or revoked.
    pub state: State,
    /// Whose it is; the user is live, but may be locked.
    pub user: Id,
    /// The key, SSH wire form.
    pub blob: Bytes,
    /// What denials call it by.
    pub fingerprint: Fingerprint20,
    /// Bit 0: login.
    pub purposes: u8,
    /// Unix seconds after which it no longer counts.
    pub not_after: Option<u64>,
    /// For people.
    pub comment: String,
}

impl Key {
    /// Bit 0 of `purposes`.
    pub const LOGIN: u8 = 1;
}

/// Who a grant is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// One user.
    User(Id),
    /// Every member of a group.
    Group(Id),
}

/// Which hosts a grant covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GrantTarget {
    /// These hosts. Hosts that were removed are already taken out.
    Hosts(SharedSet<Id>),
    /// Every host that has all of these labels.
    Labels(SharedSet<String>),
    /// Every host.
    All,
}

impl GrantTarget {
    /// Whether the grant covers a host of this id with these labels.
    #[must_use]
    pub fn covers(&self, host: Id, labels: &BTreeSet<String>) -> bool {
        match self {
            Self::Hosts(hosts) => hosts.contains(&host),
            Self::Labels(wanted) => !wanted.is_empty() && wanted.is_subset(labels),
            Self::All => true,
        }
    }
}

/// One interval of a weekday, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Hours {
    /// 0 is Monday.
    pub weekday: u8,
    /// First minute of the day that is in.
    pub from: u16,
    /// First minute of the day that is out, at most 1440.
    pub to: u16,
}

/// What a subject may do on some hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Grant {
    /// The GRANT_ADD entry; of two grants for one plain key the earlier wins.
    pub at: EntryRef,
    /// Who; live, but a user may be locked.
    pub subject: Subject,
    /// Where.
    pub target: GrantTarget,
    /// Account names, never empty.
    pub logins: SharedSet<String>,
    /// [`Grant::VIA_CERTIFICATE`] and [`Grant::VIA_KEY`] bits. The key bit is already cleared where the realm requires logged
    /// certificates or the grant has approvals, a max TTL or hours; so it may be 0.
    pub via: u8,
    /// Longest certificate, seconds.
    pub max_ttl: Option<u64>,
    /// Distinct approvers needed.
    pub approvals: u8,
    /// Command that replaces what the user asks for.
    pub forced_command: Option<String>,
    /// Networks (CIDR) the user may come from; empty: any.
    pub source_addresses: Vec<String>,
    /// When; empty: always.
    pub hours: Vec<Hours>,
    /// Unix seconds after which it no longer counts.
    pub not_after: Option<u64>,
    /// Bits: 0 pty, 1 port forwarding, 2 agent forwarding, 3 X11 forwarding, 4 user rc.
    pub permits: u8,
}

impl Grant {
    /// Bit of `via`: by certificate.
    pub const VIA_CERTIFICATE: u8 = 1;
    /// Bit of `via`: by a registered plain key.
    pub const VIA_KEY: u8 = 2;
    /// Bit of `permits`.
    pub const PERMIT_PTY: u8 = 1;
    /// Bit of `permits`.
    pub const PERMIT_PORT_FORWARDING: u8 = 2;
    /// Bit of `permits`.
    pub const PERMIT_AGENT_FORWARDING: u8 = 4;
    /// Bit of `permits`.
    pub const PERMIT_X11_FORWARDING: u8 = 8;
    /// Bit of `permits`.
    pub const PERMIT_USER_RC: u8 = 16;
}

/// What a CA may certify.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CaLimits {
    /// Longest certificate, seconds.
    pub max_ttl: u64,
    /// Logins it may certify; none: any; an empty set: no login at all (two views that have nothing in common).
    pub logins: Option<BTreeSet<String>>,
    /// Actors whose batches carry it.
    pub issuers: BTreeSet<Address>,
}

impl CaLimits {
    /// What both allow.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        Self {
            max_ttl: self.max_ttl.min(other.max_ttl),
            logins: match (&self.logins, &other.logins) {
                (None, logins) | (logins, None) => logins.clone(),
                (Some(ours), Some(theirs)) => Some(ours.intersection(theirs).cloned().collect()),
            },
            issuers: self.issuers.intersection(&other.issuers).copied().collect(),
        }
    }

    /// Whether a certificate by this CA may name `login`.
    #[must_use]
    pub fn allows_login(&self, login: &str) -> bool {
        self.logins.as_ref().is_none_or(|logins| logins.contains(login))
    }
}

/// What a CA certifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CaPurpose {
    /// User certificates.
    User,
    /// Host certificates.
    Host,
}

/// An SSH certificate authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Ca {
    /// The CA_ADD entry.
    pub at: EntryRef,
    /// Whether its certificates count.
    pub state: CaState,
    /// What it certifies.
    pub purpose: CaPurpose,
    /// For people; may occur twice.
    pub name: String,
    /// The CA's key, SSH wire form; no two CA records of a realm have the same.
    pub public_key: Bytes,
    /// In force: the final view's, cut down by what the latest view and pending denials tightened.
    pub limits: CaLimits,
}

/// Whether a batch's certificates count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BatchState {
    /// They do.
    Accepted,
    /// Distinct watchdogs have yet to countersign.
    WaitingForCountersignatures {
        /// Valid countersignatures so far.
        have: u64,
        /// What the realm asks for.
        need: u64,
    },
    /// Locked, until a threshold of roots unlocks it.
    Locked,
    /// The issuer does not hold the ISSUER role in both views, or is locked.
    IssuerLostRole,
    /// The CA is unknown, or its record does not list the issuer in both views (now and when the batch was logged).
    IssuerNotListed,
}

/// A Merkle tree of pre-certificates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Batch {
    /// The BATCH entry.
    pub at: EntryRef,
    /// Whether it counts.
    pub state: BatchState,
    /// The CA whose certificates these are.
    pub ca: Id,
    /// Merkle root.
    pub root: B256,
    /// Leaves, at least 1.
    pub size: u32,
    /// No certificate of it is valid after this, Unix seconds.
    pub not_after: u64,
    /// Binary CID of the leaves sealed to the watchdogs; may be empty.
    pub leaves_cid: Bytes,
    /// Who logged it.
    pub issuer: Address,
    /// What a countersignature names.
    pub entry_hash: B256,
    /// Distinct watchdogs, in force, none of them the issuer.
    pub countersigners: BTreeSet<Address>,
}

/// A member asks for a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Request {
    /// The REQUEST entry.
    pub at: EntryRef,
    /// The ledger key it came from: bound to `user`.
    pub actor: Address,
    /// Who asks.
    pub user: Id,
    /// For which host.
    pub host: Id,
    /// For which login.
    pub login: String,
    /// For how long, seconds.
    pub ttl: u64,
    /// The key to certify, SSH wire form.
    pub public_key: Bytes,
    /// For people; escape it before printing.
    pub reason: String,
    /// What an approver approves.
    pub approval_hash: B256,
}

/// One approver's yes to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Approval {
    /// The APPROVE entry; its block time starts the pickup period.
    pub at: EntryRef,
    /// Who, by ledger key.
    pub actor: Address,
    /// Who, by user: live, active, not the requester, no two of one request the same.
    pub user: Id,
    /// What was approved; counts only where it is the hash of the certificate's own terms.
    pub hash: B256,
}

/// One approver's no to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Refusal {
    /// The DENY entry.
    pub at: EntryRef,
    /// Who, by ledger key.
    pub actor: Address,
    /// Who, by user, where the ledger key is bound to one.
    pub user: Option<Id>,
}

/// One sealed payload for one recipient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Delivery {
    /// The DELIVERY entry.
    pub at: EntryRef,
    /// Who sent it: ADMIN or ISSUER in both views. Its sealing key is in [`Actor::x25519`].
    pub actor: Address,
    /// The recipient's ledger key.
    pub recipient: Address,
    /// Names the payload; the host's configuration says where it goes.
    pub payload_name: String,
    /// 1 SSH certificate, 2 SSH key pair, 3 host certificate, 4 X.509 key pair, 5 opaque secret.
    pub payload_kind: u8,
    /// Salted digest of the payload.
    pub digest: B256,
    /// The block's CID, sealed to the recipient.
    pub sealed_cid: Bytes,
}

/// Sealed payloads for recipients whom the ledger does not name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Envelope {
    /// The ENVELOPE entry.
    pub at: EntryRef,
    /// Who sent it: ADMIN or ISSUER in both views. Its sealing key is in [`Actor::x25519`].
    pub actor: Address,
    /// Names the payload; the host's configuration says where it goes.
    pub payload_name: String,
    /// As in [`Delivery::payload_kind`].
    pub payload_kind: u8,
    /// SHA-256 of the index block.
    pub index: B256,
}

/// A key to which one payload may be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Prekey {
    /// The PREKEYS entry.
    pub at: EntryRef,
    /// X25519, as the device published it; not checked.
    pub key: B256,
}

impl Prekey {
    /// How long a prekey may be used, seconds from its entry's block time.
    pub const LIFE_SECS: u64 = 30 * crate::shard::DAY_SECS;
    /// How many of one actor's prekeys count, newest first.
    pub const KEPT: usize = 256;
}

/// A recipient says that it applied a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Acknowledgement {
    /// The ACKNOWLEDGE entry; final once its block is not above the final one.
    pub at: EntryRef,
    /// The recipient.
    pub actor: Address,
    /// The digest it saw; the sender compares.
    pub digest: B256,
}

/// The meaning of a payload name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PayloadName {
    /// Record id.
    pub id: Id,
    /// The PAYLOAD_NAME_ADD entry.
    pub at: EntryRef,
    /// As in [`Delivery::payload_kind`]; 6: public data, which is on the ledger itself.
    pub payload_kind: u8,
}

/// Bytes for everybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PublicData {
    /// The PUBLIC_DATA entry.
    pub at: EntryRef,
    /// Who wrote it.
    pub actor: Address,
    /// Its name.
    pub name: String,
    /// The bytes.
    pub data: Bytes,
}

/// A ledger key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Actor {
    /// Bits of [`Roles`](crate::entries::Roles) held in both views. MEMBER only while `subject` is there. Empty while locked.
    pub roles: u64,
    /// Its sealing key.
    pub x25519: Option<B256>,
    /// The user or host it is bound to.
    pub subject: Option<Id>,
    /// Locked, until a threshold of roots unlocks it.
    pub locked: bool,
}

/// A user or host that was removed: what the roots need to restore it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Removed {
    /// USER_ADD or HOST_ADD.
    pub kind: u16,
    /// Login or host name.
    pub name: String,
    /// Uid; 0 for a host.
    pub uid: u32,
}

/// A directory addition that does not count yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Waiting {
    /// Record id; what a CONFIRM names.
    pub id: Id,
    /// The entry's kind.
    pub kind: u16,
    /// The entry.
    pub at: EntryRef,
    /// Who wrote it.
    pub writer: Address,
    /// Unix seconds before which it does not count.
    pub not_before: u64,
    /// Distinct ADMINs so far, the writer included.
    pub confirmations: u64,
    /// Distinct ADMINs needed.
    pub quorum: u64,
    /// False while it is only in the latest view.
    pub in_final: bool,
}
