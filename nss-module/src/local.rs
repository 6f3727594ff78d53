//! What the host itself has: `/etc/passwd` and `/etc/group`, and the ranges of `/etc/subuid` and `/etc/subgid`, read as they stand.
//!
//! `files` comes first in nsswitch.conf, but not everywhere: a local name must win wherever this module is asked. A
//! file that cannot be read is no answer, so that nothing is taken for free; only the two about ranges may be missing.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// More than any host has; a file that grows without end must not fill the memory of every process.
const MOST_BYTES: u64 = 16 << 20;

/// `/etc/passwd` or `/etc/group`.
pub(crate) struct Local {
    lines: Vec<u8>,
}

impl Local {
    /// # Errors
    /// Where it cannot be read, or is over 16 MiB.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        Ok(Self { lines: contents(path)? })
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
            // As glibc: an indented line counts.
            let line = without_leading_blanks(line);
            let mut fields = line.split(|byte| *byte == b':');
            let name = fields.next()?;
            let number = fields.nth(1).and_then(|field| std::str::from_utf8(field).ok()?.trim().parse().ok());
            Some((name, number))
        })
    }
}

/// Numbers that the host has given to users for their containers: `/etc/subuid` or `/etc/subgid`. Whoever holds a range owns the
/// files of every number in it.
pub(crate) struct Ranges {
    /// The first, and one beyond the last.
    ranges: Vec<(u64, u64)>,
}

impl Ranges {
    /// Without the file there are none.
    ///
    /// # Errors
    /// Where it is there and cannot be read, is over 16 MiB, or has a range that is not in decimal numbers.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        match contents(path) {
            Ok(text) => Self::parse(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self { ranges: Vec::new() }),
            Err(error) => Err(error),
        }
    }

    /// Lines `OWNER:FIRST:COUNT`; newuidmap passes over lines that have not three fields, and so does this.
    fn parse(text: &[u8]) -> io::Result<Self> {
        let mut ranges = Vec::new();
        for line in text.split(|byte| *byte == b'\n').map(without_leading_blanks) {
            let fields: Vec<&[u8]> = line.splitn(4, |byte| *byte == b':').collect();
            let [owner, first, count] = fields[..] else { continue };
            if owner.starts_with(b"#") {
                continue;
            }
            let (Some(first), Some(count)) = (decimal(first), decimal(count)) else {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "expected OWNER:FIRST:COUNT"));
            };
            ranges.push((first, first.saturating_add(count)));
        }
        Ok(Self { ranges })
    }

    /// Whether a range holds this number.
    pub(crate) fn hold(&self, number: u32) -> bool {
        self.ranges.iter().any(|(first, end)| (*first..*end).contains(&u64::from(number)))
    }
}

fn decimal(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.trim().parse().ok()
}

fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut file = File::open(path)?.take(MOST_BYTES.saturating_add(1));
    file.read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= MOST_BYTES) {
        Ok(bytes)
    } else {
        Err(io::Error::new(io::ErrorKind::FileTooLarge, "expected at most 16 MiB"))
    }
}

/// `isspace` of the C locale.
fn without_leading_blanks(line: &[u8]) -> &[u8] {
    let blanks = line.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r' | 0x0b | 0x0c)).count();
    line.get(blanks..).unwrap_or_default()
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
    fn an_indented_line_counts_as_it_does_for_glibc() {
        let file = local(" \t\x0bbob:x:1900000007:100::/:/bin/sh\n");
        assert!(file.has_name(b"bob") && file.has_number(1_900_000_007));
    }

    #[test]
    fn ranges_hold_their_first_number_and_their_last_and_no_other() {
        let ranges = Ranges::parse(
            b"# a:b:c\nbob:100000:65536\n\n 1000 : 200000 : 1 \nbob:7\na:1:2:3\nend:4294967290:18446744073709551615",
        );
        let ranges = ranges.unwrap();
        for (number, held) in [
            (1, false),
            (7, false),
            (99_999, false),
            (100_000, true),
            (165_535, true),
            (165_536, false),
            (200_000, true),
            (200_001, false),
            (u32::MAX, true),
        ] {
            assert_eq!(ranges.hold(number), held, "{number}");
        }
    }

    #[test]
    fn a_range_that_cannot_be_read_is_an_error_and_a_missing_file_of_ranges_is_none() {
        for text in ["bob:0x186a0:65536", "bob:100000:", "bob:-1:5"] {
            assert!(Ranges::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(!Ranges::read(Path::new("/nonexistent/subuid")).unwrap().hold(100_000));
        assert!(Ranges::read(Path::new("/dev/zero")).is_err());
        assert!(Ranges::read(Path::new("/etc/passwd/subuid")).is_err(), "not a missing file");
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
