//! Mutated certificates, signed by CAs that the realm knows, before three judges: sshd with the helper, by either command; the helper's
//! decision by itself; and an sshd without us, which trusts the same CAs. What gets in is what both of the others would let in, no
//! more and no less. (`certificate/tests/differential` compares what they read.)
//!
//! `COUNTERSIGN_DIFFERENTIAL=20000 cargo test -p e2e --test differential` offers so many, `COUNTERSIGN_DIFFERENTIAL_SEED=n` others.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a scenario: a failure is its result"
)]

#[path = "../../certificate/tests/differential/generate.rs"]
mod generate;
#[path = "../../certificate/tests/differential/keys.rs"]
mod keys;

use std::{env, path::Path};

use countersign_certificate::{Certificate, Target, encode_base64};
use countersign_snapshot::{Clock, Snapshot, Trust};
use countersign_sshd::{Mode, Query, Verdict, decide};
use e2e::{
    agent, bed, in_bed, in_bed_of, machine,
    machine::KeyFile,
    probe::{Offer, offer_each},
    sshd::{Options, PLAIN_CAS, PLAIN_PORT, PLAIN_PRINCIPALS, PORT},
    story::{CA_MAX_TTL, Setup, Story, now},
};

use generate::{Mutant, Random, Source};
use keys::{Key, of_each_type, string};

const CA_FILE: &str = "/etc/countersign/ca-keys";
const LOGIN: &str = "deploy";
const CASES: u64 = 240;
/// Offered between two looks at the clock.
const ROUND: usize = 240;
/// Fewer than sshd begins to turn away (`MaxStartups 10`).
const CONNECTIONS: usize = 8;

fn number(variable: &str, otherwise: u64) -> u64 {
    env::var(variable).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// The public half as a file, as far as the realm and sshd look at it.
fn public_file(name: &str, key: &Key) -> KeyFile {
    let path = bed::folder("cas").join(name);
    let line = format!("{} {}\n", String::from_utf8_lossy(key.name()), encode_base64(&key.blob));
    machine::write(path.with_added_extension("pub"), &line, 0o644);
    KeyFile { path }
}

/// What a client says of the certificate beside it.
fn algorithm(mutant: &Mutant) -> &str {
    match std::str::from_utf8(&mutant.kind) {
        Ok("ssh-rsa-cert-v01@openssh.com") => "rsa-sha2-512-cert-v01@openssh.com",
        Ok(kind) => kind,
        Err(_) => "ssh-ed25519-cert-v01@openssh.com",
    }
}

/// Whether the decision by itself lets it in.
fn decided(snapshot: &Snapshot, blob: &[u8]) -> bool {
    let query = Query::offline(snapshot, Mode::Keys, LOGIN, blob).unwrap();
    matches!(decide(snapshot, &query, &Clock::now().unwrap()), Verdict::Accept { .. })
}

/// Offers so many, unless the environment says how many.
fn judge(cases: u64, pam: bool) {
    let sshd = Options { pam, ca_file: Some(CA_FILE), plain_port: true, max_auth_tries: 10_000, ..Options::default() };
    machine::write(CA_FILE, "", 0o644);
    machine::write(PLAIN_CAS, "", 0o644);
    machine::write(PLAIN_PRINCIPALS, &format!("{LOGIN}\n"), 0o644);
    let mut story = Story::begin(Setup { ca: false, via: 1, sshd, ..Setup::default() });
    let folder = bed::folder("differential");
    let (cas, users) = (of_each_type(&folder, "ca"), of_each_type(&folder, "user"));
    let mut lines = String::new();
    for (number, ca) in cas.iter().enumerate() {
        let file = public_file(&number.to_string(), ca);
        lines.push_str(&format!("{}\n", file.public_line()));
        story.realm.add_ca(&format!("ca{number}"), &file, CA_MAX_TTL, &[LOGIN]);
    }
    story.publish();
    machine::write(PLAIN_CAS, &lines, 0o644);

    let seed = number("COUNTERSIGN_DIFFERENTIAL_SEED", 1);
    let cases = usize::try_from(number("COUNTERSIGN_DIFFERENTIAL", cases)).unwrap();
    let scope = string(story.scope(Target::Host(story.host)).to_text().as_bytes());
    let (mut taken, mut ours, mut plains) = (0, 0, 0);
    let mut wrong = Vec::new();
    for round in (0..cases).step_by(ROUND) {
        agent::once();
        let snapshot = Snapshot::open(Path::new(agent::SNAPSHOT), Trust::ROOT).unwrap();
        // None of these comes or goes while a round is offered, however slow the machine.
        let now = now();
        let times = [0, 1, now - 7200, now - 600, now - 20, now + 3600, now + 7200, now + 86_400, 1 << 63, u64::MAX];
        let extensions = vec![(b"permit-pty".to_vec(), Vec::new()), (b"scope@countersign".to_vec(), scope.clone())];
        let valid = (now - 30, now + CA_MAX_TTL);
        let source = Source { cas: &cas, users: &users, times: &times, login: LOGIN.as_bytes(), valid, extensions };
        let mutants: Vec<Mutant> =
            (round..cases.min(round + ROUND)).map(|case| source.mutant(&mut Random::of(seed, case))).collect();
        let offered: Vec<(&str, &[u8])> =
            mutants.iter().map(|mutant| (algorithm(mutant), mutant.blob.as_slice())).collect();
        machine::write(CA_FILE, "", 0o644);
        let by_keys = offer_each(PORT, LOGIN, &offered, CONNECTIONS);
        machine::write(CA_FILE, &lines, 0o644);
        let by_principals = offer_each(PORT, LOGIN, &offered, CONNECTIONS);
        let plain = offer_each(PLAIN_PORT, LOGIN, &offered, CONNECTIONS);
        assert!(offered.len() == by_keys.len() && offered.len() == plain.len());
        for (at, mutant) in mutants.iter().enumerate() {
            let verdict = decided(&snapshot, &mutant.blob);
            let [keys, principals, plain] =
                [by_keys[at], by_principals[at], plain[at]].map(|offer| offer == Offer::Taken);
            taken += usize::from(keys);
            ours += usize::from(verdict);
            plains += usize::from(plain);
            if keys != (verdict && plain) || principals != keys {
                let read = Certificate::parse(&mutant.blob).map(|certificate| certificate.key_type);
                wrong.push(format!(
                    "case {}: keys {keys}, principals {principals}, decision {verdict}, plain sshd {plain}; {:?}, signed {}, {read:?}",
                    round + at,
                    mutant.what,
                    mutant.signed && cas.iter().any(|ca| ca.blob == mutant.ca),
                ));
            }
        }
    }
    println!("seed {seed}, {cases} certificates: {taken} get in; decision {ours}, plain sshd {plains}");
    assert!(wrong.is_empty(), "seed {seed}, {} of {cases} otherwise:\n{}", wrong.len(), wrong.join("\n"));
    assert!(taken * 20 > cases && ours > taken && plains > taken, "too few to say anything");
}

#[test]
fn of_mutated_certificates_exactly_those_get_in_that_the_decision_and_a_plain_sshd_both_take() {
    in_bed!(|| judge(CASES, true));
}

#[test]
fn the_same_by_openssh_8_4() {
    in_bed_of!("bullseye", || judge(CASES / 2, false));
}

#[test]
fn the_same_by_openssh_10_0() {
    in_bed_of!("trixie", || judge(CASES / 2, false));
}
