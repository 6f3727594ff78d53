//! `helper`: the shipped helper beside an empty static Rust binary in the same run: from spawn to exit, with warm files and with files that
//! have to come from the disk, peak memory, and size; and what publishing such a snapshot takes, as a base and as a delta of one
//! revocation. Usage: `countersign-bench helper FLOOR HELPER [--quick|--long]`; `--long` is a realm of a million users, a million grants and ten
//! million revocations.

use std::{
    error::Error,
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use countersign_bench::{
    figure, host, long, median_micros,
    memory::memory,
    quick,
    scale::{self, Sizes},
    snapshot::key_pair,
    spawn_to_exit,
};
use countersign_snapshot::{Before, PublishError, Snapshot, Trust, publish, publish_since};
use nix::{
    fcntl::{PosixFadviseAdvice, posix_fadvise},
    time::ClockId,
};

/// Runs of which the middle one's memory counts.
const MEMORY_ROUNDS: usize = 31;

pub(crate) fn run(arguments: &[OsString]) -> Result<(), Box<dyn Error>> {
    let [floor, helper, ..] = arguments else {
        return Err("expected FLOOR HELPER [--quick|--long]".into());
    };
    let (rounds, cold_rounds, label, sizes) = if quick() {
        (100, 20, "2k users, 2k grants, 20k revoked", Sizes { users: 2_000, grants: 2_000, revocations: 20_000 })
    } else if long() {
        let sizes = Sizes { users: 1_000_000, grants: 1_000_000, revocations: 10_000_000 };
        (2_000, 200, "1M users, 1M grants, 10M revoked", sizes)
    } else {
        let sizes = Sizes { users: 100_000, grants: 100_000, revocations: 1_000_000 };
        (1_000, 100, "100k users, 100k grants, 1M revoked", sizes)
    };
    let folder = tempfile::tempdir()?;
    let (key, others) = (key_pair(folder.path(), "known")?, key_pair(folder.path(), "unknown")?);
    let snapshot = folder.path().join("snapshot");
    publications(&snapshot, &sizes, &key, label)?;

    host::enter()?;
    let empty = || Command::new(floor);
    let ask = |key: &str| {
        let mut command = Command::new(helper);
        command.arg("--snapshot").arg(&snapshot).args(["keys", "deploy", "1000", "ssh-ed25519", key]);
        command
    };
    if !String::from_utf8(ask(&key).output()?.stdout)?.contains(&key) {
        return Err("the helper does not answer for the key that is granted".into());
    }
    let medians = spawn_to_exit(&mut [empty(), ask(&key), ask(&others)], rounds)?;
    let [bottom, granted, refused] = medians.as_slice() else { return Err("three medians expected".into()) };
    let ratio = |value: f64| (*bottom > 0.0).then(|| value / bottom);
    figure("helper floor", *bottom, "us", None, "an empty static Rust binary, spawn to exit, p50")?;
    figure(&format!("helper granted ({label})"), *granted, "us", ratio(*granted), "the empty binary (goal 1.50)")?;
    figure(&format!("helper refused ({label})"), *refused, "us", ratio(*refused), "the empty binary (goal 1.50)")?;
    let cold = cold(&mut ask(&key), &snapshot, cold_rounds)?;
    figure(&format!("helper granted, cold ({label})"), cold, "us", ratio(cold), "the empty binary, warm; no goal")?;

    let (least, most) = (memory(&empty(), MEMORY_ROUNDS)?, memory(&ask(&key), MEMORY_ROUNDS)?);
    let more = kib(most.peak_kib) - kib(least.peak_kib);
    let against = format!("{more} KiB more than the empty binary (goal 256), most of it the binary's own pages");
    figure("helper memory", kib(most.peak_kib), "KiB", None, &against)?;
    let more = kib(most.own_kib) - kib(least.own_kib);
    let against = format!("{more} KiB more than the empty binary");
    figure("helper memory, not shared", kib(most.own_kib), "KiB", None, &against)?;
    let (least, size) = (fs::metadata(floor)?.len(), fs::metadata(helper)?.len());
    let more = (kib(size) - kib(least)) / 1024.0;
    let against = format!("{more:.1} KiB more than the empty binary (goal 256)");
    figure("helper size", kib(size) / 1024.0, "KiB", Some(kib(size) / kib(least)), &against)?;
    Ok(())
}

/// Publishes the tables, then one revocation more: the second is what is measured afterwards.
fn publications(snapshot: &Path, sizes: &Sizes, key: &str, label: &str) -> Result<(), Box<dyn Error>> {
    let (mut access, accounts) = scale::tables(sizes, key)?;
    scale::directory(snapshot)?;
    let info = scale::info(None)?;
    let mut published = None;
    let base_took = timed(|| {
        published = Some(publish_since(None, snapshot, &access, &accounts, &info)?);
        Ok::<_, PublishError>(())
    })?;
    let published = published.ok_or("what was published")?;
    let last = access.clone();
    let before = Before { access: &last, accounts: &accounts, published: &published };
    scale::revoke(&mut access, 1)?;
    let since_took = timed(|| publish_since(Some(before), snapshot, &access, &accounts, &info))?;
    drop(last);
    scale::revoke(&mut access, 2)?;
    // As the first publication of a process does, which remembers nothing.
    let delta_took = timed(|| publish(snapshot, &access, &accounts, &info))?;
    let manifest = Snapshot::open(snapshot, Trust::ROOT)?.manifest().clone();
    let delta = manifest.delta.ok_or("a delta expected after one revocation")?;
    let base_bytes: u64 = files(snapshot)?.iter().map(|(_, bytes)| *bytes).sum();
    let base_kib = kib(base_bytes.saturating_sub(delta.bytes)) / 1024.0;
    let delta_kib = kib(delta.bytes) / 1024.0;
    for (place, unit) in [(0, "ms"), (1, "ms of processor")] {
        let took = [base_took, since_took, delta_took].map(|took| took.get(place).map_or(0.0, |took| millis(*took)));
        let [base, since, delta] = took;
        figure(&format!("publish base ({label})"), base, unit, None, "access and accounts, synced and read back")?;
        figure("publish one revocation", since, unit, Some(since / base), "the base")?;
        figure("publish one revocation, remembering nothing", delta, unit, Some(delta / base), "the base")?;
    }
    figure("publish base, bytes", base_kib, "KiB", None, "access and accounts")?;
    figure(
        "publish one revocation, bytes",
        delta_kib,
        "KiB",
        Some(delta_kib / base_kib),
        "the base; two manifests more",
    )?;
    Ok(())
}

/// How long something takes, by the clock and of processor time.
fn timed<T, E: Error + 'static>(what: impl FnOnce() -> Result<T, E>) -> Result<[Duration; 2], Box<dyn Error>> {
    let processor = || ClockId::CLOCK_PROCESS_CPUTIME_ID.now().map(Duration::from);
    let (begun, begun_processor) = (Instant::now(), processor()?);
    what()?;
    Ok([begun.elapsed(), processor()?.saturating_sub(begun_processor)])
}

