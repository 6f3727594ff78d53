//! Batches, countersignatures, requests, approvals, deliveries, envelopes, prekeys.

use countersign_registry::entries::{Entry, Kind, Roles, Targets, payload};
use countersign_registry::realm::BatchState;
use countersign_registry::replay::{IgnoreReason, setting};
use countersign_registry::{B256, Bytes, Effective, Id};

use crate::support::*;

#[test]
fn a_batch_counts_from_the_latest_view_by_a_listed_issuer() {
    let mut log = cast();
    let ca = log.ca(2, 1, &[ISSUER]);
    let (batch, hash) = log.batch(5, ISSUER, ca, 1);
    let effective = log.views(4, 5);
    assert_eq!(effective.batches[&batch].state, BatchState::Accepted);
    assert_eq!(effective.batches[&batch].entry_hash, hash);
}

#[test]
fn a_batch_by_an_issuer_or_for_a_ca_that_is_not_final_does_not_count() {
    let mut log = Log::default();
    log.role(2, ISSUER, Roles::ISSUER);
    let ca = log.ca(3, 1, &[ISSUER]);
    let (batch, _) = log.batch(5, ISSUER, ca, 1);
    assert_eq!(log.views(1, 5).batches[&batch].state, BatchState::IssuerLostRole);
    assert_eq!(log.views(2, 5).batches[&batch].state, BatchState::IssuerNotListed);
    assert_eq!(log.views(3, 5).batches[&batch].state, BatchState::Accepted);
}

#[test]
fn a_batch_in_the_block_of_its_authority_does_not_count() {
    let mut log = cast();
    let ca = log.ca(5, 1, &[ISSUER]);
    let (batch, _) = log.batch(5, ISSUER, ca, 1);
    assert_eq!(log.done().batches[&batch].state, BatchState::IssuerNotListed);
    let mut fresh = Log::default();
    let ca = fresh.ca(1, 1, &[ISSUER]);
    fresh.role(5, ISSUER, Roles::ISSUER);
    let (batch, _) = fresh.batch(5, ISSUER, ca, 1);
    assert!(!fresh.done().batches.contains_key(&batch));
}

#[test]
fn a_batch_falls_with_its_lock_its_issuers_role_lock_or_listing() {
    let tighten = |ca: Id| payload::CaLimits { ca: ca.0.into(), maxTtl: 600, logins: vec![], issuers: vec![] };
    let mut log = cast();
    let ca = log.ca(2, 1, &[ISSUER]);
    let (batch, _) = log.batch(3, ISSUER, ca, 1);
    let state = |change: &dyn Fn(&mut Log)| {
        let mut log = log.clone();
        change(&mut log);
        let latest = log.views(4, 6).batches[&batch].state;
        assert_eq!(log.done().batches[&batch].state, latest, "the same once final");
        latest
    };
    assert_eq!(state(&|_| ()), BatchState::Accepted);
    assert_eq!(state(&|log| log.lock(6, Targets::Batches(vec![batch]))), BatchState::Locked);
    assert_eq!(state(&|log| log.lock(6, Targets::Actors(vec![ISSUER]))), BatchState::IssuerLostRole);
    assert_eq!(state(&|log| log.role(6, ISSUER, Roles::WATCHDOG)), BatchState::IssuerLostRole);
    assert_eq!(
        state(&|log| {
            log.add(6, REVOKER, &Entry::CaTighten(tighten(ca)));
        }),
        BatchState::IssuerNotListed
    );
}

