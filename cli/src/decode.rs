//! What an entry says, as named fields: for the log, and for roots who read what they are asked to sign.
//!
//! Every field of every payload is here; nothing is left out because it is empty in most entries, or a signer would not see it.

use countersign_registry::entries::{Entry, Targets, payload};
use countersign_registry::{Heads, Id, Place, U256};
use serde_json::{Map, Value, json};

use crate::files;
use crate::output::escape;
use crate::values;

/// The fields in the payload's order.
pub type Fields = Vec<(&'static str, Value)>;

/// The fields as one line of `name=value`, escaped.
pub fn one_line(entry: &Entry) -> String {
    let parts: Vec<String> =
        fields(entry).into_iter().map(|(name, value)| format!("{name}={}", plain(&value))).collect();
    escape(&parts.join(" "))
}

/// The fields as a JSON object.
pub fn object(entry: &Entry) -> Value {
    let map: Map<String, Value> = fields(entry).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Value::Object(map)
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) if is_word(text) => text.clone(),
        // Quoted, so that nothing in a text looks like another item or field.
        Value::String(text) => format!("{text:?}"),
        Value::Array(items) => format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:/@+-=".contains(&byte))
}

fn hex(bytes: impl AsRef<[u8]>) -> Value {
    Value::String(alloy_primitives::hex::encode(bytes))
}

fn key(blob: &[u8]) -> Value {
    if blob.is_empty() { Value::Null } else { Value::String(files::key_line(blob)) }
}

fn ids(ids: &[Id]) -> Value {
    ids.iter().map(Id::to_string).collect()
}

fn targets(targets: &Targets) -> Fields {
    let (sort, list): (&str, Value) = match targets {
        Targets::Keys(keys) => ("keys", keys.iter().map(ToString::to_string).collect()),
        Targets::Users(list) => ("users", ids(list)),
        Targets::Hosts(list) => ("hosts", ids(list)),
        Targets::Cas(list) => ("cas", ids(list)),
        Targets::Actors(list) => ("actors", list.iter().map(ToString::to_string).collect()),
        Targets::Batches(list) => ("batches", ids(list)),
    };
    vec![("sort", json!(sort)), ("targets", list)]
}

fn limits(limits: &payload::CaLimits) -> Fields {
    vec![
        ("ca", hex(limits.ca)),
        ("max-ttl", json!(limits.maxTtl)),
        ("logins", json!(limits.logins)),
        ("issuers", limits.issuers.iter().map(ToString::to_string).collect()),
    ]
}

fn settings(settings: &payload::Settings) -> Fields {
    let items: Value = settings
        .items
        .iter()
        .map(|item| {
            let name = values::SETTINGS.iter().find(|(_, number, _)| *number == item.key).map(|(name, ..)| *name);
            format!("{}={}", name.map_or_else(|| item.key.to_string(), str::to_owned), item.value)
        })
        .collect();
    vec![("items", items)]
}

/// The other realm of a move, and up to where the source's log counts.
fn crossing(other: &Place, until: &Heads) -> Fields {
    vec![
        ("chain-id", json!(other.chain_id)),
        ("genesis-hash", hex(other.genesis_hash)),
        ("contract", json!(other.contract.to_string())),
        ("code-hash", hex(other.code_hash)),
        ("realm", hex(other.realm)),
        ("block", json!(until.block)),
        ("heads", until.slots.iter().map(|(shard, slot)| format!("{shard:#x}={slot:#066x}")).collect()),
    ]
}

fn small(number: U256) -> Value {
    u64::try_from(number).map_or_else(|_| json!(number.to_string()), |number| json!(number))
}

