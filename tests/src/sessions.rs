//! A host without a chain, for scenarios about sessions: the snapshot's tables are the scenario's own, several engineers each with a key, a
//! CA, a grant and a batch of their own share one login, and [`Host::look`] does what the agent does once a second.

use std::{collections::BTreeSet, fs, process::Command};

use countersign_certificate::Certificate;
use countersign_certificate::{Fingerprint20, Id, LogProof, RealmId, Scope, Target, leaf_hash, merkle};
use countersign_sessions::{Event, EventKind, Keeper, Session, Settings, State, list, prepare};
use countersign_snapshot::{
    AccessTables, AccountsTables, Batch, BatchState, BlockRef, Ca, CaState, Clock, Facts, Freshness, Gid, Grant,
    HostState, Permits, PublishInfo, Salt, Subject, User, UserState, Via, publish,
};
use countersign_sshd::ProcessName;

use crate::{
    agent::SNAPSHOT,
    machine::{self, KeyFile, helper_group},
    mint::{Mint, Minted},
    process::Background,
    sshd::{Options, PORT, Sshd},
    story::now,
    syslog::SystemLog,
    wait,
};

const REALM: RealmId = RealmId([0x11; 32]);
const HOST: Id = Id([0x22; 16]);
/// Longer than any machine needs for a scenario: nothing gets old by itself.
const MAX_STALENESS_SECS: u64 = 3600;

/// Seconds for which certificates are made.
const TTL_SECS: u64 = 3600;

/// How long anything may be good for.
const MAX_TTL_SECS: u64 = 7200;

/// An engineer with everything of their own.
#[derive(Clone, Debug)]
pub struct Engineer {
    /// Their key.
    pub key: KeyFile,
    /// The certificate for it, logged, for `deploy` and `root`.
    pub certificate: Minted,
    /// User.
    pub user: Id,
    /// Grant.
    pub grant: Id,
    /// CA.
    pub ca: Id,
    /// Batch.
    pub batch: Id,
    /// When the certificate ends, Unix time.
    pub ends_secs: u64,
}

/// The host.
pub struct Host {
    /// What it decides from; takes effect with [`Host::publish`].
    pub access: AccessTables,
    /// The same.
    pub facts: Facts,
    /// sshd.
    pub sshd: Sshd,
    /// Its log.
    pub log: SystemLog,
    /// How sessions are looked after.
    pub settings: Settings,
    keeper: Keeper,
    events: Vec<Event>,
    engineers: u8,
}

impl Host {
    /// Sets it up, with the login `deploy`.
    ///
    /// # Panics
    /// Where any of it fails.
    #[must_use]
    pub fn begin(options: Options, has_hook: bool) -> Self {
        Self::begin_with(SystemLog::bind(), options, has_hook)
    }

    /// The same with a log that is there already.
    ///
    /// # Panics
    /// Where any of it fails.
    #[must_use]
    pub fn begin_with(mut log: SystemLog, options: Options, has_hook: bool) -> Self {
        machine::install_helper();
        machine::add_user("deploy", 2001);
        if has_hook {
            machine::install_session_hook();
        }
        fs::create_dir_all("/var/lib/countersign").expect("the agent's folder");
        let sshd = Sshd::start(options, &mut log);
        let block = BlockRef { number: 500, time_secs: now() };
        let facts = Facts {
            realm: REALM,
            host: HOST,
            host_state: HostState::Active,
            require_logged: true,
            allow_root: true,
            pickup_secs: TTL_SECS,
            max_ttl_secs: MAX_TTL_SECS,
            latest_block: block,
            final_block: block,
        };
        let settings = Settings { grace_secs: 1, ..Settings::new(SNAPSHOT.into(), helper_group()) };
        prepare(&settings.runtime, (helper_group(), helper_group())).expect("the folders of notes and records");
        let keeper = Keeper::new(settings.clone());
        let (access, events) = (AccessTables::default(), Vec::new());
        Self { access, facts, sshd, log, settings, keeper, events, engineers: 0 }
    }

