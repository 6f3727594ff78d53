//! What somebody tries who holds a CA's key, an issuer's or an approver's, or chooses numbers: each starts from a login that is granted.

use std::num::NonZeroU64;

use countersign_certificate::{
    ApprovalTerms, Id, LogProof, RealmId, Target, approval_hash, encode_base64, label_digest, leaf_hash, merkle,
};
use countersign_snapshot::{Approval, CaState, Denial, Request, Snapshot, UserState, Verdict as Answer};
use countersign_sshd::{Query, Reason, decide};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use crate::decisions::{Case, line, run};
use crate::support::*;

/// The host's id where a label's digest stands.
fn host_as_label() -> [u8; 32] {
    let mut digest = [0; 32];
    digest[..16].copy_from_slice(&HOST.0);
    digest
}

/// Logs the certificate alone, as a leaf for this realm and CA.
fn log_alone_for(world: &mut World, realm: RealmId, ca: Id) {
    let leaf = leaf_hash(&realm, &ca, &world.draft.pre_certificate());
    world.proof = Proof::Exactly(LogProof::among(BATCH, &[leaf], 0).unwrap());
    (world.batch().root, world.batch().size) = (leaf, 1);
}

fn answer(verdict: Answer, approver: Option<Id>) -> Approval {
    Approval { verdict, approver, time_secs: NOW - 10, approval_hash: [0; 32] }
}

