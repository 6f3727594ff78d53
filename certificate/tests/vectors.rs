//! The layouts against `tests/vectors/certificate.json`, which a script in another language made (`docs/spec/certificate.md`).
#![expect(clippy::unwrap_used, reason = "a vector file of another shape is a failed test")]

use std::path::{Path, PathBuf};
use std::process::Command;

use countersign_certificate::{
    ApprovalTerms, CertType, Certificate, Digest32, Fingerprint20, Id, LogProof, PublicKey, RealmId, Scope, Target,
    ToBeSigned, approval_hash, insert_log_proof, label_digest, leaf_hash, merkle,
};
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors")
}

fn vectors() -> Value {
    serde_json::from_slice(&std::fs::read(folder().join("certificate.json")).unwrap()).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    let digits = value.as_str().unwrap().as_bytes();
    assert_eq!(digits.len() % 2, 0);
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn digest(value: &Value) -> Digest32 {
    bytes(value).try_into().unwrap()
}

fn digests(value: &Value) -> Vec<Digest32> {
    value.as_array().unwrap().iter().map(digest).collect()
}

fn id(value: &Value) -> Id {
    value.as_str().unwrap().parse().unwrap()
}

fn number(value: &Value) -> u32 {
    u32::try_from(value.as_u64().unwrap()).unwrap()
}

#[test]
fn the_script_still_gives_the_vectors_that_are_checked_in() {
    let script = folder().join("certificate.py");
    let run = Command::new("python3").arg(&script).arg("--deterministic").output();
    let run = run.expect("python3 runs (install it: apt-get install python3)");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let made: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(made, vectors()["deterministic"]);
}

#[test]
fn scopes_have_the_layout_of_the_vectors() {
    let vectors = &vectors()["deterministic"];
    let targets = [
        Target::Host(id(&vectors["host"])),
        Target::Label(label_digest(vectors["label"].as_str().unwrap())),
        Target::AllHosts,
    ];
    let cases = vectors["scopes"].as_array().unwrap();
    assert_eq!(cases.len(), targets.len());
    for (case, target) in cases.iter().zip(targets) {
        let scope = Scope {
            realm: vectors["realm"].as_str().unwrap().parse().unwrap(),
            user: id(&vectors["user"]),
            grant: id(&vectors["grant"]),
            target,
            request: id(&vectors["request"]),
        };
        assert_eq!(scope.encode().to_vec(), bytes(&case["layout"]), "{}", case["target"]);
        assert_eq!(scope.to_text(), case["text"].as_str().unwrap());
        assert_eq!(Scope::decode(&bytes(&case["layout"])), Ok(scope));
    }
}

#[test]
fn trees_of_one_to_nine_leaves_have_the_roots_and_paths_of_the_vectors() {
    let vectors = &vectors()["deterministic"];
    let realm: RealmId = vectors["realm"].as_str().unwrap().parse().unwrap();
    let trees = vectors["trees"].as_array().unwrap();
    assert_eq!(trees.len(), 9);
    for (size, tree) in (1_u32..).zip(trees) {
        let leaves = digests(&tree["leaves"]);
        let own: Vec<Digest32> = (0..size)
            .map(|at| leaf_hash(&realm, &id(&vectors["ca"]), format!("pre-certificate {at}").as_bytes()))
            .collect();
        assert_eq!(own, leaves);
        let root = digest(&tree["root"]);
        assert_eq!(merkle::root(&leaves), Some(root), "{size} leaves");
        for index in 0..size {
            let path = digests(&tree["paths"][usize::try_from(index).unwrap()]);
            assert_eq!(merkle::path(&leaves, index), Some(path.clone()), "{index} of {size}");
            let proof = LogProof::new(id(&vectors["batch"]), index, size, path).unwrap();
            assert!(proof.verify(&leaves[usize::try_from(index).unwrap()], &root));
        }
    }
}

#[test]
fn approval_hashes_are_those_of_the_vectors() {
    let vectors = &vectors()["deterministic"];
    let realm = vectors["realm"].as_str().unwrap().parse().unwrap();
    for case in vectors["approvals"].as_array().unwrap() {
        let terms = ApprovalTerms {
            request: id(&vectors["request"]),
            user: id(&vectors["user"]),
            host: id(&vectors["host"]),
            login: case["login"].as_str().unwrap().as_bytes(),
            key: &bytes(&case["key"]),
            ttl_secs: case["ttl"].as_u64().unwrap(),
        };
        assert_eq!(approval_hash(&realm, &terms), Ok(digest(&case["hash"])));
    }
}

#[test]
fn a_proof_goes_into_a_pre_certificate_and_comes_out_of_it_as_in_the_vectors() {
    let vectors = &vectors()["deterministic"];
    let case = &vectors["certificate"];
    let realm = vectors["realm"].as_str().unwrap().parse().unwrap();
    let pre = bytes(&case["pre-certificate"]);
    let leaf = leaf_hash(&realm, &id(&vectors["ca"]), &pre);
    assert_eq!(leaf, digest(&case["leaf"]));
    let proof = &case["log-proof"];
    let (index, size) = (number(&proof["index"]), number(&proof["size"]));
    let layout = bytes(&proof["layout"]);
    let text = proof["text"].as_str().unwrap();
    let proof = LogProof::new(id(&vectors["batch"]), index, size, digests(&proof["path"])).unwrap();
    assert_eq!(proof.encode(), layout);
    assert_eq!(proof.to_text(), text);
    assert!(proof.verify(&leaf, &digest(&case["root"])));
    let signed = insert_log_proof(&pre, &proof).unwrap();
    assert_eq!(signed, bytes(&case["to-be-signed"]));
    let parsed = ToBeSigned::parse(&signed).unwrap();
    assert_eq!(parsed.pre_certificate(), pre);
    assert_eq!(parsed.log_proof(), Ok(Some(proof.clone())));
    assert!(insert_log_proof(&signed, &proof).is_err(), "a second proof");
    assert_eq!(parsed.ttl_secs(), Some(300));
}

#[test]
fn certificates_by_ssh_keygen_read_as_the_script_reads_them() {
    let vectors = vectors();
    let cases = vectors["ssh-keygen"].as_array().unwrap();
    assert_eq!(cases.len(), 10);
    for case in cases {
        let name = format!("{} by {}", case["key"], case["ca"]);
        let blob = bytes(&case["certificate"]);
        let parsed = Certificate::parse(&blob).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(parsed.public_key, bytes(&case["public-key"]), "{name}");
        assert_eq!(parsed.fingerprint(), case["fingerprint"].as_str().unwrap().parse::<Fingerprint20>().unwrap());
        assert_eq!(PublicKey::parse(&parsed.public_key).unwrap().algorithm(), parsed.key_type);
        assert_eq!(parsed.nonce, bytes(&case["nonce"]));
        assert_eq!(parsed.serial.0, case["serial"].as_u64().unwrap());
        let cert_type = if parsed.cert_type == CertType::User { 1 } else { 2 };
        assert_eq!(Some(cert_type), case["type"].as_u64());
        assert_eq!(parsed.key_id, case["key-id"].as_str().unwrap());
        assert_eq!(Value::from(parsed.principals.clone()), case["principals"]);
        assert_eq!(parsed.valid_after, case["valid-after"].as_u64().unwrap());
        assert_eq!(parsed.valid_before, case["valid-before"].as_u64().unwrap());
        for (found, expected) in
            [(&parsed.critical_options, &case["critical-options"]), (&parsed.extensions, &case["extensions"])]
        {
            let expected = expected.as_array().unwrap();
            assert_eq!(found.len(), expected.len(), "{name}");
            for (found, expected) in found.iter().zip(expected) {
                assert_eq!(found.name, expected["name"].as_str().unwrap());
                assert_eq!(found.data, bytes(&expected["data"]));
                let range = number(&expected["from"])..number(&expected["to"]);
                let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
                assert_eq!(found.range, range, "{name}: {}", found.name);
            }
        }
        assert_eq!(parsed.signature_key, bytes(&case["signature-key"]));
        assert_eq!(parsed.signature, bytes(&case["signature"]));
        assert_eq!(parsed.bytes(), bytes(&case["to-be-signed"]), "{name}");
        assert_eq!(parsed.pre_certificate(), bytes(&case["pre-certificate"]), "{name}");
        if parsed.cert_type == CertType::User {
            let proof = parsed.log_proof().unwrap().unwrap();
            assert_eq!(insert_log_proof(&parsed.pre_certificate(), &proof).unwrap(), parsed.bytes(), "{name}");
            let scope = &vectors["deterministic"]["scopes"][0]["text"];
            assert_eq!(parsed.scope().unwrap().unwrap().to_text(), scope.as_str().unwrap());
            assert_eq!(parsed.critical_option("force-command").unwrap().text(), Ok("/usr/bin/uptime"));
        }
    }
}
