//! The `access` tables: the rules of "A grant covers a host", "A grant covers a login" and "From ledger to login".
//!
//! What has run out is decided by the latest block's time; the helper, which has a clock, checks limits again. Whether a
//! login is uid 0 is known only where the login happens, so the helper applies `allow-root`.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::num::NonZeroU64;

use countersign_certificate::{Fingerprint20, Id, RealmId, Serial, label_digest};
use countersign_registry::effective::Effective;
use countersign_registry::entries::Kind;
use countersign_registry::migration::leg_of;
use countersign_registry::{Records, realm};
use countersign_snapshot::{
    AccessTables, Approval, Batch, BatchState, Ca, CaState, Denial, Grant, Hours, Key, KeyGrant, KeyState, Login,
    Permits, Request, Subject, Uid, User, UserState, Verdict, Via,
};

use crate::ThisHost;

/// How much longer than needed batches and answers stay, seconds: a host's clock may be behind the block's.
const MARGIN_SECS: u64 = 120;

/// Denials of one request that are passed on; a single one decides.
const MAX_DENIALS: usize = 16;

/// Answers of one request that are passed on: a byte numbers them, and no grant asks for more approvals than 255.
const MAX_ANSWERS: usize = 256;

pub(crate) fn tables(this: &ThisHost<'_>) -> AccessTables {
    let effective = this.effective;
    let mut tables = AccessTables {
        labels: this.labels().iter().map(|label| label_digest(label)).collect(),
        ..AccessTables::default()
    };
    add_users(effective, &mut tables);
    add_grants(this, &mut tables);
    tables.granted_logins = granted_logins(this, &tables.logins);
    add_keys(effective, &mut tables);
    add_plain_key_ways(this, &mut tables);
    add_cas(effective, &mut tables);
    add_batches(this, &mut tables);
    let serials = effective.revoked_serials.iter();
    tables.serials = serials.map(|(ca, serials)| (*ca, serials.iter().copied().map(Serial).collect())).collect();
    tables.revoked_keys = denied_keys(effective).into_iter().collect();
    add_requests(this, &mut tables);
    let now = this.now_secs();
    tables.realms = earlier_realms(this).filter(|(_, end)| *end >= now).map(|(realm, _)| realm).collect();
    tables
}

/// When time alone changes something: the next end of a grant that covers this host and opens it to plain keys, or of an earlier
/// realm's last certificate.
pub(crate) fn changes_at_secs(this: &ThisHost<'_>) -> Option<u64> {
    let ends =
        covering(this).filter(|(_, grant)| plain_key(this.effective, grant)).filter_map(|(_, grant)| grant.not_after);
    let ends = ends.chain(earlier_realms(this).map(|(_, end)| end));
    ends.filter(|end| *end >= this.now_secs()).map(|end| end.saturating_add(1)).min()
}

/// The realms that this one comes from, each with the time until which a certificate from there may live: an accepted batch of its log
/// tells, or, where certificates need none, the move to the next realm.
fn earlier_realms<'a>(this: &ThisHost<'a>) -> impl Iterator<Item = (RealmId, u64)> + 'a {
    let effective = this.effective;
    let settings = &effective.settings;
    let nexts = effective.legs.iter().skip(1);
    (0_u64..).zip(&effective.legs).zip(nexts).filter_map(move |((number, leg), next)| {
        let accepted = effective.batches.iter().filter(|(id, batch)| {
            leg_of(batch.at.block) == number
                && batch.state == realm::BatchState::Accepted
                && !effective.locked_batches.contains(id)
        });
        let logged = accepted.map(|(_, batch)| batch_end(effective, batch)).max();
        let unlogged = next.arrived.filter(|_| !settings.require_logged);
        let unlogged = unlogged.map(|arrived| arrived.time.saturating_add(settings.max_ttl));
        let end = logged.max(unlogged)?;
        Some((RealmId(leg.realm.0), end.saturating_add(MARGIN_SECS)))
    })
}

/// No certificate of a batch is valid after this.
fn batch_end(effective: &Effective, batch: &realm::Batch) -> u64 {
    batch.not_after.min(batch.at.time.saturating_add(effective.settings.max_ttl))
}

pub(crate) const fn user_state(state: realm::State) -> UserState {
    match state {
        realm::State::Active => UserState::Active,
        realm::State::Locked => UserState::Locked,
        realm::State::Revoked => UserState::Removed,
    }
}

