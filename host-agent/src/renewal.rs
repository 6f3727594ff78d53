//! When a device asks for its next certificate: the rules, without I/O, so that each can be tested by itself.
//!
//! One request of a payload's is open at a time. What is refused or not answered is asked for again later and later, never less than
//! [`FIRST_WAIT_SECS`] apart and at least every [`LONGEST_WAIT_SECS`] and a fifth: a realm that refuses is not flooded, and one that
//! gives in is noticed. What would be refused for certain is not asked for at all. All times are the ledger's (see [`LedgerClock`]).

use countersign_certificate::Id;
use countersign_registry::Effective;
use countersign_registry::entries::Roles;
use countersign_registry::realm::{Grant, State, Subject};
use countersign_snapshot::{BootId, Clock};
use serde::{Deserialize, Serialize};

use crate::config::Renew;
use crate::reason::Reason;

/// The wait after the first refusal, seconds; doubled with each further one.
pub const FIRST_WAIT_SECS: u64 = 60;

/// The longest wait, seconds.
pub const LONGEST_WAIT_SECS: u64 = 3_600;

/// What is remembered of a payload's renewal between runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal {
    /// The first second in which the certificate that is there does not count any more; none where there is none.
    pub expires_secs: Option<u64>,
    /// Since when it should be another one.
    pub since_secs: Option<u64>,
    /// The request that is open.
    pub open: Option<Open>,
    /// Requests that came to nothing since the last success.
    pub failures: u32,
    /// Before this time nothing is asked for.
    pub retry_secs: u64,
    /// Why there is no new certificate yet.
    pub problem: Option<(Reason, String)>,
}

/// A request that was logged, or is about to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// Its record id.
    pub id: Id,
    /// When it was written.
    pub asked_secs: u64,
}

/// Where the open request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Not on the ledger, or not yet.
    Nowhere,
    /// On the ledger.
    Logged,
    /// On the ledger, and an approver has denied it.
    Denied,
}

/// What a step depends on.
#[derive(Debug)]
pub struct Facts {
    /// The ledger's time.
    pub now: u64,
    /// Whether another certificate is wanted by now.
    pub due: bool,
    /// Where the open request stands, if there is one.
    pub seen: Seen,
    /// Whether its transaction is still being sent.
    pub in_flight: bool,
    /// Whether a request would be granted by what the ledger says.
    pub may_ask: Result<(), (Reason, String)>,
    /// How long an answer is waited for, seconds.
    pub answer_secs: u64,
    /// How long a transaction may take, seconds.
    pub lost_secs: u64,
    /// Spreads the wait after a failure.
    pub jitter: u16,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Rest,
    /// Log a request.
    Ask,
}

impl Renewal {
    /// What is to be done now.
    pub fn step(&mut self, facts: &Facts) -> Step {
        if !facts.due {
            *self = Self { expires_secs: self.expires_secs, ..Self::default() };
            return Step::Rest;
        }
        self.since_secs.get_or_insert(facts.now);
        if let Some(open) = self.open {
            let age = facts.now.saturating_sub(open.asked_secs);
            match facts.seen {
                Seen::Denied => self.failed(facts, Reason::RenewDenied, format!("request {} was denied", open.id)),
                Seen::Logged if age < facts.answer_secs => self.problem = None,
                Seen::Logged => {
                    let message = format!("request {}: no certificate came within {} s", open.id, facts.answer_secs);
                    self.failed(facts, Reason::RenewUnanswered, message);
                }
                Seen::Nowhere if facts.in_flight || age < facts.lost_secs => {}
                Seen::Nowhere => {
                    let message = format!("request {} did not come onto the ledger", open.id);
                    self.failed(facts, Reason::RenewLedger, message);
                }
            }
            return Step::Rest;
        }
        if let Err(problem) = &facts.may_ask {
            self.problem = Some(problem.clone());
            return Step::Rest;
        }
        if facts.now < self.retry_secs {
            return Step::Rest;
        }
        Step::Ask
    }

    fn failed(&mut self, facts: &Facts, reason: Reason, message: String) {
        self.came_to_nothing(facts.now, facts.jitter, reason, message);
    }

    /// Notes that the open request came to nothing.
    pub fn came_to_nothing(&mut self, now: u64, jitter: u16, reason: Reason, message: String) {
        self.open = None;
        self.problem = Some((reason, message));
        self.retry_secs = now.saturating_add(wait_secs(self.failures, jitter));
        self.failures = self.failures.saturating_add(1);
    }
}

/// How long to wait after so many failures before the last: doubled each time, at most an hour, and up to a fifth more, so that devices
/// that were refused together do not come back together.
fn wait_secs(failures: u32, jitter: u16) -> u64 {
    let doubled = FIRST_WAIT_SECS.saturating_mul(1_u64.checked_shl(failures).unwrap_or(u64::MAX));
    let wait = doubled.min(LONGEST_WAIT_SECS);
    let more = wait.saturating_mul(u64::from(jitter)).checked_div(u64::from(u16::MAX).saturating_mul(5));
    wait.saturating_add(more.unwrap_or_default())
}

