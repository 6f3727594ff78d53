//! `DenyUsers`, `AllowUsers`, `DenyGroups`, `AllowGroups`: whom they keep out sshd refuses without asking anybody, granted or not.

use std::collections::BTreeSet;
use std::ffi::CString;

use countersign_snapshot::{Accounts, Snapshot, Trust, Uid};
use nix::unistd::{Group, User, getgrouplist};

use crate::asked::Asked;
use crate::code::Code;
use crate::finding::Finding;
use crate::names::{FIRST_UID, MOST_LOOKS};
use crate::pattern::is_like;

/// So many are named.
const MOST_NAMES: usize = 5;

/// Logins of users whom the ledger alone has, the first of them.
pub(crate) fn of_ledger(asked: &Asked<'_>) -> Vec<String> {
    let Ok(agent) = &asked.host.agent else { return Vec::new() };
    let Ok(accounts) = Accounts::open(&agent.snapshot, Trust::ROOT) else { return Vec::new() };
    let uids = (0..MOST_LOOKS).map(|ordinal| Uid(FIRST_UID.saturating_add(ordinal)));
    uids.filter_map(|uid| accounts.account_by_uid(uid).ok().flatten()).map(|account| account.login).collect()
}

/// Which of these users have a grant here and are kept out.
pub(crate) fn judge<'a>(
    asked: &Asked<'_>,
    snapshot: &Snapshot,
    users: impl IntoIterator<Item = &'a String>,
) -> Vec<Finding> {
    let settings = ["DenyUsers", "AllowUsers", "DenyGroups", "AllowGroups"];
    if !settings.iter().any(|setting| asked.is_set(setting)) {
        return Vec::new();
    }
    let is_granted = |user: &&String| {
        (*user != "root" || snapshot.facts().allow_root) && snapshot.is_granted_login(user.as_bytes()).unwrap_or(false)
    };
    let granted: BTreeSet<&String> = users.into_iter().filter(is_granted).collect();
    let found = settings.into_iter().filter_map(|setting| {
        let out: Vec<&str> =
            granted.iter().filter(|user| kept_out(asked, user) == Some(setting)).map(|user| user.as_str()).collect();
        let names = out.iter().take(MOST_NAMES).copied().collect::<Vec<_>>().join(", ");
        let more = match out.len().saturating_sub(MOST_NAMES) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let text = format!("{}: it keeps out {names}{more}, to whom a grant leads", all(asked, setting).join(" "));
        let change = format!("{setting} without them or with them as it means, or no such grant for this host");
        (!out.is_empty()).then(|| asked.finding(Code::LoginNotAdmitted, setting, text).change(change))
    });
    found.collect()
}

fn all<'a>(asked: &'a Asked<'_>, setting: &str) -> Vec<&'a str> {
    let values = asked.effective.all(&setting.to_ascii_lowercase());
    values.iter().flat_map(|value| value.split_whitespace()).filter(|word| *word != "none").collect()
}

/// The setting by which sshd refuses a user wherever the login comes from, in its order.
fn kept_out(asked: &Asked<'_>, user: &str) -> Option<&'static str> {
    let allowed = all(asked, "AllowUsers");
    // With a place, it denies or allows from there alone.
    if all(asked, "DenyUsers").iter().any(|pattern| !pattern.contains('@') && is_like(user, pattern)) {
        return Some("DenyUsers");
    }
    let name = |pattern: &str| pattern.rsplit_once('@').map_or(pattern, |(name, _)| name).to_owned();
    if !allowed.is_empty() && !allowed.iter().any(|pattern| is_like(user, &name(pattern))) {
        return Some("AllowUsers");
    }
    // Whom the host does not know is another finding.
    let groups = groups(user)?;
    let is_in =
        |setting: &str| all(asked, setting).iter().any(|pattern| groups.iter().any(|group| is_like(group, pattern)));
    if is_in("DenyGroups") {
        return Some("DenyGroups");
    }
    (!all(asked, "AllowGroups").is_empty() && !is_in("AllowGroups")).then_some("AllowGroups")
}

/// As sshd asks for them: of the host's files and its name service.
fn groups(user: &str) -> Option<Vec<String>> {
    let user = User::from_name(user).ok().flatten()?;
    let gids = getgrouplist(&CString::new(user.name).ok()?, user.gid).ok()?;
    Some(gids.into_iter().filter_map(|gid| Some(Group::from_gid(gid).ok()??.name)).collect())
}
