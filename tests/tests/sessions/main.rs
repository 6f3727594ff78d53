//! Sessions end when the access ends that let them in: real sshd, real sessions, snapshots without a chain behind them.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a scenario: a failure is its result"
)]

mod journal;
mod others;

use std::{
    fs,
    os::unix::fs::chown,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use countersign_certificate::{Fingerprint20, Id, Serial};
use countersign_sessions::{EventKind, SessionsError, State, Store, end};
use countersign_snapshot::{BatchState, CaState, Clock, Denial, HostState, UserState};
use countersign_sshd::{Accepted, Note, OFFERS, ProcessName, RUNTIME, Record, SESSIONS};
use e2e::{
    agent, in_bed, in_bed_of, machine,
    machine::{KeyFile, helper_group},
    process::{self, Background},
    sessions::{Engineer, Host, Running, client, with_certificate},
    sshd::{BREAK_GLASS_KEYS, Options},
    story::{Setup, Story, now},
    tools, wait,
};

const WAITS: &str = "echo ready; exec sleep 1000";

fn position<T>(of: &[(Id, T)], id: Id) -> usize {
    of.iter().position(|(found, _)| *found == id).unwrap()
}

/// What becomes of one engineer's access, and the reason that sessions end for.
type Change = (&'static str, fn(&mut Host, &Engineer));

const CHANGES: [Change; 8] = [
    ("certificate-revoked", |host, of| host.access.serials.push((of.ca, vec![Serial(of.certificate.serial)]))),
    ("key-revoked", |host, of| {
        host.access.revoked_keys.push((Fingerprint20::of_blob(&of.key.blob()), Denial::Revoked));
    }),
    ("user-locked", |host, of| {
        let at = position(&host.access.users, of.user);
        host.access.users[at].1.state = UserState::Locked;
    }),
    ("ca-locked", |host, of| {
        host.access.cas.iter_mut().find(|ca| ca.id == of.ca).unwrap().state = CaState::Locked;
    }),
    ("batch-locked", |host, of| {
        let at = position(&host.access.batches, of.batch);
        host.access.batches[at].1.state = BatchState::Locked;
    }),
    ("grant-unknown", |host, of| {
        host.access.grants.retain(|(id, _)| *id != of.grant);
        host.access.grant_logins.retain(|(id, _)| *id != of.grant);
    }),
    ("login-not-granted", |host, of| host.access.grant_logins.retain(|(id, _)| *id != of.grant)),
    ("grant-expired", |host, of| {
        let at = position(&host.access.grants, of.grant);
        host.access.grants[at].1.not_after_secs = std::num::NonZeroU64::new(1);
    }),
];

fn each_revocation() {
    let mut host = Host::begin(Options::default(), true);
    // A user who could set PAM's environment would say that sshd accepted a password.
    machine::write("/home/deploy/.pam_environment", "SSH_AUTH_INFO_0 DEFAULT=\"password\"\n", 0o644);
    let engineers: Vec<Engineer> = CHANGES.iter().map(|_| host.engineer()).collect();
    let (stays, root) = (host.engineer(), host.engineer());
    host.publish();
    let mut sessions: Vec<Running> =
        engineers.iter().map(|engineer| host.session(engineer, "deploy", &[], WAITS)).collect();
    let mut stays = host.session(&stays, "deploy", &[], WAITS);
    let mut roots = host.session(&root, "root", &[], WAITS);
    assert_eq!(host.look(0), []);

    for ((reason, change), (engineer, session)) in CHANGES.iter().zip(engineers.iter().zip(&mut sessions)) {
        change(&mut host, engineer);
        host.publish();
        assert_eq!(host.state(session.process), Some((State::Over, Some(*reason))));
        assert_eq!(host.until_ended(session.process), *reason);
        session.wait_closed();
    }
    // Root's session is its sshd itself.
    host.lock_key(&root);
    assert_eq!(host.until_ended(roots.process), "key-locked");
    roots.wait_closed();

    // What is about logins, and not about access: nothing of it ends a session.
    host.facts.latest_block.time_secs -= 10_000;
    host.facts.final_block = host.facts.latest_block;
    host.publish();
    assert_eq!(host.look(0), []);
    fs::remove_dir_all(&host.settings.snapshot).unwrap();
    assert_eq!(host.look(0), []);
    assert!(stays.goes_on());
    host.facts.host_state = HostState::Locked;
    host.publish();
    assert_eq!(host.until_ended(stays.process), "host-locked");
    stays.wait_closed();
    assert_eq!(host.list(), []);
}

#[test]
fn each_revocation_ends_the_session_that_it_is_about_and_no_other_of_the_same_login() {
    in_bed!(each_revocation);
}

#[test]
fn the_same_by_openssh_8_4() {
    in_bed_of!("bullseye", each_revocation);
}

#[test]
fn the_same_by_openssh_10_0() {
    in_bed_of!("trixie", each_revocation);
}

/// A client that holds its standard input open, as a person at a terminal does.
struct Typing(Child);

impl Drop for Typing {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn typing(command: &mut Command) -> Typing {
    Typing(command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

fn ended(client: &mut Typing) {
    wait::until("the client to end", || client.0.try_wait().unwrap());
}

#[test]
fn at_its_certificates_end_a_session_of_any_kind_ends_after_a_word_on_its_terminal() {
    in_bed!(|| {
        let mut host = Host::begin(Options::default(), true);
        let engineer = host.engineer();
        host.publish();
        let mut terminal = host.session(&engineer, "deploy", &["-tt"], WAITS);
        let stubborn = "trap '' TERM HUP; echo ready; while :; do sleep 1000; done";
        let mut stubborn = host.session(&engineer, "deploy", &[], stubborn);

        let before = host.processes();
        let socket = e2e::bed::folder("mux").join("socket");
        let path = format!("ControlPath={}", socket.display());
        let mut master = typing(&mut host.ssh(&engineer, "deploy", &["-M", "-N", "-o", &path]));
        let master_process = wait::until("the master", || host.processes().difference(&before).next().copied());
        wait::until("the master's socket", || socket.exists().then_some(()));
        let multiplexed = ["-o", "ControlMaster=no", "-o", &path, WAITS];
        let mut multiplexed = Background::start("ssh", &mut host.ssh(&engineer, "deploy", &multiplexed));
        multiplexed.wait_line("ready");

        let before = host.processes();
        assert!(before.contains(&master_process));
        let mut forwarding = typing(&mut host.ssh(&engineer, "deploy", &["-N", "-L", "2300:127.0.0.1:2222"]));
        let forwarding_process = wait::until("forwarding", || host.processes().difference(&before).next().copied());
        let before = host.processes();
        let mut sftp = typing(&mut host.ssh(&engineer, "deploy", &["-s", "sftp"]));
        let sftp_process = wait::until("sftp", || host.processes().difference(&before).next().copied());
        assert_eq!(host.processes().len(), 5, "one session for a connection");

        assert_eq!(host.look(engineer.ends_secs - 65), []);
        let warned = host.look(engineer.ends_secs - 50);
        assert_eq!(warned.len(), 5, "{warned:?}");
        assert!(warned.iter().all(|event| event.kind == EventKind::Warned));
        let line = terminal.client.wait_line("countersign: your access ends in ");
        assert!(line.contains(" in 50 s (certificate-expired)"), "{line:?}");
        assert_eq!(host.look(engineer.ends_secs - 50), [], "once");
        assert!(terminal.goes_on() && stubborn.goes_on());

        // Whoever starts the agent again ends no less. The snapshot is too old by now, and this needs none.
        host.restart();
        wait::until("all sessions to end", || {
            host.look(engineer.ends_secs);
            host.list().is_empty().then_some(())
        });
        terminal.wait_closed();
        stubborn.wait_closed();
        ended(&mut master);
        ended(&mut forwarding);
        ended(&mut sftp);
        wait::until("the multiplexed client to end", || multiplexed.ended());
        assert!(![master_process, forwarding_process, sftp_process].iter().any(ProcessName::is_alive));
        assert_eq!(
            process::output(Command::new("pgrep").args(["-r", "R,S,D,T", "-u", "deploy"])).stdout,
            "",
            "nothing is left"
        );
    });
}

fn running(argument: &str) -> bool {
    process::output(Command::new("pgrep").args(["-f", &format!("^sleep {argument}$")])).status == Some(0)
}

#[test]
fn what_a_closed_connection_left_behind_ends_with_the_access_and_nothing_of_others_does() {
    in_bed!(|| {
        let mut host = Host::begin(Options::default(), true);
        let (engineer, other) = (host.engineer(), host.engineer());
        host.publish();
        // As tmux does: a session of its own, no parent but the first process; one without its environment.
        let leave = "setsid -f sleep 4201; setsid -f env -i sleep 4202; echo ready; exec sleep 1000";
        let session = host.session(&engineer, "deploy", &[], leave);
        let mut others = host.session(&other, "deploy", &[], "setsid -f sleep 4203; echo ready; exec sleep 1000");
        let own = Command::new("sleep").arg("4204").spawn().unwrap();
        let mut own = Typing(own);
        host.look(0);
        let process = session.process;
        drop(session.client);
        wait::until("the session's sshd to end", || (!process.is_alive()).then_some(()));
        assert_eq!(host.look(0), []);
        let left = host.list().into_iter().find(|session| session.process == process).unwrap();
        assert_eq!((left.is_connected, left.processes, left.state), (false, 3, State::Holds));
        assert!(running("4201") && running("4202"));

        host.restart();
        host.lock_key(&engineer);
        assert_eq!(host.until_ended(process), "key-locked");
        assert!(!running("4201") && !running("4202"));
        assert!(running("4203") && own.0.try_wait().unwrap().is_none() && others.goes_on());

        // By hand, whatever the access.
        let clock = Clock::now().unwrap();
        assert!(end(&host.settings, others.process, &clock).unwrap());
        others.wait_closed();
        assert!(!running("4203") && own.0.try_wait().unwrap().is_none());
        let unknown = ProcessName { pid: own.0.id(), start_ticks: 1 };
        assert!(matches!(end(&host.settings, unknown, &clock), Err(SessionsError::Unknown(_))));
    });
}

/// An agent that holds the engineers' certificates, in this order. It signs with that of the last only: with the others if somebody says
/// so, and nobody does.
fn unwilling_agent(engineers: &[&Engineer], is_last_willing: bool) -> (Background, PathBuf) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let folder = e2e::bed::folder(&format!("unwilling{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    let socket = folder.join("agent");
    let mut agent = Background::start("ssh-agent", Command::new("ssh-agent").args(["-D", "-a"]).arg(&socket));
    agent.wait_line("SSH_AUTH_SOCK=");
    for (ordinal, engineer) in engineers.iter().enumerate() {
        let key = folder.join(format!("key{ordinal}"));
        fs::copy(&engineer.key.path, &key).unwrap();
        fs::copy(&engineer.certificate.path, folder.join(format!("key{ordinal}-cert.pub"))).unwrap();
        let asks = !is_last_willing || ordinal + 1 < engineers.len();
        let mut add = Command::new("ssh-add");
        process::success(
            add.args(if asks { ["-q", "-c"] } else { ["-q", "-q"] }).arg(&key).env("SSH_AUTH_SOCK", &socket),
        );
    }
    (agent, socket)
}

/// Logs in as `arguments` say, after the engineer's certificate was offered and granted; without arguments by the last one's.
fn logged_in_by(host: &Host, engineers: &[&Engineer], arguments: &[&str]) -> (Background, Background) {
    let (agent, socket) = unwilling_agent(engineers, arguments.is_empty());
    let mut ssh = Command::new("ssh");
    ssh.args(arguments).args(["-o", &format!("IdentityAgent={}", socket.display())]);
    // Of two words about a setting the first counts.
    ssh.args(client(&host.sshd, "deploy").get_args()).env("SSH_ASKPASS", ASKPASS).env("SSH_ASKPASS_REQUIRE", "force");
    let mut client = Background::start("ssh", ssh.arg(WAITS));
    client.wait_line("ready");
    (client, agent)
}

/// The same by the host's own key.
fn logged_in_otherwise(host: &Host, engineer: &Engineer, key: &KeyFile) -> (Background, Background) {
    logged_in_by(host, &[engineer], &["-i", &key.path.display().to_string()])
}

/// The same by a password ([`set_password`]), as `method` asks for it.
fn logged_in_by_password(host: &Host, engineer: &Engineer, method: &str) -> (Background, Background) {
    let methods = format!("PreferredAuthentications=publickey,{method}");
    logged_in_by(host, &[engineer], &["-o", "BatchMode=no", "-o", &methods])
}

const ASKPASS: &str = "/opt/askpass";

/// Gives `deploy` a password, and writes the program that types it.
fn set_password() {
    // Of "correct horse", by `openssl passwd -6 -salt countersign`.
    const HASH: &str =
        "$6$countersign$V.gSFiEJaEtKBZ7yyZNdPDEtyUKGV8sXYWQcHdNOS6Qdj9rlyvmpZiEmPaqXYpGzHcHjSvd1dNXimlSeM9rSY0";
    // In place: another release's sshd has this very file.
    let shadow = fs::read_to_string("/etc/shadow").unwrap();
    fs::write("/etc/shadow", shadow.replace("deploy:*:", &format!("deploy:{HASH}:"))).unwrap();
    machine::write(ASKPASS, "#!/bin/sh\necho correct horse\n", 0o755);
}

fn break_glass() -> KeyFile {
    let key = KeyFile::generate("break-glass");
    machine::write(BREAK_GLASS_KEYS, &format!("{}\n", key.public_line()), 0o644);
    key
}

fn notes() -> Vec<String> {
    let entries = fs::read_dir(format!("{RUNTIME}/{OFFERS}")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_session_is_tied_to_what_sshd_accepted_and_forged_or_stale_notes_touch_nobody() {
    in_bed!(|| {
        let mut host = Host::begin(Options { break_glass: Some("deploy"), ..Options::default() }, true);
        let key = break_glass();
        let engineer = host.engineer();
        host.publish();
        let (mut client, _agent) = logged_in_otherwise(&host, &engineer, &key);
        assert!(host.log.of("countersign-sshd").iter().any(|line| line.starts_with("reason=granted")));
        assert_eq!((host.list(), notes()), (Vec::new(), Vec::new()));

        let mut session = host.session(&engineer, "deploy", &[], WAITS);
        let path = |folder: &str, process: ProcessName| format!("{RUNTIME}/{folder}/{process}");
        let text = fs::read_to_string(path(SESSIONS, session.process)).unwrap();
        let genuine = Record::decode(text.as_bytes()).unwrap();
        assert_eq!(genuine.accepted, Accepted::Pam);
        // The number is another's now; the process is no sshd; the record stands under another's name.
        let mut stranger = Typing(Command::new("sleep").arg("1000").spawn().unwrap());
        let stranger_is = ProcessName::of(stranger.0.id()).unwrap();
        let earlier = ProcessName { start_ticks: stranger_is.start_ticks - 1, ..stranger_is };
        let forged =
            |process: ProcessName| Record { note: Note { process, ..genuine.note.clone() }, ..genuine.clone() };
        fs::write(path(SESSIONS, earlier), Record { connection: None, audit: None, ..forged(earlier) }.encode())
            .unwrap();
        fs::write(path(SESSIONS, stranger_is), forged(stranger_is).encode()).unwrap();
        let sshd = ProcessName::of(host.sshd.pid().unsigned_abs()).unwrap();
        fs::write(path(SESSIONS, sshd), forged(session.process).encode()).unwrap();
        // A note by the right user for the break-glass session's sshd, and one by another user.
        let pgrep = process::success(Command::new("pgrep").args(["-f", "^sshd(-session)?: deploy \\[priv\\]"]));
        let monitors = pgrep.lines().map(|pid| ProcessName::of(pid.parse().unwrap()).unwrap());
        let glass = monitors.into_iter().find(|process| *process != session.process).unwrap();
        let note = Note { asked: 2, alone: true, process: glass, ..genuine.note.clone() };
        fs::write(path(OFFERS, glass), note.encode()).unwrap();
        assert_eq!(host.look(0), [], "root wrote it, and not the helper");
        assert!(!host.processes().contains(&glass));

        host.settings.dry_run = true;
        host.restart();
        host.lock_key(&engineer);
        let events = host.look(0);
        assert!(events.iter().all(|event| event.kind == EventKind::WouldEnd), "{events:?}");
        assert!(events.iter().any(|event| event.process == session.process));
        assert_eq!(host.look(0), [], "said once");
        assert!(session.goes_on());

        host.settings.dry_run = false;
        host.restart();
        wait::until("the session to end", || {
            host.look(0);
            (!session.process.is_alive()).then_some(())
        });
        session.wait_closed();
        let left = host.events().iter().filter(|event| event.kind == EventKind::Left);
        assert!(left.clone().count() > 0 && left.clone().all(|event| event.process == stranger_is));
        assert!(stranger.0.try_wait().unwrap().is_none() && sshd.is_alive() && client.ended().is_none());

        // Whoever else owns the folder is not believed at all.
        chown(format!("{RUNTIME}/{OFFERS}"), Some(2001), Some(2001)).unwrap();
        assert!(Store::open(RUNTIME.as_ref(), helper_group(), genuine.note.boot_id).is_err());
    });
}

#[test]
fn without_pam_a_session_ends_only_where_nothing_else_can_have_let_it_in() {
    in_bed!(|| {
        let options = Options { pam: false, break_glass: Some("deploy"), ..Options::default() };
        let mut host = Host::begin(options, false);
        let key = break_glass();
        let engineer = host.engineer();
        host.publish();
        let (mut client, _agent) = logged_in_otherwise(&host, &engineer, &key);
        let mut session = host.session(&engineer, "deploy", &[], "setsid -f sleep 4205; echo ready; exec sleep 1000");
        assert_eq!(host.state(session.process).unwrap().0, State::Uncertain);
        let adopted = wait::until("the session to be known", || Some(host.look(0)).filter(|events| !events.is_empty()));
        assert_eq!(adopted.iter().map(|event| event.process).collect::<Vec<_>>(), [session.process]);
        host.lock_key(&engineer);
        assert_eq!(host.until_ended(session.process), "key-locked");
        session.wait_closed();
        assert!(!running("4205"));
        let left = host.list();
        assert_eq!(
            left.iter().map(|session| (session.state, session.accepted)).collect::<Vec<_>>(),
            [(State::Uncertain, None)]
        );
        let by_hand = end(&host.settings, left[0].process, &Clock::now().unwrap());
        assert!(matches!(by_hand, Err(SessionsError::Uncertain(_))));
        assert!(client.ended().is_none());
    });
}

fn sessions(arguments: &[&str]) -> serde_json::Value {
    let mut command = Command::new(tools::binary("countersign"));
    let printed = process::success(command.args(["--format", "json", "sessions"]).args(arguments));
    serde_json::from_str(&printed).unwrap()
}

#[test]
fn a_revocation_on_the_ledger_ends_the_session_and_the_command_line_ends_another() {
    in_bed!(|| {
        let mut story = Story::begin(Setup::default());
        machine::install_session_hook();
        let agent = agent::run();
        let folder = std::path::Path::new(RUNTIME).join(SESSIONS);
        wait::until("the folder of records", || folder.is_dir().then_some(()));
        let mint = story.mint();
        let (ends, revoked, other) = (mint.valid_before, mint.make(), mint.make());
        let key = story.key.clone();
        let log_in = |certificate| {
            let mut ssh = with_certificate(&story.sshd, "deploy", &key, certificate);
            let mut client = Background::start("ssh", ssh.arg(WAITS));
            client.wait_line("ready");
            client
        };
        let (mut first, mut second) = (log_in(&revoked), log_in(&other));
        let listed = sessions(&["list"]);
        assert_eq!(listed["total"], 2, "{listed}");
        let of = |serial: u64| {
            let items = listed["items"].as_array().unwrap().iter();
            items.clone().find(|item| item["serial"].as_str() == Some(&serial.to_string())).unwrap().clone()
        };
        let shown = of(revoked.serial);
        assert_eq!(
            (&shown["login"], &shown["from"], &shown["state"]),
            (&"deploy".into(), &"127.0.0.1".into(), &"holds".into())
        );
        assert_eq!((&shown["accepted"], &shown["until"]), (&"pam".into(), &ends.into()));
        assert_eq!(shown["ca"], story.ca.to_string());
        assert_eq!(sessions(&["end"])["items"], serde_json::json!([]), "the access of both holds");

        story.realm.revoke_certificate(story.ca, revoked.serial, ends, now());
        wait::until("the session to end", || first.ended());
        story.log.wait("countersign-agent", "event=session-ending");
        let id = of(other.serial)["id"].as_str().unwrap().to_owned();
        assert_eq!(sessions(&["end", &id, "--dry-run"])["items"][0]["outcome"], "would-end");
        assert!(second.ended().is_none());
        assert_eq!(sessions(&["end", &id])["items"][0]["outcome"], "ended");
        wait::until("the other session to end", || second.ended());
        agent.stop();
    });
}
