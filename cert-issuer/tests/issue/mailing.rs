//! Envelopes from the sender's side: prekeys by policy and never twice, books, sending again, letting go.

use countersign_delivery::{Contents, DirectoryStore, Payload, Prekeys, SecretKey, Stores};
use countersign_issuer::mailing::{self, Mailing, PrekeyPolicy};
use countersign_issuer::outbox::Heard;
use countersign_issuer::rotate::make::Targets;
use countersign_issuer::rotate::setting::Rotation;
use countersign_registry::realm::State;
use zeroize::Zeroizing;

use super::*;

const DEVICES: [Address; 3] = [Address::repeat_byte(0xd1), Address::repeat_byte(0xd2), Address::repeat_byte(0xd3)];

struct Mail {
    world: World,
    sender: SecretKey,
    stores: Stores,
    store: DirectoryStore,
    outbox: Outbox,
    directory: tempfile::TempDir,
}

impl Mail {
    /// Three devices, of which the first two publish one prekey each.
    fn new() -> Self {
        let mut world = World::new();
        let sender = SecretKey::generate().unwrap();
        let x25519 = B256::from(sender.public().to_bytes());
        world.ledger.log(ROOTS, Entry::RoleSet(payload::RoleSet { actor: ISSUER, roles: 2, x25519 }));
        let directory = tempfile::tempdir().unwrap();
        for (number, actor) in DEVICES.into_iter().enumerate() {
            let x25519 = B256::from(SecretKey::generate().unwrap().public().to_bytes());
            let (member, subject) = (true, world.web.0.into());
            world.ledger.log(ADMIN, Entry::MemberSet(payload::MemberSet { actor, member, subject, x25519 }));
            if number < 2 {
                let path = directory.path().join(format!("prekeys{number}"));
                let made = Prekeys::open(&path, REALM.0, actor.into_array()).unwrap().make(1, now()).unwrap();
                let keys = made.iter().map(|key| key.to_bytes().into()).collect();
                world.ledger.log(actor, Entry::Prekeys(payload::Prekeys { drop: 0, keys }));
            }
        }
        let store = DirectoryStore::open(&directory.path().join("blocks")).unwrap();
        let outbox = Outbox::open(&directory.path().join("outbox")).unwrap();
        Self { world, sender, stores: store.clone().into(), store, outbox, directory }
    }

    fn mail(
        &self,
        to: &[usize],
        prekeys: PrekeyPolicy,
        resends: Option<Id>,
        payloads: Vec<Payload>,
    ) -> Result<mailing::Mailed, IssueError> {
        let several = payloads.len() > 1;
        let recipients = to.iter().map(|device| (DEVICES[*device], if several { *device } else { 0 })).collect();
        let sender_key = &self.sender;
        let mailing = Mailing { sender: ISSUER, sender_key, payloads, recipients, prekeys, resends };
        let effective = self.world.ledger.effective();
        blocking(mailing::mail(&effective, mailing, &self.stores, &self.outbox, now(), &mut |_| {}))
    }

    fn acknowledge(&mut self, id: Id, device: usize, digest: B256) {
        let entry = Entry::Acknowledge(payload::Acknowledge { delivery: id.0.into(), digest });
        self.world.ledger.log(DEVICES[device], entry);
    }
}

fn token(text: &str) -> Payload {
    Payload::new("token", Contents::OpaqueSecret { secret: Zeroizing::new(text.as_bytes().to_vec()) }).unwrap()
}