const ATTACKS: &[Case] = &[
    // Scope: one kind of target read as another.
    ("this host's id as a label", Reason::ScopeHost, |w| w.scope().target = Target::Label(host_as_label())),
    ("this host's id as a label, beside labels", Reason::ScopeHost, |w| {
        w.access.labels = vec![label_digest("web")];
        w.scope().target = Target::Label(host_as_label());
    }),
    ("the head of a label's digest as a host id", Reason::ScopeHost, |w| {
        w.access.labels = vec![label_digest("web")];
        let head = *label_digest("web").first_chunk::<16>().unwrap();
        w.scope().target = Target::Host(Id(head));
    }),
    ("a label of zeros", Reason::ScopeHost, |w| w.scope().target = Target::Label([0; 32])),
    ("a host of zeros", Reason::ScopeHost, |w| w.scope().target = Target::Host(Id([0; 16]))),
    ("a label that was taken from this host", Reason::ScopeHost, |w| {
        w.scope().target = Target::Label(label_digest("web"));
        w.access.labels.clear();
    }),
    ("a user's id as the grant", Reason::GrantUnknown, |w| w.scope().grant = ALICE),
    ("the subject group's id as the user", Reason::UserUnknown, |w| {
        w.grant().subject = countersign_snapshot::Subject::Group(GROUP);
        w.access.memberships.push((GROUP, ALICE));
        w.scope().user = GROUP;
    }),
    // Our extensions where sshd would not read them as such.
    ("the log proof as a critical option", Reason::CriticalOption, |w| {
        w.draft.critical = vec![("log-proof@countersign", Some("AA".to_owned()))];
        w.proof = Proof::None;
    }),
    ("the scope as a critical option", Reason::CriticalOption, |w| {
        w.draft.critical = vec![("scope@countersign", w.draft.scope.map(|scope| scope.to_text()))];
        w.draft.scope = None;
    }),
    // Batches.
    ("a batch of this certificate alone", Reason::Granted, |w| log_alone_for(w, REALM, CA)),
    ("logged for the earlier realm that the scope names", Reason::Granted, |w| {
        w.issued_earlier();
        log_alone_for(w, EARLIER, CA);
    }),
    ("logged for this realm, where the scope names an earlier one", Reason::LogProofMismatch, |w| {
        w.issued_earlier();
        log_alone_for(w, REALM, CA);
    }),
    ("logged for an earlier realm, where the scope names this one", Reason::LogProofMismatch, |w| {
        w.access.realms = vec![EARLIER];
        log_alone_for(w, EARLIER, CA);
    }),
    ("logged for another CA", Reason::LogProofMismatch, |w| log_alone_for(w, REALM, Id([1; 16]))),
    ("logged for another realm", Reason::LogProofMismatch, |w| log_alone_for(w, RealmId([0; 32]), CA)),
    ("a proof of a tree of one against a batch of five", Reason::LogProofMismatch, |w| {
        w.proof = Proof::Exactly(LogProof::new(BATCH, 0, 1, Vec::new()).unwrap());
    }),
    ("a node of the tree as its root", Reason::LogProofMismatch, |w| {
        let leaf = leaf_hash(&REALM, &CA, &w.draft.pre_certificate());
        let node = merkle::node_hash(&leaf, &[3; 32]);
        w.proof = Proof::Exactly(LogProof::new(BATCH, 0, 2, vec![[3; 32]]).unwrap());
        w.batch().root = merkle::node_hash(&merkle::node_hash(&[1; 32], &[2; 32]), &node);
    }),
    ("an all-zero batch id", Reason::BatchUnknown, |w| {
        w.proof = Proof::Exactly(LogProof::new(Id([0; 16]), 0, 1, Vec::new()).unwrap());
    }),
    // Life.
    ("valid since 1970", Reason::TtlTooLong, |w| w.draft.valid_after = 0),
    ("valid without end", Reason::TtlTooLong, |w| w.draft.valid_before = u64::MAX),
    ("valid without end where nothing limits its life", Reason::BatchTime, |w| {
        (w.facts.max_ttl_secs, w.ca().max_ttl_secs) = (u64::MAX, u64::MAX);
        w.draft.valid_before = u64::MAX;
    }),
    ("valid without end under a CA that may certify nothing", Reason::TtlTooLong, |w| {
        w.ca().max_ttl_secs = 0;
        (w.draft.valid_after, w.draft.valid_before) = (NOW, u64::MAX);
    }),
    ("it ends after its batch's time and the longest life of its grant", Reason::BatchTime, |w| {
        w.grant().max_ttl_secs = NonZeroU64::new(300);
        w.batch().time_secs = NOW - 11;
    }),
    // Options that are there and empty.
    ("a source-address that is empty", Reason::SourceAddress, |w| {
        w.draft.critical = vec![("source-address", Some(String::new()))];
    }),
    ("a source-address that is a flag", Reason::SourceAddress, |w| w.draft.critical = vec![("source-address", None)]),
    ("a source-address that ends in a comma", Reason::SourceAddress, |w| {
        w.draft.critical = vec![("source-address", Some("192.0.2.0/24,".to_owned()))];
    }),
    ("a forced command with NUL", Reason::CriticalOption, |w| {
        w.draft.critical = vec![("force-command", Some("id\0sh".to_owned()))];
    }),
    ("an empty forced command against the grant's", Reason::ForceCommand, |w| {
        w.grant().forced_command = Some("id".to_owned());
        w.draft.critical = vec![("force-command", Some(String::new()))];
    }),
    // Principals.
    ("a principal with a newline", Reason::Principals, |w| w.draft.principals.push("deploy\nroot".to_owned())),
    ("a principal with a question mark", Reason::Principals, |w| w.draft.principals.push("deplo?".to_owned())),
    ("a principal with an exclamation mark", Reason::Principals, |w| w.draft.principals.push("!root".to_owned())),
    ("a principal with NUL", Reason::CertificateMalformed, |w| w.draft.principals.push("deploy\0root".to_owned())),
    ("the login as the last of 256 principals", Reason::Granted, |w| {
        w.draft.principals = (1..256).map(|number| format!("p{number}")).chain(["deploy".to_owned()]).collect();
    }),
    ("the login as the last of 257 principals", Reason::CertificateMalformed, |w| {
        w.draft.principals = (1..257).map(|number| format!("p{number}")).chain(["deploy".to_owned()]).collect();
    }),
    // Approvals.
    ("an approver who is removed", Reason::ApprovalsMissing, |w| {
        w.ask_for_approvals(1, &[BOB]);
        w.user(BOB).state = UserState::Removed;
    }),
    ("the approvals of another request", Reason::ApprovalsMissing, |w| {
        w.ask_for_approvals(1, &[BOB]);
        w.access.approvals[0].0 = Id([1; 16]);
    }),
    ("another user's approved request", Reason::ScopeUser, |w| {
        w.ask_for_approvals(1, &[CAROL]);
        w.access.requests[0].1.user = BOB;
    }),
    ("one approver, once more after somebody unknown", Reason::ApprovalsMissing, |w| {
        w.ask_for_approvals(2, &[BOB, Id([1; 16]), BOB, ALICE, BOB]);
    }),
    ("a denial by the requester", Reason::ApprovalDenied, |w| {
        w.ask_for_approvals(1, &[BOB]);
        w.approvals().push(answer(Answer::Deny, Some(ALICE)));
    }),
    ("a denial by nobody's key", Reason::ApprovalDenied, |w| {
        w.ask_for_approvals(1, &[BOB]);
        w.approvals().push(answer(Answer::Deny, None));
    }),
    ("a denial after 255 approvals", Reason::ApprovalDenied, |w| {
        w.ask_for_approvals(1, &[BOB; 255]);
        w.approvals().push(answer(Answer::Deny, Some(CAROL)));
    }),
    ("255 approvals asked for, by one", Reason::ApprovalsMissing, |w| w.ask_for_approvals(255, &[BOB; 255])),
    ("a denial where no approval is asked for", Reason::Granted, |w| {
        w.ask_for_approvals(1, &[BOB]);
        w.approvals().push(answer(Answer::Deny, Some(CAROL)));
        w.grant().approvals = 0;
    }),
];

