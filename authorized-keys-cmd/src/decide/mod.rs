//! The decision, in one order for both modes:
//!
//! 1. the snapshot is there, trusted, whole and fresh; 2. this host counts; 3. the login's uid is the ledger's, and is not 0
//!    unless allowed, and a ledger user's login belongs to an active user; then for a plain key (`plain_key`):
//! 4. not denied, registered for logins, not ended; 5. its user; 6. the grant that leads it here; and for a certificate (`certificate`):
//! 4. it reads, is a user certificate, is what sshd says it is; 5. the certified key and the CA's are not denied, the CA counts and may
//!    certify this login; 6. valid now, and not for longer than realm and CA allow; 7. principals; 8. critical options; 9. scope: realm,
//!    host, user, grant; 10. serial; 11. batch (`batch`); 12. a retired CA; 13. approvals (`approvals`); 14. the grant's options.
//!
//! The first refusal ends it. A lookup that fails is a refusal, never "not there".

mod approvals;
mod batch;
mod certificate;
mod plain_key;
mod unclaimed;

use std::fmt;
use std::path::Path;

use countersign_certificate::{Digest32, Fingerprint20, Id, Serial, fingerprint_text};
use countersign_snapshot::{
    Clock, Denial, Grant, HostState, Hours, OpenError, ReadError, Snapshot, Stale, Subject, Trust, Uid, UserState,
};

use crate::options::{expiry_option, grant_options};
use crate::query::Query;
use crate::reason::Reason;
use crate::step::Step;

/// The answer to a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// sshd may go on with what `line` says.
    Accept {
        /// The one line to print, without its newline.
        line: String,
        /// What was found on the way.
        facts: VerdictFacts,
    },
    /// sshd gets nothing.
    Refuse {
        /// Why.
        reason: Reason,
        /// More about it, or empty.
        detail: String,
        /// What was found on the way.
        facts: VerdictFacts,
    },
}

impl Verdict {
    /// The reason code, [`Reason::Granted`] for an accepted one.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Accept { .. } => Reason::Granted,
            Self::Refuse { reason, .. } => *reason,
        }
    }

    /// What was found on the way.
    #[must_use]
    pub fn facts(&self) -> &VerdictFacts {
        match self {
            Self::Accept { facts, .. } | Self::Refuse { facts, .. } => facts,
        }
    }

    /// A refusal before anything was found.
    #[must_use]
    pub fn refused(refusal: Refusal) -> Self {
        Self::Refuse { reason: refusal.reason, detail: refusal.detail, facts: VerdictFacts::default() }
    }
}

/// What a decision found, as far as it got: for the log and for `explain`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerdictFacts {
    /// SHA-256 of the plain key, for a certificate of the one it certifies.
    pub key: Option<Digest32>,
    /// The certificate's serial.
    pub serial: Option<Serial>,
    /// Its CA.
    pub ca: Option<CaName>,
    /// The batch that its proof names.
    pub batch: Option<Id>,
    /// The block that the snapshot speaks for.
    pub block: Option<u64>,
    /// The user.
    pub user: Option<Id>,
    /// The grant.
    pub grant: Option<Id>,
    /// The request.
    pub request: Option<Id>,
}

/// The answer on a host that has an earlier AuthorizedKeysCommand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The realm's.
    Ours(Verdict),
    /// The realm has nothing to say about this login, and nothing against this key: the earlier command may.
    Earlier(VerdictFacts),
}

/// A CA: by its record where there is one, else by the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaName {
    /// Its record id.
    Id(Id),
    /// SHA-256 of its key blob.
    Key(Digest32),
}

impl fmt::Display for CaName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(out),
            Self::Key(digest) => out.write_str(&fingerprint_text(digest)),
        }
    }
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The stable code.
    pub reason: Reason,
    /// More about it for people, or empty.
    pub detail: String,
}

impl Refusal {
    pub(crate) fn new(reason: Reason, detail: impl fmt::Display) -> Self {
        Self { reason, detail: detail.to_string() }
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self { reason, detail: String::new() }
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        let reason = match error {
            ReadError::Corrupt { .. } => Reason::SnapshotCorrupt,
            ReadError::Io { .. } => Reason::SnapshotUnreadable,
        };
        Self::new(reason, error)
    }
}

impl From<OpenError> for Refusal {
    fn from(error: OpenError) -> Self {
        let reason = match error {
            OpenError::Absent { .. } => Reason::NoSnapshot,
            OpenError::Untrusted { .. } => Reason::SnapshotUntrusted,
            OpenError::Corrupt { .. } | OpenError::Vanished { .. } => Reason::SnapshotCorrupt,
            OpenError::Io { .. } => Reason::SnapshotUnreadable,
        };
        Self::new(reason, error)
    }
}

