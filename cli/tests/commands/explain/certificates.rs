//! The entries behind what is said about certificates, and behind each sort of denial that may end one.

use std::collections::BTreeMap;

use base64ct::{Base64, Encoding as _};
use countersign_certificate::{CertType, LogProof, RealmId, Scope, Target, insert_log_proof, leaf_hash, merkle};
use countersign_issuer::wire::{CertificateFields, with_signature};
use countersign_registry::entries::{Entry, Kind, Roles, Targets, payload};
use countersign_registry::realm::EntryRef;
use countersign_registry::{Address, B256, Bytes, Id, shard, sign};
use serde_json::{Value, json};

use super::{Cast, REALM, cast, explain_line, key_blob, source};
use crate::bed::documented;

const ISSUER: Address = Address::repeat_byte(0x15);
const SERIAL: u64 = 0xfedc_ba98_7654_3210;

/// What [`cast`] has, a grant to alice for certificates, a CA, and a batch with the one certificate.
struct World {
    cast: Cast,
    grant: Id,
    ca: Id,
    batch: Id,
    batch_at: EntryRef,
    logged: String,
    unlogged: String,
}

fn ca_blob() -> Bytes {
    [b"\0\0\0\x0bssh-ed25519\0\0\0\x20".as_slice(), &[8; 32]].concat().into()
}

/// Nobody signs it: sshd, and not we, looks at signatures.
fn line(to_be_signed: &[u8]) -> String {
    let signature = [b"\0\0\0\x0bssh-ed25519\0\0\0\x40".as_slice(), &[5; 64]].concat();
    let blob = with_signature(to_be_signed, &signature).unwrap();
    format!("ssh-ed25519-cert-v01@openssh.com {}", Base64::encode_string(&blob))
}

fn world() -> World {
    let mut cast = cast();
    let r = |byte: u8| [byte; 16].into();
    let id = |kind, actor, byte| sign::record_id(kind, actor, [byte; 16]);
    cast.log.add(&Entry::RoleSet(payload::RoleSet { actor: ISSUER, roles: Roles::ISSUER, x25519: B256::ZERO }));
    cast.log.add(&Entry::CaAdd(payload::CaAdd {
        r: r(7),
        purpose: 1,
        name: "users".into(),
        publicKey: ca_blob(),
        maxTtl: 3_600,
        logins: vec![],
        issuers: vec![ISSUER],
    }));
    cast.log.add(&Entry::GrantAdd(payload::GrantAdd {
        r: r(8),
        subject: cast.alice.0.into(),
        hosts: vec![cast.host.0.into()],
        labels: vec![],
        allHosts: false,
        logins: vec!["deploy".into()],
        via: 1,
        maxTtl: 0,
        approvals: 0,
        forcedCommand: String::new(),
        sourceAddresses: vec![],
        intervals: vec![],
        notAfter: 0,
        permits: 1,
    }));
    let (grant, ca) = (id(Kind::GRANT_ADD, Address::ZERO, 8), id(Kind::CA_ADD, Address::ZERO, 7));
    let batch = id(Kind::BATCH, ISSUER, 9);
    let begins = cast.log.time(110);
    let scope = Scope {
        realm: RealmId(REALM.0),
        user: cast.alice,
        grant,
        target: Target::Host(cast.host),
        request: Id([0x4e; 16]),
    };
    let fields = CertificateFields {
        cert_type: CertType::User,
        public_key: key_blob().to_vec(),
        nonce: [9; 32],
        serial: SERIAL,
        key_id: "alice/4e".to_owned(),
        principals: vec!["deploy".to_owned()],
        valid_after: begins.saturating_sub(30),
        valid_before: begins.saturating_add(3_000),
        critical_options: BTreeMap::new(),
        extensions: BTreeMap::from([("scope@countersign".to_owned(), scope.to_text())]),
        ca_key: ca_blob().to_vec(),
    };
    let pre_certificate = fields.pre_certificate().unwrap();
    let leaves = [leaf_hash(&RealmId(REALM.0), &ca, &pre_certificate)];
    let proof = LogProof::new(batch, 0, 1, vec![]).unwrap();
    let batch_at = cast.log.add_by(
        ISSUER,
        &Entry::Batch(payload::Batch {
            r: r(9),
            ca: ca.0.into(),
            root: merkle::root(&leaves).unwrap().into(),
            size: 1,
            notAfter: begins.saturating_add(3_100),
            leavesCid: Bytes::new(),
        }),
    );
    let logged = line(&insert_log_proof(&pre_certificate, &proof).unwrap());
    World { cast, grant, ca, batch, batch_at, logged, unlogged: line(&pre_certificate) }
}

