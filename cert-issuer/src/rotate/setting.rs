//! The `[[rotate]]` tables of the service's configuration: what is made anew, for whom, how, and how long before it ends.
//!
//! Refuses what could not work or what would rotate for ever: a rotation without an end to look at, settings that belong to another way of
//! making, a command with a relative path or with blanks for a shell to take apart.

use std::path::{Path, PathBuf};

use countersign_agent::config::{Command, PayloadName};
use countersign_registry::Id;
use countersign_registry::realm::State;
use serde::Deserialize;

use crate::config::Span;

/// How long a command may take, unless said otherwise, seconds.
const DEADLINE_SECS: u64 = 60;

/// The longest that a command may take, seconds: the service does nothing else for this payload meanwhile.
const LONGEST_DEADLINE_SECS: u64 = 600;

/// How long peers have to see a new public key before its owner gets it, unless said otherwise, seconds.
const LEAD_SECS: u64 = 60;

/// When an unacknowledged delivery is sent again, unless said otherwise, seconds; doubled each time.
const RESEND_SECS: u64 = 86_400;

/// The shortest interval, seconds: each rotation costs gas.
const SHORTEST_SECS: u64 = 30;

/// One payload that is made anew.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Rotation {
    /// The payload's name, as recipients know it.
    pub name: PayloadName,
    /// How it is made.
    pub make: Make,
    /// What a command prints.
    #[serde(default)]
    pub kind: Option<CommandKind>,
    /// Recipients: `HOST`, `host:HOST`, `user:LOGIN`, a name or an id.
    #[serde(default)]
    pub to: Vec<String>,
    /// And all hosts that have all of these labels.
    #[serde(default)]
    pub label: Vec<String>,
    /// How long it lasts, for what has no end of its own; else how long at most.
    #[serde(default)]
    pub every: Option<Span>,
    /// How long before its end the next one is made; a third of its life where it has an end of its own.
    #[serde(default)]
    pub before: Option<Span>,
    /// How many random bytes a secret has; it is written in hexadecimal digits.
    #[serde(default)]
    pub bytes: Option<usize>,
    /// What prints the payload: program and arguments, no shell.
    #[serde(default)]
    pub command: Option<Command>,
    /// One for each recipient, instead of the same for all. Key pairs and host certificates always are.
    #[serde(default)]
    pub each: bool,
    /// How long the command may take.
    #[serde(default = "default_deadline")]
    pub deadline: Span,
    /// Under which name the public halves are published before the new ones are delivered.
    #[serde(default)]
    pub publish: Option<PayloadName>,
    /// How long before.
    #[serde(default = "default_lead")]
    pub lead: Span,
    /// When it is sent again to those who have not acknowledged it; doubled each time.
    #[serde(default = "default_resend")]
    pub resend: Span,
    /// The certificate that goes with an SSH key pair, by the service's CA.
    #[serde(default)]
    pub certificate: Option<CertificateSetting>,
    /// The CA for host certificates.
    #[serde(default)]
    pub host_ca: Option<HostCaSetting>,
}

/// How a payload is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Make {
    /// An Ed25519 key pair for each recipient.
    SshKeyPair,
    /// A certificate for the host key on the ledger of each recipient.
    HostCertificate,
    /// Random bytes.
    Secret,
    /// What a command prints.
    Command,
}

/// What a command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommandKind {
    /// A private key and its chain, in PEM, in any order.
    X509KeyPair,
    /// Any bytes.
    OpaqueSecret,
    /// Bytes for everybody.
    PublicData,
}

/// The terms of a user certificate.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CertificateSetting {
    /// Whose: a login or id.
    pub user: String,
    /// For which host: a name or id.
    pub host: String,
    /// For which login there.
    pub login: String,
    /// For how long.
    pub ttl: Span,
}

/// A CA for host certificates.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct HostCaSetting {
    /// Its id, or a name that only one CA has.
    pub ca: String,
    /// Its OpenSSH private key file, or
    pub ca_key: Option<PathBuf>,
    /// the socket of an ssh-agent that holds it.
    pub ca_agent: Option<PathBuf>,
    /// File that holds the password of the key file.
    pub ca_password_file: Option<PathBuf>,
    /// How long its certificates live.
    pub ttl: Span,
}

const fn default_deadline() -> Span {
    Span::of(DEADLINE_SECS)
}

const fn default_lead() -> Span {
    Span::of(LEAD_SECS)
}

const fn default_resend() -> Span {
    Span::of(RESEND_SECS)
}

