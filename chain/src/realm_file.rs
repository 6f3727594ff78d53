//! `realm.toml`: what a host, an issuer and the command line know about a realm before they ask anybody. It pins the realm (and
//! the id is recomputed here, so a slip in the roots or the salt is found at once), names the chain profile and says which nodes
//! to ask and whom to believe.
//!
//! Refuses unknown keys with file and line, a pin whose id does not follow from its parts, `dev` on a chain of worth, a quorum
//! of one, the same node twice however it is spelled, plain http to other machines unless a quorum needs others too, and a file that
//! somebody else could have written.
//!
//! Of a realm that moved it also names the files of its neighbours. They decide nothing: what they say is compared with the ledger.

use std::{
    io::Write,
    net::IpAddr,
    path::{Path, PathBuf},
};

use alloy_primitives::{Address, B256};
use countersign_registry::pin::RealmPin;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use crate::{
    error::ChainError,
    files::{self, Owners, Secrecy},
    profile::{ChainProfile, DEV_CHAIN_IDS, ProfileName},
};

const MAX_FILE: u64 = 64 * 1024;

/// Whose word makes a header trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderTrust {
    /// One node's; development chains only.
    Dev,
    /// That many nodes', agreeing on the hash.
    Quorum(usize),
}

/// Files that have to do with a realm's move to another contract or chain; beside the realm file, unless absolute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// The realm file of the realm that this one moves to.
    pub successor: Option<PathBuf>,
    /// The realm file of the realm that this one continues.
    pub predecessor: Option<PathBuf>,
    /// This realm's log, for when its nodes are gone (`docs/spec/realm-archive.md`).
    pub archive: Option<PathBuf>,
    /// What a threshold of this realm's roots signed when its chain was dead: that it moves to the successor.
    pub statement: Option<PathBuf>,
}

/// A realm file, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealmFile {
    /// What the realm is.
    pub pin: RealmPin,
    /// What its chain is.
    pub profile: ChainProfile,
    /// Whom to believe.
    pub trust: HeaderTrust,
    /// Whom to ask, in order.
    pub endpoints: Vec<Url>,
    /// Where the realm came from and where it goes.
    pub links: Links,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Raw {
    version: u32,
    chain_id: u64,
    contract: Address,
    code_hash: B256,
    realm: B256,
    threshold: u64,
    roots: Vec<Address>,
    salt: B256,
    deployed_block: u64,
    genesis_hash: B256,
    profile: ProfileName,
    header_source: RawSource,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quorum: Option<usize>,
    endpoints: Vec<Url>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    successor: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    predecessor: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    archive: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    statement: Option<PathBuf>,
}

/// The layout that this version reads and writes.
const VERSION: u32 = 1;

#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawSource {
    Dev,
    Quorum,
}

impl RealmFile {
    /// Puts a checked realm file together.
    ///
    /// # Errors
    /// `Setting`, naming the key that cannot stand.
    pub fn new(
        pin: RealmPin,
        profile: ProfileName,
        trust: HeaderTrust,
        endpoints: Vec<Url>,
    ) -> Result<Self, ChainError> {
        let refuse = |what: &'static str, detail: String| Err(ChainError::Setting { what, detail });
        if let Err(error) = pin.verify() {
            return refuse("realm", error.to_string());
        }
        let profile = ChainProfile::new(profile, pin.chain_id)?;
        voices(trust, pin.chain_id, &endpoints)?;
        Ok(Self { pin, profile, trust, endpoints, links: Links::default() })
    }

