//! Deliveries end to end: sealed by an issuer, logged on a real chain, received by the agent, acknowledged by the device's own
//! ledger key, and never done twice.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "tests"
)]

mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use countersign_agent::agent::Agent;
use countersign_agent::reason::Reason;
use countersign_agent::receive::public_key_blob;
use countersign_agent::run;
use countersign_certificate::Id;
use countersign_chain::keys::ActorKey;
use countersign_delivery::{
    Addressee, Binding, Contents, Context, DirectoryStore, Payload, PayloadKind, PublicKey, SecretKey, seal,
    seal_envelope, seal_payload,
};
use countersign_registry::entries::{Entry, Kind, payload};
use countersign_registry::realm::Acknowledgement;
use countersign_registry::{shard, sign};
use support::{DEVICE_KEY, HostFiles, World, device_address, effective};
use zeroize::Zeroizing;

const DEVICE: &str = "\
[device]
ledger-key = \"ROOT/ledger.json\"
ledger-password-file = \"ROOT/ledger.password\"
sealing-key = \"ROOT/x25519\"
[[block-store]]
directory = \"ROOT/blocks\"
[[payload]]
name = \"deploy\"
path = \"ROOT/keys/deploy\"
key-pairs = true
reload = [\"/usr/bin/touch\", \"ROOT/reloaded\"]
";

/// A realm with a CA, and a host whose device key is a member.
struct Bed {
    world: World,
    host: HostFiles,
    device: SecretKey,
    store: DirectoryStore,
    sent: u8,
}

impl Bed {
    async fn new() -> Self {
        Self::with(DEVICE).await
    }

    /// With another end of the host's configuration.
    async fn with(device_part: &str) -> Self {
        let world = World::new().await;
        let records = world.populate().await;
        let host = HostFiles::new(&world, records.host, device_part);
        let device = SecretKey::generate().unwrap();
        device.create_file(&host.path("x25519")).unwrap();
        ActorKey::from_hex(DEVICE_KEY).unwrap().store(&host.path("ledger.json"), "correct horse").unwrap();
        support::write_private(&host.path("ledger.password"), "correct horse\n");
        std::fs::create_dir(host.path("keys")).unwrap();
        std::fs::set_permissions(host.path("keys"), std::fs::Permissions::from_mode(0o700)).unwrap();
        let store = DirectoryStore::open(&host.path("blocks")).unwrap();
        for name in ["ca", "keys/deploy", "other"] {
            let status = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", "x", "-f"])
                .arg(host.path(name))
                .status()
                .expect("ssh-keygen is needed: run .ci/tools");
            assert!(status.success());
        }
        let member = Entry::MemberSet(payload::MemberSet {
            actor: device_address(),
            member: true,
            subject: records.host.0.into(),
            x25519: device.public().to_bytes().into(),
        });
        world.append(shard::DIRECTORY, &member).await;
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
        world.anvil.mine(3).await;
        Self { world, host, device, store, sent: 0 }
    }

    /// A certificate for `key` by the CA, valid for five minutes.
    fn certificate(&self, key: &str) -> String {
        let status = Command::new("ssh-keygen")
            .args(["-q", "-I", "alice/1", "-n", "deploy", "-V", "-30s:+5m", "-s"])
            .args([self.host.path("ca"), self.host.path(&format!("{key}.pub"))])
            .status();
        assert!(status.unwrap().success());
        std::fs::read_to_string(self.host.path(&format!("{key}-cert.pub"))).unwrap()
    }

    /// Seals, stores and logs a delivery; the block stays out of the store where `keep` says so.
    async fn deliver(&mut self, name: &str, contents: Contents) -> (Id, Vec<u8>) {
        self.sent += 1;
        let r = [self.sent; 16];
        let id = sign::record_id(Kind::DELIVERY, self.world.admin.address(), r);
        let kind = contents.kind();
        let context =
            Context { realm: self.world.pin.realm.0, delivery: id.0, recipient: device_address().into_array(), kind };
        let payload = Payload::new(name, contents).unwrap();
        let sealed = seal(&context, &self.world.admin_sealing, &self.device.public(), &payload).unwrap();
        self.store.put(&sealed.block).unwrap();
        let entry = Entry::Delivery(payload::Delivery {
            r: r.into(),
            recipient: device_address(),
            payloadName: name.into(),
            payloadKind: kind.number(),
            digest: sealed.digest.into(),
            sealedCid: sealed.sealed_cid.into(),
        });
        self.world.append(shard::write_shard(Kind::DELIVERY).unwrap(), &entry).await;
        (id, sealed.block)
    }

    /// What the ledger says about acknowledgements, read by somebody else.
    async fn acknowledgement(&self, id: Id) -> Option<Acknowledgement> {
        effective(&self.world, 3600).await.acknowledgements.get(&id).cloned()
    }

    fn open(&self) -> Agent {
        self.host.open()
    }

    fn delivery_status(&self) -> (String, Option<String>) {
        let status = self.host.status();
        let last = status["deliveries"].as_array().unwrap().last().unwrap().clone();
        (last["stage"].as_str().unwrap().to_owned(), last["reason"].as_str().map(str::to_owned))
    }
}

// row: D10 D23
#[tokio::test]
async fn a_certificate_is_received_applied_acknowledged_and_not_received_again() {
    let mut bed = Bed::new().await;
    let certificate = bed.certificate("keys/deploy");
    std::fs::remove_file(bed.host.path("keys/deploy-cert.pub")).unwrap();
    let contents = Contents::SshCertificate { certificate: certificate.clone() };
    let (id, _) = bed.deliver("deploy", contents).await;
    assert_eq!(bed.acknowledgement(id).await, None);

    let outcome = run::once(bed.host.config(), bed.host.log.log(), bed.host.shift.clocks()).await.unwrap();
    assert_eq!((outcome.failure, outcome.unfinished), (None, 0), "{}", bed.host.log.text());
    let path = bed.host.path("keys/deploy-cert.pub");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), certificate);
    let metadata = std::fs::metadata(&path).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.uid()), (0o600, 0));
    assert!(bed.host.path("reloaded").exists());
    assert_eq!(bed.delivery_status(), ("acknowledged".to_owned(), None));
    let acknowledgement = bed.acknowledgement(id).await.expect("acknowledged on the ledger");
    assert_eq!(acknowledgement.actor, device_address());
    bed.world.anvil.mine(3).await;

    std::fs::remove_file(bed.host.path("reloaded")).unwrap();
    let outcome = run::once(bed.host.config(), bed.host.log.log(), bed.host.shift.clocks()).await.unwrap();
    assert_eq!((outcome.failure, outcome.unfinished), (None, 0));
    assert_eq!(std::fs::metadata(&path).unwrap().ino(), metadata.ino(), "the file was not written again");
    assert!(!bed.host.path("reloaded").exists());
    assert_eq!(bed.host.log.text().matches("event=delivery-applied").count(), 1);
    assert_eq!(bed.host.log.text().matches("event=delivery-acknowledged").count(), 1);
}

