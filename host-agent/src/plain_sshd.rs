//! The files that a plain sshd reads, where the configuration asks for them: `RevokedKeys` and `TrustedUserCAKeys`.
//!
//! Revocations are written first. Where they cannot be, CAs are taken away but none is added, and the list ends with the last block that both
//! files were true of ([`crate::ca_list`]); where they cannot even be said, it is emptied. Files are replaced whole, and again where
//! somebody else has changed or taken them away.

use std::path::Path;
use std::sync::Arc;

use countersign_compile::{Compiled, PlainSshd, plain_sshd};
use countersign_krl::{Krl, ca_list};
use countersign_registry::Effective;
use countersign_snapshot::{Freshness, Stamp};

use crate::agent::Agent;
use crate::ca_list::{CaList, STALE, replace};
use crate::config::Config;
use crate::cycle::Failure;
use crate::files::FileError;
use crate::following::in_chain;
use crate::log::{Level, Line};
use crate::reason::Reason;

/// What a plain sshd is told.
#[derive(Debug)]
pub(crate) struct PlainFiles {
    /// The list of CAs, where one is wanted.
    pub(crate) cas: Option<Arc<CaList>>,
    written: Option<Written>,
}

/// What was written last, and which files that made.
#[derive(Debug)]
struct Written {
    content: PlainSshd,
    stamps: [Option<Stamp>; 2],
}

impl PlainFiles {
    /// `published`: block time and freshness of the snapshot that is there.
    pub(crate) fn new(config: &Config, published: Option<(u64, Freshness)>) -> Self {
        let path = config.plain_sshd.as_ref().and_then(|files| files.ca_keys.as_ref());
        Self { cas: path.map(|path| Arc::new(CaList::new(path.as_path(), published))), written: None }
    }

    fn narrow(&self, wanted: &str) -> Result<bool, FileError> {
        self.cas.as_ref().map_or(Ok(false), |list| list.narrow(wanted))
    }
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
        freshness: Freshness,
        is_stale: bool,
    ) -> Result<(), Failure> {
        if self.config.plain_sshd.is_none() {
            return Ok(());
        }
        let mut content = plain_sshd(effective, compiled);
        if is_stale {
            content.cas.clear();
        }
        let time = effective.latest_block.time;
        let stamps = self.stamps();
        if self.plain_sshd.written.as_ref().is_some_and(|last| last.content == content && last.stamps == stamps) {
            if let Some(list) = &self.plain_sshd.cas {
                list.renew(time, freshness);
            }
            return Ok(());
        }
        self.plain_sshd.written = None;
        let block = in_chain(effective.latest_block);
        let krl = Krl {
            version: block.number,
            generated_secs: block.time,
            comment: format!("countersign: realm {}, host {}", effective.realm, self.identity.host),
            certificates: content.certificates.clone(),
            keys_sha256: content.keys_sha256.clone(),
        };
        let cas = ca_list(content.cas.iter().map(|(name, blob)| (name.as_str(), blob.as_slice())));
        let revoked = krl.encode();
        let (revoked, cas) = match (revoked, cas) {
            (Ok(revoked), Ok(cas)) => (revoked, cas),
            (Err(error), _) => return Err(self.nobody(Failure::of(Reason::PlainSshdFailed, &error))),
            (_, Err(error)) => return Err(self.nobody(Failure::of(Reason::PlainSshdFailed, &error))),
        };
        // What goes, goes first, whatever becomes of the rest.
        let ended = self.plain_sshd.narrow(&cas).map_err(|error| Failure::of(Reason::PlainSshdFailed, &error))?;
        let path = self.config.plain_sshd.as_ref().and_then(|files| files.revoked_keys.as_ref());
        let written = path.map_or(Ok(()), |path| replace(path.as_path(), &revoked));
        let written = written.and_then(|()| match &self.plain_sshd.cas {
            Some(list) => list.write(&cas, time, freshness),
            None => Ok(()),
        });
        written.map_err(|error| Failure::of(Reason::PlainSshdFailed, &error))?;
        let line = Line::event("plain-sshd")
            .field("block", block.number)
            .field("cas", content.cas.len())
            .field("serials", content.certificates.iter().map(|of_ca| of_ca.serials.len()).sum::<usize>())
            .field("keys", content.keys_sha256.len())
            .field("revoked-bytes", revoked.len());
        self.log.line(Level::Info, &line);
        self.plain_sshd.written = Some(Written { content, stamps: self.stamps() });
        if is_stale && ended {
            self.note(&Failure::new(Reason::PlainSshdStale, STALE));
        }
        Ok(())
    }

    /// Takes the CAs away once what is known is too old to be used, whatever the reason; the next success puts them back.
    pub(crate) fn end_stale_plain_sshd(&mut self) {
        let Some(list) = self.plain_sshd.cas.clone() else { return };
        match list.end_if_stale(self.now().ok().as_ref()) {
            Ok(false) => {}
            Ok(true) => self.note(&Failure::new(Reason::PlainSshdStale, STALE)),
            Err(error) => self.note(&Failure::of(Reason::PlainSshdFailed, &error)),
        }
    }

    /// Empties the list of CAs; gives back why, or what came in between.
    fn nobody(&mut self, why: Failure) -> Failure {
        match self.plain_sshd.narrow("") {
            Ok(_) => why,
            Err(error) => Failure::of(Reason::PlainSshdFailed, &error),
        }
    }

    fn stamps(&self) -> [Option<Stamp>; 2] {
        let files = self.config.plain_sshd.as_ref();
        let paths =
            [files.and_then(|files| files.revoked_keys.as_ref()), files.and_then(|files| files.ca_keys.as_ref())];
        paths.map(|path| path.and_then(|path| Stamp::of(Path::new(path.as_path()))))
    }
}
