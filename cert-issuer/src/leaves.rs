//! The leaves of a batch: certificates that only lack proof and signature, and the tree over them.
//!
//! The issuer makes them; a CA holder who did not make them and a watchdog read them back from their bytes alone. What reads back is
//! what this issuer makes: a user certificate for one login of one host of this realm. Anything else is refused, however a host might
//! see it, and so is a leaf that names another CA's key. Pure but for the CA's key.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use countersign_certificate::{
    BACKDATE_SECS, CertType, CertificateError, Digest32, Id, LogProof, RealmId, Target, ToBeSigned, insert_log_proof,
    leaf_hash, merkle,
};
use countersign_registry::Effective;
use countersign_snapshot::Batch as SnapshotBatch;
use countersign_sshd::Verdict;
use thiserror::Error;

use crate::ca_key::CaKey;
use crate::error::IssueError;
use crate::issue::Issued;
use crate::judge::Rehearsal;
use crate::policy::Order;
use crate::wire::{put_string, with_signature};

/// A certificate that only lacks its proof and its signature.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// What was asked for.
    pub order: Order,
    /// The grant it is made under.
    pub grant: Id,
    /// The request id in its scope: the order's, or a random one.
    pub request: Id,
    /// Serial number.
    pub serial: u64,
    /// Key id.
    pub key_id: String,
    /// Unix seconds.
    pub valid_after: u64,
    /// Unix seconds, exclusive.
    pub valid_before: u64,
    pub(crate) pre_certificate: Vec<u8>,
}

/// Bytes that are no leaf of ours.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LeafError {
    /// Not a certificate's bytes up to the CA's key.
    #[error("{0}")]
    Certificate(#[from] CertificateError),
    /// A certificate of a host.
    #[error("certifies a host, expected a user")]
    Type,
    /// None or several principals.
    #[error("has {0} principals, expected exactly one")]
    Principals(usize),
    /// No scope, or one of another realm.
    #[error("has no scope in this realm")]
    Scope,
    /// Good for more than one host.
    #[error("is for {0}, expected one host")]
    Target(&'static str),
    /// Ends before it begins.
    #[error("is valid for no time")]
    Validity,
    /// Made for the key of another CA.
    #[error("names another key than its CA's as its signer")]
    Signer,
}

impl Prepared {
    /// Reads a pre-certificate for the CA with key `ca_key` (SSH wire form).
    ///
    /// # Errors
    /// See [`LeafError`].
    pub fn read(realm: RealmId, ca_key: &[u8], pre_certificate: &[u8]) -> Result<Self, LeafError> {
        let parsed = ToBeSigned::parse(pre_certificate)?;
        if parsed.extension(countersign_certificate::LOG_PROOF_EXTENSION).is_some() {
            return Err(CertificateError::LogProofPresent.into());
        }
        if parsed.cert_type != CertType::User {
            return Err(LeafError::Type);
        }
        if parsed.signature_key != ca_key {
            return Err(LeafError::Signer);
        }
        let [login] = parsed.principals.as_slice() else {
            return Err(LeafError::Principals(parsed.principals.len()));
        };
        let scope = parsed.scope()?.filter(|scope| scope.realm == realm).ok_or(LeafError::Scope)?;
        let host = match scope.target {
            Target::Host(host) => host,
            Target::Label(_) => return Err(LeafError::Target("hosts with a label")),
            Target::AllHosts => return Err(LeafError::Target("all hosts")),
        };
        let valid = parsed.valid_before.checked_sub(parsed.valid_after).ok_or(LeafError::Validity)?;
        let ttl = NonZeroU64::new(valid.saturating_sub(BACKDATE_SECS)).ok_or(LeafError::Validity)?;
        let order = Order {
            user: scope.user,
            host,
            login: (*login).to_owned(),
            ttl,
            public_key: parsed.public_key.clone(),
            request: Some(scope.request),
        };
        Ok(Self {
            order,
            grant: scope.grant,
            request: scope.request,
            serial: parsed.serial.0,
            key_id: parsed.key_id.to_owned(),
            valid_after: parsed.valid_after,
            valid_before: parsed.valid_before,
            pre_certificate: pre_certificate.to_vec(),
        })
    }

    /// From the key type up to and including the CA's key.
    #[must_use]
    pub fn pre_certificate(&self) -> &[u8] {
        &self.pre_certificate
    }
}

/// The certificates of a batch, in the order of its tree.
#[derive(Debug, Clone)]
pub struct Leaves {
    /// The certificates.
    pub prepared: Vec<Prepared>,
    tree: merkle::Tree,
    root: Digest32,
    not_after: u64,
}

/// The tree over pre-certificates of the CA `ca`.
///
/// # Errors
/// [`IssueError::BatchSize`] for none.
pub fn tree<'a>(
    realm: RealmId,
    ca: Id,
    pre_certificates: impl Iterator<Item = &'a [u8]>,
) -> Result<(merkle::Tree, Digest32), IssueError> {
    let leaves: Vec<Digest32> = pre_certificates.map(|one| leaf_hash(&realm, &ca, one)).collect();
    let count = leaves.len();
    let tree = merkle::Tree::new(leaves).ok_or(IssueError::BatchSize(count))?;
    let root = tree.root().ok_or(IssueError::BatchSize(count))?;
    Ok((tree, root))
}

impl Leaves {
    /// These certificates, for a batch of the CA `ca`.
    ///
    /// # Errors
    /// [`IssueError::BatchSize`].
    pub fn new(realm: RealmId, ca: Id, prepared: Vec<Prepared>) -> Result<Self, IssueError> {
        let (tree, root) = tree(realm, ca, prepared.iter().map(Prepared::pre_certificate))?;
        let not_after = prepared.iter().map(|one| one.valid_before).max().unwrap_or_default();
        Ok(Self { prepared, tree, root, not_after })
    }

