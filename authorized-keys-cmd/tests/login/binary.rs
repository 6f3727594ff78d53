//! The program itself: what it prints, what it leaves behind, and that nothing makes it fall over.
//!
//! It believes root's files only. So each test that needs it to accept something runs this very test again inside namespaces, where
//! whoever runs it is root and has a file tree to mount things in (`unshare`, of util-linux).

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::*;
use countersign_certificate::encode_base64;
use countersign_snapshot::Clock;
use countersign_sshd::{GRACE, Note, OFFERS, ProcessName, RUNTIME};
use nix::mount::{MsFlags, mount};
use nix::sys::socket::{MsgFlags, recv};

const INSIDE: &str = "COUNTERSIGN_TEST_INSIDE";

pub(crate) fn helper() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_countersign-sshd"));
    command.env_clear().stdin(Stdio::null());
    command
}

/// Runs `body` as root of its own namespaces: the first call runs the test `test`, named with its module, again in there.
pub(crate) fn inside(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let run = Command::new("unshare")
        .args(["--map-root-user", "--mount", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare runs (install it: apt-get install util-linux)");
    let output = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(
        run.status.success() && output.contains("1 passed"),
        "inside namespaces (are they allowed here?): {output}"
    );
}

/// Puts an empty /dev with a log socket of ours where the helper logs to. Only inside.
pub(crate) fn log_socket(folder: &Path) -> UnixDatagram {
    let dev = folder.join("dev");
    fs::create_dir(&dev).unwrap();
    let socket = UnixDatagram::bind(dev.join("log")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // /dev/null is opened by the test harness before a process starts: keep it.
    File::create(dev.join("null")).unwrap();
    mount(Some("/dev/null"), &dev.join("null"), None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    mount(Some(&dev), "/dev", None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>).unwrap();
    socket
}

pub(crate) fn logged(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).unwrap();
    let line = String::from_utf8(buffer[..length].to_vec()).unwrap();
    let (head, rest) = line.split_once("]: ").unwrap();
    let (head, _pid) = head.split_once('[').unwrap();
    format!("{head} {rest}")
}

/// [`World::new`] as of the machine's clocks.
pub(crate) fn world_of_today(mut world: World) -> World {
    let clock = Clock::now().unwrap();
    let move_to_today = |secs: &mut u64| *secs = *secs + clock.unix_secs - NOW;
    move_to_today(&mut world.facts.latest_block.time_secs);
    move_to_today(&mut world.facts.final_block.time_secs);
    move_to_today(&mut world.freshness.valid_until_secs);
    move_to_today(&mut world.freshness.highest_wall_secs);
    move_to_today(&mut world.draft.valid_after);
    move_to_today(&mut world.draft.valid_before);
    move_to_today(&mut world.batch().time_secs);
    move_to_today(&mut world.batch().not_after_secs);
    world.freshness.boot_id = clock.boot_id;
    world.freshness.boottime_secs = clock.boottime_secs;
    world
}

fn run(directory: &Path, arguments: &[OsString]) -> Output {
    helper().arg("--snapshot").arg(directory).args(arguments).output().unwrap()
}

/// How often a machine that is too busy for a decision within its deadline is asked again.
pub(crate) const TRIES: usize = 100;

/// Until it was decided within its deadline: [`run`], and the line logged about it.
fn decided(directory: &Path, arguments: &[OsString], socket: &UnixDatagram) -> (Output, String) {
    let mut tries = (0..TRIES).map(|_| (run(directory, arguments), logged(socket)));
    tries.find(|(_, line)| !is_late(line)).expect("a decision within the deadline")
}

/// Whether the log says that the machine was too slow.
pub(crate) fn is_late(line: &str) -> bool {
    line.starts_with("<35>countersign-sshd reason=deadline ")
}

/// The folder for notes, in a file system of its own, so that nothing stays.
pub(crate) fn folder_for_notes() -> PathBuf {
    let options = Some("mode=755,size=64k");
    mount(Some("runtime"), "/run", Some("tmpfs"), MsFlags::empty(), options).unwrap();
    let offers = Path::new(RUNTIME).join(OFFERS);
    fs::create_dir_all(&offers).unwrap();
    fs::set_permissions(&offers, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    offers
}

#[test]
fn an_accepted_login_is_one_line_printed_and_one_line_logged_in_both_modes() {
    inside("binary::an_accepted_login_is_one_line_printed_and_one_line_logged_in_both_modes", || {
        let folder = directory();
        let socket = log_socket(folder.path());
        let world = world_of_today(World::new());
        world.publish(folder.path());
        let ca = encode_base64(&ca_key());
        let facts = format!(
            "user=deploy key={} serial={SERIAL} ca={CA} batch={BATCH} block=500",
            countersign_certificate::fingerprint_text(&sha256(&certified_key()))
        );
        for (arguments, mode, expected) in [
            (
                world.keys_arguments(),
                "keys",
                format!("restrict,pty,cert-authority,principals=\"deploy\" ssh-ed25519 {ca}\n"),
            ),
            (world.principals_arguments(), "principals", "restrict,pty deploy\n".to_owned()),
        ] {
            let (output, line) = decided(folder.path(), &arguments, &socket);
            assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
            assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
            assert_eq!(line, format!("<38>countersign-sshd reason=granted {facts} mode={mode}"));
        }

        let mut world = world_of_today(World::plain());
        world.login = "root".to_owned();
        world.uid = 0;
        world.publish(folder.path());
        let (output, line) = decided(folder.path(), &world.keys_arguments(), &socket);
        assert_eq!((output.status.code(), output.stdout, output.stderr), (Some(0), Vec::new(), Vec::new()));
        let expected =
            "<37>countersign-sshd reason=root-not-allowed user=root key=- serial=- ca=- batch=- block=500 mode=keys";
        assert_eq!(line, expected);
    });
}

#[test]
fn a_refusal_prints_nothing_and_its_log_line_cannot_be_forged() {
    inside("binary::a_refusal_prints_nothing_and_its_log_line_cannot_be_forged", || {
        let folder = directory();
        let socket = log_socket(folder.path());
        let mut arguments = World::new().keys_arguments();
        arguments[1] = OsString::from_vec(b"x\n<0>sshd: reason=granted \xff\"".to_vec());
        let (output, line) = decided(folder.path(), &arguments, &socket);
        assert_eq!((output.status.code(), output.stdout, output.stderr), (Some(0), Vec::new(), Vec::new()));
        let expected = concat!(
            r"<37>countersign-sshd reason=login-unsafe user=x\x0a<0>sshd:\x20reason\x3dgranted\x20\xff\x22 ",
            r#"key=- serial=- ca=- batch=- block=- mode=keys detail="expected 1 to 255 characters of [A-Za-z0-9._@-]""#
        );
        assert_eq!(line, expected);
    });
}

/// The server of a file system, which never answers.
fn silent_server() -> File {
    let fuse = File::options().read(true).write(true).open("/dev/fuse");
    fuse.expect("/dev/fuse can be opened (modprobe fuse)")
}

/// Mounts it there, as long as the server is open: whoever looks inside waits.
fn hang(directory: &Path, fuse: &File) {
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", fuse.as_raw_fd());
    mount(Some("hung"), directory, Some("fuse"), MsFlags::empty(), Some(options.as_str())).unwrap();
}

#[test]
fn a_file_system_that_hangs_ends_in_a_refusal_at_the_deadline() {
    inside("binary::a_file_system_that_hangs_ends_in_a_refusal_at_the_deadline", || {
        let folder = directory();
        let hung = folder.path().join("hung");
        fs::create_dir(&hung).unwrap();
        let server = silent_server();
        hang(&hung, &server);
        let socket = log_socket(folder.path());
        let begun = Instant::now();
        let output = run(&hung, &World::new().keys_arguments());
        let took = begun.elapsed();
        assert_eq!((output.status.code(), output.stdout, output.stderr), (Some(0), Vec::new(), Vec::new()));
        assert!(took >= Duration::from_millis(200), "it did wait: {took:?}");
        let expected = concat!(
            "<35>countersign-sshd reason=deadline user=deploy key=- serial=- ca=- batch=- block=- mode=keys ",
            r#"detail="no decision within 200 ms""#
        );
        assert_eq!(logged(&socket), expected);
    });
}

#[test]
fn a_reader_that_has_gone_ends_it_without_a_signal_and_without_a_note() {
    inside("binary::a_reader_that_has_gone_ends_it_without_a_signal_and_without_a_note", || {
        let folder = directory();
        let full = File::options().write(true).open("/dev/full").unwrap();
        let socket = log_socket(folder.path());
        let offers = folder_for_notes();
        let world = world_of_today(World::new());
        world.publish(folder.path());
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = helper();
        command.arg("--snapshot").arg(folder.path()).args(world.keys_arguments());
        for stdout in [Stdio::from(writer), full.into()] {
            command.stdout(stdout);
            let mut tries = (0..TRIES).map(|_| (command.status().unwrap().code(), logged(&socket)));
            let (code, line) = tries.find(|(_, line)| !is_late(line)).expect("a decision within the deadline");
            assert_eq!(code, Some(1));
            assert!(line.starts_with("<38>countersign-sshd reason=granted "), "{line}");
            assert_eq!(fs::read_dir(&offers).unwrap().count(), 0, "sshd has no answer");
        }
    });
}

/// The line that says that a session will not be ended.
fn not_noted(why: &str) -> String {
    format!("<35>countersign-sshd event=session-not-noted sshd={} message=\"{why}\"", std::process::id())
}

#[test]
fn a_login_is_noted_after_its_line_and_does_not_depend_on_its_note() {
    inside("binary::a_login_is_noted_after_its_line_and_does_not_depend_on_its_note", || {
        let folder = directory();
        let server = silent_server();
        let socket = log_socket(folder.path());
        let world = world_of_today(World::new());
        world.publish(folder.path());
        // What else is logged about a login that is granted: all that it has to say is there when it has ended.
        let log_in = || {
            let (output, _) = decided(folder.path(), &world.principals_arguments(), &socket);
            assert_eq!(String::from_utf8(output.stdout).unwrap(), "restrict,pty deploy\n");
            assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
            let more = recv(socket.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
            more.is_ok().then(|| logged(&socket))
        };
        let late = not_noted(&format!("not done within {} ms", GRACE.as_millis()));
        mount(Some("nothing"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
        assert_eq!(log_in(), None, "a host without sessions to end is told nothing");

        let offers = folder_for_notes();
        let noted = || Note::decode(&fs::read(offers.join(own_name())).unwrap()).unwrap();
        for asked in 1..=2 {
            // A machine that is too busy for a note says so.
            let said = (0..TRIES).map(|_| log_in()).find(|said| said.as_ref() != Some(&late));
            assert_eq!(said, Some(None));
            let note = noted();
            assert_eq!(
                (note.blob, note.login, note.asked, note.alone),
                (world.blob(), world.login.clone(), asked, true)
            );
            assert_eq!(note.boot_id, world.freshness.boot_id);
        }

        let mut filler = File::create("/run/filler").unwrap();
        while filler.write_all(&[0; 4096]).is_ok() {}
        let said = (0..TRIES).filter_map(|_| log_in()).find(|said| *said != late);
        assert_eq!(said, Some(not_noted("No space left on device (os error 28)")));
        assert_eq!(noted().asked, 2, "the note that was there is whole");
        assert_eq!(fs::read_dir(&offers).unwrap().count(), 1, "nothing else is left");
        fs::remove_file("/run/filler").unwrap();

        hang(&offers, &server);
        let begun = Instant::now();
        assert_eq!(log_in(), Some(late.clone()));
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(500), "it did wait: {took:?}");
    });
}

/// What notes about this process are called.
pub(crate) fn own_name() -> String {
    ProcessName::of(std::process::id()).unwrap().to_string()
}

#[test]
fn a_snapshot_that_is_not_there_or_not_roots_prints_nothing() {
    let folder = directory();
    let world = world_of_today(World::new());
    let silent = |directory: &OsStr| {
        let output = run(Path::new(directory), &world.keys_arguments());
        assert_eq!(
            (output.status.code(), output.stdout, output.stderr),
            (Some(0), Vec::new(), Vec::new()),
            "{directory:?}"
        );
    };
    silent(folder.path().join("nowhere").as_os_str());
    silent(OsStr::new(""));
    silent(OsStr::new("/dev/null"));
    world.publish(folder.path());
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    silent(folder.path().as_os_str());
}

#[test]
fn no_arguments_make_it_print_or_fall_over() {
    let long = OsString::from("A".repeat(100_000));
    let garbage = OsString::from_vec(vec![0xff, 0xfe, b'\n', b'%', b's']);
    let empty = OsString::new();
    let good = World::new().principals_arguments();
    let mut cases: Vec<Vec<OsString>> = vec![
        vec![],
        vec!["--help".into()],
        vec!["--snapshot".into()],
        vec!["--snapshot".into(), "/nowhere".into()],
        vec!["keys".into()],
        good[..5].to_vec(),
        vec![garbage.clone(); 5],
        vec![empty.clone(); 8],
        vec!["keys".into(); 1000],
    ];
    for at in 0..good.len() {
        for bad in [&long, &garbage, &empty] {
            let mut arguments = good.clone();
            arguments[at].clone_from(bad);
            cases.push(arguments);
        }
    }
    for arguments in cases {
        let output = helper().args(&arguments).output().unwrap();
        assert_eq!((output.status.code(), output.stdout), (Some(0), Vec::new()));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    }
}

#[test]
fn a_hundred_runs_leave_no_process_behind() {
    // sshd waits until standard output is closed: a child that keeps it open would stall the login.
    for _ in 0..100 {
        let mut child = helper().arg("keys").stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.next().is_none());
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}
