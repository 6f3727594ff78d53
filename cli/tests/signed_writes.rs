//! The files that carry signed writes (`docs/spec/signed-writes.md`), against vectors that `cast` computed: read, verified, written
//! again to the same bytes, and refused in every altered form.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a vector of another shape is a failed test"
)]

use std::cell::Cell;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use alloy_primitives::{Address, B256, U256, hex};
use base64ct::{Base64UrlUnpadded, Encoding};
use countersign::files::Existing;
use countersign::proposal::{Proposal, ProposalError};
use countersign::roots::RootState;
use countersign::signed::SignedWrites;
use countersign_chain::keys::ActorKey;
use countersign_chain::profile::ProfileName;
use countersign_chain::realm_file::{HeaderTrust, RealmFile};
use countersign_chain::signing::{SigningKey, p256_public_key};
use countersign_registry::signature::P256Form;
use countersign_registry::{RealmPin, sign};
use serde_json::Value;
use sha2::{Digest, Sha256};

const FILES: [&str; 3] = ["proposal.toml", "signed.toml", "vectors.json"];
/// The deadline in the vector of signed writes.
const DEADLINE: u64 = 1_800_086_400;

fn vectors_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(vectors_folder().join("signed-writes").join(name)).unwrap()
}

fn vectors() -> Value {
    serde_json::from_str(&read("vectors.json")).unwrap()
}

fn word(value: &Value) -> B256 {
    value.as_str().unwrap().parse().unwrap()
}

fn address(value: &Value) -> Address {
    value.as_str().unwrap().parse().unwrap()
}

fn key(name: &str) -> ActorKey {
    ActorKey::from_hex(vectors()["keys"][name]["privateKey"].as_str().unwrap()).unwrap()
}

fn pin() -> RealmPin {
    let vectors = vectors();
    let pin = RealmPin {
        chain_id: vectors["chainId"].as_u64().unwrap(),
        contract: address(&vectors["contract"]),
        code_hash: B256::ZERO,
        realm: word(&vectors["realm"]),
        threshold: vectors["threshold"].as_u64().unwrap(),
        roots: vectors["roots"].as_array().unwrap().iter().map(address).collect(),
        salt: word(&vectors["salt"]),
        deployed_block: 0,
        genesis_hash: B256::ZERO,
    };
    assert_eq!(pin.verify(), Ok(()));
    pin
}

fn state() -> RootState {
    let pin = pin();
    RootState { nonce: 4, threshold: pin.threshold, roots: pin.roots, salt: pin.salt }
}

fn proposal(text: &str) -> Result<Proposal, ProposalError> {
    Proposal::parse("file", text, &pin())
}

fn signed(text: &str) -> Result<SignedWrites, ProposalError> {
    SignedWrites::parse("file", text, &pin(), DEADLINE)
}

/// Gives the first `key` another value.
fn altered(text: &str, key: &str, value: &str) -> String {
    let start = format!("{key} = ");
    let line = text.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("no {key}"));
    let other = text.replacen(line, &format!("{start}{value}"), 1);
    assert_ne!(other, text, "{key}");
    other
}

/// The value of the first `key`.
fn value<'a>(text: &'a str, key: &str) -> &'a str {
    let start = format!("{key} = ");
    text.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_else(|| panic!("no {key}"))
}

/// Another last digit before the closing quote.
fn other_digit(value: &str) -> String {
    let (before, last) = value.strip_suffix('"').unwrap().split_at(value.len() - 2);
    format!("{before}{}\"", if last == "0" { "1" } else { "0" })
}

/// Every form that no reader takes, whatever the file: each key once absent and once twice, unknown keys in each table, other
/// versions, numbers and bytes of the wrong type.
fn malformed(text: &str) -> Vec<String> {
    let mut bad = Vec::new();
    for line in text.lines().filter(|line| line.contains(" = ")) {
        bad.push(text.replacen(&format!("{line}\n"), "", 1));
        bad.push(text.replacen(line, &format!("{line}\n{line}"), 1));
    }
    for table in ["version = 1", "[[writes]]", "[[signatures]]"] {
        if text.contains(table) {
            bad.push(text.replacen(table, &format!("{table}\nremark = \"x\""), 1));
        }
    }
    for (key, value) in [
        ("version", "\"1\""),
        ("version", "-1"),
        ("version", "1.0"),
        ("chain-id", "\"31337\""),
        ("nonce", "-1"),
        ("nonce", "18446744073709551616"),
        ("shard", "0.0"),
        ("data", "\"0x0\""),
        ("data", "\"0xzz\""),
        ("kind", "1"),
        ("kind", "\"ROLE_GET\""),
        ("kind", "\"0x+001\""),
        ("kind", "\"0x1\""),
        ("kind", "\"0001\""),
        ("kind", "\"0x00001\""),
        ("realm", "\"0x00\""),
        ("contract", "\"0x00\""),
    ] {
        bad.push(altered(text, key, value));
    }
    bad
}

