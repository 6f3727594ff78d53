//! What is delivered, and the container that carries it: kind, name, salt and parts, so that a payload says by itself what it is.
//! Layout, digest and padding: `docs/spec/delivery.md`.
//!
//! Strict both ways: one encoding per payload; unknown versions, kinds and tags, parts out of order, and trailing bytes are refused.
//! The texts are checked for their outer form only; whether a certificate is good is for those who know certificates.

use std::fmt;

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::error::{DeliveryError, hex};

/// The longest payload, container included: with its length it fills the largest padding bucket.
pub const MAX_PAYLOAD_BYTES: usize = MAX_BUCKET - LENGTH_BYTES;

/// Random bytes inside the container that keep its digest from being guessed.
pub type Salt = [u8; 32];
/// SHA-256 over a domain tag, the salt and the container.
pub type Digest = [u8; 32];

const VERSION: u8 = 1;
const DIGEST_TAG: &[u8] = b"countersign.payload.v1";
const MIN_BUCKET: usize = 1024;
const MAX_BUCKET: usize = 131_072;
const LENGTH_BYTES: usize = 4;

const TAG_CERTIFICATE: u8 = 1;
const TAG_PRIVATE_KEY: u8 = 2;
const TAG_X509_KEY: u8 = 3;
const TAG_X509_CHAIN: u8 = 4;
const TAG_SECRET: u8 = 5;

/// The payload kinds of class 08 entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PayloadKind {
    /// 1: an SSH certificate.
    SshCertificate,
    /// 2: an SSH private key, with its certificate where there is one.
    SshKeyPair,
    /// 3: a certificate for an SSH host key.
    HostCertificate,
    /// 4: an X.509 private key and its certificate chain.
    X509KeyPair,
    /// 5: bytes that only their recipient understands.
    OpaqueSecret,
}

impl PayloadKind {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::SshCertificate, Self::SshKeyPair, Self::HostCertificate, Self::X509KeyPair, Self::OpaqueSecret];
}

impl PayloadKind {
    /// The number on the ledger.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::SshCertificate => 1,
            Self::SshKeyPair => 2,
            Self::HostCertificate => 3,
            Self::X509KeyPair => 4,
            Self::OpaqueSecret => 5,
        }
    }
}

impl TryFrom<u8> for PayloadKind {
    type Error = DeliveryError;

    fn try_from(number: u8) -> Result<Self, DeliveryError> {
        let known = Self::ALL.into_iter().find(|kind| kind.number() == number);
        known.ok_or(DeliveryError::Kind { found: number })
    }
}

impl fmt::Display for PayloadKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::SshCertificate => "ssh-certificate",
            Self::SshKeyPair => "ssh-key-pair",
            Self::HostCertificate => "host-certificate",
            Self::X509KeyPair => "x509-key-pair",
            Self::OpaqueSecret => "opaque-secret",
        })
    }
}

/// What a payload holds, as the files that OpenSSH reads.
#[derive(Clone, PartialEq, Eq)]
pub enum Contents {
    /// One certificate.
    SshCertificate {
        /// One line as in a `-cert.pub` file, newline included.
        certificate: String,
    },
    /// A private key and, where there is one, its certificate.
    SshKeyPair {
        /// An OpenSSH private key file, from its `BEGIN` line to the newline after its `END` line.
        private_key: Zeroizing<String>,
        /// As in [`Contents::SshCertificate`].
        certificate: Option<String>,
    },
    /// A certificate for the host key that is there.
    HostCertificate {
        /// As in [`Contents::SshCertificate`].
        certificate: String,
    },
    /// A private key and the certificates that speak for it.
    X509KeyPair {
        /// One PEM block of a private key (PKCS#8, PKCS#1 or SEC1), newline included.
        private_key: Zeroizing<String>,
        /// PEM blocks `CERTIFICATE`: the key's own first, each of the others signs the one before it.
        chain: String,
    },
    /// Bytes, not empty.
    OpaqueSecret {
        /// The bytes.
        secret: Zeroizing<Vec<u8>>,
    },
}