#[test]
fn countersignatures_are_by_distinct_watchdogs_over_this_very_entry_and_never_by_the_issuer() {
    let mut log = cast();
    log.role(1, ISSUER, Roles::ISSUER | Roles::WATCHDOG);
    log.settings(1, &[(setting::COUNTERSIGN_QUORUM, 2)]);
    let ca = log.ca(2, 1, &[ISSUER]);
    let (batch, hash) = log.batch(3, ISSUER, ca, 1);
    let waiting = |have| BatchState::WaitingForCountersignatures { have, need: 2 };
    assert_eq!(log.done().batches[&batch].state, waiting(0));
    log.countersign(4, ISSUER, batch, hash);
    log.countersign(4, ADMIN, batch, hash);
    log.countersign(4, WATCHDOG, batch, B256::repeat_byte(3));
    assert_eq!(log.done().batches[&batch].state, waiting(0));
    log.countersign(5, WATCHDOG, batch, hash);
    log.countersign(6, WATCHDOG, batch, hash);
    assert_eq!(log.done().batches[&batch].state, waiting(1));
    log.countersign(7, WATCHDOG_2, batch, hash);
    assert_eq!(log.views(6, 7).batches[&batch].state, BatchState::Accepted);
    log.role(9, WATCHDOG, 0);
    assert_eq!(log.views(8, 9).batches[&batch].state, waiting(1));
}

struct Desk {
    log: Log,
    alice: Id,
    carol: Id,
    request: Id,
    hash: B256,
}

fn desk() -> Desk {
    let mut log = cast();
    let alice = log.user(2, ADMIN, "alice");
    let carol = log.user(2, ADMIN, "carol");
    let web = log.host(2, ADMIN, "web");
    log.bind(2, ADMIN, ALICE, alice);
    log.bind(2, ADMIN, APPROVER, carol);
    let request = log.request(3, ALICE, alice, web);
    let hash = log.done().requests[&request].approval_hash;
    Desk { log, alice, carol, request, hash }
}

#[test]
fn a_request_counts_only_from_a_ledger_key_of_its_user() {
    let Desk { mut log, alice, carol, request, .. } = desk();
    assert_eq!(log.done().requests[&request].user, alice);
    let forged = log.request(4, ALICE, carol, alice);
    let unbound = log.request(4, DEVICE, alice, alice);
    let requests = log.done().requests;
    assert!(!requests.contains_key(&forged) && !requests.contains_key(&unbound));
    assert_eq!(log.reasons(), [IgnoreReason::NotBound; 2]);
    // Unbound later: what it asked before does not count any more.
    let end = payload::MemberSet { actor: ALICE, member: false, subject: [0; 16].into(), x25519: B256::ZERO };
    log.add(6, ADMIN, &Entry::MemberSet(end));
    assert!(log.views(5, 6).requests.is_empty());
}

#[test]
fn approvals_are_by_distinct_live_users_and_never_by_the_requester() {
    let Desk { mut log, alice, carol, request, hash } = desk();
    log.role(3, ALICE, Roles::APPROVER | Roles::MEMBER);
    log.approve(4, ALICE, request, hash);
    log.approve(4, APPROVER, request, B256::repeat_byte(1));
    log.approve(5, APPROVER, request, hash);
    log.approve(6, APPROVER, request, hash);
    log.approve(6, APPROVER_2, request, hash);
    log.approve(6, ADMIN, request, hash);
    let given = |log: &Log| -> Vec<(Id, u64)> {
        let approvals = log.done().approvals.remove(&request).unwrap_or_default();
        approvals
            .iter()
            .filter(|approval| approval.hash == hash)
            .map(|approval| (approval.user, approval.at.block))
            .collect()
    };
    assert_eq!(given(&log), [(carol, 5)], "an approver that is no user does not count, nor one twice");
    log.bind(7, ADMIN, APPROVER_2, carol);
    assert_eq!(given(&log), [(carol, 5)], "two ledger keys of one user are one approver");
    log.bind(8, ADMIN, APPROVER_2, alice);
    assert_eq!(given(&log), [(carol, 5)]);
    log.lock(9, Targets::Users(vec![carol]));
    assert_eq!(given(&log), []);
    assert_eq!(log.views(8, 9).approvals, log.done().approvals);
}

