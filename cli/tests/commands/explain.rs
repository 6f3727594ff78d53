//! `countersign explain` about plain keys: the entries behind each fact, and behind each sort of denial. From a log that stands here;
//! no chain runs. About certificates: `certificates`.

mod certificates;

use std::path::Path;

use countersign_compile::{HostView, compile, origins};
use countersign_registry::entries::{Entry, Kind, Targets, payload};
use countersign_registry::head::{LogEntry, Meta, PlacedEntry};
use countersign_registry::realm::{BlockRef, EntryRef};
use countersign_registry::{Address, B256, Bytes, Fingerprint20, Id, Replay, shard, sign};
use countersign_snapshot::{Clock, Freshness, PublishInfo, Salt, publish, write_origins};
use serde_json::{Value, json};

use crate::bed::{countersign, documented};

const REALM: B256 = B256::repeat_byte(0xee);
const KEY_LINE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH";

fn key_blob() -> Bytes {
    [b"\0\0\0\x0bssh-ed25519\0\0\0\x20".as_slice(), &[7; 32]].concat().into()
}

/// Entries, one in each block from 101 on.
struct Log {
    entries: Vec<PlacedEntry>,
    begun_secs: u64,
}

impl Log {
    fn time(&self, block: u64) -> u64 {
        self.begun_secs.saturating_add(block)
    }

    /// Appends what the roots write, and returns where it stands.
    fn add(&mut self, entry: &Entry) -> EntryRef {
        self.add_by(Address::ZERO, entry)
    }

    fn add_by(&mut self, actor: Address, entry: &Entry) -> EntryRef {
        let block = u64::try_from(self.entries.len()).unwrap().saturating_add(101);
        let (kind, time) = (entry.kind(), self.time(block));
        let shard = shard::shard(shard::class_of_kind(kind).unwrap(), 0);
        let index = self.entries.iter().filter(|placed| placed.at.shard == shard).count();
        let at = EntryRef { block, shard, index: u64::try_from(index).unwrap(), time };
        let meta = Meta { kind, prev_block: 0, time }.pack();
        let entry = LogEntry { shard, actor, meta, data: entry.encode() };
        self.entries.push(PlacedEntry { at, entry });
        at
    }

    /// Publishes what `host` would have, as its agent does.
    fn publish(&self, host: Id, directory: &Path) {
        let clock = Clock::now().unwrap();
        let end = BlockRef { number: 200, time: self.time(200) };
        let mut replay = Replay::new(REALM);
        replay.advance(end, &self.entries).unwrap();
        let effective = replay.effective(end, &[]).unwrap();
        assert!(effective.ignored.is_empty(), "{:?}", effective.ignored);
        let compiled = compile(&effective, &HostView { host, allow_root: false, max_staleness_secs: None });
        let info = PublishInfo {
            freshness: Freshness {
                valid_until_secs: compiled.valid_until_secs,
                boot_id: clock.boot_id,
                boottime_secs: clock.boottime_secs,
                age_consumed_secs: clock.unix_secs.saturating_sub(end.time),
                max_staleness_secs: compiled.max_staleness_secs,
                highest_wall_secs: clock.unix_secs,
            },
            facts: compiled.facts.clone(),
            salt: Salt([7; 16]),
            access_group: None,
            now_unix_secs: clock.unix_secs,
        };
        publish(directory, &compiled.access, &compiled.accounts, &info).unwrap();
        write_origins(directory, &compiled.facts.realm, host, origins(&effective)).unwrap();
    }
}

struct Cast {
    log: Log,
    alice: Id,
    group: Id,
    host: Id,
    key: Id,
    grant: Id,
}

