//! Payloads that make no sense, of every kind, by somebody who may write it: each is on the ledger, ignored by hosts for its very
//! reason, and what is logged after it counts. Kinds of a later version likewise; critical ones stop every publication.

use alloy_primitives::{Address, B256, Bytes, U256};
use countersign_agent::reason::Reason;
use countersign_certificate::Fingerprint20;
use countersign_chain::{
    contract::{IRegistry, Refusal},
    keys::ActorKey,
};
use countersign_registry::{
    EntryRef, Kind,
    entries::{Entry, Targets, payload},
    replay::IgnoreReason,
    sign::{self, Write},
};

use crate::{
    faults::{faults, full, limit},
    ground::{Call, Ground, Host, asked_shard, key},
    samples::{Facts, Trace, bytes, member, role, write},
    senseless::{aliased, nested, senseless},
    spec::kinds,
    table::{Effect, compare},
};

/// What must come of a payload.
#[derive(Clone, Debug)]
enum Fate {
    /// It is on the ledger.
    Logged(Effect),
    /// The contract refuses it, with this error.
    Refused(Refusal),
    /// The contract interprets the kind and refuses it as not canonical, or its ABI decoder does.
    NotDecoded,
}

struct Case {
    name: String,
    kind: Kind,
    data: Bytes,
    fate: Fate,
    trace: Trace,
}

const fn is_interpreted(kind: Kind) -> bool {
    matches!(kind, Kind::ROOT_SET | Kind::ROLE_SET | Kind::MEMBER_SET)
}

/// What must come of a fault.
fn fate(kind: Kind, data: &[u8], reason: IgnoreReason) -> Fate {
    if is_interpreted(kind) {
        return match reason {
            IgnoreReason::Malformed => Fate::NotDecoded,
            _ => Fate::Refused(Refusal::NotCanonical(IRegistry::NotCanonical { kind: kind.0 })),
        };
    }
    if kind == Kind::CERT_REVOKE && (data.len() < 25 || !(data.len() - 17).is_multiple_of(8)) {
        let size = U256::from(data.len());
        return Fate::Refused(Refusal::WrongRevocationWidth(IRegistry::WrongRevocationWidth { kind: kind.0, size }));
    }
    Fate::Logged(if kind == Kind::ENROL { Effect::Unread } else { Effect::Ignored(reason) })
}

/// No data, and more than fits: refused whatever the kind.
fn sizes(kind: Kind) -> Vec<Case> {
    let wrong = |size: usize| {
        let (size, limit) = (U256::from(size), U256::from(limit(kind)));
        Fate::Refused(Refusal::WrongSize(IRegistry::WrongSize { kind: kind.0, size, limit }))
    };
    let large = [full(kind), vec![0xff]].concat();
    let fates = [wrong(0), wrong(large.len())];
    let case = |(fate, data): (Fate, Vec<u8>)| Case {
        name: format!("{kind}: {} bytes", data.len()),
        kind,
        data: data.into(),
        fate,
        trace: Trace::Nowhere,
    };
    fates.into_iter().zip([Vec::new(), large]).map(case).collect()
}

struct Scene {
    ground: Ground,
    facts: Facts,
    host: Host,
    /// Holds every role there is, and a binding.
    everybody: ActorKey,
}

impl Scene {
    async fn new() -> Self {
        let ground = Ground::new().await;
        let everybody = key(0x41);
        ground.fund(everybody.address()).await;
        let facts = Facts::log(&ground, vec![everybody.address()]).await;
        let entries = [role(everybody.address(), 0xffff), member(everybody.address(), facts.user)];
        ground.govern(&ground.own, &entries.map(|entry| write(&entry, 0))).await;
        ground.world.anvil.mine(3).await;
        let mut host = Host::new(&ground, facts.host);
        host.publishes(&ground).await;
        Self { ground, facts, host, everybody }
    }

    fn actor(&self, kind: Kind) -> Address {
        if kind.class() == 0 { Address::ZERO } else { self.everybody.address() }
    }

    /// One call for these writes, by whoever may write them.
    fn call(&self, by_roots: bool, writes: &[Write]) -> Call {
        let ground = &self.ground;
        if by_roots {
            return ground.decided(&ground.own, writes);
        }
        ground.append_many(self.everybody.address(), ground.own.id, writes)
    }

