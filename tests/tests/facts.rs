//! What sshd does and the design rests on, each looked at in a real sshd with a command of the scenario's own in the helper's place.
//! `docs/sshd-facts.md` lists these facts and where each is tested. Here are those that no login of ours would show.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a scenario: a failure is its result"
)]

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use Offer::{Refused, Taken};
use e2e::{
    forge::{ALGORITHM, Forgery},
    in_bed, in_bed_of, machine,
    machine::KeyFile,
    mint::Mint,
    probe::{Offer, offer},
    process::{self, Background},
    sshd::PORT,
    story::now,
    syslog::SystemLog,
};

const CONFIG: &str = "/etc/ssh/sshd_config.facts";
const COMMAND: &str = "/opt/facts/command";
/// What the command does, as shell, after it has written down its arguments.
const ACT: &str = "/opt/facts/act";
const ASKED: &str = "/run/facts/asked";
const SEEN: &str = "/run/facts/seen";
const CAS: &str = "/etc/countersign/facts-cas";
const EMPTY: &str = "/etc/countersign/empty";
const REVOKED: &str = "/etc/countersign/facts-revoked";
const LOGIN: &str = "deploy";
const PLAIN: &str = "ssh-ed25519";

struct Host {
    log: SystemLog,
    host_key: KeyFile,
    key: KeyFile,
    ca: KeyFile,
    config: String,
    sshd: Option<Background>,
    version: (u32, u32),
}

impl Host {
    fn begin() -> Self {
        let log = SystemLog::bind();
        machine::add_helper_user();
        machine::add_user(LOGIN, 2001);
        machine::write(EMPTY, "", 0o644);
        machine::write(CAS, "", 0o644);
        machine::write(ASKED, "", 0o666);
        machine::write(SEEN, "", 0o666);
        let script = format!("#!/bin/sh\nprintf '%s|' \"$#\" \"$@\" >>{ASKED}\necho >>{ASKED}\n. {ACT}\n");
        machine::write(COMMAND, &script, 0o755);
        fs::create_dir_all("/run/sshd").unwrap();
        let [host_key, key, ca] = ["host", "key", "ca"].map(KeyFile::generate);
        // OpenSSH_9.2p1 Debian-2…
        let said = process::output(machine::command("ssh").arg("-V")).stderr;
        let number = said.strip_prefix("OpenSSH_").unwrap().split('p').next().unwrap();
        let (major, minor) = number.split_once('.').unwrap();
        let version = (major.parse().unwrap(), minor.parse().unwrap());
        Self { log, host_key, key, ca, config: String::new(), sshd: None, version }
    }

    /// A configuration whose first lines are `first` (they win) and whose last are `last`.
    fn config(&self, first: &str, last: &str) -> String {
        let host_key = self.host_key.path.display();
        format!(
            "\
{first}
ListenAddress 127.0.0.1:{PORT}
HostKey {host_key}
PidFile none
UsePAM no
LogLevel VERBOSE
AuthenticationMethods publickey
AuthorizedPrincipalsCommand {COMMAND} principals %u %i
AuthorizedPrincipalsCommandUser {user}
AuthorizedPrincipalsFile {EMPTY}
AuthorizedKeysCommand {COMMAND} keys %u %f
AuthorizedKeysCommandUser {user}
AuthorizedKeysFile none
TrustedUserCAKeys {CAS}
{last}
",
            user = machine::HELPER_USER
        )
    }

    fn sshd(arguments: &[&str]) -> process::Output {
        process::output(machine::command("/usr/sbin/sshd").args(["-f", CONFIG]).args(arguments))
    }

    /// sshd with this configuration, started anew where it had another.
    fn configure(&mut self, first: &str, last: &str) {
        let config = self.config(first, last);
        if self.sshd.is_some() && config == self.config {
            return;
        }
        self.sshd = None;
        machine::write(CONFIG, &config, 0o600);
        let tested = Self::sshd(&["-t"]);
        assert_eq!(tested.status, Some(0), "{}", tested.stderr);
        // From 9.8 on, who is refused often has to wait.
        let penalties = if self.version >= (9, 8) { &["-o", "PerSourcePenalties=no"][..] } else { &[] };
        let sshd =
            Background::start("sshd", machine::command("/usr/sbin/sshd").args(["-D", "-f", CONFIG]).args(penalties));
        self.log.wait("sshd", &format!("Server listening on 127.0.0.1 port {PORT}."));
        (self.sshd, self.config) = (Some(sshd), config);
    }

