//! Logs by numbers: entries of all sorts by a small cast, about a few records, so that they meet. For random logs, here and in
//! `tests/fuzz`, and what has to hold of them.

use std::collections::BTreeSet;

use countersign_registry::entries::{Entry, Kind, Roles, Targets, payload};
use countersign_registry::realm::{CaState, GrantTarget, State, Subject};
use countersign_registry::{Address, B256, Bytes, Effective, Fingerprint20, Id, shard, sign};

use super::support::*;

pub(crate) const ACTORS: [Address; 9] = [ROOTS, ADMIN, ADMIN_2, ISSUER, WATCHDOG, APPROVER, REVOKER, ALICE, DEVICE];

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
