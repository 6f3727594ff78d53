//! The files of an sshd that reads plain ones, from a real ledger to what OpenSSH itself makes of them.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a bed that cannot be made is a failed test"
)]

mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use countersign_agent::agent::Agent;
use countersign_agent::reason::Reason;
use countersign_registry::entries::{Entry, Targets, payload};
use countersign_registry::{Id, shard, sign};
use serde_json::json;
use support::{HostFiles, World, key_lock};

const FILES: &str = "[plain-sshd]\nrevoked-keys = \"ROOT/ssh/revoked\"\nca-keys = \"ROOT/ssh/cas\"\n";

fn ssh_keygen(arguments: &[&str], files: &[&Path]) -> bool {
    let status = Command::new("ssh-keygen").args(arguments).args(files).output();
    status.expect("ssh-keygen is needed: run .ci/tools").status.success()
}

struct Bed {
    world: World,
    host: HostFiles,
    ca: Id,
    key: countersign_certificate::Fingerprint20,
}

impl Bed {
    /// A CA of the realm, two certificates by it (serials 7 and 8), and `alice.pub`, which the ledger knows.
    async fn new() -> Self {
        let world = World::new().await;
        let records = world.populate().await;
        let host = HostFiles::new(&world, records.host, FILES);
        std::fs::create_dir(host.path("ssh")).unwrap();
        std::fs::write(host.path("alice.pub"), support::ALICE_KEY).unwrap();
        for name in ["ca", "seven", "eight"] {
            assert!(ssh_keygen(&["-q", "-t", "ed25519", "-N", "", "-f"], &[&host.path(name)]));
        }
        for (name, serial) in [("seven", "7"), ("eight", "8")] {
            let ca = host.path("ca");
            let options = ["-q", "-I", name, "-n", "deploy", "-V", "+1h", "-z", serial, "-s"];
            assert!(ssh_keygen(&options, &[&ca, &host.path(&format!("{name}.pub"))]));
        }
        let blob = ssh_key::PublicKey::from_openssh(&std::fs::read_to_string(host.path("ca.pub")).unwrap()).unwrap();
        let add = Entry::CaAdd(payload::CaAdd {
            r: [8; 16].into(),
            purpose: 1,
            name: "users".into(),
            publicKey: blob.to_bytes().unwrap().into(),
            maxTtl: 3600,
            logins: Vec::new(),
            issuers: vec![world.admin.address()],
        });
        world.by_roots(&[sign::write(shard::GOVERNANCE, &add)]).await;
        world.anvil.mine(3).await;
        let ca = support::effective(&world, 0).await.cas.keys().next().copied().unwrap();
        Self { world, host, ca, key: records.key }
    }

    /// What `ssh-keygen -Q` says of a certificate or key.
    fn is_revoked(&self, name: &str) -> bool {
        let list = self.host.path("ssh/revoked");
        let output =
            Command::new("ssh-keygen").arg("-Q").arg("-f").arg(list).arg(self.host.path(name)).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        match output.status.code() {
            Some(0) => false,
            Some(1) if said.contains("REVOKED") => true,
            _ => panic!("{said}{}", String::from_utf8_lossy(&output.stderr)),
        }
    }

    /// What the list of CAs holds, as OpenSSH reads it.
    fn cas(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.host.path("ssh/cas")).unwrap();
        text.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
    }

    fn ca_line(&self) -> String {
        let text = std::fs::read_to_string(self.host.path("ca.pub")).unwrap();
        text.split(' ').take(2).collect::<Vec<_>>().join(" ")
    }

    fn inodes(&self) -> [u64; 2] {
        ["ssh/revoked", "ssh/cas"].map(|name| std::fs::metadata(self.host.path(name)).unwrap().ino())
    }

    async fn revoke(&self, serials: &[u64]) {
        let now = self.world.latest_time().await;
        let revoked = Entry::CertRevoke { ca: self.ca, serials: serials.to_vec() };
        self.world.append(shard::revocation_shard(now, now), &revoked).await;
    }

    async fn cycle(&self, agent: &mut Agent) {
        assert_eq!(agent.cycle().await.failure, None, "{}", self.host.log.text());
    }

    async fn pass(&self, seconds: u64) {
        self.world.anvil.call("evm_increaseTime", json!([seconds])).await;
        self.world.anvil.mine(3).await;
    }
}

