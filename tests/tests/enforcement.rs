//! What a grant imposes on a session, and what is refused whatever a grant says: by the helper, or by sshd before it asks.

use countersign_certificate::{LogProof, RealmId, Target};
use e2e::{
    agent,
    client::{Credential, Login, russh, ssh},
    in_bed, machine,
    machine::KeyFile,
    mint::Mint,
    realm::{Directory, Grant, Settings},
    sshd::Options,
    story::{CA_MAX_TTL, Line, Setup, Story, now},
};

/// A grant beside the story's own, for the login `backup2`.
fn grant(story: &Story, grant: &Grant<'_>) -> countersign_certificate::Id {
    let mut directory = Directory::of(&story.realm);
    let hosts = [story.host];
    let id = directory.grant(&Grant { subject: story.alice, hosts: &hosts, logins: &["backup2"], ..grant.clone() });
    directory.write();
    story.publish();
    id
}

#[test]
fn the_forced_command_of_a_grant_is_the_only_one_that_runs() {
    in_bed!(|| {
        let story = Story::begin(Setup::default());
        let forced = grant(&story, &Grant { via: 3, forced_command: "echo \"forced\" by grant", ..Grant::default() });
        let scope = countersign_certificate::Scope { grant: forced, ..story.scope(Target::Host(story.host)) };
        let minted = Mint { scope: Some(scope), principals: &["backup2"], ..story.mint() }.make();
        for credential in [Credential::key(&story.key), Credential::certificate(&story.key, &minted.path)] {
            for client in [ssh, russh] {
                let printed = client(&story.sshd, "backup2", &credential, "id -un");
                assert_eq!(printed, Login::Accepted("forced by grant\n".to_owned()));
            }
        }
    });
}

#[test]
fn a_grant_for_another_network_leads_nowhere_from_here() {
    in_bed!(|| {
        let mut story = Story::begin(Setup::default());
        grant(&story, &Grant { via: 2, source_addresses: &["10.0.0.0/8"], ..Grant::default() });
        story.log.take("sshd");
        assert_eq!(ssh(&story.sshd, "backup2", &Credential::key(&story.key), "id -un"), Login::Refused);
        // The helper prints the grant's networks; sshd, which knows the client's address, compares.
        let refused = "/usr/lib/countersign/countersign-sshd keys %u %U %t %k:1: Authentication tried for backup2 with correct key but not from a permitted host (host=127.0.0.1, \
                       ip=127.0.0.1, required=10.0.0.0/8).";
        let said = story.log.of("sshd");
        assert!(said.iter().any(|line| line == refused), "{said:#?}");
    });
}

#[test]
fn a_login_whose_uid_is_not_the_ledgers_opens_for_nobody() {
    in_bed!(|| {
        let mut story = Story::begin(Setup::default());
        // In its place: another release's root has this very file.
        let accounts = std::fs::read_to_string("/etc/passwd").unwrap();
        std::fs::write("/etc/passwd", accounts.replace("\nalice:x:1900000000:", "\nalice:x:1500:")).unwrap();
        let key = story.key.clone();
        let detail = Some("the ledger has uid 1900000000 for this login, sshd says 1500");
        let line = Line { detail, ..Line::default() };
        story.assert_refused("alice", &Credential::key(&key), "uid-mismatch", &line);
    });
}

#[test]
fn root_is_for_nobody_unless_the_host_allows_it() {
    in_bed!(|| {
        let mut story = Story::begin(Setup::default());
        let mut directory = Directory::of(&story.realm);
        let hosts = [story.host];
        let root = Grant { subject: story.alice, hosts: &hosts, logins: &["root"], via: 2, ..Grant::default() };
        directory.grant(&root);
        directory.write();
        story.publish();
        let (key, credential) = (story.key.clone(), Credential::key(&story.key));
        story.assert_refused("root", &credential, "root-not-allowed", &Line::default());

        agent::configure(story.host, "allow-root = true\n");
        agent::once();
        story.assert_accepted("root", &credential, &Line { key: Some(&key), ..Line::default() });
    });
}

#[test]
fn without_pam_the_same_key_and_certificate_log_in() {
    in_bed!(|| {
        let sshd = Options { pam: false, ..Options::default() };
        let mut story = Story::begin(Setup { sshd, ..Setup::default() });
        let (key, minted) = (story.key.clone(), story.mint().make());
        story.assert_accepted("alice", &Credential::key(&key), &Line { key: Some(&key), ..Line::default() });
        let line = story.line(&key, &minted);
        story.assert_accepted("deploy", &Credential::certificate(&key, &minted.path), &line);
    });
}

#[test]
fn a_certificate_in_a_batch_of_five_logs_in_by_its_own_proof_only() {
    in_bed!(|| {
        let mut story = Story::begin(Setup { settings: Settings::default(), via: 1, ..Setup::default() });
        let (key, realm) = (story.key.clone(), RealmId(story.realm.id().0));
        let minted: Vec<_> = (0..5).map(|_| story.mint().make()).collect();
        let leaves: Vec<_> = minted.iter().map(|minted| minted.leaf(realm, story.ca)).collect();
        let batch = story.realm.log_batch(story.ca, &leaves, now().saturating_add(CA_MAX_TTL));
        agent::once();
        let proofs = (0..5).map(|index| LogProof::among(batch, &leaves, index).expect("a proof"));
        for (minted, proof) in minted.iter().zip(proofs.clone()) {
            let logged = minted.with_log_proof(&story.ca_key, &proof);
            let login = ssh(&story.sshd, "deploy", &Credential::certificate(&key, &logged.path), "id -un");
            assert_eq!(login, Login::Accepted("deploy\n".to_owned()));
        }
        for (minted, proof) in minted.iter().skip(1).zip(proofs) {
            let swapped = minted.with_log_proof(&story.ca_key, &proof);
            let line = Line { batch: Some(batch), ..story.line(&key, &swapped) };
            story.assert_refused("deploy", &Credential::certificate(&key, &swapped.path), "log-proof-mismatch", &line);
        }
    });
}

#[test]
fn an_unknown_critical_option_opens_nothing() {
    in_bed!(|| {
        let mut story = Story::begin(Setup::default());
        let key = story.key.clone();
        let minted = Mint { options: &["critical:frobnicate@example.org=1"], ..story.mint() }.make();
        let line = Line { detail: Some("frobnicate@example.org"), ..story.line(&key, &minted) };
        story.assert_refused("deploy", &Credential::certificate(&key, &minted.path), "critical-option", &line);
    });
}

#[test]
fn nothing_that_a_session_plants_opens_the_door_again() {
    in_bed!(|| {
        let mut story = Story::begin(Setup::default());
        let (key, planted) = (story.key.clone(), KeyFile::generate("planted"));
        let plant = format!("mkdir -p ~/.ssh && echo '{}' >~/.ssh/authorized_keys", planted.public_line());
        assert_eq!(ssh(&story.sshd, "alice", &Credential::key(&key), &plant), Login::Accepted(String::new()));
        machine::write("/home/alice/none", &planted.public_line(), 0o644);
        let line = Line { key: Some(&planted), ..Line::default() };
        story.assert_refused("alice", &Credential::key(&planted), "key-unknown", &line);
    });
}
