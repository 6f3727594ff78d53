//! A line with a public key, as sshd reads it in lists of CAs and of revoked keys: type, base64, whatever follows.

use base64ct::{Base64, Encoding as _};

use crate::key::check;

/// The key's wire form; none where sshd would not read the line. No options may stand before it.
#[must_use]
pub fn read_key_line(line: &str) -> Option<Vec<u8>> {
    let mut words = line.split([' ', '\t', '\r']).filter(|word| !word.is_empty());
    let (kind, blob) = (words.next()?, Base64::decode_vec(words.next()?).ok()?);
    (check(&blob).ok()?.algorithm().name() == kind).then_some(blob)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH";

    #[test]
    fn a_line_is_a_type_and_its_key_and_anything_after_it() {
        let good = read_key_line(&format!("ssh-ed25519 {KEY}")).unwrap();
        for line in [format!("ssh-ed25519\t{KEY}  a comment"), format!(" ssh-ed25519 {KEY}\r")] {
            assert_eq!(read_key_line(&line), Some(good.clone()), "{line}");
        }
        for line in [
            String::new(),
            KEY.to_owned(),
            "ssh-ed25519".to_owned(),
            format!("ssh-rsa {KEY}"),
            format!("restrict ssh-ed25519 {KEY}"),
            format!("ssh-ed25519 {KEY}A"),
            format!("ssh-ed25519 {}", KEY.trim_end_matches('H')),
        ] {
            assert_eq!(read_key_line(&line), None, "{line}");
        }
    }
}