fn refuses_malformed<T: std::fmt::Debug>(text: &str, parse: impl Fn(&str) -> Result<T, ProposalError>) {
    parse(text).unwrap();
    for bad in malformed(text) {
        assert_ne!(bad, text);
        assert!(matches!(parse(&bad), Err(ProposalError::Syntax { .. })), "{:?}\n{bad}", parse(&bad));
    }
    for version in [0, 2] {
        // A later version may have keys that this one does not know: its number is told, not they.
        let other = altered(text, "version", &version.to_string()).replacen("[[writes]]", "[[writes]]\nnew = 1", 1);
        assert_eq!(parse(&other).unwrap_err(), ProposalError::Version { path: "file".into(), found: version });
        assert_eq!(parse(&other).unwrap_err().to_string(), format!("file: version is {version}, expected 1"));
    }
    for (key, value) in [
        ("realm", format!("\"{}\"", B256::ZERO)),
        ("chain-id", "31338".to_owned()),
        ("contract", format!("\"{}\"", Address::repeat_byte(9))),
    ] {
        let error = parse(&altered(text, key, &value)).unwrap_err();
        assert!(matches!(error, ProposalError::OtherRealm { field, .. } if field == key), "{key}: {error}");
    }
    let writes = text.find("\n[[writes]]").unwrap();
    let end = text.find("\n[[signatures]]").unwrap_or(text.len());
    let without = [&text[..writes], "writes = []\n", &text[end..]].concat();
    assert_eq!(parse(&without).unwrap_err(), ProposalError::Empty { path: "file".into() });
}

fn is_bad_signature<T>(result: Result<T, ProposalError>) -> bool {
    matches!(result, Err(ProposalError::BadSignature { .. }))
}

/// The same signature in the encodings that the contract refuses and some libraries take.
fn other_encodings(signature: &str) -> [String; 3] {
    let bytes = hex::decode(signature.trim_matches('"')).unwrap();
    let order: U256 = "0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141".parse().unwrap();
    let quoted = |bytes: &[u8]| format!("\"{}\"", hex::encode_prefixed(bytes));
    let with_v = |v: u8| quoted(&[&bytes[..64], &[v]].concat());
    let upper = (order - U256::from_be_slice(&bytes[32..64])).to_be_bytes::<32>();
    let other_parity = 27 + 28 - bytes[64];
    [with_v(bytes[64] - 27), with_v(bytes[64] + 10), quoted(&[&bytes[..32], &upper[..], &[other_parity]].concat())]
}

#[test]
fn the_vectors_are_what_their_script_writes() {
    let folder = tempfile::tempdir().unwrap();
    let script = vectors_folder().join("signed-writes.js");
    let output = Command::new("node").arg(&script).arg(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for name in FILES {
        assert_eq!(std::fs::read_to_string(folder.path().join(name)).unwrap(), read(name), "{name}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), FILES.len());
}

#[test]
fn the_documented_examples_are_the_vectors() {
    let page = include_str!("../../docs/spec/signed-writes.md");
    let examples: Vec<&str> = page.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(examples, [read("proposal.toml"), read("signed.toml")]);
    // The proposal as wallets show it; another program's hash of it is the digest, since its signature is the one in the file.
    let example = page.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    let file = proposal(&read("proposal.toml")).unwrap();
    let typed_data: Value = serde_json::from_str(example).unwrap();
    assert_eq!(typed_data, file.typed_data("file").unwrap());
    let secret = vectors()["keys"]["root2"]["privateKey"].as_str().unwrap().to_owned();
    let sign = ["wallet", "sign", "--data", "--private-key", &secret, example];
    let output = Command::new(cast()).args(sign).output().expect("cast: run .ci/tools");
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), file.signatures[0].signature.to_string());
    for (name, digest) in
        [("proposal", "structHash"), ("proposal", "digest"), ("signed", "structHash"), ("signed", "digest")]
    {
        let vectors = vectors();
        let hash = vectors[name][digest].as_str().unwrap();
        assert!(page.contains(hash), "{name} {digest}");
    }
}

#[test]
fn a_proposal_is_read_verified_and_written_again_to_the_same_bytes() {
    let text = read("proposal.toml");
    let file = proposal(&text).unwrap();
    assert_eq!(file.digest("file").unwrap(), word(&vectors()["proposal"]["digest"]));
    file.fits("file", &state()).unwrap();
    let indices: Vec<u8> = file.indexed("file").unwrap().iter().map(|(index, _)| *index).collect();
    assert_eq!(indices, [2, 0]);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("proposal.toml");
    file.save(&path, Existing::Keep).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);

    // The signatures are deterministic (RFC 6979): our signers make the same ones.
    let mut anew = Proposal { signatures: Vec::new(), ..file.clone() };
    anew.sign("file", &key("root2").into()).unwrap();
    anew.sign("file", &key("root0").into()).unwrap();
    assert_eq!(anew, file);
}

