//! `countersign inspect`: reads a certificate, a public key, a proposal, signed writes, a migration statement or a realm's archive, from a
//! file or stdin (an archive: from a file), and says what is in it.
//! It asks no node and decides nothing: a certificate that it can print may still be worth nothing.

use std::path::{Path, PathBuf};

use alloy_primitives::{Address, B256};
use clap::Args;
use countersign_certificate::{CertType, Certificate, Target};
use countersign_chain::archive::{self, Origin};
use countersign_chain::realm_file::RealmFile;
use countersign_registry::migration::Place;
use countersign_registry::migration::statement::{RootSignature, Statement, VERSION};
use countersign_registry::signature::verify;
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::files;
use crate::output::{Show, fields, time};
use crate::proposal::Proposal;
use crate::signed::SignedWrites;

/// What to read.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The file, or - for stdin
    file: PathBuf,
}

/// The certificate blob in a `-cert.pub` file's text.
///
/// # Errors
/// [`CliError::Content`].
pub fn certificate_in(path: &Path, text: &str) -> Result<Vec<u8>, CliError> {
    let content = |problem: String| CliError::Content { path: path.to_owned(), problem };
    let encoded =
        text.split_whitespace().nth(1).ok_or_else(|| content("expected an OpenSSH certificate".to_owned()))?;
    countersign_certificate::decode_base64(
        encoded.as_bytes(),
        countersign_certificate::MAX_CERTIFICATE_BYTES,
        "certificate",
    )
    .map_err(|error| content(error.to_string()))
}

/// A certificate as printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CertificateShown {
    /// Always `certificate`.
    pub what: &'static str,
    /// user or host.
    pub kind: &'static str,
    /// The certified key's type.
    pub key_type: &'static str,
    /// `SHA256:…` of the certified key.
    pub fingerprint: String,
    /// What the ledger calls that key by.
    pub ledger_fingerprint: String,
    /// `SHA256:…` of the CA's key.
    pub ca: String,
    /// Decimal; text, since it has 64 bits.
    pub serial: String,
    /// Free text.
    pub key_id: String,
    /// Logins.
    pub principals: Vec<String>,
    /// Unix seconds.
    pub valid_after: u64,
    /// Unix seconds, exclusive.
    pub valid_before: u64,
    /// `name` or `name=value`.
    pub critical_options: Vec<String>,
    /// `name` or `name=value`.
    pub extensions: Vec<String>,
    /// What it is good for.
    pub scope: Option<ScopeShown>,
    /// Where it is logged.
    pub log_proof: Option<LogProofShown>,
}

/// A scope as printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ScopeShown {
    /// Realm id.
    pub realm: String,
    /// User's record id.
    pub user: String,
    /// Grant's record id.
    pub grant: String,
    /// `host ID`, `label SHA-256` or `all hosts`.
    pub target: String,
    /// Request id.
    pub request: String,
}

/// A log proof as printed.
#[derive(Debug, Serialize)]
pub struct LogProofShown {
    /// Batch's record id.
    pub batch: String,
    /// From 0.
    pub index: u32,
    /// Leaves.
    pub size: u32,
    /// Path length.
    pub path: usize,
}

