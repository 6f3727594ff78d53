//! Both sides of a move, heads and statements, against `tests/vectors/migration.json` (`docs/spec/migration.md`).
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a vector file of another shape, or a number that overflows, is a failed test"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use countersign_registry::entries::{Entry, EntryError, Kind, payload};
use countersign_registry::head::{Fold, LogEntry, Meta, PlacedEntry, Tip};
use countersign_registry::migration::statement::{
    NONCES_AHEAD, RootSignature, RootsInForce, Statement, StatementError,
};
use countersign_registry::migration::{
    Cut, CutError, Field, Heads, MAX_HEADS, Move, MoveError, Place, check_arrival, check_move, to_head,
};
use countersign_registry::signature::{P256Form, SignatureError, verify};
use countersign_registry::{Address, B256, Bytes, RealmPin, U256, sign};
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors")
}

fn vectors() -> Value {
    serde_json::from_slice(&std::fs::read(folder().join("migration.json")).unwrap()).unwrap()
}

fn word(value: &Value) -> B256 {
    value.as_str().unwrap().parse().unwrap()
}

fn address(value: &Value) -> Address {
    value.as_str().unwrap().parse().unwrap()
}

fn bytes(value: &Value) -> Bytes {
    value.as_str().unwrap().parse().unwrap()
}

fn source(vectors: &Value) -> RealmPin {
    let source = &vectors["source"];
    RealmPin {
        chain_id: source["chainId"].as_u64().unwrap(),
        contract: address(&source["contract"]),
        code_hash: word(&source["codeHash"]),
        realm: word(&source["realm"]),
        threshold: source["threshold"].as_u64().unwrap(),
        roots: source["roots"].as_array().unwrap().iter().map(address).collect(),
        salt: word(&source["salt"]),
        deployed_block: 1,
        genesis_hash: word(&source["genesisHash"]),
    }
}

fn target(vectors: &Value) -> RealmPin {
    let target = &vectors["target"];
    RealmPin {
        chain_id: target["chainId"].as_u64().unwrap(),
        contract: address(&target["registry"]),
        code_hash: word(&target["codeHash"]),
        realm: word(&target["realm"]),
        genesis_hash: word(&target["genesisHash"]),
        ..source(vectors)
    }
}

fn heads(vectors: &Value) -> Heads {
    let heads = vectors["heads"].as_array().unwrap().iter();
    Heads {
        block: vectors["blockNumber"].as_u64().unwrap(),
        slots: heads.map(|head| (head["shard"].as_u64().unwrap(), word(&head["slot"]).into())).collect(),
    }
}

fn migrate(vectors: &Value) -> payload::Migrate {
    let Ok(Entry::Migrate(migrate)) = Entry::decode(Kind::MIGRATE, &bytes(&vectors["migrate"])) else { unreachable!() };
    migrate
}

fn migrated(vectors: &Value) -> payload::Migrated {
    let Ok(Entry::Migrated(migrated)) = Entry::decode(Kind::MIGRATED, &bytes(&vectors["migrated"])) else {
        unreachable!()
    };
    migrated
}

/// Signed by the roots of these forms.
fn statement(vectors: &Value, forms: &[(u8, &str)]) -> Statement {
    let source = source(vectors);
    let nonce = vectors["statement"]["nonce"].as_u64().unwrap();
    let place = Place::from(&target(vectors));
    let mut statement = Statement::new(source.realm, nonce, source.threshold, source.roots, place, heads(vectors));
    let all = vectors["statement"]["signatures"].as_array().unwrap();
    statement.signatures = forms
        .iter()
        .map(|(root, form)| {
            let of = all.iter().find(|one| one["root"] == *root && one["form"] == *form).unwrap();
            RootSignature { root: *root, signature: bytes(&of["signature"]) }
        })
        .collect();
    statement
}

fn checked(vectors: &Value, statement: &Statement) -> Result<payload::Migrate, StatementError> {
    let pin = source(vectors);
    let known = RootsInForce { threshold: pin.threshold, roots: &pin.roots, nonce: 0 };
    statement.verify(&pin, &known)
}

#[test]
fn the_vectors_are_what_their_script_prints() {
    let output = Command::new("node").arg(folder().join("migration.js")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), vectors());
}