#[tokio::test]
async fn what_is_denied_on_the_ledger_is_denied_by_the_lists_of_a_plain_sshd_and_no_failure_adds_a_ca() {
    let bed = Bed::new().await;
    let mut agent = bed.host.open();
    bed.cycle(&mut agent).await;
    assert_eq!(bed.cas(), [bed.ca_line()]);
    assert!(["seven-cert.pub", "eight-cert.pub", "alice.pub"].iter().all(|name| !bed.is_revoked(name)));
    let mode = std::fs::metadata(bed.host.path("ssh/cas")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);

    // Nothing new: the files stay. Changed by somebody else: they are put right.
    let before = bed.inodes();
    bed.pass(1).await;
    bed.cycle(&mut agent).await;
    assert_eq!(bed.inodes(), before, "not written again");
    std::fs::write(bed.host.path("ssh/cas"), "no key at all\n").unwrap();
    std::fs::remove_file(bed.host.path("ssh/revoked")).unwrap();
    bed.cycle(&mut agent).await;
    assert_eq!(bed.cas(), [bed.ca_line()]);
    assert!(!bed.is_revoked("seven-cert.pub"));

    // A serial, a serial that sshd knows as none, and a key.
    bed.revoke(&[0, 7]).await;
    bed.world.append(shard::DENIALS, &key_lock(bed.key)).await;
    bed.cycle(&mut agent).await;
    assert!(bed.is_revoked("seven-cert.pub") && bed.is_revoked("alice.pub"));
    assert!(!bed.is_revoked("eight-cert.pub") && !bed.is_revoked("seven.pub"));

    // Where revocations cannot be written the snapshot is published, it is told, and a CA that is locked goes all the same.
    std::fs::remove_file(bed.host.path("ssh/revoked")).unwrap();
    std::fs::create_dir(bed.host.path("ssh/revoked")).unwrap();
    bed.world.append(shard::DENIALS, &Entry::Lock(Targets::Cas(vec![bed.ca]))).await;
    let failure = agent.cycle().await.failure.expect("a directory stands in its place");
    assert_eq!(failure.reason, Reason::PlainSshdFailed, "{failure}");
    let snapshot = bed.host.snapshot();
    assert_eq!(snapshot.facts().latest_block.number, bed.world.latest_number().await);
    assert_eq!(bed.cas(), [""; 0], "the CA is locked");
    std::fs::remove_dir(bed.host.path("ssh/revoked")).unwrap();
    bed.cycle(&mut agent).await;
    assert_eq!(bed.cas(), [""; 0]);
    assert!(bed.is_revoked("eight-cert.pub"), "its key is denied as a CA's");
}

#[tokio::test]
async fn a_list_of_cas_ends_though_snapshots_go_on_where_revocations_cannot_be_written() {
    let bed = Bed::new().await;
    let mut agent = bed.host.open();
    bed.cycle(&mut agent).await;
    std::fs::remove_file(bed.host.path("ssh/revoked")).unwrap();
    std::fs::create_dir(bed.host.path("ssh/revoked")).unwrap();
    bed.revoke(&[7]).await;
    assert_eq!(agent.cycle().await.failure.unwrap().reason, Reason::PlainSshdFailed);
    assert_eq!(bed.cas(), [bed.ca_line()], "for as long as a snapshot would count");

    bed.host.shift.set(400);
    bed.pass(400).await;
    assert_eq!(agent.cycle().await.failure.unwrap().reason, Reason::PlainSshdFailed, "{}", bed.host.log.text());
    assert_eq!(bed.host.snapshot().facts().latest_block.number, bed.world.latest_number().await);
    assert_eq!(bed.cas(), [""; 0], "what it was last true of is too old");
    std::fs::remove_dir(bed.host.path("ssh/revoked")).unwrap();
    bed.cycle(&mut agent).await;
    assert_eq!(bed.cas(), [bed.ca_line()]);
    assert!(bed.is_revoked("seven-cert.pub"));
}

#[tokio::test]
async fn without_news_the_list_of_cas_ends_when_the_snapshot_does_and_comes_back_with_them() {
    let bed = Bed::new().await;
    bed.revoke(&[7]).await;
    let mut agent = bed.host.open();
    bed.cycle(&mut agent).await;
    let first = bed.inodes();
    // Old, and not yet too old.
    bed.host.shift.set(200);
    bed.cycle(&mut agent).await;
    assert_eq!(bed.inodes(), first);

    bed.host.shift.set(400);
    let failure = agent.cycle().await.failure.expect("no block for 400 s");
    assert_eq!(failure.reason, Reason::BlockTooOld, "{failure}");
    assert_eq!(bed.cas(), [""; 0]);
    assert!(bed.host.log.text().contains("reason=plain-sshd-stale"), "{}", bed.host.log.text());
    assert!(bed.is_revoked("seven-cert.pub"), "revocations do not end");
    let told = bed.host.log.text().matches("plain-sshd-stale").count();
    agent.cycle().await;
    assert_eq!(bed.host.log.text().matches("plain-sshd-stale").count(), told, "told once");

    // Started again it is no younger.
    drop(agent);
    let mut agent = bed.host.open();
    agent.cycle().await;
    assert_eq!(bed.cas(), [""; 0]);
    bed.pass(400).await;
    bed.cycle(&mut agent).await;
    assert_eq!(bed.cas(), [bed.ca_line()]);
}
