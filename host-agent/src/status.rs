//! What the agent says about itself: one JSON file in the state directory, replaced whole after every cycle, and its rendering by
//! `countersign-agent status`. The JSON is stable: fields are added, never renamed. It holds no secret and is world readable.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use countersign_certificate::Id;
use countersign_registry::{B256, BlockRef};
use countersign_snapshot::{Accounts, Clock, Snapshot, Trust};
use serde::{Deserialize, Serialize};

use crate::files::{self, Directory, FileError, Owners, Ownership, Secrecy};
use crate::reason::Reason;

/// The file's name in the state directory.
pub const FILE: &str = "status.json";

/// The number in `format`.
pub const FORMAT: u32 = 1;

const LIMIT: u64 = 4 << 20;

/// The agent's account of itself. Times are Unix seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// Always [`FORMAT`].
    pub format: u32,
    /// The agent's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// The realm that is read.
    pub realm: B256,
    /// The realms that it continues, the first first.
    #[serde(default)]
    pub left: Vec<Leg>,
    /// This host's record id.
    pub host: Id,
    /// When this was written.
    pub at: u64,
    /// The newest block that was synced and published.
    pub latest: Option<BlockRef>,
    /// The final block that went with it.
    #[serde(rename = "final")]
    pub final_block: Option<BlockRef>,
    /// The snapshot that is there.
    pub published: Option<Published>,
    /// How large its files are; none where readers would not open them.
    #[serde(default)]
    pub snapshot_files: Option<SnapshotFiles>,
    /// When a cycle last ended with a fresh snapshot published.
    pub last_success: Option<u64>,
    /// The last failure, also after it was overcome (`failures` is 0 then).
    pub last_failure: Option<Failure>,
    /// Failed cycles since the last success.
    pub failures: u64,
    /// How much the realm holds.
    pub counts: BTreeMap<String, u64>,
    /// Deliveries to this device that were seen lately, newest last.
    pub deliveries: Vec<DeliveryStatus>,
    /// Certificates that this device asks for itself, by payload name.
    #[serde(default)]
    pub renewals: Vec<RenewalStatus>,
}

/// Where the renewal of a payload's certificate stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RenewalStatus {
    /// The payload's name.
    pub payload_name: String,
    /// First second in which the certificate that is there does not count any more; none where there is none that counts.
    pub expires: Option<u64>,
    /// Whether another one is wanted by now.
    pub renewing: bool,
    /// Since when, by the ledger's time.
    pub since: Option<u64>,
    /// The request that is open.
    pub request: Option<Id>,
    /// Requests that came to nothing since the last certificate.
    pub failures: u32,
    /// Nothing is asked for before this time, where one has failed.
    pub not_before: Option<u64>,
    /// Why there is no other one yet, where something is wrong.
    pub reason: Option<Reason>,
    /// In words.
    pub message: Option<String>,
}

impl RenewalStatus {
    fn to_text(&self, now: u64) -> String {
        let mut text = printable(&self.payload_name);
        // Writing to a String cannot fail.
        let _ = match self.expires {
            Some(end) if end > now => write!(text, " expires in {} s", end.saturating_sub(now)),
            Some(end) => write!(text, " expired {} s ago", now.saturating_sub(end)),
            None => write!(text, " no certificate"),
        };
        if let Some(since) = self.since {
            let _ = write!(text, ", renewing for {} s", now.saturating_sub(since));
        }
        if let Some(request) = self.request {
            let _ = write!(text, ", request {request}");
        }
        if let Some(reason) = self.reason {
            let _ = write!(text, " ({reason}: {})", printable(self.message.as_deref().unwrap_or_default()));
        }
        text
    }
}

/// A realm that was left for another one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Leg {
    /// Its id.
    pub realm: B256,
    /// EIP-155 id of its chain; 0 where no realm file leads to it.
    pub chain_id: u64,
    /// When it was last asked what it denies since, and answered.
    pub last_look: Option<u64>,
    /// Why it is not asked, or does not answer.
    pub failure: Option<String>,
}

