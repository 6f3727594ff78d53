//! Hashes, slots, digests and payloads against `tests/vectors/registry.json`, which `cast` computed (`docs/spec/registry.md`).
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a vector file of another shape is a failed test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use alloy_primitives::{Address, B256, Bytes, U256};
use countersign_registry::entries::{Entry, EntryError, Kind, Roles, payload};
use countersign_registry::head::{Fold, HeadError, LogEntry, Meta, Tip, genesis, last_block, next_slot};
use countersign_registry::sign::{self, Write};
use countersign_registry::signature::verify;
use countersign_registry::{Id, RealmPin};
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors")
}

fn vectors() -> Value {
    serde_json::from_slice(&std::fs::read(folder().join("registry.json")).unwrap()).unwrap()
}

fn list(value: &Value) -> &Vec<Value> {
    let items = value.as_array().unwrap();
    assert!(!items.is_empty());
    items
}

fn word(value: &Value) -> B256 {
    value.as_str().unwrap().parse().unwrap()
}

fn slot(value: &Value) -> U256 {
    word(value).into()
}

fn address(value: &Value) -> Address {
    value.as_str().unwrap().parse().unwrap()
}

fn bytes(value: &Value) -> Bytes {
    value.as_str().unwrap().parse().unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

fn kind(value: &Value) -> Kind {
    Kind(u16::try_from(number(value)).unwrap())
}

fn addresses(value: &Value) -> Vec<Address> {
    list(value).iter().map(address).collect()
}

fn writes(value: &Value) -> Vec<Write> {
    list(value)
        .iter()
        .map(|write| Write {
            shard: number(&write["shard"]),
            kind: kind(&write["kind"]).0,
            data: bytes(&write["data"]),
        })
        .collect()
}

fn entry(vector: &Value) -> LogEntry {
    LogEntry {
        shard: number(&vector["shard"]),
        actor: address(&vector["actor"]),
        meta: slot(&vector["meta"]),
        data: bytes(&vector["data"]),
    }
}

struct Place {
    chain_id: u64,
    contract: Address,
    realm: B256,
}

fn place(vectors: &Value) -> Place {
    Place {
        chain_id: number(&vectors["chainId"]),
        contract: address(&vectors["contract"]),
        realm: word(&vectors["realms"][0]["realm"]),
    }
}

#[test]
fn the_vectors_are_what_their_script_prints() {
    let script = folder().join("registry.js");
    let output = Command::new("node").arg(&script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), vectors());
}

#[test]
fn realm_ids_and_root_set_hashes_agree() {
    let vectors = vectors();
    let Place { chain_id, contract, .. } = place(&vectors);
    for realm in list(&vectors["realms"]) {
        let pin = RealmPin {
            chain_id,
            contract,
            code_hash: B256::ZERO,
            realm: word(&realm["realm"]),
            threshold: number(&realm["threshold"]),
            roots: addresses(&realm["roots"]),
            salt: word(&realm["salt"]),
            deployed_block: 0,
            genesis_hash: B256::ZERO,
        };
        assert_eq!(pin.verify(), Ok(()));
    }
    for set in list(&vectors["rootSets"]) {
        let (nonce, threshold) = (U256::from(number(&set["nonce"])), U256::from(number(&set["threshold"])));
        assert_eq!(sign::root_set_hash(nonce, threshold, &addresses(&set["roots"])), word(&set["hash"]));
    }
}

#[test]
fn storage_slots_and_record_ids_agree() {
    let vectors = vectors();
    for head in list(&vectors["storageSlots"]["heads"]) {
        assert_eq!(sign::head_slot(word(&head["realm"]), number(&head["shard"])), word(&head["slot"]));
    }
    for root_set in list(&vectors["storageSlots"]["rootSet"]) {
        assert_eq!(sign::root_set_slot(word(&root_set["realm"])), word(&root_set["slot"]));
    }
    for actor in list(&vectors["storageSlots"]["actors"]) {
        assert_eq!(sign::actor_slot(word(&actor["realm"]), address(&actor["actor"])), word(&actor["slot"]));
    }
    for record in list(&vectors["recordIds"]) {
        let r = bytes(&record["r"]).as_ref().try_into().unwrap();
        let id: Id = record["id"].as_str().unwrap().parse().unwrap();
        assert_eq!(sign::record_id(kind(&record["kind"]), address(&record["actor"]), r), id);
    }
}