#[test]
fn both_entries_of_the_vectors_are_about_each_other() {
    let vectors = vectors();
    let (source, target) = (source(&vectors), target(&vectors));
    assert_eq!(source.verify(), Ok(()));
    let step = check_move(&source, &migrate(&vectors), &target, &migrated(&vectors)).unwrap();
    assert_eq!((step.source(), step.target()), (&Place::from(&source), &Place::from(&target)));
    assert_eq!(step.heads(), &heads(&vectors));
    let made = Entry::Migrate(payload::Migrate::new(step.target(), step.heads()));
    assert_eq!((made.kind(), made.encode()), (Kind::MIGRATE, bytes(&vectors["migrate"])));
    let made = Entry::Migrated(payload::Migrated::new(step.source(), step.heads()));
    assert_eq!((made.kind(), made.encode()), (Kind::MIGRATED, bytes(&vectors["migrated"])));
    assert_eq!(check_arrival(&source, &target, &migrated(&vectors)), Ok(step));
}

#[test]
fn a_difference_in_any_field_of_either_side_is_refused() {
    type Change = fn(&mut RealmPin);
    let vectors = vectors();
    let (source, target) = (source(&vectors), target(&vectors));
    let changes: [(Field, Change); 5] = [
        (Field::ChainId, |pin| pin.chain_id += 1),
        (Field::GenesisHash, |pin| pin.genesis_hash = B256::ZERO),
        (Field::Contract, |pin| pin.contract = Address::ZERO),
        (Field::CodeHash, |pin| pin.code_hash = B256::ZERO),
        (Field::Realm, |pin| pin.realm = B256::ZERO),
    ];
    for (field, change) in changes {
        let (mut other_source, mut other_target) = (source.clone(), target.clone());
        change(&mut other_source);
        change(&mut other_target);
        let error = check_move(&source, &migrate(&vectors), &other_target, &migrated(&vectors)).unwrap_err();
        assert_eq!((error.reason(), error), ("migrate-target", MoveError::Target { field }));
        let error = check_move(&other_source, &migrate(&vectors), &target, &migrated(&vectors)).unwrap_err();
        assert_eq!((error.reason(), error), ("migrate-source", MoveError::Source { field }));
        assert!(check_arrival(&other_source, &target, &migrated(&vectors)).is_err());
    }
}

#[test]
fn heads_that_differ_in_a_slot_a_shard_or_the_block_are_refused() {
    type Change = fn(&mut Heads);
    let vectors = vectors();
    let (source, target) = (source(&vectors), target(&vectors));
    let changes: [(Option<u64>, Change); 5] = [
        (None, |heads| heads.block += 1),
        (Some(1 << 32), |heads| *heads.slots.get_mut(&(1 << 32)).unwrap() += U256::from(1)),
        (Some(2 << 32), |heads| assert!(heads.slots.remove(&(2 << 32)).is_some())),
        (Some(3 << 32), |heads| assert!(heads.slots.insert(3 << 32, U256::from(1)).is_none())),
        (Some(0), |heads| assert!(heads.slots.remove(&0).is_some())),
    ];
    for (shard, change) in changes {
        let mut other = heads(&vectors);
        change(&mut other);
        let migrate_other = payload::Migrate::new(&Place::from(&target), &other);
        let error = check_move(&source, &migrate_other, &target, &migrated(&vectors)).unwrap_err();
        assert_eq!((error.reason(), error), ("migrate-heads", MoveError::OtherHeads { shard }));
        let migrated_other = payload::Migrated::new(&Place::from(&source), &other);
        let error = check_move(&source, &migrate(&vectors), &target, &migrated_other).unwrap_err();
        assert_eq!(error, MoveError::OtherHeads { shard });
    }
}

#[test]
fn a_realm_does_not_move_to_itself() {
    let vectors = vectors();
    let pin = source(&vectors);
    let migrated = payload::Migrated::new(&Place::from(&pin), &heads(&vectors));
    let error = check_arrival(&pin, &pin, &migrated).unwrap_err();
    assert_eq!((error.reason(), error), ("migrate-loop", MoveError::Loop { realm: pin.realm }));
}

