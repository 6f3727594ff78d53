//! `countersign realm migrate` and `realm archive`: what a realm's roots sign to go on in another contract or on another chain, and the
//! realm's log in a file for the day on which its chain is gone.
//!
//! Nothing is sent: the result is proposals for `realm sign` and `realm submit`, the target's first, or a statement where the source's
//! chain is dead. A target that has entries already is refused, since MIGRATED must be its first; so is one that the realm was in before.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use alloy_primitives::{Address, B128, B256, Bytes, U256};
use clap::Args;
use countersign_chain::archive;
use countersign_chain::endpoints::Limits;
use countersign_chain::history::{self, Arrival};
use countersign_chain::proofs;
use countersign_chain::realm_file::RealmFile;
use countersign_chain::spool::Spill;
use countersign_chain::sync::{Cursor, Ledger};
use countersign_registry::entries::{Entry, Roles, payload};
use countersign_registry::migration::statement::{RootSignature, Statement};
use countersign_registry::migration::{self, Heads, MAX_HEADS, MAX_LEGS, Place};
use countersign_registry::signature::verify;
use countersign_registry::{BlockRef, Effective, PlacedEntry, Replay, shard, sign};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::files::{self, Existing};
use crate::output::{self, Show, fields, time};
use crate::proposal::{MAX_WRITES, Proposal, WriteText};
use crate::roots::RootState;
use crate::send::Sender;
use crate::values;

/// Where to go.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// The realm file of the realm to go to, as `realm create` wrote it
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Say what would be written; write no file
    #[arg(long, conflicts_with = "out", required_unless_present = "out")]
    plan: bool,
    /// Write NAME-target-1.toml (and -2 …), then NAME-source.toml or NAME-statement.json
    #[arg(long, value_name = "NAME")]
    out: Option<PathBuf>,
    /// The realm's chain is dead: read its archive, and prepare a statement instead of an entry
    #[arg(long)]
    statement: bool,
}

/// The realm's log as a file.
#[derive(Debug, Args)]
pub struct ArchiveArgs {
    /// The file
    file: PathBuf,
    /// Read the file instead: whether it is whole, and up to which block
    #[arg(long)]
    check: bool,
    /// How many days of batches, requests and deliveries, if more than certificates live
    #[arg(long, value_name = "DAYS", default_value_t = 1)]
    days: u64,
}

/// A move as planned.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Planned {
    /// `planned` or `proposed`.
    pub outcome: &'static str,
    /// The realm that is left.
    pub source: Place,
    /// Where it goes.
    pub target: Place,
    /// Up to which block of the source's chain its log counts.
    pub block: u64,
    /// By how many heads.
    pub heads: usize,
    /// Days of batches, requests and deliveries that did not fit: certificates logged there end with the move.
    pub left_out: usize,
    /// Actors whose roles are written anew, with their roles.
    pub roles: BTreeMap<Address, Vec<String>>,
    /// Ledger keys that are bound anew.
    pub members: usize,
    /// Locked ledger keys, which get nothing.
    pub locked: Vec<Address>,
    /// The files to sign and submit, in this order.
    pub files: Vec<PathBuf>,
}

impl Show for Planned {
    fn text(&self) -> String {
        let place =
            |place: &Place| format!("{} in contract {} on chain {}", place.realm, place.contract, place.chain_id);
        let mut pairs = vec![
            ("from", place(&self.source)),
            ("to", place(&self.target)),
            ("counts up to", format!("block {}, {} heads", self.block, self.heads)),
        ];
        if self.left_out > 0 {
            pairs.push(("left out", format!("{} days of batches, requests and deliveries", self.left_out)));
        }
        pairs.extend(self.roles.iter().map(|(actor, roles)| ("role", format!("{actor} {}", roles.join(",")))));
        pairs.push(("members", self.members.to_string()));
        pairs.extend(self.locked.iter().map(|actor| ("locked", format!("{actor} gets no role"))));
        pairs.extend(self.files.iter().map(|file| ("file", file.display().to_string())));
        fields(&pairs)
    }
}

