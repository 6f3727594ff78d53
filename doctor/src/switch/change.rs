//! One file that is written, and what was there before: applied and taken back as a whole, never half.
//!
//! Refuses links, files with a second name, and anything in a folder that somebody else than root may write: what is written here
//! says who gets in.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use nix::libc::O_NOFOLLOW;
use serde::{Deserialize, Serialize};

/// Configuration is small; something larger is something else.
const MOST_BYTES: u64 = 1 << 20;

/// A file as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// All of it.
    pub(crate) bytes: Vec<u8>,
    /// Permission bits.
    pub(crate) mode: u32,
    /// Owner.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
}

/// A file that is to be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Which.
    pub path: PathBuf,
    /// What is to be in it.
    pub after: String,
    /// What was there; none where there was no such file.
    pub(crate) before: Option<Kept>,
}

/// What became of taking a change back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Restored {
    /// The file is as it was.
    Exactly,
    /// Somebody else has written it since, and nothing of ours is left in it.
    NothingOfOurs,
    /// Somebody else has written it since.
    ChangedSince,
}

impl Change {
    /// A change of the file at `path`, of which `after` makes the new text from the old one.
    ///
    /// # Errors
    /// The file or its folder is not root's alone, or no text.
    pub(crate) fn of(path: &Path, after: impl FnOnce(Option<&str>) -> io::Result<String>) -> io::Result<Self> {
        check_folders(path)?;
        let before = keep(path)?;
        let old = before.as_ref().map(|kept| std::str::from_utf8(&kept.bytes)).transpose();
        let old = old.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "expected text"))?;
        Ok(Self { path: path.to_owned(), after: after(old)?, before })
    }

    /// Whether there is anything to do.
    pub(crate) fn is_needed(&self) -> bool {
        self.before.as_ref().is_none_or(|kept| kept.bytes != self.after.as_bytes())
    }

    /// Permission bits of the new file.
    pub(crate) fn mode(&self) -> u32 {
        self.before.as_ref().map_or(0o644, |kept| kept.mode)
    }

    /// Writes `text` in the file's place, which must be as it was, or hold one of `ours`.
    ///
    /// # Errors
    /// It is something else by now, or cannot be written.
    pub(crate) fn write(&self, text: &str, ours: &[&str]) -> io::Result<()> {
        check_folders(&self.path)?;
        let now = keep(&self.path)?;
        let is_ours = now.as_ref().is_some_and(|kept| ours.iter().any(|text| text.as_bytes() == kept.bytes));
        if now != self.before && !is_ours {
            return Err(io::Error::other("somebody else has written it in the meantime"));
        }
        let (uid, gid) = self.before.as_ref().map_or((0, 0), |kept| (kept.uid, kept.gid));
        put(&self.path, text.as_bytes(), self.mode(), (uid, gid))
    }

    /// Makes the file what it was, if it holds one of `ours` or is so already.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub(crate) fn restore(&self, ours: &[&str]) -> io::Result<Restored> {
        let now = keep(&self.path)?;
        if now == self.before {
            return Ok(Restored::Exactly);
        }
        let Some(found) = now else { return Ok(Restored::NothingOfOurs) };
        if !ours.iter().any(|text| text.as_bytes() == found.bytes) {
            let is_named = String::from_utf8_lossy(&found.bytes).contains("countersign");
            return Ok(if is_named { Restored::ChangedSince } else { Restored::NothingOfOurs });
        }
        match &self.before {
            Some(kept) => put(&self.path, &kept.bytes, kept.mode, (kept.uid, kept.gid))?,
            None => {
                fs::remove_file(&self.path)?;
                sync_folder(&self.path)?;
            }
        }
        Ok(Restored::Exactly)
    }
}

/// The file as it is; none where there is none.
///
/// # Errors
/// It is a link, has a second name, is not root's alone, or no file.
pub(crate) fn keep(path: &Path) -> io::Result<Option<Kept>> {
    let refused = |why: &str| Err(io::Error::other(why.to_owned()));
    let file = match OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | nix::libc::O_NONBLOCK).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(nix::libc::ELOOP) => {
            return refused("it is a link: expected a file");
        }
        opened => opened?,
    };
    let found = file.metadata()?;
    if !found.is_file() || found.nlink() != 1 {
        return refused("expected a file with one name");
    }
    if found.uid() != 0 || found.mode() & 0o022 != 0 {
        return refused("expected a file of root's that nobody else may write");
    }
    let mut bytes = Vec::new();
    file.take(MOST_BYTES.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MOST_BYTES) {
        return refused("expected at most 1 MiB");
    }
    Ok(Some(Kept { bytes, mode: found.mode() & 0o7777, uid: found.uid(), gid: found.gid() }))
}

/// Every folder on the way is root's, and nobody else's to write.
fn check_folders(path: &Path) -> io::Result<()> {
    for folder in path.ancestors().skip(1) {
        let found = fs::symlink_metadata(folder)?;
        if !found.is_dir() || found.uid() != 0 || found.mode() & 0o022 != 0 {
            let text = format!("{}: expected a folder of root's that nobody else may write", folder.display());
            return Err(io::Error::other(text));
        }
    }
    Ok(())
}

/// Written beside it, brought to the disk, and put in its place in one step. The name beside it is no `*.conf`: nobody reads it.
pub(crate) fn put(path: &Path, bytes: &[u8], mode: u32, (uid, gid): (u32, u32)) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let beside = folder.join(format!(".{}.countersign", name.display()));
    // What a run that was killed left there.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        chown(&beside, Some(uid), Some(gid))?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written?;
    sync_folder(path)
}

/// # Errors
/// The disk's.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}
