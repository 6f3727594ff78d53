//! Certificates made by hand: by `ssh-keygen`, which knows nothing of our rules and so makes good and hostile ones alike, and, where
//! a log proof has to go in, signed again with the CA's key.

use std::{fs, path::PathBuf, process::Command};

use countersign_certificate::{Certificate, Digest32, Id, LogProof, RealmId, Scope, insert_log_proof, leaf_hash};
use ssh_key::PrivateKey;

use crate::{bed, machine::KeyFile, process, realm};

/// What `ssh-keygen -s` is to make.
#[derive(Clone, Debug)]
pub struct Mint<'a> {
    /// The CA's key.
    pub ca: &'a KeyFile,
    /// The certified key.
    pub key: &'a KeyFile,
    /// Principals; none for a certificate without any.
    pub principals: &'a [&'a str],
    /// Unix seconds.
    pub valid_after: u64,
    /// Unix seconds.
    pub valid_before: u64,
    /// The scope; none for a certificate without.
    pub scope: Option<Scope>,
    /// Further `-O` options, such as `critical:name=text`.
    pub options: &'a [&'a str],
}

/// A certificate on disk.
#[derive(Clone, Debug)]
pub struct Minted {
    /// The `-cert.pub` file.
    pub path: PathBuf,
    /// Its serial.
    pub serial: u64,
}

impl Mint<'_> {
    /// Makes it.
    ///
    /// # Panics
    /// Where `ssh-keygen` refuses.
    #[must_use]
    pub fn make(&self) -> Minted {
        let serial = u64::from_be_bytes(realm::random());
        let folder = bed::folder("certificates");
        let public = folder.join(format!("{serial}.pub"));
        fs::copy(self.key.public_path(), &public).expect("a public key to certify");
        let mut keygen = Command::new("ssh-keygen");
        keygen.arg("-q").arg("-s").arg(&self.ca.path).args(["-I", "scenario/by hand", "-z", &serial.to_string()]);
        keygen.args([
            "-V",
            &format!("{:#x}:{:#x}", self.valid_after, self.valid_before),
            "-O",
            "clear",
            "-O",
            "permit-pty",
        ]);
        if !self.principals.is_empty() {
            keygen.args(["-n", &self.principals.join(",")]);
        }
        if let Some(scope) = &self.scope {
            keygen.args(["-O", &format!("extension:scope@countersign={}", scope.to_text())]);
        }
        for option in self.options {
            keygen.args(["-O", option]);
        }
        process::success(keygen.arg(&public));
        Minted { path: folder.join(format!("{serial}-cert.pub")), serial }
    }
}

impl Minted {
    /// The certificate in SSH wire form.
    #[must_use]
    pub fn blob(&self) -> Vec<u8> {
        let line = fs::read_to_string(&self.path).expect("a certificate");
        ssh_key::Certificate::from_openssh(&line)
            .expect("a certificate")
            .to_bytes()
            .expect("a certificate that encodes")
    }

    /// What a batch commits to.
    #[must_use]
    pub fn leaf(&self, realm: RealmId, ca: Id) -> Digest32 {
        let blob = self.blob();
        leaf_hash(&realm, &ca, &Certificate::parse(&blob).expect("a certificate that hosts read").pre_certificate())
    }

    /// The same certificate with a log proof, signed anew.
    #[must_use]
    pub fn with_log_proof(&self, ca: &KeyFile, proof: &LogProof) -> Self {
        let blob = self.blob();
        let pre_certificate = Certificate::parse(&blob).expect("a certificate that hosts read").pre_certificate();
        let to_be_signed = insert_log_proof(&pre_certificate, proof).expect("a proof that fits in");
        let key = fs::read_to_string(&ca.path).expect("the CA's key");
        let key = PrivateKey::from_openssh(key).expect("the CA's key");
        let signature: ssh_key::Signature = signature(&key, &to_be_signed);
        let mut signed = to_be_signed;
        let signature: Vec<u8> = signature.try_into().expect("a signature that encodes");
        signed.extend_from_slice(&u32::try_from(signature.len()).expect("a short signature").to_be_bytes());
        signed.extend_from_slice(&signature);
        let certificate = ssh_key::Certificate::from_bytes(&signed).expect("a certificate");
        let path = self.path.with_file_name(format!("{}-logged-cert.pub", self.serial));
        fs::write(&path, format!("{}\n", certificate.to_openssh().expect("a certificate")))
            .expect("a certificate file");
        Self { path, serial: self.serial }
    }
}

fn signature(key: &PrivateKey, message: &[u8]) -> ssh_key::Signature {
    signature::Signer::try_sign(key, message).expect("a signature")
}