impl From<Stale> for Refusal {
    fn from(stale: Stale) -> Self {
        let reason = match stale {
            Stale::OtherBoot => Reason::BootChanged,
            Stale::BootClockBackwards { .. } | Stale::ClockBackwards { .. } | Stale::ClockBehindBlock { .. } => {
                Reason::Clock
            }
            Stale::Expired { .. } | Stale::TooOld { .. } => Reason::SnapshotStale,
        };
        Self::new(reason, stale)
    }
}

/// Answers `query` from `snapshot` as of `clock`.
#[must_use]
pub fn decide(snapshot: &Snapshot, query: &Query, clock: &Clock) -> Verdict {
    decide_observed(snapshot, query, clock, &mut |_| ())
}

/// As [`decide`], and tells `observe` each fact that the decision rests on, in order.
pub fn decide_observed(
    snapshot: &Snapshot,
    query: &Query,
    clock: &Clock,
    observe: &mut dyn FnMut(Step<'_>),
) -> Verdict {
    judge(snapshot, query, clock, Moment::Login, observe)
}

/// Whether what let `query` in holds on, as of `clock`: the same checks in the same order, without those that are about the moment of
/// the login ([`SessionEnd::Never`](crate::SessionEnd::Never)). `observe` is told each fact that this rests on.
pub fn decide_session(snapshot: &Snapshot, query: &Query, clock: &Clock, observe: &mut dyn FnMut(Step<'_>)) -> Verdict {
    judge(snapshot, query, clock, Moment::Session, observe)
}

/// What denies, as of `clock`, a session that an earlier command let in, if anything does ([`answer`]): denials alone end it.
#[must_use]
pub fn denied(snapshot: &Snapshot, query: &Query, clock: &Clock) -> (VerdictFacts, Option<Refusal>) {
    let facts = VerdictFacts { block: Some(snapshot.facts().latest_block.number), ..VerdictFacts::default() };
    let mut judge = Judge { snapshot, query, clock, moment: Moment::Session, facts, observe: &mut |_| () };
    let found = judge.check_not_denied_to_anybody();
    (judge.facts, found.err())
}

fn judge(
    snapshot: &Snapshot,
    query: &Query,
    clock: &Clock,
    moment: Moment,
    observe: &mut dyn FnMut(Step<'_>),
) -> Verdict {
    let facts = VerdictFacts { block: Some(snapshot.facts().latest_block.number), ..VerdictFacts::default() };
    let mut judge = Judge { snapshot, query, clock, moment, facts, observe };
    match judge.verdict() {
        Ok(line) => Verdict::Accept { line, facts: judge.facts },
        Err(Refusal { reason, detail }) => Verdict::Refuse { reason, detail, facts: judge.facts },
    }
}

/// As [`decide`], from the snapshot below `directory` and the machine's own clock: what the binary does. And that clock, if it came to
/// that.
#[must_use]
pub fn decide_on(directory: &Path, trust: Trust, query: &Query) -> (Verdict, Option<Clock>) {
    match opened(directory, trust) {
        Ok((snapshot, clock)) => (decide(&snapshot, query, &clock), Some(clock)),
        Err(refusal) => (Verdict::refused(refusal), None),
    }
}

/// As [`decide_on`], where an earlier command may be asked.
#[must_use]
pub fn answer_on(directory: &Path, trust: Trust, query: &Query) -> (Answer, Option<Clock>) {
    match opened(directory, trust) {
        Ok((snapshot, clock)) => (answer(&snapshot, query, &clock), Some(clock)),
        Err(refusal) => (Answer::Ours(Verdict::refused(refusal)), None),
    }
}

fn opened(directory: &Path, trust: Trust) -> Result<(Snapshot, Clock), Refusal> {
    let snapshot = Snapshot::open(directory, trust)?;
    Clock::now().map(|clock| (snapshot, clock)).map_err(|error| Refusal::new(Reason::Clock, error))
}

/// As [`decide`], where an earlier command may be asked.
#[must_use]
pub fn answer(snapshot: &Snapshot, query: &Query, clock: &Clock) -> Answer {
    let facts = VerdictFacts { block: Some(snapshot.facts().latest_block.number), ..VerdictFacts::default() };
    let mut judge = Judge { snapshot, query, clock, moment: Moment::Login, facts, observe: &mut |_| () };
    match judge.is_unclaimed() {
        Ok(true) => Answer::Earlier(judge.facts),
        Ok(false) => Answer::Ours(decide(snapshot, query, clock)),
        Err(Refusal { reason, detail }) => Answer::Ours(Verdict::Refuse { reason, detail, facts: judge.facts }),
    }
}

/// When the question is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// At a login.
    Login,
    /// Of a session that was let in.
    Session,
}

struct Judge<'a> {
    snapshot: &'a Snapshot,
    query: &'a Query,
    clock: &'a Clock,
    moment: Moment,
    facts: VerdictFacts,
    observe: &'a mut dyn FnMut(Step<'_>),
}