impl CertificateShown {
    /// From a parsed certificate.
    ///
    /// # Errors
    /// [`CliError::Content`] for a malformed scope or log proof.
    pub fn new(path: &Path, certificate: &Certificate<'_>) -> Result<Self, CliError> {
        let content = |error: countersign_certificate::CertificateError| CliError::Content {
            path: path.to_owned(),
            problem: error.to_string(),
        };
        let option = |option: &countersign_certificate::CertOption<'_>| match option.text() {
            Ok(text) => format!("{}={text}", option.name),
            Err(_) if option.data.is_empty() => option.name.to_owned(),
            Err(_) => format!("{}=0x{}", option.name, alloy_primitives::hex::encode(option.data)),
        };
        let scope = certificate.scope().map_err(content)?.map(|scope| ScopeShown {
            realm: scope.realm.to_string(),
            user: scope.user.to_string(),
            grant: scope.grant.to_string(),
            target: match scope.target {
                Target::Host(id) => format!("host {id}"),
                Target::Label(digest) => format!("label {}", alloy_primitives::hex::encode(digest)),
                Target::AllHosts => "all hosts".to_owned(),
            },
            request: scope.request.to_string(),
        });
        let log_proof = certificate.log_proof().map_err(content)?.map(|proof| LogProofShown {
            batch: proof.batch().to_string(),
            index: proof.index(),
            size: proof.size(),
            path: proof.path().len(),
        });
        Ok(Self {
            what: "certificate",
            kind: match certificate.cert_type {
                CertType::User => "user",
                CertType::Host => "host",
            },
            key_type: certificate.key_type.name(),
            fingerprint: files::sha256_fingerprint(&certificate.public_key),
            ledger_fingerprint: certificate.fingerprint().to_string(),
            ca: files::sha256_fingerprint(certificate.signature_key),
            serial: certificate.serial.to_string(),
            key_id: certificate.key_id.to_owned(),
            principals: certificate.principals.iter().map(|name| (*name).to_owned()).collect(),
            valid_after: certificate.valid_after,
            valid_before: certificate.valid_before,
            critical_options: certificate.critical_options.iter().map(option).collect(),
            extensions: certificate.extensions.iter().map(option).collect(),
            scope,
            log_proof,
        })
    }
}

impl Show for CertificateShown {
    fn text(&self) -> String {
        let mut pairs = vec![
            ("certificate", format!("{} certificate of a {} key", self.kind, self.key_type)),
            ("key", self.fingerprint.clone()),
            ("CA", self.ca.clone()),
            ("serial", self.serial.clone()),
            ("key id", self.key_id.clone()),
            ("principals", self.principals.join(" ")),
            ("valid", format!("{} to {}", time(self.valid_after), time(self.valid_before))),
        ];
        pairs.extend(self.critical_options.iter().map(|option| ("critical", option.clone())));
        pairs.extend(self.extensions.iter().map(|option| ("extension", option.clone())));
        if let Some(scope) = &self.scope {
            pairs.push(("realm", scope.realm.clone()));
            pairs.push(("user", scope.user.clone()));
            pairs.push(("grant", scope.grant.clone()));
            pairs.push(("good for", scope.target.clone()));
            pairs.push(("request", scope.request.clone()));
        }
        if let Some(proof) = &self.log_proof {
            pairs.push(("batch", format!("{}, leaf {} of {}", proof.batch, proof.index, proof.size)));
        }
        fields(&pairs)
    }
}

/// A public key as printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct KeyShown {
    /// Always `public-key`.
    pub what: &'static str,
    /// `ssh-ed25519` and so on.
    pub key_type: &'static str,
    /// `SHA256:…`.
    pub fingerprint: String,
    /// What the ledger calls it by.
    pub ledger_fingerprint: String,
}

impl Show for KeyShown {
    fn text(&self) -> String {
        fields(&[
            ("public key", self.key_type.to_owned()),
            ("fingerprint", self.fingerprint.clone()),
            ("on the ledger", self.ledger_fingerprint.clone()),
        ])
    }
}

/// A file of writes as printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct WritesShown {
    /// `proposal` or `signed-writes`.
    pub what: &'static str,
    /// What each write says, decoded from its bytes.
    pub writes: Vec<String>,
    /// Who has signed, each signature verified; without a wallet contract's, which only the contract can ask.
    pub signed: Vec<String>,
    /// How many must.
    pub threshold: u64,
}

impl Show for WritesShown {
    fn text(&self) -> String {
        let mut text: String = self.writes.iter().map(|write| format!("writes {write}\n")).collect();
        text.push_str(&format!("signatures: {} of {}: {}\n", self.signed.len(), self.threshold, self.signed.join(" ")));
        text
    }
}

