//! Sends transactions, shows what happens to them, and waits until they are in a block or final.

use std::time::{Duration, Instant};

use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U256};

use countersign_chain::ChainError;

use countersign_chain::endpoints::{Endpoints, Limits};
use countersign_chain::keys::ActorKey;
use countersign_chain::proofs;
use countersign_chain::realm_file::RealmFile;
use countersign_chain::send::{
    FeeCaps, Mined, Patience, Progress as Step, RootProof, RootSignature, Sender as ChainSender, SignedAppend,
};
use countersign_chain::source::HeaderSource;
use countersign_chain::wallet;
use countersign_registry::sign::Write;
use serde::Serialize;

use crate::context::{Context, View};
use crate::error::CliError;
use crate::output::{Printer, Progress};
use crate::proposal::Proposal;
use crate::roots::RootState;
use crate::signed::SignedWrites;
use crate::write::Wait;

/// How long a block may take to become final before a command gives up waiting, seconds.
const FINAL_WITHIN_SECS: u64 = 3_600;

/// Where writes were logged.
#[derive(Debug, Clone, Serialize)]
pub struct Receipt {
    /// Transaction hash.
    pub transaction: B256,
    /// Block number.
    pub block: u64,
    /// Gas used by the whole transaction.
    #[serde(rename = "gas-used")]
    pub gas_used: u64,
}

impl From<Mined> for Receipt {
    fn from(mined: Mined) -> Self {
        Self { transaction: mined.transaction, block: mined.block, gas_used: mined.gas_used }
    }
}

/// Sends to one realm.
#[derive(Debug)]
pub struct Sender<'a> {
    printer: Printer,
    realm: &'a RealmFile,
    endpoints: Endpoints,
}

impl<'a> Sender<'a> {
    /// Prepares; connects to nobody yet.
    ///
    /// # Errors
    /// [`CliError::Chain`].
    pub fn new(context: &Context, realm: &'a RealmFile) -> Result<Self, CliError> {
        let endpoints = Endpoints::new(&realm.endpoints, Limits::default())?;
        Ok(Self { printer: context.printer, realm, endpoints })
    }

    fn chain_sender(&self, key: &ActorKey) -> ChainSender {
        let patience = Patience::of(&self.realm.profile);
        ChainSender::new(self.endpoints.clone(), key.clone(), self.realm.pin.chain_id, patience, FeeCaps::default())
    }

    /// Appends as `key`'s actor.
    ///
    /// # Errors
    /// [`CliError::Chain`].
    pub async fn append(&self, key: &ActorKey, writes: Vec<Write>) -> Result<Receipt, CliError> {
        let (contract, realm) = (self.realm.pin.contract, self.realm.pin.realm);
        let progress = self.printer.progress("sending");
        let mut report = |step| show(&progress, step);
        let sender = self.chain_sender(key);
        let mined = match writes.as_slice() {
            [one] => sender.append(contract, realm, one, &mut report).await?,
            several => sender.append_many(contract, realm, several, &mut report).await?,
        };
        Ok(mined.into())
    }

    /// Sends what a threshold of roots signed; `payer` pays.
    ///
    /// # Errors
    /// [`CliError::Chain`], [`CliError::Proposal`].
    pub async fn append_by_roots(
        &self,
        payer: &ActorKey,
        proposal: &Proposal,
        name: &str,
        state: &RootState,
    ) -> Result<Receipt, CliError> {
        let proof = RootProof {
            nonce: U256::from(state.nonce),
            threshold: U256::from(state.threshold),
            roots: state.roots.clone(),
            salt: state.salt,
        };
        let signatures: Vec<RootSignature> =
            proposal.indexed(name)?.into_iter().map(|(index, signature)| RootSignature { index, signature }).collect();
        let writes = proposal.signed_writes(name)?;
        let progress = self.printer.progress("sending");
        let mut report = |step| show(&progress, step);
        let (contract, realm) = (self.realm.pin.contract, self.realm.pin.realm);
        let sender = self.chain_sender(payer);
        Ok(sender.append_by_roots(contract, realm, proof, &writes, &signatures, &mut report).await?.into())
    }

    /// Sends what an actor signed; `payer` pays.
    ///
    /// # Errors
    /// [`CliError::Chain`], [`CliError::Proposal`].
    pub async fn append_signed(
        &self,
        payer: &ActorKey,
        signed: &SignedWrites,
        name: &str,
    ) -> Result<Receipt, CliError> {
        let append = SignedAppend {
            actor: signed.actor,
            realm: signed.realm,
            writes: signed.signed_writes(name)?,
            nonce: U256::from(signed.nonce),
            deadline: U256::from(signed.deadline),
            signature: signed.signature.clone(),
        };
        let progress = self.printer.progress("sending");
        let mut report = |step| show(&progress, step);
        Ok(self.chain_sender(payer).append_by_sig(self.realm.pin.contract, &append, &mut report).await?.into())
    }

