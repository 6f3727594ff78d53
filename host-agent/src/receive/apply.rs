//! Writes a checked payload: each file whole or not at all, with the owner and mode that the host's configuration says, in a
//! directory that nobody else can change, through no symbolic link. What was there stays when a check or a write fails. A private key
//! that the sender knows never takes the place of one made here, unless the host or the user says so beforehand.

use std::ffi::OsString;
use std::path::PathBuf;

use countersign_certificate::{Certificate, Id};
use ssh_key::rand_core::OsRng;
use ssh_key::{Algorithm, LineEnding, PrivateKey};

use super::check::public_line;
use super::{Checked, ReceiveError, certificate_blob, public_key_blob};
use crate::files::{Directory, FileError, Owners, Ownership, Secrecy};

/// The most that is read of a public key file, in bytes.
const PUBLIC_KEY_LIMIT: u64 = 64 << 10;

/// Whether a key pair or another secret that was made elsewhere may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyPairs {
    /// No: only certificates for the key that was made here.
    Refused,
    /// Where there is none yet, and never over one.
    WhereNoneIs,
    /// Yes, over whatever is there.
    Replace,
}

/// Where a payload goes; from the host's configuration or the user's command line, never from the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputRule {
    /// The private key's path, as `ssh -i` takes it. The public key and the certificate stand beside it.
    pub path: PathBuf,
    /// Owner, group and mode of all files.
    pub ownership: Ownership,
    /// Whether a key pair may go there.
    pub key_pairs: KeyPairs,
}

