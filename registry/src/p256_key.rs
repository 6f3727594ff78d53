//! P-256 public keys, and the form that the contract takes of what their tokens give: r ‖ s ‖ x ‖ y for TPMs and smart cards,
//! longer for passkeys (WebAuthn).
//!
//! It makes no signature and verifies none ([`signature::verify`](crate::signature::verify) does), and looks at no RP id. Layouts:
//! `docs/spec/registry.md`.

use alloy_primitives::{Address, B256, Bytes};
use base64ct::{Base64UrlUnpadded, Encoding};
use p256::ecdsa::{Signature, VerifyingKey};

use crate::signature::P256Form;

/// RP id's hash, flags, counter.
pub(crate) const AUTHENTICATOR_DATA_SIZE: usize = 37;
/// User present (bit 0) and verified (bit 2).
const PRESENT_AND_VERIFIED: u8 = 0x05;

/// What cannot become a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum P256Error {
    /// No point of the curve.
    #[error("public key: expected a P-256 key, 33 or 65 bytes in SEC 1 form")]
    Key,
    /// Neither DER nor r ‖ s.
    #[error("signature: expected DER, or r and s in 64 bytes")]
    Form,
    /// Client data of something else.
    #[error(
        "client data: expected an assertion (webauthn.get) whose challenge is the digest, in the order browsers write it"
    )]
    ClientData,
    /// Too short, too long, or without the flags.
    #[error("authenticator data: expected 37 to 65,535 bytes that say that the user was present and verified")]
    AuthenticatorData,
}

/// A P-256 public key: x ‖ y.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct P256PublicKey([u8; 64]);

impl P256PublicKey {
    /// From a point in SEC 1 form, compressed or not.
    ///
    /// # Errors
    /// [`P256Error::Key`].
    pub fn from_sec1(bytes: &[u8]) -> Result<Self, P256Error> {
        let key = VerifyingKey::from_sec1_bytes(bytes).map_err(|_| P256Error::Key)?;
        let point = key.to_encoded_point(false);
        match point.as_bytes().split_first_chunk::<1>() {
            Some(([4], coordinates)) => coordinates.try_into().map(Self).map_err(|_| P256Error::Key),
            _ => Err(P256Error::Key),
        }
    }

    /// Who it signs for.
    #[must_use]
    pub fn address(&self, form: P256Form) -> Address {
        form.address(&self.0)
    }

    /// The form that the contract takes, of a signature over a digest: DER or r ‖ s, with either s.
    ///
    /// # Errors
    /// [`P256Error::Form`].
    pub fn signature(&self, given: &[u8]) -> Result<Bytes, P256Error> {
        let parsed = if given.len() == 64 { Signature::from_slice(given) } else { Signature::from_der(given) };
        let signature = parsed.map_err(|_| P256Error::Form)?;
        let signature = signature.normalize_s().unwrap_or(signature);
        Ok([signature.to_bytes().as_slice(), &self.0].concat().into())
    }

    /// The form that the contract takes, of what an authenticator gives for the challenge `digest`.
    ///
    /// # Errors
    /// [`P256Error`].
    pub fn assertion(
        &self,
        digest: &B256,
        authenticator_data: &[u8],
        client_data: &[u8],
        signature: &[u8],
    ) -> Result<Bytes, P256Error> {
        let rest = client_data.strip_prefix(client_data_head(digest).as_slice()).ok_or(P256Error::ClientData)?;
        let length = u16::try_from(authenticator_data.len()).map_err(|_| P256Error::AuthenticatorData)?;
        if !user_verified(authenticator_data) {
            return Err(P256Error::AuthenticatorData);
        }
        let signature = self.signature(signature)?;
        Ok([&signature, length.to_be_bytes().as_slice(), authenticator_data, rest].concat().into())
    }
}

/// The client data of an assertion over `digest`, up to and including the challenge: the order in which browsers write it.
pub(crate) fn client_data_head(digest: &B256) -> Vec<u8> {
    let challenge = Base64UrlUnpadded::encode_string(digest.as_slice());
    format!(r#"{{"type":"webauthn.get","challenge":"{challenge}""#).into_bytes()
}

/// Whether authenticator data are long enough and say that the user was present and verified.
pub(crate) fn user_verified(authenticator_data: &[u8]) -> bool {
    let flags = authenticator_data.get(32).copied().unwrap_or_default();
    authenticator_data.len() >= AUTHENTICATOR_DATA_SIZE && flags & PRESENT_AND_VERIFIED == PRESENT_AND_VERIFIED
}
