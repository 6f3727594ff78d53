//! Opening and replacing files that access depends on: configurations, realm files, keys, snapshots. A path is walked from `/` one
//! component at a time, each opened without following a symbolic link and checked on the very descriptor that is used next;
//! directories that somebody else could change are refused, and so are keys that others can read. Files are replaced whole (temporary
//! file, fsync, rename, fsync of the directory) and never truncated in place.
//!
//! People's own files may be reached through links ([`real_path`]), as long as nobody else could have made or could change one.

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fsync, linkat, unlinkat};
use zeroize::Zeroizing;

/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;

/// What is wrong with a file or a directory on the way to it.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The path is relative or has `.` or `..` in it.
    #[error("{}: expected an absolute path without `.` and `..`", .0.display())]
    Path(PathBuf),
    /// The system refused an operation.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as an infinitive.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A component of the path, or the file itself, is a symbolic link.
    #[error("{} is a symbolic link; expected the thing itself", .0.display())]
    SymbolicLink(PathBuf),
    /// Links that lead to links without end.
    #[error("{}: expected at most {MAX_LINKS} symbolic links on the way", .0.display())]
    Links(PathBuf),
    /// Not a directory, or not a regular file, where one is needed.
    #[error("{} is not a {expected}", path.display())]
    Kind {
        /// The file or directory.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
    },
    /// Somebody else owns it.
    #[error("{} belongs to uid {uid}; expected uid {expected}", path.display())]
    Owner {
        /// The file or directory.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Who may own it.
        expected: u32,
    },
    /// Group or others may write it.
    #[error("{} may be written by others (mode {mode:04o})", path.display())]
    Writable {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Group or others may read a secret.
    #[error("{} may be read by others (mode {mode:04o})", path.display())]
    Readable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is larger than anything that belongs there.
    #[error("{} is larger than {limit} bytes", path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// The most that is read, in bytes.
        limit: u64,
    },
}

impl FileError {
    /// What the reader can do about it, where there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Writable { path, mode } if mode & 0o1000 != 0 => Some(format!(
                "choose a directory that only root or you may write: in {} anybody can take a name first",
                path.display()
            )),
            Self::Writable { path, .. } => Some(format!("chmod go-w {}", path.display())),
            Self::Readable { path, .. } => Some(format!("chmod go= {}", path.display())),
            Self::Owner { path, expected, .. } => Some(format!("chown {expected} {}", path.display())),
            Self::SymbolicLink(path) => Some(format!("write the path that `realpath {}` prints", path.display())),
            Self::Path(_) => Some("write the path from / on".to_owned()),
            Self::Links(_) => Some("write the path that it is meant to lead to".to_owned()),
            Self::Io { .. } | Self::Kind { .. } | Self::Size { .. } => None,
        }
    }

    /// Whether the file or a directory on the way does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }
}

/// Who may own what is opened: root, and one more uid (the process's own, or the one that a payload is for).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owners {
    also: u32,
}

impl Owners {
    /// Root and the user that this process runs as.
    pub fn process() -> Self {
        Self { also: Uid::effective().as_raw() }
    }

    /// Root and the given user.
    pub fn and(uid: u32) -> Self {
        Self { also: uid }
    }

    fn check(self, path: &Path, uid: u32) -> Result<(), FileError> {
        // Root owns everything above a test directory; a file of root's is never less trustworthy than one's own.
        if uid == 0 || uid == self.also {
            return Ok(());
        }
        Err(FileError::Owner { path: path.to_owned(), uid, expected: self.also })
    }
}

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrecy {
    /// Anybody; only writing is restricted.
    Public,
    /// Its owner alone.
    Private,
}

/// Owner, group and mode of a file to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ownership {
    /// Owner, numeric.
    pub uid: u32,
    /// Group, numeric.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

/// A directory that was walked to and found safe, held open.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
    path: PathBuf,
    owners: Owners,
}

impl Directory {
    /// Opens `path`, checking every directory from `/` on: owned by root or `owners`, writable by nobody else (a sticky directory
    /// of root's, such as /tmp, may be passed through but not used itself).
    ///
    /// # Errors
    /// The component that is missing, linked or unsafe.
    pub fn open(path: &Path, owners: Owners) -> Result<Self, FileError> {
        Self::walk(path, owners, Sticky::PassThrough)
    }

