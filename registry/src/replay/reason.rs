//! Why an entry, or one item of a packed one, had no effect.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::entries::{EntryError, Kind};
use crate::realm::EntryRef;

/// An entry (or one item of a packed one) that had no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Ignored {
    /// Where.
    pub at: EntryRef,
    /// Its kind.
    pub kind: Kind,
    /// Why.
    pub reason: IgnoreReason,
}

macro_rules! reasons {
    ($($(#[$doc:meta])+ $name:ident = $text:literal,)*) => {
        /// Stable reasons; `docs/spec/replay.md` lists them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum IgnoreReason {
            $($(#[$doc])+ $name,)*
        }

        impl IgnoreReason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The stable text.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

reasons! {
    /// Data without an encoding byte.
    Empty = "empty",
    /// Encoding 1, reserved.
    Sealed = "sealed",
    /// Another encoding than 0 and 1.
    UnknownEncoding = "unknown-encoding",
    /// A kind that this version gives no meaning (and that is not critical).
    UnknownKind = "unknown-kind",
    /// Not the canonical form of the kind's payload.
    Malformed = "malformed",
    /// A kind in a shard of another class, or meta bits beyond the three fields.
    WrongShard = "wrong-shard",
    /// The writer is locked from this block or an earlier one on.
    ActorLocked = "actor-locked",
    /// The writer does not hold the role: lost in this block or before, or granted only in this block; governance not by the roots.
    NoRole = "no-role",
    /// A name outside its alphabet or length.
    InvalidName = "invalid-name",
    /// The login or group name is or was in use.
    NameTaken = "name-taken",
    /// No uid is left above the base.
    UidExhausted = "uid-exhausted",
    /// A record of this id exists.
    DuplicateId = "duplicate-id",
    /// A record of this id was removed before, or voided with its writer.
    RemovedBefore = "removed-before",
    /// It refers to a record that does not exist or was removed.
    UnknownReference = "unknown-reference",
    /// Not a plain SSH public key in canonical form.
    InvalidKey = "invalid-key",
    /// A grant that contradicts itself or carries values out of range.
    InvalidGrant = "invalid-grant",
    /// CA limits or purpose out of range.
    InvalidLimits = "invalid-limits",
    /// Another CA record has the same key.
    CaKeyTaken = "ca-key-taken",
    /// Nothing was locked before this block.
    NothingLocked = "nothing-locked",
    /// The user or host is neither removed nor revoked.
    NothingToRestore = "nothing-to-restore",
    /// A restore whose kind, name or uid is not the record's.
    RestoreMismatch = "restore-mismatch",
    /// A settings key without meaning.
    SettingUnknown = "setting-unknown",
    /// A settings value out of range.
    SettingOutOfRange = "setting-out-of-range",
    /// A tightening that is not stricter than what is in force, or of a key that cannot be tightened.
    SettingNotStricter = "setting-not-stricter",
    /// The uid base was set before, or a user or group exists.
    UidBaseFixed = "uid-base-fixed",
    /// A confirmation of something that does not wait, or by its writer or twice.
    NothingWaits = "nothing-waits",
    /// An issuer revokes a certificate of a CA that does not list it.
    IssuerNotListed = "issuer-not-listed",
    /// The ledger key is not bound to the user it speaks for.
    NotBound = "not-bound",
    /// A request, batch or delivery with values out of range.
    InvalidValue = "invalid-value",
    /// Written after the heads by which the realm was left, and no denial.
    Migrated = "migrated",
    /// A MIGRATED that is not the first entry of its realm.
    NotFirst = "not-first",
}

impl fmt::Display for IgnoreReason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.as_str())
    }
}

impl From<EntryError> for IgnoreReason {
    fn from(error: EntryError) -> Self {
        match error {
            EntryError::Empty => Self::Empty,
            EntryError::Sealed => Self::Sealed,
            EntryError::Encoding(_) => Self::UnknownEncoding,
            EntryError::UnknownKind(_) => Self::UnknownKind,
            EntryError::Malformed(_) => Self::Malformed,
        }
    }
}
