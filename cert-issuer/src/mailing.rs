//! Payloads for many: one envelope, one entry, however many recipients there are and whether they get the same or not. Chooses a prekey
//! for each recipient that publishes some, stores the blocks, and notes everything in the books before anything is logged.
//!
//! Which prekeys were used is not on the ledger, since that would name the recipients: a sender knows its own uses from its books and
//! draws at random among the rest. Two senders may draw the same one; the recipient refuses the second, which is sent again.
//! Where a prekey was used, the payload's key is not kept: what is gone cannot be stolen.

use std::collections::{BTreeMap, BTreeSet};

use countersign_certificate::Id;
use countersign_delivery::{
    Addressee, Binding, BlockCid, Item, Payload, PrekeyId, PublicKey, SecretKey, Stores, open_payload, seal_envelope,
    seal_payload,
};
use countersign_registry::entries::{Entry, Kind, payload};
use countersign_registry::realm::Prekey;
use countersign_registry::{Address, B256, Effective, shard, sign};
use serde::Deserialize;

use crate::deliver::{check_sender, recipient_key};
use crate::error::IssueError;
use crate::issue::random;
use crate::outbox::{Book, BookPayload, BookRecipient, Due, Outbox};

/// A prekey is not taken in its last day: what is sealed to it must still arrive.
const PREKEY_USE_SECS: u64 = Prekey::LIFE_SECS - shard::DAY_SECS;

/// How many days of shards 5 and 6 a sender proves where prekeys count.
pub const PREKEY_DAYS: u64 = Prekey::LIFE_SECS / shard::DAY_SECS;

/// What is done about prekeys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PrekeyPolicy {
    /// Every recipient must have one.
    Require,
    /// Who publishes prekeys must have one left; the others are sealed to without.
    #[default]
    Refuse,
    /// One is used where there is one.
    FallBack,
    /// None is used.
    Off,
}

/// What is sent to whom.
#[derive(Debug)]
pub struct Mailing<'a> {
    /// The ledger key that will log the envelope.
    pub sender: Address,
    /// Its sealing key.
    pub sender_key: &'a SecretKey,
    /// The payloads, of one name and kind.
    pub payloads: Vec<Payload>,
    /// The recipients' ledger keys, each with the place of its payload among `payloads`.
    pub recipients: Vec<(Address, usize)>,
    /// What is done about prekeys.
    pub prekeys: PrekeyPolicy,
    /// The envelope that this one repeats for those who have not acknowledged it.
    pub resends: Option<Id>,
}

/// An envelope that is ready to be logged; its blocks are in the stores.
#[derive(Debug)]
pub struct Mailed {
    /// Its record id, once the sender logs it.
    pub id: Id,
    /// The entry.
    pub entry: Entry,
    /// What the books say.
    pub book: Book,
    /// Bytes that were put into each store.
    pub bytes: usize,
    /// What stores said that did not take a block, where the others are enough.
    pub failures: Vec<String>,
}

/// How far a mailing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailingStage {
    /// Sealing to so many recipients.
    Sealing(usize),
    /// Storing this block of so many.
    Storing(usize, usize),
}

