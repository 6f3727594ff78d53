//! Writing to the ledger: as an actor at once, as an actor into a file for somebody else to send, or by the roots.
//!
//! Before anything is signed, the entries are replayed on top of the verified ledger: what every reader would ignore is refused
//! here, with replay's own reason.

use std::path::PathBuf;

use alloy_primitives::{Address, B128};
use clap::{Args, ValueEnum};
use countersign_chain::keys::ActorKey;
use countersign_chain::signing::SigningKey;
use countersign_registry::entries::Entry;
use countersign_registry::head::Meta;
use countersign_registry::sign::{self, Write};
use countersign_registry::{Id, LogEntry, shard};
use serde::Serialize;

use crate::context::{Context, View};
use crate::error::CliError;
use crate::files::Existing;
use crate::output::{Show, now};
use crate::proposal::{Proposal, WriteText};
use crate::send::{Receipt, Sender};
use crate::signed::SignedWrites;

/// How long signed writes in a file may be sent.
const SIGNED_FOR_SECS: u64 = 3_600;

/// Flags of all commands that write.
#[derive(Debug, Clone, Args)]
pub struct WriteArgs {
    /// Have the roots write it: put it into this proposal file and send nothing
    #[arg(long, value_name = "FILE", help_heading = "Writing")]
    pub propose: Option<PathBuf>,
    /// Add it to the proposal file, which nobody has signed yet
    #[arg(long, requires = "propose", help_heading = "Writing")]
    pub append: bool,
    /// Have the roots write it: sign with this root's keystore or P-256 key (PEM); once per root, as many as the threshold
    #[arg(long, value_name = "KEYFILE", conflicts_with = "propose", help_heading = "Writing")]
    pub root_key: Vec<PathBuf>,
    /// Sign it as the actor into this file and send nothing: for `countersign submit`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["propose", "root_key"], help_heading = "Writing")]
    pub sign_to: Option<PathBuf>,
    /// How long to wait
    #[arg(long, value_enum, default_value = "latest", help_heading = "Writing")]
    pub wait: Wait,
}

/// How long a command that writes waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Wait {
    /// Until it is in a block: enough for denials
    Latest,
    /// Until that block is final: then it grants
    Final,
}

/// Who may write what a command writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// An actor only.
    Actor,
    /// An actor with the role, or the roots.
    ActorOrRoots,
    /// The roots only.
    Roots,
}

#[derive(Debug)]
enum Author {
    Actor(ActorKey),
    ActorToFile(SigningKey, PathBuf),
    Proposal(PathBuf, bool),
    Roots(Vec<SigningKey>),
}

#[derive(Debug)]
struct Planned {
    about: String,
    id: Option<Id>,
    shard: u64,
    entry: Entry,
}

/// Entries that are about to be written.
#[derive(Debug)]
pub struct Draft {
    author: Author,
    wait: Wait,
    planned: Vec<Planned>,
}

/// What became of a draft.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Written {
    /// `logged`, `proposed` or `signed`.
    pub outcome: &'static str,
    /// One per entry.
    pub entries: Vec<WrittenEntry>,
    /// Where it was logged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Receipt>,
    /// Where it was put.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
}

/// One written entry.
#[derive(Debug, Serialize)]
pub struct WrittenEntry {
    /// The kind's name.
    pub kind: String,
    /// What it is about.
    pub about: String,
    /// The record's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Id>,
}

impl Show for Written {
    fn text(&self) -> String {
        let place = match (&self.receipt, &self.file) {
            (Some(receipt), _) => format!("in block {}, transaction {}", receipt.block, receipt.transaction),
            (None, Some(file)) => format!("in {}", file.display()),
            (None, None) => String::new(),
        };
        self.entries
            .iter()
            .map(|entry| {
                let id = entry.id.map(|id| format!(", id {id}")).unwrap_or_default();
                format!("{} {} {place}\n", self.outcome, crate::output::escape(&format!("{}{id}", entry.about)))
            })
            .collect()
    }
}

impl Draft {
    /// Begins a draft: settles who writes, and opens that key.
    ///
    /// # Errors
    /// [`CliError::Missing`] where the command needs the roots or an actor and the flags name none.
    pub fn begin(context: &Context, args: &WriteArgs, by: By) -> Result<Self, CliError> {
        let roots_asked = args.propose.is_some() || !args.root_key.is_empty();
        if by == By::Actor && roots_asked {
            let problem = "the roots cannot write this: expected an actor (--as-actor)".to_owned();
            return Err(CliError::Argument { argument: "--propose, --root-key", problem });
        }
        if by == By::Roots && !roots_asked {
            let flag = "--propose FILE, or --root-key KEYSTORE for each root";
            return Err(CliError::Missing { what: "a threshold of roots", flag });
        }
        let author = match (&args.propose, args.root_key.as_slice(), &args.sign_to) {
            (Some(path), ..) => Author::Proposal(path.clone(), args.append),
            (None, [], Some(path)) => Author::ActorToFile(context.actor_signing_key()?, path.clone()),
            (None, [], None) => Author::Actor(context.actor_key()?),
            (None, keys, _) => {
                Author::Roots(keys.iter().map(|path| context.signing_key(path)).collect::<Result<_, _>>()?)
            }
        };
        Ok(Self { author, wait: args.wait, planned: Vec::new() })
    }

    /// The actor in the entries: zero for the roots.
    pub fn actor(&self) -> Address {
        match &self.author {
            Author::Actor(key) => key.address(),
            Author::ActorToFile(key, _) => key.address(),
            Author::Proposal(..) | Author::Roots(_) => Address::ZERO,
        }
    }

