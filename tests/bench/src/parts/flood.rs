//! `flood`: what one host pays for a realm's log: its whole length at a first sync, and what single writers add to it. A synthetic node
//! serves the log from this process; the agent reads it in a process of its own, once, whose peak memory and processor time these are.
//! Usage: `countersign-bench flood [--quick|--long]`; `countersign-bench flood agent CONFIG` is that process.

use std::{
    error::Error,
    ffi::OsString,
    fs,
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::Ordering,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use countersign_agent::{config::Config, log::Log as AgentLog};
use countersign_bench::{
    figure, long, quick,
    synthetic::{ADMIN, Log, MEMBER, Node, Run, directory, group, longest_public_data, longest_request},
};
use countersign_chain::{
    profile::ProfileName,
    realm_file::{HeaderTrust, RealmFile},
};
use countersign_registry::{entries::Entry, shard};
use countersign_snapshot::Clock;

/// Between two looks at the agent's process.
const LOOK: Duration = Duration::from_millis(2);
/// Clock ticks of `/proc/PID/stat` a second, on every Linux.
const TICKS: f64 = 100.0;

/// What one sync has cost.
#[derive(Default)]
struct Cost {
    seconds: f64,
    peak_mib: f64,
    spilled_mib: f64,
    calls: u64,
    fetched_mib: f64,
    state_mib: f64,
    snapshot_mib: f64,
}

pub(crate) fn run(arguments: &[OsString]) -> Result<(), Box<dyn Error>> {
    if let [command, config] = arguments
        && command == "agent"
    {
        return agent(Path::new(config));
    }
    let sizes: &[u64] = if quick() {
        &[3_000]
    } else if long() {
        &[10_000, 100_000, 300_000, 1_000_000]
    } else {
        &[10_000, 100_000, 300_000]
    };
    let run = |shard, actor, from, count, per_block, entry: fn(u64) -> Entry| Run {
        shard,
        actor,
        from,
        count,
        per_block,
        entry,
    };
    let small = sync(Vec::new())?;
    tell("flood first sync (4 entries)", &small, None)?;
    for size in sizes {
        let cost = sync(vec![run(shard::DIRECTORY, ADMIN, 3, *size, 100, directory)])?;
        tell(&format!("flood first sync ({size} entries)"), &cost, None)?;
    }
    let flood = if quick() { 200 } else { 5_000 };
    let today = shard::day(now_secs()?);
    let base = run(shard::DIRECTORY, ADMIN, 3, 3_000, 100, directory);
    let before = sync(vec![base])?;
    tell("flood none (3,000 entries)", &before, None)?;
    let (members, deliveries) =
        (shard::shard(shard::CLASS_MEMBERS, today), shard::shard(shard::CLASS_DELIVERIES, today));
    let floods = [
        ("admin's small entries", run(shard::DIRECTORY, ADMIN, 0, flood, 20, group)),
        ("member's requests of 4 KiB", run(members, MEMBER, 0, flood, 20, longest_request)),
        ("issuer's public data of 24 KiB", run(deliveries, ADMIN, 0, flood, 20, longest_public_data)),
    ];
    for (name, entries) in floods {
        let base = run(shard::DIRECTORY, ADMIN, 3, 3_000, 100, directory);
        let cost = sync(vec![base, entries])?;
        tell(&format!("flood {flood} {name}"), &cost, Some(&before))?;
    }
    Ok(())
}

type Row = (&'static str, &'static str, fn(&Cost) -> f64);

fn tell(name: &str, cost: &Cost, before: Option<&Cost>) -> Result<(), Box<dyn Error>> {
    let against = if before.is_some() { "without the flood" } else { "-" };
    let rows: [Row; 7] = [
        ("peak memory", "MiB", |cost| cost.peak_mib),
        ("processor time", "s", |cost| cost.seconds),
        ("calls", "calls", |cost| float(cost.calls)),
        ("fetched", "MiB", |cost| cost.fetched_mib),
        ("waiting on disk", "MiB", |cost| cost.spilled_mib),
        ("state", "MiB", |cost| cost.state_mib),
        ("snapshot", "MiB", |cost| cost.snapshot_mib),
    ];
    for (what, unit, value) in rows {
        let ratio = before.map(|before| value(cost) / value(before));
        figure(&format!("{name}: {what}"), value(cost), unit, ratio.filter(|ratio| ratio.is_finite()), against)?;
    }
    Ok(())
}

/// What `countersign-agent once` does.
fn agent(config: &Path) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(countersign_agent::run::once(
        Config::load(config)?,
        AgentLog::stderr(),
        Box::new(Clock::now),
    ))?;
    outcome.failure.map_or(Ok(()), |failure| Err(failure.into()))
}

