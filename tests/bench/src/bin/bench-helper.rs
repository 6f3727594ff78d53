//! `helper`: from spawn to exit of the shipped helper, beside an empty static Rust binary in the same run, at 1,000 and at 1,000,000
//! users. Usage: `bench-helper FLOOR HELPER [--quick]`.

use std::{error::Error, fs, io, os::unix::fs::chown, path::Path, process::Command};

use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use countersign_bench::{figure, peak_memory_kib, quick, spawn_to_exit};
use countersign_certificate::{Fingerprint20, Id, RealmId};
use countersign_snapshot::{
    BlockRef, Clock, Facts, Freshness, HostState, Key, KeyState, PublishInfo, Salt, Synthetic, publish, synthetic,
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(floor), Some(helper)) = (arguments.next(), arguments.next()) else {
        return Err("expected FLOOR HELPER [--quick]".into());
    };
    let (rounds, sizes): (usize, &[(&str, u32)]) =
        if quick() { (100, &[("1k", 1_000)]) } else { (1000, &[("1k", 1_000), ("1M", 1_000_000)]) };

    for (label, users) in sizes {
        let folder = tempfile::tempdir()?;
        let (key, others) = (key_pair(folder.path(), "known")?, key_pair(folder.path(), "unknown")?);
        let snapshot = folder.path().join("snapshot");
        fill(&snapshot, *users, &key)?;

        let ask = |key: &str| {
            let mut command = Command::new(&helper);
            command.arg("--snapshot").arg(&snapshot).args(["keys", "deploy", "1000", "ssh-ed25519", key]);
            command
        };
        if !String::from_utf8(ask(&key).output()?.stdout)?.contains(&key) {
            return Err("the helper does not answer for the key that is granted".into());
        }
        let mut commands = [Command::new(&floor), ask(&key), ask(&others)];
        let medians = spawn_to_exit(&mut commands, rounds)?;
        let [bottom, granted, refused] = medians.as_slice() else { return Err("three medians expected".into()) };
        let ratio = |value: &f64| (*bottom > 0.0).then(|| value / bottom);
        figure(
            &format!("helper floor ({label})"),
            *bottom,
            "us",
            None,
            "an empty static Rust binary, spawn to exit, p50",
        )?;
        figure(&format!("helper granted ({label} users)"), *granted, "us", ratio(granted), "the empty binary")?;
        figure(&format!("helper refused ({label} users)"), *refused, "us", ratio(refused), "the empty binary")?;

        let (memory, least) = (peak_memory_kib(&mut ask(&key))?, peak_memory_kib(&mut Command::new(&floor))?);
        figure(
            &format!("helper peak memory ({label} users)"),
            kib(memory),
            "KiB",
            Some(kib(memory) / kib(least)),
            "the empty binary",
        )?;
    }
    let (size, least) = (fs::metadata(&helper)?.len(), fs::metadata(&floor)?.len());
    figure("helper size", kib(size) / 1024.0, "KiB", Some(kib(size) / kib(least)), "the empty binary")?;
    Ok(())
}

#[expect(clippy::as_conversions, reason = "kibibytes of this machine fit a double")]
fn kib(value: u64) -> f64 {
    value as f64
}

/// Makes a key pair; gives the public key in base64.
fn key_pair(folder: &Path, name: &str) -> Result<String, Box<dyn Error>> {
    let path = folder.join(name);
    let made =
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "bench", "-f"]).arg(&path).status()?;
    if !made.success() {
        return Err("ssh-keygen failed".into());
    }
    let line = fs::read_to_string(path.with_extension("pub"))?;
    Ok(line.split_whitespace().nth(1).ok_or("a public key line has two words")?.to_owned())
}

/// Publishes a synthetic snapshot in which the key of one more user is granted `deploy`.
fn fill(snapshot: &Path, users: u32, key: &str) -> Result<(), Box<dyn Error>> {
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
        access_group: None,
        now_unix_secs: clock.unix_secs,
    };
    publish(snapshot, &access, &accounts, &info)?;
    Ok(())
}
