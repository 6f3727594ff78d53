//! Snapshots of realms as large as wanted: users, grants and revocations without end, and in them one key that is granted a login.

use std::{error::Error, fs, io, os::unix::fs::chown, path::Path};

use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use countersign_certificate::{Fingerprint20, Id, RealmId, Serial};
use countersign_snapshot::{
    AccessTables, AccountsTables, BlockRef, Clock, Facts, Freshness, Gid, Grant, HostState, Key, KeyState, Permits,
    PublishInfo, Salt, Subject, Synthetic, Via, synthetic,
};

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Users, each with a key and an account, in a group that is granted `deploy`.
    pub users: u32,
    /// Grants beside that one, each for one user.
    pub grants: u32,
    /// Serials of the one CA that are revoked.
    pub revocations: u32,
}

/// Makes the tables; `key`, in base64, is the first user's.
///
/// # Errors
/// Where the key is not base64, or there is no user to have it.
pub fn tables(sizes: &Sizes, key: &str) -> Result<(AccessTables, AccountsTables), Box<dyn Error>> {
    let plan = Synthetic { users: sizes.users, revoked_serials: sizes.revocations, uid_base: 1_900_000_000 };
    let (mut access, accounts) = synthetic(&plan);
    let users: Vec<Id> = access.users.iter().map(|(id, _)| *id).collect();
    let first = *users.first().ok_or("a synthetic snapshot has users")?;
    let grants = usize::try_from(sizes.grants)?;
    access.grants.reserve_exact(grants);
    access.grant_logins.reserve_exact(grants);
    for (ordinal, user) in (0..sizes.grants).zip(users.iter().cycle()) {
        let mut id = [0x9e; 16];
        if let Some(start) = id.first_chunk_mut() {
            *start = ordinal.to_be_bytes();
        }
        let grant = Grant {
            subject: Subject::User(*user),
            via: Via { certificate: true, plain_key: false },
            max_ttl_secs: None,
            approvals: 0,
            not_after_secs: None,
            permits: Permits(Permits::PTY),
            forced_command: None,
            source_addresses: Vec::new(),
            hours: Vec::new(),
        };
        access.grants.push((Id(id), grant));
        access.grant_logins.push((Id(id), "deploy".to_owned()));
    }
    let key = Fingerprint20::of_blob(&BASE64.decode(key)?);
    let record = Key { user: first, state: KeyState::Active, purposes: Key::PURPOSE_LOGIN, not_after_secs: None };
    access.keys.push((key, record));
    Ok((access, accounts))
}

/// Revokes one serial more.
///
/// # Errors
/// Where the tables have no CA.
pub fn revoke(access: &mut AccessTables, serial: u64) -> Result<(), Box<dyn Error>> {
    let (_, serials) = access.serials.first_mut().ok_or("synthetic tables have a CA")?;
    serials.push(Serial(serial));
    Ok(())
}

/// Makes a directory, root's own: the helper trusts no other.
///
/// # Errors
/// Where it exists, or cannot be given to root.
pub fn directory(path: &Path) -> io::Result<()> {
    fs::create_dir(path)?;
    chown(path, Some(0), Some(0))
        .map_err(|error| io::Error::other(format!("the helper trusts root's files only: {error}")))
}

/// What goes with a publication now: fresh for a day.
///
/// # Errors
/// Where a clock cannot be read.
pub fn info(group: Option<u32>) -> io::Result<PublishInfo> {
    const DAY_SECS: u64 = 86_400;
    Ok(info_of(1, DAY_SECS, group, &Clock::now()?))
}

/// What goes with a publication of block `number` that counts for so many seconds from now on.
pub(crate) fn info_of(number: u64, max_staleness_secs: u64, group: Option<u32>, clock: &Clock) -> PublishInfo {
    let block = BlockRef { number, time_secs: clock.unix_secs };
    PublishInfo {
        facts: Facts {
            realm: RealmId([1; 32]),
            host: Id([2; 16]),
            host_state: HostState::Active,
            require_logged: false,
            allow_root: false,
            pickup_secs: 600,
            max_ttl_secs: 3600,
            latest_block: block,
            final_block: block,
        },
        freshness: Freshness {
            valid_until_secs: clock.unix_secs.saturating_add(max_staleness_secs),
            max_staleness_secs,
            age_consumed_secs: 0,
            boot_id: clock.boot_id,
            boottime_secs: clock.boottime_secs,
            highest_wall_secs: clock.unix_secs,
        },
        salt: Salt([7; 16]),
        access_group: group.map(Gid),
        now_unix_secs: clock.unix_secs,
    }
}
