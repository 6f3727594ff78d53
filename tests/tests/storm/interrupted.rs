//! The agent on its way from the ledger to a published snapshot, killed at each call to the system that touches a file, or refused by
//! the system there: readers find the old snapshot or the new one, whole, and the next publication leaves nothing of the dead one.
//!
//! `strace` stands between the agent and the system. A process that is killed loses nothing that it has written, unlike a machine that
//! loses power: what would be lost then is told from the order of the calls themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::Command,
};

use countersign_snapshot::{Accounts, Snapshot, Trust};
use e2e::{
    agent,
    client::{Credential, Login, ssh},
    in_bed,
    machine::HELPER,
    process::{self, Output},
    story::{ALICE_UID, Setup, Story},
    tools,
};

use crate::disk::answers;

/// Below it lies everything that the agent writes.
const STATE: &str = "/var/lib/countersign";
const TRACE: &str = "/run/trace";
/// Calls that change a file, or bring it to the disk.
const CHANGING: [&str; 12] = [
    "write",
    "pwrite64",
    "ftruncate",
    "fsync",
    "fdatasync",
    "rename",
    "renameat",
    "renameat2",
    "fchmod",
    "fchown",
    "unlink",
    "unlinkat",
];
/// Calls that matter only between them.
const OTHERS: [&str; 5] = ["openat", "close", "link", "linkat", "mkdir"];

/// One call to the system.
#[derive(Clone, Debug)]
struct Call {
    name: String,
    /// How many calls of this name there were before, this one included.
    ordinal: usize,
    /// And of this name and this file.
    of_file: usize,
    /// What stands between the parentheses; descriptors with their paths.
    arguments: String,
    ended: bool,
}

impl Call {
    /// The files that it is about, in order: of descriptors (that a directory is open is no file of its own here) and names.
    fn paths(&self) -> Vec<PathBuf> {
        let mut directory: Option<PathBuf> = None;
        let mut paths = Vec::new();
        for argument in self.arguments.split(", ") {
            let quoted = argument.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            let open = argument.split_once('<').and_then(|(_, rest)| rest.strip_suffix('>'));
            match (quoted, open) {
                (Some(name), _) => paths.push(directory.take().unwrap_or_default().join(name)),
                (None, Some(path)) if self.name.ends_with("at") => directory = Some(PathBuf::from(path)),
                (None, Some(path)) => paths.push(PathBuf::from(path)),
                (None, None) => {}
            }
        }
        paths
    }

    fn is_below(&self, folder: &str) -> bool {
        self.paths().iter().any(|path| path.starts_with(folder))
    }

    fn changes(&self) -> bool {
        let creates = self.name == "openat" && self.arguments.contains("O_CREAT");
        creates || CHANGING.contains(&self.name.as_str())
    }

    /// The call without generations and random names: the same in each run.
    fn role(&self) -> String {
        let last = |path: &PathBuf| {
            let path = path.strip_prefix(STATE).unwrap_or(path).display().to_string();
            let parts = path.split('.').filter(|part| !part.chars().all(|c| c.is_ascii_hexdigit()) || part.is_empty());
            parts.collect::<Vec<_>>().join(".")
        };
        format!("{} {}", self.name, self.paths().iter().map(last).collect::<Vec<_>>().join(" "))
    }
}

/// Lets the agent sync and publish once, with calls injected as `inject` says, and gives its calls that touch files.
fn traced(inject: &[String]) -> (Output, Vec<Call>) {
    let names = [&CHANGING[..], &OTHERS].concat().join(",");
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-qq", "-s", "0", "-e", "signal=none", "-o", TRACE, "-e"]);
    command.arg(format!("trace={names}")).args(inject);
    let output =
        process::output(command.arg(tools::binary("countersign-agent")).args(["--config", agent::CONFIG, "once"]));
    let text = fs::read_to_string(TRACE).unwrap();
    let mut ordinals = BTreeMap::new();
    let mut calls = Vec::new();
    let mut thread = None;
    for line in text.lines() {
        let (pid, line) = line.split_once(' ').unwrap();
        // The agent's own thread; the others look up names.
        if *thread.get_or_insert(pid) != pid {
            continue;
        }
        let Some((name, rest)) = line.trim_start().split_once('(') else { continue };
        if name.starts_with("<...") {
            continue;
        }
        let (arguments, ended) = match rest.split_once(") ") {
            Some((arguments, result)) => (arguments, !result.trim_start().starts_with("= ?")),
            None => (rest.trim_end_matches(" <unfinished ...>"), false),
        };
        let mut call = Call { name: name.to_owned(), ordinal: 0, of_file: 0, arguments: arguments.to_owned(), ended };
        let file = call.paths().pop();
        for (count, key) in [(&mut call.ordinal, None), (&mut call.of_file, Some(file))] {
            let counted = ordinals.entry((name, key)).or_insert(0);
            *counted += 1;
            *count = *counted;
        }
        calls.push(call);
    }
    (output, calls)
}

