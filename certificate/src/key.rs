//! Plain public keys in SSH wire form ("blobs").
//!
//! A key has exactly one accepted blob: the ledger names keys by a hash of it, so a second spelling of a revoked key (a padded
//! RSA number, trailing bytes) would be another, unrevoked one. Certificates are refused where a plain key is expected: one that
//! stands in for a CA key has fooled others (CVE-2025-49825). Whether a point lies on its curve is left to sshd.

use sha2::{Digest, Sha256};

use crate::error::shown;
use crate::wire::{Reader, put_string};
use crate::{CertificateError, Digest32, Fingerprint20};

/// The largest RSA modulus that OpenSSH accepts, in bits, and the smallest that we do (sshd's `RequiredRSASize` may ask for more).
const RSA_MODULUS_BITS: std::ops::RangeInclusive<usize> = 1024..=16384;
const MAX_APPLICATION_BYTES: usize = 1024;

/// The types of keys that are accepted: what OpenSSH signs and logs in with today, without DSA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyAlgorithm {
    /// `ssh-ed25519`
    Ed25519,
    /// `ssh-rsa`
    Rsa,
    /// `ecdsa-sha2-nistp256`
    EcdsaP256,
    /// `ecdsa-sha2-nistp384`
    EcdsaP384,
    /// `ecdsa-sha2-nistp521`
    EcdsaP521,
    /// `sk-ssh-ed25519@openssh.com`: Ed25519 on a FIDO token
    SkEd25519,
    /// `sk-ecdsa-sha2-nistp256@openssh.com`: P-256 on a FIDO token
    SkEcdsaP256,
}

impl KeyAlgorithm {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Ed25519,
        Self::Rsa,
        Self::EcdsaP256,
        Self::EcdsaP384,
        Self::EcdsaP521,
        Self::SkEd25519,
        Self::SkEcdsaP256,
    ];

    /// The name of a plain key's type.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ssh-ed25519",
            Self::Rsa => "ssh-rsa",
            Self::EcdsaP256 => "ecdsa-sha2-nistp256",
            Self::EcdsaP384 => "ecdsa-sha2-nistp384",
            Self::EcdsaP521 => "ecdsa-sha2-nistp521",
            Self::SkEd25519 => "sk-ssh-ed25519@openssh.com",
            Self::SkEcdsaP256 => "sk-ecdsa-sha2-nistp256@openssh.com",
        }
    }

    /// The name of the type of certificates over such keys.
    #[must_use]
    pub const fn certificate_name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ssh-ed25519-cert-v01@openssh.com",
            Self::Rsa => "ssh-rsa-cert-v01@openssh.com",
            Self::EcdsaP256 => "ecdsa-sha2-nistp256-cert-v01@openssh.com",
            Self::EcdsaP384 => "ecdsa-sha2-nistp384-cert-v01@openssh.com",
            Self::EcdsaP521 => "ecdsa-sha2-nistp521-cert-v01@openssh.com",
            Self::SkEd25519 => "sk-ssh-ed25519-cert-v01@openssh.com",
            Self::SkEcdsaP256 => "sk-ecdsa-sha2-nistp256-cert-v01@openssh.com",
        }
    }

    pub(crate) fn from_name(name: &[u8], field: &'static str) -> Result<Self, CertificateError> {
        let known = Self::ALL.into_iter().find(|known| known.name().as_bytes() == name);
        known.ok_or_else(|| CertificateError::KeyType { field, found: shown(name) })
    }

    pub(crate) fn from_certificate_name(name: &[u8], field: &'static str) -> Result<Self, CertificateError> {
        let known = Self::ALL.into_iter().find(|known| known.certificate_name().as_bytes() == name);
        known.ok_or_else(|| CertificateError::KeyType { field, found: shown(name) })
    }

    /// Reads and checks the fields after the type (and, in a certificate, after the nonce).
    pub(crate) fn check_fields(self, reader: &mut Reader<'_>, field: &'static str) -> Result<(), CertificateError> {
        match self {
            Self::Ed25519 => ed25519(reader, field),
            Self::Rsa => rsa(reader, field),
            Self::EcdsaP256 => ecdsa(reader, field, b"nistp256", 65),
            Self::EcdsaP384 => ecdsa(reader, field, b"nistp384", 97),
            Self::EcdsaP521 => ecdsa(reader, field, b"nistp521", 133),
            Self::SkEd25519 => ed25519(reader, field).and_then(|()| application(reader, field)),
            Self::SkEcdsaP256 => ecdsa(reader, field, b"nistp256", 65).and_then(|()| application(reader, field)),
        }
    }

    /// Whether a key of this type makes signatures called `name`. SHA-1 is not among them.
    pub(crate) fn signs_as(self, name: &[u8]) -> bool {
        match self {
            Self::Rsa => name == b"rsa-sha2-256" || name == b"rsa-sha2-512",
            other => other.name().as_bytes() == name,
        }
    }

    /// Whether signatures carry the token's flags and counter after the signature proper.
    pub(crate) fn is_on_token(self) -> bool {
        matches!(self, Self::SkEd25519 | Self::SkEcdsaP256)
    }
}

