//! A block store as configurations name it: one table each, in the order in which stores are asked.
//!
//! A table names exactly one place; what does not go with it is refused, so that a misspelt place is never taken for another.

use std::{
    num::NonZeroU64,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use url::Url;

use super::{BlockStore, DirectoryStore, GatewayStore, KuboStore, http::Deadlines};
use crate::error::DeliveryError;

/// How many of the stores that take blocks must have taken one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Puts {
    /// Each of them.
    #[default]
    All,
    /// One of them; the others are tried as well.
    Any,
}

/// Where blocks are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A directory.
    Directory(PathBuf),
    /// An IPFS node's RPC.
    Kubo {
        /// Its address, without `/api/v0`.
        url: Url,
        /// A file whose one line is the Authorization header.
        authorization_file: Option<PathBuf>,
    },
    /// A trustless gateway.
    Gateway(
        /// Its address, without `/ipfs`.
        Url,
    ),
}

/// One store of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Table")]
pub struct StoreSetting {
    /// Where.
    pub place: Place,
    /// How long it may be silent, in seconds.
    pub idle_secs: NonZeroU64,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Table {
    directory: Option<PathBuf>,
    kubo: Option<Url>,
    authorization_file: Option<PathBuf>,
    gateway: Option<Url>,
    idle_secs: Option<NonZeroU64>,
}

impl TryFrom<Table> for StoreSetting {
    type Error = &'static str;

    fn try_from(table: Table) -> Result<Self, Self::Error> {
        let Table { directory, kubo, authorization_file, gateway, idle_secs } = table;
        if authorization_file.is_some() && kubo.is_none() {
            return Err("`authorization-file` goes with `kubo`");
        }
        if directory.is_some() && idle_secs.is_some() {
            return Err("`idle-secs` goes with `kubo` and `gateway`");
        }
        let place = match (directory, kubo, gateway) {
            (Some(path), None, None) => Place::Directory(path),
            (None, Some(url), None) => Place::Kubo { url, authorization_file },
            (None, None, Some(url)) => Place::Gateway(url),
            _ => return Err("expected one of `directory`, `kubo`, `gateway`"),
        };
        Ok(Self::of(place, idle_secs))
    }
}

impl From<PathBuf> for StoreSetting {
    fn from(directory: PathBuf) -> Self {
        Self::of(Place::Directory(directory), None)
    }
}

impl std::str::FromStr for StoreSetting {
    type Err = DeliveryError;

    /// As on a command line: `kubo:URL`, `gateway:URL`, or the path of a directory.
    fn from_str(text: &str) -> Result<Self, DeliveryError> {
        let url = |address: &str| {
            Url::parse(address)
                .map_err(|error| DeliveryError::Setting { store: text.to_owned(), problem: error.to_string() })
        };
        let place = match text.split_once(':') {
            Some(("kubo", address)) => Place::Kubo { url: url(address)?, authorization_file: None },
            Some(("gateway", address)) => Place::Gateway(url(address)?),
            Some(("http" | "https", _)) => {
                let problem = format!("expected kubo:{text} or gateway:{text}");
                return Err(DeliveryError::Setting { store: text.to_owned(), problem });
            }
            _ => Place::Directory(text.into()),
        };
        Ok(Self::of(place, None))
    }
}

impl StoreSetting {
    fn of(place: Place, idle_secs: Option<NonZeroU64>) -> Self {
        let default = NonZeroU64::new(Deadlines::default().idle.as_secs()).unwrap_or(NonZeroU64::MIN);
        Self { place, idle_secs: idle_secs.unwrap_or(default) }
    }

    /// The same, with relative paths taken from `directory`.
    #[must_use]
    pub fn based_at(self, directory: &Path) -> Self {
        let place = match self.place {
            Place::Directory(path) => Place::Directory(directory.join(path)),
            Place::Kubo { url, authorization_file } => {
                Place::Kubo { url, authorization_file: authorization_file.map(|path| directory.join(path)) }
            }
            gateway @ Place::Gateway(_) => gateway,
        };
        Self { place, ..self }
    }

