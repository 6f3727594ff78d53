//! Which process is meant: number, start and boot together, so that one that got the number later is never taken for it.
//!
//! Reads `/proc`, and refuses what is not in its form. Where `/proc` hides other users' processes (`hidepid`), it knows none.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::str::FromStr;

use countersign_snapshot::BootId;

/// More than 52 numbers and a name have.
const MAX_STAT_BYTES: usize = 2048;

/// What `/proc/PID/stat` tells of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Its state, a letter: `Z` is dead and not yet waited for.
    pub state: u8,
    /// Its parent's number.
    pub parent: u32,
    /// Device number of its controlling terminal; 0: none.
    pub terminal: u32,
    /// When it started, in clock ticks since the boot.
    pub start_ticks: u64,
}

impl Stat {
    /// Reads what the kernel says now.
    ///
    /// # Errors
    /// There is no such process, or it may not be seen.
    pub fn read(pid: u32) -> io::Result<Self> {
        let mut text = [0; MAX_STAT_BYTES];
        // The kernel gives it whole to the first read that has room for it.
        let length = File::open(format!("/proc/{pid}/stat"))?.read(&mut text)?;
        let whole = text.get(..length).and_then(|text| text.strip_suffix(b"\n"));
        whole
            .and_then(Self::parse)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not the form of /proc/PID/stat"))
    }

    /// The program's name stands in parentheses and may itself hold any character, so it is left behind from the end.
    fn parse(text: &[u8]) -> Option<Self> {
        let end = text.iter().rposition(|byte| *byte == b')')?;
        let text = std::str::from_utf8(text.get(end.checked_add(1)?..)?).ok()?;
        let mut fields = text.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let parent = fields.next()?.parse().ok()?;
        // Process group, session.
        let terminal: i32 = fields.nth(2)?.parse().ok()?;
        // Fourteen between the terminal and the start.
        let start_ticks = fields.nth(14)?.parse().ok()?;
        Some(Self { state, parent, terminal: terminal.cast_unsigned(), start_ticks })
    }

    /// Whether it runs: a dead process keeps its number until somebody has asked for its status.
    #[must_use]
    pub const fn is_alive(&self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// A process of one boot. Written `PID-START`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessName {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since the boot.
    pub start_ticks: u64,
}

impl ProcessName {
    /// The process that has this number now.
    ///
    /// # Errors
    /// As [`Stat::read`].
    pub fn of(pid: u32) -> io::Result<Self> {
        Ok(Self { pid, start_ticks: Stat::read(pid)?.start_ticks })
    }

    /// Whether it is alive; not another one of the same number.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        Stat::read(self.pid).is_ok_and(|stat| stat.start_ticks == self.start_ticks && stat.is_alive())
    }
}

impl fmt::Display for ProcessName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}-{}", self.pid, self.start_ticks)
    }
}

impl FromStr for ProcessName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (pid, start) = text.split_once('-').ok_or(())?;
        let name = Self { pid: pid.parse().map_err(drop)?, start_ticks: start.parse().map_err(drop)? };
        if name.to_string() == text { Ok(name) } else { Err(()) }
    }
}

/// 32 hexadecimal digits.
pub(crate) fn boot_text(boot: BootId) -> String {
    boot.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_whose_name_looks_like_fields_is_read_past() {
        let text = b"12 (a) S 1 (x)) R 34 5 6 34816 7 0 0 0 0 0 0 0 0 0 20 0 1 0 987654 1 2 3\n";
        let stat = Stat::parse(text).unwrap();
        assert_eq!(stat, Stat { state: b'R', parent: 34, terminal: 34816, start_ticks: 987_654 });
        for end in 0..text.len().saturating_sub(14) {
            assert!(Stat::parse(&text[..end]).is_none_or(|found| found.start_ticks < 987_654), "{end}");
        }
    }

    #[test]
    fn this_process_is_alive_and_one_of_its_number_and_another_start_is_not() {
        let own = ProcessName::of(std::process::id()).unwrap();
        assert!(own.is_alive());
        assert!(!ProcessName { start_ticks: own.start_ticks.wrapping_sub(1), ..own }.is_alive());
    }

    #[test]
    fn a_name_is_written_in_one_way_only() {
        let name = ProcessName { pid: 12, start_ticks: 345 };
        assert_eq!(name.to_string().parse(), Ok(name));
        for text in ["", "12", "12-", "-345", "+12-345", "012-345", "12-345 ", "12-345-6", "../12-345"] {
            assert_eq!(text.parse::<ProcessName>(), Err(()), "{text}");
        }
    }
}