    /// Adds an engineer.
    ///
    /// # Panics
    /// Where a key cannot be made.
    pub fn engineer(&mut self) -> Engineer {
        self.engineers = self.engineers.saturating_add(1);
        let number = self.engineers;
        let id = |kind: u8| Id([[kind, number]; 8].concat().try_into().expect("16 bytes"));
        let (user, grant, ca, batch) = (id(1), id(2), id(3), id(4));
        let (key, ca_key) = (KeyFile::generate(&format!("key{number}")), KeyFile::generate(&format!("ca{number}")));
        let scope = Scope { realm: REALM, user, grant, target: Target::Host(HOST), request: id(5) };
        let (valid_after, valid_before) = (now().saturating_sub(30), now().saturating_add(TTL_SECS));
        let minted = Mint {
            ca: &ca_key,
            key: &key,
            principals: &["deploy", "root"],
            valid_after,
            valid_before,
            scope: Some(scope),
            options: &["permit-port-forwarding"],
        }
        .make();
        let blob = minted.blob();
        let pre = Certificate::parse(&blob).expect("a certificate that hosts read").pre_certificate();
        let leaf = leaf_hash(&REALM, &ca, &pre);
        let certificate = minted.with_log_proof(&ca_key, &LogProof::among(batch, &[leaf], 0).expect("a batch of one"));

        self.access.users.push((user, User { state: UserState::Active, login: format!("engineer{number}") }));
        self.access.grants.push((
            grant,
            Grant {
                subject: Subject::User(user),
                via: Via { certificate: true, plain_key: false },
                max_ttl_secs: None,
                approvals: 0,
                not_after_secs: None,
                permits: Permits(Permits::PTY | Permits::PORT_FORWARDING),
                forced_command: None,
                source_addresses: Vec::new(),
                hours: Vec::new(),
            },
        ));
        self.access.grant_logins.extend(["deploy", "root"].map(|login| (grant, login.to_owned())));
        self.access.cas.push(Ca {
            id: ca,
            state: CaState::Active,
            max_ttl_secs: MAX_TTL_SECS,
            logins_restricted: false,
            key_blob: ca_key.blob(),
        });
        let logged = Batch {
            state: BatchState::Accepted,
            ca,
            root: merkle::root(&[leaf]).expect("a root"),
            size: 1,
            time_secs: now(),
            not_after_secs: now().saturating_add(MAX_TTL_SECS),
            block: 499,
        };
        self.access.batches.push((batch, logged));
        Engineer { key, certificate, user, grant, ca, batch, ends_secs: valid_before }
    }

    /// Publishes.
    ///
    /// # Panics
    /// Where it fails.
    pub fn publish(&self) {
        let clock = Clock::now().expect("the clock");
        let facts = &self.facts;
        let freshness = Freshness {
            valid_until_secs: facts.latest_block.time_secs.saturating_add(MAX_STALENESS_SECS),
            boot_id: clock.boot_id,
            boottime_secs: clock.boottime_secs,
            age_consumed_secs: 0,
            max_staleness_secs: MAX_STALENESS_SECS,
            highest_wall_secs: facts.latest_block.time_secs,
        };
        let info = PublishInfo {
            facts: facts.clone(),
            freshness,
            salt: Salt([0x5a; 16]),
            access_group: Some(Gid(helper_group())),
            now_unix_secs: clock.unix_secs,
        };
        publish(SNAPSHOT.as_ref(), &self.access, &AccountsTables::default(), &info).expect("publishing");
    }

    /// `ssh` with the engineer's certificate, and more arguments.
    #[must_use]
    pub fn ssh(&self, engineer: &Engineer, login: &str, arguments: &[&str]) -> Command {
        let mut ssh = with_certificate(&self.sshd, login, &engineer.key, &engineer.certificate);
        ssh.args(arguments);
        ssh
    }

    /// Logs in and runs `command`, which prints `ready` when it has done what it is for, and goes on.
    #[must_use]
    pub fn session(&mut self, engineer: &Engineer, login: &str, options: &[&str], command: &str) -> Running {
        let before = self.processes();
        let mut client = Background::start("ssh", self.ssh(engineer, login, options).arg(command));
        client.wait_line("ready");
        self.running(client, &before)
    }

    /// Logs in by a plain key and runs `command`, as [`Host::session`] does.
    #[must_use]
    pub fn plain_session(&mut self, key: &KeyFile, login: &str, command: &str) -> Running {
        let before = self.processes();
        let mut ssh = client(&self.sshd, login);
        ssh.args(["-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-i"]).arg(&key.path).arg(command);
        let mut client = Background::start("ssh", &mut ssh);
        client.wait_line("ready");
        self.running(client, &before)
    }

