//! Whether the access holds that let a session in, and until when: by the login's own decision function. A session that an earlier
//! AuthorizedKeysCommand let in has none of ours: it goes on until something denies it.
//!
//! A certificate's end counts whether or not there is a snapshot: it needs nobody's word. The clock counts as at least what it was at
//! the login and the time since by the boot clock, so that setting it back lengthens nothing.

use countersign_certificate::{CertType, Certificate};
use countersign_snapshot::{Clock, Grant, Snapshot};
use countersign_sshd::{
    Granter, Query, Reason, Record, Refusal, SessionEnd, Step, Verdict, VerdictFacts, decide_session, denied,
};

const DAY_SECS: u64 = 86_400;

/// How a session's access stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Why it is over, or may be; none: it holds, or nothing is known against it.
    pub against: Option<Refusal>,
    /// Unix time at which it has to be judged again, because something ends then; none: nothing does by itself.
    pub until_secs: Option<u64>,
    /// What the decision found.
    pub facts: VerdictFacts,
}

impl Standing {
    /// What it does to the session.
    #[must_use]
    pub fn end(&self) -> SessionEnd {
        self.against.as_ref().map_or(SessionEnd::Never, |refusal| refusal.reason.session_end())
    }
}

/// The clock that counts for a session.
pub(crate) fn clock_for(record: &Record, now: &Clock) -> Clock {
    let elapsed = now.boottime_secs.saturating_sub(record.note.boottime_secs);
    Clock { unix_secs: now.unix_secs.max(record.note.unix_secs.saturating_add(elapsed)), ..*now }
}

/// Judges the access of `record` as of `now`. Without a snapshot only the certificate's own end counts.
#[must_use]
pub fn standing(record: &Record, snapshot: Option<&Snapshot>, now: &Clock) -> Standing {
    let now = &clock_for(record, now);
    let own_end = Certificate::parse(&record.note.blob)
        .ok()
        .filter(|certificate| certificate.cert_type == CertType::User)
        .map(|certificate| certificate.valid_before);
    let mut until = own_end;
    let mut facts = VerdictFacts::default();
    let mut against = None;
    if let (Some(snapshot), Ok(query)) =
        (snapshot, Query::session(&record.note.login, record.note.uid, &record.note.blob))
    {
        if record.note.by == Granter::Earlier {
            let (facts, against) = denied(snapshot, &query, now);
            let ends = |refusal: &Refusal| refusal.reason.session_end() != SessionEnd::Never;
            return Standing { against: against.filter(ends), until_secs: None, facts };
        }
        let mut observe = |step: Step<'_>| {
            let end = match step {
                Step::Key(_, key) => key.not_after_secs.map(|last| last.get().saturating_add(1)),
                Step::Grant(_, grant) => grant_end(grant, now.unix_secs),
                _ => None,
            };
            until = until.into_iter().chain(end).min();
        };
        let verdict = decide_session(snapshot, &query, now, &mut observe);
        facts = verdict.facts().clone();
        if let Verdict::Refuse { reason, detail, .. } = verdict
            && reason.session_end() != SessionEnd::Never
        {
            against = Some(Refusal { reason, detail });
        }
    }
    let is_over = against.as_ref().is_some_and(|refusal| refusal.reason.session_end() == SessionEnd::AtOnce);
    if !is_over && own_end.is_some_and(|end| now.unix_secs >= end) {
        against = Some(Reason::CertificateExpired.into());
    }
    Standing { against, until_secs: until, facts }
}

/// When a grant that counts now has to be looked at again.
fn grant_end(grant: &Grant, now_secs: u64) -> Option<u64> {
    let hours = grant.hours.iter().filter_map(|hours| {
        let midnight = now_secs.saturating_sub(now_secs % DAY_SECS);
        let end = midnight.saturating_add(u64::from(hours.to_minute).saturating_mul(60));
        (end > now_secs).then_some(end)
    });
    grant.not_after_secs.map(|last| last.get().saturating_add(1)).into_iter().chain(hours).min()
}
