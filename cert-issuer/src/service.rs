//! Issues: rehearses, logs one batch, waits until the verified ledger shows it (and, where the realm asks for countersignatures, until
//! it has them), then proves, signs and verifies.

use std::time::{Duration, Instant};

use countersign_chain::endpoints::{Endpoints, Limits};
use countersign_chain::keys::ActorKey;
use countersign_chain::realm_file::RealmFile;
use countersign_chain::send::{FeeCaps, Mined, Patience, Progress, Sender};
use countersign_registry::entries::Entry;
use countersign_registry::head::Meta;
use countersign_registry::realm::BatchState;
use countersign_registry::{Address, Id, LogEntry, shard, sign};

use crate::ca_key::CaKey;
use crate::error::IssueError;
use crate::issue::{Batch, Issued, Prepared, Signer, prepare};
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

/// Issues for one CA as one ledger key.
#[derive(Debug)]
pub struct Issuer {
    realm: RealmFile,
    sender: Sender,
    address: Address,
    ca: Id,
    key: CaKey,
    patience: Duration,
}

impl Issuer {
    /// An issuer that logs as `actor` and signs with `key` for the CA `ca`. It waits at most `patience` for a batch to be accepted.
    ///
    /// # Errors
    /// [`IssueError::Chain`].
    pub fn new(realm: RealmFile, actor: ActorKey, ca: Id, key: CaKey, patience: Duration) -> Result<Self, IssueError> {
        let endpoints = Endpoints::new(&realm.endpoints, Limits::default())?;
        let address = actor.address();
        let patience_of_chain = Patience::of(&realm.profile);
        let sender = Sender::new(endpoints, actor, realm.pin.chain_id, patience_of_chain, FeeCaps::default());
        Ok(Self { realm, sender, address, ca, key, patience })
    }

    /// The ledger key that logs.
    #[must_use]
    pub fn address(&self) -> Address {
        self.address
    }

    fn signer<'a>(&self, view: &'a View) -> Result<Signer<'a>, IssueError> {
        let record = view.effective.cas.get(&self.ca).ok_or_else(|| {
            IssueError::refused(
                countersign_sshd::Reason::CaUnknown,
                format!("{} (new CAs count once they are final)", self.ca),
            )
        })?;
        self.key.expect(&record.public_key)?;
        Ok(Signer { id: self.ca, record, issuer: self.address })
    }

    /// Issues certificates for `orders` at Unix time `now`, in one batch. One result per order, in their order; a refusal of one does
    /// not keep the others from being issued. Nothing is logged when all are refused.
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
        let signer = self.signer(view)?;
        report(Stage::Rehearsing);
        let mut results: Vec<Option<Result<Issued, IssueError>>> = Vec::new();
        let mut prepared: Vec<(usize, Prepared)> = Vec::new();
        for (place, order) in orders.into_iter().enumerate() {
            match prepare(&view.effective, signer, order, now) {
                Ok(one) => {
                    prepared.push((place, one));
                    results.push(None);
                }
                Err(error) => results.push(Some(Err(error))),
            }
        }
        // A certificate that its host would refuse leaves the batch; the tree is another one then, and is rehearsed again.
        let batch = loop {
            if prepared.is_empty() {
                return Ok(results.into_iter().flatten().collect());
            }
            let certificates = prepared.iter().map(|(_, one)| one.clone()).collect();
            let batch = Batch::new(&view.effective, signer, certificates)?;
            let verdicts = batch.rehearse(&view.effective, signer)?;
            if verdicts.iter().all(Result::is_ok) {
                break batch;
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
        };
        let places: Vec<usize> = prepared.into_iter().map(|(place, _)| place).collect();
        self.log(view, &batch.entry, report).await?;
        let logged = self.confirmed(batch.id, report).await?;
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
        let mut step = |progress| report(Stage::Sending(progress));
        Ok(self.sender.append(contract, realm, &write, &mut step).await?)
    }

    /// Waits for the batch on the verified ledger.
    async fn confirmed(&self, batch: Id, report: &mut (dyn FnMut(Stage) + Send)) -> Result<View, IssueError> {
        let start = Instant::now();
        let poll = Duration::from_millis(if self.realm.profile.poll_secs <= 1 { 200 } else { 2_000 });
        report(Stage::Confirming);
        loop {
            let view = View::read(&self.realm, 1).await?;
            let late = start.elapsed() >= self.patience;
            match view.effective.batches.get(&batch).map(|batch| batch.state) {
                Some(BatchState::WaitingForCountersignatures { .. }) if !late => report(Stage::Countersigning),
                // Whatever else became of it, the rehearsal says so with the host's reason code.
                Some(_) => return Ok(view),
                None if late => return Err(IssueError::NotLogged { batch, seconds: start.elapsed().as_secs() }),
                None => {}
            }
            tokio::time::sleep(poll).await;
        }
    }
}