#[test]
fn each_attack_with_a_certificate_ends_as_it_says_in_both_modes() {
    run(ATTACKS, World::new);
}

#[test]
fn a_forced_command_with_a_comment_sign_is_said_by_the_keys_command_alone() {
    let mut world = World::new();
    world.grant().forced_command = Some("echo \" #1".to_owned());
    let keys = line(world.judge(&world.keys_arguments()));
    assert!(keys.starts_with(r##"restrict,pty,command="echo \" #1",cert-authority,principals="deploy" "##), "{keys}");
    assert_eq!(refusal(world.judge(&world.principals_arguments())).reason, Reason::ForceCommand);
}

/// A key of each other type than Ed25519: its type's name, and the fields that follow.
fn keys_of_other_types() -> Vec<(&'static str, Vec<u8>)> {
    let point = |size: usize| string(&[&[4][..], &vec![1; size - 1]].concat());
    let modulus = string(&[&[0, 0x80][..], &[1; 255]].concat());
    vec![
        ("ssh-rsa", [string(&[1, 0, 1]), modulus].concat()),
        ("ecdsa-sha2-nistp256", [string(b"nistp256"), point(65)].concat()),
        ("ecdsa-sha2-nistp384", [string(b"nistp384"), point(97)].concat()),
        ("ecdsa-sha2-nistp521", [string(b"nistp521"), point(133)].concat()),
        ("sk-ssh-ed25519@openssh.com", [string(&[1; 32]), string(b"ssh:")].concat()),
        ("sk-ecdsa-sha2-nistp256@openssh.com", [string(b"nistp256"), point(65), string(b"ssh:")].concat()),
    ]
}

#[test]
fn a_key_of_each_type_is_printed_as_the_type_that_it_is() {
    for (name, fields) in keys_of_other_types() {
        let blob = [string(name.as_bytes()), fields.clone()].concat();
        let mut world = World::plain();
        world.access.keys[0].0 = fingerprint(&blob);
        world.plain_key.clone_from(&blob);
        assert_eq!(line(world.verdict()), format!("restrict,pty {name} {}", encode_base64(&blob)));
        // Nor does a key that is registered open anything under another type's name.
        world.plain_key = [string(b"ssh-ed25519"), fields].concat();
        assert_ne!(world.verdict().reason(), Reason::Granted, "{name}");
    }
}

#[test]
fn a_certificate_over_a_key_of_each_type_is_judged_as_a_certificate() {
    for (name, fields) in keys_of_other_types() {
        let mut world = World::new();
        world.draft.key = [string(name.as_bytes()), fields].concat();
        assert_eq!(world.verdict().reason(), Reason::Granted, "{name}");
        // Were it taken for the plain key that it certifies, that key's registration would open the door.
        world.access.keys[0].0 = fingerprint(&world.draft.key);
        world.access.cas.clear();
        assert_eq!(world.verdict().reason(), Reason::CaUnknown, "{name}");
        world.access.revoked_keys.push((fingerprint(&world.draft.key), Denial::Revoked));
        assert_eq!(world.verdict().reason(), Reason::KeyRevoked, "{name}");
    }
}

#[test]
fn a_ca_whose_record_holds_another_key_than_it_is_found_by_certifies_nobody() {
    let world = World::new();
    let folder = directory();
    world.publish(folder.path());
    let path = folder.path().join("access/base.1");
    let mut base = std::fs::read(&path).unwrap();
    let places: Vec<usize> = (0..base.len() - 51).filter(|at| base[*at..at + 51] == ca_key()).collect();
    let [place] = places[..] else { panic!("the CA's key stands in {} places", places.len()) };
    base[place + 20] ^= 1;
    // The page gets the checksum of what it holds now.
    let number = place / 4096;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&1_u64.to_be_bytes());
    hasher.update(&u32::try_from(number).unwrap().to_be_bytes());
    hasher.update(&base[number * 4096..][..4092]);
    base[number * 4096 + 4092..][..4].copy_from_slice(&hasher.finalize().to_be_bytes());
    std::fs::write(&path, base).unwrap();
    let query = Query::from_arguments(&world.keys_arguments()).unwrap();
    let snapshot = Snapshot::open(folder.path(), own_trust()).unwrap();
    snapshot.verify().unwrap();
    let refused = refusal(decide(&snapshot, &query, &world.clock));
    assert_eq!(
        (refused.reason, refused.detail.as_str()),
        (Reason::SnapshotCorrupt, "the CA's record holds another key than it is found by")
    );
}

/// A time: mostly within `spread` of `base`, sometimes as far away as a number goes.
fn near(base: u64, spread: u64) -> impl Strategy<Value = u64> {
    prop_oneof![
        40 => base - spread..=base + spread,
        1 => prop::sample::select(vec![0, 1, NOW, u64::MAX - 30, u64::MAX - 1, u64::MAX]),
    ]
}

/// Seconds: mostly enough.
fn limit() -> impl Strategy<Value = u64> {
    prop_oneof![12 => Just(3600), 3 => 0..700_u64, 1 => prop::sample::select(vec![u64::MAX - 30, u64::MAX])]
}

#[derive(Debug, Clone)]
struct Numbers {
    now: u64,
    boottime: u64,
    published: u64,
    age: u64,
    staleness: u64,
    block: u64,
    highest_wall: u64,
    after: u64,
    before: u64,
    realm_ttl: u64,
    ca_ttl: u64,
    grant_ttl: Option<NonZeroU64>,
    grant_end: Option<NonZeroU64>,
    batch: u64,
    batch_end: u64,
    retired: Option<u64>,
    approved: Option<(u64, u64)>,
}

fn numbers() -> impl Strategy<Value = Numbers> {
    let age = prop_oneof![8 => Just(0), 1 => limit()];
    let host = (near(NOW, 60), near(5_120, 120), near(5_000, 120), age, limit(), near(NOW, 60), near(NOW - 100, 120));
    let life = (near(NOW - 120, 150), near(NOW + 300, 350), limit(), limit());
    let grant = (prop::option::of(limit()), prop::option::of(near(NOW + 200, 300)));
    let batch = (near(NOW - 50, 150), near(NOW + 700, 300), prop::option::weighted(0.3, near(NOW + 50, 150)));
    let approved = prop::option::weighted(0.3, (near(NOW - 100, 200), limit()));
    (host, life, grant, batch, approved).prop_map(|(host, life, grant, batch, approved)| Numbers {
        now: host.0,
        boottime: host.1,
        published: host.2,
        age: host.3,
        staleness: host.4,
        block: host.5,
        highest_wall: host.6,
        after: life.0,
        before: life.1,
        realm_ttl: life.2,
        ca_ttl: life.3,
        grant_ttl: grant.0.and_then(NonZeroU64::new),
        grant_end: grant.1.and_then(NonZeroU64::new),
        batch: batch.0,
        batch_end: batch.1,
        retired: batch.2,
        approved,
    })
}

impl Numbers {
    fn world(&self) -> World {
        let mut world = World::new();
        world.clock.unix_secs = self.now;
        world.clock.boottime_secs = self.boottime;
        world.freshness.boottime_secs = self.published;
        world.freshness.age_consumed_secs = self.age;
        world.freshness.max_staleness_secs = self.staleness;
        world.freshness.valid_until_secs = self.block + self.staleness;
        world.freshness.highest_wall_secs = self.highest_wall;
        world.facts.latest_block.time_secs = self.block;
        world.facts.max_ttl_secs = self.realm_ttl;
        (world.draft.valid_after, world.draft.valid_before) = (self.after, self.before);
        world.ca().max_ttl_secs = self.ca_ttl;
        world.grant().max_ttl_secs = self.grant_ttl;
        world.grant().not_after_secs = self.grant_end;
        (world.batch().time_secs, world.batch().not_after_secs) = (self.batch, self.batch_end);
        if let Some(at_secs) = self.retired {
            world.ca().state = CaState::Retired { at_secs };
        }
        if let Some((time_secs, pickup_secs)) = self.approved {
            let ttl_secs = self.before.saturating_sub(self.after).saturating_sub(30);
            let terms = ApprovalTerms {
                request: REQUEST,
                user: ALICE,
                host: HOST,
                login: b"deploy",
                key: &certified_key(),
                ttl_secs,
            };
            let hash = approval_hash(&REALM, &terms).unwrap();
            world.facts.pickup_secs = pickup_secs;
            world.grant().approvals = 1;
            world.access.requests = vec![(REQUEST, Request { user: ALICE, approval_hash: hash, time_secs: NOW })];
            let approval = answer(Answer::Approve, Some(BOB));
            world.access.approvals = vec![(REQUEST, vec![Approval { time_secs, approval_hash: hash, ..approval }])];
        }
        world
    }

    /// The rules of the design, in numbers that cannot overflow.
    fn allowed(&self) -> bool {
        let wide = i128::from;
        let (now, after, before, batch) = (wide(self.now), wide(self.after), wide(self.before), wide(self.batch));
        let grant_ttl = self.grant_ttl.map_or(u64::MAX, NonZeroU64::get);
        let ttl = wide(self.realm_ttl.min(self.ca_ttl).min(grant_ttl));
        let elapsed = wide(self.boottime) - wide(self.published);
        let fresh = elapsed >= 0
            && elapsed + wide(self.age) <= wide(self.staleness)
            && now >= wide(self.highest_wall)
            && now + 30 >= wide(self.block)
            && now <= wide(self.block) + wide(self.staleness);
        let valid = after <= now && now < before && before - after <= ttl + 30;
        let logged = after >= batch - 120 && before <= wide(self.batch_end).min(batch + ttl);
        let of_ca = self.retired.is_none_or(|retired| batch < wide(retired));
        let of_grant = self.grant_end.is_none_or(|end| now <= wide(end.get()));
        let approved = self.approved.is_none_or(|(time, pickup)| {
            before - after >= 30 && before <= wide(time) + (before - after - 30) + wide(pickup)
        });
        fresh && valid && logged && of_ca && of_grant && approved
    }
}

/// So that the property below says something about both outcomes.
#[test]
fn the_numbers_allow_a_login_often_enough_and_refuse_it_often_enough() {
    let mut runner = TestRunner::deterministic();
    let mut next = || numbers().new_tree(&mut runner).unwrap().current();
    let counted = (0..1000).map(|_| next()).filter(|numbers| numbers.block.checked_add(numbers.staleness).is_some());
    let (allowed, refused): (Vec<_>, Vec<_>) = counted.partition(Numbers::allowed);
    assert!(allowed.len() >= 50 && refused.len() >= 50, "{} and {}", allowed.len(), refused.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_numbers_are_a_login_is_granted_exactly_when_the_rules_allow_it(numbers in numbers()) {
        prop_assume!(numbers.block.checked_add(numbers.staleness).is_some());
        let verdict = numbers.world().verdict();
        prop_assert_eq!(verdict.reason() == Reason::Granted, numbers.allowed(), "{:?}", verdict);
    }
}
