//! Keystore files against an independent implementation: Foundry's `cast`.

#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

mod support;

use std::{os::unix::fs::PermissionsExt, process::Command};

use countersign_chain::keys::{ActorKey, KeySource, PASSWORD_VARIABLE};
use support::{FUNDED_KEY, key, tool};

fn cast(arguments: &[&str]) -> String {
    let output = Command::new(tool("cast")).args(arguments).output().unwrap();
    assert!(output.status.success(), "cast {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_keystore_that_cast_wrote_opens() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().to_str().unwrap();
    cast(&[
        "wallet",
        "import",
        "actor",
        "--keystore-dir",
        place,
        "--private-key",
        FUNDED_KEY,
        "--unsafe-password",
        "p w",
    ]);
    let path = directory.path().join("actor");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let environment = |name: &str| (name == PASSWORD_VARIABLE).then(|| "p w".into());
    let opened = ActorKey::load(&KeySource::File(path), environment, |_| unreachable!()).unwrap();
    assert_eq!(opened.address(), key(FUNDED_KEY).address());
}

#[test]
fn cast_opens_a_keystore_of_ours() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ours.json");
    let actor = ActorKey::generate().unwrap();
    actor.store(&path, "p w").unwrap();
    let shown = cast(&["wallet", "address", "--keystore", path.to_str().unwrap(), "--password", "p w"]);
    assert_eq!(shown.trim(), actor.address().to_checksum(None));
}

#[test]
fn cast_recovers_the_signer_of_a_digest() {
    let actor = key(FUNDED_KEY);
    let digest = alloy_primitives::keccak256("countersign");
    let signature = actor.sign(&digest).unwrap();
    let hex = alloy_primitives::hex::encode_prefixed(signature.as_bytes());
    let shown =
        cast(&["wallet", "verify", "--no-hash", "--address", &actor.address().to_string(), &digest.to_string(), &hex]);
    assert!(shown.contains("Validation succeeded"), "{shown}");
}