#[tokio::test]
async fn a_reload_command_is_an_argument_list_and_never_a_shells() {
    let odd = "reloaded; touch $(id -u) `id` *";
    let mut bed = Bed::with(&DEVICE.replace("ROOT/reloaded", &format!("ROOT/{odd}"))).await;
    let certificate = bed.certificate("keys/deploy");
    // Text that a shell would run if the payload ever reached one; in a certificate line it is a comment.
    let certificate = format!("{} $(touch ROOT/pwned); `reboot`\n", certificate.trim_end());
    bed.deliver("deploy", Contents::SshCertificate { certificate }).await;
    let outcome = run::once(bed.host.config(), bed.host.log.log(), bed.host.shift.clocks()).await.unwrap();
    assert_eq!((outcome.failure, outcome.unfinished), (None, 0), "{}", bed.host.log.text());
    assert!(bed.host.path(odd).exists(), "one argument, taken as it stands");
    assert!(!bed.host.path("reloaded").exists() && !bed.host.path("pwned").exists());
}

// row: D16
#[tokio::test]
async fn what_a_service_cannot_live_with_gives_way_to_what_it_had_and_is_not_acknowledged() {
    // The "service" takes its certificate up only where it is the one that it wants.
    let wants = "reload = [\"/usr/bin/cmp\", \"-s\", \"ROOT/keys/deploy-cert.pub\", \"ROOT/wanted\"]";
    let mut bed = Bed::with(&DEVICE.replace("reload = [\"/usr/bin/touch\", \"ROOT/reloaded\"]", wants)).await;
    let certificate = bed.certificate("keys/deploy");
    let path = bed.host.path("keys/deploy-cert.pub");
    std::fs::write(&path, "old").unwrap();
    std::fs::write(bed.host.path("wanted"), "old").unwrap();
    let (id, _) = bed.deliver("deploy", Contents::SshCertificate { certificate: certificate.clone() }).await;
    let mut agent = bed.open();
    for _ in 0..2 {
        let outcome = agent.cycle().await;
        assert_eq!((outcome.failure, outcome.unfinished), (None, 1), "{}", bed.host.log.text());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
    }
    assert_eq!(bed.delivery_status(), ("waiting".to_owned(), Some("delivery-reload".to_owned())));
    assert_eq!(bed.host.log.text().matches("reason=delivery-reload").count(), 1, "told once, not at each poll");
    assert!(bed.host.log.text().contains("the old files are back"), "{}", bed.host.log.text());

    // Killed between writing and reloading: the new file is there, the old one is kept, and nothing is written down.
    drop(agent);
    let kept = bed.host.path("keys/.deploy-cert.pub.kept");
    std::fs::rename(&path, &kept).unwrap();
    std::fs::write(&path, &certificate).unwrap();
    let mut agent = bed.open();
    agent.cycle().await;
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "old", "the one that is known to be good comes back");
    assert!(!kept.exists());
    assert_eq!(bed.acknowledgement(id).await, None);

    std::fs::write(bed.host.path("wanted"), &certificate).unwrap();
    drop(agent);
    let mut agent = bed.open();
    agent.cycle().await;
    agent.finish_acknowledging().await;
    assert_eq!(std::fs::read_to_string(&path).unwrap(), certificate);
    assert!(!kept.exists());
    assert!(bed.acknowledgement(id).await.is_some(), "{}", bed.host.log.text());

    // One that the service refuses does not hold up the corrected one that follows it.
    let (bad, good) = (bed.certificate("keys/deploy"), bed.certificate("keys/deploy"));
    std::fs::write(&path, &certificate).unwrap();
    bed.deliver("deploy", Contents::SshCertificate { certificate: bad }).await;
    agent.cycle().await;
    assert_eq!(std::fs::read_to_string(&path).unwrap(), certificate);
    assert_eq!(bed.delivery_status(), ("waiting".to_owned(), Some("delivery-reload".to_owned())));
    std::fs::write(bed.host.path("wanted"), &good).unwrap();
    bed.deliver("deploy", Contents::SshCertificate { certificate: good.clone() }).await;
    agent.cycle().await;
    assert_eq!(std::fs::read_to_string(&path).unwrap(), good, "{}", bed.host.log.text());
    agent.cycle().await;
    assert!(bed.host.log.text().contains("reason=delivery-superseded"), "{}", bed.host.log.text());
}

