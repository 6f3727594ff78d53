//! A small realm on disk, one certificate, one plain key: what the tests change a thing in and ask about.
//!
//! Snapshots are written by the real writer and read by the real reader. Certificates are laid out here, field by field, so that a
//! test can break any of them; nobody signs them, since sshd and not this crate verifies signatures.

use std::ffi::OsString;
use std::path::Path;

use countersign_certificate::{
    ApprovalTerms, Digest32, Fingerprint20, Id, LogProof, PublicKey, RealmId, Scope, Serial, Target, approval_hash,
    encode_base64, fingerprint_sha256, insert_log_proof, leaf_hash, merkle,
};
use countersign_snapshot::{
    AccessTables, AccountsTables, Approval, Batch, BatchState, BlockRef, BootId, Ca, CaState, Clock, Facts, Freshness,
    Grant, HostState, Key, KeyGrant, KeyState, Login, Permits, PublishInfo, Request, Salt, Snapshot, Subject, Trust,
    Uid, User, UserState, Verdict as Answer, Via, publish,
};
use countersign_sshd::{Query, Refusal, Verdict, decide};
use tempfile::TempDir;

/// 2027-01-15 08:00:00 UTC, a Friday.
pub(crate) const NOW: u64 = 1_800_000_000;
pub(crate) const BOOT: BootId = BootId([7; 16]);
pub(crate) const REALM: RealmId = RealmId([0x11; 32]);
pub(crate) const EARLIER: RealmId = RealmId([0x12; 32]);
pub(crate) const HOST: Id = Id([0x22; 16]);
pub(crate) const ALICE: Id = Id([0xa1; 16]);
pub(crate) const BOB: Id = Id([0xb0; 16]);
pub(crate) const CAROL: Id = Id([0xca; 16]);
pub(crate) const GROUP: Id = Id([0x60; 16]);
pub(crate) const GRANT: Id = Id([0x9a; 16]);
pub(crate) const KEY_GRANT: Id = Id([0x9b; 16]);
pub(crate) const CA: Id = Id([0xcc; 16]);
pub(crate) const BATCH: Id = Id([0xba; 16]);
pub(crate) const REQUEST: Id = Id([0x4e; 16]);
pub(crate) const SERIAL: Serial = Serial(0x0123_4567_89ab_cdef);

pub(crate) fn string(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap();
    [&length.to_be_bytes()[..], content].concat()
}

pub(crate) fn ed25519(byte: u8) -> Vec<u8> {
    [string(b"ssh-ed25519"), string(&[byte; 32])].concat()
}

/// The key that the certificate certifies.
pub(crate) fn certified_key() -> Vec<u8> {
    ed25519(1)
}

/// Alice's registered key.
pub(crate) fn registered_key() -> Vec<u8> {
    ed25519(2)
}

pub(crate) fn ca_key() -> Vec<u8> {
    ed25519(3)
}

/// An option: none for a flag.
pub(crate) type Options = Vec<(&'static str, Option<String>)>;

/// A certificate's fields.
#[derive(Clone)]
pub(crate) struct Draft {
    pub(crate) key: Vec<u8>,
    pub(crate) cert_type: u32,
    pub(crate) key_id: String,
    pub(crate) principals: Vec<String>,
    pub(crate) valid_after: u64,
    pub(crate) valid_before: u64,
    pub(crate) critical: Options,
    pub(crate) extensions: Options,
    pub(crate) scope: Option<Scope>,
    pub(crate) ca: Vec<u8>,
}

impl Draft {
    /// T: everything but proof and signature.
    pub(crate) fn pre_certificate(&self) -> Vec<u8> {
        let mut extensions = self.extensions.clone();
        if let Some(scope) = &self.scope {
            extensions.push(("scope@countersign", Some(scope.to_text())));
        }
        extensions.sort_by_key(|(name, _)| *name);
        let options = |options: &Options| -> Vec<u8> {
            let data = |text: &Option<String>| text.as_ref().map_or(Vec::new(), |text| string(text.as_bytes()));
            options.iter().flat_map(|(name, text)| [string(name.as_bytes()), string(&data(text))].concat()).collect()
        };
        let principals: Vec<u8> = self.principals.iter().flat_map(|name| string(name.as_bytes())).collect();
        let key_type = PublicKey::parse(&self.key).unwrap().algorithm();
        [
            string(key_type.certificate_name().as_bytes()),
            string(&[9; 32]),
            self.key[4 + key_type.name().len()..].to_vec(),
            SERIAL.0.to_be_bytes().to_vec(),
            self.cert_type.to_be_bytes().to_vec(),
            string(self.key_id.as_bytes()),
            string(&principals),
            self.valid_after.to_be_bytes().to_vec(),
            self.valid_before.to_be_bytes().to_vec(),
            string(&options(&self.critical)),
            string(&options(&extensions)),
            string(b""),
            string(&self.ca),
        ]
        .concat()
    }
}

/// What stands in the log-proof extension.
#[derive(Clone)]
pub(crate) enum Proof {
    /// The one that belongs there.
    Right,
    /// Nothing.
    None,
    /// The proof of the leaf beside it.
    OfAnotherLeaf,
    /// Of a batch of this size.
    OfSize(u32),
    /// This one.
    Exactly(LogProof),
    /// This text.
    Text(String),
}

/// Everything that a decision depends on. Alice may log in as `deploy` by certificate and by her key.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) access: AccessTables,
    pub(crate) facts: Facts,
    pub(crate) freshness: Freshness,
    pub(crate) clock: Clock,
    pub(crate) login: String,
    pub(crate) uid: u32,
    pub(crate) draft: Draft,
    pub(crate) proof: Proof,
    /// Changes the finished certificate or key.
    pub(crate) tamper: Option<fn(&mut Vec<u8>)>,
    /// Asks about the plain key instead of the certificate.
    pub(crate) plain: bool,
    pub(crate) plain_key: Vec<u8>,
}