impl Contents {
    /// The kind that the delivery entry names.
    #[must_use]
    pub fn kind(&self) -> PayloadKind {
        match self {
            Self::SshCertificate { .. } => PayloadKind::SshCertificate,
            Self::SshKeyPair { .. } => PayloadKind::SshKeyPair,
            Self::HostCertificate { .. } => PayloadKind::HostCertificate,
            Self::X509KeyPair { .. } => PayloadKind::X509KeyPair,
            Self::OpaqueSecret { .. } => PayloadKind::OpaqueSecret,
        }
    }

    fn parts(&self) -> Vec<(u8, &[u8])> {
        match self {
            Self::SshCertificate { certificate } | Self::HostCertificate { certificate } => {
                vec![(TAG_CERTIFICATE, certificate.as_bytes())]
            }
            Self::SshKeyPair { private_key, certificate } => certificate
                .iter()
                .map(|certificate| (TAG_CERTIFICATE, certificate.as_bytes()))
                .chain([(TAG_PRIVATE_KEY, private_key.as_bytes())])
                .collect(),
            Self::X509KeyPair { private_key, chain } => {
                vec![(TAG_X509_KEY, private_key.as_bytes()), (TAG_X509_CHAIN, chain.as_bytes())]
            }
            Self::OpaqueSecret { secret } => vec![(TAG_SECRET, secret.as_slice())],
        }
    }
}

impl fmt::Debug for Contents {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Contents({})", self.kind())
    }
}

/// A named payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    name: String,
    contents: Contents,
}

impl Payload {
    /// Names `contents`.
    ///
    /// # Errors
    /// [`DeliveryError::Name`] outside `[a-z0-9._-]{1,63}`; [`DeliveryError::Container`] where a text has not the form that its
    /// field describes; [`DeliveryError::PayloadTooLarge`].
    pub fn new(name: &str, contents: Contents) -> Result<Self, DeliveryError> {
        check_name(name)?;
        for (tag, part) in contents.parts() {
            check_part(tag, part)?;
        }
        let payload = Self { name: name.to_owned(), contents };
        payload.encode(&[0; 32]).map(|_| payload)
    }

    /// The name under which the recipient's configuration knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it holds.
    #[must_use]
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Takes the contents out.
    #[must_use]
    pub fn into_contents(self) -> Contents {
        self.contents
    }

    /// The container's bytes, unpadded.
    ///
    /// # Errors
    /// [`DeliveryError::PayloadTooLarge`] above [`MAX_PAYLOAD_BYTES`].
    pub fn encode(&self, salt: &Salt) -> Result<Zeroizing<Vec<u8>>, DeliveryError> {
        let parts = self.contents.parts();
        let body = parts.iter().fold(0_usize, |sum, (_, text)| sum.saturating_add(text.len()).saturating_add(5));
        let length = body.saturating_add(36).saturating_add(self.name.len());
        let too_large = || DeliveryError::PayloadTooLarge { found: length, maximum: MAX_PAYLOAD_BYTES };
        if length > MAX_PAYLOAD_BYTES {
            return Err(too_large());
        }
        // Full size at once: a vector that grows leaves copies of secrets behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(length));
        bytes.extend_from_slice(&[VERSION, self.contents.kind().number()]);
        bytes.extend_from_slice(salt);
        bytes.push(u8::try_from(self.name.len()).map_err(|_| too_large())?);
        bytes.extend_from_slice(self.name.as_bytes());
        bytes.push(u8::try_from(parts.len()).map_err(|_| too_large())?);
        for (tag, text) in parts {
            bytes.push(tag);
            bytes.extend_from_slice(&u32::try_from(text.len()).map_err(|_| too_large())?.to_be_bytes());
            bytes.extend_from_slice(text);
        }
        Ok(bytes)
    }

