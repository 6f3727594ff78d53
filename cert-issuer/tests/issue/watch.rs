//! A watchdog and an issuer that lies to it: an honest watchdog has an objection, with its code.

use std::cell::RefCell;
use std::collections::BTreeMap;

use countersign_certificate::{RealmId, leaf_hash, merkle};
use countersign_delivery::{BlockCid, DeliveryError, LeavesContext, SecretKey, seal_leaves};
use countersign_issuer::leaves::{LeafError, Leaves, Prepared as Read};
use countersign_issuer::service::assemble;
use countersign_issuer::watch::{Objection, Policy, WatchConfig, Watchdog, before_leaves, judge};
use countersign_registry::realm::BatchState;

use super::*;

const WATCHDOG: Address = Address::repeat_byte(0x0d);

/// A realm that asks for one countersignature, an issuer with a sealing key, a watchdog, and a block store that gives what it has.
struct Kennel {
    world: World,
    issuer_key: SecretKey,
    watchdog_key: SecretKey,
    blocks: RefCell<BTreeMap<BlockCid, Vec<u8>>>,
}

/// What a lying issuer does differently.
#[derive(Default)]
struct Lie {
    root: Option<[u8; 32]>,
    size: Option<u32>,
    shown: Option<Vec<Vec<u8>>>,
    cid: Option<Vec<u8>>,
    sealed_for: Option<[u8; 16]>,
    sealed_to: Option<SecretKey>,
    sealed_by: Option<SecretKey>,
    not_after: Option<u64>,
}

impl Kennel {
    fn new() -> Self {
        Self::with_grant(|_| {})
    }

    fn with_grant(change: impl FnOnce(&mut payload::GrantAdd)) -> Self {
        let mut world = World::with_grant(change);
        let (issuer_key, watchdog_key) = (SecretKey::generate().unwrap(), SecretKey::generate().unwrap());
        let role = |actor, roles, key: &SecretKey| {
            Entry::RoleSet(payload::RoleSet { actor, roles, x25519: B256::from(key.public().to_bytes()) })
        };
        world.ledger.log(ROOTS, role(ISSUER, 2, &issuer_key));
        world.ledger.log(ROOTS, role(WATCHDOG, 4, &watchdog_key));
        let items = vec![payload::Setting { key: 3, value: 1 }];
        world.ledger.log(ROOTS, Entry::Settings(payload::Settings { items }));
        Self { world, issuer_key, watchdog_key, blocks: RefCell::default() }
    }

    /// Logs a batch of `leaves` as the issuer, honestly but for `lie`; gives its id.
    fn log(&mut self, leaves: &[Vec<u8>], lie: Lie) -> Id {
        let r: [u8; 16] = ssh_key::rand_core::RngCore::next_u64(&mut OsRng).to_be_bytes().repeat(2).try_into().unwrap();
        let id = sign::record_id(Kind::BATCH, ISSUER, r);
        let realm = RealmId(REALM.0);
        let hashes: Vec<_> = leaves.iter().map(|leaf| leaf_hash(&realm, &self.world.ca, leaf)).collect();
        let root = lie.root.unwrap_or_else(|| merkle::root(&hashes).unwrap());
        let context = LeavesContext { realm: REALM.0, batch: lie.sealed_for.unwrap_or(id.0) };
        let to = lie.sealed_to.as_ref().unwrap_or(&self.watchdog_key).public();
        let by = lie.sealed_by.as_ref().unwrap_or(&self.issuer_key);
        let shown = lie.shown.as_deref().unwrap_or(leaves);
        let block = seal_leaves(&context, by, &[(WATCHDOG.into_array(), to)], shown).unwrap();
        let cid = BlockCid::of(&block).unwrap();
        self.blocks.borrow_mut().insert(cid, block);
        self.world.ledger.log(
            ISSUER,
            Entry::Batch(payload::Batch {
                r: r.into(),
                ca: self.world.ca.0.into(),
                root: B256::from(root),
                size: lie.size.unwrap_or_else(|| u32::try_from(leaves.len()).unwrap()),
                notAfter: lie.not_after.unwrap_or_else(|| now() + 600),
                leavesCid: lie.cid.unwrap_or_else(|| cid.to_bytes().to_vec()).into(),
            }),
        );
        id
    }

    fn prepared(&self) -> Vec<u8> {
        self.world.prepare(self.world.order()).unwrap().pre_certificate().to_vec()
    }