#[test]
fn typed_data_digests_agree() {
    let vectors = vectors();
    let Place { chain_id, contract, .. } = place(&vectors);
    let domain = sign::domain(chain_id, contract);
    assert_eq!(domain.separator(), word(&vectors["domainSeparator"]));
    for append in list(&vectors["append"]) {
        let digest = sign::append_digest(
            &domain,
            address(&append["actor"]),
            word(&append["realm"]),
            &writes(&append["writes"]),
            U256::from(number(&append["nonce"])),
            U256::from(number(&append["deadline"])),
        );
        assert_eq!(digest, word(&append["digest"]));
        let signature = bytes(&append["signature"]);
        assert_eq!(verify(address(&append["actor"]), &digest, &signature), Ok(()));
    }
    for append in list(&vectors["appendByRoots"]) {
        let nonce = U256::from(number(&append["nonce"]));
        let digest = sign::append_by_roots_digest(&domain, word(&append["realm"]), nonce, &writes(&append["writes"]));
        assert_eq!(digest, word(&append["digest"]));
    }
}

#[test]
fn genesis_heads_agree() {
    let vectors = vectors();
    let Place { chain_id, contract, .. } = place(&vectors);
    for start in list(&vectors["genesis"]) {
        assert_eq!(genesis(chain_id, contract, word(&start["realm"]), number(&start["shard"])), slot(&start["hash"]));
    }
}

#[test]
fn the_log_folds_to_its_slots_shard_by_shard() {
    let vectors = vectors();
    let Place { chain_id, contract, realm } = place(&vectors);
    let until = list(&vectors["entries"]).iter().map(|entry| number(&entry["block"])).max().unwrap();
    let mut folds: BTreeMap<u64, Fold> = BTreeMap::new();
    for vector in list(&vectors["entries"]) {
        let entry = entry(vector);
        let meta = Meta {
            kind: kind(&vector["kind"]),
            prev_block: u32::try_from(number(&vector["prevBlock"])).unwrap(),
            time: number(&vector["time"]),
        };
        assert_eq!(meta.pack(), entry.meta);
        assert_eq!(Meta::unpack(entry.meta), Some(meta));
        assert_eq!(sign::entry_hash(realm, &entry), word(&vector["entryHash"]));
        let fold = folds
            .entry(entry.shard)
            .or_insert_with(|| Fold::new(chain_id, contract, realm, entry.shard, Tip::default(), until));
        assert_eq!(fold.tip().slot, slot(&vector["slotBefore"]));
        let index = fold.tip().entries;
        let placed = fold.push(entry, number(&vector["block"])).unwrap();
        assert_eq!(fold.tip().slot, slot(&vector["slot"]));
        assert_eq!((placed.at.index, placed.at.block, placed.at.time), (index, number(&vector["block"]), meta.time));
        assert_eq!(last_block(fold.tip().slot, until), Some(number(&vector["block"])));
        let proved = slot(&vector["slot"]);
        assert_eq!(fold.clone().finish(proved), Ok(fold.tip()));
        assert!(matches!(fold.clone().finish(proved + U256::from(1)), Err(HeadError::Mismatch { .. })));
    }
    assert!(folds.len() > 3, "the vectors cover several shards");
}

#[test]
fn a_log_that_was_tampered_with_does_not_fold() {
    let vectors = vectors();
    let Place { chain_id, contract, realm } = place(&vectors);
    let governance: Vec<&Value> =
        list(&vectors["entries"]).iter().filter(|entry| number(&entry["shard"]) == 0).collect();
    assert!(governance.len() >= 2);
    let until = u64::MAX >> 1;
    let fold = || Fold::new(chain_id, contract, realm, 0, Tip::default(), until);
    let proved = slot(&governance.last().unwrap()["slot"]);
    let run = |entries: Vec<(LogEntry, u64)>| -> Result<Tip, HeadError> {
        let mut fold = fold();
        for (entry, block) in entries {
            fold.push(entry, block)?;
        }
        fold.finish(proved)
    };
    let honest: Vec<(LogEntry, u64)> =
        governance.iter().map(|vector| (entry(vector), number(&vector["block"]))).collect();
    assert!(run(honest.clone()).is_ok());
    for position in 0..honest.len() {
        let tampered = |change: &dyn Fn(&mut (LogEntry, u64))| {
            let mut entries = honest.clone();
            change(&mut entries[position]);
            run(entries)
        };
        let mut omitted = honest.clone();
        omitted.remove(position);
        assert!(run(omitted).is_err(), "omitted {position}");
        assert!(tampered(&|item| item.1 += 1).is_err());
        assert!(tampered(&|item| item.0.actor = Address::repeat_byte(1)).is_err());
        assert!(tampered(&|item| item.0.meta += U256::from(1)).is_err());
        assert!(tampered(&|item| item.0.meta += U256::from(1) << 112).is_err());
        assert!(tampered(&|item| item.0.shard = 1).is_err());
        assert!(tampered(&|item| item.0.data = [item.0.data.as_ref(), &[0]].concat().into()).is_err());
    }
    let mut doubled = honest.clone();
    doubled.push(honest.last().unwrap().clone());
    assert!(run(doubled).is_err());
}