/// A plain public key, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey<'a> {
    algorithm: KeyAlgorithm,
    blob: &'a [u8],
}

impl<'a> PublicKey<'a> {
    /// Checks a plain key's blob.
    ///
    /// # Errors
    /// Certificates, unknown types, anything that is not the key's one canonical form, trailing bytes.
    pub fn parse(blob: &'a [u8]) -> Result<Self, CertificateError> {
        Self::parse_as(blob, "public key")
    }

    pub(crate) fn parse_as(blob: &'a [u8], field: &'static str) -> Result<Self, CertificateError> {
        let mut reader = Reader::new(blob);
        let algorithm = KeyAlgorithm::from_name(reader.string(field)?, field)?;
        algorithm.check_fields(&mut reader, field)?;
        reader.finish(field)?;
        Ok(Self { algorithm, blob })
    }

    /// The key's type.
    #[must_use]
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// The blob that was parsed.
    #[must_use]
    pub fn blob(&self) -> &'a [u8] {
        self.blob
    }

    /// What the ledger calls the key by.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint20 {
        Fingerprint20::of_blob(self.blob)
    }
}

impl Fingerprint20 {
    /// The first 20 bytes of SHA-256 over a plain key's blob.
    #[must_use]
    pub fn of_blob(blob: &[u8]) -> Self {
        let mut head = [0; 20];
        for (to, from) in head.iter_mut().zip(fingerprint_sha256(blob)) {
            *to = from;
        }
        Self(head)
    }
}

/// SHA-256 over a key blob: what OpenSSH prints in base64 after `SHA256:`.
#[must_use]
pub fn fingerprint_sha256(blob: &[u8]) -> Digest32 {
    Sha256::digest(blob).into()
}

/// `type` and then `fields`, the raw bytes of the key's own fields, as a plain blob.
pub(crate) fn plain_blob(algorithm: KeyAlgorithm, fields: &[u8]) -> Result<Vec<u8>, CertificateError> {
    let mut blob = Vec::with_capacity(fields.len().saturating_add(40));
    put_string(&mut blob, algorithm.name().as_bytes(), "key type")?;
    blob.extend_from_slice(fields);
    Ok(blob)
}

fn ed25519(reader: &mut Reader<'_>, field: &'static str) -> Result<(), CertificateError> {
    match reader.string(field)?.len() {
        32 => Ok(()),
        _ => Err(CertificateError::Invalid { field, expected: "an Ed25519 key of 32 bytes" }),
    }
}

fn ecdsa(reader: &mut Reader<'_>, field: &'static str, curve: &[u8], size: usize) -> Result<(), CertificateError> {
    if reader.string(field)? != curve {
        return Err(CertificateError::Invalid { field, expected: "on the curve that its type names" });
    }
    let point = reader.string(field)?;
    if point.len() == size && point.first() == Some(&4) {
        Ok(())
    } else {
        Err(CertificateError::Invalid { field, expected: "an uncompressed point of its curve" })
    }
}

fn rsa(reader: &mut Reader<'_>, field: &'static str) -> Result<(), CertificateError> {
    let exponent = positive_mpint(reader, field)?;
    let modulus = positive_mpint(reader, field)?;
    if exponent.len() > 8 || exponent.last().is_none_or(|low| low & 1 == 0) {
        return Err(CertificateError::Invalid {
            field,
            expected: "an RSA key with an odd exponent of at most 64 bits",
        });
    }
    if !RSA_MODULUS_BITS.contains(&bits(modulus)) {
        return Err(CertificateError::Invalid { field, expected: "an RSA key of 1024 to 16384 bits" });
    }
    Ok(())
}

/// A number's magnitude without its sign byte; refused unless it is in RFC 4251's one shortest form.
fn positive_mpint<'a>(reader: &mut Reader<'a>, field: &'static str) -> Result<&'a [u8], CertificateError> {
    match reader.string(field)? {
        [0, rest @ ..] if rest.first().is_some_and(|high| *high >= 0x80) => Ok(rest),
        number @ [1..0x80, ..] => Ok(number),
        _ => Err(CertificateError::Invalid { field, expected: "made of positive numbers in their shortest form" }),
    }
}

/// How many bits a magnitude in its shortest form has.
fn bits(magnitude: &[u8]) -> usize {
    let unused = magnitude.first().map_or(0, |high| high.leading_zeros());
    magnitude.len().saturating_mul(8).saturating_sub(usize::try_from(unused).unwrap_or(0))
}

