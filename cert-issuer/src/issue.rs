//! Makes certificates: pre-certificate, batch, proof, signature. Pure but for the CA's key and randomness; the caller logs the batch.
//!
//! In this order, and in no other: rehearse the host's decision (with a batch that is not logged yet), log the batch, read it back from
//! the verified ledger, put the proof in, sign, rehearse again with what is really there. A certificate that fails the last step is
//! never handed out.

use std::collections::BTreeMap;

use countersign_certificate::{
    BACKDATE_SECS, Digest32, Id, LogProof, RealmId, SCOPE_EXTENSION, Scope, Target, insert_log_proof, leaf_hash, merkle,
};
use countersign_registry::entries::{Entry, Kind, payload};
use countersign_registry::realm::{Ca, CaPurpose, CaState, Grant};
use countersign_registry::{Address, B256, Effective, sign};
use countersign_snapshot::{Batch as SnapshotBatch, BatchState};
use countersign_sshd::{Reason, Verdict};

use crate::ca_key::CaKey;
use crate::error::IssueError;
use crate::judge::Rehearsal;
use crate::policy::{Order, choose};
use crate::wire::{CertificateFields, put_string, with_signature};

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
    pre_certificate: Vec<u8>,
}

/// The CA that signs.
#[derive(Debug, Clone, Copy)]
pub struct Signer<'a> {
    /// Its record id.
    pub id: Id,
    /// Its record.
    pub record: &'a Ca,
    /// The ledger key that logs its batches.
    pub issuer: Address,
}

/// A batch that is ready to be logged.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Its record id, once `issuer` logs it.
    pub id: Id,
    /// The entry.
    pub entry: Entry,
    /// The certificates, in the order of their leaves.
    pub prepared: Vec<Prepared>,
    tree: merkle::Tree,
    root: Digest32,
    size: u32,
    not_after: u64,
}

/// A certificate that the host accepts.
#[derive(Debug, Clone)]
pub struct Issued {
    /// What it was made from.
    pub prepared: Prepared,
    /// The batch it stands in.
    pub batch: Id,
    /// The certificate, SSH wire form.
    pub certificate: Vec<u8>,
}

impl Issued {
    /// One line, as in a `-cert.pub` file, with its newline.
    ///
    /// # Errors
    /// [`IssueError::KeyPair`], which a certificate made here does not meet.
    pub fn line(&self) -> Result<String, IssueError> {
        let certificate = ssh_key::Certificate::from_bytes(&self.certificate).map_err(IssueError::KeyPair)?;
        let line = certificate.to_openssh().map_err(IssueError::KeyPair)?;
        Ok(format!("{} {}\n", line.trim_end(), self.prepared.key_id))
    }
}

/// Prepares one certificate at Unix time `now`: chooses the grant and lays out the bytes.
///
/// # Errors
/// [`IssueError::Refused`] with the host's reason code.
pub fn prepare(effective: &Effective, signer: Signer<'_>, order: Order, now: u64) -> Result<Prepared, IssueError> {
    may_sign(effective, signer, &order, now)?;
    let choice = choose(effective, &order, signer.record, now)?;
    let request = match order.request {
        Some(request) => request,
        None => Id(random()?),
    };
    let serial = u64::from_be_bytes(random()?);
    let key_id = format!("{}/{request}", choice.user.login);
    let valid_after = now.saturating_sub(BACKDATE_SECS);
    let valid_before = now.saturating_add(order.ttl.get());
    let scope = Scope {
        realm: RealmId(effective.realm.0),
        user: order.user,
        grant: choice.grant_id,
        target: Target::Host(order.host),
        request,
    };
    let mut extensions = permits(choice.grant.permits);
    extensions.insert(SCOPE_EXTENSION.to_owned(), scope.to_text());
    let mut critical_options = BTreeMap::new();
    if let Some(command) = &choice.grant.forced_command {
        critical_options.insert("force-command".to_owned(), command.clone());
    }
    if !choice.grant.source_addresses.is_empty() {
        critical_options.insert("source-address".to_owned(), choice.grant.source_addresses.join(","));
    }
    let fields = CertificateFields {
        public_key: order.public_key.clone(),
        nonce: random()?,
        serial,
        key_id: key_id.clone(),
        principals: vec![order.login.clone()],
        valid_after,
        valid_before,
        critical_options,
        extensions,
        ca_key: signer.record.public_key.to_vec(),
    };
    let pre_certificate = fields.pre_certificate()?;
    let grant = choice.grant_id;
    Ok(Prepared { order, grant, request, serial, key_id, valid_after, valid_before, pre_certificate })
}

