//! Snapshots that are cut, flipped bit by bit, gone, swapped for something else, or open to somebody else: through the helper as a
//! process, and through sshd.
//!
//! Two keys ask. The first is granted, by the base and by the delta, whose command differs; the second is granted by the base and locked
//! by the delta. So a delta that is overlooked shows as the first key's old command or as the second key's login.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions, Permissions},
    os::unix::{
        fs::{FileExt as _, PermissionsExt as _, chown, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use countersign_bench::storm::LOGIN;
use countersign_registry::Fingerprint20;
use countersign_snapshot::{AccountsTables, Clock, Denial, PublishInfo, Synthetic, publish, publish_delta, synthetic};
use e2e::{
    agent,
    client::Login,
    in_bed, machine,
    machine::{HELPER, KeyFile},
    probe::{Offer, offer},
    process,
};
use nix::{sys::stat::Mode, unistd::mkfifo};

use crate::{Host, access_base, reason};

const PAGE: usize = 4096;
/// The manifest is flipped in each of its parts of so many bytes.
const MANIFEST_PART: usize = 32;
/// Bytes of a page's first record at which it is found, and some of what it says.
const FIRST_RECORD: usize = 24;
/// How many bits of each page are flipped, one at a time.
const FLIPS: usize = 3;
/// Where their choice begins.
const SEED: u64 = 0x05ee_d0ff_91a6;
/// How long the helper stands at a call: long enough for some publications, and a tenth of what it may take for all.
const HELD_MICROS: u32 = 20_000;
/// How often a busy machine is asked about a call until something was replaced meanwhile, and until there was an answer.
const TRIES: usize = 100;
/// Somebody with an account on the host.
const SOMEBODY: u32 = 2001;

/// A host whose snapshot is a base and a delta, each of several pages.
struct Layers {
    host: Host,
    first: Vec<u8>,
    second: Vec<u8>,
    second_text: String,
    /// Manifest, base, delta.
    files: [PathBuf; 3],
}

/// What was said about both keys.
struct Answer {
    what: String,
    /// The publication that the first key was granted by, if it was; else what was torn.
    first: Result<Option<u64>, String>,
    /// Whether the second was let in.
    second: bool,
}

impl Answer {
    /// With the reasons that the helper logged: whether it is the right answer. Neither right nor refused with a reason is an error.
    fn judge(&self, first: &str, second: &str) -> Result<bool, String> {
        let (first, second) = (reason(first), reason(second));
        let refused = ["snapshot-corrupt", "deadline"];
        let locked = !self.second && (second == "key-locked" || refused.contains(&second));
        match self.first {
            Ok(Some(2)) if locked && first == "granted" => Ok(true),
            Ok(None) if locked && refused.contains(&first) => Ok(false),
            _ => Err(format!("{}: {:?} {first}; the locked key: {} {second}", self.what, self.first, self.second)),
        }
    }
}

impl Layers {
    fn begin() -> Self {
        let host = Host::begin();
        let key = KeyFile::generate("second");
        let (first, second) = (host.key.blob(), key.blob());
        let second_text = key.public_line().split(' ').nth(1).unwrap().to_owned();
        let clock = Clock::now().unwrap();
        let (mut base, info) = host.storm.tables(0, &clock).unwrap();
        let registration = base.keys.first().unwrap().1;
        base.keys.push((Fingerprint20::of_blob(&second), registration));
        let (large, _) = synthetic(&Synthetic { users: 300, revoked_serials: 600, uid_base: 1_950_000_000 });
        base.logins.extend(large.logins);
        base.users.extend(large.users);
        base.memberships.extend(large.memberships);
        base.keys.extend(large.keys);
        base.key_grants.extend(large.key_grants);
        base.serials.extend(large.serials);
        publish(&host.storm.directory, &base, &AccountsTables::default(), &info).unwrap();

        let (second_publication, info) = host.storm.tables(2, &clock).unwrap();
        let (more, _) = synthetic(&Synthetic { users: 200, revoked_serials: 0, uid_base: 1_960_000_000 });
        base.grants = second_publication.grants;
        *base.keys.first_mut().unwrap() = *second_publication.keys.first().unwrap();
        base.revoked_keys = vec![(Fingerprint20::of_blob(&second), Denial::Locked)];
        for ((_, login), (_, other)) in base.logins.iter_mut().zip(more.logins) {
            *login = other;
        }
        let newer = publish_delta(&host.storm.directory, &base, &AccountsTables::default(), &info).unwrap();
        let access = Path::new(agent::SNAPSHOT).join("access");
        let files = [access.join("manifest"), access_base(), access.join(format!("delta.{newer}"))];
        let layers = Self { host, first, second, second_text, files };
        for file in &layers.files[1..] {
            assert!(fs::metadata(file).unwrap().len() >= 4 * u64::try_from(PAGE).unwrap(), "{}", file.display());
        }
        layers
    }

    /// Asks the helper about both keys, the first one first.
    fn ask(&self, what: String) -> Answer {
        let first = self.host.storm.number_of(&self.host.ask().stdout, 2);
        let second = Command::new(HELPER).args(["keys", LOGIN, "2001", "ssh-ed25519", &self.second_text]).output();
        let second = second.unwrap();
        assert_eq!(second.status.code(), Some(0));
        Answer { what, first, second: !second.stdout.is_empty() }
    }

    /// Offers both keys to sshd.
    fn offer(&self) -> [Offer; 2] {
        let offers = offer(LOGIN, &[("ssh-ed25519", &self.first), ("ssh-ed25519", &self.second)]);
        offers.try_into().unwrap()
    }

    /// Everything is as it was published.
    fn assert_whole(&mut self) {
        self.host.new_lines();
        assert_eq!(self.host.login(), Login::Accepted("2\n".to_owned()));
        assert_eq!(self.offer(), [Offer::Taken, Offer::Refused]);
        let lines = self.host.new_lines();
        let reasons: Vec<&str> = lines.iter().map(|line| reason(line)).collect();
        assert_eq!(reasons, ["granted", "granted", "granted", "key-locked"]);
    }

    /// Both keys are refused for the same reason, by the helper and by sshd.
    fn assert_refused(&mut self, expected: &str, what: &str) {
        self.host.new_lines();
        let said = self.ask(what.to_owned());
        assert_eq!((said.first, said.second), (Ok(None), false), "{what}");
        assert_eq!(self.offer(), [Offer::Refused; 2], "{what}");
        let lines = self.host.new_lines();
        let reasons: Vec<&str> = lines.iter().map(|line| reason(line)).collect();
        assert_eq!(reasons, [expected; 4], "{what}");
    }
}

#[test]
fn a_bit_flipped_in_any_page_gives_the_right_answer_or_none() {
    in_bed!(|| {
        let mut layers = Layers::begin();
        layers.assert_whole();
        let mut state = SEED;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap() % below
        };
        let mut answers = Vec::new();
        for file in &layers.files {
            let whole = fs::read(file).unwrap();
            let open = OpenOptions::new().write(true).open(file).unwrap();
            // The manifest is smaller than a page, and read whole at each login.
            let page_bytes = if file.ends_with("manifest") { MANIFEST_PART } else { PAGE };
            for page in 0..whole.len() / page_bytes {
                for flip in 0..FLIPS {
                    // Once in the page's first record: it is the only one of most tables.
                    let within = if flip == 0 { FIRST_RECORD } else { page_bytes };
                    let (at, bit) = (page * page_bytes + random(within), random(8));
                    let what = format!("bit {bit} of byte {at} of {}", file.display());
                    open.write_all_at(&[whole[at] ^ (1 << bit)], u64::try_from(at).unwrap()).unwrap();
                    answers.push(layers.ask(what.clone()));
                    // Once a page through sshd.
                    if flip == 0 {
                        let [first, second] = layers.offer().map(|offer| offer == Offer::Taken);
                        answers.push(Answer {
                            what: format!("{what}, by sshd"),
                            first: Ok(first.then_some(2)),
                            second,
                        });
                    }
                    open.write_all_at(&whole[at..=at], u64::try_from(at).unwrap()).unwrap();
                }
            }
        }
        let lines = layers.host.new_lines();
        assert_eq!(lines.len(), 2 * answers.len());
        let judged: Vec<_> =
            answers.iter().zip(lines.chunks(2)).map(|(answer, lines)| answer.judge(&lines[0], &lines[1])).collect();
        let wrong: Vec<_> = judged.iter().filter_map(|judged| judged.as_ref().err()).collect();
        assert_eq!(wrong, [""; 0], "seed {SEED:#x}");
        let right = judged.iter().filter(|judged| **judged == Ok(true)).count();
        println!("{} flips answered: {right} right, {} refused", answers.len(), answers.len() - right);
        assert!(right > 20 && right + 20 < answers.len(), "{right} of {}", answers.len());
        layers.assert_whole();
    });
}

/// Makes a file what it was, whatever is in its place now.
fn put_back(file: &Path, whole: &[u8]) {
    let _ = fs::remove_dir(file);
    let _ = fs::remove_file(file);
    fs::write(file, whole).unwrap();
    chown(file, Some(0), Some(machine::helper_group())).unwrap();
    fs::set_permissions(file, Permissions::from_mode(0o640)).unwrap();
}

/// A file of the snapshot, its content, and a place beside the snapshot for something else.
type Change = fn(&Path, &[u8], &Path);

/// What may be found in the place of a file, and what is said then.
const IN_PLACE: [(&str, &str, Change); 13] = [
    ("a link to the file itself", "snapshot-untrusted", |file, _, aside| {
        fs::rename(file, aside).unwrap();
        symlink(aside, file).unwrap();
    }),
    ("a directory", "snapshot-untrusted", |file, _, _| {
        fs::remove_file(file).unwrap();
        fs::create_dir(file).unwrap();
    }),
    ("a pipe", "snapshot-untrusted", |file, _, _| {
        fs::remove_file(file).unwrap();
        mkfifo(file, Mode::S_IRUSR | Mode::S_IRGRP).unwrap();
        chown(file, Some(0), Some(machine::helper_group())).unwrap();
    }),
    ("a socket", "snapshot-untrusted", |file, _, _| {
        fs::remove_file(file).unwrap();
        drop(UnixListener::bind(file).unwrap());
    }),
    ("a file of somebody's", "snapshot-untrusted", |file, _, _| chown(file, Some(SOMEBODY), None).unwrap()),
    ("a file of the helper's own user", "snapshot-untrusted", |file, _, _| {
        chown(file, Some(machine::helper_group()), None).unwrap();
    }),
    ("a file that its group may write", "snapshot-untrusted", |file, _, _| mode(file, 0o660)),
    ("a file that others may write", "snapshot-untrusted", |file, _, _| mode(file, 0o642)),
    ("a file to which somebody made a link elsewhere", "snapshot-untrusted", |file, _, aside| {
        fs::hard_link(file, aside).unwrap();
    }),
    ("a link to a file of somebody's", "snapshot-untrusted", |file, whole, aside| {
        fs::write(aside, whole).unwrap();
        chown(aside, Some(SOMEBODY), None).unwrap();
        fs::remove_file(file).unwrap();
        fs::hard_link(aside, file).unwrap();
    }),
    ("a link that somebody made to a file of root's", "snapshot-untrusted", |file, whole, aside| {
        put_back(aside, whole);
        fs::remove_file(file).unwrap();
        fs::hard_link(aside, file).unwrap();
    }),
    ("a file with a byte more", "snapshot-corrupt", |file, whole, _| fs::write(file, [whole, b"\0"].concat()).unwrap()),
    ("an empty file", "snapshot-corrupt", |file, _, _| fs::write(file, b"").unwrap()),
];

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_snapshot_cut_short_gone_or_replaced_by_something_else_lets_nobody_in() {
    in_bed!(|| {
        let mut layers = Layers::begin();
        let aside = Path::new("/var/lib/countersign/aside");
        for file in layers.files.clone() {
            let whole = fs::read(&file).unwrap();
            let name = file.display();
            fs::remove_file(&file).unwrap();
            let gone = if file.ends_with("manifest") { "no-snapshot" } else { "snapshot-corrupt" };
            layers.assert_refused(gone, &format!("no {name}"));
            put_back(&file, &whole);
            for (what, expected, change) in IN_PLACE {
                change(&file, &whole, aside);
                layers.assert_refused(expected, &format!("{what} in place of {name}"));
                put_back(&file, &whole);
                let _ = fs::remove_file(aside);
            }
            layers.assert_whole();
            // Root's own, and nobody else's business: the helper's user cannot read it.
            mode(&file, 0o600);
            layers.host.new_lines();
            assert_eq!(layers.offer(), [Offer::Refused; 2], "{name}");
            let lines = layers.host.new_lines();
            assert!(lines.len() == 2 && lines.iter().all(|line| reason(line) == "snapshot-unreadable"), "{lines:?}");
            put_back(&file, &whole);

            let open = OpenOptions::new().write(true).open(&file).unwrap();
            let mut cut = Vec::new();
            for point in 0..64 {
                open.set_len(u64::try_from(whole.len() * point / 64).unwrap()).unwrap();
                cut.push(layers.ask(format!("{name} cut at {point}/64")));
                open.write_all_at(&whole, 0).unwrap();
            }
            let lines = layers.host.new_lines();
            assert_eq!(lines.len(), 2 * cut.len());
            for (answer, lines) in cut.iter().zip(lines.chunks(2)) {
                assert_eq!((&answer.first, answer.second), (&Ok(None), false), "{}", answer.what);
                assert!(lines.iter().all(|line| reason(line) == "snapshot-corrupt"), "{}: {lines:?}", answer.what);
            }
            layers.assert_whole();
        }
    });
}

#[test]
fn a_snapshot_in_a_directory_that_is_not_roots_alone_lets_nobody_in() {
    in_bed!(|| {
        let mut layers = Layers::begin();
        let (snapshot, access) = (PathBuf::from(agent::SNAPSHOT), Path::new(agent::SNAPSHOT).join("access"));
        for (directory, group, right) in [(&snapshot, 0, 0o755), (&access, machine::helper_group(), 0o750)] {
            let name = directory.display();
            for wrong in [0o770, 0o757, 0o1777] {
                mode(directory, wrong);
                layers.assert_refused("snapshot-untrusted", &format!("{name} of mode {wrong:o}"));
                mode(directory, right);
            }
            for owner in [SOMEBODY, machine::helper_group()] {
                chown(directory, Some(owner), None).unwrap();
                layers.assert_refused("snapshot-untrusted", &format!("{name} of uid {owner}"));
                chown(directory, Some(0), Some(group)).unwrap();
            }
            let aside = Path::new("/var/lib/countersign/aside");
            fs::rename(directory, aside).unwrap();
            symlink(aside, directory).unwrap();
            layers.assert_refused("snapshot-untrusted", &format!("a link in place of {name}"));
            fs::remove_file(directory).unwrap();
            fs::write(directory, b"").unwrap();
            layers.assert_refused("snapshot-untrusted", &format!("a file in place of {name}"));
            fs::remove_file(directory).unwrap();
            layers.assert_refused("no-snapshot", &format!("nothing in place of {name}"));
            fs::rename(aside, directory).unwrap();
            layers.assert_whole();
        }
    });
}

/// Publishes even numbers after `after` until told to stop, and removes at once what the one before left. How many there were.
fn replace_until(host: &Host, stop: &AtomicBool, after: u64) -> u64 {
    let mut number = after;
    while !stop.load(Ordering::Relaxed) {
        number += 2;
        let (access, info) = host.storm.tables(number, &Clock::now().unwrap()).unwrap();
        let info = PublishInfo { now_unix_secs: u64::MAX, ..info };
        publish(&host.storm.directory, &access, &AccountsTables::default(), &info).unwrap();
        host.storm.published.store(number, Ordering::SeqCst);
    }
    number
}

#[test]
fn a_snapshot_replaced_and_removed_while_the_helper_stands_at_any_call_gives_one_publication_or_none() {
    in_bed!(|| {
        let mut host = Host::begin();
        let ask = |host: &Host, options: &[String]| {
            let mut command = Command::new("strace");
            command.args(["-qq", "-o", "/run/trace", "-e", "trace=openat,fstat,statx,pread64"]).args(options);
            process::success(command.args([HELPER, "keys", LOGIN, "2001", "ssh-ed25519", &host.storm.key]))
        };
        // A machine that is too busy to decide in time is asked again, here and below.
        let first = (0..TRIES).map(|_| ask(&host, &[])).find(|answer| !answer.is_empty());
        assert_eq!(host.storm.number_of(&first.unwrap_or_default(), 0), Ok(Some(0)));
        let trace = fs::read_to_string("/run/trace").unwrap();
        let mut seen = BTreeMap::new();
        let calls: Vec<(&str, usize)> = trace
            .lines()
            .filter_map(|line| line.split_once('('))
            .map(|(name, _)| {
                let count: &mut usize = seen.entry(name).or_insert(0);
                *count += 1;
                (name, *count)
            })
            .collect();
        assert!(calls.len() > 15, "{trace}");
        host.new_lines();
        for (name, ordinal) in &calls {
            let (mut is_replaced, mut is_granted) = (false, false);
            for _ in 0..TRIES {
                let at_least = host.storm.published.load(Ordering::SeqCst);
                let stop = AtomicBool::new(false);
                let (answer, newest) = thread::scope(|scope| {
                    let publisher = scope.spawn(|| replace_until(&host, &stop, at_least));
                    let held = format!("inject={name}:delay_enter={HELD_MICROS}:when={ordinal}");
                    let answer = ask(&host, &["-e".to_owned(), held]);
                    stop.store(true, Ordering::Relaxed);
                    (answer, publisher.join().unwrap())
                });
                let number = host.storm.number_of(&answer, at_least);
                // What is said of the note comes after it.
                let lines = host.new_lines();
                let said = lines.first().map(|line| reason(line));
                match (&number, said) {
                    (Ok(Some(_)), Some("granted")) => is_granted = true,
                    (Ok(None), Some("snapshot-corrupt" | "deadline")) => (),
                    _ => panic!("{name} {ordinal}: {number:?} {lines:?}"),
                }
                is_replaced |= newest > at_least + 2;
                if is_replaced && is_granted {
                    break;
                }
            }
            assert!(is_replaced && is_granted, "{name} {ordinal}: replaced {is_replaced}, granted {is_granted}");
        }
    });
}
