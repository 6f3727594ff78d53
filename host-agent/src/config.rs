//! The host's configuration, `/etc/countersign/agent.toml`: parsed once at the edge into types that need no further checks. An
//! unknown or missing field, a wrong value or an unsafe file is an error that names file, line and field; there are no silent
//! defaults for anything that decides access.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use countersign_certificate::Id;
use countersign_delivery::{PayloadKind, StoreSetting};
use countersign_registry::Entry;
use serde::Deserialize;

use crate::earlier::EarlierSetting;
use crate::files::{self, FileError, Owners, Secrecy};
use crate::receive::suffixes;
use crate::sessions::SessionSetting;

/// Where the configuration is, unless said otherwise.
pub const DEFAULT_PATH: &str = "/etc/countersign/agent.toml";

/// The most that is read of a configuration file, in bytes.
const LIMIT: u64 = 1 << 20;

/// The most that the ledger's setting of the same name takes.
const MAX_STALENESS_SECS: u64 = 604_800;

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The configuration file itself cannot be read safely.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not UTF-8.
    #[error("{}: expected UTF-8 text", .0.display())]
    Encoding(PathBuf),
    /// TOML that does not parse, an unknown or missing field, a wrong value.
    #[error("{}:{line}: {message}", path.display())]
    Syntax {
        /// The configuration file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// Two fields, or a field and the system, do not go together.
    #[error("{}: {field}: {problem}", path.display())]
    Value {
        /// The configuration file.
        path: PathBuf,
        /// The field, as written in the file.
        field: String,
        /// What was expected.
        problem: String,
    },
    /// A file that the configuration names is missing or unsafe.
    #[error("{}: {field}: {source}", path.display())]
    Named {
        /// The configuration file.
        path: PathBuf,
        /// The field that names the file.
        field: String,
        /// What is wrong with it.
        source: FileError,
    },
}

impl ConfigError {
    /// What the reader can do about it, where there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File(source) | Self::Named { source, .. } => source.hint(),
            Self::Syntax { message, .. } if message.contains("expected a sequence") => {
                Some("write an array, program first, as in [\"/usr/bin/systemctl\", \"reload\", \"ssh\"]: no shell takes it apart".to_owned())
            }
            Self::Syntax { message, .. } if message.contains("expected an absolute path") => {
                Some("write the path from / on".to_owned())
            }
            Self::Value { field, .. } if field == "host" => Some("`countersign host list` shows the ids".to_owned()),
            Self::Value { field, .. } if field == "max-staleness-secs" => {
                Some("leave it out: the realm's own setting holds then".to_owned())
            }
            Self::Value { field, .. } if field.ends_with(": path") => {
                Some("give each payload a path of its own; PATH.pub and PATH-cert.pub are its too".to_owned())
            }
            Self::Syntax { .. } | Self::Value { .. } | Self::Encoding(_) => {
                Some("countersign-agent(8) lists the fields, docs/examples/agent.toml shows them".to_owned())
            }
        }
    }
}

/// A host's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The realm's pin, chain profile and endpoints.
    pub realm_file: AbsolutePath,
    /// This host's record id, as enrolment gave it; never its name.
    #[serde(deserialize_with = "record_id")]
    pub host: Id,
    /// The agent's own state: replay state, status, lock.
    #[serde(default = "default_state_dir")]
    pub state_dir: AbsolutePath,
    /// Where the snapshot is published; `snapshot` in the state directory by default.
    #[serde(default)]
    pub snapshot_dir: Option<AbsolutePath>,
    /// The group that may read the snapshot's `access` part.
    #[serde(default = "default_group")]
    pub group: String,
    /// Milliseconds between polls, instead of the chain profile's.
    #[serde(default)]
    pub poll_interval_ms: Option<PollInterval>,
    /// Seconds for which a snapshot may be used; can only lower the realm's setting.
    #[serde(default)]
    pub max_staleness_secs: Option<NonZeroU64>,
    /// Whether logins with uid 0 may be granted at all.
    #[serde(default)]
    pub allow_root: bool,
    /// The files of an sshd that reads plain ones.
    #[serde(default)]
    pub plain_sshd: Option<PlainSshdFiles>,
    /// What happens to sessions whose access ends.
    #[serde(default)]
    pub sessions: SessionSetting,
    /// What is left to the AuthorizedKeysCommand that was there before.
    #[serde(default)]
    pub earlier_command: EarlierSetting,
    /// The keys with which this device receives deliveries.
    #[serde(default)]
    pub device: Option<Device>,
    /// Where blocks of deliveries are found, in order.
    #[serde(default)]
    pub block_store: Vec<StoreSetting>,
    /// What may be delivered here, and where it goes.
    #[serde(default)]
    pub payload: Vec<PayloadRule>,
}

