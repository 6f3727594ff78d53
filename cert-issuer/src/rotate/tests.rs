//! What a service does with its rotations before anything reaches a chain: whom it makes for, what it takes back, what it does not pay for.

use std::time::Duration;

use countersign_chain::keys::ActorKey;
use countersign_chain::profile::{ChainProfile, ProfileName};
use countersign_chain::realm_file::{HeaderTrust, RealmFile};
use countersign_delivery::DirectoryStore;
use countersign_registry::entries::Entry;
use countersign_registry::realm::{Actor, Host, State, User};
use countersign_registry::{B256, BlockRef, EntryRef, RealmPin, Replay};
use ssh_key::rand_core::OsRng;
use ssh_key::{Algorithm, LineEnding, PrivateKey};

use super::publish::MOST_PUBLIC;
use super::*;
use crate::ca_key::CaKeyError;

const KEY: &str = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";
const WEB: [(Id, Address); 2] = [(Id([1; 16]), Address::repeat_byte(0xd1)), (Id([2; 16]), Address::repeat_byte(0xd2))];
const ALICE: Id = Id([9; 16]);
const NOW: u64 = 10_000;

const PAIRS: &str = "make = \"ssh-key-pair\"\nlabel = [\"web\"]\nevery = \"1h\"\npublish = \"peers\"";

/// Two hosts with a label, an issuer that nobody knows yet, and no chain: what is logged is refused before it is sent.
struct Bed {
    directory: tempfile::TempDir,
    view: View,
    issuer: Issuer,
    sealing: SecretKey,
    stores: Stores,
    outbox: Outbox,
    rotations: Rotations,
}

impl Bed {
    fn new(rule: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pin = RealmPin {
            chain_id: 31337,
            contract: Address::repeat_byte(3),
            code_hash: B256::ZERO,
            realm: B256::repeat_byte(4),
            threshold: 1,
            roots: vec![Address::repeat_byte(5)],
            salt: B256::ZERO,
            deployed_block: 0,
            genesis_hash: B256::ZERO,
        };
        let profile = ChainProfile::new(ProfileName::Dev, 31337).unwrap();
        let endpoints = vec!["http://127.0.0.1:1".parse().unwrap()];
        let realm = RealmFile { pin, profile, trust: HeaderTrust::Dev, endpoints, links: Default::default() };
        let block = BlockRef { number: 9, time: NOW };
        let mut effective = Replay::new(realm.pin.realm).effective(block, &[]).unwrap();
        let at = EntryRef { block: 1, shard: 1 << 32, index: 0, time: 1 };
        let actor = |subject| Actor {
            roles: 0,
            x25519: Some(B256::from(SecretKey::generate().unwrap().public().to_bytes())),
            subject,
            locked: false,
        };
        for (number, (id, address)) in WEB.into_iter().enumerate() {
            let host = Host {
                at,
                state: State::Active,
                name: format!("web{number}"),
                owner: None,
                host_key: Default::default(),
                labels: BTreeSet::from(["web".to_owned()]),
            };
            effective.hosts.insert(id, host);
            effective.actors.insert(address, actor(Some(id)));
        }
        let (login, display_name, labels) = ("alice".to_owned(), String::new(), BTreeSet::new());
        effective.users.insert(ALICE, User { at, state: State::Active, login, display_name, uid: 1, labels });
        let key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).unwrap();
        key.write_openssh_file(&directory.path().join("ca"), LineEnding::LF).unwrap();
        let key = CaKey::from_file::<CaKeyError>(&directory.path().join("ca"), || panic!("not encrypted")).unwrap();
        let sender = ActorKey::from_hex(KEY).unwrap();
        let sealing = SecretKey::generate().unwrap();
        let own = Actor { x25519: Some(B256::from(sealing.public().to_bytes())), ..actor(None) };
        effective.actors.insert(sender.address(), own);
        let issuer = Issuer::new(realm.clone(), sender, (Id([7; 16]), key), Duration::from_secs(1), None).unwrap();
        let stores = DirectoryStore::open(&directory.path().join("blocks")).unwrap().into();
        let outbox = Outbox::open(&directory.path().join("outbox")).unwrap();
        let rule: Rotation = toml::from_str(&format!("name = \"x\"\n{rule}")).unwrap();
        assert_eq!(rule.problem(86_400 * 30), None);
        let rotations = Rotations::open(vec![rule], BTreeMap::new(), directory.path()).unwrap();
        let view = View::of_test(realm, effective);
        Self { directory, view, issuer, sealing, stores, outbox, rotations }
    }

    async fn tend(&mut self) -> Page {
        let hands = Hands {
            view: &self.view,
            issuer: &self.issuer,
            sealing: &self.sealing,
            stores: &self.stores,
            outbox: &self.outbox,
            prekeys: PrekeyPolicy::Refuse,
            holds: 100,
        };
        let mut say = |_: &str| {};
        let looked = tokio::time::timeout(Duration::from_secs(20), self.rotations.tend(hands, &mut say));
        looked.await.unwrap();
        self.page()
    }

    fn page(&self) -> Page {
        self.rotations.pages.read("x").unwrap()
    }

    fn set(&self, change: impl FnOnce(&mut Page)) {
        let mut page = self.page();
        change(&mut page);
        self.rotations.pages.write("x", &page).unwrap();
    }

    fn status(&self) -> &RotationStatus {
        &self.rotations.status()["x"]
    }

    fn lock(&mut self, host: usize, state: State) {
        self.view.effective.hosts.get_mut(&WEB[host].0).unwrap().state = state;
    }
}

