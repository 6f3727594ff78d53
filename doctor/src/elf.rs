//! What a program file is: for which machine, and whether it needs a loader.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

const INTERPRETER: u32 = 3;
/// Headers stand at the beginning.
const MOST_BYTES: u64 = 64 * 1024;

/// A program or library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Elf {
    /// Class (32 or 64 bits), byte order and machine.
    pub(crate) machine: (u8, u8, u16),
    /// Whether it asks for a dynamic loader.
    pub(crate) is_dynamic: bool,
}

impl Elf {
    /// None where it is none, or cannot be read.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        let mut bytes = Vec::new();
        File::open(path).ok()?.take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let [0x7f, b'E', b'L', b'F', class, order, ..] = bytes else { return None };
        let (is_64, is_big) = (*class == 2, *order == 2);
        let number = |at: usize, width: usize| -> Option<usize> {
            let field = bytes.get(at..at.checked_add(width)?)?;
            let fold = |sum: usize, byte: &u8| sum.checked_mul(256)?.checked_add(usize::from(*byte));
            if is_big { field.iter().try_fold(0, fold) } else { field.iter().rev().try_fold(0, fold) }
        };
        let machine = u16::try_from(number(18, 2)?).ok()?;
        let (table, size, count) = if is_64 {
            (number(32, 8)?, number(54, 2)?, number(56, 2)?)
        } else {
            (number(28, 4)?, number(42, 2)?, number(44, 2)?)
        };
        let is_dynamic = (0..count).any(|index| {
            let at = index.checked_mul(size).and_then(|at| at.checked_add(table));
            at.and_then(|at| number(at, 4)) == usize::try_from(INTERPRETER).ok()
        });
        Some(Self { machine: (*class, *order, machine), is_dynamic })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_program_and_a_script_are_what_they_are() {
        let own = Elf::read(&std::env::current_exe().unwrap()).unwrap();
        assert_eq!(own.machine.0, 2);
        assert!(Elf::read(Path::new("/bin/sh")).unwrap().is_dynamic);
        assert_eq!(Elf::read(Path::new("/etc/passwd")), None);
        assert_eq!(Elf::parse(b"\x7fELF"), None);
        let mut cut = std::fs::read("/bin/sh").unwrap();
        cut.truncate(40);
        assert_eq!(Elf::parse(&cut), None);
    }
}