/// Whether a certificate that is valid from `after` to `before` is to be replaced at `now`: in the last third of its life, unless the
/// configuration says how long before its end.
pub fn is_due(now: u64, (after, before): (u64, u64), renew: &Renew) -> bool {
    let third = before.saturating_sub(after) / 3;
    let ahead = renew.before_secs.map_or(third, std::num::NonZeroU64::get);
    now >= before.saturating_sub(ahead)
}

/// Whether the ledger lets a request of `user`'s for `renew` be answered, as far as a device can tell; else why not.
///
/// # Errors
/// `renew-user`, `renew-grant`.
pub fn may_ask(
    effective: &Effective,
    own: alloy_primitives::Address,
    renew: &Renew,
    now: u64,
) -> Result<Id, (Reason, String)> {
    let user = user_of(effective, own)?;
    let refuse = |message: String| Err((Reason::RenewGrant, message));
    let Some(host) = effective.hosts.get(&renew.host).filter(|host| host.state == State::Active) else {
        return refuse(format!("host {} is not on the ledger, or locked", renew.host));
    };
    let ttl = renew.ttl_secs.get();
    if ttl > effective.settings.max_ttl {
        return refuse(format!(
            "the realm's longest certificate is {} s, less than {ttl} s",
            effective.settings.max_ttl
        ));
    }
    let theirs = |grant: &Grant| match grant.subject {
        Subject::User(id) => id == user,
        Subject::Group(group) => effective.group_members.contains(&(group, user)),
    };
    let fits = |grant: &Grant| {
        theirs(grant)
            && grant.target.covers(renew.host, &host.labels)
            && grant.logins.contains(renew.login.as_str())
            && grant.via & Grant::VIA_CERTIFICATE != 0
            && grant.not_after.is_none_or(|end| now <= end)
            && grant.max_ttl.is_none_or(|longest| ttl <= longest)
    };
    if effective.grants.values().any(fits) {
        return Ok(user);
    }
    refuse(format!("no grant to this device's user covers {} on {} for {ttl} s", renew.login, host.name))
}

/// The live user that a ledger key speaks for: requests are users' only.
fn user_of(effective: &Effective, own: alloy_primitives::Address) -> Result<Id, (Reason, String)> {
    let refuse = |message: &str| Err((Reason::RenewUser, format!("ledger key {own}: {message}")));
    let Some(actor) = effective.actors.get(&own) else { return refuse("not listed in the realm") };
    if actor.locked || actor.roles & Roles::MEMBER == 0 {
        return refuse("locked, or not a member");
    }
    match actor.subject.and_then(|id| effective.users.get(&id).map(|user| (id, user.state))) {
        Some((id, State::Active)) => Ok(id),
        Some(_) => refuse("bound to a user who is locked"),
        None => refuse("not bound to a user, and only users may ask for certificates"),
    }
}

/// The ledger's time between blocks: that of the newest block, and what the boot clock has advanced since it was first seen. The wall
/// clock has no say in it.
#[derive(Debug, Default)]
pub struct LedgerClock {
    seen: Option<(u64, BootId, u64)>,
}