    fn judge_as(&self, address: Address, policy: &Policy, id: Id) -> Result<Leaves, Objection> {
        let effective = self.world.ledger.effective();
        let watchdog = Watchdog { address, key: &self.watchdog_key, policy };
        let fetch = |cid: &BlockCid| {
            let missing = || DeliveryError::Missing { cid: cid.to_string(), store: "blocks".into() };
            self.blocks.borrow().get(cid).cloned().ok_or_else(missing)
        };
        judge(&effective, id, &effective.batches[&id], watchdog, fetch)
    }

    fn code(&self, id: Id) -> &'static str {
        self.code_under(&Policy::default(), id)
    }

    fn code_under(&self, policy: &Policy, id: Id) -> &'static str {
        match self.judge_as(WATCHDOG, policy, id) {
            Ok(_) => "countersigned",
            Err(objection) => objection.why.code(),
        }
    }
}

fn policy(lines: &str) -> Policy {
    let text = format!(
        "realm = \"r\"\nactor = \"a\"\nactor-password-file = \"p\"\ndelivery-key = \"d\"\nstore = \"b\"\nstate = \"s\"\n[policy]\n{lines}\n"
    );
    WatchConfig::parse(std::path::Path::new("w.toml"), &text).unwrap().policy
}

#[test]
fn what_the_issuer_makes_and_seals_a_watchdog_has_nothing_against() {
    let mut kennel = Kennel::new();
    let effective = kennel.world.ledger.effective();
    let signer = kennel.world.signer(&effective);
    let prepared = (0..3).map(|_| kennel.world.prepare(kennel.world.order()).unwrap()).collect();
    let mut batch = Batch::new(&effective, signer, prepared).unwrap();
    let block = batch.seal(&effective, signer, &kennel.issuer_key).unwrap();
    kennel.blocks.borrow_mut().insert(BlockCid::of(&block).unwrap(), block);
    kennel.world.ledger.log(ISSUER, batch.entry.clone());
    let leaves = kennel.judge_as(WATCHDOG, &Policy::default(), batch.id).unwrap();
    assert_eq!((leaves.size(), leaves.root()), (3, batch.leaves.root()));

    // And what it says, once it is on the ledger, makes the batch count.
    let record = kennel.world.ledger.effective().batches[&batch.id].clone();
    assert_eq!(record.state, BatchState::WaitingForCountersignatures { have: 0, need: 1 });
    let entry = payload::Countersign { batch: batch.id.0.into(), entryHash: record.entry_hash };
    kennel.world.ledger.log(WATCHDOG, Entry::Countersign(entry));
    assert_eq!(kennel.world.ledger.effective().batches[&batch.id].state, BatchState::Accepted);
}

#[test]
fn an_issuer_that_shows_other_leaves_than_it_commits_to_gets_no_countersignature() {
    let mut kennel = Kennel::new();
    let (one, two) = (kennel.prepared(), kennel.prepared());
    let hash = |leaf: &[u8]| leaf_hash(&RealmId(REALM.0), &kennel.world.ca, leaf);
    let both = merkle::root(&[hash(&one), hash(&two)]).unwrap();
    let (shown, by) = (|leaves: &[&Vec<u8>]| Some(leaves.iter().map(|leaf| (*leaf).clone()).collect()), &mut kennel);
    let leaves = [one.clone(), two.clone()];
    // The root holds one more leaf than is shown; and the entry says so, or does not.
    let hidden = by.log(&leaves, Lie { shown: shown(&[&one]), ..Lie::default() });
    let cut = by.log(&leaves[..1], Lie { root: Some(both), ..Lie::default() });
    let swapped = by.log(&leaves, Lie { shown: shown(&[&two, &one]), ..Lie::default() });
    let more = by.log(&leaves[..1], Lie { shown: shown(&[&one, &two]), ..Lie::default() });
    let other = by.log(&leaves[..1], Lie { shown: shown(&[&two]), ..Lie::default() });
    let honest = by.log(&leaves, Lie::default());
    for (id, code) in [
        (hidden, "leaves-size"),
        (cut, "root-mismatch"),
        (swapped, "root-mismatch"),
        (more, "leaves-size"),
        (other, "root-mismatch"),
        (honest, "countersigned"),
    ] {
        assert_eq!(kennel.code(id), code);
    }
}