    /// Offers a key or certificate, with the command doing `act`; gives the answer and the arguments of each time it was asked.
    fn offer_as(&self, login: &str, act: &str, blob: &[u8]) -> (Offer, Vec<String>) {
        machine::write(ACT, &format!("{act}\n"), 0o644);
        fs::write(ASKED, "").unwrap();
        let algorithm = if blob[3] == 11 { PLAIN } else { ALGORITHM };
        let answer = offer(login, &[(algorithm, blob)])[0];
        (answer, fs::read_to_string(ASKED).unwrap().lines().map(str::to_owned).collect())
    }

    /// The same as the usual login.
    fn offer(&self, act: &str, blob: &[u8]) -> (Offer, Vec<String>) {
        self.offer_as(LOGIN, act, blob)
    }

    /// A certificate for the key by the CA.
    fn certificate(&self, principals: &[&str]) -> Vec<u8> {
        let mint = Mint {
            ca: &self.ca,
            key: &self.key,
            principals,
            valid_after: now() - 60,
            valid_before: now() + 600,
            scope: None,
            options: &[],
        };
        Forgery::of(&mint).sign(&self.ca)
    }

    /// Shell that prints `lines` to the keys command, and `principals` to the other.
    fn says(principals: &str, lines: &str) -> String {
        format!("case $1 in keys) printf '{lines}';; *) printf '{principals}';; esac")
    }
}

