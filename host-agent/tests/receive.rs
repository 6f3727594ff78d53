//! Receiving, against keys and certificates that ssh-keygen made and payloads that the delivery crate sealed: what passes is
//! written with the configured owner and mode, what does not leaves every file as it was, each with its own reason code.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::arithmetic_side_effects, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use alloy_primitives::{Address, B256, Bytes};
use countersign_agent::files::Ownership;
use countersign_agent::reason::Reason;
use countersign_agent::receive::{
    self, Found, KeyPairs, OutputRule, ReceiveError, Recipient, Sources, public_key_blob,
};
use countersign_certificate::Id;
use countersign_delivery::{
    Addressee, Binding, BlockCid, Contents, Context, DirectoryStore, Envelope, Payload, PayloadKind, Prekeys,
    PublicKey, SecretKey, seal, seal_envelope, seal_payload,
};
use countersign_registry::effective::{Keys, Settings};
use countersign_registry::entries::Roles;
use countersign_registry::realm::{Acknowledgement, Actor, Ca, CaLimits, CaPurpose, CaState, Delivery, EntryRef};
use countersign_registry::{BlockRef, Effective, Records};
use zeroize::Zeroizing;

const NOW: u64 = 1_800_000_000;
const DELIVERY: Id = Id([7; 16]);
const SENDER: Address = Address::repeat_byte(0xaa);
const DEVICE: Address = Address::repeat_byte(0xdd);

/// A device, a CA, a sender and a block store, all of them real files and keys.
struct Bed {
    directory: tempfile::TempDir,
    sender: SecretKey,
    device: SecretKey,
    store: DirectoryStore,
    effective: Effective,
    key_pairs: KeyPairs,
}

impl Bed {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        for name in ["ca", "other-ca", "own", "other"] {
            ssh_keygen(&["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"], &directory.path().join(name));
        }
        std::fs::create_dir(directory.path().join("keys")).unwrap();
        let store = DirectoryStore::open(&directory.path().join("blocks")).unwrap();
        let (sender, device) = (SecretKey::generate().unwrap(), SecretKey::generate().unwrap());
        let mut effective = empty();
        let actor = |roles, key: &SecretKey| {
            let x25519 = Some(B256::from(key.public().to_bytes()));
            Actor { roles, x25519, ..Actor::default() }
        };
        effective.actors.insert(SENDER, actor(Roles::ISSUER, &sender));
        effective.actors.insert(DEVICE, actor(Roles::MEMBER, &device));
        let ca = public_key_blob(&std::fs::read_to_string(directory.path().join("ca.pub")).unwrap()).unwrap();
        effective.cas.insert(
            Id([9; 16]),
            Ca {
                at: EntryRef::default(),
                state: CaState::Active,
                purpose: CaPurpose::User,
                name: "users".to_owned(),
                public_key: Bytes::from(ca),
                limits: CaLimits { max_ttl: 300, logins: None, issuers: BTreeSet::new() },
            },
        );
        let bed = Self { directory, sender, device, store, effective, key_pairs: KeyPairs::Replace };
        std::fs::copy(bed.path("own.pub"), bed.path("keys/deploy.pub")).unwrap();
        bed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// A certificate for `key` by `ca`, from 30 s before to `ttl` s after [`NOW`].
    fn certificate(&self, ca: &str, key: &str, ttl: u64) -> String {
        let validity = format!("{:#x}:{:#x}", NOW - 30, NOW + ttl);
        let ca = self.path(ca).display().to_string();
        let arguments = ["-q", "-s", &ca, "-I", "alice/1", "-n", "deploy", "-z", "5", "-V", &validity];
        ssh_keygen(&arguments, &self.path(&format!("{key}.pub")));
        self.read(&format!("{key}-cert.pub"))
    }

    /// Seals a payload, puts its block into the store and its entry into the realm.
    fn deliver(&mut self, name: &str, contents: Contents) {
        let kind = contents.kind();
        let payload = Payload::new(name, contents).unwrap();
        let sealed = seal(&self.context(kind), &self.sender, &self.device.public(), &payload).unwrap();
        assert_eq!(self.store.put(&sealed.block).unwrap(), sealed.cid);
        let delivery = Delivery {
            at: EntryRef { block: 5, shard: 6 << 32, index: 0, time: NOW },
            actor: SENDER,
            recipient: DEVICE,
            payload_name: name.to_owned(),
            payload_kind: kind.number(),
            digest: B256::from(sealed.digest),
            sealed_cid: Bytes::from(sealed.sealed_cid),
        };
        self.effective.deliveries.insert(DELIVERY, delivery);
    }

    fn context(&self, kind: PayloadKind) -> Context {
        Context { realm: self.effective.realm.0, delivery: DELIVERY.0, recipient: DEVICE.into_array(), kind }
    }

    fn rule(&self) -> OutputRule {
        let ownership =
            Ownership { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw(), mode: 0o600 };
        OutputRule { path: self.path("keys/deploy"), ownership, key_pairs: self.key_pairs }
    }

