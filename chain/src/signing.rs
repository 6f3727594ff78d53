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
        let key = P256Key::from_pkcs8_pem(text).map_err(|_| refuse())?;
        let public =
            P256PublicKey::from_sec1(key.verifying_key().to_encoded_point(false).as_bytes()).map_err(|_| refuse())?;
        Ok(Self::P256(key, public))
    }
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
