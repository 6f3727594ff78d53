//! Issues: rehearses, logs one batch, waits until the verified ledger shows it (and, where the realm asks for countersignatures, until
//! it has them), then proves, signs and verifies. The steps stand alone too, for realms where the ledger key and the CA's key are in
//! different hands.

use std::time::{Duration, Instant};

use countersign_chain::endpoints::{Endpoints, Limits};
use countersign_chain::keys::ActorKey;
use countersign_chain::realm_file::RealmFile;
use countersign_chain::send::{FeeCaps, Mined, Patience, Progress, Sender};
use countersign_chain::spool::Spill;
use countersign_delivery::{LEAF_OVERHEAD, SecretKey, Stores, leaves_capacity};
use countersign_registry::entries::Entry;
use countersign_registry::head::Meta;
use countersign_registry::realm::BatchState;
use countersign_registry::{Address, Effective, Id, LogEntry, shard, sign};

use crate::ca_key::CaKey;
use crate::error::IssueError;
use crate::issue::{self, Batch, Issued, Prepared, Signer, prepare};
use crate::policy::Order;
use crate::view::View;

/// What the issuer is doing, for progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Asking the host's decision function.
    Rehearsing,
    /// Sending the batch.
    Sending(Progress),
    /// Waiting until the verified ledger has it.
    Confirming,
    /// Waiting for watchdogs.
    Countersigning,
    /// Signing and asking the host's decision function again.
    Signing,
}

/// Writes as one ledger key, after a look at what replay would make of it.
#[derive(Debug)]
pub struct Scribe {
    realm: RealmFile,
    sender: Sender,
    address: Address,
}

impl Scribe {
    /// Writes as `actor`.
    ///
    /// # Errors
    /// [`IssueError::Chain`].
    pub fn new(realm: RealmFile, actor: ActorKey) -> Result<Self, IssueError> {
        let endpoints = Endpoints::new(&realm.endpoints, Limits::default())?;
        let (address, patience) = (actor.address(), Patience::of(&realm.profile));
        let sender = Sender::new(endpoints, actor, realm.pin.chain_id, patience, FeeCaps::default());
        Ok(Self { realm, sender, address })
    }

    /// The ledger key that writes.
    #[must_use]
    pub fn address(&self) -> Address {
        self.address
    }