    /// Merkle root.
    #[must_use]
    pub fn root(&self) -> Digest32 {
        self.root
    }

    /// How many, at least 1.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.tree.size()
    }

    /// When the last of them ends, Unix seconds.
    #[must_use]
    pub fn not_after(&self) -> u64 {
        self.not_after
    }

    /// The bytes, as they are sealed to watchdogs.
    #[must_use]
    pub fn pre_certificates(&self) -> Vec<Vec<u8>> {
        self.prepared.iter().map(|one| one.pre_certificate.clone()).collect()
    }

    fn to_be_signed(&self, batch: Id, index: usize, one: &Prepared) -> Result<Vec<u8>, IssueError> {
        let place = u32::try_from(index).map_err(|_| IssueError::BatchSize(index))?;
        let proof = LogProof::in_tree(batch, &self.tree, place).ok_or(IssueError::BatchSize(index))?;
        Ok(insert_log_proof(&one.pre_certificate, &proof)?)
    }

    /// What each certificate's host would say if `batch` stood on the ledger as `logged` says; `ca_key` in SSH wire form.
    ///
    /// # Errors
    /// [`IssueError`] where a rehearsal cannot be held.
    pub fn rehearse(
        &self,
        effective: &Effective,
        batch: Id,
        logged: SnapshotBatch,
        ca_key: &[u8],
    ) -> Result<Vec<Result<(), IssueError>>, IssueError> {
        // sshd verifies signatures, the decision does not: any signature of the right shape will do.
        let unsigned = placeholder_signature(ca_key)?;
        let mut rehearsals = Rehearsals::new(effective, Some((batch, logged)));
        let mut verdicts = Vec::new();
        for (index, one) in self.prepared.iter().enumerate() {
            // What cannot be laid out is one request's fault, and must not keep the others of its batch from their certificates.
            let whole = self.to_be_signed(batch, index, one);
            let whole = whole.and_then(|signed| Ok(with_signature(&signed, &unsigned)?));
            verdicts.push(match whole {
                Ok(whole) => rehearsals.verdict(one, &whole)?,
                Err(error) => Err(error),
            });
        }
        Ok(verdicts)
    }

    /// Proves, signs and verifies, once the batch is on the ledger that `effective` was made from.
    ///
    /// # Errors
    /// Per certificate: [`IssueError::Withheld`] where the host would refuse it after all.
    pub fn finish(
        self,
        effective: &Effective,
        batch: Id,
        key: &CaKey,
    ) -> Result<Vec<Result<Issued, IssueError>>, IssueError> {
        let mut rehearsals = Rehearsals::new(effective, None);
        let mut results = Vec::new();
        for (index, one) in self.prepared.iter().enumerate() {
            let to_be_signed = self.to_be_signed(batch, index, one)?;
            let certificate = with_signature(&to_be_signed, &key.sign(&to_be_signed)?)?;
            results.push(match rehearsals.verdict(one, &certificate)? {
                Ok(()) => Ok(Issued { prepared: one.clone(), batch, certificate }),
                Err(IssueError::Refused { reason, detail }) => Err(IssueError::Withheld { batch, reason, detail }),
                Err(other) => Err(other),
            });
        }
        Ok(results)
    }
}

/// One rehearsal a host.
struct Rehearsals<'a> {
    effective: &'a Effective,
    hypothetical: Option<(Id, SnapshotBatch)>,
    of_host: BTreeMap<Id, Rehearsal>,
}

impl<'a> Rehearsals<'a> {
    fn new(effective: &'a Effective, hypothetical: Option<(Id, SnapshotBatch)>) -> Self {
        Self { effective, hypothetical, of_host: BTreeMap::new() }
    }

    fn verdict(&mut self, one: &Prepared, certificate: &[u8]) -> Result<Result<(), IssueError>, IssueError> {
        let rehearsal = match self.of_host.entry(one.order.host) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(Rehearsal::new(self.effective, one.order.host, self.hypothetical)?)
            }
        };
        Ok(match rehearsal.verdict(&one.order.login, certificate) {
            Verdict::Accept { .. } => Ok(()),
            Verdict::Refuse { reason, detail, .. } => Err(IssueError::Refused { reason, detail }),
        })
    }
}

/// A signature blob with the algorithm of the CA's key and the length such signatures have.
fn placeholder_signature(ca_key: &[u8]) -> Result<Vec<u8>, IssueError> {
    let key = countersign_certificate::PublicKey::parse(ca_key)?;
    let name = key.algorithm().name();
    let mut inner = Vec::new();
    match name {
        "ssh-ed25519" => inner.extend_from_slice(&[1; 64]),
        "ssh-rsa" => inner.extend_from_slice(&[1; 256]),
        "sk-ssh-ed25519@openssh.com" => inner.extend_from_slice(&[1; 64]),
        _ => {
            // ECDSA: two multiple-precision integers.
            put_string(&mut inner, &[1; 32])?;
            put_string(&mut inner, &[1; 32])?;
        }
    }
    let mut blob = Vec::new();
    let algorithm = if name == "ssh-rsa" { "rsa-sha2-512" } else { name };
    put_string(&mut blob, algorithm.as_bytes())?;
    put_string(&mut blob, &inner)?;
    if name.starts_with("sk-") {
        blob.extend_from_slice(&[0; 5]);
    }
    Ok(blob)
}
