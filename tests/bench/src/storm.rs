//! Snapshots that carry a number in several tables, published as fast as they can be: an answer that mixes two of them shows.
//!
//! In publication *n* the grant's only command is `echo n`, the key's registration ends in second *n* modulo 60 of some minute, the
//! latest block is *n*, and where *n* is odd the key is locked.

use std::{
    error::Error,
    fs, io,
    num::NonZeroU64,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use countersign_certificate::{Fingerprint20, Id};
use countersign_snapshot::{
    AccessTables, AccountsTables, Clock, Denial, Grant, Key, KeyGrant, KeyState, Permits, PublishInfo, Subject, User,
    UserState, Via, publish,
};

use crate::scale::info_of;

/// The login that the key is granted.
pub const LOGIN: &str = "deploy";

const USER: Id = Id([1; 16]);
const GRANT: Id = Id([2; 16]);
/// 18 May 2033, 03:30:00 UTC: a whole minute.
const KEY_ENDS: u64 = 1_999_999_800;

/// What is published and where.
pub struct Storm {
    /// The snapshot's directory.
    pub directory: PathBuf,
    /// The key, in base64.
    pub key: String,
    /// The group that may read it.
    pub group: Option<u32>,
    /// The highest number whose publication has ended.
    pub published: AtomicU64,
}

impl Storm {
    /// Makes the directory, root's own, and publishes number 0.
    ///
    /// # Errors
    /// Where it cannot be written, or not as root, whose files alone the helper trusts.
    pub fn begin(directory: &Path, key: &str, group: Option<u32>) -> Result<Self, Box<dyn Error>> {
        fs::create_dir_all(directory)?;
        chown(directory, Some(0), Some(0))
            .map_err(|error| io::Error::other(format!("the helper trusts root's files only: {error}")))?;
        let storm = Self { directory: directory.to_owned(), key: key.to_owned(), group, published: AtomicU64::new(0) };
        storm.publish(0)?;
        Ok(storm)
    }

    /// Publishes one number.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn publish(&self, number: u64) -> Result<(), Box<dyn Error>> {
        let clock = Clock::now()?;
        let (access, info) = self.tables(number, &clock)?;
        publish(&self.directory, &access, &AccountsTables::default(), &info)?;
        self.published.fetch_max(number, Ordering::SeqCst);
        Ok(())
    }

    /// Publishes `step`, `2 step` and so on until told to stop; gives how many there were.
    ///
    /// # Errors
    /// Where one cannot be written.
    pub fn publish_until(&self, stop: &AtomicBool, step: u64) -> Result<u64, Box<dyn Error>> {
        let mut publications = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            publications = publications.saturating_add(1);
            self.publish(publications.saturating_mul(step))?;
        }
        Ok(publications)
    }

    /// The tables of a number, and what goes with them when they are published at `clock`: fresh for five minutes.
    ///
    /// # Errors
    /// Where the key is not base64.
    pub fn tables(&self, number: u64, clock: &Clock) -> Result<(AccessTables, PublishInfo), Box<dyn Error>> {
        let key = Fingerprint20::of_blob(&BASE64.decode(&self.key)?);
        let not_after_secs = NonZeroU64::new(KEY_ENDS.saturating_add(number % 60));
        let record = Key { user: USER, state: KeyState::Active, purposes: Key::PURPOSE_LOGIN, not_after_secs };
        let grant = Grant {
            subject: Subject::User(USER),
            via: Via { certificate: false, plain_key: true },
            max_ttl_secs: None,
            approvals: 0,
            not_after_secs: None,
            permits: Permits(0),
            forced_command: Some(format!("echo {number}")),
            source_addresses: Vec::new(),
            hours: Vec::new(),
        };
        let access = AccessTables {
            users: vec![(USER, User { state: UserState::Active, login: "alice".to_owned() })],
            grants: vec![(GRANT, grant)],
            grant_logins: vec![(GRANT, LOGIN.to_owned())],
            keys: vec![(key, record)],
            key_grants: vec![KeyGrant { user: USER, login: LOGIN.to_owned(), grant: GRANT }],
            revoked_keys: if number % 2 == 1 { vec![(key, Denial::Locked)] } else { Vec::new() },
            ..AccessTables::default()
        };
        Ok((access, info_of(number, 300, self.group, clock)))
    }

    /// The number that an answer of the helper's speaks for; none where it is empty. `at_least`: what was published before the
    /// helper was asked.
    ///
    /// # Errors
    /// The answer, where it is not whole, or not of one publication, or of one in which the key was locked, or of an older one.
    pub fn number_of(&self, answer: &str, at_least: u64) -> Result<Option<u64>, String> {
        if answer.is_empty() {
            return Ok(None);
        }
        let number = answer.split_once("command=\"echo ").and_then(|(_, rest)| rest.split_once('"'));
        let number = number
            .and_then(|(digits, _)| digits.parse::<u64>().ok())
            .filter(|number| number % 2 == 0 && *number >= at_least);
        let second = number.map(|number| number % 60);
        let whole = second.is_some_and(|second| {
            answer.ends_with(&format!("{second:02}\" ssh-ed25519 {}\n", self.key)) && answer.matches('\n').count() == 1
        });
        if whole { Ok(number) } else { Err(answer.to_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_two_publications_or_of_half_a_line_is_told() {
        let storm =
            Storm { directory: PathBuf::new(), key: "AAAA".to_owned(), group: None, published: AtomicU64::new(0) };
        let line = |number: u64, second: u64, end: &str| {
            format!("restrict,command=\"echo {number}\",expiry-time=\"203305181730{second:02}\" ssh-ed25519 AAAA{end}")
        };
        assert_eq!(storm.number_of(&line(62, 2, "\n"), 62), Ok(Some(62)));
        assert_eq!(storm.number_of("", 9), Ok(None));
        for torn in [line(62, 0, "\n"), line(61, 1, "\n"), line(62, 2, ""), line(62, 2, "\nx\n"), "restrict".to_owned()]
        {
            assert_eq!(storm.number_of(&torn, 0), Err(torn.clone()));
        }
        assert!(storm.number_of(&line(62, 2, "\n"), 63).is_err());
    }
}