#[test]
fn heads_in_another_form_are_no_entry() {
    let vectors = vectors();
    let good = migrate(&vectors);
    let head = |shard, slot: u64| payload::ShardHead { shard, slot: U256::from(slot) };
    let with = |heads: Vec<payload::ShardHead>| payload::Migrate { heads, ..good.clone() };
    let many = |count: u64| with((1..=count).map(|day| head((4 << 32) | day, day)).collect());
    let refused = [
        with(vec![]),
        with(vec![head(0, 0)]),
        with(vec![head(1 << 32, 1), head(0, 1)]),
        with(vec![head(0, 1), head(0, 1)]),
        with(vec![head(7 << 32, 1)]),
        with(vec![head(u64::MAX, 1)]),
        many(51),
        payload::Migrate { blockNumber: 1 << 48, ..good.clone() },
    ];
    for migrate in refused {
        let data = Entry::Migrate(migrate.clone()).encode();
        assert_eq!(Entry::decode(Kind::MIGRATE, &data), Err(EntryError::Malformed(Kind::MIGRATE)), "{migrate:?}");
        assert_eq!(Entry::decode(Kind::MIGRATED, &data), Err(EntryError::Malformed(Kind::MIGRATED)));
        let (source, target) = (source(&vectors), target(&vectors));
        let error = check_move(&source, &migrate, &target, &migrated(&vectors)).unwrap_err();
        assert_eq!(error.reason(), "migrate-heads-malformed");
    }
    let most = Entry::Migrate(many(u64::try_from(MAX_HEADS).unwrap())).encode();
    assert!(Entry::decode(Kind::MIGRATE, &most).is_ok() && most.len() <= 4096, "{}", most.len());
}

/// Ten entries of the denials, in blocks 1001, 1002, …
fn denials(pin: &RealmPin) -> (Vec<(LogEntry, u64)>, Vec<U256>) {
    let shard = 2 << 32;
    let mut fold = Fold::new(pin.chain_id, pin.contract, pin.realm, shard, Tip::default(), 4711);
    let (mut log, mut slots) = (Vec::new(), vec![U256::ZERO]);
    for number in 1..=10_u32 {
        let prev_block = if number == 1 { 0 } else { 999 + number };
        let meta = Meta { kind: Kind::KEY_LOCK, prev_block, time: u64::from(number) }.pack();
        let entry = LogEntry { shard, actor: Address::ZERO, meta, data: sign::clear(&[7; 20]) };
        fold.push(entry.clone(), 1000 + u64::from(number)).unwrap();
        log.push((entry, 1000 + u64::from(number)));
        slots.push(fold.tip().slot);
    }
    (log, slots)
}

fn step_to(vectors: &Value, slot: U256, block: u64) -> Move {
    let pin = source(vectors);
    let named = Heads { block, slots: [(2 << 32, slot)].into() };
    check_arrival(&pin, &target(vectors), &payload::Migrated::new(&Place::from(&pin), &named)).unwrap()
}

#[test]
fn a_log_is_taken_up_to_the_named_head_and_one_that_does_not_lead_there_is_refused() {
    let vectors = vectors();
    let (log, slots) = denials(&source(&vectors));
    let shard = 2 << 32;
    for (count, slot) in slots.iter().enumerate().skip(1) {
        let placed = to_head(&step_to(&vectors, *slot, 4711), shard, log.clone()).unwrap();
        assert_eq!(placed.len(), count);
        assert_eq!(placed.last().unwrap().at.block, 1000 + u64::try_from(count).unwrap());
    }
    // A shard that is not named counts for nothing.
    assert_eq!(to_head(&step_to(&vectors, slots[5], 4711), 1 << 32, log.clone()), Ok(vec![]));
    let step = step_to(&vectors, slots[5], 4711);
    let short = to_head(&step, shard, log[..4].to_vec()).unwrap_err();
    assert_eq!(short, CutError::NotAPrefix { shard, entries: 4, head: slots[5] });
    assert_eq!(short.reason(), "migrate-heads-unreached");
    let error = to_head(&step_to(&vectors, U256::from(9), 4711), shard, log.clone()).unwrap_err();
    assert!(matches!(error, CutError::NotAPrefix { entries: 10, .. }), "no slot of this log");
    for position in 0..5 {
        let mut changed = log.clone();
        changed[position].0.data = sign::clear(&[8; 20]);
        assert!(to_head(&step, shard, changed).is_err(), "an entry was changed: {position}");
        let mut left_out = log.clone();
        left_out.remove(position);
        assert!(to_head(&step, shard, left_out).is_err(), "an entry was left out: {position}");
        let mut moved = log.clone();
        moved[position].1 += 1;
        assert!(to_head(&step, shard, moved).is_err(), "an entry was moved in time: {position}");
    }
}

