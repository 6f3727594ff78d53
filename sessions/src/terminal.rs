//! A word on a session's terminal: our own words only, on terminals that are the session's when they are written to.
//!
//! Refuses to wait, to follow links, and to write where the session's process has another terminal by now, or the terminal belongs
//! to somebody else.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};

use countersign_sshd::Stat;
use nix::fcntl::OFlag;
use nix::sys::stat::{major, minor};

use crate::process::Seen;

/// The major number of pseudo-terminals.
const PTS: u32 = 136;

/// Writes `text` on each terminal of `members` that belongs to `uid`. Returns on how many.
pub(crate) fn say(members: &[Seen], uid: u32, text: &str) -> usize {
    let mut written = BTreeSet::new();
    for member in members {
        let Some(index) = pseudo_terminal(member.terminal) else { continue };
        if !written.contains(&index) && write(member, index, uid, text) {
            written.insert(index);
        }
    }
    written.len()
}

fn pseudo_terminal(device: u32) -> Option<u32> {
    let (high, low) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xfff00);
    (high == PTS).then_some(low)
}

fn write(member: &Seen, index: u32, uid: u32, text: &str) -> bool {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let path = format!("/dev/pts/{index}");
    let Ok(mut terminal) = OpenOptions::new().write(true).custom_flags(flags.bits()).open(path) else { return false };
    let Ok(metadata) = terminal.metadata() else { return false };
    let is_it = metadata.file_type().is_char_device()
        && (major(metadata.rdev()), minor(metadata.rdev())) == (u64::from(PTS), u64::from(index))
        && metadata.uid() == uid;
    // While it is the process's terminal it cannot have become another's: so this comes after it was opened.
    let is_still = Stat::read(member.name.pid)
        .is_ok_and(|stat| stat.start_ticks == member.name.start_ticks && stat.terminal == member.terminal);
    is_it && is_still && terminal.write(text.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pseudo_terminals_are_written_to() {
        assert_eq!(pseudo_terminal(136 << 8 | 3), Some(3));
        assert_eq!(pseudo_terminal(0x0010_8801), Some(257));
        for other in [0, 4 << 8 | 1, 5 << 8, 137 << 8] {
            assert_eq!(pseudo_terminal(other), None);
        }
    }
}
