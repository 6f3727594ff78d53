//! The host under stress: many logins at once while the snapshot is published anew as fast as that goes, snapshots put back, cut,
//! or replaced by something else, clocks that contradict them, and a full disk. What is right is known for every single answer.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    reason = "a scenario: a failure is its result"
)]

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    os::unix::{
        fs::{FileExt as _, symlink},
        net::UnixDatagram,
    },
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use countersign_bench::storm::{LOGIN, Storm};
use countersign_registry::{Entry, Fingerprint20, entries::Targets};
use countersign_snapshot::{AccountsTables, Clock, PublishInfo, Snapshot, Trust, publish};
use e2e::{
    agent,
    client::{Credential, Login, ssh},
    in_bed, machine,
    machine::{HELPER, KeyFile},
    process::{self, Output},
    sshd::{Options, Sshd},
    story::{Setup, Story, block_of},
    syslog::SystemLog,
};
use nix::{
    mount::{MsFlags, mount},
    sys::stat::Mode,
    unistd::mkfifo,
};

const DAY: u64 = 86_400;
const DECADE: u64 = 10 * 365 * DAY;

/// A host without a chain: what is published is chosen here.
struct Host {
    log: SystemLog,
    sshd: Sshd,
    key: KeyFile,
    storm: Storm,
    marks: u64,
    seen: usize,
}

impl Host {
    fn begin() -> Self {
        let mut log = SystemLog::bind();
        machine::install_helper();
        machine::add_user(LOGIN, 2001);
        let key = KeyFile::generate("key");
        let base64 = key.public_line().split(' ').nth(1).unwrap().to_owned();
        let storm = Storm::begin(Path::new(agent::SNAPSHOT), &base64, Some(machine::helper_group())).unwrap();
        let sshd = Sshd::start(Options::default(), &mut log);
        Self { log, sshd, key, storm, marks: 0, seen: 0 }
    }

    fn ask(&self) -> Output {
        process::output(Command::new(HELPER).args(["keys", LOGIN, "2001", "ssh-ed25519", &self.storm.key]))
    }

    fn login(&self) -> Login {
        ssh(&self.sshd, LOGIN, &Credential::key(&self.key), "whatever")
    }

    /// What the helper has logged since the last call; a line of our own behind its lines shows that all of them are there.
    fn new_lines(&mut self) -> Vec<String> {
        self.marks += 1;
        let mark = format!("mark {}.", self.marks);
        UnixDatagram::unbound().unwrap().send_to(format!("<38>scenario: {mark}").as_bytes(), "/dev/log").unwrap();
        self.log.wait("scenario", &mark);
        let lines = self.log.of("countersign-sshd");
        let new = lines.get(self.seen..).unwrap().to_vec();
        self.seen = lines.len();
        new
    }

    /// Asks once, which has to be refused, and gives the reason.
    fn refusal(&mut self) -> String {
        self.new_lines();
        let output = self.ask();
        assert_eq!((output.status, output.stdout.as_str()), (Some(0), ""));
        let lines = self.new_lines();
        let [line] = lines.as_slice() else { panic!("expected one line: {lines:?}") };
        reason(line).to_owned()
    }

    /// Publishes number 2 as `change` says.
    fn publish(&self, change: impl FnOnce(&mut PublishInfo, &Clock)) {
        let clock = Clock::now().unwrap();
        let (access, mut info) = self.storm.tables(2, &clock).unwrap();
        change(&mut info, &clock);
        publish(&self.storm.directory, &access, &AccountsTables::default(), &info).unwrap();
    }
}

fn reason(line: &str) -> &str {
    line.split(' ').next().unwrap().strip_prefix("reason=").unwrap()
}

/// What holds after this many questions and logins: the counts by reason.
fn judge_lines(lines: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for line in lines {
        let locked = block_of(line).map(|block| block % 2 == 1);
        match (reason(line), locked) {
            ("granted", Some(false)) | ("key-locked", Some(true)) | ("deadline", None) => {}
            _ => panic!("a wrong answer: {line}"),
        }
        *counts.entry(reason(line)).or_insert(0) += 1;
    }
    counts
}