    /// Writes one entry.
    ///
    /// # Errors
    /// [`IssueError::Ignored`], [`IssueError::Chain`].
    pub async fn log(
        &self,
        view: &View,
        entry: &Entry,
        report: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Mined, IssueError> {
        let kind = entry.kind();
        let time = view.effective.latest_block.time.saturating_add(1);
        let class = shard::class_of_kind(kind).unwrap_or_default();
        let today = if class > shard::CLASS_REVOCATIONS { shard::day(time) } else { 0 };
        let next = LogEntry {
            shard: shard::shard(class, today),
            actor: self.address,
            meta: Meta { kind, prev_block: 0, time }.pack(),
            data: entry.encode(),
        };
        let ignored = view.would_ignore(vec![next])?;
        if !ignored.is_empty() {
            return Err(IssueError::Ignored(ignored.join("; ")));
        }
        let write = sign::write(shard::shard(class, 0), entry);
        let (contract, realm) = (self.realm.pin.contract, self.realm.pin.realm);
        Ok(self.sender.append(contract, realm, &write, report).await?)
    }
}

/// How a batch is shown to the realm's watchdogs.
#[derive(Debug, Clone)]
pub struct Window {
    /// The issuer's sealing key.
    pub key: SecretKey,
    /// Where the sealed leaves go.
    pub stores: Stores,
}

/// Logs `batch` as `scribe`. Where the realm asks for countersignatures, the leaves are sealed to its watchdogs and stored first, so that
/// nothing is ever logged that they cannot look at.
///
/// # Errors
/// Those of [`Batch::seal`] and [`Scribe::log`]; [`IssueError::NothingToSealWith`].
pub async fn log_batch(
    scribe: &Scribe,
    view: &View,
    batch: &mut Batch,
    signer: Signer<'_>,
    window: Option<&Window>,
    report: &mut (dyn FnMut(Stage) + Send),
) -> Result<Mined, IssueError> {
    if view.effective.settings.countersign_quorum > 0 {
        let window = window.ok_or(IssueError::NothingToSealWith)?;
        let block = batch.seal(&view.effective, signer, &window.key)?;
        window.stores.put(&block).await?;
    }
    scribe.log(view, &batch.entry, &mut |progress| report(Stage::Sending(progress))).await
}

/// Waits at most `patience` until `batch` is accepted on the verified ledger; what is not verified yet waits in `spill`.
///
/// # Errors
/// [`IssueError::NotLogged`], [`IssueError::NotCountersigned`], [`IssueError::View`].
pub async fn accepted(
    realm: &RealmFile,
    batch: Id,
    patience: Duration,
    spill: &Spill,
    report: &mut (dyn FnMut(Stage) + Send),
) -> Result<View, IssueError> {
    let start = Instant::now();
    let poll = Duration::from_millis(if realm.profile.poll_secs <= 1 { 200 } else { 2_000 });
    report(Stage::Confirming);
    loop {
        let view = View::read_with(realm, 1, spill.clone()).await?;
        view.check_not_left()?;
        let late = start.elapsed() >= patience;
        let seconds = start.elapsed().as_secs();
        match view.effective.batches.get(&batch) {
            Some(record) => match record.state {
                BatchState::WaitingForCountersignatures { .. } if !late => report(Stage::Countersigning),
                BatchState::WaitingForCountersignatures { have, need } => {
                    let silent: Vec<String> = issue::watchdogs(&view.effective, record.issuer)
                        .unwrap_or_default()
                        .into_iter()
                        .map(|(address, _)| Address::from(address))
                        .filter(|address| !record.countersigners.contains(address))
                        .map(|address| address.to_string())
                        .collect();
                    let silent = silent.join(" ");
                    return Err(IssueError::NotCountersigned { batch, have, need, seconds, silent });
                }
                // Whatever else became of it, the rehearsal says so with the host's reason code.
                _ => return Ok(view),
            },
            None if late => return Err(IssueError::NotLogged { batch, seconds }),
            None => {}
        }
        tokio::time::sleep(poll).await;
    }
}

/// Issues for one CA as one ledger key.
#[derive(Debug)]
pub struct Issuer {
    realm: RealmFile,
    scribe: Scribe,
    ca: Id,
    key: CaKey,
    patience: Duration,
    window: Option<Window>,
    spill: Spill,
}

impl Issuer {
    /// An issuer that logs as `actor` and signs with `key` for the CA `ca`. It waits at most `patience` for a batch to be accepted.
    /// `window` is needed where the realm asks for countersignatures.
    ///
    /// # Errors
    /// [`IssueError::Chain`].
    pub fn new(
        realm: RealmFile,
        actor: ActorKey,
        (ca, key): (Id, CaKey),
        patience: Duration,
        window: Option<Window>,
    ) -> Result<Self, IssueError> {
        let scribe = Scribe::new(realm.clone(), actor)?;
        Ok(Self { realm, scribe, ca, key, patience, window, spill: Spill::default() })
    }

    /// Has what is read of the ledger, and not verified yet, wait in `spill`: a service has a directory of its own for that.
    #[must_use]
    pub fn spill_into(mut self, spill: Spill) -> Self {
        self.spill = spill;
        self
    }

    /// The ledger key that logs.
    #[must_use]
    pub fn address(&self) -> Address {
        self.scribe.address()
    }