/// A statement, signed once more.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct StatementShown {
    /// Always `signed`.
    pub outcome: &'static str,
    /// The file.
    pub file: PathBuf,
    /// What it says, field by field.
    pub writes: Vec<String>,
    /// The roots' nonce for which it is signed.
    pub nonce: u64,
    /// The roots that it says are in force.
    pub roots: Vec<Address>,
    /// What nonce, threshold and roots were compared with: `ledger`, `archive` (which nobody has signed) or `nothing`.
    pub compared_with: &'static str,
    /// Who has signed.
    pub signed: Vec<Address>,
    /// How many must.
    pub threshold: u64,
}

impl Show for StatementShown {
    fn text(&self) -> String {
        let mut text: String = self.writes.iter().map(|write| format!("{} {write}\n", self.outcome)).collect();
        text.push_str(&format!("root nonce: {}, compared with: {}\n", self.nonce, self.compared_with));
        text.push_str(&format!("signatures: {} of {}\n", self.signed.len(), self.threshold));
        text
    }
}

/// An archive as written, or as read.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Archived {
    /// `archived` or `checked`.
    pub outcome: &'static str,
    /// The file.
    pub file: PathBuf,
    /// The final block up to which it goes.
    pub block: u64,
    /// That block's time, Unix seconds.
    pub time: u64,
    /// How many shards it has.
    pub shards: usize,
    /// How many entries.
    pub entries: u64,
}

impl Archived {
    fn new(outcome: &'static str, file: PathBuf, contents: &archive::Contents) -> Self {
        let (block, _, time) = contents.block;
        Self { outcome, file, block, time, shards: contents.heads.len(), entries: contents.entries() }
    }
}

impl Show for Archived {
    fn text(&self) -> String {
        let Self { outcome, entries, shards, block, .. } = self;
        let file = self.file.display();
        format!("{outcome} {file}: {entries} entries of {shards} shards, up to block {block}, {}\n", time(self.time))
    }
}

/// The source, read up to a final block, or as far as its archive goes.
struct Source {
    realm: RealmFile,
    effective: Effective,
    heads: Heads,
    left_out: usize,
    roots: RootState,
}

/// Plans the move, and writes what the roots sign.
///
/// # Errors
/// See [`CliError`].
pub async fn run(context: &Context, args: MigrateArgs) -> Result<(), CliError> {
    let target = RealmFile::load(&args.to)?;
    let source = if args.statement { from_archive(context).await? } else { from_chain(context).await? };
    check_target(&source, &target).await?;
    let (from, to) = (Place::from(&source.realm.pin), Place::from(&target.pin));
    let (authority, mut planned) = authority(&source);
    let mut texts =
        vec![text(&Entry::Migrated(payload::Migrated::new(&from, &source.heads)), "the realm comes from here")?];
    for (entry, about) in &authority {
        texts.push(text(entry, about)?);
    }
    planned.target = to;
    if let Some(name) = &args.out {
        planned.outcome = "proposed";
        let pin = &target.pin;
        for (number, writes) in (0_u64..).zip(texts.chunks(MAX_WRITES)) {
            let state = RootState { nonce: number, threshold: pin.threshold, roots: pin.roots.clone(), salt: pin.salt };
            let file = named(name, &format!("-target-{}.toml", number.saturating_add(1)));
            Proposal::new(pin, &state, writes.to_vec()).save(&file, Existing::Keep)?;
            planned.files.push(file);
        }
        let last = if args.statement {
            let RootState { nonce, threshold, roots, .. } = source.roots;
            output::message(&from_an_archive(nonce));
            let statement = Statement::new(source.realm.pin.realm, nonce, threshold, roots, to, source.heads);
            let file = named(name, "-statement.json");
            save_statement(&statement, &file, Existing::Keep)?;
            file
        } else {
            let entry = Entry::Migrate(payload::Migrate::new(&to, &source.heads));
            let file = named(name, "-source.toml");
            let writes = vec![text(&entry, "the realm goes on there")?];
            Proposal::new(&source.realm.pin, &source.roots, writes).save(&file, Existing::Keep)?;
            file
        };
        planned.files.push(last);
    }
    context.printer.result(&planned)
}

