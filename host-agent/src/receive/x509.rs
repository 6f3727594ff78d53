//! Checks an X.509 key pair before it is written: the key belongs to the first certificate, each further certificate signs the one
//! before it, and the first has not expired. Whether anybody trusts the last of them is not for us to say.

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::ReceiveError;

/// How many certificates a chain may have.
const LONGEST_CHAIN: usize = 10;

/// Checks a PEM key and its PEM chain at Unix time `now`. Returns the first second in which the key's certificate does not count any
/// more.
///
/// # Errors
/// [`ReceiveError::Malformed`], [`ReceiveError::X509`], [`ReceiveError::Expired`].
pub fn check_key_pair(private_key: &str, chain: &str, now: u64) -> Result<u64, ReceiveError> {
    let malformed = |part, problem: String| ReceiveError::Malformed { part, problem };
    let keys: Vec<_> = PrivateKeyDer::pem_slice_iter(private_key.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error: rustls::pki_types::pem::Error| malformed("private key", error.to_string()))?;
    let [key] = <[PrivateKeyDer<'_>; 1]>::try_from(keys)
        .map_err(|keys| malformed("private key", format!("{} of them, expected one", keys.len())))?;
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error: rustls::pki_types::pem::Error| malformed("certificate chain", error.to_string()))?;
    if certificates.is_empty() || certificates.len() > LONGEST_CHAIN {
        let problem = format!("{} certificates, expected 1 to {LONGEST_CHAIN}", certificates.len());
        return Err(malformed("certificate chain", problem));
    }
    let parsed: Vec<X509Certificate<'_>> = certificates
        .iter()
        .map(|der| match X509Certificate::from_der(der) {
            Ok(([], certificate)) => Ok(certificate),
            Ok(_) => Err(malformed("certificate chain", "bytes after a certificate".to_owned())),
            Err(error) => Err(malformed("certificate chain", error.to_string())),
        })
        .collect::<Result<_, _>>()?;
    for pair in parsed.windows(2) {
        let [issued, issuer] = pair else { continue };
        if issued.issuer() != issuer.subject() || issued.verify_signature(Some(issuer.public_key())).is_err() {
            return Err(ReceiveError::X509("a certificate of the chain is not signed by the one after it"));
        }
    }
    let valid_before = parsed
        .first()
        .and_then(|certificate| u64::try_from(certificate.validity().not_after.timestamp()).ok())
        .map_or(0, |not_after| not_after.saturating_add(1));
    if now >= valid_before {
        return Err(ReceiveError::Expired { valid_before, now });
    }
    let signing = rustls::crypto::ring::sign::any_supported_type(&key)
        .map_err(|error| malformed("private key", error.to_string()))?;
    CertifiedKey::new(certificates.clone(), signing)
        .keys_match()
        .map_err(|_| ReceiveError::X509("the key is not the one in the first certificate"))?;
    Ok(valid_before)
}
