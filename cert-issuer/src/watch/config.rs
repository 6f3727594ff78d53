//! The watchdog's configuration: one TOML file, unknown keys refused with name and line. It names keys and password files and holds no
//! secret itself. Relative paths are relative to the file's directory.

use std::path::{Path, PathBuf};

use countersign_delivery::{DeliveryError, Puts, StoreSetting, Stores};
use serde::Deserialize;

use crate::config::{ConfigError, Span, check_secret, check_state, open_stores, read_file, read_toml, stores_problem};
use crate::watch::policy::Policy;

/// What a watchdog works with.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct WatchConfig {
    /// The realm file.
    pub realm: PathBuf,
    /// Keystore of the ledger key that countersigns; it needs the WATCHDOG role, and must not have ISSUER.
    pub actor: PathBuf,
    /// File that holds that keystore's password.
    pub actor_password_file: PathBuf,
    /// The sealing key of `actor`, made by `countersign device new`.
    pub delivery_key: PathBuf,
    /// Directory of blocks, or
    pub store: Option<PathBuf>,
    /// several places for them, in order.
    #[serde(default)]
    pub block_store: Vec<StoreSetting>,
    /// The watchdog's own directory: what was sent, status.
    pub state: PathBuf,
    /// How long a batch is looked at again where the objection may pass: a block that is not there yet, a grant that is not final yet.
    #[serde(default = "default_patience")]
    pub patience: Span,
    /// What this watchdog allows, besides what the ledger allows.
    #[serde(default)]
    pub policy: Policy,
}

const fn default_patience() -> Span {
    Span::of(120)
}

impl WatchConfig {
    /// Reads the file.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(path, &read_file(path)?)
    }

    /// Checks the secrets and directories that it names, before anything is opened or written.
    ///
    /// # Errors
    /// [`ConfigError::Named`].
    pub fn check_files(&self) -> Result<(), ConfigError> {
        check_secret("actor", &self.actor)?;
        check_secret("actor-password-file", &self.actor_password_file)?;
        check_secret("delivery-key", &self.delivery_key)?;
        check_state(&self.state)
    }

    /// Opens the block stores; connects to nobody yet.
    ///
    /// # Errors
    /// As [`Stores::open`].
    pub fn stores(&self) -> Result<Stores, DeliveryError> {
        open_stores(self.store.as_deref(), &self.block_store, Puts::All)
    }

    /// Reads a file's text; `path` is for messages and for relative paths.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = read_toml(path, text)?;
        if let Some(problem) = stores_problem(config.store.as_deref(), &config.block_store) {
            return Err(ConfigError::Contradiction { path: path.to_owned(), problem });
        }
        let directory = path.parent().unwrap_or(Path::new(""));
        let based = |path: PathBuf| directory.join(path);
        Ok(Self {
            realm: based(config.realm),
            actor: based(config.actor),
            actor_password_file: based(config.actor_password_file),
            delivery_key: based(config.delivery_key),
            store: config.store.map(based),
            block_store: config.block_store.into_iter().map(|store| store.based_at(directory)).collect(),
            state: based(config.state),
            ..config
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "realm = \"realm.toml\"\nactor = \"a.json\"\nactor-password-file = \"/p\"\n\
        delivery-key = \"x\"\nstore = \"blocks\"\nstate = \"state\"\n";

    fn read(text: &str) -> Result<WatchConfig, String> {
        WatchConfig::parse(Path::new("/etc/c/watchdog.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_whole_file_reads_with_its_defaults_and_paths_beside_it() {
        let config = read(WHOLE).unwrap();
        assert_eq!((config.realm.as_path(), config.patience.secs()), (Path::new("/etc/c/realm.toml"), 120));
        assert_eq!((config.actor_password_file.as_path(), config.policy), (Path::new("/p"), Policy::default()));
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_name_and_line() {
        let found = read(&format!("{WHOLE}ca-key = \"ca\"\n")).unwrap_err();
        assert!(found.starts_with("configuration /etc/c/watchdog.toml, line 7: unknown field `ca-key`"), "{found}");
        let found = read(&format!("{WHOLE}[policy]\nlogin = [\"x\"]\n")).unwrap_err();
        assert!(found.starts_with("configuration /etc/c/watchdog.toml, line 8: unknown field `login`"), "{found}");
    }

    #[test]
    fn a_policy_that_does_not_read_is_refused_with_its_line() {
        for (line, problem) in [
            ("hours = [\"weekdays\"]", "`weekdays`: expected weekdays and UTC times"),
            ("hosts = [\"web1\"]", "host `web1`: expected a record id"),
            ("cas = [\"prod\"]", "CA `prod`: expected a record id"),
            ("max-ttl = \"5\"", "duration `5`: expected numbers with units"),
            ("max-certificates = 0", "expected a nonzero u32"),
        ] {
            let found = read(&format!("{WHOLE}[policy]\n{line}\n")).unwrap_err();
            assert!(found.starts_with("configuration /etc/c/watchdog.toml, line 8: "), "{found}");
            assert!(found.contains(problem), "{found}");
        }
    }
}