/// Seals a mailing, stores its blocks, pinned, and notes it, at Unix time `now`.
///
/// # Errors
/// [`IssueError::Recipient`] where a sealing key or, by the policy, a prekey is missing; [`IssueError::Delivery`], also for a recipient
/// named twice; [`IssueError::Outbox`].
pub async fn mail(
    effective: &Effective,
    mailing: Mailing<'_>,
    stores: &Stores,
    outbox: &Outbox,
    now: u64,
    report: &mut (dyn FnMut(MailingStage) + Send),
) -> Result<Mailed, IssueError> {
    check_sender(effective, mailing.sender, mailing.sender_key)?;
    let first = mailing.payloads.first().ok_or_else(|| nothing("no payload"))?;
    let (name, kind) = (first.name().to_owned(), first.contents().kind());
    if mailing.payloads.iter().any(|payload| payload.name() != name || payload.contents().kind() != kind) {
        return Err(nothing("payloads of several names or kinds; expected one envelope for each"));
    }
    let r: [u8; 16] = random()?;
    let id = sign::record_id(Kind::ENVELOPE, mailing.sender, r);
    let binding = Binding { realm: effective.realm.0, delivery: id.0, kind };

    report(MailingStage::Sealing(mailing.recipients.len()));
    let mut used = used_prekeys(outbox)?;
    let mut chosen = Vec::with_capacity(mailing.recipients.len());
    for (address, payload) in &mailing.recipients {
        let key = recipient_key(effective, *address)?;
        let prekey = choose(effective, *address, mailing.prekeys, &mut used)?;
        chosen.push((*address, *payload, key, prekey));
    }
    let sealed =
        mailing.payloads.iter().map(|payload| seal_payload(&binding, payload)).collect::<Result<Vec<_>, _>>()?;
    let addressees = chosen
        .iter()
        .map(|(address, payload, key, prekey)| {
            let item =
                sealed.get(*payload).map(|sealed| &sealed.item).ok_or_else(|| nothing("a payload is missing"))?;
            let prekey = prekey.map(|(_, key)| key);
            Ok(Addressee { address: address.into_array(), key: *key, prekey, item })
        })
        .collect::<Result<Vec<_>, IssueError>>()?;
    let envelope = seal_envelope(&binding, mailing.sender_key, &addressees)?;

    // A key that some record of a prekey's protects is kept nowhere.
    let closed: BTreeSet<usize> =
        chosen.iter().filter(|(_, _, _, prekey)| prekey.is_some()).map(|(_, payload, _, _)| *payload).collect();
    let payloads = sealed
        .iter()
        .enumerate()
        .map(|(place, sealed)| BookPayload {
            cid: sealed.item.cid,
            digest: B256::from(sealed.item.digest),
            key: (!closed.contains(&place)).then(|| sealed.item.key.clone()),
        })
        .collect();
    let recipients = chosen
        .iter()
        .map(|(address, payload, _, prekey)| BookRecipient {
            address: *address,
            payload: *payload,
            prekey: prekey.map(|(id, _)| id),
        })
        .collect();
    // Payloads first and the index last: who finds an index finds all that it leads to.
    let blocks: Vec<&Vec<u8>> =
        sealed.iter().map(|sealed| &sealed.block).chain(&envelope.pages).chain([&envelope.index]).collect();
    let cids = blocks.iter().map(|block| BlockCid::of(block)).collect::<Result<Vec<_>, _>>()?;
    let book = Book {
        sent: now,
        payload_name: name.clone(),
        payload_kind: kind.number(),
        resends: mailing.resends,
        blocks: cids,
        payloads,
        recipients,
    };
    outbox.add_book(id, &book)?;
    let mut failures = BTreeSet::new();
    let mut bytes: usize = 0;
    for (place, block) in blocks.iter().enumerate() {
        report(MailingStage::Storing(place.saturating_add(1), blocks.len()));
        let placed = stores.put(block).await?;
        bytes = bytes.saturating_add(block.len());
        failures.extend(placed.places.iter().filter_map(|place| place.result.as_ref().err()).map(ToString::to_string));
    }
    let entry = Entry::Envelope(payload::Envelope {
        r: r.into(),
        payloadKind: kind.number(),
        index: B256::from(envelope.index_digest()),
        payloadName: name,
    });
    Ok(Mailed { id, entry, book, bytes, failures: failures.into_iter().collect() })
}

/// Whether the policy has something sealed to a prekey of this recipient's.
#[must_use]
pub fn wants_prekey(effective: &Effective, recipient: Address, policy: PrekeyPolicy) -> bool {
    match policy {
        PrekeyPolicy::Off => false,
        PrekeyPolicy::Require => true,
        PrekeyPolicy::Refuse | PrekeyPolicy::FallBack => effective.prekeys.contains_key(&recipient),
    }
}

/// The payloads of an envelope that was sent, opened again with the keys in the books, to be sent once more.
///
/// # Errors
/// [`IssueError::Recipient`] where a key was not kept; [`IssueError::Delivery`] where a block is gone.
pub async fn reopen(effective: &Effective, id: Id, book: &Book, stores: &Stores) -> Result<Vec<Payload>, IssueError> {
    let binding = Binding { realm: effective.realm.0, delivery: id.0, kind: book.payload_kind.try_into()? };
    let mut payloads = Vec::with_capacity(book.payloads.len());
    for noted in &book.payloads {
        let key = noted.key.clone().ok_or_else(|| {
            let text = "its payload was sealed to prekeys, so its key was not kept; give the file again";
            IssueError::Recipient(format!("delivery {id}: {text}"))
        })?;
        let block = stores.get(&noted.cid).await?;
        let item = Item { cid: noted.cid, key, digest: noted.digest.0 };
        payloads.push(open_payload(&binding, &item, &book.payload_name, &block)?);
    }
    Ok(payloads)
}

fn nothing(text: &str) -> IssueError {
    IssueError::Recipient(text.to_owned())
}

fn used_prekeys(outbox: &Outbox) -> Result<BTreeSet<PrekeyId>, IssueError> {
    let books = outbox.books()?;
    Ok(books.iter().flat_map(|(_, book)| &book.recipients).filter_map(|recipient| recipient.prekey).collect())
}