    /// Adds an entry that makes a record, and gives the record's id.
    ///
    /// # Errors
    /// [`CliError::Refused`] when the system gives no random bytes.
    pub fn record(&mut self, about: &str, entry: impl FnOnce(B128) -> Entry) -> Result<Id, CliError> {
        let r = random16()?;
        let entry = entry(B128::from(r));
        let id = sign::record_id(entry.kind(), self.actor(), r);
        self.entry(about, Some(id), entry)?;
        Ok(id)
    }

    /// Adds an entry; `id` is the record it is about, if it is one.
    ///
    /// # Errors
    /// [`CliError::Refused`] for certificate revocations, whose shard depends on their expiry.
    pub fn entry(&mut self, about: &str, id: Option<Id>, entry: Entry) -> Result<(), CliError> {
        let kind = entry.kind();
        let shard = shard::write_shard(kind)
            .ok_or_else(|| CliError::Refused(format!("entries of kind {kind} need a shard of their own")))?;
        self.entry_in(shard, about, id, entry);
        Ok(())
    }

    /// Adds an entry to a shard.
    pub fn entry_in(&mut self, shard: u64, about: &str, id: Option<Id>, entry: Entry) {
        self.planned.push(Planned { about: about.to_owned(), id, shard, entry });
    }

    /// Signs and sends, or puts into a file, and prints what became of it.
    ///
    /// # Errors
    /// [`CliError::Refused`] with replay's reason for what would be ignored; [`CliError::Chain`] and [`CliError::Proposal`].
    pub async fn commit(self, context: &Context, view: &View) -> Result<(), CliError> {
        let written = self.write(context, view).await?;
        context.printer.result(&written)
    }

    /// As [`Draft::commit`], without printing.
    ///
    /// # Errors
    /// As [`Draft::commit`].
    pub async fn write(self, context: &Context, view: &View) -> Result<Written, CliError> {
        self.check(view)?;
        let actor = self.actor();
        let writes: Vec<Write> =
            self.planned.iter().map(|planned| sign::write(planned.shard, &planned.entry)).collect();
        let texts: Vec<WriteText> =
            self.planned.iter().zip(&writes).map(|(planned, write)| WriteText::new(write, &planned.about)).collect();
        let entries: Vec<WrittenEntry> = self
            .planned
            .iter()
            .map(|planned| WrittenEntry {
                kind: planned.entry.kind().to_string(),
                about: planned.about.clone(),
                id: planned.id,
            })
            .collect();
        let (outcome, receipt, file) = match self.author {
            Author::Actor(key) => {
                let sender = Sender::new(context, &view.realm)?;
                let receipt = sender.append(&key, writes).await?;
                sender.wait(receipt.block, self.wait).await?;
                ("logged", Some(receipt), None)
            }
            Author::ActorToFile(key, path) => {
                let nonce = Sender::new(context, &view.realm)?.nonce(actor).await?;
                let deadline = now().saturating_add(SIGNED_FOR_SECS);
                SignedWrites::sign(&view.realm.pin, &key, nonce, deadline, texts)?.save(&path)?;
                ("signed", None, Some(path))
            }
            Author::Proposal(path, append) => {
                let name = path.display().to_string();
                let state = Sender::new(context, &view.realm)?.root_state(view).await?;
                if append {
                    let mut proposal = Proposal::load(&path, &view.realm.pin)?;
                    proposal.fits(&name, &state)?;
                    proposal.add(&name, texts)?;
                    proposal.save(&path, Existing::Replace)?;
                } else {
                    Proposal::new(&view.realm.pin, &state, texts).save(&path, Existing::Keep)?;
                }
                ("proposed", None, Some(path))
            }
            Author::Roots(keys) => {
                let sender = Sender::new(context, &view.realm)?;
                let state = sender.root_state(view).await?;
                let mut proposal = Proposal::new(&view.realm.pin, &state, texts);
                for key in &keys {
                    proposal.sign("--root-key", key)?;
                }
                let payer = match context.actor_key_if_any()? {
                    Some(key) => key,
                    None => {
                        let account = keys.iter().find_map(SigningKey::account).cloned();
                        account.ok_or(CliError::Missing { what: "a payer", flag: "--as-actor" })?
                    }
                };
                let receipt = sender.append_by_roots(&payer, &proposal, "--root-key", &state).await?;
                sender.wait(receipt.block, self.wait).await?;
                ("logged", Some(receipt), None)
            }
        };
        Ok(Written { outcome, entries, receipt, file })
    }

    fn check(&self, view: &View) -> Result<(), CliError> {
        let latest = view.effective.latest_block.time.saturating_add(1);
        let next = self
            .planned
            .iter()
            .map(|planned| {
                let kind = planned.entry.kind();
                let meta = Meta { kind, prev_block: 0, time: latest };
                // The contract fills in the day; so must the rehearsal.
                let class = shard::class_of(planned.shard);
                let shard = if class > shard::CLASS_REVOCATIONS {
                    shard::shard(class, shard::day(latest))
                } else {
                    planned.shard
                };
                LogEntry { shard, actor: self.actor(), meta: meta.pack(), data: planned.entry.encode() }
            })
            .collect();
        let ignored = view.would_ignore(next)?;
        if ignored.is_empty() {
            return Ok(());
        }
        Err(CliError::Refused(format!("every reader would ignore this: {}", ignored.join("; "))))
    }
}

/// An id as the ABI has it.
pub fn bytes16(id: Id) -> B128 {
    B128::from(id.0)
}

/// Sixteen random bytes.
///
/// # Errors
/// [`CliError::Refused`] when the system gives none.
pub fn random16() -> Result<[u8; 16], CliError> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| CliError::Refused(format!("no random bytes: {error}")))?;
    Ok(bytes)
}