    /// Logs what must be logged, in one block and in few transactions, and says where each stands.
    async fn log(&self, cases: &[Case], now: u64) -> Vec<(String, EntryRef, Effect, Trace)> {
        let (mut calls, mut told) = (Vec::new(), Vec::new());
        for by_roots in [true, false] {
            let mine = cases.iter().filter(|case| (case.kind.class() == 0) == by_roots);
            let mut pending: Vec<Write> = Vec::new();
            for case in mine {
                let Fate::Logged(effect) = &case.fate else { continue };
                let size: usize = pending.iter().map(|write| write.data.len() + 500).sum();
                if size + case.data.len() > 150_000 {
                    calls.push(self.call(by_roots, &std::mem::take(&mut pending)));
                }
                pending.push(self.write(case, now));
                told.push((case, *effect));
            }
            calls.extend((!pending.is_empty()).then(|| self.call(by_roots, &pending)));
        }
        let receipts = self.ground.accepted(&calls).await;
        let places: Vec<(EntryRef, B256)> =
            self.ground.log(&self.ground.own).await.into_iter().map(|(at, _, hash)| (at, hash)).collect();
        let mut at = receipts.iter().flat_map(|receipt| {
            let (places, hash) = (&places, receipt.hash);
            places.iter().filter(move |(_, of)| *of == hash).map(|(at, _)| *at)
        });
        let logged: Vec<_> = told
            .into_iter()
            .map(|(case, effect)| (case.name.clone(), at.next().unwrap(), effect, case.trace.clone()))
            .collect();
        assert_eq!(at.next(), None, "an entry for each case and no other");
        logged
    }

    fn write(&self, case: &Case, now: u64) -> Write {
        Write { shard: asked_shard(case.kind, now), kind: case.kind.0, data: case.data.clone() }
    }

    /// Asks for, and really sends, what the contract must refuse.
    async fn refused(&self, cases: &[Case], now: u64) {
        let (ground, mut calls, mut wrong) = (&self.ground, Vec::new(), Vec::new());
        let nonce = ground.own.nonce.get();
        for case in cases.iter().filter(|case| !matches!(case.fate, Fate::Logged(_))) {
            let call = self.call(case.kind.class() == 0, &[self.write(case, now)]);
            ground.own.nonce.set(nonce);
            let answer = ground.ask(&call).await;
            let not_canonical = Refusal::NotCanonical(IRegistry::NotCanonical { kind: case.kind.0 });
            let right = match &case.fate {
                Fate::Refused(refusal) => answer == Err(Some(refusal.clone())),
                _ => answer == Err(Some(not_canonical)) || answer == Err(None),
            };
            if !right {
                wrong.push(format!("{}: expected {:?}, the contract says {answer:?}", case.name, case.fate));
            }
            calls.push(call);
        }
        assert!(wrong.is_empty(), "{} cases are wrong:\n{}", wrong.len(), wrong.join("\n"));
        assert!(calls.len() > 100, "{} are refused", calls.len());
        ground.refused_without_a_trace(&calls, &[ground.contract]).await;
    }

    /// A good entry of every kind, as no other `number` gives it.
    fn good(&self, number: u32) -> Vec<Case> {
        let mut cases = Vec::new();
        for kind in kinds().into_keys() {
            if kind.is_critical() || kind == Kind::ROOT_SET {
                continue;
            }
            let (entry, trace) = self.facts.good(kind, number + u32::from(kind.0), self.actor(kind));
            let effect = match kind {
                Kind::CONFIRM => Effect::Ignored(IgnoreReason::NothingWaits),
                Kind::ENROL => Effect::Unread,
                _ => Effect::Counts,
            };
            cases.push(Case {
                name: format!("a good {kind}"),
                kind,
                data: entry.encode(),
                fate: Fate::Logged(effect),
                trace,
            });
        }
        cases
    }

    fn malformed(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        let me = self.everybody.address();
        for (kind, layout) in kinds() {
            // One that cannot be read stops every reader: the test below.
            if kind.is_critical() {
                continue;
            }
            let entry = if kind == Kind::ROOT_SET {
                let roots = self.ground.own.addresses();
                Entry::RootSet(payload::RootSet { threshold: U256::from(3), roots })
            } else {
                self.facts.good(kind, 4000 + u32::from(kind.0), self.actor(kind)).0
            };
            for (name, data, reason) in faults(kind, &layout, &entry) {
                let fate = fate(kind, &data, reason);
                cases.push(Case {
                    name: format!("{kind}: {name}"),
                    kind,
                    data: data.into(),
                    fate,
                    trace: Trace::Nowhere,
                });
            }
            cases.extend(sizes(kind));
        }
        let mut logged = |name: String, kind: Kind, data: Bytes, effect: Effect, trace: Trace| {
            cases.push(Case { name: format!("{kind}: {name}"), kind, data, fate: Fate::Logged(effect), trace });
        };
        let malformed = Effect::Ignored(IgnoreReason::Malformed);
        logged(
            "a hundred names in one".into(),
            Kind::CA_LOOSEN,
            aliased(&self.facts).into(),
            malformed,
            Trace::Nowhere,
        );
        logged("the same".into(), Kind::CA_TIGHTEN, aliased(&self.facts).into(), malformed, Trace::Nowhere);
        for (kind, name, data) in nested() {
            logged(name.into(), kind, data.into(), malformed, Trace::Nowhere);
        }
        let (first, _) = self.facts.good(Kind::ACKNOWLEDGE, 5989, me);
        logged("the first".into(), Kind::ACKNOWLEDGE, first.encode(), Effect::Counts, Trace::Nowhere);
        for (name, entry, reason) in senseless(&self.facts, me) {
            logged(name, entry.kind(), entry.encode(), Effect::Ignored(reason), Trace::Nowhere);
        }
        // As many as fit into one entry: nothing is wrong with that.
        let keys: Vec<Fingerprint20> = (0..204).map(|number| Fingerprint20(bytes(9000 + number))).collect();
        let last = Trace::LockedKey(keys[203]);
        let locks = Entry::Lock(Targets::Keys(keys));
        logged("204 keys".into(), Kind::KEY_LOCK, locks.encode(), Effect::Counts, last);
        logged("any bytes".into(), Kind::BATCH, full(Kind::BATCH).into(), Effect::Counts, Trace::Nowhere);
        cases
    }
}

