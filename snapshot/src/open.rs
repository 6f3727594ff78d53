//! Opens directories and files so that what is checked is what is read: descriptors first, checks on them.
//!
//! Refuses symbolic links, anything but regular files, other owners, group or other write permission, and hard links:
//! each would let somebody other than the publisher decide who logs in.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;

use crate::error::{Distrust, OpenError};

const GROUP_OR_OTHER_WRITE: u32 = 0o022;
const PERMISSION_BITS: u32 = 0o7777;

/// Whose files are believed: compared by number, never by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trust {
    owner: u32,
}

impl Trust {
    /// User id 0: what a login is decided by.
    pub const ROOT: Self = Self { owner: 0 };

    /// Another user, for programs that read what they published themselves.
    #[must_use]
    pub const fn owner(uid: u32) -> Self {
        Self { owner: uid }
    }
}

/// How a file is not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Gone {
    /// There is none of that name.
    Missing,
    /// There was, until after it was opened.
    Replaced,
}

/// A directory that only the trusted owner can change.
pub(crate) struct Directory {
    handle: File,
    path: PathBuf,
    trust: Trust,
}

impl Directory {
    pub(crate) fn open(path: &Path, trust: Trust) -> Result<Self, OpenError> {
        Self::open_in(AT_FDCWD, path, path.to_owned(), trust)
    }

    pub(crate) fn open_child(&self, name: &str) -> Result<Self, OpenError> {
        Self::open_in(&self.handle, Path::new(name), self.path.join(name), self.trust)
    }

    fn open_in<Fd: AsFd>(parent: Fd, name: &Path, path: PathBuf, trust: Trust) -> Result<Self, OpenError> {
        // O_PATH: the reader needs no permission to list.
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let handle = match openat(parent, name, flags, Mode::empty()) {
            Ok(handle) => File::from(handle),
            // With O_DIRECTORY a symbolic link is "not a directory" too.
            Err(Errno::ENOTDIR) => return Err(OpenError::Untrusted { path, found: Distrust::Type }),
            Err(error) => return Err(failed(path, error)),
        };
        let metadata = handle.metadata().map_err(|source| OpenError::Io { path: path.clone(), source })?;
        check_owner_and_mode(&metadata, trust).map_err(|found| OpenError::Untrusted { path: path.clone(), found })?;
        Ok(Self { handle, path, trust })
    }

    /// Opens a file in it for reading, and tells its length; or that it is not there (any more).
    pub(crate) fn open_file(&self, name: &str) -> Result<Result<(File, u64), Gone>, OpenError> {
        let path = self.path_of(name);
        // O_NONBLOCK: a FIFO must be refused, not waited for.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = match openat(&self.handle, name, flags, Mode::empty()) {
            Ok(handle) => File::from(handle),
            Err(Errno::ENOENT) => return Ok(Err(Gone::Missing)),
            Err(error) => return Err(failed(path, error)),
        };
        let metadata = file.metadata().map_err(|source| OpenError::Io { path: path.clone(), source })?;
        if metadata.nlink() == 0 {
            return Ok(Err(Gone::Replaced));
        }
        check_file(&metadata, self.trust).map_err(|found| OpenError::Untrusted { path, found })?;
        Ok(Ok((file, metadata.len())))
    }

    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

fn check_file(metadata: &Metadata, trust: Trust) -> Result<(), Distrust> {
    if !metadata.is_file() {
        return Err(Distrust::Type);
    }
    check_owner_and_mode(metadata, trust)?;
    match metadata.nlink() {
        1 => Ok(()),
        links => Err(Distrust::HardLinks(links)),
    }
}

fn check_owner_and_mode(metadata: &Metadata, trust: Trust) -> Result<(), Distrust> {
    if metadata.uid() != trust.owner {
        return Err(Distrust::Owner(metadata.uid()));
    }
    if metadata.mode() & GROUP_OR_OTHER_WRITE != 0 {
        return Err(Distrust::Writable(metadata.mode() & PERMISSION_BITS));
    }
    Ok(())
}

fn failed(path: PathBuf, error: Errno) -> OpenError {
    match error {
        Errno::ENOENT => OpenError::Absent { path },
        Errno::ELOOP => OpenError::Untrusted { path, found: Distrust::SymbolicLink },
        // A socket; a device without its driver.
        Errno::ENXIO => OpenError::Untrusted { path, found: Distrust::Type },
        _ => OpenError::Io { path, source: io::Error::from(error) },
    }
}
