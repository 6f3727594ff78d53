//! One question, one answer, from the files as they are now.
//!
//! Every answer has passed the rules: the number is one that a realm can give, the record says the name or number that was
//! asked for, and the host neither has nor refuses the name, and has not given the number away itself. Doubt is [`Missing::Unavailable`], never "not there".

use std::path::Path;

use countersign_snapshot::{Account, Accounts, Gid, Group, OpenError, Trust, Uid, UserState};

use crate::local::{Local, Ranges};
use crate::rules::{is_assignable, is_name};
use crate::settings::{NO_LOGIN, Settings};

/// Where things are.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// The directory that the agent publishes to.
    pub snapshot: &'a Path,
    /// The host's users.
    pub passwd: &'a Path,
    /// The host's groups.
    pub group: &'a Path,
    /// Ranges of numbers that the host's users have for their containers; the file may be missing.
    pub subuid: &'a Path,
    /// The same for groups.
    pub subgid: &'a Path,
    /// Home, shell and names that the host refuses.
    pub settings: &'a Path,
    /// Whose files are believed: 0, or in tests another number.
    pub owner: u32,
}

/// Why there is no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missing {
    /// No such name or number, or none that this module speaks for.
    NotFound,
    /// It cannot be known: no snapshot, a damaged one, a file of the host that cannot be read.
    Unavailable,
}

/// A user, as a line of passwd.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Person {
    /// User id.
    pub uid: u32,
    /// Its own group's id.
    pub gid: u32,
    /// Login name.
    pub login: String,
    /// Name for people, without what would end a field.
    pub gecos: String,
    /// Home directory.
    pub home: String,
    /// Shell; one that refuses logins unless the user is active.
    pub shell: String,
}

/// A group, as a line of group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Team {
    /// Group id.
    pub gid: u32,
    /// Its name.
    pub name: String,
    /// Logins of its members.
    pub members: Vec<String>,
}

/// A user by name.
///
/// # Errors
/// See [`Missing`].
pub fn person_by_name(places: &Places<'_>, name: &[u8]) -> Result<Person, Missing> {
    if !is_name(name) {
        return Err(Missing::NotFound);
    }
    let account = open(places)?.account(name).map_err(unavailable)?.ok_or(Missing::NotFound)?;
    if account.login.as_bytes() != name {
        return Err(Missing::Unavailable);
    }
    HostFiles::read(places)?.person(account)
}

/// A user by number.
///
/// # Errors
/// See [`Missing`].
pub fn person_by_uid(places: &Places<'_>, uid: u32) -> Result<Person, Missing> {
    if !is_assignable(uid) {
        return Err(Missing::NotFound);
    }
    let account = open(places)?.account_by_uid(Uid(uid)).map_err(unavailable)?.ok_or(Missing::NotFound)?;
    if account.uid.0 != uid {
        return Err(Missing::Unavailable);
    }
    HostFiles::read(places)?.person(account)
}

/// A group by name. `room` is how many bytes of members' names the caller can take: with more, reading stops there.
///
/// # Errors
/// See [`Missing`].
pub fn team_by_name(places: &Places<'_>, name: &[u8], room: usize) -> Result<Team, Missing> {
    if !is_name(name) {
        return Err(Missing::NotFound);
    }
    let accounts = open(places)?;
    let group = accounts.group(name).map_err(unavailable)?.ok_or(Missing::NotFound)?;
    if group.name.as_bytes() != name {
        return Err(Missing::Unavailable);
    }
    team(places, &accounts, group, room)
}

/// A group by number; `room` as in [`team_by_name`].
///
/// # Errors
/// See [`Missing`].
pub fn team_by_gid(places: &Places<'_>, gid: u32, room: usize) -> Result<Team, Missing> {
    if !is_assignable(gid) {
        return Err(Missing::NotFound);
    }
    let accounts = open(places)?;
    let group = accounts.group_by_gid(Gid(gid)).map_err(unavailable)?.ok_or(Missing::NotFound)?;
    if group.gid.0 != gid {
        return Err(Missing::Unavailable);
    }
    team(places, &accounts, group, room)
}