    /// Refuses what is no contract wallet's signature: an address without code, which is proved, or one that the wallet does not take, as
    /// a node tells.
    ///
    /// # Errors
    /// [`CliError::Chain`], [`CliError::Argument`] for `--root` and `--signature`.
    pub async fn check_wallet(&self, wallet: Address, digest: &B256, signature: &Bytes) -> Result<(), CliError> {
        let header = self.headers().latest().await?;
        let code = proofs::code_hash(&self.endpoints, wallet, &header).await?;
        if code.is_none_or(|hash| hash == KECCAK256_EMPTY) {
            let problem =
                format!("the signature is not by {wallet}, which is no contract wallet either: it has no code");
            return Err(CliError::Argument { argument: "--root", problem });
        }
        let registry = self.realm.pin.contract;
        if wallet::takes(&self.endpoints, registry, wallet, *digest, signature).await? {
            return Ok(());
        }
        let problem = format!("wallet {wallet} does not take it for digest {digest}");
        Err(CliError::Argument { argument: "--signature", problem })
    }

    /// An actor's next nonce for signed writes, proved: by a nonce that is still to come, a node could have the same writes
    /// logged twice.
    ///
    /// # Errors
    /// [`CliError::Chain`].
    pub async fn nonce(&self, actor: Address) -> Result<u64, CliError> {
        let header = self.headers().latest().await?;
        let actor = proofs::actor(&self.endpoints, &self.realm.pin, &header, actor).await?;
        // No nonce of ours comes near 2^64.
        Ok(u64::try_from(actor.nonce).unwrap_or(u64::MAX))
    }

    /// The roots in force and their next nonce, proved at the view's latest block: signatures for a nonce that is still to come stay
    /// good until it comes.
    ///
    /// # Errors
    /// [`CliError::Chain`]; [`CliError::Refused`] when the slot does not follow from the verified log.
    pub async fn root_state(&self, view: &View) -> Result<RootState, CliError> {
        let slot = proofs::root_set(&self.endpoints, &self.realm.pin, &view.heads.latest).await?;
        RootState::find(&self.realm.pin, view.own_entries(), slot).ok_or_else(|| {
            CliError::Refused(format!("the realm's root set {slot} does not follow from the verified log"))
        })
    }

    fn headers(&self) -> HeaderSource {
        HeaderSource::new(self.endpoints.clone(), self.realm.profile, &self.realm.pin, self.realm.trust)
    }

    /// Waits until `block` is what `wait` asks for.
    ///
    /// # Errors
    /// As [`wait_for`].
    pub async fn wait(&self, block: u64, wait: Wait) -> Result<(), CliError> {
        wait_for(self.printer, &self.headers(), self.realm.profile.poll_secs, block, wait).await
    }
}

/// Waits until `block` is what `wait` asks for.
///
/// # Errors
/// [`CliError::Chain`]; [`CliError::Refused`] when it is not final after an hour.
pub async fn wait_for(
    printer: Printer,
    source: &HeaderSource,
    poll_secs: u64,
    block: u64,
    wait: Wait,
) -> Result<(), CliError> {
    let progress = printer.progress(&format!("waiting for block {block}"));
    let start = Instant::now();
    loop {
        let reached = match source.heads().await {
            Ok(heads) => match wait {
                Wait::Latest => heads.latest.number,
                Wait::Final => heads.final_header.number,
            },
            // Nodes that do not agree about the newest block yet will; the time limit is below.
            Err(ChainError::NoQuorum { .. }) => 0,
            Err(error) => return Err(error.into()),
        };
        if reached >= block {
            return Ok(());
        }
        if wait == Wait::Final {
            progress.step(&format!("waiting for block {block} to become final (now {reached})"));
        }
        if start.elapsed().as_secs() >= FINAL_WITHIN_SECS {
            return Err(CliError::Refused(format!("block {block} is not final after {FINAL_WITHIN_SECS} s")));
        }
        let poll = if poll_secs <= 1 { 200 } else { 2_000 };
        tokio::time::sleep(Duration::from_millis(poll)).await;
    }
}

/// Tells of a step.
pub fn show(progress: &Progress, step: Step) {
    match step {
        Step::Sending { transaction, .. } => progress.step(&format!("sending {transaction}")),
        Step::Sent { transaction } => progress.step(&format!("sent {transaction}")),
        Step::Waiting { transaction, .. } => progress.step(&format!("waiting for {transaction}")),
        Step::Replaced { new, .. } => progress.step(&format!("sent again with a higher fee as {new}")),
        Step::Mined { block, .. } => progress.step(&format!("in block {block}")),
    }
}
