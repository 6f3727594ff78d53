//! A list of CAs for `TrustedUserCAKeys`: one line each.
//!
//! sshd stops at the first line that it cannot read and forgets the CAs after it; nothing tells. So each line is made from the key's
//! bytes alone, never from text that somebody gave, and the whole is read back.

use base64ct::{Base64, Encoding as _};
use thiserror::Error;

use crate::key::{KeyError, check};

/// Why no list was made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CaListError {
    /// A key that sshd would not read.
    #[error("CA {name}: its key is none that OpenSSH reads")]
    Key {
        /// The name given for it.
        name: String,
        /// What is wrong with it.
        source: KeyError,
    },
    /// The line does not read back as the key: a bug of ours, kept from sshd.
    #[error("CA {name}: its line does not read back as its key")]
    Line {
        /// The name given for it.
        name: String,
    },
}

/// The file's text: for each CA its name (for people, reduced to harmless characters) and its public key in SSH wire form. An
/// empty list is an empty file, which trusts nobody.
///
/// # Errors
/// [`CaListError`]: then nothing is to be written, and the file that is there stays.
pub fn ca_list<'a>(cas: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<String, CaListError> {
    let mut text = String::new();
    for (name, blob) in cas {
        let refused = |source| CaListError::Key { name: harmless(name), source };
        let kind = check(blob).map_err(refused)?.algorithm().name();
        let line = format!("{kind} {} countersign:{}", Base64::encode_string(blob), harmless(name));
        if read_line(&line).as_deref() != Some(blob) {
            return Err(CaListError::Line { name: harmless(name) });
        }
        text.push_str(&line);
        text.push('\n');
    }
    Ok(text)
}

fn read_line(line: &str) -> Option<Vec<u8>> {
    let mut words = line.split(' ');
    let (kind, blob) = (words.next()?, Base64::decode_vec(words.next()?).ok()?);
    let found = check(&blob).ok()?.algorithm().name();
    (found == kind && words.count() == 1 && !line.contains(['\n', '\r', '\0'])).then_some(blob)
}

/// A comment that cannot end the line or begin another field.
fn harmless(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' })
        .take(63)
        .collect()
}
