//! Random logs: replay is total, does not depend on how it is fed, and no reorg or addition makes it more permissive.

use std::collections::{BTreeMap, BTreeSet};

use countersign_registry::entries::{Entry, Kind, Roles, Targets, payload};
use countersign_registry::head::PlacedEntry;
use countersign_registry::realm::{CaState, GrantTarget, State, Subject};
use countersign_registry::replay::ReplayError;
use countersign_registry::{Address, B256, Bytes, Effective, Fingerprint20, Id, Replay, shard, sign};
use proptest::prelude::*;

use crate::support::*;

const ACTORS: [Address; 9] = [ROOTS, ADMIN, ADMIN_2, ISSUER, WATCHDOG, APPROVER, REVOKER, ALICE, DEVICE];

/// One entry, by numbers.
#[derive(Debug, Clone)]
pub(crate) struct Op {
    pub(crate) step: u64,
    pub(crate) actor: usize,
    pub(crate) what: u8,
    pub(crate) a: u8,
    pub(crate) b: u8,
    /// Byte to change: position and mask.
    pub(crate) bend: Option<(u16, u8)>,
}

fn op() -> impl Strategy<Value = Op> {
    let bend = prop_oneof![9 => Just(None), 1 => (any::<u16>(), any::<u8>()).prop_map(Some)];
    (0..3_u64, 0..ACTORS.len(), 0..34_u8, 0..4_u8, 0..4_u8, bend).prop_map(|(step, actor, what, a, b, bend)| Op {
        step,
        actor,
        what,
        a,
        b,
        bend,
    })
}

pub(crate) fn ops(most: usize) -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op(), 1..most)
}

/// An entry that is no unlock, no restore and no removal (a removed user is not shown as locked any more).
fn lifts_nothing() -> impl Strategy<Value = Op> {
    op().prop_filter("lifts a denial", |op| {
        let lifts = matches!(entry(op).1, Entry::Unlock(_) | Entry::Restore(_) | Entry::Remove(_));
        !lifts && op.bend.is_none()
    })
}

fn id(kind: Kind, n: u8) -> Id {
    let writer = if kind == Kind::CA_ADD { ROOTS } else { ADMIN };
    sign::record_id(kind, writer, [n; 16])
}

fn user(n: u8) -> Id {
    id(Kind::USER_ADD, n)
}

fn limits(op: &Op) -> payload::CaLimits {
    payload::CaLimits {
        ca: id(Kind::CA_ADD, op.a).0.into(),
        maxTtl: u64::from(op.b) * 100,
        logins: if op.b == 0 { vec![] } else { vec!["deploy".into()] },
        issuers: vec![ISSUER, WATCHDOG].into_iter().take(usize::from(op.b)).collect(),
    }
}

fn targets(op: &Op) -> Targets {
    match op.b {
        0 => Targets::Users(vec![user(op.a)]),
        1 => Targets::Actors(vec![ACTORS[1 + usize::from(op.a) * 2]]),
        2 => Targets::Keys(vec![Fingerprint20([op.a; 20])]),
        _ => Targets::Cas(vec![id(Kind::CA_ADD, op.a)]),
    }
}