/// Files that a plain sshd reads, beside the helper or without it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PlainSshdFiles {
    /// `RevokedKeys`: a key revocation list.
    #[serde(default)]
    pub revoked_keys: Option<AbsolutePath>,
    /// `TrustedUserCAKeys`: one CA a line.
    #[serde(default)]
    pub ca_keys: Option<AbsolutePath>,
}

impl PlainSshdFiles {
    fn paths(&self) -> impl Iterator<Item = (&'static str, &AbsolutePath)> {
        [("revoked-keys", &self.revoked_keys), ("ca-keys", &self.ca_keys)]
            .into_iter()
            .filter_map(|(field, path)| Some((field, path.as_ref()?)))
    }
}

/// The device's keys. Neither ever leaves it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Device {
    /// Encrypted keystore of the ledger key, with which acknowledgements are logged.
    pub ledger_key: AbsolutePath,
    /// File whose first line is the keystore's password.
    pub ledger_password_file: AbsolutePath,
    /// The X25519 key to which deliveries are sealed.
    pub sealing_key: AbsolutePath,
    /// How many prekeys are kept on the ledger, for forward secrecy; 0: none. Each is used once, and costs gas.
    #[serde(default)]
    pub prekeys: PrekeyCount,
}

/// What happens to a payload of this name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PayloadRule {
    /// The payload's name, as deliveries give it.
    pub name: PayloadName,
    /// What may come under it.
    #[serde(default)]
    pub kind: RuleKind,
    /// The private key's path, as `ssh -i` takes it; the public key and the certificate stand beside it (`.pub`, `-cert.pub`). For
    /// X.509 `.key` and `.crt` follow it; secrets and public data are written to it.
    pub path: AbsolutePath,
    /// The user who owns the files.
    #[serde(default = "default_owner")]
    pub owner: String,
    /// Their group; the owner's primary group by default.
    #[serde(default)]
    pub group: Option<String>,
    /// Their permission bits.
    #[serde(default)]
    pub mode: FileMode,
    /// Whether a key pair made elsewhere may come, and replace the key that is there. Without it, only certificates for the key that
    /// this device made.
    #[serde(default)]
    pub key_pairs: bool,
    /// A command to run after the files changed: program and arguments, no shell.
    #[serde(default)]
    pub reload: Option<Command>,
    /// Has this device ask for its certificate itself, and for the next one before that ends.
    #[serde(default)]
    pub renew: Option<Renew>,
}

/// What this device asks for, in the name of the user that its ledger key is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Renew {
    /// Record id of the host that the certificate is for.
    #[serde(deserialize_with = "record_id")]
    pub host: Id,
    /// The login there.
    pub login: String,
    /// How long a certificate is to live, seconds.
    pub ttl_secs: NonZeroU64,
    /// How long before its end the next one is asked for, seconds; a third of its life by default.
    #[serde(default)]
    pub before_secs: Option<NonZeroU64>,
    /// How long an answer is waited for before another request is made, seconds.
    #[serde(default = "default_answer")]
    pub answer_secs: NonZeroU64,
    /// For approvers.
    #[serde(default = "default_reason")]
    pub reason: String,
}

impl Renew {
    fn problem(&self) -> Option<&'static str> {
        let login = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
        if self.host.is_zero() {
            return Some("expected the record id of the host that the certificate is for, not zeros");
        }
        if self.login.is_empty() || self.login.len() > 32 || !self.login.chars().all(login) {
            return Some("expected a login of 1 to 32 letters, digits and ._-");
        }
        if self.before_secs.is_some_and(|before| before >= self.ttl_secs) {
            return Some("expected before-secs below ttl-secs: else each certificate is replaced as soon as it comes");
        }
        if self.answer_secs.get() < 60 {
            return Some("expected answer-secs of at least 60: requests cost gas");
        }
        if self.reason.len() > 256 || self.reason.chars().any(char::is_control) {
            return Some("expected a reason of at most 256 bytes on one line");
        }
        None
    }
}

