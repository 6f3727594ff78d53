//! A log as a test writes it: entries by block, numbered by shard, ten seconds a block.

use std::collections::BTreeMap;

use countersign_registry::entries::{Entry, Kind, Roles, Targets, payload};
use countersign_registry::head::{LogEntry, Meta, PlacedEntry};
use countersign_registry::realm::{BlockRef, EntryRef};
use countersign_registry::replay::IgnoreReason;
use countersign_registry::{Address, B256, Bytes, Effective, Id, Replay, shard, sign};

pub(crate) const REALM: B256 = B256::repeat_byte(0xee);
pub(crate) const ROOTS: Address = Address::ZERO;
pub(crate) const ADMIN: Address = Address::repeat_byte(0xa1);
pub(crate) const ADMIN_2: Address = Address::repeat_byte(0xa2);
pub(crate) const ADMIN_3: Address = Address::repeat_byte(0xa3);
pub(crate) const ISSUER: Address = Address::repeat_byte(0xb1);
pub(crate) const WATCHDOG: Address = Address::repeat_byte(0xc1);
pub(crate) const WATCHDOG_2: Address = Address::repeat_byte(0xc2);
pub(crate) const APPROVER: Address = Address::repeat_byte(0xd1);
pub(crate) const APPROVER_2: Address = Address::repeat_byte(0xd2);
pub(crate) const REVOKER: Address = Address::repeat_byte(0xe1);
pub(crate) const ALICE: Address = Address::repeat_byte(0xf1);
pub(crate) const DEVICE: Address = Address::repeat_byte(0xf2);

pub(crate) fn time(block: u64) -> u64 {
    1_800_000_000 + block * 10
}

pub(crate) fn block(number: u64) -> BlockRef {
    BlockRef { number, time: time(number) }
}