/// Ids of the groups that a user is in beside its own, `own`, at most `limit` of them.
///
/// # Errors
/// See [`Missing`]. `NotFound` where the user is not ours: a local user is in no group of the realm, nor is one of that name whom
/// another service knows, which shows by another group of its own.
pub fn groups_of(places: &Places<'_>, login: &[u8], own: u32, limit: usize) -> Result<Vec<u32>, Missing> {
    let person = person_by_name(places, login)?;
    if person.gid != own {
        return Err(Missing::NotFound);
    }
    let accounts = open(places)?;
    let host = HostFiles::read(places)?;
    let mut gids = Vec::new();
    for ordinal in 0..=u32::MAX {
        let Some(gid) = accounts.group_of(login, ordinal).map_err(unavailable)? else { break };
        if gids.len() >= limit {
            break;
        }
        let group = accounts.group_by_gid(gid).map_err(unavailable)?.ok_or(Missing::Unavailable)?;
        if gid.0 != person.gid && host.has_room_for(&group) && !gids.contains(&gid.0) {
            gids.push(gid.0);
        }
    }
    Ok(gids)
}

fn open(places: &Places<'_>) -> Result<Accounts, Missing> {
    Accounts::open(places.snapshot, Trust::owner(places.owner)).map_err(|_: OpenError| Missing::Unavailable)
}

/// What the host says itself, read for one question.
struct HostFiles {
    users: Local,
    groups: Local,
    ranges: [Ranges; 2],
    settings: Settings,
}

impl HostFiles {
    fn read(places: &Places<'_>) -> Result<Self, Missing> {
        Ok(Self {
            users: Local::read(places.passwd).map_err(unavailable)?,
            groups: Local::read(places.group).map_err(unavailable)?,
            ranges: [
                Ranges::read(places.subuid).map_err(unavailable)?,
                Ranges::read(places.subgid).map_err(unavailable)?,
            ],
            settings: Settings::read(places.settings, places.owner).map_err(unavailable)?,
        })
    }

    fn takes_name(&self, name: &str) -> bool {
        is_name(name.as_bytes()) && !self.settings.refused.iter().any(|refused| refused == name)
    }

    /// A user's number is its group's too: ranges of either sort count for both.
    fn takes_number(&self, number: u32) -> bool {
        is_assignable(number) && !self.ranges.iter().any(|ranges| ranges.hold(number))
    }

    /// A local user of this name is somebody else.
    fn has_room_for_login(&self, login: &str) -> bool {
        self.takes_name(login) && !self.users.has_name(login.as_bytes())
    }

    fn has_room_for(&self, group: &Group) -> bool {
        self.takes_name(&group.name)
            && self.takes_number(group.gid.0)
            && !self.groups.has_name(group.name.as_bytes())
            && !self.groups.has_number(group.gid.0)
    }

    fn person(self, account: Account) -> Result<Person, Missing> {
        let ours = self.has_room_for_login(&account.login)
            && self.takes_number(account.uid.0)
            && self.takes_number(account.gid.0)
            && !self.users.has_number(account.uid.0)
            // A local group of this number would be the user's own.
            && !self.groups.has_number(account.gid.0);
        if !ours {
            return Err(Missing::NotFound);
        }
        let shell = if account.state == UserState::Active { self.settings.shell } else { NO_LOGIN.to_owned() };
        Ok(Person {
            uid: account.uid.0,
            gid: account.gid.0,
            gecos: field(&account.display_name),
            home: format!("{}/{}", self.settings.home_base.trim_end_matches('/'), account.login),
            shell,
            login: account.login,
        })
    }
}

fn team(places: &Places<'_>, accounts: &Accounts, group: Group, room: usize) -> Result<Team, Missing> {
    let host = HostFiles::read(places)?;
    if !host.has_room_for(&group) {
        return Err(Missing::NotFound);
    }
    let (mut members, mut used) = (Vec::new(), 0usize);
    for ordinal in 0..=u32::MAX {
        let Some(member) = accounts.group_member(group.gid, ordinal).map_err(unavailable)? else { break };
        if host.has_room_for_login(&member) {
            used = used.saturating_add(member.len());
            members.push(member);
        }
        if used > room {
            break;
        }
    }
    Ok(Team { gid: group.gid.0, name: group.name, members })
}

/// A field of passwd: no colon, no control character.
fn field(text: &str) -> String {
    text.chars().map(|c| if c == ':' || c.is_control() { '?' } else { c }).take(256).collect()
}

fn unavailable<E>(_: E) -> Missing {
    Missing::Unavailable
}
