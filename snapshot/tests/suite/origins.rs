//! The file of origins, read by a script that knows the page of the specification and none of our code.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use countersign_certificate::{Fingerprint20, Id, RealmId, Serial};
use countersign_snapshot::{ORIGINS_NAME, Origin, OriginOf, write_origins};
use serde_json::{Value, json};

fn read(file: &Path) -> Output {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/origins.py");
    Command::new("python3").arg(script).arg(file).output().expect("python3 is installed")
}

#[test]
fn another_reader_finds_every_sort_of_origin_where_the_specification_says() {
    let folder = tempfile::tempdir().unwrap();
    let id = |byte| Id([byte; 16]);
    let key = Fingerprint20([0xfe; 20]);
    let hex = |id: Id| id.to_string();
    let answer = json!([hex(id(12)), 255, 1_800_000_000]);
    let cases: Vec<(OriginOf, &str, Value)> = vec![
        (OriginOf::User(id(1)), "user", json!([hex(id(1))])),
        (OriginOf::Grant(id(2)), "grant", json!([hex(id(2))])),
        (OriginOf::Membership(id(3), id(4)), "membership", json!([hex(id(3)), hex(id(4))])),
        (OriginOf::Key(key), "key", json!(["fe".repeat(20)])),
        (OriginOf::Ca(id(5)), "ca", json!([hex(id(5))])),
        (OriginOf::Batch(id(6)), "batch", json!([hex(id(6))])),
        (OriginOf::Request(id(7)), "request", json!([hex(id(7))])),
        (OriginOf::Answer(id(12), 255, 1_800_000_000), "answer", answer),
        (OriginOf::LockedKey(key), "key-lock", json!(["fe".repeat(20)])),
        (OriginOf::RevokedKey(key), "key-revocation", json!(["fe".repeat(20)])),
        (OriginOf::Locked(id(8)), "lock", json!([hex(id(8))])),
        (OriginOf::Revoked(id(9)), "revocation", json!([hex(id(9))])),
        (OriginOf::Removed(id(10)), "removal", json!([hex(id(10))])),
        (OriginOf::Retired(id(11)), "retirement", json!([hex(id(11))])),
        (OriginOf::Issuer(id(13)), "issuer-denial", json!([hex(id(13))])),
        // Last: these two are of one entry, and share a record.
        (OriginOf::Serial(id(14), Serial(5)), "certificate-revocation", json!([hex(id(14)), 5])),
        (OriginOf::Serial(id(14), Serial(u64::MAX)), "certificate-revocation", json!([hex(id(14)), u64::MAX])),
    ];
    let last = cases.len() - 2;
    let origin = |at: usize| {
        let at = at.min(last);
        let number = u64::try_from(at).unwrap();
        let time_secs = 1_800_000_000 + number;
        Origin { block: (1 << 40) + number, shard: (2 << 32) | number, index: u64::MAX - number, time_secs }
    };
    let (realm, host) = (RealmId([0xab; 32]), id(0xcd));
    let written = cases.iter().enumerate().map(|(at, (what, ..))| (*what, origin(at)));
    write_origins(folder.path(), &realm, host, written).unwrap();
    let file = folder.path().join(ORIGINS_NAME);
    let output = read(&file);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let records: Vec<Value> = (cases.iter().enumerate())
        .map(|(at, (what, name, key))| {
            assert_eq!(what.name(), *name, "the name that explain shows");
            let Origin { block, shard, index, time_secs } = origin(at);
            json!({"record": name, "key": key, "block": block, "shard": shard, "index": index, "time": time_secs})
        })
        .collect();
    assert_eq!(found, json!({"realm": "ab".repeat(32), "host": "cd".repeat(16), "records": records}));

    // It believes no more than our reader does.
    let whole = std::fs::read(&file).unwrap();
    for at in [0, 9, 20, 70, whole.len() - 1] {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        std::fs::write(&file, changed).unwrap();
        assert!(!read(&file).status.success(), "byte {at}");
    }
}
