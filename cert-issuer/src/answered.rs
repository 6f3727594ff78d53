//! Which requests were answered already: one empty file per request id. Losing it costs a second certificate on the same terms, never
//! a wider one.

use std::path::{Path, PathBuf};

use countersign_certificate::Id;
use thiserror::Error;

/// The notes cannot be read or kept.
#[derive(Debug, Error)]
#[error("answered requests {path}: {source}")]
pub struct AnsweredError {
    path: PathBuf,
    source: std::io::Error,
}

/// A directory of request ids.
#[derive(Debug, Clone)]
pub struct Answered {
    path: PathBuf,
}

impl Answered {
    /// Opens the directory, making it (not its parents) where it is absent.
    ///
    /// # Errors
    /// [`AnsweredError`].
    pub fn open(path: &Path) -> Result<Self, AnsweredError> {
        match std::fs::create_dir(path) {
            Err(source) if source.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(AnsweredError { path: path.to_owned(), source })
            }
            _ => Ok(Self { path: path.to_owned() }),
        }
    }

    /// Whether the request was answered.
    ///
    /// # Errors
    /// [`AnsweredError`]: not to know is not to answer.
    pub fn contains(&self, request: Id) -> Result<bool, AnsweredError> {
        let path = self.path.join(request.to_string());
        path.try_exists().map_err(|source| AnsweredError { path, source })
    }

    /// Notes that it was.
    ///
    /// # Errors
    /// [`AnsweredError`].
    pub fn add(&self, request: Id) -> Result<(), AnsweredError> {
        let path = self.path.join(request.to_string());
        let sync = |path: &Path| std::fs::File::create(path).and_then(|file| file.sync_all());
        sync(&path).map_err(|source| AnsweredError { path, source })
    }

    /// Forgets those that `keep` does not want: requests so old that nobody asks about them.
    ///
    /// # Errors
    /// [`AnsweredError`].
    pub fn retain(&self, keep: impl Fn(Id) -> bool) -> Result<(), AnsweredError> {
        let failed = |source| AnsweredError { path: self.path.clone(), source };
        for entry in std::fs::read_dir(&self.path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let id = entry.file_name().to_str().and_then(|name| name.parse::<Id>().ok());
            if id.is_some_and(|id| !keep(id)) {
                std::fs::remove_file(entry.path()).map_err(failed)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_remembered_until_its_request_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("answered");
        let (one, two) = (Id([1; 16]), Id([2; 16]));
        let answered = Answered::open(&path).unwrap();
        answered.add(one).unwrap();
        answered.add(two).unwrap();
        answered.add(two).unwrap();
        let again = Answered::open(&path).unwrap();
        again.retain(|id| id == one).unwrap();
        assert!(again.contains(one).unwrap());
        assert!(!again.contains(two).unwrap());
    }
}
