//! Keys that sign writes: an account's, from a keystore, or a P-256 key, from a PEM file. A P-256 key has no account: it pays for
//! nothing, and somebody else sends what it signed.
//!
//! The files are opened by the rules of [`keys`](crate::keys). An encrypted PEM file is refused: such a key belongs into a TPM or a
//! token, whose signature is attached instead.

use std::{ffi::OsString, fmt, path::Path};

use alloy_primitives::{Address, B256, Bytes, hex};
use countersign_registry::{
    p256_key::{P256Error, P256PublicKey},
    signature::P256Form,
};
use p256::{
    ecdsa::{Signature, SigningKey as P256Key, signature::hazmat::PrehashSigner},
    elliptic_curve::sec1::ToEncodedPoint,
    pkcs8::{DecodePrivateKey, DecodePublicKey},
};
use zeroize::Zeroizing;

use crate::{
    error::ChainError,
    keys::{ActorKey, KeySource, read_private},
};

/// A key that signs writes. `Debug` shows the address only.
#[derive(Clone)]
pub enum SigningKey {
    /// An account's.
    Account(ActorKey),
    /// A P-256 key.
    P256(P256Key, P256PublicKey),
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.address()).finish()
    }
}

impl From<ActorKey> for SigningKey {
    fn from(key: ActorKey) -> Self {
        Self::Account(key)
    }
}

impl SigningKey {
    /// Who signs.
    #[must_use]
    pub fn address(&self) -> Address {
        match self {
            Self::Account(key) => key.address(),
            Self::P256(_, public) => public.address(P256Form::Digest),
        }
    }

    /// The account, if it is an account's.
    #[must_use]
    pub const fn account(&self) -> Option<&ActorKey> {
        match self {
            Self::Account(key) => Some(key),
            Self::P256(..) => None,
        }
    }

    /// Signs an EIP-712 digest in the form that the contract takes.
    ///
    /// # Errors
    /// `Signing`, which no valid key meets.
    pub fn sign(&self, digest: &B256) -> Result<Bytes, ChainError> {
        match self {
            Self::Account(key) => Ok(key.sign(digest)?.as_bytes().to_vec().into()),
            Self::P256(key, public) => {
                let failed = |detail: String| ChainError::Signing { account: public.address(P256Form::Digest), detail };
                let signature: Signature =
                    key.sign_prehash(digest.as_slice()).map_err(|error| failed(error.to_string()))?;
                public.signature(&signature.to_bytes()).map_err(|error| failed(error.to_string()))
            }
        }
    }

    /// Loads the key from a PEM file (PKCS #8, P-256) or, as [`ActorKey::load`], from a keystore.
    ///
    /// # Errors
    /// `File` and `KeyFile`, and those of [`ActorKey::load`].
    pub fn load(
        path: &Path,
        environment: impl Fn(&str) -> Option<OsString>,
        prompt: impl FnOnce(&Path) -> std::io::Result<Zeroizing<String>>,
    ) -> Result<Self, ChainError> {
        let file = read_private(path)?;
        if !file.starts_with(b"-----BEGIN ") {
            return ActorKey::load(&KeySource::File(path.to_owned()), environment, prompt).map(Self::Account);
        }
        let refuse = || ChainError::KeyFile {
            path: path.to_owned(),
            detail: "expected a P-256 key in PKCS #8 (BEGIN PRIVATE KEY), not encrypted".into(),
        };
        let text = std::str::from_utf8(&file).map_err(|_| refuse())?;
        if let Some(detail) = other_form(text) {
            return Err(ChainError::KeyFile { path: path.to_owned(), detail: detail.into() });
        }
        let key = P256Key::from_pkcs8_pem(text).map_err(|_| refuse())?;
        let public =
            P256PublicKey::from_sec1(key.verifying_key().to_encoded_point(false).as_bytes()).map_err(|_| refuse())?;
        Ok(Self::P256(key, public))
    }
}

/// What can be done about a key in a form that OpenSSL writes and this program does not read.
fn other_form(text: &str) -> Option<&'static str> {
    if text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Some(
            "is encrypted, which this program does not open: decrypt it on a machine that you trust (umask 077; openssl pkey -in FILE -out PLAIN), \
             or sign with the key where it is and attach the signature (realm sign --signature HEX --public-key FILE)",
        );
    }
    text.contains("-----BEGIN EC PRIVATE KEY-----").then_some(
        "is in SEC 1 form (BEGIN EC PRIVATE KEY), expected PKCS #8: umask 077; openssl pkey -in FILE -out PLAIN",
    )
}

/// A P-256 public key in text: PEM (BEGIN PUBLIC KEY), or hexadecimal digits of a point in SEC 1 form.
///
/// # Errors
/// [`P256Error::Key`].
pub fn p256_public_key(text: &str) -> Result<P256PublicKey, P256Error> {
    let text = text.trim();
    if text.starts_with("-----BEGIN ") {
        let key = p256::PublicKey::from_public_key_pem(text).map_err(|_| P256Error::Key)?;
        return P256PublicKey::from_sec1(key.to_encoded_point(false).as_bytes());
    }
    P256PublicKey::from_sec1(&hex::decode(text).map_err(|_| P256Error::Key)?)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, process::Command};

    use super::*;

    fn openssl(arguments: &[&str], folder: &Path) {
        let run = Command::new("openssl").args(arguments).current_dir(folder).output().expect("openssl: install it");
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    }

    #[test]
    fn an_encrypted_key_is_refused_with_what_decrypts_it_and_that_does() {
        let folder = tempfile::tempdir().unwrap();
        let load = |name: &str| {
            let path = folder.path().join(name);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            SigningKey::load(&path, |_| None, |_| panic!("nobody is asked")).map_err(|error| error.to_string())
        };
        std::fs::write(folder.path().join("key.pem"), include_str!("../../tests/vectors/p256/key.pem")).unwrap();
        openssl(&["pkey", "-in", "key.pem", "-out", "encrypted.pem", "-aes256", "-passout", "pass:x"], folder.path());
        openssl(&["ec", "-in", "key.pem", "-out", "sec1.pem"], folder.path());
        openssl(&["ec", "-in", "key.pem", "-out", "old.pem", "-aes256", "-passout", "pass:x"], folder.path());
        let key = load("key.pem").unwrap();
        for (name, text) in [("encrypted.pem", "is encrypted"), ("old.pem", "is encrypted"), ("sec1.pem", "SEC 1")] {
            let error = load(name).unwrap_err();
            assert!(error.contains(text) && error.contains("openssl pkey -in FILE -out PLAIN"), "{name}: {error}");
            openssl(&["pkey", "-in", name, "-out", "plain.pem", "-passin", "pass:x"], folder.path());
            assert_eq!(load("plain.pem").unwrap().address(), key.address(), "{name}");
        }
    }
}
