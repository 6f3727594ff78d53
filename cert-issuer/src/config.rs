//! The service's configuration: one TOML file, unknown keys refused with name and line. It names keys and password files and holds no
//! secret itself. Relative paths are relative to the file's directory, never to where the service was started.
//!
//! Refuses a file that somebody else could have written, secrets that others can read, and a state directory that others can change.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_chain::files::{self, Directory, FileError, Owners, Secrecy};
use countersign_delivery::{DeliveryError, Place, Puts, StoreSetting, Stores};
use serde::{Deserialize, Deserializer};
use thiserror::Error;

use crate::duration::parse_duration;
use crate::mailing::PrekeyPolicy;
use crate::rotate::setting::{self, Rotation};

/// The most that is read of a configuration file, in bytes.
const LIMIT: u64 = 1 << 20;

/// The configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// It cannot be read, or somebody else could have written it.
    #[error("configuration: {0}")]
    File(#[from] FileError),
    /// Not UTF-8.
    #[error("configuration {0}: expected UTF-8 text")]
    Encoding(PathBuf),
    /// A file or directory that it names is missing or unsafe.
    #[error("{key}: {source}")]
    Named {
        /// The key that names it.
        key: &'static str,
        /// What is wrong with it.
        source: FileError,
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
    /// A rotation that could not work.
    #[error("configuration {path}: rotate {name}: {problem}")]
    Rotation {
        /// The file.
        path: PathBuf,
        /// The payload.
        name: String,
        /// What was expected.
        problem: &'static str,
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
            Self::File(source) | Self::Named { source, .. } => source.hint(),
            Self::Syntax { problem, .. } if problem.starts_with("duration") => {
                Some("write a number and its unit, as in 5m".to_owned())
            }
            Self::Encoding(_) | Self::Syntax { .. } | Self::Rotation { .. } | Self::Contradiction { .. } => {
                Some("countersign-issuer(8) lists the keys, docs/examples/issuer.toml shows them".to_owned())
            }
        }
    }
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
    /// Directory of blocks, or
    pub store: Option<PathBuf>,
    /// several places for them, in order.
    #[serde(default)]
    pub block_store: Vec<StoreSetting>,
    /// Whether all of those that take blocks must have taken one, or any.
    #[serde(default)]
    pub puts: Puts,
    /// The service's own directory: what was answered, what is to be unpinned, status.
    pub state: PathBuf,
    /// The name under which recipients know what is delivered.
    #[serde(default = "default_payload")]
    pub payload: String,
    /// What is done about prekeys: `require`, `refuse`, `fall-back` or `off`.
    #[serde(default)]
    pub prekeys: PrekeyPolicy,
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
    /// What is made anew before it ends.
    #[serde(default)]
    pub rotate: Vec<Rotation>,
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
        Self::parse(path, &read_file(path)?)
    }

    /// Checks the secrets and directories that it names, before anything is opened or written.
    ///
    /// # Errors
    /// [`ConfigError::Named`].
    pub fn check_files(&self) -> Result<(), ConfigError> {
        let secrets = [
            ("actor", Some(&self.actor)),
            ("actor-password-file", Some(&self.actor_password_file)),
            ("delivery-key", Some(&self.delivery_key)),
            ("ca-key", self.ca_key.as_ref()),
            ("ca-password-file", self.ca_password_file.as_ref()),
        ];
        for (key, path) in secrets {
            if let Some(path) = path {
                check_secret(key, path)?;
            }
        }
        for rotation in &self.rotate {
            let ca = rotation.host_ca.as_ref();
            let of_ca =
                ca.into_iter().flat_map(|ca| [("ca-key", &ca.ca_key), ("ca-password-file", &ca.ca_password_file)]);
            for (key, path) in of_ca {
                if let Some(path) = path {
                    check_secret(key, path)?;
                }
            }
            if let Some(command) = &rotation.command {
                countersign_agent::verify::check_program(command.program.as_path())
                    .map_err(|source| ConfigError::Named { key: "command", source })?;
            }
        }
        check_state(&self.state)
    }

    /// Opens the block stores; connects to nobody yet.
    ///
    /// # Errors
    /// As [`Stores::open`].
    pub fn stores(&self) -> Result<Stores, DeliveryError> {
        open_stores(self.store.as_deref(), &self.block_store, self.puts)
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
        if let Some(problem) = stores_problem(config.store.as_deref(), &config.block_store) {
            return contradiction(problem);
        }
        if !config.block_store.is_empty() && config.block_store.iter().all(|one| matches!(one.place, Place::Gateway(_)))
        {
            return contradiction("expected a block store that takes blocks: a directory or an IPFS node");
        }
        let timeout = config.delivery_timeout.secs();
        if let Some((name, problem)) = setting::contradiction(&config.rotate, &config.payload, timeout) {
            return Err(ConfigError::Rotation { path: path.to_owned(), name, problem });
        }
        for ca in config.rotate.iter().filter_map(|rotation| rotation.host_ca.as_ref()) {
            match (&ca.ca_key, &ca.ca_agent, &ca.ca_password_file) {
                (Some(_), Some(_), _) | (None, None, _) => {
                    return contradiction("rotate.host-ca: expected one of ca-key and ca-agent");
                }
                (None, Some(_), Some(_)) => return contradiction("rotate.host-ca: ca-password-file goes with ca-key"),
                _ => {}
            }
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
            store: self.store.map(based),
            block_store: self.block_store.into_iter().map(|store| store.based_at(directory)).collect(),
            state: based(self.state),
            rotate: self.rotate.into_iter().map(|rotation| rotation.based_at(directory)).collect(),
            ..self
        }
    }
}