fn add_users(effective: &Effective, tables: &mut AccessTables) {
    for (id, user) in &effective.users {
        tables.logins.push((user.login.clone(), Login { uid: Uid(user.uid), user: *id }));
        tables.users.push((*id, User { state: user_state(user.state), login: user.login.clone() }));
    }
    // A removed user's name is never free again: a local account of that name and another uid must not pass for it.
    let live: BTreeSet<&str> = effective.users.values().map(|user| user.login.as_str()).collect();
    for (id, removed) in &effective.removed {
        let is_user = Kind(removed.kind) == Kind::USER_ADD;
        if is_user && !effective.users.contains_key(id) && !live.contains(removed.name.as_str()) {
            tables.logins.push((removed.name.clone(), Login { uid: Uid(removed.uid), user: *id }));
            tables.users.push((*id, User { state: UserState::Removed, login: removed.name.clone() }));
        }
    }
}

/// Logins, beside those of users, of every grant that covers this host or once did: what the realm has once given out is not given
/// out again by whoever answered before it. Too many rather than too few: a label that this host has had counts together with every
/// other.
fn granted_logins(this: &ThisHost<'_>, users: &[(String, Login)]) -> Vec<String> {
    let effective = this.effective;
    let mut labels = this.labels().clone();
    labels.extend(effective.once_labelled.get(&this.id).into_iter().flatten().cloned());
    let users: HashSet<&str> = users.iter().map(|(login, _)| login.as_str()).collect();
    let mut logins: BTreeSet<&str> = BTreeSet::new();
    for (_, grant) in effective.once_granted.iter().chain(effective.grants.iter()) {
        if grant.logins.iter().any(|login| !users.contains(login.as_str()) && !logins.contains(login.as_str()))
            && grant.target.covers(this.id, &labels)
        {
            logins.extend(grant.logins.iter().map(String::as_str));
        }
    }
    logins.into_iter().filter(|login| !users.contains(login)).map(str::to_owned).collect()
}

fn covering<'a>(this: &ThisHost<'a>) -> impl Iterator<Item = (&'a Id, &'a realm::Grant)> {
    let (host, record) = (this.id, this.record);
    this.effective.grants.iter().filter(move |(_, grant)| grant.target.covers(host, &record.labels))
}

fn add_grants(this: &ThisHost<'_>, tables: &mut AccessTables) {
    let effective = this.effective;
    let mut groups = BTreeSet::new();
    for (id, grant) in &effective.grants {
        if !grant.target.covers(this.id, this.labels()) {
            tables.grants_elsewhere.push(*id);
            continue;
        }
        if let realm::Subject::Group(group) = grant.subject {
            groups.insert(group);
        }
        tables.grants.push((*id, compiled_grant(effective, grant)));
        tables.grant_logins.extend(grant.logins.iter().map(|login| (*id, login.clone())));
    }
    let members = effective.group_members.iter().filter(|(group, _)| groups.contains(group));
    tables.memberships.extend(members.copied());
}

fn compiled_grant(effective: &Effective, grant: &realm::Grant) -> Grant {
    Grant {
        subject: match grant.subject {
            realm::Subject::User(user) => Subject::User(user),
            realm::Subject::Group(group) => Subject::Group(group),
        },
        via: Via {
            certificate: grant.via & realm::Grant::VIA_CERTIFICATE != 0,
            plain_key: plain_key(effective, grant),
        },
        max_ttl_secs: limit(grant.max_ttl),
        approvals: grant.approvals,
        not_after_secs: limit(grant.not_after),
        permits: Permits(grant.permits),
        forced_command: grant.forced_command.clone(),
        source_addresses: grant.source_addresses.clone(),
        hours: grant
            .hours
            .iter()
            .map(|hours| Hours { weekday: hours.weekday, from_minute: hours.from, to_minute: hours.to })
            .collect(),
    }
}

/// Whether a grant opens to plain keys: not where the realm requires logged certificates, nor where the grant has
/// conditions that only a certificate can meet.
fn plain_key(effective: &Effective, grant: &realm::Grant) -> bool {
    grant.via & realm::Grant::VIA_KEY != 0
        && !effective.settings.require_logged
        && grant.approvals == 0
        && grant.max_ttl.is_none()
        && grant.hours.is_empty()
}

/// A limit that is there stays there: the format's 0 means none, so a limit of 0 becomes the tightest other one.
fn limit(secs: Option<u64>) -> Option<NonZeroU64> {
    secs.map(|secs| NonZeroU64::new(secs).unwrap_or(NonZeroU64::MIN))
}