impl LedgerClock {
    /// The time at `clock` of who sees a newest block of `latest_secs`.
    pub fn now(&mut self, latest_secs: u64, clock: &Clock) -> u64 {
        match self.seen {
            Some((block, boot, since)) if block == latest_secs && boot == clock.boot_id => {
                block.saturating_add(clock.boottime_secs.saturating_sub(since))
            }
            _ => {
                self.seen = Some((latest_secs, clock.boot_id, clock.boottime_secs));
                latest_secs
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    fn facts(now: u64) -> Facts {
        Facts {
            now,
            due: true,
            seen: Seen::Nowhere,
            in_flight: false,
            may_ask: Ok(()),
            answer_secs: 600,
            lost_secs: 100,
            jitter: 0,
        }
    }

    fn renew(before_secs: Option<u64>) -> Renew {
        Renew {
            host: Id([1; 16]),
            login: "deploy".to_owned(),
            ttl_secs: NonZeroU64::new(300).unwrap(),
            before_secs: before_secs.and_then(NonZeroU64::new),
            answer_secs: NonZeroU64::new(600).unwrap(),
            reason: String::new(),
        }
    }

    /// Asks as the agent does: what is open is written down first.
    fn ask(renewal: &mut Renewal, facts: &Facts) -> bool {
        if renewal.step(facts) == Step::Rest {
            return false;
        }
        renewal.open = Some(Open { id: Id([9; 16]), asked_secs: facts.now });
        true
    }

    #[test]
    fn a_certificate_is_replaced_in_the_last_third_of_its_life_or_when_the_configuration_says() {
        assert!(!is_due(1_199, (900, 1_350), &renew(None)));
        assert!(is_due(1_200, (900, 1_350), &renew(None)));
        assert!(!is_due(1_339, (900, 1_350), &renew(Some(10))));
        assert!(is_due(1_340, (900, 1_350), &renew(Some(10))));
        assert!(is_due(9_999, (900, 1_350), &renew(Some(10))));
    }

    #[test]
    fn one_request_is_open_at_a_time_until_a_certificate_comes() {
        let mut renewal = Renewal::default();
        assert!(ask(&mut renewal, &facts(1_000)));
        for now in [1_000, 1_001, 1_099] {
            assert!(!ask(&mut renewal, &facts(now)), "not seen yet");
        }
        for now in [1_100, 1_599] {
            assert!(!ask(&mut renewal, &Facts { seen: Seen::Logged, ..facts(now) }), "not answered yet");
        }
        assert_eq!((renewal.since_secs, &renewal.problem, renewal.failures), (Some(1_000), &None, 0));
        renewal.expires_secs = Some(5_000);
        assert!(!ask(&mut renewal, &Facts { due: false, ..facts(1_600) }));
        assert_eq!(renewal, Renewal { expires_secs: Some(5_000), ..Renewal::default() });
    }

    #[test]
    fn a_realm_that_refuses_or_never_answers_is_asked_less_and_less_often_and_never_given_up() {
        for (seen, reason) in [(Seen::Denied, Reason::RenewDenied), (Seen::Logged, Reason::RenewUnanswered)] {
            let mut renewal = Renewal::default();
            let mut asked = Vec::new();
            for now in 0..86_400 {
                // A denial is seen at once.
                if ask(&mut renewal, &Facts { seen, ..facts(now) }) {
                    asked.push(now);
                }
            }
            assert_eq!(renewal.problem.as_ref().map(|(reason, _)| *reason), Some(reason));
            assert!(asked.len() < 32, "{asked:?}");
            let gaps: Vec<u64> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
            assert!(gaps[0] >= FIRST_WAIT_SECS && gaps.is_sorted(), "{gaps:?}");
            assert!(*gaps.last().unwrap() >= LONGEST_WAIT_SECS, "{gaps:?}");
            assert!(*gaps.last().unwrap() <= LONGEST_WAIT_SECS + 601, "a realm that gives in is noticed: {gaps:?}");
        }
    }

    #[test]
    fn a_restart_neither_forgets_the_open_request_nor_the_wait() {
        let mut renewal = Renewal::default();
        assert!(ask(&mut renewal, &facts(1_000)));
        let bytes = postcard::to_stdvec(&renewal).unwrap();
        let mut again: Renewal = postcard::from_bytes(&bytes).unwrap();
        assert!(!ask(&mut again, &facts(1_050)));
        assert!(!ask(&mut again, &Facts { seen: Seen::Denied, ..facts(1_060) }));
        let mut again: Renewal = postcard::from_bytes(&postcard::to_stdvec(&again).unwrap()).unwrap();
        assert!(!ask(&mut again, &facts(1_119)));
        assert!(ask(&mut again, &facts(1_120)));
    }

    #[test]
    fn what_would_be_refused_for_certain_costs_no_request_and_is_asked_for_as_soon_as_it_would_not() {
        let mut renewal = Renewal::default();
        let refused = Facts { may_ask: Err((Reason::RenewGrant, "no grant".to_owned())), ..facts(1_000) };
        for _ in 0..10 {
            assert!(!ask(&mut renewal, &refused));
        }
        assert_eq!(renewal.problem, Some((Reason::RenewGrant, "no grant".to_owned())));
        assert!(ask(&mut renewal, &facts(1_001)));
    }

    #[test]
    fn a_transaction_that_is_never_seen_is_given_up_but_not_while_it_is_being_sent() {
        let mut renewal = Renewal::default();
        assert!(ask(&mut renewal, &facts(1_000)));
        assert!(!ask(&mut renewal, &Facts { in_flight: true, ..facts(2_000) }));
        assert!(renewal.open.is_some());
        assert!(!ask(&mut renewal, &facts(2_000)));
        assert_eq!(renewal.problem.as_ref().map(|(reason, _)| *reason), Some(Reason::RenewLedger));
        assert!(!ask(&mut renewal, &facts(2_059)));
        assert!(ask(&mut renewal, &facts(2_060)));
    }

    #[test]
    fn waits_differ_by_up_to_a_fifth() {
        assert_eq!((wait_secs(0, 0), wait_secs(0, u16::MAX)), (60, 72));
        assert_eq!((wait_secs(1, 0), wait_secs(5, 0), wait_secs(6, 0)), (120, 1_920, 3_600));
        assert_eq!((wait_secs(200, 0), wait_secs(u32::MAX, u16::MAX)), (3_600, 4_320));
    }

    #[test]
    fn the_ledgers_time_goes_on_with_the_boot_clock_and_never_asks_the_wall_clock() {
        let clock = |unix_secs, boot, boottime_secs| Clock { unix_secs, boot_id: BootId([boot; 16]), boottime_secs };
        let mut time = LedgerClock::default();
        assert_eq!(time.now(1_000, &clock(5, 1, 70)), 1_000);
        assert_eq!(time.now(1_000, &clock(9_999_999, 1, 75)), 1_005);
        assert_eq!(time.now(1_012, &clock(1, 1, 76)), 1_012);
        assert_eq!(time.now(1_012, &clock(1, 1, 80)), 1_016);
        assert_eq!(time.now(1_012, &clock(1, 2, 3)), 1_012);
    }
}
