//! Rotation with real parts: a chain, the service, an agent, openssl, a reload command that refuses. A microservice's SSH certificate and
//! TLS pair are replaced twice, nobody asking, while the issuer and the agent are restarted at the worst moments.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../../host-agent/tests/support/mod.rs"]
mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use countersign_agent::agent::Agent;
use countersign_agent::receive::public_key_blob;
use countersign_chain::keys::ActorKey;
use countersign_chain::spool::Spill;
use countersign_delivery::{DirectoryStore, SecretKey};
use countersign_issuer::config::Config;
use countersign_issuer::rotate::RotationStatus;
use countersign_issuer::run::Service;
use countersign_issuer::view::View;
use countersign_registry::entries::{Entry, Kind, payload};
use countersign_registry::{Effective, shard, sign};
use serde_json::json;
use support::{ADMIN_KEY, DEVICE_KEY, HostFiles, World, device_address};

/// What each device has; its payloads follow.
const DEVICE: &str = "\
[device]
ledger-key = \"ROOT/device.json\"
ledger-password-file = \"ROOT/password\"
sealing-key = \"ROOT/device.x25519\"
[[block-store]]
directory = \"ROOT/blocks\"
";

/// What each issuer has; what it rotates follows.
const SERVICE: &str = "\
realm = \"realm.toml\"
actor = \"issuer.json\"
actor-password-file = \"password\"
ca = \"users\"
ca-key = \"ca\"
delivery-key = \"issuer.x25519\"
store = \"blocks\"
state = \"issuer-state\"
";

/// Seconds between a public half and its private one: more than the machine can lose between two looks.
const LEAD: u64 = 30;

