//! Writes the first inputs of each target into `DIRECTORY/TARGET/`: real things, from the vectors and the login tests.

use std::path::Path;

use countersign_fuzz::{argv, authorized_keys, decision, entry, envelope, hex, notes, proof, replay, signature};
use serde_json::Value;

fn main() {
    let directory = std::env::args().nth(1).expect("a directory is expected");
    let write = |target: &str, seeds: Vec<Vec<u8>>| {
        let folder = Path::new(&directory).join(target);
        std::fs::create_dir_all(&folder).unwrap();
        for (number, seed) in seeds.iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number:02}")), seed).unwrap();
        }
    };
    write("argv", argv::seeds());
    write("authorized_keys", authorized_keys::seeds());
    write("decision", decision::seeds());
    write("entry", entry::seeds());
    write("envelope", envelope::seeds());
    write("notes", notes::seeds());
    write("proof", proof::seeds());
    write("replay", replay::seeds());
    write("signature", signature::seeds());
    write("snapshot", vec![vec![0, 0, 16, 1, 1], vec![1, 0, 130, 2, 0xff, 0xff], vec![2, 16, 1, 4, 1, 2, 3, 4]]);

    let certificates: Value = serde_json::from_str(include_str!("../../../vectors/certificate.json")).unwrap();
    let of_keygen = certificates["ssh-keygen"].as_array().unwrap().iter();
    let mut real: Vec<Vec<u8>> = of_keygen.map(|each| hex(each["certificate"].as_str().unwrap())).collect();
    real.extend(decision::seeds().into_iter().map(|seed| seed[b"deploy\0".len()..].to_vec()));
    write("certificate", real);
    let deterministic = &certificates["deterministic"];
    let mut extensions = Vec::new();
    for scope in deterministic["scopes"].as_array().unwrap() {
        extensions.extend(scope.as_object().unwrap().values().filter_map(Value::as_str).map(bytes_or_text));
    }
    for field in deterministic["certificate"]["log-proof"].as_object().unwrap().values().filter_map(Value::as_str) {
        extensions.push(bytes_or_text(field));
    }
    write("log_proof", extensions);

    let proofs: Value = serde_json::from_str(include_str!("../../../vectors/proof.json")).unwrap();
    let mut headers = Vec::new();
    for header in proofs["headers"].as_array().unwrap() {
        headers.push(hex(header["raw"].as_str().unwrap()));
        headers.push(header["block"].to_string().into_bytes());
    }
    write("header", headers);

    let list = countersign_krl::Krl {
        version: 1,
        generated_secs: 1_800_000_000,
        comment: "seed".to_owned(),
        certificates: vec![countersign_krl::RevokedCertificates {
            ca_blob: [&11_u32.to_be_bytes()[..], b"ssh-ed25519", &32_u32.to_be_bytes(), &[3; 32]].concat(),
            serials: (1..40).chain([100, 1000, u64::MAX]).collect(),
            key_ids: vec!["alice".to_owned()],
        }],
        keys_sha256: vec![[5; 32], [6; 32]],
    };
    write("krl", vec![list.encode().unwrap(), countersign_krl::Krl::default().encode().unwrap()]);
}

fn bytes_or_text(text: &str) -> Vec<u8> {
    if text.len().is_multiple_of(2) && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        hex(text)
    } else {
        text.into()
    }
}
