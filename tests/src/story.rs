//! What most scenarios begin with: a chain, a realm, one user with a key, one host with sshd and the helper, a CA, and one grant.
//! And what most of them end with: a login by both clients, and every line that the helper logged about it.

use std::time::{SystemTime, UNIX_EPOCH};

use countersign_certificate::{Id, LogProof, RealmId, Scope, Target};

use crate::{
    agent,
    anvil::Anvil,
    client::{Credential, Login, russh, ssh},
    machine::{self, KeyFile},
    mint::{Mint, Minted},
    realm::{Directory, Grant, Realm, Settings},
    sshd::{Options, Sshd},
    syslog::SystemLog,
};

/// The uid of the first user of a realm.
pub const ALICE_UID: u32 = 1_900_000_000;

/// The label of the story's host.
pub const LABEL: &str = "web";

/// Seconds for which CAs of stories certify at most.
pub const CA_MAX_TTL: u64 = 600;

/// How a story begins.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// The realm's settings.
    pub settings: Settings,
    /// The grant's `via`: 1 certificate, 2 plain key, 3 both.
    pub via: u8,
    /// Whether the realm has a CA.
    pub ca: bool,
    /// Further TOML in the agent's configuration.
    pub agent: &'static str,
    /// sshd's.
    pub sshd: Options,
    /// Whether alice exists by the name service alone, and the host has no account of that name.
    pub nss: bool,
}

impl Default for Setup {
    fn default() -> Self {
        let settings = Settings { require_logged: false, ..Settings::default() };
        Self { settings, via: 3, ca: true, agent: "", sshd: Options::default(), nss: false }
    }
}

/// A scenario's world.
pub struct Story {
    /// sshd on the host.
    pub sshd: Sshd,
    /// The realm.
    pub realm: Realm,
    /// Its chain.
    pub anvil: Anvil,
    /// The host's log.
    pub log: SystemLog,
    /// Login `alice`.
    pub alice: Id,
    /// Her registered key.
    pub key: KeyFile,
    /// Its record.
    pub key_id: Id,
    /// The host that the agent runs on.
    pub host: Id,
    /// Another host, with no label, in nobody's grant.
    pub other_host: Id,
    /// alice on `host`, as `alice` and `deploy`.
    pub grant: Id,
    /// The CA, for every login but `rescue`; zeros where there is none.
    pub ca: Id,
    /// The CA's key.
    pub ca_key: KeyFile,
    principals_mode: bool,
}

impl Story {
    /// Builds it and publishes the first snapshot.
    ///
    /// # Panics
    /// Where any of it fails.
    #[must_use]
    pub fn begin(setup: Setup) -> Self {
        let mut log = SystemLog::bind();
        machine::install_helper();
        if setup.nss {
            machine::install_name_service();
        } else {
            machine::add_user("alice", ALICE_UID);
        }
        machine::add_user("deploy", 2001);
        machine::add_user("backup2", 2002);
        machine::add_user("rescue", 2003);
        let anvil = Anvil::start();
        let mut realm = Realm::create(&anvil, setup.settings);
        let ca_key = KeyFile::generate("ca");
        let logins = ["alice", "deploy", "backup2", "root"];
        let ca = if setup.ca { realm.add_ca("ca1", &ca_key, CA_MAX_TTL, &logins) } else { Id::default() };
        let key = KeyFile::generate("alice");
        let mut directory = Directory::of(&realm);
        let alice = directory.user("alice");
        let host = directory.host("web1", &[LABEL]);
        let other_host = directory.host("db1", &[]);
        let key_id = directory.key(alice, &key, 0);
        let grant = directory.grant(&Grant {
            subject: alice,
            hosts: &[host],
            logins: &["alice", "deploy"],
            via: setup.via,
            ..Grant::default()
        });
        directory.write();
        agent::configure(host, setup.agent);
        let sshd = Sshd::start(setup.sshd, &mut log);
        let principals_mode = setup.sshd.ca_file.is_some();
        let story =
            Self { sshd, realm, anvil, log, alice, key, key_id, host, other_host, grant, ca, ca_key, principals_mode };
        story.publish();
        story
    }

    /// Waits until what has been written is final, and lets the agent publish it.
    pub fn publish(&self) {
        self.anvil.wait_final();
        agent::once();
    }

