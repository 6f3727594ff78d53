//! Keys that certify and keys that are certified, of every type, as `ssh-keygen` makes them; and signatures of every form.

use std::{path::Path, process::Command};

use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512};
use ssh_key::{PrivateKey, private::KeypairData};

/// An SSH string.
pub(crate) fn string(content: &[u8]) -> Vec<u8> {
    [&u32::try_from(content.len()).unwrap().to_be_bytes()[..], content].concat()
}

/// A key with its private half.
pub(crate) struct Key {
    /// The plain public key.
    pub(crate) blob: Vec<u8>,
    private: PrivateKey,
    /// The private half lies on a token: signatures carry its flags and counter.
    token: bool,
}

/// How a signature is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hash {
    /// As is usual for the key.
    Usual,
    /// RSA with SHA-256.
    Sha256,
    /// RSA with SHA-1, under the name of old.
    Sha1,
}

impl Key {
    /// Reads a private key in OpenSSH's form; none where `ssh-key` cannot.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(path).unwrap();
        let private = PrivateKey::from_openssh(text).ok()?;
        Some(Self { blob: private.public_key().to_bytes().unwrap(), private, token: false })
    }

    /// The same key, on a token that answers for `ssh:`.
    pub(crate) fn on_token(self) -> Self {
        let name_length = usize::from(self.blob[3]);
        let name: &[u8] = match &self.blob[4..4 + name_length] {
            b"ssh-ed25519" => b"sk-ssh-ed25519@openssh.com",
            _ => b"sk-ecdsa-sha2-nistp256@openssh.com",
        };
        let blob = [&string(name)[..], &self.blob[4 + name_length..], &string(b"ssh:")].concat();
        Self { blob, token: true, ..self }
    }

    /// The plain key's type.
    pub(crate) fn name(&self) -> &[u8] {
        &self.blob[4..4 + usize::from(self.blob[3])]
    }

    /// The fields after the type.
    pub(crate) fn fields(&self) -> &[u8] {
        &self.blob[4 + self.name().len()..]
    }

    /// A signature's blob over `message`.
    pub(crate) fn sign(&self, message: &[u8], hash: Hash) -> Vec<u8> {
        if self.token {
            let head = [&Sha256::digest(b"ssh:")[..], &[1], &7_u32.to_be_bytes(), &Sha256::digest(message)].concat();
            let (_, data) = self.sign_plainly(&head);
            return [&string(self.name())[..], &string(&data), &[1], &7_u32.to_be_bytes()].concat();
        }
        let rsa = |name: &[u8], info: &[u8], digest: &[u8]| {
            let KeypairData::Rsa(pair) = self.private.key_data() else { return None };
            // `ssh-key`'s own way takes one prime twice.
            let number = |mpint: &ssh_key::Mpint| rsa::BigUint::from_bytes_be(mpint.as_positive_bytes().unwrap());
            let [n, e, d] = [&pair.public.n, &pair.public.e, &pair.private.d].map(number);
            let primes = [&pair.private.p, &pair.private.q].map(number).to_vec();
            let private = rsa::RsaPrivateKey::from_components(n, e, d, primes).unwrap();
            let data = private.sign(rsa::Pkcs1v15Sign::new_unprefixed(), &[info, digest].concat()).unwrap();
            Some([string(name), string(&data)].concat())
        };
        // DigestInfo of PKCS #1, up to the digest.
        let info = |oid: &[u8], length: u8| {
            let oid_length = u8::try_from(oid.len()).unwrap();
            [&[0x30, oid_length + length + 8, 0x30, oid_length + 4, 6, oid_length][..], oid, &[5, 0, 4, length]]
                .concat()
        };
        const SHA2: [u8; 8] = [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2];
        let made = match hash {
            Hash::Usual => rsa(b"rsa-sha2-512", &info(&[&SHA2[..], &[3]].concat(), 64), &Sha512::digest(message)),
            Hash::Sha256 => rsa(b"rsa-sha2-256", &info(&[&SHA2[..], &[1]].concat(), 32), &Sha256::digest(message)),
            Hash::Sha1 => rsa(b"ssh-rsa", &info(&[0x2b, 0x0e, 3, 2, 0x1a], 20), &Sha1::digest(message)),
        };
        made.unwrap_or_else(|| {
            let (name, data) = self.sign_plainly(message);
            [string(&name), string(&data)].concat()
        })
    }

    fn sign_plainly(&self, message: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let signature: ssh_key::Signature = signature::Signer::try_sign(&self.private, message).unwrap();
        (signature.algorithm().as_str().as_bytes().to_vec(), signature.as_bytes().to_vec())
    }
}

/// A new key, made by `ssh-keygen` as `path`.
pub(crate) fn make(kind: &str, bits: &str, path: &Path) -> Key {
    // `ssh-key` does not read every other key on P-521: those whose number has a byte less.
    let made = (0..64).find_map(|_| {
        let _ = std::fs::remove_file(path);
        let status = Command::new("ssh-keygen")
            .args(["-q", "-t", kind, "-b", bits, "-N", "", "-C", "", "-f"])
            .arg(path)
            .status()
            .expect("ssh-keygen is not installed: run .ci/tools");
        assert!(status.success());
        Key::read(path)
    });
    made.expect("a key that can be read")
}

/// One key of each type, made below `folder`: Ed25519 first, then RSA, then the three curves, then both tokens.
pub(crate) fn of_each_type(folder: &Path, who: &str) -> Vec<Key> {
    let make = |kind: &str, bits: &str, name: &str| make(kind, bits, &folder.join(format!("{who}-{name}")));
    let mut keys = vec![make("ed25519", "256", "ed25519"), make("rsa", "2048", "rsa")];
    keys.extend(["256", "384", "521"].map(|bits| make("ecdsa", bits, bits)));
    keys.push(make("ed25519", "256", "sk-ed25519").on_token());
    keys.push(make("ecdsa", "256", "sk-ecdsa").on_token());
    keys
}
