//! Logins with registered keys and no certificate: a grant with `via = key`.

use countersign_registry::{Entry, entries::Targets};
use e2e::{
    agent,
    client::Credential,
    in_bed, machine,
    machine::KeyFile,
    realm::{Directory, Grant, Settings},
    sshd::Options,
    story::{Line, Setup, Story, now},
    wait,
};

// row: D26
#[test]
fn a_registered_key_with_a_plain_key_grant_logs_in_until_it_is_locked() {
    in_bed!(|| {
        let mut story = Story::begin(Setup::default());
        let (key, credential) = (story.key.clone(), Credential::key(&story.key));
        let line = Line { key: Some(&key), ..Line::default() };
        story.assert_accepted("alice", &credential, &line);
        story.assert_accepted("deploy", &credential, &line);

        let fingerprint = countersign_registry::Fingerprint20::of_blob(&key.blob());
        story.realm.by(|realm| &realm.revoker, &[Entry::Lock(Targets::Keys(vec![fingerprint]))]);
        // A denial counts from the latest block: nothing is waited for.
        agent::once();
        story.assert_refused("alice", &credential, "key-locked", &line);
    });
}

#[test]
fn a_key_that_nobody_registered_is_refused() {
    in_bed!(|| {
        let mut story = Story::begin(Setup::default());
        let stranger = KeyFile::generate("stranger");
        let line = Line { key: Some(&stranger), ..Line::default() };
        story.assert_refused("alice", &Credential::key(&stranger), "key-unknown", &line);
    });
}

// row: D14
#[test]
fn in_a_realm_without_a_ca_the_ledger_alone_opens_and_closes_the_door() {
    in_bed!(|| {
        let mut story = Story::begin(Setup { ca: false, via: 2, ..Setup::default() });
        let (key, credential) = (story.key.clone(), Credential::key(&story.key));
        let line = Line { key: Some(&key), ..Line::default() };
        story.assert_accepted("deploy", &credential, &line);

        // Nobody is an authority here: a certificate by any key is one by a stranger.
        let minted = story.mint().make();
        let ca = story.ca_key.fingerprint();
        let stranger = Line { serial: Some(minted.serial), ca_key: Some(&ca), ..line };
        story.assert_refused("deploy", &Credential::certificate(&key, &minted.path), "ca-unknown", &stranger);

        story.realm.by(|realm| &realm.admin, &[Entry::Remove(vec![story.key_id])]);
        agent::once();
        story.assert_refused("deploy", &credential, "key-unknown", &line);
    });
}

#[test]
fn a_key_is_refused_where_no_grant_leads_it_and_after_its_end() {
    in_bed!(|| {
        let mut story = Story::begin(Setup::default());
        let (key, short) = (story.key.clone(), KeyFile::generate("short"));
        let not_after = now().saturating_add(25);
        let mut directory = Directory::of(&story.realm);
        directory.key(story.alice, &short, not_after);
        directory.write();
        story.publish();

        let no_grant = Some("no grant leads a plain key of this user into this login here");
        let line = Line { key: Some(&key), detail: no_grant, ..Line::default() };
        story.assert_refused("backup2", &Credential::key(&key), "no-grant", &line);

        let line = Line { key: Some(&short), ..Line::default() };
        story.assert_accepted("deploy", &Credential::key(&short), &line);
        wait::until("the key's end", || (now() > not_after).then_some(()));
        story.assert_refused("deploy", &Credential::key(&short), "key-expired", &line);
    });
}

#[test]
fn where_only_logged_certificates_count_no_plain_key_does() {
    in_bed!(|| {
        let mut story = Story::begin(Setup { settings: Settings::default(), via: 3, ..Setup::default() });
        let key = story.key.clone();
        let detail = Some("no grant leads a plain key of this user into this login here");
        let line = Line { key: Some(&key), detail, ..Line::default() };
        story.assert_refused("deploy", &Credential::key(&key), "no-grant", &line);
    });
}