/// An Ed25519 key blob that differs by `seed`.
pub(crate) fn key_blob(seed: u8) -> Bytes {
    let mut blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20".to_vec();
    blob.extend([seed; 32]);
    blob.into()
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Log {
    pub(crate) entries: Vec<PlacedEntry>,
    next: BTreeMap<u64, u64>,
}

impl Log {
    /// Appends and returns the entry.
    pub(crate) fn add(&mut self, block: u64, actor: Address, entry: &Entry) -> PlacedEntry {
        let kind = entry.kind();
        let class = shard::class_of_kind(kind).unwrap();
        let epoch = match class {
            0..=2 => 0,
            3 => shard::period(time(block)),
            _ => shard::day(time(block)),
        };
        self.add_raw(block, actor, kind, shard::shard(class, epoch), entry.encode())
    }

    pub(crate) fn add_raw(&mut self, block: u64, actor: Address, kind: Kind, shard: u64, data: Bytes) -> PlacedEntry {
        self.add_at((block, time(block)), actor, kind, shard, data)
    }

    /// At a block and a time.
    pub(crate) fn add_at(
        &mut self,
        (block, time): (u64, u64),
        actor: Address,
        kind: Kind,
        shard: u64,
        data: Bytes,
    ) -> PlacedEntry {
        let index = self.next.entry(shard).or_default();
        let at = EntryRef { block, shard, index: *index, time };
        *index += 1;
        let meta = Meta { kind, prev_block: 0, time: at.time }.pack();
        let placed = PlacedEntry { at, entry: LogEntry { shard, actor, meta, data } };
        self.entries.push(placed.clone());
        placed
    }

    pub(crate) fn upto(&self, block: u64) -> Vec<PlacedEntry> {
        self.entries.iter().filter(|placed| placed.at.block <= block).cloned().collect()
    }

    /// Replayed to `fin`, then looked at from `latest`.
    pub(crate) fn views(&self, fin: u64, latest: u64) -> Effective {
        let mut replay = self.replayed(fin);
        replay.effective(block(latest), &self.upto(latest)).unwrap()
    }

    pub(crate) fn replayed(&self, fin: u64) -> Replay {
        let mut replay = Replay::new(REALM);
        replay.advance(block(fin), &self.upto(fin)).unwrap();
        replay
    }

    /// Everything final.
    pub(crate) fn done(&self) -> Effective {
        let last = self.entries.iter().map(|placed| placed.at.block).max().unwrap();
        self.views(last + 1, last + 1)
    }

    /// The reasons for which entries were ignored, everything final.
    pub(crate) fn reasons(&self) -> Vec<IgnoreReason> {
        self.done().ignored.iter().map(|ignored| ignored.reason).collect()
    }

    // What the tests write again and again.

    pub(crate) fn role(&mut self, block: u64, actor: Address, roles: u64) {
        let set = payload::RoleSet { actor, roles, x25519: B256::repeat_byte(9) };
        self.add(block, ROOTS, &Entry::RoleSet(set));
    }

    pub(crate) fn settings(&mut self, block: u64, items: &[(u16, u64)]) {
        self.add(block, ROOTS, &Entry::Settings(settings(items)));
    }

    pub(crate) fn user(&mut self, block: u64, writer: Address, login: &str) -> Id {
        let r = r(login);
        let add = payload::UserAdd { r: r.into(), login: login.into(), displayName: String::new() };
        self.add(block, writer, &Entry::UserAdd(add));
        sign::record_id(Kind::USER_ADD, writer, r)
    }

    pub(crate) fn group(&mut self, block: u64, writer: Address, name: &str) -> Id {
        let r = r(name);
        self.add(block, writer, &Entry::GroupAdd(payload::GroupAdd { r: r.into(), name: name.into() }));
        sign::record_id(Kind::GROUP_ADD, writer, r)
    }

    pub(crate) fn host(&mut self, block: u64, writer: Address, name: &str) -> Id {
        let r = r(name);
        let add = payload::HostAdd { r: r.into(), name: name.into(), owner: [0; 16].into(), hostKey: Bytes::new() };
        self.add(block, writer, &Entry::HostAdd(add));
        sign::record_id(Kind::HOST_ADD, writer, r)
    }

    pub(crate) fn label(&mut self, block: u64, writer: Address, target: Id, label: &str) -> Id {
        let r = r(&format!("{target}{label}"));
        let add = payload::LabelAdd { r: r.into(), target: target.0.into(), label: label.into() };
        self.add(block, writer, &Entry::LabelAdd(add));
        sign::record_id(Kind::LABEL_ADD, writer, r)
    }

    pub(crate) fn key(&mut self, block: u64, writer: Address, user: Id, seed: u8) -> Id {
        let r = r(&format!("{user}{seed}{block}"));
        let add = payload::KeyAdd {
            r: r.into(),
            user: user.0.into(),
            publicKey: key_blob(seed),
            purposes: 1,
            notAfter: 0,
            comment: String::new(),
        };
        self.add(block, writer, &Entry::KeyAdd(add));
        sign::record_id(Kind::KEY_ADD, writer, r)
    }

    pub(crate) fn grant(&mut self, block: u64, writer: Address, grant: payload::GrantAdd) -> Id {
        let r = grant.r.0;
        self.add(block, writer, &Entry::GrantAdd(grant));
        sign::record_id(Kind::GRANT_ADD, writer, r)
    }

    pub(crate) fn member_of(&mut self, block: u64, writer: Address, group: Id, user: Id) -> Id {
        let r = r(&format!("{group}{user}"));
        let add = payload::GroupMemberAdd { r: r.into(), group: group.0.into(), user: user.0.into() };
        self.add(block, writer, &Entry::GroupMemberAdd(add));
        sign::record_id(Kind::GROUP_MEMBER_ADD, writer, r)
    }

    pub(crate) fn bind(&mut self, block: u64, writer: Address, actor: Address, subject: Id) -> Id {
        let set = payload::MemberSet { actor, member: true, subject: subject.0.into(), x25519: B256::repeat_byte(8) };
        let placed = self.add(block, writer, &Entry::MemberSet(set));
        sign::member_set_id(REALM, &placed.entry)
    }

    pub(crate) fn ca(&mut self, block: u64, seed: u8, issuers: &[Address]) -> Id {
        let r = [seed; 16];
        let add = payload::CaAdd {
            r: r.into(),
            purpose: 1,
            name: "users".into(),
            publicKey: key_blob(seed),
            maxTtl: 600,
            logins: vec![],
            issuers: issuers.to_vec(),
        };
        self.add(block, ROOTS, &Entry::CaAdd(add));
        sign::record_id(Kind::CA_ADD, ROOTS, r)
    }

    /// The batch's id and entry hash.
    pub(crate) fn batch(&mut self, block: u64, issuer: Address, ca: Id, seed: u8) -> (Id, B256) {
        let batch = payload::Batch {
            r: [seed; 16].into(),
            ca: ca.0.into(),
            root: B256::repeat_byte(seed),
            size: 1,
            notAfter: time(block) + 600,
            leavesCid: Bytes::new(),
        };
        let placed = self.add(block, issuer, &Entry::Batch(batch));
        (sign::record_id(Kind::BATCH, issuer, [seed; 16]), sign::entry_hash(REALM, &placed.entry))
    }

    pub(crate) fn countersign(&mut self, block: u64, watchdog: Address, batch: Id, hash: B256) {
        let countersign = payload::Countersign { batch: batch.0.into(), entryHash: hash };
        self.add(block, watchdog, &Entry::Countersign(countersign));
    }

    pub(crate) fn request(&mut self, block: u64, actor: Address, user: Id, host: Id) -> Id {
        let r = r(&format!("{actor}{block}"));
        let request = payload::Request {
            r: r.into(),
            user: user.0.into(),
            host: host.0.into(),
            login: "deploy".into(),
            ttl: 300,
            publicKey: key_blob(0x77),
            reason: "why".into(),
        };
        self.add(block, actor, &Entry::Request(request));
        sign::record_id(Kind::REQUEST, actor, r)
    }

    pub(crate) fn approve(&mut self, block: u64, approver: Address, request: Id, hash: B256) {
        let approve = payload::Approve { request: request.0.into(), approvalHash: hash };
        self.add(block, approver, &Entry::Approve(approve));
    }

    pub(crate) fn lock(&mut self, block: u64, targets: Targets) {
        self.add(block, REVOKER, &Entry::Lock(targets));
    }

    pub(crate) fn remove(&mut self, block: u64, writer: Address, id: Id) {
        self.add(block, writer, &Entry::Remove(vec![id]));
    }

    pub(crate) fn restore(&mut self, block: u64, kind: Kind, id: Id, name: &str, uid: u32) {
        let restore = payload::Restore { kind: kind.0, id: id.0.into(), name: name.into(), uid };
        self.add(block, ROOTS, &Entry::Restore(restore));
    }
}

pub(crate) fn settings(items: &[(u16, u64)]) -> payload::Settings {
    payload::Settings {
        items: items.iter().map(|(key, value)| payload::Setting { key: *key, value: *value }).collect(),
    }
}

/// Sixteen bytes that differ by text.
pub(crate) fn r(text: &str) -> [u8; 16] {
    sign::clear(text.as_bytes())
        .as_ref()
        .chunks(1)
        .fold((0x1234_u128, 1_u128), |(hash, at), byte| {
            (
                hash.wrapping_mul(0x0100_0000_01b3).wrapping_add(u128::from(byte[0]).wrapping_mul(at)),
                at.wrapping_add(7919),
            )
        })
        .0
        .to_be_bytes()
}

pub(crate) fn grant(name: &str, subject: Id) -> payload::GrantAdd {
    payload::GrantAdd {
        r: r(name).into(),
        subject: subject.0.into(),
        hosts: vec![],
        labels: vec![],
        allHosts: true,
        logins: vec!["deploy".into()],
        via: 3,
        maxTtl: 0,
        approvals: 0,
        forcedCommand: String::new(),
        sourceAddresses: vec![],
        intervals: vec![],
        notAfter: 0,
        permits: 1,
    }
}

/// Every role to its actor, in block 1.
pub(crate) fn cast() -> Log {
    let mut log = Log::default();
    for (actor, roles) in [
        (ADMIN, Roles::ADMIN),
        (ADMIN_2, Roles::ADMIN),
        (ADMIN_3, Roles::ADMIN),
        (ISSUER, Roles::ISSUER),
        (WATCHDOG, Roles::WATCHDOG),
        (WATCHDOG_2, Roles::WATCHDOG),
        (APPROVER, Roles::APPROVER | Roles::MEMBER),
        (APPROVER_2, Roles::APPROVER | Roles::MEMBER),
        (REVOKER, Roles::REVOKER),
    ] {
        log.role(1, actor, roles);
    }
    log
}
