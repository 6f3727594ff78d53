//! OpenSSH certificates (PROTOCOL.certkeys), read strictly and by byte range.
//!
//! The pre-certificate T, which a batch commits to, is the to-be-signed bytes with the log proof cut out; nothing is ever
//! re-encoded, so there is one T for a certificate and one place for a proof in a T.
//!
//! Whether a certificate is any good (times, principals, options, signature) is for others to judge.

use std::ops::{Deref, Range};

use crate::error::shown;
use crate::key::{KeyAlgorithm, PublicKey, plain_blob};
use crate::log_proof::{LOG_PROOF_EXTENSION, LogProof};
use crate::scope::{SCOPE_EXTENSION, Scope};
use crate::wire::{Reader, put_string};
use crate::{CertificateError, Fingerprint20, Serial};

/// The largest certificate that is looked at. Two RSA keys of 16384 bits, a signature and 256 principals fit.
pub const MAX_CERTIFICATE_BYTES: usize = 32 * 1024;
/// The most principals: OpenSSH's own limit.
pub const MAX_PRINCIPALS: usize = 256;
/// How far the issuer sets valid_after back, for clocks that are behind. The time to live is the rest of the validity.
pub const BACKDATE_SECS: u64 = 30;

const MAX_OPTIONS: usize = 64;
const MAX_NONCE_BYTES: usize = 64;
const CRITICAL: &str = "critical options";
const EXTENSIONS: &str = "extensions";

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertType {
    /// Logging in as a user (type 1).
    User,
    /// Naming a host (type 2).
    Host,
}

/// One critical option or extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertOption<'a> {
    /// Its name, printable ASCII.
    pub name: &'a str,
    /// Its data as it stands there: empty for a flag, else an SSH string.
    pub data: &'a [u8],
    /// The bytes from the name's length to the end of the data, as offsets into the certificate.
    pub range: Range<usize>,
}

impl<'a> CertOption<'a> {
    /// The data as the one text it holds, as in `force-command`.
    ///
    /// # Errors
    /// If the data is anything but one SSH string of UTF-8.
    pub fn text(&self) -> Result<&'a str, CertificateError> {
        let mut reader = Reader::new(self.data);
        let text = reader.text("option")?;
        reader.finish("option")?;
        Ok(text)
    }
}

/// What a CA signs: all of a certificate from its type to the signature key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToBeSigned<'a> {
    /// The type of the key it certifies.
    pub key_type: KeyAlgorithm,
    /// The CA's random bytes.
    pub nonce: &'a [u8],
    /// The key it certifies, put together again as a plain blob: what the ledger knows it by.
    pub public_key: Vec<u8>,
    /// The serial number.
    pub serial: Serial,
    /// User or host.
    pub cert_type: CertType,
    /// The key id, free text for logs.
    pub key_id: &'a str,
    /// The principals in their order; may be empty, which some versions of sshd take for "everybody".
    pub principals: Vec<&'a str>,
    /// First second of validity, in Unix seconds.
    pub valid_after: u64,
    /// First second after validity, in Unix seconds.
    pub valid_before: u64,
    /// The critical options, ascending by name.
    pub critical_options: Vec<CertOption<'a>>,
    /// The extensions, ascending by name.
    pub extensions: Vec<CertOption<'a>>,
    /// The CA's plain key blob.
    pub signature_key: &'a [u8],
    /// The type of the CA's key.
    pub signature_key_type: KeyAlgorithm,
    bytes: &'a [u8],
    extensions_range: Range<usize>,
}

/// A certificate: what was signed, which its fields can be reached through, and the signature over it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate<'a> {
    /// The signed part.
    pub to_be_signed: ToBeSigned<'a>,
    /// The signature's blob: algorithm and signature proper. Not verified here.
    pub signature: &'a [u8],
}

impl<'a> Deref for Certificate<'a> {
    type Target = ToBeSigned<'a>;

    fn deref(&self) -> &ToBeSigned<'a> {
        &self.to_be_signed
    }
}

impl<'a> Certificate<'a> {
    /// Reads a certificate's blob.
    ///
    /// # Errors
    /// Whatever is not exactly one certificate of a known type with sorted, unique options; the error names the field.
    pub fn parse(blob: &'a [u8]) -> Result<Self, CertificateError> {
        check_size(blob)?;
        let mut reader = Reader::new(blob);
        let to_be_signed = ToBeSigned::read(blob, &mut reader)?;
        let signature = reader.string("signature")?;
        reader.finish("certificate")?;
        check_signature_shape(signature, to_be_signed.signature_key_type)?;
        Ok(Self { to_be_signed, signature })
    }
}