#[test]
fn signed_writes_are_read_verified_and_written_again_to_the_same_bytes() {
    let text = read("signed.toml");
    let file = signed(&text).unwrap();
    assert_eq!(file.digest("file").unwrap(), word(&vectors()["signed"]["digest"]));
    assert_eq!(file.actor, address(&vectors()["keys"]["admin"]["address"]));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("signed.toml");
    file.save(&path).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);

    let anew = SignedWrites::sign(&pin(), &key("admin").into(), 7, DEADLINE, file.writes.clone()).unwrap();
    assert_eq!(anew, file);
}

#[test]
fn an_altered_proposal_is_refused() {
    let text = read("proposal.toml");
    refuses_malformed(&text, proposal);

    for (key, value) in [
        ("nonce", "5".to_owned()),
        ("kind", "\"CA_ADD\"".to_owned()),
        ("kind", "\"0x0006\"".to_owned()),
        ("shard", "1".to_owned()),
        ("data", other_digit(value(&text, "data"))),
        ("root", value(&text, "roots").trim_matches(['[', ']']).split(", ").nth(1).unwrap().to_owned()),
        ("signature", other_digit(value(&text, "signature"))),
        ("signature", "\"0x\"".to_owned()),
    ] {
        assert!(is_bad_signature(proposal(&altered(&text, key, &value))), "{key} = {value}");
    }
    for signature in other_encodings(value(&text, "signature")) {
        assert!(is_bad_signature(proposal(&altered(&text, "signature", &signature))), "{signature}");
    }
    let stranger = format!("\"{}\"", Address::repeat_byte(9));
    let error = proposal(&altered(&text, "root", &stranger)).unwrap_err();
    assert_eq!(error, ProposalError::NotRoot { signer: Address::repeat_byte(9) });
    let last = &text[text.rfind("\n[[signatures]]").unwrap()..];
    let error = proposal(&format!("{text}{last}")).unwrap_err();
    assert!(matches!(error, ProposalError::SignedAlready { .. }), "{error}");

    let one = proposal(text.strip_suffix(last).unwrap()).unwrap();
    let below = ProposalError::BelowThreshold { path: "file".into(), have: 1, need: 2 };
    assert_eq!(one.indexed("file"), Err(below));
}

#[test]
fn what_is_not_signed_in_a_proposal_is_compared_with_the_ledger_or_decides_nothing() {
    let text = read("proposal.toml");
    let good = proposal(&text).unwrap();
    let roots = value(&text, "roots").trim_matches(['[', ']']).split(", ").collect::<Vec<_>>();
    let turned = format!("[{}, {}, {}]", roots[1], roots[0], roots[2]);
    for (key, value) in [("threshold", "1"), ("roots", turned.as_str())] {
        let file = proposal(&altered(&text, key, value)).unwrap();
        assert_eq!(file.fits("file", &state()), Err(ProposalError::OtherRoots { path: "file".into() }), "{key}");
    }
    let stale = good.fits("file", &RootState { nonce: 5, ..state() });
    assert_eq!(stale, Err(ProposalError::Nonce { path: "file".into(), found: 4, expected: 5 }));

    let remarked = proposal(&altered(&text, "about", "\"nothing to see here\"")).unwrap();
    assert_eq!(remarked.digest("file"), good.digest("file"));
    assert_eq!(remarked.writes[0].shown("file"), good.writes[0].shown("file"));
    let numbered = proposal(&altered(&text, "kind", "\"0x0001\"")).unwrap();
    assert_eq!(numbered.signed_writes("file"), good.signed_writes("file"));
}

