//! Looking into envelopes: whether one holds something for this device, and opening that. The cost is one index, one page and one
//! payload, however many recipients there are; an envelope that is not for this device costs the first two, once.
//!
//! "Not for us" is an answer only after index and page were verified against the ledger's hash and found whole and sorted. A prekey is
//! asked for by its record; one that was used before, or is not here any more, opens nothing.

use alloy_primitives::{Address, B256};
use countersign_certificate::Id;
use countersign_delivery::{Binding, BlockCid, DeliveryError, Index, Payload, PayloadKind, PrekeyId, Prekeys, Wanted};
use countersign_registry::Effective;
use countersign_registry::realm::Envelope;

use super::{ReceiveError, Recipient, Sources, opening_error, sending_key};

/// What an envelope holds for this device.
#[derive(Debug)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A payload.
    Payload(Box<Unsealed>),
    /// A payload that was applied before, and whose prekey is gone: it is left to acknowledge this digest.
    Done(B256),
}

/// An opened payload and what it takes to finish with it.
#[derive(Debug)]
pub struct Unsealed {
    /// The payload; digest, name and kind are those of its record and envelope.
    pub payload: Payload,
    /// What to acknowledge.
    pub digest: B256,
    /// The prekey to end once the payload is applied, and before it is acknowledged.
    pub prekey: Option<PrekeyId>,
}

/// The envelopes that `recipient` has not acknowledged, oldest first. Whether they hold anything for it, only looking tells.
pub fn envelopes(effective: &Effective, recipient: Address) -> Vec<(Id, &Envelope)> {
    let acknowledged = |id: &Id| {
        effective.envelope_acknowledgements.get(id).is_some_and(|acknowledged| acknowledged.contains_key(&recipient))
    };
    let mut found: Vec<(Id, &Envelope)> =
        effective.envelopes.iter().filter(|(id, _)| !acknowledged(id)).map(|(id, envelope)| (*id, envelope)).collect();
    found.sort_by_key(|(id, envelope)| (envelope.at, *id));
    found
}

/// Looks into an envelope at Unix time `now`. `prekeys` is where this device keeps its prekeys, if it has any.
///
/// # Errors
/// Everything up to [`ReceiveError::Digest`].
pub async fn look(
    effective: &Effective,
    id: Id,
    envelope: &Envelope,
    recipient: Recipient<'_>,
    prekeys: Option<&Prekeys>,
    sources: &Sources,
    now: u64,
) -> Result<Found, ReceiveError> {
    look_noting(effective, id, envelope, recipient, prekeys, sources, now, &mut None).await
}

/// As [`look`]; notes the prekey that is asked for and is here, whatever comes of it.
///
/// # Errors
/// As [`look`].
#[expect(clippy::too_many_arguments, reason = "those of `look`, and where to note")]
pub(crate) async fn look_noting(
    effective: &Effective,
    id: Id,
    envelope: &Envelope,
    recipient: Recipient<'_>,
    prekeys: Option<&Prekeys>,
    sources: &Sources,
    now: u64,
    asked_for: &mut Option<PrekeyId>,
) -> Result<Found, ReceiveError> {
    let kind = PayloadKind::try_from(envelope.payload_kind).map_err(|_| ReceiveError::Kind(envelope.payload_kind))?;
    let sender = sending_key(effective, envelope.actor)?;
    let binding = Binding { realm: effective.realm_of(envelope.at.block).0, delivery: id.0, kind };
    let broken = |error: DeliveryError| match error {
        DeliveryError::Open { .. } => ReceiveError::Sealed(error),
        error => ReceiveError::Envelope(error),
    };
    let index = Index::parse(&sources.fetch(&BlockCid::of_digest(envelope.index.0)).await?).map_err(broken)?;
    let context = binding.to(recipient.address.into_array());
    let Some(slot) = index.locate(&context, recipient.sealing_key, &sender).map_err(broken)? else {
        return Ok(Found::Nothing);
    };
    let page = sources.fetch(&slot.page()).await?;
    let Some(record) = slot.find(&page).map_err(broken)? else { return Ok(Found::Nothing) };

    let prekey = match record.prekey() {
        None => None,
        Some(wanted) => {
            let unknown = || ReceiveError::PrekeyUnknown { prekey: wanted };
            match prekeys.ok_or_else(unknown)?.wanted(wanted, id.0, now).map_err(ReceiveError::Prekeys)? {
                Wanted::Here(secret) => {
                    *asked_for = Some(wanted);
                    Some((wanted, secret))
                }
                Wanted::UsedForThis(digest) => return Ok(Found::Done(B256::from(digest))),
                Wanted::UsedFor(first) => {
                    return Err(ReceiveError::PrekeyUsed { prekey: wanted, first: Id(first) });
                }
                Wanted::Unknown => return Err(unknown()),
            }
        }
    };
    let item = record.item(prekey.as_ref().map(|(_, secret)| secret)).map_err(broken)?;
    let block = sources.fetch(&item.cid).await?;
    let payload =
        countersign_delivery::open_payload(&binding, &item, &envelope.payload_name, &block).map_err(opening_error)?;
    let unsealed = Unsealed { payload, digest: B256::from(item.digest), prekey: prekey.map(|(id, _)| id) };
    Ok(Found::Payload(Box::new(unsealed)))
}