/// A migration statement as printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct StatementInspected {
    /// Always `migration-statement`.
    pub what: &'static str,
    /// The realm that is left.
    pub realm: B256,
    /// Where it goes.
    pub target: Place,
    /// Up to which block of the left realm's chain its log counts.
    pub block: u64,
    /// By how many heads.
    pub heads: usize,
    /// The roots' nonce.
    pub nonce: u64,
    /// How many must sign.
    pub threshold: u64,
    /// The roots that it names. Whether they are in force, hosts know.
    pub roots: Vec<Address>,
    /// Which of them have signed, each signature verified.
    pub signed: Vec<Address>,
    /// Signatures that count for nothing here, and why.
    pub unverified: Vec<String>,
}

impl StatementInspected {
    /// From a statement; its signatures are checked with the realm file of the realm that is left, if that is the one at hand.
    fn new(statement: &Statement, realm: Option<&RealmFile>) -> Self {
        let pin = realm.map(|realm| &realm.pin).filter(|pin| pin.realm == statement.source);
        let (mut signed, mut unverified) = (Vec::new(), Vec::new());
        for RootSignature { root, signature } in &statement.signatures {
            let address = statement.roots.get(usize::from(*root)).copied();
            let problem = match (address, pin) {
                (None, _) => "there is no such root".to_owned(),
                (Some(_), None) => "not checked without the realm file of the realm that is left".to_owned(),
                (Some(address), Some(_)) if signed.contains(&address) => "has signed twice".to_owned(),
                (Some(address), Some(pin)) => {
                    match verify(address, &statement.digest(pin.chain_id, pin.contract), signature) {
                        Ok(()) => {
                            signed.push(address);
                            continue;
                        }
                        Err(error) => error.to_string(),
                    }
                }
            };
            unverified.push(format!("root {root}: {problem}"));
        }
        let Statement { source, nonce, threshold, roots, target, heads, .. } = statement.clone();
        let (what, block, heads) = ("migration-statement", heads.block, heads.slots.len());
        Self { what, realm: source, target, block, heads, nonce, threshold, roots, signed, unverified }
    }
}

impl Show for StatementInspected {
    fn text(&self) -> String {
        let Place { chain_id, contract, realm, .. } = &self.target;
        let mut pairs = vec![
            ("statement", "a realm leaves a chain on which nothing can be written any more".to_owned()),
            ("realm", self.realm.to_string()),
            ("goes to", format!("{realm} in contract {contract} on chain {chain_id}")),
            ("counts up to", format!("block {}, {} heads", self.block, self.heads)),
            ("root nonce", self.nonce.to_string()),
        ];
        pairs.extend(self.roots.iter().map(|root| ("root", root.to_string())));
        pairs.push(("signatures", format!("{} of {}", self.signed.len(), self.threshold)));
        pairs.extend(self.signed.iter().map(|root| ("signed by", root.to_string())));
        pairs.extend(self.unverified.iter().map(|problem| ("does not count", problem.clone())));
        fields(&pairs)
    }
}

/// An archive as printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ArchiveShown {
    /// Always `realm-archive`.
    pub what: &'static str,
    /// Whose log it says that it is.
    pub realm: B256,
    /// The registry.
    pub contract: Address,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Hash of the chain's block 0.
    pub genesis_hash: B256,
    /// The final block up to which it goes.
    pub block: u64,
    /// That block's time, Unix seconds.
    pub time: u64,
    /// How many shards it has.
    pub shards: usize,
    /// How many entries.
    pub entries: u64,
}

impl Show for ArchiveShown {
    fn text(&self) -> String {
        fields(&[
            (
                "archive",
                "a realm's log, whole; signed by nobody: heads from elsewhere tell whether it is the log".to_owned(),
            ),
            ("realm", format!("{} in contract {} on chain {}", self.realm, self.contract, self.chain_id)),
            ("up to", format!("block {}, {}", self.block, time(self.time))),
            ("holds", format!("{} entries of {} shards", self.entries, self.shards)),
        ])
    }
}