#[test]
fn a_lie_about_the_high_bits_of_a_block_number_does_not_move_an_entry() {
    let vectors = vectors();
    let Place { chain_id, contract, realm } = place(&vectors);
    let vector = &vectors["entries"][0];
    let block = number(&vector["block"]);
    let mut fold = Fold::new(chain_id, contract, realm, 0, Tip::default(), block + 10);
    let placed = fold.push(entry(vector), block + (5 << 32)).unwrap();
    assert_eq!(placed.at.block, block);
    assert_eq!(fold.finish(slot(&vector["slot"])).unwrap().block, block);
}

#[test]
fn entries_after_the_trusted_header_or_back_in_time_are_refused() {
    let realm = B256::ZERO;
    let contract = Address::ZERO;
    let entry = |prev_block, time| LogEntry {
        shard: 1,
        actor: Address::ZERO,
        meta: Meta { kind: Kind(1), prev_block, time }.pack(),
        data: Bytes::new(),
    };
    let mut fold = Fold::new(1, contract, realm, 1, Tip::default(), 100);
    assert!(matches!(fold.push(entry(0, 5), 101), Err(HeadError::Order { .. })));
    fold.push(entry(0, 5), 50).unwrap();
    let before = fold.tip();
    assert!(matches!(fold.push(entry(50, 5), 49), Err(HeadError::Order { .. })));
    assert!(matches!(fold.push(entry(50, 4), 51), Err(HeadError::Order { .. })));
    assert!(matches!(fold.push(entry(49, 5), 51), Err(HeadError::PrevBlock { expected: 50, got: 49, .. })));
    assert_eq!(fold.tip(), before);
    fold.push(entry(50, 5), 50).unwrap();
}

#[test]
fn the_next_slot_ends_with_the_low_bits_of_the_block() {
    let entry = LogEntry { shard: 0, actor: Address::ZERO, meta: U256::ZERO, data: Bytes::new() };
    let slot = next_slot(U256::ZERO, B256::ZERO, &entry, (1 << 32) + 7);
    assert_eq!(slot & U256::from(u32::MAX), U256::from(7));
    assert_eq!(last_block(slot, (2 << 32) + 6), Some((1 << 32) + 7));
    assert_eq!(last_block(slot, 8), Some(7));
    assert_eq!(last_block(slot, 6), None);
    assert_eq!(last_block(U256::ZERO, 6), None);
}

#[test]
fn kinds_are_those_of_the_contract_sources_and_the_vectors() {
    let source = std::fs::read_to_string(folder().join("../../contracts/src/Entries.sol")).unwrap();
    let constants = |kind_of: &str| -> Vec<(String, String)> {
        let prefix = format!("    {kind_of} internal constant ");
        let lines = source.lines().filter_map(|line| line.strip_prefix(&prefix));
        lines
            .map(|line| {
                let (name, value) = line.split_once(" = ").unwrap();
                (name.to_owned(), value.split_once(';').unwrap().0.to_owned())
            })
            .collect()
    };
    let kinds: Vec<(String, String)> =
        Kind::NAMED.iter().map(|(name, kind)| ((*name).to_owned(), format!("{:#06x}", kind.0))).collect();
    assert_eq!(constants("uint16"), kinds);
    let roles: Vec<(String, String)> = Roles::NAMED
        .iter()
        .map(|(name, bit)| (name.to_uppercase(), format!("1 << {}", bit.trailing_zeros())))
        .collect();
    assert_eq!(constants("uint64"), roles);
    let named: BTreeMap<String, Value> =
        Kind::NAMED.iter().map(|(name, kind)| ((*name).to_owned(), Value::from(kind.0))).collect();
    assert_eq!(serde_json::to_value(named).unwrap(), vectors()["kinds"]);
}

