//! Certificates as we read them and as OpenSSH does, on mutated ones: what both read, both read to the same fields.
//!
//! The other reader is `ssh-keygen -L`, which reads by sshd's own code and also checks the CA's signature. We may refuse what it takes, in
//! the ways that are listed below and in no other. We may take what it refuses, since sshd asks it first; but never anything that it
//! reads otherwise.
//!
//! `COUNTERSIGN_DIFFERENTIAL=500000 cargo test -p countersign-certificate --test differential` tries so many;
//! `COUNTERSIGN_DIFFERENTIAL_SEED=n` others. A failure prints what was done to the certificate.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test: a failure is its result"
)]

mod generate;
mod keys;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::Write as _,
    process::{Command, Stdio},
    thread,
};

use countersign_certificate::{
    CertOption, CertType, Certificate, CertificateError, KeyAlgorithm, PublicKey, encode_base64, fingerprint_sha256,
    fingerprint_text,
};

use generate::{Mutant, Random, Source};
use keys::{of_each_type, string};

const CASES: u64 = 2500;
const BATCH: usize = 250;
const NOW: u64 = 1_800_000_000;
const TIMES: [u64; 16] = [
    0,
    1,
    59,
    NOW - 1,
    NOW,
    NOW + 1,
    NOW + 300,
    951_782_400,
    (1 << 31) - 1,
    1 << 31,
    1 << 32,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
    253_402_300_800,
];

/// Why we refuse certificates that OpenSSH reads: each of them, and no other.
const STRICTER: [&str; 15] = [
    "certificate type is of a name that we do not take",
    "critical options are not sorted by name",
    "critical options hold one twice",
    "critical options is not named in printable ASCII",
    "extensions are not sorted by name",
    "extensions hold one twice",
    "extensions is not named in printable ASCII",
    "more options than we read",
    "nonce is too long",
    "public key is not a token key with an application of 1 to 1024 bytes",
    "public key is not an RSA key with an odd exponent of at most 64 bits",
    "public key is not made of positive numbers in their shortest form",
    "reserved is not empty",
    "signature is not of an algorithm of its key",
    "text is not UTF-8",
];

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// What `ssh-keygen -L` says.
#[derive(Clone)]
enum Listed {
    /// The certificate's lines.
    Whole(String),
    /// The certificate is read, and its lines end where an option's data is not what its name promises: `ssh-keygen` gives up.
    Begun(String),
    /// It is not read.
    Refused,
}

/// What it says of each.
fn listed(mutants: &[Mutant]) -> Vec<Listed> {
    let mut found = Vec::new();
    while found.len() < mutants.len() {
        let rest = &mutants[found.len()..];
        found.extend(list(&rest[..rest.len().min(BATCH)]));
    }
    found
}

