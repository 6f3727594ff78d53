//! `countersign explain`: replays a host's decision about a certificate (or plain key), offline, from the host's snapshot, and prints
//! the chain of facts that it rests on. The function is the host's own.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use clap::Args;
use countersign_certificate::{Certificate, Fingerprint20, Id};
use countersign_snapshot::{
    Clock, Origin, OriginOf, Snapshot, Subject, Trust, Verdict as ApproverVerdict, read_origins,
};
use countersign_sshd::{CaName, Mode, Query, Reason, Step, Verdict, VerdictFacts, decide_observed};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::files;
use crate::inspect::certificate_in;
use crate::output::{Show, escape};

/// What to explain.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The certificate or public key, or - for stdin
    file: PathBuf,
    /// The login that was asked for
    #[arg(long, value_name = "LOGIN")]
    login: String,
    /// The host's snapshot directory
    #[arg(long, value_name = "DIR", default_value = "/var/lib/countersign/snapshot")]
    snapshot: PathBuf,
    /// The moment to decide at: `now`, `published` (when the snapshot was published, for one that was copied from elsewhere), or a time
    /// such as 2027-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN", default_value = "now")]
    at: String,
}

/// The decision as printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Explained {
    /// `granted` or `refused`.
    pub verdict: &'static str,
    /// The reason code, as in the host's log.
    pub reason: String,
    /// More about it, or empty.
    pub detail: String,
    /// The login.
    pub login: String,
    /// What sshd would be told.
    pub line: Option<String>,
    /// What the decision rests on, in order, up to the refusal.
    pub facts: Vec<FactShown>,
    /// Realm id.
    pub realm: String,
    /// The host's record id.
    pub host: String,
    /// Up to where authority counts.
    pub final_block: u64,
    /// Up to where denials count.
    pub latest_block: u64,
    /// The user's record id, once it is known.
    pub user: Option<String>,
    /// The grant's record id.
    pub grant: Option<String>,
    /// The batch's record id.
    pub batch: Option<String>,
    /// The certificate's serial, decimal.
    pub serial: Option<String>,
    /// The entries of the ledger behind a refusal, as far as the reason has any.
    pub because: Vec<SourceShown>,
    /// Why no entry can be named: there is no file of origins beside the snapshot, or it is not to be believed.
    pub origins_problem: Option<String>,
}

/// One fact.
#[derive(Debug, Serialize)]
pub struct FactShown {
    /// Its stable name.
    pub step: &'static str,
    /// In words.
    pub text: String,
    /// The entries of the ledger that it comes from.
    pub entries: Vec<SourceShown>,
}

/// An entry of the ledger; where it is not known, all but what it did is `null`.
#[derive(Debug, Serialize)]
pub struct SourceShown {
    /// What the entry did, such as `grant` or `key-lock`.
    pub record: &'static str,
    /// The record's id, or the key's fingerprint, hexadecimal; a certificate's serial, decimal.
    pub id: String,
    /// Its block.
    pub block: Option<u64>,
    /// Its shard.
    pub shard: Option<u64>,
    /// How many entries of the shard come before it.
    pub index: Option<u64>,
    /// Unix time of its block.
    pub time: Option<u64>,
}

impl SourceShown {
    fn new(what: &OriginOf, origin: Option<&Origin>) -> Self {
        Self {
            record: what.name(),
            id: key_of(what),
            block: origin.map(|origin| origin.block),
            shard: origin.map(|origin| origin.shard),
            index: origin.map(|origin| origin.index),
            time: origin.map(|origin| origin.time_secs),
        }
    }

    fn text(&self) -> String {
        let or_unknown = |number: Option<u64>| number.map_or_else(|| "unknown".to_owned(), |number| number.to_string());
        let entry = match (self.shard, self.index) {
            (Some(shard), Some(index)) => format!("{shard}/{index}"),
            _ => "unknown".to_owned(),
        };
        format!("     {} {}: block {}, entry {entry}\n", self.record, self.id, or_unknown(self.block))
    }
}

