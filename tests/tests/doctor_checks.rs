//! `countersign doctor` on a host on which everything runs: a chain, the agent, sshd, PAM, the name service. Nothing is wrong with it, until
//! something is.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a scenario: a failure is its result")]

use std::{
    collections::BTreeSet,
    env,
    fs::{self, File},
    time::{Duration, SystemTime},
};

use e2e::{
    agent, cli, in_bed, in_bed_of, machine,
    machine::{HELPER, HELPER_USER},
    process,
    sshd::Options,
    story::{Setup, Story},
    wait,
};
use serde_json::Value;

const CONFIG: &str = "/etc/ssh/sshd_config.scenario";
const LIST: &str = "/etc/ssh/countersign.cas";

/// The report about the sshd of the scenario, and its codes.
fn doctor() -> (Value, BTreeSet<String>) {
    let output = cli::run(None, &["doctor", "--sshd-config", CONFIG]);
    let told: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let findings = told["findings"].as_array().unwrap();
    let missed = told["not-checked"].as_array().unwrap();
    let is_well = findings.is_empty() && missed.is_empty();
    assert_eq!(output.status, Some(i32::from(!is_well)), "{output:?}");
    let fields = [&told].into_iter().chain(findings).chain(missed).flat_map(|value| value.as_object().unwrap().keys());
    for field in fields {
        let page = include_str!("../../docs/cli-json.md");
        assert!(page.contains(&format!("`{field}`")), "docs/cli-json.md does not name `{field}`");
    }
    let codes = findings.iter().map(|finding| finding["code"].as_str().unwrap().to_owned());
    // What cargo builds beside the tests is not what is shipped.
    let is_own = env::var_os("COUNTERSIGN_HELPER").is_none();
    let codes = codes.filter(|code| !(is_own && code == "helper-dynamic")).collect();
    (told, codes)
}

fn codes(codes: &[&str]) -> BTreeSet<String> {
    codes.iter().map(|code| (*code).to_owned()).collect()
}

#[test]
fn doctor_finds_nothing_on_a_host_on_which_everything_runs_and_what_stops_after_that() {
    in_bed!(|| {
        let plain = "[plain-sshd]\nca-keys = \"/etc/ssh/countersign.cas\"\n";
        let sshd = Options { ca_file: Some(LIST), break_glass: Some("rescue"), ..Options::default() };
        let story = Story::begin(Setup { nss: true, agent: plain, sshd, ..Setup::default() });
        machine::install_session_hook();
        machine::write(e2e::sshd::BREAK_GLASS_KEYS, "", 0o644);
        let running = agent::run();
        wait::until("the agent's list of CAs and its folders", || {
            let is_there = ["/run/countersign/offers", LIST].iter().all(|path| fs::exists(path).unwrap());
            is_there.then_some(())
        });
        let (told, found) = doctor();
        assert_eq!(found, codes(&[]), "{told:#}");
        let checked: BTreeSet<&str> =
            told["checked"].as_array().unwrap().iter().map(|check| check.as_str().unwrap()).collect();
        for check in
            ["sshd", "commands", "match", "running-sshd", "name-service", "name-service-answers", "pam", "clock"]
        {
            assert!(checked.contains(check), "{check} was not looked at: {told:#}");
        }

        // Changed after sshd had read it.
        let later = SystemTime::now().checked_add(Duration::from_secs(60)).unwrap();
        let file = File::options().append(true).open(CONFIG).unwrap();
        let then = file.metadata().unwrap().modified().unwrap();
        file.set_modified(later).unwrap();
        assert_eq!(doctor().1, codes(&["sshd-older-than-config"]));
        file.set_modified(then).unwrap();

        // The name service gives ledger users other numbers, or none.
        machine::write("/etc/countersign/nss.conf", "nonsense\n", 0o644);
        assert_eq!(doctor().1, codes(&["name-service-silent"]));
        fs::remove_file("/etc/countersign/nss.conf").unwrap();

        // The configuration that nobody looks at.
        let output = cli::run(None, &["doctor"]);
        assert!(output.stdout.contains("\"sshd-other-config\""), "{output:?}");

        drop(running);
        assert_eq!(doctor().1, codes(&["agent-not-running"]));
        drop(story);
    });
}

/// The sshd of another Debian release, asked by itself: nothing runs.
fn other_release() {
    machine::install_helper();
    let host_key = machine::KeyFile::keep("ssh_host_ed25519_key");
    let config = format!(
        "HostKey {}\nUsePAM yes\nAuthenticationMethods publickey\n\
         AuthorizedKeysCommand {HELPER} keys %u %U %t %k\nAuthorizedKeysCommandUser {HELPER_USER}\n\
         AuthorizedPrincipalsCommand {HELPER} principals %u %U %t %k %i %s %K\n\
         AuthorizedPrincipalsCommandUser {HELPER_USER}\nAuthorizedKeysFile none\n\
         Match LocalPort 2222\n    AuthorizedKeysCommand none\n\
         Match User root Address 10.0.0.0/8\n    AuthorizedKeysFile .ssh/authorized_keys\n",
        host_key.path.display()
    );
    machine::write(CONFIG, &config, 0o600);
    machine::write("/run/sshd/.made", "", 0o644);
    machine::write(
        "/run/sshd-of-release",
        "#!/bin/sh\nexec /usr/sbin/chroot /run/bed/suite /usr/sbin/sshd \"$@\"\n",
        0o755,
    );
    let output = cli::run(None, &["doctor", "--no-login", "--sshd", "/run/sshd-of-release", "--sshd-config", CONFIG]);
    let told: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let found: Vec<&str> =
        told["findings"].as_array().unwrap().iter().map(|finding| finding["code"].as_str().unwrap()).collect();
    assert_eq!(found, ["agent-config", "keys-command-none", "keys-file-users", "command-order"], "{told:#}");
}

#[test]
fn doctor_asks_openssh_8_4() {
    in_bed_of!("bullseye", other_release);
}

#[test]
fn doctor_asks_openssh_10_0() {
    in_bed_of!("trixie", other_release);
}

#[test]
fn doctor_says_what_it_cannot_look_at_without_root() {
    in_bed!(|| {
        machine::add_user("somebody", 3000);
        let program = e2e::tools::binary("countersign");
        let mut command = std::process::Command::new("setpriv");
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", "/home/somebody");
        command.args(["--reuid", "3000", "--regid", "3000", "--clear-groups", "--"]).arg(program);
        let output = process::output(command.args(["doctor", "--format", "json"]));
        let told: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        assert_eq!(output.status, Some(1));
        assert_eq!(told["findings"][0]["code"], "not-root");
        let missed: Vec<&str> =
            told["not-checked"].as_array().unwrap().iter().map(|missed| missed["check"].as_str().unwrap()).collect();
        for check in ["sshd", "snapshot", "clock", "programs", "pam"] {
            assert!(missed.contains(&check), "{told:#}");
        }
        assert!(told["checked"].as_array().unwrap().iter().all(|check| !missed.contains(&check.as_str().unwrap())));
    });
}
