//! Where what a snapshot says comes from: see [`OriginOf`].
//!
//! All of the realm's, not only what this host's tables hold: what is not there any more is just what people ask about. Nothing is
//! decided from it.

use std::collections::BTreeSet;

use countersign_certificate::Id;
use countersign_registry::origins::Denied;
use countersign_registry::{Effective, EntryRef};
use countersign_snapshot::{Origin, OriginOf, OriginPlace};

use crate::access::answers;

/// The origins of everything that `effective` holds and denies, in no order; of two for one thing the first counts.
pub fn origins(effective: &Effective) -> impl Iterator<Item = (OriginOf, Origin)> + '_ {
    let users = effective.users.iter().map(|(id, user)| (OriginOf::User(*id), user.at));
    // Ended ones, too.
    let grants = effective.once_granted.iter().map(|(id, grant)| (OriginOf::Grant(*id), grant.at));
    let memberships =
        effective.origins.memberships().map(|((group, user), at)| (OriginOf::Membership(group, user), at));
    let keys = effective.keys.iter().map(|key| (OriginOf::Key(key.fingerprint), key.at));
    let cas = effective.cas.iter().map(|(id, ca)| (OriginOf::Ca(*id), ca.at));
    let batches = effective.batches.iter().map(|(id, batch)| (OriginOf::Batch(*id), batch.at));
    let requests = effective.requests.iter().map(|(id, request)| (OriginOf::Request(*id), request.at));
    let answered: BTreeSet<Id> = effective.approvals.keys().chain(effective.refusals.keys()).copied().collect();
    let answers = answered.into_iter().flat_map(|request| {
        let numbered = (0..=u8::MAX).zip(answers(effective, &request));
        numbered.map(move |(ordinal, (at, _))| (OriginOf::Answer(request, ordinal, at.time), at))
    });
    let entries =
        users.chain(grants).chain(memberships).chain(keys).chain(cas).chain(batches).chain(requests).chain(answers);
    let denials = effective.origins.denials().map(|(denied, block)| (of_denied(denied), Origin { block, place: None }));
    entries.map(|(what, at)| (what, origin(at))).chain(denials)
}

const fn origin(at: EntryRef) -> Origin {
    Origin { block: at.block, place: Some(OriginPlace { shard: at.shard, index: at.index, time_secs: at.time }) }
}

const fn of_denied(denied: Denied) -> OriginOf {
    match denied {
        Denied::LockedKey(key) => OriginOf::LockedKey(key),
        Denied::RevokedKey(key) => OriginOf::RevokedKey(key),
        Denied::Locked(id) => OriginOf::Locked(id),
        Denied::Revoked(id) => OriginOf::Revoked(id),
        Denied::Removed(id) => OriginOf::Removed(id),
    }
}