fn key_of(what: &OriginOf) -> String {
    match what {
        OriginOf::User(id)
        | OriginOf::Grant(id)
        | OriginOf::Membership(id, _)
        | OriginOf::Ca(id)
        | OriginOf::Batch(id)
        | OriginOf::Request(id)
        | OriginOf::Answer(id, ..)
        | OriginOf::Locked(id)
        | OriginOf::Revoked(id)
        | OriginOf::Removed(id)
        | OriginOf::Retired(id)
        | OriginOf::Issuer(id) => id.to_string(),
        OriginOf::Serial(_, serial) => serial.to_string(),
        OriginOf::Key(key) | OriginOf::LockedKey(key) | OriginOf::RevokedKey(key) => key.to_string(),
    }
}

impl Show for Explained {
    fn text(&self) -> String {
        let mut text = String::new();
        for fact in &self.facts {
            text.push_str(&format!("yes  {}\n", escape(&fact.text)));
            text.extend(fact.entries.iter().map(SourceShown::text));
        }
        if self.verdict == "granted" {
            text.push_str(&format!("granted: {} may log in as of block {}\n", escape(&self.login), self.latest_block));
        } else {
            let detail = if self.detail.is_empty() { String::new() } else { format!(": {}", escape(&self.detail)) };
            text.push_str(&format!("no   {}{detail}\n", self.reason));
            text.extend(self.because.iter().map(SourceShown::text));
            text.push_str(&format!(
                "refused: {} (authority as of block {}, denials as of block {})\n",
                self.reason, self.final_block, self.latest_block
            ));
        }
        if let Some(problem) = &self.origins_problem {
            text.push_str(&format!("blocks and entries are not known: {}\n", escape(problem)));
        }
        text
    }
}

fn blob(path: &std::path::Path) -> Result<Vec<u8>, CliError> {
    let text = files::read_text(path)?;
    if text.split_whitespace().next().is_some_and(|first| first.ends_with("-cert-v01@openssh.com")) {
        return certificate_in(path, &text);
    }
    let content = |problem: String| CliError::Content { path: path.to_owned(), problem };
    ssh_key::PublicKey::from_openssh(text.trim())
        .and_then(|key| key.to_bytes())
        .map_err(|error| content(format!("expected an OpenSSH certificate or public key: {error}")))
}

fn clock(at: &str, snapshot: &Snapshot) -> Result<Clock, CliError> {
    let freshness = &snapshot.manifest().freshness;
    let published = freshness.highest_wall_secs;
    let unix_secs = match at {
        "now" => return Clock::now().map_err(|source| CliError::File { path: PathBuf::from("/proc"), source }),
        "published" => published,
        text => crate::values::end("--at", Some(text))?,
    };
    // The boot clock runs along with the wall clock from the moment of publishing.
    let boottime_secs = freshness.boottime_secs.saturating_add(unix_secs.saturating_sub(published));
    Ok(Clock { unix_secs, boot_id: freshness.boot_id, boottime_secs })
}

/// The entries that a fact comes from.
fn sources(step: &Step<'_>) -> Vec<OriginOf> {
    match step {
        Step::LedgerLogin(login) => vec![OriginOf::User(login.user)],
        Step::Key(key, _) => vec![OriginOf::Key(*key)],
        Step::Ca(ca) => vec![OriginOf::Ca(ca.id)],
        Step::User(id, _) => vec![OriginOf::User(*id)],
        Step::Grant(id, grant) => match grant.subject {
            Subject::User(_) => vec![OriginOf::Grant(*id)],
            Subject::Group(group) => vec![OriginOf::Grant(*id), OriginOf::Membership(group, Id::default())],
        },
        Step::Batch(proof, _) => vec![OriginOf::Batch(proof.batch())],
        Step::Request(id, _) => vec![OriginOf::Request(*id)],
        Step::Approval(request, ordinal, answer) => vec![OriginOf::Answer(*request, *ordinal, answer.time_secs)],
        _ => Vec::new(),
    }
}