    fn recipient(&self) -> Recipient<'_> {
        Recipient { address: DEVICE, sealing_key: &self.device }
    }

    /// The whole way of the one delivery that waits.
    fn receive(&self) -> Result<Vec<PathBuf>, ReceiveError> {
        self.recipient().check(&self.effective)?;
        let found = receive::waiting(&self.effective, DEVICE);
        let [(id, delivery)] = found.as_slice() else { panic!("expected one delivery, found {found:?}") };
        let payload = run(receive::open(&self.effective, *id, delivery, self.recipient(), &self.sources()))?;
        let rule = self.rule();
        let checked = receive::check(&self.effective, &payload, rule.own_key()?.as_deref(), NOW)?;
        receive::apply(&checked, &rule).and_then(receive::Applied::settle)
    }

    fn sources(&self) -> Sources {
        Sources::new(self.store.clone().into())
    }

    /// Seals `contents` into an envelope for the device (unless `others_only`) and nine others, and puts it into store and realm.
    fn mail(&mut self, id: Id, contents: Contents, prekey: Option<PublicKey>, others_only: bool) -> Envelope {
        let kind = contents.kind();
        let binding = Binding { realm: self.effective.realm.0, delivery: id.0, kind };
        let sealed = seal_payload(&binding, &Payload::new("deploy", contents).unwrap()).unwrap();
        let other = |number: u8| (Address::repeat_byte(number), SecretKey::generate().unwrap().public(), None);
        let mut recipients: Vec<(Address, PublicKey, Option<PublicKey>)> = (1..10).map(other).collect();
        if !others_only {
            recipients.push((DEVICE, self.device.public(), prekey));
        }
        let addressees: Vec<Addressee<'_>> = recipients
            .iter()
            .map(|(address, key, prekey)| Addressee {
                address: address.into_array(),
                key: *key,
                prekey: *prekey,
                item: &sealed.item,
            })
            .collect();
        let envelope = seal_envelope(&binding, &self.sender, &addressees).unwrap();
        self.store.put(&sealed.block).unwrap();
        self.post(id, kind, &envelope);
        envelope
    }

    fn post(&mut self, id: Id, kind: PayloadKind, envelope: &Envelope) {
        for block in envelope.pages.iter().chain([&envelope.index]) {
            self.store.put(block).unwrap();
        }
        let logged = countersign_registry::realm::Envelope {
            at: EntryRef { block: 5, shard: 6 << 32, index: 0, time: NOW },
            actor: SENDER,
            payload_name: "deploy".to_owned(),
            payload_kind: kind.number(),
            index: B256::from(envelope.index_digest()),
        };
        self.effective.envelopes.insert(id, logged);
    }

    fn look(&self, id: Id, prekeys: Option<&Prekeys>) -> Result<Found, ReceiveError> {
        let found = receive::envelopes(&self.effective, DEVICE);
        let (_, envelope) = found.iter().find(|(found, _)| *found == id).unwrap();
        run(receive::look(&self.effective, id, envelope, self.recipient(), prekeys, &self.sources(), NOW))
    }

    fn refused(&self) -> (Reason, String) {
        let before = self.keys();
        let error = self.receive().unwrap_err();
        assert_eq!(self.keys(), before, "a refused delivery must leave every file as it was");
        (error.reason(), error.to_string())
    }

    /// Names and contents of the files beside the device's key.
    fn keys(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        std::fs::read_dir(self.path("keys"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.clone(), std::fs::read(path).unwrap()))
            .collect()
    }

    fn ca(&mut self) -> &mut Ca {
        self.effective.cas.get_mut(&Id([9; 16])).unwrap()
    }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn ssh_keygen(arguments: &[&str], file: &Path) {
    let output = Command::new("ssh-keygen").args(arguments).arg(file).output();
    let output = output.expect("ssh-keygen is needed: run .ci/tools");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn empty() -> Effective {
    Effective {
        realm: B256::repeat_byte(1),
        legs: Vec::new(),
        final_block: BlockRef { number: 8, time: NOW },
        latest_block: BlockRef { number: 10, time: NOW },
        settings: Settings {
            require_logged: false,
            max_ttl: 86_400,
            countersign_quorum: 0,
            max_staleness: 300,
            directory_delay: 0,
            directory_quorum: 1,
            pickup: 600,
            uid_base: 1_900_000_000,
        },
        users: Records::default(),
        groups: BTreeMap::new(),
        group_members: BTreeSet::new(),
        hosts: Records::default(),
        keys: Keys::default(),
        grants: Records::default(),
        eclipsing: None,
        once_granted: Records::default(),
        origins: countersign_registry::origins::Origins::default(),
        once_labelled: BTreeMap::new(),
        cas: BTreeMap::new(),
        batches: BTreeMap::new(),
        requests: BTreeMap::new(),
        once_requested: Records::default(),
        approvals: BTreeMap::new(),
        refusals: BTreeMap::new(),
        locked_keys: BTreeSet::new(),
        revoked_keys: BTreeSet::new(),
        revoked_serials: BTreeMap::new(),
        locked_batches: BTreeSet::new(),
        actors: BTreeMap::new(),
        deliveries: BTreeMap::new(),
        acknowledgements: BTreeMap::new(),
        envelopes: BTreeMap::new(),
        envelope_acknowledgements: BTreeMap::new(),
        prekeys: BTreeMap::new(),
        payload_names: BTreeMap::new(),
        public_data: BTreeMap::new(),
        removed: BTreeMap::new(),
        waiting: Vec::new(),
        ignored: Vec::new(),
        newest: None,
    }
}

// row: D10
#[test]
fn a_delivered_certificate_is_written_beside_the_devices_own_key() {
    let mut bed = Bed::new();
    let certificate = bed.certificate("ca", "own", 60);
    bed.deliver("deploy", Contents::SshCertificate { certificate: certificate.clone() });
    assert_eq!(bed.receive().unwrap(), [bed.path("keys/deploy-cert.pub")]);
    assert_eq!(bed.read("keys/deploy-cert.pub"), certificate);
    assert_eq!(std::fs::metadata(bed.path("keys/deploy-cert.pub")).unwrap().mode() & 0o7777, 0o600);
}

#[test]
fn a_public_key_whose_private_one_is_gone_is_told_and_never_certified_or_replaced() {
    let bed = Bed::new();
    let rule = OutputRule { path: bed.path("keys/made"), ..bed.rule() };
    assert!(rule.make_own_key("made").unwrap());
    assert!(!rule.make_own_key("made").unwrap());
    let public = bed.read("keys/made.pub");
    std::fs::remove_file(bed.path("keys/made")).unwrap();
    let gone = rule.make_own_key("made").unwrap_err().to_string();
    assert!(gone.contains("its public half is there and it is not"), "{gone}");
    assert!(!bed.path("keys/made").exists());
    assert_eq!(bed.read("keys/made.pub"), public);
    std::fs::remove_file(bed.path("keys/made.pub")).unwrap();
    assert!(rule.make_own_key("made").unwrap());
}

// row: D8 D26
#[test]
fn a_delivered_key_pair_is_written_0600_as_openssh_reads_it() {
    let mut bed = Bed::new();
    let certificate = bed.certificate("ca", "other", 60);
    let private_key = Zeroizing::new(bed.read("other"));
    bed.deliver("deploy", Contents::SshKeyPair { private_key, certificate: Some(certificate.clone()) });
    let expected = ["keys/deploy", "keys/deploy.pub", "keys/deploy-cert.pub"].map(|name| bed.path(name));
    assert_eq!(bed.receive().unwrap(), expected);
    assert_eq!(bed.read("keys/deploy"), bed.read("other"));
    assert_eq!(bed.read("keys/deploy.pub"), bed.read("other.pub"));
    assert_eq!(bed.read("keys/deploy-cert.pub"), certificate);
    for path in expected {
        assert_eq!(std::fs::metadata(path).unwrap().mode() & 0o7777, 0o600);
    }
    // ssh-keygen derives the same public key from what was written.
    let output = Command::new("ssh-keygen").arg("-y").arg("-f").arg(bed.path("keys/deploy")).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), bed.read("other.pub"));
}