impl World {
    fn explained(&self, certificate: &str) -> Value {
        let folder = tempfile::tempdir().unwrap();
        self.cast.log.publish(self.cast.host, folder.path());
        let value = serde_json::from_str(&explain_line(folder.path(), certificate, "deploy", "json")).unwrap();
        documented(&value);
        value
    }
}

/// What is written, the reason, and the entry that is shown: its sort and id.
type Case = (fn(&World) -> Entry, &'static str, &'static str, fn(&World) -> String);

#[test]
fn what_ends_a_certificate_is_named_with_its_entry() {
    let mut untouched = world();
    for certificate in [untouched.logged.clone(), untouched.unlogged.clone()] {
        assert_eq!(untouched.explained(&certificate)["reason"], "granted");
    }
    // A retirement ends what was not logged before.
    let ca = untouched.ca;
    let at = untouched.cast.log.add(&Entry::CaRetire(vec![ca]));
    untouched.cast.log.add(&Entry::CaRetire(vec![ca]));
    assert_eq!(untouched.explained(&untouched.logged)["reason"], "granted");
    let refused = untouched.explained(&untouched.unlogged);
    assert_eq!(refused["reason"], "ca-retired");
    assert_eq!(refused["because"], json!([source("retirement", &ca.to_string(), at)]), "the first one counts");

    let cases: [Case; 7] = [
        (
            |world| Entry::Lock(Targets::Batches(vec![world.batch])),
            "batch-locked",
            "lock",
            |world| world.batch.to_string(),
        ),
        (
            |world| Entry::CertRevoke { ca: world.ca, serials: vec![1, SERIAL, u64::MAX] },
            "certificate-revoked",
            "certificate-revocation",
            |_| SERIAL.to_string(),
        ),
        (
            |_| Entry::Lock(Targets::Actors(vec![ISSUER])),
            "batch-issuer",
            "issuer-denial",
            |world| world.batch.to_string(),
        ),
        (
            |_| Entry::RoleSet(payload::RoleSet { actor: ISSUER, roles: Roles::WATCHDOG, x25519: B256::ZERO }),
            "batch-issuer",
            "issuer-denial",
            |world| world.batch.to_string(),
        ),
        (|world| Entry::Lock(Targets::Cas(vec![world.ca])), "ca-locked", "lock", |world| world.ca.to_string()),
        (|world| Entry::Revoke(Targets::Cas(vec![world.ca])), "ca-revoked", "revocation", |world| world.ca.to_string()),
        (|world| Entry::Remove(vec![world.grant]), "grant-unknown", "removal", |world| world.grant.to_string()),
    ];
    for (denial, reason, record, id) in cases {
        let mut world = world();
        // So that the entry is not the first of its shard.
        world.cast.log.add(&Entry::CertRevoke { ca: world.ca, serials: vec![1, 2] });
        world.cast.log.add(&Entry::Lock(Targets::Users(vec![Id([0x77; 16])])));
        let denial = denial(&world);
        let at = world.cast.log.add(&denial);
        assert!(at.index > 0, "{reason}");
        let refused = world.explained(&world.logged);
        assert_eq!((&refused["verdict"], &refused["reason"]), (&json!("refused"), &json!(reason)));
        let mut because = vec![source(record, &id(&world), at)];
        if reason == "batch-issuer" {
            because.push(source("batch", &world.batch.to_string(), world.batch_at));
        }
        assert_eq!(refused["because"], json!(because), "{reason}");
        if reason == "certificate-revoked" {
            assert_eq!((at.shard, at.index), (shard::shard(shard::CLASS_REVOCATIONS, 0), 1));
        }
    }
}
