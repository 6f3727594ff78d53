//! Makes certificates: pre-certificate, batch, proof, signature. Pure but for the CA's key and randomness; the caller logs the batch.
//!
//! In this order, and in no other: rehearse the host's decision (with a batch that is not logged yet), log the batch, read it back from
//! the verified ledger, put the proof in, sign, rehearse again with what is really there. A certificate that fails the last step is
//! never handed out.

use std::collections::BTreeMap;

use countersign_certificate::{BACKDATE_SECS, CertType, Id, RealmId, SCOPE_EXTENSION, Scope, Target};
use countersign_delivery::{BlockCid, LeavesContext, MAX_WATCHDOGS, PublicKey, SecretKey, Watchdog, seal_leaves};
use countersign_registry::entries::{Entry, Kind, Roles, payload};
use countersign_registry::realm::{Ca, CaPurpose, CaState, Grant};
use countersign_registry::{Address, B256, Effective, sign};
use countersign_snapshot::{Batch as SnapshotBatch, BatchState};
use countersign_sshd::Reason;

use crate::ca_key::CaKey;
use crate::error::IssueError;
pub use crate::leaves::{Leaves, Prepared};
use crate::policy::{Order, choose, longest};
use crate::wire::CertificateFields;

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
    /// The certificates.
    pub leaves: Leaves,
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

/// Prepares one certificate at Unix time `now`: chooses the grant and lays out the bytes. One of the longest life that is allowed begins
/// and ends up to 30 s earlier, by as much as the chain's newest block is behind `now`.
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
    // Hosts count the longest life from the batch's block, which may be some seconds behind this clock: a certificate of the longest life
    // would be logged, and refused. It begins and ends earlier, and keeps its length, which approvals name. Not by more than half of it, nor
    // by more than it is backdated: where a chain makes no block unless there is something to put in it, the last one's time says nothing.
    let ttl = order.ttl.get();
    let block = effective.latest_block.time.saturating_add(1);
    let latest_end = block.saturating_add(longest(effective, signer.record, choice.grant));
    let latest_end = latest_end.max(now.saturating_add(ttl.saturating_sub(BACKDATE_SECS.min(ttl / 2))));
    let valid_before = now.saturating_add(ttl).min(latest_end);
    let valid_after = valid_before.saturating_sub(ttl).saturating_sub(BACKDATE_SECS);
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
        cert_type: CertType::User,
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
    let has_role =
        effective.actors.get(&signer.issuer).is_some_and(|actor| actor.roles & Roles::ISSUER != 0 && !actor.locked);
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
        let leaves = Leaves::new(RealmId(effective.realm.0), signer.id, prepared)?;
        let r: [u8; 16] = random()?;
        let id = sign::record_id(Kind::BATCH, signer.issuer, r);
        let entry = Entry::Batch(payload::Batch {
            r: r.into(),
            ca: signer.id.0.into(),
            root: B256::from(leaves.root()),
            size: leaves.size(),
            notAfter: leaves.not_after(),
            leavesCid: Default::default(),
        });
        Ok(Self { id, entry, leaves })
    }

    /// Seals the leaves to the realm's watchdogs, names the sealed block in the entry, and gives the block: it must be in the store
    /// before the batch is logged. `key` is the sealing key of the signer's issuer.
    ///
    /// # Errors
    /// [`IssueError::Watchdogs`] where fewer can read them than the realm asks for; [`IssueError::Recipient`] where `key` is not the
    /// issuer's; [`IssueError::Delivery`], also for a batch that is too large.
    pub fn seal(&mut self, effective: &Effective, signer: Signer<'_>, key: &SecretKey) -> Result<Vec<u8>, IssueError> {
        let watchdogs = watchdogs(effective, signer.issuer)?;
        check_sealing_key(effective, signer.issuer, key)?;
        let context = LeavesContext { realm: effective.realm.0, batch: self.id.0 };
        let block = seal_leaves(&context, key, &watchdogs, &self.leaves.pre_certificates())?;
        if let Entry::Batch(entry) = &mut self.entry {
            entry.leavesCid = BlockCid::of(&block)?.to_bytes().to_vec().into();
        }
        Ok(block)
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
        // Its block comes after now, however long ago the last one was: else nobody could ask for the longest certificate.
        let made = self.leaves.prepared.iter().map(|one| one.valid_after.saturating_add(BACKDATE_SECS)).max();
        let time = latest.time.saturating_add(1).max(made.unwrap_or_default());
        let hypothetical = SnapshotBatch {
            state: BatchState::Accepted,
            ca: signer.id,
            root: self.leaves.root(),
            size: self.leaves.size(),
            time_secs: time,
            not_after_secs: self.leaves.not_after(),
            block: latest.number.saturating_add(1),
        };
        self.leaves.rehearse(effective, self.id, hypothetical, &signer.record.public_key)
    }

    /// Proves, signs and verifies, once the batch is on the ledger that `effective` was made from.
    ///
    /// # Errors
    /// Per certificate: [`IssueError::Withheld`] where the host would refuse it after all.
    pub fn finish(self, effective: &Effective, key: &CaKey) -> Result<Vec<Result<Issued, IssueError>>, IssueError> {
        self.leaves.finish(effective, self.id, key)
    }
}

/// The watchdogs that may countersign a batch of `issuer` and have a sealing key.
///
/// # Errors
/// [`IssueError::Watchdogs`] where they are fewer than the realm's quorum, or none.
pub fn watchdogs(effective: &Effective, issuer: Address) -> Result<Vec<Watchdog>, IssueError> {
    let with_role = effective
        .actors
        .iter()
        .filter(|(address, actor)| actor.roles & Roles::WATCHDOG != 0 && !actor.locked && **address != issuer);
    let watchdogs: Vec<Watchdog> = with_role
        .filter_map(|(address, actor)| {
            let key = PublicKey::from_bytes(actor.x25519?.0).ok()?;
            Some((address.into_array(), key))
        })
        .take(MAX_WATCHDOGS)
        .collect();
    let (have, need) = (watchdogs.len(), effective.settings.countersign_quorum);
    if have == 0 || u64::try_from(have).is_ok_and(|have| have < need) {
        return Err(IssueError::Watchdogs { have, need });
    }
    Ok(watchdogs)
}

/// Refuses a sealing key that is not the one on the ledger for `address`: nobody could open what it seals.
///
/// # Errors
/// [`IssueError::Recipient`].
pub fn check_sealing_key(effective: &Effective, address: Address, key: &SecretKey) -> Result<(), IssueError> {
    let on_ledger = effective.actors.get(&address).and_then(|actor| actor.x25519);
    match on_ledger {
        Some(on_ledger) if on_ledger.0 == key.public().to_bytes() => Ok(()),
        Some(_) => {
            Err(IssueError::Recipient(format!("the ledger has another sealing key for {address} than the one given")))
        }
        None => Err(IssueError::Recipient(format!(
            "{address} has no sealing key on the ledger (yet: it counts once it is final)"
        ))),
    }
}

/// Random bytes from the system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], IssueError> {
    let mut bytes = [0_u8; N];
    getrandom::fill(&mut bytes).map_err(IssueError::Random)?;
    Ok(bytes)
}