#[test]
fn no_answer_is_wrong_or_torn_while_the_snapshot_is_published_as_fast_as_it_goes() {
    const ASKING: usize = 100;
    const QUESTIONS: usize = 6;
    const LOGGING_IN: usize = 8;
    const LOGINS: usize = 5;
    in_bed!(|| {
        let mut host = Host::begin();
        host.new_lines();
        let stop = AtomicBool::new(false);
        let (publications, answers, logins) = thread::scope(|scope| {
            let host = &host;
            let publisher = scope.spawn(|| host.storm.publish_until(&stop, 1).map_err(|error| error.to_string()));
            let ask = || {
                let at_least = host.storm.published.load(Ordering::SeqCst);
                let output = host.ask();
                assert_eq!(output.status, Some(0), "{output:?}");
                host.storm.number_of(&output.stdout, at_least)
            };
            let asking: Vec<_> =
                (0..ASKING).map(|_| scope.spawn(move || (0..QUESTIONS).map(|_| ask()).collect::<Vec<_>>())).collect();
            let logging_in: Vec<_> = (0..LOGGING_IN)
                .map(|_| scope.spawn(|| (0..LOGINS).map(|_| host.login()).collect::<Vec<_>>()))
                .collect();
            let answers: Vec<_> = asking.into_iter().map(thread::ScopedJoinHandle::join).collect();
            let logins: Vec<_> = logging_in.into_iter().map(thread::ScopedJoinHandle::join).collect();
            stop.store(true, Ordering::Relaxed);
            (publisher.join().unwrap().unwrap(), answers, logins)
        });
        let answers: Vec<_> = answers.into_iter().flat_map(Result::unwrap).collect();
        assert_eq!(answers.len(), ASKING * QUESTIONS);
        let torn: Vec<&String> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
        assert_eq!(torn, [""; 0], "torn, mixed or old answers");
        // The grant's only command says of which publication the session is: never of one in which the key was locked.
        for login in logins.into_iter().flat_map(Result::unwrap) {
            let Login::Accepted(number) = login else { continue };
            assert_eq!(number.trim_end().parse::<u64>().unwrap() % 2, 0, "a login with a locked key");
        }
        let lines = host.new_lines();
        let counts = judge_lines(&lines);
        println!("{publications} publications, {counts:?}");
        // Late answers are refusals; how many there are is the machine's affair. The others have to be of both kinds.
        assert!(publications > 20, "{publications} publications");
        for kind in ["granted", "key-locked"] {
            assert!(counts.get(kind).is_some_and(|count| *count > 20), "{counts:?}");
        }
    });
}

#[test]
fn a_snapshot_that_the_clocks_contradict_lets_nobody_in() {
    in_bed!(|| {
        let mut host = Host::begin();
        let moved = |info: &mut PublishInfo, block: u64| {
            info.facts.latest_block.time_secs = block;
            info.freshness.valid_until_secs = block.saturating_add(300);
        };
        for span in [DAY, DECADE] {
            // The machine's clock is behind, or ahead of, what was published: from here, the snapshot is moved instead.
            host.publish(|info, clock| moved(info, clock.unix_secs + span));
            assert_eq!(host.refusal(), "clock", "behind the block by {span} s");
            host.publish(|info, clock| info.freshness.highest_wall_secs = clock.unix_secs + span);
            assert_eq!(host.refusal(), "clock", "behind what it has shown by {span} s");
            host.publish(|info, clock| moved(info, clock.unix_secs - span));
            assert_eq!(host.refusal(), "snapshot-stale", "ahead by {span} s");
        }
        host.publish(|info, _| info.freshness.boottime_secs += DAY);
        assert_eq!(host.refusal(), "clock", "the boot clock went back");
        host.publish(|info, _| info.freshness.age_consumed_secs = 301);
        assert_eq!(host.refusal(), "snapshot-stale", "too old by the boot clock alone");
        host.publish(|info, _| info.freshness.boot_id.0 = info.freshness.boot_id.0.map(|byte| !byte));
        assert_eq!(host.refusal(), "boot-changed");
        assert_eq!(host.login(), Login::Refused);
        host.publish(|_, _| {});
        assert_eq!(host.login(), Login::Accepted("2\n".to_owned()));
    });
}