    /// The same realm, with files that have to do with its move.
    ///
    /// # Errors
    /// `Setting`: a name that is empty, or a statement without a successor.
    pub fn linked(self, links: Links) -> Result<Self, ChainError> {
        let refuse = |what, detail: &str| Err(ChainError::Setting { what, detail: detail.to_owned() });
        let named = [
            ("successor", &links.successor),
            ("predecessor", &links.predecessor),
            ("archive", &links.archive),
            ("statement", &links.statement),
        ];
        for (what, path) in named {
            if path.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
                return refuse(what, "expected the name of a file");
            }
        }
        if links.statement.is_some() && links.successor.is_none() {
            return refuse("statement", "goes with a successor only: the realm file of where the statement leads");
        }
        Ok(Self { links, ..self })
    }

    /// Reads and checks a realm file; it and the directories on the way belong to root or the process's user, and nobody else may
    /// write them.
    ///
    /// # Errors
    /// `Unsafe`, or `RealmFile` with the line where TOML or serde names one.
    pub fn load(path: &Path) -> Result<Self, ChainError> {
        let owners = Owners::process();
        let bytes = files::read(&files::real_path(path, owners)?, owners, Secrecy::Public, MAX_FILE)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| ChainError::RealmFile {
            path: path.to_owned(),
            line: None,
            what: "",
            detail: "expected UTF-8 text".into(),
        })?;
        Self::parse(path, text)
    }

    /// Checks the text of a realm file; `path` is for errors only.
    ///
    /// # Errors
    /// `RealmFile`.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ChainError> {
        let refuse = |line, what, detail| ChainError::RealmFile { path: path.to_owned(), line, what, detail };
        let syntax = |error: toml::de::Error| {
            let line = error.span().and_then(|span| text.get(..span.start)).map(line_of);
            refuse(line, "", error.message().trim_end().to_owned())
        };
        // Before all other keys: another version may have others.
        let Version { version } = toml::from_str(text).map_err(syntax)?;
        if version != VERSION {
            return Err(refuse(
                key_line(text, "version"),
                "version",
                format!("version is {version}, expected {VERSION}"),
            ));
        }
        let raw: Raw = toml::from_str(text).map_err(syntax)?;
        let trust = match (raw.header_source, raw.quorum) {
            (RawSource::Dev, None) => HeaderTrust::Dev,
            (RawSource::Dev, Some(_)) => {
                return Err(refuse(
                    key_line(text, "quorum"),
                    "quorum",
                    "quorum goes with header-source = \"quorum\" only".into(),
                ));
            }
            (RawSource::Quorum, Some(k)) => HeaderTrust::Quorum(k),
            (RawSource::Quorum, None) => {
                let line = key_line(text, "header-source");
                return Err(refuse(line, "quorum", "expected quorum = how many endpoints must agree".into()));
            }
        };
        let pin = RealmPin {
            chain_id: raw.chain_id,
            contract: raw.contract,
            code_hash: raw.code_hash,
            realm: raw.realm,
            threshold: raw.threshold,
            roots: raw.roots,
            salt: raw.salt,
            deployed_block: raw.deployed_block,
            genesis_hash: raw.genesis_hash,
        };
        let beside = |name: Option<PathBuf>| {
            let directory = path.parent().unwrap_or(Path::new(""));
            name.map(|name| if name.as_os_str().is_empty() { name } else { directory.join(name) })
        };
        let links = Links {
            successor: beside(raw.successor),
            predecessor: beside(raw.predecessor),
            archive: beside(raw.archive),
            statement: beside(raw.statement),
        };
        let realm = Self::new(pin, raw.profile, trust, raw.endpoints).and_then(|realm| realm.linked(links));
        realm.map_err(|error| match error {
            ChainError::Setting { what, detail } => refuse(key_line(text, what), what, format!("{what}: {detail}")),
            other => other,
        })
    }

    /// The file's text.
    ///
    /// # Errors
    /// `Setting` when a number does not fit TOML's 63 bits.
    pub fn to_toml(&self) -> Result<String, ChainError> {
        let (header_source, quorum) = match self.trust {
            HeaderTrust::Dev => (RawSource::Dev, None),
            HeaderTrust::Quorum(k) => (RawSource::Quorum, Some(k)),
        };
        let pin = self.pin.clone();
        let raw = Raw {
            version: VERSION,
            chain_id: pin.chain_id,
            contract: pin.contract,
            code_hash: pin.code_hash,
            realm: pin.realm,
            threshold: pin.threshold,
            roots: pin.roots,
            salt: pin.salt,
            deployed_block: pin.deployed_block,
            genesis_hash: pin.genesis_hash,
            profile: self.profile.name,
            header_source,
            quorum,
            endpoints: self.endpoints.clone(),
            successor: self.links.successor.clone(),
            predecessor: self.links.predecessor.clone(),
            archive: self.links.archive.clone(),
            statement: self.links.statement.clone(),
        };
        let body = toml::to_string(&raw)
            .map_err(|error| ChainError::Setting { what: "realm file", detail: error.to_string() })?;
        Ok(format!(
            "# The realm as every host, issuer and person of it knows it; holds no secret. See docs/spec/realm-file.md\n{body}"
        ))
    }

    /// Writes a new file, 0644, whole or not at all; never over another.
    ///
    /// # Errors
    /// `File`, also when the file exists already.
    pub fn create(&self, path: &Path) -> Result<(), ChainError> {
        let failed = |source| ChainError::File { path: path.to_owned(), source };
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let text = self.to_toml()?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        let mut temporary = tempfile::Builder::new().permissions(mode).tempfile_in(directory).map_err(failed)?;
        temporary.write_all(text.as_bytes()).map_err(failed)?;
        temporary.as_file().sync_all().map_err(failed)?;
        temporary.persist_noclobber(path).map_err(|error| failed(error.error))?;
        std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
    }
}