#[test]
fn a_refusal_by_an_approver_is_shown_and_one_by_anybody_else_is_not() {
    let Desk { mut log, carol, request, .. } = desk();
    log.add(4, ADMIN, &Entry::Deny(request));
    log.add(5, APPROVER, &Entry::Deny(request));
    let refusals = log.views(4, 5).refusals;
    assert_eq!(refusals[&request].len(), 1);
    assert_eq!((refusals[&request][0].actor, refusals[&request][0].user), (APPROVER, Some(carol)));
}

#[test]
fn a_refusal_stands_until_its_approver_s_lock_or_lost_role_is_final() {
    for locks in [true, false] {
        let Desk { mut log, request, .. } = desk();
        log.add(5, APPROVER, &Entry::Deny(request));
        if locks {
            log.lock(7, Targets::Actors(vec![APPROVER]));
        } else {
            log.role(7, APPROVER, 0);
        }
        assert!(log.views(6, 7).refusals.contains_key(&request), "else whoever may lock opens what was refused");
        assert!(!log.views(7, 7).refusals.contains_key(&request));
    }
}

#[test]
fn roles_set_without_member_end_a_binding_in_the_same_block_too() {
    let mut log = cast();
    let alice = log.user(2, ADMIN, "alice");
    log.bind(3, ADMIN, ALICE, alice);
    log.role(3, ALICE, Roles::APPROVER);
    assert_eq!(log.done().actors[&ALICE].subject, None);
    log.bind(5, ADMIN, ALICE, alice);
    assert_eq!(log.done().actors[&ALICE].roles, Roles::APPROVER | Roles::MEMBER);
    log.role(7, ALICE, Roles::APPROVER);
    assert_eq!(log.views(6, 7).actors[&ALICE].subject, None);
}

#[test]
fn deliveries_are_by_senders_in_both_views_and_acknowledged_by_their_recipient() {
    let mut log = cast();
    let web = log.host(2, ADMIN, "web");
    log.bind(2, ADMIN, DEVICE, web);
    log.bind(2, ADMIN, ALICE, web);
    let mut send = |block, actor, seed: u8| {
        let delivery = payload::Delivery {
            r: [seed; 16].into(),
            recipient: DEVICE,
            payloadName: "login".into(),
            payloadKind: 1,
            digest: B256::repeat_byte(seed),
            sealedCid: Bytes::from_static(b"cid"),
        };
        log.add(block, actor, &Entry::Delivery(delivery));
        countersign_registry::sign::record_id(Kind::DELIVERY, actor, [seed; 16])
    };
    let good = send(4, ISSUER, 1);
    let bad = send(4, WATCHDOG, 2);
    for actor in [ALICE, DEVICE] {
        let acknowledge = payload::Acknowledge { delivery: good.0.into(), digest: B256::repeat_byte(1) };
        log.add(5, actor, &Entry::Acknowledge(acknowledge));
    }
    let effective = log.views(3, 5);
    assert_eq!(effective.deliveries.keys().copied().collect::<Vec<_>>(), [good], "not {bad}");
    assert_eq!(effective.acknowledgements[&good].actor, DEVICE);
    log.lock(7, Targets::Actors(vec![ISSUER]));
    assert!(log.views(6, 7).deliveries.is_empty());
}