/// Alice, in a group whose plain keys lead into `deploy` on one host: entries in blocks 101 to 106.
fn cast() -> Cast {
    let mut log = Log { entries: Vec::new(), begun_secs: Clock::now().unwrap().unix_secs.saturating_sub(260) };
    let id = |kind, byte| sign::record_id(kind, Address::ZERO, [byte; 16]);
    let r = |byte: u8| [byte; 16].into();
    let alice = id(Kind::USER_ADD, 1);
    let group = id(Kind::GROUP_ADD, 2);
    let host = id(Kind::HOST_ADD, 3);
    log.add(&Entry::UserAdd(payload::UserAdd { r: r(1), login: "alice".into(), displayName: String::new() }));
    log.add(&Entry::GroupAdd(payload::GroupAdd { r: r(2), name: "engineers".into() }));
    log.add(&Entry::HostAdd(payload::HostAdd {
        r: r(3),
        name: "web1".into(),
        owner: [0; 16].into(),
        hostKey: Bytes::new(),
    }));
    log.add(&Entry::GroupMemberAdd(payload::GroupMemberAdd { r: r(4), group: group.0.into(), user: alice.0.into() }));
    log.add(&Entry::KeyAdd(payload::KeyAdd {
        r: r(5),
        user: alice.0.into(),
        publicKey: key_blob(),
        purposes: 1,
        notAfter: 0,
        comment: String::new(),
    }));
    log.add(&Entry::GrantAdd(payload::GrantAdd {
        r: r(6),
        subject: group.0.into(),
        hosts: vec![host.0.into()],
        labels: vec![],
        allHosts: false,
        logins: vec!["deploy".into()],
        via: 2,
        maxTtl: 0,
        approvals: 0,
        forcedCommand: String::new(),
        sourceAddresses: vec![],
        intervals: vec![],
        notAfter: 0,
        permits: 1,
    }));
    let (key, grant) = (id(Kind::KEY_ADD, 5), id(Kind::GRANT_ADD, 6));
    Cast { log, alice, group, host, key, grant }
}

fn explain(cast: &Cast, login: &str, format: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    cast.log.publish(cast.host, folder.path());
    explain_in(folder.path(), login, format)
}

fn explain_in(folder: &Path, login: &str, format: &str) -> String {
    explain_line(folder, KEY_LINE, login, format)
}