impl Rotation {
    /// What does not go together, if anything. `delivery_timeout`: when blocks are let go of.
    #[must_use]
    pub fn problem(&self, delivery_timeout: u64) -> Option<&'static str> {
        let is_command = self.make == Make::Command;
        let is_public = self.kind == Some(CommandKind::PublicData);
        if is_command != self.command.is_some() || is_command != self.kind.is_some() {
            return Some("make = \"command\" goes with command and kind, and nothing else does");
        }
        if (self.make == Make::Secret) != self.bytes.is_some() {
            return Some("make = \"secret\" goes with bytes, and nothing else does");
        }
        if self.bytes.is_some_and(|bytes| !(16..=4096).contains(&bytes)) {
            return Some("expected 16 to 4096 bytes");
        }
        if (self.make == Make::HostCertificate) != self.host_ca.is_some() {
            return Some("make = \"host-certificate\" goes with a [rotate.host-ca] table, and nothing else does");
        }
        if self.certificate.is_some() && self.make != Make::SshKeyPair {
            return Some("a [rotate.certificate] table goes with make = \"ssh-key-pair\"");
        }
        match (is_public, self.to.is_empty() && self.label.is_empty()) {
            (true, false) => return Some("public data is for everybody: expected neither to nor label"),
            (false, true) => return Some("expected a recipient: to or label"),
            _ => {}
        }
        let can_publish = self.make == Make::SshKeyPair || self.kind == Some(CommandKind::X509KeyPair);
        if self.publish.is_some() && !can_publish {
            return Some("publish is for key pairs: nothing else has a public half");
        }
        if self.publish.as_ref() == Some(&self.name) {
            return Some("expected publish to be another name than the payload's own");
        }
        if !self.ends_by_itself() && self.every.is_none() {
            return Some("expected every: nothing else says when it ends");
        }
        if self.every.is_some_and(|every| every.secs() < SHORTEST_SECS) {
            return Some("expected every to be at least 30s: each rotation costs gas");
        }
        let life = match (&self.certificate, &self.host_ca) {
            (Some(certificate), _) => Some(certificate.ttl),
            (None, Some(ca)) => Some(ca.ttl),
            (None, None) if self.ends_by_itself() => None,
            (None, None) => self.every,
        };
        if self.before.zip(life).is_some_and(|(before, life)| before.secs() >= life.secs()) {
            return Some("expected before to be less than what it is taken from: else it rotates for ever");
        }
        if self.deadline.secs() > LONGEST_DEADLINE_SECS {
            return Some("expected a deadline of at most 10m");
        }
        if self.resend.secs() < SHORTEST_SECS || self.resend.secs() >= delivery_timeout {
            return Some("expected resend from 30s to less than delivery-timeout: afterwards nothing is left to send");
        }
        None
    }

    /// Whether what is made says itself when it ends.
    #[must_use]
    pub fn ends_by_itself(&self) -> bool {
        self.certificate.is_some() || self.host_ca.is_some() || self.kind == Some(CommandKind::X509KeyPair)
    }

    /// Whether each recipient gets one of its own.
    #[must_use]
    pub fn is_each(&self) -> bool {
        self.each || matches!(self.make, Make::SshKeyPair | Make::HostCertificate)
    }

    pub(crate) fn based_at(mut self, directory: &Path) -> Self {
        if let Some(ca) = &mut self.host_ca {
            for path in [&mut ca.ca_key, &mut ca.ca_agent, &mut ca.ca_password_file].into_iter().flatten() {
                *path = directory.join(&path);
            }
        }
        self
    }
}

/// What is wrong with several together.
#[must_use]
pub fn contradiction(
    rotations: &[Rotation],
    answered_as: &str,
    delivery_timeout: u64,
) -> Option<(String, &'static str)> {
    let mut names = std::collections::BTreeSet::new();
    for rotation in rotations {
        let name = rotation.name.as_str();
        let published = rotation.publish.as_ref().map(PayloadName::as_str);
        let problem = if name == answered_as {
            Some("is the name under which requests are answered")
        } else {
            rotation.problem(delivery_timeout)
        };
        let taken = !names.insert(name) || published.is_some_and(|published| !names.insert(published));
        if let Some(problem) = problem.or(taken.then_some("is named twice")) {
            return Some((name.to_owned(), problem));
        }
    }
    None
}

/// A host or user by what the configuration calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named<'a> {
    /// A host.
    Host(&'a str),
    /// A user.
    User(&'a str),
}

impl<'a> Named<'a> {
    /// Reads `HOST`, `host:HOST` or `user:LOGIN`.
    #[must_use]
    pub fn of(text: &'a str) -> Self {
        match text.split_once(':') {
            Some(("user", login)) => Self::User(login),
            Some(("host", host)) => Self::Host(host),
            _ => Self::Host(text),
        }
    }

    /// The record that is meant.
    ///
    /// # Errors
    /// Nobody, or several.
    pub fn find(&self, effective: &countersign_registry::Effective) -> Result<(Id, String), String> {
        let (text, known): (&str, Vec<(Id, &str, State)>) = match self {
            Self::Host(text) => {
                (text, effective.hosts.iter().map(|(id, host)| (*id, host.name.as_str(), host.state)).collect())
            }
            Self::User(text) => {
                (text, effective.users.iter().map(|(id, user)| (*id, user.login.as_str(), user.state)).collect())
            }
        };
        let by_id = text.parse::<Id>().ok();
        if let Some((id, name, _)) = known.iter().find(|(id, ..)| Some(*id) == by_id) {
            return Ok((*id, (*name).to_owned()));
        }
        let named = || known.iter().filter(|(_, name, _)| name == &text);
        let mut live = named().filter(|(.., state)| *state != State::Revoked);
        match (live.next().or_else(|| named().next()), live.next()) {
            (Some((id, name, _)), None) => Ok((*id, (*name).to_owned())),
            (Some(_), Some(_)) => Err(format!("{text}: several have this name; expected an id")),
            (None, _) => Err(format!("{text}: not on the ledger")),
        }
    }
}