impl World {
    pub(crate) fn new() -> Self {
        let user = |login: &str| User { state: UserState::Active, login: login.to_owned() };
        let uid = |uid, user| Login { uid: Uid(uid), user };
        let access = AccessTables {
            logins: vec![("alice".to_owned(), uid(1_900_000_000, ALICE)), ("bob".to_owned(), uid(1_900_000_001, BOB))],
            users: vec![(ALICE, user("alice")), (BOB, user("bob")), (CAROL, user("carol"))],
            grants: vec![
                (GRANT, grant(Via { certificate: true, plain_key: false })),
                (KEY_GRANT, grant(Via { certificate: false, plain_key: true })),
            ],
            grant_logins: [GRANT, KEY_GRANT]
                .into_iter()
                .flat_map(|id| ["deploy", "alice", "bob", "root"].map(|login| (id, login.to_owned())))
                .collect(),
            memberships: Vec::new(),
            keys: vec![(Fingerprint20::of_blob(&registered_key()), registered())],
            key_grants: ["deploy", "alice", "bob", "root"]
                .map(|login| KeyGrant { user: ALICE, login: login.to_owned(), grant: KEY_GRANT })
                .to_vec(),
            cas: vec![Ca {
                id: CA,
                state: CaState::Active,
                max_ttl_secs: 3600,
                logins_restricted: false,
                key_blob: ca_key(),
            }],
            batches: vec![(BATCH, batch())],
            granted_logins: vec!["deploy".to_owned(), "root".to_owned()],
            ..AccessTables::default()
        };
        let block = BlockRef { number: 500, time_secs: NOW - 5 };
        Self {
            access,
            facts: Facts {
                realm: REALM,
                host: HOST,
                host_state: HostState::Active,
                require_logged: true,
                allow_root: false,
                pickup_secs: 600,
                max_ttl_secs: 3600,
                latest_block: block,
                final_block: BlockRef { number: 436, time_secs: NOW - 700 },
            },
            freshness: Freshness {
                valid_until_secs: NOW + 295,
                boot_id: BOOT,
                boottime_secs: 1000,
                age_consumed_secs: 5,
                max_staleness_secs: 300,
                highest_wall_secs: NOW,
            },
            clock: Clock { unix_secs: NOW, boot_id: BOOT, boottime_secs: 1000 },
            login: "deploy".to_owned(),
            uid: 1001,
            draft: Draft {
                key: certified_key(),
                cert_type: 1,
                key_id: format!("alice/{REQUEST}"),
                principals: vec!["deploy".to_owned()],
                valid_after: NOW - 40,
                valid_before: NOW + 290,
                critical: Vec::new(),
                extensions: vec![("permit-pty", None)],
                scope: Some(Scope {
                    realm: REALM,
                    user: ALICE,
                    grant: GRANT,
                    target: Target::Host(HOST),
                    request: REQUEST,
                }),
                ca: ca_key(),
            },
            proof: Proof::Right,
            tamper: None,
            plain: false,
            plain_key: registered_key(),
        }
    }

