//! A grant that needs two approvals, from the request on the ledger to the login: the service issues when two people other than
//! the requester have approved, and a host that meets a certificate made without them refuses it for the same reason.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a scenario: a failure is its result"
)]

use std::{fs, path::PathBuf};

use countersign_certificate::{ApprovalTerms, BACKDATE_SECS, Id, LogProof, RealmId, Scope, Target, approval_hash};
use countersign_registry::{
    B256, Entry,
    entries::{Roles, Targets, payload},
};
use e2e::{
    agent, bed, cli,
    client::{Credential, Login, russh, ssh},
    forge::{ALGORITHM, Forgery},
    in_bed,
    issuer::Service,
    machine::KeyFile,
    mint::Mint,
    probe::{Offer, offer},
    realm::{self, Actor, Directory, Grant, Settings},
    story::{CA_MAX_TTL, Line, Setup, Story, now},
};
use serde_json::Value;

const LOGIN: &str = "backup2";
const OTHER_LOGIN: &str = "deploy";
const TTL_SECS: u64 = 300;

/// alice, who asks; bob and carol, who approve; and a grant for [`LOGIN`] and [`OTHER_LOGIN`] that needs two of them.
struct People {
    story: Story,
    bob: Actor,
    carol: Actor,
    /// Their users.
    users: [Id; 2],
    grant: Id,
}

impl People {
    /// alice may approve as well: not what she herself asks for.
    fn begin(issuer_public: B256, device_public: B256) -> Self {
        let mut story = Story::begin(Setup { settings: Settings::default(), via: 1, ..Setup::default() });
        let (bob, carol) = (story.realm.new_actor(&story.anvil, 0xb0), story.realm.new_actor(&story.anvil, 0xca));
        let role =
            |actor: &Actor, roles, x25519| Entry::RoleSet(payload::RoleSet { actor: actor.address, roles, x25519 });
        let roles = [
            role(&story.realm.issuer, Roles::ISSUER, issuer_public),
            role(&bob, Roles::APPROVER, B256::ZERO),
            role(&carol, Roles::APPROVER, B256::ZERO),
            role(&story.realm.device, Roles::APPROVER, B256::ZERO),
            // Approves, and is nobody's: the ADMIN's key is bound to no user.
            role(&story.realm.admin, Roles::ADMIN | Roles::APPROVER, B256::ZERO),
        ];
        story.realm.by_roots(&roles);
        let mut directory = Directory::of(&story.realm);
        let users = [("bob", &bob), ("carol", &carol)].map(|(name, actor)| {
            let user = directory.user(name);
            directory.member(actor.address, user, [0; 32]);
            user
        });
        directory.member(story.realm.device.address, story.alice, device_public.0);
        let hosts = [story.host];
        let logins = [LOGIN, OTHER_LOGIN];
        let grant = Grant { subject: story.alice, hosts: &hosts, logins: &logins, via: 1, ..Grant::default() };
        let grant = directory.grant(&Grant { approvals: 2, ..grant });
        directory.write();
        story.publish();
        Self { story, bob, carol, users, grant }
    }
}

/// The same with the issuer's service.
struct Office {
    people: People,
    service: Service,
    device_key: String,
}

impl Office {
    fn begin() -> Self {
        let keys = bed::folder("delivery");
        let new_key = |name: &str| {
            let file = keys.join(name).to_str().unwrap().to_owned();
            let shown = cli::success(None, &["device", "new", &file]);
            (file, shown["x25519"].as_str().unwrap().parse::<B256>().unwrap())
        };
        let (issuer_key, issuer_public) = new_key("issuer");
        let (device_key, device_public) = new_key("device");
        let people = People::begin(issuer_public, device_public);
        let service = Service::start(&people.story.realm.issuer, &people.story.ca_key, &issuer_key);
        Self { people, service, device_key }
    }

    /// alice's request, by her ledger key, and its id.
    fn ask(&self, ttl: &str) -> String {
        let key = self.people.story.key.public_path();
        let arguments = ["request", "web1", "--as", LOGIN, "--ttl", ttl, "--key", key.to_str().unwrap()];
        let arguments = [&arguments[..], &["--reason", "the disk is full"]].concat();
        let written = cli::success(Some(&self.people.story.realm.device), &arguments);
        written["entries"][0]["id"].as_str().unwrap().to_owned()
    }

    /// What the service says of a request once it has seen everything that is on the ledger now: the reason of its refusal.
    fn judged(&self, request: &str) -> Value {
        let status = self.service.wait_block(self.people.story.anvil.block_number("latest"));
        status["pending"][request].clone()
    }

