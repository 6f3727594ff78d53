//! `krl`: a list of revocations as the agent writes it for a plain sshd, beside lists that name each one and are never shortened, made
//! with `ssh-keygen -k`: their bytes, and what a login by certificate takes whose sshd reads them as `RevokedKeys`. Runs
//! inside a bed only: `tests/bed countersign-bench krl HELPER [--quick|--long]`.
//!
//! The certificate that logs in is of a CA of which nothing is revoked: sshd reads all of the list for it all the same, and it stays valid
//! where the agent gives up a CA with too many revocations.

use std::{
    error::Error,
    ffi::OsString,
    fmt::Write as _,
    fs::{self, File},
    io::Read as _,
    path::Path,
    process::Command,
};

use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use countersign_bench::{
    bed::{Bed, succeed},
    figure, long, quick,
    snapshot::key_pair,
    spawn_to_exit,
};
use countersign_certificate::fingerprint_sha256;
use countersign_compile::MOST_SERIALS;
use countersign_krl::{Krl, RevokedCertificates};

const PORTS: [u16; 4] = [2222, 2223, 2224, 2225];

pub(crate) fn run(arguments: &[OsString]) -> Result<(), Box<dyn Error>> {
    let helper = arguments.first().ok_or("expected HELPER")?;
    let sizes: &[(usize, usize)] = match (quick(), long()) {
        (true, _) => &[(10_000, 3)],
        (false, false) => &[(10_000, 20), (100_000, 5)],
        // A million takes ssh-keygen a minute and more to write, and sshd as long to read.
        (false, true) => &[(10_000, 20), (100_000, 5), (1_000_000, 1)],
    };
    let bed = Bed::new(Path::new(&helper))?;
    key_pair(&bed.path(""), "user")?;
    key_pair(&bed.path(""), "ca")?;
    let revoked_ca = BASE64.decode(key_pair(&bed.path(""), "revoked-ca")?)?;
    let mut sign = Command::new("ssh-keygen");
    sign.arg("-q").arg("-s").arg(bed.path("ca"));
    sign.args(["-I", "bench", "-n", "deploy", "-V", "-1h:+1d", "-z", "1"]).arg(bed.path("user.pub"));
    succeed(&mut sign)?;

    for (count, rounds) in sizes {
        let serials = random_serials(*count)?;
        let mut spec = String::new();
        for serial in &serials {
            writeln!(spec, "serial: {serial}")?;
        }
        naive(&bed, "serials.krl", &spec)?;
        spec.clear();
        for chunk in random(count.saturating_mul(32))?.chunks_exact(32) {
            let blob = [b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20".as_slice(), chunk].concat();
            writeln!(spec, "key: ssh-ed25519 {}", BASE64.encode(blob))?;
        }
        naive(&bed, "keys.krl", &spec)?;
        fs::write(bed.path("ours.krl"), ours(&revoked_ca, serials).encode()?)?;

        let lists = ["", "keys.krl", "serials.krl", "ours.krl"];
        let mut servers = Vec::new();
        for (port, list) in PORTS.into_iter().zip(lists) {
            let ca = bed.path("ca.pub");
            let mut lines =
                format!("TrustedUserCAKeys {}\nAuthorizedPrincipalsFile none\nAuthorizedKeysFile none\n", ca.display());
            if !list.is_empty() {
                writeln!(lines, "RevokedKeys {}", bed.path(list).display())?;
            }
            servers.push(bed.serve(port, &lines)?);
        }
        let mut logins = PORTS.map(|port| bed.login(port, "user"));
        let medians = spawn_to_exit(&mut logins, *rounds)?;
        let [none, keys, serials, ours] = medians.as_slice() else { return Err("four medians expected".into()) };

        let size = |list: &str| fs::metadata(bed.path(list)).map(|file| kib(file.len()));
        let naive_kib = size("keys.krl")?;
        let of_naive = "the naive list of keys";
        let text = "ssh-keygen -k with a key for each revocation, nothing ever left out";
        figure(&format!("krl naive keys, size ({count} revoked)"), naive_kib, "KiB", None, text)?;
        for (name, list) in [("naive serials", "serials.krl"), ("ours", "ours.krl")] {
            let kib = size(list)?;
            figure(&format!("krl {name}, size ({count} revoked)"), kib, "KiB", Some(kib / naive_kib), of_naive)?;
        }
        figure("krl login without a list", none / 1e3, "ms", None, "ssh … true by a certificate, p50")?;
        for (name, took) in [("naive keys", keys), ("naive serials", serials), ("ours", ours)] {
            let name = format!("krl login, {name} ({count} revoked)");
            figure(&name, took / 1e3, "ms", Some(took / none), "the login without a list")?;
        }
    }
    Ok(())
}

/// What the agent writes of a CA with these revocations: the CA itself, where they are more than sshd is told.
fn ours(ca: &[u8], serials: Vec<u64>) -> Krl {
    let mut krl = Krl { version: 1, generated_secs: 1, comment: "countersign".to_owned(), ..Krl::default() };
    if serials.len() > MOST_SERIALS {
        krl.keys_sha256.push(fingerprint_sha256(ca));
    } else {
        krl.certificates.push(RevokedCertificates { ca_blob: ca.to_vec(), serials, key_ids: Vec::new() });
    }
    krl
}

fn naive(bed: &Bed, list: &str, spec: &str) -> Result<(), Box<dyn Error>> {
    fs::write(bed.path("spec"), spec)?;
    let mut make = Command::new("ssh-keygen");
    make.args(["-q", "-k", "-f"]).arg(bed.path(list)).arg("-s").arg(bed.path("revoked-ca.pub")).arg(bed.path("spec"));
    succeed(&mut make)
}

/// Serials as the issuer draws them.
fn random_serials(count: usize) -> Result<Vec<u64>, Box<dyn Error>> {
    let bytes = random(count.saturating_mul(8))?;
    let serials = bytes.chunks_exact(8).filter_map(|chunk| chunk.first_chunk().copied()).map(u64::from_be_bytes);
    Ok(serials.filter(|serial| *serial != 0).collect())
}

fn random(count: usize) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut bytes = vec![0; count];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[expect(clippy::as_conversions, reason = "bytes of this machine fit a double")]
fn kib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0
}
