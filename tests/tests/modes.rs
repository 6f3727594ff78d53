//! The modes of trust, one after the other on one host: no CA at all; one key that does everything; the ledger key and the CA's key in
//! different hands; watchdogs that must countersign. And the roots above them: one stolen, one lost, a CA's key stolen.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a scenario: a failure is its result")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use countersign_certificate::{Id, LogProof, RealmId};
use countersign_chain::keys::ActorKey;
use countersign_registry::{B256, Entry, entries::Roles, entries::payload};
use e2e::{
    agent, bed, cli,
    client::{Credential, Login, ssh},
    in_bed,
    machine::{self, KeyFile},
    mint::{Mint, Minted},
    process::Background,
    realm::{Actor, REALM_FILE, Settings},
    story::{Setup, Story, now},
    tools, wait,
};
use serde_json::Value;

const PASSWORD: &str = "correct horse";

/// One login by `ssh`, and what the helper said to it.
fn login(story: &mut Story, login: &str, credential: &Credential) -> (Login, Vec<String>) {
    story.log.take("countersign-sshd");
    let outcome = ssh(&story.sshd, login, credential, "id -un");
    (outcome, story.log.take("countersign-sshd"))
}

fn opens(story: &mut Story, name: &str, credential: &Credential) {
    let (outcome, lines) = login(story, name, credential);
    assert_eq!(outcome, Login::Accepted(format!("{name}\n")), "{lines:?}");
    assert!(!lines.is_empty() && lines.iter().all(|line| line.starts_with("reason=granted ")), "{lines:?}");
}

fn refuses(story: &mut Story, name: &str, credential: &Credential, reason: &str) {
    let (outcome, lines) = login(story, name, credential);
    assert_eq!(outcome, Login::Refused, "expected {reason}: {lines:?}");
    let expected = format!("reason={reason} ");
    assert!(!lines.is_empty() && lines.iter().all(|line| line.starts_with(&expected)), "{lines:?}");
}

fn certificate(story: &Story, path: &Path) -> Credential {
    Credential::certificate(&story.key, path)
}

fn role(actor: &Actor, roles: u64, x25519: B256) -> Entry {
    Entry::RoleSet(payload::RoleSet { actor: actor.address, roles, x25519 })
}

fn settings(items: &[(u16, u64)]) -> Entry {
    let items = items.iter().map(|(key, value)| payload::Setting { key: *key, value: *value }).collect();
    Entry::Settings(payload::Settings { items })
}

/// A delivery key in a file, and its public half.
fn delivery_key(name: &str) -> (String, B256) {
    let file = bed::folder("delivery").join(name).to_str().unwrap().to_owned();
    let shown = cli::success(None, &["device", "new", &file]);
    (file, shown["x25519"].as_str().unwrap().parse().unwrap())
}