/// What no rehearsal of a single host would tell: that the CA is for users, and that this issuer may log for it.
fn may_sign(effective: &Effective, signer: Signer<'_>, order: &Order, now: u64) -> Result<(), IssueError> {
    let name = || signer.record.name.clone();
    match signer.record.state {
        CaState::Active => {}
        CaState::Locked => return Err(IssueError::refused(Reason::CaLocked, name())),
        CaState::Revoked => return Err(IssueError::refused(Reason::CaRevoked, name())),
        CaState::Retired { at } if at <= now => return Err(IssueError::refused(Reason::CaRetired, name())),
        CaState::Retired { .. } => {}
    }
    if signer.record.purpose != CaPurpose::User {
        return Err(IssueError::refused(Reason::CaUnknown, format!("{} certifies hosts, not users", name())));
    }
    if !signer.record.limits.allows_login(&order.login) {
        return Err(IssueError::refused(Reason::CaLogin, format!("{} may not certify {}", name(), order.login)));
    }
    let has_role = effective
        .actors
        .get(&signer.issuer)
        .is_some_and(|actor| actor.roles & countersign_registry::entries::Roles::ISSUER != 0 && !actor.locked);
    if !has_role {
        return Err(IssueError::refused(
            Reason::BatchIssuer,
            format!("{} does not hold the issuer role", signer.issuer),
        ));
    }
    if !signer.record.limits.issuers.contains(&signer.issuer) {
        let detail = format!("{} is not an issuer that {} lists", signer.issuer, name());
        return Err(IssueError::refused(Reason::BatchIssuer, detail));
    }
    Ok(())
}

fn permits(bits: u8) -> BTreeMap<String, String> {
    [
        (Grant::PERMIT_PTY, "permit-pty"),
        (Grant::PERMIT_PORT_FORWARDING, "permit-port-forwarding"),
        (Grant::PERMIT_AGENT_FORWARDING, "permit-agent-forwarding"),
        (Grant::PERMIT_X11_FORWARDING, "permit-X11-forwarding"),
        (Grant::PERMIT_USER_RC, "permit-user-rc"),
    ]
    .into_iter()
    .filter(|(bit, _)| bits & bit != 0)
    .map(|(_, name)| (name.to_owned(), String::new()))
    .collect()
}

impl Batch {
    /// A batch of these certificates, to be logged by the signer's issuer.
    ///
    /// # Errors
    /// [`IssueError::BatchSize`], [`IssueError::Random`].
    pub fn new(effective: &Effective, signer: Signer<'_>, prepared: Vec<Prepared>) -> Result<Self, IssueError> {
        let realm = RealmId(effective.realm.0);
        let leaves: Vec<Digest32> =
            prepared.iter().map(|one| leaf_hash(&realm, &signer.id, &one.pre_certificate)).collect();
        let tree = merkle::Tree::new(leaves).ok_or(IssueError::BatchSize(prepared.len()))?;
        let (size, root) = (tree.size(), tree.root().ok_or(IssueError::BatchSize(0))?);
        let not_after = prepared.iter().map(|one| one.valid_before).max().unwrap_or_default();
        let r: [u8; 16] = random()?;
        let id = sign::record_id(Kind::BATCH, signer.issuer, r);
        let entry = Entry::Batch(payload::Batch {
            r: r.into(),
            ca: signer.id.0.into(),
            root: B256::from(root),
            size,
            notAfter: not_after,
            leavesCid: Default::default(),
        });
        Ok(Self { id, entry, prepared, tree, root, size, not_after })
    }

