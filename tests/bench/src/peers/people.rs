//! The people that every source of names and keys knows alike: users with a key each, in teams of a hundred.

use std::fmt::{Error, Write as _};

use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use countersign_snapshot::{Account, AccountsTables, Gid, Group, Uid, UserState};

const FIRST_UID: u32 = 1_900_000_000;
const FIRST_TEAM: u32 = 1_950_000_000;
const TEAM_SIZE: u32 = 100;

/// How many there are.
#[derive(Clone, Copy, Debug)]
pub struct People(pub u32);

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct Person(u32);

impl Person {
    /// Its login name.
    #[must_use]
    pub fn name(self) -> String {
        format!("user{:07}", self.0)
    }

    /// Its number, which is its own group's too.
    #[must_use]
    pub const fn uid(self) -> u32 {
        FIRST_UID.saturating_add(self.0)
    }

    /// The number of the group that it is in beside its own.
    #[must_use]
    pub const fn team(self) -> u32 {
        FIRST_TEAM.saturating_add(self.0 / TEAM_SIZE)
    }

    /// Its public key in base64: nobody has the private one.
    #[must_use]
    pub fn key(self) -> String {
        let mut blob = b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20".to_vec();
        blob.extend([0xa5; 28]);
        blob.extend(self.0.to_be_bytes());
        BASE64.encode(blob)
    }
}

impl People {
    /// All of them.
    pub fn all(self) -> impl Iterator<Item = Person> {
        (0..self.0).map(Person)
    }

    /// Some of them, from everywhere.
    pub fn some(self, count: u32) -> impl Iterator<Item = Person> {
        let step = self.0.div_ceil(count.max(1)).max(1);
        self.all().step_by(usize::try_from(step).unwrap_or(1))
    }

    /// One of them, by its place.
    #[must_use]
    pub fn person(self, ordinal: u32) -> Option<Person> {
        (ordinal < self.0).then_some(Person(ordinal))
    }

    /// The one in the middle.
    #[must_use]
    pub const fn middle(self) -> Person {
        Person(self.0 / 2)
    }

    /// Each team with its members.
    pub fn teams(self) -> impl Iterator<Item = (u32, String, Vec<String>)> {
        (0..self.0.div_ceil(TEAM_SIZE)).map(move |team| {
            let first = team.saturating_mul(TEAM_SIZE);
            let members = first..first.saturating_add(TEAM_SIZE).min(self.0);
            let gid = FIRST_TEAM.saturating_add(team);
            (gid, format!("team{team:05}"), members.map(|ordinal| Person(ordinal).name()).collect())
        })
    }

    /// As the agent publishes them.
    #[must_use]
    pub fn accounts(self) -> AccountsTables {
        let account = |person: Person| Account {
            uid: Uid(person.uid()),
            gid: Gid(person.uid()),
            state: UserState::Active,
            login: person.name(),
            display_name: "Somebody".to_owned(),
        };
        AccountsTables {
            accounts: self.all().map(account).collect(),
            groups: self.teams().map(|(gid, name, _)| Group { gid: Gid(gid), name }).collect(),
            members: self.all().map(|person| (Gid(person.team()), person.name())).collect(),
        }
    }

    /// As lines of `passwd` and of `group`.
    ///
    /// # Errors
    /// None in practice: text is written to memory.
    pub fn files(self) -> Result<(String, String), Error> {
        let (mut passwd, mut group) = (String::new(), String::new());
        for person in self.all() {
            let (name, uid) = (person.name(), person.uid());
            writeln!(passwd, "{name}:*:{uid}:{uid}:Somebody:/home/{name}:/bin/bash")?;
            writeln!(group, "{name}:*:{uid}:")?;
        }
        for (gid, name, members) in self.teams() {
            writeln!(group, "{name}:*:{gid}:{}", members.join(","))?;
        }
        Ok((passwd, group))
    }

    /// As a script would look keys up: name and key on each line.
    ///
    /// # Errors
    /// None in practice: text is written to memory.
    pub fn map(self) -> Result<String, Error> {
        let mut map = String::new();
        for person in self.all() {
            writeln!(map, "{} ssh-ed25519 {}", person.name(), person.key())?;
        }
        Ok(map)
    }
}