impl Config {
    /// Reads and checks a configuration file; it must belong to root or the process's user and be writable by nobody else.
    ///
    /// # Errors
    /// The first thing wrong with it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let bytes = files::read(path, Owners::process(), Secrecy::Public, LIMIT)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| ConfigError::Encoding(path.to_owned()))?;
        Self::parse(path, text)
    }

    /// Parses a configuration; `path` is only for messages.
    ///
    /// # Errors
    /// The first thing wrong with it.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let before = text.as_bytes().iter().take(start);
            let line = before.filter(|byte| **byte == b'\n').count().saturating_add(1);
            let mut message = error.message().trim_end().replace('\n', "; ");
            // The parser does not name the key; its span does.
            if message == "duplicate key"
                && let Some(key) = error.span().and_then(|span| text.get(span))
            {
                message = format!("duplicate key `{key}`");
            }
            ConfigError::Syntax { path: path.to_owned(), line, message }
        })?;
        config.check_values(path)?;
        Ok(config)
    }

    fn check_values(&self, path: &Path) -> Result<(), ConfigError> {
        let value = |field: String, problem: &str| ConfigError::Value {
            path: path.to_owned(),
            field,
            problem: problem.to_owned(),
        };
        if self.host.is_zero() {
            return Err(value("host".to_owned(), "expected the record id that enrolment gave this host, not zeros"));
        }
        for path in self.block_store.iter().flat_map(StoreSetting::paths) {
            AbsolutePath::try_from(path.display().to_string())
                .map_err(|problem| value("block-store".to_owned(), &problem))?;
        }
        if self.max_staleness_secs.is_some_and(|secs| secs.get() > MAX_STALENESS_SECS) {
            let problem = "expected at most 604800, a week, above which no realm can set it";
            return Err(value("max-staleness-secs".to_owned(), problem));
        }
        let mut seen = std::collections::BTreeSet::new();
        let mut paths = std::collections::BTreeSet::new();
        for rule in &self.payload {
            if !seen.insert(&rule.name) {
                return Err(value(format!("payload {}", rule.name), "named twice"));
            }
            // One payload's files must never be another's: they would say which key is the device's own.
            for suffix in rule.kind.suffixes() {
                let mut file = rule.path.as_path().as_os_str().to_owned();
                file.push(suffix);
                if !paths.insert(PathBuf::from(file)) {
                    return Err(value(format!("payload {}: path", rule.name), "another payload goes there too"));
                }
            }
        }
        for rule in &self.payload {
            if rule.mode.is_open() && rule.kind != RuleKind::PublicData {
                return Err(value(format!("payload {}: mode", rule.name), "0644 is for public data only"));
            }
            if rule.key_pairs && rule.kind != RuleKind::SshCertificate {
                return Err(value(format!("payload {}: key-pairs", rule.name), "is for ssh-certificate only"));
            }
            if let Some(renew) = &rule.renew {
                let refuse = |problem| Err(value(format!("payload {}: renew", rule.name), problem));
                if rule.kind != RuleKind::SshCertificate {
                    return refuse("is for ssh-certificate only");
                }
                if rule.key_pairs {
                    return refuse("does not go with key-pairs: the key is made here and never replaced");
                }
                if let Some(problem) = renew.problem() {
                    return refuse(problem);
                }
            }
        }
        let sealed = self.payload.iter().any(|rule| rule.kind != RuleKind::PublicData);
        if sealed && self.device.is_none() {
            return Err(value("payload".to_owned(), "deliveries need a [device] table with this device's keys"));
        }
        if sealed && self.block_store.is_empty() {
            return Err(value("payload".to_owned(), "deliveries need a [[block-store]] to fetch from"));
        }
        self.check_own_files(path)
    }

    /// A payload's files must never take the place of what the agent itself lives on: the sender would decide over that.
    fn check_own_files(&self, path: &Path) -> Result<(), ConfigError> {
        let mut own: Vec<&Path> = vec![path, self.realm_file.as_path()];
        if let Some(device) = &self.device {
            own.extend(
                [&device.ledger_key, &device.ledger_password_file, &device.sealing_key].map(AbsolutePath::as_path),
            );
        }
        let (state, snapshot) = (self.state_dir.as_path(), self.snapshot_dir());
        let files = self.plain_sshd.iter().flat_map(PlainSshdFiles::paths);
        for (name, file) in files {
            let refuse = |problem: &str| {
                let field = format!("plain-sshd: {name}");
                Err(ConfigError::Value { path: path.to_owned(), field, problem: problem.to_owned() })
            };
            if own.contains(&file.as_path()) {
                return refuse("expected a file of its own; another one of the agent's is there");
            }
            if file.as_path().starts_with(state) || file.as_path().starts_with(&snapshot) {
                return refuse("the agent's own files are there");
            }
            own.push(file.as_path());
        }
        if self.plain_sshd.as_ref().is_some_and(|files| files.paths().next().is_none()) {
            let field = "plain-sshd".to_owned();
            let problem = "expected revoked-keys, ca-keys or both".to_owned();
            return Err(ConfigError::Value { path: path.to_owned(), field, problem });
        }
        for rule in &self.payload {
            for suffix in ["", ".pub", "-cert.pub", ".key", ".crt"] {
                let mut file = rule.path.as_path().as_os_str().to_owned();
                file.push(suffix);
                let file = PathBuf::from(file);
                let refuse = |problem: &str| {
                    let field = format!("payload {}: path", rule.name);
                    Err(ConfigError::Value { path: path.to_owned(), field, problem: problem.to_owned() })
                };
                if own.contains(&file.as_path()) {
                    return refuse("the agent's own configuration or one of the device's keys is there");
                }
                if file.starts_with(state) || file.starts_with(&snapshot) {
                    return refuse("the agent's own files are there");
                }
            }
        }
        Ok(())
    }

    /// Where the snapshot is published.
    pub fn snapshot_dir(&self) -> PathBuf {
        self.snapshot_dir.as_ref().map_or_else(|| self.state_dir.0.join("snapshot"), |path| path.0.clone())
    }

    /// The rule for a payload name, if this host has one.
    pub fn payload_rule(&self, name: &str) -> Option<&PayloadRule> {
        self.payload.iter().find(|rule| rule.name.0 == name)
    }
}

