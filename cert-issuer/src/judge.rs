//! Asks the host's own decision function about a certificate, with the snapshot that this host would have.
//!
//! The snapshot is compiled, published into a private directory and read back, exactly as on the host; the decision is the one in
//! `countersign-sshd`. What only the host knows (whether uid 0 is allowed there, a lower staleness limit, the age of its snapshot) is
//! taken as the most permissive, so a host may still refuse what passes here, and never the other way round.

use std::io;

use countersign_certificate::Id;
use countersign_compile::{Compiled, HostView, compile};
use countersign_registry::Effective;
use countersign_snapshot::{
    AccountsTables, Batch, Clock, Freshness, OpenError, PublishError, PublishInfo, Salt, Snapshot, Trust, publish,
};
use countersign_sshd::{Mode, Query, Verdict, decide};
use thiserror::Error;

/// The rehearsal could not be held; says nothing about the certificate.
#[derive(Debug, Error)]
pub enum JudgeError {
    /// No private directory, or no clock.
    #[error("rehearsing the host's decision: {0}")]
    System(#[from] io::Error),
    /// The snapshot could not be written.
    #[error("rehearsing the host's decision: {0}")]
    Publish(#[from] PublishError),
    /// The snapshot could not be read back.
    #[error("rehearsing the host's decision: {0}")]
    Open(#[from] OpenError),
    /// No random bytes.
    #[error("rehearsing the host's decision: no random bytes: {0}")]
    Random(getrandom::Error),
}

/// A host's snapshot, compiled once, for any number of questions.
pub struct Rehearsal {
    _directory: tempfile::TempDir,
    snapshot: Snapshot,
    clock: Clock,
}

impl Rehearsal {
    /// Compiles `host`'s snapshot. `hypothetical` is a batch that is taken to stand on the ledger like this,
    /// whether it does or not.
    ///
    /// # Errors
    /// See [`JudgeError`].
    pub fn new(effective: &Effective, host: Id, hypothetical: Option<(Id, Batch)>) -> Result<Self, JudgeError> {
        let Compiled { facts, mut access, max_staleness_secs, valid_until_secs, .. } =
            compile(effective, &HostView { host, allow_root: true, max_staleness_secs: None });
        if let Some((id, batch)) = hypothetical {
            access.batches.retain(|(other, _)| *other != id);
            access.batches.push((id, batch));
        }
        // As a host whose clock is right would see it, also where this one's is behind the ledger.
        let mut clock = Clock::now()?;
        clock.unix_secs = clock.unix_secs.max(facts.latest_block.time_secs);
        let mut salt = Salt([0; 16]);
        getrandom::fill(&mut salt.0).map_err(JudgeError::Random)?;
        let directory = tempfile::Builder::new().prefix("countersign-rehearsal-").tempdir()?;
        let info = PublishInfo {
            freshness: Freshness {
                valid_until_secs,
                boot_id: clock.boot_id,
                boottime_secs: clock.boottime_secs,
                age_consumed_secs: clock.unix_secs.saturating_sub(facts.latest_block.time_secs),
                max_staleness_secs,
                highest_wall_secs: clock.unix_secs,
            },
            facts,
            salt,
            access_group: None,
            now_unix_secs: clock.unix_secs,
        };
        publish(directory.path(), &access, &AccountsTables::default(), &info)?;
        let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(directory.path())?);
        let snapshot = Snapshot::open(directory.path(), Trust::owner(owner))?;
        Ok(Self { _directory: directory, snapshot, clock })
    }

    /// The host's verdict on a certificate's blob for `login`, now.
    #[must_use]
    pub fn verdict(&self, login: &str, certificate: &[u8]) -> Verdict {
        match Query::offline(&self.snapshot, Mode::Principals, login, certificate) {
            Ok(query) => decide(&self.snapshot, &query, &self.clock),
            Err(refusal) => Verdict::refused(refusal),
        }
    }
}
