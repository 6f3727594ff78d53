//! What the host itself has: `/etc/passwd` and `/etc/group`, read as they stand.
//!
//! `files` comes first in nsswitch.conf, but not everywhere: a local name must win wherever this module is asked. A
//! file that cannot be read is no answer, so that nothing is taken for free.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// More than any host has; a file that grows without end must not fill the memory of every process.
const MOST_BYTES: u64 = 16 << 20;

/// One of the two files.
pub(crate) struct Local {
    lines: Vec<u8>,
}

impl Local {
    /// # Errors
    /// Where it cannot be read, or is over 16 MiB.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        let mut lines = Vec::new();
        let mut file = File::open(path)?.take(MOST_BYTES.saturating_add(1));
        file.read_to_end(&mut lines)?;
        if u64::try_from(lines.len()).is_ok_and(|length| length <= MOST_BYTES) {
            Ok(Self { lines })
        } else {
            Err(io::Error::new(io::ErrorKind::FileTooLarge, "expected at most 16 MiB"))
        }
    }

    /// Whether it has an entry of this name.
    pub(crate) fn has_name(&self, name: &[u8]) -> bool {
        self.fields().any(|(found, _)| found == name)
    }

    /// Whether it has an entry with this number (user id or group id: the third field in both files).
    pub(crate) fn has_number(&self, number: u32) -> bool {
        self.fields().any(|(_, found)| found == Some(number))
    }

    fn fields(&self) -> impl Iterator<Item = (&[u8], Option<u32>)> {
        self.lines.split(|byte| *byte == b'\n').filter_map(|line| {
            let mut fields = line.split(|byte| *byte == b':');
            let name = fields.next()?;
            let number = fields.nth(1).and_then(|field| std::str::from_utf8(field).ok()?.trim().parse().ok());
            Some((name, number))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(text: &str) -> Local {
        Local { lines: text.as_bytes().to_vec() }
    }

    #[test]
    fn names_and_numbers_are_whole_fields() {
        let file = local("root:x:0:0::/root:/bin/sh\nalice:x:1900000000:5::/:/bin/sh\n\n#c:x\n+\nlast:x:70000:");
        assert!(file.has_name(b"alice") && file.has_name(b"last") && file.has_number(0) && file.has_number(70_000));
        assert!(
            !file.has_name(b"alic") && !file.has_name(b"x") && !file.has_number(5) && !file.has_number(190_000_000)
        );
    }

    #[test]
    fn a_missing_file_is_an_error_and_not_an_empty_one() {
        assert!(Local::read(Path::new("/nonexistent/passwd")).is_err());
    }

    #[test]
    fn a_file_without_end_is_refused() {
        assert_eq!(
            Local::read(Path::new("/dev/zero")).err().map(|error| error.kind()),
            Some(io::ErrorKind::FileTooLarge)
        );
    }
}
