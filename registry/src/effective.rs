//! What holds now, for one pair of final and latest view.
//!
//! Authority comes from the final view, less everything that the latest view or a pending denial takes away; batches,
//! countersignatures, approvals, requests and deliveries come from the latest view, by actors with their role in both.
//! Issuer, watchdogs, hosts and the command line all judge by this one structure. Users, hosts, keys and grants, of which there
//! may be very many, share their memory with the replay they come from.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256};
use countersign_certificate::{Fingerprint20, Id};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::migration;
use crate::origins::Origins;
use crate::realm::{
    Acknowledgement, Actor, Approval, Batch, BlockRef, Ca, Delivery, EntryRef, Envelope, Grant, Group, Host, Key,
    PayloadName, Prekey, PublicData, Refusal, Removed, Request, User, Waiting,
};
use crate::records::Records;
use crate::replay::{Ignored, Leg};

/// The realm's settings, each the stricter of both views.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Settings {
    /// Hosts take only certificates of accepted batches, and no plain keys.
    pub require_logged: bool,
    /// Longest certificate, seconds. Default 86,400.
    pub max_ttl: u64,
    /// Distinct watchdogs a batch needs. Default 0.
    pub countersign_quorum: u64,
    /// Longest time a snapshot lives without news, seconds. Default 300.
    pub max_staleness: u64,
    /// Seconds of block time before a directory addition counts. Default 0.
    pub directory_delay: u64,
    /// Distinct ADMINs a directory addition needs, the writer included. Default 1.
    pub directory_quorum: u64,
    /// Seconds after an approval in which its certificate must begin. Default 600.
    pub pickup: u64,
    /// The first uid; fixed by the first user or group. Default 1,900,000,000.
    pub uid_base: u32,
}

/// Keys in log order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys(Records<Id, Key>);

impl Keys {
    pub(crate) fn from_table(table: Records<Id, Key>) -> Self {
        Self(table)
    }

    /// The key record of an id.
    #[must_use]
    pub fn get(&self, id: &Id) -> Option<&Key> {
        self.0.get(id)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.0.values()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Key> for Keys {
    fn from_iter<I: IntoIterator<Item = Key>>(keys: I) -> Self {
        Self(keys.into_iter().map(|key| (key.id, key)).collect())
    }
}

impl<'a> IntoIterator for &'a Keys {
    type Item = &'a Key;
    type IntoIter = Box<dyn Iterator<Item = &'a Key> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}

impl Serialize for Keys {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut keys = serializer.serialize_seq(Some(self.len()))?;
        for key in self {
            keys.serialize_element(key)?;
        }
        keys.end()
    }
}

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<Key>::deserialize(deserializer)?.into_iter().collect())
    }
}

/// Grants, and whom and what they reach, by the final view alone. Of two grants for one plain key the earlier wins; one that is removed
/// in the latest view only goes on winning, and opens nothing: else its removal would give the later one's terms before it is final,
/// and a reorg could take the removal back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Eclipsing {
    /// Grants.
    pub grants: Records<Id, Grant>,
    /// (group, user).
    pub group_members: BTreeSet<(Id, Id)>,
    /// Hosts, with their labels.
    pub hosts: Records<Id, Host>,
}

/// Everything that holds now. See the module's documentation; every map is keyed by record id unless said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Effective {
    /// Realm id.
    pub realm: B256,
    /// The realms of the history, the first first; the last is `realm`. Block numbers say which leg they belong to
    /// ([`migration::leg_of`](crate::migration::leg_of)).
    pub legs: Vec<Leg>,
    /// Up to where authority counts.
    pub final_block: BlockRef,
    /// Up to where denials count.
    pub latest_block: BlockRef,
    /// Settings in force.
    pub settings: Settings,
    /// Live users: active, locked and revoked ones.
    pub users: Records<Id, User>,
    /// Live groups.
    pub groups: BTreeMap<Id, Group>,
    /// (group, user), both live.
    pub group_members: BTreeSet<(Id, Id)>,
    /// Live hosts: active, locked and revoked ones.
    pub hosts: Records<Id, Host>,
    /// Keys of live users, no two with one fingerprint; in log order.
    pub keys: Keys,
    /// Live grants of live subjects.
    pub grants: Records<Id, Grant>,
    /// While denials are pending: what may still stand before a later grant. Boxed, since it is seldom there.
    pub eclipsing: Option<Box<Eclipsing>>,
    /// All grants that have ever counted in the final view, as they were logged: ended ones, and those that nothing is left of, too.
    pub once_granted: Records<Id, Grant>,
    /// By host, the labels that it had once and has no more.
    pub once_labelled: BTreeMap<Id, BTreeSet<String>>,
    /// Where memberships and denials come from.
    #[serde(skip)]
    pub origins: Origins,
    /// All CAs.
    pub cas: BTreeMap<Id, Ca>,
    /// Batches, accepted or not.
    pub batches: BTreeMap<Id, Batch>,
    /// Requests by ledger keys of their users.
    pub requests: BTreeMap<Id, Request>,
    /// The same with those that do not count any more, whatever became of the user or the ledger key: a certificate may have come of them.
    pub once_requested: Records<Id, Request>,
    /// By request id, in log order: distinct live users, none the requester.
    pub approvals: BTreeMap<Id, Vec<Approval>>,
    /// By request id, in log order.
    pub refusals: BTreeMap<Id, Vec<Refusal>>,
    /// Locked keys, registered or not.
    pub locked_keys: BTreeSet<Fingerprint20>,
    /// Revoked keys, registered or not.
    pub revoked_keys: BTreeSet<Fingerprint20>,
    /// Serials of revoked certificates by CA id, known or not.
    pub revoked_serials: BTreeMap<Id, BTreeSet<u64>>,
    /// Locked batches, known or not.
    pub locked_batches: BTreeSet<Id>,
    /// Ledger keys that hold or held a role or a subject.
    pub actors: BTreeMap<Address, Actor>,
    /// Deliveries by actors with the role in both views.
    pub deliveries: BTreeMap<Id, Delivery>,
    /// The first acknowledgement of a delivery by its recipient, by delivery id.
    pub acknowledgements: BTreeMap<Id, Acknowledgement>,
    /// Envelopes by actors with the role in both views.
    pub envelopes: BTreeMap<Id, Envelope>,
    /// The first acknowledgement of an envelope by each member, by its id. Who was meant, only the sender knows.
    pub envelope_acknowledgements: BTreeMap<Id, BTreeMap<Address, Acknowledgement>>,
    /// What members may be sealed to once, oldest first: not yet dead at the latest block, not dropped, the newest
    /// [`Prekey::KEPT`]. Which of them were used is not on the ledger.
    pub prekeys: BTreeMap<Address, Vec<Prekey>>,
    /// By name.
    pub payload_names: BTreeMap<String, PayloadName>,
    /// Public data.
    pub public_data: BTreeMap<Id, PublicData>,
    /// Removed users and hosts.
    pub removed: BTreeMap<Id, Removed>,
    /// Directory additions that do not count yet.
    pub waiting: Vec<Waiting>,
    /// The most recent entries that replay ignored, with the reason.
    pub ignored: Vec<Ignored>,
    /// Where the latest view's newest entry stands, if there is any.
    pub newest: Option<EntryRef>,
}

impl Effective {
    /// The realm to whose log a block of the history belongs: what hashes of entries written there name.
    #[must_use]
    pub fn realm_of(&self, block: u64) -> B256 {
        let leg = usize::try_from(migration::leg_of(block)).ok().and_then(|leg| self.legs.get(leg));
        leg.map_or(self.realm, |leg| leg.realm)
    }
}