    /// Reads a container's bytes, unpadded, and gives the salt with it.
    ///
    /// # Errors
    /// [`DeliveryError::Container`] naming the field, [`DeliveryError::Kind`], [`DeliveryError::Name`].
    pub fn decode(bytes: &[u8]) -> Result<(Self, Salt), DeliveryError> {
        let mut reader = Reader(bytes);
        if reader.byte("version")? != VERSION {
            return Err(DeliveryError::Container { field: "version", expected: "1" });
        }
        let kind = PayloadKind::try_from(reader.byte("kind")?)?;
        let salt: Salt = *reader.array("salt")?;
        let name_length = reader.byte("name length")?;
        let name = text(reader.take("name", usize::from(name_length))?, "name")?;
        check_name(name)?;

        let mut parts = Vec::new();
        let mut last_tag = 0;
        for _ in 0..reader.byte("part count")? {
            let tag = reader.byte("part tag")?;
            if tag <= last_tag {
                return Err(DeliveryError::Container {
                    field: "part tag",
                    expected: "ascending tags, each at most once",
                });
            }
            last_tag = tag;
            let length = u32::from_be_bytes(*reader.array("part length")?);
            let length = usize::try_from(length).map_err(|_| DeliveryError::Container {
                field: "part length",
                expected: "a length within the container",
            })?;
            let part = reader.take("part", length)?;
            check_part(tag, part)?;
            parts.push((tag, part));
        }
        if !reader.0.is_empty() {
            return Err(DeliveryError::Container { field: "end", expected: "no bytes after the last part" });
        }

        let contents = match (kind, parts.as_slice()) {
            (PayloadKind::SshCertificate, [(TAG_CERTIFICATE, certificate)]) => {
                Contents::SshCertificate { certificate: text(certificate, "part")?.to_owned() }
            }
            (PayloadKind::HostCertificate, [(TAG_CERTIFICATE, certificate)]) => {
                Contents::HostCertificate { certificate: text(certificate, "part")?.to_owned() }
            }
            (PayloadKind::SshKeyPair, [(TAG_PRIVATE_KEY, private_key)]) => {
                Contents::SshKeyPair { private_key: secret_text(private_key)?, certificate: None }
            }
            (PayloadKind::SshKeyPair, [(TAG_CERTIFICATE, certificate), (TAG_PRIVATE_KEY, private_key)]) => {
                Contents::SshKeyPair {
                    private_key: secret_text(private_key)?,
                    certificate: Some(text(certificate, "part")?.to_owned()),
                }
            }
            (PayloadKind::X509KeyPair, [(TAG_X509_KEY, private_key), (TAG_X509_CHAIN, chain)]) => {
                Contents::X509KeyPair { private_key: secret_text(private_key)?, chain: text(chain, "part")?.to_owned() }
            }
            (PayloadKind::OpaqueSecret, [(TAG_SECRET, secret)]) => {
                Contents::OpaqueSecret { secret: Zeroizing::new(secret.to_vec()) }
            }
            _ => return Err(DeliveryError::Container { field: "parts", expected: "the parts that the kind asks for" }),
        };
        Ok((Self { name: name.to_owned(), contents }, salt))
    }
}

/// SHA-256("countersign.payload.v1" ‖ salt ‖ container).
pub(crate) fn digest(salt: &Salt, container: &[u8]) -> Digest {
    Sha256::new().chain_update(DIGEST_TAG).chain_update(salt).chain_update(container).finalize().into()
}

/// Length, container, zeros up to the bucket.
pub(crate) fn pad(container: &[u8]) -> Result<Zeroizing<Vec<u8>>, DeliveryError> {
    let too_large = || DeliveryError::PayloadTooLarge { found: container.len(), maximum: MAX_PAYLOAD_BYTES };
    let used = container.len().saturating_add(LENGTH_BYTES);
    let bucket = bucket_for(used).ok_or_else(too_large)?;
    let mut padded = Zeroizing::new(Vec::with_capacity(bucket));
    padded.extend_from_slice(&u32::try_from(container.len()).map_err(|_| too_large())?.to_be_bytes());
    padded.extend_from_slice(container);
    padded.resize(bucket, 0);
    Ok(padded)
}