#[tokio::test]
async fn what_an_interrupted_try_left_is_put_back_before_anybody_mends_it() {
    let slow = "reload = [\"/usr/bin/sleep\", \"25\"]";
    let mut bed = Bed::with(&DEVICE.replace("reload = [\"/usr/bin/touch\", \"ROOT/reloaded\"]", slow)).await;
    let certificate = bed.certificate("keys/deploy");
    let (path, kept) = (bed.host.path("keys/deploy-cert.pub"), bed.host.path("keys/.deploy-cert.pub.kept"));
    let put_back = "event=delivery-put-back";
    // A crash, and nothing that is ever tried again.
    std::fs::write(&kept, "old").unwrap();
    let mut agent = bed.open();
    assert_eq!((std::fs::read_to_string(&path).unwrap().as_str(), kept.exists()), ("old", false));
    std::fs::write(&path, "mended").unwrap();
    agent.cycle().await;
    drop(agent);
    drop(bed.open());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mended", "what was not kept is left alone");
    assert_eq!(bed.host.log.text().matches(put_back).count(), 1, "{}", bed.host.log.text());

    // A cycle that is dropped while a service reloads.
    bed.deliver("deploy", Contents::SshCertificate { certificate: certificate.clone() }).await;
    let mut agent = bed.open();
    for _ in 0..2 {
        let cycle = tokio::time::timeout(std::time::Duration::from_secs(4), agent.cycle()).await;
        assert!(cycle.is_err(), "{}", bed.host.log.text());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), certificate);
        assert_eq!(std::fs::read_to_string(&kept).unwrap(), "mended");
    }
    assert_eq!(bed.host.log.text().matches(put_back).count(), 2, "the second cycle began with the old file");
    drop(agent);
    drop(bed.open());
    assert_eq!((std::fs::read_to_string(&path).unwrap().as_str(), kept.exists()), ("mended", false));
}

