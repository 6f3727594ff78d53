//! `countersign explain`: replays a host's decision about a certificate (or plain key), offline, from the host's snapshot, and prints
//! the chain of facts that it rests on. The function is the host's own.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use clap::Args;
use countersign_snapshot::{Clock, Snapshot, Trust};
use countersign_sshd::{Mode, Query, Verdict, decide_observed};
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
}

/// One fact.
#[derive(Debug, Serialize)]
pub struct FactShown {
    /// Its stable name.
    pub step: &'static str,
    /// In words.
    pub text: String,
}

impl Show for Explained {
    fn text(&self) -> String {
        let mut text = String::new();
        for fact in &self.facts {
            text.push_str(&format!("yes  {}\n", escape(&fact.text)));
        }
        if self.verdict == "granted" {
            text.push_str(&format!("granted: {} may log in as of block {}\n", escape(&self.login), self.latest_block));
        } else {
            let detail = if self.detail.is_empty() { String::new() } else { format!(": {}", escape(&self.detail)) };
            text.push_str(&format!("no   {}{detail}\n", self.reason));
            text.push_str(&format!(
                "refused: {} (authority as of block {}, denials as of block {})\n",
                self.reason, self.final_block, self.latest_block
            ));
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
    let mut steps = Vec::new();
    let verdict = match Query::offline(&snapshot, Mode::Keys, &args.login, &blob) {
        Ok(query) => decide_observed(&snapshot, &query, &clock, &mut |step| {
            steps.push(FactShown { step: step.name(), text: step.to_string() });
        }),
        Err(refusal) => Verdict::refused(refusal),
    };
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
        facts: steps,
        realm: of_snapshot.realm.to_string(),
        host: of_snapshot.host.to_string(),
        final_block: of_snapshot.final_block.number,
        latest_block: of_snapshot.latest_block.number,
        user: facts.user.map(|id| id.to_string()),
        grant: facts.grant.map(|id| id.to_string()),
        batch: facts.batch.map(|id| id.to_string()),
        serial: facts.serial.map(|serial| serial.to_string()),
    };
    context.printer.result(&explained)
}