fn named(name: &Path, suffix: &str) -> PathBuf {
    let mut text = name.as_os_str().to_owned();
    text.push(suffix);
    text.into()
}

fn text(entry: &Entry, about: &str) -> Result<WriteText, CliError> {
    let shard = shard::write_shard(entry.kind())
        .ok_or_else(|| CliError::Refused(format!("{}: expected a kind with one shard", entry.kind())))?;
    Ok(WriteText::new(&sign::write(shard, entry), about))
}

/// The shards whose heads a move names, what matters most first.
fn shards(now_secs: u64, back_secs: u64) -> Vec<u64> {
    let mut shards = vec![shard::GOVERNANCE, shard::DIRECTORY, shard::DENIALS];
    let period = shard::period(now_secs);
    let ahead = u32::try_from(shard::PERIODS_AHEAD).unwrap_or(u32::MAX);
    let periods = period.saturating_sub(1)..=period.saturating_add(ahead);
    shards.extend(periods.map(|epoch| shard::shard(shard::CLASS_REVOCATIONS, epoch)));
    for day in shard::days_back(now_secs, back_secs).rev() {
        let classes = [shard::CLASS_BATCHES, shard::CLASS_MEMBERS, shard::CLASS_DELIVERIES];
        shards.extend(classes.map(|class| shard::shard(class, day)));
    }
    shards
}

fn heads_of(block: u64, shards: &[u64], slot: impl Fn(u64) -> Option<U256>) -> (Heads, usize) {
    let named: Vec<(u64, U256)> =
        shards.iter().filter_map(|shard| Some((*shard, slot(*shard).filter(|slot| !slot.is_zero())?))).collect();
    let left_out = named.len().saturating_sub(MAX_HEADS);
    (Heads { block, slots: named.into_iter().take(MAX_HEADS).collect() }, left_out)
}

async fn from_chain(context: &Context) -> Result<Source, CliError> {
    let view = context.view().await?;
    if let Some(target) = &view.migrated {
        return Err(CliError::Refused(format!("the realm has moved already, to realm {}", target.realm)));
    }
    let roots = Sender::new(context, &view.realm)?.root_state(&view).await?;
    let _progress = context.printer.progress("reading and proving the heads");
    let mut ledger = Ledger::new(&view.realm, Limits::default())?;
    let heads = ledger.heads().await?;
    let back = view.effective.settings.max_ttl.saturating_add(shard::DAY_SECS);
    let shards = shards(heads.latest.time, back);
    let reading = ledger.read(&Cursor::default(), &heads, &shards).await?;
    let tip = |shard: u64| reading.cursor.shards.get(&shard).map(|known| known.tip.slot);
    let (heads, left_out) = heads_of(reading.final_header.number, &shards, tip);
    Ok(Source { realm: view.realm, effective: view.effective, heads, left_out, roots })
}

