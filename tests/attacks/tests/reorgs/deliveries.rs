//! A delivery and its acknowledgement, reorged out together and one by one: what was applied stays applied, nothing is applied twice
//! where it stands, and the sender learns in the end.

use std::{os::unix::fs::MetadataExt, process::Command};

use attacks::{
    cast::{Cast, Post, Who},
    world::{DEVICE_KEY, HostFiles, write_private},
};
use countersign_chain::keys::ActorKey;
use countersign_delivery::{Contents, Context, DirectoryStore, Payload, SecretKey, seal};
use countersign_registry::entries::{Entry, Kind, payload};
use countersign_registry::sign;
use serde_json::Value;
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
path = \"ROOT/deploy\"
key-pairs = true
";

struct Device {
    cast: Cast,
    post: Post,
    delivery: Entry,
}

impl Device {
    /// A device that can be delivered to, and what will be.
    async fn new() -> Self {
        let cast = Cast::new().await;
        let host = HostFiles::new(&cast.world, cast.ids.host, DEVICE);
        let sealing = SecretKey::generate().unwrap();
        sealing.create_file(&host.path("x25519")).unwrap();
        ActorKey::from_hex(DEVICE_KEY).unwrap().store(&host.path("ledger.json"), "correct horse").unwrap();
        write_private(&host.path("ledger.password"), "correct horse\n");
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "x", "-f"])
            .arg(host.path("made"))
            .status()
            .expect("ssh-keygen is needed: run .ci/tools");
        assert!(made.success());
        let device = cast.address(Who::Device);
        let member = Entry::MemberSet(payload::MemberSet {
            actor: device,
            member: true,
            subject: cast.ids.alice.0.into(),
            x25519: sealing.public().to_bytes().into(),
        });
        cast.put(Who::Admin, &member).await;
        cast.world.anvil.finalize().await;

        let private_key = Zeroizing::new(std::fs::read_to_string(host.path("made")).unwrap());
        let contents = Contents::SshKeyPair { private_key, certificate: None };
        let kind = contents.kind();
        let id = sign::record_id(Kind::DELIVERY, cast.address(Who::Admin), [1; 16]);
        let realm = cast.world.pin.realm.0;
        let context = Context { realm, delivery: id.0, recipient: device.into_array(), kind };
        let payload = Payload::new("deploy", contents).unwrap();
        let sealed = seal(&context, &cast.world.admin_sealing, &sealing.public(), &payload).unwrap();
        DirectoryStore::open(&host.path("blocks")).unwrap().put(&sealed.block).unwrap();
        let delivery = Entry::Delivery(payload::Delivery {
            r: [1; 16].into(),
            recipient: device,
            payloadName: "deploy".into(),
            payloadKind: kind.number(),
            digest: sealed.digest.into(),
            sealedCid: sealed.sealed_cid.into(),
        });
        let post = Post::of(&cast, host).await;
        Self { cast, post, delivery }
    }

    /// A cycle, and the acknowledgement that it may have begun.
    async fn cycle(&mut self, what: &str) {
        self.post.cycle(&self.cast, what).await;
        self.post.agent.as_mut().unwrap().finish_acknowledging().await;
    }

    /// The stage that the status shows; none if it knows of no delivery.
    async fn stage(&mut self, what: &str) -> Option<String> {
        self.post.cycle(&self.cast, what).await;
        let status = self.post.host.status();
        let stage =
            status.get("deliveries").and_then(|deliveries| deliveries.get(0)).and_then(|last| last.get("stage"));
        stage.and_then(Value::as_str).map(str::to_owned)
    }

    /// Some cycles later, the delivery is acknowledged: after a crash, the agent finds out first that it is not.
    async fn is_acknowledged_in_the_end(&mut self, what: &str) {
        for _ in 0..4 {
            self.cycle(what).await;
        }
        assert_eq!(self.stage(what).await.as_deref(), Some("acknowledged"), "{what}: {}", self.post.host.log.text());
    }

    fn times(&self, event: &str) -> usize {
        self.post.host.log.text().matches(event).count()
    }
}

#[tokio::test]
async fn a_delivery_and_its_acknowledgement_that_a_reorg_took_back_are_made_good_once_they_can_be() {
    let mut device = Device::new().await;
    assert_eq!(device.stage("nothing").await, None);
    device.cast.put(Who::Admin, &device.delivery).await;
    device.cycle("delivered").await;
    let file = |device: &Device| std::fs::metadata(device.post.host.path("deploy")).unwrap().ino();
    let written = file(&device);
    assert_eq!(device.stage("acknowledged").await.as_deref(), Some("acknowledged"));
    assert_eq!((device.times("event=delivery-applied"), device.times("event=delivery-acknowledged")), (1, 1));

    // The acknowledgement alone.
    device.cast.reorg(1).await;
    assert_eq!(device.stage("the acknowledgement is gone").await.as_deref(), Some("applied"));
    device.post.restart();
    // It was tried a moment ago; the next time is a while later.
    device.cast.world.anvil.call("evm_increaseTime", serde_json::json!([1_000])).await;
    device.cast.world.anvil.mine(1).await;
    device.is_acknowledged_in_the_end("acknowledged again").await;
    assert_eq!((device.times("event=delivery-applied"), device.times("event=delivery-acknowledged")), (1, 2));
    assert_eq!(file(&device), written, "the file was not written again");

    // Both, as long as neither is final.
    let mut device = Device::new().await;
    device.cast.put(Who::Admin, &device.delivery).await;
    device.cycle("delivered").await;
    assert_eq!(device.stage("acknowledged").await.as_deref(), Some("acknowledged"));
    device.cast.reorg(2).await;
    assert_eq!(device.stage("both are gone").await, None, "no history has the delivery");
    device.post.restart();
    assert_eq!(device.stage("both are gone, restarted").await, None);
    assert!(device.post.host.path("deploy").exists(), "what was applied stays");
    device.cast.put_filler(Kind::DELIVERY).await;
    device.cast.put(Who::Admin, &device.delivery).await;
    device.is_acknowledged_in_the_end("re-included").await;
    device.cast.world.anvil.mine(5).await;
    assert_eq!(device.stage("final").await.as_deref(), Some("acknowledged"));
    let acknowledged = device.times("event=delivery-acknowledged");
    device.post.restart();
    device.cycle("final, restarted").await;
    assert_eq!(device.times("event=delivery-acknowledged"), acknowledged, "never twice");
}
