//! The table of authority, sent to the contract cell by cell: who × which class × which realm × which way. What must come of it is
//! written down here, from the design's table; nothing of it is read from the contract.

use alloy_primitives::U256;
use alloy_primitives::{Address, B256};
use countersign_certificate::Id;
use countersign_chain::{
    contract::{IRegistry, Refusal},
    keys::ActorKey,
};
use countersign_registry::{
    EntryRef, Kind, LogEntry,
    entries::{Entry, Roles, Targets, payload},
    head::Meta,
    replay::IgnoreReason,
    sign::{self, Write},
};
use std::collections::{BTreeMap, BTreeSet};

use crate::{
    ground::{Call, Ground, Host, Realm, THRESHOLD, asked_shard, key},
    samples::{Facts, Trace, batch, bytes, member, role, write},
};

/// What an accepted entry is to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It counts.
    Counts,
    /// It is ignored, for this reason.
    Ignored(IgnoreReason),
    /// It was taken, and means nothing any more.
    Lapsed,
    /// Hosts do not read its shard.
    Unread,
}

/// One line of the design's table, and what a host makes of an entry by a writer that is locked.
pub(crate) struct Class {
    class: u16,
    /// The kind that stands for the class.
    pub(crate) kind: Kind,
    shard_class: u64,
    /// Role bits that may write it.
    roles: u64,
    /// Whether a threshold of roots may.
    roots: bool,
    anybody: bool,
    /// By a writer with the role.
    effect: Effect,
    /// The same, once it is locked.
    locked: Effect,
}

const VOID: Effect = Effect::Ignored(IgnoreReason::ActorLocked);

const fn class(class: u16, kind: Kind, shard_class: u64, roles: u64, roots: bool, locked: Effect) -> Class {
    let effect = if class > 8 { Effect::Unread } else { Effect::Counts };
    Class { class, kind, shard_class, roles, roots, anybody: class == 9, effect, locked }
}

/// No class at all.
const UNDEFINED: u16 = 0x0a;
const SPARE_ROLE: u64 = 1 << 8;

pub(crate) const CLASSES: [Class; 12] = [
    class(0x00, Kind::CA_ADD, 0, 0, true, Effect::Counts),
    class(0x01, Kind::HOST_ADD, 1, Roles::ADMIN, true, VOID),
    class(0x02, Kind::KEY_LOCK, 2, Roles::REVOKER, true, Effect::Counts),
    class(0x03, Kind::CERT_REVOKE, 3, Roles::REVOKER | Roles::ISSUER, true, Effect::Counts),
    class(0x04, Kind::BATCH, 4, Roles::ISSUER, false, VOID),
    class(0x05, Kind::COUNTERSIGN, 4, Roles::WATCHDOG, false, VOID),
    class(0x06, Kind::DENY, 4, Roles::APPROVER, false, VOID),
    class(0x07, Kind::REQUEST, 5, Roles::MEMBER, false, VOID),
    class(0x08, Kind::PUBLIC_DATA, 6, Roles::ADMIN | Roles::ISSUER, false, VOID),
    class(0x09, Kind::ENROL, 7, 0, true, Effect::Unread),
    class(0x10, Kind(0x1000), 8, SPARE_ROLE, false, Effect::Unread),
    class(UNDEFINED, Kind(0x0a00), 2, 0, false, Effect::Unread),
];

/// Who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Admin,
    Issuer,
    Watchdog,
    Approver,
    Revoker,
    Member,
    /// The role of class 10.
    Spare,
    /// Every role, until they were taken away.
    Dismissed,
    /// Every role, and locked.
    Locked,
    Stranger,
    /// One root of the four.
    Root,
    /// One below the threshold.
    TwoRoots,
    /// The threshold.
    ThreeRoots,
}

const EVERYBODY: [Who; 13] = [
    Who::Admin,
    Who::Issuer,
    Who::Watchdog,
    Who::Approver,
    Who::Revoker,
    Who::Member,
    Who::Spare,
    Who::Dismissed,
    Who::Locked,
    Who::Stranger,
    Who::Root,
    Who::TwoRoots,
    Who::ThreeRoots,
];

const EVERY_ROLE: u64 = 0x3f | SPARE_ROLE;