#[test]
fn an_archive_cannot_move_entries_by_whole_turns_of_the_block_number() {
    let vectors = vectors();
    let (log, slots) = denials(&source(&vectors));
    let turned: Vec<(LogEntry, u64)> = log.into_iter().map(|(entry, block)| (entry, block + (1 << 32))).collect();
    let placed = to_head(&step_to(&vectors, slots[10], 4711), 2 << 32, turned.clone()).unwrap();
    assert_eq!(placed[0].at.block, 1001);
    // The entries would be after the block in which the heads were read.
    assert!(matches!(to_head(&step_to(&vectors, slots[10], 1005), 2 << 32, turned), Err(CutError::Head(_))));
}

#[test]
fn tips_that_stand_at_the_heads_give_the_cut_and_others_do_not() {
    let vectors = vectors();
    let pin = source(&vectors);
    let (log, slots) = denials(&pin);
    let shard = 2 << 32;
    let named = Heads { block: 4711, slots: [(shard, slots[9])].into() };
    let tip = |count: usize| Tip { slot: slots[count], entries: u64::try_from(count).unwrap(), ..Tip::default() };
    let cut = |count: usize, migrate: Option<&PlacedEntry>| {
        Cut::at_tips(&named, |asked| (asked == shard).then(|| tip(count)), pin.realm, migrate)
    };
    assert_eq!(cut(9, None).unwrap().entries, [(shard, 9)].into());
    let elsewhere = |count| Err(CutError::Elsewhere { shard, head: slots[9], tip: slots[count] });
    assert_eq!(cut(8, None), elsewhere(8));
    assert_eq!(cut(10, None), elsewhere(10));
    // One entry beyond, which is the MIGRATE.
    let mut fold =
        Fold::new(pin.chain_id, pin.contract, pin.realm, shard, Tip { block: 1009, time: 9, ..tip(9) }, 4711);
    let placed = fold.push(log[9].0.clone(), log[9].1).unwrap();
    assert_eq!(cut(10, Some(&placed)).unwrap().entries, [(shard, 9)].into());
    let mut other = placed;
    other.entry.data = sign::clear(&[8; 20]);
    assert_eq!(cut(10, Some(&other)), elsewhere(10));
}

#[test]
fn a_statement_of_a_threshold_of_roots_stands_for_their_migrate_whatever_keys_they_have() {
    let vectors = vectors();
    let pin = source(&vectors);
    let digest = statement(&vectors, &[]).digest(pin.chain_id, pin.contract);
    assert_eq!(digest, word(&vectors["statement"]["digest"]));
    for forms in [
        &[(0, "ecdsa"), (1, "ecdsa")][..],
        &[(2, "p256"), (0, "ecdsa")],
        &[(1, "ecdsa"), (3, "webauthn")],
        &[(0, "ecdsa"), (1, "ecdsa"), (2, "p256")],
    ] {
        assert_eq!(checked(&vectors, &statement(&vectors, forms)), Ok(migrate(&vectors)), "{forms:?}");
    }
    let file = statement(&vectors, &[(0, "ecdsa"), (3, "webauthn")]);
    let read: Statement = serde_json::from_str(&serde_json::to_string(&file).unwrap()).unwrap();
    assert_eq!(read, file);
}

#[test]
fn a_statement_by_fewer_than_threshold_twice_by_one_or_by_nobody_is_refused() {
    let vectors = vectors();
    let reason = |forms: &[(u8, &str)]| checked(&vectors, &statement(&vectors, forms)).unwrap_err().reason();
    assert_eq!(reason(&[]), "statement-threshold");
    assert_eq!(reason(&[(0, "ecdsa")]), "statement-threshold");
    assert_eq!(reason(&[(0, "ecdsa"), (0, "ecdsa")]), "statement-duplicate");
    assert_eq!(reason(&[(2, "p256"), (2, "p256")]), "statement-duplicate");
    assert_eq!(reason(&[(3, "webauthn"), (3, "webauthn")]), "statement-duplicate");
    let mut beyond = statement(&vectors, &[(0, "ecdsa"), (1, "ecdsa")]);
    beyond.signatures[1].root = 4;
    let error = checked(&vectors, &beyond).unwrap_err();
    assert_eq!((error.reason(), error), ("statement-root-index", StatementError::NoSuchRoot { root: 4, roots: 4 }));
    let mut swapped = statement(&vectors, &[(0, "ecdsa"), (1, "ecdsa")]);
    swapped.signatures[0].root = 1;
    swapped.signatures[1].root = 0;
    assert_eq!(checked(&vectors, &swapped).unwrap_err().reason(), "statement-signature");
    // A third that is bad refuses all of it.
    let mut third = statement(&vectors, &[(0, "ecdsa"), (1, "ecdsa"), (2, "p256")]);
    let mut bytes = third.signatures[2].signature.to_vec();
    bytes[0] ^= 1;
    third.signatures[2].signature = bytes.into();
    assert_eq!(checked(&vectors, &third).unwrap_err().reason(), "statement-signature");
}