fn assert_right(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn a_malformed_payload_of_any_kind_is_ignored_for_its_very_reason_and_what_comes_after_it_counts() {
    let mut scene = Scene::new().await;
    let now = scene.ground.now().await;
    let cases = scene.malformed();
    scene.refused(&cases, now).await;
    let mut expected = scene.log(&cases, now).await;
    assert!(expected.len() > 900, "{} are logged", expected.len());
    scene.host.publishes(&scene.ground).await;
    let known = scene.host.knows(&scene.ground).await;
    assert_right(&compare(&known, &scene.host, &expected));

    expected.extend(scene.log(&scene.good(20_000), now).await);
    let known = scene.host.knows(&scene.ground).await;
    assert_right(&compare(&known, &scene.host, &expected));
    // The same from the beginning, by an agent that starts with nothing.
    let mut fresh = Host::new(&scene.ground, scene.facts.host);
    let known = fresh.knows(&scene.ground).await;
    assert_right(&compare(&known, &fresh, &expected));
}

#[tokio::test]
async fn kinds_of_a_later_version_are_ignored_and_critical_ones_stop_every_publication() {
    let mut scene = Scene::new().await;
    let now = scene.ground.now().await;
    let mut cases = Vec::new();
    let mut add = |kind: u16, effect: Effect| {
        let data = sign::clear(&[7; 24]);
        let name = format!("kind {kind:#06x}");
        cases.push(Case { name, kind: Kind(kind), data, fate: Fate::Logged(effect), trace: Trace::Nowhere });
    };
    let unknown = Effect::Ignored(IgnoreReason::UnknownKind);
    for kind in [0x0008, 0x007f] {
        add(kind, unknown);
    }
    for class in (0x01..=0x09).chain(0x10..=0x17) {
        for number in [0x7f, 0x80, 0xff] {
            add(class << 8 | number, if class < 0x09 { unknown } else { Effect::Unread });
        }
    }
    let mut expected = scene.log(&cases, now).await;
    scene.host.publishes(&scene.ground).await;
    let known = scene.host.knows(&scene.ground).await;
    assert_right(&compare(&known, &scene.host, &expected));
    expected.extend(scene.log(&scene.good(20_000), now).await);
    let known = scene.host.knows(&scene.ground).await;
    assert_right(&compare(&known, &scene.host, &expected));

    // Nothing new after a critical one, not even the denial that was logged before it in the same block; whatever its data.
    let ground = &scene.ground;
    let before = scene.host.files.snapshot_files();
    let critical = |kind: u16, data: &'static [u8]| Write { shard: 0, kind, data: Bytes::from_static(data) };
    let (lock, _) = scene.facts.good(Kind::KEY_LOCK, 30_000, Address::ZERO);
    for critical in [critical(0x00ff, &[1, 2, 3]), critical(Kind::MIGRATE.0, &[0])] {
        ground.govern(&ground.own, &[write(&lock, now), critical]).await;
        for round in ["latest", "final", "restarted"] {
            let failure = scene.host.cycle(ground).await.expect("it publishes nothing");
            assert_eq!(failure.reason, Reason::UpgradeNeeded, "{round}: {failure}");
            assert!(failure.message.contains("0x00ff"), "the first one is named: {failure}");
            assert!(scene.host.files.snapshot_files() == before, "{round}: the snapshot has changed");
            ground.world.anvil.mine(3).await;
            if round == "final" {
                scene.host.restart();
            }
        }
    }
}