impl Who {
    /// What the contract knows of it in the own realm.
    const fn roles(self) -> u64 {
        match self {
            Self::Admin => Roles::ADMIN,
            Self::Issuer => Roles::ISSUER,
            Self::Watchdog => Roles::WATCHDOG,
            Self::Approver => Roles::APPROVER,
            Self::Revoker => Roles::REVOKER,
            Self::Member => Roles::MEMBER,
            Self::Spare => SPARE_ROLE,
            Self::Locked => EVERY_ROLE,
            Self::Dismissed | Self::Stranger | Self::Root | Self::TwoRoots | Self::ThreeRoots => 0,
        }
    }

    /// The keys it has.
    fn keys(self, own: &Realm) -> Vec<&ActorKey> {
        let count = match self {
            Self::Root => 1,
            Self::TwoRoots => 2,
            Self::ThreeRoots => 3,
            _ => 0,
        };
        own.roots.iter().take(count).collect()
    }

    /// Several roots write by their signatures alone.
    const fn is_several(self) -> bool {
        matches!(self, Self::TwoRoots | Self::ThreeRoots)
    }
}

/// How it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// `append`, as the sender.
    Sender,
    /// `appendMany`, as the sender, after an entry that anybody may write.
    Many,
    /// `appendBySig`, relayed by a stranger.
    Signature,
    /// `appendByRoots`, with as many signatures as it can make, or forge.
    Roots,
}

const WAYS: [Way; 4] = [Way::Sender, Way::Many, Way::Signature, Way::Roots];

/// One cell of the table.
struct Cell {
    who: Who,
    class: &'static Class,
    own: bool,
    way: Way,
    write: Write,
    trace: Trace,
}

impl Cell {
    fn name(&self) -> String {
        let realm = if self.own { "own" } else { "other" };
        format!("{:?} writes class {:02x} in the {realm} realm by {:?}", self.who, self.class.class, self.way)
    }
}

/// The realms and their people.
struct Stage {
    ground: Ground,
    facts: Facts,
    /// Batches to countersign, with their entries' hashes; one for each way.
    batches: Vec<(Id, B256)>,
    people: BTreeMap<Who, ActorKey>,
}

impl Stage {
    async fn new() -> Self {
        let ground = Ground::new().await;
        let mut people = BTreeMap::new();
        for (seed, who) in (0x41..).zip(EVERYBODY) {
            let person = if who == Who::Root { ground.own.roots[0].clone() } else { key(seed) };
            ground.fund(person.address()).await;
            people.insert(who, person);
        }
        let address = |who: Who| people[&who].address();
        let facts =
            Facts::log(&ground, vec![address(Who::Issuer), address(Who::Locked), address(Who::Dismissed)]).await;
        let mut entries = Vec::new();
        for who in EVERYBODY {
            let roles = if who == Who::Dismissed { EVERY_ROLE } else { who.roles() };
            if roles & !Roles::MEMBER != 0 {
                entries.push(role(address(who), roles));
            }
            if roles & Roles::MEMBER != 0 {
                entries.push(member(address(who), facts.user));
            }
        }
        let writes: Vec<Write> = entries.iter().map(|entry| write(entry, 0)).collect();
        ground.govern(&ground.own, &writes).await;
        // The other realm is in use as well.
        ground.govern(&ground.other, &[write(&role(Address::repeat_byte(0x99), Roles::ADMIN), 0)]).await;

        let issuer = address(Who::Issuer);
        let mut calls = vec![];
        for number in [11, 12, 13] {
            let entry = Entry::Batch(batch(number, facts.ca));
            calls.push(ground.append(issuer, ground.own.id, &write(&entry, 0)));
        }
        let away = [role(address(Who::Dismissed), 0), Entry::Lock(Targets::Actors(vec![address(Who::Locked)]))];
        let away: Vec<Write> = away.iter().map(|entry| write(entry, 0)).collect();
        calls.push(ground.decided(&ground.own, &away));
        let receipts = ground.accepted(&calls).await;
        let batches = (11..).zip(&receipts[..3]).map(|(number, receipt)| {
            let id = sign::record_id(Kind::BATCH, issuer, bytes(number));
            (id, sign::entry_hash(ground.own.id, &receipt.entries[0]))
        });
        let batches = batches.collect();
        Self { ground, facts, batches, people }
    }

    fn realm(&self, cell: &Cell) -> &Realm {
        if cell.own { &self.ground.own } else { &self.ground.other }
    }

    /// Who the entry is by, if it is one.
    fn actor(&self, who: Who, way: Way) -> Address {
        if way == Way::Roots { Address::ZERO } else { self.people[&who].address() }
    }