    /// What somebody can do who holds the keys of the CA and of the issuer: a certificate for the request, logged.
    fn forge(&mut self, request: &str, reason: &str, detail: Option<&str>) {
        let scope = self.people.story.scope(Target::Host(self.people.story.host));
        let scope = Scope { grant: self.people.grant, request: request.parse().unwrap(), ..scope };
        let minted = Mint { scope: Some(scope), principals: &[LOGIN], ..self.people.story.mint() }.make();
        let (batch, minted) = self.people.story.log(&minted);
        agent::once();
        let key = self.people.story.key.clone();
        let line = Line { batch: Some(batch), detail, ..self.people.story.line(&key, &minted) };
        self.people.story.assert_refused(LOGIN, &Credential::certificate(&key, &minted.path), reason, &line);
    }

    /// Fetches what was delivered to alice's device; the certificate stands beside her key.
    fn fetch(&self) -> (Value, PathBuf) {
        let home = bed::folder("home");
        for (from, to) in
            [(self.people.story.key.path.clone(), "ssh"), (self.people.story.key.public_path(), "ssh.pub")]
        {
            fs::copy(from, home.join(to)).unwrap();
        }
        let (store, out) = (self.service.store.to_str().unwrap(), home.to_str().unwrap());
        let arguments = ["fetch", "--delivery-key", &self.device_key, "--store", store, "--out", out];
        (cli::success(Some(&self.people.story.realm.device), &arguments), home.join("ssh-cert.pub"))
    }
}

#[test]
fn two_people_approve_before_a_certificate_is_issued_and_one_of_them_twice_is_one() {
    in_bed!(|| {
        let mut office = Office::begin();
        let request = office.ask("5m");
        office.service.process.wait_line(&format!("event=refused request={request} reason=approvals-missing"));
        office.forge(&request, "approvals-missing", Some("0 of 2"));
        // Neither a request that nobody made nor one for another time will do instead.
        office.forge(&Id(realm::random()).to_string(), "request-unknown", None);
        let shorter = office.ask("4m");
        office.forge(&shorter, "request-mismatch", None);

        cli::success(Some(&office.people.bob), &["approve", &request]);
        assert_eq!(office.judged(&request), "approvals-missing");
        office.forge(&request, "approvals-missing", Some("1 of 2"));

        // Once more by bob, and by alice, who asked.
        let approve = |actor: &Actor| cli::run(Some(actor), &["approve", &request]);
        let (again, own) = (approve(&office.people.bob), approve(&office.people.story.realm.device));
        assert_eq!(office.judged(&request), "approvals-missing", "{again:?} {own:?}");
        office.forge(&request, "approvals-missing", Some("1 of 2"));

        cli::success(Some(&office.people.carol), &["approve", &request]);
        office.service.process.wait_line(&format!("event=issued request={request}"));
        let (fetched, certificate) = office.fetch();
        assert_eq!(fetched["deliveries"][0]["outcome"], "applied", "{fetched}");
        agent::once();
        office.people.story.log.take("countersign-sshd");
        let credential = Credential::certificate(&office.people.story.key, &certificate);
        for client in [ssh, russh] {
            let login = client(&office.people.story.sshd, LOGIN, &credential, "id -un");
            assert_eq!(login, Login::Accepted(format!("{LOGIN}\n")));
        }
        let lines = office.people.story.log.take("countersign-sshd");
        assert!(lines.iter().all(|line| line.starts_with("reason=granted user=backup2 ")), "{lines:?}");
        // What two have approved for one login opens no other.
        assert_eq!(ssh(&office.people.story.sshd, "deploy", &credential, "id -un"), Login::Refused);
    });
}

/// Who approves, in order.
#[derive(Clone, Copy, PartialEq)]
enum By {
    Bob,
    Carol,
    /// The requester.
    Alice,
    /// An APPROVER who is nobody.
    Nobody,
}
use By::{Alice, Bob, Carol, Nobody};

/// A certificate under the grant that needs two approvals: a request of five minutes as [`LOGIN`], approvals, and what was certified.
struct Case {
    name: &'static str,
    reason: &'static str,
    /// Who approves, and what else than the request's terms.
    approvals: &'static [(By, Change)],
    /// What else the certificate says than the request.
    certified: Change,
}

/// What differs from the terms of a request.
type Change = fn(&mut Terms);

/// What approvals are over.
#[derive(Clone)]
struct Terms {
    realm: RealmId,
    request: Id,
    user: Id,
    host: Id,
    login: &'static str,
    key: Vec<u8>,
    ttl_secs: u64,
    /// Somebody else's key, another host, another user.
    others: (Vec<u8>, Id, Id),
}

impl Terms {
    fn with(&self, change: Change) -> Self {
        let mut terms = self.clone();
        change(&mut terms);
        terms
    }