/// The calls that are interrupted, one a run. From the first file made for the publication that comes from the ledger to the last sync
/// of its directories all of them; before (what was published last, published again) and after (state and status) those that change
/// something.
struct Plan {
    calls: Vec<Call>,
    /// Those of the publication.
    publication: RangeInclusive<usize>,
    /// The one that publishes.
    published: usize,
}

impl Plan {
    fn of(all: &[Call]) -> Self {
        let accounts = format!("{}/accounts/base.", agent::SNAPSHOT);
        let first =
            |call: &Call| call.changes() && call.arguments.contains(&accounts) && call.arguments.contains(".tmp");
        let first = all.iter().position(first).unwrap();
        let is_sync = |call: &Call| call.name == "fsync" && call.paths() == [Path::new(agent::SNAPSHOT).join("access")];
        let last = all.iter().rposition(is_sync).unwrap();
        let mut calls = Vec::new();
        let (mut begins, mut ends, mut published) = (0, 0, 0);
        for (at, call) in all.iter().enumerate() {
            let within = (first..=last).contains(&at) && call.is_below(agent::SNAPSHOT);
            // A write is found by its file, since how often threads wake each other differs; state and status have random names.
            let found = call.name != "write" || call.is_below(agent::SNAPSHOT);
            let changes = call.changes() && call.is_below(STATE) && !call.is_below(&format!("{STATE}/agent.lock"));
            if !(within || changes && found) {
                continue;
            }
            if at == first {
                begins = calls.len();
            }
            if at == last {
                ends = calls.len();
            }
            if call.name == "rename" && call.paths().last() == Some(&Path::new(agent::SNAPSHOT).join("access/manifest"))
            {
                published = calls.len();
            }
            calls.push(call.clone());
        }
        Self { calls, publication: begins..=ends, published }
    }
}

/// The arguments by which `what` happens to this call, in a run that publishes `generation`. How often something is written elsewhere
/// differs, and so does how many old files are removed: these two are found by their file.
fn inject(call: &Call, what: &str, generation: u64) -> Vec<String> {
    let name = &call.name;
    if !["write", "unlink"].contains(&name.as_str()) {
        return vec!["-e".to_owned(), format!("inject={name}:{what}:when={}", call.ordinal)];
    }
    let path = of_generation(call, generation).pop().unwrap();
    vec!["-e".to_owned(), format!("inject={name}:{what}:when={}", call.of_file), "-P".to_owned(), path]
}

/// The call's files in a run that publishes `generation`.
fn of_generation(call: &Call, generation: u64) -> Vec<String> {
    let renumbered = |path: PathBuf| {
        let parts = path.to_str().unwrap().split('.').map(|part| match part.parse::<u64>() {
            Ok(_) => generation.to_string(),
            Err(_) => part.to_owned(),
        });
        parts.collect::<Vec<_>>().join(".")
    };
    call.paths().into_iter().map(renumbered).collect()
}

/// What a loss of power could take, going by the order of the calls: nothing that is relied on.
fn assert_durable(calls: &[Call]) {
    let mut unsynced: BTreeSet<PathBuf> = BTreeSet::new();
    let mut renamed: BTreeSet<PathBuf> = BTreeSet::new();
    let mut published = Vec::new();
    for call in calls.iter().filter(|call| call.is_below(STATE) && call.changes()) {
        let paths = call.paths();
        let path = paths.last().unwrap().clone();
        let folder = path.parent().unwrap().to_owned();
        match call.name.as_str() {
            "fsync" | "fdatasync" => {
                unsynced.remove(&path);
                renamed.remove(&path);
            }
            "rename" | "renameat" | "renameat2" => {
                assert!(
                    !unsynced.contains(&paths[0]),
                    "{} takes its place before it is on the disk",
                    paths[0].display()
                );
                if path.ends_with("manifest") {
                    assert!(
                        !renamed.contains(&folder),
                        "{} names a file whose name is not on the disk",
                        path.display()
                    );
                    published.push(folder.file_name().unwrap().to_str().unwrap().to_owned());
                }
                renamed.insert(folder);
            }
            "unlink" | "unlinkat" => {
                unsynced.remove(&path);
            }
            _ if path.ends_with("agent.lock") => {}
            _ => {
                unsynced.insert(path);
            }
        }
    }
    assert_eq!((unsynced, renamed), (BTreeSet::new(), BTreeSet::new()), "at its end");
    // What was published last, published again; then the news.
    assert_eq!(published, ["accounts", "access", "accounts", "access"]);
}

/// Both audiences are there in full, and the user whom they speak of is let in. Gives the generation that logins are decided by.
fn whole_generation(story: &Story) -> u64 {
    let directory = Path::new(agent::SNAPSHOT);
    let snapshot = Snapshot::open(directory, Trust::ROOT).unwrap();
    snapshot.verify().unwrap();
    let accounts = Accounts::open(directory, Trust::ROOT).unwrap();
    accounts.verify().unwrap();
    assert!(accounts.account(b"alice").unwrap().is_some());
    let key = story.key.public_line();
    let key = key.split(' ').nth(1).unwrap();
    let uid = ALICE_UID.to_string();
    let line = process::success(Command::new(HELPER).args(["keys", "alice", &uid, "ssh-ed25519", key]));
    assert!(line.ends_with(&format!(" ssh-ed25519 {key}\n")) && line.matches('\n').count() == 1, "{line}");
    snapshot.manifest().generation
}

