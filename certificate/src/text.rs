//! Base64 in the two forms that reach us: URL-safe without padding inside our extensions, standard with padding from sshd.
//!
//! Both decoders are strict: text decodes only if encoding the result gives that very text.

use base64ct::{Base64, Base64Unpadded, Base64UrlUnpadded, Encoding};

use crate::{CertificateError, Digest32, wire};

/// Decodes what sshd passes as `%k` and `%K`: standard base64 with padding, no white space.
///
/// # Errors
/// [`CertificateError::Invalid`] naming `field` if it is not canonical, [`CertificateError::Oversize`] if the text is longer than
/// `max_bytes` could need.
pub fn decode_base64(text: &[u8], max_bytes: usize, field: &'static str) -> Result<Vec<u8>, CertificateError> {
    let max = max_bytes.div_ceil(3).saturating_mul(4);
    if text.len() > max {
        return Err(CertificateError::Oversize { field, size: text.len(), max });
    }
    let invalid = CertificateError::Invalid { field, expected: "canonical base64" };
    let Ok(text) = std::str::from_utf8(text) else { return Err(invalid) };
    match Base64::decode_vec(text) {
        Ok(bytes) if Base64::encode_string(&bytes) == text => Ok(bytes),
        _ => Err(invalid),
    }
}

/// Standard base64 with padding, as in `authorized_keys`.
#[must_use]
pub fn encode_base64(bytes: &[u8]) -> String {
    Base64::encode_string(bytes)
}

/// A key's SHA-256 in OpenSSH's form, `SHA256:` and base64 without padding.
#[must_use]
pub fn fingerprint_text(digest: &Digest32) -> String {
    format!("SHA256:{}", Base64Unpadded::encode_string(digest))
}

/// The data of one of our extensions: an SSH string that holds base64url text of `layout`.
pub(crate) fn to_option_data(layout: &[u8], field: &'static str) -> Result<Vec<u8>, CertificateError> {
    let mut data = Vec::new();
    wire::put_string(&mut data, Base64UrlUnpadded::encode_string(layout).as_bytes(), field)?;
    Ok(data)
}

/// The layout's bytes from an extension's data, the inverse of [`to_option_data`].
pub(crate) fn from_option_data(
    data: &[u8],
    max_bytes: usize,
    field: &'static str,
) -> Result<Vec<u8>, CertificateError> {
    let mut reader = wire::Reader::new(data);
    let text = reader.text(field)?;
    reader.finish(field)?;
    from_text(text, max_bytes, field)
}

pub(crate) fn to_text(layout: &[u8]) -> String {
    Base64UrlUnpadded::encode_string(layout)
}

pub(crate) fn from_text(text: &str, max_bytes: usize, field: &'static str) -> Result<Vec<u8>, CertificateError> {
    let max = max_bytes.saturating_mul(4).div_ceil(3);
    if text.len() > max {
        return Err(CertificateError::Oversize { field, size: text.len(), max });
    }
    match Base64UrlUnpadded::decode_vec(text) {
        Ok(bytes) if Base64UrlUnpadded::encode_string(&bytes) == text => Ok(bytes),
        _ => Err(CertificateError::Invalid { field, expected: "canonical base64url without padding" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_with_loose_bits_padding_or_white_space_is_refused() {
        assert_eq!(decode_base64(b"AAAA", 9, "key"), Ok(vec![0, 0, 0]));
        assert_eq!(decode_base64(b"AA==", 9, "key"), Ok(vec![0]));
        for text in ["AB==", "AA", "AA=", "AA==\n", " AA==", "A A=", "AA==AA==", "AA-_", "A===", "====", "AAAAA"] {
            assert!(decode_base64(text.as_bytes(), 99, "key").is_err(), "{text}");
        }
        assert!(matches!(
            decode_base64(b"AAAAAAAA", 3, "key"),
            Err(CertificateError::Oversize { size: 8, max: 4, .. })
        ));
    }

    #[test]
    fn base64url_with_loose_bits_or_padding_is_refused() {
        assert_eq!(from_text("-_8", 2, "scope"), Ok(vec![0xfb, 0xff]));
        for text in ["-_9", "-_8=", "+/8", "-_8\n", "-"] {
            assert!(from_text(text, 99, "scope").is_err(), "{text}");
        }
    }
}