#[test]
fn a_prekey_is_drawn_once_and_without_one_left_the_policy_decides() {
    let mail = Mail::new();
    let send = |to: &[usize], policy| mail.mail(to, policy, None, vec![token("x")]);
    let prekeys = |mailed: &mailing::Mailed| -> Vec<bool> {
        mailed.book.recipients.iter().map(|recipient| recipient.prekey.is_some()).collect()
    };
    let missing = send(&[0, 2], PrekeyPolicy::Require).unwrap_err();
    assert!(matches!(missing, IssueError::Prekey { recipient } if recipient == DEVICES[2]), "{missing}");
    // A refusal leaves nothing behind: neither a book nor a use.
    assert_eq!(mail.outbox.books().unwrap(), []);
    assert_eq!(prekeys(&send(&[0, 2], PrekeyPolicy::Refuse).unwrap()), [true, false]);
    let none_left = send(&[0, 1], PrekeyPolicy::Refuse).unwrap_err().to_string();
    assert_eq!(
        none_left,
        format!("recipient {} has no unused prekey on the ledger, which this is to be sealed to", DEVICES[0])
    );
    assert_eq!(prekeys(&send(&[0, 1], PrekeyPolicy::FallBack).unwrap()), [false, true]);
    assert_eq!(prekeys(&send(&[0, 1], PrekeyPolicy::Off).unwrap()), [false, false]);

    // A parcel for one goes into an envelope where prekeys ask for it, and as before where not.
    let other = Mail::new();
    let post = |device: usize| {
        let parcel = Parcel {
            sender: ISSUER,
            sender_key: &other.sender,
            recipient: DEVICES[device],
            payload: token("x"),
            prekeys: PrekeyPolicy::Refuse,
        };
        blocking(deliver::post(&other.world.ledger.effective(), parcel, &other.stores, &other.outbox, now())).unwrap()
    };
    assert!(matches!(post(1).entry, Entry::Envelope(_)));
    assert!(matches!(post(2).entry, Entry::Delivery(_)));
}

#[test]
fn the_books_say_who_has_it_send_it_again_and_let_go_of_it() {
    let mut mail = Mail::new();
    let mailed = mail.mail(&[0, 1, 2], PrekeyPolicy::Off, None, vec![token("a"), token("b"), token("c")]).unwrap();
    assert_eq!(mailed.book.blocks.len(), 3 + 1 + 1);
    assert_eq!(mail.store.list().unwrap().len(), 5);
    mail.world.ledger.log(ISSUER, mailed.entry.clone());
    let (id, book) = (mailed.id, mailed.book);
    assert_eq!(mail.outbox.book(id).unwrap(), Some(book.clone()));

    mail.acknowledge(id, 0, book.payloads[0].digest);
    mail.acknowledge(id, 1, B256::ZERO);
    let effective = mail.world.ledger.effective();
    let heard: Vec<Heard> = book.recipients.iter().map(|to| book.heard(id, to, &effective)).collect();
    assert!(matches!(heard[0], Heard::Has { is_final: true, .. }));
    assert_eq!(heard[1..], [Heard::OtherDigest, Heard::Nothing]);
    assert_eq!(book.due(id, &effective, now(), 100), Due::OtherDigest);

    // The payloads come back out of their blocks, to be sealed once more.
    let payloads = blocking(mailing::reopen(&effective, id, &book, &mail.stores)).unwrap();
    assert_eq!(payloads, [token("a"), token("b"), token("c")]);
    let again = mail.mail(&[1, 2], PrekeyPolicy::Off, Some(id), payloads).unwrap();
    assert_eq!(again.book.resends, Some(id));
    mail.world.ledger.log(ISSUER, again.entry);
    mail.acknowledge(again.id, 1, again.book.payloads[1].digest);
    mail.acknowledge(again.id, 2, again.book.payloads[2].digest);

    let effective = mail.world.ledger.effective();
    let sweep = |timeout, now| blocking(mailing::sweep(&effective, &mail.stores, &mail.outbox, now, timeout)).unwrap();
    let due: Vec<(Id, Due)> = sweep(100, now()).into_iter().map(|swept| (swept.id, swept.due)).collect();
    assert!(due.contains(&(again.id, Due::Acknowledged)) && due.contains(&(id, Due::OtherDigest)), "{due:?}");
    assert_eq!(mail.store.list().unwrap().len(), 5, "the second one's are gone");
    let closed = mail.outbox.book(again.id).unwrap().unwrap();
    assert!(closed.blocks.is_empty() && closed.payloads.iter().all(|payload| payload.key.is_none()));
    // Nobody waits for ever; a clock that is ahead of the ledger does not hurry.
    assert_eq!(sweep(10, now() + 1_000).len(), 1);
    assert!(!mail.store.list().unwrap().is_empty());
}