#[test]
fn a_certificate_for_another_key_is_refused() {
    let mut bed = Bed::new();
    let certificate = bed.certificate("ca", "other", 60);
    bed.deliver("deploy", Contents::SshCertificate { certificate });
    let (reason, message) = bed.refused();
    assert_eq!(reason, Reason::DeliveryNotOwnKey);
    assert_eq!(message, "the certificate is for another key than this device's");
}

#[test]
fn a_certificate_without_a_key_of_the_devices_own_is_refused() {
    let mut bed = Bed::new();
    std::fs::remove_file(bed.path("keys/deploy.pub")).unwrap();
    let certificate = bed.certificate("ca", "own", 60);
    bed.deliver("deploy", Contents::SshCertificate { certificate });
    assert_eq!(bed.refused().0, Reason::DeliveryNotOwnKey);
}

#[test]
fn a_certificate_by_a_ca_that_the_ledger_does_not_list_is_refused() {
    let mut bed = Bed::new();
    let certificate = bed.certificate("other-ca", "own", 60);
    bed.deliver("deploy", Contents::SshCertificate { certificate });
    let (reason, message) = bed.refused();
    assert_eq!(reason, Reason::DeliveryCaUnknown);
    assert!(
        message.starts_with("certificate: its CA SHA256:") && message.ends_with("is not a CA of this realm"),
        "{message}"
    );
}

#[test]
fn a_certificate_by_a_locked_revoked_retired_or_host_ca_is_refused() {
    let mut bed = Bed::new();
    let certificate = bed.certificate("ca", "own", 60);
    bed.deliver("deploy", Contents::SshCertificate { certificate });
    for (state, purpose, problem) in [
        (CaState::Locked, CaPurpose::User, "is locked"),
        (CaState::Revoked, CaPurpose::User, "is revoked"),
        (CaState::Retired { at: NOW - 31 }, CaPurpose::User, "is retired, and the certificate is newer"),
        (CaState::Active, CaPurpose::Host, "is not a CA for user certificates"),
    ] {
        bed.ca().state = state;
        bed.ca().purpose = purpose;
        let (reason, message) = bed.refused();
        assert_eq!(reason, Reason::DeliveryCaUnknown);
        assert!(message.ends_with(problem), "{message}");
    }
    bed.ca().state = CaState::Retired { at: NOW };
    bed.ca().purpose = CaPurpose::User;
    bed.receive().unwrap();
}

