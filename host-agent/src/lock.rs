//! One agent per state directory: an exclusive lock on a file there, held by an open descriptor, so that it ends with the process
//! however that ends. Never waits and never breaks another's lock.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The file's name in the state directory.
pub const FILE: &str = "agent.lock";

/// Why the lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent has it.
    #[error("{}: another agent{holder} is running on this state directory", path.display())]
    Held {
        /// The lock file.
        path: PathBuf,
        /// ` (pid N)`, where the file tells.
        holder: String,
    },
    /// The system refused.
    #[error("cannot lock {}: {source}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// The lock; dropped, it is free.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a child that this process is just starting still holds a copy of the descriptor.
        drop(self.file.unlock());
    }
}

impl Lock {
    /// Takes the lock of `state_dir`.
    ///
    /// # Errors
    /// [`LockError::Held`] at once when another process has it.
    pub fn take(state_dir: &Path) -> Result<Self, LockError> {
        let path = state_dir.join(FILE);
        let io = |source| LockError::Io { path: path.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
            .open(&path)
            .map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Only for the message; the lock itself decides.
                let read = file.take(16).read_to_string(&mut text);
                let pid = read.ok().and_then(|_| text.trim().parse::<u32>().ok());
                let holder = pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
                return Err(LockError::Held { path, holder });
            }
            Err(TryLockError::Error(source)) => return Err(LockError::Io { path, source }),
        }
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(io)?;
        Ok(Self { file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_is_refused_with_the_pid_of_the_first_and_the_lock_ends_with_its_holder() {
        let directory = tempfile::tempdir().unwrap();
        let lock = Lock::take(directory.path()).unwrap();
        let error = Lock::take(directory.path()).unwrap_err();
        let path = directory.path().join(FILE);
        assert_eq!(
            error.to_string(),
            format!(
                "{}: another agent (pid {}) is running on this state directory",
                path.display(),
                std::process::id()
            )
        );
        drop(lock);
        Lock::take(directory.path()).unwrap();
    }

    #[test]
    fn a_link_in_place_of_the_lock_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/nonexistent", directory.path().join(FILE)).unwrap();
        assert!(matches!(Lock::take(directory.path()), Err(LockError::Io { .. })));
    }
}
