//! Logins with certificates, minted by `ssh-keygen`: what a host takes, and each reason for which it does not.

#![expect(clippy::arithmetic_side_effects, reason = "a scenario: a failure is its result")]

use countersign_certificate::{Id, LogProof, RealmId, Target, label_digest};
use countersign_registry::{Entry, Fingerprint20, entries::Targets};
use e2e::{
    agent,
    client::Credential,
    in_bed, machine,
    machine::KeyFile,
    mint::Mint,
    realm::{self, Directory, Grant, Settings},
    sshd::Options,
    story::{CA_MAX_TTL, Line, Setup, Story, now},
};

const CA_FILE: &str = "/etc/countersign/ca-keys";

/// A story in whose realm only logged certificates count.
fn logged() -> Setup {
    Setup { settings: Settings::default(), via: 1, ..Setup::default() }
}

// row: D13
#[test]
fn a_certificate_under_a_grant_logs_in_by_the_keys_command() {
    in_bed!(|| {
        let mut story = Story::begin(Setup { via: 1, ..Setup::default() });
        let (key, minted) = (story.key.clone(), story.mint().make());
        let line = story.line(&key, &minted);
        story.assert_accepted("deploy", &Credential::certificate(&key, &minted.path), &line);
    });
}

// row: D13
#[test]
fn the_same_certificate_logs_in_by_a_ca_file_and_the_principals_command() {
    in_bed!(|| {
        let sshd = Options { ca_file: Some(CA_FILE), ..Options::default() };
        let mut story = Story::begin(Setup { via: 1, sshd, ..Setup::default() });
        machine::write(CA_FILE, &format!("{}\n", story.ca_key.public_line()), 0o644);
        let (key, minted) = (story.key.clone(), story.mint().make());
        let line = story.line(&key, &minted);
        let credential = Credential::certificate(&key, &minted.path);
        story.assert_accepted("deploy", &credential, &line);
        let detail = Some("the login is not among them");
        story.assert_refused("alice", &credential, "principals", &Line { detail, ..line });
    });
}

#[test]
fn a_certificate_scoped_to_a_label_logs_in_where_grant_and_host_have_it() {
    in_bed!(|| {
        let mut story = Story::begin(Setup::default());
        let mut directory = Directory::of(&story.realm);
        let grant = directory.grant(&Grant {
            subject: story.alice,
            labels: &["web"],
            logins: &["deploy"],
            via: 1,
            ..Grant::default()
        });
        directory.write();
        story.publish();
        let key = story.key.clone();
        let mut scope = story.scope(Target::Label(label_digest("web")));
        scope.grant = grant;
        let minted = Mint { scope: Some(scope), ..story.mint() }.make();
        let line = story.line(&key, &minted);
        story.assert_accepted("deploy", &Credential::certificate(&key, &minted.path), &line);

        scope.target = Target::Label(label_digest("database"));
        let elsewhere = Mint { scope: Some(scope), ..story.mint() }.make();
        let line = story.line(&key, &elsewhere);
        story.assert_refused("deploy", &Credential::certificate(&key, &elsewhere.path), "scope-host", &line);
    });
}

#[test]
fn a_logged_certificate_logs_in_until_its_batch_is_locked() {
    in_bed!(|| {
        let mut story = Story::begin(logged());
        let key = story.key.clone();
        let (batch, minted) = story.log(&story.mint().make());
        // A batch counts from the latest block.
        agent::once();
        let line = Line { batch: Some(batch), ..story.line(&key, &minted) };
        let credential = Credential::certificate(&key, &minted.path);
        story.assert_accepted("deploy", &credential, &line);

        story.realm.by(|realm| &realm.revoker, &[Entry::Lock(Targets::Batches(vec![batch]))]);
        agent::once();
        story.assert_refused("deploy", &credential, "batch-locked", &line);
    });
}

// row: D5
#[test]
fn a_stolen_ca_key_mints_nothing_that_a_host_takes() {
    in_bed!(|| {
        let mut story = Story::begin(logged());
        let key = story.key.clone();
        let (batch, logged) = story.log(&story.mint().make());
        agent::once();

        let unlogged = story.mint().make();
        let line = story.line(&key, &unlogged);
        story.assert_refused("deploy", &Credential::certificate(&key, &unlogged.path), "log-proof-missing", &line);

        let leaf = logged.leaf(RealmId(story.realm.id().0), story.ca);
        let proof = LogProof::among(batch, &[leaf], 0).unwrap();
        let borrowed = story.mint().make().with_log_proof(&story.ca_key, &proof);
        let line = Line { batch: Some(batch), ..story.line(&key, &borrowed) };
        story.assert_refused("deploy", &Credential::certificate(&key, &borrowed.path), "log-proof-mismatch", &line);

        let unknown = Id(realm::random());
        let invented = story.mint().make();
        let leaf = invented.leaf(RealmId(story.realm.id().0), story.ca);
        let proof = LogProof::among(unknown, &[leaf], 0).unwrap();
        let invented = invented.with_log_proof(&story.ca_key, &proof);
        let line = Line { batch: Some(unknown), ..story.line(&key, &invented) };
        story.assert_refused("deploy", &Credential::certificate(&key, &invented.path), "batch-unknown", &line);
    });
}

