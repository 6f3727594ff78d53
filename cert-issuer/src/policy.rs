//! Chooses the grant that a certificate is made under.
//!
//! Only a choice: whether the certificate is good is decided afterwards by the host's own function ([`crate::judge`]). Where no grant
//! will do, the refusal is that of the grant which came closest, in the host's order of checks and with the host's reason codes.

use std::num::NonZeroU64;

use countersign_certificate::Id;
use countersign_registry::Effective;
use countersign_registry::realm::{Ca, Grant, Host, Hours, State, Subject, User};
use countersign_sshd::Reason;

use crate::duration::format_duration;
use crate::error::IssueError;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Whose certificate.
    pub user: Id,
    /// For which host.
    pub host: Id,
    /// For which login there.
    pub login: String,
    /// For how long, seconds.
    pub ttl: NonZeroU64,
    /// The key to certify, SSH wire form.
    pub public_key: Vec<u8>,
    /// The request on the ledger that it answers.
    pub request: Option<Id>,
}

/// The records that an order is about, and the grant chosen.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'a> {
    /// The user.
    pub user: &'a User,
    /// The host.
    pub host: &'a Host,
    /// The grant's record id.
    pub grant_id: Id,
    /// The grant.
    pub grant: &'a Grant,
}

/// Chooses the grant for `order` at Unix time `now`, for certificates by `ca`.
///
/// # Errors
/// [`IssueError::Refused`].
pub fn choose<'a>(effective: &'a Effective, order: &Order, ca: &Ca, now: u64) -> Result<Choice<'a>, IssueError> {
    let host = effective.hosts.get(&order.host);
    let host = host.ok_or_else(|| IssueError::refused(Reason::HostUnknown, order.host.to_string()))?;
    if host.state != State::Active {
        return Err(IssueError::refused(Reason::HostLocked, host.name.clone()));
    }
    let user = effective.users.get(&order.user);
    let user = user.ok_or_else(|| IssueError::refused(Reason::UserUnknown, order.user.to_string()))?;
    match user.state {
        State::Active => {}
        State::Locked => return Err(IssueError::refused(Reason::UserLocked, user.login.clone())),
        State::Revoked => return Err(IssueError::refused(Reason::UserUnknown, user.login.clone())),
    }
    let theirs = |grant: &Grant| match grant.subject {
        Subject::User(id) => id == order.user,
        Subject::Group(group) => effective.group_members.contains(&(group, order.user)),
    };
    let mut fitting: Vec<(Id, &Grant)> = Vec::new();
    let mut closest: Option<(usize, Reason, String)> = None;
    for (id, grant) in effective.grants.iter().filter(|(_, grant)| theirs(grant)) {
        match obstacle(effective, order, host, ca, grant, now) {
            None => fitting.push((*id, grant)),
            Some((rank, reason, detail)) => {
                if closest.as_ref().is_none_or(|(best, ..)| rank > *best) {
                    closest = Some((rank, reason, detail));
                }
            }
        }
    }
    // The fewest approvals first, then the earlier entry, as hosts do for plain keys.
    fitting.sort_by_key(|(id, grant)| (grant.approvals, grant.at, *id));
    if let Some((grant_id, grant)) = fitting.first() {
        return Ok(Choice { user, host, grant_id: *grant_id, grant });
    }
    Err(match closest {
        Some((_, reason, detail)) => IssueError::Refused { reason, detail },
        None => IssueError::refused(Reason::NoGrant, format!("{} was granted nothing", user.login)),
    })
}

/// The first thing that keeps `grant` from being used, and how far it came.
fn obstacle(
    effective: &Effective,
    order: &Order,
    host: &Host,
    ca: &Ca,
    grant: &Grant,
    now: u64,
) -> Option<(usize, Reason, String)> {
    if !grant.target.covers(order.host, &host.labels) {
        return Some((0, Reason::HostNotCovered, host.name.clone()));
    }
    if !grant.logins.contains(&order.login) {
        let granted: Vec<&str> = grant.logins.iter().map(String::as_str).collect();
        return Some((1, Reason::LoginNotGranted, format!("{}, granted: {}", order.login, granted.join(" "))));
    }
    if grant.not_after.is_some_and(|end| now > end) {
        return Some((2, Reason::GrantExpired, String::new()));
    }
    if !grant.hours.is_empty() && !grant.hours.iter().any(|hours| contains(hours, now)) {
        return Some((3, Reason::GrantHours, "not at this hour (UTC)".to_owned()));
    }
    if grant.via & Grant::VIA_CERTIFICATE == 0 {
        return Some((4, Reason::GrantNotViaCert, String::new()));
    }
    let longest = longest(effective, ca, grant);
    if order.ttl.get() > longest {
        let detail = format!("{}, at most {}", format_duration(order.ttl.get()), format_duration(longest));
        return Some((5, Reason::TtlTooLong, detail));
    }
    None
}

/// The longest life that hosts allow a certificate of this CA and grant, in seconds.
pub(crate) fn longest(effective: &Effective, ca: &Ca, grant: &Grant) -> u64 {
    effective.settings.max_ttl.min(ca.limits.max_ttl).min(grant.max_ttl.unwrap_or(u64::MAX))
}

pub(crate) fn contains(hours: &Hours, unix_secs: u64) -> bool {
    // 1 January 1970 was a Thursday, weekday 3 from Monday.
    let weekday = (unix_secs / 86_400 % 7).saturating_add(3) % 7;
    let minute = unix_secs % 86_400 / 60;
    u64::from(hours.weekday) == weekday && (u64::from(hours.from)..u64::from(hours.to)).contains(&minute)
}