#[test]
fn a_grant_that_is_removed_ends_at_once_and_a_new_one_begins_when_it_is_final() {
    in_bed!(|| {
        let mut story = Story::begin(Setup::default());
        let (key, credential) = (story.key.clone(), Credential::key(&story.key));
        let line = Line { key: Some(&key), ..Line::default() };
        let no_grant = Some("no grant leads a plain key of this user into this login here");
        story.realm.by(|realm| &realm.admin, &[Entry::Remove(vec![story.grant])]);
        agent::once();
        story.assert_refused("deploy", &credential, "no-grant", &Line { detail: no_grant, ..line });

        let mut directory = Directory::of(&story.realm);
        directory.grant(&Grant {
            subject: story.alice,
            hosts: &[story.host],
            logins: &["deploy"],
            via: 2,
            ..Grant::default()
        });
        directory.write();
        story.publish();
        story.assert_accepted("deploy", &credential, &line);
    });
}

#[test]
fn an_earlier_command_goes_on_working_for_local_logins_and_gives_back_nothing_that_the_ledger_took() {
    in_bed!(|| {
        let sshd = Options { chain: " --chain /opt/earlier/keys --of %u", ..Options::default() };
        let mut story = Story::begin(Setup { sshd, ..Setup::default() });
        let (old, other) = (KeyFile::generate("old"), KeyFile::generate("other"));
        let both = format!("{}\n{}\n", old.public_line(), other.public_line());
        for login in ["backup2", "rescue", "deploy", "alice"] {
            machine::write(format!("/opt/earlier/{login}"), &both, 0o644);
        }
        // It also tries to tell sshd of a key behind the helper's back, as any process of that user might.
        let third = KeyFile::generate("third");
        let script = format!(
            "#!/bin/sh\n{{ echo '{}' >/proc/$PPID/fd/1; }} 2>/dev/null\ntest \"$1\" = --of && exec cat \"/opt/earlier/$2\"\n",
            third.public_line()
        );
        machine::write("/opt/earlier/keys", &script, 0o755);

        let (credential, line) = (Credential::key(&old), Line { key: Some(&old), ..Line::default() });
        story.assert_accepted_as("chained", "backup2", &credential, &line);
        let of_third = Line { key: Some(&third), ..Line::default() };
        story.assert_refused("backup2", &Credential::key(&third), "chain-no-key", &of_third);
        // A user's login, and one that a grant leads into, are the realm's business.
        story.assert_refused("alice", &credential, "key-unknown", &line);
        story.assert_refused("deploy", &credential, "key-unknown", &line);
        // The realm's own key gets in where it did.
        let key = story.key.clone();
        story.assert_accepted("deploy", &Credential::key(&key), &Line { key: Some(&key), ..Line::default() });

        // What the realm has given out once, nobody else gives out when it is taken back.
        story.realm.by(|realm| &realm.admin, &[Entry::Remove(vec![story.grant])]);
        agent::once();
        story.assert_refused("deploy", &credential, "key-unknown", &line);
        story.assert_accepted_as("chained", "rescue", &credential, &line);

        // Only the host itself gives a login back, and never a user's.
        agent::configure(story.host, "[earlier-command]\nrelease = [\"deploy\", \"alice\"]\n");
        agent::once();
        story.assert_accepted_as("chained", "deploy", &credential, &line);
        story.assert_refused("alice", &credential, "key-unknown", &line);

        // A key that nobody registered is revoked all the same, and no other with it.
        let fingerprint = countersign_registry::Fingerprint20::of_blob(&old.blob());
        story.realm.by(|realm| &realm.revoker, &[Entry::Lock(Targets::Keys(vec![fingerprint]))]);
        agent::once();
        story.assert_refused("rescue", &credential, "key-locked", &line);
        let line = Line { key: Some(&other), ..Line::default() };
        story.assert_accepted_as("chained", "rescue", &Credential::key(&other), &line);
    });
}