#[test]
fn a_certificate_whose_signature_was_changed_is_refused() {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let mut bed = Bed::new();
    let certificate = bed.certificate("ca", "own", 60);
    let words: Vec<&str> = certificate.split(' ').collect();
    let mut blob = STANDARD.decode(words[1]).unwrap();
    *blob.last_mut().unwrap() ^= 1;
    let certificate = format!("{} {} x\n", words[0], STANDARD.encode(blob));
    bed.deliver("deploy", Contents::SshCertificate { certificate });
    assert_eq!(
        bed.refused(),
        (Reason::DeliveryCaSignature, "certificate: the CA's signature does not verify".to_owned())
    );
}

#[test]
fn a_certificate_beyond_the_cas_ttl_is_refused() {
    let mut bed = Bed::new();
    let certificate = bed.certificate("ca", "own", 301);
    bed.deliver("deploy", Contents::SshCertificate { certificate });
    assert_eq!(
        bed.refused(),
        (Reason::DeliveryCaSignature, "certificate: valid for longer than the CA's limit".to_owned())
    );
    let certificate = bed.certificate("ca", "own", 300);
    bed.deliver("deploy", Contents::SshCertificate { certificate });
    bed.receive().unwrap();
}

#[test]
fn an_expired_certificate_is_refused() {
    let mut bed = Bed::new();
    let certificate = bed.certificate("ca", "own", 0);
    bed.deliver("deploy", Contents::SshCertificate { certificate });
    assert_eq!(bed.refused(), (Reason::DeliveryExpired, format!("certificate: expired at {NOW}, now is {NOW}")));
}

#[test]
fn a_host_certificate_is_refused_where_a_user_certificate_is_due() {
    let mut bed = Bed::new();
    let ca = bed.path("ca").display().to_string();
    ssh_keygen(&["-q", "-s", &ca, "-h", "-I", "x", "-n", "web1", "-V", "+1m"], &bed.path("own.pub"));
    let certificate = bed.read("own-cert.pub");
    bed.deliver("deploy", Contents::SshCertificate { certificate });
    assert_eq!(bed.refused().0, Reason::DeliveryMalformed);
}

#[test]
fn a_key_pair_whose_certificate_is_for_another_key_is_refused() {
    let mut bed = Bed::new();
    let certificate = bed.certificate("ca", "own", 60);
    let private_key = Zeroizing::new(bed.read("other"));
    bed.deliver("deploy", Contents::SshKeyPair { private_key, certificate: Some(certificate) });
    assert_eq!(bed.refused().0, Reason::DeliveryNotOwnKey);
}

#[test]
fn a_private_key_that_does_not_parse_is_refused() {
    let mut bed = Bed::new();
    let key = bed.read("other");
    let middle = key.len() / 2;
    let spoiled =
        format!("{}{}{}", &key[..middle], if &key[middle..=middle] == "A" { "B" } else { "A" }, &key[middle + 1..]);
    bed.deliver("deploy", Contents::SshKeyPair { private_key: Zeroizing::new(spoiled), certificate: None });
    assert_eq!(bed.refused().0, Reason::DeliveryMalformed);
}

#[test]
fn a_missing_or_altered_block_is_refused_and_may_be_tried_again() {
    let mut bed = Bed::new();
    let certificate = bed.certificate("ca", "own", 60);
    bed.deliver("deploy", Contents::SshCertificate { certificate });
    let block = std::fs::read_dir(bed.path("blocks")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&block).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&block, &bytes).unwrap();
    assert_eq!(bed.refused().0, Reason::DeliveryBlockMissing);
    std::fs::remove_file(&block).unwrap();
    assert_eq!(bed.refused().0, Reason::DeliveryBlockMissing);
    assert!(!bed.receive().unwrap_err().is_final());
    bytes[100] ^= 1;
    std::fs::write(&block, &bytes).unwrap();
    bed.receive().unwrap();
}

#[test]
fn a_delivery_with_another_digest_name_or_sender_on_the_ledger_is_refused() {
    let mut bed = Bed::new();
    let certificate = bed.certificate("ca", "own", 60);
    bed.deliver("deploy", Contents::SshCertificate { certificate });
    let good = bed.effective.deliveries[&DELIVERY].clone();
    let mut change = |change: fn(&mut Delivery)| {
        let mut changed = good.clone();
        change(&mut changed);
        bed.effective.deliveries.insert(DELIVERY, changed);
        bed.refused().0
    };
    // The digest is bound into the sealed CID, so a changed one already keeps that from opening.
    assert_eq!(change(|delivery| delivery.digest = B256::ZERO), Reason::DeliveryCid);
    assert_eq!(change(|delivery| delivery.payload_name = "backup".to_owned()), Reason::DeliveryDigest);
    assert_eq!(change(|delivery| delivery.payload_kind = 2), Reason::DeliveryCid);
    assert_eq!(change(|delivery| delivery.payload_kind = 9), Reason::DeliveryKind);
    assert_eq!(change(|delivery| delivery.actor = Address::ZERO), Reason::DeliverySender);
    // A member is no sender, whatever it sealed.
    assert_eq!(change(|delivery| delivery.actor = DEVICE), Reason::DeliverySender);
}