/// Whether headers can be had from these nodes as `trust` says: enough of them, each one voice, none that anybody on the way can
/// speak for.
///
/// # Errors
/// `Setting`, naming the key of the realm file that cannot stand.
pub fn voices(trust: HeaderTrust, chain_id: u64, endpoints: &[Url]) -> Result<(), ChainError> {
    let refuse = |what: &'static str, detail: String| Err(ChainError::Setting { what, detail });
    let needed = match trust {
        HeaderTrust::Dev if !DEV_CHAIN_IDS.contains(&chain_id) => {
            let detail = format!("dev is for chain ids {DEV_CHAIN_IDS:?}, got {chain_id}");
            return refuse("header-source", detail);
        }
        HeaderTrust::Dev => 1,
        HeaderTrust::Quorum(k) if k < 2 => return refuse("quorum", format!("expected at least 2, got {k}")),
        HeaderTrust::Quorum(k) => k,
    };
    if endpoints.len() < needed {
        return refuse("endpoints", format!("expected at least {needed}, got {}", endpoints.len()));
    }
    let mut plain = 0_usize;
    for (index, url) in endpoints.iter().enumerate() {
        if endpoints.iter().take(index).any(|earlier| same_node(earlier, url)) {
            return refuse("endpoints", format!("{} is there twice: one node is one voice", shown(url)));
        }
        match url.scheme() {
            "https" => {}
            "http" if is_loopback(url) => {}
            // Who sits on this machine's own line speaks for every plain connection at once: all of them together are one
            // voice that may lie, and one is all that there may be.
            "http" => {
                plain = plain.saturating_add(1);
                if needed < 2 || plain > 1 {
                    let detail = format!(
                        "{}: expected https, or a quorum in which this is the only plain http endpoint",
                        shown(url)
                    );
                    return refuse("endpoints", detail);
                }
            }
            other => return refuse("endpoints", format!("expected an http:// or https:// URL, got {other}://")),
        }
    }
    Ok(())
}

fn line_of(before: &str) -> usize {
    before.matches('\n').count().saturating_add(1)
}

/// The line on which a top-level key stands, from 1.
fn key_line(text: &str, key: &str) -> Option<usize> {
    let position = text
        .lines()
        .position(|line| line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('=')))?;
    position.checked_add(1)
}

/// What the reader can do about a key that is wrong.
pub(crate) fn hint(what: &str) -> &'static str {
    match what {
        "realm" => {
            "take the realm file from the realm's owner again: one of contract, threshold, roots and salt is not the realm's"
        }
        "header-source" => "header-source = \"quorum\" and quorum = 2, with endpoints of three operators",
        "quorum" => "quorum = 2 with endpoints of three operators: one may fail or lie",
        "endpoints" => "name nodes of different operators by https://, one each, and at least as many as quorum says",
        "profile" => "docs/chains.md lists the profiles and their chain ids",
        "successor" | "predecessor" | "archive" | "statement" => {
            "docs/operations.md, \"Moving a realm\", says which file goes where"
        }
        "version" => "this program is older or newer than the file: install the version that wrote it",
        _ => "docs/spec/realm-file.md lists the keys, and which of them are needed",
    }
}