/// Every field of the payload.
pub fn fields(entry: &Entry) -> Fields {
    match entry {
        Entry::RootSet(set) => {
            vec![("threshold", small(set.threshold)), ("roots", set.roots.iter().map(ToString::to_string).collect())]
        }
        Entry::RoleSet(set) => vec![
            ("actor", json!(set.actor.to_string())),
            ("roles", json!(values::role_names(set.roles))),
            ("x25519", hex(set.x25519)),
        ],
        Entry::CaAdd(ca) => vec![
            ("r", hex(ca.r)),
            ("purpose", json!(ca.purpose)),
            ("name", json!(ca.name)),
            ("public-key", key(&ca.publicKey)),
            ("max-ttl", json!(ca.maxTtl)),
            ("logins", json!(ca.logins)),
            ("issuers", ca.issuers.iter().map(ToString::to_string).collect()),
        ],
        Entry::CaLoosen(new) | Entry::CaTighten(new) => limits(new),
        Entry::Unlock(list) | Entry::Revoke(list) | Entry::Lock(list) => targets(list),
        Entry::Restore(restore) => vec![
            ("kind", json!(format!("{:#06x}", restore.kind))),
            ("id", hex(restore.id)),
            ("name", json!(restore.name)),
            ("uid", json!(restore.uid)),
        ],
        Entry::Migrate(to) => crossing(&to.target(), &to.until()),
        Entry::Migrated(from) => crossing(&from.source(), &from.until()),
        Entry::Settings(new) | Entry::SettingsTighten(new) => settings(new),
        Entry::MemberSet(set) => vec![
            ("actor", json!(set.actor.to_string())),
            ("member", json!(set.member)),
            ("subject", hex(set.subject)),
            ("x25519", hex(set.x25519)),
        ],
        Entry::UserAdd(user) => {
            vec![("r", hex(user.r)), ("login", json!(user.login)), ("display-name", json!(user.displayName))]
        }
        Entry::GroupAdd(group) => vec![("r", hex(group.r)), ("name", json!(group.name))],
        Entry::HostAdd(host) => vec![
            ("r", hex(host.r)),
            ("name", json!(host.name)),
            ("owner", hex(host.owner)),
            ("host-key", key(&host.hostKey)),
        ],
        Entry::LabelAdd(label) => {
            vec![("r", hex(label.r)), ("target", hex(label.target)), ("label", json!(label.label))]
        }
        Entry::KeyAdd(add) => vec![
            ("r", hex(add.r)),
            ("user", hex(add.user)),
            ("public-key", key(&add.publicKey)),
            ("purposes", json!(add.purposes)),
            ("not-after", json!(add.notAfter)),
            ("comment", json!(add.comment)),
        ],
        Entry::GrantAdd(grant) => grant_fields(grant),
        Entry::GroupMemberAdd(member) => {
            vec![("r", hex(member.r)), ("group", hex(member.group)), ("user", hex(member.user))]
        }
        Entry::PayloadNameAdd(name) => {
            vec![("r", hex(name.r)), ("name", json!(name.name)), ("payload-kind", json!(name.payloadKind))]
        }
        Entry::Remove(list) | Entry::Confirm(list) => vec![("ids", ids(list))],
        Entry::CaRetire(list) => vec![("cas", ids(list))],
        Entry::CertRevoke { ca, serials } => vec![
            ("ca", json!(ca.to_string())),
            // Serials have 64 bits, which not every reader of JSON keeps in a number.
            ("serials", serials.iter().map(ToString::to_string).collect()),
        ],
        Entry::Batch(batch) => vec![
            ("r", hex(batch.r)),
            ("ca", hex(batch.ca)),
            ("root", hex(batch.root)),
            ("size", json!(batch.size)),
            ("not-after", json!(batch.notAfter)),
            ("leaves-cid", hex(&batch.leavesCid)),
        ],
        Entry::Countersign(sign) => vec![("batch", hex(sign.batch)), ("entry-hash", hex(sign.entryHash))],
        Entry::Approve(approve) => {
            vec![("request", hex(approve.request)), ("approval-hash", hex(approve.approvalHash))]
        }
        Entry::Deny(request) => vec![("request", json!(request.to_string()))],
        Entry::Request(request) => vec![
            ("r", hex(request.r)),
            ("user", hex(request.user)),
            ("host", hex(request.host)),
            ("login", json!(request.login)),
            ("ttl", json!(request.ttl)),
            ("public-key", key(&request.publicKey)),
            ("reason", json!(request.reason)),
        ],
        Entry::Acknowledge(ack) => vec![("delivery", hex(ack.delivery)), ("digest", hex(ack.digest))],
        Entry::Delivery(delivery) => vec![
            ("r", hex(delivery.r)),
            ("recipient", json!(delivery.recipient.to_string())),
            ("payload-name", json!(delivery.payloadName)),
            ("payload-kind", json!(delivery.payloadKind)),
            ("digest", hex(delivery.digest)),
            ("sealed-cid", hex(&delivery.sealedCid)),
        ],
        Entry::Prekeys(prekeys) => vec![
            ("drop", json!(prekeys.drop == 1)),
            ("keys", prekeys.keys.iter().map(alloy_primitives::hex::encode).collect()),
        ],
        Entry::Envelope(envelope) => vec![
            ("r", hex(envelope.r)),
            ("payload-name", json!(envelope.payloadName)),
            ("payload-kind", json!(envelope.payloadKind)),
            ("index", hex(envelope.index)),
        ],
        Entry::PublicData(data) => {
            vec![("r", hex(data.r)), ("name", json!(data.name)), ("data", hex(&data.data))]
        }
        Entry::Enrol(enrol) => vec![
            ("actor", json!(enrol.actor.to_string())),
            ("x25519", hex(enrol.x25519)),
            ("name", json!(enrol.name)),
            ("host-key", key(&enrol.hostKey)),
            ("token-mac", hex(enrol.tokenMac)),
        ],
    }
}

