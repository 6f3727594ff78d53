//! Judges an opened payload: parses its parts strictly, finds the CA by its raw key among the realm's live CAs, verifies the
//! CA's signature over the very bytes received, and compares the certified key with the device's own. What does not pass is
//! never written anywhere.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_certificate::{CertType, Certificate, PublicKey};
use countersign_delivery::{Contents, Payload, PayloadKind};
use countersign_registry::Effective;
use countersign_registry::realm::{CaPurpose, CaState};
use signature::{Signer as _, Verifier as _};
use ssh_key::{HashAlg, PrivateKey, Signature};
use zeroize::Zeroizing;

use super::ReceiveError;

/// What may be written after all checks.
#[derive(Clone)]
pub struct Checked {
    /// In the order in which they are written: what is useless alone goes first.
    pub parts: Vec<Part>,
    /// Whether the sender knows the secret in it.
    pub sender_knows: bool,
    /// Where the certificate ends, Unix time, first second after.
    pub valid_before: Option<u64>,
}

/// One file.
#[derive(Clone)]
pub struct Part {
    /// What follows the payload's path in its name.
    pub suffix: &'static str,
    /// What it holds.
    pub bytes: Zeroizing<Vec<u8>>,
}

impl Part {
    fn new(suffix: &'static str, bytes: &[u8]) -> Self {
        Self { suffix, bytes: Zeroizing::new(bytes.to_vec()) }
    }
}

/// What follows a payload's path in the names of its files, by kind.
pub fn suffixes(kind: PayloadKind) -> &'static [&'static str] {
    match kind {
        PayloadKind::SshCertificate | PayloadKind::SshKeyPair => &["", ".pub", "-cert.pub"],
        // The key and its public half are the host's own.
        PayloadKind::HostCertificate => &["", ".pub", "-cert.pub"],
        PayloadKind::X509KeyPair => &[".key", ".crt"],
        PayloadKind::OpaqueSecret => &[""],
    }
}

impl std::fmt::Debug for Checked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let suffixes: Vec<&str> = self.parts.iter().map(|part| part.suffix).collect();
        f.debug_struct("Checked")
            .field("suffixes", &suffixes)
            .field("valid_before", &self.valid_before)
            .finish_non_exhaustive()
    }
}

/// Checks a payload at Unix time `now`. `own_key` is the plain blob of the key that this device made for the payload's name: a
/// certificate alone must certify it; a key pair brings its own key, and it is not asked for.
///
/// # Errors
/// From [`ReceiveError::Malformed`] to [`ReceiveError::Expired`].
pub fn check(
    effective: &Effective,
    payload: &Payload,
    own_key: Option<&[u8]>,
    now: u64,
) -> Result<Checked, ReceiveError> {
    match payload.contents() {
        Contents::SshCertificate { certificate } | Contents::HostCertificate { certificate } => {
            let own_key =
                own_key.ok_or(ReceiveError::NotOwnKey("this device has no key for a certificate of this name"))?;
            let use_of = Use::of(payload.contents().kind());
            let valid_before = check_certificate(effective, certificate, own_key, use_of, now)?;
            let parts = vec![Part::new("-cert.pub", certificate.as_bytes())];
            Ok(Checked { parts, sender_knows: false, valid_before: Some(valid_before) })
        }
        Contents::X509KeyPair { private_key, chain } => {
            let valid_before = super::x509::check_key_pair(private_key, chain, now)?;
            let parts = vec![Part::new(".key", private_key.as_bytes()), Part::new(".crt", chain.as_bytes())];
            Ok(Checked { parts, sender_knows: true, valid_before: Some(valid_before) })
        }
        Contents::OpaqueSecret { secret } => {
            Ok(Checked { parts: vec![Part::new("", secret)], sender_knows: true, valid_before: None })
        }
        Contents::SshKeyPair { private_key, certificate } => {
            let (blob, public_line) = check_private_key(private_key)?;
            let line = certificate.as_ref();
            let valid_before =
                line.map(|line| check_certificate(effective, line, &blob, Use::User, now)).transpose()?;
            let mut parts = vec![Part::new("", private_key.as_bytes()), Part::new(".pub", public_line.as_bytes())];
            parts.extend(line.map(|line| Part::new("-cert.pub", line.as_bytes())));
            Ok(Checked { parts, sender_knows: true, valid_before })
        }
    }
}

/// The blob in a line of a `-cert.pub` file: type, base64, and perhaps a comment.
///
/// # Errors
/// [`ReceiveError::Malformed`].
pub fn certificate_blob(line: &str) -> Result<Vec<u8>, ReceiveError> {
    line_blob("certificate", line)
}

/// The blob in a line of a `.pub` file, checked to be one plain key.
///
/// # Errors
/// [`ReceiveError::Malformed`].
pub fn public_key_blob(line: &str) -> Result<Vec<u8>, ReceiveError> {
    let blob = line_blob("public key", line)?;
    PublicKey::parse(&blob).map_err(|error| malformed("public key", error))?;
    Ok(blob)
}

/// Whom a certificate speaks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    User,
    Host,
}

impl Use {
    fn of(kind: PayloadKind) -> Self {
        if kind == PayloadKind::HostCertificate { Self::Host } else { Self::User }
    }
}

