//! Payloads that are well-formed and say nothing that can be, each with the reason for which a host ignores it; and two sorts that
//! only look well-formed.

use alloy_primitives::{Address, U256};
use alloy_sol_types::SolValue;
use countersign_certificate::Id;
use countersign_registry::{
    Kind,
    entries::{Entry, Targets, payload},
    replay::{IgnoreReason, setting},
    sign,
};

use crate::samples::{Facts, batch, blob, bytes, ca, limits, member, settings, user};

/// Makes a grant wrong.
type Alter<'a> = (&'a str, &'a dyn Fn(&mut payload::GrantAdd));

/// Names that are none.
fn names(max: usize) -> Vec<String> {
    let bad = ["", "Upper", "a b", "a/b", "../up", "a\n", "a\0", "é", "a:b", "$(id)"];
    bad.into_iter().map(String::from).chain(["a".repeat(max + 1)]).collect()
}

/// Well-formed payloads that say nothing that can be.
pub(crate) fn senseless(facts: &Facts, me: Address) -> Vec<(String, Entry, IgnoreReason)> {
    let mut all: Vec<(String, Entry, IgnoreReason)> = Vec::new();
    let mut number = 5000;
    let mut good = |kind: Kind| {
        number += 1;
        let by = if kind.class() == 0 { Address::ZERO } else { me };
        facts.good(kind, number, by).0
    };
    let unknown = Id([0xee; 16]);
    for bad in names(32).into_iter().chain(["-a".to_owned(), "1a".to_owned(), "a.b".to_owned(), "root:x".to_owned()]) {
        let mut add = |entry: Entry| all.push((format!("login {bad:?}"), entry, IgnoreReason::InvalidName));
        add(user(5999, &bad));
        add(Entry::GroupAdd(payload::GroupAdd { r: bytes(5999).into(), name: bad.clone() }));
        let Entry::GrantAdd(grant) = good(Kind::GRANT_ADD) else { unreachable!() };
        add(Entry::GrantAdd(payload::GrantAdd { logins: vec!["ok".into(), bad.clone()], ..grant }));
        let Entry::Request(request) = good(Kind::REQUEST) else { unreachable!() };
        add(Entry::Request(payload::Request { login: bad.clone(), ..request }));
        let mut ca = ca(5998, vec![]);
        ca.logins = vec![bad.clone()];
        add(Entry::CaAdd(ca));
        let logins = vec![bad.clone()];
        add(Entry::CaLoosen(payload::CaLimits { logins: logins.clone(), ..limits(facts.ca, 1) }));
        add(Entry::CaTighten(payload::CaLimits { logins, ..limits(facts.ca, 1) }));
    }
    for bad in names(63) {
        let mut add = |entry: Entry| all.push((format!("name {bad:?}"), entry, IgnoreReason::InvalidName));
        let Entry::LabelAdd(label) = good(Kind::LABEL_ADD) else { unreachable!() };
        add(Entry::LabelAdd(payload::LabelAdd { label: bad.clone(), ..label }));
        let Entry::PayloadNameAdd(name) = good(Kind::PAYLOAD_NAME_ADD) else { unreachable!() };
        add(Entry::PayloadNameAdd(payload::PayloadNameAdd { name: bad.clone(), ..name }));
        let Entry::Delivery(delivery) = good(Kind::DELIVERY) else { unreachable!() };
        add(Entry::Delivery(payload::Delivery { payloadName: bad.clone(), ..delivery }));
        let Entry::Envelope(envelope) = good(Kind::ENVELOPE) else { unreachable!() };
        add(Entry::Envelope(payload::Envelope { payloadName: bad.clone(), ..envelope }));
        let Entry::PublicData(public) = good(Kind::PUBLIC_DATA) else { unreachable!() };
        add(Entry::PublicData(payload::PublicData { name: bad.clone(), ..public }));
        let Entry::GrantAdd(grant) = good(Kind::GRANT_ADD) else { unreachable!() };
        add(Entry::GrantAdd(payload::GrantAdd { hosts: vec![], labels: vec![bad.clone()], ..grant }));
        let mut ca = ca(5997, vec![]);
        ca.name = bad.clone();
        add(Entry::CaAdd(ca));
    }
    for bad in names(253) {
        let Entry::HostAdd(host) = good(Kind::HOST_ADD) else { unreachable!() };
        let host = Entry::HostAdd(payload::HostAdd { name: bad.clone(), ..host });
        all.push((format!("host name {bad:?}"), host, IgnoreReason::InvalidName));
    }

    let cut = blob(5996)[..50].to_vec();
    let longer = [blob(5996), vec![0]].concat();
    for bad in [Vec::new(), b"ssh-ed25519 AAAA".to_vec(), cut, longer, vec![0xff; 400]] {
        let mut add = |entry: Entry| {
            all.push((format!("a key of {} bytes", bad.len()), entry, IgnoreReason::InvalidKey));
        };
        let Entry::KeyAdd(key) = good(Kind::KEY_ADD) else { unreachable!() };
        add(Entry::KeyAdd(payload::KeyAdd { publicKey: bad.clone().into(), ..key }));
        let Entry::Request(request) = good(Kind::REQUEST) else { unreachable!() };
        add(Entry::Request(payload::Request { publicKey: bad.clone().into(), ..request }));
        let mut ca = ca(5995, vec![]);
        ca.publicKey = bad.clone().into();
        add(Entry::CaAdd(ca));
        if !bad.is_empty() {
            let Entry::HostAdd(host) = good(Kind::HOST_ADD) else { unreachable!() };
            add(Entry::HostAdd(payload::HostAdd { hostKey: bad.clone().into(), ..host }));
        }
    }

    let Entry::GrantAdd(grant) = good(Kind::GRANT_ADD) else { unreachable!() };
    let hours = |weekday, from, to| vec![payload::Hours { weekday, from, to }];
    let alter: [Alter<'_>; 15] = [
        ("no login", &|grant| grant.logins.clear()),
        ("no target", &|grant| grant.hosts.clear()),
        ("two targets", &|grant| grant.allHosts = true),
        ("labels beside hosts", &|grant| grant.labels = vec!["a".into()]),
        ("via nothing", &|grant| grant.via = 0),
        ("via 4", &|grant| grant.via = 4),
        ("permits 32", &|grant| grant.permits = 32),
        ("an eighth weekday", &|grant| grant.intervals = hours(7, 0, 1)),
        ("hours that end before they begin", &|grant| grant.intervals = hours(0, 2, 1)),
        ("no hour", &|grant| grant.intervals = hours(0, 5, 5)),
        ("hours beyond the day", &|grant| grant.intervals = hours(0, 5, 1441)),
        ("a command of two lines", &|grant| grant.forcedCommand = "a\nb".into()),
        ("a command of 1025 bytes", &|grant| grant.forcedCommand = "a".repeat(1025)),
        ("an address that is none", &|grant| grant.sourceAddresses = vec!["localhost".into()]),
        ("an address with bits beyond its mask", &|grant| grant.sourceAddresses = vec!["10.0.0.1/8".into()]),
    ];
    for (name, alter) in alter {
        let mut altered = grant.clone();
        alter(&mut altered);
        all.push((format!("grant: {name}"), Entry::GrantAdd(altered), IgnoreReason::InvalidGrant));
    }

    let ids = [unknown, facts.gone].map(|id| id.0);
    for id in ids {
        let mut add = |entry: Entry| {
            all.push((format!("a reference to {}", Id(id)), entry, IgnoreReason::UnknownReference));
        };
        add(Entry::GrantAdd(payload::GrantAdd { subject: id.into(), ..grant.clone() }));
        add(Entry::GrantAdd(payload::GrantAdd { hosts: vec![facts.host.0.into(), id.into()], ..grant.clone() }));
        let Entry::KeyAdd(key) = good(Kind::KEY_ADD) else { unreachable!() };
        add(Entry::KeyAdd(payload::KeyAdd { user: id.into(), ..key }));
        let Entry::LabelAdd(label) = good(Kind::LABEL_ADD) else { unreachable!() };
        add(Entry::LabelAdd(payload::LabelAdd { target: id.into(), ..label }));
        let Entry::HostAdd(host) = good(Kind::HOST_ADD) else { unreachable!() };
        add(Entry::HostAdd(payload::HostAdd { owner: id.into(), ..host }));
        let Entry::GroupMemberAdd(in_group) = good(Kind::GROUP_MEMBER_ADD) else { unreachable!() };
        add(Entry::GroupMemberAdd(payload::GroupMemberAdd { user: id.into(), ..in_group.clone() }));
        add(Entry::GroupMemberAdd(payload::GroupMemberAdd { group: id.into(), ..in_group }));
        add(member(Address::repeat_byte(0x71), Id(id)));
        add(Entry::CaLoosen(limits(Id(id), 1)));
    }

    let Entry::Request(request) = good(Kind::REQUEST) else { unreachable!() };
    let mut no_leaves = batch(5990, facts.ca);
    no_leaves.size = 0;
    let mut purposeless = [ca(5991, vec![]), ca(5992, vec![])];
    (purposeless[0].purpose, purposeless[1].purpose) = (0, 3);
    let restore = |kind: Kind, id: Id, name: &str, uid: u32| {
        Entry::Restore(payload::Restore { kind: kind.0, id: id.0.into(), name: name.into(), uid })
    };
    let mismatch = IgnoreReason::RestoreMismatch;
    let setting = |item| Entry::Settings(settings(&[item]));
    let tighten = |item| Entry::SettingsTighten(settings(&[item]));
    let (acknowledged, _) = facts.good(Kind::ACKNOWLEDGE, 5989, me);
    let others: Vec<(&str, Entry, IgnoreReason)> = vec![
        ("for no time", Entry::Request(payload::Request { ttl: 0, ..request.clone() }), IgnoreReason::InvalidValue),
        (
            "for another user",
            Entry::Request(payload::Request { user: facts.gone.0.into(), ..request }),
            IgnoreReason::NotBound,
        ),
        ("no leaves", Entry::Batch(no_leaves), IgnoreReason::InvalidValue),
        ("purpose 0", Entry::CaAdd(purposeless[0].clone()), IgnoreReason::InvalidLimits),
        ("purpose 3", Entry::CaAdd(purposeless[1].clone()), IgnoreReason::InvalidLimits),
        (
            "another CA's key",
            Entry::CaAdd(payload::CaAdd { r: bytes(5993).into(), ..ca(7, vec![]) }),
            IgnoreReason::CaKeyTaken,
        ),
        (
            "a CA's id again",
            Entry::CaAdd(payload::CaAdd { r: bytes(7).into(), ..ca(5994, vec![]) }),
            IgnoreReason::DuplicateId,
        ),
        ("not as it was named", restore(Kind::USER_ADD, facts.gone, "other", 1_900_000_002), mismatch),
        ("another uid", restore(Kind::USER_ADD, facts.gone, "gone", 0), mismatch),
        ("a group", restore(Kind::GROUP_ADD, facts.gone, "gone", 1_900_000_002), mismatch),
        ("who is there", restore(Kind::USER_ADD, facts.user, "alice", 1_900_000_000), IgnoreReason::NothingToRestore),
        ("who never was", restore(Kind::USER_ADD, unknown, "a", 0), IgnoreReason::UnknownReference),
        ("what is not locked", Entry::Unlock(Targets::Hosts(vec![unknown])), IgnoreReason::NothingLocked),
        ("an actor that is not locked", Entry::Unlock(Targets::Actors(vec![me])), IgnoreReason::NothingLocked),
        ("a key without meaning", setting((99, 1)), IgnoreReason::SettingUnknown),
        ("a value out of range", setting((setting::MAX_STALENESS, 1)), IgnoreReason::SettingOutOfRange),
        ("a uid base, late", setting((setting::UID_BASE, 100_000)), IgnoreReason::UidBaseFixed),
        ("a key without meaning", tighten((99, 1)), IgnoreReason::SettingUnknown),
        ("looser", tighten((setting::MAX_TTL, 86_401)), IgnoreReason::SettingNotStricter),
        ("what does not wait", Entry::Confirm(vec![facts.user]), IgnoreReason::NothingWaits),
        ("a name that is taken", user(5988, "alice"), IgnoreReason::NameTaken),
        ("the name of one who is gone", user(5987, "gone"), IgnoreReason::NameTaken),
        ("acknowledged twice", acknowledged.clone(), IgnoreReason::DuplicateId),
    ];
    all.extend(others.into_iter().map(|(name, entry, reason)| (name.to_owned(), entry, reason)));
    all
}