    fn cells(&self, now: u64) -> Vec<Cell> {
        let mut cells = Vec::new();
        for who in EVERYBODY {
            for class in &CLASSES {
                for (own, way) in [true, false].into_iter().flat_map(|own| WAYS.map(|way| (own, way))) {
                    if who.is_several() && way != Way::Roots {
                        continue;
                    }
                    let number = 1000 + u32::try_from(cells.len()).unwrap();
                    let (write, trace) = self.sample(class, number, self.actor(who, way), way, now);
                    cells.push(Cell { who, class, own, way, write, trace });
                }
            }
        }
        cells
    }

    fn sample(&self, class: &Class, number: u32, actor: Address, way: Way, now: u64) -> (Write, Trace) {
        let kind = class.kind;
        if class.class == 0x10 || class.class == UNDEFINED {
            let data = sign::clear(&bytes::<8>(number));
            return (Write { shard: asked_shard(kind, now), kind: kind.0, data }, Trace::Nowhere);
        }
        let (entry, trace) = if kind == Kind::COUNTERSIGN && way != Way::Roots {
            let (id, hash) = self.batches[WAYS.iter().position(|one| *one == way).unwrap()];
            let countersign = payload::Countersign { batch: id.0.into(), entryHash: hash };
            (Entry::Countersign(countersign), Trace::Countersigner(id, actor))
        } else {
            self.facts.good(kind, number, actor)
        };
        (write(&entry, now), trace)
    }

    fn call(&self, cell: &Cell, nonce: u64, root_nonce: u64) -> Call {
        let (ground, realm) = (&self.ground, self.realm(cell));
        let person = &self.people[&cell.who];
        let one = std::slice::from_ref(&cell.write);
        match cell.way {
            Way::Sender => ground.append(person.address(), realm.id, &cell.write),
            Way::Many => {
                let (inbox, _) = self.facts.good(Kind::ENROL, 1, person.address());
                ground.append_many(person.address(), realm.id, &[write(&inbox, 0), cell.write.clone()])
            }
            Way::Signature => ground.by_signature(person, realm.id, one, nonce),
            Way::Roots => {
                let mut signers = cell.who.keys(&ground.own);
                if signers.is_empty() {
                    signers = vec![person; THRESHOLD];
                }
                ground.by_roots(realm, &signers, one, root_nonce)
            }
        }
    }

    /// The contract looks at the roots' signatures last.
    fn signatures_suffice(&self, cell: &Cell) -> Result<(), Refusal> {
        let signatures = match cell.who {
            Who::Root if cell.own => 1,
            Who::TwoRoots if cell.own => 2,
            Who::ThreeRoots if cell.own => return Ok(()),
            _ => {
                let signer = self.realm(cell).roots[0].address();
                return Err(Refusal::WrongSignature(IRegistry::WrongSignature { signer }));
            }
        };
        let (signatures, threshold) = (U256::from(signatures), U256::from(THRESHOLD));
        Err(Refusal::BelowThreshold(IRegistry::BelowThreshold { signatures, threshold }))
    }

    /// What must come of a cell.
    fn expected(&self, cell: &Cell) -> Result<Effect, Refusal> {
        let (class, realm, kind) = (cell.class, self.realm(cell), cell.class.kind.0);
        let by_roots = cell.way == Way::Roots;
        if class.class == UNDEFINED {
            return Err(Refusal::UndefinedClass(IRegistry::UndefinedClass { kind }));
        }
        let roles = if cell.own { cell.who.roles() } else { 0 };
        if class.anybody || (by_roots && class.roots) || (!by_roots && roles & class.roles != 0) {
            if by_roots {
                self.signatures_suffice(cell)?;
            }
            return Ok(if cell.who == Who::Locked { class.locked } else { class.effect });
        }
        let (realm, actor) = (realm.id, self.actor(cell.who, cell.way));
        Err(Refusal::NotAllowed(IRegistry::NotAllowed { realm, actor, byRoots: by_roots, kind }))
    }
}

/// The shard that an entry of the class lands in, at block time `time`.
fn landed(class: &Class, time: u64) -> u64 {
    let epoch = match class.shard_class {
        0..=2 => 0,
        3 => time / (30 * 86_400),
        _ => time / 86_400,
    };
    class.shard_class << 32 | epoch
}