/// An absolute path without `.` and `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct AbsolutePath(PathBuf);

impl AbsolutePath {
    /// The path.
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl TryFrom<String> for AbsolutePath {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let path = PathBuf::from(&text);
        let plain = !text.contains("/../") && !text.ends_with("/..") && !text.contains("/./") && !text.ends_with("/.");
        if path.is_absolute() && plain && !text.contains('\0') && path.file_name().is_some() {
            Ok(Self(path))
        } else {
            Err(format!("expected an absolute path without `.` and `..`, found `{}`", text.escape_debug()))
        }
    }
}

/// A payload name: 1 to 63 of `[a-z0-9._-]`, not beginning with a dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct PayloadName(String);

impl PayloadName {
    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for PayloadName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for PayloadName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        if (1..=63).contains(&text.len()) && text.bytes().all(allowed) && !text.starts_with('.') {
            Ok(Self(text))
        } else {
            let found = text.escape_debug();
            Err(format!("expected a payload name of 1 to 63 of [a-z0-9._-] without a leading dot, found `{found}`"))
        }
    }
}

/// Permission bits of a delivered file, written as octal text; open to others only for public data, never writable by the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct FileMode(u32);

impl FileMode {
    /// The bits.
    pub fn bits(self) -> u32 {
        self.0
    }

    fn is_open(self) -> bool {
        self.0 & 0o007 != 0
    }
}

impl Default for FileMode {
    fn default() -> Self {
        Self(0o600)
    }
}

impl TryFrom<String> for FileMode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let octal = (3..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
        match u32::from_str_radix(&text, 8) {
            Ok(0o644) if octal => Ok(Self(0o644)),
            Ok(bits) if octal && bits & !0o640 == 0 && bits & 0o400 != 0 => Ok(Self(bits)),
            _ => Err(format!(
                "expected \"0400\", \"0600\" or \"0640\" (or \"0644\" for public data), found `{}`",
                text.escape_debug()
            )),
        }
    }
}

/// What may come under a payload's name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuleKind {
    /// A certificate for the key that this device made; with `key-pairs`, also a key pair.
    #[default]
    SshCertificate,
    /// A certificate for a host key that is there.
    HostCertificate,
    /// An X.509 private key and its chain.
    X509KeyPair,
    /// A secret of any form.
    OpaqueSecret,
    /// Bytes that stand on the ledger itself.
    PublicData,
}