async fn from_archive(context: &Context) -> Result<Source, CliError> {
    let realm = context.realm()?;
    let file = realm.links.archive.clone().ok_or(CliError::Missing {
        what: "an archive of the realm whose chain is dead",
        flag: "archive = \"FILE\" in the realm file",
    })?;
    let contents = archive::check(&file, &realm.pin)?;
    let (block, _, time) = contents.block;
    let slots = contents.heads.iter().map(|(shard, (slot, _))| (*shard, *slot)).collect();
    let mut entries = archive::read(&file, &realm.pin, &slots, block, &Spill::default())?;
    let said = entries.first_of(shard::GOVERNANCE)?.and_then(|placed| history::migrated(&placed.entry));
    let mut replay = match said {
        Some(said) => {
            let before = history::before(&realm, &said, Limits::default(), &Spill::default(), |_| ()).await;
            before.map_err(|error| CliError::View(error.into()))?.replay
        }
        None => Replay::new(realm.pin.realm),
    };
    let mut by_roots = Vec::new();
    let note = |placed: &PlacedEntry| by_roots.extend(placed.entry.actor.is_zero().then(|| placed.clone()));
    let header = BlockRef { number: block, time };
    history::advance(&mut replay, header, entries, note).map_err(|error| CliError::View(history_error(error)))?;
    let latest = replay.block(header);
    let effective = replay.effective(latest, &[]).map_err(|error| CliError::View(error.into()))?;
    let back = effective.settings.max_ttl.saturating_add(shard::DAY_SECS);
    let shards = shards(time, back);
    let (heads, left_out) = heads_of(block, &shards, |shard| contents.heads.get(&shard).map(|(slot, _)| *slot));
    let roots = RootState::find(&realm.pin, &by_roots, contents.root_set).ok_or_else(|| {
        let problem = format!("its root set {} does not follow from its entries", contents.root_set);
        CliError::Content { path: file, problem }
    })?;
    Ok(Source { realm, effective, heads, left_out, roots })
}

fn history_error(error: history::AdvanceError) -> countersign_issuer::view::ViewError {
    history::HistoryError::from(error).into()
}

/// Refuses a target that readers would refuse.
async fn check_target(source: &Source, target: &RealmFile) -> Result<(), CliError> {
    let legs = &source.effective.legs;
    if legs.iter().any(|leg| leg.realm == target.pin.realm) {
        return Err(CliError::Refused(format!("realm {} was left before: a realm does not return", target.pin.realm)));
    }
    if legs.len() >= MAX_LEGS {
        return Err(CliError::Refused(format!(
            "the realm has moved too often: readers follow {MAX_LEGS} realms in a row"
        )));
    }
    source.heads.check().map_err(|error| CliError::View(history::HistoryError::from(error).into()))?;
    let mut ledger = Ledger::new(target, Limits::default())?;
    let heads = ledger.heads().await?;
    if history::arrival(&mut ledger, &heads).await? == Arrival::Empty {
        return Ok(());
    }
    let text = "has entries by its roots already; expected a new realm, whose first entry the move writes";
    Err(CliError::Refused(format!("realm {} {text}", target.pin.realm)))
}

/// What the target's contract has to be told: who may write what.
fn authority(source: &Source) -> (Vec<(Entry, String)>, Planned) {
    let (mut roles, mut members, mut entries, mut locked) = (BTreeMap::new(), Vec::new(), Vec::new(), Vec::new());
    for (address, actor) in &source.effective.actors {
        if actor.locked {
            locked.push(*address);
            continue;
        }
        let x25519 = actor.x25519.unwrap_or(B256::ZERO);
        if actor.roles & !Roles::MEMBER != 0 {
            let names = values::role_names(actor.roles);
            let about = format!("{address} goes on as {}", names.join(", "));
            entries.push((Entry::RoleSet(payload::RoleSet { actor: *address, roles: actor.roles, x25519 }), about));
            roles.insert(*address, names);
        }
        if let Some(subject) = actor.subject {
            let subject = B128::from(subject.0);
            let set = payload::MemberSet { actor: *address, member: true, subject, x25519 };
            members.push((Entry::MemberSet(set), format!("{address} goes on as a member")));
        }
    }
    let count = members.len();
    entries.extend(members);
    let from = Place::from(&source.realm.pin);
    let planned = Planned {
        outcome: "planned",
        source: from,
        target: from,
        block: source.heads.block,
        heads: source.heads.slots.len(),
        left_out: source.left_out,
        roles,
        members: count,
        locked,
        files: Vec::new(),
    };
    (entries, planned)
}

/// Whether a file that roots sign is a statement, and not a proposal.
pub fn is_statement(file: &Path) -> Result<bool, CliError> {
    Ok(files::read_text(file)?.trim_start().starts_with('{'))
}

