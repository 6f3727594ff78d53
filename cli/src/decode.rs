//! What an entry says, as named fields: for the log, and for roots who read what they are asked to sign.
//!
//! Every field of every payload is here; nothing is left out because it is empty in most entries, or a signer would not see it.

use countersign_registry::entries::{Entry, Targets, payload};
use countersign_registry::{Id, U256};
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
}