    fn hash(&self) -> B256 {
        let Self { request, user, host, login, key, ttl_secs, .. } = self;
        let login = login.as_bytes();
        let terms = ApprovalTerms { request: *request, user: *user, host: *host, login, key, ttl_secs: *ttl_secs };
        approval_hash(&self.realm, &terms).unwrap().into()
    }
}

const SAME: Change = |_| {};
const OTHER_LOGINS: Change = |it| it.login = OTHER_LOGIN;
const OTHER_HOST: Change = |it| it.host = it.others.1;
const OTHER_USER: Change = |it| it.user = it.others.2;
const OTHER_KEY: Change = |it| it.key = it.others.0.clone();
const OTHER_TTL: Change = |it| it.ttl_secs += 60;
const OTHER_REALM: Change = |it| it.realm = RealmId([7; 32]);
const OTHER_REQUEST: Change = |it| it.request = Id(it.request.0.map(|byte| !byte));

const CASES: [Case; 21] = [
    case("two others approve", "granted", &[(Bob, SAME), (Carol, SAME)]),
    case("nobody", "approvals-missing", &[]),
    case("one", "approvals-missing", &[(Bob, SAME)]),
    case("one, twice", "approvals-missing", &[(Bob, SAME), (Bob, SAME)]),
    case("one, and the requester", "approvals-missing", &[(Carol, SAME), (Alice, SAME)]),
    case("the requester, twice", "approvals-missing", &[(Alice, SAME), (Alice, SAME)]),
    case("one, and a key that is no user's", "approvals-missing", &[(Bob, SAME), (Nobody, SAME)]),
    case("one over another login", "approvals-missing", &[(Bob, SAME), (Carol, OTHER_LOGINS)]),
    case("one over another host", "approvals-missing", &[(Bob, SAME), (Carol, OTHER_HOST)]),
    case("one over another user", "approvals-missing", &[(Bob, SAME), (Carol, OTHER_USER)]),
    case("one over another key", "approvals-missing", &[(Bob, SAME), (Carol, OTHER_KEY)]),
    case("one over another time", "approvals-missing", &[(Bob, SAME), (Carol, OTHER_TTL)]),
    case("one over another realm", "approvals-missing", &[(Bob, SAME), (Carol, OTHER_REALM)]),
    case("one over another request", "approvals-missing", &[(Bob, SAME), (Carol, OTHER_REQUEST)]),
    case("both over another login", "approvals-missing", &[(Bob, OTHER_LOGINS), (Carol, OTHER_LOGINS)]),
    case(
        "one over other bytes first, and over these then",
        "granted",
        &[(Bob, OTHER_LOGINS), (Bob, SAME), (Carol, OTHER_TTL), (Carol, SAME)],
    ),
    certified("another login than was asked for", "request-mismatch", OTHER_LOGINS),
    certified("another key than was asked for", "request-mismatch", OTHER_KEY),
    certified("a longer time than was asked for", "request-mismatch", OTHER_TTL),
    certified("a request that nobody made", "request-unknown", OTHER_REQUEST),
    // The user of the request is another: bob's request, which carol and alice approve.
    Case {
        name: "another user's request",
        reason: "scope-user",
        approvals: &[(Carol, OTHER_USER), (Alice, OTHER_USER)],
        certified: SAME,
    },
];

const fn case(name: &'static str, reason: &'static str, approvals: &'static [(By, Change)]) -> Case {
    Case { name, reason, approvals, certified: SAME }
}

const fn certified(name: &'static str, reason: &'static str, certified: Change) -> Case {
    Case { name, reason, approvals: &[(Bob, SAME), (Carol, SAME)], certified }
}

impl People {
    fn actor(&self, by: By) -> &Actor {
        match by {
            Bob => &self.bob,
            Carol => &self.carol,
            Alice => &self.story.realm.device,
            Nobody => &self.story.realm.admin,
        }
    }

    /// Writes a request for each case, by its user's ledger key. Terms as they stand in the requests.
    fn ask(&self, others: &KeyFile) -> Vec<Terms> {
        let story = &self.story;
        let mut entries: [Vec<Entry>; 2] = [Vec::new(), Vec::new()];
        let ask = |case: &Case| {
            let is_bobs = case.reason == "scope-user";
            let (actor, user) = if is_bobs { (Bob, self.users[0]) } else { (Alice, story.alice) };
            let (request, entry) = self.actor(actor).record(|r| {
                Entry::Request(payload::Request {
                    r,
                    user: user.0.into(),
                    host: story.host.0.into(),
                    login: LOGIN.to_owned(),
                    ttl: TTL_SECS,
                    publicKey: story.key.blob().into(),
                    reason: "the disk is full".to_owned(),
                })
            });
            entries[usize::from(is_bobs)].push(entry);
            Terms {
                realm: RealmId(story.realm.id().0),
                request,
                user: story.alice,
                host: story.host,
                login: LOGIN,
                key: story.key.blob(),
                ttl_secs: TTL_SECS,
                others: (others.blob(), story.other_host, self.users[0]),
            }
        };
        let terms = CASES.iter().map(ask).collect();
        for (actor, entries) in [Alice, Bob].into_iter().zip(&entries) {
            story.realm.by_actor(self.actor(actor), entries);
        }
        terms
    }

