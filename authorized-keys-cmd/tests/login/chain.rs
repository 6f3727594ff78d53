//! The AuthorizedKeysCommand that was there before: when it is asked, and what it cannot do.
//!
//! Programs here are real ones, in a file system of their own, where they are root's.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use countersign_certificate::{Fingerprint20, Id, encode_base64};
use countersign_snapshot::{Denial, HostState, Key, KeyState, UserState};
use countersign_sshd::{Answer, Granter, Note, Query, Reason, Verdict, answer};
use nix::mount::{MsFlags, mount};
use nix::sys::socket::{MsgFlags, recv};

use crate::binary::{TRIES, folder_for_notes, helper, inside, is_late, log_socket, logged, own_name, world_of_today};
use crate::support::*;

/// A login of this machine that no grant has ever named, and a key that nobody has registered.
pub(crate) fn local() -> World {
    let mut world = World::plain();
    world.login = "backup".to_owned();
    world.plain_key = ed25519(7);
    world
}

fn answered(world: &World) -> Answer {
    let arguments = if world.plain { world.keys_arguments() } else { world.principals_arguments() };
    let query = Query::from_arguments(&arguments).unwrap();
    world.with_snapshot(|snapshot| answer(snapshot, &query, &world.clock))
}

fn is_passed_on(world: &World) -> bool {
    matches!(answered(world), Answer::Earlier(_))
}

