//! The judgement of one batch: everything that a countersignature says was looked at.

use std::fmt;

use countersign_certificate::{Id, RealmId};
use countersign_delivery::{BlockCid, DeliveryError, LeavesContext, PublicKey, SecretKey, open_leaves};
use countersign_registry::realm::{Batch, BatchState, CaPurpose};
use countersign_registry::{Address, Effective};
use countersign_snapshot::{Batch as SnapshotBatch, BatchState as SnapshotState};
use countersign_sshd::Reason;

use crate::error::IssueError;
use crate::leaves::{Leaves, Prepared, tree};
use crate::watch::policy::Policy;

/// Why a watchdog does not countersign: stable codes, listed in `docs/watchdog-reason-codes.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The watchdog's own ledger key logged it.
    OwnBatch,
    /// The entry names no sealed leaves.
    LeavesMissing,
    /// What the entry names is no CID of ours.
    LeavesCid,
    /// The block is not in the store, or not the one that the CID names.
    LeavesUnavailable,
    /// The issuer has no sealing key on the ledger.
    IssuerKey,
    /// The block does not open, or is of another form.
    LeavesUnreadable,
    /// Other than as many leaves as the entry says.
    LeavesSize,
    /// The leaves shown are not those of the root.
    RootMismatch,
    /// Not a certificate of the sort that is issued here.
    LeafMalformed,
    /// The host's own decision function would refuse it.
    Host(Reason),
    /// A CA that this watchdog does not watch for.
    PolicyCa,
    /// Too many certificates at once.
    PolicySize,
    /// Not at this hour.
    PolicyHours,
    /// Valid for too long.
    PolicyTtl,
    /// Not this login.
    PolicyLogin,
    /// Not this host.
    PolicyHost,
    /// This watchdog could not judge.
    Failed,
}

impl Why {
    /// Those that are not a host's.
    pub const OWN: &'static [Self] = &[
        Self::OwnBatch,
        Self::LeavesMissing,
        Self::LeavesCid,
        Self::LeavesUnavailable,
        Self::IssuerKey,
        Self::LeavesUnreadable,
        Self::LeavesSize,
        Self::RootMismatch,
        Self::LeafMalformed,
        Self::PolicyCa,
        Self::PolicySize,
        Self::PolicyHours,
        Self::PolicyTtl,
        Self::PolicyLogin,
        Self::PolicyHost,
        Self::Failed,
    ];

    /// The code, in kebab-case.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::OwnBatch => "own-batch",
            Self::LeavesMissing => "leaves-missing",
            Self::LeavesCid => "leaves-cid",
            Self::LeavesUnavailable => "leaves-unavailable",
            Self::IssuerKey => "issuer-key",
            Self::LeavesUnreadable => "leaves-unreadable",
            Self::LeavesSize => "leaves-size",
            Self::RootMismatch => "root-mismatch",
            Self::LeafMalformed => "leaf-malformed",
            Self::Host(reason) => reason.code(),
            Self::PolicyCa => "policy-ca",
            Self::PolicySize => "policy-size",
            Self::PolicyHours => "policy-hours",
            Self::PolicyTtl => "policy-ttl",
            Self::PolicyLogin => "policy-login",
            Self::PolicyHost => "policy-host",
            Self::Failed => "failed",
        }
    }

    /// Whether another look may find otherwise: the block may still come, and what hosts go by may still become final. What is wrong
    /// with the bytes themselves, or with this watchdog's own policy, stays wrong.
    #[must_use]
    pub const fn may_pass(self) -> bool {
        matches!(self, Self::LeavesUnavailable | Self::IssuerKey | Self::Host(_) | Self::Failed)
    }
}

impl fmt::Display for Why {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.code())
    }
}

/// What a watchdog has against a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Objection {
    /// The code.
    pub why: Why,
    /// More about it, or empty.
    pub detail: String,
    /// The certificate's place in the tree, if it is about one.
    pub leaf: Option<usize>,
}

impl Objection {
    /// About the batch as a whole.
    #[must_use]
    pub fn new(why: Why, detail: impl Into<String>) -> Self {
        Self { why, detail: detail.into(), leaf: None }
    }

    /// About one of its certificates.
    #[must_use]
    pub fn at(self, leaf: usize) -> Self {
        Self { leaf: Some(leaf), ..self }
    }
}

impl fmt::Display for Objection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(leaf) = self.leaf {
            write!(out, "leaf {leaf}: ")?;
        }
        out.write_str(&self.detail)
    }
}

/// Who judges.
#[derive(Debug, Clone, Copy)]
pub struct Watchdog<'a> {
    /// Its ledger key's address.
    pub address: Address,
    /// Its sealing key.
    pub key: &'a SecretKey,
    /// Its own policy.
    pub policy: &'a Policy,
}