fn save_statement(statement: &Statement, file: &Path, existing: Existing) -> Result<(), CliError> {
    let mut text = serde_json::to_string_pretty(statement)
        .map_err(|error| CliError::Content { path: file.to_owned(), problem: error.to_string() })?;
    text.push('\n');
    files::write(file, text.as_bytes(), 0o644, existing)
}

fn from_an_archive(nonce: u64) -> String {
    format!(
        "ATTENTION: root nonce {nonce}, threshold and roots are what the archive says. No chain has proved them and nobody has signed them; \
         whoever made the archive may have chosen them. Compare the nonce with what you know: the number of times that the roots have \
         written. A statement with a nonce that is too high cannot be withdrawn"
    )
}

/// Compares what a statement says of the roots with the ledger; where its nodes do not answer, with the archive. Gives which.
async fn compare_roots(context: &Context, file: &Path, statement: &Statement) -> Result<&'static str, CliError> {
    let realm = context.realm()?;
    let answers = Ledger::new(&realm, Limits::default())?.heads().await;
    let (state, compared_with) = match answers {
        // Whoever keeps just the proof of the nonce back is not taken for a dead chain.
        Ok(_) => {
            let view = context.view().await?;
            (Sender::new(context, &view.realm)?.root_state(&view).await?, "ledger")
        }
        Err(error) if realm.links.archive.is_some() => {
            output::message(&format!("the realm's own chain does not answer: {error}"));
            (from_archive(context).await?.roots, "archive")
        }
        Err(error) => return Err(error.into()),
    };
    let refuse = |what: &str, found: &str, expected: &str| {
        let text = format!("{}: {what} {found}, the {compared_with} says {expected}", file.display());
        Err(CliError::Refused(text))
    };
    if statement.nonce != state.nonce {
        return refuse("has root nonce", &statement.nonce.to_string(), &state.nonce.to_string());
    }
    if statement.threshold != state.threshold {
        return refuse("has threshold", &statement.threshold.to_string(), &state.threshold.to_string());
    }
    if statement.roots != state.roots {
        let list = |roots: &[Address]| roots.iter().map(Address::to_string).collect::<Vec<_>>().join(" ");
        return refuse("has roots", &list(&statement.roots), &list(&state.roots));
    }
    Ok(compared_with)
}

/// Shows a statement and adds a root's signature. `made` makes it, or takes it from elsewhere, after what it is over is on the screen.
///
/// # Errors
/// See [`CliError`].
pub async fn sign_statement(
    context: &Context,
    file: PathBuf,
    offline: bool,
    made: impl FnOnce(&B256) -> Result<(Address, Bytes), CliError>,
) -> Result<(), CliError> {
    let realm = context.realm()?;
    let mut statement = history::statement(&file).map_err(|error| CliError::View(error.into()))?;
    if statement.source != realm.pin.realm {
        let text = format!("{}: is about realm {}, expected {}", file.display(), statement.source, realm.pin.realm);
        return Err(CliError::Refused(text));
    }
    if statement.nonce > sign::MOST_NONCES {
        let text = format!("{}: has root nonce {}, which could not be withdrawn", file.display(), statement.nonce);
        return Err(CliError::Refused(text));
    }
    let compared_with = if offline { "nothing" } else { compare_roots(context, &file, &statement).await? };
    let says = crate::decode::one_line(&Entry::Migrate(statement.migrate()));
    output::message(&format!("to sign: the realm goes on elsewhere, whatever its own chain says: {says}"));
    output::message(&format!(
        "by {} of these roots, with root nonce {}: they withdraw it by writing something else before it is used",
        statement.threshold, statement.nonce
    ));
    statement.roots.iter().for_each(|root| output::message(&format!("  {root}")));
    match compared_with {
        "ledger" => {}
        "archive" => output::message(&from_an_archive(statement.nonce)),
        _ => output::message(
            "ATTENTION: offline: nobody has compared nonce, threshold and roots with anything. A statement with a nonce that is too high \
             cannot be withdrawn",
        ),
    }
    let digest = statement.digest(realm.pin.chain_id, realm.pin.contract);
    output::message(&format!("digest {digest}"));
    let (signer, signature) = made(&digest)?;
    let refuse = |problem: String| Err(CliError::Refused(format!("{}: {problem}", file.display())));
    let Some(index) = statement.roots.iter().position(|root| *root == signer) else {
        return refuse(format!("{signer} is not one of its roots"));
    };
    let index = u8::try_from(index).map_err(|_| CliError::Refused("more roots than a realm has".to_owned()))?;
    if statement.signatures.iter().any(|signed| signed.root == index) {
        return refuse(format!("{signer} has signed already"));
    }
    if let Err(error) = verify(signer, &digest, &signature) {
        return refuse(format!("the signature of {signer}: {error}"));
    }
    statement.signatures.push(RootSignature { root: index, signature });
    save_statement(&statement, &file, Existing::Replace)?;
    let by = |signed: &RootSignature| statement.roots.get(usize::from(signed.root)).copied();
    context.printer.result(&StatementShown {
        outcome: "signed",
        writes: vec![says],
        nonce: statement.nonce,
        roots: statement.roots.clone(),
        compared_with,
        signed: statement.signatures.iter().filter_map(by).collect(),
        threshold: statement.threshold,
        file,
    })
}

