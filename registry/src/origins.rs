//! Where records that [`Effective`](crate::Effective) shows without a place of their own come from: group memberships, and what has
//! taken something away. For `countersign explain`; nothing is decided by it.
//!
//! Shares its memory with the replay it comes from.

use std::collections::BTreeMap;

use alloy_primitives::Address;
use countersign_certificate::{Fingerprint20, Id};

use crate::realm::EntryRef;
use crate::records::Records;
use crate::replay::{Membership, Serials, Target};

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
    /// A CA, for what was not logged before.
    Retired(Id),
    /// A certificate: its CA and serial.
    Serial(Id, u64),
    /// A ledger key: it is locked, or has lost the role ISSUER.
    Issuer(Address),
}

/// See the module's documentation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins {
    pub(crate) memberships: Records<Id, Membership>,
    pub(crate) locks: Records<Target, EntryRef>,
    pub(crate) revoked: Records<Target, EntryRef>,
    pub(crate) removed: Records<Id, EntryRef>,
    pub(crate) retired: Records<Id, EntryRef>,
    pub(crate) serials: Serials,
    /// Of batches that do not count any more.
    pub(crate) issuers: BTreeMap<Address, EntryRef>,
    /// Seen in a latest view, and not final, or on a realm that was left.
    pub(crate) pending: Vec<(Denied, EntryRef)>,
}

impl Origins {
    /// (group, user) and the entry that put the user in.
    pub fn memberships(&self) -> impl Iterator<Item = ((Id, Id), EntryRef)> + '_ {
        self.memberships.values().map(|member| ((member.group, member.user), member.at))
    }

    /// Everything that is denied, with the entry of the (latest) denial, of a retirement the first; what is not final here comes first,
    /// and the serials of the final view, of which there may be very many, last.
    pub fn denials(&self) -> impl Iterator<Item = (Denied, EntryRef)> + '_ {
        let locks = self.locks.iter().map(|(target, at)| (target.locked(), *at));
        let revoked = self.revoked.iter().filter_map(|(target, at)| Some((target.revoked()?, *at)));
        let removed = self.removed.iter().map(|(id, at)| (Denied::Removed(*id), *at));
        let retired = self.retired.iter().map(|(id, at)| (Denied::Retired(*id), *at));
        let issuers = self.issuers.iter().map(|(actor, at)| (Denied::Issuer(*actor), *at));
        let serials = self.serials.iter().filter_map(|((ca, serial), at)| Some((Denied::Serial(ca, serial), at?)));
        let is_first = |denied: &Denied, at: &EntryRef| match denied {
            Denied::Retired(ca) => self.retired.get(ca).is_none_or(|first| at.time < first.time),
            _ => true,
        };
        let pending = self.pending.iter().copied().filter(move |(denied, at)| is_first(denied, at));
        pending.chain(locks).chain(revoked).chain(removed).chain(retired).chain(issuers).chain(serials)
    }
}