#[test]
fn every_example_payload_decodes_and_encodes_to_itself() {
    for payload in list(&vectors()["payloads"]) {
        let (kind, data) = (kind(&payload["kind"]), bytes(&payload["data"]));
        let entry = Entry::decode(kind, &data).unwrap_or_else(|error| panic!("{}: {error}", payload["name"]));
        assert_eq!(entry.kind(), kind);
        assert_eq!(entry.encode(), data, "{}", payload["name"]);
    }
}

#[test]
fn no_other_bytes_are_taken_for_an_example_payload() {
    for payload in list(&vectors()["payloads"]) {
        let (kind, data) = (kind(&payload["kind"]), bytes(&payload["data"]));
        let entry = Entry::decode(kind, &data).unwrap();
        for length in 0..data.len() {
            if let Ok(shorter) = Entry::decode(kind, &data[..length]) {
                assert_eq!(shorter.encode().as_ref(), &data[..length]);
            }
        }
        let trailing = [data.as_ref(), &[0; 32]].concat();
        let longer = Entry::decode(kind, &trailing);
        assert!(longer.is_err() || longer.is_ok_and(|longer| longer != entry && longer.encode().as_ref() == trailing));
        for position in 0..data.len() {
            let mut changed = data.to_vec();
            changed[position] ^= 0x80;
            match Entry::decode(kind, &changed) {
                Ok(other) => assert_eq!(other.encode().as_ref(), changed, "{} byte {position}", payload["name"]),
                Err(EntryError::Encoding(0x80)) => assert_eq!(position, 0),
                Err(error) => assert_eq!(error, EntryError::Malformed(kind)),
            }
        }
    }
}

#[test]
fn abi_payloads_with_trailing_bytes_are_refused() {
    let vectors = vectors();
    let payload = list(&vectors["payloads"]).iter().find(|payload| payload["name"] == "USER_ADD").unwrap();
    let data = [bytes(&payload["data"]).as_ref(), &[0; 32]].concat();
    assert_eq!(Entry::decode(Kind::USER_ADD, &data), Err(EntryError::Malformed(Kind::USER_ADD)));
}

#[test]
fn packed_payloads_of_another_width_or_none_are_refused() {
    for (kind, width) in [
        (Kind::KEY_LOCK, 20),
        (Kind::USER_LOCK, 16),
        (Kind::HOST_LOCK, 16),
        (Kind::CA_LOCK, 16),
        (Kind::ACTOR_LOCK, 20),
        (Kind::BATCH_LOCK, 16),
        (Kind::CA_RETIRE, 16),
        (Kind::REMOVE, 16),
        (Kind::CONFIRM, 16),
    ] {
        for length in [0, 1, width - 1, width + 1, 2 * width - 1] {
            let data = vec![0; 1 + length];
            assert_eq!(Entry::decode(kind, &data), Err(EntryError::Malformed(kind)), "{kind} {length}");
        }
        assert!(Entry::decode(kind, &vec![0; 1 + 2 * width]).is_ok());
    }
    for (kind, wrong) in [(Kind::CERT_REVOKE, vec![0, 15, 16, 17, 23, 25]), (Kind::DENY, vec![0, 15, 17, 32])] {
        for length in wrong {
            assert_eq!(Entry::decode(kind, &vec![0; 1 + length]), Err(EntryError::Malformed(kind)), "{kind} {length}");
        }
    }
}

#[test]
fn packed_structs_of_another_width_are_refused() {
    let refused = |kind: Kind, length: usize| {
        assert_eq!(Entry::decode(kind, &vec![0; 1 + length]), Err(EntryError::Malformed(kind)), "{kind} {length}");
    };
    for kind in [Kind::COUNTERSIGN, Kind::APPROVE, Kind::ACKNOWLEDGE] {
        for length in (0..48).chain([49, 64, 96]) {
            refused(kind, length);
        }
        assert!(Entry::decode(kind, &[0; 1 + 48]).is_ok());
    }
    for length in 0..76 {
        refused(Kind::BATCH, length);
    }
    for cid in [0, 1, 36] {
        let Ok(Entry::Batch(batch)) = Entry::decode(Kind::BATCH, &vec![0; 1 + 76 + cid]) else { panic!("{cid}") };
        assert_eq!(batch.leavesCid.len(), cid);
    }
}

