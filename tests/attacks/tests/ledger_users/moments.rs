//! Blocks in which authority comes or goes. The contract looks at the very moment, a host at the block: what was written in the
//! block in which a role came, went or was locked is on the ledger, and counts only where a denial does.

use countersign_certificate::Id;
use countersign_chain::{
    contract::{IRegistry, Refusal},
    keys::ActorKey,
};
use countersign_registry::{
    B256, EntryRef, Kind,
    entries::{Entry, Roles, Targets, payload},
    replay::IgnoreReason,
    sign::{self, Write},
};

use crate::{
    ground::{Call, Ground, Host, Receipt, key},
    samples::{Facts, Trace, batch, bytes, member, role, write},
    table::{CLASSES, Effect, compare},
};

const EVERY_ROLE: u64 = 0x3f;

/// When an actor writes; it holds every role before, but for [`Moment::AfterGrant`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// A block before it is dismissed.
    BlockBeforeDismissal,
    /// A block before it is locked.
    BlockBeforeLock,
    /// In the block that gives it its roles, afterwards.
    AfterGrant,
    /// In the block that takes them away, before that.
    BeforeDismissal,
    /// In a block that takes them away and gives them again, after both.
    AfterReturn,
    /// In the block that locks it, before that.
    BeforeLock,
    /// In the block that locks it, afterwards.
    AfterLock,
    /// In the block that ends its lock, afterwards.
    AfterUnlock,
    /// A block after the one that ends its lock.
    BlockAfterUnlock,
}

const MOMENTS: [Moment; 9] = [
    Moment::BlockBeforeDismissal,
    Moment::BlockBeforeLock,
    Moment::AfterGrant,
    Moment::BeforeDismissal,
    Moment::AfterReturn,
    Moment::BeforeLock,
    Moment::AfterLock,
    Moment::AfterUnlock,
    Moment::BlockAfterUnlock,
];

/// What must come of an entry of this class, written at that moment, once everything is final. Denials and revocations count
/// whoever of those the contract lets write them; what stands in the directory stays; deeds need their actor's role for ever.
fn expected(moment: Moment, class: u8) -> Effect {
    let lapses = matches!(moment, Moment::BlockBeforeDismissal | Moment::BlockBeforeLock) && class >= 0x04;
    match (moment, class) {
        (_, 0x02 | 0x03) | (Moment::BlockAfterUnlock, _) => Effect::Counts,
        _ if lapses => Effect::Lapsed,
        (Moment::BlockBeforeDismissal | Moment::BlockBeforeLock, _) => Effect::Counts,
        (Moment::BeforeLock | Moment::AfterLock | Moment::AfterUnlock, _) => Effect::Ignored(IgnoreReason::ActorLocked),
        (_, 0x07) => Effect::Ignored(IgnoreReason::NotBound),
        _ => Effect::Ignored(IgnoreReason::NoRole),
    }
}

struct Scene {
    ground: Ground,
    facts: Facts,
    batches: Vec<(Id, B256)>,
    expected: Vec<(String, B256, Effect, Trace)>,
}

impl Scene {
    async fn new() -> Self {
        let ground = Ground::new().await;
        let (actors, issuer) = (MOMENTS.map(actor), key(0x40));
        let issuers = actors.iter().chain([&issuer]).map(ActorKey::address).collect();
        let facts = Facts::log(&ground, issuers).await;
        let mut entries = vec![role(issuer.address(), Roles::ISSUER)];
        for (moment, actor) in MOMENTS.iter().zip(&actors) {
            if *moment != Moment::AfterGrant {
                entries.extend([role(actor.address(), EVERY_ROLE), member(actor.address(), facts.user)]);
            }
        }
        let unlocked = [Moment::AfterUnlock, Moment::BlockAfterUnlock].map(|moment| actor(moment).address());
        let lock = Entry::Lock(Targets::Actors(unlocked.to_vec()));
        ground.govern(&ground.own, &writes(&entries)).await;
        let mut calls = vec![ground.decided(&ground.own, &writes(&[lock]))];
        let mut batches = Vec::new();
        for (nonce, number) in (0..).zip(0..u32::try_from(MOMENTS.len()).unwrap()) {
            let entry = Entry::Batch(batch(number, facts.ca));
            calls.push(ground.by_signature(&issuer, ground.own.id, &writes(&[entry]), nonce));
            batches.push(sign::record_id(Kind::BATCH, issuer.address(), bytes(number)));
        }
        let receipts = ground.accepted(&calls).await;
        let hash = |receipt: &Receipt| sign::entry_hash(ground.own.id, &receipt.entries[0]);
        let batches = batches.into_iter().zip(receipts[1..].iter().map(hash)).collect();
        Self { ground, facts, batches, expected: Vec::new() }
    }

