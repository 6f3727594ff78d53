//! Who signs without an account: contract wallets and P-256 keys, on chains that can check them and on one that cannot.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use alloy_primitives::{Address, B256, Bytes, U256, hex, keccak256};
use alloy_sol_types::SolValue;
use countersign::proposal::WriteText;
use countersign::signed::SignedWrites;
use countersign_chain::keys::ActorKey;
use countersign_chain::profile::ProfileName;
use countersign_chain::realm_file::{HeaderTrust, RealmFile};
use countersign_chain::signing::SigningKey;
use countersign_registry::entries::{Entry, Roles, payload};
use countersign_registry::{RealmPin, shard, sign};
use harness::node::{Client, Node};
use harness::world::{ADMIN_KEY, DEVICE_KEY, OTHER_ROOT_KEY, ROOT_KEY, World, key};
use serde_json::{Value, json};

use crate::bed::{Ran, countersign, documented};

struct Desk {
    directory: tempfile::TempDir,
}

impl Desk {
    fn new(realm: &RealmFile) -> Self {
        let directory = tempfile::tempdir().unwrap();
        realm.create(&directory.path().join("realm.toml")).unwrap();
        Self { directory }
    }

    fn run(&self, key: &str, arguments: &[&str]) -> Ran {
        let environment =
            [("COUNTERSIGN_FORMAT", "json"), ("COUNTERSIGN_REALM", "realm.toml"), ("COUNTERSIGN_ACTOR_KEY", key)];
        countersign(self.directory.path(), arguments, &environment)
    }

    fn ok(&self, key: &str, arguments: &[&str]) -> Value {
        let ran = self.run(key, arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.stderr);
        documented(&ran.json());
        ran.json()
    }