    fn to_be_signed(&self, index: usize, one: &Prepared) -> Result<Vec<u8>, IssueError> {
        let place = u32::try_from(index).map_err(|_| IssueError::BatchSize(index))?;
        let proof = LogProof::in_tree(self.id, &self.tree, place).ok_or(IssueError::BatchSize(index))?;
        Ok(insert_log_proof(&one.pre_certificate, &proof)?)
    }

    /// Asks each certificate's host before anything is logged. Certificates that a host would refuse are given back with the refusal;
    /// the batch must then be made anew without them.
    ///
    /// # Errors
    /// [`IssueError`] where a rehearsal cannot be held.
    pub fn rehearse(
        &self,
        effective: &Effective,
        signer: Signer<'_>,
    ) -> Result<Vec<Result<(), IssueError>>, IssueError> {
        let latest = effective.latest_block;
        let hypothetical = SnapshotBatch {
            state: BatchState::Accepted,
            ca: signer.id,
            root: self.root,
            size: self.size,
            time_secs: latest.time.saturating_add(1),
            not_after_secs: self.not_after,
            block: latest.number.saturating_add(1),
        };
        // sshd verifies signatures, the decision does not: any signature of the right shape will do.
        let unsigned = placeholder_signature(&signer.record.public_key)?;
        let mut rehearsals: BTreeMap<Id, Rehearsal> = BTreeMap::new();
        let mut verdicts = Vec::new();
        for (index, one) in self.prepared.iter().enumerate() {
            // What cannot be laid out is one request's fault, and must not keep the others of its batch from their certificates.
            let whole = match self.to_be_signed(index, one).and_then(|signed| Ok(with_signature(&signed, &unsigned)?)) {
                Ok(whole) => whole,
                Err(error) => {
                    verdicts.push(Err(error));
                    continue;
                }
            };
            let rehearsal = match rehearsals.entry(one.order.host) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => {
                    let hypothetical = Some((self.id, hypothetical));
                    entry.insert(Rehearsal::new(effective, one.order.host, hypothetical)?)
                }
            };
            verdicts.push(accepted(rehearsal.verdict(&one.order.login, &whole)));
        }
        Ok(verdicts)
    }

    /// Proves, signs and verifies, once the batch is on the ledger that `effective` was made from.
    ///
    /// # Errors
    /// Per certificate: [`IssueError::Withheld`] where the host would refuse it after all.
    pub fn finish(self, effective: &Effective, key: &CaKey) -> Result<Vec<Result<Issued, IssueError>>, IssueError> {
        let mut rehearsals: BTreeMap<Id, Rehearsal> = BTreeMap::new();
        let mut results = Vec::new();
        for (index, one) in self.prepared.iter().enumerate() {
            let to_be_signed = self.to_be_signed(index, one)?;
            let certificate = with_signature(&to_be_signed, &key.sign(&to_be_signed)?)?;
            let rehearsal = match rehearsals.entry(one.order.host) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(Rehearsal::new(effective, one.order.host, None)?)
                }
            };
            results.push(match accepted(rehearsal.verdict(&one.order.login, &certificate)) {
                Ok(()) => Ok(Issued { prepared: one.clone(), batch: self.id, certificate }),
                Err(IssueError::Refused { reason, detail }) => {
                    Err(IssueError::Withheld { batch: self.id, reason, detail })
                }
                Err(other) => Err(other),
            });
        }
        Ok(results)
    }
}

fn accepted(verdict: Verdict) -> Result<(), IssueError> {
    match verdict {
        Verdict::Accept { .. } => Ok(()),
        Verdict::Refuse { reason, detail, .. } => Err(IssueError::Refused { reason, detail }),
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

/// Random bytes from the system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], IssueError> {
    let mut bytes = [0_u8; N];
    getrandom::fill(&mut bytes).map_err(IssueError::Random)?;
    Ok(bytes)
}
