//! Each thing that can be wrong with a host is made wrong, for real, on one that is right; sshd is this machine's own.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "tests: a failure is their result"
)]

mod bed;
mod cases;

use bed::Bed;
use cases::Case;

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
    check(cases::MATCHES);
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