#[test]
fn altered_signed_writes_are_refused() {
    let text = read("signed.toml");
    refuses_malformed(&text, signed);

    let later = (DEADLINE + 1).to_string();
    for (key, value) in [
        ("actor", format!("\"{}\"", Address::repeat_byte(9))),
        ("nonce", "8".to_owned()),
        ("deadline", later),
        ("kind", "\"GROUP_ADD\"".to_owned()),
        ("shard", "0".to_owned()),
        ("data", other_digit(value(&text, "data"))),
        ("signature", other_digit(value(&text, "signature"))),
    ] {
        assert!(is_bad_signature(signed(&altered(&text, key, &value))), "{key} = {value}");
    }
    for signature in other_encodings(value(&text, "signature")) {
        assert!(is_bad_signature(signed(&altered(&text, "signature", &signature))), "{signature}");
    }
    let error = SignedWrites::parse("file", &text, &pin(), DEADLINE + 1).unwrap_err();
    assert_eq!(error, ProposalError::Deadline { path: "file".into(), deadline: DEADLINE });
    let remarked = signed(&altered(&text, "about", "\"nothing to see here\"")).unwrap();
    assert_eq!(remarked.digest("file").unwrap(), word(&vectors()["signed"]["digest"]));
}

#[test]
fn one_file_is_not_taken_for_the_other() {
    assert!(matches!(proposal(&read("signed.toml")), Err(ProposalError::Syntax { .. })));
    assert!(matches!(signed(&read("proposal.toml")), Err(ProposalError::Syntax { .. })));
    // Nor a signature: the typed data of the two differ even where their fields could be made alike.
    let (one, other) = (proposal(&read("proposal.toml")).unwrap(), signed(&read("signed.toml")).unwrap());
    let domain = sign::domain(one.chain_id, one.contract);
    let writes = other.signed_writes("file").unwrap();
    assert_ne!(
        sign::append_by_roots_digest(&domain, other.realm, U256::from(other.nonce), &writes),
        other.digest("file").unwrap()
    );
}