/// Accounts are no older than access: whoever is let in has a name.
fn assert_named() {
    let directory = Path::new(agent::SNAPSHOT);
    let accounts = Accounts::open(directory, Trust::ROOT).unwrap().manifest().generation;
    assert!(accounts >= Snapshot::open(directory, Trust::ROOT).unwrap().manifest().generation);
}

/// What lies in the snapshot's directories and is neither published nor kept for readers of what was published before.
fn litter() -> Vec<String> {
    let mut litter = Vec::new();
    if Path::new(agent::SNAPSHOT).join("origins.tmp").exists() {
        litter.push("origins.tmp".to_owned());
    }
    let published = Snapshot::open(Path::new(agent::SNAPSHOT), Trust::ROOT).unwrap().manifest().generation;
    for audience in ["access", "accounts"] {
        for entry in fs::read_dir(Path::new(agent::SNAPSHOT).join(audience)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let generation = name.split_once('.').and_then(|(_, generation)| generation.parse::<u64>().ok());
            if name != "manifest" && generation.is_none_or(|generation| generation > published) {
                litter.push(format!("{audience}/{name}"));
            }
        }
    }
    litter
}

/// A host whose agent has published, and what the agent does when it publishes once more.
fn begin() -> (Story, Plan) {
    assert!(Path::new("/usr/bin/strace").exists(), "strace is not installed: run .ci/tools");
    let story = Story::begin(Setup::default());
    agent::once();
    let (output, calls) = traced(&[]);
    assert_eq!(output.status, Some(0), "{output:?}");
    assert_durable(&calls);
    let plan = Plan::of(&calls);
    assert!(plan.calls.len() > 80, "{} calls", plan.calls.len());
    (story, plan)
}

/// What the next publication finds and leaves.
fn assert_way_on(story: &Story, before: u64, what: &str) {
    agent::once();
    assert!(whole_generation(story) > before, "{what}");
    assert_named();
    assert_eq!(litter(), [""; 0], "{what}");
}

#[test]
fn an_agent_killed_at_each_call_that_touches_a_file_leaves_the_old_snapshot_or_the_new_one_whole() {
    in_bed!(|| {
        let (story, plan) = begin();
        for (at, call) in plan.calls.iter().enumerate() {
            let (before, generation) = (answers(), whole_generation(&story));
            let (output, calls) = traced(&inject(call, "signal=KILL", generation + 2));
            let last = calls.last().unwrap();
            assert!(
                output.status != Some(0) && !last.ended && last.role() == call.role(),
                "{call:?}: {last:?} {output:?}"
            );
            let what = format!("killed at {call:?}");
            let after = whole_generation(&story);
            assert_named();
            // The new one is there from the moment at which its manifest takes its place.
            assert_eq!(answers() == before, at <= plan.published, "{what}");
            assert_way_on(&story, after, &what);
        }
        let login = ssh(&story.sshd, "alice", &Credential::key(&story.key), "id -un");
        assert_eq!(login, Login::Accepted("alice\n".to_owned()));
    });
}

#[test]
fn an_agent_refused_by_the_system_at_each_call_says_so_and_leaves_the_old_snapshot_or_the_new_one_whole() {
    in_bed!(|| {
        let (story, plan) = begin();
        for (at, call) in plan.calls.iter().enumerate().filter(|(_, call)| call.changes()) {
            let error = match call.name.as_str() {
                "fchmod" | "fchown" => "EPERM",
                // A disk that is full is another story (`disk.rs`): what changed is published where there is room for that alone.
                _ => "EIO",
            };
            let (before, generation) = (answers(), whole_generation(&story));
            let (output, _) = traced(&inject(call, &format!("error={error}"), generation + 2));
            let what = format!("{error} at {call:?}");
            let after = whole_generation(&story);
            let said = format!("{}{}", output.stdout, output.stderr);
            if plan.publication.contains(&at) {
                assert_eq!(output.status, Some(1), "{what}: {said}");
                assert!(of_generation(call, generation + 2).iter().any(|path| said.contains(path)), "{what}: {said}");
                // What fails about names holds no denial back: access is published all the same.
                let is_about_names =
                    call.paths().iter().any(|path| path.starts_with(Path::new(agent::SNAPSHOT).join("accounts")));
                assert_eq!(answers() == before, at <= plan.published && !is_about_names, "{what}: {said}");
            } else {
                // What was published last cannot be said again as it is, or cannot be remembered: the news are published all the same.
                assert_ne!(answers(), before, "{what}: {said}");
            }
            assert_way_on(&story, after, &what);
        }
        let login = ssh(&story.sshd, "alice", &Credential::key(&story.key), "id -un");
        assert_eq!(login, Login::Accepted("alice\n".to_owned()));
    });
}