/// The snapshot that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Published {
    /// Its generation.
    pub generation: u64,
    /// When it was published.
    pub at: u64,
    /// Time of the block that it was made from.
    pub block_time: u64,
    /// The last second in which logins are answered from it.
    pub valid_until: u64,
    /// How old its facts may become, seconds.
    pub max_staleness: u64,
}

/// The sizes of a snapshot's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SnapshotFiles {
    /// What logins are decided from.
    pub access: FileBytes,
    /// What name services show.
    pub accounts: FileBytes,
}

/// The sizes of one audience's files, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FileBytes {
    /// The base.
    pub base: u64,
    /// What changed since the base was written, if anything.
    pub delta: Option<u64>,
}

impl FileBytes {
    fn to_text(self) -> String {
        let kib = |bytes: u64| format!("{} KiB", bytes.div_ceil(1024));
        self.delta.map_or_else(|| kib(self.base), |delta| format!("{} + {} changed", kib(self.base), kib(delta)))
    }
}

/// A failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Failure {
    /// The stable code.
    pub reason: Reason,
    /// In words.
    pub message: String,
    /// When.
    pub at: u64,
}

/// What became of a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DeliveryStatus {
    /// The delivery's record id.
    pub id: Id,
    /// The payload's name.
    pub payload_name: String,
    /// How far it came.
    pub stage: Stage,
    /// Why it came no further, if it failed.
    pub reason: Option<Reason>,
    /// In words.
    pub message: Option<String>,
    /// When it last changed.
    pub at: u64,
}

/// How far a delivery came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Failed; tried again at each poll.
    Waiting,
    /// Failed for good; not tried again.
    Refused,
    /// The files are in place; the acknowledgement is not on the ledger yet.
    Applied,
    /// Acknowledged on the ledger.
    Acknowledged,
}

impl Stage {
    fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Refused => "refused",
            Self::Applied => "applied",
            Self::Acknowledged => "acknowledged",
        }
    }
}

/// Why a status cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The file is missing or unsafe.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is not a status.
    #[error("{path}: expected the agent's status: {source}")]
    Parse {
        /// The file.
        path: String,
        /// What is wrong.
        source: serde_json::Error,
    },
}