/// The base that the manifest names.
fn access_base() -> PathBuf {
    let snapshot = Snapshot::open(Path::new(agent::SNAPSHOT), Trust::ROOT).unwrap();
    Path::new(agent::SNAPSHOT).join(format!("access/base.{}", snapshot.manifest().base.generation))
}

#[test]
fn a_snapshot_cut_short_gone_or_replaced_by_something_else_lets_nobody_in() {
    in_bed!(|| {
        let mut host = Host::begin();
        let manifest = Path::new(agent::SNAPSHOT).join("access/manifest");
        for file in [access_base(), manifest] {
            let whole = fs::read(&file).unwrap();
            let aside = file.with_extension("aside");
            fs::rename(&file, &aside).unwrap();
            let put_back = |file: &Path| {
                let _ = fs::remove_dir(file);
                let _ = fs::remove_file(file);
                fs::copy(&aside, file).unwrap();
                std::os::unix::fs::chown(file, Some(0), Some(machine::helper_group())).unwrap();
            };
            let is_manifest = file.ends_with("manifest");
            assert_eq!(
                host.refusal(),
                if is_manifest { "no-snapshot" } else { "snapshot-corrupt" },
                "{}",
                file.display()
            );
            symlink(&aside, &file).unwrap();
            assert_eq!(host.refusal(), "snapshot-untrusted", "a link in place of {}", file.display());
            put_back(&file);
            fs::remove_file(&file).unwrap();
            fs::create_dir(&file).unwrap();
            assert_eq!(host.refusal(), "snapshot-untrusted", "a directory in place of {}", file.display());
            put_back(&file);
            fs::remove_file(&file).unwrap();
            mkfifo(&file, Mode::S_IRUSR).unwrap();
            assert_eq!(host.refusal(), "snapshot-untrusted", "a pipe in place of {}", file.display());
            put_back(&file);
            assert_eq!(host.login(), Login::Accepted("0\n".to_owned()));
            let open = OpenOptions::new().write(true).open(&file).unwrap();
            for point in 0..64 {
                let length = whole.len() * point / 64;
                open.set_len(u64::try_from(length).unwrap()).unwrap();
                assert_eq!(host.refusal(), "snapshot-corrupt", "{} cut to {length} bytes", file.display());
            }
            open.write_all_at(&whole, 0).unwrap();
            assert_eq!(host.login(), Login::Accepted("0\n".to_owned()));
        }
    });
}

/// Copies a directory as `cp -a` does.
fn copy_folder(from: &str, to: &str) {
    process::success(Command::new("cp").args(["-a", "-T", from, to]));
}

#[test]
fn a_backup_of_the_snapshot_put_back_is_overtaken_by_the_next_publication() {
    in_bed!(|| {
        let mut story = Story::begin(Setup::default());
        let credential = Credential::key(&story.key);
        copy_folder(agent::SNAPSHOT, "/run/backup");
        let lock = Entry::Lock(Targets::Keys(vec![Fingerprint20::of_blob(&story.key.blob())]));
        story.realm.by(|realm| &realm.revoker, &[lock]);
        agent::once();
        let generation = |of: &str| Snapshot::open(Path::new(of), Trust::ROOT).unwrap().manifest().generation;
        let (locked, before) = (generation(agent::SNAPSHOT), generation("/run/backup"));
        assert!(locked > before);
        fs::remove_dir_all(agent::SNAPSHOT).unwrap();
        copy_folder("/run/backup", agent::SNAPSHOT);
        assert_eq!(generation(agent::SNAPSHOT), before);

        agent::once();
        assert!(generation(agent::SNAPSHOT) > before);
        story.log.take("countersign-sshd");
        assert_eq!(ssh(&story.sshd, "alice", &credential, "id -un"), Login::Refused);
        let lines = story.log.take("countersign-sshd");
        assert!(lines.iter().all(|line| reason(line) == "key-locked") && !lines.is_empty(), "{lines:?}");
    });
}

