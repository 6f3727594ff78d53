//! A directory of small files that one user alone writes: what is checked is what is read.
//!
//! Refuses directories and files that others may write, files of another owner than the directory's, links of both kinds, and
//! anything but regular files; a FIFO is not waited for.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

const OTHERS_WRITE: u32 = 0o022;

/// An open directory.
#[derive(Debug)]
pub struct Folder {
    handle: File,
    owner: u32,
}

impl Folder {
    /// Opens `name` below `parent`, which must be `trusted`'s (a uid) and written by nobody else. The folder itself may be another
    /// user's.
    ///
    /// # Errors
    /// One of them is not there, or not as it must be.
    pub fn open(parent: &Path, name: &str, trusted: u32) -> io::Result<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
        let above = File::from(openat(AT_FDCWD, parent, flags, Mode::empty())?);
        let handle = File::from(openat(&above, name, flags, Mode::empty())?);
        let (above, here) = (above.metadata()?, handle.metadata()?);
        if above.uid() != trusted || above.mode() & OTHERS_WRITE != 0 || here.mode() & OTHERS_WRITE != 0 {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "others may write there"));
        }
        Ok(Self { handle, owner: here.uid() })
    }

    /// Whose it is.
    #[must_use]
    pub const fn owner(&self) -> u32 {
        self.owner
    }

    /// A file's content; none where there is no such file, or it is not the owner's alone.
    ///
    /// # Errors
    /// The system refuses, or the file is longer than `max_bytes`.
    pub fn read(&self, name: &str, max_bytes: u64) -> io::Result<Option<Vec<u8>>> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = match openat(&self.handle, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ELOOP | nix::errno::Errno::ENXIO) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let metadata = file.metadata()?;
        let is_theirs = metadata.uid() == self.owner && metadata.mode() & OTHERS_WRITE == 0 && metadata.nlink() == 1;
        if !metadata.is_file() || !is_theirs {
            return Ok(None);
        }
        let mut content = Vec::new();
        file.take(max_bytes.saturating_add(1)).read_to_end(&mut content)?;
        if u64::try_from(content.len()).is_ok_and(|length| length > max_bytes) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "longer than such a file may be"));
        }
        Ok(Some(content))
    }

    /// Writes a file whole, in place of one of that name. Mode 0600.
    ///
    /// # Errors
    /// The system refuses; what was there before is there still.
    pub fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let temporary = format!(".{name}");
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut file = File::from(openat(&self.handle, temporary.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
        // Not synced: it tells of processes, which do not outlive the machine either.
        let written = file
            .write_all(content)
            .and_then(|()| renameat(&self.handle, temporary.as_str(), &self.handle, name).map_err(io::Error::from));
        if written.is_err() {
            let _ = self.remove(&temporary);
        }
        written
    }

    /// Removes a file; nothing happens where there is none.
    ///
    /// # Errors
    /// The system refuses.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.handle, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(nix::errno::Errno::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether there is something of that name.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        fstatat(&self.handle, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
    }

    /// The names of all files in it, in no order.
    ///
    /// # Errors
    /// The system refuses.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let path = format!("/proc/self/fd/{}", self.handle.as_raw_fd());
        let names = fs::read_dir(path)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.collect())
    }
}
