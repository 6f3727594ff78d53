//! Lines in the form of `authorized_keys`, split where sshd splits them.
//!
//! For what an earlier AuthorizedKeysCommand prints: which key is on a line decides whether the line is passed on, so that a second
//! spelling of a key, or another end of its options than sshd sees, must not hide one. A line counts as a key's only if its key is in
//! its one canonical form; certificates, `cert-authority` lines, and whatever else sshd might read more generously, are
//! [`Line::Other`]. Options are not judged: sshd does that, and ignores a line that has one it does not know.

use countersign_certificate::{KeyAlgorithm, MAX_CERTIFICATE_BYTES, PublicKey, decode_base64};

const CERT_AUTHORITY: &[u8] = b"cert-authority";

/// A line, without its newline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line<'a> {
    /// Nothing, or a comment.
    Empty,
    /// A plain key, to be compared with the one that a client offers.
    Key(KeyLine<'a>),
    /// Anything else.
    Other,
}

/// A plain key with its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyLine<'a> {
    /// The whole line as it stands, a carriage return at its end included.
    pub text: &'a [u8],
    /// What stands before the key's type; empty for none.
    pub options: &'a [u8],
    /// The key in SSH wire form.
    pub blob: Vec<u8>,
}

/// The lines of `text`, the last one with or without its newline.
pub fn lines(text: &[u8]) -> impl Iterator<Item = Line<'_>> {
    text.split_inclusive(|byte| *byte == b'\n').map(|line| parse_line(line.strip_suffix(b"\n").unwrap_or(line)))
}

fn parse_line(text: &[u8]) -> Line<'_> {
    let line = trim_start(text.strip_suffix(b"\r").unwrap_or(text));
    if line.is_empty() || line.starts_with(b"#") {
        return Line::Empty;
    }
    // sshd reads a line as a C string: what follows a NUL is there for us and not for it. Other control characters are in no line that
    // anybody means.
    if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return Line::Other;
    }
    if names_type(split_at_blank(line).0) {
        // No option is called so, whatever follows.
        return key_at(line).map_or(Line::Other, |blob| Line::Key(KeyLine { text, options: b"", blob }));
    }
    let Some((options, rest)) = split_options(line) else { return Line::Other };
    match key_at(trim_start(rest)) {
        Some(blob) if !names_authority(options) => Line::Key(KeyLine { text, options, blob }),
        _ => Line::Other,
    }
}

/// The key that `line` begins with.
fn key_at(line: &[u8]) -> Option<Vec<u8>> {
    let (name, rest) = split_at_blank(line);
    let (key, _comment) = split_at_blank(trim_start(rest));
    let blob = decode_base64(key, MAX_CERTIFICATE_BYTES, "key").ok()?;
    let is_named_so = PublicKey::parse(&blob).is_ok_and(|key| key.algorithm().name().as_bytes() == name);
    is_named_so.then_some(blob)
}

fn names_type(word: &[u8]) -> bool {
    KeyAlgorithm::ALL.into_iter().any(|known| known.name().as_bytes() == word)
}

/// Options end at the first blank outside quotes; `\"` is the one escape, inside quotes and out. None where a quote stays open.
fn split_options(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in line.iter().enumerate() {
        match byte {
            b'"' if escaped => {}
            b'"' => quoted = !quoted,
            b' ' | b'\t' if !quoted => return line.split_at_checked(at),
            _ => {}
        }
        escaped = *byte == b'\\';
    }
    (!quoted).then_some((line, b""))
}

/// Whether one of the options, which sshd compares without regard to case, makes the key a CA's. Too often rather than too seldom: in
/// quotes, too.
fn names_authority(options: &[u8]) -> bool {
    options.windows(CERT_AUTHORITY.len()).any(|window| window.eq_ignore_ascii_case(CERT_AUTHORITY))
}

fn split_at_blank(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| matches!(byte, b' ' | b'\t')).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, b""))
}

fn trim_start(text: &[u8]) -> &[u8] {
    let begin = text.iter().position(|byte| !matches!(byte, b' ' | b'\t')).unwrap_or(text.len());
    text.get(begin..).unwrap_or_default()
}