#[test]
fn leaves_that_cannot_be_had_or_read_are_not_countersigned() {
    let mut kennel = Kennel::new();
    let leaf = [kennel.prepared()];
    let first = kennel.log(&leaf, Lie::default());
    let stranger = || Some(SecretKey::generate().unwrap());
    // A good block, of another batch.
    let cid_of_first = kennel.world.ledger.effective().batches[&first].leaves_cid.to_vec();
    let unknown = BlockCid::of(b"never stored").unwrap().to_bytes().to_vec();
    let cases = [
        (Lie { cid: Some(Vec::new()), ..Lie::default() }, "leaves-missing", false),
        (Lie { cid: Some(b"QmNotOurs".to_vec()), ..Lie::default() }, "leaves-cid", false),
        (Lie { cid: Some(unknown), ..Lie::default() }, "leaves-unavailable", true),
        (Lie { cid: Some(cid_of_first), ..Lie::default() }, "leaves-unreadable", false),
        (Lie { sealed_for: Some([7; 16]), ..Lie::default() }, "leaves-unreadable", false),
        (Lie { sealed_to: stranger(), ..Lie::default() }, "leaves-unreadable", false),
        (Lie { sealed_by: stranger(), ..Lie::default() }, "leaves-unreadable", false),
    ];
    for (lie, code, may_pass) in cases {
        let id = kennel.log(&leaf, lie);
        let objection = kennel.judge_as(WATCHDOG, &Policy::default(), id).unwrap_err();
        assert_eq!((objection.why.code(), objection.why.may_pass()), (code, may_pass), "{objection}");
    }
    // A store that gives other bytes under the name, and a block that is no sealed leaves.
    let id = kennel.log(&leaf, Lie::default());
    let cid = BlockCid::from_bytes(&kennel.world.ledger.effective().batches[&id].leaves_cid).unwrap();
    kennel.blocks.borrow_mut().insert(cid, b"other bytes".to_vec());
    assert_eq!(kennel.code(id), "leaves-unavailable");
    let junk = BlockCid::of(b"junk").unwrap();
    kennel.blocks.borrow_mut().insert(junk, b"junk".to_vec());
    let id = kennel.log(&leaf, Lie { cid: Some(junk.to_bytes().to_vec()), ..Lie::default() });
    assert_eq!(kennel.code(id), "leaves-unreadable");
}

#[test]
fn a_leaf_that_its_host_would_refuse_is_not_countersigned() {
    let mut kennel = Kennel::new();
    let good = kennel.prepared();
    // Made under a grant that is gone, for a user who is locked, by a key that is locked: each alone, beside a good leaf.
    let gone = kennel.log(&[good.clone(), good.clone()], Lie::default());
    assert_eq!(kennel.code(gone), "countersigned");
    let key = countersign_certificate::Fingerprint20::of_blob(&kennel.world.subject);
    let before = kennel.world.ledger.entries.len();
    for (denial, code) in [
        (Entry::Lock(Targets::Keys(vec![key])), "key-locked"),
        (Entry::Lock(Targets::Users(vec![kennel.world.alice])), "user-locked"),
        (Entry::Lock(Targets::Hosts(vec![kennel.world.web])), "host-locked"),
        (Entry::Lock(Targets::Cas(vec![kennel.world.ca])), "ca-locked"),
        (Entry::Lock(Targets::Batches(vec![gone])), "batch-locked"),
        (Entry::Remove(vec![sign::record_id(Kind::GRANT_ADD, ADMIN, r(20))]), "grant-unknown"),
        (Entry::Lock(Targets::Actors(vec![ISSUER])), "batch-issuer"),
    ] {
        kennel.world.ledger.log(ADMIN, denial);
        let objection = kennel.judge_as(WATCHDOG, &Policy::default(), gone).unwrap_err();
        assert_eq!((objection.why.code(), objection.why.may_pass()), (code, true), "{objection}");
        kennel.world.ledger.entries.truncate(before);
    }
    // A batch that ends before its certificate does.
    let short = kennel.log(&[good], Lie { not_after: Some(now() + 60), ..Lie::default() });
    assert_eq!(kennel.code(short), "batch-time");
}

#[test]
fn a_grant_s_missing_approvals_are_missed_by_the_watchdog_too() {
    let mut kennel = Kennel::with_grant(|grant| grant.approvals = 1);
    let leaf = kennel.prepared();
    let id = kennel.log(&[leaf], Lie::default());
    assert_eq!(kennel.code(id), "request-unknown");
}

