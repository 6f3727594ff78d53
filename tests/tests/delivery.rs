//! Certificates and key pairs on their way: issued and sealed by `countersign issue`, fetched by the recipient, used, let go of.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a scenario: a failure is its result")]

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use countersign_registry::{B256, Entry, entries::Roles, entries::payload};
use e2e::{
    agent, bed, cli,
    client::{Credential, Login, ssh},
    in_bed, process,
    realm::{Directory, Settings},
    story::{Setup, Story},
};

/// A sender and a recipient with delivery keys, and a store between them.
struct Post {
    story: Story,
    /// The issuer's delivery key.
    issuer_key: String,
    /// The device's.
    device_key: String,
    /// The directory of blocks.
    store: PathBuf,
    /// The recipient's folder.
    home: PathBuf,
}

impl Post {
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
        let issuer = story.realm.issuer.address;
        let role = payload::RoleSet { actor: issuer, roles: Roles::ISSUER, x25519: issuer_public };
        story.realm.by_roots(&[Entry::RoleSet(role)]);
        let mut directory = Directory::of(&story.realm);
        directory.member(story.realm.device.address, story.alice, device_public.0);
        directory.write();
        story.publish();
        Self { story, issuer_key, device_key, store: keys.join("blocks"), home: bed::folder("home") }
    }

    fn store(&self) -> &str {
        self.store.to_str().unwrap()
    }

    /// The names of the blocks in the store.
    fn blocks(&self) -> Vec<String> {
        let files = fs::read_dir(&self.store).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
        files.filter(|name| name.starts_with("bafkrei")).collect()
    }

    /// `countersign issue` for alice as `deploy`, delivered to her device under the name `deploy`.
    fn issue(&self, key: &[&str]) -> serde_json::Value {
        let ca_key = self.story.ca_key.path.to_str().unwrap();
        let mut arguments = vec!["issue", "alice@web1", "--as", "deploy", "--ttl", "5m", "--ca-key", ca_key];
        arguments.extend_from_slice(key);
        arguments.extend_from_slice(&["--deliver-to", "user:alice", "--payload", "deploy"]);
        arguments.extend_from_slice(&["--delivery-key", &self.issuer_key, "--store", self.store()]);
        cli::success(Some(&self.story.realm.issuer), &arguments)
    }

    fn fetch_arguments(&self) -> [&str; 7] {
        let home = self.home.to_str().unwrap();
        ["fetch", "--delivery-key", &self.device_key, "--store", self.store(), "--out", home]
    }

    fn fetch(&self) -> serde_json::Value {
        cli::success(Some(&self.story.realm.device), &self.fetch_arguments())
    }

    fn sweep(&self) -> serde_json::Value {
        let arguments = ["delivery", "sweep", "--delivery-key", &self.issuer_key, "--store", self.store()];
        cli::success(Some(&self.story.realm.issuer), &arguments)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    fn login(&self) -> Login {
        let certificate = self.file("deploy-cert.pub");
        let credential = Credential::files(&self.file("deploy"), Some(&certificate));
        ssh(&self.story.sshd, "deploy", &credential, "id -un")
    }
}

fn accepted() -> Login {
    Login::Accepted("deploy\n".to_owned())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

// row: D6 D9 D10 D11 D13
#[test]
fn a_five_minute_certificate_is_sealed_fetched_used_acknowledged_and_its_block_deleted() {
    in_bed!(|| {
        let post = Post::begin();
        let key = post.file("deploy");
        process::success(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key));
        let public = key.with_added_extension("pub");
        post.issue(&["--key", public.to_str().unwrap()]);
        assert_eq!(post.blocks().len(), 1);
        // On the ledger the CID stands sealed only.
        let log = cli::success(None, &["log"]).to_string();
        assert!(log.contains("DELIVERY") && !log.contains(&post.blocks()[0]), "{log}");

        let fetched = post.fetch();
        assert_eq!(fetched["deliveries"][0]["outcome"], "applied", "{fetched}");
        agent::once();
        assert_eq!(post.login(), accepted());

        // Not before the acknowledgement is final is the block let go of.
        post.story.anvil.wait_final();
        let swept = post.sweep();
        assert_eq!(post.blocks(), [""; 0], "{swept}");
        let again = post.fetch();
        assert_eq!(again["deliveries"].as_array().unwrap().len(), 0, "{again}");
    });
}