/// Which of `recipients` nothing can be sealed to now, each judged alone, and why; to be asked before anything is made for them.
///
/// # Errors
/// [`IssueError::Outbox`].
pub fn unfit(
    effective: &Effective,
    recipients: impl Iterator<Item = Address>,
    policy: PrekeyPolicy,
    outbox: &Outbox,
) -> Result<BTreeMap<Address, IssueError>, IssueError> {
    let mut used = None;
    let mut unfit = BTreeMap::new();
    for address in recipients {
        if let Err(error) = recipient_key(effective, address) {
            unfit.insert(address, error);
        } else if policy != PrekeyPolicy::FallBack && wants_prekey(effective, address, policy) {
            let used = match &mut used {
                Some(used) => used,
                none => none.insert(used_prekeys(outbox)?),
            };
            if unused(effective, address, used).is_empty() {
                unfit.insert(address, IssueError::Prekey { recipient: address });
            }
        }
    }
    Ok(unfit)
}

/// The prekeys of `recipient`'s that may be drawn.
fn unused(effective: &Effective, recipient: Address, used: &BTreeSet<PrekeyId>) -> BTreeMap<PrekeyId, PublicKey> {
    let now = effective.latest_block.time;
    effective
        .prekeys
        .get(&recipient)
        .into_iter()
        .flatten()
        // Of a realm that was left, a prekey has another id: who published it there publishes others here.
        .filter(|prekey| effective.realm_of(prekey.at.block) == effective.realm)
        .filter(|prekey| now < prekey.at.time.saturating_add(PREKEY_USE_SECS))
        .filter_map(|prekey| PublicKey::from_bytes(prekey.key.0).ok())
        .map(|key| (PrekeyId::of(&effective.realm.0, &recipient.into_array(), &key), key))
        .filter(|(id, _)| !used.contains(id))
        .collect()
}

/// Draws a prekey of `recipient`'s that is not used, and marks it as used.
fn choose(
    effective: &Effective,
    recipient: Address,
    policy: PrekeyPolicy,
    used: &mut BTreeSet<PrekeyId>,
) -> Result<Option<(PrekeyId, PublicKey)>, IssueError> {
    if !wants_prekey(effective, recipient, policy) {
        return Ok(None);
    }
    let left = unused(effective, recipient, used);
    let drawn = u64::from_be_bytes(random()?);
    let place = drawn.checked_rem(u64::try_from(left.len()).unwrap_or(u64::MAX)).unwrap_or_default();
    let one = left.into_iter().nth(usize::try_from(place).unwrap_or_default());
    match one {
        Some((id, key)) => {
            used.insert(id);
            Ok(Some((id, key)))
        }
        None if policy == PrekeyPolicy::FallBack => Ok(None),
        None => Err(IssueError::Prekey { recipient }),
    }
}

/// One envelope's book and what was done about it.
#[derive(Debug)]
pub struct SweptBook {
    /// The envelope.
    pub id: Id,
    /// Its book, as it was.
    pub book: Book,
    /// What was due. The blocks are gone after `Acknowledged` and `TimedOut`, unless there is a failure.
    pub due: Due,
    /// Why some block is still in some store; it is for the next sweep then.
    pub failure: Option<String>,
}

/// Goes through the books of envelopes at Unix time `now`: once the last recipient has acknowledged finally, or `timeout_secs` after
/// sending, the blocks are unpinned and the keys forgotten. A book itself is thrown away when no prekey in it can be offered any more.
///
/// # Errors
/// [`IssueError::Outbox`].
pub async fn sweep(
    effective: &Effective,
    stores: &Stores,
    outbox: &Outbox,
    now: u64,
    timeout_secs: u64,
) -> Result<Vec<SweptBook>, IssueError> {
    let now = now.min(effective.latest_block.time);
    let mut swept = Vec::new();
    for (id, book) in outbox.books()? {
        if book.blocks.is_empty() {
            if now.saturating_sub(book.sent) > Prekey::LIFE_SECS.saturating_mul(4) {
                outbox.strike_book(id)?;
            }
            continue;
        }
        let due = book.due(id, effective, now, timeout_secs);
        let mut failure = None;
        if matches!(due, Due::Acknowledged | Due::TimedOut) {
            for cid in &book.blocks {
                if let Err(error) = stores.unpin(cid).await {
                    failure = Some(error.to_string());
                }
            }
            if failure.is_none() {
                outbox.add_book(id, &book.clone().closed())?;
            }
        }
        swept.push(SweptBook { id, book, due, failure });
    }
    Ok(swept)
}
