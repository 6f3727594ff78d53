//! Ends one session: asks, waits, then does not ask any more.
//!
//! Everything is got hold of before anything is signalled. sshd is asked first (SIGTERM), which tells PAM and the login records; what is
//! still there after the grace is killed, and what it started meanwhile too.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Duration;

use countersign_sshd::{ProcessName, Record};
use rustix::process::Signal;

use crate::error::SessionsError;
use crate::members::Look;
use crate::process::{Handle, Seen, is_sshd, scan};
use crate::terminal::say;

/// How long a session's last word has to reach the other side.
const LAST_WORD: Duration = Duration::from_millis(100);

/// How often a look for what was started meanwhile is repeated before others have their turn.
const ROUNDS: u32 = 10;

/// A session that is being ended.
#[derive(Debug)]
pub(crate) struct Ending {
    handles: BTreeMap<ProcessName, Handle>,
    since_secs: u64,
}

impl Ending {
    /// Asks all of the session to end, and says `words` on its terminals. `at_secs` is the boot clock's.
    ///
    /// # Errors
    /// The process of the record is alive and no sshd of root's, or a process cannot be got hold of: then nothing is signalled.
    pub(crate) fn begin(record: &Record, look: &Look<'_>, words: &str, at_secs: u64) -> Result<Self, SessionsError> {
        let monitor = Handle::open(record.note.process)?;
        if monitor.as_ref().is_some_and(|monitor| !monitor.is_monitor()) {
            return Err(SessionsError::Uncertain(record.note.process.to_string()));
        }
        let members = look.members(record, &BTreeSet::new());
        let mut ending = Self { handles: BTreeMap::new(), since_secs: at_secs };
        ending.hold(&members)?;
        if say(&members, record.note.uid.0, words) > 0 {
            // sshd passes on what stands on a terminal, and no more once it is asked to end.
            thread::sleep(LAST_WORD);
        }
        if let Some(monitor) = monitor {
            monitor.signal(Signal::TERM);
        }
        for handle in ending.handles.values() {
            // sshd passes the signal on to its own.
            if handle.name != record.note.process && !is_sshd(handle.name.pid) {
                handle.signal(Signal::TERM);
                handle.signal(Signal::HUP);
                handle.signal(Signal::CONT);
            }
        }
        Ok(ending)
    }

    fn hold(&mut self, members: &[Seen]) -> Result<bool, SessionsError> {
        let mut is_new = false;
        for seen in members {
            if !self.handles.contains_key(&seen.name)
                && let Some(handle) = Handle::open(seen.name)?
            {
                self.handles.insert(seen.name, handle);
                is_new = true;
            }
        }
        Ok(is_new)
    }

    /// Goes on; whether nothing is left.
    ///
    /// # Errors
    /// A process cannot be got hold of.
    pub(crate) fn go_on(
        &mut self,
        record: &Record,
        look: &Look<'_>,
        at_secs: u64,
        grace_secs: u64,
    ) -> Result<bool, SessionsError> {
        let mut members = look.members(record, &self.known());
        let is_over = at_secs >= self.since_secs.saturating_add(grace_secs);
        for _ in 0..ROUNDS {
            self.hold(&members)?;
            self.handles.retain(|name, _| name.is_alive());
            if self.handles.is_empty() {
                return Ok(true);
            }
            if !is_over {
                return Ok(false);
            }
            for handle in self.handles.values() {
                handle.signal(Signal::KILL);
            }
            let processes = scan();
            members = Look { processes: &processes, ..*look }.members(record, &self.known());
        }
        Ok(false)
    }

    fn known(&self) -> BTreeSet<ProcessName> {
        self.handles.keys().copied().collect()
    }
}
