//! Sessions beside ours: those that an earlier command let in, logins by something else than what was offered, and what other people run.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::PathBuf,
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use countersign_certificate::Fingerprint20;
use countersign_sessions::{Event, EventKind, State};
use countersign_snapshot::{Denial, HostState, Login, Uid, User, UserState};
use countersign_sshd::{Granter, ProcessName};
use e2e::{
    bed, in_bed, machine,
    machine::{HELPER, KeyFile},
    process::{self, Background},
    sessions::{Engineer, Host},
    sshd::Options,
    wait,
};

use super::{WAITS, logged_in_by, logged_in_by_password, notes, running, set_password};

/// Which sessions, and why.
fn ends(events: &[Event], kind: EventKind) -> BTreeSet<(ProcessName, &'static str)> {
    let of_kind = events.iter().filter(|event| event.kind == kind);
    of_kind.map(|event| (event.process, event.reason.unwrap().code())).collect()
}

#[test]
fn what_an_earlier_command_let_in_ends_when_it_is_denied_and_not_when_it_is_granted_nothing() {
    in_bed!(|| {
        let options = Options { chain: " --chain /opt/earlier/keys --of %u", ..Options::default() };
        let mut host = Host::begin(options, true);
        machine::add_user("rescue", 2002);
        let (old, other) = (KeyFile::generate("old"), KeyFile::generate("other"));
        machine::write("/opt/earlier/all", &format!("{}\n{}\n", old.public_line(), other.public_line()), 0o644);
        machine::write("/opt/earlier/keys", "#!/bin/sh\nexec cat /opt/earlier/all\n", 0o755);
        let engineer = host.engineer();
        host.publish();
        let mut first = host.plain_session(&old, "rescue", "setsid -f sleep 4301; echo ready; exec sleep 1000");
        let mut second = host.plain_session(&other, "rescue", WAITS);
        let mut third = host.plain_session(&other, "deploy", WAITS);
        let mut ours = host.session(&engineer, "deploy", &[], WAITS);
        let listed = host.list();
        let by: Vec<_> = listed.iter().map(|session| (session.process, session.by, session.state)).collect();
        let earlier = |process| (process, Granter::Earlier, State::Holds);
        assert_eq!(by[..3], [first.process, second.process, third.process].map(earlier));
        assert_eq!(by[3..], [(ours.process, Granter::Realm, State::Holds)]);
        assert!(listed[..3].iter().all(|session| session.until_secs.is_none() && session.grant.is_none()));

        // The realm has nothing to do with this host any more, and never granted them anything.
        host.facts.host_state = HostState::Unknown;
        host.access = Default::default();
        host.publish();
        assert_eq!(host.until_ended(ours.process), "host-unknown");
        ours.wait_closed();
        assert_eq!(host.look(0), []);

        host.facts.host_state = HostState::Active;
        let key = Fingerprint20::of_blob(&old.blob());
        host.access.revoked_keys.push((key, Denial::Revoked));
        host.publish();
        host.settings.dry_run = true;
        host.restart();
        let would_end = ends(&host.look(0), EventKind::WouldEnd);
        assert_eq!(would_end, [(first.process, "key-revoked")].into());
        assert!(first.goes_on());
        host.settings.dry_run = false;
        host.restart();
        assert_eq!(ends(&host.look(0), EventKind::Ending), would_end, "as it was said");
        assert_eq!(host.until_ended(first.process), "key-revoked");
        first.wait_closed();
        assert!(!running("4301"));

        // The login is a user's by now, who is locked.
        host.access.logins.push(("rescue".to_owned(), Login { uid: Uid(1_900_000_007), user: engineer.user }));
        host.access.users.push((engineer.user, User { state: UserState::Active, login: "rescue".to_owned() }));
        host.publish();
        assert_eq!(host.look(0), []);
        host.access.users[0].1.state = UserState::Locked;
        host.publish();
        assert_eq!(host.until_ended(second.process), "user-locked");
        second.wait_closed();

        assert!(third.goes_on());
        host.facts.host_state = HostState::Locked;
        host.publish();
        assert_eq!(host.until_ended(third.process), "host-locked");
        third.wait_closed();
        assert_eq!(host.list(), []);
    });
}