    fn walk(path: &Path, owners: Owners, sticky: Sticky) -> Result<Self, FileError> {
        let mut walked = PathBuf::from("/");
        let mut names = Vec::new();
        let mut components = path.components();
        if components.next() != Some(Component::RootDir) {
            return Err(FileError::Path(path.to_owned()));
        }
        for component in components {
            match component {
                Component::Normal(name) => names.push(name),
                _ => return Err(FileError::Path(path.to_owned())),
            }
        }
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
        let mut fd = nix::fcntl::open("/", flags, Mode::empty()).map_err(|errno| io("open", &walked, errno))?;
        let mut stat = fstat(&fd).map_err(|errno| io("examine", &walked, errno))?;
        check_directory(&walked, &stat, owners, sticky.at(names.is_empty()))?;
        let mut left = names.len();
        for name in names {
            left = left.saturating_sub(1);
            walked.push(name);
            fd = openat(&fd, name, flags, Mode::empty()).map_err(|errno| not_a_directory(&fd, name, &walked, errno))?;
            stat = fstat(&fd).map_err(|errno| io("examine", &walked, errno))?;
            check_directory(&walked, &stat, owners, sticky.at(left == 0))?;
        }
        Ok(Self { fd, path: walked, owners })
    }

    /// Checks a directory that a program keeps for itself, and the one in which it stands: in a directory that everybody may write,
    /// sticky or not, its name could be taken while it is not there. It need not exist yet; its parent must.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn check_place(path: &Path, owners: Owners) -> Result<(), FileError> {
        Self::of(path, owners)?;
        match Self::open(path, owners) {
            Err(error) if error.is_not_found() => Ok(()),
            opened => opened.map(|_| ()),
        }
    }

    /// Opens the directory that holds `path` and returns it with the file's name.
    ///
    /// # Errors
    /// As [`Self::open`]; also when `path` names no file.
    pub fn of(path: &Path, owners: Owners) -> Result<(Self, &std::ffi::OsStr), FileError> {
        match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => Ok((Self::open(parent, owners)?, name)),
            _ => Err(FileError::Path(path.to_owned())),
        }
    }

    /// The directory's path, as it was walked.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads a whole regular file of this directory, at most `limit` bytes.
    ///
    /// # Errors
    /// A missing, linked, foreign, writable (or, where private, readable) or oversize file.
    pub fn read(&self, name: &std::ffi::OsStr, secrecy: Secrecy, limit: u64) -> Result<Zeroizing<Vec<u8>>, FileError> {
        let path = self.path.join(name);
        let fd = self.open_file(name, secrecy)?;
        let mut bytes = Zeroizing::new(Vec::new());
        File::from(fd).take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(|source| FileError::Io {
            action: "read",
            path: path.clone(),
            source,
        })?;
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
            return Err(FileError::Size { path, limit });
        }
        Ok(bytes)
    }

    fn open_file(&self, name: &std::ffi::OsStr, secrecy: Secrecy) -> Result<OwnedFd, FileError> {
        let path = self.path.join(name);
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let fd = openat(&self.fd, name, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::ELOOP => FileError::SymbolicLink(path.clone()),
            errno => io("open", &path, errno),
        })?;
        let stat = fstat(&fd).map_err(|errno| io("examine", &path, errno))?;
        check_file(&path, &stat, self.owners, secrecy)?;
        Ok(fd)
    }

    /// Whether there is anything of this name, a dangling link included.
    ///
    /// # Errors
    /// What the system refused.
    pub fn contains(&self, name: &std::ffi::OsStr) -> Result<bool, FileError> {
        match nix::sys::stat::fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(io("examine", &self.path.join(name), errno)),
        }
    }

    /// Replaces (or makes) a file of this directory in one step: a reader sees the old bytes or the new ones.
    ///
    /// # Errors
    /// What the system refused; the old file is then as it was.
    pub fn replace(&self, name: &std::ffi::OsStr, bytes: &[u8], ownership: Ownership) -> Result<(), FileError> {
        let path = self.path.join(name);
        self.clear_left_over(name).map_err(|errno| io("clear what was left over beside", &path, errno))?;
        let mut random = [0_u8; 8];
        getrandom::fill(&mut random).map_err(|error| FileError::Io {
            action: "get randomness for",
            path: path.clone(),
            source: std::io::Error::other(error),
        })?;
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{:016x}", u64::from_be_bytes(random)));
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&self.fd, temporary.as_os_str(), flags, Mode::from_bits_truncate(0o600))
            .map_err(|errno| io("create a file beside", &path, errno))?;
        // The file stays open, and locked, until it has its name.
        let written = self.fill(fd, bytes, ownership, &path).and_then(|_locked| {
            renameat(&self.fd, temporary.as_os_str(), &self.fd, name).map_err(|errno| io("replace", &path, errno))
        });
        if written.is_err() {
            // The first error is the one to tell; what is left over is cleared by the next replacement.
            let _ = unlinkat(&self.fd, temporary.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
        written?;
        fsync(&self.fd).map_err(|errno| io("sync the directory of", &path, errno))
    }

    /// Removes the temporary files of replacements of `name` whose process was killed: they may hold a secret. Those of living ones are
    /// locked; one that is met before it is locked fails to be renamed, and its writer says so.
    fn clear_left_over(&self, name: &std::ffi::OsStr) -> nix::Result<()> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let mut listing = Dir::openat(&self.fd, ".", flags, Mode::empty())?;
        for entry in listing.iter() {
            let entry = entry?;
            let found = std::ffi::OsStr::from_bytes(entry.file_name().to_bytes());
            if !is_temporary_of(name, found) {
                continue;
            }
            let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
            let left_over = match openat(&self.fd, found, flags, Mode::empty()) {
                // Whatever it is, no process that can be written through is at work on it.
                Err(_) => true,
                Ok(fd) => !matches!(File::from(fd).try_lock(), Err(TryLockError::WouldBlock)),
            };
            if left_over {
                match unlinkat(&self.fd, found, UnlinkatFlags::NoRemoveDir) {
                    Ok(()) | Err(Errno::ENOENT | Errno::EISDIR) => {}
                    Err(errno) => return Err(errno),
                }
            }
        }
        Ok(())
    }

    fn fill(&self, fd: OwnedFd, bytes: &[u8], ownership: Ownership, path: &Path) -> Result<File, FileError> {
        let mut file = File::from(fd);
        file.lock().map_err(|source| FileError::Io { action: "lock", path: path.to_owned(), source })?;
        let fd = file.as_fd();
        fchown(fd, Some(Uid::from_raw(ownership.uid)), Some(Gid::from_raw(ownership.gid)))
            .map_err(|errno| io("set the owner of", path, errno))?;
        fchmod(fd, Mode::from_bits_truncate(ownership.mode)).map_err(|errno| io("set the mode of", path, errno))?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|source| FileError::Io {
            action: "write",
            path: path.to_owned(),
            source,
        })?;
        Ok(file)
    }

    /// Keeps the file of this name, if there is one, under another name beside it, until it is [restored](Self::restore) or
    /// [forgotten](Self::forget). What was kept before and is not settled yet stays kept: it is the older one, and known to be good.
    ///
    /// # Errors
    /// What the system refused.
    pub fn keep(&self, name: &std::ffi::OsStr) -> Result<(), FileError> {
        match linkat(&self.fd, name, &self.fd, kept(name).as_os_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST | Errno::ENOENT) => self.sync(name),
            Err(errno) => Err(io("keep", &self.path.join(name), errno)),
        }
    }

    /// Puts back what was kept; where nothing was, there is no file of this name afterwards.
    ///
    /// # Errors
    /// What the system refused.
    pub fn restore(&self, name: &std::ffi::OsStr) -> Result<(), FileError> {
        if self.put_back(name)? {
            return Ok(());
        }
        match unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => self.sync(name),
            Err(errno) => Err(io("restore", &self.path.join(name), errno)),
        }
    }

    /// Puts back what was kept, if anything was; whether it was. Otherwise the file stays as it is.
    ///
    /// # Errors
    /// What the system refused.
    pub fn put_back(&self, name: &std::ffi::OsStr) -> Result<bool, FileError> {
        match renameat(&self.fd, kept(name).as_os_str(), &self.fd, name) {
            // Where both names are the same file, which was kept and never replaced, the system renames nothing.
            Ok(()) => self.forget(name)?,
            Err(Errno::ENOENT) => return Ok(false),
            Err(errno) => return Err(io("restore", &self.path.join(name), errno)),
        }
        self.sync(name).map(|()| true)
    }

    /// Removes what was kept.
    ///
    /// # Errors
    /// What the system refused.
    pub fn forget(&self, name: &std::ffi::OsStr) -> Result<(), FileError> {
        match unlinkat(&self.fd, kept(name).as_os_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) => self.sync(name),
            Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(io("remove the old", &self.path.join(name), errno)),
        }
    }

    /// Empties a file of this directory where it stands, which takes neither space nor a name; where even that fails, takes it away.
    ///
    /// # Errors
    /// What the system refused when it was to go. A file that is not there is empty enough.
    pub fn empty(&self, name: &std::ffi::OsStr) -> Result<(), FileError> {
        let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let emptied = openat(&self.fd, name, flags, Mode::empty()).and_then(|fd| {
            nix::unistd::ftruncate(&fd, 0)?;
            fsync(&fd)
        });
        match emptied {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(_) => match unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => self.sync(name),
                Err(errno) => Err(io("empty", &self.path.join(name), errno)),
            },
        }
    }

    fn sync(&self, name: &std::ffi::OsStr) -> Result<(), FileError> {
        fsync(&self.fd).map_err(|errno| io("sync the directory of", &self.path.join(name), errno))
    }

    /// Renames a file inside this directory.
    ///
    /// # Errors
    /// What the system refused.
    pub fn rename(&self, from: &std::ffi::OsStr, to: &std::ffi::OsStr) -> Result<(), FileError> {
        let path = self.path.join(from);
        renameat(&self.fd, from, &self.fd, to).map_err(|errno| io("rename", &path, errno))?;
        fsync(&self.fd).map_err(|errno| io("sync the directory of", &path, errno))
    }
}

