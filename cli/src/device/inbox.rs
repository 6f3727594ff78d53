//! The inbox: what devices ask for. Anybody can write there, so what is read is proved, checked for form, and decides nothing.

use alloy_primitives::B256;
use countersign_chain::endpoints::Limits;
use countersign_chain::realm_file::RealmFile;
use countersign_chain::sync::{Cursor, Ledger};
use countersign_registry::entries::{Entry, payload::Enrol};
use countersign_registry::head::Meta;
use countersign_registry::{Address, Effective, EntryRef, PlacedEntry, enrolment, shard, sign};

use super::claim::Claim;
use crate::context::Context;
use crate::error::CliError;

/// A device that asks.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The entry's hash, by which it is named.
    pub entry: B256,
    /// Where it is.
    pub at: EntryRef,
    /// As logged.
    pub enrol: Enrol,
    /// What it says of itself.
    pub claim: Claim,
}

/// The inbox of some days.
#[derive(Debug, Default)]
pub struct Inbox {
    /// Devices that ask, oldest first.
    pub candidates: Vec<Candidate>,
    /// How many other entries there are: of unknown kinds, out of form, by another than who would be enrolled.
    pub others: usize,
}

impl Inbox {
    /// Reads and proves the inbox of the last `days` days.
    ///
    /// # Errors
    /// [`CliError::Chain`].
    pub async fn read(context: &Context, realm: &RealmFile, days: u64) -> Result<Self, CliError> {
        let _progress = context.printer.progress("reading and proving the inbox");
        let mut ledger = Ledger::new(realm, Limits::default())?;
        let heads = ledger.heads().await?;
        let back = days.saturating_mul(shard::DAY_SECS);
        let shards: Vec<u64> =
            shard::days_back(heads.latest.time, back).map(|day| shard::shard(shard::CLASS_INBOX, day)).collect();
        let update = ledger.update(&Cursor::default(), &heads, &shards).await?;
        let entries = update.final_entries.into_values().chain(update.latest_entries.into_values()).flatten();
        Ok(Self::of(realm.pin.realm, entries))
    }

    fn of(realm: B256, entries: impl Iterator<Item = PlacedEntry>) -> Self {
        let mut inbox = Self::default();
        for placed in entries {
            let Some(enrol) = well_formed(&placed) else {
                inbox.others = inbox.others.saturating_add(1);
                continue;
            };
            inbox.candidates.push(Candidate {
                entry: sign::entry_hash(realm, &placed.entry),
                at: placed.at,
                claim: Claim::from(enrol.clone()),
                enrol,
            });
        }
        inbox.candidates.sort_by_key(|candidate| candidate.at);
        inbox
    }
}

fn well_formed(placed: &PlacedEntry) -> Option<Enrol> {
    let kind = Meta::unpack(placed.entry.meta)?.kind;
    let Ok(Entry::Enrol(enrol)) = Entry::decode(kind, &placed.entry.data) else { return None };
    enrolment::check(placed.entry.actor, &enrol).ok()?;
    countersign_delivery::PublicKey::from_bytes(enrol.x25519.0).ok()?;
    Some(enrol)
}

/// What stands in the way of a claim, whoever vouches for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// The ledger key is bound to a user or host already.
    AlreadyMember,
    /// The ledger key was locked.
    Locked,
    /// The delivery key is another actor's.
    DeliveryKeyTaken,
    /// Another host has that name.
    NameTaken,
}

impl Obstacle {
    /// A stable code.
    pub fn code(self) -> &'static str {
        match self {
            Self::AlreadyMember => "already-member",
            Self::Locked => "ledger-key-locked",
            Self::DeliveryKeyTaken => "delivery-key-taken",
            Self::NameTaken => "name-taken",
        }
    }

    /// What stands in the way of `claim`; `new_host` where it would become a host of its own.
    pub fn of(view: &Effective, claim: &Claim, new_host: bool) -> Option<Self> {
        let known = view.actors.get(&claim.actor);
        if known.is_some_and(|actor| actor.subject.is_some()) {
            return Some(Self::AlreadyMember);
        }
        if known.is_some_and(|actor| actor.locked) {
            return Some(Self::Locked);
        }
        let is_other = |actor: &Address| *actor != claim.actor;
        if view.actors.iter().any(|(actor, known)| is_other(actor) && known.x25519 == Some(claim.x25519)) {
            return Some(Self::DeliveryKeyTaken);
        }
        (new_host && view.hosts.values().any(|host| host.name == claim.name)).then_some(Self::NameTaken)
    }
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::AlreadyMember => {
                "the ledger key belongs to a user or host already: end that first (countersign member remove)"
            }
            Self::Locked => "the ledger key is locked: expected a new one",
            Self::DeliveryKeyTaken => "the delivery key is another member's: expected one that the device made itself",
            Self::NameTaken => {
                "a host of this name is on the ledger: expected another name, or --host to bind the key to that host"
            }
        })
    }
}