impl Judge<'_> {
    fn verdict(&mut self) -> Result<String, Refusal> {
        self.check_host()?;
        self.check_login()?;
        if self.query.is_certificate() { self.judge_certificate() } else { self.judge_plain_key() }
    }

    fn check_host(&mut self) -> Result<(), Refusal> {
        if self.moment == Moment::Login {
            self.snapshot.fresh(self.clock)?;
        }
        (self.observe)(Step::Snapshot(self.snapshot.facts()));
        match self.snapshot.facts().host_state {
            HostState::Active => Ok(()),
            HostState::Unknown => Err(Reason::HostUnknown.into()),
            HostState::Locked => Err(Reason::HostLocked.into()),
        }
    }

    fn check_login(&mut self) -> Result<(), Refusal> {
        let uid = self.query.uid();
        let ledger = self.snapshot.login(self.query.login().as_bytes())?;
        if let Some(login) = &ledger
            && login.uid != uid
        {
            let detail =
                format_args!("the ledger has uid {} for this login, sshd says {}", login.uid.0, uid.0).to_string();
            return Err(Refusal::new(Reason::UidMismatch, detail));
        }
        if uid == Uid(0) && !self.snapshot.facts().allow_root {
            return Err(Reason::RootNotAllowed.into());
        }
        match &ledger {
            None => (self.observe)(Step::LocalLogin),
            Some(login) => {
                (self.observe)(Step::LedgerLogin(login));
                // Nobody enters the account of a user who is locked or gone, whoever was granted it.
                self.check_user(login.user)?;
            }
        }
        Ok(())
    }

    fn check_user(&mut self, id: Id) -> Result<(), Refusal> {
        let user = self.snapshot.user(id)?.ok_or(Reason::UserUnknown)?;
        match user.state {
            UserState::Active => {}
            UserState::Locked => return Err(Reason::UserLocked.into()),
            UserState::Removed => return Err(Reason::UserUnknown.into()),
        }
        (self.observe)(Step::User(id, &user));
        Ok(())
    }

    fn check_not_denied(&mut self, key: Fingerprint20, locked: Reason, revoked: Reason) -> Result<(), Refusal> {
        match self.snapshot.key_revoked(key)? {
            Some(Denial::Locked) => Err(locked.into()),
            Some(Denial::Revoked) => Err(revoked.into()),
            None => {
                (self.observe)(Step::KeyNotDenied(key));
                Ok(())
            }
        }
    }

    /// The grant, if it is `user`'s and covers this host, login and time. By which means it may be used is for the caller.
    fn live_grant(&mut self, id: Id, user: Id) -> Result<Grant, Refusal> {
        let Some(grant) = self.snapshot.grant(id)? else {
            let elsewhere = self.snapshot.grant_elsewhere(id)?;
            return Err(if elsewhere { Reason::HostNotCovered } else { Reason::GrantUnknown }.into());
        };
        let is_theirs = match grant.subject {
            Subject::User(subject) => subject == user,
            Subject::Group(group) => self.snapshot.is_member(group, user)?,
        };
        if !is_theirs {
            return Err(Refusal::new(Reason::NoGrant, "the grant is not this user's"));
        }
        if !self.snapshot.grant_allows_login(id, self.query.login().as_bytes())? {
            return Err(Reason::LoginNotGranted.into());
        }
        if grant.not_after_secs.is_some_and(|not_after| self.clock.unix_secs > not_after.get()) {
            return Err(Reason::GrantExpired.into());
        }
        if !grant.hours.is_empty() && !grant.hours.iter().any(|hours| contains(hours, self.clock.unix_secs)) {
            return Err(Reason::GrantHours.into());
        }
        Ok(grant)
    }
}

/// Whether `unix_secs` lies in an interval, UTC.
fn contains(hours: &Hours, unix_secs: u64) -> bool {
    // 1 January 1970 was a Thursday, weekday 3.
    let weekday = (unix_secs / 86_400 % 7).saturating_add(3) % 7;
    let minute = unix_secs % 86_400 / 60;
    u64::from(hours.weekday) == weekday && (u64::from(hours.from_minute)..u64::from(hours.to_minute)).contains(&minute)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_are_utc_intervals_of_a_weekday_from_their_first_minute_to_before_their_last() {
        // 2027-01-15 08:00:00 UTC, a Friday.
        let friday_eight = 1_800_000_000;
        let hours = Hours { weekday: 4, from_minute: 480, to_minute: 481 };
        assert!(contains(&hours, friday_eight));
        assert!(contains(&hours, friday_eight + 59));
        assert!(!contains(&hours, friday_eight + 60));
        assert!(!contains(&hours, friday_eight - 1));
        assert!(!contains(&hours, friday_eight + 86_400));
        assert!(contains(&hours, friday_eight + 7 * 86_400));
        assert!(contains(&Hours { weekday: 3, from_minute: 0, to_minute: 1 }, 0));
        assert!(contains(&Hours { weekday: 0, from_minute: 0, to_minute: 1440 }, 4 * 86_400));
        assert!(contains(&Hours { weekday: 6, from_minute: 1439, to_minute: 1440 }, 4 * 86_400 - 1));
    }
}
