//! Configuration files: `/etc/countersign/config.toml`, then `~/.config/countersign/config.toml` over it, or only the one that
//! `--config` names. Flags and `COUNTERSIGN_*` variables come before both.
//!
//! An unknown key is refused with its name and line: a misspelt key must not be taken for a default. No key holds a secret. A file
//! that somebody else could have written is refused too: it says which realm to believe and which keys to use.

use std::path::{Path, PathBuf};

use countersign_chain::files::{self, FileError, Owners, Secrecy};
use countersign_delivery::{Puts, StoreSetting};
use serde::Deserialize;
use thiserror::Error;

/// The most that is read of a configuration file, in bytes.
const LIMIT: u64 = 1 << 20;

/// A configuration file cannot be used.
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
    /// Somebody else could have written it.
    #[error("configuration: {0}")]
    Unsafe(FileError),
    /// It is not TOML, or has an unknown key or a value of the wrong type.
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

impl ConfigError {
    /// What the reader can do about it, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unsafe(error) => error.hint(),
            Self::Syntax { .. } | Self::Contradiction { .. } => Some("countersign(1) lists the keys".to_owned()),
            Self::Read { .. } => None,
        }
    }
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs; see `docs/cli-json.md`.
    Json,
}

/// The keys of a configuration file; all optional. Relative paths are relative to the file's directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The realm file.
    pub realm: Option<PathBuf>,
    /// Output format.
    pub format: Option<Format>,
    /// Keystore of the actor that writes.
    pub as_actor: Option<PathBuf>,
    /// File that holds the password of the keystores.
    pub password_file: Option<PathBuf>,
    /// OpenSSH private key file of the CA.
    pub ca_key: Option<PathBuf>,
    /// File that holds the password of the CA's key.
    pub ca_password_file: Option<PathBuf>,
    /// The delivery key's file, made by `countersign device new`.
    pub delivery_key: Option<PathBuf>,
    /// Directory of blocks, or
    pub store: Option<PathBuf>,
    /// several places for them, in order.
    #[serde(default)]
    pub block_store: Vec<StoreSetting>,
    /// Whether all of those that take blocks must have taken one, or any.
    pub puts: Option<Puts>,
    /// The sender's books, which say what to unpin.
    pub outbox: Option<PathBuf>,
}

impl Config {
    /// Reads the files that apply. A file that `--config` names must exist; the standard ones need not.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load(named: Option<&Path>, home: Option<&Path>) -> Result<Self, ConfigError> {
        if let Some(path) = named {
            return Self::read(path).map_err(|error| match error {
                ReadError::Missing(source) => ConfigError::Read { path: path.to_owned(), source },
                ReadError::Other(error) => error,
            });
        }
        let mut merged = Self::default();
        let user = home.map(|home| home.join(".config/countersign/config.toml"));
        for path in [Some(PathBuf::from("/etc/countersign/config.toml")), user].into_iter().flatten() {
            match Self::read(&path) {
                Ok(config) => merged = config.over(merged),
                Err(ReadError::Missing(_)) => {}
                Err(ReadError::Other(error)) => return Err(error),
            }
        }
        Ok(merged)
    }

    fn read(path: &Path) -> Result<Self, ReadError> {
        let owners = Owners::process();
        let read = files::real_path(path, owners)
            .and_then(|path| files::read(&path, owners, Secrecy::Public, LIMIT))
            .map_err(|error| match error {
            FileError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => ReadError::Missing(source),
            FileError::Io { source, .. } => ReadError::Other(ConfigError::Read { path: path.to_owned(), source }),
            error => ReadError::Other(ConfigError::Unsafe(error)),
        })?;
        let text = std::str::from_utf8(&read).map_err(|error| {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidData, error);
            ReadError::Other(ConfigError::Read { path: path.to_owned(), source })
        })?;
        let config = Self::parse(path, text).map_err(ReadError::Other)?;
        Ok(config.based_at(path.parent().unwrap_or(Path::new("."))))
    }

    /// Parses a file's text; `path` is for messages.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let line = text.bytes().take(start).filter(|byte| *byte == b'\n').count().saturating_add(1);
            ConfigError::Syntax { path: path.to_owned(), line, problem: error.message().to_owned() }
        })?;
        if config.store.is_some() && !config.block_store.is_empty() {
            let problem = "expected one of store and [[block-store]]";
            return Err(ConfigError::Contradiction { path: path.to_owned(), problem });
        }
        Ok(config)
    }

    /// The stores, in order; none where no key names one.
    pub fn stores(&self) -> Vec<StoreSetting> {
        match &self.store {
            Some(directory) => vec![directory.clone().into()],
            None => self.block_store.clone(),
        }
    }

    fn over(self, below: Self) -> Self {
        // One list, not two in an order that nobody wrote down.
        let (store, block_store) = match (&self.store, self.block_store.as_slice()) {
            (None, []) => (below.store, below.block_store),
            _ => (self.store, self.block_store),
        };
        Self {
            realm: self.realm.or(below.realm),
            format: self.format.or(below.format),
            as_actor: self.as_actor.or(below.as_actor),
            password_file: self.password_file.or(below.password_file),
            ca_key: self.ca_key.or(below.ca_key),
            ca_password_file: self.ca_password_file.or(below.ca_password_file),
            delivery_key: self.delivery_key.or(below.delivery_key),
            store,
            block_store,
            puts: self.puts.or(below.puts),
            outbox: self.outbox.or(below.outbox),
        }
    }

    fn based_at(self, directory: &Path) -> Self {
        let based = |path: Option<PathBuf>| path.map(|path| directory.join(path));
        Self {
            realm: based(self.realm),
            format: self.format,
            as_actor: based(self.as_actor),
            password_file: based(self.password_file),
            ca_key: based(self.ca_key),
            ca_password_file: based(self.ca_password_file),
            delivery_key: based(self.delivery_key),
            store: based(self.store),
            block_store: self.block_store.into_iter().map(|store| store.based_at(directory)).collect(),
            puts: self.puts,
            outbox: based(self.outbox),
        }
    }
}

