//! What an sshd that reads plain files can be told: which CAs to trust (`TrustedUserCAKeys`), and which certificates and keys not to
//! take (`RevokedKeys`).
//!
//! Such files know certificates, keys and CAs; they know nothing of hosts, grants, batches, approvals or hours. Where the realm says more
//! about a CA than a line can, the line is left out. What is denied here is named as precisely as sshd can be told, so that
//! nobody gets somebody else's key refused by putting it into a request.

use std::collections::{BTreeMap, BTreeSet};

use countersign_certificate::{Fingerprint20, Id, fingerprint_sha256};
use countersign_krl::RevokedCertificates;
use countersign_registry::effective::Effective;
use countersign_registry::realm::{CaPurpose, CaState, State};
use countersign_snapshot as snapshot;

use crate::Compiled;
use crate::access::denied_keys;

/// What the files of a plain sshd say, in one order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PlainSshd {
    /// CAs that may be trusted here without asking anybody further: name and key, SSH wire form.
    pub cas: Vec<(String, Vec<u8>)>,
    /// Certificates that do not count, by CA.
    pub certificates: Vec<RevokedCertificates>,
    /// Keys that do not count, as themselves, in a certificate or as a CA: SHA-256 of the wire form.
    pub keys_sha256: Vec<[u8; 32]>,
}

/// Serials apart from each other that sshd is told of one CA: it reads its list for every key that is offered, and a hundred thousand cost it
/// more than half a second. A CA with more is denied as a whole, rather than all of them.
pub const MOST_SERIALS: usize = 100_000;

/// What `compiled` and the view it comes from say to a plain sshd. A host that is locked or unknown trusts no CA.
#[must_use]
pub fn plain_sshd(effective: &Effective, compiled: &Compiled) -> PlainSshd {
    let trusted = compiled.access.cas.iter();
    // A line cannot say which logins a CA is for, nor until when a retired one counts.
    let trusted = trusted.filter(|ca| ca.state == snapshot::CaState::Active && !ca.logins_restricted);
    let (certificates, overfull) = certificates(effective);
    let trusted = trusted.filter(|ca| !overfull.contains(ca.key_blob.as_slice()));
    let denied = keys(effective).into_iter().chain(overfull.iter().map(|blob| fingerprint_sha256(blob)));
    let keys_sha256 = denied.collect::<BTreeSet<_>>().into_iter().collect();
    let name = |id: &Id| effective.cas.get(id).map_or_else(|| id.to_string(), |ca| ca.name.clone());
    PlainSshd { cas: trusted.map(|ca| (name(&ca.id), ca.key_blob.clone())).collect(), certificates, keys_sha256 }
}

/// Revoked serials, and the key ids of certificates that a user who is out, or a request that was refused, may still hold.
/// Also the keys of CAs that have more of them than sshd is told.
fn certificates(effective: &Effective) -> (Vec<RevokedCertificates>, BTreeSet<Vec<u8>>) {
    let key_ids: Vec<String> = effective
        .once_requested
        .iter()
        .filter(|(id, request)| {
            let active = effective.users.get(&request.user).is_some_and(|user| user.state == State::Active);
            !active || effective.refusals.get(id).is_some_and(|refusals| !refusals.is_empty())
        })
        .filter_map(|(id, request)| Some(format!("{}/{id}", login(effective, request.user)?)))
        .collect();
    // By key: two records of one CA are one CA to sshd.
    let mut by_ca: BTreeMap<&[u8], BTreeSet<u64>> = BTreeMap::new();
    for (id, ca) in effective.cas.iter().filter(|(_, ca)| ca.purpose == CaPurpose::User && counts(ca.state)) {
        let serials = effective.revoked_serials.get(id).into_iter().flatten();
        // 0 means "no serial" to sshd; whoever revokes it names no certificate.
        by_ca.entry(&ca.public_key).or_default().extend(serials.filter(|serial| **serial != 0));
    }
    let (told, overfull): (Vec<_>, Vec<_>) = by_ca.into_iter().partition(|(_, serials)| runs(serials) <= MOST_SERIALS);
    let revoked = told.into_iter().map(|(ca_blob, serials)| RevokedCertificates {
        ca_blob: ca_blob.to_vec(),
        serials: serials.into_iter().collect(),
        key_ids: key_ids.clone(),
    });
    let revoked = revoked.filter(|revoked| !revoked.serials.is_empty() || !revoked.key_ids.is_empty()).collect();
    (revoked, overfull.into_iter().map(|(ca_blob, _)| ca_blob.to_vec()).collect())
}

/// How many of the numbers have no predecessor among them.
fn runs(serials: &BTreeSet<u64>) -> usize {
    serials.iter().filter(|serial| serial.checked_sub(1).is_none_or(|before| !serials.contains(&before))).count()
}

/// Whether certificates of a CA may count at all; otherwise its key is denied as a whole.
const fn counts(state: CaState) -> bool {
    matches!(state, CaState::Active | CaState::Retired { .. })
}

fn login(effective: &Effective, user: Id) -> Option<&str> {
    let live = effective.users.get(&user).map(|user| user.login.as_str());
    live.or_else(|| effective.removed.get(&user).map(|removed| removed.name.as_str()))
}

/// The ledger denies keys by a part of their SHA-256, so it takes the key itself to name it to sshd: those that are registered, were
/// asked for, or are a CA's are known. A locked user's keys are not denied with the user: whoever may register keys could have a CA's, or the one of a
/// break-glass account, denied that way.
fn keys(effective: &Effective) -> BTreeSet<[u8; 32]> {
    let denied = denied_keys(effective);
    let is_denied = |blob: &[u8]| denied.contains_key(&Fingerprint20::of_blob(blob));
    let registered = effective.keys.iter().filter(|key| is_denied(&key.blob));
    let requested = effective.once_requested.values().filter(|request| is_denied(&request.public_key));
    let cas = effective.cas.values().filter(|ca| !counts(ca.state) || is_denied(&ca.public_key));
    let registered = registered.map(|key| &key.blob);
    let requested = requested.map(|request| &request.public_key);
    registered.chain(requested).chain(cas.map(|ca| &ca.public_key)).map(|blob| fingerprint_sha256(blob)).collect()
}
