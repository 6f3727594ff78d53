//! The key that a CA signs with: an OpenSSH private key file (encrypted), or any ssh-agent (hence PKCS#11, TPM, FIDO2).
//!
//! A private key file that others can read is refused. An unencrypted one is taken, as ssh takes it, so that a file on an encrypted
//! disk or a ramdisk works; the tool that makes CA keys encrypts them. Each signature is verified against the public key before it
//! leaves this module, whoever made it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ssh_key::{PrivateKey, PublicKey, Signature};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::ssh_agent::{AgentError, SshAgent};

/// Why a CA key cannot be had or cannot sign.
#[derive(Debug, Error)]
pub enum CaKeyError {
    /// The file cannot be read.
    #[error("CA key {path}: {source}")]
    File {
        /// The private key file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file can be read by others.
    #[error("CA key {path}: mode {mode:04o} lets others read it; expected 0600")]
    Mode {
        /// The private key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is not an OpenSSH private key.
    #[error("CA key {path}: expected an OpenSSH private key: {source}")]
    Format {
        /// The private key file.
        path: PathBuf,
        /// The cause.
        source: ssh_key::Error,
    },
    /// The password does not open the file.
    #[error("CA key {path}: the password does not open it")]
    Password {
        /// The private key file.
        path: PathBuf,
    },
    /// No key in the agent is this CA's.
    #[error("ssh-agent {path}: does not hold the CA's key {fingerprint}")]
    NotInAgent {
        /// The agent's socket.
        path: PathBuf,
        /// SHA-256 fingerprint of the CA's key.
        fingerprint: String,
    },
    /// The key is not the CA's.
    #[error("CA key: has fingerprint {found}, the CA's record says {expected}")]
    OtherKey {
        /// Fingerprint of the key at hand.
        found: String,
        /// Fingerprint of the key in the CA's record.
        expected: String,
    },
    /// The agent failed.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The key's algorithm cannot sign here.
    #[error("CA key: cannot sign: {0}")]
    Sign(ssh_key::Error),
    /// The signature does not verify.
    #[error("CA key: made a signature that does not verify")]
    BadSignature,
}

/// Where the private key is.
#[derive(Debug)]
enum Holder {
    File(Box<PrivateKey>),
    Agent(SshAgent),
}

/// A CA's key, able to sign.
#[derive(Debug)]
pub struct CaKey {
    public: PublicKey,
    blob: Vec<u8>,
    holder: Holder,
}

impl CaKey {
    /// Opens a private key file. `password` is asked only when the file is encrypted.
    ///
    /// # Errors
    /// See [`CaKeyError`]; a file with any permission for group or others is refused.
    pub fn from_file<E: From<CaKeyError>>(
        path: &Path,
        password: impl FnOnce() -> Result<Zeroizing<String>, E>,
    ) -> Result<Self, E> {
        let key = read_private_key(path)?;
        let key = if key.is_encrypted() {
            let password = password()?;
            key.decrypt(password.as_bytes()).map_err(|_| CaKeyError::Password { path: path.to_owned() })?
        } else {
            key
        };
        let public = key.public_key().clone();
        let blob = public.to_bytes().map_err(|source| CaKeyError::Format { path: path.to_owned(), source })?;
        Ok(Self { public, blob, holder: Holder::File(Box::new(key)) })
    }

    /// The key `blob` (SSH wire form), held by `agent`.
    ///
    /// # Errors
    /// [`CaKeyError::NotInAgent`] when the agent does not list it.
    pub fn from_agent(agent: SshAgent, blob: &[u8]) -> Result<Self, CaKeyError> {
        let public = PublicKey::from_bytes(blob).map_err(CaKeyError::Sign)?;
        if !agent.keys()?.iter().any(|key| key.blob == blob) {
            return Err(CaKeyError::NotInAgent {
                path: agent.socket().to_owned(),
                fingerprint: public.fingerprint(ssh_key::HashAlg::Sha256).to_string(),
            });
        }
        Ok(Self { public, blob: blob.to_vec(), holder: Holder::Agent(agent) })
    }

    /// The public key, SSH wire form.
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// The public key.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Refuses to stand in for another CA.
    ///
    /// # Errors
    /// [`CaKeyError::OtherKey`] when `expected` (SSH wire form) is another key.
    pub fn expect(&self, expected: &[u8]) -> Result<(), CaKeyError> {
        if self.blob == expected {
            return Ok(());
        }
        let expected = match PublicKey::from_bytes(expected) {
            Ok(key) => key.fingerprint(ssh_key::HashAlg::Sha256).to_string(),
            Err(_) => "of no known form".to_owned(),
        };
        Err(CaKeyError::OtherKey { found: self.public.fingerprint(ssh_key::HashAlg::Sha256).to_string(), expected })
    }

    /// Signs `data`. Returns the signature in SSH wire form, verified.
    ///
    /// # Errors
    /// See [`CaKeyError`].
    pub fn sign(&self, data: &[u8]) -> Result<Vec<u8>, CaKeyError> {
        let signature = match &self.holder {
            Holder::File(key) => sign_with(key, data)?,
            Holder::Agent(agent) => agent.sign(&self.blob, data)?,
        };
        let parsed = Signature::try_from(signature.as_slice()).map_err(|_| CaKeyError::BadSignature)?;
        signature::Verifier::verify(self.public.key_data(), data, &parsed).map_err(|_| CaKeyError::BadSignature)?;
        Ok(signature)
    }
}

/// A signature by `key` over `data`, in SSH wire form.
pub(crate) fn sign_with(key: &PrivateKey, data: &[u8]) -> Result<Vec<u8>, CaKeyError> {
    let signature: Signature =
        signature::Signer::try_sign(key, data).map_err(|_| CaKeyError::Sign(ssh_key::Error::Crypto))?;
    Vec::try_from(signature).map_err(CaKeyError::Sign)
}

fn read_private_key(path: &Path) -> Result<PrivateKey, CaKeyError> {
    let file_error = |source| CaKeyError::File { path: path.to_owned(), source };
    let mut file = std::fs::File::open(path).map_err(file_error)?;
    let mode = file.metadata().map_err(file_error)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(CaKeyError::Mode { path: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new(String::new());
    std::io::Read::read_to_string(&mut file, &mut text).map_err(file_error)?;
    PrivateKey::from_openssh(text.as_bytes()).map_err(|source| CaKeyError::Format { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ssh_key::{Algorithm, LineEnding, rand_core::OsRng};
    use std::os::unix::fs::PermissionsExt;

    fn password(text: &str) -> impl FnOnce() -> Result<Zeroizing<String>, CaKeyError> {
        let text = Zeroizing::new(text.to_owned());
        || Ok(text)
    }

    fn no_password() -> Result<Zeroizing<String>, CaKeyError> {
        panic!("asked for a password that is not needed")
    }

    fn encrypted_file() -> (tempfile::TempDir, PathBuf, PrivateKey) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca");
        let key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).unwrap();
        key.encrypt(&mut OsRng, "correct").unwrap().write_openssh_file(&path, LineEnding::LF).unwrap();
        (directory, path, key)
    }

    #[test]
    fn an_encrypted_file_opens_with_its_password_and_signs() {
        let (_directory, path, key) = encrypted_file();
        let ca = CaKey::from_file(&path, password("correct")).unwrap();
        assert_eq!(ca.blob(), key.public_key().to_bytes().unwrap());
        let signature = ca.sign(b"data").unwrap();
        let signature = Signature::try_from(signature.as_slice()).unwrap();
        signature::Verifier::verify(key.public_key().key_data(), b"data", &signature).unwrap();
    }

    #[test]
    fn a_wrong_password_is_told_apart_from_a_broken_file() {
        let (_directory, path, _) = encrypted_file();
        assert!(matches!(CaKey::from_file(&path, password("wrong")), Err(CaKeyError::Password { .. })));
        std::fs::write(&path, "not a key").unwrap();
        assert!(matches!(CaKey::from_file(&path, no_password), Err(CaKeyError::Format { .. })));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let (_directory, path, _) = encrypted_file();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let refused = CaKey::from_file(&path, no_password).unwrap_err();
        assert_eq!(
            refused.to_string(),
            format!("CA key {}: mode 0640 lets others read it; expected 0600", path.display())
        );
    }

    #[test]
    fn a_key_does_not_stand_in_for_another_ca() {
        let (_directory, path, key) = encrypted_file();
        let ca = CaKey::from_file(&path, password("correct")).unwrap();
        ca.expect(&key.public_key().to_bytes().unwrap()).unwrap();
        let other = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).unwrap();
        let refused = ca.expect(&other.public_key().to_bytes().unwrap());
        assert!(matches!(refused, Err(CaKeyError::OtherKey { .. })));
    }
}