#[test]
fn a_statement_with_anything_changed_is_not_what_the_roots_signed() {
    let vectors = vectors();
    let changes: [fn(&mut Statement); 8] = [
        |it| it.nonce += 1,
        |it| it.target.chain_id += 1,
        |it| it.target.genesis_hash = B256::ZERO,
        |it| it.target.contract = Address::ZERO,
        |it| it.target.code_hash = B256::ZERO,
        |it| it.target.realm = B256::ZERO,
        |it| it.heads.block += 1,
        |it| assert!(it.heads.slots.remove(&0).is_some()),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut changed = statement(&vectors, &[(0, "ecdsa"), (2, "p256")]);
        change(&mut changed);
        assert_eq!(checked(&vectors, &changed).unwrap_err().reason(), "statement-signature", "{number}");
    }
    let mut malformed = statement(&vectors, &[(0, "ecdsa"), (2, "p256")]);
    malformed.heads.slots.clear();
    assert_eq!(checked(&vectors, &malformed).unwrap_err().reason(), "migrate-heads-malformed");
    let mut newer = statement(&vectors, &[(0, "ecdsa"), (2, "p256")]);
    newer.migration_statement = 2;
    assert_eq!(checked(&vectors, &newer), Err(StatementError::Version(2)));
}

#[test]
fn a_statement_about_another_realm_chain_or_contract_or_by_roots_not_in_force_is_refused() {
    let vectors = vectors();
    let good = statement(&vectors, &[(0, "ecdsa"), (1, "ecdsa")]);
    let pin = source(&vectors);
    let against = |pin: &RealmPin, known: RootsInForce<'_>| good.verify(pin, &known).map_err(|error| error.reason());
    let known = RootsInForce { threshold: 2, roots: &pin.roots, nonce: 0 };
    assert_eq!(against(&RealmPin { realm: B256::ZERO, ..pin.clone() }, known), Err("statement-realm"));
    assert_eq!(against(&RealmPin { chain_id: 1, ..pin.clone() }, known), Err("statement-signature"));
    assert_eq!(against(&RealmPin { contract: Address::ZERO, ..pin.clone() }, known), Err("statement-signature"));
    // The set in force is another: one more must sign, a root was replaced, the order is another.
    assert_eq!(against(&pin, RootsInForce { threshold: 3, ..known }), Err("statement-roots"));
    let replaced = [pin.roots[0], pin.roots[1], Address::repeat_byte(9), pin.roots[3]];
    assert_eq!(against(&pin, RootsInForce { roots: &replaced, ..known }), Err("statement-roots"));
    let turned: Vec<Address> = pin.roots.iter().rev().copied().collect();
    assert_eq!(against(&pin, RootsInForce { roots: &turned, ..known }), Err("statement-roots"));
    // With the slot proved, an earlier nonce is withdrawn, and a later one may have come since.
    let slot = word(&vectors["statement"]["rootSetSlot"]);
    let nonce = sign::root_nonce(slot, 2, &pin.roots).unwrap();
    assert_eq!(nonce, good.nonce);
    assert_eq!(sign::root_nonce(slot, 3, &pin.roots), None);
    assert_eq!(sign::root_nonce(B256::ZERO, 2, &pin.roots), Some(0));
    for earlier in [nonce - 1, nonce] {
        assert!(against(&pin, RootsInForce { nonce: earlier, ..known }).is_ok());
    }
    assert_eq!(against(&pin, RootsInForce { nonce: nonce + 1, ..known }), Err("statement-roots"));
    // One that is still far off could not be withdrawn: whoever prepares the statement chooses it.
    let ahead = |said, nonce| {
        let later = Statement { nonce: said, ..good.clone() };
        later.verify(&pin, &RootsInForce { nonce, ..known }).unwrap_err()
    };
    let far = |said, most| StatementError::NonceAhead { said, most };
    assert_eq!(ahead(NONCES_AHEAD + 1, 0), far(NONCES_AHEAD + 1, NONCES_AHEAD));
    assert_eq!(ahead(u64::MAX, 5), far(u64::MAX, 5 + NONCES_AHEAD));
    assert_eq!(ahead((1 << 20) + 1, 1 << 20), far((1 << 20) + 1, 1 << 20));
    assert_eq!(ahead(u64::MAX, u64::MAX - 1).reason(), "statement-roots");
    // The furthest that counts is judged by its signatures, which are over another nonce.
    assert_eq!(ahead(NONCES_AHEAD, 0).reason(), "statement-signature");
    let mut nobody = good;
    (nobody.threshold, nobody.signatures) = (0, vec![]);
    let error = nobody.verify(&pin, &RootsInForce { threshold: 0, ..known }).unwrap_err();
    assert_eq!(error, StatementError::Roots);
}

