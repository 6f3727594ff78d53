//! Each thing that can be wrong with a host is made wrong, for real, on one that is right; sshd is this machine's own.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "tests: a failure is their result"
)]

mod bed;
mod cases;
mod matches;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use bed::{Bed, CONFIG};
use cases::Case;
use countersign_doctor::Code;

fn check(cases: &[Case]) {
    let mut bed = Bed::new();
    let right = bed.host.clone();
    bed.mend();
    let report = bed.examine();
    assert_eq!((&report.findings[..], &report.not_checked[..]), (&[][..], &[][..]), "on a host on which all is right");
    let mut wrong = Vec::new();
    for (name, change, expected) in cases {
        bed.host = right.clone();
        bed.mend();
        change(&mut bed);
        let report = bed.examine();
        let found: Vec<&str> = report.findings.iter().map(|finding| finding.code.code()).collect();
        if found != *expected {
            wrong.push(format!("{name}: expected {expected:?}, found {found:?}\n{report:#?}"));
        }
        for finding in &report.findings {
            let is_whole = [&finding.change, &finding.about, &finding.found].iter().all(|text| !text.is_empty());
            assert!(is_whole, "{name}: {finding:?}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn sshds_commands_are_found_wrong_in_every_way_in_which_they_can_be() {
    check(cases::COMMANDS);
}

#[test]
fn programs_that_are_gone_closed_open_or_somebodys_are_found() {
    check(cases::PROGRAMS);
}

#[test]
fn settings_that_let_in_past_the_ledger_or_keep_out_are_found() {
    check(cases::SETTINGS);
}

#[test]
fn what_a_match_takes_back_is_found_by_asking_for_somebody_to_whom_it_applies() {
    check(matches::MATCHES);
}

#[test]
fn lists_that_sshd_cannot_read_or_should_not_believe_are_found() {
    check(cases::LISTS);
}

#[test]
fn pam_names_accounts_and_labels_are_looked_at() {
    check(cases::AROUND);
}

#[test]
fn agent_snapshot_and_clock_are_looked_at() {
    check(cases::STATE);
}

const SSHD: &str = "/usr/lib/countersign/sshd";
const RUNNING: &[&str] = &["sshd-older-than-config", "sshd-other-config"];

/// A child that ends with its test.
struct Listener(Child);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn an_sshd_that_runs_and_has_not_read_what_was_looked_at_is_found() {
    let mut bed = Bed::new();
    bed.mend();
    let copy_sshd = || bed::write(SSHD, &fs::read("/usr/sbin/sshd").unwrap(), 0o755);
    copy_sshd();
    bed.host.sshd = SSHD.into();
    let text = fs::read_to_string(CONFIG).unwrap();
    fs::write(CONFIG, format!("ListenAddress 0.0.0.0\nPort 2299\nPidFile none\n{text}")).unwrap();
    assert!(!bed.examine().checked.contains(&"running-sshd"));
    let listener = Listener(Command::new(SSHD).args(["-D", "-f", CONFIG]).stderr(Stdio::null()).spawn().unwrap());
    let begun = Instant::now();
    while !bed.examine().checked.contains(&"running-sshd") {
        assert!(begun.elapsed() < Duration::from_secs(60), "it does not listen");
        std::thread::sleep(Duration::from_millis(50));
    }
    let found = |bed: &Bed| -> Vec<&str> { bed.examine().findings.iter().map(|finding| finding.code.code()).collect() };
    assert_eq!(found(&bed), Vec::<&str>::new());

    let file = File::options().append(true).open(CONFIG).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(60)).unwrap();
    assert_eq!(found(&bed), RUNNING[..1]);

    bed::write("/etc/ssh/other_config", &fs::read(CONFIG).unwrap(), 0o600);
    bed.host.sshd_config = "/etc/ssh/other_config".into();
    assert_eq!(found(&bed), RUNNING[1..]);

    bed.host.sshd_config = CONFIG.into();
    file.set_modified(SystemTime::now() - Duration::from_secs(3_600)).unwrap();
    assert_eq!(found(&bed), Vec::<&str>::new());
    fs::remove_file(SSHD).unwrap();
    copy_sshd();
    assert_eq!(found(&bed), RUNNING[..1]);
    drop(listener);
}

/// What sshd is started with, and what is found then.
const TOLD: &[(&[&str], &[&str])] = &[
    (&["-o", "AuthorizedKeysFile=.ssh/authorized_keys"], &["keys-file-users"]),
    (&["-oAuthorizedKeysFile /etc/countersign/empty .ssh/keys"], &["keys-file-users", "keys-file-for-all"]),
    (&["-o", "AuthenticationMethods=any", "-oPasswordAuthentication=yes"], &["other-methods"]),
    (&["-o", "MaxStartups=7", "-o", "Banner none"], &[]),
    (&["-o", "ForceCommand=/bin/a -y"], &["sshd-other-config"]),
];

#[test]
fn what_the_sshd_that_runs_was_started_with_counts_more_than_its_file() {
    let mut bed = Bed::new();
    bed.mend();
    bed::write(SSHD, &fs::read("/usr/sbin/sshd").unwrap(), 0o755);
    bed.host.sshd = SSHD.into();
    bed::append(CONFIG, "Match all\n");
    let text = fs::read_to_string(CONFIG).unwrap();
    fs::write(CONFIG, format!("ListenAddress 0.0.0.0\nPort 2299\nPidFile none\n{text}")).unwrap();
    for (told, expected) in TOLD {
        let mut sshd = Command::new(SSHD);
        let listener = Listener(sshd.args(["-D", "-f", CONFIG]).args(*told).stderr(Stdio::null()).spawn().unwrap());
        let begun = Instant::now();
        let report = loop {
            let report = bed.examine();
            if report.checked.contains(&"running-sshd") {
                break report;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "it does not listen");
            std::thread::sleep(Duration::from_millis(50));
        };
        let found: Vec<&str> = report.findings.iter().map(|finding| finding.code.code()).collect();
        assert_eq!(found, *expected, "{told:?}\n{report:#?}");
        drop(listener);
    }
}

/// Where the others are found: on hosts with a chain, an agent and an sshd of their own (`tests/tests`), and without root.
const ELSEWHERE: &[&str] = &[
    "not-root",
    "command-order",
    "name-service-silent",
    // By trying logins, and by switching on and off.
    "throwaway-accepted",
    "helper-no-answer",
    "login-refused",
    "login-broken",
    "login-without-helper",
    "sshd-unreachable",
    "other-host-key",
    "sshd-outdated",
    "switch-unfinished",
    "switch-untrusted",
    "switch-without-effect",
    "switch-busy",
    "switch-taken-back",
    "switch-earlier-command",
    "switch-stuck",
];

#[test]
fn every_code_is_found_somewhere() {
    use cases::{AROUND, COMMANDS, LISTS, PROGRAMS, SETTINGS, STATE};
    use matches::MATCHES;
    let here = [COMMANDS, PROGRAMS, SETTINGS, MATCHES, LISTS, AROUND, STATE];
    let here: BTreeSet<&str> = here
        .iter()
        .flat_map(|cases| cases.iter())
        .flat_map(|case| case.2.iter().copied())
        .chain(RUNNING.iter().copied())
        .collect();
    let elsewhere: BTreeSet<&str> = ELSEWHERE.iter().copied().collect();
    for code in Code::ALL {
        let places = [&here, &elsewhere].iter().filter(|codes| codes.contains(code.code())).count();
        assert_eq!(places, 1, "{code}");
    }
}

/// What lets in, in a `Match` that nobody could be asked about, and what does not.
const UNSEEN: &[(&str, bool)] = &[
    ("Match RDomain *\n    AuthorizedKeysFile .ssh/authorized_keys\n", true),
    ("Match Group nobody-is-in-it\n    AuthorizedKeysFile .ssh/authorized_keys\n", true),
    ("Match User deploy Group root\n    AuthenticationMethods publickey password\n", true),
    ("Match User *\n    AuthorizedKeysFile none\nMatch User deploy\n    AuthorizedKeysFile .ssh/keys\n", true),
    ("Match User deploy Group root\n    X11Forwarding no\n", false),
    ("Match User deploy\n    AuthorizedKeysFile none\n    PasswordAuthentication no # never\n", false),
];

#[test]
fn lines_of_a_match_that_no_answer_shows_are_named_as_not_looked_at() {
    let mut bed = Bed::new();
    for (lines, expected) in UNSEEN {
        bed.mend();
        bed::append(CONFIG, lines);
        let report = bed.examine();
        let missed = report.not_checked.iter().any(|missed| missed.check == "match");
        assert_eq!(missed, *expected, "{lines}\n{report:#?}");
        assert!(report.checked.contains(&"match"), "{lines}\n{report:#?}");
    }
}

#[test]
fn what_could_not_be_looked_at_is_named() {
    let mut bed = Bed::new();
    bed.mend();
    bed.host.sshd = "/nonexistent/sshd".into();
    let missed = |report: &countersign_doctor::Report| -> Vec<&str> {
        report.not_checked.iter().map(|missed| missed.check).collect()
    };
    assert_eq!(missed(&bed.examine()), ["sshd", "commands", "programs", "lists", "name-service", "pam", "accounts"]);
    bed.mend();
    bed.host.sshd = "/usr/sbin/sshd".into();
    bed.host.agent = Err("it is not there".to_owned());
    assert_eq!(missed(&bed.examine()), ["snapshot", "clock", "pam", "accounts"]);
}