/// The container in `padded`; refused unless [`pad`] would give these very bytes.
pub(crate) fn unpad(padded: &[u8]) -> Result<&[u8], DeliveryError> {
    let refused = |expected| DeliveryError::Container { field: "padding", expected };
    let mut reader = Reader(padded);
    let length = usize::try_from(u32::from_be_bytes(*reader.array("padding")?))
        .map_err(|_| refused("a length within the bucket"))?;
    let container = reader.take("padding", length)?;
    if bucket_for(length.saturating_add(LENGTH_BYTES)) != Some(padded.len()) {
        return Err(refused("the smallest bucket that holds the payload"));
    }
    if reader.0.iter().any(|byte| *byte != 0) {
        return Err(refused("zeros after the payload"));
    }
    Ok(container)
}

/// Whether `length` is one of the padded lengths.
pub(crate) fn is_bucket(length: usize) -> bool {
    bucket_for(length) == Some(length)
}

fn bucket_for(length: usize) -> Option<usize> {
    length.checked_next_power_of_two().map(|bucket| bucket.max(MIN_BUCKET)).filter(|bucket| *bucket <= MAX_BUCKET)
}

fn check_name(name: &str) -> Result<(), DeliveryError> {
    let good = (1..=63).contains(&name.len())
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
        // A name becomes part of a path at the recipient.
        && !name.starts_with('.');
    if good { Ok(()) } else { Err(DeliveryError::Name { found: name.chars().take(64).collect() }) }
}

fn check_part(tag: u8, part: &[u8]) -> Result<(), DeliveryError> {
    let lines = part.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\n'));
    let framed = |begin: &[u8], end: &[u8]| lines && part.starts_with(begin) && part.ends_with(end);
    let (good, field, expected) = match tag {
        TAG_CERTIFICATE => (is_certificate(part), "certificate", "one line of printable ASCII as in a -cert.pub file"),
        TAG_PRIVATE_KEY => (
            framed(b"-----BEGIN OPENSSH PRIVATE KEY-----\n", b"\n-----END OPENSSH PRIVATE KEY-----\n"),
            "private key",
            "an OpenSSH private key file",
        ),
        TAG_X509_KEY => {
            (framed(b"-----BEGIN ", b"PRIVATE KEY-----\n"), "x.509 private key", "one PEM block of a private key")
        }
        TAG_X509_CHAIN => (
            framed(b"-----BEGIN CERTIFICATE-----\n", b"\n-----END CERTIFICATE-----\n"),
            "x.509 chain",
            "PEM blocks of certificates",
        ),
        TAG_SECRET => (!part.is_empty(), "secret", "at least one byte"),
        _ => (false, "part tag", "1 (certificate) to 5 (secret)"),
    };
    if good { Ok(()) } else { Err(DeliveryError::Container { field, expected }) }
}

fn is_certificate(part: &[u8]) -> bool {
    let Some((b'\n', line)) = part.split_last() else { return false };
    let word = line.split(|byte| *byte == b' ').next().unwrap_or_default();
    line.iter().all(|byte| matches!(byte, b' '..=b'~')) && word.windows(10).any(|part| part == b"-cert-v01@")
}

fn secret_text(bytes: &[u8]) -> Result<Zeroizing<String>, DeliveryError> {
    text(bytes, "part").map(|text| Zeroizing::new(text.to_owned()))
}

fn text<'a>(bytes: &'a [u8], field: &'static str) -> Result<&'a str, DeliveryError> {
    std::str::from_utf8(bytes).map_err(|_| DeliveryError::Container { field, expected: "UTF-8 text" })
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, field: &'static str, length: usize) -> Result<&'a [u8], DeliveryError> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(DeliveryError::Container { field, expected: "a container that does not end here" })?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<&'a [u8; N], DeliveryError> {
        let (taken, rest) = self
            .0
            .split_first_chunk()
            .ok_or(DeliveryError::Container { field, expected: "a container that does not end here" })?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self, field: &'static str) -> Result<u8, DeliveryError> {
        self.array::<1>(field).map(|[byte]| *byte)
    }
}

