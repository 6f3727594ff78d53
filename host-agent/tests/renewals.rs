//! Certificates that a device asks for itself: the requests on a real chain, the answers by a CA that the test plays, a realm that refuses,
//! an agent that is restarted and one that lost its state.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "tests"
)]

mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use countersign_agent::agent::Agent;
use countersign_agent::receive::public_key_blob;
use countersign_certificate::Id;
use countersign_chain::keys::ActorKey;
use countersign_delivery::{Contents, Context, DirectoryStore, Payload, SecretKey, seal};
use countersign_registry::entries::{Entry, Kind, Roles, payload};
use countersign_registry::realm::Request;
use countersign_registry::{shard, sign};
use serde_json::{Value, json};
use support::{DEVICE_KEY, HostFiles, World, device_address, effective};

const CONFIG: &str = "\
[device]
ledger-key = \"ROOT/ledger.json\"
ledger-password-file = \"ROOT/ledger.password\"
sealing-key = \"ROOT/x25519\"
[[block-store]]
directory = \"ROOT/blocks\"
[[payload]]
name = \"ssh\"
path = \"ROOT/keys/service\"
[payload.renew]
host = \"HOST\"
login = \"deploy\"
ttl-secs = 600
before-secs = 200
answer-secs = 900
reason = \"nightly copies\"
";

struct Bed {
    world: World,
    host: HostFiles,
    sealing: SecretKey,
    store: DirectoryStore,
    ahead: u64,
    sent: u8,
}

impl Bed {
    /// A realm with a CA, in which the device speaks for alice; she may log in as `deploy`.
    async fn new() -> Self {
        let world = World::new().await;
        let records = world.populate().await;
        let host = HostFiles::new(&world, records.host, &CONFIG.replace("HOST", &records.host.to_string()));
        let sealing = SecretKey::generate().unwrap();
        sealing.create_file(&host.path("x25519")).unwrap();
        ActorKey::from_hex(DEVICE_KEY).unwrap().store(&host.path("ledger.json"), "correct horse").unwrap();
        support::write_private(&host.path("ledger.password"), "correct horse\n");
        std::fs::create_dir(host.path("keys")).unwrap();
        std::fs::set_permissions(host.path("keys"), std::fs::Permissions::from_mode(0o700)).unwrap();
        let store = DirectoryStore::open(&host.path("blocks")).unwrap();
        for name in ["ca", "other"] {
            keygen(&["-q", "-t", "ed25519", "-N", "", "-C", "x", "-f"], &host.path(name));
        }
        let ca = public_key_blob(&std::fs::read_to_string(host.path("ca.pub")).unwrap()).unwrap();
        let ca = Entry::CaAdd(payload::CaAdd {
            r: [8; 16].into(),
            purpose: 1,
            name: "users".into(),
            publicKey: ca.into(),
            maxTtl: 3600,
            logins: Vec::new(),
            issuers: vec![world.admin.address()],
        });
        let role = Entry::RoleSet(payload::RoleSet {
            actor: world.admin.address(),
            roles: Roles::ADMIN | Roles::ISSUER | Roles::REVOKER | Roles::APPROVER,
            x25519: world.admin_sealing.public().to_bytes().into(),
        });
        world.by_roots(&[sign::write(shard::GOVERNANCE, &ca), sign::write(shard::GOVERNANCE, &role)]).await;
        world.anvil.mine(3).await;
        Self { world, host, sealing, store, ahead: 0, sent: 0 }
    }

    /// Binds the device's ledger key.
    async fn bind(&self, subject: Id) {
        let member = Entry::MemberSet(payload::MemberSet {
            actor: device_address(),
            member: true,
            subject: subject.0.into(),
            x25519: self.sealing.public().to_bytes().into(),
        });
        self.world.append(shard::DIRECTORY, &member).await;
        self.world.anvil.mine(3).await;
    }

    fn alice(&self) -> Id {
        sign::record_id(Kind::USER_ADD, self.world.admin.address(), [1; 16])
    }

    /// Lets time pass on the chain and on this host's clock.
    async fn pass(&mut self, seconds: u64) {
        self.ahead += seconds;
        self.world.anvil.call("evm_increaseTime", json!([seconds])).await;
        self.world.anvil.mine(3).await;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        self.host
            .shift
            .raise(i64::try_from(self.world.latest_time().await - now.min(self.world.latest_time().await)).unwrap());
    }