/// Keys locked or revoked; revoked wins.
pub(crate) fn denied_keys(effective: &Effective) -> BTreeMap<Fingerprint20, Denial> {
    let locked = effective.locked_keys.iter().map(|key| (*key, Denial::Locked));
    let revoked = effective.revoked_keys.iter().map(|key| (*key, Denial::Revoked));
    locked.chain(revoked).collect()
}

fn add_keys(effective: &Effective, tables: &mut AccessTables) {
    let mut earliest: BTreeMap<Fingerprint20, &realm::Key> = BTreeMap::new();
    for key in &effective.keys {
        let kept = earliest.entry(key.fingerprint).or_insert(key);
        if key.at < kept.at {
            *kept = key;
        }
    }
    for (fingerprint, key) in earliest {
        let denied_as = |denials: &BTreeSet<Fingerprint20>| denials.contains(&fingerprint);
        let state = if key.state == realm::State::Revoked || denied_as(&effective.revoked_keys) {
            KeyState::Revoked
        } else if key.state == realm::State::Locked || denied_as(&effective.locked_keys) {
            KeyState::Locked
        } else {
            KeyState::Active
        };
        let not_after_secs = limit(key.not_after);
        tables.keys.push((fingerprint, Key { user: key.user, state, purposes: key.purposes, not_after_secs }));
    }
}

/// Two grants for one plain key: the earlier entry wins, options are never merged. One whose end is not final yet wins still, and
/// opens nothing.
fn add_plain_key_ways(this: &ThisHost<'_>, tables: &mut AccessTables) {
    let effective = this.effective;
    let mut ways = plain_key_ways(this, &effective.grants, &effective.group_members, this.labels());
    if let Some(before) = &effective.eclipsing
        && let Some(host) = before.hosts.get(&this.id)
    {
        let standing = plain_key_ways(this, &before.grants, &before.group_members, &host.labels);
        ways.retain(|way, grant| standing.get(way) == Some(grant));
    }
    let ways = ways.into_iter().map(|((user, login), grant)| KeyGrant { user, login: login.to_owned(), grant });
    tables.key_grants = ways.collect();
}

/// By user and login, the earliest grant that covers this host and has not run out.
fn plain_key_ways<'a>(
    this: &ThisHost<'_>,
    grants: &'a Records<Id, realm::Grant>,
    members: &BTreeSet<(Id, Id)>,
    labels: &BTreeSet<String>,
) -> BTreeMap<(Id, &'a str), Id> {
    let mut covering: Vec<(&Id, &realm::Grant)> = grants
        .iter()
        .filter(|(_, grant)| grant.target.covers(this.id, labels))
        .filter(|(_, grant)| plain_key(this.effective, grant))
        .filter(|(_, grant)| grant.not_after.is_none_or(|end| this.now_secs() <= end))
        .collect();
    covering.sort_by_key(|(id, grant)| (grant.at, **id));
    let mut ways: BTreeMap<(Id, &str), Id> = BTreeMap::new();
    for (id, grant) in covering {
        for user in subjects(this.effective, members, grant.subject) {
            for login in &grant.logins {
                ways.entry((user, login)).or_insert(*id);
            }
        }
    }
    ways
}

fn subjects(effective: &Effective, members: &BTreeSet<(Id, Id)>, subject: realm::Subject) -> Vec<Id> {
    let named = match subject {
        realm::Subject::User(user) => vec![user],
        realm::Subject::Group(group) => {
            members.range((group, Id([0; 16]))..=(group, Id([0xff; 16]))).map(|(_, user)| *user).collect()
        }
    };
    named.into_iter().filter(|user| effective.users.contains_key(user)).collect()
}

