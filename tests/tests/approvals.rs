//! A grant that needs two approvals, from the request on the ledger to the login: the service issues when two people other than
//! the requester have approved, and a host that meets a certificate made without them refuses it for the same reason.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a scenario: a failure is its result")]

use std::{fs, path::PathBuf};

use countersign_certificate::{Id, Scope, Target};
use countersign_registry::{B256, Entry, entries::Roles, entries::payload};
use e2e::{
    agent, bed, cli,
    client::{Credential, Login, russh, ssh},
    in_bed,
    issuer::Service,
    mint::Mint,
    realm::{self, Actor, Directory, Grant, Settings},
    story::{Line, Setup, Story},
};
use serde_json::Value;

const LOGIN: &str = "backup2";

/// alice, who asks; bob and carol, who approve; the issuer's service; and a grant for [`LOGIN`] that needs two of them.
struct Office {
    story: Story,
    bob: Actor,
    carol: Actor,
    grant: Id,
    service: Service,
    device_key: String,
}

impl Office {
    fn begin() -> Self {
        let mut story = Story::begin(Setup { settings: Settings::default(), via: 1, ..Setup::default() });
        let keys = bed::folder("delivery");
        let new_key = |name: &str| {
            let file = keys.join(name).to_str().unwrap().to_owned();
            let shown = cli::success(None, &["device", "new", &file]);
            (file, shown["x25519"].as_str().unwrap().parse::<B256>().unwrap())
        };
        let (issuer_key, issuer_public) = new_key("issuer");
        let (device_key, device_public) = new_key("device");
        let (bob, carol) = (story.realm.new_actor(&story.anvil, 0xb0), story.realm.new_actor(&story.anvil, 0xca));
        let role =
            |actor: &Actor, roles, x25519| Entry::RoleSet(payload::RoleSet { actor: actor.address, roles, x25519 });
        // alice may approve as well: not what she herself asks for.
        let roles = [
            role(&story.realm.issuer, Roles::ISSUER, issuer_public),
            role(&bob, Roles::APPROVER, B256::ZERO),
            role(&carol, Roles::APPROVER, B256::ZERO),
            role(&story.realm.device, Roles::APPROVER, B256::ZERO),
        ];
        story.realm.by_roots(&roles);
        let mut directory = Directory::of(&story.realm);
        for (name, actor) in [("bob", &bob), ("carol", &carol)] {
            let user = directory.user(name);
            directory.member(actor.address, user, [0; 32]);
        }
        directory.member(story.realm.device.address, story.alice, device_public.0);
        let hosts = [story.host];
        let grant = Grant { subject: story.alice, hosts: &hosts, logins: &[LOGIN], via: 1, ..Grant::default() };
        let grant = directory.grant(&Grant { approvals: 2, ..grant });
        directory.write();
        story.publish();
        let service = Service::start(&story.realm.issuer, &story.ca_key, &issuer_key);
        Self { story, bob, carol, grant, service, device_key }
    }

    /// alice's request, by her ledger key, and its id.
    fn ask(&self, ttl: &str) -> String {
        let key = self.story.key.public_path();
        let arguments = ["request", "web1", "--as", LOGIN, "--ttl", ttl, "--key", key.to_str().unwrap()];
        let arguments = [&arguments[..], &["--reason", "the disk is full"]].concat();
        let written = cli::success(Some(&self.story.realm.device), &arguments);
        written["entries"][0]["id"].as_str().unwrap().to_owned()
    }

    /// What the service says of a request once it has seen everything that is on the ledger now: the reason of its refusal.
    fn judged(&self, request: &str) -> Value {
        let status = self.service.wait_block(self.story.anvil.block_number("latest"));
        status["pending"][request].clone()
    }

    /// What somebody can do who holds the keys of the CA and of the issuer: a certificate for the request, logged.
    fn forge(&mut self, request: &str, reason: &str, detail: Option<&str>) {
        let scope = self.story.scope(Target::Host(self.story.host));
        let scope = Scope { grant: self.grant, request: request.parse().unwrap(), ..scope };
        let minted = Mint { scope: Some(scope), principals: &[LOGIN], ..self.story.mint() }.make();
        let (batch, minted) = self.story.log(&minted);
        agent::once();
        let key = self.story.key.clone();
        let line = Line { batch: Some(batch), detail, ..self.story.line(&key, &minted) };
        self.story.assert_refused(LOGIN, &Credential::certificate(&key, &minted.path), reason, &line);
    }

    /// Fetches what was delivered to alice's device; the certificate stands beside her key.
    fn fetch(&self) -> (Value, PathBuf) {
        let home = bed::folder("home");
        for (from, to) in [(self.story.key.path.clone(), "ssh"), (self.story.key.public_path(), "ssh.pub")] {
            fs::copy(from, home.join(to)).unwrap();
        }
        let (store, out) = (self.service.store.to_str().unwrap(), home.to_str().unwrap());
        let arguments = ["fetch", "--delivery-key", &self.device_key, "--store", store, "--out", out];
        (cli::success(Some(&self.story.realm.device), &arguments), home.join("ssh-cert.pub"))
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

        cli::success(Some(&office.bob), &["approve", &request]);
        assert_eq!(office.judged(&request), "approvals-missing");
        office.forge(&request, "approvals-missing", Some("1 of 2"));

        // Once more by bob, and by alice, who asked.
        let approve = |actor: &Actor| cli::run(Some(actor), &["approve", &request]);
        let (again, own) = (approve(&office.bob), approve(&office.story.realm.device));
        assert_eq!(office.judged(&request), "approvals-missing", "{again:?} {own:?}");
        office.forge(&request, "approvals-missing", Some("1 of 2"));

        cli::success(Some(&office.carol), &["approve", &request]);
        office.service.process.wait_line(&format!("event=issued request={request}"));
        let (fetched, certificate) = office.fetch();
        assert_eq!(fetched["deliveries"][0]["outcome"], "applied", "{fetched}");
        agent::once();
        office.story.log.take("countersign-sshd");
        let credential = Credential::certificate(&office.story.key, &certificate);
        for client in [ssh, russh] {
            let login = client(&office.story.sshd, LOGIN, &credential, "id -un");
            assert_eq!(login, Login::Accepted(format!("{LOGIN}\n")));
        }
        let lines = office.story.log.take("countersign-sshd");
        assert!(lines.iter().all(|line| line.starts_with("reason=granted user=backup2 ")), "{lines:?}");
        // What two have approved for one login opens no other.
        assert_eq!(ssh(&office.story.sshd, "deploy", &credential, "id -un"), Login::Refused);
    });
}

#[test]
fn one_denial_outweighs_two_approvals() {
    in_bed!(|| {
        let mut office = Office::begin();
        let request = office.ask("5m");
        cli::success(Some(&office.carol), &["deny", &request]);
        office.service.process.wait_line(&format!("event=refused request={request} reason=approval-denied"));
        for approver in [&office.bob, &office.carol] {
            cli::success(Some(approver), &["approve", &request]);
        }
        assert_eq!(office.judged(&request), "approval-denied");
        office.forge(&request, "approval-denied", None);
        assert_eq!(office.service.status().unwrap()["issued"], 0);
    });
}
