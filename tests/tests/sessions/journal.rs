//! Without PAM: what let a session in is what sshd told the journal, and nobody else can have told it.

use std::process::Command;

use countersign_sessions::State;
use countersign_sshd::Accepted;
use e2e::{
    in_bed, machine, process,
    sessions::{Engineer, Host},
    sshd::Options,
    syslog::SystemLog,
    wait,
};

use super::{WAITS, break_glass, logged_in_by, logged_in_by_password, logged_in_otherwise, notes, set_password};

/// What sshd would say of the engineer's certificate, as far as anybody can know it.
fn accepted_certificate(engineer: &Engineer) -> String {
    let text = process::success(Command::new("ssh-keygen").arg("-Lf").arg(&engineer.certificate.path));
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name)).unwrap();
        line.trim().to_owned()
    };
    let ca = field("Signing CA:").split(' ').nth(1).unwrap().to_owned();
    format!(
        "Accepted publickey for deploy from 127.0.0.1 port 50000 ssh2: ED25519-CERT {} ID {} (serial {}) CA ED25519 {ca}",
        engineer.key.fingerprint(),
        field("Key ID:").trim_matches('"'),
        engineer.certificate.serial
    )
}

/// Has a local user write `line` in sshd's name, for the sshd process `pid`, in both of the ways that there are.
fn forge(pid: u32, line: &str) {
    let as_user = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=2003", "--regid=2003", "--clear-groups", "--"]);
        command
    };
    process::success(as_user().args(["logger", "-t", "sshd", &format!("--id={pid}"), line]));
    let fields = format!(
        "MESSAGE={line}\nSYSLOG_IDENTIFIER=sshd\nSYSLOG_PID={pid}\n_PID={pid}\n_UID=0\n_TRANSPORT=syslog\n_EXE=/usr/sbin/sshd\n"
    );
    process::success(as_user().args(["sh", "-c", "printf %s \"$1\" | logger --journald", "sh", &fields]));
    wait::until("the journal to have both", || {
        let found = process::success(Command::new("journalctl").args(["-q", "-o", "cat", "--no-pager", "_UID=2003"]));
        (found.lines().filter(|found| *found == line).count() >= 2).then_some(())
    });
}

#[test]
fn without_pam_the_journal_tells_what_let_a_session_in_and_what_users_write_there_counts_for_nothing() {
    in_bed!(|| {
        let options = Options { pam: false, methods: "any", break_glass: Some("deploy"), ..Options::default() };
        let mut host = Host::begin_with(SystemLog::behind_journal(), options, false);
        machine::add_user("mallory", 2003);
        set_password();
        let key = break_glass();
        let (offered, used, roots) = (host.engineer(), host.engineer(), host.engineer());
        host.publish();

        // Offered, granted, and not what they logged in with: whatever somebody says who wants them ended.
        let (mut glass, _glass_agent) = logged_in_otherwise(&host, &offered, &key);
        let (mut typed, _typed_agent) = logged_in_by_password(&host, &offered, "password");
        let open = host.list();
        assert_eq!(open.iter().map(|session| session.state).collect::<Vec<_>>(), [State::Uncertain; 2]);
        let lie = accepted_certificate(&offered);
        open.iter().for_each(|session| forge(session.process.pid, &lie));
        wait::until("both to be nobody's", || {
            assert_eq!(host.look(0), []);
            notes().is_empty().then_some(())
        });
        assert_eq!(host.list(), []);

        // Offered before another that let them in: that one's, whatever somebody says who wants them spared.
        let before = host.processes();
        let (other, _other_agent) = logged_in_by(&host, &[&offered, &used], &[]);
        let mut other = host.running(other, &before);
        assert_eq!(host.state(other.process).unwrap().0, State::Uncertain, "two were granted");
        forge(other.process.pid, "Accepted password for deploy from 127.0.0.1 port 50000 ssh2");
        // Root's sshd has no process that shows that the session is open.
        let mut client = process::Background::start("ssh", host.ssh(&roots, "root", &[]).arg(WAITS));
        client.wait_line("ready");
        let mut roots_session = {
            wait::until("both to be known", || {
                host.look(0);
                (host.list().len() == 2 && notes().is_empty()).then_some(())
            });
            host.running(client, &[other.process].into())
        };
        assert!(host.list().iter().all(|session| session.accepted == Some(Accepted::Journal)));

        host.lock_key(&offered);
        assert_eq!(host.look(0), []);
        host.lock_key(&used);
        assert_eq!(host.until_ended(other.process), "key-locked");
        other.wait_closed();
        host.lock_key(&roots);
        assert_eq!(host.until_ended(roots_session.process), "key-locked");
        roots_session.wait_closed();
        assert!(glass.ended().is_none() && typed.ended().is_none());
    });
}