/// Writes or checks an archive.
///
/// # Errors
/// See [`CliError`].
pub async fn archive(context: &Context, args: ArchiveArgs) -> Result<(), CliError> {
    let realm = context.realm()?;
    if args.check {
        let contents = archive::check(&args.file, &realm.pin)?;
        return context.printer.result(&Archived::new("checked", args.file, &contents));
    }
    let view = context.view().await?;
    let _progress = context.printer.progress("reading and proving the ledger");
    let mut ledger = Ledger::new(&realm, Limits::default())?;
    let heads = ledger.heads().await?;
    let back = view.effective.settings.max_ttl.saturating_add(shard::DAY_SECS);
    let back = back.max(args.days.saturating_mul(shard::DAY_SECS));
    let reading = ledger.read(&Cursor::default(), &heads, &shards(heads.latest.time, back)).await?;
    // Where finality lags further than nodes prove, the latest one tells the nonce too.
    let root_set = match proofs::root_set(ledger.endpoints(), &realm.pin, &reading.final_header).await {
        Ok(root_set) => root_set,
        Err(_) => proofs::root_set(ledger.endpoints(), &realm.pin, &heads.latest).await?,
    };
    let contents = archive::write(&args.file, &realm.pin, &reading.final_header, root_set, reading.final_entries)?;
    context.printer.result(&Archived::new("archived", args.file, &contents))
}

/// A realm of the history, as `verify` and `status` tell it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LeftRow {
    /// Its place in the history, from 0.
    pub leg: usize,
    /// Its id.
    pub realm: B256,
    /// Entries of it that count, up to where it was left.
    pub entries: usize,
    /// Why it could not be asked what it denies since.
    pub silent: Option<String>,
}

impl LeftRow {
    /// The realms that a view's realm continues, the first first.
    pub fn all(view: &crate::context::View) -> Vec<Self> {
        let last = view.effective.legs.len().saturating_sub(1);
        let of = |leg: usize| {
            let is_of =
                |placed: &&PlacedEntry| migration::leg_of(placed.at.block) == u64::try_from(leg).unwrap_or(u64::MAX);
            view.before.entries.iter().filter(is_of).count()
        };
        let silent = |realm| view.before.silent.iter().find(|(silent, _)| *silent == realm).map(|(_, why)| why.clone());
        let legs = view.effective.legs.iter().take(last).enumerate();
        legs.map(|(leg, place)| Self { leg, realm: place.realm, entries: of(leg), silent: silent(place.realm) })
            .collect()
    }

    /// One line of text.
    pub fn text(&self) -> String {
        let silent =
            self.silent.as_ref().map(|why| format!("; not asked what it denies since: {why}")).unwrap_or_default();
        format!("{} ({} entries{silent})", self.realm, self.entries)
    }
}
