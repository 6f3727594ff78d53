//! What holds now, for one pair of final and latest view.
//!
//! Authority comes from the final view, less everything that the latest view or a pending denial takes away; batches,
//! countersignatures, approvals, requests and deliveries come from the latest view, by actors with their role in both.
//! Issuer, watchdogs, hosts and the command line all judge by this one structure.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256};
use countersign_certificate::{Fingerprint20, Id};
use serde::{Deserialize, Serialize};

use crate::realm::{
    Acknowledgement, Actor, Approval, Batch, BlockRef, Ca, Delivery, EntryRef, Grant, Group, Host, Key, PayloadName,
    PublicData, Refusal, Removed, Request, User, Waiting,
};
use crate::replay::Ignored;

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

/// Everything that holds now. See the module's documentation; every map is keyed by record id unless said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Effective {
    /// Realm id.
    pub realm: B256,
    /// Up to where authority counts.
    pub final_block: BlockRef,
    /// Up to where denials count.
    pub latest_block: BlockRef,
    /// Settings in force.
    pub settings: Settings,
    /// Live users: active, locked and revoked ones.
    pub users: BTreeMap<Id, User>,
    /// Live groups.
    pub groups: BTreeMap<Id, Group>,
    /// (group, user), both live.
    pub group_members: BTreeSet<(Id, Id)>,
    /// Live hosts: active, locked and revoked ones.
    pub hosts: BTreeMap<Id, Host>,
    /// Keys of live users, no two with one fingerprint; by record id.
    pub keys: Vec<Key>,
    /// Live grants of live subjects.
    pub grants: BTreeMap<Id, Grant>,
    /// All CAs.
    pub cas: BTreeMap<Id, Ca>,
    /// Batches, accepted or not.
    pub batches: BTreeMap<Id, Batch>,
    /// Requests by ledger keys of their users.
    pub requests: BTreeMap<Id, Request>,
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
