//! What is done to a host on which all is right, and the codes that are then found, in their order.

use std::fs;
use std::os::unix::fs::{chown, symlink};

use countersign_certificate::Id;
use countersign_snapshot::{BootId, Ca, CaState, HostState, Login, Uid};

use crate::bed::{Bed, CONFIG, HELPER, KEYS, PRINCIPALS, SNAPSHOT, append, chmod, replace, write};

pub(crate) type Case = (&'static str, fn(&mut Bed), &'static [&'static str]);

const REVOKED: &str = "/etc/ssh/countersign.revoked";
const EMPTY: &str = "/etc/countersign/empty";
const CAS: &str = "/etc/countersign/cas";
const PAM: &str = "/etc/pam.d/sshd";
const MODULE: &str = "/usr/lib/countersign-libraries/libnss_countersign.so.2";
const MANIFEST: &str = "/var/lib/countersign/snapshot/access/manifest";

pub(crate) const COMMANDS: &[Case] = &[
    ("no sshd", |bed| bed.host.sshd = "/nonexistent/sshd".into(), &["sshd-missing"]),
    ("a word that sshd does not know", |_| append(CONFIG, "Nonsense yes\n"), &["sshd-refuses"]),
    ("no directory of privilege separation", |_| fs::remove_dir("/run/sshd").unwrap(), &["sshd-refuses"]),
    ("no keys command", |_| replace(CONFIG, KEYS, ""), &["keys-command-none"]),
    (
        "another program",
        |_| replace(CONFIG, HELPER, "/usr/bin/sss_ssh_authorizedkeys"),
        &["keys-command-other", "principals-command-other"],
    ),
    (
        "arguments in another order",
        |_| replace(CONFIG, "keys %u %U %t %k", "keys %U %u %t %k"),
        &["keys-command-arguments"],
    ),
    ("principals without the CA", |_| replace(CONFIG, " %i %s %K", " %i %s"), &["principals-command-arguments"]),
    ("no principals command", |_| replace(CONFIG, PRINCIPALS, ""), &["principals-command-none"]),
    ("the keys command first", |_| keys_first(), &["principals-command-forgotten"]),
    ("a token that sshd does not know", |_| chain("/usr/bin/true %q"), &["token-unknown"]),
    ("a percent sign", |_| chain("/usr/bin/true %%"), &[]),
    (
        "the command user gone",
        |_| replace("/etc/passwd", "countersign:x:979", "other:x:979"),
        &["command-user-missing", "command-user-missing", "session-notes"],
    ),
    (
        "no command user",
        |_| replace(CONFIG, "KeysCommandUser countersign\n", "KeysCommandUser gone\n"),
        &["command-user-missing"],
    ),
    (
        "the command as root",
        |_| replace(CONFIG, "KeysCommandUser countersign", "KeysCommandUser root"),
        &["command-user-root"],
    ),
    (
        "another primary group",
        |_| replace("/etc/passwd", "countersign:x:979:979", "countersign:x:979:65534"),
        &["command-user-group"],
    ),
];

pub(crate) const PROGRAMS: &[Case] = &[
    ("no helper", |_| fs::remove_file(HELPER).unwrap(), &["helper-missing"]),
    ("a directory in its place", |_| directory_instead(HELPER), &["helper-missing"]),
    ("somebody else's helper", |_| chown(HELPER, Some(2001), None).unwrap(), &["helper-unsafe"]),
    ("a helper that others may write", |_| chmod(HELPER, 0o757), &["helper-unsafe"]),
    (
        "its directory somebody else's",
        |_| chown("/usr/lib/countersign", Some(2001), None).unwrap(),
        &["helper-unsafe", "session-hook-unsafe"],
    ),
    (
        "a directory above it that others may write",
        |_| chmod("/usr/lib/countersign", 0o777),
        &["helper-unsafe", "session-hook-unsafe"],
    ),
    ("a helper that root's group may write", |_| chmod(HELPER, 0o775), &["helper-group-writable"]),
    ("a helper that its user may not run", |_| chmod(HELPER, 0o700), &["helper-not-executable"]),
    ("a directory that its user may not enter", |_| chmod("/usr/lib/countersign", 0o700), &["helper-not-executable"]),
    ("a helper that is not static", |_| copy("/bin/true", HELPER), &["helper-dynamic"]),
    ("a script for a helper", |_| write(HELPER, b"#!/bin/sh\n", 0o711), &["helper-dynamic"]),
    ("an earlier command", |_| chain("/usr/bin/true %u"), &[]),
    ("an earlier command, and no program for it", |_| chain_without_program(), &["chain-missing"]),
    ("an earlier command, and a helper to be read", |_| chain_and_readable(), &["helper-readable"]),
    ("an earlier command through a link", |_| chain_through_link(), &["chain-unsafe"]),
    ("an earlier command that others may write", |_| chain_with_mode(0o777), &["chain-unsafe"]),
    ("an earlier command that is setuid", |_| chain_with_mode(0o4755), &["chain-unsafe"]),
    ("an earlier command that may not be run", |_| chain_with_mode(0o700), &["chain-failed"]),
    ("an earlier command that is gone", |_| chain("/usr/lib/countersign/gone"), &["chain-failed"]),
    ("little time for an earlier command", |_| little_time(), &["grace-time-short"]),
];

pub(crate) const SETTINGS: &[Case] = &[
    ("users' own keys", |_| replace(CONFIG, "AuthorizedKeysFile none\n", ""), &["keys-file-users", "keys-file-users"]),
    ("users' own keys by a token", |_| replace(CONFIG, "KeysFile none", "KeysFile /srv/%h/keys"), &["keys-file-users"]),
    (
        "root's keys for everybody",
        |_| replace(CONFIG, "KeysFile none", "KeysFile /etc/countersign/empty"),
        &["keys-file-for-all"],
    ),
    (
        "root's keys for everybody, by name",
        |_| replace(CONFIG, "KeysFile none", "KeysFile /etc/countersign/%u"),
        &["keys-file-for-all"],
    ),
    ("keys that others may write", |_| chmod("/etc/countersign/break-glass.keys", 0o666), &["keys-file-unsafe"]),
    (
        "users' own principals",
        |_| replace(CONFIG, "PrincipalsFile /etc/countersign/empty", "PrincipalsFile .ssh/principals"),
        &["principals-file-users"],
    ),
    ("principals that others may write", |_| writable_principals(), &["list-writable"]),
    ("principals in root's file", |_| write(EMPTY, b"# nobody\n\ndeploy\n", 0o644), &["principals-file-filled"]),
    (
        "a principals file for each login",
        |_| replace(CONFIG, "PrincipalsFile /etc/countersign/empty", "PrincipalsFile /etc/countersign/%u"),
        &["principals-file-filled"],
    ),
    (
        "no principals file, in a match",
        |_| append(CONFIG, "    AuthorizedPrincipalsFile none\n"),
        &["principals-file-none-in-match"],
    ),
    (
        "no public keys",
        |_| replace(CONFIG, "AuthenticationMethods publickey\n", "PubkeyAuthentication no\n"),
        &["publickey-off", "other-methods"],
    ),
    (
        "passwords alone",
        |_| replace(CONFIG, "Methods publickey", "Methods password"),
        &["publickey-off", "other-methods"],
    ),
    ("any method", |_| replace(CONFIG, "AuthenticationMethods publickey\n", ""), &["other-methods"]),
    (
        "passwords in another list",
        |_| replace(CONFIG, "Methods publickey", "Methods publickey password"),
        &["other-methods"],
    ),
    ("a second factor", |_| replace(CONFIG, "Methods publickey", "Methods publickey,keyboard-interactive"), &[]),
    ("any method, and only one is on", |_| only_keys_are_on(), &[]),
    ("no certificates", |_| first("PubkeyAcceptedAlgorithms ssh-ed25519\n"), &["certificates-off"]),
    ("no Ed25519 CAs", |_| first("CASignatureAlgorithms rsa-sha2-512\n"), &["ca-algorithm-off"]),
    ("one try", |_| first("MaxAuthTries 1\n"), &["few-tries"]),
    ("no log", |_| first("LogLevel QUIET\n"), &["log-level"]),
    ("no PAM", |_| replace(CONFIG, "UsePAM yes", "UsePAM no"), &["pam-off"]),
    ("no PAM, and nobody else logs in", without_pam, &[]),
    ("no PAM, and a journal", |bed| without_pam_but_journal(bed, ""), &[]),
    (
        "no PAM, and a journal with other words",
        |bed| without_pam_but_journal(bed, "FingerprintHash md5\n"),
        &["pam-off"],
    ),
    (
        "root refused by sshd alone",
        |bed| {
            first("PermitRootLogin no\n");
            bed.publish(|_, info| info.facts.allow_root = true);
        },
        &["root-login-off"],
    ),
    ("only somebody else admitted", |_| first("AllowUsers root onlyme\n"), &["login-not-admitted"]),
    ("only some groups admitted", |_| first("AllowGroups root\n"), &["login-not-admitted"]),
    ("somebody with a grant denied", |_| first("DenyUsers dep*\n"), &["login-not-admitted"]),
    ("a group with somebody denied", |_| first("DenyGroups deploy\n"), &["login-not-admitted"]),
    ("who has a grant is admitted, from somewhere", |_| first("AllowUsers rescue deploy@10.0.0.0/8\n"), &[]),
    ("who has no grant is denied", |_| first("DenyUsers rescue\nAllowGroups deploy\n"), &[]),
    ("root refused by both", |_| first("PermitRootLogin no\n"), &[]),
];

pub(crate) const LISTS: &[Case] = &[
    ("no revocation list", |_| fs::remove_file(REVOKED).unwrap(), &["revoked-keys-unreadable"]),
    ("a revocation list cut short", |_| fs::write(REVOKED, b"SSHKRL\n\0\0\0").unwrap(), &["revoked-keys-malformed"]),
    ("a revocation list that is none", |_| fs::write(REVOKED, "none\n").unwrap(), &["revoked-keys-malformed"]),
    ("a pipe for a revocation list", |_| pipe(REVOKED), &["revoked-keys-unreadable"]),
    ("a very long revocation list", |_| long_list(), &["revoked-keys-long"]),
    ("keys for a revocation list", |_| copy("/etc/ssh/bed_key.pub", REVOKED), &[]),
    ("a revocation list that others may write", |_| chmod(REVOKED, 0o666), &["list-writable"]),
    (
        "a revocation list that nobody reads",
        |_| replace(CONFIG, "RevokedKeys /etc/ssh/countersign.revoked\n", ""),
        &["revoked-keys-unused"],
    ),
    ("CAs that nobody reads", |bed| bed.agent().ca_keys = Some("/etc/ssh/cas".into()), &["ca-keys-unused"]),
    ("no list of CAs", |_| fs::remove_file(CAS).unwrap(), &["ca-file-unreadable"]),
    ("a bad line among CAs", |_| fs::write(CAS, "# CAs\nssh-ed25519 AAAA\n").unwrap(), &["ca-line"]),
    ("a private key among CAs", |_| copy("/etc/ssh/bed_key", CAS), &["ca-private-key"]),
    ("a CA that the realm does not know", |_| copy("/etc/ssh/bed_key.pub", CAS), &["ca-unknown"]),
    ("a CA that is locked", |bed| ca(bed, CaState::Locked), &["ca-denied"]),
    ("a CA that is revoked", |bed| ca(bed, CaState::Revoked), &["ca-denied"]),
    ("a CA that counts", |bed| ca(bed, CaState::Active), &[]),
    (
        "a list of CAs that stands still",
        |bed| {
            ca(bed, CaState::Active);
            bed.agent().ca_keys = Some(CAS.into());
            bed.stop_agent();
        },
        &["ca-list-stale", "agent-not-running"],
    ),
];

pub(crate) const AROUND: &[Case] = &[
    ("no word from PAM", |_| write(PAM, b"@include common-session\n", 0o644), &["session-hook-missing"]),
    (
        "no word from PAM, and sessions are not ended",
        |bed| {
            write(PAM, b"@include common-session\n", 0o644);
            bed.agent().ends_sessions = false;
        },
        &[],
    ),
    ("another module first", |_| module_first("session required pam_env.so user_readenv=1\n"), &["session-hook-late"]),
    ("another module first, included", |_| module_first("@include common-session\n"), &["session-hook-late"]),
    ("the program for PAM gone", |_| fs::remove_file(format!("{HELPER}-session")).unwrap(), &["session-hook-unsafe"]),
    ("no folder for notes", |_| fs::remove_dir("/run/countersign/offers").unwrap(), &["session-notes"]),
    (
        "a folder for notes of somebody's",
        |_| chown("/run/countersign/offers", Some(2001), None).unwrap(),
        &["session-notes"],
    ),
    (
        "names, and no module",
        |_| {
            names("files countersign", "files countersign");
            fs::remove_file(MODULE).unwrap();
        },
        &["name-service-missing"],
    ),
    ("a module, and no names", |_| names("files", "files"), &["name-service-unused"]),
    (
        "a module of another machine",
        |_| {
            names("files countersign", "files countersign");
            write(MODULE, b"no library", 0o644);
        },
        &["name-service-library"],
    ),
    (
        "a module that others may write",
        |_| {
            names("files countersign", "files countersign");
            chmod(MODULE, 0o666);
        },
        &["name-service-library"],
    ),
    ("names as they should be", |_| names("files systemd countersign", "files countersign"), &[]),
    (
        "nobody makes homes",
        |_| {
            names("files countersign", "files countersign");
            replace(PAM, "pam_mkhomedir", "pam_permit");
        },
        &["home-not-made"],
    ),
    (
        "accounts that users may not read",
        |_| {
            names("files countersign", "files countersign");
            chmod(&format!("{SNAPSHOT}/accounts"), 0o700);
        },
        &["name-service-closed"],
    ),
    (
        "no accounts",
        |_| {
            names("files countersign", "files countersign");
            fs::remove_file(format!("{SNAPSHOT}/accounts/manifest")).unwrap();
        },
        &["name-service-closed"],
    ),
    (
        "nobody makes homes, without PAM",
        |bed| {
            names("files countersign", "files countersign");
            without_pam(bed);
        },
        &["home-not-made"],
    ),
    (
        "names that end before",
        |_| names("files [NOTFOUND=return] countersign", "files countersign"),
        &["name-service-order"],
    ),
    ("names before the host's", |_| names("countersign files", "files countersign"), &["name-service-order"]),
    ("users without groups", |_| names("files countersign", "files"), &["name-service-groups"]),
    (
        "groups that are looked for elsewhere",
        |_| names("files countersign", "files countersign\ninitgroups: files"),
        &["name-service-groups"],
    ),
    (
        "a local account of a ledger user's name",
        |bed| {
            let login = Login { uid: Uid(1_900_000_000), user: Id([9; 16]) };
            bed.publish(|access, _| access.logins.push(("deploy".to_owned(), login)));
        },
        &["uid-mismatch"],
    ),
    ("no shell", |_| shell_gone("deploy"), &["login-shell"]),
    ("no shell where no grant leads", |_| shell_gone("rescue"), &[]),
    ("a locked account, and PAM", |_| replace("/etc/shadow", "deploy:*:", "deploy:!:"), &[]),
    (
        "a locked account, and no PAM",
        |bed| {
            without_pam(bed);
            replace("/etc/shadow", "deploy:*:", "deploy:!:");
        },
        &["account-locked"],
    ),
    ("SELinux that does not enforce", |_| write("/run/selinux/enforce", b"0", 0o644), &[]),
    (
        "programs and snapshot without a label",
        |_| write("/run/selinux/enforce", b"1", 0o644),
        &["selinux-type", "selinux-type", "selinux-type", "selinux-type"],
    ),
];

pub(crate) const STATE: &[Case] = &[
    ("no configuration", |bed| bed.host.agent = Err("it is not there".to_owned()), &["agent-config"]),
    ("no agent", Bed::stop_agent, &["agent-not-running"]),
    ("an agent that fails", |bed| bed.agent().problem = Some("nobody answers".to_owned()), &["agent-failing"]),
    (
        "a snapshot elsewhere",
        |bed| {
            fs::rename(SNAPSHOT, "/var/lib/countersign/other").unwrap();
            bed.agent().snapshot = "/var/lib/countersign/other".into();
        },
        &["snapshot-elsewhere", "snapshot-elsewhere"],
    ),
    ("no snapshot", |_| fs::remove_dir_all(SNAPSHOT).unwrap(), &["no-snapshot"]),
    ("a snapshot of somebody's", |_| chown(SNAPSHOT, Some(2001), None).unwrap(), &["snapshot-untrusted"]),
    ("a snapshot that others may write", |_| chmod(&format!("{SNAPSHOT}/access"), 0o777), &["snapshot-untrusted"]),
    ("a manifest cut short", |_| fs::write(MANIFEST, b"short").unwrap(), &["snapshot-corrupt"]),
    ("a damaged page", |_| damage(), &["snapshot-corrupt"]),
    (
        "a snapshot of another group",
        |_| chown(MANIFEST, None, Some(2001)).unwrap(),
        &["snapshot-unreadable", "command-user-group"],
    ),
    ("a snapshot that all may read", |_| chmod(MANIFEST, 0o644), &["snapshot-open-to-all"]),
    (
        "a directory above the snapshot that is closed",
        |_| chmod("/var/lib/countersign", 0o700),
        &["command-user-group"],
    ),
    (
        "a snapshot that is too old",
        |bed| bed.publish(|_, info| info.freshness.age_consumed_secs = 3_001),
        &["snapshot-stale"],
    ),
    (
        "a snapshot past its end",
        |bed| bed.publish(|_, info| info.freshness.valid_until_secs = info.now_unix_secs - 1),
        &["snapshot-stale"],
    ),
    ("a clock behind itself", |bed| bed.publish(|_, info| info.freshness.highest_wall_secs += 1_000), &["clock"]),
    ("a clock behind the block", |bed| bed.publish(|_, info| info.facts.latest_block.time_secs += 1_000), &["clock"]),
    ("another boot", |bed| bed.publish(|_, info| info.freshness.boot_id = BootId([1; 16])), &["boot-changed"]),
    (
        "a host that the realm does not know",
        |bed| bed.publish(|_, info| info.facts.host_state = HostState::Unknown),
        &["host-unknown"],
    ),
    ("a host that is locked", |bed| bed.publish(|_, info| info.facts.host_state = HostState::Locked), &["host-locked"]),
];

fn keys_first() {
    replace(CONFIG, PRINCIPALS, "");
    replace(CONFIG, KEYS, &format!("{KEYS}{PRINCIPALS}"));
}

fn copy(from: &str, to: &str) {
    fs::write(to, fs::read(from).unwrap()).unwrap();
}

fn directory_instead(path: &str) {
    fs::remove_file(path).unwrap();
    fs::create_dir(path).unwrap();
}

fn chain(command: &str) {
    replace(CONFIG, "keys %u %U %t %k\n", &format!("keys %u %U %t %k --chain {command}\n"));
}

fn chain_without_program() {
    chain("/usr/bin/true");
    fs::remove_file(format!("{HELPER}-chain")).unwrap();
}

fn chain_and_readable() {
    chain("/usr/bin/true");
    chmod(HELPER, 0o755);
}

fn chain_through_link() {
    symlink("/usr/bin/true", "/usr/lib/countersign/link").unwrap();
    chain("/usr/lib/countersign/link");
}

fn chain_with_mode(mode: u32) {
    write("/usr/lib/countersign/earlier", b"#!/bin/sh\n", mode);
    chain("/usr/lib/countersign/earlier");
}

fn little_time() {
    chain("/usr/bin/true");
    first("LoginGraceTime 10\n");
}

/// Before any `Match`, and first, since sshd takes the first.
pub(crate) fn first(lines: &str) {
    let text = fs::read_to_string(CONFIG).unwrap();
    fs::write(CONFIG, format!("{lines}{text}")).unwrap();
}

fn writable_principals() {
    write("/etc/countersign/principals", b"", 0o666);
    replace(CONFIG, "PrincipalsFile /etc/countersign/empty", "PrincipalsFile /etc/countersign/principals");
}

fn only_keys_are_on() {
    let others = "PasswordAuthentication no\nKbdInteractiveAuthentication no\n";
    replace(CONFIG, "AuthenticationMethods publickey\n", others);
}

fn without_pam(bed: &mut Bed) {
    bed.agent().only_helper = true;
    replace(CONFIG, "UsePAM yes", "UsePAM no");
}

fn without_pam_but_journal(bed: &mut Bed, setting: &str) {
    bed.host.journal = "/run".into();
    replace(CONFIG, "UsePAM yes\n", &format!("UsePAM no\n{setting}"));
}

/// A CA of the realm in this state, in sshd's list.
fn ca(bed: &mut Bed, state: CaState) {
    copy("/etc/ssh/bed_key.pub", CAS);
    let key_blob = countersign_krl::read_key_line(&fs::read_to_string(CAS).unwrap()).unwrap();
    let ca = Ca { id: Id([5; 16]), state, max_ttl_secs: 600, logins_restricted: false, key_blob };
    bed.publish(|access, _| access.cas.push(ca));
}

fn pipe(path: &str) {
    fs::remove_file(path).unwrap();
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRUSR).unwrap();
}

/// Each line is a key, all the same.
fn long_list() {
    let line = fs::read_to_string("/etc/ssh/bed_key.pub").unwrap();
    fs::write(REVOKED, line.repeat(1 + (1 << 20) / line.len())).unwrap();
}

fn module_first(line: &str) {
    let text = fs::read_to_string(PAM).unwrap();
    write(PAM, format!("{line}{text}").as_bytes(), 0o644);
}

/// With a library of this machine under the module's name, and homes at the first login.
fn names(passwd: &str, group: &str) {
    write("/etc/countersign/nsswitch.conf", format!("passwd: {passwd}\ngroup: {group}\n").as_bytes(), 0o644);
    write(MODULE, &fs::read("/usr/sbin/sshd").unwrap(), 0o644);
    append(PAM, "session required pam_mkhomedir.so umask=0077\n");
}

fn shell_gone(login: &str) {
    let text = fs::read_to_string("/etc/passwd").unwrap();
    let line = text.lines().find(|line| line.starts_with(login)).unwrap();
    replace("/etc/passwd", line, &line.replace("/bin/sh", "/bin/gone"));
}

fn damage() {
    let mut files = fs::read_dir(format!("{SNAPSHOT}/access")).unwrap().map(|entry| entry.unwrap().path());
    let base = files.find(|path| path.to_str().unwrap().contains("base")).unwrap();
    let mut bytes = fs::read(&base).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(base, bytes).unwrap();
}