const AGENT: &str = "\
[[payload]]
name = \"ssh\"
path = \"ROOT/keys/service\"
[payload.renew]
host = \"HOST\"
login = \"deploy\"
ttl-secs = 600
before-secs = 200
[[payload]]
name = \"www\"
kind = \"x509-key-pair\"
path = \"ROOT/keys/www\"
reload = [\"ROOT/reload\"]
[[payload]]
name = \"www-peers\"
kind = \"public-data\"
path = \"ROOT/keys/peers.pem\"
mode = \"0644\"
";

const ISSUER: &str = "\
[[rotate]]
name = \"www\"
make = \"command\"
kind = \"x509-key-pair\"
command = [\"ROOT/make-www\"]
to = [\"user:alice\"]
every = \"10m\"
publish = \"www-peers\"
lead = \"30s\"
";

const KEYS_AGENT: &str = "\
[[payload]]
name = \"replication\"
path = \"ROOT/keys/replication\"
key-pairs = true
[[payload]]
name = \"replication-keys\"
kind = \"public-data\"
path = \"ROOT/keys/peers\"
mode = \"0644\"
[[payload]]
name = \"token\"
kind = \"opaque-secret\"
path = \"ROOT/keys/token\"
";

const KEYS_ISSUER: &str = "\
[[rotate]]
name = \"replication\"
make = \"ssh-key-pair\"
to = [\"user:alice\"]
every = \"10m\"
publish = \"replication-keys\"
lead = \"30s\"
[[rotate]]
name = \"token\"
make = \"secret\"
bytes = 24
to = [\"user:alice\"]
every = \"10m\"
";

/// A certificate of its own for each call; refuses while `no-ca` is there.
const MAKE: &str = "#!/bin/sh
[ -e ROOT/no-ca ] && exit 1
exec openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=www \\
  -keyout /dev/stdout -out /dev/stdout
";

/// Refuses what is there while `broken` is.
const RELOAD: &str = "#!/bin/sh
[ ! -e ROOT/broken ] || ! cmp -s ROOT/broken ROOT/keys/www.crt
";

struct Bed {
    world: World,
    host: HostFiles,
    lines: Vec<String>,
}

impl Bed {
    async fn new(agent: &str, issuer: &str) -> Self {
        let world = World::new().await;
        let records = world.populate().await;
        let host =
            HostFiles::new(&world, records.host, &[DEVICE, agent].concat().replace("HOST", &records.host.to_string()));
        let device = SecretKey::generate().unwrap();
        device.create_file(&host.path("device.x25519")).unwrap();
        world.admin_sealing.create_file(&host.path("issuer.x25519")).unwrap();
        ActorKey::from_hex(DEVICE_KEY).unwrap().store(&host.path("device.json"), "correct horse").unwrap();
        ActorKey::from_hex(ADMIN_KEY).unwrap().store(&host.path("issuer.json"), "correct horse").unwrap();
        support::write_private(&host.path("password"), "correct horse\n");
        for directory in ["keys", "issuer-state"] {
            std::fs::create_dir(host.path(directory)).unwrap();
            std::fs::set_permissions(host.path(directory), std::fs::Permissions::from_mode(0o700)).unwrap();
        }
        DirectoryStore::open(&host.path("blocks")).unwrap();
        let root = host.directory.path().display().to_string();
        for (name, text) in [("make-www", MAKE), ("reload", RELOAD)] {
            std::fs::write(host.path(name), text.replace("ROOT", &root)).unwrap();
            std::fs::set_permissions(host.path(name), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        std::fs::write(host.path("issuer.toml"), [SERVICE, issuer].concat().replace("ROOT", &root)).unwrap();
        let keygen =
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(host.path("ca")).status();
        assert!(keygen.expect("ssh-keygen is needed: run .ci/tools").success());
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
        world.by_roots(&[sign::write(shard::GOVERNANCE, &ca)]).await;
        let member = Entry::MemberSet(payload::MemberSet {
            actor: device_address(),
            member: true,
            subject: records.user.0.into(),
            x25519: device.public().to_bytes().into(),
        });
        world.append(shard::DIRECTORY, &member).await;
        world.anvil.mine(3).await;
        Self { world, host, lines: Vec::new() }
    }

    async fn service(&self) -> Service {
        Service::open(Config::load(&self.host.path("issuer.toml")).unwrap()).await.unwrap()
    }

    async fn pass(&self, seconds: u64) {
        self.world.anvil.call("evm_increaseTime", json!([seconds])).await;
        self.world.anvil.mine(3).await;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let ahead = self.world.latest_time().await.saturating_sub(now);
        self.host.shift.raise(i64::try_from(ahead).unwrap());
    }

    /// Both look, and what they logged becomes final, until `done`; at most twenty times.
    async fn until(&mut self, service: &mut Service, agent: &mut Agent, done: impl Fn(&Self, &Service) -> bool) {
        for _ in 0..20 {
            let lines = &mut self.lines;
            service.look(&mut |line| lines.push(line.to_owned())).await;
            // A command may be at work beside it.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            let outcome = agent.cycle().await;
            assert_eq!(outcome.failure, None, "{}", self.host.log.text());
            agent.finish_acknowledging().await;
            agent.finish_asking().await;
            self.pass(1).await;
            if done(self, service) {
                return;
            }
        }
        panic!("not done: {:#?}\n{:#?}\n{}", service.status(), self.lines, self.host.log.text());
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.host.path(name)).unwrap_or_default()
    }

    async fn effective(&self) -> Effective {
        View::read_with(&self.world.realm_file(), 2, Spill::default()).await.unwrap().effective
    }
}

fn www(service: &Service) -> &RotationStatus {
    &service.status().rotations["www"]
}

fn fits(key: &Path, certificate: &Path) -> bool {
    let public = |arguments: &[&str], file: &Path| {
        Command::new("openssl").args(arguments).arg("-in").arg(file).output().unwrap().stdout
    };
    let of_key = public(&["pkey", "-pubout"], key);
    !of_key.is_empty() && of_key == public(&["x509", "-noout", "-pubkey"], certificate)
}

// row: D15 D16
#[tokio::test]
async fn a_microservices_certificate_and_tls_pair_are_replaced_twice_by_themselves_through_a_failed_reload_and_restarts()
 {
    let mut bed = Bed::new(AGENT, ISSUER).await;
    let mut service = bed.service().await;
    let mut agent = bed.host.open();

    // A command that fails is told, and tried again a minute later.
    std::fs::write(bed.host.path("no-ca"), "").unwrap();
    bed.until(&mut service, &mut agent, |_, service| www(service).failures > 0).await;
    assert!(www(&service).problem.as_ref().unwrap().ends_with("make-www ended with exit status: 1"));
    std::fs::remove_file(bed.host.path("no-ca")).unwrap();
    bed.pass(60).await;

    bed.until(&mut service, &mut agent, |_, service| www(service).stage == "announcing").await;
    bed.pass(LEAD).await;
    let settled = |_: &Bed, service: &Service| www(service).stage == "acknowledged";
    bed.until(&mut service, &mut agent, settled).await;
    bed.until(&mut service, &mut agent, |bed, _| !bed.read("keys/service-cert.pub").is_empty()).await;
    let first = (bed.read("keys/www.crt"), bed.read("keys/service-cert.pub"), bed.read("keys/service"));
    bed.until(&mut service, &mut agent, |bed, _| bed.read("keys/peers.pem") == first.0).await;
    let status = www(&service).clone();
    assert_eq!((status.recipients, status.acknowledged, status.failures), (1, 1, 0), "{status:?}");
    assert_eq!(status.due.unwrap(), status.logged.unwrap() + 600);

    let mut pairs = vec![first.0.clone()];
    let mut certificates = vec![first.1.clone()];
    for round in 1..3 {
        // The certificate is asked for anew 200 s before its end; the second time the issuer answers after a restart.
        bed.pass(410).await;
        agent.cycle().await;
        agent.finish_asking().await;
        if round == 2 {
            drop(service);
            service = bed.service().await;
        }
        let old = certificates.last().unwrap().clone();
        bed.until(&mut service, &mut agent, |bed, _| bed.read("keys/service-cert.pub") != old).await;
        certificates.push(bed.read("keys/service-cert.pub"));

        // The pair is made anew after ten minutes. The first time the service is killed with it half made: its public half is on the ledger, it is not.
        bed.pass(200).await;
        let old = pairs.last().unwrap().clone();
        let announced = |bed: &Bed, service: &Service| {
            www(service).stage == "announcing" && bed.read("keys/peers.pem").matches("BEGIN").count() == 2
        };
        bed.until(&mut service, &mut agent, announced).await;
        bed.pass(LEAD).await;
        if round == 1 {
            drop(service);
            service = bed.service().await;
            // What reads it refuses the new one: the old one stays and is not acknowledged to be gone.
            let both = bed.read("keys/peers.pem");
            let new = both.replace(&old, "");
            assert!(both.ends_with(&old) && new.len() < both.len(), "the old one is published beside the new one");
            std::fs::write(bed.host.path("broken"), &new).unwrap();
            let failed = |bed: &Bed, _: &Service| bed.host.log.text().contains("reason=delivery-reload");
            bed.until(&mut service, &mut agent, failed).await;
            assert_eq!(bed.read("keys/www.crt"), old);
            assert!(fits(&bed.host.path("keys/www.key"), &bed.host.path("keys/www.crt")));
            drop(agent);
            agent = bed.host.open();
            bed.until(&mut service, &mut agent, |_, service| www(service).stage == "delivered").await;
            assert_eq!(www(&service).waiting, ["alice"]);
            assert_eq!(bed.read("keys/www.crt"), old);
            assert_eq!(bed.read("keys/peers.pem"), both, "until everybody has the new one");
            std::fs::remove_file(bed.host.path("broken")).unwrap();
            bed.pass(60).await;
        }
        bed.until(&mut service, &mut agent, |bed, _| bed.read("keys/www.crt") != old).await;
        pairs.push(bed.read("keys/www.crt"));
        bed.until(&mut service, &mut agent, |bed, service| {
            settled(bed, service) && bed.read("keys/peers.pem") == bed.read("keys/www.crt")
        })
        .await;
        assert!(fits(&bed.host.path("keys/www.key"), &bed.host.path("keys/www.crt")));
    }
    assert_eq!(bed.read("keys/service"), first.2, "the key of the SSH certificates never left and never changed");

    // Three of each on the ledger and no more, however often anything was restarted.
    let effective = bed.effective().await;
    assert_eq!((effective.envelopes.len(), effective.requests.len()), (3, 3), "{:#?}", bed.lines);
    assert_eq!(effective.deliveries.len(), 3);
    assert_eq!(effective.public_data.len(), 3 + 2, "announced thrice, taken back twice");
    let made = bed.lines.iter().filter(|line| line.starts_with("event=rotation-made")).count();
    assert_eq!(made, 3);
    // What was made is nowhere in the service's own files.
    for name in ["rotate/www.json", "status.json"] {
        assert!(!bed.read(&format!("issuer-state/{name}")).contains("PRIVATE KEY"), "{name}");
    }

    // Whoever holds no role to send with cannot publish a key under the name.
    let forged = payload::PublicData { r: [9; 16].into(), name: "www-peers".into(), data: b"forged".to_vec().into() };
    let write = sign::write(shard::write_shard(Kind::PUBLIC_DATA).unwrap(), &Entry::PublicData(forged));
    let chain = (bed.world.anvil.endpoints(), bed.world.anvil.chain_id);
    let device = countersign_chain::send::Sender::new(
        chain.0,
        support::key(DEVICE_KEY),
        chain.1,
        support::patience(),
        Default::default(),
    );
    let refused = device.append(bed.world.pin.contract, bed.world.pin.realm, &write, &mut |_| ()).await.unwrap_err();
    assert!(matches!(refused, countersign_chain::ChainError::Reverted { .. }), "{refused}");
}

/// A private key file of OpenSSH's and what ssh-keygen makes of it.
fn public_of(key: &Path) -> String {
    let output = Command::new("ssh-keygen").arg("-y").arg("-f").arg(key).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().split(' ').take(2).collect::<Vec<_>>().join(" ").trim().to_owned()
}

// row: D15
#[tokio::test]
async fn a_key_pair_and_a_secret_are_made_anew_and_peers_know_the_new_public_key_before_its_owner_has_it() {
    let mut bed = Bed::new(KEYS_AGENT, KEYS_ISSUER).await;
    let mut service = bed.service().await;
    let mut agent = bed.host.open();
    let settled = |service: &Service| {
        let rotations = &service.status().rotations;
        ["replication", "token"].iter().all(|name| rotations.get(*name).is_some_and(|it| it.stage == "acknowledged"))
    };
    let mut held: Vec<(String, Vec<u8>)> = Vec::new();
    let token_of = |bed: &Bed| std::fs::read(bed.host.path("keys/token")).unwrap_or_default();
    for round in 0..3 {
        if round > 0 {
            bed.pass(600).await;
            // Killed between two looks: it goes on with what it has on disk.
            service.look(&mut |_| {}).await;
            drop(service);
            service = bed.service().await;
        }
        let old = held.last().cloned();
        let announced = |bed: &Bed, _: &Service| {
            let Some((key, _)) = &old else { return true };
            let peers = bed.read("keys/peers");
            peers.contains(key.as_str()) && peers.lines().count() == 2
        };
        bed.until(&mut service, &mut agent, announced).await;
        if let Some((key, _)) = &old {
            assert_eq!(
                &public_of(&bed.host.path("keys/replication")),
                key,
                "peers know the new key, its owner has the old one"
            );
        }
        bed.pass(LEAD).await;
        let anew = |bed: &Bed, service: &Service| {
            let token = token_of(bed);
            !token.is_empty() && old.as_ref().is_none_or(|(_, old)| *old != token) && settled(service)
        };
        bed.until(&mut service, &mut agent, anew).await;
        let key = public_of(&bed.host.path("keys/replication"));
        bed.until(&mut service, &mut agent, |bed, _| bed.read("keys/peers").lines().count() == 1).await;
        assert!(bed.read("keys/peers").contains(&key), "the old one is gone, the new one stays");
        assert_eq!(token_of(&bed).len(), 2 * 24, "hexadecimal digits");
        assert!(held.iter().all(|(before, _)| *before != key), "each time another key");
        held.push((key, token_of(&bed)));
    }
    // Three pairs and three secrets on the ledger, however often the service was restarted.
    let effective = bed.effective().await;
    assert_eq!(effective.envelopes.len() + effective.deliveries.len(), 6, "{:#?}", bed.lines);
    for name in ["rotate/replication.json", "rotate/token.json", "status.json"] {
        assert!(!bed.read(&format!("issuer-state/{name}")).contains("PRIVATE KEY"), "{name}");
    }
}
