//! Certificates that try to get in where they must not: against a real sshd, offered byte for byte by a client that reads nothing of
//! them first. Of each it is known who refuses it: our helper, with its reason, or sshd, which then never asks.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a scenario: a failure is its result"
)]

use countersign_certificate::{Id, LogProof, RealmId, Scope, Target, encode_base64, label_digest};
use countersign_registry::{Entry, entries::Targets};
use e2e::{
    agent,
    client::{Credential, Login, ssh},
    forge::{ALGORITHM, Forgery, sign, text},
    in_bed, machine,
    machine::KeyFile,
    probe::{Offer, offer, offer_all},
    realm::{self, Directory, Grant, Settings},
    sshd::Options,
    story::{CA_MAX_TTL, Setup, Story, now},
};

const CA_FILE: &str = "/etc/countersign/ca-keys";
const LOGIN: &str = "deploy";
/// Where the choice of flipped bits begins.
const SEED: u64 = 0x05ee_d0ff_11b5;
/// Connections over which flipped certificates are offered at a time: fewer than sshd begins to turn away (`MaxStartups 10`).
const CONNECTIONS: usize = 8;
/// Bytes behind those that an Ed25519 CA signs: lengths, the algorithm's name, the signature.
const SIGNATURE_BYTES: usize = 4 + 4 + 11 + 4 + 64;
/// One byte in so many is also flipped by somebody who holds the CA's key, and signed again.
const SIGNED_AGAIN_STEP: usize = 4;