// row: D8 D9 D10 D12 D26
#[test]
fn a_key_pair_made_by_the_admin_arrives_logs_in_and_is_rotated() {
    in_bed!(|| {
        let post = Post::begin();
        post.issue(&["--generate"]);
        post.fetch();
        let private = post.file("deploy");
        assert_eq!(mode(&private), 0o600);
        agent::once();
        assert_eq!(post.login(), accepted());

        let old = bed::folder("old");
        for name in ["deploy", "deploy-cert.pub", "deploy.pub"] {
            fs::copy(post.file(name), old.join(name)).unwrap();
        }
        post.issue(&["--generate"]);
        // A key pair whose sender knows it does not replace a key unless it is told to.
        let refused = cli::run(Some(&post.story.realm.device), &post.fetch_arguments());
        assert!(refused.status == Some(1) && refused.stdout.contains("delivery-key-pair"), "{refused:?}");
        assert_eq!(fs::read(&private).unwrap(), fs::read(old.join("deploy")).unwrap());
        let mut replace = post.fetch_arguments().to_vec();
        replace.push("--replace-keys");
        cli::success(Some(&post.story.realm.device), &replace);
        assert_ne!(fs::read(&private).unwrap(), fs::read(old.join("deploy")).unwrap());
        let old_certificate = old.join("deploy-cert.pub");
        cli::success(Some(&post.story.realm.revoker), &["revoke", "cert", old_certificate.to_str().unwrap()]);
        agent::once();
        assert_eq!(post.login(), accepted());
        let mut story = post.story;
        story.log.take("countersign-sshd");
        let credential = Credential::files(&old.join("deploy"), Some(&old_certificate));
        assert_eq!(ssh(&story.sshd, "deploy", &credential, "id -un"), Login::Refused);
        let lines = story.log.take("countersign-sshd");
        assert!(lines.iter().all(|line| line.starts_with("reason=certificate-revoked user=deploy ")), "{lines:?}");
        assert_eq!(lines.len(), 1);
    });
}

#[test]
fn a_delivery_is_for_its_recipient_only_and_an_altered_block_for_nobody() {
    in_bed!(|| {
        let post = Post::begin();
        post.issue(&["--generate"]);

        // Another ledger key finds nothing that is its own; with another delivery key, nothing opens.
        let other = bed::folder("other");
        let stranger = other.join("x25519").to_str().unwrap().to_owned();
        cli::success(None, &["device", "new", &stranger]);
        let arguments =
            ["fetch", "--delivery-key", &stranger, "--store", post.store(), "--out", other.to_str().unwrap()];
        cli::refusal(Some(&post.story.realm.revoker), &arguments);
        cli::refusal(Some(&post.story.realm.device), &arguments);
        assert!(!other.join("deploy").exists());

        let block = post.store.join(&post.blocks()[0]);
        let whole = fs::read(&block).unwrap();
        let mut altered = whole.clone();
        altered[100] ^= 1;
        fs::write(&block, &altered).unwrap();
        let output = cli::run(Some(&post.story.realm.device), &post.fetch_arguments());
        assert_eq!(output.status, Some(1), "{output:?}");
        assert!(!post.file("deploy").exists());

        fs::write(&block, &whole).unwrap();
        post.fetch();
        assert!(post.file("deploy").exists());
    });
}

#[test]
fn the_issuer_refuses_what_the_host_would_with_the_same_reason() {
    in_bed!(|| {
        let post = Post::begin();
        let issuer = Some(&post.story.realm.issuer);
        let public = post.story.key.public_path();
        let (key, ca_key) = (public.to_str().unwrap(), post.story.ca_key.path.to_str().unwrap());
        let out = bed::folder("out").join("key");
        let issue = |who: &str, login: &str, ttl: &str| {
            let out = out.to_str().unwrap();
            cli::refusal(
                issuer,
                &["issue", who, "--as", login, "--ttl", ttl, "--key", key, "--ca-key", ca_key, "--out", out],
            )
        };
        for (who, login, ttl, reason) in [
            ("alice@web1", "backup2", "5m", "login-not-granted"),
            ("alice@web1", "rescue", "5m", "ca-login"),
            ("alice@web1", "deploy", "30m", "ttl-too-long"),
            ("alice@db1", "deploy", "5m", "host-not-covered"),
        ] {
            let message = issue(who, login, ttl);
            assert!(message.contains(reason), "expected {reason}: {message}");
        }
        let batches = cli::success(None, &["log", "--kind", "BATCH"]);
        assert!(!batches.to_string().contains("BATCH"), "a refused certificate was logged: {batches}");
    });
}