/// Where [`Directory::keep`] keeps a file: `.NAME.kept`.
fn kept(name: &std::ffi::OsStr) -> std::ffi::OsString {
    let mut kept = std::ffi::OsString::from(".");
    kept.push(name);
    kept.push(".kept");
    kept
}

/// `.NAME.` and sixteen hexadecimal digits: how [`Directory::replace`] calls what is not finished.
fn is_temporary_of(name: &std::ffi::OsStr, found: &std::ffi::OsStr) -> bool {
    let digits = found
        .as_bytes()
        .strip_prefix(b".")
        .and_then(|rest| rest.strip_prefix(name.as_bytes()))
        .and_then(|rest| rest.strip_prefix(b"."));
    digits.is_some_and(|digits| {
        digits.len() == 16 && digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// Where a directory of root's may be writable by all, if what is in it can only be renamed by its owner.
#[derive(Clone, Copy)]
enum Sticky {
    /// On the way, and not at its end.
    PassThrough,
    /// At the end too: what is looked for there is somebody's link.
    Anywhere,
}

impl Sticky {
    fn at(self, last: bool) -> bool {
        matches!(self, Self::Anywhere) || !last
    }
}

/// The path without `.`, `..` and symbolic links that `path` leads to; a relative one begins in the working directory. Each link must
/// belong to `owners` and stand in a directory that nobody else can change. What is at the end is not looked at: open it with
/// [`read`] or [`Directory::open`], which check everything on the way to it.
///
/// # Errors
/// The component that is missing, or the link that is not to be trusted.
pub fn real_path(path: &Path, owners: Owners) -> Result<PathBuf, FileError> {
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| FileError::Io { action, path, source }
    };
    let absolute = std::path::absolute(path).map_err(failed("find", path))?;
    let mut real = PathBuf::from("/");
    let mut rest: Vec<PathBuf> = vec![absolute];
    let mut links = 0_usize;
    while let Some(next) = rest.pop() {
        let mut components = next.components();
        let Some(first) = components.next() else { continue };
        rest.push(components.as_path().to_owned());
        match first {
            Component::RootDir => real = PathBuf::from("/"),
            Component::ParentDir => {
                real.pop();
            }
            Component::Normal(name) => {
                let found = real.join(name);
                let metadata = std::fs::symlink_metadata(&found).map_err(failed("open", &found))?;
                if !metadata.is_symlink() {
                    real = found;
                    continue;
                }
                links = links.saturating_add(1);
                if links > MAX_LINKS {
                    return Err(FileError::Links(path.to_owned()));
                }
                owners.check(&found, std::os::unix::fs::MetadataExt::uid(&metadata))?;
                Directory::walk(&real, owners, Sticky::Anywhere)?;
                rest.push(std::fs::read_link(&found).map_err(failed("read", &found))?);
            }
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(real)
}

/// Checks that the file at an absolute path could be read by [`read`], and reads nothing.
///
/// # Errors
/// As [`read`].
pub fn check(path: &Path, owners: Owners, secrecy: Secrecy) -> Result<(), FileError> {
    let (directory, name) = Directory::of(path, owners)?;
    directory.open_file(name, secrecy).map(|_| ())
}

/// Reads the file at an absolute path, after walking to it (see [`Directory`]).
///
/// # Errors
/// As [`Directory::open`] and [`Directory::read`].
pub fn read(path: &Path, owners: Owners, secrecy: Secrecy, limit: u64) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let (directory, name) = Directory::of(path, owners)?;
    directory.read(name, secrecy, limit)
}

fn check_directory(path: &Path, stat: &FileStat, owners: Owners, may_be_sticky: bool) -> Result<(), FileError> {
    owners.check(path, stat.st_uid)?;
    let mode = stat.st_mode & 0o7777;
    // In a sticky directory of root's nobody can rename or remove what another owns, so it is safe to walk through.
    let sticky = stat.st_uid == 0 && mode & 0o1000 != 0 && may_be_sticky;
    if mode & 0o022 != 0 && !sticky {
        return Err(FileError::Writable { path: path.to_owned(), mode });
    }
    Ok(())
}

fn check_file(path: &Path, stat: &FileStat, owners: Owners, secrecy: Secrecy) -> Result<(), FileError> {
    if stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
        return Err(FileError::Kind { path: path.to_owned(), expected: "regular file" });
    }
    owners.check(path, stat.st_uid)?;
    let mode = stat.st_mode & 0o7777;
    if mode & 0o022 != 0 {
        return Err(FileError::Writable { path: path.to_owned(), mode });
    }
    if secrecy == Secrecy::Private && mode & 0o077 != 0 {
        return Err(FileError::Readable { path: path.to_owned(), mode });
    }
    Ok(())
}

/// Tells a symbolic link from something else that is no directory; `openat` answers ENOTDIR for both.
fn not_a_directory(parent: impl AsFd, name: &std::ffi::OsStr, path: &Path, errno: Errno) -> FileError {
    if errno != Errno::ENOTDIR && errno != Errno::ELOOP {
        return io("open", path, errno);
    }
    let linked = nix::sys::stat::fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFLNK.bits());
    if linked {
        FileError::SymbolicLink(path.to_owned())
    } else {
        FileError::Kind { path: path.to_owned(), expected: "directory" }
    }
}

fn io(action: &'static str, path: &Path, errno: Errno) -> FileError {
    FileError::Io { action, path: path.to_owned(), source: errno.into() }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn safe_directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        chmod(directory.path(), 0o700);
        directory
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_a_hint() {
        let directory = safe_directory();
        let key = directory.path().join("key");
        fs::write(&key, "secret").unwrap();
        chmod(&key, 0o640);
        let error = read(&key, Owners::process(), Secrecy::Private, 100).unwrap_err();
        assert_eq!(error.to_string(), format!("{} may be read by others (mode 0640)", key.display()));
        assert_eq!(error.hint(), Some(format!("chmod go= {}", key.display())));
        chmod(&key, 0o600);
        assert_eq!(read(&key, Owners::process(), Secrecy::Private, 100).unwrap().as_slice(), b"secret");
    }

    #[test]
    fn a_file_in_a_directory_that_others_may_write_is_refused_at_any_depth() {
        let directory = safe_directory();
        let inner = directory.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("file"), "x").unwrap();
        chmod(&directory.path().join("a"), 0o777);
        let error = read(&inner.join("file"), Owners::process(), Secrecy::Public, 100).unwrap_err();
        let path = directory.path().join("a");
        assert_eq!(error.to_string(), format!("{} may be written by others (mode 0777)", path.display()));
        assert_eq!(error.hint(), Some(format!("chmod go-w {}", path.display())));
    }

    #[test]
    fn a_sticky_directory_may_be_passed_through_but_not_used() {
        let error = Directory::open(Path::new("/tmp"), Owners::process());
        assert!(matches!(error, Err(FileError::Writable { .. })), "{error:?}");
        Directory::open(safe_directory().path(), Owners::process()).unwrap();
    }

    #[test]
    fn what_a_killed_writer_left_behind_goes_with_the_next_replacement_and_nothing_else_does() {
        let directory = safe_directory();
        let at = |name: &str| directory.path().join(name);
        let stale = [".key.0123456789abcdef", ".key.ffffffffffffffff"];
        let others = [".key.0123456789ABCDEF", ".key.0123", ".key2.0123456789abcdef", "key.0123456789abcdef", ".key."];
        for name in stale.iter().chain(&others) {
            fs::write(at(name), "secret").unwrap();
        }
        symlink("/nowhere", at(".key.00000000000000aa")).unwrap();
        let alive = File::create(at(".key.00000000000000bb")).unwrap();
        alive.lock().unwrap();
        let ownership = Ownership { uid: Uid::current().as_raw(), gid: Gid::current().as_raw(), mode: 0o600 };
        let open = Directory::open(directory.path(), Owners::process()).unwrap();
        open.replace("key".as_ref(), b"new", ownership).unwrap();
        let mut left: Vec<String> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        let mut expected: Vec<&str> = others.iter().copied().chain(["key", ".key.00000000000000bb"]).collect();
        expected.sort_unstable();
        assert_eq!(left, expected);
        drop(alive);
        open.replace("key".as_ref(), b"newer", ownership).unwrap();
        assert!(!at(".key.00000000000000bb").exists());
        assert_eq!(fs::read(at("key")).unwrap(), b"newer");
    }

    #[test]
    fn what_is_kept_comes_back_or_goes_and_the_oldest_is_kept() {
        let directory = safe_directory();
        let at = |name: &str| directory.path().join(name);
        let ownership = Ownership { uid: Uid::current().as_raw(), gid: Gid::current().as_raw(), mode: 0o600 };
        let open = Directory::open(directory.path(), Owners::process()).unwrap();
        let key = std::ffi::OsStr::new("key");
        open.replace(key, b"old", ownership).unwrap();
        for new in [b"newer", b"other"] {
            // As after a crash in between: what is there is not known to be good, what is kept is.
            open.keep(key).unwrap();
            open.replace(key, new, ownership).unwrap();
        }
        open.restore(key).unwrap();
        assert_eq!(fs::read(at("key")).unwrap(), b"old");
        open.keep(key).unwrap();
        open.replace(key, b"good", ownership).unwrap();
        open.forget(key).unwrap();
        open.forget(key).unwrap();
        assert_eq!(fs::read(at("key")).unwrap(), b"good");
        open.keep("none".as_ref()).unwrap();
        open.replace("none".as_ref(), b"new", ownership).unwrap();
        open.restore("none".as_ref()).unwrap();
        let left: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["key"]);
        // Kept and never replaced: two names of one file.
        open.keep(key).unwrap();
        assert!(open.put_back(key).unwrap());
        assert!(!open.put_back(key).unwrap(), "nothing is kept any more");
        assert!(!at(".key.kept").exists());
        assert_eq!(fs::read(at("key")).unwrap(), b"good");
    }

    #[test]
    fn symbolic_links_are_never_followed_neither_as_directory_nor_as_file() {
        let directory = safe_directory();
        fs::create_dir(directory.path().join("real")).unwrap();
        fs::write(directory.path().join("real/file"), "x").unwrap();
        symlink(directory.path().join("real"), directory.path().join("link")).unwrap();
        symlink(directory.path().join("real/file"), directory.path().join("linked-file")).unwrap();
        for path in ["link/file", "linked-file"] {
            let error = read(&directory.path().join(path), Owners::process(), Secrecy::Public, 100).unwrap_err();
            assert!(matches!(error, FileError::SymbolicLink(_)), "{error}");
        }
    }

    #[test]
    fn relative_paths_and_dots_are_refused() {
        for path in ["etc/passwd", "/etc/../etc/passwd", ""] {
            let error = read(Path::new(path), Owners::process(), Secrecy::Public, 100).unwrap_err();
            assert!(matches!(error, FileError::Path(_)), "{path}: {error}");
        }
    }

    #[test]
    fn a_fifo_does_not_block_and_is_refused() {
        let directory = safe_directory();
        let path = directory.path().join("fifo");
        nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
        let error = read(&path, Owners::process(), Secrecy::Public, 100).unwrap_err();
        assert_eq!(error.to_string(), format!("{} is not a regular file", path.display()));
    }

    #[test]
    fn an_oversize_file_is_refused() {
        let directory = safe_directory();
        fs::write(directory.path().join("file"), [0; 101]).unwrap();
        let error = read(&directory.path().join("file"), Owners::process(), Secrecy::Public, 100).unwrap_err();
        assert!(matches!(error, FileError::Size { limit: 100, .. }), "{error}");
    }

    #[test]
    fn a_link_is_followed_where_nobody_else_could_have_made_it() {
        let directory = safe_directory();
        let root = fs::canonicalize(directory.path()).unwrap();
        fs::create_dir(root.join("real")).unwrap();
        fs::write(root.join("real/file"), "here").unwrap();
        symlink("real", root.join("folder")).unwrap();
        symlink("../folder/./file", root.join("real/link")).unwrap();
        symlink("round", root.join("round")).unwrap();
        let real = |name: &str| real_path(&root.join(name), Owners::process());
        for name in ["real/file", "folder/file", "real/link", "folder/link", "real/../folder/file"] {
            assert_eq!(real(name).unwrap(), root.join("real/file"), "{name}");
        }
        assert!(matches!(real("round"), Err(FileError::Links(_))));
        assert!(real("none").unwrap_err().is_not_found());
        chmod(&root.join("real"), 0o777);
        assert!(matches!(real("real/link"), Err(FileError::Writable { path, .. }) if path == root.join("real")));
        chmod(&root.join("real"), 0o700);
        if Uid::effective().is_root() {
            std::os::unix::fs::lchown(root.join("folder"), Some(4711), None).unwrap();
            assert!(matches!(real("folder/file"), Err(FileError::Owner { uid: 4711, .. })));
        }
    }

    #[test]
    fn a_directory_of_one_s_own_does_not_stand_where_everybody_may_write() {
        let directory = safe_directory();
        let place = |name: &str| Directory::check_place(&directory.path().join(name), Owners::process());
        place("state").unwrap();
        fs::create_dir(directory.path().join("state")).unwrap();
        place("state").unwrap();
        assert!(place("none/state").unwrap_err().is_not_found());
        chmod(directory.path(), 0o1777);
        let error = place("state").unwrap_err();
        assert!(matches!(error, FileError::Writable { mode: 0o1777, .. }), "{error}");
        assert!(error.hint().unwrap().starts_with("choose a directory that only root or you may write"), "{error}");
    }

    #[test]
    fn a_replaced_file_has_the_wanted_mode_and_no_temporary_file_stays() {
        let directory = safe_directory();
        let open = Directory::open(directory.path(), Owners::process()).unwrap();
        let me = Ownership { uid: Uid::effective().as_raw(), gid: Gid::effective().as_raw(), mode: 0o640 };
        open.replace("file".as_ref(), b"one", me).unwrap();
        open.replace("file".as_ref(), b"two", me).unwrap();
        assert_eq!(fs::read(directory.path().join("file")).unwrap(), b"two");
        assert_eq!(fs::metadata(directory.path().join("file")).unwrap().mode() & 0o7777, 0o640);
        let names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["file"]);
    }

    #[test]
    fn replacing_a_symbolic_link_replaces_the_link_and_not_its_target() {
        let directory = safe_directory();
        fs::write(directory.path().join("target"), "untouched").unwrap();
        symlink(directory.path().join("target"), directory.path().join("file")).unwrap();
        let open = Directory::open(directory.path(), Owners::process()).unwrap();
        let me = Ownership { uid: Uid::effective().as_raw(), gid: Gid::effective().as_raw(), mode: 0o600 };
        open.replace("file".as_ref(), b"new", me).unwrap();
        assert_eq!(fs::read_to_string(directory.path().join("target")).unwrap(), "untouched");
        assert!(fs::symlink_metadata(directory.path().join("file")).unwrap().is_file());
    }
}