/// Who refuses, and how it says so.
#[derive(Clone, Copy)]
enum By {
    /// Nobody.
    Granted,
    /// The helper, with this reason.
    Helper(&'static str),
    /// sshd, with a line that holds this text, without asking the helper.
    Sshd(&'static str),
}
use By::{Granted, Helper, Sshd};

struct Case {
    name: &'static str,
    by: By,
    blob: Vec<u8>,
}

/// What was said about one offered blob.
struct Answer {
    offer: Offer,
    /// The reasons in the helper's lines.
    reasons: Vec<String>,
    sshd: Vec<String>,
}

struct Gate {
    story: Story,
}

impl Gate {
    /// A realm that takes logged certificates only. sshd asks the keys command.
    fn begin() -> Self {
        let sshd = Options { ca_file: Some(CA_FILE), max_auth_tries: 10_000, ..Options::default() };
        machine::write(CA_FILE, "", 0o644);
        Self { story: Story::begin(Setup { settings: Settings::default(), via: 1, sshd, ..Setup::default() }) }
    }

    /// Puts the CA into sshd's file of them: from now on it asks the principals command first, and the keys command where that refuses.
    fn trust_ca(&self) {
        machine::write(CA_FILE, &format!("{}\n", self.story.ca_key.public_line()), 0o644);
    }

    /// Offers one blob.
    fn ask(&mut self, blob: &[u8]) -> Answer {
        self.new_lines();
        let offer = offer(LOGIN, &[(ALGORITHM, blob)])[0];
        let [helper, sshd] = self.lines_of(1);
        let reason = |line: &String| line.split(' ').next().unwrap().strip_prefix("reason=").unwrap().to_owned();
        Answer { offer, reasons: helper.iter().map(reason).collect(), sshd }
    }

    /// What the helper and sshd have logged since the last call.
    fn new_lines(&mut self) -> [Vec<String>; 2] {
        self.story.log.news(["countersign-sshd", "sshd"])
    }

    /// The same once so many connections have ended: what sshd says of them goes through one process more than what the helper says.
    fn lines_of(&mut self, connections: usize) -> [Vec<String>; 2] {
        for _ in 0..connections {
            self.story.log.wait("sshd", "Connection closed by ");
        }
        self.new_lines()
    }

    /// Offers each and tells all that did not go as expected.
    fn check(&mut self, cases: &[Case]) {
        let mut wrong = Vec::new();
        for Case { name, by, blob } in cases {
            let answer = self.ask(blob);
            let as_expected = match by {
                Granted => {
                    answer.offer == Offer::Taken
                        && !answer.reasons.is_empty()
                        && answer.reasons.iter().all(|r| r == "granted")
                }
                // In the principals command's place sshd asks the keys command about the same certificate.
                Helper(reason) => {
                    answer.offer == Offer::Refused
                        && !answer.reasons.is_empty()
                        && answer.reasons.iter().all(|r| r == reason)
                }
                Sshd(text) => {
                    answer.offer == Offer::Refused
                        && answer.reasons.is_empty()
                        && answer.sshd.iter().any(|line| line.contains(text))
                }
            };
            if !as_expected {
                let Answer { offer, reasons, sshd } = answer;
                wrong.push(format!("{name}: {offer:?}, helper {reasons:?}, sshd {sshd:#?}"));
            }
        }
        assert!(wrong.is_empty(), "{} of {} went otherwise:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    }

    fn good(&self) -> Forgery {
        Forgery::of(&self.story.mint())
    }

    fn realm_id(&self) -> RealmId {
        RealmId(self.story.realm.id().0)
    }

    /// A batch by `ca` of one leaf, which is `forgery`'s for the story's CA, and the proof of it.
    fn log(&self, forgery: &Forgery, ca: Id, leaf_ca: Id, not_after: u64) -> LogProof {
        let leaf = forgery.leaf(self.realm_id(), leaf_ca);
        LogProof::among(self.story.realm.log_batch(ca, &[leaf], not_after), &[leaf], 0).unwrap()
    }

    /// Cases that are refused for what they say, before their batch matters.
    fn malformed(&self, others: &Others) -> Vec<Case> {
        let story = &self.story;
        let case = |name, by, change: &dyn Fn(&mut Forgery)| {
            let mut forgery = self.good();
            change(&mut forgery);
            Case { name, by, blob: forgery.sign(&story.ca_key) }
        };
        let principals = |name, by, names: &[&str]| {
            case(name, by, &|it| it.principals = names.iter().map(|name| name.as_bytes().to_vec()).collect())
        };
        let numbered = |last: usize| -> Vec<Vec<u8>> {
            (1..last).map(|number| format!("p{number}").into_bytes()).chain([LOGIN.as_bytes().to_vec()]).collect()
        };
        let scope = |name, by, change: &dyn Fn(&mut Scope)| {
            let mut scope = story.scope(Target::Host(story.host));
            change(&mut scope);
            case(name, by, &|it| it.extensions[1].1 = text(&scope.to_text()))
        };
        let option = |name: &str, data: &[u8]| (name.as_bytes().to_vec(), data.to_vec());
        let proof_of_33 = {
            let head = [&[1][..], &[7; 16], &0_u32.to_be_bytes(), &u32::MAX.to_be_bytes(), &[33]].concat();
            encode_base64(&[head, vec![9; 33 * 32]].concat()).replace('+', "-").replace('/', "_").replace('=', "")
        };
        vec![
            principals("no principals", Helper("principals"), &[]),
            principals("an empty principal", Helper("principals"), &[""]),
            principals("an empty principal beside the login", Helper("principals"), &["", LOGIN]),
            principals("a comma", Helper("principals"), &["deploy,root"]),
            principals("a comma beside the login", Helper("principals"), &[LOGIN, "deploy,root"]),
            principals("a star", Helper("principals"), &["*"]),
            principals("a question mark", Helper("principals"), &["deplo?"]),
            principals("an exclamation mark", Helper("principals"), &["!root", LOGIN]),
            principals("a space", Helper("principals"), &["deploy root"]),
            principals("a newline", Helper("principals"), &["deploy\nroot"]),
            principals("a quote", Helper("principals"), &["deploy\""]),
            principals("another login", Helper("principals"), &["root"]),
            case("the login as the last of 256 principals", Helper("log-proof-missing"), &|it| {
                it.principals = numbered(256)
            }),
            case("the login as the last of 257 principals", Sshd("parse key"), &|it| it.principals = numbered(257)),
            case("a principal with NUL", Helper("certificate-malformed"), &|it| {
                it.principals = vec![b"deploy\0".to_vec()]
            }),
            case("an unknown critical option", Helper("critical-option"), &|it| {
                it.critical = vec![option("no-such@example.org", b"")]
            }),
            case("the scope as a critical option", Helper("critical-option"), &|it| {
                it.critical = vec![it.extensions.remove(1)]
            }),
            case("a critical option twice", Helper("certificate-malformed"), &|it| {
                it.critical = vec![option("force-command", &text("id")), option("force-command", &text("sh"))];
            }),
            case("critical options out of order", Helper("certificate-malformed"), &|it| {
                it.critical =
                    vec![option("source-address", &text("127.0.0.1/32")), option("force-command", &text("id"))];
            }),
            case("extensions out of order", Helper("certificate-malformed"), &|it| it.extensions.reverse()),
            case("the scope twice", Helper("certificate-malformed"), &|it| {
                it.extensions.push(it.extensions[1].clone())
            }),
            case("a scope with a byte behind it", Helper("scope-malformed"), &|it| it.extensions[1].1.push(0)),
            case("no scope", Helper("scope-missing"), &|it| it.extensions.truncate(1)),
            case("bytes in what is reserved", Helper("certificate-malformed"), &|it| it.reserved = vec![0]),
            case("a byte behind the signature", Sshd("parse key"), &|it| it.trailing = vec![0]),
            case("a host certificate", Helper("certificate-type"), &|it| it.cert_type = 2),
            case("neither user nor host certificate", Sshd("parse key"), &|it| it.cert_type = 3),
            case("a certificate as the CA's key", Sshd("parse key"), &|it| {
                it.signature_key = self.good().sign(&story.ca_key)
            }),
            case("signed by another than it says", Sshd("parse key"), &|it| it.signature_key = story.key.blob()),
            case("valid from its end on", Helper("certificate-not-yet-valid"), &|it| {
                std::mem::swap(&mut it.valid_after, &mut it.valid_before)
            }),
            case("valid for ever", Helper("ttl-too-long"), &|it| (it.valid_after, it.valid_before) = (0, u64::MAX)),
            case("a serial of zero", Helper("log-proof-missing"), &|it| it.serial = 0),
            case("a log proof with a path of 33", Helper("log-proof-malformed"), &|it| {
                it.extensions.insert(0, option("log-proof@countersign", &text(&proof_of_33)));
            }),
            scope("the scope of another realm", Helper("scope-realm"), &|it| it.realm = RealmId([7; 32])),
            scope("the scope of another host", Helper("scope-host"), &|it| it.target = Target::Host(story.other_host)),
            scope("the scope of a label that is not here", Helper("scope-host"), &|it| {
                it.target = Target::Label(label_digest("db"))
            }),
            scope("a host's id as the user", Helper("user-unknown"), &|it| it.user = Id(it.user.0.map(|byte| !byte))),
            scope("the scope of no grant", Helper("grant-unknown"), &|it| it.grant = it.user),
            scope("the scope of a grant that was removed", Helper("grant-unknown"), &|it| it.grant = others.removed),
            scope("the scope of another user's grant", Helper("no-grant"), &|it| it.grant = others.grant),
            scope("the scope of another user", Helper("no-grant"), &|it| it.user = others.user),
            scope("the scope of a user who is locked", Helper("user-locked"), &|it| {
                (it.user, it.grant) = (others.locked, others.grant);
            }),
            scope("the scope of one's grant on another host", Helper("host-not-covered"), &|it| {
                it.grant = others.elsewhere
            }),
            scope("the scope of one's grant of another login", Helper("login-not-granted"), &|it| {
                it.grant = others.login;
            }),
        ]
    }
}

/// What belongs to others than alice, here and now.
struct Others {
    user: Id,
    locked: Id,
    /// Of `user`, on this host.
    grant: Id,
    /// alice's, on another host.
    elsewhere: Id,
    /// alice's, here, as `backup2`.
    login: Id,
    /// alice's, here, removed.
    removed: Id,
}

impl Others {
    fn write(story: &Story) -> Self {
        let mut directory = Directory::of(&story.realm);
        let (user, locked) = (directory.user("bob"), directory.user("mallory"));
        let grant = |directory: &mut Directory<'_>, subject, host, login| {
            directory.grant(&Grant { subject, hosts: &[host], logins: &[login], via: 1, ..Grant::default() })
        };
        let others = Self {
            user,
            locked,
            grant: grant(&mut directory, user, story.host, LOGIN),
            elsewhere: grant(&mut directory, story.alice, story.other_host, LOGIN),
            login: grant(&mut directory, story.alice, story.host, "backup2"),
            removed: grant(&mut directory, story.alice, story.host, LOGIN),
        };
        directory.write();
        story.publish();
        story.realm.by(|realm| &realm.admin, &[Entry::Remove(vec![others.removed])]);
        story.realm.by(|realm| &realm.revoker, &[Entry::Lock(Targets::Users(vec![locked]))]);
        agent::once();
        others
    }
}

#[test]
fn certificates_that_lie_are_refused_by_either_command_or_by_sshd() {
    in_bed!(|| {
        let mut gate = Gate::begin();
        let others = Others::write(&gate.story);
        let cases = gate.malformed(&others);
        gate.check(&cases);
        gate.trust_ca();
        gate.check(&cases);
    });
}

#[test]
fn certificates_whose_place_in_the_log_is_not_their_own_are_refused() {
    in_bed!(|| {
        let mut gate = Gate::begin();
        let (first_ca, first_key) = (gate.story.ca, gate.story.ca_key.clone());
        let (other_key, retired_key) = (KeyFile::generate("other"), KeyFile::generate("retired"));
        let other_ca = gate.story.realm.add_ca("other", &other_key, CA_MAX_TTL, &[]);
        let retired_ca = gate.story.realm.add_ca("retired", &retired_key, CA_MAX_TTL, &[]);
        gate.story.publish();
        gate.story.realm.by(|realm| &realm.revoker, &[Entry::CaRetire(vec![retired_ca])]);
        let not_after = now() + CA_MAX_TTL;

        let good = gate.good();
        let proof = gate.log(&good, first_ca, first_ca, not_after);
        let elsewhere = gate.log(&good, other_ca, first_ca, not_after);
        let never = LogProof::among(Id(realm::random()), &[good.leaf(gate.realm_id(), first_ca)], 0).unwrap();
        let long_path = LogProof::new(proof.batch(), 0, u32::MAX, vec![[9; 32]; 32]).unwrap();
        let early = Forgery { valid_after: now() - 300, valid_before: now() + 200, ..gate.good() };
        let early_proof = gate.log(&early, first_ca, first_ca, not_after);
        let late = gate.good();
        let late_proof = gate.log(&late, first_ca, first_ca, late.valid_before - 1);
        let retired = Forgery { signature_key: retired_key.blob(), ..gate.good() };
        let retired_proof = gate.log(&retired, retired_ca, retired_ca, not_after);
        // Two certificates with one serial, each logged.
        let twins = [gate.good(), gate.good()].map(|it| Forgery { serial: 42, ..it });
        let twins = [twins[0].clone(), Forgery { valid_before: twins[1].valid_before - 1, ..twins[1].clone() }];
        let twin_proofs = twins.each_ref().map(|twin| gate.log(twin, first_ca, first_ca, not_after));
        agent::once();

        let case = |name, by, blob| Case { name, by, blob };
        let twin = |by, index: usize| {
            case("one of two with one serial", by, twins[index].sign_logged(&first_key, &twin_proofs[index]))
        };
        gate.check(&[
            case("logged", Granted, good.sign_logged(&first_key, &proof)),
            case("not logged", Helper("log-proof-missing"), good.sign(&first_key)),
            case("the proof of another", Helper("log-proof-mismatch"), gate.good().sign_logged(&first_key, &proof)),
            case("a root that was never logged", Helper("batch-unknown"), good.sign_logged(&first_key, &never)),
            case("in a batch of another CA", Helper("log-proof-mismatch"), good.sign_logged(&first_key, &elsewhere)),
            case(
                "a path of 32 to a batch of one",
                Helper("log-proof-mismatch"),
                good.sign_logged(&first_key, &long_path),
            ),
            case("valid long before its batch", Helper("batch-time"), early.sign_logged(&first_key, &early_proof)),
            case("valid beyond its batch", Helper("batch-time"), late.sign_logged(&first_key, &late_proof)),
            case("by a CA retired before", Helper("ca-retired"), retired.sign_logged(&retired_key, &retired_proof)),
            twin(Granted, 0),
            twin(Granted, 1),
        ]);
        // A serial names whatever bears it: revoked, both are.
        gate.story.realm.revoke_certificate(first_ca, 42, twins[0].valid_before, now());
        agent::once();
        gate.check(&[twin(Helper("certificate-revoked"), 0), twin(Helper("certificate-revoked"), 1)]);
    });
}

/// `blob` with each of its bytes flipped in one bit, one at a time.
fn flipped(blob: &[u8], random: &mut impl FnMut() -> usize, step: usize) -> Vec<Vec<u8>> {
    let at = |position| {
        let mut altered = blob.to_vec();
        altered[position] ^= 1 << (random() % 8);
        altered
    };
    (0..blob.len()).step_by(step).map(at).collect()
}

#[test]
fn no_flipped_byte_of_a_good_certificate_opens_a_login() {
    in_bed!(|| {
        let mut gate = Gate::begin();
        let good = gate.good();
        let proof = gate.log(&good, gate.story.ca, gate.story.ca, now() + CA_MAX_TTL);
        agent::once();
        let ca = gate.story.ca_key.clone();
        let blob = good.sign_logged(&ca, &proof);
        let mut state = SEED;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap()
        };
        // All of them under the keys command, then under the principals command.
        for mode in ["keys", "principals"] {
            if mode == "principals" {
                gate.trust_ca();
            }
            let granted = |gate: &mut Gate| {
                let answer = gate.ask(&blob);
                assert_eq!((answer.offer, answer.reasons), (Offer::Taken, vec!["granted".to_owned()]), "{mode}");
            };
            granted(&mut gate);
            let altered = flipped(&blob, &mut random, 1);
            let answers = offer_all(LOGIN, ALGORITHM, &altered, CONNECTIONS);
            assert_eq!(answers.len(), blob.len());
            let taken: Vec<usize> =
                (0..).zip(answers).filter(|(_, it)| *it == Offer::Taken).map(|(at, _)| at).collect();
            assert_eq!(taken, [0; 0], "seed {SEED:#x}, {mode}: bytes that may be flipped");
            let [helper, _] = gate.lines_of(CONNECTIONS);
            assert!(!helper.iter().any(|line| line.starts_with("reason=granted")), "{helper:#?}");
            granted(&mut gate);
        }
        let path = gate.story.key.path.with_file_name("whole-cert.pub");
        machine::write(&path, &format!("{ALGORITHM} {}\n", encode_base64(&blob)), 0o644);
        let credential = Credential::certificate(&gate.story.key, &path);
        assert_eq!(ssh(&gate.story.sshd, LOGIN, &credential, "id -un"), Login::Accepted("deploy\n".to_owned()));

        // With a stolen CA key, what is flipped is signed again, and sshd has nothing to say: it is another certificate than was logged.
        gate.new_lines();
        let to_be_signed = &blob[..blob.len() - SIGNATURE_BYTES];
        let altered = flipped(to_be_signed, &mut random, SIGNED_AGAIN_STEP);
        let altered: Vec<Vec<u8>> = altered.into_iter().map(|bytes| sign(bytes, &ca)).collect();
        let answers = offer_all(LOGIN, ALGORITHM, &altered, CONNECTIONS);
        let taken = answers.iter().filter(|it| **it == Offer::Taken).count();
        let [helper, _] = gate.lines_of(CONNECTIONS);
        let mismatches = helper.iter().filter(|line| line.starts_with("reason=log-proof-mismatch")).count();
        assert!(taken == 0 && mismatches > 20, "seed {SEED:#x}: {taken} taken, {helper:#?}");
        assert!(!helper.iter().any(|line| line.starts_with("reason=granted")), "{helper:#?}");
    });
}
