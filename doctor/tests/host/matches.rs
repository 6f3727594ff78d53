//! What a `Match` takes back, and the codes that are then found.

use std::os::unix::fs::chown;

use crate::bed::{CONFIG, KEYS, append, write};
use crate::cases::{Case, first};

pub(crate) const MATCHES: &[Case] = &[
    (
        "users' own keys for one",
        |_| append(CONFIG, "Match User deploy\n    AuthorizedKeysFile .ssh/authorized_keys\n"),
        &["keys-file-users"],
    ),
    (
        "passwords from an address",
        |_| {
            let lines = "    AuthenticationMethods password\n    PasswordAuthentication yes\n";
            append(CONFIG, &format!("Match Address 10.0.0.0/8,192.168.*\n{lines}"));
        },
        &["publickey-off", "other-methods"],
    ),
    (
        "another program at some port",
        |_| append(CONFIG, "Match LocalPort 2222\n    AuthorizedKeysCommand /usr/bin/true\n"),
        &["keys-command-other"],
    ),
    (
        "no command for one",
        |_| append(CONFIG, "Match User deploy\n    AuthorizedKeysCommand none\n"),
        &["keys-command-none"],
    ),
    (
        "no command for names like these",
        |_| append(CONFIG, "Match User app-*,!app-x,!root\n    AuthorizedKeysCommand none\n"),
        &["keys-command-none"],
    ),
    (
        "no command for a group that the host has",
        |_| append(CONFIG, "Match Group deploy\n    AuthorizedKeysCommand none\n"),
        &["keys-command-none"],
    ),
    ("a group of the ledger", |_| append(CONFIG, "Match Group engineers\n    X11Forwarding no\n"), &["match-group"]),
    (
        "a match in another file",
        |_| {
            write("/etc/ssh/more/a.conf", b"Match User deploy\n    AuthorizedKeysFile %h/keys\n", 0o644);
            first("Include /etc/ssh/more/*.conf\n");
        },
        &["keys-file-users"],
    ),
    (
        "users' own keys by name, for all but some",
        |_| append(CONFIG, "Match Group *\n    AuthorizedKeysFile /home/%u/.ssh/authorized_keys\n"),
        &["keys-file-users"],
    ),
    (
        "root's keys by name, for all but some",
        |_| append(CONFIG, "Match User *,!root\n    AuthorizedKeysFile /etc/ssh/keys.d/%u\n"),
        &["keys-file-for-all"],
    ),
    (
        "keys by name at a port, and one of them its user's",
        |_| {
            write("/etc/ssh/keys.d/deploy.pub", b"", 0o644);
            chown("/etc/ssh/keys.d/deploy.pub", Some(2001), None).unwrap();
            append(CONFIG, "Match LocalPort 22\n    AuthorizedKeysFile /etc/ssh/keys.d/%u.pub\n");
        },
        &["keys-file-users"],
    ),
    (
        "root's keys for a group",
        |_| append(CONFIG, "Match Group deploy\n    AuthorizedKeysFile /etc/countersign/break-glass.keys\n"),
        &["keys-file-for-all"],
    ),
    (
        "users' own keys behind another match",
        |_| {
            let first = "Match User deploy,rescue\n    AuthorizedKeysFile none\n";
            append(CONFIG, &format!("{first}Match Group *\n    AuthorizedKeysFile .ssh/authorized_keys\n"));
        },
        &["keys-file-users"],
    ),
    (
        "passwords from a network without its first part",
        |_| {
            let lines = "    AuthenticationMethods password\n    PasswordAuthentication yes\n";
            append(CONFIG, &format!("Match Address 10.0.0.0/8,!10.0.0.0/16\n{lines}"));
        },
        &["publickey-off", "other-methods"],
    ),
    (
        "passwords by two matches together",
        |_| {
            append(CONFIG, "Match User deploy\n    AuthenticationMethods publickey keyboard-interactive\n");
            append(CONFIG, "Match Address 10.0.0.0/8\n    KbdInteractiveAuthentication yes\n");
            first("KbdInteractiveAuthentication no\n");
        },
        &["other-methods"],
    ),
    (
        "a match in a file that a match includes",
        |_| {
            write("/etc/ssh/more/1.conf", b"Match User deploy\n    AuthorizedKeysFile .ssh/authorized_keys\n", 0o644);
            append(CONFIG, "Match Address 10.0.0.0/8\n    Include /etc/ssh/more/[0-9]*.conf\n");
        },
        &["keys-file-users"],
    ),
    (
        "an empty password in a match",
        |_| {
            let lines = "AuthenticationMethods publickey none\n    PermitEmptyPasswords yes\n";
            append(CONFIG, &format!("Match User deploy\n    {lines}    PasswordAuthentication yes\n"));
        },
        &["other-methods"],
    ),
    (
        "only others admitted from a network",
        |_| append(CONFIG, "Match Address 10.0.0.0/8\n    AllowUsers rescue\n"),
        &["login-not-admitted"],
    ),
    (
        "another snapshot in a match",
        |_| append(CONFIG, &format!("Match User deploy\n    {}", KEYS.replace(" keys ", " --snapshot /srv/old keys "))),
        &["snapshot-elsewhere"],
    ),
    ("what may not stand in a match", |_| append(CONFIG, "Match User deploy\n    UsePAM no\n"), &["sshd-refuses"]),
];