/// The order of secp256k1 and of P-256.
const ORDERS: [&str; 2] = [
    "0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141",
    "0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551",
];

#[test]
fn a_high_s_another_v_a_contract_wallets_and_a_cut_signature_are_refused() {
    let vectors = vectors();
    let digest = word(&vectors["statement"]["digest"]);
    let signed = statement(&vectors, &[(0, "ecdsa"), (2, "p256"), (3, "webauthn")]);
    let [ecdsa, p256, webauthn] = [0, 1, 2].map(|number| signed.signatures[number].signature.to_vec());
    let (root, device, passkey) = (signed.roots[0], signed.roots[2], signed.roots[3]);
    let high = |signature: &[u8], order: &str| {
        let mut high = signature.to_vec();
        let s: U256 = order.parse::<U256>().unwrap() - U256::from_be_slice(&high[32..64]);
        high[32..64].copy_from_slice(&s.to_be_bytes::<32>());
        high
    };
    let mut flipped = high(&ecdsa, ORDERS[0]);
    flipped[64] ^= 27 ^ 28;
    assert_eq!(verify(root, &digest, &flipped), Err(SignatureError::HighS));
    assert_eq!(verify(device, &digest, &high(&p256, ORDERS[1])), Err(SignatureError::HighS));
    assert_eq!(verify(passkey, &digest, &high(&webauthn, ORDERS[1])), Err(SignatureError::HighS));
    for v in [0, 1, 26, 29, 37] {
        let mut other = ecdsa.clone();
        other[64] = v;
        assert_eq!(verify(root, &digest, &other), Err(SignatureError::V { v }));
    }
    for (signer, signature) in [(root, &ecdsa), (device, &p256), (passkey, &webauthn)] {
        assert_eq!(verify(signer, &digest, signature), Ok(()));
        assert!(verify(signer, &B256::ZERO, signature).is_err());
        assert!(verify(Address::ZERO, &digest, signature).is_err());
        for length in 0..signature.len() {
            assert!(verify(signer, &digest, &signature[..length]).is_err(), "{length}");
        }
        for position in 0..signature.len() {
            let mut changed = signature.clone();
            changed[position] ^= 0x40;
            assert!(verify(signer, &digest, &changed).is_err(), "byte {position}");
        }
    }
    let mut absent = webauthn.clone();
    for flags in [0, 1, 4] {
        absent[130 + 32] = flags;
        assert_eq!(verify(passkey, &digest, &absent), Err(SignatureError::NotVerified), "{flags}");
    }
    // One key, two actors: neither signs for the other.
    let key = <[u8; 64]>::try_from(&p256[64..128]).unwrap();
    assert_eq!((P256Form::Digest.address(&key), P256Form::Assertion.address(&key)), (device, passkey));
    for (signer, signature) in [(passkey, &p256), (device, &webauthn)] {
        assert_eq!(verify(signer, &digest, signature), Err(SignatureError::NotByKey { length: signature.len() }));
    }
    // What only the root's code could judge.
    for wallet in [vec![], vec![1; 64], vec![2; 130], p256] {
        let length = wallet.len();
        let error = verify(root, &digest, &wallet).unwrap_err();
        assert_eq!(error, SignatureError::NotByKey { length });
        let mut by_wallet = statement(&vectors, &[(0, "ecdsa"), (1, "ecdsa")]);
        by_wallet.signatures[0].signature = wallet.into();
        assert_eq!(checked(&vectors, &by_wallet).unwrap_err().reason(), "statement-wallet");
    }
}