fn forget(page: &mut Page) {
    (page.current, page.next) = (None, None);
    page.succeeded();
}

fn half(host: usize, text: &str) -> Half {
    Half { subject: Some(WEB[host].0), text: format!("{text}\n") }
}

/// Delivered to both at once, a moment ago.
fn current(public: Vec<Half>, old: Vec<Half>) -> Current {
    Current {
        ids: vec![Id([6; 16])],
        logged: NOW - 10,
        made: NOW - 10,
        expires: None,
        recipients: WEB.into_iter().map(|(id, address)| (address, id)).collect(),
        acknowledged: BTreeSet::new(),
        public,
        old,
        left_out: BTreeMap::new(),
        sent: NOW - 10,
        resends: 0,
        letter: None,
    }
}

fn published(letter: &Letter) -> String {
    match letter.entry() {
        Some(Entry::PublicData(entry)) => String::from_utf8(entry.data.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn public_data_that_no_entry_holds_is_refused_before_anything_is_sent() {
    assert_eq!(
        public_data(Address::repeat_byte(1), "x", Vec::new()).unwrap_err(),
        "public data x: 0 bytes, expected 1 to 24064"
    );
    public_data(Address::repeat_byte(1), "x", vec![0; MOST_PUBLIC + 1]).unwrap_err();
    let letter = public_data(Address::repeat_byte(1), "x", vec![0; MOST_PUBLIC]).unwrap();
    assert!(matches!(letter.entry(), Some(Entry::PublicData(data)) if data.data.len() == MOST_PUBLIC));
}

#[tokio::test]
async fn public_halves_of_a_locked_or_revoked_host_are_taken_back_at_once_and_not_made_again() {
    for state in [State::Locked, State::Revoked] {
        let mut bed = Bed::new(PAIRS);
        bed.set(|page| {
            page.current = Some(current(vec![half(0, "a"), half(1, "b")], vec![half(0, "old a"), half(1, "old b")]));
            // What could not be made has nothing to do with it.
            page.failed(NOW, "no".to_owned());
        });
        assert_eq!(bed.tend().await.current.unwrap().letter, None);
        bed.lock(0, state);
        let page = bed.tend().await.current.unwrap();
        assert_eq!(published(page.letter.as_ref().unwrap()), "b\nold b\n");
        assert_eq!((page.public, page.old), (vec![half(1, "b")], vec![half(1, "old b")]));
        assert_eq!(
            page.recipients.keys().copied().collect::<Vec<_>>(),
            [WEB[1].1],
            "a newcomer, if it is let in again"
        );

        // Nor does it get a pair of its own, nor is its old half announced, with the next one.
        bed.set(|page| page.current = Some(current(vec![half(0, "a"), half(1, "b")], Vec::new())));
        let page = bed.page();
        let rule = bed.rotations.rules[0].clone();
        let (letter, old) =
            announcement(&bed.view.effective, WEB[0].1, &rule, &page, &[half(1, "new")]).unwrap().unwrap();
        assert_eq!((published(&letter).as_str(), old), ("new\nb\n", vec![half(1, "b")]));
        bed.set(forget);
        let next = bed.tend().await.next.unwrap();
        assert_eq!(next.recipients, BTreeMap::from([(WEB[1].1, WEB[1].0)]));
        assert_eq!(next.public.iter().map(|half| half.subject).collect::<Vec<_>>(), [Some(WEB[1].0)]);
    }
}

#[tokio::test]
async fn what_was_sealed_to_a_host_that_is_locked_before_it_is_logged_is_thrown_away() {
    let mut bed = Bed::new(PAIRS);
    let next = bed.tend().await.next.unwrap();
    assert_eq!(next.recipients.len(), 2);
    bed.set(|page| page.current = Some(current(Vec::new(), Vec::new())));
    bed.lock(0, State::Locked);
    let page = bed.tend().await;
    assert_eq!(page.next, None);
    assert_eq!(page.current.unwrap().old, next.public, "what was announced of it is taken back too");
}

#[tokio::test]
async fn one_recipient_that_cannot_be_sent_to_keeps_no_other_from_getting_its_own() {
    let mut bed =
        Bed::new("make = \"secret\"\nbytes = 32\neach = true\nto = [\"web0\", \"web1\", \"gone\"]\nevery = \"1h\"");
    let at = EntryRef { block: 1, shard: 5 << 32, index: 0, time: NOW };
    // Low order: nothing is sealed to it, and it publishes no other.
    let broken = countersign_registry::realm::Prekey { at, key: B256::ZERO };
    bed.view.effective.prekeys.insert(WEB[0].1, vec![broken]);
    let next = bed.tend().await.next.unwrap();
    assert_eq!(next.recipients, BTreeMap::from([(WEB[1].1, WEB[1].0)]));
    let told = format!("web0: recipient {} has no unused prekey", WEB[0].1);
    let left_out = &bed.status().left_out;
    assert!(
        left_out.len() == 2 && left_out[0] == "gone: not on the ledger" && left_out[1].starts_with(&told),
        "{left_out:?}"
    );

    // What is sealed already is not held up by names that nobody has any more.
    bed.view.effective.hosts.remove(&WEB[1].0);
    bed.view.effective.actors.get_mut(&WEB[1].1).unwrap().subject = None;
    bed.set(Page::succeeded);
    let page = bed.tend().await;
    assert_eq!((page.next.unwrap().letter.id, bed.status().stage.as_str()), (next.letter.id, "sending"));
}

#[tokio::test]
async fn what_can_be_known_beforehand_is_known_before_a_batch_is_paid_for() {
    let certificate = "[certificate]\nuser = \"alice\"\nhost = \"web1\"\nlogin = \"deploy\"\nttl = \"30m\"";
    let mut bed = Bed::new(&format!("{PAIRS}\n{certificate}"));
    let due = || Current { logged: 1, ..current(vec![half(0, &"x".repeat(MOST_PUBLIC))], Vec::new()) };
    bed.set(|page| page.current = Some(due()));
    let problem = bed.tend().await.problem.unwrap();
    assert!(problem.starts_with("public data peers: ") && problem.ends_with("expected 1 to 24064"), "{problem}");
    // Without that, the next thing asked is the CA; and a sealing key that is not the ledger's is found before either.
    bed.set(forget);
    let problem = bed.tend().await.problem.unwrap();
    assert!(problem.contains("ca-unknown"), "{problem}");
    bed.set(forget);
    let blocks = bed.directory.path().join("blocks");
    std::fs::rename(&blocks, bed.directory.path().join("away")).unwrap();
    let problem = bed.tend().await.problem.unwrap();
    assert!(problem.contains("not stored"), "{problem}");
    bed.set(forget);
    bed.sealing = SecretKey::generate().unwrap();
    let problem = bed.tend().await.problem.unwrap();
    assert!(problem.contains("another sealing key for sender"), "{problem}");
}

#[tokio::test]
async fn what_fails_before_anything_is_tried_does_not_make_the_wait_longer() {
    let mut bed = Bed::new(PAIRS);
    bed.set(|page| {
        page.current = Some(current(Vec::new(), Vec::new()));
        page.failed(NOW, "no".to_owned());
    });
    let before = bed.page();
    let book = bed.directory.path().join(format!("outbox/{}.envelope", Id([6; 16])));
    std::fs::write(book, "damaged").unwrap();
    for _ in 0..5 {
        assert_eq!(bed.tend().await, before);
    }
    assert!(bed.status().problem.as_ref().unwrap().starts_with("outbox "), "{:?}", bed.status());
    assert_eq!(bed.status().failures, 1);
}

#[tokio::test]
async fn a_command_that_goes_on_failing_for_one_gives_the_others_theirs_after_the_fourth_time() {
    let command = r#"command = ["/bin/sh", "-c", "[ $COUNTERSIGN_RECIPIENT = web1 ] && echo 0123456789abcdef"]"#;
    let to = r#"to = ["web0", "web1"]"#;
    let mut bed = Bed::new(&format!(
        "make = \"command\"\nkind = \"opaque-secret\"\neach = true\n{to}\nevery = \"1h\"\n{command}"
    ));
    for failures in 1..=4 {
        assert_eq!(bed.tend().await.next, None);
        for _ in 0..200 {
            if bed.rotations.has_work(0) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let page = bed.tend().await;
        assert_eq!((page.failures, page.next.is_some()), (failures, failures == 4), "{:?}", page.problem);
        bed.set(|page| page.retry = 0);
    }
    let next = bed.page().next.unwrap();
    assert_eq!(next.recipients, BTreeMap::from([(WEB[1].1, WEB[1].0)]));
    assert_eq!(next.left_out.keys().copied().collect::<Vec<_>>(), [WEB[0].0]);
    assert!(next.left_out[&WEB[0].0].starts_with("for web0: "), "{next:?}");
}