/// One agent, one sync from nothing.
fn sync(runs: Vec<Run>) -> Result<Cost, Box<dyn Error>> {
    let log = Log::new(runs, now_secs()?)?;
    let pin = log.pin.clone();
    let node = Node::start(log)?;
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    let realm = directory.path().join("realm.toml");
    RealmFile::new(pin, ProfileName::Dev, HeaderTrust::Dev, vec![node.url.parse()?])?.create(&realm)?;
    let config = directory.path().join("agent.toml");
    let state = directory.path().join("state");
    let text = format!(
        "realm-file = \"{}\"\nhost = \"{}\"\nstate-dir = \"{}\"\ngroup = \"root\"\n",
        realm.display(),
        "01".repeat(16),
        state.display()
    );
    fs::write(&config, text)?;
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644))?;
    let mut child = Command::new(std::env::current_exe()?)
        .args([Path::new("flood"), Path::new("agent"), &config])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut cost = Cost::default();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        watch(&child, &mut cost);
        std::thread::sleep(LOOK);
    };
    if !status.success() {
        let mut told = String::new();
        child.stderr.take().ok_or("no standard error")?.read_to_string(&mut told)?;
        return Err(format!("the agent ended with {status}: {told}").into());
    }
    cost.calls = node.calls.load(Ordering::Relaxed);
    cost.fetched_mib = mib(node.bytes.load(Ordering::Relaxed));
    cost.state_mib = mib(fs::metadata(state.join("state"))?.len());
    cost.snapshot_mib = mib(size_of(&state.join("snapshot"))?);
    Ok(cost)
}

/// What the process needs so far; it may end at any moment.
fn watch(child: &Child, cost: &mut Cost) {
    let process = PathBuf::from(format!("/proc/{}", child.id()));
    let status = fs::read_to_string(process.join("status")).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).and_then(first_number);
    cost.peak_mib = peak.map_or(cost.peak_mib, |kib| mib(kib.saturating_mul(1024)));
    let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
    // Behind the program's name, which may hold anything: user and system time are the 12th and 13th.
    let times = stat.rsplit_once(')').map(|(_, fields)| fields.split_whitespace().skip(11).take(2));
    let ticks: u64 = times.into_iter().flatten().filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    cost.seconds = cost.seconds.max(float(ticks) / TICKS);
    let files = fs::read_dir(process.join("fd")).into_iter().flatten().filter_map(Result::ok);
    let nameless = files
        .filter(|file| fs::read_link(file.path()).is_ok_and(|target| target.to_string_lossy().ends_with(" (deleted)")));
    let spilled: u64 = nameless.filter_map(|file| Some(fs::metadata(file.path()).ok()?.len())).sum();
    cost.spilled_mib = cost.spilled_mib.max(mib(spilled));
}

fn first_number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

fn size_of(folder: &Path) -> Result<u64, Box<dyn Error>> {
    let mut bytes = 0_u64;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes = bytes.saturating_add(if metadata.is_dir() { size_of(&entry.path())? } else { metadata.len() });
    }
    Ok(bytes)
}

fn now_secs() -> Result<u64, Box<dyn Error>> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}

fn mib(bytes: u64) -> f64 {
    float(bytes) / 1_048_576.0
}

#[expect(clippy::as_conversions, reason = "counts of this machine fit a double")]
fn float(count: u64) -> f64 {
    count as f64
}