// row: D9 D10 D11 D26
#[test]
fn a_host_receives_a_key_pair_where_its_own_configuration_says_and_nowhere_else() {
    in_bed!(|| {
        let post = Post::begin();
        let secrets = bed::folder("host");
        let path = |name: &str| secrets.join(name).to_str().unwrap().to_owned();
        let password = path("password");
        fs::write(&password, "correct horse\n").unwrap();
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
        let made = cli::success(None, &["--password-file", &password, "actor", "new", &path("ledger.json")]);
        let address = made["address"].as_str().unwrap().to_owned();
        let shown = cli::success(None, &["device", "new", &path("x25519")]);
        post.story.anvil.fund(&[&address]);
        let x25519 = shown["x25519"].as_str().unwrap();
        let admin = Some(&post.story.realm.admin);
        cli::success(admin, &["member", "set", &address, "--host", "web1", "--x25519", x25519, "--wait", "final"]);

        let device = format!(
            "\
[device]
ledger-key = \"{}\"
ledger-password-file = \"{password}\"
sealing-key = \"{}\"

[[block-store]]
directory = \"{}\"

[[payload]]
name = \"backup\"
path = \"/home/backup2/id_backup\"
owner = \"backup2\"
key-pairs = true
",
            path("ledger.json"),
            path("x25519"),
            post.store()
        );
        agent::configure(post.story.host, &device);
        let ca_key = post.story.ca_key.path.to_str().unwrap();
        let mut arguments = vec!["issue", "alice@web1", "--as", "deploy", "--generate", "--ca-key", ca_key];
        arguments.extend_from_slice(&["--deliver-to", "host:web1", "--payload", "backup"]);
        arguments.extend_from_slice(&["--delivery-key", &post.issuer_key, "--store", post.store()]);
        cli::success(Some(&post.story.realm.issuer), &arguments);
        agent::once();

        let key = Path::new("/home/backup2/id_backup");
        let owner = fs::metadata(key).unwrap();
        assert_eq!((mode(key), owner.uid(), owner.gid()), (0o600, 2002, 2002));
        let credential = Credential::files(key, Some(Path::new("/home/backup2/id_backup-cert.pub")));
        assert_eq!(ssh(&post.story.sshd, "deploy", &credential, "id -un"), accepted());
        assert_eq!(agent::status()["deliveries"][0]["stage"], "acknowledged", "{}", agent::status());

        // A name that this host did not configure is not written anywhere.
        if let Some(name) = arguments.iter_mut().find(|argument| **argument == "backup") {
            *name = "authorized_keys";
        }
        cli::success(Some(&post.story.realm.issuer), &arguments);
        agent::try_once();
        let refused = &agent::status()["deliveries"];
        assert_eq!(refused[1]["reason"], "delivery-name", "{refused}");
        let written =
            fs::read_dir("/home/backup2").unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut written: Vec<String> = written.collect();
        written.sort();
        assert_eq!(written, ["id_backup", "id_backup-cert.pub", "id_backup.pub"]);

        post.story.anvil.wait_final();
        post.sweep();
        assert_eq!(post.blocks().len(), 1);
    });
}

// row: D11
#[test]
fn a_block_that_nobody_fetches_is_kept_until_the_timeout_and_then_let_go_of() {
    in_bed!(|| {
        let post = Post::begin();
        post.issue(&["--generate"]);
        post.story.anvil.wait_final();
        post.sweep();
        assert_eq!(post.blocks().len(), 1);
        let swept = cli::success(
            Some(&post.story.realm.issuer),
            &["delivery", "sweep", "--delivery-key", &post.issuer_key, "--store", post.store(), "--timeout", "1s"],
        );
        assert_eq!(post.blocks(), [""; 0], "{swept}");
        let output = cli::run(Some(&post.story.realm.device), &post.fetch_arguments());
        assert_eq!(output.status, Some(1), "{output:?}");
        assert!(output.stdout.contains("delivery-block-missing"), "{output:?}");
    });
}

