//! Certificates that try to get in where they must not: against a real sshd, offered byte for byte by a client that reads nothing of
//! them first. Of each it is known who refuses it: our helper, with its reason, or sshd, which then never asks.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a scenario: a failure is its result"
)]

use std::os::unix::net::UnixDatagram;

use countersign_certificate::{Id, LogProof, RealmId, Scope, Target, encode_base64, label_digest};
use countersign_registry::Entry;
use e2e::{
    agent,
    client::{Credential, Login, ssh},
    forge::{ALGORITHM, Forgery, text},
    in_bed, machine,
    machine::KeyFile,
    probe::{Offer, offer},
    realm::{self, Settings},
    sshd::Options,
    story::{CA_MAX_TTL, Setup, Story, now},
};

const CA_FILE: &str = "/etc/countersign/ca-keys";
const LOGIN: &str = "deploy";
/// How many positions of a good certificate are flipped, one at a time.
const FLIPS: usize = 64;
/// Where the choice of positions begins.
const SEED: u64 = 0x05ee_d0ff_11b5;

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
    marks: u64,
    seen: [usize; 2],
}

impl Gate {
    /// A realm that takes logged certificates only; with a CA file sshd asks the principals command first.
    fn begin(ca_file: Option<&'static str>) -> Self {
        let sshd = Options { ca_file, ..Options::default() };
        let story = Story::begin(Setup { settings: Settings::default(), via: 1, sshd, ..Setup::default() });
        if let Some(path) = ca_file {
            machine::write(path, &format!("{}\n", story.ca_key.public_line()), 0o644);
        }
        Self { story, marks: 0, seen: [0; 2] }
    }

    /// Offers one blob.
    fn ask(&mut self, blob: &[u8]) -> Answer {
        self.new_lines();
        let offer = offer(LOGIN, &[(ALGORITHM, blob)])[0];
        let [helper, sshd] = self.new_lines();
        let reason = |line: &String| line.split(' ').next().unwrap().strip_prefix("reason=").unwrap().to_owned();
        Answer { offer, reasons: helper.iter().map(reason).collect(), sshd }
    }

    /// What the helper and sshd have logged since the last call. A line of our own, behind theirs, shows that all of it is there.
    fn new_lines(&mut self) -> [Vec<String>; 2] {
        self.marks += 1;
        let mark = format!("mark {}.", self.marks);
        UnixDatagram::unbound().unwrap().send_to(format!("<38>scenario: {mark}").as_bytes(), "/dev/log").unwrap();
        self.story.log.wait("scenario", &mark);
        ["countersign-sshd", "sshd"].map(|program| {
            let index = usize::from(program == "sshd");
            let lines = self.story.log.of(program);
            let new = lines[self.seen[index]..].to_vec();
            self.seen[index] = lines.len();
            new
        })
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
    fn malformed(&self) -> Vec<Case> {
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
            scope("the scope of another grant", Helper("grant-unknown"), &|it| it.grant = it.user),
        ]
    }
}

#[test]
fn certificates_that_lie_are_refused_by_the_keys_command_or_by_sshd() {
    in_bed!(|| {
        let mut gate = Gate::begin(None);
        let cases = gate.malformed();
        gate.check(&cases);
    });
}

#[test]
fn certificates_that_lie_are_refused_by_the_principals_command_or_by_sshd() {
    in_bed!(|| {
        let mut gate = Gate::begin(Some(CA_FILE));
        let cases = gate.malformed();
        gate.check(&cases);
    });
}

#[test]
fn certificates_whose_place_in_the_log_is_not_their_own_are_refused() {
    in_bed!(|| {
        let mut gate = Gate::begin(None);
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

#[test]
fn no_flipped_byte_of_a_good_certificate_opens_a_login() {
    in_bed!(|| {
        let mut gate = Gate::begin(None);
        let good = gate.good();
        let proof = gate.log(&good, gate.story.ca, gate.story.ca, now() + CA_MAX_TTL);
        agent::once();
        let blob = good.sign_logged(&gate.story.ca_key, &proof);
        assert_eq!(offer(LOGIN, &[(ALGORITHM, &blob)]), [Offer::Taken]);

        let mut state = SEED;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap()
        };
        let flipped: Vec<(usize, u8, Vec<u8>)> = (0..FLIPS)
            .map(|step| {
                // Spread over the whole certificate, somewhere in each part.
                let part = blob.len() / FLIPS;
                let at = (step * blob.len() / FLIPS + random() % part.max(1)).min(blob.len() - 1);
                let mask = 1 << (random() % 8);
                let mut altered = blob.clone();
                altered[at] ^= mask;
                (at, mask, altered)
            })
            .collect();
        let keys: Vec<(&str, &[u8])> = flipped.iter().map(|(.., altered)| (ALGORITHM, altered.as_slice())).collect();
        let taken = flipped.iter().zip(offer(LOGIN, &keys)).filter(|(_, answer)| *answer == Offer::Taken);
        let taken: Vec<(usize, u8)> = taken.map(|((at, mask, _), _)| (*at, *mask)).collect();
        assert_eq!(taken, [], "seed {SEED:#x}: positions and masks that were taken");
        assert_eq!(offer(LOGIN, &[(ALGORITHM, &blob)]), [Offer::Taken]);
        let path = gate.story.key.path.with_file_name("whole-cert.pub");
        machine::write(&path, &format!("{ALGORITHM} {}\n", encode_base64(&blob)), 0o644);
        let credential = Credential::certificate(&gate.story.key, &path);
        assert_eq!(ssh(&gate.story.sshd, LOGIN, &credential, "id -un"), Login::Accepted("deploy\n".to_owned()));
        gate.new_lines();
    });
}