// row: D8 D12
#[tokio::test]
async fn a_key_pair_made_elsewhere_replaces_the_old_one() {
    let mut bed = Bed::new().await;
    let certificate = bed.certificate("other");
    let private_key = Zeroizing::new(std::fs::read_to_string(bed.host.path("other")).unwrap());
    let contents = Contents::SshKeyPair { private_key: private_key.clone(), certificate: Some(certificate.clone()) };
    bed.deliver("deploy", contents).await;
    let outcome = run::once(bed.host.config(), bed.host.log.log(), bed.host.shift.clocks()).await.unwrap();
    assert_eq!((outcome.failure, outcome.unfinished), (None, 0), "{}", bed.host.log.text());
    let read = |name: &str| std::fs::read_to_string(bed.host.path(name)).unwrap();
    assert_eq!(read("keys/deploy"), *private_key);
    assert_eq!(read("keys/deploy.pub"), read("other.pub"));
    assert_eq!(read("keys/deploy-cert.pub"), certificate);
}

// row: D15
#[tokio::test]
async fn a_microservice_gets_its_key_pair_and_its_peers_public_keys_and_follows_when_a_peer_changes() {
    let peers = "\
[[payload]]
name = \"peer-b.pub\"
kind = \"public-data\"
path = \"ROOT/keys/peer-b.pub\"
mode = \"0644\"
[[payload]]
name = \"peer-c.pub\"
kind = \"public-data\"
path = \"ROOT/keys/peer-c.pub\"
mode = \"0644\"
";
    let mut bed = Bed::with(&format!("{DEVICE}{peers}")).await;
    for name in ["own", "peer-b", "peer-c", "peer-b-next"] {
        let arguments = ["-q", "-t", "ed25519", "-N", "", "-f"];
        let status = Command::new("ssh-keygen").args(arguments).arg(bed.host.path(name)).status();
        assert!(status.unwrap().success());
    }
    let text = |bed: &Bed, name: &str| std::fs::read_to_string(bed.host.path(name)).unwrap();
    let private_key = Zeroizing::new(text(&bed, "own"));
    bed.deliver("deploy", Contents::SshKeyPair { private_key, certificate: None }).await;
    let publish = async |bed: &Bed, r: u8, name: &str, key: &str| {
        let data = text(bed, key).into_bytes().into();
        let entry = Entry::PublicData(payload::PublicData { r: [r; 16].into(), name: name.into(), data });
        bed.world.append(shard::write_shard(Kind::PUBLIC_DATA).unwrap(), &entry).await;
    };
    publish(&bed, 81, "peer-b.pub", "peer-b.pub").await;
    publish(&bed, 82, "peer-c.pub", "peer-c.pub").await;
    // Of no concern here: a name that this service does not ask for.
    publish(&bed, 83, "peer-d.pub", "peer-c.pub").await;
    let once = async |bed: &Bed| {
        let outcome = run::once(bed.host.config(), bed.host.log.log(), bed.host.shift.clocks()).await.unwrap();
        assert_eq!((outcome.failure, outcome.unfinished), (None, 0), "{}", bed.host.log.text());
    };
    once(&bed).await;
    assert_eq!((text(&bed, "keys/deploy"), text(&bed, "keys/deploy.pub")), (text(&bed, "own"), text(&bed, "own.pub")));
    for peer in ["peer-b.pub", "peer-c.pub"] {
        assert_eq!(text(&bed, &format!("keys/{peer}")), text(&bed, peer));
    }
    assert!(!bed.host.path("keys/peer-d.pub").exists());

    publish(&bed, 84, "peer-b.pub", "peer-b-next.pub").await;
    once(&bed).await;
    assert_eq!(text(&bed, "keys/peer-b.pub"), text(&bed, "peer-b-next.pub"));
    assert_eq!(text(&bed, "keys/peer-c.pub"), text(&bed, "peer-c.pub"));
}

