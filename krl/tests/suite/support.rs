//! Keys, certificates, and what ssh-keygen says of them.

use std::collections::BTreeMap;
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