    fn refusal(&self, key: &str, arguments: &[&str]) -> String {
        let ran = self.run(key, arguments);
        assert_ne!(ran.code, 0, "{arguments:?}: {}", ran.stdout);
        ran.stderr
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The P-256 key of the vectors.
    fn token(&self) -> SigningKey {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path("key.pem");
        std::fs::write(&path, include_str!("../../../tests/vectors/p256/key.pem")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        SigningKey::load(&path, |_| None, |_| panic!("no password")).unwrap()
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn role(actor: Address, roles: u64) -> Entry {
    Entry::RoleSet(payload::RoleSet { actor, roles, x25519: B256::ZERO })
}

/// The creation code of a contract of `contracts/test/Wallets.sol`.
fn compiled(name: &str) -> Vec<u8> {
    let contracts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contracts");
    let sources = ["test/Wallets.sol", "src/IRegistry.sol", "src/Entries.sol"]
        .map(|path| (path.to_owned(), json!({ "content": std::fs::read_to_string(contracts.join(path)).unwrap() })));
    let input = json!({
        "language": "Solidity",
        "sources": serde_json::Map::from_iter(sources),
        "settings": { "outputSelection": { "test/Wallets.sol": { name: ["evm.bytecode.object"] } } },
    });
    let mut solc = Command::new(contracts.join("script/solc"))
        .arg("--standard-json")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    solc.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    let output: Value = serde_json::from_slice(&solc.wait_with_output().unwrap().stdout).unwrap();
    let code = &output["contracts"]["test/Wallets.sol"][name]["evm"]["bytecode"]["object"];
    hex::decode(code.as_str().unwrap_or_else(|| panic!("{output}"))).unwrap()
}

/// What an owner of a Safe-like wallet signs: the Safe's own message, which holds the digest.
fn by_owner(wallet: Address, owner: &ActorKey, digest: B256) -> Bytes {
    let domain = keccak256("EIP712Domain(uint256 chainId,address verifyingContract)");
    let domain = keccak256((domain, U256::from(31337), wallet).abi_encode());
    let message = keccak256((keccak256("SafeMessage(bytes message)"), keccak256(digest)).abi_encode());
    let message = keccak256([&[0x19, 0x01], domain.as_slice(), message.as_slice()].concat());
    owner.sign(&message).unwrap().as_bytes().to_vec().into()
}

/// A wallet of whose two owners one is enough: its signature is as long as a key's.
#[test]
fn a_contract_wallet_is_a_root_and_an_actor_by_files_and_what_it_does_not_take_enters_none() {
    let runtime = runtime();
    let world = runtime.block_on(World::new());
    let owners = [key(DEVICE_KEY), key(OTHER_ROOT_KEY)];
    let arguments = (vec![owners[0].address(), owners[1].address()], U256::ONE).abi_encode_params();
    let creation = [compiled("SafeLikeWallet"), arguments].concat().into();
    let (wallet, _) = runtime.block_on(world.admin.create(creation, &mut |_| ())).unwrap();
    // Two of three: the wallet, a key, and somebody who has no code either.
    let roots = vec![wallet, key(ROOT_KEY).address(), Address::repeat_byte(7)];
    let (chain_id, contract, salt) = (world.pin.chain_id, world.pin.contract, B256::repeat_byte(9));
    let realm = sign::realm_id(chain_id, contract, 2, &roots, salt);
    let pin = RealmPin { realm, threshold: 2, roots, salt, ..world.pin.clone() };
    let endpoints = vec![world.anvil.url.clone()];
    let file = RealmFile::new(pin.clone(), ProfileName::Dev, HeaderTrust::Dev, endpoints).unwrap();
    runtime.block_on(world.anvil.finalize());
    let desk = Desk::new(&file);
    let address = wallet.to_string();

    desk.ok(ROOT_KEY, &["role", "grant", &address, "admin", "--propose", "p.toml"]);
    let digest: B256 =
        serde_json::from_value(desk.ok(ROOT_KEY, &["realm", "sign", "p.toml", "--typed-data"])["digest"].clone())
            .unwrap();
    let with = |signature: &Bytes, root: &str| {
        ["realm", "sign", "p.toml", "--signature", &signature.to_string(), "--root", root].map(str::to_owned)
    };
    let refused = |signature: &Bytes, root: &str| {
        let arguments = with(signature, root);
        desk.refusal(ROOT_KEY, &arguments.each_ref().map(String::as_str))
    };
    let good = by_owner(wallet, &owners[0], digest);
    // Over the digest itself, by a stranger, over another digest, nothing at all.
    let plain: Bytes = owners[0].sign(&digest).unwrap().as_bytes().to_vec().into();
    let bad =
        [plain.clone(), by_owner(wallet, &key(ADMIN_KEY), digest), by_owner(wallet, &owners[0], realm), Bytes::new()];
    for signature in bad {
        let error = refused(&signature, &address);
        assert!(error.contains("does not take it for digest"), "{error}");
    }
    let error = refused(&good, &Address::repeat_byte(7).to_string());
    assert!(error.contains("it has no code"), "{error}");
    let error = refused(&good, &key(ADMIN_KEY).address().to_string());
    assert!(error.contains("is not a root of this realm"), "{error}");
    let shown = desk.ok(ROOT_KEY, &with(&good, &address).each_ref().map(String::as_str));
    assert_eq!((&shown["signed"], &shown["wallets"]), (&json!([]), &json!([wallet])));
    assert!(refused(&good, &address).contains("has signed already"));
    let below = desk.refusal(ADMIN_KEY, &["realm", "submit", "p.toml"]);
    assert!(below.contains("has 1 of 2 signatures"), "{below}");
    // Whoever carries the file says that the other roots are wallets that have signed: that is counted for nobody, keeps the one whose key
    // signs from nothing, and is refused of the one without code.
    let text = std::fs::read_to_string(desk.path("p.toml")).unwrap();
    let forged = |root: &str| format!("{text}\n[[signatures]]\nroot = \"{root}\"\nsignature = \"0x\"\nwallet = true\n");
    let by_key = key(ROOT_KEY).address().to_string();
    std::fs::write(desk.path("forged.toml"), forged(&by_key)).unwrap();
    let error = desk.refusal(ADMIN_KEY, &["realm", "submit", "forged.toml"]);
    assert!(error.contains("forged.toml: ") && error.contains("it has no code"), "{error}");
    std::fs::write(desk.path("nobody.toml"), forged(&Address::repeat_byte(7).to_string())).unwrap();
    let error = desk.refusal(ROOT_KEY, &["realm", "sign", "nobody.toml"]);
    assert!(error.contains("take the signature of 0x0707070707070707070707070707070707070707 out"), "{error}");
    let shown = desk.ok(ROOT_KEY, &["realm", "sign", "forged.toml"]);
    assert_eq!((&shown["signed"], &shown["wallets"]), (&json!([key(ROOT_KEY).address()]), &json!([wallet])));
    desk.ok(ROOT_KEY, &["realm", "sign", "p.toml"]);
    // Altered on its way: the wallet is asked, before anything is paid.
    let text = std::fs::read_to_string(desk.path("p.toml")).unwrap();
    assert_eq!(text.matches("wallet = true").count(), 1, "{text}");
    std::fs::write(desk.path("altered.toml"), text.replace(&good.to_string(), &plain.to_string())).unwrap();
    let error = desk.refusal(ADMIN_KEY, &["realm", "submit", "altered.toml"]);
    assert!(error.contains(&format!("wallet {wallet} does not take it for digest")), "{error}");
    desk.ok(ADMIN_KEY, &["realm", "submit", "p.toml"]);

    // The wallet writes as an admin: its owner signs, somebody else sends.
    let entry =
        Entry::UserAdd(payload::UserAdd { r: [1; 16].into(), login: "alice".into(), displayName: String::new() });
    let writes = vec![WriteText::new(&sign::write(shard::DIRECTORY, &entry), "user alice")];
    let mut signed = SignedWrites::sign(&pin, &owners[0].clone().into(), 0, u64::MAX >> 1, writes).unwrap();
    signed.actor = wallet;
    signed.signature = by_owner(wallet, &owners[1], signed.digest("file").unwrap());
    signed.save(&desk.path("unmarked.toml")).unwrap();
    let error = desk.refusal(ADMIN_KEY, &["submit", "unmarked.toml"]);
    assert!(error.contains("is not one over these writes"), "{error}");
    signed.wallet = true;
    signed.save(&desk.path("signed.toml")).unwrap();
    signed.nonce = 1;
    signed.save(&desk.path("later.toml")).unwrap();
    let logged = desk.ok(ADMIN_KEY, &["submit", "signed.toml"]);
    assert_eq!(logged["actor"], json!(wallet));
    let error = desk.refusal(ADMIN_KEY, &["submit", "later.toml"]);
    assert!(error.contains(&format!("not a signature by {wallet}")), "{error}");
}

#[test]
fn a_p256_key_writes_where_the_chain_can_check_it_and_elsewhere_is_refused_before_anything_is_paid() {
    let runtime = runtime();
    let nodes = [
        (Node::with(&["--hardfork", "osaka"]), true),
        (Node::with(&["--hardfork", "prague"]), false),
        (runtime.block_on(Client::Geth.start()), true),
    ];
    for (node, checks) in nodes {
        let world = runtime.block_on(World::on(node));
        let desk = Desk::new(&world.realm_file());
        let token = desk.token();
        let grant = sign::write(shard::GOVERNANCE, &role(token.address(), Roles::ADMIN));
        runtime.block_on(async {
            world.by_roots(&[grant]).await;
            world.anvil.finalize().await;
        });
        desk.ok(ADMIN_KEY, &["--as-actor", "key.pem", "user", "add", "alice", "--sign-to", "signed.toml"]);
        let payer = json!([key(ADMIN_KEY).address(), "latest"]);
        let sent = || runtime.block_on(world.anvil.call("eth_getTransactionCount", payer.clone()));
        let before = sent();
        let ran = desk.run(ADMIN_KEY, &["submit", "signed.toml"]);
        if checks {
            assert_eq!(ran.code, 0, "{:?}: {}", world.anvil.client, ran.stderr);
            assert_eq!(ran.json()["actor"], json!(token.address()));
            continue;
        }
        assert_eq!(ran.code, 1, "{}", ran.stdout);
        assert!(
            ran.stderr.contains("this chain has no precompile for signatures by P-256 keys (at address 0x100)"),
            "{}",
            ran.stderr
        );
        assert_eq!(sent(), before);
    }
}
