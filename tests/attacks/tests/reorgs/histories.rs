//! Random histories: grants and members by two admins, removals, locks and unlocks, roles, CAs and their limits, settings, batches,
//! countersignatures, revoked certificates; reorgs between them, and the agent started again. After each step the helper is asked about
//! a pool of keys and certificates, and must answer what the model says.

use std::collections::BTreeMap;

use attacks::{
    cast::{BOB_KEY, CA_KEY, CAROL_KEY, Cast, Post, Question, Who},
    mutate::Seeded,
    paper::{Paper, blob},
    world::HostFiles,
};
use countersign_certificate::{Fingerprint20, Id, Serial};
use countersign_registry::{
    B256,
    entries::{Entry, Roles, Targets, payload},
    replay::setting,
};
use countersign_sshd::Reason;

use crate::{
    model::{Candidate, Event, Lockable, Model, Person, Placed, Switch, To},
    settings,
};

/// Certificates of the newest batches are asked about.
const ASKED_BATCHES: usize = 6;

struct Play {
    cast: Cast,
    post: Post,
    random: Seeded,
    model: Model,
    /// Ids of grants, memberships and batches.
    ids: BTreeMap<u32, Id>,
    grants: Vec<u32>,
    papers: BTreeMap<u32, (Paper, u8, u32)>,
    names: u32,
    reorgs: usize,
    granted: usize,
    refused: usize,
}

fn r(name: u32) -> [u8; 16] {
    let mut r = [0x5a; 16];
    r[..4].copy_from_slice(&name.to_be_bytes());
    r
}