    /// Cycles, with what they send mined.
    async fn cycles(&self, agent: &mut Agent, count: usize) {
        for _ in 0..count {
            let outcome = agent.cycle().await;
            assert_eq!(outcome.failure, None, "{}", self.host.log.text());
            agent.finish_asking().await;
            agent.finish_acknowledging().await;
        }
    }

    /// The requests on the ledger, oldest first.
    async fn requests(&self) -> Vec<(Id, Request)> {
        let mut requests: Vec<_> = effective(&self.world, 86_400).await.requests.into_iter().collect();
        requests.sort_by_key(|(_, request)| request.at);
        requests
    }

    /// A certificate by the CA that begins and ends so many seconds from the ledger's present, delivered to the device.
    async fn answer(&mut self, public_key: &Path, from: i64, to: i64) {
        let ahead = i64::try_from(self.ahead).unwrap();
        let validity = format!("{:+}s:{:+}s", from + ahead, to + ahead);
        let status = Command::new("ssh-keygen")
            .args(["-q", "-I", "alice/1", "-n", "deploy", "-V", &validity, "-s"])
            .args([self.host.path("ca").as_path(), public_key])
            .status();
        assert!(status.unwrap().success());
        let signed =
            public_key.with_file_name(format!("{}-cert.pub", public_key.file_stem().unwrap().to_str().unwrap()));
        let certificate = std::fs::read_to_string(signed).unwrap();
        self.sent += 1;
        let r = [self.sent; 16];
        let contents = Contents::SshCertificate { certificate };
        let (id, kind) = (sign::record_id(Kind::DELIVERY, self.world.admin.address(), r), contents.kind());
        let recipient = device_address();
        let context =
            Context { realm: self.world.pin.realm.0, delivery: id.0, recipient: recipient.into_array(), kind };
        let payload = Payload::new("ssh", contents).unwrap();
        let sealed = seal(&context, &self.world.admin_sealing, &self.sealing.public(), &payload).unwrap();
        self.store.put(&sealed.block).unwrap();
        let entry = Entry::Delivery(payload::Delivery {
            r: r.into(),
            recipient,
            payloadName: "ssh".into(),
            payloadKind: kind.number(),
            digest: sealed.digest.into(),
            sealedCid: sealed.sealed_cid.into(),
        });
        self.world.append(shard::write_shard(Kind::DELIVERY).unwrap(), &entry).await;
    }

    fn renewal(&self) -> Value {
        self.host.status()["renewals"][0].clone()
    }

    /// A copy of the device's public key where ssh-keygen may put a certificate beside it.
    fn public_key(&self) -> std::path::PathBuf {
        let copy = self.host.path("service.pub");
        std::fs::copy(self.host.path("keys/service.pub"), &copy).unwrap();
        copy
    }
}

fn keygen(arguments: &[&str], file: &Path) {
    let status = Command::new("ssh-keygen").args(arguments).arg(file).status();
    assert!(status.expect("ssh-keygen is needed: run .ci/tools").success());
}