impl Status {
    /// Replaces the status file in `directory`.
    ///
    /// # Errors
    /// What the system refused.
    pub fn write(&self, directory: &Directory) -> Result<(), StatusError> {
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|source| StatusError::Parse { path: directory.path().join(FILE).display().to_string(), source })?;
        bytes.push(b'\n');
        let ownership =
            Ownership { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw(), mode: 0o644 };
        directory.replace(FILE.as_ref(), &bytes, ownership)?;
        Ok(())
    }

    /// Reads the status file of the agent whose state directory this is. The agent may run as another user.
    ///
    /// # Errors
    /// A missing or unsafe file, or one that does not parse.
    pub fn read(state_dir: &Path) -> Result<Self, StatusError> {
        let path = state_dir.join(FILE);
        let bytes = files::read(&path, Owners::process(), Secrecy::Public, LIMIT)?;
        serde_json::from_slice(&bytes).map_err(|source| StatusError::Parse { path: path.display().to_string(), source })
    }

    /// The JSON of `status --format json` at Unix time `now`: `fresh`, `stale-because` where it is not, `age` (seconds since the
    /// block), and the file's fields. `usable`: what [`usable`] said.
    ///
    /// # Errors
    /// None in practice: every field has a JSON form.
    pub fn to_json(&self, now: u64, usable: &Result<(), String>) -> Result<String, serde_json::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "kebab-case")]
        struct Shown<'a> {
            fresh: bool,
            #[serde(skip_serializing_if = "Option::is_none")]
            stale_because: Option<&'a str>,
            age: Option<u64>,
            #[serde(flatten)]
            status: &'a Status,
        }
        let age = self.published.map(|published| now.saturating_sub(published.block_time));
        let stale_because = usable.as_ref().err().map(String::as_str);
        serde_json::to_string_pretty(&Shown { fresh: usable.is_ok(), stale_because, age, status: self })
    }

    /// The lines of `status`, at Unix time `now`.
    pub fn to_text(&self, now: u64, usable: &Result<(), String>) -> String {
        let mut out = String::new();
        let ago = |time: u64| format!("{} s ago", now.saturating_sub(time));
        // Writing to a String cannot fail.
        let mut line = |name: &str, value: String| {
            let _ = writeln!(out, "{name:<14}{value}");
        };
        line("realm", self.realm.to_string());
        for left in &self.left {
            let asked =
                left.last_look.map_or_else(|| "not asked since".to_owned(), |time| format!("asked {}", ago(time)));
            let failure = left.failure.as_ref().map(|why| format!(", now: {}", printable(why))).unwrap_or_default();
            line("continues", format!("{} on chain {} ({asked}{failure})", left.realm, left.chain_id));
        }
        line("host", self.host.to_string());
        match self.published {
            Some(published) => {
                let state = match usable {
                    Ok(()) => format!("fresh for {} s", published.valid_until.saturating_sub(now)),
                    Err(why) => format!("not usable: {}", printable(why)),
                };
                line("snapshot", format!("generation {}, {state}", published.generation));
            }
            None => line("snapshot", "none published".to_owned()),
        }
        if let Some(files) = self.snapshot_files {
            line("its files", format!("access {}, accounts {}", files.access.to_text(), files.accounts.to_text()));
        }
        let block = |block: Option<BlockRef>| match block {
            Some(block) => format!("{} ({})", block.number, ago(block.time)),
            None => "none".to_owned(),
        };
        line("latest block", block(self.latest));
        line("final block", block(self.final_block));
        line("last success", self.last_success.map_or_else(|| "never".to_owned(), ago));
        match &self.last_failure {
            Some(failure) if self.failures > 0 => {
                let Failure { reason, message, at } = failure;
                line(
                    "failing",
                    format!("{} times, last {}: {reason}: {}", self.failures, ago(*at), printable(message)),
                );
            }
            Some(failure) => line("last failure", format!("{}: {} (overcome)", ago(failure.at), failure.reason)),
            None => line("last failure", "never".to_owned()),
        }
        let counts: Vec<String> = self.counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
        if !counts.is_empty() {
            line("realm holds", counts.join(", "));
        }
        for delivery in &self.deliveries {
            let mut text = format!("{} {} {}", delivery.id, printable(&delivery.payload_name), delivery.stage.as_str());
            if let Some(reason) = delivery.reason {
                // Writing to a String cannot fail.
                let _ = write!(text, " ({reason}: {})", printable(delivery.message.as_deref().unwrap_or_default()));
            }
            line("delivery", text);
        }
        for renewal in &self.renewals {
            line("certificate", renewal.to_text(now));
        }
        out
    }
}

/// Whether the snapshot in `directory` counts at `clock`, asked of the files themselves as a login asks; else why not.
///
/// # Errors
/// Why logins are refused, in words.
pub fn usable(directory: &Path, clock: &Clock) -> Result<(), String> {
    let mut problem = String::new();
    for trust in [Trust::ROOT, Trust::owner(nix::unistd::geteuid().as_raw())] {
        // Who may not read `access` is told by `accounts`, which is published just before it.
        let fresh = match Snapshot::open(directory, trust) {
            Ok(snapshot) => Ok(snapshot.fresh(clock)),
            Err(_) => Accounts::open(directory, trust).map(|accounts| accounts.fresh(clock)),
        };
        match fresh {
            Ok(fresh) => return fresh.map_err(|stale| stale.to_string()),
            Err(error) => problem = crate::log::chain(&error),
        }
    }
    Err(problem)
}