fn refused(world: &World) -> Reason {
    match answered(world) {
        Answer::Ours(Verdict::Refuse { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_earlier_command_is_asked_about_local_logins_and_keys_that_nobody_denies() {
    assert!(is_passed_on(&local()));
    let registered = World { plain_key: registered_key(), ..local() };
    assert!(is_passed_on(&registered), "Alice's key, at a login of which the ledger knows nothing");
    let mut logged_only = local();
    logged_only.facts.require_logged = true;
    assert!(is_passed_on(&logged_only));
    let mut root = World { login: "root".to_owned(), uid: 0, ..local() };
    root.facts.allow_root = true;
    root.access.granted_logins.retain(|login| login != "root");
    assert!(is_passed_on(&root));
    root.facts.allow_root = false;
    assert_eq!(refused(&root), Reason::RootNotAllowed);
}

#[test]
fn an_earlier_command_is_never_asked_about_what_is_the_realms_business() {
    let at = |login: &str| World { login: login.to_owned(), ..local() };
    // A grant leads there, or did once: both are in that table.
    assert_eq!(refused(&at("deploy")), Reason::KeyUnknown);
    let mut ended = at("nightly");
    assert!(is_passed_on(&ended));
    ended.access.granted_logins.push("nightly".to_owned());
    assert_eq!(refused(&ended), Reason::KeyUnknown);
    // A user's, active, locked or gone.
    let mut user = World { uid: 1_900_000_000, ..at("alice") };
    assert_eq!(refused(&user), Reason::KeyUnknown);
    user.user(ALICE).state = UserState::Locked;
    assert_eq!(refused(&user), Reason::UserLocked);
    user.user(ALICE).state = UserState::Removed;
    assert_eq!(refused(&user), Reason::UserUnknown);
    assert_eq!(refused(&at("alice")), Reason::UidMismatch);
    // The same account by another spelling.
    for alias in ["Deploy", "DEPLOY", "deploy@example.org", "ALICE", "Alice@EXAMPLE"] {
        assert_eq!(refused(&at(alias)), Reason::KeyUnknown, "{alias}");
    }
}

#[test]
fn what_is_denied_is_denied_to_an_earlier_command_too() {
    let blob = local().plain_key;
    for (denial, reason) in [(Denial::Locked, Reason::KeyLocked), (Denial::Revoked, Reason::KeyRevoked)] {
        let mut world = local();
        world.access.revoked_keys = vec![(Fingerprint20::of_blob(&blob), denial)];
        assert_eq!(refused(&world), reason);
    }
    let registered = || World { plain_key: registered_key(), ..local() };
    for (state, reason) in [(KeyState::Locked, Reason::KeyLocked), (KeyState::Revoked, Reason::KeyRevoked)] {
        let mut world = registered();
        world.access.keys[0].1.state = state;
        assert_eq!(refused(&world), reason);
    }
    for (state, reason) in [(UserState::Locked, Reason::UserLocked), (UserState::Removed, Reason::UserUnknown)] {
        let mut world = registered();
        world.user(ALICE).state = state;
        assert_eq!(refused(&world), reason);
    }
    let mut stranger = registered();
    stranger.access.keys[0].1 = Key { user: Id([0xee; 16]), ..stranger.access.keys[0].1 };
    assert_eq!(refused(&stranger), Reason::UserUnknown);
    // A second spelling of a revoked key.
    let mut padded = local();
    padded.tamper = Some(|blob| blob.push(0));
    assert_eq!(refused(&padded), Reason::KeyMalformed);
    // Certificates are never passed on, nor is the question for principals.
    let certificate = World { login: "backup".to_owned(), ..World::new() };
    let query = Query::from_arguments(&certificate.keys_arguments()).unwrap();
    let answered = certificate.with_snapshot(|snapshot| answer(snapshot, &query, &certificate.clock));
    assert!(matches!(answered, Answer::Ours(Verdict::Refuse { reason: Reason::Principals, .. })), "{answered:?}");
    assert_eq!(refused(&certificate), Reason::Principals);
}

#[test]
fn without_a_fresh_snapshot_of_a_live_host_an_earlier_command_is_not_asked() {
    let mut stale = local();
    stale.clock.unix_secs = NOW + 296;
    assert_eq!(refused(&stale), Reason::SnapshotStale);
    let mut rebooted = local();
    rebooted.clock.boot_id.0[0] ^= 1;
    assert_eq!(refused(&rebooted), Reason::BootChanged);
    for (state, reason) in [(HostState::Locked, Reason::HostLocked), (HostState::Unknown, Reason::HostUnknown)] {
        let mut world = local();
        world.facts.host_state = state;
        assert_eq!(refused(&world), reason);
    }
}

/// Where programs are: root's all the way up, as sshd asks for it.
const PROGRAMS: &str = "/mnt";

/// A script of root's.
fn program(name: &str, script: &str) -> PathBuf {
    let path = Path::new(PROGRAMS).join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    path
}

struct Bench {
    folder: tempfile::TempDir,
    socket: UnixDatagram,
}

impl Bench {
    fn new() -> Self {
        mount(Some("programs"), PROGRAMS, Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
        let folder = directory();
        let socket = log_socket(folder.path());
        Self { folder, socket }
    }

    fn arguments(world: &World, chain: &[&str]) -> Vec<OsString> {
        let mut arguments = world.keys_arguments();
        arguments.push("--chain".into());
        arguments.extend(chain.iter().map(OsString::from));
        arguments
    }

    /// Its output and the line logged, once it was decided within the deadline: a busy machine is asked again.
    fn decided(&self, chain: &[&str]) -> (Output, String) {
        let ask = || (self.run(helper(), "60", chain).wait_with_output().unwrap(), logged(&self.socket));
        (0..TRIES).map(|_| ask()).find(|(_, line)| !is_late(line)).expect("a decision within the deadline")
    }

    fn run(&self, mut command: Command, timeout: &str, chain: &[&str]) -> Child {
        command.args(["--chain-timeout", timeout, "--snapshot"]).arg(self.folder.path());
        command.args(Self::arguments(&world_of_today(local()), chain)).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// Prints nothing, ends with status 0 and logs this.
    fn refuses(&self, chain: &[&str], logged_as: &str) {
        let (output, line) = self.decided(chain);
        assert_eq!(
            (output.status.code(), output.stdout, output.stderr),
            (Some(0), Vec::new(), Vec::new()),
            "{chain:?}"
        );
        assert_eq!(line, self.line(logged_as));
    }

    fn passes(&self, chain: &[&str], expected: &[u8]) {
        let (output, line) = self.decided(chain);
        assert_eq!(String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(expected));
        assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
        assert_eq!(line, self.line("<38> chained"));
    }

    /// `<38> chained detail="…"` in full.
    fn line(&self, short: &str) -> String {
        let (priority, rest) = short.split_once(' ').unwrap();
        let (reason, detail) = rest.split_once(' ').map_or((rest, String::new()), |(a, b)| (a, format!(" {b}")));
        let key = countersign_certificate::fingerprint_text(&sha256(&local().plain_key));
        format!(
            "{priority}countersign-sshd reason={reason} user=backup key={key} serial=- ca=- batch=- block=500 mode=keys{detail}"
        )
    }
}

fn text(path: impl AsRef<Path>) -> String {
    path.as_ref().to_str().unwrap().to_owned()
}

/// Whether a process is there and not just waiting to be collected.
fn runs(pid: &str) -> bool {
    let state = fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    state.is_ok_and(|stat| !stat.rsplit(')').next().unwrap().starts_with(" Z"))
}

#[test]
fn an_earlier_command_gives_the_lines_of_the_offered_key_or_nothing() {
    inside("chain::an_earlier_command_gives_the_lines_of_the_offered_key_or_nothing", || {
        let bench = Bench::new();
        world_of_today(local()).publish(bench.folder.path());
        let key = format!("ssh-ed25519 {}", encode_base64(&local().plain_key));
        let other = format!("ssh-ed25519 {}", encode_base64(&ed25519(8)));
        let certificate = encode_base64(&World::new().blob());

        // Byte for byte, in its order, twice where it stands twice; of everything else nothing.
        let printed = format!(
            "# keys of backup\n\ncommand=\"a # \\\" b\",no-pty {key} me\r\n{other}\ncert-authority {key}\n\
             principals=\"backup\",cert-authority {other}\nssh-ed25519-cert-v01@openssh.com {certificate}\njunk\n\t{key}"
        );
        fs::write(Path::new(PROGRAMS).join("keys"), &printed).unwrap();
        let good = text(program("good", &format!("cat {PROGRAMS}/keys")));
        let expected = format!("command=\"a # \\\" b\",no-pty {key} me\r\n\t{key}\n");
        bench.passes(&[&good], expected.as_bytes());
        let link = format!("{PROGRAMS}/link");
        symlink(&good, &link).unwrap();
        let no_link = |path: &str| format!("<35> chain-unsafe detail=\"expected a path without links: {path}\"");
        bench.refuses(&[&link], &no_link(&good));
        bench.refuses(&[&format!("{PROGRAMS}/../mnt/good")], &no_link(&good));
        // As many as fit, and one byte more than that.
        let pad = |bytes: usize| format!("echo '{key}'; yes '#' | head -c {}", bytes - key.len() - 1);
        bench.passes(&[&text(program("full", &pad(65_536)))], format!("{key}\n").as_bytes());
        bench.refuses(
            &[&text(program("over", &pad(65_537)))],
            "<35> chain-failed detail=\"it prints more than 65536 bytes\"",
        );

        // What it is run with: its own line of sshd_config, after sshd has filled it in; without arguments, the login.
        let report = format!("{PROGRAMS}/report");
        let show = format!(
            "exec >{report}; for a; do echo \"[$a]\"; done; pwd; env | sort; ls -l /proc/$$/fd | sed 's/.* //' | tail -n +2; \
             readlink /proc/$$/fd/0 /proc/$$/fd/2; ps -o pgid= $$ | tr -d ' ' | sed \"s/^$$\\$/leader/\""
        );
        let show = text(program("show", &show));
        bench.refuses(&[&show, "a b", "", "--chain"], "<37> chain-no-key");
        let seen = fs::read_to_string(&report).unwrap();
        assert!(seen.starts_with("[a b]\n[]\n[--chain]\n/\nPWD=/\n"), "{seen}");
        assert!(seen.ends_with("/dev/null\n/dev/null\nleader\n"), "{seen}");
        bench.refuses(&[&show], "<37> chain-no-key");
        assert!(fs::read_to_string(&report).unwrap().starts_with("[backup]\n/\n"));
        let mut command = helper();
        command.envs([
            ("PATH", "/usr/bin:/bin"),
            ("HOME", "/nowhere"),
            ("LD_PRELOAD", ""),
            ("SECRET", "x"),
            ("LANG", "C"),
        ]);
        command.arg("--snapshot").arg(bench.folder.path());
        command.args(Bench::arguments(&world_of_today(local()), &[&show]));
        assert!(command.output().unwrap().stdout.is_empty());
        assert_eq!(logged(&bench.socket), bench.line("<37> chain-no-key"));
        let seen = fs::read_to_string(&report).unwrap();
        assert!(seen.starts_with("[backup]\n/\nHOME=/nowhere\nLANG=C\nPATH=/usr/bin:/bin\nPWD=/\n"), "{seen}");

        // Nothing of what a program prints that fails.
        for (name, script, ending) in [
            ("status", "exit 3", "it ended with status 3"),
            ("signal", "kill -KILL $$", "signal SIGKILL ended it"),
            ("term", "kill -TERM $$", "signal SIGTERM ended it"),
            ("endless", "exec yes", "it prints more than 65536 bytes"),
        ] {
            let program = program(name, &format!("echo '{key}'\n{script}"));
            bench.refuses(&[&text(program)], &format!("<35> chain-failed detail=\"{ending}\""));
        }
        bench.refuses(&[&text(program("silent", "true"))], "<37> chain-no-key");
        bench.refuses(&[&text(program("others", &format!("echo '{other}'")))], "<37> chain-no-key");

        // Nor of one that somebody else could have written.
        let shown =
            |path: &str| format!("<35> chain-unsafe detail=\"{path}: expected root's, writable by nobody else\"");
        let echo = format!("echo '{key}'");
        for (name, mode) in [("by-group", 0o775), ("by-all", 0o757)] {
            let path = program(name, &echo);
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            bench.refuses(&[&text(&path)], &shown(&text(&path)));
        }
        let open = Path::new(PROGRAMS).join("open");
        fs::create_dir(&open).unwrap();
        let below = program("open/below", &echo);
        bench.passes(&[&text(&below)], format!("{key}\n").as_bytes());
        fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
        bench.refuses(&[&text(&below)], &shown(&text(&open)));
        symlink(&below, format!("{PROGRAMS}/to-open")).unwrap();
        bench.refuses(&[&format!("{PROGRAMS}/to-open")], &no_link(&text(&below)));
        // A link that others may turn round chooses among programs of root's.
        symlink(&good, open.join("to-good")).unwrap();
        bench.refuses(&[&format!("{PROGRAMS}/open/to-good")], &no_link(&good));
        for mode in [0o4755, 0o2755] {
            let path = program("for-others", &echo);
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            bench.refuses(
                &[&text(&path)],
                "<35> chain-unsafe detail=\"expected a program that is neither setuid nor setgid\"",
            );
        }
        bench.refuses(&[PROGRAMS], &shown(PROGRAMS));
        bench.refuses(&["mnt/good"], "<35> chain-unsafe detail=\"expected an absolute path\"");
        bench.refuses(
            &[&format!("{PROGRAMS}/none")],
            "<35> chain-failed detail=\"No such file or directory (os error 2)\"",
        );
        fs::set_permissions(program("plain", &echo), Permissions::from_mode(0o644)).unwrap();
        bench.refuses(
            &[&format!("{PROGRAMS}/plain")],
            "<35> chain-failed detail=\"it cannot be run, or ended with status 127\"",
        );
        // Who runs this as root for all the machine can give files away; in namespaces of one's own there is nobody to give them to.
        if chown(&good, Some(1), None).is_ok() {
            bench.refuses(&[&good], &shown(&good));
        }
    });
}

#[test]
fn an_earlier_command_ends_at_its_deadline_with_all_that_it_has_started() {
    inside("chain::an_earlier_command_ends_at_its_deadline_with_all_that_it_has_started", || {
        let bench = Bench::new();
        world_of_today(local()).publish(bench.folder.path());
        let key = format!("ssh-ed25519 {}", encode_base64(&local().plain_key));
        let pid_file = |name: &str| format!("{PROGRAMS}/{name}.pid");
        let scripts = [
            // Says the right thing and goes on.
            ("hangs", format!("echo '{key}'; echo $$ >{}; exec sleep 600", pid_file("hangs"))),
            ("deaf", format!("trap '' TERM HUP INT; echo $$ >{}; while :; do sleep 600; done", pid_file("deaf"))),
            // Gone with status 0; somebody else still holds the pipe, in its group or in a session of its own.
            ("leaves", format!("echo '{key}'; sleep 600 & echo $! >{}", pid_file("leaves"))),
            ("escapes", format!("echo '{key}'; setsid sh -c 'echo $$ >{}; exec sleep 600' &", pid_file("escapes"))),
        ];
        let running: Vec<Child> =
            scripts.iter().map(|(name, script)| bench.run(helper(), "3", &[&text(program(name, script))])).collect();
        for child in running {
            let output = child.wait_with_output().unwrap();
            assert_eq!((output.status.code(), output.stdout, output.stderr), (Some(0), Vec::new(), Vec::new()));
            let expected = bench.line("<35> chain-timeout detail=\"it was not done after 3 s\"");
            assert_eq!(logged(&bench.socket), expected);
        }
        let started = |name: &str| fs::read_to_string(pid_file(name)).unwrap();
        let begun = std::time::Instant::now();
        for name in ["hangs", "deaf", "leaves"] {
            while runs(&started(name)) {
                assert!(begun.elapsed().as_secs() < 60, "{name} still runs");
                std::thread::yield_now();
            }
        }
        // Whoever has left the group is beyond reach, and prints to nobody.
        let escaped = nix::unistd::Pid::from_raw(started("escapes").trim().parse().unwrap());
        assert!(runs(&started("escapes")));
        nix::sys::signal::kill(escaped, nix::sys::signal::Signal::SIGKILL).unwrap();

        // One that lets go of the pipe is not waited for, but ended.
        let script = format!("echo '{key}'; sleep 600 >/dev/null & echo $! >{}", pid_file("background"));
        bench.passes(&[&text(program("background", &script))], format!("{key}\n").as_bytes());
        while runs(&started("background")) {
            assert!(begun.elapsed().as_secs() < 60, "what it left behind still runs");
            std::thread::yield_now();
        }
        // sshd ends its command at LoginGraceTime; the program goes with it.
        let script = format!("echo $$ >{0}.new; mv {0}.new {0}; exec sleep 600", pid_file("orphan"));
        let mut command = helper();
        command.args(["--chain-timeout", "60", "--snapshot"]).arg(bench.folder.path());
        let orphan = text(program("orphan", &script));
        let mut child = command.args(Bench::arguments(&world_of_today(local()), &[&orphan])).spawn().unwrap();
        while !Path::new(&pid_file("orphan")).exists() {
            assert!(begun.elapsed().as_secs() < 60, "it never started");
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        while runs(&started("orphan")) {
            assert!(begun.elapsed().as_secs() < 60, "it outlives the helper");
            std::thread::yield_now();
        }
        // SIGTERM to its group, as sshd sends it: the helper stays until it can kill also what the program has started.
        let script =
            format!("sleep 600 & echo \"$$ $!\" >{0}.new; mv {0}.new {0}; exec sleep 600", pid_file("grandchild"));
        let program = text(program("grandchild", &script));
        let child = bench.run(helper(), "2", &[&program]);
        while !Path::new(&pid_file("grandchild")).exists() {
            assert!(begun.elapsed().as_secs() < 60, "it never started");
            std::thread::yield_now();
        }
        let signal = |pid: u32| {
            let pid = nix::unistd::Pid::from_raw(pid.try_into().unwrap());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        };
        signal(child.id());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stdout), (Some(0), Vec::new()));
        assert_eq!(logged(&bench.socket), bench.line("<35> chain-timeout detail=\"it was not done after 2 s\""));
        for pid in started("grandchild").split_whitespace() {
            while runs(pid) {
                assert!(begun.elapsed().as_secs() < 60, "{pid} outlives the helper");
                std::thread::yield_now();
            }
        }
    });
}

#[test]
fn an_earlier_command_is_not_run_where_it_is_not_asked() {
    inside("chain::an_earlier_command_is_not_run_where_it_is_not_asked", || {
        let bench = Bench::new();
        let mark = format!("{PROGRAMS}/mark");
        let program = text(program("marks", &format!("touch {mark}; chmod 666 {mark}")));
        world_of_today(local()).publish(bench.folder.path());
        let ask = |arguments: Vec<OsString>, reason: &str| {
            let output = helper().arg("--snapshot").arg(bench.folder.path()).args(&arguments).output().unwrap();
            assert_eq!((output.status.code(), output.stdout), (Some(0), Vec::new()), "{arguments:?}");
            assert!(logged(&bench.socket).contains(&format!("reason={reason} ")), "{arguments:?}");
            assert!(!Path::new(&mark).exists(), "{arguments:?}");
        };
        let today = |world: World| world_of_today(world);
        ask(Bench::arguments(&today(World { login: "deploy".to_owned(), ..local() }), &[&program]), "key-unknown");
        ask(Bench::arguments(&today(World { login: "backup".to_owned(), ..World::new() }), &[&program]), "principals");
        // Principals have no earlier command; and --chain is no key id.
        let mut principals = today(World::new()).principals_arguments();
        principals.extend(["--chain".into(), OsString::from(&program)]);
        ask(principals, "bad-arguments");
        let mut named_so = today(World { login: "backup".to_owned(), ..World::new() }).principals_arguments();
        named_so[5] = "--chain".into();
        named_so[6] = OsString::from(&program);
        ask(named_so, "bad-arguments");
        ask(Bench::arguments(&today(local()), &[]), "bad-arguments");
        for secs in ["0", "61", "-1", "1.5", ""] {
            let options = ["--chain-timeout".into(), OsString::from(secs)].into_iter();
            ask(options.chain(Bench::arguments(&today(local()), &[&program])).collect(), "bad-arguments");
        }
        let mut stale = today(local());
        stale.freshness.boot_id.0[0] ^= 1;
        stale.publish(bench.folder.path());
        ask(Bench::arguments(&today(local()), &[&program]), "boot-changed");
        fs::remove_file(bench.folder.path().join("access/manifest")).unwrap();
        ask(Bench::arguments(&today(local()), &[&program]), "no-snapshot");
        // It would have been asked.
        today(local()).publish(bench.folder.path());
        let output = helper()
            .arg("--snapshot")
            .arg(bench.folder.path())
            .args(Bench::arguments(&today(local()), &[&program]))
            .output();
        assert_eq!(output.unwrap().status.code(), Some(0));
        assert!(Path::new(&mark).exists());
    });
}

/// A fifo into which a program writes that it has begun.
struct Signal(File);

impl Signal {
    fn of(fifo: &str) -> Self {
        // Open for both, so that neither side waits for the other.
        let flags = nix::fcntl::OFlag::O_NONBLOCK.bits();
        Self(File::options().read(true).write(true).custom_flags(flags).open(fifo).unwrap())
    }

    /// Waits for it; false where a line is logged before: whoever starts the program has ended.
    fn comes_before_a_line(&self, socket: &UnixDatagram) -> bool {
        loop {
            let is_logged = recv(socket.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT).is_ok();
            match (&self.0).read(&mut [0; 16]) {
                Ok(_) => return true,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => (),
                Err(error) => panic!("{error}"),
            }
            if is_logged {
                return false;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

#[test]
fn what_an_earlier_command_gave_is_noted_of_sshds_process_and_of_nobody_in_its_place() {
    inside("chain::what_an_earlier_command_gave_is_noted_of_sshds_process_and_of_nobody_in_its_place", || {
        let bench = Bench::new();
        let offers = folder_for_notes();
        world_of_today(local()).publish(bench.folder.path());
        let line = format!("ssh-ed25519 {}\n", encode_base64(&local().plain_key));
        let [begun, go] = ["begun", "go"].map(|name| format!("{PROGRAMS}/{name}"));
        for fifo in [&begun, &go] {
            nix::unistd::mkfifo(fifo.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
        }
        let slow = text(program("slow", &format!("echo '{}'; echo >{begun}; cat {go} >/dev/null", line.trim_end())));
        let begun = Signal::of(&begun);
        // Started by a shell, which ends as soon as the earlier command has begun.
        let orphaned = || {
            let mut parent = Command::new("sh");
            parent.args(["-c", "\"$@\" & read go", "sh"]).arg(helper().get_program());
            parent.env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::piped());
            let mut parent = bench.run(parent, "60", &[&slow]);
            let (mut output, mut printed) = (parent.stdout.take().unwrap(), String::new());
            let has_begun = begun.comes_before_a_line(&bench.socket);
            parent.wait().unwrap();
            if has_begun {
                fs::write(&go, "").unwrap();
            }
            // To the helper's end.
            output.read_to_string(&mut printed).unwrap();
            (printed, logged(&bench.socket))
        };
        let answer = (0..TRIES).map(|_| orphaned()).find(|(_, line)| !is_late(line));
        assert_eq!(answer.expect("a decision within the deadline"), (line.clone(), bench.line("<38> chained")));
        assert_eq!(fs::read_dir(&offers).unwrap().count(), 0, "whoever is in its place is none of sshd's");

        bench.passes(&[&text(program("good", &format!("echo '{}'", line.trim_end())))], line.as_bytes());
        let names: Vec<_> = fs::read_dir(&offers).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [own_name().as_str()]);
        assert_eq!(Note::decode(&fs::read(offers.join(own_name())).unwrap()).unwrap().by, Granter::Earlier);
    });
}

#[test]
fn what_the_realm_says_while_an_earlier_command_runs_holds() {
    inside("chain::what_the_realm_says_while_an_earlier_command_runs_holds", || {
        let bench = Bench::new();
        let key = format!("ssh-ed25519 {}", encode_base64(&local().plain_key));
        let at = |name: &str| format!("{PROGRAMS}/{name}");
        let (begun, go) = (at("begun"), at("go"));
        // Opening a fifo waits for the other end: both sides wait for states, and for no time.
        for fifo in [&begun, &go] {
            nix::unistd::mkfifo(fifo.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
        }
        let slow = text(program("slow", &format!("echo '{key}'; echo >{begun}; cat {go} >/dev/null")));
        let begun = Signal::of(&begun);
        let once = |change: &dyn Fn()| {
            world_of_today(local()).publish(bench.folder.path());
            let child = bench.run(helper(), "60", &[&slow]);
            if begun.comes_before_a_line(&bench.socket) {
                change();
                fs::write(&go, "").unwrap();
            }
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(0));
            (String::from_utf8(output.stdout).unwrap(), logged(&bench.socket))
        };
        let during = |change: &dyn Fn()| {
            let mut tries = (0..TRIES).map(|_| once(change));
            tries.find(|(_, line)| !is_late(line)).expect("a decision within the deadline")
        };
        let publish = |world: World| world_of_today(world).publish(bench.folder.path());
        let nothing = |logged_as: &str| (String::new(), bench.line(logged_as));

        assert_eq!(during(&|| publish(local())), (format!("{key}\n"), bench.line("<38> chained")));
        for (denial, reason) in [(Denial::Locked, "<37> key-locked"), (Denial::Revoked, "<37> key-revoked")] {
            let mut denied = local();
            denied.access.revoked_keys = vec![(Fingerprint20::of_blob(&denied.plain_key), denial)];
            assert_eq!(during(&|| publish(denied.clone())), nothing(reason));
        }
        let mut granted = local();
        granted.access.granted_logins.push("backup".to_owned());
        assert_eq!(during(&|| publish(granted.clone())), nothing("<37> key-unknown"));
        let mut locked = local();
        locked.facts.host_state = HostState::Locked;
        let (printed, line) = during(&|| publish(locked.clone()));
        assert!(printed.is_empty() && line.contains("reason=host-locked "), "{printed} {line}");
        let (printed, line) = during(&|| fs::remove_file(bench.folder.path().join("access/manifest")).unwrap());
        assert!(printed.is_empty() && line.contains("reason=no-snapshot "), "{printed} {line}");
    });
}

#[test]
fn a_hostile_earlier_command_cannot_write_into_the_helpers_pipe_to_sshd() {
    inside("chain::a_hostile_earlier_command_cannot_write_into_the_helpers_pipe_to_sshd", || {
        let bench = Bench::new();
        world_of_today(local()).publish(bench.folder.path());
        // The same user, and none of root's capabilities: as the AuthorizedKeysCommandUser has none.
        let unprivileged = || {
            let mut command = Command::new("setpriv");
            command.args(["--bounding-set=-all", "--inh-caps=-all"]).arg(helper().get_program());
            command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
            command
        };
        let report = format!("{PROGRAMS}/report");
        let line = format!("cert-authority ssh-ed25519 {}", encode_base64(&ed25519(9)));
        // Its parent's descriptors, and its memory. A process of its own shows that both could be had.
        let tries = "try() { if { echo \"$line\" >/proc/$2/fd/1; } 2>/dev/null; then echo $1 fd; fi
             if { true <>/proc/$2/mem; } 2>/dev/null; then echo $1 mem; fi; }";
        let script = format!(
            "line='{line}'; {tries}
             sleep 600 >{PROGRAMS}/own & until [ \"$(cat /proc/$!/comm)\" = sleep ]; do :; done
             {{ try own $!; try helper $PPID; echo done; }} >{report}"
        );
        let hostile = text(program("hostile", &script));
        let output = bench.run(unprivileged(), "60", &[&hostile]).wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stdout, output.stderr), (Some(0), Vec::new(), Vec::new()));
        assert_eq!(logged(&bench.socket), bench.line("<37> chain-no-key"));
        assert_eq!(fs::read_to_string(&report).unwrap(), "own fd\nown mem\ndone\n");
        assert_eq!(fs::read_to_string(format!("{PROGRAMS}/own")).unwrap(), format!("{line}\n"));
    });
}
