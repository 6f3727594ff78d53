//! The log: a certificate counts if its pre-certificate stands in a batch that the realm accepts.
//!
//! Where the realm asks for it, a certificate without a proof is refused: that is all that a stolen CA key could make. A proof
//! that is there is always checked, asked for or not, so that a locked batch ends its certificates everywhere.

use countersign_certificate::{Certificate, RealmId, leaf_hash};
use countersign_snapshot::{Batch, BatchState, Ca};

use super::{Judge, Refusal};
use crate::reason::Reason;
use crate::step::Step;

/// How much earlier than its batch a certificate may begin: it is made, and set back 30 s, before it is logged.
const EARLIEST_BEFORE_BATCH_SECS: u64 = 120;

impl Judge<'_> {
    /// The accepted batch that `certificate`, issued in `realm`, stands in; none if it has no proof and needs none.
    pub(super) fn logged_batch(
        &mut self,
        certificate: &Certificate<'_>,
        realm: &RealmId,
        ca: &Ca,
        max_ttl_secs: u64,
    ) -> Result<Option<Batch>, Refusal> {
        let proof = certificate.log_proof().map_err(|error| Refusal::new(Reason::LogProofMalformed, error))?;
        let Some(proof) = proof else {
            if self.snapshot.facts().require_logged {
                return Err(Reason::LogProofMissing.into());
            }
            (self.observe)(Step::NotLogged);
            return Ok(None);
        };
        self.facts.batch = Some(proof.batch());
        let batch = self.snapshot.batch(proof.batch())?.ok_or(Reason::BatchUnknown)?;
        match batch.state {
            BatchState::Accepted => {}
            BatchState::WaitingForCountersignatures => return Err(Reason::BatchWaiting.into()),
            BatchState::Locked => return Err(Reason::BatchLocked.into()),
            BatchState::IssuerLostRole => {
                return Err(Refusal::new(Reason::BatchIssuer, "its issuer has lost the role"));
            }
            BatchState::IssuerNotListed => {
                return Err(Refusal::new(Reason::BatchIssuer, "its issuer is not one that the CA lists"));
            }
        }
        let leaf = leaf_hash(realm, &ca.id, &certificate.pre_certificate());
        if batch.ca != ca.id || batch.size != proof.size() || !proof.verify(&leaf, &batch.root) {
            return Err(Reason::LogProofMismatch.into());
        }
        let latest_end = batch.not_after_secs.min(batch.time_secs.saturating_add(max_ttl_secs));
        if certificate.valid_after.saturating_add(EARLIEST_BEFORE_BATCH_SECS) < batch.time_secs {
            return Err(Refusal::new(Reason::BatchTime, "the certificate begins long before its batch"));
        }
        if certificate.valid_before > latest_end {
            return Err(Refusal::new(Reason::BatchTime, "the certificate ends after its batch allows"));
        }
        (self.observe)(Step::Batch(&proof, &batch));
        Ok(Some(batch))
    }
}
