//! What belongs to a session: what its sshd started, and what that left behind.
//!
//! Four ways of telling, from the surest: descendants of the session's sshd; the processes of its logind scope; those of the login's
//! user in the audit session that PAM opened for it; those of that user that were started with its `SSH_CONNECTION`. The last two are for
//! what has made itself independent, as tmux does, and never for root, whose daemons carry both. A scope in which something older than the
//! session lives is not the session's. None reaches a process older than the session, nor one that a later session of the same connection may claim.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use countersign_sshd::{ProcessName, Record};

use crate::process::{Seen, audit_session, has_connection, in_own_scope};

/// All that is seen at one look.
pub(crate) struct Look<'a> {
    pub(crate) processes: &'a BTreeMap<u32, Seen>,
    pub(crate) records: &'a [Record],
    pub(crate) control_groups: &'a Path,
}

impl Look<'_> {
    /// The living processes of `record`'s session, its sshd included. `known`: those that were found before.
    pub(crate) fn members(&self, record: &Record, known: &BTreeSet<ProcessName>) -> Vec<Seen> {
        let monitor = record.note.process;
        let mut found: BTreeSet<u32> = BTreeSet::new();
        for seen in self.processes.values() {
            if seen.name == monitor || known.contains(&seen.name) {
                found.insert(seen.name.pid);
            }
        }
        found.extend(self.left_behind(record));
        // Parents are older or younger than their children in number: until nothing is new.
        loop {
            let children = self.processes.values().filter(|seen| found.contains(&seen.parent));
            let new: Vec<u32> = children.map(|seen| seen.name.pid).filter(|pid| !found.contains(pid)).collect();
            if new.is_empty() {
                break;
            }
            found.extend(new);
        }
        let own = std::process::id();
        found
            .iter()
            .filter(|pid| **pid > 1 && **pid != own)
            .filter_map(|pid| self.processes.get(pid).copied())
            .filter(|seen| seen.name.start_ticks >= monitor.start_ticks)
            .collect()
    }

    fn left_behind(&self, record: &Record) -> BTreeSet<u32> {
        let monitor = record.note.process;
        let mut found = BTreeSet::new();
        let shares = |other: &&Record, scope: &str| {
            other.note.process != monitor && other.scope.as_deref() == Some(scope) && other.note.process.is_alive()
        };
        if let Some(scope) = &record.scope
            && !self.records.iter().any(|other| shares(&other, scope))
        {
            found.extend(in_own_scope(self.control_groups, scope, monitor).unwrap_or_default());
        }
        let uid = record.note.uid.0;
        if uid == 0 {
            return found;
        }
        let audit = record.audit.filter(|audit| *audit != u32::MAX && *audit != record.audit_before);
        for seen in self.processes.values().filter(|seen| seen.uid == uid) {
            let pid = seen.name.pid;
            let by_audit = || audit.is_some_and(|audit| audit_session(pid) == Some(audit));
            let by_connection = || {
                record.connection.as_deref().is_some_and(|connection| {
                    has_connection(pid, connection) && self.latest(connection, seen) == Some(monitor)
                })
            };
            if by_audit() || by_connection() {
                found.insert(pid);
            }
        }
        found
    }

    /// The session of this connection that was begun last before the process: a client's port comes back.
    fn latest(&self, connection: &str, seen: &Seen) -> Option<ProcessName> {
        let same = self.records.iter().filter(|record| record.connection.as_deref() == Some(connection));
        let before = same.filter(|record| record.note.process.start_ticks <= seen.name.start_ticks);
        before.map(|record| record.note.process).max_by_key(|process| process.start_ticks)
    }
}