#[tokio::test]
async fn a_delivery_whose_block_comes_late_is_applied_then_and_the_old_file_stays_until_then() {
    let mut bed = Bed::new().await;
    std::fs::write(bed.host.path("keys/deploy-cert.pub"), "old").unwrap();
    let certificate = {
        let line = bed.certificate("keys/deploy");
        std::fs::write(bed.host.path("keys/deploy-cert.pub"), "old").unwrap();
        line
    };
    let (_, block) = bed.deliver("deploy", Contents::SshCertificate { certificate: certificate.clone() }).await;
    for file in std::fs::read_dir(bed.host.path("blocks")).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    let mut agent = bed.open();
    let outcome = agent.cycle().await;
    assert_eq!((outcome.failure, outcome.unfinished), (None, 1));
    assert_eq!(bed.delivery_status(), ("waiting".to_owned(), Some("delivery-block-missing".to_owned())));
    assert_eq!(std::fs::read_to_string(bed.host.path("keys/deploy-cert.pub")).unwrap(), "old");
    agent.cycle().await;
    assert_eq!(bed.host.log.text().matches("reason=delivery-block-missing").count(), 1, "told once, not at each poll");

    bed.store.put(&block).unwrap();
    let outcome = agent.cycle().await;
    assert_eq!((outcome.failure, outcome.unfinished), (None, 1));
    agent.finish_acknowledging().await;
    assert_eq!(agent.cycle().await.unfinished, 0);
    assert_eq!(std::fs::read_to_string(bed.host.path("keys/deploy-cert.pub")).unwrap(), certificate);
}

#[tokio::test]
async fn a_delivery_for_a_name_that_the_host_does_not_know_waits_and_touches_nothing() {
    let mut bed = Bed::new().await;
    let certificate = bed.certificate("keys/deploy");
    bed.deliver("root-key", Contents::SshCertificate { certificate }).await;
    let outcome = bed.open().cycle().await;
    assert_eq!((outcome.failure, outcome.unfinished), (None, 1));
    assert_eq!(bed.delivery_status(), ("waiting".to_owned(), Some("delivery-name".to_owned())));
}

#[tokio::test]
async fn a_certificate_for_another_key_keeps_the_old_file_and_is_not_acknowledged() {
    let mut bed = Bed::new().await;
    let certificate = bed.certificate("other");
    let (id, _) = bed.deliver("deploy", Contents::SshCertificate { certificate }).await;
    let outcome = bed.open().cycle().await;
    assert_eq!((outcome.failure, outcome.unfinished), (None, 1));
    assert_eq!(bed.delivery_status(), ("waiting".to_owned(), Some("delivery-not-own-key".to_owned())));
    assert!(!bed.host.path("keys/deploy-cert.pub").exists());
    assert_eq!(bed.acknowledgement(id).await, None);
}

#[tokio::test]
async fn an_older_delivery_that_arrives_late_never_replaces_a_newer_one() {
    let mut bed = Bed::new().await;
    let older = bed.certificate("keys/deploy");
    let (_, block) = bed.deliver("deploy", Contents::SshCertificate { certificate: older.clone() }).await;
    let newer = bed.certificate("keys/deploy");
    assert_ne!(older, newer, "nonces differ");
    for file in std::fs::read_dir(bed.host.path("blocks")).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    bed.deliver("deploy", Contents::SshCertificate { certificate: newer.clone() }).await;
    let mut agent = bed.open();
    agent.cycle().await;
    assert_eq!(std::fs::read_to_string(bed.host.path("keys/deploy-cert.pub")).unwrap(), newer);
    bed.store.put(&block).unwrap();
    agent.cycle().await;
    assert_eq!(std::fs::read_to_string(bed.host.path("keys/deploy-cert.pub")).unwrap(), newer);
    assert!(bed.host.log.text().contains("reason=delivery-superseded"), "{}", bed.host.log.text());
}

#[tokio::test]
async fn an_older_delivery_that_arrives_after_the_state_was_lost_never_replaces_an_acknowledged_one() {
    let mut bed = Bed::new().await;
    let older = bed.certificate("keys/deploy");
    let (_, block) = bed.deliver("deploy", Contents::SshCertificate { certificate: older }).await;
    let newer = bed.certificate("keys/deploy");
    for file in std::fs::read_dir(bed.host.path("blocks")).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    let (id, _) = bed.deliver("deploy", Contents::SshCertificate { certificate: newer.clone() }).await;
    let mut agent = bed.open();
    agent.cycle().await;
    agent.finish_acknowledging().await;
    drop(agent);
    assert!(bed.acknowledgement(id).await.is_some());
    assert!(!bed.host.log.text().contains("reason=delivery-superseded"));

    std::fs::remove_file(bed.host.path("state/state")).unwrap();
    bed.store.put(&block).unwrap();
    bed.open().cycle().await;
    assert_eq!(std::fs::read_to_string(bed.host.path("keys/deploy-cert.pub")).unwrap(), newer);
    assert!(bed.host.log.text().contains("reason=delivery-superseded"), "{}", bed.host.log.text());
}

