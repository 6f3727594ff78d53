//! The service's configuration: one TOML file, unknown keys refused with name and line. It names keys and password files and holds no
//! secret itself. Relative paths are relative to the file's directory.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use thiserror::Error;

use crate::duration::parse_duration;

/// The configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// It is not TOML, or has an unknown, missing or mistyped key.
    #[error("configuration {path}, line {line}: {problem}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What was found and what was expected.
        problem: String,
    },
    /// Keys that do not go together.
    #[error("configuration {path}: {problem}")]
    Contradiction {
        /// The file.
        path: PathBuf,
        /// What was expected.
        problem: &'static str,
    },
}

/// A duration as in `5m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(NonZeroU64);

impl Span {
    /// Seconds.
    #[must_use]
    pub fn secs(self) -> u64 {
        self.0.get()
    }

    /// As the standard library has it.
    #[must_use]
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.secs())
    }

    pub(crate) const fn of(secs: u64) -> Self {
        match NonZeroU64::new(secs) {
            Some(secs) => Self(secs),
            None => Self(NonZeroU64::MIN),
        }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let secs = parse_duration(&text).map_err(serde::de::Error::custom)?;
        Ok(Self::of(secs))
    }
}

/// Reads TOML; what is wrong is told with its line.
pub(crate) fn read_toml<T: serde::de::DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = text.bytes().take(start).filter(|byte| *byte == b'\n').count().saturating_add(1);
        ConfigError::Syntax { path: path.to_owned(), line, problem: error.message().to_owned() }
    })
}

/// What the service works with.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The realm file.
    pub realm: PathBuf,
    /// Keystore of the ledger key that logs batches and deliveries; it needs the ISSUER role.
    pub actor: PathBuf,
    /// File that holds that keystore's password.
    pub actor_password_file: PathBuf,
    /// The CA to sign for: id, or a name that only one CA has.
    pub ca: String,
    /// The CA's OpenSSH private key file, or
    pub ca_key: Option<PathBuf>,
    /// the socket of an ssh-agent that holds it.
    pub ca_agent: Option<PathBuf>,
    /// File that holds the password of the CA's key file.
    pub ca_password_file: Option<PathBuf>,
    /// The sealing key of `actor`, made by `countersign device new`.
    pub delivery_key: PathBuf,
    /// Directory of blocks.
    pub store: PathBuf,
    /// The service's own directory: what was answered, what is to be unpinned, status.
    pub state: PathBuf,
    /// The name under which recipients know what is delivered.
    #[serde(default = "default_payload")]
    pub payload: String,
    /// How long requests are collected for one batch.
    #[serde(default = "default_window")]
    pub window: Span,
    /// How long a request is tried for.
    #[serde(default = "default_lifetime")]
    pub request_lifetime: Span,
    /// How long a batch may wait to be logged and countersigned.
    #[serde(default = "default_patience")]
    pub patience: Span,
    /// When to give up on a delivery's acknowledgement.
    #[serde(default = "default_timeout")]
    pub delivery_timeout: Span,
}

fn default_payload() -> String {
    "ssh".to_owned()
}

const fn default_window() -> Span {
    Span::of(1)
}

const fn default_lifetime() -> Span {
    Span::of(3_600)
}

const fn default_patience() -> Span {
    Span::of(120)
}

const fn default_timeout() -> Span {
    Span::of(7 * 86_400)
}

impl Config {
    /// Reads the file.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// Reads a file's text; `path` is for messages and for relative paths.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`], [`ConfigError::Contradiction`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = read_toml(path, text)?;
        let contradiction = |problem| Err(ConfigError::Contradiction { path: path.to_owned(), problem });
        match (&config.ca_key, &config.ca_agent, &config.ca_password_file) {
            (Some(_), Some(_), _) | (None, None, _) => return contradiction("expected one of ca-key and ca-agent"),
            (None, Some(_), Some(_)) => return contradiction("ca-password-file goes with ca-key"),
            _ => {}
        }
        Ok(config.based_at(path.parent().unwrap_or(Path::new(""))))
    }

    fn based_at(self, directory: &Path) -> Self {
        let based = |path: PathBuf| directory.join(path);
        Self {
            realm: based(self.realm),
            actor: based(self.actor),
            actor_password_file: based(self.actor_password_file),
            ca_key: self.ca_key.map(based),
            ca_agent: self.ca_agent.map(based),
            ca_password_file: self.ca_password_file.map(based),
            delivery_key: based(self.delivery_key),
            store: based(self.store),
            state: based(self.state),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "realm = \"realm.toml\"\nactor = \"a.json\"\nactor-password-file = \"p\"\nca = \"prod\"\n\
        ca-key = \"ca\"\nca-password-file = \"/c\"\ndelivery-key = \"x\"\nstore = \"blocks\"\nstate = \"state\"\n";

    fn message(text: &str) -> String {
        Config::parse(Path::new("/etc/c/issuer.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn a_whole_file_reads_with_its_defaults_and_paths_beside_it() {
        let config = Config::parse(Path::new("/etc/c/issuer.toml"), &format!("{WHOLE}window = \"2s\"\n")).unwrap();
        assert_eq!(config.realm, Path::new("/etc/c/realm.toml"));
        assert_eq!(config.ca_password_file.as_deref(), Some(Path::new("/c")));
        assert_eq!((config.window.secs(), config.patience.secs(), config.payload.as_str()), (2, 120, "ssh"));
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_name_and_line() {
        let found = message(&format!("{WHOLE}windows = \"2s\"\n"));
        assert!(found.starts_with("configuration /etc/c/issuer.toml, line 10: unknown field `windows`"), "{found}");
    }

    #[test]
    fn a_duration_without_a_unit_is_refused() {
        assert_eq!(
            message(&format!("{WHOLE}window = \"2\"\n")),
            "configuration /etc/c/issuer.toml, line 10: duration `2`: expected numbers with units s, m, h or d, such as 5m or 1h30m"
        );
    }

    #[test]
    fn a_ca_key_is_in_a_file_or_in_an_agent() {
        let neither = WHOLE.replace("ca-key = \"ca\"\n", "");
        let both = format!("{WHOLE}ca-agent = \"/run/agent\"\n");
        for text in [neither, both] {
            assert_eq!(message(&text), "configuration /etc/c/issuer.toml: expected one of ca-key and ca-agent");
        }
    }
}