/// The entry of an op; its writer is the one that the contract would let write it, where `actor` is not.
pub(crate) fn entry(op: &Op) -> (Address, Entry) {
    let (a, b) = (op.a, op.b);
    let r = [a; 16];
    let actor = ACTORS[op.actor];
    match op.what {
        0 => (
            ROOTS,
            Entry::RoleSet(payload::RoleSet {
                actor: ACTORS[1 + usize::from(a) * 2],
                roles: [0, Roles::ADMIN, Roles::ISSUER | Roles::MEMBER, Roles::APPROVER | Roles::MEMBER]
                    [usize::from(b)],
                x25519: B256::repeat_byte(b),
            }),
        ),
        1 => (
            ROOTS,
            Entry::CaAdd(payload::CaAdd {
                r: r.into(),
                purpose: 1,
                name: "ca".into(),
                publicKey: key_blob(200 + a),
                maxTtl: 500,
                logins: vec![],
                issuers: vec![ISSUER],
            }),
        ),
        2 => (ROOTS, Entry::CaLoosen(limits(op))),
        3 => (ROOTS, Entry::Unlock(targets(op))),
        4 => (
            ROOTS,
            Entry::Restore(payload::Restore {
                kind: Kind::USER_ADD.0,
                id: user(a).0.into(),
                name: format!("u{a}"),
                uid: 1_900_000_000 + u32::from(b),
            }),
        ),
        5 => (ROOTS, Entry::Settings(settings(&[(u16::from(a) + u16::from(b), u64::from(b))]))),
        6 => (
            ROOTS,
            Entry::Revoke(match targets(op) {
                Targets::Actors(_) => Targets::Users(vec![user(a)]),
                other => other,
            }),
        ),
        7 | 8 => (
            actor,
            Entry::MemberSet(payload::MemberSet {
                actor: ACTORS[5 + usize::from(a)],
                member: b != 0,
                subject: user(b).0.into(),
                x25519: B256::repeat_byte(1),
            }),
        ),
        9..=11 => (
            ADMIN,
            Entry::UserAdd(payload::UserAdd { r: r.into(), login: format!("u{a}"), displayName: String::new() }),
        ),
        12 => (ADMIN, Entry::GroupAdd(payload::GroupAdd { r: r.into(), name: format!("u{b}") })),
        13 => (
            ADMIN,
            Entry::HostAdd(payload::HostAdd {
                r: r.into(),
                name: "h".into(),
                owner: [0; 16].into(),
                hostKey: Bytes::new(),
            }),
        ),
        14 => (ADMIN, Entry::LabelAdd(payload::LabelAdd { r: r.into(), target: user(b).0.into(), label: "l".into() })),
        15 | 16 => (
            actor,
            Entry::KeyAdd(payload::KeyAdd {
                r: [a * 4 + b; 16].into(),
                user: user(a).0.into(),
                publicKey: key_blob(a),
                purposes: 1,
                notAfter: 0,
                comment: String::new(),
            }),
        ),
        17 | 18 => (
            ADMIN,
            Entry::GrantAdd(payload::GrantAdd {
                r: r.into(),
                ..grant("g", if b == 3 { id(Kind::GROUP_ADD, a) } else { user(b) })
            }),
        ),
        19 => (
            ADMIN,
            Entry::GroupMemberAdd(payload::GroupMemberAdd {
                r: r.into(),
                group: id(Kind::GROUP_ADD, a).0.into(),
                user: user(b).0.into(),
            }),
        ),
        20 => (
            actor,
            Entry::Remove(vec![match b {
                0 => user(a),
                1 => id(Kind::GRANT_ADD, a),
                2 => id(Kind::GROUP_MEMBER_ADD, a),
                _ => id(Kind::GROUP_ADD, a),
            }]),
        ),
        21 => (actor, Entry::Confirm(vec![user(a), id(Kind::GRANT_ADD, b)])),
        22 | 23 => (REVOKER, Entry::Lock(targets(op))),
        24 => (REVOKER, Entry::CaRetire(vec![id(Kind::CA_ADD, a)])),
        25 => (REVOKER, Entry::CaTighten(limits(op))),
        26 => (REVOKER, Entry::SettingsTighten(settings(&[(u16::from(a) + u16::from(b), u64::from(b))]))),
        27 => (actor, Entry::CertRevoke { ca: id(Kind::CA_ADD, a), serials: vec![u64::from(b)] }),
        28 => (
            ISSUER,
            Entry::Batch(payload::Batch {
                r: r.into(),
                ca: id(Kind::CA_ADD, b).0.into(),
                root: B256::ZERO,
                size: u32::from(a),
                notAfter: 0,
                leavesCid: Bytes::new(),
            }),
        ),
        29 => (
            WATCHDOG,
            Entry::Countersign(payload::Countersign {
                batch: sign::record_id(Kind::BATCH, ISSUER, r).0.into(),
                entryHash: B256::ZERO,
            }),
        ),
        30 => (
            actor,
            Entry::Request(payload::Request {
                r: r.into(),
                user: user(b).0.into(),
                host: [0; 16].into(),
                login: "deploy".into(),
                ttl: 60,
                publicKey: key_blob(1),
                reason: String::new(),
            }),
        ),
        31 => (
            APPROVER,
            Entry::Approve(payload::Approve {
                request: sign::record_id(Kind::REQUEST, ALICE, r).0.into(),
                approvalHash: B256::ZERO,
            }),
        ),
        32 => (APPROVER, Entry::Deny(sign::record_id(Kind::REQUEST, ALICE, r))),
        _ => (
            actor,
            Entry::Delivery(payload::Delivery {
                r: r.into(),
                recipient: DEVICE,
                payloadName: "n".into(),
                payloadKind: a,
                digest: B256::ZERO,
                sealedCid: Bytes::from_static(b"cid"),
            }),
        ),
    }
}