    /// Writes what is approved, each approver all of it at once, in the order of the cases.
    fn approve(&self, asked: &[Terms]) {
        for by in [Bob, Carol, Alice, Nobody] {
            let entries = CASES.iter().zip(asked).flat_map(|(case, terms)| {
                let by_them = case.approvals.iter().filter(|(approver, _)| *approver == by);
                by_them.map(|(_, change)| {
                    let approval_hash = terms.with(*change).hash();
                    Entry::Approve(payload::Approve { request: terms.request.0.into(), approvalHash: approval_hash })
                })
            });
            self.story.realm.by_actor(self.actor(by), &entries.collect::<Vec<_>>());
        }
    }

    /// The certificates, all of them in one batch.
    fn certify(&self, asked: &[Terms]) -> Vec<Vec<u8>> {
        let story = &self.story;
        let forge = |(case, terms): (&Case, &Terms)| {
            let terms = terms.with(case.certified);
            let scope = Scope { grant: self.grant, request: terms.request, ..story.scope(Target::Host(story.host)) };
            let mut forgery = Forgery::of(&Mint { scope: Some(scope), principals: &[terms.login], ..story.mint() });
            forgery.key = terms.key.last_chunk::<32>().unwrap().to_vec();
            forgery.valid_before = forgery.valid_after + BACKDATE_SECS + terms.ttl_secs;
            forgery
        };
        let forged: Vec<Forgery> = CASES.iter().zip(asked).map(forge).collect();
        let leaves: Vec<_> = forged.iter().map(|it| it.leaf(RealmId(story.realm.id().0), story.ca)).collect();
        let batch = story.realm.log_batch(story.ca, &leaves, now() + CA_MAX_TTL);
        let proof = |index| LogProof::among(batch, &leaves, index).unwrap();
        (0..).zip(forged).map(|(index, it)| it.sign_logged(&story.ca_key, &proof(index))).collect()
    }

    /// Offers a certificate; the reason that the helper gives.
    fn offer(&mut self, case: &Case, asked: &Terms, blob: &[u8]) -> String {
        let _ = self.story.log.news(["countersign-sshd"]);
        let answer = offer(asked.with(case.certified).login, &[(ALGORITHM, blob)])[0];
        let [lines] = self.story.log.news(["countersign-sshd"]);
        let reason = lines[0].split(' ').next().unwrap().strip_prefix("reason=").unwrap().to_owned();
        assert_eq!((lines.len(), answer == Offer::Taken), (1, reason == "granted"), "{}: {lines:?}", case.name);
        reason
    }
}

#[test]
fn a_denial_outweighs_two_approvals_and_none_counts_over_other_bytes_or_twice_or_by_the_requester() {
    in_bed!(|| {
        let mut office = Office::begin();
        let request = office.ask("5m");
        cli::success(Some(&office.people.carol), &["deny", &request]);
        office.service.process.wait_line(&format!("event=refused request={request} reason=approval-denied"));
        for approver in [&office.people.bob, &office.people.carol] {
            cli::success(Some(approver), &["approve", &request]);
        }
        assert_eq!(office.judged(&request), "approval-denied");
        office.forge(&request, "approval-denied", None);
        assert_eq!(office.service.status().unwrap()["issued"], 0);

        // From here on certificates are made by hand, and the issuer's key is the scenario's.
        let Office { mut people, service, .. } = office;
        drop(service);
        let asked = people.ask(&KeyFile::generate("others"));
        people.approve(&asked);
        let certificates = people.certify(&asked);
        agent::once();
        let said = CASES.iter().zip(&asked).zip(&certificates);
        let said: Vec<_> = said.map(|((case, asked), blob)| (case.name, people.offer(case, asked, blob))).collect();
        let expected: Vec<_> = CASES.iter().map(|case| (case.name, case.reason.to_owned())).collect();
        assert_eq!(said, expected);

        // Whoever approved has to be there still.
        let lock = Entry::Lock(Targets::Users(vec![people.users[1]]));
        people.story.realm.by(|realm| &realm.revoker, &[lock]);
        agent::once();
        assert_eq!(people.offer(&CASES[0], &asked[0], &certificates[0]), "approvals-missing");
    });
}
