//! Where what a snapshot says comes from: see [`OriginOf`].
//!
//! All of the realm's, not only what this host's tables hold: what is not there any more is just what people ask about. Nothing is
//! decided from it.

use std::collections::{BTreeMap, BTreeSet};

use countersign_certificate::{Id, Serial};
use countersign_registry::origins::Denied;
use countersign_registry::realm::BatchState;
use countersign_registry::{Address, Effective, EntryRef};
use countersign_snapshot::{Origin, OriginOf};

use crate::access::answers;

/// The origins of everything that `effective` holds and denies, revoked serials last; of two for one thing the first counts.
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
    let issued = lost_batches(effective);
    let denials = effective.origins.denials().flat_map(move |(denied, at)| {
        let batches = if let Denied::Issuer(issuer) = denied { issued.get(&issuer).cloned() } else { None };
        let batches = batches.unwrap_or_default().into_iter().map(OriginOf::Issuer);
        of_denied(denied).into_iter().chain(batches).map(move |what| (what, at))
    });
    entries.chain(denials).map(|(what, at)| (what, origin(at)))
}

/// The batches that do not count since their issuer is locked or has lost its role. By issuer.
fn lost_batches(effective: &Effective) -> BTreeMap<Address, Vec<Id>> {
    let mut lost: BTreeMap<Address, Vec<Id>> = BTreeMap::new();
    for (id, batch) in effective.batches.iter().filter(|(_, batch)| batch.state == BatchState::IssuerLostRole) {
        lost.entry(batch.issuer).or_default().push(*id);
    }
    lost
}

const fn origin(at: EntryRef) -> Origin {
    Origin { block: at.block, shard: at.shard, index: at.index, time_secs: at.time }
}

/// A ledger key is in no snapshot: of those, batches have the origin.
const fn of_denied(denied: Denied) -> Option<OriginOf> {
    Some(match denied {
        Denied::LockedKey(key) => OriginOf::LockedKey(key),
        Denied::RevokedKey(key) => OriginOf::RevokedKey(key),
        Denied::Locked(id) => OriginOf::Locked(id),
        Denied::Revoked(id) => OriginOf::Revoked(id),
        Denied::Removed(id) => OriginOf::Removed(id),
        Denied::Retired(id) => OriginOf::Retired(id),
        Denied::Serial(ca, serial) => OriginOf::Serial(ca, Serial(serial)),
        Denied::Issuer(_) => return None,
    })
}
