//! The `accounts` tables: who has which number. Nothing here lets anybody in.
//!
//! Removed users stay, marked as such: their files on hosts keep a name, and the name stays taken.

use std::collections::BTreeSet;

use countersign_registry::effective::Effective;
use countersign_registry::entries::Kind;
use countersign_snapshot::{Account, AccountsTables, Gid, Group, Uid, UserState};

use crate::access::user_state;

pub(crate) fn tables(effective: &Effective) -> AccountsTables {
    let mut tables = AccountsTables::default();
    for user in effective.users.values() {
        tables.accounts.push(Account {
            uid: Uid(user.uid),
            gid: Gid(user.uid),
            state: user_state(user.state),
            login: user.login.clone(),
            display_name: user.display_name.clone(),
        });
    }
    let live: BTreeSet<&str> = effective.users.values().map(|user| user.login.as_str()).collect();
    let removed = effective.removed.values().filter(|removed| Kind(removed.kind) == Kind::USER_ADD);
    for user in removed.filter(|user| !live.contains(user.name.as_str())) {
        tables.accounts.push(Account {
            uid: Uid(user.uid),
            gid: Gid(user.uid),
            state: UserState::Removed,
            login: user.name.clone(),
            display_name: String::new(),
        });
    }
    // A user's own group has the user's name and number.
    for account in &tables.accounts {
        tables.groups.push(Group { gid: account.gid, name: account.login.clone() });
    }
    for group in effective.groups.values() {
        tables.groups.push(Group { gid: Gid(group.gid), name: group.name.clone() });
    }
    for (group, user) in &effective.group_members {
        if let (Some(group), Some(user)) = (effective.groups.get(group), effective.users.get(user)) {
            tables.members.push((Gid(group.gid), user.login.clone()));
        }
    }
    tables
}
