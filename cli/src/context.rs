//! What every command needs: the settings in force, the realm, keys with their passwords, and the verified ledger.
//!
//! All reading goes through `countersign-chain`: headers that the realm file's header source vouches for, proved slots, folded
//! logs. Nothing a node says on its own is printed or relied on.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use countersign_chain::keys::{ActorKey, KEY_VARIABLE, KeySource, PASSWORD_VARIABLE};
use countersign_chain::realm_file::RealmFile;
use countersign_chain::signing::SigningKey;
pub use countersign_issuer::view::View;
use zeroize::Zeroizing;

use crate::args::Global;
use crate::config::{Config, Format};
use crate::error::CliError;
use crate::files;
use crate::output::Printer;

/// The settings in force, from flags, environment and configuration files.
#[derive(Debug)]
pub struct Context {
    /// Prints.
    pub printer: Printer,
    config: Config,
    password_file: Option<PathBuf>,
}

impl Context {
    /// Reads the configuration; flags and environment come first.
    ///
    /// # Errors
    /// [`CliError::Config`].
    pub fn new(global: &Global) -> Result<Self, CliError> {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let mut config = Config::load(global.config.as_deref(), home.as_deref())?;
        config.realm = global.realm.clone().or(config.realm);
        config.as_actor = global.as_actor.clone().or(config.as_actor);
        let format = global.format.or(config.format).unwrap_or(Format::Text);
        let password_file = global.password_file.clone().or(config.password_file.clone());
        Ok(Self { printer: Printer::new(format, global.quiet), config, password_file })
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A path from a flag, or from the configuration.
    pub fn configured(&self, flag: Option<PathBuf>, key: impl Fn(&Config) -> Option<PathBuf>) -> Option<PathBuf> {
        flag.or_else(|| key(&self.config))
    }

    /// The realm file.
    ///
    /// # Errors
    /// [`CliError::Missing`], or what is wrong with the file.
    pub fn realm(&self) -> Result<RealmFile, CliError> {
        let path =
            self.config.realm.as_deref().ok_or(CliError::Missing { what: "a realm file", flag: "--realm FILE" })?;
        Ok(RealmFile::load(path)?)
    }

    /// The key of the actor that writes.
    ///
    /// # Errors
    /// [`CliError::Missing`], or what is wrong with the keystore.
    pub fn actor_key(&self) -> Result<ActorKey, CliError> {
        match &self.config.as_actor {
            Some(path) => self.keystore(path),
            None if std::env::var_os(KEY_VARIABLE).is_some() => self.load(&KeySource::Environment),
            None => Err(CliError::Missing { what: "an actor", flag: "--as-actor KEYSTORE" }),
        }
    }

    /// The key of the actor that writes, if one is configured.
    ///
    /// # Errors
    /// As [`Context::actor_key`].
    pub fn actor_key_if_any(&self) -> Result<Option<ActorKey>, CliError> {
        match self.actor_key() {
            Err(CliError::Missing { .. }) => Ok(None),
            other => other.map(Some),
        }
    }

    /// A key from a keystore file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn keystore(&self, path: &Path) -> Result<ActorKey, CliError> {
        self.load(&KeySource::File(path.to_owned()))
    }

    /// A key that signs writes, from a keystore or a PEM file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn signing_key(&self, path: &Path) -> Result<SigningKey, CliError> {
        let password = self.password_file.as_deref().map(files::password).transpose()?;
        let environment = |name: &str| match (&password, name) {
            (Some(password), PASSWORD_VARIABLE) => Some(password.as_str().into()),
            _ => std::env::var_os(name),
        };
        let progress = self.printer.progress("opening the key");
        let prompt = |path: &Path| {
            drop(progress);
            prompt(&format!("Password of {}: ", path.display()))
        };
        Ok(SigningKey::load(path, environment, prompt)?)
    }

    /// The key of the actor that writes, where it only signs and somebody else sends.
    ///
    /// # Errors
    /// As [`Context::actor_key`].
    pub fn actor_signing_key(&self) -> Result<SigningKey, CliError> {
        match &self.config.as_actor {
            Some(path) => self.signing_key(path),
            None => Ok(self.actor_key()?.into()),
        }
    }

    fn load(&self, source: &KeySource) -> Result<ActorKey, CliError> {
        let password = self.password_file.as_deref().map(files::password).transpose()?;
        let environment = |name: &str| match (&password, name) {
            (Some(password), PASSWORD_VARIABLE) => Some(password.as_str().into()),
            _ => std::env::var_os(name),
        };
        let progress = self.printer.progress("opening the keystore");
        let prompt = |path: &Path| {
            drop(progress);
            prompt(&format!("Password of {}: ", path.display()))
        };
        Ok(ActorKey::load(source, environment, prompt)?)
    }

    /// The keystores' password where file or environment gives it, so that nobody need type it.
    ///
    /// # Errors
    /// [`CliError::File`], [`CliError::Content`].
    pub fn given_password(&self) -> Result<Option<Zeroizing<String>>, CliError> {
        match &self.password_file {
            Some(path) => files::password(path).map(Some),
            None => Ok(std::env::var(PASSWORD_VARIABLE).ok().map(Zeroizing::new)),
        }
    }

    /// The password for a new keystore: from file, environment, or typed twice.
    ///
    /// # Errors
    /// [`CliError`].
    pub fn new_password(&self, what: &str) -> Result<Zeroizing<String>, CliError> {
        let given = self.given_password()?;
        let password = match given {
            Some(password) => password,
            None => {
                let input = |source| CliError::Stream { stream: "input", source };
                let first = prompt(&format!("New password of {what}: ")).map_err(input)?;
                let second = prompt("The same again: ").map_err(input)?;
                if first != second {
                    return Err(CliError::Refused("the two passwords differ".to_owned()));
                }
                first
            }
        };
        if password.is_empty() {
            return Err(CliError::Refused("an empty password protects nothing".to_owned()));
        }
        Ok(password)
    }

    /// The password of a CA's key file.
    ///
    /// # Errors
    /// [`CliError`].
    pub fn ca_password(&self, file: Option<&Path>, key: &Path) -> Result<Zeroizing<String>, CliError> {
        if let Some(path) = file.or(self.config.ca_password_file.as_deref()) {
            return files::password(path);
        }
        if let Ok(password) = std::env::var("COUNTERSIGN_CA_PASSWORD") {
            return Ok(Zeroizing::new(password));
        }
        prompt(&format!("Password of {}: ", key.display()))
            .map_err(|source| CliError::Stream { stream: "input", source })
    }

    /// The verified ledger: who may do what, and the batches, requests and deliveries of the last two days or as long as the longest
    /// certificate lives.
    ///
    /// # Errors
    /// [`CliError::Chain`].
    pub async fn view(&self) -> Result<View, CliError> {
        self.view_back(1).await
    }

    /// The verified ledger, with the batches, requests and deliveries of at least so many days.
    ///
    /// # Errors
    /// [`CliError::Chain`].
    pub async fn view_back(&self, days: u64) -> Result<View, CliError> {
        let realm = self.realm()?;
        let _progress = self.printer.progress("reading and proving the ledger");
        Ok(View::read(&realm, days).await?)
    }
}

fn prompt(text: &str) -> std::io::Result<Zeroizing<String>> {
    if !std::io::stdin().is_terminal() && !std::io::stderr().is_terminal() {
        return Err(std::io::Error::other("a password is needed and there is no terminal to ask at"));
    }
    rpassword::prompt_password(text).map(Zeroizing::new)
}