#[tokio::test]
async fn what_was_applied_is_written_down_before_anybody_hears_of_it() {
    let mut bed = Bed::new().await;
    let older = bed.certificate("keys/deploy");
    let (_, block) = bed.deliver("deploy", Contents::SshCertificate { certificate: older }).await;
    let newer = bed.certificate("keys/deploy");
    for file in std::fs::read_dir(bed.host.path("blocks")).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    bed.deliver("deploy", Contents::SshCertificate { certificate: newer.clone() }).await;
    // One cycle and a crash: nothing is flushed, and no acknowledgement leaves.
    let mut agent = bed.open();
    agent.cycle().await;
    drop(agent);
    for file in std::fs::read_dir(bed.host.path("blocks")).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    bed.store.put(&block).unwrap();
    bed.open().cycle().await;
    assert_eq!(std::fs::read_to_string(bed.host.path("keys/deploy-cert.pub")).unwrap(), newer);
    assert!(bed.host.log.text().contains("reason=delivery-superseded"), "{}", bed.host.log.text());
}

#[tokio::test]
async fn a_delivery_by_an_issuer_that_lost_its_role_is_not_received() {
    let mut bed = Bed::new().await;
    let certificate = bed.certificate("keys/deploy");
    std::fs::remove_file(bed.host.path("keys/deploy-cert.pub")).unwrap();
    bed.deliver("deploy", Contents::SshCertificate { certificate }).await;
    let role =
        Entry::RoleSet(payload::RoleSet { actor: bed.world.admin.address(), roles: 0, x25519: Default::default() });
    bed.world.by_roots(&[sign::write(shard::GOVERNANCE, &role)]).await;
    let outcome = bed.open().cycle().await;
    assert_eq!((outcome.failure, outcome.unfinished), (None, 0));
    assert!(!bed.host.path("keys/deploy-cert.pub").exists());
}

