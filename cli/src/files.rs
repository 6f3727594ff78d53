//! The files that commands read and write: public keys, certificates, passwords, results.
//!
//! A file that is written appears whole or not at all, and none is written over unless its caller says so.

use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::error::CliError;

/// The longest input taken from a file or stdin.
const MAX_INPUT: u64 = 1024 * 1024;

/// A file's text, or stdin's for `-`.
///
/// # Errors
/// [`CliError::File`], [`CliError::Stream`], [`CliError::Content`] above 1 MiB or where it is not UTF-8.
pub fn read_text(path: &Path) -> Result<String, CliError> {
    let mut bytes = Vec::new();
    let limit = MAX_INPUT.saturating_add(1);
    if path == Path::new("-") {
        std::io::stdin()
            .lock()
            .take(limit)
            .read_to_end(&mut bytes)
            .map_err(|source| CliError::Stream { stream: "input", source })?;
    } else {
        let file_error = |source| CliError::File { path: path.to_owned(), source };
        std::fs::File::open(path).map_err(file_error)?.take(limit).read_to_end(&mut bytes).map_err(file_error)?;
    }
    let content = |problem: &str| CliError::Content { path: path.to_owned(), problem: problem.to_owned() };
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_INPUT) {
        return Err(content("expected at most 1 MiB"));
    }
    String::from_utf8(bytes).map_err(|_| content("expected text"))
}

/// The key blob (SSH wire form) in an OpenSSH public key file. A certificate is refused: what it certifies has a file of its own.
///
/// # Errors
/// [`CliError::Content`].
pub fn public_key(path: &Path) -> Result<Vec<u8>, CliError> {
    let text = read_text(path)?;
    let content = |problem: String| CliError::Content { path: path.to_owned(), problem };
    let key = ssh_key::PublicKey::from_openssh(text.trim())
        .map_err(|error| content(format!("expected an OpenSSH public key: {error}")))?;
    let blob = key.to_bytes().map_err(|error| content(error.to_string()))?;
    countersign_certificate::PublicKey::parse(&blob).map_err(|error| content(error.to_string()))?;
    Ok(blob)
}

/// The key blob as one line of text, as in a `.pub` file.
pub fn key_line(blob: &[u8]) -> String {
    ssh_key::PublicKey::from_bytes(blob)
        .and_then(|key| key.to_openssh())
        .unwrap_or_else(|_| alloy_primitives::hex::encode(blob))
}

/// `SHA256:…` of a key blob, as OpenSSH prints it.
pub fn sha256_fingerprint(blob: &[u8]) -> String {
    use base64ct::Encoding;
    let digest = countersign_certificate::fingerprint_sha256(blob);
    format!("SHA256:{}", base64ct::Base64Unpadded::encode_string(&digest))
}

/// The first line of a password file.
///
/// # Errors
/// [`CliError::File`]; [`CliError::Readable`] when others can read it.
pub fn password(path: &Path) -> Result<Zeroizing<String>, CliError> {
    use std::os::unix::fs::MetadataExt;
    let file_error = |source| CliError::File { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(file_error)?;
    let metadata = file.metadata().map_err(file_error)?;
    if metadata.is_file() && metadata.mode() & 0o077 != 0 {
        return Err(CliError::Readable { path: path.to_owned(), mode: metadata.mode() & 0o7777 });
    }
    let mut text = Zeroizing::new(String::new());
    file.take(4096).read_to_string(&mut text).map_err(file_error)?;
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
}

/// Whether a file may be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// An error.
    Keep,
    /// Replaced in one step.
    Replace,
}

/// Writes a file whole or not at all, with `mode`.
///
/// # Errors
/// [`CliError::File`], also when it exists and must be kept.
pub fn write(path: &Path, bytes: &[u8], mode: u32, existing: Existing) -> Result<(), CliError> {
    let file_error = |source| CliError::File { path: path.to_owned(), source };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut temporary = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))
        .make_in(&directory, |path| std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path))
        .map_err(file_error)?;
    temporary.write_all(bytes).map_err(file_error)?;
    temporary.as_file().sync_all().map_err(file_error)?;
    match existing {
        Existing::Keep => temporary.persist_noclobber(path).map_err(|error| file_error(error.error))?,
        Existing::Replace => temporary.persist(path).map_err(|error| file_error(error.error))?,
    };
    std::fs::File::open(&directory).and_then(|directory| directory.sync_all()).map_err(file_error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_written_with_its_mode_and_not_over_another() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        write(&path, b"one", 0o600, Existing::Keep).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert!(matches!(write(&path, b"two", 0o600, Existing::Keep), Err(CliError::File { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        write(&path, b"two", 0o644, Existing::Replace).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_password_file_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        write(&path, b"secret\nnot this\n", 0o600, Existing::Keep).unwrap();
        assert_eq!(password(&path).unwrap().as_str(), "secret");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(password(&path), Err(CliError::Readable { mode: 0o644, .. })));
    }

    #[test]
    fn an_input_above_its_limit_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("big");
        std::fs::write(&path, vec![b'a'; 1024 * 1024 + 1]).unwrap();
        assert!(matches!(read_text(&path), Err(CliError::Content { .. })));
    }
}