#[tokio::test]
async fn a_device_asks_once_for_each_certificate_keeps_its_key_and_never_floods_a_realm_that_refuses() {
    let mut bed = Bed::new().await;
    let mut agent = bed.host.open();

    // A device that nobody listed, or that speaks for a host, asks for nothing; its key is made all the same.
    bed.cycles(&mut agent, 2).await;
    assert_eq!(bed.renewal()["reason"], "renew-user", "{}", bed.renewal());
    let key = std::fs::read_to_string(bed.host.path("keys/service")).unwrap();
    let metadata = std::fs::metadata(bed.host.path("keys/service")).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.uid()), (0o600, 0));
    let host = sign::record_id(Kind::HOST_ADD, bed.world.admin.address(), [2; 16]);
    bed.bind(host).await;
    bed.cycles(&mut agent, 2).await;
    let message = bed.renewal()["message"].as_str().unwrap().to_owned();
    assert!(message.ends_with("not bound to a user, and only users may ask for certificates"), "{message}");
    assert_eq!(bed.requests().await, []);

    // One request, however often it looks; also after a restart, and after its state was lost.
    bed.bind(bed.alice()).await;
    bed.cycles(&mut agent, 3).await;
    let requests = bed.requests().await;
    let [(first, request)] = requests.as_slice() else { panic!("{requests:?}") };
    assert_eq!((request.user, request.login.as_str(), request.ttl), (bed.alice(), "deploy", 600));
    assert_eq!(request.reason, "nightly copies");
    let public = std::fs::read_to_string(bed.host.path("keys/service.pub")).unwrap();
    assert_eq!(request.public_key.to_vec(), public_key_blob(&public).unwrap());
    assert_eq!((&bed.renewal()["renewing"], &bed.renewal()["reason"]), (&json!(true), &Value::Null));
    drop(agent);
    let mut agent = bed.host.open();
    bed.cycles(&mut agent, 2).await;
    drop(agent);
    std::fs::remove_file(bed.host.path("state/state")).unwrap();
    let mut agent = bed.host.open();
    bed.cycles(&mut agent, 2).await;
    assert_eq!(bed.requests().await.len(), 1);
    assert_eq!(bed.renewal()["request"], json!(first.to_string()));

    // What looks like the answer and is for another key changes nothing.
    let other = bed.host.path("other.pub");
    bed.answer(&other, -30, 600).await;
    bed.cycles(&mut agent, 2).await;
    assert!(!bed.host.path("keys/service-cert.pub").exists());
    assert_eq!((&bed.renewal()["renewing"], bed.requests().await.len()), (&json!(true), 1));

    // The answer, and nothing more to ask for until 200 s before its end.
    let own = bed.public_key();
    bed.answer(&own, -30, 600).await;
    bed.cycles(&mut agent, 2).await;
    assert!(bed.host.path("keys/service-cert.pub").exists(), "{}", bed.host.log.text());
    let renewal = bed.renewal();
    assert_eq!((&renewal["renewing"], &renewal["since"]), (&json!(false), &Value::Null), "{renewal}");
    let expires = renewal["expires"].as_u64().unwrap();
    assert!(expires.abs_diff(bed.world.latest_time().await + 600) < 30, "{renewal}");
    bed.pass(300).await;
    bed.cycles(&mut agent, 2).await;
    assert_eq!(bed.requests().await.len(), 1);
    bed.pass(130).await;
    bed.cycles(&mut agent, 3).await;
    assert_eq!(bed.requests().await.len(), 2);

    // A delivery that stands later on the ledger and ends sooner does not count as the next one.
    bed.answer(&own, -500, 100).await;
    bed.cycles(&mut agent, 3).await;
    assert_eq!((&bed.renewal()["renewing"], bed.requests().await.len()), (&json!(true), 2));

    // Denied: asked again after a minute at the earliest, then after two.
    let deny = |id: Id| Entry::Deny(id);
    for wait in [60_u64, 120] {
        let requests = bed.requests().await;
        let newest = requests.last().unwrap().0;
        bed.world.append(shard::write_shard(Kind::DENY).unwrap(), &deny(newest)).await;
        bed.cycles(&mut agent, 5).await;
        assert_eq!(bed.renewal()["reason"], "renew-denied", "{}", bed.renewal());
        bed.pass(wait - 30).await;
        drop(agent);
        agent = bed.host.open();
        bed.cycles(&mut agent, 5).await;
        assert_eq!(bed.requests().await.len(), requests.len());
        bed.pass(wait / 5 + 31).await;
        bed.cycles(&mut agent, 5).await;
        assert_eq!(bed.requests().await.len(), requests.len() + 1, "{}", bed.renewal());
    }

    // Who cannot pay says so, and tries no more often.
    let newest = bed.requests().await.last().unwrap().0;
    bed.world.append(shard::write_shard(Kind::DENY).unwrap(), &deny(newest)).await;
    bed.cycles(&mut agent, 1).await;
    bed.world.anvil.call("anvil_setBalance", json!([device_address(), "0x0"])).await;
    bed.pass(300).await;
    bed.cycles(&mut agent, 4).await;
    assert_eq!(bed.renewal()["reason"], "renew-funds", "{}", bed.renewal());
    assert_eq!(bed.host.log.text().matches("reason=renew-funds").count(), 1, "{}", bed.host.log.text());

    assert_eq!(std::fs::read_to_string(bed.host.path("keys/service")).unwrap(), key, "the key stays");
}