/// Writes the ops after what the log holds; returns the last block.
pub(crate) fn write(log: &mut Log, from: u64, ops: &[Op]) -> u64 {
    let mut block = from;
    for op in ops {
        block += op.step;
        let (actor, entry) = entry(op);
        match op.bend {
            None => {
                log.add(block, actor, &entry);
            }
            Some((position, mask)) => {
                let mut data = entry.encode().to_vec();
                let position = usize::from(position) % data.len();
                data[position] ^= mask;
                let class = shard::class_of_kind(entry.kind()).unwrap();
                log.add_raw(block, actor, entry.kind(), shard::shard(class, 0), data.into());
            }
        }
    }
    block
}

/// What a view allows, as facts that can be compared one by one.
pub(crate) fn allowed(view: &Effective) -> BTreeSet<String> {
    // What belongs to a user or host that is locked or revoked allows nothing.
    let active = |id: &Id| {
        view.users.get(id).is_none_or(|user| user.state == State::Active)
            && view.hosts.get(id).is_none_or(|host| host.state == State::Active)
    };
    let mut facts = BTreeSet::new();
    facts.extend(view.users.iter().filter(|(_, user)| user.state == State::Active).map(|(id, _)| format!("user {id}")));
    facts.extend(view.hosts.iter().filter(|(_, host)| host.state == State::Active).map(|(id, _)| format!("host {id}")));
    facts.extend(
        view.keys
            .iter()
            .filter(|key| key.state == State::Active && active(&key.user))
            .map(|key| format!("key {} {}", key.user, key.fingerprint)),
    );
    facts.extend(
        view.group_members
            .iter()
            .filter(|(_, user)| active(user))
            .map(|(group, user)| format!("member {group} {user}")),
    );
    for (id, grant) in &view.grants {
        let (Subject::User(subject) | Subject::Group(subject)) = &grant.subject;
        if !active(subject) {
            continue;
        }
        let hosts = match &grant.target {
            GrantTarget::Hosts(hosts) => hosts.iter().map(ToString::to_string).collect(),
            other => vec![format!("{other:?}")],
        };
        for bit in [1, 2].into_iter().filter(|bit| grant.via & bit != 0) {
            facts.extend(hosts.iter().map(|host| format!("grant {id} {bit} {host}")));
        }
    }
    for (id, ca) in view.cas.iter().filter(|(_, ca)| ca.state == CaState::Active) {
        facts.insert(format!("ca {id}"));
        facts.extend(ca.limits.issuers.iter().map(|issuer| format!("ca {id} issuer {issuer}")));
        facts.extend((1..=(ca.limits.max_ttl / 100).min(9)).map(|ttl| format!("ca {id} ttl {ttl}")));
        facts.extend(
            ["deploy", "root"]
                .iter()
                .filter(|login| ca.limits.allows_login(login))
                .map(|login| format!("ca {id} login {login}")),
        );
    }
    for (address, actor) in &view.actors {
        let roles = Roles::NAMED.iter().filter(|(_, bit)| actor.roles & bit & !Roles::MEMBER != 0);
        facts.extend(roles.map(|(name, _)| format!("{address} {name}")));
        let subject = actor.subject.filter(|subject| !actor.locked && active(subject));
        facts.extend(subject.map(|subject| format!("{address} is {subject}")));
    }
    let settings = &view.settings;
    facts.extend((!settings.require_logged).then(|| "unlogged".to_owned()));
    facts.extend((1..=settings.max_ttl.min(9)).map(|ttl| format!("ttl {ttl}")));
    facts.extend((1..=settings.pickup.min(9)).map(|pickup| format!("pickup {pickup}")));
    facts.extend((settings.countersign_quorum..9).map(|quorum| format!("quorum {quorum}")));
    facts
}

