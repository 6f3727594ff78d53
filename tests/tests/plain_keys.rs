//! Logins with registered keys and no certificate: a grant with `via = key`.

use countersign_registry::{Entry, entries::Targets};
use e2e::{
    client::Credential,
    in_bed,
    machine::KeyFile,
    story::{Line, Setup, Story},
};

// row: D4
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
        e2e::agent::once();
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