/// Text from outside, fit for a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        Status {
            format: FORMAT,
            version: "0.1.0".to_owned(),
            pid: 7,
            realm: B256::repeat_byte(0xaa),
            left: vec![Leg {
                realm: B256::repeat_byte(0xbb),
                chain_id: 1135,
                last_look: Some(900),
                failure: Some("no answer".to_owned()),
            }],
            host: Id([1; 16]),
            at: 1000,
            latest: Some(BlockRef { number: 50, time: 990 }),
            final_block: Some(BlockRef { number: 48, time: 988 }),
            published: Some(Published {
                generation: 3,
                at: 995,
                block_time: 990,
                valid_until: 1290,
                max_staleness: 300,
            }),
            snapshot_files: Some(SnapshotFiles {
                access: FileBytes { base: 409_600, delta: Some(8_192) },
                accounts: FileBytes { base: 32_768, delta: None },
            }),
            last_success: Some(995),
            last_failure: Some(Failure {
                reason: Reason::EndpointsSilent,
                message: "none of 2 endpoints answered\u{1b}[2J".to_owned(),
                at: 999,
            }),
            failures: 2,
            counts: BTreeMap::from([("users".to_owned(), 4), ("cas".to_owned(), 1)]),
            deliveries: vec![DeliveryStatus {
                id: Id([2; 16]),
                payload_name: "deploy".to_owned(),
                stage: Stage::Refused,
                reason: Some(Reason::DeliveryDigest),
                message: Some("payload: digest".to_owned()),
                at: 998,
            }],
            renewals: vec![RenewalStatus {
                payload_name: "ssh".to_owned(),
                expires: Some(1_070),
                renewing: true,
                since: Some(1_000),
                request: Some(Id([3; 16])),
                failures: 1,
                not_before: Some(1_005),
                reason: Some(Reason::RenewLedger),
                message: Some("no\u{7}".to_owned()),
            }],
        }
    }

    #[test]
    fn the_text_says_how_long_logins_go_on_and_why_the_agent_fails() {
        let expected = "\
realm         0xaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
continues     0xbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb on chain 1135 (asked 110 s ago, now: no answer)
host          01010101010101010101010101010101
snapshot      generation 3, fresh for 280 s
its files     access 400 KiB + 8 KiB changed, accounts 32 KiB
latest block  50 (20 s ago)
final block   48 (22 s ago)
last success  15 s ago
failing       2 times, last 11 s ago: endpoints-silent: none of 2 endpoints answered\u{fffd}[2J
realm holds   1 cas, 4 users
delivery      02020202020202020202020202020202 deploy refused (delivery-digest: payload: digest)
certificate   ssh expires in 60 s, renewing for 10 s, request 03030303030303030303030303030303 (renew-ledger: no\u{fffd})
";
        assert_eq!(status().to_text(1010, &Ok(())), expected);
        let stale = status().to_text(1300, &Err("snapshot is from another boot".to_owned()));
        assert!(stale.contains("snapshot      generation 3, not usable: snapshot is from another boot\n"), "{stale}");
    }

    #[test]
    fn the_json_has_stable_names_and_reads_back() {
        let json = status().to_json(1010, &Ok(())).unwrap();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["fresh"], true);
        assert_eq!(value["age"], 20);
        assert_eq!(value["final"]["number"], 48);
        assert_eq!(value["last-failure"]["reason"], "endpoints-silent");
        assert_eq!(value["deliveries"][0]["stage"], "refused");
        assert_eq!(value["published"]["valid-until"], 1290);
        assert_eq!(value["snapshot-files"]["access"]["delta"], 8192);
        assert_eq!(value["renewals"][0]["not-before"], 1005);
        let read: Status = serde_json::from_str(&json).unwrap();
        assert_eq!(read, status());
        assert!(value.get("stale-because").is_none());
        let json = status().to_json(1010, &Err("old".to_owned())).unwrap();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&value["fresh"], &value["stale-because"]), (&false.into(), &"old".into()));
    }

    #[test]
    fn a_status_is_replaced_whole_and_read_back() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(Status::read(directory.path()), Err(StatusError::File(error)) if error.is_not_found()));
        let open = Directory::open(directory.path(), Owners::process()).unwrap();
        status().write(&open).unwrap();
        assert_eq!(Status::read(directory.path()).unwrap(), status());
        std::fs::write(directory.path().join(FILE), "{").unwrap();
        assert!(matches!(Status::read(directory.path()), Err(StatusError::Parse { .. })));
    }

    #[test]
    fn a_host_without_a_snapshot_is_told_so() {
        let mut status = status();
        status.published = None;
        assert!(status.to_text(1000, &Err(String::new())).contains("snapshot      none published\n"));
        let directory = tempfile::tempdir().unwrap();
        let problem = usable(&directory.path().join("snapshot"), &Clock::now().unwrap()).unwrap_err();
        assert!(!problem.is_empty());
    }
}