    /// The session that is there since `before`, of `client`.
    #[must_use]
    pub fn running(&self, client: Background, before: &BTreeSet<ProcessName>) -> Running {
        let new = || self.processes().difference(before).next().copied();
        let process = wait::until("a session", new);
        Running { client, process }
    }

    /// The sessions that there are.
    ///
    /// # Panics
    /// Where they cannot be listed.
    #[must_use]
    pub fn list(&self) -> Vec<Session> {
        list(&self.settings, &Clock::now().expect("the clock")).expect("the sessions")
    }

    /// Their processes.
    #[must_use]
    pub fn processes(&self) -> BTreeSet<ProcessName> {
        self.list().into_iter().map(|session| session.process).collect()
    }

    /// How a session stands, and why.
    #[must_use]
    pub fn state(&self, process: ProcessName) -> Option<(State, Option<&'static str>)> {
        let found = self.list().into_iter().find(|session| session.process == process)?;
        Some((found.state, found.reason.map(countersign_sshd::Reason::code)))
    }

    /// Does what the agent does once a second, now or at Unix time `at_secs` if that is later; what happened.
    ///
    /// # Panics
    /// Where it cannot look.
    pub fn look(&mut self, at_secs: u64) -> Vec<Event> {
        let mut clock = Clock::now().expect("the clock");
        clock.unix_secs = clock.unix_secs.max(at_secs);
        let events = self.keeper.look(&clock).expect("a look at the sessions");
        self.events.extend(events.iter().cloned());
        events
    }

    /// Looks until the session of `process` has ended; the reason.
    ///
    /// # Panics
    /// Where any other session is ended meanwhile.
    pub fn until_ended(&mut self, process: ProcessName) -> &'static str {
        wait::until(&format!("session {process} to end"), || {
            let events = self.look(0);
            let ended =
                events.iter().filter(|event| event.kind != EventKind::Warned && event.kind != EventKind::Adopted);
            let others: Vec<_> = ended.clone().filter(|event| event.process != process).collect();
            assert!(others.is_empty(), "others are not touched: {others:?}");
            ended
                .filter(|event| event.kind == EventKind::Ended)
                .find_map(|event| event.reason)
                .map(|reason| reason.code())
        })
    }

    /// The agent is started again: all that it remembered is gone.
    pub fn restart(&mut self) {
        self.keeper = Keeper::new(self.settings.clone());
    }

    /// All events so far.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Locks the engineer's key, and publishes.
    pub fn lock_key(&mut self, engineer: &Engineer) {
        let key = Fingerprint20::of_blob(&engineer.key.blob());
        self.access.revoked_keys.push((key, countersign_snapshot::Denial::Locked));
        self.publish();
    }
}

/// `ssh` to the host as `login`, without credentials.
#[must_use]
pub fn client(sshd: &Sshd, login: &str) -> Command {
    let mut ssh = Command::new("ssh");
    ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "GlobalKnownHostsFile=none"])
        .args(["-o", "StrictHostKeyChecking=yes", "-o"])
        .arg(format!("UserKnownHostsFile={}", sshd.known_hosts().display()))
        .args(["-p", &PORT.to_string(), "-l", login, "127.0.0.1"]);
    ssh
}

/// The same with a certificate, which is offered first.
#[must_use]
pub fn with_certificate(sshd: &Sshd, login: &str, key: &KeyFile, certificate: &Minted) -> Command {
    let mut ssh = client(sshd, login);
    let certificate = format!("CertificateFile={}", certificate.path.display());
    ssh.args(["-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", &certificate, "-i"]).arg(&key.path);
    ssh
}

/// A session, seen from both sides.
pub struct Running {
    /// The client.
    pub client: Background,
    /// The session's sshd.
    pub process: ProcessName,
}

impl Running {
    /// Whether client and sshd both go on.
    pub fn goes_on(&mut self) -> bool {
        self.client.ended().is_none() && self.process.is_alive()
    }

    /// Waits until the client has noticed its end.
    pub fn wait_closed(&mut self) {
        wait::until("the client to notice", || self.client.ended());
        assert!(!self.process.is_alive());
    }
}