    fn signer<'a>(&self, view: &'a View) -> Result<Signer<'a>, IssueError> {
        let record = view.effective.cas.get(&self.ca).ok_or_else(|| {
            IssueError::refused(
                countersign_sshd::Reason::CaUnknown,
                format!("{} (new CAs count once they are final)", self.ca),
            )
        })?;
        self.key.expect(&record.public_key)?;
        Ok(Signer { id: self.ca, record, issuer: self.address() })
    }

    /// What [`Self::issue`] would refuse of `orders` before it logs anything; one verdict per order, in their order.
    ///
    /// # Errors
    /// [`IssueError`] for what concerns all of them.
    pub fn rehearse(
        &self,
        view: &View,
        orders: Vec<Order>,
        now: u64,
    ) -> Result<Vec<Result<(), IssueError>>, IssueError> {
        view.check_not_left()?;
        let (_, results) = assemble(&view.effective, self.signer(view)?, orders, now)?;
        Ok(results.into_iter().map(|result| result.map_or(Ok(()), |result| result.map(|_| ()))).collect())
    }

    /// Issues certificates for `orders` at Unix time `now`, in one batch. One result per order, in their order; a refusal of one does
    /// not keep the others from being issued. Nothing is logged when all are refused. Where watchdogs look at the batch, what does not
    /// fit into one sealed block is given back with [`IssueError::BatchFull`].
    ///
    /// # Errors
    /// [`IssueError`] for what concerns all of them.
    pub async fn issue(
        &self,
        view: &View,
        orders: Vec<Order>,
        now: u64,
        report: &mut (dyn FnMut(Stage) + Send),
    ) -> Result<Vec<Result<Issued, IssueError>>, IssueError> {
        view.check_not_left()?;
        let signer = self.signer(view)?;
        report(Stage::Rehearsing);
        let (mut batch, places, mut results) = match assemble(&view.effective, signer, orders, now)? {
            (Some((batch, places)), results) => (batch, places, results),
            (None, results) => return Ok(results.into_iter().flatten().collect()),
        };
        log_batch(&self.scribe, view, &mut batch, signer, self.window.as_ref(), report).await?;
        let logged = accepted(&self.realm, batch.id, self.patience, &self.spill, report).await?;
        report(Stage::Signing);
        for (place, result) in places.into_iter().zip(batch.finish(&logged.effective, &self.key)?) {
            if let Some(slot) = results.get_mut(place) {
                *slot = Some(result);
            }
        }
        Ok(results.into_iter().flatten().collect())
    }

    /// Writes one entry as the issuer's ledger key, after a look at what replay would make of it.
    ///
    /// # Errors
    /// [`IssueError::Ignored`], [`IssueError::Chain`].
    pub async fn log(
        &self,
        view: &View,
        entry: &Entry,
        report: &mut (dyn FnMut(Stage) + Send),
    ) -> Result<Mined, IssueError> {
        self.scribe.log(view, entry, &mut |progress| report(Stage::Sending(progress))).await
    }
}

/// A batch with the places of its certificates among the orders, if any is good; and what became of the others.
pub type Assembled = (Option<(Batch, Vec<usize>)>, Vec<Option<Result<Issued, IssueError>>>);

/// Makes a batch of those `orders` whose certificates their hosts would take.
///
/// # Errors
/// [`IssueError`] for what concerns all of them.
pub fn assemble(
    effective: &Effective,
    signer: Signer<'_>,
    orders: Vec<Order>,
    now: u64,
) -> Result<Assembled, IssueError> {
    let mut results: Vec<Option<Result<Issued, IssueError>>> = Vec::new();
    let mut prepared: Vec<(usize, Prepared)> = Vec::new();
    let mut room = match effective.settings.countersign_quorum {
        0 => usize::MAX,
        _ => leaves_capacity(issue::watchdogs(effective, signer.issuer)?.len()),
    };
    for (place, order) in orders.into_iter().enumerate() {
        match prepare(effective, signer, order, now) {
            Ok(one) => match room.checked_sub(one.pre_certificate().len().saturating_add(LEAF_OVERHEAD)) {
                Some(left) => {
                    room = left;
                    prepared.push((place, one));
                    results.push(None);
                }
                None => results.push(Some(Err(IssueError::BatchFull))),
            },
            Err(error) => results.push(Some(Err(error))),
        }
    }
    // A certificate that its host would refuse leaves the batch; the tree is another one then, and is rehearsed again.
    loop {
        if prepared.is_empty() {
            return Ok((None, results));
        }
        let certificates = prepared.iter().map(|(_, one)| one.clone()).collect();
        let batch = Batch::new(effective, signer, certificates)?;
        let verdicts = batch.rehearse(effective, signer)?;
        if verdicts.iter().all(Result::is_ok) {
            return Ok((Some((batch, prepared.into_iter().map(|(place, _)| place).collect())), results));
        }
        let mut kept = Vec::new();
        for ((place, one), verdict) in prepared.into_iter().zip(verdicts) {
            match verdict {
                Ok(()) => kept.push((place, one)),
                Err(error) => {
                    if let Some(slot) = results.get_mut(place) {
                        *slot = Some(Err(error));
                    }
                }
            }
        }
        prepared = kept;
    }
}