#[test]
fn a_delivery_to_another_device_or_already_acknowledged_is_not_even_found() {
    let mut bed = Bed::new();
    let certificate = bed.certificate("ca", "own", 60);
    bed.deliver("deploy", Contents::SshCertificate { certificate });
    assert_eq!(receive::waiting(&bed.effective, Address::ZERO), []);
    assert_eq!(receive::waiting(&bed.effective, DEVICE).len(), 1);
    let acknowledgement = Acknowledgement { at: EntryRef::default(), actor: DEVICE, digest: B256::ZERO };
    bed.effective.acknowledgements.insert(DELIVERY, acknowledgement);
    assert_eq!(receive::waiting(&bed.effective, DEVICE), []);
}

#[test]
fn a_device_that_the_realm_knows_by_other_keys_is_told_so() {
    let mut bed = Bed::new();
    bed.effective.actors.get_mut(&DEVICE).unwrap().x25519 = Some(B256::repeat_byte(9));
    let error = bed.recipient().check(&bed.effective).unwrap_err();
    assert_eq!(error.reason(), Reason::DeviceUnknown);
    assert!(error.to_string().ends_with("listed with another sealing key than this device's"), "{error}");
    bed.effective.actors.remove(&DEVICE);
    assert!(bed.recipient().check(&bed.effective).unwrap_err().to_string().ends_with("not listed in the realm"));
}

#[test]
fn a_link_in_the_way_is_never_followed_out_of_the_configured_place() {
    let mut bed = Bed::new();
    let certificate = bed.certificate("ca", "own", 60);
    bed.deliver("deploy", Contents::SshCertificate { certificate: certificate.clone() });
    std::fs::write(bed.path("victim"), "untouched").unwrap();
    symlink(bed.path("victim"), bed.path("keys/deploy-cert.pub")).unwrap();
    bed.receive().unwrap();
    assert_eq!(bed.read("victim"), "untouched");
    assert_eq!(bed.read("keys/deploy-cert.pub"), certificate);

    std::fs::create_dir(bed.path("elsewhere")).unwrap();
    std::fs::copy(bed.path("own.pub"), bed.path("elsewhere/deploy.pub")).unwrap();
    std::fs::remove_dir_all(bed.path("keys")).unwrap();
    symlink(bed.path("elsewhere"), bed.path("keys")).unwrap();
    let error = bed.receive().unwrap_err();
    assert_eq!(error.reason(), Reason::DeliveryWrite);
    assert_eq!(
        error.to_string(),
        format!("{} is a symbolic link; expected the thing itself", bed.path("keys").display())
    );
    assert!(!bed.path("elsewhere/deploy-cert.pub").exists());
}

