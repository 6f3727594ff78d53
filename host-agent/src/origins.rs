//! The file that says which entry of the ledger each fact comes from, for people who ask why. No login waits for it or depends on it.
//!
//! So it holds nothing back: it is written after the publication, in a hundredth of the agent's time and a quarter of the room that is
//! free, and is removed where a snapshot or the state needs its room. What is newer than it, or more than it may hold, is unknown.

use std::io;
use std::time::{Duration, Instant};

use countersign_compile::origins;
use countersign_registry::Effective;
use countersign_snapshot::{Facts, OriginsSize, remove_origins, write_origins};
use nix::sys::statvfs::statvfs;

use crate::agent::Agent;
use crate::log::{Level, Line};
use crate::reason::Reason;

/// The most that the file may have, in bytes: ten million revoked serials and two million other origins. What would make it larger is
/// left out, serials first.
const MAX_BYTES: u64 = 256 << 20;
/// What takes no longer is written each time.
const MOMENT: Duration = Duration::from_millis(100);
/// After so many times what it took, it is written again.
const REST: u32 = 100;
/// When it is tried again where it failed.
const RETRY: Duration = Duration::from_secs(600);
/// So many times its size must be free.
const SPARE: u64 = 4;

/// What is known of the file.
#[derive(Default)]
pub(crate) struct Origins {
    /// Something was published that it does not have.
    is_old: bool,
    /// When it may be written.
    due: Option<Instant>,
}

impl Agent {
    /// Writes the file if it is old and its time has come. `changed`: something was published that it cannot have.
    pub(crate) fn write_origins(&mut self, effective: &Effective, facts: &Facts, changed: bool) {
        self.origins.is_old |= changed;
        let begun = Instant::now();
        if !self.origins.is_old || self.origins.due.is_some_and(|due| begun < due) {
            return;
        }
        let written = self.try_write_origins(effective, facts);
        self.origins.is_old = written.is_err();
        let took = begun.elapsed();
        let rest = took.saturating_mul(REST);
        let wait = match written {
            Ok(()) if took < MOMENT => Duration::ZERO,
            Ok(()) => rest,
            Err(error) => {
                let line = Line::reason(Reason::PublishFailed).field("message", format!("origins: {error}"));
                self.log.line(Level::Warning, &line);
                rest.max(RETRY)
            }
        };
        self.origins.due = Instant::now().checked_add(wait);
    }

    fn try_write_origins(&self, effective: &Effective, facts: &Facts) -> io::Result<()> {
        let directory = self.config.snapshot_dir();
        let origins = || {
            let mut size = OriginsSize::default();
            origins(effective).take_while(move |(what, origin)| size.add(what, origin) <= MAX_BYTES)
        };
        let mut size = OriginsSize::default();
        origins().for_each(|(what, origin)| {
            size.add(&what, &origin);
        });
        let needed = size.bytes().saturating_mul(SPARE);
        let room = statvfs(&directory)?;
        if room.blocks_available().saturating_mul(room.fragment_size()) < needed {
            return Err(io::Error::new(io::ErrorKind::StorageFull, format!("expected {needed} bytes that are free")));
        }
        write_origins(&directory, &facts.realm, facts.host, origins())
    }

    /// Whether a disk that was full has more room now, since the file is gone.
    pub(crate) fn origins_give_way(&mut self, error: &io::Error) -> bool {
        let is_full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let is_gone = is_full && remove_origins(&self.config.snapshot_dir()).unwrap_or(false);
        if is_gone {
            self.origins = Origins { is_old: true, due: Instant::now().checked_add(RETRY) };
        }
        is_gone
    }
}