/// A file that takes up all of a file system but so many pages.
struct Filler(File, PathBuf);

impl Filler {
    fn new(folder: &str) -> Self {
        let path = Path::new(folder).join("filler");
        Self(File::create(&path).unwrap(), path)
    }

    /// Takes up nothing any more.
    fn free(self) {
        self.0.set_len(0).unwrap();
        fs::remove_file(&self.1).unwrap();
    }

    fn leave(&self, pages: u64) {
        self.0.set_len(0).unwrap();
        let mut at = 0;
        while self.0.write_all_at(&[1; 4096], at).is_ok() {
            at += 4096;
        }
        self.0.set_len((at / 4096).saturating_sub(pages) * 4096).unwrap();
    }
}

/// What a login is answered from: the base's name and bytes, the blocks that it speaks for, and until when it counts. The manifest
/// around it may have been written anew: at its start the agent says again what it said before, as old as it is.
fn answers() -> (PathBuf, Vec<u8>, [u64; 3]) {
    let snapshot = Snapshot::open(Path::new(agent::SNAPSHOT), Trust::ROOT).unwrap();
    let manifest = snapshot.manifest();
    let blocks = [manifest.facts.latest_block.number, manifest.facts.final_block.number];
    let base = access_base();
    let bytes = fs::read(&base).unwrap();
    (base, bytes, [blocks[0], blocks[1], manifest.freshness.valid_until_secs])
}

#[test]
fn a_full_disk_at_each_write_leaves_the_old_snapshot_as_it_was_and_status_says_why() {
    in_bed!(|| {
        for (folder, size) in [("/var/lib/countersign", "2m"), (agent::SNAPSHOT, "1m")] {
            fs::create_dir_all(folder).unwrap();
            mount(
                Some("small"),
                folder,
                Some("tmpfs"),
                MsFlags::empty(),
                Some(format!("mode=755,size={size}").as_str()),
            )
            .unwrap();
        }
        let story = Story::begin(Setup::default());
        let credential = Credential::key(&story.key);
        let accepted = Login::Accepted("alice\n".to_owned());
        let filler = Filler::new(agent::SNAPSHOT);
        let mut before = answers();
        let mut failures = 0;
        for pages in 0.. {
            assert!(pages < 64, "it is never enough");
            filler.leave(pages);
            let output = agent::try_once();
            if output.status == Some(0) {
                break;
            }
            failures += 1;
            // Either the very same bytes, or what the agent publishes at its start from its own state: no news, and no younger.
            let now = answers();
            let republished = now.0.extension().unwrap().to_str().unwrap().to_owned();
            let republished = output.stderr.contains(&format!("event=republished generation={republished} "));
            assert!(now.2 == before.2 && (now == before || republished), "{pages} pages left: {:?}; {output:?}", now.2);
            before = now;
            let status = agent::status();
            let failure = status.pointer("/last-failure/reason").and_then(serde_json::Value::as_str);
            assert_eq!(failure, Some("publish-failed"), "{pages} pages left: {status}");
        }
        assert!(failures > 2, "{failures} failures");
        assert_eq!(ssh(&story.sshd, "alice", &credential, "id -un"), accepted);
        filler.free();

        // Full where the agent keeps its state: it says so, and logins go on from what is published.
        let filler = Filler::new("/var/lib/countersign");
        filler.leave(0);
        let output = agent::try_once();
        assert!(format!("{output:?}").contains("state-io"), "{output:?}");
        assert_eq!(ssh(&story.sshd, "alice", &credential, "id -un"), accepted);
        filler.free();
        agent::once();
        assert_eq!(ssh(&story.sshd, "alice", &credential, "id -un"), accepted);
    });
}