#[test]
fn what_was_sealed_to_a_prekey_leaves_no_key_in_the_books() {
    let mail = Mail::new();
    let mailed = mail.mail(&[0, 2], PrekeyPolicy::Refuse, None, vec![token("x")]).unwrap();
    assert!(mailed.book.payloads[0].key.is_none());
    let effective = mail.world.ledger.effective();
    let refused = blocking(mailing::reopen(&effective, mailed.id, &mailed.book, &mail.stores)).unwrap_err();
    assert!(refused.to_string().ends_with("so its key was not kept; give the file again"), "{refused}");
    // Neither the books nor the blocks have the secret or a way to it.
    for file in ["outbox", "blocks"] {
        for entry in std::fs::read_dir(mail.directory.path().join(file)).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            assert!(!bytes.windows(5).any(|part| part == b"token") || file == "outbox");
        }
    }
}

#[test]
fn a_recipient_named_twice_or_unknown_is_refused_before_anything_is_noted() {
    let mail = Mail::new();
    let twice = mail.mail(&[2, 2], PrekeyPolicy::Off, None, vec![token("x")]).unwrap_err().to_string();
    assert!(twice.ends_with("is named twice"), "{twice}");
    let sender_key = &mail.sender;
    let recipients = vec![(Address::repeat_byte(0x77), 0)];
    let prekeys = PrekeyPolicy::Off;
    let mailing =
        Mailing { sender: ISSUER, sender_key, payloads: vec![token("x")], recipients, prekeys, resends: None };
    let effective = mail.world.ledger.effective();
    let unknown = blocking(mailing::mail(&effective, mailing, &mail.stores, &mail.outbox, now(), &mut |_| {}));
    assert!(unknown.unwrap_err().to_string().contains("has no sealing key on the ledger"));
    assert_eq!(mail.outbox.books().unwrap(), []);
    assert_eq!(mail.store.list().unwrap(), []);
}

fn rule(text: &str) -> Rotation {
    toml::from_str(&format!("name = \"token\"\n{text}")).unwrap()
}

const SECRET: &str = "make = \"secret\"\nbytes = 32\nevery = \"1h\"";

#[test]
fn a_locked_or_revoked_host_or_user_gets_nothing_by_whatever_name_it_is_called() {
    let mut mail = Mail::new();
    let (member, x25519) = (true, B256::from(SecretKey::generate().unwrap().public().to_bytes()));
    let (actor, subject) = (DEVICES[2], mail.world.alice.0.into());
    mail.world.ledger.log(ADMIN, Entry::MemberSet(payload::MemberSet { actor, member, subject, x25519 }));
    let (web, alice) = (mail.world.web, mail.world.alice);
    let mut effective = mail.world.ledger.effective();
    let by_name = rule(&format!("{SECRET}\nto = [\"web\", \"user:alice\", \"nobody\"]"));
    let by_label = rule(&format!("{SECRET}\nlabel = [\"prod\"]"));
    effective.hosts.get_mut(&web).unwrap().labels.insert("prod".to_owned());
    let targets = Targets::of(&effective, &by_name);
    assert_eq!(targets.addresses.keys().copied().collect::<Vec<_>>(), DEVICES);
    assert_eq!(targets.left_out.into_iter().collect::<Vec<_>>(), ["nobody: not on the ledger"]);

    for (state, word) in [(State::Locked, "locked"), (State::Revoked, "revoked")] {
        effective.hosts.get_mut(&web).unwrap().state = state;
        let targets = Targets::of(&effective, &by_name);
        assert_eq!(targets.addresses, [(DEVICES[2], alice)].into(), "the others get theirs");
        let left_out: Vec<String> = targets.left_out.into_iter().collect();
        assert_eq!(left_out, ["nobody: not on the ledger".to_owned(), format!("web: {word}")]);
        assert!(Targets::of(&effective, &by_label).addresses.is_empty());
        assert!(deliver::recipients(&effective, web).is_empty());
        assert_eq!(deliver::ledger_keys(&effective, web), DEVICES[..2], "what was sent to it before is still listed");
        deliver::check_recipient(&effective, DEVICES[2]).unwrap();
        // Nor by its address, as `send` and `resend` have it, in an envelope or alone.
        let mailing = |prekeys| Mailing {
            sender: ISSUER,
            sender_key: &mail.sender,
            payloads: vec![token("x")],
            recipients: vec![(DEVICES[0], 0)],
            prekeys,
            resends: None,
        };
        let mut report = |_| {};
        let envelope =
            mailing::mail(&effective, mailing(PrekeyPolicy::Off), &mail.stores, &mail.outbox, now(), &mut report);
        let parcel = Parcel {
            sender: ISSUER,
            sender_key: &mail.sender,
            recipient: DEVICES[0],
            payload: token("x"),
            prekeys: PrekeyPolicy::Off,
        };
        let alone = deliver::post(&effective, parcel, &mail.stores, &mail.outbox, now());
        for refused in [blocking(envelope).unwrap_err(), blocking(alone).unwrap_err()] {
            assert!(refused.to_string().ends_with(&format!("which is {word}; nothing is sent to it")), "{refused}");
        }
        assert_eq!((mail.store.list().unwrap().len(), mail.outbox.books().unwrap().len()), (0, 0));
        effective.users.get_mut(&alice).unwrap().state = state;
        assert!(Targets::of(&effective, &by_name).addresses.is_empty());
        effective.users.get_mut(&alice).unwrap().state = State::Active;
    }
}