    /// As [`World::new`], asking about the plain key, in a realm that does not insist on logged certificates.
    pub(crate) fn plain() -> Self {
        let mut world = Self { plain: true, ..Self::new() };
        world.facts.require_logged = false;
        world
    }

    pub(crate) fn grant(&mut self) -> &mut Grant {
        let id = if self.plain { KEY_GRANT } else { GRANT };
        self.access.grants.iter_mut().find(|(found, _)| *found == id).map(|(_, grant)| grant).unwrap()
    }

    pub(crate) fn batch(&mut self) -> &mut Batch {
        &mut self.access.batches[0].1
    }

    pub(crate) fn ca(&mut self) -> &mut Ca {
        &mut self.access.cas[0]
    }

    pub(crate) fn key(&mut self) -> &mut Key {
        &mut self.access.keys[0].1
    }

    pub(crate) fn scope(&mut self) -> &mut Scope {
        self.draft.scope.as_mut().unwrap()
    }

    pub(crate) fn user(&mut self, id: Id) -> &mut User {
        self.access.users.iter_mut().find(|(found, _)| *found == id).map(|(_, user)| user).unwrap()
    }

    /// The grant asks for `needed` approvals; the request is there; `approvers` approved it ten seconds ago.
    pub(crate) fn ask_for_approvals(&mut self, needed: u8, approvers: &[Id]) {
        self.grant().approvals = needed;
        let hash = self.approval_hash();
        self.access.requests = vec![(REQUEST, Request { user: ALICE, approval_hash: hash, time_secs: NOW - 60 })];
        let approval = |approver: &Id| Approval {
            verdict: Answer::Approve,
            approver: Some(*approver),
            time_secs: NOW - 10,
            approval_hash: hash,
        };
        self.access.approvals = vec![(REQUEST, approvers.iter().map(approval).collect())];
    }

    pub(crate) fn approvals(&mut self) -> &mut Vec<Approval> {
        &mut self.access.approvals[0].1
    }

    /// What the requester asked for, when the certificate is as in [`World::new`].
    pub(crate) fn approval_hash(&self) -> Digest32 {
        let terms = ApprovalTerms {
            request: REQUEST,
            user: ALICE,
            host: HOST,
            login: b"deploy",
            key: &certified_key(),
            ttl_secs: 300,
        };
        approval_hash(&self.realm(), &terms).unwrap()
    }

    /// The realm in which the certificate was issued.
    fn realm(&self) -> RealmId {
        self.draft.scope.as_ref().map_or(REALM, |scope| scope.realm)
    }

    /// The certificate was issued in a realm that this one comes from.
    pub(crate) fn issued_earlier(&mut self) {
        self.scope().realm = EARLIER;
        self.access.realms = vec![EARLIER];
    }

    /// The leaves of the batch; the certificate's is in the middle.
    fn leaves(&self) -> Vec<Digest32> {
        let own = leaf_hash(&self.realm(), &CA, &self.draft.pre_certificate());
        vec![[1; 32], [2; 32], own, [3; 32], [4; 32]]
    }

    /// The key or certificate that is asked about.
    pub(crate) fn blob(&self) -> Vec<u8> {
        let mut blob = if self.plain { self.plain_key.clone() } else { self.certificate() };
        if let Some(tamper) = self.tamper {
            tamper(&mut blob);
        }
        blob
    }

    fn certificate(&self) -> Vec<u8> {
        let mut draft = self.draft.clone();
        let pre = draft.pre_certificate();
        let among = |index| LogProof::among(BATCH, &self.leaves(), index).unwrap();
        let inserted = |proof: &LogProof| insert_log_proof(&pre, proof).unwrap_or_else(|_| pre.clone());
        let signed = match &self.proof {
            Proof::Right => inserted(&among(2)),
            Proof::OfAnotherLeaf => inserted(&among(3)),
            Proof::OfSize(size) => inserted(&LogProof::new(BATCH, 2, *size, among(2).path().to_vec()).unwrap()),
            Proof::Exactly(proof) => inserted(proof),
            Proof::None => pre.clone(),
            Proof::Text(text) => {
                draft.extensions.push(("log-proof@countersign", Some(text.clone())));
                draft.pre_certificate()
            }
        };
        [signed, string(&[string(b"ssh-ed25519"), string(&[5; 64])].concat())].concat()
    }