#[test]
fn batches_of_an_issuer_that_lost_its_role_do_not_count() {
    in_bed!(|| {
        let mut story = Story::begin(logged());
        let key = story.key.clone();
        let (batch, minted) = story.log(&story.mint().make());
        agent::once();
        let line = Line { batch: Some(batch), ..story.line(&key, &minted) };
        let credential = Credential::certificate(&key, &minted.path);
        story.assert_accepted("deploy", &credential, &line);

        story.realm.take_roles(story.realm.issuer.address);
        agent::once();
        let detail = Some("its issuer has lost the role");
        story.assert_refused("deploy", &credential, "batch-issuer", &Line { detail, ..line });
    });
}

// row: D12
#[test]
fn a_revoked_certificate_is_refused_though_its_key_is_fine() {
    in_bed!(|| {
        let mut story = Story::begin(Setup::default());
        let key = story.key.clone();
        let mint = story.mint();
        let (revoked, valid_before, other) = (mint.make(), mint.valid_before, mint.make());
        story.realm.revoke_certificate(story.ca, revoked.serial, valid_before, now());
        agent::once();
        let line = story.line(&key, &revoked);
        story.assert_refused("deploy", &Credential::certificate(&key, &revoked.path), "certificate-revoked", &line);
        let line = story.line(&key, &other);
        story.assert_accepted("deploy", &Credential::certificate(&key, &other.path), &line);
    });
}

#[test]
fn a_locked_key_is_refused_though_its_certificate_is_fine() {
    in_bed!(|| {
        let mut story = Story::begin(Setup::default());
        let (key, minted) = (story.key.clone(), story.mint().make());
        let lock = Entry::Lock(Targets::Keys(vec![Fingerprint20::of_blob(&key.blob())]));
        story.realm.by(|realm| &realm.revoker, &[lock]);
        agent::once();
        let line = Line { key: Some(&key), serial: Some(minted.serial), ..Line::default() };
        let ca = story.ca_key.fingerprint();
        let line = Line { ca_key: Some(&ca), ..line };
        story.assert_refused("deploy", &Credential::certificate(&key, &minted.path), "key-locked", &line);
    });
}

#[test]
fn a_locked_user_gets_in_nowhere() {
    in_bed!(|| {
        let mut story = Story::begin(Setup::default());
        let (key, minted) = (story.key.clone(), story.mint().make());
        story.realm.by(|realm| &realm.revoker, &[Entry::Lock(Targets::Users(vec![story.alice]))]);
        agent::once();
        let line = story.line(&key, &minted);
        story.assert_refused("deploy", &Credential::certificate(&key, &minted.path), "user-locked", &line);
        let line = Line { key: Some(&key), ..Line::default() };
        story.assert_refused("deploy", &Credential::key(&key), "user-locked", &line);
    });
}

#[test]
fn a_locked_host_lets_nobody_in() {
    in_bed!(|| {
        let mut story = Story::begin(Setup::default());
        let (key, minted) = (story.key.clone(), story.mint().make());
        story.realm.by(|realm| &realm.revoker, &[Entry::Lock(Targets::Hosts(vec![story.host]))]);
        agent::once();
        let credential = Credential::certificate(&key, &minted.path);
        story.assert_refused("deploy", &credential, "host-locked", &Line::default());
        story.assert_refused("alice", &Credential::key(&key), "host-locked", &Line::default());
    });
}

// row: D5
#[test]
fn a_locked_ca_certifies_nobody_until_the_roots_unlock_it() {
    in_bed!(|| {
        let mut story = Story::begin(Setup::default());
        let (key, minted) = (story.key.clone(), story.mint().make());
        let (line, credential) = (story.line(&key, &minted), Credential::certificate(&key, &minted.path));
        let targets = Targets::Cas(vec![story.ca]);
        story.realm.by(|realm| &realm.revoker, &[Entry::Lock(targets.clone())]);
        agent::once();
        story.assert_refused("deploy", &credential, "ca-locked", &line);
        story.realm.by_roots(&[Entry::Unlock(targets)]);
        story.publish();
        story.assert_accepted("deploy", &credential, &line);
    });
}