/// What it says of the first ones, at least of one.
fn list(mutants: &[Mutant]) -> Vec<Listed> {
    let mut input = String::new();
    for mutant in mutants {
        // A type's name that is no text cannot stand in a file; what the certificate itself says is read all the same.
        let kind = String::from_utf8(mutant.kind.clone()).unwrap_or_default();
        let kind = if kind.is_empty() || !kind.bytes().all(|byte| byte.is_ascii_graphic()) { "?" } else { &kind };
        writeln!(input, "{kind} {}", encode_base64(&mutant.blob)).unwrap();
    }
    // Line by line: where it gives up, it would drop what it has not written.
    let mut child = Command::new("stdbuf")
        .args(["-oL", "ssh-keygen", "-L", "-f", "-"])
        .envs([("TZ", "UTC"), ("LC_ALL", "C")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("stdbuf or ssh-keygen is not installed: run .ci/tools");
    let mut pipe = child.stdin.take().unwrap();
    let writer = thread::spawn(move || pipe.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let written = writer.join().unwrap();
    let mut found = vec![Listed::Refused; mutants.len()];
    let mut last = 0;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for block in format!("\n{text}").split("\n(stdin):").skip(1) {
        let (line, rest) = block.split_once(":\n").unwrap();
        last = line.parse::<usize>().unwrap();
        found[last - 1] = Listed::Whole(rest.trim_end_matches('\n').to_owned());
    }
    if output.status.code() == Some(255) {
        assert!(last > 0, "ssh-keygen gives up and does not say where");
        found.truncate(last);
        if let Some(Listed::Whole(lines)) = found.pop() {
            found.push(Listed::Begun(lines));
        }
    } else {
        written.expect("ssh-keygen reads all that it is given");
    }
    found
}

/// The same lines, of what we have read. Times beyond what all versions can print are left out of both.
fn shown(certificate: &Certificate<'_>) -> String {
    let mut text = String::new();
    let kind = if certificate.cert_type == CertType::User { "user" } else { "host" };
    let signature = &certificate.signature;
    let algorithm = String::from_utf8(signature[4..4 + usize::from(signature[3])].to_vec()).unwrap();
    let key = fingerprint_text(&fingerprint_sha256(&certificate.public_key));
    let ca = fingerprint_text(&fingerprint_sha256(certificate.signature_key));
    writeln!(text, "        Type: {} {kind} certificate", certificate.key_type.certificate_name()).unwrap();
    writeln!(text, "        Public key: {}-CERT {key}", short_name(certificate.key_type)).unwrap();
    let by = PublicKey::parse(certificate.signature_key).unwrap().algorithm();
    writeln!(text, "        Signing CA: {} {ca} (using {algorithm})", short_name(by)).unwrap();
    writeln!(text, "        Key ID: \"{}\"", certificate.key_id).unwrap();
    writeln!(text, "        Serial: {}", certificate.serial).unwrap();
    writeln!(text, "        Valid: {}", validity(certificate.valid_after, certificate.valid_before)).unwrap();
    let principals: Vec<String> = certificate.principals.iter().map(|name| format!("                {name}")).collect();
    if principals.is_empty() {
        text.push_str("        Principals: (none)\n");
    } else {
        writeln!(text, "        Principals: \n{}", principals.join("\n")).unwrap();
    }
    for (title, options, critical) in
        [("Critical Options", &certificate.critical_options, true), ("Extensions", &certificate.extensions, false)]
    {
        if options.is_empty() {
            writeln!(text, "        {title}: (none)").unwrap();
        } else {
            writeln!(text, "        {title}: ").unwrap();
            for option in options {
                writeln!(text, "                {}", option_shown(option, critical)).unwrap();
            }
        }
    }
    text.trim_end_matches('\n').to_owned()
}

fn option_shown(option: &CertOption<'_>, critical: bool) -> String {
    const PERMITS: [&str; 5] =
        ["permit-X11-forwarding", "permit-agent-forwarding", "permit-port-forwarding", "permit-pty", "permit-user-rc"];
    let name = option.name;
    let flag =
        if critical { name == "verify-required" } else { PERMITS.contains(&name) || name == "no-touch-required" };
    if flag && option.data.is_empty() {
        return name.to_owned();
    }
    if critical && ["force-command", "source-address"].contains(&name) {
        // Also where more stands behind it: it gives up after that.
        let text = option.data.get(4..).and_then(|rest| rest.get(..usize::from(option.data[3])));
        let text = text
            .filter(|text| !text.contains(&0))
            .map_or_else(String::new, |text| String::from_utf8_lossy(text).into_owned());
        return format!("{name} {text}");
    }
    if option.data.is_empty() {
        return format!("{name} UNKNOWN FLAG OPTION");
    }
    let hex: String = option.data.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{name} UNKNOWN OPTION: {hex} (len {})", option.data.len())
}

const fn short_name(algorithm: KeyAlgorithm) -> &'static str {
    match algorithm {
        KeyAlgorithm::Ed25519 => "ED25519",
        KeyAlgorithm::Rsa => "RSA",
        KeyAlgorithm::EcdsaP256 | KeyAlgorithm::EcdsaP384 | KeyAlgorithm::EcdsaP521 => "ECDSA",
        KeyAlgorithm::SkEd25519 => "ED25519-SK",
        KeyAlgorithm::SkEcdsaP256 => "ECDSA-SK",
    }
}

fn validity(after: u64, before: u64) -> String {
    match (after, before) {
        (0, u64::MAX) => "forever".to_owned(),
        (0, before) => format!("before {}", time(before)),
        (after, u64::MAX) => format!("after {}", time(after)),
        (after, before) => format!("from {} to {}", time(after), time(before)),
    }
}

/// Unix time as OpenSSH prints it.
fn time(secs: u64) -> String {
    if secs > i32::MAX.unsigned_abs().into() {
        return "…".to_owned();
    }
    let (mut year, mut day) = (1970, secs / 86_400);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = 0;
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    let (hour, minute, second) = (secs / 3600 % 24, secs / 60 % 60, secs % 60);
    format!("{year:04}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}", month + 1, day + 1)
}

/// What was listed, with the times left out that [`time`] leaves out.
fn comparable(listed: &str, certificate: &Certificate<'_>) -> String {
    let line = |line: &str| {
        let Some(valid) = line.strip_prefix("        Valid: ") else { return line.to_owned() };
        let mut before = "";
        let mut words = Vec::new();
        for word in valid.split(' ') {
            let own = match before {
                "from" | "after" => time(certificate.valid_after),
                "to" | "before" => time(certificate.valid_before),
                _ => word.to_owned(),
            };
            words.push(if own == "…" { own } else { word.to_owned() });
            before = word;
        }
        format!("        Valid: {}", words.join(" "))
    };
    listed.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

/// The class of a refusal.
fn class(error: &CertificateError) -> String {
    match error {
        CertificateError::OptionOrder { field, .. } => format!("{field} are not sorted by name"),
        CertificateError::DuplicateOption { field, .. } => format!("{field} hold one twice"),
        CertificateError::KeyType { field: "certificate type", .. } => {
            "certificate type is of a name that we do not take".to_owned()
        }
        CertificateError::Oversize { field: "nonce", .. } => "nonce is too long".to_owned(),
        CertificateError::Oversize { field: "critical options" | "extensions", .. } => {
            "more options than we read".to_owned()
        }
        CertificateError::Invalid { expected: "UTF-8 without NUL", .. } => "text is not UTF-8".to_owned(),
        other => other.to_string(),
    }
}

#[test]
fn what_both_read_of_a_mutated_certificate_is_the_same_and_where_we_are_stricter_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    let (cas, users) = (of_each_type(folder.path(), "ca"), of_each_type(folder.path(), "user"));
    let extensions = vec![(b"permit-pty".to_vec(), Vec::new()), (b"scope@countersign".to_vec(), string(b"AAAA"))];
    let source =
        Source { cas: &cas, users: &users, times: &TIMES, login: b"deploy", valid: (NOW - 30, NOW + 300), extensions };
    let seed = number("COUNTERSIGN_DIFFERENTIAL_SEED", 1);
    let cases = usize::try_from(number("COUNTERSIGN_DIFFERENTIAL", CASES)).unwrap();
    let (mut both, mut begun, mut neither, mut unsigned) = (0, 0, 0, 0);
    let mut stricter: BTreeMap<String, (usize, Vec<&str>)> = BTreeMap::new();
    let mut laxer: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for done in (0..cases).step_by(10 * BATCH) {
        let numbers = done..cases.min(done + 10 * BATCH);
        let mutants: Vec<Mutant> = numbers.map(|number| source.mutant(&mut Random::of(seed, number))).collect();
        for (mutant, theirs) in mutants.iter().zip(listed(&mutants)) {
            match (Certificate::parse(&mutant.blob), theirs) {
                (Ok(ours), Listed::Whole(theirs)) => {
                    both += 1;
                    let (ours, theirs) = (shown(&ours), comparable(&theirs, &ours));
                    if ours != theirs {
                        wrong.push(format!("{:?}\n{ours}\n--- OpenSSH:\n{theirs}", mutant.what));
                    }
                }
                (Ok(ours), Listed::Begun(theirs)) => {
                    begun += 1;
                    let (ours, theirs) = (shown(&ours), comparable(&theirs, &ours));
                    if !ours.starts_with(&theirs) {
                        wrong.push(format!("{:?}\n{ours}\n--- OpenSSH:\n{theirs}", mutant.what));
                    }
                }
                (Err(error), Listed::Whole(_) | Listed::Begun(_)) => {
                    let found = stricter.entry(class(&error)).or_default();
                    found.0 += 1;
                    found.1 = mutant.what.clone();
                }
                // sshd checks that signature.
                (Ok(ours), Listed::Refused) if !mutant.signed || ours.signature_key != mutant.ca => unsigned += 1,
                (Ok(ours), Listed::Refused) => {
                    laxer.entry(ours.key_type.name()).or_default().push(mutant.what.join(", "));
                }
                (Err(_), Listed::Refused) => neither += 1,
            }
        }
    }
    println!(
        "seed {seed}, {cases} certificates: both read {both} and {begun} in part, neither {neither}, only we {unsigned} that nobody signed"
    );
    println!("only OpenSSH: {stricter:?}\nonly we: {laxer:#?}");
    assert!(wrong.is_empty(), "{} are read differently:\n{}", wrong.len(), wrong[..wrong.len().min(5)].join("\n\n"));
    let found: Vec<&str> = stricter.keys().map(String::as_str).collect();
    assert_eq!(found, STRICTER);
    // Points that lie on no curve are the only keys whose numbers we do not look at.
    let other = laxer.keys().find(|name| !name.contains("ecdsa-sha2-nistp"));
    assert!(other.is_none(), "OpenSSH refuses what we take: {laxer:#?}");
}