#[test]
fn a_delivery_has_a_whole_name_in_utf_8_and_a_sealed_cid() {
    let delivery = |name_length: u8, rest: &[u8]| {
        Entry::decode(Kind::DELIVERY, &[&[0; 1 + 16 + 20 + 1 + 32][..], &[name_length], rest].concat())
    };
    let Ok(Entry::Delivery(read)) = delivery(2, b"abc") else { panic!("a name and a byte") };
    assert_eq!((read.payloadName.as_str(), read.sealedCid.as_ref()), ("ab", b"c".as_slice()));
    let longest = [b'n'; 256];
    assert!(delivery(255, &longest).is_ok());
    for wrong in
        [delivery(0, b""), delivery(2, b"ab"), delivery(3, b"ab"), delivery(255, &longest[1..]), delivery(1, b"\xffc")]
    {
        assert_eq!(wrong, Err(EntryError::Malformed(Kind::DELIVERY)));
    }
    for length in 0..1 + 16 + 20 + 1 + 32 + 1 {
        assert!(Entry::decode(Kind::DELIVERY, &vec![0; length]).is_err(), "{length}");
    }
}

#[test]
fn an_envelope_ends_with_its_name_and_prekeys_are_counted() {
    let envelope = |name_length: u8, name: &[u8]| {
        Entry::decode(Kind::ENVELOPE, &[&[0; 1 + 16 + 1 + 32][..], &[name_length], name].concat())
    };
    let Ok(Entry::Envelope(read)) = envelope(2, b"ab") else { panic!("a name") };
    assert_eq!(read.payloadName, "ab");
    for wrong in [envelope(2, b"a"), envelope(2, b"abc"), envelope(1, b"\xff")] {
        assert_eq!(wrong, Err(EntryError::Malformed(Kind::ENVELOPE)));
    }
    for length in 0..1 + 16 + 1 + 32 + 1 {
        assert!(Entry::decode(Kind::ENVELOPE, &vec![0; length]).is_err(), "{length}");
    }

    let prekeys = |drop: u8, keys: usize, more: usize| {
        Entry::decode(Kind::PREKEYS, &[&[0, drop][..], &vec![7; keys * 32 + more]].concat())
    };
    for (drop, keys) in [(0, 1), (1, 2), (0, Entry::MAX_PREKEYS)] {
        let Ok(Entry::Prekeys(read)) = prekeys(drop, keys, 0) else { panic!("{drop} {keys}") };
        assert_eq!((read.drop, read.keys.len()), (drop, keys));
    }
    for wrong in [prekeys(2, 1, 0), prekeys(0, 0, 0), prekeys(0, 1, 1), prekeys(0, Entry::MAX_PREKEYS + 1, 0)] {
        assert_eq!(wrong, Err(EntryError::Malformed(Kind::PREKEYS)));
    }
    assert_eq!(Entry::decode(Kind::PREKEYS, &[0]), Err(EntryError::Malformed(Kind::PREKEYS)));
}

#[test]
fn a_delivery_that_has_no_form_encodes_to_what_nobody_takes() {
    let delivery = |name: String, sealed_cid: &'static [u8]| {
        Entry::Delivery(payload::Delivery {
            r: [1; 16].into(),
            recipient: Address::repeat_byte(2),
            payloadKind: 1,
            digest: B256::repeat_byte(3),
            payloadName: name,
            sealedCid: Bytes::from_static(sealed_cid),
        })
    };
    let longest = delivery("n".repeat(255), b"cid");
    assert_eq!(Entry::decode(Kind::DELIVERY, &longest.encode()), Ok(longest));
    for formless in
        [delivery("n".repeat(256), b"cid"), delivery("n".repeat(1000), b"cid"), delivery("n".to_owned(), b"")]
    {
        assert_eq!(Entry::decode(Kind::DELIVERY, &formless.encode()), Err(EntryError::Malformed(Kind::DELIVERY)));
    }
}

#[test]
fn encodings_and_kinds_without_meaning_are_told_apart() {
    assert_eq!(Entry::decode(Kind::USER_ADD, &[]), Err(EntryError::Empty));
    assert_eq!(Entry::decode(Kind::USER_ADD, &[1, 2, 3]), Err(EntryError::Sealed));
    assert_eq!(Entry::decode(Kind::USER_ADD, &[2]), Err(EntryError::Encoding(2)));
    for kind in [Kind(0x0082), Kind(0x0703), Kind(0x0803), Kind(0x0209), Kind(0x0fff)] {
        assert_eq!(Entry::decode(kind, &[0]), Err(EntryError::UnknownKind(kind)));
    }
    assert!(Kind::MIGRATE.is_critical() && Kind::MIGRATED.is_critical() && Kind(0x00ff).is_critical());
    assert!(!Kind::REVOKE.is_critical() && !Kind(0x0180).is_critical());
}