/// A configuration file's text, from a file that nobody else could have written.
pub(crate) fn read_file(path: &Path) -> Result<String, ConfigError> {
    let owners = Owners::process();
    let bytes = files::read(&files::real_path(path, owners)?, owners, Secrecy::Public, LIMIT)?;
    std::str::from_utf8(&bytes).map(str::to_owned).map_err(|_| ConfigError::Encoding(path.to_owned()))
}

/// What is wrong with the two ways to name stores: one is needed, and both would leave their order open.
pub(crate) fn stores_problem(directory: Option<&Path>, several: &[StoreSetting]) -> Option<&'static str> {
    match (directory, several) {
        (Some(_), [_, ..]) | (None, []) => Some("expected one of store and [[block-store]]"),
        _ => None,
    }
}

pub(crate) fn open_stores(
    directory: Option<&Path>,
    several: &[StoreSetting],
    puts: Puts,
) -> Result<Stores, DeliveryError> {
    match directory {
        Some(directory) => Stores::open(&[directory.to_owned().into()], puts),
        None => Stores::open(several, puts),
    }
}

/// Refuses a secret that others can read or could have put there.
pub(crate) fn check_secret(key: &'static str, path: &Path) -> Result<(), ConfigError> {
    let owners = Owners::process();
    let named = |source| ConfigError::Named { key, source };
    // A pipe from a service manager has no owner and no mode that mean anything.
    if std::fs::metadata(path).is_ok_and(|found| std::os::unix::fs::FileTypeExt::is_fifo(&found.file_type())) {
        return Ok(());
    }
    let path = files::real_path(path, owners).map_err(named)?;
    files::check(&path, owners, Secrecy::Private).map_err(named)
}