// row: D16 D22 D23 D24 D25
#[test]
fn a_secret_goes_to_a_fleet_in_one_transaction_and_the_table_says_who_has_it() {
    in_bed!(|| {
        let post = Post::begin();
        let (admin, issuer) = (Some(&post.story.realm.admin), Some(&post.story.realm.issuer));
        let secrets = bed::folder("fleet");
        let path = |name: &str| secrets.join(name).to_str().unwrap().to_owned();
        let password = path("password");
        fs::write(&password, "correct horse\n").unwrap();
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
        let made = cli::success(None, &["--password-file", &password, "actor", "new", &path("ledger.json")]);
        let address = made["address"].as_str().unwrap().to_owned();
        let shown = cli::success(None, &["device", "new", &path("x25519")]);
        post.story.anvil.fund(&[&address]);
        cli::success(admin, &["label", "add", "web1", "web", "--wait", "final"]);
        let x25519 = shown["x25519"].as_str().unwrap();
        cli::success(admin, &["member", "set", &address, "--host", "web1", "--x25519", x25519]);
        cli::success(admin, &["payload", "add", "token", "--kind", "opaque-secret", "--wait", "final"]);
        let device = format!(
            "\
[device]
ledger-key = \"{}\"
ledger-password-file = \"{password}\"
sealing-key = \"{}\"
prekeys = 2

[[block-store]]
directory = \"{}\"

[[payload]]
name = \"token\"
kind = \"opaque-secret\"
path = \"/home/backup2/token\"
owner = \"backup2\"
",
            path("ledger.json"),
            path("x25519"),
            post.store()
        );
        fs::create_dir(&post.store).unwrap();
        agent::configure(post.story.host, &device);
        agent::once();

        fs::write(path("token"), "hunter2").unwrap();
        let token = path("token");
        let mut send = vec!["send", &token, "--label", "web", "--to", "user:alice", "--as", "token"];
        send.extend_from_slice(&["--delivery-key", &post.issuer_key, "--store", post.store()]);
        let sent = cli::success(issuer, &send);
        assert_eq!((&sent["recipients"], &sent["with-prekey"], &sent["blocks"]), (&2.into(), &1.into(), &3.into()));
        let id = sent["id"].as_str().unwrap();
        assert!(sent["receipt"]["gas-used"].as_u64().unwrap() < 60_000, "{sent}");

        let inbox = ["inbox", "--delivery-key", &post.device_key, "--store", post.store()];
        let waiting = cli::success(Some(&post.story.realm.device), &inbox);
        assert_eq!((&waiting["items"][0]["id"], &waiting["items"][0]["state"]), (&id.into(), &"waiting".into()));
        agent::once();
        assert_eq!(fs::read_to_string("/home/backup2/token").unwrap(), "hunter2");
        assert_eq!(mode(Path::new("/home/backup2/token")), 0o600);

        let show = ["delivery", "show", id, "--store", post.store()];
        let states = || -> Vec<(String, String)> {
            let shown = cli::success(issuer, &show);
            let rows = shown["recipients"]["items"].as_array().unwrap().clone();
            let word = |row: &serde_json::Value, field: &str| row[field].as_str().unwrap().to_owned();
            let mut states: Vec<_> = rows.iter().map(|row| (word(row, "name"), word(row, "state"))).collect();
            states.sort();
            states
        };
        let state = |name: &str, state: &str| (name.to_owned(), state.to_owned());
        let known = states();
        assert_eq!(known[0], state("alice", "waiting"));
        assert!(known[1].0 == "web1" && known[1].1.starts_with("acknowledged"), "{known:?}");

        // Sealed to a prekey, its key was not kept; with the file it goes once more to the one who has not got it.
        let mut resend = vec!["delivery", "resend", id, "--delivery-key", &post.issuer_key, "--store", post.store()];
        let refused = cli::refusal(issuer, &resend);
        assert!(refused.contains("give the file again"), "{refused}");
        resend.insert(3, &token);
        assert_eq!(cli::success(issuer, &resend)["recipients"], 1);
        let named = ["--name", "token", "--kind", "opaque-secret"];
        cli::success(Some(&post.story.realm.device), &[&post.fetch_arguments()[..], &named].concat());
        assert_eq!(fs::read_to_string(post.file("token")).unwrap(), "hunter2");
        assert!(states().iter().all(|(_, state)| state.starts_with("acknowledged")), "{:?}", states());
        let nobody = cli::refusal(issuer, &resend);
        assert!(nobody.contains("everybody has it"), "{nobody}");
    });
}