fn application(reader: &mut Reader<'_>, field: &'static str) -> Result<(), CertificateError> {
    match reader.text(field)?.len() {
        1..=MAX_APPLICATION_BYTES => Ok(()),
        _ => Err(CertificateError::Invalid { field, expected: "a token key with an application of 1 to 1024 bytes" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(parts: &[&[u8]]) -> Vec<u8> {
        let mut blob = Vec::new();
        for part in parts {
            put_string(&mut blob, part, "test").unwrap();
        }
        blob
    }

    #[test]
    fn each_type_of_key_is_accepted_in_its_canonical_form() {
        let modulus = [&[0, 0x80][..], &[1; 255]].concat();
        let point = |size: usize| [&[4][..], &vec![1; size - 1]].concat();
        let keys = [
            blob(&[b"ssh-ed25519", &[1; 32]]),
            blob(&[b"ssh-rsa", &[1, 0, 1], &modulus]),
            blob(&[b"ecdsa-sha2-nistp256", b"nistp256", &point(65)]),
            blob(&[b"ecdsa-sha2-nistp384", b"nistp384", &point(97)]),
            blob(&[b"ecdsa-sha2-nistp521", b"nistp521", &point(133)]),
            blob(&[b"sk-ssh-ed25519@openssh.com", &[1; 32], b"ssh:"]),
            blob(&[b"sk-ecdsa-sha2-nistp256@openssh.com", b"nistp256", &point(65), b"ssh:"]),
        ];
        for key in &keys {
            let parsed = PublicKey::parse(key).unwrap();
            assert_eq!(parsed.fingerprint().0[..], fingerprint_sha256(key)[..20]);
            assert!(PublicKey::parse(&[&key[..], &[0]].concat()).is_err(), "{:?} with a byte more", parsed.algorithm());
            for end in 0..key.len() {
                assert!(PublicKey::parse(&key[..end]).is_err(), "{:?} cut at {end}", parsed.algorithm());
            }
        }
    }

    #[test]
    fn a_second_spelling_of_an_rsa_number_is_refused() {
        let modulus = [&[0, 0x80][..], &[1; 255]].concat();
        let padded = [&[0][..], &modulus].concat();
        let negative = modulus[1..].to_vec();
        let low = [&[0x7f][..], &[1; 255]].concat();
        let low_padded = [&[0][..], &low].concat();
        assert!(PublicKey::parse(&blob(&[b"ssh-rsa", &[1, 0, 1], &low])).is_ok());
        for (exponent, modulus) in [
            (&[1, 0, 1][..], &padded),
            (&[1, 0, 1], &negative),
            (&[1, 0, 1], &low_padded),
            (&[0, 1, 0, 1], &modulus),
            (&[], &modulus),
            (&[0], &modulus),
            (&[2], &modulus),
            (&[0xff], &modulus),
        ] {
            assert!(PublicKey::parse(&blob(&[b"ssh-rsa", exponent, modulus])).is_err(), "{exponent:?}");
        }
    }

    #[test]
    fn an_rsa_key_of_fewer_than_1024_or_more_than_16384_bits_is_refused() {
        let modulus = |bytes: usize, high: u8| {
            let sign: &[u8] = if high >= 0x80 { &[0] } else { &[] };
            [sign, &[high], &vec![1; bytes - 1]].concat()
        };
        let parses = |modulus: &[u8]| PublicKey::parse(&blob(&[b"ssh-rsa", &[1, 0, 1], modulus])).is_ok();
        assert!(parses(&modulus(128, 0x80)) && parses(&modulus(2048, 0xff)));
        for (bytes, high) in [(1, 0x81), (64, 0xff), (127, 0xff), (128, 1), (128, 0x7f), (2049, 1), (4096, 0xff)] {
            assert!(!parses(&modulus(bytes, high)), "{bytes} bytes from {high:#x}");
        }
    }

    #[test]
    fn a_certificate_an_unknown_type_and_another_curve_are_refused() {
        let refused = [
            blob(&[b"ssh-ed25519-cert-v01@openssh.com", &[1; 32]]),
            blob(&[b"ssh-dss", &[1; 32]]),
            blob(&[b"ssh-ed25519", &[1; 31]]),
            blob(&[b"ecdsa-sha2-nistp256", b"nistp384", &[4; 65]]),
            blob(&[b"ecdsa-sha2-nistp256", b"nistp256", &[3; 65]]),
            blob(&[b"ecdsa-sha2-nistp256", b"nistp256", &[4; 33]]),
            blob(&[b"sk-ssh-ed25519@openssh.com", &[1; 32], b""]),
        ];
        for key in &refused {
            assert!(PublicKey::parse(key).is_err(), "{}", key.escape_ascii());
        }
    }
}