/// A node's host, whichever way it is written: names with and without the root's dot, IPv4 inside IPv6.
#[derive(PartialEq, Eq)]
enum Place {
    Loopback,
    Address(IpAddr),
    Name(String),
}

fn place(url: &Url) -> Option<Place> {
    let address = match url.host()? {
        Host::Ipv4(address) => IpAddr::V4(address),
        Host::Ipv6(address) => IpAddr::V6(address).to_canonical(),
        Host::Domain(name) => {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            // Not every resolver keeps these names to itself, but RFC 6761 says that it must.
            let is_local = name == "localhost" || name.ends_with(".localhost");
            return Some(if is_local { Place::Loopback } else { Place::Name(name) });
        }
    };
    // Who connects to no address at all is connected to this machine.
    let is_local = address.is_loopback() || address.is_unspecified();
    Some(if is_local { Place::Loopback } else { Place::Address(address) })
}

/// Whether a node is on this machine, as its URL says.
#[must_use]
pub fn is_loopback(url: &Url) -> bool {
    place(url) == Some(Place::Loopback)
}

/// Two tokens for one provider are one voice too, and so are two ports or two schemes of one machine. On this machine itself, ports
/// are all that tells nodes apart.
fn same_node(one: &Url, other: &Url) -> bool {
    let (here, there) = (place(one), place(other));
    here == there && (here != Some(Place::Loopback) || one.port_or_known_default() == other.port_or_known_default())
}

/// Scheme, host and port; the rest may carry a token.
fn shown(url: &Url) -> String {
    url.origin().ascii_serialization()
}

#[cfg(test)]
mod tests {
    use countersign_registry::sign;

    use super::*;

