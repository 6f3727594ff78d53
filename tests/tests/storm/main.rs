//! The host under stress: many logins at once while the snapshot is published anew as fast as that goes, snapshots put back,
//! damaged or replaced by something else, clocks that contradict them, a full disk, and an agent that is killed or refused by the
//! system at each step. What is right is known for every single answer.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a scenario: a failure is its result"
)]

mod clocks;
mod damage;
mod disk;
mod interrupted;

use std::{
    collections::BTreeMap,
    fs,
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

/// A host without a chain: what is published is chosen here.
struct Host {
    log: SystemLog,
    sshd: Sshd,
    key: KeyFile,
    storm: Storm,
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
        Self { log, sshd, key, storm }
    }

    fn ask(&self) -> Output {
        process::output(Command::new(HELPER).args(["keys", LOGIN, "2001", "ssh-ed25519", &self.storm.key]))
    }

    fn login(&self) -> Login {
        ssh(&self.sshd, LOGIN, &Credential::key(&self.key), "whatever")
    }

    /// What the helper has logged since the last call.
    fn new_lines(&mut self) -> Vec<String> {
        let [lines] = self.log.news(["countersign-sshd"]);
        lines
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

/// The base that the manifest names.
fn access_base() -> PathBuf {
    let snapshot = Snapshot::open(Path::new(agent::SNAPSHOT), Trust::ROOT).unwrap();
    Path::new(agent::SNAPSHOT).join(format!("access/base.{}", snapshot.manifest().base.generation))
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
