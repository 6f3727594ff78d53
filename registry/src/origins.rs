//! Where records that [`Effective`](crate::Effective) shows without a place of their own come from: group memberships, and what has
//! taken something away. For `countersign explain`; nothing is decided by it.
//!
//! Shares its memory with the replay it comes from. Of denials only the block is remembered.

use countersign_certificate::{Fingerprint20, Id};

use crate::realm::EntryRef;
use crate::records::Records;
use crate::replay::{Membership, Target};

/// What was taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// A key, until a threshold of roots unlocks it.
    LockedKey(Fingerprint20),
    /// A key, for good.
    RevokedKey(Fingerprint20),
    /// A user, host, CA or batch, until a threshold of roots unlocks it.
    Locked(Id),
    /// A user, host or CA.
    Revoked(Id),
    /// Any record.
    Removed(Id),
}

/// See the module's documentation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins {
    pub(crate) memberships: Records<Id, Membership>,
    pub(crate) locks: Records<Target, u64>,
    pub(crate) revoked: Records<Target, u64>,
    pub(crate) removed: Records<Id, u64>,
    /// Seen in a latest view, and not final.
    pub(crate) pending: Vec<(Denied, u64)>,
}

impl Origins {
    /// (group, user) and the entry that put the user in.
    pub fn memberships(&self) -> impl Iterator<Item = ((Id, Id), EntryRef)> + '_ {
        self.memberships.values().map(|member| ((member.group, member.user), member.at))
    }

    /// Everything that is denied, with the block of the (latest) denial; what is not final yet comes first.
    pub fn denials(&self) -> impl Iterator<Item = (Denied, u64)> + '_ {
        let locks = self.locks.iter().filter_map(|(target, block)| Some((target.locked()?, *block)));
        let revoked = self.revoked.iter().filter_map(|(target, block)| Some((target.revoked()?, *block)));
        let removed = self.removed.iter().map(|(id, block)| (Denied::Removed(*id), *block));
        self.pending.iter().copied().chain(locks).chain(revoked).chain(removed)
    }
}