/// A certificate for alice, as the holder of both keys issues it.
fn issue(story: &Story, actor: &Actor, login: &str, more: &[&str]) -> Result<PathBuf, String> {
    let out = bed::folder("issued").join(format!("{login}-{}", Id(e2e::realm::random())));
    let (key, ca_key) = (story.key.public_path(), &story.ca_key.path);
    let arguments =
        ["issue", "alice@web1", "--as", login, "--key", key.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let arguments = [&arguments[..], &["--ca-key", ca_key.to_str().unwrap()], more].concat();
    let output = cli::run(Some(actor), &arguments);
    match output.status {
        Some(0) => Ok(out.with_file_name(format!("{}-cert.pub", out.file_name().unwrap().to_str().unwrap()))),
        _ => Err(output.stderr),
    }
}

// row: D14
fn without_a_ca(story: &mut Story) {
    let credential = Credential::key(&story.key);
    opens(story, "deploy", &credential);
    let stranger = story.mint().make();
    let credential = certificate(story, &stranger.path);
    refuses(story, "deploy", &credential, "ca-unknown");
}

// row: D17
fn one_key_does_everything(story: &mut Story) {
    let all = Roles::ADMIN | Roles::ISSUER | Roles::REVOKER;
    let only_logged = settings(&[(1, 1)]);
    let role = role(&story.realm.issuer, all, B256::ZERO);
    story.realm.by_roots(&[role, only_logged]);
    let ca_key = story.ca_key.clone();
    story.ca = story.realm.add_ca("ca1", &ca_key, 600, &["alice", "deploy"]);
    story.publish();
    let path = issue(story, &story.realm.issuer, "deploy", &[]).unwrap();
    agent::once();
    let credential = certificate(story, &path);
    opens(story, "deploy", &credential);
    cli::success(Some(&story.realm.issuer), &["revoke", "cert", path.to_str().unwrap()]);
    agent::once();
    refuses(story, "deploy", &credential, "certificate-revoked");
}

/// The two desks of a realm where the ledger key and the CA's key are in different hands; files go from one to the other.
struct Desks {
    folder: PathBuf,
}

impl Desks {
    fn file(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_owned()
    }

    fn prepare(&self, story: &Story, file: &str, login: &str) -> String {
        let (path, key) = (self.file(file), story.key.public_path());
        let order =
            ["batch", "prepare", &path, "alice@web1", "--as", login, "--ttl", "5m", "--key", key.to_str().unwrap()];
        cli::success(None, &order);
        path
    }

    /// As the holder of the issuer's ledger key, who has no CA key.
    fn log(story: &Story, path: &str) -> Value {
        cli::success(Some(&story.realm.issuer), &["batch", "log", path])
    }

    fn signing<'a>(story: &'a Story, path: &'a str) -> Vec<&'a str> {
        let (folder, ca_key) = (Path::new(path).parent().unwrap(), &story.ca_key.path);
        vec!["batch", "sign", path, "--out", folder.to_str().unwrap(), "--ca-key", ca_key.to_str().unwrap()]
    }

    /// As the holder of the CA's key, who has no ledger key.
    fn sign(story: &Story, path: &str, more: &[&str]) -> PathBuf {
        let signed = cli::success(None, &[&Self::signing(story, path)[..], more].concat());
        signed["files"][0].as_str().unwrap().into()
    }

    fn refuses_to_sign(story: &Story, path: &str, text: &str) {
        let message = cli::refusal(None, &Self::signing(story, path));
        assert!(message.contains(text), "expected {text:?}: {message}");
    }
}

// row: D18
fn two_hands(story: &mut Story) {
    let desks = Desks { folder: bed::folder("desks") };
    let order = desks.prepare(story, "order.toml", "deploy");
    let text = fs::read_to_string(&order).unwrap();
    assert!(text.contains("about = \"alice@web1 as deploy for 5m, key SHA256:"), "{text}");

    // The holder of the CA's key alone: nothing to sign, and what he signs all the same opens nothing.
    Desks::refuses_to_sign(story, &order, "nobody has logged it");
    let minted = story.mint().make();
    let credential = certificate(story, &minted.path);
    refuses(story, "deploy", &credential, "log-proof-missing");
    let realm = RealmId(story.realm.id().0);
    let proof = LogProof::among(Id([7; 16]), &[minted.leaf(realm, story.ca)], 0).unwrap();
    let credential = certificate(story, &minted.with_log_proof(&story.ca_key, &proof).path);
    refuses(story, "deploy", &credential, "batch-unknown");

    // The holder of the ledger key alone: the batch is logged, and no key of his makes a certificate of it.
    let own_ca = KeyFile::generate("own-ca");
    let minted = Mint { ca: &own_ca, ..story.mint() }.make();
    let (batch, minted) = logged_by_issuer(story, &minted, &own_ca);
    agent::once();
    let credential = certificate(story, &minted.path);
    refuses(story, "deploy", &credential, "ca-unknown");
    assert_ne!(batch, Id::default());
    let logged = Desks::log(story, &order);
    assert!(logged["certificates"][0].as_str().unwrap().starts_with("alice@web1 as deploy from "), "{logged}");

    // Each sees what the other has done to the file, and refuses.
    let good = fs::read_to_string(&order).unwrap();
    let other = desks.prepare(story, "other.toml", "alice");
    Desks::log(story, &other);
    let id = |text: &str| text.lines().find_map(|line| line.strip_prefix("id = ")).unwrap().to_owned();
    let other_text = fs::read_to_string(&other).unwrap();
    let swapped = desks.file("swapped.toml");
    for (altered, problem) in [
        (good.replace("login = \"deploy\"", "login = \"root\""), "pre-certificate 1 is not what order 1 asks for"),
        (good.replace(&id(&good), &id(&other_text)), "commits to other certificates than the file's"),
        (good.replace(&id(&good), &format!("\"{}\"", Id([9; 16]))), "is not on the verified ledger"),
        (good.replace("version = 1", "version = 2"), "version is 2, expected 1"),
    ] {
        assert_ne!(altered, good);
        fs::write(&swapped, altered).unwrap();
        Desks::refuses_to_sign(story, &swapped, problem);
    }
    let again = cli::refusal(Some(&story.realm.issuer), &["batch", "log", &order]);
    assert!(again.contains("is logged already"), "{again}");
    fs::write(&swapped, good.replace("login = \"deploy\"", "login = \"root\"").split("[batch]").next().unwrap())
        .unwrap();
    let refused = cli::refusal(Some(&story.realm.issuer), &["batch", "log", &swapped]);
    assert!(refused.contains("\"reason\":\"ca-login\""), "{refused}");

    // Both together; one waits for a final block, as a CA's holder may want to.
    let path = Desks::sign(story, &order, &["--wait", "final"]);
    assert!(path.ends_with("alice@web1-deploy-cert.pub"), "{}", path.display());
    agent::once();
    let credential = certificate(story, &path);
    opens(story, "deploy", &credential);
}

/// Logged as if for the realm's CA, by the issuer's ledger key.
fn logged_by_issuer(story: &Story, minted: &Minted, ca: &KeyFile) -> (Id, Minted) {
    let leaf = minted.leaf(RealmId(story.realm.id().0), story.ca);
    let batch = story.realm.log_batch(story.ca, &[leaf], now().saturating_add(300));
    (batch, minted.with_log_proof(ca, &LogProof::among(batch, &[leaf], 0).unwrap()))
}

/// A watchdog: the real program, as one of the realm's actors.
struct Watchdog {
    process: Option<Background>,
    config: PathBuf,
    address: String,
}

impl Watchdog {
    fn new(name: &str, actor: &Actor, delivery_key: &str, store: &Path, policy: &str) -> Self {
        let folder = bed::folder(name);
        machine::write(folder.join("password"), PASSWORD, 0o600);
        ActorKey::from_hex(&actor.secret).unwrap().store(&folder.join("actor.json"), PASSWORD).unwrap();
        let config = folder.join("watchdog.toml");
        let text = format!(
            "realm = \"{REALM_FILE}\"\nactor = \"actor.json\"\nactor-password-file = \"password\"\ndelivery-key = \"{delivery_key}\"\n\
             store = \"{}\"\nstate = \"state\"\npatience = \"30s\"\n[policy]\n{policy}\n",
            store.display()
        );
        machine::write(&config, &text, 0o644);
        Self { process: None, config, address: actor.address.to_string() }
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(tools::binary("countersign-issuer"));
        command.args(["watch", verb, "--config"]).arg(&self.config);
        command
    }

    fn start(&mut self) {
        self.process = Some(Background::start("countersign-watchdog", &mut self.command("run")));
    }

    fn wait_line(&mut self, text: &str) -> String {
        self.process.as_mut().unwrap().wait_line(text)
    }

    fn stop(&mut self) {
        assert!(self.process.take().unwrap().stop().success());
    }

    fn status(&self) -> Value {
        serde_json::from_str(&e2e::process::success(&mut self.command("status"))).unwrap()
    }

    /// Waits until it has looked at block `number` and everything in it.
    fn wait_block(&self, number: u64) -> Value {
        wait::until(&format!("the watchdog to have looked at block {number}"), || {
            let text = fs::read_to_string(self.config.with_file_name("state").join("status.json")).ok()?;
            let status: Value = serde_json::from_str(&text).ok()?;
            (status["latest-block"].as_u64() >= Some(number)).then_some(status)
        })
    }
}

fn batches(story: &Story) -> Vec<Value> {
    let listed = cli::success(Some(&story.realm.issuer), &["batch", "list"]);
    listed["items"].as_array().unwrap().clone()
}

// row: D19
fn watchdogs(story: &mut Story) {
    let store = bed::folder("watched").join("blocks");
    let (issuer_key, issuer_public) = delivery_key("issuer");
    let actors = [0x71, 0x72, 0x73].map(|name| story.realm.new_actor(&story.anvil, name));
    let keys = ["one", "two", "three"].map(delivery_key);
    let mut entries = vec![role(&story.realm.issuer, Roles::ISSUER, issuer_public), settings(&[(3, 2)])];
    entries.extend(actors.iter().zip(&keys).map(|(actor, (_, public))| role(actor, Roles::WATCHDOG, *public)));
    story.realm.by_roots(&entries);
    story.publish();
    let policies = ["max-ttl = \"1h\"", "never-logins = [\"alice\"]", ""];
    let mut dogs: Vec<Watchdog> = (0..3)
        .map(|index| {
            let name = format!("watchdog{index}");
            Watchdog::new(&name, &actors[index], &keys[index].0, &store, policies[index])
        })
        .collect();
    // A ledger key that logs batches watches none.
    let both = Watchdog::new("both", &story.realm.issuer, &issuer_key, &store, "");
    let refused = e2e::process::output(&mut both.command("check-config"));
    assert_eq!(refused.status, Some(1));
    assert!(refused.stderr.contains("holds the issuer role"), "{}", refused.stderr);
    e2e::process::success(&mut dogs[0].command("check-config"));
    dogs[0].start();
    dogs[1].start();

    // The third is dead. Two of three are enough.
    let sealed = ["--delivery-key", &issuer_key, "--store", store.to_str().unwrap()];
    let path = issue(story, &story.realm.issuer, "deploy", &sealed).unwrap();
    let lines = [0, 1].map(|index| dogs[index].wait_line("event=countersigned"));
    assert!(lines.iter().all(|line| line.contains(" certificates=1 ")), "{lines:?}");
    agent::once();
    let credential = certificate(story, &path);
    opens(story, "deploy", &credential);
    let first =
        batches(story).into_iter().find(|batch| batch["countersigners"].as_array().unwrap().len() == 2).unwrap();
    assert_eq!((&first["state"], &first["size"], &first["quorum"]), (&"accepted".into(), &1.into(), &2.into()));

    // In two hands as well: the one who logs shows it to the watchdogs, the one who signs waits for them.
    let desks = Desks { folder: bed::folder("desks") };
    let order = desks.prepare(story, "watched.toml", "deploy");
    let unseen = cli::run(Some(&story.realm.issuer), &["batch", "log", &order, "--store", sealed[3]]);
    assert!(unseen.status == Some(2) && unseen.stderr.contains("delivery key"), "{unseen:?}");
    cli::success(Some(&story.realm.issuer), &[&["batch", "log", &order][..], &sealed].concat());
    let path = Desks::sign(story, &order, &[]);
    agent::once();
    let credential = certificate(story, &path);
    opens(story, "deploy", &credential);

    // Without a store to show it in, nothing is logged at all.
    let before = batches(story).len();
    let refused = issue(story, &story.realm.issuer, "deploy", &[]).unwrap_err();
    assert!(refused.contains("delivery key"), "{refused}");
    assert_eq!(batches(story).len(), before);

    // One of the two has a policy of its own: the issuer waits, says who is silent, and signs nothing.
    let patience = [&sealed[..], &["--patience", "5s"]].concat();
    let refused = issue(story, &story.realm.issuer, "alice", &patience).unwrap_err();
    assert!(refused.contains("1 of 2 countersignatures"), "{refused}");
    assert!(refused.contains(&dogs[1].address) && refused.contains(&dogs[2].address), "{refused}");
    assert!(refused.contains("\"reason\":\"batch-waiting\"") && !refused.contains(&dogs[0].address), "{refused}");
    let line = dogs[1].wait_line("reason=policy-login");
    assert!(line.contains("event=refused ") && line.contains("final=true") && line.contains("leaf 0: alice"), "{line}");

    // An issuer that signs before it is countersigned, and shows nobody what it logged.
    let (batch, hidden) = story.log(&story.mint().make());
    let line = dogs[0].wait_line(&format!("batch={batch} reason=leaves-missing"));
    assert!(line.contains("final=true"), "{line}");
    agent::once();
    let credential = certificate(story, &hidden.path);
    refuses(story, "deploy", &credential, "batch-waiting");

    // A restart forgets nothing and countersigns nothing twice.
    dogs[0].stop();
    dogs[0].start();
    dogs[0].wait_line("event=started");
    dogs[2].start();
    let status = dogs[0].wait_block(story.anvil.block_number("latest"));
    assert_eq!((&status["countersigned"], &status["quorum"], &status["error"]), (&0.into(), &2.into(), &Value::Null));
    assert_eq!(status["refused"][batch.to_string()], "leaves-missing");
    assert_eq!(dogs[0].status()["watchdog"].as_str().unwrap(), dogs[0].address);
    // The third, back from the dead, brings alice's batch to its two; the first one's batch has enough.
    dogs[2].wait_line("event=countersigned");
    let log = cli::success(Some(&story.realm.issuer), &["log", "--kind", "COUNTERSIGN"]);
    assert_eq!(log["total"], 6, "{log}");
}

#[test]
fn each_mode_of_trust_opens_the_door_by_its_own_rule_and_by_no_other() {
    in_bed!(|| {
        let mut story = Story::begin(Setup { ca: false, ..Setup::default() });
        for mode in [without_a_ca, one_key_does_everything, two_hands, watchdogs] {
            let begun = Instant::now();
            mode(&mut story);
            println!("{} s", begun.elapsed().as_secs());
        }
    });
}

/// Files that go from root to root.
struct Roots {
    folder: PathBuf,
    keys: Vec<Actor>,
}

impl Roots {
    fn file(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_owned()
    }

    fn propose(&self, story: &Story, name: &str, what: &[&str]) -> String {
        let file = self.file(name);
        let (words, flags) = what.split_at(what.iter().take_while(|word| !word.starts_with("--")).count());
        let realm = words.first() == Some(&"realm");
        let arguments = if realm {
            [words, &[file.as_str()], flags].concat()
        } else {
            [words, flags, &["--propose", file.as_str()]].concat()
        };
        cli::success(Some(&story.realm.device), &arguments);
        file
    }

    fn sign(&self, file: &str, root: usize) -> Value {
        cli::success(Some(&self.keys[root]), &["realm", "sign", file])
    }

    fn sign_offline(&self, file: &str, root: usize) -> Value {
        cli::success(Some(&self.keys[root]), &["realm", "sign", file, "--offline"])
    }

    fn submit(story: &Story, file: &str) -> Value {
        cli::success(Some(&story.realm.device), &["realm", "submit", file])
    }

    fn refused(story: &Story, file: &str, text: &str) {
        let message = cli::refusal(Some(&story.realm.device), &["realm", "submit", file]);
        assert!(message.contains(text), "expected {text:?}: {message}");
    }
}

// row: D5
#[test]
fn a_stolen_root_and_a_stolen_ca_are_replaced_while_logins_go_on() {
    in_bed!(|| {
        let mut story = Story::begin(Setup { settings: Settings::default(), via: 1, ..Setup::default() });
        let keys = [0xa1, 0xa2, 0xa3, 0xa4, 0xa5].map(|name| story.realm.signer(name));
        let roots = Roots { folder: bed::folder("roots"), keys: keys.into() };
        let address = |index: usize| roots.keys[index].address.to_string();
        let replace = |old: usize, new: usize| format!("{}={}", address(old), address(new));
        let _agent = agent::run();
        let issued = |story: &Story| issue(story, &story.realm.issuer, "deploy", &[]).unwrap();
        let path = issued(&story);
        let batch_block = story.anvil.block_number("latest");
        let published =
            |number: u64| wait::until("the agent to publish", || (agent::published_block() >= number).then_some(()));
        published(batch_block);
        let credential = certificate(&story, &path);
        opens(&mut story, "deploy", &credential);

        // The thief of the first root has signed a proposal of his, and waits for a second signature.
        let thief = story.realm.signer(0x66).address.to_string();
        let stolen = roots.propose(&story, "stolen.toml", &["role", "grant", &thief, "admin,issuer"]);
        roots.sign(&stolen, 0);
        Roots::refused(&story, &stolen, "has 1 of 2 signatures");

        // The others replace it, by a file that each can read.
        let begun = Instant::now();
        let file = roots.propose(&story, "replace.toml", &["realm", "propose", "--replace-root", &replace(0, 3)]);
        let shown = roots.sign(&file, 1);
        let text = shown["writes"][0].as_str().unwrap();
        assert!(text.starts_with("ROOT_SET threshold=2 roots=[") && text.contains(&address(3)), "{text}");
        assert!(!text.contains(&address(0)), "{text}");
        roots.sign(&file, 2);
        let block = Roots::submit(&story, &file)["receipt"]["block"].as_u64().unwrap();
        opens(&mut story, "deploy", &credential);
        published(block);
        opens(&mut story, "deploy", &credential);

        // His half-signed proposal is dead, even should another root be tricked into signing it on a machine that does not look at the
        // ledger; and so is his key.
        let message = cli::refusal(Some(&roots.keys[1]), &["realm", "sign", &stolen]);
        assert!(message.contains("has root nonce 2, the ledger's is 3: make the proposal anew"), "{message}");
        roots.sign_offline(&stolen, 1);
        Roots::refused(&story, &stolen, "has root nonce 2, the ledger's is 3: make the proposal anew");
        let anew = roots.propose(&story, "anew.toml", &["role", "grant", &thief, "admin,issuer"]);
        let message = cli::refusal(Some(&roots.keys[0]), &["realm", "sign", &anew]);
        assert!(message.contains("is not a root of this realm"), "{message}");
        let good = fs::read_to_string(&anew).unwrap();
        let forged = good.replace(&address(3).to_lowercase(), &address(0));
        assert_ne!(forged, good);
        fs::write(&anew, forged).unwrap();
        let message = cli::refusal(Some(&roots.keys[1]), &["realm", "sign", &anew]);
        assert!(message.contains("names other roots than those in force"), "{message}");
        roots.sign_offline(&anew, 0);
        roots.sign_offline(&anew, 1);
        Roots::refused(&story, &anew, "names other roots than those in force");

        // A lost root is replaced by the rest; then all three must sign, and two do not suffice.
        let lost = roots.propose(&story, "lost.toml", &["realm", "propose", "--replace-root", &replace(2, 4)]);
        roots.sign(&lost, 3);
        roots.sign(&lost, 1);
        Roots::submit(&story, &lost);
        let threshold = roots.propose(&story, "threshold.toml", &["realm", "propose", "--new-threshold", "3"]);
        roots.sign(&threshold, 4);
        roots.sign(&threshold, 1);
        Roots::submit(&story, &threshold);

        // The CA's key is stolen as well: a new CA, and the old one's certificates end with the block of the lock.
        let new_ca = KeyFile::generate("ca2");
        let public = new_ca.public_path();
        let rotate = ["ca", "rotate", "ca1", "--key", public.to_str().unwrap(), "--old", "lock"];
        let rotate = roots.propose(&story, "rotate.toml", &rotate);
        roots.sign(&rotate, 1);
        let shown = roots.sign(&rotate, 3);
        assert!(shown["writes"][1].as_str().unwrap().starts_with("CA_LOCK "), "{shown}");
        Roots::refused(&story, &rotate, "has 2 of 3 signatures");
        roots.sign(&rotate, 4);
        let block = Roots::submit(&story, &rotate)["receipt"]["block"].as_u64().unwrap();
        published(block);
        refuses(&mut story, "deploy", &credential, "ca-locked");
        story.anvil.wait_final();
        story.ca_key = new_ca;
        let path = issue(&story, &story.realm.issuer, "deploy", &["--ca", "ca1-2"]).unwrap();
        published(story.anvil.block_number("latest"));
        let credential = certificate(&story, &path);
        opens(&mut story, "deploy", &credential);
        assert!(begun.elapsed().as_secs() < 120, "minutes, not hours");
        let shown = cli::success(None, &["realm", "show"]);
        assert_eq!((&shown["threshold"], &shown["root-nonce"]), (&3.into(), &6.into()), "{shown}");
    });
}