/// What a view denies whatever else it says.
pub(crate) fn denied(view: &Effective) -> BTreeSet<String> {
    let mut facts = BTreeSet::new();
    facts.extend(view.locked_keys.iter().map(|key| format!("locked {key}")));
    facts.extend(view.revoked_keys.iter().map(|key| format!("revoked {key}")));
    facts.extend(view.locked_batches.iter().map(|batch| format!("batch {batch}")));
    facts.extend(view.actors.iter().filter(|(_, actor)| actor.locked).map(|(address, _)| format!("actor {address}")));
    for (ca, serials) in &view.revoked_serials {
        facts.extend(serials.iter().map(|serial| format!("serial {ca} {serial}")));
    }
    facts.extend(view.cas.iter().filter(|(_, ca)| ca.state != CaState::Active).map(|(id, _)| format!("ca {id}")));
    facts.extend(view.users.iter().filter(|(_, user)| user.state != State::Active).map(|(id, _)| format!("user {id}")));
    facts
}

fn look(replay: &mut Replay, latest: u64, log: &Log) -> Effective {
    replay.effective(block(latest), &log.upto(latest)).unwrap()
}

fn fork(base: &Log, from: u64, ops: &[Op]) -> (Log, u64) {
    let mut log = base.clone();
    let last = write(&mut log, from + 1, ops);
    (log, last)
}