/// Compares a digest with the entry's.
pub(crate) fn check_digest(found: &Digest, expected: &Digest) -> Result<(), DeliveryError> {
    if found == expected { Ok(()) } else { Err(DeliveryError::Digest { found: hex(found), expected: hex(expected) }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CERTIFICATE: &str = "ssh-ed25519-cert-v01@openssh.com AAAAIHNzaA== alice/01\n";
    const PRIVATE_KEY: &str = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaA==\n-----END OPENSSH PRIVATE KEY-----\n";

    fn certificate() -> Contents {
        Contents::SshCertificate { certificate: CERTIFICATE.to_owned() }
    }

    fn key_pair(certificate: Option<&str>) -> Contents {
        let private_key = Zeroizing::new(PRIVATE_KEY.to_owned());
        Contents::SshKeyPair { private_key, certificate: certificate.map(str::to_owned) }
    }

    const X509_KEY: &str = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    const CHAIN: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

    fn host_certificate() -> Contents {
        Contents::HostCertificate { certificate: CERTIFICATE.to_owned() }
    }

    fn x509(private_key: &str, chain: &str) -> Contents {
        Contents::X509KeyPair { private_key: Zeroizing::new(private_key.to_owned()), chain: chain.to_owned() }
    }

    fn secret(bytes: &[u8]) -> Contents {
        Contents::OpaqueSecret { secret: Zeroizing::new(bytes.to_vec()) }
    }

    #[test]
    fn every_kind_survives_its_container() {
        let ssh = [certificate(), key_pair(None), key_pair(Some(CERTIFICATE)), host_certificate()];
        for contents in ssh.into_iter().chain([x509(X509_KEY, CHAIN), secret(b"\0\xff")]) {
            let payload = Payload::new("alice.laptop", contents).unwrap();
            let bytes = payload.encode(&[9; 32]).unwrap();
            assert_eq!(Payload::decode(&bytes).unwrap(), (payload, [9; 32]));
        }
    }

    #[test]
    fn a_container_cut_at_any_byte_or_lengthened_is_refused() {
        let bytes = Payload::new("alice", key_pair(Some(CERTIFICATE))).unwrap().encode(&[9; 32]).unwrap();
        for end in 0..bytes.len() {
            assert!(Payload::decode(&bytes[..end]).is_err(), "the first {end} bytes were accepted");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        let error = Payload::decode(&longer).unwrap_err();
        assert_eq!(error.to_string(), "payload container: end: expected no bytes after the last part");
    }

    #[test]
    fn another_version_kind_or_tag_is_refused() {
        let bytes = Payload::new("alice", certificate()).unwrap().encode(&[9; 32]).unwrap();
        let tag_at = 2 + 32 + 1 + "alice".len() + 1;
        assert_eq!(bytes[tag_at], TAG_CERTIFICATE);
        for (at, byte, message) in [
            (0, 2, "payload container: version: expected 1"),
            (1, 6, "payload kind 6: expected a number from 1 (ssh certificate) to 5 (opaque secret)"),
            (1, 2, "payload container: parts: expected the parts that the kind asks for"),
            (tag_at, 0, "payload container: part tag: expected ascending tags, each at most once"),
            (tag_at, 6, "payload container: part tag: expected 1 (certificate) to 5 (secret)"),
        ] {
            let mut bad = bytes.to_vec();
            bad[at] = byte;
            assert_eq!(Payload::decode(&bad).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn parts_out_of_order_or_twice_are_refused() {
        let part = |tag: u8, text: &str| {
            [&[tag][..], &u32::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat()
        };
        let head = |kind: u8| [&[1, kind][..], &[9; 32], &[1], b"a", &[2]].concat();
        let swapped = [head(2), part(2, PRIVATE_KEY), part(1, CERTIFICATE)].concat();
        let twice = [head(1), part(1, CERTIFICATE), part(1, CERTIFICATE)].concat();
        for bad in [swapped, twice] {
            let error = Payload::decode(&bad).unwrap_err();
            assert_eq!(error.to_string(), "payload container: part tag: expected ascending tags, each at most once");
        }
        let in_order = [head(2), part(1, CERTIFICATE), part(2, PRIVATE_KEY)].concat();
        assert!(Payload::decode(&in_order).is_ok());
    }

    #[test]
    fn names_that_could_lead_elsewhere_are_refused() {
        for name in ["", ".", "..", ".ssh", "a/b", "A", "a b", "a\n", "\u{e9}", &"a".repeat(64)] {
            assert!(Payload::new(name, certificate()).is_err(), "{name:?} was accepted");
        }
        assert!(Payload::new(&"a".repeat(63), certificate()).is_ok());
    }

    #[test]
    fn texts_of_another_form_are_refused() {
        for bad in
            ["", "\n", "ssh-ed25519 AAAA alice\n", CERTIFICATE.trim_end(), &format!("{CERTIFICATE}{CERTIFICATE}")]
        {
            let contents = Contents::SshCertificate { certificate: bad.to_owned() };
            assert!(Payload::new("alice", contents).is_err(), "certificate {bad:?} was accepted");
        }
        for bad in ["", "-----BEGIN RSA PRIVATE KEY-----\n", PRIVATE_KEY.trim_end(), &PRIVATE_KEY.replace('=', "\0")] {
            let contents = Contents::SshKeyPair { private_key: Zeroizing::new(bad.to_owned()), certificate: None };
            assert!(Payload::new("alice", contents).is_err(), "private key {bad:?} was accepted");
        }
        for (key, chain) in [("", CHAIN), (X509_KEY, ""), (CHAIN, CHAIN), (X509_KEY, X509_KEY), (X509_KEY, "\u{e9}")] {
            assert!(Payload::new("www", x509(key, chain)).is_err(), "{key:?} with {chain:?} was accepted");
        }
        assert!(Payload::new("token", secret(b"")).is_err(), "an empty secret was accepted");
    }

    #[test]
    fn padding_hides_the_length_within_a_bucket() {
        for (length, bucket) in [(0, 1024), (1020, 1024), (1021, 2048), (2044, 2048), (2045, 4096), (131_068, 131_072)]
        {
            let padded = pad(&vec![7; length]).unwrap();
            assert_eq!(padded.len(), bucket);
            assert!(is_bucket(padded.len()));
            assert_eq!(unpad(&padded).unwrap(), vec![7; length]);
        }
        let error = pad(&vec![7; 131_069]).unwrap_err();
        assert_eq!(error.to_string(), "payload of 131069 bytes: expected at most 131068");
    }

    #[test]
    fn padding_has_one_form_only() {
        let mut not_zero = pad(b"x").unwrap();
        not_zero[1023] = 1;
        let mut larger_bucket = pad(b"x").unwrap();
        larger_bucket.resize(2048, 0);
        let mut beyond = pad(b"x").unwrap();
        beyond[..4].copy_from_slice(&1021_u32.to_be_bytes());
        for bad in [not_zero, larger_bucket, beyond, Zeroizing::new(vec![0; 3])] {
            assert!(unpad(&bad).is_err(), "{} bytes starting {:?} were accepted", bad.len(), &bad[..3]);
        }
    }

    #[test]
    fn a_payload_for_no_bucket_is_refused_when_made() {
        let certificate = format!("ssh-ed25519-cert-v01@openssh.com {}\n", "A".repeat(MAX_PAYLOAD_BYTES));
        let error = Payload::new("alice", Contents::SshCertificate { certificate }).unwrap_err();
        assert_eq!(error.to_string(), "payload of 131148 bytes: expected at most 131068");
    }

    #[test]
    fn contents_never_print_the_private_key() {
        assert_eq!(format!("{:?}", key_pair(None)), "Contents(ssh-key-pair)");
    }
}