/// Compares what a host made of entries with what it should have: those that are ignored are exactly those, for these reasons.
pub(crate) fn compare(
    known: &countersign_registry::Effective,
    host: &Host,
    expected: &[(String, EntryRef, Effect, Trace)],
) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut ignored: BTreeMap<EntryRef, IgnoreReason> =
        known.ignored.iter().map(|ignored| (ignored.at, ignored.reason)).collect();
    for (name, at, effect, trace) in expected {
        let (reason, shows) = (ignored.remove(at), trace.shows(known));
        let right = match effect {
            Effect::Counts => reason.is_none() && (shows || matches!(trace, Trace::Nowhere)),
            Effect::Ignored(expected) => reason == Some(*expected) && !shows,
            Effect::Lapsed => reason.is_none() && !shows,
            Effect::Unread => !host.reads(at.shard) && reason.is_none() && !shows,
        };
        if !right {
            wrong.push(format!("{name}: expected {effect:?}, ignored: {reason:?}, shows: {shows}"));
        }
    }
    wrong.extend(ignored.iter().map(|(at, reason)| format!("{at:?} is ignored as {reason}, and should not be")));
    wrong
}

#[tokio::test]
async fn each_actor_writes_what_the_table_says_by_each_way_and_a_host_takes_of_it_what_the_table_says() {
    let stage = Stage::new().await;
    let ground = &stage.ground;
    let cells = stage.cells(ground.now().await);
    assert_eq!(cells.len(), 11 * 12 * 2 * 4 + 2 * 12 * 2);
    let (mut refused, mut allowed, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    for cell in &cells {
        let call = stage.call(cell, 0, stage.realm(cell).nonce.get());
        let expected = stage.expected(cell);
        let answer = ground.ask(&call).await.map_err(|refusal| refusal.expect("one of the contract's errors"));
        if answer.as_ref().err() != expected.as_ref().err() {
            wrong.push(format!("{}: expected {expected:?}, the contract says {answer:?}", cell.name()));
        }
        match expected {
            Ok(effect) => allowed.push((cell, effect)),
            Err(_) => refused.push(call),
        }
    }
    assert!(wrong.is_empty(), "{} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
    ground.refused_without_a_trace(&refused, &[ground.contract]).await;

    let mut nonces: BTreeMap<(Who, bool), u64> = BTreeMap::new();
    let mut next_nonce = |cell: &Cell| {
        let nonce = nonces.entry((cell.who, cell.own)).or_default();
        *nonce += 1;
        *nonce - 1
    };
    let calls: Vec<Call> = allowed
        .iter()
        .map(|(cell, _)| match cell.way {
            Way::Signature => stage.call(cell, next_nonce(cell), 0),
            Way::Roots => stage.call(cell, 0, ground.own.nonce.replace(ground.own.nonce.get() + 1)),
            _ => stage.call(cell, 0, 0),
        })
        .collect();
    let receipts = ground.accepted(&calls).await;

    let log: Vec<_> = [&ground.own, &ground.other].map(|realm| ground.log(realm)).into();
    let mut places: BTreeMap<B256, (EntryRef, LogEntry)> = BTreeMap::new();
    for realm in log {
        // The last of a transaction: what stands before it is for the inbox.
        places.extend(realm.await.into_iter().map(|(at, entry, hash)| (hash, (at, entry))));
    }
    let mut expected = Vec::new();
    for ((cell, effect), receipt) in allowed.iter().zip(&receipts) {
        let (at, entry) = &places[&receipt.hash];
        assert_eq!(receipt.entries.len(), if cell.way == Way::Many { 2 } else { 1 }, "{}", cell.name());
        let meta = Meta::unpack(entry.meta).unwrap();
        assert_eq!((entry.actor, meta.kind), (stage.actor(cell.who, cell.way), cell.class.kind), "{}", cell.name());
        assert_eq!((entry.shard, &entry.data), (landed(cell.class, at.time), &cell.write.data), "{}", cell.name());
        if cell.own {
            expected.push((cell.name(), *at, *effect, cell.trace.clone()));
        }
    }
    let elsewhere: BTreeSet<u64> = ground.log(&ground.other).await.iter().map(|(at, ..)| at.shard >> 32).collect();
    assert_eq!(
        elsewhere,
        BTreeSet::from([0, 7]),
        "the other realm has its own governance and strangers' inbox entries"
    );

    let mut host = Host::new(ground, stage.facts.host);
    let known = host.knows(ground).await;
    let wrong = compare(&known, &host, &expected);
    assert!(wrong.is_empty(), "{} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
}