impl<'a> ToBeSigned<'a> {
    /// Reads what a CA signs, with or without a log proof: a certificate without its signature.
    ///
    /// # Errors
    /// As [`Certificate::parse`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, CertificateError> {
        check_size(bytes)?;
        let mut reader = Reader::new(bytes);
        let parsed = Self::read(bytes, &mut reader)?;
        reader.finish("to-be-signed part")?;
        Ok(parsed)
    }

    fn read(bytes: &'a [u8], reader: &mut Reader<'a>) -> Result<Self, CertificateError> {
        let key_type = KeyAlgorithm::from_certificate_name(reader.string("certificate type")?, "certificate type")?;
        let nonce = reader.string("nonce")?;
        at_most("nonce", nonce.len(), MAX_NONCE_BYTES)?;
        let key_start = reader.position();
        key_type.check_fields(reader, "public key")?;
        let public_key = plain_blob(key_type, bytes.get(key_start..reader.position()).unwrap_or_default())?;
        let serial = Serial(reader.u64("serial")?);
        let cert_type = match reader.u32("type")? {
            1 => CertType::User,
            2 => CertType::Host,
            _ => return Err(CertificateError::Invalid { field: "type", expected: "1 (user) or 2 (host)" }),
        };
        let key_id = reader.text("key id")?;
        let principals = principals(reader.nested("principals")?)?;
        let valid_after = reader.u64("valid_after")?;
        let valid_before = reader.u64("valid_before")?;
        let critical_options = options(reader.nested(CRITICAL)?, CRITICAL)?;
        let extensions_reader = reader.nested(EXTENSIONS)?;
        let extensions_range = extensions_reader.position()..reader.position();
        let extensions = options(extensions_reader, EXTENSIONS)?;
        if !reader.string("reserved")?.is_empty() {
            return Err(CertificateError::Invalid { field: "reserved", expected: "empty" });
        }
        let signature_key = reader.string("signature key")?;
        let signature_key_type = PublicKey::parse_as(signature_key, "signature key")?.algorithm();
        let bytes = bytes.get(..reader.position()).unwrap_or_default();
        Ok(Self {
            key_type,
            nonce,
            public_key,
            serial,
            cert_type,
            key_id,
            principals,
            valid_after,
            valid_before,
            critical_options,
            extensions,
            signature_key,
            signature_key_type,
            bytes,
            extensions_range,
        })
    }

    /// The bytes that the signature covers.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What the ledger calls the certified key by.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint20 {
        Fingerprint20::of_blob(&self.public_key)
    }

    /// The time to live that was asked for: the validity without the [`BACKDATE_SECS`] before it. None if the validity is shorter
    /// than that.
    #[must_use]
    pub fn ttl_secs(&self) -> Option<u64> {
        self.valid_before.checked_sub(self.valid_after)?.checked_sub(BACKDATE_SECS)
    }

    /// The critical option called `name`.
    #[must_use]
    pub fn critical_option(&self, name: &str) -> Option<&CertOption<'a>> {
        self.critical_options.iter().find(|option| option.name == name)
    }

    /// The extension called `name`.
    #[must_use]
    pub fn extension(&self, name: &str) -> Option<&CertOption<'a>> {
        self.extensions.iter().find(|option| option.name == name)
    }

    /// What `scope@countersign` says; none if it is not there.
    ///
    /// # Errors
    /// If it is there and not in its one form.
    pub fn scope(&self) -> Result<Option<Scope>, CertificateError> {
        self.extension(SCOPE_EXTENSION).map(|option| Scope::from_option_data(option.data)).transpose()
    }

    /// What `log-proof@countersign` says; none if it is not there.
    ///
    /// # Errors
    /// If it is there and not in its one form.
    pub fn log_proof(&self) -> Result<Option<LogProof>, CertificateError> {
        self.extension(LOG_PROOF_EXTENSION).map(|option| LogProof::from_option_data(option.data)).transpose()
    }

    /// T: the bytes that the signature covers, without the log proof if there is one.
    #[must_use]
    pub fn pre_certificate(&self) -> Vec<u8> {
        let cut = match self.extension(LOG_PROOF_EXTENSION) {
            Some(option) => option.range.clone(),
            None => self.extensions_range.end..self.extensions_range.end,
        };
        // Replacing a range by nothing only fails for ranges that are not inside the bytes, and these were read from them.
        self.splice(cut, &[]).unwrap_or_default()
    }

    /// The bytes with `range`, which lies in the extensions, replaced by `with` and the extensions' length adjusted.
    fn splice(&self, range: Range<usize>, with: &[u8]) -> Option<Vec<u8>> {
        let Range { start, end } = self.extensions_range;
        let length = end.checked_sub(start)?.checked_sub(range.len())?.checked_add(with.len())?;
        let mut out = Vec::with_capacity(self.bytes.len().saturating_add(with.len()));
        out.extend_from_slice(self.bytes.get(..start.checked_sub(4)?)?);
        out.extend_from_slice(&u32::try_from(length).ok()?.to_be_bytes());
        out.extend_from_slice(self.bytes.get(start..range.start)?);
        out.extend_from_slice(with);
        out.extend_from_slice(self.bytes.get(range.end..)?);
        Some(out)
    }
}

