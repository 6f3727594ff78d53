//! MACs of enrolments against `tests/vectors/enrolment.json`, which Python's hmac computed (`docs/spec/enrolment.md`).

use std::path::Path;
use std::process::Command;

use countersign_registry::enrolment::{is_vouched_by, token_mac};
use countersign_registry::entries::payload::Enrol;
use serde_json::Value;

#[test]
fn macs_are_those_of_the_vectors_and_the_script_still_gives_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors");
    let vectors = std::fs::read_to_string(folder.join("enrolment.json")).unwrap();
    let run = Command::new("python3").arg(folder.join("enrolment.py")).arg("--print").output().unwrap();
    assert_eq!(String::from_utf8(run.stdout).unwrap(), vectors);

    let vectors: Value = serde_json::from_str(&vectors).unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 3);
    for case in cases {
        let text = |field: &str| case[field].as_str().unwrap();
        let token = alloy_primitives::hex::decode(text("token")).unwrap().try_into().unwrap();
        let enrol = Enrol {
            actor: text("actor").parse().unwrap(),
            x25519: text("x25519").parse().unwrap(),
            name: text("name").to_owned(),
            hostKey: text("host-key").parse().unwrap(),
            tokenMac: text("mac").parse().unwrap(),
        };
        let realm = text("realm").parse().unwrap();
        assert_eq!(token_mac(&token, realm, &enrol), enrol.tokenMac);
        assert!(is_vouched_by(&token, realm, &enrol));
    }
}