#[test]
fn a_leaf_that_this_issuer_would_never_make_is_malformed() {
    let mut kennel = Kennel::new();
    let good = kennel.prepared();
    let at = |needle: &[u8]| good.windows(needle.len()).position(|window| window == needle).unwrap();
    // The CA's key is the last field.
    let mut other_signer = good.clone();
    *other_signer.last_mut().unwrap() ^= 1;
    let host_type = {
        let mut bytes = good.clone();
        let key_id = at(b"alice/");
        // string length, then the type before it.
        bytes[key_id - 5] = 2;
        bytes
    };
    let trailing = [good.as_slice(), b"more"].concat();
    for (leaf, text) in [
        (b"junk".to_vec(), "certificate type"),
        (trailing, "follow the end"),
        (other_signer, "names another key than its CA's"),
        (host_type, "certifies a host"),
    ] {
        let id = kennel.log(&[good.clone(), leaf], Lie::default());
        let objection = kennel.judge_as(WATCHDOG, &Policy::default(), id).unwrap_err();
        assert_eq!((objection.why.code(), objection.leaf), ("leaf-malformed", Some(1)), "{objection}");
        assert!(objection.to_string().contains(text), "{objection}");
    }
    let elsewhere = Read::read(RealmId([9; 32]), kennel.world.key().blob(), &good).unwrap_err();
    assert_eq!(elsewhere, LeafError::Scope);
}

#[test]
fn nothing_is_fetched_for_a_batch_that_can_not_be_countersigned_anyway() {
    let mut kennel = Kennel::new();
    let leaf = kennel.prepared();
    let good = kennel.log(std::slice::from_ref(&leaf), Lie::default());
    let nowhere = kennel.log(std::slice::from_ref(&leaf), Lie { cid: Some(vec![1, 2, 3]), ..Lie::default() });
    let missing = kennel.log(&[leaf], Lie { cid: Some(Vec::new()), ..Lie::default() });
    let small = policy("max-certificates = 1");
    let other_ca = policy(&format!("cas = [\"{}\"]", kennel.world.web));
    let any = Policy::default();
    let plain = kennel.world.ledger.effective();
    let with = |change: &dyn Fn(&mut countersign_registry::realm::Batch)| {
        let mut batch = plain.batches[&good].clone();
        change(&mut batch);
        batch
    };
    let as_is = || with(&|_| {});
    for (batch, watchdog, policy, code) in [
        (as_is(), ISSUER, &any, "own-batch"),
        (with(&|batch| batch.state = BatchState::Locked), WATCHDOG, &any, "batch-locked"),
        (with(&|batch| batch.state = BatchState::IssuerLostRole), WATCHDOG, &any, "batch-issuer"),
        (with(&|batch| batch.state = BatchState::IssuerNotListed), WATCHDOG, &any, "batch-issuer"),
        (with(&|batch| batch.ca = Id([9; 16])), WATCHDOG, &any, "ca-unknown"),
        (with(&|batch| batch.size = 2), WATCHDOG, &small, "policy-size"),
        (as_is(), WATCHDOG, &other_ca, "policy-ca"),
        (plain.batches[&nowhere].clone(), WATCHDOG, &any, "leaves-cid"),
        (plain.batches[&missing].clone(), WATCHDOG, &any, "leaves-missing"),
    ] {
        assert_eq!(before_leaves(&plain, &batch, watchdog, policy).unwrap_err().why.code(), code);
        let judge_as = Watchdog { address: watchdog, key: &kennel.watchdog_key, policy };
        let fetched = |_: &BlockCid| -> Result<Vec<u8>, DeliveryError> { panic!("{code}: asked for") };
        assert_eq!(judge(&plain, good, &batch, judge_as, fetched).unwrap_err().why.code(), code);
    }
    assert!(before_leaves(&plain, &as_is(), WATCHDOG, &any).is_ok());
}