/// An array of a hundred names that are one and the same: small on the ledger, large in memory.
pub(crate) fn aliased(facts: &Facts) -> Vec<u8> {
    let number = |value: usize| U256::from(value).to_be_bytes::<32>();
    let (count, name) = (100, [b'a'; 608]);
    let mut ca = [0; 32];
    ca[..16].copy_from_slice(&facts.ca.0);
    let names = number(32 * count);
    let mut payload = [number(32), ca, number(1), number(4 * 32), number(4 * 32 + 32 + 32 * count + 32 + 608)].concat();
    payload.extend([number(count), names].concat());
    payload.extend(names.repeat(count - 1));
    payload.extend([&number(608)[..], &name, &number(0)].concat());
    sign::clear(&payload).to_vec()
}

/// Payloads of UNLOCK and REVOKE, which hold those of other kinds.
pub(crate) fn nested() -> Vec<(Kind, &'static str, Vec<u8>)> {
    // Both are (uint16, bytes).
    let with = |of: Kind, name: &'static str, kind: Kind, targets: &[u8]| {
        let payload = payload::Unlock { kind: kind.0, targets: targets.to_vec().into() }.abi_encode();
        (of, name, sign::clear(&payload).to_vec())
    };
    let mut all = Vec::new();
    for of in [Kind::UNLOCK, Kind::REVOKE] {
        all.push(with(of, "no target", Kind::KEY_LOCK, &[]));
        all.push(with(of, "a byte of a target", Kind::KEY_LOCK, &[1]));
        all.push(with(of, "21 bytes for a key", Kind::KEY_LOCK, &[1; 21]));
        all.push(with(of, "20 bytes for a user", Kind::USER_LOCK, &[1; 20]));
        all.push(with(of, "what no lock is for", Kind::CA_RETIRE, &[1; 16]));
        all.push(with(of, "kind 0", Kind::ROOT_SET, &[1; 16]));
    }
    all.push(with(Kind::REVOKE, "actors", Kind::ACTOR_LOCK, &[1; 20]));
    all.push(with(Kind::REVOKE, "batches", Kind::BATCH_LOCK, &[1; 16]));
    all
}