    fn pin(chain_id: u64) -> RealmPin {
        let roots = vec![Address::repeat_byte(1), Address::repeat_byte(2), Address::repeat_byte(3)];
        let contract = Address::repeat_byte(9);
        let salt = B256::repeat_byte(7);
        RealmPin {
            chain_id,
            contract,
            code_hash: B256::repeat_byte(8),
            realm: sign::realm_id(chain_id, contract, 2, &roots, salt),
            threshold: 2,
            roots,
            salt,
            deployed_block: 5,
            genesis_hash: B256::repeat_byte(6),
        }
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn dev() -> RealmFile {
        RealmFile::new(pin(31337), ProfileName::Dev, HeaderTrust::Dev, vec![url("http://127.0.0.1:8545")]).unwrap()
    }

    fn refused(text: &str) -> String {
        RealmFile::parse(Path::new("realm.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn another_version_is_refused_whatever_else_it_says() {
        let text = dev().to_toml().unwrap().replace("version = 1", "version = 2\nnews = true");
        assert_eq!(refused(&text), "realm.toml:2: version is 2, expected 1");
        let text = dev().to_toml().unwrap().replace("version = 1", "");
        assert!(refused(&text).ends_with("missing field `version`"), "{}", refused(&text));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("realm.toml");
        dev().create(&path).unwrap();
        assert_eq!(RealmFile::load(&path).unwrap(), dev());
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o7777, 0o644);
        assert!(matches!(dev().create(&path), Err(ChainError::File { .. })), "an existing file stays");

        let nodes =
            vec![url("https://one.example"), url("https://two.example/v2/key"), url("http://three.example:8545")];
        let quorum = RealmFile::new(pin(1), ProfileName::Ethereum, HeaderTrust::Quorum(2), nodes).unwrap();
        let text = quorum.to_toml().unwrap();
        assert_eq!(RealmFile::parse(Path::new("realm.toml"), &text).unwrap(), quorum);
    }

    #[test]
    fn files_of_a_move_lie_beside_the_realm_file_unless_they_say_otherwise() {
        let text =
            dev().to_toml().unwrap() + "successor = \"next.toml\"\narchive = \"/var/lib/a\"\nstatement = \"s.toml\"\n";
        let file = RealmFile::parse(Path::new("/etc/countersign/realm.toml"), &text).unwrap();
        let path = |text: &str| Some(PathBuf::from(text));
        let expected = Links {
            successor: path("/etc/countersign/next.toml"),
            predecessor: None,
            archive: path("/var/lib/a"),
            statement: path("/etc/countersign/s.toml"),
        };
        assert_eq!(file.links, expected);
        assert_eq!(RealmFile::parse(Path::new("elsewhere"), &file.to_toml().unwrap()).unwrap(), file);
    }

    #[test]
    fn an_empty_name_of_a_file_and_a_statement_that_leads_nowhere_are_refused() {
        let text = dev().to_toml().unwrap();
        assert_eq!(
            refused(&format!("{text}predecessor = \"\"\n")),
            "realm.toml:15: predecessor: expected the name of a file"
        );
        let message = refused(&format!("{text}statement = \"s.toml\"\n"));
        assert!(message.starts_with("realm.toml:15: statement: goes with a successor only"), "{message}");
    }

    #[test]
    fn the_documented_example_is_a_realm_file() {
        let page = include_str!("../../docs/spec/realm-file.md");
        let example = page.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
        let file = RealmFile::parse(Path::new("example"), example).unwrap();
        assert_eq!(file.trust, HeaderTrust::Quorum(2));
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_name() {
        let text = dev().to_toml().unwrap().replace("threshold = 2", "threshold = 2\nthreshhold = 2");
        let message = refused(&text);
        assert!(
            message.starts_with("realm.toml:8: unknown field `threshhold`, expected one of `version`"),
            "{message}"
        );
    }

    #[test]
    fn every_key_but_quorum_is_needed() {
        let text = dev().to_toml().unwrap();
        for line in text.lines().filter(|line| line.contains(" = ") && !line.starts_with('#')) {
            let key = line.split(" = ").next().unwrap();
            let message = refused(&text.replace(&format!("{line}\n"), ""));
            assert!(message.contains(&format!("missing field `{key}`")), "{key}: {message}");
        }
    }

    #[test]
    fn a_pin_that_does_not_give_the_realm_id_is_refused() {
        let text = dev().to_toml().unwrap().replace(&"03".repeat(20), &"04".repeat(20));
        let message = refused(&text);
        assert!(message.starts_with("realm.toml:6: realm: realm 0x"), "{message}");
        assert!(message.contains("is not the id of these roots"), "{message}");
    }

    #[test]
    fn dev_headers_are_refused_on_a_chain_of_worth() {
        let nodes = vec![url("https://one.example")];
        let error = RealmFile::new(pin(1), ProfileName::Ethereum, HeaderTrust::Dev, nodes).unwrap_err();
        assert_eq!(error.to_string(), "header-source: dev is for chain ids [31337, 1337], got 1");
    }

    const PLAIN: &str =
        "endpoints: http://192.0.2.1:8545: expected https, or a quorum in which this is the only plain http endpoint";

    #[test]
    fn plain_http_to_other_machines_is_never_a_quorum_by_itself() {
        let far = vec![url("http://192.0.2.1:8545")];
        let error = RealmFile::new(pin(31337), ProfileName::Dev, HeaderTrust::Dev, far.clone()).unwrap_err();
        assert_eq!(error.to_string(), PLAIN);
        for near in ["http://127.0.0.2:1", "http://[::1]:1", "http://localhost:1", "http://dev.localhost:1"] {
            assert!(RealmFile::new(pin(31337), ProfileName::Dev, HeaderTrust::Dev, vec![url(near)]).is_ok(), "{near}");
        }
        for trick in ["http://127.0.0.1.example:1", "http://localhost.example:1", "http://[::2]:1"] {
            let nodes = vec![url(trick)];
            assert!(RealmFile::new(pin(31337), ProfileName::Dev, HeaderTrust::Dev, nodes).is_err(), "{trick}");
        }
        let both = vec![url("http://192.0.2.1:8545"), url("http://192.0.2.2:8545")];
        let quorum = |nodes| RealmFile::new(pin(1), ProfileName::Ethereum, HeaderTrust::Quorum(2), nodes);
        assert_eq!(quorum(both).unwrap_err().to_string(), PLAIN.replace("192.0.2.1", "192.0.2.2"));
        let one_of_three = ["http://192.0.2.1:8545", "https://two.example", "https://three.example"];
        assert!(quorum(one_of_three.map(url).to_vec()).is_ok());
        // Whoever sits on the line, and one liar more, would be three.
        let two_of_four =
            ["http://192.0.2.1:8545", "http://192.0.2.2:8545", "https://three.example", "https://four.example"];
        let of_three = HeaderTrust::Quorum(3);
        let nodes = two_of_four.map(url).to_vec();
        assert!(RealmFile::new(pin(1), ProfileName::Ethereum, of_three, nodes).is_err());
    }

    #[test]
    fn one_node_is_one_voice_however_it_is_spelled() {
        for (one, other) in [
            ("https://one.example", "https://one.example/"),
            ("https://one.example", "https://ONE.example:443/v2/key"),
            ("https://one.example", "https://one.example./"),
            ("https://one.example", "https://user:token@one.example:8443"),
            ("https://192.0.2.1", "https://[::ffff:192.0.2.1]"),
            ("https://192.0.2.1", "https://3221225985"),
            ("http://127.0.0.1:8545", "http://localhost:8545"),
            ("http://127.0.0.1:8545", "http://[::1]:8545/rpc"),
            ("http://127.0.0.1:8545", "http://0.0.0.0:8545"),
            ("http://127.0.0.1:8545", "http://[::]:8545"),
            ("http://127.0.0.1:8545", "http://node.localhost:8545"),
        ] {
            let nodes = vec![url(one), url("https://two.example"), url(other)];
            let error = RealmFile::new(pin(1), ProfileName::Ethereum, HeaderTrust::Quorum(2), nodes).unwrap_err();
            assert!(error.to_string().ends_with("is there twice: one node is one voice"), "{one} {other}: {error}");
        }
        let local = vec![url("http://127.0.0.1:1"), url("http://127.0.0.1:2")];
        assert!(RealmFile::new(pin(1), ProfileName::Ethereum, HeaderTrust::Quorum(2), local).is_ok());
    }

    #[test]
    fn a_quorum_needs_two_and_as_many_different_endpoints() {
        let one = || vec![url("https://one.example/key")];
        let quorum = |k, nodes| {
            RealmFile::new(pin(1), ProfileName::Ethereum, HeaderTrust::Quorum(k), nodes).unwrap_err().to_string()
        };
        assert_eq!(quorum(1, one()), "quorum: expected at least 2, got 1");
        assert_eq!(quorum(0, one()), "quorum: expected at least 2, got 0");
        assert_eq!(quorum(2, one()), "endpoints: expected at least 2, got 1");
        let twice = vec![url("https://one.example/key"), url("https://ONE.example:443/other-key")];
        assert_eq!(quorum(2, twice), "endpoints: https://one.example is there twice: one node is one voice");
    }

    #[test]
    fn quorum_and_header_source_go_together() {
        let text = dev().to_toml().unwrap();
        let message = refused(&text.replace("header-source = \"dev\"", "header-source = \"dev\"\nquorum = 2"));
        assert_eq!(message, "realm.toml:14: quorum goes with header-source = \"quorum\" only");
        let message = refused(&text.replace("header-source = \"dev\"", "header-source = \"quorum\""));
        assert_eq!(message, "realm.toml:13: expected quorum = how many endpoints must agree");
    }

    #[test]
    fn errors_never_show_what_follows_the_host() {
        let nodes = vec![url("http://user:secret@192.0.2.1/secret?secret")];
        let error = RealmFile::new(pin(31337), ProfileName::Dev, HeaderTrust::Dev, nodes).unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