fn what_the_design_rests_on() {
    let mut host = Host::begin();
    let (key, ca) = (host.key.public_line(), host.ca.public_line());
    let (plain, fingerprint) = (host.key.blob(), host.key.fingerprint());
    let good = Host::says("", &format!("{key}\\n"));
    let keys_asked = vec![format!("3|keys|{LOGIN}|{fingerprint}|")];
    let mine = host.certificate(&[LOGIN]);
    let principals_asked = format!("3|principals|{LOGIN}|scenario/forged|");

    // The list of revoked keys comes first: no command is asked about what is in it.
    host.configure("", "");
    assert_eq!(host.offer(&good, &plain), (Taken, keys_asked.clone()));
    assert_eq!(host.offer_as("nobody-here", &good, &plain), (Refused, vec![]), "an unknown user");
    host.configure(&format!("RevokedKeys {REVOKED}"), "");
    machine::write(REVOKED, &format!("{key}\n"), 0o644);
    assert_eq!(host.offer(&good, &plain), (Refused, vec![]), "a revoked key");
    // And where the list is missing or does not read, nobody gets in.
    fs::remove_file(REVOKED).unwrap();
    assert_eq!(host.offer(&good, &plain), (Refused, vec![]), "no list");
    machine::write(REVOKED, "garbage\n", 0o644);
    assert_eq!(host.offer(&good, &plain), (Refused, vec![]), "garbage for a list");
    process::success(Command::new("ssh-keygen").args(["-q", "-k", "-f", REVOKED]));
    let empty = fs::read(REVOKED).unwrap();
    assert_eq!(empty.len(), 44);
    assert_eq!(host.offer(&good, &plain), (Taken, keys_asked.clone()), "an empty list");
    fs::write(REVOKED, &empty[..43]).unwrap();
    assert_eq!(host.offer(&good, &plain), (Refused, vec![]), "a list cut off");

    // A certificate that the principals command refuses goes to the keys command, which is told the plain key's fingerprint.
    host.configure("", "");
    machine::write(CAS, &format!("{ca}\n"), 0o644);
    let by_line = Host::says("", &format!("cert-authority,principals=\"{LOGIN}\" {ca}\\n"));
    assert_eq!(host.offer(&by_line, &mine), (Taken, vec![principals_asked.clone(), keys_asked[0].clone()]));
    let by_principal = Host::says(&format!("{LOGIN}\\n"), "");
    assert_eq!(host.offer(&by_principal, &mine), (Taken, vec![principals_asked.clone()]));
    assert_eq!(host.offer(&Host::says("", ""), &mine).0, Refused);
    // The file of CAs is read each time, up to the first line that is no key.
    machine::write(CAS, &format!("{ca}\ngarbage\n"), 0o644);
    assert_eq!(host.offer(&by_principal, &mine).0, Taken);
    machine::write(CAS, &format!("garbage\n{ca}\n"), 0o644);
    assert_eq!(host.offer(&by_principal, &mine).0, Refused, "a CA behind a line of garbage");
    machine::write(CAS, "", 0o644);

    // Principals of `cert-authority` lines.
    let line = |options: &str| Host::says("", &format!("cert-authority{options} {ca}\\n"));
    let nobodys = host.certificate(&[]);
    let before_10_3 = host.version < (10, 3);
    let hole = if before_10_3 { Taken } else { Refused };
    assert_eq!(host.offer(&line(""), &nobodys).0, hole, "no principals anywhere");
    assert_eq!(
        host.offer(&line(&format!(",principals=\"{LOGIN}\"")), &nobodys).0,
        Refused,
        "no principals in the certificate"
    );
    // What a comma in a certificate's principal does depends on the package as well (CVE-2026-35414 is mended in Debian's 9.2).

    // The command's own way of answering.
    let printed = |lines: &str| Host::says("", lines);
    assert_eq!(host.offer(&format!("{good}; exit 1"), &plain).0, Refused, "a status of 1 after the right line");
    assert_eq!(host.offer(&format!("{good}; kill -9 $$"), &plain).0, Refused, "a signal after the right line");
    assert_eq!(host.offer(&printed(&format!("# a\\n\\njunk\\r\\n{key}\\r\\n")), &plain).0, Taken, "junk before it");
    assert_eq!(host.offer(&printed(&key), &plain).0, Taken, "no newline at the end");
    assert_eq!(host.offer(&printed(&format!("no-such-option {key}\\n")), &plain).0, Refused, "an unknown option");
    assert_eq!(
        host.offer(&printed(&format!("expiry-time=\"20200101\" {key}\\n")), &plain).0,
        Refused,
        "an end in the past"
    );
    let begun = Instant::now();
    assert_eq!(host.offer(&format!("{good}; sleep 2 2>/dev/null &"), &plain).0, Taken);
    assert!(begun.elapsed() >= Duration::from_secs(2), "sshd did not wait for a child that holds the pipe");
    let look = format!("{{ env; pwd; readlink /proc/$$/fd/0; ls /proc/$$/fd; }} >{SEEN}");
    assert_eq!(host.offer(&format!("{look}; {good}"), &plain).0, Taken);
    let seen = fs::read_to_string(SEEN).unwrap();
    let lines: Vec<&str> = seen.lines().collect();
    for there in ["PATH=", &format!("USER={}", machine::HELPER_USER), "LOGNAME=", "HOME=", "/", "/dev/null"] {
        assert!(
            lines.iter().any(|line| *line == there || there.ends_with('=') && line.starts_with(there)),
            "{there}: {seen}"
        );
    }
    assert!(!seen.contains("SSH_"), "nothing about the connection: {seen}");
    // What the shell opens for itself is 10 and more.
    assert!(
        !lines.iter().any(|line| line.parse().is_ok_and(|descriptor: u32| (3..10).contains(&descriptor))),
        "{seen}"
    );

    // Where the command is not root's alone, or its user does not exist.
    fs::set_permissions(COMMAND, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    assert_eq!(host.offer(&good, &plain), (Refused, vec![]), "a command that anybody could have written");
    fs::set_permissions(COMMAND, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(host.offer(&good, &plain).0, Taken);

    // Without arguments the keys command is given the login, the other nothing.
    host.configure(&format!("AuthorizedPrincipalsCommand {COMMAND}\nAuthorizedKeysCommand {COMMAND}"), "");
    machine::write(CAS, &format!("{ca}\n"), 0o644);
    assert_eq!(host.offer("true", &mine), (Refused, vec!["0|".to_owned(), format!("1|{LOGIN}|")]));

    // The key id comes raw, as one argument.
    let mut strange = Forgery::of(&Mint {
        ca: &host.ca,
        key: &host.key,
        principals: &[LOGIN],
        valid_after: now() - 60,
        valid_before: now() + 600,
        scope: None,
        options: &[],
    });
    strange.key_id = b"a b; $(touch /run/facts/x) `id`".to_vec();
    host.configure("", "");
    let (_, asked) = host.offer("true", &strange.sign(&host.ca));
    assert_eq!(asked[0], format!("3|principals|{LOGIN}|a b; $(touch /run/facts/x) `id`|"));

    // A local account that is locked, where PAM does not decide.
    let shadow = fs::read_to_string("/etc/shadow").unwrap();
    fs::write("/etc/shadow", shadow.replace(&format!("\n{LOGIN}:*:"), &format!("\n{LOGIN}:!:"))).unwrap();
    assert_eq!(host.offer(&good, &plain), (Refused, vec![]), "a locked account");
    fs::write("/etc/shadow", shadow).unwrap();
    assert_eq!(host.offer(&good, &plain).0, Taken);

    // The order of the two commands in the configuration.
    let reversed =
        format!("AuthorizedKeysCommand {COMMAND} keys %u %f\nAuthorizedPrincipalsCommand {COMMAND} principals %u %i");
    host.configure(&reversed, "");
    let effective = Host::sshd(&["-T"]).stdout;
    let forgets = (8, 7) <= host.version && host.version <= (9, 3);
    assert_eq!(effective.contains("\nauthorizedprincipalscommand none\n"), forgets, "{:?}", host.version);
    // The empty file of principals, which we always configure, closes the hole too.
    assert_eq!(host.offer("true", &mine).0, Refused);
    if forgets {
        host.configure(&format!("{reversed}\nAuthorizedPrincipalsFile none"), "");
        assert_eq!(host.offer("true", &mine), (Taken, vec![]), "a certificate in whose way nothing stands");
    }

    // `none` in a Match block is no `none` for the file of principals; an empty file is one.
    let other = host.certificate(&["other"]);
    machine::write("/home/deploy/none", "other\n", 0o644);
    let none = "AuthorizedPrincipalsCommand none\nAuthorizedKeysCommand none";
    host.configure(none, &format!("Match User {LOGIN}\n    AuthorizedPrincipalsFile none"));
    let by_none = host.offer("true", &other).0;
    host.configure(none, &format!("Match User {LOGIN}\n    AuthorizedPrincipalsFile {EMPTY}"));
    assert_eq!(host.offer("true", &other).0, Refused);
    assert_eq!(by_none, Taken, "{:?}", host.version);

    // What `sshd -t` does not find: a user that is not there, a token that is none.
    host.configure("AuthorizedKeysCommandUser no-such-user", "");
    assert_eq!(host.offer(&good, &plain), (Refused, vec![]), "a command of nobody's");
    host.configure(&format!("AuthorizedKeysCommand {COMMAND} keys %q"), "");
    let mut ssh = Command::new("ssh");
    ssh.args([
        "-F",
        "none",
        "-o",
        "BatchMode=yes",
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
    ]);
    ssh.args(["-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-p", &PORT.to_string(), "-i"])
        .arg(&host.key.path);
    let ended = process::output(ssh.args(["-l", LOGIN, "127.0.0.1", "true"]));
    assert_eq!(ended.status, Some(255));
    assert!(!ended.stderr.contains("Permission denied"), "sshd hangs up: {}", ended.stderr);
}

#[test]
fn sshd_does_what_the_design_rests_on() {
    in_bed!(what_the_design_rests_on);
}

#[test]
fn the_same_by_openssh_8_4() {
    in_bed_of!("bullseye", what_the_design_rests_on);
}

#[test]
fn the_same_by_openssh_10_0() {
    in_bed_of!("trixie", what_the_design_rests_on);
}