/// Judges `batch`, record id `id`, as it stands on the ledger that `effective` was made from; `fetch` gets a block by its CID. Gives the
/// certificates where there is nothing against them.
///
/// # Errors
/// The first [`Objection`].
pub fn judge(
    effective: &Effective,
    id: Id,
    batch: &Batch,
    watchdog: Watchdog<'_>,
    fetch: impl FnOnce(&BlockCid) -> Result<Vec<u8>, DeliveryError>,
) -> Result<Leaves, Objection> {
    let (cid, sender) = before_leaves(effective, batch, watchdog.address, watchdog.policy)?;
    let object = |why, detail: String| Objection::new(why, detail);
    let ca = effective.cas.get(&batch.ca).filter(|ca| ca.purpose == CaPurpose::User);
    let ca = ca.ok_or_else(|| object(Why::Host(Reason::CaUnknown), format!("CA {}", batch.ca)))?;
    let shown = shown(effective, id, (&cid, &sender), watchdog, fetch)?;
    if u32::try_from(shown.len()).ok() != Some(batch.size) {
        return Err(object(Why::LeavesSize, format!("{} leaves shown, the entry says {}", shown.len(), batch.size)));
    }
    let realm = RealmId(effective.realm_of(batch.at.block).0);
    let failed = |error: IssueError| object(Why::Failed, error.to_string());
    let (_, root) = tree(realm, batch.ca, shown.iter().map(Vec::as_slice)).map_err(failed)?;
    if root != batch.root.0 {
        let root = countersign_registry::B256::from(root);
        return Err(object(
            Why::RootMismatch,
            format!("the leaves shown have root {root}, the entry says {}", batch.root),
        ));
    }
    let mut prepared = Vec::new();
    for (index, leaf) in shown.iter().enumerate() {
        let one = Prepared::read(realm, &ca.public_key, leaf);
        prepared.push(one.map_err(|error| object(Why::LeafMalformed, error.to_string()).at(index))?);
    }
    let leaves = Leaves::new(realm, batch.ca, prepared).map_err(failed)?;
    watchdog.policy.leaves(effective, &leaves)?;

    let accepted = SnapshotBatch {
        state: SnapshotState::Accepted,
        ca: batch.ca,
        root: batch.root.0,
        size: batch.size,
        time_secs: batch.at.time,
        not_after_secs: batch.not_after,
        block: batch.at.block,
    };
    let verdicts = leaves.rehearse(effective, id, accepted, &ca.public_key).map_err(failed)?;
    for (index, verdict) in verdicts.into_iter().enumerate() {
        match verdict {
            Ok(()) => {}
            Err(IssueError::Refused { reason, detail }) => return Err(object(Why::Host(reason), detail).at(index)),
            Err(error) => return Err(object(Why::LeafMalformed, error.to_string()).at(index)),
        }
    }
    Ok(leaves)
}

/// What there is against `batch` that takes none of its leaves to see; else where they are, and who sealed them. Fetching what nobody
/// has takes time, and whoever logs a batch says what is to be fetched.
///
/// # Errors
/// The first [`Objection`].
pub fn before_leaves(
    effective: &Effective,
    batch: &Batch,
    watchdog: Address,
    policy: &Policy,
) -> Result<(BlockCid, PublicKey), Objection> {
    let object = |why, detail: String| Objection::new(why, detail);
    if batch.issuer == watchdog {
        return Err(object(Why::OwnBatch, batch.issuer.to_string()));
    }
    match batch.state {
        BatchState::Accepted | BatchState::WaitingForCountersignatures { .. } => {}
        BatchState::Locked => return Err(object(Why::Host(Reason::BatchLocked), String::new())),
        BatchState::IssuerLostRole | BatchState::IssuerNotListed => {
            return Err(object(Why::Host(Reason::BatchIssuer), batch.issuer.to_string()));
        }
    }
    if effective.cas.get(&batch.ca).is_none_or(|ca| ca.purpose != CaPurpose::User) {
        return Err(object(Why::Host(Reason::CaUnknown), format!("CA {}", batch.ca)));
    }
    policy.batch(batch)?;
    if batch.leaves_cid.is_empty() {
        return Err(object(Why::LeavesMissing, String::new()));
    }
    let cid = BlockCid::from_bytes(&batch.leaves_cid);
    let cid = cid.map_err(|error| object(Why::LeavesCid, error.to_string()))?;
    let sender = effective.actors.get(&batch.issuer).and_then(|actor| actor.x25519);
    let sender = sender.and_then(|key| PublicKey::from_bytes(key.0).ok());
    let sender = sender.ok_or_else(|| object(Why::IssuerKey, batch.issuer.to_string()))?;
    Ok((cid, sender))
}

/// The leaves that the issuer shows.
fn shown(
    effective: &Effective,
    id: Id,
    (cid, sender): (&BlockCid, &PublicKey),
    watchdog: Watchdog<'_>,
    fetch: impl FnOnce(&BlockCid) -> Result<Vec<u8>, DeliveryError>,
) -> Result<Vec<Vec<u8>>, Objection> {
    let block = fetch(cid).map_err(|error| Objection::new(Why::LeavesUnavailable, error.to_string()))?;
    // Whoever keeps the blocks is not trusted: other bytes are as good as none.
    match BlockCid::of(&block) {
        Ok(found) if found == *cid => {}
        Ok(found) => return Err(Objection::new(Why::LeavesUnavailable, format!("the store gave {found} for {cid}"))),
        Err(error) => return Err(Objection::new(Why::LeavesUnavailable, error.to_string())),
    }
    let context = LeavesContext { realm: effective.realm.0, batch: id.0 };
    open_leaves(&context, watchdog.address.as_ref(), watchdog.key, sender, &block)
        .map_err(|error| Objection::new(Why::LeavesUnreadable, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_a_watchdog_stands_in_its_page_and_no_other() {
        let page = include_str!("../../../docs/watchdog-reason-codes.md");
        let listed: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        let codes: Vec<&str> = Why::OWN.iter().map(|why| why.code()).collect();
        assert_eq!(listed, codes);
    }
}