fn grant_fields(grant: &payload::GrantAdd) -> Fields {
    let hours: Value =
        grant.intervals.iter().map(|hours| values::hours_text(hours.weekday, hours.from, hours.to)).collect();
    vec![
        ("r", hex(grant.r)),
        ("subject", hex(grant.subject)),
        ("hosts", grant.hosts.iter().map(alloy_primitives::hex::encode).collect()),
        ("labels", json!(grant.labels)),
        ("all-hosts", json!(grant.allHosts)),
        ("logins", json!(grant.logins)),
        ("via", json!(grant.via)),
        ("max-ttl", json!(grant.maxTtl)),
        ("approvals", json!(grant.approvals)),
        ("force-command", json!(grant.forcedCommand)),
        ("source-addresses", json!(grant.sourceAddresses)),
        ("hours", hours),
        ("not-after", json!(grant.notAfter)),
        ("permits", json!(values::permit_names(grant.permits))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::{Address, B128, B256};

    #[test]
    fn a_signer_reads_every_field_on_one_line() {
        let entry =
            Entry::RoleSet(payload::RoleSet { actor: Address::repeat_byte(0x11), roles: 3, x25519: B256::ZERO });
        assert_eq!(
            one_line(&entry),
            format!("actor=0x{} roles=[admin,issuer] x25519={}", "11".repeat(20), "00".repeat(32))
        );
    }

    #[test]
    fn two_entries_that_differ_never_read_the_same() {
        let add = |name: &str, logins: &[&str]| {
            let logins = logins.iter().map(|login| (*login).to_owned()).collect();
            one_line(&Entry::CaAdd(payload::CaAdd { name: name.into(), logins, ..Default::default() }))
        };
        let lines = [
            add("users", &["a", "b"]),
            add("users", &["a,b"]),
            add("users", &["a\",\"b"]),
            add("users", &[]),
            add("users", &[""]),
            add("users\u{a0}public-key=null", &[]),
            add("users\u{200b}", &[]),
            add("users\\u{200b}", &[]),
        ];
        let distinct: std::collections::BTreeSet<&String> = lines.iter().collect();
        assert_eq!(distinct.len(), lines.len(), "{lines:#?}");
        assert!(lines.iter().all(|line| line.is_ascii()), "{lines:#?}");
        let grant = |permits, weekday| {
            let intervals = vec![payload::Hours { weekday, from: 0, to: 60 }];
            one_line(&Entry::GrantAdd(payload::GrantAdd { permits, intervals, ..Default::default() }))
        };
        assert!(grant(0b10_0001, 7).contains("hours=[\"day7 00:00-01:00\"]"), "{}", grant(0b10_0001, 7));
        assert!(grant(0b10_0001, 7).contains("permits=[pty,permit5]"));
        assert_ne!(grant(1, 7), grant(1, 8));
    }

    #[test]
    fn text_from_the_ledger_is_quoted_and_escaped() {
        let entry = Entry::UserAdd(payload::UserAdd {
            r: B128::ZERO,
            login: "alice".into(),
            displayName: "A roles=[admin]\u{1b}[2J".into(),
        });
        assert_eq!(
            one_line(&entry),
            format!("r={} login=alice display-name=\"A roles=[admin]\\u{{1b}}[2J\"", "00".repeat(16))
        );
    }

    /// One entry of each kind that a threshold of roots may write, with what its signers must read.
    fn by_roots() -> Vec<(Entry, Vec<&'static str>)> {
        let id = |byte: u8| Id([byte; 16]);
        let b128 = |byte: u8| B128::repeat_byte(byte);
        let (one, two) = (Address::repeat_byte(0x11), Address::repeat_byte(0x22));
        let place = || Place {
            chain_id: 5,
            genesis_hash: B256::repeat_byte(0x11),
            contract: one,
            code_hash: B256::repeat_byte(0x22),
            realm: B256::repeat_byte(0x33),
        };
        let heads = || Heads { block: 7, slots: [(2_u64 << 32, U256::from(8))].into() };
        const ONE: &str = "0x1111111111111111111111111111111111111111";
        const TWO: &str = "0x2222222222222222222222222222222222222222";
        const THREE: &str = "33333333333333333333333333333333";
        const MOVE: [&str; 8] = [
            "chain-id=5",
            "genesis-hash=1111",
            ONE,
            "code-hash=2222",
            "realm=3333",
            "block=7",
            "0x200000000=0x",
            "08]",
        ];
        const FOUR: &str = "44444444444444444444444444444444";
        let limits =
            || payload::CaLimits { ca: b128(0x33), maxTtl: 77, logins: vec!["deploy".into()], issuers: vec![one] };
        let setting = || payload::Settings { items: vec![payload::Setting { key: 3, value: 2 }] };
        let fingerprint = countersign_registry::Fingerprint20([0x55; 20]);
        let users = || Targets::Users(vec![id(0x33), id(0x44)]);
        vec![
            (
                Entry::RootSet(payload::RootSet { threshold: U256::from(2), roots: vec![one, two] }),
                vec!["threshold=2", ONE, TWO],
            ),
            (
                Entry::RoleSet(payload::RoleSet { actor: one, roles: 5, x25519: B256::repeat_byte(0x33) }),
                vec![ONE, "roles=[admin,watchdog]", THREE],
            ),
            (
                Entry::CaAdd(payload::CaAdd {
                    r: b128(0x33),
                    purpose: 2,
                    name: "hosts".into(),
                    publicKey: vec![0x44; 16].into(),
                    maxTtl: 77,
                    logins: vec!["deploy".into()],
                    issuers: vec![one, two],
                }),
                vec!["purpose=2", "name=hosts", FOUR, "max-ttl=77", "logins=[deploy]", ONE, TWO],
            ),
            (Entry::CaLoosen(limits()), vec![THREE, "max-ttl=77", "logins=[deploy]", ONE]),
            (Entry::CaTighten(limits()), vec![THREE, "max-ttl=77", "logins=[deploy]", ONE]),
            (Entry::Unlock(users()), vec!["sort=users", THREE, FOUR]),
            (Entry::Revoke(Targets::Cas(vec![id(0x33)])), vec!["sort=cas", THREE]),
            (
                Entry::Restore(payload::Restore { kind: 0x0101, id: b128(0x33), name: "alice".into(), uid: 77 }),
                vec!["kind=0x0101", THREE, "name=alice", "uid=77"],
            ),
            (Entry::Migrate(payload::Migrate::new(&place(), &heads())), MOVE.to_vec()),
            (Entry::Migrated(payload::Migrated::new(&place(), &heads())), MOVE.to_vec()),
            (Entry::Settings(setting()), vec!["countersign-quorum=2"]),
            (Entry::SettingsTighten(setting()), vec!["countersign-quorum=2"]),
            (
                Entry::MemberSet(payload::MemberSet {
                    actor: one,
                    member: true,
                    subject: b128(0x33),
                    x25519: B256::repeat_byte(0x44),
                }),
                vec![ONE, "member=true", THREE, FOUR],
            ),
            (
                Entry::UserAdd(payload::UserAdd {
                    r: b128(0x33),
                    login: "alice".into(),
                    displayName: "Alice B".into(),
                }),
                vec!["login=alice", "\"Alice B\""],
            ),
            (Entry::GroupAdd(payload::GroupAdd { r: b128(0x33), name: "web".into() }), vec!["name=web"]),
            (
                Entry::HostAdd(payload::HostAdd {
                    r: b128(0x33),
                    name: "web1".into(),
                    owner: b128(0x44),
                    hostKey: vec![0x55; 4].into(),
                }),
                vec!["name=web1", FOUR, "55555555"],
            ),
            (
                Entry::LabelAdd(payload::LabelAdd { r: b128(0x11), target: b128(0x33), label: "web".into() }),
                vec![THREE, "label=web"],
            ),
            (
                Entry::KeyAdd(payload::KeyAdd {
                    r: b128(0x11),
                    user: b128(0x33),
                    publicKey: vec![0x55; 4].into(),
                    purposes: 1,
                    notAfter: 77,
                    comment: "laptop".into(),
                }),
                vec![THREE, "55555555", "purposes=1", "not-after=77", "comment=laptop"],
            ),
            (
                Entry::GrantAdd(payload::GrantAdd {
                    subject: b128(0x33),
                    hosts: vec![b128(0x44)],
                    labels: vec!["web".into()],
                    allHosts: true,
                    logins: vec!["deploy".into()],
                    via: 3,
                    maxTtl: 77,
                    approvals: 2,
                    forcedCommand: "uptime".into(),
                    sourceAddresses: vec!["10.0.0.0/8".into()],
                    notAfter: 78,
                    permits: 1,
                    ..Default::default()
                }),
                vec![
                    THREE,
                    FOUR,
                    "labels=[web]",
                    "all-hosts=true",
                    "logins=[deploy]",
                    "via=3",
                    "max-ttl=77",
                    "approvals=2",
                    "force-command=uptime",
                    "10.0.0.0/8",
                    "not-after=78",
                    "permits=[pty]",
                ],
            ),
            (
                Entry::GroupMemberAdd(payload::GroupMemberAdd { r: b128(0x11), group: b128(0x33), user: b128(0x44) }),
                vec![THREE, FOUR],
            ),
            (
                Entry::PayloadNameAdd(payload::PayloadNameAdd { r: b128(0x11), name: "ssh".into(), payloadKind: 2 }),
                vec!["name=ssh", "2"],
            ),
            (Entry::Remove(vec![id(0x33)]), vec![THREE]),
            (Entry::Confirm(vec![id(0x33)]), vec![THREE]),
            (
                Entry::Lock(Targets::Keys(vec![fingerprint])),
                vec!["sort=keys", "5555555555555555555555555555555555555555"],
            ),
            (Entry::Lock(users()), vec!["sort=users", THREE, FOUR]),
            (Entry::Lock(Targets::Hosts(vec![id(0x33)])), vec!["sort=hosts", THREE]),
            (Entry::Lock(Targets::Cas(vec![id(0x33)])), vec!["sort=cas", THREE]),
            (Entry::Lock(Targets::Actors(vec![two])), vec!["sort=actors", TWO]),
            (Entry::Lock(Targets::Batches(vec![id(0x33)])), vec!["sort=batches", THREE]),
            (Entry::CaRetire(vec![id(0x33)]), vec![THREE]),
            (Entry::CertRevoke { ca: id(0x33), serials: vec![7, 8] }, vec![THREE, "7", "8"]),
        ]
    }

    #[test]
    fn every_kind_that_roots_may_write_says_all_of_itself_before_it_is_signed() {
        use countersign_registry::entries::Kind;
        let entries = by_roots();
        let shown: std::collections::BTreeSet<u16> = entries.iter().map(|(entry, _)| entry.kind().0).collect();
        let named = Kind::NAMED.iter().filter(|(_, kind)| kind.0 < 0x0400);
        assert_eq!(shown, named.map(|(_, kind)| kind.0).collect());
        let mut lines = std::collections::BTreeSet::new();
        for (entry, said) in entries {
            let line = one_line(&entry);
            assert!(said.iter().all(|word| line.contains(word)), "{}: {said:?}: {line}", entry.kind());
            assert!(lines.insert(format!("{} {line}", entry.kind())));
        }
    }
}