/// The order in which entries of one block are fed says nothing.
fn shuffled(mut entries: Vec<PlacedEntry>, seed: u64) -> Vec<PlacedEntry> {
    entries.sort_by_key(|placed| (placed.at.index ^ seed, placed.at.shard.wrapping_mul(seed | 1), placed.at.block));
    entries
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_in_any_shard_are_replayed_without_a_panic(
        raw in prop::collection::vec((0..3_u64, 0..ACTORS.len(), any::<u16>(), 0..9_u64, prop::collection::vec(any::<u8>(), 0..300)), 1..40),
        known in ops(20),
    ) {
        let mut log = cast();
        let mut block_number = write(&mut log, 2, &known);
        for (step, actor, kind, class, data) in raw {
            block_number += step;
            // Half of the kinds are ones that mean something in the shard.
            let kind = if kind & 1 == 0 { Kind::NAMED[usize::from(kind) % Kind::NAMED.len()].1 } else { Kind(kind) };
            let class = shard::class_of_kind(kind).map_or(class, u64::from);
            log.add_raw(block_number, ACTORS[actor], kind, class << 32, data.into());
        }
        let mut replay = log.replayed(block_number / 2);
        match replay.effective(block(block_number), &log.upto(block_number)) {
            Ok(_) | Err(ReplayError::UpgradeNeeded { .. }) => {}
            Err(other) => prop_assert!(false, "{other}"),
        }
        prop_assert!(replay.advance(block(block_number), &log.upto(block_number)).is_ok());
    }

    #[test]
    fn it_does_not_matter_in_which_steps_and_order_entries_are_fed(history in ops(60), cuts in prop::collection::vec(0..90_u64, 0..5), seed in any::<u64>()) {
        let mut log = cast();
        let last = write(&mut log, 2, &history);
        let at_once = log.views(last, last);
        let mut cuts: Vec<u64> = cuts.into_iter().filter(|cut| *cut < last).collect();
        cuts.sort_unstable();
        cuts.push(last);
        let mut replay = Replay::new(REALM);
        for cut in cuts {
            look(&mut replay, last, &log);
            let restarted: Replay = postcard::from_bytes(&postcard::to_stdvec(&replay).unwrap()).unwrap();
            replay = restarted;
            replay.advance(block(cut), &shuffled(log.upto(cut), seed)).unwrap();
        }
        prop_assert_eq!(look(&mut replay, last, &log), at_once);
    }

    #[test]
    fn day_and_period_shards_may_be_read_late(history in ops(60)) {
        let mut log = cast();
        let last = write(&mut log, 2, &history);
        let (governing, dated): (Vec<_>, Vec<_>) = log.upto(last).into_iter().partition(|placed| placed.at.shard >> 32 < 3);
        let mut replay = Replay::new(REALM);
        replay.advance(block(last), &governing).unwrap();
        replay.advance(block(last), &dated).unwrap();
        let mut late = look(&mut replay, last, &log);
        let mut straight = log.views(last, last);
        for view in [&mut late, &mut straight] {
            view.ignored.sort_by_key(|ignored| (ignored.at, ignored.reason));
        }
        prop_assert_eq!(late, straight);
    }

    #[test]
    fn a_latest_view_never_allows_more_than_the_final_view_nor_than_it_will_itself_once_final(history in ops(50), suffix in ops(30)) {
        let mut log = cast();
        let fin = write(&mut log, 2, &history);
        let (log, last) = fork(&log, fin, &suffix);
        let both = allowed(&log.views(fin, last));
        let final_only = allowed(&log.views(fin, fin));
        let eventually = allowed(&log.views(last, last));
        prop_assert!(both.is_subset(&final_only), "{:?}", both.difference(&final_only).collect::<Vec<_>>());
        prop_assert!(both.is_subset(&eventually), "{:?}", both.difference(&eventually).collect::<Vec<_>>());
    }

    #[test]
    fn a_reorg_only_makes_a_view_stricter(history in ops(50), first in ops(20), second in ops(20)) {
        let mut base = cast();
        let fin = write(&mut base, 2, &history);
        let (old, old_last) = fork(&base, fin, &first);
        let (new, new_last) = fork(&base, fin, &second);
        let mut replay = base.replayed(fin);
        let before = allowed(&look(&mut replay, old_last, &old));
        let after = allowed(&look(&mut replay, new_last, &new));
        let fresh = allowed(&new.views(fin, new_last));
        prop_assert!(after.is_subset(&before), "{:?}", after.difference(&before).collect::<Vec<_>>());
        prop_assert!(after.is_subset(&fresh), "{:?}", after.difference(&fresh).collect::<Vec<_>>());
        // Once the new history is final and 64 blocks old, nothing is left of the old one.
        let end = new_last.max(old_last) + 64;
        replay.advance(block(end), &new.upto(new_last)).unwrap();
        prop_assert_eq!(allowed(&look(&mut replay, end, &new)), allowed(&new.views(end, end)));
    }

    #[test]
    fn no_entry_but_an_unlock_or_a_restore_takes_back_a_denial(history in ops(60), more in lifts_nothing()) {
        let mut log = cast();
        let last = write(&mut log, 2, &history);
        let before = log.views(last, last);
        let (log, last) = fork(&log, last, &[more]);
        let after = denied(&log.views(last, last));
        let before = denied(&before);
        // Waiting users that are voided with their writer are not shown either.
        let shown: BTreeMap<Id, State> = log.views(last, last).users.iter().map(|(id, user)| (*id, user.state)).collect();
        let lost: Vec<&String> = before.difference(&after).filter(|fact| {
            fact.strip_prefix("user ").is_none_or(|id| shown.contains_key(&id.parse().unwrap()))
        }).collect();
        prop_assert!(lost.is_empty(), "{lost:?}");
    }
}
