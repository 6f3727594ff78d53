//! Keys, certificates, and what ssh-keygen says of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ssh_key::certificate::Builder;
use ssh_key::{Algorithm, PrivateKey, rand_core::OsRng};
use tempfile::TempDir;

/// A directory for one test.
pub(crate) struct Bench {
    directory: TempDir,
}

pub(crate) fn key() -> PrivateKey {
    PrivateKey::random(&mut OsRng, Algorithm::Ed25519).unwrap()
}

pub(crate) fn blob(key: &PrivateKey) -> Vec<u8> {
    key.public_key().to_bytes().unwrap()
}

/// An ECDSA key's blob: type, curve, point.
pub(crate) fn ecdsa_blob(curve: &str, point: &[u8]) -> Vec<u8> {
    let kind = format!("ecdsa-sha2-{curve}");
    let mut blob = Vec::new();
    for part in [kind.as_bytes(), curve.as_bytes(), point] {
        blob.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
        blob.extend(part);
    }
    blob
}

/// A key of good form whose point is none of its curve's.
pub(crate) fn off_the_curve() -> Vec<u8> {
    ecdsa_blob("nistp256", &[&[4][..], &[0x77; 64]].concat())
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    pub(crate) fn public(&self, name: &str, key: &PrivateKey) -> PathBuf {
        self.write(name, key.public_key().to_openssh().unwrap())
    }

    /// A certificate of `ca`'s over `subject`.
    pub(crate) fn certificate(&self, ca: &PrivateKey, subject: &PrivateKey, serial: u64, key_id: &str) -> PathBuf {
        let mut builder = Builder::new_with_random_nonce(&mut OsRng, subject.public_key(), 1, 4_000_000_000).unwrap();
        builder.serial(serial).unwrap();
        builder.key_id(key_id).unwrap();
        builder.valid_principal("alice").unwrap();
        let certificate = builder.sign(ca).unwrap();
        self.write(&format!("{serial}-{}-cert.pub", key_id.replace('/', "-")), certificate.to_openssh().unwrap())
    }

    /// What `ssh-keygen -Q` says of each file: revoked or not.
    pub(crate) fn revoked(&self, krl: &Path, files: &[PathBuf]) -> BTreeMap<PathBuf, bool> {
        let mut answers = BTreeMap::new();
        for some in files.chunks(1_000) {
            let output = keygen(|command| command.arg("-Q").arg("-f").arg(krl).args(some));
            let text = String::from_utf8(output.stdout).unwrap();
            for line in text.lines() {
                let (subject, verdict) = line.rsplit_once(": ").unwrap_or_else(|| panic!("a verdict: {line}"));
                let file = subject.split(" (").next().unwrap();
                let revoked = match verdict {
                    "REVOKED" => true,
                    "ok" => false,
                    other => panic!("neither revoked nor ok: {other}"),
                };
                answers.insert(PathBuf::from(file), revoked);
            }
        }
        assert_eq!(answers.len(), files.len(), "an answer for each file");
        answers
    }

    /// The serials that `ssh-keygen -Q -l` lists, of a list that has nothing else.
    pub(crate) fn serials(&self, krl: &Path) -> BTreeSet<u64> {
        let mut found = BTreeSet::new();
        for line in self.listing(krl) {
            let numbers = line.strip_prefix("serial: ").unwrap_or_else(|| panic!("a serial: {line}"));
            let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
            found.extend(first.parse::<u64>().unwrap()..=last.parse().unwrap());
        }
        found
    }

    /// What `ssh-keygen -Q -l` lists, without the header's lines.
    pub(crate) fn listing(&self, krl: &Path) -> Vec<String> {
        let output = keygen(|command| command.arg("-Q").arg("-l").arg("-f").arg(krl));
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(str::to_owned).collect()
    }
}

pub(crate) fn keygen(arguments: impl FnOnce(&mut Command) -> &mut Command) -> Output {
    let mut command = Command::new("ssh-keygen");
    arguments(&mut command);
    command.output().unwrap()
}
