//! Who could have chosen what stands at a path, as sshd judges programs and files: owners and modes from the file to the root.

use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

const OTHERS_WRITE: u32 = 0o002;
const GROUP_WRITES: u32 = 0o020;
/// setuid and setgid.
pub(crate) const OTHER_USER_OR_GROUP: u32 = 0o6000;
const PERMISSION_BITS: u32 = 0o7777;

/// What is wrong with a path.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It is not there, or cannot be looked at.
    Missing(PathBuf, io::Error),
    /// It does not begin with `/`.
    Relative,
    /// Something else than a file.
    Type,
    /// A part of it is this user's.
    Owner(PathBuf, u32),
    /// Others may write a part of it.
    Writable(PathBuf, u32),
    /// Only root's own group may, beside root.
    RootsGroup(PathBuf, u32),
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(part, error) => write!(out, "{}: {error}", part.display()),
            Self::Relative => write!(out, "not an absolute path"),
            Self::Type => write!(out, "not of the expected type, file or directory"),
            Self::Owner(part, uid) => write!(out, "{} is owned by uid {uid}", part.display()),
            Self::Writable(part, mode) | Self::RootsGroup(part, mode) => {
                write!(out, "{} is writable by others than root (mode {mode:04o})", part.display())
            }
        }
    }
}

impl Fault {
    /// The command that mends it; `path` is what is to be there.
    pub(crate) fn change(&self, path: &Path) -> String {
        match self {
            Self::Missing(..) | Self::Type | Self::Relative => format!("install it as {}", path.display()),
            Self::Owner(..) if is_persons(path) => {
                format!("move {} into a folder of root's, with root's folders above it, and name that", path.display())
            }
            Self::Owner(part, _) => format!("chown root:root {}", part.display()),
            Self::Writable(part, _) | Self::RootsGroup(part, _) => format!("chmod go-w {}", part.display()),
        }
    }
}

/// Whether it lies in a folder of a person's, who would lose that folder to root.
fn is_persons(path: &Path) -> bool {
    const FIRST: u32 = 1000;
    let real = fs::canonicalize(path);
    let all = path.ancestors().chain(real.as_deref().unwrap_or(path).ancestors());
    all.filter_map(|part| fs::metadata(part).ok()).any(|found| found.is_dir() && found.uid() >= FIRST)
}

/// What is wrong with a file that root alone must have chosen: the file, what it is a link to, and all directories above both.
pub(crate) fn fault(path: &Path) -> Option<Fault> {
    fault_of(path, true)
}

/// The same of a directory.
pub(crate) fn fault_of_directory(path: &Path) -> Option<Fault> {
    fault_of(path, false)
}

fn fault_of(path: &Path, is_file: bool) -> Option<Fault> {
    if !path.is_absolute() {
        return Some(Fault::Relative);
    }
    let real = match fs::canonicalize(path) {
        Ok(real) => real,
        Err(error) => return Some(Fault::Missing(path.to_owned(), error)),
    };
    let mut lenient = None;
    for (level, part) in path.ancestors().enumerate().chain(real.ancestors().enumerate()) {
        let metadata = match fs::metadata(part) {
            Ok(metadata) => metadata,
            Err(error) => return Some(Fault::Missing(part.to_owned(), error)),
        };
        if level == 0 && metadata.is_file() != is_file {
            return Some(Fault::Type);
        }
        let mode = metadata.mode() & PERMISSION_BITS;
        if metadata.uid() != 0 {
            return Some(Fault::Owner(part.to_owned(), metadata.uid()));
        }
        if mode & OTHERS_WRITE != 0 || (mode & GROUP_WRITES != 0 && metadata.gid() != 0) {
            return Some(Fault::Writable(part.to_owned(), mode));
        }
        if mode & GROUP_WRITES != 0 && lenient.is_none() {
            lenient = Some(Fault::RootsGroup(part.to_owned(), mode));
        }
    }
    lenient
}

/// Whether it is a file that somebody may run, as sshd asks of shells.
pub(crate) fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.mode() & 0o111 != 0)
}

/// A user, as permissions see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Who {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Who {
    /// Whether the mode gives this user `bits` (of `rwx`, as one octal digit).
    pub(crate) fn may(self, metadata: &Metadata, bits: u32) -> bool {
        let shift = if metadata.uid() == self.uid {
            6
        } else if metadata.gid() == self.gid {
            3
        } else {
            0
        };
        self.uid == 0 || (metadata.mode() >> shift) & bits == bits
    }

    /// The first part of the path on which it fails: directories have to be entered, the last has to give `bits`.
    pub(crate) fn is_kept_from(self, path: &Path, bits: u32) -> Option<(PathBuf, u32)> {
        let mut parts: Vec<&Path> = path.ancestors().collect();
        parts.reverse();
        parts.into_iter().find_map(|part| {
            let metadata = fs::metadata(part).ok()?;
            let wanted = if part == path { bits } else { 1 };
            (!self.may(&metadata, wanted)).then(|| (part.to_owned(), metadata.mode() & PERMISSION_BITS))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::chown;

    use super::*;

    #[test]
    fn nobodys_home_is_given_to_root() {
        assert!(nix::unistd::geteuid().is_root(), "expected root, to give folders away");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys");
        fs::write(&file, "").unwrap();
        chown(&file, Some(1000), Some(1000)).unwrap();
        let owner = |part: &Path| Fault::Owner(part.to_owned(), 1000);
        assert_eq!(owner(&file).change(&file), format!("chown root:root {}", file.display()));
        chown(folder.path(), Some(1000), Some(1000)).unwrap();
        for part in [folder.path(), &file] {
            let change = owner(part).change(&file);
            assert!(change.starts_with(&format!("move {} into a folder of root's", file.display())), "{change}");
        }
    }
}