/// The bytes to sign for pre-certificate `pre_certificate` and its `proof`: the proof goes where its name sorts.
/// [`ToBeSigned::pre_certificate`] undoes it.
///
/// # Errors
/// If the pre-certificate does not parse, already holds a proof, or grows beyond [`MAX_CERTIFICATE_BYTES`].
pub fn insert_log_proof(pre_certificate: &[u8], proof: &LogProof) -> Result<Vec<u8>, CertificateError> {
    let parsed = ToBeSigned::parse(pre_certificate)?;
    if parsed.extension(LOG_PROOF_EXTENSION).is_some() {
        return Err(CertificateError::LogProofPresent);
    }
    let after = parsed.extensions.iter().find(|option| option.name > LOG_PROOF_EXTENSION);
    let place = after.map_or(parsed.extensions_range.end, |option| option.range.start);
    let mut option = Vec::new();
    put_string(&mut option, LOG_PROOF_EXTENSION.as_bytes(), LOG_PROOF_EXTENSION)?;
    put_string(&mut option, &proof.to_option_data()?, LOG_PROOF_EXTENSION)?;
    let out = parsed
        .splice(place..place, &option)
        .ok_or(CertificateError::Invalid { field: EXTENSIONS, expected: "a list that a proof fits into" })?;
    check_size(&out)?;
    Ok(out)
}

fn at_most(field: &'static str, size: usize, max: usize) -> Result<(), CertificateError> {
    if size > max { Err(CertificateError::Oversize { field, size, max }) } else { Ok(()) }
}

fn check_size(blob: &[u8]) -> Result<(), CertificateError> {
    at_most("certificate", blob.len(), MAX_CERTIFICATE_BYTES)
}

fn principals(mut reader: Reader<'_>) -> Result<Vec<&str>, CertificateError> {
    let mut principals = Vec::new();
    while !reader.is_empty() {
        at_most("principals", principals.len().saturating_add(1), MAX_PRINCIPALS)?;
        principals.push(reader.text("principals")?);
    }
    Ok(principals)
}

fn options<'a>(mut reader: Reader<'a>, field: &'static str) -> Result<Vec<CertOption<'a>>, CertificateError> {
    let mut options: Vec<CertOption<'a>> = Vec::new();
    while !reader.is_empty() {
        at_most(field, options.len().saturating_add(1), MAX_OPTIONS)?;
        let start = reader.position();
        let name = reader.text(field)?;
        let data = reader.string(field)?;
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(CertificateError::Invalid { field, expected: "named in printable ASCII" });
        }
        match options.last() {
            Some(last) if last.name == name => {
                return Err(CertificateError::DuplicateOption { field, name: shown(name.as_bytes()) });
            }
            Some(last) if last.name > name => {
                return Err(CertificateError::OptionOrder { field, name: shown(name.as_bytes()) });
            }
            _ => options.push(CertOption { name, data, range: start..reader.position() }),
        }
    }
    Ok(options)
}

fn check_signature_shape(signature: &[u8], key_type: KeyAlgorithm) -> Result<(), CertificateError> {
    let field = "signature";
    let mut reader = Reader::new(signature);
    if !key_type.signs_as(reader.string(field)?) {
        return Err(CertificateError::Invalid { field, expected: "of an algorithm of its key" });
    }
    if reader.string(field)?.is_empty() {
        return Err(CertificateError::Invalid { field, expected: "there" });
    }
    if key_type.is_on_token() {
        reader.u8(field)?;
        reader.u32(field)?;
    }
    reader.finish(field)
}
