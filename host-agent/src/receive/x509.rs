//! Checks an X.509 key pair before it is written: the key belongs to the first certificate, each further certificate signs the one
//! before it, and the first has not expired. Whether anybody trusts the last of them is not for us to say.

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use super::ReceiveError;

/// How many certificates a chain may have.
const LONGEST_CHAIN: usize = 10;

/// The labels of PEM blocks that may stand in a key pair.
const KEY_LABELS: [&str; 3] = ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"];

/// The label of a certificate's PEM block.
const CERTIFICATE_LABEL: &str = "CERTIFICATE";

/// The private key's PEM block, and those of certificates, of one text that holds both, in any order and with any text between them.
///
/// # Errors
/// [`ReceiveError::Malformed`] for a block of another label, or one that does not end.
pub fn split_pem(text: &str) -> Result<(Zeroizing<String>, String), ReceiveError> {
    let (mut private_key, mut chain) = (Zeroizing::new(String::with_capacity(text.len())), String::new());
    for (label, block) in blocks(text)? {
        let to: &mut String = if label == CERTIFICATE_LABEL { &mut chain } else { &mut private_key };
        for line in block {
            to.push_str(line);
            to.push('\n');
        }
    }
    Ok((private_key, chain))
}

/// The PEM blocks of a text, each with its label and its lines. What stands between them is passed over, as every reader of PEM does.
fn blocks(text: &str) -> Result<Vec<(&str, Vec<&str>)>, ReceiveError> {
    let malformed = |problem: String| ReceiveError::Malformed { part: "PEM", problem };
    let mut found = Vec::new();
    let mut open: Option<(&str, Vec<&str>)> = None;
    for line in text.lines().map(str::trim_end) {
        let begins = line.strip_prefix("-----BEGIN ").map(|rest| rest.strip_suffix("-----").unwrap_or(rest));
        if let Some(label) = begins {
            if label != CERTIFICATE_LABEL && !KEY_LABELS.contains(&label) {
                let label = label.escape_debug();
                return Err(malformed(format!("a block `{label}`, expected a private key and certificates only")));
            }
            if open.is_some() {
                return Err(malformed("a block inside another".to_owned()));
            }
            open = Some((label, Vec::new()));
        }
        if let Some((label, lines)) = &mut open {
            lines.push(line);
            if line.strip_prefix("-----END ").and_then(|rest| rest.strip_suffix("-----")) == Some(*label) {
                found.extend(open.take());
            }
        }
    }
    if open.is_some() {
        return Err(malformed("a block without its end".to_owned()));
    }
    Ok(found)
}

/// Refuses what stands in one file of a key pair and is none of its own: it would be written with the rest, unseen.
fn check_labels(part: &'static str, text: &str, labels: &[&str]) -> Result<(), ReceiveError> {
    for (label, _) in blocks(text)? {
        if !labels.contains(&label) {
            let problem = format!("a block `{label}` that does not belong there");
            return Err(ReceiveError::Malformed { part, problem });
        }
    }
    Ok(())
}

/// Checks a PEM key and its PEM chain at Unix time `now`. Returns the first second in which the key's certificate does not count any
/// more.
///
/// # Errors
/// [`ReceiveError::Malformed`], [`ReceiveError::X509`], [`ReceiveError::Expired`].
pub fn check_key_pair(private_key: &str, chain: &str, now: u64) -> Result<u64, ReceiveError> {
    let malformed = |part, problem: String| ReceiveError::Malformed { part, problem };
    check_labels("private key", private_key, &KEY_LABELS)?;
    check_labels("certificate chain", chain, &[CERTIFICATE_LABEL])?;
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

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n";
    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nBB==\n-----END CERTIFICATE-----\n";

    #[test]
    fn a_key_and_its_chain_come_out_of_one_file_in_any_order() {
        for text in [
            format!("{KEY}{CERTIFICATE}{CERTIFICATE}"),
            format!("a comment\n{CERTIFICATE}\n{KEY}\nsubject=x\n{CERTIFICATE}"),
            format!("{CERTIFICATE}{CERTIFICATE}{KEY}").replace('\n', "\r\n"),
        ] {
            let (private_key, chain) = split_pem(&text).unwrap();
            assert_eq!((private_key.as_str(), chain), (KEY, CERTIFICATE.repeat(2)), "{text}");
        }
        assert_eq!(split_pem("nothing").unwrap(), (Zeroizing::new(String::new()), String::new()));
    }

    #[test]
    fn a_pem_block_of_another_label_is_refused_wherever_it_stands() {
        for label in ["DH PARAMETERS", "CERTIFICATE REQUEST", "ENCRYPTED PRIVATE KEY", "OPENSSH PRIVATE KEY", "X"] {
            let other = CERTIFICATE.replace("CERTIFICATE", label);
            let expected = format!("PEM: a block `{label}`, expected a private key and certificates only");
            assert_eq!(split_pem(&format!("{KEY}{other}{CERTIFICATE}")).unwrap_err().to_string(), expected);
            assert_eq!(check_key_pair(KEY, &format!("{CERTIFICATE}{other}"), 0).unwrap_err().to_string(), expected);
            assert_eq!(check_key_pair(&format!("{other}{KEY}"), CERTIFICATE, 0).unwrap_err().to_string(), expected);
        }
        let swapped = check_key_pair(&format!("{KEY}{CERTIFICATE}"), CERTIFICATE, 0).unwrap_err();
        assert_eq!(swapped.to_string(), "private key: a block `CERTIFICATE` that does not belong there");
        let swapped = check_key_pair(KEY, &format!("{CERTIFICATE}{KEY}"), 0).unwrap_err();
        assert_eq!(swapped.to_string(), "certificate chain: a block `PRIVATE KEY` that does not belong there");
        for cut in ["-----BEGIN CERTIFICATE-----\nBB==\n", &format!("-----BEGIN CERTIFICATE-----\n{KEY}")] {
            split_pem(cut).unwrap_err();
        }
    }
}