impl OutputRule {
    /// The plain blob of the key that the device made for this payload: what `PATH.pub` holds. None when there is no such file.
    ///
    /// # Errors
    /// A file that is unsafe or does not parse.
    pub fn own_key(&self) -> Result<Option<Vec<u8>>, ReceiveError> {
        let (directory, name) = self.directory()?;
        match directory.read(&beside(&name, ".pub"), Secrecy::Public, PUBLIC_KEY_LIMIT) {
            Ok(bytes) => {
                let text = std::str::from_utf8(&bytes)
                    .map_err(|error| ReceiveError::Malformed { part: "public key", problem: error.to_string() })?;
                public_key_blob(text).map(Some)
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the device's own key for this payload where neither of its files is there, and its public half where only the private one
    /// is: writing may have been cut off between the two. Returns whether anything was written; what is there is never replaced.
    ///
    /// # Errors
    /// [`ReceiveError::Write`]; [`ReceiveError::Malformed`] for a private key that does not read; [`ReceiveError::KeyPair`] for a public key
    /// without its private one: nobody could use a certificate for it.
    pub fn make_own_key(&self, comment: &str) -> Result<bool, ReceiveError> {
        let malformed =
            |error: ssh_key::Error| ReceiveError::Malformed { part: "private key", problem: error.to_string() };
        let (directory, name) = self.directory()?;
        if directory.contains(&beside(&name, ".pub"))? {
            if directory.contains(&name)? {
                return Ok(false);
            }
            let problem = "its public half is there and it is not; put it back, or take the public half away to have a new one made";
            return Err(ReceiveError::KeyPair { path: self.path.clone(), problem });
        }
        let key = if directory.contains(&name)? {
            let bytes = directory.read(&name, Secrecy::Public, PUBLIC_KEY_LIMIT)?;
            PrivateKey::from_openssh(bytes.as_slice()).map_err(malformed)?
        } else {
            let mut key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).map_err(malformed)?;
            key.set_comment(comment);
            let text = key.to_openssh(LineEnding::LF).map_err(malformed)?;
            directory.replace(&name, text.as_bytes(), self.ownership)?;
            key
        };
        let line = public_line(key.public_key())?;
        directory.replace(&beside(&name, ".pub"), line.as_bytes(), self.ownership)?;
        Ok(true)
    }

    /// The certificate for `own_key` that is in place, if one is that reads.
    ///
    /// # Errors
    /// [`ReceiveError::Write`] where its file cannot be read.
    pub fn held(&self, own_key: &[u8]) -> Result<Option<Held>, ReceiveError> {
        let (directory, name) = self.directory()?;
        let bytes = match directory.read(&beside(&name, "-cert.pub"), Secrecy::Public, PUBLIC_KEY_LIMIT) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let blob = std::str::from_utf8(&bytes).ok().and_then(|line| certificate_blob(line).ok());
        let Some(blob) = blob else { return Ok(None) };
        let Ok(certificate) = Certificate::parse(&blob) else { return Ok(None) };
        if certificate.public_key != own_key {
            return Ok(None);
        }
        Ok(Some(Held {
            valid_after: certificate.valid_after,
            valid_before: certificate.valid_before,
            serial: certificate.serial.0,
            request: certificate.scope().ok().flatten().map(|scope| scope.request),
            ca_key: certificate.signature_key.to_vec(),
        }))
    }

    /// Puts back what was kept for this rule's files, of whatever kind, by an [`Applied`] that was neither settled nor taken back.
    /// Where nothing was kept nothing changes. Returns what is back.
    ///
    /// # Errors
    /// [`ReceiveError::Write`]; the other files are put back all the same.
    pub fn put_back(&self) -> Result<Vec<PathBuf>, ReceiveError> {
        let (directory, name) = self.directory()?;
        let (mut back, mut failed) = (Vec::new(), None);
        for suffix in ["", ".pub", "-cert.pub", ".key", ".crt"] {
            let file = beside(&name, suffix);
            match directory.put_back(&file) {
                Ok(true) => back.push(directory.path().join(file)),
                Ok(false) => {}
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(back), |error| Err(error.into()))
    }

    /// Refuses a key pair that this rule does not want.
    ///
    /// # Errors
    /// [`ReceiveError::KeyPair`].
    fn check_key_pair(
        &self,
        checked: &Checked,
        directory: &Directory,
        name: &std::ffi::OsStr,
    ) -> Result<(), ReceiveError> {
        let refuse = |problem| Err(ReceiveError::KeyPair { path: self.path.clone(), problem });
        match self.key_pairs {
            KeyPairs::Refused => refuse("expected a certificate for the key that was made here"),
            KeyPairs::WhereNoneIs => {
                // A certificate may be left over: it is not what would be lost.
                for part in checked.parts.iter().filter(|part| part.suffix != "-cert.pub") {
                    if directory.contains(&beside(name, part.suffix))? {
                        return refuse("there is one already, expected none");
                    }
                }
                Ok(())
            }
            KeyPairs::Replace => Ok(()),
        }
    }

    fn directory(&self) -> Result<(Directory, OsString), FileError> {
        let (directory, name) = Directory::of(&self.path, Owners::and(self.ownership.uid))?;
        Ok((directory, name.to_owned()))
    }
}

/// What a certificate in place says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Unix seconds.
    pub valid_after: u64,
    /// Unix seconds; the first second in which it does not count any more.
    pub valid_before: u64,
    /// Its serial.
    pub serial: u64,
    /// The request that it answers, where it says so.
    pub request: Option<Id>,
    /// The CA's key, SSH wire form.
    pub ca_key: Vec<u8>,
}

/// Writes public data under the path itself.
///
/// # Errors
/// [`ReceiveError::Write`].
pub fn apply_public(bytes: &[u8], rule: &OutputRule) -> Result<Applied, ReceiveError> {
    let (directory, name) = rule.directory()?;
    let mut applied = Applied { directory, files: Vec::new() };
    match applied.write(name, bytes, rule.ownership) {
        Ok(()) => Ok(applied),
        Err(error) => applied.give_up(error),
    }
}

/// Writes what was checked. The private key goes first and the certificate last: a crash in between leaves files that the next
/// attempt replaces, never a certificate without its key. What was there is kept until the caller settles it.
///
/// # Errors
/// [`ReceiveError::KeyPair`]; [`ReceiveError::Write`]; then the files are as they were.
pub fn apply(checked: &Checked, rule: &OutputRule) -> Result<Applied, ReceiveError> {
    let (directory, name) = rule.directory()?;
    if checked.sender_knows {
        rule.check_key_pair(checked, &directory, &name)?;
    }
    let mut applied = Applied { directory, files: Vec::new() };
    for part in &checked.parts {
        if let Err(error) = applied.write(beside(&name, part.suffix), &part.bytes, rule.ownership) {
            return applied.give_up(error);
        }
    }
    Ok(applied)
}

/// Files that were written, beside those that they replaced.
#[must_use = "what was replaced is kept until this is settled"]
pub struct Applied {
    directory: Directory,
    files: Vec<OsString>,
}

impl Applied {
    fn write(&mut self, file: OsString, bytes: &[u8], ownership: Ownership) -> Result<(), FileError> {
        self.directory.keep(&file)?;
        self.files.push(file.clone());
        self.directory.replace(&file, bytes, ownership)
    }

    /// The first error is the one to tell.
    fn give_up(self, error: FileError) -> Result<Self, ReceiveError> {
        let _ = self.take_back();
        Err(error.into())
    }

    /// The files that were written.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.files.iter().map(|file| self.directory.path().join(file)).collect()
    }

    /// The new files are good: the old ones go. Returns the paths written.
    ///
    /// # Errors
    /// [`ReceiveError::Write`].
    pub fn settle(self) -> Result<Vec<PathBuf>, ReceiveError> {
        for file in &self.files {
            self.directory.forget(file)?;
        }
        Ok(self.paths())
    }

    /// The new files are no good: the old ones come back, the last written first. Where there was none, there is none again.
    ///
    /// # Errors
    /// [`ReceiveError::Write`].
    pub fn take_back(self) -> Result<(), ReceiveError> {
        for file in self.files.iter().rev() {
            self.directory.restore(file)?;
        }
        Ok(())
    }
}

fn beside(name: &std::ffi::OsStr, suffix: &str) -> OsString {
    let mut file = name.to_owned();
    file.push(suffix);
    file
}