/// The entries that a refusal may come from, the likeliest first.
fn because(snapshot: &Snapshot, reason: Reason, facts: &VerdictFacts, login: &str, blob: &[u8]) -> Vec<OriginOf> {
    let certificate = Certificate::parse(blob).ok();
    let key = Fingerprint20::of_blob(certificate.as_ref().map_or(blob, |certificate| &certificate.public_key));
    let ca_key = certificate.as_ref().map(|certificate| Fingerprint20::of_blob(certificate.signature_key));
    let owner = snapshot.login(login.as_bytes()).ok().flatten().map(|login| login.user);
    let ca = if let Some(CaName::Id(id)) = facts.ca { Some(id) } else { None };
    let host = snapshot.facts().host;
    let denied = |id: Id| [OriginOf::Locked(id), OriginOf::Revoked(id), OriginOf::Removed(id)];
    let first_denial = || {
        let request = facts.request?;
        let denial = |ordinal: u8| {
            let answer = snapshot.approval(request, ordinal).ok().flatten()?;
            let denies = answer.verdict == ApproverVerdict::Deny;
            denies.then_some(OriginOf::Answer(request, ordinal, answer.time_secs))
        };
        (0..=u8::MAX).find_map(denial)
    };
    match reason {
        Reason::HostLocked | Reason::HostUnknown => denied(host).to_vec(),
        Reason::UserLocked | Reason::UserUnknown => facts.user.into_iter().chain(owner).flat_map(denied).collect(),
        Reason::UidMismatch => owner.map(OriginOf::User).into_iter().collect(),
        Reason::KeyLocked => vec![OriginOf::LockedKey(key)],
        Reason::KeyRevoked => vec![OriginOf::RevokedKey(key)],
        Reason::KeyPurpose | Reason::KeyExpired => vec![OriginOf::Key(key)],
        Reason::CaLocked => ca.map(OriginOf::Locked).into_iter().chain(ca_key.map(OriginOf::LockedKey)).collect(),
        Reason::CaRevoked => ca.map(OriginOf::Revoked).into_iter().chain(ca_key.map(OriginOf::RevokedKey)).collect(),
        Reason::CaRetired => ca.map(OriginOf::Retired).into_iter().collect(),
        Reason::CertificateRevoked => {
            ca.zip(facts.serial).map(|(ca, serial)| OriginOf::Serial(ca, serial)).into_iter().collect()
        }
        Reason::CaLogin => ca.map(OriginOf::Ca).into_iter().collect(),
        Reason::GrantUnknown => facts.grant.map(OriginOf::Removed).into_iter().collect(),
        Reason::HostNotCovered
        | Reason::LoginNotGranted
        | Reason::GrantExpired
        | Reason::GrantHours
        | Reason::GrantNotViaKey
        | Reason::GrantNotViaCert
        | Reason::ForceCommand
        | Reason::ApprovalsMissing => facts.grant.map(OriginOf::Grant).into_iter().collect(),
        Reason::BatchLocked => facts.batch.map(OriginOf::Locked).into_iter().collect(),
        Reason::BatchIssuer => {
            facts.batch.into_iter().flat_map(|batch| [OriginOf::Issuer(batch), OriginOf::Batch(batch)]).collect()
        }
        Reason::BatchWaiting | Reason::BatchTime | Reason::LogProofMismatch => {
            facts.batch.map(OriginOf::Batch).into_iter().collect()
        }
        Reason::ScopeUser | Reason::RequestMismatch | Reason::PickupLate => {
            facts.request.map(OriginOf::Request).into_iter().collect()
        }
        Reason::ApprovalDenied => first_denial().into_iter().collect(),
        _ => Vec::new(),
    }
}