enum ReadError {
    Missing(std::io::Error),
    Other(ConfigError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        Config::parse(Path::new("c.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_name_and_line() {
        let found = message("format = \"json\"\n\nrealms = \"x\"\n");
        assert!(
            found.starts_with("configuration c.toml, line 3: unknown field `realms`, expected one of `realm`"),
            "{found}"
        );
    }

    #[test]
    fn a_value_of_the_wrong_type_is_refused_with_its_line() {
        assert_eq!(
            message("realm = 5"),
            "configuration c.toml, line 1: invalid type: integer `5`, expected path string"
        );
    }

    #[test]
    fn a_password_has_no_key() {
        assert!(message("password = \"secret\"").contains("unknown field `password`"));
    }

    #[test]
    fn the_user_s_file_goes_over_the_system_s() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join(".config/countersign");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("config.toml"), "realm = \"realm.toml\"\nformat = \"json\"\n").unwrap();
        let config = Config::load(None, Some(home.path())).unwrap();
        assert_eq!(config.realm, Some(directory.join("realm.toml")));
        assert_eq!(config.format, Some(Format::Json));
        let below = Config { format: Some(Format::Text), store: Some("/s".into()), ..Config::default() };
        let merged = config.over(below);
        assert_eq!((merged.format, merged.store), (Some(Format::Json), Some("/s".into())));
    }

    #[test]
    fn a_named_file_must_exist_and_the_standard_ones_need_not() {
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(Config::load(None, Some(empty.path())).unwrap(), Config::default());
        let missing = Config::load(Some(&empty.path().join("none.toml")), None).unwrap_err();
        assert!(missing.to_string().ends_with("none.toml: No such file or directory (os error 2)"));
    }

    #[test]
    fn the_stores_come_from_one_file_and_are_a_directory_or_a_list() {
        let several = "[[block-store]]\nkubo = \"http://127.0.0.1:5001\"\n\n[[block-store]]\ndirectory = \"spare\"\n";
        let parse =
            |text: &str| Config::parse(Path::new("c.toml"), text).map(|config| config.based_at(Path::new("/etc/c")));
        let list = parse(several).unwrap();
        assert_eq!(list.stores().iter().flat_map(StoreSetting::paths).collect::<Vec<_>>(), [Path::new("/etc/c/spare")]);
        let directory = parse("store = \"blocks\"\nputs = \"any\"\n").unwrap();
        assert_eq!(directory.stores(), [StoreSetting::from(PathBuf::from("/etc/c/blocks"))]);
        let merged = list.clone().over(directory.clone());
        assert_eq!((merged.stores(), merged.puts), (list.stores(), Some(Puts::Any)));
        assert_eq!(directory.clone().over(list).stores(), directory.stores());
        assert_eq!(
            message(&format!("store = \"blocks\"\n{several}")),
            "configuration c.toml: expected one of store and [[block-store]]"
        );
    }
}