fn archive(context: &Context, path: &Path) -> Result<(), CliError> {
    let (origin, contents) = archive::examine(path)?;
    let Origin { chain_id, genesis_hash, contract, realm } = origin;
    let ((block, _, time), shards, entries) = (contents.block, contents.heads.len(), contents.entries());
    let what = "realm-archive";
    context.printer.result(&ArchiveShown {
        what,
        realm,
        contract,
        chain_id,
        genesis_hash,
        block,
        time,
        shards,
        entries,
    })
}

fn statement(context: &Context, path: &Path, text: &str) -> Result<(), CliError> {
    let content = |problem: String| CliError::Content { path: path.to_owned(), problem };
    let statement: Statement =
        serde_json::from_str(text).map_err(|error| content(format!("expected a migration statement: {error}")))?;
    if statement.migration_statement != VERSION {
        return Err(content(format!("migration-statement is {}, expected {VERSION}", statement.migration_statement)));
    }
    let realm = match context.realm() {
        Ok(realm) => Some(realm),
        Err(CliError::Missing { .. }) => None,
        Err(error) => return Err(error),
    };
    context.printer.result(&StatementInspected::new(&statement, realm.as_ref()))
}

/// Reads and prints.
///
/// # Errors
/// See [`CliError`].
pub fn run(context: &Context, args: &InspectArgs) -> Result<(), CliError> {
    let path = args.file.as_path();
    if path != Path::new("-")
        && archive::is_archive(path).map_err(|source| CliError::File { path: path.to_owned(), source })?
    {
        return archive(context, path);
    }
    let text = files::read_text(path)?;
    if text.trim_start().starts_with('{') {
        return statement(context, path, &text);
    }
    let content = |problem: String| CliError::Content { path: path.to_owned(), problem };
    let first = text.split_whitespace().next().unwrap_or_default();
    if first.ends_with("-cert-v01@openssh.com") {
        let blob = certificate_in(path, &text)?;
        let certificate = Certificate::parse(&blob).map_err(|error| content(error.to_string()))?;
        return context.printer.result(&CertificateShown::new(path, &certificate)?);
    }
    if text.lines().any(|line| line.trim() == "[[writes]]") {
        return writes(context, path, &text);
    }
    let key = ssh_key::PublicKey::from_openssh(text.trim()).and_then(|key| key.to_bytes()).map_err(|_| {
        content(
            "expected an OpenSSH certificate or public key, a proposal, signed writes, a statement or an archive"
                .to_owned(),
        )
    })?;
    let parsed = countersign_certificate::PublicKey::parse(&key).map_err(|error| content(error.to_string()))?;
    context.printer.result(&KeyShown {
        what: "public-key",
        key_type: parsed.algorithm().name(),
        fingerprint: files::sha256_fingerprint(&key),
        ledger_fingerprint: parsed.fingerprint().to_string(),
    })
}

fn writes(context: &Context, path: &Path, text: &str) -> Result<(), CliError> {
    let realm = context.realm()?;
    let name = path.display().to_string();
    // What does not read as TOML is told by either parser.
    if text.parse::<toml::Table>().is_ok_and(|table| table.contains_key("deadline")) {
        let signed = SignedWrites::parse(&name, text, &realm.pin, 0)?;
        return context.printer.result(&WritesShown {
            what: "signed-writes",
            writes: signed.writes.iter().map(|write| write.shown(&name)).collect::<Result<_, _>>()?,
            signed: (!signed.wallet).then(|| signed.actor.to_string()).into_iter().collect(),
            threshold: 1,
        });
    }
    let proposal = Proposal::parse(&name, text, &realm.pin)?;
    context.printer.result(&WritesShown {
        what: "proposal",
        writes: proposal.writes.iter().map(|write| write.shown(&name)).collect::<Result<_, _>>()?,
        signed: proposal
            .signatures
            .iter()
            .filter(|signed| !signed.wallet)
            .map(|signed| signed.root.to_string())
            .collect(),
        threshold: proposal.threshold,
    })
}