#[test]
fn a_directory_that_others_can_change_is_refused() {
    let mut bed = Bed::new();
    let certificate = bed.certificate("ca", "own", 60);
    bed.deliver("deploy", Contents::SshCertificate { certificate });
    std::fs::set_permissions(bed.path("keys"), std::fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(bed.refused().0, Reason::DeliveryWrite);
}

#[test]
fn a_key_pair_never_takes_the_place_of_the_devices_own_key_unless_it_may() {
    let mut bed = Bed::new();
    let private_key = Zeroizing::new(bed.read("other"));
    bed.deliver("deploy", Contents::SshKeyPair { private_key, certificate: None });
    std::fs::copy(bed.path("own"), bed.path("keys/deploy")).unwrap();
    bed.key_pairs = KeyPairs::Refused;
    let (reason, message) = bed.refused();
    assert_eq!(reason, Reason::DeliveryKeyPair);
    assert!(message.ends_with("keys/deploy: expected a certificate for the key that was made here"), "{message}");
    bed.key_pairs = KeyPairs::WhereNoneIs;
    assert_eq!(bed.refused().0, Reason::DeliveryKeyPair);
    // The public half alone says that there is a key: its private half may be in an agent or a token.
    std::fs::remove_file(bed.path("keys/deploy")).unwrap();
    assert_eq!(bed.refused().0, Reason::DeliveryKeyPair);
    std::fs::remove_file(bed.path("keys/deploy.pub")).unwrap();
    // So does a link to nowhere.
    symlink(bed.path("nowhere"), bed.path("keys/deploy")).unwrap();
    assert_eq!(bed.receive().unwrap_err().reason(), Reason::DeliveryKeyPair);
    std::fs::remove_file(bed.path("keys/deploy")).unwrap();
    bed.receive().unwrap();
    bed.key_pairs = KeyPairs::Refused;
    let certificate = bed.certificate("ca", "other", 60);
    bed.deliver("deploy", Contents::SshCertificate { certificate });
    bed.receive().unwrap();
}

#[test]
fn a_sender_without_its_role_or_locked_delivers_nothing_whatever_it_sealed() {
    let mut bed = Bed::new();
    let certificate = bed.certificate("ca", "own", 60);
    bed.deliver("deploy", Contents::SshCertificate { certificate });
    let others = Roles::WATCHDOG | Roles::APPROVER | Roles::REVOKER | Roles::MEMBER;
    for (roles, locked) in [(0, false), (others, false), (Roles::ISSUER, true)] {
        let sender = bed.effective.actors.get_mut(&SENDER).unwrap();
        (sender.roles, sender.locked) = (roles, locked);
        assert_eq!(bed.refused().0, Reason::DeliverySender, "{roles} {locked}");
    }
    let sender = bed.effective.actors.get_mut(&SENDER).unwrap();
    (sender.roles, sender.locked) = (Roles::ADMIN, false);
    bed.receive().unwrap();
}

#[test]
fn a_sealing_key_that_the_ledger_replaced_or_of_low_order_opens_nothing() {
    let mut bed = Bed::new();
    let certificate = bed.certificate("ca", "own", 60);
    bed.deliver("deploy", Contents::SshCertificate { certificate });
    let other = SecretKey::generate().unwrap().public().to_bytes();
    let mut one = [0; 32];
    one[0] = 1;
    for (key, reason) in
        [(other, Reason::DeliveryCid), ([0; 32], Reason::DeliverySender), (one, Reason::DeliverySender)]
    {
        bed.effective.actors.get_mut(&SENDER).unwrap().x25519 = Some(B256::from(key));
        assert_eq!(bed.refused().0, reason);
    }
}

#[test]
fn a_delivery_copied_under_another_id_or_realm_opens_for_nobody() {
    let mut bed = Bed::new();
    let certificate = bed.certificate("ca", "own", 60);
    bed.deliver("deploy", Contents::SshCertificate { certificate });
    let entry = bed.effective.deliveries.remove(&DELIVERY).unwrap();
    bed.effective.deliveries.insert(Id([8; 16]), entry.clone());
    assert_eq!(bed.refused().0, Reason::DeliveryCid);
    bed.effective.deliveries = BTreeMap::from([(DELIVERY, entry)]);
    let realm = std::mem::replace(&mut bed.effective.realm, B256::repeat_byte(2));
    assert_eq!(bed.refused().0, Reason::DeliveryCid);
    bed.effective.realm = realm;
    bed.receive().unwrap();
}

#[test]
fn a_sealed_cid_that_names_another_delivery_brings_nothing() {
    let mut bed = Bed::new();
    let certificate = bed.certificate("ca", "own", 60);
    bed.deliver("deploy", Contents::SshCertificate { certificate: certificate.clone() });
    let first = bed.effective.deliveries[&DELIVERY].clone();
    bed.deliver("deploy", Contents::SshCertificate { certificate });
    let second = bed.effective.deliveries[&DELIVERY].clone();
    // Both blocks are in the store, both CIDs are the sender's own: the digest ties each to its entry.
    let mixed = Delivery { sealed_cid: first.sealed_cid, ..second.clone() };
    bed.effective.deliveries.insert(DELIVERY, mixed);
    assert_eq!(bed.refused().0, Reason::DeliveryCid);
    bed.effective.deliveries.insert(DELIVERY, second);
    bed.receive().unwrap();
}

#[test]
fn a_certificate_for_the_cas_own_key_and_one_signed_by_a_certificate_are_refused() {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let mut bed = Bed::new();
    let certificate = bed.certificate("ca", "ca", 60);
    bed.deliver("deploy", Contents::SshCertificate { certificate });
    assert_eq!(bed.refused().0, Reason::DeliveryNotOwnKey);

    // The signature key of this one is no plain key but a certificate for the CA's own.
    let blob = |line: &str| STANDARD.decode(line.split(' ').nth(1).unwrap()).unwrap();
    let (good, intermediate) = (blob(&bed.certificate("ca", "own", 60)), blob(&bed.certificate("ca", "other-ca", 60)));
    let ca = public_key_blob(&bed.read("ca.pub")).unwrap();
    let at = good.windows(ca.len()).position(|window| window == ca).unwrap();
    let length = u32::try_from(intermediate.len()).unwrap().to_be_bytes();
    let spliced = [&good[..at - 4], &length[..], &intermediate, &good[at + ca.len()..]].concat();
    let certificate = format!("ssh-ed25519-cert-v01@openssh.com {} x\n", STANDARD.encode(spliced));
    bed.deliver("deploy", Contents::SshCertificate { certificate });
    assert_eq!(bed.refused().0, Reason::DeliveryMalformed);
}

fn secret() -> Contents {
    Contents::OpaqueSecret { secret: Zeroizing::new(b"hunter2".to_vec()) }
}

// row: D9 D16 D23 D25
#[test]
fn an_envelope_is_opened_by_its_recipient_and_is_nothing_to_anybody_else() {
    let mut bed = Bed::new();
    let (mine, others) = (Id([21; 16]), Id([22; 16]));
    bed.mail(mine, secret(), None, false);
    bed.mail(others, secret(), None, true);
    let Found::Payload(unsealed) = bed.look(mine, None).unwrap() else { panic!("it is for this device") };
    let checked = receive::check(&bed.effective, &unsealed.payload, None, NOW).unwrap();
    assert_eq!(receive::apply(&checked, &bed.rule()).unwrap().settle().unwrap(), [bed.path("keys/deploy")]);
    assert_eq!(bed.read("keys/deploy"), "hunter2");
    assert!(matches!(bed.look(others, None).unwrap(), Found::Nothing));

    // Once acknowledged by this device it is not found any more; another's acknowledgement does not hide it.
    let acknowledgement = |actor| Acknowledgement { at: EntryRef::default(), actor, digest: unsealed.digest };
    let stranger = Address::repeat_byte(1);
    bed.effective.envelope_acknowledgements.entry(mine).or_default().insert(stranger, acknowledgement(stranger));
    assert_eq!(receive::envelopes(&bed.effective, DEVICE).len(), 2);
    bed.effective.envelope_acknowledgements.entry(mine).or_default().insert(DEVICE, acknowledgement(DEVICE));
    assert_eq!(receive::envelopes(&bed.effective, DEVICE).len(), 1);
}

#[test]
fn an_attack_on_an_envelope_has_its_own_reason_and_opens_nothing() {
    let mut bed = Bed::new();
    let good = Id([21; 16]);
    let envelope = bed.mail(good, secret(), None, false);
    let kind = PayloadKind::OpaqueSecret;
    let reason = |bed: &Bed, id: Id| bed.look(id, None).unwrap_err().reason();

    // Replayed under another id: the device has no record there.
    let replayed = Id([23; 16]);
    bed.post(replayed, kind, &envelope);
    assert!(matches!(bed.look(replayed, None).unwrap(), Found::Nothing));

    // Posted again by an actor with another sealing key: no record either.
    let thief = SecretKey::generate().unwrap();
    let own_key = bed.effective.actors[&SENDER].x25519;
    bed.effective.actors.get_mut(&SENDER).unwrap().x25519 = Some(thief.public().to_bytes().into());
    assert!(matches!(bed.look(good, None).unwrap(), Found::Nothing));
    bed.effective.actors.get_mut(&SENDER).unwrap().x25519 = own_key;

    // A sender without the role, or locked.
    bed.effective.actors.get_mut(&SENDER).unwrap().roles = Roles::MEMBER;
    assert_eq!(reason(&bed, good), Reason::DeliverySender);
    bed.effective.actors.get_mut(&SENDER).unwrap().roles = Roles::ADMIN;
    bed.effective.actors.get_mut(&SENDER).unwrap().locked = true;
    assert_eq!(reason(&bed, good), Reason::DeliverySender);
    bed.effective.actors.get_mut(&SENDER).unwrap().locked = false;

    // Every record forged, in a page that the index names as it is now: the own one is found and does not open.
    let mut forged = envelope.clone();
    for record in forged.pages[0][1..].chunks_mut(countersign_delivery::RECORD_BYTES) {
        record[100] ^= 1;
    }
    let digest = BlockCid::of(&forged.pages[0]).unwrap().to_bytes();
    let end = forged.index.len();
    forged.index[end - 32..].copy_from_slice(&digest[4..]);
    let id = Id([21; 16]);
    bed.post(id, kind, &forged);
    assert_eq!(reason(&bed, id), Reason::DeliverySealed);

    // Two records under one tag.
    let mut twice = envelope.clone();
    let tag = twice.pages[0][1..17].to_vec();
    let second = 1 + countersign_delivery::RECORD_BYTES;
    twice.pages[0][second..second + 16].copy_from_slice(&tag);
    let digest = BlockCid::of(&twice.pages[0]).unwrap().to_bytes();
    twice.index[end - 32..].copy_from_slice(&digest[4..]);
    // The first tag of all must not be above the device's own, or there is no page to look at.
    twice.index[end - 48..end - 32].copy_from_slice(&tag);
    bed.post(id, kind, &twice);
    match bed.look(id, None) {
        Err(error) => assert_eq!(error.reason(), Reason::DeliveryEnvelope),
        Ok(found) => assert!(matches!(found, Found::Nothing)),
    }

    // An index that is none; blocks that are not there, or not what they are called.
    let mut cut = envelope.clone();
    cut.index.pop();
    bed.post(id, kind, &cut);
    assert_eq!(reason(&bed, id), Reason::DeliveryEnvelope);
    bed.post(id, kind, &envelope);
    let page = BlockCid::of(&envelope.pages[0]).unwrap();
    let file = bed.path("blocks").join(page.to_string());
    std::fs::write(&file, b"something else").unwrap();
    assert_eq!(reason(&bed, id), Reason::DeliveryBlockMissing);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(reason(&bed, id), Reason::DeliveryBlockMissing);
    bed.store.put(&envelope.pages[0]).unwrap();

    // Another kind or name on the ledger than in what was sealed.
    bed.effective.envelopes.get_mut(&id).unwrap().payload_kind = 9;
    assert_eq!(reason(&bed, id), Reason::DeliveryKind);
    bed.effective.envelopes.get_mut(&id).unwrap().payload_kind = kind.number();
    bed.effective.envelopes.get_mut(&id).unwrap().payload_name = "other".to_owned();
    assert_eq!(reason(&bed, id), Reason::DeliveryDigest);
    bed.effective.envelopes.get_mut(&id).unwrap().payload_name = "deploy".to_owned();
    assert!(matches!(bed.look(id, None).unwrap(), Found::Payload(_)));
}

#[test]
fn a_prekey_opens_one_delivery_once_and_what_comes_after_is_refused_as_such() {
    let mut bed = Bed::new();
    let prekeys = Prekeys::open(&bed.path("prekeys"), bed.effective.realm.0, DEVICE.into_array()).unwrap();
    let public = prekeys.make(1, NOW).unwrap()[0];
    let (first, second) = (Id([21; 16]), Id([22; 16]));
    bed.mail(first, secret(), Some(public), false);
    bed.mail(second, secret(), Some(public), false);

    assert_eq!(bed.look(first, None).unwrap_err().reason(), Reason::DeliveryPrekeyUnknown, "without its prekeys");
    let Found::Payload(unsealed) = bed.look(first, Some(&prekeys)).unwrap() else { panic!("it is for this device") };
    prekeys.end(unsealed.prekey.unwrap(), first.0, &unsealed.digest.0).unwrap();
    // A crash before the acknowledgement: it is done, and what to acknowledge is still known.
    assert!(matches!(bed.look(first, Some(&prekeys)).unwrap(), Found::Done(digest) if digest == unsealed.digest));
    let used = bed.look(second, Some(&prekeys)).unwrap_err();
    assert_eq!(used.reason(), Reason::DeliveryPrekeyUsed);
    assert!(used.is_final() && used.to_string().contains(&format!("was used for delivery {first}")), "{used}");

    let dropped = prekeys.make(1, NOW).unwrap()[0];
    bed.mail(Id([23; 16]), secret(), Some(dropped), false);
    prekeys.drop_all().unwrap();
    assert_eq!(bed.look(Id([23; 16]), Some(&prekeys)).unwrap_err().reason(), Reason::DeliveryPrekeyUnknown);
}

fn openssl(arguments: &[&str], directory: &Path) {
    let output = Command::new("openssl").args(arguments).current_dir(directory).output();
    let output = output.expect("openssl is needed: run .ci/tools");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

// row: D16
#[test]
fn an_x509_pair_is_written_only_if_key_and_chain_belong_together() {
    let mut bed = Bed::new();
    let directory = bed.directory.path().to_owned();
    let make = |name: &str, more: &[&str]| {
        let (key, certificate) = (format!("{name}.key"), format!("{name}.crt"));
        let subject = format!("/CN={name}");
        let mut arguments = vec!["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        arguments.extend(["-keyout", &key, "-out", &certificate, "-subj", &subject, "-days", "3650"]);
        arguments.extend_from_slice(more);
        openssl(&arguments, &directory);
    };
    make("root", &[]);
    make("www", &["-CA", "root.crt", "-CAkey", "root.key"]);
    make("stranger", &[]);
    let (root, www, stranger) = (bed.read("root.crt"), bed.read("www.crt"), bed.read("stranger.crt"));
    let pair = |private_key: String, chain: String| Contents::X509KeyPair { private_key: private_key.into(), chain };
    let check = |contents: Contents, now: u64| {
        receive::check(&bed.effective, &Payload::new("www", contents).unwrap(), None, now)
    };
    let key = bed.read("www.key");
    let real = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();

    let checked = check(pair(key.clone(), format!("{www}{root}")), real).unwrap();
    assert!(checked.valid_before.unwrap() > real + 3600 * 24 * 3649);
    let rule = OutputRule { path: bed.path("keys/www"), ..bed.rule() };
    assert_eq!(
        receive::apply(&checked, &rule).unwrap().settle().unwrap(),
        [bed.path("keys/www.key"), bed.path("keys/www.crt")]
    );
    assert_eq!(bed.read("keys/www.key"), key);
    check(pair(key.clone(), www.clone()), real).unwrap();

    for (contents, reason) in [
        (pair(bed.read("stranger.key"), www.clone()), Reason::DeliveryX509),
        (pair(key.clone(), format!("{www}{stranger}")), Reason::DeliveryX509),
        (pair(key.clone(), format!("{root}{www}")), Reason::DeliveryX509),
        (pair(format!("{key}{key}"), www.clone()), Reason::DeliveryMalformed),
        (pair(key.clone(), www.repeat(11)), Reason::DeliveryMalformed),
        (pair(key.clone(), www.replacen("MII", "MIJ", 1)), Reason::DeliveryMalformed),
    ] {
        assert_eq!(check(contents, real).unwrap_err().reason(), reason);
    }
    assert_eq!(check(pair(key, www), real + 3700 * 86_400).unwrap_err().reason(), Reason::DeliveryExpired);
    bed.effective.cas.clear();
}

#[test]
fn a_host_certificate_is_taken_from_a_host_ca_for_the_hosts_own_key_alone() {
    let mut bed = Bed::new();
    let ca = bed.path("ca").display().to_string();
    let validity = format!("{:#x}:{:#x}", NOW - 30, NOW + 60);
    let certify = |key: &str| {
        let arguments = ["-q", "-s", &ca, "-h", "-I", "web1", "-n", "web1", "-V", &validity];
        ssh_keygen(&arguments, &bed.path(&format!("{key}.pub")));
        Contents::HostCertificate { certificate: bed.read(&format!("{key}-cert.pub")) }
    };
    let (own, other) = (certify("own"), certify("other"));
    bed.deliver("deploy", own.clone());
    assert_eq!(bed.refused().0, Reason::DeliveryCaUnknown, "the CA is for users");
    bed.ca().purpose = CaPurpose::Host;
    assert_eq!(bed.receive().unwrap(), [bed.path("keys/deploy-cert.pub")]);
    bed.deliver("deploy", other);
    assert_eq!(bed.refused().0, Reason::DeliveryNotOwnKey);
    let user = bed.certificate("ca", "own", 60);
    bed.deliver("deploy", Contents::HostCertificate { certificate: user });
    assert_eq!(bed.refused().0, Reason::DeliveryMalformed);
}