#[test]
fn a_recipient_without_a_prekey_left_is_left_out_alone() {
    let mail = Mail::new();
    mail.mail(&[0], PrekeyPolicy::Refuse, None, vec![token("x")]).unwrap();
    let effective = mail.world.ledger.effective();
    let mut targets = Targets::of(&effective, &rule(&format!("{SECRET}\nto = [\"web\"]")));
    let judge = |policy| mailing::unfit(&effective, DEVICES.into_iter(), policy, &mail.outbox).unwrap();
    assert!(judge(PrekeyPolicy::FallBack).is_empty() && judge(PrekeyPolicy::Off).is_empty());
    assert_eq!(judge(PrekeyPolicy::Require).into_keys().collect::<Vec<_>>(), [DEVICES[0], DEVICES[2]]);
    let unfit = judge(PrekeyPolicy::Refuse);
    assert!(matches!(unfit[&DEVICES[0]], IssueError::Prekey { recipient } if recipient == DEVICES[0]));
    targets.unfit = unfit.iter().map(|(address, error)| (*address, error.to_string())).collect();
    assert_eq!(targets.fit().addresses.into_keys().collect::<Vec<_>>(), DEVICES[1..]);
    assert_eq!(targets.fit().subjects, targets.subjects);
}

#[test]
fn a_name_that_several_live_hosts_have_gets_neither_certificate_nor_pair_of_its_own() {
    let mail = Mail::new();
    let mut effective = mail.world.ledger.effective();
    let host = effective.hosts.get_mut(&mail.world.web).unwrap();
    host.labels.insert("prod".to_owned());
    host.host_key = mail.world.subject.clone().into();
    let mut second = host.clone();
    let certificate = "make = \"host-certificate\"\nhost-ca = { ca = \"hosts\", ca-key = \"k\", ttl = \"1d\" }";
    let pairs = "make = \"command\"\nkind = \"x509-key-pair\"\ncommand = [\"/bin/x\"]\neach = true";
    let meant = |effective: &Effective, text: &str, whom: &str| {
        let targets = Targets::of(effective, &rule(&format!("{whom}\n{text}")));
        (targets.subjects.len(), targets.left_out.into_iter().collect::<Vec<_>>())
    };
    let by_label = "label = [\"prod\"]";
    let by_id = format!("to = [\"{}\"]", mail.world.web);
    for (state, several) in [(State::Active, true), (State::Locked, true), (State::Revoked, false)] {
        second.state = state;
        effective.hosts.insert(mail.world.database, second.clone());
        for text in [certificate, pairs] {
            for whom in [by_label, by_id.as_str()] {
                let (subjects, left_out) = meant(&effective, text, whom);
                assert_eq!(subjects, usize::from(!several), "{state:?} {whom} {left_out:?}");
                let told = left_out.iter().any(|line| line.starts_with("web: several hosts have this name"));
                assert_eq!(told, several, "{left_out:?}");
            }
        }
        let (subjects, left_out) = meant(&effective, SECRET, "to = [\"web\"]");
        assert_eq!((subjects, left_out.len()), if several { (0, 1) } else { (1, 0) }, "{left_out:?}");
    }
    effective.hosts.get_mut(&mail.world.web).unwrap().host_key = Default::default();
    let (subjects, left_out) = meant(&effective, certificate, by_label);
    assert_eq!((subjects, left_out), (0, vec!["web: no host key on the ledger".to_owned()]));
}
