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

/// What `compiled` and the view it comes from say to a plain sshd. A host that is locked or unknown trusts no CA.
#[must_use]
pub fn plain_sshd(effective: &Effective, compiled: &Compiled) -> PlainSshd {
    let trusted = compiled.access.cas.iter();
    // A line cannot say which logins a CA is for, nor until when a retired one counts.
    let trusted = trusted.filter(|ca| ca.state == snapshot::CaState::Active && !ca.logins_restricted);
    let name = |id: &Id| effective.cas.get(id).map_or_else(|| id.to_string(), |ca| ca.name.clone());
    PlainSshd {
        cas: trusted.map(|ca| (name(&ca.id), ca.key_blob.clone())).collect(),
        certificates: certificates(effective),
        keys_sha256: keys(effective).into_iter().collect(),
    }
}

/// Revoked serials, and the key ids of certificates that a user who is out, or a request that was refused, may still hold.
fn certificates(effective: &Effective) -> Vec<RevokedCertificates> {
    let key_ids: Vec<String> = effective
        .requests
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
    let revoked = by_ca.into_iter().map(|(ca_blob, serials)| RevokedCertificates {
        ca_blob: ca_blob.to_vec(),
        serials: serials.into_iter().collect(),
        key_ids: key_ids.clone(),
    });
    revoked.filter(|revoked| !revoked.serials.is_empty() || !revoked.key_ids.is_empty()).collect()
}

/// Whether certificates of a CA may count at all; otherwise its key is denied as a whole.
const fn counts(state: CaState) -> bool {
    matches!(state, CaState::Active | CaState::Retired { .. })
}

fn login(effective: &Effective, user: Id) -> Option<&str> {
    let live = effective.users.get(&user).map(|user| user.login.as_str());
    live.or_else(|| effective.removed.get(&user).map(|removed| removed.name.as_str()))
}

/// The ledger denies keys by a part of their SHA-256, so it takes the key itself to name it to sshd: those that are registered,
/// asked for, or a CA's are known.
fn keys(effective: &Effective) -> BTreeSet<[u8; 32]> {
    let denied = denied_keys(effective);
    let is_denied = |blob: &[u8]| denied.contains_key(&Fingerprint20::of_blob(blob));
    let registered = effective.keys.iter().filter(|key| {
        let user = effective.users.get(&key.user);
        key.state != State::Active || user.is_none_or(|user| user.state != State::Active) || is_denied(&key.blob)
    });
    let requested = effective.requests.values().filter(|request| is_denied(&request.public_key));
    let cas = effective.cas.values().filter(|ca| !counts(ca.state) || is_denied(&ca.public_key));
    let registered = registered.map(|key| &key.blob);
    let requested = requested.map(|request| &request.public_key);
    registered.chain(requested).chain(cas.map(|ca| &ca.public_key)).map(|blob| fingerprint_sha256(blob)).collect()
}