#[tokio::test]
async fn a_device_without_readable_keys_publishes_all_the_same_and_says_what_is_wrong() {
    let bed = Bed::new().await;
    std::fs::set_permissions(bed.host.path("x25519"), std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(bed.open().cycle().await.failure, None);
    assert!(bed.host.snapshot().login(b"alice").unwrap().is_some());
    assert!(
        bed.host.log.text().contains("reason=device-keys message=\"device: sealing-key: "),
        "{}",
        bed.host.log.text()
    );
}

#[tokio::test]
async fn a_device_that_cannot_pay_keeps_the_file_and_says_that_the_acknowledgement_failed() {
    let mut bed = Bed::new().await;
    let certificate = bed.certificate("keys/deploy");
    std::fs::remove_file(bed.host.path("keys/deploy-cert.pub")).unwrap();
    bed.world.anvil.call("anvil_setBalance", serde_json::json!([device_address(), "0x0"])).await;
    bed.deliver("deploy", Contents::SshCertificate { certificate: certificate.clone() }).await;
    let mut agent = bed.open();
    assert_eq!(agent.cycle().await.unfinished, 1);
    agent.finish_acknowledging().await;
    assert_eq!(agent.status().last_failure.as_ref().unwrap().reason, Reason::DeliveryAcknowledge);
    assert_eq!(std::fs::read_to_string(bed.host.path("keys/deploy-cert.pub")).unwrap(), certificate);
    agent.cycle().await;
    assert_eq!(bed.delivery_status(), ("applied".to_owned(), Some("delivery-acknowledge".to_owned())));
}

const FLEET: &str = "\
[device]
ledger-key = \"ROOT/ledger.json\"
ledger-password-file = \"ROOT/ledger.password\"
sealing-key = \"ROOT/x25519\"
prekeys = 4
[[block-store]]
directory = \"ROOT/blocks\"
[[payload]]
name = \"token\"
kind = \"opaque-secret\"
path = \"ROOT/keys/token\"
reload = [\"/usr/bin/touch\", \"ROOT/reloaded\"]
[[payload]]
name = \"motd\"
kind = \"public-data\"
path = \"ROOT/keys/motd\"
mode = \"0644\"
";

impl Bed {
    /// Logs an envelope with a secret for the device, or for somebody else, sealed to `prekey` as well.
    async fn mail(&mut self, prekey: Option<PublicKey>, text: &str, for_us: bool) -> (Id, Vec<Vec<u8>>) {
        self.sent += 1;
        let r = [self.sent; 16];
        let id = sign::record_id(Kind::ENVELOPE, self.world.admin.address(), r);
        let kind = PayloadKind::OpaqueSecret;
        let binding = Binding { realm: self.world.pin.realm.0, delivery: id.0, kind };
        let contents = Contents::OpaqueSecret { secret: Zeroizing::new(text.as_bytes().to_vec()) };
        let sealed = seal_payload(&binding, &Payload::new("token", contents).unwrap()).unwrap();
        let address = if for_us { device_address().into_array() } else { [7; 20] };
        let one = Addressee { address, key: self.device.public(), prekey, item: &sealed.item };
        let envelope = seal_envelope(&binding, &self.world.admin_sealing, &[one]).unwrap();
        let blocks = [vec![sealed.block], envelope.pages.clone(), vec![envelope.index.clone()]].concat();
        for block in &blocks {
            self.store.put(block).unwrap();
        }
        let entry = Entry::Envelope(payload::Envelope {
            r: r.into(),
            payloadKind: kind.number(),
            index: envelope.index_digest().into(),
            payloadName: "token".into(),
        });
        self.world.append(shard::write_shard(Kind::ENVELOPE).unwrap(), &entry).await;
        (id, blocks)
    }

    fn prekey_files(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.host.path("state/prekeys")).unwrap();
        let mut names: Vec<String> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn usable_prekeys(&self, effective: &countersign_registry::Effective) -> Vec<PublicKey> {
        let published = effective.prekeys.get(&device_address()).into_iter().flatten();
        published.map(|prekey| PublicKey::from_bytes(prekey.key.0).unwrap()).collect()
    }
}

// row: D16 D22 D23
#[tokio::test]
async fn prekeys_are_published_used_once_replenished_and_dropped_after_a_restore() {
    let mut bed = Bed::with(FLEET).await;
    let data = payload::PublicData { r: [77; 16].into(), name: "motd".into(), data: b"hello".to_vec().into() };
    bed.world.append(shard::write_shard(Kind::PUBLIC_DATA).unwrap(), &Entry::PublicData(data)).await;
    let once = async |bed: &Bed| {
        let outcome = run::once(bed.host.config(), bed.host.log.log(), bed.host.shift.clocks()).await.unwrap();
        assert_eq!((outcome.failure, outcome.unfinished), (None, 0), "{}", bed.host.log.text());
    };
    once(&bed).await;
    assert_eq!(std::fs::read_to_string(bed.host.path("keys/motd")).unwrap(), "hello");
    assert_eq!(std::fs::metadata(bed.host.path("keys/motd")).unwrap().mode() & 0o777, 0o644);
    let published = bed.usable_prekeys(&effective(&bed.world, 3600).await);
    assert_eq!(published.len(), 4);

    // A crash that left a prekey half made holds nothing up.
    let half_made = bed.host.path(&format!("state/prekeys/{:010}-{}.made", 1_900_000_000, "0a".repeat(16)));
    std::fs::write(&half_made, "countersign-x25519-secret-v1 0a").unwrap();
    std::fs::set_permissions(&half_made, std::fs::Permissions::from_mode(0o600)).unwrap();

    // A backup of the disk, from before anything was used.
    let backup = bed.host.path("backup");
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        let status = Command::new("cp").arg("-aT").args([from, to]).status().unwrap();
        assert!(status.success());
    };
    let state = bed.host.path("state");
    once(&bed).await;
    assert!(!half_made.exists());
    copy(&state, &backup);

    // Three are used: each payload is there, its prekey's secret is gone, and it is acknowledged; one for others changes nothing.
    bed.mail(None, "not ours", false).await;
    for (number, prekey) in published.iter().take(3).enumerate() {
        let (id, _) = bed.mail(Some(*prekey), &format!("secret {number}"), true).await;
        once(&bed).await;
        assert_eq!(std::fs::read_to_string(bed.host.path("keys/token")).unwrap(), format!("secret {number}"));
        let effective = effective(&bed.world, 3600).await;
        assert!(effective.envelope_acknowledgements[&id].contains_key(&device_address()));
    }
    assert!(bed.host.path("reloaded").exists());
    assert_eq!(bed.prekey_files().iter().filter(|name| name.ends_with(".used")).count(), 3);
    // One was left, which is fewer than half of four: three more are on the ledger.
    assert_eq!(bed.usable_prekeys(&effective(&bed.world, 3600).await).len(), 4 + 3);
    assert_eq!(bed.prekey_files().iter().filter(|name| !name.ends_with(".used")).count(), 4);

    // Used again: refused as such, and the file stays as it is.
    let (_, _) = bed.mail(Some(published[0]), "again", true).await;
    bed.world.anvil.mine(3).await;
    let mut agent = bed.open();
    assert_eq!(agent.cycle().await.failure, None);
    assert_eq!(bed.delivery_status(), ("refused".to_owned(), Some("delivery-prekey-used".to_owned())));
    assert_eq!(std::fs::read_to_string(bed.host.path("keys/token")).unwrap(), "secret 2");
    drop(agent);

    // The disk is put back: its prekeys are unused as far as it knows, and all are dropped, here and on the ledger.
    std::fs::remove_dir_all(&state).unwrap();
    copy(&backup, &state);
    let mut agent = bed.open();
    agent.cycle().await;
    agent.finish_publishing_prekeys().await;
    agent.cycle().await;
    drop(agent);
    assert_eq!(bed.host.log.text().matches("event=prekeys-dropped").count(), 1, "{}", bed.host.log.text());
    let now = bed.usable_prekeys(&effective(&bed.world, 3600).await);
    assert_eq!(now.len(), 4);
    assert!(now.iter().all(|prekey| !published.contains(prekey)), "none of the old ones is offered");
}

#[tokio::test]
async fn an_envelope_that_is_refused_for_good_ends_its_prekey_and_is_not_acknowledged_after_all() {
    let mut bed = Bed::with(FLEET).await;
    run::once(bed.host.config(), bed.host.log.log(), bed.host.shift.clocks()).await.unwrap();
    let published = bed.usable_prekeys(&effective(&bed.world, 3600).await);
    let (older, blocks) = bed.mail(Some(published[0]), "older", true).await;
    for file in std::fs::read_dir(bed.host.path("blocks")).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    bed.mail(None, "newer", true).await;
    bed.world.anvil.mine(3).await;
    let mut agent = bed.open();
    agent.cycle().await;
    agent.finish_acknowledging().await;
    let used = |bed: &Bed| bed.prekey_files().iter().filter(|name| name.ends_with(".used")).count();
    assert_eq!(used(&bed), 0);
    for block in blocks {
        bed.store.put(&block).unwrap();
    }
    agent.cycle().await;
    drop(agent);
    assert!(bed.host.log.text().contains("reason=delivery-superseded"), "{}", bed.host.log.text());
    assert_eq!((used(&bed), bed.prekey_files().len()), (1, 4), "{:?}", bed.prekey_files());

    // Where the state that knows is lost, the mark tells that it was refused.
    std::fs::remove_file(bed.host.path("state/state")).unwrap();
    let mut agent = bed.open();
    agent.cycle().await;
    agent.finish_acknowledging().await;
    assert_eq!(std::fs::read_to_string(bed.host.path("keys/token")).unwrap(), "newer");
    assert!(
        !effective(&bed.world, 3600).await.envelope_acknowledgements.contains_key(&older),
        "{}",
        bed.host.log.text()
    );
}

#[tokio::test]
async fn an_envelope_whose_prekey_is_gone_counts_as_applied_before_an_older_one_is_tried() {
    let mut bed = Bed::with(FLEET).await;
    run::once(bed.host.config(), bed.host.log.log(), bed.host.shift.clocks()).await.unwrap();
    let published = bed.usable_prekeys(&effective(&bed.world, 3600).await);
    let (_, blocks) = bed.mail(None, "older", true).await;
    for file in std::fs::read_dir(bed.host.path("blocks")).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    let (newer, _) = bed.mail(Some(published[0]), "newer", true).await;
    // Applied, and then a crash in which the state is lost, before anybody heard of it.
    let mut agent = bed.open();
    agent.cycle().await;
    drop(agent);
    assert!(!effective(&bed.world, 3600).await.envelope_acknowledgements.contains_key(&newer));
    std::fs::remove_file(bed.host.path("state/state")).unwrap();
    for block in blocks {
        bed.store.put(&block).unwrap();
    }
    let mut agent = bed.open();
    agent.cycle().await;
    agent.finish_acknowledging().await;
    assert_eq!(std::fs::read_to_string(bed.host.path("keys/token")).unwrap(), "newer", "{}", bed.host.log.text());
    assert!(bed.host.log.text().contains("reason=delivery-superseded"), "{}", bed.host.log.text());
    assert!(effective(&bed.world, 3600).await.envelope_acknowledgements[&newer].contains_key(&device_address()));
}