#[test]
fn a_watchdog_s_own_policy_is_its_own() {
    let mut kennel = Kennel::new();
    let leaf = kennel.prepared();
    let id = kennel.log(&[leaf.clone(), leaf], Lie::default());
    let (web, database, ca) = (kennel.world.web, kennel.world.database, kennel.world.ca);
    for (lines, code) in [
        ("max-ttl = \"5m\"\nlogins = [\"deploy\"]\nmax-certificates = 2".to_owned(), "countersigned"),
        ("max-ttl = \"4m\"".to_owned(), "policy-ttl"),
        ("max-certificates = 1".to_owned(), "policy-size"),
        ("logins = [\"alice\"]".to_owned(), "policy-login"),
        ("never-logins = [\"root\", \"deploy\"]".to_owned(), "policy-login"),
        (format!("hosts = [\"{web}\"]"), "countersigned"),
        (format!("hosts = [\"{database}\"]"), "policy-host"),
        ("labels = [\"web\"]".to_owned(), "policy-host"),
        (format!("cas = [\"{ca}\"]"), "countersigned"),
        (format!("cas = [\"{web}\"]"), "policy-ca"),
        ("hours = [\"mon-sun 00:00-24:00\"]".to_owned(), "countersigned"),
    ] {
        assert_eq!(kennel.code_under(&policy(&lines), id), code, "{lines}");
    }
    // Not at this hour: the whole week but the minute of the batch.
    let time = kennel.world.ledger.effective().batches[&id].at.time;
    let minute = time % 86_400 / 60;
    let clock = |minutes: u64| format!("{:02}:{:02}", minutes / 60, minutes % 60);
    let mut hours = Vec::new();
    if minute > 0 {
        hours.push(format!("\"mon-sun 00:00-{}\"", clock(minute)));
    }
    if minute < 1_439 {
        hours.push(format!("\"mon-sun {}-24:00\"", clock(minute + 1)));
    }
    assert_eq!(kennel.code_under(&policy(&format!("hours = [{}]", hours.join(", "))), id), "policy-hours");
}

#[test]
fn nobody_countersigns_what_his_own_key_has_logged() {
    let mut kennel = Kennel::new();
    let leaf = kennel.prepared();
    let id = kennel.log(&[leaf], Lie::default());
    let objection = kennel.judge_as(ISSUER, &Policy::default(), id).unwrap_err();
    assert_eq!(objection.why.code(), "own-batch");
    // And hosts would not count it.
    let entry_hash = kennel.world.ledger.effective().batches[&id].entry_hash;
    kennel
        .world
        .ledger
        .log(ROOTS, Entry::RoleSet(payload::RoleSet { actor: ISSUER, roles: 2 | 4, x25519: B256::ZERO }));
    let entry = payload::Countersign { batch: id.0.into(), entryHash: entry_hash };
    kennel.world.ledger.log(ISSUER, Entry::Countersign(entry));
    let state = kennel.world.ledger.effective().batches[&id].state;
    assert_eq!(state, BatchState::WaitingForCountersignatures { have: 0, need: 1 });
}

#[test]
fn what_does_not_fit_into_one_sealed_block_waits_for_the_next_batch() {
    let kennel = Kennel::with_grant(|grant| grant.forcedCommand = "x".repeat(1_000));
    let effective = kennel.world.ledger.effective();
    let signer = kennel.world.signer(&effective);
    let orders: Vec<Order> = (0..200).map(|_| kennel.world.order()).collect();
    let (batch, results) = assemble(&effective, signer, orders.clone(), now()).unwrap();
    let (mut batch, places) = batch.unwrap();
    let full = results.iter().flatten().filter(|result| matches!(result, Err(IssueError::BatchFull))).count();
    assert!((1..200).contains(&full) && places.len() + full == 200, "{full} too many");
    let block = batch.seal(&effective, signer, &kennel.issuer_key).unwrap();
    assert!(block.len() <= countersign_delivery::MAX_BLOCK_BYTES && block.len() > 250_000, "{}", block.len());
    // Where nobody looks at batches, one holds them all.
    let mut unwatched = effective.clone();
    unwatched.settings.countersign_quorum = 0;
    let (batch, _) = assemble(&unwatched, kennel.world.signer(&unwatched), orders, now()).unwrap();
    assert_eq!(batch.unwrap().1.len(), 200);
}

#[test]
fn nothing_is_sealed_where_too_few_watchdogs_could_read_it_or_with_a_key_that_is_not_the_issuer_s() {
    let mut kennel = Kennel::new();
    let seal = |kennel: &Kennel, key: &SecretKey| {
        let effective = kennel.world.ledger.effective();
        let signer = kennel.world.signer(&effective);
        let prepared = vec![kennel.world.prepare(kennel.world.order()).unwrap()];
        Batch::new(&effective, signer, prepared).unwrap().seal(&effective, signer, key).unwrap_err().to_string()
    };
    let wrong = seal(&kennel, &kennel.watchdog_key);
    assert!(wrong.contains("the ledger has another sealing key"), "{wrong}");
    let items = vec![payload::Setting { key: 3, value: 2 }];
    kennel.world.ledger.log(ROOTS, Entry::Settings(payload::Settings { items }));
    let few = seal(&kennel, &kennel.issuer_key);
    assert_eq!(
        few,
        "the realm asks for 2 countersignatures, and 1 watchdogs other than the issuer have a sealing key on the ledger"
    );
}