impl RuleKind {
    /// Whether a sealed payload of this kind may come; `key_pairs` is the rule's.
    #[must_use]
    pub fn takes(self, kind: PayloadKind, key_pairs: bool) -> bool {
        match kind {
            PayloadKind::SshCertificate => self == Self::SshCertificate,
            // Without `key-pairs` it is refused as such, with what to do about it.
            PayloadKind::SshKeyPair => self == Self::SshCertificate || key_pairs,
            PayloadKind::HostCertificate => self == Self::HostCertificate,
            PayloadKind::X509KeyPair => self == Self::X509KeyPair,
            PayloadKind::OpaqueSecret => self == Self::OpaqueSecret,
        }
    }

    /// Whether a key that was made here stands beside what comes.
    #[must_use]
    pub fn has_own_key(self) -> bool {
        matches!(self, Self::SshCertificate | Self::HostCertificate)
    }

    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SshCertificate => "ssh-certificate",
            Self::HostCertificate => "host-certificate",
            Self::X509KeyPair => "x509-key-pair",
            Self::OpaqueSecret => "opaque-secret",
            Self::PublicData => "public-data",
        }
    }

    fn suffixes(self) -> &'static [&'static str] {
        match self {
            Self::SshCertificate => suffixes(PayloadKind::SshCertificate),
            Self::HostCertificate => suffixes(PayloadKind::HostCertificate),
            Self::X509KeyPair => suffixes(PayloadKind::X509KeyPair),
            Self::OpaqueSecret | Self::PublicData => suffixes(PayloadKind::OpaqueSecret),
        }
    }
}

/// How many prekeys a device keeps on the ledger: 0 to 127, as many as one entry holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u64")]
pub struct PrekeyCount(u8);

impl PrekeyCount {
    /// The number.
    #[must_use]
    pub fn count(self) -> usize {
        usize::from(self.0)
    }
}

impl TryFrom<u64> for PrekeyCount {
    type Error = String;

    fn try_from(count: u64) -> Result<Self, String> {
        let fits = u8::try_from(count).ok().filter(|count| usize::from(*count) <= Entry::MAX_PREKEYS);
        fits.map(Self).ok_or_else(|| format!("expected 0 to {} prekeys, found {count}", Entry::MAX_PREKEYS))
    }
}

/// Milliseconds between polls: 100 to 60,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u64")]
pub struct PollInterval(u64);

impl PollInterval {
    /// The interval in milliseconds.
    pub fn millis(self) -> u64 {
        self.0
    }
}

impl TryFrom<u64> for PollInterval {
    type Error = String;

    fn try_from(millis: u64) -> Result<Self, String> {
        if (100..=60_000).contains(&millis) {
            Ok(Self(millis))
        } else {
            Err(format!("expected 100 to 60000 milliseconds, found {millis}"))
        }
    }
}

/// A program with its arguments; run without a shell.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct Command {
    /// The program's absolute path.
    pub program: AbsolutePath,
    /// Its arguments.
    pub arguments: Vec<String>,
}

impl TryFrom<Vec<String>> for Command {
    type Error = String;

    fn try_from(words: Vec<String>) -> Result<Self, String> {
        let mut words = words.into_iter();
        let program = words.next().ok_or("expected a program and its arguments, found an empty array")?;
        let arguments: Vec<String> = words.collect();
        if arguments.iter().any(|word| word.contains('\0')) {
            return Err("expected arguments without NUL bytes".to_owned());
        }
        Ok(Self { program: AbsolutePath::try_from(program)?, arguments })
    }
}

/// A record id as 32 hexadecimal digits.
fn record_id<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Id, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| {
        serde::de::Error::custom(format!(
            "expected a record id of 32 hexadecimal digits, found `{}`",
            text.escape_debug()
        ))
    })
}

fn default_state_dir() -> AbsolutePath {
    AbsolutePath(PathBuf::from("/var/lib/countersign"))
}

fn default_group() -> String {
    "countersign".to_owned()
}

fn default_reason() -> String {
    "renewal".to_owned()
}

const fn default_answer() -> NonZeroU64 {
    // As long as an issuer tries a request, where it is not told otherwise.
    NonZeroU64::MIN.saturating_add(3_599)
}

fn default_owner() -> String {
    "root".to_owned()
}

#[cfg(test)]
mod tests;