impl Play {
    async fn new() -> Self {
        let cast = Cast::new().await;
        let post = Post::new(&cast).await;
        let ids = BTreeMap::from([(0, cast.ids.grant), (1, cast.ids.membership)]);
        Self {
            cast,
            post,
            random: Seeded::from_environment("reorgs"),
            model: Model::default(),
            ids,
            grants: vec![0],
            papers: BTreeMap::new(),
            names: 1,
            reorgs: 0,
            granted: 0,
            refused: 0,
        }
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.random.below(choices.len())]
    }

    fn person(&mut self) -> Person {
        self.one_of(&[Person::Alice, Person::Bob, Person::Carol])
    }

    fn person_id(&self, person: Person) -> Id {
        match person {
            Person::Alice => self.cast.ids.alice,
            Person::Bob => self.cast.ids.bob,
            Person::Carol => self.cast.ids.carol,
        }
    }

    fn blob_of(&self, person: Person) -> Vec<u8> {
        match person {
            Person::Alice => self.cast.alice_blob.clone(),
            Person::Bob => blob(BOB_KEY),
            Person::Carol => blob(CAROL_KEY),
        }
    }

    fn ca_entry(&self, ca: u8) -> Entry {
        self.cast.ca_add(ca, CA_KEY ^ (ca - 1))
    }

    fn ca(&self, ca: u8) -> (Id, u8) {
        (self.cast.id_of(Who::Roots, &self.ca_entry(ca)), CA_KEY ^ (ca - 1))
    }

    fn lockable(&mut self) -> Lockable {
        let person = self.person();
        let newest = self.papers.keys().next_back().copied();
        match (self.random.below(5), newest) {
            (0, _) => Lockable::Key(person),
            (1, _) => Lockable::Person(person),
            (2, _) => Lockable::Ca(self.one_of(&[1, 2, 3])),
            (3, Some(batch)) => Lockable::Batch(batch),
            _ => Lockable::Actor(self.one_of(&[Who::Second, Who::Issuer, Who::Watchdog])),
        }
    }

    fn name(&mut self) -> u32 {
        self.names += 1;
        self.names
    }

    /// One of the last dozen names, or the first.
    fn old_name(&mut self) -> u32 {
        let back = u32::try_from(self.random.below(12)).unwrap();
        self.names.saturating_sub(back)
    }

    /// Something new that the contract takes.
    async fn event(&mut self) -> Event {
        let by = self.one_of(&[Who::Admin, Who::Second]);
        loop {
            let (locked, without_role) = (self.model.locked(), self.model.without_role());
            let event = match self.random.below(20) {
                0..=2 => {
                    let person = To::Person(self.person());
                    Event::Grant { name: self.name(), by, to: self.one_of(&[person, person, To::Group]) }
                }
                3 => Event::Member { name: self.name(), by, person: self.person() },
                4 => Event::Remove(self.old_name()),
                5 => Event::Lock(self.lockable()),
                6..=9 if !locked.is_empty() => Event::Unlock(self.one_of(&locked)),
                6 => Event::Unlock(self.lockable()),
                7..=9 if !without_role.is_empty() => Event::Role { who: self.one_of(&without_role), on: true },
                7 => {
                    let who = self.one_of(&[Who::Second, Who::Issuer, Who::Watchdog]);
                    Event::Role { who, on: self.random.below(2) == 0 }
                }
                8 | 9 => continue,
                10 => {
                    let ca = self.one_of(&[1, 2, 3]);
                    let adds = Event::CaAdd(ca);
                    self.one_of(&[adds, adds, Event::CaTighten(ca), Event::CaLoosen(ca), Event::CaLoosen(1)])
                }
                11 => {
                    let switch = self.one_of(&[Switch::RequireLogged, Switch::Quorum]);
                    let off = (false, Who::Roots);
                    let (on, by) = self.one_of(&[(true, Who::Roots), (true, Who::Admin), off, off, off]);
                    Event::Set { switch, on, by }
                }
                12..=15 => {
                    let (name, ca) = (self.name(), self.one_of(&[1, 1, 2, 3]));
                    let grant = self.grants[self.grants.len().saturating_sub(1 + self.random.below(4))];
                    let mut paper = self.cast.paper();
                    let now = self.cast.world.latest_time().await;
                    (paper.after, paper.before) = (now - 30, now + 20_000);
                    (paper.grant, paper.ca, paper.serial) = (self.ids[&grant], self.ca(ca), Serial(name.into()));
                    self.papers.insert(name, (paper, ca, grant));
                    Event::Batch { name, ca, grant }
                }
                16 | 17 => {
                    let newest = self.model.history.iter().rev().find_map(|placed| match placed.event {
                        Event::Batch { name, .. } => Some(Event::Countersign { name, hash: placed.hash }),
                        _ => None,
                    });
                    let Some(countersign) = newest else { continue };
                    countersign
                }
                18 => Event::Revoke(self.old_name()),
                _ => continue,
            };
            if self.is_taken(&event) {
                return event;
            }
        }
    }

    /// Whether the contract takes it, and whether it says anything: a second CA of one key does not.
    fn is_taken(&self, event: &Event) -> bool {
        match event {
            Event::Grant { by, .. } | Event::Member { by, .. } => self.model.has_role(*by),
            Event::Batch { .. } => self.model.has_role(Who::Issuer),
            Event::Countersign { .. } => self.model.has_role(Who::Watchdog),
            Event::CaAdd(ca) => *ca != 1 && !self.model.history.iter().any(|placed| placed.event == Event::CaAdd(*ca)),
            Event::Remove(name) => self.ids.contains_key(name),
            _ => true,
        }
    }

    fn targets(&self, target: Lockable) -> Targets {
        match target {
            Lockable::Key(person) => Targets::Keys(vec![Fingerprint20::of_blob(&self.blob_of(person))]),
            Lockable::Person(person) => Targets::Users(vec![self.person_id(person)]),
            Lockable::Ca(ca) => Targets::Cas(vec![self.ca(ca).0]),
            Lockable::Actor(who) => Targets::Actors(vec![self.cast.address(who)]),
            Lockable::Batch(name) => Targets::Batches(vec![self.batch_id(name)]),
        }
    }

    fn batch_entry(&self, name: u32) -> Entry {
        let mut entry = self.cast.batch(0, &self.papers[&name].0);
        let Entry::Batch(batch) = &mut entry else { unreachable!("a batch") };
        batch.r = r(name).into();
        entry
    }

    fn batch_id(&self, name: u32) -> Id {
        self.cast.id_of(Who::Issuer, &self.batch_entry(name))
    }

    fn entry(&self, event: Event) -> (Who, Entry) {
        let cast = &self.cast;
        let limits = |ca, issuers: &[Who]| {
            let limits = cast.limits(86_400, &[], issuers);
            payload::CaLimits { ca: self.ca(ca).0.0.into(), ..limits }
        };
        match event {
            Event::Grant { name, by, to } => {
                let subject = if let To::Person(person) = to { self.person_id(person) } else { cast.ids.group };
                let mut entry = cast.grant(0, subject, "deploy");
                let Entry::GrantAdd(add) = &mut entry else { unreachable!("a grant") };
                add.r = r(name).into();
                (by, entry)
            }
            Event::Member { name, by, person } => {
                let mut entry = cast.membership(0, self.person_id(person));
                let Entry::GroupMemberAdd(add) = &mut entry else { unreachable!("a membership") };
                add.r = r(name).into();
                (by, entry)
            }
            Event::Remove(name) => (Who::Admin, Entry::Remove(vec![self.ids[&name]])),
            Event::Lock(target) => (Who::Admin, Entry::Lock(self.targets(target))),
            Event::Unlock(target) => (Who::Roots, Entry::Unlock(self.targets(target))),
            Event::Role { who, on } => {
                let role = match who {
                    Who::Second => Roles::ADMIN,
                    Who::Issuer => Roles::ISSUER,
                    _ => Roles::WATCHDOG,
                };
                (Who::Roots, cast.roles(who, if on { role } else { 0 }))
            }
            Event::CaAdd(ca) => (Who::Roots, self.ca_entry(ca)),
            Event::CaTighten(ca) => (Who::Admin, Entry::CaTighten(limits(ca, &[]))),
            Event::CaLoosen(ca) => (Who::Roots, Entry::CaLoosen(limits(ca, &[Who::Issuer]))),
            Event::Set { switch, on, by } => {
                let key = match switch {
                    Switch::RequireLogged => setting::REQUIRE_LOGGED,
                    Switch::Quorum => setting::COUNTERSIGN_QUORUM,
                };
                match (by, settings(&[(key, on.into())])) {
                    (Who::Admin, Entry::Settings(items)) => (by, Entry::SettingsTighten(items)),
                    (_, entry) => (by, entry),
                }
            }
            Event::Batch { name, .. } => (Who::Issuer, self.batch_entry(name)),
            Event::Countersign { name, hash } => {
                let batch = self.batch_id(name).0.into();
                (Who::Watchdog, Entry::Countersign(payload::Countersign { batch, entryHash: hash }))
            }
            Event::Revoke(name) => {
                let ca = self.papers.get(&name).map_or(cast.ids.ca, |(_, ca, _)| self.ca(*ca).0);
                (Who::Admin, Entry::CertRevoke { ca, serials: vec![name.into()] })
            }
        }
    }

    async fn put(&mut self, event: Event) {
        let (who, entry) = self.entry(event);
        let hash = self.cast.put(who, &entry).await;
        let block = self.cast.world.latest_number().await;
        match event {
            Event::Grant { name, .. } => {
                self.ids.insert(name, self.cast.id_of(who, &entry));
                self.grants.push(name);
            }
            Event::Member { name, .. } => drop(self.ids.insert(name, self.cast.id_of(who, &entry))),
            _ => {}
        }
        let hash = if matches!(event, Event::Batch { .. }) { hash } else { B256::ZERO };
        self.model.history.push(Placed { block, event, hash });
    }

    /// The newest blocks are gone. Returns what they held.
    async fn take_back(&mut self, depth: u64) -> Vec<Placed> {
        let kept = self.cast.world.latest_number().await - depth;
        self.cast.rollback(depth).await;
        self.reorgs += 1;
        let at = self.model.history.partition_point(|placed| placed.block <= kept);
        self.model.history.split_off(at)
    }

    /// Takes back one or two blocks; some of what they held comes back in another order.
    async fn reorg(&mut self) {
        let depth = self.one_of(&[1, 2]);
        let latest = self.cast.world.latest_number().await;
        let mut gone = self.take_back(depth).await;
        gone.reverse();
        for placed in gone {
            if self.random.below(2) == 0 && self.is_taken(&placed.event) {
                self.put(placed.event).await;
            }
        }
        let height = self.cast.world.latest_number().await;
        if height <= latest {
            self.cast.world.anvil.mine(latest + 1 - height).await;
        }
    }

    /// A denial is seen, and gone with the next block that is seen: what it denied must stay denied.
    async fn strike(&mut self) {
        let (grant, batch) = (self.grants.last().copied().unwrap_or_default(), self.papers.keys().next_back().copied());
        let event = match (self.random.below(8), batch) {
            (0..=2, _) => Event::Lock(self.lockable()),
            (3, _) => Event::Remove(self.one_of(&[0, 1, grant])),
            (4, _) => Event::Role { who: self.one_of(&[Who::Second, Who::Issuer, Who::Watchdog]), on: false },
            (5, _) => Event::CaTighten(1),
            (6, Some(batch)) => Event::Revoke(batch),
            _ => Event::Set { switch: self.one_of(&[Switch::RequireLogged, Switch::Quorum]), on: true, by: Who::Admin },
        };
        self.put(event).await;
        self.look("struck").await;
        self.take_back(1).await;
        self.cast.world.anvil.mine(2).await;
    }

    async fn look(&mut self, told: &str) {
        self.post.cycle(&self.cast, told).await;
        self.model.look(self.post.final_block());
        self.check(told);
    }

    async fn step(&mut self) {
        match self.random.below(14) {
            0..=5 => {
                let event = self.event().await;
                self.put(event).await;
            }
            6..=8 => self.strike().await,
            9..=11 => self.reorg().await,
            12 => self.post.restart(),
            _ => {
                let blocks = self.one_of(&[1, 3, 70, 70]);
                self.cast.world.anvil.mine(blocks).await;
            }
        }
    }

    fn pool(&self) -> Vec<(Candidate, Question)> {
        let mut pool = Vec::new();
        for person in [Person::Alice, Person::Bob, Person::Carol] {
            pool.push((Candidate::Key(person), Question::new(self.blob_of(person), "deploy")));
        }
        for (name, (paper, ca, grant)) in self.papers.iter().rev().take(ASKED_BATCHES) {
            let question = Question::new(paper.logged(self.batch_id(*name)), "deploy");
            pool.push((Candidate::Logged { name: *name, ca: *ca, grant: *grant }, question));
        }
        let newest = self.grants.last().copied().unwrap_or_default();
        for (ca, grant) in [(1, 0), (1, newest), (2, 0), (3, newest)] {
            let mut paper = self.cast.paper();
            (paper.ca, paper.grant, paper.serial) = (self.ca(ca), self.ids[&grant], Serial(u64::MAX));
            pool.push((Candidate::Unlogged { ca, grant }, Question::new(paper.unlogged(), "deploy")));
        }
        pool
    }

    fn check(&mut self, told: &str) {
        for (candidate, question) in self.pool() {
            let answer = self.post.ask(&question);
            let let_in = answer == Reason::Granted;
            assert_eq!(let_in, self.model.allows(candidate), "{told}: {candidate:?}: {answer:?}\n{:#?}", self.model);
            assert!(
                !let_in || self.model.history_allows(candidate),
                "{told}: {candidate:?}: more than the final history"
            );
            if let_in {
                self.granted += 1;
            } else {
                self.refused += 1;
            }
        }
    }
}

#[tokio::test]
async fn in_random_histories_with_reorgs_the_helper_never_lets_in_more_than_the_final_history_allows() {
    let rounds: usize = match std::env::var("COUNTERSIGN_ATTACK_ROUNDS") {
        Ok(text) => text.parse().expect("COUNTERSIGN_ATTACK_ROUNDS: a number"),
        Err(_) => 150,
    };
    let mut play = Play::new().await;
    for round in 0..rounds {
        play.step().await;
        play.look(&format!("round {round}")).await;
    }
    let Play { reorgs, granted, refused, .. } = play;
    println!("{rounds} rounds, {reorgs} reorgs, {granted} let in, {refused} refused");
    assert!(reorgs > 0 && granted > 0 && refused > 0);

    // A host that has seen none of the forks answers by the history alone, and never less.
    play.post = Post::of(&play.cast, HostFiles::new(&play.cast.world, play.cast.ids.host, "")).await;
    play.model = play.model.stranger();
    play.model.look(play.post.final_block());
    play.check("a stranger");
}