fn explain_line(folder: &Path, line: &str, login: &str, format: &str) -> String {
    std::fs::write(folder.join("key.pub"), line).unwrap();
    let ran =
        countersign(folder, &["--format", format, "explain", "key.pub", "--login", login, "--snapshot", "."], &[]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    ran.stdout
}

fn explained(cast: &Cast, login: &str) -> Value {
    let value = serde_json::from_str(&explain(cast, login, "json")).unwrap();
    documented(&value);
    value
}

#[test]
fn each_fact_of_a_granted_login_names_the_entry_that_it_comes_from() {
    let cast = cast();
    let granted = explained(&cast, "deploy");
    assert_eq!(
        (&granted["reason"], &granted["because"], &granted["origins-problem"]),
        (&json!("granted"), &json!([]), &json!(null))
    );
    let entries = |step: &str| {
        let fact = granted["facts"].as_array().unwrap().iter().find(|fact| fact["step"] == step);
        fact.unwrap_or_else(|| panic!("no {step} in {granted}"))["entries"].clone()
    };
    let entry = |record: &str, id: String, block: u64, index: u64| {
        let (shard, time) = (1_u64 << 32, cast.log.time(block));
        json!({"record": record, "id": id, "block": block, "shard": shard, "index": index, "time": time})
    };
    let fingerprint = Fingerprint20::of_blob(&key_blob()).to_string();
    assert_eq!(entries("key"), json!([entry("key", fingerprint, 105, 4)]));
    assert_eq!(entries("user"), json!([entry("user", cast.alice.to_string(), 101, 0)]));
    let grant = [entry("grant", cast.grant.to_string(), 106, 5), entry("membership", cast.group.to_string(), 104, 3)];
    assert_eq!(entries("grant"), json!(grant));
    assert_eq!(entries("key-not-denied"), json!([]));

    let text = explain(&cast, "deploy", "text");
    let grant = format!("\n     grant {}: block 106, entry 4294967296/5\n", cast.grant);
    assert!(text.contains(&grant), "{text}");
}

/// An entry as it is shown.
fn source(record: &str, id: &str, at: EntryRef) -> Value {
    json!({"record": record, "id": id, "block": at.block, "shard": at.shard, "index": at.index, "time": at.time})
}

/// What is written; the reason, the sort of entry and the id that are shown.
type Case = (fn(&Cast) -> Entry, &'static str, &'static str, fn(&Cast) -> String);

#[test]
fn each_sort_of_denial_names_the_entry_that_did_it() {
    let cases: [Case; 6] = [
        (|cast| Entry::Lock(Targets::Users(vec![cast.alice])), "user-locked", "lock", |cast| cast.alice.to_string()),
        (
            |cast| Entry::Revoke(Targets::Users(vec![cast.alice])),
            "user-unknown",
            "revocation",
            |cast| cast.alice.to_string(),
        ),
        (
            |_| Entry::Lock(Targets::Keys(vec![Fingerprint20::of_blob(&key_blob())])),
            "key-locked",
            "key-lock",
            |_| Fingerprint20::of_blob(&key_blob()).to_string(),
        ),
        (
            |_| Entry::Revoke(Targets::Keys(vec![Fingerprint20::of_blob(&key_blob())])),
            "key-revoked",
            "key-revocation",
            |_| Fingerprint20::of_blob(&key_blob()).to_string(),
        ),
        (|cast| Entry::Lock(Targets::Hosts(vec![cast.host])), "host-locked", "lock", |cast| cast.host.to_string()),
        (|cast| Entry::Remove(vec![cast.host]), "host-unknown", "removal", |cast| cast.host.to_string()),
    ];
    for (denial, reason, record, id) in cases {
        let mut cast = cast();
        let denial = denial(&cast);
        let at = cast.log.add(&denial);
        let refused = explained(&cast, "deploy");
        assert_eq!((&refused["verdict"], &refused["reason"]), (&json!("refused"), &json!(reason)));
        assert_eq!(refused["because"], json!([source(record, &id(&cast), at)]), "{reason}");
        let text = explain(&cast, "deploy", "text");
        let EntryRef { block, shard, index, .. } = at;
        assert!(text.contains(&format!("{}: block {block}, entry {shard}/{index}\n", id(&cast))), "{text}");
    }
    // A key whose registration, or a grant that, was taken back is not found any more: nothing names it, and nothing is made up.
    let (key, grant) = (cast().key, cast().grant);
    for (removed, reason) in [(key, "key-unknown"), (grant, "no-grant")] {
        let mut cast = cast();
        cast.log.add(&Entry::Remove(vec![removed]));
        let refused = explained(&cast, "deploy");
        assert_eq!((&refused["reason"], &refused["because"]), (&json!(reason), &json!([])));
    }
}

#[test]
fn what_is_not_known_is_said_to_be_unknown_and_changes_no_verdict() {
    let mut cast = cast();
    cast.log.add(&Entry::Lock(Targets::Users(vec![cast.alice])));
    let folder = tempfile::tempdir().unwrap();
    cast.log.publish(cast.host, folder.path());
    let file = folder.path().join("origins");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[100] ^= 1;
    for damage in [Some(bytes), None] {
        match damage {
            Some(bytes) => std::fs::write(&file, bytes).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        let refused: Value = serde_json::from_str(&explain_in(folder.path(), "deploy", "json")).unwrap();
        assert_eq!(refused["reason"], "user-locked");
        assert!(refused["origins-problem"].is_string(), "{refused}");
        assert_eq!((&refused["because"][0]["record"], &refused["because"][0]["block"]), (&json!("lock"), &json!(null)));
        let text = explain_in(folder.path(), "deploy", "text");
        assert!(text.contains(&format!("lock {}: block unknown, entry unknown\n", cast.alice)), "{text}");
        assert!(text.contains("blocks and entries are not known: "), "{text}");
    }
}