// row: D5 D7
#[test]
fn a_ca_is_rotated_with_overlap_and_without_restarting_sshd() {
    in_bed!(|| {
        let mut story = Story::begin(logged());
        let (key, sshd) = (story.key.clone(), story.sshd.pid());
        let (old_batch, old) = story.log(&story.mint().make());
        let (old_ca, old_ca_key) = (story.ca, story.ca_key.clone());

        let new_ca_key = KeyFile::generate("ca2");
        let new_ca = story.realm.add_ca("ca2", &new_ca_key, CA_MAX_TTL, &[]);
        story.publish();
        (story.ca, story.ca_key) = (new_ca, new_ca_key);
        let (new_batch, new) = story.log(&story.mint().make());
        story.realm.by(|realm| &realm.revoker, &[Entry::CaRetire(vec![old_ca])]);
        agent::once();

        // What the old CA certified before it was retired counts to its end; nothing that it certifies later does.
        let line = Line { ca: Some(old_ca), batch: Some(old_batch), ..story.line(&key, &old) };
        story.assert_accepted("deploy", &Credential::certificate(&key, &old.path), &line);
        let line = Line { batch: Some(new_batch), ..story.line(&key, &new) };
        story.assert_accepted("deploy", &Credential::certificate(&key, &new.path), &line);

        (story.ca, story.ca_key) = (old_ca, old_ca_key);
        let (late_batch, late) = story.log(&story.mint().make());
        agent::once();
        let line = Line { batch: Some(late_batch), ..story.line(&key, &late) };
        story.assert_refused("deploy", &Credential::certificate(&key, &late.path), "ca-retired", &line);
        assert_eq!(story.sshd.pid(), sshd);
    });
}

#[test]
fn a_certificate_is_refused_before_and_after_its_time_and_when_it_lasts_too_long() {
    in_bed!(|| {
        let mut story = Story::begin(Setup::default());
        let key = story.key.clone();
        let now = now();
        let too_long = format!("{} s, at most {CA_MAX_TTL} and 30 s are allowed", CA_MAX_TTL + 60 + 30);
        for (from, to, reason, detail) in [
            (now + 3600, now + 3700, "certificate-not-yet-valid", None),
            (now - 300, now - 1, "certificate-expired", None),
            (now - 30, now + CA_MAX_TTL + 60, "ttl-too-long", Some(too_long.as_str())),
        ] {
            let minted = Mint { valid_after: from, valid_before: to, ..story.mint() }.make();
            let line = Line { detail, ..story.line(&key, &minted) };
            story.assert_refused("deploy", &Credential::certificate(&key, &minted.path), reason, &line);
        }
    });
}

#[test]
fn a_certificate_is_refused_beyond_its_grant_its_scope_and_its_ca() {
    in_bed!(|| {
        let mut story = Story::begin(Setup::default());
        let mut directory = Directory::of(&story.realm);
        let elsewhere = directory.grant(&Grant {
            subject: story.alice,
            hosts: &[story.other_host],
            logins: &["deploy"],
            via: 1,
            ..Grant::default()
        });
        directory.write();
        story.publish();

        let key = story.key.clone();
        let here = story.scope(Target::Host(story.host));
        let with = |change: &dyn Fn(&mut countersign_certificate::Scope)| {
            let mut scope = here;
            change(&mut scope);
            Some(scope)
        };
        let other_host = story.other_host;
        for (login, scope, reason) in [
            ("backup2", Some(here), "login-not-granted"),
            ("rescue", Some(here), "ca-login"),
            ("deploy", with(&|scope| scope.grant = elsewhere), "host-not-covered"),
            ("deploy", with(&|scope| scope.target = Target::Host(other_host)), "scope-host"),
            ("deploy", with(&|scope| scope.realm = RealmId([7; 32])), "scope-realm"),
            ("deploy", with(&|scope| scope.user = Id([7; 16])), "user-unknown"),
            ("deploy", with(&|scope| scope.grant = Id([7; 16])), "grant-unknown"),
            ("deploy", None, "scope-missing"),
        ] {
            let minted = Mint { principals: &[login], scope, ..story.mint() }.make();
            let line = story.line(&key, &minted);
            story.assert_refused(login, &Credential::certificate(&key, &minted.path), reason, &line);
        }
    });
}

#[test]
fn a_certificate_without_principals_or_by_an_unknown_ca_opens_nothing() {
    in_bed!(|| {
        let mut story = Story::begin(Setup::default());
        let key = story.key.clone();
        let minted = Mint { principals: &[], ..story.mint() }.make();
        let detail = Some("the certificate has none, which some versions of sshd take for everybody");
        let line = Line { detail, ..story.line(&key, &minted) };
        story.assert_refused("deploy", &Credential::certificate(&key, &minted.path), "principals", &line);

        let stranger = KeyFile::generate("stranger");
        let minted = Mint { ca: &stranger, ..story.mint() }.make();
        let fingerprint = stranger.fingerprint();
        let line = Line { ca: None, ca_key: Some(&fingerprint), ..story.line(&key, &minted) };
        story.assert_refused("deploy", &Credential::certificate(&key, &minted.path), "ca-unknown", &line);
    });
}