/// Refuses a state directory that others can change or take the place of.
pub(crate) fn check_state(path: &Path) -> Result<(), ConfigError> {
    let owners = Owners::process();
    let named = |source| ConfigError::Named { key: "state", source };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(named(FileError::Path(path.to_owned())));
    };
    // A bare name stands in the working directory.
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let place = files::real_path(parent, owners).map_err(named)?.join(name);
    Directory::check_place(&place, owners).map_err(named)
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

    #[test]
    fn blocks_go_into_a_directory_or_into_several_places_in_order() {
        let several = "\n[[block-store]]\nkubo = \"http://127.0.0.1:5001\"\nauthorization-file = \"token\"\n\n\
            [[block-store]]\ndirectory = \"spare\"\n";
        let plain = WHOLE.replace("store = \"blocks\"\n", "");
        let config =
            Config::parse(Path::new("/etc/c/issuer.toml"), &format!("{plain}puts = \"any\"\n{several}")).unwrap();
        assert_eq!((config.store, config.puts), (None, Puts::Any));
        let paths: Vec<_> = config.block_store.iter().flat_map(StoreSetting::paths).collect();
        assert_eq!(paths, [Path::new("/etc/c/token"), Path::new("/etc/c/spare")]);

        let one = "configuration /etc/c/issuer.toml: expected one of store and [[block-store]]";
        assert_eq!(message(&plain), one);
        assert_eq!(message(&format!("{WHOLE}{several}")), one);
        assert_eq!(
            message(&format!("{plain}[[block-store]]\ngateway = \"https://gateway.example\"\n")),
            "configuration /etc/c/issuer.toml: expected a block store that takes blocks: a directory or an IPFS node"
        );
        assert_eq!(
            message(&format!("{plain}[[block-store]]\nkubo = \"http://a\"\ngateway = \"http://b\"\n")),
            "configuration /etc/c/issuer.toml, line 9: expected one of `directory`, `kubo`, `gateway`"
        );
    }

    #[test]
    fn each_rotation_that_could_not_work_or_would_not_end_is_one_exact_message() {
        let rotation = |text: &str| {
            let text = format!("{WHOLE}[[rotate]]\nname = \"x\"\n{text}");
            Config::parse(Path::new("/etc/c/issuer.toml"), &text).map(|config| config.rotate).map_err(|error| {
                let text = error.to_string();
                text.strip_prefix("configuration /etc/c/issuer.toml: rotate x: ").unwrap_or(&text).to_owned()
            })
        };
        let command = "make = \"command\"\ncommand = [\"/bin/make\"]\n";
        let pair = "make = \"ssh-key-pair\"\nto = [\"web1\"]\n";
        let secret = "make = \"secret\"\nto = [\"web1\"]\nbytes = 32\n";
        let host = "make = \"host-certificate\"\nlabel = [\"web\"]\n";
        for good in [
            format!("{secret}every = \"30d\"\nbefore = \"1d\"\n"),
            format!("{pair}every = \"30d\"\npublish = \"keys\"\n"),
            format!("{pair}[rotate.certificate]\nuser = \"svc\"\nhost = \"web1\"\nlogin = \"svc\"\nttl = \"1h\"\n"),
            format!("{host}[rotate.host-ca]\nca = \"hosts\"\nca-key = \"host-ca\"\nttl = \"30d\"\n"),
            format!("{command}kind = \"x509-key-pair\"\neach = true\nlabel = [\"web\"]\n"),
            format!("{command}kind = \"public-data\"\nevery = \"1d\"\n"),
        ] {
            assert_eq!(rotation(&good).unwrap().len(), 1, "{good}");
        }
        let based = rotation(&format!("{host}[rotate.host-ca]\nca = \"h\"\nca-key = \"k\"\nttl = \"30d\"\n")).unwrap();
        assert_eq!(based[0].host_ca.as_ref().unwrap().ca_key.as_deref(), Some(Path::new("/etc/c/k")));
        let certificate = "[rotate.certificate]\nuser = \"u\"\nhost = \"h\"\nlogin = \"l\"\nttl = \"1h\"\n";
        for (text, message) in [
            ("make = \"command\"\n".to_owned(), "make = \"command\" goes with command and kind, and nothing else does"),
            (
                format!("{secret}command = [\"/bin/x\"]\n"),
                "make = \"command\" goes with command and kind, and nothing else does",
            ),
            (format!("{pair}bytes = 32\n"), "make = \"secret\" goes with bytes, and nothing else does"),
            (secret.replace("32", "8"), "expected 16 to 4096 bytes"),
            (host.to_owned(), "make = \"host-certificate\" goes with a [rotate.host-ca] table, and nothing else does"),
            (
                format!("{secret}every = \"1d\"\n{certificate}"),
                "a [rotate.certificate] table goes with make = \"ssh-key-pair\"",
            ),
            (
                format!("{command}kind = \"public-data\"\nto = [\"a\"]\n"),
                "public data is for everybody: expected neither to nor label",
            ),
            (format!("{command}kind = \"opaque-secret\"\n"), "expected a recipient: to or label"),
            (
                format!("{secret}every = \"1d\"\npublish = \"keys\"\n"),
                "publish is for key pairs: nothing else has a public half",
            ),
            (
                format!("{pair}every = \"1d\"\npublish = \"x\"\n"),
                "expected publish to be another name than the payload's own",
            ),
            (secret.to_owned(), "expected every: nothing else says when it ends"),
            (format!("{secret}every = \"29s\"\n"), "expected every to be at least 30s: each rotation costs gas"),
            (
                format!("{secret}every = \"1d\"\nbefore = \"1d\"\n"),
                "expected before to be less than what it is taken from: else it rotates for ever",
            ),
            (
                format!("{pair}before = \"1h\"\n{certificate}"),
                "expected before to be less than what it is taken from: else it rotates for ever",
            ),
            (format!("{secret}every = \"1d\"\ndeadline = \"11m\"\n"), "expected a deadline of at most 10m"),
            (
                format!("{secret}every = \"1d\"\nresend = \"7d\"\n"),
                "expected resend from 30s to less than delivery-timeout: afterwards nothing is left to send",
            ),
            (format!("{secret}every = \"1d\"\n[[rotate]]\nname = \"x\"\n{secret}every = \"1d\"\n"), "is named twice"),
        ] {
            assert_eq!(rotation(&text), Err(message.to_owned()), "{text}");
        }
        let shell = rotation("make = \"command\"\ncommand = \"make x\"\n").unwrap_err();
        assert_eq!(
            shell,
            "configuration /etc/c/issuer.toml, line 13: invalid type: string \"make x\", expected a sequence"
        );
        let relative = rotation("make = \"command\"\ncommand = [\"make\"]\n").unwrap_err();
        assert!(relative.ends_with("expected an absolute path without `.` and `..`, found `make`"), "{relative}");
        assert_eq!(
            message(&format!("{WHOLE}[[rotate]]\nname = \"ssh\"\n{secret}every = \"1d\"\n")),
            "configuration /etc/c/issuer.toml: rotate ssh: is the name under which requests are answered"
        );
    }
}