#[test]
fn a_login_by_a_password_after_a_granted_certificate_is_nobodys_and_one_by_another_is_that_ones() {
    in_bed!(|| {
        let mut host = Host::begin(Options { methods: "any", ..Options::default() }, true);
        set_password();
        let (offered, used) = (host.engineer(), host.engineer());
        host.publish();
        let (mut typed, _typed_agent) = logged_in_by_password(&host, &offered, "password");
        let (mut asked, _asked_agent) = logged_in_by_password(&host, &offered, "keyboard-interactive");
        for method in ["password", "keyboard-interactive/pam"] {
            let line = format!("Accepted {method} for deploy");
            assert!(host.log.of("sshd").iter().any(|found| found.starts_with(&line)), "{line}");
        }
        let granted = || host.log.of("countersign-sshd").iter().filter(|line| line.contains("reason=granted")).count();
        assert_eq!(granted(), 2, "both were offered");
        assert_eq!((host.list(), notes()), (Vec::new(), Vec::new()));

        let before = host.processes();
        let (other, _other_agent) = logged_in_by(&host, &[&offered, &used], &[]);
        assert_eq!(granted(), 5, "one was offered, and one used");
        let mut other = host.running(other, &before);
        host.lock_key(&offered);
        assert_eq!(host.look(0), []);
        assert!(other.goes_on());
        host.lock_key(&used);
        assert_eq!(host.until_ended(other.process), "key-locked");
        other.wait_closed();
        assert!(typed.ended().is_none() && asked.ended().is_none());
    });
}

/// A program of a local user who has no access, beside everything.
fn as_mallory() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=2003", "--regid=2003", "--clear-groups", "--"]);
    command
}

fn mallory() {
    machine::add_user("mallory", 2003);
}

#[test]
fn tmux_ends_with_the_session_that_started_it_and_another_sessions_or_users_does_not() {
    in_bed!(|| {
        let mut host = Host::begin(Options::default(), true);
        mallory();
        let (engineer, other) = (host.engineer(), host.engineer());
        host.publish();
        let tmux = |name: &str, number: &str| format!("tmux -L {name} new -d 'exec sleep {number}'; ");
        let session = host.session(&engineer, "deploy", &["-tt"], &(tmux("one", "4321") + WAITS));
        let mut others = host.session(&other, "deploy", &["-tt"], &(tmux("two", "4322") + WAITS));
        let connection = host.list()[0].connection.clone().unwrap();
        // Somebody who says that they came by that connection, too.
        let mut forged = as_mallory();
        forged.arg("env").arg(format!("SSH_CONNECTION={connection}")).args(["tmux", "-L", "three", "new", "-d"]);
        process::success(forged.arg("exec sleep 4323"));
        for number in ["4321", "4322", "4323"] {
            wait::until("tmux to run its command", || running(number).then_some(()));
        }
        host.look(0);
        let process = session.process;
        drop(session);
        wait::until("the session's sshd to end", || (!process.is_alive()).then_some(()));
        assert_eq!(host.look(0), []);
        assert!(running("4321"), "it outlives the connection");
        host.lock_key(&engineer);
        assert_eq!(host.until_ended(process), "key-locked");
        assert!(!running("4321"));
        assert!(running("4322") && running("4323") && others.goes_on());
        let servers = process::output(Command::new("pgrep").args(["-r", "R,S,D,T", "-x", "tmux: server"])).stdout;
        assert_eq!(servers.lines().count(), 2, "the first one's server is gone, too");
        host.lock_key(&other);
        assert_eq!(host.until_ended(others.process), "key-locked");
        assert!(!running("4322") && running("4323"));
    });
}

/// A control group of this scenario's own, which is gone afterwards: groups are the machine's, not the bed's.
struct Groups {
    root: PathBuf,
    own: PathBuf,
}

impl Groups {
    fn mount() -> Self {
        let root = bed::folder("groups");
        process::success(Command::new("mount").args(["-t", "cgroup2", "none"]).arg(&root));
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let own = root.join(format!("countersign-bed-{}", since.as_nanos()));
        fs::create_dir(&own).unwrap();
        Self { root, own }
    }

