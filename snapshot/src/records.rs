//! What the tables hold: typed records, for writers and readers alike.
//!
//! A record is found by a salted digest of its key; the key itself is not stored. Where a limit is optional it cannot be
//! zero, so that no record can be written that reads back as unlimited.

use std::num::NonZeroU64;

use countersign_certificate::Id;

/// Secret of one host that keys are digested with, so that nobody can choose keys that make lookups slow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Salt(pub [u8; 16]);

/// A user's number on hosts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Uid(pub u32);

/// A group's number on hosts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Gid(pub u32);

/// The ledger user that a login name belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Login {
    /// The number that the system must show for this name.
    pub uid: Uid,
    /// The user's record id.
    pub user: Id,
}

/// Whether a user counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UserState {
    /// Added, not locked, not removed.
    Active,
    /// Locked until a root threshold's unlock.
    Locked,
    /// Removed or permanently revoked. The name stays taken.
    Removed,
}

/// A user of the realm.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    /// Whether it counts.
    pub state: UserState,
    /// Its login name, at most 32 bytes.
    pub login: String,
}

/// Whom a grant is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subject {
    /// One user.
    User(Id),
    /// The members of a group.
    Group(Id),
}

/// By which means a grant may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Via {
    /// With a certificate.
    pub certificate: bool,
    /// With a registered key alone.
    pub plain_key: bool,
}

/// An interval of a weekday, UTC: `from_minute <= t < to_minute`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hours {
    /// 0 is Monday, 6 Sunday.
    pub weekday: u8,
    /// Minute of the day.
    pub from_minute: u16,
    /// Minute of the day, at most 1440.
    pub to_minute: u16,
}

/// What a session may do beyond running its command; bits of `GrantAdd.permits`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Permits(pub u8);

impl Permits {
    /// A terminal.
    pub const PTY: u8 = 1;
    /// Port forwarding.
    pub const PORT_FORWARDING: u8 = 1 << 1;
    /// Agent forwarding.
    pub const AGENT_FORWARDING: u8 = 1 << 2;
    /// X11 forwarding.
    pub const X11_FORWARDING: u8 = 1 << 3;
    /// `~/.ssh/rc`.
    pub const USER_RC: u8 = 1 << 4;

    /// Whether it contains `bit`.
    #[must_use]
    pub const fn allows(self, bit: u8) -> bool {
        self.0 & bit != 0
    }
}

/// A live grant that covers this host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// Whom it is for.
    pub subject: Subject,
    /// By which means. `plain_key` is false here wherever replay ignores it.
    pub via: Via,
    /// Longest life of a certificate, seconds; none: the CA's and the realm's.
    pub max_ttl_secs: Option<NonZeroU64>,
    /// Distinct approvers needed.
    pub approvals: u8,
    /// Unix time after which it does not count; none: no end.
    pub not_after_secs: Option<NonZeroU64>,
    /// What a session may do.
    pub permits: Permits,
    /// The only command a session may run.
    pub forced_command: Option<String>,
    /// Networks (CIDR) that a session may come from; empty: any.
    pub source_addresses: Vec<String>,
    /// When it counts; empty: always.
    pub hours: Vec<Hours>,
}

/// Whether a registered key counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyState {
    /// Registered, not locked.
    Active,
    /// Locked until a root threshold's unlock.
    Locked,
    /// Permanently revoked.
    Revoked,
}

/// A registered key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    /// Whose it is.
    pub user: Id,
    /// Whether it counts.
    pub state: KeyState,
    /// Bits of `KeyAdd.purposes`; bit 0: login.
    pub purposes: u8,
    /// Unix time after which it does not count; none: no end.
    pub not_after_secs: Option<NonZeroU64>,
}

impl Key {
    /// Bit 0 of the purposes.
    pub const PURPOSE_LOGIN: u8 = 1;
}

/// Whether a CA counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CaState {
    /// Added, nothing against it.
    Active,
    /// Locked until a root threshold's unlock.
    Locked,
    /// Retired: only what was logged before that counts.
    Retired {
        /// Unix time of the block that retired it.
        at_secs: u64,
    },
    /// Permanently revoked.
    Revoked,
}

/// A CA for user certificates.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ca {
    /// Its record id.
    pub id: Id,
    /// Whether it counts.
    pub state: CaState,
    /// Longest life of a certificate, seconds.
    pub max_ttl_secs: u64,
    /// Whether it may certify only the logins listed for it.
    pub logins_restricted: bool,
    /// Its public key in SSH wire form.
    pub key_blob: Vec<u8>,
}

/// What became of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BatchState {
    /// Logged by an issuer that the CA lists, countersigned as the realm asks.
    Accepted,
    /// Fewer countersignatures than the realm asks for.
    WaitingForCountersignatures,
    /// Locked by a revoker.
    Locked,
    /// Its issuer has lost the role.
    IssuerLostRole,
    /// The CA does not list its issuer.
    IssuerNotListed,
}

/// A logged Merkle root of pre-certificates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Batch {
    /// What became of it.
    pub state: BatchState,
    /// The CA that it names.
    pub ca: Id,
    /// The tree's root.
    pub root: [u8; 32],
    /// Leaves, at least 1.
    pub size: u32,
    /// Unix time of its block.
    pub time_secs: u64,
    /// Unix time after which its certificates do not count.
    pub not_after_secs: u64,
    /// Number of its block.
    pub block: u64,
}

/// A denial of a key, whatever it is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denial {
    /// Locked until a root threshold's unlock.
    Locked,
    /// Permanently revoked.
    Revoked,
}

/// An access request made by its user's own ledger key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Who asks.
    pub user: Id,
    /// The approval hash over what was asked for.
    pub approval_hash: [u8; 32],
    /// Unix time of its block.
    pub time_secs: u64,
}

/// Yes or no.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Approved.
    Approve,
    /// Denied.
    Deny,
}

/// An approver's answer to a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Approval {
    /// Yes or no.
    pub verdict: Verdict,
    /// The user that the approver's ledger key belongs to; none: to nobody, and an approval then does not count.
    pub approver: Option<Id>,
    /// Unix time of its block.
    pub time_secs: u64,
    /// The approval hash that it names; zeros for a denial.
    pub approval_hash: [u8; 32],
}

/// A user as name services show it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Account {
    /// Its number.
    pub uid: Uid,
    /// Its own group's number.
    pub gid: Gid,
    /// Whether it counts.
    pub state: UserState,
    /// Its login name, at most 32 bytes.
    pub login: String,
    /// Its name for people.
    pub display_name: String,
}

/// A group as name services show it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// Its number.
    pub gid: Gid,
    /// Its name, at most 32 bytes.
    pub name: String,
}
