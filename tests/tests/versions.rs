//! Logins by the sshd of other Debian releases, with their own PAM: 8.4, where sshd is one program and knows less, and 10.0, where it
//! is three. This machine's own (9.2 on bookworm) has all other scenarios; `accounts`, `differential` and `sessions` run by these two as well.
//!
//! `COUNTERSIGN_SUITE=trixie cargo test -p e2e --test certificates` runs any other scenario by one of them.

use countersign_certificate::{Scope, Target};
use countersign_registry::{Entry, Fingerprint20, entries::Targets};
use e2e::{
    agent,
    client::{Credential, Login, ssh},
    in_bed_of, machine,
    mint::Mint,
    realm::{Directory, Grant},
    sshd::Options,
    story::{Line, Setup, Story, now},
};

const CA_FILE: &str = "/etc/countersign/ca-keys";

/// Certificate and plain key open the door; a revoked certificate, a key at its end and a locked one do not.
fn logins(pam: bool, ca_file: Option<&'static str>) {
    let sshd = Options { pam, ca_file, ..Options::default() };
    let mut story = Story::begin(Setup { sshd, ..Setup::default() });
    if ca_file.is_some() {
        machine::write(CA_FILE, &format!("{}\n", story.ca_key.public_line()), 0o644);
    }
    let (key, mint) = (story.key.clone(), story.mint());
    let (minted, valid_before) = (mint.make(), mint.valid_before);
    let certificate = Credential::certificate(&key, &minted.path);
    let of_certificate = story.line(&key, &minted);
    story.assert_accepted("deploy", &certificate, &of_certificate);

    let lasting = machine::KeyFile::generate("lasting");
    let mut directory = Directory::of(&story.realm);
    // What is printed for it ends with an `expiry-time`, which 8.4 reads in its own way.
    directory.key(story.alice, &lasting, now().saturating_add(600));
    let hosts = [story.host];
    let grant = |logins| Grant { subject: story.alice, hosts: &hosts, logins, via: 3, ..Grant::default() };
    let forced = directory.grant(&Grant { forced_command: "echo \"forced\" by grant", ..grant(&["backup2"]) });
    directory.grant(&Grant { source_addresses: &["10.0.0.0/8"], ..grant(&["rescue"]) });
    directory.write();
    story.publish();
    let of_lasting = Line { key: Some(&lasting), ..Line::default() };
    story.assert_accepted_by_keys("alice", &Credential::key(&lasting), &of_lasting);

    // What the options of the line mean to this sshd: one command, one network, nothing that is left in a home.
    let scope = Scope { grant: forced, ..story.scope(Target::Host(story.host)) };
    let minted_forced = Mint { scope: Some(scope), principals: &["backup2"], ..story.mint() }.make();
    for credential in [Credential::key(&key), Credential::certificate(&key, &minted_forced.path)] {
        let printed = ssh(&story.sshd, "backup2", &credential, "id -un");
        assert_eq!(printed, Login::Accepted("forced by grant\n".to_owned()));
    }
    assert_eq!(ssh(&story.sshd, "rescue", &Credential::key(&key), "id -un"), Login::Refused);
    let planted = machine::KeyFile::generate("planted");
    machine::write("/home/deploy/.ssh/authorized_keys", &format!("{}\n", planted.public_line()), 0o644);
    assert_eq!(ssh(&story.sshd, "deploy", &Credential::key(&planted), "id -un"), Login::Refused);
    let unknown = Mint { options: &["critical:no-such@example.org=x"], ..story.mint() }.make();
    assert_eq!(ssh(&story.sshd, "deploy", &Credential::certificate(&key, &unknown.path), "id -un"), Login::Refused);

    story.realm.revoke_certificate(story.ca, minted.serial, valid_before, now());
    let locked = Targets::Keys(vec![Fingerprint20::of_blob(&lasting.blob())]);
    story.realm.by(|realm| &realm.revoker, &[Entry::Lock(locked)]);
    agent::once();
    story.assert_refused("deploy", &certificate, "certificate-revoked", &of_certificate);
    story.assert_refused_by_keys("alice", &Credential::key(&lasting), "key-locked", &of_lasting);
}

#[test]
fn by_openssh_8_4_with_pam_and_a_ca_file() {
    in_bed_of!("bullseye", || logins(true, Some(CA_FILE)));
}

#[test]
fn by_openssh_8_4_without_pam() {
    in_bed_of!("bullseye", || logins(false, None));
}

#[test]
fn by_openssh_10_0_with_pam() {
    in_bed_of!("trixie", || logins(true, None));
}

#[test]
fn by_openssh_10_0_without_pam_and_with_a_ca_file() {
    in_bed_of!("trixie", || logins(false, Some(CA_FILE)));
}