fn inspected(text: &str) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = "http://127.0.0.1:1".parse().unwrap();
    let realm = RealmFile::new(pin(), ProfileName::Dev, HeaderTrust::Dev, vec![endpoint]).unwrap();
    realm.create(&folder.path().join("realm.toml")).unwrap();
    std::fs::write(folder.path().join("file.toml"), text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_countersign"))
        .args(["--realm", "realm.toml", "--format", "json", "inspect", "file.toml"])
        .current_dir(folder.path())
        .env_clear()
        .env("HOME", folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn inspect_shows_what_the_data_says_and_only_signatures_that_it_has_verified() {
    let shown = inspected(&altered(&read("proposal.toml"), "about", "\"\"\"deadline\ndeadline = 1\"\"\""));
    let address = |name: &str| vectors()["keys"][name]["address"].clone();
    assert_eq!(shown["what"], "proposal");
    assert_eq!(shown["signed"], serde_json::json!([address("root2"), address("root0")]));
    let writes = shown["writes"].to_string();
    assert!(writes.contains("ROLE_SET") && writes.contains("USER_ADD") && !writes.contains("deadline"), "{writes}");

    // No heading: it is a remark too.
    let text = read("signed.toml");
    let without_heading = text.split_once("\n\n").unwrap().1;
    let shown = inspected(without_heading);
    assert_eq!(shown["what"], "signed-writes");
    assert_eq!(shown["signed"], serde_json::json!([address("admin")]));

    // A wallet contract's signature, which only the contract can check.
    let of_wallet = altered(&text, "signature", "\"0x0102\"");
    assert!(is_bad_signature(signed(&of_wallet)));
    let shown = inspected(&of_wallet.replacen("\n\n[[writes]]", "\nwallet = true\n\n[[writes]]", 1));
    assert_eq!(shown["signed"], serde_json::json!([]));
    assert_eq!(shown["threshold"], 1);
}

/// A realm whose roots are a P-256 key, two accounts, and the same key as a passkey; three are to sign. With a proposal to them.
struct Room {
    folder: tempfile::TempDir,
    token: SigningKey,
    passkey: Address,
    digest: B256,
}

impl Room {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        std::fs::write(&path, std::fs::read(vectors_folder().join("p256/key.pem")).unwrap()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::copy(vectors_folder().join("p256/public.pem"), folder.path().join("public.pem")).unwrap();
        let token = SigningKey::load(&path, |_| None, |_| panic!("no password")).unwrap();
        let public = std::fs::read_to_string(folder.path().join("public.pem")).unwrap();
        let passkey = p256_public_key(&public).unwrap().address(P256Form::Assertion);
        let roots = vec![token.address(), key("root0").address(), key("root1").address(), passkey];
        let mut pin = RealmPin { threshold: 3, roots, ..pin() };
        pin.realm = sign::realm_id(pin.chain_id, pin.contract, pin.threshold, &pin.roots, pin.salt);
        let state = RootState { nonce: 4, threshold: pin.threshold, roots: pin.roots.clone(), salt: pin.salt };
        let writes = proposal(&read("proposal.toml")).unwrap().writes;
        let file = Proposal::new(&pin, &state, writes);
        let digest = file.digest("file").unwrap();
        file.save(&folder.path().join("p.toml"), Existing::Keep).unwrap();
        let endpoint = "http://127.0.0.1:1".parse().unwrap();
        let realm = RealmFile::new(pin, ProfileName::Dev, HeaderTrust::Dev, vec![endpoint]).unwrap();
        realm.create(&folder.path().join("realm.toml")).unwrap();
        Self { folder, token, passkey, digest }
    }

    fn put(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    /// `realm sign p.toml` with further arguments: what it prints, or its error.
    fn sign(&self, arguments: &[&str]) -> Result<Value, String> {
        let output = Command::new(env!("CARGO_BIN_EXE_countersign"))
            .args(["--realm", "realm.toml", "--format", "json", "realm", "sign", "p.toml", "--offline"])
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .env("HOME", self.folder.path())
            .output()
            .unwrap();
        match output.status.success() {
            true => Ok(serde_json::from_slice(&output.stdout).unwrap()),
            false => Err(String::from_utf8(output.stderr).unwrap()),
        }
    }

    /// A browser's JSON of an assertion over `challenge` by the token's key.
    fn assertion(&self, challenge: &B256) -> String {
        let text = |bytes: &[u8]| Base64UrlUnpadded::encode_string(bytes);
        let data = [Sha256::digest("countersign.example").as_slice(), &[5, 0, 0, 0, 9]].concat();
        let client = format!(
            "{{\"type\":\"webauthn.get\",\"challenge\":\"{}\",\"origin\":\"https://countersign.example\"}}",
            text(challenge.as_slice())
        );
        let message: [u8; 32] = Sha256::digest([&data, Sha256::digest(&client).as_slice()].concat()).into();
        let signature = &self.token.sign(&message.into()).unwrap()[..64];
        serde_json::json!({
            "id": "anything",
            "type": "public-key",
            "response": {
                "authenticatorData": text(&data),
                "clientDataJSON": text(client.as_bytes()),
                "signature": text(signature),
            },
        })
        .to_string()
    }
}

/// Foundry's, as another wallet than ours.
fn cast() -> PathBuf {
    let tools =
        std::env::var_os("COUNTERSIGN_TOOLS").map_or_else(|| vectors_folder().join("../../.tools"), PathBuf::from);
    tools.join("node_modules/@foundry-rs/cast-linux-amd64/bin/cast")
}

#[test]
fn a_wallet_a_key_file_and_a_passkey_sign_one_proposal() {
    let room = Room::new();
    // The wallet is shown the typed data, and signs just what we say is the digest.
    let shown = room.sign(&["--typed-data"]).unwrap();
    assert_eq!(shown["outcome"], "to-sign");
    assert_eq!(word(&shown["digest"]), room.digest);
    let secret = vectors()["keys"]["root1"]["privateKey"].as_str().unwrap().to_owned();
    let typed_data = shown["typed-data"].to_string();
    let output = Command::new(cast())
        .args(["wallet", "sign", "--data", "--private-key", &secret, &typed_data])
        .output()
        .expect("cast: run .ci/tools");
    let by_wallet = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    let stranger = key("root2").address().to_string();
    let error = room.sign(&["--signature", &by_wallet, "--root", &stranger]).unwrap_err();
    assert!(error.contains("is not a root of this realm"), "{error}");
    // Another digest's recovers to somebody who is no root.
    let other = key("root1").sign(&B256::ZERO).unwrap().to_string();
    let error = room.sign(&["--signature", &other]).unwrap_err();
    assert!(error.contains("is not a root of this realm"), "{error}");
    let shown = room.sign(&["--signature", &by_wallet]).unwrap();
    assert_eq!(shown["signed"], serde_json::json!([key("root1").address()]));

    // What a token gives: r and s.
    let signature = |digest: &B256| hex::encode(&room.token.sign(digest).unwrap()[..64]);
    let error = room.sign(&["--signature", &signature(&room.digest)]).unwrap_err();
    assert!(error.contains("--public-key"), "{error}");
    let error = room.sign(&["--signature", &signature(&B256::ZERO), "--public-key", "public.pem"]).unwrap_err();
    assert!(error.contains("is not one over these writes"), "{error}");
    let error = room.sign(&["--signature", "00ff", "--public-key", "public.pem"]).unwrap_err();
    assert!(error.contains("expected DER, or r and s"), "{error}");
    let before = std::fs::read(room.folder.path().join("p.toml")).unwrap();
    let shown = room.sign(&["--signature", &signature(&room.digest), "--public-key", "public.pem"]).unwrap();
    assert_eq!(shown["signed"][1], serde_json::json!(room.token.address()));
    assert!(room.sign(&["--root-key", "key.pem"]).unwrap_err().contains("has signed already"));

    // The same root by its key file; and the passkey, which is another.
    std::fs::write(room.folder.path().join("p.toml"), &before).unwrap();
    let shown = room.sign(&["--root-key", "key.pem"]).unwrap();
    assert_eq!(shown["signed"][1], serde_json::json!(room.token.address()));
    std::fs::write(room.folder.path().join("p.toml"), &before).unwrap();
    room.put("other.json", &room.assertion(&B256::ZERO));
    let error = room.sign(&["--assertion", "other.json", "--public-key", "public.pem"]).unwrap_err();
    assert!(error.contains("whose challenge is the digest"), "{error}");
    room.put("passkey.json", &room.assertion(&room.digest));
    let shown = room.sign(&["--assertion", "passkey.json", "--public-key", "public.pem"]).unwrap();
    assert_eq!(shown["signed"][1], serde_json::json!(room.passkey));
    // Altered in the file, it is no signature.
    let text = std::fs::read_to_string(room.folder.path().join("p.toml")).unwrap();
    room.put(
        "p.toml",
        &text.replace("636f756e7465727369676e2e6578616d706c65227d", "636f756e7465727369676e2e6578616d706c65227e"),
    );
    let error = room.sign(&["--typed-data"]).unwrap_err();
    assert!(error.contains("is not one over these writes"), "{error}");
}

#[test]
fn signed_writes_of_a_p256_actor_are_verified_and_counted_as_such() {
    let room = Room::new();
    let writes = signed(&read("signed.toml")).unwrap().writes;
    let anew = SignedWrites::sign(&pin(), &room.token, 7, DEADLINE, writes).unwrap();
    let path = room.folder.path().join("signed.toml");
    anew.save(&path).unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(signed(&text).unwrap(), anew);
    assert!(!anew.wallet);
    assert!(is_bad_signature(signed(&altered(&text, "nonce", "8"))));
    assert_eq!(inspected(&text)["signed"], serde_json::json!([room.token.address().to_string()]));
}

/// A realm that leaves a dead chain (`tests/vectors/migration.json`): its realm file, and its statement, which nobody has signed.
fn dead_realm(folder: &Path) -> Value {
    let text = std::fs::read_to_string(vectors_folder().join("migration.json")).unwrap();
    let vectors: Value = serde_json::from_str(&text).unwrap();
    let source = &vectors["source"];
    let address = |value: &Value| value.as_str().unwrap().parse::<Address>().unwrap();
    let pin = RealmPin {
        chain_id: source["chainId"].as_u64().unwrap(),
        contract: address(&source["contract"]),
        code_hash: word(&source["codeHash"]),
        realm: word(&source["realm"]),
        threshold: source["threshold"].as_u64().unwrap(),
        roots: source["roots"].as_array().unwrap().iter().map(address).collect(),
        salt: word(&source["salt"]),
        deployed_block: 0,
        genesis_hash: word(&source["genesisHash"]),
    };
    let endpoint = "http://127.0.0.1:1".parse().unwrap();
    let realm = RealmFile::new(pin, ProfileName::Dev, HeaderTrust::Dev, vec![endpoint]).unwrap();
    realm.create(&folder.join("realm.toml")).unwrap();
    let slots =
        vectors["heads"].as_array().unwrap().iter().map(|head| (head["shard"].to_string(), head["slot"].clone()));
    let target = &vectors["target"];
    let statement = serde_json::json!({
        "migration-statement": 1,
        "source": source["realm"],
        "nonce": vectors["statement"]["nonce"],
        "threshold": source["threshold"],
        "roots": source["roots"],
        "target": {
            "chain-id": target["chainId"],
            "genesis-hash": target["genesisHash"],
            "contract": target["registry"],
            "code-hash": target["codeHash"],
            "realm": target["realm"],
        },
        "heads": { "block": vectors["blockNumber"], "slots": slots.collect::<serde_json::Map<_, _>>() },
        "signatures": [],
    });
    std::fs::write(folder.join("statement.json"), statement.to_string()).unwrap();
    vectors["statement"].clone()
}

#[test]
fn a_statement_takes_signatures_of_its_roots_keys_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let vector = dead_realm(folder.path());
    let offline = Cell::new(true);
    let sign = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_countersign"))
            .args(["--realm", "realm.toml", "--format", "json", "realm", "sign", "statement.json"])
            .args(arguments)
            .args(offline.get().then_some("--offline"))
            .current_dir(folder.path())
            .env_clear()
            .env("HOME", folder.path())
            .output()
            .unwrap();
        match output.status.success() {
            true => Ok(serde_json::from_slice::<Value>(&output.stdout).unwrap()),
            false => Err(String::from_utf8(output.stderr).unwrap()),
        }
    };
    let signature = |root: usize| vector["signatures"][root]["signature"].as_str().unwrap().to_owned();
    // A P-256 key: r and s, and the key itself.
    let token = signature(2);
    let (numbers, point) = (&token[..2 + 128], format!("04{}", &token[2 + 128..]));
    std::fs::write(folder.path().join("public"), point).unwrap();
    let wrong = numbers.replace(&numbers[10..12], "00");
    let error = sign(&["--signature", &wrong, "--public-key", "public"]).unwrap_err();
    assert!(error.contains("not by this key over this content"), "{error}");
    let shown = sign(&["--signature", numbers, "--public-key", "public"]).unwrap();
    assert_eq!(shown["signed"].as_array().unwrap().len(), 1, "{shown}");
    let error = sign(&["--signature", numbers, "--public-key", "public"]).unwrap_err();
    assert!(error.contains("has signed already"), "{error}");
    // An account's, made elsewhere; over something else it is somebody else's.
    let shown = sign(&["--signature", &signature(0)]).unwrap();
    assert_eq!(shown["signed"].as_array().unwrap().len(), 2, "{shown}");
    let other = key("root2").sign(&word(&vector["digest"])).unwrap().to_string();
    let error = sign(&["--signature", &other]).unwrap_err();
    assert!(error.contains("is not one of its roots"), "{error}");
    let error = sign(&["--typed-data"]).unwrap_err();
    assert!(error.contains("a statement is signed by keys"), "{error}");
    // What stands in the file is what hosts take.
    let text = std::fs::read_to_string(folder.path().join("statement.json")).unwrap();
    let mut written: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        written["signatures"],
        serde_json::json!([
            { "root": 2, "signature": token },
            { "root": 0, "signature": signature(0) },
        ])
    );
    assert_eq!((&shown["nonce"], &shown["compared-with"]), (&vector["nonce"], &serde_json::json!("nothing")));
    // Without a chain and without an archive there is nothing to compare it with, and that has to be said.
    offline.set(false);
    let error = sign(&[]).unwrap_err();
    assert!(error.contains("127.0.0.1:1"), "{error}");
    // Nor is a nonce signed that no write of the roots comes near, however quiet it is kept.
    offline.set(true);
    written["nonce"] = serde_json::json!(u64::MAX);
    std::fs::write(folder.path().join("statement.json"), written.to_string()).unwrap();
    let error = sign(&["--signature", &signature(1)]).unwrap_err();
    assert!(error.contains("has root nonce 18446744073709551615, which could not be withdrawn"), "{error}");
}
