//! What can be wrong with a certificate, a key or an extension: the field is always named.

use std::fmt;

/// Why bytes were refused. Messages name the field and what was expected there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CertificateError {
    /// The bytes end inside a field.
    Truncated {
        /// The field that was being read.
        field: &'static str,
        /// Offset at which more bytes were needed.
        at: usize,
    },
    /// Bytes are left over after the last field.
    TrailingBytes {
        /// What should have ended.
        field: &'static str,
        /// How many bytes follow it.
        count: usize,
    },
    /// A field is longer than any honest one.
    Oversize {
        /// The field.
        field: &'static str,
        /// Its size, in the unit of `max`.
        size: usize,
        /// The largest size accepted: bytes, or a count of items.
        max: usize,
    },
    /// A key or certificate type that is not supported, or not here.
    KeyType {
        /// The field.
        field: &'static str,
        /// The type's name as found, shortened and escaped.
        found: String,
    },
    /// A field does not hold what it must.
    Invalid {
        /// The field.
        field: &'static str,
        /// What was expected.
        expected: &'static str,
    },
    /// Options that are not in strictly ascending order of their names.
    OptionOrder {
        /// The list: critical options or extensions.
        field: &'static str,
        /// The option that came too late, shortened and escaped.
        name: String,
    },
    /// The same option twice.
    DuplicateOption {
        /// The list: critical options or extensions.
        field: &'static str,
        /// The option, shortened and escaped.
        name: String,
    },
    /// A proof is to be inserted where one already is.
    LogProofPresent,
}

impl fmt::Display for CertificateError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { field, at } => write!(out, "{field} ends early, at byte {at}"),
            Self::TrailingBytes { field, count } => write!(out, "{count} bytes follow the end of {field}"),
            Self::Oversize { field, size, max } => write!(out, "{field} has size {size}, at most {max} is accepted"),
            Self::KeyType { field, found } => {
                write!(out, "{field} is of type \"{found}\", which is not accepted there")
            }
            Self::Invalid { field, expected } => write!(out, "{field} is not {expected}"),
            Self::OptionOrder { field, name } => write!(out, "{field} are not sorted by name at \"{name}\""),
            Self::DuplicateOption { field, name } => write!(out, "{field} hold \"{name}\" twice"),
            Self::LogProofPresent => {
                write!(out, "the certificate already holds a log proof, expected a pre-certificate")
            }
        }
    }
}

impl std::error::Error for CertificateError {}

/// Shortens and escapes a name found in input, so that it can stand in a message.
pub(crate) fn shown(found: &[u8]) -> String {
    let head = found.get(..64).unwrap_or(found);
    let mut text: String = head.escape_ascii().to_string();
    if head.len() < found.len() {
        text.push_str("...");
    }
    text
}