    /// A certificate for alice's key that hosts take where logs are not required: as `deploy`, on this host, for five minutes.
    #[must_use]
    pub fn mint(&self) -> Mint<'_> {
        let now = now();
        Mint {
            ca: &self.ca_key,
            key: &self.key,
            principals: &["deploy"],
            valid_after: now.saturating_sub(30),
            valid_before: now.saturating_add(300),
            scope: Some(self.scope(Target::Host(self.host))),
            options: &[],
        }
    }

    /// alice's scope under the story's grant.
    #[must_use]
    pub fn scope(&self, target: Target) -> Scope {
        let realm = RealmId(self.realm.id().0);
        Scope { realm, user: self.alice, grant: self.grant, target, request: Id(crate::realm::random()) }
    }

    /// Logs in with both clients and compares what the helper logged: one line for each question that sshd asks.
    ///
    /// # Panics
    /// Where a login is refused, or a line differs.
    pub fn assert_accepted(&mut self, login: &str, credential: &Credential, line: &Line<'_>) {
        self.assert_accepted_as("granted", login, credential, line);
    }

    /// The same, where something else than `granted` is logged.
    ///
    /// # Panics
    /// See [`Story::assert_accepted`].
    pub fn assert_accepted_as(&mut self, reason: &str, login: &str, credential: &Credential, line: &Line<'_>) {
        self.log.take("countersign-sshd");
        for client in [ssh, russh] {
            let printed = client(&self.sshd, login, credential, "id -un");
            assert_eq!(printed, Login::Accepted(format!("{login}\n")));
        }
        // Both clients ask whether a key would do before they sign.
        self.assert_lines(4, &line.text(reason, login, self.mode()));
    }

    /// Fails to log in with both clients and compares what the helper logged.
    ///
    /// # Panics
    /// Where a login is accepted, or a line differs.
    pub fn assert_refused(&mut self, login: &str, credential: &Credential, reason: &str, line: &Line<'_>) {
        self.log.take("countersign-sshd");
        for client in [ssh, russh] {
            assert_eq!(client(&self.sshd, login, credential, "id -un"), Login::Refused, "expected {reason}");
        }
        self.assert_lines(2, &line.text(reason, login, self.mode()));
    }

    /// [`Story::assert_accepted`] with a plain key, about which the principals command is never asked.
    ///
    /// # Panics
    /// See [`Story::assert_accepted`].
    pub fn assert_accepted_by_keys(&mut self, login: &str, key: &Credential, line: &Line<'_>) {
        let principals_mode = std::mem::take(&mut self.principals_mode);
        self.assert_accepted(login, key, line);
        self.principals_mode = principals_mode;
    }

    /// [`Story::assert_refused`] with a plain key.
    ///
    /// # Panics
    /// See [`Story::assert_refused`].
    pub fn assert_refused_by_keys(&mut self, login: &str, key: &Credential, reason: &str, line: &Line<'_>) {
        let principals_mode = std::mem::take(&mut self.principals_mode);
        self.assert_refused(login, key, reason, line);
        self.principals_mode = principals_mode;
    }

    /// Makes `minted` part of a batch of its own, logged by the issuer, and gives the certificate with its proof.
    pub fn log(&self, minted: &Minted) -> (Id, Minted) {
        let leaf = minted.leaf(RealmId(self.realm.id().0), self.ca);
        let batch = self.realm.log_batch(self.ca, &[leaf], now().saturating_add(CA_MAX_TTL));
        let proof = LogProof::among(batch, &[leaf], 0).expect("a batch of one");
        (batch, minted.with_log_proof(&self.ca_key, &proof))
    }

    /// What the helper logs about a certificate for alice's key, once the CA is known.
    #[must_use]
    pub fn line<'a>(&self, key: &'a KeyFile, minted: &Minted) -> Line<'a> {
        Line { key: Some(key), serial: Some(minted.serial), ca: Some(self.ca), ..Line::default() }
    }

    fn mode(&self) -> &'static str {
        if self.principals_mode { "principals" } else { "keys" }
    }

    fn assert_lines(&mut self, count: usize, expected: &str) {
        let lines: Vec<String> = self.log.take("countersign-sshd").iter().map(|line| without_block(line)).collect();
        // Where the principals command refuses, sshd asks the keys command about the same certificate: it must agree.
        let in_mode = lines.iter().filter(|line| line.contains(&format!(" mode={}", self.mode())));
        assert_eq!(in_mode.cloned().collect::<Vec<_>>(), vec![expected.to_owned(); count]);
        let keys = expected.replace(" mode=principals", " mode=keys");
        for line in &lines {
            assert!(line == expected || *line == keys, "the helper's two modes disagree:\n{line}\n{expected}");
        }
    }
}

/// What a line of the helper names, besides reason and login; `-` where empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct Line<'a> {
    /// The key.
    pub key: Option<&'a KeyFile>,
    /// The certificate's serial.
    pub serial: Option<u64>,
    /// The CA, by id.
    pub ca: Option<Id>,
    /// The CA by its key's fingerprint, where no record was found (yet).
    pub ca_key: Option<&'a str>,
    /// The batch.
    pub batch: Option<Id>,
    /// What follows, between the quotes of `detail`.
    pub detail: Option<&'a str>,
}

impl Line<'_> {
    fn text(&self, reason: &str, login: &str, mode: &str) -> String {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let mut line = format!(
            "reason={reason} user={login} key={} serial={} ca={} batch={} mode={mode}",
            or_dash(self.key.map(KeyFile::fingerprint)),
            or_dash(self.serial.map(|serial| serial.to_string())),
            or_dash(self.ca.map(|id| id.to_string()).or_else(|| self.ca_key.map(str::to_owned))),
            or_dash(self.batch.map(|id| id.to_string())),
        );
        if let Some(detail) = self.detail {
            line.push_str(&format!(" detail=\"{detail}\""));
        }
        line
    }
}

/// The line without its block number, which no scenario can know.
fn without_block(line: &str) -> String {
    line.split(' ').filter(|field| !field.starts_with("block=")).collect::<Vec<_>>().join(" ")
}

/// Now, Unix seconds.
///
/// # Panics
/// Before 1970.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs()
}

/// The block number in a line of the helper.
#[must_use]
pub fn block_of(line: &str) -> Option<u64> {
    line.split(' ').find_map(|field| field.strip_prefix("block=")).and_then(|number| number.parse().ok())
}