    /// The paths that it names.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        match &self.place {
            Place::Directory(path) => Some(path.as_path()),
            Place::Kubo { authorization_file, .. } => authorization_file.as_deref(),
            Place::Gateway(_) => None,
        }
        .into_iter()
    }

    /// Opens it; connects to nobody yet.
    ///
    /// # Errors
    /// As [`DirectoryStore::open`], [`KuboStore::new`] and [`GatewayStore::new`].
    pub fn open(&self) -> Result<Box<dyn BlockStore>, DeliveryError> {
        let idle = Duration::from_secs(self.idle_secs.get());
        let deadlines = Deadlines { idle, ..Deadlines::default() };
        Ok(match &self.place {
            Place::Directory(path) => Box::new(DirectoryStore::open(path)?),
            Place::Kubo { url, authorization_file } => {
                Box::new(KuboStore::new(url.clone(), authorization_file.as_deref(), deadlines)?)
            }
            Place::Gateway(url) => Box::new(GatewayStore::new(url.clone(), deadlines)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<StoreSetting, String> {
        toml::from_str(text).map_err(|error: toml::de::Error| error.message().to_owned())
    }

    #[test]
    fn each_place_has_its_table() {
        let directory = parse("directory = \"blocks\"").unwrap();
        assert_eq!(directory.place, Place::Directory("blocks".into()));
        assert_eq!(
            directory.clone().based_at(Path::new("/etc")).paths().collect::<Vec<_>>(),
            [Path::new("/etc/blocks")]
        );
        let kubo = parse("kubo = \"http://127.0.0.1:5001\"\nauthorization-file = \"token\"\nidle-secs = 5").unwrap();
        assert_eq!(kubo.idle_secs.get(), 5);
        assert_eq!(kubo.based_at(Path::new("/etc")).paths().collect::<Vec<_>>(), [Path::new("/etc/token")]);
        let gateway = parse("gateway = \"https://gateway.example\"").unwrap();
        assert_eq!(gateway.idle_secs.get(), 30);
        assert_eq!(gateway.place, Place::Gateway(Url::parse("https://gateway.example").unwrap()));
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for (text, message) in [
            ("", "expected one of `directory`, `kubo`, `gateway`"),
            ("directory = \"a\"\ngateway = \"http://b\"", "expected one of `directory`, `kubo`, `gateway`"),
            ("gateway = \"http://b\"\nauthorization-file = \"t\"", "`authorization-file` goes with `kubo`"),
            ("directory = \"a\"\nidle-secs = 5", "`idle-secs` goes with `kubo` and `gateway`"),
            ("gateway = \"gateway.example\"", "relative URL without a base: \"gateway.example\""),
            ("gateway = \"http://b\"\nidle-secs = 0", "invalid value: integer `0`, expected a nonzero u64"),
        ] {
            assert_eq!(parse(text).unwrap_err(), message, "{text}");
        }
        let unknown = parse("gatway = \"http://b\"").unwrap_err();
        assert!(unknown.starts_with("unknown field `gatway`, expected one of `directory`, `kubo`"), "{unknown}");
    }

    #[test]
    fn a_command_line_names_a_place_in_one_word() {
        let place = |text: &str| text.parse::<StoreSetting>().map(|setting| setting.place).map_err(|e| e.to_string());
        assert_eq!(place("/srv/blocks"), Ok(Place::Directory("/srv/blocks".into())));
        assert_eq!(place("a:b"), Ok(Place::Directory("a:b".into())));
        let url = |text: &str| Url::parse(text).unwrap();
        let kubo = Place::Kubo { url: url("http://127.0.0.1:5001"), authorization_file: None };
        assert_eq!(place("kubo:http://127.0.0.1:5001"), Ok(kubo));
        assert_eq!(place("gateway:https://g.example"), Ok(Place::Gateway(url("https://g.example"))));
        assert_eq!(
            place("http://127.0.0.1:5001").unwrap_err(),
            "block store http://127.0.0.1:5001: expected kubo:http://127.0.0.1:5001 or gateway:http://127.0.0.1:5001"
        );
        assert!(place("kubo:nowhere").unwrap_err().starts_with("block store kubo:nowhere: "));
    }
}
