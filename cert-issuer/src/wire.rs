//! Lays out the bytes of a certificate, before it has a log proof or a signature (the *pre-certificate* of
//! `docs/spec/certificate.md`), and joins the signature to them.
//!
//! The layout is OpenSSH's `PROTOCOL.certkeys`. Options are written in lexical order, each name once. This module refuses what
//! would make a certificate good for everybody (no principals) or ambiguous (a principal with a character that some sshd splits
//! at); it signs nothing and reads nothing from outside.

use std::collections::BTreeMap;

use countersign_certificate::CertType;
use thiserror::Error;

/// Why a certificate cannot be laid out.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum WireError {
    /// The key blob is not a length-prefixed key type followed by its fields.
    #[error("public key: expected an SSH key blob")]
    KeyBlob,
    /// OpenSSH has no certificate type for this key type.
    #[error("public key: no certificate type exists for `{0}`")]
    KeyType(String),
    /// A certificate without principals is good for everybody.
    #[error("principals: expected at least one")]
    NoPrincipals,
    /// A principal holds a character outside `[A-Za-z0-9._@-]`.
    #[error("principal `{0}`: expected only letters, digits and `._@-`")]
    Principal(String),
    /// A field is longer than 2^32 - 1 bytes.
    #[error("certificate: a field is too long")]
    Length,
    /// The validity interval is empty.
    #[error("certificate: valid_before {valid_before} is not after valid_after {valid_after}")]
    Validity {
        /// Start, Unix seconds.
        valid_after: u64,
        /// End, Unix seconds.
        valid_before: u64,
    },
}

/// What a certificate says, apart from its log proof and its signature.
#[derive(Debug, Clone)]
pub struct CertificateFields {
    /// Whom it speaks for.
    pub cert_type: CertType,
    /// The certified key, SSH wire form.
    pub public_key: Vec<u8>,
    /// Random bytes, so that nobody can predict what is signed.
    pub nonce: [u8; 32],
    /// Random, unique per CA.
    pub serial: u64,
    /// `user/request-id`.
    pub key_id: String,
    /// The logins; here always exactly one.
    pub principals: Vec<String>,
    /// Unix seconds.
    pub valid_after: u64,
    /// Unix seconds; exclusive.
    pub valid_before: u64,
    /// Name to text.
    pub critical_options: BTreeMap<String, String>,
    /// Name to text; an empty text is a flag.
    pub extensions: BTreeMap<String, String>,
    /// The CA's public key, SSH wire form.
    pub ca_key: Vec<u8>,
}

impl CertificateFields {
    /// The pre-certificate: from the key type up to and including the signature key.
    ///
    /// # Errors
    /// See [`WireError`].
    pub fn pre_certificate(&self) -> Result<Vec<u8>, WireError> {
        if self.principals.is_empty() {
            return Err(WireError::NoPrincipals);
        }
        if let Some(unsafe_name) = self.principals.iter().find(|name| !safe_principal(name)) {
            return Err(WireError::Principal(unsafe_name.clone()));
        }
        if self.valid_before <= self.valid_after {
            return Err(WireError::Validity { valid_after: self.valid_after, valid_before: self.valid_before });
        }
        let (key_type, key_fields) = split_key(&self.public_key)?;
        let mut principals = Vec::new();
        for name in &self.principals {
            put_string(&mut principals, name.as_bytes())?;
        }
        let mut out = Vec::with_capacity(1024);
        put_string(&mut out, certificate_type(key_type)?.as_bytes())?;
        put_string(&mut out, &self.nonce)?;
        out.extend_from_slice(key_fields);
        out.extend_from_slice(&self.serial.to_be_bytes());
        let cert_type: u32 = match self.cert_type {
            CertType::User => 1,
            CertType::Host => 2,
        };
        out.extend_from_slice(&cert_type.to_be_bytes());
        put_string(&mut out, self.key_id.as_bytes())?;
        put_string(&mut out, &principals)?;
        out.extend_from_slice(&self.valid_after.to_be_bytes());
        out.extend_from_slice(&self.valid_before.to_be_bytes());
        put_string(&mut out, &options(&self.critical_options)?)?;
        put_string(&mut out, &options(&self.extensions)?)?;
        put_string(&mut out, b"")?; // reserved
        put_string(&mut out, &self.ca_key)?;
        Ok(out)
    }
}

/// Appends a signature in SSH wire form (`string algorithm, string bytes`) to the bytes that it signs.
///
/// # Errors
/// [`WireError::Length`] for a signature of 4 GiB or more.
pub fn with_signature(to_be_signed: &[u8], signature: &[u8]) -> Result<Vec<u8>, WireError> {
    let mut out = to_be_signed.to_vec();
    put_string(&mut out, signature)?;
    Ok(out)
}

/// Appends `bytes` behind its length, as SSH's `string`.
pub(crate) fn put_string(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), WireError> {
    let length = u32::try_from(bytes.len()).map_err(|_| WireError::Length)?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

/// The first SSH `string` of `bytes`, and what follows it.
pub(crate) fn take_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    rest.split_at_checked(length)
}

fn split_key(blob: &[u8]) -> Result<(&str, &[u8]), WireError> {
    let (key_type, fields) = take_string(blob).ok_or(WireError::KeyBlob)?;
    let key_type = std::str::from_utf8(key_type).map_err(|_| WireError::KeyBlob)?;
    if fields.is_empty() {
        return Err(WireError::KeyBlob);
    }
    Ok((key_type, fields))
}