/// The snapshot's files but its manifests, with their lengths.
fn files(snapshot: &Path) -> Result<Vec<(PathBuf, u64)>, Box<dyn Error>> {
    let mut files = Vec::new();
    for audience in ["access", "accounts"] {
        for entry in fs::read_dir(snapshot.join(audience))? {
            let entry = entry?;
            if entry.file_name() != "manifest" {
                files.push((entry.path(), entry.metadata()?.len()));
            }
        }
    }
    Ok(files)
}

/// The middle of some runs, before each of which the snapshot was put out of the page cache; microseconds.
fn cold(command: &mut Command, snapshot: &Path, rounds: usize) -> Result<f64, Box<dyn Error>> {
    let mut paths: Vec<PathBuf> = files(snapshot)?.into_iter().map(|(path, _)| path).collect();
    paths.push(snapshot.join("access/manifest"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut samples: Vec<Duration> = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        for path in &paths {
            posix_fadvise(File::open(path)?, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        }
        let begun = Instant::now();
        let status = command.status()?;
        samples.push(begun.elapsed());
        if !status.success() {
            return Err(format!("{command:?} ended with {status}").into());
        }
    }
    Ok(median_micros(&mut samples))
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[expect(clippy::as_conversions, reason = "bytes of this machine fit a double")]
fn kib(value: u64) -> f64 {
    value as f64
}
