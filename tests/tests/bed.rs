//! The bed and the harness themselves: what scenarios stand on.

#![expect(clippy::unwrap_used, reason = "a scenario: a failure is its result")]

use std::{fs, path::Path, process::Command};

use countersign_chain::realm_file::RealmFile;
use e2e::{
    anvil::Anvil,
    client::{Credential, Login, russh, ssh},
    in_bed, machine,
    machine::KeyFile,
    process,
    realm::{Directory, Grant, REALM_FILE, Realm, Settings},
    sshd::{BREAK_GLASS_KEYS, Options, PORT, Sshd},
    syslog::SystemLog,
    wait,
};

const MARK: &str = "countersign-bed-leftover";

#[test]
fn a_bed_leaves_no_account_file_process_or_socket_behind() {
    let before = traces();
    in_bed!(|| {
        machine::add_user(MARK, 4242);
        machine::write(format!("/var/lib/{MARK}"), MARK, 0o644);
        machine::write(format!("/tmp/{MARK}"), MARK, 0o644);
        let _log = SystemLog::bind();
        // Outlives its parent, as a daemon would.
        process::success(Command::new("bash").args(["-c", &format!("exec -a {MARK} sleep 1000 >/dev/null 2>&1 &")]));
        wait::until("every trace to be there", || traces().iter().all(|(_, there)| *there).then_some(()));
    });
    if e2e::bed::is_inside() {
        return;
    }
    assert_eq!(traces(), before);
    let ended = before.iter().all(|(_, there)| !there);
    assert!(ended, "something else left these behind: {before:?}");
}

/// Each trace of the scenario above, and whether it is there.
fn traces() -> Vec<(&'static str, bool)> {
    let processes = fs::read_dir("/proc")
        .unwrap()
        .filter_map(Result::ok)
        .any(|entry| fs::read(entry.path().join("cmdline")).is_ok_and(|line| line.starts_with(MARK.as_bytes())));
    let contains = |path: &str| fs::read_to_string(path).unwrap().contains(MARK);
    vec![
        ("passwd", contains("/etc/passwd")),
        ("group", contains("/etc/group")),
        ("shadow", contains("/etc/shadow")),
        ("home", Path::new("/home").join(MARK).exists()),
        ("state", Path::new("/var/lib").join(MARK).exists()),
        ("temporary file", Path::new("/tmp").join(MARK).exists()),
        ("process", processes),
    ]
}

#[test]
fn anvil_makes_blocks_and_what_is_latest_becomes_final() {
    in_bed!(|| {
        let anvil = Anvil::start();
        let latest = anvil.block_number("latest");
        wait::until("a new block", || (anvil.block_number("latest") > latest).then_some(()));
        anvil.wait_final();
        assert!(anvil.block_number("finalized") > latest);
    });
}

#[test]
fn a_break_glass_key_opens_its_login_though_the_helper_is_missing_and_no_other_key_does() {
    in_bed!(|| {
        let mut log = SystemLog::bind();
        machine::add_helper_user();
        machine::add_user("rescue", 3000);
        let (good, other) = (KeyFile::generate("good"), KeyFile::generate("other"));
        machine::write(BREAK_GLASS_KEYS, &format!("{}\n", good.public_line()), 0o644);
        for pam in [false, true] {
            let sshd = Sshd::start(Options { pam, break_glass: Some("rescue"), ..Options::default() }, &mut log);
            for client in [ssh, russh] {
                let accepted = client(&sshd, "rescue", &Credential::key(&good), "id -un");
                assert_eq!(accepted, Login::Accepted("rescue\n".to_owned()));
                let line = log.wait("sshd", "Accepted publickey for rescue from 127.0.0.1 port ");
                assert!(line.ends_with(&format!(" ssh2: ED25519 {}", good.fingerprint())), "{line}");
                assert_eq!(client(&sshd, "rescue", &Credential::key(&other), "id -un"), Login::Refused);
            }
        }
    });
}

#[test]
fn sshd_reads_the_configuration_as_it_is_meant() {
    in_bed!(|| {
        let mut log = SystemLog::bind();
        machine::add_helper_user();
        let _sshd = Sshd::start(Options::default(), &mut log);
        let config = Sshd::effective_config();
        for line in [
            &format!("port {PORT}"),
            "authorizedkeysfile none",
            "authorizedprincipalsfile /etc/countersign/empty",
            "trustedusercakeys /etc/countersign/empty",
            "authorizedkeyscommand /usr/lib/countersign/countersign-sshd keys %u %U %t %k",
            "authorizedkeyscommanduser countersign",
            "authorizedprincipalscommand /usr/lib/countersign/countersign-sshd principals %u %U %t %k %i %s %K",
            "authorizedprincipalscommanduser countersign",
        ] {
            assert!(config.lines().any(|found| found == line), "{line} is not in:\n{config}");
        }
    });
}

#[test]
fn a_realm_of_two_of_three_roots_stands_on_a_fresh_chain() {
    in_bed!(|| {
        let anvil = Anvil::start();
        let realm = Realm::create(&anvil, Settings::default());
        let mut directory = Directory::of(&realm);
        let alice = directory.user("alice");
        let host = directory.host("web1", &["web"]);
        directory.key(alice, &KeyFile::generate("alice"), 0);
        directory.grant(&Grant { subject: alice, hosts: &[host], logins: &["alice"], via: 2, ..Grant::default() });
        let mined = directory.write();
        assert_eq!(mined.entries.len(), 5);
        assert!(RealmFile::load(Path::new(REALM_FILE)).unwrap() == realm.file);
    });
}
