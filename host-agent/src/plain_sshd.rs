//! The files that a plain sshd reads, where the configuration asks for them: `RevokedKeys` and `TrustedUserCAKeys`.
//!
//! Revocations are written first. Where they cannot be, no CA is added; where they cannot even be said, and where what is known has become
//! too old, the list of CAs is emptied: sshd looks at no clock of ours, so these files have to end what a snapshot ends by itself. They are
//! replaced whole, and again where somebody else has changed or taken them away.

use std::collections::BTreeSet;
use std::path::Path;

use countersign_compile::{Compiled, PlainSshd, plain_sshd};
use countersign_krl::{Krl, ca_list};
use countersign_registry::Effective;
use nix::unistd::{getegid, geteuid};

use crate::agent::Agent;
use crate::cycle::Failure;
use crate::files::{Directory, FileError, Owners, Ownership, Secrecy};
use crate::following::in_chain;
use crate::in_place::Stamp;
use crate::log::{Level, Line};
use crate::reason::Reason;

/// The most that is read of a list of CAs that is in place, in bytes.
const CA_LIST_LIMIT: u64 = 16 << 20;

/// What was written last, and which files that made.
#[derive(Debug)]
pub(crate) struct Written {
    content: PlainSshd,
    stamps: [Option<Stamp>; 2],
}

impl Agent {
    /// Writes what these files have to say now; no CA where the view `is_stale`.
    ///
    /// # Errors
    /// A file that cannot be written, or a list that cannot be made; what could be taken away from sshd was.
    pub(crate) fn write_plain_sshd(
        &mut self,
        effective: &Effective,
        compiled: &Compiled,
        is_stale: bool,
    ) -> Result<(), Failure> {
        if self.config.plain_sshd.is_none() {
            return Ok(());
        }
        let mut content = plain_sshd(effective, compiled);
        if is_stale {
            content.cas.clear();
        }
        let ends = is_stale && self.has_cas();
        if self.plain_sshd.as_ref().is_some_and(|written| written.content == content && written.stamps == self.stamps())
        {
            return Ok(());
        }
        self.plain_sshd = None;
        let block = in_chain(effective.latest_block);
        let krl = Krl {
            version: block.number,
            generated_secs: block.time,
            comment: format!("countersign: realm {}, host {}", effective.realm, self.identity.host),
            certificates: content.certificates.clone(),
            keys_sha256: content.keys_sha256.clone(),
        };
        let revoked = krl.encode();
        let cas = ca_list(content.cas.iter().map(|(name, blob)| (name.as_str(), blob.as_slice())));
        let (revoked, cas) = match (revoked, cas) {
            (Ok(revoked), Ok(cas)) => (revoked, cas),
            (Err(error), _) => return Err(self.nobody(&Failure::of(Reason::PlainSshdFailed, &error))),
            (_, Err(error)) => return Err(self.nobody(&Failure::of(Reason::PlainSshdFailed, &error))),
        };
        let bytes = revoked.len();
        let written = self.write_both(&revoked, &cas);
        written.map_err(|error| Failure::of(Reason::PlainSshdFailed, &error))?;
        let line = Line::event("plain-sshd")
            .field("block", block.number)
            .field("cas", content.cas.len())
            .field("serials", content.certificates.iter().map(|of_ca| of_ca.serials.len()).sum::<usize>())
            .field("keys", content.keys_sha256.len())
            .field("revoked-bytes", bytes);
        self.log.line(Level::Info, &line);
        self.plain_sshd = Some(Written { content, stamps: self.stamps() });
        if ends {
            self.note(&stale());
        }
        Ok(())
    }

    /// Takes the CAs away once what is known is too old to be used, whatever the reason; the next success puts them back.
    pub(crate) fn end_stale_plain_sshd(&mut self) {
        let fresh = self.now().is_ok_and(|clock| {
            self.state.published.is_some_and(|published| clock.unix_secs <= published.valid_until_secs)
        });
        if fresh || self.config.plain_sshd.is_none() {
            return;
        }
        let ends = self.has_cas();
        let failure = self.nobody(&stale());
        if ends || failure.reason != Reason::PlainSshdStale {
            self.note(&failure);
        }
    }

    /// Empties the list of CAs; gives back why, or what came in between.
    fn nobody(&mut self, why: &Failure) -> Failure {
        self.plain_sshd = None;
        match self.ca_lines() {
            Ok(lines) if lines.is_empty() => why.clone(),
            _ => match self.write_cas("") {
                Ok(()) => why.clone(),
                Err(error) => Failure::of(Reason::PlainSshdFailed, &error),
            },
        }
    }

    fn write_both(&self, revoked: &[u8], cas: &str) -> Result<(), FileError> {
        let Some(files) = &self.config.plain_sshd else { return Ok(()) };
        let of_revoked = files.revoked_keys.as_ref().map_or(Ok(()), |path| replace(path.as_path(), revoked));
        // Where the revocations are not written, a list of fewer CAs still may be.
        let fewer = || {
            let wanted: BTreeSet<&str> = cas.lines().collect();
            self.ca_lines().is_ok_and(|lines| wanted.iter().all(|line| lines.contains(*line)))
        };
        if of_revoked.is_ok() || fewer() {
            self.write_cas(cas)?;
        }
        of_revoked
    }

    fn write_cas(&self, text: &str) -> Result<(), FileError> {
        let path = self.config.plain_sshd.as_ref().and_then(|files| files.ca_keys.as_ref());
        path.map_or(Ok(()), |path| replace(path.as_path(), text.as_bytes()))
    }

    /// The lines of the list that is in place; an error where there is none, or one that is not ours to trust.
    fn ca_lines(&self) -> Result<BTreeSet<String>, FileError> {
        let Some(path) = self.config.plain_sshd.as_ref().and_then(|files| files.ca_keys.as_ref()) else {
            return Ok(BTreeSet::new());
        };
        let (directory, name) = Directory::of(path.as_path(), Owners::process())?;
        let bytes = directory.read(name, Secrecy::Public, CA_LIST_LIMIT)?;
        Ok(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect())
    }

    fn has_cas(&self) -> bool {
        self.ca_lines().is_ok_and(|lines| !lines.is_empty())
    }

    fn stamps(&self) -> [Option<Stamp>; 2] {
        let files = self.config.plain_sshd.as_ref();
        [files.and_then(|files| files.revoked_keys.as_ref()), files.and_then(|files| files.ca_keys.as_ref())]
            .map(|path| path.and_then(|path| Stamp::of(path.as_path())))
    }
}

fn stale() -> Failure {
    let message = "what is known is too old: no CA is trusted by its list until there is news";
    Failure::new(Reason::PlainSshdStale, message)
}

/// Readable by all: it says nothing that the ledger does not.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let (directory, name) = Directory::of(path, Owners::process())?;
    let ownership = Ownership { uid: geteuid().as_raw(), gid: getegid().as_raw(), mode: 0o644 };
    directory.replace(name, bytes, ownership)
}
