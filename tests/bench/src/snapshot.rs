//! Snapshots to measure logins with.

use std::{error::Error, fs, io, os::unix::fs::chown, path::Path, process::Command};

use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use countersign_certificate::{Fingerprint20, Id, RealmId};
use countersign_snapshot::{
    BlockRef, Clock, Facts, Freshness, Gid, HostState, Key, KeyState, PublishInfo, Salt, Synthetic, publish, synthetic,
};

/// Makes a key pair with `ssh-keygen`; gives the public key in base64.
///
/// # Errors
/// Where `ssh-keygen` fails.
pub fn key_pair(folder: &Path, name: &str) -> Result<String, Box<dyn Error>> {
    let path = folder.join(name);
    let made =
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "bench", "-f"]).arg(&path).status()?;
    if !made.success() {
        return Err("ssh-keygen failed".into());
    }
    let line = fs::read_to_string(path.with_extension("pub"))?;
    Ok(line.split_whitespace().nth(1).ok_or("a public key line has two words")?.to_owned())
}

/// Publishes a synthetic snapshot in which one key more, given in base64, is granted `deploy`; readable by `group`.
///
/// # Errors
/// Where it cannot be published, or not as root, whose files alone the helper trusts.
pub fn publish_granted(snapshot: &Path, users: u32, key: &str, group: Option<u32>) -> Result<(), Box<dyn Error>> {
    fs::create_dir(snapshot)?;
    chown(snapshot, Some(0), Some(0))
        .map_err(|error| io::Error::other(format!("the helper trusts root's files only: {error}")))?;
    let (mut access, accounts) = synthetic(&Synthetic { users, revoked_serials: users, uid_base: 1_900_000_000 });
    let blob = BASE64.decode(key)?;
    let user = access.users.first().map(|(id, _)| *id).ok_or("a synthetic snapshot has users")?;
    let key = Key { user, state: KeyState::Active, purposes: Key::PURPOSE_LOGIN, not_after_secs: None };
    access.keys.push((Fingerprint20::of_blob(&blob), key));

    let clock = Clock::now()?;
    let info = PublishInfo {
        facts: Facts {
            realm: RealmId([1; 32]),
            host: Id([2; 16]),
            host_state: HostState::Active,
            require_logged: false,
            allow_root: false,
            pickup_secs: 600,
            max_ttl_secs: 3600,
            latest_block: BlockRef { number: 1, time_secs: clock.unix_secs },
            final_block: BlockRef { number: 1, time_secs: clock.unix_secs },
        },
        freshness: Freshness {
            valid_until_secs: clock.unix_secs.saturating_add(3600),
            max_staleness_secs: 3600,
            age_consumed_secs: 0,
            boot_id: clock.boot_id,
            boottime_secs: clock.boottime_secs,
            highest_wall_secs: clock.unix_secs,
        },
        salt: Salt([7; 16]),
        access_group: group.map(Gid),
        now_unix_secs: clock.unix_secs,
    };
    publish(snapshot, &access, &accounts, &info)?;
    Ok(())
}