    /// An entry of each class that actors with roles write, by the actor of this moment.
    fn calls(&self, moment: Moment, now: u64) -> Vec<(Call, String, Effect, Trace)> {
        let mut calls = Vec::new();
        let actor = actor(moment);
        let written = CLASSES.iter().filter(|class| (0x01..=0x08).contains(&class.kind.class()));
        for (nonce, class) in (0..).zip(written) {
            let number = 1000 + 100 * place(moment) + u32::from(class.kind.class());
            let (entry, trace) = if class.kind == Kind::COUNTERSIGN {
                let (id, hash) = self.batches[usize::try_from(place(moment)).unwrap()];
                let countersign = payload::Countersign { batch: id.0.into(), entryHash: hash };
                (Entry::Countersign(countersign), Trace::Countersigner(id, actor.address()))
            } else {
                self.facts.good(class.kind, number, actor.address())
            };
            let call = self.ground.by_signature(&actor, self.ground.own.id, &[write(&entry, now)], nonce);
            let name = format!("{moment:?}, class {:02x}", class.kind.class());
            calls.push((call, name, expected(moment, class.kind.class()), trace));
        }
        calls
    }

    /// One block of what roots decide first, what actors write at these moments, and what roots decide last; all accepted.
    async fn block(&mut self, first: &[Entry], moments: &[Moment], last: &[Entry]) {
        let ground = &self.ground;
        let now = ground.now().await;
        let mut calls = Vec::new();
        if !first.is_empty() {
            calls.push((ground.decided(&ground.own, &writes(first)), None));
        }
        for moment in moments {
            for (call, name, effect, trace) in self.calls(*moment, now) {
                calls.push((call, Some((name, effect, trace))));
            }
        }
        if !last.is_empty() {
            calls.push((ground.decided(&ground.own, &writes(last)), None));
        }
        let (calls, told): (Vec<Call>, Vec<_>) = calls.into_iter().unzip();
        for (receipt, told) in ground.accepted(&calls).await.iter().zip(told) {
            if let Some((name, effect, trace)) = told {
                self.expected.push((name, receipt.hash, effect, trace));
            }
        }
    }
}

fn writes(entries: &[Entry]) -> Vec<Write> {
    entries.iter().map(|entry| write(entry, 0)).collect()
}

fn place(moment: Moment) -> u32 {
    u32::try_from(MOMENTS.iter().position(|one| *one == moment).unwrap()).unwrap()
}

fn actor(moment: Moment) -> ActorKey {
    key(0x41 + u8::try_from(place(moment)).unwrap())
}

#[tokio::test]
async fn in_the_block_in_which_authority_comes_or_goes_its_holder_only_denies() {
    let mut scene = Scene::new().await;
    let address = |moment: Moment| actor(moment).address();
    let user = scene.facts.user;
    scene.block(&[], &[Moment::BlockBeforeDismissal, Moment::BlockBeforeLock], &[]).await;

    let first = [
        role(address(Moment::AfterGrant), EVERY_ROLE),
        member(address(Moment::AfterGrant), user),
        role(address(Moment::AfterReturn), 0),
        role(address(Moment::AfterReturn), EVERY_ROLE),
        member(address(Moment::AfterReturn), user),
        Entry::Lock(Targets::Actors(vec![address(Moment::AfterLock)])),
        Entry::Unlock(Targets::Actors(vec![address(Moment::AfterUnlock), address(Moment::BlockAfterUnlock)])),
    ];
    let within = [
        Moment::AfterGrant,
        Moment::BeforeDismissal,
        Moment::AfterReturn,
        Moment::BeforeLock,
        Moment::AfterLock,
        Moment::AfterUnlock,
    ];
    let last = [
        role(address(Moment::BeforeDismissal), 0),
        role(address(Moment::BlockBeforeDismissal), 0),
        Entry::Lock(Targets::Actors(vec![address(Moment::BeforeLock), address(Moment::BlockBeforeLock)])),
    ];
    scene.block(&first, &within, &last).await;
    scene.block(&[], &[Moment::BlockAfterUnlock], &[]).await;

    // Whoever lost its roles is refused by the contract from the very next write on, whatever it holds signed.
    let ground = &scene.ground;
    for moment in [Moment::BeforeDismissal, Moment::BlockBeforeDismissal] {
        let (entry, _) = scene.facts.good(Kind::KEY_LOCK, 7, address(moment));
        let late = ground.by_signature(&actor(moment), ground.own.id, &writes(&[entry]), 8);
        let (realm, actor, kind) = (ground.own.id, address(moment), Kind::KEY_LOCK.0);
        let refusal = Refusal::NotAllowed(IRegistry::NotAllowed { realm, actor, byRoots: false, kind });
        assert_eq!(ground.ask(&late).await, Err(Some(refusal)), "{moment:?}");
        ground.refused_without_a_trace(&[late], &[ground.contract]).await;
    }

    let mut host = Host::new(ground, scene.facts.host);
    let known = host.knows(ground).await;
    let log = ground.log(&ground.own).await;
    let placed = |hash: &B256| -> EntryRef { log.iter().find(|(.., of)| of == hash).unwrap().0 };
    let expected: Vec<_> = (scene.expected.iter())
        .map(|(name, hash, effect, trace)| (name.clone(), placed(hash), *effect, trace.clone()))
        .collect();
    assert_eq!(expected.len(), MOMENTS.len() * 8);
    // The way back into the binding, within one block of its loss.
    let returned = log.iter().filter(|(_, entry, _)| entry.data == member(address(Moment::AfterReturn), user).encode());
    let returned = returned.last().unwrap().0;
    let mut all = expected;
    let back = Effect::Ignored(IgnoreReason::NoRole);
    all.push(("a binding in the block that ended it".into(), returned, back, Trace::Nowhere));
    let wrong = compare(&known, &host, &all);
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}