    /// Publishes the snapshot below `directory`.
    pub(crate) fn publish(&self, directory: &Path) {
        let mut access = self.access.clone();
        for (_, batch) in &mut access.batches {
            if batch.root == [0; 32] {
                batch.root = merkle::root(&self.leaves()).unwrap();
            }
        }
        let info = PublishInfo {
            facts: self.facts.clone(),
            freshness: self.freshness,
            salt: Salt([0x5a; 16]),
            access_group: None,
            now_unix_secs: NOW,
        };
        publish(directory, &access, &AccountsTables::default(), &info).unwrap();
    }

    /// sshd's arguments in keys mode.
    pub(crate) fn keys_arguments(&self) -> Vec<OsString> {
        let blob = self.blob();
        let length = usize::try_from(u32::from_be_bytes(*blob.first_chunk::<4>().unwrap())).unwrap();
        let key_type = std::str::from_utf8(&blob[4..4 + length]).unwrap();
        ["keys", &self.login, &self.uid.to_string(), key_type, &encode_base64(&blob)].map(OsString::from).to_vec()
    }

    /// sshd's arguments in principals mode.
    pub(crate) fn principals_arguments(&self) -> Vec<OsString> {
        let mut arguments = self.keys_arguments();
        arguments[0] = "principals".into();
        let ca = encode_base64(&self.draft.ca);
        arguments.extend([&self.draft.key_id, &SERIAL.to_string(), &ca].map(OsString::from));
        arguments
    }

    /// The verdict on `arguments`.
    pub(crate) fn judge(&self, arguments: &[OsString]) -> Verdict {
        self.with_snapshot(|snapshot| self.judge_from(snapshot, arguments))
    }

    fn judge_from(&self, snapshot: &Snapshot, arguments: &[OsString]) -> Verdict {
        match Query::from_arguments(arguments) {
            Ok(query) => decide(snapshot, &query, &self.clock),
            Err(refusal) => Verdict::refused(refusal),
        }
    }

    /// Publishes and opens the snapshot.
    pub(crate) fn with_snapshot<T>(&self, then: impl FnOnce(&Snapshot) -> T) -> T {
        let folder = directory();
        self.publish(folder.path());
        then(&Snapshot::open(folder.path(), own_trust()).unwrap())
    }

    /// Asks in keys mode and, about a certificate, in principals mode too: both must agree in everything but the line.
    pub(crate) fn verdict(&self) -> Verdict {
        self.with_snapshot(|snapshot| {
            let keys = self.judge_from(snapshot, &self.keys_arguments());
            if !self.plain {
                let principals = self.judge_from(snapshot, &self.principals_arguments());
                assert_eq!(keys.reason(), principals.reason(), "both modes agree: {keys:?} {principals:?}");
                assert_eq!(keys.facts(), principals.facts());
            }
            keys
        })
    }
}

pub(crate) fn grant(via: Via) -> Grant {
    Grant {
        subject: Subject::User(ALICE),
        via,
        max_ttl_secs: None,
        approvals: 0,
        not_after_secs: None,
        permits: Permits(Permits::PTY),
        forced_command: None,
        source_addresses: Vec::new(),
        hours: Vec::new(),
    }
}

fn registered() -> Key {
    Key { user: ALICE, state: KeyState::Active, purposes: Key::PURPOSE_LOGIN, not_after_secs: None }
}

/// Logged ten seconds ago; its root is put in when it is published.
fn batch() -> Batch {
    Batch {
        state: BatchState::Accepted,
        ca: CA,
        root: [0; 32],
        size: 5,
        time_secs: NOW - 10,
        not_after_secs: NOW + 600,
        block: 499,
    }
}

/// A directory that only we may write, whatever the umask.
pub(crate) fn directory() -> TempDir {
    tempfile::Builder::new().prefix("countersign").tempdir().unwrap()
}

/// Trust in what this process writes.
pub(crate) fn own_trust() -> Trust {
    Trust::owner(nix::unistd::geteuid().as_raw())
}

pub(crate) fn fingerprint(blob: &[u8]) -> Fingerprint20 {
    Fingerprint20::of_blob(blob)
}

pub(crate) fn sha256(blob: &[u8]) -> Digest32 {
    fingerprint_sha256(blob)
}

pub(crate) fn refusal(verdict: Verdict) -> Refusal {
    match verdict {
        Verdict::Refuse { reason, detail, .. } => Refusal { reason, detail },
        Verdict::Accept { line, .. } => panic!("accepted: {line}"),
    }
}