/// Returns the certificate's `valid_before`.
fn check_certificate(
    effective: &Effective,
    line: &str,
    own_key: &[u8],
    use_of: Use,
    now: u64,
) -> Result<u64, ReceiveError> {
    let blob = certificate_blob(line)?;
    let certificate = Certificate::parse(&blob)?;
    match (use_of, certificate.cert_type) {
        (Use::User, CertType::User) | (Use::Host, CertType::Host) => {}
        (Use::User, CertType::Host) => {
            return Err(malformed("certificate", "expected a user certificate, found a host certificate"));
        }
        (Use::Host, CertType::User) => {
            return Err(malformed("certificate", "expected a host certificate, found a user certificate"));
        }
    }
    // First of all: nothing that may change later makes it worth waiting for.
    if now >= certificate.valid_before {
        return Err(ReceiveError::Expired { valid_before: certificate.valid_before, now });
    }
    let key = ssh_key::PublicKey::from_bytes(certificate.signature_key)
        .map_err(|error| malformed("certificate", format!("the CA's key: {error}")))?;
    let refuse = |problem| ReceiveError::Ca { fingerprint: key.fingerprint(HashAlg::Sha256).to_string(), problem };
    let ca = effective
        .cas
        .values()
        .find(|ca| *ca.public_key == *certificate.signature_key)
        .ok_or_else(|| refuse("not a CA of this realm"))?;
    match ca.state {
        CaState::Active => {}
        CaState::Retired { at } if certificate.valid_after < at => {}
        CaState::Retired { .. } => return Err(refuse("retired, and the certificate is newer")),
        CaState::Locked => return Err(refuse("locked")),
        CaState::Revoked => return Err(refuse("revoked")),
    }
    match (use_of, ca.purpose) {
        (Use::User, CaPurpose::User) | (Use::Host, CaPurpose::Host) => {}
        (Use::User, CaPurpose::Host) => return Err(refuse("not a CA for user certificates")),
        (Use::Host, CaPurpose::User) => return Err(refuse("not a CA for host certificates")),
    }
    let signature = Signature::try_from(certificate.signature).map_err(|error| malformed("certificate", error))?;
    key.key_data()
        .verify(certificate.bytes(), &signature)
        .map_err(|_| ReceiveError::CaSignature("the CA's signature does not verify"))?;
    // The realm's longest TTL is for logins.
    let realm_ttl = if use_of == Use::User { effective.settings.max_ttl } else { u64::MAX };
    let max_ttl = ca.limits.max_ttl.min(realm_ttl);
    if certificate.ttl_secs().is_none_or(|ttl| ttl > max_ttl) {
        return Err(ReceiveError::CaSignature("valid for longer than the CA's limit"));
    }
    if certificate.public_key != own_key {
        return Err(ReceiveError::NotOwnKey("the certificate is for another key than this device's"));
    }
    Ok(certificate.valid_before)
}

/// Parses a private key and proves that its two halves belong together. Returns the public blob and the `.pub` line.
fn check_private_key(text: &str) -> Result<(Vec<u8>, String), ReceiveError> {
    const PART: &str = "private key";
    let key = PrivateKey::from_openssh(text).map_err(|error| malformed(PART, error))?;
    let public = key.public_key();
    let blob = public.to_bytes().map_err(|error| malformed(PART, error))?;
    PublicKey::parse(&blob).map_err(|error| malformed(PART, error))?;
    // An encrypted key's halves can only be compared by who knows the passphrase.
    if !key.is_encrypted() {
        let probe = b"countersign: do these halves belong together";
        let signature: Signature = key.try_sign(probe).map_err(|error| malformed(PART, error))?;
        public
            .key_data()
            .verify(probe, &signature)
            .map_err(|_| malformed(PART, "its private and public halves do not belong together"))?;
    }
    Ok((blob, public_line(public)?))
}

/// The line of a `.pub` file.
///
/// # Errors
/// [`ReceiveError::Malformed`].
pub(super) fn public_line(public: &ssh_key::PublicKey) -> Result<String, ReceiveError> {
    let blob = public.to_bytes().map_err(|error| malformed("public key", error))?;
    let algorithm = public.algorithm();
    let mut line = format!("{} {}", algorithm.as_str(), STANDARD.encode(&blob));
    let comment: String = public.comment().chars().filter(|character| !character.is_control()).collect();
    if !comment.is_empty() {
        line.push(' ');
        line.push_str(&comment);
    }
    line.push('\n');
    Ok(line)
}

fn line_blob(part: &'static str, line: &str) -> Result<Vec<u8>, ReceiveError> {
    let line = line.strip_suffix('\n').unwrap_or(line);
    if line.contains(|character: char| character.is_control()) {
        return Err(malformed(part, "expected one line"));
    }
    let mut words = line.split(' ');
    let (Some(name), Some(base64)) = (words.next(), words.next()) else {
        return Err(malformed(part, "expected a type and base64"));
    };
    let blob = STANDARD.decode(base64).map_err(|error| malformed(part, error))?;
    let head = u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes();
    if blob.strip_prefix(&head).is_none_or(|rest| !rest.starts_with(name.as_bytes())) {
        return Err(malformed(part, "its type is not the one that the line names"));
    }
    Ok(blob)
}

fn malformed(part: &'static str, problem: impl std::fmt::Display) -> ReceiveError {
    ReceiveError::Malformed { part, problem: problem.to_string() }
}
