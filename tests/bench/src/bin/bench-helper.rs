//! `helper`: from spawn to exit of the shipped helper, beside an empty static Rust binary in the same run, at 1,000 and at 1,000,000
//! users. Usage: `bench-helper FLOOR HELPER [--quick]`.

use std::{error::Error, fs, process::Command};

use countersign_bench::{
    figure, quick,
    snapshot::{key_pair, publish_granted},
    spawn_to_exit,
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
        publish_granted(&snapshot, *users, &key, None)?;

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
    }
    let (size, least) = (fs::metadata(&helper)?.len(), fs::metadata(&floor)?.len());
    figure("helper size", kib(size) / 1024.0, "KiB", Some(kib(size) / kib(least)), "the empty binary")?;
    Ok(())
}

#[expect(clippy::as_conversions, reason = "kibibytes of this machine fit a double")]
fn kib(value: u64) -> f64 {
    value as f64
}