/// CAs for user certificates. A denied key denies its CA; of two records of one key, the stricter counts.
fn add_cas(effective: &Effective, tables: &mut AccessTables) {
    let denied = denied_keys(effective);
    let mut by_key: BTreeMap<&[u8], (&Id, &realm::Ca, CaState)> = BTreeMap::new();
    for (id, ca) in effective.cas.iter().filter(|(_, ca)| ca.purpose == realm::CaPurpose::User) {
        let of_record = match ca.state {
            realm::CaState::Active => CaState::Active,
            realm::CaState::Locked => CaState::Locked,
            realm::CaState::Retired { at } => CaState::Retired { at_secs: at },
            realm::CaState::Revoked => CaState::Revoked,
        };
        let of_key = match denied.get(&Fingerprint20::of_blob(&ca.public_key)) {
            None => CaState::Active,
            Some(Denial::Locked) => CaState::Locked,
            Some(Denial::Revoked) => CaState::Revoked,
        };
        let state = if severity(of_key) > severity(of_record) { of_key } else { of_record };
        let kept = by_key.entry(&ca.public_key).or_insert((id, ca, state));
        let stricter = severity(state) > severity(kept.2);
        if stricter || (severity(state) == severity(kept.2) && ca.at < kept.1.at) {
            *kept = (id, ca, state);
        }
    }
    for (key_blob, (id, ca, state)) in by_key {
        tables.cas.push(Ca {
            id: *id,
            state,
            max_ttl_secs: ca.limits.max_ttl,
            logins_restricted: ca.limits.logins.is_some(),
            key_blob: key_blob.to_vec(),
        });
        let logins = ca.limits.logins.iter().flatten();
        tables.ca_logins.extend(logins.map(|login| (*id, login.clone())));
    }
}

const fn severity(state: CaState) -> u8 {
    match state {
        CaState::Active => 0,
        CaState::Retired { .. } => 1,
        CaState::Locked => 2,
        CaState::Revoked => 3,
    }
}

/// Batches of which a certificate may still be valid.
fn add_batches(this: &ThisHost<'_>, tables: &mut AccessTables) {
    let effective = this.effective;
    for (id, batch) in &effective.batches {
        if batch_end(effective, batch).saturating_add(MARGIN_SECS) < this.now_secs() {
            continue;
        }
        let state = match batch.state {
            _ if effective.locked_batches.contains(id) => BatchState::Locked,
            realm::BatchState::Accepted => BatchState::Accepted,
            realm::BatchState::WaitingForCountersignatures { .. } => BatchState::WaitingForCountersignatures,
            realm::BatchState::Locked => BatchState::Locked,
            realm::BatchState::IssuerLostRole => BatchState::IssuerLostRole,
            realm::BatchState::IssuerNotListed => BatchState::IssuerNotListed,
        };
        let compiled = Batch {
            state,
            ca: batch.ca,
            root: batch.root.0,
            size: batch.size,
            time_secs: batch.at.time,
            not_after_secs: batch.not_after,
            block: batch.at.block,
        };
        tables.batches.push((*id, compiled));
    }
}

/// Requests for this host, and the answers to them. An answer to a request that this host has not seen is passed on too:
/// its hash names the host, the helper compares it.
fn add_requests(this: &ThisHost<'_>, tables: &mut AccessTables) {
    let effective = this.effective;
    for (id, request) in effective.requests.iter().filter(|(_, request)| request.host == this.id) {
        let compiled =
            Request { user: request.user, approval_hash: request.approval_hash.0, time_secs: request.at.time };
        tables.requests.push((*id, compiled));
    }
    let answered: BTreeSet<&Id> = effective.approvals.keys().chain(effective.refusals.keys()).collect();
    for id in answered {
        if effective.requests.get(id).is_some_and(|request| request.host != this.id) {
            continue;
        }
        let answers: Vec<Approval> = answers(effective, id).map(|(_, answer)| answer).collect();
        if !answers.is_empty() {
            tables.approvals.push((*id, answers));
        }
    }
}

/// The answers to a request, in the order in which they are numbered, each with its entry: denials first.
pub(crate) fn answers<'a>(
    effective: &'a Effective,
    request: &Id,
) -> impl Iterator<Item = (realm::EntryRef, Approval)> + use<'a> {
    let lasting_secs = effective.settings.max_ttl.saturating_add(effective.settings.pickup).saturating_add(MARGIN_SECS);
    let now_secs = effective.latest_block.time;
    let denials = effective.refusals.get(request).into_iter().flatten().take(MAX_DENIALS).map(|refusal| {
        let approver = refusal.user;
        let time_secs = refusal.at.time;
        (refusal.at, Approval { verdict: Verdict::Deny, approver, time_secs, approval_hash: [0; 32] })
    });
    let approvals = effective.approvals.get(request).into_iter().flatten();
    let approvals = approvals.filter(move |approval| approval.at.time.saturating_add(lasting_secs) >= now_secs);
    let approvals = approvals.map(|approval| {
        let (approver, approval_hash) = (Some(approval.user), approval.hash.0);
        (approval.at, Approval { verdict: Verdict::Approve, approver, time_secs: approval.at.time, approval_hash })
    });
    denials.chain(approvals).take(MAX_ANSWERS)
}