#[test]
fn envelopes_are_by_senders_in_both_views_and_acknowledged_by_whoever_says_so() {
    let mut log = cast();
    let web = log.host(2, ADMIN, "web");
    log.bind(2, ADMIN, DEVICE, web);
    log.bind(2, ADMIN, ALICE, web);
    let mut send = |block, actor, seed: u8, name: &str| {
        let envelope = payload::Envelope {
            r: [seed; 16].into(),
            payloadKind: 5,
            index: B256::repeat_byte(seed),
            payloadName: name.into(),
        };
        log.add(block, actor, &Entry::Envelope(envelope));
        countersign_registry::sign::record_id(Kind::ENVELOPE, actor, [seed; 16])
    };
    let good = send(4, ISSUER, 1, "token");
    // By a watchdog; under one id twice; under a name that no host could configure.
    send(4, WATCHDOG, 2, "token");
    send(5, ISSUER, 1, "token");
    send(5, ISSUER, 3, "../token");
    for actor in [ALICE, DEVICE, WATCHDOG] {
        let acknowledge = payload::Acknowledge { delivery: good.0.into(), digest: B256::repeat_byte(1) };
        log.add(5, actor, &Entry::Acknowledge(acknowledge));
    }
    let effective = log.views(3, 5);
    assert_eq!(effective.envelopes.keys().copied().collect::<Vec<_>>(), [good]);
    assert_eq!(effective.envelopes[&good].index, B256::repeat_byte(1));
    let acknowledged: Vec<_> = effective.envelope_acknowledgements[&good].keys().copied().collect();
    assert_eq!(acknowledged, [ALICE, DEVICE], "members only");
    assert_eq!(
        log.reasons(),
        [IgnoreReason::NoRole, IgnoreReason::NotBound, IgnoreReason::DuplicateId, IgnoreReason::InvalidName]
    );
    log.lock(7, Targets::Actors(vec![ISSUER]));
    assert!(log.views(6, 7).envelopes.is_empty());
}

#[test]
fn prekeys_are_a_members_own_live_for_thirty_days_and_are_dropped_when_it_says_so() {
    let mut log = cast();
    let web = log.host(2, ADMIN, "web");
    log.bind(2, ADMIN, DEVICE, web);
    let publish = |log: &mut Log, block, actor, drop, keys: &[u8]| {
        let keys = keys.iter().map(|key| B256::repeat_byte(*key)).collect();
        log.add(block, actor, &Entry::Prekeys(payload::Prekeys { drop, keys }));
    };
    let keys = |effective: &Effective| -> Vec<u8> {
        effective.prekeys.get(&DEVICE).into_iter().flatten().map(|prekey| prekey.key[0]).collect()
    };
    publish(&mut log, 4, DEVICE, 0, &[1, 2, 1]);
    publish(&mut log, 4, ALICE, 0, &[9]);
    assert_eq!(keys(&log.views(3, 4)), [1, 2], "each once");
    assert_eq!(log.views(3, 4).prekeys.len(), 1, "nobody's who is not bound");

    // Published again, a key keeps the age of its first entry: at the end of day 30 only the new one is left.
    let day = 8640;
    publish(&mut log, 4 + 29 * day, DEVICE, 0, &[2, 3]);
    assert_eq!(keys(&log.views(3, 4 + 30 * day - 1)), [1, 2, 3]);
    assert_eq!(keys(&log.views(3, 4 + 30 * day)), [3]);

    let later = 4 + 30 * day + 1;
    publish(&mut log, later, DEVICE, 1, &[4]);
    assert_eq!(keys(&log.views(3, later)), [4]);
    let mut twice = log.clone();
    publish(&mut twice, later + 1, DEVICE, 1, &[4]);
    assert_eq!(keys(&twice.views(3, later + 1)), [4], "sent twice, it does not void its own");
    let mut locked = log.clone();
    locked.lock(later + 1, Targets::Actors(vec![DEVICE]));
    assert!(locked.views(3, later + 1).prekeys.is_empty());

    // A flood leaves the newest 256.
    for block in 1..=3_u8 {
        let keys = (0..127).map(|key| B256::right_padding_from(&[block, key])).collect();
        log.add(later + u64::from(block), DEVICE, &Entry::Prekeys(payload::Prekeys { drop: 0, keys }));
    }
    let flooded = log.views(3, later + 40);
    let kept = &flooded.prekeys[&DEVICE];
    assert_eq!(kept.len(), countersign_registry::realm::Prekey::KEPT);
    assert_eq!(kept.last().unwrap().key, B256::right_padding_from(&[3, 126]));
}