fn certificate_type(key_type: &str) -> Result<&'static str, WireError> {
    Ok(match key_type {
        "ssh-ed25519" => "ssh-ed25519-cert-v01@openssh.com",
        "ssh-rsa" => "ssh-rsa-cert-v01@openssh.com",
        "ecdsa-sha2-nistp256" => "ecdsa-sha2-nistp256-cert-v01@openssh.com",
        "ecdsa-sha2-nistp384" => "ecdsa-sha2-nistp384-cert-v01@openssh.com",
        "ecdsa-sha2-nistp521" => "ecdsa-sha2-nistp521-cert-v01@openssh.com",
        "sk-ssh-ed25519@openssh.com" => "sk-ssh-ed25519-cert-v01@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com" => "sk-ecdsa-sha2-nistp256-cert-v01@openssh.com",
        other => return Err(WireError::KeyType(other.to_owned())),
    })
}

fn safe_principal(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte))
}

/// Options as OpenSSH wants them: in lexical order (a `BTreeMap` has it), a flag's data empty, a text inside a second string.
fn options(map: &BTreeMap<String, String>) -> Result<Vec<u8>, WireError> {
    let mut out = Vec::new();
    for (name, value) in map {
        put_string(&mut out, name.as_bytes())?;
        let mut data = Vec::new();
        if !value.is_empty() {
            put_string(&mut data, value.as_bytes())?;
        }
        put_string(&mut out, &data)?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ssh_key::{Algorithm, PrivateKey, rand_core::OsRng};

    fn fields() -> (CertificateFields, PrivateKey) {
        let ca = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).unwrap();
        let subject = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).unwrap();
        let fields = CertificateFields {
            cert_type: CertType::User,
            public_key: subject.public_key().to_bytes().unwrap(),
            nonce: [7; 32],
            serial: 42,
            key_id: "alice/00".to_owned(),
            principals: vec!["deploy".to_owned()],
            valid_after: 1_000,
            valid_before: 2_000,
            critical_options: BTreeMap::from([("force-command".to_owned(), "uptime".to_owned())]),
            extensions: BTreeMap::from([
                ("scope@countersign".to_owned(), "AQ".to_owned()),
                ("permit-pty".to_owned(), String::new()),
            ]),
            ca_key: ca.public_key().to_bytes().unwrap(),
        };
        (fields, ca)
    }

    #[test]
    fn an_independent_parser_reads_what_was_laid_out_and_its_signature_verifies() {
        let (fields, ca) = fields();
        let to_be_signed = fields.pre_certificate().unwrap();
        let signature = ssh_key::SigningKey::public_key(&ca);
        assert_eq!(signature.fingerprint(Default::default()), ca.fingerprint(Default::default()));
        let signature = crate::ca_key::sign_with(&ca, &to_be_signed).unwrap();
        let whole = with_signature(&to_be_signed, &signature).unwrap();
        let parsed = ssh_key::Certificate::from_bytes(&whole).unwrap();
        parsed.validate_at(1_500, &[ca.fingerprint(Default::default())]).unwrap();
        assert_eq!(parsed.serial(), 42);
        assert_eq!(parsed.key_id(), "alice/00");
        assert_eq!(parsed.valid_principals(), ["deploy"]);
        assert_eq!(parsed.critical_options().get("force-command").unwrap(), "uptime");
        assert_eq!(parsed.extensions().get("permit-pty").unwrap(), "");
        assert_eq!(parsed.extensions().get("scope@countersign").unwrap(), "AQ");
        let names: Vec<_> = parsed.extensions().keys().collect();
        assert_eq!(names, ["permit-pty", "scope@countersign"]);
    }

    #[test]
    fn a_certificate_without_principals_is_refused() {
        let (mut fields, _) = fields();
        fields.principals.clear();
        assert_eq!(fields.pre_certificate(), Err(WireError::NoPrincipals));
    }

    #[test]
    fn a_principal_that_some_sshd_splits_at_is_refused() {
        for name in ["deploy,root", "*", "dep loy", "", "a\n"] {
            let (mut fields, _) = fields();
            fields.principals = vec![name.to_owned()];
            assert_eq!(fields.pre_certificate(), Err(WireError::Principal(name.to_owned())));
        }
    }

    #[test]
    fn an_empty_validity_interval_is_refused() {
        let (mut fields, _) = fields();
        fields.valid_before = fields.valid_after;
        assert!(matches!(fields.pre_certificate(), Err(WireError::Validity { .. })));
    }

    #[test]
    fn a_certificate_is_not_taken_as_the_key_to_certify() {
        let (mut fields, ca) = fields();
        let to_be_signed = fields.pre_certificate().unwrap();
        let signature = crate::ca_key::sign_with(&ca, &to_be_signed).unwrap();
        fields.public_key = with_signature(&to_be_signed, &signature).unwrap();
        assert!(matches!(fields.pre_certificate(), Err(WireError::KeyType(_))));
    }

    #[test]
    fn a_key_blob_cut_short_is_refused() {
        let (mut fields, _) = fields();
        fields.public_key.truncate(6);
        assert_eq!(fields.pre_certificate(), Err(WireError::KeyBlob));
    }
}
