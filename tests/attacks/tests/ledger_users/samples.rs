//! A well-formed entry of every kind, what it needs to stand on, and how its effect shows in what a host knows.

use alloy_primitives::{Address, B256};
use attacks::world::grant;
use countersign_certificate::{Fingerprint20, Id};
use countersign_registry::{
    Effective, Kind,
    entries::{Entry, Roles, Targets, payload},
    realm::{BatchState, State},
    replay::setting,
    sign::{self, Write},
};

use crate::ground::{Ground, asked_shard};

/// Distinct bytes for a number.
pub(crate) fn bytes<const N: usize>(number: u32) -> [u8; N] {
    let mut bytes = [0x5a; N];
    let start = N - 4;
    bytes[start..].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// An Ed25519 public key in wire form, of no known private key.
pub(crate) fn blob(number: u32) -> Vec<u8> {
    [b"\0\0\0\x0bssh-ed25519\0\0\0\x20".as_slice(), &bytes::<32>(number)].concat()
}

/// The records that samples refer to, all written by the roots.
pub(crate) struct Facts {
    pub(crate) user: Id,
    pub(crate) group: Id,
    pub(crate) host: Id,
    /// Removed.
    pub(crate) gone: Id,
    /// To be removed.
    pub(crate) spare: Id,
    /// Locked.
    pub(crate) locked_key: Fingerprint20,
    pub(crate) ca: Id,
    /// Those that the CA lists.
    issuers: Vec<Address>,
}

fn by_roots(kind: Kind, number: u32) -> Id {
    sign::record_id(kind, Address::ZERO, bytes(number))
}

pub(crate) fn user(number: u32, login: &str) -> Entry {
    let add = payload::UserAdd { r: bytes(number).into(), login: login.into(), displayName: "Somebody".into() };
    Entry::UserAdd(add)
}

fn host(number: u32) -> Entry {
    Entry::HostAdd(payload::HostAdd {
        r: bytes(number).into(),
        name: format!("host{number}"),
        owner: Default::default(),
        hostKey: blob(number).into(),
    })
}

pub(crate) fn ca(number: u32, issuers: Vec<Address>) -> payload::CaAdd {
    payload::CaAdd {
        r: bytes(number).into(),
        purpose: 1,
        name: format!("ca{number}"),
        publicKey: blob(number).into(),
        maxTtl: 300,
        logins: vec!["deploy".into()],
        issuers,
    }
}

pub(crate) fn batch(number: u32, ca: Id) -> payload::Batch {
    payload::Batch {
        r: bytes(number).into(),
        ca: ca.0.into(),
        root: bytes(number).into(),
        size: 1,
        notAfter: u64::MAX,
        leavesCid: Default::default(),
    }
}

pub(crate) fn limits(ca: Id, max_ttl: u64) -> payload::CaLimits {
    payload::CaLimits { ca: ca.0.into(), maxTtl: max_ttl, logins: vec!["deploy".into()], issuers: Vec::new() }
}

pub(crate) fn settings(items: &[(u16, u64)]) -> payload::Settings {
    let item = |(key, value): &(u16, u64)| payload::Setting { key: *key, value: *value };
    payload::Settings { items: items.iter().map(item).collect() }
}

pub(crate) fn role(actor: Address, roles: u64) -> Entry {
    Entry::RoleSet(payload::RoleSet { actor, roles, x25519: B256::repeat_byte(9) })
}

pub(crate) fn member(actor: Address, subject: Id) -> Entry {
    let x25519 = B256::repeat_byte(9);
    Entry::MemberSet(payload::MemberSet { actor, member: true, subject: subject.0.into(), x25519 })
}

/// As a writer gives it.
pub(crate) fn write(entry: &Entry, now: u64) -> Write {
    sign::write(asked_shard(entry.kind(), now), entry)
}

impl Facts {
    /// Logs what samples stand on.
    pub(crate) async fn log(ground: &Ground, issuers: Vec<Address>) -> Self {
        let facts = Self {
            user: by_roots(Kind::USER_ADD, 1),
            group: by_roots(Kind::GROUP_ADD, 2),
            host: by_roots(Kind::HOST_ADD, 3),
            gone: by_roots(Kind::USER_ADD, 4),
            spare: by_roots(Kind::HOST_ADD, 5),
            locked_key: Fingerprint20(bytes(6)),
            ca: by_roots(Kind::CA_ADD, 7),
            issuers: issuers.clone(),
        };
        let entries = [
            user(1, "alice"),
            Entry::GroupAdd(payload::GroupAdd { r: bytes(2).into(), name: "ops".into() }),
            host(3),
            user(4, "gone"),
            host(5),
            Entry::Remove(vec![facts.gone]),
            Entry::Lock(Targets::Keys(vec![facts.locked_key])),
            Entry::CaAdd(ca(7, issuers)),
        ];
        let writes: Vec<Write> = entries.iter().map(|entry| write(entry, 0)).collect();
        ground.govern(&ground.own, &writes).await;
        facts
    }

    /// A well-formed entry of `kind` by `actor`, as no other `number` gives it.
    pub(crate) fn good(&self, kind: Kind, number: u32, actor: Address) -> (Entry, Trace) {
        let r = bytes(number);
        let id = sign::record_id(kind, actor, r);
        let unknown = Id(bytes(number));
        let address = Address::from(bytes::<20>(number));
        let name = format!("name{number}");
        match kind {
            Kind::ROLE_SET => (role(address, Roles::WATCHDOG), Trace::Role(address)),
            Kind::CA_ADD => (Entry::CaAdd(ca(number, vec![actor])), Trace::Ca(id)),
            Kind::CA_LOOSEN => {
                let ttl = 1000 + u64::from(number);
                let limits = payload::CaLimits { issuers: self.issuers.clone(), ..limits(self.ca, ttl) };
                (Entry::CaLoosen(limits), Trace::CaTtl(self.ca, ttl))
            }
            Kind::UNLOCK => (Entry::Unlock(Targets::Keys(vec![self.locked_key])), Trace::Unlocked(self.locked_key)),
            Kind::RESTORE => {
                let restore = payload::Restore {
                    kind: Kind::USER_ADD.0,
                    id: self.gone.0.into(),
                    name: "gone".into(),
                    uid: 1_900_000_002,
                };
                (Entry::Restore(restore), Trace::User(self.gone))
            }
            Kind::SETTINGS => (Entry::Settings(settings(&[(setting::PICKUP, 1234)])), Trace::Pickup(1234)),
            Kind::REVOKE => {
                let key = Fingerprint20(bytes(number));
                (Entry::Revoke(Targets::Keys(vec![key])), Trace::RevokedKey(key))
            }
            Kind::MEMBER_SET => (member(address, self.user), Trace::Bound(address)),
            Kind::USER_ADD => (user(number, &format!("user{number}")), Trace::User(id)),
            Kind::GROUP_ADD => (Entry::GroupAdd(payload::GroupAdd { r: r.into(), name }), Trace::Group(id)),
            Kind::HOST_ADD => (host(number), Trace::Host(id)),
            Kind::LABEL_ADD => {
                let add = payload::LabelAdd { r: r.into(), target: self.host.0.into(), label: name.clone() };
                (Entry::LabelAdd(add), Trace::Label(self.host, name))
            }
            Kind::KEY_ADD => {
                let add = payload::KeyAdd {
                    r: r.into(),
                    user: self.user.0.into(),
                    publicKey: blob(number).into(),
                    purposes: 1,
                    notAfter: 0,
                    comment: "laptop".into(),
                };
                (Entry::KeyAdd(add), Trace::Key(id))
            }
            Kind::GRANT_ADD => {
                let mut add = grant(0, self.user, self.host);
                add.r = r.into();
                add.forcedCommand = "/bin/true".into();
                add.sourceAddresses = vec!["10.0.0.0/8".into()];
                add.intervals = vec![payload::Hours { weekday: 0, from: 0, to: 1440 }];
                (Entry::GrantAdd(add), Trace::Grant(id))
            }
            Kind::GROUP_MEMBER_ADD => {
                let (group, user) = (self.group, self.user);
                let add = payload::GroupMemberAdd { r: r.into(), group: group.0.into(), user: user.0.into() };
                (Entry::GroupMemberAdd(add), Trace::Membership(group, user))
            }
            Kind::PAYLOAD_NAME_ADD => {
                let add = payload::PayloadNameAdd { r: r.into(), name: name.clone(), payloadKind: 1 };
                (Entry::PayloadNameAdd(add), Trace::PayloadName(name))
            }
            Kind::REMOVE => (Entry::Remove(vec![self.spare]), Trace::Removed(self.spare)),
            Kind::CONFIRM => (Entry::Confirm(vec![unknown]), Trace::Nowhere),
            Kind::KEY_LOCK => {
                let key = Fingerprint20(bytes(number));
                (Entry::Lock(Targets::Keys(vec![key])), Trace::LockedKey(key))
            }
            Kind::USER_LOCK => (Entry::Lock(Targets::Users(vec![unknown])), Trace::Nowhere),
            Kind::HOST_LOCK => (Entry::Lock(Targets::Hosts(vec![unknown])), Trace::Nowhere),
            Kind::CA_LOCK => (Entry::Lock(Targets::Cas(vec![unknown])), Trace::Nowhere),
            Kind::ACTOR_LOCK => (Entry::Lock(Targets::Actors(vec![address])), Trace::LockedActor(address)),
            Kind::BATCH_LOCK => (Entry::Lock(Targets::Batches(vec![unknown])), Trace::LockedBatch(unknown)),
            Kind::CA_RETIRE => (Entry::CaRetire(vec![unknown]), Trace::Nowhere),
            Kind::CA_TIGHTEN => (Entry::CaTighten(limits(unknown, 60)), Trace::Nowhere),
            Kind::SETTINGS_TIGHTEN => {
                let ttl = 80_000 - u64::from(number);
                (Entry::SettingsTighten(settings(&[(setting::MAX_TTL, ttl)])), Trace::MaxTtl(ttl))
            }
            Kind::CERT_REVOKE => {
                let serial = u64::from(number);
                (Entry::CertRevoke { ca: self.ca, serials: vec![serial] }, Trace::Serial(self.ca, serial))
            }
            Kind::BATCH => (Entry::Batch(batch(number, self.ca)), Trace::AcceptedBatch(id)),
            Kind::COUNTERSIGN => {
                let entry_hash = bytes(number).into();
                (
                    Entry::Countersign(payload::Countersign { batch: unknown.0.into(), entryHash: entry_hash }),
                    Trace::Nowhere,
                )
            }
            Kind::APPROVE => {
                let hash = bytes(number).into();
                (Entry::Approve(payload::Approve { request: unknown.0.into(), approvalHash: hash }), Trace::Nowhere)
            }
            Kind::DENY => (Entry::Deny(unknown), Trace::Refusal(unknown, actor)),
            Kind::REQUEST => {
                let request = payload::Request {
                    r: r.into(),
                    user: self.user.0.into(),
                    host: self.host.0.into(),
                    login: "deploy".into(),
                    ttl: 300,
                    publicKey: blob(number).into(),
                    reason: "because".into(),
                };
                (Entry::Request(request), Trace::Request(id))
            }
            Kind::ACKNOWLEDGE => {
                let digest = bytes(number).into();
                let acknowledge = payload::Acknowledge { delivery: unknown.0.into(), digest };
                (Entry::Acknowledge(acknowledge), Trace::Nowhere)
            }
            Kind::PREKEYS => {
                let key = B256::from(bytes(number));
                (Entry::Prekeys(payload::Prekeys { drop: 0, keys: vec![key] }), Trace::Prekey(actor, key))
            }
            Kind::ENVELOPE => {
                let index = bytes(number).into();
                let envelope = payload::Envelope { r: r.into(), payloadKind: 1, index, payloadName: name };
                (Entry::Envelope(envelope), Trace::Envelope(id))
            }
            Kind::DELIVERY => {
                let delivery = payload::Delivery {
                    r: r.into(),
                    recipient: address,
                    payloadKind: 1,
                    digest: bytes(number).into(),
                    payloadName: name,
                    sealedCid: vec![1; 60].into(),
                };
                (Entry::Delivery(delivery), Trace::Delivery(id))
            }
            Kind::PUBLIC_DATA => {
                let data = payload::PublicData { r: r.into(), name, data: vec![7; 40].into() };
                (Entry::PublicData(data), Trace::PublicData(id))
            }
            Kind::ENROL => {
                let enrol = payload::Enrol {
                    actor: address,
                    x25519: B256::repeat_byte(9),
                    name,
                    hostKey: blob(number).into(),
                    tokenMac: B256::ZERO,
                };
                (Entry::Enrol(enrol), Trace::Nowhere)
            }
            kind => panic!("no sample of {kind}"),
        }
    }
}

/// How an entry shows once it counts.
#[derive(Clone, Debug)]
pub(crate) enum Trace {
    /// It does not, but it is not ignored either.
    Nowhere,
    Role(Address),
    Ca(Id),
    CaTtl(Id, u64),
    Unlocked(Fingerprint20),
    User(Id),
    Pickup(u64),
    RevokedKey(Fingerprint20),
    Bound(Address),
    Group(Id),
    Host(Id),
    Label(Id, String),
    Key(Id),
    Grant(Id),
    Membership(Id, Id),
    PayloadName(String),
    Removed(Id),
    LockedKey(Fingerprint20),
    LockedActor(Address),
    LockedBatch(Id),
    MaxTtl(u64),
    Serial(Id, u64),
    AcceptedBatch(Id),
    Countersigner(Id, Address),
    Refusal(Id, Address),
    Request(Id),
    Prekey(Address, B256),
    Envelope(Id),
    Delivery(Id),
    PublicData(Id),
}

impl Trace {
    pub(crate) fn shows(&self, known: &Effective) -> bool {
        match self {
            Self::Nowhere => false,
            Self::Role(actor) => known.actors.get(actor).is_some_and(|actor| actor.roles & Roles::WATCHDOG != 0),
            Self::Ca(id) => known.cas.contains_key(id),
            Self::CaTtl(id, ttl) => known.cas[id].limits.max_ttl == *ttl,
            Self::Unlocked(key) => !known.locked_keys.contains(key),
            Self::User(id) => known.users.get(id).is_some_and(|user| user.state == State::Active),
            Self::Pickup(secs) => known.settings.pickup == *secs,
            Self::RevokedKey(key) => known.revoked_keys.contains(key),
            Self::Bound(actor) => known.actors.get(actor).is_some_and(|actor| actor.subject.is_some()),
            Self::Group(id) => known.groups.contains_key(id),
            Self::Host(id) => known.hosts.contains_key(id),
            Self::Label(host, label) => known.hosts[host].labels.contains(label),
            Self::Key(id) => known.keys.get(id).is_some(),
            Self::Grant(id) => known.grants.contains_key(id),
            Self::Membership(group, user) => known.group_members.contains(&(*group, *user)),
            Self::PayloadName(name) => known.payload_names.contains_key(name),
            Self::Removed(id) => known.removed.contains_key(id),
            Self::LockedKey(key) => known.locked_keys.contains(key),
            Self::LockedActor(actor) => known.actors.get(actor).is_some_and(|actor| actor.locked),
            Self::LockedBatch(id) => known.locked_batches.contains(id),
            Self::MaxTtl(secs) => known.settings.max_ttl == *secs,
            Self::Serial(ca, serial) => known.revoked_serials.get(ca).is_some_and(|serials| serials.contains(serial)),
            Self::AcceptedBatch(id) => known.batches.get(id).is_some_and(|batch| batch.state == BatchState::Accepted),
            Self::Countersigner(id, actor) => {
                known.batches.get(id).is_some_and(|batch| batch.countersigners.contains(actor))
            }
            Self::Refusal(request, actor) => {
                known.refusals.get(request).is_some_and(|list| list.iter().any(|refusal| refusal.actor == *actor))
            }
            Self::Request(id) => known.requests.contains_key(id),
            Self::Prekey(actor, key) => {
                known.prekeys.get(actor).is_some_and(|list| list.iter().any(|prekey| prekey.key == *key))
            }
            Self::Envelope(id) => known.envelopes.contains_key(id),
            Self::Delivery(id) => known.deliveries.contains_key(id),
            Self::PublicData(id) => known.public_data.contains_key(id),
        }
    }
}