    /// As logind does: each session that PAM opens gets a scope, into which its sshd is moved.
    fn have_pam_make_scopes(&self) {
        let script = format!(
            "#!/bin/sh\ntest \"$PAM_TYPE\" = open_session || exit 0\nscope={}/session-$PPID.scope\nmkdir $scope && echo $PPID >$scope/cgroup.procs\n",
            self.own.display()
        );
        machine::write("/opt/scope", &script, 0o755);
        let pam = fs::read_to_string("/etc/pam.d/sshd").unwrap();
        machine::write("/etc/pam.d/sshd", &format!("{pam}session required pam_exec.so /opt/scope\n"), 0o644);
    }
}

impl Groups {
    /// Moves a process into the group of this name.
    fn take(&self, name: &str, pid: i32) {
        let group = self.own.join(name);
        fs::create_dir_all(&group).unwrap();
        fs::write(group.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        // After a failure there are processes left in them, which would go with the bed a moment later.
        let _ = fs::write(self.own.join("cgroup.kill"), "1");
        let scopes = fs::read_dir(&self.own).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
        let groups = scopes.filter(|path| path.is_dir()).chain([self.own.clone()]);
        groups.for_each(|group| wait::until("a group to be empty", || (fs::remove_dir(&group).is_ok()).then_some(())));
    }
}

#[test]
fn what_left_everything_but_the_scope_of_its_session_ends_with_it_also_roots() {
    in_bed!(|| {
        let mut host = Host::begin(Options::default(), true);
        let groups = Groups::mount();
        groups.have_pam_make_scopes();
        host.settings.control_groups.clone_from(&groups.root);
        host.restart();
        let (engineer, other) = (host.engineer(), host.engineer());
        host.publish();
        let leave = |number: &str| format!("setsid -f env -i sleep {number}; {WAITS}");
        let session = host.session(&engineer, "root", &[], &leave("4331"));
        let mut others = host.session(&other, "root", &[], &leave("4332"));
        // A daemon of root's that claims the connection: root's are told by the scope alone.
        let connection = host.list()[0].connection.clone().unwrap();
        let mut daemon =
            Background::start("sleep", Command::new("sleep").arg("4333").env("SSH_CONNECTION", connection));
        host.look(0);
        let process = session.process;
        drop(session);
        wait::until("the session's sshd to end", || (!process.is_alive()).then_some(()));
        assert_eq!(host.look(0), []);
        let left = host.list().into_iter().find(|session| session.process == process).unwrap();
        assert_eq!((left.is_connected, left.processes), (false, 2), "its command goes on, too");
        host.lock_key(&engineer);
        assert_eq!(host.until_ended(process), "key-locked");
        assert!(!running("4331") && running("4332") && daemon.ended().is_none());
        host.lock_key(&other);
        assert_eq!(host.until_ended(others.process), "key-locked");
        others.wait_closed();
        assert!(!running("4332") && daemon.ended().is_none());
    });
}

#[test]
fn nothing_of_the_scope_that_sshd_itself_was_started_in_ends_with_a_session() {
    in_bed!(|| {
        let mut host = Host::begin(Options { methods: "any", ..Options::default() }, true);
        set_password();
        let groups = Groups::mount();
        host.settings.control_groups.clone_from(&groups.root);
        host.restart();
        let (first, second, offered) = (host.engineer(), host.engineer(), host.engineer());
        host.publish();
        // From a shell: whoever comes is in that shell's scope, and no session gets one of its own.
        groups.take("session-9.scope", host.sshd.pid());
        let mut one = host.session(&first, "deploy", &[], WAITS);
        let mut two = host.session(&second, "deploy", &[], WAITS);
        let (mut typed, _typed_agent) = logged_in_by_password(&host, &offered, "password");
        let mut younger = Background::start("sleep", Command::new("sleep").arg("4334"));
        groups.take("session-9.scope", younger.pid());
        let mut go_on = || typed.ended().is_none() && younger.ended().is_none();

        assert_eq!(host.look(0), []);
        assert_eq!(host.list().iter().map(|session| session.is_connected).collect::<Vec<_>>(), [true; 2]);
        host.lock_key(&first);
        assert_eq!(host.until_ended(one.process), "key-locked");
        one.wait_closed();
        assert!(go_on() && two.goes_on());

        // The same once sshd's listener is there no more, and for an agent that has not seen it there.
        groups.take("elsewhere", host.sshd.pid());
        host.restart();
        assert_eq!(host.look(0), []);
        host.lock_key(&second);
        assert_eq!(host.until_ended(two.process), "key-locked");
        two.wait_closed();
        assert!(go_on());
    });
}

/// All that a local user can say in favour of a process of theirs being part of the engineer's session.
fn strangers(host: &Host, engineer: &Engineer, connection: &str) -> Vec<Background> {
    let session = host.list()[0].process;
    let named = bed::folder("mallory").join("sshd");
    fs::copy("/bin/sleep", &named).unwrap();
    fs::set_permissions(&named, fs::Permissions::from_mode(0o755)).unwrap();
    let name = "sshd: deploy [priv]";
    let exec = format!("exec -a '{name}' {} 4342", named.display());
    let said = format!("publickey ssh-ed25519-cert-v01@openssh.com {}", {
        let line = fs::read_to_string(&engineer.certificate.path).unwrap();
        line.split(' ').nth(1).unwrap().to_owned()
    });
    let note = format!("/run/countersign/offers/{session}");
    let arguments: [&[&str]; 6] = [
        &["sleep", "4341"],
        &["bash", "-c", &exec],
        &["unshare", "-Urpf", "--kill-child", "sleep", "4343"],
        // Root's record of a session is made by a program that everybody may run.
        &["sh", "-c", "/usr/lib/countersign/countersign-sshd-session; exec sleep 4344"],
        &["sh", "-c", &format!("echo forged >{note}; ls /run/countersign/sessions; exec sleep 4345")],
        &["sh", "-c", &format!("{HELPER} keys deploy 2001 ssh-ed25519 AAAA; exec sleep 4346")],
    ];
    let start = |arguments: &&[&str]| {
        let mut command = as_mallory();
        command.args(*arguments).env("SSH_CONNECTION", connection).env("SSH_AUTH_INFO_0", &said);
        command.env("PAM_TYPE", "open_session").env("PAM_USER", "deploy").env("PAM_SERVICE", "sshd");
        Background::start(arguments[0], &mut command)
    };
    let started: Vec<Background> = arguments.iter().map(start).collect();
    for number in 4341..=4346 {
        wait::until("a stranger's program to run", || {
            let found = Command::new("pgrep").args(["-f", &format!(" {number}$")]).output().unwrap();
            found.status.success().then_some(())
        });
    }
    started
}

#[test]
fn no_local_user_has_a_process_of_somebody_else_ended_and_no_disguise_keeps_ones_own() {
    in_bed!(|| {
        let mut host = Host::begin(Options::default(), true);
        mallory();
        let (engineer, other) = (host.engineer(), host.engineer());
        host.publish();
        // Out of the tree twice, without environment, as root of namespaces of its own, and under sshd's name.
        let hide = "cp /bin/sleep sshd; setsid -f env -i setsid -f unshare -Urpf ./sshd 4351; ";
        let mut session = host.session(&engineer, "deploy", &[], &format!("cd; {hide}{WAITS}"));
        wait::until("the hidden process", || hidden().then_some(()));
        let connection = host.list()[0].connection.clone().unwrap();
        let mut strangers = strangers(&host, &engineer, &connection);
        let mut others = host.session(&other, "deploy", &[], WAITS);
        // The other engineer's session says so of itself, too: it is the same user's, and its own sshd's.
        assert_eq!(host.list().len(), 2, "nobody has made a session of anything");
        assert_eq!(fs::metadata("/run/countersign/offers").unwrap().permissions().mode() & 0o777, 0o700);

        // Files that somebody else brought into the folder, as the helper's user or root might by mistake.
        let record = format!("/run/countersign/sessions/{}", others.process);
        let copy = format!("/run/countersign/offers/{}", others.process);
        fs::copy(&record, &copy).unwrap();
        chown(&copy, Some(2003), Some(2003)).unwrap();

        host.lock_key(&engineer);
        assert_eq!(host.until_ended(session.process), "key-locked");
        session.wait_closed();
        assert!(!hidden());
        assert!(others.goes_on() && strangers.iter_mut().all(|stranger| stranger.ended().is_none()));
    });
}

fn hidden() -> bool {
    process::output(Command::new("pgrep").args(["-f", "^./sshd 4351$"])).status == Some(0)
}