/// Explains.
///
/// # Errors
/// [`CliError`] where there is nothing to decide from; a refusal is a result, not an error.
pub fn run(context: &Context, args: &ExplainArgs) -> Result<(), CliError> {
    let blob = blob(&args.file)?;
    // Whose snapshot it is decides a login, not an explanation: a copy belongs to whoever made it.
    let owner = std::fs::metadata(&args.snapshot)
        .map_err(|source| CliError::File { path: args.snapshot.clone(), source })?
        .uid();
    let snapshot = Snapshot::open(&args.snapshot, Trust::owner(owner))
        .map_err(|error| CliError::Content { path: args.snapshot.clone(), problem: error.to_string() })?;
    let clock = clock(&args.at, &snapshot)?;
    let mut steps: Vec<(&'static str, String, Vec<OriginOf>)> = Vec::new();
    let verdict = match Query::offline(&snapshot, Mode::Keys, &args.login, &blob) {
        Ok(query) => decide_observed(&snapshot, &query, &clock, &mut |step| {
            steps.push((step.name(), step.to_string(), sources(&step)));
        }),
        Err(refusal) => Verdict::refused(refusal),
    };
    let causes = match &verdict {
        Verdict::Refuse { reason, facts, .. } => because(&snapshot, *reason, facts, &args.login, &blob),
        Verdict::Accept { .. } => Vec::new(),
    };
    // A group's grant is this user's by a membership, and the scope has said whose the certificate is.
    let user = verdict.facts().user;
    for (_, _, wanted) in &mut steps {
        for what in wanted.iter_mut() {
            if let OriginOf::Membership(group, _) = *what {
                *what = OriginOf::Membership(group, user.unwrap_or_default());
            }
        }
    }
    let wanted: Vec<OriginOf> = steps.iter().flat_map(|(_, _, wanted)| wanted).chain(&causes).copied().collect();
    let (realm, host) = (snapshot.facts().realm, snapshot.facts().host);
    let (known, origins_problem) = match read_origins(&args.snapshot, Trust::owner(owner), &realm, host, &wanted) {
        Ok(known) => (known, None),
        Err(error) => (vec![None; wanted.len()], Some(error.to_string())),
    };
    let mut shown = wanted.iter().zip(&known).map(|(what, origin)| SourceShown::new(what, origin.as_ref()));
    let facts_shown = steps
        .into_iter()
        .map(|(step, text, wanted)| FactShown { step, text, entries: shown.by_ref().take(wanted.len()).collect() })
        .collect();
    // Of a refusal's possible causes, those that are on the ledger; where none is known, the first, as unknown.
    let mut because: Vec<SourceShown> = shown.collect();
    if because.iter().any(|source| source.block.is_some()) {
        because.retain(|source| source.block.is_some());
    } else {
        because.truncate(1);
    }
    let facts = verdict.facts();
    let of_snapshot = snapshot.facts();
    let explained = Explained {
        verdict: if matches!(verdict, Verdict::Accept { .. }) { "granted" } else { "refused" },
        reason: verdict.reason().to_string(),
        detail: match &verdict {
            Verdict::Refuse { detail, .. } => detail.clone(),
            Verdict::Accept { .. } => String::new(),
        },
        login: args.login.clone(),
        line: match &verdict {
            Verdict::Accept { line, .. } => Some(line.clone()),
            Verdict::Refuse { .. } => None,
        },
        facts: facts_shown,
        realm: of_snapshot.realm.to_string(),
        host: of_snapshot.host.to_string(),
        final_block: of_snapshot.final_block.number,
        latest_block: of_snapshot.latest_block.number,
        user: facts.user.map(|id| id.to_string()),
        grant: facts.grant.map(|id| id.to_string()),
        batch: facts.batch.map(|id| id.to_string()),
        serial: facts.serial.map(|serial| serial.to_string()),
        because,
        origins_problem,
    };
    context.printer.result(&explained)
}
